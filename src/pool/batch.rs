//! [`Batch`]: tasks that travel together. [`Pace`]: how many should.
//!
//! | a task takes | tasks under way for each worker |
//! |---|---|
//! | more than 2 ms | 1: it is given the next when it is done, so that no task waits behind another while a worker is idle |
//! | less | 2 ms worth of them, in two batches: while it does one, the other is under way |
//!
//! This module does not know who does what.

use std::num::NonZero;
use std::time::Duration;

use crate::wire::take_part;

/// How much work may be under way for each worker.
const UNDER_WAY: Duration = Duration::from_millis(2);

/// The most tasks under way for each worker, so that their results come in pieces.
const TASKS_MAX: u32 = 16_384;

/// The most batches under way for each worker, where the program has chosen their size.
const BATCHES_MAX: u32 = 256;

/// Tasks with neighbouring arguments.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// The number of the first argument.
    pub(super) first: usize,
    /// The arguments, in [parts](crate::wire::push_part).
    pub(super) arguments: Vec<u8>,
    /// How many they are.
    pub(super) count: usize,
    /// How many of them are done.
    pub(super) done: usize,
    /// How often they have failed.
    pub(super) tries: u32,
    /// Who has failed last, and should not try again.
    pub(super) avoid: Option<u64>,
}

impl Batch {
    /// The tasks from the `from`-th on, and before the `to`-th.
    pub(super) fn part(&self, from: usize, to: usize) -> Batch {
        let from = from.min(to);
        let mut rest = &self.arguments[..];
        let mut next = |count: usize| {
            let before = rest;
            for _ in 0..count {
                let _ = take_part(&mut rest);
            }
            &before[..before.len() - rest.len()]
        };
        next(from);
        self.with(from, next(to - from), to - from)
    }

    /// Each task for itself.
    pub(super) fn singles(&self) -> impl Iterator<Item = Batch> {
        let mut rest = &self.arguments[..];
        (0..self.count).map(move |at| {
            let before = rest;
            let _ = take_part(&mut rest);
            self.with(at, &before[..before.len() - rest.len()], 1)
        })
    }

    fn with(&self, from: usize, arguments: &[u8], count: usize) -> Batch {
        let arguments = arguments.to_vec();
        Batch { first: self.first + from, arguments, count, done: 0, tries: self.tries, avoid: self.avoid }
    }
}

/// How long tasks take, as far as was seen.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    /// Nanoseconds for each task, smoothed.
    task: Option<f64>,
}

impl Pace {
    /// So many tasks took a worker so long.
    pub(super) fn learn(&mut self, tasks: usize, nanoseconds: u64) {
        if tasks == 0 {
            return;
        }
        let seen = nanoseconds as f64 / tasks as f64;
        self.task = Some(self.task.map_or(seen, |before| before + (seen - before) / 4.0));
    }

    /// How many tasks may be under way for each worker, and how many of them in one batch.
    pub(super) fn tasks(&self, batch: Option<NonZero<u32>>) -> (usize, usize) {
        let room = match self.task {
            // Nobody knows: one to find out.
            None => 1,
            Some(task) => (UNDER_WAY.as_nanos() as f64 / task.max(1.0)) as u32,
        };
        match batch {
            Some(batch) => {
                let batches = (room / batch).clamp(1, BATCHES_MAX);
                (batches as usize * batch.get() as usize, batch.get() as usize)
            }
            None => {
                let tasks = room.clamp(1, TASKS_MAX) as usize;
                (tasks, tasks.div_ceil(2))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::push_part;

    #[test]
    fn a_part_has_the_arguments_of_its_tasks() {
        let mut arguments = Vec::new();
        let mut ends = vec![0];
        for argument in [&b"a"[..], b"bb", b"ccc"] {
            push_part(&mut arguments, 3, |bytes| {
                bytes.extend_from_slice(argument);
                Ok::<(), ()>(())
            })
            .unwrap();
            ends.push(arguments.len());
        }
        let batch = Batch { first: 10, arguments, count: 3, ..Batch::default() };
        for (from, to) in [(0, 0), (0, 1), (1, 3), (3, 3), (0, 3)] {
            let part = batch.part(from, to);
            assert_eq!((part.first, part.count), (10 + from, to - from));
            assert_eq!(part.arguments, &batch.arguments[ends[from]..ends[to]]);
        }
        let singles: Vec<_> = batch.singles().map(|one| (one.first, one.count, one.arguments)).collect();
        let expected = (0..3).map(|at| (10 + at, 1, batch.arguments[ends[at]..ends[at + 1]].to_vec()));
        assert!(singles.into_iter().eq(expected));
    }

    #[test]
    fn the_shorter_the_tasks_the_more_travel_together() {
        let pace = |nanoseconds| {
            let mut pace = Pace::default();
            pace.learn(1, nanoseconds);
            pace
        };
        assert_eq!(Pace::default().tasks(None), (1, 1));
        assert_eq!(pace(1_000_000_000).tasks(None), (1, 1));
        assert_eq!(pace(10_000).tasks(None), (200, 100));
        assert_eq!(pace(1).tasks(None), (TASKS_MAX as usize, TASKS_MAX as usize / 2));
        assert_eq!(pace(1_000).tasks(NonZero::new(1)), (256, 1));
        assert_eq!(pace(10_000).tasks(NonZero::new(100)), (200, 100));
        assert_eq!(pace(1_000_000_000).tasks(NonZero::new(100)), (100, 100));
    }
}
