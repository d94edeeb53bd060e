//! A `Poll` keeps the eight laws of `Poller`, and a signal that arrives during a wait changes nothing.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use manycore_backends::poll::{Event, Interest, Poll, Poller, Ready};
use manycore_backends::testing::poll::until_asleep;
use rustix::event::{EventfdFlags, eventfd};

manycore_backends::poll_conformance!(poll, Poll);

static HANDLED: AtomicI32 = AtomicI32::new(0);

extern "C" fn count(_: libc::c_int) {
    HANDLED.fetch_add(1, Ordering::SeqCst);
}

/// Sends `SIGUSR1` to the thread, and returns when its handler has run.
fn interrupt(thread: i32) {
    let before = HANDLED.load(Ordering::SeqCst);
    let process = rustix::process::getpid().as_raw_nonzero().get();
    // SAFETY: takes integers. The thread is one of ours, and the signal has a handler.
    let result = unsafe { libc::syscall(libc::SYS_tgkill, process, thread, libc::SIGUSR1) };
    assert_eq!(result, 0);
    while HANDLED.load(Ordering::SeqCst) == before {
        thread::yield_now();
    }
}

/// Runs the wait, disturbed by ten signals; the thread lives until all were handled.
fn disturbed(poll: &Poll, timeout: Option<Duration>, act: impl FnOnce()) -> (Vec<Event>, Duration) {
    thread::scope(|scope| {
        let (identity, thread) = mpsc::channel();
        let (finish, finished) = mpsc::channel::<()>();
        let waiter = scope.spawn(move || {
            identity.send(rustix::thread::gettid().as_raw_nonzero().get()).expect("the receiver waits");
            let start = Instant::now();
            let mut events = Vec::new();
            poll.wait(&mut events, timeout).expect("a signal is not an error");
            let elapsed = start.elapsed();
            finished.recv().expect("the sender lives");
            (events, elapsed)
        });
        let thread = thread.recv().expect("the thread starts");
        for _ in 0..10 {
            until_asleep(thread);
            interrupt(thread);
        }
        act();
        finish.send(()).expect("the thread waits");
        waiter.join().expect("the thread does not panic")
    })
}

// Law 5. The handler belongs to the whole program: one test for all that needs it.
#[test]
fn signals_do_not_end_or_shorten_a_wait() {
    // SAFETY: all zeroes is a valid value: no flags, so that system calls are not restarted.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = count as extern "C" fn(libc::c_int) as libc::sighandler_t;
    // SAFETY: the handler is one atomic addition, which is async-signal-safe.
    let result = unsafe { libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut()) };
    assert_eq!(result, 0);

    let poll = Poll::new().expect("an empty set can be made");
    let counter: Arc<OwnedFd> = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).expect("an eventfd can be made"));
    poll.add(1, counter.clone(), Interest::READ).expect("the key is free");

    let timeout = Duration::from_millis(20);
    let (events, elapsed) = disturbed(&poll, Some(timeout), || ());
    assert_eq!(events, []);
    assert!(elapsed >= timeout, "{elapsed:?}");

    let ready = || {
        rustix::io::write(&counter, &1_u64.to_ne_bytes()).expect("the counter is low");
    };
    let (events, _) = disturbed(&poll, None, ready);
    assert_eq!(events, [Event { key: 1, ready: Ready::READ }]);
}
