//! [`Round`]: one call of a map, from the first argument to the last result.
//!
//! | a batch is | until |
//! |---|---|
//! | taken from the arguments, or left over | a worker has room for it |
//! | under way to a worker, which does its batches in order | the worker has told of its last task, or of one that failed, or is dead |
//!
//! A worker stops a batch at a task that fails; the tasks behind it are left over. One that dies has failed with all tasks
//! of its oldest batch that it has not told of; those of its other batches were not begun. A round that is broken off
//! leaves batches under way; what is told of them later belongs to no round and is dropped.
//!
//! This module starts and ends no workers itself: the master's [`Jobs`] do.

use std::cell::Cell;
use std::collections::{BTreeSet, VecDeque};
use std::ops::ControlFlow;

use serde_bytes::ByteBuf;

use super::batch::Batch;
use super::{Crew, PoolError, Progress, Tasks};
use crate::master::{Jobs, News, RunError};
use crate::platform::Platform;
use crate::wire::{self, Done, Ended};
use crate::worker::{EndedWorker, JoinError, Outcome};

/// Arguments of a batch, in bytes, after which it takes no more.
const ARGUMENTS_MAX: usize = 1 << 20;

/// A worker of a pool, as the pool sees it.
#[derive(Debug, Default)]
pub(super) struct Member {
    /// The batches that it was given and has not finished.
    given: VecDeque<Given>,
    /// How many tasks they are.
    tasks: usize,
    /// Whether it does nothing more: it has said that a task panicked, or was killed for talking nonsense.
    leaves: bool,
    /// Whether it is killed for that: then it has failed with what it was at.
    condemned: bool,
    /// The number of its process.
    process: u32,
}

/// A batch that a worker was given.
#[derive(Debug)]
struct Given {
    number: u64,
    tasks: usize,
    /// `None` if it is of a round that was broken off.
    batch: Option<Batch>,
}

impl Member {
    pub(super) fn is_idle(&self) -> bool {
        self.given.is_empty()
    }

    fn push(&mut self, given: Given) {
        self.tasks += given.tasks;
        self.given.push_back(given);
    }

    /// Takes the oldest batch out.
    fn pop(&mut self) -> Option<Given> {
        let given = self.given.pop_front()?;
        self.tasks -= given.tasks;
        Some(given)
    }
}

pub(super) struct Round<'round, P: Platform> {
    pool: &'round mut Crew<P>,
    tasks: &'round mut dyn Tasks,
    /// How many were taken.
    taken: usize,
    /// How many may be taken.
    end: &'round Cell<usize>,
    exhausted: bool,
    /// Batches for whoever has room.
    left_over: VecDeque<Batch>,
    /// How many batches of this round workers have.
    under_way: usize,
    /// Workers that were given something, and have not been told yet.
    spoken_to: BTreeSet<u64>,
    progress: Progress,
    /// Whether the system has refused to start another worker.
    full: bool,
}

impl<'round, P: Platform> Round<'round, P> {
    pub(super) fn new(
        pool: &'round mut Crew<P>,
        tasks: &'round mut dyn Tasks,
        total: Option<usize>,
        end: &'round Cell<usize>,
    ) -> Self {
        for given in pool.members.values_mut().flat_map(|member| &mut member.given) {
            given.batch = None;
        }
        Round {
            pool,
            tasks,
            taken: 0,
            end,
            exhausted: false,
            left_over: VecDeque::new(),
            under_way: 0,
            spoken_to: BTreeSet::new(),
            progress: Progress { total, ..Progress::default() },
            full: false,
        }
    }

    pub(super) fn go(mut self) -> Result<(), PoolError> {
        let result = self.run();
        // Between rounds they do what they did before.
        let signal = self.jobs().unwatch_signals();
        match signal {
            Some(signal) if result.is_ok() => Err(RunError::Interrupted { signal }.into()),
            _ => result,
        }
    }

    fn run(&mut self) -> Result<(), PoolError> {
        self.jobs().watch_signals()?;
        // Who has died since the last round is not given anything.
        self.jobs().look()?;
        // A run that a signal or a command has ended stays so.
        if let Some(error) = self.jobs().broken_off() {
            return Err(error.into());
        }
        while let Some(news) = self.jobs().next_news() {
            let _ = self.tell(news)?;
        }
        loop {
            self.hand_out()?;
            // Workers that have no room yet may be at something of a round that was broken off.
            if self.exhausted && self.under_way == 0 && self.left_over.is_empty() {
                return Ok(());
            }
            let busy = self.pool.members.values().filter(|member| !member.is_idle()).count();
            self.jobs().set_busy(busy);
            self.jobs().turn()?;
            let before = self.progress;
            while let Some(news) = self.jobs().next_news() {
                if self.tell(news)?.is_break() {
                    return Ok(());
                }
            }
            if let Some(error) = self.jobs().broken_off() {
                return Err(error.into());
            }
            if self.progress != before {
                if let Some(tell) = &mut self.pool.on_progress {
                    tell(self.progress);
                }
            }
        }
    }

    fn tell(&mut self, news: News) -> Result<ControlFlow<()>, PoolError> {
        match news {
            News::Done(id, done) => self.hear(id, &done),
            News::Ended(ended) => Ok(self.bury(&ended)),
        }
    }

    fn jobs(&mut self) -> &mut Jobs<P> {
        self.pool.jobs.as_mut().expect("a round begins with them")
    }

    /// Gives all workers as much as they have room for, and starts those that are missing.
    fn hand_out(&mut self) -> Result<(), PoolError> {
        self.choose()?;
        for id in std::mem::take(&mut self.spoken_to) {
            self.jobs().talk(id)?;
        }
        Ok(())
    }

    /// Who gets what.
    fn choose(&mut self) -> Result<(), PoolError> {
        let (room, size) = self.pool.pace.tasks(self.pool.settings.batch);
        // Whoever has least is served first, batch by batch.
        loop {
            let members = self.pool.members.iter().filter(|(_, member)| !member.leaves);
            let least = members.map(|(id, member)| (member.tasks, *id)).min();
            let missing = !self.full && self.pool.members.len() < self.pool.settings.workers;
            let has_room = least.is_some_and(|(tasks, _)| tasks == 0 || tasks + size <= room);
            if !has_room && !missing {
                return Ok(());
            }
            let Some(batch) = self.next_batch(size)? else { return Ok(()) };
            // A worker that has nothing to do is better than a new one.
            let id = match least {
                Some((0, id)) if batch.avoid != Some(id) => Some(id),
                _ if missing => match self.start_member(least.is_some())? {
                    Some(id) => Some(id),
                    None => least.filter(|_| has_room).map(|(_, id)| id),
                },
                Some((_, id)) => Some(self.another(&batch, id, size, room)),
                None => None,
            };
            match id {
                Some(id) => self.give(id, batch),
                // All that are there are leaving, or have no room.
                None => {
                    self.left_over.push_front(batch);
                    return Ok(());
                }
            }
        }
    }

    /// Another worker with room than the one that has failed with this batch, if there is one; else `id`.
    fn another(&self, batch: &Batch, id: u64, size: usize, room: usize) -> u64 {
        if batch.avoid != Some(id) {
            return id;
        }
        let others = self.pool.members.iter().filter(|(other, member)| {
            **other != id && !member.leaves && (member.is_idle() || member.tasks + size <= room)
        });
        others.map(|(id, member)| (member.tasks, *id)).min().map_or(id, |(_, id)| id)
    }

    /// Starts a worker. If that fails and there are `others`, they are all, until one of them ends.
    fn start_member(&mut self, others: bool) -> Result<Option<u64>, PoolError> {
        let name = self.pool.name;
        match self.jobs().start_member(name) {
            Ok(id) => {
                let process = self.jobs().process(id);
                self.pool.members.insert(id, Member { process, ..Member::default() });
                Ok(Some(id))
            }
            // The system, or the limit of workers, has no room for it.
            Err(RunError::Spawn(_) | RunError::Transport(_) | RunError::Start(_)) if others => {
                self.full = true;
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The next tasks that nobody has, about `size` of them.
    fn next_batch(&mut self, size: usize) -> Result<Option<Batch>, PoolError> {
        if let Some(batch) = self.left_over.pop_front() {
            return Ok(Some(batch));
        }
        if self.exhausted {
            return Ok(None);
        }
        // Towards the end there is something for everybody.
        let size = match self.progress.total {
            Some(total) => {
                let share = total.saturating_sub(self.taken).div_ceil(2 * self.pool.settings.workers);
                if self.pool.settings.batch.is_none() { size.min(share.max(1)) } else { size }
            }
            None => size,
        };
        let limit = self.jobs().message_limit();
        // A small argument fits.
        let arguments = Vec::with_capacity(32);
        let mut batch = Batch { first: self.taken, arguments, ..Batch::default() };
        while batch.count < size
            && self.taken < self.end.get()
            && (batch.count == 0 || batch.arguments.len() < ARGUMENTS_MAX.min(limit))
        {
            let Some(argument) = self.tasks.next_argument(limit, &mut batch.arguments) else {
                self.exhausted = true;
                break;
            };
            argument.map_err(|error| PoolError::Argument { index: self.taken, error })?;
            batch.count += 1;
            self.taken += 1;
            if batch.arguments.len() > limit && batch.count > 1 {
                // Together they are too many: the last one goes alone.
                let last = batch.part(batch.count - 1, batch.count);
                batch = batch.part(0, batch.count - 1);
                self.left_over.push_back(last);
            }
        }
        Ok((batch.count > 0).then_some(batch))
    }

    fn give(&mut self, id: u64, batch: Batch) {
        let number = self.pool.next_batch;
        self.pool.next_batch += 1;
        let count = u32::try_from(batch.count).expect("a batch has at most 2^32 - 1 tasks");
        let arguments = ByteBuf::from(batch.arguments.clone());
        let given = Given { number, tasks: batch.count, batch: Some(batch) };
        self.pool.members.entry(id).or_default().push(given);
        self.under_way += 1;
        self.jobs().give(id, number, count, arguments);
        self.spoken_to.insert(id);
    }

    /// A worker tells of tasks.
    fn hear(&mut self, id: u64, done: &Done) -> Result<ControlFlow<()>, PoolError> {
        let Some(member) = self.pool.members.get_mut(&id) else { return Ok(ControlFlow::Continue(())) };
        if member.condemned {
            return Ok(ControlFlow::Continue(()));
        }
        // It does its batches in order.
        let batch = match member.given.front_mut() {
            Some(given) if given.number == done.batch => given.batch.take(),
            _ => return self.condemn(id),
        };
        // Else it is of a round that was broken off.
        let Some(mut batch) = batch else {
            self.finish(id, done);
            return Ok(ControlFlow::Continue(()));
        };
        let mut results = &done.results[..];
        for _ in 0..done.count {
            let Some(result) = wire::take_part(&mut results).filter(|_| batch.done < batch.count) else {
                self.put_back(id, batch);
                return self.condemn(id);
            };
            let index = batch.first + batch.done;
            batch.done += 1;
            let taken = match self.tasks.take(index, result) {
                Ok(taken) => {
                    self.progress.done += 1;
                    taken
                }
                Err(message) => {
                    let worker = self.worker(id);
                    self.fail_for_good(index, JoinError::WrongType { worker, message })
                }
            };
            if taken.is_break() {
                // What is left of it is of a round that is broken off.
                self.finish(id, done);
                return Ok(ControlFlow::Break(()));
            }
        }
        // Of the last piece nothing is missing, unless a task has failed.
        if done.last && (batch.done == batch.count) == done.failure.is_some() {
            self.put_back(id, batch);
            return self.condemn(id);
        }
        if !done.last {
            self.put_back(id, batch);
            return Ok(ControlFlow::Continue(()));
        }
        self.under_way -= 1;
        self.pool.pace.learn(batch.done, done.busy);
        let Some(failure) = &done.failure else {
            self.finish(id, done);
            return Ok(ControlFlow::Continue(()));
        };
        let worker = self.worker(id);
        self.finish(id, done);
        let failed = batch.part(batch.done, batch.done + 1);
        let rest = batch.part(batch.done + 1, batch.count);
        if rest.count > 0 {
            self.left_over.push_back(rest);
        }
        let again = matches!(failure, Outcome::Failed { .. } | Outcome::Panicked { .. });
        Ok(self.fail(&worker, &failed, again, failure))
    }

    /// A member, as errors name it.
    fn worker(&self, id: u64) -> EndedWorker {
        let process = self.pool.members.get(&id).map_or(0, |member| member.process);
        EndedWorker { name: self.pool.name.to_owned(), number: id, process }
    }

    /// The oldest batch of a worker is not over.
    fn put_back(&mut self, id: u64, batch: Batch) {
        let oldest = self.pool.members.get_mut(&id).and_then(|member| member.given.front_mut());
        if let Some(given) = oldest {
            given.batch = Some(batch);
        }
    }

    /// If that was the last of its oldest batch, a worker has one less.
    fn finish(&mut self, id: u64, done: &Done) {
        let Some(member) = self.pool.members.get_mut(&id).filter(|_| done.last) else { return };
        member.pop();
        if matches!(done.failure, Some(Outcome::Panicked { .. })) {
            // It ends now; should something in its process hold it up, it is made to.
            member.leaves = true;
            self.jobs().kill_in_grace(id);
        }
    }

    /// What a worker tells cannot be: it is killed, and has failed with what it was at.
    fn condemn(&mut self, id: u64) -> Result<ControlFlow<()>, PoolError> {
        if let Some(member) = self.pool.members.get_mut(&id) {
            member.leaves = true;
            member.condemned = true;
        }
        self.jobs().condemn(id, "it told of tasks that it was not given, or not of those that it was")?;
        Ok(ControlFlow::Continue(()))
    }

    /// A worker has ended.
    fn bury(&mut self, ended: &Ended) -> ControlFlow<()> {
        let Some(member) = self.pool.members.remove(&ended.id) else { return ControlFlow::Continue(()) };
        let name = ended.name.clone();
        let worker = EndedWorker { name: name.into_owned(), number: ended.id, process: ended.process };
        self.progress.replaced += 1;
        self.full = false;
        let mut begun = !member.leaves || member.condemned;
        for given in member.given {
            let Some(batch) = given.batch else {
                begun = false;
                continue;
            };
            self.under_way -= 1;
            let rest = batch.part(batch.done, batch.count);
            if std::mem::replace(&mut begun, false) {
                self.fail(&worker, &rest, true, &ended.outcome)?;
            } else {
                self.left_over.push_back(rest);
            }
        }
        ControlFlow::Continue(())
    }

    /// Tasks have failed: once more, if they may, or else for good.
    fn fail(
        &mut self,
        worker: &EndedWorker,
        batch: &Batch,
        again: bool,
        outcome: &Outcome,
    ) -> ControlFlow<()> {
        if again && batch.tries < self.pool.settings.retries {
            self.progress.retried += batch.count;
            // One by one, so that the culprit fails alone.
            for one in batch.singles() {
                let one = Batch { tries: batch.tries + 1, avoid: Some(worker.number), ..one };
                self.left_over.push_back(one);
            }
            return ControlFlow::Continue(());
        }
        for at in 0..batch.count {
            let error = outcome.clone().into_error(worker.clone());
            self.fail_for_good(batch.first + at, error)?;
        }
        ControlFlow::Continue(())
    }

    fn fail_for_good(&mut self, index: usize, error: JoinError) -> ControlFlow<()> {
        self.progress.failed += 1;
        self.tasks.fail(index, error)
    }
}
