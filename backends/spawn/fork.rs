//! The mechanism [`Fork`]: a unit is a copy of this process.
//!
//! | step | in the parent | in the unit |
//! |---|---|---|
//! | before the fork | count threads, write out standard output, block all signals | |
//! | after it | open a pidfd of the child, then restore the signal mask | ask to die with the parent |
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
//! this module, and those of shared objects, notice that they are copies (`Generation`) and leave their
//! number alone.
//!
//! The remaining unsafe code is system calls that take integers, or pointers to locals that outlive the
//! call.

#![allow(unsafe_code)]

use std::ffi::c_int;
use std::fs;
use std::io::{self, Write};
use std::mem::{self, ManuallyDrop, MaybeUninit};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus};

use super::{Child, Exit, SpawnError, Spawner};
use crate::generation::Generation;
use crate::posix::post_fork;
use crate::sync::global::{Mutex, lock};

/// The exit code of a unit that panicked (law 4).
const PANICKED: i32 = 101;

/// The first descriptor that is not a standard one.
const FIRST: RawFd = 3;

/// Children that were dropped while they ran; each is reaped by the first sweep after its end (law 5).
static ORPHANS: Mutex<Vec<Orphan>> = Mutex::new(Vec::new());

/// Spawns units by `fork`: they start fast, and share nothing but what they are given.
///
/// The process must have one thread at the time of the call; a unit may itself spawn units. Standard
/// output is written out before the fork, so that nothing is printed twice. If the program is built with
/// `panic = "abort"`, a panic in a unit is not law 4 but `SIGABRT`.
///
/// ```no_run
/// use manycore_backends::spawn::{Child, Exit, Fork, Spawner};
///
/// let child = Fork.spawn(&[], || 7)?;
/// assert_eq!(child.wait()?, Exit::Code(7));
/// # Ok::<(), manycore_backends::spawn::SpawnError>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Fork;

impl Spawner for Fork {
    type Child = ForkedChild;

    fn spawn<F>(&self, keep: &[BorrowedFd<'_>], run: F) -> Result<ForkedChild, SpawnError>
    where
        F: FnOnce() -> i32 + Send + 'static,
    {
        sweep();
        let threads = count_threads()
            .map_err(|source| SpawnError::Io { op: "counting threads in /proc/self", source })?;
        if threads != 1 {
            return Err(SpawnError::MultiThreaded { threads });
        }
        if ends_are_ignored() {
            return Err(SpawnError::EndsIgnored);
        }
        // Registers the counter before the fork that it has to count.
        let generation = Generation::current();
        // All that needs memory is made before the fork.
        let mut keep: Vec<RawFd> = keep.iter().map(AsRawFd::as_raw_fd).filter(|fd| *fd >= FIRST).collect();
        keep.sort_unstable();
        // The text that cannot be written now cannot be written later either; it is no reason to fail.
        let _ = io::stdout().flush();

        let parent = rustix::process::getpid();
        // Until the child has a pidfd: a handler of the caller's could reap it before.
        let _blocked = BlockedSignals::new();
        // SAFETY: the calling thread is the only one of this process, as argued in the module's head.
        let forked = match unsafe { libc::fork() } {
            -1 => Err(SpawnError::Io { op: "fork", source: io::Error::last_os_error() }),
            0 => run_unit(parent, &keep, run),
            pid => Ok(Pid::from_raw(pid).expect("fork gives a child a number that is not zero")),
        };
        let pid = forked?;
        match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => Ok(ForkedChild {
                pid,
                exit: Mutex::new(None),
                handle: ManuallyDrop::new(Orphan { pidfd: ManuallyDrop::new(pidfd), generation }),
            }),
            Err(errno) => {
                // Law 7. The number is still that of our child: nobody can have reaped it.
                let _ = rustix::process::kill_process(pid, Signal::KILL);
                let _ = fetch(WaitId::Pid(pid), WaitIdOptions::EXITED);
                Err(failed("pidfd_open", errno))
            }
        }
    }
}

/// A unit begun by [`Fork`]: a process, and a pidfd that says when it ended.
///
/// It can be reaped only once: if something else in this program takes the exit status of every child
/// (`wait`, `waitpid(-1)`, `SIGCHLD` set to be ignored), waiting fails with `ECHILD`. A copy of this value
/// in a forked child of the process is of no use there: waiting fails with `ECHILD`, killing with `EPERM`,
/// and its descriptor is somebody else's.
#[derive(Debug)]
pub struct ForkedChild {
    pid: Pid,
    exit: Mutex<Option<Exit>>,
    handle: ManuallyDrop<Orphan>,
}

impl ForkedChild {
    /// Takes the exit status, if there is one. The lock makes sure that only one thread reaps.
    fn fetch(&self) -> Result<Option<Exit>, SpawnError> {
        let mut exit = lock(&self.exit);
        if exit.is_none() {
            *exit = self.handle.reap()?;
        }
        Ok(*exit)
    }
}

impl AsFd for ForkedChild {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.pidfd.as_fd()
    }
}

impl Child for ForkedChild {
    fn id(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    fn try_wait(&self) -> Result<Option<Exit>, SpawnError> {
        self.fetch()
    }

    fn wait(&self) -> Result<Exit, SpawnError> {
        loop {
            if let Some(exit) = self.fetch()? {
                return Ok(exit);
            }
            // Sleeps without the lock, and without reaping: other threads may look or wait meanwhile. If
            // one of them reaps first, this fails, and `fetch` finds what the other has found.
            let _ = fetch(WaitId::PidFd(self.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
        }
    }

    fn kill(&self, signal: i32) -> Result<(), SpawnError> {
        if lock(&self.exit).is_some() {
            return Ok(());
        }
        if !self.handle.generation.is_current() {
            return Err(failed("pidfd_send_signal", Errno::PERM));
        }
        match send_signal(self.as_fd(), signal) {
            Err(error) if error.raw_os_error() != Some(libc::ESRCH) => {
                Err(SpawnError::Io { op: "pidfd_send_signal", source: error })
            }
            _ => Ok(()),
        }
    }
}

impl Drop for ForkedChild {
    fn drop(&mut self) {
        // SAFETY: `handle` is not used after this: the value is being dropped.
        let orphan = unsafe { ManuallyDrop::take(&mut self.handle) };
        if !orphan.generation.is_current() {
            return;
        }
        // An error says that there is nothing to reap.
        let ended = lock(&self.exit).is_some() || !matches!(orphan.reap(), Ok(None));
        if !ended {
            lock(&ORPHANS).push(orphan);
        }
        sweep();
    }
}

/// A child as the kernel knows it. Dropping it closes the descriptor and does not wait.
#[derive(Debug)]
struct Orphan {
    pidfd: ManuallyDrop<OwnedFd>,
    generation: Generation,
}

impl Orphan {
    fn reap(&self) -> Result<Option<Exit>, SpawnError> {
        let status = if self.generation.is_current() {
            fetch(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG)
        } else {
            Err(Errno::CHILD)
        };
        let status = status.map_err(|errno| failed("waitid", errno))?;
        Ok(status.map(|status| exit_of(&status)))
    }
}

impl Drop for Orphan {
    fn drop(&mut self) {
        if self.generation.is_current() {
            // SAFETY: `pidfd` is not used after this: the value is being dropped.
            drop(unsafe { ManuallyDrop::take(&mut self.pidfd) });
        }
        // In a forked child the number was closed, and may have been given to somebody else.
    }
}

/// Reaps the orphans that have ended, and forgets those that are children of the parent.
fn sweep() {
    lock(&ORPHANS).retain(|orphan| orphan.generation.is_current() && matches!(orphan.reap(), Ok(None)));
}

/// `waitid`, undisturbed by signals.
fn fetch(id: WaitId<'_>, options: WaitIdOptions) -> Result<Option<WaitIdStatus>, Errno> {
    rustix::io::retry_on_intr(|| rustix::process::waitid(id.clone(), options))
}

fn exit_of(status: &WaitIdStatus) -> Exit {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, signal) => Exit::Signal { signal: signal.unwrap_or(0), core: status.dumped() },
    }
}

/// What happens at a signal; nothing for those that the C library keeps to itself.
fn action_of(signal: c_int) -> Option<libc::sigaction> {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: a null pointer means that nothing is set; the other is to a local.
    let result = unsafe { libc::sigaction(signal, ptr::null(), action.as_mut_ptr()) };
    // SAFETY: all zeroes is a value of this plain C structure, and the call may have filled it in.
    let action = unsafe { action.assume_init() };
    (result == 0).then_some(action)
}

/// Whether the system throws the ends of children away instead of keeping them for who waits.
fn ends_are_ignored() -> bool {
    action_of(libc::SIGCHLD).is_some_and(|action| {
        action.sa_sigaction == libc::SIG_IGN || action.sa_flags & libc::SA_NOCLDWAIT != 0
    })
}

/// How many threads can still run code of this program.
///
/// The kernel's own count decides: it is one number, while a listing of threads can miss some that begin
/// while it is read. A thread that was joined is counted until it is quite gone; the listing tells whether
/// all others are such, and then it is worth looking again.
fn count_threads() -> io::Result<usize> {
    const LOOKS: u32 = 10_000;
    for _ in 0..LOOKS {
        let stat = fs::read_to_string("/proc/self/stat")?;
        if stat_field(&stat, 20) == Some(1) {
            return Ok(1);
        }
        let mut running = 0;
        for entry in fs::read_dir("/proc/self/task")? {
            match fs::read_to_string(entry?.path().join("stat")) {
                Ok(stat) => running += usize::from(!is_exiting(&stat)),
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => {}
                Err(error) => return Err(error),
            }
        }
        if running > 1 {
            return Ok(running);
        }
        std::thread::yield_now();
    }
    Ok(2)
}

/// Whether a thread with this `stat` is on its way out, by the kernel's flag `PF_EXITING`.
fn is_exiting(stat: &str) -> bool {
    const PF_EXITING: u64 = 0x4;
    stat_field(stat, 9).is_some_and(|flags| flags & PF_EXITING != 0)
}

/// The number in a field of a `/proc/*/stat`, counted from 1 as in proc_pid_stat(5), from the fourth on.
fn stat_field(stat: &str, field: usize) -> Option<u64> {
    // The second is the name, in parentheses, and may contain anything.
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(field - 3)?.parse().ok()
}

fn failed(op: &'static str, errno: Errno) -> SpawnError {
    SpawnError::Io { op, source: errno.into() }
}

// What follows runs in the child.

/// The life of a unit. Whatever happens, it ends here.
fn run_unit<F: FnOnce() -> i32>(parent: Pid, keep: &[RawFd], run: F) -> ! {
    let mut end = End(PANICKED);
    let code = catch_unwind(AssertUnwindSafe(|| {
        die_with(parent);
        reset_signals();
        close_all_but(keep);
        open_standard_descriptors();
        post_fork::run();
        run()
    }));
    match code {
        Ok(code) => end.0 = code,
        // Dropping it could panic again.
        Err(payload) => mem::forget(payload),
    }
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

/// Gives signals that have a handler their default action, and unblocks all. A handler of the parent
/// would act on what it shares with the parent.
fn reset_signals() {
    for signal in 1..=libc::SIGRTMAX() {
        if signal == libc::SIGSEGV || signal == libc::SIGBUS {
            continue;
        }
        let Some(mut action) = action_of(signal) else { continue };
        if action.sa_sigaction != libc::SIG_DFL && action.sa_sigaction != libc::SIG_IGN {
            action.sa_sigaction = libc::SIG_DFL;
            action.sa_flags = 0;
            // SAFETY: `action` is a valid local; the default action runs no code of ours.
            unsafe { libc::sigaction(signal, &action, ptr::null_mut()) };
        }
    }
    set_signal_mask(&signal_set(false));
}

/// Law 3. `keep` is sorted.
fn close_all_but(keep: &[RawFd]) {
    let mut first = FIRST;
    for &fd in keep {
        if fd > first && close_range(first, fd - 1).is_err() {
            return close_listed(keep);
        }
        first = fd.saturating_add(1).max(first);
    }
    if close_range(first, RawFd::MAX).is_err() {
        close_listed(keep);
    }
}

/// For kernels before 5.9, and for sandboxes that do not know `close_range`.
fn close_listed(keep: &[RawFd]) {
    // Collected first: closing while reading would skip entries, and close the directory itself.
    let open: Vec<RawFd> = fs::read_dir("/proc/self/fd")
        .expect("a unit must be able to read /proc/self/fd, to close what it was not given")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    for fd in open {
        if fd >= FIRST && keep.binary_search(&fd).is_err() {
            // SAFETY: the owners of this number live in the parent, as argued in the module's head.
            unsafe { libc::close(fd) };
        }
    }
}

fn close_range(first: RawFd, last: RawFd) -> io::Result<()> {
    let first = first.unsigned_abs();
    let last = last.unsigned_abs();
    // SAFETY: takes integers; the owners of these numbers live in the parent, as argued in the module's
    // head.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    check(result)
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

// Signals.

/// While this value lives, no handler runs in this thread. Dropping it restores the mask.
struct BlockedSignals {
    before: libc::sigset_t,
}

impl BlockedSignals {
    fn new() -> BlockedSignals {
        BlockedSignals { before: set_signal_mask(&signal_set(true)) }
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        set_signal_mask(&self.before);
    }
}

fn signal_set(full: bool) -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
    if full {
        // SAFETY: the pointer is to a local.
        unsafe { libc::sigfillset(set.as_mut_ptr()) };
    } else {
        // SAFETY: the pointer is to a local.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    }
    // SAFETY: all zeroes is a value of this plain C structure, and the call has filled it in.
    unsafe { set.assume_init() }
}

/// Sets the mask of the calling thread, and returns the one before.
fn set_signal_mask(set: &libc::sigset_t) -> libc::sigset_t {
    let mut before = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: both pointers are to values that outlive the call. It cannot fail: SIG_SETMASK is valid.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, set, before.as_mut_ptr()) };
    // SAFETY: all zeroes is a value of this plain C structure, and the call has filled it in.
    unsafe { before.assume_init() }
}

/// `pidfd_send_signal`, for every number: rustix has names for the standard ones only.
fn send_signal(pidfd: BorrowedFd<'_>, signal: c_int) -> io::Result<()> {
    let nothing = ptr::null::<libc::siginfo_t>();
    let flags: libc::c_uint = 0;
    let pidfd = pidfd.as_raw_fd();
    // SAFETY: a null pointer stands for the information that `kill` sends.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd, signal, nothing, flags) };
    check(result)
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
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
}
