//! Joining: how a [`Context`] waits for the ends of other workers and gets their results.
//!
//! The master is asked to tell the end of a worker, once for each; what it tells is kept until it is asked for. A join
//! without a time limit says so, which is how the master sees circles.
//!
//! This module does not find out how a worker has ended: the master tells.

use std::time::{Duration, Instant};

use manycore_backends::transport::TransportError;
use serde::de::DeserializeOwned;

use super::{Context, JoinError, WorkerId};
use crate::wire::{Reply, Request};

/// How many workers are asked for in one message: a matter of its size.
const WATCHED_AT_ONCE: usize = 1024;

impl Context {
    /// Waits until the worker has ended and its process is gone, and returns its result. Any number of workers
    /// may join one, as often as they like; results are kept until they are [forgotten](Context::forget) or the run ends.
    /// Workers that wait for each other in a circle do not hang: the last one of them gets [`JoinError::Deadlock`].
    ///
    /// # Errors
    /// [`JoinError`] says why there is no result.
    pub fn join<R: DeserializeOwned>(&mut self, worker: WorkerId<R>) -> Result<R, JoinError> {
        loop {
            if let Some(result) = self.join_until(worker, None)? {
                return Ok(result);
            }
        }
    }

    /// Joins all the workers, and returns their results in the same order.
    ///
    /// # Errors
    /// [`JoinError`] of the first in the list that has no result; the others go on.
    pub fn join_all<R: DeserializeOwned>(
        &mut self,
        workers: impl IntoIterator<Item = WorkerId<R>>,
    ) -> Result<Vec<R>, JoinError> {
        let workers: Vec<WorkerId<R>> = workers.into_iter().collect();
        // All others are asked for before the first is waited for.
        self.watch_all(workers.iter().skip(1))?;
        workers.into_iter().map(|worker| self.join(worker)).collect()
    }

    /// Has the master tell the ends of those that have not ended as far as is known here, and that it was not asked for yet.
    fn watch_all<'a, R: 'a>(
        &mut self,
        workers: impl IntoIterator<Item = &'a WorkerId<R>>,
    ) -> Result<(), JoinError> {
        let ids = workers.into_iter().map(|worker| worker.id);
        let ids: Vec<u64> = ids.filter(|id| !self.ended.contains(*id) && self.watched.insert(*id)).collect();
        for ids in ids.chunks(WATCHED_AT_ONCE) {
            self.ask(Request::WatchAll { ids: ids.to_vec() }).map_err(master_gone)?;
        }
        Ok(())
    }

    /// Joins, but waits at most `timeout`: `None` if nothing was heard of the worker's end until then.
    ///
    /// # Errors
    /// As [`join`](Context::join).
    pub fn join_timeout<R: DeserializeOwned>(
        &mut self,
        worker: WorkerId<R>,
        timeout: Duration,
    ) -> Result<Option<R>, JoinError> {
        self.join_until(worker, Some(timeout))
    }

    /// The result, if the worker has ended: `None` while it runs.
    ///
    /// # Errors
    /// As [`join`](Context::join).
    #[doc(alias("join_nowait", "WNOHANG"))]
    pub fn try_join<R: DeserializeOwned>(&mut self, worker: WorkerId<R>) -> Result<Option<R>, JoinError> {
        if let Some(ended) = self.ended.get(worker.id) {
            return ended.result().map(Some);
        }
        self.ask(Request::Ask { id: worker.id }).map_err(master_gone)?;
        loop {
            match self.hear(None).map_err(master_gone)? {
                Reply::Running { id } if id == worker.id => return Ok(None),
                Reply::Unknown { id } if id == worker.id => return Err(JoinError::Unknown { number: id }),
                reply => self.keep(reply),
            }
            if let Some(ended) = self.ended.get(worker.id) {
                return ended.result().map(Some);
            }
        }
    }

    fn join_until<R: DeserializeOwned>(
        &mut self,
        worker: WorkerId<R>,
        timeout: Option<Duration>,
    ) -> Result<Option<R>, JoinError> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        // Said again if it is to wait for ever, so that the master can see circles.
        let blocking = timeout.is_none();
        let mut said = false;
        loop {
            if let Some(ended) = self.ended.get(worker.id) {
                return ended.result().map(Some);
            }
            if self.is_told_to_stop() {
                return Err(JoinError::Stopping);
            }
            if self.watched.insert(worker.id) || (blocking && !said) {
                self.ask(Request::Watch { id: worker.id, blocking }).map_err(master_gone)?;
                said = true;
            }
            match self.hear(remaining(deadline)) {
                Ok(Reply::Unknown { id }) if id == worker.id => {
                    self.watched.remove(&id);
                    return Err(JoinError::Unknown { number: id });
                }
                Ok(Reply::Deadlock { id }) if id == worker.id => {
                    self.watched.remove(&id);
                    return Err(JoinError::Deadlock { number: id });
                }
                Ok(reply) => self.keep(reply),
                Err(TransportError::TimedOut) => return Ok(None),
                Err(error) => return Err(master_gone(error)),
            }
        }
    }

    /// Waits until one of the workers has ended, and returns which one of the list, with its result or why it has none.
    /// If several have, the first of them in the list.
    ///
    /// # Errors
    /// [`JoinError::Unknown`] if there is no such worker; [`JoinError::Nobody`] if the list is empty;
    /// [`JoinError::Stopping`]; [`JoinError::MasterGone`]. A circle of workers that wait so for each other is not seen.
    pub fn join_any<R: DeserializeOwned>(
        &mut self,
        workers: &[WorkerId<R>],
    ) -> Result<(usize, Result<R, JoinError>), JoinError> {
        loop {
            if let Some(found) = self.join_any_until(workers, None)? {
                return Ok(found);
            }
        }
    }

    /// The same, but waits at most `timeout`: `None` if nothing was heard of an end until then.
    ///
    /// # Errors
    /// As [`join_any`](Context::join_any).
    #[allow(clippy::type_complexity)]
    pub fn join_any_timeout<R: DeserializeOwned>(
        &mut self,
        workers: &[WorkerId<R>],
        timeout: Duration,
    ) -> Result<Option<(usize, Result<R, JoinError>)>, JoinError> {
        self.join_any_until(workers, Some(timeout))
    }

    #[allow(clippy::type_complexity)]
    fn join_any_until<R: DeserializeOwned>(
        &mut self,
        workers: &[WorkerId<R>],
        timeout: Option<Duration>,
    ) -> Result<Option<(usize, Result<R, JoinError>)>, JoinError> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        if workers.is_empty() {
            return Err(JoinError::Nobody);
        }
        loop {
            for (index, worker) in workers.iter().enumerate() {
                if let Some(ended) = self.ended.get(worker.id) {
                    return Ok(Some((index, ended.result())));
                }
            }
            if self.is_told_to_stop() {
                return Err(JoinError::Stopping);
            }
            self.watch_all(workers)?;
            match self.hear(remaining(deadline)) {
                Ok(Reply::Unknown { id }) if workers.iter().any(|worker| worker.id == id) => {
                    self.watched.remove(&id);
                    return Err(JoinError::Unknown { number: id });
                }
                Ok(reply) => self.keep(reply),
                Err(TransportError::TimedOut) => return Ok(None),
                Err(error) => return Err(master_gone(error)),
            }
        }
    }

    /// Has the master tell when the worker ends: then [`next_ended`](Context::next_ended) returns it, and until that is
    /// asked the context's [descriptor](std::os::fd::AsFd) is readable. For who waits for other things, too.
    ///
    /// # Errors
    /// [`JoinError::MasterGone`]. That there is no such worker is not told.
    pub fn watch<R>(&mut self, worker: WorkerId<R>) -> Result<(), JoinError> {
        if !self.ended.contains(worker.id) && self.watched.insert(worker.id) {
            self.ask(Request::Watch { id: worker.id, blocking: false }).map_err(master_gone)?;
        }
        self.awaited.insert(worker.id);
        Ok(())
    }

    /// The number of a [watched](Context::watch) worker that has ended, each once, without waiting: it can be joined at
    /// once. `None` if nothing was heard of one.
    ///
    /// # Errors
    /// [`JoinError::MasterGone`].
    pub fn next_ended(&mut self) -> Result<Option<u64>, JoinError> {
        loop {
            let found = self.awaited.iter().find(|id| self.ended.contains(**id)).copied();
            if let Some(id) = found {
                self.awaited.remove(&id);
                return Ok(Some(id));
            }
            match self.hear(Some(Duration::ZERO)) {
                Ok(reply) => self.keep(reply),
                Err(TransportError::TimedOut) => return Ok(None),
                Err(error) => return Err(master_gone(error)),
            }
        }
    }

    /// Has the run forget the result of a worker that has ended, for programs that start very many: joining it is
    /// [`JoinError::Unknown`] from then on. Of one that runs nothing is forgotten.
    ///
    /// # Errors
    /// [`JoinError::MasterGone`].
    #[doc(alias = "release")]
    pub fn forget<R>(&mut self, worker: WorkerId<R>) -> Result<(), JoinError> {
        self.ended.remove(worker.id);
        self.awaited.remove(&worker.id);
        self.ask(Request::Forget { id: worker.id }).map_err(master_gone)
    }
}

fn remaining(deadline: Option<Instant>) -> Option<Duration> {
    deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
}

fn master_gone(error: TransportError) -> JoinError {
    JoinError::MasterGone { message: error.to_string() }
}
