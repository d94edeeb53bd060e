//! What may be given to other threads, and shared by them: the compiler says so here, for each public type by its name.
//! Of the errors it also says that they go with `Box<dyn Error + Send + Sync>` and its like.

use std::error::Error;

use manycore::admin::{AdminError, Log, LogLine, RunInfo, Visitor, WorkerInfo};
use manycore::array::{ArrayError, ShmArray};
use manycore::codec::{Cbor, CodecError};
use manycore::lock::LockError;
use manycore::map::{MapError, ShmMap};
use manycore::master::DirectoryError;
use manycore::name::NameError;
use manycore::named::{
    Cached, MutexGuard, Permit, Readiness, Semaphore, SemaphoreOptions, VarOptions, Version, Watch,
};
use manycore::poll::{Event, Interest, Notifier, PollArray, PollError, Ready, SignalWatch, Source};
use manycore::posix::PosixError;
use manycore::posix::post_fork::Registration;
use manycore::posix::semaphore::{NamedSemaphore, SemaphoreError, SemaphoreSet};
use manycore::shared::{self, Borrowed, Capacity, Draft, SharedError, SharedOptions, ShmCondvar, Taken};
use manycore::shm::{OutOfBounds, Owners, ShmError, Trust};
use manycore::spawn::{ChildProcess, Children, Command, SpawnError, ThreadChild};
use manycore::table::{Problem, Salvaged, ShmTable, Stat, TableError};
use manycore::transport::polypipe::{PipeError, Reader, WriteError, Writer};
use manycore::transport::polysocket::{Client, PolysocketError, Server};
use manycore::transport::{PolyEnd, SocketEnd, SocketListener, TransportError, TrySendError};
use manycore::worker::{CancelledBy, EndedWorker, ToMaster};
use manycore::{
    Context, Epoll, Exec, Execed, Failure, Fcntl, File, Fork, Forked, Futex, Heap, JoinError, Level, Mailbox,
    MasterGone, NamedError, NoLock, Ofd, Platform, Poll, Pool, PoolError, PosixShm, Progress, Resource,
    ResourceError, RunError, Runtime, Select, SharedVar, ShmMutex, ShmPermits, ShmQueue, ShmSemaphore,
    StartError, TableOptions, Thread, Threaded, Worker, WorkerId, Workers, named,
};

fn sent<T: Send + 'static>() {}
fn shared<T: Send + Sync + 'static>() {}
fn error<T: Error + Send + Sync + 'static>() {}

/// Calls the check for each type.
macro_rules! all {
    ($check:ident: $($type:ty),* $(,)?) => { $($check::<$type>();)* };
}

/// A type that threads share; types of values need not be so.
type Value = Vec<u8>;
/// A type that no other thread may have.
type Bound = std::rc::Rc<u8>;

#[test]
fn tables_are_shared_by_threads() {
    all!(shared: ShmTable, ShmTable<File>, ShmTable<Heap>, ShmTable<PosixShm, Fcntl>, ShmTable<PosixShm, Ofd>,
        ShmTable<Heap, NoLock>, ShmMap<String, u64>, ShmMap<Bound, Bound>, ShmArray<f64>, TableOptions, Trust, Owners, Problem,
        Salvaged, Stat, Cbor<Value>, PosixShm, File, Heap, Futex, Fcntl, Ofd, NoLock);
}

#[test]
fn what_is_in_shared_memory_beside_tables_is_shared_by_threads() {
    all!(shared: ShmQueue<Bound>, ShmQueue<Bound, File>, ShmQueue<Bound, Heap>, ShmMutex<Bound>, ShmMutex<Bound, Heap, NoLock>,
        ShmCondvar<'static, Bound>, ShmSemaphore, ShmPermits, SharedOptions, Capacity, Draft<'static, Bound, PosixShm>,
        Borrowed<'static, Bound, PosixShm>, Taken<'static, Value>, shared::Permit<'static>);
}

#[test]
fn runs_are_sent_and_what_they_consist_of_is_shared() {
    fn on<P: Platform>() {
        // A pool tells of its progress by whatever it was given, which one thread at a time may call.
        all!(sent: Pool<Bound, Bound, P>);
        all!(shared: Runtime<P>);
    }
    on::<Forked>();
    on::<Execed>();
    on::<Threaded>();
    all!(sent: Context);
    all!(shared: Worker<Bound, Bound>, WorkerId<Bound>, Workers, Failure, Progress, Resource, Level, CancelledBy,
        EndedWorker, SharedVar<Bound>, Mailbox<Bound>, named::Mutex, Semaphore, MutexGuard, Permit, Readiness, Watch,
        Version, SemaphoreOptions, VarOptions<'static, Value>, Cached<Value>, RunInfo, WorkerInfo, LogLine);
    all!(sent: Visitor, Log);
}

#[test]
fn what_is_waited_for_is_shared_by_threads() {
    all!(shared: Poll, Epoll, Select, PollArray<'static>, Notifier, SignalWatch, Source, Event, Interest, Ready);
    all!(shared: SocketEnd<ToMaster, ToMaster>, SocketListener<ToMaster, ToMaster>, PolyEnd<Value, Value>, Reader<Value>,
        Writer<Value>, Client<ToMaster, ToMaster>, Server<ToMaster, ToMaster>);
    all!(shared: Fork, Exec, Thread, ThreadChild, ChildProcess, Children, Registration, NamedSemaphore, SemaphoreSet);
    all!(sent: Command<'static>);
}

#[test]
fn errors_go_anywhere() {
    /// What `?` makes a `manycore::Error` of, too.
    fn collected<T: Error + Send + Sync + 'static + Into<manycore::Error>>() {}
    all!(collected: manycore::Error, RunError, StartError, JoinError, PoolError, NamedError, MasterGone,
        ResourceError, AdminError, SharedError, DirectoryError, TableError, MapError, ArrayError, CodecError, ShmError,
        OutOfBounds, LockError, PollError, TransportError, SpawnError, PosixError, SemaphoreError, NameError,
        PipeError, PolysocketError);
    all!(error: TrySendError<Value>, WriteError<Value>);
}
