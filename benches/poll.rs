//! Pollers against the bare system calls: one run prints a line per target, its figure, and whether it is kept.
//!
//! One descriptor is ready among 1 to 10 000, and each wait finds it. The bare calls keep all they need from one wait
//! to the next: `poll` its array, `select` its sets (of which it needs a fresh copy each time), `epoll` its list. Ours
//! are measured as a [`Poller`] and, where there is one, as a [`PollArray`]; each looks (timeout zero) and waits for ever,
//! and is compared with the same of the bare call.
//!
//! ```sh
//! cargo bench --bench poll                        # all of it
//! cargo bench --bench poll -- "10000"             # the sections whose title contains this
//! MANYCORE_BENCH_ROUNDS=21 cargo bench --bench poll   # instead of 5
//! ```

mod report;

use std::hint::black_box;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use manycore::poll::{ByPoll, BySelect, Interest, PollArray};
use manycore::{Epoll, Poll, Poller, Select};
use report::{Judged, Limit, Report, Row, is_measuring, is_wanted, rounds};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{
    EventfdFlags, FdSetElement, PollFd, PollFlags, Timespec, eventfd, fd_set_insert, fd_set_num_elements,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

type Descriptors = Vec<Arc<OwnedFd>>;

/// Does one wait, and asserts that it finds one descriptor.
type Subject<'fds> = Box<dyn FnMut() + 'fds>;

fn zero() -> Timespec {
    Timespec { tv_sec: 0, tv_nsec: 0 }
}

fn bare_poll(fds: &Descriptors, timeout: Option<Duration>) -> Subject<'_> {
    let mut array: Vec<PollFd<'_>> = fds.iter().map(|fd| PollFd::new(&**fd, PollFlags::IN)).collect();
    let timeout = timeout.map(|_| zero());
    Box::new(move || assert_eq!(rustix::event::poll(&mut array, timeout.as_ref()), Ok(1)))
}

fn bare_select(fds: &Descriptors, timeout: Option<Duration>) -> Subject<'_> {
    let bound = fds.iter().map(|fd| fd.as_raw_fd()).max().expect("there are some") + 1;
    let mut all = vec![FdSetElement::default(); fd_set_num_elements(fds.len(), bound)];
    fds.iter().for_each(|fd| fd_set_insert(&mut all, fd.as_raw_fd()));
    let mut set = all.clone();
    let timeout = timeout.map(|_| zero());
    Box::new(move || {
        set.copy_from_slice(&all);
        // SAFETY: the descriptors are borrowed, and so open; the set has a bit for each number below the bound.
        let ready = unsafe { rustix::event::select(bound, Some(&mut set), None, None, timeout.as_ref()) };
        assert_eq!(ready, Ok(1));
        // Which one is it?
        black_box(rustix::event::FdSetIter::new(&set).next());
    })
}

fn bare_epoll(fds: &Descriptors, timeout: Option<Duration>) -> Subject<'_> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    for (key, fd) in (0..).zip(fds) {
        epoll::add(&epoll, fd, EventData::new_u64(key), EventFlags::IN).unwrap();
    }
    let mut events: Vec<epoll::Event> = Vec::with_capacity(128);
    let timeout = timeout.map(|_| zero());
    Box::new(move || {
        events.clear();
        let spare = rustix::buffer::spare_capacity(&mut events);
        assert_eq!(epoll::wait(&epoll, spare, timeout.as_ref()), Ok(1));
    })
}

fn poller<P: Poller>(fds: &Descriptors, timeout: Option<Duration>) -> Subject<'_> {
    let poll = P::new().unwrap();
    for (key, fd) in (0..).zip(fds) {
        poll.add(key, fd.clone(), Interest::READ).unwrap();
    }
    let mut events = Vec::new();
    Box::new(move || {
        poll.wait(&mut events, timeout).unwrap();
        assert_eq!(events.len(), 1);
    })
}

macro_rules! array {
    ($call:ty) => {
        |fds, timeout| {
            let mut array = PollArray::<$call>::with_call(fds.len());
            for (index, fd) in fds.iter().enumerate() {
                array.set(index, fd.as_fd(), Interest::READ).unwrap();
            }
            let count = fds.len();
            Box::new(move || assert_eq!(array.wait(count, timeout).unwrap(), 1))
        }
    };
}

type Maker = for<'fds> fn(&'fds Descriptors, Option<Duration>) -> Subject<'fds>;

struct Family {
    name: &'static str,
    bare: Maker,
    ours: &'static [(&'static str, Maker)],
    limit: f64,
}

const FAMILIES: [Family; 3] = [
    Family {
        name: "poll",
        bare: bare_poll,
        ours: &[("PollArray", array!(ByPoll)), ("Poll", poller::<Poll>)],
        limit: 1.05,
    },
    Family {
        name: "select",
        bare: bare_select,
        ours: &[("PollArray", array!(BySelect)), ("Select", poller::<Select>)],
        limit: 1.2,
    },
    Family { name: "epoll", bare: bare_epoll, ours: &[("Epoll", poller::<Epoll>)], limit: 1.3 },
];

/// Microseconds of a wait.
fn measure(subject: &mut Subject<'_>, time: Duration) -> f64 {
    let batch = if time.is_zero() { 1 } else { 16 };
    (0..batch).for_each(|_| subject());
    let start = Instant::now();
    let mut waits = 0_u32;
    loop {
        (0..batch).for_each(|_| subject());
        waits += batch;
        let elapsed = start.elapsed();
        if elapsed >= time {
            return elapsed.as_nanos() as f64 / 1_000.0 / f64::from(waits);
        }
    }
}

fn main() {
    let (sizes, time) = if is_measuring() {
        (&[1, 100, 1_000, 10_000][..], Duration::from_millis(60))
    } else {
        (&[1, 100][..], Duration::ZERO)
    };
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let rounds = rounds();
    println!("{rounds} rounds; microseconds of a wait");
    let mut report = Report::default();
    let mut flat: Vec<Vec<f64>> = Vec::new();
    for &size in sizes {
        let fds: Descriptors = (0..size)
            .map(|_| Arc::new(eventfd(0, EventfdFlags::CLOEXEC).expect("the limit is higher")))
            .collect();
        rustix::io::write(&fds[size / 2], &1_u64.to_ne_bytes()).unwrap();
        for (how, timeout) in [("a look", Some(Duration::ZERO)), ("a wait", None)] {
            let title = format!("1 ready among {size}, {how}");
            if !is_wanted(&title) {
                continue;
            }
            report.section(&title, "bare", "ours");
            for Family { name, bare, ours, limit } in &FAMILIES {
                let mut bare = bare(&fds, timeout);
                let mut ours: Vec<(&str, Subject<'_>, Vec<f64>, Vec<f64>)> = ours
                    .iter()
                    .map(|(who, make)| (*who, make(&fds, timeout), Vec::new(), Vec::new()))
                    .collect();
                for _ in 0..rounds {
                    for (_, subject, figures, against) in &mut ours {
                        against.push(measure(&mut bare, time));
                        figures.push(measure(subject, time));
                    }
                }
                for (who, _, figures, against) in &ours {
                    let limit = Judged::Ratio(Limit::AtMost(*limit));
                    report.row(&Row::compared(*name, who, figures, against, limit));
                    if *who == "Epoll" && timeout.is_none() {
                        flat.push(figures.clone());
                    }
                }
            }
        }
    }
    if let [first, .., last] = &flat[..] {
        report.section("Epoll, the largest set against one descriptor", "one", "all");
        report.row(&Row::compared("a wait", "Epoll", last, first, Judged::Ratio(Limit::AtMost(1.3))));
    }
    report.end();
}
