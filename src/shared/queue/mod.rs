//! [`ShmQueue`]: messages from any number of processes to any number of processes, in shared memory.
//!
//! It takes no lock: a sender writes into a cell that nobody else uses, and a receiver reads it there. Without anybody who
//! waits there is no system call. What is in the object, and how it changes, is drawn in `cells.rs`.
//!
//! | file | concern |
//! |---|---|
//! | `mod` | typed messages, waiting |
//! | `in_place` | messages that are written and read where they are |
//! | `cells` | the words of the object |

mod cells;
mod in_place;

use std::fmt;
use std::iter;
use std::marker::PhantomData;
use std::ops::Deref;
use std::time::Duration;

use manycore_backends::lock::{FutexLockable, Presence, Protocol, Wait};
use manycore_backends::patience::CommonPatience;
use manycore_backends::shm::Memory;
use manycore_backends::{PosixShm, ShmBackend};

use self::cells::{Cells, Shape, Tried};
pub use self::in_place::{Borrowed, Draft};
use super::error::{Result, SharedError};
use super::event::{Awaited, Ended, Event, wait_for};
use super::object::{ASKED, Kind, Plan, Sealed, Shared, forked, opening};
use super::scratch::with_words;
use crate::codec::{Value, decode_all};

const RECEIVERS: Event = Event(cells::RECEIVERS);
const SENDERS: Event = Event(cells::SENDERS);

/// How much a queue has room for. All of it is reserved when the queue is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// So many messages, at least: it becomes a power of two. At most 2^24.
    pub messages: usize,
    /// Words (of four bytes) in the longest message, as [`codec`](crate::codec) says.
    pub words: usize,
}

impl Capacity {
    fn shape(self) -> Result<Shape> {
        if !(1..=1 << cells::LOG_MAX).contains(&self.messages) {
            return Err(SharedError::Impossible("a queue has room for 1 to 2^24 messages"));
        }
        let shape = Shape { log: self.messages.next_power_of_two().ilog2(), words: self.words };
        if self.words > u32::MAX as usize / 2 || shape.object_words().is_none() {
            return Err(SharedError::Impossible("a queue is not longer than 16 GiB"));
        }
        Ok(shape)
    }
}

/// A queue of messages of type `T` in shared memory, from any number of processes to any number of processes. It takes no
/// lock, and while nobody waits there is no system call.
///
/// A handle may be used by several threads at once. Each process opens the queue by itself: a handle that was carried
/// through a fork is refused. `T` is any [`Value`]; a [`Cbor`](crate::codec::Cbor) of any serde type is one.
///
/// ```
/// use manycore::shared::{Capacity, ShmQueue};
///
/// let queue: ShmQueue<(u32, String)> =
///     ShmQueue::create_unique("/manycore-doc-queue-XXXXXX", &Capacity { messages: 100, words: 20 })?;
/// queue.send(&(1, "one".to_owned()))?;
/// assert_eq!(queue.receive()?, (1, "one".to_owned()));
///
/// // Work that is done even if who took it is killed: then it is there for another.
/// queue.send(&(2, "two".to_owned()))?;
/// let task = queue.take()?;
/// assert_eq!((task.0, task.deliveries()), (2, 0));
/// task.finish()?;
/// # queue.unlink()?;
/// # Ok::<(), manycore::shared::SharedError>(())
/// ```
///
/// # What can be relied on
///
/// * Messages of one sender are received in the order in which they were sent.
/// * A message is sent as a whole or not at all, also if its sender is killed in the middle of it.
/// * A message that was [taken](ShmQueue::take), and not [finished](Taken::finish) when its receiver is killed or panics, is
///   there again, before all others, for whoever receives next. So work that must be done is done, if need be more than
///   once: [`Taken::deliveries`] tells. What [`receive`](ShmQueue::receive) returns is finished before it returns.
/// * Others who wait for somebody who was killed go on within 50 ms.
/// * A message that was taken and is not finished keeps its room, and rooms are given in order: once as many messages as
///   there is room for were sent after it, the queue is full, though it may be the only one that is left. Who then waits
///   for something else than room (results, say) hears nothing of its end.
///
/// A user that is stopped (`SIGSTOP`) in the middle of sending holds up all messages after its own, and one in the middle of
/// receiving its cell, until it goes on: it is alive.
#[doc(alias("Netmcore_queue", "Netcamlbox", "mailbox", "mq_open", "channel"))]
pub struct ShmQueue<T, B: ShmBackend = PosixShm> {
    object: B,
    presence: Presence,
    shape: Shape,
    sending: CommonPatience,
    receiving: CommonPatience,
    message: PhantomData<fn(T) -> T>,
}

impl<T, B: ShmBackend> fmt::Debug for ShmQueue<T, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShmQueue")
            .field("object", &self.object)
            .field("shape", &self.shape)
            .finish_non_exhaustive()
    }
}

impl<T, B: ShmBackend + FutexLockable> Shared for ShmQueue<T, B> {
    type Backend = B;
    type Asked = Capacity;
}

impl<T, B: ShmBackend + FutexLockable> Sealed<B, Capacity> for ShmQueue<T, B> {
    const KIND: Kind = Kind::Queue;
    const PROTOCOL: Protocol = Protocol::NONE;

    fn plan(asked: &Capacity) -> Result<Plan> {
        let shape = asked.shape()?;
        let mut words = [0; ASKED];
        (words[0], words[1]) = (shape.log, shape.words as u32);
        let length = shape.object_words().expect("it was checked with the capacity");
        Ok(Plan { asked: words, words: length, body: Vec::new() })
    }

    fn attach(object: B, asked: [u32; ASKED]) -> Result<Self> {
        let shape = Shape { log: asked[0], words: asked[1] as usize };
        let words = object.memory().words() as u64;
        let fits = shape.log <= cells::LOG_MAX && shape.object_words().is_some_and(|needed| needed <= words);
        if !fits {
            return Err(SharedError::Corrupt { at: 8, what: "a queue that is longer than its object" });
        }
        let mut forgotten = Ok(());
        let presence = Presence::enter(&object, |number| {
            forgotten = Cells { window: object.memory().window(), shape, number }.forget(number);
        })?;
        forgotten?;
        let (sending, receiving) = Default::default();
        Ok(ShmQueue { object, presence, shape, sending, receiving, message: PhantomData })
    }

    fn check(&self, asked: &Capacity) -> Result<()> {
        if self.shape == asked.shape()? {
            return Ok(());
        }
        let Capacity { messages, words } = self.capacity();
        Err(SharedError::Capacity { name: self.object.name().to_owned(), messages, words })
    }
}

type WindowOf<'a, B> = <<B as ShmBackend>::Memory as Memory>::Window<'a>;

impl<T, B: ShmBackend + FutexLockable> ShmQueue<T, B> {
    opening!(&Capacity, "queue", capacity);

    /// How much there is room for.
    pub fn capacity(&self) -> Capacity {
        Capacity { messages: self.shape.cells(), words: self.shape.words }
    }

    /// How many messages are in the queue, those included that are being written or read just now.
    ///
    /// # Errors
    /// [`SharedError::Shm`] if the object was cut off, or this is a child of who opened it.
    #[doc(alias = "len")]
    pub fn length(&self) -> Result<usize> {
        let length = self.cells()?.length()?;
        self.object.intact()?;
        Ok(length)
    }

    /// Lets nobody send any more. Who waits for room is told, at once. Messages that are in the queue are received as ever;
    /// after them, who receives is told. To close it again does nothing.
    ///
    /// # Errors
    /// As [`length`](ShmQueue::length).
    pub fn close(&self) -> Result<()> {
        let cells = self.cells()?;
        cells.close()?;
        SENDERS.wake_all(cells.window)?;
        RECEIVERS.wake_all(cells.window)?;
        Ok(self.object.intact()?)
    }

    /// Whether somebody has closed the queue.
    ///
    /// # Errors
    /// As [`length`](ShmQueue::length).
    pub fn is_closed(&self) -> Result<bool> {
        let closed = self.cells()?.is_closed()?;
        self.object.intact()?;
        Ok(closed)
    }

    /// Sends the words of a message that is encoded already, and waits for room as told.
    ///
    /// # Errors
    /// [`SharedError::TooLong`]; [`SharedError::Closed`]; [`SharedError::Full`] if `wait` is [`Wait::Try`],
    /// [`SharedError::TimedOut`]; [`SharedError::Shm`] if the object was cut off, or this is a child of who opened it;
    /// [`SharedError::Corrupt`].
    #[inline]
    pub fn send_words(&self, message: &[u32], wait: Wait) -> Result<()> {
        if message.len() > self.shape.words {
            return Err(SharedError::TooLong { words: message.len(), max: self.shape.words });
        }
        let mut draft = self.draft_waiting(wait)?;
        draft.write(0, message)?;
        draft.send(message.len())
    }

    /// Appends the words of the next message to `message`, waiting for one as told.
    ///
    /// # Errors
    /// [`SharedError::Closed`] if the queue was closed, and nothing is in it; [`SharedError::Empty`] if `wait` is
    /// [`Wait::Try`]; [`SharedError::TimedOut`]; [`SharedError::Shm`], [`SharedError::Corrupt`] as ever.
    #[inline]
    pub fn receive_words(&self, message: &mut Vec<u32>, wait: Wait) -> Result<()> {
        let begin = message.len();
        let borrowed = self.borrow_waiting(wait)?;
        let received = borrowed.append_to(message).and_then(|()| borrowed.finish());
        if received.is_err() {
            message.truncate(begin);
        }
        received
    }

    /// Room for a message, to be written piece by piece in its place, and sent when it is complete. Waits for room as told.
    /// It costs the same whatever the length of the message.
    ///
    /// All messages that are sent after it wait for it: it is not meant to be kept.
    ///
    /// # Errors
    /// As [`send_words`](ShmQueue::send_words).
    #[doc(alias("loan", "zero_copy"))]
    pub fn draft(&self, wait: Wait) -> Result<Draft<'_, T, B>> {
        self.draft_waiting(wait)
    }

    /// The next message, to be read in its place, and [finished](Borrowed::finish) then. Waits for one as told. It costs the
    /// same whatever the length of the message; as long as it is kept, its room is taken.
    ///
    /// # Errors
    /// As [`receive_words`](ShmQueue::receive_words).
    #[doc(alias("zero_copy", "sample"))]
    pub fn borrow(&self, wait: Wait) -> Result<Borrowed<'_, T, B>> {
        self.borrow_waiting(wait)
    }

    #[inline(always)]
    fn draft_waiting(&self, wait: Wait) -> Result<Draft<'_, T, B>> {
        let cells = self.cells()?;
        let sending = Sending { queue: self, cells };
        match wait_for(&self.object, SENDERS, &self.sending, wait, sending)? {
            Ok(Some(writing)) => Ok(Draft { queue: self, writing: Some(writing) }),
            Ok(None) => {
                // Its position may be what keeps others from finding out.
                RECEIVERS.wake_all(cells.window)?;
                Err(self.closed())
            }
            Err(Ended::AtOnce) => Err(SharedError::Full),
            Err(Ended::TimedOut) => Err(SharedError::TimedOut),
        }
    }

    #[inline(always)]
    fn borrow_waiting(&self, wait: Wait) -> Result<Borrowed<'_, T, B>> {
        let cells = self.cells()?;
        let receiving = Receiving { queue: self, cells };
        let taken = match wait_for(&self.object, RECEIVERS, &self.receiving, wait, receiving)? {
            Ok(Some(taken)) => taken,
            Ok(None) => return Err(self.closed()),
            Err(Ended::AtOnce) => return Err(SharedError::Empty),
            Err(Ended::TimedOut) => return Err(SharedError::TimedOut),
        };
        let mut borrowed = Borrowed { queue: self, taken: Some(taken), length: 0, deliveries: 0 };
        (borrowed.length, borrowed.deliveries) = cells.about(&taken)?;
        Ok(borrowed)
    }

    #[inline(always)]
    fn cells(&self) -> Result<Cells<WindowOf<'_, B>>> {
        if !self.presence.is_current() {
            return Err(forked(&self.object));
        }
        Ok(Cells { window: self.object.memory().window(), shape: self.shape, number: self.presence.number() })
    }

    /// A message that will not be sent.
    #[cold]
    fn give_up(&self, writing: &cells::Writing) {
        // In a child it is the parent's.
        let Ok(cells) = self.cells() else { return };
        if cells.abandon(writing).is_ok() {
            // Who looked for a message waited for this one; who looks for room can have this.
            let _ = RECEIVERS.wake_all(cells.window);
            let _ = SENDERS.wake_one(cells.window);
        }
    }

    /// A message that was not received.
    #[cold]
    fn give_back(&self, taken: &cells::Taken) {
        let Ok(cells) = self.cells() else { return };
        if cells.give_back(taken).is_ok() {
            let _ = RECEIVERS.wake_one(cells.window);
        }
    }

    #[cold]
    fn closed(&self) -> SharedError {
        SharedError::Closed { name: self.object.name().to_owned() }
    }
}

impl<T: Value, B: ShmBackend + FutexLockable> ShmQueue<T, B> {
    /// Sends a message; waits for room if there is none.
    ///
    /// # Errors
    /// [`SharedError::Closed`] if the queue was closed; [`SharedError::TooLong`] if the message is longer than the queue
    /// takes; [`SharedError::Codec`]; [`SharedError::Shm`] if the object was cut off, or this is a child of who opened it;
    /// [`SharedError::Corrupt`].
    pub fn send(&self, message: &T) -> Result<()> {
        self.send_waiting(message, Wait::Forever)
    }

    /// Sends a message if there is room.
    ///
    /// # Errors
    /// [`SharedError::Full`] if there is none, which may be because of one message that somebody has taken long ago and has
    /// not finished; else as [`send`](ShmQueue::send).
    pub fn try_send(&self, message: &T) -> Result<()> {
        self.send_waiting(message, Wait::Try)
    }

    /// Sends a message; waits for room for so long.
    ///
    /// # Errors
    /// [`SharedError::TimedOut`] if there was none; else as [`send`](ShmQueue::send).
    pub fn send_timeout(&self, message: &T, limit: Duration) -> Result<()> {
        self.send_waiting(message, Wait::AtMost(limit))
    }

    fn send_waiting(&self, message: &T, wait: Wait) -> Result<()> {
        with_words(|words| {
            message.encode(words)?;
            self.send_words(words, wait)
        })
    }

    /// Receives the next message; waits for one if there is none.
    ///
    /// # Errors
    /// [`SharedError::Closed`] if the queue was closed, and nothing is in it; [`SharedError::Codec`] if the message is of
    /// another type (it is out of the queue then); [`SharedError::Shm`] if the object was cut off, or this is a child of who
    /// opened it; [`SharedError::Corrupt`].
    #[doc(alias = "recv")]
    pub fn receive(&self) -> Result<T> {
        self.receive_waiting(Wait::Forever)
    }

    /// Receives the next message if there is one.
    ///
    /// # Errors
    /// [`SharedError::Empty`] if there is none; else as [`receive`](ShmQueue::receive).
    #[doc(alias = "try_recv")]
    pub fn try_receive(&self) -> Result<T> {
        self.receive_waiting(Wait::Try)
    }

    /// Receives the next message; waits for one for so long.
    ///
    /// # Errors
    /// [`SharedError::TimedOut`] if none came; else as [`receive`](ShmQueue::receive).
    #[doc(alias = "recv_timeout")]
    pub fn receive_timeout(&self, limit: Duration) -> Result<T> {
        self.receive_waiting(Wait::AtMost(limit))
    }

    fn receive_waiting(&self, wait: Wait) -> Result<T> {
        with_words(|words| {
            self.receive_words(words, wait)?;
            Ok(decode_all(words)?)
        })
    }

    /// Receives messages until the queue is closed and empty.
    pub fn iter(&self) -> impl Iterator<Item = Result<T>> + '_ {
        iter::from_fn(|| match self.receive() {
            Err(SharedError::Closed { .. }) => None,
            received => Some(received),
        })
    }

    /// Takes the next message, which is received when it is [finished](Taken::finish), and is there for another if that
    /// does not happen. Waits for one if there is none.
    ///
    /// # Errors
    /// As [`receive`](ShmQueue::receive).
    #[doc(alias("acknowledge", "lease"))]
    pub fn take(&self) -> Result<Taken<'_, T, B>> {
        self.take_waiting(Wait::Forever)
    }

    /// The same if there is one.
    ///
    /// # Errors
    /// [`SharedError::Empty`] if there is none; else as [`receive`](ShmQueue::receive).
    pub fn try_take(&self) -> Result<Taken<'_, T, B>> {
        self.take_waiting(Wait::Try)
    }

    /// The same, waiting for so long.
    ///
    /// # Errors
    /// [`SharedError::TimedOut`] if none came; else as [`receive`](ShmQueue::receive).
    pub fn take_timeout(&self, limit: Duration) -> Result<Taken<'_, T, B>> {
        self.take_waiting(Wait::AtMost(limit))
    }

    fn take_waiting(&self, wait: Wait) -> Result<Taken<'_, T, B>> {
        with_words(|words| {
            let borrowed = self.borrow_waiting(wait)?;
            borrowed.append_to(words)?;
            match decode_all(words) {
                Ok(message) => Ok(Taken { message, borrowed }),
                Err(error) => {
                    // Nobody could do anything with it.
                    borrowed.finish()?;
                    Err(error.into())
                }
            }
        })
    }
}

/// A message that was taken out of a queue. Unless it is [finished](Taken::finish) it is there again, before all others,
/// when this is dropped, or the process dies.
#[must_use = "it goes back into the queue at once if it is not kept"]
pub struct Taken<'q, T, B: ShmBackend + FutexLockable = PosixShm> {
    message: T,
    borrowed: Borrowed<'q, T, B>,
}

impl<T: fmt::Debug, B: ShmBackend + FutexLockable> fmt::Debug for Taken<'_, T, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Taken")
            .field("message", &self.message)
            .field("deliveries", &self.deliveries())
            .finish_non_exhaustive()
    }
}

impl<T, B: ShmBackend + FutexLockable> Deref for Taken<'_, T, B> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.message
    }
}

impl<T, B: ShmBackend + FutexLockable> Taken<'_, T, B> {
    /// How often it was taken before, by somebody who did not finish it. What kills whoever takes it rises without end:
    /// who takes it decides when it is enough.
    pub fn deliveries(&self) -> u32 {
        self.borrowed.deliveries()
    }

    /// Takes it out of the queue for good.
    ///
    /// # Errors
    /// [`SharedError::Shm`] if the object was cut off, or this is a child of who took it; [`SharedError::Corrupt`].
    pub fn finish(self) -> Result<T> {
        self.borrowed.finish()?;
        Ok(self.message)
    }
}

/// Somebody who sends.
struct Sending<'q, T, B: ShmBackend + FutexLockable> {
    queue: &'q ShmQueue<T, B>,
    cells: Cells<WindowOf<'q, B>>,
}

impl<T, B: ShmBackend + FutexLockable> Awaited for Sending<'_, T, B> {
    /// `None` if the queue is closed.
    type Output = Option<cells::Writing>;

    #[inline(always)]
    fn attempt(&mut self) -> Result<Option<Option<cells::Writing>>> {
        match self.cells.begin()? {
            Tried::Done(writing) => Ok(Some(Some(writing))),
            Tried::Closed => Ok(Some(None)),
            Tried::NotNow => Ok(None),
        }
    }

    fn bury(&mut self) -> Result<bool> {
        self.queue.bury()
    }

    fn is_more(&self) -> Result<bool> {
        Ok(self.cells.has_room()? || self.cells.is_closed()?)
    }
}

/// Somebody who receives.
struct Receiving<'q, T, B: ShmBackend + FutexLockable> {
    queue: &'q ShmQueue<T, B>,
    cells: Cells<WindowOf<'q, B>>,
}

impl<T, B: ShmBackend + FutexLockable> Awaited for Receiving<'_, T, B> {
    /// `None` if the queue is closed, and nothing is in it.
    type Output = Option<cells::Taken>;

    #[inline(always)]
    fn attempt(&mut self) -> Result<Option<Option<cells::Taken>>> {
        match self.cells.take()? {
            Tried::Done(taken) => Ok(Some(Some(taken))),
            Tried::Closed => Ok(Some(None)),
            Tried::NotNow => Ok(None),
        }
    }

    fn bury(&mut self) -> Result<bool> {
        self.queue.bury()
    }

    fn is_more(&self) -> Result<bool> {
        Ok(self.cells.has_message()? || self.cells.is_closed()?)
    }
}

impl<T, B: ShmBackend + FutexLockable> ShmQueue<T, B> {
    /// Whether anybody is dead who has left a mark; what they have left is taken away then.
    fn bury(&self) -> Result<bool> {
        let cells = self.cells()?;
        let mut is_dead = false;
        for number in cells.owners()? {
            is_dead |= cells.bury(&self.presence, number)?;
        }
        if is_dead {
            // It may have been in the way of others, too.
            SENDERS.wake_all(cells.window)?;
            RECEIVERS.wake_all(cells.window)?;
        }
        Ok(is_dead)
    }
}
