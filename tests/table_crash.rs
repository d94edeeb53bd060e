//! A process may die after any store of any operation: the next one finds the table as it was before or
//! as it is after, whole, and can go on. It may die after any store of that recovery, too. Whoever looks
//! before the recovery sees nothing that the recovery takes back.

mod accounting;

use std::ffi::OsStr;
use std::os::unix::fs::FileExt;

use accounting::{Account, Contents, Kind, LOAD};
use manycore::shm::{Memory, Open};
use manycore::table::{Announced, Answer, Group, Step};
use manycore::{File, Heap, NoLock, ShmBackend, ShmTable, TableError, TableOptions};
use manycore_backends::testing::recorder::{Recorder, Store, images, record, restore, snapshot};
use manycore_backends::testing::shm::Fresh;

/// A table that is being watched.
type Watched = ShmTable<Recorder<Heap>, NoLock>;
/// A table as the survivors open it.
type Table = ShmTable<Heap, NoLock>;
type WatchedGroup<'a> = Group<'a, Recorder<Heap>>;

/// A key that no test uses: for trying whether a table works.
const PROBE: i32 = i32::MAX;

/// A table that some operation is done on.
#[derive(Clone, Copy)]
struct Scene {
    /// It begins with so many buckets.
    buckets: usize,
    /// Of so many deaths one is tried.
    step: usize,
}

const SMALL: Scene = scene(1);

const fn scene(buckets: usize) -> Scene {
    Scene { buckets, step: 1 }
}

/// Prepares a small table, then dies at every store of `act`.
#[track_caller]
fn dies_everywhere(prepare: impl FnOnce(&Watched), act: impl FnOnce(&Watched)) -> (Account, Account) {
    SMALL.dies(prepare, act)
}

impl Scene {
    fn options(self) -> TableOptions {
        TableOptions::new().page_size(160).expected(self.buckets * LOAD).seed(7)
    }

    /// Prepares a table, then dies at the stores of `act`. What the table is before and after.
    #[track_caller]
    fn dies(self, prepare: impl FnOnce(&Watched), act: impl FnOnce(&Watched)) -> (Account, Account) {
        let name = Fresh::<Heap>::name();
        let table: Watched = self.options().create(&name).unwrap();
        prepare(&table);
        let image_before = snapshot::<Heap>(&name).unwrap();
        let before = accounting::checked(&image_before);
        let ((), stores) = record(|| act(&table));
        let image_after = snapshot::<Heap>(&name).unwrap();
        let after = accounting::checked(&image_after);
        let keys = keys_to_look_at(&before.contents, &after.contents);

        let mut happened = false;
        let last = stores.len();
        let all = images(&image_before, &stores, image_after.len()).enumerate();
        for (count, image) in all.filter(|(count, _)| count % self.step == 0 || *count == last) {
            let found = survive(&image, &keys, count);
            assert!(
                found == before.contents || found == after.contents,
                "half of it after {count} stores: {found:?}"
            );
            if before.contents != after.contents {
                assert!(
                    found == after.contents || !happened,
                    "undone after it had happened, after {count} stores"
                );
                happened = found == after.contents;
            }
            // Enough deaths to see every kind of moment, and few enough to die twice.
            if self.step == 1 && count % (last / 7 + 1) == 0 {
                dies_again(&image, &found);
            }
        }
        assert!(happened || before.contents == after.contents);
        (before, after)
    }
}

/// All keys whose bindings change, as far as they are few, a key that stays, and one that is never there.
fn keys_to_look_at(before: &Contents, after: &Contents) -> Vec<i32> {
    let changes = |key: &&i32| before.get(key) != after.get(key);
    let mut keys: Vec<i32> = before.keys().chain(after.keys()).filter(changes).copied().collect();
    keys.sort_unstable();
    keys.dedup();
    let step = keys.len() / 3 + 1;
    let mut keys: Vec<i32> = keys.into_iter().step_by(step).collect();
    keys.extend(before.keys().find(|key| !changes(key)));
    keys.push(PROBE);
    keys
}

/// What a new process finds in an object with these words. It must find all blocks, and be able to work. Those who
/// look up `keys` before must have seen the same.
#[track_caller]
fn survive(image: &[u32], keys: &[i32], turn: usize) -> Contents {
    let name = Fresh::<Heap>::name();
    restore::<Heap>(&name, image).unwrap();
    let glimpses = glimpse(&name, image, keys, turn);
    let table: Table = TableOptions::new().open(&name).unwrap();
    // Who comes first mends, whether he reads or writes, and in whichever way.
    match turn % 4 {
        0 => {}
        1 => table.add(PROBE, &[1]).unwrap(),
        2 => table.replace(PROBE, &[1]).unwrap(),
        _ => recover(&table),
    }
    if [1, 2].contains(&(turn % 4)) {
        assert!(table.remove(PROBE).unwrap());
    }
    let found = contents(&table);
    recover(&table);
    assert_eq!(accounting::check(&snapshot::<Heap>(&name).unwrap()), found);
    works(&table);
    assert_eq!(accounting::check(&snapshot::<Heap>(&name).unwrap()), found);
    for (way, key, seen) in glimpses {
        assert_eq!(seen, way.of(&found, key), "{way:?} of key {key}");
    }
    found
}

fn contents<B: ShmBackend>(table: &ShmTable<B, NoLock>) -> Contents {
    let mut found = Contents::new();
    for entry in table.iter().unwrap() {
        let (key, value) = entry.unwrap();
        found.entry(key).or_default().push(value);
    }
    found
}

/// Writes, and so mends what a dead writer left; but changes nothing.
fn recover<B: ShmBackend>(table: &ShmTable<B, NoLock>) {
    assert!(!table.remove(PROBE).unwrap());
}

#[track_caller]
fn works(table: &Table) {
    let length = table.length().unwrap();
    table.add(PROBE, &[1, 2, 3]).unwrap();
    table.add(PROBE, &[4; 40]).unwrap();
    assert_eq!(table.find_all(PROBE).unwrap(), [vec![4; 40], vec![1, 2, 3]]);
    assert!(table.remove(PROBE).unwrap() && table.remove(PROBE).unwrap());
    assert_eq!(table.length().unwrap(), length);
    assert_eq!(table.check().unwrap().len(), 0);
}

/// Ways to look something up.
#[derive(Clone, Copy, Debug)]
enum Way {
    Find,
    FindAll,
    Mem,
    FindInto,
    GetMany,
    Length,
}

impl Way {
    /// Looks it up.
    fn look<B: ShmBackend>(self, table: &ShmTable<B, NoLock>, key: i32) -> Result<Vec<Vec<i32>>, TableError> {
        let mut newest = None;
        match self {
            Way::Find => newest = table.find(key)?,
            Way::FindAll => return table.find_all(key),
            Way::Mem => return Ok(vec![vec![]; usize::from(table.mem(key)?)]),
            Way::FindInto => {
                let mut value = vec![77];
                newest = table.find_into(key, &mut value)?.then_some(value);
            }
            Way::GetMany => table.get_many(&[key], |_, value| newest = value.map(<[i32]>::to_vec))?,
            Way::Length => return Ok(vec![vec![]; table.length()?]),
        }
        Ok(newest.into_iter().collect())
    }

    /// What it should say.
    fn of(self, contents: &Contents, key: i32) -> Vec<Vec<i32>> {
        let values = contents.get(&key).map_or(&[][..], Vec::as_slice);
        match self {
            Way::FindAll => values.to_vec(),
            Way::Mem => vec![vec![]; values.len().min(1)],
            Way::Find | Way::FindInto | Way::GetMany => values.iter().take(1).cloned().collect(),
            Way::Length => vec![vec![]; contents.values().map(Vec::len).sum()],
        }
    }
}

/// What each lookup says, as the first thing that anybody does with an object of these words. Each key is looked up
/// in one way of several, by turns. Leaves the object as it was.
#[track_caller]
fn glimpse(name: &OsStr, image: &[u32], keys: &[i32], turn: usize) -> Vec<(Way, i32, Vec<Vec<i32>>)> {
    const WAYS: [Way; 5] = [Way::Find, Way::FindAll, Way::Mem, Way::FindInto, Way::GetMany];
    let interrupted = image[accounting::TRANSACTION] % 2 == 1;
    let object = Heap::open(name, Open::Existing).unwrap();
    let mut glimpses = Vec::new();
    let by_turns = keys.iter().enumerate().map(|(index, key)| (WAYS[(turn + index) % 5], *key));
    for (way, key) in by_turns.chain([(Way::Length, PROBE)]) {
        // Who may not write does not mend: it sees the same, or says that it cannot tell.
        let (reader, stores) = record(|| {
            let table: Watched = TableOptions::new().read_only(true).open(name)?;
            way.look(&table, key)
        });
        assert_eq!(stores, [], "who may not write wrote something");
        match reader {
            Ok(seen) => glimpses.push((way, key, seen)),
            Err(TableError::Interrupted { .. }) if interrupted => {}
            Err(error) => panic!("{error}"),
        }
        let table: Watched = TableOptions::new().open(name).unwrap();
        let (seen, stores) = record(|| way.look(&table, key));
        glimpses.push((way, key, seen.unwrap()));
        assert!(interrupted || stores.is_empty(), "a lookup wrote something");
        stores.iter().for_each(|store| object.memory().store(store.at, image[store.at]).unwrap());
    }
    glimpses
}

/// Dies at every store of the recovery from `image`, which leads to `expected`.
#[track_caller]
fn dies_again(image: &[u32], expected: &Contents) {
    let name = Fresh::<Heap>::name();
    restore::<Heap>(&name, image).unwrap();
    let table: Watched = TableOptions::new().open(&name).unwrap();
    let ((), stores) = record(|| recover(&table));
    let keys = keys_to_look_at(expected, expected);
    for (count, image) in images(image, &stores, image.len()).enumerate() {
        assert!(survive(&image, &keys, count) == *expected, "after {count} stores of the recovery");
    }
}

fn fill(table: &Watched, keys: std::ops::Range<i32>) {
    for key in keys {
        table.add(key, &[key; 2]).unwrap();
    }
}

fn word(name: &OsStr, at: usize) -> u32 {
    Heap::open(name, Open::Existing).unwrap().memory().load(at).unwrap()
}

/// The first `count` keys of a bucket, as if there were so many buckets.
fn keys_of(table: &Watched, bucket: usize, buckets: usize, count: usize) -> Vec<i32> {
    let seed = word(table.name(), accounting::SEED);
    let belongs = |key: &i32| accounting::bucket_of(accounting::hash(*key, seed), buckets) == bucket;
    (0..).filter(belongs).take(count).collect()
}

#[test]
fn the_first_add() {
    for length in [0, 1, 2, 3, 40] {
        dies_everywhere(|_| {}, |table| table.add(1, &vec![7; length]).unwrap());
    }
}

#[test]
fn an_add_to_a_key_that_is_bound() {
    for old in [0, 1, 2, 30] {
        for new in [0, 1, 2, 30] {
            let prepare = |table: &Watched| table.add(2, &vec![6; old]).unwrap();
            let (before, after) = dies_everywhere(prepare, |table| table.add(2, &vec![7; new]).unwrap());
            // A value in the slot becomes a record when it is hidden.
            let records = if old < 2 { (0, 2) } else { (1, 2) };
            assert_eq!((before.count(Kind::Record), after.count(Kind::Record)), records);
        }
    }
}

#[test]
fn a_replace_of_every_kind_of_value_by_every_other() {
    for hidden in 0..3 {
        for old in [0, 1, 2, 8, 30] {
            for new in [0, 1, 2, 8, 9, 30] {
                let prepare = |table: &Watched| {
                    (0..hidden).for_each(|length| table.add(1, &vec![5; length]).unwrap());
                    table.add(1, &vec![6; old]).unwrap();
                    table.add(2, &[1, 2, 3]).unwrap();
                };
                dies_everywhere(prepare, |table| table.replace(1, &vec![7; new]).unwrap());
            }
        }
    }
}

#[test]
fn a_replace_of_one_word_by_another_is_one_store() {
    let name = Fresh::<Heap>::name();
    let table: Watched = SMALL.options().create(&name).unwrap();
    fill(&table, 0..3);
    table.add(1, &[6]).unwrap();
    table.remove(2).unwrap();
    table.add(2, &[6]).unwrap();
    let ((), stores) = record(|| table.replace(2, &[7]).unwrap());
    // And the transaction word, which counts it.
    assert!(matches!(stores[..], [Store { value: 7, .. }, Store { at: 32, .. }]));
    // The same by `update`; and where something is hidden, it is in a record.
    let ((), stores) = record(|| table.update(2, |old| old.map(|old| [old[0] + 1])).unwrap());
    assert!(matches!(stores[..], [Store { value: 8, .. }, Store { at: 32, .. }]));
    let ((), stores) = record(|| table.replace(1, &[7]).unwrap());
    assert!(stores.len() > 2);
}

#[test]
fn a_replace_of_a_long_value_by_one_as_long() {
    // In whole pieces of those in which old words are noted, and with some left; in as many as the first journal has
    // room for, and in one more.
    for (old, new) in [(64, 64), (64, 61), (61, 64), (32, 32), (15, 16), (252, 252), (249, 252), (253, 253)] {
        let prepare = |table: &Watched| {
            table.add(1, &vec![6; old]).unwrap();
            table.add(2, &[1; 3]).unwrap();
        };
        let scene = Scene { step: 1 + new / 50, ..SMALL };
        scene.dies(prepare, |table| table.replace(1, &(0..new as i32).collect::<Vec<_>>()).unwrap());
    }
}

#[test]
fn a_replace_of_a_missing_key() {
    dies_everywhere(|table| fill(table, 0..8), |table| table.replace(9, &[2]).unwrap());
}

#[test]
fn a_remove_of_the_only_binding() {
    let prepare =
        |table: &Watched| (0..9).for_each(|key| table.add(key, &vec![1; key as usize % 3]).unwrap());
    for key in 0..9 {
        dies_everywhere(prepare, |table| assert!(table.remove(key).unwrap()));
    }
}

#[test]
fn a_remove_that_uncovers() {
    for hidden in [0, 1, 2, 30] {
        for newest in [0, 1, 2, 30] {
            let prepare = |table: &Watched| {
                fill(table, 0..3);
                (0..2).for_each(|_| table.add(1, &vec![5; hidden]).unwrap());
                table.add(1, &vec![6; newest]).unwrap();
            };
            let removed = |table: &Watched| assert!(table.remove(1).unwrap());
            dies_everywhere(prepare, removed);
            // What is uncovered hides nothing.
            let last = |table: &Watched| {
                table.add(1, &vec![5; hidden]).unwrap();
                table.add(1, &vec![6; newest]).unwrap();
            };
            dies_everywhere(last, removed);
        }
    }
}

#[test]
fn an_add_that_takes_a_bucket_into_use() {
    // From one bucket to ten, with all kinds of values, some of which move and some stay.
    for buckets in 1..10 {
        let prepare = |table: &Watched| {
            let keys = (LOAD * buckets) as i32;
            (0..keys).for_each(|key| table.add(key, &vec![key; key as usize % 4]).unwrap());
            table.add(0, &[]).unwrap();
        };
        for length in [0, 1, 2] {
            dies_everywhere(prepare, |table| table.add(100, &vec![5; length]).unwrap());
        }
    }
}

/// Sixteen buckets, of which number 3 has so many keys, each bound to a value of 0 to 3 words.
fn crowded(table: &Watched, keys: usize) -> Vec<i32> {
    let keys = keys_of(table, 3, 16, keys);
    for (index, key) in keys.iter().enumerate() {
        table.add(*key, &vec![9; index % 4]).unwrap();
    }
    keys
}

#[test]
fn an_add_to_a_full_bucket_makes_and_fills_overflow_blocks() {
    // Seven fit. The link to another block takes a slot.
    for (keys, blocks) in [(7, 0), (8, 1), (9, 1), (12, 1), (13, 1), (14, 2), (15, 2), (20, 3)] {
        let act = |table: &Watched| table.add(keys_of(table, 3, 16, keys)[keys - 1], &[1, 2, 3]).unwrap();
        let (_, after) = scene(16).dies(|table| drop(crowded(table, keys - 1)), act);
        assert_eq!(after.count(Kind::Overflow), blocks);
    }
}

#[test]
fn changes_in_overflow_blocks() {
    for count in [8, 9, 13, 14, 20] {
        for position in 0..count {
            let change = |act: &dyn Fn(&Watched, i32)| {
                let prepare = |table: &Watched| drop(crowded(table, count));
                scene(16).dies(prepare, |table| act(table, keys_of(table, 3, 16, count)[position]))
            };
            // One fewer: the overflow block that becomes empty is given up.
            let (before, after) = change(&|table, key| assert!(table.remove(key).unwrap()));
            assert!(after.count(Kind::Overflow) <= before.count(Kind::Overflow));
            if position % 4 == count % 4 {
                change(&|table, key| table.add(key, &[1, 2]).unwrap());
                change(&|table, key| table.replace(key, &[3; 10]).unwrap());
                change(&|table, key| table.replace(key, &[]).unwrap());
            }
        }
    }
}

#[test]
fn the_last_remove_from_an_overflow_block_gives_it_up() {
    let prepare = |table: &Watched| {
        let keys = crowded(table, 9);
        // From the front: whether they stay in the overflow block or move up is up to the table.
        for key in &keys[..7] {
            assert!(table.remove(*key).unwrap());
        }
    };
    let act = |table: &Watched| {
        let keys = keys_of(table, 3, 16, 9);
        table.group(|group| keys[7..].iter().try_for_each(|key| group.remove(*key).map(drop))).unwrap();
    };
    let (_, after) = scene(16).dies(prepare, act);
    assert_eq!((after.count(Kind::Overflow), after.contents.len()), (0, 0));
}

/// Adds as many keys to bucket 0 as so many buckets take, of which `moving` will move to the next bucket.
fn fill_first_bucket(table: &Watched, buckets: usize, moving: usize) {
    let stay = keys_of(table, 0, 2 * buckets, LOAD * buckets - moving);
    let mut keys = keys_of(table, buckets, 2 * buckets, moving);
    keys.extend(stay);
    // Mixed, so that blocks lose some of their keys.
    keys.sort_unstable();
    for (index, key) in keys.iter().enumerate() {
        table.add(*key, &vec![9; index % 4]).unwrap();
    }
    table.add(keys[0], &[1]).unwrap();
}

#[test]
fn taking_a_bucket_into_use_splits_one_with_overflow_blocks() {
    // None, some or all of the keys move.
    for (buckets, movings) in [(4, [0, 1, 4, 7, 11, 12]), (8, [0, 7, 8, 12, 23, 24])] {
        for moving in movings {
            // The new key comes into another bucket, into the one that is split, or into the new one.
            for into in [1, 0, buckets] {
                let act = |table: &Watched| {
                    let keys = keys_of(table, into, 2 * buckets, LOAD * buckets + 1);
                    table.add(*keys.last().unwrap(), &[1, 2]).unwrap();
                };
                let prepare = |table: &Watched| fill_first_bucket(table, buckets, moving);
                let scene = Scene { step: if into == 1 { 1 } else { 3 }, buckets };
                let (before, after) = scene.dies(prepare, act);
                let overflow = |keys: usize| keys.saturating_sub(2) / 6;
                assert_eq!(before.count(Kind::Overflow), overflow(LOAD * buckets));
                if into == 1 {
                    let both = overflow(moving) + overflow(LOAD * buckets - moving);
                    assert_eq!(after.count(Kind::Overflow), both, "{moving} of {buckets}");
                }
            }
        }
    }
}

#[test]
fn an_add_that_needs_a_new_segment() {
    let keys = 16 * LOAD as i32;
    let (before, after) = scene(16).dies(|table| fill(table, 0..keys), |table| table.add(keys, &[]).unwrap());
    assert_eq!((before.count(Kind::Segment), after.count(Kind::Segment)), (1, 2));
}

#[test]
fn an_add_whose_segment_is_in_a_block_that_was_free() {
    let prepare = |table: &Watched| {
        table.add(1000, &[1; 300]).unwrap();
        fill(table, 0..16 * LOAD as i32 - 1);
        assert!(table.remove(1000).unwrap());
        table.add(1001, &[]).unwrap();
    };
    let (before, after) = scene(16).dies(prepare, |table| table.add(1002, &[]).unwrap());
    assert_eq!((before.count(Kind::Segment), after.count(Kind::Segment)), (1, 2));
    let top = |account: &Account| account.blocks.last_key_value().map(|(at, block)| at + 4 * block.granules);
    assert_eq!(top(&before), top(&after), "the free block was used");
}

/// Values of so many words have records that become free blocks when they are given up.
const LONG: usize = 300;

/// Values of so many have records that wait for others first.
const SHORT: usize = 20;

/// Records beside each other, for the keys 1 to 6; and then room for one value more at the top.
fn row(table: &Watched, words: usize) {
    (1..7).for_each(|key| table.replace(key, &vec![key; words]).unwrap());
}

fn remove(table: &Watched, key: i32) {
    assert!(table.remove(key).unwrap());
}

#[test]
fn a_record_that_is_given_up_joins_free_blocks_beside_it() {
    // Before it, behind it, both, none; and at the top, alone or with one before.
    for (gone, key, free) in [
        (&[][..], 3, 1),
        (&[2], 3, 1),
        (&[4], 3, 1),
        (&[2, 4], 3, 1),
        (&[1, 5], 3, 3),
        (&[], 6, 0),
        (&[5], 6, 0),
        (&[3, 5], 6, 1),
        (&[3, 4], 6, 1),
    ] {
        for words in [LONG, SHORT] {
            let prepare = |table: &Watched| {
                row(table, words);
                gone.iter().for_each(|key| remove(table, *key));
            };
            let (_, after) = scene(16).dies(prepare, |table| remove(table, key));
            if words == LONG {
                assert_eq!(after.count(Kind::Free), free, "{key} after {gone:?}");
                assert_eq!(after.count(Kind::Deferred), 0);
            } else {
                assert_eq!((after.count(Kind::Free), after.count(Kind::Deferred)), (0, gone.len() + 1));
            }
            // The same by what gives a record up otherwise.
            for words in [0, 5, 40, words, 2 * words] {
                scene(16).dies(prepare, |table| table.replace(key, &vec![8; words]).unwrap());
            }
        }
    }
}

/// Eight records that were given up and wait become free blocks when there is a ninth: whatever lies beside them, and
/// whichever way it is given up.
#[test]
fn records_that_wait_become_free_together() {
    for waiting in [
        [1, 2, 3, 4, 5, 6, 7, 8],
        [8, 7, 6, 5, 4, 3, 2, 1],
        [1, 3, 5, 7, 9, 11, 13, 15],
        [2, 3, 6, 7, 10, 11, 14, 16],
        [16, 1, 15, 2, 14, 3, 13, 4],
    ] {
        for free_before in [&[][..], &[20, 21], &[20, 21, 22, 23]] {
            let prepare = |table: &Watched| {
                for key in 1..17 {
                    table.add(key, &[key; SHORT]).unwrap();
                    // Between them those that become free at once, if they do.
                    if key % 4 == 1 {
                        table.add(20 + key / 4, &[key; LONG]).unwrap();
                    }
                }
                free_before.iter().for_each(|key| remove(table, *key));
                waiting.iter().for_each(|key| remove(table, *key));
            };
            let ninth = (1..17).find(|key| !waiting.contains(key)).unwrap();
            let scene = Scene { step: 5, ..scene(16) };
            let (before, after) = scene.dies(prepare, |table| remove(table, ninth));
            assert_eq!((before.count(Kind::Deferred), after.count(Kind::Deferred)), (8, 1));
            assert!(after.count(Kind::Free) > 0);
            // Again the ninth, at the end of a group; and one that becomes free itself.
            let group = |table: &Watched| {
                let result: Result<bool, TableError> = table.group(|group| group.remove(ninth));
                assert!(result.unwrap());
            };
            scene.dies(prepare, group);
            scene.dies(prepare, |table| table.replace(ninth, &[1; SHORT + 5]).unwrap());
            if free_before.len() < 4 {
                let (_, after) = scene.dies(prepare, |table| remove(table, 23));
                assert_eq!(after.count(Kind::Deferred), 0);
            }
        }
    }
}

/// Something to do with a table, and how many records wait afterwards.
type Act<'a> = (usize, &'a dyn Fn(&Watched));

/// What waits is used again by what is as long: by single operations in the short way and in the long one, and in groups.
#[test]
fn records_that_wait_are_used_again() {
    let prepare = |table: &Watched| {
        for key in 1..9 {
            table.add(key, &[key; SHORT]).unwrap();
            table.add(key + 10, &[key; 2 * SHORT]).unwrap();
        }
        [3, 14, 5, 16].iter().for_each(|key| remove(table, *key));
    };
    // The last that waits, one before it, and none.
    for words in [2 * SHORT, SHORT, 3 * SHORT] {
        let value = vec![7; words];
        let acts: [Act<'_>; 6] = [
            (3, &|table| table.add(30, &value).unwrap()),
            (3, &|table| table.add(1, &value).unwrap()),
            (4, &|table| table.replace(1, &value).unwrap()),
            (4, &|table| table.replace(11, &value).unwrap()),
            (4, &|table| table.update(12, |_| Some(&value)).unwrap()),
            (3, &|table| table.group(|group| group.add(30, &value)).unwrap()),
        ];
        for (waiting, act) in acts {
            let (before, after) = scene(16).dies(prepare, act);
            let none = words == 3 * SHORT;
            let top = |account: &Account| account.blocks.last_key_value().map(|(at, _)| *at);
            assert_eq!(top(&before) == top(&after), !none, "{words}");
            assert_eq!(after.count(Kind::Deferred), waiting + usize::from(none));
        }
        // Taken and given back in one group, and in one that fails.
        let both = |group: &mut WatchedGroup<'_>| {
            group.add(30, &value)?;
            group.replace(1, &value)?;
            group.remove(30)?;
            group.remove(2)
        };
        scene(16).dies(prepare, |table| assert!(table.group(both).unwrap()));
        let fails = |table: &Watched| {
            let failed: Result<(), TableError> = table.group(|group| {
                both(group)?;
                Err(TableError::FormatFull)
            });
            assert!(failed.is_err());
        };
        let (before, after) = scene(16).dies(prepare, fails);
        assert_eq!(before.count(Kind::Deferred), after.count(Kind::Deferred));
    }
}

/// Adds records until the object would have to be enlarged for another. Returns the key after the last.
fn fill_to_the_brim(table: &Watched) -> i32 {
    let room = || table.raw().len() - table.raw().get(accounting::TOP).unwrap() as usize;
    (100..)
        .find(|key| {
            let full = room() < 4 * accounting::record_granules(SHORT);
            if !full {
                table.add(*key, &[*key; SHORT]).unwrap();
            }
            full
        })
        .unwrap()
}

/// Before the object is enlarged, what waits becomes free in the midst of a transaction, which may then take it.
#[test]
fn records_that_wait_are_joined_before_the_object_is_enlarged() {
    let scene = Scene { step: 3, ..scene(256) };
    // What is free already beside those that wait: nothing, the one before, the one behind, both; and so at the end.
    for (free, waiting) in [
        (&[][..], &[111, 112, 113][..]),
        (&[110], &[111, 112]),
        (&[113], &[112, 111]),
        (&[110, 113], &[112, 111]),
        (&[110, 112], &[111]),
        (&[], &[-1, -2, -3]),
        (&[-3], &[-1, -2]),
    ] {
        let prepare = |table: &Watched| {
            let end = fill_to_the_brim(table);
            let from_end = |key: &i32| if *key < 0 { end + key } else { *key };
            // They become free with others.
            let others = (120..).step_by(2).take(if free.is_empty() { 0 } else { 9 - free.len() });
            free.iter().map(from_end).chain(others).for_each(|key| remove(table, key));
            // As the ninth was given up it waits; it is used again.
            if !free.is_empty() {
                table.add(90, &[90; SHORT]).unwrap();
            }
            waiting.iter().map(from_end).for_each(|key| remove(table, key));
        };
        let value = vec![7; if waiting.len() == 1 { 50 } else { 60 }];
        let add = |table: &Watched| {
            let size = table.raw().len();
            table.add(91, &value).unwrap();
            assert_eq!(table.raw().len(), size, "it was enlarged");
        };
        let (before, after) = scene.dies(prepare, add);
        assert_eq!(before.count(Kind::Deferred), waiting.len());
        assert_eq!(after.count(Kind::Deferred), 0);
        // Taken, filled and given up again in one group; and all of it undone, of which a part was undone before.
        let group = |table: &Watched, fails: bool| {
            let result: Result<(), TableError> = table.group(|group| {
                group.add(91, &value)?;
                let inner: Result<(), TableError> = group.group(|inner| {
                    inner.add(92, &[5; 3])?;
                    inner.remove(91)?;
                    Err(TableError::FormatFull)
                });
                assert!(inner.is_err());
                group.replace(91, &[4; 30])?;
                if fails { Err(TableError::FormatFull) } else { Ok(()) }
            });
            assert_eq!(result.is_err(), fails);
        };
        scene.dies(prepare, |table| group(table, false));
        let (before, after) = scene.dies(prepare, |table| group(table, true));
        assert_eq!(before.blocks.len(), after.blocks.len());
    }
}

/// The journal moves before that, not meanwhile: it moves to the end of the heap.
#[test]
fn a_journal_that_is_full_when_records_are_joined_moves_before() {
    let prepare = |table: &Watched| {
        let end = fill_to_the_brim(table);
        (end - 8..end).for_each(|key| remove(table, key));
    };
    // However full it is: it has 511 entries, and each of them takes four.
    for before in 85..127 {
        let act = |table: &Watched| {
            let result = table.group(|group| {
                (0..before).try_for_each(|key| group.add(-key, &[]))?;
                group.add(91, &[7; 60])
            });
            result.unwrap();
        };
        let scene = Scene { step: 61, ..scene(256) };
        let (before, after) = scene.dies(prepare, act);
        assert_eq!((before.count(Kind::Deferred), after.count(Kind::Deferred)), (8, 0));
    }
}

/// A value is replaced where it is if the object would have to be enlarged otherwise.
#[test]
fn a_replace_in_a_full_object_needs_no_room() {
    let prepare = |table: &Watched| assert!(fill_to_the_brim(table) > 107);
    let act = |table: &Watched| {
        let size = table.raw().len();
        table.replace(107, &[7; SHORT]).unwrap();
        assert_eq!(table.raw().len(), size, "it was enlarged");
    };
    let (_, after) = scene(256).dies(prepare, act);
    assert_eq!(after.count(Kind::Deferred), 0);
}

#[test]
fn all_records_at_once_are_given_back_to_the_top() {
    let act = |table: &Watched| {
        let result = table.group(|group| (1..7).try_for_each(|key| group.remove(key).map(drop)));
        result.unwrap();
    };
    for (words, deferred) in [(LONG, 0), (SHORT, 6)] {
        let (before, after) = scene(16).dies(|table| row(table, words), act);
        assert_eq!((before.count(Kind::Record), after.count(Kind::Record)), (6, 0));
        assert_eq!((after.count(Kind::Free), after.count(Kind::Deferred)), (0, deferred));
    }
}

/// What was given back to the top is still needed if the writer dies: the journal must not move there.
#[test]
fn a_journal_that_moves_while_records_are_given_back_spares_them() {
    for gone in [&[4][..], &[2, 4]] {
        let prepare = |table: &Watched| {
            row(table, LONG);
            gone.iter().for_each(|key| assert!(table.remove(*key).unwrap()));
        };
        // Whichever of the blocks it is that finds the journal full.
        for before in (0..40).step_by(8) {
            let act = |table: &Watched| {
                let result = table.group(|group| {
                    (0..before).try_for_each(|key| group.add(10 + key, &[]))?;
                    [1, 3, 5, 6].iter().try_for_each(|key| group.remove(*key).map(drop))
                });
                result.unwrap();
            };
            let scene = Scene { step: 7, ..scene(32) };
            scene.dies(prepare, act);
        }
    }
}

#[test]
fn operations_that_use_free_blocks() {
    let prepare = |table: &Watched| {
        row(table, LONG);
        [2, 4, 5].iter().for_each(|key| remove(table, *key));
    };
    // Free are 80 granules and 160: some fit exactly, some leave a rest, some fit nowhere.
    for length in [0, 1, 2, 4, 20, 270, 300, 316, 317, 600, 636, 637, 700] {
        let scene = Scene { step: 1 + length / 100, ..scene(16) };
        scene.dies(prepare, |table| table.add(9, &vec![3; length]).unwrap());
        scene.dies(prepare, |table| table.add(1, &vec![3; length]).unwrap());
        scene.dies(prepare, |table| table.replace(3, &vec![3; length]).unwrap());
    }
    // Several of one class.
    let prepare = |table: &Watched| {
        row(table, LONG);
        [2, 4, 1].iter().for_each(|key| remove(table, *key));
        table.add(7, &[7; LONG]).unwrap();
        table.remove(6).unwrap();
    };
    for key in [3, 5, 7] {
        scene(16).dies(prepare, |table| remove(table, key));
    }
    let scene = Scene { step: 4, ..scene(16) };
    scene.dies(prepare, |table| table.add(9, &[3; LONG]).unwrap());
    scene.dies(prepare, |table| table.add(9, &[3; LONG / 2]).unwrap());
}

#[test]
fn records_of_many_granules() {
    let prepare = |table: &Watched| {
        for (key, length) in [(1, 150), (2, 1000), (3, 10), (4, 333), (5, 1)] {
            table.add(key, &vec![key; length]).unwrap();
        }
        table.remove(2).unwrap();
    };
    for length in [120, 124, 125, 160, 300, 900, 1000, 1010] {
        let scene = Scene { step: 7, ..scene(16) };
        scene.dies(prepare, |table| table.add(6, &vec![3; length]).unwrap());
        scene.dies(prepare, |table| table.replace(1, &vec![3; length]).unwrap());
    }
}

#[test]
fn a_group_of_several_operations() {
    let prepare = |table: &Watched| (0..2).for_each(|_| fill(table, 0..7));
    let act = |table: &Watched| {
        let result = table.group(|group| {
            group.add(10, &[1; 20])?;
            group.remove(3)?;
            group.remove(3)?;
            group.replace(10, &[2; 5])?;
            group.replace(0, &[3; 50])?;
            group.update(1, |old| old.map(<[i32]>::len).map(|length| [length as i32]))?;
            let failed: Result<(), TableError> = group.group(|inner| {
                inner.add(11, &[])?;
                inner.add(12, &[])?;
                inner.remove(0)?;
                Err(TableError::FormatFull)
            });
            assert!(matches!(failed, Err(TableError::FormatFull)));
            let cleared: Result<(), TableError> = group.group(|inner| {
                inner.clear()?;
                inner.add(14, &[1, 2])?;
                Err(TableError::FormatFull)
            });
            assert!(matches!(cleared, Err(TableError::FormatFull)));
            group.add(13, &[])
        });
        result.unwrap();
    };
    dies_everywhere(prepare, act);
}

#[test]
fn adding_many() {
    let prepare = |table: &Watched| fill(table, 0..40);
    let act = |table: &Watched| {
        let fresh = (30..60).map(|key| (key, vec![key; key as usize % 4]));
        table.add_many(fresh.chain([(30, vec![]), (61, vec![7; 40])])).unwrap();
    };
    Scene { step: 5, ..scene(16) }.dies(prepare, act);
}

#[test]
fn a_group_of_one_store_and_one_of_none() {
    let prepare = |table: &Watched| table.add(1, &[1]).unwrap();
    dies_everywhere(prepare, |table| table.group(|group| group.replace(1, &[2])).unwrap());
    dies_everywhere(prepare, |table| table.group(|_| Ok::<(), TableError>(())).unwrap());
    let twice = |table: &Watched| {
        let result = table.group(|group| {
            group.replace(1, &[2])?;
            group.add(2, &[2])?;
            group.replace(2, &[3])
        });
        result.unwrap();
    };
    dies_everywhere(prepare, twice);
}

#[test]
fn a_group_that_fails() {
    let act = |table: &Watched| {
        let failed: Result<(), TableError> = table.group(|group| {
            (5..12).try_for_each(|key| group.add(key, &[1, 2]))?;
            group.remove(1)?;
            group.retain(|key, _| key % 2 == 0)?;
            Err(TableError::FormatFull)
        });
        assert!(matches!(failed, Err(TableError::FormatFull)));
    };
    dies_everywhere(|table| fill(table, 0..7), act);
}

/// How many granules the journal has.
fn journal(table: &Watched) -> u32 {
    let at = word(table.name(), accounting::JOURNAL) as usize;
    word(table.name(), at) & 0xFF_FFFF
}

#[test]
fn a_group_whose_journal_moves() {
    // Whichever operation it is that finds the journal full.
    for before in 0..6 {
        let act = |table: &Watched| {
            assert_eq!(journal(table), 128);
            let result = table.group(|group| {
                (0..before).try_for_each(|_| group.add(1000, &[]))?;
                (10..110).try_for_each(|key| group.add(key, &[key, key]))
            });
            result.unwrap();
            assert!(journal(table) >= 256);
        };
        let step = if before == 0 { 3 } else { 41 };
        Scene { step, ..SMALL }.dies(|table| fill(table, 0..3), act);
    }
}

#[test]
fn a_group_whose_journal_moves_and_that_fails() {
    let act = |table: &Watched| {
        let result: Result<(), TableError> = table.group(|group| {
            (10..300).try_for_each(|key| group.add(key, &[key]))?;
            Err(TableError::FormatFull)
        });
        assert!(matches!(result, Err(TableError::FormatFull)));
    };
    let (before, after) = Scene { step: 29, ..SMALL }.dies(|table| fill(table, 0..3), act);
    assert_eq!(before.contents, after.contents);
}

/// Hidden bindings, overflow blocks, free blocks, values of many lengths.
fn variety(table: &Watched) {
    let keys = crowded(table, 9);
    for (index, key) in (0..12).chain(keys).enumerate() {
        table.add(key, &vec![key; index % 6]).unwrap();
        if index % 3 == 0 {
            table.add(key, &vec![index as i32; index]).unwrap();
        }
        if index % 4 == 0 {
            table.remove(key - 1).unwrap();
        }
    }
}

#[test]
fn clearing() {
    dies_everywhere(|_| {}, |table| table.clear().unwrap());
    for prepare in [variety, |table: &Watched| row(table, LONG), |table: &Watched| fill(table, 0..30)] {
        for buckets in [1, 16] {
            let (before, after) = scene(buckets).dies(prepare, |table| table.clear().unwrap());
            assert!(!before.contents.is_empty() && after.contents.is_empty());
        }
    }
    // More than one segment; and a journal that has moved, so that it stays in between.
    let many = Scene { step: 17, ..SMALL };
    many.dies(|table| fill(table, 0..70), |table| table.clear().unwrap());
    let moved = |table: &Watched| {
        table.group(|group| (0..60).try_for_each(|key| group.add(key, &[key; 2]))).unwrap();
        fill(table, 0..5);
        assert_eq!(journal(table), 256);
    };
    Scene { step: 5, ..SMALL }.dies(moved, |table| table.clear().unwrap());
}

/// The bucket that was changed last is in a segment that is given back; the recovery must not take what lies there
/// then for a bucket.
#[test]
fn a_recovery_after_clearing_spares_values_that_lie_where_a_bucket_was() {
    let prepare = |table: &Watched| {
        fill(table, 0..70);
        table.add(keys_of(table, 16, 32, 1)[0], &[1, 2]).unwrap();
        table.clear().unwrap();
        // In a group, so that no bucket is changed alone.
        let odd = vec![-1; 1500];
        table.group(|group| group.add(1, &odd)).unwrap();
    };
    let act = |table: &Watched| table.group(|group| group.add(2, &[1, 2])).unwrap();
    dies_everywhere(prepare, act);
}

#[test]
fn clearing_in_a_group() {
    let act = |table: &Watched| {
        let result = table.group(|group| {
            group.add(50, &[1, 2])?;
            group.clear()?;
            assert_eq!(group.length()?, 0);
            (0..6).try_for_each(|key| group.add(key, &[4; 3]))?;
            let failed: Result<(), TableError> = group.group(|inner| {
                inner.clear()?;
                Err(TableError::FormatFull)
            });
            assert!(failed.is_err());
            group.remove(2).map(drop)
        });
        result.unwrap();
    };
    let (_, after) = Scene { step: 3, ..scene(16) }.dies(variety, act);
    assert_eq!(after.contents.keys().copied().collect::<Vec<_>>(), [0, 1, 3, 4, 5]);
}

#[test]
fn retaining_some() {
    type Keep = fn(i32, &[i32]) -> bool;
    let keeps: [Keep; 5] = [
        |key, _| key % 2 == 0,
        |_, value| value.len() > 1,
        |_, value| value.len() < 2,
        |_, _| false,
        |_, _| true,
    ];
    for keep in keeps {
        for buckets in [1, 16] {
            let act = |table: &Watched| {
                let all = table.length().unwrap();
                let removed = table.retain(keep).unwrap();
                assert_eq!(table.length().unwrap(), all - removed);
            };
            let (before, after) = Scene { step: 4, buckets }.dies(variety, act);
            let mut kept = before.contents;
            kept.iter_mut().for_each(|(key, values)| values.retain(|value| keep(*key, value)));
            kept.retain(|_, values| !values.is_empty());
            assert_eq!(after.contents, kept);
        }
    }
}

#[test]
fn updating() {
    for hidden in 0..2 {
        for old in [None, Some(0), Some(1), Some(2), Some(30)] {
            for new in [None, Some(0), Some(1), Some(2), Some(31)] {
                let prepare = |table: &Watched| {
                    fill(table, 0..3);
                    let older = old.map_or(0, |_| hidden);
                    (0..older).for_each(|_| table.add(5, &[5]).unwrap());
                    old.iter().for_each(|length| table.add(5, &vec![6; *length]).unwrap());
                };
                let act = |table: &Watched| {
                    let change = |value: Option<&[i32]>| {
                        assert_eq!(value.map(<[i32]>::len), old);
                        new.map(|length| vec![7; length])
                    };
                    table.update(5, change).unwrap();
                };
                dies_everywhere(prepare, act);
            }
        }
    }
}

/// Three bindings of key 1, of which the middle one takes several fragments.
fn layered(table: &Watched) {
    fill(table, 0..4);
    table.add(1, &[5]).unwrap();
    table.add(1, &[6; 100]).unwrap();
    table.add(1, &[7; 3]).unwrap();
}

#[test]
fn setting_words_in_place() {
    let act = |table: &Watched| {
        let result = table.write_blocks(1, Announced::Nothing, |fragment| {
            if let Some(mut fragment) = fragment {
                let last = fragment.len() - 1;
                fragment.set(last, -1).unwrap();
                fragment.set(0, fragment.get(0).unwrap() + 1).unwrap();
            }
            Answer::CONTINUE
        });
        result.unwrap();
    };
    let (before, after) = dies_everywhere(layered, act);
    assert_eq!(after.contents[&1].len(), before.contents[&1].len());
    assert_eq!(after.contents[&1][0], [8, 7, -1]);
    let slot = |table: &Watched| table.add(9, &[5]).unwrap();
    let set = |table: &Watched| {
        let result = table.write_blocks(9, Announced::Nothing, |fragment| {
            fragment.into_iter().for_each(|mut fragment| fragment.copy_from(&[6]).unwrap());
            Answer::NEXT
        });
        result.unwrap();
    };
    dies_everywhere(slot, set);
    let many = |table: &Watched| {
        let result = table.write_blocks(1, Announced::Nothing, |fragment| {
            fragment.into_iter().for_each(|mut fragment| {
                let values = vec![3; fragment.len()];
                fragment.copy_from(&values).unwrap();
            });
            Answer::CONTINUE
        });
        result.unwrap();
    };
    dies_everywhere(layered, many);
}

#[test]
fn removing_while_writing() {
    for removed in 1..16u32 {
        for buckets in [1, 16] {
            let act = |table: &Watched| {
                let mut binding = 0;
                let result = table.write_blocks(1, Announced::Removal, |fragment| {
                    let remove = removed >> binding & 1 == 1;
                    if let Some(mut fragment) = fragment {
                        if !fragment.is_empty() {
                            fragment.set(0, 55).unwrap();
                        }
                    }
                    binding += 1;
                    if remove { Answer::remove(Step::Next) } else { Answer::NEXT }
                });
                result.unwrap();
            };
            let (before, after) = scene(buckets).dies(layered, act);
            let left = before.contents[&1].len() - removed.count_ones() as usize;
            assert_eq!(after.contents.get(&1).map_or(0, Vec::len), left);
        }
    }
}

#[test]
fn changes_of_a_group_that_walks_its_own() {
    let act = |table: &Watched| {
        let body = |group: &mut WatchedGroup<'_>| {
            group.add(1, &[8; 60])?;
            group.write_blocks(1, Announced::Removal, |fragment| match fragment {
                Some(fragment) if fragment.len() == 1 => Answer::remove(Step::Stop),
                _ => Answer::CONTINUE,
            })?;
            group.update(2, |_| None::<[i32; 0]>)?;
            group.retain(|key, _| key != 3).map(drop)
        };
        table.group(body).unwrap();
    };
    let (_, after) = dies_everywhere(layered, act);
    assert_eq!(after.contents[&1].iter().map(Vec::len).collect::<Vec<_>>(), [60, 3, 100, 2]);
}

#[test]
fn a_creation() {
    let name = Fresh::<Heap>::name();
    let (table, stores) = record(|| SMALL.options().create::<Recorder<Heap>, NoLock>(&name).unwrap());
    let full = snapshot::<Heap>(&name).unwrap();
    assert!(table.length().unwrap() == 0 && stores[..2].iter().all(|store: &Store| store.at < 2));
    unfinished(&[]);
    for (count, image) in images(&[], &stores, full.len()).enumerate() {
        if count <= 2 {
            // Before it grew beyond the header.
            unfinished(&image[..accounting::HEADER]);
        }
        if count >= 2 {
            if count < stores.len() {
                unfinished(&image)
            } else {
                assert!(survive(&image, &[1], 0).is_empty())
            }
        }
    }
}

/// Nobody takes this for a table, but whoever creates it anew gets one.
#[track_caller]
fn unfinished(image: &[u32]) {
    let name = Fresh::<Heap>::name();
    restore::<Heap>(&name, image).unwrap();
    let opened = TableOptions::new().open::<Heap, NoLock>(&name);
    assert!(matches!(opened, Err(TableError::Unfinished { .. })), "{opened:?}");
    // Whoever creates it next may want another one.
    let table: Table = TableOptions::new().page_size(200).expected(100).open_or_create(&name).unwrap();
    works(&table);
    assert!(accounting::check(&snapshot::<Heap>(&name).unwrap()).is_empty());
}

#[test]
fn making_a_table_empty_that_exists() {
    for expected in [0, 64, 200] {
        let options = TableOptions::new().page_size(160).expected(expected).seed(7);
        let name = Fresh::<Heap>::name();
        let table: Watched = scene(16).options().create(&name).unwrap();
        variety(&table);
        drop(table);
        let before = snapshot::<Heap>(&name).unwrap();
        let full = accounting::check(&before);
        let (table, stores) = record(|| options.reinitialize::<Recorder<Heap>, NoLock>(&name).unwrap());
        assert_eq!(table.length().unwrap(), 0);
        let words = snapshot::<Heap>(&name).unwrap().len();
        let mut happened = false;
        for (count, image) in images(&before, &stores, words).enumerate() {
            let found = survive(&image, &[1, 2, 3], count);
            assert!(found.is_empty() || (found == full && !happened), "after {count} stores");
            happened |= found.is_empty();
            let name = Fresh::<Heap>::name();
            restore::<Heap>(&name, &image).unwrap();
            let table: Table = options.reinitialize(&name).unwrap();
            works(&table);
            assert!(accounting::check(&snapshot::<Heap>(&name).unwrap()).is_empty());
        }
        assert!(happened);
    }
}

/// Who has the table open since it was small must find out how large it is before undoing: the words to be put back
/// may lie above what the dead writer had given back already.
#[test]
fn a_recovery_by_a_process_that_does_not_know_how_large_the_object_is() {
    let name = Fresh::<Heap>::name();
    let table: Watched = scene(16).options().create(&name).unwrap();
    let small = snapshot::<Heap>(&name).unwrap();
    (0..8).for_each(|key| table.add(key, &[key; 4000]).unwrap());
    let before = snapshot::<Heap>(&name).unwrap();
    assert!(before.len() > 2 * small.len());
    let full = accounting::check(&before);
    let ((), stores) = record(|| {
        let emptied = table.group(|group| (0..8).rev().try_for_each(|key| group.remove(key).map(drop)));
        emptied.unwrap();
    });
    let words = snapshot::<Heap>(&name).unwrap().len();
    let bytes = |image: &[u32]| image.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<u8>>();
    for (count, image) in images(&before, &stores, words).enumerate() {
        let name = Fresh::<File>::name();
        std::fs::write(&*name, bytes(&small)).unwrap();
        let survivor: ShmTable<File, NoLock> = TableOptions::new().mode(0o666).open(&name).unwrap();
        // What another process did, and how it died.
        let object = std::fs::OpenOptions::new().write(true).open(&*name).unwrap();
        object.write_all_at(&bytes(&image), 0).unwrap();
        let length = survivor.length().unwrap_or_else(|error| panic!("after {count} stores: {error}"));
        assert!([0, 8].contains(&length));
        let found = contents(&survivor);
        assert!(found == full || found.is_empty(), "half of it after {count} stores");
        recover(&survivor);
        assert_eq!(survivor.check().unwrap(), []);
    }
}
