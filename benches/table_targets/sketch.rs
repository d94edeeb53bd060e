//! [`Sketch`]: how little a table in shared memory could cost on this machine.
//!
//! Buckets of one cache line, as ours: a word that readers check before and after, which places are taken, seven keys, seven
//! values. A longer value has a block of whole lines, with nothing else in it. A writer takes a lock, copies the bucket
//! aside before it changes it, and counts; it writes a longer value to a free block, and then lets the bucket lead there.
//! That is all: values have one length, a key has one binding, there is from the beginning as much room as it will need,
//! and nobody comes after a dead writer. What it cannot do, beside the anchor, no table of such buckets can.

use std::hint::spin_loop;
use std::sync::atomic::{Ordering, fence};

use manycore::shm::{Mapped, Mapping, Memfd, Memory, Window};

use crate::store::Store;

/// Words of a bucket, and where its parts are.
const BUCKET: usize = 16;
const TAKEN: usize = 1;
const KEYS: usize = 2;
const VALUES: usize = 9;
const SLOTS: usize = 7;

/// In the word of the places that are taken: a key of this bucket may be in the next one.
const FULL: u32 = 1 << SLOTS;

/// Words before the buckets: the lock, the number of keys, whether a copy counts and of which bucket, how many blocks there
/// were, how many of those are free, the copy.
const LOCK: usize = 0;
const COUNT: usize = 16;
const SAVED: usize = 17;
const PLACE: usize = 18;
const BLOCKS: usize = 19;
const FREE: usize = 20;
const COPY: usize = 32;
const FIRST: usize = 1024;

pub(crate) struct Sketch {
    memory: Mapping,
    mask: u32,
    /// Words of each value.
    length: usize,
    /// Where the numbers of the free blocks are, and where the blocks begin.
    free: usize,
    blocks: usize,
}

impl Store for Sketch {
    fn empty() -> Sketch {
        Sketch::for_values(1_000_000, 1)
    }

    fn for_values(size: usize, length: usize) -> Sketch {
        let buckets = (size / 4).next_power_of_two();
        // One block more than values: there is a new one before the old one is free.
        let count = if length == 1 { 0 } else { (size + 1).next_multiple_of(BUCKET) };
        let free = FIRST + BUCKET * buckets;
        let blocks = free + count;
        let bytes = 4 * (blocks + count * length.next_multiple_of(BUCKET)) as u64;
        Sketch {
            memory: Memfd::new(bytes).unwrap().into_parts().1,
            mask: buckets as u32 - 1,
            length,
            free,
            blocks,
        }
    }

    fn add(&self, key: i32, value: &[i32]) {
        let words = self.locked();
        let word = self.put_aside(words, value);
        let mut number = self.home(key);
        loop {
            let bucket = place(number);
            let taken = words.get(bucket + TAKEN);
            let slot = (!taken).trailing_zeros() as usize;
            let fits = slot < SLOTS;
            words.change(bucket, || {
                if fits {
                    words.set(bucket + KEYS + slot, key as u32);
                    words.set(bucket + VALUES + slot, word);
                }
                words.set(bucket + TAKEN, taken | if fits { 1 << slot } else { FULL });
            });
            if fits {
                words.set(COUNT, words.get(COUNT) + 1);
                break;
            }
            number = (number + 1) & self.mask;
        }
        words.unlock();
    }

    fn replace(&self, key: i32, value: &[i32]) {
        let words = self.locked();
        let (bucket, slot) = self.locate(words, key).unwrap();
        let (place, word) = (bucket + VALUES + slot, self.put_aside(words, value));
        let old = words.get(place);
        words.change(bucket, || words.set(place, word));
        self.give_up(words, old);
        words.unlock();
    }

    fn remove(&self, key: i32) -> bool {
        let words = self.locked();
        let found = self.locate(words, key);
        if let Some((bucket, slot)) = found {
            let (taken, old) = (words.get(bucket + TAKEN), words.get(bucket + VALUES + slot));
            words.change(bucket, || words.set(bucket + TAKEN, taken & !(1 << slot)));
            self.give_up(words, old);
            words.set(COUNT, words.get(COUNT) - 1);
        }
        words.unlock();
        found.is_some()
    }

    fn find(&self, key: i32) -> Option<Vec<i32>> {
        if self.length == 1 {
            return self.read(key, |_, word| word as i32).map(|value| vec![value]);
        }
        let mut value = Vec::new();
        self.find_into(key, &mut value).then_some(value)
    }

    fn find_into(&self, key: i32, value: &mut Vec<i32>) -> bool {
        value.clear();
        if self.length == 1 {
            value.extend(self.read(key, |_, word| word as i32));
            return !value.is_empty();
        }
        let mut copy: Vec<u32> = bytemuck::cast_vec(std::mem::take(value));
        let found = self.read(key, |words, word| {
            copy.clear();
            words.0.append(self.block(word), self.length, &mut copy).unwrap();
        });
        *value = bytemuck::cast_vec(copy);
        found.is_some()
    }

    fn increment(&self, key: i32) {
        let value = self.read(key, |_, word| word as i32).unwrap();
        self.replace(key, &[value + 1]);
    }

    fn sum(&self) -> i64 {
        let words = Words(self.memory.window());
        let of_bucket = |number| {
            let bucket = place(number);
            let taken = words.get(bucket + TAKEN);
            let of_slot = |slot: usize| match taken >> slot & 1 {
                0 => 0,
                _ => {
                    let part = |from: usize| i64::from(words.get(bucket + from + slot) as i32);
                    part(KEYS) + part(VALUES)
                }
            };
            (0..SLOTS).map(of_slot).sum::<i64>()
        };
        (0..=self.mask).map(of_bucket).sum()
    }

    fn add_group(&self, keys: &[i32], _: &mut [i32]) {
        // Nobody asks how fast it is.
        let mut value = vec![0; self.length];
        keys.iter().for_each(|key| {
            value[0] = *key;
            self.add(*key, &value);
        });
    }

    fn find_group(&self, keys: &[i32], value: &mut Vec<i32>) -> usize {
        keys.iter().filter(|key| self.find_into(**key, value)).count()
    }

    fn find_many(&self, keys: &[i32]) -> i64 {
        keys.iter().filter_map(|key| self.read(*key, |_, word| i64::from(word as i32))).sum()
    }

    fn bytes(&self) -> Option<u64> {
        None
    }
}

impl Sketch {
    /// The bucket in which a key is looked for first.
    fn home(&self, key: i32) -> u32 {
        let mixed = (key as u32).wrapping_mul(0x9E37_79B1);
        (mixed ^ mixed >> 15).wrapping_mul(0x85EB_CA77) >> 7 & self.mask
    }

    fn locked(&self) -> Words<'_> {
        let words = Words(self.memory.window());
        while words.0.compare_exchange(LOCK, 0, 1).unwrap().is_err() {
            spin_loop();
        }
        words
    }

    /// Where a key is, to who has the lock.
    fn locate(&self, words: Words<'_>, key: i32) -> Option<(usize, usize)> {
        let mut number = self.home(key);
        loop {
            let bucket = place(number);
            let (found, taken) = words.search(bucket, key);
            if found != 0 {
                return Some((bucket, found.trailing_zeros() as usize));
            }
            if taken & FULL == 0 {
                return None;
            }
            number = (number + 1) & self.mask;
        }
    }

    /// What `copy` makes of the word of a key, to who has not. It may be called again.
    fn read<T>(&self, key: i32, mut copy: impl FnMut(Words<'_>, u32) -> T) -> Option<T> {
        let words = Words(self.memory.window());
        let mut number = self.home(key);
        loop {
            let bucket = place(number);
            let before = words.get(bucket);
            let (found, taken) = words.search(bucket, key);
            let slot = found.trailing_zeros().min(SLOTS as u32 - 1) as usize;
            let value = (found != 0).then(|| copy(words, words.get(bucket + VALUES + slot)));
            fence(Ordering::Acquire);
            if before % 2 == 1 || words.get(bucket) != before {
                continue;
            }
            if value.is_some() || taken & FULL == 0 {
                return value;
            }
            number = (number + 1) & self.mask;
        }
    }

    /// The word of a value: that itself, or a block with it.
    fn put_aside(&self, words: Words<'_>, value: &[i32]) -> u32 {
        if self.length == 1 {
            return value[0] as u32;
        }
        let free = words.get(FREE);
        let block = if free > 0 {
            words.set(FREE, free - 1);
            words.get(self.free + free as usize - 1)
        } else {
            let blocks = words.get(BLOCKS);
            words.set(BLOCKS, blocks + 1);
            blocks
        };
        words.0.write(self.block(block), bytemuck::cast_slice(value)).unwrap();
        block
    }

    /// Of what a bucket led to, a block is free again.
    fn give_up(&self, words: Words<'_>, word: u32) {
        if self.length > 1 {
            let free = words.get(FREE);
            words.set(self.free + free as usize, word);
            words.set(FREE, free + 1);
        }
    }

    fn block(&self, number: u32) -> usize {
        self.blocks + number as usize * self.length.next_multiple_of(BUCKET)
    }
}

/// Where a bucket begins.
fn place(number: u32) -> usize {
    FIRST + BUCKET * number as usize
}

#[derive(Clone, Copy)]
struct Words<'a>(Mapped<'a>);

impl Words<'_> {
    fn get(self, at: usize) -> u32 {
        self.0.load(at).unwrap()
    }

    fn set(self, at: usize, value: u32) {
        self.0.store(at, value).unwrap();
    }

    fn unlock(self) {
        self.set(LOCK, 0);
    }

    /// The places in a bucket that hold the key, and those that are taken.
    fn search(self, bucket: usize, key: i32) -> (u32, u32) {
        let keys: [u32; SLOTS] = self.0.read_array(bucket + KEYS).unwrap();
        let taken = self.get(bucket + TAKEN);
        let same = |found: u32, (slot, other): (usize, &u32)| found | u32::from(*other == key as u32) << slot;
        (keys.iter().enumerate().fold(0, same) & taken, taken)
    }

    /// Changes a bucket so that readers notice, and that a dead writer's change could be undone.
    fn change(self, bucket: usize, change: impl FnOnce()) {
        let before: [u32; BUCKET] = self.0.read_array(bucket).unwrap();
        self.0.write(COPY, &before).unwrap();
        self.set(PLACE, bucket as u32);
        self.set(SAVED, 1);
        self.set(bucket, before[0].wrapping_add(1));
        fence(Ordering::Release);
        change();
        self.set(bucket, before[0].wrapping_add(2));
        self.set(SAVED, 0);
    }
}
