//! What visitors are told: the run, its workers, its log, its named objects, page by page; and what they have of it end.
//!
//! This module does not talk to visitors.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::time::Duration;

use manycore_backends::poll::{Interest, PollError, poll_single};
use manycore_backends::spawn::Child;
use manycore_backends::transport::SocketEnd;

use super::jobs::{Job, Jobs, Stop};
use super::visitors::NAME_MAX;
use crate::named::ObjectInfo;
use crate::platform::Platform;
use crate::trace::event;
use crate::wire::facts::{RunInfo, State, Wait, WorkerInfo};
use crate::wire::visit::{Answer, Question};
use crate::worker::level::cut;
use crate::worker::{CancelledBy, Level};

/// How many workers go into one answer.
const PAGE: usize = 64;

/// Bytes of what is told of objects after which an answer takes no more. The longest takes some 20 KiB.
const OBJECTS: usize = 32 << 10;

/// What is told of an object beside its texts and who waits, at most, in bytes.
const OBJECT: usize = 160;

/// How many workers are named that wait at an object.
const WAITING_MAX: usize = 1000;

impl<P: Platform> Jobs<P> {
    /// The answer to a question, if the visitor is there still.
    pub(super) fn answer(&mut self, key: u64, question: Question) -> Result<Option<Answer>, PollError> {
        Ok(Some(match question {
            Question::Run => Answer::Run(self.run_info()),
            Question::Workers { from } => self.workers_from(from),
            Question::Objects => {
                let objects = self.named.objects().into();
                self.objects_for(key, Some(objects))
            }
            Question::MoreObjects => self.objects_for(key, None),
            Question::Log { from } => {
                Answer::Log { lines: self.log.page(self.log.number(from)), end: self.log.end() }
            }
            Question::Follow { from } => {
                let (lines, end) = (self.log.page(self.log.number(from)), self.log.end());
                if let Some(visitor) = self.visitors.visitors.get_mut(&key) {
                    visitor.follows = Some(lines.last().map_or(end, |line| line.number + 1));
                }
                Answer::Log { lines, end }
            }
            Question::Terminate { worker, grace } => {
                let Some(visitor) = self.visitors.visitors.get_mut(&key) else { return Ok(None) };
                // Who has given up waiting for the answer does not expect it to happen any more.
                if has_left(&visitor.link) {
                    return Ok(None);
                }
                let process = visitor.process;
                let count = match worker {
                    Some(id) => self.terminate_by_command(id, grace, process)?,
                    None => self.stop_by_command(grace, process)?,
                };
                Answer::Terminating { count }
            }
        }))
    }

    fn run_info(&self) -> RunInfo {
        let running = self.running.len() as u64;
        RunInfo {
            name: self.run.clone(),
            master: std::process::id(),
            processes: Self::PROCESSES,
            started: self.began,
            running,
            ended: self.next - running,
            ending: self.stopping.refusing,
        }
    }

    fn workers_from(&self, from: u64) -> Answer {
        let mut rest = self.running.range(from..);
        let workers = rest.by_ref().take(PAGE).map(|(id, job)| self.worker_info(*id, job)).collect();
        Answer::Workers { workers, more: rest.next().map(|(id, _)| *id) }
    }

    /// A page of the objects that the visitor has asked for, or of these.
    fn objects_for(&mut self, key: u64, new: Option<VecDeque<ObjectInfo>>) -> Answer {
        let mut objects = Vec::new();
        let Some(visitor) = self.visitors.visitors.get_mut(&key) else {
            return Answer::Objects { objects, more: false };
        };
        if let Some(new) = new {
            visitor.objects = new;
        }
        let mut size = 0;
        while size < OBJECTS {
            let Some(mut object) = visitor.objects.pop_front() else { break };
            size += shorten(&mut object);
            objects.push(object);
        }
        Answer::Objects { objects, more: !visitor.objects.is_empty() }
    }

    fn worker_info(&self, id: u64, job: &Job<P>) -> WorkerInfo {
        let short = |name: &str| {
            let mut name = name.to_owned();
            cut(&mut name, NAME_MAX);
            name
        };
        let stopping = job.cancelled.is_some() || job.kill_at.is_some() || job.stop != Stop::Untold;
        WorkerInfo {
            number: id,
            name: short(job.name),
            group: job.group.as_deref().map(short),
            // That of a thread may have to be waited for.
            process: if Self::PROCESSES { job.child.id() } else { std::process::id() },
            thread: !Self::PROCESSES,
            member: job.member,
            state: match (job.killed, stopping) {
                (true, _) => State::Killed,
                (false, true) => State::Stopping,
                (false, false) => State::Running,
            },
            waits_for: self.waits.get(&id).copied().map(Wait::Worker).or_else(|| {
                let (kind, name) = self.named.waits_at(id)?;
                Some(Wait::Object { kind: kind.to_owned(), name: short(name) })
            }),
            started: job.began,
        }
    }

    /// Has a worker end, and returns whether it was there, as a number.
    fn terminate_by_command(
        &mut self,
        id: u64,
        grace: Option<Duration>,
        process: u32,
    ) -> Result<u64, PollError> {
        if self.running.contains_key(&id) {
            event!(info, worker = id, process, "a visitor has a worker end");
            self.log.write(Level::Info, Some(id), format!("process {process} has it end"));
        }
        let grace = grace.unwrap_or(self.options.grace);
        self.terminate(id, CancelledBy::Command, grace).map(u64::from)
    }

    /// Has the run end, and returns how many workers there were.
    fn stop_by_command(&mut self, grace: Option<Duration>, process: u32) -> Result<u64, PollError> {
        event!(info, process, "a visitor has the run end");
        self.log.write(Level::Info, None, format!("process {process} has the run end"));
        let count = self.running.len() as u64;
        let grace = grace.unwrap_or(self.options.grace);
        self.stop_all(grace)?;
        Ok(count)
    }
}

/// Makes what is told of an object fit into an answer, and returns about how many bytes that takes.
fn shorten(object: &mut ObjectInfo) -> usize {
    let (texts, waiting) = match object {
        ObjectInfo::Variable { name, type_name, waiters, .. } => {
            (name.len() + type_name.len(), vec![waiters])
        }
        ObjectInfo::Mutex { name, waiters, .. } | ObjectInfo::Semaphore { name, waiters, .. } => {
            (name.len(), vec![waiters])
        }
        ObjectInfo::Mailbox { name, type_name, senders, receivers, .. } => {
            (name.len() + type_name.len(), vec![senders, receivers])
        }
    };
    let mut size = OBJECT + texts;
    for waiting in waiting {
        waiting.truncate(WAITING_MAX);
        size += 9 * waiting.len();
    }
    size
}

/// Whether the visitor is not there any more.
fn has_left(link: &SocketEnd<Answer, Question>) -> bool {
    let ready = poll_single(link.as_fd(), Interest::NONE, Some(Duration::ZERO));
    ready.is_ok_and(|ready| ready.is_readable())
}
