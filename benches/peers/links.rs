//! Ways to send blocks of bytes to another process, each made by a name.

use std::hint::spin_loop;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicU32, Ordering};

use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::*;
use ipc_channel::ipc::{IpcBytesReceiver, IpcBytesSender, IpcOneShotServer, IpcSender, bytes_channel};
use manycore::transport::{
    BoxError, Endpoint, Limits, Listener, Message, Socket, SocketAddress, SocketEnd, SocketListener,
    Transport,
};

pub(crate) trait Link: Sized {
    /// What one process holds until the other one has come.
    type Meeting;
    fn meet() -> (Self::Meeting, String);
    /// Blocks have at most `size` bytes.
    fn accept(meeting: Self::Meeting, size: usize) -> Self;
    fn connect(name: &str, size: usize) -> Self;
    fn send(&mut self, size: usize);
    fn receive(&mut self, size: usize);
}

/// A name that nobody else has.
fn fresh_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("manycore-peers-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

fn check(bytes: &[u8], size: usize) {
    assert_eq!((bytes.len(), bytes.last()), (size, Some(&7)));
}

/// A Unix socket, both sides of which know the size.
pub(crate) struct Bare {
    stream: UnixStream,
    buffer: Vec<u8>,
}

impl Link for Bare {
    type Meeting = (UnixListener, String);
    fn meet() -> ((UnixListener, String), String) {
        let path = std::env::temp_dir().join(fresh_name()).to_str().expect("it is text").to_owned();
        ((UnixListener::bind(&path).expect("nobody has the name"), path.clone()), path)
    }
    fn accept((listener, path): Self::Meeting, _size: usize) -> Bare {
        let (stream, _) = listener.accept().expect("somebody connects");
        std::fs::remove_file(path).expect("it is there");
        Bare { stream, buffer: Vec::new() }
    }
    fn connect(path: &str, _size: usize) -> Bare {
        Bare { stream: UnixStream::connect(path).expect("somebody listens"), buffer: Vec::new() }
    }
    fn send(&mut self, size: usize) {
        self.buffer.resize(size, 7);
        self.stream.write_all(&self.buffer).expect("the other one is there");
    }
    fn receive(&mut self, size: usize) {
        self.buffer.resize(size, 7);
        self.stream.read_exact(&mut self.buffer).expect("the other one is there");
        check(&self.buffer, size);
    }
}

/// Bytes that are their own encoding.
pub(crate) struct Bytes(Vec<u8>);

impl Message for Bytes {
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), BoxError> {
        out.extend_from_slice(&self.0);
        Ok(())
    }

    fn decode(bytes: &[u8]) -> Result<Bytes, BoxError> {
        Ok(Bytes(bytes.to_vec()))
    }

    fn as_bytes(&self) -> Option<&[u8]> {
        Some(&self.0)
    }

    fn decode_owned(bytes: Vec<u8>) -> Result<Bytes, BoxError> {
        Ok(Bytes(bytes))
    }
}

/// A [`Socket`] link. Messages are made anew, as programs do.
pub(crate) struct Ours(SocketEnd<Bytes, Bytes>);

impl Link for Ours {
    type Meeting = SocketListener<Bytes, Bytes>;
    fn meet() -> (Self::Meeting, String) {
        let listener = Socket::listen(Limits::default()).expect("a fresh address is free");
        let SocketAddress::Path(path) = listener.address() else { panic!("it has a path") };
        let name = path.to_str().expect("it is text").to_owned();
        (listener, name)
    }
    fn accept(listener: Self::Meeting, _size: usize) -> Ours {
        Ours(listener.accept(None).expect("somebody connects"))
    }
    fn connect(path: &str, _size: usize) -> Ours {
        let address = SocketAddress::Path(std::path::Path::new(path).into());
        Ours(Socket::connect::<Bytes, Bytes>(&address, Limits::default(), None).expect("somebody listens"))
    }
    fn send(&mut self, size: usize) {
        self.0.send(Bytes(vec![7; size]), None).expect("the other one is there");
    }
    fn receive(&mut self, size: usize) {
        check(&self.0.receive(None).expect("the other one is there").0, size);
    }
}

/// Two channels of bytes of `ipc-channel`.
pub(crate) struct Channel {
    sender: IpcBytesSender,
    receiver: IpcBytesReceiver,
    buffer: Vec<u8>,
}

impl Link for Channel {
    type Meeting = IpcOneShotServer<(IpcBytesSender, IpcBytesReceiver)>;
    fn meet() -> (Self::Meeting, String) {
        IpcOneShotServer::new().expect("a fresh name is free")
    }
    fn accept(server: Self::Meeting, _size: usize) -> Channel {
        let (_, (sender, receiver)) = server.accept().expect("somebody connects");
        Channel { sender, receiver, buffer: Vec::new() }
    }
    fn connect(name: &str, _size: usize) -> Channel {
        let server = IpcSender::connect(name.to_owned()).expect("somebody listens");
        let (sender, theirs) = bytes_channel().expect("there are descriptors");
        let (back, receiver) = bytes_channel().expect("there are descriptors");
        server.send((back, theirs)).expect("somebody listens");
        Channel { sender, receiver, buffer: Vec::new() }
    }
    fn send(&mut self, size: usize) {
        self.buffer.resize(size, 7);
        self.sender.send(&self.buffer).expect("the other one is there");
    }
    fn receive(&mut self, size: usize) {
        check(&self.receiver.recv().expect("the other one is there"), size);
    }
}

/// Two services of `iceoryx2`, in which a message is written once and read where it lies.
pub(crate) struct Iceoryx {
    sender: Publisher<ipc::Service, [u8], ()>,
    receiver: Subscriber<ipc::Service, [u8], ()>,
    buffer: Vec<u8>,
    _node: Node<ipc::Service>,
}

impl Iceoryx {
    /// Bytes that may wait to be received.
    const WAITING: usize = 4 << 20;

    fn new(out: &str, back: &str, size: usize) -> Iceoryx {
        set_log_level(LogLevel::Error);
        let node = NodeBuilder::new().create::<ipc::Service>().expect("a node");
        let service = |name: &str| {
            node.service_builder(&name.try_into().expect("a name"))
                .publish_subscribe::<[u8]>()
                .max_publishers(1)
                .max_subscribers(1)
                .subscriber_max_buffer_size((Iceoryx::WAITING / size).clamp(4, 1024))
                .enable_safe_overflow(false)
                .open_or_create()
                .expect("both want the same")
        };
        let (out, back) = (service(out), service(back));
        let sender = out
            .publisher_builder()
            .initial_max_slice_len(size)
            .backpressure_strategy(BackpressureStrategy::RetryUntilDelivered)
            .create()
            .expect("the first one");
        let receiver = back.subscriber_builder().create().expect("the first one");
        while out.dynamic_config().number_of_subscribers() == 0
            || back.dynamic_config().number_of_publishers() == 0
        {
            spin_loop();
        }
        Iceoryx { sender, receiver, buffer: Vec::new(), _node: node }
    }
}

impl Link for Iceoryx {
    type Meeting = String;
    fn meet() -> (String, String) {
        let name = fresh_name();
        (name.clone(), name)
    }
    fn accept(name: String, size: usize) -> Iceoryx {
        Iceoryx::new(&format!("{name}/there"), &format!("{name}/back"), size)
    }
    fn connect(name: &str, size: usize) -> Iceoryx {
        Iceoryx::new(&format!("{name}/back"), &format!("{name}/there"), size)
    }
    fn send(&mut self, size: usize) {
        self.buffer.resize(size, 7);
        let sample = self.sender.loan_slice_uninit(size).expect("there is room");
        sample.write_from_slice(&self.buffer).send().expect("the other one is there");
    }
    fn receive(&mut self, size: usize) {
        loop {
            if let Some(sample) = self.receiver.receive().expect("the other one is there") {
                return check(sample.payload(), size);
            }
            spin_loop();
        }
    }
}
