//! The mechanism [`Thread`]: a unit is a thread of this process.
//!
//! | step | in the caller | in the unit |
//! |---|---|---|
//! | beginning | make the event descriptor and the thread | say which thread it is |
//! | running | | call `run`, catch its panic |
//! | the end | | decide how it ended, ring the descriptor, let go of it |
//!
//! What `run` owns is dropped before the end is told. The thread itself is there for a moment longer, to run the
//! destructors of its thread-locals; nobody waits for that.
//!
//! This module does not end a thread against its will: see [`checkpoint`](super::checkpoint).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread::Builder;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;

use super::unit::Fate;
use super::{Child, Entry, Exit, SpawnError, Spawner};
use crate::generation::Generation;
use crate::sync::global::{Arc, Condvar, Mutex, lock};

/// What the system calls the threads.
const NAME: &str = "manycore-unit";

/// Spawns units as threads of this process: for tests, and for programs that run where processes are not to be had.
///
/// A unit can be given anything that may go to another thread. It shares everything with the others: what breaks the
/// process breaks all. A [killed](Child::kill) unit ends when it comes to a [`checkpoint`](super::checkpoint), and
/// [`exit`](super::exit) ends the unit alone. If the program is built with `panic = "abort"`, all three ways of ending
/// early, by a panic, a signal or `exit`, end the process.
///
/// ```
/// use manycore_backends::spawn::{Child, Exit, Spawner, Thread, checkpoint};
///
/// let child = Thread.spawn(String::from("seven"), |given: String| given.len() as i32)?;
/// assert_eq!(child.wait()?, Exit::Code(5));
///
/// let child = Thread.spawn((), |()| loop { checkpoint() })?;
/// child.kill(15)?;
/// assert_eq!(child.wait()?, Exit::Signal { signal: 15, core: false });
/// # Ok::<(), manycore_backends::spawn::SpawnError>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Thread;

impl<G: Send + 'static> Spawner<G> for Thread {
    type Child = ThreadChild;
    const PROCESSES: bool = false;
    const CARRIES: bool = true;

    fn spawn<F>(&self, given: G, run: F) -> Result<ThreadChild, SpawnError>
    where
        F: FnOnce(G) -> i32 + Send + 'static,
    {
        let bell = Arc::new(Bell::new()?);
        let unit = Arc::new(Unit::default());
        let child = ThreadChild { unit: Arc::clone(&unit), bell: Arc::clone(&bell) };
        let body = move || {
            unit.begin();
            unit.fate.run(move || run(given));
            unit.end(bell);
        };
        match Builder::new().name(NAME.to_owned()).spawn(body) {
            Ok(_) => Ok(child),
            Err(source) => Err(SpawnError::Io { op: "pthread_create", source }),
        }
    }

    fn enter<F>(_: Entry<'_>, _: F)
    where
        F: FnOnce(G) -> i32,
    {
    }
}

/// A unit that is a thread. Dropping it lets the thread go on.
///
/// A copy of this value in a forked child of the process is of no use there while the unit runs: waiting fails with
/// `ECHILD`, killing with `EPERM`, and its descriptor is somebody else's.
#[derive(Debug)]
pub struct ThreadChild {
    unit: Arc<Unit>,
    bell: Arc<Bell>,
}

impl AsFd for ThreadChild {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.fd()
    }
}

impl Child for ThreadChild {
    /// The kernel's number of the thread; if it has not begun yet, waits until it has.
    fn id(&self) -> u32 {
        let mut state = lock(&self.unit.state);
        while state.id == 0 {
            state = self.unit.begun.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        state.id
    }

    fn try_wait(&self) -> Result<Option<Exit>, SpawnError> {
        match self.unit.exit() {
            None if !self.bell.generation.is_current() => Err(failed("waiting for a thread", Errno::CHILD)),
            exit => Ok(exit),
        }
    }

    fn wait(&self) -> Result<Exit, SpawnError> {
        loop {
            if let Some(exit) = self.try_wait()? {
                return Ok(exit);
            }
            let bell = self.bell.fd();
            match poll(&mut [PollFd::new(&bell, PollFlags::IN)], None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(failed("poll", errno)),
            }
        }
    }

    /// Does what the signal does by default to a process: nothing, or ends the unit at its next
    /// [`checkpoint`](super::checkpoint).
    ///
    /// # Errors
    /// [`SpawnError::Io`]: `EINVAL` for a signal that does not exist, `EOPNOTSUPP` for those that stop a process. That the
    /// unit has ended is no error.
    fn kill(&self, signal: i32) -> Result<(), SpawnError> {
        if self.unit.exit().is_some() {
            return Ok(());
        }
        if !self.bell.generation.is_current() {
            return Err(failed("killing a thread", Errno::PERM));
        }
        match effect(signal) {
            Some(Effect::Nothing) => {}
            Some(Effect::End) => self.unit.fate.kill(signal),
            Some(Effect::Stop) => return Err(failed("stopping a thread", Errno::OPNOTSUPP)),
            None => return Err(failed("killing a thread", Errno::INVAL)),
        }
        Ok(())
    }
}

/// What a signal does to a process by default.
enum Effect {
    Nothing,
    End,
    Stop,
}

/// `None` if there is no such signal.
fn effect(signal: i32) -> Option<Effect> {
    /// The kernel's, of which the C library keeps some of the middle to itself.
    const LAST: i32 = 64;
    match signal {
        0 | libc::SIGCHLD | libc::SIGCONT | libc::SIGURG | libc::SIGWINCH => Some(Effect::Nothing),
        libc::SIGSTOP | libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU => Some(Effect::Stop),
        1..=LAST => Some(Effect::End),
        _ => None,
    }
}

/// What the thread and its handle have in common.
#[derive(Debug, Default)]
struct Unit {
    fate: Arc<Fate>,
    state: Mutex<State>,
    begun: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// 0 until the thread has begun.
    id: u32,
    has_ended: bool,
}

impl Unit {
    fn begin(&self) {
        lock(&self.state).id = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
        self.begun.notify_all();
    }

    /// Everything at once, as far as others can see: who knows of the end finds the descriptor readable, and itself as
    /// its only owner.
    fn end(&self, bell: Arc<Bell>) {
        let mut state = lock(&self.state);
        bell.ring();
        drop(bell);
        state.has_ended = true;
    }

    fn exit(&self) -> Option<Exit> {
        let has_ended = lock(&self.state).has_ended;
        if has_ended { self.fate.exit() } else { None }
    }
}

/// The descriptor that says that the unit has ended.
#[derive(Debug)]
struct Bell {
    /// `None` only while dropping.
    fd: Option<OwnedFd>,
    generation: Generation,
}

impl Bell {
    fn new() -> Result<Bell, SpawnError> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let fd = fd.map_err(|errno| failed("eventfd", errno))?;
        Ok(Bell { fd: Some(fd), generation: Generation::current() })
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_ref().expect("it is there until it is dropped").as_fd()
    }

    fn ring(&self) {
        // The counter cannot be so high that this fails: it is rung once.
        let _ = rustix::io::write(self.fd(), &1_u64.to_ne_bytes());
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        if !self.generation.is_current() {
            // In a forked child the number was closed, and may have been given to somebody else.
            std::mem::forget(self.fd.take());
        }
    }
}

fn failed(op: &'static str, errno: Errno) -> SpawnError {
    SpawnError::Io { op, source: io::Error::from(errno) }
}
