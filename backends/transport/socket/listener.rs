//! [`SocketListener`]: where connections over sockets are asked for.
//!
//! | address | who can connect | left behind by a listener that was killed |
//! |---|---|---|
//! | a fresh one: a socket in a directory of its own, mode 0700 | processes of the same user, checked by the kernel's word for who is there | the directory |
//! | a path | the same | the socket and its lock file, which the next listener at the path takes over |
//! | a port of the loopback device | everyone on the machine: for programs that must | nothing |
//!
//! A listener at a path holds a lock (`flock`) on a file beside it, with `.lock` at the end of its name, as long as it
//! lives. Who has the lock knows that a socket which is there is of a dead listener, and may remove it: of two that begin
//! at once, one gets the lock.
//!
//! This module does not know what is sent.

use std::ffi::OsString;
use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::marker::PhantomData;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::{Peer, SocketEnd, deadline_after, failed, wait_for};
use crate::generation::Generation;
use crate::transport::{Limits, Listener, Message, TransportError};

/// Where a [`SocketListener`] is found.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SocketAddress {
    /// The path of a socket.
    Path(Arc<Path>),
    /// A port of the loopback device.
    Loopback(SocketAddr),
}

/// Where connections over sockets are asked for; the ends that are accepted send `S` and receive `R`.
///
/// ```
/// # use manycore_backends::transport::{BoxError, Endpoint, Limits, Listener, Message, Socket, SocketListener, Transport};
/// # #[derive(Debug)]
/// # struct Text(String);
/// # impl Message for Text {
/// #     fn encode(&self, out: &mut Vec<u8>) -> Result<(), BoxError> { out.extend(self.0.bytes()); Ok(()) }
/// #     fn decode(bytes: &[u8]) -> Result<Text, BoxError> { Ok(Text(String::from_utf8(bytes.to_vec())?)) }
/// # }
/// let listener = Socket::listen::<Text, Text>(Limits::default())?;
/// let near = Socket::connect::<Text, Text>(&listener.address(), Limits::default(), None)?;
/// near.send(Text("hello".into()), None)?;
/// let far = listener.accept(None)?;
/// assert_eq!(far.receive(None)?.0, "hello");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct SocketListener<S, R> {
    listening: Listening,
    limits: Limits,
    messages: PhantomData<fn(S) -> R>,
}

enum Listening {
    Path(UnixListener, OwnPath),
    Loopback(TcpListener, SocketAddr),
}

impl<S: Message, R: Message> SocketListener<S, R> {
    /// Listens at a fresh path in a directory that only this user can enter.
    ///
    /// # Errors
    /// [`TransportError::Io`] if the directory or the socket cannot be made.
    pub fn fresh(limits: Limits) -> Result<SocketListener<S, R>, TransportError> {
        let own = OwnPath::fresh()?;
        SocketListener::at(own, limits)
    }

    /// Listens at the path. A socket that a dead listener has left there is removed; its directory must be there, and
    /// should be one that only this user can enter.
    ///
    /// # Errors
    /// [`TransportError::Io`] with `EADDRINUSE` if somebody listens there, or something else than a socket of this user is
    /// there; with [`io::ErrorKind::InvalidInput`] if the path is longer than the system takes (107 bytes).
    pub fn bind(path: impl AsRef<Path>, limits: Limits) -> Result<SocketListener<S, R>, TransportError> {
        let own = OwnPath::locked(path.as_ref())?;
        SocketListener::at(own, limits)
    }

    /// Listens at a port of the loopback device; port 0 is one that is free. Every user of the machine can connect.
    ///
    /// # Errors
    /// [`TransportError::Io`] with [`io::ErrorKind::InvalidInput`] if it is not an address of the loopback device, with
    /// `EADDRINUSE` if somebody listens there.
    pub fn bind_loopback(
        address: SocketAddr,
        limits: Limits,
    ) -> Result<SocketListener<S, R>, TransportError> {
        check_loopback(address)?;
        let listener = TcpListener::bind(address).map_err(bind_failed)?;
        listener.set_nonblocking(true).map_err(bind_failed)?;
        let address = listener.local_addr().map_err(bind_failed)?;
        Ok(SocketListener {
            listening: Listening::Loopback(listener, address),
            limits,
            messages: PhantomData,
        })
    }

    fn at(own: OwnPath, limits: Limits) -> Result<SocketListener<S, R>, TransportError> {
        let listener = UnixListener::bind(&own.path).map_err(bind_failed)?;
        listener.set_nonblocking(true).map_err(bind_failed)?;
        Ok(SocketListener { listening: Listening::Path(listener, own), limits, messages: PhantomData })
    }

    /// The next connection of somebody who may connect.
    fn next(&self) -> Result<Option<OwnedFd>, TransportError> {
        loop {
            let accepted = match &self.listening {
                Listening::Path(listener, _) => listener.accept().map(|(stream, _)| OwnedFd::from(stream)),
                Listening::Loopback(listener, _) => {
                    listener.accept().map(|(stream, _)| OwnedFd::from(stream))
                }
            };
            match accepted {
                Ok(fd) if self.may_connect(&fd)? => return Ok(Some(fd)),
                // Dropped.
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted
                    ) => {}
                Err(source) => return Err(TransportError::Io { op: "accept", source }),
            }
        }
    }

    fn may_connect(&self, fd: &OwnedFd) -> Result<bool, TransportError> {
        match &self.listening {
            Listening::Path(..) => Ok(stranger(fd)?.is_none()),
            Listening::Loopback(..) => {
                sockopt::set_tcp_nodelay(fd, true).map_err(|errno| failed("setsockopt", errno))?;
                Ok(true)
            }
        }
    }
}

impl<S: Message, R: Message> Listener<S, R> for SocketListener<S, R> {
    type End = SocketEnd<S, R>;
    type Address = SocketAddress;

    fn address(&self) -> SocketAddress {
        match &self.listening {
            Listening::Path(_, own) => SocketAddress::Path(Arc::from(own.path.as_path())),
            Listening::Loopback(_, address) => SocketAddress::Loopback(*address),
        }
    }

    fn accept(&self, timeout: Option<Duration>) -> Result<SocketEnd<S, R>, TransportError> {
        let deadline = deadline_after(timeout);
        loop {
            if let Some(end) = self.try_accept()? {
                return Ok(end);
            }
            if !wait_for(self.as_fd(), PollFlags::IN, deadline)? {
                return Err(TransportError::TimedOut);
            }
        }
    }

    fn try_accept(&self) -> Result<Option<SocketEnd<S, R>>, TransportError> {
        self.next()?.map(|fd| SocketEnd::from_fd(fd, self.limits)).transpose()
    }

    fn descriptor(&self) -> Result<BorrowedFd<'_>, TransportError> {
        Ok(self.as_fd())
    }
}

impl<S, R> AsFd for SocketListener<S, R> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.listening {
            Listening::Path(listener, _) => listener.as_fd(),
            Listening::Loopback(listener, _) => listener.as_fd(),
        }
    }
}

impl<S, R> fmt::Debug for SocketListener<S, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.listening {
            Listening::Path(_, own) => write!(f, "SocketListener({})", own.path.display()),
            Listening::Loopback(_, address) => write!(f, "SocketListener({address})"),
        }
    }
}

/// A connected socket, non-blocking.
pub(super) fn connect_to(
    address: &SocketAddress,
    timeout: Option<Duration>,
) -> Result<OwnedFd, TransportError> {
    let family = match address {
        SocketAddress::Path(_) => AddressFamily::UNIX,
        SocketAddress::Loopback(SocketAddr::V4(_)) => AddressFamily::INET,
        SocketAddress::Loopback(SocketAddr::V6(_)) => AddressFamily::INET6,
    };
    let fd = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(|errno| failed("socket", errno))?;
    // A local socket that does not block cannot wait for a place: it is told to come again.
    let non_blocking = timeout == Some(Duration::ZERO);
    rustix::io::ioctl_fionbio(&fd, non_blocking).map_err(|errno| failed("ioctl", errno))?;
    // What does not fit is as good as for ever.
    if !non_blocking && timeout.is_some() && sockopt::set_socket_timeout(&fd, Timeout::Send, timeout).is_err()
    {
        sockopt::set_socket_timeout(&fd, Timeout::Send, None).map_err(|errno| failed("setsockopt", errno))?;
    }
    let connected = rustix::io::retry_on_intr(|| match address {
        SocketAddress::Path(path) => connect(&fd, &SocketAddrUnix::new(&**path)?),
        SocketAddress::Loopback(address) => connect(&fd, address),
    });
    match connected {
        Ok(()) => {}
        Err(Errno::CONNREFUSED | Errno::NOENT) => return Err(TransportError::Refused),
        Err(Errno::AGAIN | Errno::INPROGRESS | Errno::TIMEDOUT) => return Err(TransportError::TimedOut),
        Err(errno) => return Err(failed("connect", errno)),
    }
    match address {
        SocketAddress::Path(_) => match stranger(&fd)? {
            Some(user) if rustix::process::geteuid().as_raw() != ROOT => Err(TransportError::Stranger(user)),
            _ => Ok(fd),
        },
        SocketAddress::Loopback(_) => {
            sockopt::set_tcp_nodelay(&fd, true).map_err(|errno| failed("setsockopt", errno))?;
            Ok(fd)
        }
    }
}

/// The user of the other end, if it is neither this one nor the superuser.
fn stranger(fd: &OwnedFd) -> Result<Option<u32>, TransportError> {
    let user = Peer::of(fd.as_fd())?.user;
    let may = user == rustix::process::geteuid().as_raw() || user == ROOT;
    Ok((!may).then_some(user))
}

/// The superuser.
const ROOT: u32 = 0;

pub(super) fn check_loopback(address: SocketAddr) -> Result<(), TransportError> {
    if address.ip().is_loopback() {
        return Ok(());
    }
    let source = io::Error::new(io::ErrorKind::InvalidInput, "not an address of the loopback device");
    Err(TransportError::Io { op: "bind", source })
}

fn bind_failed(source: io::Error) -> TransportError {
    TransportError::Io { op: "bind", source }
}

/// A path that a listener may put its socket at, and that is removed with it.
struct OwnPath {
    path: PathBuf,
    hold: Hold,
    generation: Generation,
}

/// What makes the path its own.
enum Hold {
    /// The directory is.
    Directory(PathBuf),
    /// The lock file, locked.
    Lock(PathBuf, #[allow(dead_code, reason = "the lock is held as long as it is open")] File),
}

impl OwnPath {
    fn fresh() -> Result<OwnPath, TransportError> {
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let places = runtime.into_iter().chain([std::env::temp_dir(), PathBuf::from("/tmp")]);
        let mut error = io::Error::from(io::ErrorKind::NotFound);
        for place in places {
            match fresh_directory(&place) {
                Ok(directory) => {
                    return Ok(OwnPath {
                        path: directory.join("socket"),
                        hold: Hold::Directory(directory),
                        generation: Generation::current(),
                    });
                }
                Err(failed) => error = failed,
            }
        }
        Err(TransportError::Io { op: "mkdir", source: error })
    }

    fn locked(path: &Path) -> Result<OwnPath, TransportError> {
        check_length(path).map_err(bind_failed)?;
        let mut name = OsString::from(path);
        name.push(".lock");
        let name = PathBuf::from(name);
        let file = lock_file(&name).map_err(bind_failed)?;
        if let Err(error) = clear(path) {
            let _ = std::fs::remove_file(&name);
            return Err(bind_failed(error));
        }
        Ok(OwnPath { path: path.to_owned(), hold: Hold::Lock(name, file), generation: Generation::current() })
    }
}

/// Removes a socket of this user: a dead listener's, since the caller has the lock.
fn clear(path: &Path) -> io::Result<()> {
    let found = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    if !found.file_type().is_socket() || found.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::from_raw_os_error(libc::EADDRINUSE));
    }
    std::fs::remove_file(path)
}

impl Drop for OwnPath {
    fn drop(&mut self) {
        // In a forked child it is still the parent's.
        if !self.generation.is_current() {
            return;
        }
        let _ = std::fs::remove_file(&self.path);
        let _ = match &self.hold {
            Hold::Directory(directory) => std::fs::remove_dir(directory),
            Hold::Lock(name, _) => std::fs::remove_file(name),
        };
    }
}

/// A directory of this user alone, with room for the name of a socket.
fn fresh_directory(place: &Path) -> io::Result<PathBuf> {
    for _ in 0..16 {
        let mut random = [0; 8];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        let directory = place.join(format!("manycore-{:016x}", u64::from_ne_bytes(random)));
        check_length(&directory.join("socket"))?;
        match DirBuilder::new().mode(0o700).create(&directory) {
            Ok(()) => return Ok(directory),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::from(io::ErrorKind::AlreadyExists))
}

fn check_length(path: &Path) -> io::Result<()> {
    match SocketAddrUnix::new(path) {
        Ok(_) => Ok(()),
        Err(_) => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{} is no name of a socket: longer than 107 bytes, or with a zero byte", path.display()),
        )),
    }
}

/// The lock file, made if it is not there, and locked.
fn lock_file(name: &Path) -> io::Result<File> {
    loop {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.custom_flags(libc::O_NOFOLLOW).open(name)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::AGAIN) => return Err(io::Error::from_raw_os_error(libc::EADDRINUSE)),
            Err(errno) => return Err(errno.into()),
        }
        // It may have been removed, by who had the lock before, after it was opened here.
        let (held, there) = (file.metadata()?, std::fs::symlink_metadata(name));
        if there.is_ok_and(|there| (there.dev(), there.ino()) == (held.dev(), held.ino())) {
            return Ok(file);
        }
    }
}
