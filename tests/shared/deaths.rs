//! A user may die between any two accesses to the shared words: whatever it was doing, the others find a state that
//! somebody could have made, and go on.
//!
//! A child is killed after the first, the second, .. access of what it does, until it comes to its end; each time the
//! parent looks at what is left. `Mortal` kills. (How often who waits looks depends on time; so what waits is last.)

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt::Debug;

use manycore::PosixShm;
use manycore::lock::Wait;
use manycore::shared::{Capacity, SharedError, ShmMutex, ShmPermits, ShmQueue, ShmSemaphore};
use manycore::spawn::{Child, Exit};
use manycore_backends::testing::mortal::{Mortal, die_after, live};
use manycore_backends::testing::shm::Fresh;

use super::{Tests, child, of_processes};

pub(crate) fn all() -> Tests {
    of_processes![
        while_sending,
        while_sending_the_last_time_around,
        while_sending_into_a_full_queue,
        while_receiving,
        while_receiving_behind_another,
        while_taking_and_giving_back,
        while_writing_in_place,
        while_reading_in_place,
        while_closing,
        while_burying_another,
        while_opening,
        while_creating,
        while_changing_a_value,
        while_a_value_outgrows_its_room,
        while_waiting_and_posting,
        while_acquiring_and_giving_back,
        while_taking_permits_of_the_dead,
        while_waiting_for_a_condition,
    ]
}

type Dying = Mortal<PosixShm>;

const SMALL: Capacity = Capacity { messages: 2, words: 2 };

/// Lets a child do `act` with the object that `prepare` makes, and die at each of its accesses; `judge` is given what is
/// left, and what it tells of it comes out, all that ever came. In the end the child must live, and that is the last.
fn everywhere<T: Ord + Debug>(
    prepare: impl Fn(&OsStr),
    act: fn(&OsStr),
    judge: impl Fn(&OsStr) -> T,
) -> (BTreeSet<T>, T) {
    let mut found = BTreeSet::new();
    for accesses in 0.. {
        assert!(accesses < 5000, "it never comes to an end");
        let name = Fresh::<PosixShm>::name();
        prepare(&name);
        let for_child = name.to_owned();
        let dying = child(move || {
            die_after(accesses);
            act(&for_child);
            assert!(live().is_some());
        });
        let exit = dying.wait().unwrap();
        let left = judge(&name);
        match exit {
            Exit::Signal { .. } => drop(found.insert(left)),
            Exit::Code(0) => {
                assert!(accesses > 3, "it did something");
                return (found, left);
            }
            exit => panic!("{exit:?} after {accesses} accesses"),
        }
    }
    unreachable!("a range without end")
}

fn set<T: Ord>(values: impl IntoIterator<Item = T>) -> BTreeSet<T> {
    values.into_iter().collect()
}

fn create(name: &OsStr) -> ShmQueue<u32> {
    ShmQueue::create(name, &SMALL).unwrap()
}

fn dying_queue(name: &OsStr) -> ShmQueue<u32, Dying> {
    ShmQueue::open(name).unwrap()
}

/// What is in a queue, which is as good as new after that: it works many times around, with all the room that it has.
fn drained(name: &OsStr) -> Vec<u32> {
    let queue: ShmQueue<u32> = ShmQueue::open(name).unwrap();
    let mut messages = Vec::new();
    loop {
        match queue.try_receive() {
            Ok(message) => messages.push(message),
            Err(SharedError::Empty) => break,
            Err(SharedError::Closed { .. }) => return messages,
            Err(error) => panic!("{error}"),
        }
    }
    for round in 0..5 {
        assert_eq!(queue.length().unwrap(), 0);
        queue.try_send(&round).unwrap();
        queue.try_send(&(round + 100)).unwrap();
        assert!(matches!(queue.try_send(&9), Err(SharedError::Full)));
        assert_eq!((queue.try_receive().unwrap(), queue.try_receive().unwrap()), (round, round + 100));
    }
    messages
}

fn while_sending() {
    let prepare = |name: &OsStr| create(name).send(&1).unwrap();
    let (found, after) = everywhere(prepare, |name| dying_queue(name).send(&2).unwrap(), drained);
    assert_eq!((found, after), (set([vec![1], vec![1, 2]]), vec![1, 2]));
}

fn while_sending_the_last_time_around() {
    // Cells that were used before, of another lap.
    let prepare = |name: &OsStr| {
        let queue = create(name);
        for number in 0..5 {
            queue.send(&number).unwrap();
            queue.receive().unwrap();
        }
    };
    let act = |name: &OsStr| {
        let queue = dying_queue(name);
        queue.send(&7).unwrap();
        queue.send(&8).unwrap();
    };
    let (found, after) = everywhere(prepare, act, drained);
    assert_eq!((found, after), (set([vec![], vec![7], vec![7, 8]]), vec![7, 8]));
}

fn while_sending_into_a_full_queue() {
    let prepare = |name: &OsStr| {
        let queue = create(name);
        queue.send(&1).unwrap();
        queue.send(&2).unwrap();
    };
    let act = |name: &OsStr| {
        let limit = std::time::Duration::from_millis(2);
        assert!(matches!(dying_queue(name).send_timeout(&3, limit), Err(SharedError::TimedOut)));
    };
    let (found, after) = everywhere(prepare, act, drained);
    assert_eq!((found, after), (set([vec![1, 2]]), vec![1, 2]));
}

fn while_receiving() {
    let prepare = |name: &OsStr| {
        let queue = create(name);
        queue.send(&1).unwrap();
        queue.send(&2).unwrap();
    };
    let (found, after) =
        everywhere(prepare, |name| assert_eq!(dying_queue(name).receive().unwrap(), 1), drained);
    // It comes before the other, or it was received.
    assert_eq!((found, after), (set([vec![1, 2], vec![2]]), vec![2]));
}

fn while_receiving_behind_another() {
    let prepare = |name: &OsStr| {
        let queue = create(name);
        queue.send(&1).unwrap();
        queue.send(&2).unwrap();
    };
    // Somebody in the same process has the first message, and finishes it last.
    let act = |name: &OsStr| {
        let (first, second) = (dying_queue(name), dying_queue(name));
        let taken = first.take().unwrap();
        assert_eq!(second.receive().unwrap(), 2);
        // Of two messages one is being read: it is full.
        assert!(matches!(second.try_send(&9), Err(SharedError::Full)));
        taken.finish().unwrap();
    };
    let (found, after) = everywhere(prepare, act, drained);
    assert_eq!((found, after), (set([vec![1, 2], vec![1], vec![]]), vec![]));
}

fn while_taking_and_giving_back() {
    let prepare = |name: &OsStr| create(name).send(&1).unwrap();
    let act = |name: &OsStr| {
        let queue = dying_queue(name);
        drop(queue.take().unwrap());
        drop(queue.take().unwrap());
    };
    let (found, after) = everywhere(prepare, act, drained);
    assert_eq!((found, after), (set([vec![1]]), vec![1]));
}

fn while_writing_in_place() {
    let prepare = |name: &OsStr| create(name).send(&1).unwrap();
    let act = |name: &OsStr| {
        let queue = dying_queue(name);
        let mut draft = queue.draft(Wait::Forever).unwrap();
        draft.write(0, &[2]).unwrap();
        draft.send(1).unwrap();
    };
    let (found, after) = everywhere(prepare, act, drained);
    assert_eq!((found, after), (set([vec![1], vec![1, 2]]), vec![1, 2]));
    let give_up = |name: &OsStr| drop(dying_queue(name).draft(Wait::Forever).unwrap());
    let (found, after) = everywhere(prepare, give_up, drained);
    assert_eq!((found, after), (set([vec![1]]), vec![1]));
}

fn while_reading_in_place() {
    let prepare = |name: &OsStr| {
        let queue = create(name);
        queue.send(&1).unwrap();
        queue.send(&2).unwrap();
    };
    let act = |name: &OsStr| {
        let queue = dying_queue(name);
        let borrowed = queue.borrow(Wait::Forever).unwrap();
        let mut word = [0];
        borrowed.read(0, &mut word).unwrap();
        assert_eq!(word, [1]);
        borrowed.finish().unwrap();
    };
    let (found, after) = everywhere(prepare, act, drained);
    assert_eq!((found, after), (set([vec![1, 2], vec![2]]), vec![2]));
}

fn while_closing() {
    let prepare = |name: &OsStr| create(name).send(&1).unwrap();
    let act = |name: &OsStr| {
        let queue = dying_queue(name);
        queue.close().unwrap();
        assert!(matches!(queue.send(&2), Err(SharedError::Closed { .. })));
    };
    let judge = |name: &OsStr| (ShmQueue::<u32>::open(name).unwrap().is_closed().unwrap(), drained(name));
    let (found, after) = everywhere(prepare, act, judge);
    assert_eq!((found, after), (set([(false, vec![1]), (true, vec![1])]), (true, vec![1])));
}

/// A child that dies with a message taken, and another that is being written.
fn leave_marks(name: &OsStr) {
    let name = name.to_owned();
    let dead = child(move || {
        let queue: ShmQueue<u32, Dying> = ShmQueue::open(&name).unwrap();
        let _taken = queue.take().unwrap();
        // In the middle of the message.
        die_after(7);
        queue.send(&2).unwrap();
    });
    assert!(matches!(dead.wait().unwrap(), Exit::Signal { .. }));
}

fn while_burying_another() {
    let prepare = |name: &OsStr| {
        let queue = create(name);
        queue.send(&1).unwrap();
        // While this one lives, so that who comes next does not get the number of the dead, and take its marks away at once.
        leave_marks(name);
    };
    let act = |name: &OsStr| assert_eq!(dying_queue(name).try_receive().unwrap(), 1);
    let (found, after) = everywhere(prepare, act, drained);
    assert_eq!((found, after), (set([vec![1], vec![]]), vec![]));
}

fn while_opening() {
    let prepare = |name: &OsStr| {
        create(name).send(&1).unwrap();
        leave_marks(name);
    };
    let (found, after) = everywhere(prepare, |name| drop(dying_queue(name)), drained);
    assert_eq!((found, after), (set([vec![1]]), vec![1]));
}

fn while_creating() {
    let nothing = |_: &OsStr| {};
    let act = |name: &OsStr| drop(ShmQueue::<u32, Dying>::open_or_create(name, &SMALL).unwrap());
    let judge = |name: &OsStr| {
        // Whoever opens it is told, and whoever creates it gets one.
        let opened = ShmQueue::<u32>::open(name);
        match opened {
            Ok(_) | Err(SharedError::Unfinished { .. } | SharedError::Shm(_)) => {}
            Err(error) => panic!("{error}"),
        }
        drop(ShmQueue::<u32>::open_or_create(name, &SMALL).unwrap());
        drained(name)
    };
    let (found, after) = everywhere(nothing, act, judge);
    assert_eq!((found, after), (set([vec![]]), vec![]));
    let act = |name: &OsStr| drop(ShmMutex::<Vec<u32>, Dying>::open_or_create(name, &vec![7; 9]).unwrap());
    let judge = |name: &OsStr| {
        let mutex: ShmMutex<Vec<u32>> = ShmMutex::open_or_create(name, &vec![8; 30]).unwrap();
        mutex.try_lock().unwrap().into_value()
    };
    let (found, after) = everywhere(nothing, act, judge);
    assert_eq!((found, after), (set([vec![7; 9], vec![8; 30]]), vec![7; 9]));
}

fn locked_value(name: &OsStr) -> Vec<u32> {
    let mutex: ShmMutex<Vec<u32>> = ShmMutex::open(name).unwrap();
    let value = mutex.get().unwrap();
    assert_eq!(*mutex.try_lock().unwrap(), value);
    // Both rooms are in order.
    for length in [3, 5, 40, 100] {
        mutex.set(vec![length; length as usize]).unwrap();
        assert_eq!(mutex.get().unwrap(), vec![length; length as usize]);
    }
    value
}

fn while_changing_a_value() {
    let prepare = |name: &OsStr| drop(ShmMutex::<Vec<u32>>::create(name, &vec![1; 5]).unwrap());
    let act = |name: &OsStr| {
        let mutex: ShmMutex<Vec<u32>, Dying> = ShmMutex::open(name).unwrap();
        let mut locked = mutex.lock().unwrap();
        locked.set(vec![2; 6]).unwrap();
        locked.update(|value| value.push(2)).unwrap();
        drop(locked);
        mutex.set(vec![3; 4]).unwrap();
    };
    let (found, after) = everywhere(prepare, act, locked_value);
    assert_eq!((found, after), (set([vec![1; 5], vec![2; 6], vec![2; 7], vec![3; 4]]), vec![3; 4]));
}

fn while_a_value_outgrows_its_room() {
    let prepare = |name: &OsStr| drop(ShmMutex::<Vec<u32>>::create(name, &vec![1; 5]).unwrap());
    let act = |name: &OsStr| {
        let mutex: ShmMutex<Vec<u32>, Dying> = ShmMutex::open(name).unwrap();
        mutex.set(vec![2; 60]).unwrap();
        mutex.set(vec![3; 70]).unwrap();
    };
    let (found, after) = everywhere(prepare, act, locked_value);
    assert_eq!((found, after), (set([vec![1; 5], vec![2; 60], vec![3; 70]]), vec![3; 70]));
}

fn while_waiting_and_posting() {
    let prepare = |name: &OsStr| drop(ShmSemaphore::<PosixShm>::create(name, &1).unwrap());
    let act = |name: &OsStr| {
        let semaphore: ShmSemaphore<Dying> = ShmSemaphore::open(name).unwrap();
        semaphore.wait().unwrap();
        semaphore.post().unwrap();
        semaphore.wait().unwrap();
        let limit = std::time::Duration::from_millis(2);
        assert!(matches!(semaphore.wait_timeout(limit), Err(SharedError::TimedOut)));
    };
    let judge = |name: &OsStr| {
        let semaphore: ShmSemaphore = ShmSemaphore::open(name).unwrap();
        let value = semaphore.value().unwrap();
        semaphore.post().unwrap();
        semaphore.try_wait().unwrap();
        assert_eq!(semaphore.value().unwrap(), value);
        value
    };
    let (found, after) = everywhere(prepare, act, judge);
    assert_eq!((found, after), (set([0, 1]), 0));
}

/// How many permits there are, none of which anybody has.
fn all_permits(name: &OsStr) -> usize {
    let permits: ShmPermits = ShmPermits::open(name).unwrap();
    let mut held = Vec::new();
    loop {
        match permits.try_acquire() {
            Ok(permit) => held.push(permit),
            Err(SharedError::Empty) => return held.len(),
            Err(error) => panic!("{error}"),
        }
    }
}

fn while_acquiring_and_giving_back() {
    let prepare = |name: &OsStr| drop(ShmPermits::<PosixShm>::create(name, &2).unwrap());
    let act = |name: &OsStr| {
        let permits: ShmPermits<Dying> = ShmPermits::open(name).unwrap();
        let first = permits.acquire().unwrap();
        let second = permits.acquire().unwrap();
        drop(first);
        drop(permits.acquire().unwrap());
        drop(second);
    };
    let (found, after) = everywhere(prepare, act, all_permits);
    assert_eq!((found, after), (set([2]), 2));
}

fn while_taking_permits_of_the_dead() {
    let prepare = |name: &OsStr| {
        // While this one lives, so that who comes next does not get the number of the dead.
        let _permits: ShmPermits = ShmPermits::create(name, &2).unwrap();
        let name = name.to_owned();
        let dead = child(move || {
            let permits: ShmPermits = ShmPermits::open(&name).unwrap();
            let _held = (permits.try_acquire().unwrap(), permits.try_acquire().unwrap());
            std::process::abort();
        });
        assert!(matches!(dead.wait().unwrap(), Exit::Signal { .. }));
    };
    let act = |name: &OsStr| {
        let permits: ShmPermits<Dying> = ShmPermits::open(name).unwrap();
        let _held = (permits.try_acquire().unwrap(), permits.try_acquire().unwrap());
    };
    let (found, after) = everywhere(prepare, act, all_permits);
    assert_eq!((found, after), (set([2]), 2));
}

fn while_waiting_for_a_condition() {
    let prepare = |name: &OsStr| drop(ShmMutex::<u32>::create(name, &0).unwrap());
    let act = |name: &OsStr| {
        let mutex: ShmMutex<u32, Dying> = ShmMutex::open(name).unwrap();
        let limit = std::time::Duration::from_millis(2);
        let condition = mutex.condvar(0);
        let (mut locked, came) =
            condition.wait_timeout_while(mutex.lock().unwrap(), limit, |value| *value == 0).unwrap();
        assert!(!came);
        locked.set(1).unwrap();
        condition.notify_all().unwrap();
    };
    let judge = |name: &OsStr| {
        let mutex: ShmMutex<u32> = ShmMutex::open(name).unwrap();
        let value = mutex.try_lock().unwrap().into_value();
        mutex.condvar(0).notify_one().unwrap();
        value
    };
    let (found, after) = everywhere(prepare, act, judge);
    assert_eq!((found, after), (set([0, 1]), 1));
}
