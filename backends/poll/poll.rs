//! The mechanism [`Poll`]: one `poll` system call over all sources.
//!
//! Each wait hands the kernel the whole set, so that its cost grows with the number of sources, ready or
//! not: right for up to some hundred.
//!
//! # Safety
//!
//! A system call is handed a slice of `struct pollfd`, of which `RawCell` is a transparent copy. That a number in it
//! may be closed, or another's by now, makes the answer useless but breaks nothing: `poll` changes no descriptor.

#![allow(unsafe_code)]

use std::ptr;
use std::time::Duration;

use rustix::io::Errno;

use super::scan::{RawCell, Scan};
use super::scanner::Scanner;
use super::{Ready, last_errno};

/// Watches descriptors with the system call `poll`, available everywhere.
///
/// One descriptor may be watched under several keys. The set, with one more for a sleeping wait, may not
/// be larger than the limit of open descriptors (`RLIMIT_NOFILE`); a wait over more fails with `EINVAL`.
///
/// ```
/// use std::io::Write;
/// use std::os::unix::net::UnixStream;
/// use std::sync::Arc;
/// use manycore_backends::poll::{Interest, Poll, Poller};
///
/// let (mut near, far) = UnixStream::pair()?;
/// let poll = Poll::new()?;
/// poll.add(7, Arc::new(far), Interest::READ)?;
///
/// near.write_all(b"hello")?;
/// let mut events = Vec::new();
/// poll.wait(&mut events, None)?;
/// assert_eq!(events[0].key, 7);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub type Poll = Scanner<ByPoll>;

/// Sleeping by the system call `poll`: the parameter of [`Scanner`] and [`PollArray`](super::PollArray).
///
/// Source: [`poll`](https://pubs.opengroup.org/onlinepubs/9799919799/functions/poll.html) of POSIX, with the finer
/// timeout of Linux' `ppoll`.
#[derive(Debug)]
pub enum ByPoll {}

impl Scan for ByPoll {
    const NAME: &'static str = "poll";
    const ALWAYS_TOLD: Ready = Ready::UNASKED;

    fn scan(cells: &mut [RawCell], timeout: Option<Duration>) -> Result<usize, Errno> {
        let (first, count) = (cells.as_mut_ptr().cast::<libc::pollfd>(), cells.len() as libc::nfds_t);
        let result = match timeout {
            // What needs no clock is cheaper to ask for without one.
            None | Some(Duration::ZERO) => {
                let milliseconds = if timeout.is_none() { -1 } else { 0 };
                // SAFETY: `first` is the start of `count` cells that this call alone may write to, each a `pollfd`.
                unsafe { libc::poll(first, count, milliseconds) }
            }
            Some(timeout) => {
                let timeout = libc::timespec {
                    tv_sec: timeout.as_secs() as _, // Fits, by the contract of `Scan`.
                    tv_nsec: timeout.subsec_nanos() as _,
                };
                // SAFETY: as above; `timeout` is a local, and there is no signal mask.
                unsafe { libc::ppoll(first, count, &timeout, ptr::null()) }
            }
        };
        // -1 is the only negative result.
        usize::try_from(result).map_err(|_| last_errno())
    }
}
