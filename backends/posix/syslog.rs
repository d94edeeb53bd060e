//! The log of the system, through the C library.
//!
//! ```no_run
//! use manycore_backends::posix::syslog::{self, Facility, Level, LogOption};
//!
//! syslog::open(Some("counter"), &[LogOption::Pid], Facility::Daemon)?;
//! syslog::log(None, Level::Warning, "only 3 counters left");
//! # Ok::<(), manycore_backends::posix::PosixError>(())
//! ```
//!
//! There is one log per process: [`open`] and [`close`] change what every thread, and every C library in this program,
//! logs as. Neither is needed to log: without them the identity is the program's name and the facility
//! [`User`](Facility::User). A forked child shares the connection to the log until it is closed; a unit of
//! [`Fork`](crate::spawn::Fork) starts with that descriptor closed, and the C library connects anew when it notices.
//!
//! Nobody can learn whether a message has arrived: the system's call returns nothing.
//!
//! Programs that use `tracing` do not need this module: the crate `syslog-tracing` is a subscriber that calls the same
//! functions, `tracing-journald` one that talks to systemd's journal and keeps the fields apart.
//!
//! # Safety
//!
//! The C library keeps the pointer to the identity, and reads through it whenever anybody in this program logs; some
//! versions do so without a lock of their own. So it is given strings that stay for ever: each identity is kept, once. The
//! calls of this module exclude each other, which is all the order that it can give: foreign code in other threads could
//! log at any time, as in any program. The format of a message is a constant, so that a message is never taken for one.

#![allow(unsafe_code)]

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::ptr;

use libc::c_int;

use super::PosixError;
use crate::sync::global::{Mutex, lock};

/// The longest identity, in bytes.
pub const IDENTITY_MAX: usize = 255;

/// What stands for a NUL in a message: ␀.
pub const NUL_MARK: char = '\u{2400}';

/// All identities that the C library was ever given; locked also while it is called.
static IDENTITIES: Mutex<BTreeSet<CString>> = Mutex::new(BTreeSet::new());

/// How grave a message is, the gravest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[doc(alias = "level")]
pub enum Level {
    /// The system is unusable; every user may be told.
    #[doc(alias = "LOG_EMERG")]
    Emergency,
    /// Somebody must act at once.
    #[doc(alias = "LOG_ALERT")]
    Alert,
    /// Something important has failed.
    #[doc(alias = "LOG_CRIT")]
    Critical,
    /// Something has failed.
    #[doc(alias = "LOG_ERR")]
    Error,
    /// Something may fail.
    #[doc(alias = "LOG_WARNING")]
    Warning,
    /// Normal, but worth knowing.
    #[doc(alias = "LOG_NOTICE")]
    Notice,
    /// What goes on.
    #[doc(alias = "LOG_INFO")]
    Info,
    /// For who looks for a mistake.
    #[doc(alias = "LOG_DEBUG")]
    Debug,
}

/// What kind of program logs; the system's log sorts by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[doc(alias = "syslog_facility")]
pub enum Facility {
    /// The kernel. The C library does not let a program log as it, and takes the facility that holds otherwise.
    #[doc(alias = "LOG_KERN")]
    Kernel,
    /// Programs of users; the default.
    #[doc(alias = "LOG_USER")]
    User,
    /// Mail.
    #[doc(alias = "LOG_MAIL")]
    Mail,
    /// Daemons that have no facility of their own.
    #[doc(alias = "LOG_DAEMON")]
    Daemon,
    /// Logins and rights.
    #[doc(alias = "LOG_AUTH")]
    Auth,
    /// The log itself.
    #[doc(alias = "LOG_SYSLOG")]
    Syslog,
    /// Printing.
    #[doc(alias = "LOG_LPR")]
    Lpr,
    /// Network news.
    #[doc(alias = "LOG_NEWS")]
    News,
    /// UUCP.
    #[doc(alias = "LOG_UUCP")]
    Uucp,
    /// Jobs run by the clock.
    #[doc(alias = "LOG_CRON")]
    Cron,
    /// Logins and rights, with what not everybody may read.
    #[doc(alias = "LOG_AUTHPRIV")]
    AuthPriv,
    /// File transfer.
    #[doc(alias = "LOG_FTP")]
    Ftp,
    /// For local use.
    #[doc(alias = "LOG_LOCAL0")]
    Local0,
    /// For local use.
    #[doc(alias = "LOG_LOCAL1")]
    Local1,
    /// For local use.
    #[doc(alias = "LOG_LOCAL2")]
    Local2,
    /// For local use.
    #[doc(alias = "LOG_LOCAL3")]
    Local3,
    /// For local use.
    #[doc(alias = "LOG_LOCAL4")]
    Local4,
    /// For local use.
    #[doc(alias = "LOG_LOCAL5")]
    Local5,
    /// For local use.
    #[doc(alias = "LOG_LOCAL6")]
    Local6,
    /// For local use.
    #[doc(alias = "LOG_LOCAL7")]
    Local7,
}

/// How messages are written and sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[doc(alias = "syslog_option")]
pub enum LogOption {
    /// To the console, if the log cannot be reached.
    #[doc(alias = "LOG_CONS")]
    Cons,
    /// Connect at once, not at the first message.
    #[doc(alias = "LOG_NDELAY")]
    Ndelay,
    /// Connect at the first message; the default.
    #[doc(alias = "LOG_ODELAY")]
    Odelay,
    /// Not wait for children that log to the console. Without effect in the usual C libraries, which make none.
    #[doc(alias = "LOG_NOWAIT")]
    Nowait,
    /// Put the process's number beside the identity.
    #[doc(alias = "LOG_PID")]
    Pid,
    /// To standard error, too. An extension of Linux and the BSDs.
    #[doc(alias = "LOG_PERROR")]
    Perror,
}

/// Says as whom this process logs from now on. May be called again at any time; each identity is kept in memory for ever,
/// once.
///
/// `identity` comes before each message; `None` is the program's name. `facility` is for messages without one;
/// [`Facility::Kernel`] leaves it as it was.
///
/// ```no_run
/// # use manycore_backends::posix::syslog::{self, Facility, LogOption};
/// syslog::open(Some("counter"), &[LogOption::Pid, LogOption::Ndelay], Facility::Local3)?;
/// # Ok::<(), manycore_backends::posix::PosixError>(())
/// ```
///
/// # Errors
/// [`PosixError::Invalid`] if the identity contains NUL or has more than [`IDENTITY_MAX`] bytes. (OCamlnet cuts it off.)
#[doc(alias = "openlog")]
pub fn open(identity: Option<&str>, options: &[LogOption], facility: Facility) -> Result<(), PosixError> {
    const OP: &str = "openlog";
    let identity = match identity {
        Some(identity) if identity.len() > IDENTITY_MAX => {
            return Err(PosixError::Invalid { op: OP, what: "the identity has more than 255 bytes" });
        }
        Some(identity) => Some(
            CString::new(identity)
                .map_err(|_| PosixError::Invalid { op: OP, what: "the identity contains a NUL byte" })?,
        ),
        None => None,
    };
    let options = options.iter().fold(0, |bits, option| bits | option_bit(*option));
    let mut identities = lock(&IDENTITIES);
    let identity = match &identity {
        Some(identity) => {
            if !identities.contains(identity) {
                identities.insert(identity.clone());
            }
            identities.get(identity).expect("it was put there").as_ptr()
        }
        None => {
            // A null pointer alone would leave the former identity.
            // SAFETY: takes nothing.
            unsafe { libc::closelog() };
            ptr::null()
        }
    };
    // SAFETY: the pointer is null, or to a string that stays where it is for ever: nothing is removed from the set.
    unsafe { libc::openlog(identity, options, facility_bits(facility)) };
    Ok(())
}

/// Sends a message to the log, as the facility or as that of [`open`].
///
/// A NUL, at which the C library would cut the message off, is written as [`NUL_MARK`]. What is longer than the log takes
/// (8 KiB for some) is cut off there. Lines are not told apart: one message should be one line.
#[doc(alias = "syslog")]
pub fn log(facility: Option<Facility>, level: Level, message: &str) {
    const FORMAT: &CStr = c"%s";
    let message = message.replace('\0', NUL_MARK.encode_utf8(&mut [0; 4]));
    let message = CString::new(message).expect("every NUL was replaced");
    let priority = facility.map_or(0, facility_bits) | level_bits(level);
    let _excluded = lock(&IDENTITIES);
    // SAFETY: the format takes one string, and both are strings that outlive the call.
    unsafe { libc::syslog(priority, FORMAT.as_ptr(), message.as_ptr()) };
}

/// Closes the connection to the log, and forgets what [`open`] said. The next message connects again.
#[doc(alias = "closelog")]
pub fn close() {
    let _excluded = lock(&IDENTITIES);
    // SAFETY: takes nothing.
    unsafe { libc::closelog() };
    // Options and facility would stay.
    // SAFETY: a null pointer is no identity; without options nothing is opened.
    unsafe { libc::openlog(ptr::null(), 0, libc::LOG_USER) };
}

fn level_bits(level: Level) -> c_int {
    match level {
        Level::Emergency => libc::LOG_EMERG,
        Level::Alert => libc::LOG_ALERT,
        Level::Critical => libc::LOG_CRIT,
        Level::Error => libc::LOG_ERR,
        Level::Warning => libc::LOG_WARNING,
        Level::Notice => libc::LOG_NOTICE,
        Level::Info => libc::LOG_INFO,
        Level::Debug => libc::LOG_DEBUG,
    }
}

fn facility_bits(facility: Facility) -> c_int {
    match facility {
        Facility::Kernel => libc::LOG_KERN,
        Facility::User => libc::LOG_USER,
        Facility::Mail => libc::LOG_MAIL,
        Facility::Daemon => libc::LOG_DAEMON,
        Facility::Auth => libc::LOG_AUTH,
        Facility::Syslog => libc::LOG_SYSLOG,
        Facility::Lpr => libc::LOG_LPR,
        Facility::News => libc::LOG_NEWS,
        Facility::Uucp => libc::LOG_UUCP,
        Facility::Cron => libc::LOG_CRON,
        Facility::AuthPriv => libc::LOG_AUTHPRIV,
        Facility::Ftp => libc::LOG_FTP,
        Facility::Local0 => libc::LOG_LOCAL0,
        Facility::Local1 => libc::LOG_LOCAL1,
        Facility::Local2 => libc::LOG_LOCAL2,
        Facility::Local3 => libc::LOG_LOCAL3,
        Facility::Local4 => libc::LOG_LOCAL4,
        Facility::Local5 => libc::LOG_LOCAL5,
        Facility::Local6 => libc::LOG_LOCAL6,
        Facility::Local7 => libc::LOG_LOCAL7,
    }
}

fn option_bit(option: LogOption) -> c_int {
    match option {
        LogOption::Cons => libc::LOG_CONS,
        LogOption::Ndelay => libc::LOG_NDELAY,
        LogOption::Odelay => libc::LOG_ODELAY,
        LogOption::Nowait => libc::LOG_NOWAIT,
        LogOption::Pid => libc::LOG_PID,
        LogOption::Perror => libc::LOG_PERROR,
    }
}
