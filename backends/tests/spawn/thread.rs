//! `Thread`: units are ended at their checkpoints, whatever they catch, without a message; and nothing is left of them.

use std::cell::RefCell;
use std::fs;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use manycore_backends::Spawner;
use manycore_backends::spawn::{
    Child, Exit, Fork, SpawnError, Thread, ThreadChild, checkpoint, exit, is_ending, is_killed,
};
use manycore_backends::testing::TestCase;
use manycore_backends::testing::spawn::{in_a_unit, open_descriptors};

const KILLED: Exit = Exit::Signal { signal: libc::SIGKILL, core: false };

pub(crate) fn all() -> Vec<TestCase> {
    macro_rules! list {
        ($($name:ident)*) => { vec![$((stringify!($name), $name as fn()),)*] };
    }
    list! {
        kill_that_is_swallowed_counts_all_the_same
        exit_that_is_swallowed_counts_all_the_same
        exit_leaves_from_deep_inside_and_drops_what_is_there
        killed_unit_that_returns_was_killed
        what_was_decided_first_counts
        every_signal_does_what_it_does_by_default
        ends_without_panic_print_nothing
        checkpoint_is_nothing_to_who_is_no_unit
        checkpoint_while_unwinding_is_nothing
        checkpoint_after_the_end_is_nothing
        anything_can_be_given_and_is_dropped_before_the_end_is_told
        thread_has_a_name
        two_hundred_threads_at_once_leave_no_descriptor
        handle_carried_into_a_forked_child_is_no_harm
    }
}

/// Tells the test a thing of the unit's.
type Tell<T> = Sender<T>;

fn spawn<T: Send + 'static>(run: impl FnOnce(Tell<T>) -> i32 + Send + 'static) -> (ThreadChild, Receiver<T>) {
    let (tell, told) = channel();
    (Thread.spawn(tell, run).expect("there is room for a thread"), told)
}

fn exit_of(child: &ThreadChild) -> Exit {
    child.wait().expect("waiting does not fail")
}

fn forever() -> ! {
    loop {
        checkpoint();
        std::thread::yield_now();
    }
}

fn kill_that_is_swallowed_counts_all_the_same() {
    let (child, told) = spawn(|tell| {
        tell.send(is_killed()).expect("the test listens");
        for _ in 0..3 {
            let payload = catch_unwind(|| forever()).expect_err("it does not return");
            tell.send(is_ending(&*payload) && is_killed()).expect("the test listens");
        }
        5
    });
    assert_eq!(told.recv(), Ok(false));
    child.kill(libc::SIGKILL).expect("it runs");
    assert_eq!(exit_of(&child), KILLED);
    assert_eq!(told.iter().collect::<Vec<_>>(), [true; 3]);

    // Also by code that panics because of it.
    let (child, _told) = spawn(|_: Tell<()>| {
        let _ = catch_unwind(|| forever());
        panic!("somebody has ended below me")
    });
    child.kill(libc::SIGKILL).expect("it runs");
    assert_eq!(exit_of(&child), KILLED);
}

fn exit_that_is_swallowed_counts_all_the_same() {
    let (child, told) = spawn(|tell| {
        let payload = catch_unwind(|| exit(3)).expect_err("it does not return");
        tell.send(is_ending(&*payload)).expect("the test listens");
        // A unit that is to end does so at its next checkpoint, and was not killed.
        let payload = catch_unwind(|| forever()).expect_err("it does not return");
        tell.send(is_ending(&*payload) && !is_killed()).expect("the test listens");
        let _ = catch_unwind(|| exit(4));
        5
    });
    assert_eq!(exit_of(&child), Exit::Code(3));
    assert_eq!(told.iter().collect::<Vec<_>>(), [true; 2]);
    assert!(!is_ending(&"a panic"));
}

fn exit_leaves_from_deep_inside_and_drops_what_is_there() {
    struct Told(Tell<u32>, u32);
    impl Drop for Told {
        fn drop(&mut self) {
            self.0.send(self.1).expect("the test listens");
        }
    }
    fn dig(tell: &Tell<u32>, depth: u32) {
        let _told = Told(tell.clone(), depth);
        match depth {
            0 => exit(-1),
            _ => dig(tell, depth - 1),
        }
    }
    let (child, told) = spawn(|tell| {
        // As code does that has to clean up.
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| dig(&tell, 3))) {
            tell.send(9).expect("the test listens");
            resume_unwind(payload);
        }
        5
    });
    assert_eq!(exit_of(&child), Exit::Code(255));
    assert_eq!(told.iter().collect::<Vec<_>>(), [0, 1, 2, 3, 9]);
}

fn killed_unit_that_returns_was_killed() {
    let (child, _told) = spawn(|_: Tell<()>| {
        while !is_killed() {
            std::thread::yield_now();
        }
        5
    });
    child.kill(libc::SIGTERM).expect("it runs");
    assert_eq!(exit_of(&child), Exit::Signal { signal: libc::SIGTERM, core: false });
}

fn what_was_decided_first_counts() {
    let (go, wait) = channel::<()>();
    let (child, told) = spawn(move |tell| {
        let _ = catch_unwind(|| exit(3));
        tell.send(()).expect("the test listens");
        let _ = wait.recv();
        5
    });
    told.recv().expect("the unit says it");
    child.kill(libc::SIGKILL).expect("it runs");
    drop(go);
    assert_eq!(exit_of(&child), Exit::Code(3));

    let (child, told) = spawn(|tell| {
        tell.send(()).expect("the test listens");
        forever()
    });
    told.recv().expect("the unit says it");
    child.kill(libc::SIGTERM).expect("it runs");
    child.kill(libc::SIGKILL).expect("it is no error");
    assert_eq!(exit_of(&child), Exit::Signal { signal: libc::SIGTERM, core: false });
}

fn every_signal_does_what_it_does_by_default() {
    let nothing = [0, libc::SIGCHLD, libc::SIGCONT, libc::SIGURG, libc::SIGWINCH];
    let stop = [libc::SIGSTOP, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];
    for signal in -1..=66 {
        let (go, wait) = channel::<()>();
        let (child, _told) = spawn(move |_: Tell<()>| {
            let _ = wait.recv();
            5
        });
        let result = child.kill(signal);
        let errno = match &result {
            Ok(()) => 0,
            Err(SpawnError::Io { source, .. }) => source.raw_os_error().expect("it has an errno"),
            Err(error) => panic!("{error}"),
        };
        drop(go);
        let exit = exit_of(&child);
        if nothing.contains(&signal) {
            assert_eq!((errno, exit), (0, Exit::Code(5)), "{signal}");
        } else if stop.contains(&signal) {
            assert_eq!((errno, exit), (libc::EOPNOTSUPP, Exit::Code(5)), "{signal}");
        } else if (1..=64).contains(&signal) {
            assert_eq!((errno, exit), (0, Exit::Signal { signal, core: false }), "{signal}");
        } else {
            assert_eq!((errno, exit), (libc::EINVAL, Exit::Code(5)), "{signal}");
        }
    }
}

/// What prints the message of a panic is the hook; here it counts.
fn ends_without_panic_print_nothing() {
    static PANICS: AtomicU32 = AtomicU32::new(0);
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {
        PANICS.fetch_add(1, Ordering::SeqCst);
    }));
    let (child, _told) = spawn(|_: Tell<()>| forever());
    child.kill(libc::SIGKILL).expect("it runs");
    let exits = [exit_of(&child), exit_of(&spawn(|_: Tell<()>| exit(3)).0)];
    let silent = PANICS.load(Ordering::SeqCst);
    let panicked = exit_of(&spawn(|_: Tell<()>| panic!("counted")).0);
    std::panic::set_hook(before);
    assert_eq!((exits, silent), ([KILLED, Exit::Code(3)], 0));
    assert_eq!((panicked, PANICS.load(Ordering::SeqCst)), (Exit::Code(101), 1));
}

fn checkpoint_is_nothing_to_who_is_no_unit() {
    checkpoint();
    assert!(!is_killed());
    in_a_unit(|| {
        checkpoint();
        assert!(!is_killed());
    });
    let (child, told) = spawn(|tell| {
        while !is_killed() {
            std::thread::yield_now();
        }
        // A thread of the unit's is not the unit.
        let other = std::thread::spawn(|| {
            checkpoint();
            is_killed()
        });
        tell.send(other.join().expect("it does not unwind")).expect("the test listens");
        5
    });
    child.kill(libc::SIGKILL).expect("it runs");
    assert_eq!(exit_of(&child), KILLED);
    assert_eq!(told.recv(), Ok(false));
}

fn checkpoint_while_unwinding_is_nothing() {
    struct Checks(Tell<bool>);
    impl Drop for Checks {
        fn drop(&mut self) {
            checkpoint();
            self.0.send(std::thread::panicking()).expect("the test listens");
        }
    }
    let (child, told) = spawn(|tell| {
        let _checks = Checks(tell);
        forever()
    });
    child.kill(libc::SIGKILL).expect("it runs");
    assert_eq!(exit_of(&child), KILLED);
    assert_eq!(told.recv(), Ok(true));
}

/// A destructor of a thread-local that unwinds would abort the program.
fn checkpoint_after_the_end_is_nothing() {
    struct Checks(Tell<bool>);
    impl Drop for Checks {
        fn drop(&mut self) {
            checkpoint();
            self.0.send(is_killed()).expect("the test listens");
        }
    }
    thread_local! {
        static CHECKS: RefCell<Option<Checks>> = const { RefCell::new(None) };
    }
    let (child, told) = spawn(|tell| {
        CHECKS.set(Some(Checks(tell)));
        forever()
    });
    child.kill(libc::SIGKILL).expect("it runs");
    assert_eq!(exit_of(&child), KILLED);
    assert_eq!(told.recv(), Ok(false));
}

fn anything_can_be_given_and_is_dropped_before_the_end_is_told() {
    for _ in 0..100 {
        let given = Arc::new(String::from("given"));
        let owned = Arc::new(());
        let kept = Arc::clone(&owned);
        let child = Thread.spawn(Arc::clone(&given), move |given| {
            let _kept = kept;
            given.len() as i32
        });
        assert_eq!(exit_of(&child.expect("there is room for a thread")), Exit::Code(5));
        assert_eq!((Arc::strong_count(&given), Arc::strong_count(&owned)), (1, 1));
    }
}

fn thread_has_a_name() {
    let (go, wait) = channel::<()>();
    let (child, _told) = spawn(move |_: Tell<()>| {
        let _ = wait.recv();
        0
    });
    let name = fs::read_to_string(format!("/proc/self/task/{}/comm", child.id()));
    assert_eq!(name.expect("the thread runs"), "manycore-unit\n");
    drop(go);
    assert_eq!(exit_of(&child), Exit::Code(0));
}

fn two_hundred_threads_at_once_leave_no_descriptor() {
    let before = open_descriptors();
    let (go, wait) = channel::<()>();
    let wait = Arc::new(std::sync::Mutex::new(wait));
    let children: Vec<_> = (0..200)
        .map(|code| {
            let wait = Arc::clone(&wait);
            let child = Thread.spawn((), move |()| {
                let _ = wait.lock().expect("nobody panics").recv();
                code
            });
            child.expect("there is room for a thread")
        })
        .collect();
    assert!(children.iter().all(|child| child.try_wait().expect("it does not fail").is_none()));
    drop(go);
    for (code, child) in (0..).zip(&children) {
        assert_eq!(exit_of(child), Exit::Code(code));
    }
    drop(children);
    assert_eq!(open_descriptors(), before);
}

fn handle_carried_into_a_forked_child_is_no_harm() {
    let (child, _told) = spawn(|_: Tell<()>| 5);
    assert_eq!(exit_of(&child), Exit::Code(5));
    // The thread may be there for a moment still.
    while fs::read_dir("/proc/self/task").expect("it can be listed").count() > 1 {
        std::thread::yield_now();
    }
    let number = std::os::fd::AsRawFd::as_raw_fd(&child.as_fd());
    let unit = Fork.fork(&[], move || {
        assert_eq!(exit_of(&child), Exit::Code(5));
        let mut opened = Vec::new();
        while !open_descriptors().contains(&number) {
            opened.push(fs::File::open("/dev/null").expect("a descriptor is free"));
        }
        let before = open_descriptors();
        drop(child);
        assert_eq!(open_descriptors(), before);
        0
    });
    assert_eq!(unit.expect("one thread").wait().expect("ours"), Exit::Code(0));
}
