//! Every word of a table is accounted for: header, journal, segments, records and free blocks fill it
//! without gap or overlap, and the counts are right. Written from the drawing in `src/table/layout.rs`, and
//! sharing no code with it.

use std::collections::BTreeMap;

/// All bindings, newest first.
pub(crate) type Contents = BTreeMap<i32, Vec<Vec<i32>>>;

const TOP: usize = 8;
const BINDINGS: usize = 9;
const KEYS: usize = 10;
const BUCKETS: usize = 11;
const BASE: usize = 12;
const JOURNAL: usize = 13;
const JOURNAL_LENGTH: usize = 14;
const SEGMENTS: usize = 16;
const FREE: usize = 48;
const FIRST_BLOCK: usize = 128;
const RECORD: u32 = 0xB19D_0000;
const FREE_BLOCK: u32 = 0xF4EE_0000;

/// Checks the words of a table that no operation is in progress on, and returns its bindings.
#[track_caller]
pub(crate) fn check(image: &[u32]) -> Contents {
    match account(image) {
        Ok(contents) => contents,
        Err(message) => panic!("{message}"),
    }
}

fn account(image: &[u32]) -> Result<Contents, String> {
    let word = |at: usize| image.get(at).copied().ok_or(format!("word {at} is outside of the object"));
    let mut blocks = Blocks::default();
    let must = |holds: bool, what: &str| if holds { Ok(()) } else { Err(what.to_owned()) };

    must(image.len() >= FIRST_BLOCK, "no header")?;
    must(image[..4] == [0x4D43_4F52, 0x5442_4C31, 1, 0x0102_0304], "magic words, format or byte order")?;
    must(image[6] == 1, "not ready")?;
    must(image[JOURNAL_LENGTH] == 0, "something is to be undone")?;
    must(image[15] == 0 && image[112..128].iter().all(|word| *word == 0), "unused words")?;
    let top = image[TOP] as usize;
    must(top <= image.len(), "the top is outside of the object")?;

    let capacity = word(image[JOURNAL] as usize)?;
    must((2 * capacity + 2).is_power_of_two(), "capacity of the journal")?;
    blocks.take(image[JOURNAL] as usize, 2 * capacity as usize + 2, "journal")?;

    let (buckets, base) = (image[BUCKETS] as usize, image[BASE] as usize);
    must(base.is_power_of_two() && buckets >= base, "number of buckets")?;
    let mut bucket_words = Vec::new();
    for segment in 0..32 {
        let at = image[SEGMENTS + segment] as usize;
        if bucket_words.len() >= buckets {
            must(at == 0, "a segment that is not needed")?;
            continue;
        }
        let count = if segment == 0 { base } else { base << (segment - 1) };
        blocks.take(at, count, "segment")?;
        bucket_words.extend(at..at + count);
    }
    bucket_words.truncate(buckets);

    let mut contents = Contents::new();
    let mut bindings = 0;
    for (bucket, at) in bucket_words.into_iter().enumerate() {
        let mut newest = word(at)? as usize;
        while newest != 0 {
            let key = word(newest + 3)? as i32;
            must(bucket == bucket_of(hash(key as u32 ^ image[7]), buckets), "a key in the wrong bucket")?;
            let mut values = Vec::new();
            let mut at = newest;
            while at != 0 {
                let class = word(at)? ^ RECORD;
                must(class < 48, &format!("no record at {at}"))?;
                blocks.take(at, class_words(class), "record")?;
                must(word(at + 3)? as i32 == key, "a hidden binding of another key")?;
                let length = word(at + 4)? as usize;
                must(5 + length <= class_words(class), "a value longer than its record")?;
                must(class == 0 || 5 + length > class_words(class - 1), "a record too large for its value")?;
                let value = image.get(at + 5..at + 5 + length).ok_or("a value outside")?;
                values.push(value.iter().map(|word| *word as i32).collect());
                at = word(at + 2)? as usize;
            }
            bindings += values.len();
            must(contents.insert(key, values).is_none(), "a key twice")?;
            newest = word(newest + 1)? as usize;
        }
    }
    must(bindings == image[BINDINGS] as usize, "number of bindings")?;
    must(contents.len() == image[KEYS] as usize, "number of keys")?;

    for class in 0..64 {
        let mut at = image[FREE + class] as usize;
        while at != 0 {
            must(class < 48 && word(at)? == FREE_BLOCK | class as u32, &format!("no free block at {at}"))?;
            blocks.take(at, class_words(class as u32), "free block")?;
            at = word(at + 1)? as usize;
        }
    }
    blocks.fill_up_to(top)?;
    Ok(contents)
}

/// What was found so far: where it begins, where it ends, what it is.
#[derive(Default)]
struct Blocks(BTreeMap<usize, (usize, &'static str)>);

impl Blocks {
    fn take(&mut self, at: usize, words: usize, what: &'static str) -> Result<(), String> {
        // Found here already, so that walking in a circle ends.
        match self.0.insert(at, (at + words, what)) {
            None => Ok(()),
            Some((_, other)) => Err(format!("{what} at {at} is also {other}")),
        }
    }

    fn fill_up_to(&self, top: usize) -> Result<(), String> {
        let mut next = FIRST_BLOCK;
        for (&at, &(end, what)) in &self.0 {
            if at > next {
                return Err(format!("words {next}..{at} are lost"));
            }
            if at < next {
                return Err(format!("{what} at {at} overlaps what ends at {next}"));
            }
            next = end;
        }
        if next == top { Ok(()) } else { Err(format!("blocks end at {next}, and the top is {top}")) }
    }
}

fn class_words(class: u32) -> usize {
    let power = 8 << (class / 2);
    if class % 2 == 0 { power } else { power * 3 / 2 }
}

fn hash(mut hash: u32) -> usize {
    hash = (hash ^ (hash >> 16)).wrapping_mul(0x85EB_CA6B);
    hash = (hash ^ (hash >> 13)).wrapping_mul(0xC2B2_AE35);
    (hash ^ (hash >> 16)) as usize
}

fn bucket_of(hash: usize, buckets: usize) -> usize {
    let all = buckets.next_power_of_two();
    if hash % all < buckets { hash % all } else { hash % (all / 2) }
}
