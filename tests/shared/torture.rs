//! Users are killed at random instants, and others take their places: nothing that was acknowledged is lost, nothing
//! comes more often than somebody was killed with it, and nobody hangs.

use std::time::{Duration, Instant};

use manycore::shared::{Capacity, SharedError, ShmMutex, ShmPermits, ShmQueue, ShmSemaphore};
use manycore::shm::{Memory, Open, Window};
use manycore::spawn::{Child, ChildProcess, Exit};
use manycore::{PosixShm, ShmBackend};
use manycore_backends::testing::shm::Fresh;

use super::{Tests, child, of_processes};

pub(crate) fn all() -> Tests {
    of_processes![users_are_killed_at_random]
}

const SENDERS: u32 = 2;
const RECEIVERS: u32 = 2;
/// Messages of each sender that are counted; a sender that comes so far is done.
const NUMBERS: u32 = 1 << 24;
const SIGKILL: i32 = 9;

/// Words of the object that says what happened.
const STOP: usize = 0;
/// How many messages of each sender were acknowledged.
const SENT: usize = 16;
/// How often each message was received, a byte each.
const RECEIVED: usize = 64;

#[derive(Clone)]
struct Names {
    queue: std::ffi::OsString,
    account: std::ffi::OsString,
    permits: std::ffi::OsString,
    units: std::ffi::OsString,
    record: std::ffi::OsString,
}

struct User {
    queue: ShmQueue<(u32, u32)>,
    account: ShmMutex<(u64, u64)>,
    permits: ShmPermits,
    units: ShmSemaphore,
    record: PosixShm,
}

impl User {
    fn new(names: &Names) -> User {
        let record = PosixShm::open(&names.record, Open::Existing).unwrap();
        record.size().unwrap();
        User {
            queue: ShmQueue::open(&names.queue).unwrap(),
            account: ShmMutex::open(&names.account).unwrap(),
            permits: ShmPermits::open(&names.permits).unwrap(),
            units: ShmSemaphore::open(&names.units).unwrap(),
            record,
        }
    }

    fn is_to_stop(&self) -> bool {
        self.record.memory().load(STOP).unwrap() != 0
    }

    /// Changes both halves of the account, with the mutex locked or by waiting for a condition that holds.
    fn use_account(&self, wait: bool) {
        let mut locked = self.account.lock().unwrap();
        if wait {
            locked = self.account.condvar(0).wait_while(locked, |(half, whole)| 2 * half != *whole).unwrap();
        }
        let (half, whole) = *locked;
        assert_eq!(2 * half, whole);
        locked.set((half + 1, whole + 2)).unwrap();
        drop(locked);
        self.account.condvar(0).notify_one().unwrap();
    }

    fn send(self, sender: u32) {
        let sent = SENT + sender as usize;
        loop {
            let number = self.record.memory().load(sent).unwrap();
            if self.is_to_stop() || number == NUMBERS {
                return;
            }
            match self.queue.send_timeout(&(sender, number), Duration::from_millis(20)) {
                Ok(()) => self.record.memory().store(sent, number + 1).unwrap(),
                Err(SharedError::TimedOut) => {}
                Err(error) => panic!("{error}"),
            }
            if number % 2 == 0 {
                self.units.post().unwrap();
                self.use_account(number % 4 == 0);
            }
        }
    }

    fn receive(self) {
        loop {
            let taken = match self.queue.take() {
                Ok(taken) => taken,
                Err(SharedError::Closed { .. }) => return,
                Err(error) => panic!("{error}"),
            };
            let (sender, number) = *taken;
            let at = sender as usize * NUMBERS as usize + number as usize;
            let (place, shift) = (RECEIVED + at / 4, 8 * (at % 4));
            let window = self.record.memory().window();
            loop {
                let word = window.load(place).unwrap();
                if window.compare_exchange(place, word, word + (1 << shift)).unwrap().is_ok() {
                    break;
                }
            }
            taken.finish().unwrap();
            if number % 2 == 0 {
                let _permit = self.permits.acquire().unwrap();
                let _ = self.units.try_wait();
                self.use_account(false);
            }
        }
    }
}

fn users_are_killed_at_random() {
    let seconds: f64 =
        std::env::var("MANYCORE_TORTURE_SECONDS").map_or(2.0, |seconds| seconds.parse().unwrap());
    let fresh: Vec<Fresh<PosixShm>> = (0..5).map(|_| Fresh::name()).collect();
    let name = |index: usize| fresh[index].to_owned();
    let names = Names { queue: name(0), account: name(1), permits: name(2), units: name(3), record: name(4) };
    let queue: ShmQueue<(u32, u32)> =
        ShmQueue::create(&names.queue, &Capacity { messages: 8, words: 2 }).unwrap();
    let account: ShmMutex<(u64, u64)> = ShmMutex::create(&names.account, &(0, 0)).unwrap();
    let permits: ShmPermits = ShmPermits::create(&names.permits, &1).unwrap();
    let _units: ShmSemaphore = ShmSemaphore::create(&names.units, &0).unwrap();
    let record = PosixShm::open(&names.record, Open::CreateNew { mode: 0o600 }).unwrap();
    record.grow(4 * RECEIVED as u64 + u64::from(SENDERS * NUMBERS)).unwrap();

    let start = |index: u32| -> ChildProcess {
        let names = names.clone();
        child(move || match index {
            0..SENDERS => User::new(&names).send(index),
            _ => User::new(&names).receive(),
        })
    };
    let mut users: Vec<ChildProcess> = (0..SENDERS + RECEIVERS).map(start).collect();
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    let mut below = |limit: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 32) % limit
    };
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    let mut kills = 0;
    while Instant::now() < end || kills < 50 {
        // Until something has happened: at any moment of what they do.
        let before = queue.length().unwrap();
        for _ in 0..below(40) {
            std::hint::black_box(before);
            std::thread::yield_now();
        }
        let index = below(u64::from(SENDERS + RECEIVERS)) as usize;
        users[index].kill(SIGKILL).unwrap();
        let dead = std::mem::replace(&mut users[index], start(index as u32));
        match dead.wait().unwrap() {
            Exit::Signal { signal: SIGKILL, .. } => kills += 1,
            // It had sent all that there is to send.
            exit => assert!(exit == Exit::Code(0) && index < SENDERS as usize, "{exit:?}"),
        }
        // Whoever lives goes on.
        let (half, whole) = account.lock_timeout(Duration::from_secs(20)).unwrap().into_value();
        assert_eq!(2 * half, whole);
    }
    record.memory().store(STOP, 1).unwrap();
    let receivers = users.split_off(SENDERS as usize);
    users.into_iter().for_each(|sender| assert_eq!(sender.wait().unwrap(), Exit::Code(0)));
    queue.close().unwrap();
    receivers.into_iter().for_each(|receiver| assert_eq!(receiver.wait().unwrap(), Exit::Code(0)));

    drop(permits.try_acquire().expect("nobody has it any more"));
    let (mut again, mut all) = (0, 0);
    for sender in 0..SENDERS {
        let sent = record.memory().load(SENT + sender as usize).unwrap();
        let count = |number: u32| {
            let at = sender as usize * NUMBERS as usize + number as usize;
            record.memory().load(RECEIVED + at / 4).unwrap() >> (8 * (at % 4)) & 0xFF
        };
        for number in 0..sent {
            let times = count(number);
            assert!(times >= 1, "message {number} of {sent} was acknowledged, and is lost");
            again += times - 1;
        }
        // One may have been sent, and not acknowledged; nothing else was.
        if sent < NUMBERS {
            again += count(sent);
            assert_eq!((sent + 1..NUMBERS.min(sent + 1000)).map(count).sum::<u32>(), 0);
        }
        all += sent;
    }
    assert!(again <= kills, "{again} came again, though only {kills} were killed");
    assert!(all > 1000, "{all}: they did something");
    println!("{kills} killed, {all} messages, {again} came again");
}
