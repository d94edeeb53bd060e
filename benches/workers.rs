//! Workers and pools against what a program would write by hand on the system's calls: one run prints a line per target,
//! its figure, and whether it is kept.
//!
//! | section | what is measured |
//! |---|---|
//! | forked | a worker starts another and joins it, by way of the master; against a zygote, a small process that forks on request; CBOR both ways |
//! | a hundred at once | the same, started a hundred at a time, as workers a second |
//! | execed | the same where workers are this program run anew; against std's `Command`, CBOR over its standard input and output |
//! | threaded | the same where workers are threads; against `std::thread` |
//! | pool | empty tasks for two workers: one after the other, each in a message of its own, and many in one |
//!
//! By hand, a task of the pool is a round trip between two processes over a socket that keeps messages apart. Where that
//! takes 18.5 us, procspawn takes 58 for one task, and does 20 thousand a second. The targets are 0.4 of its time, ten
//! times its rate, and a hundred times where tasks travel together; over rings in shared memory a million a second, which
//! is 18.5 for each such round trip. `benches/peers_processes` compares with it itself,
//! in one run.
//!
//! ```sh
//! cargo bench --bench workers
//! cargo bench --bench workers -- pool                  # the sections whose title contains this
//! MANYCORE_BENCH_ROUNDS=21 cargo bench --bench workers # instead of 5
//! ```

mod forked;
mod report;

use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::Stdio;
use std::time::{Duration, Instant};

use forked::{forked, reap};
use manycore::{
    Epoll, Execed, Fork, Forked, Futex, Platform, Poll, Pool, PosixShm, Ring, Runtime, Socket, Threaded,
    With, Worker, Workers,
};
use report::{Judged, Limit, Report, is_measuring, is_wanted, rounds};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, shutdown};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Pid;

type ByEpoll = With<PosixShm, Futex, Epoll, Socket, Fork>;

/// Small messages go through shared memory.
type OnRings = With<PosixShm, Futex, Poll, Ring, Fork>;

const SQUARE: Worker<u64, u64> = Worker::new("square", |_, number| number * number);

const NOTHING: Worker<u64, u64> = Worker::new("nothing", |_, number| number);

/// How a worker measures: so many workers, so many at a time, after it has filled so many bytes.
type Plan = (u64, u64, usize);

/// Starts and joins workers, and tells how long that took.
const MEASURE: Worker<Plan, Duration> = Worker::fallible("measure", |context, (count, at_once, bytes)| {
    let memory = std::hint::black_box(vec![1_u8; bytes]);
    let start = Instant::now();
    for first in (0..count).step_by(at_once as usize) {
        let numbers = first..count.min(first + at_once);
        let workers = context.start_all(&SQUARE, numbers.clone())?;
        let squares = context.join_all(workers)?;
        assert!(squares.into_iter().eq(numbers.map(|number| number * number)));
    }
    let elapsed = start.elapsed();
    drop(memory);
    Ok(elapsed)
});

fn workers() -> Workers {
    Workers::new().with(&SQUARE).with(&NOTHING).with(&MEASURE)
}

/// Microseconds of a worker.
fn ours<P: Platform>(count: u64, at_once: u64, bytes: usize) -> f64 {
    let runtime = Runtime::<P>::default().with_all(&workers());
    per(count, runtime.run(&MEASURE, (count, at_once, bytes)).unwrap())
}

fn per(count: u64, elapsed: Duration) -> f64 {
    elapsed.as_nanos() as f64 / 1_000.0 / count as f64
}

/// Microseconds of one.
fn measure(count: u64, mut one: impl FnMut(u64)) -> f64 {
    let start = Instant::now();
    (0..count).for_each(&mut one);
    per(count, start.elapsed())
}

fn encoded(number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    ciborium::into_writer(&number, &mut bytes).unwrap();
    bytes
}

fn decoded(bytes: &[u8]) -> u64 {
    ciborium::from_reader(bytes).unwrap()
}

/// A child that tells its result by a pipe.
fn begun(number: u64) -> (Pid, OwnedFd) {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let pid = forked(|| {
        rustix::io::write(&writer, &encoded(number * number)).unwrap();
    });
    (pid, reader)
}

/// Its result, and its end.
fn ended(pid: Pid, reader: &OwnedFd) -> Vec<u8> {
    let mut bytes = [0; 16];
    let length = rustix::io::read(reader, &mut bytes).unwrap();
    reap(pid);
    bytes[..length].to_vec()
}

fn bare_fork(_: u64) {
    reap(forked(|| ()));
}

fn fork_with_result(number: u64) {
    let (pid, reader) = begun(number);
    assert_eq!(decoded(&ended(pid, &reader)), number * number);
}

fn pair() -> (OwnedFd, OwnedFd) {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
}

/// Another process behind a socket.
struct Server {
    socket: OwnedFd,
    pid: Pid,
}

impl Server {
    fn begin(serve: fn(BorrowedFd<'_>)) -> Server {
        let (socket, theirs) = pair();
        let pid = forked(|| serve(theirs.as_fd()));
        Server { socket, pid }
    }

    fn send(&self, number: u64) {
        send(self.socket.as_fd(), &encoded(number));
    }

    fn receive(&self) -> u64 {
        decoded(&receive(self.socket.as_fd()))
    }

    fn end(self) {
        // That process has it, too: closing it would not be the end of file.
        shutdown(&self.socket, Shutdown::Both).unwrap();
        reap(self.pid);
    }
}

fn send(socket: BorrowedFd<'_>, bytes: &[u8]) {
    rustix::net::send(socket, bytes, SendFlags::empty()).unwrap();
}

/// Nothing at the end of file.
fn receive(socket: BorrowedFd<'_>) -> Vec<u8> {
    let mut bytes = [0; 16];
    let (length, _) = rustix::net::recv(socket, &mut bytes, RecvFlags::empty()).unwrap();
    bytes[..length].to_vec()
}

/// A zygote: forks a child for each request, and passes its result on when it has ended.
fn fork_on_request(socket: BorrowedFd<'_>) {
    let mut children: Vec<(Pid, OwnedFd)> = Vec::new();
    loop {
        let pipes = children.iter().map(|(_, reader)| reader.as_fd());
        let mut fds: Vec<_> = std::iter::once(socket)
            .chain(pipes)
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        poll(&mut fds, None).unwrap();
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        for index in (0..children.len()).rev().filter(|index| ready[index + 1]) {
            let (pid, reader) = children.swap_remove(index);
            send(socket, &ended(pid, &reader));
        }
        if ready[0] {
            match receive(socket).as_slice() {
                [] => return,
                request => children.push(begun(decoded(request))),
            }
        }
    }
}

fn echo(socket: BorrowedFd<'_>) {
    loop {
        match receive(socket).as_slice() {
            [] => return,
            request => send(socket, &encoded(decoded(request))),
        }
    }
}

/// Microseconds of a process that a zygote forks.
fn by_zygote(count: u64, at_once: u64) -> f64 {
    let zygote = Server::begin(fork_on_request);
    let microseconds = measure(count / at_once, |_| {
        (0..at_once).for_each(|number| zygote.send(number));
        let sum: u64 = (0..at_once).map(|_| zygote.receive()).sum();
        assert_eq!(sum, (0..at_once).map(|number| number * number).sum());
    });
    zygote.end();
    microseconds / at_once as f64
}

/// With this variable the program squares the number that it reads.
const BY_HAND: &str = "MANYCORE_BENCH_BY_HAND";

#[allow(clippy::disallowed_methods, reason = "it is what ours is compared with")]
fn begun_anew(number: u64) -> std::process::Child {
    let mut command = std::process::Command::new("/proc/self/exe");
    let mut child = command.env(BY_HAND, "").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&encoded(number)).unwrap();
    child
}

fn ended_anew(mut child: std::process::Child, number: u64) {
    let mut bytes = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut bytes).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(decoded(&bytes), number * number);
}

fn square_by_hand() {
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes).unwrap();
    let number = decoded(&bytes);
    std::io::stdout().write_all(&encoded(number * number)).unwrap();
}

fn reexec(count: u64, at_once: u64) -> f64 {
    let microseconds = measure(count / at_once, |_| {
        let children: Vec<_> = (0..at_once).map(begun_anew).collect();
        (0..).zip(children).for_each(|(number, child)| ended_anew(child, number));
    });
    microseconds / at_once as f64
}

fn forked_section(report: &mut Report, count: u64) {
    report.section("forked, us", "by hand", "ours");
    let one = || ours::<Forked>(count, 1, 0);
    let at_most = |ratio| Judged::Ratio(Limit::AtMost(ratio));
    report.compare("against a zygote", "Forked", at_most(1.1), || by_zygote(count, 1), one);
    let large = || ours::<Forked>(count, 1, 64 << 20);
    report.compare("a worker of 64 MiB, against none", "Forked", at_most(1.1), one, large);
    let pipe = || measure(count, fork_with_result);
    report.compare("against fork, a result by a pipe", "Forked", Judged::Nothing, pipe, one);
    report.compare("against a bare fork", "Forked", Judged::Nothing, || measure(count, bare_fork), one);
    let memory = std::hint::black_box(vec![1_u8; 64 << 20]);
    report.compare("a program of 64 MiB before the run", "Forked", Judged::Nothing, pipe, one);
    drop(memory);
    let run = || {
        measure(count / 10, |number| {
            assert_eq!(Runtime::new().run(&SQUARE, number).unwrap(), number * number);
        })
    };
    report.compare("a whole run", "Forked", Judged::Nothing, pipe, run);
}

/// Microseconds of a task.
fn tasks_in<P: Platform>(mut pool: Pool<u64, u64, P>, count: u64) -> f64 {
    pool.map(0..100).unwrap();
    let start = Instant::now();
    let results = pool.map(0..count).unwrap();
    let microseconds = per(count, start.elapsed());
    assert!(results.into_iter().eq(0..count));
    microseconds
}

fn pool_section(report: &mut Report, tasks: u64) {
    report.section("pool of two", "by hand", "ours");
    let pool = || Runtime::<Forked>::default().pool(&NOTHING).workers(2);
    let by_hand = || {
        let server = Server::begin(echo);
        let microseconds = measure(tasks / 10, |number| {
            server.send(number);
            assert_eq!(server.receive(), number);
        });
        server.end();
        microseconds
    };
    let one_by_one = || {
        let mut pool = pool();
        pool.map(0..100).unwrap();
        measure(tasks / 10, |number| assert_eq!(pool.map([number]).unwrap(), [number]))
    };
    let at_most = |ratio| Judged::Ratio(Limit::AtMost(ratio));
    report.compare("a round trip, us", "Forked", at_most(1.25), by_hand, one_by_one);
    let thousands = |microseconds: f64| 1e3 / microseconds;
    let rate = |batch, count: u64| thousands(tasks_in(pool().batch(batch), count));
    let on_rings = || Runtime::<OnRings>::default().pool(&NOTHING).workers(2);
    let trips = || thousands(by_hand());
    let at_least = |ratio| Judged::Ratio(Limit::AtLeast(ratio));
    report.compare("k tasks/s, one in a message", "Forked", at_least(3.7), trips, || rate(1, tasks));
    report.compare("the same over rings", "With Ring", at_least(18.5), trips, || {
        thousands(tasks_in(on_rings().batch(1), tasks * 5))
    });
    report.compare("k tasks/s", "Forked", at_least(37.0), trips, || rate(0, tasks * 10));
}

fn main() {
    workers().enter::<Execed>();
    if std::env::var_os(BY_HAND).is_some() {
        return square_by_hand();
    }
    let count = if is_measuring() { 1_000 } else { 100 };
    println!("{} rounds", rounds());
    let mut report = Report::default();
    if is_wanted("forked, us") {
        forked_section(&mut report, count);
    }
    let a_second = |microseconds: f64| 1e6 / microseconds;
    if is_wanted("a hundred at once") {
        report.section("a hundred at once, workers/s", "by hand", "ours");
        let zygote = || a_second(by_zygote(count, 100));
        let ours_at_once = || a_second(ours::<Forked>(count, 100, 0));
        let at_least = Judged::Ratio(Limit::AtLeast(0.9));
        report.compare("against a zygote", "Forked", at_least, zygote, ours_at_once);
        let by_epoll = || a_second(ours::<ByEpoll>(count, 100, 0));
        report.compare("the same by epoll", "With Epoll", Judged::Nothing, zygote, by_epoll);
        let reexec = || a_second(reexec(count, 100));
        let ours_at_once = || a_second(ours::<Execed>(count, 100, 0));
        report.compare("against Command", "Execed", Judged::Nothing, reexec, ours_at_once);
    }
    if is_wanted("pool of two") {
        pool_section(&mut report, if is_measuring() { 200_000 } else { 1_000 });
    }
    if is_wanted("execed, us") {
        report.section("execed, us", "by hand", "ours");
        let count = count / 4;
        let at_most = Judged::Ratio(Limit::AtMost(1.1));
        let ours = || ours::<Execed>(count, 1, 0);
        report.compare("against Command", "Execed", at_most, || reexec(count, 1), ours);
    }
    // The last, for it leaves the process with threads for a moment.
    if is_wanted("threaded, us") {
        report.section("threaded, us", "std", "ours");
        let square = |number| {
            let thread = std::thread::spawn(move || number * number);
            assert_eq!(thread.join().unwrap(), number * number);
        };
        let at_most = Judged::Ratio(Limit::AtMost(2.0));
        let std = || measure(count, square);
        report.compare("against std::thread", "Threaded", at_most, std, || ours::<Threaded>(count, 1, 0));
    }
    report.end();
}
