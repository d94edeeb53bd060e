//! Children are watched by a pidfd or, where the system has none, by `SIGCHLD`, and it makes no difference; each is
//! reaped by who watches it, once; lists of children signal those that the rules choose, and nobody else.
//!
//! A program without the test harness: the harness runs tests in threads, and `Fork` refuses those.

#[path = "spawn/closures.rs"]
mod closures;

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use manycore_backends::poll::{Epoll, Interest, Notifier, Poller, poll_single};
use manycore_backends::posix::process::{process_group, start_process_group};
use manycore_backends::spawn::{
    Child, ChildProcess, Children, Command, Entry, Exec, Exit, Fork, Group, KillAll, Member, SpawnError,
    Spawner, WatchBy,
};
use manycore_backends::testing::run_tests;
use manycore_backends::testing::spawn::{all, in_a_unit, open_descriptors, unit};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

const MECHANISMS: [WatchBy; 2] = [WatchBy::Descriptor, WatchBy::Signal];

/// What was open when the program began.
static INHERITED: OnceLock<BTreeSet<i32>> = OnceLock::new();

fn main() -> ExitCode {
    Exec::enter(Entry::Main, unit::<Exec>);
    INHERITED.get_or_init(open_descriptors);
    let mut tests: Vec<(&'static str, fn())> = Vec::new();
    macro_rules! list {
        ($($name:ident)*) => { $(tests.push((stringify!($name), $name as fn()));)* };
    }
    list! {
        end_is_told_by_the_descriptor_and_by_asking
        child_that_ended_before_it_is_watched_is_as_good
        stopping_is_no_end
        thousand_children_can_be_watched_at_once
        child_that_is_not_ours_is_refused
        ignored_child_is_reaped
        forgotten_child_is_left_to_the_caller
        child_reaped_by_somebody_else_is_told_and_not_signalled
        handler_that_was_there_before_is_still_called
        blocked_signal_delays_only_the_descriptor
        handle_in_a_forked_child_is_of_no_use_and_no_harm
        unit_watches_its_own_children_by_the_signal
        unit_watches_its_own_signals
        signal_that_nobody_watches_any_more_has_its_default_action_again
        signal_that_was_ignored_before_it_was_watched_is_ignored_again
        handlers_of_others_outlive_the_watches
        unit_gives_its_own_signals_back
        whole_contract_holds_without_pidfd_and_close_range
        all_children_are_killed_by_the_rules
        all_groups_are_killed_once_each_by_the_rules
        group_is_killed_only_if_a_child_of_it_is_there
        group_of_a_child_that_ended_is_reached_until_it_is_reaped
        child_that_left_its_group_does_not_stand_for_it
        list_forgets_who_was_reaped_and_knows_orphans
        child_is_listed_once
        started_commands_are_listed_with_their_group
        nothing_is_left
    }
    run_tests(&tests);
    ExitCode::SUCCESS
}

fn pipe() -> (Arc<OwnedFd>, Arc<OwnedFd>) {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe can be made");
    (Arc::new(reader), Arc::new(writer))
}

/// The number of a child that nobody watches and that runs until the returned end is dropped, then exits with `code`.
fn unwatched(code: i32) -> (u32, Arc<OwnedFd>) {
    let (reader, writer) = pipe();
    let given = reader.clone();
    let child = Fork.fork(&[reader.as_fd()], move || {
        let _ = rustix::io::retry_on_intr(|| rustix::io::read(&given, &mut [0; 1]));
        code
    });
    let id = child.expect("the process has one thread").forget().expect("nobody has reaped it");
    (id, writer)
}

/// The same, watched.
fn watched(by: WatchBy, code: i32) -> (ChildProcess, Arc<OwnedFd>) {
    let (id, hold) = unwatched(code);
    (ChildProcess::watch(id, by).expect("it is a child of ours"), hold)
}

/// A child in a group of its own, that runs until the returned end is dropped. What it is to do in its group before, it
/// has done.
fn in_own_group(act: impl FnOnce() + Send + 'static) -> (ChildProcess, Arc<OwnedFd>) {
    let (reader, hold) = pipe();
    let (ready, tell) = pipe();
    let given = (reader.clone(), tell.clone());
    let child = Fork.fork(&[reader.as_fd(), tell.as_fd()], move || {
        start_process_group().expect("it leads no session");
        act();
        rustix::io::write(&given.1, b"x").expect("somebody reads");
        let _ = rustix::io::retry_on_intr(|| rustix::io::read(&given.0, &mut [0; 1]));
        0
    });
    assert_eq!(rustix::io::read(&ready, &mut [0; 1]), Ok(1));
    (child.expect("the process has one thread"), hold)
}

fn has_ended(child: &ChildProcess) -> bool {
    let look = Some(std::time::Duration::ZERO);
    !poll_single(child.as_fd(), Interest::READ, look).expect("polling does not fail").is_none()
}

fn until_ended(child: &ChildProcess) {
    poll_single(child.as_fd(), Interest::READ, None).expect("polling does not fail");
}

fn pid(id: u32) -> Pid {
    Pid::from_raw(i32::try_from(id).expect("it is a number of a process")).expect("it is not zero")
}

/// Whether the process is a child of this one that was not reaped.
fn is_unreaped(id: u32) -> bool {
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    waitid(WaitId::Pid(pid(id)), look).is_ok()
}

fn reap(id: u32) -> Option<i32> {
    let status = waitid(WaitId::Pid(pid(id)), WaitIdOptions::EXITED).expect("it is a child of ours");
    status.and_then(|status| status.exit_status())
}

fn errno_of(error: &SpawnError) -> Option<Errno> {
    match error {
        SpawnError::Io { source, .. } => Errno::from_io_error(source),
        _ => None,
    }
}

fn end_is_told_by_the_descriptor_and_by_asking() {
    for by in MECHANISMS {
        let (child, hold) = watched(by, 7);
        for _ in 0..3 {
            assert!(!has_ended(&child), "{by:?}");
            assert_eq!(child.try_wait().expect("the child is ours"), None);
        }
        drop(hold);
        until_ended(&child);
        assert!(is_unreaped(child.id()), "nobody has asked");
        assert_eq!(child.try_wait().expect("the child is ours"), Some(Exit::Code(7)));
        assert_eq!(child.wait().expect("the child is ours"), Exit::Code(7));
        assert!(has_ended(&child), "the state lasts");
        assert!(!is_unreaped(child.id()));

        let (child, _hold) = watched(by, 7);
        child.kill(libc::SIGKILL).expect("the child is ours");
        let exit = Exit::Signal { signal: libc::SIGKILL, core: false };
        assert_eq!(child.wait().expect("the child is ours"), exit);
        child.kill(libc::SIGKILL).expect("the end is no error");
    }
}

fn child_that_ended_before_it_is_watched_is_as_good() {
    for by in MECHANISMS {
        let (id, hold) = unwatched(8);
        drop(hold);
        let end = waitid(WaitId::Pid(pid(id)), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
        assert!(end.is_ok_and(|end| end.is_some()));
        let child = ChildProcess::watch(id, by).expect("it was not reaped");
        assert!(has_ended(&child), "{by:?}");
        assert_eq!(child.wait().expect("the child is ours"), Exit::Code(8));
    }
}

fn stopping_is_no_end() {
    for by in MECHANISMS {
        let (child, hold) = watched(by, 3);
        child.kill(libc::SIGSTOP).expect("the child is ours");
        let stopped = WaitIdOptions::STOPPED | WaitIdOptions::NOWAIT;
        assert!(waitid(WaitId::Pid(pid(child.id())), stopped).is_ok_and(|status| status.is_some()));
        assert!(!has_ended(&child), "{by:?}");
        assert_eq!(child.try_wait().expect("the child is ours"), None);
        child.kill(libc::SIGCONT).expect("the child is ours");
        drop(hold);
        until_ended(&child);
        assert_eq!(child.wait().expect("the child is ours"), Exit::Code(3));
    }
}

fn thousand_children_can_be_watched_at_once() {
    for by in MECHANISMS {
        let before = open_descriptors();
        let (reader, hold) = pipe();
        let epoll = Epoll::new().expect("a descriptor is free");
        let mut left = BTreeSet::new();
        let children: Vec<Arc<ChildProcess>> = (0..1_000_i32)
            .map(|number| {
                let given = reader.clone();
                let child = Fork.fork(&[reader.as_fd()], move || {
                    let _ = rustix::io::retry_on_intr(|| rustix::io::read(&given, &mut [0; 1]));
                    number % 100
                });
                let id = child.expect("the process has one thread").forget().expect("it runs");
                let child = Arc::new(ChildProcess::watch(id, by).expect("it is ours"));
                let key = u64::from(number.unsigned_abs());
                epoll.add(key, child.clone(), Interest::READ).expect("the key is free");
                left.insert(key);
                child
            })
            .collect();
        drop(hold);
        let mut events = Vec::new();
        while !left.is_empty() {
            epoll.wait(&mut events, None).expect("waiting does not fail");
            for event in &events {
                let key = usize::try_from(event.key).expect("it is an index");
                let exit = children[key].try_wait().expect("the child is ours");
                assert_eq!(exit, Some(Exit::Code(event.key as i32 % 100)), "{by:?}");
                assert!(left.remove(&event.key), "told once, for it is removed then");
                epoll.remove(event.key).expect("the key is known");
            }
        }
        drop((children, reader, epoll));
        assert_eq!(open_descriptors(), before);
    }
}

fn child_that_is_not_ours_is_refused() {
    for by in MECHANISMS {
        let before = open_descriptors();
        let (reaped, hold) = unwatched(0);
        drop(hold);
        assert_eq!(reap(reaped), Some(0));
        let parent = std::os::unix::process::parent_id();
        for id in [reaped, 0, 1, parent, std::process::id(), u32::MAX, i32::MAX.unsigned_abs()] {
            let error = ChildProcess::watch(id, by).expect_err("it is not a child of ours");
            assert_eq!(errno_of(&error), Some(Errno::CHILD), "{id}: {error}");
        }
        assert_eq!(open_descriptors(), before);
    }
    in_a_unit(|| {
        let (id, hold) = unwatched(0);
        // SAFETY: the action is to ignore.
        unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
        let error = ChildProcess::watch(id, WatchBy::Best).expect_err("nobody could learn of its end");
        assert!(matches!(error, SpawnError::EndsIgnored), "{error}");
        drop(hold);
    });
}

fn ignored_child_is_reaped() {
    for by in MECHANISMS {
        let (child, hold) = watched(by, 0);
        let id = child.id();
        let watch = child.as_fd().try_clone_to_owned().expect("a descriptor is free");
        child.ignore();
        assert!(is_unreaped(id), "it goes on");
        drop(hold);
        if by == WatchBy::Descriptor {
            poll_single(watch.as_fd(), Interest::READ, None).expect("polling does not fail");
        } else {
            let end = waitid(WaitId::Pid(pid(id)), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
            assert!(end.is_ok());
        }
        in_a_unit(|| ()); // Starts something, and so looks for orphans.
        assert!(!is_unreaped(id), "{by:?}");
    }
}

fn forgotten_child_is_left_to_the_caller() {
    for by in MECHANISMS {
        let before = open_descriptors();
        let (child, hold) = watched(by, 9);
        let id = child.forget().expect("it was not reaped");
        drop(hold);
        let end = waitid(WaitId::Pid(pid(id)), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
        assert!(end.is_ok());
        in_a_unit(|| ());
        assert!(is_unreaped(id), "nobody else has reaped it");
        assert_eq!(reap(id), Some(9));
        assert_eq!(open_descriptors(), before);

        let (child, hold) = watched(by, 9);
        drop(hold);
        child.wait().expect("the child is ours");
        assert_eq!(child.forget(), None, "nothing is left to do");
    }
}

fn child_reaped_by_somebody_else_is_told_and_not_signalled() {
    for by in MECHANISMS {
        let (child, hold) = watched(by, 0);
        drop(hold);
        until_ended(&child);
        assert_eq!(reap(child.id()), Some(0));
        child.kill(libc::SIGKILL).expect("there is nobody to signal");
        assert!(!child.kill_group(child.id(), libc::SIGKILL).expect("there is nobody to signal"));
        for result in [child.wait().map(Some), child.try_wait()] {
            assert_eq!(errno_of(&result.expect_err("the exit is lost")), Some(Errno::CHILD), "{by:?}");
        }
        assert!(has_ended(&child));
    }
}

fn handler_that_was_there_before_is_still_called() {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    extern "C" fn count(_: libc::c_int) {
        CALLS.fetch_add(1, Ordering::SeqCst);
    }
    in_a_unit(|| {
        in_a_unit(|| {
            let handler = count as extern "C" fn(libc::c_int) as libc::sighandler_t;
            // SAFETY: the handler is one atomic addition, which is async-signal-safe.
            unsafe { libc::signal(libc::SIGCHLD, handler) };
            let (child, hold) = watched(WatchBy::Signal, 0);
            let before = CALLS.load(Ordering::SeqCst);
            drop(hold);
            until_ended(&child);
            assert!(CALLS.load(Ordering::SeqCst) > before);
            drop(child);
        });
    });
}

fn blocked_signal_delays_only_the_descriptor() {
    in_a_unit(|| {
        let (child, hold) = watched(WatchBy::Signal, 4);
        // SAFETY: all zeroes is a value of this plain C structure.
        let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: the pointer is to a local.
        unsafe { libc::sigaddset(&mut set, libc::SIGCHLD) };
        // SAFETY: the pointer is to a local; null means that the old mask is not wanted.
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) };
        drop(hold);
        assert!(waitid(WaitId::Pid(pid(child.id())), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).is_ok());
        assert!(!has_ended(&child));
        // SAFETY: as above.
        unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, std::ptr::null_mut()) };
        until_ended(&child);
        assert_eq!(child.wait().expect("the child is ours"), Exit::Code(4));
    });
}

fn handle_in_a_forked_child_is_of_no_use_and_no_harm() {
    for by in MECHANISMS {
        let (child, hold) = watched(by, 6);
        let carried = Arc::new(child);
        let child = carried.clone();
        in_a_unit(move || {
            let before = open_descriptors();
            assert_eq!(errno_of(&carried.try_wait().expect_err("it is a sibling")), Some(Errno::CHILD));
            assert_eq!(errno_of(&carried.wait().expect_err("it is a sibling")), Some(Errno::CHILD));
            let refused = carried.kill(libc::SIGKILL).expect_err("it is a sibling");
            assert_eq!(errno_of(&refused), Some(Errno::PERM));
            let refused = carried.kill_group(carried.id(), libc::SIGKILL).expect_err("it is a sibling");
            assert_eq!(errno_of(&refused), Some(Errno::PERM));
            drop(carried);
            assert_eq!(open_descriptors(), before);
        });
        drop(hold);
        assert_eq!(child.wait().expect("the child is ours"), Exit::Code(6), "{by:?}");
    }
}

fn unit_watches_its_own_children_by_the_signal() {
    // The parent watches by the signal, too; its handler was dropped in the unit.
    let (child, hold) = watched(WatchBy::Signal, 1);
    in_a_unit(|| {
        for code in [2, 3] {
            let (child, hold) = watched(WatchBy::Signal, code);
            assert!(!has_ended(&child));
            drop(hold);
            until_ended(&child);
            assert_eq!(child.wait().expect("the child is ours"), Exit::Code(code));
        }
    });
    assert!(!has_ended(&child));
    drop(hold);
    until_ended(&child);
    assert_eq!(child.wait().expect("the child is ours"), Exit::Code(1));
}

fn unit_watches_its_own_signals() {
    let notifier = Notifier::new().expect("a descriptor is free");
    let watch = notifier.watch_signal(libc::SIGTERM).expect("the signal can be watched");
    // The default action again, and none of the parent's.
    let child = Fork.fork(&[notifier.as_fd()], || {
        // SAFETY: takes an integer.
        unsafe { libc::raise(libc::SIGTERM) };
        0
    });
    let exit = child.expect("the process has one thread").wait().expect("the child is ours");
    assert_eq!(exit, Exit::Signal { signal: libc::SIGTERM, core: false });
    in_a_unit(|| {
        let own = Notifier::new().expect("a descriptor is free");
        let watch = own.watch_signal(libc::SIGTERM).expect("the signal can be watched");
        // SAFETY: takes an integer.
        unsafe { libc::raise(libc::SIGTERM) };
        assert!(own.consume().expect("it does not fail"));
        drop(watch);
    });
    assert!(!notifier.consume().expect("it does not fail"));
    drop(watch);
}

fn raise(signal: libc::c_int) {
    // SAFETY: takes an integer.
    assert_eq!(unsafe { libc::raise(signal) }, 0);
}

/// What a unit that does this ends with.
fn exit_of_unit(run: impl FnOnce() + Send + 'static) -> Exit {
    let child = Fork.fork(&[], || {
        run();
        0
    });
    child.expect("the process has one thread").wait().expect("the child is ours")
}

const TERMINATED: Exit = Exit::Signal { signal: libc::SIGTERM, core: false };

fn signal_that_nobody_watches_any_more_has_its_default_action_again() {
    let exit = exit_of_unit(|| {
        let notifier = Notifier::new().expect("a descriptor is free");
        drop(notifier.watch_signal(libc::SIGTERM).expect("the signal can be watched"));
        raise(libc::SIGTERM);
    });
    assert_eq!(exit, TERMINATED);
    let (reader, told) = pipe();
    let given = told.clone();
    let child = Fork.fork(&[told.as_fd()], move || {
        let notifiers = [(); 2].map(|()| Notifier::new().expect("a descriptor is free"));
        for _ in 0..3 {
            let [first, second] = &notifiers;
            let first_watch = first.watch_signal(libc::SIGTERM).expect("the signal can be watched");
            let second_watch = second.watch_signal(libc::SIGTERM).expect("the signal can be watched");
            drop(first_watch);
            raise(libc::SIGTERM);
            assert!(!first.consume().expect("it does not fail"));
            assert!(second.consume().expect("it does not fail"));
            drop(second_watch);
        }
        rustix::io::write(&given, b"x").expect("the test reads");
        raise(libc::SIGTERM);
        0
    });
    let exit = child.expect("the process has one thread").wait().expect("the child is ours");
    assert_eq!(exit, TERMINATED);
    assert_eq!(rustix::io::read(&reader, &mut [0; 2]), Ok(1), "it came to its last step");
}

fn signal_that_was_ignored_before_it_was_watched_is_ignored_again() {
    in_a_unit(|| {
        // SAFETY: the action is to ignore.
        unsafe { libc::signal(libc::SIGHUP, libc::SIG_IGN) };
        let notifier = Notifier::new().expect("a descriptor is free");
        let watch = notifier.watch_signal(libc::SIGHUP).expect("the signal can be watched");
        raise(libc::SIGHUP);
        assert!(notifier.consume().expect("it does not fail"));
        drop(watch);
        raise(libc::SIGHUP);
        assert!(!notifier.consume().expect("it does not fail"));
        // SAFETY: the action is the default.
        assert_eq!(unsafe { libc::signal(libc::SIGHUP, libc::SIG_DFL) }, libc::SIG_IGN);
    });
}

fn handlers_of_others_outlive_the_watches() {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    extern "C" fn count(_: libc::c_int) {
        CALLS.fetch_add(1, Ordering::SeqCst);
    }
    fn install() {
        // SAFETY: the handler is one atomic addition, which is async-signal-safe.
        unsafe { libc::signal(libc::SIGTERM, count as extern "C" fn(libc::c_int) as libc::sighandler_t) };
    }
    // Installed before the first watch; between two; in the place of ours; and in the place of ours, with a watch after.
    for case in 0..4 {
        in_a_unit(move || {
            let notifier = Notifier::new().expect("a descriptor is free");
            let watch = || notifier.watch_signal(libc::SIGTERM).expect("the signal can be watched");
            if case == 0 {
                install();
            }
            let first = watch();
            if case == 1 {
                drop(first);
                install();
                drop(watch());
            } else {
                if case >= 2 {
                    install();
                }
                if case == 3 {
                    drop(watch());
                }
                drop(first);
            }
            raise(libc::SIGTERM);
            assert!(!notifier.consume().expect("it does not fail"));
            assert_eq!(CALLS.load(Ordering::SeqCst), 1, "{case}");
        });
    }
}

fn unit_gives_its_own_signals_back() {
    in_a_unit(|| {
        let notifier = Notifier::new().expect("a descriptor is free");
        let watch = notifier.watch_signal(libc::SIGTERM).expect("the signal can be watched");
        // That the parent watches does not count in the unit.
        let exit = exit_of_unit(|| {
            let own = Notifier::new().expect("a descriptor is free");
            drop(own.watch_signal(libc::SIGTERM).expect("the signal can be watched"));
            raise(libc::SIGTERM);
        });
        assert_eq!(exit, TERMINATED);
        raise(libc::SIGTERM);
        assert!(notifier.consume().expect("it does not fail"));
        drop(watch);
    });
}

/// Has the kernel say that it does not know these system calls, as an old one or a sandbox would.
fn forbid(calls: &[libc::c_long]) {
    let statement = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    // The number of the call is the first word of what the filter sees.
    let mut program = vec![statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0)];
    for call in calls {
        program.push(statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, *call as u32));
        let refuse = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
        program.push(statement(libc::BPF_RET | libc::BPF_K, 0, 0, refuse));
    }
    program.push(statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW));
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: takes integers.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    // SAFETY: the filter is a local that outlives the call.
    let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &filter) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

fn whole_contract_holds_without_pidfd_and_close_range() {
    // Those make a pidfd themselves.
    const EXCEPT: [&str; 3] = [
        "children_of_others_are_not_reaped",
        "death_of_the_parent_ends_its_units",
        "end_of_a_unit_ends_its_units",
    ];
    let suite = all::<Fork>().into_iter().chain(all::<Exec>()).filter(|(name, _)| !EXCEPT.contains(name));
    for (name, test) in suite.chain(closures::all()) {
        if name == EXCEPT[0] {
            continue;
        }
        let child = Fork.fork(&[], move || {
            forbid(&[libc::SYS_pidfd_open, libc::SYS_close_range, libc::SYS_pidfd_send_signal]);
            test();
            0
        });
        let exit = child.expect("the process has one thread").wait().expect("the child is ours");
        assert_eq!(exit, Exit::Code(0), "{name}");
    }
}

fn ids(children: &[&ChildProcess]) -> BTreeSet<u32> {
    children.iter().map(|child| child.id()).collect()
}

/// Those that a signal has ended; the others are told to end, and have their code.
fn killed(children: &[(ChildProcess, Arc<OwnedFd>)]) -> BTreeSet<u32> {
    let mut killed = BTreeSet::new();
    for (child, hold) in children {
        rustix::io::write(hold, b"x").ok(); // EPIPE: it is gone.
        if child.wait().expect("the child is ours") == (Exit::Signal { signal: libc::SIGKILL, core: false }) {
            killed.insert(child.id());
        }
    }
    killed
}

/// Four children: flagged or not, in a group of their own or not; all in the list.
fn four(list: &Children) -> Vec<(ChildProcess, Arc<OwnedFd>)> {
    let mut children = Vec::new();
    for (kill, grouped) in [(true, false), (true, true), (false, false), (false, true)] {
        let (child, hold) = if grouped { in_own_group(|| ()) } else { watched(WatchBy::Best, 0) };
        list.list(&child, Member { group: grouped.then(|| child.id()), kill });
        children.push((child, hold));
    }
    children
}

fn all_children_are_killed_by_the_rules() {
    for (unflagged, without_group, expected) in [
        (false, false, &[0, 1][..]),
        (false, true, &[0]),
        (true, false, &[0, 1, 2, 3]),
        (true, true, &[0, 2]),
    ] {
        let list = Children::new();
        let children = four(&list);
        assert_eq!(list.listed().len(), 4);
        list.kill_all(libc::SIGKILL, KillAll { unflagged, without_group }).expect("they are ours");
        let expected: Vec<_> = expected.iter().map(|index| &children[*index].0).collect();
        let expected = ids(&expected);
        // Who is to be killed dies without being told to end; for the others that would be waited for in vain.
        for (child, _) in children.iter().filter(|(child, _)| expected.contains(&child.id())) {
            until_ended(child);
        }
        assert_eq!(killed(&children), expected, "{unflagged} {without_group}");
        assert_eq!(list.listed(), []);
        list.kill_all(libc::SIGKILL, KillAll { unflagged: true, without_group: false })
            .expect("nobody is left");
    }
    // A signal that does not exist is an error, if there is somebody to send it to.
    let list = Children::new();
    list.kill_all(12_345, KillAll::default()).expect("nobody is there");
    let (child, hold) = watched(WatchBy::Best, 0);
    list.list(&child, Member { group: None, kill: true });
    let error = list.kill_all(12_345, KillAll::default()).expect_err("there is no such signal");
    assert_eq!(errno_of(&error), Some(Errno::INVAL));
    drop(hold);
}

fn all_groups_are_killed_once_each_by_the_rules() {
    for (unflagged, expected) in [(false, &[1][..]), (true, &[1, 3])] {
        let list = Children::new();
        let children = four(&list);
        list.kill_all_groups(libc::SIGKILL, unflagged).expect("they are ours");
        let expected: Vec<_> = expected.iter().map(|index| &children[*index].0).collect();
        let expected = ids(&expected);
        for (child, _) in children.iter().filter(|(child, _)| expected.contains(&child.id())) {
            until_ended(child);
        }
        assert_eq!(killed(&children), expected, "{unflagged}");
    }

    // Two children in one group: each of the two gets the signal once.
    let (counted, count) = pipe();
    let mut leader = Command::new("/bin/sh");
    leader.args(["-c", "trap 'printf x >&3' USR1; echo >&3; while :; do read line || exit 0; done"]);
    let (reader, hold) = pipe();
    leader.duplicate(reader.as_fd(), 0).duplicate(count.as_fd(), 3).group(Group::NewBackground);
    let list = Children::new();
    let first = list.start(&leader, true).expect("there is a shell");
    leader.group(Group::Join(first.id()));
    let second = list.start(&leader, true).expect("there is a shell");
    let mut ready = [0; 2];
    let mut got = 0;
    while got < 2 {
        got += rustix::io::read(&counted, &mut ready[got..]).expect("they have trapped the signal");
    }
    assert_eq!(&ready, b"\n\n");
    list.kill_all_groups(libc::SIGUSR1, false).expect("they are ours");
    drop(leader);
    drop((hold, count));
    for child in [first, second] {
        child.wait().expect("the child is ours");
    }
    let mut told = Vec::new();
    let mut buffer = [0; 16];
    loop {
        match rustix::io::read(&counted, &mut buffer).expect("it can be read") {
            0 => break,
            count => told.extend_from_slice(&buffer[..count]),
        }
    }
    // A shell that waits in `read` runs the trap when that ends, at the latest.
    assert_eq!(told, b"xx");
}

fn group_is_killed_only_if_a_child_of_it_is_there() {
    let list = Children::new();
    // A child in our own group runs, listed; that is no reason to signal another group.
    let (bystander, bystander_hold) = watched(WatchBy::Best, 5);
    list.list(&bystander, Member::default());
    let (child, hold) = in_own_group(|| ());
    let group = child.id();
    assert!(!list.kill_group(group, libc::SIGKILL).expect("nobody is listed with it"));
    list.list(&child, Member { group: Some(group), kill: false });
    assert!(list.kill_group(group, 0).expect("it is there"));
    drop(hold);
    assert_eq!(child.wait().expect("the child is ours"), Exit::Code(0));
    assert!(!list.kill_group(group, libc::SIGKILL).expect("it was reaped"));
    assert!(!child.kill_group(group, libc::SIGKILL).expect("it was reaped"));
    for group in [0, 1, u32::MAX, std::process::id()] {
        assert!(!list.kill_group(group, libc::SIGKILL).expect("no child is in it"));
        assert!(
            !bystander.kill_group(group, libc::SIGKILL).expect("it is not in it")
                || group == std::process::id()
        );
    }
    drop(bystander_hold);
    assert_eq!(bystander.wait().expect("the child is ours"), Exit::Code(5), "it was never signalled");
}

fn group_of_a_child_that_ended_is_reached_until_it_is_reaped() {
    // The child leaves a process of its group behind.
    let (alive, living) = pipe();
    let (held, hold) = pipe();
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", "(read line <&4; exit 0) & exit 0"]).group(Group::NewBackground);
    shell.duplicate(living.as_fd(), 3).duplicate(held.as_fd(), 4);
    let child = shell.start().expect("there is a shell");
    drop(shell);
    drop(living);
    until_ended(&child);
    let look = Some(std::time::Duration::ZERO);
    let ended =
        |timeout| !poll_single(alive.as_fd(), Interest::READ, timeout).expect("it does not fail").is_none();
    assert!(!ended(look), "what it left behind runs");
    assert!(child.kill_group(child.id(), libc::SIGKILL).expect("the group is there"));
    assert!(ended(None));
    child.wait().expect("the child is ours");
    assert!(!child.kill_group(child.id(), libc::SIGKILL).expect("it was reaped"));
    drop(hold);
}

fn child_that_left_its_group_does_not_stand_for_it() {
    let (child, hold) = in_own_group(|| ());
    let list = Children::new();
    // It is said to be in another group than it is in.
    let own = process_group(None).expect("this process is in a group");
    list.list(&child, Member { group: Some(own), kill: true });
    assert!(!list.kill_group(own, libc::SIGKILL).expect("it is not in it"));
    list.kill_all_groups(libc::SIGKILL, true).expect("nobody is signalled");
    drop(hold);
    assert_eq!(child.wait().expect("the child is ours"), Exit::Code(0));
}

fn list_forgets_who_was_reaped_and_knows_orphans() {
    static LIST: Children = Children::new();
    let (first, first_hold) = watched(WatchBy::Best, 0);
    let (second, second_hold) = watched(WatchBy::Signal, 0);
    let (third, third_hold) = watched(WatchBy::Best, 0);
    let (first_id, second_id) = (first.id(), second.id());
    let member = Member { group: None, kill: true };
    for child in [&first, &second, &third] {
        LIST.list(child, member);
    }
    let forgotten = third.forget().expect("it runs");
    assert_eq!(LIST.listed(), [(first_id, member), (second_id, member)]);
    drop(first_hold);
    first.wait().expect("the child is ours");
    assert_eq!(LIST.listed(), [(second_id, member)]);
    // Without a handle it is still killed with all the others, and reaped.
    drop(second);
    assert_eq!(LIST.listed(), [(second_id, member)]);
    LIST.kill_all(libc::SIGKILL, KillAll::default()).expect("it is ours");
    assert!(waitid(WaitId::Pid(pid(second_id)), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).is_ok());
    assert_eq!(LIST.listed(), []);
    assert!(!is_unreaped(second_id));
    drop((second_hold, third_hold));
    assert_eq!(reap(forgotten), Some(0));
    // In a forked child, the list has nobody.
    let (child, hold) = watched(WatchBy::Best, 0);
    LIST.list(&child, member);
    in_a_unit(|| {
        assert_eq!(LIST.listed(), []);
        LIST.kill_all(libc::SIGKILL, KillAll { unflagged: true, without_group: false })
            .expect("nobody is there");
    });
    drop(hold);
    assert_eq!(child.wait().expect("the child is ours"), Exit::Code(0));
}

fn child_is_listed_once() {
    let list = Children::new();
    let (id, hold) = unwatched(0);
    let child = list.watch(id, WatchBy::Best, Member::default()).expect("it is ours");
    let error = list.watch(id, WatchBy::Best, Member::default()).expect_err("it is listed");
    assert!(matches!(error, SpawnError::AlreadyWatched(listed) if listed == id), "{error}");
    // What is known of it can change.
    let flagged = Member { group: None, kill: true };
    list.list(&child, flagged);
    assert_eq!(list.listed(), [(id, flagged)]);
    drop(hold);
    child.wait().expect("the child is ours");
    let error = list.watch(id, WatchBy::Best, Member::default()).expect_err("it was reaped");
    assert_eq!(errno_of(&error), Some(Errno::CHILD));
}

fn started_commands_are_listed_with_their_group() {
    let list = Children::new();
    let (reader, hold) = pipe();
    let mut command = Command::new("/bin/cat");
    command.duplicate(reader.as_fd(), 0);
    let kept = list.start(&command, false).expect("there is a cat");
    let led = list.start(command.group(Group::NewBackground), true).expect("there is a cat");
    let joined = list.start(command.group(Group::Join(led.id())), true).expect("there is a cat");
    let alone = list.start(command.group(Group::NewSession), false).expect("there is a cat");
    let expected = [
        (&kept, None, false),
        (&led, Some(led.id()), true),
        (&joined, Some(led.id()), true),
        (&alone, Some(alone.id()), false),
    ];
    let expected = expected.map(|(child, group, kill)| (child.id(), Member { group, kill }));
    assert_eq!(list.listed(), expected);
    for (id, Member { group, .. }) in list.listed() {
        let own = process_group(None).expect("this process is in a group");
        assert_eq!(process_group(Some(id)).expect("it runs"), group.unwrap_or(own));
    }
    drop(command);
    drop(hold);
    for child in [kept, led, joined, alone] {
        assert_eq!(child.wait().expect("the child is ours"), Exit::Code(0));
    }
}

fn nothing_is_left() {
    in_a_unit(|| ());
    let none = waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT);
    assert_eq!(none.map(|_| ()), Err(Errno::CHILD), "a child is left");
    assert_eq!(Some(&open_descriptors()), INHERITED.get());
}
