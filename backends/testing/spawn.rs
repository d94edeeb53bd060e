//! The conformance suite of [`Spawner`]: each function checks a promise of [its contract](crate::spawn) and panics if it
//! is broken.
//!
//! A spawner may need a process with one thread, or a program that enters its units; and some of the functions count
//! descriptors of the whole process. So [`all`] is a list, to be run one after the other by the main thread of a test
//! without harness, whose `main` begins with `S::enter(Entry::Main, unit::<S>)`. Nothing here sleeps to synchronise or
//! expects an end to come soon: a broken promise about ends can make a test hang.
//!
//! All units are the function [`unit()`]. It is given one end of a stream of lines, and does what it is told there:
//!
//! | order | |
//! |---|---|
//! | `return <code>`, `exit <code>`, `panic` | ends so |
//! | `abort` | ends the process by `SIGABRT` |
//! | `checkpoints` | comes to [`checkpoint`]s, until one ends it |
//! | `sleep` | sleeps for ever, whatever is said |
//! | `echo <text>` | says the text |
//! | `numbers` | says its PID and the number of its thread |
//! | `descriptors` | says which are open |
//! | `spawn` | begins a unit of its own, and says its number |
//! | `tell <order>` | gives the order to that unit |
//! | `wait` | waits for the end of that unit, and says it |
//!
//! At the end of the stream it returns [`UNTOLD`].

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, getrlimit, pidfd_open, setrlimit};

use crate::spawn::{Child, Exit, Fork, SpawnError, Spawner, checkpoint, exit};

/// Has the calling thread's unit die by `SIGKILL` at its `checkpoints`-th [`checkpoint`] from now
/// on, as if somebody had killed it there: a process at once, a thread by unwinding. 0 takes that back.
///
/// So a test can let a unit die at each step of an operation, one after the other, until the operation is over before.
pub fn die_at_checkpoint(checkpoints: u64) {
    crate::spawn::unit::injected::die_in(checkpoints);
}

/// The whole suite: a name for each function, and the function for the spawner `S`.
pub fn all<S: Spawner<OwnedFd>>() -> Vec<(&'static str, fn())> {
    macro_rules! list {
        ($($name:ident)*) => { vec![$((stringify!($name), $name::<S> as fn()),)*] };
    }
    let mut tests = list! {
        value_of_run_is_the_exit_code
        unit_is_run_once
        units_begun_together_are_told_apart
        exit_has_its_code
        killed_unit_has_its_signal
        descriptor_is_readable_after_the_end_and_not_before
        exit_is_the_same_as_often_as_asked
        ends_are_told_apart
        wait_in_several_threads_gives_the_same
        given_descriptor_works_and_is_the_unit_s_alone
        panic_is_exit_101
        child_dropped_while_running_goes_on
        signal_reaches_the_unit
        signals_that_are_ignored_by_default_do_nothing
        signal_after_the_end_is_no_error
        unknown_signal_is_an_error
        unit_can_spawn
        two_hundred_units_leave_no_descriptor
        failed_start_leaves_nothing
        failed_start_among_others_leaves_the_others
    };
    if S::PROCESSES {
        tests.extend(list! {
            unit_is_another_process
            aborted_unit_has_its_signal
            only_the_given_descriptor_is_open
            child_dropped_after_its_end_is_reaped
            child_dropped_while_running_is_reaped_by_the_next_spawn
            child_dropped_while_running_is_reaped_by_the_next_drop
            children_of_others_are_not_reaped
            death_of_the_parent_ends_its_units
            end_of_a_unit_ends_its_units
        });
    }
    if S::CARRIES {
        tests.extend(list! { unit_has_what_run_owns units_begun_together_have_what_run_owns });
    }
    tests
}

/// The exit code of a [`unit()`] that nobody has told how to end.
pub const UNTOLD: i32 = 90;

/// What units of the suite do: what they are told, as on the [module page](self).
pub fn unit<S: Spawner<OwnedFd>>(given: OwnedFd) -> i32 {
    let mut link = Link::new(given);
    let mut inner: Option<(S::Child, Link)> = None;
    while let Some(line) = link.hear() {
        let (order, rest) = line.split_once(' ').unwrap_or((&line, ""));
        let code = || rest.parse().expect("an exit code is a number");
        match order {
            "return" => return code(),
            "exit" => exit(code()),
            "panic" => panic!("told to panic"),
            "abort" => {
                // No core file; whether the system obeys is not our concern.
                let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
                std::process::abort()
            }
            "checkpoints" => loop {
                checkpoint();
                std::thread::yield_now();
            },
            "sleep" => loop {
                let _ = rustix::event::poll(&mut [], None);
            },
            "echo" => link.say(rest),
            "numbers" => link.say(&format!("{} {}", std::process::id(), rustix::thread::gettid())),
            "descriptors" => {
                let list: Vec<_> = open_descriptors().iter().map(RawFd::to_string).collect();
                link.say(&list.join(" "));
            }
            "spawn" => {
                let begun = begin::<S>();
                link.say(&begun.0.id().to_string());
                inner = Some(begun);
            }
            "tell" => inner.as_mut().expect("there is one").1.say(rest),
            "wait" => {
                let exit = inner.as_ref().expect("there is one").0.wait().expect("it is ours");
                link.say(&exit.to_string());
            }
            _ => panic!("there is no order {line:?}"),
        }
    }
    UNTOLD
}

/// One end of a stream of lines.
struct Link(BufReader<UnixStream>);

impl Link {
    fn new(fd: OwnedFd) -> Link {
        Link(BufReader::new(UnixStream::from(fd)))
    }

    fn say(&mut self, line: &str) {
        let line = format!("{line}\n");
        self.0.get_mut().write_all(line.as_bytes()).expect("the other end is open");
    }

    /// A line, or `None` at the end of the stream.
    fn hear(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.0.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(line.trim_end().to_owned()),
            // The other end was closed before all that we have said was read.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => None,
            Err(error) => panic!("reading a line failed: {error}"),
        }
    }

    fn ask(&mut self, order: &str) -> String {
        self.say(order);
        self.hear().expect("the unit answers")
    }
}

fn pair() -> (UnixStream, OwnedFd) {
    let (ours, theirs) = UnixStream::pair().expect("descriptors are free");
    (ours, theirs.into())
}

/// Begins a unit, which waits for orders.
fn begin<S: Spawner<OwnedFd>>() -> (S::Child, Link) {
    let (ours, theirs) = pair();
    let child = S::default().spawn(theirs, unit::<S>).expect("a unit can be begun");
    (child, Link::new(ours.into()))
}

/// Begins a unit with one order.
fn told<S: Spawner<OwnedFd>>(order: &str) -> (S::Child, Link) {
    let (child, mut link) = begin::<S>();
    link.say(order);
    (child, link)
}

fn exit_of(child: &impl Child) -> Exit {
    child.wait().expect("the child is ours")
}

fn is_readable(fd: &impl AsFd, timeout: Option<&Timespec>) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::IN)];
    let ready = rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, timeout));
    ready.expect("polling does not fail") == 1
}

fn has_ended(child: &impl AsFd) -> bool {
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

/// Runs a test in a unit of [`Fork`]: it may change its process as it likes. The process must have one thread.
#[track_caller]
pub fn in_a_unit(test: impl FnOnce() + Send + 'static) {
    let child = Fork.fork(&[], || {
        test();
        0
    });
    assert_eq!(child.expect("the process has one thread").wait().expect("the child is ours"), Exit::Code(0));
}

/// The descriptors that are open in this process.
pub fn open_descriptors() -> BTreeSet<RawFd> {
    let listed: Vec<RawFd> = fs::read_dir("/proc/self/fd")
        .expect("a process can list its descriptors")
        .map(|entry| entry.expect("a process can list its descriptors").file_name())
        .map(|name| name.to_string_lossy().parse().expect("the names are numbers"))
        .collect();
    // Without that of the directory, which is closed by now.
    listed.into_iter().filter(|fd| fs::read_link(format!("/proc/self/fd/{fd}")).is_ok()).collect()
}

/// Law 1.
pub fn value_of_run_is_the_exit_code<S: Spawner<OwnedFd>>() {
    for code in [0, 7, 255] {
        let (child, _link) = told::<S>(&format!("return {code}"));
        assert_ne!(child.id(), 0);
        assert_eq!(exit_of(&child), Exit::Code(code));
    }
    // The low eight bits.
    for (value, code) in [(-1, 255), (256, 0), (i32::MAX, 255), (i32::MIN, 0)] {
        assert_eq!(exit_of(&told::<S>(&format!("return {value}")).0), Exit::Code(code));
    }
}

/// Law 1: not twice, and not in the calling thread.
pub fn unit_is_run_once<S: Spawner<OwnedFd>>() {
    let (child, mut link) = begin::<S>();
    let numbers = link.ask("numbers");
    let (_, thread) = numbers.split_once(' ').expect("there are two");
    assert_eq!(thread, child.id().to_string());
    assert_ne!(thread, rustix::thread::gettid().to_string());
    link.say("return 0");
    assert_eq!(link.hear(), None, "nobody else says anything");
    assert_eq!(exit_of(&child), Exit::Code(0));
}

/// Law 1, where `run` is [carried](Spawner::CARRIES).
pub fn unit_has_what_run_owns<S: Spawner<OwnedFd>>() {
    let (_near, far) = pair();
    let owned = String::from("seven");
    let child = S::default().spawn(far, move |_| owned.len() as i32).expect("a unit can be begun");
    assert_eq!(exit_of(&child), Exit::Code(5));
}

/// Law 1, for [`Spawner::spawn_all`].
pub fn units_begun_together_have_what_run_owns<S: Spawner<OwnedFd>>() {
    let (links, given): (Vec<_>, Vec<_>) = (0..5).map(|_| pair()).unzip();
    let runs = (0..5).map(|number| {
        let owned = vec![0_u8; number];
        move |_: OwnedFd| owned.len() as i32
    });
    let children = S::default().spawn_all(given.into_iter().zip(runs).collect());
    let exits: Vec<_> =
        children.iter().map(|child| exit_of(child.as_ref().expect("it can be begun"))).collect();
    assert_eq!(exits, [0, 1, 2, 3, 4].map(Exit::Code));
    drop(links);
}

/// Laws 1 and 3, for [`Spawner::spawn_all`]: each has what it is given, and that of no other.
pub fn units_begun_together_are_told_apart<S: Spawner<OwnedFd>>() {
    assert!(S::default().spawn_all(Vec::<(OwnedFd, fn(OwnedFd) -> i32)>::new()).is_empty());
    let before = open_descriptors();
    let (links, given): (Vec<_>, Vec<_>) = (0..5).map(|_| pair()).unzip();
    let mut links: Vec<_> = links.into_iter().map(|link| Link::new(link.into())).collect();
    let units = given.into_iter().map(|given| (given, unit::<S> as fn(OwnedFd) -> i32)).collect();
    let children = S::default().spawn_all(units);
    let children: Vec<_> = children.into_iter().map(|child| child.expect("it can be begun")).collect();
    for (child, link) in children.iter().zip(&mut links) {
        let numbers = link.ask("numbers");
        let number = numbers.split(' ').nth(usize::from(!S::PROCESSES));
        assert_eq!(number, Some(child.id().to_string().as_str()));
        if S::PROCESSES {
            assert_eq!(link.ask("descriptors").split(' ').count(), 4, "the standard ones, and its own");
        }
    }
    // The end of one is nobody else's.
    for (code, (child, link)) in children.iter().zip(&mut links).enumerate().rev() {
        link.say(&format!("return {code}"));
        assert_eq!(exit_of(child), Exit::Code(code as i32));
        assert_eq!(link.hear(), None);
    }
    drop((children, links));
    assert_eq!(open_descriptors(), before);
}

/// Law 1, for processes.
pub fn unit_is_another_process<S: Spawner<OwnedFd>>() {
    let (child, mut link) = begin::<S>();
    assert_ne!(child.id(), std::process::id());
    assert_eq!(link.ask("numbers").split(' ').next(), Some(child.id().to_string().as_str()));
    assert!(is_our_child(child.id()));
    link.say("return 0");
    assert_eq!(exit_of(&child), Exit::Code(0));
}

/// Law 1.
pub fn exit_has_its_code<S: Spawner<OwnedFd>>() {
    for (value, code) in [(3, 3), (0, 0), (-1, 255), (256, 0)] {
        assert_eq!(exit_of(&told::<S>(&format!("exit {value}")).0), Exit::Code(code));
    }
}

/// Laws 1 and 2.
pub fn killed_unit_has_its_signal<S: Spawner<OwnedFd>>() {
    let (child, _link) = told::<S>("checkpoints");
    child.kill(libc::SIGKILL).expect("the child is ours");
    assert_eq!(exit_of(&child), Exit::Signal { signal: libc::SIGKILL, core: false });
}

/// Laws 1 and 2, for processes.
pub fn aborted_unit_has_its_signal<S: Spawner<OwnedFd>>() {
    let exit = exit_of(&told::<S>("abort").0);
    assert!(matches!(exit, Exit::Signal { signal: libc::SIGABRT, .. }), "{exit}");
}

/// Law 2.
pub fn descriptor_is_readable_after_the_end_and_not_before<S: Spawner<OwnedFd>>() {
    let (child, mut link) = begin::<S>();
    for _ in 0..3 {
        assert!(!has_ended(&child));
        assert_eq!(child.try_wait().expect("the child is ours"), None);
    }
    link.say("return 5");
    until_ended(&child);
    assert!(has_ended(&child), "once more: the state lasts");
    assert_eq!(child.try_wait().expect("the child is ours"), Some(Exit::Code(5)));
    assert!(has_ended(&child), "also after the exit was fetched");
}

/// Law 2.
pub fn exit_is_the_same_as_often_as_asked<S: Spawner<OwnedFd>>() {
    let (child, _link) = told::<S>("return 9");
    for _ in 0..3 {
        assert_eq!(exit_of(&child), Exit::Code(9));
        assert!(has_ended(&child));
        assert_eq!(child.try_wait().expect("the child is ours"), Some(Exit::Code(9)));
    }
}

/// Law 2: each child has its own end.
pub fn ends_are_told_apart<S: Spawner<OwnedFd>>() {
    let mut units: Vec<_> = (0..10).map(|_| begin::<S>()).collect();
    let ids: BTreeSet<_> = units.iter().map(|(child, _)| child.id()).collect();
    assert_eq!(ids.len(), units.len());
    units[4].1.say("return 4");
    assert_eq!(exit_of(&units[4].0), Exit::Code(4));
    for (code, (child, link)) in (0..).zip(&mut units) {
        if code != 4 {
            assert!(!has_ended(child));
            link.say(&format!("return {code}"));
            assert_eq!(exit_of(child), Exit::Code(code));
        }
    }
}

/// Law 2: the methods take `&self`, and a child is `Sync`.
pub fn wait_in_several_threads_gives_the_same<S: Spawner<OwnedFd>>() {
    let (child, mut link) = begin::<S>();
    std::thread::scope(|scope| {
        let waiters: Vec<_> = (0..3).map(|_| scope.spawn(|| child.wait())).collect();
        assert_eq!(child.try_wait().expect("the child is ours"), None);
        link.say("return 6");
        for waiter in waiters {
            let exit = waiter.join().expect("waiting does not panic");
            assert_eq!(exit.expect("the child is ours"), Exit::Code(6));
        }
    });
}

/// Law 3: it is closed in the caller, so that the end of the unit is the end of the stream.
pub fn given_descriptor_works_and_is_the_unit_s_alone<S: Spawner<OwnedFd>>() {
    let before = open_descriptors();
    let (child, mut link) = begin::<S>();
    assert_eq!(link.ask("echo a b  c"), "a b  c");
    link.say("return 0");
    assert_eq!(link.hear(), None);
    assert_eq!(exit_of(&child), Exit::Code(0));
    drop((child, link));
    assert_eq!(open_descriptors(), before);
}

/// Law 3, for processes.
pub fn only_the_given_descriptor_is_open<S: Spawner<OwnedFd>>() {
    let others: Vec<_> = (0..8).map(|_| pair()).collect();
    for free in [None, Some(5), Some(3)] {
        // With neighbours, and with gaps below it.
        let others: Vec<_> = others.iter().skip(free.unwrap_or(0)).collect();
        let (child, mut link) = begin::<S>();
        let listed = link.ask("descriptors");
        let open: BTreeSet<RawFd> = listed.split(' ').map(|fd| fd.parse().expect("a number")).collect();
        let further: Vec<_> = open.iter().filter(|fd| **fd > 2).collect();
        assert_eq!(further.len(), 1, "{listed}");
        assert!(open.is_superset(&BTreeSet::from([0, 1, 2])), "{listed}");
        link.say("return 0");
        assert_eq!(exit_of(&child), Exit::Code(0));
        drop(others);
    }
}

/// Law 4.
pub fn panic_is_exit_101<S: Spawner<OwnedFd>>() {
    let (child, mut link) = told::<S>("panic");
    assert_eq!(link.hear(), None);
    assert_eq!(exit_of(&child), Exit::Code(101));
}

/// Law 5.
pub fn child_dropped_while_running_goes_on<S: Spawner<OwnedFd>>() {
    let (child, mut link) = begin::<S>();
    let watch = watch(&child);
    drop(child);
    assert!(!has_ended(&watch));
    assert_eq!(link.ask("echo here"), "here");
    link.say("return 0");
    until_ended(&watch);
}

/// Law 5, for processes.
pub fn child_dropped_after_its_end_is_reaped<S: Spawner<OwnedFd>>() {
    let (child, _link) = told::<S>("return 0");
    let process = child.id();
    until_ended(&child);
    assert!(is_our_child(process), "nobody has reaped it yet");
    drop(child);
    assert!(!is_our_child(process));
}

/// Begins a unit and drops its handle while it runs; then it ends. Returns its number.
fn orphan<S: Spawner<OwnedFd>>() -> u32 {
    let (child, mut link) = begin::<S>();
    let process = child.id();
    let watch = watch(&child);
    drop(child);
    assert!(is_our_child(process));
    link.say("return 0");
    until_ended(&watch);
    process
}

/// Law 5, for processes.
pub fn child_dropped_while_running_is_reaped_by_the_next_spawn<S: Spawner<OwnedFd>>() {
    let process = orphan::<S>();
    assert!(is_our_child(process));
    let (child, _link) = told::<S>("return 0");
    assert!(!is_our_child(process));
    exit_of(&child);
}

/// Law 5, for processes.
pub fn child_dropped_while_running_is_reaped_by_the_next_drop<S: Spawner<OwnedFd>>() {
    let (other, _link) = begin::<S>();
    let process = orphan::<S>();
    assert!(is_our_child(process));
    drop(other);
    assert!(!is_our_child(process));
}

/// Law 5, for processes.
#[allow(clippy::disallowed_methods, reason = "the test needs a child that no spawner has made")]
pub fn children_of_others_are_not_reaped<S: Spawner<OwnedFd>>() {
    let mut stranger = std::process::Command::new("/bin/sh")
        .args(["-c", "exit 42"])
        .spawn()
        .expect("every Linux has a shell");
    until_ended(&pidfd(stranger.id()));
    orphan::<S>();
    let (child, _link) = told::<S>("return 0");
    exit_of(&child);
    drop(child);
    let status = stranger.wait().expect("nobody else has reaped the stranger");
    assert_eq!(status.code(), Some(42));
}

fn pidfd(process: u32) -> OwnedFd {
    let pid = i32::try_from(process).ok().and_then(Pid::from_raw).expect("it is the number of a process");
    pidfd_open(pid, PidfdFlags::empty()).expect("the process was not reaped")
}

/// Law 6.
pub fn signal_reaches_the_unit<S: Spawner<OwnedFd>>() {
    for signal in [libc::SIGTERM, libc::SIGUSR1, libc::SIGHUP] {
        let (child, mut link) = begin::<S>();
        child.kill(0).expect("signal 0 only asks");
        assert_eq!(link.ask("echo here"), "here");
        child.kill(signal).expect("the child is ours");
        // A process may be gone already.
        let _ = link.0.get_mut().write_all(b"checkpoints\n");
        assert_eq!(exit_of(&child), Exit::Signal { signal, core: false });
    }
}

/// Law 6.
pub fn signals_that_are_ignored_by_default_do_nothing<S: Spawner<OwnedFd>>() {
    let (child, mut link) = begin::<S>();
    for signal in [0, libc::SIGCHLD, libc::SIGWINCH, libc::SIGURG, libc::SIGCONT] {
        child.kill(signal).expect("the child is ours");
        assert_eq!(link.ask("echo here"), "here");
    }
    link.say("return 7");
    assert_eq!(exit_of(&child), Exit::Code(7));
}

/// Law 6.
pub fn signal_after_the_end_is_no_error<S: Spawner<OwnedFd>>() {
    let (child, _link) = told::<S>("return 4");
    until_ended(&child);
    for _ in 0..2 {
        child.kill(libc::SIGKILL).expect("the end is no error");
        assert_eq!(exit_of(&child), Exit::Code(4));
    }
}

/// Law 6.
pub fn unknown_signal_is_an_error<S: Spawner<OwnedFd>>() {
    let (child, mut link) = begin::<S>();
    for signal in [12_345, -1, 65] {
        let result = child.kill(signal);
        assert!(
            matches!(&result, Err(SpawnError::Io { source, .. }) if source.raw_os_error() == Some(libc::EINVAL)),
            "{result:?}"
        );
    }
    link.say("return 2");
    assert_eq!(exit_of(&child), Exit::Code(2));
}

/// A unit, the unit that it has begun and that sleeps, and a descriptor that says when that has ended.
fn family<S: Spawner<OwnedFd>>() -> (S::Child, Link, OwnedFd) {
    let (child, mut link) = begin::<S>();
    let inner = link.ask("spawn").parse().expect("it is a number");
    let watch = pidfd(inner);
    link.say("tell sleep");
    (child, link, watch)
}

/// Law 8, for processes.
pub fn death_of_the_parent_ends_its_units<S: Spawner<OwnedFd>>() {
    let (child, _link, inner) = family::<S>();
    assert!(!has_ended(&inner));
    child.kill(libc::SIGKILL).expect("the child is ours");
    until_ended(&inner);
    assert_eq!(exit_of(&child), Exit::Signal { signal: libc::SIGKILL, core: false });
}

/// Law 8, for processes: also when the parent ends in peace.
pub fn end_of_a_unit_ends_its_units<S: Spawner<OwnedFd>>() {
    let (child, mut link, inner) = family::<S>();
    link.say("return 7");
    until_ended(&inner);
    assert_eq!(exit_of(&child), Exit::Code(7));
}

/// Law 1, for a unit that is itself a caller.
pub fn unit_can_spawn<S: Spawner<OwnedFd>>() {
    let (child, mut link) = begin::<S>();
    link.ask("spawn");
    link.say("tell spawn");
    link.say("tell tell return 20");
    link.say("tell wait");
    link.say("tell return 21");
    assert_eq!(link.ask("wait"), Exit::Code(21).to_string());
    link.say("return 22");
    assert_eq!(exit_of(&child), Exit::Code(22));
}

/// Laws 5 and 7.
pub fn two_hundred_units_leave_no_descriptor<S: Spawner<OwnedFd>>() {
    let before = open_descriptors();
    for _ in 0..200 {
        let (child, _link) = told::<S>("return 0");
        assert_eq!(exit_of(&child), Exit::Code(0));
    }
    assert_eq!(open_descriptors(), before);
}

/// Law 7. The limit of descriptors is that of the whole process.
pub fn failed_start_leaves_nothing<S: Spawner<OwnedFd>>() {
    let before = open_descriptors();
    let (mut ours, theirs) = pair();
    let limit = getrlimit(Resource::Nofile);
    // 0, 1 and 2 are open: no number is left.
    setrlimit(Resource::Nofile, Rlimit { current: Some(3), ..limit }).expect("the limit can be lowered");
    let result = S::default().spawn(theirs, unit::<S>);
    setrlimit(Resource::Nofile, limit).expect("the limit can be raised again");
    let error = result.expect_err("no descriptor was free");
    assert!(matches!(error, SpawnError::Io { .. } | SpawnError::Command { .. }), "{error}");
    // What was given is closed.
    assert_eq!(ours.read(&mut [0]).expect("it can be read"), 0);
    drop(ours);
    assert_eq!(open_descriptors(), before);
}

/// Law 7, for [`Spawner::spawn_all`].
pub fn failed_start_among_others_leaves_the_others<S: Spawner<OwnedFd>>() {
    const UNITS: usize = 20;
    let before = open_descriptors();
    // Numbers for some units, but not for all; those of what is given are too high to be used again.
    let room: Vec<_> = (0..UNITS / 4).map(|_| pair()).collect();
    let (links, given): (Vec<_>, Vec<_>) = (0..UNITS).map(|_| pair()).unzip();
    let highest = room.iter().map(|(ours, theirs)| ours.as_raw_fd().max(theirs.as_raw_fd())).max();
    let highest = highest.expect("there are some").unsigned_abs();
    drop(room);
    let units = given.into_iter().map(|given| (given, unit::<S> as fn(OwnedFd) -> i32)).collect();
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(u64::from(highest) + 1), ..limit })
        .expect("the limit can be lowered");
    let children = S::default().spawn_all(units);
    setrlimit(Resource::Nofile, limit).expect("the limit can be raised again");
    assert_eq!(children.len(), UNITS);
    assert!(children.iter().any(Result::is_ok));
    assert!(children.iter().any(Result::is_err));
    for (child, link) in children.iter().zip(links) {
        let mut link = Link::new(link.into());
        if let Ok(child) = child {
            assert_eq!(link.ask("echo here"), "here");
            link.say("return 3");
            assert_eq!(exit_of(child), Exit::Code(3));
        }
        assert_eq!(link.hear(), None);
    }
    drop(children);
    assert_eq!(open_descriptors(), before);
}
