//! Every order in which a few users do a few things, with few changes of turn, and with a death anywhere: what holds always
//! holds in each of them, and no wake is lost.
//!
//! The umpire of `manycore_backends::testing::schedule` plays. `MANYCORE_SCHEDULE_CHANGES` is how often it takes the turn
//! from somebody who could go on (default 1); each more takes some thirty times as long.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{self, Arc};

use manycore::PosixShm;
use manycore::lock::Wait;
use manycore::shared::{Capacity, SharedError, ShmMutex, ShmPermits, ShmQueue, ShmSemaphore};
use manycore::shm::ShmError;
use manycore_backends::testing::schedule::{Fate, Game, Limits, Played, Umpired, explore};
use manycore_backends::testing::shm::Fresh;

use super::{Tests, of_processes};

pub(crate) fn all() -> Tests {
    of_processes![
        two_send_and_one_receives,
        one_sends_and_two_receive,
        a_full_queue_wakes_who_waits_for_room,
        closing_is_exact,
        closing_wakes_all,
        what_is_given_back_is_received,
        drafts_that_are_given_up_wake_who_waits,
        a_sender_dies,
        a_receiver_dies,
        a_closer_dies,
        semaphores_wake_who_waits,
        permits_go_round,
        an_owner_of_permits_dies,
        changes_are_whole_and_none_is_lost,
        a_value_that_outgrows_its_room_is_read_whole,
        conditions_wake_who_waits,
        one_creates_and_all_find_it,
    ]
}

type Queue = ShmQueue<u32, Umpired<PosixShm>>;
type Mutex = ShmMutex<(u32, u32), Umpired<PosixShm>>;
type Semaphore = ShmSemaphore<Umpired<PosixShm>>;
type Permits = ShmPermits<Umpired<PosixShm>>;

fn limits() -> Limits {
    let changes = std::env::var("MANYCORE_SCHEDULE_CHANGES").map_or(1, |changes| changes.parse().unwrap());
    Limits { changes, deaths: 0, games: u64::MAX }
}

fn with_a_death() -> Limits {
    let Limits { changes, games, .. } = limits();
    Limits { changes: changes.saturating_sub(1), deaths: 1, games }
}

/// All of them were played, which are not few.
fn enough(played: Played) {
    println!("{played:?}");
    assert!(played.all && played.games > 10, "{played:?}");
}

struct Fixture {
    name: Fresh<PosixShm>,
    /// What was received, and by whom; or sent.
    received: sync::Mutex<Vec<u32>>,
    accepted: sync::Mutex<Vec<u32>>,
}

impl Fixture {
    fn queue(messages: usize) -> Arc<Fixture> {
        let name = Fresh::name();
        Queue::create(&name, &Capacity { messages, words: 1 }).unwrap();
        Arc::new(Fixture { name, received: sync::Mutex::default(), accepted: sync::Mutex::default() })
    }

    fn open(&self) -> Queue {
        Queue::open(&self.name).unwrap()
    }

    /// Sends them, and says of each that it was accepted.
    fn sender<const N: usize>(self: &Arc<Self>, messages: [u32; N]) -> impl FnOnce() + Send + 'static {
        let (queue, fixture) = (self.open(), Arc::clone(self));
        move || {
            for message in messages {
                match queue.send(&message) {
                    Ok(()) => fixture.accepted.lock().unwrap().push(message),
                    Err(SharedError::Closed { .. }) => return,
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }

    /// Receives so many, or until the queue is closed.
    fn receiver(self: &Arc<Self>, messages: usize) -> impl FnOnce() + Send + 'static {
        let (queue, fixture) = (self.open(), Arc::clone(self));
        move || {
            for _ in 0..messages {
                match queue.receive() {
                    Ok(message) => fixture.received.lock().unwrap().push(message),
                    Err(SharedError::Closed { .. }) => return,
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }

    fn received(&self) -> Vec<u32> {
        self.received.lock().unwrap().clone()
    }

    fn accepted(&self) -> Vec<u32> {
        self.accepted.lock().unwrap().clone()
    }

    /// What is in the queue yet.
    fn rest(&self) -> Vec<u32> {
        let queue = self.open();
        let rest = std::iter::from_fn(|| queue.try_receive().ok()).collect();
        assert_eq!(queue.length().unwrap(), 0);
        rest
    }
}

fn sorted(mut messages: Vec<u32>) -> Vec<u32> {
    messages.sort_unstable();
    messages
}

fn two_send_and_one_receives() {
    enough(explore(limits(), || {
        let fixture = Fixture::queue(2);
        let game = Game::new({
            let fixture = Arc::clone(&fixture);
            move |_| {
                let received = fixture.received();
                let of = |from| {
                    received.iter().copied().filter(|message| message / 10 == from).collect::<Vec<_>>()
                };
                assert_eq!((of(1), of(2)), (vec![11, 12], vec![21]), "{received:?}");
                assert_eq!(fixture.rest(), []);
            }
        });
        game.player(fixture.sender([11, 12])).player(fixture.sender([21])).player(fixture.receiver(3))
    }));
}

fn one_sends_and_two_receive() {
    enough(explore(limits(), || {
        let fixture = Fixture::queue(4);
        let game = Game::new({
            let fixture = Arc::clone(&fixture);
            move |_| {
                assert_eq!(sorted(fixture.received()), [1, 2]);
                assert_eq!(fixture.rest(), []);
            }
        });
        game.player(fixture.receiver(1)).player(fixture.receiver(1)).player(fixture.sender([1, 2]))
    }));
}

fn a_full_queue_wakes_who_waits_for_room() {
    enough(explore(limits(), || {
        let fixture = Fixture::queue(1);
        fixture.open().send(&1).unwrap();
        let game = Game::new({
            let fixture = Arc::clone(&fixture);
            move |_| {
                assert_eq!(fixture.received()[0], 1);
                assert_eq!(sorted(fixture.received()), [1, 2, 3]);
            }
        });
        game.player(fixture.sender([2])).player(fixture.sender([3])).player(fixture.receiver(3))
    }));
}

fn closing_is_exact() {
    enough(explore(limits(), || {
        let fixture = Fixture::queue(2);
        let closer = fixture.open();
        let game = Game::new({
            let fixture = Arc::clone(&fixture);
            move |_| {
                // Who receives is told only when nothing is in it and nothing can come.
                assert_eq!(fixture.received(), fixture.accepted());
                assert!(matches!(fixture.open().try_receive(), Err(SharedError::Closed { .. })));
            }
        });
        game.player(fixture.sender([1, 2]))
            .player(fixture.receiver(3))
            .player(move || closer.close().unwrap())
    }));
}

fn closing_wakes_all() {
    enough(explore(limits(), || {
        let fixture = Fixture::queue(1);
        let closer = fixture.open();
        let game = Game::new({
            let fixture = Arc::clone(&fixture);
            move |_| assert_eq!(fixture.received(), fixture.accepted())
        });
        let sender = fixture.sender([1]);
        let send_and_close = move || {
            sender();
            closer.close().unwrap();
        };
        game.player(fixture.receiver(2)).player(fixture.receiver(2)).player(send_and_close)
    }));
}

fn what_is_given_back_is_received() {
    enough(explore(limits(), || {
        let fixture = Fixture::queue(2);
        fixture.open().send(&1).unwrap();
        let taker = fixture.open();
        let game = Game::new({
            let fixture = Arc::clone(&fixture);
            move |_| assert_eq!(sorted([fixture.received(), fixture.rest()].concat()), [1, 2])
        });
        game.player(move || drop(taker.take().unwrap()))
            .player(fixture.receiver(1))
            .player(fixture.sender([2]))
    }));
}

fn drafts_that_are_given_up_wake_who_waits() {
    enough(explore(limits(), || {
        let fixture = Fixture::queue(1);
        let drafter = fixture.open();
        let game = Game::new({
            let fixture = Arc::clone(&fixture);
            move |_| assert_eq!(fixture.received(), [1])
        });
        game.player(move || drop(drafter.draft(Wait::Forever).unwrap()))
            .player(fixture.sender([1]))
            .player(fixture.receiver(1))
    }));
}

fn a_sender_dies() {
    enough(explore(with_a_death(), || {
        let fixture = Fixture::queue(1);
        let game = Game::new({
            let fixture = Arc::clone(&fixture);
            move |fates| {
                let all = [fixture.received(), fixture.rest()].concat();
                let accepted = fixture.accepted();
                assert!(all.contains(&2), "the others go on: {all:?}");
                assert!(accepted.iter().all(|message| all.contains(message)), "{accepted:?} {all:?}");
                assert!(fates[0] == Fate::Died || all.contains(&1));
                assert!(all.len() <= 2, "{all:?}");
            }
        });
        game.mortal(fixture.sender([1])).player(fixture.sender([2])).player(fixture.receiver(1))
    }));
}

fn a_receiver_dies() {
    enough(explore(with_a_death(), || {
        let fixture = Fixture::queue(4);
        let game = Game::new({
            let fixture = Arc::clone(&fixture);
            move |_| {
                // What the one who died had received it had.
                let all = sorted([fixture.received(), fixture.rest()].concat());
                assert!(all.len() >= 2 && all.windows(2).all(|pair| pair[0] != pair[1]), "{all:?}");
            }
        });
        game.mortal(fixture.receiver(1)).player(fixture.receiver(1)).player(fixture.sender([1, 2, 3]))
    }));
}

fn a_closer_dies() {
    enough(explore(with_a_death(), || {
        let fixture = Fixture::queue(2);
        let (closer, again) = (fixture.open(), fixture.open());
        let game = Game::new({
            let fixture = Arc::clone(&fixture);
            move |_| assert_eq!(fixture.received(), fixture.accepted())
        });
        game.mortal(move || closer.close().unwrap())
            .player(fixture.receiver(2))
            .player(fixture.sender([1]))
            .player(move || again.close().unwrap())
    }));
}

fn semaphores_wake_who_waits() {
    enough(explore(limits(), || {
        let name = Fresh::<PosixShm>::name();
        Semaphore::create(&name, &0).unwrap();
        let open = || Semaphore::open(&name).unwrap();
        let [first, second, poster, other] = [open(), open(), open(), open()];
        let game = Game::new(move |_| assert_eq!(Semaphore::open(&name).unwrap().value().unwrap(), 0));
        game.player(move || first.wait().unwrap())
            .player(move || second.wait().unwrap())
            .player(move || poster.post().unwrap())
            .player(move || other.post().unwrap())
    }));
}

fn permits_go_round() {
    enough(explore(limits(), || {
        let name = Fresh::<PosixShm>::name();
        Permits::create(&name, &1).unwrap();
        let inside = Arc::new(AtomicU32::new(0));
        let owner = || {
            let (permits, inside) = (Permits::open(&name).unwrap(), Arc::clone(&inside));
            move || {
                let permit = permits.acquire().unwrap();
                assert_eq!(inside.fetch_add(1, Ordering::Relaxed), 0, "one at a time");
                // Here others may have the turn.
                permits.available().unwrap();
                inside.fetch_sub(1, Ordering::Relaxed);
                drop(permit);
            }
        };
        let [first, second, third] = [owner(), owner(), owner()];
        let game = Game::new(move |_| assert_eq!(Permits::open(&name).unwrap().available().unwrap(), 1));
        game.player(first).player(second).player(third)
    }));
}

fn an_owner_of_permits_dies() {
    enough(explore(with_a_death(), || {
        let name = Fresh::<PosixShm>::name();
        Permits::create(&name, &1).unwrap();
        let owner = || {
            let permits = Permits::open(&name).unwrap();
            move || drop(permits.acquire().unwrap())
        };
        let [first, second, third] = [owner(), owner(), owner()];
        let game = Game::new(move |_| {
            let permits = Permits::open(&name).unwrap();
            drop(permits.try_acquire().unwrap());
            assert_eq!(permits.available().unwrap(), 1);
        });
        game.mortal(first).player(second).player(third)
    }));
}

fn changes_are_whole_and_none_is_lost() {
    enough(explore(limits(), || {
        let name = Fresh::<PosixShm>::name();
        Mutex::create(&name, &(0, 0)).unwrap();
        let changer = || {
            let mutex = Mutex::open(&name).unwrap();
            move || {
                mutex.update(|(first, second)| {
                    *first += 1;
                    *second += 1;
                })
            }
        };
        let [first, second] = [changer(), changer()];
        let reader = Mutex::open(&name).unwrap();
        let game = Game::new(move |_| assert_eq!(Mutex::open(&name).unwrap().get().unwrap(), (2, 2)));
        game.player(move || first().unwrap()).player(move || second().unwrap()).player(move || {
            let (first, second) = reader.get().unwrap();
            assert_eq!(first, second);
        })
    }));
}

fn a_value_that_outgrows_its_room_is_read_whole() {
    type Texts = ShmMutex<Vec<u32>, Umpired<PosixShm>>;
    enough(explore(limits(), || {
        let name = Fresh::<PosixShm>::name();
        Texts::create(&name, &vec![0]).unwrap();
        let (writer, reader) = (Texts::open(&name).unwrap(), Texts::open(&name).unwrap());
        let game = Game::new(move |_| drop(name));
        let write = move || (1..4).for_each(|round| writer.set(vec![round; 20 * round as usize]).unwrap());
        game.player(write).player(move || {
            let value = reader.get().unwrap();
            assert!(value.iter().all(|word| *word == value[0]), "{value:?}");
            assert!(value.len() == 1 || value.len() == 20 * value[0] as usize);
        })
    }));
}

fn conditions_wake_who_waits() {
    enough(explore(limits(), || {
        let name = Fresh::<PosixShm>::name();
        Mutex::create(&name, &(0, 0)).unwrap();
        let open = || Mutex::open(&name).unwrap();
        let [first, second, changer] = [open(), open(), open()];
        let wait = |mutex: Mutex| {
            move || {
                drop(mutex.condvar(3).wait_while(mutex.lock().unwrap(), |value| *value == (0, 0)).unwrap())
            }
        };
        let game = Game::new(move |_| drop(name));
        game.player(wait(first)).player(wait(second)).player(move || {
            changer.set((1, 1)).unwrap();
            changer.condvar(3).notify_all().unwrap();
        })
    }));
}

fn one_creates_and_all_find_it() {
    // Creating takes many accesses.
    enough(explore(Limits { changes: 1, ..limits() }, || {
        let name = Fresh::<PosixShm>::name();
        let path = name.to_owned();
        let create = || {
            let name = name.to_owned();
            move || drop(Semaphore::open_or_create(name, &1).unwrap())
        };
        let (first, second) = (create(), create());
        let game = Game::new(move |_| assert_eq!(Semaphore::open(&name).unwrap().value().unwrap(), 1));
        game.player(first).player(second).player(move || match Semaphore::open(path) {
            Ok(_) | Err(SharedError::Unfinished { .. } | SharedError::Shm(ShmError::NotFound { .. })) => {}
            Err(error) => panic!("{error}"),
        })
    }));
}
