//! The in-process half of a lock that the system grants to whole processes: threads exclude each other.
//!
//! A gate stands before one system lock of one object. The first thread in takes the system's lock, the
//! last one out gives it back; in between the gate decides.
//!
//! | state | a thread that wants to read | a thread that wants to write |
//! |---|---|---|
//! | free | asks the system for `Read` | asks the system for `Write` |
//! | a thread is asking the system for either | waits | waits |
//! | read by others | joins, unless a writer of this process waits | waits |
//! | read by itself | joins | is refused: `LockedByCaller` |
//! | written by another | waits | waits |
//! | written by itself | is refused: `LockedByCaller` | is refused: `LockedByCaller` |
//!
//! New readers wait behind waiting writers, so that readers cannot starve them; a thread that reads already
//! does not, because the writer waits for it. When a writer is done, the readers that wait then go first, so
//! that writers cannot starve them. Between processes the system decides, and is fair to nobody: readers of one
//! process that overlap without end keep out the writers of another.
//!
//! [`Wait::Try`] may be refused because another thread asks the system at this moment, or waits to write.
//!
//! A thread that reads and wants to write waits until the other readers of this process are gone, and then for the
//! system; new readers wait behind it. Of two at once, the second is refused: `Deadlock`.
//!
//! Threads of this process that wait for each other, at the gates of several objects, are found: the last of them is
//! refused: `Deadlock`. What goes on in other processes is for the system to find.
//!
//! This module makes no system call.

mod cycle;
mod held;
#[cfg(all(test, loom))]
mod models;

use std::time::{Duration, Instant};

use super::{LockError, Mode, Wait};
use crate::sync::global::Arc;
use crate::sync::thread::ThreadId;
use crate::sync::{Condvar, Mutex, MutexGuard, lock};

#[derive(Debug)]
pub(super) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    writer: Option<ThreadId>,
    /// Reading threads, and how often each.
    readers: Vec<(ThreadId, u32)>,
    /// The thread that waits for the system's answer.
    asking: Option<ThreadId>,
    /// The reading thread that waits to write.
    upgrading: Option<ThreadId>,
    writers_waiting: u32,
    readers_waiting: u32,
    /// How many of the waiting readers go before any writer.
    readers_first: u32,
}

impl State {
    fn is_free(&self) -> bool {
        self.writer.is_none() && self.readers.is_empty() && self.asking.is_none()
    }

    fn reads(&self, thread: ThreadId) -> bool {
        self.readers.iter().any(|(reader, _)| *reader == thread)
    }

    /// Whether it is this thread's turn; it was `counted` if it waits already.
    fn may(&self, thread: ThreadId, mode: Mode, counted: bool) -> bool {
        match mode {
            Mode::Write => self.readers_first == 0,
            Mode::Read => {
                self.reads(thread)
                    || (self.upgrading.is_none()
                        && (self.writers_waiting == 0 || (counted && self.readers_first > 0)))
            }
        }
    }

    /// Whether a thread that waits could come in now, and only has not noticed yet.
    fn lets_in(&self, thread: ThreadId, mode: Mode) -> bool {
        let beside = mode == Mode::Read && !self.readers.is_empty();
        (beside || self.is_free()) && self.may(thread, mode, true)
    }

    /// Those for whom everybody else waits.
    fn holders(&self) -> impl Iterator<Item = ThreadId> + '_ {
        self.writer.iter().chain(&self.asking).copied().chain(self.readers.iter().map(|(reader, _)| *reader))
    }

    fn queue(&mut self, mode: Mode) -> &mut u32 {
        match mode {
            Mode::Read => &mut self.readers_waiting,
            Mode::Write => &mut self.writers_waiting,
        }
    }

    /// Notes that a thread waits no more, whether it got in or gave up; it was `counted` if it ever waited.
    fn leave_queue(&mut self, mode: Mode, counted: bool) {
        if counted {
            *self.queue(mode) -= 1;
            if mode == Mode::Read {
                self.readers_first = self.readers_first.saturating_sub(1);
            }
        }
    }

    fn add_reader(&mut self, thread: ThreadId) {
        match self.readers.iter_mut().find(|(reader, _)| *reader == thread) {
            Some((_, times)) => *times += 1,
            None => self.readers.push((thread, 1)),
        }
    }
}

impl Gate {
    pub(super) fn new() -> Gate {
        Gate { state: Mutex::new(State::default()), changed: Condvar::new() }
    }

    /// Whether nobody holds the lock or is about to.
    pub(super) fn is_free(&self) -> bool {
        lock(&self.state).is_free()
    }

    /// Takes the lock for the calling thread; `system` takes the system's, if it is needed, waiting as it
    /// is told.
    pub(super) fn acquire(
        self: &Arc<Gate>,
        mode: Mode,
        wait: Wait,
        system: impl FnOnce(Wait) -> Result<(), LockError>,
    ) -> Result<(), LockError> {
        let me = held::me();
        let mut waiting = Waiting::new(self, me, wait, Some(mode));
        let mut state = lock(&self.state);
        if state.writer == Some(me) || (mode == Mode::Write && state.reads(me)) {
            return Err(LockError::LockedByCaller);
        }
        let mut counted = false;
        let outcome = loop {
            let may = state.may(me, mode, counted);
            if may && mode == Mode::Read && !state.readers.is_empty() {
                state.leave_queue(mode, counted);
                if !state.reads(me) {
                    held::add();
                }
                state.add_reader(me);
                return Ok(());
            }
            if may && state.is_free() {
                break Ok(());
            }
            if !counted {
                *state.queue(mode) += 1;
                counted = true;
            }
            let (awake, slept) = waiting.sleep(state);
            state = awake;
            if slept.is_err() {
                break slept;
            }
        };
        state.leave_queue(mode, counted);
        if let Err(error) = outcome {
            // Others may have waited behind this one.
            self.wake(&state);
            return Err(error);
        }
        // A writer keeps everybody out before it has the system's answer as after; only a refusal changes that.
        match mode {
            Mode::Write => state.writer = Some(me),
            Mode::Read => state.asking = Some(me),
        }
        drop(state);
        let answer = system(waiting.end());
        if answer.is_ok() {
            held::add();
            if mode == Mode::Write {
                return answer;
            }
        }
        let mut state = lock(&self.state);
        match mode {
            Mode::Write => state.writer = None,
            Mode::Read => {
                state.asking = None;
                if answer.is_ok() {
                    state.add_reader(me);
                }
            }
        }
        self.wake(&state);
        answer
    }

    /// Makes the calling thread, which reads, write; `system` does the same with the system's lock.
    pub(super) fn upgrade(
        self: &Arc<Gate>,
        wait: Wait,
        system: impl FnOnce(Wait) -> Result<(), LockError>,
    ) -> Result<(), LockError> {
        let me = held::me();
        let mut waiting = Waiting::new(self, me, wait, None);
        let mut state = lock(&self.state);
        match state.readers.iter().find(|(reader, _)| *reader == me) {
            Some((_, 1)) => {}
            None if state.writer != Some(me) => return Err(LockError::NotHeld),
            _ => return Err(LockError::LockedByCaller),
        }
        if state.upgrading.is_some() {
            // It waits for this reader, which would wait for it.
            return Err(LockError::Deadlock);
        }
        state.upgrading = Some(me);
        while state.readers.len() > 1 {
            let (awake, slept) = waiting.sleep(state);
            state = awake;
            if slept.is_err() {
                state.upgrading = None;
                self.wake(&state);
                return slept;
            }
        }
        state.asking = Some(me);
        drop(state);
        let answer = system(waiting.end());
        let mut state = lock(&self.state);
        (state.asking, state.upgrading) = (None, None);
        if answer.is_ok() {
            state.readers.clear();
            state.writer = Some(me);
        }
        self.wake(&state);
        answer
    }

    /// Makes the calling thread, which writes, read; `system` does the same with the system's lock.
    pub(super) fn downgrade(&self, system: impl FnOnce() -> Result<(), LockError>) -> Result<(), LockError> {
        let me = held::me();
        let mut state = lock(&self.state);
        if state.writer != Some(me) {
            return Err(LockError::NotHeld);
        }
        system()?;
        state.writer = None;
        state.add_reader(me);
        state.readers_first = state.readers_waiting;
        self.wake(&state);
        Ok(())
    }

    /// Wakes those who wait, if there are any: telling nobody is a system call, too.
    fn wake(&self, state: &State) {
        if state.readers_waiting + state.writers_waiting > 0 || state.upgrading.is_some() {
            self.changed.notify_all();
        }
    }

    /// Gives one hold of the calling thread back; `system` gives the system's lock back, if it was the last.
    pub(super) fn release(&self, system: impl FnOnce() -> Result<(), LockError>) -> Result<(), LockError> {
        let me = held::me();
        let mut state = lock(&self.state);
        if state.writer == Some(me) {
            state.writer = None;
            state.readers_first = state.readers_waiting;
        } else if let Some(at) = state.readers.iter().position(|(reader, _)| *reader == me) {
            state.readers[at].1 -= 1;
            if state.readers[at].1 > 0 {
                return Ok(());
            }
            state.readers.swap_remove(at);
        } else {
            return Err(LockError::NotHeld);
        }
        held::remove();
        let told = if state.is_free() {
            // Under the mutex: nobody can ask the system again before it has been told.
            system()
        } else {
            Ok(())
        };
        self.wake(&state);
        told
    }
}

/// A thread that waits at a gate.
struct Waiting<'a> {
    gate: &'a Arc<Gate>,
    me: ThreadId,
    wait: Wait,
    /// What for; `None` to upgrade.
    mode: Option<Mode>,
    deadline: Option<Instant>,
    /// Whether others know of it.
    known: bool,
    /// Whether it has looked for a cycle since it slept.
    looked: bool,
}

impl<'a> Waiting<'a> {
    fn new(gate: &'a Arc<Gate>, me: ThreadId, wait: Wait, mode: Option<Mode>) -> Waiting<'a> {
        let deadline = match wait {
            Wait::AtMost(limit) => Instant::now().checked_add(limit),
            Wait::Forever | Wait::Try => None,
        };
        Waiting { gate, me, wait, mode, deadline, known: false, looked: false }
    }

    /// Sleeps until something has changed.
    fn sleep<'s>(
        &mut self,
        mut state: MutexGuard<'s, State>,
    ) -> (MutexGuard<'s, State>, Result<(), LockError>)
    where
        'a: 's,
    {
        if self.wait == Wait::Try {
            return (state, Err(LockError::Busy));
        }
        // Every time: others may have come before this one, who was about to come in when they looked.
        if !std::mem::take(&mut self.looked) && held::any() {
            let known = std::mem::replace(&mut self.known, true);
            self.looked = true;
            // The table of those who wait comes before the gates.
            drop(state);
            let found = cycle::look(self.me, self.gate, self.mode, known);
            state = lock(&self.gate.state);
            // It may have changed meanwhile: look again before sleeping.
            return (state, found);
        }
        let poisoned = "no user of the gate's mutex panics";
        match self.deadline {
            Some(deadline) => {
                let remaining = deadline.saturating_duration_since(Instant::now());
                if remaining == Duration::ZERO {
                    return (state, Err(LockError::TimedOut));
                }
                (self.gate.changed.wait_timeout(state, remaining).expect(poisoned).0, Ok(()))
            }
            None => (self.gate.changed.wait(state).expect(poisoned), Ok(())),
        }
    }

    /// The thread waits here no more. How it is to wait for the system.
    fn end(mut self) -> Wait {
        self.forget();
        match self.deadline {
            Some(deadline) => Wait::AtMost(deadline.saturating_duration_since(Instant::now())),
            None if self.wait == Wait::Try => Wait::Try,
            None => Wait::Forever,
        }
    }

    fn forget(&mut self) {
        if std::mem::take(&mut self.known) {
            cycle::end(self.me);
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.forget();
    }
}
