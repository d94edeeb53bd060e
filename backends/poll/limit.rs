//! Until when to wait: a timeout turned into a point in time, so that what interrupts a sleep does not lengthen it.

use std::time::{Duration, Instant};

/// The longest sleep asked of the kernel at once: 68 years fit into the `time_t` of every machine.
const LONGEST_SLEEP: Duration = Duration::from_secs(i32::MAX as u64);

#[derive(Clone, Copy, Debug)]
pub(super) enum Limit {
    Now,
    At(Instant),
    Never,
}

impl Limit {
    pub(super) fn after(timeout: Option<Duration>) -> Limit {
        match timeout {
            None => Limit::Never,
            Some(Duration::ZERO) => Limit::Now,
            // An instant that the clock cannot express does not come.
            Some(timeout) => Instant::now().checked_add(timeout).map_or(Limit::Never, Limit::At),
        }
    }

    /// How long to sleep now, at most `LONGEST_SLEEP`: a long sleep is made of several.
    pub(super) fn remaining(self) -> Option<Duration> {
        match self {
            Limit::Now => Some(Duration::ZERO),
            Limit::At(end) => Some(end.saturating_duration_since(Instant::now()).min(LONGEST_SLEEP)),
            Limit::Never => None,
        }
    }

    pub(super) fn is_over(self) -> bool {
        match self {
            Limit::Now => true,
            Limit::At(end) => Instant::now() >= end,
            Limit::Never => false,
        }
    }
}
