//! The mechanism [`Epoll`]: the kernel keeps the set, and tells what is ready in it.
//!
//! A wait costs as much as there is ready, however large the set: right for thousands of descriptors. `epoll` by itself
//! differs from the contract in some ways, which are taken care of here:
//!
//! | `epoll` by itself | here |
//! |---|---|
//! | files and directories are refused (`EPERM`) | always ready for what is asked, without the kernel |
//! | a closed descriptor is refused (`EBADF`) | [`Ready::INVALID`], as `poll` has it |
//! | a descriptor can be in the set once | the second time a duplicate of it is |
//! | an event may be of a source that was removed meanwhile | entries carry the number of their turn in the place |
//!
//! What cannot be told: that a source was closed *while* it was watched (which law 3 excludes, as long as nobody closes
//! a descriptor that he does not own). The kernel then forgets it in silence, or, if the open file has other
//! descriptors, goes on telling of it.
//!
//! What the kernel does not know wakes waiters by a *bell*, an event descriptor in the set. It rings as long as a
//! source that the kernel does not watch is ready, or a [`notify`](Poller::notify) has ended no wait yet: all waiters
//! hear it, and what is under the lock says which of them may take it for theirs. Who hears it for others asks the
//! kernel again at once, until one of them has come; that one is awake already.
//!
//! This module does not use edges or one-shot entries: all is level-triggered.

use std::collections::HashMap;
use std::fmt;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::buffer::{Buffer, spare_capacity};
use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;

use super::limit::Limit;
use super::notices::Notices;
use super::{Event, Interest, PollError, Poller, Ready, Source, failed, new_bell, ring, silence};
use crate::generation::Generation;
use crate::sync::global::{Mutex, MutexGuard, lock};

/// The bell's entry in the kernel's set: no place has that number.
const BELL: EventData = EventData::new_u64(u64::MAX);

/// As many events are asked for at first. What is ready beyond that takes a second call.
const FEW: usize = 128;

/// The longest sleep that `epoll_wait` can be asked for; a longer one takes `epoll_pwait2`, which kernels before 5.11
/// and some sandboxes do not have. A wait sleeps again.
const LONGEST_SLEEP: Duration = Duration::from_millis(i32::MAX as u64);

/// Watches descriptors with Linux' `epoll`: a wait costs as much as there is ready.
///
/// One descriptor may be watched under several keys; each further one costs a descriptor.
///
/// ```
/// use std::io::Write;
/// use std::os::unix::net::UnixStream;
/// use std::sync::Arc;
/// use manycore_backends::poll::{Epoll, Interest, Poller};
///
/// let (mut near, far) = UnixStream::pair()?;
/// let epoll = Epoll::new()?;
/// epoll.add(7, Arc::new(far), Interest::READ)?;
///
/// near.write_all(b"hello")?;
/// let mut events = Vec::new();
/// epoll.wait(&mut events, None)?;
/// assert_eq!(events[0].key, 7);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Source: [`epoll`](https://man7.org/linux/man-pages/man7/epoll.7.html); the event aggregation of OCamlnet's
/// `Netsys_posix`, which reported no errors and hang-ups.
#[doc(alias("create_event_aggregator", "epoll_create", "epoll_wait"))]
pub struct Epoll {
    epoll: OwnedFd,
    bell: OwnedFd,
    state: Mutex<State>,
    generation: Generation,
}

struct State {
    places: Vec<Place>,
    /// Numbers of places that are free.
    free: Vec<u32>,
    /// The place of each key.
    keys: HashMap<u64, u32>,
    /// Places whose source the kernel does not watch.
    unwatched: Vec<u32>,
    notices: Notices,
    /// Whether the bell can be heard.
    ringing: bool,
}

#[derive(Default)]
struct Place {
    /// Which of the entries that were here over time this is.
    turn: u32,
    entry: Option<Entry>,
}

struct Entry {
    key: u64,
    source: Source,
    interest: Interest,
    by: By,
}

/// How a source is watched.
enum By {
    /// Under its own descriptor.
    Source,
    /// Under a duplicate, because its own is in the set already.
    Duplicate(OwnedFd),
    /// Not at all: it is always ready for these, as far as it is asked for them or they are always told.
    Nobody(Ready),
}

impl By {
    /// What the kernel knows the source by, whose own descriptor is `own`.
    fn fd<'fd>(&'fd self, own: BorrowedFd<'fd>) -> Option<BorrowedFd<'fd>> {
        match self {
            By::Source => Some(own),
            By::Duplicate(fd) => Some(fd.as_fd()),
            By::Nobody(_) => None,
        }
    }
}

impl Entry {
    /// What to tell of `ready`: what is asked for now, and what is always told.
    fn event(&self, ready: Ready) -> Option<Event> {
        let ready = ready.of_interest(self.interest);
        (!ready.is_none()).then_some(Event { key: self.key, ready })
    }
}

impl State {
    fn place_of(&self, key: u64) -> Result<u32, PollError> {
        self.keys.get(&key).copied().ok_or(PollError::NotFound(key))
    }

    /// The event of what the kernel has told, if it is still so.
    fn event(&self, told: &epoll::Event) -> Option<Event> {
        let (turn, place) = split(told.data);
        let place = self.places.get(place as usize).filter(|place| place.turn == turn)?;
        place.entry.as_ref()?.event(ready_of(told.flags))
    }

    /// The events of what the kernel does not watch.
    fn unwatched(&self) -> impl Iterator<Item = Event> {
        self.unwatched.iter().filter_map(|place| match self.places[*place as usize].entry.as_ref()? {
            entry @ Entry { by: By::Nobody(ready), .. } => entry.event(*ready),
            _ => None,
        })
    }

    /// Makes the bell ring, or silent, as it should.
    fn settle(&mut self, bell: &OwnedFd) -> Result<(), PollError> {
        let should = self.notices.pending() > 0 || self.unwatched().next().is_some();
        if should && !self.ringing {
            ring(bell)?;
        } else if !should && self.ringing {
            silence(bell)?;
        }
        self.ringing = should;
        Ok(())
    }
}

impl Epoll {
    fn state(&self) -> Result<MutexGuard<'_, State>, PollError> {
        if self.generation.is_current() { Ok(lock(&self.state)) } else { Err(PollError::Forked) }
    }

    /// Asks the kernel what is ready. `None` if a signal came in between.
    fn ask<B: Buffer<epoll::Event>>(
        &self,
        told: B,
        timeout: Option<Duration>,
    ) -> Result<Option<B::Output>, PollError> {
        let timeout = timeout.map(|timeout| timeout.min(LONGEST_SLEEP)).map(|timeout| Timespec {
            tv_sec: timeout.as_secs() as _, // Fits: it is a few days.
            tv_nsec: timeout.subsec_nanos() as _,
        });
        match epoll::wait(&self.epoll, told, timeout.as_ref()) {
            Ok(told) => Ok(Some(told)),
            Err(Errno::INTR) => Ok(None),
            Err(errno) => Err(failed("epoll_wait", errno)),
        }
    }

    /// Puts a source into the kernel's set.
    fn watch(&self, source: BorrowedFd<'_>, data: EventData, interest: Interest) -> Result<By, PollError> {
        let flags = flags_of(interest);
        match epoll::add(&self.epoll, source, data, flags) {
            Ok(()) => Ok(By::Source),
            Err(Errno::EXIST) => {
                let duplicate = rustix::io::fcntl_dupfd_cloexec(source, 0)
                    .map_err(|errno| failed("fcntl(F_DUPFD_CLOEXEC)", errno))?;
                epoll::add(&self.epoll, &duplicate, data, flags)
                    .map_err(|errno| failed("epoll_ctl", errno))?;
                Ok(By::Duplicate(duplicate))
            }
            Err(Errno::PERM) => Ok(By::Nobody(Ready::READ | Ready::WRITE)),
            Err(Errno::BADF) => Ok(By::Nobody(Ready::INVALID)),
            Err(errno) => Err(failed("epoll_ctl", errno)),
        }
    }
}

impl Poller for Epoll {
    const ALWAYS_TOLD: Ready = Ready::UNASKED;

    fn new() -> Result<Epoll, PollError> {
        let generation = Generation::current();
        let epoll =
            epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|errno| failed("epoll_create1", errno))?;
        let bell = new_bell()?;
        epoll::add(&epoll, &bell, BELL, EventFlags::IN).map_err(|errno| failed("epoll_ctl", errno))?;
        let state = State {
            places: Vec::new(),
            free: Vec::new(),
            keys: HashMap::new(),
            unwatched: Vec::new(),
            notices: Notices::default(),
            ringing: false,
        };
        Ok(Epoll { epoll, bell, state: Mutex::new(state), generation })
    }

    fn add(&self, key: u64, source: Source, interest: Interest) -> Result<(), PollError> {
        // Not under the lock: `as_fd` is code of the caller, which may well call this poller.
        let shared = Arc::clone(&source);
        let fd = shared.as_fd();
        let mut state = self.state()?;
        if state.keys.contains_key(&key) {
            return Err(PollError::AlreadyExists(key));
        }
        let place = match state.free.pop() {
            Some(place) => place,
            None => {
                state.places.push(Place::default());
                u32::try_from(state.places.len() - 1).expect("a process has fewer descriptors")
            }
        };
        let turn = state.places[place as usize].turn;
        let by = match self.watch(fd, join(turn, place), interest) {
            Ok(by) => by,
            Err(error) => {
                state.free.push(place);
                return Err(error);
            }
        };
        let unwatched = matches!(by, By::Nobody(_));
        state.places[place as usize].entry = Some(Entry { key, source, interest, by });
        state.keys.insert(key, place);
        if unwatched {
            state.unwatched.push(place);
            state.settle(&self.bell)?;
        }
        Ok(())
    }

    fn modify(&self, key: u64, interest: Interest) -> Result<(), PollError> {
        let (place, since, source) = {
            let state = self.state()?;
            let place = state.place_of(key)?;
            let Place { turn, entry } = &state.places[place as usize];
            (place, *turn, Arc::clone(&entry.as_ref().expect(IN_USE).source))
        };
        // Not under the lock, as in `add`; nor is `source` dropped under it.
        let own = source.as_fd();
        let mut state = self.state()?;
        let Place { turn, entry } = &mut state.places[place as usize];
        // It was removed meanwhile: at that moment there was no such key, whatever there is now.
        let entry = entry.as_mut().filter(|_| *turn == since).ok_or(PollError::NotFound(key))?;
        if let Some(fd) = entry.by.fd(own) {
            epoll::modify(&self.epoll, fd, join(*turn, place), flags_of(interest))
                .map_err(|errno| failed("epoll_ctl", errno))?;
        }
        entry.interest = interest;
        state.settle(&self.bell)
    }

    fn remove(&self, key: u64) -> Result<Source, PollError> {
        let mut state = self.state()?;
        let place = state.place_of(key)?;
        state.keys.remove(&key);
        state.unwatched.retain(|unwatched| *unwatched != place);
        let Place { turn, entry } = &mut state.places[place as usize];
        // What is told of this turn from now on is not reported; after 2^32 turns in one place, between a look into the
        // kernel and the next line of the same wait, it would be.
        *turn = turn.wrapping_add(1);
        let entry = entry.take().expect(IN_USE);
        state.free.push(place);
        let settled = state.settle(&self.bell);
        drop(state);
        // Not under the lock, as in `add`. Until it is done, the kernel may tell of a turn that is over; who adds the
        // descriptor meanwhile has a duplicate of it.
        if let Some(fd) = entry.by.fd(entry.source.as_fd()) {
            // It can only fail if the source was closed, and then it is not in the set.
            let _ = epoll::delete(&self.epoll, fd);
        }
        settled.map(|()| entry.source)
    }

    fn wait(&self, events: &mut Vec<Event>, timeout: Option<Duration>) -> Result<(), PollError> {
        events.clear();
        let limit = Limit::after(timeout);
        let mut wait = Wait::begin(self)?;
        let mut few = [const { MaybeUninit::uninit() }; FEW];
        let mut many = Vec::new();
        loop {
            let Some((told, _)) = self.ask(&mut few, limit.remaining())? else { continue };
            let mut told: &[epoll::Event] = told;
            if told.len() == FEW {
                // There may be more. All is level-triggered: asked again, the kernel tells these, too.
                many.clear();
                many.reserve(lock(&self.state).keys.len() + 1);
                let Some(_) = self.ask(spare_capacity(&mut many), Some(Duration::ZERO))? else { continue };
                told = &many;
            }
            let mut state = lock(&self.state);
            events.extend(
                told.iter().filter(|told| { told.data } != BELL).filter_map(|told| state.event(told)),
            );
            events.extend(state.unwatched());
            if state.notices.is_for(wait.number) || !events.is_empty() || limit.is_over() {
                return wait.end(&mut state);
            }
        }
    }

    fn notify(&self) -> Result<(), PollError> {
        let mut state = self.state()?;
        state.notices.notify();
        state.settle(&self.bell)
    }
}

/// Readable as long as a [`wait`](Poller::wait) would not sleep, also because of a [`notify`](Poller::notify): so that another
/// poller, or a runtime of asynchronous functions, can watch this one with all its sources. When it is readable, wait with a
/// timeout of zero; somebody else who waits may have been faster.
///
/// One may be inside another up to a depth that the kernel sets (5); no poller can watch itself. In a forked child this is
/// still the set of the process that made it, as a wait would say.
///
/// ```
/// use std::sync::Arc;
/// use std::time::Duration;
/// use manycore_backends::poll::{Epoll, Interest, Poll, Poller};
///
/// let (inner, outer) = (Arc::new(Epoll::new()?), Poll::new()?);
/// outer.add(1, inner.clone(), Interest::READ)?;
/// inner.notify()?;
///
/// let mut events = Vec::new();
/// outer.wait(&mut events, None)?;
/// assert_eq!(events[0].key, 1);
/// inner.wait(&mut events, Some(Duration::ZERO))?;
/// # Ok::<(), manycore_backends::poll::PollError>(())
/// ```
impl AsFd for Epoll {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

impl fmt::Debug for Epoll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = lock(&self.state);
        f.debug_struct("Epoll")
            .field("sources", &state.keys.len())
            .field("notified", &state.notices.pending())
            .field("waits", &state.notices.waits())
            .finish()
    }
}

/// A wait under way.
struct Wait<'epoll> {
    epoll: &'epoll Epoll,
    number: u64,
    ended: bool,
}

impl Wait<'_> {
    fn begin(epoll: &Epoll) -> Result<Wait<'_>, PollError> {
        let number = epoll.state()?.notices.begin();
        Ok(Wait { epoll, number, ended: false })
    }

    fn end(&mut self, state: &mut State) -> Result<(), PollError> {
        self.ended = true;
        state.notices.end(self.number);
        state.settle(&self.epoll.bell)
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        if !self.ended {
            let epoll = self.epoll;
            // There is an error to tell already.
            let _ = self.end(&mut lock(&epoll.state));
        }
    }
}

const IN_USE: &str = "the place of a key is in use";

/// What the kernel keeps for us with each source.
fn join(turn: u32, place: u32) -> EventData {
    EventData::new_u64(u64::from(turn) << 32 | u64::from(place))
}

fn split(data: EventData) -> (u32, u32) {
    ((data.u64() >> 32) as u32, data.u64() as u32)
}

fn flags_of(interest: Interest) -> EventFlags {
    EventFlags::from_bits_retain(interest.bits().into())
}

fn ready_of(flags: EventFlags) -> Ready {
    Ready::from_bits(flags.bits() as u8)
}

const _: () = {
    assert!(Ready::READ.bits() as u32 == EventFlags::IN.bits());
    assert!(Ready::PRIORITY.bits() as u32 == EventFlags::PRI.bits());
    assert!(Ready::WRITE.bits() as u32 == EventFlags::OUT.bits());
    assert!(Ready::ERROR.bits() as u32 == EventFlags::ERR.bits());
    assert!(Ready::HANGUP.bits() as u32 == EventFlags::HUP.bits());
};
