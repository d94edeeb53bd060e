//! Whatever is wrong, an error says what, and what to do; damaged tables never cost more than themselves.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::{Duration, Instant};

use manycore::codec::CodecError;
use manycore::lock::{Guard, LockError, Mode, Protocol, Wait};
use manycore::name::NameError;
use manycore::shm::{Memory, Open, ShmError};
use manycore::table::VALUE_MAX;
use manycore::{
    Fcntl, File, Futex, Heap, LockMethod, MapError, NoLock, PosixShm, ShmBackend, ShmMap, ShmTable,
};
use manycore::{TableError, TableOptions};
use manycore_backends::testing::recorder::{restore, snapshot};
use manycore_backends::testing::shm::Fresh;

/// Asserts that a result is this error, and that its message says this.
macro_rules! refused {
    ($result:expr, $pattern:pat, $phrase:expr) => {
        match $result {
            Err(error) => {
                assert!(matches!(error, $pattern), "{error:?}");
                assert!(error.to_string().contains($phrase), "{error}");
            }
            Ok(_) => panic!("not refused"),
        }
    };
}

const DEFAULT: fn() -> TableOptions = TableOptions::new;

/// Words of an object that tests look at or damage; all are drawn in `src/table/layout.rs`.
const PAGE_SIZE: usize = 4;
const PROTOCOL: usize = 5;
const STATE: usize = 6;
const BUCKETS: usize = 17;
const MASK: usize = 19;
const TOP: usize = 36;
const BINDINGS: usize = 37;
const KEYS: usize = 38;
const LEAVES: usize = 512;
const HEADER: usize = 1024;

/// The first word of a block: the mark, the kind, and the length in granules of four words.
const BLOCK: u32 = 0xB000_0000;
const RECORD: u32 = 1 << 24;
const SEGMENT: u32 = 3 << 24;
/// What tells that it is a block of that kind, whatever its length and neighbours.
const KIND: u32 = 0xF700_0000;

/// A new table in the heap.
fn heap(options: TableOptions) -> (Fresh<Heap>, ShmTable<Heap, NoLock>) {
    let name = Fresh::name();
    let table = options.create(&name).unwrap();
    (name, table)
}

/// Changes one word of an object.
fn poke<B: ShmBackend>(name: &OsStr, at: usize, value: u32) {
    B::open(name, Open::Existing).unwrap().memory().store(at, value).unwrap();
}

/// Every way to open or create.
fn attempts<B: ShmBackend, L: LockMethod<B>>(name: &OsStr) -> [Result<ShmTable<B, L>, TableError>; 3] {
    [DEFAULT().open(name), DEFAULT().create(name), DEFAULT().open_or_create(name)]
}

#[test]
fn bad_names_are_refused_before_the_system_sees_them() {
    let long = format!("/{}", "n".repeat(256));
    for result in attempts::<PosixShm, Fcntl>(OsStr::new("/a/b")) {
        refused!(result, TableError::Shm(ShmError::Name(NameError::Slash(_))), "or the backend `File`");
    }
    for result in attempts::<PosixShm, Fcntl>(OsStr::from_bytes(b"/a\0b")) {
        refused!(result, TableError::Shm(ShmError::Name(NameError::Nul(_))), "remove it");
    }
    for result in attempts::<PosixShm, Fcntl>(OsStr::new(&long)) {
        refused!(result, TableError::Shm(ShmError::Name(NameError::TooLong { .. })), "at most 255");
    }
    for result in attempts::<PosixShm, Fcntl>(OsStr::new("")) {
        refused!(result, TableError::Shm(ShmError::Name(NameError::Empty)), "must not be empty");
    }
    for result in attempts::<File, Fcntl>(OsStr::new("/tmp/")) {
        refused!(result, TableError::Shm(ShmError::Name(NameError::Directory(_))), "an object in it");
    }
    let template = DEFAULT().create_unique::<PosixShm, Fcntl>("/no-template");
    refused!(template, TableError::Shm(ShmError::Name(NameError::NoTemplate(_))), "write XXXXXX");
}

#[test]
fn a_missing_table_and_one_that_exists_are_told_apart() {
    let name = Fresh::<PosixShm>::name();
    refused!(ShmTable::open(&name), TableError::Shm(ShmError::NotFound { .. }), "no shared object");
    ShmTable::create(&name).unwrap();
    refused!(ShmTable::create(&name), TableError::Shm(ShmError::AlreadyExists { .. }), "exists already");
}

/// A file to which nobody else can write, whatever the umask.
fn write_file(path: &OsStr, contents: &[u8]) {
    fs::write(path, contents).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn a_file_of_something_else_is_refused_and_not_touched() {
    for length in [5, 4095, 4096, 10_000] {
        let name = Fresh::<File>::name();
        let text: Vec<u8> = b"Some text. ".iter().copied().cycle().take(length).collect();
        write_file(&name, &text);
        for result in [DEFAULT().open::<File, Fcntl>(&name), DEFAULT().open_or_create(&name)] {
            refused!(result, TableError::NotATable { .. }, "is not a table");
        }
        assert_eq!(fs::read(&*name).unwrap(), text);
    }
}

/// Not by the lock either, whose words would lie in the middle of it.
#[test]
fn what_is_no_table_of_this_format_is_not_locked() {
    let name = Fresh::<File>::name();
    let contents: Vec<u8> = (0..8192_u32).map(|at| (at.wrapping_mul(0x9E37_79B9) >> 24) as u8).collect();
    let old = [0x4D43_4F52_u32, 0x5442_4C31, 1].map(u32::to_ne_bytes).concat();
    for head in [&contents[..12], &[0; 12], &old] {
        let contents = [head, &contents[12..]].concat();
        write_file(&name, &contents);
        for attempt in attempts::<File, Futex>(&name) {
            refused!(
                attempt,
                TableError::NotATable { .. } | TableError::Format { .. } | TableError::Shm(_),
                ""
            );
        }
        assert!(fs::read(&*name).unwrap() == contents);
    }
}

/// Closing what another lock method had opened would release the locks of a process, which `Fcntl` relies on.
#[test]
fn opening_with_another_lock_method_releases_nothing() {
    let name = Fresh::<File>::name();
    let table: ShmTable<File, Fcntl> = DEFAULT().create(&name).unwrap();
    let object = format!(":{} ", fs::metadata(&*name).unwrap().ino());
    let is_locked = || fs::read_to_string("/proc/locks").unwrap().contains(&object);
    table
        .group(|_| {
            assert!(is_locked());
            refused!(DEFAULT().open::<File, Futex>(&name), TableError::Protocol { .. }, "");
            assert!(is_locked());
            Ok::<_, TableError>(())
        })
        .unwrap();
}

#[test]
fn a_page_size_must_be_possible_and_that_of_the_table() {
    for bytes in [0, 100, 159, 162, (1 << 20) + 4, 1 << 21] {
        let result = TableOptions::new().page_size(bytes).create_unique::<Heap, NoLock>("p-XXXXXX");
        refused!(result, TableError::BadPageSize(_), "from 160 bytes to 1 MiB and divisible by 4");
    }
    let (name, _) = heap(TableOptions::new().page_size(1 << 20));
    let other = TableOptions::new().page_size(160).open::<Heap, NoLock>(&name);
    refused!(other, TableError::PageSize { expected: 160, found: 0x10_0000, .. }, "without saying one");
    DEFAULT().open::<Heap, NoLock>(&name).unwrap();
}

#[test]
fn all_users_must_lock_alike() {
    let name = Fresh::<File>::name();
    DEFAULT().create::<File, Fcntl>(&name).unwrap();
    DEFAULT().open::<File, NoLock>(&name).unwrap();
    let name = Fresh::<File>::name();
    DEFAULT().create::<File, NoLock>(&name).unwrap();
    for result in [DEFAULT().open::<File, Fcntl>(&name), DEFAULT().open_or_create(&name)] {
        refused!(
            result,
            TableError::Protocol { expected: Protocol::FCNTL, found: Protocol::NONE, .. },
            "is locked by NoLock, and was opened with Fcntl"
        );
    }
    poke::<File>(&name, PROTOCOL, 99);
    let unknown = DEFAULT().open::<File, Fcntl>(&name);
    refused!(unknown, TableError::Protocol { .. }, "unknown protocol 99");
}

#[test]
fn an_unfinished_table_can_be_created_again() {
    let name = Fresh::<Heap>::name();
    Heap::open(&name, Open::CreateNew { mode: 0o600 }).unwrap();
    let advice = "open it for creation, or unlink it";
    refused!(DEFAULT().open::<Heap, NoLock>(&name), TableError::Unfinished { .. }, advice);
    let table: ShmTable<Heap, NoLock> = DEFAULT().open_or_create(&name).unwrap();
    table.add(1, &[1]).unwrap();
    poke::<Heap>(&name, STATE, 0);
    refused!(DEFAULT().open::<Heap, NoLock>(&name), TableError::Unfinished { .. }, advice);
}

#[test]
fn foreign_headers_are_refused_and_not_formatted_anew() {
    let (name, table) = heap(DEFAULT());
    table.add(1, &[1]).unwrap();
    let image = snapshot::<Heap>(&name).unwrap();
    let open = |change: &dyn Fn(&mut Vec<u32>)| {
        let name = Fresh::<Heap>::name();
        let mut image = image.clone();
        change(&mut image);
        restore::<Heap>(&name, &image).unwrap();
        let result = DEFAULT().open_or_create::<Heap, NoLock>(&name);
        assert!(snapshot::<Heap>(&name).unwrap() == image, "it was changed");
        result
    };
    open(&|_| {}).unwrap();
    let swapped = open(&|image| image.iter_mut().for_each(|word| *word = word.swap_bytes()));
    refused!(swapped, TableError::NotATable { .. }, "the other byte order");
    refused!(open(&|image| image[3] = 7), TableError::NotATable { .. }, "byte order mark is damaged");
    refused!(open(&|image| image[STATE] = 7), TableError::NotATable { .. }, "state word is damaged");
    for other in [1, 2, 3, 5] {
        let format = open(&|image| image[2] = other);
        refused!(format, TableError::Format { expected: 4, .. }, "copy it with the version");
    }
    // Another format's words mean other things.
    let format = open(&|image| image[2..8].copy_from_slice(&[5, 0, 0, 0, 0, 0]));
    refused!(format, TableError::Format { found: 5, .. }, "format 5");
    refused!(open(&|image| image[2] = 0), TableError::Format { found: 0, .. }, "format 0");
    refused!(
        open(&|image| image[PAGE_SIZE] = 3),
        TableError::Corrupt { at: PAGE_SIZE, .. },
        "impossible page size"
    );
}

#[test]
fn a_value_that_is_too_long_is_refused() {
    let (_name, table) = heap(DEFAULT());
    let value = vec![0; VALUE_MAX + 1];
    let most = "at most 62914556 are possible";
    refused!(table.add(1, &value), TableError::ValueTooLong { .. }, most);
    refused!(table.replace(1, &value), TableError::ValueTooLong { .. }, most);
    table
        .group(|group| {
            refused!(group.add(1, &value), TableError::ValueTooLong { .. }, most);
            group.add(2, &[2])
        })
        .unwrap();
    assert_eq!(table.length().unwrap(), 1);
}

#[test]
fn a_thread_inside_an_iteration_or_a_group_is_told_so() {
    let name = Fresh::<PosixShm>::name();
    let table = ShmTable::create(&name).unwrap();
    let other = ShmTable::open(&name).unwrap();
    table.add(1, &[1]).unwrap();
    let advice = "use the open group, or end the iteration first";
    let mut entries = 0;
    for _ in table.iter().unwrap() {
        for handle in [&table, &other] {
            refused!(handle.add(1, &[]), TableError::Lock(LockError::LockedByCaller), advice);
            assert_eq!(handle.find(1).unwrap(), Some(vec![1]));
            entries += handle.iter().unwrap().count();
        }
    }
    assert_eq!(entries, 2);
    table
        .group(|group| {
            // A lookup needs no lock as long as the group has changed nothing.
            assert_eq!(table.find(1).unwrap(), Some(vec![1]));
            group.replace(1, &[2])?;
            for handle in [&table, &other] {
                refused!(handle.find(1), TableError::Lock(LockError::LockedByCaller), advice);
                refused!(handle.iter(), TableError::Lock(LockError::LockedByCaller), advice);
                refused!(handle.remove(1), TableError::Lock(LockError::LockedByCaller), advice);
                let inner: Result<(), TableError> = handle.group(|_| Ok(()));
                refused!(inner, TableError::Lock(LockError::LockedByCaller), advice);
            }
            // A finished table is opened without its lock.
            assert!(matches!(
                ShmTable::open(&name).unwrap().find(1),
                Err(TableError::Lock(LockError::LockedByCaller))
            ));
            group.remove(1)
        })
        .unwrap();
    assert_eq!(table.length().unwrap(), 0);
}

#[test]
fn of_many_bindings_all_are_added_or_none() {
    let (_name, table) = heap(DEFAULT());
    table.add(1, &[1]).unwrap();
    let too_long = vec![0; VALUE_MAX + 1];
    let short: &[i32] = &[7];
    let many = (0..100).map(|key| (key, if key == 77 { &too_long[..] } else { short }));
    refused!(table.add_many(many), TableError::ValueTooLong { .. }, "is too long");
    assert_eq!((table.length().unwrap(), table.find(1).unwrap()), (1, Some(vec![1])));
    let panics = (0..100).map(|key| if key == 77 { panic!("on the way") } else { (key, short) });
    assert!(catch_unwind(AssertUnwindSafe(|| table.add_many(panics))).is_err());
    assert_eq!((table.length().unwrap(), table.find(1).unwrap()), (1, Some(vec![1])));
    // In a group that goes on, too.
    let result: Result<(), TableError> = table.group(|group| {
        group.add_many([(2, [2]), (3, [3])])?;
        let many = [(4, short), (5, &too_long[..])];
        assert!(group.add_many(many).is_err());
        group.add_many([(1, [9])])
    });
    result.unwrap();
    assert_eq!(table.find_all(1).unwrap(), [[9], [1]]);
    assert_eq!((table.length().unwrap(), table.find(4).unwrap()), (4, None));
    assert!(table.check().unwrap().is_empty());
}

#[test]
fn a_map_of_other_types_is_noticed() {
    let (name, table) = heap(DEFAULT());
    let map: ShmMap<u32, String, Heap, NoLock> = table.into();
    map.add(&1, &"one".to_owned()).unwrap();
    let table: ShmTable<Heap, NoLock> = DEFAULT().open(&name).unwrap();
    let wrong: ShmMap<u32, u8, Heap, NoLock> = table.into();
    let advice = "all users of a map must use the same types";
    refused!(wrong.find(&1), MapError::Codec(CodecError::TooLongInput), advice);
    refused!(wrong.iter().unwrap().next().unwrap(), MapError::Codec(_), advice);
    let update = wrong.update(&1, |_| unreachable!("there is no value to change"));
    refused!(update, MapError::Codec(_), advice);
    assert_eq!(map.find(&1).unwrap(), Some("one".to_owned()));
}

/// The directory has no room for another segment of buckets: a table goes on with longer chains.
#[test]
fn a_table_without_more_buckets_takes_more_keys() {
    // All places of the directory are one segment: nothing asks whether buckets have words of their own.
    const MOST: u32 = (512 * 512 - 63) * 1024;
    let (name, table) = heap(TableOptions::new().expected(0));
    let object = Heap::open(&name, Open::Existing).unwrap();
    let memory = object.memory();
    let leaf = memory.load(LEAVES).unwrap();
    let segment = memory.load(TOP).unwrap();
    // The first bucket of a segment lies at the next multiple of 16 words.
    let (first, top) = ((segment / 16 + 1) * 16, segment + 16 + 1024 * 16);
    object.grow(u64::from(top) * 4).unwrap();
    memory.store(segment as usize, BLOCK | SEGMENT | ((top - segment) / 4)).unwrap();
    (0..512).for_each(|at| memory.store(leaf as usize + 4 + at, first).unwrap());
    (0..512).for_each(|at| memory.store(LEAVES + at, leaf).unwrap());
    for (at, word) in
        [(TOP, top), (BINDINGS, 4 * MOST), (KEYS, 4 * MOST), (BUCKETS, MOST), (MASK, (1 << 28) - 1)]
    {
        memory.store(at, word).unwrap();
    }
    for key in 0..10 {
        table.add(key, &[key]).unwrap();
        assert_eq!(table.find(key).unwrap(), Some(vec![key]));
    }
    assert_eq!((memory.load(BUCKETS).unwrap(), memory.load(KEYS).unwrap()), (MOST, 4 * MOST + 10));
}

#[test]
fn a_circle_ends_before_it_has_cost_more_than_the_object() {
    let (name, table) = heap(DEFAULT());
    table.add(1, &[7; 3000]).unwrap();
    let object = Heap::open(&name, Open::Existing).unwrap();
    let image = snapshot::<Heap>(&name).unwrap();
    // Not in the header, where the seed may look like anything.
    let record = (HEADER..image.len()).find(|at| image[*at] & KIND == BLOCK | RECORD).unwrap();
    object.memory().store(record + 2, record as u32).unwrap();
    refused!(table.find_all(1), TableError::Corrupt { .. }, "a chain of records runs in a circle");
    let mut words = 0;
    let listed = table
        .iter()
        .and_then(|mut entries| entries.try_for_each(|entry| entry.map(|(_, value)| words += value.len())));
    refused!(listed, TableError::Corrupt { .. }, "a chain of records runs in a circle");
    assert!(words <= image.len(), "{words}");
}

// Those who hold the lock for long while others open the table.

/// Ways to open or create, and whether they need the lock of a table that is finished.
type Way = (fn(&TableOptions, &OsStr) -> Result<ShmTable<Heap>, TableError>, bool);
const WAYS: [Way; 3] = [
    (|options, name| options.open(name), false),
    (|options, name| options.open_or_create(name), false),
    (|options, name| options.reinitialize(name), true),
];

/// Opens it, without waiting, and waiting a little.
fn refused_in_time(open: impl Fn(&TableOptions) -> Result<ShmTable<Heap>, TableError>) {
    refused!(open(&DEFAULT().waiting(Wait::Try)), TableError::Lock(LockError::Busy), "");
    let limit = Duration::from_millis(20);
    let start = Instant::now();
    refused!(open(&DEFAULT().waiting(Wait::AtMost(limit))), TableError::Lock(LockError::TimedOut), "");
    assert!(start.elapsed() >= limit);
}

#[test]
fn nobody_has_to_wait_for_a_creator_who_does_not_go_on() {
    let name = Fresh::<Heap>::name();
    let object = Heap::open(&name, Open::CreateNew { mode: 0o600 }).unwrap();
    object.grow(4096).unwrap();
    let lock = Futex::attach(&object).unwrap();
    let creating = Guard::lock(&lock, &object, Mode::Write, Wait::Try).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            for (open, _) in WAYS {
                refused_in_time(|options| open(options, &name));
            }
        });
    });
    assert_eq!(snapshot::<Heap>(&name).unwrap()[..256], [0; 256], "nothing has changed");
    drop(creating);
    let table: ShmTable<Heap> = DEFAULT().waiting(Wait::Try).open_or_create(&name).unwrap();
    assert_eq!(table.check().unwrap(), []);
}

#[test]
fn nobody_has_to_wait_for_a_group_that_does_not_end() {
    let name = Fresh::<Heap>::name();
    let table: ShmTable<Heap> = DEFAULT().create(&name).unwrap();
    table.add(1, &[1]).unwrap();
    let nothing: Result<(), TableError> = table.group(|_| {
        thread::scope(|scope| {
            scope.spawn(|| {
                for (open, locks) in WAYS {
                    if locks {
                        refused_in_time(|options| open(options, &name));
                    } else {
                        // It takes no lock; but the handle waits no longer than its opener wanted.
                        let impatient = open(&DEFAULT().waiting(Wait::Try), &name).unwrap();
                        refused!(impatient.add(1, &[2]), TableError::Lock(LockError::Busy), "");
                        let limit = Wait::AtMost(Duration::from_millis(5));
                        refused!(impatient.waiting(limit).clear(), TableError::Lock(LockError::TimedOut), "");
                        let patient = open(&DEFAULT().waiting(limit), &name).unwrap();
                        refused!(patient.iter(), TableError::Lock(LockError::TimedOut), "");
                        refused!(patient.clone().remove(1), TableError::Lock(LockError::TimedOut), "");
                    }
                }
            });
        });
        Ok(())
    });
    nothing.unwrap();
    assert_eq!(table.find_all(1).unwrap(), [[1]]);
    // Who has time left gets it, and the handle has its limit from then on.
    let emptied: ShmTable<Heap> =
        DEFAULT().waiting(Wait::AtMost(Duration::from_secs(60))).page_size(512).reinitialize(&name).unwrap();
    assert_eq!((emptied.length().unwrap(), emptied.stat().unwrap().page_size), (0, 512));
    assert!(format!("{emptied:?}").contains("wait: AtMost(60s)"), "{emptied:?}");
}

/// A lock that somebody else has.
#[derive(Debug)]
struct Taken;

impl LockMethod<Heap> for Taken {
    const PROTOCOL: Protocol = Protocol::FUTEX;

    fn attach(_: &Heap) -> Result<Taken, LockError> {
        Ok(Taken)
    }

    fn lock(&self, _: &Heap, _: Mode, _: Wait) -> Result<(), LockError> {
        Err(LockError::Busy)
    }

    fn unlock(&self, _: &Heap) -> Result<(), LockError> {
        Err(LockError::NotHeld)
    }

    fn upgrade(&self, _: &Heap, _: Wait) -> Result<(), LockError> {
        Err(LockError::NotHeld)
    }

    fn downgrade(&self, _: &Heap) -> Result<(), LockError> {
        Err(LockError::NotHeld)
    }
}

#[test]
fn who_creates_an_object_that_another_is_making_a_table_leaves_it_to_that_one() {
    let name = Fresh::<Heap>::name();
    let created: Result<ShmTable<Heap, Taken>, TableError> = DEFAULT().waiting(Wait::Try).create(&name);
    refused!(created, TableError::Lock(LockError::Busy), "");
    Heap::open(&name, Open::Existing).expect("the other one has its name");
    let table: ShmTable<Heap> = DEFAULT().open_or_create(&name).unwrap();
    assert_eq!(table.check().unwrap(), []);
}
