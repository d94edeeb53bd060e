//! Signals, as the other rooms need them: actions that run at a signal, the calling thread's mask, and what a child must
//! undo before it goes its own way.
//!
//! Handlers are installed by the crate `signal-hook-registry`, which lets several parts of a program watch one signal and
//! keeps calling the handler that was there before. What it does not know of is that a forked child starts afresh: there,
//! this module keeps the actions of the parent from running, and installs the handler again when the child watches a
//! signal itself.
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

/// The handler of the registry, as it was first installed for each signal that was ever watched.
static INSTALLED: Mutex<Vec<(c_int, libc::sigaction)>> = Mutex::new(Vec::new());

/// As long as this lives, an action runs at a signal.
#[derive(Debug)]
pub(crate) struct Watch {
    id: SigId,
    generation: Generation,
}

impl Drop for Watch {
    fn drop(&mut self) {
        // In a forked child the action does not run anyway. The registry would wait for ever there for a handler that was
        // running in another thread of the parent at the fork; and what the action owns may have been closed already.
        if self.generation.is_current() {
            signal_hook_registry::unregister(self.id);
        }
    }
}

/// Runs `action` at each arrival of `signal` in this process, but not in its forked children.
///
/// A handler that was there before, or was installed in the place of ours, is called as well. The errno of the
/// interrupted code is kept. Once watched, a signal has lost its default action for good.
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
    let mut installed = lock(&INSTALLED);
    // SAFETY: `action` is async-signal-safe, says the caller, and comparing a generation is one atomic load.
    let id = unsafe { signal_hook_registry::register(signal, here) }?;
    match (installed.iter().find(|(known, _)| *known == signal), action_of(signal)) {
        (None, Some(action)) => installed.push((signal, action)),
        (Some((_, action)), Some(now)) if now.sa_sigaction != action.sa_sigaction => {
            call_as_well(signal, now)?;
            set_action(signal, action);
        }
        _ => {}
    }
    Ok(Watch { id, generation })
}

/// Has the registry's handler call another one, which was installed in its place: by somebody who does not know of it,
/// or in a forked child, after the signal got its default action there.
fn call_as_well(signal: c_int, other: libc::sigaction) -> io::Result<()> {
    if other.sa_sigaction == libc::SIG_DFL || other.sa_sigaction == libc::SIG_IGN {
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

/// Gives signals that have a handler their default action, but for those in `except`. Async-signal-safe.
pub(crate) fn drop_handlers(except: &[c_int]) {
    for signal in 1..=libc::SIGRTMAX() {
        if except.contains(&signal) {
            continue;
        }
        let Some(action) = action_of(signal) else { continue };
        if action.sa_sigaction != libc::SIG_DFL && action.sa_sigaction != libc::SIG_IGN {
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
