//! Semaphores with a name of the system.
//!
//! This module keeps no list of names: whoever has made a semaphore has its name removed.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use super::raw::Named;
use super::{MAX_VALUE, Semaphore, SemaphoreError};
use crate::name::{self, NameError};

/// The longest name, in bytes, without the leading slash: the system puts `sem.` before it.
const NAME_MAX: usize = name::COMPONENT_MAX - 4;

/// An open semaphore that has, or had, a name.
///
/// Names are as those of shared memory: one component, with or without a leading slash, of at most 251 bytes. A process
/// that opens a name twice has the same semaphore twice. A forked child keeps those that it was given, and uses them as
/// its parent does.
///
/// ```
/// use manycore_backends::posix::semaphore::NamedSemaphore;
///
/// let (name, semaphore) = NamedSemaphore::unique("manycore-doc-", 0)?;
/// // Another process, that was told the name:
/// NamedSemaphore::open(&name)?.post()?;
/// semaphore.wait()?;
/// NamedSemaphore::unlink(&name)?;
/// # Ok::<(), manycore_backends::posix::semaphore::SemaphoreError>(())
/// ```
///
/// Its memory is a file of the system, `/dev/shm/sem.*` here. Whoever has the right to write there can cut that file off,
/// and then everybody who uses the semaphore dies of SIGBUS; among those who do not trust each other a
/// [`SemaphoreSet`](super::SemaphoreSet) is better, which cannot be cut off.
#[derive(Debug)]
#[doc(alias("named_semaphore", "sem_open"))]
pub struct NamedSemaphore {
    named: Named,
}

impl NamedSemaphore {
    /// Creates a semaphore that begins with `value`. `mode` is who may use it, as for files (0o600: the owner alone); the
    /// process's umask is taken off. Using means reading and writing.
    ///
    /// # Errors
    /// [`SemaphoreError::AlreadyExists`] if the name is taken; [`SemaphoreError::Name`] if it is none;
    /// [`SemaphoreError::ValueTooLarge`] above [`MAX_VALUE`]; [`SemaphoreError::Io`], such as `EACCES` or `ENOSPC`.
    #[doc(alias("sem_open", "O_EXCL"))]
    pub fn create_new(
        name: impl AsRef<OsStr>,
        mode: u32,
        value: u32,
    ) -> Result<NamedSemaphore, SemaphoreError> {
        open(name.as_ref(), libc::O_CREAT | libc::O_EXCL, mode, value)
    }

    /// Opens a semaphore, or creates it as [`create_new`](NamedSemaphore::create_new) does. If it was there, its mode and
    /// value are what they are.
    ///
    /// # Errors
    /// As `create_new`, but that the name is taken is none.
    #[doc(alias("sem_open", "O_CREAT"))]
    pub fn create(name: impl AsRef<OsStr>, mode: u32, value: u32) -> Result<NamedSemaphore, SemaphoreError> {
        open(name.as_ref(), libc::O_CREAT, mode, value)
    }

    /// Opens a semaphore that is there.
    ///
    /// # Errors
    /// [`SemaphoreError::NotFound`] if there is none; [`SemaphoreError::Name`] if the name is none;
    /// [`SemaphoreError::Io`], such as `EACCES`.
    #[doc(alias = "sem_open")]
    pub fn open(name: impl AsRef<OsStr>) -> Result<NamedSemaphore, SemaphoreError> {
        open(name.as_ref(), 0, 0, 0)
    }

    /// Creates a semaphore with a new name, `prefix` and ten more characters, that only the owner may use.
    ///
    /// # Errors
    /// As [`create_new`](NamedSemaphore::create_new); the name is never taken.
    #[doc(alias = "sem_create")]
    pub fn unique(
        prefix: impl AsRef<OsStr>,
        value: u32,
    ) -> Result<(OsString, NamedSemaphore), SemaphoreError> {
        const UNIQUE: &str = "XXXXXXXXXX";
        let mut template = prefix.as_ref().to_owned();
        // A run of `X` is replaced as a whole; one that the caller's prefix ends in is not ours.
        template.push(if template.as_bytes().ends_with(b"X") { "-" } else { "" });
        template.push(UNIQUE);
        check(&template)?;
        loop {
            let mut random = [0; 8];
            let filled = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
                .map_err(|errno| SemaphoreError::Io { op: "getrandom", source: errno.into() })?;
            debug_assert_eq!(filled, random.len(), "so few bytes are given at once");
            let name = name::instantiate(&template, u64::from_ne_bytes(random))?;
            match NamedSemaphore::create_new(&name, 0o600, value) {
                Err(SemaphoreError::AlreadyExists { .. }) => {}
                Ok(semaphore) => return Ok((name, semaphore)),
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes the name away. Those who have the semaphore open keep it; the name is free for another.
    ///
    /// # Errors
    /// [`SemaphoreError::NotFound`] if there is none; [`SemaphoreError::Name`] if the name is none;
    /// [`SemaphoreError::Io`], such as `EACCES`.
    #[doc(alias = "sem_unlink")]
    pub fn unlink(name: impl AsRef<OsStr>) -> Result<(), SemaphoreError> {
        let name = name.as_ref();
        Named::unlink(&check(name)?).map_err(|error| failed("sem_unlink", name, error))
    }

    /// The semaphore itself, for code that does not care which kind it is.
    pub fn get(&self) -> Semaphore<'_> {
        Semaphore { raw: self.named.raw(), mark: None }
    }

    /// As [`Semaphore::wait`].
    ///
    /// # Errors
    /// As there.
    #[doc(alias = "sem_wait")]
    pub fn wait(&self) -> Result<(), SemaphoreError> {
        self.get().wait()
    }

    /// As [`Semaphore::try_wait`].
    ///
    /// # Errors
    /// As there.
    #[doc(alias = "sem_trywait")]
    pub fn try_wait(&self) -> Result<(), SemaphoreError> {
        self.get().try_wait()
    }

    /// As [`Semaphore::wait_timeout`].
    ///
    /// # Errors
    /// As there.
    #[doc(alias("sem_timedwait", "sem_clockwait"))]
    pub fn wait_timeout(&self, timeout: Duration) -> Result<(), SemaphoreError> {
        self.get().wait_timeout(timeout)
    }

    /// As [`Semaphore::post`].
    ///
    /// # Errors
    /// As there.
    #[doc(alias = "sem_post")]
    pub fn post(&self) -> Result<(), SemaphoreError> {
        self.get().post()
    }

    /// As [`Semaphore::value`].
    ///
    /// # Errors
    /// As there.
    #[doc(alias = "sem_getvalue")]
    pub fn value(&self) -> Result<u32, SemaphoreError> {
        self.get().value()
    }
}

fn open(name: &OsStr, flags: i32, mode: u32, value: u32) -> Result<NamedSemaphore, SemaphoreError> {
    let path = check(name)?;
    if value > MAX_VALUE {
        return Err(SemaphoreError::ValueTooLarge { value });
    }
    let named = Named::open(&path, flags, mode, value).map_err(|error| failed("sem_open", name, error))?;
    Ok(NamedSemaphore { named })
}

/// The name as the C library wants it: with a slash before it.
fn check(name: &OsStr) -> Result<CString, NameError> {
    let component = name::component(name)?.as_bytes();
    if component.len() > NAME_MAX {
        return Err(NameError::TooLong { length: component.len(), max: NAME_MAX });
    }
    CString::new([b"/", component].concat()).map_err(|_| NameError::Nul(name.to_owned()))
}

/// The variant that says what the caller can do about it.
fn failed(op: &'static str, name: &OsStr, source: io::Error) -> SemaphoreError {
    match source.raw_os_error() {
        Some(libc::ENOENT) => SemaphoreError::NotFound { name: name.to_owned() },
        Some(libc::EEXIST) => SemaphoreError::AlreadyExists { name: name.to_owned() },
        _ => SemaphoreError::Io { op, source },
    }
}
