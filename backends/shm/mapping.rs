//! The words of an object, mapped once: the only file that touches shared bytes.
//!
//! Address space is reserved generously when an object is opened (a mapping may reach beyond the end of
//! its file), and the object grows underneath; the base address never changes. [`Mapping::words`] says how
//! much is there, and every access is checked against it.
//!
//! This module does not decide when to grow.
//!
//! # Safety
//!
//! All accesses are atomic accesses to aligned words inside the mapping (or do what such would do), of which this
//! process knows that the object covers them. Nobody in this process accesses the bytes in another way: no reference, slice or
//! pointer leaves this file. Other processes may write anything at any time; to this process that is a
//! concurrent atomic write, whatever instruction they use. If somebody truncates the object, an access
//! raises SIGBUS, which the [guard](super::guard) turns into zeros and a mark.
//!
//! Of an object that is only read the pages are mapped read-only, and loads from them acquire all the same. std promises
//! that only for relaxed loads, because somewhere a stronger one might need to write; where this crate is built (x86-64,
//! AArch64) an acquiring load of a word is a plain load.

#![allow(unsafe_code)]

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::num::NonZeroU32;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use memmap2::{Advice, MmapOptions, MmapRaw};
use rustix::io::Errno;
use rustix::thread::futex;
use rustix::time::{ClockId, Timespec, clock_gettime};

use super::guard::Guard;
use super::{Memory, OutOfBounds, WORD, Waited, Window};
use crate::sync::global::{AtomicU32, AtomicUsize, Ordering};

/// Address space reserved for an object in a file or in shared memory, in bytes: 64 GiB, or as much as
/// the process may have.
const RESERVE_SHARED: usize = 1 << 36;

/// Address space reserved for an object of the process's own, in bytes: 4 GiB.
const RESERVE_PRIVATE: usize = 1 << 32;

/// The most that is brought in at once, in bytes.
const POPULATE_MAX: u64 = 1 << 20;

/// What pages are a multiple of, in bytes.
const PAGE: usize = 4096;

/// What may be done with words: a mask for how many of them may be written, because that is asked at each store.
#[derive(Clone, Copy, Debug)]
pub(super) struct Access(usize);

impl Access {
    pub(super) fn new(read_only: bool) -> Access {
        Access(if read_only { 0 } else { usize::MAX })
    }

    pub(super) fn is_read_only(self) -> bool {
        self.0 == 0
    }
}

/// Words of shared memory.
pub struct Mapping {
    // Dropped first, before the range is unmapped.
    guard: Option<Guard>,
    raw: MmapRaw,
    words: AtomicUsize,
    access: Access,
}

impl Mapping {
    /// Maps the file, which has `size` bytes.
    pub(super) fn shared(fd: BorrowedFd<'_>, size: u64, read_only: bool) -> io::Result<Mapping> {
        let least = usize::try_from(size).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        let mut reserve = RESERVE_SHARED.max(least);
        let raw = loop {
            let mut options = MmapOptions::new();
            let options = options.len(reserve).no_reserve_swap();
            let mapped = match read_only {
                true => options.map_raw_read_only(fd.as_raw_fd()),
                false => options.map_raw(fd.as_raw_fd()),
            };
            match mapped {
                Ok(raw) => break raw,
                // A limit on address space (RLIMIT_AS): be content with less.
                Err(_) if reserve > least.max(1 << 20) => reserve = (reserve / 2).max(least),
                Err(error) => return Err(error),
            }
        };
        let guard = Some(Guard::new(raw.as_ptr() as usize, raw.len()));
        let access = Access::new(read_only);
        let mapping = Mapping { guard, raw, words: AtomicUsize::new(0), access };
        mapping.extend_to(size);
        Ok(mapping)
    }

    /// Maps all of a file that has `size` bytes and cannot be cut off: an access raises no SIGBUS. No more address space is
    /// taken than that, and it cannot grow.
    pub(super) fn exact(fd: BorrowedFd<'_>, size: u64) -> io::Result<Mapping> {
        let length = usize::try_from(size).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        let raw = MmapOptions::new().len(length).map_raw(fd.as_raw_fd())?;
        let access = Access::new(false);
        let mapping = Mapping { guard: None, raw, words: AtomicUsize::new(0), access };
        mapping.extend_to(size);
        Ok(mapping)
    }

    /// Maps memory of the process's own, zeroed; nothing of it is there yet.
    pub(super) fn private() -> io::Result<Mapping> {
        let raw = MmapOptions::new().len(RESERVE_PRIVATE).no_reserve_swap().map_anon()?;
        let access = Access::new(false);
        Ok(Mapping { guard: None, raw: raw.into(), words: AtomicUsize::new(0), access })
    }

    /// Somebody has cut the file off.
    pub(super) fn lose(&self) {
        if let Some(guard) = &self.guard {
            guard.lose();
        }
    }

    /// Whether somebody cut the file off, and that was noticed: what was read since may be zeros, and what was written may
    /// be nowhere.
    #[inline]
    pub(super) fn is_lost(&self) -> bool {
        self.guard.as_ref().is_some_and(Guard::is_lost)
    }

    /// The largest object that fits, in bytes.
    pub(super) fn reserved(&self) -> u64 {
        self.raw.len() as u64
    }

    /// Bytes known to be there.
    pub(super) fn size(&self) -> u64 {
        self.words() as u64 * WORD
    }

    /// Notes that the object covers at least `bytes` (and is mapped so far).
    pub(super) fn extend_to(&self, bytes: u64) {
        let words = bytes.min(self.reserved()) / WORD;
        self.words.fetch_max(words as usize, Ordering::AcqRel);
    }

    /// Notes that the object has grown from `from` to `to` bytes, by this process, which is going to use it: pages that
    /// are few are brought in at once, because that takes a fraction of the time of as many page faults.
    pub(super) fn grown(&self, from: u64, to: u64) {
        #[cfg(target_os = "linux")]
        if from < to && to - from <= POPULATE_MAX && to <= self.reserved() {
            let start = from as usize / PAGE * PAGE;
            // Only a wish: older systems do not know it, and a page that is not there now comes when it is touched.
            let _ = self.raw.advise_range(Advice::PopulateWrite, start, to as usize - start);
        }
        self.extend_to(to);
    }

    /// The words known now, to somebody who may do so much with a mapping that can be written.
    #[inline(always)]
    pub(super) fn window_for(&self, access: Access) -> Mapped<'_> {
        let words = self.words.load(Ordering::Acquire);
        Mapped { base: self.raw.as_mut_ptr().cast(), words, writable: words & access.0, of: PhantomData }
    }
}

/// Words of shared memory that were known when this was made.
#[derive(Clone, Copy, Debug)]
pub struct Mapped<'a> {
    base: *mut u32,
    words: usize,
    /// How many of them may be written.
    writable: usize,
    /// The mapping, which stays where it is and does not shrink.
    of: PhantomData<&'a Mapping>,
}

// SAFETY: it gives what a `&Mapping` gives, which may be sent and shared: atomic accesses to memory that stays where
// it is as long as the mapping is borrowed.
unsafe impl Send for Mapped<'_> {}
// SAFETY: as above; nothing in it changes.
unsafe impl Sync for Mapped<'_> {}

impl<'a> Mapped<'a> {
    #[inline(always)]
    fn check(&self, at: usize, count: usize, words: usize) -> Result<*mut u32, OutOfBounds> {
        match at.checked_add(count) {
            Some(end) if end <= words => Ok(self.base.wrapping_add(at)),
            _ => Err(outside(at, count, words)),
        }
    }

    /// The word at `word`.
    ///
    /// # Safety
    /// `word` must have come from [`check`](Mapped::check) of `self`, advanced by less than the count that was
    /// checked.
    #[inline(always)]
    unsafe fn atomic(self, word: *mut u32) -> &'a AtomicU32 {
        // SAFETY: `check` found the word among those that the object covers, and so inside the mapping, which lives as
        // long as `'a` and does not move; mappings begin at a page, so word offsets are aligned; and all accesses in
        // this process are atomic (they are all in this file).
        unsafe { AtomicU32::from_ptr(word) }
    }
}

impl Mapped<'_> {
    /// Copies words out.
    ///
    /// # Safety
    /// `from` and `count` must have come from [`check`](Mapped::check) of `self`; at `to` there must be room for so
    /// many words, which nobody else looks at.
    #[inline(always)]
    unsafe fn copy_out(self, from: *mut u32, to: *mut u32, count: usize) {
        // SAFETY: as promised here.
        let copied = unsafe { copy_lines(from, to, count) };
        for index in copied..count {
            // SAFETY: `index` is less than the count that was checked.
            let word = unsafe { self.atomic(from.wrapping_add(index)) }.load(Ordering::Acquire);
            // SAFETY: there is room for it.
            unsafe { to.wrapping_add(index).write(word) };
        }
    }

    /// Copies words in.
    ///
    /// # Safety
    /// `to` and `count` must have come from [`check`](Mapped::check) of `self` for words that may be written; at `from`
    /// there must be so many words.
    #[inline(always)]
    unsafe fn copy_in(self, from: *const u32, to: *mut u32, count: usize) {
        // SAFETY: as promised here.
        let copied = unsafe { copy_lines(from, to, count) };
        for index in copied..count {
            // SAFETY: they are there.
            let word = unsafe { from.wrapping_add(index).read() };
            // SAFETY: `index` is less than the count that was checked.
            unsafe { self.atomic(to.wrapping_add(index)) }.store(word, Ordering::Release);
        }
    }
}

/// Copies as many words as make whole pieces of eight, in rising order, and returns how many those were.
///
/// It does what a loop of relaxed atomic loads or stores of single words would do, in a quarter of the instructions:
/// the processor moves aligned words within larger pieces whole, keeps its loads in order, and its stores; and the
/// compiler moves no access to memory over an `asm` block.
///
/// # Safety
/// One side is in a mapping, the other belongs to the caller; both must have so many words.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline(always)]
unsafe fn copy_lines(from: *const u32, to: *mut u32, count: usize) -> usize {
    let pieces = count / 8;
    if pieces == 0 {
        return 0;
    }
    // SAFETY: it reads and writes `pieces` times 32 bytes, which are there; all it changes besides is declared.
    unsafe {
        std::arch::asm!(
            "2:",
            "movups {low}, [{from}]",
            "movups {high}, [{from} + 16]",
            "movups [{to}], {low}",
            "movups [{to} + 16], {high}",
            "add {from}, 32",
            "add {to}, 32",
            "dec {left}",
            "jnz 2b",
            from = inout(reg) from => _,
            to = inout(reg) to => _,
            left = inout(reg) pieces => _,
            low = out(xmm_reg) _,
            high = out(xmm_reg) _,
            options(nostack),
        );
    }
    pieces * 8
}

/// Elsewhere all words are copied one by one.
///
/// # Safety
/// None is needed.
#[cfg(not(all(target_arch = "x86_64", not(miri))))]
unsafe fn copy_lines(_: *const u32, _: *mut u32, _: usize) -> usize {
    0
}

/// Which of the four words beginning `at` are `value`, as bits, the first the lowest.
///
/// It does what four relaxed atomic loads would do, for the reasons of [`copy_lines`].
///
/// # Safety
/// The words must be in a mapping.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline(always)]
unsafe fn matches_of_four(at: *const u32, value: u32) -> u32 {
    use std::arch::x86_64::{__m128i, _mm_castsi128_ps, _mm_cmpeq_epi32, _mm_movemask_ps, _mm_set1_epi32};
    let words: __m128i;
    // SAFETY: it reads 16 bytes, which are there, and changes nothing else.
    unsafe {
        std::arch::asm!(
            "movups {words}, [{at}]",
            at = in(reg) at,
            words = out(xmm_reg) words,
            options(nostack, preserves_flags),
        );
    }
    // SAFETY: every x86-64 has this instruction, and those below.
    let wanted = unsafe { _mm_set1_epi32(value as i32) };
    // SAFETY: as above.
    let equal = unsafe { _mm_cmpeq_epi32(words, wanted) };
    // SAFETY: as above.
    let equal = unsafe { _mm_castsi128_ps(equal) };
    // SAFETY: as above.
    unsafe { _mm_movemask_ps(equal) as u32 }
}

#[cold]
fn outside(at: usize, count: usize, words: usize) -> OutOfBounds {
    OutOfBounds { at, count, words }
}

impl Window for Mapped<'_> {
    #[inline(always)]
    fn words(&self) -> usize {
        self.words
    }

    #[inline(always)]
    fn load(&self, at: usize) -> Result<u32, OutOfBounds> {
        let word = self.check(at, 1, self.words)?;
        // SAFETY: `word` was checked for one word of `self`.
        Ok(unsafe { self.atomic(word) }.load(Ordering::Acquire))
    }

    #[inline(always)]
    fn store(&self, at: usize, value: u32) -> Result<(), OutOfBounds> {
        let word = self.check(at, 1, self.writable)?;
        // SAFETY: `word` was checked for one word of `self`, which may be written.
        unsafe { self.atomic(word) }.store(value, Ordering::Release);
        Ok(())
    }

    #[inline(always)]
    fn read(&self, at: usize, into: &mut [u32]) -> Result<(), OutOfBounds> {
        let first = self.check(at, into.len(), self.words)?;
        // SAFETY: so many words were checked for `self`, and there is room for them in `into`, which is not shared.
        unsafe { self.copy_out(first, into.as_mut_ptr(), into.len()) };
        Ok(())
    }

    #[inline(always)]
    fn write(&self, at: usize, from: &[u32]) -> Result<(), OutOfBounds> {
        let first = self.check(at, from.len(), self.writable)?;
        // SAFETY: so many words were checked for `self`, which may be written, and `from` has as many.
        unsafe { self.copy_in(from.as_ptr(), first, from.len()) };
        Ok(())
    }

    #[inline(always)]
    fn append(&self, at: usize, count: usize, into: &mut Vec<u32>) -> Result<(), OutOfBounds> {
        let first = self.check(at, count, self.words)?;
        into.reserve(count);
        // SAFETY: so many words were checked for `self`, and there is room for them behind those in `into`.
        unsafe { self.copy_out(first, into.spare_capacity_mut().as_mut_ptr().cast(), count) };
        // SAFETY: they are there now.
        unsafe { into.set_len(into.len() + count) };
        Ok(())
    }

    #[inline(always)]
    fn read_array<const N: usize>(&self, at: usize) -> Result<[u32; N], OutOfBounds> {
        let first = self.check(at, N, self.words)?;
        Ok(std::array::from_fn(|index| {
            // SAFETY: `index` is less than the count that was checked for `self`.
            unsafe { self.atomic(first.wrapping_add(index)) }.load(Ordering::Acquire)
        }))
    }

    #[cfg(all(target_arch = "x86_64", not(miri)))]
    #[inline(always)]
    fn matches<const N: usize>(&self, at: usize, value: u32) -> Result<u32, OutOfBounds> {
        const { assert!(4 <= N && N <= 8) };
        let first = self.check(at, N, self.words)?;
        // SAFETY: these four words are among those that were checked for `self`.
        let low = unsafe { matches_of_four(first, value) };
        // SAFETY: so are these.
        let high = unsafe { matches_of_four(first.wrapping_add(N - 4), value) };
        Ok(low | high << (N - 4))
    }

    #[inline(always)]
    fn compare_exchange(&self, at: usize, current: u32, new: u32) -> Result<Result<u32, u32>, OutOfBounds> {
        let word = self.check(at, 1, self.writable)?;
        // SAFETY: `word` was checked for one word of `self`, which may be written.
        let word = unsafe { self.atomic(word) };
        Ok(word.compare_exchange(current, new, Ordering::SeqCst, Ordering::SeqCst))
    }

    fn wait(&self, at: usize, expected: u32, limit: Duration, mask: u32) -> Result<Waited, OutOfBounds> {
        let mask = NonZeroU32::new(mask).expect("a mask has a bit");
        let word = self.check(at, 1, self.words)?;
        let now = Duration::try_from(clock_gettime(ClockId::Monotonic)).unwrap_or_default();
        let until = now.checked_add(limit).and_then(|until| Timespec::try_from(until).ok());
        // SAFETY: `word` was checked for one word of `self`.
        let word = unsafe { self.atomic(word) };
        // Not private: the sleepers of other processes count, too.
        match futex::wait_bitset(word, futex::Flags::empty(), expected, until.as_ref(), mask) {
            Err(Errno::TIMEDOUT) => Ok(Waited::Elapsed),
            // Woken; or the word was another (EAGAIN), or a signal came (EINTR).
            _ => Ok(Waited::Woken),
        }
    }

    fn wake(&self, at: usize, count: u32, mask: u32) -> Result<(), OutOfBounds> {
        let mask = NonZeroU32::new(mask).expect("a mask has a bit");
        let word = self.check(at, 1, self.words)?;
        // SAFETY: `word` was checked for one word of `self`.
        let word = unsafe { self.atomic(word) };
        // The kernel counts in a signed number. It fails only where there is no such memory, and so no sleeper.
        let count = count.min(i32::MAX as u32);
        let _ = futex::wake_bitset(word, futex::Flags::empty(), count, mask);
        Ok(())
    }

    #[inline(always)]
    fn prefetch(&self, at: usize) {
        if let Ok(word) = self.check(at, 1, self.words) {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a hint, which reads nothing that the program could see.
            unsafe {
                std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(word.cast())
            };
            #[cfg(not(target_arch = "x86_64"))]
            let _ = word;
        }
    }
}

impl Memory for Mapping {
    type Window<'a> = Mapped<'a>;

    #[inline(always)]
    fn window(&self) -> Mapped<'_> {
        self.window_for(self.access)
    }
}

impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapping").field("words", &self.words()).finish_non_exhaustive()
    }
}
