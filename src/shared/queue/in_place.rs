//! Messages that are written and read where they are: what is copied is what one asks for, and nothing else.
//!
//! There are no references to the words of a message: others could write to them, by mistake or by malice.
//!
//! This module does not wait, and does not know what messages mean.

use std::fmt;

use manycore_backends::ShmBackend;
use manycore_backends::lock::FutexLockable;

use super::super::error::{Result, SharedError};
use super::{RECEIVERS, SENDERS, ShmQueue, cells};

/// A message that is being written in its place; see [`ShmQueue::draft`]. If it is dropped before it was
/// [sent](Draft::send), or this process dies, there was no message.
///
/// ```
/// use manycore::lock::Wait;
/// use manycore::shared::{Capacity, ShmQueue};
///
/// let queue: ShmQueue<()> =
///     ShmQueue::create_unique("/manycore-doc-draft-XXXXXX", &Capacity { messages: 4, words: 1 << 18 })?;
/// let mut draft = queue.draft(Wait::Forever)?;
/// draft.write(0, &[7; 1000])?;
/// draft.write(200_000, &[8])?;
/// draft.send(200_001)?;
///
/// let message = queue.borrow(Wait::Forever)?;
/// let mut word = [0];
/// message.read(200_000, &mut word)?;
/// assert_eq!((message.words(), word), (200_001, [8]));
/// message.finish()?;
/// # queue.unlink()?;
/// # Ok::<(), manycore::shared::SharedError>(())
/// ```
#[must_use = "it is given up at once if it is not kept"]
pub struct Draft<'q, T, B: ShmBackend + FutexLockable> {
    pub(super) queue: &'q ShmQueue<T, B>,
    pub(super) writing: Option<cells::Writing>,
}

impl<T, B: ShmBackend + FutexLockable> fmt::Debug for Draft<'_, T, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Draft").field("queue", self.queue).finish_non_exhaustive()
    }
}

impl<T, B: ShmBackend + FutexLockable> Draft<'_, T, B> {
    /// Writes words into the message, from this one on. Words that are never written are what an earlier message left there.
    ///
    /// # Errors
    /// [`SharedError::TooLong`] if they end behind the longest message that the queue takes, and nothing was written;
    /// [`SharedError::Shm`] if this is a child of who has the draft.
    #[inline]
    pub fn write(&mut self, at: usize, words: &[u32]) -> Result<()> {
        self.check(at.saturating_add(words.len()))?;
        match &self.writing {
            Some(writing) => self.queue.cells()?.write(writing, at, words),
            None => Ok(()),
        }
    }

    /// Sends the message, which is the first so many words.
    ///
    /// # Errors
    /// [`SharedError::TooLong`] if that is more than the queue takes; [`SharedError::Shm`] if the object was cut off, or this
    /// is a child of who has the draft; [`SharedError::Corrupt`].
    #[inline]
    pub fn send(mut self, words: usize) -> Result<()> {
        self.check(words)?;
        let cells = self.queue.cells()?;
        let Some(writing) = self.writing.take() else { return Ok(()) };
        cells.send(&writing, words as u32)?;
        self.queue.object.intact()?;
        RECEIVERS.wake_one(cells.window)
    }

    #[inline(always)]
    fn check(&self, words: usize) -> Result<()> {
        let max = self.queue.shape.words;
        if words <= max { Ok(()) } else { Err(SharedError::TooLong { words, max }) }
    }
}

impl<T, B: ShmBackend + FutexLockable> Drop for Draft<'_, T, B> {
    #[inline]
    fn drop(&mut self) {
        if let Some(writing) = self.writing.take() {
            self.queue.give_up(&writing);
        }
    }
}

/// A message that is read in its place; see [`ShmQueue::borrow`]. Unless it is [finished](Borrowed::finish) it is there
/// again, before all others, when this is dropped, or the process dies.
#[must_use = "it goes back into the queue at once if it is not kept"]
pub struct Borrowed<'q, T, B: ShmBackend + FutexLockable> {
    pub(super) queue: &'q ShmQueue<T, B>,
    pub(super) taken: Option<cells::Taken>,
    pub(super) length: usize,
    pub(super) deliveries: u32,
}

impl<T, B: ShmBackend + FutexLockable> fmt::Debug for Borrowed<'_, T, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Borrowed")
            .field("queue", self.queue)
            .field("words", &self.length)
            .field("deliveries", &self.deliveries)
            .finish_non_exhaustive()
    }
}

impl<T, B: ShmBackend + FutexLockable> Borrowed<'_, T, B> {
    /// The length of the message in words.
    #[doc(alias("len", "length"))]
    pub fn words(&self) -> usize {
        self.length
    }

    /// How often it was taken before, by somebody who did not finish it.
    pub fn deliveries(&self) -> u32 {
        self.deliveries
    }

    /// Copies words of the message, from this one on: as many as `into` has.
    ///
    /// # Errors
    /// [`SharedError::NoSuchWord`] if that ends behind the message; [`SharedError::Shm`] if the object was cut off, or this is a
    /// child of who has borrowed it. Then what is in `into` is of no use.
    pub fn read(&self, at: usize, into: &mut [u32]) -> Result<()> {
        let end = at.saturating_add(into.len());
        if end > self.length {
            return Err(SharedError::NoSuchWord { last: end - 1, words: self.length });
        }
        if let Some(taken) = &self.taken {
            self.queue.cells()?.read(taken, at, into)?;
        }
        Ok(self.queue.object.intact()?)
    }

    /// Copies the whole message, behind what is in `message`.
    #[inline(always)]
    pub(super) fn append_to(&self, message: &mut Vec<u32>) -> Result<()> {
        if let Some(taken) = &self.taken {
            self.queue.cells()?.append(taken, self.length, message)?;
        }
        Ok(self.queue.object.intact()?)
    }

    /// Takes it out of the queue for good.
    ///
    /// # Errors
    /// [`SharedError::Shm`] if the object was cut off, or this is a child of who has borrowed it; [`SharedError::Corrupt`].
    #[inline(always)]
    pub fn finish(mut self) -> Result<()> {
        let cells = self.queue.cells()?;
        let Some(taken) = self.taken.take() else { return Ok(()) };
        cells.finish(&taken)?;
        self.queue.object.intact()?;
        if cells.is_closed()? {
            // It may have been the last.
            RECEIVERS.wake_all(cells.window)?;
        }
        SENDERS.wake_one(cells.window)
    }
}

impl<T, B: ShmBackend + FutexLockable> Drop for Borrowed<'_, T, B> {
    #[inline]
    fn drop(&mut self) {
        if let Some(taken) = self.taken.take() {
            self.queue.give_back(&taken);
        }
    }
}
