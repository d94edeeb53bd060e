//! What there is to know of a run: as the master tells it, and as programs get it.
//!
//! Everything here was so when the master said it. Names that are very long are cut.
//!
//! This module asks nobody.

use std::fmt;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::worker::Level;

/// A run as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RunInfo {
    /// A text that no other run has: [`Context::run`](crate::Context::run).
    pub name: String,
    /// The number of the master's process.
    pub master: u32,
    /// Whether workers are processes; else they are threads of the master.
    pub processes: bool,
    /// When it began; as nanoseconds since 1970 where it is written.
    #[serde(with = "nanoseconds")]
    pub started: SystemTime,
    /// How many workers run.
    pub running: u64,
    /// How many have ended.
    pub ended: u64,
    /// Whether no more workers are started, because the run comes to its end.
    pub ending: bool,
}

/// A worker that has begun and has not ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct WorkerInfo {
    /// Its number in the run.
    pub number: u64,
    /// The name of its definition.
    pub name: String,
    /// The group that it was started in.
    pub group: Option<String>,
    /// The number of its process. A worker that is a thread is in the master's.
    pub process: u32,
    /// Whether it is a thread of the master's process.
    pub thread: bool,
    /// Whether it is a member of a pool.
    pub member: bool,
    /// Whether it is to end.
    pub state: State,
    /// What it waits for and nothing else, if the master knows.
    pub waits_for: Option<Wait>,
    /// When it began; as nanoseconds since 1970 where it is written.
    #[serde(with = "nanoseconds")]
    pub started: SystemTime,
}

/// How far a worker is on its way to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum State {
    /// It is not on its way.
    Running,
    /// It was asked to end, or is killed when its grace time is over.
    Stopping,
    /// It was killed, and is not gone yet.
    Killed,
}

/// What a worker waits for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Wait {
    /// The end of the worker with this number.
    Worker(u64),
    /// Something about a [named object](crate::named), such as a lock or a message.
    #[non_exhaustive]
    Object {
        /// What it is: `mutex`, for one.
        kind: String,
        /// Its name.
        name: String,
    },
}

/// A line of a run's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LogLine {
    /// Its number, from 0 on. Where some are missing, they were not kept so long.
    pub number: u64,
    /// When the master wrote it; as nanoseconds since 1970 where it is written.
    #[serde(with = "nanoseconds")]
    pub time: SystemTime,
    /// How important it is.
    pub level: Level,
    /// The number of the worker that it concerns or comes from.
    pub worker: Option<u64>,
    /// What it says; at most 4 KiB.
    pub text: String,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            State::Running => "running",
            State::Stopping => "stopping",
            State::Killed => "killed",
        })
    }
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wait::Worker(number) => write!(f, "worker {number}"),
            Wait::Object { kind, name } => write!(f, "{kind} `{name}`"),
        }
    }
}

/// Times as nanoseconds since 1970, which suffice until the year 2554.
mod nanoseconds {
    use std::time::{Duration, SystemTime};

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        serializer.serialize_u64(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
        // Every system can say a time that has so few nanoseconds.
        u64::deserialize(deserializer).map(|since| SystemTime::UNIX_EPOCH + Duration::from_nanos(since))
    }
}
