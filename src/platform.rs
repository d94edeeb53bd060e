//! [`Platform`]: the one parameter of the runtime, standing for five mechanisms.
//!
//! | platform | shared memory | lock | poller | transport | workers are |
//! |---|---|---|---|---|---|
//! | [`Forked`] (default) | [`PosixShm`] | [`Futex`] | [`Poll`] | [`Socket`] | forked processes |
//! | [`Execed`] | [`PosixShm`] | [`Futex`] | [`Poll`] | [`Socket`] | processes of this program run anew |
//! | [`Threaded`] | [`Heap`] | [`Futex`] | [`Poll`] | [`Polysocket`] | threads of this process |
//! | [`With<S, L, P, T, W>`](With) | any mix that compiles | | | | |
//!
//! Workers that exchange many small messages with their master can talk over [`Ring`](crate::Ring), also forked and run
//! anew: `With<PosixShm, Futex, Poll, Ring, Fork>`.
//!
//! This module chooses mechanisms by type and does nothing at run time.

use std::marker::PhantomData;

use manycore_backends::{
    Exec, Fork, Futex, Heap, LockMethod, Poll, Poller, Polysocket, PosixShm, ShmBackend, Socket, Spawner,
    Thread, Transport,
};

use crate::wire::{ToMaster, ToWorker};

/// A choice of mechanisms. Programs that are generic over it run on processes in earnest and on something
/// lighter in their tests.
///
/// ```
/// use manycore::{Platform, ShmTable, TableError, TableOptions};
///
/// type Table<P> = ShmTable<<P as Platform>::Shm, <P as Platform>::Lock>;
///
/// fn scratch<P: Platform>(template: &str) -> Result<Table<P>, TableError> {
///     TableOptions::new().create_unique(template)
/// }
///
/// let table = scratch::<manycore::Forked>("/scratch-XXXXXX")?;
/// # table.unlink()?;
/// # Ok::<(), TableError>(())
/// ```
pub trait Platform: Sized + 'static {
    /// Where tables live.
    type Shm: ShmBackend;
    /// How they are locked.
    type Lock: LockMethod<Self::Shm>;
    /// How the master waits.
    type Poll: Poller;
    /// How workers talk to the master.
    type Transport: Transport;
    /// What a worker is. It is given its end of the link to the master.
    type Spawn: Spawner<WorkerEnd<Self>>;
}

/// A worker's end of its link to the master.
pub type WorkerEnd<P> = <<P as Platform>::Transport as Transport>::End<ToMaster, ToWorker>;

/// Any mix of mechanisms: shared memory, lock, poller, transport, spawner. [`Ring`](crate::Ring) goes wherever [`Socket`]
/// does. Mixes that cannot work do not compile: a link of
/// [`Polysocket`] cannot be given to another process.
///
/// ```compile_fail,E0277
/// use manycore::{Fork, Futex, Poll, Polysocket, PosixShm, Runtime, With};
///
/// let runtime: Runtime<With<PosixShm, Futex, Poll, Polysocket, Fork>>;
/// ```
pub struct With<S, L, P, T, W>(PhantomData<(S, L, P, T, W)>);

impl<S, L, P, T, W> std::fmt::Debug for With<S, L, P, T, W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("With")
    }
}

impl<S, L, P, T, W> Platform for With<S, L, P, T, W>
where
    S: ShmBackend,
    L: LockMethod<S>,
    P: Poller,
    T: Transport,
    W: Spawner<T::End<ToMaster, ToWorker>>,
{
    type Shm = S;
    type Lock = L;
    type Poll = P;
    type Transport = T;
    type Spawn = W;
}

/// Workers are forked processes that talk over Unix sockets; tables in POSIX shared memory.
pub type Forked = With<PosixShm, Futex, Poll, Socket, Fork>;

/// Workers are processes that run this program anew, which works from programs with threads, and from their tests; tables
/// in POSIX shared memory. The program calls [`Workers::enter`](crate::Workers::enter) first in `main`.
pub type Execed = With<PosixShm, Futex, Poll, Socket, Exec>;

/// Workers are threads of this process, messages are moved, and tables are in its own memory: for tests, and for programs
/// that only sometimes need processes.
///
/// What a thread cannot do as a process does: it cannot be killed in the middle of something (a kill takes effect at its
/// next call of [`Context`](crate::Context)), and [`std::process::exit`] ends all of them
/// ([`Context::exit`](crate::Context::exit) does not).
pub type Threaded = With<Heap, Futex, Poll, Polysocket, Thread>;
