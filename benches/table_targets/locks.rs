//! Locks alone: against a robust mutex of the C library in shared memory, and against bare system calls.

use std::ffi::OsStr;
use std::hint::spin_loop;
use std::sync::Arc;
use std::time::{Duration, Instant};

use manycore::lock::{Guard, LockMethod, Mode, Wait};
use manycore::shm::{Memory, Open, ShmBackend, create_unique};
use manycore::spawn::{Child, Exit};
use manycore::{Fcntl, Fork, Futex, Ofd, PosixShm};
use manycore_backends::testing::anchor::{RobustMutex, record_pair};

use crate::machine::{cores, pin};
use crate::report::{Judged, Limit, Report, Row};
use crate::store::{Store, Subject, Table, keys, shuffled};

/// Pairs in a measurement of one party.
const PAIRS: usize = 300_000;
/// How long two parties contend.
const TIME: Duration = Duration::from_millis(300);
/// How often a holder is killed.
const DEATHS: usize = 20;
/// Words of the object beside the lock: one says that the child runs, one that it is to end, and one how much it did.
const RUNS: usize = 0;
const END: usize = 1;
const DONE: usize = 2;

/// Nanoseconds of a pair.
fn alone(pairs: usize, mut pair: impl FnMut()) -> f64 {
    (0..pairs / 10).for_each(|_| pair());
    let start = Instant::now();
    (0..pairs).for_each(|_| pair());
    start.elapsed().as_nanos() as f64 / pairs as f64
}

fn ours<L: LockMethod<PosixShm>>(object: &PosixShm, mode: Mode) -> impl FnMut() + use<'_, L> {
    let lock = L::attach(object).unwrap();
    move || drop(Guard::lock(&lock, object, mode, Wait::Forever).unwrap())
}

/// Nanoseconds of a pair, where two processes do nothing else, after each has prepared for it.
fn two<P: FnMut()>(
    object: &PosixShm,
    prepare: impl Fn(&PosixShm) -> P + Send + Sync + Clone + 'static,
) -> f64 {
    (RUNS..=DONE).for_each(|word| object.memory().store(word, 0).unwrap());
    let name = object.name().to_owned();
    let of_child = prepare.clone();
    let child = Fork.fork(&[], move || {
        pin(1, &cores());
        let object = PosixShm::open(&name, Open::Existing).unwrap();
        let mut pair = of_child(&object);
        let word = |at| object.memory().load(at).unwrap();
        let mut done = 0;
        pair();
        object.memory().store(RUNS, 1).unwrap();
        while word(END) == 0 {
            (0..64).for_each(|_| pair());
            done += 64;
        }
        object.memory().store(DONE, done).unwrap();
        0
    });
    let child = child.unwrap();
    let mut pair = prepare(object);
    while object.memory().load(RUNS).unwrap() == 0 {
        spin_loop();
    }
    let start = Instant::now();
    let mut done = 0;
    while start.elapsed() < TIME {
        (0..64).for_each(|_| pair());
        done += 64;
    }
    object.memory().store(END, 1).unwrap();
    let time = start.elapsed();
    assert_eq!(child.wait().unwrap(), Exit::Code(0));
    time.as_nanos() as f64 / f64::from(done + object.memory().load(DONE).unwrap())
}

/// Milliseconds from the death of a holder to the next one's lock; the longest of several.
fn taken_over(object: &PosixShm) -> f64 {
    let lock = <Futex as LockMethod<PosixShm>>::attach(object).unwrap();
    let mut longest = Duration::ZERO;
    for _ in 0..DEATHS {
        object.memory().store(RUNS, 0).unwrap();
        let name = object.name().to_owned();
        let holder = Fork.fork(&[], move || {
            let object = PosixShm::open(&name, Open::Existing).unwrap();
            let lock = <Futex as LockMethod<PosixShm>>::attach(&object).unwrap();
            let _guard = Guard::lock(&lock, &object, Mode::Write, Wait::Forever).unwrap();
            object.memory().store(RUNS, 1).unwrap();
            loop {
                std::thread::park();
            }
        });
        let holder = holder.unwrap();
        while object.memory().load(RUNS).unwrap() == 0 {
            spin_loop();
        }
        // Somebody has waited for it already, and sleeps its longest sleep.
        let short = Wait::AtMost(Duration::from_millis(1));
        assert!(Guard::lock(&lock, object, Mode::Write, short).is_err());
        let start = Instant::now();
        holder.kill(9).unwrap();
        drop(Guard::lock(&lock, object, Mode::Write, Wait::Forever).unwrap());
        longest = longest.max(start.elapsed());
        holder.wait().unwrap();
    }
    longest.as_secs_f64() * 1e3
}

/// Nanoseconds that a lookup takes longer because it makes sure that nobody wrote meanwhile.
fn price_of_optimism() -> f64 {
    let table = Table::<PosixShm, Futex>::empty();
    let keys = keys(1000);
    table.add_group(&keys, &mut [0]);
    let order = shuffled(&keys);
    let mut value = Vec::new();
    let rounds = 300;
    let time = |body: &mut dyn FnMut()| {
        body();
        let start = Instant::now();
        (0..rounds).for_each(|_| body());
        start.elapsed().as_nanos() as f64 / (rounds * order.len()) as f64
    };
    let checked = time(&mut || order.iter().for_each(|key| assert!(table.find_into(*key, &mut value))));
    let mut value = Vec::new();
    let unchecked = time(&mut || assert_eq!(table.find_group(&order, &mut value), order.len()));
    checked - unchecked
}

pub(crate) fn measure(report: &mut Report, rounds: usize) {
    pin(0, &cores());
    let object: PosixShm = create_unique(OsStr::new("/manycore-bench-lock-XXXXXX"), 0o600).unwrap();
    object.grow(8192).unwrap();
    let mutex = Arc::new(RobustMutex::new());
    let futex = Subject::SharedFutex.name();
    let mut rows: Vec<(&str, &'static str, Judged, [Vec<f64>; 2])> = Vec::new();
    let mut note = |what, who, judged: Judged, ours: f64, against: f64| match rows
        .iter_mut()
        .find(|(row, of, ..)| *row == what && *of == who)
    {
        Some((.., figures)) => {
            figures[0].push(ours);
            figures[1].push(against);
        }
        None => rows.push((what, who, judged, [vec![ours], vec![against]])),
    };
    let at_most = |limit| Judged::Ratio(Limit::AtMost(limit));
    for _ in 0..rounds {
        let anchor = alone(PAIRS, || mutex.pair());
        note(
            "write / robust mutex",
            futex,
            at_most(1.2),
            alone(PAIRS, ours::<Futex>(&object, Mode::Write)),
            anchor,
        );
        note(
            "read / robust mutex",
            futex,
            Judged::Nothing,
            alone(PAIRS, ours::<Futex>(&object, Mode::Read)),
            anchor,
        );
        let shared = Arc::clone(&mutex);
        let anchor = two(&object, move |_| {
            let mutex = Arc::clone(&shared);
            move || mutex.pair()
        });
        let both = two(&object, |object| {
            let object = object.try_clone().unwrap();
            let lock = <Futex as LockMethod<PosixShm>>::attach(&object).unwrap();
            move || drop(Guard::lock(&lock, &object, Mode::Write, Wait::Forever).unwrap())
        });
        note("write, two at once / robust mutex", futex, at_most(1.3), both, anchor);
        let raw = alone(PAIRS / 10, || record_pair(&object, false));
        note(
            "write / raw pair",
            "PosixShm, Fcntl",
            at_most(1.1),
            alone(PAIRS / 10, ours::<Fcntl>(&object, Mode::Write)),
            raw,
        );
        let raw = alone(PAIRS / 10, || record_pair(&object, true));
        note(
            "write / raw pair",
            "PosixShm, Ofd",
            at_most(1.1),
            alone(PAIRS / 10, ours::<Ofd>(&object, Mode::Write)),
            raw,
        );
    }
    for (what, who, judged, [ours, against]) in rows {
        report.row(&Row::compared(what, who, &ours, &against, judged));
    }
    let ours = |limit| Judged::Ours(Limit::AtMost(limit));
    report.row(&Row::alone("lookup, price of no lock, ns", futex, price_of_optimism(), ours(10.0)));
    report.row(&Row::alone("holder killed, next one, ms", futex, taken_over(&object), ours(50.0)));
    PosixShm::unlink(object.name()).unwrap();
}
