//! The system calls that look at a list of descriptors, and the list as they see it.
//!
//! This is what [`Poll`](super::Poll), [`Select`](super::Select) and [`PollArray`](super::PollArray) share. It does
//! not restart what a signal interrupts, and knows nothing of keys, owners and other threads.

use std::fmt;
use std::os::fd::RawFd;
use std::time::Duration;

use rustix::io::Errno;

use super::{Interest, Ready};

/// A system call that looks at a list.
pub(crate) trait Scan: Send + Sync + 'static {
    /// The name of the system call.
    const NAME: &'static str;
    /// What it reports without being asked for.
    const ALWAYS_TOLD: Ready;

    /// Sleeps until a cell is ready or the time is over, and says in each cell what it is ready for. Returns how many
    /// are. `Errno::INTR` if a signal came in between; after an error the readiness of the cells means nothing.
    ///
    /// A timeout is not longer than the `time_t` of every machine can say.
    fn scan(cells: &mut [RawCell], timeout: Option<Duration>) -> Result<usize, Errno>;
}

/// A descriptor, what it is asked for, and what it is ready for: the kernel's `struct pollfd`.
///
/// Its bits are those of [`Interest`] and [`Ready`].
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct RawCell(libc::pollfd);

const _: () = {
    assert!(Ready::READ.bits() as i16 == libc::POLLIN);
    assert!(Ready::PRIORITY.bits() as i16 == libc::POLLPRI);
    assert!(Ready::WRITE.bits() as i16 == libc::POLLOUT);
    assert!(Ready::ERROR.bits() as i16 == libc::POLLERR);
    assert!(Ready::HANGUP.bits() as i16 == libc::POLLHUP);
    assert!(Ready::INVALID.bits() as i16 == libc::POLLNVAL);
};

impl RawCell {
    /// A cell that is passed over.
    pub(crate) const VACANT: RawCell = RawCell(libc::pollfd { fd: -1, events: 0, revents: 0 });

    pub(crate) fn new(fd: RawFd, interest: Interest) -> RawCell {
        RawCell(libc::pollfd { fd, events: interest.bits().into(), revents: 0 })
    }

    /// Negative if the cell is vacant.
    pub(crate) fn fd(&self) -> RawFd {
        self.0.fd
    }

    pub(crate) fn interest(&self) -> Interest {
        Interest::from_bits(self.0.events as u8)
    }

    pub(crate) fn set_interest(&mut self, interest: Interest) {
        self.0.events = interest.bits().into();
    }

    #[inline]
    pub(crate) fn ready(&self) -> Ready {
        Ready::from_bits(self.0.revents as u8)
    }

    pub(crate) fn set_ready(&mut self, ready: Ready) {
        self.0.revents = ready.bits().into();
    }

    #[inline]
    pub(crate) fn is_ready(&self) -> bool {
        self.0.revents != 0
    }
}

impl fmt::Debug for RawCell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?} -> {:?}", self.fd(), self.interest(), self.ready())
    }
}
