//! Messages over a connected pair of Unix stream sockets, each in a [frame].
//!
//! One descriptor per end; a small message costs one `sendto`, and one `recvmsg` (which takes as many as
//! have arrived). The kernel's socket buffers bound what a peer that does not receive can pile up (law 3).
//!
//! Large messages cost what their memory costs, and as often as it is touched for the first time. So one that
//! [holds its bytes](Message::as_bytes), or the end of them, is sent from where it lies, and the endpoint keeps it until
//! all of it is sent; and a payload is received where a message [may keep it](Message::decode_owned).
//!
//! A receive that may sleep does not try first, if the last message that came has left the socket empty: who has just asked
//! something would try in vain. It looks for a short time, if that was of use lately ([`Patience`]), and then sleeps.
//!
//! Each half of an end has a lock, which is held while a message is encoded, decoded or moved, and never
//! while a thread sleeps: sleeping is `poll` on the own descriptor, then trying again.
//!
//! This module passes no credentials along with messages: who is there is known when the link is made.

mod credentials;
mod descriptors;
mod listener;

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::mem;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, FdFlags};
use rustix::net::{
    AddressFamily, SendFlags, Shutdown, SocketFlags, SocketType, send, shutdown, socketpair, sockopt,
};

pub use credentials::Peer;
pub use listener::{SocketAddress, SocketListener};

use super::frame::{self, Reassembler};
use super::{DESCRIPTORS_MAX, Endpoint, Limits, Message, Transport, TransportError, TrySendError};
use crate::Portable;
use crate::patience::Patience;
use crate::sync::global::{AtomicU32, Mutex, MutexGuard, Ordering, lock};
use crate::sync::spin_loop;
use descriptors::{Arrived, Batch, send_with};

/// Unix stream sockets: between processes, also between threads.
///
/// A [`receive`](Endpoint::receive) that must wait keeps its core busy for up to 50 us, looking for the message, before it
/// sleeps, as long as that has been of use: waking takes longer than many an answer from another core. Where it is in vain
/// it happens in one receive of a thousand.
#[doc(alias("socketpair", "AF_UNIX"))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Socket;

impl Transport for Socket {
    type End<S: Message, R: Message> = SocketEnd<S, R>;
    type Listener<S: Message, R: Message> = SocketListener<S, R>;
    type Address<S: Message, R: Message> = SocketAddress;

    fn pair<S: Message, R: Message>(
        limits: Limits,
    ) -> Result<(SocketEnd<S, R>, SocketEnd<R, S>), TransportError> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (one, other) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .map_err(|errno| failed("socketpair", errno))?;
        Ok((SocketEnd::new(one, limits), SocketEnd::new(other, limits)))
    }

    fn listen<S: Message, R: Message>(limits: Limits) -> Result<SocketListener<S, R>, TransportError> {
        SocketListener::fresh(limits)
    }

    /// # Errors
    /// Also [`TransportError::Stranger`] if a process of another user listens there, unless this one is the
    /// superuser's, and [`TransportError::Io`] with [`io::ErrorKind::InvalidInput`] if the address is one of another machine.
    fn connect<S: Message, R: Message>(
        address: &SocketAddress,
        limits: Limits,
        timeout: Option<Duration>,
    ) -> Result<SocketEnd<S, R>, TransportError> {
        if let SocketAddress::Loopback(address) = address {
            listener::check_loopback(*address)?;
        }
        SocketEnd::from_fd(listener::connect_to(address, timeout)?, limits)
    }
}

/// One end of a [`Socket`] link.
///
/// What a [`Message`] does, also dropping one that [holds its bytes](Message::as_bytes), runs while a half of the end is
/// locked: it must not use this end. A thread that sleeps on the descriptor by its own `poll` is not woken for messages that
/// another thread's receive has read along with its own (law 6); the blocking
/// [`receive`](Endpoint::receive) is.
pub struct SocketEnd<S, R> {
    fd: OwnedFd,
    limits: Limits,
    /// [`OPEN`], or why the link has ended; leaves `OPEN` once.
    fate: AtomicU32,
    sending: Mutex<Sending<S>>,
    receiving: Mutex<Receiving>,
    messages: PhantomData<fn(S) -> R>,
}

const OPEN: u32 = 0;
const CLOSED: u32 = 1;
const BROKEN: u32 = 2;

/// So many bytes that a message holds are sent from where they lie; less are faster copied.
const LARGE_BYTES: usize = 64 << 10;

/// Bytes of messages that are gathered to be sent together, before they are sent.
const GATHERED_BYTES: usize = 32 << 10;

struct Sending<S> {
    frame: Frame<S>,
    /// The part of the frame's buffer that belongs to an accepted message and is still to be written.
    rest: Range<usize>,
    /// Whether that is of messages that nobody waits for, and more may be put behind it.
    gathered: bool,
    /// How many messages were accepted; what is in the frame is of the last one, or of those that were gathered last.
    accepted: u64,
    /// The kernel has said that the peer does not receive any more.
    closed: bool,
    /// Nothing more will be sent; when nothing is left to flush, the kernel is told.
    finished: bool,
}

/// What is written of one message.
struct Frame<S> {
    /// All of the frame, or its beginning. Reused from message to message.
    buffer: Vec<u8>,
    /// What comes behind that.
    body: Option<Body<S>>,
}

/// A message that is sent from where it lies.
struct Body<S> {
    message: S,
    /// How many bytes it has, as was announced.
    size: usize,
    sent: usize,
}

impl<S: Message> Frame<S> {
    fn new() -> Frame<S> {
        Frame { buffer: Vec::new(), body: None }
    }

    /// What is still to be written of the message behind the buffer; `None` if it has not the bytes that it had.
    fn unsent(&self) -> Option<&[u8]> {
        let Some(body) = &self.body else { return Some(&[]) };
        let bytes = body.message.as_bytes().filter(|bytes| bytes.len() == body.size)?;
        Some(&bytes[body.sent..])
    }
}

impl<S: Message> Sending<S> {
    /// Makes the frame of a message, with no rest there; a large one is taken into it. Should encoding panic, there is
    /// still none.
    fn put(&mut self, message: &mut Option<S>, limits: Limits) -> Result<(), TransportError> {
        self.discard();
        let Some(given) = message else { return Ok(()) };
        match given.as_bytes().map(<[u8]>::len) {
            Some(size) if size >= LARGE_BYTES => {
                let head = |out: &mut Vec<u8>| given.encode_head(out);
                frame::append_with(head, size, limits.message_bytes, &mut self.frame.buffer)?;
                self.frame.body = message.take().map(|message| Body { message, size, sent: 0 });
                Ok(())
            }
            _ => frame::append(given, limits.message_bytes, &mut self.frame.buffer),
        }
    }

    fn is_flushed(&self) -> bool {
        self.rest.is_empty() && self.frame.body.is_none()
    }

    /// Puts the frame of a message behind what is still to be written.
    fn gather(&mut self, message: &S, limits: Limits) -> Result<(), TransportError> {
        // Should encoding have panicked the last time, there is something behind it.
        self.frame.buffer.truncate(self.rest.end);
        // What is written already is not kept for ever where there is always something left.
        if self.rest.start >= GATHERED_BYTES {
            self.frame.buffer.drain(..self.rest.start);
            self.rest = 0..self.rest.len();
        }
        frame::append(message, limits.message_bytes, &mut self.frame.buffer)?;
        self.rest.end = self.frame.buffer.len();
        self.gathered = true;
        self.accepted += 1;
        Ok(())
    }

    fn discard(&mut self) {
        self.rest = 0..0;
        self.gathered = false;
        frame::recycle(&mut self.frame.buffer);
        // Last: dropping the message may panic.
        self.frame.body = None;
    }
}

struct Receiving {
    frames: Reassembler,
    /// Threads that sleep in [`Endpoint::receive`]. While there are any, no complete frame is held: they
    /// wait for the descriptor, and would not see it.
    sleepers: usize,
    /// What came last has left the socket empty.
    emptied: bool,
    patience: Patience,
    /// The peer sends nothing more.
    ended: bool,
    /// What has come along with bytes.
    arrived: Arrived,
}

/// Makes an end of an inherited descriptor, as [`SocketEnd::from_fd`] does, with the largest limits there are: it trusts
/// who has given it.
impl<S: Message, R: Message> TryFrom<OwnedFd> for SocketEnd<S, R> {
    type Error = TransportError;

    fn try_from(fd: OwnedFd) -> Result<SocketEnd<S, R>, TransportError> {
        SocketEnd::from_fd(fd, Limits::with_message_bytes(u32::MAX as usize))
    }
}

impl<S: Message, R: Message> Portable for SocketEnd<S, R> {}

/// As [`SocketEnd::into_fd`].
impl<S: Message, R: Message> From<SocketEnd<S, R>> for OwnedFd {
    fn from(end: SocketEnd<S, R>) -> OwnedFd {
        end.into_fd()
    }
}

impl<S: Message, R: Message> SocketEnd<S, R> {
    /// Makes an end of an inherited or received descriptor, the peer of which speaks
    /// [frames](super::frame) too. Sets close-on-exec and, for everyone who shares the socket, non-blocking.
    ///
    /// # Errors
    /// [`TransportError::Io`] with `ENOTSOCK` if it is no socket, with `EPROTOTYPE` if it is no stream
    /// socket, and if a flag cannot be set. The descriptor is closed then.
    pub fn from_fd(fd: OwnedFd, limits: Limits) -> Result<SocketEnd<S, R>, TransportError> {
        let kind = sockopt::socket_type(&fd).map_err(|errno| failed("getsockopt", errno))?;
        if kind != SocketType::STREAM {
            return Err(failed("getsockopt", Errno::PROTOTYPE));
        }
        rustix::io::fcntl_setfd(&fd, FdFlags::CLOEXEC).map_err(|errno| failed("fcntl", errno))?;
        rustix::io::ioctl_fionbio(&fd, true).map_err(|errno| failed("ioctl", errno))?;
        Ok(SocketEnd::new(fd, limits))
    }

    /// Gives the descriptor up, to be inherited by a program that makes an end of it again. What this end
    /// holds is dropped: a rest to be flushed, and received bytes; an end that was never used holds nothing.
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Who is at the other end, in the kernel's words: who connected, listened, or made the pair.
    ///
    /// # Errors
    /// [`TransportError::Io`] if the kernel does not know, as for a link over the loopback device.
    #[doc(alias("SO_PEERCRED", "getpeereid"))]
    pub fn peer(&self) -> Result<Peer, TransportError> {
        Peer::of(self.fd.as_fd())
    }

    /// Sends the message together with duplicates of descriptors, waiting as [`send`](Endpoint::send) does;
    /// [those that it has](Message::detach) itself stay here. The peer gets them by
    /// [`receive_with`](SocketEnd::receive_with), in this order; what they are is as it was here.
    ///
    /// # Errors
    /// [`TransportError::TooManyDescriptors`] for more than 253; [`TransportError::Io`] with `ETOOMANYREFS` if too many
    /// are on their way, and with `EINVAL` over the loopback device; else as for [`send`](Endpoint::send).
    #[doc(alias("SCM_RIGHTS", "sendmsg"))]
    pub fn send_with(
        &self,
        message: S,
        descriptors: &[BorrowedFd<'_>],
        timeout: Option<Duration>,
    ) -> Result<(), TransportError> {
        self.check_descriptors(descriptors.len())?;
        self.send_all(message, descriptors, timeout)
    }

    /// Whether so many can travel with one message.
    fn check_descriptors(&self, count: usize) -> Result<(), TransportError> {
        if count == 0 {
            return Ok(());
        }
        let limit = DESCRIPTORS_MAX;
        if count > limit {
            return Err(TransportError::TooManyDescriptors { count, limit });
        }
        // Over others they would be lost without a word.
        let domain = sockopt::socket_domain(&self.fd).map_err(|errno| failed("getsockopt", errno))?;
        if domain != AddressFamily::UNIX {
            return Err(failed("sendmsg", Errno::INVAL));
        }
        Ok(())
    }

    /// Receives a message with the descriptors that were sent with it, close-on-exec. Where messages are received by
    /// [`receive`](Endpoint::receive), their descriptors [are theirs](Message::attach).
    ///
    /// # Errors
    /// [`TransportError::Io`] with `EMFILE` if descriptors were lost because there were too many here: the message is lost
    /// with them, the next one is not; else as for [`receive`](Endpoint::receive).
    #[doc(alias("SCM_RIGHTS", "recvmsg"))]
    pub fn receive_with(&self, timeout: Option<Duration>) -> Result<(R, Vec<OwnedFd>), TransportError> {
        with_descriptors(self.receive_all(timeout)?)
    }

    /// Receives a message with its descriptors, if that needs no waiting.
    ///
    /// # Errors
    /// As [`receive_with`](SocketEnd::receive_with), but `Ok(None)` where that would wait.
    pub fn try_receive_with(&self) -> Result<Option<(R, Vec<OwnedFd>)>, TransportError> {
        self.take(&mut lock(&self.receiving))?.map(with_descriptors).transpose()
    }

    fn new(fd: OwnedFd, limits: Limits) -> SocketEnd<S, R> {
        SocketEnd {
            fd,
            limits,
            fate: AtomicU32::new(OPEN),
            sending: Mutex::new(Sending {
                frame: Frame::new(),
                rest: 0..0,
                gathered: false,
                accepted: 0,
                closed: false,
                finished: false,
            }),
            receiving: Mutex::new(Receiving {
                frames: Reassembler::new(limits.message_bytes),
                sleepers: 0,
                emptied: false,
                patience: Patience::default(),
                ended: false,
                arrived: Arrived::default(),
            }),
            messages: PhantomData,
        }
    }

    /// Ends the link, and tells the peer and this end's own sleepers by the shutdown.
    fn end(&self, fate: u32) {
        let _ = self.fate.compare_exchange(OPEN, fate, Ordering::AcqRel, Ordering::Relaxed);
        // It fails only if the socket is disconnected already.
        let _ = shutdown(&self.fd, Shutdown::Both);
    }

    /// Writes the rest as far as that needs no waiting; true if nothing is left. The descriptors go with its first byte.
    fn write_rest(
        &self,
        sending: &mut Sending<S>,
        mut descriptors: &[BorrowedFd<'_>],
    ) -> Result<bool, TransportError> {
        let fate = self.fate.load(Ordering::Acquire);
        if fate != OPEN || sending.closed {
            sending.discard();
            return Err(if fate == BROKEN { TransportError::Broken } else { TransportError::Closed });
        }
        loop {
            let rest = &sending.frame.buffer[sending.rest.clone()];
            let Some(body) = sending.frame.unsent() else {
                self.end(BROKEN);
                sending.discard();
                return Err(TransportError::Broken);
            };
            // DONTWAIT, because whoever shares the socket can make it blocking.
            let sent = match (rest, body, descriptors) {
                ([], [], _) => break,
                (some, [], []) | ([], some, []) => {
                    send(&self.fd, some, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
                }
                _ => send_with(self.fd.as_fd(), [rest, body], descriptors),
            };
            match sent {
                Ok(count) => {
                    let of_rest = count.min(rest.len());
                    sending.rest.start += of_rest;
                    if let Some(body) = &mut sending.frame.body {
                        body.sent += count - of_rest;
                    }
                    descriptors = &[];
                }
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::INTR) => {}
                Err(Errno::PIPE | Errno::CONNRESET) => {
                    sending.closed = true;
                    sending.discard();
                    return Err(TransportError::Closed);
                }
                Err(errno) => return Err(failed("send", errno)),
            }
        }
        if sending.finished {
            // It fails only if the socket is disconnected already.
            let _ = shutdown(&self.fd, Shutdown::Write);
        }
        sending.discard();
        Ok(true)
    }

    /// Writes the rest, to be followed by a message; true if that may follow.
    fn make_way(&self, sending: &mut Sending<S>) -> Result<bool, TransportError> {
        let free = self.write_rest(sending, &[])?;
        if sending.finished { Err(TransportError::Finished) } else { Ok(free) }
    }

    /// Writes the frame, and accepts it if the socket takes at least one byte of it. If not, it is the caller's to take
    /// out.
    fn offer(
        &self,
        sending: &mut Sending<S>,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<bool, TransportError> {
        sending.rest = 0..sending.frame.buffer.len();
        let result = self.write_rest(sending, descriptors);
        let begun = sending.rest.start > 0;
        match result {
            Err(error @ (TransportError::Closed | TransportError::Broken)) => Err(error),
            Ok(false) if !begun => {
                sending.rest = 0..0;
                Ok(false)
            }
            Err(error) if !begun => {
                sending.discard();
                Err(error)
            }
            // Whatever stopped it in the middle, the message is on its way; the next flush will tell.
            _ => {
                sending.accepted += 1;
                Ok(true)
            }
        }
    }

    /// Takes a message that is held or has arrived, with the descriptors that have come along.
    fn take(&self, receiving: &mut Receiving) -> Result<Option<(R, Batch)>, TransportError> {
        loop {
            let held = receiving.frames.held();
            match receiving.frames.take() {
                Ok(Some(payload)) => {
                    // First: should decoding panic, they go with this message, not with the next.
                    let batch = receiving.arrived.take(held - frame::HEADER_BYTES - payload.len());
                    if batch.descriptors.len() > DESCRIPTORS_MAX {
                        self.end(BROKEN);
                        return Err(TransportError::Broken);
                    }
                    let message = match payload {
                        Cow::Borrowed(bytes) => R::decode(bytes),
                        Cow::Owned(bytes) => R::decode_owned(bytes),
                    };
                    receiving.frames.trim();
                    return message.map(|message| Some((message, batch))).map_err(TransportError::Decode);
                }
                Ok(None) => {}
                Err(error) => {
                    if matches!(error, TransportError::TooBig { .. }) {
                        self.end(BROKEN);
                    }
                    return Err(error);
                }
            }
            if receiving.ended || self.fate.load(Ordering::Acquire) != OPEN {
                return Err(TransportError::Closed);
            }
            let missing = receiving.frames.missing();
            let mut space = receiving.frames.space();
            if receiving.sleepers > 0 {
                let [first, _] = space;
                let exactly = missing.min(first.len());
                space = [&mut first[..exactly], &mut []];
            }
            let room = space[0].len() + space[1].len();
            match receiving.arrived.receive(self.fd.as_fd(), space) {
                // Whether it receives is another matter, which sending will tell.
                Ok(0) => receiving.ended = true,
                Err(Errno::CONNRESET) => self.end(CLOSED),
                Ok(count) => {
                    receiving.emptied = count < room;
                    receiving.frames.filled(count);
                    // All are of the message that is not whole yet.
                    if receiving.frames.missing() > 0 && receiving.arrived.is_too_many() {
                        self.end(BROKEN);
                        return Err(TransportError::Broken);
                    }
                }
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(failed("recv", errno)),
            }
        }
    }

    /// What [`Endpoint::send`] promises, with descriptors.
    fn send_all(
        &self,
        message: S,
        descriptors: &[BorrowedFd<'_>],
        timeout: Option<Duration>,
    ) -> Result<(), TransportError> {
        let deadline = deadline_after(timeout);
        let mut message = Some(message);
        let mut refused = None;
        let number = loop {
            let mut sending = lock(&self.sending);
            if self.make_way(&mut sending)? {
                match refused.take() {
                    Some(frame) => sending.frame = frame,
                    None => sending.put(&mut message, self.limits)?,
                }
                if self.offer(&mut sending, descriptors)? {
                    if sending.is_flushed() {
                        return Ok(());
                    }
                    break sending.accepted;
                }
                refused = Some(mem::replace(&mut sending.frame, Frame::new()));
            }
            drop(sending);
            if !self.wait(PollFlags::OUT, deadline)? {
                return Err(TransportError::TimedOut);
            }
        };
        self.push_out(number, deadline)
    }

    /// Waits until the message of this number, which was accepted, is out of this end, or the time is over. What goes wrong
    /// here, other than the end of the link, is for the next flush.
    pub(super) fn push_out(&self, number: u64, deadline: Option<Instant>) -> Result<(), TransportError> {
        while let Ok(true) = self.wait(PollFlags::OUT, deadline) {
            let mut sending = lock(&self.sending);
            if sending.accepted != number {
                break;
            }
            match self.write_rest(&mut sending, &[]) {
                Ok(false) => {}
                Err(error @ (TransportError::Closed | TransportError::Broken)) => return Err(error),
                Ok(true) | Err(_) => break,
            }
        }
        Ok(())
    }

    /// What [`Endpoint::try_send`] promises, of a message out of which its descriptors may have been taken.
    fn try_send_all(&self, mut message: S, descriptors: Option<Vec<OwnedFd>>) -> Result<(), TrySendError<S>> {
        let mut sending = lock(&self.sending);
        if !self.make_way(&mut sending)? {
            return Err(full(message, descriptors.unwrap_or_default()));
        }
        let descriptors = descriptors.unwrap_or_else(|| message.detach());
        self.check_descriptors(descriptors.len())?;
        let mut message = Some(message);
        sending.put(&mut message, self.limits)?;
        if self.offer(&mut sending, &borrowed(&descriptors))? {
            return Ok(());
        }
        let body = sending.frame.body.take();
        sending.discard();
        let message = message.or(body.map(|body| body.message));
        Err(full(message.expect("it is here or was taken into the frame"), descriptors))
    }

    /// The number of the last message that was accepted, if a part of it is left to flush.
    pub(super) fn unflushed(&self) -> Option<u64> {
        let sending = lock(&self.sending);
        (!sending.is_flushed()).then_some(sending.accepted)
    }

    /// Whether a receive that tries may find something, by what is known here.
    pub(super) fn may_have_more(&self) -> bool {
        let receiving = lock(&self.receiving);
        !receiving.emptied || receiving.frames.missing() == 0
    }

    /// Gives the link up: what the peer has said makes no sense.
    pub(super) fn give_up(&self) {
        self.end(BROKEN);
    }

    /// What [`Endpoint::receive`] promises, with descriptors.
    fn receive_all(&self, timeout: Option<Duration>) -> Result<(R, Batch), TransportError> {
        let deadline = deadline_after(timeout);
        let mut is_over = timeout == Some(Duration::ZERO);
        let mut receiving = lock(&self.receiving);
        let mut tries = is_over || !receiving.emptied || receiving.frames.missing() == 0;
        let mut may_look = timeout.is_none_or(|timeout| timeout > Patience::LIMIT);
        loop {
            let taken = if mem::replace(&mut tries, true) { self.take(&mut receiving)? } else { None };
            if let Some(message) = taken {
                return Ok(message);
            }
            if is_over {
                return Err(TransportError::TimedOut);
            }
            if mem::take(&mut may_look) && receiving.patience.is_there() {
                let (taken, again) = self.look(receiving)?;
                receiving = again;
                if let Some(message) = taken {
                    return Ok(message);
                }
            }
            receiving.sleepers += 1;
            drop(receiving);
            let woken = self.wait(PollFlags::IN, deadline);
            receiving = lock(&self.receiving);
            receiving.sleepers -= 1;
            is_over = !woken?;
        }
    }

    /// Looks for a message again and again, for a short time.
    #[allow(clippy::type_complexity)]
    fn look<'a>(
        &'a self,
        mut receiving: MutexGuard<'a, Receiving>,
    ) -> Result<(Option<(R, Batch)>, MutexGuard<'a, Receiving>), TransportError> {
        let end = Instant::now() + Patience::LIMIT;
        let mut looks = 0_u32;
        loop {
            drop(receiving);
            (0..Patience::PAUSES).for_each(|_| spin_loop());
            receiving = lock(&self.receiving);
            let taken = self.take(&mut receiving)?;
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

    pub(super) fn wait(&self, events: PollFlags, deadline: Option<Instant>) -> Result<bool, TransportError> {
        wait_for(self.fd.as_fd(), events, deadline)
    }
}

impl<S: Message, R: Message> Endpoint<S, R> for SocketEnd<S, R> {
    fn send(&self, mut message: S, timeout: Option<Duration>) -> Result<(), TransportError> {
        let descriptors = message.detach();
        self.check_descriptors(descriptors.len())?;
        self.send_all(message, &borrowed(&descriptors), timeout)
    }

    fn try_send(&self, message: S) -> Result<(), TrySendError<S>> {
        self.try_send_all(message, None)
    }

    fn try_send_more(&self, mut message: S) -> Result<(), TrySendError<S>> {
        let descriptors = message.detach();
        if !descriptors.is_empty() {
            return self.try_send_all(message, Some(descriptors));
        }
        if message.as_bytes().is_some_and(|bytes| bytes.len() >= LARGE_BYTES) {
            return self.try_send(message);
        }
        let mut sending = lock(&self.sending);
        let fits = sending.gathered && sending.rest.len() < GATHERED_BYTES && !sending.finished;
        if !fits && !self.make_way(&mut sending)? {
            return Err(TrySendError::Full(message));
        }
        let result = sending.gather(&message, self.limits);
        if sending.frame.buffer.len() < sending.rest.end {
            // Encoding has removed bytes of the messages before.
            self.end(BROKEN);
            sending.discard();
        }
        Ok(result?)
    }

    fn flush(&self) -> Result<bool, TransportError> {
        self.write_rest(&mut lock(&self.sending), &[])
    }

    fn finish(&self) -> Result<(), TransportError> {
        let mut sending = lock(&self.sending);
        sending.finished = true;
        self.write_rest(&mut sending, &[]).map(|_| ())
    }

    fn is_flushed(&self) -> bool {
        lock(&self.sending).is_flushed() || self.fate.load(Ordering::Acquire) != OPEN
    }

    fn receive(&self, timeout: Option<Duration>) -> Result<R, TransportError> {
        self.receive_all(timeout).map(|(message, batch)| batch.give_to(message))
    }

    fn try_receive(&self) -> Result<Option<R>, TransportError> {
        Ok(self.take(&mut lock(&self.receiving))?.map(|(message, batch)| batch.give_to(message)))
    }

    fn descriptor(&self) -> Result<BorrowedFd<'_>, TransportError> {
        Ok(self.fd.as_fd())
    }
}

/// The message is given back, with what was taken out of it.
fn full<S: Message>(mut message: S, descriptors: Vec<OwnedFd>) -> TrySendError<S> {
    if !descriptors.is_empty() {
        message.attach(Ok(descriptors));
    }
    TrySendError::Full(message)
}

fn borrowed(descriptors: &[OwnedFd]) -> Vec<BorrowedFd<'_>> {
    descriptors.iter().map(AsFd::as_fd).collect()
}

fn with_descriptors<R>((message, batch): (R, Batch)) -> Result<(R, Vec<OwnedFd>), TransportError> {
    let descriptors = batch.or_lost().map_err(|errno| failed("recvmsg", errno))?;
    Ok((message, descriptors))
}

impl<S, R> AsFd for SocketEnd<S, R> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl<S, R> fmt::Debug for SocketEnd<S, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SocketEnd")
            .field("fd", &self.fd)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// Sleeps until one of `events` (or the end of the link) is there; false if the time is over before.
fn wait_for(
    fd: BorrowedFd<'_>,
    events: PollFlags,
    deadline: Option<Instant>,
) -> Result<bool, TransportError> {
    loop {
        let remaining = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if remaining.is_some_and(|remaining| remaining.is_zero()) {
            return Ok(false);
        }
        // A time that does not fit is as good as for ever.
        let remaining = remaining.and_then(|remaining| Timespec::try_from(remaining).ok());
        match poll(&mut [PollFd::new(&fd, events)], remaining.as_ref()) {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Ok(true),
            Err(errno) => return Err(failed("poll", errno)),
        }
    }
}

/// `None` is for ever, and so is a time that the clock cannot reach.
pub(super) fn deadline_after(timeout: Option<Duration>) -> Option<Instant> {
    timeout.and_then(|timeout| Instant::now().checked_add(timeout))
}

fn failed(op: &'static str, errno: Errno) -> TransportError {
    TransportError::Io { op, source: io::Error::from(errno) }
}
