//! Signals, as the other rooms need them: actions that run at a signal, the calling thread's mask, and what a child must
//! undo before it goes its own way.
//!
//! Handlers are installed by the crate `signal-hook-registry`, which lets several parts of a program watch one signal and
//! keeps calling the handler that was there before. What it does not know of is that a forked child starts afresh: there,
//! this module keeps the actions of the parent from running, and installs the handler again when the child watches a
//! signal itself. Nor does the registry ever give a signal back; this module does:
//!
//! | when | the signal's action before | what is done |
//! |---|---|---|
//! | it is watched | the registry's handler | nothing |
//! | | the default, or to ignore it | the handler is installed |
//! | | another handler | the handler is installed, and calls that one as well, for good |
//! | the last watch ends | the registry's handler, in the place of the default or of ignoring | that is restored |
//! | | anything else | nothing |
//!
//! What this module cannot see is who else has registered with the same registry. Whoever does so while the only watches
//! are ours, for a signal that had its default action before them, loses the handler with the last of ours.
//!
//! # Safety
//!
//! The system calls take integers, or pointers to locals that outlive the call. What an action may do is argued by who
//! gives it to [`watch`].

#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::io;
use std::mem::{self, MaybeUninit};
use std::ptr;

use signal_hook_registry::SigId;

use crate::generation::Generation;
use crate::sync::global::{Mutex, lock};

/// What is known of each signal that was ever watched.
static WATCHED: Mutex<Vec<Watched>> = Mutex::new(Vec::new());

struct Watched {
    signal: c_int,
    /// The handler of the registry, as it was first installed.
    handler: libc::sigaction,
    /// What the handler has replaced.
    before: libc::sigaction,
    /// How many watches live, of those that this generation has made.
    watches: usize,
    generation: Generation,
}

/// As long as this lives, an action runs at a signal.
#[derive(Debug)]
pub(crate) struct Watch {
    signal: c_int,
    id: SigId,
    generation: Generation,
}

impl Drop for Watch {
    fn drop(&mut self) {
        // In a forked child the action does not run anyway. The registry would wait for ever there for a handler that was
        // running in another thread of the parent at the fork; and what the action owns may have been closed already.
        if self.generation.is_current() {
            // First, so that no arrival is lost between the two.
            give_back(self.signal);
            signal_hook_registry::unregister(self.id);
        }
    }
}

/// One watch less. After the last, what the handler has replaced is restored, unless it was a handler, or ours was
/// replaced by somebody else.
fn give_back(signal: c_int) {
    let mut watched = lock(&WATCHED);
    let Some(known) = watched.iter_mut().find(|known| known.signal == signal) else { return };
    known.watches -= 1;
    if known.watches > 0 || !is_plain(&known.before) {
        return;
    }
    let ours = action_of(signal).is_some_and(|now| now.sa_sigaction == known.handler.sa_sigaction);
    if ours {
        set_action(signal, &known.before);
    }
}

/// Whether it is the default action, or to ignore the signal.
fn is_plain(action: &libc::sigaction) -> bool {
    action.sa_sigaction == libc::SIG_DFL || action.sa_sigaction == libc::SIG_IGN
}

/// Runs `action` at each arrival of `signal` in this process, but not in its forked children.
///
/// A handler that was there before, or was installed in the place of ours, is called as well. The errno of the
/// interrupted code is kept. While it is watched, a signal has lost its default action.
///
/// # Safety
/// `action` must do nothing but what POSIX calls async-signal-safe.
///
/// # Errors
/// `EINVAL` if there is no such signal, or it cannot be watched.
pub(crate) unsafe fn watch(signal: c_int, action: impl Fn() + Send + Sync + 'static) -> io::Result<Watch> {
    if signal_hook_registry::FORBIDDEN.contains(&signal) {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let generation = Generation::current();
    let here = move || {
        if generation.is_current() {
            action();
        }
    };
    let mut watched = lock(&WATCHED);
    let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
    let before = action_of(signal).ok_or_else(invalid)?;
    // SAFETY: `action` is async-signal-safe, says the caller, and comparing a generation is one atomic load.
    let id = unsafe { signal_hook_registry::register(signal, here) }?;
    match watched.iter_mut().find(|known| known.signal == signal) {
        None => {
            let handler = action_of(signal).ok_or_else(invalid)?;
            watched.push(Watched { signal, handler, before, watches: 1, generation });
        }
        Some(known) => {
            if !known.generation.is_current() {
                // Those watches are the parent's.
                known.watches = 0;
                known.generation = generation;
            }
            if before.sa_sigaction != known.handler.sa_sigaction {
                if let Err(error) = call_as_well(signal, before) {
                    signal_hook_registry::unregister(id);
                    return Err(error);
                }
                known.before = before;
                set_action(signal, &known.handler);
            }
            known.watches += 1;
        }
    }
    Ok(Watch { signal, id, generation })
}

/// Has the registry's handler call another one, which was installed in its place: by somebody who does not know of it,
/// or in a forked child, after the signal got its default action there.
fn call_as_well(signal: c_int, other: libc::sigaction) -> io::Result<()> {
    if is_plain(&other) {
        return Ok(());
    }
    let generation = Generation::current();
    let call = move |information: &libc::siginfo_t| {
        if !generation.is_current() {
            return;
        }
        if other.sa_flags & libc::SA_SIGINFO == 0 {
            // SAFETY: a handler without `SA_SIGINFO` is such a function.
            let handler = unsafe { mem::transmute::<usize, extern "C" fn(c_int)>(other.sa_sigaction) };
            handler(signal);
        } else {
            type Handler = extern "C" fn(c_int, *const libc::siginfo_t, *mut c_void);
            // SAFETY: a handler with `SA_SIGINFO` is such a function.
            let handler = unsafe { mem::transmute::<usize, Handler>(other.sa_sigaction) };
            // The registry does not say what was interrupted.
            handler(signal, information, ptr::null_mut());
        }
    };
    // SAFETY: it does what it would have done as the handler, and that must be async-signal-safe.
    unsafe { signal_hook_registry::register_sigaction(signal, call) }.map(|_| ())
}

/// What happens at a signal; nothing for those that the C library keeps to itself.
pub(crate) fn action_of(signal: c_int) -> Option<libc::sigaction> {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: a null pointer means that nothing is set; the other is to a local.
    let result = unsafe { libc::sigaction(signal, ptr::null(), action.as_mut_ptr()) };
    // SAFETY: all zeroes is a value of this plain C structure, and the call may have filled it in.
    let action = unsafe { action.assume_init() };
    (result == 0).then_some(action)
}

fn set_action(signal: c_int, action: &libc::sigaction) {
    // SAFETY: the action is one that was installed for this signal before, and its code is still there.
    unsafe { libc::sigaction(signal, action, ptr::null_mut()) };
}

/// Gives a signal its default action, or has it ignored. Async-signal-safe.
///
/// # Errors
/// The errno: `EINVAL` if there is no such signal, or it can neither be ignored nor handled.
pub(crate) fn set_plain_action(signal: c_int, ignored: bool) -> Result<(), c_int> {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: writes to the fields of a local, which is all zeroes: a value of this plain C structure.
    let action = unsafe { action.assume_init_mut() };
    action.sa_sigaction = if ignored { libc::SIG_IGN } else { libc::SIG_DFL };
    // SAFETY: `action` is a valid local; neither action runs code of ours.
    match unsafe { libc::sigaction(signal, action, ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(errno()),
    }
}

/// A set of signals, as the kernel writes it in `/proc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Signals(u64);

impl Signals {
    pub(crate) const ALL: Signals = Signals(u64::MAX);

    /// The lowest bit stands for signal 1.
    pub(crate) fn from_mask(mask: u64) -> Signals {
        Signals(mask)
    }

    /// Takes a signal out, which is one of 1 to 64.
    pub(crate) fn remove(&mut self, signal: c_int) {
        self.0 &= !(1 << (signal - 1));
    }
}

/// Rising.
impl Iterator for Signals {
    type Item = c_int;

    fn next(&mut self) -> Option<c_int> {
        let signal = self.0.trailing_zeros() as c_int + 1;
        // Without its lowest bit.
        self.0 &= self.0.checked_sub(1)?;
        Some(signal)
    }
}

/// Gives signals that have a handler their default action, of those in `among`. Async-signal-safe.
pub(crate) fn drop_handlers(among: Signals) {
    for signal in among {
        let Some(action) = action_of(signal) else { continue };
        if !is_plain(&action) {
            // It cannot fail: the signal could be handled.
            let _ = set_plain_action(signal, false);
        }
    }
}

/// While this value lives, some or all signals wait in this thread. Dropping it restores the mask.
#[allow(missing_debug_implementations, reason = "a set of signals has none, and nobody prints it")]
pub(crate) struct BlockedSignals {
    before: libc::sigset_t,
}

impl BlockedSignals {
    /// Blocks all signals: no handler runs.
    pub(crate) fn all() -> BlockedSignals {
        BlockedSignals { before: change_mask(libc::SIG_BLOCK, &full_set()) }
    }

    /// Blocks one signal, which exists.
    pub(crate) fn one(signal: c_int) -> BlockedSignals {
        let mut set = empty_set();
        insert(&mut set, signal).expect("the signal exists");
        BlockedSignals { before: change_mask(libc::SIG_BLOCK, &set) }
    }

    /// The mask that will be restored.
    pub(crate) fn before(&self) -> &libc::sigset_t {
        &self.before
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        set_mask(&self.before);
    }
}

fn full_set() -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: the pointer is to a local.
    unsafe { libc::sigfillset(set.as_mut_ptr()) };
    // SAFETY: all zeroes is a value of this plain C structure, and the call has filled it in.
    unsafe { set.assume_init() }
}

pub(crate) fn empty_set() -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: the pointer is to a local.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: all zeroes is a value of this plain C structure, and the call has filled it in.
    unsafe { set.assume_init() }
}

/// Puts a signal into a set.
///
/// # Errors
/// `EINVAL` if there is no such signal.
pub(crate) fn insert(set: &mut libc::sigset_t, signal: c_int) -> io::Result<()> {
    // SAFETY: the pointer is to a value that outlives the call.
    if unsafe { libc::sigaddset(set, signal) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sets the mask of the calling thread. Async-signal-safe.
pub(crate) fn set_mask(set: &libc::sigset_t) {
    change_mask(libc::SIG_SETMASK, set);
}

/// Changes the mask of the calling thread, and returns the one before.
fn change_mask(how: c_int, set: &libc::sigset_t) -> libc::sigset_t {
    let mut before = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: both pointers are to values that outlive the call. It cannot fail: `how` is valid.
    unsafe { libc::pthread_sigmask(how, set, before.as_mut_ptr()) };
    // SAFETY: all zeroes is a value of this plain C structure, and the call has filled it in.
    unsafe { before.assume_init() }
}

/// The error of the last call of the C library in this thread.
fn errno() -> c_int {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}
