//! Objects that are files to the kernel: one descriptor and one mapping per object and process.
//!
//! A process loses all its record locks on a file when it closes any descriptor of it. So all handles of
//! one object share one descriptor, found by device and inode number, and closed with the last handle,
//! while the table of open objects is locked: nobody can lock through a new descriptor in between.
//!
//! If an object was opened although it was open already (its name was exchanged between looking and opening, or it is
//! refused), the surplus descriptor is kept until the others are closed, for the same reason.
//!
//! This module does not know what names mean: [`posix`](super::posix) and [`file`](super::file) do.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, FallocateFlags, FileType, Mode, OFlags, Stat};
use rustix::io::{Errno, ReadWriteFlags};

use super::{Mapping, Open, ShmError, Trust, WORD, check_limit};
use crate::generation::Generation;
use crate::sync::global::{Arc, Mutex, lock};

/// Device and inode number.
type Identity = (u64, u64);

static OPEN_OBJECTS: Mutex<BTreeMap<Identity, Entry>> = Mutex::new(BTreeMap::new());

/// What of an object is open in this process. All of it stays open until the last handle is dropped.
struct Entry {
    generation: Generation,
    for_writing: Option<Arc<Object>>,
    for_reading: Option<Arc<Object>>,
    handles: usize,
    surplus: Vec<OwnedFd>,
}

#[derive(Debug)]
struct Object {
    fd: OwnedFd,
    mapping: Mapping,
    read_only: bool,
    identity: Identity,
    generation: Generation,
}

/// A handle of an open object.
#[derive(Debug)]
pub(crate) struct Handle {
    /// `None` only while dropping.
    object: Option<Arc<Object>>,
    name: OsString,
}

/// As often an object is looked for and created in turns, if somebody else creates and removes it.
const TRIES: u32 = 1000;

/// Opens or creates what `open` names, and says whether it is new.
fn open_or_create(
    how: Open,
    open: impl Fn(OFlags, Mode) -> Result<OwnedFd, Errno>,
) -> Result<(OwnedFd, bool), Errno> {
    let access = if how == Open::ReadOnly { OFlags::RDONLY } else { OFlags::RDWR };
    let flags = access | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let existing = || open(flags, Mode::empty()).map(|fd| (fd, false));
    let new =
        |mode| open(flags | OFlags::CREATE | OFlags::EXCL, Mode::from_raw_mode(mode)).map(|fd| (fd, true));
    match how {
        Open::Existing | Open::ReadOnly => existing(),
        Open::CreateNew { mode } => new(mode),
        // One after the other, to know which it was; and because systems refuse to do both at once with an object of
        // another user in a directory such as `/tmp` (`fs.protected_regular`), where `Trust` is to decide.
        Open::Create { mode } => {
            for _ in 1..TRIES {
                match existing() {
                    Err(Errno::NOENT) => {}
                    result => return result,
                }
                match new(mode) {
                    Err(Errno::EXIST) => {}
                    result => return result,
                }
            }
            existing()
        }
    }
}

impl Handle {
    /// Opens an object: `look` says which one has the name now, without opening it; `open` opens it.
    pub(super) fn open(
        name: &OsStr,
        how: Open,
        trust: Trust,
        look: impl FnOnce() -> Result<Stat, Errno>,
        open: impl Fn(OFlags, Mode) -> Result<OwnedFd, Errno>,
    ) -> Result<Handle, ShmError> {
        let generation = Generation::current();
        let mut open_objects = lock(&OPEN_OBJECTS);
        let read_only = how == Open::ReadOnly;
        let trust = match how {
            Open::Create { mode } => trust.and_writers(mode),
            _ => trust,
        };
        let ask = |fd: &OwnedFd| fs::fstat(fd).map_err(|errno| ShmError::from_errno("fstat", name, errno));
        let check = |stat: &Stat| trust.check(name, stat.st_uid, stat.st_mode, names_of(stat));
        if !matches!(how, Open::CreateNew { .. }) {
            let entry = look().ok().and_then(|stat| open_objects.get_mut(&identity(&stat)));
            if let Some(entry) = entry.filter(|entry| entry.generation == generation) {
                // Asked before another descriptor of it is opened, which would have to stay open.
                if let Some(object) = entry.for_writing.as_ref().or(entry.for_reading.as_ref()) {
                    check(&ask(&object.fd)?)?;
                }
                if let Some(object) = entry.object(read_only, generation) {
                    return Ok(entry.handle(name, object));
                }
            }
        }
        let (fd, is_new) =
            open_or_create(how, open).map_err(|errno| ShmError::from_errno("open", name, errno))?;
        let stat = ask(&fd)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(ShmError::NotAnObject { name: name.to_owned() });
        }
        let identity = identity(&stat);
        if open_objects.get(&identity).is_some_and(|entry| entry.generation != generation) {
            // Its descriptors are the parent's copies, perhaps closed since and given to others.
            std::mem::forget(open_objects.remove(&identity));
        }
        let checked = if is_new { Ok(()) } else { check(&stat) };
        if let Err(refused) = checked {
            if let Some(entry) = open_objects.get_mut(&identity) {
                entry.surplus.push(fd);
            }
            return Err(refused);
        }
        let entry = open_objects.entry(identity).or_insert_with(|| Entry::new(generation));
        if let Some(object) = entry.object(read_only, generation) {
            entry.surplus.push(fd);
            return Ok(entry.handle(name, object));
        }
        match Mapping::shared(fd.as_fd(), stat.st_size as u64, read_only) {
            Ok(mapping) => {
                let object = Arc::new(Object { fd, mapping, read_only, identity, generation });
                *entry.open_as(read_only) = Some(Arc::clone(&object));
                Ok(entry.handle(name, object))
            }
            Err(source) => {
                if entry.handles > 0 {
                    entry.surplus.push(fd);
                } else {
                    open_objects.remove(&identity);
                }
                Err(ShmError::Io { op: "mmap", name: name.to_owned(), source })
            }
        }
    }

    /// Another handle of the same object.
    pub(crate) fn again(&self) -> Result<Handle, ShmError> {
        self.current()?;
        let object = self.object.as_ref().expect("only `drop` takes the object out");
        let mut open_objects = lock(&OPEN_OBJECTS);
        let entry = open_objects.get_mut(&object.identity);
        let entry = entry.expect("the object is open as long as it has this handle");
        Ok(entry.handle(&self.name, Arc::clone(object)))
    }

    /// Which object it is.
    pub(crate) fn identity(&self) -> (u64, u64) {
        self.object().identity
    }

    pub(super) fn name(&self) -> &OsStr {
        &self.name
    }

    #[inline]
    pub(super) fn mapping(&self) -> &Mapping {
        &self.object().mapping
    }

    pub(super) fn size(&self) -> Result<u64, ShmError> {
        let object = self.current()?;
        // Known before asking: another thread may learn of more in between.
        let known = object.mapping.size();
        let stat = fs::fstat(&object.fd).map_err(|errno| ShmError::from_errno("fstat", &self.name, errno))?;
        let found = stat.st_size as u64;
        if found < known {
            // An access that meets nothing of it would not notice.
            object.mapping.lose();
            return Err(ShmError::Truncated { name: self.name.clone(), known, found });
        }
        object.mapping.extend_to(found);
        Ok(found)
    }

    #[inline]
    pub(super) fn intact(&self) -> Result<(), ShmError> {
        if self.mapping().is_lost() { Err(self.truncated()) } else { Ok(()) }
    }

    #[cold]
    fn truncated(&self) -> ShmError {
        let object = self.object();
        let found = fs::fstat(&object.fd).map_or(0, |stat| stat.st_size as u64);
        ShmError::Truncated { name: self.name.clone(), known: object.mapping.size(), found }
    }

    pub(super) fn grow(&self, bytes: u64) -> Result<(), ShmError> {
        let size = self.size()?;
        if self.object().read_only {
            return Err(ShmError::ReadOnly { name: self.name.clone() });
        }
        let bytes = bytes.checked_next_multiple_of(WORD).unwrap_or(u64::MAX);
        let object = self.object();
        let max = object.mapping.reserved();
        if bytes > max {
            return Err(ShmError::TooLarge { name: self.name.clone(), bytes, max });
        }
        if bytes <= size {
            return Ok(());
        }
        reserve(object.fd.as_fd(), size, bytes)
            .map_err(|errno| ShmError::from_growth(&self.name, bytes, "fallocate", errno))?;
        object.mapping.grown(size, bytes);
        Ok(())
    }

    pub(super) fn chmod(&self, mode: u32) -> Result<(), ShmError> {
        let mode = Mode::from_raw_mode(mode);
        fs::fchmod(&self.current()?.fd, mode)
            .map_err(|errno| ShmError::from_errno("fchmod", &self.name, errno))
    }

    pub(super) fn chown(&self, user: Option<u32>, group: Option<u32>) -> Result<(), ShmError> {
        let (user, group) = (user.map(fs::Uid::from_raw), group.map(fs::Gid::from_raw));
        fs::fchown(&self.current()?.fd, user, group)
            .map_err(|errno| ShmError::from_errno("fchown", &self.name, errno))
    }

    /// The descriptor, unless it is that of the parent of this process.
    pub(crate) fn current_fd(&self) -> Option<BorrowedFd<'_>> {
        self.object().generation.is_current().then(|| self.as_fd())
    }

    #[inline]
    fn object(&self) -> &Object {
        self.object.as_ref().expect("only `drop` takes the object out")
    }

    fn current(&self) -> Result<&Object, ShmError> {
        let object = self.object();
        if object.generation.is_current() {
            Ok(object)
        } else {
            Err(ShmError::Forked { name: self.name.clone() })
        }
    }
}

impl AsFd for Handle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.object().fd.as_fd()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let Some(object) = self.object.take() else { return };
        if !object.generation.is_current() {
            std::mem::forget(object);
            return;
        }
        let mut open_objects = lock(&OPEN_OBJECTS);
        let identity = object.identity;
        drop(object);
        if let Some(entry) = open_objects.get_mut(&identity) {
            entry.handles -= 1;
            if entry.handles == 0 {
                // The last reference: the descriptors close here, under the lock.
                open_objects.remove(&identity);
            }
        }
    }
}

impl Entry {
    fn new(generation: Generation) -> Entry {
        Entry { generation, for_writing: None, for_reading: None, handles: 0, surplus: Vec::new() }
    }

    fn open_as(&mut self, read_only: bool) -> &mut Option<Arc<Object>> {
        if read_only { &mut self.for_reading } else { &mut self.for_writing }
    }

    /// The object, if it is open in this way, in this process.
    fn object(&mut self, read_only: bool, generation: Generation) -> Option<Arc<Object>> {
        if self.generation == generation { self.open_as(read_only).clone() } else { None }
    }

    /// Another handle of an object of this entry.
    fn handle(&mut self, name: &OsStr, object: Arc<Object>) -> Handle {
        self.handles += 1;
        Handle { object: Some(object), name: name.to_owned() }
    }
}

/// How many names a file has.
#[allow(clippy::useless_conversion, reason = "some machines count them in fewer bits")]
fn names_of(stat: &Stat) -> u64 {
    u64::from(stat.st_nlink)
}

fn identity(stat: &Stat) -> Identity {
    (stat.st_dev, stat.st_ino)
}

/// Extends the file from `size` to `bytes` and reserves the storage. Others may do so at the same time.
fn reserve(fd: BorrowedFd<'_>, size: u64, bytes: u64) -> Result<(), Errno> {
    check_limit(bytes)?;
    // First the storage, then the end, so that a file system that fills up in the middle (as ext4 does) does
    // not move the end part of the way.
    let allocate = |flags| rustix::io::retry_on_intr(|| fs::fallocate(fd, flags, size, bytes - size));
    match allocate(FallocateFlags::KEEP_SIZE).and_then(|()| allocate(FallocateFlags::empty())) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => append_zeros(fd, size, bytes),
        result => result,
    }
}

/// The same where the file system cannot reserve. Zeros are appended, wherever the end is by then: they must
/// not be written over what others have put there since. If it fails, the end stays where it got to: others
/// may know of it already.
fn append_zeros(fd: BorrowedFd<'_>, size: u64, bytes: u64) -> Result<(), Errno> {
    const ZEROS: &[u8] = &[0; 1 << 16];
    let mut end = size;
    while end < bytes {
        let count = ZEROS.len().min((bytes - end) as usize);
        let zeros = [IoSlice::new(&ZEROS[..count])];
        rustix::io::retry_on_intr(|| rustix::io::pwritev2(fd, &zeros, 0, ReadWriteFlags::APPEND))?;
        end = fs::fstat(fd)?.st_size as u64;
    }
    Ok(())
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_refused_descriptor_stays_open_as_long_as_its_object() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("object");
        let name = path.as_os_str();
        let open = |how, look: fn(&std::path::Path) -> Result<Stat, Errno>| {
            Handle::open(name, how, Trust::new(), || look(&path), |flags, mode| fs::open(&path, flags, mode))
        };
        let handle = open(Open::CreateNew { mode: 0o600 }, |path| fs::lstat(path)).unwrap();
        let surplus = || lock(&OPEN_OBJECTS)[&handle.identity()].surplus.len();
        handle.chmod(0o606).unwrap();
        // Whoever looks sees that it is open already, and need not open it.
        assert!(matches!(
            open(Open::ReadOnly, |path| fs::lstat(path)),
            Err(ShmError::WritableByOthers { .. })
        ));
        assert_eq!(surplus(), 0);
        // Its name came to be that of this object only after looking.
        assert!(matches!(
            open(Open::ReadOnly, |_| Err(Errno::NOENT)),
            Err(ShmError::WritableByOthers { .. })
        ));
        assert_eq!(surplus(), 1);
        let identity = handle.identity();
        drop(handle);
        assert!(!lock(&OPEN_OBJECTS).contains_key(&identity));
    }
}
