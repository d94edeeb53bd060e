//! Closing what a child was not given.
//!
//! This module does not know which descriptors those are, and allocates nothing: its functions may be called in a child
//! that shares memory with its parent, or was forked from a process with several threads.
//!
//! # Safety
//!
//! Closing descriptors by number breaks the promise that an `OwnedFd` is open. The caller says that this is a child, in
//! which the owners of these numbers are copies: the originals live in the parent.

#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, IntoRawFd, RawFd};

use rustix::fs::{Mode, OFlags, RawDir};
use rustix::io::Errno;

/// Closes all descriptors from `first` on but those in `keep`, which is sorted. Async-signal-safe.
///
/// # Errors
/// If neither the kernel can do it at once (`close_range`, Linux 5.9) nor tell what is open (`/proc`).
pub(super) fn close_all_but(first: RawFd, keep: &[RawFd]) -> Result<(), Errno> {
    let mut next = first;
    for &fd in keep {
        if fd > next && close_range(next, fd - 1).is_err() {
            return close_listed(first, keep);
        }
        next = fd.saturating_add(1).max(next);
    }
    close_range(next, RawFd::MAX).or_else(|_| close_listed(first, keep))
}

/// For kernels before 5.9, and for sandboxes that do not know `close_range`.
fn close_listed(first: RawFd, keep: &[RawFd]) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(c"/proc/self/fd", flags, Mode::empty())?;
    // Closed below, by number: dropping it would be the C library's `close`.
    let own = directory.into_raw_fd();
    // SAFETY: it was just opened, and is closed after this function's last use of it.
    let directory = unsafe { BorrowedFd::borrow_raw(own) };
    let mut buffer = [MaybeUninit::uninit(); 2048];
    // The kernel goes through the numbers in rising order, so that closing one that was told hides none.
    let mut entries = RawDir::new(directory, &mut buffer);
    let mut result = Ok(());
    while let Some(entry) = entries.next() {
        let fd = match entry {
            Ok(entry) => number(entry.file_name().to_bytes()),
            Err(errno) => {
                result = Err(errno);
                break;
            }
        };
        if let Some(fd) = fd.filter(|fd| *fd >= first && *fd != own && keep.binary_search(fd).is_err()) {
            let _ = close(fd);
        }
    }
    let _ = close(own);
    result
}

/// The number that a name in `/proc/self/fd` is; `.` and `..` are none.
fn number(name: &[u8]) -> Option<RawFd> {
    std::str::from_utf8(name).ok()?.parse().ok()
}

/// Closes the descriptor with this number. Async-signal-safe, and not the C library's `close`: that is a place where a
/// thread can be cancelled, and a child that shares memory would unwind its parent's thread.
///
/// # Errors
/// `EBADF` if it is not open.
pub(super) fn close(fd: RawFd) -> Result<(), Errno> {
    // SAFETY: takes an integer; the owner of this number lives in the parent, as argued in the module's head.
    let result = unsafe { libc::syscall(libc::SYS_close, fd) };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

/// The error of the last call of the C library in this thread. Async-signal-safe.
pub(super) fn last_errno() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}

fn close_range(first: RawFd, last: RawFd) -> Result<(), Errno> {
    let (first, last) = (first.unsigned_abs(), last.unsigned_abs());
    // SAFETY: takes integers; the owners of these numbers live in the parent, as argued in the module's head.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if result == 0 { Ok(()) } else { Err(Errno::NOSYS) }
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn names_of_descriptors_are_numbers() {
        assert_eq!(number(b"0"), Some(0));
        assert_eq!(number(b"1048575"), Some(1_048_575));
        assert_eq!(number(b"."), None);
        assert_eq!(number(b".."), None);
    }
}
