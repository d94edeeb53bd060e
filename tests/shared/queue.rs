//! Queues: order, limits, waiting, closing, taking and giving back; damage.

use std::collections::BTreeMap;
use std::time::Duration;

use manycore::PosixShm;
use manycore::codec::Cbor;
use manycore::lock::Wait;
use manycore::shared::{Capacity, SharedError, ShmQueue};
use manycore::shm::{Memory, Open};
use manycore::spawn::{Child, Exit};
use manycore_backends::testing::shm::Fresh;

use super::{Room, Tests, child, of_processes, over_all};

pub(crate) fn all() -> Tests {
    let mut tests = over_all![
        messages_come_in_order_many_times_around,
        a_queue_of_one_message,
        full_and_empty_are_told,
        any_type_and_any_length_up_to_the_limit,
        what_was_taken_and_not_finished_comes_first,
        several_take_at_once,
        closing_lets_everything_be_received,
        closing_tells_who_waits,
        closing_loses_nothing_that_was_sent,
        a_message_of_another_type_is_told_and_gone,
        many_threads_send_and_receive,
        threads_that_sleep_are_woken,
        positions_begin_anew,
        damage_is_told_or_harmless,
        messages_are_written_and_read_in_their_places,
        what_is_written_in_place_is_sent_whole_or_not_at_all,
        what_is_read_in_place_is_received_or_comes_again,
        closing_lets_a_draft_be_sent,
        what_comes_to_nothing_leaves_nothing,
        the_first_position_may_be_far_behind,
    ];
    tests.extend(of_processes![
        processes_send_and_receive,
        who_died_holds_up_nobody,
        who_died_behind_one_who_lives_holds_up_nobody,
        a_truncated_queue_is_told,
    ]);
    tests
}

fn queue<B: Room>(messages: usize, words: usize) -> (Fresh<B>, ShmQueue<u32, B>) {
    let name = Fresh::<B>::name();
    let queue = ShmQueue::create(&name, &Capacity { messages, words }).unwrap();
    (name, queue)
}

fn messages_come_in_order_many_times_around<B: Room>() {
    let (_name, queue) = queue::<B>(8, 1);
    let (mut sent, mut received) = (0, 0);
    for round in 0..200 {
        for _ in 0..round % 9 {
            if queue.try_send(&sent).is_ok() {
                sent += 1;
            }
        }
        assert_eq!(queue.length().unwrap(), (sent - received) as usize);
        for _ in 0..round % 5 {
            match queue.try_receive() {
                Ok(number) => {
                    assert_eq!(number, received);
                    received += 1;
                }
                Err(SharedError::Empty) => assert_eq!(sent, received),
                Err(error) => panic!("{error}"),
            }
        }
    }
    assert!(sent > 300);
}

fn a_queue_of_one_message<B: Room>() {
    let (_name, queue) = queue::<B>(1, 1);
    for number in 0..100 {
        queue.send(&number).unwrap();
        assert!(matches!(queue.try_send(&0), Err(SharedError::Full)));
        let taken = queue.take().unwrap();
        assert!(
            matches!(queue.try_send(&0), Err(SharedError::Full)),
            "until it is received there is no room"
        );
        assert!(matches!(queue.try_receive(), Err(SharedError::Empty)));
        assert_eq!(taken.finish().unwrap(), number);
        assert!(matches!(queue.try_receive(), Err(SharedError::Empty)));
    }
}

fn full_and_empty_are_told<B: Room>() {
    let (_name, queue) = queue::<B>(2, 1);
    let limit = Duration::from_millis(3);
    assert!(matches!(queue.try_receive(), Err(SharedError::Empty)));
    assert!(matches!(queue.try_take(), Err(SharedError::Empty)));
    let start = std::time::Instant::now();
    assert!(matches!(queue.receive_timeout(limit), Err(SharedError::TimedOut)));
    assert!(matches!(queue.take_timeout(limit), Err(SharedError::TimedOut)));
    assert!(start.elapsed() >= 2 * limit);
    queue.send(&1).unwrap();
    queue.send_timeout(&2, limit).unwrap();
    assert!(matches!(queue.try_send(&3), Err(SharedError::Full)));
    let start = std::time::Instant::now();
    assert!(matches!(queue.send_timeout(&3, limit), Err(SharedError::TimedOut)));
    assert!(start.elapsed() >= limit);
    assert_eq!((queue.receive_timeout(limit).unwrap(), queue.receive().unwrap()), (1, 2));
    assert!(matches!(queue.try_receive(), Err(SharedError::Empty)));
}

fn any_type_and_any_length_up_to_the_limit<B: Room>() {
    for words in [0, 1, 4, 5, 6, 12, 13, 14, 100, 1000] {
        let name = Fresh::<B>::name();
        let queue: ShmQueue<Cbor<BTreeMap<String, Vec<u8>>>, B> =
            ShmQueue::create(&name, &Capacity { messages: 3, words }).unwrap();
        for length in [0, words.min(1), words / 2, words.saturating_sub(1), words] {
            let message: Vec<u32> = (0..length as u32).map(|at| at ^ 0xABCD_0000).collect();
            for _ in 0..5 {
                queue.send_words(&message, Wait::Try).unwrap();
                let mut received = vec![1, 2];
                queue.receive_words(&mut received, Wait::Try).unwrap();
                assert_eq!((&received[..2], &received[2..]), (&[1, 2][..], &message[..]));
            }
        }
        match queue.send_words(&vec![0; words + 1], Wait::Try) {
            Err(SharedError::TooLong { words: found, max }) => assert_eq!((found, max), (words + 1, words)),
            other => panic!("{other:?}"),
        }
        let value = Cbor(BTreeMap::from([("key".to_owned(), vec![1, 2, 3])]));
        match queue.send(&value) {
            Ok(()) => assert_eq!(queue.receive().unwrap(), value),
            Err(SharedError::TooLong { .. }) => assert!(words < 10),
            Err(error) => panic!("{error}"),
        }
        assert_eq!(queue.length().unwrap(), 0);
    }
}

fn what_was_taken_and_not_finished_comes_first<B: Room>() {
    let (_name, queue) = queue::<B>(4, 1);
    (0..4).for_each(|number| queue.send(&number).unwrap());
    let first = queue.take().unwrap();
    let second = queue.take().unwrap();
    assert_eq!((*first, first.deliveries(), *second), (0, 0, 1));
    drop(second);
    drop(first);
    for deliveries in 1..4 {
        let taken = queue.take().unwrap();
        assert_eq!((*taken, taken.deliveries()), (0, deliveries));
    }
    // A panic gives it back, too.
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let taken = queue.take().unwrap();
        assert_eq!((*taken, taken.deliveries()), (0, 4));
        std::panic::resume_unwind(Box::new("at work"));
    }));
    assert!(panicked.is_err());
    let taken = queue.take().unwrap();
    assert_eq!(taken.deliveries(), 5);
    assert_eq!(taken.finish().unwrap(), 0);
    let taken = queue.take().unwrap();
    assert_eq!((*taken, taken.deliveries()), (1, 1));
    taken.finish().unwrap();
    assert_eq!((queue.receive().unwrap(), queue.receive().unwrap()), (2, 3));
    // The count belongs to the message, not to its place.
    queue.send(&4).unwrap();
    assert_eq!(queue.take().unwrap().deliveries(), 0);
}

fn several_take_at_once<B: Room>() {
    let (name, queue) = queue::<B>(4, 1);
    let other: ShmQueue<u32, B> = ShmQueue::open(&name).unwrap();
    (0..4).for_each(|number| queue.send(&number).unwrap());
    let taken: Vec<_> = [&queue, &other, &queue, &other].map(|queue| queue.take().unwrap()).into();
    assert_eq!(taken.iter().map(|taken| **taken).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert!(matches!(other.try_take(), Err(SharedError::Empty)));
    assert!(matches!(other.try_send(&9), Err(SharedError::Full)));
    // The last is finished first: its room is behind that of the others.
    let mut taken = taken.into_iter().rev();
    taken.next().unwrap().finish().unwrap();
    assert!(matches!(other.try_send(&9), Err(SharedError::Full)));
    assert_eq!(taken.map(|taken| taken.finish().unwrap()).collect::<Vec<_>>(), [2, 1, 0]);
    assert_eq!(queue.length().unwrap(), 0);
    (4..8).for_each(|number| other.try_send(&number).unwrap());
    assert!(matches!(other.try_send(&9), Err(SharedError::Full)));
    assert_eq!((4..8).map(|_| queue.receive().unwrap()).collect::<Vec<_>>(), [4, 5, 6, 7]);
}

fn closing_lets_everything_be_received<B: Room>() {
    let (_name, queue) = queue::<B>(4, 1);
    (0..3).for_each(|number| queue.send(&number).unwrap());
    let taken = queue.take().unwrap();
    assert!(!queue.is_closed().unwrap());
    queue.close().unwrap();
    queue.close().unwrap();
    assert!(queue.is_closed().unwrap());
    assert!(matches!(queue.send(&9), Err(SharedError::Closed { .. })));
    assert!(matches!(queue.try_send(&9), Err(SharedError::Closed { .. })));
    assert_eq!((queue.receive().unwrap(), queue.receive().unwrap()), (1, 2));
    // One is being read, and may come back.
    let nothing = queue.try_receive();
    assert!(matches!(nothing, Err(SharedError::Empty)), "{nothing:?}");
    drop(taken);
    assert_eq!(queue.iter().map(Result::unwrap).collect::<Vec<_>>(), [0]);
    assert!(matches!(queue.receive(), Err(SharedError::Closed { .. })));
    assert!(matches!(queue.try_take(), Err(SharedError::Closed { .. })));
}

fn closing_tells_who_waits<B: Room>() {
    let (name, full) = queue::<B>(1, 1);
    full.send(&1).unwrap();
    let (_name, empty) = queue::<B>(1, 1);
    std::thread::scope(|scope| {
        let senders: Vec<_> = (0..2).map(|_| scope.spawn(|| full.send(&2))).collect();
        let receivers: Vec<_> = (0..2).map(|_| scope.spawn(|| empty.receive())).collect();
        // They wait for ever, whether they sleep already or not.
        ShmQueue::<u32, B>::open(&name).unwrap().close().unwrap();
        empty.close().unwrap();
        for sender in senders {
            assert!(matches!(sender.join().unwrap(), Err(SharedError::Closed { .. })));
        }
        for receiver in receivers {
            assert!(matches!(receiver.join().unwrap(), Err(SharedError::Closed { .. })));
        }
    });
    assert_eq!(full.receive().unwrap(), 1);
}

fn closing_loses_nothing_that_was_sent<B: Room>() {
    for _ in 0..50 {
        let (_name, queue) = queue::<B>(4, 1);
        let (sent, received) = std::thread::scope(|scope| {
            let sender = scope.spawn(|| (0..).take_while(|number| queue.send(number).is_ok()).count());
            let receiver = scope.spawn(|| {
                let mut received = 0;
                for number in queue.iter() {
                    assert_eq!(number.unwrap(), received);
                    received += 1;
                    if received == 20 {
                        queue.close().unwrap();
                    }
                }
                received
            });
            (sender.join().unwrap(), receiver.join().unwrap())
        });
        assert_eq!(sent, received as usize);
    }
}

fn a_message_of_another_type_is_told_and_gone<B: Room>() {
    let (_name, queue) = queue::<B>(4, 4);
    queue.send_words(&[1, 2], Wait::Try).unwrap();
    queue.send_words(&[], Wait::Try).unwrap();
    queue.send(&3).unwrap();
    assert!(matches!(queue.receive(), Err(SharedError::Codec(_))));
    assert!(matches!(queue.take(), Err(SharedError::Codec(_))));
    assert_eq!(queue.receive().unwrap(), 3);
}

/// What the senders send: who they are, and a number that rises.
fn message(sender: u32, number: u32) -> u32 {
    sender << 24 | number
}

/// Looks that the messages of each sender rise, and how many there are of each.
fn counts(received: &[u32]) -> BTreeMap<u32, u32> {
    let mut counts = BTreeMap::new();
    for message in received {
        let next = counts.entry(message >> 24).or_insert(0);
        assert!(message & 0xFF_FFFF >= *next, "a later message came first");
        *next = (message & 0xFF_FFFF) + 1;
    }
    counts
}

fn many_threads_send_and_receive<B: Room>() {
    const NUMBERS: u32 = 2000;
    for (senders, receivers, capacity) in [(1, 1, 1), (1, 1, 64), (3, 1, 2), (1, 3, 2), (3, 3, 4)] {
        let (_name, queue) = queue::<B>(capacity, 1);
        let queue = &queue;
        let received: Vec<Vec<u32>> = std::thread::scope(|scope| {
            let sending: Vec<_> = (0..senders)
                .map(|sender| {
                    scope.spawn(move || {
                        (0..NUMBERS).for_each(|number| queue.send(&message(sender, number)).unwrap());
                    })
                })
                .collect();
            let receiving: Vec<_> = (0..receivers)
                .map(|index| {
                    scope.spawn(move || match index % 2 {
                        0 => queue.iter().map(Result::unwrap).collect(),
                        _ => std::iter::from_fn(|| queue.take().ok().map(|taken| taken.finish().unwrap()))
                            .collect(),
                    })
                })
                .collect();
            sending.into_iter().for_each(|thread| thread.join().unwrap());
            queue.close().unwrap();
            receiving.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        received.iter().for_each(|received| drop(counts(received)));
        let mut all = received.concat();
        all.sort_unstable();
        let expected: Vec<u32> =
            (0..senders).flat_map(|sender| (0..NUMBERS).map(move |number| message(sender, number))).collect();
        assert_eq!(all, expected);
    }
}

fn threads_that_sleep_are_woken<B: Room>() {
    // Each message wakes one, who answers; nobody sleeps on while there is something for it.
    let (_name, tasks) = queue::<B>(64, 1);
    let (_name, results) = queue::<B>(64, 1);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| tasks.iter().for_each(|task| results.send(&(task.unwrap() + 1)).unwrap()));
        }
        for round in 0..300 {
            let count = round % 7;
            (0..count).for_each(|number| tasks.send(&number).unwrap());
            let mut sum = 0;
            (0..count).for_each(|_| sum += results.receive().unwrap());
            assert_eq!(sum, (0..count).map(|number| number + 1).sum());
        }
        tasks.close().unwrap();
    });
}

/// Where the queue's words are; see `src/shared/queue/cells.rs`.
const TAIL: usize = 512;
const HEAD: usize = 528;
const CELLS: usize = 592;

fn positions_begin_anew<B: Room>() {
    let (name, queue) = queue::<B>(4, 1);
    let object = B::open(&name, Open::Existing).unwrap();
    object.size().unwrap();
    let memory = object.memory();
    // As it would be after 2^32 - 6 messages: cells 2 and 3 are in the last lap but one, cells 0 and 1 in the last.
    let position = u32::MAX - 5;
    let last_lap = (1u32 << 20) - 1;
    for (cell, lap) in [(0, last_lap), (1, last_lap), (2, last_lap - 1), (3, last_lap - 1)] {
        memory.store(CELLS + 4 * cell, lap << 12).unwrap();
    }
    memory.store(TAIL, position).unwrap();
    memory.store(HEAD, position).unwrap();
    for number in 0..40 {
        queue.try_send(&number).unwrap();
        queue.try_send(&(number + 100)).unwrap();
        assert_eq!(queue.length().unwrap(), 2);
        assert_eq!((queue.try_receive().unwrap(), queue.try_receive().unwrap()), (number, number + 100));
    }
    assert_eq!(memory.load(TAIL), Ok(position.wrapping_add(80)));
}

fn damage_is_told_or_harmless<B: Room>() {
    let (name, whole) = queue::<B>(4, 2);
    let object = B::open(&name, Open::Existing).unwrap();
    object.size().unwrap();
    let memory = object.memory();
    (0..3).for_each(|number| whole.send(&number).unwrap());
    whole.receive().unwrap();
    let words = memory.words();
    let mut image = vec![0; words];
    memory.read(0, &mut image).unwrap();
    let restore = || memory.write(TAIL, &image[TAIL..]).unwrap();
    let values = |right: u32| (0..32).map(move |bit| right ^ 1 << bit).chain([0, u32::MAX]);
    let mut told = 0;
    for at in (TAIL..words).filter(|at| *at < CELLS + 32) {
        for wrong in values(image[at]) {
            memory.store(at, wrong).unwrap();
            // Enough to meet each word, both ways; nothing waits, and nothing is longer than it may be.
            let mut received = Vec::new();
            for number in 0..6 {
                told += usize::from(matches!(whole.try_send(&number), Err(SharedError::Corrupt { .. })));
                match whole.receive_words(&mut received, Wait::Try) {
                    Err(SharedError::Corrupt { .. }) => told += 1,
                    Ok(()) | Err(SharedError::Empty | SharedError::Closed { .. }) => {}
                    Err(error) => panic!("word {at}: {wrong:x}: {error}"),
                }
                assert!(whole.length().unwrap() <= 4);
            }
            assert!(received.len() <= 2 * 6);
            restore();
        }
    }
    assert!(told > 100, "{told}");
    assert_eq!((whole.receive().unwrap(), whole.receive().unwrap()), (1, 2));
}

fn processes_send_and_receive() {
    const NUMBERS: u32 = 3000;
    let (name, queue) = queue::<PosixShm>(8, 1);
    let (results, sums) = self::queue::<PosixShm>(8, 2);
    let children: Vec<_> = (0..3)
        .map(|_| {
            let names = (name.to_owned(), results.to_owned());
            child(move || {
                let queue: ShmQueue<u32> = ShmQueue::open(&names.0).unwrap();
                let received: Vec<u32> = queue.iter().map(Result::unwrap).collect();
                counts(&received);
                ShmQueue::<u32>::open(&names.1).unwrap().send(&received.iter().sum::<u32>()).unwrap();
            })
        })
        .collect();
    (0..NUMBERS).for_each(|number| queue.send(&message(0, number)).unwrap());
    queue.close().unwrap();
    let sum: u32 = (0..3).map(|_| sums.receive().unwrap()).sum();
    assert_eq!(sum, (0..NUMBERS).sum());
    children.into_iter().for_each(|child| assert_eq!(child.wait().unwrap(), Exit::Code(0)));
}

fn who_died_holds_up_nobody() {
    let (name, queue) = queue::<PosixShm>(2, 1);
    queue.send(&1).unwrap();
    queue.send(&2).unwrap();
    let for_child = name.to_owned();
    let died = child(move || {
        let queue: ShmQueue<u32> = ShmQueue::open(&for_child).unwrap();
        let taken = queue.take().unwrap();
        assert_eq!(*taken, 1);
        std::process::abort();
    });
    assert!(matches!(died.wait().unwrap(), Exit::Signal { .. }));
    // Also who does not wait finds what it had; and it comes first.
    let taken = queue.try_take().unwrap();
    assert_eq!((*taken, taken.deliveries()), (2, 0), "what can be had at once is had at once");
    drop(taken);
    let others: Vec<_> = (0..2).map(|_| queue.try_take().unwrap()).collect();
    assert_eq!(
        others.iter().map(|taken| (**taken, taken.deliveries())).collect::<Vec<_>>(),
        [(2, 1), (1, 1)]
    );
    drop(others);
    assert_eq!((queue.receive().unwrap(), queue.receive().unwrap()), (1, 2));
}

fn a_truncated_queue_is_told() {
    let (name, queue) = queue::<PosixShm>(1 << 16, 1);
    queue.send(&1).unwrap();
    let path = std::path::Path::new("/dev/shm").join(name.to_str().unwrap().trim_start_matches('/'));
    std::fs::File::options().write(true).open(path).unwrap().set_len(0).unwrap();
    for _ in 0..3 {
        assert!(matches!(
            queue.try_receive(),
            Err(SharedError::Shm(manycore::shm::ShmError::Truncated { .. }))
        ));
        assert!(queue.try_send(&1).is_err());
    }
    assert!(ShmQueue::<u32>::open(&*name).is_err());
}

fn messages_are_written_and_read_in_their_places<B: Room>() {
    for words in [6, 60, 61, 1000] {
        let (_name, queue) = queue::<B>(4, words);
        for round in 0..10 {
            let message: Vec<u32> = (0..words as u32).map(|word| word * 7 + round).collect();
            let mut draft = queue.draft(Wait::Try).unwrap();
            draft.write(5, &message[5..]).unwrap();
            draft.write(0, &message[..5]).unwrap();
            draft.send(words).unwrap();
            let borrowed = queue.borrow(Wait::Try).unwrap();
            assert_eq!((borrowed.words(), borrowed.deliveries()), (words, 0));
            let mut read = vec![0; words - 3];
            borrowed.read(3, &mut read).unwrap();
            assert_eq!(read, message[3..]);
            borrowed.finish().unwrap();
            // And with those who copy.
            queue.send_words(&message, Wait::Try).unwrap();
            let mut whole = vec![0; words];
            queue.borrow(Wait::Try).unwrap().read(0, &mut whole).unwrap();
            assert_eq!(whole, message);
            let mut copied = Vec::new();
            queue.receive_words(&mut copied, Wait::Try).unwrap();
            assert_eq!(copied, message);
        }
    }
}

fn what_is_written_in_place_is_sent_whole_or_not_at_all<B: Room>() {
    let (_name, queue) = queue::<B>(4, 3);
    let mut draft = queue.draft(Wait::Try).unwrap();
    assert!(matches!(draft.write(2, &[1, 2]), Err(SharedError::TooLong { words: 4, max: 3 })));
    assert!(matches!(draft.write(usize::MAX, &[1]), Err(SharedError::TooLong { max: 3, .. })));
    draft.write(0, &[1]).unwrap();
    queue.send(&2).unwrap();
    assert!(matches!(queue.try_receive(), Err(SharedError::Empty)), "later ones wait for it");
    drop(draft);
    assert_eq!(queue.try_receive().unwrap(), 2, "and it was given up");
    let draft = queue.draft(Wait::Try).unwrap();
    assert!(matches!(draft.send(4), Err(SharedError::TooLong { words: 4, max: 3 })));
    for number in 0..10 {
        queue.try_send(&number).unwrap();
        drop(queue.draft(Wait::Try).unwrap());
        assert_eq!(queue.try_receive().unwrap(), number);
    }
    assert_eq!(queue.length().unwrap(), 0);
    // A draft is room taken.
    let drafts: Vec<_> = (0..4).map(|_| queue.draft(Wait::Try).unwrap()).collect();
    assert!(matches!(queue.draft(Wait::Try), Err(SharedError::Full)));
    drop(drafts);
    queue.try_send(&1).unwrap();
    assert_eq!(queue.try_receive().unwrap(), 1);
}

fn what_is_read_in_place_is_received_or_comes_again<B: Room>() {
    let (_name, queue) = queue::<B>(4, 3);
    queue.send_words(&[1, 2, 3], Wait::Try).unwrap();
    queue.send_words(&[4], Wait::Try).unwrap();
    for deliveries in 0..3 {
        let borrowed = queue.borrow(Wait::Try).unwrap();
        assert_eq!((borrowed.words(), borrowed.deliveries()), (3, deliveries));
        let mut word = [0];
        assert!(matches!(borrowed.read(3, &mut word), Err(SharedError::NoSuchWord { last: 3, words: 3 })));
        assert!(matches!(borrowed.read(usize::MAX, &mut word), Err(SharedError::NoSuchWord { .. })));
        borrowed.read(3, &mut []).unwrap();
        borrowed.read(2, &mut word).unwrap();
        assert_eq!(word, [3]);
    }
    queue.borrow(Wait::Try).unwrap().finish().unwrap();
    assert_eq!(queue.try_receive().unwrap(), 4);
    assert!(matches!(queue.borrow(Wait::Try), Err(SharedError::Empty)));
    let short = Wait::AtMost(Duration::from_millis(1));
    assert!(matches!(queue.borrow(short), Err(SharedError::TimedOut)));
}

fn closing_lets_a_draft_be_sent<B: Room>() {
    let (_name, queue) = queue::<B>(4, 3);
    let mut draft = queue.draft(Wait::Try).unwrap();
    let given_up = queue.draft(Wait::Try).unwrap();
    queue.close().unwrap();
    assert!(matches!(queue.draft(Wait::Try), Err(SharedError::Closed { .. })));
    assert!(matches!(queue.try_receive(), Err(SharedError::Empty)), "it may come yet");
    draft.write(0, &[9]).unwrap();
    draft.send(1).unwrap();
    assert_eq!(queue.try_receive().unwrap(), 9);
    assert!(matches!(queue.try_receive(), Err(SharedError::Empty)));
    std::thread::scope(|scope| {
        let told = scope.spawn(|| queue.borrow(Wait::Forever).map(drop));
        drop(given_up);
        assert!(matches!(told.join().unwrap(), Err(SharedError::Closed { .. })));
    });
}

fn what_comes_to_nothing_leaves_nothing<B: Room>() {
    for messages in [1, 2, 4] {
        // Positions are given up, many times around, and nobody receives meanwhile.
        let (_name, queue) = queue::<B>(messages, 1);
        for round in 0..3 {
            (0..5 * messages).for_each(|_| drop(queue.draft(Wait::Try).unwrap()));
            assert_eq!(queue.length().unwrap(), 0);
            queue.try_send(&round).unwrap();
            for _ in 0..5 * messages {
                drop(queue.draft(Wait::Try));
            }
            assert_eq!(queue.length().unwrap(), 1);
            assert_eq!(queue.try_receive().unwrap(), round);
            assert!(matches!(queue.try_receive(), Err(SharedError::Empty)));
        }
        queue.close().unwrap();
        for _ in 0..5 * messages {
            assert!(matches!(queue.try_send(&1), Err(SharedError::Closed { .. })));
        }
        assert!(matches!(queue.try_receive(), Err(SharedError::Closed { .. })));
        assert_eq!(queue.length().unwrap(), 0);
    }
}

fn who_died_behind_one_who_lives_holds_up_nobody() {
    let (name, queue) = queue::<PosixShm>(4, 1);
    (1..4).for_each(|number| queue.send(&number).unwrap());
    let first = queue.take().unwrap();
    let for_child = name.to_owned();
    let died = child(move || {
        let queue: ShmQueue<u32> = ShmQueue::open(&for_child).unwrap();
        let _two = (queue.take().unwrap(), queue.take().unwrap());
        std::process::abort();
    });
    assert!(matches!(died.wait().unwrap(), Exit::Signal { .. }));
    // No other handle is opened, which would look after its predecessor; nobody waits for long; and one is held here.
    let limit = Duration::from_millis(1);
    let second = queue.take_timeout(limit).unwrap();
    let third = queue.try_take().unwrap();
    assert_eq!((*first, *second, *third), (1, 2, 3));
    assert_eq!((second.deliveries(), third.deliveries()), (1, 1));
}

/// As receivers leave it that die before they have raised `head`, and others who were past it already.
fn the_first_position_may_be_far_behind<B: Room>() {
    const HEAD: usize = TAIL + 16;
    let empty = |lap: u32| lap << 12;
    let full = |lap: u32| lap << 12 | 2;
    // Capacity, `tail`, states of the cells; what is in it.
    let cases: [(usize, u32, &[u32], &[u32]); 6] = [
        (1, 1, &[empty(1)], &[]),
        (1, 7, &[empty(7)], &[]),
        (1, 5, &[full(4)], &[0]),
        (4, 40, &[empty(10); 4], &[]),
        // Position 2 was received, and 1 was given back after that.
        (2, 3, &[empty(2), full(0)], &[1]),
        (2, 6, &[empty(3), full(2)], &[1]),
    ];
    for (messages, tail, states, left) in cases {
        let (name, queue) = queue::<B>(messages, 1);
        let object = B::open(&name, Open::Existing).unwrap();
        object.size().unwrap();
        let memory = object.memory();
        memory.store(TAIL, tail).unwrap();
        for (cell, state) in states.iter().enumerate() {
            // State, length, deliveries, and the message: its cell.
            memory.write(CELLS + 4 * cell, &[*state, 1, 0, cell as u32]).unwrap();
        }
        assert_eq!(memory.load(HEAD), Ok(0));
        assert_eq!(queue.length().unwrap(), left.len(), "{states:?}");
        memory.store(HEAD, 0).unwrap();
        for expected in left {
            assert_eq!(queue.try_receive().unwrap(), *expected, "{states:?}");
        }
        assert!(matches!(queue.try_receive(), Err(SharedError::Empty)), "{states:?}");
        for round in 0..20 {
            queue.try_send(&round).unwrap();
            assert_eq!(queue.try_receive().unwrap(), round);
        }
    }
}
