//! Workers and pools against other libraries that start processes: procspawn, and Python's multiprocessing if `python3`
//! is there. It has a `Cargo.toml` of its own, so that nobody else has to build them.
//!
//! ```sh
//! cargo run --release --manifest-path benches/peers_processes/Cargo.toml
//! MANYCORE_BENCH_ROUNDS=9 cargo run --release --manifest-path benches/peers_processes/Cargo.toml   # instead of 3
//! ```
//!
//! Each figure is measured in a process of its own, in turns: of a worker that is started, squares a number and is joined;
//! and of empty tasks for a pool of two, one after the other, or as many as there is room for.

#[path = "../../report/mod.rs"]
mod report;

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::process::Command;
use std::time::{Duration, Instant};

use manycore::{Execed, Forked, Platform, Runtime, Worker, Workers};
use procspawn::JoinHandle;
use report::{Judged, Limit, Report, Row};

const SQUARE: Worker<u64, u64> = Worker::new("square", |_, number| number * number);

const NOTHING: Worker<u64, u64> = Worker::new("nothing", |_, number| number);

/// Starts and joins so many workers, so many at a time.
const MEASURE: Worker<(u64, u64), Duration> = Worker::fallible("measure", |context, (count, at_once)| {
    let start = Instant::now();
    for _ in 0..count / at_once {
        let workers: Vec<_> =
            (0..at_once).map(|number| context.start(&SQUARE, number)).collect::<Result<_, _>>()?;
        for (number, worker) in (0..).zip(workers) {
            assert_eq!(context.join(worker)?, number * number);
        }
    }
    Ok(start.elapsed())
});

fn workers() -> Workers {
    Workers::new().with(&SQUARE).with(&NOTHING).with(&MEASURE)
}

/// Prints seconds, given what to measure and how many.
const PYTHON: &str = "\
import multiprocessing, sys, time

def square(connection, number):
    connection.send(number * number)

def nothing(number):
    return number

def start_and_join(count):
    for number in range(count):
        reader, writer = multiprocessing.Pipe(False)
        process = multiprocessing.Process(target=square, args=(writer, number))
        process.start()
        assert reader.recv() == number * number
        process.join()

what, count = sys.argv[1], int(sys.argv[2])
multiprocessing.set_start_method('fork')
if what == 'start':
    start = time.perf_counter()
    start_and_join(count)
else:
    with multiprocessing.Pool(2) as pool:
        pool.map(nothing, range(100))
        start = time.perf_counter()
        if what == 'trip':
            for number in range(count):
                assert pool.apply(nothing, (number,)) == number
        elif what == 'tasks':
            assert sum(pool.imap(nothing, range(count), 1)) == count * (count - 1) // 2
        else:
            assert sum(pool.map(nothing, range(count))) == count * (count - 1) // 2
        end = time.perf_counter()
        print(end - start)
        sys.exit()
print(time.perf_counter() - start)
";

fn start_and_join<P: Platform>(count: u64, at_once: u64) -> Duration {
    Runtime::<P>::default().with_all(&workers()).run(&MEASURE, (count, at_once)).unwrap()
}

fn trips<P: Platform>(count: u64) -> Duration {
    let mut pool = Runtime::<P>::default().pool(&NOTHING).workers(2);
    pool.map(0..100).unwrap();
    timed(|| (0..count).for_each(|number| assert_eq!(pool.map([number]).unwrap(), [number])))
}

fn tasks<P: Platform>(batch: u32, count: u64) -> Duration {
    let mut pool = Runtime::<P>::default().pool(&NOTHING).workers(2).batch(batch);
    pool.map(0..100).unwrap();
    timed(|| {
        let mut sum = 0;
        let take = |_, result: Result<u64, _>| {
            sum += result.unwrap();
            ControlFlow::Continue(())
        };
        pool.each(0..count, take).unwrap();
        assert_eq!(sum, count * (count - 1) / 2);
    })
}

fn procspawn_start_and_join(count: u64, at_once: u64) -> Duration {
    timed(|| {
        for _ in 0..count / at_once {
            let workers: Vec<_> =
                (0..at_once).map(|number| procspawn::spawn(number, |number| number * number)).collect();
            for (number, worker) in (0..).zip(workers) {
                assert_eq!(worker.join().unwrap(), number * number);
            }
        }
    })
}

fn procspawn_pool() -> procspawn::Pool {
    let pool = procspawn::Pool::new(2).unwrap();
    let handles: Vec<_> = (0..100).map(|number: u64| pool.spawn(number, |number: u64| number)).collect();
    (0..).zip(handles).for_each(|(number, handle)| assert_eq!(handle.join().unwrap(), number));
    pool
}

fn procspawn_trips(count: u64) -> Duration {
    let pool = procspawn_pool();
    timed(|| {
        for number in 0..count {
            assert_eq!(pool.spawn(number, |number: u64| number).join().unwrap(), number);
        }
    })
}

fn procspawn_tasks(count: u64) -> Duration {
    let pool = procspawn_pool();
    timed(|| {
        let mut sum = 0;
        let mut handles = VecDeque::new();
        for number in 0..count {
            // Each has descriptors.
            if handles.len() == 100 {
                sum += handles.pop_front().map_or(0, |handle: JoinHandle<u64>| handle.join().unwrap());
            }
            handles.push_back(pool.spawn(number, |number: u64| number));
        }
        sum += handles.into_iter().map(|handle| handle.join().unwrap()).sum::<u64>();
        assert_eq!(sum, count * (count - 1) / 2);
    })
}

fn timed(body: impl FnOnce()) -> Duration {
    let start = Instant::now();
    body();
    start.elapsed()
}

/// A figure of another process, which prints how many seconds all took.
fn figure(command: &mut Command, what: &str, count: u64, per_second: bool) -> Result<f64, String> {
    let output = command.args([what, &count.to_string()]).output().map_err(|error| error.to_string())?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let seconds: f64 = out.trim().parse().map_err(|_| format!("{}: {}", output.status, err.trim()))?;
    Ok(if per_second { count as f64 / seconds / 1e3 } else { seconds * 1e6 / count as f64 })
}

#[allow(clippy::disallowed_methods, reason = "it is measured from outside")]
fn this_program() -> Command {
    Command::new("/proc/self/exe")
}

#[allow(clippy::disallowed_methods, reason = "it is measured from outside")]
fn python() -> Command {
    let mut command = Command::new("python3");
    command.args(["-c", PYTHON]);
    command
}

/// Who is measured: the program, what it is told to measure, and how many.
type Party = (fn() -> Command, &'static str, u64);

fn main() {
    workers().enter::<Execed>();
    procspawn::init();
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, what, count] = &arguments[..] {
        let count = count.parse().unwrap();
        let elapsed = match what.as_str() {
            "forked-start" => start_and_join::<Forked>(count, 1),
            "forked-hundred" => start_and_join::<Forked>(count, 100),
            "execed-start" => start_and_join::<Execed>(count, 1),
            "execed-hundred" => start_and_join::<Execed>(count, 100),
            "trip" => trips::<Forked>(count),
            "tasks" => tasks::<Forked>(1, count),
            "many" => tasks::<Forked>(0, count),
            "procspawn-start" => procspawn_start_and_join(count, 1),
            "procspawn-hundred" => procspawn_start_and_join(count, 100),
            "procspawn-trip" => procspawn_trips(count),
            "procspawn-tasks" => procspawn_tasks(count),
            _ => panic!("nothing is called {what}"),
        };
        println!("{}", elapsed.as_secs_f64());
        return;
    }
    let rounds = std::env::var("MANYCORE_BENCH_ROUNDS").map_or(3, |rounds| rounds.parse().unwrap());
    println!("{rounds} rounds");
    let mut report = Report::default();
    let at_most = |ratio| Judged::Ratio(Limit::AtMost(ratio));
    let at_least = |ratio| Judged::Ratio(Limit::AtLeast(ratio));
    let (start, hundred) = ("start and join, us", "the same, 100 at once, k/s");
    let trip = "pool of two: a round trip, us";
    let (tasks, many) = ("k tasks/s, one in a message", "k tasks/s, many in one");
    report.section("against procspawn", "procspawn", "ours");
    let spawn: Party = (this_program, "procspawn-start", 300);
    let spawn_hundred: Party = (this_program, "procspawn-hundred", 500);
    let spawn_tasks: Party = (this_program, "procspawn-tasks", 20_000);
    let (our_trip, our_tasks): (Party, Party) =
        ((this_program, "trip", 20_000), (this_program, "tasks", 200_000));
    let our_many: Party = (this_program, "many", 2_000_000);
    let our_start: Party = (this_program, "forked-start", 1_000);
    for (what, who, theirs, ours, judged) in [
        (start, "Execed", spawn, (this_program as fn() -> Command, "execed-start", 300), at_most(0.75)),
        (start, "Forked", spawn, our_start, Judged::Nothing),
        (hundred, "Execed", spawn_hundred, (this_program, "execed-hundred", 500), Judged::Nothing),
        (hundred, "Forked", spawn_hundred, (this_program, "forked-hundred", 2_000), Judged::Nothing),
        (trip, "Forked", (this_program, "procspawn-trip", 10_000), our_trip, at_most(0.4)),
        (tasks, "Forked", spawn_tasks, our_tasks, at_least(10.0)),
        (many, "Forked", spawn_tasks, our_many, at_least(100.0)),
    ] {
        compare(&mut report, rounds, what, who, judged, [theirs, ours]);
    }
    report.section("against Python's multiprocessing", "Python", "ours");
    if let Err(error) = figure(&mut python(), "start", 1, false) {
        println!("not measured: {error}");
        return report.end();
    }
    for (what, theirs, ours) in [
        (start, ("start", 100), our_start),
        (trip, ("trip", 3_000), our_trip),
        (tasks, ("tasks", 20_000), our_tasks),
        (many, ("many", 500_000), our_many),
    ] {
        compare(&mut report, rounds, what, "Forked", Judged::Nothing, [(python, theirs.0, theirs.1), ours]);
    }
    report.end();
}

fn compare(
    report: &mut Report,
    rounds: usize,
    what: &str,
    who: &'static str,
    judged: Judged,
    parties: [Party; 2],
) {
    let mut figures = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        for ((program, told, count), figures) in parties.iter().zip(&mut figures) {
            figures.push(figure(&mut program(), told, *count, what.contains("/s")).unwrap());
        }
    }
    let [theirs, ours] = figures;
    report.row(&Row::compared(what, who, &ours, &theirs, judged));
}
