//! Whatever is wrong with an object, every operation ends without harm, and `check` names it; and tables of
//! this format that were written by an earlier build are read for ever.

mod accounting;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use accounting::{Account, Contents, Kind, Meaning};
use manycore::shm::{Memory, Open};
use manycore::table::{Announced, Answer, Step};
use manycore::{File, Heap, NoLock, ShmBackend, ShmTable, TableError, TableOptions};
use manycore_backends::testing::recorder::{restore, snapshot};
use manycore_backends::testing::shm::{Fresh, Subject};

type Table = ShmTable<Heap, NoLock>;

/// The first keys of bucket 7 of 8, with the seed 7.
fn crowd(count: usize) -> Vec<i32> {
    (100..).filter(|key| accounting::bucket_of(accounting::hash(*key, SEED), 8) == 7).take(count).collect()
}

/// Chosen, so that the same keys are in the same buckets in every run.
const SEED: u32 = 7;

/// Keys of which the records are free blocks, if negative.
const GONE: [i32; 8] = [7, 9, 11, 14, 15, 17, 19, 21];

/// A table with a bit of everything.
fn variety() -> (Fresh<Heap>, Table) {
    let name = Fresh::<Heap>::name();
    let table: Table = TableOptions::new().page_size(160).expected(24).seed(SEED).create(&name).unwrap();
    // The journal moves, and leaves a free block, from which the blocks below are cut.
    let moved: Result<(), TableError> = table.group(|group| {
        (0..16).try_for_each(|round| group.add(0, &[round; 2]))?;
        (0..16).try_for_each(|_| group.remove(0).map(drop))
    });
    moved.unwrap();
    // Values in slots, and in records.
    for key in 1..5 {
        table.add(key, &vec![key; key as usize - 1]).unwrap();
    }
    // Hidden ones.
    for length in [1, 9, 0, 3] {
        table.add(1, &vec![length as i32; length]).unwrap();
    }
    for (index, key) in crowd(9).into_iter().enumerate() {
        table.add(key, &vec![key; index % 4]).unwrap();
    }
    // Free blocks: some of one class, one of another, and what is left of a larger one. Eight records wait until a ninth is
    // given up; then those two wait that were given up last.
    for key in 5..26 {
        table.add(-key, &[key; 12]).unwrap();
    }
    for key in GONE {
        assert!(table.remove(-key).unwrap());
    }
    table.replace(4, &[4; 50]).unwrap();
    assert!(table.remove(-23).unwrap());
    (name, table)
}

/// The words of a table up to its top, and what they mean.
fn words(name: &OsStr) -> (Vec<u32>, Account) {
    let mut image = snapshot::<Heap>(name).unwrap();
    image.truncate(image[accounting::TOP] as usize);
    let account = accounting::checked(&image);
    (image, account)
}

#[test]
fn the_object_that_is_damaged_below_has_a_bit_of_everything() {
    let (name, _table) = variety();
    let (image, account) = words(&name);
    for kind in [Kind::Record, Kind::Overflow, Kind::Segment, Kind::Leaf, Kind::Journal] {
        assert!(account.count(kind) > 0, "{kind:?}");
    }
    assert!(account.count(Kind::Free) >= 3);
    assert_eq!(account.count(Kind::Deferred), 2);
    assert_eq!(account.words(Kind::Journal), 1024);
    assert!(account.contents.values().any(|values| values.len() > 3));
    let in_slots = account.contents.values().filter(|values| values.len() == 1 && values[0].len() < 2);
    assert!(in_slots.count() >= 4);
    // Some free list is longer than one.
    assert!(account.blocks.iter().any(|(at, block)| block.kind == Kind::Free && image[at + 2] != 0));
}

/// All operations on a table that may be damaged in any way. None panics or takes more than there is.
fn exercise(name: &OsStr, table: &Table) -> Result<(), TableError> {
    let object = Heap::open(name, Open::Existing).unwrap();
    let words = || object.memory().words();
    let all = |values: &[Vec<i32>]| values.iter().map(Vec::len).sum::<usize>();
    let mut results = Vec::new();
    let crowd = crowd(10);
    for key in [1, 2, 3, 4, -7, -8, crowd[0], crowd[8], crowd[9]] {
        results.push(table.find(key).map(|found| assert!(found.map_or(0, |value| value.len()) <= words())));
        results.push(table.find_all(key).map(|values| assert!(all(&values) <= words())));
        results.push(table.mem(key).map(drop));
    }
    let mut value = Vec::new();
    results.push(table.find_into(4, &mut value).map(|_| assert!(value.len() <= words())));
    let mut sum = 0;
    results.push(table.get_many(&crowd, |_, value| sum += value.map_or(0, <[i32]>::len)));
    assert!(sum <= words() * crowd.len());
    let fold = |sum: usize, _: i32, value: &[i32]| sum + value.len();
    results.push(table.fold(0, fold).map(|sum| assert!(sum <= words())));
    results.push(table.iter_keys().and_then(|mut keys| keys.try_for_each(|key| key.map(drop))));
    results.push(table.length().map(drop));
    results.push(table.stat().map(drop));
    results.push(table.read_blocks(1, |fragment| {
        assert!(fragment.is_none_or(|fragment| fragment.len() <= words()));
        Step::Continue
    }));
    results.push(table.read_group(|group| {
        group.length()?;
        group.find(crowd[8]).map(drop)
    }));
    results.push(table.dump(&mut std::io::sink()));
    results.push(table.write_blocks(1, Announced::Removal, |fragment| match fragment {
        Some(mut fragment) if fragment.len() > 2 => {
            let _ = fragment.set(0, 5);
            Answer::remove(Step::Next)
        }
        _ => Answer::CONTINUE,
    }));
    results.push(table.add(3, &[5; 4]));
    results.push(table.add(20, &[5; 40]));
    results.push(table.add(crowd[9], &[5]));
    results.push(table.replace(3, &[6; 30]));
    results.push(table.replace(-8, &[6; 7]));
    results.push(table.replace(2, &[6]));
    results.push(table.update(4, |old| old.map(|old| old.iter().map(|word| word ^ 1).collect::<Vec<_>>())));
    for key in [3, 3, 3, crowd[0], crowd[8]].into_iter().chain(-25..-4) {
        results.push(table.remove(key).map(drop));
    }
    results.push(table.group(|group| {
        (30..50).try_for_each(|key| group.add(key, &[1; 3]))?;
        let failed: Result<(), TableError> = group.group(|inner| {
            inner.replace(2, &[1; 70])?;
            inner.remove(9)?;
            inner.clear()?;
            Err(TableError::FormatFull)
        });
        assert!(failed.is_err());
        group.replace(1, &[1; 20])?;
        // More than wait.
        (30..50).try_for_each(|key| group.remove(key).map(drop))
    }));
    results.push(table.retain(|key, _| key % 2 == 0).map(drop));
    results.push(TableOptions::new().open::<Heap, NoLock>(name).map(drop));
    results.push(table.clear());
    results.push(table.add(1, &[1, 2]));
    results.into_iter().collect()
}

/// Whether somebody who opens the table, or has it open, learns that something is wrong.
fn noticed(name: &OsStr, table: &Table) -> bool {
    match TableOptions::new().open::<Heap, NoLock>(name).and_then(|_| table.check()) {
        Ok(problems) => !problems.is_empty(),
        Err(_) => true,
    }
}

/// Why a change goes unnoticed though the drawing forbids the result, or the other way round.
fn exception(at: usize, bit: u32) -> Option<&'static str> {
    match (at, bit) {
        (accounting::TRANSACTION, 0) => Some("looks like a death, and is mended"),
        (accounting::PROTOCOL, _) => Some("`NoLock` goes with any"),
        _ => None,
    }
}

/// Whether the change of a bit of the word `at` matters, going by what the word is for; `None` if that depends.
fn matters(at: usize, bit: u32, meaning: Meaning) -> Option<bool> {
    match meaning {
        Meaning::None | Meaning::Value => Some(false),
        Meaning::Sequence => Some(bit == 0),
        Meaning::Link => (bit != 0).then_some(true),
        // Another key may belong into the same bucket, another length need the same record.
        Meaning::Key | Meaning::Length => None,
        // Others may be as possible.
        Meaning::Structure => match at {
            accounting::PAGE_SIZE | accounting::PROTOCOL | accounting::SEED => None,
            accounting::BUCKETS | accounting::OPEN => None,
            _ => Some(true),
        },
    }
}

/// Flips bits, those that `choose` takes.
fn flip_bits(choose: impl Fn(usize, u32, u32, Meaning) -> bool) {
    let (name, table) = variety();
    let (image, account) = words(&name);
    let object = Heap::open(&name, Open::Existing).unwrap();
    exercise(&name, &table).unwrap();
    object.memory().write(0, &image).unwrap();
    let essence = account.essence(&image);
    let mut wrong = BTreeMap::new();
    for at in 0..image.len() {
        for bit in (0..32).filter(|bit| choose(at, *bit, image[at], account.meanings[at])) {
            let mut flipped = image.clone();
            flipped[at] ^= 1 << bit;
            let after = accounting::account(&flipped);
            if let Some(matters) = matters(at, bit, account.meanings[at]) {
                assert_eq!(after.is_err(), matters, "bit {bit} of word {at}");
            }
            if account.meanings[at] == Meaning::None {
                assert!(after.as_ref().is_ok_and(|after| after.essence(&flipped) == essence));
            }
            object.memory().write(0, &flipped).unwrap();
            let noticed = noticed(&name, &table);
            if noticed != after.is_err() && exception(at, bit).is_none() {
                let why = after.err().unwrap_or("it is sound".into());
                wrong.entry((at, why)).or_insert_with(String::new).push_str(&format!("{bit} "));
            }
            object.memory().write(0, &flipped).unwrap();
            if catch_unwind(AssertUnwindSafe(|| exercise(&name, &table))).is_err() {
                panic!("bit {bit} of word {at}");
            }
            object.memory().write(0, &image).unwrap();
        }
    }
    assert!(wrong.is_empty(), "noticed wrongly: {wrong:#?}");
}

/// Whether a word is one of many that are alike: without meaning, or a place where nothing is yet.
fn one_of_many(at: usize, word: u32, meaning: Meaning) -> bool {
    meaning == Meaning::None || (word == 0 && at > accounting::KEYS)
}

#[test]
fn no_flipped_bit_of_the_header_does_harm_or_goes_unnoticed() {
    flip_bits(|at, _, word, meaning| at < accounting::HEADER && !one_of_many(at, word, meaning));
}

#[test]
fn no_flipped_bit_of_the_heap_does_harm_or_goes_unnoticed() {
    flip_bits(|at, _, word, meaning| at >= accounting::HEADER && !one_of_many(at, word, meaning));
}

#[test]
fn no_flipped_bit_of_an_unused_word_does_harm_or_goes_unnoticed() {
    flip_bits(|at, bit, word, meaning| {
        one_of_many(at, word, meaning) && (bit == at as u32 % 32 || bit == (at as u32 * 5 + 9) % 32)
    });
}

#[test]
fn no_damaged_words_do_harm() {
    let (name, table) = variety();
    let (image, account) = words(&name);
    let object = Heap::open(&name, Open::Existing).unwrap();
    let places: Vec<usize> =
        (0..image.len()).filter(|at| !one_of_many(*at, image[*at], account.meanings[*at])).collect();
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut random = |limit: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 16) as usize % limit
    };
    for round in 0..6000 {
        object.memory().write(0, &image).unwrap();
        for _ in 0..=random(6) {
            let value = match random(7) {
                0 => 0,
                1 => u32::MAX - random(6) as u32,
                2 => image[places[random(places.len())]],
                3 => random(1 << 32) as u32,
                4 => places[random(places.len())] as u32,
                5 => image.len() as u32 - random(6) as u32,
                _ => random(image.len()) as u32,
            };
            let at = if random(20) == 0 { random(image.len()) } else { places[random(places.len())] };
            object.memory().store(at, value).unwrap();
        }
        let damaged: Vec<u32> = (0..image.len()).map(|at| object.memory().load(at).unwrap()).collect();
        let harmless = AssertUnwindSafe(|| {
            drop(table.check());
            exercise(&name, &table)
        });
        if catch_unwind(harmless).is_err() {
            let changes = (0..image.len()).filter(|at| damaged[*at] != image[*at]);
            let changes: Vec<_> = changes.map(|at| (at, damaged[at])).collect();
            panic!("round {round}: {changes:x?}");
        }
    }
}

// Tables that earlier builds wrote.

fn fixture(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "fixtures", name].iter().collect()
}

/// The words of an image that was written down: lines of a place and the words from there on, in hexadecimal;
/// what is not mentioned is 0. The last line is the place after the last word.
fn parse(text: &str) -> Vec<u32> {
    let mut image = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let mut numbers = line.split([':', ' ']).filter(|number| !number.is_empty());
        let mut number = || numbers.next().map(|number| u32::from_str_radix(number, 16).unwrap());
        image.resize(number().unwrap() as usize, 0);
        image.extend(std::iter::from_fn(number));
    }
    image
}

fn print(title: &str, image: &[u32]) -> String {
    let mut text = format!("# {title}, word by word: tests/table_corrupt.rs\n");
    for (line, words) in image.chunks(8).enumerate() {
        if words.iter().any(|word| *word != 0) {
            write!(text, "{:04X}:", 8 * line).unwrap();
            words.iter().for_each(|word| write!(text, " {word:08X}").unwrap());
            text.push('\n');
        }
    }
    writeln!(text, "{:04X}:", image.len()).unwrap();
    text
}

/// The title of the golden image.
const GOLDEN: &str = "A table of format 4";

fn golden() -> Vec<u32> {
    parse(&std::fs::read_to_string(fixture("format4.hex")).unwrap())
}

/// What the golden image contains.
fn golden_contents() -> Contents {
    let mut contents: Contents = [
        (1, vec![vec![3; 3], vec![], vec![9; 9], vec![1], vec![]]),
        (2, vec![vec![2]]),
        (3, vec![vec![3; 2]]),
        (4, vec![vec![4; 50]]),
    ]
    .into();
    let there = (5..26).filter(|key| !GONE.contains(key) && *key != 23);
    contents.extend(there.map(|key| (-key, vec![vec![key; 12]])));
    contents.extend(crowd(9).into_iter().enumerate().map(|(index, key)| (key, vec![vec![key; index % 4]])));
    contents
}

/// With `MANYCORE_WRITE_FIXTURES=1` it writes the image: when the format changes, and only then; keep the old file.
#[test]
fn the_golden_table_is_made_as_ever_and_written_down_exactly() {
    let (name, _table) = variety();
    let image = snapshot::<Heap>(&name).unwrap();
    assert_eq!(accounting::check(&image), golden_contents());
    assert_eq!(parse(&print(GOLDEN, &image)), image);
    if std::env::var_os("MANYCORE_WRITE_FIXTURES").is_some() {
        std::fs::write(fixture("format4.hex"), print(GOLDEN, &image)).unwrap();
    }
}

fn contents<B: ShmBackend>(table: &ShmTable<B, NoLock>) -> Contents {
    let mut found = Contents::new();
    for entry in table.iter().unwrap() {
        let (key, value) = entry.unwrap();
        found.entry(key).or_default().push(value);
    }
    found
}

fn an_old_table_is_read_and_changed<B: Subject>() {
    let name = Fresh::<B>::name();
    restore::<B>(&name, &golden()).unwrap();
    let options = TableOptions::new().page_size(160);
    let table: ShmTable<B, NoLock> = options.open(&name).unwrap();
    assert!(table.check().unwrap().is_empty());
    let mut expected = golden_contents();
    assert_eq!(contents(&table), expected);
    for (key, values) in &expected {
        assert_eq!(table.find(*key).unwrap().as_ref(), values.first());
        assert_eq!(table.find_all(*key).unwrap(), *values);
    }
    for key in crowd(40) {
        table.add(key, &[1, 2]).unwrap();
        expected.entry(key).or_default().insert(0, vec![1, 2]);
    }
    table.remove(4).unwrap();
    expected.remove(&4);
    assert_eq!(contents(&table), expected);
    assert_eq!(accounting::check(&snapshot::<B>(&name).unwrap()), expected);
}

#[test]
fn a_table_that_an_earlier_build_wrote_is_read_and_changed() {
    an_old_table_is_read_and_changed::<Heap>();
    an_old_table_is_read_and_changed::<File>();
}

#[test]
fn the_golden_image_comes_back_from_its_text() {
    let image = golden();
    assert_eq!(parse(&print(GOLDEN, &image)), image);
    assert_eq!(accounting::check(&image), golden_contents());
}

// Tables that are broken in a certain way, made from the golden image.

/// Asserts that a result is this error, and that its message says this.
macro_rules! refused {
    ($result:expr, $pattern:pat, $phrase:expr) => {
        match $result {
            Err(error) => {
                assert!(matches!(error, $pattern), "{error:?}");
                assert!(error.to_string().contains($phrase), "{error}");
            }
            Ok(found) => panic!("not refused: {found:?}"),
        }
    };
}

/// The golden image, changed; the object is called by the name.
fn broken(change: impl FnOnce(&mut Vec<u32>, &Account)) -> Fresh<Heap> {
    let mut image = golden();
    let account = accounting::checked(&image);
    change(&mut image, &account);
    assert!(accounting::account(&image).is_err(), "it is broken");
    let name = Fresh::<Heap>::name();
    restore::<Heap>(&name, &image).unwrap();
    name
}

fn open(name: &OsStr) -> Result<Table, TableError> {
    TableOptions::new().open(name)
}

/// Opens it, which must go well, and all operations must do no harm.
#[track_caller]
fn opened(name: &OsStr) -> Table {
    let image = snapshot::<Heap>(name).unwrap();
    let object = Heap::open(name, Open::Existing).unwrap();
    let table = open(name).unwrap();
    assert!(exercise(name, &table).is_err());
    object.memory().write(0, &image).unwrap();
    assert!(!table.check().unwrap().is_empty());
    object.memory().write(0, &image).unwrap();
    table
}

/// The record of the newest binding of a key.
fn record_of(image: &[u32], account: &Account, key: i32) -> usize {
    let records = account.blocks.iter().filter(|(_, block)| block.kind == Kind::Record);
    let mut places = records.map(|(at, _)| *at).filter(|at| image[at + 3] as i32 == key);
    places.find(|at| !account.blocks.keys().any(|other| image[other + 2] as usize == *at)).unwrap()
}

/// The bucket of [`crowd`], which has an overflow block.
fn crowded_bucket(image: &[u32]) -> usize {
    let leaf = image[accounting::DIRECTORY] as usize;
    let bucket = image[leaf + 4] as usize + 7 * 16;
    assert_eq!(image[bucket + 1] >> 14, 1);
    bucket
}

#[test]
fn tables_of_older_formats_are_refused() {
    for (file, format) in [("format2.hex", 2), ("format3.hex", 3)] {
        let image = parse(&std::fs::read_to_string(fixture(file)).unwrap());
        let name = Fresh::<Heap>::name();
        restore::<Heap>(&name, &image).unwrap();
        match open(&name) {
            Err(TableError::Format { expected: 4, found, .. }) => assert_eq!(found, format),
            other => panic!("{file}: {other:?}"),
        }
    }
}

#[test]
fn headers_of_something_else_are_refused() {
    let refuse = |change: &dyn Fn(&mut Vec<u32>)| {
        let name = broken(|image, _| change(image));
        let before = snapshot::<Heap>(&name).unwrap();
        let result = open(&name);
        assert!(snapshot::<Heap>(&name).unwrap() == before, "it was changed");
        result
    };
    for at in [0, 1] {
        refused!(refuse(&|image| image[at] += 1), TableError::NotATable { .. }, "is not a table");
    }
    refused!(refuse(&|image| image[2] = 1), TableError::Format { expected: 4, found: 1, .. }, "format 1");
    refused!(refuse(&|image| image[2] = 5), TableError::Format { found: 5, .. }, "format 5");
    let swapped = refuse(&|image| image.iter_mut().for_each(|word| *word = word.swap_bytes()));
    refused!(swapped, TableError::NotATable { .. }, "the other byte order");
    refused!(refuse(&|image| image[3] = 0), TableError::NotATable { .. }, "byte order mark is damaged");
    for size in [0, 156, 162, (1 << 20) + 4, u32::MAX] {
        let result = refuse(&|image| image[accounting::PAGE_SIZE] = size);
        refused!(result, TableError::Corrupt { at: 4, .. }, "impossible page size");
    }
    let state = refuse(&|image| image[accounting::STATE] = 1);
    refused!(state, TableError::NotATable { .. }, "state word is damaged");
}

#[test]
fn an_object_that_was_cut_off_is_noticed() {
    for length in [7, 8, 100, 1000, 1023] {
        let name = broken(|image, _| image.truncate(length));
        assert!(open(&name).is_err(), "{length} words");
    }
    for length in [1024, 1030, 2000] {
        let name = broken(|image, _| image.truncate(length));
        let advice = "the table says that it is longer than its object";
        let table = open(&name).unwrap();
        refused!(table.iter(), TableError::Corrupt { at: accounting::TOP, .. }, advice);
        refused!(table.clear(), TableError::Corrupt { at: accounting::TOP, .. }, advice);
    }
    for top in [u32::MAX, 1 << 20] {
        let name = broken(|image, _| image[accounting::TOP] = top);
        refused!(opened(&name).iter(), TableError::Corrupt { at: accounting::TOP, .. }, "longer");
    }
    for top in [0, 1020, 1025] {
        let name = broken(|image, _| image[accounting::TOP] = top);
        refused!(opened(&name).iter(), TableError::Corrupt { at: accounting::TOP, .. }, "end of the heap");
    }
}

#[test]
fn circles_end() {
    // The oldest binding of a key hides the newest.
    let older = broken(|image, account| {
        let newest = record_of(image, account, 1);
        let mut oldest = newest;
        while image[oldest + 2] != 0 {
            oldest = image[oldest + 2] as usize;
        }
        image[oldest + 2] = newest as u32;
    });
    let table = opened(&older);
    refused!(table.find_all(1), TableError::Corrupt { .. }, "runs in a circle");
    refused!(contents_or_error(&table), TableError::Corrupt { .. }, "runs in a circle");
    refused!(table.read_blocks(1, |_| Step::Continue), TableError::Corrupt { .. }, "runs in a circle");
    refused!(table.retain(|_, _| true), TableError::Corrupt { .. }, "");
    assert_eq!(table.find(1).unwrap(), Some(vec![3; 3]));

    // A record hides itself.
    let itself = broken(|image, account| {
        let newest = record_of(image, account, 1);
        image[newest + 2] = newest as u32;
    });
    refused!(opened(&itself).find_all(1), TableError::Corrupt { .. }, "runs in a circle");

    // A link of an overflow block leads to itself.
    let link = broken(|image, _| {
        let overflow = image[crowded_bucket(image) + 8] as usize;
        image[overflow + 1] |= 1 << 14;
        image[overflow + 1] &= !(3 << 12);
        image[overflow + 8] = overflow as u32;
    });
    let table = opened(&link);
    let missing = crowd(40)[39];
    refused!(table.find(missing), TableError::Corrupt { .. }, "runs in a circle");
    refused!(table.add(missing, &[]), TableError::Corrupt { .. }, "runs in a circle");
    refused!(contents_or_error(&table), TableError::Corrupt { .. }, "");

    // A link leads back to the bucket.
    let back = broken(|image, _| {
        let bucket = crowded_bucket(image);
        image[bucket + 8] = bucket as u32;
    });
    refused!(opened(&back).find(missing), TableError::Corrupt { .. }, "");

    // A free list leads back to its beginning.
    let free = broken(|image, account| {
        let first_of_two = |at: &usize| image[at + 1] != 0 && image[at + 2] == 0;
        let free = account.blocks.iter().filter(|(_, block)| block.kind == Kind::Free).map(|(at, _)| *at);
        let first = free.clone().find(first_of_two).unwrap();
        let second = image[first + 1] as usize;
        image[second + 1] = first as u32;
    });
    opened(&free);
}

fn contents_or_error(table: &Table) -> Result<usize, TableError> {
    table.iter()?.try_fold(0, |count, entry| entry.map(|_| count + 1))
}

#[test]
fn counts_that_cannot_be_are_noticed() {
    for buckets in [0, u32::MAX, 1 << 30, 17] {
        let name = broken(|image, _| image[accounting::BUCKETS] = buckets);
        // Finding it may need another bucket.
        let noticed = match open(&name) {
            Ok(table) => !table.check().is_ok_and(|problems| problems.is_empty()),
            Err(_) => true,
        };
        assert!(noticed, "{buckets} buckets");
        if let Ok(table) = open(&name) {
            drop(exercise(&name, &table));
        }
    }
    for mask in [0, 1, 0b110, 31, 1 << 31, u32::MAX] {
        let name = broken(|image, _| image[accounting::MASK] = mask);
        let table = open(&name).unwrap();
        assert!(table.check().unwrap().iter().any(|problem| problem.at == accounting::MASK));
        drop(exercise(&name, &table));
    }
    let name = broken(|image, _| image[accounting::BINDINGS] = u32::MAX);
    assert_eq!(open(&name).unwrap().check().unwrap()[0].at, accounting::BINDINGS);
    let name = broken(|image, _| image[accounting::KEYS] = u32::MAX);
    assert_eq!(open(&name).unwrap().check().unwrap()[0].at, accounting::KEYS);
    // A value that is longer than its record, than the object, than any.
    for length in [4, 1 << 20, u32::MAX - 3] {
        let name = broken(|image, account| {
            let record = record_of(image, account, 1);
            image[record + 1] = image[record + 1].wrapping_add(length);
        });
        refused!(opened(&name).find(1), TableError::Corrupt { .. }, "longer than its record");
    }
}

#[test]
fn a_journal_that_is_not_ours_is_not_undone() {
    let fixed = (0..accounting::SEQUENCE)
        .chain([accounting::SEED])
        .chain(accounting::MASK + 1..accounting::TRANSACTION + 3)
        .chain([40, 54, 255, 256, 392, 511]);
    for at in fixed {
        let name = broken(|image, _| {
            let journal = image[accounting::JOURNAL] as usize;
            image[accounting::TRANSACTION] |= 1;
            image[accounting::JOURNAL_LENGTH] = 1;
            image[journal + 2] = at as u32;
            image[journal + 3] = 0x1234_5678;
        });
        let before = snapshot::<Heap>(&name).unwrap();
        match open(&name) {
            Ok(table) => refused!(table.remove(1), TableError::Corrupt { .. }, "journal"),
            Err(TableError::Corrupt { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        assert!(snapshot::<Heap>(&name).unwrap()[..16] == before[..16], "word {at} was changed");
    }
    // Longer than the journal; and no journal at all.
    let breaks: [fn(&mut Vec<u32>); 4] = [
        |image| image[accounting::JOURNAL_LENGTH] = 512,
        |image| image[accounting::JOURNAL_LENGTH] = u32::MAX,
        |image| image[accounting::JOURNAL] = 0,
        |image| image[accounting::OPEN] = 3,
    ];
    for change in breaks {
        let name = broken(|image, _| {
            image[accounting::TRANSACTION] |= 1;
            change(image);
        });
        let result = open(&name).and_then(|table| table.remove(1));
        refused!(result, TableError::Corrupt { .. }, "");
    }
}

#[test]
fn free_blocks_that_are_none_are_not_used() {
    let name = broken(|image, account| {
        let free = account.blocks.iter().filter(|(_, block)| block.kind == Kind::Free);
        free.for_each(|(at, _)| image[*at] |= 1 << 24);
    });
    opened(&name);
    // All lists lead into the middle of the journal.
    let name = broken(|image, _| {
        image[accounting::FREE_CLASSES..accounting::FREE_CLASSES + 5].fill(u32::MAX);
        let place = image[accounting::JOURNAL] + 4;
        image[accounting::FREE..accounting::FREE + 184].fill(place);
    });
    refused!(opened(&name).add(50, &[1; 30]), TableError::Corrupt { .. }, "");
}

// Broken tables that were written down once, so that what this build makes of them can be compared with what others did.

/// A table that is broken in one way.
struct Broken {
    file: &'static str,
    /// How it was broken, when it was written down.
    damage: fn(&mut Vec<u32>, &Account),
    found: Found,
    /// Whether the damage took something of a key away.
    lost: fn(i32) -> bool,
}

/// What is found.
enum Found {
    /// It is not opened: the error, and what it says.
    Refused(fn(&TableError) -> bool, &'static str),
    /// It is opened: what `check` says, and what the first operation says that stumbles over it, if any does.
    Told(&'static str, Option<&'static str>),
}

const NOTHING: fn(i32) -> bool = |_| false;
const EVERYTHING: fn(i32) -> bool = |_| true;

const BROKEN: [Broken; 14] = [
    Broken {
        file: "magic",
        damage: |image, _| image[0] = 0x7F45_4C46,
        found: Found::Refused(|error| matches!(error, TableError::NotATable { .. }), "magic words"),
        lost: NOTHING,
    },
    Broken {
        file: "format",
        damage: |image, _| image[2] = 5,
        found: Found::Refused(
            |error| matches!(error, TableError::Format { expected: 4, found: 5, .. }),
            "table format 5",
        ),
        lost: NOTHING,
    },
    Broken {
        file: "byte_order",
        damage: |image, _| image.iter_mut().for_each(|word| *word = word.swap_bytes()),
        found: Found::Refused(
            |error| matches!(error, TableError::NotATable { .. }),
            "a machine of the other byte order",
        ),
        lost: EVERYTHING,
    },
    // As a creator leaves it that dies after its first two stores.
    Broken {
        file: "unfinished",
        damage: |image, _| {
            image.truncate(accounting::HEADER);
            image[2..].fill(0);
        },
        found: Found::Refused(|error| matches!(error, TableError::Unfinished { .. }), "not finished"),
        lost: EVERYTHING,
    },
    Broken {
        file: "page_size",
        damage: |image, _| image[accounting::PAGE_SIZE] = 0,
        found: Found::Refused(
            |error| matches!(error, TableError::Corrupt { at: accounting::PAGE_SIZE, .. }),
            "impossible page size",
        ),
        lost: NOTHING,
    },
    // Behind the buckets: what is in records and overflow blocks is gone.
    Broken {
        file: "truncated",
        damage: |image, _| {
            let end = crowded_bucket(image) + 16;
            image.truncate(end);
        },
        found: Found::Told("longer than its object", Some("longer than its object")),
        lost: |key| !crowd(6).contains(&key),
    },
    Broken {
        file: "overflow_circle",
        damage: |image, _| {
            let overflow = image[crowded_bucket(image) + 8];
            image[overflow as usize + 1] |= 1 << 14;
            image[overflow as usize + 8] = overflow;
        },
        found: Found::Told("two links lead here (Overflow)", Some("overflow blocks runs in a circle")),
        lost: NOTHING,
    },
    Broken {
        file: "record_circle",
        damage: |image, account| {
            let newest = record_of(image, account, 1);
            image[newest + 2] = newest as u32;
        },
        found: Found::Told("two links lead here (Record)", Some("records runs in a circle")),
        lost: NOTHING,
    },
    Broken {
        file: "free_list_into_record",
        damage: |image, account| {
            let record = record_of(image, account, 2) as u32;
            let lists = accounting::FREE..accounting::FREE + 184;
            let list = lists.into_iter().find(|list| image[*list] != 0).unwrap();
            image[list] = record;
        },
        found: Found::Told("there is no such block (Free)", Some("no free block where one should be")),
        lost: NOTHING,
    },
    Broken {
        file: "deferred_in_use",
        damage: |image, account| {
            image[accounting::DEFERRED] = 1;
            image[accounting::DEFERRED_RECORDS] = record_of(image, account, 2) as u32;
        },
        found: Found::Told("two links lead here (Record)", Some("a record of another key")),
        lost: NOTHING,
    },
    Broken {
        file: "journal_entry",
        damage: |image, _| {
            let journal = image[accounting::JOURNAL] as usize;
            image[accounting::TRANSACTION] |= 1;
            image[accounting::JOURNAL_LENGTH] = 1;
            image[journal + 2] = accounting::STATE as u32;
            image[journal + 3] = 0;
        },
        found: Found::Told("a word that never changes", Some("a word that never changes")),
        lost: NOTHING,
    },
    Broken {
        file: "journal_length",
        damage: |image, _| {
            image[accounting::TRANSACTION] |= 1;
            image[accounting::JOURNAL_LENGTH] = u32::MAX;
        },
        found: Found::Told("longer than its block", Some("longer than its block")),
        lost: NOTHING,
    },
    Broken {
        file: "counts",
        damage: |image, _| {
            image[accounting::BINDINGS] += 1;
            image[accounting::KEYS] = u32::MAX;
        },
        found: Found::Told("wrong number of keys", None),
        lost: NOTHING,
    },
    Broken {
        file: "directory_to_nowhere",
        damage: |image, _| {
            let leaf = image[accounting::DIRECTORY] as usize;
            image[leaf + 4] = u32::MAX - 15;
        },
        found: Found::Told("something that is no segment", Some("something that is no segment")),
        lost: NOTHING,
    },
];

impl Broken {
    fn path(&self) -> PathBuf {
        fixture("broken").join(self.file).with_extension("hex")
    }
}

/// What was in the table before it was broken.
fn small_contents() -> Contents {
    let mut contents: Contents = [(1, vec![vec![9; 3], vec![], vec![1]]), (2, vec![vec![2; 6]])].into();
    contents.insert(-4, vec![vec![4; 12]]);
    contents.extend(crowd(9).into_iter().enumerate().map(|(index, key)| (key, vec![vec![key; index % 2]])));
    contents
}

/// What was written down is what is made of a sound table today. For more of them, or another format, it is written anew
/// with `MANYCORE_WRITE_FIXTURES=1`.
#[test]
fn broken_tables_are_made_as_they_were_written_down() {
    let name = Fresh::<Heap>::name();
    let table: Table = TableOptions::new().page_size(160).expected(24).seed(SEED).create(&name).unwrap();
    // The first is so long that it becomes free at once.
    for (key, value) in [(-3, vec![0; 300]), (-4, vec![4; 12])] {
        table.add(key, &value).unwrap();
    }
    for (key, values) in small_contents().into_iter().filter(|(key, _)| *key > 0) {
        values.iter().rev().for_each(|value| table.add(key, value).unwrap());
    }
    assert!(table.remove(-3).unwrap());
    let (mut image, account) = words(&name);
    // What is left of the journals of the past has no meaning.
    let journal = image[accounting::JOURNAL] as usize;
    image[journal + 1..][..account.words(Kind::Journal) - 1].fill(0);
    assert_eq!(accounting::check(&image), small_contents());
    let writes = std::env::var("MANYCORE_WRITE_FIXTURES").is_ok_and(|value| value == "1");
    for broken in BROKEN {
        let mut image = image.clone();
        (broken.damage)(&mut image, &account);
        let text = print(&format!("Broken on purpose: {}", broken.file), &image);
        if writes {
            std::fs::create_dir_all(fixture("broken")).unwrap();
            std::fs::write(broken.path(), &text).unwrap();
        }
        assert!(std::fs::read_to_string(broken.path()).unwrap() == text, "{} is another", broken.file);
    }
}

#[test]
fn broken_tables_that_were_written_down_are_told_of_and_saved() {
    let sound = small_contents();
    for broken in BROKEN {
        let what = broken.file;
        let image = parse(&std::fs::read_to_string(broken.path()).unwrap());
        let name = Fresh::<Heap>::name();
        restore::<Heap>(&name, &image).unwrap();
        match (open(&name), &broken.found) {
            (Err(error), Found::Refused(is_it, phrase)) => {
                assert!(is_it(&error) && error.to_string().contains(phrase), "{what}: {error:?}");
                assert_eq!(snapshot::<Heap>(&name).unwrap(), image, "{what}: it was changed");
            }
            (Ok(table), Found::Told(problem, first)) => {
                let problems = table.check().unwrap();
                assert!(problems.iter().any(|found| found.what.contains(problem)), "{what}: {problems:?}");
                let object = Heap::open(&name, Open::Existing).unwrap();
                object.memory().write(0, &image).unwrap();
                match (exercise(&name, &table), first) {
                    (Err(error @ TableError::Corrupt { .. }), Some(phrase)) => {
                        assert!(error.to_string().contains(phrase), "{what}: {error}");
                    }
                    (Ok(()), None) => {}
                    (result, _) => panic!("{what}: {result:?}"),
                }
                object.memory().write(0, &image).unwrap();
            }
            (opened, _) => panic!("{what}: {:?}", opened.map(|table| table.check())),
        }
        let before = snapshot::<Heap>(&name).unwrap();
        let (_name, saved) = sound_table();
        let salvaged = saved.salvage::<Heap>(&name).unwrap();
        assert_eq!(snapshot::<Heap>(&name).unwrap(), before, "{what}: it is only read");
        assert_eq!((saved.length().unwrap(), saved.check().unwrap()), (salvaged.bindings, vec![]));
        let saved = contents(&saved);
        assert!(saved.keys().all(|key| sound.contains_key(key)), "{what}: {saved:?}");
        for (key, values) in &sound {
            assert_eq!(saved.get(key) != Some(values), (broken.lost)(*key), "{what}: {key}");
        }
        // Whoever asks for a new table under the name gets one if nobody has finished one there.
        let again: Result<Table, TableError> = TableOptions::new().open_or_create(&name);
        assert_eq!(again.is_ok(), what == "unfinished" || matches!(broken.found, Found::Told(..)), "{what}");
    }
}

fn sound_table() -> (Fresh<Heap>, Table) {
    let name = Fresh::<Heap>::name();
    let table = TableOptions::new().create(&name).unwrap();
    (name, table)
}

#[test]
fn every_broken_table_that_was_written_down_is_tested() {
    let there = std::fs::read_dir(fixture("broken")).unwrap().map(|entry| entry.unwrap().path());
    let known: BTreeSet<PathBuf> = BROKEN.iter().map(Broken::path).collect();
    assert_eq!(there.collect::<BTreeSet<_>>(), known);
}
