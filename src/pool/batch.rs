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

/// How much work may be under way for each worker.
const UNDER_WAY: Duration = Duration::from_millis(2);

/// The most tasks under way for each worker, so that their results come in pieces.
const TASKS_MAX: u32 = 16_384;

/// The most batches under way for each worker, where the program has chosen their size.
const BATCHES_MAX: u32 = 64;

/// Tasks with neighbouring arguments.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// The number of the first argument.
    pub(super) first: usize,
    /// The arguments, in [parts](crate::wire::push_part).
    pub(super) arguments: Vec<u8>,
    /// Where each of them ends.
    pub(super) ends: Vec<usize>,
    /// How many of them are done.
    pub(super) done: usize,
    /// How often they have failed.
    pub(super) tries: u32,
    /// Who has failed last, and should not try again.
    pub(super) avoid: Option<u64>,
}

impl Batch {
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The tasks from the `from`-th on, and before the `to`-th.
    pub(super) fn part(&self, from: usize, to: usize) -> Batch {
        let start = if from == 0 { 0 } else { self.ends[from - 1] };
        let end = if to == 0 { 0 } else { self.ends[to - 1] };
        Batch {
            first: self.first + from,
            arguments: self.arguments[start..end.max(start)].to_vec(),
            ends: self.ends[from.min(to)..to].iter().map(|end| end - start).collect(),
            done: 0,
            tries: self.tries,
            avoid: self.avoid,
        }
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

    #[test]
    fn a_part_has_the_arguments_of_its_tasks() {
        let batch =
            Batch { first: 10, arguments: b"abbccc".to_vec(), ends: vec![1, 3, 6], ..Batch::default() };
        let part = batch.part(1, 3);
        assert_eq!((part.first, &part.arguments[..], &part.ends[..]), (11, &b"bbccc"[..], &[2, 5][..]));
        assert_eq!(batch.part(0, 1).arguments, b"a");
        assert_eq!(batch.part(3, 3).len(), 0);
        assert_eq!(batch.part(0, 3).arguments, batch.arguments);
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
        assert_eq!(pace(10_000).tasks(NonZero::new(1)), (64, 1));
        assert_eq!(pace(10_000).tasks(NonZero::new(100)), (200, 100));
        assert_eq!(pace(1_000_000_000).tasks(NonZero::new(100)), (100, 100));
    }
}
