//! [`Ends`]: how workers have ended, in little memory.
//!
//! A master keeps the ends of all workers of its run, which may be millions; and whoever is forked from it gets a copy of
//! what tells where each page of its memory is. So ends of few bytes lie behind each other, as they travel, in one piece of
//! memory for 64 workers whose numbers follow each other: about 25 bytes for a worker with a small result.
//!
//! This module does not know who is to be told of an end, or for how long it is wanted.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Ended;

/// Workers whose ends lie together.
const TOGETHER: u64 = 64;

/// An end that takes more bytes is kept by itself.
const BYTES_MAX: usize = 256;

/// The ends of workers, by their numbers.
#[derive(Debug, Default)]
pub(crate) struct Ends {
    small: BTreeMap<u64, Block>,
    large: BTreeMap<u64, Arc<Ended>>,
}

#[derive(Debug)]
struct Block {
    /// Where the end of each worker begins in `bytes`, or [`NOWHERE`].
    places: [u16; TOGETHER as usize],
    bytes: Vec<u8>,
}

const NOWHERE: u16 = u16::MAX;

/// The bytes of a block, at most: room for all, and still some when ends have been replaced.
const BLOCK_MAX: usize = 2 * BYTES_MAX * TOGETHER as usize;

const _: () = assert!(BLOCK_MAX <= NOWHERE as usize);

impl Ends {
    /// Keeps an end, instead of one that is there.
    pub(crate) fn insert(&mut self, ended: Arc<Ended>) {
        let (block, index) = place(ended.id);
        self.remove(ended.id);
        let encoded = postcard::to_stdvec(&*ended).ok().filter(|bytes| bytes.len() <= BYTES_MAX);
        let block = self.small.entry(block).or_insert_with(Block::new);
        match encoded {
            Some(bytes) if block.bytes.len() + bytes.len() <= BLOCK_MAX => {
                block.places[index] = block.bytes.len() as u16;
                block.bytes.extend_from_slice(&bytes);
                if !block.places.contains(&NOWHERE) {
                    block.bytes.shrink_to_fit();
                }
            }
            _ => {
                self.large.insert(ended.id, ended);
            }
        }
    }

    /// The end of a worker, if it is here.
    pub(crate) fn get(&self, id: u64) -> Option<Arc<Ended>> {
        let (block, index) = place(id);
        let small = self.small.get(&block).and_then(|block| block.bytes.get(block.places[index].into()..));
        match small {
            Some(bytes) => postcard::take_from_bytes(bytes).ok().map(|(ended, _)| Arc::new(ended)),
            None => self.large.get(&id).cloned(),
        }
    }

    /// Whether the end of a worker is here.
    pub(crate) fn contains(&self, id: u64) -> bool {
        let (block, index) = place(id);
        self.small.get(&block).is_some_and(|block| block.places[index] != NOWHERE)
            || self.large.contains_key(&id)
    }

    /// Forgets the end of a worker.
    pub(crate) fn remove(&mut self, id: u64) {
        self.large.remove(&id);
        let (number, index) = place(id);
        let Some(block) = self.small.get_mut(&number) else { return };
        block.places[index] = NOWHERE;
        if block.places == [NOWHERE; TOGETHER as usize] {
            self.small.remove(&number);
        }
    }
}

impl Block {
    fn new() -> Block {
        Block { places: [NOWHERE; TOGETHER as usize], bytes: Vec::new() }
    }
}

/// The block of a worker, and its place there.
fn place(id: u64) -> (u64, usize) {
    (id / TOGETHER, (id % TOGETHER) as usize)
}

#[cfg(test)]
mod tests {
    use serde_bytes::ByteBuf;

    use super::*;
    use crate::worker::Outcome;

    fn ended(id: u64, result: &[u8]) -> Arc<Ended> {
        let outcome = Outcome::Returned(ByteBuf::from(result));
        Arc::new(Ended { id, name: "name".into(), process: 70_000, outcome })
    }

    fn result(ends: &Ends, id: u64) -> Option<Vec<u8>> {
        let found = ends.get(id);
        assert_eq!(found.is_some(), ends.contains(id));
        found.map(|ended| {
            assert_eq!((ended.id, &*ended.name, ended.process), (id, "name", 70_000));
            match &ended.outcome {
                Outcome::Returned(bytes) => bytes.to_vec(),
                other => panic!("{other:?}"),
            }
        })
    }

    /// What a worker has told, of a few bytes, of many, and of about as many as are kept together.
    fn sample(id: u64) -> Vec<u8> {
        let length = match id % 7 {
            0 => 1_000,
            1 => 225 + id as usize % 30,
            other => other as usize,
        };
        vec![id as u8; length]
    }

    #[test]
    fn ends_are_found_in_whatever_order_they_come() {
        let mut ends = Ends::default();
        // 37 has no factor in common with 1000.
        let ids: Vec<u64> = (0..1_000).map(|step| step * 37 % 1_000).chain([u64::MAX - 1]).collect();
        for id in &ids {
            assert_eq!(result(&ends, *id), None);
            ends.insert(ended(*id, &sample(*id)));
            assert_eq!(result(&ends, *id), Some(sample(*id)));
        }
        for id in &ids {
            assert_eq!(result(&ends, *id), Some(sample(*id)), "{id}");
        }
        assert_eq!(result(&ends, 1_000), None);
        for id in ids.iter().filter(|id| *id % 3 != 0) {
            ends.remove(*id);
        }
        for id in &ids {
            assert_eq!(result(&ends, *id), (id % 3 == 0).then(|| sample(*id)), "{id}");
        }
        ids.iter().for_each(|id| ends.remove(*id));
        assert!(ends.small.is_empty() && ends.large.is_empty(), "{ends:?}");
    }

    #[test]
    fn an_end_that_comes_again_and_again_takes_bounded_memory() {
        let mut ends = Ends::default();
        for round in 0..10_000_u32 {
            let length = if round % 5 == 0 { 300 } else { 200 };
            ends.insert(ended(7, &vec![round as u8; length]));
            assert_eq!(result(&ends, 7), Some(vec![round as u8; length]));
            ends.insert(ended(8, &[1]));
        }
        assert_eq!(result(&ends, 8), Some(vec![1]));
        assert!(ends.small.values().all(|block| block.bytes.len() <= BLOCK_MAX));
        assert!(ends.large.len() <= 2);
    }

    #[test]
    fn a_small_end_takes_few_bytes() {
        let mut ends = Ends::default();
        (0..640).for_each(|id| ends.insert(ended(id, &[1, 2])));
        assert!(ends.large.is_empty());
        let bytes: usize = ends.small.values().map(|block| block.bytes.capacity() + size_of::<Block>()).sum();
        assert!(bytes <= 640 * 20, "{bytes}");
    }
}
