//! [`Patience`]: whether to look for a while before going to sleep.
//!
//! Who sleeps has to be woken, and so has the core that was left alone: that takes tens of microseconds, where an answer may
//! be there in four. So a receive that must wait looks again and again for a short time first. If nothing comes, twice as
//! many receives as the last time go to sleep at once: where answers take longer, or come from the same core, which cannot
//! run the one who is to answer meanwhile, this costs next to nothing.
//!
//! | what came | and then |
//! |---|---|
//! | a message, after some looks | the next receive looks, too |
//! | a message, at the first look | nothing: it would have been there without looking |
//! | nothing in that time, or a message after it, because others had the core meanwhile | the next receive sleeps at once; if looking fails again, the next two; at most 1024 |
//!
//! This module does not look itself, and knows no clock.

use std::time::Duration;

use crate::sync::global::{Mutex, lock};

/// How many receives go to sleep at once, as a power of two, at most.
const FAILURES_MAX: u32 = 10;

/// What one party has learned of its looking.
#[derive(Debug, Default)]
pub struct Patience {
    /// So many receives go to sleep at once.
    pass: u32,
    /// How often in a row nothing came.
    failures: u32,
}

#[cfg(feature = "testing")]
std::thread_local! {
    static IS_FORBIDDEN: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Lets the calling thread have none any more: what it does is to depend on no clock.
#[cfg(feature = "testing")]
pub(crate) fn forbid() {
    IS_FORBIDDEN.set(true);
}

impl Patience {
    /// How long to look: about as long as it takes to wake a core and to be answered from there.
    pub const LIMIT: Duration = Duration::from_micros(50);
    /// Pauses of the processor between two looks.
    pub const PAUSES: u32 = 8;

    /// Whether this receive should look.
    pub fn is_there(&mut self) -> bool {
        #[cfg(feature = "testing")]
        if IS_FORBIDDEN.get() {
            return false;
        }
        let is_there = self.pass == 0;
        self.pass = self.pass.saturating_sub(1);
        is_there
    }

    /// What came of that: a message in time, after more than one look, or nothing.
    pub fn learn(&mut self, came: bool) {
        if came {
            self.failures = 0;
        } else {
            self.pass = 1 << self.failures;
            self.failures = (self.failures + 1).min(FAILURES_MAX);
        }
    }
}

/// The same for several threads that look for the same thing: what one of them learns holds for all.
#[derive(Debug, Default)]
pub struct CommonPatience(Mutex<Patience>);

impl CommonPatience {
    /// As [`Patience::is_there`].
    pub fn is_there(&self) -> bool {
        lock(&self.0).is_there()
    }

    /// As [`Patience::learn`].
    pub fn learn(&self, came: bool) {
        lock(&self.0).learn(came);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many receives pass before the next one looks.
    fn passed(patience: &mut Patience) -> usize {
        std::iter::repeat_with(|| patience.is_there()).take_while(|is_there| !is_there).count()
    }

    #[test]
    fn who_looks_in_vain_looks_ever_less_often() {
        let mut patience = Patience::default();
        let mut pauses = Vec::new();
        for _ in 0..13 {
            pauses.push(passed(&mut patience));
            patience.learn(false);
        }
        assert_eq!(pauses, [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 1024]);
    }

    #[test]
    fn who_finds_something_looks_again() {
        let mut patience = Patience::default();
        for _ in 0..5 {
            passed(&mut patience);
            patience.learn(false);
        }
        assert_eq!(passed(&mut patience), 16);
        patience.learn(true);
        assert_eq!(passed(&mut patience), 0);
        // It begins anew.
        patience.learn(false);
        assert_eq!(passed(&mut patience), 1);
    }
}
