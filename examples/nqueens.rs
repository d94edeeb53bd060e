//! Counts the ways to place n queens on a board of n times n so that none attacks another, up to symmetry: of the eight
//! boards that turn into each other by turning and mirroring, only the least counts. The same by several ways to divide
//! the work among processes; the last line printed is the number.
//!
//! | variant | who does what |
//! |---|---|
//! | `sequential` | this process everything |
//! | `joined` | each worker finds the solutions of some rows of the first column, and returns what they turn into; the first worker joins them all |
//! | `table` | each worker adds them to a map in shared memory, which the first worker counts in the end |
//! | `two-tables` | the same with two maps, so that workers wait less for each other |
//! | `mailboxes` | each worker sends them to a mailbox, many in a message, and the first worker receives them |
//! | `pool` | a pool counts solutions that are the least of their eight, a task for each pair of rows in the first two columns |
//!
//! ```sh
//! cargo run --release --example nqueens -- 12                                 # prints 1787
//! cargo run --release --example nqueens -- 12 --variant pool --platform threaded
//! ```

use std::collections::BTreeSet;
use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressDrawTarget};
use manycore::{
    AtEnd, Execed, Forked, Mailbox, Platform, Runtime, ShmMap, TableOptions, Threaded, Worker, WorkerId,
    Workers,
};
use serde::{Deserialize, Serialize};

const USAGE: &str = "\
usage: nqueens N [--variant sequential|joined|table|two-tables|mailboxes|pool] [--platform forked|execed|threaded] [--workers W]

Counts the ways to place N queens (1 to 16), up to symmetry.

  --variant V     how the work is divided (default: joined)
  --platform P    what workers are (default: forked)
  --workers W     how many there are (default: a row of the first column each; in the pool: the number of cores)";

#[derive(Clone, Copy, PartialEq)]
enum Variant {
    Sequential,
    Joined,
    Tables(usize),
    Mailboxes,
    Pool,
}

struct Options {
    size: u8,
    variant: Variant,
    solve: fn(&Options) -> Result<usize, Box<dyn Error>>,
    workers: Option<usize>,
}

fn main() -> ExitCode {
    workers::<Execed>().enter::<Execed>();
    let options = match parse(env::args_os().skip(1)) {
        Ok(options) => options,
        Err(message) => {
            eprintln!("nqueens: {message}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let began = Instant::now();
    match (options.solve)(&options) {
        Ok(count) => {
            eprintln!("{:.3} s", began.elapsed().as_secs_f64());
            println!("{count}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("nqueens: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Options, String> {
    let mut arguments = arguments.map(|argument| argument.to_string_lossy().into_owned());
    let mut size = None;
    let mut options = Options { size: 0, variant: Variant::Joined, solve: solve::<Forked>, workers: None };
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--variant" => {
                options.variant = match value()?.as_str() {
                    "sequential" => Variant::Sequential,
                    "joined" => Variant::Joined,
                    "table" => Variant::Tables(1),
                    "two-tables" => Variant::Tables(2),
                    "mailboxes" => Variant::Mailboxes,
                    "pool" => Variant::Pool,
                    other => return Err(format!("no variant {other:?}")),
                }
            }
            "--platform" => {
                options.solve = match value()?.as_str() {
                    "forked" => solve::<Forked>,
                    "execed" => solve::<Execed>,
                    "threaded" => solve::<Threaded>,
                    other => return Err(format!("no platform {other:?}")),
                }
            }
            "--workers" => options.workers = Some(number(&value()?, 1000)?),
            option if option.starts_with('-') => return Err(format!("unknown option {option}")),
            text if size.is_none() => size = Some(number(text, 16)?),
            text => return Err(format!("{text:?} is one argument too many")),
        }
    }
    options.size = size.ok_or("how many queens?")? as u8;
    Ok(options)
}

fn number(text: &str, most: usize) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (1..=most).contains(number));
    number.ok_or_else(|| format!("{text:?} is no number from 1 to {most}"))
}

fn workers<P: Platform>() -> Workers {
    Workers::new()
        .with(&JOIN)
        .with(&FIND)
        .with(&count_tables::<P>())
        .with(&fill_tables::<P>())
        .with(&RECEIVE)
        .with(&SEND)
        .with(&CLOSE)
        .with(&COUNT)
}

fn solve<P: Platform>(options: &Options) -> Result<usize, Box<dyn Error>> {
    let size = options.size;
    let runtime = Runtime::<P>::default().with_all(&workers::<P>());
    let of_rows = Rows::divided(size, options.workers.unwrap_or(size.into()));
    Ok(match options.variant {
        Variant::Sequential => {
            Rows { size, first: 0, step: 1 }.representatives().collect::<BTreeSet<_>>().len()
        }
        Variant::Joined => runtime.run(&JOIN, of_rows)?,
        Variant::Tables(count) => runtime.run(&count_tables::<P>(), (count, of_rows))?,
        // If the first worker fails, nobody else has to wait until it receives any more.
        Variant::Mailboxes => runtime.at_end(AtEnd::Terminate).run(&RECEIVE, of_rows)?,
        Variant::Pool => {
            let tasks: Vec<_> =
                (0..size).flat_map(|one| (0..size).map(move |other| (size, one, other))).collect();
            let bar = progress_bar(tasks.len());
            let shown = bar.clone();
            let pool =
                runtime.pool(&COUNT).on_progress(move |progress| shown.set_position(progress.done as u64));
            let mut pool = match options.workers {
                Some(workers) => pool.workers(workers),
                None => pool,
            };
            let counts = pool.map(tasks);
            bar.finish_and_clear();
            counts?.into_iter().sum()
        }
    })
}

fn progress_bar(tasks: usize) -> ProgressBar {
    let target =
        if io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    ProgressBar::with_draw_target(Some(tasks as u64), target)
}

/// Some rows of the first column: every `step`-th from `first` on.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Rows {
    size: u8,
    first: u8,
    step: u8,
}

impl Rows {
    fn divided(size: u8, workers: usize) -> Vec<Rows> {
        let step = workers.min(size.into()) as u8;
        (0..step).map(|first| Rows { size, first, step }).collect()
    }

    /// What the solutions with a queen there turn into, each as often as there are such solutions.
    fn representatives(self) -> impl Iterator<Item = u64> {
        (self.first..self.size).step_by(self.step.into()).flat_map(move |row| {
            let mut found = Vec::new();
            each_solution(self.size, &mut vec![row], &mut |rows| found.push(representative(rows)));
            found
        })
    }
}

const JOIN: Worker<Vec<Rows>, usize> = Worker::fallible("join", |context, parts| {
    let workers = context.start_all(&FIND, parts)?;
    let all: BTreeSet<u64> = context.join_all(workers)?.into_iter().flatten().collect();
    Ok(all.len())
});

const FIND: Worker<Rows, BTreeSet<u64>> = Worker::new("find", |_, rows| rows.representatives().collect());

/// A set in shared memory.
type Set<P> = ShmMap<u64, (), <P as Platform>::Shm, <P as Platform>::Lock>;

fn count_tables<P: Platform>() -> Worker<(usize, Vec<Rows>), usize> {
    Worker::fallible("count tables", |context, (count, parts)| {
        let mut names = Vec::new();
        let mut tables: Vec<Set<P>> = Vec::new();
        for _ in 0..count {
            let name = context.unique_name("nqueens");
            // Whatever happens from here on, the run removes it.
            context.register_shm::<P::Shm>(&name)?;
            tables.push(TableOptions::new().create(&name)?.into());
            names.push(name);
        }
        let parts = parts.into_iter().map(|rows| (names.clone(), rows));
        let workers = context.start_all(&fill_tables::<P>(), parts)?;
        context.join_all(workers)?;
        let mut sum = 0;
        for table in &tables {
            sum += table.length()?;
        }
        Ok(sum)
    })
}

fn fill_tables<P: Platform>() -> Worker<(Vec<String>, Rows), ()> {
    Worker::fallible("fill tables", |_, (names, rows)| {
        let mut tables: Vec<Set<P>> = Vec::new();
        for name in names {
            tables.push(TableOptions::new().open(name)?.into());
        }
        for board in rows.representatives() {
            let table = &tables[(board % tables.len() as u64) as usize];
            // Most are there already, and looking takes no lock.
            if !table.mem(&board)? {
                table.replace(&board, &())?;
            }
        }
        Ok(())
    })
}

const FOUND: Mailbox<Vec<u64>> = Mailbox::with_capacity("found", 16);

/// Boards in a message.
const BATCH: usize = 1000;

const RECEIVE: Worker<Vec<Rows>, usize> = Worker::fallible("receive", |context, parts| {
    let senders = context.start_all(&SEND, parts)?;
    let closes = context.start(&CLOSE, senders)?;
    let mut all = BTreeSet::new();
    while let Some(boards) = FOUND.next(context)? {
        all.extend(boards);
    }
    // It fails if a sender has: then this is not all.
    context.join(closes)?;
    Ok(all.len())
});

const SEND: Worker<Rows, ()> = Worker::fallible("send", |context, rows| {
    let mut boards = rows.representatives().peekable();
    while boards.peek().is_some() {
        FOUND.send(context, &boards.by_ref().take(BATCH).collect())?;
    }
    Ok(())
});

/// Closes the mailbox when all senders have ended, or one has failed.
const CLOSE: Worker<Vec<WorkerId<()>>, ()> = Worker::fallible("close", |context, senders| {
    let joined = context.join_all(senders);
    FOUND.close(context)?;
    joined?;
    Ok(())
});

/// Of all solutions with the queens of the first two columns in these rows, how many are the least of their eight.
const COUNT: Worker<(u8, u8, u8), usize> = Worker::new("count", |_, (size, one, other)| {
    let mut count = 0;
    if size == 1 {
        count = 1;
    } else if one.abs_diff(other) > 1 {
        each_solution(size, &mut vec![one, other], &mut |rows| {
            count += usize::from(packed(rows.iter()) == representative(rows));
        });
    }
    count
});

/// Calls `take` with the rows of each solution that begins with these. `rows` is in the end as it was.
fn each_solution(size: u8, rows: &mut Vec<u8>, take: &mut dyn FnMut(&[u8])) {
    if rows.len() == usize::from(size) {
        return take(rows);
    }
    for row in 0..size {
        let attacked = (1..).zip(rows.iter().rev()).any(|(distance, queen)| {
            let apart = queen.abs_diff(row);
            apart == 0 || apart == distance
        });
        if !attacked {
            rows.push(row);
            each_solution(size, rows, take);
            rows.pop();
        }
    }
}

/// The least of the eight boards that this one turns into.
fn representative(rows: &[u8]) -> u64 {
    let mut board = rows.to_vec();
    let mut least = u64::MAX;
    for _ in 0..4 {
        least = least.min(packed(board.iter())).min(packed(board.iter().rev()));
        let mut turned = board.clone();
        for (column, row) in (0..).zip(&board) {
            turned[usize::from(*row)] = board.len() as u8 - 1 - column;
        }
        board = turned;
    }
    least
}

/// A board as a number: four bits for each column's row.
fn packed<'a>(rows: impl Iterator<Item = &'a u8>) -> u64 {
    rows.fold(0, |board, row| board << 4 | u64::from(*row))
}
