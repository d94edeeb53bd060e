//! Workers and pools against other libraries that start processes: procspawn, and Python's multiprocessing if `python3`
//! is there. It has a `Cargo.toml` of its own, so that nobody else has to build them.
//!
//! ```sh
//! cargo run --release --manifest-path benches/peers_processes/Cargo.toml
//! MANYCORE_BENCH_ROUNDS=9 cargo run --release --manifest-path benches/peers_processes/Cargo.toml   # instead of 3
//! ```
//!
//! Each figure is measured in a process of its own, in turns. All are microseconds: of a worker that is started, squares
//! a number and is joined; or of an empty task for a pool of two.

#[path = "../../report/mod.rs"]
mod report;

use std::ops::ControlFlow;
use std::process::Command;
use std::time::{Duration, Instant};

use manycore::{Execed, Forked, Platform, Runtime, Worker, Workers};
use report::{Judged, Limit, Report, Row};

const SQUARE: Worker<u64, u64> = Worker::new("square", |_, number| number * number);

const NOTHING: Worker<u64, u64> = Worker::new("nothing", |_, number| number);

const MEASURE: Worker<u64, Duration> = Worker::fallible("measure", |context, count| {
    let start = Instant::now();
    for number in 0..count {
        let worker = context.start(&SQUARE, number)?;
        assert_eq!(context.join(worker)?, number * number);
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

fn start_and_join<P: Platform>(count: u64) -> Duration {
    Runtime::<P>::default().with_all(&workers()).run(&MEASURE, count).unwrap()
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

fn procspawn_start_and_join(count: u64) -> Duration {
    timed(|| {
        for number in 0..count {
            let worker = procspawn::spawn(number, |number: u64| number * number);
            assert_eq!(worker.join().unwrap(), number * number);
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
        let handles: Vec<_> = (0..count).map(|number| pool.spawn(number, |number: u64| number)).collect();
        let sum: u64 = handles.into_iter().map(|handle| handle.join().unwrap()).sum();
        assert_eq!(sum, count * (count - 1) / 2);
    })
}

fn timed(body: impl FnOnce()) -> Duration {
    let start = Instant::now();
    body();
    start.elapsed()
}

/// Microseconds of one, measured by another process, which prints how many seconds all took.
fn microseconds(command: &mut Command, what: &str, count: u64) -> Result<f64, String> {
    let output = command.args([what, &count.to_string()]).output().map_err(|error| error.to_string())?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let seconds: f64 = out.trim().parse().map_err(|_| format!("{}: {}", output.status, err.trim()))?;
    Ok(seconds * 1e6 / count as f64)
}

fn this_program() -> Command {
    Command::new("/proc/self/exe")
}

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
            "forked-start" => start_and_join::<Forked>(count),
            "execed-start" => start_and_join::<Execed>(count),
            "trip" => trips::<Forked>(count),
            "tasks" => tasks::<Forked>(1, count),
            "many" => tasks::<Forked>(0, count),
            "procspawn-start" => procspawn_start_and_join(count),
            "procspawn-trip" => procspawn_trips(count),
            "procspawn-tasks" => procspawn_tasks(count),
            _ => panic!("nothing is called {what}"),
        };
        println!("{}", elapsed.as_secs_f64());
        return;
    }
    let rounds = std::env::var("MANYCORE_BENCH_ROUNDS").map_or(3, |rounds| rounds.parse().unwrap());
    println!("{rounds} rounds; microseconds");
    let mut report = Report::default();
    let at_most = |ratio| Judged::Ratio(Limit::AtMost(ratio));
    let (start, trip) = ("start and join", "pool of two: a round trip");
    let (task, many) = ("pool of two: a task", "pool of two: a task, many in one message");
    report.section("against procspawn", "procspawn", "ours");
    let spawn: Party = (this_program, "procspawn-start", 300);
    let spawn_task: Party = (this_program, "procspawn-tasks", 20_000);
    let rows: [(&str, &'static str, Party, Party, Judged); 5] = [
        (start, "Execed", spawn, (this_program, "execed-start", 300), at_most(0.75)),
        (start, "Forked", spawn, (this_program, "forked-start", 1_000), Judged::Nothing),
        (
            trip,
            "Forked",
            (this_program, "procspawn-trip", 10_000),
            (this_program, "trip", 20_000),
            at_most(0.4),
        ),
        (task, "Forked", spawn_task, (this_program, "tasks", 200_000), at_most(0.1)),
        (many, "Forked", spawn_task, (this_program, "many", 2_000_000), at_most(0.01)),
    ];
    rows.into_iter().for_each(|row| compare(&mut report, rounds, row));
    report.section("against Python's multiprocessing", "Python", "ours");
    if let Err(error) = microseconds(&mut python(), "start", 1) {
        println!("not measured: {error}");
        return report.end();
    }
    let rows: [(&str, &'static str, Party, Party, Judged); 4] = [
        (start, "Forked", (python, "start", 100), (this_program, "forked-start", 1_000), Judged::Nothing),
        (trip, "Forked", (python, "trip", 3_000), (this_program, "trip", 20_000), Judged::Nothing),
        (task, "Forked", (python, "tasks", 20_000), (this_program, "tasks", 200_000), Judged::Nothing),
        (many, "Forked", (python, "many", 500_000), (this_program, "many", 2_000_000), Judged::Nothing),
    ];
    rows.into_iter().for_each(|row| compare(&mut report, rounds, row));
    report.end();
}

fn compare(
    report: &mut Report,
    rounds: usize,
    (what, who, theirs, ours, judged): (&str, &'static str, Party, Party, Judged),
) {
    let measure = |(program, what, count): Party| microseconds(&mut program(), what, count).unwrap();
    let (mut of_theirs, mut of_ours) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        of_theirs.push(measure(theirs));
        of_ours.push(measure(ours));
    }
    report.row(&Row::compared(what, who, &of_ours, &of_theirs, judged));
}
