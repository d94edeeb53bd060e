//! What workers ask and tell of named objects, on its way to the [registry](crate::named) and back; and the ends of workers
//! that are watched together with objects.
//!
//! This module does not know what the objects mean.

use std::time::Instant;

use manycore_backends::poll::PollError;

use super::jobs::Jobs;
use crate::platform::Platform;
use crate::wire::Reply;
use crate::wire::named::{Call, Condition, Told};

impl<P: Platform> Jobs<P> {
    /// A worker tells something of named objects, or of what it watches together with them.
    pub(super) fn hear_told(&mut self, id: u64, told: Told) -> Result<(), PollError> {
        match &told {
            Told::Watch { watch, condition: Condition::Ended { id: wanted } } => {
                let at = (id, *watch);
                match self.running.get_mut(wanted) {
                    Some(job) => {
                        job.end_watches.insert(at);
                        self.end_watches.insert(at, *wanted);
                        return Ok(());
                    }
                    None => return self.send(id, Reply::Ready { watch: *watch }),
                }
            }
            Told::Unwatch { watch } => {
                let wanted = self.end_watches.remove(&(id, *watch));
                if let Some(job) = wanted.and_then(|wanted| self.running.get_mut(&wanted)) {
                    job.end_watches.remove(&(id, *watch));
                }
            }
            _ => {}
        }
        self.named.tell(id, told);
        self.send_named()
    }

    /// A worker asks something about a named object.
    pub(super) fn serve_named(&mut self, id: u64, call: Call) -> Result<(), PollError> {
        // It would not hear the answer, and leave behind what it was given.
        if self.running.get(&id).is_some_and(|job| job.killed) {
            return Ok(());
        }
        self.named.ask(id, call);
        self.suspect_circle(id);
        self.send_named()
    }

    /// Says what is to be said of named objects.
    pub(super) fn send_named(&mut self) -> Result<(), PollError> {
        // Saying it may lead to more, if a link turns out to be gone: that is said after it, by whoever says it already.
        if std::mem::replace(&mut self.says_named, true) {
            return Ok(());
        }
        let mut result = Ok(());
        loop {
            let replies = self.named.take_replies();
            if replies.is_empty() {
                break;
            }
            for (party, reply) in replies {
                result = result.and(self.send(party, reply));
            }
        }
        self.says_named = false;
        result
    }

    /// Removes the named objects that nobody has used for too long.
    pub(super) fn expire(&mut self, now: Instant) -> Result<(), PollError> {
        self.named.expire(now);
        self.send_named()
    }

    /// A worker has ended: what it had goes back, and it watches nothing.
    pub(super) fn take_back(&mut self, id: u64) -> Result<(), PollError> {
        let watches: Vec<_> =
            self.end_watches.range((id, 0)..=(id, u64::MAX)).map(|(at, job)| (*at, *job)).collect();
        for (at, wanted) in watches {
            self.end_watches.remove(&at);
            if let Some(job) = self.running.get_mut(&wanted) {
                job.end_watches.remove(&at);
            }
        }
        self.named.end(id);
        self.send_named()
    }
}
