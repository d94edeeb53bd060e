//! A table does what a map of stacks does, whatever is done to it, in whatever order, alone or in groups.

mod accounting;

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use manycore::shm::{Memory, Open};
use manycore::table::{Entry, Group};
use manycore::{Fcntl, File, Heap, LockMethod, NoLock, PosixShm, ShmBackend, ShmTable};
use manycore::{TableError, TableOptions};
use manycore_backends::testing::recorder::snapshot;
use manycore_backends::testing::shm::{Fresh, Subject};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

/// All bindings, newest first.
type Model = HashMap<i32, Vec<Vec<i32>>>;

#[derive(Clone, Debug)]
enum Op {
    Add(i32, Vec<i32>),
    Replace(i32, Vec<i32>),
    Remove(i32),
    Look(i32),
    Walk,
    /// Several, as one, that end in some way.
    Group(Vec<Op>, End),
    /// Go on with the other handle.
    Switch,
    /// Close this handle and open another.
    Reopen,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Success,
    Failure,
    Panic,
}

#[derive(Debug)]
enum Failed {
    OnPurpose,
    Table(TableError),
}

impl From<TableError> for Failed {
    fn from(error: TableError) -> Failed {
        Failed::Table(error)
    }
}

/// What tables and groups have in common.
trait Operations {
    fn add(&mut self, key: i32, value: &[i32]) -> Result<(), TableError>;
    fn replace(&mut self, key: i32, value: &[i32]) -> Result<(), TableError>;
    fn remove(&mut self, key: i32) -> Result<bool, TableError>;
    fn find(&self, key: i32) -> Result<Option<Vec<i32>>, TableError>;
    fn find_all(&self, key: i32) -> Result<Vec<Vec<i32>>, TableError>;
    fn mem(&self, key: i32) -> Result<bool, TableError>;
    fn length(&self) -> Result<usize, TableError>;
    fn entries(&self) -> Result<Vec<Entry>, TableError>;
    fn keys(&self) -> Result<Vec<i32>, TableError>;
    fn group(
        &mut self,
        body: &mut dyn FnMut(&mut dyn Operations) -> Result<(), Failed>,
    ) -> Result<(), Failed>;
}

macro_rules! operations {
    () => {
        fn add(&mut self, key: i32, value: &[i32]) -> Result<(), TableError> {
            Self::add(self, key, value)
        }
        fn replace(&mut self, key: i32, value: &[i32]) -> Result<(), TableError> {
            Self::replace(self, key, value)
        }
        fn remove(&mut self, key: i32) -> Result<bool, TableError> {
            Self::remove(self, key)
        }
        fn find(&self, key: i32) -> Result<Option<Vec<i32>>, TableError> {
            Self::find(self, key)
        }
        fn find_all(&self, key: i32) -> Result<Vec<Vec<i32>>, TableError> {
            Self::find_all(self, key)
        }
        fn mem(&self, key: i32) -> Result<bool, TableError> {
            Self::mem(self, key)
        }
        fn length(&self) -> Result<usize, TableError> {
            Self::length(self)
        }
        fn entries(&self) -> Result<Vec<Entry>, TableError> {
            Self::iter(self)?.collect()
        }
        fn keys(&self) -> Result<Vec<i32>, TableError> {
            Self::iter_keys(self)?.collect()
        }
        fn group(
            &mut self,
            body: &mut dyn FnMut(&mut dyn Operations) -> Result<(), Failed>,
        ) -> Result<(), Failed> {
            Self::group(self, |group| body(group))
        }
    };
}

impl<B: ShmBackend, L: LockMethod<B>> Operations for ShmTable<B, L> {
    operations!();
}

impl<B: ShmBackend> Operations for Group<'_, B> {
    operations!();
}

/// Does `op` to both, and compares what they answer.
fn apply(table: &mut dyn Operations, model: &mut Model, op: &Op) {
    match op {
        Op::Add(key, value) => {
            table.add(*key, value).unwrap();
            model.entry(*key).or_default().insert(0, value.clone());
        }
        Op::Replace(key, value) => {
            table.replace(*key, value).unwrap();
            let values = model.entry(*key).or_default();
            values.splice(..values.len().min(1), [value.clone()]);
        }
        Op::Remove(key) => {
            let values = model.entry(*key).or_default();
            assert_eq!(table.remove(*key).unwrap(), !values.is_empty());
            values.drain(..values.len().min(1));
            if values.is_empty() {
                model.remove(key);
            }
        }
        Op::Look(key) => {
            let values = model.get(key).cloned().unwrap_or_default();
            assert_eq!(table.find(*key).unwrap().as_ref(), values.first());
            assert_eq!(table.mem(*key).unwrap(), !values.is_empty());
            assert_eq!(table.find_all(*key).unwrap(), values);
        }
        Op::Walk => assert_same(table, model),
        Op::Group(ops, end) => {
            let mut changed = model.clone();
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                table.group(&mut |group| {
                    ops.iter().for_each(|op| apply(group, &mut changed, op));
                    match end {
                        End::Success => Ok(()),
                        End::Failure => Err(Failed::OnPurpose),
                        End::Panic => resume_unwind(Box::new(End::Panic)),
                    }
                })
            }));
            match (end, outcome) {
                (End::Success, Ok(Ok(()))) => *model = changed,
                (End::Failure, Ok(Err(Failed::OnPurpose))) => {}
                (End::Panic, Err(payload)) if payload.downcast_ref() == Some(&End::Panic) => {}
                (_, Err(payload)) => resume_unwind(payload),
                (_, Ok(Err(Failed::Table(error)))) => panic!("{error}"),
                (end, Ok(outcome)) => panic!("{end:?}: {outcome:?}"),
            }
        }
        Op::Switch | Op::Reopen => {}
    }
}

fn assert_same(table: &(impl Operations + ?Sized), model: &Model) {
    assert_eq!(table.length().unwrap(), model.values().map(Vec::len).sum::<usize>());
    let mut found = Model::new();
    for (key, value) in table.entries().unwrap() {
        found.entry(key).or_default().push(value);
    }
    assert_eq!(&found, model);
    let mut keys = table.keys().unwrap();
    keys.sort_unstable();
    let mut expected: Vec<i32> = model.keys().copied().collect();
    expected.sort_unstable();
    assert_eq!(keys, expected);
}

fn run<B: Subject, L: LockMethod<B>>(page_size: usize, expected: usize, ops: &[Op]) {
    let name = Fresh::<B>::name();
    let mut table: ShmTable<B, L> =
        TableOptions::new().page_size(page_size).expected(expected).create(&name).unwrap();
    let open = || TableOptions::new().open::<B, L>(&name).unwrap();
    let mut other = open();
    let mut model = Model::new();
    for op in ops {
        match op {
            Op::Switch => std::mem::swap(&mut table, &mut other),
            Op::Reopen => {
                drop(table);
                table = open();
            }
            op => apply(&mut table, &mut model, op),
        }
    }
    assert_same(&other, &model);
    let add = |sum: usize, _: i32, value: &[i32]| sum + value.len();
    let words = model.values().flatten().map(Vec::len).sum::<usize>();
    assert_eq!(other.fold(0, add).unwrap(), words);
    assert_eq!(accounting::check(&snapshot::<B>(&name).unwrap()), model.into_iter().collect());
}

fn op(keys: i32) -> impl Strategy<Value = Op> {
    let key = move || prop_oneof![9 => 0..keys, 1 => Just(-1), 1 => Just(i32::MIN)];
    let value = || {
        prop_oneof![4 => 0..20usize, 1 => 0..300usize]
            .prop_flat_map(|length| (0..1000).prop_map(move |first| (first..).take(length).collect()))
    };
    let single = prop_oneof![
        6 => (key(), value()).prop_map(|(key, value)| Op::Add(key, value)),
        3 => (key(), value()).prop_map(|(key, value)| Op::Replace(key, value)),
        4 => key().prop_map(Op::Remove),
        2 => key().prop_map(Op::Look),
        1 => Just(Op::Walk),
    ];
    let grouped = single.prop_recursive(2, 60, 12, |inner| {
        let end = prop_oneof![3 => Just(End::Success), 2 => Just(End::Failure), 1 => Just(End::Panic)];
        (vec(inner, 0..12), end).prop_map(|(ops, end)| Op::Group(ops, end))
    });
    prop_oneof![12 => grouped, 1 => Just(Op::Switch), 1 => Just(Op::Reopen)]
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    prop_oneof![vec(op(5), 1..60), vec(op(200), 1..60)]
}

fn cases(cases: u32) -> ProptestConfig {
    let persistence = FileFailurePersistence::WithSource("regressions");
    ProptestConfig { cases, failure_persistence: Some(Box::new(persistence)), ..ProptestConfig::default() }
}

fn page_size() -> impl Strategy<Value = usize> {
    prop_oneof![Just(160), Just(256), Just(4096)]
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn a_table_in_the_heap_is_a_map_of_stacks(page in page_size(), expected in 0..70usize, ops in ops()) {
        run::<Heap, NoLock>(page, expected, &ops);
    }
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn a_table_in_a_file_is_a_map_of_stacks(page in page_size(), expected in 0..70usize, ops in ops()) {
        run::<File, Fcntl>(page, expected, &ops);
    }

    #[test]
    fn a_table_in_shared_memory_is_a_map_of_stacks(page in page_size(), expected in 0..70usize, ops in ops()) {
        run::<PosixShm, Fcntl>(page, expected, &ops);
    }
}

proptest! {
    #![proptest_config(cases(48))]

    /// Long groups: the journal moves, at any point of any operation.
    #[test]
    fn long_groups_happen_as_a_whole_or_not_at_all(
        before in vec(op(300), 0..40),
        ops in vec(op(300), 50..300),
        end in prop_oneof![Just(End::Success), Just(End::Failure), Just(End::Panic)],
        after in vec(op(300), 0..40),
    ) {
        let ops = [before, vec![Op::Group(ops, end)], after].concat();
        run::<Heap, NoLock>(160, 8, &ops);
    }
}

/// Every sequence of up to five operations over two keys and two values, of different sizes.
#[test]
fn all_short_sequences_end_right() {
    let mut ops = Vec::new();
    for key in [1, 2] {
        for value in [std::vec![5], std::vec![6; 4]] {
            ops.push(Op::Add(key, value.clone()));
            ops.push(Op::Replace(key, value));
        }
        ops.push(Op::Remove(key));
    }
    let name = Fresh::<Heap>::name();
    let mut table: ShmTable<Heap, NoLock> =
        TableOptions::new().page_size(160).expected(0).create(&name).unwrap();
    let object = Heap::open(&name, Open::Existing).unwrap();
    let count = descend(&mut table, &object, &Model::new(), &ops, 5);
    assert_eq!(count, 111_110);
}

/// Tries every operation on this state, and every sequence after it.
fn descend(table: &mut ShmTable<Heap, NoLock>, object: &Heap, model: &Model, ops: &[Op], depth: u32) -> u32 {
    let top = object.memory().load(8).unwrap() as usize;
    let mut state = std::vec![0; top];
    object.memory().read(0, &mut state).unwrap();
    let mut count = 0;
    for op in ops {
        let mut model = model.clone();
        apply(table, &mut model, op);
        let top = object.memory().load(8).unwrap() as usize;
        let mut image = std::vec![0; top];
        object.memory().read(0, &mut image).unwrap();
        assert_eq!(accounting::check(&image), model.clone().into_iter().collect(), "after {op:?}");
        apply(table, &mut model, &Op::Look(1));
        apply(table, &mut model, &Op::Look(2));
        count += 1;
        if depth > 1 {
            count += descend(table, object, &model, ops, depth - 1);
        }
        object.memory().write(0, &state).unwrap();
    }
    count
}
