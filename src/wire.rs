//! What workers and their master say to each other, and how it is written.
//!
//! | byte | content |
//! |---|---|
//! | 0 | version of the protocol, 1 |
//! | 1.. | the message in CBOR |
//!
//! The transport limits the size of a message before it is read; here the depth of nesting is limited, and
//! strings and arrays are read as they come, whatever length they announce.
//!
//! This module gives no meaning to the messages: `worker` and `master` do.

use std::io;
use std::sync::Arc;

use manycore_backends::transport::{BoxError, Message};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::worker::Outcome;

/// The version of the protocol.
const VERSION: u8 = 1;

/// Room that a message needs beside the argument or result in it, in bytes: names, and texts of errors.
pub(crate) const ENVELOPE: usize = 64 << 10;

/// How deep values may be nested.
const DEPTH_MAX: usize = 128;

/// From a worker to the master.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Start the worker of this definition; answered by `Started` or `Refused`.
    Start { name: String, argument: ByteBuf },
    /// Say when this worker has ended; answered by `Ended` then, or by `Unknown` at once. If the sender waits
    /// for nothing else until then, `Deadlock` may be the answer.
    Watch { id: u64, blocking: bool },
    /// Say whether this worker has ended; answered by `Ended`, `Running` or `Unknown` at once.
    Ask { id: u64 },
    /// The sender's body has returned; not answered.
    Finished { outcome: Outcome },
}

/// From the master to a worker.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// The first message: who you are, and what to do.
    Begin {
        id: u64,
        name: String,
        argument: ByteBuf,
        message_limit: usize,
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
}

/// Why a worker was not started.
#[derive(Debug, Serialize, Deserialize)]
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
    pub(crate) name: String,
    pub(crate) process: u32,
    pub(crate) outcome: Outcome,
}

/// What a worker says to its master. Opaque: it is public because the types of links name it.
#[derive(Debug)]
pub struct ToMaster(pub(crate) Request);

/// What the master says to a worker. Opaque: it is public because the types of links name it.
#[derive(Debug)]
pub struct ToWorker(pub(crate) Reply);

impl Message for ToMaster {
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), BoxError> {
        encode_message(&self.0, out)
    }

    fn decode(bytes: &[u8]) -> Result<Self, BoxError> {
        decode_message(bytes).map(ToMaster)
    }
}

impl Message for ToWorker {
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), BoxError> {
        encode_message(&self.0, out)
    }

    fn decode(bytes: &[u8]) -> Result<Self, BoxError> {
        decode_message(bytes).map(ToWorker)
    }
}

fn encode_message(message: &impl Serialize, out: &mut Vec<u8>) -> Result<(), BoxError> {
    out.push(VERSION);
    Ok(ciborium::into_writer(message, out)?)
}

fn decode_message<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, BoxError> {
    match bytes.split_first() {
        Some((&VERSION, rest)) => Ok(from_bytes(rest)?),
        Some((version, _)) => {
            Err(format!("version {version} of the protocol, where {VERSION} is spoken here").into())
        }
        None => Err("an empty message".into()),
    }
}

/// A value as CBOR.
pub(crate) fn to_bytes(value: &impl Serialize) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).map_err(|error| match error {
        ciborium::ser::Error::Value(message) => message,
        ciborium::ser::Error::Io(error) => error.to_string(),
    })?;
    Ok(bytes)
}

/// A value from CBOR, all of it.
pub(crate) fn from_bytes<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let mut rest = bytes;
    let value = ciborium::de::from_reader_with_recursion_limit(&mut rest, DEPTH_MAX).map_err(
        |error: ciborium::de::Error<io::Error>| match error {
            ciborium::de::Error::Semantic(_, message) => message,
            ciborium::de::Error::RecursionLimitExceeded => format!("nested deeper than {DEPTH_MAX}"),
            ciborium::de::Error::Syntax(at) => format!("no CBOR at byte {at}"),
            ciborium::de::Error::Io(_) => "it ends too early".to_owned(),
        },
    )?;
    if rest.is_empty() { Ok(value) } else { Err(format!("{} bytes are left over", rest.len())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_back() {
        let mut bytes = Vec::new();
        let start = Request::Start { name: "count".into(), argument: ByteBuf::from(vec![1; 1000]) };
        ToMaster(start).encode(&mut bytes).unwrap();
        assert!(bytes.len() < 1100, "bytes travel as bytes");
        match ToMaster::decode(&bytes).unwrap().0 {
            Request::Start { name, argument } => assert_eq!((name.as_str(), argument.len()), ("count", 1000)),
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
    }

    #[test]
    fn depth_and_announced_lengths_do_no_harm() {
        let deep = [vec![VERSION], vec![0x81; 100_000]].concat();
        assert!(ToMaster::decode(&deep).is_err());
        // A byte string, a text, an array and a map of 2^60 elements each.
        for major in [0x5B, 0x7B, 0x9B, 0xBB] {
            let announced = [VERSION, major, 0x10, 0, 0, 0, 0, 0, 0, 0];
            assert!(ToMaster::decode(&announced).is_err());
            let announced = &announced[1..];
            assert!(from_bytes::<Vec<u64>>(announced).is_err());
            assert!(from_bytes::<String>(announced).is_err());
            assert!(from_bytes::<ByteBuf>(announced).is_err());
        }
    }
}
