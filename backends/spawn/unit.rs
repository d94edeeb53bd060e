//! What a unit can do about itself: [`exit`], [`checkpoint`], [`is_killed`]; and how a unit that is a thread is ended.
//!
//! A process can be ended at any moment. A thread cannot: it holds locks and owns memory that others use. So what ends a
//! thread unit is an unwinding that it begins itself, with a payload that nobody prints. Code that catches panics must
//! let it pass; if it does not, the unit still ends the way that was decided:
//!
//! | the word of a unit | decided is | by |
//! |---|---|---|
//! | 0 | nothing: it runs | |
//! | 1 to 64 | that this signal has killed it | [`Child::kill`](super::Child::kill) |
//! | 256 + code | that it ends with this exit code | [`exit`], or the end of `run` |
//!
//! The word is changed once, from 0: what was decided first counts.
//!
//! This module does not begin units, and tells nobody that they have ended.

use std::any::Any;
use std::cell::RefCell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use rustix::event::{EventfdFlags, eventfd};

use super::{Exit, PANICKED, SpawnError, fork};
use crate::sync::global::{Arc, AtomicI32, Mutex, Ordering, lock};

/// What an exit code is added to in the word.
const ENDED: i32 = 256;

thread_local! {
    /// The fate of the unit that the calling thread is.
    static OWN: RefCell<Option<Arc<Fate>>> = const { RefCell::new(None) };
}

/// Ends a unit that is a thread, if it was [killed](super::Child::kill): unwinds out of it, without a message.
///
/// To be called in long loops of code that is to run as threads, too. It does nothing in threads that are no units, in
/// processes, and in a thread that panics already. Code that catches the unwinding only delays the end to the next
/// checkpoint; the end of the unit's function is one. A unit that has called [`exit`] ends here as well, if that was
/// caught.
#[inline]
pub fn checkpoint() {
    #[cfg(feature = "testing")]
    injected::step();
    let decided = OWN.try_with(|own| own.borrow().as_ref().is_some_and(|fate| fate.word() != 0));
    if decided == Ok(true) && !std::thread::panicking() {
        resume_unwind(Box::new(Ending));
    }
}

/// Deaths for tests: see [`die_at_checkpoint`](crate::testing::spawn::die_at_checkpoint).
#[cfg(feature = "testing")]
pub(crate) mod injected {
    use std::cell::Cell;

    use rustix::process::{Signal, getpid, kill_process};

    use super::OWN;

    thread_local! {
        /// Checkpoints of the calling thread until it dies; 0 if it does not.
        static LEFT: Cell<u64> = const { Cell::new(0) };
    }

    pub(crate) fn die_in(checkpoints: u64) {
        LEFT.set(checkpoints);
    }

    pub(super) fn step() {
        // Thread-locals may be gone, when other destructors run.
        let dies = LEFT.try_with(|left| {
            let before = left.get();
            left.set(before.saturating_sub(1));
            before == 1
        });
        if dies != Ok(true) {
            return;
        }
        let fate = OWN.try_with(|own| own.borrow().clone()).ok().flatten();
        match fate {
            Some(fate) => fate.kill(Signal::KILL.as_raw()),
            // If it cannot be, the test sees that nobody has died.
            None => drop(kill_process(getpid(), Signal::KILL)),
        }
    }
}

/// Whether the calling thread is a unit that was [killed](super::Child::kill) and has not ended yet: it should come to a
/// [`checkpoint`] soon. In a process always false.
pub fn is_killed() -> bool {
    let killed =
        OWN.try_with(|own| own.borrow().as_ref().is_some_and(|fate| matches!(fate.word(), 1..ENDED)));
    killed == Ok(true)
}

/// Whether the calling thread is a unit whose end is decided: it was [killed](super::Child::kill), or has called [`exit`].
/// What runs in it now is what the unwinding runs, which would not run in a process. In a process always false.
pub fn is_over() -> bool {
    OWN.try_with(|own| own.borrow().as_ref().is_some_and(|fate| fate.word() != 0)) == Ok(true)
}

/// A descriptor that is readable from the moment on that the calling thread, a unit, was [killed](super::Child::kill): for
/// who waits for descriptors, and comes to a [`checkpoint`] then. `None` in threads that are no units, and in processes.
///
/// # Errors
/// [`SpawnError::Io`] if the system has no descriptor left for it.
pub fn kill_bell() -> Result<Option<KillBell>, SpawnError> {
    let fate = OWN.try_with(|own| own.borrow().clone());
    match fate {
        Ok(Some(fate)) => fate.bell().map(Some),
        _ => Ok(None),
    }
}

/// The descriptor of [`kill_bell`].
#[derive(Clone, Debug)]
pub struct KillBell(Arc<OwnedFd>);

impl AsFd for KillBell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Ends the calling unit with the exit code, of which the low eight bits count.
///
/// | called in | |
/// |---|---|
/// | a unit that is a thread | unwinds out of it, without a message |
/// | a unit of [`Fork`](super::Fork), in any thread of it | writes out standard output and ends the process; exit handlers are not run |
/// | any other process or thread | [`std::process::exit`] |
///
/// A thread that a thread unit has made is not the unit. As with panics, a call by a destructor that runs because its
/// thread unwinds already aborts the program, where the unit is a thread.
pub fn exit(code: i32) -> ! {
    let fate = OWN.try_with(|own| own.borrow().clone());
    if let Ok(Some(fate)) = fate {
        fate.end(code);
        drop(fate);
        resume_unwind(Box::new(Ending));
    }
    fork::exit_if_unit(code);
    std::process::exit(code)
}

/// Whether the payload of a caught panic is not of a panic, but of the end of a unit that is a thread: who catches panics
/// passes it on with [`resume_unwind`].
pub fn is_ending(payload: &(dyn Any + Send)) -> bool {
    payload.is::<Ending>()
}

/// The payload of the unwinding that ends a unit.
struct Ending;

/// How a unit that is a thread will end, or has ended: the word in the module's table.
#[derive(Debug, Default)]
pub(super) struct Fate {
    word: AtomicI32,
    /// Made when it is asked for.
    bell: Mutex<Option<KillBell>>,
}

impl Fate {
    fn word(&self) -> i32 {
        // Nothing else is told by it.
        self.word.load(Ordering::Relaxed)
    }

    fn decide(&self, word: i32) {
        let _ = self.word.compare_exchange(0, word, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The signal, which exists, kills the unit.
    pub(super) fn kill(&self, signal: i32) {
        // Who makes a bell now finds either this or the bell's lock.
        let bell = lock(&self.bell);
        self.decide(signal);
        if let Some(bell) = &*bell {
            ring(bell);
        }
    }

    fn bell(&self) -> Result<KillBell, SpawnError> {
        let mut bell = lock(&self.bell);
        if let Some(bell) = &*bell {
            return Ok(bell.clone());
        }
        let new = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| SpawnError::Io { op: "eventfd", source: errno.into() })?;
        let new = KillBell(Arc::new(new));
        if matches!(self.word(), 1..ENDED) {
            ring(&new);
        }
        Ok(bell.insert(new).clone())
    }

    fn end(&self, code: i32) {
        self.decide(ENDED + (code & 0xff));
    }

    /// Runs the unit in the calling thread. When this returns, everything is decided.
    pub(super) fn run(self: &Arc<Fate>, unit: impl FnOnce() -> i32) {
        OWN.set(Some(Arc::clone(self)));
        match catch_unwind(AssertUnwindSafe(unit)) {
            Ok(code) => self.end(code),
            Err(payload) => {
                // If it is the end of the unit, it is decided, and this does nothing.
                self.end(PANICKED);
                // Dropping it could panic again.
                std::mem::forget(payload);
            }
        }
        // Destructors of thread-locals, in which nothing may unwind, are not the unit any more.
        OWN.set(None);
    }

    /// How the unit ends.
    pub(super) fn exit(&self) -> Option<Exit> {
        match self.word() {
            0 => None,
            signal @ 1..ENDED => Some(Exit::Signal { signal, core: false }),
            word => Some(Exit::Code(word - ENDED)),
        }
    }
}

/// Its counter cannot be so high that this fails.
fn ring(bell: &KillBell) {
    let _ = rustix::io::write(bell, &1_u64.to_ne_bytes());
}
