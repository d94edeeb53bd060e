//! Laws that need several users at once: upgrading, deaths, deadlocks, fairness.

use std::os::fd::AsFd;
use std::time::Duration;

use super::agent::{Agent, BUSY, DEADLOCK, Home, OK, Order, TIMED_OUT};
use super::object;
use crate::lock::{Guard, LockError, LockMethod, Mode, Wait};
use crate::shm::{Memory, Open};
use crate::spawn::{Child, Exit, Fork};
use crate::sync::global::{AtomicU32, Ordering};
use crate::testing::TestCase;
use crate::testing::shm::{Fresh, Subject};

/// Laws of threads.
pub(super) fn of_threads<B: Subject, L: LockMethod<B>>() -> Vec<TestCase> {
    vec![
        ("an_upgrade_waits_for_readers_in_threads", an_upgrade_waits_for_readers::<B, L, THREAD>),
        ("of_two_upgrades_in_threads_one_is_refused", of_two_upgrades_one_is_refused::<B, L, THREAD>),
        ("a_downgrade_lets_readers_in", a_downgrade_lets_readers_in::<B, L, THREAD>),
        ("upgrades_that_are_not_possible_are_refused", upgrades_that_are_not_possible_are_refused::<B, L>),
        ("a_cycle_of_two_threads_is_a_deadlock", a_cycle_is_a_deadlock::<B, L, 2, 0>),
        ("a_cycle_of_three_threads_is_a_deadlock", a_cycle_is_a_deadlock::<B, L, 3, 0>),
        ("waiting_in_a_row_is_no_deadlock", waiting_in_a_row_is_no_deadlock::<B, L, THREAD>),
        ("threads_come_and_go", threads_come_and_go::<B, L>),
        ("nobody_sees_two_writers", nobody_sees_two_writers::<B, L>),
    ]
}

/// Laws of processes.
pub(super) fn of_processes<B: Subject, L: LockMethod<B>>() -> Vec<TestCase> {
    vec![
        ("an_upgrade_waits_for_readers_in_processes", an_upgrade_waits_for_readers::<B, L, PROCESS>),
        ("a_downgrade_lets_readers_of_processes_in", a_downgrade_lets_readers_in::<B, L, PROCESS>),
        ("a_dead_reader_is_counted_out", a_dead_reader_is_counted_out::<B, L>),
        ("a_dead_writer_is_followed_by_whoever_waits", a_dead_writer_is_followed::<B, L>),
        ("the_death_of_a_waiter_is_harmless", the_death_of_a_waiter_is_harmless::<B, L>),
        ("the_death_of_who_upgrades_is_harmless", the_death_of_who_upgrades_is_harmless::<B, L>),
        ("increments_by_processes_are_not_lost", increments_by_processes_are_not_lost::<B, L>),
        ("who_is_stopped_keeps_the_lock", who_is_stopped_keeps_the_lock::<B, L>),
    ]
}

/// Law 7 between processes, for methods that keep it.
pub fn of_cycles<B: Subject, L: LockMethod<B>>() -> Vec<TestCase> {
    vec![
        ("a_cycle_of_two_processes_is_a_deadlock", a_cycle_is_a_deadlock::<B, L, 0, 2>),
        ("a_cycle_of_three_processes_is_a_deadlock", a_cycle_is_a_deadlock::<B, L, 0, 3>),
        ("of_two_upgrades_in_processes_one_is_refused", of_two_upgrades_one_is_refused::<B, L, PROCESS>),
        ("waiting_in_a_row_of_processes_is_no_deadlock", waiting_in_a_row_is_no_deadlock::<B, L, PROCESS>),
    ]
}

/// For methods that see threads of different processes: law 7 for mixtures, and law 11 between processes.
pub fn of_threads_of_processes<B: Subject, L: LockMethod<B>>() -> Vec<TestCase> {
    vec![
        ("a_cycle_of_a_thread_and_a_process_is_a_deadlock", a_cycle_is_a_deadlock::<B, L, 1, 1>),
        ("a_cycle_of_two_threads_and_a_process_is_a_deadlock", a_cycle_is_a_deadlock::<B, L, 2, 1>),
        ("a_cycle_with_readers_is_a_deadlock", a_cycle_with_readers_is_a_deadlock::<B, L>),
        ("busy_processes_starve_nobody", busy_processes_starve_nobody::<B, L>),
        ("who_has_waited_for_long_and_vanishes_keeps_nobody_out", a_vanished_claim_keeps_nobody_out::<B, L>),
    ]
}

/// Law 6, for methods that keep it also when the user closes the file himself.
pub fn closing_the_file_does_not_release<B: Subject + AsFd, L: LockMethod<B>>() {
    use std::os::fd::AsRawFd;
    let (name, object, method) = object::<B, L>();
    let other = Agent::start::<B, L>(Home::Process, &[&name]);
    for mode in [Mode::Read, Mode::Write] {
        let guard = Guard::lock(&method, &object, mode, Wait::Forever).unwrap();
        drop(std::fs::File::open(format!("/proc/self/fd/{}", object.as_fd().as_raw_fd())).unwrap());
        // So long that whoever waits asks whether the holder is alive.
        assert_eq!(
            other.ask(Order::Lock(Mode::Write, Wait::AtMost(Duration::from_millis(50))), 0),
            TIMED_OUT
        );
        assert_eq!(other.can(Mode::Read, 0), mode == Mode::Read);
        drop(guard);
        assert!(other.can(Mode::Write, 0));
    }
}

const THREAD: bool = true;
const PROCESS: bool = false;

fn agents<B: Subject, L: LockMethod<B>, const COUNT: usize>(
    thread: bool,
    names: &[&Fresh<B>],
) -> [Agent; COUNT] {
    let home = if thread { Home::Thread } else { Home::Process };
    [(); COUNT].map(|()| Agent::start::<B, L>(home, names))
}

const WRITE: Order = Order::Lock(Mode::Write, Wait::Forever);
const UPGRADE: Order = Order::Upgrade(Wait::Forever);

/// Law 10.
fn an_upgrade_waits_for_readers<B: Subject, L: LockMethod<B>, const THREAD: bool>() {
    let (name, ..) = object::<B, L>();
    let [one, reader, other] = agents::<B, L, 3>(THREAD, &[&name]);
    one.read(0);
    reader.read(0);
    assert_eq!(one.ask(Order::Upgrade(Wait::Try), 0), BUSY);
    assert_eq!(one.ask(Order::Upgrade(Wait::AtMost(Duration::from_millis(20))), 0), TIMED_OUT);
    // It reads as before, and so does the other.
    assert!(other.can(Mode::Read, 0) && !other.can(Mode::Write, 0));
    one.tell(UPGRADE, 0);
    reader.unlock(0);
    assert_eq!(one.answer(), OK);
    assert!(!other.can(Mode::Read, 0));
    one.unlock(0);
    assert!(other.can(Mode::Write, 0));
    // Alone, at once.
    one.read(0);
    assert_eq!(one.ask(Order::Upgrade(Wait::Try), 0), OK);
    assert!(!other.can(Mode::Read, 0));
    one.unlock(0);
    assert!(other.can(Mode::Write, 0));
}

/// Law 10.
fn of_two_upgrades_one_is_refused<B: Subject, L: LockMethod<B>, const THREAD: bool>() {
    let (name, ..) = object::<B, L>();
    let [one, two, other] = agents::<B, L, 3>(THREAD, &[&name]);
    for _ in 0..10 {
        one.read(0);
        two.read(0);
        one.tell(UPGRADE, 0);
        two.tell(UPGRADE, 0);
        // One is refused, and reads on until it gives way.
        let refused = first_refused(&[&one, &two]);
        let (loser, winner) = if refused == 0 { (&one, &two) } else { (&two, &one) };
        assert!(!other.can(Mode::Write, 0));
        loser.unlock(0);
        assert_eq!(winner.answer(), OK);
        assert!(!other.can(Mode::Read, 0));
        winner.unlock(0);
    }
    assert!(other.can(Mode::Write, 0));
}

/// Who of them answers first, which must be `Deadlock`.
fn first_refused(agents: &[&Agent]) -> usize {
    let descriptors: Vec<_> = agents.iter().map(|agent| agent.answers()).collect();
    let mut cells: Vec<_> =
        descriptors.iter().map(|fd| rustix::event::PollFd::new(fd, rustix::event::PollFlags::IN)).collect();
    rustix::io::retry_on_intr(|| rustix::event::poll(&mut cells, None)).unwrap();
    let first = cells.iter().position(|cell| !cell.revents().is_empty()).unwrap();
    assert_eq!(char::from(agents[first].answer()), char::from(DEADLOCK));
    first
}

/// Law 10.
fn a_downgrade_lets_readers_in<B: Subject, L: LockMethod<B>, const THREAD: bool>() {
    let (name, ..) = object::<B, L>();
    let [one, reader] = agents::<B, L, 2>(THREAD, &[&name]);
    one.write(0);
    reader.tell(Order::Lock(Mode::Read, Wait::Forever), 0);
    assert_eq!(one.ask(Order::Downgrade, 0), OK);
    assert_eq!(reader.answer(), OK);
    reader.unlock(0);
    assert!(!reader.can(Mode::Write, 0));
    one.unlock(0);
    assert!(reader.can(Mode::Write, 0));
}

/// Law 10.
pub(super) fn upgrades_that_are_not_possible_are_refused<B: Subject, L: LockMethod<B>>() {
    let (_name, object, method) = object::<B, L>();
    let upgrade = || method.upgrade(&object, Wait::Forever);
    assert!(matches!(upgrade(), Err(LockError::NotHeld)));
    assert!(matches!(method.downgrade(&object), Err(LockError::NotHeld)));
    let mut guard = Guard::lock(&method, &object, Mode::Read, Wait::Forever).unwrap();
    assert!(matches!(method.downgrade(&object), Err(LockError::NotHeld)));
    let again = Guard::lock(&method, &object, Mode::Read, Wait::Forever).unwrap();
    assert!(matches!(upgrade(), Err(LockError::LockedByCaller)));
    drop(again);
    guard.upgrade(Wait::Forever).unwrap();
    assert!(matches!(upgrade(), Err(LockError::LockedByCaller)));
    guard.downgrade().unwrap();
    guard.upgrade(Wait::Try).unwrap();
    drop(guard);
    assert!(matches!(method.unlock(&object), Err(LockError::NotHeld)));
}

/// Law 7: each holds an object and wants that of the next.
fn a_cycle_is_a_deadlock<B: Subject, L: LockMethod<B>, const THREADS: usize, const PROCESSES: usize>() {
    let count = THREADS + PROCESSES;
    let names: Vec<Fresh<B>> = (0..count).map(|_| object::<B, L>().0).collect();
    let names: Vec<&Fresh<B>> = names.iter().collect();
    // Processes first: they are forked.
    let processes = agents::<B, L, PROCESSES>(PROCESS, &names);
    let threads = agents::<B, L, THREADS>(THREAD, &names);
    let agents: Vec<&Agent> = processes.iter().chain(&threads).collect();
    for turn in 0..3 {
        for (object, agent) in agents.iter().enumerate() {
            agent.write(object);
        }
        for number in 0..count {
            let number = (number + turn) % count;
            agents[number].tell(WRITE, (number + 1) % count);
        }
        let refused = first_refused(&agents);
        // It gives way, and then the others get what they want, one after the other.
        agents[refused].unlock(refused);
        for back in 1..count {
            let number = (refused + count - back) % count;
            assert_eq!(agents[number].answer(), OK);
            agents[number].unlock((number + 1) % count);
            agents[number].unlock(number);
        }
    }
}

/// Law 7: readers wait for writers and keep out others.
fn a_cycle_with_readers_is_a_deadlock<B: Subject, L: LockMethod<B>>() {
    let names = [object::<B, L>().0, object::<B, L>().0];
    let [one, two, three] = agents::<B, L, 3>(PROCESS, &[&names[0], &names[1]]);
    one.read(0);
    three.read(0);
    two.write(1);
    // The writer waits for the readers of the first, of whom one waits for the second.
    two.tell(WRITE, 0);
    one.tell(Order::Lock(Mode::Read, Wait::Forever), 1);
    if first_refused(&[&one, &two]) == 0 {
        one.unlock(0);
        three.unlock(0);
        assert_eq!(two.answer(), OK);
        two.unlock(0);
        two.unlock(1);
    } else {
        two.unlock(1);
        assert_eq!(one.answer(), OK);
        one.unlock(1);
        one.unlock(0);
        three.unlock(0);
    }
    assert!(three.can(Mode::Write, 0) && three.can(Mode::Write, 1));
}

/// Law 7: nobody is refused without reason.
fn waiting_in_a_row_is_no_deadlock<B: Subject, L: LockMethod<B>, const THREAD: bool>() {
    let names = [object::<B, L>().0, object::<B, L>().0, object::<B, L>().0];
    let [one, two, three] = agents::<B, L, 3>(THREAD, &[&names[0], &names[1], &names[2]]);
    one.write(0);
    two.write(1);
    three.write(2);
    two.tell(WRITE, 0);
    three.tell(Order::Lock(Mode::Write, Wait::AtMost(Duration::from_millis(300))), 1);
    assert_eq!(three.answer(), TIMED_OUT);
    one.unlock(0);
    assert_eq!(two.answer(), OK);
    for object in [0, 1] {
        two.unlock(object);
    }
    three.unlock(2);
}

/// Whoever ends gives back what it needed to take part.
fn threads_come_and_go<B: Subject, L: LockMethod<B>>() {
    let (_name, object, method) = object::<B, L>();
    for _ in 0..300 {
        std::thread::scope(|scope| {
            for mode in [Mode::Read, Mode::Write, Mode::Read, Mode::Write] {
                let (object, method) = (&object, &method);
                scope.spawn(move || drop(Guard::lock(method, object, mode, Wait::Forever).unwrap()));
            }
        });
    }
}

/// Laws 1, 2, 4 and 10, all at once.
fn nobody_sees_two_writers<B: Subject, L: LockMethod<B>>() {
    let (name, ..) = object::<B, L>();
    let (readers, writers) = (AtomicU32::new(0), AtomicU32::new(0));
    let work = |seed: u32| {
        let object = B::open(&name, Open::Existing).unwrap();
        let method = L::attach(&object).unwrap();
        let reading = || {
            readers.fetch_add(1, Ordering::SeqCst);
            assert_eq!(writers.load(Ordering::SeqCst), 0);
            readers.fetch_sub(1, Ordering::SeqCst);
        };
        let writing = || {
            assert_eq!(writers.fetch_add(1, Ordering::SeqCst), 0);
            assert_eq!(readers.load(Ordering::SeqCst), 0);
            writers.fetch_sub(1, Ordering::SeqCst);
        };
        let mut random = seed;
        for _ in 0..400 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let wait = match random >> 28 & 3 {
                0 => Wait::Try,
                1 => Wait::AtMost(Duration::from_micros(u64::from(random >> 16 & 255))),
                _ => Wait::Forever,
            };
            let mode = if random >> 30 == 0 { Mode::Write } else { Mode::Read };
            let Ok(mut guard) = Guard::lock(&method, &object, mode, wait) else {
                assert!(wait != Wait::Forever);
                continue;
            };
            match mode {
                Mode::Write => {
                    writing();
                    if random >> 27 & 1 == 0 {
                        guard.downgrade().unwrap();
                        reading();
                    }
                }
                Mode::Read => {
                    reading();
                    if random >> 25 & 7 == 0 && guard.upgrade(wait).is_ok() {
                        writing();
                    }
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for seed in 1..5 {
            let work = &work;
            scope.spawn(move || work(seed * 7919));
        }
    });
    assert!(super::another_thread_can_lock::<B, L>(&name, Mode::Write));
}

/// Law 5.
fn a_dead_reader_is_counted_out<B: Subject, L: LockMethod<B>>() {
    let (name, object, method) = object::<B, L>();
    let [dying, living] = agents::<B, L, 2>(PROCESS, &[&name]);
    dying.read(0);
    living.read(0);
    assert!(!living_can_write(&method, &object));
    dying.kill();
    assert!(!living_can_write(&method, &object), "one reads still");
    living.unlock(0);
    assert!(living_can_write(&method, &object));
}

fn living_can_write<B: Subject, L: LockMethod<B>>(method: &L, object: &B) -> bool {
    match Guard::lock(method, object, Mode::Write, Wait::Try) {
        Ok(_) => true,
        Err(LockError::Busy) => false,
        Err(error) => panic!("{error}"),
    }
}

/// Law 5.
fn a_dead_writer_is_followed<B: Subject, L: LockMethod<B>>() {
    for mode in [Mode::Read, Mode::Write] {
        for wait in [Wait::Forever, Wait::AtMost(Duration::from_secs(3600))] {
            let (name, ..) = object::<B, L>();
            let [dying, waiting] = agents::<B, L, 2>(PROCESS, &[&name]);
            dying.write(0);
            waiting.tell(Order::Lock(mode, wait), 0);
            waiting.wait_until_asleep();
            dying.kill();
            assert_eq!(waiting.answer(), OK);
            waiting.unlock(0);
        }
    }
}

/// Law 5.
fn the_death_of_a_waiter_is_harmless<B: Subject, L: LockMethod<B>>() {
    for held in [Mode::Read, Mode::Write] {
        for wanted in
            [Mode::Read, Mode::Write].into_iter().filter(|wanted| (held, *wanted) != (Mode::Read, Mode::Read))
        {
            let (name, ..) = object::<B, L>();
            let [holder, dying, waiting] = agents::<B, L, 3>(PROCESS, &[&name]);
            assert_eq!(holder.ask(Order::Lock(held, Wait::Forever), 0), OK);
            dying.tell(Order::Lock(wanted, Wait::Forever), 0);
            dying.wait_until_asleep();
            waiting.tell(Order::Lock(Mode::Write, Wait::Forever), 0);
            waiting.wait_until_asleep();
            dying.kill();
            holder.unlock(0);
            assert_eq!(waiting.answer(), OK);
            assert!(!holder.can(Mode::Read, 0));
            waiting.unlock(0);
            assert!(holder.can(Mode::Write, 0));
        }
    }
}

/// Law 5.
fn the_death_of_who_upgrades_is_harmless<B: Subject, L: LockMethod<B>>() {
    let (name, ..) = object::<B, L>();
    let [reader, dying, other] = agents::<B, L, 3>(PROCESS, &[&name]);
    reader.read(0);
    dying.read(0);
    dying.tell(UPGRADE, 0);
    dying.wait_until_asleep();
    dying.kill();
    reader.unlock(0);
    other.write(0);
    other.unlock(0);
    assert!(reader.can(Mode::Write, 0));
}

/// Law 1, under load.
fn increments_by_processes_are_not_lost<B: Subject, L: LockMethod<B>>() {
    const EACH: u32 = 1000;
    let (name, object, _method) = object::<B, L>();
    let children: Vec<_> = (0..4)
        .map(|_| {
            let name = name.to_os_string();
            let run = move || {
                let object = B::open(&name, Open::Existing).unwrap();
                let method = L::attach(&object).unwrap();
                for _ in 0..EACH {
                    let _guard = Guard::lock(&method, &object, Mode::Write, Wait::Forever).unwrap();
                    let value = object.memory().load(0).unwrap();
                    object.memory().store(0, value + 1).unwrap();
                }
                0
            };
            Fork.fork(&[], run).unwrap()
        })
        .collect();
    for child in children {
        assert_eq!(child.wait().unwrap(), Exit::Code(0));
    }
    assert_eq!(object.memory().load(0), Ok(4 * EACH));
}

/// Law 5, the other way round: who does not run is not dead.
fn who_is_stopped_keeps_the_lock<B: Subject, L: LockMethod<B>>() {
    const SIGSTOP: i32 = 19;
    const SIGCONT: i32 = 18;
    let (name, ..) = object::<B, L>();
    let [stopped, other] = agents::<B, L, 2>(PROCESS, &[&name]);
    for mode in [Mode::Read, Mode::Write] {
        assert_eq!(stopped.ask(Order::Lock(mode, Wait::Forever), 0), OK);
        stopped.signal(SIGSTOP);
        assert_eq!(
            other.ask(Order::Lock(Mode::Write, Wait::AtMost(Duration::from_millis(60))), 0),
            TIMED_OUT
        );
        stopped.signal(SIGCONT);
        stopped.unlock(0);
        assert!(other.can(Mode::Write, 0));
    }
    // Who is stopped while it waits holds up nobody.
    for mode in [Mode::Read, Mode::Write] {
        let waiting = Agent::start::<B, L>(Home::Process, &[&name]);
        other.write(0);
        waiting.tell(Order::Lock(mode, Wait::Forever), 0);
        waiting.wait_until_asleep();
        waiting.signal(SIGSTOP);
        other.unlock(0);
        // (A lock that the system hands over to who waits is that one's, stopped or not.)
        let _ = other.ask(Order::Lock(Mode::Write, Wait::AtMost(Duration::from_millis(60))), 0) == OK && {
            other.unlock(0);
            true
        };
        waiting.signal(SIGCONT);
        assert_eq!(waiting.answer(), OK);
        waiting.unlock(0);
    }
}

/// Laws 5 and 11: somebody has waited so long that the lock is kept for him, and does not come.
fn a_vanished_claim_keeps_nobody_out<B: Subject, L: LockMethod<B>>() {
    const SIGSTOP: i32 = 19;
    for stopped in [false, true] {
        for mode in [Mode::Read, Mode::Write] {
            let (name, object, method) = object::<B, L>();
            let [holder, waiting] = agents::<B, L, 2>(PROCESS, &[&name]);
            holder.write(0);
            waiting.tell(Order::Lock(mode, Wait::Forever), 0);
            waiting.wait_until_asleep();
            // So long that it has slept more than once.
            let beside = Agent::start::<B, L>(Home::Process, &[&name]);
            assert_eq!(beside.ask(Order::Lock(mode, Wait::AtMost(Duration::from_millis(40))), 0), TIMED_OUT);
            if stopped {
                waiting.signal(SIGSTOP);
            } else {
                waiting.kill();
            }
            holder.unlock(0);
            // Those who never wait come in, too: at once, if the other is dead.
            while !living_can_write(&method, &object) {
                assert!(stopped, "the dead keep a lock");
                std::thread::yield_now();
            }
            if stopped {
                waiting.kill();
            }
        }
    }
}

/// Law 11 between processes: some take the lock again and again, and one waits. (The test does not end if that one
/// starves.)
fn busy_processes_starve_nobody<B: Subject, L: LockMethod<B>>() {
    for (busy, patient) in [(Mode::Write, Mode::Read), (Mode::Read, Mode::Write), (Mode::Write, Mode::Write)]
    {
        let (name, object, method) = object::<B, L>();
        let children: Vec<_> = (0..3)
            .map(|_| {
                let name = name.to_os_string();
                let run = move || {
                    let object = B::open(&name, Open::Existing).unwrap();
                    let method = L::attach(&object).unwrap();
                    while object.memory().load(0).unwrap() == 0 {
                        drop(Guard::lock(&method, &object, busy, Wait::Forever).unwrap());
                    }
                    0
                };
                Fork.fork(&[], run).unwrap()
            })
            .collect();
        for _ in 0..10 {
            drop(Guard::lock(&method, &object, patient, Wait::Forever).unwrap());
        }
        object.memory().store(0, 1).unwrap();
        for child in children {
            assert_eq!(child.wait().unwrap(), Exit::Code(0));
        }
    }
}
