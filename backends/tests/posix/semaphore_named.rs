//! Semaphores with names: created, found and removed by name, shared between processes.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use manycore_backends::name::NameError;
use manycore_backends::posix::process::set_real_and_effective_user;
use manycore_backends::posix::semaphore::{MAX_VALUE, NamedSemaphore, SIZE, SemaphoreError};
use manycore_backends::testing::spawn::open_descriptors;

use crate::{ORDINARY, am_root, in_a_unit, unit, well};

crate::tests! {
    name_is_taken_once
    create_opens_what_is_there
    unknown_name_is_not_found
    unlinked_semaphore_goes_on_for_those_who_have_it
    openers_of_one_name_have_one_semaphore
    bad_names_are_refused
    names_are_unique
    values_are_counted_and_limited
    waits_without_waiting_and_with_a_limit
    processes_wait_for_each_other
    mode_is_what_the_umask_leaves
    semaphore_of_others_is_refused
    nothing_is_left
}

/// What the names of these tests begin with.
fn prefix() -> String {
    format!("manycore-test-{}-", std::process::id())
}

/// A semaphore whose name is taken away when the test ends, also by a panic.
struct Named {
    name: OsString,
    semaphore: NamedSemaphore,
}

impl Named {
    fn new(value: u32) -> Named {
        let (name, semaphore) = NamedSemaphore::unique(prefix(), value).unwrap();
        Named { name, semaphore }
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        let _ = NamedSemaphore::unlink(&self.name);
    }
}

fn name_is_taken_once() {
    let named = Named::new(3);
    let again = NamedSemaphore::create_new(&named.name, 0o600, 5);
    assert!(
        matches!(&again, Err(SemaphoreError::AlreadyExists { name }) if *name == named.name),
        "{again:?}"
    );
    assert_eq!(named.semaphore.value().unwrap(), 3);
}

fn create_opens_what_is_there() {
    let named = Named::new(3);
    let other = NamedSemaphore::create(&named.name, 0o666, 5).unwrap();
    assert_eq!(other.value().unwrap(), 3);
    NamedSemaphore::unlink(&named.name).unwrap();
    let other = NamedSemaphore::create(&named.name, 0o600, 5).unwrap();
    assert_eq!(other.value().unwrap(), 5);
}

fn unknown_name_is_not_found() {
    let name = prefix() + "unknown";
    for result in [NamedSemaphore::open(&name).map(drop), NamedSemaphore::unlink(&name)] {
        assert!(
            matches!(&result, Err(SemaphoreError::NotFound { name: found }) if *found == *name),
            "{result:?}"
        );
    }
}

fn unlinked_semaphore_goes_on_for_those_who_have_it() {
    let named = Named::new(0);
    let other = NamedSemaphore::open(&named.name).unwrap();
    NamedSemaphore::unlink(&named.name).unwrap();
    assert!(matches!(NamedSemaphore::unlink(&named.name), Err(SemaphoreError::NotFound { .. })));
    other.post().unwrap();
    named.semaphore.wait().unwrap();
    // The name is free, for another one.
    let new = NamedSemaphore::create_new(&named.name, 0o600, 7).unwrap();
    assert_eq!((new.value().unwrap(), other.value().unwrap()), (7, 0));
}

fn openers_of_one_name_have_one_semaphore() {
    let named = Named::new(0);
    let with_slash = OsString::from_vec([b"/", named.name.as_bytes()].concat());
    let first = NamedSemaphore::open(&with_slash).unwrap();
    let second = NamedSemaphore::open(&named.name).unwrap();
    first.post().unwrap();
    assert_eq!((named.semaphore.value().unwrap(), second.value().unwrap()), (1, 1));
    drop(first);
    second.get().wait().unwrap();
    assert_eq!(named.semaphore.value().unwrap(), 0);
}

fn bad_names_are_refused() {
    let long = "x".repeat(252);
    type Expected = fn(&NameError) -> bool;
    let names: [(&str, Expected); 6] = [
        ("", |error| *error == NameError::Empty),
        ("/", |error| *error == NameError::Empty),
        ("a/b", |error| matches!(error, NameError::Slash(_))),
        ("a\0b", |error| matches!(error, NameError::Nul(_))),
        ("..", |error| matches!(error, NameError::Directory(_))),
        (&long, |error| *error == NameError::TooLong { length: 252, max: 251 }),
    ];
    for (name, expected) in names {
        for result in [
            NamedSemaphore::open(name).map(drop),
            NamedSemaphore::create(name, 0o600, 0).map(drop),
            NamedSemaphore::create_new(name, 0o600, 0).map(drop),
            NamedSemaphore::unlink(name),
        ] {
            assert!(
                matches!(&result, Err(SemaphoreError::Name(error)) if expected(error)),
                "{name:?}: {result:?}"
            );
        }
    }
    assert!(matches!(NamedSemaphore::unique("a/b", 0), Err(SemaphoreError::Name(NameError::Slash(_)))));
    assert!(matches!(NamedSemaphore::unique(&long, 0), Err(SemaphoreError::Name(NameError::TooLong { .. }))));

    let longest = prefix() + &"x".repeat(251 - prefix().len());
    let _semaphore = NamedSemaphore::create_new(&longest, 0o600, 0).unwrap();
    NamedSemaphore::unlink(&longest).unwrap();
}

fn names_are_unique() {
    let all: Vec<Named> = (0..50).map(Named::new).collect();
    for (value, named) in (0..).zip(&all) {
        assert_eq!(NamedSemaphore::open(&named.name).unwrap().value().unwrap(), value);
        assert!(named.name.as_bytes().starts_with(prefix().as_bytes()));
    }
    // A prefix that looks like the place for the unique part stays.
    let begin = prefix() + "XXXXXXXX";
    let (name, _semaphore) = NamedSemaphore::unique(&begin, 0).unwrap();
    NamedSemaphore::unlink(&name).unwrap();
    assert!(name.as_bytes().starts_with(begin.as_bytes()), "{name:?}");
}

fn values_are_counted_and_limited() {
    let named = Named::new(MAX_VALUE - 1);
    named.semaphore.post().unwrap();
    assert_eq!(named.semaphore.value().unwrap(), MAX_VALUE);
    let full = named.semaphore.post();
    assert!(
        matches!(&full, Err(SemaphoreError::Overflow { source }) if source.raw_os_error() == Some(libc::EOVERFLOW)),
        "{full:?}"
    );
    assert_eq!(named.semaphore.value().unwrap(), MAX_VALUE);
    named.semaphore.wait().unwrap();
    assert_eq!(named.semaphore.value().unwrap(), MAX_VALUE - 1);
    for value in [MAX_VALUE + 1, u32::MAX] {
        let result = NamedSemaphore::create_new(prefix() + "large", 0o600, value);
        assert!(
            matches!(result, Err(SemaphoreError::ValueTooLarge { value: v }) if v == value),
            "{result:?}"
        );
    }
    assert_eq!((MAX_VALUE, SIZE), (2_147_483_647, size_of::<libc::sem_t>()));
}

fn waits_without_waiting_and_with_a_limit() {
    let named = Named::new(1);
    let semaphore = &named.semaphore;
    semaphore.try_wait().unwrap();
    assert!(matches!(semaphore.try_wait(), Err(SemaphoreError::Busy)));
    assert!(matches!(semaphore.wait_timeout(Duration::ZERO), Err(SemaphoreError::TimedOut)));
    let start = Instant::now();
    let limit = Duration::from_millis(20);
    assert!(matches!(semaphore.wait_timeout(limit), Err(SemaphoreError::TimedOut)));
    assert!(start.elapsed() >= limit);
    semaphore.post().unwrap();
    semaphore.wait_timeout(Duration::ZERO).unwrap();
    assert_eq!(semaphore.value().unwrap(), 0);
}

fn processes_wait_for_each_other() {
    let (ping, pong) = (Named::new(0), Named::new(0));
    let (ping_name, pong_name) = (ping.name.clone(), pong.name.clone());
    let child = unit(&[], move || {
        // By name, and not what the parent had open.
        let (ping, pong) =
            (NamedSemaphore::open(ping_name).unwrap(), NamedSemaphore::open(pong_name).unwrap());
        for _ in 0..1000 {
            ping.wait().unwrap();
            pong.post().unwrap();
        }
    });
    for _ in 0..1000 {
        assert!(matches!(pong.semaphore.try_wait(), Err(SemaphoreError::Busy)));
        ping.semaphore.post().unwrap();
        pong.semaphore.wait_timeout(Duration::MAX).unwrap();
    }
    well(&child);
    // Carried into a child it is the same one, too.
    let (carried, name) = (NamedSemaphore::open(&ping.name).unwrap(), ping.name.clone());
    in_a_unit(move || {
        carried.post().unwrap();
        drop(carried);
        assert_eq!(NamedSemaphore::open(name).unwrap().value().unwrap(), 1);
    });
    assert_eq!(ping.semaphore.value().unwrap(), 1);
}

/// The file of a semaphore, where glibc has it.
fn file(name: &OsStr) -> OsString {
    OsString::from_vec([b"/dev/shm/sem.", name.as_bytes()].concat())
}

fn mode_is_what_the_umask_leaves() {
    if !cfg!(target_env = "gnu") {
        return;
    }
    let name = OsString::from(prefix() + "mode");
    in_a_unit(move || {
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o027));
        let _semaphore = NamedSemaphore::create_new(&name, 0o666, 0).unwrap();
        let mode = fs::metadata(file(&name)).unwrap().permissions().mode();
        NamedSemaphore::unlink(&name).unwrap();
        assert_eq!(mode & 0o777, 0o640);
        let (name, _semaphore) = NamedSemaphore::unique(prefix(), 0).unwrap();
        let mode = fs::metadata(file(&name)).unwrap().permissions().mode();
        NamedSemaphore::unlink(&name).unwrap();
        assert_eq!(mode & 0o777, 0o600);
    });
}

fn semaphore_of_others_is_refused() {
    if !am_root() {
        return;
    }
    let named = Named::new(0);
    let name = named.name.clone();
    in_a_unit(move || {
        set_real_and_effective_user(Some(ORDINARY), Some(ORDINARY)).unwrap();
        for result in
            [NamedSemaphore::open(&name).map(drop), NamedSemaphore::create(&name, 0o600, 0).map(drop)]
        {
            assert!(
                matches!(&result, Err(SemaphoreError::Io { op: "sem_open", source }) if source.raw_os_error() == Some(libc::EACCES)),
                "{result:?}"
            );
        }
        let result = NamedSemaphore::unlink(&name);
        assert!(matches!(&result, Err(SemaphoreError::Io { op: "sem_unlink", .. })), "{result:?}");
    });
}

fn nothing_is_left() {
    let before = open_descriptors();
    let named = Named::new(1);
    let other = NamedSemaphore::open(&named.name).unwrap();
    assert_eq!(open_descriptors(), before, "a semaphore needs none");
    other.wait().unwrap();
    drop((named, other));
    assert_eq!(open_descriptors(), before);
    // Those of all tests so far.
    let left: Vec<_> = fs::read_dir("/dev/shm")
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .filter(|name| name.to_string_lossy().contains(&prefix()))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}
