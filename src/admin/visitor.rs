//! [`Visitor`]: questions to a master, one after the other.
//!
//! This module keeps nothing of the answers.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use manycore_backends::transport::{Endpoint, SocketEnd, TransportError};

use super::{AdminError, LogLine, ObjectInfo, Run, RunInfo, WorkerInfo};
use crate::wire::visit::{Answer, LogFrom, Question};
use crate::wire::{OtherVersion, VERSION};

/// A conversation with the master of a run. It keeps nothing alive. After an error other than
/// [`AdminError::NoSuchWorker`] it is over, and everything is [`AdminError::Closed`].
#[derive(Debug)]
#[doc(alias = "netplex-admin")]
pub struct Visitor {
    run: Run,
    info: RunInfo,
    /// `None` after a question that was not answered: what comes late would be taken for the answer to the next one.
    link: Option<SocketEnd<Question, Answer>>,
    timeout: Duration,
}

/// The lines of a run's log as they come: see [`Visitor::follow`].
#[derive(Debug)]
pub struct Log {
    run: Run,
    /// `None` when nothing more comes.
    link: Option<SocketEnd<Question, Answer>>,
    lines: VecDeque<LogLine>,
}

impl Run {
    pub(super) fn failed(&self, error: TransportError, timeout: Duration) -> AdminError {
        let directory = self.directory.clone();
        match error {
            TransportError::Refused => AdminError::NotRunning { directory },
            TransportError::Stranger(_) => AdminError::NotAllowed { directory, source: error },
            TransportError::Io { ref source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                AdminError::NotAllowed { directory, source: error }
            }
            // Something in the path is a file.
            TransportError::Io { ref source, .. } if source.kind() == io::ErrorKind::NotADirectory => {
                AdminError::NotRunning { directory }
            }
            TransportError::TimedOut => AdminError::TimedOut { directory, timeout },
            TransportError::Closed => AdminError::Closed { directory },
            TransportError::Decode(error) => match error.downcast::<OtherVersion>() {
                Ok(other) => AdminError::Version { directory, theirs: other.version, ours: VERSION },
                Err(error) => AdminError::Transport { directory, source: TransportError::Decode(error) },
            },
            source => AdminError::Transport { directory, source },
        }
    }
}

impl Visitor {
    pub(super) fn new(
        run: Run,
        link: SocketEnd<Question, Answer>,
        timeout: Duration,
    ) -> Result<Visitor, AdminError> {
        match ask(&run, &link, timeout, Question::Run)? {
            Answer::Run(info) => Ok(Visitor { run, info, link: Some(link), timeout }),
            other => Err(unexpected(&run, &other)),
        }
    }

    /// The run.
    pub fn run(&self) -> &Run {
        &self.run
    }

    /// The run as a whole, as it was when the conversation began.
    pub fn info(&self) -> &RunInfo {
        &self.info
    }

    /// The run as a whole, as it is now.
    ///
    /// # Errors
    /// [`AdminError::TimedOut`], [`AdminError::Closed`], [`AdminError::Transport`].
    pub fn refresh(&mut self) -> Result<&RunInfo, AdminError> {
        match self.ask(Question::Run)? {
            Answer::Run(info) => {
                self.info = info;
                Ok(&self.info)
            }
            other => Err(unexpected(&self.run, &other)),
        }
    }

    /// The workers that run, in the order of their numbers. If there are many, some may start or end while they are told.
    ///
    /// # Errors
    /// [`AdminError::TimedOut`], [`AdminError::Closed`], [`AdminError::Transport`].
    pub fn workers(&mut self) -> Result<Vec<WorkerInfo>, AdminError> {
        let mut all = Vec::new();
        let mut from = 0;
        loop {
            match self.ask(Question::Workers { from })? {
                Answer::Workers { workers, more } => {
                    all.extend(workers);
                    match more {
                        Some(more) if more > from => from = more,
                        _ => return Ok(all),
                    }
                }
                other => return Err(unexpected(&self.run, &other)),
            }
        }
    }

    /// The named objects, by kind and name, as they were in one moment. Of more than 1000 workers that wait at one, the first
    /// ones.
    ///
    /// # Errors
    /// [`AdminError::TimedOut`], [`AdminError::Closed`], [`AdminError::Transport`].
    pub fn objects(&mut self) -> Result<Vec<ObjectInfo>, AdminError> {
        let mut all = Vec::new();
        let mut question = Question::Objects;
        loop {
            match self.ask(question)? {
                Answer::Objects { objects, more } => {
                    all.extend(objects);
                    if !more {
                        return Ok(all);
                    }
                    question = Question::MoreObjects;
                }
                other => return Err(unexpected(&self.run, &other)),
            }
        }
    }

    /// The last lines of the log, so many at most.
    ///
    /// # Errors
    /// [`AdminError::TimedOut`], [`AdminError::Closed`], [`AdminError::Transport`].
    pub fn log(&mut self, lines: u64) -> Result<Vec<LogLine>, AdminError> {
        let mut all: Vec<LogLine> = Vec::new();
        let mut from = LogFrom::Last(lines);
        // What comes meanwhile is not waited for.
        let mut until = None;
        loop {
            match self.ask(Question::Log { from })? {
                Answer::Log { lines, end } => {
                    let until = *until.get_or_insert(end);
                    let next = lines.last().map_or(until, |line| line.number.saturating_add(1));
                    all.extend(lines.into_iter().filter(|line| line.number < until));
                    if next >= until {
                        return Ok(all);
                    }
                    from = LogFrom::Line(next);
                }
                other => return Err(unexpected(&self.run, &other)),
            }
        }
    }

    /// The last lines of the log, so many at most, and then all that come, until the run ends. Who takes them slower than they
    /// come misses some, as their numbers tell.
    ///
    /// # Errors
    /// [`AdminError::TimedOut`], [`AdminError::Closed`], [`AdminError::Transport`].
    pub fn follow(self, lines: u64) -> Result<Log, AdminError> {
        let Visitor { run, link, timeout, .. } = self;
        let Some(link) = link else { return Err(run.failed(TransportError::Closed, timeout)) };
        let question = Question::Follow { from: LogFrom::Last(lines) };
        match ask(&run, &link, timeout, question)? {
            Answer::Log { lines, .. } => Ok(Log { run, link: Some(link), lines: lines.into() }),
            other => Err(unexpected(&run, &other)),
        }
    }

    /// Has a worker end, as [`Context::terminate`](crate::Context::terminate) does, with this grace time or that of the
    /// run. Returns when it was told so; who joins it gets
    /// [`JoinError::Cancelled`](crate::JoinError::Cancelled).
    ///
    /// # Errors
    /// [`AdminError::NoSuchWorker`]; [`AdminError::TimedOut`], [`AdminError::Closed`], [`AdminError::Transport`].
    pub fn stop_worker(&mut self, number: u64, grace: Option<Duration>) -> Result<(), AdminError> {
        match self.terminate(Some(number), grace)? {
            0 => Err(AdminError::NoSuchWorker { number }),
            _ => Ok(()),
        }
    }

    /// Kills a worker: as [`stop_worker`](Visitor::stop_worker) with no grace time.
    ///
    /// # Errors
    /// As [`stop_worker`](Visitor::stop_worker).
    pub fn kill_worker(&mut self, number: u64) -> Result<(), AdminError> {
        self.stop_worker(number, Some(Duration::ZERO))
    }

    /// Has the run end in order: no more workers are started, all are terminated with this grace time or that of the run, and
    /// the run is [`RunError::Stopped`](crate::RunError::Stopped). Returns how many workers were told.
    ///
    /// # Errors
    /// [`AdminError::TimedOut`], [`AdminError::Closed`], [`AdminError::Transport`].
    pub fn stop_all(&mut self, grace: Option<Duration>) -> Result<u64, AdminError> {
        self.terminate(None, grace)
    }

    /// Kills all workers, and ends the run: as [`stop_all`](Visitor::stop_all) with no grace time.
    ///
    /// # Errors
    /// As [`stop_all`](Visitor::stop_all).
    pub fn kill_all(&mut self) -> Result<u64, AdminError> {
        self.stop_all(Some(Duration::ZERO))
    }

    fn terminate(&mut self, worker: Option<u64>, grace: Option<Duration>) -> Result<u64, AdminError> {
        match self.ask(Question::Terminate { worker, grace })? {
            Answer::Terminating { count } => Ok(count),
            other => Err(unexpected(&self.run, &other)),
        }
    }

    fn ask(&mut self, question: Question) -> Result<Answer, AdminError> {
        let Some(link) = self.link.take() else {
            return Err(self.run.failed(TransportError::Closed, self.timeout));
        };
        let answer = ask(&self.run, &link, self.timeout, question)?;
        self.link = Some(link);
        Ok(answer)
    }
}

impl Log {
    /// The next line, waiting for it at most so long, `None` for ever.
    ///
    /// # Errors
    /// [`AdminError::TimedOut`] if none has come; [`AdminError::Closed`] when the run has ended;
    /// [`AdminError::Transport`].
    pub fn next_line(&mut self, timeout: Option<Duration>) -> Result<LogLine, AdminError> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                return Ok(line);
            }
            let Some(link) = &self.link else {
                return Err(self.run.failed(TransportError::Closed, Duration::MAX));
            };
            let error = match link.receive(timeout) {
                Ok(Answer::Log { lines, .. }) => {
                    self.lines.extend(lines);
                    continue;
                }
                Ok(other) => unexpected(&self.run, &other),
                Err(error) => self.run.failed(error, timeout.unwrap_or(Duration::MAX)),
            };
            if !matches!(error, AdminError::TimedOut { .. }) {
                self.link = None;
            }
            return Err(error);
        }
    }
}

/// The lines as they come, until the run ends.
impl Iterator for Log {
    type Item = Result<LogLine, AdminError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.next_line(None) {
            Err(AdminError::Closed { .. }) => None,
            result => Some(result),
        }
    }
}

fn ask(
    run: &Run,
    link: &SocketEnd<Question, Answer>,
    timeout: Duration,
    question: Question,
) -> Result<Answer, AdminError> {
    let answer = link.send(question, Some(timeout)).and_then(|()| link.receive(Some(timeout)));
    answer.map_err(|error| run.failed(error, timeout))
}

/// The master has not understood the question, or the answer is to another one.
fn unexpected(run: &Run, answer: &Answer) -> AdminError {
    let message = match answer {
        Answer::NotUnderstood { message } => format!("it has not understood: {message}"),
        _ => "its answer is to another question".to_owned(),
    };
    AdminError::Transport { directory: run.directory.clone(), source: TransportError::Decode(message.into()) }
}
