//! For tests (feature `testing`): all of [`manycore_backends::testing`], the conformance suites of the five contracts, the
//! fault injector and the crash recorder; so that who writes a backend adds one crate.
//!
//! Nothing in here is needed, or used, outside tests. The suites that are macros are at the front of this crate:
//! [`poll_conformance!`](crate::poll_conformance), [`transport_conformance!`](crate::transport_conformance).

pub use manycore_backends::testing::*;

use crate::transport::Message;
use crate::wire::visit::{Answer, Question};
use crate::wire::{ToMaster, ToWorker, VERSION, from_bytes};

/// Reads `bytes`, behind the version of the protocol, as whatever workers, their master and visitors of that say to each
/// other, and by themselves as a value of users. Panics if what can be read is not the same after it was written. Returns as
/// how many of them they could be read.
#[doc(hidden)]
pub fn read_as_messages(bytes: &[u8]) -> usize {
    let value = from_bytes::<Vec<(Option<u64>, String, f64)>>(bytes).is_ok();
    let message = [&[VERSION], bytes].concat();
    let read = [
        comes_back::<ToMaster>(&message),
        comes_back::<ToWorker>(&message),
        comes_back::<Question>(&message),
        comes_back::<Answer>(&message),
        value,
    ];
    read.iter().filter(|read| **read).count()
}

fn comes_back<M: Message>(bytes: &[u8]) -> bool {
    let Ok(message) = M::decode(bytes) else { return false };
    // One value may be written in several ways, but is by us in one only.
    let (mut once, mut again) = (Vec::new(), Vec::new());
    message.encode(&mut once).expect("what was read can be written");
    let second = M::decode(&once).expect("what was written can be read");
    second.encode(&mut again).expect("what was read can be written");
    assert_eq!(once, again);
    true
}
