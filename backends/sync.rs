//! The loom switch: the only importer of `std::sync` in the workspace.
//!
//! State machines that loom explores take their `Mutex`, `Condvar` and `thread` from here and get
//! loom's under `--cfg loom`. What lives in a `static` cannot be loom's (its types have no const
//! constructor); it takes its types from [`global`], which are always std's.
//!
//! This module does not add anything to the types that it passes on, but for [`lock`].

// Which of these a build uses depends on features and on the switch.
#![allow(unused_imports)]

#[cfg(loom)]
pub(crate) use loom::{
    cell::UnsafeCell,
    hint::spin_loop,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence},
    sync::{Condvar, Mutex, MutexGuard},
    thread,
};
#[cfg(not(loom))]
pub(crate) use std::{
    hint::spin_loop,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence},
    sync::{Condvar, Mutex, MutexGuard},
    thread,
};

/// std's, with the methods of loom's that are needed.
#[cfg(not(loom))]
#[derive(Debug)]
pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

#[cfg(not(loom))]
impl<T> UnsafeCell<T> {
    pub(crate) fn new(value: T) -> UnsafeCell<T> {
        UnsafeCell(std::cell::UnsafeCell::new(value))
    }

    #[inline(always)]
    pub(crate) fn with_mut<R>(&self, access: impl FnOnce(*mut T) -> R) -> R {
        access(self.0.get())
    }
}

/// Types for statics and for what loom does not explore: always those of std.
pub(crate) mod global {
    pub(crate) use std::sync::atomic::{
        AtomicBool, AtomicI32, AtomicU32, AtomicU64, AtomicUsize, Ordering, compiler_fence, fence,
    };
    pub(crate) use std::sync::{Arc, Condvar, Mutex, MutexGuard, Once, OnceLock, Weak};

    /// Locks `mutex`. A panic elsewhere while it was held is no reason to fail here: each user of this
    /// function leaves its data consistent at every point where it could panic.
    pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Like [`global::lock`], for the switched types.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// What comes after an exchange ([`Window::compare_exchange`](crate::shm::Window::compare_exchange)) happens after it, also
/// where that is another word's load: of two threads that exchange a word each, do this, and load the word of the other,
/// at least one sees what the other has done. On x86 the exchange itself sees to that.
#[inline(always)]
pub fn after_exchange() {
    #[cfg(any(loom, not(target_arch = "x86_64")))]
    fence(Ordering::SeqCst);
    #[cfg(all(not(loom), target_arch = "x86_64"))]
    global::compiler_fence(Ordering::SeqCst);
}
