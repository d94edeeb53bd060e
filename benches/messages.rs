//! Messages between threads against `crossbeam-channel` and `flume`: one run prints a line per target, its figure, and
//! whether it is kept.
//!
//! | section | what is measured |
//! |---|---|
//! | one way | millions of messages of 8 bytes a second, from one thread to another |
//! | there and back | microseconds of a round trip between two threads that wait for each other |
//!
//! The threads are kept on different cores, as far as there are any. "With a descriptor" is the reader's descriptor, asked
//! for but slept on only when nothing is there; it is compared with a crossbeam channel beside which an eventfd is
//! signalled when the receiver has armed it.
//!
//! ```sh
//! cargo bench --bench messages
//! cargo bench --bench messages -- "one way"             # the sections whose title contains this
//! MANYCORE_BENCH_ROUNDS=21 cargo bench --bench messages # instead of 5
//! ```

#[path = "table_targets/machine.rs"]
#[allow(dead_code, reason = "the bench `table_targets` uses the rest")]
mod machine;
mod report;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Instant;

use machine::{cores, pin};
use manycore::poll::{Interest, poll_single};
use manycore::transport::polypipe::{PipeError, pipe};
use report::{Judged, Limit, Report, Row, is_measuring, is_wanted, rounds};
use rustix::event::{EventfdFlags, eventfd};

/// Two parties on different cores, each of which does what it is given; seconds from when both are there until both
/// have done.
fn two(first: impl FnOnce() + Send, second: impl FnOnce() + Send) -> f64 {
    let cores = cores();
    let meeting = Barrier::new(3);
    thread::scope(|scope| {
        let (meeting, cores) = (&meeting, &cores);
        let first = scope.spawn(move || {
            pin(0, cores);
            meeting.wait();
            first();
        });
        let second = scope.spawn(move || {
            pin(1, cores);
            meeting.wait();
            second();
        });
        meeting.wait();
        let start = Instant::now();
        first.join().unwrap();
        second.join().unwrap();
        start.elapsed().as_secs_f64()
    })
}

/// A way to send numbers to another thread and to receive them there.
trait Channel {
    type Sender: Send;
    type Receiver: Send;
    fn new(capacity: usize) -> (Self::Sender, Self::Receiver);
    fn send(sender: &Self::Sender, number: u64);
    fn receive(receiver: &Self::Receiver) -> u64;
}

struct Crossbeam;
impl Channel for Crossbeam {
    type Sender = crossbeam_channel::Sender<u64>;
    type Receiver = crossbeam_channel::Receiver<u64>;
    fn new(capacity: usize) -> (Self::Sender, Self::Receiver) {
        crossbeam_channel::bounded(capacity)
    }
    fn send(sender: &Self::Sender, number: u64) {
        sender.send(number).unwrap();
    }
    fn receive(receiver: &Self::Receiver) -> u64 {
        receiver.recv().unwrap()
    }
}

struct Flume;
impl Channel for Flume {
    type Sender = flume::Sender<u64>;
    type Receiver = flume::Receiver<u64>;
    fn new(capacity: usize) -> (Self::Sender, Self::Receiver) {
        flume::bounded(capacity)
    }
    fn send(sender: &Self::Sender, number: u64) {
        sender.send(number).unwrap();
    }
    fn receive(receiver: &Self::Receiver) -> u64 {
        receiver.recv().unwrap()
    }
}

struct Polypipe;
impl Channel for Polypipe {
    type Sender = manycore::transport::polypipe::Writer<u64>;
    type Receiver = manycore::transport::polypipe::Reader<u64>;
    fn new(capacity: usize) -> (Self::Sender, Self::Receiver) {
        pipe(capacity).unwrap()
    }
    fn send(sender: &Self::Sender, number: u64) {
        sender.write(number, None).unwrap();
    }
    fn receive(receiver: &Self::Receiver) -> u64 {
        receiver.read(None).unwrap().unwrap()
    }
}

/// The reader's descriptor is there, and is what it sleeps on.
struct Polled;
impl Channel for Polled {
    type Sender = manycore::transport::polypipe::Writer<u64>;
    type Receiver = (manycore::transport::polypipe::Reader<u64>, manycore::transport::polypipe::Descriptor);
    fn new(capacity: usize) -> (Self::Sender, Self::Receiver) {
        let (writer, reader) = pipe(capacity).unwrap();
        let descriptor = reader.descriptor().unwrap();
        (writer, (reader, descriptor))
    }
    fn send(sender: &Self::Sender, number: u64) {
        sender.write(number, None).unwrap();
    }
    fn receive((reader, descriptor): &Self::Receiver) -> u64 {
        loop {
            match reader.try_read() {
                Ok(message) => return message.unwrap(),
                Err(PipeError::WouldBlock) => {
                    poll_single(descriptor.as_fd(), Interest::READ, None).unwrap();
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// What is usually done: an eventfd beside the channel, which the sender signals if the receiver has said that it sleeps.
struct Armed;

struct Arm {
    armed: AtomicBool,
    event: OwnedFd,
}

impl Channel for Armed {
    type Sender = (crossbeam_channel::Sender<u64>, Arc<Arm>);
    type Receiver = (crossbeam_channel::Receiver<u64>, Arc<Arm>);
    fn new(capacity: usize) -> (Self::Sender, Self::Receiver) {
        let (sender, receiver) = crossbeam_channel::bounded(capacity);
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        let arm = Arc::new(Arm { armed: AtomicBool::new(false), event });
        ((sender, arm.clone()), (receiver, arm))
    }
    fn send((sender, arm): &Self::Sender, number: u64) {
        sender.send(number).unwrap();
        fence(Ordering::SeqCst);
        if arm.armed.load(Ordering::Relaxed) && arm.armed.swap(false, Ordering::SeqCst) {
            rustix::io::write(&arm.event, &1_u64.to_ne_bytes()).unwrap();
        }
    }
    fn receive((receiver, arm): &Self::Receiver) -> u64 {
        loop {
            if let Ok(number) = receiver.try_recv() {
                return number;
            }
            arm.armed.store(true, Ordering::SeqCst);
            fence(Ordering::SeqCst);
            if let Ok(number) = receiver.try_recv() {
                arm.armed.store(false, Ordering::SeqCst);
                return number;
            }
            poll_single(arm.event.as_fd(), Interest::READ, None).unwrap();
            let _ = rustix::io::read(&arm.event, &mut [0; 8]);
        }
    }
}

/// Millions of messages a second.
fn one_way<C: Channel>(capacity: usize, count: u64) -> f64 {
    let (sender, receiver) = C::new(capacity);
    let seconds = two(
        move || (0..count).for_each(|number| C::send(&sender, number)),
        move || (0..count).for_each(|number| assert_eq!(C::receive(&receiver), number)),
    );
    count as f64 / seconds / 1e6
}

/// Microseconds.
fn there_and_back<C: Channel>(count: u64) -> f64 {
    let (question, asked) = C::new(1);
    let (reply, answered) = C::new(1);
    let seconds = two(
        move || {
            for number in 0..count {
                C::send(&question, number);
                assert_eq!(C::receive(&answered), number);
            }
        },
        move || (0..count).for_each(|_| C::send(&reply, C::receive(&asked))),
    );
    seconds * 1e6 / count as f64
}

fn compare(
    report: &mut Report,
    rounds: usize,
    what: &str,
    who: &'static str,
    limit: Judged,
    anchor: impl Fn() -> f64,
    ours: impl Fn() -> f64,
) {
    let (mut of_anchor, mut of_ours) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        of_anchor.push(anchor());
        of_ours.push(ours());
    }
    report.row(&Row::compared(what, who, &of_ours, &of_anchor, limit));
}

fn main() {
    let rounds = rounds();
    let (messages, trips) = if is_measuring() { (2_000_000, 200_000) } else { (1_000, 100) };
    println!("{rounds} rounds, {} cores", cores().len());
    let mut report = Report::default();
    let at_least = |ratio| Judged::Ratio(Limit::AtLeast(ratio));
    let at_most = |ratio| Judged::Ratio(Limit::AtMost(ratio));
    if is_wanted("one way, M/s") {
        report.section("one way, M/s", "crossbeam", "ours");
        for capacity in [64, 1024] {
            let what = format!("capacity {capacity}");
            let crossbeam = || one_way::<Crossbeam>(capacity, messages);
            let ours = || one_way::<Polypipe>(capacity, messages);
            compare(&mut report, rounds, &what, "polypipe", at_least(0.8), crossbeam, ours);
            let flume = || one_way::<Flume>(capacity, messages);
            compare(&mut report, rounds, &what, "(flume)", Judged::Nothing, crossbeam, flume);
            let armed = || one_way::<Armed>(capacity, messages);
            let ours = || one_way::<Polled>(capacity, messages);
            let what = format!("{what}, with a descriptor");
            compare(&mut report, rounds, &what, "polypipe", at_least(0.8), armed, ours);
        }
    }
    if is_wanted("there and back, us") {
        report.section("there and back, us", "crossbeam", "ours");
        let crossbeam = || there_and_back::<Crossbeam>(trips);
        let ours = || there_and_back::<Polypipe>(trips);
        compare(&mut report, rounds, "a round trip", "polypipe", at_most(1.2), crossbeam, ours);
        let flume = || there_and_back::<Flume>(trips / 10);
        compare(&mut report, rounds, "a round trip", "(flume)", Judged::Nothing, crossbeam, flume);
        let ours = || there_and_back::<Polled>(trips / 10);
        compare(&mut report, rounds, "with a descriptor", "polypipe", Judged::Nothing, crossbeam, ours);
    }
    report.end();
}
