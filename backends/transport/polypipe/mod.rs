//! Typed pipes between the threads of one process: bounded, first in first out, for any number of writers and readers.
//!
//! Messages are moved, not copied or encoded. What nobody asked for costs nothing: there are no descriptors, no threads
//! and no system calls but those of who has to sleep.
//!
//! # How a pipe ends
//!
//! | what happens | then writing is | and reading, when all that was written before has been read |
//! |---|---|---|
//! | a writer [finishes](Writer::finish) | [`PipeError::Finished`] | `None`, for ever |
//! | a writer [closes](Writer::close), or the last one is dropped | [`PipeError::Closed`] | `None`, for ever |
//! | either end gives [a reason](Writer::close_because) | [`PipeError::Because`], the reason | the same |
//! | a reader [closes](Reader::close), or the last one is dropped | [`PipeError::Closed`] | [`PipeError::Closed`], at once; what was not read is dropped |
//!
//! The first of these decides; only the last one also comes after the others, for reading. Each wakes everyone who waits,
//! at both ends. No message comes behind the end: one that a writer's call has accepted is read, or dropped with the reading end.
//!
//! # Waiting without a thread
//!
//! Each end has a descriptor, made when it is first asked for: that of a [`Reader`] is to be polled for reading, that of
//! a [`Writer`] for writing. They are level-triggered, and true whenever no call is under way: ready exactly as long as
//! the next [`try_read`](Reader::try_read) or [`try_write`](Writer::try_write) would not be told to wait, so also at the
//! end. And each end has a function that is called when it becomes ready.
//!
//! # Where everything of Netsys_polypipe is
//!
//! For those who come from OCamlnet.
//!
//! | there | here |
//! |---|---|
//! | `create` | [`pipe`] |
//! | `read ~nonblock`, `write ~nonblock` | [`Reader::read`], [`Reader::try_read`], [`Writer::write`], [`Writer::try_write`]; both ends are types, so `EACCES` does not occur |
//! | `write None` | [`Writer::finish`] |
//! | `length`, `eof` | [`Reader::len`], [`Reader::has_ended`], and of writers |
//! | `set_exception`, `get_exception` | [`Writer::close_because`], [`Writer::reason`], and of readers |
//! | `close` | [`Writer::close`], [`Reader::close`] |
//! | `set_read_notify`, `set_write_notify` | [`Reader::set_notify`], [`Writer::set_notify`] |
//! | `read_descr`, `write_descr` | [`Reader::descriptor`], [`Writer::descriptor`], which close themselves |
//! | `EINTR` | left out, because signals interrupt nothing here |
//!
//! This module does not connect processes: what a forked child has is a copy of the pipe, for which nobody writes or reads,
//! and which does not touch the descriptors of its parent. And it does not keep messages for anybody else than its readers.
//!
//! Source: OCamlnet's `Netsys_polypipe`, of which only one reader and one writer could wait, and only some ends of a pipe
//! woke them.

mod bell;
mod patience;
mod ring;
mod side;

#[cfg(all(test, loom))]
mod models;

use std::error::Error;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(super) use bell::{Bell, Pair};
use patience::{Linger, Patience};
use ring::{Clearing, Nothing, Refused, Ring};
use side::Notify;
pub(super) use side::Side;

use super::BoxError;
use crate::sync::{AtomicBool, AtomicUsize, Mutex, Ordering, lock};

/// Makes a pipe with room for `capacity` messages.
///
/// ```
/// use manycore_backends::transport::polypipe::pipe;
///
/// let (writer, reader) = pipe(4)?;
/// let thread = std::thread::spawn(move || {
///     for number in 0..100 {
///         writer.write(number, None).unwrap();
///     }
/// });
/// let mut sum = 0;
/// while let Some(number) = reader.read(None)? {
///     sum += number;
/// }
/// assert_eq!(sum, 4950);
/// # thread.join().unwrap();
/// # Ok::<(), manycore_backends::transport::polypipe::PipeError>(())
/// ```
///
/// # Errors
/// [`PipeError::Capacity`] if it is 0, or more than there is memory for.
#[doc(alias("Netsys_polypipe", "create", "channel"))]
pub fn pipe<T: Send>(capacity: usize) -> Result<(Writer<T>, Reader<T>), PipeError> {
    let pipe = Arc::new(Pipe {
        ring: Ring::new(capacity).ok_or(PipeError::Capacity(capacity))?,
        readable: Side::new(),
        writable: Side::new(),
        fate: Mutex::new(None),
        reader_closed: AtomicBool::new(false),
        reader_descriptor: Mutex::new(None),
        writer_descriptor: Mutex::new(None),
        writers: AtomicUsize::new(1),
        readers: AtomicUsize::new(1),
        writing: Linger::new(),
        reading: Linger::new(),
    });
    Ok((Writer { pipe: Arc::clone(&pipe) }, Reader { pipe }))
}

/// Why a pipe has ended, in the words of who has ended it.
pub type Reason = Arc<dyn Error + Send + Sync>;

/// What both ends share.
struct Pipe<T> {
    ring: Ring<T>,
    /// Those who wait for messages or the end.
    readable: Side,
    /// Those who wait for room or the end.
    writable: Side,
    /// How it has ended; set and the ring marked under one lock, so that it has ended for whoever comes second.
    fate: Mutex<Option<Fate>>,
    reader_closed: AtomicBool,
    /// Those that were asked for.
    reader_descriptor: Mutex<Option<Descriptor>>,
    writer_descriptor: Mutex<Option<Descriptor>>,
    writers: AtomicUsize,
    readers: AtomicUsize,
    /// How long writers and readers look away from a pipe that is not ready.
    writing: Linger,
    reading: Linger,
}

#[derive(Clone)]
enum Fate {
    Finished,
    Closed,
    Because(Reason),
}

impl<T> Pipe<T> {
    fn is_readable(&self) -> bool {
        self.ring.is_readable()
    }

    fn is_writable(&self) -> bool {
        self.ring.is_writable()
    }

    #[inline]
    fn try_write(&self, message: T) -> Result<(), WriteError<T>> {
        match self.ring.push(message) {
            Ok(()) => {
                let readable = self.readable.became(|| self.is_readable());
                let writable = self.writable.ceased(|| self.ring.has_room(), || self.is_writable());
                call(readable, writable);
                Ok(())
            }
            Err((message, Refused::Full)) => Err(WriteError { error: PipeError::WouldBlock, message }),
            Err((message, Refused::Marked)) => Err(WriteError { error: self.write_fate(), message }),
        }
    }

    #[inline]
    fn try_read(&self) -> Result<Option<T>, PipeError> {
        match self.ring.pop() {
            Ok(message) => {
                let writable = self.writable.became(|| self.is_writable());
                let readable = self.readable.ceased(|| self.ring.has_next(), || self.is_readable());
                call(writable, readable);
                Ok(Some(message))
            }
            Err(Nothing::Empty) => Err(PipeError::WouldBlock),
            Err(Nothing::End) => self.read_fate(),
        }
    }

    #[cold]
    fn write_fate(&self) -> PipeError {
        match &*lock(&self.fate) {
            Some(Fate::Finished) => PipeError::Finished,
            Some(Fate::Because(reason)) => PipeError::Because(Arc::clone(reason)),
            Some(Fate::Closed) | None => PipeError::Closed,
        }
    }

    #[cold]
    fn read_fate(&self) -> Result<Option<T>, PipeError> {
        match &*lock(&self.fate) {
            _ if self.reader_closed.load(Ordering::Acquire) => Err(PipeError::Closed),
            Some(Fate::Because(reason)) => Err(PipeError::Because(Arc::clone(reason))),
            Some(Fate::Finished | Fate::Closed) | None => Ok(None),
        }
    }

    /// Ends the pipe, if it has not ended, and tells everyone.
    fn end(&self, fate: Fate) -> bool {
        let first = {
            let mut decided = lock(&self.fate);
            let first = decided.is_none();
            if first {
                *decided = Some(fate);
                self.ring.mark();
            }
            first
        };
        if first {
            let readable = self.readable.ended(|| self.is_readable());
            let writable = self.writable.ended(|| self.is_writable());
            call(readable, writable);
        }
        first
    }

    fn close_reader(&self) {
        self.reader_closed.store(true, Ordering::Release);
        // Nobody reads them any more, and no more come once the ring is marked. Not left to who was first: it is empty for
        // whoever has closed it.
        let _clearing = Clearing(&self.ring);
        self.end(Fate::Closed);
    }

    fn reason(&self) -> Option<Reason> {
        match &*lock(&self.fate) {
            Some(Fate::Because(reason)) => Some(Arc::clone(reason)),
            _ => None,
        }
    }
}

/// Calls the functions, if there are any, the second one also if the first one panics. There is no lock, and all is told:
/// they are the user's, and may use the pipe.
#[inline]
pub(super) fn call(first: Option<Notify>, second: Option<Notify>) {
    if first.is_some() || second.is_some() {
        call_some(first, second);
    }
}

#[cold]
fn call_some(first: Option<Notify>, second: Option<Notify>) {
    let result = first.map_or(Ok(()), |first| catch_unwind(AssertUnwindSafe(|| first())));
    if let Some(second) = second {
        second();
    }
    if let Err(panic) = result {
        resume_unwind(panic);
    }
}

/// The end that is written to. Clones are the same end; it is closed when the last one is dropped.
pub struct Writer<T: Send> {
    pipe: Arc<Pipe<T>>,
}

/// The end that is read from. Clones are the same end, and each message goes to one of them; it is closed when the last
/// one is dropped.
pub struct Reader<T: Send> {
    pipe: Arc<Pipe<T>>,
}

impl<T: Send> Writer<T> {
    /// Writes the message, waiting for room at most for `timeout`: `None` is for ever, zero not at all.
    ///
    /// # Errors
    /// The message comes back with [`PipeError::TimedOut`] if there was no room in time, and with
    /// [`PipeError::Finished`], [`PipeError::Closed`] or [`PipeError::Because`] if the pipe has ended, also while this
    /// waits.
    #[inline]
    pub fn write(&self, message: T, timeout: Option<Duration>) -> Result<(), WriteError<T>> {
        match self.pipe.try_write(message) {
            Err(WriteError { error: PipeError::WouldBlock, message }) => self.wait_to_write(message, timeout),
            result => result,
        }
    }

    #[cold]
    fn wait_to_write(&self, mut message: T, timeout: Option<Duration>) -> Result<(), WriteError<T>> {
        let deadline = deadline_after(timeout);
        let mut patience = Patience::new(timeout, Some(&self.pipe.writing));
        loop {
            match self.pipe.try_write(message) {
                Err(WriteError { error: PipeError::WouldBlock, message: back }) => message = back,
                result => {
                    patience.ends(self.capacity(), || self.pipe.ring.room());
                    return result;
                }
            }
            if patience.is_over() {
                let ready = self.pipe.writable.sleep(deadline, || self.pipe.is_writable());
                if !ready && is_past(deadline) {
                    return Err(WriteError { error: PipeError::TimedOut, message });
                }
            }
        }
    }

    /// Writes the message if there is room.
    ///
    /// # Errors
    /// The message comes back with [`PipeError::WouldBlock`] if the pipe is full, and with [`PipeError::Finished`],
    /// [`PipeError::Closed`] or [`PipeError::Because`] if it has ended.
    #[inline]
    pub fn try_write(&self, message: T) -> Result<(), WriteError<T>> {
        self.pipe.try_write(message)
    }

    /// Says that nothing more will come: readers get what is there, and then `None`. Does not wait, also if the pipe is
    /// full. A pipe that has ended before stays as it is.
    #[doc(alias = "eof")]
    pub fn finish(&self) {
        self.pipe.end(Fate::Finished);
    }

    /// Closes the end for all its clones: readers get what is there, and then `None`.
    pub fn close(&self) {
        self.pipe.end(Fate::Closed);
    }

    /// Ends the pipe with a reason: readers get what is there, and then the reason; writers get it at once. Returns
    /// whether it had not ended before.
    #[doc(alias = "set_exception")]
    pub fn close_because(&self, reason: impl Into<BoxError>) -> bool {
        self.pipe.end(Fate::Because(Reason::from(reason.into())))
    }

    /// Has `notify` called whenever the pipe becomes writable: there is room again, or it has ended. The thread that has
    /// made it so calls it, without a lock; another one that has just found the contrary may do so in its place. It is not
    /// called for what is so already: look after setting it. `None` takes it away, but for a thread that is on the way to
    /// calling it.
    ///
    /// If the function panics, so does what has called it, after everyone was told; a message that was just read is
    /// dropped. A function that owns an end of the pipe keeps that end open until it is taken away.
    #[doc(alias = "set_write_notify")]
    pub fn set_notify(&self, notify: Option<Box<dyn Fn() + Send + Sync>>) {
        let notify = notify.map(Arc::from);
        self.pipe.writable.set_notify(notify, || self.pipe.is_writable());
    }

    /// A descriptor to be polled for writing: it is ready as long as a write would not have to wait. Always the same; it
    /// is open as long as the pipe is there, and made by the first call.
    ///
    /// # Errors
    /// [`PipeError::Io`] if the system has no descriptor left for it.
    #[doc(alias = "write_descr")]
    pub fn descriptor(&self) -> Result<Descriptor, PipeError> {
        let mut made = lock(&self.pipe.writer_descriptor);
        if let Some(descriptor) = &*made {
            return Ok(descriptor.clone());
        }
        let (bell, fd) = Bell::writable().map_err(io_error)?;
        let notify = self.pipe.writable.add_bell(bell, || self.pipe.is_writable());
        let descriptor = made.insert(Descriptor(fd)).clone();
        drop(made);
        call(notify, None);
        Ok(descriptor)
    }

    /// What a write would be told, if the pipe has ended.
    pub(super) fn error(&self) -> Option<PipeError> {
        self.pipe.ring.is_marked().then(|| self.pipe.write_fate())
    }

    pub(super) fn add_bell(&self, bell: Bell) {
        call(self.pipe.writable.add_bell(bell, || self.pipe.is_writable()), None);
    }
}

impl<T: Send> Reader<T> {
    /// Reads a message, waiting for it at most for `timeout`: `None` is for ever, zero not at all. `None` is the end:
    /// nothing more will come.
    ///
    /// # Errors
    /// [`PipeError::TimedOut`] if there was none in time; [`PipeError::Because`] if the pipe was ended with a reason and
    /// all before it was read; [`PipeError::Closed`] if this end is closed, also while this waits.
    #[inline]
    pub fn read(&self, timeout: Option<Duration>) -> Result<Option<T>, PipeError> {
        match self.pipe.try_read() {
            Err(PipeError::WouldBlock) => self.attend_and_read(timeout),
            result => result,
        }
    }

    #[cold]
    fn attend_and_read(&self, timeout: Option<Duration>) -> Result<Option<T>, PipeError> {
        let attending = self.pipe.readable.attend();
        let result = self.wait_to_read(timeout);
        if attending {
            call(self.pipe.readable.leave(|| self.pipe.is_readable()), None);
        }
        result
    }

    fn wait_to_read(&self, timeout: Option<Duration>) -> Result<Option<T>, PipeError> {
        let deadline = deadline_after(timeout);
        // Who polls the descriptor sleeps as soon as the pipe is empty, so nobody waits here for it to fill.
        let linger = (!self.pipe.readable.is_watched()).then_some(&self.pipe.reading);
        let mut patience = Patience::new(timeout, linger);
        loop {
            match self.pipe.try_read() {
                Err(PipeError::WouldBlock) => {}
                result => {
                    patience.ends(self.capacity(), || self.pipe.ring.left());
                    return result;
                }
            }
            if patience.is_over() {
                let ready = self.pipe.readable.sleep(deadline, || self.pipe.is_readable());
                if !ready && is_past(deadline) {
                    return Err(PipeError::TimedOut);
                }
            }
        }
    }

    /// Reads a message if there is one. `None` is the end: nothing more will come.
    ///
    /// # Errors
    /// [`PipeError::WouldBlock`] if there is none yet; else as [`read`](Reader::read).
    #[inline]
    pub fn try_read(&self) -> Result<Option<T>, PipeError> {
        self.pipe.try_read()
    }

    /// Closes the end for all its clones: what was not read is dropped, and writers are told.
    pub fn close(&self) {
        self.pipe.close_reader();
    }

    /// Ends the pipe with a reason, for writers at once; readers get what is there before. Returns whether it had not
    /// ended before.
    #[doc(alias = "set_exception")]
    pub fn close_because(&self, reason: impl Into<BoxError>) -> bool {
        self.pipe.end(Fate::Because(Reason::from(reason.into())))
    }

    /// Has `notify` called whenever the pipe becomes readable: there is a message again, or it has ended. The thread that has
    /// made it so calls it, without a lock; another one that has just found the contrary may do so in its place. It is not
    /// called for what is so already: look after setting it. `None` takes it away, but for a thread that is on the way to
    /// calling it.
    ///
    /// If the function panics, so does what has called it, after everyone was told; a message that was just read is
    /// dropped. A function that owns an end of the pipe keeps that end open until it is taken away.
    #[doc(alias = "set_read_notify")]
    pub fn set_notify(&self, notify: Option<Box<dyn Fn() + Send + Sync>>) {
        let notify = notify.map(Arc::from);
        self.pipe.readable.set_notify(notify, || self.pipe.is_readable());
    }

    /// A descriptor to be polled for reading: it is ready as long as a read would not have to wait. Always the same; it
    /// is open as long as the pipe is there, and made by the first call.
    ///
    /// # Errors
    /// [`PipeError::Io`] if the system has no descriptor left for it.
    #[doc(alias = "read_descr")]
    pub fn descriptor(&self) -> Result<Descriptor, PipeError> {
        let mut made = lock(&self.pipe.reader_descriptor);
        if let Some(descriptor) = &*made {
            return Ok(descriptor.clone());
        }
        let (bell, fd) = Bell::readable().map_err(io_error)?;
        let notify = self.pipe.readable.add_bell(bell, || self.pipe.is_readable());
        let descriptor = made.insert(Descriptor(fd)).clone();
        drop(made);
        call(notify, None);
        Ok(descriptor)
    }

    pub(super) fn add_bell(&self, bell: Bell) {
        call(self.pipe.readable.add_bell(bell, || self.pipe.is_readable()), None);
    }
}

/// What both ends know.
macro_rules! both_ends {
    ($end:ident, $count:ident, $close:expr) => {
        impl<T: Send> $end<T> {
            /// How many messages are in the pipe.
            #[doc(alias = "length")]
            pub fn len(&self) -> usize {
                self.pipe.ring.len()
            }

            /// Whether no message is in the pipe.
            pub fn is_empty(&self) -> bool {
                self.len() == 0
            }

            /// How many messages it has room for.
            pub fn capacity(&self) -> usize {
                self.pipe.ring.capacity()
            }

            /// Whether the pipe has ended, in any way. There may still be messages to be read.
            #[doc(alias = "eof")]
            pub fn has_ended(&self) -> bool {
                self.pipe.ring.is_marked()
            }

            /// The reason that the pipe was ended with, if there is one.
            #[doc(alias = "get_exception")]
            pub fn reason(&self) -> Option<Reason> {
                self.pipe.reason()
            }
        }

        impl<T: Send> Clone for $end<T> {
            fn clone(&self) -> Self {
                self.pipe.$count.fetch_add(1, Ordering::Relaxed);
                $end { pipe: Arc::clone(&self.pipe) }
            }
        }

        impl<T: Send> Drop for $end<T> {
            fn drop(&mut self) {
                if self.pipe.$count.fetch_sub(1, Ordering::AcqRel) == 1 {
                    $close(&*self.pipe);
                }
            }
        }

        impl<T: Send> fmt::Debug for $end<T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($end))
                    .field("length", &self.len())
                    .field("capacity", &self.capacity())
                    .field("ended", &self.has_ended())
                    .finish()
            }
        }
    };
}

both_ends!(Writer, writers, |pipe: &Pipe<T>| {
    pipe.end(Fate::Closed);
});
both_ends!(Reader, readers, |pipe: &Pipe<T>| pipe.close_reader());

/// A descriptor that says whether an end of a pipe is ready. For polling only: whoever reads or writes it makes it lie.
#[derive(Clone, Debug)]
pub struct Descriptor(Arc<OwnedFd>);

impl Descriptor {
    pub(super) fn new(fd: Arc<OwnedFd>) -> Descriptor {
        Descriptor(fd)
    }
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Why something could not be written or read.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PipeError {
    /// There is no room, or no message, now.
    #[doc(alias = "EAGAIN")]
    #[error("the pipe is not ready: it would have to be waited for")]
    WouldBlock,
    /// The time was over; try again.
    #[error("timed out")]
    TimedOut,
    /// A writer has said that nothing more will come.
    #[doc(alias = "EPIPE")]
    #[error("the pipe is finished: nothing is written behind the end of file")]
    Finished,
    /// One of the ends is closed.
    #[error("the pipe is closed")]
    Closed,
    /// One of the ends was closed with this reason.
    #[error("the pipe was closed: {0}")]
    Because(#[source] Reason),
    /// A pipe has room for one message at least.
    #[error("a pipe cannot have room for {0} messages")]
    Capacity(usize),
    /// A system call failed.
    #[error("{op} failed: {source}")]
    Io {
        /// The system call.
        op: &'static str,
        /// The error, with its errno.
        #[source]
        source: Arc<io::Error>,
    },
}

/// A message that was not written, and why.
#[derive(Clone, thiserror::Error)]
#[error("{error}")]
pub struct WriteError<T> {
    /// Why.
    #[source]
    pub error: PipeError,
    /// The message.
    pub message: T,
}

impl<T> fmt::Debug for WriteError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteError").field("error", &self.error).finish_non_exhaustive()
    }
}

/// `None` is for ever, and so is a time that the clock cannot reach.
pub(super) fn deadline_after(timeout: Option<Duration>) -> Option<Instant> {
    timeout.and_then(|timeout| Instant::now().checked_add(timeout))
}

pub(super) fn is_past(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| Instant::now() >= deadline)
}

fn io_error(source: io::Error) -> PipeError {
    PipeError::Io { op: "eventfd", source: Arc::new(source) }
}
