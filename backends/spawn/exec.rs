//! The mechanism [`Exec`]: a unit is this program, run anew.
//!
//! | step | in the parent | in the unit |
//! |---|---|---|
//! | entering | [`enter`](Spawner::enter) notes how units are run | |
//! | beginning | write out standard output; start the file that this process runs, by a [`Command`] | |
//! | | | die with the parent; empty signal mask; the descriptors below |
//! | | | the program begins, and comes to `enter` |
//! | | | is it a unit? take the descriptor 3, ask again to die with the parent |
//! | | | call `run`, and exit with its value |
//!
//! | descriptor of the unit | |
//! |---|---|
//! | 0, 1, 2 | those of the parent; with [`Entry::Test`], 1 is `/dev/null` until `enter` |
//! | 3 | what the unit is given; `enter` has it closed on exec |
//! | 4 | with [`Entry::Test`] only, and until `enter`: standard output |
//!
//! A process is a unit if the environment variable `MANYCORE_UNIT` says so: `<parent> <device>:<inode>`, or with a test
//! `<parent> <device>:<inode> test`, where the parent is a PID and the other two are those of the descriptor 3. The
//! programs that a unit starts inherit the variable, but are not children of that parent; and if they become so, because
//! it takes in orphans, they do not have the descriptor.
//!
//! "The parent" of law 8 is, to Linux, the *thread* that called `spawn`: when it ends, its units end with it, also if
//! others of its process go on.
//!
//! This module carries no function, closure or memory over: what a unit does is what its program does in `enter`.
//!
//! # Safety
//!
//! One unsafe call makes an owner of a descriptor by its number. The parent has put it there and closed all others; it is
//! compared with what the parent has said of it; and it is taken once in a process, by a flag that is never reset. So
//! nobody else owns it, unless somebody has broken I/O safety before: `enter` comes first in `main`.

#![allow(unsafe_code)]

use std::cell::RefCell;
use std::ffi::{CString, OsString};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, FdFlags};
use rustix::process::{Pid, Signal};

use super::{ChildProcess, Command, Entry, NOT_GIVEN, PANICKED, SpawnError, Spawner};
use crate::Portable;
use crate::sync::global::{AtomicBool, Mutex, Ordering, lock};

/// The environment variable that makes a unit.
const VARIABLE: &str = "MANYCORE_UNIT";
/// The last word of its value, for a unit that enters in a test.
const IN_A_TEST: &str = "test";

/// The file that this process runs: the very file, also if its path was removed or leads to another by now.
const PROGRAM: &str = "/proc/self/exe";

/// Where the unit finds what it is given.
const GIVEN: RawFd = 3;
/// Where a unit that enters in a test finds standard output.
const OUTPUT: RawFd = 4;

/// Spawns units by running this program anew: also from a process with many threads, and without anything of the parent's
/// memory.
///
/// **A function cannot be carried over.** The unit runs what its program gives to [`enter`](Spawner::enter); the function
/// that is given to [`spawn`](Spawner::spawn) is dropped. So the program calls `enter` first in `main`, with the function
/// that it also gives to `spawn`:
///
/// ```no_run
/// use std::os::fd::OwnedFd;
/// use manycore_backends::spawn::{Child, Entry, Exec, Exit, Spawner};
///
/// fn unit(given: OwnedFd) -> i32 {
///     7
/// }
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     Exec::enter(Entry::Main, unit); // In a unit, this is as far as it gets.
///     let (near, _far) = std::os::unix::net::UnixStream::pair()?;
///     let child = Exec.spawn(OwnedFd::from(near), unit)?;
///     assert_eq!(child.wait()?, Exit::Code(7));
///     Ok(())
/// }
/// ```
///
/// A unit has the arguments, the environment and the working directory of its parent. It ends by
/// [`std::process::exit`], and so runs its exit handlers. A unit whose program ends before it comes to `enter` has that
/// program's exit code. Units may have units.
///
/// A unit ends when the **thread** that has spawned it ends, as the kernel goes by threads: spawn from one that lives
/// as long as the units are to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Exec;

impl<G> Spawner<G> for Exec
where
    G: Portable,
{
    type Child = ChildProcess;
    const PROCESSES: bool = true;

    fn spawn<F>(&self, given: G, run: F) -> Result<ChildProcess, SpawnError>
    where
        F: FnOnce(G) -> i32 + Send + 'static,
    {
        drop(run);
        let given: OwnedFd = given.into();
        match noted().ok_or(SpawnError::NotEntered)? {
            Noted::Main => start(given.as_fd(), None),
            Noted::Test(name) => start(given.as_fd(), Some(&name)),
        }
    }

    fn enter<F>(entry: Entry<'_>, run: F)
    where
        F: FnOnce(G) -> i32,
    {
        note(entry);
        if let Some(given) = begin() {
            let code = catch_unwind(AssertUnwindSafe(|| match G::try_from(given) {
                Ok(given) => run(given),
                Err(_) => NOT_GIVEN,
            }));
            std::process::exit(code.unwrap_or_else(|payload| {
                // Dropping it could panic again.
                std::mem::forget(payload);
                PANICKED
            }));
        }
    }
}

/// An [`Entry`], remembered.
#[derive(Clone, Debug)]
enum Noted {
    Main,
    Test(String),
}

/// The latest of this process.
static LATEST: Mutex<Option<Noted>> = Mutex::new(None);

thread_local! {
    /// The latest of this thread: tests run side by side, each with an entry of its own.
    static OWN: RefCell<Option<Noted>> = const { RefCell::new(None) };
}

fn note(entry: Entry<'_>) {
    let noted = match entry {
        Entry::Main => Noted::Main,
        Entry::Test(name) => Noted::Test(name.to_owned()),
    };
    OWN.set(Some(noted.clone()));
    *lock(&LATEST) = Some(noted);
}

fn noted() -> Option<Noted> {
    OWN.with_borrow(Clone::clone).or_else(|| lock(&LATEST).clone())
}

// What follows runs in the parent.

/// Starts a unit, which enters in `main` or in this test.
fn start(given: BorrowedFd<'_>, test: Option<&str>) -> Result<ChildProcess, SpawnError> {
    let mut program = std::env::args_os();
    let name = program.next().unwrap_or_else(|| OsString::from(PROGRAM));
    let mut command = Command::new(PROGRAM);
    command.name(name).signal_mask(&[]).die_with_parent().duplicate(given, GIVEN);
    let identity = identity(given).map_err(failed("fstat"))?;
    let mut value = format!("{} {identity}", std::process::id());

    let output = io::stdout();
    let nothing;
    match test {
        None => command.args(program).close_all_except(&[0, 1, 2, GIVEN]),
        Some(test) => {
            let flags = OFlags::RDWR | OFlags::CLOEXEC;
            nothing = rustix::fs::open(c"/dev/null", flags, Mode::empty()).map_err(failed("open"))?;
            value.push(' ');
            value.push_str(IN_A_TEST);
            command.args([test, "--exact", "--nocapture", "--test-threads=1", "--include-ignored", "-q"]);
            command.duplicate(output.as_fd(), OUTPUT).duplicate(nothing.as_fd(), 1);
            command.close_all_except(&[0, 1, 2, GIVEN, OUTPUT])
        }
    };
    command.env(VARIABLE, value);
    // So that what is printed comes in order. A text that cannot be written now is no reason to fail.
    let _ = output.lock().flush();
    command.start()
}

// What follows runs in what may be a unit.

/// What this process is given, if it is a unit that has not entered yet. Does not return if the parent is gone.
fn begin() -> Option<OwnedFd> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let value = std::env::var(VARIABLE).ok()?;
    let mut words = value.split(' ');
    let parent: u32 = words.next()?.parse().ok()?;
    let parent = i32::try_from(parent).ok().and_then(Pid::from_raw)?;
    // SAFETY: it is only looked at; if it is not open, that is an error.
    let given = unsafe { BorrowedFd::borrow_raw(GIVEN) };
    if identity(given).ok()? != words.next()? {
        return None;
    }
    if !has(parent) {
        // A unit with another parent has lost its own a moment ago, and is about to be killed. Others were never to be.
        return match rustix::process::parent_process_death_signal() {
            Ok(Some(Signal::KILL)) => std::process::exit(PANICKED),
            _ => None,
        };
    }
    if TAKEN.swap(true, Ordering::Relaxed) {
        return None;
    }
    // SAFETY: put there for us and taken once, as argued in the module's head.
    let given = unsafe { OwnedFd::from_raw_fd(GIVEN) };

    // Asked for by the parent already; but that is forgotten where the program's file gives it rights of its own.
    let asked = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    let kept = rustix::io::fcntl_setfd(&given, FdFlags::CLOEXEC);
    let restored = if words.next() == Some(IN_A_TEST) { restore_output() } else { Ok(()) };
    asked.and(kept).and(restored).expect("a unit can change its own descriptors and signals");
    take_name();
    if !has(parent) {
        std::process::exit(PANICKED);
    }
    Some(given)
}

/// Whether this process is a child of that one. A parent without a number is alive in an outer PID namespace.
fn has(parent: Pid) -> bool {
    rustix::process::getppid().is_none_or(|now| now == parent)
}

/// The system calls a process after the file that it runs, which here would be `exe`.
fn take_name() {
    let path = std::env::args_os().next().map(PathBuf::from);
    let name = path.as_deref().and_then(Path::file_name).and_then(|name| CString::new(name.as_bytes()).ok());
    // It is only for people.
    let _ = name.map(|name| rustix::thread::set_name(&name));
}

/// Puts standard output to its place again. What the test harness has printed went elsewhere, and nothing of it is left.
fn restore_output() -> Result<(), Errno> {
    let _ = io::stdout().flush();
    // SAFETY: put there for us, and taken once, as argued in the module's head.
    let output = unsafe { OwnedFd::from_raw_fd(OUTPUT) };
    rustix::stdio::dup2_stdout(&output)
}

/// What tells a descriptor from others, also in another process.
fn identity(fd: BorrowedFd<'_>) -> Result<String, Errno> {
    let stat = rustix::fs::fstat(fd)?;
    Ok(format!("{}:{}", stat.st_dev, stat.st_ino))
}

fn failed(op: &'static str) -> impl Fn(Errno) -> SpawnError {
    move |errno| SpawnError::Io { op, source: errno.into() }
}
