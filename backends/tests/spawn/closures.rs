//! The laws of `Spawner` over units of `Fork` that are closures, with any number of descriptors: what only a copy of the
//! process can have. Nothing here sleeps to synchronise or expects an end to come soon.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use manycore_backends::spawn::{Child, ChildProcess, Exit, Fork, SpawnError};
use manycore_backends::testing::spawn::open_descriptors;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Resource, Rlimit, setrlimit};

/// All of them: a name for each, and the function.
pub(crate) fn all() -> Vec<(&'static str, fn())> {
    macro_rules! list {
        ($($name:ident)*) => { vec![$((stringify!($name), $name as fn()),)*] };
    }
    list! {
        value_of_run_is_the_exit_code
        unit_is_run_once
        exit_by_itself_has_its_code
        killed_unit_has_its_signal
        aborted_unit_has_its_signal
        descriptor_is_readable_after_the_end_and_not_before
        exit_is_the_same_as_often_as_asked
        ends_are_told_apart
        wait_in_several_threads_gives_the_same
        only_given_descriptors_are_open
        given_descriptors_work
        given_descriptors_stay_open_in_the_caller
        panic_is_exit_101
        child_dropped_after_its_end_is_reaped
        child_dropped_while_running_goes_on
        child_dropped_while_running_is_reaped_by_the_next_spawn
        child_dropped_while_running_is_reaped_by_the_next_drop
        children_of_others_are_not_reaped
        signal_reaches_the_unit
        signal_after_the_end_is_no_error
        unknown_signal_is_an_error
        death_of_the_parent_ends_its_units
        end_of_a_unit_ends_its_units
        unit_can_spawn
        two_hundred_units_leave_no_descriptor
        failed_start_leaves_nothing
    }
}

/// A pipe whose ends can be moved into a unit and kept open for it at the same time.
fn pipe() -> (Arc<OwnedFd>, Arc<OwnedFd>) {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe can be made");
    (Arc::new(reader), Arc::new(writer))
}

fn spawn(keep: &[&OwnedFd], run: impl FnOnce() -> i32 + Send + 'static) -> ChildProcess {
    let keep: Vec<_> = keep.iter().map(AsFd::as_fd).collect();
    Fork.fork(&keep, run).expect("a unit can be begun")
}

/// A unit that runs until the returned end is dropped, or something is written into it; then it ends
/// with `code`.
fn held(code: i32) -> (ChildProcess, Arc<OwnedFd>) {
    let (reader, writer) = pipe();
    let given = reader.clone();
    let child = spawn(&[&reader], move || {
        until_told(&given);
        code
    });
    (child, writer)
}

/// Sleeps until there is something to read, or nobody can write any more.
fn until_told(reader: &OwnedFd) {
    let _ = rustix::io::retry_on_intr(|| rustix::io::read(reader, &mut [0; 1]));
}

/// The bytes until the end of file.
fn read_all(reader: &OwnedFd) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        match rustix::io::retry_on_intr(|| rustix::io::read(reader, &mut buffer)) {
            Ok(0) => return bytes,
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
            Err(errno) => panic!("reading from a pipe failed: {errno}"),
        }
    }
}

fn write_all(writer: &OwnedFd, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let count = rustix::io::retry_on_intr(|| rustix::io::write(writer, bytes));
        bytes = &bytes[count.expect("somebody reads")..];
    }
}

fn is_readable(fd: &impl AsFd, timeout: Option<&Timespec>) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::IN)];
    let ready = rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, timeout));
    ready.expect("polling does not fail") == 1
}

fn has_ended(child: &impl Child) -> bool {
    is_readable(child, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))
}

/// Sleeps until the descriptor says that the unit has ended, and does not reap it.
fn until_ended(child: &impl AsFd) {
    assert!(is_readable(child, None));
}

/// A descriptor that says the same as that of the child, also when the child was dropped.
fn watch(child: &impl Child) -> OwnedFd {
    child.as_fd().try_clone_to_owned().expect("a descriptor is free")
}

/// Whether the process is a child of this one, running or not reaped.
fn is_our_child(process: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{process}/stat")) else { return false };
    let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1));
    parent == Some(std::process::id().to_string().as_str())
}

/// Law 1.
fn value_of_run_is_the_exit_code() {
    for code in [0, 7, 255] {
        let child = spawn(&[], move || code);
        assert_ne!(child.id(), 0);
        assert_eq!(child.wait().expect("the child is ours"), Exit::Code(code));
    }
    // The low eight bits.
    assert_eq!(spawn(&[], || -1).wait().expect("the child is ours"), Exit::Code(255));
    assert_eq!(spawn(&[], || 256).wait().expect("the child is ours"), Exit::Code(0));
}

/// Law 1: not twice, and not in the caller.
fn unit_is_run_once() {
    let (reader, writer) = pipe();
    let caller = std::process::id();
    let given = writer.clone();
    let child = spawn(&[&writer], move || {
        write_all(&given, b"x");
        i32::from(std::process::id() == caller)
    });
    drop(writer);
    assert_eq!(read_all(&reader), b"x");
    assert_eq!(child.wait().expect("the child is ours"), Exit::Code(0));
}

/// Law 1.
fn exit_by_itself_has_its_code() {
    let child = spawn(&[], || std::process::exit(3));
    assert_eq!(child.wait().expect("the child is ours"), Exit::Code(3));
}

/// Laws 1 and 2.
fn killed_unit_has_its_signal() {
    let (child, _hold) = held(0);
    child.kill(libc::SIGKILL).expect("the child is ours");
    let exit = child.wait().expect("the child is ours");
    assert_eq!(exit, Exit::Signal { signal: libc::SIGKILL, core: false });
}

/// Laws 1 and 2.
fn aborted_unit_has_its_signal() {
    let child = spawn(&[], || {
        // No core file; whether the system obeys is not our concern.
        let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
        std::process::abort()
    });
    let exit = child.wait().expect("the child is ours");
    assert!(matches!(exit, Exit::Signal { signal: libc::SIGABRT, .. }), "{exit}");
}

/// Law 2.
fn descriptor_is_readable_after_the_end_and_not_before() {
    let (child, hold) = held(5);
    for _ in 0..3 {
        assert!(!has_ended(&child));
        assert_eq!(child.try_wait().expect("the child is ours"), None);
    }
    drop(hold);
    until_ended(&child);
    assert!(has_ended(&child), "once more: the state lasts");
    assert_eq!(child.try_wait().expect("the child is ours"), Some(Exit::Code(5)));
    assert!(has_ended(&child), "also after the exit was fetched");
}

/// Law 2.
fn exit_is_the_same_as_often_as_asked() {
    let child = spawn(&[], || 9);
    for _ in 0..3 {
        assert_eq!(child.wait().expect("the child is ours"), Exit::Code(9));
        assert_eq!(child.try_wait().expect("the child is ours"), Some(Exit::Code(9)));
    }
}

/// Law 2: each child has its own end.
fn ends_are_told_apart() {
    let units: Vec<_> = (0..10).map(held).collect();
    let ids: BTreeSet<_> = units.iter().map(|(child, _)| child.id()).collect();
    assert_eq!(ids.len(), units.len());
    write_all(&units[4].1, b"x");
    assert_eq!(units[4].0.wait().expect("the child is ours"), Exit::Code(4));
    for (code, (child, hold)) in (0..).zip(&units) {
        if code != 4 {
            assert!(!has_ended(child));
            write_all(hold, b"x");
            assert_eq!(child.wait().expect("the child is ours"), Exit::Code(code));
        }
    }
}

/// Law 2: the methods take `&self`, and a child is `Sync`.
fn wait_in_several_threads_gives_the_same() {
    let (child, hold) = held(6);
    std::thread::scope(|scope| {
        let waiters: Vec<_> = (0..3).map(|_| scope.spawn(|| child.wait())).collect();
        assert_eq!(child.try_wait().expect("the child is ours"), None);
        drop(hold);
        for waiter in waiters {
            let exit = waiter.join().expect("waiting does not panic");
            assert_eq!(exit.expect("the child is ours"), Exit::Code(6));
        }
    });
}

/// Law 3.
fn only_given_descriptors_are_open() {
    let pipes: Vec<_> = (0..8).map(|_| pipe()).collect();
    let (reader, writer) = pipe();
    // Not in order, with gaps and neighbours, one of them twice.
    let keep = [&*writer, &pipes[6].1, &pipes[6].0, &pipes[2].1, &pipes[4].0, &pipes[2].1];
    for keep in [&keep[..], &keep[..3], &keep[..1]] {
        let given = writer.clone();
        let child = spawn(keep, move || {
            let list: Vec<_> = open_descriptors().iter().map(RawFd::to_string).collect();
            write_all(&given, format!("{}\n", list.join(" ")).as_bytes());
            0
        });
        assert_eq!(child.wait().expect("the child is ours"), Exit::Code(0));
        let expected: BTreeSet<RawFd> =
            [0, 1, 2].into_iter().chain(keep.iter().map(|fd| fd.as_raw_fd())).collect();
        let mut buffer = [0; 1024];
        let count = rustix::io::read(&reader, &mut buffer).expect("the unit has written");
        let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
        let seen: BTreeSet<RawFd> =
            text.split_whitespace().map(|fd| fd.parse().expect("the unit writes numbers")).collect();
        assert_eq!(seen, expected);
    }
}

/// Law 3.
fn given_descriptors_work() {
    let (question, ask) = pipe();
    let (answer, reply) = pipe();
    let (given_question, given_reply) = (question.clone(), reply.clone());
    let child = spawn(&[&question, &reply], move || {
        let mut bytes = read_all(&given_question);
        bytes.reverse();
        write_all(&given_reply, &bytes);
        0
    });
    drop(reply);
    write_all(&ask, b"abc");
    drop(ask);
    assert_eq!(read_all(&answer), b"cba", "end of file comes: the unit did not keep the asking end");
    assert_eq!(child.wait().expect("the child is ours"), Exit::Code(0));
}

/// Law 3: what the unit closes is its own.
fn given_descriptors_stay_open_in_the_caller() {
    let before = open_descriptors();
    let (reader, writer) = pipe();
    let during = open_descriptors();
    let child = spawn(&[&reader], || 0);
    child.wait().expect("the child is ours");
    drop(child);
    assert_eq!(open_descriptors(), during);
    drop((reader, writer));
    assert_eq!(open_descriptors(), before);
}

/// Law 4. What prints the message is the panic hook; here it prints to a pipe.
fn panic_is_exit_101() {
    let (reader, writer) = pipe();
    let given = writer.clone();
    let child = spawn(&[&writer], move || {
        std::panic::set_hook(Box::new(move |info| write_all(&given, info.to_string().as_bytes())));
        panic!("out of cheese")
    });
    drop(writer);
    let message = String::from_utf8(read_all(&reader)).expect("messages are text");
    assert!(message.contains("out of cheese"), "{message}");
    assert_eq!(child.wait().expect("the child is ours"), Exit::Code(101));
}

/// Law 5.
fn child_dropped_after_its_end_is_reaped() {
    let child = spawn(&[], || 0);
    let process = child.id();
    until_ended(&child);
    assert!(is_our_child(process), "nobody has reaped it yet");
    drop(child);
    assert!(!is_our_child(process));
}

/// Law 5.
fn child_dropped_while_running_goes_on() {
    let (question, ask) = pipe();
    let (answer, reply) = pipe();
    let (given_question, given_reply) = (question.clone(), reply.clone());
    let child = spawn(&[&question, &reply], move || {
        until_told(&given_question);
        write_all(&given_reply, b"here");
        0
    });
    let watch = watch(&child);
    drop(child);
    drop(reply);
    assert!(!is_readable(&watch, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })));
    drop(ask);
    assert_eq!(read_all(&answer), b"here");
    until_ended(&watch);
}

/// Law 5.
fn child_dropped_while_running_is_reaped_by_the_next_spawn() {
    let (child, hold) = held(0);
    let process = child.id();
    let watch = watch(&child);
    drop(child);
    assert!(is_our_child(process));
    drop(hold);
    until_ended(&watch);
    let other = spawn(&[], || 0);
    assert!(!is_our_child(process));
    other.wait().expect("the child is ours");
}

/// Law 5.
fn child_dropped_while_running_is_reaped_by_the_next_drop() {
    let (other, other_hold) = held(0);
    let (child, hold) = held(0);
    let process = child.id();
    let watch = watch(&child);
    drop(child);
    drop(hold);
    until_ended(&watch);
    assert!(is_our_child(process));
    drop(other);
    assert!(!is_our_child(process));
    drop(other_hold);
}

/// Law 5.
#[allow(clippy::disallowed_methods, reason = "the test needs a child that no spawner has made")]
fn children_of_others_are_not_reaped() {
    let mut stranger = std::process::Command::new("/bin/sh")
        .args(["-c", "exit 42"])
        .spawn()
        .expect("every Linux has a shell");
    let pid = rustix::process::Pid::from_child(&stranger);
    let watch = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
        .expect("the stranger was not reaped");
    until_ended(&watch);
    let (child, hold) = held(0);
    drop(child);
    drop(hold);
    spawn(&[], || 0).wait().expect("the child is ours");
    drop(spawn(&[], || 0));
    let status = stranger.wait().expect("nobody else has reaped the stranger");
    assert_eq!(status.code(), Some(42));
}

/// Law 6.
fn signal_reaches_the_unit() {
    for signal in [libc::SIGTERM, libc::SIGUSR1, libc::SIGHUP] {
        let (child, _hold) = held(0);
        child.kill(0).expect("signal 0 only asks");
        assert!(!has_ended(&child));
        child.kill(signal).expect("the child is ours");
        assert_eq!(child.wait().expect("the child is ours"), Exit::Signal { signal, core: false });
    }
}

/// Law 6.
fn signal_after_the_end_is_no_error() {
    let child = spawn(&[], || 4);
    until_ended(&child);
    child.kill(libc::SIGKILL).expect("the end is no error");
    assert_eq!(child.wait().expect("the child is ours"), Exit::Code(4));
    child.kill(libc::SIGKILL).expect("the end is no error");
    assert_eq!(child.wait().expect("the child is ours"), Exit::Code(4));
}

/// Law 6.
fn unknown_signal_is_an_error() {
    let (child, hold) = held(2);
    let result = child.kill(12_345);
    assert!(
        matches!(&result, Err(SpawnError::Io { source, .. }) if source.raw_os_error() == Some(libc::EINVAL)),
        "{result:?}"
    );
    drop(hold);
    assert_eq!(child.wait().expect("the child is ours"), Exit::Code(2));
}

/// Begins a unit that itself begins one, which says a byte through `living` and then sleeps until `held`
/// is closed. What the outer unit does then is `outer`.
fn family(
    held: Arc<OwnedFd>,
    living: Arc<OwnedFd>,
    outer: impl FnOnce(ChildProcess) -> i32 + Send + 'static,
) -> ChildProcess {
    let given = (held.clone(), living.clone());
    spawn(&[&held, &living], move || {
        let (held, living) = (given.0.clone(), given.1.clone());
        let inner = spawn(&[&given.0, &given.1], move || {
            write_all(&living, b"x");
            until_told(&held);
            0
        });
        outer(inner)
    })
}

/// Law 8.
fn death_of_the_parent_ends_its_units() {
    let (held, _hold) = pipe();
    let (alive, living) = pipe();
    let child = family(held, living, |inner| {
        inner.wait().expect("the child is ours");
        0
    });
    assert_eq!(rustix::io::read(&alive, &mut [0]).expect("the inner unit writes"), 1);
    child.kill(libc::SIGKILL).expect("the child is ours");
    assert_eq!(read_all(&alive), b"", "end of file comes: the inner unit is gone, too");
    let exit = child.wait().expect("the child is ours");
    assert_eq!(exit, Exit::Signal { signal: libc::SIGKILL, core: false });
}

/// Law 8: also when the parent ends in peace.
fn end_of_a_unit_ends_its_units() {
    let (held, _hold) = pipe();
    let (alive, living) = pipe();
    let child = family(held, living, |inner| {
        drop(inner);
        7
    });
    // Nothing, if the inner unit was ended before it could write.
    assert!(read_all(&alive).len() <= 1);
    assert_eq!(child.wait().expect("the child is ours"), Exit::Code(7));
}

/// Law 1, for a unit that is itself a caller.
fn unit_can_spawn() {
    let child = spawn(&[], || {
        let inner = spawn(&[], || match spawn(&[], || 20).wait() {
            Ok(Exit::Code(code)) => code + 1,
            _ => 0,
        });
        match inner.wait() {
            Ok(Exit::Code(code)) => code + 1,
            _ => 0,
        }
    });
    assert_eq!(child.wait().expect("the child is ours"), Exit::Code(22));
}

/// Laws 5 and 7.
fn two_hundred_units_leave_no_descriptor() {
    let before = open_descriptors();
    for _ in 0..200 {
        let child = spawn(&[], || 0);
        assert_eq!(child.wait().expect("the child is ours"), Exit::Code(0));
    }
    assert_eq!(open_descriptors(), before);
}

/// Law 7. In a unit, which then has a low limit of descriptors for itself.
fn failed_start_leaves_nothing() {
    let child = spawn(&[], || {
        let before = open_descriptors();
        // 0, 1 and 2 are open: no number is left.
        setrlimit(Resource::Nofile, Rlimit { current: Some(3), maximum: Some(100) })
            .expect("the limit can be lowered");
        let result = Fork.fork(&[], || 0);
        setrlimit(Resource::Nofile, Rlimit { current: Some(100), maximum: Some(100) })
            .expect("the limit can be raised again");
        assert!(matches!(result, Err(SpawnError::Io { .. })), "{result:?}");
        assert_eq!(open_descriptors(), before);
        let no_child = rustix::process::wait(rustix::process::WaitOptions::NOHANG);
        assert_eq!(no_child.map(|_| ()), Err(rustix::io::Errno::CHILD));
        0
    });
    assert_eq!(child.wait().expect("the child is ours"), Exit::Code(0));
}
