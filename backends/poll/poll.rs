//! The mechanism [`Poll`]: one `poll` system call over all sources.
//!
//! Each wait hands the kernel the whole set, so that its cost grows with the number of sources, ready or
//! not: right for up to some hundred. The set is shared by reference counting: a wait takes a reference
//! and sleeps without the lock; who changes the set while somebody sleeps in it changes a copy.
//!
//! A sleeping wait also watches an event descriptor of its own, a *bell*. Bells are rung for two reasons,
//! which the waiter tells apart by the shared state, never by the bell: the set has changed (every waiter
//! takes the new set and sleeps on for the rest of its time), or there was a [`notify`](Poller::notify)
//! (the first waiter that sees the flag takes it and returns). With no bell shared between waiters, none
//! can take another's wake-up away. A wait that does not sleep needs no bell and no flag in the kernel.
//!
//! A poller does not work in a forked child of the process that made it; make a new one there.

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd};
use rustix::io::Errno;

use super::{Event, Interest, PollError, Poller, Ready, Source};
use crate::sync::global::{Mutex, lock};

/// The longest sleep asked of the kernel at once: 68 years fit into the `time_t` of every machine.
const LONGEST_SLEEP: Duration = Duration::from_secs(i32::MAX as u64);

/// Watches descriptors with the system call `poll`, available everywhere.
///
/// One descriptor may be watched under several keys. The set, with one more for a sleeping wait, may not
/// be larger than the limit of open descriptors (`RLIMIT_NOFILE`); a wait over more fails with `EINVAL`.
///
/// ```
/// use std::io::Write;
/// use std::os::unix::net::UnixStream;
/// use std::sync::Arc;
/// use manycore_backends::poll::{Interest, Poll, Poller};
///
/// let (mut near, far) = UnixStream::pair()?;
/// let poll = Poll::new()?;
/// poll.add(7, Arc::new(far), Interest::READ)?;
///
/// near.write_all(b"hello")?;
/// let mut events = Vec::new();
/// poll.wait(&mut events, None)?;
/// assert_eq!(events[0].key, 7);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Poll {
    state: Mutex<State>,
}

struct State {
    /// The sources, ordered by key. Shared with the waits that look at it.
    set: Arc<Vec<Watched>>,
    /// Counts the changes of the set.
    version: u64,
    /// Whether a `notify` found nobody asleep, and so ends the next wait.
    notified: bool,
    /// One for each wait that may be asleep.
    sleepers: Vec<Sleeper>,
    /// Bells that nobody uses and that do not ring.
    spare: Vec<Arc<OwnedFd>>,
}

#[derive(Clone)]
struct Watched {
    key: u64,
    source: Source,
    flags: PollFlags,
    /// The version of the set that this entry came with.
    since: u64,
}

struct Sleeper {
    bell: Arc<OwnedFd>,
    /// Whether the bell can be heard: its descriptor is readable exactly then.
    ringing: bool,
    /// Whether a notification is meant for this one.
    notified: bool,
}

impl State {
    fn find(&self, key: u64) -> Result<usize, usize> {
        self.set.binary_search_by_key(&key, |watched| watched.key)
    }

    fn changed(&mut self) -> Result<(), PollError> {
        self.version += 1;
        self.ring()
    }

    /// Wakes all sleepers. All are rung, also if one cannot be.
    fn ring(&mut self) -> Result<(), PollError> {
        let mut result = Ok(());
        for sleeper in self.sleepers.iter_mut().filter(|sleeper| !sleeper.ringing) {
            match rustix::io::write(&sleeper.bell, &1_u64.to_ne_bytes()) {
                Ok(_) => sleeper.ringing = true,
                Err(errno) => result = Err(failed("write to an eventfd", errno)),
            }
        }
        result
    }
}

impl Poller for Poll {
    fn new() -> Result<Poll, PollError> {
        // The bell of the first sleeper: as a rule there is one at a time, which then never fails.
        let spare = vec![new_bell()?];
        let state = State { set: Arc::default(), version: 0, notified: false, sleepers: Vec::new(), spare };
        Ok(Poll { state: Mutex::new(state) })
    }

    fn add(&self, key: u64, source: Source, interest: Interest) -> Result<(), PollError> {
        let mut state = lock(&self.state);
        let Err(at) = state.find(key) else { return Err(PollError::AlreadyExists(key)) };
        let since = state.version + 1;
        let watched = Watched { key, source, flags: flags_of(interest), since };
        Arc::make_mut(&mut state.set).insert(at, watched);
        state.changed()
    }

    fn modify(&self, key: u64, interest: Interest) -> Result<(), PollError> {
        let mut state = lock(&self.state);
        let Ok(at) = state.find(key) else { return Err(PollError::NotFound(key)) };
        let since = state.version + 1;
        let watched = &mut Arc::make_mut(&mut state.set)[at];
        watched.flags = flags_of(interest);
        watched.since = since;
        state.changed()
    }

    fn remove(&self, key: u64) -> Result<Source, PollError> {
        let mut state = lock(&self.state);
        let Ok(at) = state.find(key) else { return Err(PollError::NotFound(key)) };
        let watched = Arc::make_mut(&mut state.set).remove(at);
        let changed = state.changed();
        drop(state);
        changed.map(|()| watched.source)
    }

    fn wait(&self, events: &mut Vec<Event>, timeout: Option<Duration>) -> Result<(), PollError> {
        events.clear();
        let limit = Limit::after(timeout);
        let sleep = match limit {
            Limit::Now => None,
            Limit::At(_) | Limit::Never => Some(Sleep::begin(&self.state)?),
        };
        loop {
            let (set, version, notified) = {
                let mut state = lock(&self.state);
                if let Some(sleep) = &sleep {
                    sleep.silence(&mut state)?;
                }
                let own = sleep.as_ref().and_then(|sleep| sleep.position(&state));
                let notified = state.notified || own.is_some_and(|at| state.sleepers[at].notified);
                (Arc::clone(&state.set), state.version, notified)
            };
            let timeout = if notified { Some(Duration::ZERO) } else { limit.remaining() };
            let looked = look(&set, sleep.as_ref().map(|sleep| &*sleep.bell), events, timeout)?;
            // Not under the lock: this may be the last reference to a removed source, and dropping it
            // runs code of the caller, which may well call this poller.
            drop(set);

            let mut state = lock(&self.state);
            let seen = events.len();
            if state.version != version {
                events.retain(|event| state.find(event.key).is_ok_and(|at| state.set[at].since <= version));
            }
            // Events of what has changed meanwhile are not told; what it is now has to be looked for.
            if !looked || events.len() < seen {
                events.clear();
                continue;
            }
            let own = sleep.as_ref().and_then(|sleep| sleep.position(&state));
            let own = own.is_some_and(|at| std::mem::take(&mut state.sleepers[at].notified));
            let notified = own || std::mem::take(&mut state.notified);
            drop(state);
            if notified || !events.is_empty() || limit.is_over() {
                return Ok(());
            }
        }
    }

    fn notify(&self) -> Result<(), PollError> {
        let mut state = lock(&self.state);
        if state.sleepers.is_empty() {
            state.notified = true;
        } else if let Some(sleeper) = state.sleepers.iter_mut().find(|sleeper| !sleeper.notified) {
            sleeper.notified = true;
        }
        state.ring()
    }
}

impl fmt::Debug for Poll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = lock(&self.state);
        f.debug_struct("Poll")
            .field("sources", &state.set.len())
            .field("notified", &state.notified)
            .field("sleepers", &state.sleepers.len())
            .finish()
    }
}

/// Asks the kernel once, and pushes what is ready. False if a signal came in between.
fn look(
    set: &[Watched],
    bell: Option<&OwnedFd>,
    events: &mut Vec<Event>,
    timeout: Option<Duration>,
) -> Result<bool, PollError> {
    let timeout = timeout.map(|timeout| Timespec {
        tv_sec: timeout.as_secs() as _, // At most `LONGEST_SLEEP`.
        tv_nsec: timeout.subsec_nanos() as _,
    });
    let mut descriptors = Vec::with_capacity(set.len() + 1);
    descriptors
        .extend(set.iter().map(|watched| PollFd::from_borrowed_fd(watched.source.as_fd(), watched.flags)));
    descriptors.extend(bell.map(|bell| PollFd::new(bell, PollFlags::IN)));
    let mut left = match rustix::event::poll(&mut descriptors, timeout.as_ref()) {
        Ok(count) => count,
        Err(Errno::INTR) => return Ok(false),
        Err(errno) => return Err(failed("poll", errno)),
    };
    for (descriptor, watched) in descriptors.iter().zip(set) {
        if left == 0 {
            break;
        }
        let flags = descriptor.revents();
        if !flags.is_empty() {
            left -= 1;
            events.push(Event { key: watched.key, ready: ready_of(flags) });
        }
    }
    Ok(true)
}

/// A wait that may be asleep: while this value lives, its bell is rung.
struct Sleep<'poll> {
    state: &'poll Mutex<State>,
    bell: Arc<OwnedFd>,
}

impl<'poll> Sleep<'poll> {
    fn begin(mutex: &'poll Mutex<State>) -> Result<Sleep<'poll>, PollError> {
        let mut state = lock(mutex);
        let bell = match state.spare.pop() {
            Some(bell) => bell,
            None => new_bell()?,
        };
        state.sleepers.push(Sleeper { bell: Arc::clone(&bell), ringing: false, notified: false });
        drop(state);
        Ok(Sleep { state: mutex, bell })
    }

    fn position(&self, state: &State) -> Option<usize> {
        state.sleepers.iter().position(|sleeper| Arc::ptr_eq(&sleeper.bell, &self.bell))
    }

    /// Makes the own bell quiet, so that it can be rung again.
    fn silence(&self, state: &mut State) -> Result<(), PollError> {
        let Some(at) = self.position(state) else { return Ok(()) };
        let sleeper = &mut state.sleepers[at];
        if sleeper.ringing {
            rustix::io::read(&sleeper.bell, &mut [0; 8])
                .map_err(|errno| failed("read from an eventfd", errno))?;
            sleeper.ringing = false;
        }
        Ok(())
    }
}

impl Drop for Sleep<'_> {
    fn drop(&mut self) {
        let mut state = lock(self.state);
        let silent = self.silence(&mut state).is_ok();
        if let Some(at) = self.position(&state) {
            let sleeper = state.sleepers.swap_remove(at);
            if silent {
                state.spare.push(sleeper.bell);
            }
        }
    }
}

/// Until when to wait.
#[derive(Clone, Copy)]
enum Limit {
    Now,
    At(Instant),
    Never,
}

impl Limit {
    fn after(timeout: Option<Duration>) -> Limit {
        match timeout {
            None => Limit::Never,
            Some(Duration::ZERO) => Limit::Now,
            // An instant that the clock cannot express does not come.
            Some(timeout) => Instant::now().checked_add(timeout).map_or(Limit::Never, Limit::At),
        }
    }

    /// How long to sleep now; a long sleep is made of several.
    fn remaining(self) -> Option<Duration> {
        match self {
            Limit::Now => Some(Duration::ZERO),
            Limit::At(end) => Some(end.saturating_duration_since(Instant::now()).min(LONGEST_SLEEP)),
            Limit::Never => None,
        }
    }

    fn is_over(self) -> bool {
        match self {
            Limit::Now => true,
            Limit::At(end) => Instant::now() >= end,
            Limit::Never => false,
        }
    }
}

fn new_bell() -> Result<Arc<OwnedFd>, PollError> {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .map(Arc::new)
        .map_err(|errno| failed("eventfd", errno))
}

fn flags_of(interest: Interest) -> PollFlags {
    let mut flags = PollFlags::empty();
    flags.set(PollFlags::IN | PollFlags::RDNORM, interest.contains(Interest::READ));
    flags.set(PollFlags::PRI, interest.contains(Interest::PRIORITY));
    flags.set(PollFlags::OUT, interest.contains(Interest::WRITE));
    flags
}

fn ready_of(flags: PollFlags) -> Ready {
    const MEANING: [(PollFlags, Ready); 6] = [
        (PollFlags::IN.union(PollFlags::RDNORM), Ready::READ),
        (PollFlags::PRI, Ready::PRIORITY),
        (PollFlags::OUT, Ready::WRITE),
        (PollFlags::ERR, Ready::ERROR),
        (PollFlags::HUP, Ready::HANGUP),
        (PollFlags::NVAL, Ready::INVALID),
    ];
    MEANING
        .iter()
        .filter(|(flag, _)| flags.intersects(*flag))
        .fold(Ready::NONE, |ready, (_, bit)| ready | *bit)
}

fn failed(op: &'static str, errno: Errno) -> PollError {
    PollError::Io { op, source: errno.into() }
}
