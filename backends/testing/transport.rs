//! The conformance suite of [`Transport`]: `transport_conformance!(my_link, MyTransport, encoded)`, or
//! without the last word for a transport that moves values and never encodes them.
//!
//! The suite does not check that a peer's process is killed, nor what strangers write to a descriptor.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{self, Read};
use std::mem;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Barrier, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::transport::{
    BoxError, Endpoint, Limits, Listener, Message, Transport, TransportError, TrySendError,
};

/// A message of any bytes, which are also its encoding. Large ones are not copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note(pub Vec<u8>);

impl Note {
    /// A note that begins with this cannot be encoded.
    pub const UNENCODABLE: &'static [u8] = b"unencodable";
    /// A note that begins with this cannot be decoded.
    pub const UNDECODABLE: &'static [u8] = b"undecodable";

    /// `length` bytes that depend on `seed`.
    pub fn sample(seed: u32, length: usize) -> Note {
        let mut state = seed;
        let next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        Note(std::iter::repeat_with(next).take(length).collect())
    }

    fn number(number: u32) -> Note {
        Note(number.to_le_bytes().to_vec())
    }
}

impl Message for Note {
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), BoxError> {
        out.extend_from_slice(&self.0);
        if self.0.starts_with(Note::UNENCODABLE) { Err("it says so".into()) } else { Ok(()) }
    }

    fn decode(bytes: &[u8]) -> Result<Note, BoxError> {
        if bytes.starts_with(Note::UNDECODABLE) { Err("it says so".into()) } else { Ok(Note(bytes.to_vec())) }
    }

    fn as_bytes(&self) -> Option<&[u8]> {
        (!self.0.starts_with(Note::UNENCODABLE)).then_some(&self.0)
    }

    fn decode_owned(bytes: Vec<u8>) -> Result<Note, BoxError> {
        if bytes.starts_with(Note::UNDECODABLE) { Err("it says so".into()) } else { Ok(Note(bytes)) }
    }
}

type End<T> = <T as Transport>::End<Note, Note>;

const SHORT: Duration = Duration::from_millis(15);
const LARGE: usize = 3 << 20;

fn pair<T: Transport>() -> (End<T>, End<T>) {
    T::pair(Limits::default()).expect("pair")
}

/// Waits for `events`, a hang-up or an error; what is there in the end.
fn wait_for(end: &impl AsFd, events: PollFlags, timeout: Option<Duration>) -> PollFlags {
    let timeout = timeout.map(|timeout| Timespec::try_from(timeout).expect("a short time"));
    let mut fds = [PollFd::new(end, events)];
    while let Err(errno) = poll(&mut fds, timeout.as_ref()) {
        assert_eq!(errno, rustix::io::Errno::INTR, "poll");
    }
    fds[0].revents()
}

fn is_readable(end: &impl AsFd) -> bool {
    wait_for(end, PollFlags::IN, Some(Duration::ZERO)).contains(PollFlags::IN)
}

/// Sends numbers from 0 until the link is full, and returns how many it accepted.
fn fill<T: Transport>(end: &End<T>) -> u32 {
    for number in 0..10_000_000 {
        match end.try_send(Note::number(number)) {
            Ok(()) => {}
            Err(TrySendError::Full(message)) => {
                assert_eq!(message, Note::number(number), "another message was given back");
                return number;
            }
            Err(TrySendError::Failed(error)) => panic!("try_send: {error}"),
        }
    }
    panic!("the link takes messages without bound");
}

/// Receives the numbers `0..count`, pushing on what the other end has left to flush.
fn drain<T: Transport>(from: &End<T>, to: &End<T>, count: u32) {
    for number in 0..count {
        let message = loop {
            match to.try_receive().expect("try_receive") {
                Some(message) => break message,
                None if from.flush().expect("flush") => break to.receive(None).expect("receive"),
                None => {}
            }
        };
        assert_eq!(message, Note::number(number), "out of order");
    }
    assert_eq!(to.try_receive().expect("try_receive"), None);
    assert!(from.flush().expect("flush"), "nothing is left");
}

/// Receives one message by polling, as an event loop does.
fn poll_for_message<T: Transport>(end: &End<T>) -> Result<Note, TransportError> {
    loop {
        if let Some(message) = end.try_receive()? {
            return Ok(message);
        }
        wait_for(end, PollFlags::IN, None);
    }
}

/// Law 1: messages arrive in the order in which they were accepted, in both directions.
pub fn messages_arrive_in_order<T: Transport>() {
    let (left, right) = pair::<T>();
    for round in 0..20 {
        for number in 0..30 {
            left.send(Note::number(round + number), None).expect("send");
            right.try_send(Note::number(round * number)).expect("try_send");
        }
        for number in 0..30 {
            assert_eq!(right.receive(None).expect("receive"), Note::number(round + number));
            assert_eq!(poll_for_message::<T>(&left).expect("receive"), Note::number(round * number));
        }
    }
}

/// Law 1: an empty message is a message.
pub fn empty_messages_are_messages<T: Transport>() {
    let (left, right) = pair::<T>();
    for _ in 0..3 {
        left.send(Note(Vec::new()), None).expect("send");
    }
    left.send(Note(vec![1]), None).expect("send");
    for _ in 0..3 {
        assert_eq!(right.receive(None).expect("receive"), Note(Vec::new()));
    }
    assert_eq!(right.receive(None).expect("receive"), Note(vec![1]));
    assert_eq!(right.try_receive().expect("try_receive"), None);
}

/// Laws 1 and 2: large messages arrive whole, and a send that may wait leaves nothing to flush.
pub fn large_messages_arrive_whole<T: Transport>() {
    let (left, right) = pair::<T>();
    thread::scope(|scope| {
        scope.spawn(|| {
            for seed in 0..3 {
                left.send(Note::sample(seed, LARGE), None).expect("send");
                assert!(left.is_flushed());
                left.send(Note::number(seed), None).expect("send");
            }
        });
        for seed in 0..3 {
            assert!(right.receive(None).expect("receive") == Note::sample(seed, LARGE), "message {seed}");
            assert_eq!(right.receive(None).expect("receive"), Note::number(seed));
        }
    });
}

/// Law 1: messages of sizes between which a transport may draw a line keep their order, in both directions at once, also
/// when they are pushed on by an event loop.
pub fn large_and_small_messages_keep_their_order<T: Transport>() {
    const SIZES: [usize; 12] =
        [0, LARGE, 5, 65_532, 65_535, 65_536, 131_067, 131_068, 131_069, 1, 131_072, 1 << 20];
    let (left, right) = pair::<T>();
    let send_all = |end: &End<T>| {
        for (seed, size) in (0..).zip(SIZES) {
            if seed % 3 == 0 {
                end.send(Note::sample(seed, size), None).expect("send");
                continue;
            }
            let mut note = Note::sample(seed, size);
            while let Err(error) = end.try_send(note) {
                let TrySendError::Full(back) = error else { panic!("try_send: {error}") };
                note = back;
                wait_for(end, PollFlags::OUT, None);
            }
        }
        while !end.flush().expect("flush") {
            wait_for(end, PollFlags::OUT, None);
        }
    };
    let receive_all = |end: &End<T>| {
        for (seed, size) in (0..).zip(SIZES) {
            let note =
                if seed % 2 == 0 { poll_for_message::<T>(end) } else { end.receive(None) }.expect("receive");
            assert!(note == Note::sample(seed, size), "message {seed} of {size} bytes");
        }
        assert_eq!(end.try_receive().expect("try_receive"), None);
    };
    thread::scope(|scope| {
        scope.spawn(|| send_all(&left));
        scope.spawn(|| send_all(&right));
        scope.spawn(|| receive_all(&left));
        receive_all(&right);
    });
}

/// Law 1: messages of several senders do not mix, and keep the order of each sender.
pub fn concurrent_senders_do_not_mix<T: Transport>() {
    const SENDERS: u32 = 4;
    const EACH: u32 = 150;
    fn message(sender: u32, number: u32) -> Note {
        let length = if number % 10 == 0 { 100_000 } else { (number * 37 % 2000) as usize };
        let mut note = Note::sample(sender * EACH + number, length);
        note.0.splice(0..0, sender.to_le_bytes());
        note
    }

    let (left, right) = pair::<T>();
    thread::scope(|scope| {
        for sender in 0..SENDERS {
            let left = &left;
            scope.spawn(move || {
                for number in 0..EACH {
                    if (sender + number) % 2 == 0 {
                        left.send(message(sender, number), None).expect("send");
                        continue;
                    }
                    let mut note = message(sender, number);
                    while let Err(error) = left.try_send(note) {
                        let TrySendError::Full(back) = error else { panic!("try_send: {error}") };
                        note = back;
                        wait_for(left, PollFlags::OUT, None);
                    }
                    while !left.flush().expect("flush") {
                        wait_for(left, PollFlags::OUT, None);
                    }
                }
            });
        }
        let mut next = HashMap::new();
        for _ in 0..SENDERS * EACH {
            let note = right.receive(None).expect("receive");
            let sender = u32::from_le_bytes(*note.0.first_chunk().expect("a sender's number"));
            let number = next.entry(sender).or_insert(0);
            assert!(note == message(sender, *number), "message {number} of sender {sender}");
            *number += 1;
        }
    });
    assert_eq!(right.try_receive().expect("try_receive"), None);
}

/// Law 1: with several receivers each message goes to one, and none sleeps while there is one for it.
pub fn each_receiver_gets_a_message<T: Transport>() {
    const RECEIVERS: u32 = 4;
    for _ in 0..50 {
        let (left, right) = pair::<T>();
        let barrier = Barrier::new(RECEIVERS as usize + 1);
        let mut received: Vec<Note> = thread::scope(|scope| {
            let receive = || {
                barrier.wait();
                right.receive(None).expect("receive")
            };
            let threads: Vec<_> = (0..RECEIVERS).map(|_| scope.spawn(receive)).collect();
            barrier.wait();
            for number in 0..RECEIVERS {
                left.try_send(Note::number(number)).expect("try_send");
            }
            threads.into_iter().map(|thread| thread.join().expect("receiver")).collect()
        });
        received.sort_by(|one, other| one.0.cmp(&other.0));
        assert!(received.into_iter().eq((0..RECEIVERS).map(Note::number)));
    }
}

/// Law 2: what a non-blocking send leaves is flushed later, and arrives.
pub fn a_rest_is_flushed<T: Transport>() {
    let (left, right) = pair::<T>();
    assert!(left.is_flushed() && left.flush().expect("flush"));
    left.try_send(Note::sample(1, LARGE)).expect("an empty link takes the beginning of any message");
    thread::scope(|scope| {
        scope.spawn(|| {
            assert!(right.receive(None).expect("receive") == Note::sample(1, LARGE));
        });
        while !left.flush().expect("flush") {
            wait_for(&left, PollFlags::OUT, None);
        }
    });
    assert!(left.is_flushed());
}

/// Law 2: a later send pushes the rest of an earlier message on.
pub fn a_later_send_pushes_the_rest<T: Transport>() {
    let (left, right) = pair::<T>();
    left.try_send(Note::sample(1, LARGE)).expect("try_send");
    thread::scope(|scope| {
        scope.spawn(|| left.send(Note::number(2), None).expect("send"));
        assert!(right.receive(None).expect("receive") == Note::sample(1, LARGE));
        assert_eq!(right.receive(None).expect("receive"), Note::number(2));
    });
    assert!(left.is_flushed());
}

/// Laws 1 and 2: messages that are to go out together arrive in order, among others and large ones.
pub fn gathered_messages_arrive_in_order<T: Transport>() {
    const COUNT: u32 = 3_000;
    let message = |number: u32| match number % 500 {
        77 => Note::sample(number, 100_000),
        _ => Note::number(number),
    };
    let (left, right) = pair::<T>();
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..COUNT {
                assert!(right.receive(None).expect("receive") == message(number), "message {number}");
            }
        });
        for number in 0..COUNT {
            let mut next = message(number);
            // In turns of different lengths.
            let result = loop {
                let result = match number % 37 {
                    5 => left.try_send(next),
                    6 if number % 3 == 0 => left.send(next, None).map_err(TrySendError::Failed),
                    _ => left.try_send_more(next),
                };
                match result {
                    Err(TrySendError::Full(message)) => next = message,
                    other => break other,
                }
                wait_for(&left, PollFlags::OUT, None);
            };
            result.expect("it is accepted");
            if number % 41 == 0 {
                left.flush().expect("flush");
            }
        }
        while !left.flush().expect("flush") {
            wait_for(&left, PollFlags::OUT, None);
        }
    });
    assert!(left.is_flushed());
}

/// Laws 2 and 3: gathering has an end, and what was accepted arrives.
pub fn a_link_does_not_gather_without_bound<T: Transport>() {
    let (left, right) = pair::<T>();
    let mut count = 0;
    loop {
        match left.try_send_more(Note::number(count)) {
            Ok(()) => count += 1,
            Err(TrySendError::Full(message)) => {
                assert_eq!(message, Note::number(count), "another message was given back");
                break;
            }
            Err(TrySendError::Failed(error)) => panic!("try_send_more: {error}"),
        }
        assert!(count < 10_000_000, "the link takes messages without bound");
    }
    drain::<T>(&left, &right, count);
}

/// Laws 4 and 9: a message that is refused leaves those that are gathered.
pub fn a_refused_message_leaves_the_gathered_ones<T: Transport>() {
    let (left, right) = pair::<T>();
    left.try_send_more(Note::number(1)).expect("there is room");
    let bad = Note([Note::UNENCODABLE, &[0; 1000]].concat());
    // Where messages are moved, nothing is encoded.
    let refused = matches!(left.try_send_more(bad), Err(TrySendError::Failed(TransportError::Encode(_))));
    left.try_send_more(Note::number(2)).expect("there is room");
    assert!(left.flush().expect("flush"));
    assert_eq!(right.receive(None).expect("receive"), Note::number(1));
    if !refused {
        right.receive(None).expect("receive");
    }
    assert_eq!(right.receive(None).expect("receive"), Note::number(2));
    assert_eq!(right.try_receive().expect("try_receive"), None);
}

/// Laws 2 and 12: gathered messages come before the end.
pub fn finishing_comes_behind_gathered_messages<T: Transport>() {
    let (left, right) = pair::<T>();
    for number in 0..10 {
        left.try_send_more(Note::number(number)).expect("there is room");
    }
    left.finish().expect("the peer is there");
    assert!(matches!(
        left.try_send_more(Note::number(10)),
        Err(TrySendError::Failed(TransportError::Finished))
    ));
    for number in 0..10 {
        assert_eq!(right.receive(None).expect("receive"), Note::number(number));
    }
    assert!(matches!(right.receive(None), Err(TransportError::Closed)));
}

/// Law 3: a peer that does not receive makes the link full; what was accepted arrives, and there is room again.
pub fn a_full_link_gives_the_message_back<T: Transport>() {
    let (left, right) = pair::<T>();
    for _ in 0..2 {
        let count = fill::<T>(&left);
        assert!(count > 0);
        assert!(matches!(left.try_send(Note::number(0)), Err(TrySendError::Full(_))));
        drain::<T>(&left, &right, count);
    }
}

/// Law 3: also a large message comes back whole, and not a byte of it is sent.
pub fn a_full_link_gives_a_large_message_back<T: Transport>() {
    let (left, right) = pair::<T>();
    let count = fill::<T>(&left);
    for size in [LARGE, 1 << 16, 1 << 17] {
        match left.try_send(Note::sample(9, size)) {
            Err(TrySendError::Full(message)) => assert!(message == Note::sample(9, size), "{size} bytes"),
            result => panic!("{result:?}"),
        }
    }
    drain::<T>(&left, &right, count);
    left.try_send(Note::sample(9, LARGE)).expect("an empty link takes the beginning of any message");
    thread::scope(|scope| {
        scope.spawn(|| {
            // Behind one that is on its way still: in parts, or so that there is room.
            match left.try_send(Note::sample(8, LARGE)) {
                Ok(()) => {}
                Err(TrySendError::Full(message)) => left.send(message, None).expect("send"),
                Err(error) => panic!("{error}"),
            }
            while !left.flush().expect("flush") {
                wait_for(&left, PollFlags::OUT, None);
            }
        });
        for seed in [9, 8] {
            assert!(right.receive(None).expect("receive") == Note::sample(seed, LARGE), "message {seed}");
        }
    });
    assert_eq!(right.try_receive().expect("try_receive"), None);
}

/// Law 3: a blocked send goes on when the peer receives.
pub fn a_blocked_send_is_released_by_receiving<T: Transport>() {
    let (left, right) = pair::<T>();
    let count = fill::<T>(&left);
    thread::scope(|scope| {
        scope.spawn(|| left.send(Note::number(count), None).expect("send"));
        for number in 0..=count {
            assert_eq!(right.receive(None).expect("receive"), Note::number(number));
        }
    });
    assert_eq!(right.try_receive().expect("try_receive"), None);
}

/// Law 3: a thread that is blocked in a send does not block the methods that never wait.
pub fn a_blocked_send_blocks_nobody<T: Transport>() {
    let (left, right) = pair::<T>();
    let count = fill::<T>(&left);
    let (begun, has_begun) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(|| {
            begun.send(()).expect("the test runs");
            left.send(Note::number(count), None).expect("send");
        });
        has_begun.recv().expect("sender");
        for _ in 0..1000 {
            assert!(matches!(left.try_send(Note::number(0)), Err(TrySendError::Full(_))));
            left.flush().expect("flush");
            left.is_flushed();
            assert_eq!(left.try_receive().expect("try_receive"), None);
        }
        right.send(Note::number(7), None).expect("the other direction is free");
        assert_eq!(left.receive(None).expect("receive"), Note::number(7));
        for number in 0..=count {
            assert_eq!(right.receive(None).expect("receive"), Note::number(number));
        }
    });
}

/// Law 5: what a gone peer has sent is received before the link is closed, for ever.
pub fn pending_messages_come_before_the_end<T: Transport>() {
    let (left, right) = pair::<T>();
    for number in 0..20 {
        left.send(Note::number(number), None).expect("send");
    }
    drop(left);
    for number in 0..20 {
        assert_eq!(right.receive(None).expect("receive"), Note::number(number));
    }
    for _ in 0..3 {
        assert!(matches!(right.try_receive(), Err(TransportError::Closed)));
        assert!(matches!(right.receive(None), Err(TransportError::Closed)));
        assert!(matches!(right.receive(Some(Duration::ZERO)), Err(TransportError::Closed)));
        assert!(matches!(right.send(Note::number(0), None), Err(TransportError::Closed)));
    }
}

/// Law 5: sending to a gone peer is an error, not a signal, and what the peer had sent is still received.
pub fn sending_to_a_gone_peer_is_closed<T: Transport>() {
    let (left, right) = pair::<T>();
    right.send(Note::number(1), None).expect("send");
    left.send(Note::number(2), None).expect("never received");
    drop(right);
    for _ in 0..3 {
        assert!(matches!(left.send(Note::number(0), None), Err(TransportError::Closed)));
        assert!(matches!(left.try_send(Note::number(0)), Err(TrySendError::Failed(TransportError::Closed))));
    }
    assert!(matches!(left.flush(), Err(TransportError::Closed)));
    assert_eq!(left.receive(None).expect("receive"), Note::number(1));
    assert!(matches!(left.receive(None), Err(TransportError::Closed)));
}

/// Law 5: a peer that goes ends a blocked receive.
pub fn a_blocked_receive_ends_with_the_peer<T: Transport>() {
    let (left, right) = pair::<T>();
    let (begun, has_begun) = mpsc::channel();
    thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            begun.send(()).expect("the test runs");
            right.receive(None)
        });
        has_begun.recv().expect("receiver");
        drop(left);
        assert!(matches!(receiver.join().expect("receiver"), Err(TransportError::Closed)));
    });
}

/// Law 5: a peer that goes ends a blocked send.
pub fn a_blocked_send_ends_with_the_peer<T: Transport>() {
    let (left, right) = pair::<T>();
    fill::<T>(&left);
    let (begun, has_begun) = mpsc::channel();
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            begun.send(()).expect("the test runs");
            left.send(Note::number(0), None)
        });
        has_begun.recv().expect("sender");
        drop(right);
        assert!(matches!(sender.join().expect("sender"), Err(TransportError::Closed)));
    });
}

/// Law 6: readable when and as long as there is something to receive.
pub fn the_descriptor_is_readable_for_messages<T: Transport>() {
    let (left, right) = pair::<T>();
    assert!(!is_readable(&left) && !is_readable(&right));
    for _ in 0..3 {
        left.send(Note::number(1), None).expect("send");
        left.send(Note::number(2), None).expect("send");
        wait_for(&right, PollFlags::IN, None);
        assert!(is_readable(&right) && is_readable(&right), "level-triggered");
        assert!(!is_readable(&left));
        assert_eq!(poll_for_message::<T>(&right).expect("receive"), Note::number(1));
        assert_eq!(poll_for_message::<T>(&right).expect("receive"), Note::number(2));
        assert_eq!(right.try_receive().expect("try_receive"), None);
        assert!(!is_readable(&right));
    }
}

/// Law 6: an event loop that receives until there is nothing misses nothing of a stream.
pub fn an_event_loop_misses_nothing<T: Transport>() {
    let (left, right) = pair::<T>();
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..3000 {
                left.send(Note::number(number), None).expect("send");
            }
            left.send(Note::sample(0, LARGE), None).expect("send");
        });
        for number in 0..3000 {
            assert_eq!(poll_for_message::<T>(&right).expect("receive"), Note::number(number));
        }
        assert!(poll_for_message::<T>(&right).expect("receive") == Note::sample(0, LARGE));
    });
}

/// Law 6: readable for ever when the peer is gone.
pub fn the_descriptor_is_readable_at_the_end<T: Transport>() {
    let (left, right) = pair::<T>();
    left.send(Note::number(1), None).expect("send");
    drop(left);
    assert_eq!(poll_for_message::<T>(&right).expect("receive"), Note::number(1));
    for _ in 0..3 {
        wait_for(&right, PollFlags::IN, None);
        assert!(is_readable(&right));
        assert!(matches!(right.try_receive(), Err(TransportError::Closed)));
    }
}

/// Law 6: writable once a full link has room again.
pub fn the_descriptor_is_writable_when_there_is_room<T: Transport>() {
    let (left, right) = pair::<T>();
    let count = fill::<T>(&left);
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..=count {
                assert_eq!(poll_for_message::<T>(&right).expect("receive"), Note::number(number));
            }
        });
        let mut note = Note::number(count);
        while let Err(error) = left.try_send(note) {
            let TrySendError::Full(back) = error else { panic!("try_send: {error}") };
            note = back;
            wait_for(&left, PollFlags::OUT, None);
        }
        while !left.flush().expect("flush") {
            wait_for(&left, PollFlags::OUT, None);
        }
    });
}

/// Law 7: zero tries once, anything else waits at least as long.
pub fn timeouts_are_waited_out<T: Transport>() {
    let (left, right) = pair::<T>();
    assert!(matches!(right.receive(Some(Duration::ZERO)), Err(TransportError::TimedOut)));
    let begin = Instant::now();
    assert!(matches!(right.receive(Some(SHORT)), Err(TransportError::TimedOut)));
    assert!(begin.elapsed() >= SHORT);

    left.send(Note::number(1), Some(Duration::ZERO)).expect("there is room");
    wait_for(&right, PollFlags::IN, None);
    assert_eq!(right.receive(Some(Duration::ZERO)).expect("there is a message"), Note::number(1));

    fill::<T>(&left);
    assert!(matches!(left.send(Note::number(1), Some(Duration::ZERO)), Err(TransportError::TimedOut)));
    let begin = Instant::now();
    assert!(matches!(left.send(Note::number(1), Some(SHORT)), Err(TransportError::TimedOut)));
    assert!(begin.elapsed() >= SHORT);
}

/// Law 7: a time that no clock can reach is waited for as if it were for ever.
pub fn huge_timeouts_do_not_overflow<T: Transport>() {
    let (left, right) = pair::<T>();
    for timeout in [Duration::MAX, Duration::from_secs(i64::MAX as u64), Duration::from_secs(1 << 40)] {
        thread::scope(|scope| {
            let receiver = scope.spawn(|| right.receive(Some(timeout)).expect("receive"));
            left.send(Note::sample(1, LARGE), Some(timeout)).expect("send");
            assert!(receiver.join().expect("receiver") == Note::sample(1, LARGE));
        });
    }
}

/// Law 7: a message that was not accepted in time is not sent, not even in parts.
pub fn a_timed_out_send_sends_nothing<T: Transport>() {
    let (left, right) = pair::<T>();
    let count = fill::<T>(&left);
    for timeout in [Duration::ZERO, SHORT] {
        for length in [0, 100, LARGE] {
            let result = left.send(Note::sample(9, length), Some(timeout));
            assert!(matches!(result, Err(TransportError::TimedOut)));
        }
    }
    drain::<T>(&left, &right, count);
    left.send(Note::number(5), None).expect("send");
    assert_eq!(right.receive(None).expect("receive"), Note::number(5));
}

/// Laws 2 and 7: a send whose time is over in the middle has accepted the message.
pub fn a_send_that_has_begun_is_accepted<T: Transport>() {
    let (left, right) = pair::<T>();
    left.send(Note::sample(1, LARGE), Some(SHORT)).expect("an empty link takes the beginning");
    thread::scope(|scope| {
        scope.spawn(|| {
            while !left.flush().expect("flush") {
                wait_for(&left, PollFlags::OUT, None);
            }
        });
        assert!(right.receive(None).expect("receive") == Note::sample(1, LARGE));
    });
    assert_eq!(right.try_receive().expect("try_receive"), None);
}

/// Law 7: a send from another thread wakes a receive, and later ones too.
pub fn a_send_wakes_a_receive<T: Transport>() {
    let (left, right) = pair::<T>();
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..500 {
                let note = right.receive(None).expect("receive");
                assert_eq!(note, Note::number(number));
                right.send(note, None).expect("send");
            }
        });
        for number in 0..500 {
            left.send(Note::number(number), None).expect("send");
            assert_eq!(left.receive(None).expect("receive"), Note::number(number));
        }
    });
}

/// Law 8: descriptors are close-on-exec.
pub fn descriptors_are_close_on_exec<T: Transport>() {
    let (left, right) = pair::<T>();
    for fd in [left.as_fd(), right.as_fd()] {
        let flags = rustix::io::fcntl_getfd(fd).expect("fcntl");
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    }
}

/// The ends can be printed, whatever state they are in.
pub fn ends_can_be_printed<T: Transport>() {
    let (left, right) = pair::<T>();
    left.try_send(Note::sample(1, LARGE)).expect("try_send");
    assert!(!format!("{left:?}").is_empty());
    drop(left);
    let _ = right.try_receive();
    assert!(!format!("{right:?}").is_empty());
}

/// Law 4: a message over the limit is refused by the sender, and the link stays usable.
pub fn the_limit_is_checked_before_sending<T: Transport>() {
    let (left, right) = T::pair::<Note, Note>(Limits::with_message_bytes(100)).expect("pair");
    for length in [101, 200, LARGE] {
        let error = left.send(Note::sample(1, length), None).expect_err("over the limit");
        assert!(matches!(error, TransportError::TooBig { size, limit: 100 } if size == length), "{error}");
        let error = left.try_send(Note::sample(1, length)).expect_err("over the limit");
        assert!(
            matches!(error, TrySendError::Failed(TransportError::TooBig { size, limit: 100 }) if size == length)
        );
    }
    assert!(left.is_flushed());
    for length in [100, 0, 99] {
        left.send(Note::sample(1, length), None).expect("send");
        assert_eq!(right.receive(None).expect("receive"), Note::sample(1, length));
    }
    assert_eq!(right.try_receive().expect("try_receive"), None);
}

/// Laws 2 and 5: dropping an end drops what is left to flush; the peer sees the end, not a part.
pub fn a_cut_message_is_the_end<T: Transport>() {
    let (left, right) = pair::<T>();
    left.send(Note::number(1), None).expect("send");
    left.try_send(Note::sample(2, 64 << 20)).expect("try_send");
    assert!(!left.is_flushed());
    drop(left);
    assert_eq!(right.receive(None).expect("receive"), Note::number(1));
    assert!(matches!(right.receive(None), Err(TransportError::Closed)));
    assert!(matches!(right.try_receive(), Err(TransportError::Closed)));
}

/// Law 9: a message that cannot be encoded leaves the link usable.
pub fn an_encoding_error_leaves_the_link_usable<T: Transport>() {
    let (left, right) = pair::<T>();
    let bad = || Note([Note::UNENCODABLE, &[0; 1000]].concat());
    for number in 0..3 {
        assert!(matches!(left.send(bad(), None), Err(TransportError::Encode(_))));
        assert!(matches!(left.try_send(bad()), Err(TrySendError::Failed(TransportError::Encode(_)))));
        assert!(left.is_flushed());
        left.send(Note::number(number), None).expect("send");
        assert_eq!(right.receive(None).expect("receive"), Note::number(number));
    }
}

/// Law 9: a message that cannot be decoded is one error, and the next message is a new one.
pub fn a_decoding_error_leaves_the_link_usable<T: Transport>() {
    let (left, right) = pair::<T>();
    for number in 0..3 {
        left.send(Note(Note::UNDECODABLE.to_vec()), None).expect("send");
        left.send(Note::number(number), None).expect("send");
        left.send(Note(Note::UNDECODABLE.to_vec()), None).expect("send");
        assert!(matches!(right.receive(None), Err(TransportError::Decode(_))));
        assert_eq!(right.receive(None).expect("receive"), Note::number(number));
        assert!(matches!(poll_for_message::<T>(&right), Err(TransportError::Decode(_))));
        assert_eq!(right.try_receive().expect("try_receive"), None);
    }
}

/// Law 12: the peer receives what there is and then the end, and goes on sending.
pub fn a_half_closed_link_goes_on_in_the_other_direction<T: Transport>() {
    let (left, right) = pair::<T>();
    left.send(Note::number(1), None).expect("there is room");
    for _ in 0..2 {
        left.finish().expect("the peer is there");
    }
    let result = left.send(Note::number(2), None);
    assert!(matches!(result, Err(TransportError::Finished)), "{result:?}");
    let result = left.try_send(Note::number(2));
    assert!(matches!(result, Err(TrySendError::Failed(TransportError::Finished))), "{result:?}");
    assert_eq!(right.receive(None).expect("it was sent"), Note::number(1));
    for _ in 0..2 {
        assert!(is_readable(&right));
        let result = right.receive(None);
        assert!(matches!(result, Err(TransportError::Closed)), "{result:?}");
    }
    for number in 0..10 {
        right.send(Note::number(number), None).expect("the peer is there");
        assert_eq!(left.receive(None).expect("it was sent"), Note::number(number));
    }
    right.finish().expect("the peer is there");
    let result = left.receive(None);
    assert!(matches!(result, Err(TransportError::Closed)), "{result:?}");
}

/// Law 12: a thread that waits to receive is woken by the end.
pub fn a_blocked_receive_ends_when_the_peer_finishes<T: Transport>() {
    let (left, right) = pair::<T>();
    thread::scope(|scope| {
        let (begin, begun) = mpsc::channel();
        let right = &right;
        let receiving = scope.spawn(move || {
            begin.send(rustix::thread::gettid().as_raw_nonzero().get()).expect("the receiver waits");
            right.receive(None)
        });
        super::poll::until_asleep(begun.recv().expect("the thread starts"));
        left.finish().expect("the peer is there");
        let result = receiving.join().expect("the thread does not panic");
        assert!(matches!(result, Err(TransportError::Closed)), "{result:?}");
    });
}

/// Laws 2 and 12: what was accepted arrives whole before the end, also what was left to flush.
pub fn finishing_comes_behind_what_is_left_to_flush<T: Transport>() {
    let (left, right) = pair::<T>();
    let count = fill::<T>(&left);
    left.finish().expect("the peer is there");
    for number in 0..count {
        let message = loop {
            match right.try_receive().expect("try_receive") {
                Some(message) => break message,
                None => {
                    left.flush().expect("flush");
                }
            }
        };
        assert_eq!(message, Note::number(number), "out of order");
    }
    assert!(left.flush().expect("flush"), "nothing is left");
    let result = right.receive(None);
    assert!(matches!(result, Err(TransportError::Closed)), "{result:?}");
}

type Listening<T> = <T as Transport>::Listener<Note, Note>;
type Address<T> = <T as Transport>::Address<Note, Note>;

/// A message with descriptors beside its bytes.
#[derive(Debug)]
pub struct Parcel {
    /// The bytes.
    pub note: Note,
    /// What it is to be sent with, or has come with.
    pub descriptors: Vec<OwnedFd>,
    /// Why what it was sent with has not come.
    pub lost: Option<io::Error>,
}

impl Parcel {
    /// A parcel to be sent.
    pub fn new(note: Note, descriptors: Vec<OwnedFd>) -> Parcel {
        Parcel { note, descriptors, lost: None }
    }
}

impl Message for Parcel {
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), BoxError> {
        self.note.encode(out)
    }

    fn decode(bytes: &[u8]) -> Result<Parcel, BoxError> {
        Note::decode(bytes).map(|note| Parcel::new(note, Vec::new()))
    }

    fn as_bytes(&self) -> Option<&[u8]> {
        self.note.as_bytes()
    }

    fn detach(&mut self) -> Vec<OwnedFd> {
        mem::take(&mut self.descriptors)
    }

    fn attach(&mut self, descriptors: io::Result<Vec<OwnedFd>>) {
        match descriptors {
            Ok(descriptors) => self.descriptors.extend(descriptors),
            Err(error) => self.lost = Some(error),
        }
    }
}

/// Pipes: what is written into the second end of one comes out of the first, and its end when all copies are closed.
fn pipes<const N: usize>() -> ([OwnedFd; N], [OwnedFd; N]) {
    let (mut readers, mut writers) = (Vec::new(), Vec::new());
    for _ in 0..N {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe can be made");
        readers.push(reader);
        writers.push(writer);
    }
    (readers.try_into().expect("there are N"), writers.try_into().expect("there are N"))
}

fn read_all(reader: OwnedFd) -> Vec<u8> {
    let mut bytes = Vec::new();
    File::from(reader).read_to_end(&mut bytes).expect("it can be read");
    bytes
}

/// Law 13, with messages of all sizes, blocking and not.
pub fn descriptors_travel_with_their_messages<T: Transport>() {
    let (near, far) = T::pair::<Parcel, Parcel>(Limits::default()).expect("pair");
    let (readers, [a, b, c, d]) = pipes::<4>();
    let parcels = [
        (Note::sample(1, 10), vec![a]),
        (Note::sample(2, 0), vec![]),
        (Note::sample(3, LARGE), vec![b, c]),
        (Note::sample(4, 10), vec![]),
        (Note::sample(5, 0), vec![d]),
    ];
    let counts: Vec<_> =
        parcels.iter().map(|(note, descriptors)| (note.clone(), descriptors.len())).collect();
    thread::scope(|scope| {
        scope.spawn(|| {
            for (number, (note, descriptors)) in parcels.into_iter().enumerate() {
                let parcel = Parcel::new(note, descriptors);
                if number % 2 == 0 {
                    near.send(parcel, None).expect("send");
                } else {
                    while !near.flush().expect("flush") {
                        wait_for(&near, PollFlags::OUT, None);
                    }
                    near.try_send(parcel).expect("there is room");
                }
            }
        });
        let mut letter = b'a';
        for (note, count) in &counts {
            let parcel = far.receive(None).expect("receive");
            assert!(parcel.note == *note, "another message");
            assert!(parcel.lost.is_none());
            assert_eq!(parcel.descriptors.len(), *count, "of a message of {} bytes", note.0.len());
            for descriptor in parcel.descriptors {
                let flags = rustix::io::fcntl_getfd(&descriptor).expect("it is open");
                assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
                rustix::io::write(&descriptor, &[letter]).expect("somebody reads");
                letter += 1;
            }
        }
    });
    // Nobody has kept a copy.
    assert_eq!(readers.map(read_all), [b"a", b"b", b"c", b"d"]);
}

/// Laws 3 and 13: what is given back has its descriptors still.
pub fn a_message_that_is_given_back_has_its_descriptors<T: Transport>() {
    let (near, far) = T::pair::<Parcel, Parcel>(Limits::default()).expect("pair");
    let ([reader], [writer]) = pipes::<1>();
    let mut writer = Some(writer);
    // A large one among the small, so that it is not always the same that finds no room.
    for number in 0.. {
        let note = Note::sample(number, if number % 3 == 0 { LARGE } else { 1000 });
        let copy = writer.as_ref().expect("it is here until it is given back").try_clone().expect("a copy");
        match near.try_send(Parcel::new(note.clone(), vec![copy])) {
            Ok(()) => {}
            Err(TrySendError::Full(parcel)) => {
                assert!(parcel.note == note && parcel.descriptors.len() == 1, "another one was given back");
                rustix::io::write(&parcel.descriptors[0], b"!").expect("somebody reads");
                writer = None;
                break;
            }
            Err(TrySendError::Failed(error)) => panic!("try_send: {error}"),
        }
    }
    assert!(writer.is_none(), "the link takes messages without bound");
    // What is on its way is closed with the link.
    drop((near, far));
    assert_eq!(read_all(reader), b"!");
}

fn listen<T: Transport>() -> (Listening<T>, Address<T>) {
    let listener = T::listen::<Note, Note>(Limits::default()).expect("a fresh address is free");
    let address = listener.address();
    (listener, address)
}

fn connect<T: Transport>(address: &Address<T>) -> End<T> {
    T::connect::<Note, Note>(address, Limits::default(), None).expect("somebody listens")
}

/// Law 10: in the order of asking, each once, and what is sent before arrives after.
pub fn connections_are_accepted_in_order<T: Transport>() {
    let (listener, address) = listen::<T>();
    assert!(listener.try_accept().expect("accept").is_none());
    let clients: Vec<_> = (0..10)
        .map(|number| {
            let client = connect::<T>(&address);
            client.send(Note::number(number), None).expect("there is room");
            client
        })
        .collect();
    for (number, client) in (0..).zip(&clients) {
        let end = listener.accept(None).expect("somebody waits");
        assert_eq!(end.receive(None).expect("it was sent"), Note::number(number));
        end.send(Note::number(number + 100), None).expect("there is room");
        assert_eq!(client.receive(None).expect("it was sent"), Note::number(number + 100));
    }
    assert!(listener.try_accept().expect("accept").is_none());
}

/// Laws 7 and 10.
pub fn accepting_waits_for_a_connection<T: Transport>() {
    let (listener, address) = listen::<T>();
    for timeout in [Duration::ZERO, SHORT] {
        let start = Instant::now();
        let result = listener.accept(Some(timeout));
        assert!(matches!(result, Err(TransportError::TimedOut)), "{result:?}");
        assert!(start.elapsed() >= timeout);
    }
    thread::scope(|scope| {
        let (begin, begun) = mpsc::channel();
        let listener = &listener;
        let accepting = scope.spawn(move || {
            begin.send(rustix::thread::gettid().as_raw_nonzero().get()).expect("the receiver waits");
            listener.accept(None).expect("somebody connects")
        });
        super::poll::until_asleep(begun.recv().expect("the thread starts"));
        let client = connect::<T>(&address);
        let end = accepting.join().expect("the thread does not panic");
        end.send(Note::number(1), None).expect("there is room");
        assert_eq!(client.receive(None).expect("it was sent"), Note::number(1));
    });
}

/// Law 11, for who comes too late and for who was waiting.
pub fn nobody_is_left_waiting_for_a_listener_that_is_gone<T: Transport>() {
    let (listener, address) = listen::<T>();
    let accepted = connect::<T>(&address);
    let end = listener.accept(None).expect("somebody waits");
    let waiting = connect::<T>(&address);
    drop(listener);
    let result = waiting.receive(None);
    assert!(matches!(result, Err(TransportError::Closed)), "{result:?}");
    let result = T::connect::<Note, Note>(&address, Limits::default(), None);
    assert!(matches!(result, Err(TransportError::Refused)), "{result:?}");
    // What was accepted is not touched.
    end.send(Note::number(1), None).expect("there is room");
    assert_eq!(accepted.receive(None).expect("it was sent"), Note::number(1));
}

/// Law 10: as long as somebody waits.
pub fn the_descriptor_of_a_listener_tells_of_connections<T: Transport>() {
    let (listener, address) = listen::<T>();
    listener.descriptor().expect("a descriptor is free");
    assert!(!is_readable(&listener));
    let clients = [connect::<T>(&address), connect::<T>(&address)];
    for _ in &clients {
        assert!(is_readable(&listener));
        assert!(listener.try_accept().expect("accept").is_some());
    }
    assert!(!is_readable(&listener));
}

/// Laws 5 and 10: a thread that panics takes its ends along.
pub fn a_client_that_panics_is_the_end_for_the_server<T: Transport>() {
    let (listener, address) = listen::<T>();
    let client = thread::spawn(move || {
        let client = connect::<T>(&address);
        client.send(Note::number(1), None).expect("there is room");
        std::panic::resume_unwind(Box::new("as if it had panicked"));
    });
    client.join().expect_err("it panics");
    let end = listener.accept(None).expect("somebody was there");
    assert_eq!(end.receive(None).expect("it was sent"), Note::number(1));
    let result = end.receive(None);
    assert!(matches!(result, Err(TransportError::Closed)), "{result:?}");
}

/// Everything together: a server that waits by `poll` for connections and requests, and clients that ask, several at a
/// time, for what they then check.
pub fn a_server_serves_many_clients<T: Transport>() {
    const CLIENTS: u32 = 8;
    const REQUESTS: u32 = 200;
    /// Requests that a client has under way.
    const WINDOW: u32 = 16;

    let (listener, address) = listen::<T>();
    thread::scope(|scope| {
        let server = scope.spawn(move || serve::<T>(&listener, CLIENTS));
        for client in 0..CLIENTS {
            let address = address.clone();
            scope.spawn(move || {
                let end = connect::<T>(&address);
                let question =
                    |number: u32| Note::sample(number, (client * 997 + number * 13) as usize % 5_000);
                let mut answered = 0;
                for number in 0..REQUESTS {
                    end.send(question(number), None).expect("the server is there");
                    if number - answered >= WINDOW {
                        assert_eq!(end.receive(None).expect("an answer"), answer(&question(answered)));
                        answered += 1;
                    }
                }
                for number in answered..REQUESTS {
                    assert_eq!(end.receive(None).expect("an answer"), answer(&question(number)));
                }
            });
        }
        assert_eq!(server.join().expect("the server does not panic"), CLIENTS * REQUESTS);
    });
}

fn answer(question: &Note) -> Note {
    Note(question.0.iter().rev().copied().collect())
}

/// Serves until so many clients have come and gone; returns the number of answers.
fn serve<T: Transport>(listener: &Listening<T>, clients: u32) -> u32 {
    let mut served = 0;
    let mut gone = 0;
    let mut ends: Vec<(End<T>, VecDeque<Note>)> = Vec::new();
    while gone < clients {
        {
            let mut fds = vec![PollFd::new(listener, PollFlags::IN)];
            fds.extend(ends.iter().map(|(end, answers)| {
                let wanted =
                    if answers.is_empty() && end.is_flushed() { PollFlags::IN } else { PollFlags::OUT };
                PollFd::new(end, wanted)
            }));
            rustix::io::retry_on_intr(|| poll(&mut fds, None)).expect("poll");
        }
        while let Some(end) = listener.try_accept().expect("accept") {
            ends.push((end, VecDeque::new()));
        }
        ends.retain_mut(|(end, answers)| {
            // No more is taken in than has gone out: that is what keeps a client from filling the server's memory.
            if !end.flush().unwrap_or(true) {
                return true;
            }
            loop {
                match answers.pop_front().map(|answer| end.try_send(answer)) {
                    Some(Ok(())) => served += 1,
                    Some(Err(TrySendError::Full(answer))) => {
                        answers.push_front(answer);
                        return true;
                    }
                    Some(Err(TrySendError::Failed(error))) => panic!("{error}"),
                    None => match end.try_receive() {
                        Ok(Some(question)) => answers.push_back(answer(&question)),
                        Ok(None) => return true,
                        Err(TransportError::Closed) => {
                            gone += 1;
                            return false;
                        }
                        Err(error) => panic!("{error}"),
                    },
                }
            }
        });
    }
    served
}

/// Makes a module `$module` with one test per promise of [`Transport`], run over the type `$transport`. With
/// `encoded` as a third argument the laws about bytes are tested too (4, 9 and the cut frame of 5).
///
/// ```ignore
/// manycore_backends::transport_conformance!(my_link, my_crate::MyLink, encoded);
/// ```
#[macro_export]
macro_rules! transport_conformance {
    ($module:ident, $transport:ty) => {
        $crate::transport_conformance!(@module $module, $transport,
            messages_arrive_in_order
            empty_messages_are_messages
            large_messages_arrive_whole
            large_and_small_messages_keep_their_order
            concurrent_senders_do_not_mix
            each_receiver_gets_a_message
            a_rest_is_flushed
            gathered_messages_arrive_in_order
            a_link_does_not_gather_without_bound
            a_refused_message_leaves_the_gathered_ones
            finishing_comes_behind_gathered_messages
            a_later_send_pushes_the_rest
            a_full_link_gives_the_message_back
            a_full_link_gives_a_large_message_back
            a_blocked_send_is_released_by_receiving
            a_blocked_send_blocks_nobody
            pending_messages_come_before_the_end
            sending_to_a_gone_peer_is_closed
            a_blocked_receive_ends_with_the_peer
            a_blocked_send_ends_with_the_peer
            the_descriptor_is_readable_for_messages
            an_event_loop_misses_nothing
            the_descriptor_is_readable_at_the_end
            the_descriptor_is_writable_when_there_is_room
            timeouts_are_waited_out
            huge_timeouts_do_not_overflow
            a_timed_out_send_sends_nothing
            a_send_that_has_begun_is_accepted
            a_send_wakes_a_receive
            descriptors_are_close_on_exec
            ends_can_be_printed
            a_half_closed_link_goes_on_in_the_other_direction
            a_blocked_receive_ends_when_the_peer_finishes
            finishing_comes_behind_what_is_left_to_flush
            descriptors_travel_with_their_messages
            a_message_that_is_given_back_has_its_descriptors
            connections_are_accepted_in_order
            accepting_waits_for_a_connection
            nobody_is_left_waiting_for_a_listener_that_is_gone
            the_descriptor_of_a_listener_tells_of_connections
            a_client_that_panics_is_the_end_for_the_server
            a_server_serves_many_clients
        );
    };
    ($module:ident, $transport:ty, encoded) => {
        mod $module {
            #[allow(unused_imports)]
            use super::*;

            $crate::transport_conformance!(any, $transport);
            $crate::transport_conformance!(@module encoded, $transport,
                the_limit_is_checked_before_sending
                a_cut_message_is_the_end
                an_encoding_error_leaves_the_link_usable
                a_decoding_error_leaves_the_link_usable
            );
        }
    };
    (@module $module:ident, $transport:ty, $($promise:ident)*) => {
        mod $module {
            #[allow(unused_imports)]
            use super::*;

            $(
                #[test]
                fn $promise() {
                    $crate::testing::transport::$promise::<$transport>();
                }
            )*
        }
    };
}
