//! Objects in ordinary files.
//!
//! This module does not lock files, and removes none by itself.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs;

use super::object::{Handle, flags};
use super::{Mapping, Open, ShmBackend, ShmError};
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

    fn open(name: &OsStr, how: Open) -> Result<File, ShmError> {
        let path = name::path(name)?;
        let (flags, mode) = flags(how);
        let handle = Handle::open(name, how, || fs::lstat(path), || fs::open(path, flags, mode))?;
        Ok(File { handle })
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
