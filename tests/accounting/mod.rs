//! Every word of a table is accounted for: header, buckets, records, free blocks and the rest fill it without
//! gap or overlap, each is reached exactly once, and the counts are right. Written from the drawing in
//! `src/table/layout.rs`, and sharing no code with it.

#![allow(dead_code, reason = "each test asks for what it needs")]

use std::collections::BTreeMap;
use std::ops::Range;

/// All bindings, newest first.
pub(crate) type Contents = BTreeMap<i32, Vec<Vec<i32>>>;

// Words of the header.
pub(crate) const PAGE_SIZE: usize = 4;
pub(crate) const PROTOCOL: usize = 5;
const LOCK_WORDS: std::ops::Range<usize> = 256..384;
pub(crate) const STATE: usize = 6;
pub(crate) const SEQUENCE: usize = 16;
pub(crate) const BUCKETS: usize = 17;
pub(crate) const SEED: usize = 18;
pub(crate) const MASK: usize = 19;
pub(crate) const TRANSACTION: usize = 32;
pub(crate) const JOURNAL_LENGTH: usize = 33;
pub(crate) const OPEN: usize = 34;
pub(crate) const JOURNAL: usize = 35;
pub(crate) const TOP: usize = 36;
pub(crate) const BINDINGS: usize = 37;
pub(crate) const KEYS: usize = 38;
pub(crate) const DEFERRED: usize = 39;
pub(crate) const FREE_CLASSES: usize = 48;
pub(crate) const FREE: usize = 64;
pub(crate) const DEFERRED_RECORDS: usize = 384;
pub(crate) const DIRECTORY: usize = 512;
pub(crate) const HEADER: usize = 1024;

/// Keys per bucket beyond which there are more buckets.
pub(crate) const LOAD: usize = 3;
pub(crate) const READY: u32 = u32::from_be_bytes(*b"REDY");
const CLASSES: usize = 184;
const LONGEST: usize = (1 << 24) - 1;

/// What a block is, as its first word says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Free,
    Record,
    Overflow,
    Segment,
    Leaf,
    Journal,
    /// A record, says its first word; but it was given up, and waits to become free.
    Deferred,
}

const KINDS: [Kind; 6] = [Kind::Free, Kind::Record, Kind::Overflow, Kind::Segment, Kind::Leaf, Kind::Journal];

/// What a word is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// Nothing: the table is the same whatever is in it.
    None,
    /// It holds the table together.
    Structure,
    /// It holds the table together, but for bit 0: it need not be said that a record is plain.
    Link,
    /// Whether it is odd holds the table together; how large it is tells nothing.
    Sequence,
    /// The key of a binding, in a slot or a record.
    Key,
    /// The length of a value, of which several have records of one length.
    Length,
    /// It is what the user stored.
    Value,
}

/// A block of the heap.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block {
    pub(crate) kind: Kind,
    pub(crate) granules: usize,
    pub(crate) before_is_free: bool,
    reached: bool,
}

/// All that is known of a table.
pub(crate) struct Account {
    pub(crate) contents: Contents,
    pub(crate) blocks: BTreeMap<usize, Block>,
    pub(crate) meanings: Vec<Meaning>,
}

impl Account {
    /// How many blocks of a kind there are.
    pub(crate) fn count(&self, kind: Kind) -> usize {
        self.blocks.values().filter(|block| block.kind == kind).count()
    }

    /// How many words the blocks of a kind have.
    pub(crate) fn words(&self, kind: Kind) -> usize {
        let blocks = self.blocks.values().filter(|block| block.kind == kind);
        blocks.map(|block| block.granules * 4).sum()
    }

    /// The same table with 0 for all words that tell nothing: two equal ones act alike from now on.
    pub(crate) fn essence(&self, image: &[u32]) -> Vec<u32> {
        let meaning = self.meanings.iter().zip(image);
        meaning
            .map(|(meaning, word)| match meaning {
                Meaning::None | Meaning::Sequence => 0,
                _ => *word,
            })
            .collect()
    }
}

/// Checks the words of a table that no operation is in progress on, and returns its bindings.
#[track_caller]
pub(crate) fn check(image: &[u32]) -> Contents {
    checked(image).contents
}

/// As [`check`], and returns all that is known.
#[track_caller]
pub(crate) fn checked(image: &[u32]) -> Account {
    match account(image) {
        Ok(account) => account,
        Err(message) => panic!("{message}"),
    }
}

/// What the words of a table mean, or what is wrong with them.
pub(crate) fn account(image: &[u32]) -> Result<Account, String> {
    let mut walk = Walk { image, blocks: BTreeMap::new(), meanings: vec![Meaning::None; image.len()] };
    walk.header()?;
    walk.heap()?;
    walk.journal()?;
    let buckets = walk.directory()?;
    let open = image[OPEN] as usize;
    must(open == 0 || buckets.contains(&open), || format!("the open bucket {open} is none in use"))?;
    let contents = walk.buckets(&buckets)?;
    walk.free_lists()?;
    walk.deferred()?;
    for (at, block) in &walk.blocks {
        must(block.reached, || format!("nothing leads to the {:?} at {at}", block.kind))?;
    }
    Ok(Account { contents, blocks: walk.blocks, meanings: walk.meanings })
}

fn must(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}

struct Walk<'a> {
    image: &'a [u32],
    blocks: BTreeMap<usize, Block>,
    meanings: Vec<Meaning>,
}

impl Walk<'_> {
    fn word(&self, at: usize) -> Result<u32, String> {
        self.image.get(at).copied().ok_or_else(|| format!("word {at} is outside of the object"))
    }

    fn mean(&mut self, words: Range<usize>, meaning: Meaning) {
        self.meanings[words].fill(meaning);
    }

    fn header(&mut self) -> Result<(), String> {
        let image = self.image;
        must(image.len() >= HEADER, || "no header".into())?;
        let magic = [*b"MCOR", *b"TBL1", [0, 0, 0, 4], [1, 2, 3, 4]].map(u32::from_be_bytes);
        must(image[..4] == magic, || "magic words, format or byte order".into())?;
        let page_size = image[PAGE_SIZE];
        let possible = (160..=1 << 20).contains(&page_size) && page_size % 4 == 0;
        must(possible, || format!("page size {page_size}"))?;
        must(image[PROTOCOL] <= 3, || "protocol".into())?;
        must(image[STATE] == READY, || "not ready".into())?;
        must(image[JOURNAL_LENGTH] == 0, || "something is to be undone".into())?;
        // What lock methods keep in the object is theirs.
        for unused in
            [7..16, 20..32, 40..48, 54..64, FREE + CLASSES..LOCK_WORDS.start, DEFERRED_RECORDS + 8..DIRECTORY]
        {
            for at in unused {
                must(image[at] == 0, || format!("unused word {at} of the header"))?;
            }
        }
        self.mean(0..DIRECTORY, Meaning::Structure);
        self.mean(LOCK_WORDS, Meaning::None);
        self.mean(DEFERRED_RECORDS..DEFERRED_RECORDS + 8, Meaning::None);
        for at in [SEQUENCE, TRANSACTION] {
            must(image[at] % 2 == 0, || format!("sequence word {at} is odd"))?;
            self.mean(at..at + 1, Meaning::Sequence);
        }
        Ok(())
    }

    /// Finds all blocks.
    fn heap(&mut self) -> Result<(), String> {
        let top = self.image[TOP] as usize;
        must(top <= self.image.len(), || "the top is outside of the object".into())?;
        let mut at = HEADER;
        let mut before: Option<Block> = None;
        while at < top {
            let word = self.image[at];
            let kind = KINDS.get((word >> 24 & 7) as usize);
            let granules = (word & 0xFF_FFFF) as usize;
            let (0xB, Some(kind), 1..) = (word >> 28, kind, granules) else {
                return Err(format!("no block at {at}: {word:08X}"));
            };
            let block = Block { kind: *kind, granules, before_is_free: word >> 27 & 1 == 1, reached: false };
            let free_before = before.filter(|before| before.kind == Kind::Free);
            must(block.before_is_free == free_before.is_some(), || {
                format!("block {at} is wrong about the one before")
            })?;
            let together = free_before.map_or(0, |before| before.granules) + granules;
            must(free_before.is_none() || *kind != Kind::Free || together > LONGEST, || {
                format!("two free blocks meet at {at}")
            })?;
            self.blocks.insert(at, block);
            self.mean(at..at + 1, Meaning::Structure);
            at += 4 * granules;
            before = Some(block);
        }
        must(at == top, || format!("the blocks end at {at}, and the top is {top}"))?;
        must(before.is_none_or(|before| before.kind != Kind::Free), || "a free block at the top".into())
    }

    /// Something leads to this block.
    fn reach(&mut self, at: usize, kind: Kind) -> Result<Block, String> {
        match self.blocks.get_mut(&at) {
            Some(block) if block.kind == kind && !block.reached => {
                block.reached = true;
                Ok(*block)
            }
            Some(block) if block.kind == kind => Err(format!("two ways lead to the {kind:?} at {at}")),
            other => Err(format!("something leads to {at} as a {kind:?}, which is {other:?}")),
        }
    }

    fn journal(&mut self) -> Result<(), String> {
        let block = self.reach(self.image[JOURNAL] as usize, Kind::Journal)?;
        let twice = block.granules >= 128 && block.granules.is_power_of_two();
        must(twice, || format!("a journal of {} granules", block.granules))
    }

    /// The places of the buckets in use, in order.
    fn directory(&mut self) -> Result<Vec<usize>, String> {
        let buckets = self.image[BUCKETS] as usize;
        must((1..1 << 28).contains(&buckets), || format!("{buckets} buckets"))?;
        let mask = self.image[MASK] as usize;
        must(mask == buckets.next_power_of_two() - 1, || format!("mask {mask:#x} for {buckets} buckets"))?;
        let mut places = Vec::new();
        for segment in 0.. {
            if places.len() >= buckets {
                break;
            }
            let leaf = self.image[DIRECTORY + segment / 512] as usize;
            self.mean(DIRECTORY + segment / 512..DIRECTORY + segment / 512 + 1, Meaning::Structure);
            if segment % 512 == 0 {
                let block = self.reach(leaf, Kind::Leaf)?;
                must(block.granules == 129, || format!("the length of leaf {}", segment / 512))?;
            }
            let entry = leaf + 4 + segment % 512;
            self.mean(entry..entry + 1, Meaning::Structure);
            places.extend(self.segment(self.image[entry] as usize, segment)?);
        }
        places.truncate(buckets);
        Ok(places)
    }

    /// The places of the buckets of a segment.
    fn segment(&mut self, first: usize, segment: usize) -> Result<Vec<usize>, String> {
        let buckets = if segment < 64 { 16 } else { 1024 };
        // It begins at most 16 words before its first bucket.
        let before = self.blocks.range(..first).next_back().map_or(0, |(at, _)| *at);
        must(first == (before + 16) / 16 * 16, || format!("segment {segment} does not begin at {first}"))?;
        let block = self.reach(before, Kind::Segment)?;
        must(block.granules == 4 * (buckets + 1), || format!("the length of segment {segment}"))?;
        Ok((0..buckets).map(|bucket| first + 16 * bucket).collect())
    }

    fn buckets(&mut self, buckets: &[usize]) -> Result<Contents, String> {
        let mut contents = Contents::new();
        for (number, at) in buckets.iter().enumerate() {
            must(self.image[*at] % 2 == 0, || format!("bucket {number} is half changed"))?;
            self.mean(*at..at + 1, Meaning::Sequence);
            let mut group = *at;
            while let Some(next) = self.slots(group, number, buckets.len(), &mut contents)? {
                let block = self.reach(next, Kind::Overflow)?;
                must(block.granules == 4, || format!("the length of the overflow block at {next}"))?;
                must(self.image[next + 1] != 0, || format!("an empty overflow block at {next}"))?;
                group = next;
            }
        }
        let bindings: usize = contents.values().map(Vec::len).sum();
        must(bindings == self.image[BINDINGS] as usize, || format!("{bindings} bindings are there"))?;
        must(contents.len() == self.image[KEYS] as usize, || format!("{} keys are there", contents.len()))?;
        must(contents.len() <= LOAD * buckets.len(), || "too few buckets".into())?;
        Ok(contents)
    }

    /// The seven slots of a bucket or an overflow block at `at`; where its link leads.
    fn slots(
        &mut self,
        at: usize,
        bucket: usize,
        buckets: usize,
        contents: &mut Contents,
    ) -> Result<Option<usize>, String> {
        let kinds = self.image[at + 1];
        self.mean(at + 1..at + 2, Meaning::Structure);
        must(kinds >> 15 == 0, || format!("unused bits of the kinds at {at}"))?;
        let link = kinds >> 14 == 1;
        must(!link || kinds >> 12 & 3 == 0, || format!("a link and a key in one slot at {at}"))?;
        for slot in 0..7 {
            let (key_at, value_at) = (at + 2 + slot, at + 9 + slot);
            let value = self.image[value_at];
            let key = self.image[key_at] as i32;
            let values = match kinds >> (2 * slot) & 3 {
                0 => continue,
                1 => vec![vec![]],
                2 => {
                    self.mean(value_at..value_at + 1, Meaning::Value);
                    vec![vec![value as i32]]
                }
                _ => {
                    self.mean(value_at..value_at + 1, Meaning::Link);
                    let values = self.records(value as usize & !1, key)?;
                    let long = self.blocks[&(value as usize & !1)].granules > 64;
                    must(value % 2 == 0 || (values.len() == 1 && !long), || {
                        format!("the record of key {key} is not plain")
                    })?;
                    values
                }
            };
            self.mean(key_at..key_at + 1, Meaning::Key);
            let home = bucket_of(hash(key, self.image[SEED]), buckets);
            must(home == bucket, || format!("key {key} of bucket {home} is in bucket {bucket}"))?;
            must(contents.insert(key, values).is_none(), || format!("key {key} is there twice"))?;
        }
        if link {
            self.mean(at + 8..at + 9, Meaning::Structure);
        }
        Ok(link.then_some(self.image[at + 8] as usize))
    }

    /// The values of the record at `newest` and of those that it hides.
    fn records(&mut self, newest: usize, key: i32) -> Result<Vec<Vec<i32>>, String> {
        let mut values = Vec::new();
        let mut at = newest;
        loop {
            let block = self.reach(at, Kind::Record)?;
            let [length, older, whose] = [1, 2, 3].map(|word| self.image[at + word]);
            must(whose as i32 == key, || format!("record {at} is of key {}", whose as i32))?;
            let room = record_granules(length as usize);
            must(block.granules == room, || {
                format!("record {at} has {} granules, and needs {room}", block.granules)
            })?;
            let value = at + 4..at + 4 + length as usize;
            self.mean(at + 1..at + 2, Meaning::Length);
            self.mean(at + 2..at + 3, Meaning::Structure);
            self.mean(at + 3..at + 4, Meaning::Key);
            self.mean(value.clone(), Meaning::Value);
            values.push(self.image[value].iter().map(|word| *word as i32).collect());
            at = older as usize;
            if at == 0 {
                break;
            }
        }
        Ok(values)
    }

    fn deferred(&mut self) -> Result<(), String> {
        let deferred = self.image[DEFERRED] as usize;
        must(deferred <= 8, || format!("{deferred} deferred records"))?;
        self.mean(DEFERRED_RECORDS..DEFERRED_RECORDS + deferred, Meaning::Structure);
        for place in DEFERRED_RECORDS..DEFERRED_RECORDS + deferred {
            let at = self.image[place] as usize;
            let block = self.reach(at, Kind::Record)?;
            must(block.granules <= 64, || format!("the deferred record {at} is too long"))?;
            self.blocks.get_mut(&at).expect("it was reached").kind = Kind::Deferred;
        }
        Ok(())
    }

    fn free_lists(&mut self) -> Result<(), String> {
        for class in 0..CLASSES {
            let mut at = self.image[FREE + class] as usize;
            let listed = self.image[FREE_CLASSES + class / 32] >> (class % 32) & 1 == 1;
            must(listed == (at != 0), || format!("the bit of free list {class}"))?;
            let mut before = 0;
            while at != 0 {
                let block = self.reach(at, Kind::Free)?;
                must(class_of(block.granules) == class, || format!("free block {at} is in list {class}"))?;
                let last = at + 4 * block.granules - 1;
                must(self.image[at + 2] as usize == before, || {
                    format!("free block {at} is wrong about the one before in the list")
                })?;
                must(self.image[last] as usize == block.granules, || {
                    format!("the last word of free block {at}")
                })?;
                self.mean(at + 1..at + 3, Meaning::Structure);
                self.mean(last..last + 1, Meaning::Structure);
                before = at;
                at = self.image[at + 1] as usize;
            }
        }
        let bits = self.image[FREE_CLASSES + CLASSES / 32] >> (CLASSES % 32);
        must(bits == 0, || "bits of free lists that do not exist".into())
    }
}

fn class_of(granules: usize) -> usize {
    if granules <= 32 {
        return granules - 1;
    }
    let power = granules.ilog2() as usize;
    32 + 8 * (power - 5) + (granules / (1 << (power - 3))) % 8
}

/// How long the record of a value is.
pub(crate) fn record_granules(words: usize) -> usize {
    let granules = (4 + words).div_ceil(4);
    if granules <= 32 {
        return granules;
    }
    // The smallest length of a class is one of 8, 9, .. 15 times a power of two.
    let step = 1 << (granules.ilog2() - 3);
    granules.div_ceil(step) * step
}

/// The hash of a key.
pub(crate) fn hash(key: i32, seed: u32) -> u32 {
    let mut hash = key as u32 ^ seed;
    hash = (hash ^ (hash >> 16)).wrapping_mul(0x85EB_CA6B);
    hash = (hash ^ (hash >> 13)).wrapping_mul(0xC2B2_AE35);
    hash ^ (hash >> 16)
}

/// The bucket of a hash, by linear hashing.
pub(crate) fn bucket_of(hash: u32, buckets: usize) -> usize {
    let (hash, all) = (hash as usize, buckets.next_power_of_two());
    if hash % all < buckets { hash % all } else { hash % (all / 2) }
}
