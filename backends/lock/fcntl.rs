//! POSIX record locks.
//!
//! One byte of the object's file, the first, stands for the whole object; the lock is advisory, the byte
//! itself is not touched. The system grants record locks to processes, so a [gate](super::gate) in front
//! makes the threads of this process exclude each other; there is one gate per object and process, found by
//! device and inode number, so that all handles share it.
//!
//! The system finds cycles of waiting processes (`EDEADLK`), but knows nothing of threads: a process whose
//! threads hold and wait for locks of several objects may be told of a deadlock that is none. A wait with a
//! limit asks again and again, in steps that grow to 5 ms, because `F_SETLKW` knows no time; such a waiter is
//! invisible to the detection, and its limit is what ends a cycle.
//!
//! # Safety
//!
//! The one unsafe call is `fcntl` with a pointer to a `struct flock` on the stack.

#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::fs;

use super::gate::Gate;
use super::{LockError, LockMethod, Mode, Protocol, RecordLockable, Wait};
use crate::generation::Generation;
use crate::sync::global::{Arc, Mutex, lock};

/// The gates of objects that are open, or that were left locked.
static GATES: Mutex<BTreeMap<(u64, u64), Arc<Shared>>> = Mutex::new(BTreeMap::new());

#[derive(Debug)]
struct Shared {
    gate: Gate,
    generation: Generation,
}

/// Locks by POSIX record locks, one system call each way. See the [contract](super) for what that
/// promises; the kernel releases the locks of a dead process, and reports deadlocks between processes.
#[derive(Debug)]
#[doc(alias("F_SETLKW", "lockf", "Record_locking"))]
pub struct Fcntl {
    shared: Arc<Shared>,
}

impl<B: RecordLockable> LockMethod<B> for Fcntl {
    const PROTOCOL: Protocol = Protocol::FCNTL;

    fn attach(object: &B) -> Result<Fcntl, LockError> {
        let stat = fs::fstat(object.descriptor()?)
            .map_err(|errno| LockError::Io { op: "fstat", source: errno.into() })?;
        let generation = Generation::current();
        let mut gates = lock(&GATES);
        // Those of the parent are forgotten, and those that nobody uses, unless they are still held.
        gates.retain(|_, shared| {
            shared.generation == generation && (Arc::strong_count(shared) > 1 || !shared.gate.is_free())
        });
        let shared = gates
            .entry((stat.st_dev, stat.st_ino))
            .or_insert_with(|| Arc::new(Shared { gate: Gate::new(), generation }));
        Ok(Fcntl { shared: Arc::clone(shared) })
    }

    fn lock(&self, object: &B, mode: Mode, wait: Wait) -> Result<(), LockError> {
        self.check_generation()?;
        let fd = object.descriptor()?;
        self.shared.gate.acquire(mode, wait, |wait| record_lock(fd, mode, wait))
    }

    fn unlock(&self, object: &B) -> Result<(), LockError> {
        self.check_generation()?;
        let fd = object.descriptor()?;
        self.shared.gate.release(|| set_lock(fd, libc::F_UNLCK, libc::F_SETLK))
    }
}

impl Fcntl {
    fn check_generation(&self) -> Result<(), LockError> {
        if self.shared.generation.is_current() { Ok(()) } else { Err(LockError::Forked) }
    }
}

/// Takes the record lock, waiting as told.
fn record_lock(fd: BorrowedFd<'_>, mode: Mode, wait: Wait) -> Result<(), LockError> {
    let kind = match mode {
        Mode::Read => libc::F_RDLCK,
        Mode::Write => libc::F_WRLCK,
    };
    let limit = match wait {
        Wait::Forever => return set_lock(fd, kind, libc::F_SETLKW),
        Wait::Try => return set_lock(fd, kind, libc::F_SETLK),
        Wait::AtMost(limit) => limit,
    };
    let start = Instant::now();
    let mut pause = Duration::from_micros(50);
    loop {
        match set_lock(fd, kind, libc::F_SETLK) {
            Err(LockError::Busy) => {}
            result => return result,
        }
        let remaining = limit.saturating_sub(start.elapsed());
        if remaining == Duration::ZERO {
            return Err(LockError::TimedOut);
        }
        // There is nothing to sleep on: the kernel wakes only those in F_SETLKW.
        #[allow(clippy::disallowed_methods)]
        std::thread::sleep(pause.min(remaining));
        pause = (pause * 2).min(Duration::from_millis(5));
    }
}

fn set_lock(fd: BorrowedFd<'_>, kind: libc::c_int, command: libc::c_int) -> Result<(), LockError> {
    let region = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 1,
        l_pid: 0,
    };
    loop {
        // SAFETY: `fd` is open as long as it is borrowed, and the kernel reads one `struct flock`, which
        // outlives the call.
        if unsafe { libc::fcntl(fd.as_raw_fd(), command, &region) } != -1 {
            return Ok(());
        }
        let source = io::Error::last_os_error();
        return Err(match source.raw_os_error() {
            Some(libc::EINTR) => continue,
            Some(libc::EAGAIN | libc::EACCES) => LockError::Busy,
            Some(libc::EDEADLK) => LockError::Deadlock,
            Some(libc::ENOLCK) => LockError::NoLocks(source),
            _ => LockError::Io { op: "fcntl", source },
        });
    }
}
