//! The conformance suite of [`Poller`]: each function checks a promise of
//! [its contract](crate::poll) and panics if it is broken.
//!
//! Make tests of all of them with [`poll_conformance!`](crate::poll_conformance). Nothing here sleeps to
//! synchronise or expects a wait to end soon: a poller that does not wake up makes a test hang.

use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::poll::{Event, Interest, PollError, Poller, Ready, Source};

/// Makes a module `$module` with a `#[test]` for each function of the [suite](crate::testing::poll),
/// checking the poller `$type`.
#[macro_export]
macro_rules! poll_conformance {
    ($module:ident, $type:ty) => {
        mod $module {
            #[allow(unused_imports)]
            use super::*;

            $crate::poll_conformance! { @each $type:
                empty_set_reports_nothing
                event_is_reported_as_long_as_the_state_lasts
                pipe_becomes_readable_when_it_has_data
                socket_becomes_readable_when_it_has_data
                eventfd_becomes_readable_when_it_counts
                room_for_writing_is_reported
                full_pipe_is_not_writable
                only_the_asked_for_interest_is_reported
                modified_interest_replaces_the_old_one
                hangup_is_told_without_being_asked_for
                error_is_told_without_being_asked_for
                urgent_data_is_told_apart
                event_has_the_key_of_its_source
                key_in_use_is_refused_and_changes_nothing
                unknown_key_is_refused_and_changes_nothing
                removed_source_is_the_same_and_is_not_reported
                removed_source_belongs_to_the_caller_alone
                removed_key_can_be_used_again
                source_is_kept_open_while_watched
                dropped_poller_gives_up_its_sources
                one_descriptor_can_have_two_keys
                extreme_keys_work
                timeout_of_zero_looks_once
                timeout_below_a_millisecond_is_waited_for
                timeout_is_waited_for
                longest_timeout_reports_what_is_ready
                longest_timeout_ends_with_an_event
                endless_wait_ends_with_an_event
                source_added_during_a_wait_is_seen
                interest_modified_during_a_wait_is_seen
                source_removed_during_a_wait_is_not_reported
                change_during_a_wait_is_not_a_notification
                change_during_a_wait_does_not_shorten_it
                notification_before_a_wait_ends_it
                notification_during_a_wait_ends_it
                notification_ends_a_look
                notification_does_not_hide_events
                several_notifications_count_as_one
                change_does_not_swallow_a_notification
                two_threads_can_wait
                each_notification_ends_one_of_two_waits
                events_are_cleared_by_every_wait
                one_descriptor_is_watched
                hundred_descriptors_are_watched
                five_thousand_descriptors_are_watched
                large_numbers_are_watched
                files_are_always_ready
                file_added_during_a_wait_is_seen
                end_of_file_is_readable
                connection_to_accept_is_readable
                lost_reader_is_writable
                later_wait_does_not_take_a_notification
                notifications_are_not_lost_among_changes
                source_may_use_its_poller
                keys_of_one_descriptor_are_independent
                every_number_of_events_is_told
                constant_replacement_does_not_delay_a_look
                hangup_without_room_is_writable
                constant_change_does_not_hide_an_event
                data_read_by_others_is_no_hangup
                lost_reader_is_no_hangup
            }
        }
    };
    (@each $type:ty: $($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                $crate::testing::poll::$name::<$type>();
            }
        )*
    };
}

const LOOK: Option<Duration> = Some(Duration::ZERO);

fn new<P: Poller>() -> P {
    P::new().expect("an empty set can be made")
}

fn pipe() -> (OwnedFd, OwnedFd) {
    pipe_with(PipeFlags::CLOEXEC).expect("a pipe can be made")
}

fn counter(value: u32) -> OwnedFd {
    eventfd(value, EventfdFlags::CLOEXEC).expect("an eventfd can be made")
}

fn add<P: Poller>(poll: &P, key: u64, source: impl AsFd + Send + Sync + 'static, interest: Interest) {
    poll.add(key, Arc::new(source), interest).expect("the key is free");
}

fn put(fd: &impl AsFd) {
    rustix::io::write(fd, b"x").expect("one byte fits");
}

fn take(fd: &impl AsFd) {
    assert_eq!(rustix::io::read(fd, &mut [0; 1]).expect("there is a byte"), 1);
}

/// The events of one wait, ordered by key.
fn wait<P: Poller>(poll: &P, timeout: Option<Duration>) -> Vec<(u64, Ready)> {
    let mut events = Vec::new();
    poll.wait(&mut events, timeout).expect("waiting does not fail");
    let mut events: Vec<_> = events.iter().map(|event| (event.key, event.ready)).collect();
    events.sort_by_key(|(key, _)| *key);
    events
}

/// Runs `wait` in a thread and `act` here, once that thread sleeps (or has ended, or lingers on the way,
/// which must make no difference to the result).
pub fn during<T: Send>(wait: impl FnOnce() -> T + Send, act: impl FnOnce()) -> T {
    thread::scope(|scope| {
        let (sender, receiver) = mpsc::channel();
        let waiter = scope.spawn(move || {
            sender.send(rustix::thread::gettid().as_raw_nonzero().get()).expect("the receiver waits");
            wait()
        });
        let thread = receiver.recv().expect("the thread starts");
        until_asleep(thread);
        act();
        waiter.join().expect("the waiting thread does not panic")
    })
}

/// Returns when the thread of this process sleeps, or has ended.
///
/// `thread` is its number in `/proc/self/task`.
pub fn until_asleep(thread: i32) {
    let path = format!("/proc/self/task/{thread}/stat");
    loop {
        let Ok(stat) = std::fs::read_to_string(&path) else { return };
        match stat.rsplit_once(") ") {
            Some((_, rest)) if rest.starts_with('R') => thread::yield_now(),
            _ => return,
        }
    }
}

/// Law 5: there is nothing to report, and that is no error.
pub fn empty_set_reports_nothing<P: Poller>() {
    let poll = new::<P>();
    assert_eq!(wait(&poll, LOOK), []);
    assert_eq!(wait(&poll, Some(Duration::from_millis(1))), []);
}

/// Law 1.
pub fn event_is_reported_as_long_as_the_state_lasts<P: Poller>() {
    let poll = new::<P>();
    let (reader, writer) = pipe();
    let reader = Arc::new(reader);
    poll.add(1, reader.clone(), Interest::READ).expect("the key is free");
    put(&writer);
    put(&writer);
    for timeout in [LOOK, None, Some(Duration::from_secs(1)), LOOK] {
        assert_eq!(wait(&poll, timeout), [(1, Ready::READ)]);
    }
    take(&reader);
    assert_eq!(wait(&poll, None), [(1, Ready::READ)], "one byte is left");
    take(&reader);
    assert_eq!(wait(&poll, LOOK), []);
    put(&writer);
    assert_eq!(wait(&poll, None), [(1, Ready::READ)]);
}

/// Law 1.
pub fn pipe_becomes_readable_when_it_has_data<P: Poller>() {
    let poll = new::<P>();
    let (reader, writer) = pipe();
    add(&poll, 1, reader, Interest::READ);
    assert_eq!(wait(&poll, LOOK), []);
    put(&writer);
    assert_eq!(wait(&poll, LOOK), [(1, Ready::READ)]);
}

/// Law 1.
pub fn socket_becomes_readable_when_it_has_data<P: Poller>() {
    let poll = new::<P>();
    let (near, far) = UnixStream::pair().expect("a pair of sockets can be made");
    add(&poll, 1, near, Interest::READ);
    assert_eq!(wait(&poll, LOOK), []);
    put(&far);
    assert_eq!(wait(&poll, LOOK), [(1, Ready::READ)]);
}

/// Law 1.
pub fn eventfd_becomes_readable_when_it_counts<P: Poller>() {
    let poll = new::<P>();
    let event = Arc::new(counter(0));
    poll.add(1, event.clone(), Interest::READ).expect("the key is free");
    assert_eq!(wait(&poll, LOOK), []);
    rustix::io::write(&event, &1_u64.to_ne_bytes()).expect("the counter is low");
    assert_eq!(wait(&poll, LOOK), [(1, Ready::READ)]);
    rustix::io::read(&event, &mut [0; 8]).expect("the counter is not zero");
    assert_eq!(wait(&poll, LOOK), []);
}

/// Law 1.
pub fn room_for_writing_is_reported<P: Poller>() {
    let poll = new::<P>();
    let (_reader, writer) = pipe();
    let (near, _far) = UnixStream::pair().expect("a pair of sockets can be made");
    add(&poll, 1, writer, Interest::WRITE);
    add(&poll, 2, near, Interest::READ | Interest::WRITE);
    assert_eq!(wait(&poll, None), [(1, Ready::WRITE), (2, Ready::WRITE)]);
}

/// Law 1.
pub fn full_pipe_is_not_writable<P: Poller>() {
    let poll = new::<P>();
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).expect("a pipe can be made");
    let writer = Arc::new(writer);
    poll.add(1, writer.clone(), Interest::WRITE).expect("the key is free");
    let full = loop {
        if let Err(errno) = rustix::io::write(&writer, &[0; 4096]) {
            break errno;
        }
    };
    assert_eq!(full, Errno::AGAIN);
    assert_eq!(wait(&poll, LOOK), []);
    while rustix::io::read(&reader, &mut [0; 4096]).is_ok() {}
    assert_eq!(wait(&poll, None), [(1, Ready::WRITE)]);
}

/// Law 2: but for what is always told, nothing unasked is reported.
pub fn only_the_asked_for_interest_is_reported<P: Poller>() {
    let poll = new::<P>();
    let (near, far) = UnixStream::pair().expect("a pair of sockets can be made");
    let near = Arc::new(near);
    put(&far);
    poll.add(1, near.clone(), Interest::NONE).expect("the key is free");
    assert_eq!(wait(&poll, LOOK), []);
    poll.modify(1, Interest::READ).expect("the key is known");
    assert_eq!(wait(&poll, LOOK), [(1, Ready::READ)]);
    poll.modify(1, Interest::WRITE).expect("the key is known");
    assert_eq!(wait(&poll, LOOK), [(1, Ready::WRITE)]);
    poll.modify(1, Interest::READ | Interest::WRITE).expect("the key is known");
    assert_eq!(wait(&poll, LOOK), [(1, Ready::READ | Ready::WRITE)]);
    poll.modify(1, Interest::PRIORITY).expect("the key is known");
    assert_eq!(wait(&poll, LOOK), []);
}

/// Law 4: the key and the source stay, the interest does not.
pub fn modified_interest_replaces_the_old_one<P: Poller>() {
    let poll = new::<P>();
    let (near, far) = UnixStream::pair().expect("a pair of sockets can be made");
    put(&far);
    add(&poll, 1, near, Interest::WRITE);
    poll.modify(1, Interest::READ).expect("the key is known");
    assert_eq!(wait(&poll, LOOK), [(1, Ready::READ)]);
}

/// Law 2, if the mechanism can tell.
pub fn hangup_is_told_without_being_asked_for<P: Poller>() {
    if !P::ALWAYS_TOLD.contains(Ready::HANGUP) {
        return;
    }
    let poll = new::<P>();
    let (reader, writer) = pipe();
    add(&poll, 1, reader, Interest::NONE);
    put(&writer);
    assert_eq!(wait(&poll, LOOK), []);
    drop(writer);
    assert_eq!(wait(&poll, None), [(1, Ready::HANGUP)]);

    let (near, far) = UnixStream::pair().expect("a pair of sockets can be made");
    poll.remove(1).expect("the key is known");
    add(&poll, 2, near, Interest::NONE);
    assert_eq!(wait(&poll, LOOK), []);
    drop(far);
    assert_eq!(wait(&poll, None), [(2, Ready::HANGUP)]);
}

/// Law 2, if the mechanism can tell.
pub fn error_is_told_without_being_asked_for<P: Poller>() {
    if !P::ALWAYS_TOLD.contains(Ready::ERROR) {
        return;
    }
    let poll = new::<P>();
    let (reader, writer) = pipe();
    add(&poll, 1, writer, Interest::NONE);
    assert_eq!(wait(&poll, LOOK), []);
    drop(reader);
    let events = wait(&poll, None);
    assert_eq!(events.len(), 1);
    assert!(events[0].1.contains(Ready::ERROR), "{events:?}");
    assert!(events[0].1.is_writable());
}

/// Law 1: urgent data is not data.
pub fn urgent_data_is_told_apart<P: Poller>() {
    use rustix::net::{SendFlags, send};
    let poll = new::<P>();
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("there is a loopback device");
    let address = listener.local_addr().expect("the socket is bound");
    let near = std::net::TcpStream::connect(address).expect("somebody listens");
    let (far, _) = listener.accept().expect("somebody connects");
    add(&poll, 1, near, Interest::PRIORITY);
    send(&far, b"x", SendFlags::empty()).expect("one byte fits");
    assert_eq!(wait(&poll, LOOK), []);
    send(&far, b"!", SendFlags::OOB).expect("one byte fits");
    assert_eq!(wait(&poll, None), [(1, Ready::PRIORITY)]);
}

/// Law 4.
pub fn event_has_the_key_of_its_source<P: Poller>() {
    let poll = new::<P>();
    let pipes: Vec<_> = (0..10).map(|_| pipe()).collect();
    let (readers, writers): (Vec<_>, Vec<_>) = pipes.into_iter().unzip();
    // Added in another order than that of the keys.
    for (number, reader) in (0_u64..).zip(readers) {
        add(&poll, (number * 7) % 10, reader, Interest::READ);
    }
    put(&writers[3]);
    put(&writers[8]);
    assert_eq!(wait(&poll, None), [(1, Ready::READ), (6, Ready::READ)]);
}

/// Law 4.
pub fn key_in_use_is_refused_and_changes_nothing<P: Poller>() {
    let poll = new::<P>();
    let (reader, writer) = pipe();
    add(&poll, 1, reader, Interest::READ);
    let other = Arc::new(counter(1));
    let result = poll.add(1, other.clone(), Interest::READ);
    assert!(matches!(result, Err(PollError::AlreadyExists(1))), "{result:?}");
    assert_eq!(Arc::strong_count(&other), 1, "a refused source is not held");
    assert_eq!(wait(&poll, LOOK), [], "the new source is not watched");
    put(&writer);
    assert_eq!(wait(&poll, LOOK), [(1, Ready::READ)], "the old source still is");
}

/// Law 4.
pub fn unknown_key_is_refused_and_changes_nothing<P: Poller>() {
    let poll = new::<P>();
    add(&poll, 1, counter(1), Interest::READ);
    for key in [0, 2, u64::MAX] {
        assert!(matches!(poll.modify(key, Interest::NONE), Err(PollError::NotFound(found)) if found == key));
        assert!(matches!(poll.remove(key), Err(PollError::NotFound(found)) if found == key));
    }
    assert_eq!(wait(&poll, LOOK), [(1, Ready::READ)]);
}

/// Law 3.
pub fn removed_source_is_the_same_and_is_not_reported<P: Poller>() {
    let poll = new::<P>();
    let source: Source = Arc::new(counter(1));
    poll.add(1, source.clone(), Interest::READ).expect("the key is free");
    assert_eq!(wait(&poll, LOOK), [(1, Ready::READ)]);
    let removed = poll.remove(1).expect("the key is known");
    assert!(std::ptr::addr_eq(Arc::as_ptr(&removed), Arc::as_ptr(&source)));
    assert_eq!(wait(&poll, LOOK), []);
    assert!(matches!(poll.remove(1), Err(PollError::NotFound(1))));
}

/// Law 3: nothing of the source stays behind.
pub fn removed_source_belongs_to_the_caller_alone<P: Poller>() {
    let poll = new::<P>();
    let (near, mut far) = UnixStream::pair().expect("a pair of sockets can be made");
    add(&poll, 1, near, Interest::READ);
    add(&poll, 2, counter(1), Interest::READ);
    assert_eq!(wait(&poll, None), [(2, Ready::READ)]);
    let source = poll.remove(1).expect("the key is known");
    assert_eq!(Arc::strong_count(&source), 1);
    drop(source);
    assert_eq!(far.read(&mut [0]).expect("the end of file can be read"), 0);
}

/// Law 4.
pub fn removed_key_can_be_used_again<P: Poller>() {
    let poll = new::<P>();
    add(&poll, 1, counter(1), Interest::READ);
    poll.remove(1).expect("the key is known");
    add(&poll, 1, counter(0), Interest::READ | Interest::WRITE);
    assert_eq!(wait(&poll, None), [(1, Ready::WRITE)]);
}

/// Law 3.
pub fn source_is_kept_open_while_watched<P: Poller>() {
    let poll = new::<P>();
    let (near, mut far) = UnixStream::pair().expect("a pair of sockets can be made");
    add(&poll, 1, near, Interest::READ);
    // What is opened now must not get its number.
    add(&poll, 2, counter(0), Interest::READ);
    far.write_all(b"x").expect("the other end is open");
    assert_eq!(wait(&poll, None), [(1, Ready::READ)]);
}

/// Law 3.
pub fn dropped_poller_gives_up_its_sources<P: Poller>() {
    let poll = new::<P>();
    let source = Arc::new(counter(1));
    poll.add(1, source.clone(), Interest::READ).expect("the key is free");
    assert_eq!(wait(&poll, None), [(1, Ready::READ)]);
    drop(poll);
    assert_eq!(Arc::strong_count(&source), 1);
}

/// Law 4. A mechanism that cannot do it says so when it is added.
pub fn one_descriptor_can_have_two_keys<P: Poller>() {
    let poll = new::<P>();
    let (near, far) = UnixStream::pair().expect("a pair of sockets can be made");
    let near = Arc::new(near);
    put(&far);
    poll.add(1, near.clone(), Interest::READ).expect("the key is free");
    if let Err(error) = poll.add(2, near.clone(), Interest::WRITE) {
        assert!(matches!(error, PollError::Io { .. }), "{error:?}");
        assert_eq!(wait(&poll, LOOK), [(1, Ready::READ)]);
        return;
    }
    assert_eq!(wait(&poll, LOOK), [(1, Ready::READ), (2, Ready::WRITE)]);
    poll.remove(1).expect("the key is known");
    assert_eq!(wait(&poll, LOOK), [(2, Ready::WRITE)]);
}

/// Law 4: every number is a key.
pub fn extreme_keys_work<P: Poller>() {
    let poll = new::<P>();
    let keys = [0, 1 << 31, u64::from(u32::MAX), 1 << 63, u64::MAX - 1, u64::MAX];
    for key in keys {
        add(&poll, key, counter(1), Interest::READ);
    }
    assert_eq!(wait(&poll, None), keys.map(|key| (key, Ready::READ)));
    for key in keys {
        poll.remove(key).expect("the key is known");
    }
    assert_eq!(wait(&poll, LOOK), []);
}

/// Law 5.
pub fn timeout_of_zero_looks_once<P: Poller>() {
    let poll = new::<P>();
    let (reader, writer) = pipe();
    add(&poll, 1, reader, Interest::READ);
    assert_eq!(wait(&poll, LOOK), []);
    put(&writer);
    assert_eq!(wait(&poll, LOOK), [(1, Ready::READ)]);
}

/// Law 5.
pub fn timeout_below_a_millisecond_is_waited_for<P: Poller>() {
    let poll = new::<P>();
    let (reader, _writer) = pipe();
    add(&poll, 1, reader, Interest::READ);
    for timeout in [1, 999, 1_000, 250_000, 999_999, 1_000_001].map(Duration::from_nanos) {
        let start = Instant::now();
        assert_eq!(wait(&poll, Some(timeout)), []);
        let elapsed = start.elapsed();
        assert!(elapsed >= timeout, "{elapsed:?} is less than {timeout:?}");
    }
}

/// Law 5.
pub fn timeout_is_waited_for<P: Poller>() {
    let poll = new::<P>();
    let (reader, _writer) = pipe();
    add(&poll, 1, reader, Interest::READ);
    let timeout = Duration::from_millis(20);
    let start = Instant::now();
    assert_eq!(wait(&poll, Some(timeout)), []);
    assert!(start.elapsed() >= timeout);
}

const LONG: [Duration; 4] = [
    Duration::MAX,
    Duration::from_secs(i64::MAX as u64),
    Duration::from_millis(u64::MAX),
    Duration::from_secs(u32::MAX as u64),
];

/// Law 5.
pub fn longest_timeout_reports_what_is_ready<P: Poller>() {
    let poll = new::<P>();
    add(&poll, 1, counter(1), Interest::READ);
    for timeout in LONG {
        assert_eq!(wait(&poll, Some(timeout)), [(1, Ready::READ)]);
    }
}

/// Law 5: a long timeout does not overflow to a short one.
pub fn longest_timeout_ends_with_an_event<P: Poller>() {
    for timeout in LONG {
        let poll = new::<P>();
        let (reader, writer) = pipe();
        add(&poll, 1, reader, Interest::READ);
        let events = during(|| wait(&poll, Some(timeout)), || put(&writer));
        assert_eq!(events, [(1, Ready::READ)]);
    }
}

/// Law 5.
pub fn endless_wait_ends_with_an_event<P: Poller>() {
    let poll = new::<P>();
    let (reader, writer) = pipe();
    add(&poll, 1, reader, Interest::READ);
    let events = during(|| wait(&poll, None), || put(&writer));
    assert_eq!(events, [(1, Ready::READ)]);
}

/// Law 6.
pub fn source_added_during_a_wait_is_seen<P: Poller>() {
    let poll = new::<P>();
    let events = during(|| wait(&poll, None), || add(&poll, 1, counter(1), Interest::READ));
    assert_eq!(events, [(1, Ready::READ)]);
}

/// Law 6.
pub fn interest_modified_during_a_wait_is_seen<P: Poller>() {
    let poll = new::<P>();
    add(&poll, 1, counter(1), Interest::NONE);
    let modify = || poll.modify(1, Interest::READ).expect("the key is known");
    let events = during(|| wait(&poll, None), modify);
    assert_eq!(events, [(1, Ready::READ)]);
}

/// Law 6.
pub fn source_removed_during_a_wait_is_not_reported<P: Poller>() {
    let poll = new::<P>();
    let (first, first_writer) = pipe();
    let (second, second_writer) = pipe();
    add(&poll, 1, first, Interest::READ);
    add(&poll, 2, second, Interest::READ);
    let act = || {
        // Alive until it is over, so that what comes next is not a hang-up.
        let removed = poll.remove(1).expect("the key is known");
        put(&first_writer);
        put(&second_writer);
        drop(removed);
    };
    let events = during(|| wait(&poll, None), act);
    assert_eq!(events, [(2, Ready::READ)]);
}

/// Laws 6 and 7: who waits for a notification does not get one from a change of the set.
pub fn change_during_a_wait_is_not_a_notification<P: Poller>() {
    let poll = new::<P>();
    let (reader, writer) = pipe();
    let act = || {
        add(&poll, 1, reader, Interest::READ);
        poll.modify(1, Interest::NONE).expect("the key is known");
        poll.modify(1, Interest::READ).expect("the key is known");
        put(&writer);
    };
    assert_eq!(during(|| wait(&poll, None), act), [(1, Ready::READ)]);
}

/// Laws 5 and 6.
pub fn change_during_a_wait_does_not_shorten_it<P: Poller>() {
    let poll = new::<P>();
    let timeout = Duration::from_millis(20);
    let timed = || {
        let start = Instant::now();
        (wait(&poll, Some(timeout)), start.elapsed())
    };
    let (events, elapsed) = during(timed, || add(&poll, 1, counter(0), Interest::READ));
    assert_eq!(events, []);
    assert!(elapsed >= timeout, "{elapsed:?}");
}

/// Law 7.
pub fn notification_before_a_wait_ends_it<P: Poller>() {
    let poll = new::<P>();
    add(&poll, 1, counter(0), Interest::READ);
    for timeout in [None, Some(Duration::MAX)] {
        poll.notify().expect("notifying does not fail");
        assert_eq!(wait(&poll, timeout), []);
    }
}

/// Law 7.
pub fn notification_during_a_wait_ends_it<P: Poller>() {
    let poll = new::<P>();
    add(&poll, 1, counter(0), Interest::READ);
    for _ in 0..10 {
        let events = during(|| wait(&poll, None), || poll.notify().expect("notifying does not fail"));
        assert_eq!(events, []);
    }
}

/// Law 7: a wait that does not sleep is a wait. The notification does not stay for the one after it.
pub fn notification_ends_a_look<P: Poller>() {
    let poll = new::<P>();
    poll.notify().expect("notifying does not fail");
    assert_eq!(wait(&poll, LOOK), []);
    let timeout = Duration::from_millis(5);
    let start = Instant::now();
    assert_eq!(wait(&poll, Some(timeout)), []);
    assert!(start.elapsed() >= timeout);
}

/// Laws 1 and 7.
pub fn notification_does_not_hide_events<P: Poller>() {
    let poll = new::<P>();
    add(&poll, 1, counter(1), Interest::READ);
    poll.notify().expect("notifying does not fail");
    assert_eq!(wait(&poll, None), [(1, Ready::READ)]);
    assert_eq!(wait(&poll, None), [(1, Ready::READ)]);
}

/// Law 7.
pub fn several_notifications_count_as_one<P: Poller>() {
    let poll = new::<P>();
    for _ in 0..3 {
        for _ in 0..100 {
            poll.notify().expect("notifying does not fail");
        }
        assert_eq!(wait(&poll, None), []);
        let timeout = Duration::from_millis(5);
        let start = Instant::now();
        assert_eq!(wait(&poll, Some(timeout)), []);
        assert!(start.elapsed() >= timeout, "a second wait was ended");
    }
}

/// Laws 6 and 7: a change and a notification at the same time are both seen.
pub fn change_does_not_swallow_a_notification<P: Poller>() {
    for round in 0..100 {
        let poll = new::<P>();
        let act = || {
            let change = || add(&poll, 1, counter(0), Interest::READ);
            let notify = || poll.notify().expect("notifying does not fail");
            if round % 2 == 0 {
                change();
                notify();
            } else {
                notify();
                change();
            }
        };
        assert_eq!(during(|| wait(&poll, None), act), []);
    }
}

/// Law 6: both see the event, since none takes it away.
pub fn two_threads_can_wait<P: Poller>() {
    let poll = new::<P>();
    let (reader, writer) = pipe();
    let (first, second) = thread::scope(|scope| {
        let waiter = scope.spawn(|| wait(&poll, None));
        let second = during(
            || wait(&poll, None),
            || {
                add(&poll, 1, reader, Interest::READ);
                put(&writer);
            },
        );
        (waiter.join().expect("the waiting thread does not panic"), second)
    });
    assert_eq!(first, [(1, Ready::READ)]);
    assert_eq!(second, [(1, Ready::READ)]);
}

/// Law 7: one notification for each wait ends them all, and none is lost between waiters.
pub fn each_notification_ends_one_of_two_waits<P: Poller>() {
    const ROUNDS: usize = 200;
    let poll = new::<P>();
    thread::scope(|scope| {
        let (sender, receiver) = mpsc::channel();
        for _ in 0..2 {
            let sender = sender.clone();
            let poll = &poll;
            scope.spawn(move || {
                for _ in 0..ROUNDS {
                    assert_eq!(wait(poll, None), []);
                    sender.send(()).expect("the receiver lives");
                }
            });
        }
        for _ in 0..2 * ROUNDS {
            poll.notify().expect("notifying does not fail");
            receiver.recv().expect("a waiter ends");
        }
    });
}

/// Law 8.
pub fn events_are_cleared_by_every_wait<P: Poller>() {
    let poll = new::<P>();
    let stale = Event { key: 99, ready: Ready::READ };
    let mut events = vec![stale];
    for timeout in [LOOK, Some(Duration::from_millis(1))] {
        poll.wait(&mut events, timeout).expect("waiting does not fail");
        assert_eq!(events, []);
        events.push(stale);
    }
    poll.notify().expect("notifying does not fail");
    poll.wait(&mut events, None).expect("waiting does not fail");
    assert_eq!(events, []);
    events.push(stale);
    add(&poll, 1, counter(1), Interest::READ);
    poll.wait(&mut events, None).expect("waiting does not fail");
    assert_eq!(events, [Event { key: 1, ready: Ready::READ }]);
}

/// Law 6.
pub fn one_descriptor_is_watched<P: Poller>() {
    many_descriptors_are_watched::<P>(1);
}

/// Law 6.
pub fn hundred_descriptors_are_watched<P: Poller>() {
    many_descriptors_are_watched::<P>(100);
}

/// Law 6, with as many sources as the limits of the process allow, 5 000 at most.
pub fn five_thousand_descriptors_are_watched<P: Poller>() {
    many_descriptors_are_watched::<P>(5_000);
}

/// One at a time: else two of them together could reach the limit.
static MANY: std::sync::Mutex<()> = std::sync::Mutex::new(());

fn many_descriptors_are_watched<P: Poller>(wanted: u64) {
    const RESERVE: u64 = 300; // For what else is open in the program.
    let _alone = MANY.lock();
    raise_limit(wanted + RESERVE);
    let limit = getrlimit(Resource::Nofile).current;
    let count = limit.map_or(wanted, |limit| wanted.min(limit.saturating_sub(RESERVE)));

    let poll = new::<P>();
    let counters: Vec<_> = (0..count).map(|_| Arc::new(counter(0))).collect();
    for (key, counter) in (0..).zip(&counters) {
        poll.add(key, counter.clone(), Interest::READ).expect("the key is free");
    }
    assert_eq!(wait(&poll, LOOK), []);
    let set = |at: u64| {
        let counter = usize::try_from(at).map(|at| &counters[at]).expect("it is an index");
        rustix::io::write(counter, &1_u64.to_ne_bytes()).expect("the counter is low");
    };
    // The last one alone, then every third, then all.
    set(count - 1);
    assert_eq!(wait(&poll, None), [(count - 1, Ready::READ)]);
    let thirds = (0..count).filter(|at| at % 3 == 0 || *at == count - 1);
    thirds.clone().for_each(set);
    assert_eq!(wait(&poll, None), thirds.map(|at| (at, Ready::READ)).collect::<Vec<_>>());
    (0..count).for_each(set);
    assert_eq!(wait(&poll, LOOK), (0..count).map(|at| (at, Ready::READ)).collect::<Vec<_>>());
    for key in 0..count {
        poll.remove(key).expect("the key is known");
    }
    assert_eq!(wait(&poll, LOOK), []);
}

/// Raises the limit of open descriptors, if it is lower and may be raised. Who finds it refused has fewer.
pub fn raise_limit(wanted: u64) {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < wanted) {
        let current = limit.maximum.map_or(wanted, |maximum| maximum.min(wanted));
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(current), maximum: limit.maximum });
    }
}

/// Law 6: beyond what the `fd_set` of the C library holds.
pub fn large_numbers_are_watched<P: Poller>() {
    raise_limit(2_300);
    let poll = new::<P>();
    let (reader, writer) = pipe();
    for least in [1_023, 1_024, 1_025, 2_000] {
        let large = rustix::io::fcntl_dupfd_cloexec(&reader, least).expect("the limit was raised");
        assert!(large.as_raw_fd() >= least);
        add(&poll, u64::from(least.unsigned_abs()), large, Interest::READ);
    }
    assert_eq!(wait(&poll, LOOK), []);
    put(&writer);
    let all = [1_023, 1_024, 1_025, 2_000].map(|key| (key, Ready::READ));
    assert_eq!(wait(&poll, None), all);
}

/// Law 1, as POSIX wants it of files.
pub fn files_are_always_ready<P: Poller>() {
    let poll = new::<P>();
    let program = std::env::current_exe().expect("the program has a path");
    let file = || std::fs::File::open(&program).expect("the program can be read");
    let directory = std::fs::File::open("/").expect("the root can be read");
    add(&poll, 1, file(), Interest::READ);
    add(&poll, 2, directory, Interest::READ | Interest::WRITE);
    add(&poll, 3, file(), Interest::NONE);
    add(&poll, 4, counter(1), Interest::READ);
    let ready = [(1, Ready::READ), (2, Ready::READ | Ready::WRITE), (4, Ready::READ)];
    for timeout in [LOOK, None, Some(Duration::MAX)] {
        assert_eq!(wait(&poll, timeout), ready);
    }
    poll.modify(1, Interest::NONE).expect("the key is known");
    poll.remove(2).expect("the key is known");
    poll.remove(4).expect("the key is known");
    assert_eq!(wait(&poll, Some(Duration::from_millis(1))), []);
    poll.modify(3, Interest::WRITE).expect("the key is known");
    assert_eq!(wait(&poll, None), [(3, Ready::WRITE)]);
}

/// Laws 1 and 6.
pub fn file_added_during_a_wait_is_seen<P: Poller>() {
    let poll = new::<P>();
    let file = std::fs::File::open("/").expect("the root can be read");
    let events = during(|| wait(&poll, None), || add(&poll, 1, file, Interest::READ));
    assert_eq!(events, [(1, Ready::READ)]);
}

/// Law 2: whatever it is called, a read will not block.
pub fn end_of_file_is_readable<P: Poller>() {
    let poll = new::<P>();
    let (reader, writer) = pipe();
    let (near, far) = UnixStream::pair().expect("a pair of sockets can be made");
    let (half, other) = UnixStream::pair().expect("a pair of sockets can be made");
    add(&poll, 1, reader, Interest::READ);
    add(&poll, 2, near, Interest::READ);
    add(&poll, 3, half, Interest::READ);
    assert_eq!(wait(&poll, LOOK), []);
    drop((writer, far));
    other.shutdown(std::net::Shutdown::Write).expect("the socket is connected");
    let events = wait(&poll, None);
    assert_eq!(events.iter().map(|(key, _)| *key).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(events.iter().all(|(_, ready)| ready.is_readable()), "{events:?}");
    if P::ALWAYS_TOLD.contains(Ready::HANGUP) {
        assert_eq!(events[0].1, Ready::HANGUP, "nobody can write into the pipe any more, and it is empty");
    }
    assert_eq!(events[2].1, Ready::READ, "what is half closed can be written to");
}

/// Law 1.
pub fn connection_to_accept_is_readable<P: Poller>() {
    let poll = new::<P>();
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("there is a loopback device");
    let address = listener.local_addr().expect("the socket is bound");
    add(&poll, 1, listener, Interest::READ);
    assert_eq!(wait(&poll, LOOK), []);
    let _near = std::net::TcpStream::connect(address).expect("somebody listens");
    assert_eq!(wait(&poll, None), [(1, Ready::READ)]);
}

/// Law 2: whatever it is called, a write will not block.
pub fn lost_reader_is_writable<P: Poller>() {
    let poll = new::<P>();
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).expect("a pipe can be made");
    while rustix::io::write(&writer, &[0; 4096]).is_ok() {}
    add(&poll, 1, writer, Interest::WRITE);
    assert_eq!(wait(&poll, LOOK), []);
    drop(reader);
    let events = wait(&poll, None);
    assert_eq!(events.len(), 1);
    assert!(events[0].1.is_writable(), "{events:?}");
}

/// Law 7: a wait that began after the notification leaves it to the one that was under way.
pub fn later_wait_does_not_take_a_notification<P: Poller>() {
    let poll = new::<P>();
    for _ in 0..500 {
        let act = || {
            poll.notify().expect("notifying does not fail");
            for _ in 0..3 {
                assert_eq!(wait(&poll, LOOK), []);
            }
        };
        assert_eq!(during(|| wait(&poll, None), act), []);
    }
}

/// Law 7: as many notifications as there are waits under way end them all, whatever else happens to the set.
pub fn notifications_are_not_lost_among_changes<P: Poller>() {
    const WAITERS: usize = 3;
    const ROUNDS: usize = 200;
    let poll = new::<P>();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                add(&poll, 1, counter(0), Interest::READ);
                poll.modify(1, Interest::NONE).expect("the key is known");
                poll.remove(1).expect("the key is known");
            }
        });
        let (sender, receiver) = mpsc::channel();
        for _ in 0..WAITERS {
            let sender = sender.clone();
            let poll = &poll;
            scope.spawn(move || {
                for _ in 0..ROUNDS {
                    assert_eq!(wait(poll, None), []);
                    sender.send(()).expect("the receiver lives");
                }
            });
        }
        for _ in 0..WAITERS * ROUNDS {
            poll.notify().expect("notifying does not fail");
            receiver.recv().expect("a waiter ends");
            assert!(receiver.try_recv().is_err(), "one notification has ended two waits");
        }
        over.store(true, Ordering::Relaxed);
    });
}

/// A source that calls its poller whenever it can.
struct Meddler<P: Poller> {
    poll: Arc<P>,
    fd: OwnedFd,
}

impl<P: Poller> Meddler<P> {
    fn meddle(&self) {
        assert!(matches!(self.poll.modify(99, Interest::NONE), Err(PollError::NotFound(99))));
        assert!(matches!(self.poll.remove(99), Err(PollError::NotFound(99))));
    }
}

impl<P: Poller> AsFd for Meddler<P> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.meddle();
        self.fd.as_fd()
    }
}

impl<P: Poller> Drop for Meddler<P> {
    fn drop(&mut self) {
        self.meddle();
    }
}

/// Law 6: no code of a source runs while the poller cannot be used.
pub fn source_may_use_its_poller<P: Poller>() {
    let poll = Arc::new(new::<P>());
    let source = |value| Meddler { poll: Arc::clone(&poll), fd: counter(value) };
    add(&*poll, 1, source(1), Interest::READ);
    assert!(poll.add(1, Arc::new(source(1)), Interest::READ).is_err());
    assert_eq!(wait(&*poll, None), [(1, Ready::READ)]);
    poll.modify(1, Interest::NONE).expect("the key is known");
    drop(poll.remove(1).expect("the key is known"));
    // A wait may be the last to know a source.
    add(&*poll, 1, source(0), Interest::READ);
    let act = || {
        drop(poll.remove(1).expect("the key is known"));
        poll.notify().expect("notifying does not fail");
    };
    assert_eq!(during(|| wait(&*poll, None), act), []);
    assert_eq!(Arc::strong_count(&poll), 1);
}

/// Law 4: several keys of one descriptor are independent, in whatever order they come and go.
pub fn keys_of_one_descriptor_are_independent<P: Poller>() {
    let poll = new::<P>();
    let (near, far) = UnixStream::pair().expect("a pair of sockets can be made");
    let near: Source = Arc::new(near);
    put(&far);
    // A second number of the same open socket is no second key of the same number.
    let alias = rustix::io::fcntl_dupfd_cloexec(&near, 0).expect("a number is free");
    add(&poll, 0, alias, Interest::WRITE);
    for order in [[1, 2, 3], [2, 1, 3], [3, 1, 2], [1, 3, 2], [3, 2, 1], [2, 3, 1]] {
        for key in 1..=3 {
            if poll.add(key, near.clone(), Interest::NONE).is_err() {
                return; // The mechanism does not allow it.
            }
        }
        let mut expected = vec![(0, Ready::WRITE)];
        assert_eq!(wait(&poll, LOOK), expected);
        for key in order {
            poll.modify(key, Interest::READ).expect("the key is known");
            expected.push((key, Ready::READ));
            expected.sort_by_key(|(key, _)| *key);
            assert_eq!(wait(&poll, LOOK), expected);
        }
        for key in order {
            poll.remove(key).expect("the key is known");
            expected.retain(|(left, _)| *left != key);
            assert_eq!(wait(&poll, LOOK), expected);
            // Its place is free for another one, which goes before the rest does.
            poll.add(key, near.clone(), Interest::WRITE).expect("the key is free");
            poll.remove(key).expect("the key is known");
            assert_eq!(wait(&poll, LOOK), expected);
        }
    }
    assert_eq!(Arc::strong_count(&near), 1);
}

/// Laws 1 and 7: every number of events is told, with a notification and with a file beside them.
pub fn every_number_of_events_is_told<P: Poller>() {
    for count in [1, 2, 126, 127, 128, 129, 130, 255, 256, 257] {
        let poll = new::<P>();
        let counter = Arc::new(counter(1));
        let mut expected = Vec::new();
        for key in 0..count {
            let copy = rustix::io::fcntl_dupfd_cloexec(&counter, 0).expect("a number is free");
            add(&poll, key, copy, Interest::READ);
            expected.push((key, Ready::READ));
        }
        assert_eq!(wait(&poll, None), expected);
        poll.notify().expect("notifying does not fail");
        assert_eq!(wait(&poll, None), expected);
        let file = std::fs::File::open("/").expect("the root can be read");
        add(&poll, count, file, Interest::READ);
        expected.push((count, Ready::READ));
        assert_eq!(wait(&poll, None), expected);
        poll.notify().expect("notifying does not fail");
        assert_eq!(wait(&poll, None), expected);
    }
}

/// Laws 5 and 6: a look ends, and tells of nothing that was removed before it.
pub fn constant_replacement_does_not_delay_a_look<P: Poller>() {
    let poll = new::<P>();
    let over = AtomicBool::new(false);
    let newest = AtomicU64::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            for key in 1.. {
                add(&poll, key, counter(1), Interest::READ);
                poll.remove(key).expect("the key is known");
                newest.store(key, Ordering::SeqCst);
                if over.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        for _ in 0..2_000 {
            let removed = newest.load(Ordering::SeqCst);
            let events = wait(&poll, LOOK);
            assert!(events.iter().all(|(key, _)| *key > removed), "{events:?} after {removed}");
        }
        over.store(true, Ordering::Relaxed);
    });
}

/// Law 2, if the mechanism can tell: a write that fails at once is one that does not block.
pub fn hangup_without_room_is_writable<P: Poller>() {
    if !P::ALWAYS_TOLD.contains(Ready::HANGUP) {
        return;
    }
    let poll = new::<P>();
    let (mut near, far) = UnixStream::pair().expect("a pair of sockets can be made");
    near.set_nonblocking(true).expect("it is a socket");
    while near.write(&[0; 4096]).is_ok() {}
    add(&poll, 1, near, Interest::WRITE);
    assert_eq!(wait(&poll, LOOK), []);
    // Still open, so that what it has got takes up room.
    far.shutdown(std::net::Shutdown::Both).expect("the socket is connected");
    let events = wait(&poll, None);
    assert_eq!(events, [(1, Ready::HANGUP)]);
    assert!(events[0].1.is_writable());
}

/// Laws 1 and 6: what is asked for and ready before and after each of many changes is told by every look.
pub fn constant_change_does_not_hide_an_event<P: Poller>() {
    let poll = new::<P>();
    add(&poll, 1, counter(1), Interest::READ);
    // A look at so many takes longer than a change.
    let idle = Arc::new(counter(0));
    for key in 2..200 {
        poll.add(key, idle.clone(), Interest::NONE).expect("the key is free");
    }
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                poll.modify(1, Interest::READ | Interest::PRIORITY).expect("the key is known");
                poll.modify(1, Interest::READ).expect("the key is known");
            }
        });
        for _ in 0..500 {
            assert_eq!(wait(&poll, LOOK), [(1, Ready::READ)]);
        }
        over.store(true, Ordering::Relaxed);
    });
}

/// Law 2: who finds the data gone that it was woken for, because somebody else has read it, is not told of an end.
pub fn data_read_by_others_is_no_hangup<P: Poller>() {
    let poll = new::<P>();
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).expect("a pipe can be made");
    let other = rustix::io::fcntl_dupfd_cloexec(&reader, 0).expect("a number is free");
    add(&poll, 1, reader, Interest::READ);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                put(&writer);
                rustix::io::read(&other, &mut [0; 1]).expect("there is a byte");
            }
        });
        let hangups = (0..20_000).flat_map(|_| wait(&poll, LOOK)).filter(|event| *event != (1, Ready::READ));
        let hangups = hangups.count();
        over.store(true, Ordering::Relaxed);
        assert_eq!(hangups, 0);
    });
}

/// Law 2: the writing end of a pipe has an error if nobody reads, and no end.
pub fn lost_reader_is_no_hangup<P: Poller>() {
    let poll = new::<P>();
    let (reader, writer) = pipe();
    add(&poll, 1, writer, Interest::READ | Interest::WRITE);
    assert_eq!(wait(&poll, LOOK), [(1, Ready::WRITE)]);
    drop(reader);
    let events = wait(&poll, None);
    assert_eq!(events.len(), 1);
    assert!(events[0].1.is_readable() && events[0].1.is_writable(), "{events:?}");
    assert!(!events[0].1.contains(Ready::HANGUP), "{events:?}");
}
