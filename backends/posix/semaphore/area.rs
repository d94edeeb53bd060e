//! The memory that semaphores without a name are in.
//!
//! # Safety
//!
//! The bytes of an [`Area`] are there until it is unmapped, when it is dropped; all that it lends lives no longer. Nobody
//! can take the memory away under the mapping (an access would raise SIGBUS then): the file is sealed against becoming
//! shorter, which `Area` checks itself before it touches anything.
//!
//! Only this file knows the addresses, and gives them to nobody but [`Raw`]. The header and the marks are accessed
//! atomically, always; semaphores are initialised while nobody else can have the memory, and never again, and from then on
//! accessed by the functions of `Raw` only. Another process can write what it likes, atomically or not: that is not an
//! access of this program, and at worst like one more writer with strange values, who can make a waiter wait for ever, or
//! the C library end the process, but not break memory.

#![allow(unsafe_code)]

use std::fmt;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

use libc::sem_t;
use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{FsWord, SealFlags, fcntl_get_seals, fstat, fstatfs};

use super::raw::Raw;
use super::{MAX_VALUE, SemaphoreError};
use crate::sync::global::{AtomicU32, Ordering};

/// Bytes before the first semaphore of an area: 16 words.
pub(super) const HEADER: usize = 64;

/// Bytes from one semaphore of an area to the next: a cache line, the last word of which is the mark.
pub(super) const STRIDE: usize = 64;
const MARK: usize = STRIDE - size_of::<u32>();

/// What the kernel calls the file system that such files are in.
const TMPFS: FsWord = 0x0102_1994;

const _: () = assert!(size_of::<sem_t>() <= MARK && STRIDE % align_of::<sem_t>() == 0);

/// A mapped header, and semaphores behind it, each with a mark.
pub(super) struct Area {
    memory: MmapRaw,
    slots: usize,
}

impl Area {
    /// Maps all of a file; as many semaphores as fit are in it.
    ///
    /// # Errors
    /// If the file can become shorter, is not of ordinary memory, has no room for the header, or cannot be mapped for
    /// writing.
    pub(super) fn map(fd: BorrowedFd<'_>) -> Result<Area, SemaphoreError> {
        let refused = |what| Err(SemaphoreError::NotASemaphoreSet { what });
        // What is no memfd has no seals; most other files say so by EINVAL.
        if !fcntl_get_seals(fd).is_ok_and(|seals| seals.contains(SealFlags::SHRINK | SealFlags::GROW)) {
            return refused("it is not a memory file that is sealed against growing and shrinking");
        }
        // Large pages can be taken away although the size stays.
        if !fstatfs(fd).is_ok_and(|system| system.f_type == TMPFS) {
            return refused("it is not of ordinary memory");
        }
        // From here on the size is what it is.
        let stat = fstat(fd).map_err(|errno| SemaphoreError::Io { op: "fstat", source: errno.into() })?;
        let Some(size) = usize::try_from(stat.st_size).ok().filter(|size| *size >= HEADER) else {
            return refused("it is too small");
        };
        let memory = MmapOptions::new()
            .len(size)
            .map_raw(fd.as_raw_fd())
            .map_err(|source| SemaphoreError::Io { op: "mmap", source })?;
        Ok(Area { memory, slots: (size - HEADER) / STRIDE })
    }

    /// Bytes of the file.
    pub(super) fn size(&self) -> usize {
        self.memory.len()
    }

    /// A word of the header.
    pub(super) fn header(&self, word: usize) -> &AtomicU32 {
        self.word(word * size_of::<u32>())
            .filter(|_| word < HEADER / size_of::<u32>())
            .expect("it is one of the header")
    }

    /// The mark beside a semaphore.
    pub(super) fn mark(&self, slot: usize) -> &AtomicU32 {
        self.word(self.offset(slot) + MARK).expect("the slot is in the file")
    }

    pub(super) fn raw(&self, slot: usize) -> Raw<'_> {
        // SAFETY: see the module's head.
        unsafe { Raw::new(self.address(slot)) }
    }

    /// Makes a semaphore. Only for an area that nobody else has yet.
    pub(super) fn initialise(&mut self, slot: usize, value: u32) {
        debug_assert!(value <= MAX_VALUE);
        let semaphore = self.address(slot);
        // SAFETY: the semaphore is in the mapping, and nobody uses it: `&mut` says so for this process, and our caller
        // for the others. It cannot fail: the value is not too large.
        unsafe { libc::sem_init(semaphore.as_ptr(), 1, value) };
    }

    fn address(&self, slot: usize) -> NonNull<sem_t> {
        let at = self.memory.as_mut_ptr().wrapping_add(self.offset(slot)).cast();
        NonNull::new(at).expect("no mapping is at the address 0")
    }

    fn offset(&self, slot: usize) -> usize {
        assert!(slot < self.slots, "slot {slot} of {}", self.slots);
        HEADER + slot * STRIDE
    }

    fn word(&self, at: usize) -> Option<&AtomicU32> {
        let end = at.checked_add(size_of::<u32>())?;
        if end > self.memory.len() || at % size_of::<u32>() != 0 {
            return None;
        }
        let word = self.memory.as_mut_ptr().wrapping_add(at).cast::<u32>();
        // SAFETY: the word is inside the mapping, which is there as long as `self`, and aligned, because mappings begin at
        // a page. No semaphore is there: it is in the header or a mark, and all accesses to those are atomic.
        Some(unsafe { AtomicU32::from_ptr(word) })
    }

    /// The value of a mark, or word of the header, that others may change at any time.
    pub(super) fn load(word: &AtomicU32) -> u32 {
        word.load(Ordering::SeqCst)
    }
}

impl fmt::Debug for Area {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Area").field("slots", &self.slots).finish_non_exhaustive()
    }
}
