//! What workers and their master say to each other, and how it is written.
//!
//! | byte | content |
//! |---|---|
//! | 0 | version of the protocol, 1 |
//! | 1..n | the message in the [format of the crate postcard](https://postcard.jamesmunns.com/wire-format) |
//! | n.. | the value of a named object, if there is one in the message: all that follows |
//!
//! That format has no names and no nesting of its own, and is read and written in a tenth of a microsecond: what both
//! sides say are types of one program. Descriptors in a message travel beside its bytes. The values of users in it (arguments, results, messages) are bytes, in CBOR. Those of
//! named objects come last, so that a large one is sent from where it lies, and stays in the memory that it arrives in.
//!
//! The transport limits the size of a message before it is read; here the depth of nesting of users' values is limited,
//! and strings and arrays are read as they come, whatever length they announce.
//!
//! | file | concern |
//! |---|---|
//! | `mod` | what workers and their master say, and values as bytes |
//! | `ends` | how workers have ended, kept in little memory |
//! | `named` | what they say of named objects |
//! | `facts` | what there is to know of a run |
//! | `visit` | what visitors of a running master and it say, in CBOR, as they may be another program |
//!
//! This module gives no meaning to the messages: `worker` and `master` do.

mod ends;
pub(crate) mod facts;
pub(crate) mod named;
pub(crate) mod visit;

use std::borrow::Cow;
use std::io;
use std::mem;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use manycore_backends::transport::{BoxError, Message};
use postcard::ser_flavors::Flavor;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

pub(crate) use self::ends::Ends;
use self::named::{Answer, Bytes, Call, Told, value_of_answer, value_of_operation};
use crate::resource::{Resource, ResourceError};
use crate::worker::{Level, Outcome};

/// The version of the protocol.
pub(crate) const VERSION: u8 = 1;

/// Room that a message needs beside the argument or result in it, in bytes: names, and texts of errors.
pub(crate) const ENVELOPE: usize = 64 << 10;

/// How deep values may be nested.
const DEPTH_MAX: usize = 128;

/// So few bytes are read with a buffer of as many, instead of one of 4 KiB that is cleared first. Nor can they be nested
/// deeper than that, since each level has a byte.
const SHORT: usize = DEPTH_MAX;

/// From a worker to the master.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Start the worker of this definition, and give it descriptors; answered by `Started` or `Refused`.
    Start {
        name: String,
        group: Option<String>,
        argument: ByteBuf,
        #[serde(skip)]
        given: Given,
    },
    /// Say when this worker has ended; answered by `Ended` then, or by `Unknown` at once. If the sender waits
    /// for nothing else until then, `Deadlock` may be the answer.
    Watch { id: u64, blocking: bool },
    /// The sender knows that it should stop, and does not wait for what it waited for before; not answered.
    HeardStop,
    /// Say whether this worker has ended; answered by `Ended`, `Running` or `Unknown` at once.
    Ask { id: u64 },
    /// The result of this worker is not needed any more; not answered.
    Forget { id: u64 },
    /// Have workers end; answered by `Terminating`.
    Terminate { whom: Whom, grace: Duration },
    /// Send this worker a signal; answered by `Terminating`.
    Signal { id: u64, signal: i32 },
    /// The sender asks from time to time whether it should stop, and wants to be told by `Stop` instead of being
    /// ended at once; not answered.
    Listen,
    /// Remove this object at the end of the run; answered by `Registered`.
    Register { resource: Resource },
    /// Remove this object now, if `remove`, and not at the end of the run any more; answered by `Registered`.
    Release { resource: Resource, remove: bool },
    /// Write this line into the run's log; not answered.
    Log { level: Level, text: String },
    /// Something about a named object; answered by `Named`.
    Named(Call),
    /// Something about named objects; not answered.
    Told(Told),
    /// The sender's body has returned; not answered.
    Finished { outcome: Outcome },
    /// Some tasks of a pool are done; not answered.
    Done(Done),
    /// Say of each of these workers when it has ended, as for `Watch`: the sender waits for other things, too.
    WatchAll { ids: Vec<u64> },
}

/// Which workers are meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Whom {
    One(u64),
    /// All that were started in this group.
    Group(String),
    /// All but the sender.
    Others,
}

/// What a member of a pool has done of a batch of tasks.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Done {
    pub(crate) batch: u64,
    /// How many results there are.
    pub(crate) count: u32,
    /// The results, in [parts](push_part).
    pub(crate) results: ByteBuf,
    /// How the task after these went wrong. Those that follow it in the batch were not begun.
    pub(crate) failure: Option<Outcome>,
    /// Whether the batch is over.
    pub(crate) last: bool,
    /// How long that took, in nanoseconds.
    pub(crate) busy: u64,
}

/// From the master to a worker.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// The first message: who you are, and what to do.
    Begin {
        worker: Identity,
        argument: ByteBuf,
        #[serde(skip)]
        given: Given,
    },
    /// The first message to a member of a pool: who you are; what to do comes in batches, until the end of file.
    Serve {
        worker: Identity,
    },
    /// Tasks for a member of a pool: their arguments, in [parts](push_part).
    Tasks {
        batch: u64,
        count: u32,
        arguments: ByteBuf,
    },
    Started {
        id: u64,
    },
    Refused {
        refusal: Refusal,
    },
    Ended {
        ended: Arc<Ended>,
    },
    Running {
        id: u64,
    },
    Unknown {
        id: u64,
    },
    /// That worker waits for the receiver, directly or through others.
    Deadlock {
        id: u64,
    },
    /// So many workers were there to be told.
    Terminating {
        count: u64,
    },
    /// The receiver should stop.
    Stop,
    /// Nothing but that there is something: for a receiver that sleeps and was sent a signal, which wakes no thread.
    Wake,
    /// An object is registered or released, or why not.
    Registered {
        error: Option<ResourceError>,
    },
    /// The answer to the call with this number.
    Named {
        number: u64,
        answer: Answer,
    },
    /// What is watched by this number need not be waited for.
    Ready {
        watch: u64,
    },
}

/// Who a worker is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) id: u64,
    pub(crate) name: String,
    /// A text that no other run has.
    pub(crate) run: String,
    /// The largest argument or result, in bytes.
    pub(crate) message_limit: usize,
}

/// Why a worker was not started.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Refusal {
    /// No definition has this name.
    Undefined { known: Vec<String> },
    /// The first worker has ended.
    ShuttingDown,
    /// As many workers run as may.
    TooMany { limit: usize },
    /// The system refused.
    Spawn { message: String, errno: Option<i32> },
}

/// A worker's end.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Ended {
    pub(crate) id: u64,
    pub(crate) name: Cow<'static, str>,
    pub(crate) process: u32,
    pub(crate) outcome: Outcome,
}

/// What a worker says to its master. Opaque: it is public because the types of links name it.
#[derive(Debug)]
pub struct ToMaster(pub(crate) Request);

/// What the master says to a worker. Opaque: it is public because the types of links name it.
#[derive(Debug)]
pub struct ToWorker(pub(crate) Reply);

/// Descriptors that are in a message: they travel beside its bytes, unless they are lost on the way.
#[derive(Debug)]
pub(crate) struct Given(pub(crate) io::Result<Vec<OwnedFd>>);

impl Default for Given {
    fn default() -> Given {
        Given(Ok(Vec::new()))
    }
}

/// What may be in a message that postcard does not write.
trait Beside {
    /// The value that comes last.
    fn value(&self) -> Option<&Bytes>;
    fn value_mut(&mut self) -> Option<&mut Bytes>;
    /// The descriptors.
    fn given(&mut self) -> Option<&mut Given>;
}

impl Beside for Request {
    fn value(&self) -> Option<&Bytes> {
        if let Request::Named(call) = self { value_of_operation!(&call.operation) } else { None }
    }

    fn value_mut(&mut self) -> Option<&mut Bytes> {
        if let Request::Named(call) = self { value_of_operation!(&mut call.operation) } else { None }
    }

    fn given(&mut self) -> Option<&mut Given> {
        if let Request::Start { given, .. } = self { Some(given) } else { None }
    }
}

impl Beside for Reply {
    fn value(&self) -> Option<&Bytes> {
        if let Reply::Named { answer, .. } = self { value_of_answer!(answer) } else { None }
    }

    fn value_mut(&mut self) -> Option<&mut Bytes> {
        if let Reply::Named { answer, .. } = self { value_of_answer!(answer) } else { None }
    }

    fn given(&mut self) -> Option<&mut Given> {
        if let Reply::Begin { given, .. } = self { Some(given) } else { None }
    }
}

macro_rules! message {
    ($($message:ident)*) => {$(
        impl Message for $message {
            fn encode(&self, out: &mut Vec<u8>) -> Result<(), BoxError> {
                self.encode_head(out)?;
                out.extend_from_slice(self.as_bytes().unwrap_or_default());
                Ok(())
            }

            fn decode(bytes: &[u8]) -> Result<Self, BoxError> {
                decode_message(Cow::Borrowed(bytes)).map($message)
            }

            fn as_bytes(&self) -> Option<&[u8]> {
                self.0.value().map(|value| &**value)
            }

            fn encode_head(&self, out: &mut Vec<u8>) -> Result<(), BoxError> {
                out.push(VERSION);
                Ok(postcard::serialize_with_flavor(&self.0, Behind(out))?)
            }

            fn decode_owned(bytes: Vec<u8>) -> Result<Self, BoxError> {
                decode_message(Cow::Owned(bytes)).map($message)
            }

            fn detach(&mut self) -> Vec<OwnedFd> {
                self.0.given().and_then(|given| mem::take(given).0.ok()).unwrap_or_default()
            }

            fn attach(&mut self, descriptors: io::Result<Vec<OwnedFd>>) {
                if let Some(given) = self.0.given() {
                    given.0 = descriptors;
                }
            }
        }
    )*};
}

message!(ToMaster ToWorker);

/// Has postcard write behind what is there; byte by byte, which std's `Write` makes a slice of each time.
struct Behind<'a>(&'a mut Vec<u8>);

impl Flavor for Behind<'_> {
    type Output = ();

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// A message of another version of the protocol.
#[derive(Debug, thiserror::Error)]
#[error("version {version} of the protocol, where {VERSION} is spoken here")]
pub(crate) struct OtherVersion {
    pub(crate) version: u8,
}

fn decode_message<T: DeserializeOwned + Beside>(bytes: Cow<'_, [u8]>) -> Result<T, BoxError> {
    let (mut message, rest) = postcard::take_from_bytes::<T>(check_version(&bytes)?)?;
    let left = rest.len();
    match message.value_mut() {
        Some(value) => *value = Bytes::end_of(bytes, left),
        None if left > 0 => return Err(format!("{left} bytes are left over").into()),
        None => {}
    }
    Ok(message)
}

/// A message in CBOR, in which it says what it is made of: for those who may be another program.
fn encode_for_others(message: &impl Serialize, out: &mut Vec<u8>) -> Result<(), BoxError> {
    out.push(VERSION);
    Ok(append(message, out)?)
}

fn decode_of_others<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, BoxError> {
    Ok(from_bytes(check_version(bytes)?)?)
}

/// What follows the version, if that is ours.
fn check_version(bytes: &[u8]) -> Result<&[u8], BoxError> {
    match bytes.split_first() {
        Some((&VERSION, rest)) => Ok(rest),
        Some((version, _)) => Err(OtherVersion { version: *version }.into()),
        None => Err("an empty message".into()),
    }
}

/// Appends a value as CBOR. After an error there may be a part of it.
pub(crate) fn append(value: &impl Serialize, bytes: &mut Vec<u8>) -> Result<(), String> {
    ciborium::into_writer(value, bytes).map_err(|error| match error {
        ciborium::ser::Error::Value(message) => message,
        ciborium::ser::Error::Io(error) => error.to_string(),
    })
}

/// A value from CBOR, all of it.
pub(crate) fn from_bytes<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let mut rest = bytes;
    let value = if bytes.len() <= SHORT {
        ciborium::de::from_reader_with_buffer(&mut rest, &mut [0; SHORT])
    } else {
        ciborium::de::from_reader_with_recursion_limit(&mut rest, DEPTH_MAX)
    };
    let value = value.map_err(|error: ciborium::de::Error<io::Error>| match error {
        ciborium::de::Error::Semantic(_, message) => message,
        ciborium::de::Error::RecursionLimitExceeded => format!("nested deeper than {DEPTH_MAX}"),
        ciborium::de::Error::Syntax(at) => format!("no CBOR at byte {at}"),
        ciborium::de::Error::Io(_) => "it ends too early".to_owned(),
    })?;
    if rest.is_empty() { Ok(value) } else { Err(format!("{} bytes are left over", rest.len())) }
}

/// Bytes before each part that say how long it is, a `u32` in little-endian order: so a value that cannot be read does not
/// hide those behind it.
const PART_HEAD: usize = 4;

/// Appends what `write` appends as a part. Returns how many bytes that are; after an error, or if they are more than `limit`
/// (which is less than 2^32), nothing is appended.
pub(crate) fn push_part<E>(
    bytes: &mut Vec<u8>,
    limit: usize,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
) -> Result<usize, E> {
    let before = bytes.len();
    bytes.extend_from_slice(&[0; PART_HEAD]);
    let start = bytes.len();
    let result = write(bytes);
    // Nothing stops `write` from making it shorter.
    let size = bytes.len().saturating_sub(start);
    match (result, u32::try_from(size)) {
        (Ok(()), Ok(length)) if size <= limit => {
            bytes[before..start].copy_from_slice(&length.to_le_bytes());
            Ok(size)
        }
        (result, _) => {
            bytes.truncate(before);
            result.map(|()| size)
        }
    }
}

/// The next part of `bytes`, which begins behind it then; `None` if there is no whole one.
pub(crate) fn take_part<'bytes>(bytes: &mut &'bytes [u8]) -> Option<&'bytes [u8]> {
    let (head, rest) = bytes.split_at_checked(PART_HEAD)?;
    let length = u32::from_le_bytes(head.try_into().ok()?);
    let (part, rest) = rest.split_at_checked(length as usize)?;
    *bytes = rest;
    Some(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_back() {
        let mut bytes = Vec::new();
        let start = Request::Start {
            name: "count".into(),
            group: None,
            argument: ByteBuf::from(vec![1; 1000]),
            given: Given::default(),
        };
        ToMaster(start).encode(&mut bytes).unwrap();
        assert!(bytes.len() < 1100, "bytes travel as bytes");
        match ToMaster::decode(&bytes).unwrap().0 {
            Request::Start { name, argument, .. } => {
                assert_eq!((name.as_str(), argument.len()), ("count", 1000))
            }
            other => panic!("{other:?}"),
        }
    }

    /// A call that sets a variable.
    fn set(value: &[u8]) -> ToMaster {
        let action = named::OfVariable::Set { value: Bytes::from(value.to_vec()), expected: Some(300) };
        let operation = named::Operation::Variable { name: "block".into(), kind: 1 << 60, action };
        ToMaster(Request::Named(Call { number: 7, wait: named::Wait::No, operation }))
    }

    #[test]
    fn values_come_last_and_are_not_copied() {
        for length in [0, 1, 70_000] {
            let sent = vec![5; length];
            let mut bytes = Vec::new();
            set(&sent).encode(&mut bytes).unwrap();
            let mut head = Vec::new();
            set(&sent).encode_head(&mut head).unwrap();
            assert!(bytes == [&head[..], &sent].concat());
            assert_eq!(set(&sent).as_bytes(), Some(&sent[..]));

            let memory = bytes.as_ptr_range();
            let copied = ToMaster::decode(&bytes).unwrap();
            assert_eq!(copied.as_bytes(), Some(&sent[..]));
            let kept = ToMaster::decode_owned(bytes).unwrap();
            assert_eq!(kept.as_bytes(), Some(&sent[..]));
            assert_eq!(kept.as_bytes().map(|kept| kept.as_ptr_range().end), Some(memory.end));
        }
        let answer = Answer::Value { version: 3, value: Bytes::from(vec![1, 2, 3]) };
        let mut bytes = Vec::new();
        ToWorker(Reply::Named { number: 7, answer: answer.clone() }).encode(&mut bytes).unwrap();
        match ToWorker::decode(&bytes).unwrap().0 {
            Reply::Named { number: 7, answer: received } => assert_eq!(received, answer),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let mut bytes = Vec::new();
        ToMaster(Request::Watch { id: 7, blocking: false }).encode(&mut bytes).unwrap();
        for cut in 0..bytes.len() {
            assert!(ToMaster::decode(&bytes[..cut]).is_err());
        }
        bytes.push(0);
        assert!(ToMaster::decode(&bytes).unwrap_err().to_string().contains("left over"));
        bytes[0] = 2;
        assert!(ToMaster::decode(&bytes).unwrap_err().to_string().contains("version 2"));
        assert!(ToWorker::decode(&[1, 0xFF]).is_err());
        assert!(ToWorker::decode(&[]).is_err());
    }

    #[test]
    fn depth_and_announced_lengths_do_no_harm() {
        assert!(from_bytes::<Vec<()>>(&vec![0x81; 100_000]).is_err());
        // A byte string, a text, an array and a map of 2^60 elements each.
        for major in [0x5B, 0x7B, 0x9B, 0xBB] {
            let announced = [major, 0x10, 0, 0, 0, 0, 0, 0, 0];
            assert!(from_bytes::<Vec<u64>>(&announced).is_err());
            assert!(from_bytes::<String>(&announced).is_err());
            assert!(from_bytes::<ByteBuf>(&announced).is_err());
        }
        // The same number as messages write it, as the length of whatever comes first in each of them.
        let huge = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10];
        for variant in 0..=255 {
            let bytes = [&[VERSION, variant], &huge[..]].concat();
            // Numbers may be so high.
            let _ = (ToMaster::decode(&bytes), ToWorker::decode(&bytes));
        }
        assert!(ToMaster::decode(&[&[VERSION, 0], &huge[..]].concat()).is_err(), "a name");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_a_message_or_none(variant: u8, bytes: Vec<u8>) {
            let bytes = [&[VERSION, variant % 24], &bytes[..]].concat();
            let _ = (ToMaster::decode(&bytes), ToWorker::decode(&bytes));
        }
    }
}
