//! `Fork` refuses to fork a process with several threads, prints nothing twice, and leaves the parent's signal handlers,
//! handles and orphans to the parent.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::ExitCode;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use manycore_backends::poll::{Epoll, Event, Interest, Poll, PollError, Poller, Ready, Select};
use manycore_backends::spawn::{Child, Exit, Fork, SpawnError, exit};
use manycore_backends::testing::TestCase;
use manycore_backends::testing::spawn::{in_a_unit, open_descriptors};
use rustix::pipe::{PipeFlags, pipe_with};

/// With this argument the program prints around a spawn, for `output_is_not_printed_twice`.
pub(crate) const PRINT: &str = "--print-around-a-spawn";

pub(crate) fn all() -> Vec<TestCase> {
    macro_rules! list {
        ($($name:ident)*) => { vec![$((stringify!($name), $name as fn()),)*] };
    }
    list! {
        process_with_two_threads_is_refused
        process_whose_threads_have_ended_is_accepted
        output_is_not_printed_twice
        handled_signals_get_their_default_action
        ignored_signals_stay_ignored
        signal_mask_is_empty_in_the_unit_and_unchanged_in_the_parent
        closed_standard_descriptors_are_opened
        handle_carried_into_a_unit_is_of_no_use_and_no_harm
        orphans_of_the_parent_are_left_alone
        child_reaped_by_somebody_else_is_an_error
        a_process_that_ignores_ends_is_refused
        panic_payload_that_panics_is_exit_101
        statics_and_exit_handlers_are_left_alone
        exit_writes_out_and_leaves_exit_handlers_alone
        poller_carried_into_a_unit_is_refused
    }
}

fn pipe() -> (Arc<OwnedFd>, Arc<OwnedFd>) {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe can be made");
    (Arc::new(reader), Arc::new(writer))
}

/// A unit that runs until the returned end of a pipe is dropped.
fn held() -> (impl Child, Arc<OwnedFd>) {
    let (reader, writer) = pipe();
    let given = reader.clone();
    let child = Fork.fork(&[reader.as_fd()], move || {
        let _ = rustix::io::read(&given, &mut [0; 1]);
        0
    });
    (child.expect("the process has one thread"), writer)
}

fn process_with_two_threads_is_refused() {
    // In a unit: it has no other children.
    in_a_unit(|| {
        let before = open_descriptors();
        let (sender, receiver) = mpsc::channel::<()>();
        let other = thread::spawn(move || receiver.recv());
        let result = Fork.fork(&[], || 0);
        assert!(matches!(result, Err(SpawnError::MultiThreaded { threads: 2 })), "{result:?}");
        let message = result.expect_err("it was refused").to_string();
        assert!(message.contains("2 threads"), "{message}");
        // Law 7.
        assert_eq!(open_descriptors(), before);
        let no_child = rustix::process::wait(rustix::process::WaitOptions::NOHANG);
        assert_eq!(no_child.map(|_| ()), Err(rustix::io::Errno::CHILD));
        drop(sender);
        other.join().expect("the thread does not panic").expect_err("nothing was sent");
    });
}

fn process_whose_threads_have_ended_is_accepted() {
    for _ in 0..100 {
        // The kernel may still list the thread when it was joined.
        thread::spawn(|| ()).join().expect("the thread does not panic");
        let child = Fork.fork(&[], || 0).expect("the process has one thread");
        assert_eq!(child.wait().expect("the child is ours"), Exit::Code(0));
    }
}

pub(crate) fn print_around_a_spawn() -> ExitCode {
    print!("parent");
    let child = Fork.fork(&[], || {
        print!(",child");
        0
    });
    child.expect("the process has one thread").wait().expect("the child is ours");
    let child = Fork.fork(&[], || {
        print!(",exit");
        exit(0)
    });
    child.expect("the process has one thread").wait().expect("the child is ours");
    print!(",end");
    ExitCode::SUCCESS
}

#[allow(clippy::disallowed_methods, reason = "only another process can see all that a process prints")]
fn output_is_not_printed_twice() {
    let program = std::env::current_exe().expect("the program has a path");
    let output = std::process::Command::new(program).arg(PRINT).output().expect("the program starts");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "parent,child,exit,end");
}

extern "C" fn ignore(_: libc::c_int) {}

fn set_action(signal: libc::c_int, action: libc::sighandler_t) {
    // SAFETY: the action is the default, to ignore, or a function that does nothing.
    let before = unsafe { libc::signal(signal, action) };
    assert_ne!(before, libc::SIG_ERR);
}

fn raise(signal: libc::c_int) {
    // SAFETY: takes an integer.
    assert_eq!(unsafe { libc::raise(signal) }, 0);
}

fn handled_signals_get_their_default_action() {
    in_a_unit(|| {
        let handler = ignore as extern "C" fn(libc::c_int) as libc::sighandler_t;
        for signal in [libc::SIGUSR1, libc::SIGTERM, libc::SIGRTMIN()] {
            set_action(signal, handler);
            let child = Fork.fork(&[], move || {
                raise(signal);
                0
            });
            let exit = child.expect("the process has one thread").wait().expect("the child is ours");
            assert_eq!(exit, Exit::Signal { signal, core: false });
            // The parent still has its handler.
            raise(signal);
        }
    });
}

fn ignored_signals_stay_ignored() {
    in_a_unit(|| {
        set_action(libc::SIGUSR1, libc::SIG_IGN);
        in_a_unit(|| {
            raise(libc::SIGUSR1);
            raise(libc::SIGPIPE); // Ignored by every Rust program.
        });
    });
}

/// The set of blocked signals, as the kernel prints it.
fn blocked() -> String {
    let status = fs::read_to_string("/proc/self/status").expect("a process can read its status");
    let line = status.lines().find(|line| line.starts_with("SigBlk:"));
    line.expect("the status has the line").split_whitespace().last().expect("the line has a value").to_owned()
}

fn signal_mask_is_empty_in_the_unit_and_unchanged_in_the_parent() {
    in_a_unit(|| {
        // SAFETY: all zeroes is a value of this plain C structure.
        let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: the pointer is to a local.
        unsafe { libc::sigaddset(&mut set, libc::SIGUSR2) };
        // SAFETY: the pointer is to a local; null means that the old mask is not wanted.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &set, std::ptr::null_mut()) };
        let before = blocked();
        assert_ne!(before, "0000000000000000");
        in_a_unit(|| assert_eq!(blocked(), "0000000000000000"));
        assert_eq!(blocked(), before);
    });
}

fn closed_standard_descriptors_are_opened() {
    in_a_unit(|| {
        for fd in [0, 1] {
            // SAFETY: nobody in this program owns the standard descriptors.
            unsafe { libc::close(fd) };
        }
        let (reader, writer) = pipe(); // Takes the numbers 0 and 1,
        assert_eq!((reader.as_raw_fd(), writer.as_raw_fd()), (0, 1));
        drop(reader); // and one is free again.
        in_a_unit(|| {
            assert_eq!(open_descriptors(), BTreeSet::from([0, 1, 2]));
            let target = fs::read_link("/proc/self/fd/0").expect("the descriptor is open");
            assert_eq!(target, std::path::Path::new("/dev/null"));
        });
    });
}

/// Opens descriptors until all numbers up to `last` are in use.
fn occupy(last: i32) -> Vec<OwnedFd> {
    let mut opened = Vec::new();
    while opened.last().is_none_or(|fd: &OwnedFd| fd.as_raw_fd() <= last) {
        opened.push(fs::File::open("/dev/null").expect("a descriptor is free").into());
    }
    opened
}

fn handle_carried_into_a_unit_is_of_no_use_and_no_harm() {
    let (carried, hold) = held();
    in_a_unit(move || {
        let number = carried.as_fd().as_raw_fd();
        let occupied = occupy(number);
        let before = open_descriptors();
        for result in
            [carried.try_wait().map(|_| ()), carried.wait().map(|_| ()), carried.kill(libc::SIGKILL)]
        {
            assert!(matches!(result, Err(SpawnError::Io { .. })), "{result:?}");
        }
        drop(carried);
        assert_eq!(open_descriptors(), before);
        drop(occupied);
    });
    // The held unit lives: nobody has killed it.
    rustix::io::write(&hold, b"x").expect("the reading end is open");
}

fn orphans_of_the_parent_are_left_alone() {
    let (child, hold) = held();
    let number = child.as_fd().as_raw_fd();
    let watch = child.as_fd().try_clone_to_owned().expect("a descriptor is free");
    drop(child);
    in_a_unit(move || {
        let occupied = occupy(number);
        let before = open_descriptors();
        // Both of these look for orphans.
        in_a_unit(|| ());
        drop(Fork.fork(&[], || 0));
        in_a_unit(|| ());
        assert!(before.is_subset(&open_descriptors()));
        drop(occupied);
    });
    drop(hold);
    let mut fds = [rustix::event::PollFd::new(&watch, rustix::event::PollFlags::IN)];
    assert_eq!(rustix::event::poll(&mut fds, None), Ok(1));
    in_a_unit(|| ());
    // Reaped, and its descriptor closed.
    let reaped = rustix::process::waitid(
        rustix::process::WaitId::PidFd(watch.as_fd()),
        rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOHANG,
    );
    assert_eq!(reaped.map(|_| ()), Err(rustix::io::Errno::CHILD));
}

fn child_reaped_by_somebody_else_is_an_error() {
    let (child, hold) = held();
    drop(hold);
    while rustix::process::wait(rustix::process::WaitOptions::empty()).is_ok() {}
    for result in [child.wait(), child.wait()] {
        assert!(
            matches!(&result, Err(SpawnError::Io { source, .. }) if source.raw_os_error() == Some(libc::ECHILD)),
            "{result:?}"
        );
    }
    child.try_wait().expect_err("the exit is lost");
    child.kill(libc::SIGKILL).expect("the end is no error");
    drop(child);

    // The kernel reaps it.
    in_a_unit(|| {
        let (child, hold) = held();
        set_action(libc::SIGCHLD, libc::SIG_IGN);
        drop(hold);
        child.wait().expect_err("the exit is lost");
    });
}

fn a_process_that_ignores_ends_is_refused() {
    in_a_unit(|| {
        set_action(libc::SIGCHLD, libc::SIG_IGN);
        assert!(matches!(Fork.fork(&[], || 0), Err(SpawnError::EndsIgnored)));
        set_action(libc::SIGCHLD, libc::SIG_DFL);
        assert_eq!(Fork.fork(&[], || 0).unwrap().wait().unwrap(), Exit::Code(0));
    });
}

fn panic_payload_that_panics_is_exit_101() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("dropped");
        }
    }
    let child = Fork.fork(&[], || {
        std::panic::set_hook(Box::new(|_| ()));
        std::panic::panic_any(Bomb)
    });
    let child = child.expect("the process has one thread");
    assert_eq!(child.wait().expect("the child is ours"), Exit::Code(101));
}

fn statics_and_exit_handlers_are_left_alone() {
    extern "C" fn at_exit() {
        // SAFETY: takes an integer, and does not return.
        unsafe { libc::_exit(33) };
    }
    in_a_unit(|| {
        // SAFETY: the handler stays loaded for the life of the program.
        assert_eq!(unsafe { libc::atexit(at_exit) }, 0);
        in_a_unit(|| ());
    });
}

fn exit_writes_out_and_leaves_exit_handlers_alone() {
    extern "C" fn at_exit() {
        // SAFETY: takes an integer, and does not return.
        unsafe { libc::_exit(33) };
    }
    in_a_unit(|| {
        // SAFETY: the handler stays loaded for the life of the program.
        assert_eq!(unsafe { libc::atexit(at_exit) }, 0);
        // Also from deep inside, and from another thread.
        let child = Fork.fork(&[], || std::panic::catch_unwind(|| exit(7)).unwrap_or(8));
        assert_eq!(child.expect("one thread").wait().expect("ours"), Exit::Code(7));
        let child = Fork.fork(&[], || thread::spawn(|| exit(256 + 9)).join().unwrap_or(8));
        assert_eq!(child.expect("one thread").wait().expect("ours"), Exit::Code(9));
    });
}

/// Law 9 of `Poller`. Its wake-ups, and with `Epoll` its whole set, would be the parent's.
fn poller_carried_into_a_unit_is_refused() {
    fn check<P: Poller>() {
        let (reader, writer) = pipe();
        let poll = Arc::new(P::new().expect("an empty set can be made"));
        poll.add(1, reader.clone(), Interest::READ).expect("the key is free");
        let carried = Arc::clone(&poll);
        let given: Arc<OwnedFd> = Arc::new(reader.try_clone().expect("a descriptor is free"));
        in_a_unit(move || {
            let results = [
                carried.add(2, given.clone(), Interest::READ).map(|()| 0),
                carried.modify(1, Interest::NONE).map(|()| 0),
                carried.remove(1).map(|_| 0),
                carried.wait(&mut Vec::new(), None).map(|()| 0),
                carried.notify().map(|()| 0),
            ];
            for result in results {
                assert!(matches!(result, Err(PollError::Forked)), "{result:?}");
            }
            // What it owns belongs to the parent: its numbers are nobody's here.
            std::mem::forget((carried, given));
        });
        let mut events = Vec::new();
        poll.wait(&mut events, Some(Duration::ZERO)).expect("waiting does not fail");
        assert_eq!(events, []);
        rustix::io::write(&writer, b"x").expect("one byte fits");
        poll.wait(&mut events, None).expect("waiting does not fail");
        assert_eq!(events, [Event { key: 1, ready: Ready::READ }]);
    }
    check::<Poll>();
    check::<Select>();
    check::<Epoll>();
}
