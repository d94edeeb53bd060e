//! [`Ledger`]: the objects that a run must remove, written down so that they are removed even if the run is killed.
//!
//! | line | meaning |
//! |---|---|
//! | `manycore ledger 1` | the first line: this file is one |
//! | `+ <kind> <name>` | is to be removed |
//! | `- <kind> <name>` | is not to be removed any more |
//!
//! Lines are only appended, one write each, before what they say is so; a last line without an end is what a killed
//! writer has left, and does not count. A write that fails in the middle is taken back. The kinds, and how names are
//! escaped, are those of [`Resource`]. What is written survives the process, not the machine; and after that most of the
//! objects are gone, too. A file with another first line is not ours, and is left alone.
//!
//! This module does not know whether the run is alive.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::resource::{Resource, ResourceError};

/// The first line, with its end.
const FIRST_LINE: &[u8] = b"manycore ledger 1\n";

#[derive(Debug)]
pub(super) struct Ledger {
    path: PathBuf,
    /// Made when there is something to write.
    file: Option<File>,
    /// Its length, in bytes.
    length: u64,
    resources: BTreeSet<Resource>,
}

impl Ledger {
    /// The ledger at `path`, with nothing in it: what a dead run has left in it is removed now.
    pub(super) fn open(path: PathBuf) -> io::Result<Ledger> {
        let mut ledger = Ledger { path, file: None, length: 0, resources: BTreeSet::new() };
        ledger.resources = Ledger::named(&ledger.path)?;
        ledger.clear();
        Ok(ledger)
    }

    /// What the file at `path` says is to be removed.
    pub(super) fn named(path: &Path) -> io::Result<BTreeSet<Resource>> {
        match fs::read(path) {
            Ok(content) => match content.strip_prefix(FIRST_LINE) {
                Some(lines) => Ok(read(lines)),
                // Killed in its first write.
                None if FIRST_LINE.starts_with(&content) => Ok(BTreeSet::new()),
                None => Err(io::Error::new(io::ErrorKind::AlreadyExists, "its `ledger` is not a run's")),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
            Err(error) => Err(error),
        }
    }

    /// What is to be removed.
    pub(super) fn resources(&self) -> impl Iterator<Item = &Resource> {
        self.resources.iter()
    }

    pub(super) fn register(&mut self, resource: &Resource) -> Result<(), ResourceError> {
        resource.check()?;
        if !self.resources.contains(resource) {
            self.write('+', resource)?;
            self.resources.insert(resource.clone());
        }
        Ok(())
    }

    pub(super) fn release(&mut self, resource: &Resource, remove: bool) -> Result<(), ResourceError> {
        resource.check()?;
        if remove {
            resource.remove()?;
        }
        if self.resources.contains(resource) {
            self.write('-', resource)?;
            self.resources.remove(resource);
        }
        Ok(())
    }

    fn write(&mut self, sign: char, resource: &Resource) -> Result<(), ResourceError> {
        let failed = |error: io::Error| ResourceError::Ledger { message: error.to_string() };
        if self.file.is_none() {
            let mut options = OpenOptions::new();
            self.file = Some(options.append(true).create(true).mode(0o600).open(&self.path).map_err(failed)?);
            self.length = 0;
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        let mut line = if self.length == 0 { FIRST_LINE.to_vec() } else { Vec::new() };
        line.extend_from_slice(format!("{sign} {}\n", resource.to_line()).as_bytes());
        // What a write that has failed has left would be a name cut short.
        file.set_len(self.length).and_then(|()| file.write_all(&line)).map_err(failed)?;
        self.length += line.len() as u64;
        Ok(())
    }

    /// Removes all objects, and then the file. Returns whether nothing is left; if something cannot be removed, it stays
    /// in the file.
    pub(super) fn clear(&mut self) -> bool {
        self.resources.retain(|resource| resource.remove().is_err());
        if !self.resources.is_empty() {
            return false;
        }
        self.file = None;
        let removed = fs::remove_file(&self.path);
        removed.is_ok() || removed.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    }
}

/// What lines behind the first one say is to be removed.
fn read(content: &[u8]) -> BTreeSet<Resource> {
    let mut resources = BTreeSet::new();
    // Lines are ASCII; what is not is no line.
    let content = String::from_utf8_lossy(content);
    for line in content.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
        match line.split_at_checked(2) {
            Some(("+ ", rest)) => resources.extend(Resource::from_line(rest)),
            Some(("- ", rest)) => {
                Resource::from_line(rest).map(|resource| resources.remove(&resource));
            }
            _ => {}
        }
    }
    resources
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_registered_and_not_released_counts() {
        let names = read(b"+ shm /a\n+ file /tmp/b\n- shm /a\nnonsense\n+ sham /c\n- shm /never\n+ shm /cut");
        assert_eq!(names, BTreeSet::from([Resource::File("/tmp/b".into())]));
        assert_eq!(read(b"\n+\n-\n+ \n\xFF\xFE\n"), BTreeSet::new());
    }
}
