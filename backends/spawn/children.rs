//! [`Children`]: the children of a program, or of a part of it, to signal them all at once.
//!
//! A list knows the children that were started or watched through it, as long as they are not reaped, whether somebody
//! still has a handle or not. It does not own them: dropping the list, or taking a child out of it, ends nobody.

use super::watch::Watched;
use super::{Child, ChildProcess, Command, SpawnError, WatchBy};
use crate::sync::global::{Arc, Mutex, Weak, lock};

/// A list of child processes, to signal all of them, or all groups of them.
///
/// ```
/// use manycore_backends::spawn::{Child, Children, Command, Exit, Group, KillAll, Member};
///
/// static CHILDREN: Children = Children::new();
///
/// let mut command = Command::new("/bin/sh");
/// command.args(["-c", "read line"]).group(Group::NewBackground);
/// let (near, _far) = std::os::unix::net::UnixStream::pair()?;
/// # use std::os::fd::AsFd;
/// command.duplicate(near.as_fd(), 0);
/// let child = CHILDREN.start(&command, true)?;
///
/// CHILDREN.kill_all(15, KillAll::default())?;
/// assert_eq!(child.wait()?, Exit::Signal { signal: 15, core: false });
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Source: the table of watched processes in OCamlnet's `Netsys_posix`, without its signal handler and thread.
#[derive(Debug, Default)]
pub struct Children {
    entries: Mutex<Vec<Entry>>,
}

#[derive(Debug)]
struct Entry {
    /// Held by its handle, or by the orphans.
    child: Weak<Watched>,
    member: Member,
}

/// What a [list](Children) knows of a child.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// The process group that the child leads or has joined, if it is not that of this process.
    pub group: Option<u32>,
    /// Whether the child is among those that are to be killed in the end.
    #[doc(alias = "kill_flag")]
    pub kill: bool,
}

/// Which children of a [list](Children) a signal is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KillAll {
    /// Also those that are not [to be killed in the end](Member::kill).
    #[doc(alias = "override")]
    pub unflagged: bool,
    /// Not those with a [group](Member::group).
    #[doc(alias = "nogroup")]
    pub without_group: bool,
}

impl Children {
    /// An empty list.
    pub const fn new() -> Children {
        Children { entries: Mutex::new(Vec::new()) }
    }

    /// Starts the program, and lists it with the group that the command has put it in.
    ///
    /// # Errors
    /// Those of [`Command::start`].
    pub fn start(&self, command: &Command<'_>, kill: bool) -> Result<ChildProcess, SpawnError> {
        let child = command.start()?;
        self.list(&child, Member { group: command.group_of(child.id()), kill });
        Ok(child)
    }

    /// Watches a child that was started by other means, and lists it.
    ///
    /// # Errors
    /// [`SpawnError::AlreadyWatched`] if the child is in the list; those of [`ChildProcess::watch`].
    #[doc(alias = "watch_subprocess")]
    pub fn watch(&self, id: u32, by: WatchBy, member: Member) -> Result<ChildProcess, SpawnError> {
        // All under one lock, so that of two threads with the same child one comes second.
        let mut entries = lock(&self.entries);
        entries.retain(|entry| entry.unreaped().is_some());
        if entries.iter().any(|entry| entry.unreaped().is_some_and(|child| child.id() == id)) {
            return Err(SpawnError::AlreadyWatched(id));
        }
        let child = ChildProcess::watch(id, by)?;
        entries.push(Entry { child: Arc::downgrade(child.watched()), member });
        Ok(child)
    }

    /// Lists a child that is watched already, such as one that [`Fork`](super::Fork) has made. What the list knew of it
    /// before is replaced.
    pub fn list(&self, child: &ChildProcess, member: Member) {
        let mut entries = lock(&self.entries);
        let child = Arc::downgrade(child.watched());
        entries.retain(|entry| entry.unreaped().is_some() && !entry.child.ptr_eq(&child));
        entries.push(Entry { child, member });
    }

    /// The children that are not reaped yet, with what is known of each.
    pub fn listed(&self) -> Vec<(u32, Member)> {
        self.unreaped().iter().map(|(child, member)| (child.id(), *member)).collect()
    }

    /// Sends the signal to each chosen child that is not reaped.
    ///
    /// # Errors
    /// [`SpawnError::Io`]: `EPERM`, `EINVAL` for a signal that does not exist. The first error is told; the others are
    /// signalled all the same.
    #[doc(alias = "kill_all_subprocesses")]
    pub fn kill_all(&self, signal: i32, which: KillAll) -> Result<(), SpawnError> {
        let chosen = self.unreaped().into_iter().filter(|(_, member)| which.chooses(*member));
        all(chosen.map(|(child, _)| child.kill(signal)))
    }

    /// Sends the signal to the group of each chosen child that is not reaped, once to each group.
    ///
    /// # Errors
    /// As for [`kill_all`](Children::kill_all).
    #[doc(alias = "killpg_all_subprocesses")]
    pub fn kill_all_groups(&self, signal: i32, unflagged: bool) -> Result<(), SpawnError> {
        let which = KillAll { unflagged, without_group: false };
        let chosen = self.unreaped().into_iter().filter(|(_, member)| which.chooses(*member));
        let mut groups: Vec<u32> = chosen.filter_map(|(_, member)| member.group).collect();
        groups.sort_unstable();
        groups.dedup();
        all(groups.into_iter().map(|group| self.kill_group(group, signal).map(|_| ())))
    }

    /// Sends the signal to all processes of the group, if a listed child that is not reaped was put into it and is still
    /// there. Returns whether there is one.
    ///
    /// # Errors
    /// As for [`kill_all`](Children::kill_all).
    #[doc(alias = "killpg_subprocess")]
    pub fn kill_group(&self, group: u32, signal: i32) -> Result<bool, SpawnError> {
        for (child, member) in self.unreaped() {
            if member.group == Some(group) && child.kill_group(group, signal)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Those that are not reaped. The others are taken off the list; of the orphans, the ended are reaped first.
    fn unreaped(&self) -> Vec<(Arc<Watched>, Member)> {
        super::watch::sweep();
        let mut entries = lock(&self.entries);
        entries.retain(|entry| entry.unreaped().is_some());
        entries.iter().filter_map(|entry| Some((entry.unreaped()?, entry.member))).collect()
    }
}

impl Entry {
    fn unreaped(&self) -> Option<Arc<Watched>> {
        self.child.upgrade().filter(|child| child.is_unreaped())
    }
}

impl KillAll {
    fn chooses(self, member: Member) -> bool {
        (self.unflagged || member.kill) && !(self.without_group && member.group.is_some())
    }
}

/// The first error, after all have been tried.
fn all(results: impl Iterator<Item = Result<(), SpawnError>>) -> Result<(), SpawnError> {
    let mut first = Ok(());
    for result in results {
        first = first.and(result);
    }
    first
}
