//! [`Command`]: starting another program, with a say in everything that it inherits.
//!
//! `std::process::Command` is enough for most programs, and [`ChildProcess::watch`] takes its children. It has no ordered
//! list of what to do with descriptors, no signal actions, no foreground groups, no directory by descriptor; and as it
//! keeps a pipe for itself in the child, under a number that nobody knows, a list run in its `pre_exec` could close or
//! replace that. So this is not built on it, but on the same system call that `posix_spawn` is built on: see
//! [`start`](super::start).
//!
//! What is done in the child, in this order; the first step that fails is told by name, with its errno:
//!
//! | | step | default |
//! |---|---|---|
//! | 1 | working directory | that of the parent |
//! | 2 | process group or session | that of the parent |
//! | 3 | signal actions, in the order given | ignored signals stay ignored but for `SIGPIPE`, handled ones get their default action |
//! | 4 | descriptors, in the order given | those without close-on-exec stay open |
//! | 5 | signal mask | that of the calling thread |
//! | 6 | the program | |
//!
//! This module does not capture output, and does not run a shell.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::fd::{BorrowedFd, RawFd};
use std::path::{Path, PathBuf};

use super::plan::Plan;
use super::start::launch;
use super::watch::{ends_are_ignored, sweep};
use super::{Child, ChildProcess, Exit, SpawnError};
use crate::signal::BlockedSignals;

/// A program to start, with its arguments and all that it inherits. The borrowed descriptors are those of this process.
///
/// ```
/// use std::io::Read;
/// use std::os::fd::AsFd;
/// use manycore_backends::spawn::{Command, Exit};
///
/// let (mut reader, writer) = std::os::unix::net::UnixStream::pair()?;
/// let exit = Command::new("echo").arg("hello").duplicate(writer.as_fd(), 1).status()?;
/// assert_eq!(exit, Exit::Code(0));
/// drop(writer);
/// let mut text = String::new();
/// reader.read_to_string(&mut text)?;
/// assert_eq!(text, "hello\n");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Source: [`posix_spawn`](https://pubs.opengroup.org/onlinepubs/9799919799/functions/posix_spawn.html) of POSIX;
/// `Netsys_posix.spawn` of OCamlnet, whose two ways to start had different meanings.
#[derive(Clone, Debug)]
#[doc(alias("spawn", "posix_spawn", "execve"))]
pub struct Command<'fd> {
    pub(super) program: OsString,
    pub(super) name: Option<OsString>,
    pub(super) arguments: Vec<OsString>,
    pub(super) clear_environment: bool,
    /// What is set, and what is taken out.
    pub(super) environment: BTreeMap<OsString, Option<OsString>>,
    pub(super) directory: Directory<'fd>,
    pub(super) group: Group,
    pub(super) signals: Vec<SignalAction>,
    pub(super) descriptors: Vec<DescriptorAction<'fd>>,
    pub(super) dies_with_parent: bool,
}

/// In which directory a program begins to work.
#[derive(Clone, Debug, Default)]
#[doc(alias = "wd_spec")]
pub enum Directory<'fd> {
    /// That of the parent.
    #[default]
    Keep,
    /// The one with this path, relative to that of the parent.
    Path(PathBuf),
    /// The one that is open under this descriptor.
    Descriptor(BorrowedFd<'fd>),
}

/// In which process group a program runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[doc(alias = "pg_spec")]
pub enum Group {
    /// That of the parent.
    #[default]
    Keep,
    /// A new one, which it leads.
    NewBackground,
    /// A new one, which it leads and which is the foreground group of the controlling terminal. Whoever does this wants
    /// to come back to the foreground later, and so ignores `SIGTTOU`. A start that fails gives the foreground back.
    NewForeground,
    /// An existing one of the same session, by its number.
    Join(u32),
    /// A new one in a new session, without a controlling terminal.
    NewSession,
}

/// What happens to a signal in the program.
#[derive(Clone, Debug, PartialEq, Eq)]
#[doc(alias = "sig_action")]
pub(super) enum SignalAction {
    Default(i32),
    Ignore(i32),
    Mask(Vec<i32>),
}

/// What happens to a descriptor in the program.
#[derive(Clone, Debug)]
#[doc(alias = "fd_action")]
pub(super) enum DescriptorAction<'fd> {
    Close(RawFd),
    CloseIfOpen(RawFd),
    CloseAllExcept(Vec<RawFd>),
    Duplicate { from: BorrowedFd<'fd>, to: RawFd },
    DuplicateNumber { from: RawFd, to: RawFd },
}

impl<'fd> Command<'fd> {
    /// The program `program`, without arguments. A name without a slash is looked for in the directories of the
    /// environment variable `PATH` that the program gets. What is relative, in `PATH` too, is so to the directory that the
    /// program [works in](Command::directory).
    pub fn new(program: impl AsRef<OsStr>) -> Command<'fd> {
        Command {
            program: program.as_ref().to_owned(),
            name: None,
            arguments: Vec::new(),
            clear_environment: false,
            environment: BTreeMap::new(),
            directory: Directory::Keep,
            group: Group::Keep,
            signals: Vec::new(),
            descriptors: Vec::new(),
            dies_with_parent: false,
        }
    }

    /// What the program finds as its own name (`argv[0]`), instead of what [`new`](Command::new) was given.
    pub fn name(&mut self, name: impl AsRef<OsStr>) -> &mut Self {
        self.name = Some(name.as_ref().to_owned());
        self
    }

    /// Adds an argument.
    pub fn arg(&mut self, argument: impl AsRef<OsStr>) -> &mut Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub fn args(&mut self, arguments: impl IntoIterator<Item: AsRef<OsStr>>) -> &mut Self {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable. The others are those of this process at the time of the start.
    pub fn env(&mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> &mut Self {
        self.environment.insert(name.as_ref().to_owned(), Some(value.as_ref().to_owned()));
        self
    }

    /// Takes an environment variable out.
    pub fn env_remove(&mut self, name: impl AsRef<OsStr>) -> &mut Self {
        self.environment.insert(name.as_ref().to_owned(), None);
        self
    }

    /// Takes all environment variables out, those of this process and those set so far.
    pub fn env_clear(&mut self) -> &mut Self {
        self.clear_environment = true;
        self.environment.clear();
        self
    }

    /// The directory to work in.
    #[doc(alias("chdir", "fchdir"))]
    pub fn directory(&mut self, directory: Directory<'fd>) -> &mut Self {
        self.directory = directory;
        self
    }

    /// The directory to work in, by its path: like [`directory`](Command::directory), with std's name.
    pub fn current_dir(&mut self, path: impl AsRef<Path>) -> &mut Self {
        self.directory(Directory::Path(path.as_ref().to_owned()))
    }

    /// The process group to run in.
    #[doc(alias = "setpgid")]
    pub fn group(&mut self, group: Group) -> &mut Self {
        self.group = group;
        self
    }

    /// Gives the signal its default action.
    pub fn default_signal(&mut self, signal: i32) -> &mut Self {
        self.signals.push(SignalAction::Default(signal));
        self
    }

    /// Has the signal ignored.
    pub fn ignore_signal(&mut self, signal: i32) -> &mut Self {
        self.signals.push(SignalAction::Ignore(signal));
        self
    }

    /// The signals that are blocked in the program at first, and no others. Said twice, the last one counts.
    pub fn signal_mask(&mut self, signals: &[i32]) -> &mut Self {
        self.signals.push(SignalAction::Mask(signals.to_owned()));
        self
    }

    /// Then closes the descriptor with this number; it is an error (`EBADF`) if it is not open.
    #[doc(alias = "Fda_close")]
    pub fn close(&mut self, number: RawFd) -> &mut Self {
        self.descriptors.push(DescriptorAction::Close(number));
        self
    }

    /// Then closes the descriptor with this number, if it is open.
    #[doc(alias = "Fda_close_ignore")]
    pub fn close_if_open(&mut self, number: RawFd) -> &mut Self {
        self.descriptors.push(DescriptorAction::CloseIfOpen(number));
        self
    }

    /// Then closes all descriptors but those with these numbers: also 0, 1 and 2, if they are not among them.
    #[doc(alias("Fda_close_except", "close_range"))]
    pub fn close_all_except(&mut self, numbers: &[RawFd]) -> &mut Self {
        self.descriptors.push(DescriptorAction::CloseAllExcept(numbers.to_owned()));
        self
    }

    /// Then makes the number `to` a duplicate of the descriptor, open in the program; what was open under it is closed.
    /// If it is the descriptor's own number, that just stays open.
    ///
    /// The descriptor is the one of this process, also if its number was closed, or has become another's, by what comes
    /// earlier in the list. (For that the child keeps a duplicate, which needs a number that is free from the start: else
    /// this fails with `EMFILE` or `EINVAL`.)
    #[doc(alias("Fda_dup2", "dup2"))]
    pub fn duplicate(&mut self, from: BorrowedFd<'fd>, to: RawFd) -> &mut Self {
        self.descriptors.push(DescriptorAction::Duplicate { from, to });
        self
    }

    /// Like [`duplicate`](Command::duplicate), of what is open under the number `from` when this comes in the list.
    #[doc(alias("Fda_dup2", "dup2"))]
    pub fn duplicate_number(&mut self, from: RawFd, to: RawFd) -> &mut Self {
        self.descriptors.push(DescriptorAction::DuplicateNumber { from, to });
        self
    }

    /// Has the program killed when the calling thread ends. A program with rights of its own (set-user-ID, capabilities of
    /// the file) has to ask for it again.
    pub(super) fn die_with_parent(&mut self) -> &mut Self {
        self.dies_with_parent = true;
        self
    }

    /// Starts the program, and returns when it runs.
    ///
    /// # Errors
    /// [`SpawnError::Command`] if a step fails: nothing is left of it. [`SpawnError::Nul`] if a text contains a zero
    /// byte, or the name of an environment variable an equals sign. [`SpawnError::EndsIgnored`] if nobody could learn
    /// how it ends. [`SpawnError::Io`] if it was started and cannot be watched: with `ECHILD` if another thread, which
    /// takes the exit status of every child, has been faster; otherwise the program is ended.
    pub fn start(&self) -> Result<ChildProcess, SpawnError> {
        sweep();
        if ends_are_ignored() {
            return Err(SpawnError::EndsIgnored);
        }
        let mut plan = Plan::new(self)?;
        // Until the child is watched: no handler runs in it, nor one of the caller's here, which could reap it.
        let blocked = BlockedSignals::all();
        let (pid, pidfd) = launch(&mut plan, blocked.before()).map_err(|failure| SpawnError::Command {
            program: self.program.to_string_lossy().into_owned(),
            step: failure.step,
            call: failure.call,
            source: failure.errno.into(),
        })?;
        ChildProcess::new(pid, pidfd)
    }

    /// Starts the program and waits for its end.
    ///
    /// # Errors
    /// Those of [`start`](Command::start) and [`Child::wait`].
    pub fn status(&self) -> Result<Exit, SpawnError> {
        self.start()?.wait()
    }

    /// The group that a child with this number is put into, if it is not that of its parent.
    pub(super) fn group_of(&self, id: u32) -> Option<u32> {
        match self.group {
            Group::Keep => None,
            Group::NewBackground | Group::NewForeground | Group::NewSession => Some(id),
            Group::Join(group) => Some(group),
        }
    }
}

/// What failed at the start of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// Making the process.
    Process,
    /// Changing the working directory.
    Directory,
    /// Making or joining the process group, or making the session.
    Group,
    /// Opening the controlling terminal, for a new foreground group.
    Terminal,
    /// Making the new group that of the foreground.
    Foreground,
    /// Setting what happens at this signal.
    Signal(i32),
    /// What was to be done with descriptors, by its place in the list, from 0.
    Descriptor(usize),
    /// Running the program.
    Execute,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Process => f.write_str("making a process"),
            Step::Directory => f.write_str("changing the directory"),
            Step::Group => f.write_str("changing the process group"),
            Step::Terminal => f.write_str("opening the terminal"),
            Step::Foreground => f.write_str("coming to the foreground"),
            Step::Signal(signal) => write!(f, "setting what happens at signal {signal}"),
            Step::Descriptor(index) => write!(f, "action {index} on descriptors"),
            Step::Execute => f.write_str("running the program"),
        }
    }
}
