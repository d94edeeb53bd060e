//! Messages between processes through rings in shared memory, with a Unix socket beside them for all that is rare.
//!
//! While both sides are busy, a small message costs no system call: it is written into a ring, and read there. All else is
//! the socket's, which is a [`Socket`] link: large messages, those with descriptors, those for which the ring has no room,
//! and with them back-pressure, the end of file, and the descriptor to be polled.
//!
//! | what | goes |
//! |---|---|
//! | a message of at most 4 KiB, without descriptors | through the ring, if one is there and has room, and the peer has not finished |
//! | any other message | over the socket, in the [frame](super::frame) that [`Socket`] puts it in |
//! | that there is something in the ring, to a peer that is going to sleep | over the socket: the bell |
//! | the memory of the ring, to the peer | over the socket, as a descriptor |
//!
//! # When there is a ring
//!
//! Each direction has one of its own, made by who sends: when sixteen messages have gone that could have used it, so that a
//! link which is used a few times costs what a [`Socket`] link costs. Its memory (64 KiB, [`Memfd`](crate::shm::Memfd), of which only the pages
//! that are used take storage) is offered over the socket, and used when the peer has taken it up. If it cannot be made (for
//! want of memory or descriptors, or because the process may have no file as large), sent or mapped, the link goes on
//! without; over the loopback device it always does.
//!
//! So a fresh end is its socket and nothing else. It is one descriptor, can be given to another process by that, and needs no
//! greeting.
//!
//! # The order
//!
//! Messages over the socket are counted from the offer on, by both sides. An entry of the ring says how many of them go
//! before it; so one that says as many as have come is next, and otherwise the next message comes over the socket. A message
//! from the socket is taken only when the ring was looked at *after* it had come: then all entries before it are seen.
//!
//! The other side may be anybody. What makes no sense in the ring or on the socket is the end of the link:
//! [`TransportError::Broken`].
//!
//! # Who is gone
//!
//! A peer that drops its end says so in the ring and closes the socket: the next send is [`TransportError::Closed`]. One that
//! was killed says nothing, and the ring does not know. The socket does: it is asked at every 64th message that goes through
//! the ring, and whenever something goes over it, such as the bell to who slept when it was killed. So up to 63 messages may
//! be accepted after the peer's death, as others were before it, that nobody receives. A receive knows of the end at once.
//!
//! | file | concern |
//! |---|---|
//! | `mod` | [`Ring`], its ends and listeners |
//! | `sending` | what goes which way, the bell, and when a ring is offered |
//! | `receiving` | what comes first, looking, and sleeping |
//! | `packet` | what goes over the socket |
//! | `track` | the ring in shared memory |
//!
//! This module does not touch shared bytes itself, and does not know what is in a message.

#[cfg(all(test, loom))]
mod models;
mod packet;
mod receiving;
mod sending;
mod track;

#[cfg(all(not(loom), test, feature = "testing"))]
mod tests;

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use super::{
    Endpoint, Limits, Listener, Message, Peer, Socket, SocketAddress, SocketEnd, SocketListener, Transport,
    TransportError, TrySendError,
};
use crate::Portable;
use crate::sync::global::{AtomicBool, AtomicUsize, Condvar, Mutex, Ordering, lock};
use packet::{EXTRA, Packet};
use receiving::{Receiving, Try};
use sending::{Draft, Offered, Sending};
use track::Nonsense;

/// Rings in shared memory beside a Unix socket: between processes, also between threads. For many small messages between
/// parties on different cores.
///
/// A [`receive`](Endpoint::receive) that must wait, and a [`send`](Endpoint::send) that finds the ring full, keep their core
/// busy for up to 50 us before they sleep, as long as that has been of use, as those of [`Socket`] do.
///
/// ```
/// # use manycore_backends::transport::{BoxError, Endpoint, Limits, Message, Ring, Transport};
/// # #[derive(Debug)]
/// # struct Text(String);
/// # impl Message for Text {
/// #     fn encode(&self, out: &mut Vec<u8>) -> Result<(), BoxError> { out.extend(self.0.bytes()); Ok(()) }
/// #     fn decode(bytes: &[u8]) -> Result<Text, BoxError> { Ok(Text(String::from_utf8(bytes.to_vec())?)) }
/// # }
/// let (near, far) = Ring::pair::<Text, Text>(Limits::default())?;
/// std::thread::spawn(move || {
///     while let Ok(Text(text)) = far.receive(None) {
///         far.send(Text(text.to_uppercase()), None).expect("somebody waits for it");
///     }
/// });
/// for _ in 0..100 {
///     near.send(Text("hello".into()), None)?;
///     assert_eq!(near.receive(None)?.0, "HELLO");
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias("memfd_create", "SPSC"))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ring;

impl Transport for Ring {
    type End<S: Message, R: Message> = RingEnd<S, R>;
    type Listener<S: Message, R: Message> = RingListener<S, R>;
    type Address<S: Message, R: Message> = SocketAddress;

    fn pair<S: Message, R: Message>(
        limits: Limits,
    ) -> Result<(RingEnd<S, R>, RingEnd<R, S>), TransportError> {
        let (one, other) = Socket::pair(of_socket(limits))?;
        Ok((RingEnd::over(one, limits), RingEnd::over(other, limits)))
    }

    fn listen<S: Message, R: Message>(limits: Limits) -> Result<RingListener<S, R>, TransportError> {
        Ok(RingListener { socket: Socket::listen(of_socket(limits))?, limits })
    }

    /// # Errors
    /// Also those of [`Socket`].
    fn connect<S: Message, R: Message>(
        address: &SocketAddress,
        limits: Limits,
        timeout: Option<Duration>,
    ) -> Result<RingEnd<S, R>, TransportError> {
        Ok(RingEnd::over(Socket::connect(address, of_socket(limits), timeout)?, limits))
    }
}

/// The limits of the socket: what stands in front of some messages is not the caller's.
fn of_socket(limits: Limits) -> Limits {
    let message_bytes = limits.message_bytes.saturating_add(EXTRA).min(u32::MAX as usize);
    Limits { message_bytes, ..limits }
}

/// Where connections are asked for, whose ends use rings; they send `S` and receive `R`. It is a [`SocketListener`] at a
/// fresh address.
pub struct RingListener<S, R> {
    socket: SocketListener<Packet<S>, Packet<R>>,
    limits: Limits,
}

impl<S: Message, R: Message> Listener<S, R> for RingListener<S, R> {
    type End = RingEnd<S, R>;
    type Address = SocketAddress;

    fn address(&self) -> SocketAddress {
        self.socket.address()
    }

    fn accept(&self, timeout: Option<Duration>) -> Result<RingEnd<S, R>, TransportError> {
        Ok(RingEnd::over(self.socket.accept(timeout)?, self.limits))
    }

    fn try_accept(&self) -> Result<Option<RingEnd<S, R>>, TransportError> {
        Ok(self.socket.try_accept()?.map(|end| RingEnd::over(end, self.limits)))
    }

    fn descriptor(&self) -> Result<BorrowedFd<'_>, TransportError> {
        Ok(self.as_fd())
    }
}

impl<S, R> AsFd for RingListener<S, R> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl<S, R> fmt::Debug for RingListener<S, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RingListener").field("socket", &self.socket).finish_non_exhaustive()
    }
}

/// One end of a [`Ring`] link.
///
/// What a [`Message`] does runs while a half of the end is locked: it must not use this end. A thread that sleeps on the
/// descriptor by its own `poll` is woken only for what comes after a receive has found nothing (law 6): if another thread
/// receives, not before that one has been told `Ok(None)`, or sleeps in [`receive`](Endpoint::receive). While one thread
/// sleeps in that, what comes over the socket is for it: others, who try, find what is in the ring.
///
/// An end that was used and is carried into a forked child in memory, not as a descriptor, must not be used there: dropping
/// the parent's tells the peer that it is gone.
pub struct RingEnd<S, R> {
    socket: SocketEnd<Packet<S>, Packet<R>>,
    limits: Limits,
    /// The other side has said what makes no sense.
    broken: AtomicBool,
    /// The peer sends nothing more; whether it receives only the socket knows.
    ended: AtomicBool,
    sending: Mutex<Sending>,
    receiving: Mutex<Receiving<R>>,
    /// Receives that wait for the one that sleeps on the descriptor, or looks.
    followers: AtomicUsize,
    followed: Condvar,
}

impl<S: Message, R: Message> TryFrom<OwnedFd> for RingEnd<S, R> {
    type Error = TransportError;

    /// As [`RingEnd::from_fd`], with the largest limits there are: it trusts who has given it.
    fn try_from(fd: OwnedFd) -> Result<RingEnd<S, R>, TransportError> {
        RingEnd::from_fd(fd, Limits::with_message_bytes(u32::MAX as usize))
    }
}

impl<S: Message, R: Message> Portable for RingEnd<S, R> {}

impl<S: Message, R: Message> From<RingEnd<S, R>> for OwnedFd {
    /// As [`RingEnd::into_fd`].
    fn from(end: RingEnd<S, R>) -> OwnedFd {
        end.into_fd()
    }
}

impl<S: Message, R: Message> RingEnd<S, R> {
    /// Makes an end of an inherited or received descriptor, the peer of which is such an end too. As
    /// [`SocketEnd::from_fd`].
    ///
    /// # Errors
    /// The same.
    pub fn from_fd(fd: OwnedFd, limits: Limits) -> Result<RingEnd<S, R>, TransportError> {
        Ok(RingEnd::over(SocketEnd::from_fd(fd, of_socket(limits))?, limits))
    }

    /// Gives the descriptor up, to be inherited by a program that makes an end of it again. What this end holds is dropped: a
    /// rest to be flushed, received bytes, and what is in the ring to be received here. An end that was never used holds
    /// nothing. What was sent through a ring is still received, and the peer goes on over the socket, until new rings are
    /// made.
    pub fn into_fd(self) -> OwnedFd {
        if let Some(track) = &mut lock(&self.receiving).track {
            track.is_left = true;
        }
        self.socket.into_fd()
    }

    /// Who is at the other end, as [`SocketEnd::peer`].
    ///
    /// # Errors
    /// The same.
    #[doc(alias("SO_PEERCRED", "getpeereid"))]
    pub fn peer(&self) -> Result<Peer, TransportError> {
        self.socket.peer()
    }

    fn over(socket: SocketEnd<Packet<S>, Packet<R>>, limits: Limits) -> RingEnd<S, R> {
        RingEnd {
            socket,
            limits,
            broken: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            sending: Mutex::default(),
            receiving: Mutex::default(),
            followers: AtomicUsize::new(0),
            followed: Condvar::new(),
        }
    }

    /// Ends the link, because the other side has said what makes no sense.
    fn give_up(&self) -> TransportError {
        self.broken.store(true, Ordering::Release);
        self.socket.give_up();
        TransportError::Broken
    }

    fn nonsense(&self, _: Nonsense) -> TransportError {
        self.give_up()
    }

    fn check(&self) -> Result<(), TransportError> {
        if self.broken.load(Ordering::Acquire) { Err(TransportError::Broken) } else { Ok(()) }
    }

    /// An error of the socket, in the caller's terms.
    fn of_socket(&self, error: TransportError) -> TransportError {
        match error {
            TransportError::TooBig { size, .. } => {
                TransportError::TooBig { size, limit: self.limits.message_bytes.min(u32::MAX as usize) }
            }
            error => error,
        }
    }
}

impl<S: Message, R: Message> Endpoint<S, R> for RingEnd<S, R> {
    fn send(&self, message: S, timeout: Option<Duration>) -> Result<(), TransportError> {
        self.send_all(message, timeout)
    }

    fn try_send(&self, message: S) -> Result<(), TrySendError<S>> {
        match self.offer(&mut lock(&self.sending), Draft::Raw(message), false)? {
            Offered::Accepted(_) => Ok(()),
            Offered::Full(draft) => Err(TrySendError::Full(draft.into_message())),
        }
    }

    fn flush(&self) -> Result<bool, TransportError> {
        let mut sending = lock(&self.sending);
        self.check()?;
        if sending.gone {
            return Err(TransportError::Closed);
        }
        if sending.owes_bell {
            self.ring(&mut sending)?;
        }
        sending.is_left = !self.socket.flush()?;
        Ok(!sending.is_left && !sending.owes_bell)
    }

    fn finish(&self) -> Result<(), TransportError> {
        let mut sending = lock(&self.sending);
        self.check()?;
        sending.finished = true;
        if sending.gone {
            return Err(TransportError::Closed);
        }
        self.socket.finish()
    }

    fn is_flushed(&self) -> bool {
        let sending = lock(&self.sending);
        sending.gone || self.check().is_err() || self.socket.is_flushed() && !sending.owes_bell
    }

    fn receive(&self, timeout: Option<Duration>) -> Result<R, TransportError> {
        self.receive_one(timeout)
    }

    fn try_receive(&self) -> Result<Option<R>, TransportError> {
        self.take(&mut lock(&self.receiving), Try::Read)
    }

    fn descriptor(&self) -> Result<BorrowedFd<'_>, TransportError> {
        Ok(self.as_fd())
    }
}

impl<S, R> AsFd for RingEnd<S, R> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl<S, R> fmt::Debug for RingEnd<S, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RingEnd").field("socket", &self.socket).finish_non_exhaustive()
    }
}
