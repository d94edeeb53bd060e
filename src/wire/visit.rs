//! What visitors of a running master and it say to each other, over the socket in the run's directory: the version of the
//! [protocol](super), and the message in CBOR.
//!
//! A question has one answer, and they come in order; what is long is asked for page by page. After [`Question::Follow`]
//! answers come without being asked for.
//!
//! This module gives no meaning to the messages: `master` answers, `admin` asks.

use std::time::Duration;

use manycore_backends::transport::{BoxError, Message};
use serde::{Deserialize, Serialize};

use super::facts::{LogLine, RunInfo, WorkerInfo};
use super::named::ObjectInfo;
use super::{decode_of_others, encode_for_others};

/// The largest question or answer, in bytes.
pub(crate) const MESSAGE_MAX: usize = 64 << 10;

/// From a visitor to the master.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Question {
    /// What run is this? Answered by `Run`.
    Run,
    /// Which workers run, from this number on? Answered by `Workers`.
    Workers { from: u64 },
    /// What is in the log? Answered by `Log`.
    Log { from: LogFrom },
    /// The same, and from then on also what comes; answered by `Log` at once, and again and again.
    Follow { from: LogFrom },
    /// Which named objects are there? Answered by `Objects`.
    Objects,
    /// And what more, of those that were there then? Answered by `Objects`.
    MoreObjects,
    /// Have a worker end, or all of them and the run, in the grace time, or in that of the run; answered by `Terminating`.
    Terminate { worker: Option<u64>, grace: Option<Duration> },
}

/// Where in the log.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum LogFrom {
    /// With the line of this number, or the first one behind it that is there.
    Line(u64),
    /// With so many lines that are there at most.
    Last(u64),
}

/// From the master to a visitor.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    Run(RunInfo),
    /// Some workers in the order of their numbers, and from where on there are more.
    Workers {
        workers: Vec<WorkerInfo>,
        more: Option<u64>,
    },
    /// Some lines, and the number that the next one to be written will have.
    Log {
        lines: Vec<LogLine>,
        end: u64,
    },
    /// Some objects by kind and name, and whether there are more.
    Objects {
        objects: Vec<ObjectInfo>,
        more: bool,
    },
    /// So many workers were there to be told.
    Terminating {
        count: u64,
    },
    /// The question was none.
    NotUnderstood {
        message: String,
    },
}

impl Message for Question {
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), BoxError> {
        encode_for_others(self, out)
    }

    fn decode(bytes: &[u8]) -> Result<Self, BoxError> {
        decode_of_others(bytes)
    }
}

impl Message for Answer {
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), BoxError> {
        encode_for_others(self, out)
    }

    fn decode(bytes: &[u8]) -> Result<Self, BoxError> {
        decode_of_others(bytes)
    }
}
