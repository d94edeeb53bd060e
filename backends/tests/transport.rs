//! A link carries messages in order and whole, or says why not, whatever the peer does or writes.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use manycore_backends::testing::transport::{Note, Parcel};
use manycore_backends::transport::{
    BoxError, Endpoint, Limits, Message, Polysocket, Ring, Socket, SocketEnd, Transport, TransportError,
    TrySendError,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

manycore_backends::transport_conformance!(socket, Socket, encoded);
manycore_backends::transport_conformance!(ring, Ring, encoded);
manycore_backends::transport_conformance!(polysocket, Polysocket);

type End = SocketEnd<Note, Note>;

/// An end, and a peer that can write what it likes.
fn end_and_raw(limits: Limits) -> (End, UnixStream) {
    let (end, raw) = UnixStream::pair().expect("socketpair");
    (End::from_fd(OwnedFd::from(end), limits).expect("a stream socket"), raw)
}

fn frame(payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short");
    [&length.to_le_bytes(), payload].concat()
}

/// Writes the bytes from outside, and receives what becomes whole, until all are written and nothing more is.
fn feed<M: Message>(end: &SocketEnd<M, M>, raw: &mut UnixStream, mut bytes: &[u8]) -> Vec<M> {
    raw.set_nonblocking(true).expect("fcntl");
    let mut received = Vec::new();
    loop {
        match raw.write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
        }
        while let Some(message) = end.try_receive().expect("try_receive") {
            received.push(message);
        }
        if bytes.is_empty() {
            return received;
        }
    }
}

fn ready(end: &impl AsFd) -> PollFlags {
    let mut fds = [PollFd::new(end, PollFlags::IN | PollFlags::OUT)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).expect("poll");
    fds[0].revents()
}

// Law 4
#[test]
fn oversized_announcement_breaks_the_link_for_ever() {
    let (end, mut raw) = end_and_raw(Limits::with_message_bytes(10));
    raw.write_all(&frame(b"0123456789")).expect("write");
    raw.write_all(&11u32.to_le_bytes()).expect("write");
    raw.write_all(&frame(b"after")).expect("write");
    assert_eq!(end.receive(None).expect("at the limit"), Note(b"0123456789".to_vec()));
    assert!(matches!(end.receive(None), Err(TransportError::TooBig { size: 11, limit: 10 })));
    for _ in 0..3 {
        assert!(matches!(end.receive(None), Err(TransportError::Broken)));
        assert!(matches!(end.try_receive(), Err(TransportError::Broken)));
        assert!(matches!(end.send(Note(vec![1]), None), Err(TransportError::Broken)));
        assert!(matches!(end.try_send(Note(vec![1])), Err(TrySendError::Failed(TransportError::Broken))));
        assert!(matches!(end.flush(), Err(TransportError::Broken)));
        assert!(end.is_flushed());
        // Law 6
        assert!(ready(&end).contains(PollFlags::IN));
    }
    assert_eq!(raw.read(&mut [0; 8]).expect("the peer notices"), 0);
    assert!(raw.write_all(b"more").is_err());
}

// Law 4
#[test]
fn oversized_announcement_ends_a_blocked_send() {
    let (end, mut raw) = end_and_raw(Limits::with_message_bytes(4 << 20));
    thread::scope(|scope| {
        let sender = scope.spawn(|| end.send(Note::sample(1, 4 << 20), None));
        raw.write_all(&u32::MAX.to_le_bytes()).expect("write");
        assert!(matches!(end.receive(None), Err(TransportError::TooBig { .. })));
        assert!(matches!(sender.join().expect("sender"), Err(TransportError::Broken)));
    });
}

// Law 4; that nothing is allocated for them is tested in frame.rs, where the buffer can be seen.
#[test]
fn announced_gigabytes_are_refused_or_awaited() {
    let announcement = [&u32::MAX.to_le_bytes()[..], &[0; 10]].concat();
    let (end, mut raw) = end_and_raw(Limits::default());
    raw.write_all(&announcement).expect("write");
    assert!(matches!(end.receive(None), Err(TransportError::TooBig { .. })));

    let (end, mut raw) = end_and_raw(Limits::with_message_bytes(u32::MAX as usize));
    raw.write_all(&announcement).expect("write");
    assert!(matches!(end.receive(Some(Duration::from_millis(1))), Err(TransportError::TimedOut)));
    drop(raw);
    assert!(matches!(end.receive(None), Err(TransportError::Closed)));
}

// Law 5
#[test]
fn truncated_frame_is_closed() {
    let stream = [frame(b"whole"), frame(b"cut off")].concat();
    for length in frame(b"whole").len()..stream.len() {
        let (end, mut raw) = end_and_raw(Limits::default());
        raw.write_all(&stream[..length]).expect("write");
        drop(raw);
        assert_eq!(end.receive(None).expect("receive"), Note(b"whole".to_vec()));
        for _ in 0..3 {
            assert!(matches!(end.try_receive(), Err(TransportError::Closed)));
            assert!(matches!(end.send(Note(vec![]), None), Err(TransportError::Closed)));
        }
    }
}

// Law 5
#[test]
fn peer_that_ends_one_direction_may_be_sent_to() {
    let (end, mut raw) = end_and_raw(Limits::default());
    end.send(Note(b"a".to_vec()), None).expect("send");
    raw.shutdown(Shutdown::Write).expect("shutdown");
    assert!(matches!(end.receive(None), Err(TransportError::Closed)));
    end.send(Note(b"b".to_vec()), None).expect("it still receives");
    end.finish().expect("it is there");
    let mut received = Vec::new();
    raw.read_to_end(&mut received).expect("what was sent is there, then the end");
    assert_eq!(received, [frame(b"a"), frame(b"b")].concat());
    // One that does not receive any more.
    let (end, raw) = end_and_raw(Limits::default());
    raw.shutdown(Shutdown::Both).expect("shutdown");
    assert!(matches!(end.receive(None), Err(TransportError::Closed)));
    assert!(matches!(end.send(Note(vec![]), None), Err(TransportError::Closed)));
}

// Law 1
#[test]
fn bytes_one_by_one_become_messages() {
    let (end, mut raw) = end_and_raw(Limits::default());
    for payload in [&b""[..], b"x", b"hello world"] {
        let frame = frame(payload);
        for (index, byte) in frame.iter().enumerate() {
            assert_eq!(end.try_receive().expect("try_receive"), None, "after {index} bytes");
            // Law 6
            assert!(!ready(&end).contains(PollFlags::IN));
            raw.write_all(&[*byte]).expect("write");
        }
        assert_eq!(end.try_receive().expect("try_receive"), Some(Note(payload.to_vec())));
    }
}

// Laws 1 and 6
#[test]
fn many_frames_in_one_write_are_all_received() {
    let (end, mut raw) = end_and_raw(Limits::default());
    let stream: Vec<u8> = (0..2000u32).flat_map(|number| frame(&number.to_le_bytes())).collect();
    raw.write_all(&stream).expect("write");
    drop(raw);
    for number in 0..2000u32 {
        assert_eq!(end.try_receive().expect("try_receive"), Some(Note(number.to_le_bytes().to_vec())));
    }
    assert!(matches!(end.try_receive(), Err(TransportError::Closed)));
}

// Law 7
#[test]
fn partly_received_message_survives_a_timeout() {
    let (end, mut raw) = end_and_raw(Limits::default());
    let frame = frame(b"in two parts");
    for cut in [2, 4, 9] {
        raw.write_all(&frame[..cut]).expect("write");
        assert!(matches!(end.receive(Some(Duration::ZERO)), Err(TransportError::TimedOut)));
        assert!(matches!(end.receive(Some(Duration::from_millis(2))), Err(TransportError::TimedOut)));
        raw.write_all(&frame[cut..]).expect("write");
        assert_eq!(end.receive(None).expect("receive"), Note(b"in two parts".to_vec()));
    }
}

#[test]
fn frames_are_as_documented() {
    let (end, mut raw) = end_and_raw(Limits::default());
    end.send(Note(b"abc".to_vec()), None).expect("send");
    end.send(Note(vec![]), None).expect("send");
    drop(end);
    let mut received = Vec::new();
    raw.read_to_end(&mut received).expect("read");
    assert_eq!(received, [3, 0, 0, 0, b'a', b'b', b'c', 0, 0, 0, 0]);
}

// Law 6
#[test]
fn full_link_is_not_writable_until_the_peer_receives() {
    let (end, mut raw) = end_and_raw(Limits::default());
    assert!(ready(&end).contains(PollFlags::OUT));
    end.try_send(Note::sample(1, 4 << 20)).expect("try_send");
    assert!(!end.is_flushed() && !end.flush().expect("flush"));
    assert!(!ready(&end).contains(PollFlags::OUT));
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut received = vec![0; 4 + (4 << 20)];
            raw.read_exact(&mut received).expect("read");
            received
        });
        while !end.flush().expect("flush") {
            poll(&mut [PollFd::new(&end, PollFlags::OUT)], None).expect("poll");
        }
        assert!(reader.join().expect("reader") == frame(&Note::sample(1, 4 << 20).0));
    });
    assert!(ready(&end).contains(PollFlags::OUT));
}

// Law 7
#[test]
fn message_refused_by_a_full_socket_is_not_kept() {
    let (end, mut raw) = end_and_raw(Limits::default());
    let mut accepted = 0;
    while end.try_send(Note(vec![1])).is_ok() {
        accepted += 1;
    }
    let flushed = end.is_flushed();
    for timeout in [Duration::ZERO, Duration::from_millis(2)] {
        assert!(matches!(end.send(Note(vec![2]), Some(timeout)), Err(TransportError::TimedOut)));
        assert!(matches!(end.try_send(Note(vec![2])), Err(TrySendError::Full(_))));
        assert_eq!(end.is_flushed(), flushed);
    }
    assert!(flushed, "the socket takes so few bytes all or not at all");
    drop(end);
    let mut received = Vec::new();
    raw.read_to_end(&mut received).expect("read");
    assert!(received == frame(&[1]).repeat(accepted));
}

#[test]
fn only_stream_sockets_become_ends() {
    let (datagram, _peer) = UnixDatagram::pair().expect("socketpair");
    let file = std::fs::File::open("/dev/null").expect("open");
    for (fd, errno) in [
        (OwnedFd::from(datagram), rustix::io::Errno::PROTOTYPE),
        (OwnedFd::from(file), rustix::io::Errno::NOTSOCK),
    ] {
        match End::from_fd(fd, Limits::default()) {
            Err(TransportError::Io { op: "getsockopt", source }) => {
                assert_eq!(source.raw_os_error(), Some(errno.raw_os_error()));
            }
            other => panic!("{other:?}"),
        }
    }
}

// Law 8
#[test]
fn descriptor_becomes_a_private_end_again() {
    let (left, right) = Socket::pair::<Note, Note>(Limits::default()).expect("pair");
    let fd = right.into_fd();
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::empty()).expect("fcntl");
    rustix::io::ioctl_fionbio(&fd, false).expect("ioctl");
    let right = End::from_fd(fd, Limits::default()).expect("a stream socket");
    assert!(rustix::io::fcntl_getfd(&right).expect("fcntl").contains(rustix::io::FdFlags::CLOEXEC));
    assert!(rustix::fs::fcntl_getfl(&right).expect("fcntl").contains(rustix::fs::OFlags::NONBLOCK));
    left.send(Note(b"hello".to_vec()), None).expect("send");
    assert_eq!(right.receive(None).expect("receive"), Note(b"hello".to_vec()));
    // Whoever shares the socket can make it blocking; the end does not rely on it.
    rustix::io::ioctl_fionbio(&right, false).expect("ioctl");
    assert_eq!(right.try_receive().expect("try_receive"), None);
    right.try_send(Note::sample(1, 4 << 20)).expect("try_send");
    assert!(!right.flush().expect("flush"));
}

/// As [`Note`], of a type with the two functions that a message must have.
#[derive(Debug, PartialEq)]
struct Plain(Vec<u8>);

impl Message for Plain {
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), BoxError> {
        Note(self.0.clone()).encode(out)
    }

    fn decode(bytes: &[u8]) -> Result<Plain, BoxError> {
        Ok(Plain(Note::decode(bytes)?.0))
    }
}

fn plain(seed: u32, length: usize) -> Plain {
    Plain(Note::sample(seed, length).0)
}

/// Two large messages with small ones around them, as they are sent, and where one of them ends.
fn large_and_small() -> (Vec<(u32, usize)>, Vec<u8>, Vec<usize>) {
    let messages = vec![(1, 3), (2, 300_000), (3, 0), (4, 131_072), (5, 200_000), (6, 9)];
    let mut bytes = Vec::new();
    let mut ends = vec![0];
    for (seed, length) in &messages {
        bytes.extend(frame(&Note::sample(*seed, *length).0));
        ends.push(bytes.len());
    }
    (messages, bytes, ends)
}

// Laws 1 and 6
#[test]
fn large_messages_cut_anywhere_arrive_whole() {
    let (messages, bytes, ends) = large_and_small();
    // Around the ends of frames and of their headers, and in the middle of payloads.
    let near = ends.iter().flat_map(|end| end.saturating_sub(2)..(end + 7).min(bytes.len()));
    let middle = ends.iter().flat_map(|end| [4096, 65_536, 131_072].map(|more| end + more));
    for cut in near.chain(middle).filter(|cut| *cut < bytes.len()) {
        let (end, mut raw) = end_and_raw(Limits::default());
        let mut received = feed(&end, &mut raw, &bytes[..cut]);
        let whole = ends.iter().filter(|end| (1..=cut).contains(*end)).count();
        assert_eq!(received.len(), whole, "cut at {cut}");
        assert!(!ready(&end).contains(PollFlags::IN));
        received.extend(feed(&end, &mut raw, &bytes[cut..]));
        let sent = messages.iter().map(|(seed, length)| Note::sample(*seed, *length));
        assert!(sent.eq(received), "cut at {cut}");
    }
}

// Laws 1 and 7
#[test]
fn large_message_arrives_behind_a_header_byte_by_byte() {
    let (end, mut raw) = end_and_raw(Limits::default());
    for length in [200_000, 131_072] {
        let bytes = frame(&Note::sample(1, length).0);
        for byte in &bytes[..6] {
            raw.write_all(&[*byte]).expect("write");
            assert!(matches!(end.receive(Some(Duration::ZERO)), Err(TransportError::TimedOut)));
        }
        assert!(feed(&end, &mut raw, &bytes[6..bytes.len() - 1]).is_empty());
        assert!(matches!(end.receive(Some(Duration::from_millis(1))), Err(TransportError::TimedOut)));
        // The last byte, and the next frame with it.
        raw.write_all(&[&bytes[bytes.len() - 1..], &frame(b"next")].concat()).expect("write");
        assert!(end.receive(None).expect("it is whole") == Note::sample(1, length));
        assert_eq!(end.try_receive().expect("try_receive"), Some(Note(b"next".to_vec())));
    }
}

// Law 5
#[test]
fn cut_large_message_is_the_end() {
    let bytes = frame(&Note::sample(1, 300_000).0);
    for cut in [5, 70_000, bytes.len() - 1] {
        let (end, mut raw) = end_and_raw(Limits::default());
        assert!(feed(&end, &mut raw, &bytes[..cut]).is_empty());
        drop(raw);
        for _ in 0..2 {
            assert!(matches!(end.receive(None), Err(TransportError::Closed)), "cut at {cut}");
        }
    }
}

// Law 4
#[test]
fn announcement_over_the_limit_behind_a_large_message_breaks_the_link() {
    let (end, mut raw) = end_and_raw(Limits::with_message_bytes(200_000));
    let bytes = [&frame(&Note::sample(1, 200_000).0)[..], &200_001_u32.to_le_bytes()].concat();
    thread::scope(|scope| {
        scope.spawn(|| raw.write_all(&bytes).expect("write"));
        assert!(end.receive(None).expect("at the limit") == Note::sample(1, 200_000));
        let result = end.receive(None);
        assert!(
            matches!(result, Err(TransportError::TooBig { size: 200_001, limit: 200_000 })),
            "{result:?}"
        );
    });
    assert!(matches!(end.receive(None), Err(TransportError::Broken)));
}

// Law 1
#[test]
fn type_with_two_functions_carries_large_messages() {
    let (messages, bytes, _) = large_and_small();
    let (one, mut raw) = UnixStream::pair().expect("socketpair");
    let end = SocketEnd::<Plain, Plain>::from_fd(OwnedFd::from(one), Limits::default()).expect("a socket");
    let received = feed(&end, &mut raw, &bytes);
    assert!(messages.iter().map(|(seed, length)| plain(*seed, *length)).eq(received));

    // What it sends is the same as what a message sends that holds its bytes.
    let (near, far) = Socket::pair::<Plain, Note>(Limits::default()).expect("pair");
    let far = SocketEnd::<Note, Note>::from_fd(far.into_fd(), Limits::default()).expect("a socket");
    let length = 1 << 20;
    thread::scope(|scope| {
        scope.spawn(|| {
            for seed in 0..3 {
                near.send(plain(seed, length), None).expect("send");
            }
        });
        for seed in 0..3 {
            assert!(far.receive(None).expect("receive") == Note::sample(seed, length));
        }
    });
    while near.try_send(plain(7, 100)).is_ok() {}
    match near.try_send(plain(8, length)) {
        Err(TrySendError::Full(message)) => assert!(message == plain(8, length)),
        result => panic!("{result:?}"),
    }
}

/// A name, its length in front, and bytes that are lent.
#[derive(Debug, PartialEq)]
struct Labelled(String, Vec<u8>);

impl Message for Labelled {
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), BoxError> {
        self.encode_head(out)?;
        out.extend_from_slice(&self.1);
        Ok(())
    }

    fn decode(bytes: &[u8]) -> Result<Labelled, BoxError> {
        let (length, rest) = bytes.split_first().ok_or("no length")?;
        let (name, rest) = rest.split_at_checked((*length).into()).ok_or("no name")?;
        Ok(Labelled(String::from_utf8(name.to_vec())?, rest.to_vec()))
    }

    fn as_bytes(&self) -> Option<&[u8]> {
        Some(&self.1)
    }

    fn encode_head(&self, out: &mut Vec<u8>) -> Result<(), BoxError> {
        out.push(self.0.len().try_into()?);
        out.extend_from_slice(self.0.as_bytes());
        Ok(())
    }
}

// Laws 1, 4 and 9
#[test]
fn messages_that_lend_their_ends_arrive_with_their_heads() {
    let limits = Limits::with_message_bytes(3 << 20);
    let (near, far) = Socket::pair::<Labelled, Labelled>(limits).expect("pair");
    let labelled = |name: &str, length| Labelled(name.to_owned(), Note::sample(1, length).0);
    let lengths = [0, 9, (64 << 10) - 1, 64 << 10, 200_000, (3 << 20) - 4];
    thread::scope(|scope| {
        scope.spawn(|| {
            for length in lengths {
                // Head and end together are one byte too many; the head cannot be encoded.
                let error = near.send(labelled("four", (3 << 20) - 4), None).expect_err("over the limit");
                assert!(matches!(error, TransportError::TooBig { .. }), "{error}");
                let error = near.send(labelled(&"x".repeat(256), length), None).expect_err("too long a name");
                assert!(matches!(error, TransportError::Encode(_)), "{error}");
                near.send(labelled("abc", length), None).expect("at most the limit");
            }
        });
        for length in lengths {
            assert!(far.receive(None).expect("receive") == labelled("abc", length), "{length}");
        }
    });
}

/// So many of some bytes as somebody else says, who also sees when they are dropped.
#[derive(Debug)]
struct Changing(Vec<u8>, Arc<AtomicUsize>);

impl Message for Changing {
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), BoxError> {
        out.extend_from_slice(self.as_bytes().unwrap_or_default());
        Ok(())
    }

    fn decode(bytes: &[u8]) -> Result<Changing, BoxError> {
        Ok(Changing(bytes.to_vec(), Arc::new(AtomicUsize::new(bytes.len()))))
    }

    fn as_bytes(&self) -> Option<&[u8]> {
        self.0.get(..self.1.load(Ordering::SeqCst))
    }
}

/// A large message and its length.
fn changing() -> (Changing, Arc<AtomicUsize>) {
    let length = Arc::new(AtomicUsize::new(4 << 20));
    (Changing(vec![7; 5 << 20], Arc::clone(&length)), length)
}

fn is_dropped(length: &Arc<AtomicUsize>) -> bool {
    Arc::strong_count(length) == 1
}

#[test]
fn message_that_changes_its_length_breaks_the_link() {
    // Shorter, longer, and none.
    for changed in [1 << 20, 5 << 20, 6 << 20] {
        let (near, far) = Socket::pair::<Changing, Changing>(Limits::default()).expect("pair");
        let (message, length) = changing();
        near.try_send(message).expect("an empty link takes the beginning");
        length.store(changed, Ordering::SeqCst);
        assert!(matches!(near.flush(), Err(TransportError::Broken)));
        assert!(near.is_flushed());
        assert!(is_dropped(&length));
        assert!(matches!(near.send(changing().0, None), Err(TransportError::Broken)));
        assert!(matches!(far.receive(None), Err(TransportError::Closed)));
    }
}

// Law 2
#[test]
fn large_message_is_dropped_when_it_is_sent_or_cannot_be() {
    let (near, far) = Socket::pair::<Changing, Changing>(Limits::default()).expect("pair");
    let (message, length) = changing();
    near.try_send(message).expect("an empty link takes the beginning");
    assert!(!is_dropped(&length), "a part is to be sent");
    thread::scope(|scope| {
        let receiving = scope.spawn(|| far.receive(None).expect("receive").0.len());
        while !near.flush().expect("flush") {
            poll(&mut [PollFd::new(&near, PollFlags::OUT)], None).expect("poll");
        }
        assert_eq!(receiving.join().expect("it does not panic"), 4 << 20);
    });
    assert!(is_dropped(&length));

    // The peer goes in the middle of one; one is over the limit; one is refused in time.
    let (message, length) = changing();
    near.try_send(message).expect("an empty link takes the beginning");
    drop(far);
    assert!(matches!(near.flush(), Err(TransportError::Closed)));
    assert!(is_dropped(&length));
    let (near, _far) =
        Socket::pair::<Changing, Changing>(Limits::with_message_bytes((4 << 20) - 1)).expect("pair");
    let (message, length) = changing();
    assert!(matches!(near.send(message, None), Err(TransportError::TooBig { .. })));
    assert!(is_dropped(&length));
    let small = || Changing(vec![1], Arc::new(AtomicUsize::new(1)));
    while near.try_send(small()).is_ok() {}
    let (message, length) = changing();
    length.store(1 << 20, Ordering::SeqCst);
    assert!(matches!(near.send(message, Some(Duration::ZERO)), Err(TransportError::TimedOut)));
    assert!(is_dropped(&length));
}

/// Panics when it is encoded or decoded, if it says so.
#[derive(Debug, PartialEq)]
struct Fragile(u8);

impl Message for Fragile {
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), BoxError> {
        out.push(self.0);
        assert_ne!(self.0, b'e', "as asked");
        Ok(())
    }

    fn decode(bytes: &[u8]) -> Result<Fragile, BoxError> {
        assert_ne!(bytes, b"d", "as asked");
        Ok(Fragile(bytes[0]))
    }
}

// Law 9, for panics
#[test]
fn panic_of_a_message_leaves_the_link_usable() {
    let (left, right) = Socket::pair::<Fragile, Fragile>(Limits::default()).expect("pair");
    thread::scope(|scope| {
        assert!(scope.spawn(|| left.send(Fragile(b'e'), None)).join().is_err());
        assert!(left.is_flushed());
        left.send(Fragile(b'd'), None).expect("send");
        left.send(Fragile(b'f'), None).expect("send");
        assert!(scope.spawn(|| right.receive(None)).join().is_err());
        assert_eq!(right.receive(None).expect("receive"), Fragile(b'f'));
    });
}

/// A pipe; what is written into its second end comes out of the first, and its end when all copies are closed.
fn pipe() -> (OwnedFd, OwnedFd) {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("a pipe can be made")
}

fn read_all(reader: &OwnedFd) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 64];
    loop {
        match rustix::io::read(reader, &mut buffer).expect("it can be read") {
            0 => return bytes,
            count => bytes.extend_from_slice(&buffer[..count]),
        }
    }
}

#[test]
fn descriptors_travel_with_their_messages() {
    let (near, far): (End, End) = Socket::pair(Limits::default()).expect("pair");
    let pipes: Vec<_> = (0..6).map(|_| pipe()).collect();
    let writer = |index: usize| pipes[index].1.as_fd();
    // With one, with none, with some, with a large message that needs many calls, and with none.
    near.send_with(Note::sample(1, 10), &[writer(0)], None).expect("there is room");
    near.send(Note::sample(2, 10), None).expect("there is room");
    near.send_with(Note::sample(3, 0), &[writer(1), writer(2), writer(1)], None).expect("there is room");
    near.send_with(Note::sample(4, 30), &[writer(3)], None).expect("there is room");
    let sender = thread::spawn({
        let large = rustix::io::fcntl_dupfd_cloexec(writer(4), 0).expect("a number is free");
        move || {
            near.send_with(Note::sample(5, 3 << 20), &[large.as_fd()], None).expect("somebody receives");
            near.send(Note::sample(6, 100_000), None).expect("somebody receives");
        }
    });
    let mut received = Vec::new();
    for (seed, length, count) in
        [(1, 10, 1), (2, 10, 0), (3, 0, 3), (4, 30, 1), (5, 3 << 20, 1), (6, 100_000, 0)]
    {
        let (message, descriptors) = far.receive_with(None).expect("it was sent");
        assert_eq!(message, Note::sample(seed, length));
        assert_eq!(descriptors.len(), count, "of message {seed}");
        received.extend(descriptors);
    }
    sender.join().expect("the thread does not panic");
    assert!(matches!(far.try_receive_with(), Err(TransportError::Closed)));
    // In order, open, and private.
    for (number, descriptor) in (b'a'..).zip(&received) {
        let flags = rustix::io::fcntl_getfd(descriptor).expect("it is open");
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        rustix::io::write(descriptor, &[number]).expect("somebody reads");
    }
    drop(received);
    let texts: Vec<_> = pipes
        .into_iter()
        .map(|(reader, writer)| {
            drop(writer);
            String::from_utf8(read_all(&reader)).expect("it is text")
        })
        .collect();
    assert_eq!(texts, ["a", "bd", "c", "e", "f", ""]);
}

#[test]
fn descriptors_travel_with_large_messages_left_to_flush() {
    let (near, far): (End, End) = Socket::pair(Limits::default()).expect("pair");
    let pipes: Vec<_> = (0..4).map(|_| pipe()).collect();
    // It is over in the middle of the message, which is accepted then.
    near.send_with(Note::sample(1, 3 << 20), &[pipes[0].1.as_fd()], Some(Duration::ZERO))
        .expect("there is room");
    assert!(!near.is_flushed());
    thread::scope(|scope| {
        scope.spawn(|| {
            for (seed, length) in [(2, 200_000), (3, 10), (4, 1 << 20)] {
                let writer = pipes[seed as usize - 1].1.as_fd();
                near.send_with(Note::sample(seed, length), &[writer], None).expect("somebody receives");
            }
        });
        for (seed, length) in [(1, 3 << 20), (2, 200_000), (3, 10), (4, 1 << 20)] {
            let (message, descriptors) = far.receive_with(None).expect("it was sent");
            assert!(message == Note::sample(seed, length), "message {seed}");
            assert_eq!(descriptors.len(), 1, "of message {seed}");
            rustix::io::write(&descriptors[0], &[seed as u8]).expect("somebody reads");
        }
    });
    for (seed, (reader, writer)) in (1..).zip(pipes) {
        drop(writer);
        assert_eq!(read_all(&reader), [seed]);
    }
}

#[test]
fn descriptors_that_come_in_the_middle_of_a_large_frame_belong_to_its_message() {
    let (end, mut raw) = end_and_raw(Limits::default());
    let (reader, writer) = pipe();
    let bytes = [frame(&Note::sample(1, 300_000).0), frame(b"behind")].concat();
    assert!(feed(&end, &mut raw, &bytes[..150_000]).is_empty());
    send_raw(&raw, &bytes[150_000..150_001], &[writer.as_fd()]);
    drop(writer);
    assert!(feed(&end, &mut raw, &bytes[150_001..250_000]).is_empty());
    raw.write_all(&bytes[250_000..]).expect("there is room");
    let (message, descriptors) = end.receive_with(None).expect("it was sent");
    assert!(message == Note::sample(1, 300_000));
    assert_eq!(descriptors.len(), 1);
    let (message, others) = end.receive_with(None).expect("it was sent");
    assert_eq!((message, others.len()), (Note(b"behind".to_vec()), 0));
    drop(descriptors);
    assert_eq!(read_all(&reader), b"");
}

#[test]
fn descriptors_that_nobody_asks_for_are_closed() {
    let (near, far): (End, End) = Socket::pair(Limits::default()).expect("pair");
    let (reader, writer) = pipe();
    near.send_with(Note::sample(1, 10), &[writer.as_fd()], None).expect("there is room");
    near.send_with(Note(b"undecodable".to_vec()), &[writer.as_fd()], None).expect("there is room");
    near.send_with(Note::sample(2, 10), &[writer.as_fd()], None).expect("there is room");
    drop(writer);
    assert_eq!(far.receive(None).expect("it was sent"), Note::sample(1, 10));
    assert!(matches!(far.receive_with(None), Err(TransportError::Decode(_))));
    // One is on its way, and is closed with the link.
    drop(far);
    assert_eq!(read_all(&reader), b"");
}

#[test]
fn too_many_descriptors_are_refused_and_as_many_as_may_be_arrive() {
    let (near, far): (End, End) = Socket::pair(Limits::default()).expect("pair");
    let (_reader, writer) = pipe();
    let many = vec![writer.as_fd(); 254];
    let result = near.send_with(Note::sample(1, 10), &many, None);
    assert!(
        matches!(result, Err(TransportError::TooManyDescriptors { count: 254, limit: 253 })),
        "{result:?}"
    );
    near.send_with(Note::sample(2, 10), &many[..253], None).expect("there is room");
    let (message, descriptors) = far.receive_with(None).expect("it was sent");
    assert_eq!((message, descriptors.len()), (Note::sample(2, 10), 253));
}

#[test]
fn a_message_with_too_many_descriptors_is_refused_and_they_are_closed() {
    let (near, far) = Socket::pair::<Parcel, Parcel>(Limits::default()).expect("pair");
    let (reader, writer) = pipe();
    let parcel = |count: usize| {
        let copies = (0..count).map(|_| writer.try_clone().expect("a number is free")).collect();
        Parcel::new(Note::sample(1, 10), copies)
    };
    let result = near.send(parcel(254), None);
    assert!(
        matches!(result, Err(TransportError::TooManyDescriptors { count: 254, limit: 253 })),
        "{result:?}"
    );
    let result = near.try_send(parcel(254));
    assert!(
        matches!(result, Err(TrySendError::Failed(TransportError::TooManyDescriptors { .. }))),
        "{result:?}"
    );
    near.send(parcel(253), None).expect("there is room");
    assert_eq!(far.receive(None).expect("it was sent").descriptors.len(), 253);
    drop(writer);
    assert_eq!(read_all(&reader), b"");
}

/// Sends bytes with descriptors, as a stranger may.
fn send_raw(raw: &UnixStream, bytes: &[u8], descriptors: &[std::os::fd::BorrowedFd<'_>]) {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    let mut room = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut control = SendAncillaryBuffer::new(&mut room);
    assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)));
    let sent = sendmsg(raw, &[std::io::IoSlice::new(bytes)], &mut control, SendFlags::empty());
    assert_eq!(sent, Ok(bytes.len()));
}

#[test]
fn descriptors_in_the_middle_of_a_frame_belong_to_its_message() {
    let (end, mut raw) = end_and_raw(Limits::default());
    let (reader, writer) = pipe();
    let (other_reader, other) = pipe();
    let bytes = [frame(b"first"), frame(b"second")].concat();
    raw.write_all(&bytes[..6]).expect("there is room");
    send_raw(&raw, &bytes[6..8], &[writer.as_fd()]);
    send_raw(&raw, &bytes[8..14], &[other.as_fd()]);
    raw.write_all(&bytes[14..]).expect("there is room");
    drop((writer, other));
    let (message, descriptors) = end.receive_with(None).expect("it was sent");
    assert_eq!((message, descriptors.len()), (Note(b"first".to_vec()), 1));
    let (second, others) = end.receive_with(None).expect("it was sent");
    assert_eq!((second, others.len()), (Note(b"second".to_vec()), 1));
    drop(descriptors);
    assert_eq!(read_all(&reader), b"");
    drop(others);
    assert_eq!(read_all(&other_reader), b"");
}

#[test]
fn stranger_cannot_fill_the_table_of_descriptors() {
    let (end, raw) = end_and_raw(Limits::default());
    let (reader, writer) = pipe();
    let many = vec![writer.as_fd(); 253];
    // A frame that never ends.
    send_raw(&raw, &[0xff, 0xff, 0, 0, 1], &many);
    send_raw(&raw, &[2], &many[..1]);
    drop(many);
    drop(writer);
    let result = loop {
        match end.try_receive_with() {
            Ok(None) => {}
            result => break result.map(|_| ()),
        }
    };
    assert!(matches!(result, Err(TransportError::Broken)), "{result:?}");
    drop(end);
    assert_eq!(read_all(&reader), b"", "all are closed");
}

#[test]
fn descriptors_of_a_message_whose_decoding_panics_go_with_it() {
    let (near, far) = Socket::pair::<Fragile, Fragile>(Limits::default()).expect("pair");
    let (reader, writer) = pipe();
    near.send_with(Fragile(b'd'), &[writer.as_fd()], None).expect("there is room");
    drop(writer);
    near.send(Fragile(b'f'), None).expect("there is room");
    thread::scope(|scope| assert!(scope.spawn(|| far.receive_with(None)).join().is_err()));
    let (message, descriptors) = far.receive_with(None).expect("it was sent");
    assert_eq!((message, descriptors.len()), (Fragile(b'f'), 0));
    assert_eq!(read_all(&reader), b"", "it is closed");
}
