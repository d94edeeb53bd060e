//! Semaphores without names: shared through a descriptor, ended for everybody, and refused if they are something else.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use manycore_backends::posix::semaphore::{MAX_VALUE, SemaphoreError, SemaphoreSet};
use manycore_backends::spawn::Child;
use manycore_backends::testing::spawn::open_descriptors;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, ftruncate, memfd_create};

use crate::{in_a_unit, pipe, unit, well, write_all};

crate::tests! {
    semaphores_of_a_set_are_apart
    values_and_counts_are_checked
    waits_without_waiting_and_with_a_limit
    long_waits_end_by_a_post
    signals_do_not_shorten_a_wait
    forked_child_has_the_set
    descriptor_makes_the_same_set_elsewhere
    copy_in_a_child_leaves_the_number_alone
    destroyed_semaphore_is_stale_for_everybody
    destroying_wakes_all_who_wait
    file_cannot_be_cut_off
    what_is_no_set_is_refused
    broken_set_is_refused
    garbage_in_a_semaphore_breaks_nothing
    nothing_is_left
}

fn semaphores_of_a_set_are_apart() {
    let set = SemaphoreSet::new(&[0, 1, 2]).unwrap();
    assert_eq!(set.len(), 3);
    set.get(1).unwrap().post().unwrap();
    let values: Vec<u32> = (0..3).map(|index| set.get(index).unwrap().value().unwrap()).collect();
    assert_eq!(values, [0, 2, 2]);
    for index in [3, usize::MAX] {
        for result in [set.get(index).map(drop), set.destroy(index)] {
            assert!(
                matches!(result, Err(SemaphoreError::OutOfRange { index: i, count: 3 }) if i == index),
                "{result:?}"
            );
        }
    }
    let large = SemaphoreSet::new(&vec![7; 10_000]).unwrap();
    assert_eq!(large.get(9_999).unwrap().value().unwrap(), 7);
}

fn values_and_counts_are_checked() {
    let none = SemaphoreSet::new(&[]);
    assert!(matches!(none, Err(SemaphoreError::BadCount { count: 0, .. })), "{none:?}");
    let many = SemaphoreSet::new(&vec![0; SemaphoreSet::MAX_COUNT + 1]);
    assert!(matches!(many, Err(SemaphoreError::BadCount { .. })), "{many:?}");
    let large = SemaphoreSet::new(&[0, MAX_VALUE + 1]);
    assert!(
        matches!(large, Err(SemaphoreError::ValueTooLarge { value }) if value == MAX_VALUE + 1),
        "{large:?}"
    );

    let set = SemaphoreSet::new(&[MAX_VALUE]).unwrap();
    let full = set.get(0).unwrap().post();
    assert!(
        matches!(&full, Err(SemaphoreError::Overflow { source }) if source.raw_os_error() == Some(libc::EOVERFLOW)),
        "{full:?}"
    );
    assert_eq!(set.get(0).unwrap().value().unwrap(), MAX_VALUE);
}

fn waits_without_waiting_and_with_a_limit() {
    let set = SemaphoreSet::new(&[1]).unwrap();
    let semaphore = set.get(0).unwrap();
    semaphore.try_wait().unwrap();
    assert!(matches!(semaphore.try_wait(), Err(SemaphoreError::Busy)));
    assert!(matches!(semaphore.wait_timeout(Duration::ZERO), Err(SemaphoreError::TimedOut)));
    for limit in [Duration::from_nanos(1), Duration::from_millis(20)] {
        let start = Instant::now();
        assert!(matches!(semaphore.wait_timeout(limit), Err(SemaphoreError::TimedOut)));
        assert!(start.elapsed() >= limit);
    }
    semaphore.post().unwrap();
    semaphore.wait_timeout(Duration::ZERO).unwrap();
}

fn long_waits_end_by_a_post() {
    for limit in [Duration::from_secs(3600), Duration::from_secs(i64::MAX as u64), Duration::MAX] {
        let set = Arc::new(SemaphoreSet::new(&[0, 0]).unwrap());
        let given = set.clone();
        let child = unit(&[], move || {
            given.get(0).unwrap().wait_timeout(limit).unwrap();
            given.get(1).unwrap().post().unwrap();
        });
        set.get(0).unwrap().post().unwrap();
        set.get(1).unwrap().wait().unwrap();
        well(&child);
    }
}

static SIGNALS: AtomicU32 = AtomicU32::new(0);

extern "C" fn count_signal(_: libc::c_int) {
    SIGNALS.fetch_add(1, Ordering::Relaxed);
}

fn signals_do_not_shorten_a_wait() {
    let set = Arc::new(SemaphoreSet::new(&[0, 0, 0]).unwrap());
    let given = set.clone();
    let child = unit(&[], move || {
        // SAFETY: all zeroes is a value of this plain C structure.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        // Without SA_RESTART: the calls are interrupted.
        action.sa_sigaction = count_signal as extern "C" fn(libc::c_int) as libc::sighandler_t;
        // SAFETY: the action is a valid local, whose handler does nothing but an atomic addition.
        assert_eq!(unsafe { libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut()) }, 0);
        given.get(1).unwrap().post().unwrap();
        given.get(0).unwrap().wait().unwrap();
        given.get(1).unwrap().post().unwrap();
        given.get(0).unwrap().wait_timeout(Duration::MAX).unwrap();
        given.get(2).unwrap().wait_timeout(Duration::from_millis(1)).unwrap_err();
        assert!(SIGNALS.load(Ordering::Relaxed) > 0);
    });
    for _ in 0..2 {
        set.get(1).unwrap().wait().unwrap();
        for _ in 0..200 {
            child.kill(libc::SIGUSR1).unwrap();
            std::thread::yield_now();
        }
        set.get(0).unwrap().post().unwrap();
    }
    well(&child);
    assert_eq!(set.get(0).unwrap().value().unwrap(), 0);
}

fn forked_child_has_the_set() {
    let set = Arc::new(SemaphoreSet::new(&[0, 0]).unwrap());
    let given = set.clone();
    // Without its descriptor.
    let child = unit(&[], move || {
        for _ in 0..1000 {
            given.get(0).unwrap().wait().unwrap();
            given.get(1).unwrap().post().unwrap();
        }
    });
    for _ in 0..1000 {
        set.get(0).unwrap().post().unwrap();
        set.get(1).unwrap().wait().unwrap();
    }
    well(&child);
}

fn again(set: &SemaphoreSet) -> OwnedFd {
    set.as_fd().try_clone_to_owned().expect("a descriptor is free")
}

fn descriptor_makes_the_same_set_elsewhere() {
    let set = SemaphoreSet::new(&[0, 5]).unwrap();
    let here = SemaphoreSet::from_fd(again(&set)).unwrap();
    here.get(0).unwrap().post().unwrap();
    assert_eq!((set.get(0).unwrap().value().unwrap(), here.len()), (1, 2));

    let sent = Arc::new(again(&set));
    let given = sent.clone();
    let child = unit(&[&sent], move || {
        let set = SemaphoreSet::from_fd(given.try_clone().unwrap()).unwrap();
        set.get(0).unwrap().wait().unwrap();
        set.get(1).unwrap().post().unwrap();
    });
    well(&child);
    assert_eq!((set.get(0).unwrap().value().unwrap(), set.get(1).unwrap().value().unwrap()), (0, 6));
    // It lives as long as anybody has it.
    drop(set);
    assert_eq!(here.get(1).unwrap().value().unwrap(), 6);
    assert!(rustix::io::fcntl_getfd(&here).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
}

fn copy_in_a_child_leaves_the_number_alone() {
    let set = SemaphoreSet::new(&[0]).unwrap();
    let number = set.as_fd().as_raw_fd();
    in_a_unit(move || {
        let mut files = Vec::new();
        while files.last().is_none_or(|file: &File| file.as_raw_fd() < number) {
            files.push(File::open("/dev/null").unwrap());
        }
        let before = open_descriptors();
        set.get(0).unwrap().post().unwrap();
        drop(set);
        assert_eq!(open_descriptors(), before);
        drop(files);
    });
}

fn stale<T: std::fmt::Debug>(result: Result<T, SemaphoreError>) {
    assert!(matches!(result, Err(SemaphoreError::Stale)), "{result:?}");
}

fn destroyed_semaphore_is_stale_for_everybody() {
    let set = Arc::new(SemaphoreSet::new(&[1, 1]).unwrap());
    let other = SemaphoreSet::from_fd(again(&set)).unwrap();
    let (held, elsewhere) = (set.get(0).unwrap(), other.get(0).unwrap());
    let given = set.clone();
    in_a_unit(move || given.destroy(0).unwrap());
    for semaphore in [held, elsewhere] {
        stale(semaphore.wait());
        stale(semaphore.try_wait());
        stale(semaphore.wait_timeout(Duration::MAX));
        stale(semaphore.post());
        stale(semaphore.value());
    }
    stale(set.get(0));
    stale(other.get(0));
    stale(set.destroy(0));
    stale(SemaphoreSet::from_fd(again(&set)).unwrap().get(0));
    // The other one is as it was.
    assert_eq!((set.len(), set.get(1).unwrap().value().unwrap()), (2, 1));
    set.get(1).unwrap().wait().unwrap();
}

fn destroying_wakes_all_who_wait() {
    for _ in 0..20 {
        let set = Arc::new(SemaphoreSet::new(&[0, 0]).unwrap());
        let children: Vec<_> = (0..4)
            .map(|number| {
                let given = set.clone();
                unit(&[], move || {
                    let semaphore = given.get(0).unwrap();
                    given.get(1).unwrap().post().unwrap();
                    stale(if number % 2 == 0 {
                        semaphore.wait()
                    } else {
                        semaphore.wait_timeout(Duration::from_secs(3600))
                    });
                })
            })
            .collect();
        // All have the semaphore, and wait or are about to.
        for _ in &children {
            set.get(1).unwrap().wait().unwrap();
        }
        set.destroy(0).unwrap();
        children.iter().for_each(well);
    }
}

fn file_cannot_be_cut_off() {
    let set = SemaphoreSet::new(&[3]).unwrap();
    for size in [0, 10, 1 << 20] {
        assert_eq!(ftruncate(&set, size), Err(rustix::io::Errno::PERM));
    }
    assert!(fcntl_get_seals(&set).unwrap().contains(SealFlags::SEAL));
    assert_eq!(set.get(0).unwrap().value().unwrap(), 3);
}

fn memory(bytes: &[u8], seals: SealFlags) -> OwnedFd {
    let file = File::from(memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap());
    file.write_all_at(bytes, 0).unwrap();
    fcntl_add_seals(&file, seals).unwrap();
    file.into()
}

/// The bytes of a set of two.
fn bytes() -> Vec<u8> {
    let set = SemaphoreSet::new(&[1, 2]).unwrap();
    let mut bytes = vec![0; 64 + 2 * 64];
    File::from(again(&set)).read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

const SEALED: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW);

/// Refused, without a descriptor more or less, for the reason that contains this.
#[track_caller]
fn is_no_set(fd: OwnedFd, reason: &str) {
    let result = SemaphoreSet::from_fd(fd);
    assert!(
        matches!(&result, Err(SemaphoreError::NotASemaphoreSet { what }) if what.contains(reason)),
        "{result:?}"
    );
}

fn what_is_no_set_is_refused() {
    let before = open_descriptors();
    let (reader, writer) = pipe();
    write_all(&writer, "x");
    is_no_set(reader.try_clone().unwrap(), "not a memory file");
    is_no_set(File::open("/dev/null").unwrap().into(), "not a memory file");
    is_no_set(tempfile::tempfile().unwrap().into(), "not a memory file");
    is_no_set(crate::without_access(), "not a memory file");
    drop((reader, writer));

    // Good bytes, in a file that could be cut off.
    for seals in [SealFlags::empty(), SealFlags::SHRINK, SealFlags::GROW] {
        is_no_set(memory(&bytes(), seals), "sealed");
    }
    // In large pages, where the system has any.
    let large = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::HUGETLB);
    if let Some(large) = large.ok().filter(|large| ftruncate(large, 1 << 30).is_ok()) {
        fcntl_add_seals(&large, SEALED).unwrap();
        is_no_set(large, "ordinary memory");
    }
    assert_eq!(open_descriptors(), before);
}

fn broken_set_is_refused() {
    let before = open_descriptors();
    let good = bytes();
    assert_eq!(SemaphoreSet::from_fd(memory(&good, SEALED)).unwrap().get(1).unwrap().value().unwrap(), 2);

    is_no_set(memory(&[], SEALED), "too small");
    is_no_set(memory(&good[..63], SEALED), "too small");
    is_no_set(memory(&good[..64], SEALED), "size");
    is_no_set(memory(&good[..191], SEALED), "size");
    is_no_set(memory(&[&good[..], &[0]].concat(), SEALED), "size");
    is_no_set(memory(&[0x55; 192], SEALED), "begin");
    let with = |at: usize, value: u32| {
        let mut bytes = good.clone();
        bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        memory(&bytes, SEALED)
    };
    is_no_set(with(0, 0), "begin");
    is_no_set(with(4, 2), "format");
    is_no_set(with(8, 16), "C library");
    is_no_set(with(12, 99), "C library");
    for count in [0, 1, 3, 1 << 30, u32::MAX] {
        is_no_set(with(16, count), "size");
    }
    // A mark that nobody makes is no live semaphore.
    for mark in [0, 3, u32::MAX] {
        let set = SemaphoreSet::from_fd(with(64 + 60, mark)).unwrap();
        stale(set.get(0));
        set.get(1).unwrap();
    }

    // For reading only: it can be looked at, and not be used.
    let set = SemaphoreSet::new(&[0]).unwrap();
    let read_only = File::open(format!("/proc/self/fd/{}", set.as_fd().as_raw_fd())).unwrap();
    let result = SemaphoreSet::from_fd(read_only.into());
    assert!(
        matches!(&result, Err(SemaphoreError::Io { op: "mmap", source }) if source.raw_os_error() == Some(libc::EACCES)),
        "{result:?}"
    );
    drop(set);
    assert_eq!(open_descriptors(), before);
}

fn garbage_in_a_semaphore_breaks_nothing() {
    let set = SemaphoreSet::new(&[0]).unwrap();
    let file = File::from(again(&set));
    for byte in 0..=255_u8 {
        file.write_all_at(&[byte; 8], 64).unwrap();
        let semaphore = set.get(0).unwrap();
        // Any of these may fail.
        let _ = (semaphore.value(), semaphore.try_wait(), semaphore.post());
        let _ = semaphore.wait_timeout(Duration::from_nanos(1));
    }
}

fn nothing_is_left() {
    let before = open_descriptors();
    for _ in 0..100 {
        let set = SemaphoreSet::new(&[1, 2, 3]).unwrap();
        assert_eq!(open_descriptors().len(), before.len() + 1);
        set.destroy(1).unwrap();
        drop(SemaphoreSet::from_fd(again(&set)).unwrap());
    }
    assert_eq!(open_descriptors(), before);
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    assert!(!maps.contains("manycore-semaphores"), "{maps}");
}
