//! Tasks are done although workers are killed: they are taken out of a queue in shared memory, and a task that somebody had
//! when it was killed is there again for another. The last line printed is the number of tasks that were done.
//!
//! The first worker fills a queue with tasks, starts workers, and kills one of them now and then, as `kill -9` or the system
//! may, and starts another in its place. Nobody has to remember who had what: the queue does. A task is done at least
//! once; one whose worker was killed after it told the result, and before it finished the task, is done again, and
//! the first worker, who has both results, takes one.
//!
//! A task is to count the primes in a thousand numbers.
//!
//! ```sh
//! cargo run --release --example survivors                                  # prints 1000
//! cargo run --release --example survivors -- --tasks 5000 --kills 50 --platform execed
//! ```

use std::env;
use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use manycore::shared::{Capacity, SharedError};
use manycore::{
    AtEnd, Execed, Failure, Forked, JoinError, Platform, PosixShm, RunError, Runtime, ShmQueue, Threaded,
    Worker, Workers,
};
use serde::{Deserialize, Serialize};

const USAGE: &str = "\
usage: survivors [--tasks N] [--workers W] [--kills K] [--platform forked|execed|threaded]

Has N tasks done by W workers, of which K are killed meanwhile, and prints how many were done.

  --tasks N       how many tasks there are (default: 1000)
  --workers W     how many workers do them (default: 4)
  --kills K       how many workers are killed (default: 10)
  --platform P    what workers are (default: forked)";

#[derive(Clone, Copy, Serialize, Deserialize)]
struct Plan {
    tasks: u64,
    workers: u64,
    kills: u64,
}

fn main() -> ExitCode {
    workers().enter::<Execed>();
    let (plan, run) = match parse(env::args_os().skip(1)) {
        Ok(found) => found,
        Err(message) => {
            eprintln!("survivors: {message}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(plan) {
        Ok(done) => {
            println!("{done}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("survivors: {error}");
            ExitCode::FAILURE
        }
    }
}

type Run = fn(Plan) -> Result<u64, RunError>;

fn parse(arguments: impl Iterator<Item = OsString>) -> Result<(Plan, Run), String> {
    let mut arguments = arguments.map(|argument| argument.to_string_lossy().into_owned());
    let mut plan = Plan { tasks: 1000, workers: 4, kills: 10 };
    let mut chosen: Run = run::<Forked>;
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--tasks" => plan.tasks = number(&value()?, 0, 1_000_000)?,
            "--workers" => plan.workers = number(&value()?, 1, 500)?,
            "--kills" => plan.kills = number(&value()?, 0, 10_000)?,
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
    Workers::new().with(&SUPERVISE).with(&WORK)
}

fn run<P: Platform>(plan: Plan) -> Result<u64, RunError> {
    Runtime::<P>::default().with_all(&workers()).at_end(AtEnd::Terminate).run(&SUPERVISE, plan)
}

type Tasks = ShmQueue<u64>;
/// A task, and how many primes it has found.
type Results = ShmQueue<(u64, u64)>;

/// Sees to it that all tasks are done, although it kills workers.
const SUPERVISE: Worker<Plan, u64> = Worker::fallible("supervise", |context, plan| {
    // Whatever happens, the run removes them at its end.
    let names = [context.unique_name("survivors"), context.unique_name("survivors")];
    names.iter().try_for_each(|name| context.register_shm::<PosixShm>(name))?;
    // All tasks at once. In a smaller queue, one who waits for results while there is no room for the next task waits for
    // ever: room comes when a task is finished, which is after its result was sent, and maybe the last one.
    let tasks = Tasks::create(&names[0], &Capacity { messages: plan.tasks.max(1) as usize, words: 2 })?;
    let results = Results::create(&names[1], &Capacity { messages: 64, words: 4 })?;
    (0..plan.tasks).try_for_each(|task| tasks.send(&task))?;
    let mut running = context.start_all(&WORK, (0..plan.workers).map(|_| names.clone()))?;

    let mut done = vec![None; plan.tasks as usize];
    let (mut count, mut again, mut killed) = (0, 0, 0);
    while count < plan.tasks {
        let (task, primes) = results.receive()?;
        match done.get_mut(task as usize) {
            None => return Err(Failure::new(format!("there is no task {task}"))),
            Some(Some(before)) if *before != primes => return Err(Failure::new("two results of one task")),
            Some(Some(_)) => again += 1,
            Some(result) => {
                *result = Some(primes);
                count += 1;
            }
        }
        // Now and then, spread over all tasks.
        if killed < plan.kills && killed * plan.tasks < count * plan.kills {
            let victim = running.remove(killed as usize % running.len());
            context.signal(victim, 9)?;
            running.push(context.start(&WORK, names.clone())?);
            killed += 1;
            if let Some(Err(error @ JoinError::Failed { .. })) =
                context.join_timeout(victim, Duration::ZERO).transpose()
            {
                return Err(error.into());
            }
        }
    }
    tasks.close()?;
    for worker in running {
        context.join(worker)?;
    }
    eprintln!("{killed} workers killed, {again} tasks done again");
    Ok(count)
});

/// Does tasks as long as there are some.
const WORK: Worker<[String; 2], ()> = Worker::fallible("work", |context, [tasks, results]| {
    let (tasks, results) = (Tasks::open(tasks)?, Results::open(results)?);
    loop {
        let task = match tasks.take() {
            Ok(task) => task,
            Err(SharedError::Closed { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let primes = (*task * 1000..(*task + 1) * 1000).filter(|number| is_prime(*number)).count() as u64;
        // Where workers are threads, this is where one is killed: with a task in its hands.
        context.should_stop();
        results.send(&(*task, primes))?;
        task.finish()?;
    }
});

fn is_prime(number: u64) -> bool {
    number > 1 && (2..).take_while(|divisor| divisor * divisor <= number).all(|divisor| number % divisor != 0)
}
