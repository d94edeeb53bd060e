//! [`Memfd`]: memory without a name, shared with whoever is given its descriptor.
//!
//! Its size is fixed when it is made, and sealed: nobody can make it shorter or longer, whoever has the descriptor. So an
//! access never meets a page that is gone, and needs no [guard](super::guard). Of a descriptor that a stranger has sent both
//! are checked before it is mapped.
//!
//! This module does not say what the words mean, and trusts nothing that is in them.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create};

use super::{Mapping, check_limit};

/// Memory without a name, of a size that nobody can change: as long as it is mapped somewhere or a descriptor of it is
/// open. It reads as zero at first, and takes storage only where it is touched.
///
/// ```
/// use manycore_backends::shm::{Memfd, Memory};
///
/// let memory = Memfd::new(4096)?;
/// // As another process does with a descriptor that it is given.
/// let again = Memfd::from_fd(memory.as_fd().try_clone_to_owned()?, 4096)?;
/// memory.memory().store(7, 42)?;
/// assert_eq!(again.memory().load(7)?, 42);
/// # use std::os::fd::AsFd;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "memfd_create")]
pub struct Memfd {
    fd: OwnedFd,
    mapping: Mapping,
}

impl Memfd {
    /// Makes memory of so many bytes, whose descriptor is close-on-exec.
    ///
    /// # Errors
    /// What the system says: [`InvalidInput`](io::ErrorKind::InvalidInput) for no bytes at all, `EMFILE` if it has no
    /// descriptors left, `ENOMEM` if it has no memory, `EFBIG` if this process may have no file as large (`RLIMIT_FSIZE`).
    pub fn new(bytes: u64) -> io::Result<Memfd> {
        if bytes == 0 {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        check_limit(bytes)?;
        let fd = memfd_create("manycore", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&fd, bytes)?;
        fcntl_add_seals(&fd, SIZE | SealFlags::SEAL)?;
        let mapping = Mapping::exact(fd.as_fd(), bytes)?;
        Ok(Memfd { fd, mapping })
    }

    /// Makes it again of a descriptor, which may be anything a stranger sends.
    ///
    /// # Errors
    /// [`InvalidData`](io::ErrorKind::InvalidData) if it is not such memory, not of exactly so many bytes, or not sealed;
    /// else what the system says. The descriptor is closed then.
    pub fn from_fd(fd: OwnedFd, bytes: u64) -> io::Result<Memfd> {
        let refused = |what| Err(io::Error::new(io::ErrorKind::InvalidData, what));
        // Only memory of this kind has seals.
        match fcntl_get_seals(&fd) {
            Ok(seals) if seals.contains(SIZE) => {}
            Ok(_) => return refused("its size is not sealed"),
            Err(_) => return refused("not memory that can be sealed"),
        }
        // After the seals: now it cannot change.
        if u64::try_from(fstat(&fd)?.st_size) != Ok(bytes) {
            return refused("another size");
        }
        let mapping = Mapping::exact(fd.as_fd(), bytes)?;
        Ok(Memfd { fd, mapping })
    }

    /// The words.
    pub fn memory(&self) -> &Mapping {
        &self.mapping
    }

    /// Its descriptor and its words, which stay mapped without it.
    pub fn into_parts(self) -> (OwnedFd, Mapping) {
        (self.fd, self.mapping)
    }
}

/// What keeps the size as it is.
const SIZE: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW);

impl AsFd for Memfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl fmt::Debug for Memfd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memfd").field("fd", &self.fd).field("mapping", &self.mapping).finish()
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::{FdFlags, fcntl_getfd};

    use super::*;
    use crate::shm::Memory;

    const BYTES: u64 = 12_288;

    fn copy(memory: &Memfd) -> OwnedFd {
        memory.as_fd().try_clone_to_owned().expect("a number is free")
    }

    #[test]
    fn memory_is_shared_and_has_exactly_its_size() {
        let memory = Memfd::new(BYTES).expect("there is memory");
        assert!(fcntl_getfd(&memory).expect("it is open").contains(FdFlags::CLOEXEC));
        let again = Memfd::from_fd(copy(&memory), BYTES).expect("it is the same");
        let words = memory.memory().words();
        assert_eq!((words, again.memory().words()), (3072, 3072));
        memory.memory().store(words - 1, 7).expect("it is there");
        // Also when nobody has the descriptor any more.
        let (fd, mapping) = again.into_parts();
        drop((fd, memory));
        assert_eq!(mapping.load(words - 1), Ok(7));
        assert!(mapping.load(words).is_err());
    }

    #[test]
    fn nobody_can_change_the_size() {
        let memory = Memfd::new(BYTES).expect("there is memory");
        for bytes in [0, BYTES - 1, BYTES + 1] {
            assert_eq!(ftruncate(&memory, bytes), Err(rustix::io::Errno::PERM));
        }
        assert!(fcntl_add_seals(&memory, SealFlags::WRITE).is_err());
    }

    #[test]
    fn what_is_no_such_memory_is_refused() {
        let refused = |fd: OwnedFd, bytes| {
            let error = Memfd::from_fd(fd, bytes).expect_err("it is not what it should be");
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        };
        let memory = Memfd::new(BYTES).expect("there is memory");
        for bytes in [0, 4096, BYTES - 1, BYTES + 1, u64::MAX] {
            refused(copy(&memory), bytes);
        }
        let unsealed = |seals| {
            let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
            let fd = memfd_create("unsealed", flags).expect("there is memory");
            ftruncate(&fd, BYTES).expect("it can grow");
            fcntl_add_seals(&fd, seals).expect("it can be sealed");
            fd
        };
        for seals in [SealFlags::empty(), SealFlags::SHRINK, SealFlags::GROW, SealFlags::SEAL] {
            refused(unsealed(seals), BYTES);
        }
        refused(std::fs::File::open("/dev/zero").expect("it is there").into(), BYTES);
        let (reader, _writer) = rustix::pipe::pipe().expect("a pipe can be made");
        refused(reader, 0);
        // What may not be written cannot be mapped.
        let written = unsealed(SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE);
        Memfd::from_fd(written, BYTES).expect_err("it cannot be written");
        assert_eq!(Memfd::new(0).expect_err("nothing").kind(), io::ErrorKind::InvalidInput);
    }
}
