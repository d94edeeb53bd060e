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

/// A worker that is to be begun; a member of a pool has no argument.
struct Wanted {
    name: &'static str,
    group: Option<String>,
    argument: Option<ByteBuf>,
    descriptors: Vec<OwnedFd>,
}

/// What a worker asks for when it wants another started.
pub(super) struct Start {
    pub(super) name: String,
    pub(super) group: Option<String>,
    pub(super) argument: ByteBuf,
    pub(super) given: Given,
}

impl<P: Platform> Jobs<P> {
    pub(super) fn start_first(
        &mut self,
        name: &'static str,
        argument: ByteBuf,
        descriptors: Vec<OwnedFd>,
    ) -> Result<u64, RunError> {
        let id = self.begin(Wanted { name, group: None, argument: Some(argument), descriptors })?;
        self.first = Some(id);
        Ok(id)
    }

    /// Begins a member of a pool.
    pub(crate) fn start_member(&mut self, name: &'static str) -> Result<u64, RunError> {
        let limit = self.options.worker_limit;
        if self.running.len() >= limit {
            return Err(RunError::Start(StartError::TooMany { limit }));
        }
        self.begin(Wanted { name, group: None, argument: None, descriptors: Vec::new() })
    }

    fn begin(&mut self, wanted: Wanted) -> Result<u64, RunError> {
        self.begin_all(vec![wanted])?.pop().expect("there is a number, or an error, for each")
    }

    /// Begins workers, and tells them what to do: without a message if they can have that along, or else the spare unit, if
    /// there is one.
    fn begin_all(&mut self, wanted: Vec<Wanted>) -> Result<Vec<Result<u64, RunError>>, PollError> {
        let message_limit = self.options.message_limit;
        let mut spare = if wanted.is_empty() { None } else { self.spare.take() };
        let (mut carried, mut jobs) = (Vec::new(), Vec::new());
        for Wanted { name, group, argument, descriptors } in wanted {
            let id = self.next;
            self.next += 1;
            let worker = Identity { id, name: name.to_owned(), run: self.run.clone(), message_limit };
            let member = argument.is_none();
            let unit = spare.take();
            // Descriptors cannot be carried to a process.
            let carries = Self::CARRIES && descriptors.is_empty();
            let orders = match argument {
                Some(argument) => Reply::Begin { worker, argument, given: Given(Ok(descriptors)) },
                None => Reply::Serve { worker },
            };
            let orders = match (&unit, carries) {
                (None, true) => {
                    carried.push(Some(orders));
                    None
                }
                (None, false) => {
                    carried.push(None);
                    Some(orders)
                }
                (Some(_), _) => Some(orders),
            };
            jobs.push((id, name, group, member, unit, orders));
        }
        let mut units = self.begin_units(carried).into_iter();
        let mut begun = Vec::with_capacity(jobs.len());
        // All are known before anything can go wrong with one of them.
        for (id, name, group, member, unit, orders) in jobs {
            let unit = match unit {
                Some(unit) => Ok(unit),
                None => units.next().expect("there is a unit, or an error, for each"),
            };
            begun.push(unit.map(|unit| {
                self.note(id, name, group, member, unit);
                (id, orders)
            }));
        }
        let watched = begun.into_iter().map(|begun| match begun {
            Ok((id, orders)) => {
                self.watch(id)?;
                if let Some(orders) = orders {
                    self.send(id, orders)?;
                }
                Ok(Ok(id))
            }
            Err(error) => Ok(Err(error)),
        });
        watched.collect()
    }

    /// Notes a worker that has begun.
    fn note(&mut self, id: u64, name: &'static str, group: Option<String>, member: bool, unit: Unit<P>) {
        let Unit { link, child } = unit;
        event!(debug, worker = id, name, process = child.id(), "worker started");
        let process = Self::PROCESSES.then(|| child.id());
        self.log.write(Level::Debug, Some(id), Text::Started { name, process });
        let job = Job {
            name,
            group,
            member,
            link: Some(link),
            child,
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
    }

    /// Has a worker polled from now on.
    fn watch(&mut self, id: u64) -> Result<(), PollError> {
        let Some(job) = self.running.get(&id) else { return Ok(()) };
        let (link, child) = (job.link.clone(), Arc::clone(&job.child));
        let Some(link) = link else { return Ok(()) };
        let added = self.poller.add(key(id, Watched::Link), link, Interest::READ);
        let added = added.and_then(|()| self.poller.add(key(id, Watched::Child), child, Interest::READ));
        added.inspect_err(|_| self.give_up(id))
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

    /// Starts workers for another, and says in this order what has become of each.
    pub(super) fn start_all(&mut self, starts: Vec<Start>) -> Result<Vec<Result<u64, Refusal>>, PollError> {
        let mut wanted = Vec::with_capacity(starts.len());
        let mut names = Vec::with_capacity(starts.len());
        let mut refusals = Vec::with_capacity(starts.len());
        for start in starts {
            let name = start.name.clone();
            let checked = self.check(start, wanted.len());
            refusals.push(checked.map(|accepted| wanted.push(accepted)));
            names.push(name);
        }
        let mut begun = self.begin_all(wanted)?.into_iter();
        let told = refusals.into_iter().zip(names).map(|(accepted, name)| {
            let result = accepted.and_then(|()| {
                let begun = begun.next().expect("there is a number, or an error, for each");
                begun.map_err(|error| {
                    event!(warn, name, %error, "worker not started");
                    Refusal::Spawn { message: error.to_string(), errno: errno(&error) }
                })
            });
            match &result {
                Ok(_) if self.first.is_some() => self.spare.want(),
                Ok(_) => {}
                Err(refusal) => {
                    let error = StartError::refused(&name, refusal.clone());
                    self.log.write(Level::Warn, None, format!("`{name}` not started: {error}"));
                }
            }
            result
        });
        Ok(told.collect())
    }

    /// Whether a worker may be started, beside so many `others` that are about to be.
    fn check(&self, start: Start, others: usize) -> Result<Wanted, Refusal> {
        if self.stopping.refusing {
            return Err(Refusal::ShuttingDown);
        }
        let Some(name) = self.workers.name(&start.name) else {
            let mut known = self.workers.names();
            shorten(&mut known);
            return Err(Refusal::Undefined { known });
        };
        let limit = self.options.worker_limit;
        if self.running.len() + others >= limit {
            return Err(Refusal::TooMany { limit });
        }
        match start.given.0 {
            Ok(descriptors) => {
                Ok(Wanted { name, group: start.group, argument: Some(start.argument), descriptors })
            }
            Err(lost) => {
                let message =
                    format!("the master has no room for the descriptors that it is to be given: {lost}");
                Err(Refusal::Spawn { message, errno: lost.raw_os_error() })
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
