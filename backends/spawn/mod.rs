//! Beginning a unit of work and watching its end: the contract [`Spawner`] and its mechanisms.
//!
//! | mechanism | a unit runs in |
//! |---|---|
//! | [`Fork`] | a forked process: starts fast, shares nothing but what it is given; from a single-threaded process only |
//! | [`Exec`] | a process that runs this program anew, and enters it by [`Spawner::enter`]: from any process |
//! | [`Thread`] | a thread of this process: for tests, and where there are no processes |
//!
//! # The contract
//!
//! A unit is given one value, a `G`: to another process that must be something that a descriptor stands for
//! ([`Portable`](crate::Portable)), to a thread it can be anything. Combinations that cannot work do not compile.
//!
//! 1. **One unit, one end.** [`Spawner::spawn`] returns once the unit exists; `run` is called in it exactly
//!    once, with what is given; the unit ends when `run` returns or calls [`exit`] (the low eight bits of the value are
//!    the exit code), or when it dies. What cannot be made again of its descriptor ends the unit with
//!    [`Exit::Code`]`(102)`. A unit that runs the program anew calls the function that the program gives to
//!    [`Spawner::enter`], in the place of `run`: what `run` owns reaches a unit only where it is
//!    [carried](Spawner::CARRIES).
//! 2. **Watched.** A child's descriptor becomes readable, level-triggered, when the unit has ended and not
//!    before; from then on [`Child::try_wait`] returns its [`Exit`], the same as often as it is asked.
//! 3. **Only what it is given.** A unit that is a process has the standard descriptors 0, 1, 2 and that of `given`; all
//!    others are closed before `run` is called. So `run` must own no other descriptor: its number belongs to
//!    nobody in the unit, and later perhaps to something else.
//! 4. **A panic in `run`** ends the unit with [`Exit::Code`]`(101)`, after the message was printed.
//! 5. **No zombies.** A dropped child goes on running, and is reaped after its end, at the latest by the next
//!    spawn of this spawner or drop of one of its children; nobody else's children are reaped.
//! 6. **Kill only what is there.** [`Child::kill`] reaches the unit or nobody: after its end it does nothing,
//!    also when the number of the process is in use again.
//! 7. **A failed start** leaves nothing behind: no child, no descriptor; what was given is dropped.
//! 8. **The parent's death** ends the units.
//!
//! What is different for units that are threads ([`Spawner::PROCESSES`] is `false`):
//!
//! | law | |
//! |---|---|
//! | 3 | a thread has all that its process has; it may own what it likes |
//! | 5 | there is nothing to reap |
//! | 6 | [`Child::kill`] does what the signal does to a process by default, but a unit dies when it comes to a [`checkpoint`], or returns; it cannot be stopped |
//! | 8 | the parent is the process: threads end with it, and not with the unit that has spawned them |
//!
//! # Other programs, other children
//!
//! Below the contract stands what it is built on, for programs that are no units: [`Command`] starts another program,
//! [`ChildProcess`] watches any child of this process by a descriptor, and [`Children`] is a list of children, to signal
//! them all.
//!
//! This module does not know what a worker is, and sends no messages.

mod children;
mod command;
mod descriptors;
mod exec;
mod fork;
mod plan;
mod start;
mod thread;
pub(crate) mod unit;
mod watch;

use std::fmt;
use std::io;
use std::os::fd::AsFd;

pub use children::{Children, KillAll, Member};
pub use command::{Command, Directory, Group, Step};
pub use exec::Exec;
pub use fork::Fork;
pub use thread::{Thread, ThreadChild};
pub use unit::{KillBell, checkpoint, exit, is_ending, is_killed, is_over, kill_bell};
pub use watch::{ChildProcess, WatchBy};

/// The exit code of a unit that panicked (law 4).
const PANICKED: i32 = 101;

/// The exit code of a unit that could not make what it was given of its descriptor.
const NOT_GIVEN: i32 = 102;

/// A way to begin units of work that are given a `G`. The laws are on the [module page](self).
#[doc(alias("fork", "posix_spawn"))]
#[diagnostic::on_unimplemented(
    message = "a unit of `{Self}` cannot be given a `{G}`",
    note = "what goes to another process must be a descriptor underneath: `Socket` and `Ring` go with `Fork` and `Exec`, `Polysocket` only with `Thread`"
)]
pub trait Spawner<G: Send + 'static>: fmt::Debug + Default + Send + Sync + 'static {
    /// A begun unit.
    type Child: Child;

    /// Whether units are processes: then they can be killed at any moment, and take nothing but themselves along.
    const PROCESSES: bool;

    /// Whether a unit calls the very `run` that [`spawn`](Spawner::spawn) is given, and so has all that it owns. If not,
    /// that is dropped, and what the unit is to know has to reach it by what it is given.
    const CARRIES: bool = false;

    /// Begins a unit that calls `run` with what is given (laws 1 and 3).
    ///
    /// # Errors
    /// [`SpawnError::MultiThreaded`] where the mechanism needs a single-threaded caller; [`SpawnError::NotEntered`] where
    /// it needs a program that has called [`enter`](Spawner::enter); [`SpawnError::Io`] or [`SpawnError::Command`] if the
    /// system refuses (`EAGAIN`: too many processes).
    fn spawn<F>(&self, given: G, run: F) -> Result<Self::Child, SpawnError>
    where
        F: FnOnce(G) -> i32 + Send + 'static;

    /// Begins several units, each with what it is given and its `run`, as [`spawn`](Spawner::spawn) would one after the
    /// other; where there is a faster way, by that. There is a result for each, in order; that one could not be begun says
    /// nothing of the others.
    fn spawn_all<F>(&self, units: Vec<(G, F)>) -> Vec<Result<Self::Child, SpawnError>>
    where
        F: FnOnce(G) -> i32 + Send + 'static,
    {
        units.into_iter().map(|(given, run)| self.spawn(given, run)).collect()
    }

    /// Must be called first in `main` of a program whose units are the program run anew: in a unit it runs `run` and does
    /// not return; elsewhere it notes that the program has an entry, and returns. Does nothing where units are begun
    /// otherwise.
    ///
    /// It may be called several times, also in several threads, as tests do. A unit enters by the first call that it comes
    /// to. Of the entries that were noted, [`spawn`](Spawner::spawn) uses the latest of the calling thread, or if that has
    /// none, the latest of the process.
    fn enter<F>(entry: Entry<'_>, run: F)
    where
        F: FnOnce(G) -> i32;
}

/// Where the call of [`Spawner::enter`] stands, for units that are the program run anew.
#[derive(Clone, Copy, Debug)]
pub enum Entry<'a> {
    /// In `main`, or in what `main` calls whatever its arguments are. A unit has the arguments of its parent.
    Main,
    /// In the test function with this name, as the standard harness prints it (`module::name`). A unit is the test
    /// program run with this test alone; what the harness prints there is thrown away, and what the unit prints is not
    /// collected by the harness.
    Test(&'a str),
}

/// A begun unit: its descriptor says when it ended.
pub trait Child: AsFd + fmt::Debug + Send + Sync + 'static {
    /// The number of the unit: a PID for processes, the kernel's number for threads. For people; it is not safe to
    /// signal it.
    fn id(&self) -> u32;

    /// How the unit ended, or `None` while it runs.
    ///
    /// # Errors
    /// [`SpawnError::Io`] if the system cannot tell.
    fn try_wait(&self) -> Result<Option<Exit>, SpawnError>;

    /// Waits for the end.
    ///
    /// # Errors
    /// [`SpawnError::Io`] if the system cannot tell.
    fn wait(&self) -> Result<Exit, SpawnError>;

    /// Sends the signal, if the unit is still there. A thread ends by it at its next [`checkpoint`].
    ///
    /// # Errors
    /// [`SpawnError::Io`]: `EPERM`, `EINVAL` for a signal that does not exist, `EOPNOTSUPP` for one that would stop a
    /// thread. That the unit has ended is no error.
    fn kill(&self, signal: i32) -> Result<(), SpawnError>;
}

/// How a unit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exit {
    /// It returned, or exited by itself.
    Code(i32),
    /// A signal ended it.
    Signal {
        /// The number of the signal.
        signal: i32,
        /// Whether the system wrote a core file.
        core: bool,
    },
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Exit::Code(code) => write!(f, "exited with code {code}"),
            Exit::Signal { signal, core } => {
                write!(f, "killed by signal {signal}")?;
                if let Some(name) = signal_name(signal) {
                    write!(f, " ({name})")?;
                }
                f.write_str(if core { ", core dumped" } else { "" })
            }
        }
    }
}

/// The name of a signal of this system, `SIGKILL` for 9, if it has one.
pub fn signal_name(signal: i32) -> Option<&'static str> {
    const NAMES: &[(i32, &str)] = &[
        (libc::SIGHUP, "SIGHUP"),
        (libc::SIGINT, "SIGINT"),
        (libc::SIGQUIT, "SIGQUIT"),
        (libc::SIGILL, "SIGILL"),
        (libc::SIGTRAP, "SIGTRAP"),
        (libc::SIGABRT, "SIGABRT"),
        (libc::SIGBUS, "SIGBUS"),
        (libc::SIGFPE, "SIGFPE"),
        (libc::SIGKILL, "SIGKILL"),
        (libc::SIGUSR1, "SIGUSR1"),
        (libc::SIGSEGV, "SIGSEGV"),
        (libc::SIGUSR2, "SIGUSR2"),
        (libc::SIGPIPE, "SIGPIPE"),
        (libc::SIGALRM, "SIGALRM"),
        (libc::SIGTERM, "SIGTERM"),
        (libc::SIGXCPU, "SIGXCPU"),
        (libc::SIGXFSZ, "SIGXFSZ"),
        (libc::SIGSYS, "SIGSYS"),
    ];
    NAMES.iter().find(|(number, _)| *number == signal).map(|(_, name)| *name)
}

/// Why a unit could not be begun or watched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpawnError {
    /// Forking copies only the calling thread; locks that others hold would stay locked in the child for
    /// ever. Start the workers before any thread, or use [`Exec`].
    #[error(
        "this process has {threads} threads, and fork is safe only from a single-threaded one: start workers before any thread is created (in `main`, not in a test of the standard harness); \
         or use `Exec`, which runs the program anew instead"
    )]
    MultiThreaded {
        /// Threads that the process has.
        threads: usize,
    },
    /// Units of [`Exec`] are this program run anew, and come into their function by [`Spawner::enter`].
    #[error(
        "a unit of `Exec` is this program run anew, and this program has not said what its units do: call `Exec::enter(Entry::Main, run)` first in `main`, \
         or in a test of the standard harness `Exec::enter(Entry::Test(\"module::name_of_the_test\"), run)` first in that test, with the function `run` that is given to `spawn`"
    )]
    NotEntered,
    /// The process ignores `SIGCHLD`, perhaps because its parent did: then the system throws the ends of its
    /// children away, and nobody can wait for them.
    #[error(
        "SIGCHLD is ignored in this process, so that nobody can learn how its children end: set its default action before starting any"
    )]
    EndsIgnored,
    /// A program could not be started. Nothing is left of the attempt.
    #[error("cannot start {program:?}: {step} ({call}) failed: {source}")]
    Command {
        /// The program.
        program: String,
        /// What failed.
        step: Step,
        /// The system call.
        call: &'static str,
        /// The error, with its errno.
        #[source]
        source: io::Error,
    },
    /// A text that the system takes cannot be said to it: it contains a zero byte, or is the name of an environment
    /// variable that is empty or contains an equals sign.
    #[error("{what} contains a character that the system cannot take there")]
    Nul {
        /// Which text.
        what: &'static str,
    },
    /// The child is in the list already.
    #[error("child {0} is watched already")]
    AlreadyWatched(u32),
    /// A system call failed.
    #[error("{op} failed: {source}")]
    Io {
        /// The system call.
        op: &'static str,
        /// The error, with its errno.
        #[source]
        source: io::Error,
    },
}
