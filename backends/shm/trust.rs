//! Which objects that exist already are opened: whose they may be, and who else may write to them.
//!
//! Names are open to everybody: a stranger can put an object under the name that somebody else is about to open, and
//! then reads what is written there, and writes what is read. So an object is asked whose it is, after it was opened
//! and before it is used. It is the object that is asked, by its descriptor: what its name leads to may be another one
//! by then.
//!
//! This module does not look at the contents (those who read them must be prepared for anything), and does not ask
//! who may read them.

use std::ffi::OsStr;

use rustix::process::geteuid;

use super::ShmError;

/// What an object that exists already must be like to be opened; what is created is one's own.
///
/// Without more, it belongs to the effective user of the process or to root, and nobody else may write to it. Whoever
/// shares objects with other users says so:
///
/// ```
/// use manycore_backends::shm::{Open, Owners, PosixShm, ShmBackend, ShmError, Trust};
/// # let name = format!("/manycore-doc-trust-{}", std::process::id());
/// # let name = std::ffi::OsStr::new(&name);
/// let object = PosixShm::open(name, Open::CreateNew { mode: 0o600 })?;
/// object.chmod(0o660)?;
///
/// // Its group can write to it, which is not what others expect:
/// assert!(matches!(PosixShm::open(name, Open::Existing), Err(ShmError::WritableByOthers { mode: 0o660, .. })));
/// PosixShm::open_trusting(name, Open::Existing, Trust::new().writers(0o660))?;
///
/// // Of the user 1000, too:
/// PosixShm::open_trusting(name, Open::Existing, Trust::new().owners(Owners::User(1000)).writers(0o660))?;
/// PosixShm::unlink(name)?;
/// # Ok::<(), ShmError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "it is to be given to `open_trusting`"]
pub struct Trust {
    owners: Owners,
    writers: u32,
}

/// Whom an object that exists already may belong to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Owners {
    /// The effective user of this process, and root, who can do anything in any case.
    #[default]
    Own,
    /// This user, too, by number.
    User(u32),
    /// Anybody: whoever comes first can plant an object. For names in directories where only those create files who
    /// are trusted; in `/dev/shm` and `/tmp` everybody can.
    Anybody,
}

/// What only group and others are allowed.
const WRITE_BY_OTHERS: u32 = 0o022;
/// Everybody may create files here, and only owners remove them: as in `/tmp`.
const STICKY_FOR_ALL: u32 = 0o1002;

impl Trust {
    /// Own objects, to which nobody else may write.
    pub const fn new() -> Trust {
        Trust { owners: Owners::Own, writers: 0 }
    }

    /// Whom the object may belong to.
    pub const fn owners(self, owners: Owners) -> Trust {
        Trust { owners, ..self }
    }

    /// Who else may be allowed to write to the object: permission bits, of which those for writing by the group
    /// (`0o020`) and by all others (`0o002`) matter. So a whole mode can be passed, such as `0o660`.
    pub const fn writers(self, mode: u32) -> Trust {
        Trust { writers: mode & WRITE_BY_OTHERS, ..self }
    }

    /// These, too.
    pub(super) const fn and_writers(self, mode: u32) -> Trust {
        self.writers(self.writers | mode)
    }

    /// For backends: checks an object that is open, but was not created just now, from what the system says of it: the
    /// user that owns it, its permission bits, and how many names it has.
    ///
    /// # Errors
    /// [`ShmError::Foreign`], [`ShmError::WritableByOthers`], or [`ShmError::Linked`] if it has more than one name,
    /// whoever owns it: one of them may have been planted, and lead to something of this user's that is not meant.
    pub fn check(self, name: &OsStr, owner: u32, mode: u32, names: u64) -> Result<(), ShmError> {
        if !self.covers(owner) {
            return Err(ShmError::Foreign { name: name.to_owned(), owner });
        }
        if mode & WRITE_BY_OTHERS & !self.writers != 0 {
            return Err(ShmError::WritableByOthers { name: name.to_owned(), mode: mode & 0o7777 });
        }
        if names > 1 {
            return Err(ShmError::Linked { name: name.to_owned(), names });
        }
        Ok(())
    }

    /// Checks the directory in which the name is. Where everybody may create files, it must belong to somebody trusted:
    /// its owner can rename and remove all of them.
    pub(super) fn check_directory(self, name: &OsStr, owner: u32, mode: u32) -> Result<(), ShmError> {
        if mode & STICKY_FOR_ALL == STICKY_FOR_ALL && !self.covers(owner) {
            return Err(ShmError::Foreign { name: name.to_owned(), owner });
        }
        Ok(())
    }

    fn covers(self, owner: u32) -> bool {
        owner == 0
            || owner == geteuid().as_raw()
            || match self.owners {
                Owners::Own => false,
                Owners::User(user) => owner == user,
                Owners::Anybody => true,
            }
    }
}
