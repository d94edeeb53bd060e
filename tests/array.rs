//! An array does what a vector of options does, alone or in groups; a table that is no array is left alone.

mod ending;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::thread;

use ending::End;
use manycore::array::{ArrayGroup, ArrayReadGroup};
use manycore::codec::{CodecError, Encode};
use manycore::lock::{LockError, Wait};
use manycore::{ArrayError, Best, BestLock, Futex, Heap, LockMethod, NoLock, PosixShm, ShmArray, ShmBackend};
use manycore::{File, ShmMap, ShmTable, TableError, TableOptions};
use manycore_backends::testing::shm::{Fresh, Subject};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

/// What elements that are not set read as.
const DEFAULT: &str = "unset";

/// The elements that are set, by their indices, and the length: a vector of options, also of the longest length.
#[derive(Clone, Debug, PartialEq)]
struct Model {
    set: BTreeMap<u32, String>,
    length: u32,
}

impl Model {
    fn get(&self, index: u32) -> Option<String> {
        (index < self.length).then(|| self.set.get(&index).cloned().unwrap_or_else(|| DEFAULT.to_owned()))
    }
}

#[derive(Clone, Debug)]
enum Op {
    Set(u32, String),
    Append(u32, String),
    Unset(u32),
    Get(u32),
    GetMany(Vec<u32>),
    Resize(u32),
    Walk,
    /// Several, as one, that end in some way.
    Group(Vec<Op>, End),
    /// Go on with the other handle.
    Switch,
}

type Failed = ending::Failed<ArrayError>;

/// What arrays and both kinds of group have in common.
trait Lookups {
    fn length(&self) -> u32;
    fn get(&self, index: u32) -> Result<String, ArrayError>;
    fn get_many(&self, indices: &[u32]) -> Result<Vec<String>, ArrayError>;
    fn elements(&self) -> Vec<(u32, String)>;
}

macro_rules! lookups {
    (|$array:ident| $length:expr) => {
        fn length(&self) -> u32 {
            let $array = self;
            $length
        }
        fn get(&self, index: u32) -> Result<String, ArrayError> {
            Self::get(self, index)
        }
        fn get_many(&self, indices: &[u32]) -> Result<Vec<String>, ArrayError> {
            Self::get_many(self, indices)
        }
        fn elements(&self) -> Vec<(u32, String)> {
            Self::iter(self).unwrap().collect::<Result<_, _>>().unwrap()
        }
    };
}

impl<B: ShmBackend> Lookups for ArrayReadGroup<'_, '_, String, B> {
    lookups!(|group| ArrayReadGroup::length(group));
}

/// What arrays and groups have in common.
trait Operations: Lookups {
    fn set(&mut self, index: u32, value: &str) -> Result<(), ArrayError>;
    fn append(&mut self, index: u32, tail: &str) -> Result<(), ArrayError>;
    fn unset(&mut self, index: u32) -> Result<bool, ArrayError>;
    fn resize(&mut self, length: u32);
    fn group(
        &mut self,
        body: &mut dyn FnMut(&mut dyn Operations) -> Result<(), Failed>,
    ) -> Result<(), Failed>;
}

macro_rules! operations {
    () => {
        fn set(&mut self, index: u32, value: &str) -> Result<(), ArrayError> {
            Self::set(self, index, &value.to_owned())
        }
        fn append(&mut self, index: u32, tail: &str) -> Result<(), ArrayError> {
            Self::update(self, index, |old| old + tail)
        }
        fn unset(&mut self, index: u32) -> Result<bool, ArrayError> {
            Self::unset(self, index)
        }
        fn resize(&mut self, length: u32) {
            Self::resize(self, length).unwrap();
        }
        fn group(
            &mut self,
            body: &mut dyn FnMut(&mut dyn Operations) -> Result<(), Failed>,
        ) -> Result<(), Failed> {
            Self::group(self, |group| body(group))
        }
    };
}

impl<B: ShmBackend, L: LockMethod<B>> Lookups for ShmArray<String, B, L> {
    lookups!(|array| ShmArray::length(array).unwrap());
}

impl<B: ShmBackend, L: LockMethod<B>> Operations for ShmArray<String, B, L> {
    operations!();
}

impl<B: ShmBackend> Lookups for ArrayGroup<'_, '_, String, B> {
    lookups!(|group| ArrayGroup::length(group));
}

impl<B: ShmBackend> Operations for ArrayGroup<'_, '_, String, B> {
    operations!();
}

/// The result, or `None` if the index was out of bounds, and the error says so.
fn within<T>(result: Result<T, ArrayError>, expected_index: u32, expected_length: u32) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(ArrayError::OutOfBounds { index, length }) => {
            assert_eq!((index, length), (expected_index, expected_length));
            assert!(index >= length);
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// Does `op` to both, and compares what they answer.
fn apply(array: &mut dyn Operations, model: &mut Model, op: &Op) {
    let length = model.length;
    match op {
        Op::Set(index, value) => {
            let done = within(array.set(*index, value), *index, length);
            assert_eq!(done.is_some(), *index < length);
            done.map(|()| model.set.insert(*index, value.clone()));
        }
        Op::Append(index, tail) => {
            let done = within(array.append(*index, tail), *index, length);
            assert_eq!(done.is_some(), *index < length);
            if let Some(old) = model.get(*index) {
                model.set.insert(*index, old + tail);
            }
        }
        Op::Unset(index) => {
            let expected = (*index < length).then(|| model.set.remove(index).is_some());
            assert_eq!(within(array.unset(*index), *index, length), expected);
        }
        Op::Get(index) => assert_eq!(within(array.get(*index), *index, length), model.get(*index)),
        Op::GetMany(indices) => {
            let expected: Option<Vec<String>> = indices.iter().map(|index| model.get(*index)).collect();
            let outside = indices.iter().find(|index| **index >= length);
            let found = within(array.get_many(indices), *outside.unwrap_or(&0), length);
            assert_eq!(found, expected);
        }
        Op::Resize(length) => {
            array.resize(*length);
            model.length = *length;
            model.set.retain(|index, _| index < length);
        }
        Op::Walk => assert_same(array, model),
        Op::Group(ops, end) => {
            ending::expect(*end, model, |changed| {
                array.group(&mut |group| {
                    ops.iter().for_each(|op| apply(group, changed, op));
                    end.reach()
                })
            });
        }
        Op::Switch => {}
    }
}

fn assert_same(array: &(impl Lookups + ?Sized), model: &Model) {
    assert_eq!(array.length(), model.length);
    let elements = array.elements();
    let count = elements.len();
    let set: BTreeMap<u32, String> = elements.into_iter().collect();
    assert_eq!(count, set.len(), "an element was visited twice");
    assert_eq!(set, model.set);
    // All that are set, and all that are not but near the beginning.
    let some: Vec<u32> = (0..model.length.min(50)).chain(set.into_keys()).collect();
    let expected: Vec<String> = some.iter().filter_map(|index| model.get(*index)).collect();
    assert_eq!(array.get_many(&some).unwrap(), expected);
}

fn run<B: Subject + BestLock>(ops: &[Op]) {
    let name = Fresh::<B>::name();
    let options = TableOptions::new().page_size(160).expected(0);
    let take =
        |table: ShmTable<B, Best<B>>| ShmArray::<String, B, _>::new(table, DEFAULT.to_owned()).unwrap();
    let mut array = take(options.create(&name).unwrap());
    let mut other = take(options.open(&name).unwrap());
    let mut model = Model { set: BTreeMap::new(), length: 0 };
    for op in ops {
        match op {
            Op::Switch => std::mem::swap(&mut array, &mut other),
            op => apply(&mut array, &mut model, op),
        }
    }
    assert_same(&array, &model);
    assert_eq!(array.table().length().unwrap(), model.set.len() + 1, "all that is stored");
    let read = |group: &ArrayReadGroup<'_, '_, _, _>| {
        assert_same(group, &model);
        Ok::<_, ArrayError>(())
    };
    other.read_group(read).unwrap();
    assert!(array.table().check().unwrap().is_empty());
}

fn op() -> impl Strategy<Value = Op> {
    let index = || prop_oneof![20 => 0..30u32, 1 => u32::MAX - 2..=u32::MAX];
    let length = prop_oneof![20 => 0..40u32, 1 => Just(u32::MAX)];
    let value = || "[a-z]{0,9}";
    let single = prop_oneof![
        6 => (index(), value()).prop_map(|(index, value)| Op::Set(index, value)),
        3 => (index(), value()).prop_map(|(index, value)| Op::Append(index, value)),
        3 => index().prop_map(Op::Unset),
        2 => index().prop_map(Op::Get),
        1 => vec(index(), 0..5).prop_map(Op::GetMany),
        3 => length.prop_map(Op::Resize),
        1 => Just(Op::Walk),
    ];
    let grouped = single.prop_recursive(2, 60, 12, |inner| {
        let end = prop_oneof![3 => Just(End::Success), 2 => Just(End::Failure), 1 => Just(End::Panic)];
        (vec(inner, 0..12), end).prop_map(|(ops, end)| Op::Group(ops, end))
    });
    prop_oneof![12 => grouped, 1 => Just(Op::Switch)]
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    (vec(op(), 1..60), 0..40u32).prop_map(|(ops, length)| [vec![Op::Resize(length)], ops].concat())
}

fn cases(cases: u32) -> ProptestConfig {
    let persistence = FileFailurePersistence::WithSource("regressions");
    ProptestConfig { cases, failure_persistence: Some(Box::new(persistence)), ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn an_array_in_the_heap_is_a_vector_of_options(ops in ops()) {
        run::<Heap>(&ops);
    }
}

proptest! {
    #![proptest_config(cases(32))]

    #[test]
    fn an_array_in_shared_memory_is_a_vector_of_options(ops in ops()) {
        run::<PosixShm>(&ops);
    }

    #[test]
    fn an_array_in_a_file_is_a_vector_of_options(ops in ops()) {
        run::<File>(&ops);
    }
}

type Numbers = ShmArray<u64>;

fn shared(length: u32) -> (Fresh<PosixShm>, Numbers) {
    let name = Fresh::name();
    let array = ShmArray::create(&name, length, 0).unwrap();
    (name, array)
}

/// A table in the heap, which is taken for an array several times.
fn heap() -> (Fresh<Heap>, ShmTable<Heap, NoLock>) {
    let name = Fresh::name();
    let table = TableOptions::new().create(&name).unwrap();
    (name, table)
}

fn numbers(table: &ShmTable<Heap, NoLock>) -> Result<ShmArray<u64, Heap, NoLock>, ArrayError> {
    ShmArray::new(table.clone(), 0)
}

#[test]
fn the_format_is_the_one_written_down() {
    let (_name, table) = heap();
    let array = numbers(&table).unwrap();
    let tag = i32::from_be_bytes(*b"ARR1");
    assert_eq!(tag, 0x4152_5231);
    assert_eq!(table.find_all(-1).unwrap(), [[tag, 0]]);
    array.resize(u32::MAX).unwrap();
    array.set(3, &(5 << 32 | 6)).unwrap();
    array.set(u32::MAX - 1, &1).unwrap();
    assert_eq!(table.find_all(-1).unwrap(), [[tag, -1]]);
    assert_eq!(table.find_all(3).unwrap(), [[6, 5]]);
    assert_eq!(table.find_all(-2).unwrap(), [[1, 0]]);
    assert_eq!(table.length().unwrap(), 3);
}

#[test]
fn the_default_is_of_the_handle_and_not_stored() {
    let (name, array) = shared(10);
    let other = ShmArray::open(&name, 7u64).unwrap();
    array.set(1, &1).unwrap();
    assert_eq!(array.get_many(&[0, 1]).unwrap(), [0, 1]);
    assert_eq!(other.get_many(&[0, 1]).unwrap(), [7, 1]);
    assert_eq!((array.get(2).unwrap(), other.get(2).unwrap()), (0, 7));
    other.update(2, |seven| seven + 1).unwrap();
    assert_eq!((array.get(2).unwrap(), other.get(2).unwrap()), (8, 8));
    // Setting an element to the default is setting it.
    array.set(3, &0).unwrap();
    assert_eq!((array.get(3).unwrap(), other.get(3).unwrap()), (0, 0));
    assert!(array.unset(3).unwrap() && !array.unset(3).unwrap());
    assert_eq!(other.get(3).unwrap(), 7);
    assert_eq!(array.table().length().unwrap(), 3);
    assert_eq!(array.read_group(|group| group.get(4)).unwrap(), 0);
    assert_eq!(other.group(|group| group.get(4)).unwrap(), 7);
}

#[test]
fn an_array_exists_as_soon_as_it_is_created() {
    let (name, array) = shared(5);
    assert!(matches!(
        Numbers::create(&name, 5, 0),
        Err(ArrayError::Table(TableError::Shm(manycore::shm::ShmError::AlreadyExists { .. })))
    ));
    array.set(4, &4).unwrap();
    let other = Numbers::open(&name, 0).unwrap();
    assert_eq!((other.length().unwrap(), other.get(4).unwrap(), other.name()), (5, 4, array.name()));
    let clone = other.clone();
    other.unlink().unwrap();
    clone.set(3, &3).unwrap();
    assert_eq!(array.get(3).unwrap(), 3);
    assert!(Numbers::open(&name, 0).is_err());
}

#[test]
fn an_array_is_opened_or_created_with_its_length() {
    for _ in 0..20 {
        let name = Fresh::<PosixShm>::name();
        thread::scope(|scope| {
            let openers =
                [(); 3].map(|()| scope.spawn(|| ShmArray::open_or_create(&*name, 10, 0_u64)?.length()));
            for opener in openers {
                assert_eq!(opener.join().unwrap().unwrap(), 10, "nobody sees it with another length");
            }
        });
        let array = ShmArray::open_or_create(&*name, 20, 7_u64).unwrap();
        assert_eq!(
            (array.length().unwrap(), array.get(9).unwrap()),
            (10, 7),
            "one that is there keeps its length"
        );
    }
    let name = Fresh::<PosixShm>::name();
    ShmTable::open_or_create(&*name).unwrap().add(7, &[1, 2]).unwrap();
    assert!(matches!(ShmArray::open_or_create(&*name, 1, 0_u64), Err(ArrayError::NotAnArray)));
    assert_eq!(ShmTable::open_or_create(&*name).unwrap().find(7).unwrap(), Some(vec![1, 2]));
}

#[test]
fn an_array_can_have_a_name_that_nobody_has() {
    let [here, there] =
        [3, 4].map(|length| ShmArray::create_unique("/array-test-XXXXXX", length, 0_u64).unwrap());
    assert_ne!(here.name(), there.name());
    assert_eq!((here.length().unwrap(), there.length().unwrap()), (3, 4));
    here.unlink().unwrap();
    there.unlink().unwrap();
    assert!(matches!(
        ShmArray::create_unique("/array-test", 1, 0_u64),
        Err(ArrayError::Table(TableError::Shm(_)))
    ));
}

#[test]
fn shrinking_forgets_and_enlarging_does_not_remember() {
    for (before, after, set) in
        [(100, 50, 100), (100, 99, 100), (u32::MAX, 50, 100), (100, 0, 100), (9, 9, 9)]
    {
        let (_name, array) = shared(before);
        (0..set).for_each(|index| array.set(index, &u64::from(index + 1)).unwrap());
        array.resize(after).unwrap();
        let left = after.min(set);
        assert_eq!(array.table().length().unwrap(), left as usize + 1);
        let outside = array.get(after);
        assert!(matches!(outside, Err(ArrayError::OutOfBounds { .. })), "{outside:?}");
        array.resize(before).unwrap();
        for index in 0..set {
            let expected = if index < left { u64::from(index + 1) } else { 0 };
            assert_eq!(array.get(index).unwrap(), expected);
        }
    }
}

#[test]
fn an_index_out_of_bounds_says_so_and_changes_nothing() {
    let (_name, array) = shared(3);
    for index in [3, 4, u32::MAX - 1, u32::MAX] {
        let refused = |result: Result<(), ArrayError>| assert_eq!(within(result, index, 3), None);
        refused(array.get(index).map(drop));
        refused(array.get_many(&[0, index, u32::MAX]).map(drop));
        refused(array.set(index, &1));
        refused(array.update(index, |_| unreachable!("there is no such element")));
        refused(array.unset(index).map(drop));
        refused(array.read_group(|group| group.get(index).map(drop)));
        refused(array.read_group(|group| group.get_many(&[index]).map(drop)));
        // The group can go on.
        array
            .group(|group| {
                refused(group.get(index).map(drop));
                refused(group.set(index, &1));
                refused(group.update(index, |_| unreachable!("there is no such element")));
                refused(group.unset(index).map(drop));
                group.set(2, &u64::from(index))
            })
            .unwrap();
        assert_eq!(array.get(2).unwrap(), u64::from(index));
    }
    let message = array.get(3).unwrap_err().to_string();
    assert_eq!(message, "element 3 is outside of an array of length 3: resize it first");
    assert_eq!(array.table().length().unwrap(), 2);
}

#[test]
fn a_table_of_something_else_is_refused_and_not_touched() {
    let tag = i32::from_be_bytes(*b"ARR1");
    let contents: [&[(i32, &[i32])]; 8] = [
        &[(1, &[1])],
        &[(-1, &[])],
        &[(-1, &[tag])],
        &[(-1, &[5])],
        &[(-1, &[0, 5])],
        &[(-1, &[5, tag])],
        &[(-1, &[tag, 5, 0])],
        &[(-1, &[tag, 5]), (-1, &[1])],
    ];
    for bindings in contents {
        let (_name, table) = heap();
        bindings.iter().for_each(|(key, value)| table.add(*key, value).unwrap());
        let before: Vec<_> = table.iter().unwrap().map(Result::unwrap).collect();
        let result = numbers(&table);
        assert!(matches!(result, Err(ArrayError::NotAnArray)), "{bindings:?}: {result:?}");
        let after: Vec<_> = table.iter().unwrap().map(Result::unwrap).collect();
        assert_eq!(after, before);
    }
    let (_name, table) = heap();
    ShmMap::<u32, u32, _, _>::from(table.clone()).add(&1, &1).unwrap();
    assert!(matches!(numbers(&table), Err(ArrayError::NotAnArray)));
    table.clear().unwrap();
    assert_eq!(numbers(&table).unwrap().length().unwrap(), 0, "it is empty now");
}

#[test]
fn an_array_opened_for_reading_is_read() {
    let name = Fresh::<PosixShm>::name();
    let table = TableOptions::new().create::<PosixShm, Futex>(&name).unwrap();
    let reading = || TableOptions::new().read_only(true).open::<PosixShm, Futex>(&name).unwrap();
    let empty = ShmArray::new(reading(), 0u32);
    assert!(matches!(empty, Err(ArrayError::Table(TableError::ReadOnly { .. }))), "{empty:?}");
    let array = ShmArray::new(table, 0u32).unwrap();
    array.resize(3).unwrap();
    array.set(1, &5).unwrap();
    let reader = ShmArray::new(reading(), 0u32).unwrap();
    assert_eq!(reader.get_many(&[0, 1, 2]).unwrap(), [0, 5, 0]);
    for refused in [reader.set(1, &6), reader.set(0, &6), reader.resize(9), reader.unset(1).map(drop)] {
        assert!(matches!(refused, Err(ArrayError::Table(TableError::ReadOnly { .. }))), "{refused:?}");
    }
}

/// Somebody writes to the table itself.
#[test]
fn hostile_contents_are_errors_or_seen_and_never_worse() {
    let (_name, table) = heap();
    let array = numbers(&table).unwrap();
    array.resize(10).unwrap();
    array.set(1, &1).unwrap();
    // Elements of no, too few and too many words.
    for (index, words) in [(2, &[][..]), (3, &[1]), (4, &[1, 2, 3])] {
        table.add(index, words).unwrap();
        let index = index as u32;
        assert!(matches!(array.get(index), Err(ArrayError::Codec(_))));
        assert!(matches!(array.get_many(&[1, index]), Err(ArrayError::Codec(_))));
        assert!(matches!(array.update(index, |_| unreachable!()), Err(ArrayError::Codec(_))));
        assert!(matches!(array.read_group(|group| group.get(index)), Err(ArrayError::Codec(_))));
    }
    assert_eq!(array.iter().unwrap().filter(Result::is_err).count(), 3);
    array.set(2, &22).unwrap();
    assert!(array.unset(3).unwrap() && array.unset(4).unwrap());
    // Elements beyond the length, and one below another.
    table.add(20, &[1, 0]).unwrap();
    table.add(i32::MIN, &[1, 0]).unwrap();
    table.add(2, &[23, 0]).unwrap();
    let mut elements: Vec<_> = array.iter().unwrap().map(Result::unwrap).collect();
    elements.sort_unstable();
    assert_eq!(elements, [(1, 1), (2, 22), (2, 23)]);
    assert!(matches!(array.set(21, &1), Err(ArrayError::OutOfBounds { index: 21, length: 10 })));
    assert!(matches!(array.group(|group| group.get(20)), Err(ArrayError::OutOfBounds { .. })));
    array.resize(0).unwrap();
    assert_eq!(table.length().unwrap(), 1, "all of it is gone");
    // A length that is none.
    array.resize(10).unwrap();
    array.set(1, &1).unwrap();
    for words in [&[][..], &[10], &[10, 10], &[i32::from_be_bytes(*b"ARR1"), 10, 10]] {
        table.replace(-1, words).unwrap();
        let refused = |result: Result<(), ArrayError>| {
            assert!(matches!(result, Err(ArrayError::NotAnArray)), "{result:?}");
        };
        refused(array.length().map(drop));
        refused(array.get(2).map(drop));
        refused(array.get_many(&[1]).map(drop));
        refused(array.set(2, &2));
        refused(array.update(1, |_| unreachable!("there is no array")));
        refused(array.unset(1).map(drop));
        refused(array.resize(20));
        refused(array.iter().map(drop));
        refused(array.group(|_| unreachable!("there is no array")));
        refused(array.read_group(|_| unreachable!("there is no array")));
        refused(numbers(&table).map(drop));
        assert_eq!(table.find(-1).unwrap().as_deref(), Some(words));
    }
}

#[test]
fn elements_of_another_type_are_noticed() {
    let (_name, table) = heap();
    let array = numbers(&table).unwrap();
    array.resize(3).unwrap();
    array.set(1, &9).unwrap();
    let wrong: ShmArray<String, Heap, NoLock> = ShmArray::new(table.clone(), String::new()).unwrap();
    let error = wrong.get(1).unwrap_err();
    assert!(matches!(error, ArrayError::Codec(_)), "{error:?}");
    assert!(error.to_string().contains("all users of an array must use the same type"), "{error}");
    assert!(wrong.update(1, |_| unreachable!("there is no value to change")).is_err());
    assert_eq!(array.get(1).unwrap(), 9);
}

/// An element that cannot be written.
#[derive(Clone, Debug, PartialEq)]
struct Unwritable;

impl Encode for Unwritable {
    fn encode(&self, _: &mut Vec<u32>) -> Result<(), CodecError> {
        Err(CodecError::Invalid("on purpose"))
    }
}

impl manycore::codec::Decode for Unwritable {
    fn decode(_: &mut manycore::codec::Words<'_>) -> Result<Self, CodecError> {
        Ok(Unwritable)
    }
}

#[test]
fn a_value_without_encoding_is_refused_and_as_a_default_it_is_not_needed() {
    let (_name, table) = heap();
    let array: ShmArray<Unwritable, Heap, NoLock> = ShmArray::new(table, Unwritable).unwrap();
    array.resize(1).unwrap();
    assert_eq!(array.get(0).unwrap(), Unwritable);
    assert!(matches!(array.set(0, &Unwritable), Err(ArrayError::Codec(_))));
    assert!(matches!(array.update(0, |old| old), Err(ArrayError::Codec(_))));
    assert_eq!(array.table().length().unwrap(), 1);
}

#[test]
fn nothing_is_changed_from_inside_a_walk() {
    let (_name, array) = shared(3);
    array.set(1, &1).unwrap();
    let refused = |result: Result<(), ArrayError>| {
        assert!(
            matches!(result, Err(ArrayError::Table(TableError::Lock(LockError::LockedByCaller)))),
            "{result:?}"
        );
    };
    for element in array.iter().unwrap() {
        assert_eq!(element.unwrap(), (1, 1));
        refused(array.set(1, &2));
        refused(array.set(2, &2));
        refused(array.resize(9));
        assert_eq!(array.get(1).unwrap(), 1, "looking is allowed");
        assert_eq!(array.get(2).unwrap(), 0);
        assert_eq!(array.iter().unwrap().count(), 1);
    }
    array
        .read_group(|group| {
            refused(array.unset(1).map(drop));
            group.get(1)
        })
        .unwrap();
    array.resize(9).unwrap();
    array.set(8, &8).unwrap();
}

#[test]
fn whatever_ends_in_the_middle_changes_nothing_and_leaves_no_lock() {
    let (name, array) = shared(3);
    array.set(1, &1).unwrap();
    let panics: [&dyn Fn(); 3] = [
        &|| array.update(1, |_| panic!("on purpose")).unwrap(),
        &|| {
            let _: Result<(), ArrayError> = array.group(|group| {
                group.resize(1)?;
                group.resize(100)?;
                group.set(99, &99)?;
                panic!("on purpose")
            });
        },
        &|| array.read_group(|_| -> Result<(), ArrayError> { panic!("on purpose") }).unwrap(),
    ];
    for panic in panics {
        assert!(catch_unwind(AssertUnwindSafe(panic)).is_err());
        thread::scope(|scope| {
            let other = || Numbers::open(&name, 0)?.waiting(Wait::Try).set(2, &2);
            scope.spawn(other).join().unwrap().unwrap();
        });
        assert_eq!(array.length().unwrap(), 3);
        assert_eq!(array.get_many(&[0, 1, 2]).unwrap(), [0, 1, 2]);
    }
    array
        .group(|group| {
            let inner: Result<(), ArrayError> = group.group(|group| {
                group.resize(1)?;
                group.resize(100)?;
                Err(ArrayError::NotAnArray)
            });
            assert!(inner.is_err());
            assert_eq!(group.length(), 3);
            group.group(|group| group.resize(5))?;
            assert_eq!(group.length(), 5);
            group.set(4, &4)
        })
        .unwrap();
    assert_eq!(array.get_many(&[0, 1, 2, 3, 4]).unwrap(), [0, 1, 2, 0, 4]);
}

#[test]
fn a_handle_that_only_tries_does_not_wait_for_a_group() {
    let (name, array) = shared(3);
    let (locked, is_locked) = mpsc::channel();
    let (finish, is_to_finish) = mpsc::channel::<()>();
    let other = thread::spawn(move || {
        let array = Numbers::open(&name, 0).unwrap();
        array.group(|group| {
            group.set(1, &1)?;
            locked.send(()).unwrap();
            is_to_finish.recv().unwrap();
            Ok::<_, ArrayError>(name)
        })
    });
    is_locked.recv().unwrap();
    let busy = array.waiting(Wait::Try).set(2, &2);
    assert!(matches!(busy, Err(ArrayError::Table(TableError::Lock(LockError::Busy)))), "{busy:?}");
    finish.send(()).unwrap();
    array.set(2, &2).unwrap();
    let _name = other.join().unwrap().unwrap();
    assert_eq!(array.get_many(&[0, 1, 2]).unwrap(), [0, 1, 2]);
}

#[test]
fn updates_of_one_element_by_several_are_all_counted() {
    let (name, array) = shared(1);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let array = Numbers::open(&name, 0).unwrap();
                (0..200).for_each(|_| array.update(0, |count| count + 1).unwrap());
            });
        }
    });
    assert_eq!(array.get(0).unwrap(), 600);
}

/// An element that is there only together with a value never reads as the default.
#[test]
fn nobody_sees_an_array_between_the_operations_of_a_group() {
    let (name, array) = shared(0);
    let other = Numbers::open(&name, 0).unwrap();
    let writer = thread::spawn(move || {
        for round in 1..=2000 {
            other.group(|group| group.resize(1).and_then(|()| group.set(0, &round))).unwrap();
            other.resize(0).unwrap();
        }
    });
    while !writer.is_finished() {
        let element = within(array.get(0), 0, 0);
        assert_ne!(element, Some(0));
        let elements = within(array.get_many(&[0, 0]), 0, 0);
        assert!(elements.is_none_or(|elements| !elements.contains(&0)));
    }
    writer.join().unwrap();
    assert_eq!(array.length().unwrap(), 0);
}
