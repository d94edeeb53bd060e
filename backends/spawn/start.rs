//! Making the process of a [`Command`](super::Command).
//!
//! The child is made by `clone` with the flags that `vfork` stands for: it shares the memory of its parent, and the
//! calling thread sleeps until the child runs its program or ends. So nothing of the parent is copied, however large it
//! is; the child tells what failed by writing it down, and needs no pipe whose number could be in the way; and the
//! parent knows when it returns that the program runs, or why not. This is what the C library does for `posix_spawn`.
//!
//! | | in the parent | in the child |
//! |---|---|---|
//! | before | all signals are blocked, all texts and lists are made | |
//! | `clone` | sleeps | has the parent's memory, a stack of its own, a copy of the table of descriptors, and all signals blocked |
//! | | | gives every handled signal its default action: a handler would run in the parent's memory |
//! | | | does the steps; writes down the first that fails, gives the foreground back, and ends |
//! | | | sets the signal mask, and runs the program |
//! | after | reaps a child that has failed | |
//!
//! "All signals" are those that the C library lets go; it keeps one or two for itself, which the kernel numbers from 32 on.
//! Their handlers stay in the child until it runs the program, and do nothing there: they heed only what a thread of their
//! own process sends.
//!
//! Where a system that is emulated (qemu's user mode, valgrind) makes a copy of the memory instead of sharing it, what
//! failed is not told: the start succeeds, and the program ends with code 127.
//!
//! # Safety
//!
//! The child runs in the memory of a process whose other threads go on. It therefore allocates nothing, takes no lock,
//! and calls only what is async-signal-safe: system calls through rustix or `syscall`, and functions of the C library that
//! are on POSIX's list and at which no thread can be cancelled (as it can at `close`). It uses the thread-local storage of
//! the calling thread (for `errno`), which sleeps meanwhile. Nothing it calls unwinds. It has its own stack, with a page below it that cannot be touched. It writes to two places only, its
//! stack and the `Shared` of this call, which the parent reads when the child does not run any more.
//!
//! Descriptors are closed and replaced by number; it is the child's own table, and the owners live in the parent.

#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};
use rustix::process::{Pid, Signal};

use super::Step;
use super::command::Group;
use super::descriptors::{close, close_all_but, last_errno};
use super::plan::{Origin, Plan, PlannedAction, PlannedDirectory};
use super::watch::reap_unwatched;
use crate::signal::{self, BlockedSignals, Signals};

/// The exit code of a child that could not run its program: that of shells.
const FAILED: c_int = 127;

/// Bytes of the child's stack. Its deepest call has a buffer of 2 KiB.
const STACK: usize = 64 * 1024;

/// What could not be done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failure {
    pub(super) step: Step,
    pub(super) call: &'static str,
    pub(super) errno: Errno,
}

/// What parent and child have in common.
struct Shared<'plan> {
    plan: &'plan mut Plan,
    /// The mask of the caller.
    mask: &'plan libc::sigset_t,
    /// Where to write down what failed.
    failure: *mut Option<Failure>,
}

/// Makes a process that runs the program, with the signal mask `mask` if the plan has none. The caller has blocked all
/// signals. A pidfd of it comes along, if the kernel can.
pub(super) fn launch(plan: &mut Plan, mask: &libc::sigset_t) -> Result<(Pid, Option<OwnedFd>), Failure> {
    let failed = |call, errno| Failure { step: Step::Process, call, errno };
    let stack = Stack::new().map_err(|errno| failed("mmap", errno))?;
    let mut failure = None;
    let failure = &raw mut failure;
    let mut shared = Shared { plan, mask, failure };
    let mut pidfd: RawFd = -1;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
    let argument: *mut Shared<'_> = &mut shared;
    // SAFETY: `run` does in the shared memory only what the module's head allows, on a stack that lives until it is done
    // with it; `shared`, `failure` and `pidfd` are locals that outlive the call, and while the child uses them the parent sleeps.
    let result = unsafe { libc::clone(run, stack.top(), flags, argument.cast(), &raw mut pidfd) };
    // Not before it is known to be a number: `from_raw` panics at -1.
    let pid = if result > 0 { Pid::from_raw(result) } else { None };
    let Some(pid) = pid else {
        return Err(failed("clone", last_errno()));
    };
    // SAFETY: the kernel has opened it for us, and nobody else knows of it.
    let pidfd = (pidfd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(pidfd) });
    // SAFETY: a local. It is read as something that has changed behind the compiler's back; the child is done with it.
    match unsafe { ptr::read_volatile(failure) } {
        None => Ok((pid, pidfd)),
        Some(failure) => {
            reap_unwatched(pid, pidfd.as_ref().map(AsFd::as_fd));
            Err(failure)
        }
    }
}

/// The child. Returns only if it could not run the program.
extern "C" fn run(argument: *mut c_void) -> c_int {
    // SAFETY: it is the `Shared` of the call of `clone`, and nobody else uses it while the parent sleeps.
    let shared = unsafe { &mut *argument.cast::<Shared<'_>>() };
    let mut before = None;
    if let Err(failure) = steps(shared.plan, shared.mask, &mut before) {
        if let Some(before) = before {
            give_foreground_back(before);
        }
        // SAFETY: the pointer to a local of the parent, which sleeps.
        unsafe { shared.failure.write(Some(failure)) };
    }
    FAILED
}

/// Does what is planned. Puts into `before` which group it has taken the foreground from.
fn steps(plan: &mut Plan, mask: &libc::sigset_t, before: &mut Option<Pid>) -> Result<(), Failure> {
    if let Some(parent) = plan.parent {
        die_with(parent)?;
    }
    signal::drop_handlers(Signals::ALL);
    // Rust's startup has it ignored, which is not what the caller has asked for.
    let _ = signal::set_plain_action(libc::SIGPIPE, false);
    change_directory(plan)?;
    change_group(plan.group, before)?;
    for &(signal, ignored) in &plan.signals {
        signal::set_plain_action(signal, ignored).map_err(|errno| Failure {
            step: Step::Signal(signal),
            call: "sigaction",
            errno: Errno::from_raw_os_error(errno),
        })?;
    }
    change_descriptors(plan)?;
    signal::set_mask(plan.mask.as_ref().unwrap_or(mask));
    Err(Failure { step: Step::Execute, call: "execve", errno: execute(plan) })
}

/// Has the kernel kill this process when the thread that sleeps for it ends, also after it runs its program.
fn die_with(parent: Pid) -> Result<(), Failure> {
    let failed = |call| move |errno| Failure { step: Step::Process, call, errno };
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(failed("prctl"))?;
    // It may have ended before the line above. Without a number it is alive in an outer PID namespace.
    match rustix::process::getppid() {
        Some(now) if now != parent => Err(failed("getppid")(Errno::SRCH)),
        _ => Ok(()),
    }
}

fn change_directory(plan: &Plan) -> Result<(), Failure> {
    let (call, result) = match &plan.directory {
        None => return Ok(()),
        Some(PlannedDirectory::Path(path)) => ("chdir", rustix::process::chdir(path.as_c_str())),
        // SAFETY: takes an integer.
        Some(PlannedDirectory::Descriptor(fd)) => ("fchdir", check(unsafe { libc::fchdir(*fd) })),
    };
    result.map_err(|errno| Failure { step: Step::Directory, call, errno })
}

fn change_group(group: Group, before: &mut Option<Pid>) -> Result<(), Failure> {
    let failed = |step, call| move |errno| Failure { step, call, errno };
    let set_group = |group: Option<Pid>| rustix::process::setpgid(None, group);
    match group {
        Group::Keep => Ok(()),
        Group::NewBackground => set_group(None).map_err(failed(Step::Group, "setpgid")),
        Group::Join(group) => {
            let group = i32::try_from(group).ok().and_then(Pid::from_raw).ok_or(Errno::PERM);
            group.and_then(|group| set_group(Some(group))).map_err(failed(Step::Group, "setpgid"))
        }
        Group::NewSession => rustix::process::setsid().map(|_| ()).map_err(failed(Step::Group, "setsid")),
        Group::NewForeground => {
            set_group(None).map_err(failed(Step::Group, "setpgid"))?;
            let terminal = open_terminal().map_err(failed(Step::Terminal, "open"))?;
            let now = rustix::termios::tcgetpgrp(&*terminal).ok();
            // From the background this would raise SIGTTOU; like all signals it is blocked here.
            let result = rustix::termios::tcsetpgrp(&*terminal, rustix::process::getpid());
            let _ = close(terminal.as_raw_fd());
            result.map_err(failed(Step::Foreground, "tcsetpgrp"))?;
            *before = now;
            Ok(())
        }
    }
}

/// The controlling terminal. To be closed by number: dropping it would be the C library's `close`.
fn open_terminal() -> Result<ManuallyDrop<OwnedFd>, Errno> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOCTTY;
    rustix::fs::open(c"/dev/tty", flags, Mode::empty()).map(ManuallyDrop::new)
}

/// Puts the group into the foreground that was there before, so that the terminal is not left to a group that is no more.
/// There is nobody to tell if that fails: the group may be gone.
fn give_foreground_back(before: Pid) {
    // The mask may be that of the program already, and SIGTTOU would stop this process, and the parent with it.
    let _blocked = BlockedSignals::all();
    if let Ok(terminal) = open_terminal() {
        let _ = rustix::termios::tcsetpgrp(&*terminal, before);
        let _ = close(terminal.as_raw_fd());
    }
}

fn change_descriptors(plan: &mut Plan) -> Result<(), Failure> {
    let Plan { descriptors, named, saved, keep, .. } = plan;
    let failed = |index, call| move |errno| Failure { step: Step::Descriptor(index), call, errno };
    for (index, action) in descriptors.iter().enumerate() {
        if let PlannedAction::Duplicate { from: Origin::Saved(number), .. } = action {
            // There is room: `Plan` has counted them.
            saved.push(save(*number, named).map_err(failed(index, "fcntl(F_DUPFD)"))?);
        }
    }
    let mut next_saved = 0;
    for (index, action) in descriptors.iter().enumerate() {
        match action {
            PlannedAction::Close(fd) => close(*fd).map_err(failed(index, "close"))?,
            PlannedAction::CloseIfOpen(fd) => {
                let _ = close(*fd);
            }
            PlannedAction::CloseAllExcept(numbers) => {
                keep.clear();
                keep.extend_from_slice(numbers);
                keep.extend_from_slice(saved);
                keep.sort_unstable();
                close_all_but(0, keep).map_err(failed(index, "close_range"))?;
            }
            PlannedAction::Duplicate { from, to } => {
                let from = match from {
                    Origin::Number(from) => *from,
                    Origin::Saved(_) => {
                        next_saved += 1;
                        saved[next_saved - 1]
                    }
                };
                let (call, result) = if from == *to {
                    // It is open already: it only has to stay so.
                    // SAFETY: takes integers.
                    ("fcntl(F_SETFD)", check(unsafe { libc::fcntl(from, libc::F_SETFD, 0) }))
                } else {
                    // SAFETY: takes integers.
                    ("dup2", check(unsafe { libc::dup2(from, *to) }))
                };
                result.map_err(failed(index, call))?;
            }
        }
    }
    Ok(())
}

/// A duplicate of the descriptor, to be closed when the program runs, under a number that the plan does not name.
fn save(number: RawFd, named: &[RawFd]) -> Result<RawFd, Errno> {
    let mut least = 3;
    loop {
        // SAFETY: takes integers.
        let duplicate = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, least) };
        check(duplicate)?;
        if named.binary_search(&duplicate).is_err() {
            return Ok(duplicate);
        }
        let _ = close(duplicate);
        least = duplicate + 1;
    }
}

/// Runs the program, and returns why it cannot.
fn execute(plan: &Plan) -> Errno {
    let mut refused = false;
    let mut last = Errno::NOENT;
    for program in &plan.programs {
        let (arguments, environment) = (plan.arguments.as_ptr(), plan.environment.as_ptr());
        // SAFETY: a C string, and two lists of pointers to C strings, each with a null pointer at its end.
        unsafe { libc::execve(program.as_ptr(), arguments, environment) };
        last = last_errno();
        match last {
            // It may be in the next directory.
            Errno::ACCESS => refused = true,
            // Nor does a file server that is gone hide those of others.
            Errno::NOENT | Errno::NOTDIR | Errno::NODEV | Errno::STALE | Errno::TIMEDOUT => {}
            _ => return last,
        }
    }
    if refused { Errno::ACCESS } else { last }
}

fn check(result: c_int) -> Result<(), Errno> {
    if result == -1 { Err(last_errno()) } else { Ok(()) }
}

/// Memory for a stack, above a page that cannot be touched.
struct Stack {
    bottom: *mut c_void,
    length: usize,
}

impl Stack {
    fn new() -> Result<Stack, Errno> {
        let page = rustix::param::page_size();
        let length = STACK.next_multiple_of(page) + page;
        let flags = MapFlags::PRIVATE | MapFlags::STACK | MapFlags::NORESERVE;
        // SAFETY: maps fresh memory at a place of the kernel's choice.
        let bottom = unsafe {
            rustix::mm::mmap_anonymous(ptr::null_mut(), length, ProtFlags::READ | ProtFlags::WRITE, flags)?
        };
        let stack = Stack { bottom, length };
        // SAFETY: a page of the memory above, which nobody uses.
        unsafe { rustix::mm::mprotect(bottom, page, MprotectFlags::empty())? };
        Ok(stack)
    }

    /// Where it begins: it grows downwards. Aligned, as it is at the end of a page.
    fn top(&self) -> *mut c_void {
        self.bottom.wrapping_byte_add(self.length)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and the child that used it does not run any more or has got other memory.
        let _ = unsafe { rustix::mm::munmap(self.bottom, self.length) };
    }
}
