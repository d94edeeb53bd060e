//! Advice is taken or refused with its errno, and reserved room is there.

use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZeroU64;

use manycore_backends::posix::PosixError;
use manycore_backends::posix::file::{Advice, advise, reserve};
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::{in_a_unit, pipe, refused, without_access};

crate::tests! {
    all_advice_is_taken_about_a_file
    advice_about_what_cannot_have_any_is_refused
    reserved_room_extends_a_file_by_zeros
    reserved_room_leaves_what_there_is
    limit_of_the_process_is_told
    full_file_system_is_told
    what_cannot_be_reserved_is_refused
}

fn all_advice_is_taken_about_a_file() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&[7; 10_000]).unwrap();
    let all = [
        Advice::Normal,
        Advice::Sequential,
        Advice::Random,
        Advice::Once,
        Advice::WillNeed,
        Advice::DontNeed,
    ];
    for advice in all {
        advise(&file, 0, None, advice).unwrap();
        advise(&file, 4096, NonZeroU64::new(1 << 40), advice).unwrap();
    }
}

fn advice_about_what_cannot_have_any_is_refused() {
    let (reader, _writer) = pipe();
    refused(advise(&reader, 0, None, Advice::WillNeed), libc::ESPIPE);
    let error = refused(advise(without_access(), 0, None, Advice::WillNeed), libc::EBADF);
    assert_eq!(error.to_string(), "posix_fadvise failed: Bad file descriptor (os error 9)");
    let file = tempfile::tempfile().unwrap();
    refused(advise(&file, u64::MAX, None, Advice::Normal), libc::EINVAL);
    refused(advise(&file, 0, NonZeroU64::new(1 << 63), Advice::Normal), libc::EINVAL);
}

fn reserved_room_extends_a_file_by_zeros() {
    let mut file = tempfile::tempfile().unwrap();
    reserve(&file, 1000, 20_000).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 21_000);
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, vec![0; 21_000]);
    // Blocks of 512 bytes.
    assert!(std::os::unix::fs::MetadataExt::blocks(&file.metadata().unwrap()) * 512 >= 20_000);
}

fn reserved_room_leaves_what_there_is() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&[7; 5000]).unwrap();
    reserve(&file, 0, 10).unwrap();
    reserve(&file, 4000, 2000).unwrap();
    let bytes = std::fs::read(file.path()).unwrap();
    assert_eq!(bytes.len(), 6000);
    assert!(bytes[..5000].iter().all(|byte| *byte == 7));
    assert!(bytes[5000..].iter().all(|byte| *byte == 0));
}

fn limit_of_the_process_is_told() {
    in_a_unit(|| {
        ignore_too_large();
        let limit = Rlimit { current: Some(10_000), maximum: Some(10_000) };
        setrlimit(Resource::Fsize, limit).unwrap();
        let file = tempfile::tempfile().unwrap();
        reserve(&file, 0, 10_000).unwrap();
        // The last one has an end that is no number.
        for (offset, length) in [(0, 10_001), (9_999, 2), (i64::MAX as u64, 1000)] {
            let error = refused(reserve(&file, offset, length), libc::EFBIG);
            assert!(matches!(error, PosixError::NoRoom { .. }), "{error:?}");
        }
        assert_eq!(file.metadata().unwrap().len(), 10_000);
    });
}

fn full_file_system_is_told() {
    const TMPFS: rustix::fs::FsWord = 0x0102_1994;
    let system = rustix::fs::statfs("/dev/shm").unwrap();
    if system.f_type != TMPFS || system.f_blocks == 0 {
        println!("  (there is no file system here that refuses before it is full)");
        return;
    }
    let file = tempfile::tempfile_in("/dev/shm").unwrap();
    // More than it could ever hold, so that it refuses at once, instead of filling up.
    let error = refused(reserve(&file, 0, 2 * system.f_blocks * system.f_bsize as u64), libc::ENOSPC);
    assert!(matches!(error, PosixError::NoRoom { .. }), "{error:?}");
    assert_eq!(file.metadata().unwrap().len(), 0);
}

/// Otherwise the signal, and not the error, would tell.
fn ignore_too_large() {
    // SAFETY: no handler is installed.
    let before = unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    assert_ne!(before, libc::SIG_ERR);
}

fn what_cannot_be_reserved_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    refused(reserve(&file, 0, 0), libc::EINVAL);
    refused(reserve(&file, 1 << 63, 1), libc::EINVAL);
    refused(reserve(&file, 0, u64::MAX), libc::EINVAL);
    let read_only = File::open(file.path()).unwrap();
    refused(reserve(&read_only, 0, 1), libc::EBADF);
    let (_reader, writer) = pipe();
    refused(reserve(&writer, 0, 1), libc::ESPIPE);
    let null = File::options().write(true).open("/dev/null").unwrap();
    refused(reserve(&null, 0, 1), libc::ENODEV);
}
