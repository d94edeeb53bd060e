//! Every interleaving of clients asking, and a server accepting, refusing and closing.
//!
//! Time stands still in the models, so that a thread that is not woken hangs for ever, which loom reports.

use super::*;
use crate::sync::thread;
use crate::transport::BoxError;

struct Number(u32);

impl Message for Number {
    fn encode(&self, _: &mut Vec<u8>) -> Result<(), BoxError> {
        unreachable!("messages are moved")
    }

    fn decode(_: &[u8]) -> Result<Number, BoxError> {
        unreachable!("messages are moved")
    }
}

type NumberServer = Server<Number, Number>;

fn client() -> Arc<Client<Number, Number>> {
    Arc::new(Client::new(1).expect("there is room for one message"))
}

/// A client that waits for its answer, and says whether it is connected.
fn asks(server: NumberServer) -> thread::JoinHandle<bool> {
    thread::spawn(move || {
        let client = client();
        match client.connect(&server) {
            Ok(()) => {}
            Err(PolysocketError::Refused) => return false,
            Err(error) => panic!("{error}"),
        }
        drop(server);
        match client.endpoint(Mode::Synchronous, None) {
            Ok(_) => true,
            Err(PolysocketError::Refused) => false,
            Err(error) => panic!("{error}"),
        }
    })
}

#[test]
fn each_of_two_clients_is_accepted() {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(1);
    builder.check(|| {
        let server = NumberServer::new();
        let clients = [asks(server.clone()), asks(server.clone())];
        let _ends = [server.accept(None).unwrap(), server.accept(None).unwrap()];
        for client in clients {
            assert!(client.join().unwrap());
        }
        assert!(!server.is_pending());
    });
}

/// Whoever comes first, the client has an answer, and is not connected to nobody. (It may have been told that the server
/// refuses, and have gone, when the server began to accept again.)
#[test]
fn refusing_races_with_asking() {
    loom::model(|| {
        let server = NumberServer::new();
        let client = asks(server.clone());
        let refused = server.refuse();
        // It came later, or is refused because of what was said.
        let accepted = if refused == 0 { server.try_accept().is_ok() } else { false };
        server.close();
        let connected = client.join().unwrap();
        assert!(accepted || !connected);
    });
}

/// A server that is closed leaves nobody waiting, neither clients nor its own threads.
#[test]
fn closing_the_server_wakes_everyone() {
    loom::model(|| {
        let server = NumberServer::new();
        let client = asks(server.clone());
        let accepting = {
            let server = server.clone();
            thread::spawn(move || match server.accept(None) {
                Ok(_) => true,
                Err(PolysocketError::Closed) => false,
                Err(error) => panic!("{error}"),
            })
        };
        server.close();
        assert_eq!(client.join().unwrap(), accepting.join().unwrap());
    });
}

/// A client that closes is accepted or not seen, and what it has written before is read.
#[test]
fn closing_the_client_races_with_accepting() {
    loom::model(|| {
        let server = NumberServer::new();
        let client = client();
        client.connect(&server).unwrap();
        let closing = {
            let client = Arc::clone(&client);
            thread::spawn(move || client.close())
        };
        match server.try_accept() {
            // Nobody writes any more, and nobody waits for ever to read.
            Ok(end) => assert!(end.reader().read(None).unwrap().is_none()),
            Err(PolysocketError::WouldBlock) => assert!(!server.is_pending()),
            Err(error) => panic!("{error}"),
        }
        closing.join().unwrap();
        assert!(matches!(client.endpoint(Mode::Synchronous, None), Err(PolysocketError::Closed)));
        assert!(!server.is_pending());
    });
}

/// An asynchronous client reads the refusal, and does not wait for ever.
#[test]
fn refusal_reaches_an_asynchronous_reader() {
    loom::model(|| {
        let server = NumberServer::new();
        let client = client();
        client.connect(&server).unwrap();
        let end = client.endpoint(Mode::Asynchronous, None).unwrap();
        let reading =
            thread::spawn(move || end.reader().read(None).map(|message| message.map(|number| number.0)));
        assert_eq!(server.refuse(), 1);
        assert!(matches!(reading.join().unwrap(), Err(PipeError::Because(_))));
    });
}
