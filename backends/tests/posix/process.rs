//! Groups, sessions, users and limits are what the system has them be, for the whole process.

use std::process::Stdio;
use std::sync::mpsc;
use std::thread;

use manycore_backends::posix::PosixError;
use manycore_backends::posix::process::*;
use manycore_backends::spawn::{Child, Fork};

use crate::{NOBODY, ORDINARY, am_root, held, in_a_unit, refused};

crate::tests! {
    own_group_is_that_of_the_calling_process
    numbers_of_nobody_are_refused
    process_can_lead_a_group_and_join_one
    child_is_put_into_a_group_until_it_has_called_exec
    session_is_started_once
    users_are_changed_for_all_threads
    groups_are_changed_for_all_threads
    users_without_rights_stay_what_they_are
    nothing_is_changed_if_all_is_kept
    limit_of_open_files_holds
}

fn own_group_is_that_of_the_calling_process() {
    let own = own_process_group();
    assert_eq!(process_group(None).unwrap(), own);
    assert_eq!(process_group(Some(std::process::id())).unwrap(), own);
    assert_eq!(session(Some(std::process::id())).unwrap(), session(None).unwrap());
    in_a_unit(move || assert_eq!(own_process_group(), own));
}

fn numbers_of_nobody_are_refused() {
    // 0 would be the caller itself, to the system.
    for nobody in [NOBODY, 0, 1 << 31, u32::MAX] {
        for result in [
            process_group(Some(nobody)).map(drop),
            session(Some(nobody)).map(drop),
            set_process_group(Some(nobody), None),
        ] {
            let error = refused(result, libc::ESRCH);
            assert!(matches!(error, PosixError::NoSuchProcess { .. }), "{error:?}");
        }
    }
    let message = process_group(Some(NOBODY)).unwrap_err().to_string();
    assert_eq!(message, "getpgid failed: no such process, or group of processes");
    // Not a child.
    in_a_unit(|| drop(refused(set_process_group(Some(1), None), libc::ESRCH)));
}

fn process_can_lead_a_group_and_join_one() {
    let parents = own_process_group();
    in_a_unit(move || {
        start_process_group().unwrap();
        assert_eq!(own_process_group(), std::process::id());
        start_process_group().unwrap();
        set_process_group(None, Some(parents)).unwrap();
        assert_eq!(own_process_group(), parents);
        let error = refused(set_process_group(None, Some(NOBODY)), libc::EPERM);
        assert!(matches!(error, PosixError::NotPermitted { .. }), "{error:?}");
        assert_eq!(own_process_group(), parents);
    });
}

#[allow(clippy::disallowed_methods, reason = "the test needs a child that has called exec")]
fn child_is_put_into_a_group_until_it_has_called_exec() {
    let (child, _hold) = held();
    set_process_group(Some(child.id()), None).unwrap();
    assert_eq!(process_group(Some(child.id())).unwrap(), child.id());

    let mut other =
        std::process::Command::new("cat").stdin(Stdio::piped()).spawn().expect("every Linux has cat");
    // `spawn` returns when it has called exec.
    let error = refused(set_process_group(Some(other.id()), None), libc::EACCES);
    assert!(matches!(error, PosixError::NotPermitted { .. }), "{error:?}");
    drop(other.stdin.take());
    assert!(other.wait().expect("it is our child").success());
}

fn session_is_started_once() {
    in_a_unit(|| {
        let own = std::process::id();
        assert_eq!(start_session().unwrap(), own);
        assert_eq!((session(None).unwrap(), own_process_group()), (own, own));
        for result in [start_session().map(drop), start_process_group()] {
            let error = refused(result, libc::EPERM);
            assert!(matches!(error, PosixError::NotPermitted { .. }), "{error:?}");
        }
        in_a_unit(move || assert_eq!(session(None).unwrap(), own));
    });
}

/// What `look` says in a thread that was there before `change`.
fn in_another_thread<T: Send + 'static>(
    look: impl FnOnce() -> T + Send + 'static,
    change: impl FnOnce(),
) -> T {
    let (changed, wait) = mpsc::channel::<()>();
    let (is_there, there) = mpsc::channel::<()>();
    let thread = thread::spawn(move || {
        is_there.send(()).unwrap();
        wait.recv().unwrap();
        look()
    });
    there.recv().unwrap();
    change();
    changed.send(()).unwrap();
    thread.join().unwrap()
}

fn users_are_changed_for_all_threads() {
    if !am_root() {
        return;
    }
    in_a_unit(|| {
        // These ask the kernel, which knows them by thread.
        let seen = in_another_thread(
            || (user(), effective_user()),
            || set_real_and_effective_user(None, Some(ORDINARY)).unwrap(),
        );
        assert_eq!(seen, (0, ORDINARY));
        // Back, because the real one is still root; then for good.
        set_real_and_effective_user(None, Some(0)).unwrap();
        let seen = in_another_thread(
            || (user(), effective_user()),
            || set_real_and_effective_user(Some(ORDINARY), Some(ORDINARY)).unwrap(),
        );
        assert_eq!(seen, (ORDINARY, ORDINARY));
        assert_eq!((user(), effective_user()), (ORDINARY, ORDINARY));
        for (real, effective) in [(Some(0), None), (None, Some(0)), (Some(0), Some(0))] {
            refused(set_real_and_effective_user(real, effective), libc::EPERM);
        }
        // The right to change groups is gone, too.
        refused(set_real_and_effective_group(None, Some(ORDINARY)), libc::EPERM);
    });
    assert_eq!((user(), effective_user()), (0, 0));
}

fn groups_are_changed_for_all_threads() {
    if !am_root() {
        return;
    }
    in_a_unit(|| {
        let before = group();
        let seen = in_another_thread(
            || (group(), effective_group()),
            || set_real_and_effective_group(None, Some(ORDINARY)).unwrap(),
        );
        assert_eq!(seen, (before, ORDINARY));
        set_real_and_effective_group(Some(ORDINARY), None).unwrap();
        assert_eq!((group(), effective_group()), (ORDINARY, ORDINARY));
        assert_eq!(user(), 0);
    });
}

fn users_without_rights_stay_what_they_are() {
    in_a_unit(|| {
        if am_root() {
            set_real_and_effective_user(Some(ORDINARY), Some(ORDINARY)).unwrap();
        }
        let before = (user(), effective_user());
        let error = refused(set_real_and_effective_user(Some(0), Some(0)), libc::EPERM);
        assert!(matches!(error, PosixError::NotPermitted { .. }), "{error:?}");
        assert_eq!((user(), effective_user()), before);
    });
}

fn nothing_is_changed_if_all_is_kept() {
    in_a_unit(|| {
        let state = || (user(), effective_user(), group(), effective_group());
        let before = state();
        set_real_and_effective_user(None, None).unwrap();
        set_real_and_effective_group(None, None).unwrap();
        // All ones would keep it, to the system.
        for result in [
            set_real_and_effective_user(Some(u32::MAX), None),
            set_real_and_effective_user(None, Some(u32::MAX)),
            set_real_and_effective_group(Some(u32::MAX), None),
            set_real_and_effective_group(None, Some(u32::MAX)),
        ] {
            let error = refused(result, libc::EINVAL);
            assert!(matches!(error, PosixError::Invalid { .. }), "{error:?}");
        }
        assert_eq!(state(), before);
    });
}

fn limit_of_open_files_holds() {
    in_a_unit(|| {
        let before = open_files_limits();
        assert_eq!(open_files_max(), before.soft);
        set_open_files_max(Some(50)).unwrap();
        assert_eq!(open_files_max(), Some(50));
        assert_eq!(open_files_limits(), OpenFilesLimits { soft: Some(50), hard: before.hard });
        let mut files = Vec::new();
        let error = loop {
            match std::fs::File::open("/dev/null") {
                Ok(file) => files.push(file),
                Err(error) => break error,
            }
        };
        assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
        assert_eq!(files.len(), 47, "all numbers below 50 but those of the standard descriptors");
        drop(files);

        if let Some(hard) = before.hard {
            let error = refused(set_open_files_max(Some(hard + 1)), libc::EINVAL);
            assert!(matches!(error, PosixError::Invalid { .. }), "{error:?}");
            assert_eq!(open_files_max(), Some(50));
        }
        set_open_files_max(None).unwrap();
        assert_eq!(open_files_max(), before.hard);
        // Too few for a pipe: also our own spawner says so.
        set_open_files_max(Some(3)).unwrap();
        Fork.fork(&[], || 0).expect_err("there is no number for a pidfd");
    });
}
