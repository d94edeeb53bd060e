//! Mutexes: values, locking, growth, panics.

use std::ffi::OsStr;
use std::time::Duration;

use manycore::lock::LockError;
use manycore::shared::{SharedError, ShmMutex, ShmSemaphore};
use manycore::shm::{Memory, Open};
use manycore::spawn::{Child, Exit};
use manycore::{PosixShm, ShmBackend};
use manycore_backends::testing::shm::Fresh;

use super::{Room, Tests, child, of_processes, over_all};

pub(crate) fn all() -> Tests {
    let mut tests = over_all![
        values_are_set_and_got,
        values_grow_and_shrink,
        locking_excludes,
        a_panic_changes_nothing_and_unlocks,
        readers_see_whole_values,
        another_type_is_told,
        damage_is_told,
    ];
    tests.extend(of_processes![processes_count_together, rooms_are_found_by_all_processes]);
    tests
}

fn values_are_set_and_got<B: Room>() {
    let name = Fresh::<B>::name();
    let mutex: ShmMutex<(u32, Option<i64>), B> = ShmMutex::create(&name, &(1, None)).unwrap();
    let other: ShmMutex<(u32, Option<i64>), B> = ShmMutex::open(&name).unwrap();
    assert_eq!(other.get().unwrap(), (1, None));
    mutex.set((2, Some(-1))).unwrap();
    assert_eq!(other.get().unwrap(), (2, Some(-1)));
    let doubled = other.update(|(number, _)| {
        *number *= 2;
        *number
    });
    assert_eq!((doubled.unwrap(), mutex.get().unwrap()), (4, (4, Some(-1))));
    let mut locked = mutex.lock().unwrap();
    assert_eq!(*locked, (4, Some(-1)));
    locked.set((5, None)).unwrap();
    // At once, for who does not lock.
    assert_eq!(other.get().unwrap(), (5, None));
    locked.update(|(number, _)| *number += 1).unwrap();
    assert_eq!(*locked, (6, None));
    assert_eq!(locked.into_value(), (6, None));
    assert_eq!(mutex.get().unwrap(), (6, None));
}

fn values_grow_and_shrink<B: Room>() {
    let name = Fresh::<B>::name();
    let mutex: ShmMutex<Vec<u32>, B> = ShmMutex::create(&name, &vec![]).unwrap();
    let other: ShmMutex<Vec<u32>, B> = ShmMutex::open(&name).unwrap();
    for length in [0, 1, 10, 15, 16, 17, 100, 3, 5000, 40_000, 0, 40_000, 2] {
        let value: Vec<u32> = (0..length).collect();
        mutex.set(value.clone()).unwrap();
        assert_eq!(other.get().unwrap(), value);
        assert_eq!(*other.lock().unwrap(), value);
    }
    // What changes between lengths again and again stays within the room it has.
    let object = B::open(&name, Open::Existing).unwrap();
    let size_after_changes = || {
        for round in 0..100 {
            mutex.set((0..(round * 7919) % 40_000).collect()).unwrap();
        }
        object.size().unwrap()
    };
    assert_eq!(size_after_changes(), size_after_changes());
}

fn locking_excludes<B: Room>() {
    let name = Fresh::<B>::name();
    let mutex: ShmMutex<(u32, u32), B> = ShmMutex::create(&name, &(0, 0)).unwrap();
    let locked = mutex.lock().unwrap();
    assert!(matches!(mutex.lock(), Err(SharedError::Lock(LockError::LockedByCaller))));
    let limit = Duration::from_millis(3);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            assert!(matches!(mutex.try_lock(), Err(SharedError::Lock(LockError::Busy))));
            assert!(matches!(mutex.lock_timeout(limit), Err(SharedError::Lock(LockError::TimedOut))));
            assert_eq!(mutex.get().unwrap(), (0, 0));
        });
    });
    drop(locked);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mutex: ShmMutex<(u32, u32), B> = ShmMutex::open(&name).unwrap();
                for _ in 0..1000 {
                    let mut locked = mutex.lock().unwrap();
                    let (count, twice) = *locked;
                    locked.set((count + 1, twice + 2)).unwrap();
                }
            });
        }
    });
    assert_eq!(mutex.get().unwrap(), (3000, 6000));
}

fn a_panic_changes_nothing_and_unlocks<B: Room>() {
    let name = Fresh::<B>::name();
    let mutex: ShmMutex<u32, B> = ShmMutex::create(&name, &7).unwrap();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        mutex.update(|value| {
            *value = 8;
            std::panic::resume_unwind(Box::new("in the middle"));
        })
    }));
    assert!(panicked.is_err());
    let mut locked = mutex.try_lock().unwrap();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        locked.update(|value| {
            *value = 9;
            std::panic::resume_unwind(Box::new("in the middle"));
        })
    }));
    assert!(panicked.is_err());
    assert_eq!(*locked, 7, "a guard shows what the mutex has");
    locked.update(|value| *value += 1).unwrap();
    drop(locked);
    assert_eq!(mutex.try_lock().unwrap().into_value(), 8);
}

fn readers_see_whole_values<B: Room>() {
    let name = Fresh::<B>::name();
    let mutex: ShmMutex<Vec<u32>, B> = ShmMutex::create(&name, &vec![0; 3]).unwrap();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for round in 0..3000u32 {
                mutex.set(vec![round; 3 + (round % 50) as usize]).unwrap();
            }
        });
        let mut last = 0;
        while !writer.is_finished() {
            let value = mutex.get().unwrap();
            assert!(value.iter().all(|number| *number == value[0]), "{value:?}");
            assert!(value.len() == 3 + (value[0] % 50) as usize && value[0] >= last);
            last = value[0];
        }
        writer.join().unwrap();
    });
}

fn another_type_is_told<B: Room>() {
    let name = Fresh::<B>::name();
    let mutex: ShmMutex<u32, B> = ShmMutex::create(&name, &7).unwrap();
    let other: ShmMutex<(u32, u32), B> = ShmMutex::open(&name).unwrap();
    assert!(matches!(other.get(), Err(SharedError::Codec(_))));
    assert!(matches!(other.lock(), Err(SharedError::Codec(_))));
    // Nobody has it locked because of that.
    assert_eq!(mutex.try_lock().unwrap().into_value(), 7);
}

fn damage_is_told<B: Room>() {
    let name = Fresh::<B>::name();
    let mutex: ShmMutex<Vec<u32>, B> = ShmMutex::create(&name, &vec![7; 5]).unwrap();
    let object = B::open(&name, Open::Existing).unwrap();
    object.size().unwrap();
    let memory = object.memory();
    let mut image = vec![0; memory.words()];
    memory.read(0, &mut image).unwrap();
    let restore = || memory.write(512, &image[512..]).unwrap();
    for at in (512..518).chain(656..660) {
        for wrong in (0..32).map(|bit| image[at] ^ 1 << bit).chain([0, u32::MAX]) {
            memory.store(at, wrong).unwrap();
            // Any value, or an error; nothing hangs, and nothing is enormous.
            if let Ok(value) = mutex.get() {
                assert!(value.len() < 100);
            }
            // Not what would make the object as long as that.
            if !(514..518).contains(&at) {
                let _ = mutex.set(vec![8; 6]);
            }
            restore();
        }
    }
    assert_eq!(mutex.get().unwrap(), [7; 5]);
}

fn processes_count_together() {
    let name = Fresh::<PosixShm>::name();
    let mutex: ShmMutex<u64> = ShmMutex::create(&name, &0).unwrap();
    let children: Vec<_> = (0..3)
        .map(|_| {
            let name = name.to_owned();
            child(move || {
                let mutex: ShmMutex<u64> = ShmMutex::open(&name).unwrap();
                (0..1000).for_each(|_| mutex.update(|count| *count += 1).unwrap());
            })
        })
        .collect();
    children.into_iter().for_each(|child| assert_eq!(child.wait().unwrap(), Exit::Code(0)));
    assert_eq!(mutex.get().unwrap(), 3000);
}

fn rooms_are_found_by_all_processes() {
    const PROCESSES: usize = 3;
    let name = Fresh::<PosixShm>::name();
    let mutex: ShmMutex<Vec<u32>> = ShmMutex::create(&name, &vec![]).unwrap();
    let turns = [(); PROCESSES].map(|()| Fresh::<PosixShm>::name());
    let turn_of = |turn: &OsStr, units: u32| ShmSemaphore::<PosixShm>::create(turn, &units).unwrap();
    let gates: Vec<_> =
        turns.iter().enumerate().map(|(number, turn)| turn_of(turn, u32::from(number == 0))).collect();
    let children: Vec<_> = (0..PROCESSES)
        .map(|number| {
            let (name, turns) = (name.to_owned(), turns.each_ref().map(|turn| turn.to_os_string()));
            child(move || {
                let mutex: ShmMutex<Vec<u32>> = ShmMutex::open(name).unwrap();
                let [own, next]: [ShmSemaphore; 2] =
                    [number, (number + 1) % PROCESSES].map(|turn| ShmSemaphore::open(&turns[turn]).unwrap());
                for round in 0..20 {
                    own.wait().unwrap();
                    // One room grows, in the second round: by then all have it open.
                    mutex.set(vec![round; if round == 1 && number == 0 { 40 } else { 3 }]).unwrap();
                    next.post().unwrap();
                }
            })
        })
        .collect();
    children.into_iter().for_each(|child| assert_eq!(child.wait().unwrap(), Exit::Code(0)));
    drop(gates);
    assert_eq!(mutex.get().unwrap(), [19; 3]);
    // The object is as long as that one room made it.
    let (other, grown) = (Fresh::<PosixShm>::name(), vec![0; 40]);
    let same: ShmMutex<Vec<u32>> = ShmMutex::create(&other, &vec![]).unwrap();
    same.set(grown).unwrap();
    let size = |name: &OsStr| PosixShm::open(name, Open::Existing).unwrap().size().unwrap();
    assert_eq!(size(&name), size(&other));
}
