//! A ring between processes carries messages whole and in order, whatever kind of process has the other end, and until it is
//! killed.
//!
//! A program without the test harness: the harness runs tests in threads, and `Fork` refuses those.

use std::process::ExitCode;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, setrlimit};

use manycore_backends::Spawner;
use manycore_backends::spawn::{Child, Entry, Exec, Exit, Fork, Thread};
use manycore_backends::testing::run_tests;
use manycore_backends::testing::spawn::open_descriptors;
use manycore_backends::testing::transport::Note;
use manycore_backends::transport::{
    Endpoint, Limits, Listener, Ring, RingEnd, Transport, TransportError, TrySendError,
};

type End = RingEnd<Note, Note>;

fn main() -> ExitCode {
    Exec::enter(Entry::Main, answer);
    let mut tests: Vec<(&'static str, fn())> = Vec::new();
    macro_rules! list {
        ($($name:ident)*) => { $(tests.push((stringify!($name), $name as fn()));)* };
    }
    list! {
        forked_child_answers
        program_that_is_run_anew_answers
        thread_answers
        where_no_ring_can_be_made_the_socket_carries_all
        connected_processes_talk
        what_a_killed_peer_has_sent_whole_is_received
        sending_to_a_killed_peer_ends
        ends_leave_no_descriptors
    }
    run_tests(&tests);
    ExitCode::SUCCESS
}

fn pair() -> (End, End) {
    Ring::pair(Limits::default()).expect("pair")
}

/// Answers with the same until the peer is gone.
fn answer(end: End) -> i32 {
    loop {
        match end.receive(None) {
            Ok(note) => end.send(note, None).expect("somebody waits for it"),
            Err(TransportError::Closed) => return 7,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Small ones, and now and then others.
fn sample(number: u32) -> Note {
    Note::sample(number, if number % 100 == 99 { 100_000 } else { (number % 50) as usize })
}

fn ask(end: &End) {
    for number in 0..3_000 {
        end.send(sample(number), None).expect("somebody answers");
        assert!(end.receive(None).expect("an answer") == sample(number), "message {number}");
    }
    // Several at a time, so that some wait.
    for round in 0..100 {
        for number in 0..30 {
            end.send(sample(round * 30 + number), None).expect("somebody answers");
        }
        for number in 0..30 {
            assert!(end.receive(None).expect("an answer") == sample(round * 30 + number));
        }
    }
}

fn answered_by<W: Spawner<End>>(spawner: &W) {
    let (near, far) = pair();
    let child = spawner.spawn(far, answer).expect("a unit can be begun");
    ask(&near);
    drop(near);
    assert_eq!(child.wait().expect("it is ours"), Exit::Code(7));
}

fn forked_child_answers() {
    answered_by(&Fork);
}

fn program_that_is_run_anew_answers() {
    answered_by(&Exec);
}

fn thread_answers() {
    answered_by(&Thread);
}

fn where_no_ring_can_be_made_the_socket_carries_all() {
    let (near, far) = pair();
    // Beyond this limit the system kills who makes a file longer.
    let child = Fork.spawn(far, |far: End| {
        let limit = Rlimit { current: Some(4096), maximum: Some(4096) };
        setrlimit(Resource::Fsize, limit).expect("it is less than it was");
        let before = open_descriptors();
        let code = answer(far);
        // The parent's ring was taken up, and is gone with it.
        if open_descriptors().len() < before.len() { code } else { 1 }
    });
    ask(&near);
    drop(near);
    assert_eq!(child.expect("one thread").wait().expect("it is ours"), Exit::Code(7));
}

fn connected_processes_talk() {
    let listener = Ring::listen::<Note, Note>(Limits::default()).expect("a fresh address is free");
    let address = listener.address();
    let client = Fork.fork(&[], move || {
        answer(Ring::connect(&address, Limits::default(), None).expect("somebody listens"))
    });
    let near = listener.accept(None).expect("somebody connects");
    ask(&near);
    drop(near);
    assert_eq!(client.expect("one thread").wait().expect("it is ours"), Exit::Code(7));
}

/// A child that sends numbers as fast as it can, until it is killed.
fn what_a_killed_peer_has_sent_whole_is_received() {
    for number_of_death in [0, 1, 100, 5_000, 100_000] {
        let (near, far) = pair();
        let child = Fork.spawn(far, |end: End| {
            for number in 0_u32.. {
                // Some over the socket: in the middle of one it may be killed.
                let length = if number % 1000 == 500 { 1 << 20 } else { 16 };
                let mut note = Note::sample(number, length);
                note.0.splice(0..0, number.to_le_bytes());
                end.send(note, None).expect("the peer is there");
            }
            0
        });
        let child = child.expect("the process has one thread");
        let mut killed = false;
        for next in 0_u32.. {
            match end_of(near.receive(None)) {
                Some(note) => assert_eq!(note.0.first_chunk(), Some(&next.to_le_bytes()), "out of order"),
                None => break,
            }
            if next == number_of_death {
                child.kill(libc::SIGKILL).expect("the child is ours");
                killed = true;
            }
        }
        assert!(killed);
        let exit = child.wait().expect("the child is ours");
        assert!(matches!(exit, Exit::Signal { signal: libc::SIGKILL, .. }), "{exit:?}");
        assert!(matches!(near.try_receive(), Err(TransportError::Closed)));
        assert!(matches!(near.send(Note(vec![]), None), Err(TransportError::Closed)));
    }
}

fn end_of(received: Result<Note, TransportError>) -> Option<Note> {
    match received {
        Ok(note) => Some(note),
        Err(TransportError::Closed) => None,
        Err(error) => panic!("{error}"),
    }
}

fn sending_to_a_killed_peer_ends() {
    let (near, far) = pair();
    let child = Fork.spawn(far, |end: End| {
        for _ in 0..100 {
            end.receive(None).expect("it is sent");
        }
        end.send(Note(vec![]), None).expect("somebody waits for it");
        // It receives no more.
        loop {
            let _ = rustix::event::poll(&mut [], None);
        }
    });
    let child = child.expect("the process has one thread");
    for _ in 0..100 {
        near.send(Note(vec![1; 16]), None).expect("there is room");
    }
    near.receive(None).expect("it was sent");
    for _ in 0..10 {
        near.try_send(Note(vec![2; 16])).expect("there is room");
    }
    child.kill(libc::SIGKILL).expect("the child is ours");
    child.wait().expect("the child is ours");
    // The ring does not know; the socket is asked at least at every 64th.
    let ended = (0..64).find_map(|_| near.try_send(Note(vec![3; 16])).err());
    assert!(matches!(ended, Some(TrySendError::Failed(TransportError::Closed))), "{ended:?}");
    assert!(matches!(near.send(Note(vec![]), None), Err(TransportError::Closed)));
    assert!(matches!(near.flush(), Err(TransportError::Closed)));
    assert!(near.is_flushed());
}

fn ends_leave_no_descriptors() {
    let before = open_descriptors();
    let (near, far) = pair();
    for number in 0..200 {
        near.send(sample(number % 90), Some(Duration::ZERO)).expect("there is room");
        assert_eq!(far.receive(None).expect("it was sent"), sample(number % 90));
    }
    // The memory is shared, and its descriptors are closed.
    assert_eq!(open_descriptors().len(), before.len() + 2);
    drop((near, far));
    assert_eq!(open_descriptors(), before);
}
