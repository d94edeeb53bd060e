//! How threads wait for a pipe before they go to sleep.
//!
//! Sleeping and waking costs microseconds, so who waits first looks again, for a while that doubles.
//!
//! Who looks too often gets less: where one side is a little faster than the other, they meet at every message, and the
//! cache line of each message goes between their cores three times. So who finds the pipe not ready first looks away, for
//! as long as has shown to be good: the other side gets ahead by some messages, and several of them come with each line.
//! That is twice the messages a second or more.
//!
//! | found after waiting | then the next time away is |
//! |---|---|
//! | one message (or place): somebody waits for an answer, or little is sent | halved |
//! | fewer than a quarter of the capacity | doubled |
//! | more than half of it: the other side may have been waiting | halved |
//!
//! What is never tried is never learned, so one wait in 256 looks away also where nothing speaks for it, for 8 pauses of
//! the processor: some tenths of a microsecond.
//!
//! This module does not sleep, and nothing depends on what it has learned but time.

use std::time::Duration;

use crate::sync::global::{AtomicU32, Ordering};
use crate::sync::{spin_loop, thread};

/// For how long to look away, in pauses of the processor. Alone in its cache lines, for each side has its own.
#[repr(align(128))]
pub(super) struct Linger {
    pauses: AtomicU32,
    /// How often somebody has waited.
    waits: AtomicU32,
}

impl Linger {
    const LEAST: u32 = 4;
    const MOST: u32 = 64;
    const TRIAL: u32 = 8;
    const TRIAL_OF: u32 = 256;

    pub(super) fn new() -> Linger {
        Linger { pauses: AtomicU32::new(0), waits: AtomicU32::new(0) }
    }

    /// For how long somebody who begins to wait is to look away: at least one pause.
    fn next(&self) -> u32 {
        // Two who wait at once may count as one.
        let waits = self.waits.load(Ordering::Relaxed);
        self.waits.store(waits.wrapping_add(1), Ordering::Relaxed);
        let least = if waits % Linger::TRIAL_OF == 0 { Linger::TRIAL } else { 1 };
        self.pauses.load(Ordering::Relaxed).max(least)
    }

    /// There were so many after looking away.
    fn learn(&self, found: usize, capacity: usize) {
        let before = self.pauses.load(Ordering::Relaxed);
        let pauses = if found <= 1 || found > capacity / 2 {
            before / 2
        } else if found < capacity / 4 {
            (before * 2).clamp(Linger::LEAST, Linger::MOST)
        } else {
            before
        };
        if pauses != before {
            self.pauses.store(pauses, Ordering::Relaxed);
        }
    }
}

/// How long to look again before going to sleep, which costs some microseconds, and as many to who wakes.
pub(super) struct Patience<'pipe> {
    step: u32,
    /// Where it is known how long to look away; none if that is not to be done.
    linger: Option<&'pipe Linger>,
}

impl<'pipe> Patience<'pipe> {
    const SPINS: u32 = 6;
    const GIVING_WAY: u32 = 10;

    /// None for who does not want to wait: giving way may take longer than anything else here.
    pub(super) fn new(timeout: Option<Duration>, linger: Option<&'pipe Linger>) -> Patience<'pipe> {
        let none = timeout.is_some_and(|timeout| timeout.is_zero());
        Patience {
            step: if none { Patience::GIVING_WAY + 1 } else { 0 },
            linger: linger.filter(|_| !none && !cfg!(loom)),
        }
    }

    /// Waits for a moment, longer each time. True if that is no use any more.
    pub(super) fn is_over(&mut self) -> bool {
        if cfg!(loom) || self.step > Patience::GIVING_WAY {
            return true;
        }
        if let Some(linger) = self.linger.filter(|_| self.step == 0) {
            (0..linger.next()).for_each(|_| spin_loop());
        } else if self.step <= Patience::SPINS {
            (0..1_u32 << self.step).for_each(|_| spin_loop());
        } else {
            thread::yield_now();
        }
        self.step += 1;
        false
    }

    /// What was waited for is there: `left` more of it than was taken.
    #[inline]
    pub(super) fn ends(self, capacity: usize, left: impl FnOnce() -> usize) {
        if let Some(linger) = self.linger.filter(|_| self.step > 0) {
            linger.learn(left() + 1, capacity);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const CAPACITY: usize = 64;

    fn after(found: &[usize]) -> u32 {
        let linger = Linger::new();
        found.iter().for_each(|&found| linger.learn(found, CAPACITY));
        linger.pauses.load(Ordering::Relaxed)
    }

    #[test]
    fn who_gets_one_message_at_a_time_never_looks_away() {
        assert_eq!(after(&[1; 100]), 0);
    }

    #[test]
    fn who_gets_several_looks_away_for_longer_up_to_a_limit() {
        assert_eq!(after(&[2]), Linger::LEAST);
        assert_eq!(after(&[2, 3]), 2 * Linger::LEAST);
        assert_eq!(after(&[2; 100]), Linger::MOST);
    }

    #[test]
    fn what_nothing_speaks_for_is_tried_seldom() {
        let linger = Linger::new();
        for _ in 0..3 {
            assert_eq!(linger.next(), Linger::TRIAL);
            assert!((1..Linger::TRIAL_OF).all(|_| linger.next() == 1));
        }
    }

    #[test]
    fn what_is_good_stays() {
        let good = after(&[2, 2]);
        assert_eq!(after(&[2, 2, CAPACITY / 4, CAPACITY / 2, CAPACITY / 3]), good);
    }

    #[test]
    fn too_long_is_made_shorter() {
        let before = after(&[2, 2]);
        assert_eq!(after(&[2, 2, CAPACITY]), before / 2);
        assert_eq!(after(&[2, 2, 1]), before / 2);
        assert_eq!(after(&[2, 2, 1, 1, 1, 1]), 0);
    }

    #[test]
    fn what_was_not_waited_for_teaches_nothing() {
        let linger = Linger::new();
        Patience::new(None, Some(&linger)).ends(CAPACITY, || unreachable!("nobody has waited"));
        let mut waited = Patience::new(None, Some(&linger));
        assert!(!waited.is_over());
        waited.ends(CAPACITY, || 1);
        assert_eq!(linger.pauses.load(Ordering::Relaxed), Linger::LEAST);
    }

    #[test]
    fn who_does_not_want_to_wait_does_not() {
        let linger = Linger::new();
        let mut none = Patience::new(Some(Duration::ZERO), Some(&linger));
        assert!(none.is_over());
        assert_eq!(linger.waits.load(Ordering::Relaxed), 0);
    }
}
