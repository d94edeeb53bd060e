//! The cores of the machine, and a meeting point of processes.

use std::ffi::OsStr;
use std::hint::spin_loop;
use std::time::{Duration, Instant};

use manycore::PosixShm;
use manycore::shm::{Memory, Open, ShmBackend, create_unique};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The cores that this thread may use.
pub(crate) fn cores() -> Vec<usize> {
    let allowed = sched_getaffinity(None).unwrap();
    (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).collect()
}

/// Keeps the calling thread on one core. Different parties get different ones, as far as there are any.
pub(crate) fn pin(party: usize, cores: &[usize]) {
    let mut set = CpuSet::new();
    set.set(cores[party % cores.len()]);
    sched_setaffinity(None, &set).unwrap();
}

/// Lets the calling thread run on all of them again.
pub(crate) fn unpin(cores: &[usize]) {
    let mut set = CpuSet::new();
    cores.iter().for_each(|core| set.set(*core));
    sched_setaffinity(None, &set).unwrap();
}

/// Where the parties of a measurement wait until all have come.
#[derive(Debug)]
pub(crate) struct Meeting(PosixShm);

impl Meeting {
    pub(crate) fn of(parties: usize) -> Meeting {
        let object: PosixShm = create_unique(OsStr::new("/manycore-bench-meeting-XXXXXX"), 0o600).unwrap();
        object.grow(4 * parties as u64).unwrap();
        Meeting(object)
    }

    pub(crate) fn name(&self) -> String {
        self.0.name().to_str().unwrap().to_owned()
    }

    /// Comes, and waits for the others: spinning, so that all begin at once.
    pub(crate) fn attend(name: &str, party: usize) {
        let object = PosixShm::open(OsStr::new(name), Open::Existing).unwrap();
        let parties = object.size().unwrap() as usize / 4;
        object.memory().store(party, 1).unwrap();
        let start = Instant::now();
        while (0..parties).any(|other| object.memory().load(other).unwrap() == 0) {
            assert!(start.elapsed() < Duration::from_secs(20), "the other party does not come");
            spin_loop();
        }
    }
}

impl Drop for Meeting {
    fn drop(&mut self) {
        let _ = PosixShm::unlink(self.0.name());
    }
}
