//! Sockets within one process: messages are moved between threads, not encoded, and everything that a socket can tell by
//! a descriptor this one can, too.
//!
//! | | is | made by |
//! |---|---|---|
//! | [`PolyEnd`] | one end of a connection: two [pipes](super::polypipe) | [`Client::endpoint`], [`Server::accept`], [`Transport::pair`] |
//! | [`Server`] | where connections are asked for | [`Server::new`] |
//! | [`Client`] | who asks for one | [`Client::new`] |
//!
//! # What a client may do
//!
//! | | unconnected | requesting | connected | refused | closed |
//! |---|---|---|---|---|---|
//! | [`connect`](Client::connect) | asks, at once | [`InProgress`] | [`Connected`] | [`Refused`] | [`Closed`] |
//! | [`endpoint`](Client::endpoint) | [`NotConnected`] | see below | the same as before | [`Refused`] | [`Closed`] |
//! | [`set_notify`](Client::set_notify) | [`NotConnected`] | is called at the answer | nothing | nothing | [`Closed`] |
//! | [`descriptor`](Client::descriptor) | [`NotConnected`] | readable at the answer | [`Connected`] | [`Refused`] | [`Closed`] |
//! | [`close`](Client::close) | closed | closed; the server does not see the request any more | closed, and both ends with it | nothing | nothing |
//!
//! [`InProgress`]: PolysocketError::InProgress
//! [`Connected`]: PolysocketError::Connected
//! [`Refused`]: PolysocketError::Refused
//! [`NotConnected`]: PolysocketError::NotConnected
//! [`Closed`]: PolysocketError::Closed
//!
//! A client is requesting from [`connect`](Client::connect) until it has asked for its
//! [`endpoint`](Client::endpoint) and got an answer:
//!
//! | the server | [synchronous](Mode::Synchronous) | [asynchronous](Mode::Asynchronous) |
//! |---|---|---|
//! | has accepted | connected | connected |
//! | has not looked yet | waits | connected at once: what is written waits in the pipe |
//! | refuses, and has not looked yet | [`Refused`]; the client goes on requesting, and may ask again | the same |
//! | has refused, or was closed | [`Refused`], for good | the same |
//!
//! If the server refuses, or is closed, after an asynchronous client has its end, writing and reading there is
//! [`PipeError::Because`] of [`Refused`].
//!
//! There are no threads, no descriptors that nobody asked for, and no limit of waiting requests. All methods may be called
//! by several threads.
//!
//! # Where everything of Netsys_polysocket is
//!
//! For those who come from OCamlnet.
//!
//! | there | here |
//! |---|---|
//! | `polyendpoint` | [`PolyEnd`]: a [`writer`](PolyEnd::writer) and a [`reader`](PolyEnd::reader) |
//! | `polyclient`, `create_client` | [`Client`], [`Client::new`] |
//! | `connect`, `close_client` | [`Client::connect`], [`Client::close`] |
//! | `endpoint ~synchronous ~nonblock` | [`Client::endpoint`] with a [`Mode`] and a time limit; zero does not block |
//! | `set_connect_notify`, `connect_descr` | [`Client::set_notify`], [`Client::descriptor`] |
//! | `polyserver`, `create_server`, `close_server` | [`Server`], [`Server::new`], [`Server::close`] |
//! | `accept ~nonblock` | [`Server::accept`], [`Server::try_accept`] |
//! | `refuse`, `pending_connection` | [`Server::refuse`], [`Server::is_pending`] |
//! | `set_accept_notify`, `accept_descr` | [`Server::set_notify`], [`Server::descriptor`] |
//! | `EALREADY`, `EISCONN`, `ENOTCONN`, `ECONNREFUSED`, `EAGAIN` | [`PolysocketError`]: [`InProgress`], [`Connected`], [`NotConnected`], [`Refused`], [`WouldBlock`](PolysocketError::WouldBlock) |
//! | `Netsys_polypipe.Closed` | [`PolysocketError::Closed`], [`PipeError::Closed`] |
//!
//! This module does not connect processes, and a connection is not made of bytes.
//!
//! Source: OCamlnet's `Netsys_polysocket`. Where that hung or said what is not so (a closed server, a refused asynchronous
//! client, closing what is unconnected), its documentation holds here.

mod client;
mod end;
#[cfg(all(test, loom))]
mod models;
mod server;

use std::sync::Arc;
use std::time::Duration;

pub use client::{Client, Mode};
pub use end::PolyEnd;
pub use server::{PolyAddress, Server};

use super::polypipe::{Bell, PipeError, Side, call, pipe};
use super::{Limits, Message, Transport, TransportError};
use crate::sync::{Mutex, lock};

/// In-process links: messages are moved between threads.
#[doc(alias = "Netsys_polysocket")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Polysocket;

impl Transport for Polysocket {
    type End<S: Message, R: Message> = PolyEnd<S, R>;
    type Listener<S: Message, R: Message> = Server<S, R>;
    type Address<S: Message, R: Message> = PolyAddress<S, R>;

    fn pair<S: Message, R: Message>(
        limits: Limits,
    ) -> Result<(PolyEnd<S, R>, PolyEnd<R, S>), TransportError> {
        ends(limits.messages).map_err(|error| server::link_error(error.into()))
    }

    /// # Errors
    /// None.
    fn listen<S: Message, R: Message>(_limits: Limits) -> Result<Server<S, R>, TransportError> {
        Ok(Server::new())
    }

    fn connect<S: Message, R: Message>(
        address: &PolyAddress<R, S>,
        limits: Limits,
        _timeout: Option<Duration>,
    ) -> Result<PolyEnd<S, R>, TransportError> {
        let desk = address.desk().ok_or(TransportError::Refused)?;
        let client = Client::new(limits.messages).map_err(server::link_error)?;
        client.ask(&desk).map_err(server::link_error)?;
        client.endpoint(Mode::Asynchronous, None).map_err(server::link_error)
    }
}

/// Why something could not be done with a client or a server.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolysocketError {
    /// The client has asked for a connection already, and waits for the answer.
    #[doc(alias = "EALREADY")]
    #[error("the client has asked for a connection already")]
    InProgress,
    /// The client has a connection.
    #[doc(alias = "EISCONN")]
    #[error("the client is connected already")]
    Connected,
    /// The client has not asked for a connection.
    #[doc(alias = "ENOTCONN")]
    #[error("the client has not asked for a connection")]
    NotConnected,
    /// The server does not accept connections now, or is closed: make another client, and try later.
    #[doc(alias = "ECONNREFUSED")]
    #[error("the server refuses connections")]
    Refused,
    /// There is no answer, or no request, now.
    #[doc(alias = "EAGAIN")]
    #[error("it would have to be waited for")]
    WouldBlock,
    /// The time was over; try again.
    #[error("timed out")]
    TimedOut,
    /// The client, or the server, is closed.
    #[error("closed")]
    Closed,
    /// A pipe could not be made, or its descriptor.
    #[error(transparent)]
    Pipe(#[from] PipeError),
}

/// What a client has asked for, and the answer.
struct Request<S: Message, R: Message> {
    client: PolyEnd<S, R>,
    /// The server's end, until there is an answer.
    server: Mutex<Option<PolyEnd<R, S>>>,
    answer: Mutex<Answer>,
    /// Those who wait for the answer.
    answered: Side,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    None,
    Accepted,
    Refused,
    /// The client does not want it any more.
    Withdrawn,
}

impl<S: Message, R: Message> Request<S, R> {
    fn answer(&self) -> Answer {
        *lock(&self.answer)
    }

    fn is_answered(&self) -> bool {
        self.answer() != Answer::None
    }

    /// Gives the answer, if there is none yet; then the server's end comes back. Calls functions of the caller's: not
    /// to be called under a lock.
    fn decide(&self, answer: Answer) -> Option<PolyEnd<R, S>> {
        {
            let mut decided = lock(&self.answer);
            if *decided != Answer::None {
                return None;
            }
            *decided = answer;
        }
        if answer == Answer::Refused {
            self.client.close_because(PolysocketError::Refused);
        }
        let end = lock(&self.server).take();
        call(self.answered.ended(|| self.is_answered()), None);
        end
    }
}

/// Two connected ends, with room for so many messages in each direction.
#[allow(clippy::type_complexity, reason = "as that of `Transport::pair`")]
fn ends<S: Message, R: Message>(capacity: usize) -> Result<(PolyEnd<S, R>, PolyEnd<R, S>), PipeError> {
    let (to_server, from_client) = pipe(capacity)?;
    let (to_client, from_server) = pipe(capacity)?;
    Ok((PolyEnd::new(to_server, from_server), PolyEnd::new(to_client, from_client)))
}

/// A descriptor that is readable as long as a side is ready, made when it is first asked for.
fn descriptor(
    made: &Mutex<Option<super::polypipe::Descriptor>>,
    side: &Side,
    is_ready: impl Fn() -> bool,
) -> Result<super::polypipe::Descriptor, PolysocketError> {
    let mut made = lock(made);
    if let Some(descriptor) = &*made {
        return Ok(descriptor.clone());
    }
    let (bell, fd) =
        Bell::readable().map_err(|source| PipeError::Io { op: "eventfd", source: Arc::new(source) })?;
    let notify = side.add_bell(bell, is_ready);
    let descriptor = made.insert(super::polypipe::Descriptor::new(fd)).clone();
    drop(made);
    call(notify, None);
    Ok(descriptor)
}
