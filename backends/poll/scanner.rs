//! A [`Poller`] that hands the whole set to a system call each time: [`Poll`](super::Poll) and
//! [`Select`](super::Select).
//!
//! The set is shared by reference counting: a wait has a reference and sleeps without the lock; who changes the set
//! while somebody sleeps in it changes a copy. A wait works with a reference and cells of its own, which are kept for
//! the next one, so that nothing is copied, counted or allocated as long as the set stays as it is.
//!
//! A sleeping wait also watches an event descriptor of its own, a *bell*. Bells are rung for two reasons,
//! which the waiter tells apart by the shared state, never by the bell: the set has changed (every waiter
//! takes the new set and sleeps on for the rest of its time), or there was a [`notify`](Poller::notify)
//! (the first waiter that it may end takes it and returns). With no bell shared between waiters, none
//! can take another's wake-up away.
//!
//! A wait looks before it sleeps. Looking needs no bell, and costs the kernel a third of what it costs to prepare for
//! a sleep at every descriptor: that is saved whenever something is ready, and else little next to a sleep.
//!
//! This module does not know how the system looks at the set: that is the parameter.

use std::fmt;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;

use super::limit::Limit;
use super::notices::Notices;
use super::scan::{RawCell, Scan};
use super::{Event, Interest, PollError, Poller, Ready, Source, failed, new_bell, ring, silence};
use crate::generation::Generation;
use crate::sync::global::{Mutex, MutexGuard, lock};

/// Watches descriptors with a system call that looks at all of them: [`ByPoll`](super::ByPoll) or
/// [`BySelect`](super::BySelect).
#[allow(private_bounds, reason = "there are these two system calls, and no other can be added from outside")]
pub struct Scanner<C: Scan> {
    state: Mutex<State>,
    generation: Generation,
    call: PhantomData<fn() -> C>,
}

struct State {
    set: Arc<Set>,
    /// Counts the changes of the set.
    version: u64,
    notices: Notices,
    /// One for each wait that may be asleep.
    sleepers: Vec<Sleeper>,
    /// What waits that are over have left for the next ones.
    #[allow(clippy::vec_box, reason = "they come and go with every wait: by address, not by value")]
    spare: Vec<Box<Tools>>,
}

/// The sources, ordered by key.
#[derive(Clone, Default)]
struct Set {
    watched: Vec<Watched>,
    /// One for each, in the same order.
    cells: Vec<RawCell>,
}

#[derive(Clone)]
struct Watched {
    key: u64,
    source: Source,
    /// The version of the set that the source came with.
    since: u64,
}

struct Sleeper {
    bell: Arc<OwnedFd>,
    /// Whether the bell can be heard: its descriptor is readable exactly then.
    ringing: bool,
}

/// What a wait works with.
struct Tools {
    bell: Arc<OwnedFd>,
    /// As it was when it was last looked at; nothing if it has changed since.
    set: Option<Arc<Set>>,
    /// The version of the set.
    version: u64,
    /// Those of the set, and one for the bell.
    cells: Vec<RawCell>,
    /// The version of the set that the cells are of.
    cells_of: u64,
}

/// No set has this version.
const NEVER: u64 = u64::MAX;

impl Tools {
    fn new() -> Result<Box<Tools>, PollError> {
        let bell = Arc::new(new_bell()?);
        Ok(Box::new(Tools { bell, set: None, version: NEVER, cells: Vec::new(), cells_of: NEVER }))
    }

    /// Takes the set as it is now, and gives the one before back, if it is another.
    fn update(&mut self, state: &State) -> Option<Arc<Set>> {
        if self.version == state.version {
            return None;
        }
        self.version = state.version;
        self.set.replace(Arc::clone(&state.set))
    }

    /// The cells and what they stand for.
    fn look(&mut self, and_bell: bool) -> (&mut [RawCell], &[Watched]) {
        let set = self.set.as_deref().expect("`update` has put it here");
        if self.cells_of != self.version {
            self.cells.clear();
            self.cells.extend_from_slice(&set.cells);
            self.cells.push(RawCell::new(self.bell.as_raw_fd(), Interest::READ));
            self.cells_of = self.version;
        }
        let count = set.cells.len() + usize::from(and_bell);
        (&mut self.cells[..count], &set.watched)
    }
}

impl Set {
    fn find(&self, key: u64) -> Result<usize, usize> {
        self.watched.binary_search_by_key(&key, |watched| watched.key)
    }
}

impl State {
    fn find(&self, key: u64) -> Result<usize, PollError> {
        self.set.find(key).map_err(|_| PollError::NotFound(key))
    }

    /// The set, to be changed. Whoever sleeps in it sleeps in a copy from now on.
    fn change(&mut self) -> &mut Set {
        self.version += 1;
        // Else a copy would be made for nobody.
        self.spare.iter_mut().for_each(|tools| tools.set = None);
        Arc::make_mut(&mut self.set)
    }

    /// Drops the events of a look at an older `version` that are of no source of the set, and what nobody asks for any
    /// more. Returns whether nothing is left of one whose source is there: what it is asked for now may be ready as well.
    fn sort_out(&self, events: &mut Vec<Event>, version: u64) -> bool {
        let mut unclear = false;
        events.retain_mut(|event| {
            let Ok(at) = self.set.find(event.key) else { return false };
            if self.set.watched[at].since > version {
                return false;
            }
            event.ready = event.ready.of_interest(self.set.cells[at].interest());
            unclear |= event.ready.is_none();
            !event.ready.is_none()
        });
        unclear
    }

    /// Wakes all sleepers. All are rung, also if one cannot be.
    fn ring(&mut self) -> Result<(), PollError> {
        let mut result = Ok(());
        for sleeper in self.sleepers.iter_mut().filter(|sleeper| !sleeper.ringing) {
            match ring(&sleeper.bell) {
                Ok(()) => sleeper.ringing = true,
                Err(error) => result = Err(error),
            }
        }
        result
    }
}

#[allow(private_bounds, reason = "as above")]
impl<C: Scan> Scanner<C> {
    fn state(&self) -> Result<MutexGuard<'_, State>, PollError> {
        if self.generation.is_current() { Ok(lock(&self.state)) } else { Err(PollError::Forked) }
    }
}

impl<C: Scan> Poller for Scanner<C> {
    const ALWAYS_TOLD: Ready = C::ALWAYS_TOLD;

    fn new() -> Result<Scanner<C>, PollError> {
        let generation = Generation::current();
        // Those of the first wait: as a rule there is one at a time, which then never fails.
        let spare = vec![Tools::new()?];
        let notices = Notices::default();
        let state = State { set: Arc::default(), version: 0, notices, sleepers: Vec::new(), spare };
        Ok(Scanner { state: Mutex::new(state), generation, call: PhantomData })
    }

    fn add(&self, key: u64, source: Source, interest: Interest) -> Result<(), PollError> {
        let fd = source.as_fd().as_raw_fd();
        let mut state = self.state()?;
        let Err(at) = state.set.find(key) else { return Err(PollError::AlreadyExists(key)) };
        let since = state.version + 1;
        let set = state.change();
        set.cells.insert(at, RawCell::new(fd, interest));
        set.watched.insert(at, Watched { key, source, since });
        state.ring()
    }

    fn modify(&self, key: u64, interest: Interest) -> Result<(), PollError> {
        let mut state = self.state()?;
        let at = state.find(key)?;
        state.change().cells[at].set_interest(interest);
        state.ring()
    }

    fn remove(&self, key: u64) -> Result<Source, PollError> {
        let mut state = self.state()?;
        let at = state.find(key)?;
        let set = state.change();
        set.cells.remove(at);
        let watched = set.watched.remove(at);
        let rung = state.ring();
        drop(state);
        rung.map(|()| watched.source)
    }

    fn wait(&self, events: &mut Vec<Event>, timeout: Option<Duration>) -> Result<(), PollError> {
        events.clear();
        let limit = Limit::after(timeout);
        let mut wait = Wait { state: &self.state, number: 0, tools: None, asleep: false };
        let mut looked = false;
        loop {
            let mut state = self.state()?;
            let sleeps = looked && !matches!(limit, Limit::Now);
            wait.prepare(&mut state, sleeps)?;
            let now = !sleeps || state.notices.is_for(wait.number);
            let (asleep, tools) = (wait.asleep, wait.tools.as_mut().expect("`prepare` has taken them"));
            let old = tools.update(&state);
            drop(state);
            // Not under the lock: this may be the last reference to a removed source, and dropping it
            // runs code of the caller, which may well call this poller.
            drop(old);
            let version = tools.version;
            let (cells, watched) = tools.look(asleep);
            let interrupted = match C::scan(cells, if now { Some(Duration::ZERO) } else { limit.remaining() })
            {
                Ok(ready) => {
                    report(cells, watched, ready, events);
                    false
                }
                Err(Errno::INTR) => true,
                Err(errno) => return Err(failed(C::NAME, errno)),
            };

            let mut state = lock(&self.state);
            let unclear = state.version != version && state.sort_out(events, version);
            if interrupted || (unclear && events.is_empty()) {
                continue;
            }
            looked = true;
            if state.notices.is_for(wait.number) || !events.is_empty() || limit.is_over() {
                let old = wait.end(&mut state);
                drop(state);
                drop(old);
                return Ok(());
            }
        }
    }

    fn notify(&self) -> Result<(), PollError> {
        let mut state = self.state()?;
        state.notices.notify();
        state.ring()
    }
}

impl<C: Scan> fmt::Debug for Scanner<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = lock(&self.state);
        f.debug_struct("Scanner")
            .field("call", &C::NAME)
            .field("sources", &state.set.cells.len())
            .field("notified", &state.notices.pending())
            .field("sleepers", &state.sleepers.len())
            .finish()
    }
}

/// Pushes what is ready. `ready` counts the bell, too.
fn report(cells: &[RawCell], watched: &[Watched], mut ready: usize, events: &mut Vec<Event>) {
    for (cell, watched) in cells.iter().zip(watched) {
        if ready == 0 {
            break;
        }
        if cell.is_ready() {
            ready -= 1;
            events.push(Event { key: watched.key, ready: cell.ready() });
        }
    }
}

/// A wait under way. Dropping it leaves its tools to the next one.
struct Wait<'scanner> {
    state: &'scanner Mutex<State>,
    /// Nothing as long as it has no tools.
    number: u64,
    tools: Option<Box<Tools>>,
    /// Whether it is among the sleepers, and so its bell is rung.
    asleep: bool,
}

impl Wait<'_> {
    /// Takes tools at first, with which the wait is under way, and, if it `sleeps`, makes the own bell known or quiet,
    /// so that it can be rung again.
    fn prepare(&mut self, state: &mut State, sleeps: bool) -> Result<(), PollError> {
        if self.tools.is_none() {
            self.tools = Some(state.spare.pop().map_or_else(Tools::new, Ok)?);
            self.number = state.notices.begin();
        }
        if self.asleep {
            self.silence(state)
        } else {
            if let (true, Some(tools)) = (sleeps, &self.tools) {
                let bell = Arc::clone(&tools.bell);
                state.sleepers.push(Sleeper { bell, ringing: false });
                self.asleep = true;
            }
            Ok(())
        }
    }

    /// The place among the sleepers.
    fn position(&self, state: &State) -> Option<usize> {
        let bell = self.tools.as_ref().filter(|_| self.asleep).map(|tools| &tools.bell)?;
        state.sleepers.iter().position(|sleeper| Arc::ptr_eq(&sleeper.bell, bell))
    }

    fn silence(&self, state: &mut State) -> Result<(), PollError> {
        let Some(at) = self.position(state) else { return Ok(()) };
        let sleeper = &mut state.sleepers[at];
        if sleeper.ringing {
            silence(&sleeper.bell)?;
            sleeper.ringing = false;
        }
        Ok(())
    }

    /// Returns a set that has changed since: not to be dropped under the lock.
    fn end(&mut self, state: &mut State) -> Option<Arc<Set>> {
        let silent = self.silence(state).is_ok();
        if let Some(at) = self.position(state) {
            state.sleepers.swap_remove(at);
        }
        let mut tools = self.tools.take()?;
        state.notices.end(self.number);
        let old = if tools.version == state.version { None } else { tools.set.take() };
        if silent {
            state.spare.push(tools);
        }
        old
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        if self.tools.is_some() {
            let mut state = lock(self.state);
            let old = self.end(&mut state);
            drop(state);
            drop(old);
        }
    }
}
