//! How workers are begun: a link, a unit of work that has the other end, and its orders.
//!
//! This module does not decide who may ask for that.

use std::collections::{BTreeSet, VecDeque};
use std::error::Error as _;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::SystemTime;

use manycore_backends::poll::{Interest, PollError, Poller};
use manycore_backends::spawn::{Child, SpawnError};
use manycore_backends::transport::TransportError;
use serde_bytes::ByteBuf;

use super::RunError;
use super::jobs::{Job, Jobs, Stop, Watched, key};
use super::log::Text;
use super::spare::Unit;
use crate::platform::Platform;
use crate::trace::event;
use crate::wire::{Given, Identity, Refusal, Reply};
use crate::worker::{Level, StartError, shorten};

impl<P: Platform> Jobs<P> {
    pub(super) fn start_first(
        &mut self,
        name: &'static str,
        argument: ByteBuf,
        descriptors: Vec<OwnedFd>,
    ) -> Result<u64, RunError> {
        let id = self.begin(name, None, Some(argument), descriptors)?;
        self.first = Some(id);
        Ok(id)
    }

    /// Begins a member of a pool.
    pub(crate) fn start_member(&mut self, name: &'static str) -> Result<u64, RunError> {
        let limit = self.options.worker_limit;
        if self.running.len() >= limit {
            return Err(RunError::Start(StartError::TooMany { limit }));
        }
        self.begin(name, None, None, Vec::new())
    }

    /// Begins a worker, and tells it what to do: without a message if it can have that along, or else the spare unit, if there
    /// is one. A member of a pool has no argument.
    fn begin(
        &mut self,
        name: &'static str,
        group: Option<String>,
        argument: Option<ByteBuf>,
        descriptors: Vec<OwnedFd>,
    ) -> Result<u64, RunError> {
        let message_limit = self.options.message_limit;
        let id = self.next;
        let worker = Identity { id, name: name.to_owned(), run: self.run.clone(), message_limit };
        let member = argument.is_none();
        let spare = self.first.and_then(|_| self.spare.take());
        // Descriptors cannot be carried to a process.
        let carried = Self::CARRIES && descriptors.is_empty() && spare.is_none();
        let orders = match argument {
            Some(argument) => Reply::Begin { worker, argument, given: Given(Ok(descriptors)) },
            None => Reply::Serve { worker },
        };
        let (carried, orders) = if carried { (Some(orders), None) } else { (None, Some(orders)) };
        let Unit { link, child } = match spare {
            Some(unit) => unit,
            None => self.begin_unit(carried)?,
        };
        self.next += 1;
        event!(debug, worker = id, name, process = child.id(), "worker started");
        let process = Self::PROCESSES.then(|| child.id());
        self.log.write(Level::Debug, Some(id), Text::Started { name, process });
        let job = Job {
            name,
            group,
            member,
            link: Some(Arc::clone(&link)),
            child: Arc::clone(&child),
            outcome: None,
            watchers: BTreeSet::new(),
            end_watches: BTreeSet::new(),
            outbox: VecDeque::new(),
            muted: false,
            interest: Interest::READ,
            listens: false,
            stop: Stop::Untold,
            cancelled: None,
            killed: false,
            kill_at: None,
            began: SystemTime::now(),
        };
        self.running.insert(id, Box::new(job));
        let added = self.poller.add(key(id, Watched::Link), link, Interest::READ);
        let added = added.and_then(|()| self.poller.add(key(id, Watched::Child), child, Interest::READ));
        if let Err(error) = added {
            self.give_up(id);
            return Err(error.into());
        }
        if let Some(orders) = orders {
            self.send(id, orders)?;
        }
        Ok(id)
    }

    /// Ends a worker that was only just begun.
    fn give_up(&mut self, id: u64) {
        let _ = self.kill(id);
        let Some(mut job) = self.running.remove(&id) else { return };
        self.log.write(Level::Warn, Some(id), "given up: the master could not watch it".to_owned());
        // A thread comes out of its wait by the end of file.
        job.link = None;
        let _ = self.poller.remove(key(id, Watched::Link));
        let _ = job.child.wait();
        let _ = self.poller.remove(key(id, Watched::Child));
    }

    /// Starts a worker for another.
    pub(super) fn start(
        &mut self,
        name: &str,
        group: Option<String>,
        argument: ByteBuf,
        given: Given,
    ) -> Result<Result<u64, Refusal>, PollError> {
        let result = self.start_or_refuse(name, group, argument, given)?;
        if let Err(refusal) = &result {
            let error = StartError::refused(name, refusal.clone());
            self.log.write(Level::Warn, None, format!("`{name}` not started: {error}"));
        }
        Ok(result)
    }

    fn start_or_refuse(
        &mut self,
        name: &str,
        group: Option<String>,
        argument: ByteBuf,
        given: Given,
    ) -> Result<Result<u64, Refusal>, PollError> {
        if self.stopping.refusing {
            return Ok(Err(Refusal::ShuttingDown));
        }
        let Some(name) = self.workers.name(name) else {
            let mut known = self.workers.names();
            shorten(&mut known);
            return Ok(Err(Refusal::Undefined { known }));
        };
        let limit = self.options.worker_limit;
        if self.running.len() >= limit {
            return Ok(Err(Refusal::TooMany { limit }));
        }
        let descriptors = match given.0 {
            Ok(descriptors) => descriptors,
            Err(lost) => {
                let message =
                    format!("the master has no room for the descriptors that it is to be given: {lost}");
                return Ok(Err(Refusal::Spawn { message, errno: lost.raw_os_error() }));
            }
        };
        match self.begin(name, group, Some(argument), descriptors) {
            Ok(id) => {
                if self.first.is_some() {
                    self.spare.want();
                }
                Ok(Ok(id))
            }
            Err(RunError::Poll(error)) => Err(error),
            Err(error) => {
                event!(warn, name, %error, "worker not started");
                Ok(Err(Refusal::Spawn { message: error.to_string(), errno: errno(&error) }))
            }
        }
    }
}

fn errno(error: &RunError) -> Option<i32> {
    let source = match error {
        RunError::Spawn(SpawnError::Io { source, .. }) => Some(source),
        RunError::Transport(TransportError::Io { source, .. }) => Some(source),
        other => other.source().and_then(|source| source.downcast_ref::<io::Error>()),
    };
    source.and_then(io::Error::raw_os_error)
}
