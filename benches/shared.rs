//! What lives in shared memory beside tables, against what it is made of: one run prints a line per target, its figure,
//! and whether it is kept.
//!
//! | section | what is measured |
//! |---|---|
//! | there and back | microseconds in which a message of 16 bytes is answered by another process through two queues; asleep: both on one core, against a bare futex, on which two processes wake each other; awake: on different cores, where who waits looks for a while |
//! | one way | millions of messages of 16 bytes a second from one process to another, sent one by one; and 1 MiB, of which there is room for four, against copying as much once within a process, into one of four places after the other |
//! | in place | microseconds in which 16 bytes of a message of 1 MiB are answered by as much, written and read in their places, against messages of 1 KiB |
//! | pairs | nanoseconds of locking and unlocking a mutex (without a value, and with one that is changed) against the robust mutex of the C library; of waiting and posting against its semaphore; of acquiring a permit and giving it back |
//! | a condition | microseconds in which two processes on one core wake each other by turns, against the bare futex |
//!
//! ```sh
//! cargo bench --bench shared
//! cargo bench --bench shared -- pairs                 # the sections whose title contains this
//! MANYCORE_BENCH_ROUNDS=21 cargo bench --bench shared # instead of 5
//! ```

#[path = "table_targets/machine.rs"]
#[allow(dead_code, reason = "the bench `table_targets` uses the rest")]
mod machine;
mod report;

use std::ffi::{OsStr, OsString};
use std::hint::black_box;
use std::time::{Duration, Instant};

use machine::{cores, pin, unpin};
use manycore::PosixShm;
use manycore::lock::Wait;
use manycore::posix::semaphore::SemaphoreSet;
use manycore::shared::{Capacity, ShmMutex, ShmPermits, ShmQueue, ShmSemaphore};
use manycore::shm::{Memory, Open, ShmBackend, Window, create_unique};
use manycore::spawn::{Child, Exit, Fork};
use manycore_backends::testing::anchor::RobustMutex;
use report::{Judged, Limit, Report, Row, is_measuring, is_wanted, rounds};

const TEMPLATE: &str = "/manycore-bench-shared-XXXXXX";
const LONG: Duration = Duration::from_secs(10);

/// Microseconds each of so many things that this process and a forked one do together, on these of the cores.
fn together(
    parties: [usize; 2],
    count: usize,
    here: impl FnOnce(usize),
    there: impl FnOnce(usize) + Send + 'static,
) -> f64 {
    let cores = cores();
    let theirs = cores.clone();
    let child = Fork.fork(&[], move || {
        pin(parties[1], &theirs);
        there(count);
        0
    });
    let child = child.unwrap();
    pin(parties[0], &cores);
    let start = Instant::now();
    here(count);
    let microseconds = start.elapsed().as_secs_f64() * 1e6 / count as f64;
    unpin(&cores);
    assert_eq!(child.wait().unwrap(), Exit::Code(0));
    microseconds
}

/// Two processes that wake each other by turns through a bare word.
fn bare_futex(count: usize) -> f64 {
    fn turns(name: &OsStr, parity: u32, count: usize) {
        let object = PosixShm::open(name, Open::Existing).unwrap();
        object.size().unwrap();
        let window = object.memory().window();
        for _ in 0..count {
            loop {
                let turn = window.load(0).unwrap();
                if turn % 2 == parity {
                    window.store(0, turn.wrapping_add(1)).unwrap();
                    window.wake(0, 1, u32::MAX).unwrap();
                    break;
                }
                window.wait(0, turn, LONG, u32::MAX).unwrap();
            }
        }
    }
    let object: PosixShm = create_unique(OsStr::new(TEMPLATE), 0o600).unwrap();
    object.grow(4).unwrap();
    let name = object.name().to_owned();
    let theirs = name.clone();
    let microseconds =
        together([0, 0], count, |count| turns(&name, 0, count), move |count| turns(&theirs, 1, count));
    PosixShm::unlink(&name).unwrap();
    microseconds
}

fn queue(messages: usize, words: usize) -> ShmQueue<()> {
    ShmQueue::create_unique(TEMPLATE, &Capacity { messages, words }).unwrap()
}

const MESSAGE: [u32; 4] = [1, 2, 3, 4];

fn there_and_back(parties: [usize; 2], count: usize) -> f64 {
    let (requests, answers) = (queue(64, 4), queue(64, 4));
    let names: [OsString; 2] = [requests.name().to_owned(), answers.name().to_owned()];
    let there = move |count| {
        let (requests, answers): (ShmQueue<()>, ShmQueue<()>) =
            (ShmQueue::open(&names[0]).unwrap(), ShmQueue::open(&names[1]).unwrap());
        let mut message = Vec::new();
        for _ in 0..count {
            message.clear();
            requests.receive_words(&mut message, Wait::Forever).unwrap();
            answers.send_words(&message, Wait::Forever).unwrap();
        }
    };
    let here = |count| {
        let mut message = Vec::new();
        for _ in 0..count {
            requests.send_words(&MESSAGE, Wait::Forever).unwrap();
            message.clear();
            answers.receive_words(&mut message, Wait::Forever).unwrap();
        }
    };
    let microseconds = together(parties, count, here, there);
    requests.unlink().unwrap();
    answers.unlink().unwrap();
    microseconds
}

/// The same with messages of so many words that are written and read in their places; four of them are.
fn in_place(words: usize, count: usize) -> f64 {
    fn send(queue: &ShmQueue<()>) {
        let mut draft = queue.draft(Wait::Forever).unwrap();
        draft.write(0, &MESSAGE).unwrap();
        draft.send(queue.capacity().words).unwrap();
    }
    fn receive(queue: &ShmQueue<()>) {
        let message = queue.borrow(Wait::Forever).unwrap();
        let mut read = [0; 4];
        message.read(0, &mut read).unwrap();
        assert_eq!(read, MESSAGE);
        message.finish().unwrap();
    }
    let (requests, answers) = (queue(4, words), queue(4, words));
    let names: [OsString; 2] = [requests.name().to_owned(), answers.name().to_owned()];
    let there = move |count| {
        let (requests, answers) = (ShmQueue::open(&names[0]).unwrap(), ShmQueue::open(&names[1]).unwrap());
        for _ in 0..count {
            receive(&requests);
            send(&answers);
        }
    };
    let here = |count| {
        for _ in 0..count {
            send(&requests);
            receive(&answers);
        }
    };
    let microseconds = together([0, 1], count, here, there);
    requests.unlink().unwrap();
    answers.unlink().unwrap();
    microseconds
}

/// Microseconds of each message that goes to another process.
fn one_way(messages: usize, words: usize, count: usize) -> f64 {
    let (queue, done) = (queue(messages, words), queue(1, 0));
    let names: [OsString; 2] = [queue.name().to_owned(), done.name().to_owned()];
    let there = move |count| {
        let queue: ShmQueue<()> = ShmQueue::open(&names[0]).unwrap();
        let mut message = Vec::with_capacity(words);
        for _ in 0..count {
            message.clear();
            queue.receive_words(&mut message, Wait::Forever).unwrap();
        }
        ShmQueue::<()>::open(&names[1]).unwrap().send(&()).unwrap();
    };
    let message = vec![7; words];
    let here = |count| {
        (0..count).for_each(|_| queue.send_words(&message, Wait::Forever).unwrap());
        done.receive().unwrap();
    };
    let microseconds = together([0, 1], count, here, there);
    queue.unlink().unwrap();
    done.unlink().unwrap();
    microseconds
}

/// Microseconds of copying so many words once, into one of so many places after the other.
fn copying(places: usize, words: usize, count: usize) -> f64 {
    let (from, mut to) = (vec![7u32; words], vec![vec![0u32; words]; places]);
    let start = Instant::now();
    for number in 0..count {
        to[number % places].copy_from_slice(black_box(&from));
        black_box(&mut to);
    }
    start.elapsed().as_secs_f64() * 1e6 / count as f64
}

fn condition(count: usize) -> f64 {
    fn turns(mutex: &ShmMutex<u32>, parity: u32, count: usize) {
        let changed = mutex.condvar(0);
        for _ in 0..count {
            let mut locked = changed.wait_while(mutex.lock().unwrap(), |turn| turn % 2 != parity).unwrap();
            locked.update(|turn| *turn = turn.wrapping_add(1)).unwrap();
            drop(locked);
            changed.notify_one().unwrap();
        }
    }
    let mutex: ShmMutex<u32> = ShmMutex::create_unique(TEMPLATE, &0).unwrap();
    let name = mutex.name().to_owned();
    let there = move |count| turns(&ShmMutex::open(&name).unwrap(), 1, count);
    let microseconds = together([0, 0], count, |count| turns(&mutex, 0, count), there);
    mutex.unlink().unwrap();
    microseconds
}

/// Nanoseconds of each.
fn pairs(count: usize, mut pair: impl FnMut()) -> f64 {
    let start = Instant::now();
    (0..count).for_each(|_| pair());
    start.elapsed().as_secs_f64() * 1e9 / count as f64
}

fn main() {
    let rounds = rounds();
    let times = |count: usize| if is_measuring() { count } else { count / 1000 + 1 };
    let mut report = Report::default();
    println!("{rounds} rounds");
    if is_wanted("there and back") {
        report.section("there and back, us", "bare futex", "ours");
        let at_most = Judged::Ratio(Limit::AtMost(1.1));
        let count = times(20_000);
        let asleep = || there_and_back([0, 0], count);
        report.compare("asleep, on one core", "ShmQueue", at_most, || bare_futex(count), asleep);
        let mut awake: Vec<f64> = (0..rounds).map(|_| there_and_back([0, 1], times(200_000))).collect();
        awake.sort_by(f64::total_cmp);
        let awake = awake[awake.len() / 2];
        report.row(&Row::alone("awake, apart", "ShmQueue", awake, Judged::Ours(Limit::AtMost(0.75))));
    }
    if is_wanted("one way") {
        report.section("one way, M/s; GB/s", "a copy", "ours");
        let mut small: Vec<f64> = (0..rounds).map(|_| 1.0 / one_way(1024, 4, times(2_000_000))).collect();
        small.sort_by(f64::total_cmp);
        let small = small[small.len() / 2];
        report.row(&Row::alone("16 bytes", "ShmQueue", small, Judged::Ours(Limit::AtLeast(8.0))));
        const WORDS: usize = 1 << 18;
        let gigabytes = |microseconds: f64| 4.0 * WORDS as f64 / microseconds / 1e3;
        let at_least = Judged::Ratio(Limit::AtLeast(0.9));
        let copy = || gigabytes(copying(4, WORDS, times(2000)));
        report.compare("1 MiB", "ShmQueue", at_least, copy, || gigabytes(one_way(4, WORDS, times(2000))));
    }
    if is_wanted("in place") {
        report.section("in place, us", "1 KiB", "1 MiB");
        let count = times(200_000);
        let long = || in_place(1 << 18, count);
        let at_most = Judged::Ratio(Limit::AtMost(1.1));
        report.compare("there and back, apart", "ShmQueue", at_most, || in_place(256, count), long);
    }
    if is_wanted("pairs") {
        report.section("pairs, ns", "C library", "ours");
        let count = times(1_000_000);
        let robust = RobustMutex::new();
        let unit: ShmMutex<()> = ShmMutex::create_unique(TEMPLATE, &()).unwrap();
        let number: ShmMutex<u64> = ShmMutex::create_unique(TEMPLATE, &0).unwrap();
        let at_most = |limit| Judged::Ratio(Limit::AtMost(limit));
        let anchor = || pairs(count, || robust.pair());
        let locked = || pairs(count, || drop(unit.lock().unwrap()));
        report.compare("lock, unlock", "ShmMutex<()>", at_most(1.1), anchor, locked);
        let counted = || pairs(count, || number.update(|number| *number += 1).unwrap());
        report.compare("and count", "ShmMutex<u64>", Judged::Nothing, anchor, counted);
        let set = SemaphoreSet::new(&[1]).unwrap();
        let theirs = set.get(0).unwrap();
        let ours: ShmSemaphore = ShmSemaphore::create_unique(TEMPLATE, &1).unwrap();
        let anchor = || {
            pairs(count, || {
                theirs.wait().unwrap();
                theirs.post().unwrap();
            })
        };
        let waited = || {
            pairs(count, || {
                ours.wait().unwrap();
                ours.post().unwrap();
            })
        };
        report.compare("wait, post", "ShmSemaphore", at_most(1.2), anchor, waited);
        let permits: ShmPermits = ShmPermits::create_unique(TEMPLATE, &4).unwrap();
        let acquired = || pairs(count, || drop(permits.acquire().unwrap()));
        report.compare("acquire, give back", "ShmPermits", Judged::Nothing, anchor, acquired);
        unit.unlink().unwrap();
        number.unlink().unwrap();
        ours.unlink().unwrap();
        permits.unlink().unwrap();
    }
    if is_wanted("a condition") {
        report.section("a condition, us", "bare futex", "ours");
        let count = times(20_000);
        let at_most = Judged::Ratio(Limit::AtMost(1.1));
        report.compare("there and back", "ShmCondvar", at_most, || bare_futex(count), || condition(count));
    }
    report.end();
}
