//! The format of a table's object, version 1: every word, drawn.
//!
//! An object is a run of 32-bit words in the byte order of the machine. Places in it are word numbers;
//! place 0 is the header, so 0 also means "none".
//!
//! # The header
//!
//! | word | name | content |
//! |---|---|---|
//! | 0, 1 | magic | `4D434F52` `54424C31` (`MCOR` `TBL1`) |
//! | 2 | format | 1 |
//! | 3 | byte order | `01020304`; `04030201` shows an object of the other byte order |
//! | 4 | page size | bytes; the object grows in multiples of it |
//! | 5 | protocol | how users lock the object: number of a [`Protocol`](manycore_backends::lock::Protocol) |
//! | 6 | state | 0: creation not finished, 1: ready |
//! | 7 | seed | of the hash of keys |
//! | 8 | top | first word that was never handed out |
//! | 9 | bindings | how many, hidden ones included |
//! | 10 | keys | how many different |
//! | 11 | buckets | in use, N |
//! | 12 | base | buckets in segment 0, a power of two |
//! | 13 | journal | place of the journal block |
//! | 14 | journal length | entries that must be undone; 0 outside of operations |
//! | 15 | - | 0 |
//! | 16 + s | segment s | place of segment s of the bucket array, 0 while it is not needed; s < 32 |
//! | 48 + c | free c | first free block of size class c; c < 64 |
//! | 112 .. 127 | - | 0 |
//!
//! # Blocks
//!
//! From word 128 on, the object consists of blocks. A block of class c has `2^(3 + c/2)` words for even c and
//! one and a half times as many for odd c: 8, 12, 16, 24, 32, ... The upper half of a record's or free
//! block's first word is a mark, the lower half its class.
//!
//! | block | words |
//! |---|---|
//! | record: one binding | 0: `B19D0000` + class; 1: next record of the bucket (of another key); 2: next older binding of this key; 3: key; 4: length of the value in words; 5..: value |
//! | free | 0: `F4EE0000` + class; 1: next free block of this class |
//! | segment s of the bucket array | one word per bucket: its first record. Segment 0 has `base` buckets, segment s > 0 has `base * 2^(s-1)` |
//! | journal | 0: capacity in entries; then entries of two words: place, and the word that was there before |
//!
//! A bucket leads to the newest binding of each of its keys; older, hidden bindings hang behind the newest.
//! The hash of a key chooses among N buckets by linear hashing: with M the smallest power of two >= N, bucket
//! `hash mod M`, or `hash mod M/2` if that is not in use yet. Adding a key beyond one per bucket splits one
//! bucket in two. A bucket's word has a meaning only once the bucket is in use.
//!
//! # The journal
//!
//! Before a word that can be reached is changed, its place and old content are appended to the journal, and
//! the journal length is raised. Storing 0 as the journal length is what makes an operation or group
//! happen; whoever takes the write lock and finds another length undoes the entries, newest first, lowering
//! the length after each. New records are filled in blocks that nobody can reach yet, without journal, but for
//! the two first words of a block that comes from a free list. Blocks given up become free only when the group
//! ends, so that undoing finds them intact. If the journal is full, it moves to a block of twice the size:
//! the entries are copied, the move itself is an entry, and then one store of the journal's place makes the
//! move. After an undone move the old block has the entries before it.

pub(super) const MAGIC: [u32; 2] = [0x4D43_4F52, 0x5442_4C31];
pub(super) const FORMAT: u32 = 1;
pub(super) const BYTE_ORDER: u32 = 0x0102_0304;

pub(super) const AT_MAGIC: u32 = 0;
pub(super) const AT_FORMAT: u32 = 2;
pub(super) const AT_BYTE_ORDER: u32 = 3;
pub(super) const AT_PAGE_SIZE: u32 = 4;
pub(super) const AT_PROTOCOL: u32 = 5;
pub(super) const AT_STATE: u32 = 6;
pub(super) const AT_SEED: u32 = 7;
pub(super) const AT_TOP: u32 = 8;
pub(super) const AT_BINDINGS: u32 = 9;
pub(super) const AT_KEYS: u32 = 10;
pub(super) const AT_BUCKETS: u32 = 11;
pub(super) const AT_BASE: u32 = 12;
pub(super) const AT_JOURNAL: u32 = 13;
pub(super) const AT_JOURNAL_LENGTH: u32 = 14;
pub(super) const AT_SEGMENTS: u32 = 16;
pub(super) const AT_FREE: u32 = 48;

pub(super) const SEGMENTS: u32 = 32;
pub(super) const HEADER_WORDS: u32 = 128;

pub(super) const STATE_READY: u32 = 1;

pub(super) const MARK_RECORD: u32 = 0xB19D_0000;
pub(super) const MARK_FREE: u32 = 0xF4EE_0000;
pub(super) const MARK: u32 = 0xFFFF_0000;

/// Words of a record before its value.
pub(super) const RECORD_WORDS: u32 = 5;

/// Entries kept back for moving the journal, which changes the top and the journal's place.
pub(super) const JOURNAL_SPARE: u32 = 2;

/// Entries of the first journal block: it has the largest capacity that fits class 12, 512 words.
pub(super) const FIRST_JOURNAL_CLASS: u32 = 12;

/// The number of size classes.
pub(super) const CLASSES: u32 = 48;

/// The longest value, in words (256 MiB).
pub const VALUE_MAX: usize = 1 << 26;

/// The smallest page size, in bytes.
pub const PAGE_SIZE_MIN: usize = 160;

/// The largest page size, in bytes.
pub const PAGE_SIZE_MAX: usize = 1 << 20;

/// The page size unless another is asked for, in bytes.
pub(super) const PAGE_SIZE_DEFAULT: usize = 256;

pub(super) fn is_page_size(bytes: usize) -> bool {
    (PAGE_SIZE_MIN..=PAGE_SIZE_MAX).contains(&bytes) && bytes % 4 == 0
}

/// Words of a block of class `class`.
pub(super) const fn class_words(class: u32) -> u32 {
    let power = 8 << (class / 2);
    if class % 2 == 0 { power } else { power + power / 2 }
}

/// The smallest class whose blocks have at least `words` words, if there is one.
pub(super) fn class_for(words: u32) -> Option<u32> {
    let words = words.max(8);
    // The class of the largest power of two not above `words`, then upwards.
    let mut class = (words.ilog2() - 3) * 2;
    while class < CLASSES && class_words(class) < words {
        class += 1;
    }
    (class < CLASSES).then_some(class)
}

/// The segment of a bucket and its number in it, for segments that begin with `base` buckets.
pub(super) fn segment_of(bucket: u32, base: u32) -> (u32, u32) {
    if bucket < base {
        (0, bucket)
    } else {
        let segment = (bucket / base).ilog2() + 1;
        (segment, bucket - (base << (segment - 1)))
    }
}

/// Buckets in segment `segment`.
pub(super) fn segment_buckets(segment: u32, base: u32) -> Option<u32> {
    let shift = segment.saturating_sub(1);
    base.checked_mul(1u32.checked_shl(shift)?)
}

/// The bucket of `hash` among `buckets`, by linear hashing.
pub(super) fn bucket_of(hash: u32, buckets: u32) -> u32 {
    let mask = buckets.next_power_of_two().wrapping_sub(1);
    let bucket = hash & mask;
    if bucket < buckets { bucket } else { hash & (mask >> 1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_cover_every_size_tightly() {
        for words in (1..5000).chain([1 << 20, (1 << 20) + 1, VALUE_MAX as u32 + RECORD_WORDS]) {
            let class = class_for(words).unwrap();
            assert!(class_words(class) >= words);
            assert!(class == 0 || class_words(class - 1) < words, "{words}");
        }
        assert_eq!(class_words(CLASSES - 1), 3 << 25);
        assert_eq!(class_for(u32::MAX), None);
        assert_eq!(class_words(FIRST_JOURNAL_CLASS), 512);
    }

    #[test]
    fn buckets_split_one_by_one() {
        let hashes: Vec<u32> = (0..500u32).map(|n| n.wrapping_mul(0x9E37_79B9)).collect();
        for buckets in 1..200 {
            let source = bucket_of(buckets, buckets);
            for hash in &hashes {
                let (before, after) = (bucket_of(*hash, buckets), bucket_of(*hash, buckets + 1));
                assert!(before < buckets);
                assert!(before == after || (before == source && after == buckets));
            }
        }
    }

    #[test]
    fn segments_follow_each_other_without_gaps() {
        for base in [1, 8, 64] {
            let mut next = (0, 0);
            for bucket in 0..base * 40 {
                assert_eq!(segment_of(bucket, base), next);
                next.1 += 1;
                if next.1 == segment_buckets(next.0, base).unwrap() {
                    next = (next.0 + 1, 0);
                }
            }
        }
    }
}
