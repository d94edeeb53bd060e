//! A task queue: a supervisor hands tasks to workers through mailboxes, and sees to it that each is done once. The last
//! line printed is the number of tasks that were done.
//!
//! Workers ask for work, and report what they have done, at the mailbox `Supervisor`. It exists when they open it, and was
//! never used then. Each worker is handed its tasks in a mailbox of its own, which is closed when there are no more. The
//! first worker only joins the others: whichever of them fails or dies, it notices, and the run ends.
//!
//! A task is to find the prime factors of a number.
//!
//! ```sh
//! cargo run --release --example task_queue                                    # prints 1000
//! cargo run --release --example task_queue -- --tasks 10000 --workers 8 --platform threaded
//! ```

use std::env;
use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Instant;

use manycore::{
    AtEnd, Execed, Failure, Forked, Mailbox, Platform, RunError, Runtime, Threaded, Worker, Workers,
};
use serde::{Deserialize, Serialize};

const USAGE: &str = "\
usage: task_queue [--tasks N] [--workers W] [--platform forked|execed|threaded]

Hands N tasks to W workers, and prints how many were done.

  --tasks N       how many tasks there are (default: 1000)
  --workers W     how many workers do them (default: 4)
  --platform P    what workers are (default: forked)";

#[derive(Clone, Copy, Serialize, Deserialize)]
struct Plan {
    tasks: u64,
    workers: u64,
}

fn main() -> ExitCode {
    workers().enter::<Execed>();
    let (plan, run) = match parse(env::args_os().skip(1)) {
        Ok(found) => found,
        Err(message) => {
            eprintln!("task_queue: {message}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let began = Instant::now();
    match run(plan) {
        Ok(done) => {
            eprintln!("{:.3} s", began.elapsed().as_secs_f64());
            println!("{done}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("task_queue: {error}");
            ExitCode::FAILURE
        }
    }
}

type Run = fn(Plan) -> Result<u64, RunError>;

fn parse(arguments: impl Iterator<Item = OsString>) -> Result<(Plan, Run), String> {
    let mut arguments = arguments.map(|argument| argument.to_string_lossy().into_owned());
    let mut plan = Plan { tasks: 1000, workers: 4 };
    let mut chosen: Run = run::<Forked>;
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--tasks" => plan.tasks = number(&value()?, 0, 100_000_000)?,
            "--workers" => plan.workers = number(&value()?, 1, 1000)?,
            "--platform" => {
                chosen = match value()?.as_str() {
                    "forked" => run::<Forked>,
                    "execed" => run::<Execed>,
                    "threaded" => run::<Threaded>,
                    other => return Err(format!("no platform {other:?}")),
                }
            }
            option if option.starts_with('-') => return Err(format!("unknown option {option}")),
            text => return Err(format!("{text:?} is one argument too many")),
        }
    }
    Ok((plan, chosen))
}

fn number(text: &str, least: u64, most: u64) -> Result<u64, String> {
    let number = text.parse().ok().filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| format!("{text:?} is no number from {least} to {most}"))
}

fn workers() -> Workers {
    Workers::new().with(&FIRST).with(&SUPERVISE).with(&WORK)
}

fn run<P: Platform>(plan: Plan) -> Result<u64, RunError> {
    // If the first worker fails, nobody else has to wait for messages any more.
    Runtime::<P>::default().with_all(&workers()).at_end(AtEnd::Terminate).run(&FIRST, plan)
}

/// What a worker says to the supervisor: that it wants work, and what it has done before.
#[derive(Serialize, Deserialize)]
struct Report {
    worker: u64,
    done: Option<Done>,
}

#[derive(Serialize, Deserialize)]
struct Done {
    task: u64,
    factors: Vec<u64>,
}

const SUPERVISOR: Mailbox<Report> = Mailbox::new("Supervisor");

/// Where a worker is handed the numbers of its tasks.
fn tasks_of(worker: u64) -> Mailbox<u64> {
    Mailbox::named(format!("Worker {worker}"), 1)
}

/// Starts all, and joins each as it ends.
const FIRST: Worker<Plan, u64> = Worker::fallible("first", |context, plan| {
    SUPERVISOR.open(context)?;
    let mut running = context.start_all(&WORK, 0..plan.workers)?;
    let supervisor = context.start(&SUPERVISE, plan)?;
    running.push(supervisor);
    let (mut done, mut reported) = (0, 0);
    while !running.is_empty() {
        let (index, tasks) = context.join_any(&running)?;
        let sum = if running.swap_remove(index) == supervisor { &mut reported } else { &mut done };
        *sum += tasks?;
    }
    if done != reported {
        return Err(Failure::new(format!("the workers have done {done} tasks, and reported {reported}")));
    }
    Ok(reported)
});

/// Hands out all tasks, and returns how many came back: each once, and right, or it fails.
const SUPERVISE: Worker<Plan, u64> = Worker::fallible("supervise", |context, plan| {
    let mut tasks = 0..plan.tasks;
    let mut is_done = vec![false; plan.tasks as usize];
    let mut working = plan.workers;
    while working > 0 {
        let Report { worker, done } = SUPERVISOR.receive(context)?;
        if let Some(done) = done {
            check(&done, &mut is_done)?;
        }
        match tasks.next() {
            Some(task) => tasks_of(worker).send(context, &task)?,
            None => {
                tasks_of(worker).close(context)?;
                working -= 1;
            }
        }
    }
    match is_done.iter().position(|is_done| !is_done) {
        Some(task) => Err(Failure::new(format!("task {task} was never done"))),
        None => Ok(plan.tasks),
    }
});

/// Does tasks as long as there are some, and returns how many it has done.
const WORK: Worker<u64, u64> = Worker::fallible("work", |context, worker| {
    if SUPERVISOR.open(context)? {
        return Err(Failure::new("nobody has opened the supervisor's mailbox"));
    }
    let tasks = tasks_of(worker);
    SUPERVISOR.send(context, &Report { worker, done: None })?;
    let mut count = 0;
    while let Some(task) = tasks.next(context)? {
        let done = Done { task, factors: factors(to_factor(task)) };
        SUPERVISOR.send(context, &Report { worker, done: Some(done) })?;
        count += 1;
    }
    Ok(count)
});

/// Notes that a task is done, if it was to be, was not done before, and is done right.
fn check(done: &Done, is_done: &mut [bool]) -> Result<(), Failure> {
    let Done { task, factors } = done;
    match is_done.get_mut(*task as usize) {
        None => return Err(Failure::new(format!("there is no task {task}"))),
        Some(true) => return Err(Failure::new(format!("task {task} was done twice"))),
        Some(is_done) => *is_done = true,
    }
    let number = to_factor(*task);
    if factors.iter().product::<u64>() != number || !factors.iter().all(|factor| is_prime(*factor)) {
        return Err(Failure::new(format!("task {task}: {factors:?} are not the prime factors of {number}")));
    }
    Ok(())
}

/// The number that a task is about.
fn to_factor(task: u64) -> u64 {
    1_000_000 + task
}

/// The prime factors of a number, rising.
fn factors(number: u64) -> Vec<u64> {
    let (mut factors, mut rest, mut candidate) = (Vec::new(), number, 2);
    while candidate * candidate <= rest {
        if rest % candidate == 0 {
            factors.push(candidate);
            rest /= candidate;
        } else {
            candidate += 1;
        }
    }
    if rest > 1 {
        factors.push(rest);
    }
    factors
}

fn is_prime(number: u64) -> bool {
    number > 1 && (2..).take_while(|divisor| divisor * divisor <= number).all(|divisor| number % divisor != 0)
}
