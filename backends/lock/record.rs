//! Record locks: what [`Fcntl`](super::Fcntl) and [`Ofd`](super::Ofd) have in common, and the system call itself.
//!
//! One byte of the object's file, the first, stands for the whole object; the lock is advisory, the byte
//! itself is not touched. The system grants record locks to processes, or to open files, so a
//! [gate](super::gate) in front makes the threads of this process exclude each other; there is one gate per object and
//! process, found by device and inode number, so that all handles share it.
//!
//! A wait with a limit asks again and again, in steps that grow to 5 ms, because `F_SETLKW` knows no time; such a
//! waiter is invisible to the system's detection of deadlocks, and its limit is what ends a cycle.
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
use super::{LockError, Mode, RecordLockable, Wait};
use crate::generation::Generation;
use crate::sync::global::{Arc, Mutex, lock};

/// The byte that stands for the object.
const OBJECT: i64 = 0;

/// The length of a region that has no end.
const TO_THE_END: i64 = 0;

/// The gates of objects that are open, or that were left locked.
static GATES: Mutex<BTreeMap<(u64, u64), Arc<Shared>>> = Mutex::new(BTreeMap::new());

#[derive(Debug)]
struct Shared {
    gate: Arc<Gate>,
    generation: Generation,
}

/// Whose the system takes a lock to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// The process.
    Process,
    /// The open file: a descriptor and its copies.
    OpenFile,
}

/// What a byte is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    None,
    Read,
    Write,
}

/// The lock of an object, as one handle sees it.
#[derive(Debug)]
pub(super) struct Record {
    shared: Arc<Shared>,
    owner: Owner,
}

impl Record {
    pub(super) fn attach(object: &impl RecordLockable, owner: Owner) -> Result<Record, LockError> {
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
            .or_insert_with(|| Arc::new(Shared { gate: Arc::new(Gate::new()), generation }));
        Ok(Record { shared: Arc::clone(shared), owner })
    }

    pub(super) fn lock(&self, object: &impl RecordLockable, mode: Mode, wait: Wait) -> Result<(), LockError> {
        let fd = self.descriptor(object)?;
        self.shared.gate.acquire(mode, wait, |wait| self.ask(fd, mode, wait))
    }

    pub(super) fn unlock(&self, object: &impl RecordLockable) -> Result<(), LockError> {
        let fd = self.descriptor(object)?;
        self.shared.gate.release(|| set(fd, self.owner, OBJECT, Kind::None, false))
    }

    /// The system turns a lock into another without giving it up in between.
    pub(super) fn upgrade(&self, object: &impl RecordLockable, wait: Wait) -> Result<(), LockError> {
        let fd = self.descriptor(object)?;
        self.shared.gate.upgrade(wait, |wait| self.ask(fd, Mode::Write, wait))
    }

    pub(super) fn downgrade(&self, object: &impl RecordLockable) -> Result<(), LockError> {
        let fd = self.descriptor(object)?;
        self.shared.gate.downgrade(|| set(fd, self.owner, OBJECT, Kind::Read, false))
    }

    fn descriptor<'a>(&self, object: &'a impl RecordLockable) -> Result<BorrowedFd<'a>, LockError> {
        if self.shared.generation.is_current() { object.descriptor() } else { Err(LockError::Forked) }
    }

    /// Takes the system's lock, waiting as told.
    fn ask(&self, fd: BorrowedFd<'_>, mode: Mode, wait: Wait) -> Result<(), LockError> {
        let kind = match mode {
            Mode::Read => Kind::Read,
            Mode::Write => Kind::Write,
        };
        let limit = match wait {
            Wait::Forever => return set(fd, self.owner, OBJECT, kind, true),
            Wait::Try => return set(fd, self.owner, OBJECT, kind, false),
            Wait::AtMost(limit) => limit,
        };
        let start = Instant::now();
        let mut pause = Duration::from_micros(50);
        loop {
            match set(fd, self.owner, OBJECT, kind, false) {
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
}

/// Makes this open file have the byte in this way, if that is possible at once ([`LockError::Busy`]).
pub(super) fn set_byte(fd: BorrowedFd<'_>, byte: i64, kind: Kind) -> Result<(), LockError> {
    set(fd, Owner::OpenFile, byte, kind, false)
}

fn set(fd: BorrowedFd<'_>, owner: Owner, byte: i64, kind: Kind, wait: bool) -> Result<(), LockError> {
    let command = match (owner, wait) {
        (Owner::Process, false) => libc::F_SETLK,
        (Owner::Process, true) => libc::F_SETLKW,
        (Owner::OpenFile, false) => libc::F_OFD_SETLK,
        (Owner::OpenFile, true) => libc::F_OFD_SETLKW,
    };
    let (kind, length) = match kind {
        // To the end of the file: of an object no other byte is locked by its owner, and of what is the whole file the
        // system need not keep the rest, for which it would prepare room: a tenth of a pair of calls.
        Kind::None if byte == OBJECT => (libc::F_UNLCK, TO_THE_END),
        Kind::None => (libc::F_UNLCK, 1),
        Kind::Read => (libc::F_RDLCK, 1),
        Kind::Write => (libc::F_WRLCK, 1),
    };
    let region = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: byte,
        l_len: length,
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
