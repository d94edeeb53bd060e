//! A [`Command`] made ready for a child that may not allocate: all texts with their zero bytes, all lists with room for
//! what the child puts there.
//!
//! This module does nothing of what is planned.

use std::ffi::{CString, OsStr, OsString, c_char};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::ptr;

use rustix::process::Pid;

use super::command::{Command, DescriptorAction, Directory, Group, SignalAction};
use super::{SpawnError, Step};
use crate::signal;

/// Where programs are looked for if the environment does not say: the C library's `_PATH_DEFPATH`.
const USUAL_PATH: &str = "/usr/bin:/bin";

pub(super) struct Plan {
    /// Who the child dies with, if with anybody.
    pub(super) parent: Option<Pid>,
    /// Tried in this order.
    pub(super) programs: Vec<CString>,
    pub(super) arguments: Strings,
    pub(super) environment: Strings,
    pub(super) directory: Option<PlannedDirectory>,
    pub(super) group: Group,
    /// A signal, and whether it is ignored.
    pub(super) signals: Vec<(i32, bool)>,
    /// `None`: that of the caller.
    pub(super) mask: Option<libc::sigset_t>,
    pub(super) descriptors: Vec<PlannedAction>,
    /// All numbers that the actions name, sorted: what the child needs for itself has none of these.
    pub(super) named: Vec<RawFd>,
    /// Descriptors that an action takes the number from before another needs them: where the child keeps them, by and by.
    pub(super) saved: Vec<RawFd>,
    /// Room for the numbers not to close.
    pub(super) keep: Vec<RawFd>,
}

pub(super) enum PlannedDirectory {
    Path(CString),
    Descriptor(RawFd),
}

pub(super) enum PlannedAction {
    Close(RawFd),
    CloseIfOpen(RawFd),
    /// Sorted.
    CloseAllExcept(Vec<RawFd>),
    Duplicate {
        from: Origin,
        to: RawFd,
    },
}

#[derive(Clone, Copy)]
pub(super) enum Origin {
    Number(RawFd),
    /// What is under this number in the parent is kept in this place of `saved`.
    Saved(RawFd),
}

impl Plan {
    pub(super) fn new(command: &Command<'_>) -> Result<Plan, SpawnError> {
        let environment = environment(command);
        let programs = programs(&command.program, &environment)?;
        let name = command.name.as_ref().unwrap_or(&command.program);
        let arguments = [name].into_iter().chain(&command.arguments);
        let directory = match &command.directory {
            Directory::Keep => None,
            Directory::Path(path) => Some(PlannedDirectory::Path(text(path.as_os_str(), "the directory")?)),
            Directory::Descriptor(fd) => Some(PlannedDirectory::Descriptor(fd.as_raw_fd())),
        };
        let mut signals = Vec::new();
        let mut mask = None;
        for action in &command.signals {
            match action {
                SignalAction::Default(signal) => signals.push((*signal, false)),
                SignalAction::Ignore(signal) => signals.push((*signal, true)),
                SignalAction::Mask(blocked) => mask = Some(mask_of(&command.program, blocked)?),
            }
        }
        let (descriptors, named, saved) = actions(&command.descriptors);
        let longest = descriptors.iter().map(|action| match action {
            PlannedAction::CloseAllExcept(keep) => keep.len(),
            _ => 0,
        });
        let keep = Vec::with_capacity(longest.max().unwrap_or(0) + saved);
        Ok(Plan {
            parent: command.dies_with_parent.then(rustix::process::getpid),
            programs,
            arguments: Strings::new(
                arguments.map(|argument| text(argument, "an argument")).collect::<Result<_, _>>()?,
            ),
            environment: Strings::new(variables(&environment)?),
            directory,
            group: command.group,
            signals,
            mask,
            descriptors,
            named,
            saved: Vec::with_capacity(saved),
            keep,
        })
    }
}

/// The list, all numbers that it names, and how many descriptors have to be saved before it.
fn actions(list: &[DescriptorAction<'_>]) -> (Vec<PlannedAction>, Vec<RawFd>, usize) {
    let mut planned: Vec<PlannedAction> = Vec::new();
    let mut named = Vec::new();
    let mut saved = 0;
    for action in list {
        planned.push(match action {
            DescriptorAction::Close(number) => {
                named.push(*number);
                PlannedAction::Close(*number)
            }
            DescriptorAction::CloseIfOpen(number) => {
                named.push(*number);
                PlannedAction::CloseIfOpen(*number)
            }
            DescriptorAction::CloseAllExcept(keep) => {
                let mut keep = keep.clone();
                keep.sort_unstable();
                keep.dedup();
                named.extend(&keep);
                PlannedAction::CloseAllExcept(keep)
            }
            DescriptorAction::Duplicate { from, to } => {
                let from = from.as_raw_fd();
                named.extend([from, *to]);
                let lost = planned.iter().any(|earlier| earlier.takes(from));
                saved += usize::from(lost);
                let from = if lost { Origin::Saved(from) } else { Origin::Number(from) };
                PlannedAction::Duplicate { from, to: *to }
            }
            DescriptorAction::DuplicateNumber { from, to } => {
                named.extend([*from, *to]);
                PlannedAction::Duplicate { from: Origin::Number(*from), to: *to }
            }
        });
    }
    named.sort_unstable();
    named.dedup();
    (planned, named, saved)
}

impl PlannedAction {
    /// Whether the number is not what it was, after this.
    fn takes(&self, number: RawFd) -> bool {
        match self {
            PlannedAction::Close(closed) | PlannedAction::CloseIfOpen(closed) => *closed == number,
            PlannedAction::CloseAllExcept(keep) => keep.binary_search(&number).is_err(),
            PlannedAction::Duplicate { from: Origin::Number(from), to } => *to == number && from != to,
            PlannedAction::Duplicate { from: Origin::Saved(_), to } => *to == number,
        }
    }
}

fn mask_of(program: &OsStr, signals: &[i32]) -> Result<libc::sigset_t, SpawnError> {
    let mut set = signal::empty_set();
    for &number in signals {
        signal::insert(&mut set, number).map_err(|source| SpawnError::Command {
            program: program.to_string_lossy().into_owned(),
            step: Step::Signal(number),
            call: "sigaddset",
            source,
        })?;
    }
    Ok(set)
}

/// The variables that the program gets.
fn environment(command: &Command<'_>) -> Vec<(OsString, OsString)> {
    let inherited = (!command.clear_environment).then(std::env::vars_os).into_iter().flatten();
    let inherited = inherited.filter(|(name, _)| !command.environment.contains_key(name));
    let set = command.environment.iter();
    let set = set.filter_map(|(name, value)| Some((name.clone(), value.clone()?)));
    inherited.chain(set).collect()
}

fn variables(environment: &[(OsString, OsString)]) -> Result<Vec<CString>, SpawnError> {
    let variable = |(name, value): &(OsString, OsString)| {
        // The C library has variables whose names begin with an equals sign, and so has std.
        if name.is_empty() || name.as_bytes()[1..].contains(&b'=') {
            return Err(SpawnError::Nul { what: "the name of an environment variable" });
        }
        let mut bytes = Vec::with_capacity(name.len() + value.len() + 2);
        bytes.extend_from_slice(name.as_bytes());
        bytes.push(b'=');
        bytes.extend_from_slice(value.as_bytes());
        CString::new(bytes).map_err(|_| SpawnError::Nul { what: "an environment variable" })
    };
    environment.iter().map(variable).collect()
}

/// The paths under which the program may be.
fn programs(program: &OsStr, environment: &[(OsString, OsString)]) -> Result<Vec<CString>, SpawnError> {
    const WHAT: &str = "the name of the program";
    if program.is_empty() || program.as_bytes().contains(&b'/') {
        return Ok(vec![text(program, WHAT)?]);
    }
    let path = environment.iter().find(|(name, _)| name == "PATH");
    let path = path.map_or(OsStr::new(USUAL_PATH), |(_, path)| path);
    let candidate = |directory: &[u8]| {
        // The empty one is the working directory.
        let directory: &[u8] = if directory.is_empty() { b"." } else { directory };
        text(OsStr::from_bytes(&[directory, b"/", program.as_bytes()].concat()), WHAT)
    };
    path.as_bytes().split(|byte| *byte == b':').map(candidate).collect()
}

fn text(text: &OsStr, what: &'static str) -> Result<CString, SpawnError> {
    CString::new(text.as_bytes()).map_err(|_| SpawnError::Nul { what })
}

/// Texts, and the list of pointers to them that the kernel wants.
pub(super) struct Strings {
    /// What the pointers point to.
    _texts: Vec<CString>,
    /// With a null pointer behind the last.
    pointers: Vec<*const c_char>,
}

impl Strings {
    fn new(texts: Vec<CString>) -> Strings {
        let pointers = texts.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect();
        Strings { _texts: texts, pointers }
    }

    /// The list of pointers, which ends with a null pointer; valid as long as this value lives.
    pub(super) fn as_ptr(&self) -> *const *const c_char {
        self.pointers.as_ptr()
    }
}
