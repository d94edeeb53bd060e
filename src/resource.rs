//! Objects that a run leaves behind if nobody removes them: what they are, how they are written down, and how they
//! are removed.
//!
//! A run removes what was [registered](crate::Context::register) with it at its end; if it is killed before,
//! [`Runtime::directory`](crate::Runtime::directory) says what the next one does.
//!
//! This module creates no objects, and keeps no list of them: the master's ledger does.

use std::any::TypeId;
use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use manycore_backends::posix::semaphore::{NamedSemaphore, SemaphoreError};
use manycore_backends::shm::ShmError;
use manycore_backends::{File, Heap, PosixShm, ShmBackend};
use serde::{Deserialize, Serialize};

/// An object with a name that outlives the processes that use it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
#[doc(alias("manage_file", "manage_shm", "manage_sem", "Netsys_pmanage"))]
pub enum Resource {
    /// A POSIX shared memory object, such as a table in [`PosixShm`], by its name.
    PosixShm(OsString),
    /// A file, such as a table in [`File`], by its absolute path.
    File(OsString),
    /// A named POSIX semaphore, by its name.
    Semaphore(OsString),
    /// An object in the memory of the run's process, such as a table in [`Heap`], by its name: for workers that are threads.
    /// It goes with the process in any case.
    Heap(OsString),
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Resource::PosixShm(name) => write!(f, "shared memory {}", name.to_string_lossy()),
            Resource::File(path) => write!(f, "file {}", path.to_string_lossy()),
            Resource::Semaphore(name) => write!(f, "semaphore {}", name.to_string_lossy()),
            Resource::Heap(name) => write!(f, "memory {}", name.to_string_lossy()),
        }
    }
}

/// Why an object was not registered or removed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ResourceError {
    /// A file is named by a relative path, which means another file in another directory.
    #[error("the path {} is relative: pass an absolute one", .0.to_string_lossy())]
    Relative(OsString),
    /// The name is longer than any can be.
    #[error("a name of {0} bytes is too long: at most 4096")]
    TooLong(usize),
    /// Objects of this shared memory, which is not one of the library's, cannot be removed by name later.
    #[error("objects of {0} cannot be registered: remove them when the run has ended")]
    Unsupported(String),
    /// The run could not write down that the object is to be removed.
    #[error("the run's ledger cannot be written: {message}")]
    Ledger {
        /// What failed.
        message: String,
    },
    /// The object could not be removed.
    #[error("cannot remove {resource}: {message}")]
    Remove {
        /// The object.
        resource: Resource,
        /// What the system said.
        message: String,
    },
    /// The master is gone, and the run with it.
    #[error("the master is gone: {message}")]
    MasterGone {
        /// What the link said.
        message: String,
    },
}

/// The longest name, in bytes: that of a path.
const NAME_MAX: usize = 4096;

impl Resource {
    /// The object `name` of the shared memory `B`.
    ///
    /// # Errors
    /// [`ResourceError::Unsupported`] if `B` is not [`PosixShm`], [`File`] or [`Heap`].
    pub fn shm<B: ShmBackend>(name: impl Into<OsString>) -> Result<Resource, ResourceError> {
        let name = name.into();
        let backend = TypeId::of::<B>();
        if backend == TypeId::of::<PosixShm>() {
            Ok(Resource::PosixShm(name))
        } else if backend == TypeId::of::<File>() {
            Ok(Resource::File(name))
        } else if backend == TypeId::of::<Heap>() {
            Ok(Resource::Heap(name))
        } else {
            Err(ResourceError::Unsupported(std::any::type_name::<B>().to_owned()))
        }
    }

    /// Removes the object. That there is none is no error.
    pub(crate) fn remove(&self) -> Result<(), ResourceError> {
        let result = match self {
            Resource::PosixShm(name) => match PosixShm::unlink(name) {
                Ok(()) | Err(ShmError::NotFound { .. }) => Ok(()),
                Err(error) => Err(error.to_string()),
            },
            Resource::File(path) => match File::unlink(path) {
                Ok(()) | Err(ShmError::NotFound { .. }) => Ok(()),
                Err(error) => Err(error.to_string()),
            },
            Resource::Semaphore(name) => match NamedSemaphore::unlink(name) {
                Ok(()) | Err(SemaphoreError::NotFound { .. }) => Ok(()),
                Err(error) => Err(error.to_string()),
            },
            Resource::Heap(name) => match Heap::unlink(name) {
                Ok(()) | Err(ShmError::NotFound { .. }) => Ok(()),
                Err(error) => Err(error.to_string()),
            },
        };
        result.map_err(|message| ResourceError::Remove { resource: self.clone(), message })
    }

    /// Whether it means the same object to everyone.
    pub(crate) fn check(&self) -> Result<(), ResourceError> {
        let (Resource::PosixShm(name)
        | Resource::File(name)
        | Resource::Semaphore(name)
        | Resource::Heap(name)) = self;
        match self {
            _ if name.len() > NAME_MAX => Err(ResourceError::TooLong(name.len())),
            Resource::File(path) if !Path::new(path).is_absolute() => {
                Err(ResourceError::Relative(path.clone()))
            }
            _ => Ok(()),
        }
    }

    /// As one line of a ledger, without its end.
    pub(crate) fn to_line(&self) -> String {
        let (kind, name) = match self {
            Resource::PosixShm(name) => ("shm", name),
            Resource::File(path) => ("file", path),
            Resource::Semaphore(name) => ("semaphore", name),
            Resource::Heap(name) => ("heap", name),
        };
        let mut line = format!("{kind} ");
        for byte in name.as_bytes() {
            match byte {
                b'!'..=b'~' if *byte != b'%' => line.push(char::from(*byte)),
                byte => line.push_str(&format!("%{byte:02x}")),
            }
        }
        line
    }

    /// From a line of a ledger; `None` if it is none.
    pub(crate) fn from_line(line: &str) -> Option<Resource> {
        let (kind, name) = line.split_once(' ')?;
        let mut bytes = Vec::new();
        let mut rest = name.as_bytes();
        while let Some((first, tail)) = rest.split_first() {
            rest = tail;
            if *first == b'%' {
                let digits = rest.get(..2)?;
                bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
                rest = &rest[2..];
            } else {
                bytes.push(*first);
            }
        }
        let name = OsString::from_vec(bytes);
        match kind {
            "shm" => Some(Resource::PosixShm(name)),
            "file" => Some(Resource::File(name)),
            "semaphore" => Some(Resource::Semaphore(name)),
            "heap" => Some(Resource::Heap(name)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn a_resource_comes_back_from_its_line() {
        let odd = OsStr::from_bytes(b"/a b\n100%\xFF\xC3\xA4").to_owned();
        for resource in [
            Resource::PosixShm(odd.clone()),
            Resource::File(odd.clone()),
            Resource::Heap(odd.clone()),
            Resource::Semaphore(odd),
            Resource::PosixShm(OsString::new()),
        ] {
            let line = resource.to_line();
            assert!(line.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{line}");
            assert_eq!(Resource::from_line(&line), Some(resource));
        }
    }

    #[test]
    fn what_is_no_line_is_no_resource() {
        for line in ["", "shm", "sham /x", "shm %", "shm %4", "shm %zz", "file"] {
            assert_eq!(Resource::from_line(line), None, "{line}");
        }
    }
}
