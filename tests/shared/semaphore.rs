//! Semaphores: units, waiting, limits.

use std::time::Duration;

use manycore::PosixShm;
use manycore::shared::{SharedError, ShmSemaphore};
use manycore::shm::{Memory, Open};
use manycore_backends::testing::shm::Fresh;

use super::{Room, Tests, child, of_processes, over_all};
use manycore::spawn::{Child, Exit};

pub(crate) fn all() -> Tests {
    let mut tests = over_all![units_are_taken_and_given, who_waits_is_woken, there_is_a_limit];
    tests.extend(of_processes![processes_take_turns]);
    tests
}

fn units_are_taken_and_given<B: Room>() {
    let name = Fresh::<B>::name();
    let semaphore: ShmSemaphore<B> = ShmSemaphore::create(&name, &2).unwrap();
    semaphore.wait().unwrap();
    semaphore.try_wait().unwrap();
    assert_eq!(semaphore.value().unwrap(), 0);
    assert!(matches!(semaphore.try_wait(), Err(SharedError::Empty)));
    let limit = Duration::from_millis(3);
    let start = std::time::Instant::now();
    assert!(matches!(semaphore.wait_timeout(limit), Err(SharedError::TimedOut)));
    assert!(start.elapsed() >= limit);
    semaphore.post().unwrap();
    semaphore.wait_timeout(limit).unwrap();
    assert_eq!(semaphore.value().unwrap(), 0);
}

fn who_waits_is_woken<B: Room>() {
    let name = Fresh::<B>::name();
    let semaphore: ShmSemaphore<B> = ShmSemaphore::create(&name, &0).unwrap();
    let answers: ShmSemaphore<B> = ShmSemaphore::create_unique(B::template(), &0).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..200 {
                    semaphore.wait().unwrap();
                    answers.post().unwrap();
                }
            });
        }
        for round in 0..200 {
            (0..4).for_each(|_| semaphore.post().unwrap());
            (0..4).for_each(|_| answers.wait().unwrap());
            assert_eq!(semaphore.value().unwrap(), 0, "{round}");
        }
    });
    answers.unlink().unwrap();
}

fn there_is_a_limit<B: Room>() {
    let name = Fresh::<B>::name();
    let semaphore: ShmSemaphore<B> = ShmSemaphore::create(&name, &(i32::MAX as u32)).unwrap();
    assert!(matches!(semaphore.post(), Err(SharedError::TooManyUnits(_))));
    semaphore.wait().unwrap();
    semaphore.post().unwrap();
    // Damage does not become more than it is.
    let object = B::open(&name, Open::Existing).unwrap();
    object.size().unwrap();
    object.memory().store(512, u32::MAX).unwrap();
    assert!(matches!(semaphore.post(), Err(SharedError::TooManyUnits(u32::MAX))));
    semaphore.wait().unwrap();
}

fn processes_take_turns() {
    let (ping, pong) = (Fresh::<PosixShm>::name(), Fresh::<PosixShm>::name());
    let mine: ShmSemaphore = ShmSemaphore::create(&ping, &0).unwrap();
    let theirs: ShmSemaphore = ShmSemaphore::create(&pong, &0).unwrap();
    let names = (ping.to_owned(), pong.to_owned());
    let other = child(move || {
        let ping: ShmSemaphore = ShmSemaphore::open(&names.0).unwrap();
        let pong: ShmSemaphore = ShmSemaphore::open(&names.1).unwrap();
        for _ in 0..1000 {
            ping.wait().unwrap();
            pong.post().unwrap();
        }
    });
    for _ in 0..1000 {
        mine.post().unwrap();
        theirs.wait().unwrap();
    }
    assert_eq!((mine.value().unwrap(), theirs.value().unwrap()), (0, 0));
    assert_eq!(other.wait().unwrap(), Exit::Code(0));
}
