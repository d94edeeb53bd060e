//! Finding cycles of waiting threads, in one process or in several, without anybody who knows them all.
//!
//! Each object has two *labels* in its lock area: one for the writer, one for the readers. A thread that waits, and that
//! others may be waiting for (it holds other objects, or has the lock word and waits for readers to go), makes itself a
//! label that nobody else has. In each step of its wait, every 10 ms, it
//!
//! 1. reads the label of those whom it waits for, from the object that it wants;
//! 2. keeps the newest label that it has seen;
//! 3. writes that one to all objects that it holds.
//!
//! So labels run against the direction of waiting. One that comes back to the thread that made it has gone round a
//! cycle. Because words may be left over from those who wait no more, the thread makes itself another label then; when
//! that one comes back, too, it is told of the deadlock. It is only one of the threads in the cycle, mostly: the newest
//! label is the one that gets through. All make new ones from time to time, so that one from outside the cycle, which
//! never comes back, cannot hide it for long.
//!
//! The idea is that of D. P. Mitchell and M. J. Merritt, *A Distributed Algorithm for Deadlock Detection and
//! Resolution* (PODC 1984).
//!
//! | words | contents |
//! |---|---|
//! | first | when the label was made: milliseconds of the monotonic clock, modulo 2^32 |
//! | second | a random number |

use rustix::rand::{GetRandomFlags, getrandom};
use rustix::time::{ClockId, clock_gettime};

use super::slots::Shared;
use super::word::{Blocker, READERS_LABEL, WRITER_LABEL};
use super::{Held, LockWords, SEATS};
use crate::lock::LockError;
use crate::sync::global::Arc;

/// Steps until a waiter makes itself a new label; twice as many from one to the next.
const STEPS: u32 = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Label {
    time: u32,
    nonce: u32,
}

impl Label {
    fn new() -> Label {
        let mut nonce = [0; 4];
        // So few bytes there are always, once the system has started.
        let _ = getrandom(&mut nonce, GetRandomFlags::empty());
        Label { time: milliseconds(), nonce: u32::from_ne_bytes(nonce) }
    }

    fn read(words: &dyn LockWords, at: usize) -> Label {
        Label { time: words.load(at), nonce: words.load(at + 1) }
    }

    fn write(self, words: &dyn LockWords, at: usize) {
        words.store(at, self.time);
        words.store(at + 1, self.nonce);
    }

    /// Whether it was made after the other, as seen now. One from the future is left over from the time before the
    /// system was started, or before the clock came round, or nobody ever wrote it: it is older than all.
    fn is_newer(self, than: Label, now: u32) -> bool {
        let age = |label: Label| now.wrapping_sub(label.time);
        let is_from_future = |label| age(label) > i32::MAX as u32;
        match (is_from_future(self), is_from_future(than)) {
            (true, _) => false,
            (false, true) => true,
            (false, false) => (age(than), self.nonce) > (age(self), than.nonce),
        }
    }
}

/// Milliseconds of the monotonic clock, modulo 2^32.
fn milliseconds() -> u32 {
    let now = clock_gettime(ClockId::Monotonic);
    (now.tv_sec as u32).wrapping_mul(1000).wrapping_add(now.tv_nsec as u32 / 1_000_000)
}

/// A wait that may be part of a cycle.
pub(super) struct Probe {
    own: Label,
    newest: Label,
    /// Whether a label of this wait has come back.
    suspected: bool,
    steps: u32,
    next_label: u32,
}

impl Probe {
    pub(super) fn new() -> Probe {
        let own = Label::new();
        Probe { own, newest: own, suspected: false, steps: 0, next_label: STEPS }
    }

    /// One step of the wait for the object `wanted`.
    ///
    /// # Errors
    /// [`LockError::Deadlock`].
    pub(super) fn step(&mut self, wanted: &Shared, blocker: Blocker) -> Result<(), LockError> {
        let (at, keeps_others_out) = match blocker {
            Blocker::Writer(_) => (WRITER_LABEL, false),
            Blocker::Readers { .. } => (READERS_LABEL, true),
            // That one waits only for its turn to be used.
            Blocker::Turn(_) => return Ok(()),
        };
        let held = held_by_caller(wanted);
        if held.is_empty() && !keeps_others_out {
            return Ok(());
        }
        let found = Label::read(&*wanted.words, at);
        self.steps += 1;
        if found == self.own {
            if self.suspected {
                return Err(LockError::Deadlock);
            }
            self.suspected = true;
            self.renew();
        } else if self.steps >= self.next_label {
            self.next_label = self.next_label.saturating_mul(2);
            self.renew();
        } else if found.is_newer(self.newest, milliseconds()) {
            self.newest = found;
        }
        if keeps_others_out {
            self.newest.write(&*wanted.words, WRITER_LABEL);
        }
        for (shared, held) in &held {
            match held {
                Held::Write => self.newest.write(&*shared.words, WRITER_LABEL),
                // There are others who may read and wait.
                _ => {
                    let theirs = Label::read(&*shared.words, READERS_LABEL);
                    if self.newest.is_newer(theirs, milliseconds()) {
                        self.newest.write(&*shared.words, READERS_LABEL);
                    }
                }
            }
        }
        Ok(())
    }

    fn renew(&mut self) {
        self.steps = 0;
        self.own = Label::new();
        self.newest = self.own;
    }
}

/// What the calling thread holds besides `wanted`, which it may be reading.
fn held_by_caller(wanted: &Shared) -> Vec<(Arc<Shared>, Held)> {
    SEATS
        .try_with(|seats| {
            let seats = seats.borrow();
            let held = seats.0.iter().filter(|seat| seat.held != Held::Not && seat.id != wanted.id);
            held.filter_map(|seat| Some((seat.shared.upgrade()?, seat.held)))
                .filter(|(shared, _)| shared.generation.is_current())
                .collect()
        })
        .unwrap_or_default()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_the_clock_cannot_have_said_is_older_than_all() {
        let label = |time, nonce| Label { time, nonce };
        let day = 24 * 60 * 60 * 1000;
        // The clock comes round after some 49 days; half of that makes 0, which no one ever wrote, seem to be ahead.
        for now in [0, 1, day, 20 * day, 30 * day, 49 * day, u32::MAX] {
            let fresh = label(now, 1);
            let earlier = label(now.wrapping_sub(1), 2);
            assert!(fresh.is_newer(earlier, now) && !earlier.is_newer(fresh, now));
            assert!(label(now, 2).is_newer(fresh, now) && !fresh.is_newer(label(now, 2), now));
            assert!(!fresh.is_newer(fresh, now));
            for ahead in [1, day, 24 * day] {
                let stale = label(now.wrapping_add(ahead), 7);
                assert!(fresh.is_newer(stale, now) && !stale.is_newer(fresh, now));
            }
            if now != 0 {
                assert!(fresh.is_newer(label(0, 0), now) && !label(0, 0).is_newer(fresh, now));
            }
        }
    }
}
