//! Who is at the other end of a socket, in the kernel's words.
//!
//! This module does not judge.
//!
//! # Safety
//!
//! One system call, with pointers to locals. (rustix's promises a number of a process that is not 0, which it is for
//! processes of another PID namespace.)

#![allow(unsafe_code)]

use std::ffi::c_int;
use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::transport::TransportError;

/// A process at the other end of a link, as it was when the link was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The number of the process. It may have ended, and the number be another's; 0 if it cannot be seen from here.
    pub process: u32,
    /// Its effective user.
    pub user: u32,
    /// Its effective group.
    pub group: u32,
}

impl Peer {
    pub(super) fn of(socket: BorrowedFd<'_>) -> Result<Peer, TransportError> {
        let failed = |source| TransportError::Io { op: "getsockopt(SO_PEERCRED)", source };
        let mut found = MaybeUninit::<libc::ucred>::zeroed();
        let mut length = mem::size_of::<libc::ucred>() as libc::socklen_t;
        let (level, option): (c_int, c_int) = (libc::SOL_SOCKET, libc::SO_PEERCRED);
        let place = found.as_mut_ptr().cast();
        // SAFETY: the pointers are to locals, of which the first has as many bytes as the second says.
        if unsafe { libc::getsockopt(socket.as_raw_fd(), level, option, place, &mut length) } != 0 {
            return Err(failed(io::Error::last_os_error()));
        }
        // SAFETY: all zeroes is a value of this plain C structure, and the call may have filled it in.
        let found = unsafe { found.assume_init() };
        // What the kernel says of other kinds of sockets.
        if found.uid == u32::MAX {
            return Err(failed(io::Error::from_raw_os_error(libc::ENOTCONN)));
        }
        Ok(Peer { process: found.pid.unsigned_abs(), user: found.uid, group: found.gid })
    }
}
