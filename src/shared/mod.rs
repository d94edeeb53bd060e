//! Fast things that live in shared memory, beside tables: each survives the death of any of its users, at any instruction.
//!
//! | type | what it is | when a user is killed |
//! |---|---|---|
//! | [`ShmQueue<T>`] | messages from many to many | what it was sending was not sent; what it had taken is there again |
//! | [`ShmMutex<T>`] | a value that one changes at a time | it is unlocked; the value is what was set last, whole |
//! | [`ShmCondvar`] | waiting for a change of that value | others wait on; a notification that it owed comes up to 40 ms late |
//! | [`ShmSemaphore`] | a number of units, as that of POSIX | what it took is gone, what it gave stays |
//! | [`ShmPermits`] | units that belong to who took them | they come back |
//!
//! Each is an object by itself, with a name, like a [table](crate::table): made by `create`, found by `open`, removed by
//! `unlink`; [`SharedOptions`] says who else may have it. `B` is where it lives ([`PosixShm`](crate::PosixShm),
//! [`File`](crate::File), or [`Heap`](crate::Heap) for threads of one process). Each process opens it by itself, after a fork
//! too, and each handle may be used by many threads. Nothing of it needs a [run](crate::master) with workers; objects of one
//! that are removed at its end are [registered](crate::resource).
//!
//! # Which one
//!
//! * What workers of one run share, and what a worker's death must undo whatever it was doing, is in [`named`](crate::named):
//!   its objects are the master's, a request takes microseconds, and waiting for them can be polled.
//! * What is here takes some ten nanoseconds, between any processes, and needs nobody. Waiting for it is a sleep (after a
//!   short look), not a descriptor.
//! * Much data, found by keys, is in tables.
//!
//! # How
//!
//! Nobody trusts a count of users, or a process number. A mark that a user leaves in an object has its number, for which it
//! has a record lock; see [`Presence`](crate::lock::Presence). Whoever waits for a mark to go asks the kernel, after ten
//! milliseconds, whether that one lives, and takes the mark away if not. Every change of state is one compare-and-exchange or
//! one store, so that there is nothing to repair.
//!
//! | file | concern |
//! |---|---|
//! | `object` | opening and creating: the header |
//! | `event` | waiting, for all but mutexes |
//! | `queue`, `mutex`, `condvar`, `semaphore`, `permits` | one type each, and its words |
//! | `scratch` | room for encoded values, used again and again |
//! | `error` | what can go wrong |
//!
//! # Where everything of Netmulticore's shared heap is
//!
//! For those who come from OCamlnet, where such things are put into a heap that all workers map at the same address.
//!
//! | there | here |
//! |---|---|
//! | `Netmcore_mempool`, `Netmcore_heap` | left out: objects are found by names, and grow by themselves |
//! | `Netmcore_ref`, `Netmcore_buffer` | [`ShmMutex<T>`] |
//! | `Netmcore_array`, `Netmcore_matrix`, `Netmcore_hashtbl` | [`ShmArray`](crate::ShmArray), [`ShmMap`](crate::ShmMap) |
//! | `Netmcore_mutex` | [`ShmMutex`]; locking twice is an error, as in its mode `Errorcheck` |
//! | `Netmcore_condition` | [`ShmCondvar`]; a wait set and its entries are not needed |
//! | `Netmcore_sem` | [`ShmSemaphore`] |
//! | `Netmcore_queue` | [`ShmQueue`]; it is bounded |
//! | `Netcamlbox`, `Netmcore_camlbox` | [`ShmQueue`], with any number of receivers |
//! | `Netplex_semaphore`, protected | [`ShmPermits`] |
//!
//! This room does not know tables, workers, or the master.

mod condvar;
mod error;
mod event;
mod mutex;
mod object;
mod permits;
mod queue;
mod scratch;
mod semaphore;

pub use condvar::ShmCondvar;
pub use error::SharedError;
pub use mutex::{MutexGuard, ShmMutex};
pub use object::{Shared, SharedOptions};
pub use permits::{Permit, ShmPermits};
pub use queue::{Borrowed, Capacity, Draft, ShmQueue, Taken};
pub use semaphore::ShmSemaphore;
