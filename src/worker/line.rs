//! [`Line`]: a worker's end of its link to the master, as its context and its guards share it.
//!
//! A guard that is dropped must tell the master, and has no context then. So it has the line. It says what it has to say at
//! once, or waits for room; it does not hear what the master says, which is the context's. If there is no room for long,
//! because the master does not listen to who does not listen to it, the context says it later.
//!
//! A process that a worker makes by itself has the line, too, but is no part of the run: it says nothing.
//!
//! This module does not know what is said.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{OnceLock, mpsc};
use std::time::{Duration, Instant};

use manycore_backends::generation::Generation;
use manycore_backends::poll::{Interest, Notifier, PollArray, PollError, poll_single};
use manycore_backends::spawn;
use manycore_backends::transport::{Endpoint, TransportError, TrySendError};

use crate::wire::named::Told;
use crate::wire::{Reply, Request, ToMaster, ToWorker};

/// How often a worker looks whether there is room for what it says, where no descriptor can tell it.
const WITHOUT_DESCRIPTOR: Duration = Duration::from_millis(1);

/// How long a guard waits for room.
const PATIENCE: Duration = Duration::from_secs(1);

/// A worker's end of its link to the master, of any transport.
pub(super) trait Link: AsFd + Send + Sync {
    /// Accepts a request, or gives it back if there is no room.
    fn try_send(&self, request: Request) -> Result<Option<Request>, TransportError>;
    /// Whether all is out that was accepted.
    fn flush(&self) -> Result<bool, TransportError>;
    /// The descriptor, if it can be had.
    fn descriptor(&self) -> Result<BorrowedFd<'_>, TransportError>;
    fn receive(&self, timeout: Option<Duration>) -> Result<Reply, TransportError>;
}

impl<E: Endpoint<ToMaster, ToWorker>> Link for E {
    fn try_send(&self, request: Request) -> Result<Option<Request>, TransportError> {
        match Endpoint::try_send(self, ToMaster(request)) {
            Ok(()) => Ok(None),
            Err(TrySendError::Full(ToMaster(request))) => Ok(Some(request)),
            Err(TrySendError::Failed(error)) => Err(error),
            Err(other) => Err(TransportError::Encode(other.to_string().into())),
        }
    }

    fn flush(&self) -> Result<bool, TransportError> {
        if Endpoint::is_flushed(self) { Ok(true) } else { Endpoint::flush(self) }
    }

    fn descriptor(&self) -> Result<BorrowedFd<'_>, TransportError> {
        Endpoint::descriptor(self)
    }

    fn receive(&self, timeout: Option<Duration>) -> Result<Reply, TransportError> {
        Endpoint::receive(self, timeout).map(|reply| reply.0)
    }
}

/// Who can be told something that is not answered, and not waited for.
pub(crate) trait Tell: Send + Sync {
    /// Tells it. That it could not be told means that nobody is there to care.
    fn tell(&self, told: Told);
    /// Has it told when something else is.
    fn tell_later(&self, told: Told);
}

pub(super) struct Line {
    link: Box<dyn Link>,
    /// Where guards leave what they could not say, once there are any.
    unsaid: OnceLock<mpsc::Sender<Request>>,
    /// The process whose line it is.
    process: Generation,
}

impl Tell for Line {
    fn tell(&self, told: Told) {
        // The end of the worker itself will tell, as that of a process does.
        if spawn::is_over() || !self.process.is_current() {
            return;
        }
        let mut request = Some(Request::Told(told));
        let deadline = Instant::now() + PATIENCE;
        loop {
            match request.take().map(|request| self.link.try_send(request)) {
                Some(Ok(again)) => request = again,
                None => {}
                Some(Err(_)) => return,
            }
            if request.is_none() && !matches!(self.link.flush(), Ok(false)) {
                return;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            // Where there is no descriptor, it says that it is writable, or the context says it later.
            let waited = self.link.descriptor().map(|fd| poll_single(fd, Interest::WRITE, Some(left)));
            if !matches!(waited, Ok(Ok(_))) {
                break;
            }
        }
        if let Some(request) = request {
            self.leave(request);
        }
    }

    fn tell_later(&self, told: Told) {
        self.leave(Request::Told(told));
    }
}

impl Line {
    pub(super) fn new(link: Box<dyn Link>) -> Line {
        Line { link, unsaid: OnceLock::new(), process: Generation::current() }
    }

    /// What guards could not say comes out here. To be called once, before there are any.
    pub(super) fn unsaid(&self) -> mpsc::Receiver<Request> {
        let (unsaid, left) = mpsc::channel();
        let _ = self.unsaid.set(unsaid);
        left
    }

    /// Has something said by the context. If that is gone, so is the worker.
    fn leave(&self, request: Request) {
        let _ = self.unsaid.get().map(|unsaid| unsaid.send(request));
    }

    /// Says something. If there is no room for it, hears what the master says meanwhile, and gives it to `keep`: the master
    /// may say nothing more, and not listen either, until some of that is heard.
    pub(super) fn say(&self, request: Request, mut keep: impl FnMut(Reply)) -> Result<(), TransportError> {
        let mut request = self.link.try_send(request)?;
        while request.is_some() || !self.link.flush()? {
            loop {
                match self.link.receive(Some(Duration::ZERO)) {
                    Ok(reply) => keep(reply),
                    Err(TransportError::TimedOut) => break,
                    Err(error) => return Err(error),
                }
            }
            match self.link.descriptor() {
                Ok(fd) => drop(poll_single(fd, Interest::READ | Interest::WRITE, None).map_err(poll_failed)?),
                // There is none left for it: now and then will do.
                Err(_) => match self.link.receive(Some(WITHOUT_DESCRIPTOR)) {
                    Ok(reply) => keep(reply),
                    Err(TransportError::TimedOut) => {}
                    Err(error) => return Err(error),
                },
            }
            if let Some(again) = request {
                request = self.link.try_send(again)?;
            }
        }
        Ok(())
    }

    /// Sends on what guards have begun to say.
    pub(super) fn flush(&self) -> Result<(), TransportError> {
        self.link.flush().map(drop)
    }

    /// What the master says next.
    pub(super) fn hear(&self, timeout: Option<Duration>) -> Result<Reply, TransportError> {
        self.link.receive(timeout)
    }

    /// What the master says next, or that the notifier is set, which counts as its saying that the worker should stop.
    pub(super) fn hear_either(
        &self,
        notifier: &Notifier,
        timeout: Option<Duration>,
    ) -> Result<Reply, TransportError> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut descriptors = PollArray::new(2);
        descriptors.set(0, self.link.as_fd(), Interest::READ).map_err(poll_failed)?;
        descriptors.set(1, notifier.as_fd(), Interest::READ).map_err(poll_failed)?;
        loop {
            match self.link.receive(Some(Duration::ZERO)) {
                Err(TransportError::TimedOut) => {}
                other => return other,
            }
            if notifier.wait(Some(Duration::ZERO)).map_err(poll_failed)? {
                return Ok(Reply::Stop);
            }
            let remaining = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if remaining == Some(Duration::ZERO) {
                return Err(TransportError::TimedOut);
            }
            descriptors.restarting_wait(2, remaining).map_err(poll_failed)?;
        }
    }
}

impl AsFd for Line {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.link.as_fd()
    }
}

fn poll_failed(error: PollError) -> TransportError {
    TransportError::Io { op: "poll", source: std::io::Error::other(error) }
}
