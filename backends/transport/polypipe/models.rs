//! Every interleaving of a few writers and readers with each other and with the end.
//!
//! There is no time in the models but none at all and for ever, so that a thread that is not woken hangs, which loom reports.

use loom::sync::atomic::AtomicUsize as Count;

use super::*;
use crate::sync::thread;

fn model(body: impl Fn() + Send + Sync + 'static) {
    loom::model::Builder::new().check(body);
}

/// As above, for so many threads that more than one preemption takes hours.
fn large_model(body: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(1);
    builder.check(body);
}

/// Reads until the end, and returns what it has read.
fn read_all(reader: &Reader<u32>) -> Vec<u32> {
    let mut messages = Vec::new();
    while let Some(message) = reader.read(None).expect("nobody has closed the reading end") {
        messages.push(message);
    }
    messages
}

/// Each message is read once, by one of the readers; both learn of the end, whoever is asleep when it comes.
#[test]
fn two_writers_and_two_readers_see_each_message_once_and_the_end() {
    large_model(|| {
        let (writer, reader) = pipe(1).unwrap();
        let writers = [1, 2].map(|message| {
            let writer = writer.clone();
            thread::spawn(move || writer.write(message, None).expect("nobody has closed the pipe"))
        });
        drop(writer);
        let other = reader.clone();
        let second = thread::spawn(move || read_all(&other));
        let mut messages = read_all(&reader);
        messages.extend(second.join().unwrap());
        messages.sort_unstable();
        assert_eq!(messages, [1, 2]);
        writers.into_iter().for_each(|writer| writer.join().unwrap());
    });
}

/// What was accepted before the end is read; what was refused comes back.
#[test]
fn end_of_file_races_with_a_writer_and_loses_nothing() {
    model(|| {
        let (writer, reader) = pipe(2).unwrap();
        let other = writer.clone();
        let racer = thread::spawn(move || match other.write(7, None) {
            Ok(()) => true,
            Err(WriteError { error: PipeError::Finished, message: 7 }) => false,
            Err(error) => panic!("{error:?}"),
        });
        let finisher = thread::spawn(move || {
            writer.write(1, None).expect("nobody else finishes the pipe");
            writer.finish();
        });
        let messages = read_all(&reader);
        let accepted = racer.join().unwrap();
        finisher.join().unwrap();
        assert_eq!(messages.contains(&7), accepted);
        assert!(messages.contains(&1));
        assert_eq!(messages.len(), 1 + usize::from(accepted));
    });
}

/// A reader that closes wakes a writer that sleeps before a full pipe, and one of its own clones that sleeps before an
/// empty one.
#[test]
fn closing_the_reading_end_wakes_everyone() {
    model(|| {
        let (writer, reader) = pipe(1).unwrap();
        let full = thread::spawn(move || {
            let _ = writer.write(1, None);
            let _ = writer.write(2, None);
        });
        let sleeper = reader.clone();
        let sleeping = thread::spawn(move || {
            // A message perhaps, then the end.
            while let Ok(Some(_)) = sleeper.read(None) {
                sleeper.close();
            }
        });
        reader.close();
        full.join().unwrap();
        sleeping.join().unwrap();
    });
}

/// A reason reaches a writer and a reader that sleep, behind what was written.
#[test]
fn reason_wakes_both_ends() {
    model(|| {
        let (writer, reader) = pipe(1).unwrap();
        let blocked = writer.clone();
        let full = thread::spawn(move || {
            let mut accepted = 0;
            for _ in 0..2 {
                match blocked.write(1, None) {
                    Ok(()) => accepted += 1,
                    Err(WriteError { error: PipeError::Because(_), .. }) => break,
                    Err(error) => panic!("{error:?}"),
                }
            }
            accepted
        });
        let ender = thread::spawn(move || assert!(writer.close_because("enough")));
        let mut read = 0;
        let error = loop {
            match reader.read(None) {
                Ok(Some(_)) => read += 1,
                Ok(None) => panic!("the end has a reason"),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, PipeError::Because(_)));
        assert_eq!(full.join().unwrap(), read);
        ender.join().unwrap();
    });
}

/// Who reads only when he is called misses nothing: a call comes after each time that he has found the pipe empty.
#[test]
fn notify_function_misses_no_message() {
    model(|| {
        let (writer, reader) = pipe(2).unwrap();
        let calls = Arc::new(Count::new(0));
        let called = Arc::clone(&calls);
        reader.set_notify(Some(Box::new(move || {
            called.fetch_add(1, Ordering::SeqCst);
        })));
        let other = writer.clone();
        let second = thread::spawn(move || other.write(1, None).expect("there is room"));
        let first = thread::spawn(move || writer.write(2, None).expect("there is room"));
        // Looks when it was called, and not when not.
        let mut seen = 0;
        let mut read = 0;
        while read < 2 {
            let now = calls.load(Ordering::SeqCst);
            if now == seen {
                thread::yield_now();
                continue;
            }
            seen = now;
            while let Ok(Some(_)) = reader.try_read() {
                read += 1;
            }
        }
        first.join().unwrap();
        second.join().unwrap();
    });
}

/// Who gives up at the moment at which he would be woken takes neither a message nor the waking from who waits on.
#[test]
fn reader_that_gives_up_takes_nothing_from_another() {
    model(|| {
        let (writer, reader) = pipe(2).unwrap();
        let other = reader.clone();
        let gives_up = thread::spawn(move || match other.read(Some(Duration::ZERO)) {
            Ok(Some(_)) => 1,
            Err(PipeError::TimedOut) => 0,
            result => panic!("{result:?}"),
        });
        let writes = thread::spawn(move || {
            writer.try_write(1).expect("there is room");
            writer.try_write(2).expect("there is room");
            writer
        });
        assert!(reader.read(None).expect("nobody has closed the pipe").is_some());
        let read = 1 + gives_up.join().unwrap();
        let _writer = writes.join().unwrap();
        assert_eq!(reader.len(), 2 - read);
    });
}

/// When all is quiet, what was told last is so.
#[test]
fn what_was_told_is_true_in_the_end() {
    large_model(|| {
        let (writer, reader) = pipe(1).unwrap();
        reader.set_notify(Some(Box::new(|| ())));
        writer.set_notify(Some(Box::new(|| ())));
        let other = reader.clone();
        let reads = thread::spawn(move || other.try_read().is_ok());
        let writes = thread::spawn({
            let writer = writer.clone();
            move || writer.try_write(1).is_ok()
        });
        let written = writer.try_write(2).is_ok();
        let count = usize::from(writes.join().unwrap()) + usize::from(written);
        let left = count - usize::from(reads.join().unwrap());
        assert_eq!(reader.len(), left);
        assert_eq!(reader.pipe.readable.was_told(), left == 1);
        assert_eq!(writer.pipe.writable.was_told(), left == 0);
    });
}

/// Whoever has ended the pipe finds it ended, also if another was first and is on the way still.
#[test]
fn second_end_is_the_end_when_it_returns() {
    model(|| {
        let (writer, reader) = pipe(1).unwrap();
        let other = writer.clone();
        let first = thread::spawn(move || other.finish());
        writer.close();
        assert!(writer.has_ended());
        assert!(writer.try_write(1).is_err());
        assert_eq!(read_all(&reader), []);
        first.join().unwrap();
    });
}

/// What is accepted while the reading end closes is dropped with it, also if a writer has finished the pipe and is on the
/// way still.
#[test]
fn closed_reading_end_holds_no_message() {
    model(|| {
        let (writer, reader) = pipe(1).unwrap();
        let other = writer.clone();
        let finisher = thread::spawn(move || other.finish());
        let message = Arc::new(());
        let racer = thread::spawn({
            let (writer, message) = (writer.clone(), Arc::clone(&message));
            move || drop(writer.try_write(message))
        });
        reader.close();
        assert!(matches!(reader.try_read(), Err(PipeError::Closed)));
        finisher.join().unwrap();
        racer.join().unwrap();
        assert_eq!(Arc::strong_count(&message), 1);
        drop(writer);
    });
}

/// Who alone reads and finds the pipe readable is not told to wait: neither by a look at the ring, nor by what a descriptor
/// says, whose waking may be all that orders him after the writer.
#[test]
fn single_reader_gets_what_the_pipe_says_is_there() {
    model(|| {
        let (writer, reader) = pipe(2).unwrap();
        let flag = Arc::new(AtomicBool::new(false));
        reader.add_bell(Bell::Flag(Arc::clone(&flag)));
        let other = writer.clone();
        let first = thread::spawn(move || other.try_write(1).expect("there is room"));
        let second = thread::spawn(move || writer.try_write(2).expect("there is room"));
        for _ in 0..3 {
            if reader.pipe.is_readable() || flag.load(Ordering::Relaxed) {
                assert!(!matches!(reader.try_read(), Err(PipeError::WouldBlock)));
            }
        }
        first.join().unwrap();
        second.join().unwrap();
    });
}

/// The mirror of it: who alone writes and finds the pipe writable is not told to wait.
#[test]
fn single_writer_has_the_room_that_the_pipe_says_is_there() {
    model(|| {
        let (writer, reader) = pipe(2).unwrap();
        let flag = Arc::new(AtomicBool::new(false));
        writer.try_write(1).expect("there is room");
        writer.try_write(2).expect("there is room");
        writer.add_bell(Bell::Flag(Arc::clone(&flag)));
        let other = reader.clone();
        let first = thread::spawn(move || assert!(other.try_read().is_ok()));
        let second = thread::spawn(move || assert!(reader.try_read().is_ok()));
        for _ in 0..3 {
            if writer.pipe.is_writable() || flag.load(Ordering::Relaxed) {
                let result = writer.try_write(3);
                assert!(!matches!(result, Err(WriteError { error: PipeError::WouldBlock, .. })));
            }
        }
        first.join().unwrap();
        second.join().unwrap();
    });
}

/// Two that close the reading end at once: it is empty for both.
#[test]
fn reading_end_is_empty_for_whoever_has_closed_it() {
    model(|| {
        let (writer, reader) = pipe(2).unwrap();
        writer.write(1, None).unwrap();
        writer.write(2, None).unwrap();
        let other = reader.clone();
        let first = thread::spawn(move || other.close());
        reader.close();
        assert!(matches!(reader.try_read(), Err(PipeError::Closed)));
        first.join().unwrap();
    });
}

/// A descriptor that is made just then takes no call from a function that was there before.
#[test]
fn new_descriptor_takes_no_call_away() {
    model(|| {
        let (writer, reader) = pipe(1).unwrap();
        let calls = Arc::new(Count::new(0));
        let called = Arc::clone(&calls);
        reader.set_notify(Some(Box::new(move || {
            called.fetch_add(1, Ordering::SeqCst);
        })));
        let writes = thread::spawn(move || writer.write(1, None).expect("there is room"));
        reader.descriptor().expect("there are descriptors left");
        writes.join().unwrap();
        assert!(calls.load(Ordering::SeqCst) >= 1);
    });
}

/// The last message is read while another one comes: one reader and one writer, in every order.
#[test]
fn what_is_told_of_the_last_message_is_true() {
    model(|| {
        let (writer, reader) = pipe(2).unwrap();
        writer.try_write(1).unwrap();
        reader.set_notify(Some(Box::new(|| ())));
        let other = reader.clone();
        let reads = thread::spawn(move || assert!(other.try_read().is_ok()));
        writer.try_write(2).unwrap();
        reads.join().unwrap();
        assert!(reader.pipe.readable.was_told());
    });
}

/// A descriptor is true when all is quiet, also if a thread that waited has taken what came.
#[test]
fn bell_is_true_beside_a_thread_that_waits() {
    large_model(|| {
        let (writer, reader) = pipe(2).unwrap();
        let flag = Arc::new(AtomicBool::new(false));
        reader.add_bell(Bell::Flag(Arc::clone(&flag)));
        let waiting = reader.clone();
        let waits = thread::spawn(move || waiting.read(None).unwrap().is_some());
        let other = writer.clone();
        let writes = thread::spawn(move || other.try_write(1).is_ok());
        assert!(writer.try_write(2).is_ok());
        assert!(writes.join().unwrap());
        assert!(waits.join().unwrap());
        assert_eq!(reader.len(), 1);
        assert!(flag.load(Ordering::SeqCst));
        assert!(reader.try_read().is_ok());
        assert!(!flag.load(Ordering::SeqCst));
    });
}

/// Who reads when the descriptor says so misses nothing, though another thread waits for a message of its own.
#[test]
fn bell_rings_for_what_a_waiting_thread_leaves() {
    large_model(|| {
        let (writer, reader) = pipe(2).unwrap();
        let flag = Arc::new(AtomicBool::new(false));
        reader.add_bell(Bell::Flag(Arc::clone(&flag)));
        let waiting = reader.clone();
        let waits = thread::spawn(move || waiting.read(None).unwrap().is_some());
        let writes = thread::spawn(move || {
            writer.try_write(1).unwrap();
            writer.try_write(2).unwrap();
            writer
        });
        loop {
            if flag.load(Ordering::SeqCst) && reader.try_read().is_ok() {
                break;
            }
            thread::yield_now();
        }
        assert!(waits.join().unwrap());
        drop(writes.join().unwrap());
        assert_eq!(reader.len(), 0);
    });
}
