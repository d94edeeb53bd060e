//! The C library's semaphores.
//!
//! # Safety
//!
//! What the C library calls a semaphore holds numbers only, no pointer. So the functions called here touch nothing but
//! the bytes of the semaphore, whatever values are in them, and there are two things to show: that the bytes are there as
//! long as a [`Raw`] is used, and that nobody else in this process touches them but those functions.
//!
//! The bytes of a semaphore with a name are there until `sem_close`: [`Named`] calls it once, when it is dropped, and
//! lends its `Raw` for no longer than itself. For those in an [`Area`](super::area::Area), that module makes a `Raw` by
//! an unsafe function, and shows both there.
//!
//! The `Send` and `Sync` of the types follow: POSIX says that threads may call these functions at once.

#![allow(unsafe_code)]

use std::ffi::{CStr, c_int};
use std::io;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::time::Duration;

use libc::sem_t;
use rustix::time::{ClockId, Timespec, clock_gettime};

use super::SemaphoreError;

/// The address of a semaphore that is there for `'a`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Raw<'a> {
    semaphore: NonNull<sem_t>,
    of: PhantomData<&'a sem_t>,
}

// SAFETY: see the module's head.
unsafe impl Send for Raw<'_> {}
// SAFETY: see the module's head.
unsafe impl Sync for Raw<'_> {}

impl Raw<'_> {
    /// # Safety
    /// As long as the value (or a copy) lives, there must be a semaphore that was initialised, or bytes that another
    /// process put in the place of one, and nobody in this process may access it but through such values.
    pub(super) unsafe fn new(semaphore: NonNull<sem_t>) -> Self {
        Raw { semaphore, of: PhantomData }
    }

    pub(super) fn post(self) -> Result<(), SemaphoreError> {
        // SAFETY: the semaphore is there, see the module's head.
        match check(unsafe { libc::sem_post(self.semaphore.as_ptr()) }) {
            Err(error) if error.raw_os_error() == Some(libc::EOVERFLOW) => {
                Err(SemaphoreError::Overflow { source: error })
            }
            result => result.map_err(|source| SemaphoreError::Io { op: "sem_post", source }),
        }
    }

    pub(super) fn wait(self) -> Result<(), SemaphoreError> {
        // SAFETY: the semaphore is there, see the module's head.
        let result = retry(|| check(unsafe { libc::sem_wait(self.semaphore.as_ptr()) }));
        result.map_err(|source| SemaphoreError::Io { op: "sem_wait", source })
    }

    pub(super) fn try_wait(self) -> Result<(), SemaphoreError> {
        // SAFETY: the semaphore is there, see the module's head.
        match retry(|| check(unsafe { libc::sem_trywait(self.semaphore.as_ptr()) })) {
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => Err(SemaphoreError::Busy),
            result => result.map_err(|source| SemaphoreError::Io { op: "sem_trywait", source }),
        }
    }

    pub(super) fn wait_timeout(self, timeout: Duration) -> Result<(), SemaphoreError> {
        match self.try_wait() {
            Err(SemaphoreError::Busy) if timeout.is_zero() => return Err(SemaphoreError::TimedOut),
            Err(SemaphoreError::Busy) => {}
            result => return result,
        }
        #[cfg(all(target_env = "gnu", target_pointer_width = "64"))]
        return self.wait_by_monotonic(timeout);
        #[cfg(not(all(target_env = "gnu", target_pointer_width = "64")))]
        return self.wait_by_realtime(timeout);
    }

    /// Where the C library can wait by a clock that nobody sets.
    #[cfg(all(target_env = "gnu", target_pointer_width = "64"))]
    fn wait_by_monotonic(self, timeout: Duration) -> Result<(), SemaphoreError> {
        // glibc has it since 2.30, the crate libc not yet.
        unsafe extern "C" {
            fn sem_clockwait(
                semaphore: *mut sem_t,
                clock: libc::clockid_t,
                until: *const libc::timespec,
            ) -> c_int;
        }
        let Some(until) = after(ClockId::Monotonic, timeout) else { return self.wait() };
        let until = libc::timespec { tv_sec: until.tv_sec, tv_nsec: until.tv_nsec };
        let result = retry(|| {
            // SAFETY: the semaphore is there, see the module's head; the time is a local.
            check(unsafe { sem_clockwait(self.semaphore.as_ptr(), libc::CLOCK_MONOTONIC, &until) })
        });
        timed(result, "sem_clockwait")
    }

    /// Where it waits by the time of day only: in steps, so that whoever sets that clock delays the end by one step at
    /// most.
    #[cfg(any(test, not(all(target_env = "gnu", target_pointer_width = "64"))))]
    fn wait_by_realtime(self, timeout: Duration) -> Result<(), SemaphoreError> {
        const STEP: Duration = Duration::from_millis(200);
        let start = std::time::Instant::now();
        loop {
            let left = timeout.saturating_sub(start.elapsed());
            // The time of day plus one step is a time of day.
            let until =
                after(ClockId::Realtime, left.min(STEP)).unwrap_or(Timespec { tv_sec: 0, tv_nsec: 0 });
            let until = libc::timespec { tv_sec: until.tv_sec as _, tv_nsec: until.tv_nsec as _ };
            let result = retry(|| {
                // SAFETY: the semaphore is there, see the module's head; the time is a local.
                check(unsafe { libc::sem_timedwait(self.semaphore.as_ptr(), &until) })
            });
            match timed(result, "sem_timedwait") {
                Err(SemaphoreError::TimedOut) if start.elapsed() < timeout => {}
                result => return result,
            }
        }
    }

    pub(super) fn value(self) -> u32 {
        let mut value = 0;
        // SAFETY: the semaphore is there, see the module's head; the other pointer is to a local. It cannot fail.
        unsafe { libc::sem_getvalue(self.semaphore.as_ptr(), &mut value) };
        // Some C libraries count waiters below zero.
        u32::try_from(value).unwrap_or(0)
    }
}

/// The time of a clock in `timeout` from now, if it is one.
fn after(clock: ClockId, timeout: Duration) -> Option<Timespec> {
    let now = Duration::try_from(clock_gettime(clock)).ok()?;
    Timespec::try_from(now.checked_add(timeout)?).ok()
}

fn timed(result: io::Result<()>, op: &'static str) -> Result<(), SemaphoreError> {
    match result {
        Err(error) if error.raw_os_error() == Some(libc::ETIMEDOUT) => Err(SemaphoreError::TimedOut),
        result => result.map_err(|source| SemaphoreError::Io { op, source }),
    }
}

fn check(result: c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Until no signal comes in between.
fn retry(mut call: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// An open semaphore with a name.
#[derive(Debug)]
pub(super) struct Named {
    semaphore: NonNull<sem_t>,
}

// SAFETY: see the module's head.
unsafe impl Send for Named {}
// SAFETY: see the module's head.
unsafe impl Sync for Named {}

impl Named {
    /// `sem_open`; `mode` and `value` matter if it is created.
    pub(super) fn open(name: &CStr, flags: c_int, mode: u32, value: u32) -> io::Result<Named> {
        loop {
            // SAFETY: the name is a string, and the arguments after the flags are of the types that it takes.
            let semaphore = unsafe { libc::sem_open(name.as_ptr(), flags, mode, value) };
            if let Some(semaphore) = NonNull::new(semaphore) {
                return Ok(Named { semaphore });
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }

    pub(super) fn unlink(name: &CStr) -> io::Result<()> {
        // SAFETY: the name is a string.
        check(unsafe { libc::sem_unlink(name.as_ptr()) })
    }

    pub(super) fn raw(&self) -> Raw<'_> {
        Raw { semaphore: self.semaphore, of: PhantomData }
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        // SAFETY: it was opened, is closed once, and nobody can have borrowed it any more.
        unsafe { libc::sem_close(self.semaphore.as_ptr()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_of_day_is_waited_by_where_there_is_no_better_clock() {
        let name = format!("/manycore-raw-{}", std::process::id());
        let name = std::ffi::CString::new(name).unwrap();
        let named = Named::open(&name, libc::O_CREAT | libc::O_EXCL, 0o600, 1).unwrap();
        Named::unlink(&name).unwrap();
        named.raw().wait_by_realtime(Duration::MAX).unwrap();
        let start = std::time::Instant::now();
        let limit = Duration::from_millis(250);
        assert!(matches!(named.raw().wait_by_realtime(limit), Err(SemaphoreError::TimedOut)));
        assert!(start.elapsed() >= limit, "also when that is more than one step");
    }
}
