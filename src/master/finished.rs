//! [`Finished`]: what is left of a run when all its workers have ended.
//!
//! This module changes nothing of it.

use std::fmt;
use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::Jobs;
use crate::platform::Platform;
use crate::wire::Ended;
use crate::worker::{JoinError, WorkerId};

/// A run whose workers have all ended, for the end of [`Runtime::run_then`](crate::Runtime::run_then).
pub struct Finished<'run> {
    ended: Box<dyn Fn(u64) -> Option<Arc<Ended>> + 'run>,
}

impl fmt::Debug for Finished<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Finished").finish_non_exhaustive()
    }
}

impl<'run> Finished<'run> {
    pub(super) fn new<P: Platform>(jobs: &'run Jobs<P>) -> Finished<'run> {
        Finished { ended: Box::new(|id| jobs.ended(id).cloned()) }
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
}
