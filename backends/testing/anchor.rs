//! What the speed of locks is measured against: the robust mutex of the C library in shared memory, and the bare
//! system calls of record locks. For benchmarks; nobody else needs them.
//!
//! # Safety
//!
//! The mutex lies in anonymous shared memory that this process maps, and its forked children; nobody else can write to
//! it. It is initialised before it is used, does not move, and is not destroyed before the mapping goes.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};

/// A `PTHREAD_MUTEX_ROBUST`, shared with the children that are forked afterwards.
#[derive(Debug)]
pub struct RobustMutex {
    /// In a page that stays mapped until the process ends.
    raw: *mut libc::pthread_mutex_t,
}

// SAFETY: a mutex is there to be used by several threads.
unsafe impl Send for RobustMutex {}
// SAFETY: as above.
unsafe impl Sync for RobustMutex {}

fn checked(errno: i32) {
    assert_eq!(errno, 0, "{}", io::Error::from_raw_os_error(errno));
}

impl RobustMutex {
    /// A new one, unlocked.
    ///
    /// # Panics
    /// If the system has none.
    pub fn new() -> RobustMutex {
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: it is put where nothing is.
        let page = unsafe { mmap_anonymous(std::ptr::null_mut(), 4096, access, flags) };
        let raw = page.expect("a page can be mapped").cast();
        // SAFETY: all zeros are a valid (uninitialised) attribute object, and it is initialised next.
        let mut attributes: libc::pthread_mutexattr_t = unsafe { std::mem::zeroed() };
        // SAFETY: the attributes live in this frame until the mutex has been made from them.
        checked(unsafe { libc::pthread_mutexattr_init(&mut attributes) });
        // SAFETY: as above.
        checked(unsafe { libc::pthread_mutexattr_setpshared(&mut attributes, libc::PTHREAD_PROCESS_SHARED) });
        // SAFETY: as above.
        checked(unsafe { libc::pthread_mutexattr_setrobust(&mut attributes, libc::PTHREAD_MUTEX_ROBUST) });
        // SAFETY: the mutex has a page of its own, aligned, in which nothing is yet.
        checked(unsafe { libc::pthread_mutex_init(raw, &attributes) });
        RobustMutex { raw }
    }

    /// Locks and unlocks it.
    #[inline]
    pub fn pair(&self) {
        // SAFETY: the mutex was initialised, and its page stays mapped.
        checked(unsafe { libc::pthread_mutex_lock(self.raw) });
        // SAFETY: as above, and this thread holds it.
        checked(unsafe { libc::pthread_mutex_unlock(self.raw) });
    }
}

impl Default for RobustMutex {
    fn default() -> RobustMutex {
        RobustMutex::new()
    }
}

/// Locks and unlocks the first byte of the file by two bare system calls: of the process, or of the open file.
///
/// # Panics
/// If somebody else has it.
#[inline]
pub fn record_pair(fd: &impl AsFd, of_open_file: bool) {
    let command = if of_open_file { libc::F_OFD_SETLKW } else { libc::F_SETLKW };
    for kind in [libc::F_WRLCK, libc::F_UNLCK] {
        let region = libc::flock {
            l_type: kind as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: 0,
            l_len: 1,
            l_pid: 0,
        };
        // SAFETY: the descriptor is open as long as it is borrowed, and the kernel reads one `struct flock`.
        let result = unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), command, &region) };
        assert_ne!(result, -1, "{}", io::Error::last_os_error());
    }
}
