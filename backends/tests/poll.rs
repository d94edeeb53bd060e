//! `Poll`, `Select` and `Epoll` keep the laws of `Poller`, signals that arrive during a wait change nothing, and a
//! descriptor that is not open is told as such.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use manycore_backends::poll::{
    ByPoll, BySelect, Epoll, Event, Interest, Notifier, Poll, PollArray, PollError, Poller, Ready, Select,
    poll_single,
};
use manycore_backends::testing::poll::{during, raise_limit, until_asleep};
use rustix::event::{EventfdFlags, eventfd};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Resource, getrlimit};

manycore_backends::poll_conformance!(poll, Poll);
manycore_backends::poll_conformance!(select, Select);
manycore_backends::poll_conformance!(epoll, Epoll);

const LOOK: Option<Duration> = Some(Duration::ZERO);

static HANDLED: AtomicI32 = AtomicI32::new(0);

extern "C" fn count(_: libc::c_int) {
    HANDLED.fetch_add(1, Ordering::SeqCst);
}

fn counter(value: u32) -> OwnedFd {
    eventfd(value, EventfdFlags::CLOEXEC).expect("an eventfd can be made")
}

fn pipe() -> (OwnedFd, OwnedFd) {
    pipe_with(PipeFlags::CLOEXEC).expect("a pipe can be made")
}

fn put(fd: &impl AsFd) {
    rustix::io::write(fd, b"x").expect("one byte fits");
}

/// Sends `SIGUSR1` to the thread, and returns when its handler has run.
fn interrupt(thread: i32) {
    let before = HANDLED.load(Ordering::SeqCst);
    let process = rustix::process::getpid().as_raw_nonzero().get();
    // SAFETY: takes integers. The thread is one of ours, and the signal has a handler.
    let result = unsafe { libc::syscall(libc::SYS_tgkill, process, thread, libc::SIGUSR1) };
    assert_eq!(result, 0);
    while HANDLED.load(Ordering::SeqCst) == before {
        thread::yield_now();
    }
}

/// What `Epoll` says of its descriptor, to a poller that watches it.
fn an_epoll_is_a_source<P: Poller>() {
    let outer = P::new().expect("an empty set can be made");
    let inner = Arc::new(Epoll::new().expect("an empty set can be made"));
    outer.add(1, inner.clone(), Interest::READ).expect("the key is free");
    let look = |poller: &dyn Fn(&mut Vec<Event>) -> Result<(), PollError>| {
        let mut events = Vec::new();
        poller(&mut events).expect("nothing is wrong with the set");
        events.into_iter().map(|event| event.key).collect::<Vec<u64>>()
    };
    let outside = || look(&|events| outer.wait(events, LOOK));
    let inside = || look(&|events| inner.wait(events, LOOK));
    assert_eq!(outside(), [], "an empty set is never ready");

    let (reader, writer) = pipe();
    let reader = Arc::new(reader);
    inner.add(7, reader.clone(), Interest::READ).expect("the key is free");
    assert_eq!(outside(), [], "the pipe is empty");
    put(&writer);
    assert_eq!((outside(), outside(), inside()), (vec![1], vec![1], vec![7]), "as long as the state lasts");
    inner.modify(7, Interest::NONE).expect("the key is in use");
    assert_eq!(outside(), []);
    inner.modify(7, Interest::READ).expect("the key is in use");
    assert_eq!(outside(), [1]);
    inner.remove(7).expect("the key is in use");
    assert_eq!(outside(), []);

    inner.notify().expect("a notifier can be written to");
    assert_eq!((outside(), inside()), (vec![1], vec![]));
    assert_eq!(outside(), [], "a notification ends one wait");

    // What the kernel does not watch.
    let file = Arc::new(tempfile::tempfile().expect("there is a place for a file"));
    inner.add(8, file, Interest::WRITE).expect("the key is free");
    assert_eq!((outside(), inside()), (vec![1], vec![8]));
    inner.remove(8).expect("the key is in use");
    assert_eq!(outside(), []);

    // A sleep in the outer one ends.
    rustix::io::read(&*reader, &mut [0; 1]).expect("a byte is in the pipe");
    inner.add(9, reader, Interest::READ).expect("the key is free");
    let mut events = Vec::new();
    during(|| outer.wait(&mut events, None), || put(&writer)).expect("nothing is wrong with the set");
    assert_eq!(events, [Event { key: 1, ready: Ready::READ }]);
}

#[test]
fn an_epoll_can_be_watched_by_any_poller() {
    an_epoll_is_a_source::<Poll>();
    an_epoll_is_a_source::<Select>();
    an_epoll_is_a_source::<Epoll>();
}

#[test]
fn an_epoll_cannot_watch_itself() {
    let epoll = Arc::new(Epoll::new().expect("an empty set can be made"));
    assert!(matches!(epoll.add(1, epoll.clone(), Interest::READ), Err(PollError::Io { .. })));
}

/// Runs `wait` in a thread, disturbed by ten signals; the thread lives until all were handled.
fn disturbed<T: Send>(wait: impl FnOnce() -> T + Send, act: impl FnOnce()) -> (T, Duration) {
    thread::scope(|scope| {
        let (identity, thread) = mpsc::channel();
        let (finish, finished) = mpsc::channel::<()>();
        let waiter = scope.spawn(move || {
            identity.send(rustix::thread::gettid().as_raw_nonzero().get()).expect("the receiver waits");
            let start = Instant::now();
            let result = wait();
            let elapsed = start.elapsed();
            finished.recv().expect("the sender lives");
            (result, elapsed)
        });
        let thread = thread.recv().expect("the thread starts");
        for _ in 0..10 {
            until_asleep(thread);
            interrupt(thread);
        }
        act();
        finish.send(()).expect("the thread waits");
        waiter.join().expect("the thread does not panic")
    })
}

/// Law 5.
fn signals_change_nothing<P: Poller>() {
    let poll = P::new().expect("an empty set can be made");
    let counter = Arc::new(counter(0));
    poll.add(1, counter.clone(), Interest::READ).expect("the key is free");
    let wait = |timeout| {
        let mut events = Vec::new();
        poll.wait(&mut events, timeout).expect("a signal is not an error");
        events
    };

    let timeout = Duration::from_millis(20);
    let (events, elapsed) = disturbed(|| wait(Some(timeout)), || ());
    assert_eq!(events, []);
    assert!(elapsed >= timeout, "{elapsed:?}");

    let ready = || {
        rustix::io::write(&counter, &1_u64.to_ne_bytes()).expect("the counter is low");
    };
    let (events, _) = disturbed(|| wait(None), ready);
    assert_eq!(events, [Event { key: 1, ready: Ready::READ }]);
}

/// Of an array: told to who asks for it, and else slept through.
macro_rules! signals_reach_an_array {
    ($call:ty) => {{
        let (reader, writer) = pipe();
        let mut array = PollArray::<$call>::with_call(1);
        array.set(0, reader.as_fd(), Interest::READ).expect("there is a cell");

        // Signals before the sleep do not end it, so that it takes several at times; one does.
        let (result, _) = disturbed(|| array.wait(1, None), || put(&writer));
        match result {
            Ok(ready) => assert_eq!(ready, 1),
            Err(PollError::Io { source, .. }) => assert_eq!(source.raw_os_error(), Some(libc::EINTR)),
            Err(error) => panic!("{error}"),
        }
        rustix::io::read(&reader, &mut [0; 1]).expect("there is a byte");

        let timeout = Duration::from_millis(20);
        let (result, elapsed) = disturbed(|| array.restarting_wait(1, Some(timeout)), || ());
        assert_eq!(result.expect("a signal is not an error"), 0);
        assert!(elapsed >= timeout, "{elapsed:?}");
        let (result, _) = disturbed(|| array.restarting_wait(1, None), || put(&writer));
        assert_eq!(result.expect("a signal is not an error"), 1);
    }};
}

// The handler belongs to the whole program: one test for all that needs it.
#[test]
fn signals_do_not_end_or_shorten_a_wait() {
    // SAFETY: all zeroes is a valid value: no flags, so that system calls are not restarted.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = count as extern "C" fn(libc::c_int) as libc::sighandler_t;
    // SAFETY: the handler is one atomic addition, which is async-signal-safe.
    let result = unsafe { libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut()) };
    assert_eq!(result, 0);

    signals_change_nothing::<Poll>();
    signals_change_nothing::<Select>();
    signals_change_nothing::<Epoll>();
    signals_reach_an_array!(ByPoll);
    signals_reach_an_array!(BySelect);

    let notifier = Notifier::new().expect("a descriptor is free");
    let (set, _) = disturbed(|| notifier.wait(None), || notifier.notify().expect("notifying does not fail"));
    assert!(set.expect("a signal is not an error"));
}

/// A number for a descriptor that nobody else in this program gets: they come from above, each lower than the one
/// before, and all others from below. The suite leaves 300 of the highest.
fn high_number() -> RawFd {
    static TAKEN: AtomicI32 = AtomicI32::new(0);
    static LIMIT: OnceLock<RawFd> = OnceLock::new();
    let limit = *LIMIT.get_or_init(|| {
        raise_limit(5_300);
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(1 << 20);
        RawFd::try_from(limit).expect("it is the number of descriptors")
    });
    limit - 1 - TAKEN.fetch_add(1, Ordering::SeqCst)
}

fn with_number(fd: OwnedFd, number: RawFd) -> OwnedFd {
    let high = rustix::io::fcntl_dupfd_cloexec(fd, number).expect("it is below the limit");
    assert_eq!(high.as_raw_fd(), number);
    high
}

/// Gives a number that is not open.
struct Closed(RawFd);

impl Closed {
    fn new() -> Closed {
        Closed(high_number())
    }
}

impl AsFd for Closed {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: not so: it is not open. That is what the test is about; nothing but polling is done with it.
        unsafe { BorrowedFd::borrow_raw(self.0) }
    }
}

/// Law 2: in its own place, and the others are looked at.
fn closed_descriptor_is_told_in_its_place<P: Poller>() {
    assert!(P::ALWAYS_TOLD.contains(Ready::INVALID));
    let poll = P::new().expect("an empty set can be made");
    let add = |key, source: Arc<dyn AsFd + Send + Sync>, interest| {
        poll.add(key, source, interest).expect("the key is free");
    };
    // The highest number, the lowest one, and some between are closed.
    add(1, Arc::new(Closed::new()), Interest::READ | Interest::WRITE);
    add(2, Arc::new(with_number(counter(1), high_number())), Interest::READ);
    add(3, Arc::new(Closed::new()), Interest::READ);
    add(4, Arc::new(Closed::new()), Interest::NONE);
    add(5, Arc::new(with_number(counter(0), high_number())), Interest::READ);
    add(6, Arc::new(Closed::new()), Interest::WRITE);
    let wait = |timeout| {
        let mut events = Vec::new();
        poll.wait(&mut events, timeout).expect("it is not an error of the wait");
        events.sort_by_key(|event| event.key);
        events
    };
    let expected = [
        (1, Ready::INVALID),
        (2, Ready::READ),
        (3, Ready::INVALID),
        (4, Ready::INVALID),
        (6, Ready::INVALID),
    ];
    for timeout in [LOOK, None] {
        assert_eq!(wait(timeout), expected.map(|(key, ready)| Event { key, ready }));
    }
    for key in [1, 3, 4, 6] {
        poll.remove(key).expect("the key is known");
    }
    assert_eq!(wait(None), [Event { key: 2, ready: Ready::READ }]);
}

#[test]
fn closed_descriptors_are_told_in_their_place() {
    closed_descriptor_is_told_in_its_place::<Poll>();
    closed_descriptor_is_told_in_its_place::<Select>();
    closed_descriptor_is_told_in_its_place::<Epoll>();
}

/// Law 2, where the mechanism can tell: what is open as a place in the file system alone is not open for reading, writing
/// or polling.
fn path_alone_is_invalid<P: Poller>() {
    let poll = P::new().expect("an empty set can be made");
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
    for interest in [Interest::NONE, Interest::READ, Interest::WRITE, Interest::PRIORITY] {
        let path = rustix::fs::open("/", flags, rustix::fs::Mode::empty()).expect("there is a root");
        poll.add(1, Arc::new(path), interest).expect("the key is free");
        let mut events = Vec::new();
        for _ in 0..2 {
            poll.wait(&mut events, None).expect("waiting does not fail");
            assert_eq!(events, [Event { key: 1, ready: Ready::INVALID }], "{interest:?}");
        }
        poll.remove(1).expect("the key is known");
    }
}

#[test]
fn paths_alone_are_invalid() {
    path_alone_is_invalid::<Poll>();
    path_alone_is_invalid::<Epoll>();
}

/// The two system calls have one meaning, so that their arrays have the same tests.
macro_rules! array_tests {
    ($module:ident, $call:ty) => {
        mod $module {
            use super::*;

            type Array<'fd> = PollArray<'fd, $call>;

            /// The number of a cell's descriptor, and the rest of it.
            fn cell(array: &Array<'_>, index: usize) -> (RawFd, Interest, Ready) {
                let cell = array.get(index).expect("there is such a cell");
                (cell.fd.map_or(-1, |fd| fd.as_raw_fd()), cell.requested, cell.ready)
            }

            #[test]
            fn new_array_is_vacant() {
                let mut array = Array::with_call(3);
                assert_eq!((array.len(), array.is_empty()), (3, false));
                assert_eq!(array.wait(3, LOOK).expect("vacant cells are passed over"), 0);
                for index in 0..3 {
                    assert_eq!(cell(&array, index), (-1, Interest::NONE, Ready::NONE));
                }
                assert!(Array::with_call(0).is_empty());
                assert_eq!(Array::with_call(0).wait(0, LOOK).expect("nothing is looked at"), 0);
            }

            #[test]
            fn cell_is_what_was_set_and_ready_for_nothing() {
                let busy = counter(1);
                let mut array = Array::with_call(2);
                let both = Interest::READ | Interest::WRITE;
                array.set(1, busy.as_fd(), both).expect("there is such a cell");
                assert_eq!(cell(&array, 1), (busy.as_raw_fd(), both, Ready::NONE));
                assert_eq!(array.wait(2, None).expect("waiting does not fail"), 1);
                assert_eq!(cell(&array, 1), (busy.as_raw_fd(), both, Ready::READ | Ready::WRITE));
                array.set(1, busy.as_fd(), Interest::READ).expect("there is such a cell");
                assert_eq!(cell(&array, 1), (busy.as_raw_fd(), Interest::READ, Ready::NONE));
                array.wait(2, None).expect("waiting does not fail");
                array.clear(1).expect("there is such a cell");
                assert_eq!(cell(&array, 1), (-1, Interest::NONE, Ready::NONE));
                assert_eq!(array.wait(2, LOOK).expect("vacant cells are passed over"), 0);
            }

            #[test]
            fn only_the_first_cells_are_looked_at() {
                let (busy, idle) = (counter(1), counter(0));
                let mut array = Array::with_call(3);
                array.set(0, idle.as_fd(), Interest::READ).expect("there is such a cell");
                array.set(1, busy.as_fd(), Interest::READ).expect("there is such a cell");
                array.set(2, busy.as_fd(), Interest::READ).expect("there is such a cell");
                assert_eq!(array.wait(1, LOOK).expect("waiting does not fail"), 0);
                assert_eq!(array.wait(2, LOOK).expect("waiting does not fail"), 1);
                assert_eq!(cell(&array, 2).2, Ready::NONE);
                assert_eq!(array.wait(3, LOOK).expect("waiting does not fail"), 2);
                rustix::io::read(&busy, &mut [0; 8]).expect("the counter is not zero");
                assert_eq!(array.wait(2, LOOK).expect("waiting does not fail"), 0);
                assert_eq!(cell(&array, 1).2, Ready::NONE, "looked at, and not ready any more");
                assert_eq!(cell(&array, 2).2, Ready::READ, "not looked at");
            }

            #[test]
            fn exactly_the_named_cells_are_copied() {
                let fds: Vec<OwnedFd> = (0..6).map(|_| counter(1)).collect();
                let mut array = Array::with_call(6);
                for (index, fd) in fds.iter().enumerate() {
                    array.set(index, fd.as_fd(), Interest::READ).expect("there is such a cell");
                }
                array.wait(2, None).expect("waiting does not fail");
                let before: Vec<_> = (0..6).map(|index| cell(&array, index)).collect();

                let mut other = PollArray::<ByPoll>::with_call(4);
                other.copy_from(1, &array, 1, 2).expect("the cells are there");
                let copied: Vec<_> = (0..4).map(|index| other.get(index).expect("it is there")).collect();
                let copied: Vec<_> =
                    copied.iter().map(|cell| (cell.fd.map_or(-1, |fd| fd.as_raw_fd()), cell.ready)).collect();
                assert_eq!(
                    copied,
                    [
                        (-1, Ready::NONE),
                        (fds[1].as_raw_fd(), Ready::READ),
                        (fds[2].as_raw_fd(), Ready::NONE),
                        (-1, Ready::NONE)
                    ]
                );
                // A copy is not the same cell.
                array.clear(1).expect("there is such a cell");
                assert!(other.get(1).expect("it is there").fd.is_some());
                array.copy_from(1, &other, 1, 1).expect("the cells are there");

                // Overlapping, both ways, and nothing at all.
                array.copy_within(0, 1, 3).expect("the cells are there");
                let expected = [0, 0, 1, 2, 4, 5].map(|index| before[index]);
                assert_eq!((0..6).map(|index| cell(&array, index)).collect::<Vec<_>>(), expected);
                array.copy_within(3, 2, 3).expect("the cells are there");
                let expected = [0, 0, 2, 4, 5, 5].map(|index| before[index]);
                assert_eq!((0..6).map(|index| cell(&array, index)).collect::<Vec<_>>(), expected);
                array.copy_within(6, 6, 0).expect("there is nothing to copy");
                assert_eq!((0..6).map(|index| cell(&array, index)).collect::<Vec<_>>(), expected);
            }

            #[test]
            fn cells_that_do_not_exist_are_refused() {
                let fd = counter(0);
                let other = PollArray::<BySelect>::with_call(2);
                let mut array = Array::with_call(3);
                let refused = [
                    array.set(3, fd.as_fd(), Interest::READ).map(|()| 0),
                    array.clear(usize::MAX).map(|()| 0),
                    array.get(3).map(|_| 0),
                    array.wait(4, LOOK),
                    array.restarting_wait(usize::MAX, LOOK),
                    array.copy_within(2, 0, 2).map(|()| 0),
                    array.copy_within(0, usize::MAX, 2).map(|()| 0),
                    array.copy_from(2, &other, 0, 2).map(|()| 0),
                    array.copy_from(0, &other, 1, 2).map(|()| 0),
                ];
                for result in refused {
                    assert!(matches!(result, Err(PollError::OutOfRange { .. })), "{result:?}");
                }
                let error = array.copy_within(2, 0, 2).expect_err("the last one is missing");
                assert_eq!(error.to_string(), "cells 2..4 asked for, but the array has 3");
            }

            #[test]
            fn closed_descriptor_is_told_in_its_cell() {
                let (closed, busy) = (Closed::new(), counter(1));
                let mut array = Array::with_call(3);
                array.set(0, closed.as_fd(), Interest::READ).expect("there is such a cell");
                array.set(1, busy.as_fd(), Interest::READ).expect("there is such a cell");
                array.set(2, closed.as_fd(), Interest::NONE).expect("there is such a cell");
                assert_eq!(array.wait(3, None).expect("it is not an error of the wait"), 3);
                let ready: Vec<_> = (0..3).map(|index| cell(&array, index).2).collect();
                assert_eq!(ready, [Ready::INVALID, Ready::READ, Ready::INVALID]);
            }

            #[test]
            fn timeouts_are_waited_for() {
                let (reader, writer) = pipe();
                let mut array = Array::with_call(1);
                array.set(0, reader.as_fd(), Interest::READ).expect("there is a cell");
                for timeout in [1, 999_999, 1_000_001].map(Duration::from_nanos) {
                    let start = Instant::now();
                    assert_eq!(array.restarting_wait(1, Some(timeout)).expect("waiting does not fail"), 0);
                    assert!(start.elapsed() >= timeout);
                }
                // Zero looks: what is there is seen.
                put(&writer);
                assert_eq!(array.wait(1, LOOK).expect("waiting does not fail"), 1);
                for timeout in [Duration::MAX, Duration::from_secs(u64::MAX), Duration::from_nanos(1)] {
                    assert_eq!(array.restarting_wait(1, Some(timeout)).expect("waiting does not fail"), 1);
                }
            }
        }
    };
}

array_tests!(array_by_poll, ByPoll);
array_tests!(array_by_select, BySelect);

#[test]
fn bits_are_those_of_the_original() {
    let interests = [Interest::READ, Interest::PRIORITY, Interest::WRITE].map(Interest::bits);
    assert_eq!(interests, [1, 2, 4]);
    let ready = [Ready::READ, Ready::PRIORITY, Ready::WRITE, Ready::ERROR, Ready::HANGUP, Ready::INVALID]
        .map(Ready::bits);
    assert_eq!(ready, [1, 2, 4, 8, 16, 32]);
    for bits in 0..=u8::MAX {
        assert_eq!(Ready::from_bits(bits).bits(), bits & 63);
        assert_eq!(Interest::from_bits(bits).bits(), bits & 7);
    }
}

#[test]
fn single_descriptor_can_be_waited_for() {
    let (reader, writer) = pipe();
    let single =
        |requested, timeout| poll_single(reader.as_fd(), requested, timeout).expect("it does not fail");
    assert_eq!(single(Interest::READ, LOOK), Ready::NONE);
    put(&writer);
    assert_eq!(single(Interest::READ, None), Ready::READ);
    assert_eq!(single(Interest::NONE, LOOK), Ready::NONE);
    drop(writer);
    // Nobody has to ask for a hang-up.
    assert_eq!(single(Interest::NONE, None), Ready::HANGUP);
    let closed = Closed::new();
    assert_eq!(poll_single(closed.as_fd(), Interest::READ, None).expect("it does not fail"), Ready::INVALID);
}

#[test]
fn notifier_is_a_flag() {
    let notifier = Notifier::new().expect("a descriptor is free");
    assert!(!notifier.consume().expect("it does not fail"));
    assert!(!notifier.wait(LOOK).expect("it does not fail"));
    assert!(!notifier.wait(Some(Duration::from_millis(1))).expect("it does not fail"));
    for _ in 0..3 {
        notifier.clone().notify().expect("it does not fail");
    }
    assert!(notifier.wait(None).expect("it does not fail"));
    assert!(notifier.wait(None).expect("it does not fail"), "waiting takes nothing away");
    assert!(notifier.consume().expect("it does not fail"));
    assert!(!notifier.consume().expect("it does not fail"), "three times is once");
}

/// A source of every poller, like anything that has a descriptor.
#[test]
fn notifier_wakes_every_poller() {
    fn check<P: Poller>() {
        let poll = P::new().expect("an empty set can be made");
        let notifier = Notifier::new().expect("a descriptor is free");
        poll.add(5, Arc::new(notifier.clone()), Interest::READ).expect("the key is free");
        thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                let mut events = Vec::new();
                poll.wait(&mut events, None).expect("waiting does not fail");
                events
            });
            notifier.notify().expect("it does not fail");
            let events = waiter.join().expect("the thread does not panic");
            assert_eq!(events, [Event { key: 5, ready: Ready::READ }]);
        });
        assert!(notifier.consume().expect("it does not fail"));
        let mut events = Vec::new();
        poll.wait(&mut events, LOOK).expect("waiting does not fail");
        assert_eq!(events, []);
    }
    check::<Poll>();
    check::<Select>();
    check::<Epoll>();
}

#[test]
fn signal_sets_the_flag_as_long_as_it_is_watched() {
    let notifier = Notifier::new().expect("a descriptor is free");
    let other = Notifier::new().expect("a descriptor is free");
    let raise = || {
        // SAFETY: takes an integer; the signal has a handler from the first watch on.
        assert_eq!(unsafe { libc::raise(libc::SIGUSR2) }, 0);
    };
    let watch = notifier.watch_signal(libc::SIGUSR2).expect("the signal can be watched");
    let second = other.watch_signal(libc::SIGUSR2).expect("a signal can be watched by several");
    assert!(!notifier.consume().expect("it does not fail"));
    raise();
    assert!(notifier.wait(None).expect("it does not fail"));
    assert!(notifier.consume().expect("it does not fail"));
    assert!(other.consume().expect("it does not fail"));
    drop(watch);
    raise();
    assert!(!notifier.consume().expect("it does not fail"));
    assert!(other.consume().expect("it does not fail"));
    drop(second);
    for signal in [0, 12_345, -1, libc::SIGKILL, libc::SIGSTOP, libc::SIGSEGV] {
        let error = notifier.watch_signal(signal).expect_err("it cannot be watched");
        assert!(
            matches!(&error, PollError::Io { source, .. } if source.raw_os_error() == Some(libc::EINVAL)),
            "{error}"
        );
    }
}

#[test]
fn sets_of_conditions_are_sets() {
    let both = Interest::READ | Interest::WRITE;
    assert_eq!(both & Interest::READ, Interest::READ);
    assert_eq!(both & !Interest::READ, Interest::WRITE);
    assert_eq!(both & Interest::PRIORITY, Interest::NONE);
    assert_eq!(!Interest::NONE, both | Interest::PRIORITY, "what has a meaning, and nothing else");
    assert_eq!(!!both, both);
    let mut ready = !Ready::NONE;
    assert_eq!(ready.bits(), 0b11_1111);
    ready &= Ready::ERROR | Ready::READ;
    assert_eq!(ready, Ready::READ | Ready::ERROR);
}
