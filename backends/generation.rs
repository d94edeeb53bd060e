//! Which fork of the program is this? Handles to shared objects remember the generation that made
//! them, so that a handle carried through `fork` into a child is detected and refused: the child
//! shares the descriptor, but not the locks, of its parent.
//!
//! The generation is a counter in memory, raised in each child by `pthread_atfork`. It costs one
//! load to compare, where `getpid` is a system call. A child made by a raw `clone` system call, which
//! skips the handlers, is not noticed.
//!
//! # Safety
//!
//! The one unsafe call registers a handler that does nothing but one atomic addition, which is
//! async-signal-safe and so allowed in the child of a multi-threaded process.

#![allow(unsafe_code)]

use crate::sync::global::{AtomicU32, Once, Ordering};

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
}
