//! [`Server`]: where connections are asked for.
//!
//! This module moves no messages, and does not limit how many clients wait.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::{Answer, Message, PolyEnd, PolysocketError, Request, descriptor};
use crate::sync::global::OnceLock;
use crate::sync::{Mutex, lock};
use crate::transport::polypipe::{Descriptor, Side, call, deadline_after, is_past};
use crate::transport::{Listener, TransportError};

/// Where connections are asked for: each that is accepted is an end that sends `S` and receives `R`.
///
/// Clones are the same server; it is closed when the last one is dropped.
///
/// ```
/// use manycore_backends::transport::polysocket::{Client, Mode, Server};
/// # use manycore_backends::transport::{BoxError, Message};
/// # struct Text(String);
/// # impl Message for Text {
/// #     fn encode(&self, _: &mut Vec<u8>) -> Result<(), BoxError> { unreachable!() }
/// #     fn decode(_: &[u8]) -> Result<Text, BoxError> { unreachable!() }
/// # }
///
/// let server = Server::<Text, Text>::new();
/// let client = Client::<Text, Text>::new(4)?;
/// client.connect(&server)?;
///
/// let near = client.endpoint(Mode::Asynchronous, None)?;
/// near.writer().write(Text("hello".into()), None).unwrap();
/// let far = server.accept(None)?;
/// assert_eq!(far.reader().read(None)?.unwrap().0, "hello");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias("create_server", "polyserver"))]
pub struct Server<S: Message, R: Message> {
    pub(super) desk: Arc<Desk<S, R>>,
    /// The desk's descriptor, to be lent.
    shown: OnceLock<Descriptor>,
    /// Dropped with the last clone.
    _open: Arc<Open<S, R>>,
}

/// Where clients wait. They know it, and do not keep it open.
pub(super) struct Desk<S: Message, R: Message> {
    state: Mutex<State<S, R>>,
    /// Those who wait for a request, or for the end.
    wanted: Side,
    descriptor: Mutex<Option<Descriptor>>,
}

struct State<S: Message, R: Message> {
    /// From the side of the client: it sends what the server receives.
    waiting: VecDeque<Arc<Request<R, S>>>,
    accepting: bool,
    closed: bool,
}

struct Open<S: Message, R: Message>(Arc<Desk<S, R>>);

impl<S: Message, R: Message> Drop for Open<S, R> {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl<S: Message, R: Message> Default for Server<S, R> {
    fn default() -> Server<S, R> {
        Server::new()
    }
}

impl<S: Message, R: Message> Server<S, R> {
    /// A server that accepts connections, of which there are none yet.
    pub fn new() -> Server<S, R> {
        let state = State { waiting: VecDeque::new(), accepting: true, closed: false };
        let desk = Desk { state: Mutex::new(state), wanted: Side::new(), descriptor: Mutex::new(None) };
        let desk = Arc::new(desk);
        Server { _open: Arc::new(Open(Arc::clone(&desk))), shown: OnceLock::new(), desk }
    }

    /// Accepts the next connection that was asked for, waiting for one at most for `timeout`: `None` is for ever, zero not
    /// at all. A server that refuses accepts again from now on, also if there is no request.
    ///
    /// # Errors
    /// [`PolysocketError::TimedOut`] if there was no request in time; [`PolysocketError::Closed`] if the server is closed,
    /// also while this waits.
    pub fn accept(&self, timeout: Option<Duration>) -> Result<PolyEnd<S, R>, PolysocketError> {
        let deadline = deadline_after(timeout);
        loop {
            match self.try_accept() {
                Err(PolysocketError::WouldBlock) => {}
                result => return result,
            }
            let ready = self.desk.wanted.sleep(deadline, || self.desk.is_ready());
            if !ready && is_past(deadline) {
                return Err(PolysocketError::TimedOut);
            }
        }
    }

    /// Accepts the next connection that was asked for, if there is one. A server that refuses accepts again from now on.
    ///
    /// # Errors
    /// [`PolysocketError::WouldBlock`] if there is no request; [`PolysocketError::Closed`] if the server is closed.
    pub fn try_accept(&self) -> Result<PolyEnd<S, R>, PolysocketError> {
        loop {
            let request = {
                let mut state = lock(&self.desk.state);
                if state.closed {
                    return Err(PolysocketError::Closed);
                }
                state.accepting = true;
                state.waiting.pop_front().ok_or(PolysocketError::WouldBlock)?
            };
            call(self.desk.wanted.ceased(|| false, || self.desk.is_ready()), None);
            // Those who do not want it any more are passed over.
            if let Some(end) = request.decide(Answer::Accepted) {
                return Ok(end);
            }
        }
    }

    /// Refuses all connections that were asked for, and those that will be until the next
    /// [`accept`](Server::accept). Returns how many were there.
    pub fn refuse(&self) -> usize {
        let waiting = {
            let mut state = lock(&self.desk.state);
            state.accepting = false;
            std::mem::take(&mut state.waiting)
        };
        call(self.desk.wanted.ceased(|| false, || self.desk.is_ready()), None);
        waiting.iter().filter_map(|request| request.decide(Answer::Refused)).count()
    }

    /// Whether a connection is asked for.
    #[doc(alias = "pending_connection")]
    pub fn is_pending(&self) -> bool {
        lock(&self.desk.state).is_pending()
    }

    /// Has `notify` called whenever a connection is asked for and there was no request before, and when the server is
    /// closed; by the thread that does so, without a lock. `None` takes it away.
    #[doc(alias = "set_accept_notify")]
    pub fn set_notify(&self, notify: Option<Box<dyn Fn() + Send + Sync>>) {
        self.desk.wanted.set_notify(notify.map(Arc::from), || self.desk.is_ready());
    }

    /// A descriptor that is readable as long as a connection is asked for or the server is closed. Always the same, made
    /// by the first call.
    ///
    /// # Errors
    /// [`PolysocketError::Pipe`] if the system has no descriptor left for it.
    #[doc(alias = "accept_descr")]
    pub fn descriptor(&self) -> Result<Descriptor, PolysocketError> {
        descriptor(&self.desk.descriptor, &self.desk.wanted, || self.desk.is_ready())
    }

    /// Closes the server for all its clones. Who waits for an answer is refused; what was accepted stays.
    #[doc(alias = "close_server")]
    pub fn close(&self) {
        self.desk.close();
    }
}

impl<S: Message, R: Message> State<S, R> {
    fn is_pending(&self) -> bool {
        self.waiting.iter().any(|request| !request.is_answered())
    }
}

impl<S: Message, R: Message> Desk<S, R> {
    fn is_ready(&self) -> bool {
        let state = lock(&self.state);
        state.closed || state.is_pending()
    }

    /// Asks for a connection; false if the server is closed.
    pub(super) fn ask(&self, request: Arc<Request<R, S>>) -> bool {
        {
            let mut state = lock(&self.state);
            if state.closed {
                return false;
            }
            state.waiting.push_back(request);
        }
        call(self.wanted.became(|| self.is_ready()), None);
        true
    }

    /// Whether requests that wait are going to be looked at.
    pub(super) fn is_accepting(&self) -> bool {
        lock(&self.state).accepting
    }

    /// A request was withdrawn.
    pub(super) fn forget_withdrawn(&self) {
        lock(&self.state).waiting.retain(|request| request.answer() != Answer::Withdrawn);
        call(self.wanted.ceased(|| false, || self.is_ready()), None);
    }

    fn close(&self) {
        let waiting = {
            let mut state = lock(&self.state);
            state.closed = true;
            std::mem::take(&mut state.waiting)
        };
        for request in waiting {
            request.decide(Answer::Refused);
        }
        call(self.wanted.ended(|| self.is_ready()), None);
    }
}

impl<S: Message, R: Message> Clone for Server<S, R> {
    fn clone(&self) -> Self {
        Server { desk: Arc::clone(&self.desk), shown: self.shown.clone(), _open: Arc::clone(&self._open) }
    }
}

impl<S: Message, R: Message> fmt::Debug for Server<S, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = lock(&self.desk.state);
        f.debug_struct("Server")
            .field("waiting", &state.waiting.len())
            .field("accepting", &state.accepting)
            .field("closed", &state.closed)
            .finish()
    }
}

/// Where a [`Server`] is found by clients of the [transport](super::Polysocket). It does not keep the server open.
pub struct PolyAddress<S: Message, R: Message>(Weak<Desk<S, R>>);

impl<S: Message, R: Message> PolyAddress<S, R> {
    /// The server, if it is there.
    pub(super) fn desk(&self) -> Option<Arc<Desk<S, R>>> {
        self.0.upgrade()
    }
}

impl<S: Message, R: Message> Clone for PolyAddress<S, R> {
    fn clone(&self) -> Self {
        PolyAddress(Weak::clone(&self.0))
    }
}

impl<S: Message, R: Message> fmt::Debug for PolyAddress<S, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PolyAddress({:p})", self.0.as_ptr())
    }
}

/// As a [`Listener`], a server accepts whoever knows its address.
impl<S: Message, R: Message> Listener<S, R> for Server<S, R> {
    type End = PolyEnd<S, R>;
    type Address = PolyAddress<S, R>;

    fn address(&self) -> PolyAddress<S, R> {
        PolyAddress(Arc::downgrade(&self.desk))
    }

    fn accept(&self, timeout: Option<Duration>) -> Result<PolyEnd<S, R>, TransportError> {
        Server::accept(self, timeout).map_err(link_error)
    }

    fn try_accept(&self) -> Result<Option<PolyEnd<S, R>>, TransportError> {
        match Server::try_accept(self) {
            Err(PolysocketError::WouldBlock) => Ok(None),
            result => result.map(Some).map_err(link_error),
        }
    }

    fn descriptor(&self) -> Result<BorrowedFd<'_>, TransportError> {
        if let Some(descriptor) = self.shown.get() {
            return Ok(descriptor.as_fd());
        }
        let descriptor = Server::descriptor(self).map_err(link_error)?;
        Ok(self.shown.get_or_init(|| descriptor).as_fd())
    }
}

impl<S: Message, R: Message> AsFd for Server<S, R> {
    /// # Panics
    /// If the system has no descriptor left for it, and [`Listener::descriptor`] was not called before, which says so by
    /// an error.
    fn as_fd(&self) -> BorrowedFd<'_> {
        match Listener::descriptor(self) {
            Ok(fd) => fd,
            Err(error) => {
                panic!("a server has no descriptor: {error}; `Listener::descriptor` would have told before")
            }
        }
    }
}

/// What has gone wrong, in the words of links.
pub(super) fn link_error(error: PolysocketError) -> TransportError {
    match error {
        PolysocketError::Refused => TransportError::Refused,
        PolysocketError::TimedOut | PolysocketError::WouldBlock => TransportError::TimedOut,
        PolysocketError::Pipe(error) => TransportError::Io { op: "a pipe", source: io::Error::other(error) },
        _ => TransportError::Closed,
    }
}
