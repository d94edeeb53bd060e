//! Receiving from a ring and the socket beside it: which comes first, looking, and sleeping.
//!
//! This module knows nothing of sending.

use std::io;
use std::mem;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;

use super::RingEnd;
use super::packet::Packet;
use super::track::{BYTES, Nonsense, Reader};
use crate::generation::Generation;
use crate::patience::Patience;
use crate::shm::{Mapping, Memfd};
use crate::sync::global::{MutexGuard, Ordering, lock};
use crate::sync::spin_loop;
use crate::transport::socket::deadline_after;
use crate::transport::{Endpoint, Message, TransportError};

/// So many bells may come that were not asked for here, as an end may have that had this descriptor before: far more than
/// there ever are.
pub(super) const BELLS_BEFORE: u32 = 1024;

/// Pauses of the processor between two looks at a ring.
const PAUSES: u32 = 1;

/// What an end knows of receiving.
pub(super) struct Receiving<R> {
    pub(super) track: Option<Attached>,
    /// How many messages were taken from the socket since the ring was offered.
    pub(super) came: u32,
    /// What has come over the socket, while the ring may hold what goes before it.
    pub(super) held: Option<Packet<R>>,
    /// A message came over the socket since a ring was offered: another may be.
    pub(super) may_offer: bool,
    /// So many bells may be on their way.
    pub(super) bells: u32,
    /// The socket is being read. Still so afterwards: a message has panicked, and is gone.
    pub(super) inside: bool,
    /// A thread looks, or sleeps on the descriptor, and has left the lock meanwhile.
    pub(super) is_led: bool,
    /// It sleeps: what comes over the socket, which wakes it, is for it.
    pub(super) asleep: bool,
    pub(super) patience: Patience,
    pub(super) message: Vec<u8>,
}

impl<R> Default for Receiving<R> {
    fn default() -> Receiving<R> {
        Receiving {
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
        }
    }
}

/// The ring that the peer writes to.
pub(super) struct Attached {
    pub(super) reader: Reader<Mapping>,
    pub(super) generation: Generation,
    /// The descriptor was given away: the link goes on without this ring.
    pub(super) is_left: bool,
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

/// What a try to receive may do beside looking at the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Try {
    /// Read the socket if there is no ring, or the peer has said there that something went over it: which it does only
    /// after sending, and a successor of it, made again of its descriptor, not at all.
    Look,
    /// Have the next entry told.
    Arm,
    /// That, and read the socket first.
    Read,
}

impl<S: Message, R: Message> RingEnd<S, R> {
    /// Takes the next message, if it is there.
    pub(super) fn take(&self, receiving: &mut Receiving<R>, how: Try) -> Result<Option<R>, TransportError> {
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
    pub(super) fn arm(&self, receiving: &mut Receiving<R>) -> Result<bool, Nonsense> {
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
            // Nobody can keep this end busy with them: but for those, each was asked for here.
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

    pub(super) fn receive_one(&self, timeout: Option<Duration>) -> Result<R, TransportError> {
        let deadline = deadline_after(timeout);
        let mut is_over = timeout == Some(Duration::ZERO);
        let mut may_look = timeout.is_none_or(|timeout| timeout > Patience::LIMIT);
        let _leaving = Leaving(self);
        let mut receiving = lock(&self.receiving);
        if receiving.track.is_some() {
            if let Some(message) = self.take(&mut receiving, Try::Look)? {
                return Ok(message);
            }
        }
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
            if let Some(message) = self.take_before_sleep(&mut receiving)? {
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

    /// The last step with the lock, whatever other threads have received since the first: has the next entry told, and takes
    /// what is there and would not wake a sleeper, also if another receive has read it along with its own message.
    pub(super) fn take_before_sleep(
        &self,
        receiving: &mut Receiving<R>,
    ) -> Result<Option<R>, TransportError> {
        let how = if self.socket.may_have_more() { Try::Read } else { Try::Arm };
        self.take(receiving, how)
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
