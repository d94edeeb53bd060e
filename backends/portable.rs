//! [`Portable`]: what can be given to another process.
//!
//! It stands between two rooms that do not know each other: ends of some transports are portable, and spawners of
//! processes ask for it. This module moves nothing.

use std::os::fd::OwnedFd;

/// A value that a descriptor stands for: another process that is given the descriptor can make it again. To be
/// implemented for what has both conversions, and keeps nothing beside the descriptor that matters when it is fresh.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be given to another process",
    label = "not a descriptor underneath",
    note = "links of `Socket` and `Ring` go with `Fork`, `Exec` and `Thread`; those of `Polysocket` only with `Thread`"
)]
pub trait Portable: Into<OwnedFd> + TryFrom<OwnedFd> + Send + 'static {}

impl Portable for OwnedFd {}
