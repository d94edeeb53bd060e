//! [`PolyEnd`]: one end of a connection, made of the reading end of one pipe and the writing end of another.
//!
//! This module does not know how connections come about.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use super::PolysocketError;
use crate::sync::global::OnceLock;
use crate::transport::polypipe::{Bell, Pair, PipeError, Reader, WriteError, Writer};
use crate::transport::{BoxError, Endpoint, Message, TransportError, TrySendError};

/// One end of a connection within this process, which sends `S` and receives `R`.
///
/// Clones are the same end; it is closed when the last one is dropped. It can be used as an [`Endpoint`] of a transport, or
/// as the two pipes that it is made of.
#[doc(alias = "polyendpoint")]
pub struct PolyEnd<S: Send, R: Send> {
    writer: Writer<S>,
    reader: Reader<R>,
    /// For both directions at once; made when it is first asked for.
    pair: Arc<OnceLock<Arc<Pair>>>,
}

impl<S: Send, R: Send> PolyEnd<S, R> {
    pub(super) fn new(writer: Writer<S>, reader: Reader<R>) -> PolyEnd<S, R> {
        PolyEnd { writer, reader, pair: Arc::default() }
    }

    /// The pipe to the other end.
    pub fn writer(&self) -> &Writer<S> {
        &self.writer
    }

    /// The pipe from the other end.
    pub fn reader(&self) -> &Reader<R> {
        &self.reader
    }

    /// Whether this and the other are the same end of the same connection.
    pub fn is_same(&self, other: &PolyEnd<S, R>) -> bool {
        Arc::ptr_eq(&self.pair, &other.pair)
    }

    /// Closes this end for all its clones: the other one reads what is there, and then the end.
    pub fn close(&self) {
        self.writer.close();
        self.reader.close();
    }

    /// Ends both directions with a reason.
    pub(super) fn close_because(&self, reason: impl Into<BoxError> + Clone) {
        self.writer.close_because(reason.clone());
        self.reader.close_because(reason);
    }

    /// The descriptor for both directions.
    ///
    /// # Errors
    /// [`TransportError::Io`] if the system has no two descriptors left for it.
    fn pair(&self) -> Result<&Arc<Pair>, TransportError> {
        if let Some(pair) = self.pair.get() {
            return Ok(pair);
        }
        let pair = Pair::new().map(Arc::new);
        let pair = pair.map_err(|source| TransportError::Io { op: "socketpair", source })?;
        let mut ours = false;
        let pair = self.pair.get_or_init(|| {
            ours = true;
            pair
        });
        if ours {
            self.reader.add_bell(Bell::PairReadable(Arc::clone(pair)));
            self.writer.add_bell(Bell::PairWritable(Arc::clone(pair)));
        }
        Ok(pair)
    }
}

impl<S: Message, R: Message> Endpoint<S, R> for PolyEnd<S, R> {
    fn send(&self, message: S, timeout: Option<Duration>) -> Result<(), TransportError> {
        self.writer.write(message, timeout).map_err(|refused| link_error(refused.error))
    }

    fn try_send(&self, message: S) -> Result<(), TrySendError<S>> {
        match self.writer.try_write(message) {
            Ok(()) => Ok(()),
            Err(WriteError { error: PipeError::WouldBlock, message }) => Err(TrySendError::Full(message)),
            Err(WriteError { error, .. }) => Err(TrySendError::Failed(link_error(error))),
        }
    }

    fn flush(&self) -> Result<bool, TransportError> {
        // Nothing waits here; whether the peer is there is told as everywhere.
        match self.writer.error() {
            None | Some(PipeError::Finished) => Ok(true),
            Some(error) => Err(link_error(error)),
        }
    }

    fn finish(&self) -> Result<(), TransportError> {
        self.writer.finish();
        Ok(())
    }

    fn is_flushed(&self) -> bool {
        true
    }

    fn receive(&self, timeout: Option<Duration>) -> Result<R, TransportError> {
        self.reader.read(timeout).map_err(link_error)?.ok_or(TransportError::Closed)
    }

    fn try_receive(&self) -> Result<Option<R>, TransportError> {
        match self.reader.try_read() {
            Ok(Some(message)) => Ok(Some(message)),
            Ok(None) => Err(TransportError::Closed),
            Err(PipeError::WouldBlock) => Ok(None),
            Err(error) => Err(link_error(error)),
        }
    }

    fn descriptor(&self) -> Result<BorrowedFd<'_>, TransportError> {
        self.pair().map(|pair| pair.as_fd())
    }
}

/// What has gone wrong, in the words of links.
fn link_error(error: PipeError) -> TransportError {
    match error {
        PipeError::TimedOut | PipeError::WouldBlock => TransportError::TimedOut,
        PipeError::Finished => TransportError::Finished,
        PipeError::Because(reason) if reason.is::<PolysocketError>() => TransportError::Closed,
        PipeError::Because(reason) => {
            TransportError::Io { op: "a connection", source: io::Error::other(reason) }
        }
        _ => TransportError::Closed,
    }
}

impl<S: Send, R: Send> AsFd for PolyEnd<S, R> {
    /// # Panics
    /// If the system has no two descriptors left for it, and [`Endpoint::descriptor`] was not called before, which says
    /// so by an error.
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self.pair() {
            Ok(pair) => pair.as_fd(),
            Err(error) => {
                panic!("an end has no descriptor: {error}; `Endpoint::descriptor` would have told before")
            }
        }
    }
}

impl<S: Send, R: Send> Clone for PolyEnd<S, R> {
    fn clone(&self) -> Self {
        PolyEnd { writer: self.writer.clone(), reader: self.reader.clone(), pair: Arc::clone(&self.pair) }
    }
}

impl<S: Send, R: Send> fmt::Debug for PolyEnd<S, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolyEnd").field("writer", &self.writer).field("reader", &self.reader).finish()
    }
}
