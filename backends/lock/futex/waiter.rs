//! How a thread waits: for how long, and what it looks after meanwhile.
//!
//! This module does not decide who gets the lock: [`word`](super::word) does.

use std::time::{Duration, Instant};

use super::deadlock::Probe;
use super::slots::{Shared, Slot};
use super::word::{Blocker, Patience};
use crate::lock::{LockError, Wait};

/// How often a waiter looks before it sleeps; it pauses twice as long from one look to the next. (Looking all the time
/// takes the cache line away from those who could make progress: half as fast, measured with two processes.)
const SPINS: u32 = 7;
/// From the beginning of the wait until a waiter looks around for the first time, and from one time to the next.
pub(super) const STEPS: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(10)];

/// A thread that waits for an object.
pub(super) struct Waiter<'a> {
    shared: &'a Shared,
    wait: Wait,
    deadline: Option<Instant>,
    spins: u32,
    /// How often it has looked around.
    steps: u32,
    /// When it does so next. Wakes do not put that off: it may be woken again and again by those who come and go.
    due: Option<Instant>,
    /// Whose turn keeps it out, and since when.
    turn: Option<(Slot, Instant)>,
    probe: Option<Probe>,
}

impl<'a> Waiter<'a> {
    pub(super) fn new(shared: &'a Shared, wait: Wait) -> Waiter<'a> {
        let deadline = match wait {
            Wait::AtMost(limit) => Instant::now().checked_add(limit),
            Wait::Forever | Wait::Try => None,
        };
        Waiter { shared, wait, deadline, spins: 0, steps: 0, due: None, turn: None, probe: None }
    }

    /// Whether any of those is dead.
    fn bury(&self, blocker: Blocker) -> Result<bool, LockError> {
        match blocker {
            Blocker::Writer(slot) => self.shared.is_dead(slot),
            Blocker::Turn(slot) => Ok(self.shared.is_dead(slot)? || self.shared.lapse(slot)),
            Blocker::Readers { row, bits } => {
                let slots = (0..32).filter(|bit| bits & 1 << bit != 0).map(|bit| row * 32 + bit);
                slots
                    .filter_map(Slot::new)
                    .try_fold(false, |dead, slot| Ok(dead | self.shared.is_dead(slot)?))
            }
        }
    }
}

impl Patience for Waiter<'_> {
    fn spin(&mut self) -> bool {
        self.spins += 1;
        if self.wait == Wait::Try || self.spins > SPINS {
            return false;
        }
        for _ in 0..1 << self.spins {
            std::hint::spin_loop();
        }
        true
    }

    fn sleep(&mut self, blocker: Blocker) -> Result<Option<Duration>, LockError> {
        self.spins = 0;
        let now = Instant::now();
        let remaining = match (self.wait, self.deadline) {
            (Wait::Try, _) => Duration::ZERO,
            (_, Some(deadline)) => deadline.saturating_duration_since(now),
            (_, None) => Duration::MAX,
        };
        if remaining == Duration::ZERO {
            return match self.wait {
                // Also those who never sleep get what the dead have left.
                _ if self.bury(blocker)? => Ok(None),
                Wait::Try => Err(LockError::Busy),
                _ => Err(LockError::TimedOut),
            };
        }
        self.turn = match (blocker, self.turn) {
            (Blocker::Turn(slot), Some((known, since))) if known == slot => Some((slot, since)),
            (Blocker::Turn(slot), _) => Some((slot, now)),
            _ => None,
        };
        let due = *self.due.get_or_insert(now + STEPS[self.steps.min(1) as usize]);
        Ok(Some(due.saturating_duration_since(now).min(remaining)))
    }

    fn slept(&mut self, blocker: Blocker, _woken: bool) -> Result<bool, LockError> {
        let now = Instant::now();
        if self.due.is_some_and(|due| due <= now) {
            self.due = None;
            self.steps = self.steps.saturating_add(1);
            if !self.bury(blocker)? {
                self.probe.get_or_insert_with(Probe::new).step(self.shared, blocker)?;
            }
        }
        Ok(self.turn.is_some_and(|(_, since)| now.saturating_duration_since(since) >= STEPS[1]))
    }

    fn may_take_turn(&self) -> bool {
        // Where the word changes all the time one may not even come to sleep.
        self.steps > 0 || self.due.is_some_and(|due| due <= Instant::now())
    }

    fn is_dead(&mut self, slot: Slot) -> Result<bool, LockError> {
        self.shared.is_dead(slot)
    }
}
