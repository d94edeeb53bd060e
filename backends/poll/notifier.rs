//! [`Notifier`]: a descriptor that somebody else can make readable.
//!
//! For who waits by other means than a [`Poller`](super::Poller), which has
//! [`notify`](super::Poller::notify) itself, or wants to be told several things apart. It counts nothing and carries
//! nothing: being notified twice before somebody looks is being notified once.
//!
//! # Safety
//!
//! A signal's action may only do what POSIX calls async-signal-safe. Ours is one `write` to a descriptor that it owns,
//! through rustix, which makes the system call and nothing else.

#![allow(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use super::{Interest, PollError, new_bell, poll_single, ring, silence};
use crate::signal;

/// A flag with a descriptor: readable, level-triggered, from [`notify`](Notifier::notify) until
/// [`consume`](Notifier::consume).
///
/// Clones are the same flag; they may be used by several threads, and by forked children that were given the descriptor.
///
/// ```
/// use std::os::fd::AsFd;
/// use manycore_backends::poll::{Interest, Notifier, poll_single};
///
/// let notifier = Notifier::new()?;
/// let other = notifier.clone();
/// let thread = std::thread::spawn(move || other.notify());
/// assert!(poll_single(notifier.as_fd(), Interest::READ, None)?.is_readable());
/// assert!(notifier.consume()?);
/// assert!(!notifier.consume()?);
/// # thread.join().unwrap()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias("create_event", "get_event_fd", "eventfd"))]
#[derive(Clone, Debug)]
pub struct Notifier {
    bell: Arc<OwnedFd>,
}

impl Notifier {
    /// A flag that is not set.
    ///
    /// # Errors
    /// [`PollError::Io`] if the system has no descriptor left for it.
    pub fn new() -> Result<Notifier, PollError> {
        Ok(Notifier { bell: Arc::new(new_bell()?) })
    }

    /// Sets the flag: the descriptor is readable from now on.
    ///
    /// # Errors
    /// [`PollError::Io`] if the system call fails.
    #[doc(alias = "set_event")]
    pub fn notify(&self) -> Result<(), PollError> {
        ring(&self.bell)
    }

    /// Clears the flag, and returns whether it was set.
    ///
    /// # Errors
    /// [`PollError::Io`] if the system call fails.
    #[doc(alias = "consume_event")]
    pub fn consume(&self) -> Result<bool, PollError> {
        silence(&self.bell)
    }

    /// Sleeps until the flag is set or the timeout is over (`None`: for ever; zero: looks). Returns whether it is set,
    /// and leaves it so. Signals do not disturb.
    ///
    /// # Errors
    /// [`PollError::Io`] if the system call fails.
    #[doc(alias = "wait_event")]
    pub fn wait(&self, timeout: Option<Duration>) -> Result<bool, PollError> {
        poll_single(self.as_fd(), Interest::READ, timeout).map(|ready| !ready.is_none())
    }

    /// Sets the flag at each arrival of the signal in this process, as long as the returned value lives.
    ///
    /// What else happens at the signal still happens, except for its default action: `SIGTERM` does not end the process
    /// while somebody watches it. With the end of the last watch the default action is back, or the signal is ignored
    /// again, if that was so before. Units of [`Fork`](crate::spawn::Fork) do not watch what their parent watches, and
    /// have its default action until they watch it themselves.
    ///
    /// Other parts of the program that use the crate `signal-hook-registry` for the same signal must have registered
    /// before the first watch to be called after the last.
    ///
    /// # Errors
    /// [`PollError::Io`] with `EINVAL` if there is no such signal or it cannot be watched (`SIGKILL`, `SIGSTOP`, and
    /// `SIGILL`, `SIGFPE`, `SIGSEGV`, after which a program cannot go on).
    #[doc(alias("report_signal_as_event", "sigaction"))]
    pub fn watch_signal(&self, signal: i32) -> Result<SignalWatch, PollError> {
        let bell = Arc::clone(&self.bell);
        let act = move || {
            // The counter cannot be so high that this blocks: the descriptor is non-blocking, and then it is readable.
            let _ = rustix::io::write(&bell, &1_u64.to_ne_bytes());
        };
        // SAFETY: the action makes one system call that is async-signal-safe, as argued in the module's head.
        let watch = unsafe { signal::watch(signal, act) };
        watch.map(SignalWatch).map_err(|source| PollError::Io { op: "sigaction", source })
    }
}

/// Whether the signal is ignored in this process, as whoever has started it may have wanted: then who watches it would
/// heed what should not be heeded.
pub fn is_signal_ignored(signal: i32) -> bool {
    signal::action_of(signal).is_some_and(|action| action.sa_sigaction == libc::SIG_IGN)
}

impl AsFd for Notifier {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

/// As long as this lives, a signal sets the flag of a [`Notifier`].
#[derive(Debug)]
pub struct SignalWatch(#[allow(dead_code, reason = "it does its work by being there")] signal::Watch);
