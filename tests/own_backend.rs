//! Who writes a backend can run the suites with this crate alone (feature `testing`).

use std::time::Duration;

use manycore::poll::{Event, Interest, PollError, Ready, Source};
use manycore::testing::shm::all;
use manycore::transport::Message;
use manycore::{Epoll, Heap, Poller, Polysocket, worker};

/// A poller that is not of the library.
#[derive(Debug)]
struct Wrapped(Epoll);

impl Poller for Wrapped {
    const ALWAYS_TOLD: Ready = Epoll::ALWAYS_TOLD;

    fn new() -> Result<Self, PollError> {
        Epoll::new().map(Wrapped)
    }

    fn add(&self, key: u64, source: Source, interest: Interest) -> Result<(), PollError> {
        self.0.add(key, source, interest)
    }

    fn modify(&self, key: u64, interest: Interest) -> Result<(), PollError> {
        self.0.modify(key, interest)
    }

    fn remove(&self, key: u64) -> Result<Source, PollError> {
        self.0.remove(key)
    }

    fn wait(&self, events: &mut Vec<Event>, timeout: Option<Duration>) -> Result<(), PollError> {
        self.0.wait(events, timeout)
    }

    fn notify(&self) -> Result<(), PollError> {
        self.0.notify()
    }
}

manycore::poll_conformance!(wrapped, Wrapped);
manycore::transport_conformance!(polysocket, Polysocket);

#[test]
fn lists_and_messages_are_there_too() {
    assert!(all::<Heap>().len() > 5);
    assert!(worker::ToMaster::decode(&[]).is_err());
    assert_eq!(manycore::testing::read_as_messages(&[]), 0);
    assert_eq!(manycore::testing::read_as_messages(&[0x80]), 1, "an empty list of values");
}
