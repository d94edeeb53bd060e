//! A typed pipe carries each message once and in order, wakes everyone that it concerns, says by its descriptors what is
//! so, and ends in one way at both ends.
//!
//! `MANYCORE_TORTURE_SECONDS` (default 5) is how long the torture runs.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use manycore_backends::poll::{Epoll, Interest, Poll, Poller, Ready, Select};
use manycore_backends::testing::poll::until_asleep;
use manycore_backends::transport::polypipe::{Descriptor, PipeError, Reader, WriteError, Writer, pipe};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

const NOT_AT_ALL: Option<Duration> = Some(Duration::ZERO);
const TINY: Option<Duration> = Some(Duration::from_micros(100));
/// For who is to be woken, and not by the time.
const LONG: Option<Duration> = Some(Duration::from_secs(3_600));

fn new<T: Send>(capacity: usize) -> (Writer<T>, Reader<T>) {
    pipe(capacity).expect("it is a capacity")
}

fn is_so(fd: &Descriptor, flags: PollFlags, timeout: Option<&Timespec>) -> bool {
    let mut fds = [PollFd::new(fd, flags)];
    rustix::io::retry_on_intr(|| poll(&mut fds, timeout)).expect("the descriptor is open");
    fds[0].revents().intersects(flags)
}

const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

fn is_readable(fd: &Descriptor) -> bool {
    is_so(fd, PollFlags::IN, Some(&NOW))
}

fn is_writable(fd: &Descriptor) -> bool {
    is_so(fd, PollFlags::OUT, Some(&NOW))
}

/// Starts a thread, and returns when it sleeps in `wait` (or lingers on the way, which must make no difference).
fn sleeper<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    wait: impl FnOnce() -> T + Send + 'scope,
) -> ScopedJoinHandle<'scope, T> {
    let (sender, receiver) = mpsc::channel();
    let handle = scope.spawn(move || {
        sender.send(rustix::thread::gettid().as_raw_nonzero().get()).expect("the receiver waits");
        wait()
    });
    until_asleep(receiver.recv().expect("the thread starts"));
    handle
}

fn join<T>(handle: ScopedJoinHandle<'_, T>) -> T {
    handle.join().expect("the thread does not panic")
}

/// What a call says. With a timeout, `Wait` is that the time is over.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Says {
    Done,
    Message(u32),
    Wait,
    End,
    Finished,
    Closed,
    Because,
}

use Says::{Because, Closed, Done, End, Finished, Message, Wait};

fn says(error: &PipeError) -> Says {
    match error {
        PipeError::WouldBlock | PipeError::TimedOut => Wait,
        PipeError::Finished => Finished,
        PipeError::Closed => Closed,
        PipeError::Because(reason) => {
            assert_eq!(reason.to_string(), "enough");
            Because
        }
        error => panic!("{error}"),
    }
}

fn written(message: u32, result: Result<(), WriteError<u32>>) -> Says {
    match result {
        Ok(()) => Done,
        Err(error) => {
            assert_eq!(error.message, message, "what is refused comes back");
            says(&error.error)
        }
    }
}

fn was_read(result: Result<Option<u32>, PipeError>) -> Says {
    match result {
        Ok(Some(message)) => Message(message),
        Ok(None) => End,
        Err(error) => says(&error),
    }
}

/// What can be done to a pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Do {
    Write(u32),
    Read,
    Finish,
    CloseWriter,
    CloseReader,
    WriterBecause,
    ReaderBecause,
    DropWriters,
    DropReaders,
}

const ENDS: [Do; 7] = [
    Do::Finish,
    Do::CloseWriter,
    Do::CloseReader,
    Do::WriterBecause,
    Do::ReaderBecause,
    Do::DropWriters,
    Do::DropReaders,
];

/// Both ends, as far as they are there.
struct Ends {
    writer: Option<Writer<u32>>,
    reader: Option<Reader<u32>>,
}

impl Ends {
    fn new(capacity: usize) -> Ends {
        let (writer, reader) = new(capacity);
        Ends { writer: Some(writer), reader: Some(reader) }
    }

    fn writer(&self) -> &Writer<u32> {
        self.writer.as_ref().expect("it was not dropped")
    }

    fn reader(&self) -> &Reader<u32> {
        self.reader.as_ref().expect("it was not dropped")
    }

    fn act(&mut self, act: Do) {
        match act {
            Do::Write(message) => self.writer().try_write(message).expect("there is room"),
            Do::Read => assert!(self.reader().try_read().expect("there is a message").is_some()),
            Do::Finish => self.writer().finish(),
            Do::CloseWriter => self.writer().close(),
            Do::CloseReader => self.reader().close(),
            Do::WriterBecause => drop(self.writer().close_because("enough")),
            Do::ReaderBecause => drop(self.reader().close_because("enough")),
            Do::DropWriters => drop(self.writer.take()),
            Do::DropReaders => drop(self.reader.take()),
        }
    }

    fn descriptors(&self) -> (Option<Descriptor>, Option<Descriptor>) {
        let made = "there are descriptors left";
        (
            self.reader.as_ref().map(|reader| reader.descriptor().expect(made)),
            self.writer.as_ref().map(|writer| writer.descriptor().expect(made)),
        )
    }
}

/// One line of the table: how a pipe of two places gets there, and what is so then.
struct Line {
    acts: &'static [Do],
    write: Says,
    /// What reads say, one after the other; the last one for ever.
    reads: &'static [Says],
    len: usize,
    ended: bool,
    reason: bool,
}

#[rustfmt::skip]
const TABLE: &[Line] = {
    const fn line(acts: &'static [Do], write: Says, reads: &'static [Says], len: usize, ended: bool, reason: bool) -> Line {
        Line { acts, write, reads, len, ended, reason }
    }
    use Do::*;
    &[
        // open: empty, part full, full, drained
        line(&[], Done, &[Wait], 0, false, false),
        line(&[Write(1)], Done, &[Message(1), Wait], 1, false, false),
        line(&[Write(1), Write(2)], Wait, &[Message(1), Message(2), Wait], 2, false, false),
        line(&[Write(1), Write(2), Read], Done, &[Message(2), Wait], 1, false, false),
        line(&[Write(1), Read], Done, &[Wait], 0, false, false),
        // finished
        line(&[Finish], Finished, &[End], 0, true, false),
        line(&[Write(1), Finish], Finished, &[Message(1), End], 1, true, false),
        line(&[Write(1), Write(2), Finish], Finished, &[Message(1), Message(2), End], 2, true, false),
        line(&[Write(1), Finish, Read], Finished, &[End], 0, true, false),
        line(&[Finish, Finish], Finished, &[End], 0, true, false),
        line(&[Write(1), Finish, CloseWriter], Finished, &[Message(1), End], 1, true, false),
        line(&[Write(1), Finish, WriterBecause], Finished, &[Message(1), End], 1, true, false),
        line(&[Write(1), Finish, ReaderBecause], Finished, &[Message(1), End], 1, true, false),
        line(&[Write(1), Finish, CloseReader], Finished, &[Closed], 0, true, false),
        line(&[Write(1), Finish, Read, CloseReader], Finished, &[Closed], 0, true, false),
        // the writing end closed
        line(&[CloseWriter], Closed, &[End], 0, true, false),
        line(&[Write(1), CloseWriter], Closed, &[Message(1), End], 1, true, false),
        line(&[Write(1), Write(2), CloseWriter], Closed, &[Message(1), Message(2), End], 2, true, false),
        line(&[Write(1), CloseWriter, Finish], Closed, &[Message(1), End], 1, true, false),
        line(&[CloseWriter, WriterBecause], Closed, &[End], 0, true, false),
        line(&[Write(1), CloseWriter, CloseReader], Closed, &[Closed], 0, true, false),
        // the reading end closed
        line(&[CloseReader], Closed, &[Closed], 0, true, false),
        line(&[Write(1), CloseReader], Closed, &[Closed], 0, true, false),
        line(&[Write(1), Write(2), CloseReader], Closed, &[Closed], 0, true, false),
        line(&[Write(1), CloseReader, Finish], Closed, &[Closed], 0, true, false),
        line(&[Write(1), CloseReader, WriterBecause], Closed, &[Closed], 0, true, false),
        line(&[CloseReader, CloseReader], Closed, &[Closed], 0, true, false),
        // a reason
        line(&[WriterBecause], Because, &[Because], 0, true, true),
        line(&[ReaderBecause], Because, &[Because], 0, true, true),
        line(&[Write(1), WriterBecause], Because, &[Message(1), Because], 1, true, true),
        line(&[Write(1), ReaderBecause], Because, &[Message(1), Because], 1, true, true),
        line(&[Write(1), Write(2), WriterBecause], Because, &[Message(1), Message(2), Because], 2, true, true),
        line(&[Write(1), WriterBecause, Read], Because, &[Because], 0, true, true),
        line(&[Write(1), WriterBecause, Finish], Because, &[Message(1), Because], 1, true, true),
        line(&[Write(1), WriterBecause, CloseWriter], Because, &[Message(1), Because], 1, true, true),
        line(&[Write(1), WriterBecause, CloseReader], Because, &[Closed], 0, true, true),
        // ends dropped
        line(&[DropWriters], Closed, &[End], 0, true, false),
        line(&[Write(1), DropWriters], Closed, &[Message(1), End], 1, true, false),
        line(&[Write(1), Write(2), DropWriters], Closed, &[Message(1), Message(2), End], 2, true, false),
        line(&[Write(1), Finish, DropWriters], Finished, &[Message(1), End], 1, true, false),
        line(&[Write(1), WriterBecause, DropWriters], Because, &[Message(1), Because], 1, true, true),
        line(&[Write(1), ReaderBecause, DropWriters], Because, &[Message(1), Because], 1, true, true),
        line(&[Write(1), DropWriters, CloseReader], Closed, &[Closed], 0, true, false),
        line(&[Write(1), DropWriters, ReaderBecause], Closed, &[Message(1), End], 1, true, false),
        line(&[DropReaders], Closed, &[Closed], 0, true, false),
        line(&[Write(1), DropReaders], Closed, &[Closed], 0, true, false),
        line(&[Write(1), Write(2), DropReaders], Closed, &[Closed], 0, true, false),
        line(&[Write(1), Finish, DropReaders], Finished, &[Closed], 0, true, false),
        line(&[Write(1), WriterBecause, DropReaders], Because, &[Closed], 0, true, true),
        line(&[Write(1), DropReaders, Finish], Closed, &[Closed], 0, true, false),
    ]
};

/// When the descriptors are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Made {
    Early,
    Between,
    Late,
}

type Descriptors = (Option<Descriptor>, Option<Descriptor>);

fn arrive(line: &Line, made: Made) -> (Ends, Descriptors) {
    let mut ends = Ends::new(2);
    let mut descriptors = (None, None);
    for (at, act) in line.acts.iter().enumerate() {
        if (made == Made::Early && at == 0) || (made == Made::Between && at == line.acts.len() / 2) {
            descriptors = ends.descriptors();
        }
        ends.act(*act);
    }
    let (reading, writing) = ends.descriptors();
    (ends, (descriptors.0.or(reading), descriptors.1.or(writing)))
}

/// All that can be asked without changing anything.
fn check_state(
    line: &Line,
    len: usize,
    read: &Says,
    ends: &Ends,
    (reading, writing): &Descriptors,
    at: &str,
) {
    let knowing = |of: (usize, bool, bool, bool, usize)| {
        assert_eq!(of, (len, len == 0, line.ended, line.reason, 2), "{at}");
    };
    if let Some(end) = &ends.writer {
        knowing((end.len(), end.is_empty(), end.has_ended(), end.reason().is_some(), end.capacity()));
    }
    if let Some(end) = &ends.reader {
        knowing((end.len(), end.is_empty(), end.has_ended(), end.reason().is_some(), end.capacity()));
    }
    if let Some(fd) = reading {
        assert_eq!(is_readable(fd), *read != Wait, "the descriptor for reading, {at}");
    }
    if let Some(fd) = writing {
        let writable = if line.ended { true } else { len < 2 };
        assert_eq!(is_writable(fd), writable, "the descriptor for writing, {at}");
    }
}

#[test]
fn every_operation_says_in_every_state_what_the_table_says() {
    for line in TABLE {
        for made in [Made::Early, Made::Between, Made::Late] {
            let at = format!("after {:?}, descriptors made {made:?}", line.acts);
            let (ends, descriptors) = arrive(line, made);
            check_state(line, line.len, &line.reads[0], &ends, &descriptors, &at);
            if let Some(reader) = &ends.reader {
                let mut len = line.len;
                let mut reads = line.reads.iter();
                while let Some(expected) = reads.next() {
                    assert_eq!(was_read(reader.try_read()), *expected, "{at}");
                    len -= usize::from(matches!(expected, Message(_)));
                    let next = reads.clone().next().unwrap_or(expected);
                    check_state(line, len, next, &ends, &descriptors, &at);
                }
                let last = line.reads.last().expect("there is always an answer");
                assert_eq!(was_read(reader.try_read()), *last, "{at}");
            }
            for timeout in [NOT_AT_ALL, TINY] {
                let (ends, descriptors) = arrive(line, made);
                if let Some(reader) = &ends.reader {
                    line.reads
                        .iter()
                        .for_each(|read| assert_eq!(was_read(reader.read(timeout)), *read, "{at}"));
                    let last = line.reads.last().expect("there is always an answer");
                    check_state(line, 0, last, &ends, &descriptors, &at);
                }
            }
            for timeout in [None, NOT_AT_ALL, TINY] {
                let (ends, descriptors) = arrive(line, made);
                let Some(writer) = &ends.writer else { continue };
                let result = match timeout {
                    None => writer.try_write(9),
                    timeout => writer.write(9, timeout),
                };
                assert_eq!(written(9, result), line.write, "{at}");
                let (len, read) =
                    if line.write == Done { (line.len + 1, &Message(9)) } else { (line.len, &line.reads[0]) };
                check_state(line, len, read, &ends, &descriptors, &at);
            }
        }
    }
}

#[test]
fn first_end_decides_and_only_closing_the_reading_end_comes_after() {
    for line in TABLE.iter().filter(|line| line.ended) {
        let at = format!("after {:?}", line.acts);
        let (ends, descriptors) = arrive(line, Made::Early);
        if let Some(writer) = &ends.writer {
            writer.finish();
            writer.close();
            assert!(!writer.close_because("another"), "{at}");
        }
        if let Some(reader) = &ends.reader {
            assert!(!reader.close_because("another"), "{at}");
        }
        check_state(line, line.len, &line.reads[0], &ends, &descriptors, &at);
        if let Some(writer) = &ends.writer {
            assert_eq!(written(9, writer.write(9, None)), line.write, "{at}");
        }
        let Some(reader) = &ends.reader else { continue };
        reader.close();
        reader.close();
        check_state(line, 0, &Closed, &ends, &descriptors, &at);
        assert_eq!(was_read(reader.read(None)), Closed, "{at}");
        if let Some(writer) = &ends.writer {
            assert_eq!(written(9, writer.write(9, None)), line.write, "{at}");
        }
    }
    // Not ended yet: it is the reason that counts, and it is kept.
    let (writer, reader) = new::<u32>(1);
    assert!(reader.close_because("enough"));
    assert!(!writer.close_because("another"));
    assert_eq!(writer.reason().expect("it was given").to_string(), "enough");
}

#[test]
fn capacity_is_kept_to() {
    for capacity in [1, 2, 3, 4, 7, 8, 64, 1_000] {
        let (writer, reader) = new(capacity);
        assert_eq!((writer.capacity(), reader.capacity()), (capacity, capacity));
        // Around the slots more than once, from every place.
        for round in 0..capacity.min(9) + 2 {
            for number in 0..capacity {
                assert_eq!(writer.len(), number);
                writer.try_write((round, number)).expect("there is room");
            }
            assert_eq!(reader.len(), capacity);
            let error = writer.try_write((0, 0)).expect_err("there is no room");
            assert!(matches!(error.error, PipeError::WouldBlock), "{error}");
            for number in 0..capacity {
                assert_eq!(reader.try_read().expect("there is a message"), Some((round, number)));
            }
            assert!(matches!(reader.try_read(), Err(PipeError::WouldBlock)));
            // The next round begins one place further.
            writer.try_write((round, 0)).expect("there is room");
            reader.try_read().expect("there is a message");
        }
    }
}

#[test]
fn capacity_that_cannot_be_is_refused() {
    for capacity in [0, usize::MAX, usize::MAX / 4 + 1, usize::MAX / 4, usize::MAX / 8] {
        assert!(matches!(pipe::<u8>(capacity), Err(PipeError::Capacity(told)) if told == capacity));
    }
}

/// Two readers of an empty pipe and two writers to a full one are asleep.
#[test]
fn every_end_wakes_everyone_who_sleeps() {
    for end in ENDS {
        for timed in [None, LONG, None, LONG, None, LONG] {
            let mut ends = Ends::new(1);
            let sleeping = Ends {
                writer: (end != Do::DropWriters).then(|| ends.writer().clone()),
                reader: (end != Do::DropReaders).then(|| ends.reader().clone()),
            };
            let reason = matches!(end, Do::WriterBecause | Do::ReaderBecause);
            if let Some(reader) = &sleeping.reader {
                thread::scope(|scope| {
                    let readers =
                        [None, timed].map(|time| sleeper(scope, move || was_read(reader.read(time))));
                    ends.act(end);
                    let expected = match end {
                        Do::CloseReader => Closed,
                        _ if reason => Because,
                        _ => End,
                    };
                    readers.into_iter().for_each(|reader| assert_eq!(join(reader), expected, "{end:?}"));
                });
            }
            drop(sleeping);
            let mut ends = Ends::new(1);
            ends.act(Do::Write(1));
            if end == Do::DropWriters {
                continue;
            }
            let writer = ends.writer().clone();
            thread::scope(|scope| {
                let writer = &writer;
                let writers =
                    [None, timed].map(|time| sleeper(scope, move || written(2, writer.write(2, time))));
                ends.act(end);
                let expected = match end {
                    Do::Finish => Finished,
                    _ if reason => Because,
                    _ => Closed,
                };
                writers.into_iter().for_each(|writer| assert_eq!(join(writer), expected, "{end:?}"));
            });
        }
    }
}

#[test]
fn two_messages_wake_two_readers_and_two_places_two_writers() {
    for _ in 0..200 {
        let (writer, reader) = new(2);
        thread::scope(|scope| {
            let readers = [None, LONG].map(|timeout| {
                let reader = &reader;
                sleeper(scope, move || was_read(reader.read(timeout)))
            });
            writer.try_write(1).expect("there is room");
            writer.try_write(2).expect("a reader may sleep still, but there is room");
            let mut messages = readers.map(join);
            messages.sort_by_key(|message| *message == Message(2));
            assert_eq!(messages, [Message(1), Message(2)]);
        });
        writer.try_write(3).expect("there is room");
        writer.try_write(4).expect("there is room");
        thread::scope(|scope| {
            let writers = [(5, None), (6, LONG)].map(|(message, timeout)| {
                let writer = &writer;
                sleeper(scope, move || written(message, writer.write(message, timeout)))
            });
            assert_eq!(was_read(reader.try_read()), Message(3));
            assert_eq!(was_read(reader.try_read()), Message(4));
            writers.into_iter().for_each(|writer| assert_eq!(join(writer), Done));
        });
    }
}

/// One message and the end: one gets the one, the other the other.
#[test]
fn message_and_end_in_quick_succession_wake_both() {
    for _ in 0..200 {
        let (writer, reader) = new(1);
        thread::scope(|scope| {
            let readers = [(); 2].map(|()| {
                let reader = &reader;
                sleeper(scope, move || was_read(reader.read(None)))
            });
            writer.try_write(1).expect("there is room");
            writer.finish();
            let mut said = readers.map(join);
            said.sort_by_key(|said| *said == End);
            assert_eq!(said, [Message(1), End]);
        });
    }
}

#[test]
fn timeout_waits_at_least_as_long_and_loses_nothing() {
    let (writer, reader) = new(1);
    for timeout in [0, 1, 999, 5_000, 20_000].map(Duration::from_micros) {
        let start = Instant::now();
        assert!(matches!(reader.read(Some(timeout)), Err(PipeError::TimedOut)));
        assert!(start.elapsed() >= timeout);
        writer.write(1, Some(timeout)).expect("there is room");
        let start = Instant::now();
        let error = writer.write(2, Some(timeout)).expect_err("there is no room");
        assert!(start.elapsed() >= timeout);
        assert!(matches!(error, WriteError { error: PipeError::TimedOut, message: 2 }));
        assert_eq!(was_read(reader.read(Some(timeout))), Message(1));
        assert!(reader.is_empty());
    }
    writer.write(3, Some(Duration::MAX)).expect("there is room");
    assert_eq!(was_read(reader.read(Some(Duration::MAX))), Message(3));
}

/// Times that are over just when somebody is woken: the message is got by him, or by the next.
#[test]
fn message_that_comes_as_the_time_is_over_is_not_lost() {
    for round in 0..300_u32 {
        let (writer, reader) = new(1);
        thread::scope(|scope| {
            let timed = Some(Duration::from_micros(u64::from(round)));
            let readers = [timed, None].map(|timeout| {
                let reader = &reader;
                scope.spawn(move || was_read(reader.read(timeout)))
            });
            let [first, second] = readers;
            writer.write(1, None).expect("nobody closes the pipe");
            if join(first) == Wait {
                assert_eq!(join(second), Message(1));
            } else {
                writer.write(2, None).expect("nobody closes the pipe");
                assert_eq!(join(second), Message(2));
            }
        });
    }
}

/// SplitMix64.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() >> 33).expect("31 bits") % limit
    }
}

/// A pipe as the documentation describes it, for one thread.
#[derive(Default)]
struct Model {
    capacity: usize,
    queue: VecDeque<u32>,
    fate: Option<Says>,
    reader_closed: bool,
}

impl Model {
    fn write(&mut self, message: u32) -> Says {
        match &self.fate {
            Some(fate) => fate.clone(),
            None if self.queue.len() == self.capacity => Wait,
            None => {
                self.queue.push_back(message);
                Done
            }
        }
    }

    fn read(&mut self) -> Says {
        match self.queue.pop_front() {
            _ if self.reader_closed => Closed,
            Some(message) => Message(message),
            None => match &self.fate {
                Some(Because) => Because,
                Some(_) => End,
                None => Wait,
            },
        }
    }

    fn end(&mut self, fate: Says) {
        self.fate.get_or_insert(fate);
    }

    fn close_reader(&mut self) {
        self.end(Closed);
        self.reader_closed = true;
        self.queue.clear();
    }

    fn is_readable(&self) -> bool {
        self.fate.is_some() || !self.queue.is_empty()
    }

    fn is_writable(&self) -> bool {
        self.fate.is_some() || self.queue.len() < self.capacity
    }
}

/// Calls, and how many are expected.
#[derive(Default)]
struct Calls {
    counted: Arc<AtomicUsize>,
    expected: usize,
    on: bool,
}

impl Calls {
    /// A function that counts its calls from now on, in the place of the one before, which is called no more.
    fn renew(&mut self) -> Box<dyn Fn() + Send + Sync> {
        let counted = Arc::new(AtomicUsize::new(0));
        *self = Calls { counted: Arc::clone(&counted), expected: 0, on: true };
        Box::new(move || {
            counted.fetch_add(1, Ordering::Relaxed);
        })
    }

    fn expect(&mut self, before: bool, after: bool) {
        self.expected += usize::from(self.on && !before && after);
    }

    fn check(&self) {
        assert_eq!(self.counted.load(Ordering::Relaxed), self.expected);
    }
}

#[test]
fn descriptors_and_functions_are_true_after_every_operation() {
    for seed in 0..600 {
        let mut numbers = Numbers(seed);
        let capacity = [1, 2, 3, 5][numbers.below(4)];
        let (writer, reader) = new(capacity);
        let (mut writers, mut readers) = (vec![writer], vec![reader]);
        let mut model = Model { capacity, ..Model::default() };
        let (mut reading, mut writing) = (None::<Descriptor>, None::<Descriptor>);
        let (mut when_readable, mut when_writable) = (Calls::default(), Calls::default());
        let made = "there are descriptors left";
        for step in 0..120 {
            let (was_readable, was_writable) = (model.is_readable(), model.is_writable());
            let writer = (!writers.is_empty()).then(|| numbers.below(writers.len()));
            let reader = (!readers.is_empty()).then(|| numbers.below(readers.len()));
            match (numbers.below(100), writer, reader) {
                (0..38, Some(at), _) => {
                    let result = if numbers.below(4) == 0 {
                        writers[at].write(step, NOT_AT_ALL)
                    } else {
                        writers[at].try_write(step)
                    };
                    assert_eq!(written(step, result), model.write(step));
                }
                (38..76, _, Some(at)) => {
                    let result = if numbers.below(4) == 0 {
                        readers[at].read(NOT_AT_ALL)
                    } else {
                        readers[at].try_read()
                    };
                    assert_eq!(was_read(result), model.read());
                }
                (76..78, Some(at), _) => writers.push(writers[at].clone()),
                (78..80, _, Some(at)) => readers.push(readers[at].clone()),
                (80..82, Some(at), _) if writers.len() > 1 || step > 60 => {
                    drop(writers.swap_remove(at));
                    if writers.is_empty() {
                        model.end(Closed);
                    }
                }
                (82..84, _, Some(at)) if readers.len() > 1 || step > 60 => {
                    drop(readers.swap_remove(at));
                    if readers.is_empty() {
                        model.close_reader();
                    }
                }
                (84, Some(at), _) if step > 40 => match numbers.below(3) {
                    0 => {
                        writers[at].finish();
                        model.end(Finished);
                    }
                    1 => {
                        writers[at].close();
                        model.end(Closed);
                    }
                    _ => {
                        assert_eq!(writers[at].close_because("enough"), model.fate.is_none());
                        model.end(Because);
                    }
                },
                (85, _, Some(at)) if step > 40 => {
                    if numbers.below(2) == 0 {
                        readers[at].close();
                        model.close_reader();
                    } else {
                        assert_eq!(readers[at].close_because("enough"), model.fate.is_none());
                        model.end(Because);
                    }
                }
                (86..89, _, Some(at)) => reading = Some(readers[at].descriptor().expect(made)),
                (89..92, Some(at), _) => writing = Some(writers[at].descriptor().expect(made)),
                (92..94, _, Some(at)) => readers[at].set_notify(Some(when_readable.renew())),
                (94..96, Some(at), _) => writers[at].set_notify(Some(when_writable.renew())),
                (96, _, Some(at)) => {
                    readers[at].set_notify(None);
                    when_readable.on = false;
                }
                (97, Some(at), _) => {
                    writers[at].set_notify(None);
                    when_writable.on = false;
                }
                _ => {}
            }
            when_readable.expect(was_readable, model.is_readable());
            when_writable.expect(was_writable, model.is_writable());
            when_readable.check();
            when_writable.check();
            if let Some(fd) = &reading {
                assert_eq!(is_readable(fd), model.is_readable(), "seed {seed}, step {step}");
            }
            if let Some(fd) = &writing {
                assert_eq!(is_writable(fd), model.is_writable(), "seed {seed}, step {step}");
            }
            for len in readers.iter().map(Reader::len).chain(writers.iter().map(Writer::len)) {
                assert_eq!(len, model.queue.len());
            }
        }
    }
}

#[test]
fn descriptor_is_the_same_one_each_time() {
    let (writer, reader) = new::<u8>(1);
    let number =
        |fd: Result<Descriptor, PipeError>| fd.expect("there are descriptors left").as_fd().as_raw_fd();
    let (reading, writing) = (number(reader.descriptor()), number(writer.descriptor()));
    assert_ne!(reading, writing);
    assert_eq!(
        (number(reader.clone().descriptor()), number(writer.clone().descriptor())),
        (reading, writing)
    );
    writer.close();
    assert_eq!((number(reader.descriptor()), number(writer.descriptor())), (reading, writing));
}

fn descriptors_work_in<P: Poller>() {
    let poller = P::new().expect("an empty set can be made");
    let (writer, reader) = new(1);
    let made = "there are descriptors left";
    poller.add(1, Arc::new(reader.descriptor().expect(made)), Interest::READ).expect("the key is free");
    poller.add(2, Arc::new(writer.descriptor().expect(made)), Interest::WRITE).expect("the key is free");
    let ready = |timeout| {
        let mut events = Vec::new();
        poller.wait(&mut events, timeout).expect("waiting does not fail");
        let mut keys: Vec<_> = events.iter().map(|event| (event.key, event.ready)).collect();
        keys.sort_unstable_by_key(|(key, _)| *key);
        keys
    };
    for _ in 0..3 {
        assert_eq!(ready(None), [(2, Ready::WRITE)]);
        writer.try_write(1).expect("there is room");
        assert_eq!(ready(None), [(1, Ready::READ)]);
        assert_eq!(ready(None), [(1, Ready::READ)], "it is a state");
        assert_eq!(was_read(reader.try_read()), Message(1));
        assert_eq!(ready(NOT_AT_ALL), [(2, Ready::WRITE)]);
    }
    // One that sleeps in the poller is woken by a message, and by the end.
    poller.modify(2, Interest::NONE).expect("the key is known");
    thread::scope(|scope| {
        let waiter = sleeper(scope, || ready(None));
        writer.try_write(2).expect("there is room");
        assert_eq!(join(waiter), [(1, Ready::READ)]);
        assert_eq!(was_read(reader.try_read()), Message(2));
        let waiter = sleeper(scope, || ready(None));
        writer.finish();
        assert_eq!(join(waiter), [(1, Ready::READ)]);
    });
    poller.modify(2, Interest::WRITE).expect("the key is known");
    drop((reader, writer));
    assert_eq!(ready(None), [(1, Ready::READ), (2, Ready::WRITE)], "for ever");
}

#[test]
fn descriptors_work_in_every_poller() {
    descriptors_work_in::<Poll>();
    descriptors_work_in::<Select>();
    descriptors_work_in::<Epoll>();
}

/// How many descriptors a thread has open that shares its table with nobody.
fn census() -> usize {
    std::fs::read_dir("/proc/thread-self/fd").expect("/proc is there").count()
}

#[test]
fn descriptors_are_made_when_asked_for_and_closed_with_the_pipe() {
    let alone = || {
        // SAFETY: this thread takes no descriptor from others, gives none to them, and ends soon.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FILES) }
            .expect("everybody may");
        let none = census();
        let (writer, reader) = new(2);
        thread::scope(|scope| {
            // All that threads do with it.
            let waiter = sleeper(scope, || was_read(reader.read(None)));
            writer.write(1, None).expect("there is room");
            assert_eq!(join(waiter), Message(1));
        });
        assert_eq!(was_read(reader.read(TINY)), Wait);
        reader.set_notify(Some(Box::new(|| ())));
        writer.set_notify(Some(Box::new(|| ())));
        writer.write(1, NOT_AT_ALL).expect("there is room");
        assert_eq!(census(), none, "nobody has asked for a descriptor");
        let reading = reader.descriptor().expect("there are descriptors left");
        assert_eq!(census(), none + 1, "the one that was asked for");
        let writing = writer.descriptor().expect("there are descriptors left");
        let _ = (reader.descriptor(), writer.clone().descriptor());
        assert_eq!(census(), none + 2);
        for fd in [&reading, &writing] {
            let flags = rustix::io::fcntl_getfd(fd).expect("it is open");
            assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        }
        drop((reading, writing));
        writer.finish();
        drop(writer);
        assert_eq!(census(), none + 2, "the pipe is there");
        drop(reader);
        assert_eq!(census(), none);
        // Who holds a descriptor keeps it, and it stays true.
        let (writer, reader) = new::<u8>(1);
        let reading = reader.descriptor().expect("there are descriptors left");
        drop((writer, reader));
        assert_eq!(census(), none + 1);
        assert!(is_readable(&reading));
        drop(reading);
        assert_eq!(census(), none);
    };
    thread::spawn(alone).join().expect("all is as it should be");
}

/// The child has a copy of the pipe, and the same descriptors.
#[test]
fn forked_child_does_not_touch_the_descriptors() {
    let (writer, reader) = new(1);
    let made = "there are descriptors left";
    let (reading, writing) = (reader.descriptor().expect(made), writer.descriptor().expect(made));
    for written in [false, true] {
        if written {
            writer.try_write(1).expect("there is room");
        }
        // SAFETY: the child uses this pipe only, which no other thread has, and then leaves.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let _ = (writer.try_write(2), reader.try_read());
            reader.close();
            // SAFETY: ends the process, without the destructors that are the parent's.
            unsafe { libc::_exit(0) };
        }
        let child = rustix::process::Pid::from_raw(child).expect("there is a child");
        rustix::process::waitpid(Some(child), rustix::process::WaitOptions::empty())
            .expect("it is our child");
        assert_eq!((is_readable(&reading), is_writable(&writing)), (written, !written));
    }
    assert_eq!(was_read(reader.try_read()), Message(1));
}

#[test]
fn function_is_called_by_the_thread_that_makes_it_so() {
    let (writer, reader) = new(1);
    let callers = Arc::new(Mutex::new(Vec::new()));
    let note = |word: &'static str| {
        let callers = Arc::clone(&callers);
        Some(Box::new(move || callers.lock().expect("nobody panics").push((word, thread::current().id())))
            as Box<dyn Fn() + Send + Sync>)
    };
    reader.set_notify(note("readable"));
    writer.set_notify(note("writable"));
    assert_eq!(*callers.lock().expect("nobody panics"), [], "it is so already, or is not so");
    let here = thread::current().id();
    let there = thread::scope(|scope| {
        let writing = scope.spawn(|| {
            writer.write(1, None).expect("there is room");
            thread::current().id()
        });
        join(writing)
    });
    assert_eq!(was_read(reader.read(None)), Message(1));
    writer.finish();
    let expected = [("readable", there), ("writable", here), ("readable", here)];
    assert_eq!(*callers.lock().expect("nobody panics"), expected, "a writable pipe stays so at the end");
}

#[test]
fn function_is_called_once_for_every_end() {
    for end in ENDS {
        for full in [false, true] {
            let mut ends = Ends::new(1);
            let (mut readable, mut writable) = (Calls::default(), Calls::default());
            ends.reader().set_notify(Some(readable.renew()));
            ends.writer().set_notify(Some(writable.renew()));
            if full {
                ends.act(Do::Write(1));
                readable.expected += 1;
            }
            ends.act(end);
            readable.expected += usize::from(!full);
            writable.expected += usize::from(full);
            readable.check();
            writable.check();
            // It has ended: nothing changes any more.
            if let Some(reader) = &ends.reader {
                let _ = reader.try_read();
                reader.close();
            }
            readable.check();
            writable.check();
        }
    }
}

#[test]
fn function_may_use_the_pipe_and_replace_itself() {
    let (writer, reader) = new(1);
    let read = Arc::new(Mutex::new(Vec::new()));
    // Reads what there is, and looks at everything.
    let (own, into) = (reader.clone(), Arc::clone(&read));
    reader.set_notify(Some(Box::new(move || {
        let _ = (own.len(), own.reason(), own.has_ended(), own.descriptor().is_ok());
        into.lock().expect("nobody panics").push(was_read(own.try_read()));
    })));
    (0..3).for_each(|message| writer.try_write(message).expect("the function makes room"));
    assert_eq!(*read.lock().expect("nobody panics"), [0, 1, 2].map(Message));

    // Takes itself away, with all that it owns, while it is running.
    let (own, owned) = (reader.clone(), Arc::new(()));
    let held = Arc::clone(&owned);
    reader.set_notify(Some(Box::new(move || {
        own.set_notify(None);
        assert_eq!(Arc::strong_count(&held), 2);
    })));
    writer.try_write(3).expect("there is room");
    assert_eq!(Arc::strong_count(&owned), 1, "it is gone");
    assert_eq!(was_read(reader.try_read()), Message(3));
    writer.try_write(4).expect("there is room");
    assert_eq!(was_read(reader.try_read()), Message(4));

    // Puts another in its place.
    let (own, calls) = (reader.clone(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&calls);
    reader.set_notify(Some(Box::new(move || {
        let (own_again, counted) = (own.clone(), Arc::clone(&counted));
        own.set_notify(Some(Box::new(move || {
            counted.fetch_add(1, Ordering::Relaxed);
            own_again.set_notify(None);
        })));
    })));
    for expected in [0, 1, 1] {
        writer.try_write(5).expect("there is room");
        assert_eq!(calls.load(Ordering::Relaxed), expected);
        assert_eq!(was_read(reader.try_read()), Message(5));
    }

    // Ends the pipe.
    let own = reader.clone();
    writer.set_notify(Some(Box::new(move || own.close())));
    writer.try_write(6).expect("there is room");
    assert_eq!(was_read(reader.try_read()), Message(6));
    assert_eq!(was_read(reader.try_read()), Closed);
    writer.set_notify(None);
}

/// A message of any size that counts how many there are.
struct Counted<const SIZE: usize> {
    alive: Arc<AtomicUsize>,
    _load: [u8; SIZE],
}

impl<const SIZE: usize> Counted<SIZE> {
    fn new(alive: &Arc<AtomicUsize>) -> Counted<SIZE> {
        alive.fetch_add(1, Ordering::Relaxed);
        Counted { alive: Arc::clone(alive), _load: [7; SIZE] }
    }
}

impl<const SIZE: usize> Drop for Counted<SIZE> {
    fn drop(&mut self) {
        assert_eq!(self._load, [7; SIZE]);
        assert!(self.alive.fetch_sub(1, Ordering::Relaxed) > 0, "a message is dropped twice");
    }
}

fn messages_are_dropped_once<const SIZE: usize>(capacity: usize) {
    let alive = Arc::new(AtomicUsize::new(0));
    let count = || alive.load(Ordering::Relaxed);
    let filled = |messages: usize| {
        let (writer, reader) = new(capacity);
        // From the last place on, around the corner.
        for _ in 0..capacity - 1 {
            drop((writer.try_write(Counted::<SIZE>::new(&alive)), reader.try_read()));
        }
        for _ in 0..messages {
            writer.try_write(Counted::new(&alive)).expect("there is room");
        }
        assert_eq!(count(), messages);
        (writer, reader)
    };
    for messages in [0, 1, capacity / 2, capacity - 1, capacity] {
        let (writer, reader) = filled(messages);
        reader.close();
        assert_eq!(count(), 0, "the reading end is closed");
        drop((writer, reader));

        let (writer, reader) = filled(messages);
        drop(reader);
        assert_eq!(count(), 0, "the reading end is dropped");
        let refused = writer.try_write(Counted::new(&alive)).expect_err("nobody reads");
        assert_eq!(count(), 1);
        drop((refused, writer));
        assert_eq!(count(), 0);

        let (writer, reader) = filled(messages);
        writer.finish();
        let refused = writer.write(Counted::new(&alive), None).expect_err("it is finished");
        assert_eq!(count(), messages + 1, "what is refused is given back");
        drop((refused, writer));
        assert_eq!(count(), messages, "what was written stays");
        drop(reader.read(None));
        assert_eq!(count(), messages.saturating_sub(1), "what was read is the reader's");
        drop(reader);
        assert_eq!(count(), 0);
    }
}

#[test]
fn messages_of_all_sizes_are_dropped_once() {
    for capacity in [1, 2, 3, 64, 1_000] {
        messages_are_dropped_once::<0>(capacity);
        messages_are_dropped_once::<1_024>(capacity);
    }
    static ALIVE: AtomicUsize = AtomicUsize::new(0);
    struct Nothing;
    impl Drop for Nothing {
        fn drop(&mut self) {
            ALIVE.fetch_sub(1, Ordering::Relaxed);
        }
    }
    assert_eq!(size_of::<Nothing>(), 0);
    let (writer, reader) = new(3);
    for _ in 0..3 {
        ALIVE.fetch_add(1, Ordering::Relaxed);
        writer.try_write(Nothing).expect("there is room");
    }
    assert_eq!(reader.len(), 3);
    drop(reader.try_read());
    assert_eq!(ALIVE.load(Ordering::Relaxed), 2);
    drop((writer, reader));
    assert_eq!(ALIVE.load(Ordering::Relaxed), 0);
}

/// A message may hold an end of its own pipe.
#[test]
fn message_may_be_an_end_of_the_pipe() {
    struct Own {
        _writer: Writer<Own>,
        _held: Arc<()>,
    }
    let (writer, reader) = new(2);
    let held = Arc::new(());
    let own = Own { _writer: writer.clone(), _held: Arc::clone(&held) };
    assert!(writer.try_write(own).is_ok());
    drop(writer);
    drop(reader);
    assert_eq!(Arc::strong_count(&held), 1);
}

/// Raised by every operation that ends.
static PROGRESS: AtomicU64 = AtomicU64::new(0);

fn progress() {
    PROGRESS.fetch_add(1, Ordering::Relaxed);
}

type Torn = (usize, usize, Counted<8>);

struct Round {
    capacity: usize,
    writers: usize,
    readers: usize,
    /// Whether some poll, and not wait in a call.
    polls: bool,
    notifies: bool,
    each: usize,
}

/// Writes in all ways until the end; returns how many messages were accepted.
fn tortured_writer(
    writer: &Writer<Torn>,
    of: usize,
    round: &Round,
    alive: &Arc<AtomicUsize>,
    mut numbers: Numbers,
) -> usize {
    let mut next = 0;
    while next < round.each {
        let message = (of, next, Counted::new(alive));
        let result = match numbers.below(if round.polls { 4 } else { 3 }) {
            0 => writer.try_write(message),
            1 => writer.write(message, Some(Duration::from_micros(numbers.next() % 64))),
            2 => writer.write(message, None),
            _ => {
                let fd = writer.descriptor().expect("there are descriptors left");
                is_so(&fd, PollFlags::OUT, None);
                let result = writer.try_write(message);
                let waits = matches!(&result, Err(error) if matches!(error.error, PipeError::WouldBlock));
                assert!(!waits || round.writers > 1, "the descriptor has said that there is room");
                result
            }
        };
        progress();
        match result {
            Ok(()) => next += 1,
            Err(WriteError { error, message: (whose, number, _) }) => {
                assert_eq!((whose, number), (of, next), "what is refused comes back");
                match error {
                    PipeError::WouldBlock | PipeError::TimedOut => {}
                    PipeError::Finished | PipeError::Closed | PipeError::Because(_) => break,
                    error => panic!("{error}"),
                }
            }
        }
    }
    next
}

/// Reads in all ways until the end, or until it is told to stop.
fn tortured_reader(
    reader: &Reader<Torn>,
    round: &Round,
    stop: &AtomicBool,
    mut numbers: Numbers,
) -> Vec<(usize, usize)> {
    let mut messages = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let result = match numbers.below(if round.polls { 4 } else { 3 }) {
            0 => reader.try_read(),
            1 => reader.read(Some(Duration::from_micros(numbers.next() % 64))),
            2 => reader.read(None),
            _ => {
                let fd = reader.descriptor().expect("there are descriptors left");
                is_so(&fd, PollFlags::IN, None);
                let result = reader.try_read();
                let waits = matches!(result, Err(PipeError::WouldBlock));
                assert!(!waits || round.readers > 1, "the descriptor has said that there is a message");
                result
            }
        };
        progress();
        match result {
            Ok(Some((of, number, _))) => messages.push((of, number)),
            Err(PipeError::WouldBlock | PipeError::TimedOut) => {}
            Ok(None) | Err(PipeError::Closed | PipeError::Because(_)) => break,
            Err(error) => panic!("{error}"),
        }
    }
    messages
}

fn torture(seed: u64) {
    let mut numbers = Numbers(seed);
    let round = Round {
        capacity: [1, 2, 3, 64][numbers.below(4)],
        writers: 1 + numbers.below(3),
        readers: 1 + numbers.below(3),
        polls: numbers.below(2) == 0,
        notifies: numbers.below(2) == 0,
        each: [10, 100, 1_000][numbers.below(3)],
    };
    let end = [None, Some(ENDS[numbers.below(ENDS.len())])][numbers.below(2)];
    let alive = Arc::new(AtomicUsize::new(0));
    let (writer, reader) = new::<Torn>(round.capacity);
    if round.notifies {
        reader.set_notify(Some(Box::new(progress)));
        writer.set_notify(Some(Box::new(progress)));
    }
    let mut stops = Vec::new();
    let (accepted, read) = thread::scope(|scope| {
        let (round, alive) = (&round, &alive);
        let writers: Vec<_> = (0..round.writers)
            .map(|of| {
                let (writer, numbers) = (writer.clone(), Numbers(numbers.next()));
                scope.spawn(move || tortured_writer(&writer, of, round, alive, numbers))
            })
            .collect();
        let readers: Vec<_> = (0..round.readers)
            .map(|_| {
                let (reader, numbers, stop) =
                    (reader.clone(), Numbers(numbers.next()), Arc::new(AtomicBool::new(false)));
                stops.push(Arc::clone(&stop));
                scope.spawn(move || tortured_reader(&reader, round, &stop, numbers))
            })
            .collect();
        // At a random moment, unless all is over before.
        let moment = PROGRESS.load(Ordering::Relaxed) + numbers.next() % 3_000;
        while end.is_some()
            && PROGRESS.load(Ordering::Relaxed) < moment
            && !writers.iter().all(|writer| writer.is_finished())
        {
            thread::yield_now();
        }
        match end {
            Some(Do::Finish) => writer.finish(),
            Some(Do::CloseWriter) => writer.close(),
            Some(Do::CloseReader) => reader.close(),
            Some(Do::WriterBecause) => drop(writer.close_because("enough")),
            Some(Do::ReaderBecause) => drop(reader.close_because("enough")),
            Some(Do::DropReaders) => stops.iter().for_each(|stop| stop.store(true, Ordering::Relaxed)),
            _ => {}
        }
        drop((writer, reader));
        let accepted: Vec<_> = writers.into_iter().map(join).collect();
        (accepted, readers.into_iter().map(join).collect::<Vec<_>>())
    });
    for messages in &read {
        let mut next = vec![0; round.writers];
        for (of, number) in messages {
            assert!(*number >= next[*of], "seed {seed}: a reader gets a writer's messages in their order");
            next[*of] = number + 1;
        }
    }
    let mut all: Vec<_> = read.into_iter().flatten().collect();
    let count = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), count, "seed {seed}: a message was read twice");
    let written: usize = accepted.iter().sum();
    assert!(all.iter().all(|(of, number)| *number < accepted[*of]), "seed {seed}: read what was refused");
    if !matches!(end, Some(Do::CloseReader | Do::DropReaders)) {
        assert_eq!(count, written, "seed {seed}: a message was lost");
    }
    assert_eq!(alive.load(Ordering::Relaxed), 0, "seed {seed}: a message was not dropped");
}

#[test]
fn nothing_is_lost_and_nobody_hangs_under_torture() {
    let seconds = std::env::var("MANYCORE_TORTURE_SECONDS")
        .map_or(5, |text| text.parse().expect("MANYCORE_TORTURE_SECONDS is a number"));
    let seed = AtomicU64::new(0);
    let (over, is_over) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(|| {
            let is_over = is_over;
            let mut seen = u64::MAX;
            while is_over.recv_timeout(Duration::from_secs(60)) == Err(mpsc::RecvTimeoutError::Timeout) {
                let now = PROGRESS.load(Ordering::Relaxed);
                if now == seen {
                    eprintln!("seed {}: everybody hangs", seed.load(Ordering::Relaxed));
                    std::process::abort();
                }
                seen = now;
            }
        });
        let over = over;
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(seconds) {
            torture(seed.fetch_add(1, Ordering::Relaxed) + 1);
        }
        drop(over);
    });
}

/// Without a report.
fn panic_quietly() {
    std::panic::resume_unwind(Box::new(()))
}

/// A function that panics does so in the call that has made it so, when everyone is told.
#[test]
fn panicking_function_keeps_nobody_asleep_and_no_descriptor_false() {
    let panics = |act: &dyn Fn()| {
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(act)).is_err());
    };
    let quiet = || Some(Box::new(panic_quietly) as Box<dyn Fn() + Send + Sync>);
    let made = "there are descriptors left";
    let (writer, reader) = new(1);
    let (reading, writing) = (reader.descriptor().expect(made), writer.descriptor().expect(made));
    reader.set_notify(quiet());
    panics(&|| drop(writer.try_write(1)));
    assert_eq!((is_readable(&reading), is_writable(&writing)), (true, false), "it was written");
    writer.set_notify(quiet());
    panics(&|| drop(reader.try_read()));
    assert_eq!((is_readable(&reading), is_writable(&writing)), (false, true), "it was read");

    // The end is told to those who sleep at the other side, and to the other function.
    writer.set_notify(None);
    reader.set_notify(None);
    for close in [Reader::close, |reader: &Reader<u32>| assert!(reader.close_because("enough"))] {
        let (writer, reader) = new(1);
        let calls = Arc::new(AtomicUsize::new(0));
        thread::scope(|scope| {
            reader.set_notify(quiet());
            let counted = Arc::clone(&calls);
            writer.set_notify(Some(Box::new(move || {
                counted.fetch_add(1, Ordering::Relaxed);
            })));
            let readers = [(); 2].map(|()| {
                let reader = &reader;
                sleeper(scope, move || was_read(reader.read(None)))
            });
            panics(&|| close(&reader));
            readers.into_iter().for_each(|reader| assert!(matches!(join(reader), Closed | Because)));
        });
        assert_eq!(calls.load(Ordering::Relaxed), 0, "it was writable before");

        let (writer, reader) = new(1);
        writer.try_write(1).expect("there is room");
        writer.set_notify(quiet());
        thread::scope(|scope| {
            let sleeping = sleeper(scope, || writer.write(2, None).is_err());
            panics(&|| close(&reader));
            assert!(join(sleeping));
        });
    }
}

/// The rest are dropped all the same, and the end is closed.
#[test]
fn message_that_panics_when_dropped_keeps_no_other() {
    struct Panics(bool, #[allow(dead_code, reason = "it is counted who owns it")] Arc<()>);
    impl Drop for Panics {
        fn drop(&mut self) {
            if self.0 {
                panic_quietly();
            }
        }
    }
    type Way = fn(Writer<Panics>, Reader<Panics>) -> Option<Reader<Panics>>;
    let ways: [Way; 3] = [
        |_, reader| {
            let close = std::panic::AssertUnwindSafe(|| reader.close());
            assert!(std::panic::catch_unwind(close).is_err());
            Some(reader)
        },
        |_, reader| {
            let drops = std::panic::AssertUnwindSafe(|| drop(reader));
            assert!(std::panic::catch_unwind(drops).is_err());
            None
        },
        |writer, reader| {
            writer.finish();
            let drops = std::panic::AssertUnwindSafe(|| drop((writer, reader)));
            assert!(std::panic::catch_unwind(drops).is_err());
            None
        },
    ];
    for way in ways {
        let held = Arc::new(());
        let (writer, reader) = new(4);
        for panics in [false, true, false, false] {
            assert!(writer.try_write(Panics(panics, Arc::clone(&held))).is_ok());
        }
        let reader = way(writer, reader);
        assert_eq!(Arc::strong_count(&held), 1);
        assert!(reader.is_none_or(|reader| matches!(reader.try_read(), Err(PipeError::Closed))));
    }
}
