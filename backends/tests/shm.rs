//! Every shared memory backend keeps the laws of `ShmBackend`, and what only one of them promises.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use manycore_backends::lock::{LockError, Mode, Wait};
use manycore_backends::shm::{Memory, Open, ShmError};
use manycore_backends::spawn::{Child, Exit, Fork};
use manycore_backends::testing::shm::{Fresh, Subject, all};
use manycore_backends::testing::{TestCase, run_tests};
use manycore_backends::{Fcntl, File, Heap, LockMethod, PosixShm, ShmBackend};

fn main() {
    let own: Vec<TestCase> = vec![
        ("what_is_no_regular_file_is_refused", what_is_no_regular_file_is_refused),
        ("descriptors_are_shared_and_closed", descriptors_are_shared_and_closed::<File>),
        ("descriptors_are_shared_and_closed_posix", descriptors_are_shared_and_closed::<PosixShm>),
        ("a_truncated_object_is_reported", a_truncated_object_is_reported),
        ("what_was_cut_off_reads_as_zeros", what_was_cut_off_reads_as_zeros),
        ("the_mode_is_the_one_asked_for", the_mode_is_the_one_asked_for),
        ("the_mode_and_the_owner_change", the_mode_and_the_owner_change::<File>),
        ("a_read_only_handle_keeps_the_locks_of_others", a_read_only_handle_keeps_the_locks_of_others),
        ("posix_names_with_and_without_slash_are_one", posix_names_with_and_without_slash_are_one),
        ("posix_names_have_no_directories", posix_names_have_no_directories),
        ("a_full_file_system_is_an_error", a_full_file_system_is_an_error),
    ];
    let tests = [all::<PosixShm>(), all::<File>(), all::<Heap>(), own].concat();
    run_tests(&tests);
}

const NEW: Open = Open::CreateNew { mode: 0o600 };

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Law 11.
fn what_is_no_regular_file_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("target");
    std::fs::write(&target, "text").unwrap();
    let link = directory.path().join("link");
    symlink(&target, &link).unwrap();
    let refused = |path: &Path| {
        let before = descriptors();
        for how in [Open::Existing, Open::Create { mode: 0o600 }] {
            let result = File::open(path.as_os_str(), how);
            assert!(matches!(result, Err(ShmError::NotAnObject { .. })), "{path:?}: {result:?}");
        }
        assert_eq!(descriptors(), before);
    };
    refused(directory.path());
    refused(&link);
    refused(Path::new("/dev/null"));
    assert_eq!(std::fs::read(&target).unwrap(), b"text");
}

/// Law 7.
fn descriptors_are_shared_and_closed<B: Subject>() {
    let name = Fresh::<B>::name();
    let before = descriptors();
    let first = B::open(&name, NEW).unwrap();
    let second = B::open(&name, Open::Existing).unwrap();
    let third = B::open(&name, Open::Create { mode: 0o600 }).unwrap();
    assert_eq!(descriptors(), before + 1);
    drop((first, second));
    assert_eq!(descriptors(), before + 1);
    third.grow(4096).unwrap();
    drop(third);
    assert_eq!(descriptors(), before);
}

/// Errors of `size` and `grow`.
fn a_truncated_object_is_reported() {
    let name = Fresh::<File>::name();
    let object = File::open(&name, NEW).unwrap();
    object.grow(8192).unwrap();
    std::fs::OpenOptions::new().write(true).open(&*name).unwrap().set_len(100).unwrap();
    object.intact().unwrap();
    assert!(matches!(object.size(), Err(ShmError::Truncated { known: 8192, found: 100, .. })));
    // From then on, also if nothing of it is met.
    assert!(matches!(object.intact(), Err(ShmError::Truncated { known: 8192, found: 100, .. })));
    assert!(matches!(object.grow(10_000), Err(ShmError::Truncated { .. })));
}

/// Law 9.
fn what_was_cut_off_reads_as_zeros() {
    let (name, other) = (Fresh::<File>::name(), Fresh::<File>::name());
    let (object, sound) = (File::open(&name, NEW).unwrap(), File::open(&other, NEW).unwrap());
    for object in [&object, &sound] {
        object.grow(40_960).unwrap();
        object.memory().write(0, &vec![7; 10_240]).unwrap();
    }
    std::fs::OpenOptions::new().write(true).open(&*name).unwrap().set_len(8192).unwrap();
    assert_eq!(object.memory().load(0), Ok(7));
    object.intact().unwrap();
    assert_eq!(object.memory().load(5000), Ok(0));
    assert!(matches!(object.intact(), Err(ShmError::Truncated { known: 40_960, found: 8192, .. })));
    object.memory().store(10_239, 1).unwrap();
    let mut words = vec![9; 10_240];
    object.memory().read(0, &mut words).unwrap();
    assert_eq!(words[..2048], [7; 2048]);
    assert!(words[2048..10_239].iter().all(|word| *word == 0));
    assert!(object.intact().is_err());
    assert_eq!(std::fs::metadata(&*name).unwrap().len(), 8192);
    sound.intact().unwrap();
    assert_eq!(sound.memory().load(10_239), Ok(7));
}

fn the_mode_is_the_one_asked_for() {
    let name = Fresh::<File>::name();
    File::open(&name, Open::CreateNew { mode: 0o600 }).unwrap();
    assert_eq!(std::fs::metadata(&*name).unwrap().permissions().mode() & 0o777, 0o600);
}

fn the_mode_and_the_owner_change<B: Subject>() {
    use std::os::unix::fs::MetadataExt;
    let name = Fresh::<B>::name();
    let object = B::open(&name, NEW).unwrap();
    let path = Path::new(&*name);
    object.chmod(0o440).unwrap();
    assert_eq!(std::fs::metadata(path).unwrap().mode() & 0o777, 0o440);
    if rustix::process::geteuid().is_root() {
        object.chown(Some(12_345), Some(54_321)).unwrap();
        object.chown(None, Some(321)).unwrap();
        let metadata = std::fs::metadata(path).unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (12_345, 321));
    } else {
        let refused = object.chown(Some(0), None).unwrap_err();
        assert!(matches!(refused, ShmError::Io { op: "fchown", .. }), "{refused}");
    }
}

/// A process loses its record locks on a file when it closes any descriptor of it.
fn a_read_only_handle_keeps_the_locks_of_others() {
    let name = Fresh::<File>::name();
    let writer = File::open(&name, NEW).unwrap();
    let lock = Fcntl::attach(&writer).unwrap();
    LockMethod::lock(&lock, &writer, Mode::Write, Wait::Try).unwrap();
    let before = descriptors();
    let reader = File::open(&name, Open::ReadOnly).unwrap();
    drop(File::open(&name, Open::ReadOnly).unwrap());
    assert_eq!(descriptors(), before + 1);
    drop(reader);
    // Seen by another process, to which the lock means something.
    let child = Fork
        .fork(&[], {
            let name = name.to_owned();
            move || {
                let object = File::open(&name, Open::Existing).unwrap();
                let lock = Fcntl::attach(&object).unwrap();
                let result = LockMethod::lock(&lock, &object, Mode::Read, Wait::Try);
                i32::from(matches!(result, Err(LockError::Busy)))
            }
        })
        .unwrap();
    assert_eq!(child.wait().unwrap(), Exit::Code(1));
    LockMethod::unlock(&lock, &writer).unwrap();
    drop((lock, writer, child));
    assert_eq!(descriptors(), before - 1);
}

fn posix_names_with_and_without_slash_are_one() {
    let name = Fresh::<PosixShm>::name();
    let bare = name.to_str().unwrap().strip_prefix('/').unwrap();
    let object = PosixShm::open(&name, NEW).unwrap();
    object.grow(4).unwrap();
    object.memory().store(0, 5).unwrap();
    assert_eq!(PosixShm::open(bare.as_ref(), Open::Existing).unwrap().memory().load(0), Ok(5));
}

fn posix_names_have_no_directories() {
    let error = PosixShm::open("/a/b".as_ref(), NEW).unwrap_err();
    assert!(error.to_string().contains("have no directories"), "{error}");
    assert!(matches!(error, ShmError::Name(_)));
}

/// Law 2: a growth that the system refuses is an error, and the object is as before.
fn a_full_file_system_is_an_error() {
    let name = Fresh::<PosixShm>::name();
    let object = PosixShm::open(&name, NEW).unwrap();
    object.grow(4096).unwrap();
    let system = rustix::fs::statvfs("/dev/shm").unwrap();
    if system.f_blocks == 0 {
        println!("  (this file system has no limit)");
        return;
    }
    // More than it could ever hold, so that it refuses at once, instead of filling up.
    let error = object.grow(2 * system.f_blocks * system.f_frsize).unwrap_err();
    assert!(matches!(error, ShmError::Full { .. } | ShmError::TooLarge { .. }), "{error}");
    assert_eq!(object.size().unwrap(), 4096);
    object.grow(8192).unwrap();
}
