//! Waiting for descriptors: the contract [`Poller`] and its mechanisms.
//!
//! | mechanism | system call | good for |
//! |---|---|---|
//! | [`Poll`] | `poll` | up to some hundred descriptors; available everywhere |
//! | [`Epoll`] | `epoll` | thousands of descriptors of which few are ready |
//! | [`Select`] | `select` | an emulation with the meaning of `poll`, as far as the system can tell |
//!
//! Beside them stand what the first two are made of and others may want for themselves: [`PollArray`], a list of
//! descriptors without owners and keys, as the system call knows it; [`poll_single`] for one descriptor; and
//! [`Notifier`], a descriptor that another thread or a signal can make readable.
//!
//! # The contract
//!
//! A poller holds a set of *sources*. Each has a key chosen by the caller, and an [`Interest`].
//!
//! 1. **Level-triggered.** An event is reported by every wait as long as the state lasts.
//! 2. **Always told.** [`Ready::ERROR`], [`Ready::HANGUP`] and [`Ready::INVALID`] are reported whether asked
//!    for or not; an interest of [`Interest::NONE`] asks for these alone. A mechanism that cannot tell one of them
//!    leaves it out of [`Poller::ALWAYS_TOLD`]; it then reports such a state as what was asked for: who waits for
//!    reading (writing) is woken with a [`Ready`] that [is readable](Ready::is_readable)
//!    ([writable](Ready::is_writable)) with every mechanism, but for what [`BySelect`] says of hang-ups.
//! 3. **Kept open.** The poller shares ownership of its sources, so that a descriptor cannot be closed and
//!    its number reused while it is watched. After [`Poller::remove`] it is the caller's again.
//! 4. **Keys are unique.** Adding a key twice is [`PollError::AlreadyExists`]; changing or removing an
//!    unknown one is [`PollError::NotFound`]. Neither changes the set. One descriptor may be watched under
//!    several keys where the mechanism allows it.
//! 5. **Timeouts.** `None` waits for ever, zero looks once without sleeping, anything else waits at least
//!    that long unless an event comes (rounded up to what the system can measure, never down to a busy
//!    loop). A timeout is no error: no event is reported. Signals do not shorten a wait (`EINTR` is handled).
//! 6. **Shared.** All methods take `&self`: other threads may change the set during a wait, and the wait
//!    sees the change.
//! 7. **Notify.** [`Poller::notify`] ends the current wait, or the next one if none is under way, without
//!    an event. Several notifications before a wait count as one. If several waits are under way, it ends one of
//!    them that no earlier notification is to end, and never one that begins later.
//! 8. **Events replace.** A wait clears the event list that it is given, also when it fails.
//!
//! 9. **One process.** In a forked child of the process that made it, a poller refuses every use with
//!    [`PollError::Forked`]: its wake-ups would go to the parent.
//!
//! Regular files and directories are always ready for what is asked, as POSIX wants it.
//!
//! This module does not watch timers or processes; those become sources by being descriptors.

mod array;
mod epoll;
mod limit;
mod notices;
mod notifier;
#[allow(clippy::module_inception, reason = "named after the system call, as its siblings are")]
mod poll;
mod scan;
mod scanner;
mod select;

use std::fmt;
use std::io;
use std::ops::{BitAnd, BitAndAssign, BitOr, BitOrAssign, Not};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

pub use array::{PollArray, PollCell, poll_single};
pub use epoll::Epoll;
pub use notifier::{Notifier, SignalWatch, is_signal_ignored};
pub use poll::{ByPoll, Poll};
pub use scanner::Scanner;
pub use select::{BySelect, Select};

/// What a poller watches: anything that has a descriptor, shared with the poller.
///
/// [`AsFd::as_fd`] must give the same descriptor every time (as it does for all types of std); a source
/// that changes it may be watched under the old one or under the new one.
pub type Source = Arc<dyn AsFd + Send + Sync>;

/// A level-triggered watcher of descriptors. The laws are on the [module page](self).
#[doc(alias("poll", "select", "epoll", "pollset", "event_aggregator"))]
pub trait Poller: fmt::Debug + Send + Sync + Sized + 'static {
    /// Which of [`Ready::ERROR`], [`Ready::HANGUP`] and [`Ready::INVALID`] the mechanism reports in every case, whether
    /// asked for or not (law 2).
    const ALWAYS_TOLD: Ready;

    /// Makes an empty set.
    ///
    /// # Errors
    /// [`PollError::Io`] if the system has no descriptors left for it.
    fn new() -> Result<Self, PollError>;

    /// Watches `source` under `key`.
    ///
    /// # Errors
    /// [`PollError::AlreadyExists`] if the key is in use (law 4); [`PollError::Io`] if the mechanism
    /// cannot watch this kind of descriptor.
    fn add(&self, key: u64, source: Source, interest: Interest) -> Result<(), PollError>;

    /// Replaces the interest of `key`.
    ///
    /// # Errors
    /// [`PollError::NotFound`] if there is no such key.
    fn modify(&self, key: u64, interest: Interest) -> Result<(), PollError>;

    /// Stops watching `key` and gives its source back.
    ///
    /// # Errors
    /// [`PollError::NotFound`] if there is no such key.
    fn remove(&self, key: u64) -> Result<Source, PollError>;

    /// Sleeps until something is ready, the timeout is over, or [`notify`](Poller::notify); puts what is
    /// ready into `events`, which is cleared first. Each key appears at most once.
    ///
    /// # Errors
    /// [`PollError::Io`] if the system call fails for another reason than a signal.
    fn wait(&self, events: &mut Vec<Event>, timeout: Option<Duration>) -> Result<(), PollError>;

    /// Ends the current or else the next wait (law 7).
    ///
    /// # Errors
    /// [`PollError::Io`] if the system call fails.
    fn notify(&self) -> Result<(), PollError>;
}

/// One ready source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// The key under which the source was added.
    pub key: u64,
    /// What is ready.
    pub ready: Ready,
}

macro_rules! bit_set {
    ($(#[$doc:meta])* $name:ident { $($(#[$bit_doc:meta])* $bit:ident = $value:expr,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
        pub struct $name(u8);

        impl $name {
            /// The empty set.
            pub const NONE: $name = $name(0);
            $($(#[$bit_doc])* pub const $bit: $name = $name($value);)*

            /// The set as bits; the values are those of the constants.
            pub const fn bits(self) -> u8 {
                self.0
            }

            /// The set with these bits; bits that have no meaning are dropped.
            pub const fn from_bits(bits: u8) -> $name {
                $name(bits & (0 $(| $value)*))
            }

            /// Whether all of `other` is in this set.
            pub const fn contains(self, other: $name) -> bool {
                self.0 & other.0 == other.0
            }

            /// Whether the set is empty.
            pub const fn is_none(self) -> bool {
                self.0 == 0
            }
        }

        impl BitOr for $name {
            type Output = $name;
            fn bitor(self, other: $name) -> $name {
                $name(self.0 | other.0)
            }
        }

        impl BitOrAssign for $name {
            fn bitor_assign(&mut self, other: $name) {
                self.0 |= other.0;
            }
        }

        impl BitAnd for $name {
            type Output = $name;
            fn bitand(self, other: $name) -> $name {
                $name(self.0 & other.0)
            }
        }

        impl BitAndAssign for $name {
            fn bitand_assign(&mut self, other: $name) {
                self.0 &= other.0;
            }
        }

        /// All that the set has not, of what has a meaning.
        impl Not for $name {
            type Output = $name;
            fn not(self) -> $name {
                $name::from_bits(!self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut list = f.debug_list();
                $(if self.contains($name::$bit) { list.entry(&format_args!(stringify!($bit))); })*
                list.finish()
            }
        }
    };
}

bit_set! {
    /// What to wait for, as a set: `Interest::READ | Interest::WRITE`.
    #[doc(alias = "poll_req_events")]
    Interest {
        /// Data, a connection or end-of-file can be read without blocking.
        READ = 1,
        /// Urgent data is there.
        PRIORITY = 2,
        /// Something can be written without blocking.
        WRITE = 4,
    }
}

bit_set! {
    /// What a descriptor is ready for, as a set.
    #[doc(alias = "poll_act_events")]
    Ready {
        /// Data, a connection or end-of-file can be read without blocking.
        READ = 1,
        /// Urgent data is there.
        PRIORITY = 2,
        /// Something can be written without blocking.
        WRITE = 4,
        /// The descriptor has an error condition.
        ERROR = 8,
        /// The other side is gone.
        HANGUP = 16,
        /// The descriptor is not open.
        INVALID = 32,
    }
}

impl Ready {
    /// Whether a read will not block: there is data, end-of-file or an error to fetch.
    pub const fn is_readable(self) -> bool {
        self.0 & (Ready::READ.0 | Ready::ERROR.0 | Ready::HANGUP.0 | Ready::INVALID.0) != 0
    }

    /// What nobody has to ask for.
    const UNASKED: Ready = Ready(Ready::ERROR.0 | Ready::HANGUP.0 | Ready::INVALID.0);

    /// What of it to tell who asks for `interest`.
    fn of_interest(self, interest: Interest) -> Ready {
        Ready(self.0 & (interest.0 | Ready::UNASKED.0))
    }

    /// Whether a write will not block: there is room, or an error to fetch.
    pub const fn is_writable(self) -> bool {
        self.0 & (Ready::WRITE.0 | Ready::ERROR.0 | Ready::HANGUP.0 | Ready::INVALID.0) != 0
    }
}

/// Why a poller could not do what it was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PollError {
    /// The key is in use: choose another, or `modify` it.
    #[error("poll key {0} is already in use: remove it first, or modify it")]
    AlreadyExists(u64),
    /// There is no source with this key.
    #[error("no source with poll key {0}")]
    NotFound(u64),
    /// An array has no such cell.
    #[error("cells {first}..{end} asked for, but the array has {length}")]
    OutOfRange {
        /// The first cell asked for.
        first: usize,
        /// The cell behind the last one asked for.
        end: usize,
        /// How many cells there are.
        length: usize,
    },
    /// The poller was made by a process of which this one is a forked child: make another here.
    #[error(
        "this poller belongs to the process that made it, not to its forked children: make another one here"
    )]
    Forked,
    /// A system call failed.
    #[error("{op} failed: {source}")]
    Io {
        /// The system call.
        op: &'static str,
        /// The error, with its errno.
        #[source]
        source: io::Error,
    },
}

fn failed(op: &'static str, errno: Errno) -> PollError {
    PollError::Io { op, source: errno.into() }
}

/// The error of the last call of the C library in this thread.
fn last_errno() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// An event descriptor: readable while its counter is not zero.
fn new_bell() -> Result<OwnedFd, PollError> {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|errno| failed("eventfd", errno))
}

/// Makes it readable, if it is not.
fn ring(bell: &OwnedFd) -> Result<(), PollError> {
    match rustix::io::retry_on_intr(|| rustix::io::write(bell, &1_u64.to_ne_bytes())) {
        // The counter is as high as it gets: it rings.
        Ok(_) | Err(Errno::AGAIN) => Ok(()),
        Err(errno) => Err(failed("write to an eventfd", errno)),
    }
}

/// Makes it not readable. Returns whether it was.
fn silence(bell: &OwnedFd) -> Result<bool, PollError> {
    match rustix::io::retry_on_intr(|| rustix::io::read(bell, &mut [0; 8])) {
        Ok(_) => Ok(true),
        Err(Errno::AGAIN) => Ok(false),
        Err(errno) => Err(failed("read from an eventfd", errno)),
    }
}
