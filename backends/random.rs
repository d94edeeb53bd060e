//! Random bits of the system, for names that nobody has and numbers that nobody guesses.
//!
//! This module makes no numbers of its own: each call asks the kernel.

use std::io;

use rustix::rand::{GetRandomFlags, getrandom};

/// 64 bits that nobody can guess.
///
/// # Errors
/// What the system says if it has none, which Linux does not do: `ENOSYS` where the call is forbidden.
#[doc(alias("getrandom", "urandom"))]
pub fn bits() -> io::Result<u64> {
    let mut bits = [0; 8];
    // So few are never cut short.
    rustix::io::retry_on_intr(|| getrandom(&mut bits[..], GetRandomFlags::empty()))?;
    Ok(u64::from_ne_bytes(bits))
}
