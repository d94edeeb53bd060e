//! Starting programs against `std::process::Command`, watching children against bare system calls, and units against
//! std's threads and commands: one run prints a line per target, its figure, and whether it is kept.
//!
//! | section | what is measured |
//! |---|---|
//! | a command | start `true` and wait for its end; std uses `posix_spawn`, or `fork` where it has to change more |
//! | watching | a bare `fork` whose child ends at once; then a pidfd, `poll`, `waitid`, against [`ChildProcess`] |
//! | a thousand at once | the same for 1 000 children, told by `epoll` |
//! | units | begin one, and wait for its end: a thread, against `std::thread`; this program anew, against `Command` of std |
//!
//! ```sh
//! cargo bench --bench spawn
//! cargo bench --bench spawn -- "watching"            # the sections whose title contains this
//! MANYCORE_BENCH_ROUNDS=21 cargo bench --bench spawn # instead of 5
//! ```

mod report;

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use manycore::poll::Interest;
use manycore::spawn::{Child, ChildProcess, Command, Entry, Exit, Group, WatchBy};
use manycore::{Epoll, Exec, Poller, Spawner, Thread};
use report::{Judged, Limit, Report, Row, is_measuring, is_wanted, rounds};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid};

const PROGRAM: &str = "/bin/true";

/// Microseconds of one.
fn measure(count: u32, mut one: impl FnMut()) -> f64 {
    one();
    let start = Instant::now();
    (0..count).for_each(|_| one());
    start.elapsed().as_nanos() as f64 / 1_000.0 / f64::from(count)
}

/// A child that ends at once, made by nothing but `fork`. The process has one thread.
fn bare_child() -> Pid {
    // SAFETY: the calling thread is the only one of this process, and the child does nothing but end.
    match unsafe { libc::fork() } {
        // SAFETY: takes an integer, and does not return.
        0 => unsafe { libc::_exit(0) },
        pid => Pid::from_raw(pid).expect("there is room for a process"),
    }
}

fn ours(pid: Pid) -> ChildProcess {
    ChildProcess::watch(pid.as_raw_nonzero().get().unsigned_abs(), WatchBy::Best).unwrap()
}

fn reap(pidfd: &OwnedFd) {
    assert!(waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED).unwrap().is_some());
}

fn commands(report: &mut Report, rounds: usize, count: u32) {
    let plain = || assert!(std_command().status().unwrap().success());
    let plain_ours = || assert_eq!(Command::new(PROGRAM).status().unwrap(), Exit::Code(0));
    let grouped = || assert!(std_command().process_group(0).status().unwrap().success());
    let grouped_ours =
        || assert_eq!(Command::new(PROGRAM).group(Group::NewBackground).status().unwrap(), Exit::Code(0));
    let moved = || assert!(std_command().current_dir("/").status().unwrap().success());
    let moved_ours = || assert_eq!(Command::new(PROGRAM).current_dir("/").status().unwrap(), Exit::Code(0));
    let session = || {
        let mut command = std_command();
        // SAFETY: one system call, which is async-signal-safe.
        unsafe { command.pre_exec(|| rustix::process::setsid().map(|_| ()).map_err(Into::into)) };
        assert!(command.status().unwrap().success());
    };
    let session_ours =
        || assert_eq!(Command::new(PROGRAM).group(Group::NewSession).status().unwrap(), Exit::Code(0));
    type Pair<'a> = (&'a str, &'a dyn Fn(), &'a dyn Fn());
    let pairs: [Pair<'_>; 4] = [
        ("as it is", &plain, &plain_ours),
        ("in a new group", &grouped, &grouped_ours),
        ("in another directory", &moved, &moved_ours),
        ("in a new session (std: pre_exec)", &session, &session_ours),
    ];
    let mut large: Vec<u8> = Vec::new();
    for (size, title) in [(0_usize, "a command, from a small process"), (64, "a command, from one of 64 MiB")]
    {
        if !is_wanted(title) {
            continue;
        }
        large.resize(size << 20, 1);
        report.section(title, "std", "ours");
        for (what, std, ours) in pairs {
            let (mut of_std, mut of_ours) = (Vec::new(), Vec::new());
            for _ in 0..rounds {
                of_std.push(measure(count, std));
                of_ours.push(measure(count, ours));
            }
            report.row(&Row::compared(what, "Command", &of_ours, &of_std, Judged::Ratio(Limit::AtMost(1.1))));
        }
    }
    drop(large);
}

#[allow(clippy::disallowed_methods, reason = "it is what ours is compared with")]
fn std_command() -> std::process::Command {
    std::process::Command::new(PROGRAM)
}

fn watching(report: &mut Report, rounds: usize, count: u32) {
    let bare = || {
        let pidfd = pidfd_open(bare_child(), PidfdFlags::empty()).unwrap();
        let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
        assert_eq!(rustix::event::poll(&mut fds, None), Ok(1));
        reap(&pidfd);
    };
    let ours = || {
        let child = ours(bare_child());
        let mut fds = [PollFd::new(&child, PollFlags::IN)];
        assert_eq!(rustix::event::poll(&mut fds, None), Ok(1));
        assert_eq!(child.try_wait().unwrap(), Some(Exit::Code(0)));
    };
    compare(report, rounds, "one after the other", || measure(count, bare), || measure(count, ours));
}

fn thousand(report: &mut Report, rounds: usize, count: u64) {
    let per_child = |elapsed: Duration| elapsed.as_nanos() as f64 / 1_000.0 / count as f64;
    let bare = || {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let start = Instant::now();
        let children: Vec<OwnedFd> =
            (0..count).map(|_| pidfd_open(bare_child(), PidfdFlags::empty()).unwrap()).collect();
        for (key, child) in (0..).zip(&children) {
            epoll::add(&epoll, child, EventData::new_u64(key), EventFlags::IN).unwrap();
        }
        let mut events: Vec<epoll::Event> = Vec::with_capacity(128);
        let mut left = children.len();
        while left > 0 {
            events.clear();
            left -= epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), None).unwrap();
            for event in &events {
                let child = &children[event.data.u64() as usize];
                reap(child);
                epoll::delete(&epoll, child).unwrap();
            }
        }
        drop(children);
        per_child(start.elapsed())
    };
    let ours = || {
        let epoll = Epoll::new().unwrap();
        let start = Instant::now();
        let children: Vec<Arc<ChildProcess>> = (0..count).map(|_| Arc::new(ours(bare_child()))).collect();
        for (key, child) in (0..).zip(&children) {
            epoll.add(key, child.clone(), Interest::READ).unwrap();
        }
        let mut events = Vec::new();
        let mut left = children.len();
        while left > 0 {
            epoll.wait(&mut events, None).unwrap();
            left -= events.len();
            for event in &events {
                assert_eq!(children[event.key as usize].try_wait().unwrap(), Some(Exit::Code(0)));
                epoll.remove(event.key).unwrap();
            }
        }
        drop(children);
        per_child(start.elapsed())
    };
    compare(report, rounds, "each of them", bare, ours);
}

fn units(report: &mut Report, rounds: usize, count: u32) {
    let mut row = |what, name, std: &dyn Fn() -> f64, ours: &dyn Fn() -> f64, limit| {
        let (mut of_std, mut of_ours) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            of_std.push(std());
            of_ours.push(ours());
        }
        report.row(&Row::compared(what, name, &of_ours, &of_std, Judged::Ratio(Limit::AtMost(limit))));
    };
    // Only the beginning is timed: the ends come before the next.
    let begun = |begin: &dyn Fn() -> Box<dyn FnOnce()>| {
        let mut elapsed = Duration::ZERO;
        for _ in 0..count {
            let start = Instant::now();
            let end = begin();
            elapsed += start.elapsed();
            end();
        }
        elapsed.as_nanos() as f64 / 1_000.0 / f64::from(count)
    };
    let std_begun = || {
        let thread = std::thread::spawn(|| 0);
        Box::new(move || assert_eq!(thread.join().unwrap(), 0)) as Box<dyn FnOnce()>
    };
    let ours_begun = || {
        let child = Thread.spawn((), |()| 0).unwrap();
        Box::new(move || assert_eq!(child.wait().unwrap(), Exit::Code(0))) as Box<dyn FnOnce()>
    };
    row("beginning a thread", "Thread", &|| begun(&std_begun), &|| begun(&ours_begun), 2.0);
    let std = || assert_eq!(std::thread::spawn(|| 0).join().unwrap(), 0);
    let ours = || assert_eq!(Thread.spawn((), |()| 0).unwrap().wait().unwrap(), Exit::Code(0));
    row("a thread, and its end", "Thread", &|| measure(count, std), &|| measure(count, ours), 2.0);

    let null = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    #[allow(clippy::disallowed_methods, reason = "it is what ours is compared with")]
    let std = || {
        let mut command = std::process::Command::new("/proc/self/exe");
        assert!(command.env(AT_ONCE, "").stdin(null()).status().unwrap().success());
    };
    let ours = || assert_eq!(Exec.spawn(null(), unit).unwrap().wait().unwrap(), Exit::Code(0));
    let count = count / 10 + 1;
    row("this program, and its end", "Exec", &|| measure(count, std), &|| measure(count, ours), 1.2);
}

/// With this variable the program ends at once.
const AT_ONCE: &str = "MANYCORE_BENCH_END_AT_ONCE";

fn unit(_: OwnedFd) -> i32 {
    0
}

fn compare(report: &mut Report, rounds: usize, what: &str, bare: impl Fn() -> f64, ours: impl Fn() -> f64) {
    let (mut of_bare, mut of_ours) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        of_bare.push(bare());
        of_ours.push(ours());
    }
    report.row(&Row::compared(what, "ChildProcess", &of_ours, &of_bare, Judged::Ratio(Limit::AtMost(1.1))));
}

fn main() {
    Exec::enter(Entry::Main, unit);
    if std::env::var_os(AT_ONCE).is_some() {
        return;
    }
    let measuring = is_measuring();
    let rounds = rounds();
    println!("{rounds} rounds; microseconds");
    let mut report = Report::default();
    commands(&mut report, rounds, if measuring { 200 } else { 2 });
    for (title, run) in [
        ("watching", watching as fn(&mut Report, usize, u32)),
        ("a thousand at once", |report, rounds, count| thousand(report, rounds, count.into())),
    ] {
        if is_wanted(title) {
            report.section(title, "bare", "ours");
            run(&mut report, rounds, if measuring { 1_000 } else { 10 });
        }
    }
    // The last, for it leaves the process with threads for a moment.
    if is_wanted("units") {
        report.section("units", "std", "ours");
        units(&mut report, rounds, if measuring { 1_000 } else { 10 });
    }
    report.end();
}
