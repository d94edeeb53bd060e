//! Whatever bytes arrive, in whatever pieces, the reassembler gives only payloads within the limit, the same as
//! if all had arrived at once, and holds no more than what has arrived; and decoding them as values of shared
//! memory, as messages of workers, masters and visitors, and as users' values in these, does not panic: what can be
//! read is the same after it was written and read again.

#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use manycore::codec::{Cbor, decode_all};
use manycore::testing::read_as_messages;
use manycore::transport::frame::Reassembler;

#[derive(Arbitrary, Debug)]
struct Input {
    /// In units of [`UNIT`], so that payloads may be large enough to get memory of their own.
    limit: u16,
    pieces: Vec<Piece>,
}

/// Bytes that arrive at once.
#[derive(Arbitrary, Debug)]
struct Piece {
    bytes: Vec<u8>,
    /// A frame's header and as many bytes as it announces, without so many at their end; in units of [`UNIT`].
    announced: Option<(u16, u16)>,
    /// And so many bytes without a meaning.
    more: u16,
}

const UNIT: usize = 8;

/// What is pushed in all, at most.
const BYTES_MAX: usize = 2 << 20;

impl Piece {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        if let Some((size, cut)) = self.announced {
            let size = usize::from(size) * UNIT;
            bytes.extend((size as u32).to_le_bytes());
            let arrives = size.saturating_sub(usize::from(cut) * UNIT);
            bytes.extend((0..arrives).map(|at| (at % 251) as u8));
        }
        bytes.extend(std::iter::repeat_n(1, usize::from(self.more)));
        bytes
    }
}

fn take_all(frames: &mut Reassembler, limit: usize, taken: &mut Vec<Vec<u8>>) -> bool {
    loop {
        match frames.take() {
            Ok(Some(payload)) => {
                assert!(payload.len() <= limit);
                taken.push(payload.to_vec());
            }
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
}

fuzz_target!(|input: Input| {
    let limit = usize::from(input.limit) * UNIT;
    let mut pieces: Vec<Vec<u8>> = Vec::new();
    let mut room = BYTES_MAX;
    for piece in &input.pieces {
        let mut bytes = piece.bytes();
        bytes.truncate(room);
        room -= bytes.len();
        pieces.push(bytes);
    }
    let (mut taken, mut at_once) = (Vec::new(), Vec::new());
    let mut frames = Reassembler::new(limit);
    let mut sound = true;
    for piece in &pieces {
        frames.push(piece);
        sound &= take_all(&mut frames, limit, &mut taken);
    }
    let mut whole = Reassembler::new(limit);
    whole.push(&pieces.concat());
    let whole_is_sound = take_all(&mut whole, limit, &mut at_once);
    assert_eq!((sound, &taken), (whole_is_sound, &at_once));
    for payload in &taken {
        read_as_messages(payload);
        let words: Vec<u32> =
            payload.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect();
        let _ = decode_all::<String>(&words);
        let _ = decode_all::<Vec<(Option<u64>, String)>>(&words);
        let _ = decode_all::<Cbor<Vec<Option<(u8, String)>>>>(&words);
    }
});
