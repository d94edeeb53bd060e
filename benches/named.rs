//! Named objects against a round trip between two processes over a Unix socket: one run prints a line per target, its
//! figure, and whether it is kept.
//!
//! | section | what is measured |
//! |---|---|
//! | one request | a worker asks the master for one thing; against a message of that size there and a short one back |
//! | between workers | locking and unlocking a mutex; a message from one worker to another, by way of the master; against such a round trip |
//! | eight at once | what the master serves when eight workers ask all the time, by its own processor time, and by the clock |
//! | ten thousand objects | the master's memory for each; a request when there are so many |
//!
//! By hand there is nothing but `send` and `recv` of bytes that nobody looks at. Both parties of a comparison are placed in
//! the same way: apart, on different cores, as far as there are any, which is what the targets are about; and, in the
//! sections whose title says so, on one core. Two processes that the system places as it likes differ by more than ours
//! from theirs.
//!
//! ```sh
//! cargo bench --bench named
//! cargo bench --bench named -- "one request"         # the sections whose title contains this
//! MANYCORE_BENCH_ROUNDS=21 cargo bench --bench named # instead of 5
//! ```

mod forked;
#[path = "table_targets/machine.rs"]
#[allow(dead_code, reason = "the bench `table_targets` uses the rest")]
mod machine;
mod report;

use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use forked::{forked, reap};
use machine::{cores, pin, unpin};
use manycore::named::{Mutex, Semaphore, VarOptions, Version};
use manycore::{
    Context, Epoll, Failure, Finished, Fork, Forked, Futex, Mailbox, Platform, PosixShm, Runtime, SharedVar,
    Socket, Threaded, With, Worker, Workers,
};
use report::{Judged, Limit, Report, Row, is_measuring, is_wanted, rounds};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, shutdown};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

type ByEpoll = With<PosixShm, Futex, Epoll, Socket, Fork>;

const NUMBER: SharedVar<u64> = SharedVar::new("number");
const BLOCK: SharedVar<ByteBuf> = SharedVar::new("block");
const UNITS: Semaphore = Semaphore::new("units");
const LOCK: Mutex = Mutex::new("lock");
const THERE: Mailbox<u64> = Mailbox::new("there");
const BACK: Mailbox<u64> = Mailbox::new("back");

/// About what a request or a reply of a small value has.
const SMALL: usize = 80;
const LARGE: usize = 64 << 10;

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum What {
    Get,
    Version,
    Set,
    SetLarge,
    Increment,
    Cached,
    Lock,
    PingPong,
}

/// Where the parties of a comparison are: the cores of the master, or of who asks by hand, and of the other one.
#[derive(Clone, Copy, Debug)]
struct Placement {
    here: usize,
    there: usize,
}

impl Placement {
    fn apart() -> Placement {
        let cores = cores();
        Placement { here: cores[0], there: cores[1 % cores.len()] }
    }

    fn together() -> Placement {
        let here = cores()[0];
        Placement { here, there: here }
    }

    /// What `body` returns, with this thread in its place.
    fn with<T>(self, body: impl FnOnce() -> T) -> T {
        let cores = cores();
        pin(0, &[self.here]);
        let value = body();
        unpin(&cores);
        value
    }
}

/// Does something so many times, on this core, and tells how long that took.
const MEASURE: Worker<(What, u64, usize), Duration> =
    Worker::fallible("measure", |context, (what, count, core)| {
        pin(0, &[core]);
        NUMBER.create_with(context, VarOptions::new().value(&1))?;
        BLOCK.create(context)?;
        UNITS.create(context, 0)?;
        let block = ByteBuf::from(vec![7; LARGE]);
        let mut cached = NUMBER.cached();
        let other = match what {
            What::PingPong => Some(context.start(&PONG, (count, core))?),
            _ => None,
        };
        one(context, what, 0, &mut cached, &block)?;
        let start = Instant::now();
        for number in 1..count {
            one(context, what, number, &mut cached, &block)?;
        }
        let elapsed = start.elapsed();
        if let Some(other) = other {
            context.join(other)?;
        }
        Ok(elapsed)
    });

fn one(
    context: &mut Context,
    what: What,
    number: u64,
    cached: &mut manycore::named::Cached<u64>,
    block: &ByteBuf,
) -> Result<(), Failure> {
    match what {
        What::Get => drop(NUMBER.get(context)?),
        What::Version => assert!(NUMBER.version(context)? > Version::UNSET),
        What::Set => drop(NUMBER.set(context, &number)?),
        What::SetLarge => drop(BLOCK.set(context, block)?),
        What::Increment => drop(UNITS.increment(context, 1)?),
        What::Cached => assert_eq!(*cached.get(context)?, 1),
        What::Lock => drop(LOCK.lock(context)?),
        What::PingPong => {
            THERE.send(context, &number)?;
            assert_eq!(BACK.receive(context)?, number);
        }
    }
    Ok(())
}

const PONG: Worker<(u64, usize), ()> = Worker::fallible("pong", |context, (count, core)| {
    pin(0, &[core]);
    for _ in 0..count {
        let number = THERE.receive(context)?;
        BACK.send(context, &number)?;
    }
    Ok(())
});

/// Eight that ask all the time, each the same number of times.
const EIGHT: Worker<u64, Duration> = Worker::fallible("eight", |context, count| {
    NUMBER.create_with(context, VarOptions::new().value(&1))?;
    let start = Instant::now();
    let workers = context.start_all(&ASKS, [count; 8])?;
    context.join_all(workers)?;
    Ok(start.elapsed())
});

const ASKS: Worker<u64, ()> = Worker::fallible("asks", |context, count| {
    for _ in 0..count {
        NUMBER.get(context)?;
    }
    Ok(())
});

fn workers() -> Workers {
    Workers::new().with(&MEASURE).with(&PONG).with(&EIGHT).with(&ASKS)
}

/// Microseconds of one.
fn ours<P: Platform>(what: What, count: u64, placement: Placement) -> f64 {
    let runtime = Runtime::<P>::default().with_all(&workers());
    per(count, placement.with(|| runtime.run(&MEASURE, (what, count, placement.there))).unwrap())
}

fn per(count: u64, elapsed: Duration) -> f64 {
    elapsed.as_nanos() as f64 / 1_000.0 / count as f64
}

/// Microseconds of a message of so many bytes there and so many back.
fn round_trip(there: usize, back: usize, count: u64, placement: Placement) -> f64 {
    placement.with(|| trips(there, back, count, placement.there))
}

fn trips(there: usize, back: usize, count: u64, core: usize) -> f64 {
    let (socket, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    let pid = forked(|| {
        pin(0, &[core]);
        echo(theirs.as_fd(), there, back);
    });
    let (mut message, mut answer) = (vec![1; there], vec![2; back]);
    let start = Instant::now();
    for _ in 0..count {
        send(&socket, &message);
        assert!(receive(&socket, &mut answer));
    }
    let elapsed = start.elapsed();
    message[0] = answer[0];
    std::hint::black_box(message);
    shutdown(&socket, Shutdown::Both).unwrap();
    reap(pid);
    per(count, elapsed)
}

fn echo(socket: BorrowedFd<'_>, there: usize, back: usize) {
    let (mut message, answer) = (vec![0; there], vec![2; back]);
    while receive(&socket, &mut message) {
        send(&socket, &answer);
    }
}

fn send(socket: &impl AsFd, bytes: &[u8]) {
    let mut rest = bytes;
    while !rest.is_empty() {
        let sent = rustix::net::send(socket, rest, SendFlags::empty()).unwrap();
        rest = &rest[sent..];
    }
}

/// Whether all of it came, and not the end of file.
fn receive(socket: &impl AsFd, bytes: &mut [u8]) -> bool {
    let mut done = 0;
    while done < bytes.len() {
        match rustix::net::recv(socket, &mut bytes[done..], RecvFlags::empty()).unwrap() {
            (0, _) => return false,
            (length, _) => done += length,
        }
    }
    true
}

fn at_most(ratio: f64) -> Judged {
    Judged::Ratio(Limit::AtMost(ratio))
}

fn one_request(
    report: &mut Report,
    count: u64,
    title: &str,
    placement: Placement,
    target: &dyn Fn(f64) -> Judged,
) {
    report.section(title, "round trip", "ours");
    let small = || round_trip(SMALL, SMALL, count, placement);
    let short = [
        ("get", What::Get),
        ("version", What::Version),
        ("set", What::Set),
        ("increment a semaphore", What::Increment),
    ];
    for (name, what) in short {
        report.compare(name, "Forked", target(1.3), small, || ours::<Forked>(what, count, placement));
    }
    let large = || round_trip(LARGE, SMALL, count / 4, placement);
    let set_large = || ours::<Forked>(What::SetLarge, count / 4, placement);
    report.compare("set 64 KiB", "Forked", target(1.3), large, set_large);
    let get = || ours::<ByEpoll>(What::Get, count, placement);
    report.compare("get", "With Epoll", Judged::Nothing, small, get);
    let cached = || ours::<Forked>(What::Cached, count, placement);
    report.compare("get at hand (cached)", "Forked", Judged::Nothing, small, cached);
}

/// Both workers are on one core, in the second placement with the master.
fn between_workers(
    report: &mut Report,
    count: u64,
    title: &str,
    placement: Placement,
    target: &dyn Fn(f64) -> Judged,
) {
    report.section(title, "round trip", "ours");
    let small = || round_trip(SMALL, SMALL, count, placement);
    let lock = || ours::<Forked>(What::Lock, count, placement);
    report.compare("lock and unlock", "Forked", target(1.2), small, lock);
    // There and back are two.
    let letter = || ours::<Forked>(What::PingPong, count, placement) / 2.0;
    report.compare("send to receive", "Forked", target(2.5), small, letter);
}

/// Processor time of this process, its children not counted.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn eight_at_once(report: &mut Report, count: u64) {
    report.section("eight at once", "", "ours");
    let (mut by_processor, mut by_clock) = (Vec::new(), Vec::new());
    for _ in 0..rounds() {
        let before = processor_time();
        let elapsed = Runtime::<Forked>::default().with_all(&workers()).run(&EIGHT, count).unwrap();
        let used = processor_time() - before;
        by_processor.push(8.0 * count as f64 / used.as_secs_f64() / 1e3);
        by_clock.push(8.0 * count as f64 / elapsed.as_secs_f64() / 1e3);
    }
    let median = |figures: &mut Vec<f64>| {
        figures.sort_by(f64::total_cmp);
        figures[figures.len() / 2]
    };
    let served = median(&mut by_processor);
    let judged = Judged::Ours(Limit::AtLeast(100.0));
    report.row(&Row::alone("k requests/s of processor time", "Forked", served, judged));
    report.row(&Row::alone("us of the master's for one", "Forked", 1e3 / served, Judged::Nothing));
    report.row(&Row::alone("k requests/s", "Forked", median(&mut by_clock), Judged::Nothing));
}

/// Bytes of this process that are in memory.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = text.split(' ').nth(1).unwrap().parse().unwrap();
    pages * rustix::param::page_size() as u64
}

fn ten_thousand(report: &mut Report, count: u64) {
    report.section("ten thousand objects", "few", "ours");
    type Create = fn(&mut Finished<'_>, String);
    let kinds: [(&str, Create); 4] = [
        ("bytes of a variable of 8 bytes", |at, name| {
            SharedVar::<u64>::named(name)
                .create_with(at, VarOptions::new().value(&(1 << 60)))
                .map(drop)
                .unwrap();
        }),
        ("bytes of a mutex", |at, name| {
            drop(Mutex::named(name).try_lock(at).unwrap());
        }),
        ("bytes of a semaphore", |at, name| {
            Semaphore::named(name).create(at, 1).map(drop).unwrap();
        }),
        ("bytes of a mailbox with a message", |at, name| {
            Mailbox::<u64>::named(name, 1).try_send(at, &(1 << 60)).map(drop).unwrap();
        }),
    ];
    for (what, create) in kinds {
        let bytes = Cell::new(0.0);
        // The memory that a run before has left is used again: each kind in a process of its own.
        let pipe = rustix::pipe::pipe().unwrap();
        let pid = forked(|| {
            Runtime::<Forked>::default()
                .run_then(&ASKS, 0, |finished, _| {
                    create(finished, "first".to_owned());
                    let before = resident();
                    for number in 0..count {
                        create(finished, format!("object number {number}"));
                    }
                    bytes.set((resident() - before) as f64 / count as f64);
                })
                .unwrap();
            rustix::io::write(&pipe.1, &bytes.get().to_ne_bytes()).unwrap();
        });
        let mut figure = [0; 8];
        rustix::io::read(&pipe.0, &mut figure).unwrap();
        reap(pid);
        let judged = Judged::Ours(Limit::AtMost(500.0));
        report.row(&Row::alone(what, "Forked", f64::from_ne_bytes(figure), judged));
    }
    // A request when there are so many.
    const AMONG_MANY: Worker<(u64, u64), Duration> =
        Worker::fallible("among many", |context, (others, count)| {
            for number in 0..others {
                SharedVar::<u64>::named(format!("object number {number}")).create(context)?;
            }
            NUMBER.create_with(context, VarOptions::new().value(&1))?;
            let start = Instant::now();
            for _ in 0..count {
                NUMBER.get(context)?;
            }
            Ok(start.elapsed())
        });
    let get = |others| {
        let runtime = Runtime::<Forked>::default();
        per(count, runtime.run(&AMONG_MANY, (others, count)).unwrap())
    };
    report.compare("get among them, us", "Forked", at_most(1.1), || get(0), || get(count));
}

fn main() {
    let count = if is_measuring() { 20_000 } else { 100 };
    println!("{} rounds", rounds());
    let mut report = Report::default();
    let nothing = |_| Judged::Nothing;
    let (apart, together) = (Placement::apart(), Placement::together());
    if is_wanted("one request, us") {
        one_request(&mut report, count, "one request, us", apart, &at_most);
    }
    if is_wanted("one request, on one core, us") {
        one_request(&mut report, count, "one request, on one core, us", together, &nothing);
    }
    if is_wanted("between workers, us") {
        between_workers(&mut report, count, "between workers, us", apart, &at_most);
    }
    if is_wanted("between workers, on one core, us") {
        between_workers(&mut report, count, "between workers, on one core, us", together, &nothing);
    }
    if is_wanted("eight at once") {
        eight_at_once(&mut report, count);
    }
    if is_wanted("ten thousand objects") {
        ten_thousand(&mut report, if is_measuring() { 10_000 } else { 100 });
    }
    // The last, for it leaves the process with threads for a moment.
    if is_wanted("threaded, us") {
        report.section("threaded, us", "round trip", "ours");
        let small = || round_trip(SMALL, SMALL, count, apart);
        for (name, what) in
            [("get", What::Get), ("lock and unlock", What::Lock), ("there and back", What::PingPong)]
        {
            let nothing = Judged::Nothing;
            report.compare(name, "Threaded", nothing, small, || ours::<Threaded>(what, count, apart));
        }
    }
    report.end();
}
