//! What only the inside of an end can do: rings that are there from the first message on, and peers that write nonsense.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::thread;

use rustix::event::PollFlags;

use super::receiving::BELLS_BEFORE;
use super::sending::OFFER_AFTER;
use super::track::{BYTES, Writer};
use super::*;
use crate::shm::{Mapping, Memfd, Memory};
use crate::testing::transport::{Note, Parcel};

crate::transport_conformance!(eager, Eager, encoded);

/// As [`Ring`], but the rings are there before the first message.
#[derive(Debug)]
struct Eager;

impl Transport for Eager {
    type End<S: Message, R: Message> = RingEnd<S, R>;
    type Listener<S: Message, R: Message> = RingListener<S, R>;
    type Address<S: Message, R: Message> = SocketAddress;

    fn pair<S: Message, R: Message>(
        limits: Limits,
    ) -> Result<(RingEnd<S, R>, RingEnd<R, S>), TransportError> {
        let (one, other) = Ring::pair(limits)?;
        one.offer_ring(&mut lock(&one.sending));
        other.offer_ring(&mut lock(&other.sending));
        assert!(one.try_receive()?.is_none() && other.try_receive()?.is_none());
        assert!(lock(&one.receiving).track.is_some() && lock(&other.receiving).track.is_some());
        Ok((one, other))
    }

    fn listen<S: Message, R: Message>(limits: Limits) -> Result<RingListener<S, R>, TransportError> {
        Ring::listen(limits)
    }

    fn connect<S: Message, R: Message>(
        address: &SocketAddress,
        limits: Limits,
        timeout: Option<Duration>,
    ) -> Result<RingEnd<S, R>, TransportError> {
        let end = Ring::connect(address, limits, timeout)?;
        end.offer_ring(&mut lock(&end.sending));
        Ok(end)
    }
}

type End = RingEnd<Note, Note>;

fn pair() -> (End, End) {
    Eager::pair(Limits::default()).expect("pair")
}

fn note(number: u32) -> Note {
    Note(number.to_le_bytes().to_vec())
}

/// An end, and what a stranger at the other end can write: bytes into the socket, words into the ring.
fn end_and_stranger() -> (End, UnixStream, Mapping) {
    let (end, raw) = end_and_raw();
    let (fd, mapping) = Memfd::new(BYTES).expect("there is memory").into_parts();
    offer(&raw, &[fd]);
    assert!(end.try_receive().expect("a ring is offered").is_none());
    assert!(lock(&end.receiving).track.is_some());
    (end, raw, mapping)
}

fn end_and_raw() -> (End, UnixStream) {
    let (end, raw) = UnixStream::pair().expect("a pair can be made");
    (End::try_from(OwnedFd::from(end)).expect("a stream socket"), raw)
}

/// Sends the frame in which a ring is offered, with these descriptors.
fn offer(raw: &UnixStream, descriptors: &[OwnedFd]) {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    let bytes = control(2);
    let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    let mut room = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut message = SendAncillaryBuffer::new(&mut room);
    assert!(borrowed.is_empty() || message.push(SendAncillaryMessage::ScmRights(&borrowed)));
    let sent = sendmsg(raw, &[std::io::IoSlice::new(&bytes)], &mut message, SendFlags::empty());
    assert_eq!(sent, Ok(bytes.len()));
}

fn control(tag: u8) -> Vec<u8> {
    [&9_u32.to_le_bytes()[..], &packet::MARK, &[tag]].concat()
}

#[track_caller]
fn is_broken(end: &End) {
    let result = end.receive(None);
    assert!(matches!(result, Err(TransportError::Broken)), "{result:?}");
    stays_broken(end);
}

#[track_caller]
fn stays_broken(end: &End) {
    for _ in 0..2 {
        assert!(matches!(end.try_receive(), Err(TransportError::Broken)));
        assert!(matches!(end.receive(None), Err(TransportError::Broken)));
        assert!(matches!(end.send(note(1), None), Err(TransportError::Broken)));
        assert!(matches!(end.try_send(note(1)), Err(TrySendError::Failed(TransportError::Broken))));
        assert!(matches!(end.flush(), Err(TransportError::Broken)));
        assert!(end.is_flushed());
    }
}

#[test]
fn positions_and_entries_that_make_no_sense_break_the_link() {
    let start = 0_u32.wrapping_sub(1000);
    let place = 96 + (start % track::CAPACITY) as usize;
    // The position of the writer; the length and the place in the order of the entry.
    for (written, length, after) in [
        (start.wrapping_sub(1), 0, 0),
        (start.wrapping_add(track::CAPACITY + 1), 0, 0),
        (start.wrapping_add(1), 0, 0),
        (start.wrapping_add(2), 1, 0),
        (start.wrapping_add(100), 4 * 98 + 1, 0),
        (start.wrapping_add(track::CAPACITY), 4097, 0),
        (start.wrapping_add(track::CAPACITY), u32::MAX, 0),
        (start.wrapping_add(2), 0, u32::MAX),
        (start.wrapping_add(2), 0, 0x8000_0000),
    ] {
        let (end, raw) = end_and_raw();
        let (fd, mapping) = Memfd::new(BYTES).expect("there is memory").into_parts();
        let writer = Writer::new(mapping).expect("the memory is there");
        offer(&raw, &[fd.try_clone().expect("a number is free")]);
        assert!(end.try_receive().expect("a ring is offered").is_none());
        let words = Memfd::from_fd(fd, BYTES).expect("it is the same");
        words.memory().store(place, length).expect("it is there");
        words.memory().store(place + 1, after).expect("it is there");
        words.memory().store(0, written).expect("it is there");
        is_broken(&end);
        drop((writer, raw));
    }
}

#[test]
fn an_entry_behind_a_message_that_never_comes_is_waited_for_and_then_the_end() {
    let (end, raw, mapping) = end_and_stranger();
    mapping.store(96 + 1, 1).expect("it is there");
    mapping.store(0, 2).expect("it is there");
    assert!(end.try_receive().expect("it waits").is_none());
    assert!(matches!(end.receive(Some(Duration::from_millis(1))), Err(TransportError::TimedOut)));
    // The peer counts one that is not there, too.
    mapping.store(1, 7).expect("it is there");
    assert!(matches!(end.receive(Some(Duration::from_millis(1))), Err(TransportError::TimedOut)));
    drop(raw);
    assert!(matches!(end.receive(None), Err(TransportError::Closed)));
}

#[test]
fn a_reader_that_writes_nonsense_breaks_the_link() {
    for (word, value) in [(64, 5), (64, u32::MAX), (32, 20_000), (32, 0_u32.wrapping_sub(1001))] {
        let (near, raw) = end_and_raw();
        let (fd, mapping) = Memfd::new(BYTES).expect("there is memory").into_parts();
        let words = Memfd::from_fd(fd, BYTES).expect("it is the same");
        {
            let mut sending = lock(&near.sending);
            sending.track = Some(Writer::new(mapping).expect("the memory is there"));
        }
        words.memory().store(64, 1).expect("it is there");
        words.memory().store(word, value).expect("it is there");
        // It is asked where the reader is when it is full.
        let broken = (0..100_000).find_map(|number| near.try_send(note(number)).err());
        assert!(
            matches!(broken, Some(TrySendError::Failed(TransportError::Broken))),
            "{word}: {value}: {broken:?}"
        );
        stays_broken(&near);
        drop(raw);
    }
}

#[test]
fn memory_that_is_not_what_it_should_be_breaks_the_link() {
    let small = Memfd::new(BYTES - 4).expect("there is memory").into_parts().0;
    let (pipe, _writer) = rustix::pipe::pipe().expect("a pipe can be made");
    let unsealed = rustix::fs::memfd_create("unsealed", rustix::fs::MemfdFlags::ALLOW_SEALING);
    let unsealed = unsealed.expect("there is memory");
    rustix::fs::ftruncate(&unsealed, BYTES).expect("it can grow");
    for fd in [small, pipe, unsealed] {
        let (end, raw) = end_and_raw();
        offer(&raw, &[fd]);
        is_broken(&end);
    }
}

#[test]
fn a_ring_that_was_lost_on_the_way_is_done_without() {
    let (end, mut raw) = end_and_raw();
    offer(&raw, &[]);
    raw.write_all(&[1, 0, 0, 0, b'a']).expect("there is room");
    assert_eq!(end.receive(None).expect("it was sent"), Note(b"a".to_vec()));
}

#[test]
fn rings_and_bells_that_nobody_has_asked_for_break_the_link() {
    let bells = control(1).repeat(BELLS_BEFORE as usize + 1);
    for bytes in [bells, control(0), control(3), control(4), [control(2), control(2)].concat()] {
        let (end, mut raw) = end_and_raw();
        raw.write_all(&bytes).expect("there is room");
        is_broken(&end);
    }
    // Arming asks for one.
    let (end, mut raw, _mapping) = end_and_stranger();
    let armed = lock(&end.receiving).bells - BELLS_BEFORE;
    assert!(armed > 0);
    raw.write_all(&control(1).repeat((BELLS_BEFORE + armed) as usize)).expect("there is room");
    assert!(end.try_receive().expect("they may ring").is_none());
    raw.write_all(&control(1).repeat(3)).expect("there is room");
    is_broken(&end);
}

#[test]
fn messages_that_begin_as_no_message_does_arrive() {
    let messages = || {
        [0, 1, 4000, 4096, 5000, 70_000, 300_000]
            .map(|length| Note([&packet::MARK[..], &Note::sample(1, length).0].concat()))
    };
    for (near, far) in [pair(), Ring::pair(Limits::default()).expect("pair")] {
        thread::scope(|scope| {
            scope.spawn(|| {
                messages()
                    .into_iter()
                    .for_each(|message| near.send(message, None).expect("somebody receives"));
            });
            for message in messages() {
                assert!(far.receive(None).expect("receive") == message);
            }
        });
    }
    // They are as large as they are.
    let (near, far) = Eager::pair::<Note, Note>(Limits::with_message_bytes(10_000)).expect("pair");
    let marked = |length: usize| Note([&packet::MARK[..], &vec![1; length - 8]].concat());
    near.send(marked(10_000), None).expect("at the limit");
    assert!(far.receive(None).expect("receive") == marked(10_000));
    for large in [marked(10_001), Note(vec![0; 10_001]), Note(vec![0; 20_000])] {
        let size = large.0.len();
        let result = near.send(large, None);
        assert!(
            matches!(result, Err(TransportError::TooBig { size: found, limit: 10_000 }) if found == size),
            "{result:?}"
        );
    }
}

#[test]
fn a_message_over_the_receivers_limit_breaks_the_link() {
    // Through the ring, over the socket within what may stand in front, and over that.
    for (through_the_ring, size) in [(true, 101), (false, 101), (false, 109), (false, 110)] {
        let small = Limits::with_message_bytes(100);
        let (near, far) = UnixStream::pair().expect("a pair can be made");
        let near = End::try_from(OwnedFd::from(near)).expect("a stream socket");
        let far = End::from_fd(OwnedFd::from(far), small).expect("a stream socket");
        if through_the_ring {
            near.offer_ring(&mut lock(&near.sending));
            assert!(far.try_receive().expect("a ring is offered").is_none());
        }
        near.send(Note(vec![1; 100]), None).expect("there is room");
        near.send(Note(vec![1; size]), None).expect("there is room");
        assert_eq!(far.receive(None).expect("at the limit").0.len(), 100);
        let result = far.receive(None);
        assert!(
            matches!(result, Err(TransportError::TooBig { size: found, limit: 100 }) if found == size),
            "{result:?}"
        );
        stays_broken(&far);
    }
}

#[test]
fn small_large_and_with_descriptors_keep_their_order() {
    for (near, far) in [
        Eager::pair::<Parcel, Parcel>(Limits::default()).expect("pair"),
        Ring::pair(Limits::default()).expect("pair"),
    ] {
        const COUNT: u32 = 5_000;
        let shape = |number: u32| match number % 97 {
            13 => (70_000, 0),
            20 => (8, 1),
            21 => (3_000, 2),
            50 => (200_000, 1),
            other => ((other * 41) as usize, 0),
        };
        thread::scope(|scope| {
            scope.spawn(|| {
                let (_reader, writer) = rustix::pipe::pipe().expect("a pipe can be made");
                for number in 0..COUNT {
                    let (length, count) = shape(number);
                    let copies = (0..count).map(|_| writer.try_clone().expect("a number is free"));
                    near.send(Parcel::new(Note::sample(number, length), copies.collect()), None)
                        .expect("send");
                }
            });
            for number in 0..COUNT {
                let (length, count) = shape(number);
                let parcel = far.receive(None).expect("receive");
                assert!(parcel.note == Note::sample(number, length), "message {number}");
                assert_eq!(parcel.descriptors.len(), count, "message {number}");
            }
        });
        assert!(lock(&near.sending).track.is_some());
    }
}

#[test]
fn a_ring_is_made_for_who_uses_it() {
    let (near, far) = Ring::pair::<Note, Note>(Limits::default()).expect("pair");
    let has_ring = |end: &End| lock(&end.sending).track.is_some();
    for number in 0..OFFER_AFTER {
        assert!(!has_ring(&near));
        near.send(note(number), None).expect("there is room");
    }
    assert!(has_ring(&near) && !has_ring(&far));
    // Until it is taken up, messages go over the socket.
    near.send(note(OFFER_AFTER), None).expect("there is room");
    assert_eq!(lock(&near.sending).by_socket, 1);
    for number in 0..=OFFER_AFTER {
        assert_eq!(far.receive(None).expect("it was sent"), note(number));
    }
    near.send(note(7), None).expect("there is room");
    assert_eq!(lock(&near.sending).by_socket, 1);
    assert_eq!(far.receive(None).expect("it was sent"), note(7));
}

#[test]
fn an_end_that_is_made_again_goes_on() {
    let (near, mut far) = pair();
    for round in 0..3 {
        // What it has sent through its ring arrives; what was sent to it, and not received, is lost.
        far.send(note(round), None).expect("there is room");
        near.send(note(99), None).expect("there is room");
        far = End::try_from(OwnedFd::from(far)).expect("a stream socket");
        far.send(note(100 + round), None).expect("there is room");
        assert_eq!(near.receive(None).expect("it was sent"), note(round));
        assert_eq!(near.receive(None).expect("it was sent"), note(100 + round));
        for number in 0..3 * OFFER_AFTER {
            near.send(note(number), None).expect("there is room");
            assert_eq!(far.receive(None).expect("it was sent"), note(number));
            far.send(note(number), None).expect("there is room");
            assert_eq!(near.receive(None).expect("it was sent"), note(number));
        }
        assert!(lock(&near.sending).track.is_some() && lock(&far.sending).track.is_some());
    }
}

#[test]
fn an_entry_that_comes_while_the_reader_arms_is_not_slept_over() {
    let (near, far) = pair();
    let mut receiving = lock(&far.receiving);
    assert!(far.take(&mut receiving, Try::Look).expect("nothing is there").is_none());
    near.send(note(1), None).expect("there is room");
    // What the next steps of a receive would be.
    assert_eq!(far.arm(&mut receiving), Ok(true), "it is there");
    assert_eq!(far.take(&mut receiving, Try::Arm).expect("it was sent"), Some(note(1)));
    // One that waits for a message over the socket is told of by that.
    near.send(Note::sample(2, 100_000), None).expect("there is room");
    near.send(note(3), None).expect("there is room");
    assert_eq!(far.arm(&mut receiving), Ok(false));
    assert_eq!(far.take(&mut receiving, Try::Arm).expect("it waits"), None);
    assert!(far.socket.wait(PollFlags::IN, None).expect("it is readable"));
    assert!(far.take(&mut receiving, Try::Read).expect("it was sent") == Some(Note::sample(2, 100_000)));
    assert_eq!(far.take(&mut receiving, Try::Read).expect("it was sent"), Some(note(3)));
}

#[test]
fn a_message_that_was_read_along_is_not_slept_over() {
    // By another thread's receive, before the peer has said that it has sent it: as it never says who was made again of a
    // descriptor.
    let (near, far) = pair();
    let mut receiving = lock(&far.receiving);
    for number in [1, 2] {
        near.send(Note::sample(number, 5_000), None).expect("there is room");
    }
    assert!(far.take(&mut receiving, Try::Read).expect("it was sent") == Some(Note::sample(1, 5_000)));
    let came = receiving.came;
    lock(&near.sending).track.as_ref().expect("it was made").set_by_socket(came).expect("it is there");
    assert_eq!(far.take(&mut receiving, Try::Look).expect("nothing says it"), None);
    let second = far.take_before_sleep(&mut receiving).expect("it was sent");
    assert!(second == Some(Note::sample(2, 5_000)));
    assert_eq!(far.take_before_sleep(&mut receiving).expect("nothing is there"), None);
}

#[test]
fn a_bell_that_is_owed_is_not_owed_for_ever() {
    let owing = || {
        let (near, far) = pair();
        assert_eq!(lock(&far.receiving).bells - BELLS_BEFORE, 1);
        near.send(note(1), None).expect("there is room");
        // As if the system had refused to ring it.
        lock(&near.sending).owes_bell = true;
        assert!(!near.is_flushed());
        (near, far)
    };
    let (near, far) = owing();
    assert!(near.flush().expect("there is room") && near.is_flushed());
    assert_eq!(far.receive(None).expect("it was sent"), note(1));
    assert!(far.try_receive().expect("two bells").is_none());

    // Who has finished rings no more: the end of the file wakes.
    let (near, far) = owing();
    near.finish().expect("the link is there");
    assert!(near.flush().expect("there is nothing to write") && near.is_flushed());
    assert_eq!(far.receive(None).expect("it was sent"), note(1));
    assert!(matches!(far.receive(None), Err(TransportError::Closed)));

    let (near, far) = owing();
    drop(far);
    assert!(matches!(near.flush(), Err(TransportError::Closed)));
    assert!(near.is_flushed());

    let (near, _far) = owing();
    near.give_up();
    assert!(near.is_flushed());
}

/// Ends of one link between which messages of different types go.
fn ends<A, B>() -> (A, B)
where
    A: TryFrom<OwnedFd, Error: fmt::Debug>,
    B: TryFrom<OwnedFd, Error: fmt::Debug>,
{
    let (one, other) = UnixStream::pair().expect("a pair can be made");
    let one = A::try_from(OwnedFd::from(one)).expect("a stream socket");
    (one, B::try_from(OwnedFd::from(other)).expect("a stream socket"))
}

/// Has descriptors when it is sent, and does not take any back.
#[derive(Debug)]
struct Carrier(Vec<OwnedFd>, usize);

impl Message for Carrier {
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), crate::transport::BoxError> {
        out.resize(out.len() + self.1, 7);
        Ok(())
    }

    fn decode(bytes: &[u8]) -> Result<Carrier, crate::transport::BoxError> {
        Ok(Carrier(Vec::new(), bytes.len()))
    }

    fn detach(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.0)
    }
}

#[test]
fn descriptors_of_a_message_that_takes_none_back_arrive() {
    let (reader, writer) = rustix::pipe::pipe().expect("a pipe can be made");
    let carrier = |length| Carrier(vec![writer.try_clone().expect("a number is free")], length);
    let (near, far) = ends::<RingEnd<Carrier, Note>, RingEnd<Note, Parcel>>();
    near.offer_ring(&mut lock(&near.sending));
    for length in [0, 100, 100_000] {
        let sent = thread::scope(|scope| {
            let sending = scope.spawn(|| near.send(carrier(length), None));
            assert_eq!(far.receive(None).expect("receive").descriptors.len(), 1);
            sending.join().expect("it does not panic")
        });
        sent.expect("somebody receives");
        near.try_send(carrier(length.min(1_000))).expect("there is room");
        assert_eq!(far.receive(None).expect("receive").descriptors.len(), 1);
    }
    let (near, far) = ends::<SocketEnd<Carrier, Note>, SocketEnd<Note, Parcel>>();
    near.try_send_more(carrier(10)).expect("there is room");
    assert_eq!(far.receive(None).expect("receive").descriptors.len(), 1);
    drop(reader);
}

/// Panics when it is decoded, if it says so.
#[derive(Debug, PartialEq)]
struct Fragile(Vec<u8>);

impl Message for Fragile {
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), crate::transport::BoxError> {
        out.extend_from_slice(&self.0);
        Ok(())
    }

    fn decode(bytes: &[u8]) -> Result<Fragile, crate::transport::BoxError> {
        assert_ne!(bytes.first(), Some(&b'd'), "as asked");
        Ok(Fragile(bytes.to_vec()))
    }
}

#[test]
fn a_panic_of_a_message_leaves_the_link_usable() {
    let (near, far) = Eager::pair::<Fragile, Fragile>(Limits::default()).expect("pair");
    thread::scope(|scope| {
        // Through the ring, and over the socket.
        for length in [1, 5000, 1] {
            near.send(Fragile(vec![b'd'; length]), None).expect("there is room");
            near.send(Fragile(vec![b'f'; length]), None).expect("there is room");
            assert!(scope.spawn(|| far.receive(None)).join().is_err());
            assert_eq!(far.receive(None).expect("it was sent"), Fragile(vec![b'f'; length]));
        }
    });
}

/// Bytes that are sent from where they lie, and panic when they are dropped after that.
#[derive(Debug)]
struct Falling(Vec<u8>);

impl Message for Falling {
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), crate::transport::BoxError> {
        out.extend_from_slice(&self.0);
        Ok(())
    }

    fn decode(bytes: &[u8]) -> Result<Falling, crate::transport::BoxError> {
        Ok(Falling(bytes.to_vec()))
    }

    fn as_bytes(&self) -> Option<&[u8]> {
        Some(&self.0)
    }
}

impl Drop for Falling {
    fn drop(&mut self) {
        assert_ne!(self.0.first(), Some(&b'd'), "as asked");
    }
}

#[test]
fn a_message_that_panics_when_it_is_sent_does_not_confuse_the_order() {
    let (near, far) = ends::<RingEnd<Falling, Note>, RingEnd<Note, Note>>();
    for round in 0..3 {
        let send = |first: u8, length: usize| {
            let bytes = [vec![first], Note::sample(round, length).0].concat();
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| near.send(Falling(bytes), None)))
        };
        // Small ones before and behind it go through the ring, if there is one.
        for _ in 0..OFFER_AFTER + 1 {
            send(b'a', 10).expect("it does not panic").expect("there is room");
            assert_eq!(far.receive(None).expect("it was sent").0[0], b'a');
        }
        assert!(lock(&near.sending).track.is_some());
        send(b'a', 10).expect("it does not panic").expect("there is room");
        assert!(send(b'd', 70_000).is_err());
        assert!(lock(&near.sending).track.is_none());
        send(b'b', 10).expect("it does not panic").expect("there is room");
        let received = [(); 3].map(|()| far.receive(None).expect("it was sent"));
        assert_eq!(
            received.each_ref().map(|note| (note.0[0], note.0.len())),
            [(b'a', 11), (b'd', 70_001), (b'b', 11)]
        );
    }
}
