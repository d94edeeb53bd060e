//! What else the system has for programs of many processes: terminals and process groups, users, semaphores, advice about
//! files, I/O priorities, the system's log, and what a child forgets after `fork`. Thin, typed and complete.
//!
//! | module | what it is for |
//! |---|---|
//! | [`post_fork`] | handlers that a forked child runs before anything else |
//! | [`process`] | process groups, sessions, users, the limit of open files |
//! | [`terminal`] | foreground process group, names of terminals |
//! | [`semaphore`] | semaphores between processes, with names and in shared memory, with timeouts |
//! | [`file`](mod@file) | advice about reading, room reserved for writing |
//! | [`io_priority`] | whose reads and writes go first |
//! | [`syslog`] | the system's log |
//!
//! All of it is functions and small types of this system, not a contract with several implementations as the other rooms
//! are. There is nothing here that std has, and no second name for what rustix has and does well: those who need that
//! use rustix itself. The types of these crates do not occur in the interface.
//!
//! # Where everything is
//!
//! For those who come from C, or from OCamlnet's `Netsys_posix`, whose names this table has.
//!
//! | there | here |
//! |---|---|
//! | `poll_array`, `poll_cell`, `create_poll_array`, `set_poll_cell`, `get_poll_cell`, `blit_poll_array`, `poll_array_length`, `have_poll` | [`PollArray`](crate::poll::PollArray) and [`PollCell`](crate::poll::PollCell) (`poll` is always there) |
//! | `poll`, `restarting_poll`, `poll_single` | [`PollArray::wait`](crate::poll::PollArray::wait), [`restarting_wait`](crate::poll::PollArray::restarting_wait), [`poll_single`](crate::poll::poll_single); for a set of sources with keys, [`Poller`](crate::Poller) |
//! | `poll_req_events`, `poll_req_triple`, `const_rd_event`, `const_wr_event`, `const_pri_event`, `int_of_req_events`, `req_events_of_int` | [`Interest`](crate::poll::Interest), its constants, `bits`, `from_bits` |
//! | `poll_act_events`, `poll_null_events`, `poll_result`, `poll_rd_result`, `poll_wr_result`, `poll_pri_result`, `poll_err_result`, `poll_hup_result`, `poll_nval_result`, `const_err_event`, `const_hup_event`, `const_nval_event`, `int_of_act_events`, `act_events_of_int` | [`Ready`](crate::poll::Ready), its constants, `contains`, `is_none`, `bits`, `from_bits` |
//! | event aggregation: create, destroy, add, del, modify, push, poll, interrupt | [`Epoll`](crate::Epoll) and every other [`Poller`](crate::Poller); changes count at once and are not pushed |
//! | event aggregation: fd | [`Epoll`](crate::Epoll) is [`AsFd`](std::os::fd::AsFd); the others have no descriptor |
//! | notification events: create, set, wait, consume, destroy, `get_event_fd`, set_nonblock | [`Notifier`](crate::poll::Notifier); of a poller by itself: [`Poller::notify`](crate::Poller::notify) |
//! | notification events: `report_signal_as_event` | [`Notifier::watch_signal`](crate::poll::Notifier::watch_signal) |
//! | registry of signal handlers (`Netsys_signal`) | crate `signal-hook` |
//! | `post_fork_handler`, `register_post_fork_handler` | [`post_fork::register`] |
//! | `remove_post_fork_handler` | dropping its [`Registration`](post_fork::Registration) |
//! | `run_post_fork_handlers` | [`post_fork::run`]; [`Fork`](crate::spawn::Fork) calls it |
//! | `int_of_file_descr` | [`std::os::fd::AsRawFd`] |
//! | `file_descr_of_int` | [`std::os::fd::FromRawFd`], [`std::os::fd::BorrowedFd::borrow_raw`] |
//! | `sysconf_open_max` | [`process::open_files_max`] |
//! | `getpgid`, `getpgrp` | [`process::process_group`], [`process::own_process_group`] |
//! | `setpgid`, `setpgrp` | [`process::set_process_group`], [`process::start_process_group`] |
//! | `getsid` (and `setsid`) | [`process::session`], [`process::start_session`] |
//! | `tcgetpgrp` | [`terminal::foreground_group`] |
//! | `tcsetpgrp` | [`terminal::set_foreground_group`], [`terminal::set_foreground_group_unstopped`] |
//! | `ctermid` | [`terminal::CONTROLLING`] |
//! | `ttyname` | [`terminal::name`] |
//! | `setreuid`, `setregid` | [`process::set_real_and_effective_user`], [`process::set_real_and_effective_group`] |
//! | `spawn` (`chdir`, `pg`, `fd_actions`, `sig_actions`, `env`) | [`Command`](crate::spawn::Command), with one meaning for all of them |
//! | `wd_spec`: `Wd_keep`, `Wd_chdir`, `Wd_fchdir` | [`Command::directory`](crate::spawn::Command::directory) |
//! | `pg_spec`: `Pg_keep`, `Pg_new_bg_group`, `Pg_new_fg_group`, `Pg_join_group` | [`Command::group`](crate::spawn::Command::group) |
//! | `fd_action`: `Fda_close`, `Fda_close_ignore`, `Fda_close_except`, `Fda_dup2` | [`Command`](crate::spawn::Command): `close`, `close_if_open`, `close_all_except`, `duplicate` |
//! | `sig_action`: `Sig_default`, `Sig_ignore`, `Sig_mask` | [`Command`](crate::spawn::Command): `default_signal`, `ignore_signal`, `signal_mask` |
//! | `watched_subprocess`, `watch_subprocess`, `ignore_subprocess`, `forget_subprocess`, `get_subprocess_status`, `kill_subprocess`, `killpg_subprocess` | [`ChildProcess`](crate::spawn::ChildProcess) |
//! | `kill_all_subprocesses`, `killpg_all_subprocesses` | [`Children`](crate::spawn::Children) |
//! | `install_subprocess_handler`, `register_subprocess_handler` | not needed: children are watched without a handler of `SIGCHLD`, or, where the system has no pidfd, with one that is installed then |
//! | `level`, `syslog_facility`, `syslog_option` | [`syslog::Level`], [`syslog::Facility`], [`syslog::LogOption`] |
//! | `openlog`, `syslog`, `closelog` | [`syslog::open`], [`syslog::log`], [`syslog::close`] |
//! | `have_fadvise`, `advice`, `fadvise` | [`file::Advice`], [`file::advise`] |
//! | `have_fallocate`, `fallocate` | [`file::reserve`] |
//! | `have_posix_shm`, `shm_open_flag`, `shm_open`, `shm_unlink` | [`PosixShm::supported`](crate::ShmBackend::supported), [`shm::Open`](crate::shm::Open), [`PosixShm::open`](crate::ShmBackend::open), [`PosixShm::unlink`](crate::ShmBackend::unlink); the bare descriptor: `rustix::shm::open` |
//! | `shm_create` | [`shm::create_unique`](crate::shm::create_unique) |
//! | `have_posix_semaphores`, `have_named_posix_semaphores`, `have_anon_posix_semaphores` | both are always there |
//! | `sem_value_max`, `sem_size` | [`semaphore::MAX_VALUE`], [`semaphore::SIZE`] |
//! | `sem_kind`, `semaphore` | [`semaphore::Semaphore`], which both kinds lend |
//! | `named_semaphore`, `sem_open_flag`, `sem_open` | [`semaphore::NamedSemaphore`]: `create_new`, `create`, `open` |
//! | `sem_close` | dropping it |
//! | `sem_unlink`, `sem_create` | [`NamedSemaphore::unlink`](semaphore::NamedSemaphore::unlink), [`NamedSemaphore::unique`](semaphore::NamedSemaphore::unique) |
//! | `anon_semaphore`, `sem_init`, `as_sem` | [`semaphore::SemaphoreSet`]: `new`, `from_fd`, `get` |
//! | `sem_destroy` | [`SemaphoreSet::destroy`](semaphore::SemaphoreSet::destroy) |
//! | `sem_getvalue`, `sem_post` | [`Semaphore::value`](semaphore::Semaphore::value), [`Semaphore::post`](semaphore::Semaphore::post) |
//! | `sem_wait`, `sem_wait_behavior` | [`Semaphore`](semaphore::Semaphore): `wait`, `try_wait`, `wait_timeout` |
//! | `have_ioprio`, `ioprio_target`, `ioprio`, `ioprio_get`, `ioprio_set` | [`io_priority::Target`], [`io_priority::IoPriority`], [`io_priority::get`], [`io_priority::set`]; whether there is any: `get(Target::OWN).is_ok()` |
//! | `Debug.enable` | not here: every error names its call and keeps the errno; `strace -f` shows all calls |
//! | `openat`, `faccessat`, `mkdirat`, `renameat`, `linkat`, `unlinkat`, `symlinkat`, `readlinkat` | `rustix::fs::openat`, `rustix::fs::accessat`, `rustix::fs::mkdirat`, `rustix::fs::renameat`, `rustix::fs::linkat`, `rustix::fs::unlinkat`, `rustix::fs::symlinkat`, `rustix::fs::readlinkat` |
//! | `mkfifoat`, `mknod` | `rustix::fs::mknodat` with `FileType::Fifo` or another |
//! | `realpath` | [`std::fs::canonicalize`] |
//! | `fchdir`, `fdopendir` | `rustix::process::fchdir`, `rustix::fs::Dir::read_from` |
//! | `get_nonblock` | `rustix::fs::fcntl_getfl` with `OFlags::NONBLOCK` |
//! | `fsync`, `fdatasync` | [`std::fs::File::sync_all`], [`std::fs::File::sync_data`] |
//! | `initgroups` | `nix::unistd::initgroups` (for the whole process, as [`process::set_real_and_effective_group`]) |
//! | `posix_openpt`, `grantpt`, `unlockpt`, `ptsname` | `rustix::pty::openpt`, `rustix::pty::grantpt`, `rustix::pty::unlockpt`, `rustix::pty::ptsname` |
//! | `with_tty` | [`std::fs::File::open`] of [`terminal::CONTROLLING`] |
//! | `tty_read_password` | crate `rpassword` |
//! | `nanosleep` | [`std::thread::sleep`], `rustix::thread::clock_nanosleep` |
//! | `clock_gettime`, `clock_settime`, `clock_getres` | [`std::time::Instant`], [`std::time::SystemTime`]; `rustix::time::clock_gettime`, `rustix::time::clock_settime`, `rustix::time::clock_getres` |
//! | POSIX timers | a descriptor to wait for: `rustix::time::timerfd_create`, `rustix::time::timerfd_settime` |
//! | `query_langinfo` | `libc::nl_langinfo` |
//!
//! This module does not start processes ([`spawn`](crate::spawn) does), wait for descriptors ([`poll`](crate::poll)) or
//! map memory for anything but semaphores ([`shm`](crate::shm)).

pub mod file;
pub mod io_priority;
pub mod post_fork;
pub mod process;
pub mod semaphore;
pub mod syslog;
pub mod terminal;

use std::io;

use rustix::io::Errno;

/// Why the system, or this module before it was asked, refused. (Semaphores have an error of their own:
/// [`SemaphoreError`](semaphore::SemaphoreError).)
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PosixError {
    /// There is no such process, group or user with processes, or none that may be meant here: it may have ended.
    #[error("{op} failed: no such process, or group of processes")]
    NoSuchProcess {
        /// The call.
        op: &'static str,
        /// `ESRCH`.
        #[source]
        source: io::Error,
    },
    /// This process has not the right: ask as another user, or with a capability.
    #[error("{op} failed: not permitted: {source}")]
    NotPermitted {
        /// The call.
        op: &'static str,
        /// `EPERM` or `EACCES`.
        #[source]
        source: io::Error,
    },
    /// The descriptor is of something else than a terminal, or of one that does not control this process.
    #[error("{op} failed: not a terminal, or not the one of this session")]
    NotATerminal {
        /// The call.
        op: &'static str,
        /// `ENOTTY`.
        #[source]
        source: io::Error,
    },
    /// There is no room for it: make some, or do with less.
    #[error("{op} failed: no room: {source}")]
    NoRoom {
        /// The call.
        op: &'static str,
        /// `ENOSPC`, `EDQUOT` or `EFBIG`.
        #[source]
        source: io::Error,
    },
    /// What was asked for makes no sense, in any state of the system. It was not asked.
    #[error("{op}: {what}")]
    Invalid {
        /// The call that was not made.
        op: &'static str,
        /// What is wrong.
        what: &'static str,
    },
    /// A call failed.
    #[error("{op} failed: {source}")]
    Io {
        /// The call.
        op: &'static str,
        /// The error, with its errno.
        #[source]
        source: io::Error,
    },
}

impl PosixError {
    /// The system's number of the error, `EPERM` and so on; of [`Invalid`](PosixError::Invalid) it is `EINVAL`.
    pub fn raw_os_error(&self) -> Option<i32> {
        match self {
            PosixError::NoSuchProcess { source, .. }
            | PosixError::NotPermitted { source, .. }
            | PosixError::NotATerminal { source, .. }
            | PosixError::NoRoom { source, .. }
            | PosixError::Io { source, .. } => source.raw_os_error(),
            PosixError::Invalid { .. } => Some(libc::EINVAL),
        }
    }

    fn from_errno(op: &'static str, errno: Errno) -> PosixError {
        PosixError::from_io(op, errno.into())
    }

    /// The error that the C library has just reported to this thread.
    fn last(op: &'static str) -> PosixError {
        PosixError::from_io(op, io::Error::last_os_error())
    }

    /// The variant that says what the caller can do about it.
    fn from_io(op: &'static str, source: io::Error) -> PosixError {
        match source.raw_os_error() {
            Some(libc::ESRCH) => PosixError::NoSuchProcess { op, source },
            Some(libc::EPERM | libc::EACCES) => PosixError::NotPermitted { op, source },
            Some(libc::ENOTTY) => PosixError::NotATerminal { op, source },
            Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => PosixError::NoRoom { op, source },
            _ => PosixError::Io { op, source },
        }
    }
}
