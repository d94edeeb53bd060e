//! Messages between processes through rings in shared memory, with a Unix socket beside them for all that is rare.
//!
//! While both sides are busy, a small message costs no system call: it is written into a ring, and read there. All else is
//! the socket's, which is a [`Socket`] link: large messages, those with descriptors, those for which the ring has no room,
//! and with them back-pressure, the end of file, and the descriptor to be polled.
//!
//! | what | goes |
//! |---|---|
//! | a message of at most 4 KiB, without descriptors | through the ring, if one is there and has room |
//! | any other message | over the socket, in the [frame] that [`Socket`] puts it in |
//! | that there is something in the ring, to a peer that is going to sleep | over the socket: the bell |
//! | the memory of the ring, to the peer | over the socket, as a descriptor |
//!
//! # When there is a ring
//!
//! Each direction has one of its own, made by who sends: when sixteen messages have gone that could have used it, so that a
//! link which is used a few times costs what a [`Socket`] link costs. Its memory (64 KiB, [`Memfd`], of which only the pages
//! that are used take storage) is offered over the socket, and used when the peer has taken it up. If it cannot be made, sent
//! or mapped, the link goes on without; over the loopback device it always does.
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
//! This module does not touch shared bytes itself, and does not know what is in a message.

mod packet;
mod track;

#[cfg(all(not(loom), test, feature = "testing"))]
mod tests;

use std::fmt;
use std::io;
use std::mem;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::frame;
use super::socket::deadline_after;
use super::{
    Endpoint, Limits, Listener, Message, Peer, Socket, SocketAddress, SocketEnd, SocketListener, Transport,
    TransportError, TrySendError,
};
use crate::Portable;
use crate::generation::Generation;
use crate::patience::Patience;
use crate::shm::{Mapping, Memfd};
use crate::sync::global::{AtomicBool, AtomicUsize, Condvar, Mutex, MutexGuard, Ordering, lock};
use crate::sync::spin_loop;
use packet::{EXTRA, Packet};
use track::{BYTES, MESSAGE_MAX, Nonsense, Reader, Writer, Written};

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
/// descriptor by its own `poll` is not woken for messages that another thread's receive has read along with its own (law 6);
/// the blocking [`receive`](Endpoint::receive) is. While one thread sleeps in that, what comes over the socket is for it:
/// others, who try, find what is in the ring.
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

/// So many messages that could use a ring go without it first.
const OFFER_AFTER: u32 = 16;

/// So many bells may be there for an end that had this descriptor before: far more than there ever are.
const BELLS_BEFORE: u32 = 1024;

/// So many messages go through the ring before the socket is asked for the peer once more.
const ASK_AFTER: u32 = 64;

/// Pauses of the processor between two looks at a ring.
const PAUSES: u32 = 1;

struct Sending {
    track: Option<Writer<Mapping>>,
    /// How many messages went over the socket since the ring was offered.
    by_socket: u32,
    /// How many could have used a ring since one could have been offered.
    small: u32,
    offer_after: u32,
    /// How many went through the ring since the socket was asked.
    unasked: u32,
    /// The frame of the message that is being sent. Reused.
    frame: Vec<u8>,
    /// The socket may have something left to flush: nothing may overtake it unseen (law 2).
    is_left: bool,
    /// The system has refused to ring the bell, for reasons of its own.
    owes_bell: bool,
    finished: bool,
    gone: bool,
    patience: Patience,
}

struct Receiving<R> {
    track: Option<Attached>,
    /// How many messages were taken from the socket since the ring was offered.
    came: u32,
    /// What has come over the socket, while the ring may hold what goes before it.
    held: Option<Packet<R>>,
    /// A message came over the socket since a ring was offered: another may be.
    may_offer: bool,
    /// So many bells may be on their way.
    bells: u32,
    /// The socket is being read. Still so afterwards: a message has panicked, and is gone.
    inside: bool,
    /// A thread looks, or sleeps on the descriptor, and has left the lock meanwhile.
    is_led: bool,
    /// It sleeps: what comes over the socket, which wakes it, is for it.
    asleep: bool,
    patience: Patience,
    message: Vec<u8>,
}

/// The ring that the peer writes to.
struct Attached {
    reader: Reader<Mapping>,
    generation: Generation,
    /// The descriptor was given away: the link goes on without this ring.
    is_left: bool,
}

impl Drop for Attached {
    fn drop(&mut self) {
        // If it is dropped in a forked child, it is still the parent's.
        match self.is_left {
            true => self.reader.leave(),
            false if self.generation.is_current() => self.reader.close(),
            false => {}
        }
    }
}

/// A message on its way into the link.
enum Draft<S> {
    /// As it was given.
    Raw(S),
    /// For the socket.
    Packed(Packet<S>),
}

impl<S: Message> Draft<S> {
    fn into_message(self) -> S {
        match self {
            Draft::Raw(message) => message,
            Draft::Packed(packet) => packet.into_message().expect("it was made of a message"),
        }
    }
}

/// What has become of it.
enum Offered<S> {
    /// It was accepted; if a part of it is left in the socket's end, that is of its message of this number.
    Accepted(Option<u64>),
    /// There is no room.
    Full(Draft<S>),
}

/// What a try to receive may do beside looking at the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Try {
    /// Nothing, unless the peer says that something went over the socket, or there is no ring.
    Look,
    /// Have the next entry told.
    Arm,
    /// That, and read the socket first.
    Read,
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
            sending: Mutex::new(Sending {
                track: None,
                by_socket: 0,
                small: 0,
                offer_after: OFFER_AFTER,
                unasked: 0,
                frame: Vec::new(),
                is_left: false,
                owes_bell: false,
                finished: false,
                gone: false,
                patience: Patience::default(),
            }),
            receiving: Mutex::new(Receiving {
                track: None,
                came: 0,
                held: None,
                may_offer: true,
                bells: BELLS_BEFORE,
                inside: false,
                is_led: false,
                asleep: false,
                patience: Patience::default(),
                message: Vec::new(),
            }),
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

/// Sending.
impl<S: Message, R: Message> RingEnd<S, R> {
    /// Accepts a message if that needs no waiting. One that would go through the ring if that had room comes back if it
    /// `waits` for it.
    fn offer(
        &self,
        sending: &mut Sending,
        draft: Draft<S>,
        waits: bool,
    ) -> Result<Offered<S>, TransportError> {
        self.check()?;
        if sending.gone {
            return Err(TransportError::Closed);
        }
        if sending.finished {
            return Err(TransportError::Finished);
        }
        if !self.make_way(sending)? {
            return Ok(Offered::Full(draft));
        }
        let mut message = match draft {
            Draft::Raw(message) => message,
            Draft::Packed(packet) => return self.by_socket(sending, packet, false),
        };
        let descriptors = message.detach();
        let has_descriptors = !descriptors.is_empty();
        let is_lent = message.as_bytes().is_some_and(|bytes| bytes.len() > MESSAGE_MAX);
        frame::recycle(&mut sending.frame);
        if !is_lent {
            frame::append(&message, self.limits.message_bytes, &mut sending.frame)?;
        }
        if has_descriptors {
            message.attach(Ok(descriptors));
        }
        if is_lent {
            let packet = Packet::lent(message, self.limits.message_bytes)?;
            return self.by_socket(sending, packet, false);
        }
        let size = sending.frame.len() - frame::HEADER_BYTES;
        let is_small = size <= MESSAGE_MAX && !has_descriptors;
        if is_small && sending.track.is_some() && !self.ended.load(Ordering::Relaxed) {
            match self.by_ring(sending)? {
                Written::There | Written::Ring => return Ok(Offered::Accepted(self.left(sending))),
                Written::Not if waits => return Ok(Offered::Full(Draft::Raw(message))),
                Written::Not | Written::Left | Written::Gone => {}
            }
        }
        let packet = Packet::whole(message, mem::take(&mut sending.frame));
        self.by_socket(sending, packet, is_small)
    }

    /// Writes what the socket has left; true if something may follow.
    fn make_way(&self, sending: &mut Sending) -> Result<bool, TransportError> {
        if sending.owes_bell {
            self.ring(sending)?;
        }
        if sending.is_left {
            sending.is_left = !self.socket.flush()?;
        }
        Ok(!sending.is_left)
    }

    /// Notes whether the socket has something left, and of which message.
    fn left(&self, sending: &mut Sending) -> Option<u64> {
        if !sending.is_left {
            return None;
        }
        let left = self.socket.unflushed();
        sending.is_left = left.is_some();
        left
    }

    /// Writes what is in `frame` into the ring, if there is room.
    fn by_ring(&self, sending: &mut Sending) -> Result<Written, TransportError> {
        sending.unasked += 1;
        if sending.unasked >= ASK_AFTER {
            sending.unasked = 0;
            if is_hung_up(self.socket.as_fd()) {
                sending.gone = true;
                return Err(TransportError::Closed);
            }
        }
        let Some(track) = &mut sending.track else { return Ok(Written::Not) };
        let message = &sending.frame[frame::HEADER_BYTES..];
        let written = track.write(message, sending.by_socket).map_err(|found| self.nonsense(found))?;
        match written {
            Written::Ring => self.ring(sending)?,
            Written::Left => {
                sending.track = None;
                sending.small = 0;
            }
            Written::Gone => {
                sending.gone = true;
                return Err(TransportError::Closed);
            }
            Written::There | Written::Not => {}
        }
        Ok(written)
    }

    /// Tells the peer that there is something in the ring.
    fn ring(&self, sending: &mut Sending) -> Result<(), TransportError> {
        sending.owes_bell = false;
        match self.socket.try_send(Packet::Bell) {
            Ok(()) => sending.is_left = true,
            // Then there is something to be read.
            Err(TrySendError::Full(_)) => {}
            Err(TrySendError::Failed(error @ (TransportError::Closed | TransportError::Broken))) => {
                return Err(error);
            }
            // What was told of is accepted: this is for a later flush.
            Err(TrySendError::Failed(_)) => sending.owes_bell = true,
        }
        Ok(())
    }

    fn by_socket(
        &self,
        sending: &mut Sending,
        packet: Packet<S>,
        is_small: bool,
    ) -> Result<Offered<S>, TransportError> {
        match self.socket.try_send(packet) {
            Ok(()) => {}
            Err(TrySendError::Full(packet)) => return Ok(Offered::Full(Draft::Packed(packet))),
            Err(TrySendError::Failed(error)) => return Err(self.of_socket(error)),
        }
        sending.is_left = true;
        sending.by_socket = sending.by_socket.wrapping_add(1);
        let left = self.left(sending);
        if let Some(track) = &sending.track {
            track.set_by_socket(sending.by_socket).map_err(|found| self.nonsense(found))?;
        } else if is_small {
            sending.small += 1;
            if sending.small >= sending.offer_after && left.is_none() {
                self.offer_ring(sending);
            }
        }
        Ok(Offered::Accepted(left))
    }

    /// Makes a ring and offers it, if that is possible now.
    fn offer_ring(&self, sending: &mut Sending) {
        sending.small = 0;
        let made = Memfd::new(BYTES).map(Memfd::into_parts);
        let offered = made.is_ok_and(|(fd, mapping)| {
            let Ok(track) = Writer::new(mapping) else { return false };
            let is_sent = self.socket.try_send(Packet::Offer(Some(fd))).is_ok();
            if is_sent {
                sending.track = Some(track);
                sending.by_socket = 0;
                sending.is_left = true;
            }
            is_sent
        });
        if !offered {
            // Later; if it is not for want of room at this moment, it will not work then either.
            sending.offer_after = sending.offer_after.saturating_mul(2);
        }
    }

    /// As [`Endpoint::send`].
    fn send_all(&self, message: S, timeout: Option<Duration>) -> Result<(), TransportError> {
        let deadline = deadline_after(timeout);
        let may_wait = timeout.is_none_or(|timeout| timeout > Patience::LIMIT);
        let mut draft = Draft::Raw(message);
        let mut looking = None;
        let mut has_looked = !may_wait;
        let number = loop {
            let mut sending = lock(&self.sending);
            let waits = match looking {
                None => !mem::replace(&mut has_looked, true) && sending.patience.is_there(),
                Some(end) => Instant::now() < end,
            };
            let offered = self.offer(&mut sending, draft, waits)?;
            if looking.is_some() && (!waits || matches!(offered, Offered::Accepted(_))) {
                sending.patience.learn(waits);
                looking = None;
            }
            match offered {
                Offered::Accepted(None) => return Ok(()),
                Offered::Accepted(Some(number)) => break number,
                Offered::Full(back) => draft = back,
            }
            drop(sending);
            if waits && matches!(draft, Draft::Raw(_)) {
                looking = looking.or_else(|| Some(Instant::now() + Patience::LIMIT));
                (0..Patience::PAUSES).for_each(|_| spin_loop());
            } else if !self.socket.wait(PollFlags::OUT, deadline)? {
                return Err(TransportError::TimedOut);
            }
        };
        self.socket.push_out(number, deadline)
    }
}

/// Receiving.
impl<S: Message, R: Message> RingEnd<S, R> {
    /// Takes the next message, if it is there.
    fn take(&self, receiving: &mut Receiving<R>, how: Try) -> Result<Option<R>, TransportError> {
        let mut how = how;
        let mut has_ended = false;
        if mem::take(&mut receiving.inside) {
            receiving.came = receiving.came.wrapping_add(1);
            receiving.may_offer = true;
        }
        loop {
            self.check()?;
            if let Some(message) = self.take_entry(receiving)? {
                return message.map(Some);
            }
            match receiving.held.take() {
                Some(Packet::Message(message, size)) => {
                    receiving.came = receiving.came.wrapping_add(1);
                    receiving.may_offer = true;
                    self.check_size(size)?;
                    return message.map(Some).map_err(TransportError::Decode);
                }
                Some(Packet::Offer(memory)) => {
                    self.attach(receiving, memory)?;
                    continue;
                }
                _ => {}
            }
            if has_ended {
                return Err(TransportError::Closed);
            }
            if receiving.asleep {
                return Ok(None);
            }
            let reads = match (&receiving.track, how) {
                (_, Try::Read) => true,
                (Some(track), Try::Look) => {
                    track.reader.by_socket().map_err(|found| self.nonsense(found))? != receiving.came
                }
                (None, Try::Look) => true,
                (_, Try::Arm) => false,
            };
            if reads {
                match self.pull(receiving) {
                    Ok(true) => continue,
                    Ok(false) => {}
                    Err(TransportError::Closed) => {
                        has_ended = true;
                        continue;
                    }
                    Err(error) => return Err(error),
                }
            }
            if how == Try::Look || !self.arm(receiving).map_err(|found| self.nonsense(found))? {
                return Ok(None);
            }
            // Once more, for what was written before that.
            how = Try::Arm;
        }
    }

    /// Takes the next message if it is in the ring.
    #[allow(clippy::type_complexity)]
    fn take_entry(
        &self,
        receiving: &mut Receiving<R>,
    ) -> Result<Option<Result<R, TransportError>>, TransportError> {
        let Some(track) = &mut receiving.track else { return Ok(None) };
        let Some(entry) = track.reader.first().map_err(|found| self.nonsense(found))? else {
            return Ok(None);
        };
        match entry.after.wrapping_sub(receiving.came) {
            0 => {}
            // There is a message in the socket that goes first.
            1..0x8000_0000 => return Ok(None),
            _ => return Err(self.give_up()),
        }
        self.check_size(entry.length)?;
        track.reader.take(entry, &mut receiving.message).map_err(|found| self.nonsense(found))?;
        if !receiving.asleep {
            track.reader.disarm().map_err(|found| self.nonsense(found))?;
        }
        Ok(Some(R::decode(&receiving.message).map_err(TransportError::Decode)))
    }

    fn check_size(&self, size: usize) -> Result<(), TransportError> {
        let limit = self.limits.message_bytes;
        if size > limit {
            self.give_up();
            return Err(TransportError::TooBig { size, limit });
        }
        Ok(())
    }

    /// Has the next entry told; true if one may have come meanwhile.
    fn arm(&self, receiving: &mut Receiving<R>) -> Result<bool, Nonsense> {
        let Some(track) = &mut receiving.track else { return Ok(false) };
        if let Some(entry) = track.reader.first()? {
            // Written since the ring was looked at; or it waits for the socket, which tells by itself.
            return Ok(entry.after == receiving.came);
        }
        track.reader.arm()?;
        receiving.bells = receiving.bells.saturating_add(1);
        Ok(!track.reader.is_empty()?)
    }

    /// Takes what comes next over the socket; true if that was something.
    fn pull(&self, receiving: &mut Receiving<R>) -> Result<bool, TransportError> {
        receiving.inside = true;
        let pulled = self.socket.try_receive();
        receiving.inside = false;
        match pulled {
            Ok(None) => Ok(false),
            Ok(Some(packet @ Packet::Message(..))) => {
                receiving.held = Some(packet);
                Ok(true)
            }
            Ok(Some(packet @ Packet::Offer(_))) if mem::take(&mut receiving.may_offer) => {
                receiving.held = Some(packet);
                Ok(true)
            }
            // Nobody can keep this end busy with them: each was asked for here.
            Ok(Some(Packet::Bell)) if receiving.bells > 0 => {
                receiving.bells -= 1;
                Ok(true)
            }
            Ok(Some(_)) => Err(self.give_up()),
            Err(error) => {
                match error {
                    TransportError::Closed => self.ended.store(true, Ordering::Relaxed),
                    TransportError::TooBig { .. } | TransportError::Broken => {
                        self.give_up();
                    }
                    _ => {}
                }
                Err(self.of_socket(error))
            }
        }
    }

    /// Begins to read from the ring that the peer has offered.
    fn attach(&self, receiving: &mut Receiving<R>, memory: Option<OwnedFd>) -> Result<(), TransportError> {
        receiving.came = 0;
        receiving.track = None;
        // If it was lost, as for want of a number for it, nobody knows the ring, and the peer goes on without.
        let Some(memory) = memory else { return Ok(()) };
        match Memfd::from_fd(memory, BYTES) {
            Ok(memory) => {
                let (_, mapping) = memory.into_parts();
                let reader = Reader::new(mapping).map_err(|found| self.nonsense(found))?;
                receiving.track =
                    Some(Attached { reader, generation: Generation::current(), is_left: false });
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(self.give_up()),
            Err(_) => Ok(()),
        }
    }

    fn receive_one(&self, timeout: Option<Duration>) -> Result<R, TransportError> {
        let deadline = deadline_after(timeout);
        let mut is_over = timeout == Some(Duration::ZERO);
        let mut may_look = timeout.is_none_or(|timeout| timeout > Patience::LIMIT);
        let _leaving = Leaving(self);
        let mut receiving = lock(&self.receiving);
        // Who has just asked something would try in vain.
        let mut reads = self.socket.may_have_more();
        loop {
            let how = match (is_over || reads, receiving.track.is_some()) {
                (true, _) => Try::Read,
                (false, true) => Try::Look,
                (false, false) => Try::Arm,
            };
            if let Some(message) = self.take(&mut receiving, how)? {
                return Ok(message);
            }
            if is_over {
                return Err(TransportError::TimedOut);
            }
            reads = true;
            if receiving.is_led {
                (receiving, is_over) = self.follow(receiving, deadline);
                continue;
            }
            if mem::take(&mut may_look) && receiving.patience.is_there() {
                let (taken, again) = self.look(receiving)?;
                receiving = again;
                if let Some(message) = taken {
                    return Ok(message);
                }
            }
            if let Some(message) = self.take(&mut receiving, Try::Arm)? {
                return Ok(message);
            }
            receiving.is_led = true;
            receiving.asleep = true;
            drop(receiving);
            let woken = self.socket.wait(PollFlags::IN, deadline);
            receiving = lock(&self.receiving);
            receiving.is_led = false;
            receiving.asleep = false;
            is_over = !woken?;
            // The bell, as a rule.
            if !is_over && receiving.held.is_none() && !receiving.inside {
                match self.pull(&mut receiving) {
                    Ok(_) => reads = self.socket.may_have_more(),
                    // The next try says the same, but for what is in the ring.
                    Err(TransportError::Closed) => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }

    /// Waits for the thread that looks or sleeps to come back; true if the time is over.
    fn follow<'a>(
        &'a self,
        receiving: MutexGuard<'a, Receiving<R>>,
        deadline: Option<Instant>,
    ) -> (MutexGuard<'a, Receiving<R>>, bool) {
        self.followers.fetch_add(1, Ordering::Relaxed);
        let waited = match deadline {
            None => (self.followed.wait(receiving).unwrap_or_else(|poison| poison.into_inner()), false),
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                let waited = self.followed.wait_timeout(receiving, left);
                let (receiving, _) = waited.unwrap_or_else(|poison| poison.into_inner());
                (receiving, Instant::now() >= deadline)
            }
        };
        self.followers.fetch_sub(1, Ordering::Relaxed);
        waited
    }

    /// Looks for a message again and again, for a short time.
    #[allow(clippy::type_complexity)]
    fn look<'a>(
        &'a self,
        mut receiving: MutexGuard<'a, Receiving<R>>,
    ) -> Result<(Option<R>, MutexGuard<'a, Receiving<R>>), TransportError> {
        let end = Instant::now() + Patience::LIMIT;
        let mut looks = 0_u32;
        loop {
            let mut pauses = Patience::PAUSES;
            if let Some(track) = &mut receiving.track {
                // Nobody sleeps: the peer need not tell.
                track.reader.disarm().map_err(|found| self.nonsense(found))?;
                pauses = PAUSES;
            }
            receiving.is_led = true;
            drop(receiving);
            (0..pauses).for_each(|_| spin_loop());
            receiving = lock(&self.receiving);
            receiving.is_led = false;
            let taken = self.take(&mut receiving, Try::Look)?;
            looks += 1;
            let came = taken.is_some();
            let is_over = Instant::now() >= end;
            if came || is_over {
                // What was there already would have been there without looking.
                if looks > 1 {
                    receiving.patience.learn(came && !is_over);
                }
                return Ok((taken, receiving));
            }
        }
    }
}

/// Wakes one of those who follow, when a receive has its result: it may be the next to sleep, and there may be a message for
/// it already.
struct Leaving<'a, S, R>(&'a RingEnd<S, R>);

impl<S, R> Drop for Leaving<'_, S, R> {
    fn drop(&mut self) {
        // After the lock was left: who comes later sees for itself that nobody leads.
        if self.0.followers.load(Ordering::Relaxed) > 0 {
            self.0.followed.notify_one();
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
        sending.gone || self.socket.is_flushed() && !sending.owes_bell
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

/// Whether the peer is gone, or neither sends nor receives any more.
fn is_hung_up(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(&fd, PollFlags::empty())];
    let asked = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
    asked.is_ok() && fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
}
