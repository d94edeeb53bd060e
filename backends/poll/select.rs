//! The mechanism [`Select`]: the meaning of `poll`, by the system call `select`.
//!
//! For systems and sandboxes without `poll`, and for tests that want to know whether a program leans on more than the
//! contract says. What `select` makes hard is taken care of:
//!
//! | `select` by itself | here |
//! |---|---|
//! | no descriptor from `FD_SETSIZE` (1024) on | the sets are as long as the largest number needs |
//! | a closed descriptor makes the call fail with `EBADF` | that one is [`Ready::INVALID`], the others are looked at |
//! | a descriptor beyond the kernel's table is passed over in silence | the same |
//! | three answers: read, write, exceptional | [`Ready::READ`], [`Ready::WRITE`], [`Ready::PRIORITY`] |
//!
//! What cannot be taken care of is listed with [`BySelect`].
//!
//! This module does not ask other system calls for what `select` does not say: they cannot tell, change the descriptor (as
//! `SO_ERROR` does, which takes the error away), or tell of another moment.
//!
//! # Safety
//!
//! System calls that are handed numbers of descriptors: none changes a descriptor, and a number that is closed is told
//! as such. The sets have a bit for each number below the bound that `select` is given.

#![allow(unsafe_code)]

use std::ffi::c_ulong;
use std::os::fd::RawFd;
use std::ptr;
use std::time::Duration;

use rustix::io::Errno;

use super::scan::{RawCell, Scan};
use super::scanner::Scanner;
use super::{Interest, Ready, last_errno};

/// Watches descriptors with the system call `select`. What that cannot tell is listed
/// [with it](BySelect).
///
/// One descriptor may be watched under several keys, and its number may be of any size.
///
/// ```
/// use std::sync::Arc;
/// use manycore_backends::poll::{Interest, Poller, Ready, Select};
///
/// let (reader, writer) = std::os::unix::net::UnixStream::pair()?;
/// let select = Select::new()?;
/// select.add(7, Arc::new(writer), Interest::READ | Interest::WRITE)?;
/// let mut events = Vec::new();
/// select.wait(&mut events, None)?;
/// assert_eq!(events[0].ready, Ready::WRITE);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub type Select = Scanner<BySelect>;

/// Sleeping by the system call `select`: the parameter of [`Scanner`] and [`PollArray`](super::PollArray).
///
/// Numbers of descriptors have no limit, and a closed one is [`Ready::INVALID`] in its own place. But `select` has no
/// word for errors and hang-ups: what has one counts as readable or writable, and the next read or write tells. So
///
/// * they are not reported to who asks neither for reading nor for writing;
/// * an error comes as [`Ready::READ`] or [`Ready::WRITE`];
/// * a hang-up comes as [`Ready::READ`] to who asks for reading;
/// * what was opened as a path alone (`O_PATH`), which cannot be read or written, counts as ready, not as
///   [`Ready::INVALID`];
/// * who asks for writing alone is not told of a hang-up that leaves no room for writing, such as that of a socket that
///   is full and whose other side was shut down but not closed.
///
/// Apart from the last two, [`Ready::is_readable`] is true for who asks for reading, and [`Ready::is_writable`] for who asks
/// for writing, in the same cases as with `poll`.
///
/// Source: [`select`](https://pubs.opengroup.org/onlinepubs/9799919799/functions/select.html) of POSIX; the emulation of
/// `poll` in OCamlnet's `Netsys_posix`, whose limits are gone.
#[derive(Debug)]
pub enum BySelect {}

impl Scan for BySelect {
    const NAME: &'static str = "select";
    const ALWAYS_TOLD: Ready = Ready::INVALID;

    fn scan(cells: &mut [RawCell], timeout: Option<Duration>) -> Result<usize, Errno> {
        let mut invalid = 0;
        let mut highest: RawFd = -1;
        for cell in &mut *cells {
            cell.set_ready(Ready::NONE);
            // `select` is not asked about this one, and so would not notice.
            if cell.interest().is_none() && cell.fd() >= 0 && !is_open(cell.fd()) {
                cell.set_ready(Ready::INVALID);
                invalid += 1;
            }
            highest = highest.max(asked(cell));
        }
        // Numbers beyond the kernel's table would be passed over in silence; if the highest one is open, none is.
        while highest >= SMALLEST_TABLE && !is_open(highest) {
            invalid += mark_closed(cells);
            highest = cells.iter().map(asked).max().unwrap_or(-1);
        }
        loop {
            let timeout = if invalid > 0 { Some(Duration::ZERO) } else { timeout };
            match select(cells, highest, timeout) {
                Ok(ready) => return Ok(invalid + ready),
                // Closed numbers below the highest. If there is none any more, one was for a moment: look again.
                Err(Errno::BADF) => invalid += mark_closed(cells),
                Err(errno) => return Err(errno),
            }
        }
    }
}

/// The kernel's table of descriptors has as many places at least as a word has bits.
const SMALLEST_TABLE: RawFd = Word::BITS as RawFd;

/// The number that `select` has to be asked about, or -1.
fn asked(cell: &RawCell) -> RawFd {
    if cell.interest().is_none() || cell.is_ready() { -1 } else { cell.fd() }
}

/// Marks the cells that `select` has to be asked about and whose number is closed. Returns how many there are.
fn mark_closed(cells: &mut [RawCell]) -> usize {
    let mut count = 0;
    for cell in cells {
        let fd = asked(cell);
        if fd >= 0 && !is_open(fd) {
            cell.set_ready(Ready::INVALID);
            count += 1;
        }
    }
    count
}

/// Sets of numbers, as the kernel has them: a bit each.
type Word = c_ulong;
const BITS: usize = Word::BITS as usize;

/// As many words as the usual `fd_set` has.
const USUAL: usize = 1024 / BITS;

fn insert(set: &mut [Word], fd: RawFd) {
    let fd = fd as usize;
    set[fd / BITS] |= 1 << (fd % BITS);
}

fn contains(set: &[Word], fd: RawFd) -> bool {
    let fd = fd as usize;
    set[fd / BITS] & (1 << (fd % BITS)) != 0
}

/// Asks about all cells that are not marked yet, of which none has a number above `highest`, and counts those that are
/// ready.
fn select(cells: &mut [RawCell], highest: RawFd, timeout: Option<Duration>) -> Result<usize, Errno> {
    let bound = highest + 1;
    let words = (bound as usize).div_ceil(BITS);
    let mut usual = [0; 3 * USUAL];
    let mut many = Vec::new();
    let sets: &mut [Word] = if words <= USUAL {
        &mut usual[..3 * words]
    } else {
        many.resize(3 * words, 0);
        &mut many
    };
    let (read, rest) = sets.split_at_mut(words);
    let (write, priority) = rest.split_at_mut(words);
    let mut asked_for = Interest::NONE;
    for cell in &*cells {
        let fd = asked(cell);
        if fd < 0 {
            continue;
        }
        let interest = cell.interest();
        asked_for |= interest;
        if interest.contains(Interest::READ) {
            insert(read, fd);
        }
        if interest.contains(Interest::WRITE) {
            insert(write, fd);
        }
        if interest.contains(Interest::PRIORITY) {
            insert(priority, fd);
        }
    }
    // The kernel spends time on every set that it gets.
    let set = |set: &mut [Word], bit| {
        if asked_for.contains(bit) { set.as_mut_ptr().cast() } else { ptr::null_mut() }
    };
    let [first, second, third] =
        [set(read, Interest::READ), set(write, Interest::WRITE), set(priority, Interest::PRIORITY)];
    let result = match timeout {
        // What needs no fine clock is cheaper to ask for with the coarse one, or without any.
        None | Some(Duration::ZERO) => {
            let mut zero = libc::timeval { tv_sec: 0, tv_usec: 0 };
            let timeout = if timeout.is_none() { ptr::null_mut() } else { &raw mut zero };
            // SAFETY: of each set the kernel reads and writes the bits below `bound`, in whole words, and no more: that
            // is what the slices hold, though it may be more or less than an `fd_set` of the C library. A null pointer
            // is no set, or no end of waiting; the other is to a local.
            unsafe { libc::select(bound, first, second, third, timeout) }
        }
        Some(timeout) => {
            let timeout = libc::timespec {
                tv_sec: timeout.as_secs() as _, // Fits, by the contract of `Scan`.
                tv_nsec: timeout.subsec_nanos() as _,
            };
            // SAFETY: as above, and there is no signal mask.
            unsafe { libc::pselect(bound, first, second, third, &timeout, ptr::null()) }
        }
    };
    if result < 0 {
        return Err(last_errno());
    }
    if result == 0 {
        return Ok(0);
    }
    let mut count = 0;
    for cell in cells {
        let fd = asked(cell);
        if fd < 0 {
            continue;
        }
        let mut ready = Ready::NONE;
        let interest = cell.interest();
        if interest.contains(Interest::READ) && contains(read, fd) {
            ready |= Ready::READ;
        }
        if interest.contains(Interest::WRITE) && contains(write, fd) {
            ready |= Ready::WRITE;
        }
        if interest.contains(Interest::PRIORITY) && contains(priority, fd) {
            ready |= Ready::PRIORITY;
        }
        if !ready.is_none() {
            cell.set_ready(ready);
            count += 1;
        }
    }
    Ok(count)
}

fn is_open(fd: RawFd) -> bool {
    // SAFETY: takes integers and changes nothing.
    unsafe { libc::fcntl(fd, libc::F_GETFD) != -1 }
}
