//! [`PollArray`]: a list of descriptors to wait for, without owners, keys or other threads.
//!
//! This is `poll` itself, made safe: descriptors are borrowed for as long as the array lives. It does not restart after
//! a signal unless asked to, and nobody can change an array during a wait; a [`Poller`](super::Poller) does both.

use std::fmt;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use rustix::io::Errno;

use super::limit::Limit;
use super::scan::{RawCell, Scan};
use super::{ByPoll, Interest, PollError, Ready, failed};

/// A list of cells: a descriptor, what it is asked for, and what it was ready for when it was last looked at.
///
/// The parameter is the system call: [`ByPoll`] or [`BySelect`](super::BySelect).
///
/// ```
/// use std::os::fd::AsFd;
/// use std::time::Duration;
/// use manycore_backends::poll::{BySelect, Interest, PollArray, Ready};
///
/// let (near, far) = std::os::unix::net::UnixStream::pair()?;
/// let mut array = PollArray::new(3);
/// array.set(0, near.as_fd(), Interest::READ)?;
/// array.set(1, far.as_fd(), Interest::READ | Interest::WRITE)?;
/// assert_eq!(array.wait(2, Some(Duration::ZERO))?, 1);
/// assert_eq!(array.get(0)?.ready, Ready::NONE);
/// assert_eq!(array.get(1)?.ready, Ready::WRITE);
///
/// let mut other = PollArray::<BySelect>::with_call(2);
/// other.copy_from(0, &array, 1, 1)?;
/// assert_eq!(other.wait(2, None)?, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias("poll_array", "create_poll_array", "pollfd"))]
#[allow(private_bounds, reason = "there are these two system calls, and no other can be added from outside")]
pub struct PollArray<'fd, C: Scan = ByPoll> {
    /// The owners' word for the numbers in `cells`, one for each.
    fds: Vec<Option<BorrowedFd<'fd>>>,
    cells: Vec<RawCell>,
    call: PhantomData<fn() -> C>,
}

/// A copy of one cell of a [`PollArray`].
#[doc(alias("poll_cell"))]
#[derive(Clone, Copy, Debug)]
pub struct PollCell<'fd> {
    /// The descriptor; `None` if the cell is vacant.
    pub fd: Option<BorrowedFd<'fd>>,
    /// What it is asked for.
    pub requested: Interest,
    /// What it was ready for when it was last looked at; [`Ready::NONE`] if it was not since it was set.
    pub ready: Ready,
}

impl<'fd> PollArray<'fd> {
    /// An array of `length` vacant cells, for the system call `poll`.
    pub fn new(length: usize) -> PollArray<'fd> {
        PollArray::with_call(length)
    }
}

#[allow(private_bounds, reason = "as above")]
impl<'fd, C: Scan> PollArray<'fd, C> {
    /// An array of `length` vacant cells, for the system call of the parameter.
    pub fn with_call(length: usize) -> PollArray<'fd, C> {
        PollArray { fds: vec![None; length], cells: vec![RawCell::VACANT; length], call: PhantomData }
    }

    /// The number of cells.
    #[doc(alias = "poll_array_length")]
    pub fn len(&self) -> usize {
        self.cells.len()
    }

    /// Whether there are no cells at all.
    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    /// Puts a descriptor and what to ask it for into the cell `index`, which is ready for nothing then.
    ///
    /// # Errors
    /// [`PollError::OutOfRange`] if there is no such cell.
    #[doc(alias = "set_poll_cell")]
    pub fn set(&mut self, index: usize, fd: BorrowedFd<'fd>, requested: Interest) -> Result<(), PollError> {
        self.check(index, 1)?;
        self.fds[index] = Some(fd);
        self.cells[index] = RawCell::new(fd.as_raw_fd(), requested);
        Ok(())
    }

    /// Makes the cell `index` vacant: it is passed over.
    ///
    /// # Errors
    /// [`PollError::OutOfRange`] if there is no such cell.
    pub fn clear(&mut self, index: usize) -> Result<(), PollError> {
        self.check(index, 1)?;
        self.fds[index] = None;
        self.cells[index] = RawCell::VACANT;
        Ok(())
    }

    /// A copy of the cell `index`.
    ///
    /// # Errors
    /// [`PollError::OutOfRange`] if there is no such cell.
    #[doc(alias = "get_poll_cell")]
    pub fn get(&self, index: usize) -> Result<PollCell<'fd>, PollError> {
        self.check(index, 1)?;
        let cell = &self.cells[index];
        Ok(PollCell { fd: self.fds[index], requested: cell.interest(), ready: cell.ready() })
    }

    /// Copies exactly `count` cells, from `from` on, to `to` and the following; the two ranges may overlap.
    ///
    /// # Errors
    /// [`PollError::OutOfRange`] if a cell of either range does not exist; nothing is copied then.
    #[doc(alias = "blit_poll_array")]
    pub fn copy_within(&mut self, from: usize, to: usize, count: usize) -> Result<(), PollError> {
        self.check(from, count)?;
        self.check(to, count)?;
        self.fds.copy_within(from..from + count, to);
        self.cells.copy_within(from..from + count, to);
        Ok(())
    }

    /// Copies exactly `count` cells of `other`, from `from` on, to the cells `to` and following of this array.
    ///
    /// # Errors
    /// [`PollError::OutOfRange`] if a cell of either range does not exist; nothing is copied then.
    #[doc(alias = "blit_poll_array")]
    pub fn copy_from<D: Scan>(
        &mut self,
        to: usize,
        other: &PollArray<'fd, D>,
        from: usize,
        count: usize,
    ) -> Result<(), PollError> {
        other.check(from, count)?;
        self.check(to, count)?;
        self.fds[to..to + count].copy_from_slice(&other.fds[from..from + count]);
        self.cells[to..to + count].copy_from_slice(&other.cells[from..from + count]);
        Ok(())
    }

    /// Sleeps until one of the first `count` cells is ready or the timeout is over, and says in each of them what it is
    /// ready for. Returns how many are ready for something. The other cells are left as they are.
    ///
    /// `None` waits for ever, zero looks once without sleeping.
    ///
    /// # Errors
    /// [`PollError::OutOfRange`] if there are fewer cells; [`PollError::Io`] if the system call fails: with `EINTR` if a
    /// signal was handled meanwhile, with `EINVAL` if `count` is more than the limit of open descriptors. No cell is
    /// ready for anything then.
    #[doc(alias("poll", "poll_result"))]
    pub fn wait(&mut self, count: usize, timeout: Option<Duration>) -> Result<usize, PollError> {
        self.check(0, count)?;
        self.wait_until(count, Limit::after(timeout)).map_err(|errno| failed(C::NAME, errno))
    }

    /// Like [`wait`](PollArray::wait), undisturbed by signals: sleeps on for the rest of the time.
    ///
    /// # Errors
    /// As for [`wait`](PollArray::wait), but not `EINTR`.
    #[doc(alias = "restarting_poll")]
    pub fn restarting_wait(&mut self, count: usize, timeout: Option<Duration>) -> Result<usize, PollError> {
        self.check(0, count)?;
        let limit = Limit::after(timeout);
        loop {
            match self.wait_until(count, limit) {
                Err(Errno::INTR) => {}
                result => return result.map_err(|errno| failed(C::NAME, errno)),
            }
        }
    }

    fn wait_until(&mut self, count: usize, limit: Limit) -> Result<usize, Errno> {
        let cells = &mut self.cells[..count];
        loop {
            match C::scan(cells, limit.remaining()) {
                // A sleep that is longer than the system can measure is made of several.
                Ok(0) if !limit.is_over() => {}
                Ok(ready) => return Ok(ready),
                Err(errno) => {
                    cells.iter_mut().for_each(|cell| cell.set_ready(Ready::NONE));
                    return Err(errno);
                }
            }
        }
    }

    /// Whether the array has the cells `first..first + count`.
    fn check(&self, first: usize, count: usize) -> Result<(), PollError> {
        let end = first.saturating_add(count);
        if end <= self.cells.len() {
            Ok(())
        } else {
            Err(PollError::OutOfRange { first, end, length: self.cells.len() })
        }
    }
}

impl<C: Scan> Clone for PollArray<'_, C> {
    fn clone(&self) -> Self {
        PollArray { fds: self.fds.clone(), cells: self.cells.clone(), call: PhantomData }
    }
}

impl<C: Scan> fmt::Debug for PollArray<'_, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.cells).finish()
    }
}

/// Sleeps until one descriptor is ready or the timeout is over, undisturbed by signals. Returns what it is ready for:
/// [`Ready::NONE`] after the timeout, and perhaps [`Ready::ERROR`], [`Ready::HANGUP`] or [`Ready::INVALID`] alone, which
/// nobody has to ask for.
///
/// ```
/// use std::os::fd::AsFd;
/// use manycore_backends::poll::{Interest, poll_single};
///
/// let (near, far) = std::os::unix::net::UnixStream::pair()?;
/// drop(far);
/// assert!(poll_single(near.as_fd(), Interest::READ, None)?.is_readable());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`PollError::Io`] if the system call fails for another reason than a signal.
pub fn poll_single(
    fd: BorrowedFd<'_>,
    requested: Interest,
    timeout: Option<Duration>,
) -> Result<Ready, PollError> {
    let mut array = PollArray::new(1);
    array.set(0, fd.as_fd(), requested)?;
    array.restarting_wait(1, timeout)?;
    Ok(array.get(0)?.ready)
}
