//! The spare: a unit that is begun before anybody has asked for it, and waits for its orders. Who starts a worker does not
//! wait for a process to come into being then, nor for its first steps.
//!
//! | the spare is | when |
//! |---|---|
//! | begun | a worker has had one started, at the end of the master's turn: others may be soon |
//! | used | the next one is started |
//! | given up | none was started for a second; no more are started; the run ends |
//!
//! So a program that starts nothing has none, and of many that are started at once most are begun without it. It has no
//! number and is no worker before it is used: it counts towards no limit, and nobody sees it. One that cannot be begun,
//! or dies before it is used, is none; the next worker is begun as if it had never been.
//!
//! Pools have none: between two maps the program may change what a unit takes over from it.
//!
//! This module does not know what a unit will do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use manycore_backends::spawn::{Child, Spawner};
use manycore_backends::transport::{Endpoint, Limits, Transport};

use super::RunError;
use super::jobs::{ChildOf, Jobs, Link};
use super::stopping::SIGKILL;
use crate::platform::{Platform, WorkerEnd};
use crate::wire::{ENVELOPE, Reply, ToMaster, ToWorker};
use crate::worker::child;

/// How long a spare waits.
const IDLE: Duration = Duration::from_secs(1);

/// A unit, and the master's end of its link.
pub(super) struct Unit<P: Platform> {
    pub(super) link: Arc<Link<P>>,
    pub(super) child: Arc<ChildOf<P>>,
}

/// The unit that waits, if there is one.
pub(super) struct Spare<P: Platform> {
    unit: Option<Unit<P>>,
    /// Whether one is to be begun.
    wanted: bool,
    /// When it is given up.
    until: Option<Instant>,
}

impl<P: Platform> Default for Spare<P> {
    fn default() -> Spare<P> {
        Spare { unit: None, wanted: false, until: None }
    }
}

impl<P: Platform> Spare<P> {
    /// A worker was started for another.
    pub(super) fn want(&mut self) {
        self.wanted = true;
    }

    /// The unit, if there is one that lives.
    pub(super) fn take(&mut self) -> Option<Unit<P>> {
        self.until = None;
        let unit = self.unit.take()?;
        if matches!(unit.child.try_wait(), Ok(None)) { Some(unit) } else { None }
    }

    /// When it is to be looked at again.
    pub(super) fn until(&self) -> Option<Instant> {
        self.until
    }

    /// Gives it up, and waits until it has ended.
    pub(super) fn give_up(&mut self) {
        (self.wanted, self.until) = (false, None);
        let Some(Unit { link, child }) = self.unit.take() else { return };
        // A thread comes out of its wait by the end of file.
        drop(link);
        let _ = child.kill(SIGKILL);
        let _ = child.wait();
    }
}

impl<P: Platform> Drop for Spare<P> {
    fn drop(&mut self) {
        self.give_up();
    }
}

impl<P: Platform> Jobs<P> {
    /// Begins a unit for each of the orders, all at once. Where there are none yet, they come over its link.
    pub(super) fn begin_units(
        &mut self,
        orders: impl IntoIterator<Item = Option<Reply>>,
    ) -> Vec<Result<Unit<P>, RunError>> {
        let mut links = Vec::new();
        let mut lives = Vec::new();
        for orders in orders {
            links.push(self.pair().map(|(ours, theirs)| {
                let workers = Arc::clone(&self.workers);
                lives.push((theirs, move |link| child::live::<P>(link, workers, orders)));
                Arc::new(ours)
            }));
        }
        let mut children = self.spawner.spawn_all(lives).into_iter();
        let unit = |link: Result<Arc<Link<P>>, RunError>| {
            let link = link?;
            let child = children.next().expect("there is a child, or an error, for each unit")?;
            Ok(Unit { link, child: Arc::new(child) })
        };
        links.into_iter().map(unit).collect()
    }

    fn pair(&self) -> Result<(Link<P>, WorkerEnd<P>), RunError> {
        let limits = Limits::with_message_bytes(self.options.message_limit.saturating_add(ENVELOPE));
        let (ours, theirs) = P::Transport::pair::<ToWorker, ToMaster>(limits)?;
        // What has no descriptor until it is asked says now that it can have none.
        ours.descriptor()?;
        Ok((ours, theirs))
    }

    /// Begins a spare unit if there should be one, and gives up one that was of no use for long.
    pub(super) fn see_to_spare(&mut self) {
        if self.stopping.refusing {
            self.spare.give_up();
        }
        if std::mem::take(&mut self.spare.wanted) && self.spare.unit.is_none() {
            // Who needs it hears the error.
            self.spare.unit = self.begin_units([None]).pop().and_then(Result::ok);
            self.spare.until = self.spare.unit.as_ref().and_then(|_| Instant::now().checked_add(IDLE));
        }
        if self.spare.until.is_some_and(|until| until <= Instant::now()) {
            self.spare.give_up();
        }
    }
}
