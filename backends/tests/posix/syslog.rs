//! Messages are logged as the process says. What is seen here is their copy on standard error: they cannot get to the
//! machine's own log, because the process that logs may open no further descriptor, and so no connection.

use manycore_backends::posix::PosixError;
use manycore_backends::posix::process::set_open_files_max;
use manycore_backends::posix::syslog::{Facility, IDENTITY_MAX, Level, LogOption, close, log, open};

use crate::{refused, standard_error_of};

crate::tests! {
    message_is_logged_under_the_identity
    number_of_the_process_is_logged_if_asked_for
    message_is_no_format_and_keeps_what_follows_a_nul
    identity_can_be_changed_and_forgotten
    every_level_and_facility_is_taken
    bad_identity_is_refused
}

/// What is logged by a process that can log to nobody else.
fn logged(test: impl FnOnce() + Send + 'static) -> String {
    standard_error_of(|| {
        set_open_files_max(Some(3)).unwrap();
        test();
    })
}

fn message_is_logged_under_the_identity() {
    let text = logged(|| {
        open(Some("counter"), &[LogOption::Perror], Facility::Daemon).unwrap();
        log(None, Level::Warning, "only 3 left");
        log(Some(Facility::Local7), Level::Debug, "none left\n");
    });
    assert_eq!(text, "counter: only 3 left\ncounter: none left\n");
}

fn number_of_the_process_is_logged_if_asked_for() {
    let text = logged(|| {
        let options =
            [LogOption::Perror, LogOption::Pid, LogOption::Ndelay, LogOption::Nowait, LogOption::Odelay];
        open(Some("counter"), &options, Facility::User).unwrap();
        log(None, Level::Info, &std::process::id().to_string());
    });
    let number: u32 = text.trim_end().rsplit(' ').next().unwrap().parse().unwrap();
    assert_eq!(text, format!("counter[{number}]: {number}\n"));
}

fn message_is_no_format_and_keeps_what_follows_a_nul() {
    let text = logged(|| {
        open(Some("counter"), &[LogOption::Perror], Facility::User).unwrap();
        log(None, Level::Info, "100%s %n\0after");
        log(None, Level::Info, &"long ".repeat(10_000));
    });
    let (first, second) = text.split_once('\n').unwrap();
    assert_eq!(first, "counter: 100%s %n\u{2400}after");
    assert_eq!(second, format!("counter: {}\n", "long ".repeat(10_000)));
}

fn identity_can_be_changed_and_forgotten() {
    let text = logged(|| {
        for identity in ["one", &"x".repeat(IDENTITY_MAX), "three"] {
            open(Some(identity), &[LogOption::Perror], Facility::User).unwrap();
            log(None, Level::Info, "here");
        }
        open(None, &[LogOption::Perror], Facility::User).unwrap();
        log(None, Level::Info, "here");
        close();
        log(None, Level::Info, "not on standard error any more");
        close();
        open(Some("four"), &[LogOption::Perror], Facility::User).unwrap();
        log(None, Level::Info, "here");
    });
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 5, "{text}");
    assert_eq!(lines[0], "one: here");
    assert_eq!(lines[1], format!("{}: here", "x".repeat(255)));
    assert_eq!(lines[2], "three: here");
    let program = std::env::args().next().unwrap();
    assert_eq!(lines[3], format!("{}: here", program.rsplit('/').next().unwrap()));
    assert_eq!(lines[4], "four: here");
}

fn every_level_and_facility_is_taken() {
    let text = logged(|| {
        use Facility::*;
        open(Some("all"), &[LogOption::Perror], Kernel).unwrap();
        let facilities = [
            Kernel, User, Mail, Daemon, Auth, Syslog, Lpr, News, Uucp, Cron, AuthPriv, Ftp, Local0, Local1,
            Local2, Local3, Local4, Local5, Local6, Local7,
        ];
        // The gravest are told to every user of a machine; these go nowhere.
        let levels = [
            Level::Emergency,
            Level::Alert,
            Level::Critical,
            Level::Error,
            Level::Warning,
            Level::Notice,
            Level::Info,
            Level::Debug,
        ];
        for facility in facilities {
            for level in levels {
                log(Some(facility), level, &format!("{facility:?} {level:?}"));
            }
        }
    });
    assert_eq!(text.lines().count(), 20 * 8);
    // The C library says so if it does not know a facility or level.
    assert!(!text.contains("unknown"), "{text}");
}

fn bad_identity_is_refused() {
    for identity in ["a\0b", &"x".repeat(IDENTITY_MAX + 1)] {
        let error = refused(open(Some(identity), &[], Facility::User), libc::EINVAL);
        assert!(matches!(error, PosixError::Invalid { .. }), "{error:?}");
    }
}
