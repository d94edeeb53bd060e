//! How workers are made to end: on request, at the end of a run, and at a signal to the master.
//!
//! | the worker | first | after the grace time |
//! |---|---|---|
//! | has asked whether it should stop | is told to stop | `SIGKILL` |
//! | has never asked | `SIGTERM` | `SIGKILL` |
//! | has no time | `SIGKILL` | |
//!
//! A worker that is a thread cannot be ended by force: a signal ends it at its next call of this library, or in one that
//! waits, because something is sent to it at the same time; if it is to be killed, its link is given up.
//!
//! This module does not decide what a worker's outcome is.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use manycore_backends::poll::{Interest, Notifier, PollError, Poller, SignalWatch, is_signal_ignored};
use manycore_backends::spawn::Child;

use super::jobs::{Jobs, Stop};
use super::{AtEnd, RunError};
use crate::platform::Platform;
use crate::trace::event;
use crate::wire::{Reply, Whom};
use crate::worker::{ASKING, CancelledBy, Level, Outcome};

/// The numbers of these signals, everywhere.
pub(super) const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;

/// How far a run is on its way to its end.
#[derive(Debug, Default)]
pub(super) struct Stopping {
    /// Whether no more workers are started.
    pub(super) refusing: bool,
    /// The signal that the master got.
    pub(super) interrupted: Option<i32>,
    /// Whether somebody from outside has it end.
    commanded: bool,
    /// When all that are left are terminated.
    end_at: Option<Instant>,
    /// When which workers are killed.
    kills: BTreeSet<(Instant, u64)>,
}

/// The signals that end a run, as descriptors.
#[derive(Debug, Default)]
pub(super) struct Signals {
    watched: Vec<(i32, Arc<Notifier>, SignalWatch)>,
}

impl Signals {
    /// Watches those that are not ignored: whoever has started this program may want it not to heed them. After an error
    /// some are watched.
    fn watch(&mut self, poller: &impl Poller) -> Result<(), PollError> {
        for signal in ASKING.into_iter().filter(|signal| !is_signal_ignored(*signal)) {
            let notifier = Arc::new(Notifier::new()?);
            let watch = notifier.watch_signal(signal)?;
            poller.add(signal_key(self.watched.len()), Arc::clone(&notifier) as _, Interest::READ)?;
            self.watched.push((signal, notifier, watch));
        }
        Ok(())
    }

    /// The signal that the poll key stands for, if it has arrived.
    pub(super) fn taken(&self, key: u64) -> Option<i32> {
        let (_, (signal, notifier, _)) =
            self.watched.iter().enumerate().find(|(index, _)| signal_key(*index) == key)?;
        notifier.consume().unwrap_or(false).then_some(*signal)
    }

    /// A signal that has arrived and was not taken.
    pub(super) fn left(&self) -> Option<i32> {
        let mut arrived = self.watched.iter().filter(|(_, notifier, _)| notifier.consume().unwrap_or(false));
        arrived.next().map(|(signal, ..)| *signal)
    }
}

/// No worker has a number so high.
fn signal_key(index: usize) -> u64 {
    u64::MAX - index as u64
}

impl<P: Platform> Jobs<P> {
    /// Has signals end the run from now on, if the program wants that.
    pub(crate) fn watch_signals(&mut self) -> Result<(), PollError> {
        if !self.options.signals {
            return Ok(());
        }
        self.signals.watch(&self.poller).inspect_err(|_| drop(self.take_signals()))
    }

    /// Gives the signals up, to be looked at a last time.
    pub(super) fn take_signals(&mut self) -> Signals {
        let signals = std::mem::take(&mut self.signals);
        for index in 0..signals.watched.len() {
            // It is there: it was added.
            let _ = self.poller.remove(signal_key(index));
        }
        signals
    }

    /// Has signals do what they did before, and returns one that has arrived meanwhile.
    pub(crate) fn unwatch_signals(&mut self) -> Option<i32> {
        let left = self.take_signals().left();
        self.stopping.interrupted = self.stopping.interrupted.or(left);
        left
    }

    /// Why the run ends before its time, if it does.
    pub(crate) fn broken_off(&self) -> Option<RunError> {
        match self.stopping.interrupted {
            Some(signal) => Some(RunError::Interrupted { signal }),
            None => self.stopping.commanded.then_some(RunError::Stopped),
        }
    }

    /// Kills a worker if it does not end by itself in the grace time.
    pub(crate) fn kill_in_grace(&mut self, id: u64) {
        self.kill_in(id, self.options.grace);
    }

    /// Kills a worker that does not keep to the protocol.
    pub(crate) fn condemn(&mut self, id: u64, why: &str) -> Result<(), PollError> {
        if let Some(job) = self.running.get_mut(&id) {
            event!(warn, worker = id, why, "worker breaks the protocol");
            self.log.write(Level::Warn, Some(id), format!("is killed: {why}"));
            job.outcome = Some(Outcome::Lost { message: why.to_owned() });
        }
        self.kill(id)
    }

    /// Ends: the workers in `idle` are told by the end of file that nothing more comes, and have the grace time; all others
    /// are killed.
    pub(crate) fn close(&mut self, idle: impl IntoIterator<Item = u64>) -> Result<(), RunError> {
        self.stopping.refusing = true;
        let idle: BTreeSet<u64> = idle.into_iter().collect();
        let ids: Vec<u64> = self.running.keys().copied().collect();
        for id in ids {
            if idle.contains(&id) {
                self.unlink(id)?;
                self.kill_in(id, self.options.grace);
            } else {
                self.kill(id)?;
            }
        }
        while !self.running.is_empty() {
            self.turn()?;
        }
        self.close_door();
        Ok(())
    }

    /// How long nothing has to be done if nothing happens.
    pub(super) fn time_left(&self) -> Option<Duration> {
        let kill = self.stopping.kills.first().map(|(at, _)| *at);
        let suspect = self.suspects.first().map(|(at, _)| *at);
        let spare = self.spare.until();
        let ends = [kill, self.stopping.end_at, self.visitors.again(), self.named.deadline(), suspect, spare];
        let next = ends.into_iter().flatten().min();
        next.map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// Has those workers end that `sender` means, and returns how many.
    pub(super) fn terminate_them(
        &mut self,
        whom: &Whom,
        sender: u64,
        grace: Duration,
    ) -> Result<u64, PollError> {
        let ids: Vec<u64> = match whom {
            Whom::One(id) => vec![*id],
            Whom::Others => self.running.keys().copied().filter(|id| *id != sender).collect(),
            Whom::Group(group) => {
                let in_group = |job: &super::jobs::Job<P>| job.group.as_ref() == Some(group);
                self.running.iter().filter(|(_, job)| in_group(job)).map(|(id, _)| *id).collect()
            }
        };
        let mut count = 0;
        for id in ids {
            count += u64::from(self.terminate(id, CancelledBy::Worker(sender), grace)?);
        }
        Ok(count)
    }

    /// Sends a worker a signal, and returns whether it was there and could be sent one.
    pub(super) fn signal(&mut self, id: u64, signal: i32) -> Result<bool, PollError> {
        let Some(job) = self.running.get_mut(&id) else { return Ok(false) };
        // What a process that asks does with these signals.
        if !Self::PROCESSES && job.listens && ASKING.contains(&signal) {
            self.ask_to_stop(id)?;
            return Ok(true);
        }
        let sent = job.child.kill(signal).is_ok();
        job.killed |= sent && signal == SIGKILL;
        // What waits for it already wakes it as well.
        if !Self::PROCESSES && job.outbox.is_empty() {
            self.send(id, Reply::Wake)?;
        }
        Ok(sent)
    }

    /// Tells a worker that it should stop, once.
    fn ask_to_stop(&mut self, id: u64) -> Result<(), PollError> {
        let Some(job) = self.running.get_mut(&id) else { return Ok(()) };
        if job.stop != Stop::Untold {
            return Ok(());
        }
        job.stop = Stop::Told;
        self.waits.remove(&id);
        self.send(id, Reply::Stop)
    }

    /// Has a worker end, and returns whether it was there.
    pub(super) fn terminate(&mut self, id: u64, by: CancelledBy, grace: Duration) -> Result<bool, PollError> {
        let Some(job) = self.running.get_mut(&id) else { return Ok(false) };
        event!(info, worker = id, %by, "worker is terminated");
        self.log.write(Level::Info, Some(id), format!("is terminated by {by}"));
        job.cancelled.get_or_insert(by);
        if grace.is_zero() {
            self.kill(id)?;
            return Ok(true);
        }
        if job.listens {
            self.ask_to_stop(id)?;
        } else {
            // One that cannot be signalled is killed later, or has ended.
            self.signal(id, SIGTERM)?;
        }
        self.kill_in(id, grace);
        Ok(true)
    }

    fn kill_in(&mut self, id: u64, grace: Duration) {
        // A time that is too far away to be said never comes.
        let Some(at) = Instant::now().checked_add(grace) else { return };
        let Some(job) = self.running.get_mut(&id) else { return };
        let at = job.kill_at.map_or(at, |before| before.min(at));
        if let Some(before) = job.kill_at.replace(at) {
            self.stopping.kills.remove(&(before, id));
        }
        self.stopping.kills.insert((at, id));
    }

    /// A worker that was to be killed then has ended.
    pub(super) fn kill_no_more(&mut self, id: u64, kill_at: Option<Instant>) {
        if let Some(at) = kill_at {
            self.stopping.kills.remove(&(at, id));
        }
    }

    pub(super) fn kill(&mut self, id: u64) -> Result<(), PollError> {
        if let Some(job) = self.running.get_mut(&id) {
            let _ = job.child.kill(SIGKILL);
            job.killed = true;
            if !Self::PROCESSES {
                self.unlink(id)?;
            }
        }
        Ok(())
    }

    /// A worker has said that it asks whether it should stop.
    pub(super) fn hear_listener(&mut self, id: u64) -> Result<(), PollError> {
        let Some(job) = self.running.get_mut(&id) else { return Ok(()) };
        job.listens = true;
        // The signal that it was sent before it had said so is something that it heeds.
        if job.cancelled.is_some() { self.ask_to_stop(id) } else { Ok(()) }
    }

    /// The first worker has ended.
    pub(super) fn begin_to_end(&mut self) -> Result<(), RunError> {
        self.stopping.refusing = true;
        match self.options.at_end {
            AtEnd::Wait => {}
            AtEnd::WaitAtMost(time) => self.stopping.end_at = Instant::now().checked_add(time),
            AtEnd::Terminate => self.terminate_all(&CancelledBy::EndOfRun, self.options.grace)?,
        }
        Ok(())
    }

    /// Somebody from outside has the run end: all workers are terminated.
    pub(super) fn stop_all(&mut self, grace: Duration) -> Result<(), PollError> {
        self.stopping.refusing = true;
        self.stopping.commanded = true;
        self.terminate_all(&CancelledBy::Command, grace)
    }

    fn terminate_all(&mut self, by: &CancelledBy, grace: Duration) -> Result<(), PollError> {
        let ids: Vec<u64> = self.running.keys().copied().collect();
        for id in ids {
            self.terminate(id, by.clone(), grace)?;
        }
        Ok(())
    }

    /// The master got a signal: all workers are terminated, at the second one killed.
    pub(super) fn interrupt(&mut self, signal: i32) -> Result<(), RunError> {
        event!(info, signal, "the run is interrupted");
        self.log.write(Level::Info, None, format!("the run is interrupted by signal {signal}"));
        self.stopping.refusing = true;
        if self.stopping.interrupted.replace(signal).is_none() {
            self.terminate_all(&CancelledBy::Signal(signal), self.options.grace)?;
        } else {
            let ids: Vec<u64> = self.running.keys().copied().collect();
            for id in ids {
                self.kill(id)?;
            }
        }
        Ok(())
    }

    /// Sees to what is due: objects that expire, circles, workers that are killed, the end.
    pub(super) fn keep_time(&mut self) -> Result<(), RunError> {
        let nothing = self.stopping.kills.is_empty() && self.stopping.end_at.is_none();
        if nothing && self.named.deadline().is_none() && self.suspects.is_empty() {
            return Ok(());
        }
        let now = Instant::now();
        self.expire(now)?;
        self.break_circles(now)?;
        if self.stopping.end_at.take_if(|at| *at <= now).is_some() {
            self.terminate_all(&CancelledBy::EndOfRun, self.options.grace)?;
        }
        while let Some((at, id)) = self.stopping.kills.first().copied() {
            if at > now {
                break;
            }
            self.stopping.kills.pop_first();
            self.kill(id)?;
        }
        Ok(())
    }
}
