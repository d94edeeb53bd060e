//! The executioner: a backend whose user is killed at its n-th access to memory, so that a test can try all of them.
//!
//! A process that is killed stops between two instructions; what others can tell apart is only which of its accesses to the
//! shared words it has made. The [recorder](super::recorder) gives the images that it leaves; here it really dies, with its
//! locks and its marks, and others may be at work meanwhile.

use std::cell::Cell;

use rustix::process::{Signal, getpid, kill_process};

use super::observed::{Access, Observed, Observer};
use crate::shm::OutOfBounds;

thread_local! {
    static LEFT: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Kills this process by `SIGKILL` when the calling thread is about to make another access through a [`Mortal`] after so
/// many. (Words of a run that is written are counted one by one.)
pub fn die_after(accesses: u64) {
    LEFT.set(Some(accesses));
}

/// Lets the thread live. How many accesses were left; `None` if it was not to die.
pub fn live() -> Option<u64> {
    LEFT.take()
}

/// `B`, whose users die when they are told to.
pub type Mortal<B> = Observed<B, Mortality>;

/// Counts accesses, and kills.
#[derive(Debug)]
pub struct Mortality;

impl Observer for Mortality {
    fn access(_: Access, _: usize) -> Result<(), OutOfBounds> {
        match LEFT.get() {
            None => {}
            Some(0) => loop {
                // It does not return, but for the moment that it takes.
                let _ = kill_process(getpid(), Signal::KILL);
            },
            Some(left) => LEFT.set(Some(left - 1)),
        }
        Ok(())
    }
}
