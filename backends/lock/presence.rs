//! [`Presence`]: who uses an object, and who of them is alive, for structures in shared memory that put the mark of a
//! user where it is at work, so that others can take it away when that one has died.
//!
//! A user is a handle, and has a *number*, from 0 up, which no other user of the object has. What says that it is alive is
//! a record lock on byte 2^47 + number of the object's file (far beyond its end: no byte is touched), of an open file that
//! nobody else uses. The kernel releases it when the process dies, however that happens. Whoever finds a mark that stays for
//! too long tries to lock the byte of its number. If that succeeds, its user is gone; and as long as the byte is locked
//! nobody else becomes that number, so that all its marks can be taken away without haste. No process number is ever
//! believed.
//!
//! An object of this process alone ([`Heap`](crate::Heap)) has no file; all its users have the number 0, and none of them
//! dies before the others do.
//!
//! A process that is stopped (`SIGSTOP`, a debugger) in the moment in which it looks after a dead user keeps that one alive
//! until it goes on.
//!
//! It goes beside [`Futex`](super::Futex), which has numbers and bytes of its own, for threads. This module does not know
//! what the marks are, and never waits.

use std::fmt;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::{Mode as FileMode, OFlags};
use rustix::io::Errno;

use super::futex::FutexLockable;
use super::record::{self, Kind};
use super::{LockError, futex};
use crate::generation::{Generation, PrivateFd};
use crate::sync::global::{Mutex, lock};

/// The byte of the object's file that stands for number 0.
const FIRST_BYTE: i64 = 1 << 47;

/// How many users an object can have at the same time.
pub const USERS: u32 = futex::SLOTS;

/// One user of an object, alive as long as it is not dropped and its process lives.
pub struct Presence {
    number: u32,
    /// What has the byte. `None` if the object belongs to this process alone.
    liveness: Option<PrivateFd>,
    generation: Generation,
    /// For who tries a byte: the system would give it to any thread that has this file.
    trying: Mutex<()>,
}

impl fmt::Debug for Presence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Presence").field("number", &self.number).finish_non_exhaustive()
    }
}

/// Opens the same file once more, for its locks.
pub(super) fn open_again(fd: BorrowedFd<'_>) -> Result<PrivateFd, Errno> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    Ok(PrivateFd::new(rustix::fs::open(path, flags, FileMode::empty())?))
}

impl Presence {
    /// Becomes a user of `object`, with the lowest number that nobody has. Before anybody can see it, `forget` is to take
    /// away all marks of that number: those of a user who died, and whose death nobody has noticed.
    ///
    /// # Errors
    /// [`LockError::TooManyUsers`] if there are [`USERS`] already; [`LockError::Forked`] if the object is the parent's;
    /// [`LockError::NoLocks`]; [`LockError::Io`] if its file cannot be opened once more, by way of `/proc` (it must be
    /// mounted, and this process must still have the right to write to the object).
    pub fn enter(object: &impl FutexLockable, forget: impl FnOnce(u32)) -> Result<Presence, LockError> {
        let generation = Generation::current();
        let user = |number, liveness| Presence { number, liveness, generation, trying: Mutex::new(()) };
        let Some(fd) = object.liveness()? else { return Ok(user(0, None)) };
        let own = open_again(fd)
            .map_err(|errno| LockError::Io { op: "opening the object once more", source: errno.into() })?;
        let file = own.get().ok_or(LockError::Forked)?;
        for number in 0..USERS {
            match record::set_byte(file, byte(number), Kind::Write) {
                Ok(()) => {
                    forget(number);
                    return Ok(user(number, Some(own)));
                }
                Err(LockError::Busy) => {}
                Err(error) => return Err(error),
            }
        }
        Err(LockError::TooManyUsers { max: USERS })
    }

    /// Its number, less than [`USERS`].
    #[inline]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Whether this is the process that became the user, not a fork of it.
    #[inline]
    pub fn is_current(&self) -> bool {
        self.generation.is_current()
    }

    /// Whether nobody has this number. If so, `forget` is called before anybody can get it, to take away all its marks.
    /// It costs a system call or two.
    ///
    /// # Errors
    /// [`LockError::Forked`]; [`LockError::NoLocks`], [`LockError::Io`] if the system does not tell.
    pub fn is_dead(&self, number: u32, forget: impl FnOnce()) -> Result<bool, LockError> {
        if !self.generation.is_current() {
            return Err(LockError::Forked);
        }
        if number == self.number {
            return Ok(false);
        }
        let Some(liveness) = self.liveness.as_ref().filter(|_| number < USERS) else {
            // Nobody can have it.
            forget();
            return Ok(true);
        };
        let _only_one = lock(&self.trying);
        let fd = liveness.get().ok_or(LockError::Forked)?;
        match record::set_byte(fd, byte(number), Kind::Write) {
            Ok(()) => {}
            Err(LockError::Busy) => return Ok(false),
            Err(error) => return Err(error),
        }
        forget();
        // It cannot fail: there is less to remember.
        let _ = record::set_byte(fd, byte(number), Kind::None);
        Ok(true)
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        // A child that is forked just now may have the file for a moment longer.
        if let Some(fd) =
            self.liveness.as_ref().and_then(PrivateFd::get).filter(|_| self.generation.is_current())
        {
            // It cannot fail: there is less to remember.
            let _ = record::set_byte(fd, byte(self.number), Kind::None);
        }
    }
}

fn byte(number: u32) -> i64 {
    FIRST_BYTE + i64::from(number)
}
