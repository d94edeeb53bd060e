//! The in-process half of a lock that the system grants to whole processes: threads exclude each other.
//!
//! A gate stands before one system lock of one object. The first thread in takes the system's lock, the
//! last one out gives it back; in between the gate decides.
//!
//! | state | a thread that wants to read | a thread that wants to write |
//! |---|---|---|
//! | free | asks the system for `Read` | asks the system for `Write` |
//! | a thread is asking the system | waits | waits |
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
//! This module makes no system call.

use std::time::{Duration, Instant};

use super::{LockError, Mode, Wait};
use crate::sync::thread::{self, ThreadId};
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
    /// A thread waits for the system's answer.
    asking: bool,
    writers_waiting: u32,
    readers_waiting: u32,
    /// How many of the waiting readers go before any writer.
    readers_first: u32,
}

impl State {
    fn is_free(&self) -> bool {
        self.writer.is_none() && self.readers.is_empty() && !self.asking
    }

    fn reads(&self, thread: ThreadId) -> bool {
        self.readers.iter().any(|(reader, _)| *reader == thread)
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
        &self,
        mode: Mode,
        wait: Wait,
        system: impl FnOnce(Wait) -> Result<(), LockError>,
    ) -> Result<(), LockError> {
        let me = thread::current().id();
        let deadline = match wait {
            Wait::AtMost(limit) => Instant::now().checked_add(limit),
            Wait::Forever | Wait::Try => None,
        };
        let mut state = lock(&self.state);
        if state.writer == Some(me) || (mode == Mode::Write && state.reads(me)) {
            return Err(LockError::LockedByCaller);
        }
        let mut counted = false;
        let outcome = loop {
            let may = match mode {
                Mode::Write => state.readers_first == 0,
                Mode::Read => {
                    state.writers_waiting == 0 || state.reads(me) || (counted && state.readers_first > 0)
                }
            };
            if may && mode == Mode::Read && !state.readers.is_empty() {
                state.leave_queue(mode, counted);
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
            match self.sleep(state, wait, deadline) {
                (awake, Ok(())) => state = awake,
                (awake, Err(error)) => {
                    state = awake;
                    break Err(error);
                }
            }
        };
        state.leave_queue(mode, counted);
        if let Err(error) = outcome {
            // Others may have waited behind this one.
            self.wake(&state);
            return Err(error);
        }
        state.asking = true;
        drop(state);
        let remaining = match (wait, deadline) {
            (Wait::AtMost(_), Some(deadline)) => {
                Wait::AtMost(deadline.saturating_duration_since(Instant::now()))
            }
            (Wait::AtMost(_), None) => Wait::Forever,
            (wait, _) => wait,
        };
        let answer = system(remaining);
        let mut state = lock(&self.state);
        state.asking = false;
        if answer.is_ok() {
            match mode {
                Mode::Read => state.add_reader(me),
                Mode::Write => state.writer = Some(me),
            }
        }
        self.wake(&state);
        answer
    }

    /// Wakes those who wait, if there are any: telling nobody is a system call, too.
    fn wake(&self, state: &State) {
        if state.readers_waiting + state.writers_waiting > 0 {
            self.changed.notify_all();
        }
    }

    /// Gives one hold of the calling thread back; `system` gives the system's lock back, if it was the last.
    pub(super) fn release(&self, system: impl FnOnce() -> Result<(), LockError>) -> Result<(), LockError> {
        let me = thread::current().id();
        let mut state = lock(&self.state);
        if state.writer == Some(me) {
            state.writer = None;
            state.readers_first = state.readers_waiting;
        } else if let Some(at) = state.readers.iter().position(|(reader, _)| *reader == me) {
            state.readers[at].1 -= 1;
            if state.readers[at].1 == 0 {
                state.readers.swap_remove(at);
            }
        } else {
            return Err(LockError::NotHeld);
        }
        if state.is_free() {
            // Under the mutex: nobody can ask the system again before it has been told.
            let told = system();
            self.wake(&state);
            told
        } else {
            Ok(())
        }
    }

    fn sleep<'a>(
        &self,
        state: MutexGuard<'a, State>,
        wait: Wait,
        deadline: Option<Instant>,
    ) -> (MutexGuard<'a, State>, Result<(), LockError>) {
        let poisoned = "no user of the gate's mutex panics";
        match (wait, deadline) {
            (Wait::Try, _) => (state, Err(LockError::Busy)),
            (Wait::AtMost(_), Some(deadline)) => {
                let remaining = deadline.saturating_duration_since(Instant::now());
                if remaining == Duration::ZERO {
                    return (state, Err(LockError::TimedOut));
                }
                (self.changed.wait_timeout(state, remaining).expect(poisoned).0, Ok(()))
            }
            _ => (self.changed.wait(state).expect(poisoned), Ok(())),
        }
    }
}

#[cfg(all(test, loom))]
mod models {
    //! Every interleaving of a few threads, with a system lock that checks what it is told.

    use loom::sync::Arc;
    use loom::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// A stand-in for the kernel, which sees the process as one holder: 0 free, 1 read, 2 written.
    #[derive(Default)]
    struct Kernel(AtomicUsize);

    impl Kernel {
        fn lock(&self, mode: Mode) -> Result<(), LockError> {
            let level = if mode == Mode::Read { 1 } else { 2 };
            assert_eq!(self.0.swap(level, Ordering::AcqRel), 0, "asked twice");
            Ok(())
        }

        fn unlock(&self) -> Result<(), LockError> {
            assert_ne!(self.0.swap(0, Ordering::AcqRel), 0, "released twice");
            Ok(())
        }
    }

    struct World {
        gate: Gate,
        kernel: Kernel,
        readers: AtomicUsize,
        writers: AtomicUsize,
    }

    fn world() -> Arc<World> {
        Arc::new(World {
            gate: Gate::new(),
            kernel: Kernel::default(),
            readers: AtomicUsize::new(0),
            writers: AtomicUsize::new(0),
        })
    }

    fn write(world: &World) {
        world.gate.acquire(Mode::Write, Wait::Forever, |_| world.kernel.lock(Mode::Write)).unwrap();
        assert_eq!(world.writers.fetch_add(1, Ordering::AcqRel), 0);
        assert_eq!(world.readers.load(Ordering::Acquire), 0);
        world.writers.fetch_sub(1, Ordering::AcqRel);
        world.gate.release(|| world.kernel.unlock()).unwrap();
    }

    fn read(world: &World) {
        world.gate.acquire(Mode::Read, Wait::Forever, |_| world.kernel.lock(Mode::Read)).unwrap();
        world.readers.fetch_add(1, Ordering::AcqRel);
        assert_eq!(world.writers.load(Ordering::Acquire), 0);
        world.readers.fetch_sub(1, Ordering::AcqRel);
        world.gate.release(|| world.kernel.unlock()).unwrap();
    }

    #[test]
    fn writers_exclude_each_other_and_readers() {
        loom::model(|| {
            let world = world();
            let other = Arc::clone(&world);
            let third = Arc::clone(&world);
            let writer = thread::spawn(move || write(&other));
            let reader = thread::spawn(move || read(&third));
            write(&world);
            writer.join().unwrap();
            reader.join().unwrap();
        });
    }

    #[test]
    fn a_reader_reads_again_while_a_writer_waits() {
        loom::model(|| {
            let world = world();
            let other = Arc::clone(&world);
            let ask = |world: &World| {
                world.gate.acquire(Mode::Read, Wait::Forever, |_| world.kernel.lock(Mode::Read)).unwrap();
            };
            ask(&world);
            let writer = thread::spawn(move || write(&other));
            ask(&world);
            world.gate.release(|| world.kernel.unlock()).unwrap();
            world.gate.release(|| world.kernel.unlock()).unwrap();
            writer.join().unwrap();
        });
    }

    #[test]
    fn a_writer_that_gives_up_lets_readers_in() {
        loom::model(|| {
            let world = world();
            let other = Arc::clone(&world);
            let trying = thread::spawn(move || {
                match other.gate.acquire(Mode::Write, Wait::Try, |_| other.kernel.lock(Mode::Write)) {
                    Ok(()) => other.gate.release(|| other.kernel.unlock()).unwrap(),
                    Err(error) => assert!(matches!(error, LockError::Busy)),
                }
            });
            read(&world);
            trying.join().unwrap();
            read(&world);
        });
    }

    #[test]
    fn a_refused_request_leaves_the_gate_open() {
        loom::model(|| {
            let world = world();
            let other = Arc::clone(&world);
            let refused = thread::spawn(move || {
                let answer = other.gate.acquire(Mode::Write, Wait::Forever, |_| Err(LockError::Deadlock));
                assert!(matches!(answer, Err(LockError::Deadlock)));
            });
            write(&world);
            refused.join().unwrap();
            write(&world);
        });
    }
}
