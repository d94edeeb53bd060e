//! A table does what a map of stacks does, whatever is done to it, in whatever order, alone or in groups.

mod accounting;
mod ending;

use std::collections::HashMap;

use accounting::Kind;
use ending::End;
use manycore::shm::{Memory, Open};
use manycore::table::{Announced, Answer, Entry, Fragment, Group, ReadGroup, Step};
use manycore::{Fcntl, File, Futex, Heap, LockMethod, NoLock, Ofd, PosixShm, ShmBackend, ShmTable};
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
    AddMany(Vec<Entry>),
    Replace(i32, Vec<i32>),
    Remove(i32),
    /// Whatever it is bound to, it is bound to this then, or no longer.
    Update(i32, Option<Vec<i32>>),
    /// The next of three states: unbound, a value of one word, one of four.
    Turn(i32),
    Clear,
    /// Keeps the bindings that this tells apart.
    Retain(Sieve),
    Look(i32),
    LookMany(Vec<i32>),
    /// Reads the bindings piece by piece, and answers so, over and over.
    ReadBlocks(i32, Vec<Reply>),
    /// Changes them piece by piece.
    WriteBlocks(i32, bool, Vec<Reply>),
    Walk,
    /// Several, as one, that end in some way.
    Group(Vec<Op>, End),
    /// Go on with the other handle.
    Switch,
    /// Close this handle and open another.
    Reopen,
    /// The clone of a handle is as good.
    Clone,
}

/// Which bindings to keep.
#[derive(Clone, Copy, Debug)]
enum Sieve {
    Keys(i32),
    Lengths(usize),
    Newest,
}

/// What is done with a piece of a value, and what is answered.
#[derive(Clone, Copy, Debug)]
struct Reply {
    add: Option<i32>,
    whole: bool,
    step: Step,
    remove: Option<bool>,
}

type Failed = ending::Failed<TableError>;

/// A key, and its newest value.
type Found = (i32, Option<Vec<i32>>);
/// Makes one value of another, or of none.
type Change<'a> = dyn FnMut(Option<&[i32]>) -> Option<Vec<i32>> + 'a;
/// Changes a piece of a value, and says whether to write all of it.
type Visitor<'a> = dyn FnMut(Option<&mut Vec<i32>>) -> (Answer, bool) + 'a;

/// What tables, groups and read groups have in common.
trait Reads {
    fn find(&self, key: i32) -> Result<Option<Vec<i32>>, TableError>;
    fn find_into(&self, key: i32, value: &mut Vec<i32>) -> Result<bool, TableError>;
    fn find_all(&self, key: i32) -> Result<Vec<Vec<i32>>, TableError>;
    fn mem(&self, key: i32) -> Result<bool, TableError>;
    fn length(&self) -> Result<usize, TableError>;
    fn entries(&self) -> Result<Vec<Entry>, TableError>;
    fn keys(&self) -> Result<Vec<i32>, TableError>;
    fn get_many(&self, keys: &[i32]) -> Result<Vec<Found>, TableError>;
    fn read_blocks(
        &self,
        key: i32,
        visit: &mut dyn FnMut(Option<Vec<i32>>) -> Step,
    ) -> Result<(), TableError>;
}

macro_rules! reads {
    () => {
        fn find(&self, key: i32) -> Result<Option<Vec<i32>>, TableError> {
            Self::find(self, key)
        }
        fn find_into(&self, key: i32, value: &mut Vec<i32>) -> Result<bool, TableError> {
            Self::find_into(self, key, value)
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
        fn get_many(&self, keys: &[i32]) -> Result<Vec<Found>, TableError> {
            let mut found = Vec::new();
            Self::get_many(self, keys, |key, value| found.push((key, value.map(<[i32]>::to_vec))))?;
            Ok(found)
        }
        fn read_blocks(
            &self,
            key: i32,
            visit: &mut dyn FnMut(Option<Vec<i32>>) -> Step,
        ) -> Result<(), TableError> {
            Self::read_blocks(self, key, |fragment| visit(fragment.map(|fragment| words(&fragment))))
        }
    };
}

/// The words of a piece of a value, asked for in all ways.
fn words<B: ShmBackend>(fragment: &Fragment<'_, B>) -> Vec<i32> {
    let mut words = std::vec![77; fragment.len()];
    fragment.copy_to(&mut words).unwrap();
    assert_eq!(fragment.is_empty(), words.is_empty());
    assert!((0..words.len()).all(|index| fragment.get(index).unwrap() == words[index]));
    for outside in [words.len(), words.len() + 1, usize::MAX] {
        assert!(fragment.get(outside).is_err());
    }
    assert!(fragment.copy_to(&mut std::vec![0; words.len() + 1]).is_err());
    words
}

/// What tables and groups have in common.
trait Operations: Reads {
    fn add(&mut self, key: i32, value: &[i32]) -> Result<(), TableError>;
    fn add_many(&mut self, bindings: &[Entry]) -> Result<(), TableError>;
    fn replace(&mut self, key: i32, value: &[i32]) -> Result<(), TableError>;
    fn remove(&mut self, key: i32) -> Result<bool, TableError>;
    fn update(&mut self, key: i32, change: &mut Change<'_>) -> Result<(), TableError>;
    fn clear(&mut self) -> Result<(), TableError>;
    fn retain(&mut self, keep: &mut dyn FnMut(i32, &[i32]) -> bool) -> Result<usize, TableError>;
    /// Replies to each piece; what is put into its words is written.
    fn write_blocks(
        &mut self,
        key: i32,
        announced: Announced,
        visit: &mut Visitor<'_>,
    ) -> Result<(), TableError>;
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
        fn add_many(&mut self, bindings: &[Entry]) -> Result<(), TableError> {
            Self::add_many(self, bindings.iter().map(|(key, value)| (*key, value)))
        }
        fn replace(&mut self, key: i32, value: &[i32]) -> Result<(), TableError> {
            Self::replace(self, key, value)
        }
        fn remove(&mut self, key: i32) -> Result<bool, TableError> {
            Self::remove(self, key)
        }
        fn update(
            &mut self,
            key: i32,
            change: &mut Change<'_>,
        ) -> Result<(), TableError> {
            Self::update(self, key, change)
        }
        fn clear(&mut self) -> Result<(), TableError> {
            Self::clear(self)
        }
        fn retain(&mut self, keep: &mut dyn FnMut(i32, &[i32]) -> bool) -> Result<usize, TableError> {
            Self::retain(self, keep)
        }
        fn write_blocks(
            &mut self,
            key: i32,
            announced: Announced,
            visit: &mut Visitor<'_>,
        ) -> Result<(), TableError> {
            Self::write_blocks(self, key, announced, |fragment| {
                let Some(mut fragment) = fragment else { return visit(None).0 };
                let mut old = std::vec![0; fragment.len()];
                fragment.copy_to(&mut old).unwrap();
                let mut new = old.clone();
                let (answer, whole) = visit(Some(&mut new));
                if whole {
                    fragment.copy_from(&new).unwrap();
                } else {
                    for index in (0..old.len()).filter(|index| old[*index] != new[*index]) {
                        fragment.set(index, new[index]).unwrap();
                    }
                }
                assert!(fragment.set(old.len(), 1).is_err());
                assert!(fragment.copy_from(&std::vec![1; old.len() + 1]).is_err());
                let mut now = old;
                fragment.copy_to(&mut now).unwrap();
                assert_eq!(now, new);
                answer
            })
        }
        fn group(
            &mut self,
            body: &mut dyn FnMut(&mut dyn Operations) -> Result<(), Failed>,
        ) -> Result<(), Failed> {
            Self::group(self, |group| body(group))
        }
    };
}

impl<B: ShmBackend, L: LockMethod<B>> Reads for ShmTable<B, L> {
    reads!();
}

impl<B: ShmBackend> Reads for Group<'_, B> {
    reads!();
}

impl<B: ShmBackend> Reads for ReadGroup<'_, B> {
    reads!();
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
        Op::AddMany(bindings) => {
            table.add_many(bindings).unwrap();
            for (key, value) in bindings {
                model.entry(*key).or_default().insert(0, value.clone());
            }
        }
        Op::Replace(key, value) => {
            table.replace(*key, value).unwrap();
            bind(model, *key, Some(value.clone()));
        }
        Op::Remove(key) => {
            assert_eq!(table.remove(*key).unwrap(), model.contains_key(key));
            bind(model, *key, None);
        }
        Op::Update(key, value) => update(table, model, *key, |_| value.clone()),
        Op::Turn(key) => update(table, model, *key, |old| match old.map(<[i32]>::len) {
            None => Some(std::vec![8]),
            Some(1) => Some(std::vec![9; 4]),
            Some(_) => None,
        }),
        Op::Clear => {
            table.clear().unwrap();
            model.clear();
        }
        Op::Retain(sieve) => retain(table, model, *sieve),
        Op::Look(key) => look(table, model, *key),
        Op::LookMany(keys) => look_many(table, model, keys),
        Op::ReadBlocks(key, replies) => read_blocks(table, model, *key, replies),
        Op::WriteBlocks(key, removal, replies) => write_blocks(table, model, *key, *removal, replies),
        Op::Walk => assert_same(table, model),
        Op::Group(ops, end) => {
            ending::expect(*end, model, |changed| {
                table.group(&mut |group| {
                    ops.iter().for_each(|op| apply(group, changed, op));
                    end.reach()
                })
            });
        }
        Op::Switch | Op::Reopen | Op::Clone => {}
    }
}

/// Makes this the newest binding instead of the one that is.
fn bind(model: &mut Model, key: i32, value: Option<Vec<i32>>) {
    let values = model.entry(key).or_default();
    values.splice(..values.len().min(1), value);
    if values.is_empty() {
        model.remove(&key);
    }
}

fn update(
    table: &mut dyn Operations,
    model: &mut Model,
    key: i32,
    change: impl Fn(Option<&[i32]>) -> Option<Vec<i32>>,
) {
    let old = model.get(&key).map(|values| values[0].clone());
    let mut calls = 0;
    table
        .update(key, &mut |found| {
            calls += 1;
            assert_eq!(found, old.as_deref());
            change(found)
        })
        .unwrap();
    assert_eq!(calls, 1);
    bind(model, key, change(old.as_deref()));
}

fn retain(table: &mut dyn Operations, model: &mut Model, sieve: Sieve) {
    let mut seen = Model::new();
    let removed = table.retain(&mut |key, value| {
        let values = seen.entry(key).or_default();
        values.push(value.to_vec());
        keeps(sieve, key, values.len() - 1, value)
    });
    assert_eq!(&seen, model);
    let before = bindings(model);
    for (key, values) in model.iter_mut() {
        let mut place = 0..;
        values.retain(|value| keeps(sieve, *key, place.next().unwrap(), value));
    }
    model.retain(|_, values| !values.is_empty());
    assert_eq!(removed.unwrap(), before - bindings(model));
}

fn keeps(sieve: Sieve, key: i32, place: usize, value: &[i32]) -> bool {
    match sieve {
        Sieve::Keys(keys) => key % keys != 0,
        Sieve::Lengths(length) => value.len() % length == 0,
        Sieve::Newest => place == 0,
    }
}

fn bindings(model: &Model) -> usize {
    model.values().map(Vec::len).sum()
}

fn look(table: &(impl Reads + ?Sized), model: &Model, key: i32) {
    let values = model.get(&key).cloned().unwrap_or_default();
    assert_eq!(table.find(key).unwrap().as_ref(), values.first());
    assert_eq!(table.mem(key).unwrap(), !values.is_empty());
    assert_eq!(table.find_all(key).unwrap(), values);
    // What is in the buffer before does not matter, nor whether it has room.
    for mut buffer in [std::vec![], std::vec![7; 400]] {
        let found = table.find_into(key, &mut buffer).unwrap();
        assert_eq!(found.then_some(&buffer), values.first());
        assert!(found || buffer.is_empty());
    }
}

fn look_many(table: &(impl Reads + ?Sized), model: &Model, keys: &[i32]) {
    let newest = |key: &i32| (*key, model.get(key).map(|values| values[0].clone()));
    assert_eq!(table.get_many(keys).unwrap(), keys.iter().map(newest).collect::<Vec<_>>());
}

/// Where somebody is who visits values piece by piece.
struct Visit<'a> {
    values: &'a [Vec<i32>],
    binding: usize,
    offset: usize,
    /// Whether a piece of this binding was seen.
    begun: bool,
    stopped: bool,
}

impl Visit<'_> {
    fn of(values: &[Vec<i32>]) -> Visit<'_> {
        Visit { values, binding: 0, offset: 0, begun: false, stopped: false }
    }

    /// Checks that this is the next piece, or the end.
    fn sees(&mut self, piece: Option<&[i32]>) {
        assert!(!self.stopped);
        let value = &self.values[self.binding];
        match piece {
            Some(piece) => {
                assert!(!piece.is_empty() || (value.is_empty() && !self.begun));
                assert_eq!(piece, &value[self.offset..self.offset + piece.len()]);
                self.offset += piece.len();
                self.begun = true;
            }
            None => assert!(self.begun && self.offset == value.len()),
        }
    }

    fn goes(&mut self, step: Step, at_end: bool) {
        match step {
            Step::Continue if !at_end => {}
            Step::Continue | Step::Next => {
                (self.binding, self.offset, self.begun) = (self.binding + 1, 0, false);
            }
            Step::Stop => self.stopped = true,
        }
    }

    fn ends(&self) {
        assert!(self.stopped || self.binding == self.values.len());
    }
}

fn read_blocks(table: &(impl Reads + ?Sized), model: &Model, key: i32, replies: &[Reply]) {
    let values = model.get(&key).cloned().unwrap_or_default();
    let mut visit = Visit::of(&values);
    let mut replies = replies.iter().cycle();
    table
        .read_blocks(key, &mut |piece| {
            let reply = replies.next().unwrap();
            visit.sees(piece.as_deref());
            visit.goes(reply.step, piece.is_none());
            reply.step
        })
        .unwrap();
    visit.ends();
}

fn write_blocks(table: &mut dyn Operations, model: &mut Model, key: i32, removal: bool, replies: &[Reply]) {
    let values = model.get(&key).cloned().unwrap_or_default();
    let mut changed = values.clone();
    let mut remove = std::vec![false; values.len()];
    let mut visit = Visit::of(&values);
    let mut replies = replies.iter().cycle();
    let announced = if removal { Announced::Removal } else { Announced::Nothing };
    let result = table.write_blocks(key, announced, &mut |piece| {
        let reply = replies.next().unwrap();
        visit.sees(piece.as_deref().map(Vec::as_slice));
        let (binding, end) = (visit.binding, visit.offset);
        visit.goes(reply.step, piece.is_none());
        if let (Some(piece), Some(add)) = (piece, reply.add) {
            piece.iter_mut().for_each(|word| *word = word.wrapping_add(add));
            changed[binding][end - piece.len()..end].copy_from_slice(piece);
        }
        remove[binding] = reply.remove.unwrap_or(remove[binding]);
        (Answer { step: reply.step, remove: reply.remove }, reply.whole)
    });
    match result {
        Ok(()) => visit.ends(),
        Err(TableError::NotAnnounced) => {
            assert!(!removal && remove.contains(&true));
            return;
        }
        Err(error) => panic!("{error}"),
    }
    assert!(removal || !remove.contains(&true));
    let mut place = 0..;
    changed.retain(|_| !remove[place.next().unwrap()]);
    if changed.is_empty() {
        model.remove(&key)
    } else {
        model.insert(key, changed)
    };
}

fn assert_same(table: &(impl Reads + ?Sized), model: &Model) {
    assert_eq!(table.length().unwrap(), bindings(model));
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

/// What the table says of itself, measured against what is there.
fn assert_sound<B: Subject, L: LockMethod<B>>(table: &ShmTable<B, L>, model: &Model) {
    let problems = table.check().unwrap();
    assert!(problems.is_empty(), "{problems:?}");
    let stat = table.stat().unwrap();
    let image = snapshot::<B>(table.name()).unwrap();
    let account = accounting::checked(&image);
    assert_eq!(account.contents, model.clone().into_iter().collect());
    assert_eq!((stat.bindings, stat.keys), (bindings(model), model.len()));
    assert_eq!(stat.buckets, image[accounting::BUCKETS] as usize);
    assert_eq!(stat.load(), model.len() as f64 / stat.buckets as f64);
    assert_eq!(stat.page_size, image[accounting::PAGE_SIZE] as usize);
    assert_eq!((stat.bytes, stat.bytes), (image.len() * 4, stat.pages * stat.page_size));
    assert_eq!(stat.header_bytes, 4096);
    let bytes = |kind| account.words(kind) * 4;
    assert_eq!(stat.directory_bytes, bytes(Kind::Segment) + bytes(Kind::Leaf));
    assert_eq!(stat.overflow_bytes, bytes(Kind::Overflow));
    assert_eq!(stat.record_bytes, bytes(Kind::Record));
    assert_eq!(stat.free_bytes, bytes(Kind::Free) + bytes(Kind::Deferred));
    assert_eq!(stat.journal_bytes, bytes(Kind::Journal));
    assert_eq!(stat.unused_bytes, (image.len() - image[accounting::TOP] as usize) * 4);
    assert_eq!(table.raw().len(), image.len());
    assert!((0..image.len()).step_by(37).all(|at| table.raw().get(at) == Some(image[at])));
    assert_eq!(table.raw().get(image.len()), None);
}

fn run<B: Subject, L: LockMethod<B>>(page_size: usize, expected: usize, ops: &[Op]) {
    let name = Fresh::<B>::name();
    let mut table: ShmTable<B, L> =
        TableOptions::new().page_size(page_size).expected(expected).seed(7).create(&name).unwrap();
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
            Op::Clone => table = table.clone(),
            op => apply(&mut table, &mut model, op),
        }
    }
    assert_same(&other, &model);
    let add = |sum: usize, _: i32, value: &[i32]| sum + value.len();
    let words = model.values().flatten().map(Vec::len).sum::<usize>();
    assert_eq!(other.fold(0, add).unwrap(), words);
    other
        .read_group(|group| {
            assert_same(group, &model);
            assert_eq!(group.fold(0, add)?, words);
            let keys: Vec<i32> = model.keys().copied().chain([-1, i32::MIN]).collect();
            keys.iter().for_each(|key| look(group, &model, *key));
            look_many(group, &model, &keys);
            let reply = Reply { add: None, whole: false, step: Step::Continue, remove: None };
            keys.iter().for_each(|key| read_blocks(group, &model, *key, &[reply]));
            Ok::<(), TableError>(())
        })
        .unwrap();
    assert_sound(&other, &model);
}

fn op(keys: i32) -> impl Strategy<Value = Op> {
    let key = move || prop_oneof![9 => 0..keys, 1 => Just(-1), 1 => Just(i32::MIN)];
    let value = || {
        prop_oneof![4 => 0..20usize, 1 => 0..300usize]
            .prop_flat_map(|length| (0..1000).prop_map(move |first| (first..).take(length).collect()))
    };
    let reply = || {
        let step = prop_oneof![6 => Just(Step::Continue), 2 => Just(Step::Next), 1 => Just(Step::Stop)];
        let remove = prop_oneof![4 => Just(None), 1 => Just(Some(false)), 1 => Just(Some(true))];
        let add = prop_oneof![Just(None), (1..1000).prop_map(Some)];
        (add, any::<bool>(), step, remove).prop_map(|(add, whole, step, remove)| Reply {
            add,
            whole,
            step,
            remove,
        })
    };
    let sieve = || {
        prop_oneof![(1..5).prop_map(Sieve::Keys), (1..5usize).prop_map(Sieve::Lengths), Just(Sieve::Newest)]
    };
    let single = prop_oneof![
        12 => (key(), value()).prop_map(|(key, value)| Op::Add(key, value)),
        2 => vec((key(), value()), 0..40).prop_map(Op::AddMany),
        6 => (key(), value()).prop_map(|(key, value)| Op::Replace(key, value)),
        8 => key().prop_map(Op::Remove),
        4 => (key(), proptest::option::of(value())).prop_map(|(key, value)| Op::Update(key, value)),
        2 => key().prop_map(Op::Turn),
        1 => Just(Op::Clear),
        1 => sieve().prop_map(Op::Retain),
        4 => key().prop_map(Op::Look),
        2 => vec(key(), 0..40).prop_map(Op::LookMany),
        2 => (key(), vec(reply(), 1..6)).prop_map(|(key, replies)| Op::ReadBlocks(key, replies)),
        3 => (key(), any::<bool>(), vec(reply(), 1..6))
            .prop_map(|(key, removal, replies)| Op::WriteBlocks(key, removal, replies)),
        2 => Just(Op::Walk),
    ];
    let grouped = single.prop_recursive(2, 60, 12, |inner| {
        let end = prop_oneof![3 => Just(End::Success), 2 => Just(End::Failure), 1 => Just(End::Panic)];
        (vec(inner, 0..12), end).prop_map(|(ops, end)| Op::Group(ops, end))
    });
    prop_oneof![12 => grouped, 1 => Just(Op::Switch), 1 => Just(Op::Reopen), 1 => Just(Op::Clone)]
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
        run::<PosixShm, Futex>(page, expected, &ops);
    }

    #[test]
    fn a_table_of_threads_is_a_map_of_stacks(page in page_size(), expected in 0..70usize, ops in ops()) {
        run::<Heap, Futex>(page, expected, &ops);
    }

    #[test]
    fn a_table_in_a_file_locked_by_open_files_is_a_map_of_stacks(
        page in page_size(), expected in 0..70usize, ops in ops()
    ) {
        run::<File, Ofd>(page, expected, &ops);
    }

    #[test]
    fn a_table_in_a_file_of_one_user_is_a_map_of_stacks(
        page in page_size(), expected in 0..70usize, ops in ops()
    ) {
        run::<File, NoLock>(page, expected, &ops);
    }

    #[test]
    fn a_table_in_shared_memory_of_one_user_is_a_map_of_stacks(
        page in page_size(), expected in 0..70usize, ops in ops()
    ) {
        run::<PosixShm, NoLock>(page, expected, &ops);
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
    let mut ops = std::vec![Op::Clear];
    for key in [1, 2] {
        for value in [std::vec![5], std::vec![6; 4]] {
            ops.push(Op::Add(key, value.clone()));
            ops.push(Op::Replace(key, value));
        }
        ops.push(Op::Remove(key));
        ops.push(Op::Turn(key));
    }
    let name = Fresh::<Heap>::name();
    let table = TableOptions::new().page_size(160).expected(0).seed(7).create(&name).unwrap();
    let object = Heap::open(&name, Open::Existing).unwrap();
    let mut sequences = Sequences { table, object, ops, known: HashMap::new() };
    let image = sequences.image();
    let essence = accounting::checked(&image).essence(&image);
    assert_eq!(sequences.from(&image, essence, &Model::new(), 5), 402_233);
}

struct Sequences {
    table: ShmTable<Heap, NoLock>,
    object: Heap,
    ops: Vec<Op>,
    /// How many sequences of so many operations were tried on a table like this. What comes of a table depends
    /// on its essence only, so that it need not be tried again.
    known: HashMap<(Vec<u32>, u32), u32>,
}

impl Sequences {
    fn image(&self) -> Vec<u32> {
        let top = self.object.memory().load(accounting::TOP).unwrap() as usize;
        let mut image = std::vec![0; top];
        self.object.memory().read(0, &mut image).unwrap();
        image
    }

    /// Tries every operation on this state, and every sequence of up to `depth` that begins with it.
    fn from(&mut self, state: &[u32], essence: Vec<u32>, model: &Model, depth: u32) -> u32 {
        if depth == 0 {
            return 0;
        }
        if let Some(count) = self.known.get(&(essence.clone(), depth)) {
            return *count;
        }
        let mut count = 0;
        for op in self.ops.clone() {
            self.object.memory().write(0, state).unwrap();
            let mut model = model.clone();
            apply(&mut self.table, &mut model, &op);
            look(&self.table, &model, 1);
            look(&self.table, &model, 2);
            let image = self.image();
            let account = accounting::checked(&image);
            assert_eq!(account.contents, model.clone().into_iter().collect(), "after {op:?}");
            count += 1 + self.from(&image, account.essence(&image), &model, depth - 1);
        }
        self.known.insert((essence, depth), count);
        count
    }
}
