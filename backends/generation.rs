//! Which fork of the program is this? Handles to shared objects remember the generation that made
//! them, so that a handle carried through `fork` into a child is detected and refused: the child
//! shares the descriptor, but not the locks, of its parent.
//!
//! The generation is a counter in memory, raised in each child by `pthread_atfork`. It costs one
//! load to compare, where `getpid` is a system call. A child made by a raw `clone` system call, which
//! skips the handlers, is not noticed.
//!
//! A descriptor that stands for its process must not live on in a child: a `PrivateFd` is closed there at once.
//!
//! # Safety
//!
//! One unsafe call registers a handler that does nothing but atomic operations and `close`, which are
//! async-signal-safe and so allowed in the child of a multi-threaded process. The other is that `close`: the numbers it
//! is given are those of descriptors that the child got from its parent, and that nobody in the child uses, because
//! their only owner, a `PrivateFd`, gives them to nobody in another generation.

#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::sync::global::{AtomicI32, AtomicU32, Once, Ordering};

static CURRENT: AtomicU32 = AtomicU32::new(0);
static REGISTERED: Once = Once::new();

/// The generation in which a handle was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generation(u32);

impl Generation {
    /// The generation of the running process. From the first call on, every fork is counted.
    pub fn current() -> Generation {
        REGISTERED.call_once(|| {
            // SAFETY: the handler is a plain function that stays loaded for the life of the program
            // and does nothing but an atomic addition. The result is ignored: it can only be ENOMEM,
            // and then handles carried into a child are not detected, which is the state without us.
            unsafe { libc::pthread_atfork(None, None, Some(entered_child)) };
        });
        Generation(CURRENT.load(Ordering::Relaxed))
    }

    /// Whether the running process is the one that made this value, not a fork of it.
    #[inline]
    pub fn is_current(self) -> bool {
        self.0 == CURRENT.load(Ordering::Relaxed)
    }
}

extern "C" fn entered_child() {
    CURRENT.fetch_add(1, Ordering::Relaxed);
    for place in &PRIVATE {
        // Only the child's one thread is there. What is not written is not copied for it, a page at a time.
        let number = place.load(Ordering::Relaxed);
        if number != NOTHING {
            place.store(NOTHING, Ordering::Relaxed);
            // SAFETY: see above; an error would mean that it is closed already.
            unsafe { libc::close(number) };
        }
    }
}

/// The descriptors to close in a child.
static PRIVATE: [AtomicI32; 1024] = [const { AtomicI32::new(NOTHING) }; 1024];
const NOTHING: i32 = -1;

/// A descriptor of this process alone: a child that is forked does not have it. (A child made by a raw `clone` system
/// call has, and so has one that is forked, by another thread, in the moment between opening and
/// [`new`](PrivateFd::new); and more than 1024 such descriptors are not remembered. All are close-on-exec.)
#[derive(Debug)]
pub(crate) struct PrivateFd {
    /// `None` only while dropping.
    fd: Option<OwnedFd>,
    generation: Generation,
}

impl PrivateFd {
    pub(crate) fn new(fd: OwnedFd) -> PrivateFd {
        let generation = Generation::current();
        let number = fd.as_raw_fd();
        let _ = PRIVATE.iter().find(|place| {
            place.compare_exchange(NOTHING, number, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        });
        PrivateFd { fd: Some(fd), generation }
    }

    /// The descriptor, in the process that opened it.
    pub(crate) fn get(&self) -> Option<BorrowedFd<'_>> {
        self.fd.as_ref().filter(|_| self.generation.is_current()).map(AsFd::as_fd)
    }
}

impl Drop for PrivateFd {
    fn drop(&mut self) {
        let Some(fd) = self.fd.take() else { return };
        if self.generation.is_current() {
            let number = fd.as_raw_fd();
            let _ = PRIVATE.iter().find(|place| {
                place.compare_exchange(number, NOTHING, Ordering::Relaxed, Ordering::Relaxed).is_ok()
            });
        } else {
            // It was closed when this process began, and the number may be another's.
            std::mem::forget(fd);
        }
    }
}
