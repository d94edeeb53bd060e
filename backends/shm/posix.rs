//! Objects in POSIX shared memory.
//!
//! This module maps and enlarges nothing itself: [`object`](super::object) does.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::{fs, shm};

use super::object::Handle;
use super::{Mapping, Open, ShmBackend, ShmError, Trust};
use crate::name;

/// An object in POSIX shared memory: a name without directories, memory that lives until it is unlinked
/// or the system restarts.
///
/// ```
/// use manycore_backends::shm::{Memory, Open, PosixShm, ShmBackend};
/// # let name = format!("/manycore-doc-{}", std::process::id());
/// # let name = std::ffi::OsStr::new(&name);
/// let object = PosixShm::open(name, Open::CreateNew { mode: 0o600 })?;
/// object.grow(4096)?;
/// object.memory().store(0, 42)?;
/// assert_eq!(PosixShm::open(name, Open::Existing)?.memory().load(0)?, 42);
/// PosixShm::unlink(name)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[doc(alias("shm_open", "POSIX"))]
pub struct PosixShm {
    handle: Handle,
}

impl ShmBackend for PosixShm {
    type Memory = Mapping;

    fn open_trusting(name: &OsStr, how: Open, trust: Trust) -> Result<PosixShm, ShmError> {
        let component = name::component(name)?;
        // The directory behind `shm_open` here. Looking there first only saves a descriptor; where it is
        // another, opening finds out.
        let mut path = OsString::from("/dev/shm/");
        path.push(component);
        let open = |flags, mode| shm_open(component, flags, mode);
        let handle = Handle::open(name, how, trust, || fs::lstat(&path), open)?;
        Ok(PosixShm { handle })
    }

    fn unlink(name: &OsStr) -> Result<(), ShmError> {
        let component = name::component(name)?;
        shm::unlink(component).map_err(|errno| ShmError::from_errno("shm_unlink", name, errno))
    }

    fn try_clone(&self) -> Result<PosixShm, ShmError> {
        Ok(PosixShm { handle: self.handle.again()? })
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

    fn supported() -> bool {
        fs::stat("/dev/shm").is_ok()
    }

    fn chmod(&self, mode: u32) -> Result<(), ShmError> {
        self.handle.chmod(mode)
    }

    fn chown(&self, user: Option<u32>, group: Option<u32>) -> Result<(), ShmError> {
        self.handle.chown(user, group)
    }
}

impl PosixShm {
    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl AsFd for PosixShm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

fn shm_open(
    name: &OsStr,
    flags: fs::OFlags,
    mode: fs::Mode,
) -> Result<std::os::fd::OwnedFd, rustix::io::Errno> {
    shm::open(name, shm::OFlags::from_bits_retain(flags.bits()), mode)
}
