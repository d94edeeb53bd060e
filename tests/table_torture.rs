//! A table survives whatever is done to its users: four processes change it at random; they are killed, stopped
//! and begun anew at random moments. Nobody who looks ever sees a broken invariant, and nothing that was
//! acknowledged is lost: each key has the value of the last acknowledged operation, or of the one that was in
//! flight.
//!
//! A program without the test harness: it forks. `MANYCORE_TORTURE_SECONDS` (default 3) is how long it runs.

mod held;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::hint::black_box;
use std::io::Read;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use manycore::lock::{LockError, Wait};
use manycore::shm::{Memory, Open};
use manycore::spawn::{Child, ChildProcess, Exit};
use manycore::table::{Announced, Answer, Fragment, FragmentMut, Group, Step};
use manycore::{Fork, PosixShm, ShmBackend, ShmTable, TableError, TableOptions};
use manycore_backends::testing::run_tests;
use manycore_backends::testing::shm::Fresh;

type ForkedChild = ChildProcess;
/// Bindings, those of a key from the newest to the oldest.
type Model = BTreeMap<i32, Vec<Vec<i32>>>;

fn main() {
    run_tests(&[("a_table_survives_whatever_is_done_to_its_users", survives)]);
}

const WORKERS: usize = 4;
/// Attacks on the users of a table; then all die, everything is checked, and the table is cleared and used again, or
/// a new one begins, so that buckets split again.
const ATTACKS: u32 = 24;
const AGES: u32 = 2;
/// Keys that a worker uses all the time.
const OWN_KEYS: u32 = 12;
/// Accounts that all workers move units between: their sum stays 0.
const ACCOUNTS: Range<i32> = 10..15;
/// How often the parent itself could write.
const PARENT: i32 = 20;

/// The keys that a worker has for itself: some that are used all the time, and others that are there only while
/// a large group is being done.
fn keys(worker: usize) -> Range<i32> {
    let first = 100 * (worker as i32 + 1);
    first..first + 100
}

/// The key under which a worker numbers its groups.
fn serial_key(worker: usize) -> i32 {
    keys(worker).end - 1
}

/// Numbers that look random; equal seeds give equal numbers.
#[derive(Clone)]
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn below(&mut self, limit: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (((self.0 >> 32) * u64::from(limit)) >> 32) as u32
    }
}

/// A value: nothing, one number, or a number and its complement again and again. The number says whose it is.
fn value(key: i32, random: &mut Random) -> Vec<i32> {
    let number = numbered(key, random.below(1 << 18));
    match random.below(8) {
        0 => vec![],
        1..4 => vec![number],
        4..7 => alternating(number, 2 * random.below(12) as usize + 2),
        _ => alternating(number, 2 * random.below(60) as usize + 2),
    }
}

fn numbered(key: i32, number: u32) -> i32 {
    (number % (1 << 18)) as i32 * 4096 + key
}

fn alternating(number: i32, words: usize) -> Vec<i32> {
    (0..words).map(|at| if at % 2 == 0 { number } else { !number }).collect()
}

/// Whether somebody wrote this value for this key, and wrote all of it.
fn is_whole(key: i32, value: &[i32]) -> bool {
    let account = ACCOUNTS.contains(&key);
    match value {
        [] => !account,
        [number] => account || *number & 4095 == key,
        [number, ..] => (account || *number & 4095 == key) && *value == alternating(*number, value.len()),
    }
}

/// A change, told in a way that it can be done to a table, to a group, and to a model.
#[derive(Clone, Debug)]
enum Deed {
    Add(i32, Vec<i32>),
    Replace(i32, Vec<i32>),
    Remove(i32),
    /// What the newest binding becomes; nothing removes it.
    Update(i32, Option<Vec<i32>>),
    /// Writes another number into all bindings of the key, and removes the one at this position.
    Rewrite {
        key: i32,
        number: i32,
        remove: usize,
    },
    /// Keeps, of the worker's own bindings, the ones of which the key plus the length is no multiple of this.
    Retain {
        own: Range<i32>,
        divisor: i32,
    },
    Transfer {
        from: i32,
        to: i32,
        amount: i32,
        words: usize,
    },
}

/// The same words for a table and for a group.
macro_rules! perform {
    ($target:expr, $deed:expr) => {
        match $deed {
            Deed::Add(key, value) => $target.add(*key, value),
            Deed::Replace(key, value) => $target.replace(*key, value),
            Deed::Remove(key) => $target.remove(*key).map(drop),
            Deed::Update(key, value) => $target.update(*key, |_| value.clone()),
            Deed::Rewrite { key, number, remove } => {
                let (mut binding, mut at) = (0, 0);
                $target.write_blocks(*key, Announced::Removal, |fragment| match fragment {
                    Some(mut fragment) => {
                        rewrite(&mut fragment, *number, at).expect("all of it is inside");
                        at += fragment.len();
                        Answer::CONTINUE
                    }
                    None => {
                        (binding, at) = (binding + 1, 0);
                        if binding - 1 == *remove { Answer::remove(Step::Continue) } else { Answer::CONTINUE }
                    }
                })
            }
            Deed::Retain { own, divisor } => {
                let keep = |key, value: &[i32]| !own.contains(&key) || is_kept(key, value, *divisor);
                $target.retain(keep).map(drop)
            }
            Deed::Transfer { .. } => unreachable!("transfers are done in groups"),
        }
    };
}

fn is_kept(key: i32, value: &[i32], divisor: i32) -> bool {
    (key + value.len() as i32) % divisor != 0
}

fn rewrite<B: ShmBackend>(
    fragment: &mut FragmentMut<'_, '_, B>,
    number: i32,
    before: usize,
) -> Result<(), TableError> {
    (0..fragment.len())
        .try_for_each(|at| fragment.set(at, if (before + at) % 2 == 0 { number } else { !number }))
}

fn perform_alone(table: &ShmTable, deed: &Deed) -> Result<(), TableError> {
    perform!(table, deed)
}

fn perform_in(group: &mut Group<'_, PosixShm>, deed: &Deed) -> Result<(), TableError> {
    let Deed::Transfer { from, to, amount, words } = deed else { return perform!(group, deed) };
    for (account, amount) in [(*from, -amount), (*to, *amount)] {
        let old = group.find(account)?.expect("accounts are never removed")[0];
        group.replace(account, &alternating(old.wrapping_add(amount), *words))?;
    }
    Ok(())
}

/// What the same deed does to a model of a worker's keys, and to the accounts.
fn imagine(model: &mut Model, accounts: &mut BTreeMap<i32, i32>, deed: &Deed) {
    match deed {
        Deed::Add(key, value) => model.entry(*key).or_default().insert(0, value.clone()),
        Deed::Replace(key, value) | Deed::Update(key, Some(value)) => {
            let values = model.entry(*key).or_default();
            match values.first_mut() {
                Some(newest) => newest.clone_from(value),
                None => values.push(value.clone()),
            }
        }
        Deed::Remove(key) | Deed::Update(key, None) => {
            if let Some(values) = model.get_mut(key) {
                values.remove(0);
            }
        }
        Deed::Rewrite { key, number, remove } => {
            let values = model.entry(*key).or_default();
            values.iter_mut().for_each(|value| *value = alternating(*number, value.len()));
            if *remove < values.len() {
                values.remove(*remove);
            }
        }
        Deed::Retain { own, divisor } => {
            for (key, values) in model.iter_mut().filter(|(key, _)| own.contains(key)) {
                values.retain(|value| is_kept(*key, value, *divisor));
            }
        }
        Deed::Transfer { from, to, amount, .. } => {
            for (account, amount) in [(*from, -amount), (*to, *amount)] {
                let balance = accounts.entry(account).or_default();
                *balance = balance.wrapping_add(amount);
            }
        }
    }
    model.retain(|_, values| !values.is_empty());
}

/// What a worker does in one step, of which all happens or nothing.
#[derive(Clone, Debug)]
enum Operation {
    Alone(Deed),
    Group(Vec<Deed>),
    /// A group, and in the middle of it another one that fails.
    Nested(Vec<Deed>, Vec<Deed>),
    Failing(Vec<Deed>),
    /// A group that removes everything, also what others have, and then fails.
    Emptying(Vec<Deed>),
}

impl Operation {
    /// The next operation of a worker: it follows from the random numbers alone, so that the parent can tell it.
    fn next(random: &mut Random, worker: usize, serial: u32) -> Operation {
        let own = keys(worker);
        let number_it = Deed::Replace(serial_key(worker), vec![numbered(serial_key(worker), serial)]);
        let transfer = |random: &mut Random| {
            let mut account = || ACCOUNTS.start + random.below(ACCOUNTS.len() as u32) as i32;
            let (from, to) = (account(), account());
            let words = [1, 1, 2, 40][random.below(4) as usize];
            Deed::Transfer { from, to, amount: random.below(100) as i32, words }
        };
        let deeds = |random: &mut Random| {
            (0..random.below(6)).map(|_| Operation::deed(random, &own)).collect::<Vec<_>>()
        };
        match random.below(24) {
            0..14 => Operation::Alone(Operation::deed(random, &own)),
            14..18 => {
                let mut all = deeds(random);
                all.extend([transfer(random), number_it]);
                Operation::Group(all)
            }
            18..20 => {
                let inner = deeds(random);
                Operation::Nested(vec![number_it, transfer(random)], inner)
            }
            20 => {
                // So many that buckets split and the journal moves; and then they are gone again.
                let many = own.start + 20..own.start + 20 + random.below(70) as i32;
                let mut all: Vec<_> = many.clone().map(|key| Deed::Add(key, value(key, random))).collect();
                all.push(transfer(random));
                all.extend(many.map(Deed::Remove));
                all.push(number_it);
                Operation::Group(all)
            }
            21 => {
                let mut all: Vec<_> =
                    (own.start + 20..own.end - 1).map(|key| Deed::Add(key, value(key, random))).collect();
                all.push(transfer(random));
                Operation::Failing(all)
            }
            22 => Operation::Emptying(deeds(random)),
            _ => Operation::Failing(deeds(random)),
        }
    }

    fn deed(random: &mut Random, own: &Range<i32>) -> Deed {
        let key = own.start + random.below(OWN_KEYS) as i32;
        match random.below(20) {
            0..6 => Deed::Add(key, value(key, random)),
            6..9 => Deed::Replace(key, value(key, random)),
            9..14 => Deed::Remove(key),
            14..16 => Deed::Update(key, Some(value(key, random))),
            16 => Deed::Update(key, None),
            17..19 => {
                let number = numbered(key, random.below(1 << 18));
                Deed::Rewrite { key, number, remove: random.below(3) as usize }
            }
            _ => Deed::Retain { own: own.start..own.end - 1, divisor: random.below(4) as i32 + 2 },
        }
    }

    fn perform(&self, table: &ShmTable) -> Result<(), TableError> {
        let fail = || Err(TableError::FormatFull);
        let all = |group: &mut Group<'_, PosixShm>, deeds: &[Deed]| {
            deeds.iter().try_for_each(|deed| perform_in(group, deed))
        };
        let result = match self {
            Operation::Alone(deed) => return perform_alone(table, deed),
            Operation::Group(deeds) => return table.group(|group| all(group, deeds)),
            Operation::Nested(outer, inner) => {
                return table.group(|group| {
                    perform_in(group, &outer[0])?;
                    let failed: Result<(), TableError> = group.group(|group| {
                        all(group, inner)?;
                        fail()
                    });
                    assert!(matches!(failed, Err(TableError::FormatFull)), "{failed:?}");
                    all(group, &outer[1..])
                });
            }
            Operation::Failing(deeds) => table.group(|group| {
                all(group, deeds)?;
                fail()
            }),
            Operation::Emptying(deeds) => table.group(|group| {
                group.clear()?;
                assert_eq!(group.length()?, 0);
                let changes = |deed: &&Deed| !matches!(deed, Deed::Transfer { .. });
                deeds.iter().filter(changes).try_for_each(|deed| perform_in(group, deed))?;
                fail()
            }),
        };
        assert!(matches!(result, Err(TableError::FormatFull)), "{result:?}");
        Ok(())
    }

    fn imagine(&self, model: &mut Model, accounts: &mut BTreeMap<i32, i32>) {
        match self {
            Operation::Alone(deed) => imagine(model, accounts, deed),
            Operation::Group(deeds) | Operation::Nested(deeds, _) => {
                // The deeds of a worker's own keys, and those that move units, do not concern each other.
                deeds.iter().for_each(|deed| imagine(model, accounts, deed));
            }
            Operation::Failing(_) | Operation::Emptying(_) => {}
        }
    }
}

/// The bindings of a worker, as they are all at one moment.
fn bindings_of(table: &ShmTable, worker: usize) -> Model {
    let read = table.read_group(|group| {
        let mut found = Model::new();
        for key in keys(worker) {
            let values = group.find_all(key)?;
            if !values.is_empty() {
                found.insert(key, values);
            }
        }
        Ok::<_, TableError>(found)
    });
    read.expect("the table can be read")
}

/// What a worker process does until it is killed: an operation, and a byte that acknowledges it.
fn work(name: &OsStr, worker: usize, mut life: Life, acknowledge: &OwnedFd) -> i32 {
    let table: ShmTable = TableOptions::new().open(name).expect("the table is there");
    let mut buffer = Vec::new();
    loop {
        let operation = life.next_operation(worker);
        operation.perform(&table).expect("nothing fails");
        operation.imagine(&mut life.model, &mut BTreeMap::new());
        assert_eq!(rustix::io::write(acknowledge, &[1]), Ok(1));
        // Nobody else changes the worker's keys, so that what it finds is certain, without a lock.
        let key = keys(worker).start + (life.serial % OWN_KEYS) as i32;
        let expected = life.model.get(&key);
        assert_eq!(&table.find_all(key).unwrap(), expected.unwrap_or(&vec![]), "after {operation:?}");
        let newest = expected.map(|values| &values[0]);
        assert_eq!(table.find(key).unwrap().as_ref(), newest);
        assert_eq!(table.mem(key).unwrap(), newest.is_some());
        assert_eq!(table.find_into(key, &mut buffer).unwrap(), newest.is_some());
        assert_eq!(&buffer, newest.unwrap_or(&vec![]));
    }
}

/// What a process looks at again and again. A process that may only read is told if a writer has died.
fn observe(name: &OsStr, read_only: bool, control: &OsStr) -> i32 {
    let control = PosixShm::open(control, Open::Existing).unwrap();
    let opened = TableOptions::new().read_only(read_only).open::<PosixShm, manycore::Futex>(name);
    let mut random = Random::new(7);
    let (mut looks, mut told) = (0u32, 0u32);
    let mut last = false;
    let table = match opened {
        Ok(table) => table,
        Err(TableError::Interrupted { .. }) if read_only => return 0,
        Err(error) => panic!("{error:?}"),
    };
    while !last {
        // The last look begins after the last death.
        last = control.memory().load(0).unwrap() == 1;
        match look(&table, &mut random) {
            Ok(()) => looks += 1,
            Err(TableError::Interrupted { .. } | TableError::Changed { .. }) if read_only => told += 1,
            Err(error) => panic!("{error:?}"),
        }
    }
    assert!(read_only || (looks > 0 && told == 0));
    0
}

fn look(table: &ShmTable, random: &mut Random) -> Result<(), TableError> {
    // Without a lock, and so often that it meets writers.
    let mut buffer = Vec::new();
    for _ in 0..1000 {
        let key = keys(random.below(WORKERS as u32) as usize).start + random.below(OWN_KEYS) as i32;
        if table.find_into(key, &mut buffer)? {
            assert!(is_whole(key, &buffer), "{key}: {buffer:?}");
        }
        for value in table.find_all(key)? {
            assert!(is_whole(key, &value), "{key}: {value:?}");
        }
    }
    let accounts: Vec<i32> = ACCOUNTS.collect();
    let mut seen = 0;
    table.get_many(&accounts, |key, value| {
        let value = value.expect("accounts are never removed");
        assert!(is_whole(key, value), "{key}: {value:?}");
        seen += 1;
    })?;
    assert_eq!(seen, ACCOUNTS.len());

    table.read_group(|group| {
        let mut sum = 0i32;
        for account in ACCOUNTS {
            sum = sum.wrapping_add(group.find(account)?.expect("accounts are never removed")[0]);
        }
        assert_eq!(sum, 0, "half of a group");
        let entries = group.fold(0, |count, key, value| {
            assert!(is_whole(key, value), "{key}: {value:?}");
            count + 1
        })?;
        assert_eq!(entries, group.length()?);
        let mut keys = group.iter_keys()?.collect::<Result<Vec<i32>, _>>()?;
        let count = keys.len();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), count, "a key twice");
        for key in keys {
            let mut words = Vec::new();
            group.read_blocks(key, |fragment: Option<Fragment<'_, PosixShm>>| match fragment {
                Some(fragment) => {
                    let before = words.len();
                    words.resize(before + fragment.len(), 0);
                    fragment.copy_to(&mut words[before..]).expect("all of it is inside");
                    Step::Continue
                }
                None => Step::Stop,
            })?;
            assert!(is_whole(key, &words), "{key}: {words:?}");
            assert_eq!(group.find(key)?, Some(words));
        }
        Ok::<(), TableError>(())
    })?;

    let mut sum = 0i32;
    for entry in table.iter()? {
        let (key, value) = entry?;
        assert!(is_whole(key, &value), "{key}: {value:?}");
        if ACCOUNTS.contains(&key) {
            sum = sum.wrapping_add(value[0]);
        }
    }
    assert_eq!(sum, 0, "half of a group");
    let problems = table.check()?;
    assert!(problems.is_empty(), "{problems:?}");
    table.stat()?;
    Ok(())
}

/// From where the operations of a worker process follow.
#[derive(Clone)]
struct Life {
    random: Random,
    serial: u32,
    model: Model,
}

impl Life {
    fn next_operation(&mut self, worker: usize) -> Operation {
        self.serial += 1;
        Operation::next(&mut self.random, worker, self.serial)
    }
}

/// A worker process, as the parent sees it.
struct Victim {
    worker: usize,
    /// As it was at the beginning of the process.
    life: Life,
    child: ForkedChild,
    acknowledged: OwnedFd,
}

impl Victim {
    fn start(name: &OsStr, worker: usize, life: Life) -> Victim {
        let (acknowledged, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let writer = Arc::new(writer);
        let (name, copy, of_child) = (name.to_owned(), life.clone(), Arc::clone(&writer));
        let run = move || work(&name, worker, copy, &of_child);
        let child = Fork.fork(&[writer.as_fd()], run).expect("this process has one thread");
        Victim { worker, life, child, acknowledged }
    }

    /// Kills it, and finds out what it has done. Returns the life that follows.
    fn kill(self, table: &ShmTable, accounts: &mut BTreeMap<i32, i32>, tally: &mut Tally) -> Life {
        self.child.kill(9).unwrap();
        self.bury(table, accounts, tally)
    }

    fn bury(self, table: &ShmTable, accounts: &mut BTreeMap<i32, i32>, tally: &mut Tally) -> Life {
        let exit = self.child.wait().unwrap();
        assert!(matches!(exit, Exit::Signal { signal: 9, .. }), "{exit:?}");
        let mut bytes = Vec::new();
        std::fs::File::from(self.acknowledged).read_to_end(&mut bytes).unwrap();
        tally.operations += bytes.len();
        tally.deaths += 1;
        let mut life = self.life;
        for _ in bytes {
            let operation = life.next_operation(self.worker);
            operation.imagine(&mut life.model, accounts);
        }
        let found = bindings_of(table, self.worker);
        // This one was in flight. (What changes accounts also changes the worker's number: it is seen.)
        let operation = life.next_operation(self.worker);
        if found != life.model {
            let before = life.model.clone();
            operation.imagine(&mut life.model, accounts);
            if found != life.model {
                let differences: Vec<_> = keys(self.worker)
                    .filter(|key| found.get(key) != before.get(key) || found.get(key) != life.model.get(key))
                    .map(|key| (key, before.get(&key), life.model.get(&key), found.get(&key)))
                    .collect();
                panic!("neither before nor after {operation:?}: (key, before, after, found) {differences:?}");
            }
        }
        life
    }
}

/// A random while, often shorter than an operation.
fn pause(random: &mut Random) {
    match random.below(4) {
        0 => {}
        1 => (0..random.below(20_000)).for_each(|number| {
            black_box(number);
        }),
        // Lets the others go on: each time for as long as the scheduler likes.
        _ => (0..random.below(3)).for_each(|_| std::thread::yield_now()),
    }
}

/// What the parent can say of a table while somebody may be stopped in the middle of something.
fn try_it(table: &ShmTable, written: &mut i32) {
    let trying = table.waiting(Wait::Try);
    for account in ACCOUNTS {
        match trying.find(account) {
            Ok(value) => assert!(is_whole(account, &value.expect("accounts are never removed"))),
            Err(TableError::Lock(LockError::Busy)) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    match trying.replace(PARENT, &[numbered(PARENT, *written as u32 + 1)]) {
        Ok(()) => *written += 1,
        Err(TableError::Lock(LockError::Busy)) => {}
        Err(error) => panic!("{error:?}"),
    }
}

#[derive(Default)]
struct Tally {
    deaths: u32,
    tables: u32,
    operations: usize,
    /// Times when all died while nobody looked, and how often something was half done then.
    massacres: u32,
    halfway: u32,
}

/// One table, from its creation to the death of all its users, and again after it was cleared.
fn torture(seed: u64, tally: &mut Tally) {
    let mut random = Random::new(seed);
    let name = Fresh::<PosixShm>::name();
    let options = TableOptions::new().page_size(160).expected(0);
    let table: ShmTable = options.create(&name).unwrap();
    for age in 0..AGES {
        an_age(&table, seed * u64::from(AGES) + u64::from(age), &mut random, tally);
        table.clear().unwrap();
        assert_eq!((table.length().unwrap(), table.check().unwrap()), (0, vec![]));
    }
    let path = held::path(&name);
    drop((table, name));
    assert!(!path.exists(), "{path:?} was left behind");
    tally.tables += 1;
}

/// The lives of the users of an empty table.
fn an_age(table: &ShmTable, seed: u64, random: &mut Random, tally: &mut Tally) {
    let name = table.name();
    ACCOUNTS.for_each(|account| table.add(account, &[0]).unwrap());
    let (mut accounts, mut written) = (BTreeMap::new(), 0);
    let control_name = Fresh::<PosixShm>::name();
    let control = PosixShm::open(&control_name, Open::CreateNew { mode: 0o600 }).unwrap();
    control.grow(4).unwrap();

    let mut seeds = seed << 20;
    let mut begin = |worker: usize, life: Option<Life>| {
        seeds += 1;
        let life = life.unwrap_or(Life { random: Random(1), serial: 0, model: Model::new() });
        Some(Victim::start(name, worker, Life { random: Random::new(seeds), ..life }))
    };
    let mut victims: Vec<Option<Victim>> = (0..WORKERS).map(|worker| begin(worker, None)).collect();
    let mut observers: Vec<_> = [false, true]
        .into_iter()
        .map(|read_only| {
            let (name, control): (OsString, OsString) = (name.to_owned(), control_name.to_owned());
            Fork.fork(&[], move || observe(&name, read_only, &control)).unwrap()
        })
        .collect();

    for _ in 0..ATTACKS {
        pause(random);
        let worker = random.below(WORKERS as u32) as usize;
        let victim = victims[worker].take().expect("it was begun again");
        // Some are stopped first; others of them live on.
        if random.below(3) == 0 {
            victim.child.kill(SIGSTOP).unwrap();
            pause(random);
            try_it(table, &mut written);
            if random.below(2) == 0 {
                victim.child.kill(SIGCONT).unwrap();
                victims[worker] = Some(victim);
                continue;
            }
        }
        let life = victim.kill(table, &mut accounts, tally);
        victims[worker] = begin(worker, Some(life));
        for observer in &observers {
            assert!(
                matches!(observer.try_wait().unwrap(), None | Some(Exit::Code(0))),
                "an observer is gone"
            );
        }
    }

    let mut end_observers = || {
        control.memory().store(0, 1).unwrap();
        for observer in observers.drain(..) {
            assert_eq!(observer.wait().unwrap(), Exit::Code(0));
        }
    };
    // They may see the end, or else leave to the parent what is half done then.
    let leave_early = random.below(2) == 0;
    if leave_early {
        end_observers();
    }
    // All at once: then nobody is left to finish anything. Often in the middle of something, and sometimes anywhere.
    pause(random);
    let raw = table.raw();
    if random.below(4) != 0 {
        (0..100_000).find(|_| raw.get(TRANSACTION).is_some_and(|word| word % 2 == 1));
    }
    for victim in victims.iter().flatten() {
        victim.child.kill(9).unwrap();
    }
    for victim in victims.iter().flatten() {
        victim.child.wait().unwrap();
    }
    if leave_early {
        tally.halfway += u32::from(table.raw().get(TRANSACTION).is_some_and(|word| word % 2 == 1));
        tally.massacres += 1;
    }
    end_observers();
    for victim in victims.into_iter().flatten() {
        victim.bury(table, &mut accounts, tally);
    }
    for account in ACCOUNTS {
        let balance = table.find(account).unwrap().expect("accounts are never removed")[0];
        assert_eq!(balance, accounts.get(&account).copied().unwrap_or(0), "units came or went");
    }
    let of_parent = (written > 0).then(|| vec![numbered(PARENT, written as u32)]);
    assert_eq!(table.find(PARENT).unwrap(), of_parent);
    assert_eq!(table.check().unwrap(), []);
    // Of dead readers a mark is left, until somebody writes.
    table.group(|_| Ok::<(), TableError>(())).unwrap();
    assert_eq!(held::kinds(name), [""; 0]);
}

const SIGSTOP: i32 = 19;
const SIGCONT: i32 = 18;
/// The word of an object that is odd while something is half done.
const TRANSACTION: usize = 32;

fn survives() {
    let seconds = std::env::var("MANYCORE_TORTURE_SECONDS")
        .ok()
        .map_or(3, |text| text.parse().expect("MANYCORE_TORTURE_SECONDS is a number"));
    let start = Instant::now();
    let mut tally = Tally::default();
    // Without a massacre that left something half done the deaths would prove nothing.
    while start.elapsed() < Duration::from_secs(seconds) || (tally.halfway < 3 && tally.tables < 300) {
        torture(u64::from(tally.tables) + 1, &mut tally);
    }
    let Tally { deaths, tables, operations, massacres, halfway } = tally;
    println!("  {deaths} deaths during {operations} operations on {tables} tables");
    println!("  {halfway} of {massacres} massacres left something half done");
    assert!(halfway >= 3, "the deaths met nothing");
}
