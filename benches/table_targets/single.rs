//! One process: what each operation costs, from the first insertion to the last removal.

use std::hint::black_box;
use std::iter;
use std::time::Duration;

use manycore::{Fcntl, Futex, NoLock, PosixShm, Runtime, Worker};
use rustix::fs::{FlockOperation, MemfdFlags, fcntl_lock, memfd_create};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::machine::{cores, pin};
use crate::report::{Judged, Limit, Report, Row, median};
use crate::sketch::Sketch;
use crate::store::{Anchor, Store, Subject, Table, keys, shuffled};

/// Single lookups, replacements and, if there are so many keys, removals per measurement.
const CALLS: usize = 200_000;
/// Insertions per measurement, at least: small tables are built often enough.
const INSERTIONS: usize = 100_000;
/// Keys in a group.
const GROUP: usize = 1000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Operation {
    Insert,
    Find,
    FindInto,
    Miss,
    Replace,
    Remove,
    Iterate,
    GroupFind,
    GroupInsert,
    AddMany,
    GetMany,
    /// The system's price of a lock: one `fcntl` to take it, one to release it.
    RawPair,
}

/// What is compared: the name of the row, our operation, the anchor's.
const COMPARISONS: [(&str, Operation, Operation); 14] = [
    ("hit, find", Operation::Find, Operation::Find),
    ("hit, find_into", Operation::FindInto, Operation::FindInto),
    ("miss", Operation::Miss, Operation::Miss),
    ("insert, growing", Operation::Insert, Operation::Insert),
    ("replace", Operation::Replace, Operation::Replace),
    ("remove", Operation::Remove, Operation::Remove),
    ("iterate, per entry", Operation::Iterate, Operation::Iterate),
    ("hit, group / single find", Operation::GroupFind, Operation::Find),
    ("hit, group / group", Operation::GroupFind, Operation::GroupFind),
    ("insert, group / single", Operation::GroupInsert, Operation::Insert),
    ("insert, group / group", Operation::GroupInsert, Operation::GroupInsert),
    ("add_many / single insert", Operation::AddMany, Operation::Insert),
    ("get_many / single find", Operation::GetMany, Operation::Find),
    ("get_many / under one lock", Operation::GetMany, Operation::GetMany),
];

/// What the ratio of our operation to the anchor's may be.
fn limit(ours: Operation, anchor: Operation, size: usize, words: usize) -> Option<f64> {
    use Operation::*;
    Some(match (ours, anchor, size, words) {
        (Find, Find, 1_000_000 | 10_000_000, 1) => 0.25,
        (FindInto, FindInto, 1_000_000 | 10_000_000, 1) => 0.25,
        (Miss, Miss, 1_000_000, 1) => 1.0,
        (Insert, Insert, 1_000_000, 1) => 0.55,
        (Replace, Replace, 1_000_000, 1) => 0.40,
        (Remove, Remove, 1_000_000, 1) => 0.35,
        (Iterate, Iterate, 1_000_000, 1) => 0.30,
        (GroupFind, Find, 1_000_000, 1) => 0.20,
        (GroupInsert | AddMany, Insert, 1_000_000, 1) => 0.50,
        (GetMany, Find, 1_000_000, 1) => 0.12,
        (Find, Find, 1_000, 1) => 0.5,
        (FindInto, FindInto, 1_000, 1) => 0.5,
        (Insert, Insert, 1_000, 1) => 0.9,
        (Replace, Replace, 1_000, 1) => 0.8,
        (Remove, Remove, 1_000, 1) => 0.7,
        (Find, Find, 1_000_000, 64) => 0.65,
        (FindInto, FindInto, 1_000_000, 64) => 0.65,
        (Insert, Insert, 1_000_000, 64) => 0.75,
        (Replace, Replace, 1_000_000, 64) => 0.8,
        (Remove, Remove, 1_000_000, 64) => 0.55,
        _ => return None,
    })
}

impl Operation {
    /// Whether the sketch does it in a way of its own.
    fn is_of_sketch(self) -> bool {
        use Operation::*;
        matches!(self, Insert | Find | FindInto | Miss | Replace | Remove | Iterate)
    }

    /// Whether it takes a write lock of its own.
    fn is_single_write(self) -> bool {
        matches!(self, Operation::Insert | Operation::Replace | Operation::Remove)
    }
}

/// Nanoseconds per operation, or per key.
type Times = Vec<(Operation, f64)>;

/// Measures one party, or the sketch, once, in a process of its own: a memory that nothing has used before.
const LIFE: Worker<(Option<Subject>, usize, usize), Times> =
    Worker::new("life", |_, (subject, size, words)| {
        pin(0, &cores());
        match subject {
            None => life::<Sketch>(size, words),
            Some(Subject::Anchor) => life::<Anchor>(size, words),
            Some(Subject::SharedFutex) => life::<Table<PosixShm, Futex>>(size, words),
            Some(Subject::SharedNoLock) => life::<Table<PosixShm, NoLock>>(size, words),
            Some(Subject::SharedFcntl) => {
                let mut times = life::<Table<PosixShm, Fcntl>>(size, words);
                times.push((Operation::RawPair, raw_pair()));
                times
            }
        }
    });

fn life<S: Store>(size: usize, words: usize) -> Times {
    let keys = keys(2 * size);
    let (present, absent) = keys.split_at(size);
    let order = shuffled(present);
    let mut value = vec![7; words];
    let lives = INSERTIONS.div_ceil(size);
    let mut times = Times::new();
    let [mut insert, mut remove, mut group_insert, mut add_many] = [Duration::ZERO; 4];
    for life in 0..lives {
        let store = S::for_values(size, words);
        insert += timed(|| {
            for key in present {
                value[0] = *key;
                store.add(*key, &value);
            }
        });
        if life == 0 {
            times = visits(&store, &order, absent, &mut value);
        }
        let removed = order.iter().take(CALLS);
        remove += timed(|| removed.for_each(|key| assert!(store.remove(*key))));
    }
    for _ in 0..lives {
        let store = S::for_values(size, words);
        group_insert += timed(|| present.chunks(GROUP).for_each(|keys| store.add_group(keys, &mut value)));
        drop(store);
        let store = S::for_values(size, words);
        add_many += timed(|| present.chunks(GROUP).for_each(|keys| store.add_many(keys, &mut value)));
    }
    let each = |total: Duration, keys: usize| total.as_nanos() as f64 / (lives * keys) as f64;
    times.push((Operation::Insert, each(insert, size)));
    times.push((Operation::Remove, each(remove, size.min(CALLS))));
    times.push((Operation::GroupInsert, each(group_insert, size)));
    times.push((Operation::AddMany, each(add_many, size)));
    times
}

/// All that leaves the keys as they are. What one measurement has brought into the caches is not asked for by the
/// next, as far as there are keys enough.
fn visits<S: Store>(store: &S, order: &[i32], absent: &[i32], value: &mut [i32]) -> Times {
    let mut buffer = Vec::with_capacity(value.len());
    let mut keys = order.iter().copied().cycle();
    let mut missing = absent.iter().copied().cycle();
    let mut groups = order.chunks(GROUP).cycle().skip(order.len() / GROUP * 2 / 3);
    let mut times = vec![
        (Operation::Find, each(&mut keys, CALLS, |key| drop(black_box(store.find(key).unwrap())))),
        (Operation::FindInto, each(&mut keys, CALLS, |key| assert!(store.find_into(key, &mut buffer)))),
        (Operation::Miss, each(&mut missing, CALLS, |key| assert!(store.find(key).is_none()))),
    ];
    let replace = each(&mut keys, CALLS, |key| {
        value[0] = !key;
        store.replace(key, value);
    });
    times.push((Operation::Replace, replace));
    let group = each(&mut groups, CALLS / GROUP, |keys| {
        assert_eq!(store.find_group(keys, &mut buffer), GROUP);
    });
    times.push((Operation::GroupFind, group / GROUP as f64));
    let many = each(&mut groups, CALLS / GROUP, |keys| {
        black_box(store.find_many(keys));
    });
    times.push((Operation::GetMany, many / GROUP as f64));
    let walks = CALLS.div_ceil(order.len());
    let walked = timed(|| {
        for _ in 0..walks {
            black_box(store.sum());
        }
    });
    times.push((Operation::Iterate, walked.as_nanos() as f64 / (walks * order.len()) as f64));
    times
}

/// How long `body` has the core. Nothing here ever waits, so that is its time, without what other programs take
/// meanwhile.
fn timed(body: impl FnOnce()) -> Duration {
    let now = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).expect("it counts from zero up");
    let start = now();
    body();
    now() - start
}

/// Calls `body` with `count` items, and gives nanoseconds per call. A tenth of that, before, is not counted.
fn each<T>(items: &mut impl Iterator<Item = T>, count: usize, mut body: impl FnMut(T)) -> f64 {
    items.by_ref().take(count / 10).for_each(&mut body);
    let time = timed(|| items.take(count).for_each(body));
    time.as_nanos() as f64 / count as f64
}

fn raw_pair() -> f64 {
    let file = memfd_create("raw lock pair", MemfdFlags::CLOEXEC).unwrap();
    each(&mut iter::repeat(()), CALLS, |()| {
        fcntl_lock(&file, FlockOperation::LockExclusive).unwrap();
        fcntl_lock(&file, FlockOperation::Unlock).unwrap();
    })
}

/// Measures all parties `rounds` times, each after the others.
pub(crate) fn measure(report: &mut Report, size: usize, words: usize, rounds: usize) {
    let mut parties: Vec<Option<Subject>> = Subject::ALL.map(Some).into();
    parties.push(None);
    let mut rounds_of = vec![Vec::<Times>::new(); parties.len()];
    for round in 0..rounds {
        let mut turns: Vec<usize> = (0..parties.len()).collect();
        // Nobody is always the one after a certain other.
        if round % 2 == 1 {
            turns.reverse();
        }
        for turn in turns {
            let times = Runtime::new().run(&LIFE, (parties[turn], size, words)).unwrap();
            rounds_of[turn].push(times);
        }
    }
    let times_at = |party: usize, operation: Operation| -> Vec<f64> {
        let rounds = &rounds_of[party];
        let of_operation = |times: &Times| times.iter().find(|(name, _)| *name == operation).unwrap().1;
        rounds.iter().map(of_operation).collect()
    };
    let times = |subject: Subject, operation| times_at(subject as usize, operation);
    for (what, operation, anchors) in COMPARISONS {
        let against = times(Subject::Anchor, anchors);
        for subject in &Subject::ALL[1..] {
            let ours = times(*subject, operation);
            // Those are judged below, by the price of the lock.
            let by_lock = *subject == Subject::SharedFcntl && operation.is_single_write();
            // What has no lock is there to see what a lock costs.
            let unlocked = *subject == Subject::SharedNoLock;
            let judged = match limit(operation, anchors, size, words) {
                Some(limit) if !by_lock && !unlocked => Judged::Ratio(Limit::AtMost(limit)),
                _ => Judged::Nothing,
            };
            report.row(&Row::compared(what, subject.name(), &ours, &against, judged));
        }
        if operation.is_of_sketch() {
            let sketched = times_at(Subject::ALL.len(), operation);
            report.row(&Row::compared(what, "(bare sketch)", &sketched, &against, Judged::Nothing));
        }
    }
    let pair = times(Subject::SharedFcntl, Operation::RawPair);
    // The constant part is 100 ns.
    let limit = Limit::AtMost(1.15 + 100.0 / median(&pair));
    for (what, operation, _) in COMPARISONS.into_iter().filter(|(_, ours, _)| ours.is_single_write()) {
        let judged = if size == 1_000_000 && words == 1 { Judged::Ratio(limit) } else { Judged::Nothing };
        let ours = times(Subject::SharedFcntl, operation);
        let what = format!("{what} / raw lock pair");
        report.row(&Row::compared(what, Subject::SharedFcntl.name(), &ours, &pair, judged));
    }
}
