//! How the master waits: it looks for a short time before it sleeps, where that was of use lately, and where a core would
//! have nothing to do meanwhile.
//!
//! Who is woken from sleep is late by tens of microseconds: more than the master needs to answer, and more than a short
//! task takes. But a master that looks takes the core from a worker, if there are as many of them at work as there are
//! cores.
//!
//! | | at work are |
//! |---|---|
//! | a pool | the members that have something to do |
//! | a run | all workers but one, who waits for the answer |
//!
//! This module does not see to what has happened.

use std::hint::spin_loop;
use std::time::{Duration, Instant};

use manycore_backends::patience::Patience;
use manycore_backends::poll::{Event, PollError, Poller};

use super::jobs::Jobs;
use crate::platform::Platform;

/// What the master knows of its waiting.
#[derive(Debug)]
pub(super) struct Waiting {
    patience: Patience,
    cores: usize,
    /// Members of a pool that have something to do.
    busy: Option<usize>,
}

impl Default for Waiting {
    fn default() -> Waiting {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Waiting { patience: Patience::default(), cores, busy: None }
    }
}

impl<P: Platform> Jobs<P> {
    /// So many members of a pool have something to do from now on.
    pub(crate) fn set_busy(&mut self, members: usize) {
        self.waiting.busy = Some(members);
    }

    /// Waits at most so long for something to happen.
    pub(super) fn wait(
        &mut self,
        events: &mut Vec<Event>,
        timeout: Option<Duration>,
    ) -> Result<(), PollError> {
        let short = timeout.is_some_and(|timeout| timeout <= Patience::LIMIT);
        let busy = self.waiting.busy.unwrap_or(self.running.len().saturating_sub(1));
        if short || busy >= self.waiting.cores || !self.waiting.patience.is_there() {
            return self.poller.wait(events, timeout).map(drop);
        }
        let end = Instant::now() + Patience::LIMIT;
        let mut looks = 0_u32;
        loop {
            self.poller.wait(events, Some(Duration::ZERO))?;
            looks += 1;
            let came = !events.is_empty();
            let is_over = Instant::now() >= end;
            if came || is_over {
                // What was there already would have been there without looking.
                if looks > 1 {
                    self.waiting.patience.learn(came && !is_over);
                }
                return if came { Ok(()) } else { self.poller.wait(events, timeout).map(drop) };
            }
            (0..Patience::PAUSES).for_each(|_| spin_loop());
        }
    }
}
