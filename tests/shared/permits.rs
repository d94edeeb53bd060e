//! Permits: taking, giving back, and getting back what the dead had.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use manycore::PosixShm;
use manycore::shared::{SharedError, ShmPermits};
use manycore::shm::{Memory, Open};
use manycore::spawn::{Child, Exit};
use manycore_backends::testing::shm::Fresh;

use super::{Room, Tests, child, of_processes, over_all};

pub(crate) fn all() -> Tests {
    let mut tests =
        over_all![permits_are_taken_and_given_back, so_many_at_once_and_no_more, damage_is_harmless];
    tests.extend(of_processes![permits_of_the_dead_come_back, permits_of_those_who_live_do_not]);
    tests
}

fn permits_are_taken_and_given_back<B: Room>() {
    let name = Fresh::<B>::name();
    let permits: ShmPermits<B> = ShmPermits::create(&name, &3).unwrap();
    let other: ShmPermits<B> = ShmPermits::open(&name).unwrap();
    assert_eq!((permits.total(), other.total()), (3, 3));
    let mut held = vec![permits.acquire().unwrap(), other.acquire().unwrap(), permits.try_acquire().unwrap()];
    assert_eq!(permits.available().unwrap(), 0);
    assert!(matches!(other.try_acquire(), Err(SharedError::Empty)));
    let limit = Duration::from_millis(3);
    let start = std::time::Instant::now();
    assert!(matches!(other.acquire_timeout(limit), Err(SharedError::TimedOut)));
    assert!(start.elapsed() >= limit);
    for left in (0..3).rev() {
        drop(held.swap_remove(0));
        assert_eq!(other.available().unwrap(), 3 - left);
    }
    // Any number of times around.
    for _ in 0..50 {
        let _first = permits.acquire().unwrap();
        drop(other.acquire_timeout(limit).unwrap());
    }
    assert_eq!(permits.available().unwrap(), 3);
}

fn so_many_at_once_and_no_more<B: Room>() {
    let name = Fresh::<B>::name();
    let permits: ShmPermits<B> = ShmPermits::create(&name, &2).unwrap();
    let inside = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let permits: ShmPermits<B> = ShmPermits::open(&name).unwrap();
                for _ in 0..500 {
                    let _permit = permits.acquire().unwrap();
                    assert!(inside.fetch_add(1, Ordering::SeqCst) < 2);
                    std::thread::yield_now();
                    inside.fetch_sub(1, Ordering::SeqCst);
                }
            });
        }
    });
    assert_eq!(permits.available().unwrap(), 2);
}

fn damage_is_harmless<B: Room>() {
    let name = Fresh::<B>::name();
    let permits: ShmPermits<B> = ShmPermits::create(&name, &3).unwrap();
    let object = B::open(&name, Open::Existing).unwrap();
    object.size().unwrap();
    for wrong in [u32::MAX, 1 << 30, 500] {
        object.memory().store(528, wrong).unwrap();
        (0..3).for_each(|unit| object.memory().store(544 + unit, wrong).unwrap());
        // Nobody has such numbers: they are marks of the dead.
        drop(permits.try_acquire().unwrap());
        assert_eq!(permits.available().unwrap(), 3);
    }
}

fn permits_of_the_dead_come_back() {
    let name = Fresh::<PosixShm>::name();
    let permits: ShmPermits = ShmPermits::create(&name, &3).unwrap();
    let limit = Duration::from_millis(1);
    for waits in [true, false] {
        let dead: Vec<_> = (0..3)
            .map(|_| {
                let name = name.to_owned();
                child(move || {
                    let permits: ShmPermits = ShmPermits::open(&name).unwrap();
                    let _permit = permits.acquire().unwrap();
                    std::process::abort();
                })
            })
            .collect();
        dead.into_iter().for_each(|dead| assert!(matches!(dead.wait().unwrap(), Exit::Signal { .. })));
        let held: Vec<_> =
            (0..3)
                .map(|_| {
                    if waits {
                        permits.acquire_timeout(limit).unwrap()
                    } else {
                        permits.try_acquire().unwrap()
                    }
                })
                .collect();
        assert!(matches!(permits.try_acquire(), Err(SharedError::Empty)));
        drop(held);
    }
    assert_eq!(permits.available().unwrap(), 3);
}

fn permits_of_those_who_live_do_not() {
    let name = Fresh::<PosixShm>::name();
    let permits: ShmPermits = ShmPermits::create(&name, &1).unwrap();
    let go = Fresh::<PosixShm>::name();
    let gate: manycore::ShmSemaphore = manycore::ShmSemaphore::create(&go, &0).unwrap();
    let ready = Fresh::<PosixShm>::name();
    let started: manycore::ShmSemaphore = manycore::ShmSemaphore::create(&ready, &0).unwrap();
    let names = [name.to_owned(), go.to_owned(), ready.to_owned()];
    let holder = child(move || {
        let permits: ShmPermits = ShmPermits::open(&names[0]).unwrap();
        let permit = permits.acquire().unwrap();
        manycore::ShmSemaphore::<PosixShm>::open(&names[2]).unwrap().post().unwrap();
        manycore::ShmSemaphore::<PosixShm>::open(&names[1]).unwrap().wait().unwrap();
        drop(permit);
    });
    started.wait().unwrap();
    // However often it is asked whether that one lives.
    assert!(matches!(permits.acquire_timeout(Duration::from_millis(60)), Err(SharedError::TimedOut)));
    assert!(matches!(permits.try_acquire(), Err(SharedError::Empty)));
    gate.post().unwrap();
    drop(permits.acquire().unwrap());
    assert_eq!(holder.wait().unwrap(), Exit::Code(0));
}
