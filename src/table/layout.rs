//! The format of a table's object, version 4: every word, drawn.
//!
//! An object is a run of 32-bit words in the byte order of the machine. Places in it are word numbers;
//! place 0 is in the header, so 0 also means "none".
//!
//! # The header: words 0 to 1023
//!
//! | word | name | content |
//! |---|---|---|
//! | 0, 1 | magic | `4D434F52` `54424C31` (`MCOR` `TBL1`) |
//! | 2 | format | 4 |
//! | 3 | byte order | `01020304`; `04030201` shows an object of the other byte order |
//! | 4 | page size | bytes; the object grows in multiples of it |
//! | 5 | protocol | how users lock the object: number of a [`Protocol`](manycore_backends::lock::Protocol) |
//! | 6 | state | 0: creation not finished, `52454459` (`REDY`): ready |
//! | 16 | sequence | of the table: odd while more than one bucket may be half changed |
//! | 17 | buckets | in use, N, at least 1 |
//! | 18 | seed | of the hash of keys, chosen at random for each table |
//! | 19 | mask | M - 1, where M is the smallest power of two that is at least N |
//! | 32 | transaction | odd while a writer is changing something |
//! | 33 | journal length | entries that must be undone if the writer dies now |
//! | 34 | open | the bucket in use whose sequence word was made odd last, 0 if none was since the table became empty |
//! | 35 | journal | the journal block |
//! | 36 | top | the first word that was never handed out, or was given back: the end of the heap |
//! | 37 | bindings | how many, hidden ones included |
//! | 38 | keys | how many different |
//! | 39 | deferred | how many records given up wait to become free blocks, at most 8 |
//! | 48 + c/32 | free classes | bit c mod 32 tells whether list c is not empty |
//! | 64 + c | free list c | the first free block of size class c, or 0; c < 184 |
//! | 256 .. 383 | lock | the words of [`Futex`](manycore_backends::lock::futex), drawn there; 0 under another protocol |
//! | 384 + d | deferred record d | its place; d < 8; beyond their number it has no meaning |
//! | 512 + l | leaf l | leaf l of the directory, for those that N buckets need; l < 512 |
//! | others | - | 0 |
//!
//! Words 16 to 31 are for readers and seldom change; words 32 to 47 change with each write, and no reader that
//! takes no lock needs them but to ask for the number of bindings.
//!
//! # The heap: from word 1024 to the top
//!
//! The heap consists of blocks, which fill it without gaps. A block begins at a multiple of four words and is a
//! multiple of four words, a *granule* (16 bytes), long. Its first word tells what it is:
//!
//! | bits | content |
//! |---|---|
//! | 31 .. 28 | `B` |
//! | 27 | 1 if the block before this one is free |
//! | 26 .. 24 | kind: 0 free, 1 record, 2 overflow, 3 segment, 4 leaf, 5 journal |
//! | 23 .. 0 | length in granules, at least 1 |
//!
//! | kind | words |
//! |---|---|
//! | free | 1: next free block of the class, or 0; 2: the one before it in the list, or 0 if it is the first; last word: length in granules |
//! | record: one binding | 1: length of the value in words; 2: record of the next older binding of the key, or 0; 3: key; 4 ..: value |
//! | overflow | 1 .. 15: as in a bucket; the first word is the block's |
//! | segment | from the next multiple of 16 on: buckets |
//! | leaf | 4 + i: first bucket of segment 512 l + i, for those that N buckets need; i < 512 |
//! | journal | 2 + 2e, 3 + 2e: entry e: a place, and the word that was there before |
//!
//! No two free blocks lie beside each other (unless they would be too long as one), and none lies at the top. The
//! size class of a length of g granules is g - 1 up to 32 granules; above that, eight classes between one power
//! of two and the next, numbered on: with 2^p <= g < 2^(p+1) it is 32 + 8 (p - 5) + (g / 2^(p-3) mod 8). A free
//! block is in the list of its length's class. Records of more than 32 granules are rounded up to 8, 9, .. or 15 times
//! a power of two, where classes begin, so that the room of a record serves any other of the same class.
//!
//! A record of up to 64 granules that is given up is *deferred*: its place is noted in the header, and that is all. To make
//! it a free block takes words of its own and of others, which are seldom in the cache, and to wait for memory takes longer
//! than all the rest. The next record of its length is put there; eight become free blocks together, after their words
//! were fetched together, when a ninth is given up, or before the object is enlarged. The words of a deferred record have
//! no meaning, but for the first.
//!
//! A new table has three blocks: a journal of 128 granules, leaf 0 at word 1536, and segment 0 at word 2052, of which the
//! last two never move.
//!
//! # Buckets
//!
//! A bucket is a cache line: 16 words at a multiple of 16.
//!
//! | word | content |
//! |---|---|
//! | 0 | sequence: odd while the bucket, or anything that hangs on it, is half changed |
//! | 1 | kinds: bits 2s, 2s + 1: what is in slot s: 0 nothing, 1 an empty value, 2 a value of one word, 3 a record; bit 14: slot 6 holds the link to an overflow block; other bits 0 |
//! | 2 + s | key of slot s; for a link, the place of the overflow block; s < 7 |
//! | 9 + s | the value of one word, or the place of the newest record; plus 1 if that is *plain*: it hides no others, and may be deferred |
//!
//! Words of slots with nothing in them have no meaning. A key has one slot, in its bucket or in an overflow
//! block behind it, with its newest binding; the older ones hang behind the newest's record. A value of no or one
//! word is put into the slot itself, unless it hides others. (It stays in its record if it hides none any more, or
//! replaced a longer one there.) A plain record can be given up without a look at it; not of each that is plain it must be
//! said.
//!
//! Keys are spread over N buckets by linear hashing: with M the smallest power of two >= N, a key of hash h
//! belongs into bucket `h mod M`, or `h mod M/2` if that is not in use yet. Adding a key beyond three per bucket takes
//! bucket N into use: keys move over from one bucket, `N mod M/2` as N is then. Of the first 1024 buckets each 16 are a
//! segment, so bucket b is in segment b/16; after them each 1024 are one, so it is in segment 63 + b/1024. The directory
//! tells where a segment is; what it says of segments that N buckets do not need has no meaning, and neither have buckets
//! from N on.
//!
//! # Changing something
//!
//! A writer holds the lock. A change of more than a single word goes so:
//!
//! 1. The transaction word becomes odd.
//! 2. If only what hangs on one bucket changes: its place is stored in `open`, and its sequence word becomes odd.
//!    Otherwise (groups, taking a bucket into use, clearing) the table's sequence word does.
//! 3. Values are written into blocks that nobody can reach yet. Before a word that can be reached is changed, its
//!    place and old content are appended to the journal, and the journal length is raised.
//! 4. Storing 0 as the journal length makes it happen.
//! 5. The sequence words, then the transaction word, become even.
//!
//! Whoever takes the lock and finds the transaction word odd undoes the journal's entries, newest first, lowering
//! the length after each, and then does step 5. Of a block that comes from a free list, the words that the list
//! needs are journalled; what else it contained had no meaning. Blocks given up become free, or deferred, at the end of
//! the transaction, so that undoing finds them intact. (What was deferred before can become free earlier, before the object
//! is enlarged. Then the words are journalled by which it, and the free blocks that it joins, were known.) If the journal
//! is full, it moves to a block of twice the size at the top: the move itself is two entries (the top, the journal's
//! place), the second of which is written into the new block, too, where it would follow; and then one store of the
//! journal's place makes the move. The entries before it stay in the old block, to which undoing the move leads back.
//!
//! # Looking without a lock
//!
//! A reader reads the table's sequence word, finds the bucket, reads its sequence word, copies what it wants, and
//! then reads both again: if both are what they were, and even, nothing was half changed meanwhile. (Sequence
//! words count to 2^32 and begin anew: a reader would have to be held up during 2^31 changes of one bucket to be
//! deceived.) A value of one word that replaces another of one word, outside of a group, is a single store, and
//! needs no sequence; the transaction word rises by two after it. The number of bindings is read between two equal, even readings of the transaction word; so is
//! everything that must be of one state, through handles that can take no lock.

pub(super) const MAGIC: [u32; 2] = [0x4D43_4F52, 0x5442_4C31];
pub(super) const FORMAT: u32 = 4;
pub(super) const BYTE_ORDER: u32 = 0x0102_0304;
pub(super) const STATE_READY: u32 = 0x5245_4459;

pub(super) const AT_MAGIC: u32 = 0;
pub(super) const AT_FORMAT: u32 = 2;
pub(super) const AT_BYTE_ORDER: u32 = 3;
pub(super) const AT_PAGE_SIZE: u32 = 4;
pub(super) const AT_PROTOCOL: u32 = 5;
pub(super) const AT_STATE: u32 = 6;
pub(super) const AT_SEQUENCE: u32 = 16;
pub(super) const AT_BUCKETS: u32 = 17;
pub(super) const AT_SEED: u32 = 18;
pub(super) const AT_MASK: u32 = 19;
pub(super) const AT_TRANSACTION: u32 = 32;
pub(super) const AT_JOURNAL_LENGTH: u32 = 33;
pub(super) const AT_OPEN: u32 = 34;
pub(super) const AT_JOURNAL: u32 = 35;
pub(super) const AT_TOP: u32 = 36;
pub(super) const AT_BINDINGS: u32 = 37;
pub(super) const AT_KEYS: u32 = 38;
pub(super) const AT_DEFERRED: u32 = 39;
pub(super) const AT_FREE_CLASSES: u32 = 48;
pub(super) const AT_FREE: u32 = 64;
/// Words for lock methods that keep theirs in the object.
pub(super) const AT_LOCKS: u32 = manycore_backends::lock::futex::AREA.start as u32;
pub(super) const AT_LOCKS_END: u32 = manycore_backends::lock::futex::AREA.end as u32;
/// The places of the deferred records.
pub(super) const AT_DEFERRED_RECORDS: u32 = 384;
pub(super) const AT_LEAVES: u32 = 512;
pub(super) const HEADER_WORDS: u32 = 1024;

/// Words in a granule.
pub(super) const GRANULE: u32 = 4;
/// The longest block, in granules.
pub(super) const GRANULES_MAX: u32 = (1 << 24) - 1;
pub(super) const CLASSES: u32 = 184;

/// As many records can be deferred.
pub(super) const DEFERRED_MAX: u32 = 8;
/// The longest that are, in granules. So what waits is less than 8 KiB.
pub(super) const DEFERRED_GRANULES_MAX: u32 = 64;

/// What a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Free = 0,
    Record = 1,
    Overflow = 2,
    Segment = 3,
    Leaf = 4,
    Journal = 5,
}

const BLOCK_MARK: u32 = 0xB000_0000;
const BLOCK_MARK_MASK: u32 = 0xF000_0000;
pub(super) const BEFORE_IS_FREE: u32 = 1 << 27;

/// The first word of a block, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BlockHead {
    pub(super) kind: Kind,
    pub(super) before_is_free: bool,
    pub(super) granules: u32,
}

impl BlockHead {
    pub(super) const fn new(kind: Kind, granules: u32) -> BlockHead {
        BlockHead { kind, before_is_free: false, granules }
    }

    pub(super) const fn word(self) -> u32 {
        BLOCK_MARK
            | if self.before_is_free { BEFORE_IS_FREE } else { 0 }
            | ((self.kind as u32) << 24)
            | self.granules
    }

    /// The length of the block of this kind that begins with this word.
    #[inline(always)]
    pub(super) fn length_of(kind: Kind, word: u32) -> Option<u32> {
        let granules = word & GRANULES_MAX;
        let rest = word & !(GRANULES_MAX | BEFORE_IS_FREE);
        (rest == BLOCK_MARK | (kind as u32) << 24 && granules != 0).then_some(granules)
    }

    #[inline]
    pub(super) const fn from_word(word: u32) -> Option<BlockHead> {
        let kind = match (word >> 24) & 7 {
            0 => Kind::Free,
            1 => Kind::Record,
            2 => Kind::Overflow,
            3 => Kind::Segment,
            4 => Kind::Leaf,
            5 => Kind::Journal,
            _ => return None,
        };
        let granules = word & GRANULES_MAX;
        if word & BLOCK_MARK_MASK != BLOCK_MARK || granules == 0 {
            return None;
        }
        Some(BlockHead { kind, before_is_free: word & BEFORE_IS_FREE != 0, granules })
    }
}

/// Words of a record before its value.
pub(super) const RECORD_WORDS: u32 = 4;
pub(super) const RECORD_LENGTH: u32 = 1;
pub(super) const RECORD_OLDER: u32 = 2;

/// Words of a bucket.
pub(super) const BUCKET_WORDS: u32 = 16;
pub(super) const SLOTS: u32 = 7;
/// Words of a bucket before the values.
pub(super) const BUCKET_HEAD: usize = BUCKET_VALUES as usize;
pub(super) const BUCKET_KINDS: u32 = 1;
pub(super) const BUCKET_KEYS: u32 = 2;
pub(super) const BUCKET_VALUES: u32 = 9;
/// The slot that may hold a link.
pub(super) const LINK_SLOT: u32 = 6;
/// The bit of the kinds that says that it does.
pub(super) const LINK: u32 = 1 << 14;
pub(super) const KINDS_UNUSED: u32 = !((1 << 15) - 1);

pub(super) const SLOT_NOTHING: u32 = 0;
pub(super) const SLOT_EMPTY: u32 = 1;
pub(super) const SLOT_WORD: u32 = 2;
pub(super) const SLOT_RECORD: u32 = 3;

/// What is added to the place of a record, in a slot, to say that it is plain.
pub(super) const PLAIN: u32 = 1;

/// What is in a slot for a record of so many granules, which hides the record `older`, or none.
#[inline(always)]
pub(super) const fn record_word(at: u32, granules: u32, older: u32) -> u32 {
    if older == 0 && granules <= DEFERRED_GRANULES_MAX { at | PLAIN } else { at }
}

/// Where the record is to which what is in a slot leads.
#[inline(always)]
pub(super) const fn record_place(word: u32) -> u32 {
    word & !PLAIN
}

/// Keys per bucket beyond which another bucket is taken into use.
pub(super) const LOAD: u32 = 3;

pub(super) const LEAVES: u32 = 512;
pub(super) const LEAF_SEGMENTS: u32 = 512;
pub(super) const LEAF_WORDS: u32 = 4 + LEAF_SEGMENTS;
/// Buckets of the first segments, and how many those are.
pub(super) const SMALL_SEGMENT_BUCKETS: u32 = 16;
pub(super) const SMALL_SEGMENTS: u32 = SEGMENT_BUCKETS / SMALL_SEGMENT_BUCKETS;
/// Buckets of all the others.
pub(super) const SEGMENT_BUCKETS: u32 = 1024;
/// As many buckets as the directory can tell of.
pub(super) const BUCKETS_MAX: u32 = (LEAVES * LEAF_SEGMENTS - SMALL_SEGMENTS + 1) * SEGMENT_BUCKETS;

/// Words of the journal block before its entries.
pub(super) const JOURNAL_WORDS: u32 = 2;
/// Granules of the first journal block: 255 entries.
pub(super) const FIRST_JOURNAL: u32 = 128;
/// The blocks with which a table begins, one after the other: the journal at first, and these, which never move.
pub(super) const FIRST_LEAF: u32 = HEADER_WORDS + FIRST_JOURNAL * GRANULE;
pub(super) const FIRST_SEGMENT: u32 = FIRST_LEAF + LEAF_WORDS;
pub(super) const FIRST_TOP: u32 = FIRST_SEGMENT + segment_granules(0) * GRANULE;
/// Entries kept back for moving the journal, which changes the top and the journal's place.
pub(super) const JOURNAL_SPARE: u32 = 2;

/// The longest value, in words (240 MiB less 16 bytes): its record has the smallest length of the last class.
pub const VALUE_MAX: usize = (15 << 22) - RECORD_WORDS as usize;

/// The smallest page size, in bytes.
pub const PAGE_SIZE_MIN: usize = 160;

/// The largest page size, in bytes.
pub const PAGE_SIZE_MAX: usize = 1 << 20;

/// The page size unless another is asked for, in bytes.
pub(super) const PAGE_SIZE_DEFAULT: usize = 256;

pub(super) fn is_page_size(bytes: usize) -> bool {
    (PAGE_SIZE_MIN..=PAGE_SIZE_MAX).contains(&bytes) && bytes % 4 == 0
}

/// The size class of a length.
#[inline]
pub(super) const fn class_of(granules: u32) -> u32 {
    if granules <= 32 {
        granules - 1
    } else {
        let power = granules.ilog2();
        32 + 8 * (power - 5) + ((granules >> (power - 3)) & 7)
    }
}

/// Where a class begins. (Class 32 begins at 32 granules, which have a class of their own.)
pub(super) const fn class_granules(class: u32) -> u32 {
    if class < 32 {
        class + 1
    } else {
        let power = 5 + (class - 32) / 8;
        (8 + (class - 32) % 8) << (power - 3)
    }
}

/// The first class all of whose blocks are at least so long, if there is one.
#[inline]
pub(super) fn class_for(granules: u32) -> Option<u32> {
    let class = class_of(granules);
    let class = if class_granules(class) < granules { class + 1 } else { class };
    (class < CLASSES).then_some(class)
}

/// Granules of a record with a value of `words` words.
///
/// # Panics
/// If that is more than [`VALUE_MAX`].
#[inline]
pub(super) fn record_granules(words: usize) -> u32 {
    debug_assert!(words <= VALUE_MAX);
    let granules = (words as u32 + RECORD_WORDS).div_ceil(GRANULE);
    if granules <= 32 { granules } else { class_for(granules).map_or(GRANULES_MAX, class_granules) }
}

/// The segment of a bucket, and its number in it.
#[inline]
pub(super) const fn segment_of(bucket: u32) -> (u32, u32) {
    if bucket < SEGMENT_BUCKETS {
        (bucket / SMALL_SEGMENT_BUCKETS, bucket % SMALL_SEGMENT_BUCKETS)
    } else {
        (SMALL_SEGMENTS - 1 + bucket / SEGMENT_BUCKETS, bucket % SEGMENT_BUCKETS)
    }
}

/// Buckets in a segment.
pub(super) const fn segment_buckets(segment: u32) -> u32 {
    if segment < SMALL_SEGMENTS { SMALL_SEGMENT_BUCKETS } else { SEGMENT_BUCKETS }
}

/// Granules of the block of a segment.
pub(super) const fn segment_granules(segment: u32) -> u32 {
    // Wherever the block begins, the buckets begin at most 16 words later.
    (BUCKET_WORDS + segment_buckets(segment) * BUCKET_WORDS) / GRANULE
}

/// The first bucket in the segment block `block`.
pub(super) const fn first_bucket(block: u32) -> u32 {
    (block / BUCKET_WORDS + 1) * BUCKET_WORDS
}

/// What the header's mask is for so many buckets.
#[inline]
pub(super) fn mask_of(buckets: u32) -> u32 {
    u32::MAX.checked_shr((buckets - 1).leading_zeros()).unwrap_or(0)
}

/// The bucket of `hash` among `buckets`, by linear hashing.
#[inline]
pub(super) fn bucket_of(hash: u32, buckets: u32) -> u32 {
    masked_bucket_of(hash, buckets, mask_of(buckets))
}

/// The same where the mask for so many buckets is known.
#[inline(always)]
pub(super) fn masked_bucket_of(hash: u32, buckets: u32, mask: u32) -> u32 {
    let bucket = hash & mask;
    if bucket < buckets { bucket } else { hash & (mask >> 1) }
}

/// The hash of a key in a table: the finalizer of MurmurHash3 over the key and the table's seed.
#[inline]
pub(super) fn hash(key: i32, seed: u32) -> u32 {
    let mut hash = key as u32 ^ seed;
    hash ^= hash >> 16;
    hash = hash.wrapping_mul(0x85EB_CA6B);
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(0xC2B2_AE35);
    hash ^ (hash >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_cover_every_length() {
        for granules in (1..5000).chain([1 << 20, (1 << 20) + 1, GRANULES_MAX]) {
            let class = class_of(granules);
            assert!(class < CLASSES && class_granules(class) <= granules);
            let next = class + 1;
            assert!(granules == 32 || next == CLASSES || granules < class_granules(next), "{granules}");
            assert!(class == 32 || class_of(class_granules(class)) == class);
            let Some(fitting) = class_for(granules) else { continue };
            assert!(class_granules(fitting) >= granules && fitting - class <= 1);
        }
        assert_eq!(class_for(GRANULES_MAX), None);
        assert_eq!(class_granules(CLASSES - 1), 15 << 20);
        assert_eq!(record_granules(VALUE_MAX), 15 << 20);
        assert_eq!(record_granules(64), 17);
        for words in 0..5000 {
            let granules = record_granules(words);
            assert!(granules as usize * 4 >= words + 4);
            assert_eq!(class_granules(class_of(granules)), granules, "reusable by its own size");
        }
    }

    #[test]
    fn block_heads_come_back() {
        for kind in [Kind::Free, Kind::Record, Kind::Overflow, Kind::Segment, Kind::Leaf, Kind::Journal] {
            for (before_is_free, granules) in [(false, 1), (true, GRANULES_MAX)] {
                let head = BlockHead { kind, before_is_free, granules };
                assert_eq!(BlockHead::from_word(head.word()), Some(head));
                assert_eq!(BlockHead::from_word(head.word() ^ 1 << 30), None);
                assert_eq!(BlockHead::length_of(kind, head.word()), Some(granules));
                assert_eq!(BlockHead::length_of(kind, head.word() ^ 1 << 24), None);
                assert_eq!(BlockHead::length_of(kind, head.word() ^ 1 << 30), None);
                assert_eq!(BlockHead::length_of(kind, head.word() & !GRANULES_MAX), None);
            }
        }
        assert_eq!(BlockHead::from_word(0xB100_0000), None);
        assert_eq!(BlockHead::from_word(0xB600_0001), None);
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
        assert!(bucket_of(u32::MAX, BUCKETS_MAX) < BUCKETS_MAX);
    }

    #[test]
    fn segments_follow_each_other_without_gaps() {
        let mut next = (0, 0);
        for bucket in 0..10_000 {
            assert_eq!(segment_of(bucket), next);
            next.1 += 1;
            if next.1 == segment_buckets(next.0) {
                next = (next.0 + 1, 0);
            }
        }
        assert_eq!(segment_of(BUCKETS_MAX - 1), (LEAVES * LEAF_SEGMENTS - 1, 1023));
    }

    #[test]
    fn first_blocks_are_where_the_drawing_says() {
        assert_eq!((FIRST_LEAF, FIRST_SEGMENT), (1536, 2052));
    }

    #[test]
    fn masks_are_powers_of_two_less_one() {
        for buckets in (1..5000).chain([BUCKETS_MAX - 1, BUCKETS_MAX]) {
            assert_eq!(mask_of(buckets), buckets.next_power_of_two() - 1);
        }
    }

    #[test]
    fn buckets_fit_their_segment_wherever_it_lies() {
        for segment in [0, 1, SMALL_SEGMENTS - 1, SMALL_SEGMENTS, SMALL_SEGMENTS + 1] {
            for block in (1024..1100).step_by(4) {
                let end = first_bucket(block) + segment_buckets(segment) * BUCKET_WORDS;
                assert!(first_bucket(block) > block && first_bucket(block) % 16 == 0);
                assert!(end <= block + segment_granules(segment) * GRANULE);
            }
        }
    }
}
