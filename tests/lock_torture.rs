//! Whatever is done to the users of a lock, and whenever: nobody hangs, and nobody is inside beside a writer.
//!
//! Processes lock an object in all ways, and are killed, stopped and continued at random moments, most of them inside
//! of locking and unlocking, which is all that they do. For `MANYCORE_TORTURE_SECONDS` (3 if it is not said). A program
//! without the test harness: it forks.

use std::ffi::OsStr;
use std::hint::black_box;
use std::time::{Duration, Instant};

use manycore::lock::{Guard, LockMethod, Mode, Wait};
use manycore::shm::{Memory, Open};
use manycore::spawn::{Child, ChildProcess, Exit};
use manycore::{Fcntl, Fork, Futex, Ofd, PosixShm, ShmBackend};
use manycore_backends::testing::run_tests;
use manycore_backends::testing::shm::Fresh;

type ForkedChild = ChildProcess;

const SIGKILL: i32 = 9;
const SIGCONT: i32 = 18;
const SIGSTOP: i32 = 19;

fn main() {
    run_tests(&[
        ("a_futex_survives_whatever_is_done_to_its_users", survives::<Futex, 4>),
        ("record_locks_survive_whatever_is_done_to_their_users", survives::<Fcntl, 1>),
        ("locks_of_open_files_survive_whatever_is_done_to_their_users", survives::<Ofd, 1>),
    ]);
}

/// Numbers that look random; equal seeds give equal numbers.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (((self.0 >> 32) * u64::from(limit)) >> 32) as u32
    }
}

/// A word that only changes while its writer is alone.
const WORD: usize = 0;

fn victim<L: LockMethod<PosixShm>>(name: &OsStr, seed: u64) -> ForkedChild {
    let name = name.to_owned();
    let run = move || {
        let object = PosixShm::open(&name, Open::Existing).unwrap();
        let lock = L::attach(&object).unwrap();
        let mut random = Random(seed);
        let word = || object.memory().load(WORD).unwrap();
        loop {
            let wait = match random.below(8) {
                0 => Wait::Try,
                1 => Wait::AtMost(Duration::from_micros(u64::from(random.below(3000)))),
                _ => Wait::Forever,
            };
            let mode = if random.below(3) == 0 { Mode::Read } else { Mode::Write };
            let Ok(mut guard) = Guard::lock(&lock, &object, mode, wait) else { continue };
            let mut writes = mode == Mode::Write;
            if !writes && random.below(4) == 0 {
                // With a limit: some methods do not see two that upgrade at once.
                writes = guard.upgrade(Wait::AtMost(Duration::from_millis(1))).is_ok();
            }
            if writes {
                object.memory().store(WORD, random.0 as u32).unwrap();
                assert!((0..20).all(|_| word() == random.0 as u32), "somebody else writes");
                if random.below(4) == 0 {
                    guard.downgrade().unwrap();
                }
            }
            let seen = word();
            assert!((0..20).all(|_| word() == seen), "somebody writes");
        }
    };
    Fork.fork(&[], run).expect("this process has one thread")
}

fn survives<L: LockMethod<PosixShm>, const SHARE: u32>() {
    let seconds = std::env::var("MANYCORE_TORTURE_SECONDS").map_or(3, |seconds| seconds.parse().unwrap());
    let end = Instant::now() + Duration::from_secs(seconds) * SHARE / 6;
    let name = Fresh::<PosixShm>::name();
    let object = PosixShm::open(&name, Open::CreateNew { mode: 0o600 }).unwrap();
    object.grow(4096).unwrap();
    let lock = L::attach(&object).unwrap();
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let mut next = || {
        let seed = u64::from(random.below(u32::MAX)) << 32 | u64::from(random.below(u32::MAX)) | 1;
        (victim::<L>(&name, seed), random.below(4000))
    };
    let mut victims = [next().0, next().0, next().0];
    let mut stopped = [false; 3];
    let (mut kills, mut stops) = (0, 0);
    while Instant::now() < end || kills < 20 {
        let (heir, pause) = next();
        (0..pause).for_each(|number| {
            black_box(number);
        });
        let at = kills as usize % 3;
        // One is stopped from time to time, and goes on, or is killed, later.
        let other = (at + 1) % 3;
        match (stopped[other], pause % 7) {
            (true, _) => {
                victims[other].kill(SIGCONT).unwrap();
                stopped[other] = false;
            }
            (false, 0) => {
                victims[other].kill(SIGSTOP).unwrap();
                stopped[other] = true;
                stops += 1;
            }
            (false, _) => {}
        }
        victims[at].kill(SIGKILL).unwrap();
        let exit = victims[at].wait().unwrap();
        assert!(matches!(exit, Exit::Signal { signal: SIGKILL, .. }), "{exit:?}");
        victims[at] = heir;
        stopped[at] = false;
        kills += 1;
        if pause % 16 == 0 && !stopped.contains(&true) {
            // Who lives gets the lock, within a time that only a lock that hangs needs.
            let guard = Guard::lock(&lock, &object, Mode::Write, Wait::AtMost(Duration::from_secs(20)));
            drop(guard.unwrap_or_else(|error| panic!("{error} after {kills} kills")));
        }
    }
    for victim in victims {
        victim.kill(SIGKILL).unwrap();
        victim.wait().unwrap();
    }
    drop(Guard::lock(&lock, &object, Mode::Write, Wait::Try).unwrap());
    println!("  {kills} were killed, {stops} stopped");
}
