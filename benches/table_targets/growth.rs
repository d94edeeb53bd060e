//! Growing: how long a single insertion may take, and how large the table becomes.

use std::time::Instant;

use manycore::{Fcntl, Futex, NoLock, PosixShm, Runtime, Worker};
use serde::{Deserialize, Serialize};

use crate::machine::{cores, pin};
use crate::report::{Judged, Limit, Report, Row};
use crate::store::{Anchor, Store, Subject, Table, keys};

/// How long single insertions took, in nanoseconds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Insertions {
    middle: u32,
    /// All but a thousandth were at most so long.
    long: u32,
    longest: u32,
}

const INSERT: Worker<(Subject, usize), Insertions> = Worker::new("insert", |_, (subject, size)| {
    pin(0, &cores());
    match subject {
        Subject::Anchor => insert::<Anchor>(size),
        Subject::SharedFutex => insert::<Table<PosixShm, Futex>>(size),
        Subject::SharedNoLock => insert::<Table<PosixShm, NoLock>>(size),
        Subject::SharedFcntl => insert::<Table<PosixShm, Fcntl>>(size),
    }
});

fn insert<S: Store>(size: usize) -> Insertions {
    let keys = keys(size);
    // Not zero, so that the memory is there before the measurement.
    let mut times = vec![u32::MAX; size];
    let store = S::empty();
    for (key, time) in keys.iter().zip(&mut times) {
        let start = Instant::now();
        store.add(*key, &[*key]);
        *time = start.elapsed().as_nanos() as u32;
    }
    times.sort_unstable();
    Insertions { middle: times[size / 2], long: times[size - 1 - size / 1000], longest: times[size - 1] }
}

/// The bytes of a table with so many bindings, of so many words each.
const SIZE: Worker<(usize, usize), u64> = Worker::new("size", |_, (size, words)| {
    let table = Table::<PosixShm, NoLock>::empty();
    let mut value = vec![7; words];
    keys(size).chunks(1000).for_each(|keys| table.add_group(keys, &mut value));
    table.bytes().unwrap()
});

/// Single insertions up to `size` bindings, of one word.
pub(crate) fn measure_times(report: &mut Report, size: usize, rounds: usize) {
    let limit = match size {
        1_000_000 => Some(500.0),
        10_000_000 => Some(1000.0),
        _ => None,
    };
    let mut rounds_of = [const { Vec::<Insertions>::new() }; Subject::ALL.len()];
    for _ in 0..rounds {
        for (subject, of_subject) in Subject::ALL.into_iter().zip(&mut rounds_of) {
            of_subject.push(Runtime::new().run(&INSERT, (subject, size)).unwrap());
        }
    }
    type Figure = fn(&Insertions) -> u32;
    let figures: [(&str, Figure); 3] =
        [("middle", |times| times.middle), ("p99.9", |times| times.long), ("longest", |times| times.longest)];
    let microseconds = |subject: Subject, figure: Figure| -> Vec<f64> {
        rounds_of[subject as usize].iter().map(|times| f64::from(figure(times)) / 1000.0).collect()
    };
    for (name, figure) in figures {
        let against = microseconds(Subject::Anchor, figure);
        for subject in &Subject::ALL[1..] {
            let ours = microseconds(*subject, figure);
            report.row(&Row::compared(name, subject.name(), &ours, &against, Judged::Nothing));
        }
    }
    // What the table itself does happens in every round; what only one round has seen, other programs did.
    let least = |values: Vec<f64>| values.into_iter().fold(f64::INFINITY, f64::min);
    let [.., (_, longest)] = figures;
    let against = least(microseconds(Subject::Anchor, longest));
    for subject in &Subject::ALL[1..] {
        let ours = least(microseconds(*subject, longest));
        let judged = limit.map_or(Judged::Nothing, |limit| Judged::Ours(Limit::AtMost(limit)));
        report.row(&Row::compared("longest, in the best round", subject.name(), &[ours], &[against], judged));
    }
}

/// Bytes per binding in a table of `size` bindings.
pub(crate) fn measure_bytes(report: &mut Report, size: usize) {
    let judged = |limit| {
        if size == 1_000_000 { Judged::Ours(Limit::AtMost(limit)) } else { Judged::Nothing }
    };
    let cases = [
        (size, 1, "bindings of 1 word", "each", judged(24.0)),
        (size, 64, "bindings of 64 words", "each", judged(300.0)),
        (1, 1, "1 binding of 1 word", "whole table", Judged::Nothing),
    ];
    for (bindings, words, what, who, judged) in cases {
        let bytes = Runtime::new().run(&SIZE, (bindings, words)).unwrap();
        let ours = bytes as f64 / bindings as f64;
        report.row(&Row::alone(what, who, ours, judged));
    }
}
