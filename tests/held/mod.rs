//! The record locks that the kernel has for an object in shared memory, whoever holds them.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The file of an object of `PosixShm`.
pub(crate) fn path(name: &OsStr) -> PathBuf {
    let component = name.as_bytes().strip_prefix(b"/").unwrap_or(name.as_bytes());
    Path::new("/dev/shm").join(OsStr::from_bytes(component))
}

/// The locks: `READ` or `WRITE`, and the process that holds it. Those who only wait are not among them.
pub(crate) fn locks(name: &OsStr) -> Vec<(String, u32)> {
    // The list is read in pieces: when others lock meanwhile, whatever they lock, a line may come twice or not at all.
    let mut found = listed(name);
    loop {
        let again = listed(name);
        if again == found {
            return found;
        }
        found = again;
    }
}

fn listed(name: &OsStr) -> Vec<(String, u32)> {
    let file = fs::metadata(path(name)).expect("the object is there");
    let device = file.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let identity = format!("{major:02x}:{minor:02x}:{}", file.ino());
    let mut found = Vec::new();
    // With room from the beginning, so that there are few pieces.
    let mut text = String::with_capacity(1 << 16);
    fs::File::open("/proc/locks")
        .and_then(|mut file| file.read_to_string(&mut text))
        .expect("/proc is mounted");
    for line in text.lines() {
        // "12: POSIX  ADVISORY  WRITE 4711 00:1a:42 0 0", and "12: -> POSIX ..." for those who wait.
        let words: Vec<&str> = line.split_whitespace().collect();
        if words.len() >= 6 && words[1] != "->" && words[5] == identity {
            found.push((words[3].to_owned(), words[4].parse().unwrap_or(0)));
        }
    }
    found.dedup();
    found
}
