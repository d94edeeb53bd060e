//! Circles of workers that wait for each other: who waits for whom, and how a circle is broken.
//!
//! A worker waits for another if it waits for that one's end, for a mutex that it holds, or for a value that it computes;
//! and for nothing else, and without a time limit. Whoever begins to wait may close a circle. But a circle may also be one
//! of workers of which one is about to end, without the master knowing that yet: it was killed by somebody else, or by a
//! signal that it has not received. So a circle is only suspected at first, and broken if it is still there a moment later:
//! then the worker that closed it is told so. A true one does not go away.
//!
//! This module does not see circles by semaphores and mailboxes, where anybody may come and give what is waited for.

use std::time::{Duration, Instant};

use manycore_backends::poll::PollError;

use super::jobs::{Jobs, Stop};
use crate::platform::Platform;
use crate::wire::Reply;

/// How old a circle is when it is broken.
const SURE: Duration = Duration::from_millis(20);

impl<P: Platform> Jobs<P> {
    /// Whom a worker waits for, and for nothing else. Who is told to stop comes back by itself, and who is killed does not
    /// go on waiting.
    fn waits_on(&self, worker: u64) -> Option<u64> {
        let job = self.running.get(&worker)?;
        let is_ending = job.kill_at.is_some() && job.stop != Stop::Heard;
        if job.stop == Stop::Told || job.killed || is_ending {
            return None;
        }
        self.waits.get(&worker).copied().or_else(|| self.named.waits_for(worker))
    }

    /// Whom a worker waits for, if that one waits for it, directly or through others.
    fn circle(&self, worker: u64) -> Option<u64> {
        let first = self.waits_on(worker)?;
        let mut at = first;
        // No path is longer, unless it runs into a circle that this worker is not in.
        for _ in 0..self.running.len() {
            if at == worker {
                return Some(first);
            }
            at = self.waits_on(at)?;
        }
        None
    }

    /// A worker has begun to wait: if it is in a circle, that is looked at again.
    pub(super) fn suspect_circle(&mut self, worker: u64) {
        if self.circle(worker).is_some() {
            self.suspects.insert((Instant::now() + SURE, worker));
        }
    }

    /// Breaks the circles that are old enough.
    pub(super) fn break_circles(&mut self, now: Instant) -> Result<(), PollError> {
        while let Some((at, worker)) = self.suspects.first().copied().filter(|(at, _)| *at <= now) {
            self.suspects.remove(&(at, worker));
            let Some(other) = self.circle(worker) else { continue };
            if self.waits.remove(&worker).is_some() {
                self.send(worker, Reply::Deadlock { id: other })?;
            } else {
                self.named.refuse(worker, other);
                self.send_named()?;
            }
        }
        Ok(())
    }
}
