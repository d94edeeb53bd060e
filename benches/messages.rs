//! Messages between threads against `crossbeam-channel` and `flume`, and between processes against bare Unix sockets: one
//! run prints a line per target, its figure, and whether it is kept.
//!
//! | section | what is measured |
//! |---|---|
//! | between processes | microseconds of a round trip of 16 bytes, bytes a second of 64 KiB and 1 MiB, over a [`Socket`] link and over a bare socket whose reader knows how much comes |
//! | (with it) a ring beside the socket | the same, and millions of messages of 16 bytes a second, over a [`Ring`] link and over a [`Socket`] link: reported, not judged |
//! | one way | millions of messages of 8 bytes a second, from one thread to another |
//! | there and back | microseconds of a round trip between two threads that wait for each other |
//!
//! The parties are kept on different cores, as far as there are any. "With a descriptor" is the reader's descriptor, asked
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

use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Instant;

use machine::{cores, pin, unpin};
use manycore::Portable;
use manycore::poll::{Interest, poll_single};
use manycore::spawn::{Child, Exit, Fork};
use manycore::transport::polypipe::{PipeError, pipe};
use manycore::transport::{BoxError, Endpoint, Limits, Message, Ring, Socket, Transport};
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

/// The reader's descriptor is there, for somebody who polls it at other times; this reader waits by itself.
struct Watched;
impl Channel for Watched {
    type Sender = manycore::transport::polypipe::Writer<u64>;
    type Receiver = (manycore::transport::polypipe::Reader<u64>, manycore::transport::polypipe::Descriptor);
    fn new(capacity: usize) -> (Self::Sender, Self::Receiver) {
        Polled::new(capacity)
    }
    fn send(sender: &Self::Sender, number: u64) {
        sender.write(number, None).unwrap();
    }
    fn receive((reader, _descriptor): &Self::Receiver) -> u64 {
        reader.read(None).unwrap().unwrap()
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

/// Bytes that are their own encoding.
struct Bytes(Vec<u8>);

impl Message for Bytes {
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), BoxError> {
        out.extend_from_slice(&self.0);
        Ok(())
    }

    fn decode(bytes: &[u8]) -> Result<Bytes, BoxError> {
        Ok(Bytes(bytes.to_vec()))
    }

    fn as_bytes(&self) -> Option<&[u8]> {
        Some(&self.0)
    }

    fn decode_owned(bytes: Vec<u8>) -> Result<Bytes, BoxError> {
        Ok(Bytes(bytes))
    }
}

/// A way to send blocks of bytes to another process.
trait Link: Sized {
    fn pair() -> (Self, Self);
    fn fd(&self) -> BorrowedFd<'_>;
    /// As it is made of the descriptor in the other process.
    fn again(self) -> Self;
    fn send(&mut self, size: usize);
    fn receive(&mut self, size: usize);
}

/// A bare socket. Both know the size.
struct Raw {
    stream: UnixStream,
    buffer: Vec<u8>,
}

impl Link for Raw {
    fn pair() -> (Raw, Raw) {
        let (one, other) = UnixStream::pair().unwrap();
        (Raw { stream: one, buffer: Vec::new() }, Raw { stream: other, buffer: Vec::new() })
    }
    fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
    fn again(self) -> Raw {
        self
    }
    fn send(&mut self, size: usize) {
        self.buffer.resize(size, 7);
        self.stream.write_all(&self.buffer).unwrap();
    }
    fn receive(&mut self, size: usize) {
        self.buffer.resize(size, 7);
        self.stream.read_exact(&mut self.buffer).unwrap();
        assert_eq!(self.buffer.last(), Some(&7));
    }
}

/// A link of this library.
struct Typed<T: Transport> {
    end: T::End<Bytes, Bytes>,
    /// What is sent; taken out and made anew, as programs do.
    sample: Vec<u8>,
}

impl<T: Transport<End<Bytes, Bytes>: Portable>> Link for Typed<T> {
    fn pair() -> (Typed<T>, Typed<T>) {
        let (one, other) = T::pair(Limits::default()).unwrap();
        (Typed { end: one, sample: Vec::new() }, Typed { end: other, sample: Vec::new() })
    }
    fn fd(&self) -> BorrowedFd<'_> {
        self.end.as_fd()
    }
    fn again(self) -> Typed<T> {
        let fd: OwnedFd = self.end.into();
        let Ok(end) = T::End::try_from(fd) else { panic!("it was an end before") };
        Typed { end, sample: self.sample }
    }
    fn send(&mut self, size: usize) {
        self.sample.resize(size, 7);
        let bytes = Bytes(std::mem::take(&mut self.sample));
        // The message is the sender's again when it is on its way: nothing is allocated but by the link.
        self.end.send(bytes, None).unwrap();
    }
    fn receive(&mut self, size: usize) {
        let bytes = self.end.receive(None).unwrap().0;
        assert_eq!((bytes.len(), bytes.last()), (size, Some(&7)));
        self.sample = bytes;
    }
}

/// Seconds in which so many blocks of this size have gone to another process, each answered by one of `back` bytes; or, if
/// that is 0, the last one by one byte.
fn between<L: Link + Send + 'static>(size: usize, back: usize, count: usize) -> f64 {
    let (mut near, far) = L::pair();
    let cores = cores();
    let theirs = cores.clone();
    // SAFETY: it is open until the unit was begun: the closure, which owns it, is dropped after that.
    let given = unsafe { BorrowedFd::borrow_raw(far.fd().as_raw_fd()) };
    let child = Fork.fork(&[given], move || {
        pin(1, &theirs);
        let mut far = far.again();
        for _ in 0..count {
            far.receive(size);
            if back > 0 {
                far.send(back);
            }
        }
        if back == 0 {
            far.send(1);
        }
        0
    });
    let child = child.unwrap();
    pin(0, &cores);
    let start = Instant::now();
    for _ in 0..count {
        near.send(size);
        if back > 0 {
            near.receive(back);
        }
    }
    if back == 0 {
        near.receive(1);
    }
    let seconds = start.elapsed().as_secs_f64();
    unpin(&cores);
    assert_eq!(child.wait().unwrap(), Exit::Code(0));
    seconds
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
    // Before there are threads.
    if is_wanted("between processes") {
        report.section("between processes", "bare", "ours");
        let trip = |seconds: f64| seconds * 1e6 / trips as f64;
        let bare = || trip(between::<Raw>(16, 16, trips as usize));
        let ours = || trip(between::<Typed<Socket>>(16, 16, trips as usize));
        compare(&mut report, rounds, "a round trip of 16 B, us", "Socket", at_most(1.2), bare, ours);
        for (size, what) in [(64 << 10, "64 KiB, GB/s"), (1 << 20, "1 MiB, GB/s")] {
            let count = if is_measuring() { (1 << 30) / size } else { 2 };
            let speed = |seconds: f64| (count * size) as f64 / seconds / 1e9;
            let bare = || speed(between::<Raw>(size, 0, count));
            let ours = || speed(between::<Typed<Socket>>(size, 0, count));
            compare(&mut report, rounds, what, "Socket", at_least(0.9), bare, ours);
        }
        report.section("a ring beside the socket", "Socket", "Ring");
        let socket = || trip(between::<Typed<Socket>>(16, 16, trips as usize));
        let ring = || trip(between::<Typed<Ring>>(16, 16, trips as usize));
        let nothing = Judged::Nothing;
        compare(&mut report, rounds, "a round trip of 16 B, us", "Ring", nothing, socket, ring);
        let count = messages as usize;
        let rate = |seconds: f64| count as f64 / seconds / 1e6;
        let socket = || rate(between::<Typed<Socket>>(16, 0, count));
        let ring = || rate(between::<Typed<Ring>>(16, 0, count));
        compare(&mut report, rounds, "one way, 16 B, M/s", "Ring", Judged::Nothing, socket, ring);
        let (size, count) = (64 << 10, if is_measuring() { 1 << 14 } else { 2 });
        let speed = |seconds: f64| (count * size) as f64 / seconds / 1e9;
        let socket = || speed(between::<Typed<Socket>>(size, 0, count));
        let ring = || speed(between::<Typed<Ring>>(size, 0, count));
        compare(&mut report, rounds, "64 KiB, GB/s", "Ring", Judged::Nothing, socket, ring);
    }
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
        let ours = || there_and_back::<Watched>(trips);
        compare(&mut report, rounds, "with a descriptor", "polypipe", at_most(1.5), crossbeam, ours);
        let ours = || there_and_back::<Polled>(trips / 10);
        compare(&mut report, rounds, "sleeping by poll", "polypipe", Judged::Nothing, crossbeam, ours);
    }
    report.end();
}
