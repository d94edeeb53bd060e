//! The executioner: a backend whose user is killed at its n-th access to memory, so that a test can try all of them.
//!
//! A process that is killed stops between two instructions; what others can tell apart is only which of its accesses to the
//! shared words it has made. The [recorder](super::recorder) gives the images that it leaves; here it really dies, with its
//! locks and its marks, and others may be at work meanwhile.

use std::cell::Cell;
use std::ffi::OsStr;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};

use crate::lock::{FutexLockable, LockError, RecordLockable};
use crate::shm::{Memory, Open, OutOfBounds, ShmBackend, ShmError, Trust, Waited, Window};

thread_local! {
    static LEFT: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Kills this process by `SIGKILL` when the calling thread is about to make another access through a [`Mortal`] after so
/// many. (Words of a run that is written are counted one by one.)
pub fn die_after(accesses: u64) {
    LEFT.set(Some(accesses));
}

/// Lets the thread live. How many accesses were left; `None` if it was not to die.
pub fn live() -> Option<u64> {
    LEFT.take()
}

fn count() {
    match LEFT.get() {
        None => {}
        Some(0) => loop {
            // It does not return, but for the moment that it takes.
            let _ = kill_process(getpid(), Signal::KILL);
        },
        Some(left) => LEFT.set(Some(left - 1)),
    }
}

/// `B`, whose users die when they are told to.
#[derive(Debug)]
pub struct Mortal<B: ShmBackend>(Words<B>);

/// The memory of a [`Mortal`].
#[derive(Debug)]
pub struct Words<B: ShmBackend>(B);

/// The window of a [`Mortal`]'s memory.
#[derive(Clone, Copy, Debug)]
pub struct MortalWindow<W>(W);

impl<B: ShmBackend> ShmBackend for Mortal<B> {
    type Memory = Words<B>;

    fn open_trusting(name: &OsStr, how: Open, trust: Trust) -> Result<Self, ShmError> {
        Ok(Mortal(Words(B::open_trusting(name, how, trust)?)))
    }

    fn unlink(name: &OsStr) -> Result<(), ShmError> {
        B::unlink(name)
    }

    fn try_clone(&self) -> Result<Self, ShmError> {
        Ok(Mortal(Words(self.0.0.try_clone()?)))
    }

    fn name(&self) -> &OsStr {
        self.0.0.name()
    }

    fn size(&self) -> Result<u64, ShmError> {
        self.0.0.size()
    }

    fn grow(&self, bytes: u64) -> Result<(), ShmError> {
        count();
        self.0.0.grow(bytes)
    }

    fn intact(&self) -> Result<(), ShmError> {
        self.0.0.intact()
    }

    fn memory(&self) -> &Words<B> {
        &self.0
    }

    fn chmod(&self, mode: u32) -> Result<(), ShmError> {
        self.0.0.chmod(mode)
    }

    fn chown(&self, user: Option<u32>, group: Option<u32>) -> Result<(), ShmError> {
        self.0.0.chown(user, group)
    }
}

impl<B: ShmBackend + FutexLockable> FutexLockable for Mortal<B> {
    fn liveness(&self) -> Result<Option<BorrowedFd<'_>>, LockError> {
        self.0.0.liveness()
    }

    fn identity(&self) -> (u64, u64) {
        self.0.0.identity()
    }
}

impl<B: ShmBackend + RecordLockable> RecordLockable for Mortal<B> {
    fn descriptor(&self) -> Result<BorrowedFd<'_>, LockError> {
        self.0.0.descriptor()
    }
}

impl<B: ShmBackend> Memory for Words<B> {
    type Window<'a> = MortalWindow<<B::Memory as Memory>::Window<'a>>;

    fn window(&self) -> Self::Window<'_> {
        MortalWindow(self.0.memory().window())
    }
}

impl<W: Window> Window for MortalWindow<W> {
    fn words(&self) -> usize {
        self.0.words()
    }

    fn load(&self, at: usize) -> Result<u32, OutOfBounds> {
        count();
        self.0.load(at)
    }

    fn store(&self, at: usize, value: u32) -> Result<(), OutOfBounds> {
        count();
        self.0.store(at, value)
    }

    fn read(&self, at: usize, into: &mut [u32]) -> Result<(), OutOfBounds> {
        count();
        self.0.read(at, into)
    }

    fn write(&self, at: usize, from: &[u32]) -> Result<(), OutOfBounds> {
        // Nothing at all if it is out of bounds.
        self.0.write(at + from.len(), &[])?;
        (at..).zip(from).try_for_each(|(at, word)| self.store(at, *word))
    }

    fn compare_exchange(&self, at: usize, current: u32, new: u32) -> Result<Result<u32, u32>, OutOfBounds> {
        count();
        self.0.compare_exchange(at, current, new)
    }

    fn wait(&self, at: usize, expected: u32, limit: Duration, mask: u32) -> Result<Waited, OutOfBounds> {
        count();
        self.0.wait(at, expected, limit, mask)
    }

    fn wake(&self, at: usize, count_of_sleepers: u32, mask: u32) -> Result<(), OutOfBounds> {
        count();
        self.0.wake(at, count_of_sleepers, mask)
    }
}
