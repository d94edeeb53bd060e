//! One side of a pipe: those who wait until it can be read, or until it can be written, and those who want to be told.
//!
//! | who | is told |
//! |---|---|
//! | a thread that sleeps | one for each message (or place), all at the end |
//! | a bell (a descriptor) | whenever the state changes, level-triggered; not of what a waiting thread takes at once |
//! | a notify function | whenever the state changes to ready, by the thread that has changed it |
//!
//! The word `attention` says to who makes the side ready whether anybody is there: as long as it is zero, telling costs
//! one load.
//!
//! | bits | holds |
//! |---|---|
//! | 0 | a bell or function is there, and was last told that it is not ready |
//! | from 1 on | how many threads sleep that nobody has woken yet |
//!
//! Nobody is missed: who makes the side ready first changes the ring and then looks at `attention`; who goes to sleep, or
//! tells that it is not ready, first changes `attention` and then looks at the ring. All four are in one total order.
//!
//! This module does not know what ready means: the caller says so. Nor does it call a function: it hands it to the caller,
//! who calls it when all sides are told, for it may do anything, even panic.

use std::mem;
use std::sync::Arc;
use std::time::Instant;

use super::bell::Bell;
use crate::generation::Generation;
use crate::sync::{AtomicBool, AtomicUsize, Condvar, Mutex, MutexGuard, Ordering, fence, lock};

const UNTOLD: usize = 1;
const SLEEPER: usize = 2;

/// What is called when a side becomes ready.
pub(in crate::transport) type Notify = Arc<dyn Fn() + Send + Sync>;

pub(in crate::transport) struct Side {
    attention: AtomicUsize,
    /// Whether there are bells or a function.
    watched: AtomicBool,
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    /// With the process that has made each: a child that was forked has a copy of the pipe, but the same descriptors, and
    /// would make them say what is so in the copy.
    bells: Vec<(Generation, Bell)>,
    notify: Option<Notify>,
    /// What bells and function were last told.
    told: bool,
    /// How many sleepers were woken and have not noticed yet.
    woken: usize,
    /// How many threads wait, awake or asleep, that will take what comes or tell of it. As long as there are any, bells
    /// are left alone.
    attended: usize,
}

impl State {
    /// Whether bells are left alone. A function wants to know of everything.
    fn is_attended(&self) -> bool {
        self.attended > 0 && self.notify.is_none()
    }
}

impl Side {
    pub(in crate::transport) fn new() -> Side {
        Side {
            attention: AtomicUsize::new(0),
            watched: AtomicBool::new(false),
            state: Mutex::new(State::default()),
            wake: Condvar::new(),
        }
    }

    /// Whether there are bells or a function.
    pub(super) fn is_watched(&self) -> bool {
        self.watched.load(Ordering::Relaxed)
    }

    /// The ring was changed so that this side may be ready: tells one sleeper, and who else wants to know. Returns the
    /// function, if it is to be called.
    #[inline]
    #[must_use]
    pub(in crate::transport) fn became(&self, is_ready: impl Fn() -> bool) -> Option<Notify> {
        // Loom knows the total order of fences only, not that of sequentially consistent accesses.
        if cfg!(loom) {
            fence(Ordering::SeqCst);
        }
        if self.attention.load(Ordering::SeqCst) != 0 { self.tell(1, is_ready) } else { None }
    }

    /// The ring was changed so that this side may not be ready any more. If `is_still` is true it was ready after that
    /// for a moment, and whoever ends that tells of it. Returns the function, if it is to be called: the side may have
    /// become ready again meanwhile.
    #[inline]
    #[must_use]
    pub(in crate::transport) fn ceased(
        &self,
        is_still: impl Fn() -> bool,
        is_ready: impl Fn() -> bool,
    ) -> Option<Notify> {
        if cfg!(loom) {
            fence(Ordering::SeqCst);
        }
        if self.watched.load(Ordering::SeqCst) && !is_still() && !is_ready() {
            self.tell(0, is_ready)
        } else {
            None
        }
    }

    /// The end: tells everyone. Returns the function, if it is to be called.
    #[must_use]
    pub(in crate::transport) fn ended(&self, is_ready: impl Fn() -> bool) -> Option<Notify> {
        if cfg!(loom) {
            fence(Ordering::SeqCst);
        }
        self.tell(usize::MAX, is_ready)
    }

    #[cold]
    fn tell(&self, most: usize, is_ready: impl Fn() -> bool) -> Option<Notify> {
        let mut state = lock(&self.state);
        let asleep = self.attention.load(Ordering::SeqCst) / SLEEPER;
        let count = asleep.min(most);
        if count > 0 {
            self.attention.fetch_sub(count * SLEEPER, Ordering::SeqCst);
            state.woken += count;
            if count == 1 { self.wake.notify_one() } else { self.wake.notify_all() }
        }
        self.settle(&mut state, is_ready)
    }

    /// Tells bells and function what is so now. Returns the function, if it is to be called.
    #[must_use]
    fn settle(&self, state: &mut State, is_ready: impl Fn() -> bool) -> Option<Notify> {
        if state.bells.is_empty() && state.notify.is_none() {
            return None;
        }
        let mut rose = false;
        loop {
            let ready = is_ready();
            if ready == state.told || (ready && state.is_attended()) {
                break;
            }
            rose = ready;
            state.told = ready;
            let own = state.bells.iter().filter(|(made, _)| made.is_current());
            own.for_each(|(_, bell)| bell.set(ready));
            if ready {
                self.attention.fetch_and(!UNTOLD, Ordering::SeqCst);
            } else if !state.is_attended() {
                self.attention.fetch_or(UNTOLD, Ordering::SeqCst);
                // Who made it ready before the line above did not see it; then it is ready now.
                fence(Ordering::SeqCst);
            }
        }
        if rose { state.notify.clone() } else { None }
    }

    /// A thread waits: it will take what comes, so that bells need not be rung for that, which would cost two system
    /// calls for each message. A function is still called.
    pub(super) fn attend(&self) -> bool {
        if !self.is_watched() {
            return false;
        }
        let mut state = lock(&self.state);
        state.attended += 1;
        if state.is_attended() {
            self.attention.fetch_and(!UNTOLD, Ordering::SeqCst);
        }
        true
    }

    /// The thread has got something, or does not wait any more: tells of what is there now. Returns the function, if it is
    /// to be called.
    #[must_use]
    pub(super) fn leave(&self, is_ready: impl Fn() -> bool) -> Option<Notify> {
        let mut state = lock(&self.state);
        state.attended -= 1;
        if state.attended > 0 || state.told {
            return None;
        }
        self.attention.fetch_or(UNTOLD, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        self.settle(&mut state, is_ready)
    }

    /// Sleeps until the side is ready or the time is over; returns whether it is ready.
    pub(in crate::transport) fn sleep(&self, deadline: Option<Instant>, is_ready: impl Fn() -> bool) -> bool {
        let mut state = lock(&self.state);
        self.attention.fetch_add(SLEEPER, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        if is_ready() {
            self.attention.fetch_sub(SLEEPER, Ordering::SeqCst);
            return true;
        }
        loop {
            let over;
            (state, over) = self.wait(state, deadline);
            if state.woken > 0 {
                // Meant for this thread or for another that sleeps: that one is counted as asleep in its place.
                state.woken -= 1;
                return is_ready();
            }
            if over {
                self.attention.fetch_sub(SLEEPER, Ordering::SeqCst);
                return is_ready();
            }
        }
    }

    #[cfg(not(loom))]
    fn wait<'side>(
        &self,
        state: MutexGuard<'side, State>,
        deadline: Option<Instant>,
    ) -> (MutexGuard<'side, State>, bool) {
        let Some(deadline) = deadline else {
            let state = self.wake.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
            return (state, false);
        };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return (state, true);
        }
        let (state, _) =
            self.wake.wait_timeout(state, left).unwrap_or_else(std::sync::PoisonError::into_inner);
        (state, false)
    }

    /// In the models there is no time between now and never: who has a deadline is past it when others have had the lock.
    #[cfg(loom)]
    fn wait<'side>(
        &'side self,
        state: MutexGuard<'side, State>,
        deadline: Option<Instant>,
    ) -> (MutexGuard<'side, State>, bool) {
        if deadline.is_some() {
            drop(state);
            return (lock(&self.state), true);
        }
        (self.wake.wait(state).expect("no thread panics"), false)
    }

    /// Has a bell told from now on: first, what is so now. Returns the function, if it is to be called: whoever has just
    /// made the side ready may find that the bell knows it already, and leave it at that.
    #[must_use]
    pub(in crate::transport) fn add_bell(&self, bell: Bell, is_ready: impl Fn() -> bool) -> Option<Notify> {
        let mut state = lock(&self.state);
        if state.told {
            bell.set(true);
        }
        state.bells.push((Generation::current(), bell));
        self.watch(state, is_ready)
    }

    /// Has a function called from now on whenever the side becomes ready, in the place of the one before.
    pub(in crate::transport) fn set_notify(&self, notify: Option<Notify>, is_ready: impl Fn() -> bool) {
        let mut state = lock(&self.state);
        let before = mem::replace(&mut state.notify, notify);
        // What is so already is no news for the new one.
        let _ = self.watch(state, is_ready);
        // Not under the lock: what it owns is the caller's.
        drop(before);
    }

    /// What bells and function were last told.
    #[cfg(all(test, loom))]
    pub(super) fn was_told(&self) -> bool {
        lock(&self.state).told
    }

    #[must_use]
    fn watch(&self, mut state: MutexGuard<'_, State>, is_ready: impl Fn() -> bool) -> Option<Notify> {
        let watched = !state.bells.is_empty() || state.notify.is_some();
        self.watched.store(watched, Ordering::SeqCst);
        if !watched {
            state.told = false;
            self.attention.fetch_and(!UNTOLD, Ordering::SeqCst);
        } else if !state.told {
            self.attention.fetch_or(UNTOLD, Ordering::SeqCst);
        }
        fence(Ordering::SeqCst);
        self.settle(&mut state, is_ready)
    }
}
