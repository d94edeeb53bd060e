//! Somebody else, in another thread or process, who locks what he is told to, and says what came of it.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

use super::pipe;
use crate::lock::{LockError, LockMethod, Mode, Wait};
use crate::shm::{Open, ShmBackend};
use crate::spawn::{Child, ChildProcess, Exit, Fork};
use crate::testing::shm::{Fresh, Subject};

type ForkedChild = ChildProcess;

/// What an agent is to do, with the object of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Lock(Mode, Wait),
    Unlock,
    Upgrade(Wait),
    Downgrade,
}

/// What came of it: `Ok`, or the error's first letter.
pub(super) type Answer = u8;

pub(super) const OK: Answer = b'.';
pub(super) const BUSY: Answer = b'B';
pub(super) const TIMED_OUT: Answer = b'T';
pub(super) const DEADLOCK: Answer = b'D';

fn letter(result: Result<(), LockError>) -> Answer {
    match result {
        Ok(()) => OK,
        Err(LockError::Busy) => BUSY,
        Err(LockError::TimedOut) => TIMED_OUT,
        Err(LockError::Deadlock) => DEADLOCK,
        Err(error) => panic!("{error:?}"),
    }
}

/// Where an agent lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Home {
    Thread,
    Process,
}

enum Life {
    Thread(Option<JoinHandle<()>>),
    Process(ForkedChild),
}

pub(super) struct Agent {
    life: Life,
    /// `None` when it is told to end.
    orders: Option<OwnedFd>,
    answers: OwnedFd,
}

/// Orders as they go through a pipe: eight bytes, of which the last four are a limit in milliseconds.
fn encode(order: Order, object: usize) -> [u8; 8] {
    let (what, mode, wait) = match order {
        Order::Lock(mode, wait) => (b'l', mode, wait),
        Order::Unlock => (b'u', Mode::Read, Wait::Try),
        Order::Upgrade(wait) => (b'U', Mode::Read, wait),
        Order::Downgrade => (b'D', Mode::Read, Wait::Try),
    };
    let (how, limit) = match wait {
        Wait::Forever => (b'f', 0),
        Wait::Try => (b't', 0),
        Wait::AtMost(limit) => (b'a', limit.as_millis() as u32),
    };
    let [a, b, c, d] = limit.to_ne_bytes();
    [what, object as u8, (mode == Mode::Write) as u8, how, a, b, c, d]
}

fn obey<B: ShmBackend, L: LockMethod<B>>(objects: &[(B, L)], order: [u8; 8]) -> Result<(), LockError> {
    let [what, object, write, how, limit @ ..] = order;
    let wait = match how {
        b'f' => Wait::Forever,
        b't' => Wait::Try,
        _ => Wait::AtMost(std::time::Duration::from_millis(u32::from_ne_bytes(limit).into())),
    };
    let mode = if write == 1 { Mode::Write } else { Mode::Read };
    let (object, method) = &objects[usize::from(object)];
    match what {
        b'l' => method.lock(object, mode, wait),
        b'u' => method.unlock(object),
        b'U' => method.upgrade(object, wait),
        _ => method.downgrade(object),
    }
}

/// Obeys until there are no more orders.
fn serve<B: ShmBackend, L: LockMethod<B>>(names: &[OsString], orders: &OwnedFd, answers: &OwnedFd) {
    let open = |name: &OsString| {
        let object = B::open(name, Open::Existing).unwrap();
        let method = L::attach(&object).unwrap();
        (object, method)
    };
    let objects: Vec<(B, L)> = names.iter().map(open).collect();
    let mut order = [0; 8];
    loop {
        match rustix::io::retry_on_intr(|| rustix::io::read(orders, &mut order[..])).unwrap() {
            8 => {}
            0 => return,
            count => panic!("{count} bytes of an order"),
        }
        // Whoever gave the order may be gone.
        let _ = rustix::io::write(answers, &[letter(obey(&objects, order))]);
    }
}

impl Agent {
    /// One that knows these objects. Processes must be begun before threads are.
    pub(super) fn start<B: Subject, L: LockMethod<B>>(home: Home, names: &[&Fresh<B>]) -> Agent {
        let names: Vec<OsString> = names.iter().map(|name| name.to_os_string()).collect();
        let (obeys, orders) = pipe();
        let (answers, says) = pipe();
        let life = match home {
            Home::Thread => Life::Thread(Some(std::thread::spawn(move || {
                serve::<B, L>(&names, &obeys, &says);
            }))),
            Home::Process => {
                let (obeys, says) = (Arc::new(obeys), Arc::new(says));
                let of_child = (Arc::clone(&obeys), Arc::clone(&says));
                let run = move || {
                    serve::<B, L>(&names, &of_child.0, &of_child.1);
                    0
                };
                Life::Process(Fork.fork(&[obeys.as_fd(), says.as_fd()], run).unwrap())
            }
        };
        Agent { life, orders: Some(orders), answers }
    }

    /// Orders something.
    pub(super) fn tell(&self, order: Order, object: usize) {
        let orders = self.orders.as_ref().expect("it was not told to end");
        assert_eq!(rustix::io::write(orders, &encode(order, object)), Ok(8));
    }

    /// Waits for what came of the oldest order.
    pub(super) fn answer(&self) -> Answer {
        let mut answer = [0];
        let read = rustix::io::retry_on_intr(|| rustix::io::read(&self.answers, &mut answer[..]));
        assert_eq!(read, Ok(1), "the agent is gone");
        answer[0]
    }

    /// Orders something and waits for what comes of it.
    pub(super) fn ask(&self, order: Order, object: usize) -> Answer {
        self.tell(order, object);
        self.answer()
    }

    pub(super) fn write(&self, object: usize) {
        assert_eq!(self.ask(Order::Lock(Mode::Write, Wait::Forever), object), OK);
    }

    pub(super) fn read(&self, object: usize) {
        assert_eq!(self.ask(Order::Lock(Mode::Read, Wait::Forever), object), OK);
    }

    pub(super) fn unlock(&self, object: usize) {
        assert_eq!(self.ask(Order::Unlock, object), OK);
    }

    pub(super) fn can(&self, mode: Mode, object: usize) -> bool {
        match self.ask(Order::Lock(mode, Wait::Try), object) {
            OK => {
                self.unlock(object);
                true
            }
            BUSY => false,
            answer => panic!("{}", char::from(answer)),
        }
    }

    /// Kills the process, and waits until it is gone.
    pub(super) fn kill(&self) {
        let Life::Process(child) = &self.life else { panic!("threads cannot be killed") };
        child.kill(9).unwrap();
        assert!(matches!(child.wait().unwrap(), Exit::Signal { signal: 9, .. }));
    }

    /// Where its answers come from.
    pub(super) fn answers(&self) -> BorrowedFd<'_> {
        self.answers.as_fd()
    }

    pub(super) fn signal(&self, signal: i32) {
        let Life::Process(child) = &self.life else { panic!("threads cannot be stopped") };
        child.kill(signal).unwrap();
    }

    /// Waits until the process has stopped where it sleeps, as far as the system tells.
    pub(super) fn wait_until_asleep(&self) {
        let Life::Process(child) = &self.life else { panic!("only processes are looked at") };
        let path = format!("/proc/{}/stat", child.id());
        loop {
            let stat = std::fs::read_to_string(&path).unwrap();
            if stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('S')) {
                return;
            }
            std::thread::yield_now();
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.orders = None;
        match &mut self.life {
            Life::Thread(thread) => {
                let ended = thread.take().expect("it is joined once").join();
                assert!(ended.is_ok() || std::thread::panicking());
            }
            Life::Process(child) => {
                if std::thread::panicking() {
                    let _ = child.kill(9);
                }
                let _ = child.wait();
            }
        }
    }
}
