//! Conditions: waiting and notifying.

use std::time::Duration;

use manycore::PosixShm;
use manycore::lock::LockError;
use manycore::shared::{SharedError, ShmMutex};
use manycore::spawn::{Child, Exit};
use manycore_backends::testing::shm::Fresh;

use super::{Room, Tests, child, of_processes, over_all};

pub(crate) fn all() -> Tests {
    let mut tests = over_all![
        a_bounded_buffer_of_two_conditions,
        all_are_woken,
        a_limit_is_kept,
        the_guard_of_another_mutex_panics,
    ];
    tests.extend(of_processes![processes_wait_for_each_other, who_dies_before_notifying_holds_up_nobody]);
    tests
}

fn a_bounded_buffer_of_two_conditions<B: Room>() {
    const ROOM: usize = 3;
    let name = Fresh::<B>::name();
    let buffer: ShmMutex<Vec<u32>, B> = ShmMutex::create(&name, &vec![]).unwrap();
    let (not_full, not_empty) = (buffer.condvar(0), buffer.condvar(7));
    let sum: u32 = std::thread::scope(|scope| {
        for part in 0..2 {
            let (buffer, not_full, not_empty) = (&buffer, &not_full, &not_empty);
            scope.spawn(move || {
                for number in 0..500 {
                    let locked = buffer.lock().unwrap();
                    let mut locked = not_full.wait_while(locked, |numbers| numbers.len() == ROOM).unwrap();
                    locked.update(|numbers| numbers.push(2 * number + part)).unwrap();
                    drop(locked);
                    not_empty.notify_one().unwrap();
                }
            });
        }
        let takers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut sum = 0;
                    for _ in 0..500 {
                        let locked = buffer.lock().unwrap();
                        let mut locked = not_empty.wait_while(locked, Vec::is_empty).unwrap();
                        sum += locked.update(|numbers| numbers.remove(0)).unwrap();
                        not_full.notify_one().unwrap();
                    }
                    sum
                })
            })
            .collect();
        takers.into_iter().map(|taker| taker.join().unwrap()).sum()
    });
    assert_eq!(sum, (0..1000).sum());
    assert!(buffer.get().unwrap().is_empty());
}

fn all_are_woken<B: Room>() {
    let name = Fresh::<B>::name();
    let started: ShmMutex<(u32, bool), B> = ShmMutex::create(&name, &(0, false)).unwrap();
    let condition = started.condvar(1);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut locked = started.lock().unwrap();
                locked.update(|(count, _)| *count += 1).unwrap();
                drop(condition.wait_while(locked, |(_, go)| !go).unwrap());
            });
        }
        while started.get().unwrap().0 < 4 {
            std::thread::yield_now();
        }
        started.update(|(_, go)| *go = true).unwrap();
        condition.notify_all().unwrap();
    });
}

fn a_limit_is_kept<B: Room>() {
    let name = Fresh::<B>::name();
    let mutex: ShmMutex<bool, B> = ShmMutex::create(&name, &false).unwrap();
    let limit = Duration::from_millis(90);
    let start = std::time::Instant::now();
    let (locked, came) =
        mutex.condvar(0).wait_timeout_while(mutex.lock().unwrap(), limit, |value| !value).unwrap();
    assert!(!came && start.elapsed() >= limit);
    // It is locked again.
    assert!(matches!(mutex.lock(), Err(SharedError::Lock(LockError::LockedByCaller))));
    let (locked, came) = mutex.condvar(0).wait_timeout_while(locked, limit, |value| *value).unwrap();
    assert!(came && !*locked);
    drop(locked);
    let waited = mutex.condvar(0).wait(mutex.lock().unwrap()).unwrap();
    assert!(!*waited, "it returns early rather than never");
}

fn the_guard_of_another_mutex_panics<B: Room>() {
    let (name, other) = (Fresh::<B>::name(), Fresh::<B>::name());
    let mutex: ShmMutex<u32, B> = ShmMutex::create(&name, &0).unwrap();
    let other: ShmMutex<u32, B> = ShmMutex::create(&other, &0).unwrap();
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        drop(mutex.condvar(0).wait(other.lock().unwrap()));
    }));
    assert!(caught.is_err());
    assert!(other.try_lock().is_ok());
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| mutex.condvar(8))).is_err());
}

fn processes_wait_for_each_other() {
    let name = Fresh::<PosixShm>::name();
    let turn: ShmMutex<u32> = ShmMutex::create(&name, &0).unwrap();
    let for_child = name.to_owned();
    let other = child(move || {
        let turn: ShmMutex<u32> = ShmMutex::open(&for_child).unwrap();
        take_turns(&turn, 1);
    });
    take_turns(&turn, 0);
    assert_eq!(other.wait().unwrap(), Exit::Code(0));
    assert_eq!(turn.get().unwrap(), 1000);
}

fn take_turns(turn: &ShmMutex<u32>, parity: u32) {
    let changed = turn.condvar(0);
    for _ in 0..500 {
        let mut locked = changed.wait_while(turn.lock().unwrap(), |turn| *turn % 2 != parity).unwrap();
        locked.update(|turn| *turn += 1).unwrap();
        drop(locked);
        changed.notify_one().unwrap();
    }
}

fn who_dies_before_notifying_holds_up_nobody() {
    let name = Fresh::<PosixShm>::name();
    let mutex: ShmMutex<u32> = ShmMutex::create(&name, &0).unwrap();
    let for_child = name.to_owned();
    let dying = child(move || {
        let mutex: ShmMutex<u32> = ShmMutex::open(&for_child).unwrap();
        let mut locked = mutex.lock().unwrap();
        locked.set(1).unwrap();
        std::process::abort();
    });
    let locked = mutex.condvar(0).wait_while(mutex.lock().unwrap(), |value| *value == 0).unwrap();
    assert_eq!(locked.into_value(), 1);
    assert!(matches!(dying.wait().unwrap(), Exit::Signal { .. }));
}
