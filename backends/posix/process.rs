//! Who this process is: its process group and session, its users and groups, how many files it may open.
//!
//! Processes, groups and sessions are plain `u32`, as [`std::process::Child::id`] and
//! [`Child::id`](crate::spawn::Child::id) are; `None` is the calling process. No process has the number 0 or one above
//! `i32::MAX`: they are answered by [`PosixError::NoSuchProcess`], and not, as the system would, by the caller's own.
//! User and group identifiers are plain `u32`, as in [`std::os::unix::fs::chown`].
//!
//! | POSIX | here |
//! |---|---|
//! | `getpid`, `getppid` | [`std::process::id`], [`std::os::unix::process::parent_id`] |
//! | `getpgid`, `getpgrp` | [`process_group`], [`own_process_group`] |
//! | `setpgid`, `setpgrp` | [`set_process_group`], [`start_process_group`] |
//! | `getsid`, `setsid` | [`session`], [`start_session`] |
//! | `getuid`, `geteuid`, `getgid`, `getegid` | [`user`], [`effective_user`], [`group`], [`effective_group`] |
//! | `setreuid`, `setregid` | [`set_real_and_effective_user`], [`set_real_and_effective_group`] |
//! | `sysconf(_SC_OPEN_MAX)`, `getrlimit`, `setrlimit` | [`open_files_max`], [`open_files_limits`], [`set_open_files_max`] |
//!
//! This module starts no processes and sends no signals.
//!
//! # Safety
//!
//! All unsafe code is calls of the C library that take and return integers. `setreuid` and `setregid` are the C
//! library's because the system's own calls change one thread only; the C library has all threads do it.

#![allow(unsafe_code)]

use std::io;

use libc::{c_int, pid_t};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, setrlimit};

use super::PosixError;

/// The process group of a process; 0 if its leader is outside of the caller's PID namespace.
///
/// # Errors
/// [`PosixError::NoSuchProcess`] if there is no such process.
#[doc(alias = "getpgid")]
pub fn process_group(process: Option<u32>) -> Result<u32, PosixError> {
    let process = number("getpgid", process)?;
    // SAFETY: takes an integer. (rustix's call promises a number that is not 0, which it can be.)
    identifier("getpgid", unsafe { libc::getpgid(process) })
}

/// The process group of this process; 0 if its leader is outside of this PID namespace.
#[doc(alias = "getpgrp")]
pub fn own_process_group() -> u32 {
    // SAFETY: takes nothing, and cannot fail.
    unsafe { libc::getpgrp() }.unsigned_abs()
}

/// Puts a process, which must be this one or a child of it that has not called `exec`, into a process group of the same
/// session. `None` for `group` is the group that has the number of the process, which then leads it.
///
/// # Errors
/// [`PosixError::NoSuchProcess`] if it is no process, or neither this one nor a child (`ESRCH`);
/// [`PosixError::NotPermitted`] if there is no such group in this session, the process leads a session (`EPERM`), or the
/// child has called `exec` (`EACCES`).
#[doc(alias = "setpgid")]
pub fn set_process_group(process: Option<u32>, group: Option<u32>) -> Result<(), PosixError> {
    let process = Pid::from_raw(number("setpgid", process)?);
    let group = Pid::from_raw(number("setpgid", group)?);
    rustix::process::setpgid(process, group).map_err(|errno| PosixError::from_errno("setpgid", errno))
}

/// Makes this process the leader of a process group, which has the number of the process; it is new, unless the process
/// leads it already.
///
/// # Errors
/// [`PosixError::NotPermitted`] if this process leads a session; it then leads a group, too, and nothing changes.
#[doc(alias = "setpgrp")]
pub fn start_process_group() -> Result<(), PosixError> {
    set_process_group(None, None)
}

/// The session of a process; 0 if its leader is outside of the caller's PID namespace.
///
/// # Errors
/// [`PosixError::NoSuchProcess`] if there is no such process.
#[doc(alias = "getsid")]
pub fn session(process: Option<u32>) -> Result<u32, PosixError> {
    let process = number("getsid", process)?;
    // SAFETY: takes an integer. (rustix's call promises a number that is not 0, which it can be.)
    identifier("getsid", unsafe { libc::getsid(process) })
}

/// Makes this process the leader of a new session and process group, without a controlling terminal. Returns their
/// number, which is that of the process.
///
/// # Errors
/// [`PosixError::NotPermitted`] if this process leads a process group already; a forked child does not.
#[doc(alias = "setsid")]
pub fn start_session() -> Result<u32, PosixError> {
    match rustix::process::setsid() {
        Ok(_) => Ok(std::process::id()),
        Err(errno) => Err(PosixError::from_errno("setsid", errno)),
    }
}

/// The real user of this process.
#[doc(alias = "getuid")]
pub fn user() -> u32 {
    rustix::process::getuid().as_raw()
}

/// The effective user of this process, the one by whom permissions are checked.
#[doc(alias = "geteuid")]
pub fn effective_user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// The real group of this process.
#[doc(alias = "getgid")]
pub fn group() -> u32 {
    rustix::process::getgid().as_raw()
}

/// The effective group of this process, the one by which permissions are checked.
#[doc(alias = "getegid")]
pub fn effective_group() -> u32 {
    rustix::process::getegid().as_raw()
}

/// Changes the real and the effective user of the whole process, all of its threads; `None` keeps one.
///
/// The saved user becomes the effective one, if a real one is given or the effective one becomes another than the real
/// one was: then there is no way back for an ordinary user. Groups are not changed: they go first, while it is allowed.
///
/// # Errors
/// [`PosixError::NotPermitted`] if the caller lacks `CAP_SETUID` and asks for another than its real, effective or saved
/// user; [`PosixError::Invalid`] for `u32::MAX`, which is no user; [`PosixError::Io`] if the user may not have so many
/// processes (`EAGAIN`) or there is none in this user namespace (`EINVAL`).
#[doc(alias = "setreuid")]
pub fn set_real_and_effective_user(real: Option<u32>, effective: Option<u32>) -> Result<(), PosixError> {
    let (real, effective) = (kept("setreuid", real)?, kept("setreuid", effective)?);
    // SAFETY: takes integers.
    check("setreuid", unsafe { libc::setreuid(real, effective) })
}

/// Changes the real and the effective group of the whole process, all of its threads; `None` keeps one. Supplementary
/// groups stay.
///
/// # Errors
/// As [`set_real_and_effective_user`], with `CAP_SETGID`.
#[doc(alias = "setregid")]
pub fn set_real_and_effective_group(real: Option<u32>, effective: Option<u32>) -> Result<(), PosixError> {
    let (real, effective) = (kept("setregid", real)?, kept("setregid", effective)?);
    // SAFETY: takes integers.
    check("setregid", unsafe { libc::setregid(real, effective) })
}

/// How many descriptors a process may have: numbers are below these. `None` is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenFilesLimits {
    /// What holds now.
    pub soft: Option<u64>,
    /// As far as the process may raise it.
    pub hard: Option<u64>,
}

/// One more than the highest number that a new descriptor of this process can have; `None` if there is no limit. One that
/// was opened before the limit was lowered may have a higher number.
#[doc(alias("sysconf_open_max", "_SC_OPEN_MAX", "getdtablesize"))]
pub fn open_files_max() -> Option<u64> {
    open_files_limits().soft
}

/// The limits of descriptors of this process.
#[doc(alias("getrlimit", "RLIMIT_NOFILE"))]
pub fn open_files_limits() -> OpenFilesLimits {
    let limit = getrlimit(Resource::Nofile);
    OpenFilesLimits { soft: limit.current, hard: limit.maximum }
}

/// Sets how many descriptors this process may have; `None` is as many as the hard limit allows. Those that are open stay
/// open.
///
/// # Errors
/// [`PosixError::Invalid`] if it is more than the hard limit.
#[doc(alias("setrlimit", "RLIMIT_NOFILE"))]
pub fn set_open_files_max(soft: Option<u64>) -> Result<(), PosixError> {
    let hard = open_files_limits().hard;
    let soft = soft.or(hard);
    if hard.is_some_and(|hard| soft.is_none_or(|soft| soft > hard)) {
        return Err(PosixError::Invalid { op: "setrlimit", what: "the limit is above the hard limit" });
    }
    setrlimit(Resource::Nofile, Rlimit { current: soft, maximum: hard })
        .map_err(|errno| PosixError::from_errno("setrlimit", errno))
}

/// The number as the system takes it: 0 for the caller.
pub(super) fn number(op: &'static str, process: Option<u32>) -> Result<pid_t, PosixError> {
    match process.map(pid_t::try_from) {
        None => Ok(0),
        Some(Ok(number)) if number != 0 => Ok(number),
        _ => Err(PosixError::from_errno(op, rustix::io::Errno::SRCH)),
    }
}

fn identifier(op: &'static str, result: c_int) -> Result<u32, PosixError> {
    u32::try_from(result).map_err(|_| PosixError::last(op))
}

/// The user or group as the system takes it: all ones to keep what is.
fn kept(op: &'static str, id: Option<u32>) -> Result<u32, PosixError> {
    if id == Some(u32::MAX) {
        return Err(PosixError::Invalid { op, what: "4294967295 is not a user or group" });
    }
    Ok(id.unwrap_or(u32::MAX))
}

fn check(op: &'static str, result: c_int) -> Result<(), PosixError> {
    if result == 0 { Ok(()) } else { Err(PosixError::from_io(op, io::Error::last_os_error())) }
}
