//! Sending over a ring: what goes which way, the bell, and when a ring is offered.
//!
//! This module knows nothing of receiving.

use std::mem;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::RingEnd;
use super::packet::Packet;
use super::track::{BYTES, MESSAGE_MAX, Writer, Written};
use crate::patience::Patience;
use crate::shm::{Mapping, Memfd};
use crate::sync::global::{Ordering, lock};
use crate::sync::spin_loop;
use crate::transport::socket::deadline_after;
use crate::transport::{Endpoint, Message, TransportError, TrySendError, frame};

/// So many messages that could use a ring go without it first.
pub(super) const OFFER_AFTER: u32 = 16;

/// So many messages go through the ring before the socket is asked for the peer once more.
const ASK_AFTER: u32 = 64;

/// What an end knows of sending.
pub(super) struct Sending {
    pub(super) track: Option<Writer<Mapping>>,
    /// How many messages went over the socket since the ring was offered.
    pub(super) by_socket: u32,
    /// How many could have used a ring since one could have been offered.
    pub(super) small: u32,
    pub(super) offer_after: u32,
    /// How many went through the ring since the socket was asked.
    pub(super) unasked: u32,
    /// The frame of the message that is being sent. Reused.
    pub(super) frame: Vec<u8>,
    /// The socket may have something left to flush: nothing may overtake it unseen (law 2).
    pub(super) is_left: bool,
    /// The system has refused to ring the bell, for reasons of its own.
    pub(super) owes_bell: bool,
    pub(super) finished: bool,
    pub(super) gone: bool,
    pub(super) patience: Patience,
}

impl Default for Sending {
    fn default() -> Sending {
        Sending {
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
        }
    }
}

/// A message on its way into the link.
pub(super) enum Draft<S> {
    /// As it was given.
    Raw(S),
    /// For the socket.
    Packed(Packet<S>),
}

impl<S: Message> Draft<S> {
    pub(super) fn into_message(self) -> S {
        match self {
            Draft::Raw(message) => message,
            Draft::Packed(packet) => packet.into_message().expect("it was made of a message"),
        }
    }
}

/// What has become of it.
pub(super) enum Offered<S> {
    /// It was accepted; if a part of it is left in the socket's end, that is of its message of this number.
    Accepted(Option<u64>),
    /// There is no room.
    Full(Draft<S>),
}

impl<S: Message, R: Message> RingEnd<S, R> {
    /// Accepts a message if that needs no waiting. One that would go through the ring if that had room comes back if it
    /// `waits` for it.
    pub(super) fn offer(
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
        let is_lent = message.as_bytes().is_some_and(|bytes| bytes.len() > MESSAGE_MAX);
        frame::recycle(&mut sending.frame);
        if !is_lent {
            frame::append(&message, self.limits.message_bytes, &mut sending.frame)?;
        }
        if is_lent {
            let packet = Packet::lent(message, descriptors, self.limits.message_bytes)?;
            return self.by_socket(sending, packet, false);
        }
        let size = sending.frame.len() - frame::HEADER_BYTES;
        let is_small = size <= MESSAGE_MAX && descriptors.is_empty();
        if is_small && sending.track.is_some() && !self.ended.load(Ordering::Relaxed) {
            match self.by_ring(sending)? {
                Written::There | Written::Ring => return Ok(Offered::Accepted(self.left(sending))),
                Written::Not if waits => return Ok(Offered::Full(Draft::Raw(message))),
                Written::Not | Written::Left | Written::Gone => {}
            }
        }
        let packet = Packet::whole(message, mem::take(&mut sending.frame), descriptors);
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
            Written::Ring => {
                // Any other error: the message is accepted, and the next flush or send will tell.
                if let Err(error @ (TransportError::Closed | TransportError::Broken)) = self.ring(sending) {
                    return Err(error);
                }
            }
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

    /// Tells the peer that there is something in the ring. What the system refuses for reasons of its own is owed.
    pub(super) fn ring(&self, sending: &mut Sending) -> Result<(), TransportError> {
        let rung = match self.socket.try_send(Packet::Bell) {
            Ok(()) => {
                sending.is_left = true;
                Ok(())
            }
            // Then there is something to be read, or the end of the file.
            Err(TrySendError::Full(_) | TrySendError::Failed(TransportError::Finished)) => Ok(()),
            Err(TrySendError::Failed(error)) => Err(error),
        };
        sending.owes_bell = matches!(rung, Err(TransportError::Io { .. }));
        rung
    }

    fn by_socket(
        &self,
        sending: &mut Sending,
        packet: Packet<S>,
        is_small: bool,
    ) -> Result<Offered<S>, TransportError> {
        // Should a message panic in there, nobody knows whether it is to be counted: then the link goes on without this ring.
        let track = sending.track.take();
        let was_left = mem::replace(&mut sending.is_left, true);
        let sent = self.socket.try_send(packet);
        sending.track = track;
        sending.is_left = was_left;
        match sent {
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
    pub(super) fn offer_ring(&self, sending: &mut Sending) {
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
    pub(super) fn send_all(&self, message: S, timeout: Option<Duration>) -> Result<(), TransportError> {
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

/// Whether the peer is gone, or neither sends nor receives any more.
fn is_hung_up(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(&fd, PollFlags::empty())];
    let asked = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
    asked.is_ok() && fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
}
