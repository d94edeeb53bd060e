//! What benches compare with runs in processes that are forked by hand.

use rustix::process::{Pid, WaitOptions, waitpid};

/// Runs `body` in a forked process.
pub(crate) fn forked(body: impl FnOnce()) -> Pid {
    // SAFETY: the calling thread is the only one of this process.
    match unsafe { libc::fork() } {
        0 => {
            body();
            // SAFETY: takes an integer, and does not return.
            unsafe { libc::_exit(0) }
        }
        pid => Pid::from_raw(pid).expect("there is room for a process"),
    }
}

pub(crate) fn reap(pid: Pid) {
    let (_, status) = waitpid(Some(pid), WaitOptions::empty()).unwrap().unwrap();
    assert_eq!(status.exit_status(), Some(0));
}
