//! Starting: how a [`Context`] asks for other workers.
//!
//! The master answers requests to start in their order, so that many can be under way.
//!
//! This module starts no process: the master does.

use std::os::fd::OwnedFd;
use std::time::Duration;

use manycore_backends::transport::{DESCRIPTORS_MAX, TransportError};
use serde::Serialize;
use serde_bytes::ByteBuf;

use super::{Context, StartError, Worker, WorkerId};
use crate::wire::{self, ENVELOPE, Given, Request};

/// How many workers are asked for before the first answer is heard.
const ASKED_MAX: usize = 64;

impl Context {
    /// Starts another worker. It is a child of the master, whoever asks; this one can end before it.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start<A, R>(&mut self, worker: &Worker<A, R>, argument: A) -> Result<WorkerId<R>, StartError>
    where
        A: Serialize,
    {
        self.start_in_group(None, worker, argument)
    }

    /// Starts another worker as one of a group, which can be [ended](Context::terminate_group) together. A group is
    /// nothing but a name.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start_in<A, R>(
        &mut self,
        group: &str,
        worker: &Worker<A, R>,
        argument: A,
    ) -> Result<WorkerId<R>, StartError>
    where
        A: Serialize,
    {
        self.start_in_group(Some(group.to_owned()), worker, argument)
    }

    /// Starts another worker and gives it descriptors, at most 253: files, sockets, ends of pipes. It
    /// [takes](Context::take_descriptors) them in this order. Here they are closed: keep duplicates of what is needed still.
    /// If the worker is not started, they are closed, too.
    ///
    /// ```
    /// use std::io::{Read, Write};
    /// use std::os::unix::net::UnixStream;
    /// use manycore::{Runtime, Worker};
    ///
    /// const GREET: Worker<String, ()> = Worker::fallible("greet", |context, name| {
    ///     let mut descriptors = context.take_descriptors().into_iter();
    ///     let mut stream = UnixStream::from(descriptors.next().expect("it is given one"));
    ///     Ok(stream.write_all(format!("Hello, {name}!").as_bytes())?)
    /// });
    /// const FIRST: Worker<(), String> = Worker::fallible("first", |context, ()| {
    ///     let (mut ours, theirs) = UnixStream::pair()?;
    ///     let worker = context.start_with(&GREET, "stranger".to_owned(), vec![theirs.into()])?;
    ///     let mut text = String::new();
    ///     ours.read_to_string(&mut text)?;
    ///     context.join(worker)?;
    ///     Ok(text)
    /// });
    /// assert_eq!(Runtime::new().with(&GREET).run(&FIRST, ())?, "Hello, stranger!");
    /// # Ok::<(), manycore::RunError>(())
    /// ```
    ///
    /// # Errors
    /// [`StartError::TooManyDescriptors`]; [`StartError::Spawn`] with `EMFILE` if the master has no room for them, and with
    /// `ETOOMANYREFS` if too many are on their way; else [`StartError`].
    #[doc(alias("inherit_resources", "SCM_RIGHTS", "send_handle"))]
    pub fn start_with<A, R>(
        &mut self,
        worker: &Worker<A, R>,
        argument: A,
        descriptors: Vec<OwnedFd>,
    ) -> Result<WorkerId<R>, StartError>
    where
        A: Serialize,
    {
        check_descriptors(worker.name(), descriptors.len())?;
        self.ask_to_start(None, worker, argument, descriptors)?;
        self.hear_started(worker)
    }

    /// Starts a worker for each argument, and asks for all of them before it hears of the first, which takes less time than
    /// one by one.
    ///
    /// # Errors
    /// [`StartError`]; those that were started are killed then.
    pub fn start_all<A, R>(
        &mut self,
        worker: &Worker<A, R>,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<Vec<WorkerId<R>>, StartError>
    where
        A: Serialize,
    {
        let (mut workers, mut failed, mut asked) = (Vec::new(), None, 0);
        for argument in arguments {
            match self.ask_to_start(None, worker, argument, Vec::new()) {
                Ok(()) => asked += 1,
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
            if asked >= ASKED_MAX {
                asked -= 1;
                match self.hear_started(worker) {
                    Ok(id) => workers.push(id),
                    Err(error) => {
                        failed = Some(error);
                        break;
                    }
                }
            }
        }
        for _ in 0..asked {
            match self.hear_started(worker) {
                Ok(id) => workers.push(id),
                Err(error) => drop(failed.get_or_insert(error)),
            }
        }
        match failed {
            None => Ok(workers),
            Some(error) => {
                for worker in workers {
                    // If the master is gone, so are they.
                    let _ = self.terminate(worker, Duration::ZERO);
                }
                Err(error)
            }
        }
    }

    fn start_in_group<A: Serialize, R>(
        &mut self,
        group: Option<String>,
        worker: &Worker<A, R>,
        argument: A,
    ) -> Result<WorkerId<R>, StartError> {
        self.ask_to_start(group, worker, argument, Vec::new())?;
        self.hear_started(worker)
    }

    fn ask_to_start<A: Serialize, R>(
        &mut self,
        group: Option<String>,
        worker: &Worker<A, R>,
        argument: A,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), StartError> {
        let name = worker.name();
        let limit = self.identity.message_limit;
        let argument = encode_argument(name, &argument, limit)?;
        // A name beside the argument: there is room for those of people.
        let size = argument.len().saturating_add(group.as_ref().map_or(0, String::len));
        if size > limit.saturating_add(ENVELOPE / 4) {
            return Err(StartError::TooBig { name: name.to_owned(), size, limit });
        }
        let given = Given(Ok(descriptors));
        let request = Request::Start { name: name.to_owned(), group, argument, given };
        self.ask(request).map_err(|error| match error {
            TransportError::Io { ref source, .. } => StartError::Spawn {
                name: name.to_owned(),
                message: error.to_string(),
                errno: source.raw_os_error(),
            },
            error => StartError::MasterGone { message: error.to_string() },
        })
    }

    /// The answer to the oldest request to start that is not answered yet.
    fn hear_started<A, R>(&mut self, worker: &Worker<A, R>) -> Result<WorkerId<R>, StartError> {
        loop {
            if let Some(reply) = self.starts.pop_front() {
                return reply
                    .map(WorkerId::new)
                    .map_err(|refusal| StartError::refused(worker.name(), refusal));
            }
            match self.hear(None) {
                Ok(reply) => self.keep(reply),
                Err(error) => return Err(StartError::MasterGone { message: error.to_string() }),
            }
        }
    }
}

/// Whether a worker can be given so many descriptors: on all platforms the same.
pub(crate) fn check_descriptors(name: &str, count: usize) -> Result<(), StartError> {
    let limit = DESCRIPTORS_MAX;
    if count > limit {
        return Err(StartError::TooManyDescriptors { name: name.to_owned(), count, limit });
    }
    Ok(())
}

/// Encodes an argument of at most `limit` bytes.
pub(crate) fn encode_argument(
    name: &str,
    argument: &impl Serialize,
    limit: usize,
) -> Result<ByteBuf, StartError> {
    let mut bytes = Vec::new();
    let result = wire::append(argument, &mut bytes);
    check_argument(name, result.map(|()| bytes.len()), limit)?;
    Ok(ByteBuf::from(bytes))
}

/// Appends an encoded argument of at most `limit` bytes as a [part](wire::push_part). After an error `bytes` is as it was.
pub(crate) fn push_argument(
    name: &str,
    argument: &impl Serialize,
    limit: usize,
    bytes: &mut Vec<u8>,
) -> Result<(), StartError> {
    let result = wire::push_part(bytes, limit, |bytes| wire::append(argument, bytes));
    check_argument(name, result, limit)
}

fn check_argument(name: &str, size: Result<usize, String>, limit: usize) -> Result<(), StartError> {
    let name = || name.to_owned();
    match size {
        Ok(size) if size > limit => Err(StartError::TooBig { name: name(), size, limit }),
        Ok(_) => Ok(()),
        Err(message) => Err(StartError::Unserializable { name: name(), message }),
    }
}
