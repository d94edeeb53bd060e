//! Terminals: which process group is in the foreground, and what a terminal is called.
//!
//! | POSIX | here |
//! |---|---|
//! | `isatty` | [`std::io::IsTerminal`] |
//! | `tcgetpgrp`, `tcsetpgrp` | [`foreground_group`], [`set_foreground_group`], [`set_foreground_group_unstopped`] |
//! | `ctermid` | [`CONTROLLING`] |
//! | `ttyname` | [`name`] |
//!
//! This module does not change how a terminal reads or writes (`rustix::termios` does), and makes no pseudo-terminals
//! (`rustix::pty` does).

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use rustix::io::Errno;
use rustix::process::Pid;

use super::PosixError;
use super::process::number;
use crate::signal::BlockedSignals;

/// The path of the controlling terminal of whoever opens it. Opening fails with `ENXIO` in a process without one.
#[doc(alias = "ctermid")]
pub const CONTROLLING: &str = "/dev/tty";

/// The process group in the foreground of a terminal; `None` if it is none that this process can see: it is outside of
/// its PID namespace, or (of the other side of a pseudo-terminal) the terminal controls nobody.
///
/// # Errors
/// [`PosixError::NotATerminal`] if it is no terminal, or not the controlling one of this process.
#[doc(alias("tcgetpgrp", "TIOCGPGRP"))]
pub fn foreground_group(terminal: impl AsFd) -> Result<Option<u32>, PosixError> {
    match rustix::termios::tcgetpgrp(terminal) {
        Ok(group) => Ok(Some(group.as_raw_nonzero().get().unsigned_abs())),
        // rustix's word for the number 0.
        Err(Errno::OPNOTSUPP) => Ok(None),
        Err(errno) => Err(PosixError::from_errno("tcgetpgrp", errno)),
    }
}

/// Puts a process group into the foreground of the controlling terminal: it may read, and gets the signals of the
/// keyboard.
///
/// A caller in the background gets `SIGTTOU`, which stops its whole process group, if it neither blocks nor ignores that
/// signal; [`set_foreground_group_unstopped`] sees to that.
///
/// # Errors
/// [`PosixError::NotATerminal`] if it is no terminal, or not the controlling one of this process;
/// [`PosixError::NotPermitted`] if the group is of another session; [`PosixError::NoSuchProcess`] if there is no such
/// group; [`PosixError::Io`] with `EINTR` if a handler caught `SIGTTOU`, and with `EIO` if the caller's group is in the
/// background and has nobody left who could continue it.
#[doc(alias("tcsetpgrp", "TIOCSPGRP"))]
pub fn set_foreground_group(terminal: impl AsFd, group: u32) -> Result<(), PosixError> {
    let group = Pid::from_raw(number("tcsetpgrp", Some(group))?).expect("it is not 0");
    rustix::termios::tcsetpgrp(terminal, group).map_err(|errno| PosixError::from_errno("tcsetpgrp", errno))
}

/// As [`set_foreground_group`], and does not stop a caller in the background: `SIGTTOU` is blocked in the calling thread
/// for the moment. This is how a shell takes its terminal back.
///
/// # Errors
/// As [`set_foreground_group`], but `EINTR` and `EIO` do not occur.
#[doc(alias("tcsetpgrp", "SIGTTOU"))]
pub fn set_foreground_group_unstopped(terminal: impl AsFd, group: u32) -> Result<(), PosixError> {
    let _blocked = BlockedSignals::one(libc::SIGTTOU);
    set_foreground_group(terminal, group)
}

/// The path of a terminal.
///
/// # Errors
/// [`PosixError::NotATerminal`] if it is none; [`PosixError::Io`] with `ENODEV` if it has no path here, as when it was
/// opened in another mount namespace.
#[doc(alias("ttyname", "ttyname_r"))]
pub fn name(terminal: impl AsFd) -> Result<PathBuf, PosixError> {
    let name = rustix::termios::ttyname(terminal, Vec::new())
        .map_err(|errno| PosixError::from_errno("ttyname", errno))?;
    Ok(OsString::from_vec(name.into_bytes()).into())
}
