//! Descriptors that say whether something is so: readable, or writable, exactly as long as it is.
//!
//! | bell | descriptor | it is so | it is not so |
//! |---|---|---|---|
//! | [`Bell::Readable`] | an eventfd, to be polled for reading | counter 1 | counter 0 |
//! | [`Bell::Writable`] | an eventfd, to be polled for writing | counter 0 | counter 2^64 - 2, its highest |
//! | two sides of a [`Pair`] | one end of a socket pair, to be polled for both | for reading: a byte has come; for writing: there is room in its buffer | no byte; no room |
//!
//! An eventfd cannot be neither readable nor writable, which is what a link is that waits for its peer; so a descriptor
//! for both directions takes a pair of sockets.
//!
//! Whoever changes a bell has a lock: none of this is for several threads at once.
//!
//! This module does not know what is said by a bell.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair, sockopt,
};

/// Says one thing by a descriptor.
#[derive(Debug)]
pub(in crate::transport) enum Bell {
    Readable(Arc<OwnedFd>),
    Writable(Arc<OwnedFd>),
    PairReadable(Arc<Pair>),
    PairWritable(Arc<Pair>),
    /// What the models look at instead.
    #[cfg(all(test, loom))]
    Flag(Arc<crate::sync::AtomicBool>),
}

/// A descriptor that is readable, writable, both or neither, as is said.
#[derive(Debug)]
pub(in crate::transport) struct Pair {
    /// What the user polls.
    shown: OwnedFd,
    /// From here it is made readable and writable.
    hidden: OwnedFd,
}

/// The highest value of an eventfd's counter.
const FULL: u64 = u64::MAX - 1;

impl Bell {
    /// A bell to be polled for reading, which says that it is not so.
    pub(in crate::transport) fn readable() -> io::Result<(Bell, Arc<OwnedFd>)> {
        let fd = Arc::new(counter()?);
        Ok((Bell::Readable(fd.clone()), fd))
    }

    /// A bell to be polled for writing, which says that it is not so.
    pub(super) fn writable() -> io::Result<(Bell, Arc<OwnedFd>)> {
        let fd = Arc::new(counter()?);
        rustix::io::write(&fd, &FULL.to_ne_bytes())?;
        Ok((Bell::Writable(fd.clone()), fd))
    }

    /// Says whether it is so. What it said before is the contrary.
    pub(super) fn set(&self, so: bool) {
        // None of this can fail for another reason than that somebody else uses the descriptor as his own, which is his
        // own fault: the calls do not wait, and there is room.
        let _ = match (self, so) {
            (Bell::Readable(fd), true) => rustix::io::write(fd, &1_u64.to_ne_bytes()).map(|_| ()),
            (Bell::Readable(fd), false) | (Bell::Writable(fd), true) => {
                rustix::io::read(fd, &mut [0; 8]).map(|_| ())
            }
            (Bell::Writable(fd), false) => rustix::io::write(fd, &FULL.to_ne_bytes()).map(|_| ()),
            (Bell::PairReadable(pair), true) => pair.put(&pair.hidden, &[1]).map(|_| ()),
            (Bell::PairReadable(pair), false) => Pair::take_all(&pair.shown),
            (Bell::PairWritable(pair), true) => Pair::take_all(&pair.hidden),
            (Bell::PairWritable(pair), false) => pair.fill(),
            #[cfg(all(test, loom))]
            (Bell::Flag(flag), so) => {
                flag.store(so, crate::sync::Ordering::SeqCst);
                Ok(())
            }
        };
    }
}

fn counter() -> io::Result<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

impl Pair {
    /// Neither readable nor writable.
    pub(in crate::transport) fn new() -> io::Result<Pair> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (shown, hidden) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        // The smallest there is: it has to be filled up.
        sockopt::set_socket_send_buffer_size(&shown, 1)?;
        let pair = Pair { shown, hidden };
        pair.fill()?;
        Ok(pair)
    }

    fn put(&self, to: &OwnedFd, bytes: &[u8]) -> Result<usize, Errno> {
        rustix::io::retry_on_intr(|| send(to, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT))
    }

    /// Leaves no room for writing.
    fn fill(&self) -> Result<(), Errno> {
        loop {
            match self.put(&self.shown, &[0; 512]) {
                Ok(_) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(errno) => return Err(errno),
            }
        }
    }

    fn take_all(from: &OwnedFd) -> Result<(), Errno> {
        let mut buffer = [0; 4096];
        loop {
            match recv(from, &mut buffer, RecvFlags::DONTWAIT) {
                Ok((_, 0)) | Err(Errno::AGAIN) => return Ok(()),
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
}

impl AsFd for Pair {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shown.as_fd()
    }
}
