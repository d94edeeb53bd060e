//! `Exec` begins units from any process, by the file that runs, and passes on what it should and nothing else.
//!
//! Most of it is seen in a *host*: this program, run with [`HOST`] and the name of a function of [`hosts`], which enters
//! its units by another function than the suite does.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::thread;

use manycore_backends::Spawner;
use manycore_backends::spawn::{Child, ChildProcess, Command, Entry, Exec, Exit, SpawnError, exit};
use manycore_backends::testing::TestCase;
use manycore_backends::testing::spawn::{UNTOLD, unit};
use rustix::pipe::{PipeFlags, pipe_with};

/// With this argument the program is a host.
pub(crate) const HOST: &str = "--host";
/// With this argument it spawns before it enters.
pub(crate) const EARLY: &str = "--spawn-before-enter";

const VARIABLE: &str = "MANYCORE_UNIT";

pub(crate) fn all() -> Vec<TestCase> {
    macro_rules! list {
        ($($name:ident)*) => { vec![$((stringify!($name), $name as fn()),)*] };
    }
    list! {
        spawn_before_enter_is_an_error
        process_with_threads_can_spawn_in_all_of_them
        unit_ends_with_the_thread_that_has_spawned_it
        parent_s_environment_is_left_alone
        unit_has_the_arguments_and_an_empty_signal_mask
        program_that_a_unit_starts_is_no_unit
        program_with_a_forged_environment_is_no_unit
        removed_and_replaced_program_is_run_all_the_same
        unit_whose_main_does_not_enter_ends
        unit_has_the_name_of_its_program
        output_comes_in_order
        exit_handlers_are_run
        unit_enters_once
    }
}

/// Runs this program as a host, and returns what it has printed.
#[track_caller]
fn run_host(program: &OsStr, name: &str, further: &[&str]) -> String {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).expect("descriptors are free");
    let mut command = Command::new(program);
    let child = command.args([HOST, name]).args(further).duplicate(writer.as_fd(), 1).start();
    drop(command);
    drop(writer);
    let mut printed = String::new();
    fs::File::from(reader).read_to_string(&mut printed).expect("what it prints is text");
    assert_eq!(child.expect("it is there").wait().expect("it is ours"), Exit::Code(0), "{name}: {printed}");
    printed
}

#[track_caller]
fn own_host(name: &str) -> String {
    run_host(OsStr::new("/proc/self/exe"), name, &[])
}

/// The life of a host.
pub(crate) fn host() -> ExitCode {
    let mode = std::env::args().nth(2).expect("hosts have a name");
    if mode == "unentered" && std::env::var_os(VARIABLE).is_some() {
        return ExitCode::from(44);
    }
    Exec::enter(Entry::Main, host_unit);
    match mode.as_str() {
        "arguments" => hosts::arguments(),
        "subprocess" | "print" | "handlers" | "twice" => hosts::plain(),
        "greet" => print!("hello"),
        "removed" => hosts::removed(),
        "unentered" => assert_eq!(begin().0.wait().expect("it is ours"), Exit::Code(44)),
        _ => panic!("there is no host {mode}"),
    }
    ExitCode::SUCCESS
}

fn begin() -> (ChildProcess, UnixStream) {
    let (ours, theirs) = UnixStream::pair().expect("descriptors are free");
    (Exec.spawn(OwnedFd::from(theirs), host_unit).expect("a unit can be begun"), ours)
}

mod hosts {
    use super::*;

    /// Prints around a unit.
    pub(super) fn plain() {
        print!("parent,");
        let (child, _link) = begin();
        assert_eq!(child.wait().expect("it is ours"), Exit::Code(7));
        print!(",end");
    }

    pub(super) fn arguments() {
        // SAFETY: all zeroes is a value of this plain C structure.
        let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: the pointer is to a local.
        unsafe { libc::sigaddset(&mut set, libc::SIGUSR2) };
        // SAFETY: the pointer is to a local; null means that the old mask is not wanted.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &set, std::ptr::null_mut()) };
        plain();
    }

    pub(super) fn removed() {
        let path = std::env::current_exe().expect("it has a path");
        fs::remove_file(&path).expect("the file is ours");
        plain();
        fs::write(&path, "#!/bin/sh\nexit 1\n").expect("the directory is ours");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("the file is ours");
        plain();
    }
}

/// What units of hosts do; they have the arguments of their host.
fn host_unit(given: OwnedFd) -> i32 {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments[2].as_str() {
        "arguments" => {
            let status = fs::read_to_string("/proc/self/status").expect("it can be read");
            let blocked = status.lines().find(|line| line.starts_with("SigBlk:")).expect("it is there");
            print!("{} {}", arguments.join(" "), blocked.split_whitespace().last().expect("it has a value"));
        }
        "subprocess" => {
            let mut command = Command::new("/proc/self/exe");
            let greeted = command.args([HOST, "greet"]).status().expect("the program is there");
            assert_eq!(greeted, Exit::Code(0));
        }
        "handlers" => {
            extern "C" fn at_exit() {
                let _ = rustix::io::write(rustix::stdio::stdout(), b"handler");
            }
            // SAFETY: the handler stays loaded for the life of the program.
            assert_eq!(unsafe { libc::atexit(at_exit) }, 0);
            exit(256 + 7);
        }
        "twice" => {
            // Here the call only notes.
            Exec::enter(Entry::Main, |_: OwnedFd| 8);
            let mut link = UnixStream::from(given);
            link.write_all(b"x").expect("the descriptor is still ours");
            print!("once");
        }
        _ => print!("child"),
    }
    7
}

/// In a process that has not entered.
pub(crate) fn spawn_before_enter() -> ExitCode {
    let (mut ours, theirs) = UnixStream::pair().expect("descriptors are free");
    let error = Exec.spawn(OwnedFd::from(theirs), unit::<Exec>).expect_err("it is too early");
    assert!(matches!(error, SpawnError::NotEntered), "{error:?}");
    let message = error.to_string();
    assert!(message.contains("call `Exec::enter(Entry::Main, run)` first in `main`"), "{message}");
    // Law 7.
    assert_eq!(ours.read(&mut [0]).expect("it can be read"), 0);
    ExitCode::SUCCESS
}

fn spawn_before_enter_is_an_error() {
    let exit = Command::new("/proc/self/exe").arg(EARLY).status().expect("the program is there");
    assert_eq!(exit, Exit::Code(0));
}

/// A unit of the suite, with one order.
fn told(order: &str) -> (ChildProcess, UnixStream) {
    let (mut ours, theirs) = UnixStream::pair().expect("descriptors are free");
    let child = Exec.spawn(OwnedFd::from(theirs), unit::<Exec>).expect("a unit can be begun");
    ours.write_all(format!("{order}\n").as_bytes()).expect("the stream is open");
    (child, ours)
}

fn process_with_threads_can_spawn_in_all_of_them() {
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for code in 0..10 {
                    let (child, _link) = told(&format!("return {code}"));
                    assert_eq!(child.wait().expect("it is ours"), Exit::Code(code));
                }
            });
        }
    });
}

fn unit_ends_with_the_thread_that_has_spawned_it() {
    let begun = thread::spawn(|| told("sleep")).join();
    let (child, _link) = begun.expect("spawning does not panic");
    assert_eq!(child.wait().expect("it is ours"), Exit::Signal { signal: libc::SIGKILL, core: false });
}

fn parent_s_environment_is_left_alone() {
    let before: Vec<_> = std::env::vars_os().collect();
    let (child, _link) = told("return 0");
    assert_eq!(std::env::vars_os().collect::<Vec<_>>(), before);
    assert_eq!(child.wait().expect("it is ours"), Exit::Code(0));
    assert_eq!(std::env::var_os(VARIABLE), None);
}

fn unit_has_the_arguments_and_an_empty_signal_mask() {
    let printed = run_host(OsStr::new("/proc/self/exe"), "arguments", &["a b", "", "--exact"]);
    let expected = "parent,/proc/self/exe --host arguments a b  --exact 0000000000000000,end";
    assert_eq!(printed, expected);
}

fn program_that_a_unit_starts_is_no_unit() {
    assert_eq!(own_host("subprocess"), "parent,hello,end");
}

fn program_with_a_forged_environment_is_no_unit() {
    let given = fs::File::open("/dev/null").expect("it is there");
    let identity = |fd: &fs::File| {
        let stat = rustix::fs::fstat(fd).expect("it is open");
        format!("{}:{}", stat.st_dev, stat.st_ino)
    };
    let us = std::process::id();
    for value in [
        String::new(),
        "x".to_owned(),
        us.to_string(),
        // We are the parent, as if we had taken in an orphan; but the descriptor is not the one.
        format!("{us} 1:1"),
        // The descriptor is the one, but we are not the parent.
        format!("1 {}", identity(&given)),
        format!("-1 {}", identity(&given)),
    ] {
        let mut command = Command::new("/proc/self/exe");
        command.args([HOST, "greet"]).env(VARIABLE, &value).duplicate(given.as_fd(), 3);
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).expect("descriptors are free");
        let exit = command.duplicate(writer.as_fd(), 1).status().expect("the program is there");
        assert_eq!(exit, Exit::Code(0), "{value:?}");
        drop(command);
        drop(writer);
        let mut printed = String::new();
        fs::File::from(reader).read_to_string(&mut printed).expect("it is text");
        assert_eq!(printed, "hello", "{value:?}");
    }
}

fn removed_and_replaced_program_is_run_all_the_same() {
    let directory = tempfile::tempdir().expect("there is room for a directory");
    let copy = directory.path().join("program");
    fs::copy("/proc/self/exe", &copy).expect("there is room for a file");
    let printed = run_host(copy.as_os_str(), "removed", &[]);
    assert_eq!(printed, "parent,child,endparent,child,end");
}

fn unit_whose_main_does_not_enter_ends() {
    own_host("unentered");
}

fn unit_has_the_name_of_its_program() {
    let (child, mut link) = told("echo here");
    assert_eq!(link.read(&mut [0; 5]).expect("it answers"), 5);
    let name = fs::read_to_string(format!("/proc/{}/comm", child.id())).expect("it runs");
    assert_eq!(name, fs::read_to_string("/proc/self/comm").expect("it can be read"));
    drop(link);
    assert_eq!(child.wait().expect("it is ours"), Exit::Code(UNTOLD));
}

fn output_comes_in_order() {
    assert_eq!(own_host("print"), "parent,child,end");
}

fn exit_handlers_are_run() {
    assert_eq!(own_host("handlers"), "parent,handler,end");
}

fn unit_enters_once() {
    assert_eq!(own_host("twice"), "parent,once,end");
}
