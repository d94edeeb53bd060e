//! Fingerprints of types.
//!
//! This module does not look into types: what they are made of may change, who they are counts.

use std::any::{TypeId, type_name};
use std::hash::{Hash, Hasher};

/// Bytes of a type's name that are written down.
const NAME_MAX: usize = 1024;

/// FNV-1a with 64 bits.
struct Fnv(u64);

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// The fingerprint of a type, the same in all processes of this program.
pub(super) fn fingerprint<T: 'static>() -> u64 {
    let mut hasher = Fnv(0xCBF2_9CE4_8422_2325);
    TypeId::of::<T>().hash(&mut hasher);
    hasher.write(type_name::<T>().as_bytes());
    hasher.finish()
}

/// The name of a type, for people.
pub(super) fn written<T: 'static>() -> String {
    let name = type_name::<T>();
    let end = (0..=NAME_MAX.min(name.len())).rev().find(|end| name.is_char_boundary(*end)).unwrap_or(0);
    name[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_have_their_own() {
        let all = [
            fingerprint::<u64>(),
            fingerprint::<i64>(),
            fingerprint::<String>(),
            fingerprint::<Option<u64>>(),
            fingerprint::<(u64, u64)>(),
            fingerprint::<[u64; 2]>(),
        ];
        for (index, one) in all.iter().enumerate() {
            assert!(!all[..index].contains(one));
        }
        assert_eq!(fingerprint::<Vec<u8>>(), fingerprint::<Vec<u8>>());
    }

    /// The known value of FNV-1a for `foobar`.
    #[test]
    fn it_is_fnv() {
        let mut hasher = Fnv(0xCBF2_9CE4_8422_2325);
        hasher.write(b"foobar");
        assert_eq!(hasher.finish(), 0x8594_4171_F739_67E8);
    }
}
