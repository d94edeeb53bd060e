//! Whose reads and writes go first, where the disk's scheduler heeds that (BFQ and mq-deadline do).
//!
//! ```
//! use manycore_backends::posix::io_priority::{self, IoLevel, IoPriority, Target};
//!
//! let before = io_priority::get(Target::OWN)?;
//! io_priority::set(Target::OWN, IoPriority::BestEffort(IoLevel::LOWEST))?;
//! assert_eq!(io_priority::get(Target::OWN)?, IoPriority::BestEffort(IoLevel::LOWEST));
//! io_priority::set(Target::OWN, before)?;
//! # Ok::<(), manycore_backends::posix::PosixError>(())
//! ```
//!
//! OCamlnet's `ioprio_set Noprio` sets best effort, level 4; here [`IoPriority::None`] is none. There, a level above 7 is
//! cut to three bits by newer kernels (9 becomes 1); here it cannot be written.
//!
//! This module does not find out which scheduler a disk has: a priority can be set that nobody heeds.
//!
//! # Safety
//!
//! The two unsafe calls take integers.

#![allow(unsafe_code)]

use libc::{c_int, c_long};

use super::{PosixError, process};

/// Whose priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[doc(alias = "ioprio_target")]
pub enum Target {
    /// One thread, by its number; that of a process is its first thread. `None`: the calling thread.
    #[doc(alias = "IOPRIO_WHO_PROCESS")]
    Process(Option<u32>),
    /// All threads in a process group; `None`: that of the caller.
    #[doc(alias = "IOPRIO_WHO_PGRP")]
    ProcessGroup(Option<u32>),
    /// All threads of a real user; `None`: that of the caller.
    #[doc(alias = "IOPRIO_WHO_USER")]
    User(Option<u32>),
}

impl Target {
    /// The calling thread.
    pub const OWN: Target = Target::Process(None);
}

/// A place within a class: 0 goes first, 7 last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IoLevel(u8);

impl IoLevel {
    /// Level 0: before all others of its class.
    pub const HIGHEST: IoLevel = IoLevel(0);
    /// Level 7: after all others of its class.
    pub const LOWEST: IoLevel = IoLevel(7);

    /// The level with this number, if there is one: 0 to 7.
    pub const fn new(level: u8) -> Option<IoLevel> {
        if level <= IoLevel::LOWEST.0 { Some(IoLevel(level)) } else { None }
    }

    /// Its number, 0 to 7.
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl TryFrom<u8> for IoLevel {
    type Error = PosixError;

    fn try_from(level: u8) -> Result<IoLevel, PosixError> {
        IoLevel::new(level).ok_or(PosixError::Invalid { op: "ioprio_set", what: "levels are 0 to 7" })
    }
}

/// How urgent reads and writes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[doc(alias("ioprio", "Noprio"))]
pub enum IoPriority {
    /// None was set: the system takes best effort, at a level that follows from the nice value.
    #[doc(alias = "IOPRIO_CLASS_NONE")]
    None,
    /// Before all other classes, who may get nothing. Needs `CAP_SYS_ADMIN` or `CAP_SYS_NICE`.
    #[doc(alias("IOPRIO_CLASS_RT", "Real_time"))]
    RealTime(IoLevel),
    /// The usual class.
    #[doc(alias("IOPRIO_CLASS_BE", "Best_effort"))]
    BestEffort(IoLevel),
    /// Only when nobody else wants the disk.
    #[doc(alias = "IOPRIO_CLASS_IDLE")]
    Idle,
}

// The system's encoding: three bits of class above thirteen of data, the lowest three of which are the level.
const CLASS_SHIFT: c_int = 13;
const LEVEL_BITS: c_int = 7;

impl IoPriority {
    fn encode(self) -> c_int {
        match self {
            IoPriority::None => 0,
            IoPriority::RealTime(level) => 1 << CLASS_SHIFT | c_int::from(level.0),
            IoPriority::BestEffort(level) => 2 << CLASS_SHIFT | c_int::from(level.0),
            // The level of this class is not looked at, and one other than 0 is refused by some kernels.
            IoPriority::Idle => 3 << CLASS_SHIFT,
        }
    }

    fn decode(value: c_int) -> Option<IoPriority> {
        let level = IoLevel((value & LEVEL_BITS) as u8);
        match value >> CLASS_SHIFT {
            0 => Some(IoPriority::None),
            1 => Some(IoPriority::RealTime(level)),
            2 => Some(IoPriority::BestEffort(level)),
            3 => Some(IoPriority::Idle),
            _ => None,
        }
    }
}

/// The priority of a thread; of several, the most urgent one.
///
/// Of a thread alone, [`IoPriority::None`] says that none was set. Of a group or user, newer kernels answer for such
/// threads with what they take instead: best effort.
///
/// # Errors
/// [`PosixError::NoSuchProcess`] if there is no such thread, group or user with threads; [`PosixError::Io`] with `ENOSYS`
/// if the kernel was built without.
#[doc(alias = "ioprio_get")]
pub fn get(target: Target) -> Result<IoPriority, PosixError> {
    const OP: &str = "ioprio_get";
    let (which, who) = address(OP, target)?;
    // SAFETY: takes integers.
    let value = unsafe { libc::syscall(libc::SYS_ioprio_get, which, who) };
    if value == -1 {
        return Err(PosixError::last(OP));
    }
    IoPriority::decode(value as c_int).ok_or_else(|| PosixError::from_errno(OP, rustix::io::Errno::NOTSUP))
}

/// Sets the priority of a thread, or of several. Threads and processes that they start get it, too; those that there are
/// do not.
///
/// # Errors
/// [`PosixError::NoSuchProcess`] if there is no such thread, group or user with threads; [`PosixError::NotPermitted`] for
/// threads of others, and for [`IoPriority::RealTime`], without the right; [`PosixError::Io`] with `ENOSYS` if the kernel
/// was built without.
#[doc(alias = "ioprio_set")]
pub fn set(target: Target, priority: IoPriority) -> Result<(), PosixError> {
    const OP: &str = "ioprio_set";
    let (which, who) = address(OP, target)?;
    // SAFETY: takes integers.
    let result = unsafe { libc::syscall(libc::SYS_ioprio_set, which, who, c_long::from(priority.encode())) };
    if result == -1 { Err(PosixError::last(OP)) } else { Ok(()) }
}

/// Which kind of target, and its number.
fn address(op: &'static str, target: Target) -> Result<(c_long, c_long), PosixError> {
    Ok(match target {
        Target::Process(thread) => (1, process::number(op, thread)?.into()),
        Target::ProcessGroup(group) => (2, process::number(op, group)?.into()),
        Target::User(None) => (3, 0),
        // To the system 0 is the caller's own user, who is another.
        Target::User(Some(0)) if process::user() != 0 => {
            return Err(PosixError::Invalid { op, what: "user 0 can be named by a process of user 0 only" });
        }
        Target::User(Some(user)) => (3, user as c_long),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_priority_is_decoded_as_it_was_encoded() {
        let levels = (0..=7).map(|level| IoLevel::new(level).unwrap());
        let some = levels.flat_map(|level| [IoPriority::RealTime(level), IoPriority::BestEffort(level)]);
        for priority in some.chain([IoPriority::None, IoPriority::Idle]) {
            assert_eq!(IoPriority::decode(priority.encode()), Some(priority));
        }
        // What kernels before 6.0 say when none was set, and what no kernel says.
        assert_eq!(IoPriority::decode(4), Some(IoPriority::None));
        assert_eq!(IoPriority::decode(7 << CLASS_SHIFT), None);
    }
}
