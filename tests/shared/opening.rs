//! Creating, opening, and what is refused.

use std::cell::RefCell;
use std::rc::Rc;

use manycore::lock::{LockError, USERS};
use manycore::shared::{Capacity, SharedError, SharedOptions, ShmMutex, ShmPermits, ShmQueue, ShmSemaphore};
use manycore::shm::{Memory, Open, OutOfBounds, ShmError};
use manycore::{Fcntl, Heap, PosixShm, ShmBackend, ShmTable, TableOptions};
use manycore_backends::testing::observed::{Access, Observed, Observer};
use manycore_backends::testing::shm::Fresh;

use super::{Room, Tests, in_child, of_processes, over_all};

pub(crate) fn all() -> Tests {
    let mut tests = over_all![
        what_was_created_is_opened,
        what_is_something_else_is_refused,
        unfinished_objects_are_finished_by_who_creates,
        of_creators_at_once_one_creates,
        impossible_objects_are_refused_and_leave_nothing,
        damaged_headers_are_refused,
    ];
    tests.extend(of_processes![
        who_opens_while_it_is_created_finds_nothing_damaged,
        handles_are_refused_after_a_fork,
        there_are_so_many_users_and_no_more,
        descriptors_are_given_back,
        another_lock_method_is_refused,
        what_others_may_write_to_is_refused,
    ]);
    tests
}

const SMALL: Capacity = Capacity { messages: 4, words: 5 };

fn what_was_created_is_opened<B: Room>() {
    let name = Fresh::<B>::name();
    assert!(matches!(ShmQueue::<u32, B>::open(&name), Err(SharedError::Shm(ShmError::NotFound { .. }))));
    let queue = ShmQueue::<u32, B>::create(&name, &SMALL).unwrap();
    assert_eq!(queue.name(), &*name);
    let again = ShmQueue::<u32, B>::create(&name, &SMALL);
    assert!(matches!(again, Err(SharedError::Shm(ShmError::AlreadyExists { .. }))));
    queue.send(&7).unwrap();
    assert_eq!(ShmQueue::<u32, B>::open(&name).unwrap().receive().unwrap(), 7);
    let either = ShmQueue::<u32, B>::open_or_create(&name, &SMALL).unwrap();
    assert_eq!(either.capacity(), SMALL);
    let larger = Capacity { messages: 8, words: 5 };
    match ShmQueue::<u32, B>::open_or_create(&name, &larger) {
        Err(SharedError::Capacity { messages: 4, words: 5, .. }) => {}
        other => panic!("{other:?}"),
    }
    // What is not a power of two becomes one, and is the same again.
    let odd = Capacity { messages: 3, words: 5 };
    assert_eq!(ShmQueue::<u32, B>::open_or_create(&name, &odd).unwrap().capacity(), SMALL);
    queue.unlink().unwrap();
    assert!(matches!(queue.unlink(), Err(SharedError::Shm(ShmError::NotFound { .. }))));
    // Those who have it open go on.
    queue.send(&8).unwrap();
    assert_eq!(either.receive().unwrap(), 8);
    let unique = ShmSemaphore::<B>::create_unique(B::template(), &3).unwrap();
    assert_eq!(ShmSemaphore::<B>::open(unique.name()).unwrap().value().unwrap(), 3);
    // The value matters to a new one only.
    assert_eq!(ShmSemaphore::<B>::open_or_create(unique.name(), &9).unwrap().value().unwrap(), 3);
    unique.unlink().unwrap();
}

fn what_is_something_else_is_refused<B: Room>() {
    let name = Fresh::<B>::name();
    let _semaphore = ShmSemaphore::<B>::create(&name, &1).unwrap();
    for found in [
        ShmQueue::<u32, B>::open(&name).map(drop),
        ShmQueue::<u32, B>::open_or_create(&name, &SMALL).map(drop),
        ShmPermits::<B>::open(&name).map(drop),
        ShmMutex::<u32, B>::open_or_create(&name, &1).map(drop),
    ] {
        match found {
            Err(SharedError::NotThis { found: "semaphore", .. }) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(ShmSemaphore::<B>::open(&name).unwrap().value().unwrap(), 1);

    let name = Fresh::<B>::name();
    let table: ShmTable<B> = TableOptions::new().create(&name).unwrap();
    table.add(1, &[2]).unwrap();
    let opened = ShmQueue::<u32, B>::open_or_create(&name, &SMALL);
    assert!(matches!(opened, Err(SharedError::NotThis { .. })), "{opened:?}");
    assert!(table.check().unwrap().is_empty() && table.find(1).unwrap() == Some(vec![2]));

    let name = Fresh::<B>::name();
    let object = B::open(&name, Open::CreateNew { mode: 0o600 }).unwrap();
    object.grow(100).unwrap();
    let opened = ShmSemaphore::<B>::open_or_create(&name, &1);
    assert!(matches!(opened, Err(SharedError::NotThis { found: "it is too short", .. })), "{opened:?}");
    object.grow(1 << 14).unwrap();
    object.memory().store(3, 77).unwrap();
    let opened = ShmSemaphore::<B>::open_or_create(&name, &1);
    assert!(matches!(opened, Err(SharedError::NotThis { .. })), "{opened:?}");
    assert_eq!(object.memory().load(3), Ok(77), "it was not changed");
}

fn unfinished_objects_are_finished_by_who_creates<B: Room>() {
    let name = Fresh::<B>::name();
    let object = B::open(&name, Open::CreateNew { mode: 0o600 }).unwrap();
    assert!(matches!(ShmSemaphore::<B>::open(&name), Err(SharedError::Unfinished { .. })));
    object.grow(4 * 512).unwrap();
    assert!(matches!(ShmSemaphore::<B>::open(&name), Err(SharedError::Unfinished { .. })));
    // A creator that died with the first words written, and garbage behind them.
    object.memory().write(0, &[0x4D43_4F52, u32::from_be_bytes(*b"SEM1")]).unwrap();
    object.grow(4 * 1024).unwrap();
    object.memory().write(600, &[1, 2, 3]).unwrap();
    object.memory().store(528, 77).unwrap();
    assert!(matches!(ShmSemaphore::<B>::open(&name), Err(SharedError::Unfinished { .. })));
    let semaphore = ShmSemaphore::<B>::open_or_create(&name, &5).unwrap();
    assert_eq!(semaphore.value().unwrap(), 5);
    object.size().unwrap();
    assert_eq!((object.memory().load(528), object.memory().load(600)), (Ok(0), Ok(0)));
}

/// How many accesses a thread makes before a creator goes on, and what the creator writes then.
type Creator = (usize, Box<dyn FnOnce()>);

thread_local! {
    /// The creator in the midst of whose work the thread opens an object.
    static CREATOR: RefCell<Option<Creator>> = const { RefCell::new(None) };
}

/// Who opens an object while somebody creates it.
struct Slow;

impl Observer for Slow {
    fn access(_: Access, _: usize) -> Result<(), OutOfBounds> {
        let creator = CREATOR.with_borrow_mut(|creator| match creator {
            Some((left @ 1.., _)) => {
                *left -= 1;
                None
            }
            _ => creator.take(),
        });
        if let Some((_, go_on)) = creator {
            go_on();
        }
        Ok(())
    }
}

/// Of all that somebody sees who opens an object, the creator may have written some before and the rest between any two
/// accesses.
fn who_opens_while_it_is_created_finds_nothing_damaged() {
    let name = Fresh::<PosixShm>::name();
    drop(ShmSemaphore::<PosixShm>::create(&name, &5).unwrap());
    let object = Rc::new(PosixShm::open(&name, Open::Existing).unwrap());
    object.size().unwrap();
    let created = |at: &usize| object.memory().load(*at).unwrap();
    // In the order in which they are written: what it is, what was asked for, the body, the state.
    let order = (0..4).chain(5..16).chain(512..object.memory().words()).chain([4]);
    let written: Vec<_> = order.map(|at| (at, created(&at))).filter(|(_, value)| *value != 0).collect();
    assert!(written.len() >= 6, "{written:?}");
    let (mut found, mut unfinished) = (0, 0);
    for before in 0..=written.len() {
        for accesses in 0.. {
            for after in before..=written.len() {
                for (index, (at, value)) in written.iter().enumerate() {
                    object.memory().store(*at, if index < before { *value } else { 0 }).unwrap();
                }
                let (creator, rest) = (Rc::clone(&object), written[before..after].to_vec());
                let go_on = move || {
                    for (at, value) in rest {
                        creator.memory().store(at, value).unwrap();
                    }
                };
                CREATOR.set(Some((accesses, Box::new(go_on))));
                match ShmSemaphore::<Observed<PosixShm, Slow>>::open(&name) {
                    Ok(_) => found += 1,
                    Err(SharedError::Unfinished { .. }) => unfinished += 1,
                    Err(error) => {
                        panic!(
                            "{error}, {before} words before, {after} after {accesses} accesses of {written:?}"
                        )
                    }
                }
            }
            // It has opened it, and nobody has gone on meanwhile: that was all.
            if CREATOR.take().is_some() {
                break;
            }
        }
    }
    assert!(found > 100 && unfinished > 100, "{found}, {unfinished}");
}

fn of_creators_at_once_one_creates<B: Room>() {
    for _ in 0..20 {
        let name = Fresh::<B>::name();
        let create = |value: u32| {
            let mutex = ShmMutex::<u32, B>::open_or_create(&name, &value).unwrap();
            mutex.get().unwrap()
        };
        let values: Vec<u32> = std::thread::scope(|scope| {
            let create = &create;
            let threads: Vec<_> = (0..4).map(|value| scope.spawn(move || create(value))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(values.iter().all(|value| *value == values[0]), "{values:?}");
    }
}

fn impossible_objects_are_refused_and_leave_nothing<B: Room>() {
    let name = Fresh::<B>::name();
    for capacity in [
        Capacity { messages: 0, words: 1 },
        Capacity { messages: (1 << 24) + 1, words: 1 },
        Capacity { messages: usize::MAX, words: 1 },
        Capacity { messages: 1, words: usize::MAX },
        Capacity { messages: 1 << 24, words: 1 << 20 },
    ] {
        let created = ShmQueue::<u32, B>::create(&name, &capacity);
        assert!(matches!(created, Err(SharedError::Impossible(_))), "{created:?}");
    }
    assert!(matches!(ShmSemaphore::<B>::create(&name, &u32::MAX), Err(SharedError::Impossible(_))));
    assert!(matches!(ShmPermits::<B>::create(&name, &0), Err(SharedError::Impossible(_))));
    assert!(matches!(ShmPermits::<B>::create(&name, &70_000), Err(SharedError::Impossible(_))));
    assert!(matches!(B::open(&name, Open::Existing), Err(ShmError::NotFound { .. })));
}

fn damaged_headers_are_refused<B: Room>() {
    let name = Fresh::<B>::name();
    drop(ShmQueue::<u32, B>::create(&name, &SMALL).unwrap());
    let object = B::open(&name, Open::Existing).unwrap();
    object.size().unwrap();
    let memory = object.memory();
    for at in [0, 1, 2, 3, 4, 8, 9] {
        let right = memory.load(at).unwrap();
        for wrong in (0..32).map(|bit| right ^ 1 << bit).chain([u32::MAX, right.swap_bytes()]) {
            memory.store(at, wrong).unwrap();
            // Whatever it says, it can be used then, or it is refused.
            if let Ok(queue) = ShmQueue::<u32, B>::open(&name) {
                assert!(at == 8 || at == 9 || wrong == right, "word {at}: {wrong:x}");
                let _ = queue.try_receive();
            }
            memory.store(at, right).unwrap();
        }
    }
    assert!(matches!(ShmQueue::<u32, B>::open(&name).unwrap().try_receive(), Err(SharedError::Empty)));
}

fn handles_are_refused_after_a_fork() {
    let queue: ShmQueue<u32> = ShmQueue::create_unique("/manycore-test-XXXXXX", &SMALL).unwrap();
    queue.send(&1).unwrap();
    let semaphore: ShmSemaphore = ShmSemaphore::create_unique("/manycore-test-XXXXXX", &1).unwrap();
    let permits: ShmPermits = ShmPermits::create_unique("/manycore-test-XXXXXX", &1).unwrap();
    let mutex: ShmMutex<u32> = ShmMutex::create_unique("/manycore-test-XXXXXX", &1).unwrap();
    let names = [queue.name(), semaphore.name(), permits.name(), mutex.name()].map(ToOwned::to_owned);

    // What the parent has taken is not the child's to give back.
    let all = std::sync::Arc::new((queue, semaphore, permits, mutex));
    let for_child = std::sync::Arc::clone(&all);
    let held = (all.0.take().unwrap(), all.2.acquire().unwrap(), all.3.lock().unwrap());
    in_child(move || {
        let (queue, semaphore, permits, mutex) = &*for_child;
        let is_forked = |error: SharedError| {
            matches!(error, SharedError::Shm(ShmError::Forked { .. }) | SharedError::Lock(LockError::Forked))
        };
        assert!(is_forked(queue.try_receive().unwrap_err()));
        assert!(is_forked(queue.send(&2).unwrap_err()));
        assert!(is_forked(queue.close().unwrap_err()));
        assert!(is_forked(queue.length().unwrap_err()));
        assert!(is_forked(semaphore.try_wait().unwrap_err()));
        assert!(is_forked(semaphore.post().unwrap_err()));
        assert!(is_forked(semaphore.value().unwrap_err()));
        assert!(is_forked(permits.try_acquire().unwrap_err()));
        assert!(is_forked(permits.available().unwrap_err()));
        assert!(is_forked(mutex.try_lock().unwrap_err()));
        assert!(is_forked(mutex.get().unwrap_err()));
        assert!(is_forked(mutex.condvar(0).notify_all().unwrap_err()));
        // Opened anew, they are used as by anybody, and the parent lives.
        let queue: ShmQueue<u32> = ShmQueue::open(queue.name()).unwrap();
        assert!(matches!(queue.try_receive(), Err(SharedError::Empty)));
        let permits: ShmPermits = ShmPermits::open(permits.name()).unwrap();
        assert!(matches!(permits.try_acquire(), Err(SharedError::Empty)));
        let mutex: ShmMutex<u32> = ShmMutex::open(mutex.name()).unwrap();
        assert!(matches!(mutex.try_lock(), Err(SharedError::Lock(LockError::Busy))));
    });
    assert_eq!(held.0.finish().unwrap(), 1);
    drop((held.1, held.2));
    assert_eq!(all.2.available().unwrap(), 1);
    for name in names {
        PosixShm::unlink(&name).unwrap();
    }
}

fn there_are_so_many_users_and_no_more() {
    let name = Fresh::<PosixShm>::name();
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let wanted = u64::from(USERS) + 100;
    if limit.current.is_some_and(|current| current < wanted) {
        if limit.maximum.is_some_and(|maximum| maximum < wanted) {
            println!("not tried: this process may not have so many descriptors");
            return;
        }
        let raised = rustix::process::Rlimit { current: Some(wanted), ..limit };
        rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
    }
    let first: ShmPermits = ShmPermits::create(&name, &1).unwrap();
    let mut others: Vec<ShmPermits> = (1..USERS).map(|_| ShmPermits::open(&name).unwrap()).collect();
    match ShmPermits::<PosixShm>::open(&name) {
        Err(SharedError::Lock(LockError::TooManyUsers { max })) => assert_eq!(max, USERS),
        other => panic!("{other:?}"),
    }
    // Each is a user by itself, the last as well.
    let permit = others.last().unwrap().acquire().unwrap();
    assert!(matches!(first.try_acquire(), Err(SharedError::Empty)));
    drop(permit);
    others.pop();
    let another: ShmPermits = ShmPermits::open(&name).unwrap();
    drop(another.acquire().unwrap());
    drop(others);
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
}

fn descriptors_are_given_back() {
    let count = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = count();
    let name = Fresh::<PosixShm>::name();
    for _ in 0..10 {
        let queue: ShmQueue<u32> = ShmQueue::open_or_create(&name, &SMALL).unwrap();
        queue.send(&1).unwrap();
        queue.take().unwrap().finish().unwrap();
        assert!(ShmSemaphore::<PosixShm>::open(&name).is_err());
    }
    assert_eq!(count(), before);
}

fn another_lock_method_is_refused() {
    let name = Fresh::<PosixShm>::name();
    let mutex: ShmMutex<u32, PosixShm, Fcntl> = ShmMutex::create(&name, &3).unwrap();
    let other = ShmMutex::<u32>::open(&name);
    assert!(matches!(other, Err(SharedError::Protocol { .. })), "{other:?}");
    let locked = mutex.lock().unwrap();
    let again = name.to_owned();
    in_child(move || {
        let mutex: ShmMutex<u32, PosixShm, Fcntl> = ShmMutex::open(&again).unwrap();
        assert!(matches!(mutex.try_lock(), Err(SharedError::Lock(LockError::Busy))));
        assert_eq!(mutex.get().unwrap(), 3);
    });
    drop(locked);
    // Threads, where nobody else is.
    let name = Fresh::<Heap>::name();
    let _: ShmMutex<u32, Heap, manycore::NoLock> = ShmMutex::create(&name, &3).unwrap();
}

fn what_others_may_write_to_is_refused() {
    let name = Fresh::<PosixShm>::name();
    let semaphore: ShmSemaphore = ShmSemaphore::create(&name, &1).unwrap();
    PosixShm::open(&name, Open::Existing).unwrap().chmod(0o660).unwrap();
    let opened = ShmSemaphore::<PosixShm>::open(&name);
    assert!(matches!(opened, Err(SharedError::Shm(ShmError::WritableByOthers { .. }))), "{opened:?}");
    let shared: ShmSemaphore = SharedOptions::new().mode(0o660).open(&name).unwrap();
    shared.post().unwrap();
    assert_eq!(semaphore.value().unwrap(), 2);
}
