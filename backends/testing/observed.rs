//! A backend that tells somebody of each access to its memory: what [`mortal`](super::mortal) and
//! [`schedule`](super::schedule) have in common.

use std::ffi::OsStr;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::marker::PhantomData;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use crate::lock::{FutexLockable, LockError, RecordLockable};
use crate::shm::{Memory, Open, OutOfBounds, ShmBackend, ShmError, Trust, Waited, Window};
use crate::sync::global::{AtomicU64, Ordering};

/// What is about to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "as the methods of the same names")]
pub enum Access {
    Load,
    Store,
    CompareExchange,
    Wait,
    Wake,
    Grow,
}

/// Who is told, in the thread that makes the access.
pub trait Observer: Send + Sync + 'static {
    /// Before each access, and before growing. (Words of a run are told of one by one.)
    ///
    /// # Errors
    /// Then it is not made, and the caller is told that the place `at` is out of bounds.
    fn access(access: Access, at: usize) -> Result<(), OutOfBounds>;

    /// Sleeps in place of the memory itself. `object` is the same for all handles of it.
    ///
    /// # Errors
    /// As [`Window::wait`].
    fn wait<W: Window>(
        _object: u64,
        window: W,
        at: usize,
        expected: u32,
        limit: Duration,
        mask: u32,
    ) -> Result<Waited, OutOfBounds> {
        window.wait(at, expected, limit, mask)
    }

    /// Wakes in place of the memory itself.
    ///
    /// # Errors
    /// As [`Window::wake`].
    fn wake<W: Window>(_object: u64, window: W, at: usize, count: u32, mask: u32) -> Result<(), OutOfBounds> {
        window.wake(at, count, mask)
    }
}

/// `B`, and who is told.
pub struct Observed<B: ShmBackend, O>(Words<B, O>);

/// The memory of an [`Observed`].
pub struct Words<B: ShmBackend, O> {
    object: B,
    identity: u64,
    handle: u64,
    observer: PhantomData<O>,
}

/// The window of an [`Observed`]'s memory.
pub struct ObservedWindow<W, O> {
    window: W,
    identity: u64,
    observer: PhantomData<O>,
}

impl<B: ShmBackend, O> fmt::Debug for Observed<B, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Observed").field(&self.0).finish()
    }
}

impl<B: ShmBackend, O> fmt::Debug for Words<B, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Words").field(&self.object).finish()
    }
}

impl<W: fmt::Debug, O> fmt::Debug for ObservedWindow<W, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ObservedWindow").field(&self.window).finish()
    }
}

impl<W: Clone, O> Clone for ObservedWindow<W, O> {
    fn clone(&self) -> Self {
        ObservedWindow { window: self.window.clone(), ..*self }
    }
}

impl<W: Copy, O> Copy for ObservedWindow<W, O> {}

impl<B: ShmBackend, O> Observed<B, O> {
    fn new(object: B) -> Self {
        static HANDLES: AtomicU64 = AtomicU64::new(0);
        let mut hasher = DefaultHasher::new();
        object.name().hash(&mut hasher);
        let (identity, handle) = (hasher.finish(), HANDLES.fetch_add(1, Ordering::Relaxed));
        Observed(Words { object, identity, handle, observer: PhantomData })
    }

    fn object(&self) -> &B {
        &self.0.object
    }
}

impl<B: ShmBackend, O: Observer> ShmBackend for Observed<B, O> {
    type Memory = Words<B, O>;

    fn open_trusting(name: &OsStr, how: Open, trust: Trust) -> Result<Self, ShmError> {
        Ok(Observed::new(B::open_trusting(name, how, trust)?))
    }

    fn unlink(name: &OsStr) -> Result<(), ShmError> {
        B::unlink(name)
    }

    fn try_clone(&self) -> Result<Self, ShmError> {
        Ok(Observed::new(self.object().try_clone()?))
    }

    fn name(&self) -> &OsStr {
        self.object().name()
    }

    fn size(&self) -> Result<u64, ShmError> {
        self.object().size()
    }

    fn grow(&self, bytes: u64) -> Result<(), ShmError> {
        // There is no error for it; and whoever must not go on does not come back.
        let _ = O::access(Access::Grow, 0);
        self.object().grow(bytes)
    }

    fn intact(&self) -> Result<(), ShmError> {
        self.object().intact()
    }

    fn memory(&self) -> &Words<B, O> {
        &self.0
    }

    fn chmod(&self, mode: u32) -> Result<(), ShmError> {
        self.object().chmod(mode)
    }

    fn chown(&self, user: Option<u32>, group: Option<u32>) -> Result<(), ShmError> {
        self.object().chown(user, group)
    }
}

impl<B: ShmBackend + FutexLockable, O: Observer> FutexLockable for Observed<B, O> {
    fn liveness(&self) -> Result<Option<BorrowedFd<'_>>, LockError> {
        self.object().liveness()
    }

    fn identity(&self) -> (u64, u64) {
        // Each handle is for itself, as in a process of its own: threads of one that have the same share a mutex.
        (u64::MAX, self.0.handle)
    }
}

impl<B: ShmBackend + RecordLockable, O: Observer> RecordLockable for Observed<B, O> {
    fn descriptor(&self) -> Result<BorrowedFd<'_>, LockError> {
        self.object().descriptor()
    }
}

impl<B: ShmBackend, O: Observer> Memory for Words<B, O> {
    type Window<'a> = ObservedWindow<<B::Memory as Memory>::Window<'a>, O>;

    fn window(&self) -> Self::Window<'_> {
        ObservedWindow {
            window: self.object.memory().window(),
            identity: self.identity,
            observer: PhantomData,
        }
    }
}

impl<W: Window, O: Observer> Window for ObservedWindow<W, O> {
    fn words(&self) -> usize {
        self.window.words()
    }

    fn load(&self, at: usize) -> Result<u32, OutOfBounds> {
        O::access(Access::Load, at)?;
        self.window.load(at)
    }

    fn store(&self, at: usize, value: u32) -> Result<(), OutOfBounds> {
        O::access(Access::Store, at)?;
        self.window.store(at, value)
    }

    fn read(&self, at: usize, into: &mut [u32]) -> Result<(), OutOfBounds> {
        // Nothing at all if it is out of bounds.
        self.window.read(at, into)?;
        (at..).zip(into).try_for_each(|(at, word)| self.load(at).map(|value| *word = value))
    }

    fn write(&self, at: usize, from: &[u32]) -> Result<(), OutOfBounds> {
        self.window.write(at.saturating_add(from.len()), &[])?;
        (at..).zip(from).try_for_each(|(at, word)| self.store(at, *word))
    }

    fn compare_exchange(&self, at: usize, current: u32, new: u32) -> Result<Result<u32, u32>, OutOfBounds> {
        O::access(Access::CompareExchange, at)?;
        self.window.compare_exchange(at, current, new)
    }

    fn wait(&self, at: usize, expected: u32, limit: Duration, mask: u32) -> Result<Waited, OutOfBounds> {
        O::access(Access::Wait, at)?;
        O::wait(self.identity, self.window, at, expected, limit, mask)
    }

    fn wake(&self, at: usize, count: u32, mask: u32) -> Result<(), OutOfBounds> {
        O::access(Access::Wake, at)?;
        O::wake(self.identity, self.window, at, count, mask)
    }
}
