//! Taking a table's lock, and what handles do that cannot take it.
//!
//! Whoever takes the lock and finds that a writer died undoes what it left, before anybody looks.
//!
//! This module does not know how objects are locked: that is the lock method's.

use std::time::{Duration, Instant};

use manycore_backends::lock::{Guard, LockError, Mode, Wait};
use manycore_backends::shm::{Memory, ShmError, Window};
use manycore_backends::{LockMethod, ShmBackend};

use super::ShmTable;
use super::error::{Result, TableError};
use super::journal::{Scope, Transaction, is_odd};
use super::layout::AT_TRANSACTION;
use super::view::View;

/// What keeps a table from being changed while it is read: its read lock; nothing, if the handle only reads and the lock
/// method cannot lock without writing. Then changes are noticed: [`TableError::Changed`].
#[derive(Debug)]
pub struct ReadLock<'a, B: ShmBackend, L: LockMethod<B>>(
    #[allow(dead_code, reason = "held")] Option<Guard<'a, B, L>>,
);

impl<B: ShmBackend, L: LockMethod<B>> ShmTable<B, L> {
    pub(super) fn begin_read(&self) -> Result<(ReadLock<'_, B, L>, View<'_, B>)> {
        let mut guard = match self.lock(Mode::Read) {
            Err(TableError::Lock(LockError::ReadOnly)) if self.shared.read_only => {
                return Ok((ReadLock(None), self.watch()?));
            }
            guard => guard?,
        };
        loop {
            let view = View::new(&self.shared.object)?;
            if !is_odd(view.load(AT_TRANSACTION)?) {
                return Ok((ReadLock(Some(guard)), view));
            }
            // A writer died. Undo what it left, as a writer, and look again.
            drop(guard);
            if self.shared.read_only {
                return Err(self.interrupted());
            }
            let mut writing = self.lock_for_writing()?;
            Transaction::new(&self.shared.object, self.shared.generation, Scope::Table).run(|_| Ok(()))?;
            writing.downgrade()?;
            guard = writing;
        }
    }

    fn interrupted(&self) -> TableError {
        TableError::Interrupted { name: self.name().to_owned() }
    }

    /// Looks at a state that is not half changed, without a lock.
    #[cold]
    fn watch(&self) -> Result<View<'_, B>> {
        /// After so long, who is at work counts as dead for those who would wait for ever.
        const PATIENCE: Duration = Duration::from_secs(1);
        const PAUSE: Duration = Duration::from_millis(1);
        let shared = &*self.shared;
        if !shared.generation.is_current() {
            return Err(ShmError::Forked { name: self.name().to_owned() }.into());
        }
        let (limit, too_late) = match self.wait {
            Wait::Forever => (PATIENCE, None),
            Wait::Try => (Duration::ZERO, Some(LockError::Busy)),
            Wait::AtMost(limit) => (limit, Some(LockError::TimedOut)),
        };
        let start = Instant::now();
        loop {
            let waited = start.elapsed();
            let window = shared.object.memory().window();
            let transaction = window.load(AT_TRANSACTION as usize)?;
            if !is_odd(transaction) {
                match View::watch(&shared.object, transaction) {
                    Err(TableError::Changed { .. }) => {}
                    view => return view,
                }
            }
            if waited >= limit {
                return Err(too_late.map_or_else(|| self.interrupted(), TableError::from));
            }
            // Nobody wakes; it is a pause, unless the word has changed already.
            window.wait(AT_TRANSACTION as usize, transaction, PAUSE.min(limit - waited), u32::MAX)?;
        }
    }

    /// Takes the lock, unless this handle is of no use here.
    #[inline(always)]
    pub(super) fn lock(&self, mode: Mode) -> Result<Guard<'_, B, L>> {
        let shared = &*self.shared;
        let guard = Guard::lock(&shared.method, &shared.object, mode, self.wait)?;
        // Not every lock method notices.
        if shared.generation.is_current() {
            Ok(guard)
        } else {
            Err(ShmError::Forked { name: self.name().to_owned() }.into())
        }
    }

    #[inline(always)]
    pub(super) fn lock_for_writing(&self) -> Result<Guard<'_, B, L>> {
        if self.shared.read_only {
            return Err(TableError::ReadOnly { name: self.name().to_owned() });
        }
        self.lock(Mode::Write)
    }
}
