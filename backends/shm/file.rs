//! Objects in ordinary files.
//!
//! This module does not lock files, and removes none by itself.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{self, AtFlags, Mode, OFlags};

use super::object::Handle;
use super::{Mapping, Open, ShmBackend, ShmError, Trust};
use crate::name;

/// An object in an ordinary file: its name is a path, and it lives until it is unlinked. What was written
/// reaches the disk when the system likes; this backend is for sharing, not for surviving a power cut.
///
/// A symbolic link as the last component is refused.
#[derive(Debug)]
pub struct File {
    handle: Handle,
}

impl ShmBackend for File {
    type Memory = Mapping;

    fn open_trusting(name: &OsStr, how: Open, trust: Trust) -> Result<File, ShmError> {
        let (directory_name, file_name) = split(name::path(name)?);
        let failed = |op| move |errno| ShmError::from_errno(op, name, errno);
        // Opened once, so that it is one and the same in what follows.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = fs::open(directory_name, flags, Mode::empty()).map_err(failed("open"))?;
        let stat = fs::fstat(&directory).map_err(failed("fstat"))?;
        trust.check_directory(directory_name, stat.st_uid, stat.st_mode)?;
        let look = || fs::statat(&directory, file_name, AtFlags::SYMLINK_NOFOLLOW);
        let open = |flags, mode| fs::openat(&directory, file_name, flags, mode);
        Ok(File { handle: Handle::open(name, how, trust, look, open)? })
    }

    fn unlink(name: &OsStr) -> Result<(), ShmError> {
        let path = name::path(name)?;
        fs::unlink(path).map_err(|errno| ShmError::from_errno("unlink", name, errno))
    }

    fn try_clone(&self) -> Result<File, ShmError> {
        Ok(File { handle: self.handle.again()? })
    }

    fn name(&self) -> &OsStr {
        self.handle.name()
    }

    fn size(&self) -> Result<u64, ShmError> {
        self.handle.size()
    }

    fn grow(&self, bytes: u64) -> Result<(), ShmError> {
        self.handle.grow(bytes)
    }

    #[inline]
    fn intact(&self) -> Result<(), ShmError> {
        self.handle.intact()
    }

    #[inline]
    fn memory(&self) -> &Mapping {
        self.handle.mapping()
    }

    fn chmod(&self, mode: u32) -> Result<(), ShmError> {
        self.handle.chmod(mode)
    }

    fn chown(&self, user: Option<u32>, group: Option<u32>) -> Result<(), ShmError> {
        self.handle.chown(user, group)
    }
}

impl File {
    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl AsFd for File {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

/// A path, taken apart into the directory and the last component.
fn split(path: &OsStr) -> (&OsStr, &OsStr) {
    let bytes = path.as_bytes();
    match bytes.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (OsStr::from_bytes(&bytes[..=slash]), OsStr::from_bytes(&bytes[slash + 1..])),
        None => (OsStr::new("."), path),
    }
}
