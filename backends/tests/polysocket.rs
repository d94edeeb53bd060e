//! Clients and servers within one process do what the tables on the module's page say, cell by cell, and never hang.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use manycore_backends::poll::{Epoll, Interest, Poll, Poller, Ready, Select, poll_single};
use manycore_backends::testing::poll::during;
use manycore_backends::transport::polypipe::{PipeError, WriteError};
use manycore_backends::transport::polysocket::{Client, Mode, PolyEnd, PolysocketError, Server};
use manycore_backends::transport::{BoxError, Endpoint, Message, TransportError};

#[derive(Debug, PartialEq, Eq)]
struct Number(u32);

impl Message for Number {
    fn encode(&self, _: &mut Vec<u8>) -> Result<(), BoxError> {
        unreachable!("messages are moved")
    }

    fn decode(_: &[u8]) -> Result<Number, BoxError> {
        unreachable!("messages are moved")
    }
}

type NumberClient = Client<Number, Number>;
type NumberServer = Server<Number, Number>;
type End = PolyEnd<Number, Number>;

const NOW: Option<Duration> = Some(Duration::ZERO);

fn client() -> NumberClient {
    Client::new(2).expect("there is room for two messages")
}

/// A client in a state, and the server that it has to do with.
fn in_state(state: &str) -> (NumberClient, NumberServer) {
    let (client, server) = (client(), NumberServer::new());
    match state {
        "unconnected" => {}
        "requesting" => client.connect(&server).unwrap(),
        "connected" => {
            client.connect(&server).unwrap();
            server.try_accept().unwrap();
            client.endpoint(Mode::Synchronous, NOW).unwrap();
        }
        "refused" => {
            client.connect(&server).unwrap();
            assert_eq!(server.refuse(), 1);
            client.endpoint(Mode::Synchronous, NOW).unwrap_err();
        }
        "closed" => client.close(),
        _ => unreachable!(),
    }
    (client, server)
}

/// The name of the error, or `ok`.
fn word<T>(result: Result<T, PolysocketError>) -> &'static str {
    match result {
        Ok(_) => "ok",
        Err(PolysocketError::InProgress) => "in progress",
        Err(PolysocketError::Connected) => "connected",
        Err(PolysocketError::NotConnected) => "not connected",
        Err(PolysocketError::Refused) => "refused",
        Err(PolysocketError::WouldBlock) => "would block",
        Err(PolysocketError::TimedOut) => "timed out",
        Err(PolysocketError::Closed) => "closed",
        Err(error) => panic!("{error}"),
    }
}

/// A state in which a client can be, told by what asking for a connection says.
fn state_of(client: &NumberClient) -> &'static str {
    match word(client.connect(&NumberServer::new())) {
        "ok" => "unconnected",
        "in progress" => "requesting",
        word => word,
    }
}

#[test]
fn client_does_what_the_table_says() {
    const STATES: [&str; 5] = ["unconnected", "requesting", "connected", "refused", "closed"];
    type Operation = fn(&NumberClient, &NumberServer) -> &'static str;
    // The operation; what it says in each state; the state after it.
    let table: [(&str, Operation, [&str; 5], [&str; 5]); 6] = [
        (
            "connect",
            |client, server| word(client.connect(server)),
            ["ok", "in progress", "connected", "refused", "closed"],
            ["requesting", "requesting", "connected", "refused", "closed"],
        ),
        (
            "synchronous endpoint",
            |client, _| word(client.endpoint(Mode::Synchronous, NOW)),
            ["not connected", "would block", "ok", "refused", "closed"],
            ["unconnected", "requesting", "connected", "refused", "closed"],
        ),
        (
            "asynchronous endpoint",
            |client, _| word(client.endpoint(Mode::Asynchronous, NOW)),
            ["not connected", "ok", "ok", "refused", "closed"],
            ["unconnected", "connected", "connected", "refused", "closed"],
        ),
        (
            "notify",
            |client, _| word(client.set_notify(Some(Box::new(|| ())))),
            ["not connected", "ok", "ok", "ok", "closed"],
            STATES,
        ),
        (
            "descriptor",
            |client, _| word(client.descriptor()),
            ["not connected", "ok", "connected", "refused", "closed"],
            STATES,
        ),
        (
            "close",
            |client, _| {
                client.close();
                "ok"
            },
            ["ok"; 5],
            ["closed", "closed", "closed", "refused", "closed"],
        ),
    ];
    for (name, operation, says, after) in table {
        for (index, state) in STATES.into_iter().enumerate() {
            let (client, server) = in_state(state);
            assert_eq!(operation(&client, &server), says[index], "{name} when {state}");
            assert_eq!(state_of(&client), after[index], "after {name} when {state}");
        }
    }
}

/// The second table: what the server does meanwhile.
#[test]
fn endpoint_says_what_the_server_does() {
    let modes = [Mode::Synchronous, Mode::Asynchronous];
    for mode in modes {
        // Accepted.
        let (client, server) = in_state("requesting");
        server.try_accept().unwrap();
        assert_eq!(word(client.endpoint(mode, NOW)), "ok");

        // Refused, for good.
        let (client, server) = in_state("requesting");
        assert_eq!(server.refuse(), 1);
        assert_eq!(word(client.endpoint(mode, NOW)), "refused");
        server.try_accept().unwrap_err();
        assert_eq!(word(client.endpoint(mode, NOW)), "refused");

        // Asked while the server refuses: not seen yet, so the client may be accepted later.
        let (waiting, server) = (self::client(), NumberServer::new());
        server.refuse();
        waiting.connect(&server).unwrap();
        assert_eq!(word(waiting.endpoint(mode, NOW)), "refused");
        assert_eq!(state_of(&waiting), "requesting");
        server.try_accept().unwrap();
        assert_eq!(word(waiting.endpoint(mode, NOW)), "ok");

        // Closed, by a call or by being dropped; before and after it was asked.
        let (client, server) = in_state("requesting");
        server.close();
        assert_eq!(word(client.endpoint(mode, NOW)), "refused");
        assert_eq!(state_of(&client), "refused");
        let (client, server) = in_state("requesting");
        drop(server);
        assert_eq!(word(client.endpoint(mode, NOW)), "refused");
        let (client, server) = in_state("unconnected");
        server.close();
        assert_eq!(word(client.connect(&server)), "refused");
        assert_eq!(word(client.endpoint(mode, NOW)), "refused");
    }
}

#[test]
fn endpoint_is_always_the_same() {
    let (client, server) = in_state("requesting");
    let first = client.endpoint(Mode::Asynchronous, NOW).unwrap();
    server.try_accept().unwrap();
    assert!(first.is_same(&client.endpoint(Mode::Synchronous, None).unwrap()));
    let (other, _server) = in_state("connected");
    assert!(!first.is_same(&other.endpoint(Mode::Synchronous, None).unwrap()));
}

#[test]
fn capacity_is_checked() {
    for capacity in [0, usize::MAX] {
        let error = NumberClient::new(capacity).expect_err("there is no such capacity");
        assert!(matches!(error, PolysocketError::Pipe(PipeError::Capacity(_))), "{error}");
    }
}

#[test]
fn waiting_client_is_woken_by_every_answer() {
    type Act = (&'static str, fn(&NumberServer), &'static str);
    let acts: [Act; 3] = [
        ("accept", |server| drop(server.try_accept().unwrap()), "ok"),
        ("refuse", |server| assert_eq!(server.refuse(), 1), "refused"),
        ("close", NumberServer::close, "refused"),
    ];
    for (name, act, says) in acts {
        let (client, server) = in_state("requesting");
        let result = during(|| client.endpoint(Mode::Synchronous, None), || act(&server));
        assert_eq!(word(result), says, "{name}");
    }
    let (client, server) = in_state("requesting");
    assert_eq!(word(during(|| client.endpoint(Mode::Synchronous, None), || drop(server))), "refused");
    let (client, _server) = in_state("requesting");
    assert_eq!(word(during(|| client.endpoint(Mode::Synchronous, None), || client.close())), "closed");
    let (client, _server) = in_state("requesting");
    let start = Instant::now();
    let timeout = Duration::from_millis(10);
    assert_eq!(word(client.endpoint(Mode::Synchronous, Some(timeout))), "timed out");
    assert!(start.elapsed() >= timeout);
}

#[test]
fn waiting_server_is_woken_by_requests_and_the_end() {
    let server = NumberServer::new();
    let client = client();
    let accepted = during(|| server.accept(None), || client.connect(&server).unwrap());
    assert_eq!(word(accepted), "ok");
    let start = Instant::now();
    let timeout = Duration::from_millis(10);
    assert_eq!(word(server.accept(Some(timeout))), "timed out");
    assert!(start.elapsed() >= timeout);
    assert_eq!(word(server.accept(NOW)), "timed out");
    assert_eq!(word(server.try_accept()), "would block");

    // Two sleepers, two requests in quick succession.
    let server = NumberServer::new();
    let clients = [self::client(), self::client()];
    let other = server.clone();
    let second = thread::spawn(move || word(other.accept(None)));
    let first =
        during(|| server.accept(None), || clients.iter().for_each(|client| client.connect(&server).unwrap()));
    assert_eq!((word(first), second.join().unwrap()), ("ok", "ok"));

    // Two sleepers, and the end.
    let other = server.clone();
    let second = thread::spawn(move || word(other.accept(None)));
    assert_eq!(word(during(|| server.accept(None), || server.close())), "closed");
    assert_eq!(second.join().unwrap(), "closed");
    assert_eq!(word(server.try_accept()), "closed");
    assert_eq!(server.refuse(), 0);
}

#[test]
fn requests_are_accepted_in_order_and_without_limit() {
    let server = NumberServer::new();
    let clients: Vec<_> = (0..1_000)
        .map(|number| {
            let client = client();
            client.connect(&server).unwrap();
            let end = client.endpoint(Mode::Asynchronous, NOW).unwrap();
            end.send(Number(number), NOW).unwrap();
            client
        })
        .collect();
    for number in 0..1_000 {
        assert!(server.is_pending());
        assert_eq!(server.try_accept().unwrap().receive(NOW).unwrap(), Number(number));
    }
    assert!(!server.is_pending());
    drop(clients);
}

#[test]
fn refusing_is_over_with_the_next_accept() {
    let server = NumberServer::new();
    assert_eq!(server.refuse(), 0);
    let client = client();
    client.connect(&server).unwrap();
    assert!(server.is_pending());
    server.try_accept().unwrap();
    assert_eq!(word(client.endpoint(Mode::Synchronous, NOW)), "ok");
    let next = self::client();
    next.connect(&server).unwrap();
    assert_eq!(word(next.endpoint(Mode::Asynchronous, NOW)), "ok");
}

#[test]
fn asynchronous_client_learns_of_the_refusal_in_both_directions() {
    for act in [|server: &NumberServer| assert_eq!(server.refuse(), 1), NumberServer::close] {
        let (client, server) = in_state("requesting");
        let end = client.endpoint(Mode::Asynchronous, NOW).unwrap();
        end.writer().try_write(Number(1)).unwrap();
        act(&server);
        let refused = |error: &PipeError| {
            let PipeError::Because(reason) = error else { panic!("{error}") };
            assert!(matches!(reason.downcast_ref(), Some(PolysocketError::Refused)), "{reason}");
        };
        let WriteError { error, message } = end.writer().try_write(Number(2)).unwrap_err();
        refused(&error);
        assert_eq!(message, Number(2));
        refused(&end.reader().try_read().unwrap_err());
        refused(&end.reader().read(None).unwrap_err());
        assert!(matches!(end.receive(None), Err(TransportError::Closed)));
        // One that waits is woken.
        let (client, server) = in_state("requesting");
        let end = client.endpoint(Mode::Asynchronous, NOW).unwrap();
        refused(&during(|| end.reader().read(None), || act(&server)).unwrap_err());
    }
}

#[test]
fn accepted_connections_outlive_client_and_server() {
    let (client, server) = in_state("requesting");
    let far = server.try_accept().unwrap();
    let near = client.endpoint(Mode::Synchronous, NOW).unwrap();
    drop(client);
    server.close();
    drop(server);
    near.send(Number(1), None).unwrap();
    assert_eq!(far.receive(None).unwrap(), Number(1));
    far.send(Number(2), None).unwrap();
    drop(far);
    assert_eq!(near.receive(None).unwrap(), Number(2));
    assert!(matches!(near.receive(None), Err(TransportError::Closed)));
    assert!(matches!(near.send(Number(3), None), Err(TransportError::Closed)));
}

#[test]
fn closed_client_is_the_end_for_the_server() {
    // Behind what was written, also if it was not accepted yet.
    for accepted_before in [true, false] {
        let (client, server) = in_state("requesting");
        let end = client.endpoint(Mode::Asynchronous, NOW).unwrap();
        end.send(Number(1), NOW).unwrap();
        let far = accepted_before.then(|| server.try_accept().unwrap());
        client.close();
        let far = far.unwrap_or_else(|| server.try_accept().unwrap());
        assert_eq!(far.reader().read(None).unwrap(), Some(Number(1)));
        assert_eq!(far.reader().read(None).unwrap(), None);
        assert!(far.writer().try_write(Number(2)).is_err());
    }
    // A request that nobody wants any more is not seen.
    for drop_it in [true, false] {
        let (client, server) = in_state("requesting");
        assert!(server.is_pending());
        if drop_it {
            drop(client)
        } else {
            client.close()
        }
        assert!(!server.is_pending());
        assert_eq!(word(server.try_accept()), "would block");
        assert_eq!(server.refuse(), 0);
    }
}

fn is_readable(fd: &impl AsFd) -> bool {
    poll_single(fd.as_fd(), Interest::READ, NOW).unwrap().is_readable()
}

#[test]
fn descriptors_and_notifications_tell_of_requests() {
    let server = NumberServer::new();
    let calls = Arc::new(AtomicU32::new(0));
    let counted = calls.clone();
    server.set_notify(Some(Box::new(move || {
        counted.fetch_add(1, Ordering::SeqCst);
    })));
    let descriptor = server.descriptor().unwrap();
    assert!(!is_readable(&descriptor));
    let clients = [client(), client()];
    clients.iter().for_each(|client| client.connect(&server).unwrap());
    assert_eq!(calls.load(Ordering::SeqCst), 1, "two in a row are one edge");
    assert!(is_readable(&descriptor));
    server.try_accept().unwrap();
    assert!(is_readable(&descriptor), "as long as there is one");
    server.try_accept().unwrap();
    assert!(!is_readable(&descriptor));
    let next = client();
    next.connect(&server).unwrap();
    assert_eq!(calls.load(Ordering::SeqCst), 2, "again after all were taken");
    next.close();
    assert!(!is_readable(&descriptor), "withdrawn");
    let next = client();
    next.connect(&server).unwrap();
    server.refuse();
    assert!(!is_readable(&descriptor), "refused");
    assert_eq!(calls.load(Ordering::SeqCst), 3);
    server.close();
    assert!(is_readable(&descriptor), "the end can be accepted");
    assert_eq!(calls.load(Ordering::SeqCst), 4);
    // Asked for when there is a request already, and after the end.
    let (_client, server) = in_state("requesting");
    assert!(is_readable(&server.descriptor().unwrap()));
    server.close();
    assert!(is_readable(&server.descriptor().unwrap()));
}

#[test]
fn descriptors_and_notifications_tell_of_answers() {
    let acts: [fn(&NumberServer); 3] = [
        |server| drop(server.try_accept().unwrap()),
        |server| assert_eq!(server.refuse(), 1),
        NumberServer::close,
    ];
    for act in acts {
        let (client, server) = in_state("requesting");
        let calls = Arc::new(AtomicU32::new(0));
        let counted = calls.clone();
        let count = move || {
            counted.fetch_add(1, Ordering::SeqCst);
        };
        client.set_notify(Some(Box::new(count))).unwrap();
        let descriptor = client.descriptor().unwrap();
        assert!(!is_readable(&descriptor));
        assert_eq!(calls.load(Ordering::SeqCst), 0);
        act(&server);
        assert!(is_readable(&descriptor));
        assert!(is_readable(&client.descriptor().unwrap()), "until the answer is fetched");
        assert_eq!(calls.load(Ordering::SeqCst), 1);
    }
}

/// A server may be used by the function that is called for it.
#[test]
fn functions_may_use_what_they_are_called_for() {
    let server = NumberServer::new();
    let accepted: Arc<std::sync::Mutex<Vec<End>>> = Arc::default();
    let (own, ends) = (server.clone(), accepted.clone());
    server.set_notify(Some(Box::new(move || {
        while let Ok(end) = own.try_accept() {
            ends.lock().unwrap().push(end);
        }
    })));
    let clients: Vec<_> = (0..10).map(|_| client()).collect();
    for client in &clients {
        client.connect(&server).unwrap();
        assert_eq!(word(client.endpoint(Mode::Synchronous, NOW)), "ok");
    }
    assert_eq!(accepted.lock().unwrap().len(), 10);
    // It holds the server, as the server holds it.
    server.set_notify(None);
}

/// Neither, either, both: an end's descriptor says what is so, to every poller.
#[test]
fn descriptor_of_an_end_is_true_in_every_state() {
    fn check<P: Poller>() {
        let (client, server) = in_state("requesting");
        let near = client.endpoint(Mode::Asynchronous, NOW).unwrap();
        let far = server.try_accept().unwrap();
        let poll = P::new().unwrap();
        poll.add(1, Arc::new(near.clone()), Interest::READ | Interest::WRITE).unwrap();
        let ready = || {
            let mut events = Vec::new();
            poll.wait(&mut events, NOW).unwrap();
            let ready = events.first().map_or(Ready::NONE, |event| event.ready);
            (ready.is_readable(), ready.is_writable())
        };
        for _ in 0..3 {
            assert_eq!(ready(), (false, true));
            far.send(Number(1), NOW).unwrap();
            assert_eq!(ready(), (true, true));
            near.send(Number(2), NOW).unwrap();
            assert_eq!(ready(), (true, true));
            near.send(Number(3), NOW).unwrap();
            assert_eq!(ready(), (true, false), "full");
            near.receive(NOW).unwrap();
            assert_eq!(ready(), (false, false), "neither");
            far.receive(NOW).unwrap();
            assert_eq!(ready(), (false, true));
            far.receive(NOW).unwrap();
        }
        far.send(Number(1), NOW).unwrap();
        drop(far);
        assert_eq!(ready(), (true, true), "the end can be told in both directions");
        near.receive(NOW).unwrap();
        assert_eq!(ready(), (true, true));
        assert!(matches!(near.try_receive(), Err(TransportError::Closed)));
    }
    check::<Poll>();
    check::<Select>();
    check::<Epoll>();
}
