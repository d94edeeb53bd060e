//! What the system may be told about a file: how it is going to be read, and how much room it will need.
//!
//! This module reads and writes nothing; std does.
//!
//! # Safety
//!
//! The one unsafe call takes integers.

#![allow(unsafe_code)]

use std::io;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, AsRawFd};

use rustix::fs;

use super::PosixError;

/// How a part of a file is going to be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[doc(alias("posix_fadvise", "fadvise", "advice"))]
pub enum Advice {
    /// Nothing is known: the state without advice.
    #[doc(alias("POSIX_FADV_NORMAL", "FADV_NORMAL"))]
    Normal,
    /// From front to back: the system reads further ahead.
    #[doc(alias("POSIX_FADV_SEQUENTIAL", "FADV_SEQUENTIAL"))]
    Sequential,
    /// In no order: the system reads nothing ahead.
    #[doc(alias("POSIX_FADV_RANDOM", "FADV_RANDOM"))]
    Random,
    /// Once only. Linux heeds it since 6.3.
    #[doc(alias("POSIX_FADV_NOREUSE", "FADV_NOREUSE"))]
    Once,
    /// Soon: the system begins to read it now, and does not make the caller wait.
    #[doc(alias("POSIX_FADV_WILLNEED", "FADV_WILLNEED"))]
    WillNeed,
    /// Not any more: the system gives up its copy of whole pages that were written to the disk.
    #[doc(alias("POSIX_FADV_DONTNEED", "FADV_DONTNEED"))]
    DontNeed,
}

/// Tells the system how `length` bytes of a file from `offset` on, or all bytes from there if `None`, are going to be
/// used. That changes speed, and nothing else.
///
/// # Errors
/// [`PosixError::Io`]: `ESPIPE` for a pipe or socket, `EBADF` for a descriptor that gives no access, `EINVAL` if `offset`
/// or `length` is above `i64::MAX`.
#[doc(alias("posix_fadvise", "fadvise"))]
pub fn advise(
    file: impl AsFd,
    offset: u64,
    length: Option<NonZeroU64>,
    advice: Advice,
) -> Result<(), PosixError> {
    let advice = match advice {
        Advice::Normal => fs::Advice::Normal,
        Advice::Sequential => fs::Advice::Sequential,
        Advice::Random => fs::Advice::Random,
        Advice::Once => fs::Advice::NoReuse,
        Advice::WillNeed => fs::Advice::WillNeed,
        Advice::DontNeed => fs::Advice::DontNeed,
    };
    // As files are counted with signed numbers; the system would take a negative one for no advice at all.
    if i64::try_from(offset).is_err() || length.is_some_and(|length| i64::try_from(length.get()).is_err()) {
        return Err(PosixError::from_errno("posix_fadvise", rustix::io::Errno::INVAL));
    }
    fs::fadvise(file, offset, length, advice).map_err(|errno| PosixError::from_errno("posix_fadvise", errno))
}

/// Reserves storage for `length` bytes of a file from `offset` on, so that writing them cannot fail for want of room.
/// What was there stays; a shorter file is extended by zeros.
///
/// Where the file system cannot do that the C library writes into each block: slow, and not to be done to a file that
/// somebody else writes meanwhile, whose bytes it may overwrite. Above the process's limit of file sizes the system does
/// not only refuse, but sends `SIGXFSZ`, which ends the process unless it is ignored.
///
/// ```
/// use manycore_backends::posix::file::reserve;
///
/// let path = std::env::temp_dir().join(format!("manycore-doc-reserve-{}", std::process::id()));
/// let file = std::fs::File::create_new(&path)?;
/// reserve(&file, 0, 10_000)?;
/// assert_eq!(file.metadata()?.len(), 10_000);
/// std::fs::remove_file(&path)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`PosixError::NoRoom`] if the storage is full, or the file would be too large (`ENOSPC`, `EDQUOT`, `EFBIG`);
/// [`PosixError::Io`]: `EINVAL` if `length` is 0 or a number is above `i64::MAX`, `EBADF` if the file was not opened for
/// writing, `ESPIPE` for a pipe, `ENODEV` for what is no regular file.
#[doc(alias("posix_fallocate", "fallocate"))]
pub fn reserve(file: impl AsFd, offset: u64, length: u64) -> Result<(), PosixError> {
    const OP: &str = "posix_fallocate";
    let (Ok(offset), Ok(length)) = (libc::off64_t::try_from(offset), libc::off64_t::try_from(length)) else {
        return Err(PosixError::from_errno(OP, rustix::io::Errno::INVAL));
    };
    loop {
        let fd = file.as_fd();
        // SAFETY: takes integers; `fd` is open as long as it is borrowed.
        match unsafe { libc::posix_fallocate64(fd.as_raw_fd(), offset, length) } {
            0 => return Ok(()),
            libc::EINTR => {}
            errno => return Err(PosixError::from_io(OP, io::Error::from_raw_os_error(errno))),
        }
    }
}
