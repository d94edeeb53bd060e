//! Closing what a child was not given.
//!
//! This module does not know which descriptors those are, and allocates nothing: its one function may be called in a
//! child that shares memory with its parent, or was forked from a process with several threads.
//!
//! # Safety
//!
//! Closing descriptors by number breaks the promise that an `OwnedFd` is open. The caller says that this is a child, in
//! which the owners of these numbers are copies: the originals live in the parent.

#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::os::fd::RawFd;

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
    let own = std::os::fd::AsRawFd::as_raw_fd(&directory);
    let mut buffer = [MaybeUninit::uninit(); 2048];
    // The kernel goes through the numbers in rising order, so that closing one that was told hides none.
    let mut entries = RawDir::new(&directory, &mut buffer);
    while let Some(entry) = entries.next() {
        let Some(fd) = number(entry?.file_name().to_bytes()) else { continue };
        if fd >= first && fd != own && keep.binary_search(&fd).is_err() {
            close(fd);
        }
    }
    Ok(())
}

/// The number that a name in `/proc/self/fd` is; `.` and `..` are none.
fn number(name: &[u8]) -> Option<RawFd> {
    std::str::from_utf8(name).ok()?.parse().ok()
}

fn close(fd: RawFd) {
    // SAFETY: the owners of this number live in the parent, as argued in the module's head.
    unsafe { libc::close(fd) };
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
