//! The directory of a run: what others can find of it, and what the next run must clean up.
//!
//! | file | content |
//! |---|---|
//! | `master` | the socket at which the master listens |
//! | `master.lock` | locked as long as the master lives, by the kernel |
//! | `ledger` | the objects to be removed, see [`Ledger`] |
//!
//! A directory that is not chosen by the program is made for the run, under the name `run-` and 16 hexadecimal digits, in
//! one directory for all runs of the user: the first that can be used of `$XDG_RUNTIME_DIR/manycore`, `manycore-` and the
//! number of the user in the directory for temporary files or in `/tmp`, and one in `/tmp` with a random name, which no
//! later run finds. Who makes one there cleans up after those masters there that are dead.
//!
//! Whoever can write to these directories has a say in what is removed. So they belong to this user, and nobody else can
//! write to them.
//!
//! This module does not serve the socket: `visitors` does.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use manycore_backends::posix::process::effective_user;
use manycore_backends::transport::{Limits, SocketListener, TransportError};

use super::ledger::Ledger;
use crate::resource::{Resource, ResourceError};
use crate::wire::visit::{Answer, MESSAGE_MAX, Question};

/// How often a name is tried that somebody else has taken.
const ATTEMPTS: u32 = 16;

/// Why a run cannot have its directory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DirectoryError {
    /// Another run, which is alive, has it: choose another one, or none.
    #[error("another run uses the directory {}", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// Somebody else could write to it, and have this program remove what is not theirs.
    #[error(
        "the directory {} must belong to user {user}, and nobody else may write to it: its owner is {owner}, its mode {mode:03o}",
        path.display()
    )]
    NotPrivate {
        /// The directory.
        path: PathBuf,
        /// The user of this process.
        user: u32,
        /// Whose it is.
        owner: u32,
        /// Its permission bits.
        mode: u32,
    },
    /// A system call failed.
    #[error("cannot prepare the directory {}: {source}", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// The error, with its errno.
        #[source]
        source: io::Error,
    },
}

/// Where visitors come in.
pub(super) type Door = SocketListener<Answer, Question>;

/// The directory of a run that goes on. Dropping it removes what is registered, and the directory if it was made for the
/// run.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    /// Whether it was made for this run.
    own: bool,
    ledger: Ledger,
    /// Holds the lock.
    listener: Option<Arc<Door>>,
}

impl Directory {
    /// The directory `path`, after what a dead master has left there was removed.
    pub(super) fn at(path: &Path) -> Result<Directory, DirectoryError> {
        let failed = |source| DirectoryError::Io { path: path.to_owned(), source };
        let path = &std::path::absolute(path).map_err(failed)?;
        let mut own = true;
        match DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => own = false,
            Err(error) => return Err(failed(error)),
        }
        // What was there before stays there, but for what is ours.
        Directory::take(path, own).inspect_err(|_| {
            if own {
                let _ = fs::remove_dir(path);
            }
        })
    }

    /// A directory that nobody else has. Cleans up after dead masters.
    pub(super) fn fresh() -> Result<Directory, DirectoryError> {
        let mut last = None;
        for place in places() {
            match Directory::fresh_in(&place) {
                Ok(directory) => return Ok(directory),
                Err(error) => last = last.or(Some(error)),
            }
        }
        // One that no later run finds, and nobody has taken.
        let path = PathBuf::from(format!("/tmp/manycore-{}-{:016x}", effective_user(), random()));
        Directory::at(&path).map_err(|error| last.unwrap_or(error))
    }

    fn fresh_in(place: &Path) -> Result<Directory, DirectoryError> {
        match DirBuilder::new().mode(0o700).create(place) {
            Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
                return Err(DirectoryError::Io { path: place.to_owned(), source });
            }
            _ => check_private(place)?,
        }
        sweep(place);
        let mut attempts = 0;
        loop {
            attempts += 1;
            let path = place.join(format!("run-{:016x}", random()));
            let made = DirBuilder::new().mode(0o700).create(&path);
            let result = match made {
                Ok(()) => Directory::take(&path, true).inspect_err(|_| drop(fs::remove_dir(&path))),
                Err(source) => Err(DirectoryError::Io { path, source }),
            };
            match result {
                // The name is taken, or another run was sweeping, and took it for one that a dead master has left.
                Err(DirectoryError::InUse { .. }) if attempts < ATTEMPTS => {}
                Err(DirectoryError::Io { source, .. })
                    if attempts < ATTEMPTS
                        && matches!(
                            source.kind(),
                            io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists
                        ) => {}
                other => return other,
            }
        }
    }

    fn take(path: &Path, own: bool) -> Result<Directory, DirectoryError> {
        check_private(path)?;
        let listener =
            match SocketListener::bind(Directory::socket(path), Limits::with_message_bytes(MESSAGE_MAX)) {
                Ok(listener) => listener,
                Err(TransportError::Io { source, .. }) if source.kind() == io::ErrorKind::AddrInUse => {
                    return Err(DirectoryError::InUse { path: path.to_owned() });
                }
                Err(TransportError::Io { source, .. }) => {
                    return Err(DirectoryError::Io { path: path.to_owned(), source });
                }
                Err(error) => {
                    return Err(DirectoryError::Io {
                        path: path.to_owned(),
                        source: io::Error::other(error),
                    });
                }
            };
        let ledger = Ledger::open(Directory::ledger(path));
        let ledger = ledger.map_err(|source| DirectoryError::Io { path: path.to_owned(), source })?;
        Ok(Directory { path: path.to_owned(), own, ledger, listener: Some(Arc::new(listener)) })
    }

    /// Where the master of a run with this directory listens.
    pub(crate) fn socket(path: &Path) -> PathBuf {
        path.join("master")
    }

    fn ledger(path: &Path) -> PathBuf {
        path.join("ledger")
    }

    /// What the ledger there names, if there is anything of a run.
    pub(crate) fn left_in(path: &Path) -> Result<Option<Vec<Resource>>, DirectoryError> {
        match check_private(path) {
            Err(DirectoryError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Ok(None);
            }
            checked => checked?,
        }
        let files = [Directory::socket(path), path.join("master.lock"), Directory::ledger(path)];
        if files.iter().all(|file| fs::symlink_metadata(file).is_err()) {
            return Ok(None);
        }
        let named = Ledger::named(&Directory::ledger(path));
        let named = named.map_err(|source| DirectoryError::Io { path: path.to_owned(), source })?;
        Ok(Some(named.into_iter().collect()))
    }

    /// Removes what a dead master has left there, and the directory if it is the run's `own`. Returns what cannot be removed.
    pub(crate) fn clean(path: &Path, own: bool) -> Result<Vec<Resource>, DirectoryError> {
        let directory = Directory::take(path, own)?;
        Ok(directory.ledger.resources().cloned().collect())
    }

    /// Where visitors come in.
    pub(super) fn door(&self) -> Option<Arc<Door>> {
        self.listener.clone()
    }

    pub(super) fn register(&mut self, resource: &Resource) -> Result<(), ResourceError> {
        self.ledger.register(resource)
    }

    pub(super) fn release(&mut self, resource: &Resource, remove: bool) -> Result<(), ResourceError> {
        self.ledger.release(resource, remove)
    }

    /// A text that no other run has.
    pub(super) fn name(&self) -> String {
        format!("{:x}-{:08x}", std::process::id(), random() as u32)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // What cannot be removed stays in the ledger, and the directory with it, for the next run.
        let clean = self.ledger.clear();
        // While it is still locked.
        let leave = self.own && clean;
        drop(self.listener.take());
        if leave {
            let _ = fs::remove_dir(&self.path);
        }
    }
}

/// Directories for all directories of the user's runs, the best first: others serve if that cannot be used, because it
/// belongs to another user, or its path is too long for a socket in it.
pub(crate) fn places() -> Vec<PathBuf> {
    let name = format!("manycore-{}", effective_user());
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
    let mut places: Vec<PathBuf> = runtime.map(|path| path.join("manycore")).into_iter().collect();
    let common = [std::env::temp_dir(), PathBuf::from("/tmp")];
    places.extend(common.iter().filter(|place| place.is_absolute()).map(|place| place.join(&name)));
    places.dedup();
    places
}

/// Whether a directory of this name was made for a run.
pub(crate) fn is_run_name(name: &OsStr) -> bool {
    let digits = name.as_encoded_bytes().strip_prefix(b"run-").unwrap_or_default();
    digits.len() == 16 && digits.iter().all(u8::is_ascii_hexdigit)
}

/// Cleans up after masters that are dead.
fn sweep(place: &Path) {
    let Ok(entries) = fs::read_dir(place) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let is_run = is_run_name(&entry.file_name());
        // One that is only being made is empty.
        if !is_run || fs::remove_dir(&path).is_ok() {
            continue;
        }
        if let Ok(directory) = Directory::take(&path, true) {
            drop(directory);
        }
    }
}

fn check_private(path: &Path) -> Result<(), DirectoryError> {
    let found =
        fs::symlink_metadata(path).map_err(|source| DirectoryError::Io { path: path.to_owned(), source })?;
    if !found.is_dir() {
        let source = io::Error::from_raw_os_error(ENOTDIR);
        return Err(DirectoryError::Io { path: path.to_owned(), source });
    }
    let (user, owner, mode) = (effective_user(), found.uid(), found.mode() & 0o777);
    if owner != user || mode & 0o022 != 0 {
        return Err(DirectoryError::NotPrivate { path: path.to_owned(), user, owner, mode });
    }
    Ok(())
}

/// The same number on all systems.
const ENOTDIR: i32 = 20;

/// 64 bits that are probably nobody else's. They need not be secret.
fn random() -> u64 {
    let mut hasher = RandomState::new().build_hasher();
    // A forked process has the state of its parent.
    hasher.write_u32(std::process::id());
    if let Ok(time) = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH) {
        hasher.write_u128(time.as_nanos());
    }
    hasher.finish()
}
