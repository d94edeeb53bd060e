//! [`Context`]: what a running worker can ask for. How it starts others is in [`start`](super::start), how it joins them in
//! [`join`](super::join).
//!
//! This module decides nothing about other workers: it asks the master, and keeps what that tells.

use std::cell::OnceCell;
use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsStr;
use std::fmt;
use std::mem;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Weak, mpsc};
use std::time::{Duration, Instant};

use manycore_backends::poll::{Notifier, PollError, SignalWatch};
use manycore_backends::transport::TransportError;
use manycore_backends::{ShmBackend, spawn};
use serde_bytes::ByteBuf;

use super::level::{self, Level};
use super::line::{Line, Link, Tell};
use super::{MasterGone, WorkerId};
use crate::resource::{Resource, ResourceError};
use crate::wire::named::Told;
use crate::wire::{Ends, Identity, Refusal, Reply, Request, Whom};

/// Signals that ask a process to end, the same numbers everywhere: `SIGINT` and `SIGTERM`.
pub(crate) const ASKING: [i32; 2] = [2, 15];

/// How often it is looked whether guards have left something to be said, while something is waited for.
const BESIDE_GUARDS: Duration = Duration::from_secs(1);

/// A worker's view of the run: who it is, and what it can ask the master for. Every worker's function gets
/// one.
#[doc(alias = "Netplex_cenv")]
pub struct Context {
    pub(super) identity: Identity,
    is_process: bool,
    line: Arc<Line>,
    /// What guards could not say, once there are any.
    unsaid: OnceCell<mpsc::Receiver<Request>>,
    /// What was heard while something was said.
    heard: VecDeque<Reply>,
    /// Ends that the master has told of.
    pub(super) ended: Ends,
    /// Workers whose end the master was asked to tell.
    pub(super) watched: BTreeSet<u64>,
    /// Workers that were watched for [`next_ended`](Context::next_ended), of which it has not told yet.
    pub(super) awaited: BTreeSet<u64>,
    stop: Stop,
    /// Tasks for this member of a pool that came while it waited for something else.
    tasks: VecDeque<(u64, u32, ByteBuf)>,
    /// Answers to requests to start, in their order.
    pub(super) starts: VecDeque<Result<u64, Refusal>>,
    /// What the worker was given.
    descriptors: Vec<OwnedFd>,
    /// Names given out by [`unique_name`](Context::unique_name).
    names: u64,
    /// Calls about named objects so far.
    pub(super) calls: u64,
    /// What is watched of named objects, and was not told of yet.
    pub(crate) watches: BTreeSet<u64>,
    /// What the master has told of that.
    pub(crate) ready: BTreeSet<u64>,
    /// Watches that [`next_ready`](Context::next_ready) tells of.
    pub(crate) awaited_objects: BTreeSet<u64>,
}

/// What a worker knows of being asked to stop.
#[derive(Default)]
struct Stop {
    listens: bool,
    asked: bool,
    /// Whether the worker's function knows.
    told: bool,
    /// For who asks by a signal instead of through the master.
    signals: Option<(Notifier, Vec<SignalWatch>)>,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Identity { id, name, run, .. } = &self.identity;
        f.debug_struct("Context")
            .field("id", id)
            .field("name", name)
            .field("run", run)
            .finish_non_exhaustive()
    }
}

impl Context {
    pub(super) fn new(
        identity: Identity,
        is_process: bool,
        link: Box<dyn Link>,
        descriptors: Vec<OwnedFd>,
    ) -> Context {
        Context {
            identity,
            is_process,
            line: Arc::new(Line::new(link)),
            unsaid: OnceCell::new(),
            heard: VecDeque::new(),
            ended: Ends::default(),
            watched: BTreeSet::new(),
            awaited: BTreeSet::new(),
            stop: Stop::default(),
            tasks: VecDeque::new(),
            starts: VecDeque::new(),
            descriptors,
            names: 0,
            calls: 0,
            watches: BTreeSet::new(),
            ready: BTreeSet::new(),
            awaited_objects: BTreeSet::new(),
        }
    }

    /// Whom guards tell that they are dropped, as long as this is there.
    pub(crate) fn teller(&self) -> Weak<dyn Tell> {
        self.unsaid.get_or_init(|| self.line.unsaid());
        Arc::downgrade(&(Arc::clone(&self.line) as Arc<dyn Tell>))
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The number of this worker in the run: 0 is the first worker.
    #[doc(alias = "self_process_id")]
    pub fn number(&self) -> u64 {
        self.identity.id
    }

    /// The name of this worker's definition.
    pub fn name(&self) -> &str {
        &self.identity.name
    }

    /// A text that is this run's own, of letters, digits and dashes.
    pub fn run(&self) -> &str {
        &self.identity.run
    }

    /// Takes the descriptors that this worker was [given](Context::start_with) at its start, in their order: none if it was
    /// given none, or has taken them already. Those that nobody takes are closed at its end.
    pub fn take_descriptors(&mut self) -> Vec<OwnedFd> {
        mem::take(&mut self.descriptors)
    }

    /// A name that nobody else has got or will get: `prefix`, the run, this worker, and a number. With it an object can
    /// be [registered](Context::register) before it is created, so that it is removed whenever the run is killed.
    pub fn unique_name(&mut self, prefix: &str) -> String {
        self.names += 1;
        format!("{prefix}-{}-{}-{}", self.identity.run, self.identity.id, self.names)
    }

    /// Has a worker end: one that has ever asked whether it [should stop](Context::should_stop) is told to; any other
    /// gets `SIGTERM`. If it is still there after the `grace` time, it is killed; with no time it is killed at once.
    /// Returns at once, with the number of workers concerned: 0 if it has ended already.
    ///
    /// What it told of its result before its end counts. If it told nothing, whoever joins it gets
    /// [`JoinError::Cancelled`](super::JoinError::Cancelled).
    ///
    /// # Errors
    /// [`MasterGone`].
    #[doc(alias("kill", "cancel"))]
    pub fn terminate<R>(&mut self, worker: WorkerId<R>, grace: Duration) -> Result<u64, MasterGone> {
        self.terminate_them(Whom::One(worker.id), grace)
    }

    /// [Terminates](Context::terminate) all workers that were started in the group, also this one if it was.
    ///
    /// # Errors
    /// [`MasterGone`].
    pub fn terminate_group(&mut self, group: &str, grace: Duration) -> Result<u64, MasterGone> {
        self.terminate_them(Whom::Group(group.to_owned()), grace)
    }

    /// [Terminates](Context::terminate) all workers but this one.
    ///
    /// # Errors
    /// [`MasterGone`].
    pub fn terminate_others(&mut self, grace: Duration) -> Result<u64, MasterGone> {
        self.terminate_them(Whom::Others, grace)
    }

    /// Sends a worker a signal, whatever that does to it, and returns whether it was there and could be sent one. If it dies
    /// of that, whoever joins it gets [`JoinError::Killed`](super::JoinError::Killed).
    ///
    /// This is how a program's tests find out what it does when a worker is killed, on every platform: a worker that is a
    /// thread ends, by a signal whose default action ends a process, when it next calls its context.
    ///
    /// # Errors
    /// [`MasterGone`].
    #[doc(alias = "kill")]
    pub fn signal<R>(&mut self, worker: WorkerId<R>, signal: i32) -> Result<bool, MasterGone> {
        self.count_told(Request::Signal { id: worker.id, signal }).map(|count| count > 0)
    }

    fn terminate_them(&mut self, whom: Whom, grace: Duration) -> Result<u64, MasterGone> {
        self.count_told(Request::Terminate { whom, grace })
    }

    /// Asks for something that is answered by the number of workers concerned.
    fn count_told(&mut self, request: Request) -> Result<u64, MasterGone> {
        let gone = |error: TransportError| MasterGone { message: error.to_string() };
        self.ask(request).map_err(gone)?;
        loop {
            match self.hear(None).map_err(gone)? {
                Reply::Terminating { count } => return Ok(count),
                reply => self.keep(reply),
            }
        }
    }

    /// Whether this worker was asked to stop. It is a matter of courtesy: who is asked has a grace time to end by itself.
    /// With the first call it becomes one that is asked at all: `SIGTERM` and `SIGINT` do not end it any more, but are
    /// such a request, too.
    ///
    /// A request also makes the next join that waits return
    /// [`JoinError::Stopping`](super::JoinError::Stopping), once, unless this has told of it before; and it makes the
    /// [descriptor](std::os::fd::AsFd) readable.
    pub fn should_stop(&mut self) -> bool {
        spawn::checkpoint();
        if !self.stop.listens {
            self.stop.listens = true;
            if self.is_process {
                // Without them requests come through the master only.
                self.stop.signals = watch_signals().ok();
            }
            let _ = self.tell(Request::Listen);
        }
        // What cannot be heard any more asks for nothing.
        while let Ok(reply) = self.hear(Some(Duration::ZERO)) {
            self.keep(reply);
        }
        let signalled = |(notifier, _): &(Notifier, _)| notifier.wait(Some(Duration::ZERO)).unwrap_or(false);
        self.stop.asked |= self.stop.signals.as_ref().is_some_and(signalled);
        self.is_told_to_stop();
        self.stop.asked
    }

    /// Whether this worker was asked to stop and its function does not know yet. From now on it does.
    pub(super) fn is_told_to_stop(&mut self) -> bool {
        let news = self.stop.asked && !std::mem::replace(&mut self.stop.told, true);
        if news {
            // Who cannot be told is not waited for by anybody any more.
            let _ = self.tell(Request::HeardStop);
        }
        news
    }

    /// Whether what this worker waits for is not worth waiting for any more.
    pub(super) fn should_come_back(&self) -> bool {
        self.stop.asked && !self.stop.told
    }

    /// Has an object removed at the end of the run, however it ends: also if the program is killed, by the next run with
    /// the same directory, or of the same user. Best done before the object is created, with a
    /// [unique name](Context::unique_name): that there is none is no error.
    ///
    /// # Errors
    /// [`ResourceError::Relative`], [`ResourceError::Ledger`], [`ResourceError::MasterGone`].
    pub fn register(&mut self, resource: Resource) -> Result<(), ResourceError> {
        resource.check()?;
        self.about_resource(Request::Register { resource })
    }

    /// Registers an object of the platform's shared memory, such as a table, by its name, as
    /// [`ShmTable::name`](crate::ShmTable::name) tells it. On threads, it is in the memory of the process, and is removed
    /// from there.
    ///
    /// # Errors
    /// As [`register`](Context::register); [`ResourceError::Unsupported`].
    pub fn register_shm<B: ShmBackend>(&mut self, name: impl AsRef<OsStr>) -> Result<(), ResourceError> {
        self.register(Resource::shm::<B>(name.as_ref())?)
    }

    /// Removes an object now, and not at the end of the run any more. That there is none is no error.
    ///
    /// # Errors
    /// [`ResourceError::Remove`]; [`ResourceError::MasterGone`].
    pub fn remove(&mut self, resource: Resource) -> Result<(), ResourceError> {
        resource.check()?;
        self.about_resource(Request::Release { resource, remove: true })
    }

    /// Has a registered object outlive the run.
    ///
    /// # Errors
    /// [`ResourceError::Ledger`]; [`ResourceError::MasterGone`].
    pub fn release(&mut self, resource: Resource) -> Result<(), ResourceError> {
        resource.check()?;
        self.about_resource(Request::Release { resource, remove: false })
    }

    fn about_resource(&mut self, request: Request) -> Result<(), ResourceError> {
        let gone = |error: TransportError| ResourceError::MasterGone { message: error.to_string() };
        self.ask(request).map_err(gone)?;
        loop {
            match self.hear(None).map_err(gone)? {
                Reply::Registered { error } => return error.map_or(Ok(()), Err),
                reply => self.keep(reply),
            }
        }
    }

    /// Writes a line into the run's log, of at most 4 KiB: what is longer is cut. The master keeps the last 1024 lines, of
    /// all workers and its own; the command `manycore log` shows them while the run goes on, and so does
    /// [`Visitor::log`](crate::admin::Visitor::log). With the feature `tracing` the master's subscribers are told, too. If
    /// the master is gone, nobody is.
    pub fn log(&mut self, level: Level, text: impl Into<String>) {
        let mut text = text.into();
        level::cut(&mut text, level::TEXT_MAX);
        let _ = self.ask(Request::Log { level, text });
    }

    /// Ends this worker with an exit code, of which the low eight bits count: whoever joins it gets
    /// [`JoinError::Exited`](super::JoinError::Exited). Unlike [`std::process::exit`] it ends a worker that is a thread, too.
    pub fn exit(&self, code: i32) -> ! {
        spawn::exit(code)
    }

    /// The next tasks for a member of a pool: a number, how many, and their arguments. `None` when there are no more, or it
    /// should stop.
    pub(super) fn next_tasks(&mut self) -> Option<(u64, u32, ByteBuf)> {
        loop {
            if self.stop.asked {
                return None;
            }
            if let Some(tasks) = self.tasks.pop_front() {
                return Some(tasks);
            }
            let reply = self.hear(None).ok()?;
            self.keep(reply);
        }
    }

    /// Asks for something. A worker that was killed ends here.
    pub(super) fn ask(&mut self, request: Request) -> Result<(), TransportError> {
        spawn::checkpoint();
        let result = self.tell(request);
        spawn::checkpoint();
        result
    }

    /// Says something, and what guards have left to be said.
    pub(super) fn tell(&mut self, request: Request) -> Result<(), TransportError> {
        self.say_unsaid()?;
        self.say(request)
    }

    fn say_unsaid(&mut self) -> Result<(), TransportError> {
        while let Some(Ok(unsaid)) = self.unsaid.get().map(mpsc::Receiver::try_recv) {
            if let Request::Told(Told::Unwatch { watch }) = &unsaid {
                self.watches.remove(watch);
                self.ready.remove(watch);
            }
            self.say(unsaid)?;
        }
        Ok(())
    }

    fn say(&mut self, request: Request) -> Result<(), TransportError> {
        let heard = &mut self.heard;
        self.line.say(request, |reply| heard.push_back(reply))
    }

    /// What the master says next, or that a signal has asked this worker to stop. A worker that was killed ends here.
    pub(super) fn hear(&mut self, timeout: Option<Duration>) -> Result<Reply, TransportError> {
        let result = match self.heard.pop_front() {
            Some(reply) => Ok(reply),
            None if Arc::weak_count(&self.line) == 0 => self.hear_more(timeout),
            None => self.hear_beside_guards(timeout),
        };
        spawn::checkpoint();
        result
    }

    /// The same while there are guards: one that is dropped in another thread may leave something to be said.
    fn hear_beside_guards(&mut self, timeout: Option<Duration>) -> Result<Reply, TransportError> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            match self.hear_more(Some(left.map_or(BESIDE_GUARDS, |left| left.min(BESIDE_GUARDS)))) {
                Err(TransportError::TimedOut) if left.is_none_or(|left| left > BESIDE_GUARDS) => {
                    self.line.flush()?;
                    self.say_unsaid()?;
                    if let Some(reply) = self.heard.pop_front() {
                        return Ok(reply);
                    }
                }
                result => return result,
            }
        }
    }

    fn hear_more(&mut self, timeout: Option<Duration>) -> Result<Reply, TransportError> {
        match &self.stop.signals {
            Some((notifier, _)) if timeout != Some(Duration::ZERO) && !self.stop.asked => {
                self.line.hear_either(notifier, timeout)
            }
            _ => self.line.hear(timeout),
        }
    }

    /// Keeps what is told beside the answer that is waited for.
    pub(super) fn keep(&mut self, reply: Reply) {
        match reply {
            Reply::Ended { ended } => {
                self.watched.remove(&ended.id);
                self.ended.insert(ended);
            }
            Reply::Unknown { id } => {
                self.watched.remove(&id);
            }
            Reply::Stop => self.stop.asked = true,
            Reply::Started { id } => self.starts.push_back(Ok(id)),
            Reply::Refused { refusal } => self.starts.push_back(Err(refusal)),
            Reply::Ready { watch } if self.watches.contains(&watch) => drop(self.ready.insert(watch)),
            Reply::Tasks { batch, count, arguments } => self.tasks.push_back((batch, count, arguments)),
            _ => {}
        }
    }
}

/// The descriptor of the link to the master: readable when it has told something, such as the end of a worker
/// that is [watched](Context::watch), that something is [ready](Context::watch_for), or that this worker
/// [should stop](Context::should_stop). What any call has heard meanwhile is kept, and the descriptor not readable for it:
/// ask [`next_ended`](Context::next_ended) and [`next_ready`](Context::next_ready) until they return `None`, and
/// `should_stop`, before waiting for it.
impl AsFd for Context {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.line.as_fd()
    }
}

fn watch_signals() -> Result<(Notifier, Vec<SignalWatch>), PollError> {
    let notifier = Notifier::new()?;
    let watches = ASKING.iter().map(|signal| notifier.watch_signal(*signal)).collect::<Result<_, _>>()?;
    Ok((notifier, watches))
}
