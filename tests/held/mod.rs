//! Who holds the lock of an object in shared memory, whichever process it is.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use manycore::lock::futex::AREA;
use manycore::shm::{Memory, Open};
use manycore::{PosixShm, ShmBackend};

/// The file of an object of `PosixShm`.
pub(crate) fn path(name: &OsStr) -> PathBuf {
    let component = name.as_bytes().strip_prefix(b"/").unwrap_or(name.as_bytes());
    Path::new("/dev/shm").join(OsStr::from_bytes(component))
}

/// How the object is locked: `READ`, `WRITE`, or not at all, by a record lock or by the words of a `Futex`.
#[allow(dead_code, reason = "not every program asks")]
pub(crate) fn kinds(name: &OsStr) -> Vec<String> {
    let mut kinds: Vec<String> = locks(name).into_iter().map(|(kind, _)| kind).collect();
    // Not by opening the file: closing it would release record locks of this process.
    let object = PosixShm::open(name, Open::Existing).expect("the object is there");
    object.size().unwrap();
    let area = AREA.start;
    let word = |at: usize| object.memory().load(area + at).unwrap_or(0);
    if word(0) & 0x3FF != 0 {
        kinds.push("WRITE".to_owned());
    }
    if (16..48).any(|row| word(row) != 0) {
        kinds.push("READ".to_owned());
    }
    kinds.sort();
    kinds.dedup();
    kinds
}

/// The record locks: `READ` or `WRITE`, and the process that holds it. Those who only wait are not among them.
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
        // "12: POSIX  ADVISORY  WRITE 4711 00:1a:42 0 0", and "12: -> POSIX ..." for those who wait. (Those of a `Futex`,
        // which only say who is alive, are OFDLCK.)
        let words: Vec<&str> = line.split_whitespace().collect();
        if words.len() >= 6 && words[1] == "POSIX" && words[5] == identity {
            found.push((words[3].to_owned(), words[4].parse().unwrap_or(0)));
        }
    }
    found.dedup();
    found
}
