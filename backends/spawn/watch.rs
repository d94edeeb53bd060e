//! Watching child processes: [`ChildProcess`], for which it makes no difference who started the child.
//!
//! | by | the end is told by | needs |
//! |---|---|---|
//! | [`WatchBy::Descriptor`] | a pidfd, which the kernel makes readable | Linux 5.4 |
//! | [`WatchBy::Signal`] | an event descriptor, which our action at `SIGCHLD` makes readable after looking whether it is this child that ended | that nobody else replaces the handler of `SIGCHLD`, and that some thread does not block it |
//! | [`WatchBy::Best`] | the first, or where the system refuses it, the second | |
//!
//! A child is reaped here only, by its own number, and signalled only while it is not reaped: under one lock, so that
//! the number cannot have become another's. Children that nobody has a handle for any more are *orphans*; each is reaped
//! by the first sweep after its end. There is no thread, and nobody else's children are touched.
//!
//! This module does not start anything, and keeps no list of what it watches: that is [`Children`](super::Children).
//!
//! # Safety
//!
//! A handle that is carried into a forked child must leave its descriptor alone there: the number was closed, and may
//! be another's by now. So it is dropped by hand, after a look at the generation. The action at `SIGCHLD` makes two
//! system calls through rustix, `waitid` and `write`, which are async-signal-safe; it owns what it uses. The remaining
//! unsafe code is system calls that take integers.

#![allow(unsafe_code)]

use std::ffi::c_int;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, WaitIdStatus};

use super::{Child, Exit, SpawnError};
use crate::generation::Generation;
use crate::posix::post_fork;
use crate::signal;
use crate::sync::global::{AtomicBool, Mutex, MutexGuard, Once, Ordering, lock};

/// Children that were dropped while they ran; each is reaped by the first sweep after its end (law 5).
static ORPHANS: Mutex<Vec<Arc<Watched>>> = Mutex::new(Vec::new());

/// How the end of a child is noticed. It makes no difference to who waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WatchBy {
    /// By a pidfd, or where the system refuses it, by `SIGCHLD`.
    #[default]
    Best,
    /// By a pidfd, which the kernel makes readable (Linux 5.4).
    Descriptor,
    /// By an event descriptor, which an action at `SIGCHLD` makes readable after looking whether it is this child that
    /// ended. Nobody else may replace the handler of `SIGCHLD`, and some thread must not block it; until then only
    /// asking tells. Each end costs a system call for every child that is watched so.
    Signal,
}

/// A process that is a child of this one, and a descriptor that says when it ended.
///
/// It can be reaped only once: if something else in this program takes the exit status of every child
/// (`wait`, `waitpid(-1)`, `SIGCHLD` set to be ignored), waiting fails with `ECHILD`. A copy of this value
/// in a forked child of the process is of no use there: waiting fails with `ECHILD`, killing with `EPERM`,
/// and its descriptor is somebody else's.
///
/// Dropping it while the child runs lets the child go on; it is reaped after its end (law 5).
#[derive(Debug)]
#[doc(alias("watched_subprocess", "pidfd_open", "waitpid", "SIGCHLD"))]
pub struct ChildProcess {
    watched: Arc<Watched>,
}

impl ChildProcess {
    /// Watches a child of this process that was started by other means, such as [`std::process::Command`]. It is reaped
    /// by this value from now on, and by nobody else.
    ///
    /// A child that has ended and was not reaped is as good as one that runs.
    ///
    /// # Errors
    /// [`SpawnError::Io`] with `ECHILD` if this process has no such child, or has reaped it; with `EMFILE` if no
    /// descriptor is free; [`SpawnError::EndsIgnored`] if nobody can learn of ends.
    #[doc(alias = "watch_subprocess")]
    pub fn watch(id: u32, by: WatchBy) -> Result<ChildProcess, SpawnError> {
        if ends_are_ignored() {
            return Err(SpawnError::EndsIgnored);
        }
        let pid = i32::try_from(id).ok().and_then(Pid::from_raw);
        ChildProcess::of(pid.ok_or(failed("waitid", Errno::CHILD))?, by, None)
    }

    /// Watches a child that this process has just made, of which there may be a pidfd already. If that fails, ends the
    /// child (law 7).
    pub(super) fn new(pid: Pid, pidfd: Option<OwnedFd>) -> Result<ChildProcess, SpawnError> {
        ChildProcess::of(pid, WatchBy::Best, pidfd).inspect_err(|error| match error {
            // Somebody else in this program has reaped it, and its number may be another's.
            SpawnError::Io { source, .. } if source.raw_os_error() == Some(libc::ECHILD) => {}
            _ => put_down(pid),
        })
    }

    fn of(pid: Pid, by: WatchBy, pidfd: Option<OwnedFd>) -> Result<ChildProcess, SpawnError> {
        // Is it ours? A number that is nobody's, or another's, is refused before anything is done with it.
        if pidfd.is_none() {
            look(WaitId::Pid(pid)).map_err(|errno| failed("waitid", errno))?;
        }
        let generation = Generation::current();
        let teller = ManuallyDrop::new(Teller::new(pid, by, pidfd)?);
        let watched = Watched { pid, teller, generation, state: Mutex::new(State::Unreaped) };
        Ok(ChildProcess { watched: Arc::new(watched) })
    }

    /// Leaves the child to itself: it goes on, and is reaped after its end. This is what dropping does.
    #[doc(alias = "ignore_subprocess")]
    pub fn ignore(self) {}

    /// Gives the child back to the caller, who has to reap it: nobody else will, so that it may become a zombie.
    /// Returns its number, or `None` if it was reaped already, or is not a child of this process but of its parent.
    #[doc(alias = "forget_subprocess")]
    pub fn forget(self) -> Option<u32> {
        let mut state = lock(&self.watched.state);
        match *state {
            State::Unreaped if self.watched.generation.is_current() => {
                *state = State::Gone;
                drop(state);
                Some(self.id())
            }
            _ => None,
        }
    }

    /// Sends the signal to all processes of the group `group`, if the child is in it and was not reaped. Returns
    /// whether it is.
    ///
    /// As long as the child is not reaped, the group exists, and its number is not another's; a child that has ended
    /// counts, so that what it has left behind in its group is reached. To ask for all children of a group at once, see
    /// [`Children::kill_group`](super::Children::kill_group).
    ///
    /// # Errors
    /// [`SpawnError::Io`]: `EPERM`, `EINVAL` for a signal that does not exist.
    #[doc(alias = "killpg_subprocess")]
    pub fn kill_group(&self, group: u32, signal: i32) -> Result<bool, SpawnError> {
        self.watched.kill_group(group, signal)
    }

    pub(super) fn watched(&self) -> &Arc<Watched> {
        &self.watched
    }
}

impl AsFd for ChildProcess {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.watched.teller.fd()
    }
}

impl Child for ChildProcess {
    fn id(&self) -> u32 {
        self.watched.id()
    }

    #[doc(alias = "get_subprocess_status")]
    fn try_wait(&self) -> Result<Option<Exit>, SpawnError> {
        self.watched.reap()
    }

    fn wait(&self) -> Result<Exit, SpawnError> {
        loop {
            if let Some(exit) = self.watched.reap()? {
                return Ok(exit);
            }
            // Sleeps without the lock, and without reaping: other threads may look or wait meanwhile. If
            // one of them reaps first, this fails, and `reap` finds what the other has found.
            let _ = fetch(self.watched.wait_id(), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
        }
    }

    #[doc(alias = "kill_subprocess")]
    fn kill(&self, signal: i32) -> Result<(), SpawnError> {
        self.watched.kill(signal)
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        if self.watched.generation.is_current() {
            // An error says that there is nothing to reap.
            let ended = !self.watched.is_unreaped() || !matches!(self.watched.reap(), Ok(None));
            if !ended {
                adopt(&self.watched);
            }
            sweep();
        }
    }
}

/// Whether there may be orphans. Who starts one child after the other and waits for each has none, and touches nothing.
static ANY_ORPHANS: AtomicBool = AtomicBool::new(false);

fn adopt(child: &Arc<Watched>) {
    static FORGOTTEN_IN_CHILDREN: Once = Once::new();
    FORGOTTEN_IN_CHILDREN.call_once(|| {
        post_fork::register("the children of the parent", || lock(&ORPHANS).clear()).keep();
    });
    let mut orphans = lock(&ORPHANS);
    orphans.push(Arc::clone(child));
    ANY_ORPHANS.store(true, Ordering::Relaxed);
}

/// Reaps the orphans that have ended, and forgets those that are children of the parent.
pub(super) fn sweep() {
    // Who has made one knows it, and to others it is a matter of time.
    if !ANY_ORPHANS.load(Ordering::Relaxed) {
        return;
    }
    let mut orphans = lock(&ORPHANS);
    orphans.retain(|orphan| orphan.generation.is_current() && matches!(orphan.reap(), Ok(None)));
    ANY_ORPHANS.store(!orphans.is_empty(), Ordering::Relaxed);
}

/// A child as this process knows it.
#[derive(Debug)]
pub(super) struct Watched {
    pid: Pid,
    teller: ManuallyDrop<Teller>,
    generation: Generation,
    /// Its lock makes sure that only one thread reaps, and none signals what is reaped.
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    /// Nobody has reaped it: its number is its own.
    Unreaped,
    /// It was reaped here.
    Ended(Exit),
    /// Somebody else has reaped it, or has to.
    Gone,
}

impl Watched {
    pub(super) fn id(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    fn wait_id(&self) -> WaitId<'_> {
        match &*self.teller {
            Teller::Pidfd(pidfd) => WaitId::PidFd(pidfd.as_fd()),
            Teller::Bell { .. } => WaitId::Pid(self.pid),
        }
    }

    /// Whether its number is its own, as far as is known without asking.
    pub(super) fn is_unreaped(&self) -> bool {
        self.generation.is_current() && matches!(*lock(&self.state), State::Unreaped)
    }

    /// Takes the exit status, if there is one.
    pub(super) fn reap(&self) -> Result<Option<Exit>, SpawnError> {
        let mut state = lock(&self.state);
        match *state {
            State::Ended(exit) => return Ok(Some(exit)),
            State::Gone => return Err(failed("waitid", Errno::CHILD)),
            State::Unreaped if !self.generation.is_current() => return Err(failed("waitid", Errno::CHILD)),
            State::Unreaped => {}
        }
        match fetch(self.wait_id(), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
            Ok(None) => Ok(None),
            Ok(Some(status)) => {
                let exit = exit_of(&status);
                *state = State::Ended(exit);
                Ok(Some(exit))
            }
            Err(errno) => {
                if errno == Errno::CHILD {
                    *state = State::Gone;
                }
                Err(failed("waitid", errno))
            }
        }
    }

    /// The lock on a number that is the child's own for as long as the lock is held; `None` if it is not.
    fn own_number(&self) -> Option<MutexGuard<'_, State>> {
        let mut state = lock(&self.state);
        if !matches!(*state, State::Unreaped) {
            return None;
        }
        // Somebody else in this program may have reaped it.
        if matches!(look(self.wait_id()), Err(Errno::CHILD)) {
            *state = State::Gone;
            return None;
        }
        Some(state)
    }

    pub(super) fn kill(&self, signal: c_int) -> Result<(), SpawnError> {
        if !self.generation.is_current() {
            return Err(failed("kill", Errno::PERM));
        }
        let Some(_own) = self.own_number() else { return Ok(()) };
        let by_number = || kill(self.pid.as_raw_nonzero().get(), signal);
        let (op, result) = match &*self.teller {
            Teller::Pidfd(pidfd) => match send_signal(pidfd.as_fd(), signal) {
                // A sandbox that lets pidfds be made, perhaps with the child, but not used.
                Err(source) if matches!(source.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => {
                    ("kill", by_number())
                }
                result => ("pidfd_send_signal", result),
            },
            Teller::Bell { .. } => ("kill", by_number()),
        };
        match result {
            Err(source) if source.raw_os_error() != Some(libc::ESRCH) => Err(SpawnError::Io { op, source }),
            _ => Ok(()),
        }
    }

    pub(super) fn kill_group(&self, group: u32, signal: c_int) -> Result<bool, SpawnError> {
        if !self.generation.is_current() {
            return Err(failed("kill", Errno::PERM));
        }
        let Some(_own) = self.own_number() else { return Ok(false) };
        // 0, which would be our own group to `kill`, is a group that has no number here: its leader is outside of this
        // PID namespace. (rustix's call promises a number that is not 0.)
        // SAFETY: takes an integer.
        let its = unsafe { libc::getpgid(self.pid.as_raw_nonzero().get()) };
        if its <= 0 || its.unsigned_abs() != group {
            return Ok(false);
        }
        match kill(-its, signal) {
            // All that is left of the group are the ended.
            Err(source) if source.raw_os_error() == Some(libc::ESRCH) => Ok(true),
            Err(source) => Err(SpawnError::Io { op: "kill", source }),
            Ok(()) => Ok(true),
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if self.generation.is_current() {
            // SAFETY: `teller` is not used after this: the value is being dropped.
            unsafe { ManuallyDrop::drop(&mut self.teller) };
        }
        // In a forked child the number was closed, and may have been given to somebody else.
    }
}

/// What says, by a descriptor, when a child ended.
#[derive(Debug)]
enum Teller {
    Pidfd(OwnedFd),
    Bell { bell: Arc<OwnedFd>, _watch: signal::Watch },
}

impl Teller {
    fn new(pid: Pid, by: WatchBy, pidfd: Option<OwnedFd>) -> Result<Teller, SpawnError> {
        if by == WatchBy::Signal {
            return Teller::bell(pid);
        }
        let pidfd = match pidfd {
            Some(pidfd) => Ok(pidfd),
            None => rustix::process::pidfd_open(pid, PidfdFlags::empty()),
        };
        // Linux 5.3 has pidfds that cannot be waited for (`EINVAL`). And without one from the start, the number may have
        // become another's before it was opened.
        let waitable = match &pidfd {
            Ok(pidfd) => look(WaitId::PidFd(pidfd.as_fd())).map(|_| ()),
            Err(_) => Ok(()),
        };
        match (pidfd, waitable) {
            (Ok(pidfd), Ok(())) => Ok(Teller::Pidfd(pidfd)),
            (Ok(_), Err(Errno::INVAL)) if by == WatchBy::Best => {
                // Not looked for yet if the pidfd is from the start.
                look(WaitId::Pid(pid)).map_err(|errno| failed("waitid", errno))?;
                Teller::bell(pid)
            }
            (Ok(_), Err(errno)) => Err(failed("waitid", errno)),
            // An older kernel, or a sandbox.
            (Err(Errno::NOSYS | Errno::PERM | Errno::ACCESS), _) if by == WatchBy::Best => Teller::bell(pid),
            (Err(errno), _) => Err(failed("pidfd_open", errno)),
        }
    }

    fn bell(pid: Pid) -> Result<Teller, SpawnError> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map(Arc::new)
            .map_err(|errno| failed("eventfd", errno))?;
        let ours = Arc::clone(&bell);
        let ring = move || {
            // Also if somebody else has reaped it: whoever asks then is told.
            if !matches!(rustix::process::waitid(WaitId::Pid(pid), LOOK), Ok(None)) {
                let _ = rustix::io::write(&ours, &1_u64.to_ne_bytes());
            }
        };
        let now = ring.clone();
        // SAFETY: it makes two system calls that are async-signal-safe, as argued in the module's head.
        let watch = unsafe { signal::watch(libc::SIGCHLD, ring) };
        let watch = watch.map_err(|source| SpawnError::Io { op: "sigaction", source })?;
        // It may have ended before.
        now();
        Ok(Teller::Bell { bell, _watch: watch })
    }

    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Teller::Pidfd(pidfd) => pidfd.as_fd(),
            Teller::Bell { bell, .. } => bell.as_fd(),
        }
    }
}

/// How to see whether a child has ended without reaping it.
const LOOK: WaitIdOptions = WaitIdOptions::EXITED.union(WaitIdOptions::NOHANG).union(WaitIdOptions::NOWAIT);

fn look(id: WaitId<'_>) -> Result<Option<WaitIdStatus>, Errno> {
    fetch(id, LOOK)
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

/// Ends a child that nobody has watched yet, and reaps it.
fn put_down(pid: Pid) {
    // A moment ago the number was that of our child, which only somebody who reaps all children can have changed.
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    reap_unwatched(pid, None);
}

/// Waits for the end of a child that nobody has watched, and reaps it, if nobody else has.
pub(super) fn reap_unwatched(pid: Pid, pidfd: Option<BorrowedFd<'_>>) {
    // By the number only if that must be: if somebody else has reaped it, the number may be that of another child.
    match pidfd.map(|pidfd| fetch(WaitId::PidFd(pidfd), WaitIdOptions::EXITED)) {
        Some(Ok(_) | Err(Errno::CHILD)) => {}
        Some(Err(_)) | None => drop(fetch(WaitId::Pid(pid), WaitIdOptions::EXITED)),
    }
}

/// Whether the system throws the ends of children away instead of keeping them for who waits.
pub(super) fn ends_are_ignored() -> bool {
    signal::action_of(libc::SIGCHLD).is_some_and(|action| {
        action.sa_sigaction == libc::SIG_IGN || action.sa_flags & libc::SA_NOCLDWAIT != 0
    })
}

/// `pidfd_send_signal`, for every number: rustix has names for the standard ones only.
fn send_signal(pidfd: BorrowedFd<'_>, signal: c_int) -> io::Result<()> {
    let nothing = ptr::null::<libc::siginfo_t>();
    let flags: libc::c_uint = 0;
    let pidfd = pidfd.as_raw_fd();
    // SAFETY: a null pointer stands for the information that `kill` sends.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd, signal, nothing, flags) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `kill`, for every number, as above; a negative `target` is a group.
fn kill(target: libc::pid_t, signal: c_int) -> io::Result<()> {
    // SAFETY: takes integers.
    if unsafe { libc::kill(target, signal) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn failed(op: &'static str, errno: Errno) -> SpawnError {
    SpawnError::Io { op, source: errno.into() }
}
