//! What is compared: the anchor and the tables, behind one trait.

use hashbrown::HashMap;
use manycore::shm::Open;
use manycore::{Fcntl, Futex, LockMethod, NoLock, PosixShm, ShmBackend, ShmTable, TableError, TableOptions};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};

/// The parties of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Subject {
    Anchor,
    SharedNoLock,
    SharedFutex,
    SharedFcntl,
}

impl Subject {
    pub(crate) const ALL: [Subject; 4] =
        [Subject::Anchor, Subject::SharedNoLock, Subject::SharedFutex, Subject::SharedFcntl];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Subject::Anchor => "anchor",
            Subject::SharedFutex => "PosixShm, Futex",
            Subject::SharedNoLock => "PosixShm, NoLock",
            Subject::SharedFcntl => "PosixShm, Fcntl",
        }
    }

    /// An empty one, where the price of a call through a table of functions does not matter.
    pub(crate) fn empty(self) -> Box<dyn Store> {
        match self {
            Subject::Anchor => Box::new(Anchor::empty()),
            Subject::SharedFutex => Box::new(Table::<PosixShm, Futex>::empty()),
            Subject::SharedNoLock => Box::new(Table::<PosixShm, NoLock>::empty()),
            Subject::SharedFcntl => Box::new(Table::<PosixShm, Fcntl>::empty()),
        }
    }
}

/// A hash table under test. Nothing may fail: a bench that meets an error panics.
pub(crate) trait Store: Sync {
    fn empty() -> Self
    where
        Self: Sized;

    /// The same, for so many keys, with values of so many words, where it cannot grow.
    fn for_values(_: usize, _: usize) -> Self
    where
        Self: Sized,
    {
        Self::empty()
    }

    fn add(&self, key: i32, value: &[i32]);
    fn replace(&self, key: i32, value: &[i32]);
    fn remove(&self, key: i32) -> bool;

    /// A copy of the value, newly allocated.
    fn find(&self, key: i32) -> Option<Vec<i32>>;

    /// A copy of the value, in the buffer.
    fn find_into(&self, key: i32, value: &mut Vec<i32>) -> bool;

    /// Adds one to a counter.
    fn increment(&self, key: i32);

    /// The sum of all keys and words.
    fn sum(&self) -> i64;

    /// Adds all keys under one lock, each with a value that begins with the key and goes on as `value` does.
    fn add_group(&self, keys: &[i32], value: &mut [i32]);

    /// The same in the fastest way that there is.
    fn add_many(&self, keys: &[i32], value: &mut [i32]) {
        self.add_group(keys, value);
    }

    /// Copies the values of all keys into the buffer, one after the other, under one lock.
    fn find_group(&self, keys: &[i32], value: &mut Vec<i32>) -> usize;

    /// Shows the values of all keys, without copying where that is possible; the sum of their first words.
    fn find_many(&self, keys: &[i32]) -> i64;

    /// What it takes, as far as that can be known.
    fn bytes(&self) -> Option<u64>;
}

/// What a program of threads would use.
#[derive(Debug)]
pub(crate) struct Anchor(RwLock<HashMap<i32, Vec<i32>>>);

impl Store for Anchor {
    fn empty() -> Self {
        Anchor(RwLock::new(HashMap::new()))
    }

    fn add(&self, key: i32, value: &[i32]) {
        self.0.write().insert(key, value.to_vec());
    }

    fn replace(&self, key: i32, value: &[i32]) {
        self.0.write().insert(key, value.to_vec());
    }

    fn remove(&self, key: i32) -> bool {
        self.0.write().remove(&key).is_some()
    }

    fn find(&self, key: i32) -> Option<Vec<i32>> {
        self.0.read().get(&key).cloned()
    }

    fn find_into(&self, key: i32, value: &mut Vec<i32>) -> bool {
        copy(self.0.read().get(&key), value)
    }

    fn increment(&self, key: i32) {
        self.0.write().entry(key).or_insert_with(|| vec![0])[0] += 1;
    }

    fn sum(&self) -> i64 {
        self.0.read().iter().map(|(key, value)| sum_of(*key, value)).sum()
    }

    fn add_group(&self, keys: &[i32], value: &mut [i32]) {
        let mut map = self.0.write();
        for key in keys {
            value[0] = *key;
            map.insert(*key, value.to_vec());
        }
    }

    fn find_group(&self, keys: &[i32], value: &mut Vec<i32>) -> usize {
        let map = self.0.read();
        keys.iter().filter(|key| copy(map.get(*key), value)).count()
    }

    fn find_many(&self, keys: &[i32]) -> i64 {
        let map = self.0.read();
        keys.iter().filter_map(|key| map.get(key)).map(|value| i64::from(value[0])).sum()
    }

    fn bytes(&self) -> Option<u64> {
        None
    }
}

fn copy(found: Option<&Vec<i32>>, value: &mut Vec<i32>) -> bool {
    value.clear();
    found.is_some_and(|found| {
        value.extend_from_slice(found);
        true
    })
}

fn sum_of(key: i32, value: &[i32]) -> i64 {
    value.iter().fold(i64::from(key), |sum, word| sum + i64::from(*word))
}

/// A table of ours. Its name is removed when the maker drops it.
#[derive(Debug)]
pub(crate) struct Table<B: ShmBackend, L: LockMethod<B>> {
    table: ShmTable<B, L>,
    made_here: bool,
}

impl<B: ShmBackend, L: LockMethod<B>> Table<B, L> {
    /// One that another process made.
    pub(crate) fn open(name: &str) -> Self {
        Table { table: TableOptions::new().open(name).unwrap(), made_here: false }
    }

    pub(crate) fn name(&self) -> String {
        self.table.name().to_str().unwrap().to_owned()
    }
}

impl<B: ShmBackend, L: LockMethod<B>> Store for Table<B, L> {
    fn empty() -> Self {
        Table { table: TableOptions::new().create_unique("/manycore-bench-XXXXXX").unwrap(), made_here: true }
    }

    fn add(&self, key: i32, value: &[i32]) {
        self.table.add(key, value).unwrap();
    }

    fn replace(&self, key: i32, value: &[i32]) {
        self.table.replace(key, value).unwrap();
    }

    fn remove(&self, key: i32) -> bool {
        self.table.remove(key).unwrap()
    }

    fn find(&self, key: i32) -> Option<Vec<i32>> {
        self.table.find(key).unwrap()
    }

    fn find_into(&self, key: i32, value: &mut Vec<i32>) -> bool {
        self.table.find_into(key, value).unwrap()
    }

    fn increment(&self, key: i32) {
        self.table.update(key, |old| Some([old.map_or(0, |value| value[0]) + 1])).unwrap();
    }

    fn sum(&self) -> i64 {
        self.table.fold(0, |sum, key, value| sum + sum_of(key, value)).unwrap()
    }

    fn add_group(&self, keys: &[i32], value: &mut [i32]) {
        let add_all = |group: &mut manycore::table::Group<'_, B>| {
            for key in keys {
                value[0] = *key;
                group.add(*key, value)?;
            }
            Ok::<_, TableError>(())
        };
        self.table.group(add_all).unwrap();
    }

    fn add_many(&self, keys: &[i32], value: &mut [i32]) {
        let of = |key: &i32| {
            let mut value = value.to_vec();
            value[0] = *key;
            (*key, value)
        };
        match value.len() {
            1 => self.table.add_many(keys.iter().map(|key| (*key, [*key]))).unwrap(),
            _ => self.table.add_many(keys.iter().map(of)).unwrap(),
        }
    }

    fn find_group(&self, keys: &[i32], value: &mut Vec<i32>) -> usize {
        let find_all = |group: &manycore::table::ReadGroup<'_, B>| {
            let mut found = 0;
            for key in keys {
                found += usize::from(group.find_into(*key, value)?);
            }
            Ok::<_, TableError>(found)
        };
        self.table.read_group(find_all).unwrap()
    }

    fn find_many(&self, keys: &[i32]) -> i64 {
        let mut sum = 0;
        self.table.get_many(keys, |_, value| sum += value.map_or(0, |value| i64::from(value[0]))).unwrap();
        sum
    }

    fn bytes(&self) -> Option<u64> {
        let object = B::open(self.table.name(), Open::Existing).unwrap();
        Some(object.size().unwrap())
    }
}

impl<B: ShmBackend, L: LockMethod<B>> Drop for Table<B, L> {
    fn drop(&mut self) {
        if self.made_here {
            let _ = self.table.unlink();
        }
    }
}

/// Distinct keys without any order: the same ones every time.
pub(crate) fn keys(count: usize) -> Vec<i32> {
    (0..count as u32).map(|number| mix(number) as i32).collect()
}

/// A permutation of all numbers of 32 bits (the end of MurmurHash3).
fn mix(mut number: u32) -> u32 {
    number ^= number >> 16;
    number = number.wrapping_mul(0x85EB_CA6B);
    number ^= number >> 13;
    number = number.wrapping_mul(0xC2B2_AE35);
    number ^ number >> 16
}

/// Numbers that look random; equal seeds give equal numbers.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
        ((u128::from(self.0) * limit as u128) >> 64) as usize
    }
}

/// The same keys in another order: looking them up in the order in which they came would be walking through
/// the memory of the anchor's values from front to back.
pub(crate) fn shuffled(keys: &[i32]) -> Vec<i32> {
    let mut keys = keys.to_vec();
    let mut random = Random(1);
    for last in (1..keys.len()).rev() {
        keys.swap(last, random.below(last + 1));
    }
    keys
}
