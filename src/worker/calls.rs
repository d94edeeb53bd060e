//! Calls: how a [`Context`] asks for something about named objects, and waits for the answer.
//!
//! A call that waits for other workers can end early: its time is over, or the worker is asked to stop. Then the master is
//! told so, and what it says is what counts: it may have happened after all.
//!
//! This module does not know what is asked.

use std::time::{Duration, Instant};

use manycore_backends::transport::TransportError;

use super::Context;
use crate::wire::named::{Answer, Call, Condition, Operation, Told, Wait};
use crate::wire::{Reply, Request};

/// How long a call waits for other workers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Patience {
    /// Not at all.
    No,
    AtMost(Duration),
    ForEver,
}

/// Why a call has no answer.
#[derive(Debug)]
pub(crate) enum CallError {
    /// The worker should stop.
    Stopping,
    MasterGone(TransportError),
}

impl From<TransportError> for CallError {
    fn from(error: TransportError) -> CallError {
        CallError::MasterGone(error)
    }
}

impl Context {
    /// The answer to a call; [`Answer::WouldWait`] if its time is over. It is confirmed if that is due.
    pub(crate) fn call(&mut self, operation: Operation, patience: Patience) -> Result<Answer, CallError> {
        self.calls += 1;
        let number = self.calls;
        let (wait, deadline) = match patience {
            Patience::No => (Wait::No, None),
            Patience::AtMost(time) => (Wait::Some, Instant::now().checked_add(time)),
            Patience::ForEver => (Wait::ForEver, None),
        };
        if wait != Wait::No && self.is_told_to_stop() {
            return Err(CallError::Stopping);
        }
        self.ask(Request::Named(Call { number, wait, operation }))?;
        let mut cancelled = wait == Wait::No;
        loop {
            let mut timeout = deadline
                .filter(|_| !cancelled)
                .map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if !cancelled && self.should_come_back() {
                timeout = Some(Duration::ZERO);
            }
            match self.hear(timeout) {
                Ok(Reply::Named { number: answered, answer }) if answered == number => {
                    return match answer {
                        Answer::Cancelled if self.is_told_to_stop() => Err(CallError::Stopping),
                        Answer::Cancelled => Ok(Answer::WouldWait),
                        answer => {
                            // A worker that is killed here has not got it, and the master knows that.
                            if is_to_be_confirmed(&answer) {
                                self.ask(Request::Told(Told::Confirmed { call: number }))?;
                            }
                            Ok(answer)
                        }
                    };
                }
                Ok(reply) => self.keep(reply),
                Err(TransportError::TimedOut) => {
                    cancelled = true;
                    self.tell(Request::Told(Told::Cancel { call: number }))?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Has the master tell when the condition is true.
    pub(crate) fn watch_condition(&mut self, condition: Condition) -> Result<u64, TransportError> {
        self.calls += 1;
        let watch = self.calls;
        self.watches.insert(watch);
        self.ask(Request::Told(Told::Watch { watch, condition }))?;
        Ok(watch)
    }

    /// Forgets a watch.
    pub(crate) fn unwatch_condition(&mut self, watch: u64) -> Result<(), TransportError> {
        self.watches.remove(&watch);
        if self.ready.remove(&watch) { Ok(()) } else { self.ask(Request::Told(Told::Unwatch { watch })) }
    }

    /// Whether a watch is ready: once. Does not wait.
    pub(crate) fn take_ready(&mut self, watch: u64) -> Result<bool, TransportError> {
        self.hear_all()?;
        Ok(self.take_known_ready(watch))
    }

    fn take_known_ready(&mut self, watch: u64) -> bool {
        let ready = self.ready.remove(&watch);
        if ready {
            self.watches.remove(&watch);
        }
        ready
    }

    /// A watch of these that is ready, once, waiting for it. `None` if the time is over.
    pub(crate) fn wait_ready(
        &mut self,
        watches: &[u64],
        timeout: Option<Duration>,
    ) -> Result<Option<usize>, CallError> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            if let Some(index) = watches.iter().position(|watch| self.take_known_ready(*watch)) {
                return Ok(Some(index));
            }
            if self.is_told_to_stop() {
                return Err(CallError::Stopping);
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            match self.hear(left) {
                Ok(reply) => self.keep(reply),
                Err(TransportError::TimedOut) => break,
                Err(error) => return Err(error.into()),
            }
        }
        // It may not have come to what is ready already.
        self.hear_what_is_known()?;
        Ok(watches.iter().position(|watch| self.take_known_ready(*watch)))
    }

    /// Hears what the master has to say to all that it was told before.
    fn hear_what_is_known(&mut self) -> Result<(), TransportError> {
        let own = self.number();
        self.ask(Request::Ask { id: own })?;
        loop {
            match self.hear(None)? {
                Reply::Running { id } if id == own => return Ok(()),
                reply => self.keep(reply),
            }
        }
    }

    /// Takes what the master has said.
    pub(crate) fn hear_all(&mut self) -> Result<(), TransportError> {
        loop {
            match self.hear(Some(Duration::ZERO)) {
                Ok(reply) => self.keep(reply),
                Err(TransportError::TimedOut) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

/// Whether the answer gives the caller something that nobody else has then.
fn is_to_be_confirmed(answer: &Answer) -> bool {
    matches!(answer, Answer::Message(_) | Answer::Locked { confirm: true, .. })
}
