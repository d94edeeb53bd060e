//! What a stranger has put under a name is not opened, and what users share on purpose is: law 12 of `ShmBackend`, for
//! objects that other users can reach.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use manycore_backends::lock::{LockError, Mode, RecordLockable, Wait};
use manycore_backends::shm::{Memory, Open, Owners, ShmError, Trust};
use manycore_backends::spawn::{Child, ChildProcess, Exit, Fork};
use manycore_backends::testing::shm::{Fresh, Subject};
use manycore_backends::testing::{TestCase, run_tests};
use manycore_backends::{Fcntl, File, LockMethod, PosixShm, ShmBackend};
use rustix::fs::{self, FileType, Gid, Uid};
use rustix::process::{geteuid, getpid, getppid, umask};
use rustix::thread::{set_thread_gid, set_thread_groups, set_thread_uid};

fn main() {
    let own: Vec<TestCase> = vec![
        (
            "an_object_in_a_strangers_open_directory_is_refused",
            an_object_in_a_strangers_open_directory_is_refused,
        ),
        ("paths_with_and_without_directories_are_one", paths_with_and_without_directories_are_one),
    ];
    run_tests(&[suite::<PosixShm>(), suite::<File>(), own].concat());
}

/// Whose objects are files somewhere.
trait Reachable: Subject + AsFd + RecordLockable {
    fn path(name: &OsStr) -> PathBuf;
}

impl Reachable for PosixShm {
    fn path(name: &OsStr) -> PathBuf {
        Path::new("/dev/shm").join(name.to_str().unwrap().trim_start_matches('/'))
    }
}

impl Reachable for File {
    fn path(name: &OsStr) -> PathBuf {
        name.into()
    }
}

fn suite<B: Reachable>() -> Vec<TestCase> {
    vec![
        ("a_strangers_object_is_refused", a_strangers_object_is_refused::<B>),
        ("what_a_stranger_creates_first_is_refused", what_a_stranger_creates_first_is_refused::<B>),
        ("users_who_say_so_share_an_object", users_who_say_so_share_an_object::<B>),
        ("what_others_may_write_to_is_refused", what_others_may_write_to_is_refused::<B>),
        ("the_umask_changes_nothing", the_umask_changes_nothing::<B>),
        ("a_second_name_is_refused", a_second_name_is_refused::<B>),
        ("planted_things_that_are_no_files_are_refused", planted_things_that_are_no_files_are_refused::<B>),
        ("a_refusal_releases_no_lock", a_refusal_releases_no_lock::<B>),
        ("nobody_wins_a_race_against_the_check", nobody_wins_a_race_against_the_check::<B>),
    ]
}

/// Users who own nothing.
const STRANGER: u32 = 12_345;
const OTHER: u32 = 23_456;

const NEW: Open = Open::CreateNew { mode: 0o600 };
const EITHER: Open = Open::Create { mode: 0o600 };
/// All ways to open what exists.
const WAYS: [Open; 3] = [Open::Existing, Open::ReadOnly, EITHER];

/// Whether this process may become other users.
fn is_root() -> bool {
    let is_root = geteuid().is_root();
    if !is_root {
        println!("  (only root can become somebody else: the rest is not tested)");
    }
    is_root
}

/// Begins a process of another user.
fn begin_as(user: u32, run: impl FnOnce() + Send + 'static) -> ChildProcess {
    let run = move || {
        set_thread_groups(&[]).unwrap();
        set_thread_gid(Gid::from_raw(user)).unwrap();
        set_thread_uid(Uid::from_raw(user)).unwrap();
        assert_eq!(geteuid().as_raw(), user);
        run();
        0
    };
    Fork.fork(&[], run).unwrap()
}

/// The same, to its end.
#[track_caller]
fn as_user(user: u32, run: impl FnOnce() + Send + 'static) {
    assert_eq!(begin_as(user, run).wait().unwrap(), Exit::Code(0));
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn mode_of<B: Reachable>(name: &OsStr) -> u32 {
    std::fs::symlink_metadata(B::path(name)).unwrap().permissions().mode() & 0o7777
}

#[track_caller]
fn foreign<B: Reachable>(result: Result<B, ShmError>, user: u32) {
    match result {
        Err(error @ ShmError::Foreign { owner, .. }) => {
            assert_eq!(owner, user);
            assert!(error.to_string().contains(&format!("Owners::User({user})")), "{error}");
        }
        other => panic!("not refused as foreign: {other:?}"),
    }
}

#[track_caller]
fn writable<B: Reachable>(result: Result<B, ShmError>, found: u32) {
    match result {
        Err(error @ ShmError::WritableByOthers { mode, .. }) => {
            assert_eq!(mode, found);
            assert!(error.to_string().contains(&format!("mode {mode:#o}")), "{error}");
        }
        other => panic!("not refused as writable by others: {other:?}"),
    }
}

#[track_caller]
fn refused_by_the_system<B: Reachable>(result: Result<B, ShmError>) {
    match result {
        Err(ShmError::Io { op: "open", source, .. }) => {
            assert_eq!(source.kind(), std::io::ErrorKind::PermissionDenied);
        }
        other => panic!("not refused by the system: {other:?}"),
    }
}

fn a_strangers_object_is_refused<B: Reachable>() {
    if !is_root() {
        return;
    }
    let name = Fresh::<B>::name();
    let object = B::open(&name, NEW).unwrap();
    object.grow(64).unwrap();
    object.chown(Some(STRANGER), Some(STRANGER)).unwrap();
    // While this process has it open, and while it has not.
    let mut object = Some(object);
    for _ in 0..2 {
        let before = descriptors();
        for how in WAYS {
            foreign(B::open(&name, how), STRANGER);
            let other = Trust::new().owners(Owners::User(OTHER)).writers(0o777);
            foreign(B::open_trusting(&name, how, other), STRANGER);
        }
        assert_eq!(descriptors(), before);
        for owners in [Owners::User(STRANGER), Owners::Anybody] {
            for how in WAYS {
                assert_eq!(
                    B::open_trusting(&name, how, Trust::new().owners(owners)).unwrap().size().unwrap(),
                    64
                );
            }
        }
        assert!(matches!(B::open(&name, NEW), Err(ShmError::AlreadyExists { .. })));
        drop(object.take());
    }
}

/// The attack itself.
fn what_a_stranger_creates_first_is_refused<B: Reachable>() {
    if !is_root() {
        return;
    }
    let name = Fresh::<B>::name();
    let plant = {
        let name = name.to_owned();
        move || {
            umask(fs::Mode::empty());
            let planted = B::open(&name, Open::CreateNew { mode: 0o666 }).unwrap();
            planted.grow(64).unwrap();
            planted.memory().store(1, 7).unwrap();
        }
    };
    as_user(STRANGER, plant);
    assert_eq!(mode_of::<B>(&name), 0o666);
    let fall_for_it = {
        let name = name.to_owned();
        move || {
            let before = descriptors();
            for how in WAYS.into_iter().chain([Open::Create { mode: 0o666 }]) {
                foreign(B::open(&name, how), STRANGER);
            }
            assert_eq!(descriptors(), before);
        }
    };
    as_user(OTHER, fall_for_it.clone());
    fall_for_it();
    let everybody = Trust::new().owners(Owners::Anybody).writers(0o666);
    assert_eq!(B::open_trusting(&name, Open::Existing, everybody).unwrap().memory().load(1), Ok(7));
}

fn users_who_say_so_share_an_object<B: Reachable>() {
    if !is_root() {
        return;
    }
    let name = Fresh::<B>::name();
    // What root makes is root's, whoever looks.
    let object = B::open(&name, NEW).unwrap();
    object.grow(64).unwrap();
    object.chmod(0o644).unwrap();
    let look = {
        let name = name.to_owned();
        move || {
            assert_eq!(B::open(&name, Open::ReadOnly).unwrap().size().unwrap(), 64);
            refused_by_the_system(B::open(&name, Open::Existing));
            refused_by_the_system(B::open(&name, EITHER));
        }
    };
    as_user(OTHER, look);
    // Shared with a group: its members say whose it is, and that they may write, and so does the owner.
    object.chown(Some(STRANGER), Some(OTHER)).unwrap();
    object.chmod(0o660).unwrap();
    let write = |user: u32, owners: Owners| {
        let name = name.to_owned();
        move || {
            let trust = Trust::new().owners(owners).writers(0o660);
            for how in WAYS {
                writable(B::open_trusting(&name, how, Trust::new().owners(owners)), 0o660);
                B::open_trusting(&name, how, trust).unwrap();
            }
            let object = B::open_trusting(&name, Open::Existing, trust).unwrap();
            object.memory().store(2, user).unwrap();
            assert!(matches!(object.chmod(0o600), Err(ShmError::Io { op: "fchmod", .. })) == (user == OTHER));
        }
    };
    as_user(OTHER, write(OTHER, Owners::User(STRANGER)));
    assert_eq!(object.memory().load(2), Ok(OTHER));
    as_user(STRANGER, write(STRANGER, Owners::Own));
    assert_eq!(object.memory().load(2), Ok(STRANGER));
    // The owner took the permission away.
    let too_late = {
        let name = name.to_owned();
        move || {
            let trust = Trust::new().owners(Owners::User(STRANGER)).writers(0o660);
            refused_by_the_system(B::open_trusting(&name, Open::Existing, trust));
        }
    };
    as_user(OTHER, too_late);
}

fn what_others_may_write_to_is_refused<B: Reachable>() {
    let name = Fresh::<B>::name();
    let mut object = Some(B::open(&name, NEW).unwrap());
    for _ in 0..2 {
        for (mode, less) in [(0o620, 0o602), (0o602, 0o620), (0o666, 0o620), (0o4662, 0o4642)] {
            std::fs::set_permissions(B::path(&name), PermissionsExt::from_mode(mode)).unwrap();
            for how in WAYS {
                writable(B::open(&name, how), mode);
                writable(B::open_trusting(&name, how, Trust::new().writers(less)), mode);
                let anybody = Trust::new().owners(Owners::Anybody);
                writable(B::open_trusting(&name, how, anybody), mode);
                B::open_trusting(&name, how, Trust::new().writers(mode)).unwrap();
            }
            writable(B::open(&name, Open::Create { mode: less }), mode);
            B::open(&name, Open::Create { mode }).unwrap();
        }
        drop(object.take());
    }
}

fn the_umask_changes_nothing<B: Reachable>() {
    let run = || {
        umask(fs::Mode::empty());
        let name = Fresh::<B>::name();
        drop(B::open(&name, EITHER).unwrap());
        assert_eq!(mode_of::<B>(&name), 0o600);
        B::open(&name, EITHER).unwrap();
        B::unlink(&name).unwrap();
        drop(B::open(&name, Open::Create { mode: 0o666 }).unwrap());
        assert_eq!(mode_of::<B>(&name), 0o666);
        writable(B::open(&name, Open::Existing), 0o666);
        B::open(&name, Open::Create { mode: 0o666 }).unwrap();
        B::unlink(&name).unwrap();
        umask(fs::Mode::from_raw_mode(0o777));
        let object = B::open(&name, EITHER).unwrap();
        assert_eq!(mode_of::<B>(&name), 0);
        object.grow(64).unwrap();
        // This process has it open.
        B::open(&name, EITHER).unwrap();
        drop(object);
        if !geteuid().is_root() {
            refused_by_the_system(B::open(&name, EITHER));
        }
    };
    let child = Fork.fork(&[], move || {
        run();
        0
    });
    assert_eq!(child.unwrap().wait().unwrap(), Exit::Code(0));
    if is_root() {
        as_user(STRANGER, run);
    }
}

fn a_second_name_is_refused<B: Reachable>() {
    let everything = Trust::new().owners(Owners::Anybody).writers(0o777);
    let (name, second) = (Fresh::<B>::name(), Fresh::<B>::name());
    let mut object = Some(B::open(&name, NEW).unwrap());
    for _ in 0..2 {
        std::fs::hard_link(B::path(&name), B::path(&second)).unwrap();
        for how in WAYS {
            for name in [&name, &second] {
                for trust in [Trust::new(), everything] {
                    match B::open_trusting(name, how, trust) {
                        Err(error @ ShmError::Linked { names: 2, .. }) => {
                            assert!(error.to_string().contains("one of 2 names"), "{error}");
                        }
                        other => panic!("not refused: {other:?}"),
                    }
                }
            }
        }
        B::unlink(&second).unwrap();
        for how in WAYS {
            B::open(&name, how).unwrap();
        }
        drop(object.take());
    }
}

fn planted_things_that_are_no_files_are_refused<B: Reachable>() {
    let name = Fresh::<B>::name();
    let path = B::path(&name);
    let refused = |what: &str| {
        let before = descriptors();
        for how in WAYS {
            let result = B::open(&name, how);
            assert!(matches!(result, Err(ShmError::NotAnObject { .. })), "{what}: {result:?}");
        }
        assert!(matches!(B::open(&name, NEW), Err(ShmError::AlreadyExists { .. })), "{what}");
        assert_eq!(descriptors(), before, "{what}");
        std::fs::remove_file(&path).or_else(|_| std::fs::remove_dir(&path)).unwrap();
    };
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("target");
    symlink(&target, &path).unwrap();
    refused("a link to nowhere");
    assert!(!target.exists());
    std::fs::write(&target, "text").unwrap();
    symlink(&target, &path).unwrap();
    refused("a link");
    assert_eq!(std::fs::read(&target).unwrap(), b"text");
    std::fs::create_dir(&path).unwrap();
    refused("a directory");
    fs::mknodat(fs::CWD, &path, FileType::Fifo, fs::Mode::from_raw_mode(0o666), 0).unwrap();
    refused("a pipe");
    drop(UnixListener::bind(&path).unwrap());
    refused("a socket");
    let null = fs::makedev(1, 3);
    match fs::mknodat(fs::CWD, &path, FileType::CharacterDevice, fs::Mode::from_raw_mode(0o666), null) {
        // Where devices do not work, opening them is refused by the system.
        Ok(()) if std::fs::File::open(&path).is_ok() => refused("a device"),
        Ok(()) => std::fs::remove_file(&path).unwrap(),
        Err(error) => println!("  (no device can be made here: {error})"),
    }
}

/// A process loses its record locks on a file when it closes any descriptor of it.
fn a_refusal_releases_no_lock<B: Reachable>() {
    let before = descriptors();
    let name = Fresh::<B>::name();
    let object = B::open(&name, NEW).unwrap();
    object.chmod(0o620).unwrap();
    let lock = Fcntl::attach(&object).unwrap();
    LockMethod::lock(&lock, &object, Mode::Write, Wait::Try).unwrap();
    for _ in 0..3 {
        WAYS.into_iter().for_each(|how| writable(B::open(&name, how), 0o620));
    }
    let look = {
        let name = name.to_owned();
        move || {
            let trust = Trust::new().writers(0o620);
            let object = B::open_trusting(&name, Open::Existing, trust).unwrap();
            let lock = Fcntl::attach(&object).unwrap();
            let result = LockMethod::lock(&lock, &object, Mode::Read, Wait::Try);
            i32::from(matches!(result, Err(LockError::Busy)))
        }
    };
    let child = Fork.fork(&[], look).unwrap();
    assert_eq!(child.wait().unwrap(), Exit::Code(1));
    LockMethod::unlock(&lock, &object).unwrap();
    drop((lock, object, child));
    assert_eq!(descriptors(), before);
}

/// A stranger who exchanges what a name leads to, again and again: whatever is opened is one's own.
fn nobody_wins_a_race_against_the_check<B: Reachable>() {
    if !is_root() {
        return;
    }
    let name = Fresh::<B>::name();
    let parent = getpid();
    let exchange = {
        let name = name.to_owned();
        // The signal for the death of the parent is lost when a process becomes another user's.
        move || {
            while getppid() == Some(parent) {
                drop(B::open(&name, Open::CreateNew { mode: 0o666 }));
                let _ = B::unlink(&name);
            }
        }
    };
    let attacker = begin_as(STRANGER, exchange);
    let (mut own, mut foreign) = (0, 0);
    for _ in 0..50_000 {
        match B::open(&name, EITHER) {
            Ok(object) => {
                own += 1;
                let user = fs::fstat(&object).unwrap().st_uid;
                if user != 0 {
                    attacker.kill(9).unwrap();
                    panic!("an object of {user}");
                }
                let _ = B::unlink(&name);
            }
            Err(ShmError::Foreign { owner: STRANGER, .. }) => foreign += 1,
            Err(error) => {
                attacker.kill(9).unwrap();
                panic!("{error:?}");
            }
        }
        if own >= 200 && foreign >= 200 {
            break;
        }
    }
    attacker.kill(9).unwrap();
    attacker.wait().unwrap();
    assert!(own >= 200 && foreign >= 200, "{own} and {foreign}");
}

fn an_object_in_a_strangers_open_directory_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let name = directory.path().join("object");
    let name = name.as_os_str();
    let set_mode =
        |mode| std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(mode)).unwrap();
    // One's own, as open as it may be.
    for mode in [0o700, 0o777, 0o1777] {
        set_mode(mode);
        WAYS.into_iter().rev().for_each(|how| drop(File::open(name, how).unwrap()));
    }
    if !is_root() {
        return;
    }
    std::os::unix::fs::chown(directory.path(), Some(STRANGER), None).unwrap();
    for how in WAYS {
        foreign(File::open(name, how), STRANGER);
        File::open_trusting(name, how, Trust::new().owners(Owners::User(STRANGER))).unwrap();
        File::open_trusting(name, how, Trust::new().owners(Owners::Anybody)).unwrap();
    }
    File::unlink(name).unwrap();
    for how in [EITHER, NEW] {
        foreign(File::open(name, how), STRANGER);
    }
    assert!(!Path::new(name).exists(), "nothing was created");
    // Not where only its owner creates files, who is trusted by whoever goes there.
    set_mode(0o755);
    File::open(name, NEW).unwrap();
    // Root's directory is as good as one's own.
    std::os::unix::fs::chown(directory.path(), Some(0), None).unwrap();
    set_mode(0o1777);
    let inside = directory.path().join("other");
    as_user(OTHER, move || drop(File::open(inside.as_os_str(), EITHER).unwrap()));
}

fn paths_with_and_without_directories_are_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("object");
    let object = File::open(path.as_os_str(), NEW).unwrap();
    object.grow(64).unwrap();
    let run = {
        let directory = directory.path().to_owned();
        move || {
            std::env::set_current_dir(&directory).unwrap();
            for name in ["object", "./object", ".//object"] {
                assert_eq!(File::open(name.as_ref(), Open::Existing).unwrap().size().unwrap(), 64);
            }
            let missing = File::open("nothing/object".as_ref(), EITHER).unwrap_err();
            assert!(matches!(missing, ShmError::NotFound { .. }), "{missing:?}");
            let file = File::open("object/object".as_ref(), EITHER).unwrap_err();
            assert!(matches!(file, ShmError::Io { op: "open", .. }), "{file:?}");
            let top = File::open("/manycore-test-nothing".as_ref(), Open::Existing).unwrap_err();
            assert!(matches!(top, ShmError::NotFound { .. }), "{top:?}");
            0
        }
    };
    assert_eq!(Fork.fork(&[], run).unwrap().wait().unwrap(), Exit::Code(0));
}
