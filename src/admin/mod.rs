//! Looking at runs from outside, and directing them: what the command `manycore` does, for programs.
//!
//! | file | concern |
//! |---|---|
//! | `mod` | finding runs, and cleaning up after dead ones |
//! | `visitor` | [`Visitor`]: a conversation with a master |
//! | `error` | why it cannot be known |
//!
//! A master listens in the directory of its run while it supervises. Only processes of the same user, and of the
//! superuser, can talk to it: others cannot enter the directory, and are turned away by the kernel's word for who they are.
//! No visitor holds a master up: it answers when it has nothing better to do, never waits for who does not read, and hangs up
//! on who talks nonsense of too many bytes. It talks to 16 visitors at once; a further one takes the place of the one that
//! was quiet for longest.
//!
//! ```
//! use manycore::{Failure, Runtime, Worker, admin};
//!
//! const LOOKS: Worker<std::path::PathBuf, Vec<String>> = Worker::fallible("looks", |_, directory| {
//!     let mut visitor = admin::Run::at(directory).connect()?;
//!     Ok(visitor.workers()?.into_iter().map(|worker| worker.name).collect())
//! });
//!
//! let directory = std::env::temp_dir().join(format!("looks-{}", std::process::id()));
//! let names = Runtime::new().directory(&directory).run(&LOOKS, directory)?;
//! assert_eq!(names, ["looks"]);
//! # Ok::<(), manycore::RunError>(())
//! ```
//!
//! # Where everything of netplex-admin is
//!
//! For those who come from OCamlnet: its options, our commands, and what is here.
//!
//! | there | here |
//! |---|---|
//! | `-sockdir` | `--directory`; [`Run::at`]. Without it, all runs of the user: [`runs`] |
//! | `-conf` | left out, because there are no configuration files |
//! | `-list`, `-containers` | `ps`, `top`; [`Visitor::workers`] |
//! | `-shutdown` | `stop all`, `kill all`; [`Visitor::stop_all`], [`Visitor::kill_all`] |
//! | `-unlink` | `clean`; [`clean`] |
//! | `-enable`, `-disable`, `-restart`, `-restart-all` | left out, because there are no services: workers are started by workers |
//! | `-reopen-logfiles` | left out, because the log is in the master's memory: `log`; [`Visitor::log`] |
//! | `-receiver`, messages | left out, because programs have [mailboxes](crate::Mailbox) for their messages |
//! | `netplex.threadlist`, `mem.stats`, `fd_table` and the like | left out, but for what `ps`, `top` and `objects` show |
//!
//! This module knows nothing of what workers do, and measures nothing: processes have numbers, by which the system tells
//! the rest.

mod error;
mod visitor;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use manycore_backends::transport::{Limits, Socket, SocketAddress, SocketEnd, Transport, TransportError};

use crate::master::{Directory, DirectoryError, is_run_name, places};
use crate::resource::Resource;
use crate::wire::visit::{Answer, MESSAGE_MAX, Question};

pub use crate::named::ObjectInfo;
pub use crate::wire::facts::{LogLine, RunInfo, State, Wait, WorkerInfo};
pub use error::AdminError;
pub use visitor::{Log, Visitor};

/// How long a master has for an answer, if nothing else is said.
pub const TIMEOUT: Duration = Duration::from_secs(5);

/// A run, by its directory: whether anybody lives there is another question.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Run {
    directory: PathBuf,
}

/// What a dead run has left.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Leftover {
    /// The run's directory.
    pub directory: PathBuf,
    /// What it had registered to be removed.
    pub resources: Vec<Resource>,
}

/// The runs of this user whose masters live, in the order of their directories: those that have a directory where runs put it
/// by themselves (see [`Runtime::directory`](crate::Runtime::directory)). One whose master does not answer is among them.
pub fn runs() -> Vec<Run> {
    alive(run_directories(&places()))
}

/// The same in one directory for directories of runs, and nowhere else.
pub fn runs_in(place: impl Into<PathBuf>) -> Vec<Run> {
    alive(run_directories(&[place.into()]))
}

fn alive(directories: BTreeSet<PathBuf>) -> Vec<Run> {
    directories.into_iter().map(Run::at).filter(Run::is_alive).collect()
}

/// What dead runs of this user have left where [`runs`] looks.
pub fn leftovers() -> Vec<Leftover> {
    dead(run_directories(&places()))
}

/// What dead runs of this user have left where [`runs_in`] looks.
pub fn leftovers_in(place: impl Into<PathBuf>) -> Vec<Leftover> {
    dead(run_directories(&[place.into()]))
}

fn dead(directories: BTreeSet<PathBuf>) -> Vec<Leftover> {
    directories.into_iter().filter_map(|directory| leftover(directory).ok()).collect()
}

/// What a dead run has left in its directory.
///
/// # Errors
/// [`AdminError::Running`] if the run is alive, [`AdminError::NothingThere`], [`AdminError::Directory`].
pub fn leftover(directory: impl Into<PathBuf>) -> Result<Leftover, AdminError> {
    let run = Run::at(directory);
    let directory = run.directory.clone();
    if run.is_alive() {
        return Err(AdminError::Running { directory });
    }
    match Directory::left_in(&directory)? {
        Some(resources) => Ok(Leftover { directory, resources }),
        None => Err(AdminError::NothingThere { directory }),
    }
}

/// Removes what a dead run has left in its directory, as the next run with it would; and the directory, if its name is
/// one that runs give by themselves. Returns what is left because it could not be removed: nothing, if all is well.
///
/// # Errors
/// [`AdminError::Running`] if the run is alive, which is not touched; [`AdminError::NothingThere`];
/// [`AdminError::Directory`].
pub fn clean(directory: impl Into<PathBuf>) -> Result<Vec<Resource>, AdminError> {
    let Leftover { directory, .. } = leftover(directory)?;
    let own = directory.file_name().is_some_and(is_run_name);
    match Directory::clean(&directory, own) {
        Ok(left) => Ok(left),
        // It has just begun.
        Err(DirectoryError::InUse { .. }) => Err(AdminError::Running { directory }),
        Err(error) => Err(error.into()),
    }
}

/// Directories in these that were made for runs.
fn run_directories(places: &[PathBuf]) -> BTreeSet<PathBuf> {
    let entries = places.iter().filter_map(|place| place.read_dir().ok()).flatten().flatten();
    entries.filter(|entry| is_run_name(&entry.file_name())).map(|entry| entry.path()).collect()
}

impl Run {
    /// The run with this directory.
    pub fn at(directory: impl Into<PathBuf>) -> Run {
        let directory = directory.into();
        Run { directory: std::path::absolute(&directory).unwrap_or(directory) }
    }

    /// Its directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Whether a master of this user lives there. It need not be able to answer.
    pub fn is_alive(&self) -> bool {
        // Who has no place for one more visitor lives.
        matches!(self.link(Duration::ZERO), Ok(_) | Err(TransportError::TimedOut))
    }

    /// Begins to talk to the master, which has [`TIMEOUT`] for each answer.
    ///
    /// # Errors
    /// [`AdminError::NotRunning`], [`AdminError::NotAllowed`], [`AdminError::TimedOut`], [`AdminError::Version`],
    /// [`AdminError::Closed`], [`AdminError::Transport`].
    pub fn connect(&self) -> Result<Visitor, AdminError> {
        self.connect_within(TIMEOUT)
    }

    /// Begins to talk to the master, which has so much time for each answer.
    ///
    /// # Errors
    /// As [`connect`](Run::connect).
    pub fn connect_within(&self, timeout: Duration) -> Result<Visitor, AdminError> {
        let link = self.link(timeout).map_err(|error| self.failed(error, timeout))?;
        Visitor::new(self.clone(), link, timeout)
    }

    fn link(&self, timeout: Duration) -> Result<SocketEnd<Question, Answer>, TransportError> {
        let address = SocketAddress::Path(Directory::socket(&self.directory).into());
        Socket::connect(&address, Limits::with_message_bytes(MESSAGE_MAX), Some(timeout))
    }
}
