//! Which waits a notification may end (law 7): one of those that are under way when it comes, or else the next one, but
//! never one that began later.
//!
//! Waits are numbered in the order in which they begin. A notification is as the number of the last wait that it may
//! end. It is owed to one of that number or a lower one, whichever comes first; a wait takes the oldest that it may, and
//! there are never more than there are waits to take them. So none is left that nobody may take.
//!
//! This module wakes nobody. The caller's lock protects it.

use std::collections::VecDeque;

#[derive(Debug, Default)]
pub(super) struct Notices {
    /// The number of the wait that began last.
    last: u64,
    /// How many waits are under way.
    waits: usize,
    /// Notifications that have ended no wait yet; ascending.
    pending: VecDeque<u64>,
}

impl Notices {
    /// A wait begins. Returns its number, with which it must [end](Notices::end).
    pub(super) fn begin(&mut self) -> u64 {
        self.last += 1;
        self.waits += 1;
        self.last
    }

    /// A notification comes.
    pub(super) fn notify(&mut self) {
        if self.pending.len() < self.waits.max(1) {
            let next = u64::from(self.waits == 0);
            self.pending.push_back(self.last + next);
        }
    }

    /// Whether a wait is to be ended by a notification, as far as no other is ended by it.
    pub(super) fn is_for(&self, wait: u64) -> bool {
        self.pending.back().is_some_and(|last| wait <= *last)
    }

    /// A wait ends, by a notification or for another reason; if there is one for it, that is done with.
    pub(super) fn end(&mut self, wait: u64) {
        self.waits -= 1;
        if let Some(oldest) = self.pending.iter().position(|last| wait <= *last) {
            self.pending.remove(oldest);
        }
    }

    /// How many notifications have ended no wait yet.
    pub(super) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// How many waits are under way.
    pub(super) fn waits(&self) -> usize {
        self.waits
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::Notices;

    #[test]
    fn several_before_a_wait_are_one() {
        let mut notices = Notices::default();
        notices.notify();
        notices.notify();
        let first = notices.begin();
        assert!(notices.is_for(first));
        notices.end(first);
        let second = notices.begin();
        assert!(!notices.is_for(second));
    }

    #[test]
    fn later_wait_is_not_ended() {
        let mut notices = Notices::default();
        let early = notices.begin();
        notices.notify();
        let late = notices.begin();
        assert!(!notices.is_for(late));
        notices.end(late);
        assert!(notices.is_for(early));
        notices.end(early);
        assert_eq!(notices.pending(), 0);
    }

    #[test]
    fn next_wait_is_ended_and_not_the_one_after_it() {
        let mut notices = Notices::default();
        notices.notify();
        let next = notices.begin();
        let late = notices.begin();
        assert!(!notices.is_for(late));
        assert!(notices.is_for(next));
    }

    /// In every order of up to eight beginnings, endings and notifications: each wait that is owed one is there to take
    /// it, so that none is pending for ever.
    #[test]
    fn every_notification_has_a_wait() {
        fn go(notices: &Notices, waits: &[u64], depth: usize) {
            // As many waits as notifications up to any number, but for one that waits for the next wait.
            for (count, last) in notices.pending.iter().enumerate() {
                let able = waits.iter().filter(|wait| *wait <= last).count();
                assert!(able > count || (waits.is_empty() && *last > notices.last), "{notices:?} {waits:?}");
            }
            assert_eq!(notices.waits, waits.len());
            if depth == 0 {
                return;
            }
            let copy =
                || Notices { last: notices.last, waits: notices.waits, pending: notices.pending.clone() };
            let mut begun = copy();
            let wait = begun.begin();
            go(&begun, &[waits, &[wait]].concat(), depth - 1);
            let mut notified = copy();
            notified.notify();
            go(&notified, waits, depth - 1);
            for at in 0..waits.len() {
                let mut ended = copy();
                let mut rest = waits.to_vec();
                ended.end(rest.remove(at));
                go(&ended, &rest, depth - 1);
            }
        }
        go(&Notices::default(), &[], 8);
    }
}
