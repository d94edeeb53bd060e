//! Frames: how messages are told apart in a stream of bytes.
//!
//! A frame is one message with its length in front:
//!
//! | bytes | holds |
//! |---|---|
//! | `0..4` | `n`, the length of the payload, an unsigned little-endian number |
//! | `4..4 + n` | the payload: what [`Message::encode`] appended; `n` may be 0 |
//!
//! Frames follow each other without gaps. There is no marker to find the next one, so a length that cannot
//! be believed is the end of the stream.
//!
//! [`append`] writes a frame; [`Reassembler`] gets payloads back out of bytes that arrive in any chunks and
//! from anybody: it does not panic, does not allocate for bytes that are only announced (what it holds is
//! at most twice of what arrived, plus a constant), and does not copy a byte more than a few times. A payload of 128 KiB
//! and more that has not arrived at once is put together in memory of its own, which is handed out with it.
//!
//! This module does no input or output, and has no checksum, version or type of message: the bytes come
//! from a socket of the same machine, and what they mean is the caller's.

use std::borrow::Cow;
use std::fmt;

use super::{BoxError, Message, TransportError};

/// Bytes in front of each payload.
pub const HEADER_BYTES: usize = 4;

/// The usual size of a buffer: one read takes many small frames. At first it is a few lines of the cache, and when a read
/// has filled that, one page: many links see a few small frames in all their life, and each page that is touched takes the
/// system microseconds, more so where processes are forked.
const CHUNK_BYTES: usize = 64 << 10;
const FIRST_BYTES: usize = 512;

/// A buffer that has grown over this is shrunk once it is empty. A payload for which it would have to gets memory of its
/// own.
const KEPT_BYTES: usize = 128 << 10;

/// Bounds on the room that is made for one read: the most is also what a lying header can cost.
const LEAST_SPACE_BYTES: usize = 4 << 10;
const MOST_SPACE_BYTES: usize = 256 << 10;

/// Appends `message` to `out` as one frame.
///
/// # Errors
/// [`TransportError::Encode`] if the message cannot be encoded or removes bytes from `out`, and
/// [`TransportError::TooBig`] if its payload has more than `limit` (or `u32::MAX`) bytes; in both cases
/// nothing is appended.
pub fn append<M: Message>(message: &M, limit: usize, out: &mut Vec<u8>) -> Result<(), TransportError> {
    append_with(|out| message.encode(out), 0, limit, out)
}

/// Appends the frame of a payload that `encode` appends but for its last `behind` bytes, which are to follow.
///
/// # Errors
/// As [`append`].
pub(super) fn append_with(
    encode: impl FnOnce(&mut Vec<u8>) -> Result<(), BoxError>,
    behind: usize,
    limit: usize,
    out: &mut Vec<u8>,
) -> Result<(), TransportError> {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_BYTES]);
    let result = match encode(out) {
        Ok(()) => fill_length(out.get_mut(start..).unwrap_or_default(), behind, limit),
        Err(error) => Err(TransportError::Encode(error)),
    };
    if result.is_err() {
        out.truncate(start);
    }
    result
}

fn fill_length(frame: &mut [u8], behind: usize, limit: usize) -> Result<(), TransportError> {
    let Some(size) = frame.len().checked_sub(HEADER_BYTES) else {
        return Err(TransportError::Encode("the message removed bytes instead of appending".into()));
    };
    frame[..HEADER_BYTES].copy_from_slice(&header(size.saturating_add(behind), limit)?);
    Ok(())
}

/// What stands in front of a payload of `size` bytes.
fn header(size: usize, limit: usize) -> Result<[u8; HEADER_BYTES], TransportError> {
    match u32::try_from(size) {
        Ok(length) if size <= limit => Ok(length.to_le_bytes()),
        _ => Err(TransportError::TooBig { size, limit: limit.min(u32::MAX as usize) }),
    }
}

/// Clears `buffer`, and gives memory back if the buffer has become unusually large.
pub(super) fn recycle(buffer: &mut Vec<u8>) {
    buffer.clear();
    if buffer.capacity() > KEPT_BYTES {
        buffer.shrink_to(CHUNK_BYTES);
    }
}

/// Turns chunks of bytes back into payloads.
///
/// Bytes go in by [`push`](Reassembler::push), or without a copy by [`space`](Reassembler::space) and
/// [`filled`](Reassembler::filled); payloads come out by [`take`](Reassembler::take).
///
/// ```
/// use manycore_backends::transport::frame::Reassembler;
///
/// let mut frames = Reassembler::new(100);
/// frames.push(&[2, 0, 0, 0, b'h', b'i', 1, 0]);
/// assert_eq!(frames.take().unwrap().as_deref(), Some(&b"hi"[..]));
/// assert_eq!(frames.take().unwrap(), None);
/// frames.push(&[0, 0, b'!']);
/// assert_eq!(frames.take().unwrap().as_deref(), Some(&b"!"[..]));
/// ```
pub struct Reassembler {
    /// A payload with memory of its own. What `buffer` holds comes behind it.
    large: Option<Large>,
    /// All of it is initialised; `start..end` has arrived and was not taken.
    buffer: Vec<u8>,
    /// Where a header begins, or will.
    start: usize,
    end: usize,
    limit: usize,
    /// The least size of the buffer.
    least: usize,
    broken: bool,
}

/// A large payload that is under way, or complete.
struct Large {
    /// All of it is initialised, and at most `size` bytes; the first `arrived` have arrived.
    bytes: Vec<u8>,
    arrived: usize,
    size: usize,
}

impl Large {
    /// The payload of a frame with this header, the beginning of which has arrived.
    fn begin(size: usize, beginning: &[u8]) -> Large {
        let arrived = beginning.len();
        let mut large = Large { bytes: Vec::new(), arrived, size };
        large.grow(arrived + large.missing().min(MOST_SPACE_BYTES));
        large.bytes.extend_from_slice(beginning);
        large
    }

    fn missing(&self) -> usize {
        self.size - self.arrived
    }

    /// Empty only if nothing is missing.
    fn space(&mut self) -> &mut [u8] {
        let wanted = self.missing().min(MOST_SPACE_BYTES);
        // A little at a time, so that what is zeroed here is still in the cache when it is written.
        if self.bytes.len() - self.arrived < wanted.div_ceil(2) {
            self.grow(self.arrived + wanted);
            self.bytes.resize(self.arrived + wanted, 0);
        }
        &mut self.bytes[self.arrived..]
    }

    /// Room for `length` bytes. Capacity doubles, but not past the end: the announced size may be a lie.
    fn grow(&mut self, length: usize) {
        let capacity = self.bytes.capacity();
        if length > capacity {
            let length = length.max(capacity.saturating_mul(2)).min(self.size);
            self.bytes.reserve_exact(length - self.bytes.len());
        }
    }
}

impl Reassembler {
    /// A reassembler that accepts payloads of at most `limit` bytes. It allocates nothing yet.
    pub fn new(limit: usize) -> Reassembler {
        Reassembler {
            large: None,
            buffer: Vec::new(),
            start: 0,
            end: 0,
            limit,
            least: FIRST_BYTES,
            broken: false,
        }
    }

    /// Takes the next payload out, or `None` if it has not arrived whole. One that has got memory of its own is owned.
    ///
    /// # Errors
    /// [`TransportError::TooBig`] if the next frame announces more than the limit; from then on
    /// [`TransportError::Broken`].
    pub fn take(&mut self) -> Result<Option<Cow<'_, [u8]>>, TransportError> {
        if self.broken {
            return Err(TransportError::Broken);
        }
        if let Some(large) = self.large.take_if(|large| large.missing() == 0) {
            return Ok(Some(Cow::Owned(large.bytes)));
        }
        if self.large.is_some() {
            return Ok(None);
        }
        let Some(size) = self.announced() else { return Ok(None) };
        if size > self.limit {
            *self = Reassembler { broken: true, ..Reassembler::new(self.limit) };
            return Err(TransportError::TooBig { size, limit: self.limit });
        }
        if self.missing() > 0 {
            return Ok(None);
        }
        let payload = self.start + HEADER_BYTES;
        self.start = payload + size;
        Ok(Some(Cow::Borrowed(&self.buffer[payload..self.start])))
    }

    /// How many bytes must arrive at least before [`take`](Reassembler::take) can tell more: those that the
    /// current header lacks, or else those that its payload lacks. Zero if something can be taken now.
    pub fn missing(&self) -> usize {
        match &self.large {
            Some(large) => large.missing(),
            None => self.missing_in_buffer(),
        }
    }

    /// As above, of the frame that begins in the buffer.
    fn missing_in_buffer(&self) -> usize {
        match self.announced() {
            _ if self.broken => 0,
            None => HEADER_BYTES - self.buffered(),
            Some(size) if size > self.limit => 0,
            Some(size) => size.saturating_add(HEADER_BYTES).saturating_sub(self.buffered()),
        }
    }

    /// Adds bytes that have arrived. Once the frames are out of step they are dropped.
    pub fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.broken {
            let mut count = 0;
            for space in self.space() {
                let (now, later) = bytes.split_at(space.len().min(bytes.len()));
                space[..now.len()].copy_from_slice(now);
                count += now.len();
                bytes = later;
            }
            self.filled(count);
        }
    }

    /// Room for bytes to arrive in, the second part behind the first: for what the current frame lacks, as far as that
    /// is not too much, and some KiB. There is some, but after [`TransportError::TooBig`]. What its bytes are
    /// before is of no meaning.
    pub fn space(&mut self) -> [&mut [u8]; 2] {
        if self.broken {
            return [&mut [], &mut []];
        }
        self.set_large_apart();
        // Moving no more than was taken out since the last move keeps the cost per byte constant.
        if self.buffered() <= self.start {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let is_apart = self.large.as_ref().is_some_and(|large| large.missing() > 0);
        // What comes behind a payload with memory of its own may be the beginning of another such: it is to be moved.
        let wanted = match self.missing_in_buffer() {
            _ if is_apart => LEAST_SPACE_BYTES,
            missing => missing.clamp(self.least.min(LEAST_SPACE_BYTES), MOST_SPACE_BYTES),
        };
        if self.buffer.len() - self.end < wanted || self.buffer.len() < self.least {
            self.grow(self.end + wanted);
        }
        let space = &mut self.buffer[self.end..];
        match &mut self.large {
            Some(large) if is_apart => {
                let missing = large.missing();
                let apart = large.space();
                let behind = if apart.len() == missing { &mut space[..wanted] } else { &mut [] };
                [apart, behind]
            }
            _ => [space, &mut []],
        }
    }

    /// Gives memory of its own to a large payload that has begun to arrive in the buffer.
    fn set_large_apart(&mut self) {
        match self.announced() {
            Some(size)
                if self.large.is_none()
                    && size > KEPT_BYTES - HEADER_BYTES
                    && self.missing_in_buffer() > 0 =>
            {
                self.large = Some(Large::begin(size, &self.buffer[self.start + HEADER_BYTES..self.end]));
                self.start = 0;
                self.end = 0;
            }
            _ => {}
        }
    }

    /// Says that the first `count` bytes of [`space`](Reassembler::space) have arrived.
    ///
    /// # Panics
    /// If there is not as much space.
    pub fn filled(&mut self, mut count: usize) {
        if let Some(large) = &mut self.large {
            let first = count.min(large.bytes.len() - large.arrived);
            large.arrived += first;
            count -= first;
            assert!(count == 0 || large.missing() == 0, "more bytes than there was space for");
        }
        assert!(count <= self.buffer.len() - self.end, "more bytes than there was space for");
        self.end += count;
        if self.end == self.buffer.len() {
            self.least = if self.least < LEAST_SPACE_BYTES { LEAST_SPACE_BYTES } else { CHUNK_BYTES };
        }
    }

    /// Gives memory back if nothing is held and the buffer has become unusually large.
    pub fn trim(&mut self) {
        if self.buffered() == 0 {
            self.start = 0;
            self.end = 0;
            if self.buffer.capacity() > KEPT_BYTES {
                self.buffer.truncate(CHUNK_BYTES);
                self.buffer.shrink_to(CHUNK_BYTES);
            }
        }
    }

    /// How many bytes have arrived that are of no payload taken out.
    pub(super) fn held(&self) -> usize {
        let apart = self.large.as_ref().map_or(0, |large| HEADER_BYTES + large.arrived);
        apart + self.buffered()
    }

    fn buffered(&self) -> usize {
        self.end - self.start
    }

    /// The length in the header at the beginning of the buffer, if that has arrived.
    fn announced(&self) -> Option<usize> {
        let header = self.buffer[self.start..self.end].first_chunk::<HEADER_BYTES>()?;
        Some(u32::from_le_bytes(*header) as usize)
    }

    /// Makes the buffer at least `length` bytes long. Capacity doubles, so that a frame in many pieces is
    /// copied a constant number of times, but not past the end of a frame that is under way.
    fn grow(&mut self, length: usize) {
        let length = length.max(self.least);
        if length > self.buffer.capacity() {
            let doubled = self.buffer.capacity().saturating_mul(2);
            let useful = match self.missing_in_buffer() {
                0 => usize::MAX,
                missing => self.end.saturating_add(missing),
            };
            self.buffer.reserve_exact(length.max(doubled.min(useful)) - self.buffer.len());
        }
        self.buffer.resize(length, 0);
    }
}

impl fmt::Debug for Reassembler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reassembler")
            .field("held", &self.held())
            .field("missing", &self.missing())
            .field("limit", &self.limit)
            .field("broken", &self.broken)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bytes(Vec<u8>);

    impl Message for Bytes {
        fn encode(&self, out: &mut Vec<u8>) -> Result<(), BoxError> {
            match self.0.as_slice() {
                b"?" => {
                    out.push(b'?');
                    return Err("a question".into());
                }
                b"<" => out.clear(),
                bytes => out.extend_from_slice(bytes),
            }
            Ok(())
        }

        fn decode(bytes: &[u8]) -> Result<Bytes, BoxError> {
            Ok(Bytes(bytes.to_vec()))
        }
    }

    fn frame_of(payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        append(&Bytes(payload.to_vec()), usize::MAX, &mut frame).expect("no limit");
        frame
    }

    #[test]
    fn a_frame_is_length_then_payload() {
        let mut out = vec![9];
        append(&Bytes(b"abc".to_vec()), 3, &mut out).expect("at the limit");
        append(&Bytes(Vec::new()), 0, &mut out).expect("empty");
        assert_eq!(out, [9, 3, 0, 0, 0, b'a', b'b', b'c', 0, 0, 0, 0]);
    }

    #[test]
    fn what_cannot_be_framed_appends_nothing() {
        let mut out = vec![9];
        let error = append(&Bytes(b"abcd".to_vec()), 3, &mut out).expect_err("over the limit");
        assert!(matches!(error, TransportError::TooBig { size: 4, limit: 3 }), "{error}");
        let error = append(&Bytes(b"?".to_vec()), 3, &mut out).expect_err("fails to encode");
        assert!(matches!(error, TransportError::Encode(_)), "{error}");
        assert_eq!(out, [9]);
        let error = append(&Bytes(b"<".to_vec()), 3, &mut out).expect_err("clears the buffer");
        assert!(matches!(error, TransportError::Encode(_)), "{error}");
    }

    #[test]
    fn payloads_are_the_same_for_every_size_of_chunk() {
        let payloads: Vec<Vec<u8>> =
            [0, 1, 3, 4, 5, 0, 0, 70_000, 2, 300_000, 1].iter().map(|&n| vec![n as u8; n]).collect();
        let stream: Vec<u8> = payloads.iter().flat_map(|payload| frame_of(payload)).collect();
        for chunk in [1, 2, 3, 4, 5, 7, 4096, 65_536, 100_000, stream.len()] {
            let mut frames = Reassembler::new(300_000);
            let mut taken = Vec::new();
            for bytes in stream.chunks(chunk) {
                frames.push(bytes);
                while let Some(payload) = frames.take().expect("all within the limit") {
                    taken.push(payload.to_vec());
                }
            }
            assert!(taken == payloads, "chunks of {chunk}");
            assert_eq!((frames.held(), frames.missing()), (0, HEADER_BYTES));
        }
    }

    #[test]
    fn taking_less_than_arrives_loses_nothing() {
        let mut frames = Reassembler::new(1000);
        let mut next_taken = 0u32;
        for number in 0..3000u32 {
            frames.push(&frame_of(&number.to_le_bytes()));
            if number % 3 != 0 {
                assert_eq!(frames.take().expect("small").as_deref(), Some(&next_taken.to_le_bytes()[..]));
                next_taken += 1;
            }
        }
        while let Some(payload) = frames.take().expect("small") {
            assert_eq!(*payload, next_taken.to_le_bytes());
            next_taken += 1;
        }
        assert_eq!(next_taken, 3000);
    }

    #[test]
    fn too_big_once_then_broken_and_without_memory() {
        let mut frames = Reassembler::new(8);
        frames.push(&frame_of(b"12345678"));
        frames.push(&9u32.to_le_bytes());
        assert_eq!(frames.take().expect("at the limit").as_deref(), Some(&b"12345678"[..]));
        assert_eq!(frames.missing(), 0);
        assert!(matches!(frames.take(), Err(TransportError::TooBig { size: 9, limit: 8 })));
        assert_eq!(frames.buffer.capacity(), 0);
        frames.push(&frame_of(b"ok"));
        assert!(matches!(frames.take(), Err(TransportError::Broken)));
        assert!(frames.space().iter().all(|space| space.is_empty()));
        assert_eq!((frames.missing(), frames.buffer.capacity()), (0, 0));
    }

    #[test]
    fn announced_bytes_cost_nothing_before_they_arrive() {
        let mut frames = Reassembler::new(u32::MAX as usize);
        let mut arrived = 4;
        frames.push(&u32::MAX.to_le_bytes());
        for _ in 0..100 {
            assert!(frames.take().expect("within the limit").is_none());
            assert!(frames.space().iter().any(|space| !space.is_empty()));
            let capacity = frames.memory();
            assert!(capacity <= 2 * arrived + 2 * MOST_SPACE_BYTES, "{capacity} for {arrived}");
            frames.push(&[0; 30_000]);
            arrived += 30_000;
        }
    }

    #[test]
    fn a_large_payload_takes_no_memory_past_its_end() {
        let payload = vec![1; 3 << 20];
        let mut frames = Reassembler::new(4 << 20);
        for piece in frame_of(&payload).chunks(10_000) {
            assert!(frames.take().expect("within the limit").is_none());
            frames.push(piece);
        }
        assert!(frames.memory() <= payload.len() + MOST_SPACE_BYTES);
        let taken = frames.take().expect("within the limit").expect("it is whole").into_owned();
        assert!(taken == payload && taken.capacity() == payload.len());
        frames.trim();
        assert!(frames.memory() <= KEPT_BYTES);
    }

    #[test]
    fn large_payloads_are_owned_and_small_ones_are_not() {
        for (size, is_owned) in [(1, false), (KEPT_BYTES - HEADER_BYTES, false), (KEPT_BYTES, true)] {
            let mut frames = Reassembler::new(1 << 20);
            for piece in [frame_of(&vec![1; size]), frame_of(b"behind")].concat().chunks(1000) {
                frames.push(piece);
            }
            let payload = frames.take().expect("within the limit").expect("it is whole");
            assert_eq!((payload.len(), matches!(payload, Cow::Owned(_))), (size, is_owned));
            assert_eq!(frames.held(), HEADER_BYTES + b"behind".len());
            assert_eq!(frames.take().expect("small").as_deref(), Some(&b"behind"[..]));
            assert_eq!(frames.held(), 0);
        }
    }

    #[test]
    fn large_payloads_are_the_same_when_cut_anywhere_and_taken_late() {
        let payloads: Vec<Vec<u8>> = [KEPT_BYTES, 0, 500_000, KEPT_BYTES - 5, 700_000, 300_000, 7]
            .iter()
            .map(|&size| (0..size).map(|at| (at * 31 % 251) as u8).collect())
            .collect();
        let stream = payloads.iter().flat_map(|payload| frame_of(payload)).collect::<Vec<u8>>();
        let mut frame_ends = Vec::new();
        for payload in &payloads {
            frame_ends.push(frame_ends.last().unwrap_or(&0) + HEADER_BYTES + payload.len());
        }
        let near = frame_ends.iter().flat_map(|end| end - 6..(end + 6).min(stream.len()));
        for cut in near.chain([1, 3, 4, 5, CHUNK_BYTES, KEPT_BYTES, MOST_SPACE_BYTES]) {
            for takes_between in [false, true] {
                let mut frames = Reassembler::new(1 << 20);
                let mut taken = Vec::new();
                for part in [&stream[..cut], &stream[cut..]] {
                    frames.push(part);
                    while let Some(payload) = frames.take_if(takes_between) {
                        taken.push(payload);
                    }
                }
                while let Some(payload) = frames.take_if(true) {
                    taken.push(payload);
                }
                assert!(taken == payloads, "cut at {cut}");
            }
        }
    }

    impl Reassembler {
        /// All that it holds.
        fn memory(&self) -> usize {
            self.buffer.capacity() + self.large.as_ref().map_or(0, |large| large.bytes.capacity())
        }

        fn take_if(&mut self, wanted: bool) -> Option<Vec<u8>> {
            if wanted { self.take().expect("within the limit").map(Cow::into_owned) } else { None }
        }
    }

    #[test]
    fn a_recycled_buffer_is_not_large() {
        let mut buffer = vec![0; 10 << 20];
        recycle(&mut buffer);
        assert!(buffer.is_empty() && buffer.capacity() <= KEPT_BYTES);
    }

    #[test]
    fn the_buffer_is_small_until_a_read_fills_it() {
        let mut frames = Reassembler::new(100);
        let frame = frame_of(b"ab");
        for _ in 0..10_000 {
            frames.push(&frame);
            assert_eq!(frames.take().expect("in step").as_deref(), Some(&b"ab"[..]));
            assert_eq!(frames.space()[0].len(), FIRST_BYTES);
        }
        for (filled, then) in [(FIRST_BYTES, LEAST_SPACE_BYTES), (LEAST_SPACE_BYTES, CHUNK_BYTES)] {
            frames.push(&frame.repeat(2 * filled / frame.len()));
            while frames.take().expect("in step").is_some() {}
            assert!(frames.space()[0].len() >= then - 2 * filled);
        }
    }
}
