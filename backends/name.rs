//! Object names: checked once, before any system call sees them, and unique names from templates.
//!
//! A name is either a single component (shared memory objects: one name space for the whole system,
//! no directories) or a path. This module does not say where a name lives; that is its backend's.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// The longest single component of a name, in bytes (`NAME_MAX`).
#[doc(alias = "NAME_MAX")]
pub const COMPONENT_MAX: usize = 255;

/// The longest path, in bytes, without the closing NUL (`PATH_MAX` - 1).
pub const PATH_MAX: usize = 4095;

/// Why a name was refused. The object was not touched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// The name is empty, or only a slash.
    #[error("an object name must not be empty")]
    Empty,
    /// The name contains a NUL byte, at which the system would cut it off.
    #[error("object name {0:?} contains a NUL byte: remove it")]
    Nul(OsString),
    /// A shared memory name contains a slash after the first character.
    #[error(
        "object name {0:?} contains a '/' inside: shared memory names have no directories, use one component such as \"/counts\", or the backend `File` for a path"
    )]
    Slash(OsString),
    /// The name is `.` or `..`, or a path ends in them or in a slash: that is a directory.
    #[error("object name {0:?} names a directory: give the name of an object in it")]
    Directory(OsString),
    /// The name, or one component of a path, is too long.
    #[error("object name is too long: a component of {length} bytes, at most {max} are allowed")]
    TooLong {
        /// Bytes in the longest component, or in the whole path.
        length: usize,
        /// Bytes allowed there.
        max: usize,
    },
    /// A template for a unique name has no run of at least six `X`.
    #[error(
        "template {0:?} has no place for the unique part: write XXXXXX (six or more) in its last component"
    )]
    NoTemplate(OsString),
}

/// Checks a name of one component and returns it without the leading slash that POSIX asks for: `/x`
/// and `x` are the same object.
///
/// # Errors
/// [`NameError`] for a name that is empty, too long (more than [`COMPONENT_MAX`] bytes), `.` or `..`, or
/// that contains NUL or an inner `/`.
pub fn component(name: &OsStr) -> Result<&OsStr, NameError> {
    let bytes = name.as_bytes();
    let bytes = bytes.strip_prefix(b"/").unwrap_or(bytes);
    if bytes.contains(&b'/') {
        return Err(NameError::Slash(name.to_owned()));
    }
    check_component(name, bytes)?;
    Ok(OsStr::from_bytes(bytes))
}

/// Checks a path whose last component names an object.
///
/// # Errors
/// [`NameError`] for a path that is empty, too long (a component over [`COMPONENT_MAX`] or the whole over
/// [`PATH_MAX`] bytes), that contains NUL, or whose last component is empty, `.` or `..`.
pub fn path(name: &OsStr) -> Result<&OsStr, NameError> {
    let bytes = name.as_bytes();
    if bytes.len() > PATH_MAX {
        return Err(NameError::TooLong { length: bytes.len(), max: PATH_MAX });
    }
    if bytes.len() > 1 && bytes.ends_with(b"/") {
        return Err(NameError::Directory(name.to_owned()));
    }
    if let Some(long) = bytes.split(|byte| *byte == b'/').find(|part| part.len() > COMPONENT_MAX) {
        return Err(NameError::TooLong { length: long.len(), max: COMPONENT_MAX });
    }
    let last = bytes.rsplit(|byte| *byte == b'/').next().unwrap_or(bytes);
    check_component(name, last)?;
    if bytes.contains(&0) {
        return Err(NameError::Nul(name.to_owned()));
    }
    Ok(name)
}

fn check_component(whole: &OsStr, part: &[u8]) -> Result<(), NameError> {
    if part.is_empty() {
        Err(NameError::Empty)
    } else if part.contains(&0) {
        Err(NameError::Nul(whole.to_owned()))
    } else if part == b"." || part == b".." {
        Err(NameError::Directory(whole.to_owned()))
    } else if part.len() > COMPONENT_MAX {
        Err(NameError::TooLong { length: part.len(), max: COMPONENT_MAX })
    } else {
        Ok(())
    }
}

/// Puts `random` into the last run of six or more `X` in the last component of `template`. Upper case
/// letters and digits only, for file systems that do not tell the cases apart.
///
/// # Errors
/// [`NameError::NoTemplate`] if there is no such run.
pub fn instantiate(template: &OsStr, mut random: u64) -> Result<OsString, NameError> {
    const SYMBOLS: &[u8; 36] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ";
    let mut bytes = template.as_bytes().to_vec();
    let start = bytes.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    let run = bytes[start..]
        .windows(6)
        .rposition(|window| window == b"XXXXXX")
        .ok_or_else(|| NameError::NoTemplate(template.to_owned()))?;
    let end = start + run + 6;
    let begin = bytes[start..end].iter().rposition(|byte| *byte != b'X').map_or(start, |at| start + at + 1);
    for byte in &mut bytes[begin..end] {
        *byte = SYMBOLS[(random % 36) as usize];
        random /= 36;
    }
    Ok(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_is_checked_and_loses_its_leading_slash() {
        assert_eq!(component(OsStr::new("/counts")).unwrap(), "counts");
        assert_eq!(component(OsStr::new("counts")).unwrap(), "counts");
        assert_eq!(component(OsStr::new("")), Err(NameError::Empty));
        assert_eq!(component(OsStr::new("/")), Err(NameError::Empty));
        assert!(matches!(component(OsStr::new("a/b")), Err(NameError::Slash(_))));
        assert!(matches!(component(OsStr::new("//b")), Err(NameError::Slash(_))));
        assert!(matches!(component(OsStr::new("a\0b")), Err(NameError::Nul(_))));
        assert!(matches!(component(OsStr::new("..")), Err(NameError::Directory(_))));
        assert!(component(OsStr::new(&"a".repeat(255))).is_ok());
        assert_eq!(
            component(OsStr::new(&"a".repeat(256))),
            Err(NameError::TooLong { length: 256, max: 255 })
        );
    }

    #[test]
    fn a_path_is_checked_in_every_component() {
        assert!(path(OsStr::new("/tmp/x")).is_ok());
        assert!(path(OsStr::new("x")).is_ok());
        assert_eq!(path(OsStr::new("")), Err(NameError::Empty));
        assert!(matches!(path(OsStr::new("/tmp/")), Err(NameError::Directory(_))));
        assert!(matches!(path(OsStr::new("/tmp/..")), Err(NameError::Directory(_))));
        assert!(matches!(path(OsStr::new("/t\0mp/x")), Err(NameError::Nul(_))));
        let long = format!("/{}/x", "d".repeat(256));
        assert_eq!(path(OsStr::new(&long)), Err(NameError::TooLong { length: 256, max: 255 }));
        let deep = "/d".repeat(2048);
        assert_eq!(path(OsStr::new(&deep)), Err(NameError::TooLong { length: 4096, max: 4095 }));
    }

    #[test]
    fn only_the_last_run_of_the_last_component_is_replaced() {
        let name = instantiate(OsStr::new("/XXXXXX/aXXXXXX-XXXXXXXX.t"), 36 * 36 + 1).unwrap();
        assert_eq!(name, "/XXXXXX/aXXXXXX-10100000.t");
        assert!(matches!(instantiate(OsStr::new("XXXXXX/aXXXXX"), 0), Err(NameError::NoTemplate(_))));
    }
}
