//! A map does what a map of stacks does, also with keys of one hash; and whatever it does, it leaves no lock.

mod ending;

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{OnceLock, mpsc};
use std::thread;

use ending::End;
use manycore::codec::{CodecError, Decode, Encode, Words, hash};
use manycore::lock::{LockError, Wait};
use manycore::map::{MapGroup, MapReadGroup};
use manycore::{Best, BestLock, Futex, Heap, LockMethod, MapError, NoLock, PosixShm, ShmBackend, ShmMap};
use manycore::{TableError, TableOptions};
use manycore_backends::testing::shm::{Fresh, Subject};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

type Map<B, L> = ShmMap<u64, String, B, L>;

/// All bindings, newest first.
type Model = HashMap<u64, Vec<String>>;

/// Two keys with the same hash.
fn twins() -> [u64; 2] {
    static TWINS: OnceLock<[u64; 2]> = OnceLock::new();
    *TWINS.get_or_init(|| {
        let mut keys = HashMap::new();
        // Keys that differ in one word have different hashes.
        (1000..)
            .map(|number: u64| number.wrapping_mul(0x9E37_79B9_7F4A_7C15))
            .find_map(|key| Some([keys.insert(hash(&[key as u32, (key >> 32) as u32]), key)?, key]))
            .expect("one of 2^32 + 1 keys has the hash of another")
    })
}

#[derive(Clone, Debug)]
enum Op {
    Add(u64, String),
    AddMany(Vec<(u64, String)>),
    Replace(u64, String),
    Append(u64, String),
    Remove(u64),
    Look(u64),
    LookMany(Vec<u64>),
    Walk,
    Clear,
    /// Keep values of at most this length.
    Retain(usize),
    /// Several, as one, that end in some way.
    Group(Vec<Op>, End),
    /// Go on with the other handle.
    Switch,
}

type Failed = ending::Failed<MapError>;

/// What maps and both kinds of group have in common.
trait Lookups {
    fn find(&self, key: u64) -> Option<String>;
    fn get_many(&self, keys: &[u64]) -> Vec<Option<String>>;
    fn find_all(&self, key: u64) -> Vec<String>;
    fn mem(&self, key: u64) -> bool;
    fn length(&self) -> usize;
    fn entries(&self) -> Vec<(u64, String)>;
    fn folded(&self) -> Vec<(u64, String)>;
    fn keys(&self) -> Vec<u64>;
}

macro_rules! lookups {
    () => {
        fn find(&self, key: u64) -> Option<String> {
            Self::find(self, &key).unwrap()
        }
        fn get_many(&self, keys: &[u64]) -> Vec<Option<String>> {
            Self::get_many(self, keys).unwrap()
        }
        fn find_all(&self, key: u64) -> Vec<String> {
            Self::find_all(self, &key).unwrap()
        }
        fn mem(&self, key: u64) -> bool {
            Self::mem(self, &key).unwrap()
        }
        fn length(&self) -> usize {
            Self::length(self).unwrap()
        }
        fn entries(&self) -> Vec<(u64, String)> {
            Self::iter(self).unwrap().collect::<Result<_, _>>().unwrap()
        }
        fn folded(&self) -> Vec<(u64, String)> {
            let collect = |mut all: Vec<_>, key, value| {
                all.push((key, value));
                all
            };
            Self::fold(self, Vec::new(), collect).unwrap()
        }
        fn keys(&self) -> Vec<u64> {
            Self::iter_keys(self).unwrap().collect::<Result<_, _>>().unwrap()
        }
    };
}

impl<B: ShmBackend> Lookups for MapReadGroup<'_, '_, u64, String, B> {
    lookups!();
}

/// What maps and groups have in common.
trait Operations: Lookups {
    fn add(&mut self, key: u64, value: &str);
    fn add_many(&mut self, bindings: &[(u64, String)]);
    fn replace(&mut self, key: u64, value: &str);
    fn append(&mut self, key: u64, tail: &str);
    fn remove(&mut self, key: u64) -> bool;
    fn clear(&mut self);
    fn retain(&mut self, keep: &mut dyn FnMut(&u64, &String) -> bool) -> usize;
    fn group(
        &mut self,
        body: &mut dyn FnMut(&mut dyn Operations) -> Result<(), Failed>,
    ) -> Result<(), Failed>;
}

macro_rules! operations {
    () => {
        fn add(&mut self, key: u64, value: &str) {
            Self::add(self, &key, &value.to_owned()).unwrap();
        }
        fn add_many(&mut self, bindings: &[(u64, String)]) {
            Self::add_many(self, bindings.iter().map(|(key, value)| (key, value))).unwrap();
        }
        fn replace(&mut self, key: u64, value: &str) {
            Self::replace(self, &key, &value.to_owned()).unwrap();
        }
        fn append(&mut self, key: u64, tail: &str) {
            Self::update(self, &key, |old| old.unwrap_or_default() + tail).unwrap();
        }
        fn remove(&mut self, key: u64) -> bool {
            Self::remove(self, &key).unwrap()
        }
        fn clear(&mut self) {
            Self::clear(self).unwrap();
        }
        fn retain(&mut self, keep: &mut dyn FnMut(&u64, &String) -> bool) -> usize {
            Self::retain(self, keep).unwrap()
        }
        fn group(
            &mut self,
            body: &mut dyn FnMut(&mut dyn Operations) -> Result<(), Failed>,
        ) -> Result<(), Failed> {
            Self::group(self, |group| body(group))
        }
    };
}

impl<B: ShmBackend, L: LockMethod<B>> Lookups for Map<B, L> {
    lookups!();
}

impl<B: ShmBackend, L: LockMethod<B>> Operations for Map<B, L> {
    operations!();
}

impl<B: ShmBackend> Lookups for MapGroup<'_, '_, u64, String, B> {
    lookups!();
}

impl<B: ShmBackend> Operations for MapGroup<'_, '_, u64, String, B> {
    operations!();
}

/// Does `op` to both, and compares what they answer.
fn apply(map: &mut dyn Operations, model: &mut Model, op: &Op) {
    match op {
        Op::Add(key, value) => {
            map.add(*key, value);
            model.entry(*key).or_default().insert(0, value.clone());
        }
        Op::AddMany(bindings) => {
            map.add_many(bindings);
            for (key, value) in bindings {
                model.entry(*key).or_default().insert(0, value.clone());
            }
        }
        Op::Replace(key, value) => {
            map.replace(*key, value);
            let values = model.entry(*key).or_default();
            values.splice(..values.len().min(1), [value.clone()]);
        }
        Op::Append(key, tail) => {
            map.append(*key, tail);
            let values = model.entry(*key).or_default();
            let changed = values.first().cloned().unwrap_or_default() + tail;
            values.splice(..values.len().min(1), [changed]);
        }
        Op::Remove(key) => {
            let values = model.entry(*key).or_default();
            assert_eq!(map.remove(*key), !values.is_empty());
            values.drain(..values.len().min(1));
        }
        Op::Look(key) => {
            let values = model.get(key).cloned().unwrap_or_default();
            assert_eq!(map.find(*key).as_ref(), values.first());
            assert_eq!(map.mem(*key), !values.is_empty());
            assert_eq!(map.find_all(*key), values);
        }
        Op::LookMany(keys) => {
            let newest = |key| model.get(key).and_then(|values| values.first().cloned());
            assert_eq!(map.get_many(keys), keys.iter().map(newest).collect::<Vec<_>>());
        }
        Op::Walk => assert_same(map, model),
        Op::Clear => {
            map.clear();
            model.clear();
        }
        Op::Retain(longest) => {
            let before = model.values().map(Vec::len).sum::<usize>();
            model.values_mut().for_each(|values| values.retain(|value| value.len() <= *longest));
            let after = model.values().map(Vec::len).sum::<usize>();
            assert_eq!(map.retain(&mut |_, value| value.len() <= *longest), before - after);
        }
        Op::Group(ops, end) => {
            ending::expect(*end, model, |changed| {
                map.group(&mut |group| {
                    ops.iter().for_each(|op| apply(group, changed, op));
                    end.reach()
                })
            });
        }
        Op::Switch => {}
    }
    model.retain(|_, values| !values.is_empty());
}

fn assert_same(map: &(impl Lookups + ?Sized), model: &Model) {
    assert_eq!(map.length(), model.values().map(Vec::len).sum::<usize>());
    let entries = map.entries();
    assert_eq!(map.folded(), entries);
    let mut found = Model::new();
    for (key, value) in entries {
        found.entry(key).or_default().push(value);
    }
    assert_eq!(&found, model);
    let mut keys = map.keys();
    keys.sort_unstable();
    let mut expected: Vec<u64> = model.keys().copied().collect();
    expected.sort_unstable();
    assert_eq!(keys, expected);
}

fn run<B: Subject + BestLock>(ops: &[Op]) {
    let name = Fresh::<B>::name();
    let options = TableOptions::new().page_size(160).expected(0);
    let mut map: Map<B, Best<B>> = options.create(&name).unwrap().into();
    let mut other: Map<B, Best<B>> = options.open(&name).unwrap().into();
    let mut model = Model::new();
    for op in ops {
        match op {
            Op::Switch => std::mem::swap(&mut map, &mut other),
            op => apply(&mut map, &mut model, op),
        }
    }
    assert_same(&map, &model);
    let read = |group: &MapReadGroup<'_, '_, _, _, B>| {
        assert_same(group, &model);
        Ok::<_, MapError>(())
    };
    other.read_group(read).unwrap();
}

fn op() -> impl Strategy<Value = Op> {
    let [one, other] = twins();
    let key = move || prop_oneof![3 => 0..6u64, 2 => Just(one), 2 => Just(other)];
    let value = || "[a-z]{0,9}";
    let single = prop_oneof![
        6 => (key(), value()).prop_map(|(key, value)| Op::Add(key, value)),
        2 => vec((key(), value()), 0..20).prop_map(Op::AddMany),
        3 => (key(), value()).prop_map(|(key, value)| Op::Replace(key, value)),
        3 => (key(), value()).prop_map(|(key, value)| Op::Append(key, value)),
        4 => key().prop_map(Op::Remove),
        2 => key().prop_map(Op::Look),
        2 => vec(key(), 0..80).prop_map(Op::LookMany),
        1 => Just(Op::Walk),
        1 => prop_oneof![1 => Just(Op::Clear), 3 => (0..9usize).prop_map(Op::Retain)],
    ];
    let grouped = single.prop_recursive(2, 60, 12, |inner| {
        let end = prop_oneof![3 => Just(End::Success), 2 => Just(End::Failure), 1 => Just(End::Panic)];
        (vec(inner, 0..12), end).prop_map(|(ops, end)| Op::Group(ops, end))
    });
    prop_oneof![12 => grouped, 1 => Just(Op::Switch)]
}

fn cases(cases: u32) -> ProptestConfig {
    let persistence = FileFailurePersistence::WithSource("regressions");
    ProptestConfig { cases, failure_persistence: Some(Box::new(persistence)), ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn a_map_in_the_heap_is_a_map_of_stacks(ops in vec(op(), 1..60)) {
        run::<Heap>(&ops);
    }
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn a_map_in_shared_memory_is_a_map_of_stacks(ops in vec(op(), 1..60)) {
        run::<PosixShm>(&ops);
    }
}

fn shared() -> (Fresh<PosixShm>, Map<PosixShm, Futex>) {
    let name = Fresh::name();
    let map = ShmMap::create(&name).unwrap();
    (name, map)
}

/// Asserts that another handle, in another thread, gets the write lock at once.
fn assert_unlocked(map: &Map<PosixShm, Futex>) {
    let name = map.name().to_owned();
    let other = move || Map::open(name)?.waiting(Wait::Try).group(|_| Ok::<_, MapError>(()));
    thread::spawn(other).join().unwrap().unwrap();
}

#[test]
fn a_key_is_visited_once_even_if_it_is_mixed_with_another_of_the_same_hash() {
    let (_name, map) = shared();
    let [one, other] = twins();
    for (key, value) in [(one, "1"), (other, "2"), (one, "3"), (other, "4"), (one, "5")] {
        map.add(&key, &value.to_owned()).unwrap();
    }
    assert_eq!(map.table().iter_keys().unwrap().count(), 1, "they have the same hash");
    assert_eq!(map.keys(), [one, other]);
    assert_eq!(map.read_group(|group| Ok::<_, MapError>(group.keys())).unwrap(), [one, other]);
    assert_eq!(map.group(|group| Ok::<_, MapError>(group.keys())).unwrap(), [one, other]);
    assert_eq!(map.find_all(&one).unwrap(), ["5", "3", "1"]);
    assert_eq!(map.find_all(&other).unwrap(), ["4", "2"]);
    assert!(map.remove(&one).unwrap() && map.remove(&one).unwrap() && map.remove(&one).unwrap());
    assert_eq!(map.keys(), [other]);
}

#[test]
fn removing_a_key_behind_another_of_the_same_hash_leaves_no_lock() {
    let (_name, map) = shared();
    let [one, other] = twins();
    for key in [one, one, other, other] {
        map.add(&key, &key.to_string()).unwrap();
    }
    assert!(map.remove(&one).unwrap());
    assert_unlocked(&map);
    map.group(|group| group.remove(&one).map(|removed| assert!(removed))).unwrap();
    assert_unlocked(&map);
    assert!(!map.remove(&one).unwrap(), "nothing is left of it");
    assert_unlocked(&map);
    map.update(&one, |old| old.unwrap_or_default()).unwrap();
    assert_eq!(map.find(&one).unwrap(), Some(String::new()));
    assert_unlocked(&map);
    assert_eq!(map.find_all(&other).unwrap().len(), 2);
}

#[test]
fn whatever_ends_in_the_middle_leaves_no_lock() {
    let (_name, map) = shared();
    (0..10).for_each(|key| map.add(&key, &key.to_string()).unwrap());
    assert!(map.iter().unwrap().next().is_some());
    assert_unlocked(&map);
    assert!(map.iter_keys().unwrap().next().is_some());
    assert_unlocked(&map);
    let panics: [&dyn Fn(); 4] = [
        &|| map.update(&3, |_| panic!("on purpose")).unwrap(),
        &|| drop(map.retain(|_, _| panic!("on purpose"))),
        &|| map.fold((), |(), _, _| panic!("on purpose")).unwrap(),
        &|| map.read_group(|_| -> Result<(), MapError> { panic!("on purpose") }).unwrap(),
    ];
    for panic in panics {
        assert!(catch_unwind(AssertUnwindSafe(panic)).is_err());
        assert_unlocked(&map);
    }
    assert_eq!(map.length().unwrap(), 10);
    assert_eq!(map.find(&3).unwrap().as_deref(), Some("3"));
}

#[test]
fn nothing_is_changed_from_inside_a_walk() {
    let (_name, map) = shared();
    map.add(&1, &"one".to_owned()).unwrap();
    let refused = |result: Result<(), MapError>| {
        assert!(
            matches!(result, Err(MapError::Table(TableError::Lock(LockError::LockedByCaller)))),
            "{result:?}"
        );
    };
    for binding in map.iter().unwrap() {
        refused(map.replace(&binding.unwrap().0, &"two".to_owned()));
    }
    for key in map.iter_keys().unwrap() {
        refused(map.remove(&key.unwrap()).map(drop));
    }
    map.fold((), |(), _, _| refused(map.clear())).unwrap();
    map.read_group(|group| {
        refused(map.retain(|_, _| false).map(drop));
        group.mem(&1)
    })
    .unwrap();
    assert_eq!(map.find(&1).unwrap().as_deref(), Some("one"));
}

#[test]
fn a_binding_of_another_type_stays_and_so_does_all_else() {
    let name = Fresh::<Heap>::name();
    let options = TableOptions::new();
    let texts: Map<Heap, NoLock> = options.create(&name).unwrap().into();
    (0..20).for_each(|key| texts.add(&key, &"text".to_owned()).unwrap());
    let numbers: ShmMap<u64, u32, Heap, NoLock> = options.open(&name).unwrap().into();
    numbers.add(&7, &7).unwrap();
    numbers.add(&30, &30).unwrap();
    assert!(matches!(numbers.retain(|_, _| false), Err(MapError::Codec(_))));
    assert!(matches!(texts.retain(|_, _| false), Err(MapError::Codec(_))));
    numbers
        .group(|group| {
            assert!(matches!(group.retain(|_, _| false), Err(MapError::Codec(_))));
            group.add(&31, &31)
        })
        .unwrap();
    assert_eq!(texts.length().unwrap(), 23);
    assert!(matches!(texts.fold((), |(), _, _| ()), Err(MapError::Codec(_))));
    assert_eq!(texts.iter().unwrap().filter(Result::is_err).count(), 3);
    assert_eq!(texts.iter_keys().unwrap().map(Result::unwrap).count(), 22, "values are not looked at");
    let wrong: ShmMap<bool, u32, Heap, NoLock> = options.open(&name).unwrap().into();
    assert!(wrong.iter_keys().unwrap().any(|key| key.is_err()));
}

#[test]
fn many_keys_are_looked_up_in_any_borrowed_form() {
    let options = TableOptions::new();
    let counts: ShmMap<String, u32, Heap, NoLock> = options.create_unique("many-XXXXXX").unwrap().into();
    for number in 0..1000 {
        counts.add(&format!("{number:0width$}", width = number % 40 + 1), &(number as u32)).unwrap();
    }
    let names: Vec<String> =
        (0..1100).map(|number| format!("{number:0width$}", width = number % 40 + 1)).collect();
    let expected: Vec<Option<u32>> = (0..1100).map(|number| (number < 1000).then_some(number)).collect();
    assert_eq!(counts.get_many(&names).unwrap(), expected);
    assert_eq!(counts.get_many(names.iter().map(String::as_str)).unwrap(), expected);
    let grouped = counts.read_group(|group| group.get_many(&names)).unwrap();
    assert_eq!(grouped, expected);
    let none: [&str; 0] = [];
    assert!(counts.get_many(none).unwrap().is_empty());
}

#[test]
fn one_of_many_that_is_of_another_type_is_an_error() {
    let name = Fresh::<Heap>::name();
    let options = TableOptions::new();
    let texts: Map<Heap, NoLock> = options.create(&name).unwrap().into();
    let numbers: ShmMap<u64, u32, Heap, NoLock> = options.open(&name).unwrap().into();
    let [one, other] = twins();
    texts.add(&one, &"text".to_owned()).unwrap();
    numbers.add(&other, &1).unwrap();
    numbers.add(&3, &3).unwrap();
    assert_eq!(numbers.get_many(&[3, other, 4]).unwrap(), [Some(3), Some(1), None]);
    assert!(
        matches!(numbers.get_many(&[3, one, other]), Err(MapError::Codec(_))),
        "behind another of its hash"
    );
    assert!(matches!(texts.get_many(&[one, 3]), Err(MapError::Codec(_))));
}

#[test]
fn a_map_is_opened_or_created_and_has_a_name_of_its_own() {
    let name = Fresh::<PosixShm>::name();
    let map: ShmMap<u64, String> = ShmMap::open_or_create(&*name).unwrap();
    map.add(&1, &"one".to_owned()).unwrap();
    let again: ShmMap<u64, String> = ShmMap::open_or_create(&*name).unwrap();
    assert_eq!(again.find(&1).unwrap().as_deref(), Some("one"));
    let [here, there]: [ShmMap<u64, String>; 2] =
        [(); 2].map(|()| ShmMap::create_unique("/map-test-XXXXXX").unwrap());
    assert_ne!(here.name(), there.name());
    assert_eq!(there.length().unwrap(), 0);
    here.unlink().unwrap();
    there.unlink().unwrap();
}

#[test]
fn a_handle_that_only_tries_does_not_wait_for_a_group() {
    let (name, map) = shared();
    let (locked, is_locked) = mpsc::channel();
    let (finish, is_to_finish) = mpsc::channel::<()>();
    let other = thread::spawn(move || {
        Map::open(&*name).unwrap().group(|group| {
            group.add(&1, &"one".to_owned())?;
            locked.send(()).unwrap();
            is_to_finish.recv().unwrap();
            Ok::<_, MapError>(name)
        })
    });
    is_locked.recv().unwrap();
    let busy = map.waiting(Wait::Try).add(&2, &"two".to_owned());
    assert!(matches!(busy, Err(MapError::Table(TableError::Lock(LockError::Busy)))), "{busy:?}");
    finish.send(()).unwrap();
    map.add(&2, &"two".to_owned()).unwrap();
    let _name = other.join().unwrap().unwrap();
    assert_eq!(map.length().unwrap(), 2);
}

#[test]
fn clones_and_unlinked_maps_go_on() {
    let (name, map) = shared();
    let clone = map.clone();
    assert_eq!(map.name(), &*name);
    map.unlink().unwrap();
    assert!(map.unlink().is_err(), "the name is gone");
    clone.add(&1, &"one".to_owned()).unwrap();
    assert_eq!(map.find(&1).unwrap().as_deref(), Some("one"));
    assert!(ShmMap::<u64, String>::open(&*name).is_err());
}

#[test]
fn a_read_group_sees_one_state() {
    let (name, map) = shared();
    map.add(&0, &"0".to_owned()).unwrap();
    map.add(&1, &"0".to_owned()).unwrap();
    let writer = thread::spawn(move || {
        let map: Map<PosixShm, Futex> = Map::open(&*name).unwrap();
        for round in 1..300 {
            let value = round.to_string();
            map.group(|group| group.replace(&0, &value).and_then(|()| group.replace(&1, &value))).unwrap();
        }
        name
    });
    while !writer.is_finished() {
        let pair = map.read_group(|group| Ok::<_, MapError>((group.find(&0)?, group.find(&1)?))).unwrap();
        assert_eq!(pair.0, pair.1);
    }
    let _name = writer.join().unwrap();
}

/// A number that has no encoding if it is odd.
#[derive(Debug, PartialEq)]
struct Even(u32);

impl Encode for Even {
    fn encode(&self, words: &mut Vec<u32>) -> Result<(), CodecError> {
        match self.0 % 2 {
            0 => self.0.encode(words),
            _ => Err(CodecError::Invalid("odd")),
        }
    }
}

impl Decode for Even {
    fn decode(words: &mut Words<'_>) -> Result<Even, CodecError> {
        Ok(Even(u32::decode(words)?))
    }
}

#[test]
fn of_many_bindings_none_is_added_if_one_has_no_encoding() {
    let name = Fresh::<Heap>::name();
    let map: ShmMap<u32, Even, Heap, NoLock> = TableOptions::new().create(&name).unwrap().into();
    let bindings = |numbers: [u32; 3]| numbers.map(|number| (number, Even(number)));
    let add = |numbers| map.add_many(bindings(numbers).iter().map(|(key, value)| (key, value)));
    assert!(matches!(add([2, 4, 5]), Err(MapError::Codec(CodecError::Invalid("odd")))));
    assert_eq!(map.length().unwrap(), 0);
    let result: Result<(), MapError> = map.group(|group| {
        group.add(&1, &Even(10))?;
        let odd = bindings([6, 7, 8]);
        assert!(group.add_many(odd.iter().map(|(key, value)| (key, value))).is_err());
        Ok(())
    });
    result.unwrap();
    assert_eq!(
        (map.length().unwrap(), map.find(&1).unwrap(), map.find(&6).unwrap()),
        (1, Some(Even(10)), None)
    );
    add([2, 4, 6]).unwrap();
    assert_eq!((map.length().unwrap(), map.find(&4).unwrap()), (4, Some(Even(4))));
}
