//! Visitors: who looks at the run from outside, or has something of it end.
//!
//! | a visitor | and then |
//! |---|---|
//! | asks | its next question is heard when the answer is out |
//! | asks for more than its turn | the others have theirs first |
//! | does not read | it is not heard; lines of the log that it is to follow are not kept for it |
//! | says what is no question | it is told so |
//! | announces a question over the limit, or leaves | it is forgotten; what it had asked for last is not done |
//! | is one too many, or there are no descriptors left | who was quiet for longest has to go, those first who never asked |
//!
//! So a visitor takes a descriptor, a place, and room for one answer. Nothing that it does is an error of the master.
//!
//! What they are told is in [`answers`](super::answers).
//!
//! This module does not check who comes in: the listener does.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use manycore_backends::poll::{Interest, PollError, Poller};
use manycore_backends::transport::{Endpoint, Listener, SocketEnd, TransportError, TrySendError};

use super::directory::Door;
use super::jobs::Jobs;
use crate::named::ObjectInfo;
use crate::platform::Platform;
use crate::wire::visit::{Answer, Question};
use crate::worker::level::cut;

/// How many visitors there may be.
const VISITORS_MAX: usize = 16;

/// Questions of one visitor that are answered before it is the turn of others.
const TURN: usize = 16;

/// Visitors that are let in before it is the turn of others. They are heard before more are, so that what one asks at once
/// counts when somebody has to go.
const ENTER: usize = 4;

/// When to listen again after the system had nothing left for a visitor.
const PAUSE: Duration = Duration::from_millis(100);

/// The longest name, in bytes: a page of them fits into an answer.
pub(super) const NAME_MAX: usize = 200;

/// The poll key of the listener; those of the visitors follow. No job has them, nor a signal.
const DOOR: u64 = 1 << 62;

/// The errors of the system that mean that no descriptor is left: `ENFILE` and `EMFILE`.
const NO_DESCRIPTOR: [i32; 2] = [23, 24];

#[derive(Debug, Default)]
pub(super) struct Visitors {
    door: Option<Arc<Door>>,
    pub(super) visitors: BTreeMap<u64, Visitor>,
    /// Visitors that may have said more than was listened to.
    unheard: BTreeSet<u64>,
    /// When to listen again at the door.
    again: Option<Instant>,
    /// Counts signs of life.
    clock: u64,
}

#[derive(Debug)]
pub(super) struct Visitor {
    pub(super) link: Arc<SocketEnd<Answer, Question>>,
    /// The number of its process.
    pub(super) process: u32,
    /// An answer that the link had no room for.
    answer: Option<Answer>,
    /// What its link is polled for.
    interest: Interest,
    /// What it has not been told yet of the objects that it has asked for.
    pub(super) objects: VecDeque<ObjectInfo>,
    /// The number of the line of the log that it is to get next.
    pub(super) follows: Option<u64>,
    /// Whether it has ever asked something, and when it gave the last sign of life.
    heard: (bool, u64),
}

impl Visitor {
    /// Sends what waits, and returns whether nothing does.
    fn flush(&mut self) -> Result<bool, TransportError> {
        if !self.link.is_flushed() && !self.link.flush()? {
            return Ok(false);
        }
        match self.answer.take() {
            None => Ok(true),
            Some(answer) => match self.link.try_send(answer) {
                Ok(()) => Ok(self.link.is_flushed()),
                Err(TrySendError::Full(answer)) => {
                    self.answer = Some(answer);
                    Ok(false)
                }
                Err(TrySendError::Failed(error)) => Err(error),
                Err(_) => Err(TransportError::Closed),
            },
        }
    }
}

impl Visitors {
    /// Whether somebody is to be heard without waiting for anything.
    pub(super) fn is_unheard(&self) -> bool {
        !self.unheard.is_empty()
    }

    /// When something is to be done if nothing happens.
    pub(super) fn again(&self) -> Option<Instant> {
        self.again
    }

    /// The time of the next sign of life.
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// Who was quiet for longest.
    fn quietest(&self) -> Option<u64> {
        self.visitors.iter().min_by_key(|(_, visitor)| visitor.heard).map(|(key, _)| *key)
    }
}

impl<P: Platform> Jobs<P> {
    /// Lets visitors in: later, if it cannot be now.
    pub(super) fn open_door(&mut self, door: Option<Arc<Door>>) {
        self.visitors.door = door;
        self.listen_at_door();
    }

    /// Lets nobody in any more, and has those who are there go, when they were told what happened.
    pub(super) fn close_door(&mut self) {
        self.tell_followers();
        for key in self.visitors.visitors.keys().copied().collect::<Vec<u64>>() {
            self.send_off(key);
        }
        if self.visitors.door.take().is_some() {
            let _ = self.poller.remove(DOOR);
        }
        self.visitors.again = None;
    }

    /// Sees to the event of the key, if it is a visitor's or that of the door.
    pub(super) fn receive(&mut self, key: u64) -> Result<bool, PollError> {
        if key == DOOR {
            self.let_in();
        } else if self.visitors.visitors.contains_key(&key) {
            self.hear_visitor(key)?;
        } else {
            // Who was there has left since.
            return Ok((DOOR..=DOOR + VISITORS_MAX as u64).contains(&key));
        }
        Ok(true)
    }

    /// Hears those who had more to say than was listened to, and looks whether it is time to listen at the door again.
    pub(super) fn see_to_visitors(&mut self) -> Result<(), PollError> {
        for key in std::mem::take(&mut self.visitors.unheard) {
            self.hear_visitor(key)?;
        }
        if self.visitors.again.is_some_and(|again| again <= Instant::now()) {
            self.listen_at_door();
        }
        Ok(())
    }

    fn listen_at_door(&mut self) {
        let Some(door) = self.visitors.door.clone() else { return };
        self.visitors.again = None;
        let listens = self.poller.modify(DOOR, Interest::READ);
        // The first time, or it was refused then.
        if listens.or_else(|_| self.poller.add(DOOR, door as _, Interest::READ)).is_err() {
            self.pause();
        }
    }

    /// Does not listen at the door for a while.
    fn pause(&mut self) {
        let _ = self.poller.modify(DOOR, Interest::NONE);
        self.visitors.again = Instant::now().checked_add(PAUSE);
    }

    fn let_in(&mut self) {
        let Some(door) = self.visitors.door.clone() else { return };
        for accepted in 0..ENTER {
            match door.try_accept() {
                Ok(Some(link)) => self.welcome(link),
                Ok(None) => return,
                Err(TransportError::Io { source, .. }) if is_out_of_descriptors(&source) => {
                    match self.visitors.quietest() {
                        // Then the system says so even if nobody waits.
                        _ if accepted > 0 => return,
                        Some(quietest) => self.send_off(quietest),
                        None => return self.pause(),
                    }
                }
                Err(_) => return self.pause(),
            }
        }
    }

    fn welcome(&mut self, link: SocketEnd<Answer, Question>) {
        // Who cannot be asked who it is has left.
        let Ok(peer) = link.peer() else { return };
        if self.visitors.visitors.len() == VISITORS_MAX {
            if let Some(quietest) = self.visitors.quietest() {
                self.send_off(quietest);
            }
        }
        let free = (DOOR + 1..).find(|key| !self.visitors.visitors.contains_key(key));
        let Some(key) = free else { return };
        let link = Arc::new(link);
        // What cannot be watched cannot be served.
        if self.poller.add(key, Arc::clone(&link) as _, Interest::READ).is_err() {
            return;
        }
        let heard = (false, self.visitors.tick());
        let visitor = Visitor {
            link,
            process: peer.process,
            answer: None,
            interest: Interest::READ,
            objects: VecDeque::new(),
            follows: None,
            heard,
        };
        self.visitors.visitors.insert(key, visitor);
        self.visitors.unheard.insert(key);
    }

    /// Forgets a visitor.
    fn send_off(&mut self, key: u64) {
        if self.visitors.visitors.remove(&key).is_some() {
            self.visitors.unheard.remove(&key);
            let _ = self.poller.remove(key);
        }
    }

    /// Answers what a visitor asks, as much as is answered in one turn.
    fn hear_visitor(&mut self, key: u64) -> Result<(), PollError> {
        for _ in 0..TURN {
            let now = self.visitors.tick();
            let Some(visitor) = self.visitors.visitors.get_mut(&key) else { return Ok(()) };
            match visitor.flush() {
                Ok(true) => {}
                Ok(false) => {
                    self.watch_visitor(key, Interest::WRITE);
                    return Ok(());
                }
                Err(_) => {
                    self.send_off(key);
                    return Ok(());
                }
            }
            let answer = match visitor.link.try_receive() {
                Ok(Some(question)) => {
                    visitor.heard = (true, now);
                    self.answer(key, question)?
                }
                Ok(None) => {
                    self.watch_visitor(key, Interest::READ);
                    return Ok(());
                }
                Err(TransportError::Decode(error)) => {
                    let mut message = error.to_string();
                    cut(&mut message, NAME_MAX);
                    Some(Answer::NotUnderstood { message })
                }
                // Gone, or not to be understood any more.
                Err(_) => {
                    self.send_off(key);
                    return Ok(());
                }
            };
            if let Some(visitor) = self.visitors.visitors.get_mut(&key) {
                visitor.answer = answer;
            }
        }
        self.visitors.unheard.insert(key);
        Ok(())
    }

    fn watch_visitor(&mut self, key: u64, interest: Interest) {
        let Some(visitor) = self.visitors.visitors.get_mut(&key) else { return };
        if std::mem::replace(&mut visitor.interest, interest) != interest
            && self.poller.modify(key, interest).is_err()
        {
            self.send_off(key);
        }
    }

    /// Sends followers what they have not got yet, as far as there is room.
    pub(super) fn tell_followers(&mut self) {
        let following = |(key, visitor): (&u64, &Visitor)| {
            visitor.follows.is_some_and(|next| next < self.log.end()).then_some(*key)
        };
        for key in self.visitors.visitors.iter().filter_map(following).collect::<Vec<u64>>() {
            self.tell_follower(key);
        }
    }

    fn tell_follower(&mut self, key: u64) {
        let Some(visitor) = self.visitors.visitors.get_mut(&key) else { return };
        while let Some(next) = visitor.follows.filter(|next| *next < self.log.end()) {
            match visitor.flush() {
                Ok(true) => {}
                Ok(false) => return self.watch_visitor(key, Interest::WRITE),
                Err(_) => return self.send_off(key),
            }
            let lines = self.log.page(next);
            visitor.follows = Some(lines.last().map_or(self.log.end(), |line| line.number + 1));
            visitor.answer = Some(Answer::Log { lines, end: self.log.end() });
        }
        match visitor.flush() {
            Ok(true) => {}
            Ok(false) => self.watch_visitor(key, Interest::WRITE),
            Err(_) => self.send_off(key),
        }
    }
}

/// Whether no descriptor is left.
fn is_out_of_descriptors(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|errno| NO_DESCRIPTOR.contains(&errno))
}
