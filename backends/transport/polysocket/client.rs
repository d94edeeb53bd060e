//! [`Client`]: who asks for a connection.
//!
//! This module moves no messages: the ends of a connection do.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::server::Desk;
use super::{Answer, Message, PolyEnd, PolysocketError, Request, Server, descriptor, ends};
use crate::sync::{Mutex, lock};
use crate::transport::polypipe::{Descriptor, PipeError, Side, deadline_after, is_past};

/// Who asks a [`Server`] for a connection, one in its life: an end that sends `S` and receives `R`.
///
/// What it may do when is a table on the [module page](super).
#[doc(alias("create_client", "polyclient"))]
pub struct Client<S: Message, R: Message> {
    capacity: usize,
    state: Mutex<State<S, R>>,
    descriptor: Mutex<Option<Descriptor>>,
}

enum State<S: Message, R: Message> {
    Unconnected,
    Requesting(Asked<S, R>),
    Connected(PolyEnd<S, R>),
    Refused,
    Closed,
}

/// What was asked for, and of whom.
struct Asked<S: Message, R: Message> {
    request: Arc<Request<S, R>>,
    server: Weak<Desk<R, S>>,
}

impl<S: Message, R: Message> Clone for Asked<S, R> {
    fn clone(&self) -> Self {
        Asked { request: Arc::clone(&self.request), server: Weak::clone(&self.server) }
    }
}

/// When a client is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// When the server has accepted it.
    Synchronous,
    /// At once: what it writes waits until the server accepts it.
    Asynchronous,
}

impl<S: Message, R: Message> Client<S, R> {
    /// A client whose connection will have room for `capacity` messages in each direction.
    ///
    /// # Errors
    /// [`PolysocketError::Pipe`] if it is 0, or more than a quarter of what can be counted.
    pub fn new(capacity: usize) -> Result<Client<S, R>, PolysocketError> {
        if !(1..=usize::MAX / 4).contains(&capacity) {
            return Err(PipeError::Capacity(capacity).into());
        }
        Ok(Client { capacity, state: Mutex::new(State::Unconnected), descriptor: Mutex::new(None) })
    }

    /// Asks the server for a connection, and returns at once.
    ///
    /// # Errors
    /// [`PolysocketError::InProgress`], [`Connected`](PolysocketError::Connected),
    /// [`Refused`](PolysocketError::Refused) or [`Closed`](PolysocketError::Closed) by the state of the client;
    /// [`Refused`](PolysocketError::Refused) also if the server is closed.
    pub fn connect(&self, server: &Server<R, S>) -> Result<(), PolysocketError> {
        self.ask(&server.desk)
    }

    pub(super) fn ask(&self, desk: &Arc<Desk<R, S>>) -> Result<(), PolysocketError> {
        let mut state = lock(&self.state);
        match *state {
            State::Unconnected => {}
            State::Requesting(_) => return Err(PolysocketError::InProgress),
            State::Connected(_) => return Err(PolysocketError::Connected),
            State::Refused => return Err(PolysocketError::Refused),
            State::Closed => return Err(PolysocketError::Closed),
        }
        let (client, far) = ends(self.capacity)?;
        let request = Arc::new(Request {
            client,
            server: Mutex::new(Some(far)),
            answer: Mutex::new(Answer::None),
            answered: Side::new(),
        });
        *state = State::Requesting(Asked { request: Arc::clone(&request), server: Arc::downgrade(desk) });
        drop(state);
        // Not under the lock: the server's function is called by this.
        if desk.ask(Arc::clone(&request)) {
            return Ok(());
        }
        // Who waits for the answer already has it.
        request.decide(Answer::Refused);
        let mut state = lock(&self.state);
        if matches!(*state, State::Requesting(_)) {
            *state = State::Refused;
        }
        Err(PolysocketError::Refused)
    }

    /// The client's end of the connection; always the same. A synchronous one waits for the server's answer at most for
    /// `timeout`: `None` is for ever, zero not at all.
    ///
    /// # Errors
    /// By the tables on the [module page](super): [`PolysocketError::NotConnected`], [`Refused`](PolysocketError::Refused),
    /// [`Closed`](PolysocketError::Closed); [`WouldBlock`](PolysocketError::WouldBlock) if the timeout is zero and there is
    /// no answer, [`TimedOut`](PolysocketError::TimedOut) if there was none in time.
    pub fn endpoint(&self, mode: Mode, timeout: Option<Duration>) -> Result<PolyEnd<S, R>, PolysocketError> {
        let deadline = deadline_after(timeout);
        loop {
            let mut state = lock(&self.state);
            let asked = match &*state {
                State::Unconnected => return Err(PolysocketError::NotConnected),
                State::Connected(end) => return Ok(end.clone()),
                State::Refused => return Err(PolysocketError::Refused),
                State::Closed => return Err(PolysocketError::Closed),
                State::Requesting(asked) => asked.clone(),
            };
            match asked.request.answer() {
                Answer::Refused => {
                    *state = State::Refused;
                    return Err(PolysocketError::Refused);
                }
                Answer::None if !asked.server.upgrade().is_some_and(|desk| desk.is_accepting()) => {
                    return Err(PolysocketError::Refused);
                }
                Answer::None if mode == Mode::Synchronous => {}
                Answer::None | Answer::Accepted | Answer::Withdrawn => {
                    let end = asked.request.client.clone();
                    *state = State::Connected(end.clone());
                    return Ok(end);
                }
            }
            drop(state);
            if timeout == Some(Duration::ZERO) {
                return Err(PolysocketError::WouldBlock);
            }
            let answered = asked.request.answered.sleep(deadline, || asked.request.is_answered());
            if !answered && is_past(deadline) {
                return Err(PolysocketError::TimedOut);
            }
        }
    }

    /// Has `notify` called when the server answers; by the thread that does so, without a lock. It is not called for an
    /// answer that is there already. `None` takes it away.
    ///
    /// # Errors
    /// [`PolysocketError::NotConnected`] if nothing was asked for, [`PolysocketError::Closed`] if the client is closed.
    #[doc(alias = "set_connect_notify")]
    pub fn set_notify(&self, notify: Option<Box<dyn Fn() + Send + Sync>>) -> Result<(), PolysocketError> {
        let asked = match &*lock(&self.state) {
            State::Unconnected => return Err(PolysocketError::NotConnected),
            State::Closed => return Err(PolysocketError::Closed),
            State::Connected(_) | State::Refused => return Ok(()),
            State::Requesting(asked) => asked.clone(),
        };
        asked.request.answered.set_notify(notify.map(Arc::from), || asked.request.is_answered());
        Ok(())
    }

    /// A descriptor that is readable when the server has answered. Always the same, made by the first call.
    ///
    /// # Errors
    /// By the table on the [module page](super); [`PolysocketError::Pipe`] if the system has no descriptor left for it.
    #[doc(alias = "connect_descr")]
    pub fn descriptor(&self) -> Result<Descriptor, PolysocketError> {
        let asked = match &*lock(&self.state) {
            State::Unconnected => return Err(PolysocketError::NotConnected),
            State::Connected(_) => return Err(PolysocketError::Connected),
            State::Refused => return Err(PolysocketError::Refused),
            State::Closed => return Err(PolysocketError::Closed),
            State::Requesting(asked) => asked.clone(),
        };
        descriptor(&self.descriptor, &asked.request.answered, || asked.request.is_answered())
    }

    /// Closes the client and its connection. A request that was not answered is withdrawn. One that was refused stays so.
    #[doc(alias = "close_client")]
    pub fn close(&self) {
        let before = {
            let mut state = lock(&self.state);
            match *state {
                State::Refused => return,
                _ => std::mem::replace(&mut *state, State::Closed),
            }
        };
        match before {
            State::Requesting(asked) => {
                asked.request.client.close();
                let withdrawn = asked.request.decide(Answer::Withdrawn).is_some();
                if let Some(desk) = asked.server.upgrade().filter(|_| withdrawn) {
                    desk.forget_withdrawn();
                }
            }
            State::Connected(end) => end.close(),
            State::Unconnected | State::Refused | State::Closed => {}
        }
    }
}

impl<S: Message, R: Message> Drop for Client<S, R> {
    fn drop(&mut self) {
        // A connection belongs to who has got its end; a request that nobody can ask about any more is withdrawn.
        if matches!(*lock(&self.state), State::Requesting(_)) {
            self.close();
        }
    }
}

impl<S: Message, R: Message> fmt::Debug for Client<S, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *lock(&self.state) {
            State::Unconnected => "Client(unconnected)",
            State::Requesting(_) => "Client(requesting)",
            State::Connected(_) => "Client(connected)",
            State::Refused => "Client(refused)",
            State::Closed => "Client(closed)",
        })
    }
}
