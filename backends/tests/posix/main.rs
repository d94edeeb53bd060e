//! The room `posix` does what its pages promise, and every refusal has its errno.
//!
//! A program without the test harness: whatever changes the process (users, sessions, limits, the list of handlers) runs in
//! a unit of `Fork`, which needs a parent with one thread.

mod file;
mod io_priority;
mod post_fork;
mod process;
mod semaphore_named;
mod semaphore_set;
mod syslog;
mod terminal;

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::sync::Arc;

use manycore_backends::posix::PosixError;
use manycore_backends::spawn::{Child, ChildProcess, Exit, Fork};
use manycore_backends::testing::run_tests;
use rustix::pipe::{PipeFlags, pipe_with};

/// The number of no process: the system has fewer.
const NOBODY: u32 = i32::MAX as u32;

/// A user and group of no rights.
const ORDINARY: u32 = 65_534;

/// The tests of a module, each with its name.
macro_rules! tests {
    ($($name:ident)*) => {
        pub(crate) fn all() -> Vec<manycore_backends::testing::TestCase> {
            vec![$((concat!(module_path!(), "::", stringify!($name)), $name as fn()),)*]
        }
    };
}
use tests;

fn main() -> ExitCode {
    let modules = [
        file::all(),
        io_priority::all(),
        post_fork::all(),
        process::all(),
        semaphore_named::all(),
        semaphore_set::all(),
        syslog::all(),
        terminal::all(),
    ];
    run_tests(&modules.concat());
    ExitCode::SUCCESS
}

fn pipe() -> (Arc<OwnedFd>, Arc<OwnedFd>) {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe can be made");
    (Arc::new(reader), Arc::new(writer))
}

fn unit(keep: &[&OwnedFd], test: impl FnOnce() + Send + 'static) -> ChildProcess {
    let keep: Vec<_> = keep.iter().map(AsFd::as_fd).collect();
    let child = Fork.fork(&keep, || {
        test();
        0
    });
    child.expect("the process has one thread")
}

/// A panic in the unit is exit code 101.
fn well(child: &impl Child) {
    assert_eq!(child.wait().expect("the child is ours"), Exit::Code(0));
}

/// Runs a test in a unit: it may change its process as it likes.
fn in_a_unit(test: impl FnOnce() + Send + 'static) {
    well(&unit(&[], test));
}

/// A unit that runs until the returned end of a pipe is dropped.
fn held() -> (ChildProcess, Arc<OwnedFd>) {
    let (reader, writer) = pipe();
    let given = reader.clone();
    let child = unit(&[&reader], move || {
        read_all(&given);
    });
    (child, writer)
}

/// The text until the end of file.
fn read_all(reader: &OwnedFd) -> String {
    let mut bytes = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        match rustix::io::retry_on_intr(|| rustix::io::read(reader, &mut buffer)) {
            Ok(0) => return String::from_utf8(bytes).expect("it is text"),
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
            Err(errno) => panic!("reading from a pipe failed: {errno}"),
        }
    }
}

fn write_all(writer: &OwnedFd, text: &str) {
    let mut bytes = text.as_bytes();
    while !bytes.is_empty() {
        let count = rustix::io::retry_on_intr(|| rustix::io::write(writer, bytes));
        bytes = &bytes[count.expect("somebody reads")..];
    }
}

/// What a unit prints on standard error, and what the units that it begins do.
fn standard_error_of(test: impl FnOnce() + Send + 'static) -> String {
    let (reader, writer) = pipe();
    let given = writer.clone();
    let child = unit(&[&writer], move || {
        rustix::stdio::dup2_stderr(&given).expect("it is open");
        drop(given);
        test();
    });
    drop(writer);
    let text = read_all(&reader);
    assert_eq!(child.wait().expect("the child is ours"), Exit::Code(0), "{text}");
    text
}

/// A descriptor that gives no access to its file: most calls take it for none (`EBADF`).
fn without_access() -> OwnedFd {
    rustix::fs::open("/dev/null", rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).expect("there is one")
}

/// The set of blocked signals, as the kernel prints it.
fn blocked() -> String {
    let status = fs::read_to_string("/proc/self/status").expect("a process can read its status");
    let line = status.lines().find(|line| line.starts_with("SigBlk:"));
    line.expect("the status has the line").to_owned()
}

fn am_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, PosixError>, errno: i32) -> PosixError {
    let error = result.expect_err("it is refused");
    assert_eq!(error.raw_os_error(), Some(errno), "{error}");
    error
}
