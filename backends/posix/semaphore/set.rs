//! Semaphores without a name, in a file of memory.
//!
//! | bytes | what |
//! |---|---|
//! | 0..4 | the letters `mcse` |
//! | 4..8 | the format: 1 |
//! | 8..12 | bytes in a semaphore of the C library that made it |
//! | 12..16 | which C library: 1 glibc, 2 musl, 0 another |
//! | 16..20 | how many semaphores follow |
//! | 20..64 | 0 |
//! | 64.. | the semaphores, 64 bytes each: the C library's, zeros, and in the last word a mark: 1 live, 2 destroyed |
//!
//! Numbers are in the byte order of the machine, which is that of the only other users.
//!
//! This module sends its descriptor to nobody: the user does.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags, fallocate, fcntl_add_seals, memfd_create};
use rustix::io::Errno;

use super::area::{Area, HEADER, STRIDE};
use super::{MAX_VALUE, SIZE, Semaphore, SemaphoreError};
use crate::generation::Generation;
use crate::sync::global::Ordering;

const MAGIC: u32 = u32::from_ne_bytes(*b"mcse");
const FORMAT: u32 = 1;
const LIBRARY: u32 = match (cfg!(target_env = "gnu"), cfg!(target_env = "musl")) {
    (true, _) => 1,
    (_, true) => 2,
    _ => 0,
};

/// The words of the header that say what it is.
const HEADER_WORDS: [u32; 4] = [MAGIC, FORMAT, SIZE as u32, LIBRARY];
const COUNT: usize = HEADER_WORDS.len();

/// The mark of a semaphore that may be used.
pub(super) const LIVE: u32 = 1;
const DESTROYED: u32 = 2;

/// Semaphores that processes share through a descriptor, without a name.
///
/// They are in a file of memory that nobody can make longer or shorter, so that using it never raises SIGBUS. A forked
/// child has them without further ado; another process is sent the descriptor ([`AsFd`]), and calls
/// [`from_fd`](SemaphoreSet::from_fd). The memory is freed when the last one has dropped its set and descriptor.
///
/// ```no_run
/// use manycore_backends::posix::semaphore::SemaphoreSet;
/// use manycore_backends::spawn::{Child, Exit, Fork};
/// use std::sync::Arc;
///
/// let set = Arc::new(SemaphoreSet::new(&[0])?);
/// let given = set.clone();
/// let child = Fork.fork(&[], move || i32::from(given.get(0).and_then(|done| done.post()).is_err()))?;
/// set.get(0)?.wait()?;
/// assert_eq!(child.wait()?, Exit::Code(0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// In a forked child the descriptor is open only if the child kept it (law 3 of [`spawn`](crate::spawn)); the set itself
/// works in any case, and dropping the copy in the child leaves the number alone.
#[derive(Debug)]
#[doc(alias("anon_semaphore", "sem_init"))]
pub struct SemaphoreSet {
    area: Area,
    count: usize,
    /// `None` only while dropping.
    fd: Option<OwnedFd>,
    generation: Generation,
}

impl SemaphoreSet {
    /// The most semaphores of a set.
    pub const MAX_COUNT: usize = 1 << 20;

    /// Makes a semaphore for each of the values, which it begins with.
    ///
    /// # Errors
    /// [`SemaphoreError::BadCount`] if there are none, or more than [`MAX_COUNT`](SemaphoreSet::MAX_COUNT);
    /// [`SemaphoreError::ValueTooLarge`] if one is above [`MAX_VALUE`]; [`SemaphoreError::Io`] if there is no descriptor or
    /// memory left.
    #[doc(alias = "sem_init")]
    pub fn new(values: &[u32]) -> Result<SemaphoreSet, SemaphoreError> {
        let count = values.len();
        if count == 0 || count > SemaphoreSet::MAX_COUNT {
            return Err(SemaphoreError::BadCount { count, max: SemaphoreSet::MAX_COUNT });
        }
        if let Some(value) = values.iter().copied().find(|value| *value > MAX_VALUE) {
            return Err(SemaphoreError::ValueTooLarge { value });
        }
        let fd = memfd_create("manycore-semaphores", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
            .map_err(|errno| failed("memfd_create", errno))?;
        // Not only the size: the memory, too. What is missing when it is touched would be a SIGBUS.
        fallocate(&fd, FallocateFlags::empty(), 0, (HEADER + count * STRIDE) as u64)
            .map_err(|errno| failed("fallocate", errno))?;
        fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
            .map_err(|errno| failed("fcntl(F_ADD_SEALS)", errno))?;
        let mut area = Area::map(fd.as_fd())?;
        for (slot, value) in values.iter().enumerate() {
            area.initialise(slot, *value);
            area.mark(slot).store(LIVE, Ordering::SeqCst);
        }
        let header = HEADER_WORDS.into_iter().chain([count as u32]);
        for (word, value) in header.enumerate() {
            area.header(word).store(value, Ordering::SeqCst);
        }
        Ok(SemaphoreSet { area, count, fd: Some(fd), generation: Generation::current() })
    }

    /// The set that a descriptor is of: a copy of what [`as_fd`](SemaphoreSet::as_fd) gives, in any process.
    ///
    /// # Errors
    /// [`SemaphoreError::NotASemaphoreSet`] if it is of something else; [`SemaphoreError::Io`] if it cannot be mapped.
    #[doc(alias = "as_sem")]
    pub fn from_fd(fd: OwnedFd) -> Result<SemaphoreSet, SemaphoreError> {
        let area = Area::map(fd.as_fd())?;
        let refused = |what| Err(SemaphoreError::NotASemaphoreSet { what });
        let word = |word| Area::load(area.header(word));
        match HEADER_WORDS.iter().enumerate().position(|(index, expected)| word(index) != *expected) {
            None => {}
            Some(0) => return refused("it does not begin as one does"),
            Some(1) => return refused("its format is another one"),
            Some(_) => return refused("it was made by a program with another C library"),
        }
        let count = word(COUNT) as usize;
        let size = area.size();
        if count == 0 || count > SemaphoreSet::MAX_COUNT || size != HEADER + count * STRIDE {
            return refused("its size is not that of its semaphores");
        }
        Ok(SemaphoreSet { area, count, fd: Some(fd), generation: Generation::current() })
    }

    /// How many semaphores there are; the destroyed ones count, too.
    #[allow(clippy::len_without_is_empty, reason = "no set is empty")]
    pub fn len(&self) -> usize {
        self.count
    }

    /// A semaphore, by its place in the list that the set was made of.
    ///
    /// # Errors
    /// [`SemaphoreError::OutOfRange`] if there are not so many; [`SemaphoreError::Stale`] if it was destroyed.
    #[doc(alias = "as_sem")]
    pub fn get(&self, index: usize) -> Result<Semaphore<'_>, SemaphoreError> {
        let semaphore = self.any(index)?;
        semaphore.fresh()?;
        Ok(semaphore)
    }

    /// Ends a semaphore for everybody: whoever uses it from now on gets [`SemaphoreError::Stale`], and so do all who wait
    /// for it. There is no way back; a new semaphore needs a new set.
    ///
    /// # Errors
    /// [`SemaphoreError::Stale`] if it was destroyed before; [`SemaphoreError::OutOfRange`] if there are not so many.
    #[doc(alias = "sem_destroy")]
    pub fn destroy(&self, index: usize) -> Result<(), SemaphoreError> {
        let semaphore = self.any(index)?;
        let before = self.area.mark(index).swap(DESTROYED, Ordering::SeqCst);
        // Wakes one waiter, who wakes the next. Also if somebody else has destroyed it, who may have died before this. An
        // overflow says that nobody can be waiting.
        let _ = semaphore.raw.post();
        // `sem_destroy` must not be called while somebody may be waiting, and has nothing to free.
        if before == LIVE { Ok(()) } else { Err(SemaphoreError::Stale) }
    }

    fn any(&self, index: usize) -> Result<Semaphore<'_>, SemaphoreError> {
        if index >= self.count {
            return Err(SemaphoreError::OutOfRange { index, count: self.count });
        }
        Ok(Semaphore { raw: self.area.raw(index), mark: Some(self.area.mark(index)) })
    }
}

impl AsFd for SemaphoreSet {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_ref().expect("only `drop` takes it out").as_fd()
    }
}

impl Drop for SemaphoreSet {
    fn drop(&mut self) {
        if !self.generation.is_current() {
            // The number was closed in this child, and may be another's.
            std::mem::forget(self.fd.take());
        }
    }
}

fn failed(op: &'static str, errno: Errno) -> SemaphoreError {
    SemaphoreError::Io { op, source: errno.into() }
}
