//! The mechanism [`Fork`]: a unit is a copy of this process.
//!
//! | step | in the parent | in the unit |
//! |---|---|---|
//! | before the fork | write out standard output, block all signals, see how many threads there are and which signals are handled | |
//! | after it | begin to watch the child, then restore the signal mask | ask to die with the parent |
//! | | | default action for handled signals, empty signal mask |
//! | | | close all descriptors but 0, 1, 2 and `keep` |
//! | | | run the [post-fork handlers](crate::posix::post_fork) |
//! | | | call `run`, write out standard output, `_exit` |
//!
//! The unit never returns from `spawn`, and it ends by `_exit`: exit handlers and destructors of statics
//! belong to the parent and are not run. Only the low eight bits of an exit code reach the parent. Ignored
//! signals stay ignored, and the handlers of `SIGSEGV` and `SIGBUS` stay, because Rust reports a stack
//! overflow by them.
//!
//! "The parent" of law 8 is, to Linux, the *thread* that called `spawn`: it is the only one at that time;
//! if it makes others later and ends before them, its units end with it.
//!
//! This module does not replace the program (`exec`), and does not limit what a unit may do.
//!
//! # Safety
//!
//! `fork` copies the calling thread alone. Whatever another thread was doing at that moment, such as
//! holding the lock of the allocator, stays as it was in the child, for ever. So `spawn` refuses unless
//! the calling thread is the only one. That check has no race: nobody else is there to make a thread
//! between the check and the fork, and signal handlers, which may make none, are kept out of both
//! processes by blocking all signals around the fork. The child is then an ordinary single-threaded
//! process, and may allocate, print and start threads.
//!
//! Closing descriptors by number breaks the promise that an `OwnedFd` is open. All owners in the child are
//! copies: the originals live in the parent. What the closure owns is excluded by law 3: that it owns no
//! descriptor but those in `keep` is a promise of the caller that the type system cannot ask for, and the
//! one knowing exception from I/O safety here. It can mix up descriptors, not break memory. The handles of
//! children, and those of shared objects, notice that they are copies (`Generation`) and leave their
//! number alone.
//!
//! The remaining unsafe code is system calls that take integers, or pointers to locals that outlive the
//! call.

#![allow(unsafe_code)]

use std::borrow::Cow;
use std::fs;
use std::io::{self, Read, Write};
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::str;

use rustix::process::{Pid, Signal};

use super::descriptors::close_all_but;
use super::watch::{ends_are_ignored, sweep};
use super::{ChildProcess, Entry, NOT_GIVEN, PANICKED, SpawnError, Spawner};
use crate::Portable;
use crate::generation::Generation;
use crate::posix::post_fork;
use crate::signal::{self, Signals};
use crate::sync::global::{AtomicBool, Ordering};

/// The first descriptor that is not a standard one.
const FIRST: RawFd = 3;

/// Whether this process is a unit of [`Fork`].
static IS_UNIT: AtomicBool = AtomicBool::new(false);

/// Spawns units by `fork`: they start fast, and share nothing but what they are given.
///
/// The process must have one thread at the time of the call; a unit may itself spawn units. Standard
/// output is written out before the fork, so that nothing is printed twice. If the program is built with
/// `panic = "abort"`, a panic in a unit is not law 4 but `SIGABRT`.
///
/// ```no_run
/// use manycore_backends::spawn::{Child, Exit, Fork};
///
/// let child = Fork.fork(&[], || 7)?;
/// assert_eq!(child.wait()?, Exit::Code(7));
/// # Ok::<(), manycore_backends::spawn::SpawnError>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Fork;

impl<G> Spawner<G> for Fork
where
    G: Portable,
{
    type Child = ChildProcess;
    const PROCESSES: bool = true;
    const CARRIES: bool = true;

    fn spawn<F>(&self, given: G, run: F) -> Result<ChildProcess, SpawnError>
    where
        F: FnOnce(G) -> i32 + Send + 'static,
    {
        self.spawn_all(vec![(given, run)]).pop().expect("there is one for each unit")
    }

    fn spawn_all<F>(&self, units: Vec<(G, F)>) -> Vec<Result<ChildProcess, SpawnError>>
    where
        F: FnOnce(G) -> i32 + Send + 'static,
    {
        let planned = units.into_iter().map(|(given, run)| {
            let fd: OwnedFd = given.into();
            let keep = kept([fd.as_raw_fd()]);
            let run = move || match G::try_from(fd) {
                Ok(given) => run(given),
                Err(_) => NOT_GIVEN,
            };
            (keep, Box::new(run) as Box<dyn FnOnce() -> i32>)
        });
        fork_all(planned.collect())
    }

    fn enter<F>(_: Entry<'_>, _: F)
    where
        F: FnOnce(G) -> i32,
    {
    }
}

impl Fork {
    /// Begins a unit that calls `run`, and keeps the descriptors `keep`: for units that are given several, or none
    /// (law 3).
    ///
    /// # Errors
    /// [`SpawnError::MultiThreaded`]; [`SpawnError::EndsIgnored`]; [`SpawnError::Io`] if the system refuses
    /// (`EAGAIN`: too many processes).
    pub fn fork<F>(&self, keep: &[BorrowedFd<'_>], run: F) -> Result<ChildProcess, SpawnError>
    where
        F: FnOnce() -> i32 + Send + 'static,
    {
        let keep = kept(keep.iter().map(AsRawFd::as_raw_fd));
        fork_all(vec![(keep, Box::new(run))]).pop().expect("there is one for each unit")
    }
}

/// Those of the descriptors that are not standard ones, in order.
fn kept(descriptors: impl IntoIterator<Item = RawFd>) -> Vec<RawFd> {
    let mut keep: Vec<RawFd> = descriptors.into_iter().filter(|fd| *fd >= FIRST).collect();
    keep.sort_unstable();
    keep
}

/// A unit to be begun: the descriptors that it keeps, and what it does.
type Planned<'a> = (Vec<RawFd>, Box<dyn FnOnce() -> i32 + 'a>);

/// Begins units that keep these descriptors and call these functions.
///
/// A fork makes all pages of this process shared, and the next write to each of them costs a fault. So nothing is done
/// between two forks that can be done before the first or after the last.
fn fork_all(units: Vec<Planned<'_>>) -> Vec<Result<ChildProcess, SpawnError>> {
    sweep();
    let count = units.len();
    let all_failed = |error: &dyn Fn() -> SpawnError| (0..count).map(|_| Err(error())).collect();
    if ends_are_ignored() {
        return all_failed(&|| SpawnError::EndsIgnored);
    }
    // Registers the counter before the fork that it has to count.
    let _ = Generation::current();
    // The text that cannot be written now cannot be written later either; it is no reason to fail.
    let _ = io::stdout().flush();

    let parent = rustix::process::getpid();
    // Until the children have pidfds: a handler of the caller's could reap them before. From here on none can install
    // another handler either.
    let _blocked = signal::BlockedSignals::all();
    let Status { threads, mut handled } = match Status::own(count) {
        Ok(status) => status,
        Err(error) => return all_failed(&|| counting_failed(&error)),
    };
    if threads != 1 {
        return all_failed(&|| SpawnError::MultiThreaded { threads });
    }
    handled.remove(libc::SIGSEGV);
    handled.remove(libc::SIGBUS);

    let is_standard = standard_descriptors_are_open();
    // All that needs memory is made before.
    let mut units = units;
    let mut begun = Vec::with_capacity(count);
    let mut failed = None;
    for at in 0..count {
        // SAFETY: the calling thread is the only one of this process, as argued in the module's head.
        match unsafe { libc::fork() } {
            -1 => {
                failed = Some(io::Error::last_os_error());
                break;
            }
            0 => {
                let (keep, run) = units.swap_remove(at);
                // What the others are given is not this unit's to close.
                mem::forget(units);
                run_unit(parent, is_standard, handled, &keep, run)
            }
            pid => begun.push(pid),
        }
    }
    let watched = begun.into_iter().map(|pid| {
        let pid = Pid::from_raw(pid).expect("fork gives a child a number that is not zero");
        ChildProcess::new(pid, None)
    });
    let mut children: Vec<_> = watched.collect();
    if let Some(error) = failed {
        children.resize_with(count, || Err(SpawnError::Io { op: "fork", source: again(&error) }));
    }
    children
}

fn counting_failed(error: &io::Error) -> SpawnError {
    SpawnError::Io { op: "counting threads in /proc/self", source: again(error) }
}

/// The same error.
fn again(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(errno) => io::Error::from_raw_os_error(errno),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

/// What has to be known of this process before each fork.
struct Status {
    /// How many threads can still run code of this program.
    threads: usize,
    /// The signals that have a handler, and perhaps others.
    handled: Signals,
}

impl Status {
    /// As the kernel tells it, all at once: that costs less than asking for the action of each signal in each of `units`.
    /// If it is only one, the directory of threads tells how many there are, in the number of its links, and the unit
    /// looks at all signals.
    ///
    /// The kernel's own count of threads decides: it is one number, while a listing of threads can miss some that begin
    /// while it is read. A thread that was joined is counted until it is quite gone; the listing tells whether all others
    /// are such, and then it is worth looking again.
    fn own(units: usize) -> io::Result<Status> {
        const LOOKS: u32 = 10_000;
        // Two are those of any directory. A system that does not count so, such as an emulated one, is asked otherwise.
        if units == 1 && rustix::fs::stat(c"/proc/self/task").is_ok_and(|stat| stat.st_nlink == 3) {
            return Ok(Status { threads: 1, handled: Signals::ALL });
        }
        for _ in 0..LOOKS {
            let mut room = [0; 2048];
            let text = own_status(&mut room)?;
            if status_field(&text, "Threads:").and_then(|count| count.parse().ok()) == Some(1) {
                let mask = status_field(&text, "SigCgt:").and_then(|mask| u64::from_str_radix(mask, 16).ok());
                // A system that does not tell, such as an emulated one: it may be any.
                return Ok(Status { threads: 1, handled: mask.map_or(Signals::ALL, Signals::from_mask) });
            }
            let running = count_running()?;
            if running > 1 {
                return Ok(Status { threads: running, handled: Signals::ALL });
            }
            std::thread::yield_now();
        }
        Ok(Status { threads: 2, handled: Signals::ALL })
    }
}

/// How many threads of this process are listed, but for those that are on their way out.
fn count_running() -> io::Result<usize> {
    let mut running = 0;
    for entry in fs::read_dir("/proc/self/task")? {
        match fs::read_to_string(entry?.path().join("stat")) {
            Ok(stat) => running += usize::from(!is_exiting(&stat)),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(running)
}

/// The `status` of this process, read at once unless it is in very many groups.
fn own_status(room: &mut [u8; 2048]) -> io::Result<Cow<'_, [u8]>> {
    let mut file = fs::File::open("/proc/self/status")?;
    let length = file.read(room)?;
    if length < room.len() {
        return Ok(Cow::Borrowed(&room[..length]));
    }
    let mut text = room.to_vec();
    file.read_to_end(&mut text)?;
    Ok(Cow::Owned(text))
}

/// What stands behind this name in a `status`. The name of the program, which may be no text, has a line of its own.
fn status_field<'text>(status: &'text [u8], name: &str) -> Option<&'text str> {
    let line = status.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(name.as_bytes()));
    str::from_utf8(line?).ok().map(str::trim)
}

/// Whether a thread with this `stat` is on its way out, by the kernel's flag `PF_EXITING`.
fn is_exiting(stat: &str) -> bool {
    const PF_EXITING: u64 = 0x4;
    // The second field is the name, in parentheses, and may contain anything; the flags are the ninth.
    let flags = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_ascii_whitespace().nth(6));
    flags.and_then(|flags| flags.parse::<u64>().ok()).is_some_and(|flags| flags & PF_EXITING != 0)
}

/// Whether 0, 1 and 2 are open, as they are then in each unit.
fn standard_descriptors_are_open() -> bool {
    // SAFETY: takes integers and changes nothing.
    (0..FIRST).all(|fd| unsafe { libc::fcntl(fd, libc::F_GETFD) } != -1)
}

// What follows runs in the child.

/// The life of a unit, whose standard descriptors are open or not. Whatever happens, it ends here.
fn run_unit(
    parent: Pid,
    is_standard: bool,
    handled: Signals,
    keep: &[RawFd],
    run: Box<dyn FnOnce() -> i32 + '_>,
) -> ! {
    let mut end = End(PANICKED);
    IS_UNIT.store(true, Ordering::Relaxed);
    let code = catch_unwind(AssertUnwindSafe(|| {
        die_with(parent);
        // A handler of the parent would act on what it shares with the parent.
        signal::drop_handlers(handled);
        signal::set_mask(&signal::empty_set());
        close_all_but(FIRST, keep).expect("a unit must be able to close what it was not given");
        if !is_standard {
            open_standard_descriptors();
        }
        post_fork::run();
        run()
    }));
    match code {
        Ok(code) => end.0 = code,
        // Dropping it could panic again.
        Err(payload) => mem::forget(payload),
    }
    leave(end)
}

/// Ends this process with the exit code, if it is a unit.
pub(super) fn exit_if_unit(code: i32) {
    if IS_UNIT.load(Ordering::Relaxed) {
        leave(End(code));
    }
}

fn leave(end: End) -> ! {
    let _ = io::stdout().flush();
    drop(end);
    unreachable!("`End` does not return");
}

/// Ends the process when it is dropped, also by a panic that nobody expected.
struct End(i32);

impl Drop for End {
    fn drop(&mut self) {
        // SAFETY: takes an integer, and does not return.
        unsafe { libc::_exit(self.0) }
    }
}

/// Law 8.
fn die_with(parent: Pid) {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .expect("prctl(PR_SET_PDEATHSIG) does not fail for a valid signal");
    // The parent may have ended before the line above; then we have got another one. Without a number it
    // is alive in an outer PID namespace: who takes in orphans has a number here.
    if rustix::process::getppid().is_some_and(|now| now != parent) {
        drop(End(PANICKED));
    }
}

/// Makes sure that the numbers 0, 1 and 2 do not fall to a descriptor that is opened later.
fn open_standard_descriptors() {
    for fd in 0..FIRST {
        // SAFETY: takes integers and changes nothing.
        if unsafe { libc::fcntl(fd, libc::F_GETFD) } == -1 {
            // The lowest free number is `fd`, since all below it are open.
            // SAFETY: the path is a static C string.
            unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thread_that_is_leaving_is_recognised() {
        let running = "12 (a (name) 4) S 1 12 12 0 -1 4194560 0 0 0 0 0";
        let leaving = "12 (a (name) 4) R 1 12 12 0 -1 4194564 0 0 0 0 0";
        assert!(!is_exiting(running));
        assert!(is_exiting(leaving));
        assert!(!is_exiting(""));
    }

    #[test]
    fn fields_of_a_status_are_found() {
        let status = b"Name:\tSigCgt: \xff\nThreads:\t12\nSigCgt:\t0000000000000440\n";
        assert_eq!(status_field(status, "Threads:"), Some("12"));
        assert_eq!(status_field(status, "SigCgt:"), Some("0000000000000440"));
        assert_eq!(status_field(status, "Cpus_allowed:"), None);
    }
}
