//! A listener over sockets lets nobody in who should not be, takes over what a dead one has left, and leaves nothing
//! behind; a peer that is killed is the end of file.
//!
//! A program without the test harness: the harness runs tests in threads, and `Fork` refuses those.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use manycore_backends::spawn::{Child, Exit, Fork};
use manycore_backends::testing::run_tests;
use manycore_backends::testing::spawn::{in_a_unit, open_descriptors};
use manycore_backends::testing::transport::{Note, Parcel};
use manycore_backends::transport::{
    Endpoint, Limits, Listener, Socket, SocketAddress, SocketEnd, SocketListener, Transport, TransportError,
};
use rustix::pipe::{PipeFlags, pipe_with};

type NoteListener = SocketListener<Note, Note>;
type End = SocketEnd<Note, Note>;

fn main() -> ExitCode {
    let mut tests: Vec<(&'static str, fn())> = Vec::new();
    macro_rules! list {
        ($($name:ident)*) => { $(tests.push((stringify!($name), $name as fn()));)* };
    }
    list! {
        fresh_listener_is_private_and_leaves_nothing
        path_is_taken_over_from_a_dead_listener
        path_of_a_living_listener_is_in_use
        what_is_no_socket_is_left_alone
        names_that_are_too_long_are_refused
        peers_know_who_is_there
        loopback_works_and_nothing_else_of_the_network
        strangers_are_not_let_in
        listener_in_a_forked_child_leaves_the_parents_alone
        full_house_is_waited_for
        killed_client_is_the_end_for_the_server
        killed_server_is_the_end_for_its_clients
        garbage_from_a_raw_client_ends_its_link_alone
        failing_calls_leave_no_descriptor
        descriptors_without_a_free_number_are_told
        descriptors_do_not_travel_over_the_network
    }
    run_tests(&tests);
    ExitCode::SUCCESS
}

fn limits() -> Limits {
    Limits::default()
}

fn note(text: &str) -> Note {
    Note(text.as_bytes().to_vec())
}

fn connect(address: &SocketAddress) -> Result<End, TransportError> {
    Socket::connect::<Note, Note>(address, limits(), None)
}

fn path_of(listener: &NoteListener) -> PathBuf {
    match listener.address() {
        SocketAddress::Path(path) => path.to_path_buf(),
        address => panic!("{address:?}"),
    }
}

/// A message there and back.
fn check(listener: &NoteListener) {
    let near = connect(&listener.address()).expect("somebody listens");
    let far = listener.accept(None).expect("somebody waits");
    near.send(note("there"), None).expect("there is room");
    assert_eq!(far.receive(None).expect("it was sent"), note("there"));
    far.send(note("back"), None).expect("there is room");
    assert_eq!(near.receive(None).expect("it was sent"), note("back"));
}

fn errno_of(error: &TransportError) -> Option<i32> {
    match error {
        TransportError::Io { source, .. } => source.raw_os_error(),
        _ => None,
    }
}

fn fresh_listener_is_private_and_leaves_nothing() {
    let before = open_descriptors();
    let listener = NoteListener::fresh(limits()).expect("there is a place for temporary files");
    let path = path_of(&listener);
    let directory = path.parent().expect("it is in a directory").to_owned();
    let metadata = fs::metadata(&directory).expect("it is there");
    assert_eq!(metadata.permissions().mode() & 0o777, 0o700);
    assert_eq!(metadata.uid(), rustix::process::geteuid().as_raw());
    let other = NoteListener::fresh(limits()).expect("there is room for two");
    assert_ne!(path_of(&other), path);
    check(&listener);
    check(&other);
    drop((listener, other));
    assert!(!directory.exists());
    assert_eq!(open_descriptors(), before);
}

/// What is there of a path, its lock and its directory.
fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("it is there");
    let mut names: Vec<_> = entries
        .map(|entry| entry.expect("it can be read").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn path_is_taken_over_from_a_dead_listener() {
    let directory = tempfile::tempdir().expect("there is a place for temporary files");
    let path = directory.path().join("here");
    // Killed, with its socket and lock file there.
    let victim = path.clone();
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe can be made");
    let writer = Arc::new(writer);
    let given = writer.clone();
    let child = Fork.fork(&[writer.as_fd()], move || {
        let listener = NoteListener::bind(victim, limits()).expect("nobody listens there");
        rustix::io::write(&given, b"x").expect("somebody reads");
        listener.accept(None).map_or(1, |_| 0)
    });
    let child = child.expect("the process has one thread");
    assert_eq!(rustix::io::read(&reader, &mut [0; 1]), Ok(1));
    let error = NoteListener::bind(&path, limits()).expect_err("somebody listens there");
    assert_eq!(errno_of(&error), Some(libc::EADDRINUSE));
    child.kill(libc::SIGKILL).expect("the child is ours");
    child.wait().expect("the child is ours");
    assert_eq!(names(directory.path()), ["here", "here.lock"]);
    let refused = connect(&SocketAddress::Path(Arc::from(path.as_path()))).expect_err("nobody listens");
    assert!(matches!(refused, TransportError::Refused), "{refused}");

    let listener = NoteListener::bind(&path, limits()).expect("the listener is dead");
    check(&listener);
    drop(listener);
    assert_eq!(names(directory.path()), [""; 0]);
    // One that did not know of the lock.
    drop(UnixListener::bind(&path).expect("the path is free"));
    assert_eq!(names(directory.path()), ["here"]);
    check(&NoteListener::bind(&path, limits()).expect("the listener is dead"));
    assert_eq!(names(directory.path()), [""; 0]);
}

fn path_of_a_living_listener_is_in_use() {
    let directory = tempfile::tempdir().expect("there is a place for temporary files");
    let path = directory.path().join("here");
    let listener = NoteListener::bind(&path, limits()).expect("nobody listens there");
    for _ in 0..3 {
        let error = NoteListener::bind(&path, limits()).expect_err("somebody listens there");
        assert_eq!(errno_of(&error), Some(libc::EADDRINUSE));
    }
    check(&listener);
    assert_eq!(names(directory.path()), ["here", "here.lock"]);
}

fn what_is_no_socket_is_left_alone() {
    let directory = tempfile::tempdir().expect("there is a place for temporary files");
    let path = directory.path().join("here");
    fs::write(&path, "precious").expect("it can be written");
    let error = NoteListener::bind(&path, limits()).expect_err("something is there");
    assert_eq!(errno_of(&error), Some(libc::EADDRINUSE));
    assert_eq!(fs::read(&path).expect("it is there"), b"precious");
    assert_eq!(names(directory.path()), ["here"]);
    // A link to a socket elsewhere is not followed to remove it.
    fs::remove_file(&path).expect("it is there");
    let elsewhere = directory.path().join("elsewhere");
    let _other = UnixListener::bind(&elsewhere).expect("the path is free");
    std::os::unix::fs::symlink(&elsewhere, &path).expect("the path is free");
    let error = NoteListener::bind(&path, limits()).expect_err("something is there");
    assert_eq!(errno_of(&error), Some(libc::EADDRINUSE));
    assert_eq!(names(directory.path()), ["elsewhere", "here"]);
    // Nor is a link in the place of the lock.
    fs::remove_file(&path).expect("it is there");
    let target = directory.path().join("target");
    std::os::unix::fs::symlink(&target, directory.path().join("here.lock")).expect("the path is free");
    let error = NoteListener::bind(&path, limits()).expect_err("somebody plays tricks");
    assert_eq!(errno_of(&error), Some(libc::ELOOP));
    assert!(!target.exists());
}

fn names_that_are_too_long_are_refused() {
    let directory = tempfile::tempdir().expect("there is a place for temporary files");
    let path = directory.path().join("x".repeat(108));
    let error = NoteListener::bind(&path, limits()).expect_err("it is too long");
    assert!(error.to_string().contains("107 bytes"), "{error}");
    assert_eq!(names(directory.path()), [""; 0]);
    let error = connect(&SocketAddress::Path(Arc::from(path.as_path()))).expect_err("it is too long");
    assert_eq!(errno_of(&error), Some(libc::ENAMETOOLONG), "{error}");
    let missing = directory.path().join("nowhere").join("here");
    let error = NoteListener::bind(&missing, limits()).expect_err("there is no such directory");
    assert_eq!(errno_of(&error), Some(libc::ENOENT));
}

fn peers_know_who_is_there() {
    let listener = NoteListener::fresh(limits()).expect("there is a place for temporary files");
    let address = listener.address();
    let server = std::process::id();
    let client = Fork.fork(&[], move || {
        let end = connect(&address).expect("somebody listens");
        let known = end.peer().is_ok_and(|peer| peer.process == server);
        let _ = end.receive(None);
        i32::from(!known)
    });
    let client = client.expect("the process has one thread");
    let end = listener.accept(None).expect("somebody waits");
    let peer = end.peer().expect("the kernel knows");
    let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    assert_eq!((peer.process, peer.user, peer.group), (client.id(), own.0, own.1));
    drop(end);
    assert_eq!(client.wait().expect("the child is ours"), Exit::Code(0));
    let loopback = NoteListener::bind_loopback(SocketAddr::from(([127, 0, 0, 1], 0)), limits());
    let loopback = loopback.expect("there is a loopback device");
    let near = connect(&loopback.address()).expect("somebody listens");
    assert_eq!(errno_of(&near.peer().expect_err("nobody knows")), Some(libc::ENOTCONN));
}

fn loopback_works_and_nothing_else_of_the_network() {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let listener = NoteListener::bind_loopback(any, limits()).expect("there is a loopback device");
    let SocketAddress::Loopback(address) = listener.address() else { panic!("{listener:?}") };
    assert_ne!(address.port(), 0);
    check(&listener);
    let error = NoteListener::bind_loopback(address, limits()).expect_err("somebody listens there");
    assert_eq!(errno_of(&error), Some(libc::EADDRINUSE));
    drop(listener);
    let refused = connect(&SocketAddress::Loopback(address)).expect_err("nobody listens");
    assert!(matches!(refused, TransportError::Refused), "{refused}");
    for elsewhere in [SocketAddr::from(([0, 0, 0, 0], 0)), SocketAddr::from(([192, 0, 2, 1], 80))] {
        let error = NoteListener::bind_loopback(elsewhere, limits()).expect_err("it is no loopback device");
        assert!(error.to_string().contains("loopback"), "{error}");
        let error = connect(&SocketAddress::Loopback(elsewhere)).expect_err("it is no loopback device");
        assert!(error.to_string().contains("loopback"), "{error}");
    }
}

/// Needs the right to be somebody else.
fn strangers_are_not_let_in() {
    const NOBODY: u32 = 65_534;
    if !rustix::process::geteuid().is_root() {
        return;
    }
    in_a_unit(|| {
        use manycore_backends::posix::process::set_real_and_effective_user;
        // In a directory that everybody can enter, which is no good choice.
        let directory = tempfile::tempdir().expect("there is a place for temporary files");
        let everybody = fs::Permissions::from_mode(0o777);
        fs::set_permissions(directory.path(), everybody.clone()).expect("it is ours");
        let path = directory.path().join("here");
        let address = SocketAddress::Path(Arc::from(path.as_path()));

        // The listener is somebody's who is not root, the client another's.
        let (ready, tell) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe can be made");
        let tell = Arc::new(tell);
        let given = tell.clone();
        let (of_server, everybody) = (path.clone(), everybody.clone());
        let server = Fork.fork(&[tell.as_fd()], move || {
            set_real_and_effective_user(Some(NOBODY), Some(NOBODY)).expect("root may");
            let listener = NoteListener::bind(&of_server, limits()).expect("everybody may write there");
            fs::set_permissions(&of_server, everybody).expect("it is ours");
            rustix::io::write(&given, b"x").expect("somebody reads");
            // The stranger is passed over; the superuser is let in.
            let end = listener.accept(None).expect("somebody waits");
            i32::from(end.receive(None).expect("it was sent") != note("root"))
        });
        let server = server.expect("the process has one thread");
        assert_eq!(rustix::io::read(&ready, &mut [0; 1]), Ok(1));
        let of_stranger = address.clone();
        let stranger = Fork.fork(&[], move || {
            set_real_and_effective_user(Some(NOBODY - 1), Some(NOBODY - 1)).expect("root may");
            // It does not want to talk to a stranger, either.
            let error = connect(&of_stranger).expect_err("the listener is a stranger");
            i32::from(!matches!(error, TransportError::Stranger(NOBODY)))
        });
        let stranger = stranger.expect("the process has one thread");
        assert_eq!(stranger.wait().expect("the child is ours"), Exit::Code(0));
        // One that does not care is not let in: it reads the end.
        let of_raw = path.clone();
        let raw = Fork.fork(&[], move || {
            set_real_and_effective_user(Some(NOBODY - 1), Some(NOBODY - 1)).expect("root may");
            let mut raw = UnixStream::connect(of_raw).expect("it may enter the directory");
            let _ = raw.write_all(&[3, 0, 0, 0, b'r', b'a', b'w']);
            i32::from(!matches!(std::io::Read::read(&mut raw, &mut [0]), Ok(0) | Err(_)))
        });
        let raw = raw.expect("the process has one thread");
        assert_eq!(raw.wait().expect("the child is ours"), Exit::Code(0));
        let mut root = UnixStream::connect(&path).expect("somebody listens");
        root.write_all(&[4, 0, 0, 0, b'r', b'o', b'o', b't']).expect("there is room");
        assert_eq!(server.wait().expect("the child is ours"), Exit::Code(0));
        let _ = fs::remove_file(&path);
        let _ = fs::remove_file(directory.path().join("here.lock"));
    });
}

fn listener_in_a_forked_child_leaves_the_parents_alone() {
    let listener = NoteListener::fresh(limits()).expect("there is a place for temporary files");
    let path = path_of(&listener);
    let carried = Arc::new(Mutex::new(Some(listener)));
    let copy = carried.clone();
    let fd = carried.lock().expect("nobody panics").as_ref().expect("it is there").as_fd().as_raw_fd();
    // SAFETY: the listener lives until the end of this function.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    // The unit is given the listener's own descriptor, so that it may drop it.
    let child = Fork.fork(&[fd], move || {
        drop(copy.lock().expect("nobody panics").take());
        0
    });
    let exit = child.expect("the process has one thread").wait().expect("the child is ours");
    assert_eq!(exit, Exit::Code(0));
    assert!(path.exists(), "it is the parent's");
    check(carried.lock().expect("nobody panics").as_ref().expect("it is there"));
}

fn full_house_is_waited_for() {
    let listener = NoteListener::fresh(limits()).expect("there is a place for temporary files");
    let address = listener.address();
    let now = Some(Duration::ZERO);
    let mut waiting = Vec::new();
    let error = loop {
        match Socket::connect::<Note, Note>(&address, limits(), now) {
            Ok(end) => waiting.push(end),
            Err(error) => break error,
        }
        assert!(waiting.len() < 100_000, "there is no end of places");
    };
    assert!(matches!(error, TransportError::TimedOut), "{error}");
    let start = std::time::Instant::now();
    let timeout = Duration::from_millis(20);
    let error =
        Socket::connect::<Note, Note>(&address, limits(), Some(timeout)).expect_err("there is no place");
    assert!(matches!(error, TransportError::TimedOut), "{error}");
    assert!(start.elapsed() >= timeout / 2, "the system counts in ticks");
    listener.accept(None).expect("somebody waits");
    for timeout in [now, Some(Duration::MAX)] {
        let _end = Socket::connect::<Note, Note>(&address, limits(), timeout).expect("there is a place");
        listener.accept(None).expect("somebody waits");
    }
}

fn killed_client_is_the_end_for_the_server() {
    let listener = NoteListener::fresh(limits()).expect("there is a place for temporary files");
    for complete in [true, false] {
        let address = listener.address();
        let (ready, tell) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe can be made");
        let tell = Arc::new(tell);
        let given = tell.clone();
        let client = Fork.fork(&[tell.as_fd()], move || {
            let end = connect(&address).expect("somebody listens");
            end.send(note("first"), None).expect("there is room");
            if !complete {
                // More than fits on the way: it is in the middle of it when it is killed.
                let _ = end.try_send(Note(vec![7; 8 << 20]));
                assert!(!end.is_flushed());
            }
            rustix::io::write(&given, b"x").expect("somebody reads");
            let _ = end.receive(None);
            1
        });
        let client = client.expect("the process has one thread");
        let end = listener.accept(None).expect("somebody waits");
        assert_eq!(rustix::io::read(&ready, &mut [0; 1]), Ok(1));
        client.kill(libc::SIGKILL).expect("the child is ours");
        client.wait().expect("the child is ours");
        assert_eq!(end.receive(None).expect("it was sent"), note("first"));
        let result = end.receive(None);
        assert!(matches!(result, Err(TransportError::Closed)), "{result:?}");
        let result = end.send(note("hello?"), None);
        assert!(matches!(result, Err(TransportError::Closed)), "{result:?}");
    }
}

fn killed_server_is_the_end_for_its_clients() {
    let directory = tempfile::tempdir().expect("there is a place for temporary files");
    let path = directory.path().join("here");
    let (ready, tell) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe can be made");
    let tell = Arc::new(tell);
    let (given, of_server) = (tell.clone(), path.clone());
    let server = Fork.fork(&[tell.as_fd()], move || {
        let listener = NoteListener::bind(of_server, limits()).expect("nobody listens there");
        rustix::io::write(&given, b"x").expect("somebody reads");
        let end = listener.accept(None).expect("somebody waits");
        end.send(note("welcome"), None).expect("there is room");
        rustix::io::write(&given, b"x").expect("somebody reads");
        let _ = end.receive(None);
        1
    });
    let server = server.expect("the process has one thread");
    assert_eq!(rustix::io::read(&ready, &mut [0; 1]), Ok(1));
    let address = SocketAddress::Path(Arc::from(path.as_path()));
    let accepted = connect(&address).expect("somebody listens");
    let waiting = connect(&address).expect("somebody listens");
    assert_eq!(rustix::io::read(&ready, &mut [0; 1]), Ok(1));
    server.kill(libc::SIGKILL).expect("the child is ours");
    server.wait().expect("the child is ours");
    assert_eq!(accepted.receive(None).expect("it was sent"), note("welcome"));
    for end in [accepted, waiting] {
        let result = end.receive(None);
        assert!(matches!(result, Err(TransportError::Closed)), "{result:?}");
    }
}

fn garbage_from_a_raw_client_ends_its_link_alone() {
    let listener = NoteListener::fresh(limits()).expect("there is a place for temporary files");
    let mut raw = UnixStream::connect(path_of(&listener)).expect("somebody listens");
    raw.write_all(&[0xff; 64]).expect("there is room");
    let end = listener.accept(None).expect("somebody waits");
    let result = end.receive(None);
    assert!(matches!(result, Err(TransportError::TooBig { .. })), "{result:?}");
    let result = end.receive(None);
    assert!(matches!(result, Err(TransportError::Broken)), "{result:?}");
    check(&listener);
}

fn failing_calls_leave_no_descriptor() {
    let directory = tempfile::tempdir().expect("there is a place for temporary files");
    let before = open_descriptors();
    let path = directory.path().join("here");
    fs::write(&path, "").expect("it can be written");
    for _ in 0..10 {
        NoteListener::bind(&path, limits()).expect_err("something is there");
        connect(&SocketAddress::Path(Arc::from(path.as_path()))).expect_err("nobody listens");
        connect(&SocketAddress::Path(Arc::from(Path::new("/nowhere/at/all")))).expect_err("nobody listens");
    }
    assert_eq!(open_descriptors(), before);
}

fn descriptors_without_a_free_number_are_told() {
    in_a_unit(|| {
        let (near, far): (End, End) = Socket::pair(limits()).expect("pair");
        let (_reader, writer) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe can be made");
        near.send_with(note("lost"), &[writer.as_fd(), writer.as_fd()], None).expect("there is room");
        near.send_with(note("found"), &[writer.as_fd()], None).expect("there is room");
        let before = open_descriptors();
        let lowest = |count: u64| {
            use manycore_backends::posix::process::set_open_files_max;
            set_open_files_max(Some(count)).expect("it can be lowered, and raised again");
        };
        // No number is left for two.
        let open = u64::try_from(before.len()).expect("there are few");
        assert_eq!(
            before.last().map(|last| u64::from(last.unsigned_abs()) + 1),
            Some(open),
            "there are no gaps"
        );
        lowest(open + 1);
        let error = far.receive_with(None).expect_err("there is one number for two");
        lowest(open + 10);
        assert_eq!(errno_of(&error), Some(libc::EMFILE));
        assert_eq!(open_descriptors(), before);
        let (message, descriptors) = far.receive_with(None).expect("the next one is not lost");
        assert_eq!((message, descriptors.len()), (note("found"), 1));
        drop(descriptors);

        // A message that wants them is told, and is not lost.
        let (near, far) = Socket::pair::<Parcel, Parcel>(limits()).expect("pair");
        near.send(
            Parcel::new(note("lost"), vec![writer.try_clone().expect("a number is free"), writer]),
            None,
        )
        .expect("there is room");
        // All below are open.
        lowest(3);
        let parcel = far.receive(None).expect("it is there");
        lowest(open + 10);
        assert_eq!((parcel.note, parcel.descriptors.len()), (note("lost"), 0));
        assert_eq!(parcel.lost.and_then(|error| error.raw_os_error()), Some(libc::EMFILE));
    });
}

fn descriptors_do_not_travel_over_the_network() {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let listener = NoteListener::bind_loopback(any, limits()).expect("there is a loopback device");
    let near = connect(&listener.address()).expect("somebody listens");
    let far = listener.accept(None).expect("somebody waits");
    let error = near.send_with(note("with"), &[listener.as_fd()], None).expect_err("they cannot");
    assert_eq!(errno_of(&error), Some(libc::EINVAL), "{error}");
    near.send(note("without"), None).expect("the link is as it was");
    assert_eq!(far.receive(None).expect("it was sent"), note("without"));
}
