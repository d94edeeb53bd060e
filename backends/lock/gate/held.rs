//! Who the calling thread is, and how many gates it is inside of: without any, it cannot be part of a cycle.
//!
//! This module does not know which gates these are.

#[cfg(not(loom))]
mod count {
    use std::cell::Cell;

    use crate::sync::thread::{self, ThreadId};

    thread_local! {
        static ME: ThreadId = thread::current().id();
        static HELD: Cell<usize> = const { Cell::new(0) };
    }

    /// The id of the thread, remembered: `thread::current` counts references.
    pub(in super::super) fn me() -> ThreadId {
        ME.with(|id| *id)
    }

    pub(in super::super) fn add() {
        HELD.set(HELD.get() + 1);
    }

    pub(in super::super) fn remove() {
        HELD.set(HELD.get().saturating_sub(1));
    }

    pub(in super::super) fn any() -> bool {
        HELD.get() > 0
    }
}

/// In the models, each thread knows one gate.
#[cfg(loom)]
mod count {
    use crate::sync::thread::{self, ThreadId};

    pub(in super::super) fn me() -> ThreadId {
        thread::current().id()
    }
    pub(in super::super) fn add() {}
    pub(in super::super) fn remove() {}
    pub(in super::super) fn any() -> bool {
        false
    }
}

pub(super) use count::{add, any, me, remove};
