//! The supervising loop: one wait over all links and children.
//!
//! A job is a worker that the master has begun: its link, its child, and who waits for it. A job ends when its
//! child has ended, and only then are the joiners told, so that nothing of a joined worker is left. What it had
//! told of its result before counts; if it told nothing, how the child ended is the outcome.
//!
//! The master never waits for a worker: what a link has no room for goes to the job's outbox, and on when the
//! link is writable again. A worker that asks without end is served in turns with the others, and not listened
//! to while its outbox is full.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::error::Error as _;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use manycore_backends::poll::{Event, Interest, PollError, Poller};
use manycore_backends::spawn::{Child, Exit, SpawnError, Spawner};
use manycore_backends::transport::{Endpoint, Limits, Transport, TransportError, TrySendError};
use serde_bytes::ByteBuf;

use super::RunError;
use crate::platform::{Platform, WorkerEnd};
use crate::wire::{ENVELOPE, Ended, Refusal, Reply, Request, ToMaster, ToWorker};
use crate::worker::{Outcome, Registry, child};

type Link<P> = <<P as Platform>::Transport as Transport>::End<ToWorker, ToMaster>;
type ChildOf<P> = <<P as Platform>::Spawn as Spawner<WorkerEnd<P>>>::Child;

/// The number of the first worker.
const FIRST: u64 = 0;

/// Requests of one worker that are served before it is the turn of others.
const TURN: usize = 64;

/// Messages that are looked through for a result when a link is given up: more than it can hold.
const LAST_WORDS: usize = 1 << 17;

/// Replies that may wait for a worker before it is not listened to any more.
const OUTBOX_MAX: usize = 1024;

pub(super) struct Jobs<P: Platform> {
    registry: Arc<Registry>,
    message_limit: usize,
    worker_limit: usize,
    poller: P::Poll,
    spawner: P::Spawn,
    running: BTreeMap<u64, Job<P>>,
    ended: BTreeMap<u64, Arc<Ended>>,
    /// Workers that may have said more than was listened to.
    unheard: BTreeSet<u64>,
    /// Who waits for whose end, and for nothing else.
    waits: BTreeMap<u64, u64>,
    next: u64,
}

struct Job<P: Platform> {
    name: String,
    /// `None` when it was given up: then the worker is told so by its end of file.
    link: Option<Arc<Link<P>>>,
    child: Arc<ChildOf<P>>,
    /// What it told of its result.
    outcome: Option<Outcome>,
    /// Workers that are told when it ends.
    watchers: BTreeSet<u64>,
    /// Replies that the link had no room for.
    outbox: VecDeque<Reply>,
    /// Whether it is not listened to, because its outbox is full.
    muted: bool,
    /// What its link is polled for.
    interest: Interest,
}

/// Which descriptor of a job a poll key stands for.
enum Watched {
    Link,
    Child,
}

fn key(id: u64, watched: Watched) -> u64 {
    2 * id + matches!(watched, Watched::Child) as u64
}

fn job_of(key: u64) -> (u64, Watched) {
    (key / 2, if key % 2 == 0 { Watched::Link } else { Watched::Child })
}

impl<P: Platform> Jobs<P> {
    pub(super) fn new(
        registry: Arc<Registry>,
        message_limit: usize,
        worker_limit: usize,
    ) -> Result<Self, PollError> {
        Ok(Jobs {
            registry,
            message_limit,
            worker_limit,
            poller: P::Poll::new()?,
            spawner: P::Spawn::default(),
            running: BTreeMap::new(),
            ended: BTreeMap::new(),
            unheard: BTreeSet::new(),
            waits: BTreeMap::new(),
            next: FIRST,
        })
    }

    pub(super) fn start_first(&mut self, name: &str, argument: ByteBuf) -> Result<(), RunError> {
        let id = self.begin(name)?;
        self.order(id, name, argument).map_err(RunError::from)
    }

    /// Serves until all workers have ended, and returns how the first one did.
    pub(super) fn run(mut self) -> Result<Arc<Ended>, RunError> {
        let mut events: Vec<Event> = Vec::new();
        while !self.running.is_empty() {
            let timeout = if self.unheard.is_empty() { None } else { Some(Duration::ZERO) };
            self.poller.wait(&mut events, timeout)?;
            for id in std::mem::take(&mut self.unheard) {
                self.listen(id)?;
            }
            for event in &events {
                let (id, watched) = job_of(event.key);
                match watched {
                    Watched::Link => {
                        self.listen(id)?;
                        self.talk(id)?;
                    }
                    Watched::Child => self.bury(id)?,
                }
            }
        }
        Ok(self.ended.remove(&FIRST).expect("the first worker was started, and all have ended"))
    }

    /// Begins a worker's process. It waits for its orders.
    fn begin(&mut self, name: &str) -> Result<u64, RunError> {
        let limits = Limits::with_message_bytes(self.message_limit.saturating_add(ENVELOPE));
        let (ours, theirs) = P::Transport::pair::<ToWorker, ToMaster>(limits)?;
        let ours = Arc::new(ours);
        let registry = Arc::clone(&self.registry);
        let child = self.spawner.spawn(theirs, move |link| child::live(link, &registry))?;
        let child = Arc::new(child);
        let id = self.next;
        self.next += 1;
        // From here on an error ends the run, which kills the child.
        let job = Job {
            name: name.to_owned(),
            link: Some(Arc::clone(&ours)),
            child: Arc::clone(&child),
            outcome: None,
            watchers: BTreeSet::new(),
            outbox: VecDeque::new(),
            muted: false,
            interest: Interest::READ,
        };
        self.running.insert(id, job);
        self.poller.add(key(id, Watched::Link), ours, Interest::READ)?;
        self.poller.add(key(id, Watched::Child), child, Interest::READ)?;
        Ok(id)
    }

    /// Tells a worker what to do.
    fn order(&mut self, id: u64, name: &str, argument: ByteBuf) -> Result<(), PollError> {
        let message_limit = self.message_limit;
        self.send(id, Reply::Begin { id, name: name.to_owned(), argument, message_limit })
    }

    /// Starts a worker for another.
    fn start(&mut self, name: &str, argument: ByteBuf) -> Result<Result<u64, Refusal>, PollError> {
        if self.ended.contains_key(&FIRST) {
            return Ok(Err(Refusal::ShuttingDown));
        }
        if self.registry.get(name).is_none() {
            return Ok(Err(Refusal::Undefined { known: self.registry.names() }));
        }
        if self.running.len() >= self.worker_limit {
            return Ok(Err(Refusal::TooMany { limit: self.worker_limit }));
        }
        match self.begin(name) {
            Ok(id) => {
                self.order(id, name, argument)?;
                Ok(Ok(id))
            }
            Err(RunError::Poll(error)) => Err(error),
            Err(error) => {
                let message = match &error {
                    RunError::Transport(error) => error.to_string(),
                    error => error.to_string(),
                };
                Ok(Err(Refusal::Spawn { message, errno: errno(&error) }))
            }
        }
    }

    /// Takes what a worker has said, as much as is served in one turn.
    fn listen(&mut self, id: u64) -> Result<(), PollError> {
        for _ in 0..TURN {
            let Some(job) = self.running.get(&id) else { return Ok(()) };
            let Some(link) = &job.link else { return Ok(()) };
            if job.muted {
                return Ok(());
            }
            match link.try_receive() {
                Ok(Some(ToMaster(request))) => self.serve(id, request)?,
                Ok(None) => return Ok(()),
                // Gone, or talking nonsense: nothing more is to be had. Its end will tell.
                Err(_) => return self.unlink(id),
            }
        }
        self.unheard.insert(id);
        Ok(())
    }

    /// Whether `wanted` waits for `id`, directly or through others, or is it.
    fn waits_for(&self, wanted: u64, id: u64) -> bool {
        let mut at = Some(wanted);
        // Each waits for one, and there is no circle yet.
        while let Some(worker) = at {
            if worker == id {
                return true;
            }
            at = self.waits.get(&worker).copied();
        }
        false
    }

    fn serve(&mut self, id: u64, request: Request) -> Result<(), PollError> {
        self.waits.remove(&id);
        match request {
            Request::Start { name, argument } => {
                let reply = match self.start(&name, argument)? {
                    Ok(id) => Reply::Started { id },
                    Err(refusal) => Reply::Refused { refusal },
                };
                self.send(id, reply)
            }
            Request::Watch { id: wanted, blocking } => {
                if blocking && self.waits_for(wanted, id) {
                    return self.send(id, Reply::Deadlock { id: wanted });
                }
                if let Some(job) = self.running.get_mut(&wanted) {
                    job.watchers.insert(id);
                    if blocking {
                        self.waits.insert(id, wanted);
                    }
                    return Ok(());
                }
                let reply = self.say_ended(wanted);
                self.send(id, reply)
            }
            Request::Ask { id: wanted } => {
                let reply = if self.running.contains_key(&wanted) {
                    Reply::Running { id: wanted }
                } else {
                    self.say_ended(wanted)
                };
                self.send(id, reply)
            }
            Request::Finished { outcome } => {
                if let Some(job) = self.running.get_mut(&id) {
                    job.outcome = Some(outcome);
                }
                Ok(())
            }
        }
    }

    fn say_ended(&self, id: u64) -> Reply {
        match self.ended.get(&id) {
            Some(ended) => Reply::Ended { ended: Arc::clone(ended) },
            None => Reply::Unknown { id },
        }
    }

    /// Sends, now or when there is room.
    fn send(&mut self, id: u64, reply: Reply) -> Result<(), PollError> {
        if let Some(job) = self.running.get_mut(&id).filter(|job| job.link.is_some()) {
            job.outbox.push_back(reply);
            self.talk(id)?;
        }
        Ok(())
    }

    /// Sends what waits, as far as there is room.
    fn talk(&mut self, id: u64) -> Result<(), PollError> {
        let Some(job) = self.running.get_mut(&id) else { return Ok(()) };
        let Some(link) = &job.link else { return Ok(()) };
        let mut waits = !link.is_flushed() && !matches!(link.flush(), Ok(true) | Err(_));
        while !waits {
            let Some(reply) = job.outbox.pop_front() else { break };
            match link.try_send(ToWorker(reply)) {
                Ok(()) => waits = !link.is_flushed(),
                Err(TrySendError::Full(ToWorker(reply))) => {
                    job.outbox.push_front(reply);
                    waits = true;
                }
                // Gone, or as good as gone. It cannot be too big: arguments and results are limited, and there
                // is room beside.
                Err(_) => return self.unlink(id),
            }
        }
        let heard = job.outbox.len() < if job.muted { OUTBOX_MAX / 2 } else { OUTBOX_MAX };
        let interest = match (heard, waits) {
            (true, false) => Interest::READ,
            (true, true) => Interest::READ | Interest::WRITE,
            (false, _) => Interest::WRITE,
        };
        if std::mem::replace(&mut job.muted, !heard) && heard {
            // Its link may hold what it said meanwhile.
            self.unheard.insert(id);
        }
        if std::mem::replace(&mut job.interest, interest) == interest {
            return Ok(());
        }
        self.poller.modify(key(id, Watched::Link), interest)
    }

    /// Gives a link up, but for what was said of a result before. Whoever else has the worker's end of it, such as
    /// a process that the worker made, is not waited for.
    fn unlink(&mut self, id: u64) -> Result<(), PollError> {
        let Some(job) = self.running.get_mut(&id) else { return Ok(()) };
        let Some(link) = job.link.take() else { return Ok(()) };
        for _ in 0..LAST_WORDS {
            match link.try_receive() {
                Ok(Some(ToMaster(Request::Finished { outcome }))) => job.outcome = Some(outcome),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break,
            }
        }
        job.outbox.clear();
        self.poller.remove(key(id, Watched::Link)).map(drop)
    }

    /// Sees to a child that has ended.
    fn bury(&mut self, id: u64) -> Result<(), RunError> {
        let Some(job) = self.running.get(&id) else { return Ok(()) };
        let outcome = match job.child.try_wait() {
            Ok(None) => return Ok(()),
            Ok(Some(Exit::Code(code))) => Outcome::Exited { code },
            Ok(Some(Exit::Signal { signal, core })) => Outcome::Killed { signal, core },
            Ok(Some(exit)) => Outcome::Lost { message: exit.to_string() },
            Err(error) => Outcome::Lost { message: error.to_string() },
        };
        self.unlink(id)?;
        self.unheard.remove(&id);
        self.waits.remove(&id);
        self.poller.remove(key(id, Watched::Child))?;
        let Some(job) = self.running.remove(&id) else { return Ok(()) };
        let outcome = job.outcome.unwrap_or(outcome);
        let ended = Arc::new(Ended { id, name: job.name, process: job.child.id(), outcome });
        for watcher in job.watchers {
            if self.waits.get(&watcher) == Some(&id) {
                self.waits.remove(&watcher);
            }
            self.send(watcher, Reply::Ended { ended: Arc::clone(&ended) })?;
        }
        self.ended.insert(id, ended);
        Ok(())
    }
}

/// A run that is given up, by an error or a panic, leaves no worker behind.
impl<P: Platform> Drop for Jobs<P> {
    fn drop(&mut self) {
        for job in self.running.values() {
            let _ = job.child.kill(SIGKILL);
        }
        for job in self.running.values() {
            let _ = job.child.wait();
        }
    }
}

/// The number of the signal that cannot be caught, everywhere.
const SIGKILL: i32 = 9;

fn errno(error: &RunError) -> Option<i32> {
    let source = match error {
        RunError::Spawn(SpawnError::Io { source, .. }) => Some(source),
        RunError::Transport(TransportError::Io { source, .. }) => Some(source),
        other => other.source().and_then(|source| source.downcast_ref::<io::Error>()),
    };
    source.and_then(io::Error::raw_os_error)
}
