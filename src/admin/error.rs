//! [`AdminError`]: why a run could not be looked at, directed or cleaned up.
//!
//! This module meets nothing itself: it has the words for what visitors meet.

use std::path::PathBuf;
use std::time::Duration;

use manycore_backends::transport::TransportError;

use crate::master::DirectoryError;

/// Why a run could not be looked at, directed or cleaned up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {
    /// No master lives in the directory.
    #[error("no master runs in {}", directory.display())]
    NotRunning {
        /// The directory.
        directory: PathBuf,
    },
    /// The master is another user's.
    #[error("the master in {} is another user's: {source}", directory.display())]
    NotAllowed {
        /// The directory.
        directory: PathBuf,
        /// Who says so.
        #[source]
        source: TransportError,
    },
    /// The master does not answer: its process is stopped, or it is at the end of its run or between two maps of a pool,
    /// where it listens to nobody.
    #[error(
        "the master in {} has not answered within {timeout:?}: it is stopped, or at the end of its run, or between two maps of a pool",
        directory.display()
    )]
    TimedOut {
        /// The directory.
        directory: PathBuf,
        /// How long it had.
        timeout: Duration,
    },
    /// The master has ended, or hung up: it talks to 16 visitors at most, and hangs up on who was quiet for longest.
    #[error("the master in {} has ended, or has hung up", directory.display())]
    Closed {
        /// The directory.
        directory: PathBuf,
    },
    /// The master speaks another version of the protocol: use the command of its version of the library.
    #[error(
        "the master in {} speaks version {theirs} of the protocol, and this program version {ours}",
        directory.display()
    )]
    Version {
        /// The directory.
        directory: PathBuf,
        /// The master's version.
        theirs: u8,
        /// This library's.
        ours: u8,
    },
    /// The run has no such worker, or not any more.
    #[error("no worker {number} runs")]
    NoSuchWorker {
        /// Its number.
        number: u64,
    },
    /// A run is to be cleaned up, and is alive.
    #[error("a master runs in {}: only what dead ones have left is removed", directory.display())]
    Running {
        /// The directory.
        directory: PathBuf,
    },
    /// No run has used this directory, or it was cleaned up.
    #[error("no run has left anything in {}", directory.display())]
    NothingThere {
        /// The directory.
        directory: PathBuf,
    },
    /// The directory of a dead run cannot be used.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The conversation failed.
    #[error("cannot talk to the master in {}: {source}", directory.display())]
    Transport {
        /// The directory.
        directory: PathBuf,
        /// Why, with the errno.
        #[source]
        source: TransportError,
    },
}
