//! Ordered messages between two ends: the contract [`Transport`] and its mechanisms.
//!
//! | mechanism | between | a message is |
//! |---|---|---|
//! | [`Socket`] | processes (also threads) | encoded, in a [frame] with its length in front |
//! | [`Ring`] | processes (also threads) | encoded, in shared memory if it is small, else as with [`Socket`] |
//! | [`Polysocket`] | threads of one process | moved |
//!
//! What a message means, and how it is written as bytes, is the caller's: see [`Message`].
//!
//! # The contract
//!
//! [`Transport::pair`] gives two connected [`Endpoint`]s; what one sends, the other receives.
//!
//! 1. **Ordered and whole.** Messages arrive in the order in which they were accepted, each once, none in
//!    parts.
//! 2. **Accepted means on its way.** A message that a send accepted reaches the peer unless the peer or the
//!    sender is gone first. After a non-blocking send a part of it may wait in the endpoint;
//!    [`Endpoint::is_flushed`] says so, and [`Endpoint::flush`] and any later send push it on. Dropping the
//!    endpoint drops that part.
//! 3. **Back-pressure.** A peer that does not receive makes sends block (or report
//!    [`TrySendError::Full`], with the message given back) after a bounded number of bytes or messages.
//! 4. **Limits come first.** A message over [`Limits::message_bytes`] is refused by the sender with
//!    [`TransportError::TooBig`] before anything is written, and the link stays usable; a frame that
//!    announces more is [`TransportError::TooBig`] at the receiver before anything is allocated, and the
//!    link is dead from then on ([`TransportError::Broken`]): what follows cannot be told apart.
//! 5. **End of file.** When the peer is gone (dropped, its process killed), what it had sent whole is still
//!    received; after that [`TransportError::Closed`], for ever. A frame cut in the middle is
//!    [`TransportError::Closed`] too. Sending to a gone peer is [`TransportError::Closed`], never SIGPIPE.
//! 6. **Pollable.** The descriptor of an endpoint is readable, level-triggered, whenever
//!    [`Endpoint::try_receive`] would return something else than `Ok(None)` and no complete message is held
//!    inside; an endpoint never holds a complete message back: [`Endpoint::try_receive`] must be called until it
//!    returns `Ok(None)` before the descriptor is polled. It is writable when a flush may make progress.
//! 7. **Timeouts.** `None` waits for ever, zero tries once. [`TransportError::TimedOut`] loses nothing: a
//!    partly received message stays in the endpoint, a message not accepted is not sent in parts.
//! 8. **Private descriptors.** Every descriptor is close-on-exec from its creation on.
//! 9. **A message that cannot be encoded or decoded** is [`TransportError::Encode`] or
//!    [`TransportError::Decode`]; the link stays usable, the next message is a new one.
//!
//! 10. **Listening.** [`Transport::listen`] gives a [`Listener`], [`Transport::connect`] an end for its address. Each
//!     connection is accepted once, in the order of asking. Connecting does not wait to be accepted; what is sent before
//!     arrives after. Only processes of the same user (and the superuser) can connect.
//! 11. **Nobody listens.** Connecting to an address whose listener is gone is [`TransportError::Refused`]; who was waiting
//!     to be accepted then has a gone peer (law 5). What was accepted is not touched. Nothing of a listener is left behind.
//! 12. **Half closed.** After [`Endpoint::finish`] the peer receives what was sent, and then
//!     [`TransportError::Closed`]; what it sends is still received here.
//! 13. **Descriptors.** Those that a message [has](Message::detach) arrive with it, and in their order. Where messages
//!     are moved they are moved; where they are encoded the peer gets duplicates, close-on-exec, and the message's own are
//!     closed when it was sent. More than 253 are [`TransportError::TooManyDescriptors`] there, and nothing is sent.
//!
//! This module does not reconnect, route or retry, and knows no names of peers.

pub mod frame;
pub mod polypipe;
pub mod polysocket;
mod ring;
mod socket;

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

pub use polysocket::{PolyEnd, Polysocket};
pub use ring::{Ring, RingEnd, RingListener};
pub use socket::{Peer, Socket, SocketAddress, SocketEnd, SocketListener};

/// Something that can travel: the caller says how it becomes bytes. In-process transports move the value
/// and call none of the functions.
///
/// Two are enough. A message that is bytes should also lend and keep them: then large ones are not copied.
///
/// ```
/// use manycore_backends::transport::{BoxError, Message};
///
/// struct Block(Vec<u8>);
///
/// impl Message for Block {
///     fn encode(&self, out: &mut Vec<u8>) -> Result<(), BoxError> {
///         out.extend_from_slice(&self.0);
///         Ok(())
///     }
///     fn decode(bytes: &[u8]) -> Result<Block, BoxError> {
///         Ok(Block(bytes.to_vec()))
///     }
///     fn as_bytes(&self) -> Option<&[u8]> {
///         Some(&self.0)
///     }
///     fn decode_owned(bytes: Vec<u8>) -> Result<Block, BoxError> {
///         Ok(Block(bytes))
///     }
/// }
/// ```
pub trait Message: Sized + Send + 'static {
    /// Appends the message to `out`.
    ///
    /// # Errors
    /// Any error; it reaches the sender as [`TransportError::Encode`].
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), BoxError>;

    /// Reads a message from exactly `bytes`, which may be anything a stranger sends: it must not panic,
    /// and must not allocate more than a small multiple of `bytes.len()`.
    ///
    /// # Errors
    /// Any error; it reaches the receiver as [`TransportError::Decode`].
    fn decode(bytes: &[u8]) -> Result<Self, BoxError>;

    /// What [`encode`](Message::encode) appends behind [the head](Message::encode_head), if the message holds it as it is.
    /// A large message is then sent from where it lies, and dropped when all of it is sent, instead of being copied first.
    ///
    /// It must be the same at each call: if its length has changed, the link is [`TransportError::Broken`].
    fn as_bytes(&self) -> Option<&[u8]> {
        None
    }

    /// Appends to `out` what comes before [the bytes](Message::as_bytes) that the message holds as they are: nothing, if
    /// they are all of it.
    ///
    /// # Errors
    /// As [`encode`](Message::encode).
    fn encode_head(&self, out: &mut Vec<u8>) -> Result<(), BoxError> {
        let _ = out;
        Ok(())
    }

    /// As [`decode`](Message::decode), of bytes that a message may keep. Of large messages, which arrive in memory of their
    /// own.
    ///
    /// # Errors
    /// As [`decode`](Message::decode).
    fn decode_owned(bytes: Vec<u8>) -> Result<Self, BoxError> {
        Self::decode(&bytes)
    }

    /// Takes the descriptors out of the message that it has beside its bytes: they travel with it (law 13).
    #[doc(alias("SCM_RIGHTS"))]
    fn detach(&mut self) -> Vec<OwnedFd> {
        Vec::new()
    }

    /// Gives a message that was decoded the descriptors that have come with it, in their order, or one that is given back
    /// those that were [taken out](Message::detach); not called if there are none. An error says that they were lost on
    /// the way: there was no room for them in this process (`EMFILE`).
    ///
    /// Without this they are closed.
    fn attach(&mut self, descriptors: io::Result<Vec<OwnedFd>>) {
        drop(descriptors);
    }
}

/// How many descriptors can travel with one message, where messages are encoded: what Linux allows (`SCM_MAX_FD`).
#[doc(alias = "SCM_MAX_FD")]
pub const DESCRIPTORS_MAX: usize = 253;

/// An error of the caller's.
pub type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;

/// Bounds on what a link accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// The largest encoded message, in bytes. Default 64 MiB; at most `u32::MAX` has a meaning. Where messages are moved
    /// they have no size.
    pub message_bytes: usize,
    /// How many messages may be on their way in one direction, where messages are moved. Default 64; at least 1. Where
    /// they are encoded, the system's buffers say.
    pub messages: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { message_bytes: 64 << 20, messages: 64 }
    }
}

impl Limits {
    /// The default limits with another largest message, in bytes.
    pub fn with_message_bytes(message_bytes: usize) -> Limits {
        Limits { message_bytes, ..Limits::default() }
    }

    /// These limits with another number of messages on their way.
    #[must_use]
    pub fn with_messages(self, messages: usize) -> Limits {
        Limits { messages, ..self }
    }
}

/// A way to connect two parties. The laws are on the [module page](self).
#[doc(alias("socketpair", "polysocket"))]
pub trait Transport: fmt::Debug + Send + Sync + 'static {
    /// One end, which sends `S` and receives `R`.
    type End<S: Message, R: Message>: Endpoint<S, R>;
    /// Where connections are asked for; each accepted end sends `S` and receives `R`.
    type Listener<S: Message, R: Message>: Listener<S, R, End = Self::End<S, R>, Address = Self::Address<S, R>>;
    /// Where such a listener is found.
    type Address<S: Message, R: Message>: Clone + fmt::Debug + Send + Sync + 'static;

    /// Makes two connected ends.
    ///
    /// # Errors
    /// [`TransportError::Io`] if the system has no descriptors or memory left.
    #[allow(clippy::type_complexity)]
    fn pair<S: Message, R: Message>(
        limits: Limits,
    ) -> Result<(Self::End<S, R>, Self::End<R, S>), TransportError>;

    /// Begins to listen at a fresh address, which nobody knows and other users cannot use.
    ///
    /// # Errors
    /// [`TransportError::Io`] if the system refuses.
    fn listen<S: Message, R: Message>(limits: Limits) -> Result<Self::Listener<S, R>, TransportError>;

    /// Connects to the listener at the address, whose ends send what this one receives. Waits at most `timeout` for a
    /// place among those who wait to be accepted; what is sent before that waits, too (law 10).
    ///
    /// # Errors
    /// [`TransportError::Refused`] if nobody listens there; [`TransportError::TimedOut`];
    /// [`TransportError::Io`] if the system refuses.
    fn connect<S: Message, R: Message>(
        address: &Self::Address<R, S>,
        limits: Limits,
        timeout: Option<Duration>,
    ) -> Result<Self::End<S, R>, TransportError>;
}

/// Where connections are asked for. It stops to listen when it is dropped.
pub trait Listener<S: Message, R: Message>: AsFd + fmt::Debug + Send + Sync + 'static {
    /// The end of a connection that was accepted.
    type End: Endpoint<S, R>;
    /// Where this is found.
    type Address: Clone + fmt::Debug + Send + Sync + 'static;

    /// Where this is found. An address does not keep anything listening.
    fn address(&self) -> Self::Address;

    /// Accepts the next connection, waiting for one at most `timeout` (law 7).
    ///
    /// # Errors
    /// [`TransportError::TimedOut`]; [`TransportError::Io`] if the system refuses, as for want of descriptors.
    fn accept(&self, timeout: Option<Duration>) -> Result<Self::End, TransportError>;

    /// Accepts the next connection, if there is one.
    ///
    /// # Errors
    /// As [`Listener::accept`], but `Ok(None)` where that would wait.
    fn try_accept(&self) -> Result<Option<Self::End>, TransportError>;

    /// The descriptor that [`AsFd`] gives, as for [`Endpoint::descriptor`]. It is readable as long as
    /// [`try_accept`](Listener::try_accept) would return something else than `Ok(None)`.
    ///
    /// # Errors
    /// [`TransportError::Io`] if the system has none left.
    fn descriptor(&self) -> Result<BorrowedFd<'_>, TransportError>;
}

/// One end of a link. Methods take `&self` and may be called by several threads; each message goes to one
/// of the receivers.
pub trait Endpoint<S: Message, R: Message>: AsFd + fmt::Debug + Send + Sync + 'static {
    /// Sends, waiting at most `timeout` for room. On return the message is out of this endpoint, unless the
    /// time was over in the middle of it: then it is accepted, and the rest is left to flush (law 2).
    ///
    /// # Errors
    /// [`TransportError`]; after `TimedOut` the message was not accepted.
    fn send(&self, message: S, timeout: Option<Duration>) -> Result<(), TransportError>;

    /// Accepts the message if that needs no waiting (law 2: a part may be left to flush).
    ///
    /// # Errors
    /// [`TrySendError::Full`] with the message if there is no room now; else as [`Endpoint::send`].
    fn try_send(&self, message: S) -> Result<(), TrySendError<S>>;

    /// The same for a message that others follow at once: all of it may be left to flush, so that several go out together.
    /// The caller flushes behind the last one. That the peer is gone may be told by that only.
    ///
    /// # Errors
    /// As [`try_send`](Endpoint::try_send).
    #[doc(alias("MSG_MORE", "TCP_CORK"))]
    fn try_send_more(&self, message: S) -> Result<(), TrySendError<S>> {
        self.try_send(message)
    }

    /// Writes what an earlier [`try_send`](Endpoint::try_send) left, as far as that needs no waiting, and
    /// returns whether nothing is left.
    ///
    /// # Errors
    /// [`TransportError::Closed`] if the peer is gone, [`TransportError::Broken`] if the link was given up.
    fn flush(&self) -> Result<bool, TransportError>;

    /// Says that this end sends nothing more (law 12). What was accepted still arrives, also what is left to flush; further
    /// sends are [`TransportError::Finished`]. Receiving goes on.
    ///
    /// # Errors
    /// [`TransportError::Closed`] if the peer is gone, [`TransportError::Broken`] if the link was given up.
    #[doc(alias = "shutdown")]
    fn finish(&self) -> Result<(), TransportError>;

    /// Whether nothing waits to be flushed.
    fn is_flushed(&self) -> bool;

    /// Receives, waiting at most `timeout`.
    ///
    /// # Errors
    /// [`TransportError`]; `Closed` if the peer is gone and everything it sent has been received.
    fn receive(&self, timeout: Option<Duration>) -> Result<R, TransportError>;

    /// Receives if that needs no waiting.
    ///
    /// # Errors
    /// As [`Endpoint::receive`], but `Ok(None)` where that would wait.
    fn try_receive(&self) -> Result<Option<R>, TransportError>;

    /// The descriptor that [`AsFd`] gives. An end that has none until it is asked makes it now, so that `as_fd` cannot
    /// fail from then on.
    ///
    /// # Errors
    /// [`TransportError::Io`] if the system has none left.
    fn descriptor(&self) -> Result<BorrowedFd<'_>, TransportError>;
}

/// Why a message was not sent or not received.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// The peer is gone, or, of receiving, sends nothing more.
    #[error("the other end of the link is gone")]
    Closed,
    /// This end has said that it sends nothing more.
    #[error("this end has finished sending")]
    Finished,
    /// The time was over; try again.
    #[error("timed out")]
    TimedOut,
    /// The message is larger than the link allows: send less, or raise [`Limits::message_bytes`] at both ends.
    #[error("a message of {size} bytes is over the limit of {limit} bytes: send less, or raise the limit")]
    TooBig {
        /// Bytes of the encoded message.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// So many descriptors do not travel with one message: send several messages.
    #[error("{count} descriptors are too many for one message: at most {limit}")]
    TooManyDescriptors {
        /// How many there are.
        count: usize,
        /// How many may be.
        limit: usize,
    },
    /// Nobody listens at the address, or not any more.
    #[error("nobody listens there")]
    Refused,
    /// What connected, or listens, is a process of another user: the connection was dropped.
    #[error("the other end is a process of user {0}, not of this one")]
    Stranger(u32),
    /// The link was given up after a frame over the limit: connect anew.
    #[error("the link is out of step after a frame over the limit: connect anew")]
    Broken,
    /// The message could not be written as bytes.
    #[error("the message cannot be encoded: {0}")]
    Encode(#[source] BoxError),
    /// The bytes received are not a message.
    #[error("the message received cannot be decoded: {0}")]
    Decode(#[source] BoxError),
    /// A system call failed.
    #[error("{op} failed: {source}")]
    Io {
        /// The system call.
        op: &'static str,
        /// The error, with its errno.
        #[source]
        source: io::Error,
    },
}

/// Why [`Endpoint::try_send`] did not accept a message.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrySendError<S> {
    /// There is no room now; here is the message back.
    #[error("the link is full: wait until it is writable")]
    Full(S),
    /// It will not work later either.
    #[error(transparent)]
    Failed(#[from] TransportError),
}
