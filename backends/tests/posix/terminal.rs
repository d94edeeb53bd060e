//! The foreground of a terminal changes hands, on a pseudo-terminal that controls a session of its own.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use manycore_backends::posix::process::{own_process_group, start_process_group, start_session};
use manycore_backends::posix::terminal::*;
use manycore_backends::posix::{PosixError, process};
use manycore_backends::spawn::{Child, Exit};
use rustix::fs::{Mode, OFlags};
use rustix::process::{WaitId, WaitIdOptions};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::{NOBODY, blocked, in_a_unit, pipe, refused, unit, well, without_access};

crate::tests! {
    what_is_no_terminal_is_refused
    terminal_of_others_is_refused
    session_leader_is_in_the_foreground
    foreground_goes_to_another_group_and_back
    background_is_stopped_or_not_as_asked
    unknown_and_foreign_groups_are_refused
    terminal_has_its_name
    controlling_terminal_is_opened_by_its_path
}

/// A pseudo-terminal: its master, and the other side, which controls nobody.
fn terminal() -> (OwnedFd, Arc<OwnedFd>, PathBuf) {
    let master =
        openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("there are terminals");
    grantpt(&master).expect("it is ours");
    unlockpt(&master).expect("it is ours");
    let path = ptsname(&master, Vec::new()).expect("it has a name").into_string().expect("it is text");
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let terminal = rustix::fs::open(&path, flags, Mode::empty()).expect("it is unlocked");
    (master, Arc::new(terminal), path.into())
}

/// Runs a test in a unit that leads a session with a terminal of its own.
fn in_a_session(test: impl FnOnce(Arc<OwnedFd>, PathBuf) + Send + 'static) {
    in_a_unit(|| {
        let (master, terminal, path) = terminal();
        start_session().expect("a unit leads no group");
        rustix::process::ioctl_tiocsctty(&terminal).expect("it is free");
        test(terminal, path);
        // Closing it would be a hang-up, which ends the session's leader before it has returned.
        std::mem::forget(master);
    });
}

fn what_is_no_terminal_is_refused() {
    let (reader, _writer) = pipe();
    let null = File::open("/dev/null").unwrap();
    for result in [
        foreground_group(&reader).map(drop),
        foreground_group(&null).map(drop),
        set_foreground_group(&reader, own_process_group()),
        set_foreground_group_unstopped(&null, own_process_group()),
        name(&reader).map(drop),
        name(&null).map(drop),
    ] {
        let error = refused(result, libc::ENOTTY);
        assert!(matches!(error, PosixError::NotATerminal { .. }), "{error:?}");
    }
    let nothing = without_access();
    refused(foreground_group(&nothing), libc::EBADF);
    refused(set_foreground_group(&nothing, own_process_group()), libc::EBADF);
    refused(name(&nothing), libc::EBADF);
}

fn terminal_of_others_is_refused() {
    in_a_unit(|| {
        let (master, terminal, _) = terminal();
        start_session().unwrap();
        refused(foreground_group(&terminal), libc::ENOTTY);
        refused(set_foreground_group(&terminal, own_process_group()), libc::ENOTTY);
        // The master may look, and sees that there is nobody.
        assert_eq!(foreground_group(&master).unwrap(), None);
    });
}

fn session_leader_is_in_the_foreground() {
    in_a_session(|terminal, _| {
        assert_eq!(foreground_group(&terminal).unwrap(), Some(std::process::id()));
        set_foreground_group(&terminal, own_process_group()).unwrap();
        assert_eq!(foreground_group(&terminal).unwrap(), Some(std::process::id()));
    });
}

fn foreground_goes_to_another_group_and_back() {
    in_a_session(|terminal, _| {
        let (reader, hold) = pipe();
        let (given, given_terminal) = (reader.clone(), terminal.clone());
        let child = unit(&[&reader, &terminal], move || {
            crate::read_all(&given);
            assert_eq!(foreground_group(&given_terminal).unwrap(), Some(std::process::id()));
        });
        process::set_process_group(Some(child.id()), None).unwrap();
        set_foreground_group(&terminal, child.id()).unwrap();
        assert_eq!(foreground_group(&terminal).unwrap(), Some(child.id()));
        drop(hold);
        well(&child);
        // Now this one is in the background.
        set_foreground_group_unstopped(&terminal, own_process_group()).unwrap();
        assert_eq!(foreground_group(&terminal).unwrap(), Some(own_process_group()));
    });
}

fn background_is_stopped_or_not_as_asked() {
    in_a_session(|terminal, _| {
        let given = terminal.clone();
        let child = unit(&[&terminal], move || {
            start_process_group().unwrap();
            let _ = set_foreground_group(&given, own_process_group());
            unreachable!("it was stopped, and nobody continues it");
        });
        let stopped = rustix::process::waitid(
            WaitId::PidFd(std::os::fd::AsFd::as_fd(&child)),
            WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT,
        );
        let signal = stopped.unwrap().expect("it was waited for").stopping_signal();
        assert_eq!(signal, Some(libc::SIGTTOU));
        assert_eq!(foreground_group(&terminal).unwrap(), Some(own_process_group()));
        child.kill(libc::SIGKILL).unwrap();
        assert_eq!(child.wait().unwrap(), Exit::Signal { signal: libc::SIGKILL, core: false });

        let given = terminal.clone();
        well(&unit(&[&terminal], move || {
            start_process_group().unwrap();
            let before = blocked();
            set_foreground_group_unstopped(&given, own_process_group()).unwrap();
            assert_eq!(foreground_group(&given).unwrap(), Some(std::process::id()));
            assert_eq!(blocked(), before);
            refused(set_foreground_group_unstopped(&given, NOBODY), libc::ESRCH);
            assert_eq!(blocked(), before);
        }));
    });
}

fn unknown_and_foreign_groups_are_refused() {
    let foreign = own_process_group();
    in_a_session(move |terminal, _| {
        for nobody in [NOBODY, 0, u32::MAX] {
            let error = refused(set_foreground_group(&terminal, nobody), libc::ESRCH);
            assert!(matches!(error, PosixError::NoSuchProcess { .. }), "{error:?}");
        }
        let error = refused(set_foreground_group(&terminal, foreign), libc::EPERM);
        assert!(matches!(error, PosixError::NotPermitted { .. }), "{error:?}");
        assert_eq!(foreground_group(&terminal).unwrap(), Some(own_process_group()));
    });
}

fn terminal_has_its_name() {
    let (_master, terminal, path) = terminal();
    assert_eq!(name(&terminal).unwrap(), path);
    assert!(std::io::IsTerminal::is_terminal(&File::from(terminal.try_clone().unwrap())));
}

fn controlling_terminal_is_opened_by_its_path() {
    in_a_unit(|| {
        start_session().unwrap();
        let error = File::open(CONTROLLING).expect_err("this session has none");
        assert_eq!(error.raw_os_error(), Some(libc::ENXIO));
    });
    in_a_session(|_, _| {
        let terminal = File::open(CONTROLLING).unwrap();
        assert_eq!(foreground_group(&terminal).unwrap(), Some(own_process_group()));
    });
}
