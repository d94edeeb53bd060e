//! The supervising loop: one wait over all links and children.
//!
//! A job is a worker that the master has begun: its link, its child, and who waits for it. A job ends when its
//! child has ended, and only then are the joiners told, so that nothing of a joined worker is left. What it had
//! told of its result before counts; if it told nothing, how the child ended is the outcome.
//!
//! The master never waits for a worker: what a link has no room for goes to the job's outbox, and on when the
//! link is writable again. A worker that asks without end is served in turns with the others, and not listened
//! to while its outbox is full.
//!
//! How jobs are begun is in [`starting`](super::starting), how they are made to end in [`stopping`](super::stopping), what
//! they ask of named objects in [`objects`](super::objects).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use manycore_backends::poll::{Event, Interest, PollError, Poller};
use manycore_backends::spawn::{self, Child, Exit, Spawner};
use manycore_backends::transport::{Endpoint, Transport, TrySendError};
use serde_bytes::ByteBuf;

use super::directory::Directory;
use super::log::Log;
use super::spare::Spare;
use super::starting::Start;
use super::stopping::{Signals, Stopping};
use super::visitors::Visitors;
use super::waiting::Waiting;
use super::{Options, RunError};
use crate::named::Registry;
use crate::platform::{Platform, WorkerEnd};
use crate::trace::event;
use crate::wire::{Done, Ended, Ends, Reply, Request, ToMaster, ToWorker};
use crate::worker::{CancelledBy, Outcome, Workers};

pub(super) type Link<P> = <<P as Platform>::Transport as Transport>::End<ToWorker, ToMaster>;
pub(super) type ChildOf<P> = <<P as Platform>::Spawn as Spawner<WorkerEnd<P>>>::Child;

/// Requests of one worker that are served before it is the turn of others.
const TURN: usize = 64;

/// Bytes of the arguments of workers that are begun at once.
const STARTS_MAX: usize = 1 << 20;

/// Messages that are looked through for a result when a link is given up: more than it can hold.
const LAST_WORDS: usize = 1 << 17;

/// How long that may take.
const LAST_WORDS_TIME: Duration = Duration::from_secs(1);

/// Replies that may wait for a worker before it is not listened to any more.
const OUTBOX_MAX: usize = 1024;

pub(crate) struct Jobs<P: Platform> {
    pub(super) workers: Arc<Workers>,
    pub(super) options: Options,
    pub(super) poller: P::Poll,
    pub(super) spawner: P::Spawn,
    /// Each in memory of its own: who starts many touches no more of it than must be.
    pub(super) running: BTreeMap<u64, Box<Job<P>>>,
    ended: Ends,
    /// Workers that may have said more than was listened to.
    unheard: BTreeSet<u64>,
    /// Who waits for whose end, and for nothing else.
    pub(super) waits: BTreeMap<u64, u64>,
    pub(super) named: Registry,
    /// Whose end is watched among other things, by the watcher and its number for that.
    pub(super) end_watches: BTreeMap<(u64, u64), u64>,
    /// Whether the loop of `send_named` is on.
    pub(super) says_named: bool,
    /// Workers that seem to wait in a circle, and when it is looked at again.
    pub(super) suspects: BTreeSet<(Instant, u64)>,
    pub(super) spare: Spare<P>,
    pub(super) waiting: Waiting,
    pub(super) next: u64,
    /// The worker with whose end the run begins to end.
    pub(super) first: Option<u64>,
    pub(super) stopping: Stopping,
    /// What the members of pools have done, and which have ended.
    news: VecDeque<News>,
    events: Vec<Event>,
    pub(super) run: String,
    /// When the run began.
    pub(super) began: SystemTime,
    pub(super) log: Log,
    /// Before the directory, where they come in.
    pub(super) visitors: Visitors,
    directory: Directory,
    pub(super) signals: Signals,
}

/// What a pool is told of its members.
pub(crate) enum News {
    Done(u64, Done),
    Ended(Arc<Ended>),
}

pub(super) struct Job<P: Platform> {
    pub(super) name: &'static str,
    pub(super) group: Option<String>,
    /// Whether it is a member of a pool.
    pub(super) member: bool,
    /// `None` when it was given up: then the worker is told so by its end of file.
    pub(super) link: Option<Arc<Link<P>>>,
    pub(super) child: Arc<ChildOf<P>>,
    /// What it told of its result.
    pub(super) outcome: Option<Outcome>,
    /// Workers that are told when it ends.
    pub(super) watchers: BTreeSet<u64>,
    /// Workers that watch for that among other things, and their numbers for it.
    pub(super) end_watches: BTreeSet<(u64, u64)>,
    /// Replies that the link had no room for.
    pub(super) outbox: VecDeque<Reply>,
    /// Whether it is not listened to, because its outbox is full.
    pub(super) muted: bool,
    /// What its link is polled for.
    pub(super) interest: Interest,
    /// Whether it asks if it should stop.
    pub(super) listens: bool,
    pub(super) stop: Stop,
    /// Who had it end.
    pub(super) cancelled: Option<CancelledBy>,
    /// Whether it was killed, and has not ended yet.
    pub(super) killed: bool,
    /// When it is killed.
    pub(super) kill_at: Option<Instant>,
    /// When it began.
    pub(super) began: SystemTime,
}

/// What a worker knows of that it should stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    Untold,
    /// It was told, and has not said yet that it knows.
    Told,
    Heard,
}

/// Which descriptor of a job a poll key stands for.
pub(super) enum Watched {
    Link,
    Child,
}

/// The poll key for the end of the worker that this master is, if it is one that is a thread. No job has it, nor a signal.
const KILLED: u64 = u64::MAX / 2;

pub(super) fn key(id: u64, watched: Watched) -> u64 {
    2 * id + matches!(watched, Watched::Child) as u64
}

fn job_of(key: u64) -> (u64, Watched) {
    (key / 2, if key % 2 == 0 { Watched::Link } else { Watched::Child })
}

impl<P: Platform> Jobs<P> {
    /// Whether workers are processes: then they can be killed at any moment.
    pub(super) const PROCESSES: bool = <P::Spawn as Spawner<WorkerEnd<P>>>::PROCESSES;
    /// Whether workers have what the master gives them along.
    pub(super) const CARRIES: bool = <P::Spawn as Spawner<WorkerEnd<P>>>::CARRIES;

    pub(crate) fn new(workers: Workers, options: Options) -> Result<Self, RunError> {
        if let Some(name) = workers.duplicate() {
            return Err(RunError::Duplicate { name });
        }
        let mut directory = match &options.directory {
            Some(path) => Directory::at(path)?,
            None => Directory::fresh()?,
        };
        for resource in &options.resources {
            directory.register(resource)?;
        }
        let poller = P::Poll::new()?;
        if let Some(bell) = spawn::kill_bell()? {
            poller.add(KILLED, Arc::new(bell), Interest::READ)?;
        }
        let mut jobs = Jobs {
            workers: Arc::new(workers),
            poller,
            spawner: P::Spawn::default(),
            running: BTreeMap::new(),
            ended: Ends::default(),
            unheard: BTreeSet::new(),
            waits: BTreeMap::new(),
            named: Registry::new(options.object_limit),
            end_watches: BTreeMap::new(),
            says_named: false,
            suspects: BTreeSet::new(),
            spare: Spare::default(),
            waiting: Waiting::default(),
            next: 0,
            first: None,
            stopping: Stopping::default(),
            news: VecDeque::new(),
            events: Vec::new(),
            run: directory.name(),
            began: SystemTime::now(),
            log: Log::default(),
            visitors: Visitors::default(),
            directory,
            options,
            signals: Signals::default(),
        };
        jobs.open_door(jobs.directory.door());
        Ok(jobs)
    }

    /// Has a member of a pool do tasks, after those that it was given before, when it is [talked](Jobs::talk) to.
    pub(crate) fn give(&mut self, id: u64, batch: u64, count: u32, arguments: ByteBuf) {
        self.say_later(id, Reply::Tasks { batch, count, arguments });
    }

    /// The largest argument, in bytes.
    pub(crate) fn message_limit(&self) -> usize {
        self.options.message_limit
    }

    /// The number of a worker's process, or 0 if it has ended.
    pub(crate) fn process(&self, id: u64) -> u32 {
        self.running.get(&id).map_or(0, |job| job.child.id())
    }

    /// What happened to members of pools, in order.
    pub(crate) fn next_news(&mut self) -> Option<News> {
        self.news.pop_front()
    }

    /// Serves until all workers have ended.
    pub(super) fn run(&mut self) -> Result<(), RunError> {
        while !self.running.is_empty() {
            self.turn()?;
        }
        self.spare.give_up();
        self.close_door();
        self.broken_off().map_or(Ok(()), Err)
    }

    /// Sleeps until something happens, and sees to it.
    pub(crate) fn turn(&mut self) -> Result<(), RunError> {
        self.turn_within(self.time_left())
    }

    /// Sees to what has happened.
    pub(crate) fn look(&mut self) -> Result<(), RunError> {
        self.turn_within(Some(Duration::ZERO))
    }

    fn turn_within(&mut self, timeout: Option<Duration>) -> Result<(), RunError> {
        // The master of a run in a worker that is a thread is where that worker can be killed.
        spawn::checkpoint();
        self.tell_followers();
        let all_heard = self.unheard.is_empty() && !self.visitors.is_unheard();
        let timeout = if all_heard { timeout } else { Some(Duration::ZERO) };
        let mut events = std::mem::take(&mut self.events);
        self.wait(&mut events, timeout)?;
        for id in std::mem::take(&mut self.unheard) {
            self.listen(id)?;
            self.talk(id)?;
        }
        spawn::checkpoint();
        for event in &events {
            if let Some(signal) = self.signals.taken(event.key) {
                self.interrupt(signal)?;
                continue;
            }
            if self.receive(event.key)? {
                continue;
            }
            let (id, watched) = job_of(event.key);
            match watched {
                Watched::Link => {
                    self.listen(id)?;
                    self.talk(id)?;
                }
                Watched::Child => self.bury(id)?,
            }
        }
        self.events = events;
        self.see_to_visitors()?;
        self.see_to_spare();
        self.keep_time()
    }

    /// How workers ended, and the named objects.
    pub(super) fn what_is_left(&mut self) -> (&Ends, &mut Registry) {
        (&self.ended, &mut self.named)
    }

    /// Takes what a worker has said, as much as is served in one turn. What it is answered then waits for
    /// [`talk`](Jobs::talk): who asks for much at once is woken once.
    fn listen(&mut self, id: u64) -> Result<(), PollError> {
        let mut starts = Vec::new();
        let mut size = 0;
        for _ in 0..TURN {
            let Some(job) = self.running.get(&id) else { return Ok(()) };
            let Some(link) = &job.link else { return Ok(()) };
            if job.muted {
                return Ok(());
            }
            match link.try_receive() {
                // Several that come one after the other are begun at once.
                Ok(Some(ToMaster(Request::Start { name, group, argument, given }))) => {
                    size += argument.len();
                    starts.push(Start { name, group, argument, given });
                    if size > STARTS_MAX {
                        size = 0;
                        self.serve_starts(id, std::mem::take(&mut starts))?;
                    }
                }
                Ok(Some(ToMaster(request))) => {
                    self.serve_starts(id, std::mem::take(&mut starts))?;
                    self.serve(id, request)?;
                }
                Ok(None) => return self.serve_starts(id, starts),
                // Gone, or talking nonsense: nothing more is to be had. Its end will tell.
                Err(_) => {
                    self.serve_starts(id, starts)?;
                    return self.unlink(id);
                }
            }
        }
        self.unheard.insert(id);
        self.serve_starts(id, starts)
    }

    /// A worker wants others started.
    fn serve_starts(&mut self, id: u64, starts: Vec<Start>) -> Result<(), PollError> {
        if starts.is_empty() {
            return Ok(());
        }
        self.stop_waiting(id)?;
        for started in self.start_all(starts)? {
            let reply = match started {
                Ok(id) => Reply::Started { id },
                Err(refusal) => Reply::Refused { refusal },
            };
            self.say_later(id, reply);
        }
        Ok(())
    }

    /// Who asks for something waits for nothing else.
    fn stop_waiting(&mut self, id: u64) -> Result<(), PollError> {
        self.waits.remove(&id);
        // Nor is it at an object, where a thread that was killed may have left its place.
        self.named.leave(id);
        self.send_named()
    }

    fn serve(&mut self, id: u64, request: Request) -> Result<(), PollError> {
        if let Request::Told(told) = request {
            // That of a guard that is dropped in another thread, for one, says nothing of what the worker waits for.
            return self.hear_told(id, told);
        }
        if let Request::Named(call) = request {
            self.waits.remove(&id);
            return self.serve_named(id, call);
        }
        // The task has returned from whatever it waited for.
        if let Request::Done(done) = request {
            if self.running.get(&id).is_some_and(|job| job.member) {
                self.news.push_back(News::Done(id, done));
            }
            return Ok(());
        }
        self.stop_waiting(id)?;
        let reply = match request {
            Request::Watch { id: wanted, blocking } => {
                if let Some(job) = self.running.get_mut(&wanted) {
                    job.watchers.insert(id);
                    // Who is told to stop comes out of the join that it may have begun before.
                    if blocking && self.running.get(&id).is_some_and(|job| job.stop != Stop::Told) {
                        self.waits.insert(id, wanted);
                        self.suspect_circle(id);
                    }
                    return Ok(());
                }
                self.say_ended(wanted)
            }
            Request::WatchAll { ids } => {
                for wanted in ids {
                    match self.running.get_mut(&wanted) {
                        Some(job) => drop(job.watchers.insert(id)),
                        None => self.say_later(id, self.say_ended(wanted)),
                    }
                }
                return Ok(());
            }
            Request::HeardStop => {
                if let Some(job) = self.running.get_mut(&id) {
                    job.stop = Stop::Heard;
                }
                return Ok(());
            }
            Request::Ask { id: wanted } if self.running.contains_key(&wanted) => {
                Reply::Running { id: wanted }
            }
            Request::Ask { id: wanted } => self.say_ended(wanted),
            Request::Forget { id: wanted } => {
                if self.first != Some(wanted) {
                    self.ended.remove(wanted);
                }
                return Ok(());
            }
            Request::Terminate { whom, grace } => {
                let count = self.terminate_them(&whom, id, grace)?;
                Reply::Terminating { count }
            }
            Request::Signal { id: wanted, signal } => {
                Reply::Terminating { count: u64::from(self.signal(wanted, signal)?) }
            }
            Request::Listen => return self.hear_listener(id),
            // Dealt with before.
            Request::Start { .. } | Request::Named(_) | Request::Told(_) | Request::Done(_) => return Ok(()),
            Request::Register { resource } => {
                Reply::Registered { error: self.directory.register(&resource).err() }
            }
            Request::Release { resource, remove } => {
                Reply::Registered { error: self.directory.release(&resource, remove).err() }
            }
            Request::Log { level, text } => {
                self.hear_log(id, level, text);
                return Ok(());
            }
            Request::Finished { outcome } => {
                if let Some(job) = self.running.get_mut(&id) {
                    job.outcome = Some(outcome);
                }
                return Ok(());
            }
        };
        self.say_later(id, reply);
        Ok(())
    }

    /// Has something sent when it is [talked](Jobs::talk) to the worker next.
    fn say_later(&mut self, id: u64, reply: Reply) {
        if let Some(job) = self.running.get_mut(&id).filter(|job| job.link.is_some()) {
            job.outbox.push_back(reply);
        }
    }

    fn say_ended(&self, id: u64) -> Reply {
        match self.ended.get(id) {
            Some(ended) => Reply::Ended { ended },
            None => Reply::Unknown { id },
        }
    }

    /// Sends, now or when there is room.
    pub(super) fn send(&mut self, id: u64, reply: Reply) -> Result<(), PollError> {
        self.say_later(id, reply);
        self.talk(id)
    }

    /// Sends what waits, as far as there is room.
    pub(crate) fn talk(&mut self, id: u64) -> Result<(), PollError> {
        let Some(job) = self.running.get_mut(&id) else { return Ok(()) };
        let Some(link) = &job.link else { return Ok(()) };
        let mut waits = !link.is_flushed() && !matches!(link.flush(), Ok(true) | Err(_));
        // Several go out together.
        let gathers = job.outbox.len() > 1;
        while !waits {
            let Some(reply) = job.outbox.pop_front() else { break };
            let message = ToWorker(reply);
            match if gathers { link.try_send_more(message) } else { link.try_send(message) } {
                Ok(()) if gathers && !job.outbox.is_empty() => {}
                Ok(()) if gathers => waits = !matches!(link.flush(), Ok(true) | Err(_)),
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
    pub(super) fn unlink(&mut self, id: u64) -> Result<(), PollError> {
        let Some(job) = self.running.get_mut(&id) else { return Ok(()) };
        let Some(link) = job.link.take() else { return Ok(()) };
        let mut told = Vec::new();
        let mut logged = Vec::new();
        let began = Instant::now();
        for _ in 0..LAST_WORDS {
            // Who goes on writing there is not its worker.
            if began.elapsed() > LAST_WORDS_TIME {
                break;
            }
            match link.try_receive() {
                Ok(Some(ToMaster(Request::Finished { outcome }))) => job.outcome = Some(outcome),
                Ok(Some(ToMaster(Request::Done(done)))) if job.member => {
                    self.news.push_back(News::Done(id, done));
                }
                // What it said counts; what it asked for, and never heard an answer to, does not.
                Ok(Some(ToMaster(Request::Told(last)))) => told.push(last),
                Ok(Some(ToMaster(Request::Log { level, text }))) => logged.push((level, text)),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break,
            }
        }
        job.outbox.clear();
        self.poller.remove(key(id, Watched::Link))?;
        for (level, text) in logged {
            self.hear_log(id, level, text);
        }
        for last in told {
            self.named.tell(id, last);
        }
        self.send_named()
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
        self.take_back(id)?;
        self.kill_no_more(id, job.kill_at);
        let cancelled = job.cancelled.map(|by| Outcome::Cancelled { by });
        let outcome = job.outcome.or(cancelled).unwrap_or(outcome);
        if let Outcome::Returned(_) = outcome {
            event!(debug, worker = id, name = job.name, "worker ended");
        } else {
            event!(warn, worker = id, name = job.name, ?outcome, "worker ended without a result");
        }
        let ended = Arc::new(Ended { id, name: job.name.into(), process: job.child.id(), outcome });
        self.write_ended(&ended);
        for watcher in job.watchers {
            if self.waits.get(&watcher) == Some(&id) {
                self.waits.remove(&watcher);
            }
            self.send(watcher, Reply::Ended { ended: Arc::clone(&ended) })?;
        }
        for (watcher, watch) in job.end_watches {
            self.end_watches.remove(&(watcher, watch));
            self.send(watcher, Reply::Ready { watch })?;
        }
        if job.member {
            self.news.push_back(News::Ended(ended));
            return Ok(());
        }
        self.ended.insert(ended);
        if self.first == Some(id) { self.begin_to_end() } else { Ok(()) }
    }
}

/// A run that is given up, by an error or a panic, leaves no worker behind.
impl<P: Platform> Drop for Jobs<P> {
    fn drop(&mut self) {
        let ids: Vec<u64> = self.running.keys().copied().collect();
        for id in ids {
            let _ = self.kill(id);
        }
        for job in self.running.values() {
            let _ = job.child.wait();
        }
    }
}
