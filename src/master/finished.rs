//! [`Finished`]: what is left of a run when all its workers have ended.
//!
//! This module sends no messages and never waits: whoever could answer or change something is gone.

use std::fmt;
use std::sync::{Arc, Weak, mpsc};

use serde::de::DeserializeOwned;

use super::Jobs;
use crate::named::{Caller, Calling, Calls, MASTER, NamedError, ObjectInfo, Registry};
use crate::platform::Platform;
use crate::wire::named::{Answer, Call, Operation, Told, Wait};
use crate::wire::{Ended, Reply};
use crate::worker::{JoinError, Tell, WorkerId};

/// A run whose workers have all ended, for the end of [`Runtime::run_then`](crate::Runtime::run_then). The
/// [named objects](crate::named) are still there.
pub struct Finished<'run> {
    ended: Box<dyn Fn(u64) -> Option<Arc<Ended>> + 'run>,
    named: &'run mut Registry,
    limit: usize,
    calls: u64,
    /// What guards tell when they are dropped.
    told: (Arc<Queue>, mpsc::Receiver<Told>),
}

struct Queue(mpsc::Sender<Told>);

impl Tell for Queue {
    fn tell(&self, told: Told) {
        // Its other end is there as long as this is.
        let _ = self.0.send(told);
    }

    fn tell_later(&self, told: Told) {
        self.tell(told);
    }
}

impl fmt::Debug for Finished<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Finished").finish_non_exhaustive()
    }
}

impl<'run> Finished<'run> {
    pub(super) fn new<P: Platform>(jobs: &'run mut Jobs<P>) -> Finished<'run> {
        let (sender, receiver) = mpsc::channel();
        let limit = jobs.message_limit();
        let (ended, named) = jobs.what_is_left();
        Finished {
            ended: Box::new(|id| ended.get(id)),
            named,
            limit,
            calls: 0,
            told: (Arc::new(Queue(sender)), receiver),
        }
    }

    /// The result of a worker.
    ///
    /// # Errors
    /// [`JoinError`] says why there is none.
    #[doc(alias = "join_nowait")]
    pub fn join<R: DeserializeOwned>(&self, worker: WorkerId<R>) -> Result<R, JoinError> {
        let number = worker.number();
        (self.ended)(number).ok_or(JoinError::Unknown { number })?.result()
    }

    /// The named objects, by kind and name. What is held here is said to be held by worker `u64::MAX`.
    pub fn objects(&mut self) -> Vec<ObjectInfo> {
        self.hear_guards();
        self.named.objects()
    }

    fn hear_guards(&mut self) {
        while let Ok(told) = self.told.1.try_recv() {
            self.named.tell(MASTER, told);
        }
    }
}

impl Caller for Finished<'_> {
    fn calling(&mut self) -> Calling<'_> {
        Calling::new(self)
    }
}

impl Calls for Finished<'_> {
    fn ask(&mut self, operation: Operation) -> Result<Answer, NamedError> {
        self.hear_guards();
        self.calls += 1;
        self.named.ask(MASTER, Call { number: self.calls, wait: Wait::No, operation });
        let mut answered = None;
        for (party, reply) in self.named.take_replies() {
            match reply {
                Reply::Named { number, answer } if (party, number) == (MASTER, self.calls) => {
                    answered = Some(answer);
                }
                // Nobody else is left.
                _ => {}
            }
        }
        if let Some(Answer::Message(_)) = answered {
            self.named.tell(MASTER, Told::Confirmed { call: self.calls });
        }
        answered.ok_or_else(|| NamedError::MasterGone { message: "it has no answer".to_owned() })
    }

    fn teller(&self) -> Weak<dyn Tell> {
        Arc::downgrade(&(Arc::clone(&self.told.0) as Arc<dyn Tell>))
    }

    fn limit(&self) -> usize {
        self.limit
    }
}
