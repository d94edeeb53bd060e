//! Whatever bytes arrive, in whatever pieces, the reassembler gives only payloads within the limit, the same as
//! if all had arrived at once, and holds no more than what has arrived; and decoding them as values of shared
//! memory does not panic.

#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use manycore::codec::{Cbor, decode_all};
use manycore::transport::frame::Reassembler;

#[derive(Arbitrary, Debug)]
struct Input {
    limit: u16,
    pieces: Vec<Vec<u8>>,
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
    let limit = usize::from(input.limit);
    let (mut taken, mut at_once) = (Vec::new(), Vec::new());
    let mut frames = Reassembler::new(limit);
    let mut sound = true;
    for piece in &input.pieces {
        frames.push(piece);
        sound &= take_all(&mut frames, limit, &mut taken);
    }
    let mut whole = Reassembler::new(limit);
    whole.push(&input.pieces.concat());
    let whole_is_sound = take_all(&mut whole, limit, &mut at_once);
    assert_eq!((sound, &taken), (whole_is_sound, &at_once));
    for payload in &taken {
        let words: Vec<u32> =
            payload.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect();
        let _ = decode_all::<String>(&words);
        let _ = decode_all::<Vec<(Option<u64>, String)>>(&words);
        let _ = decode_all::<Cbor<Vec<Option<(u8, String)>>>>(&words);
    }
});
