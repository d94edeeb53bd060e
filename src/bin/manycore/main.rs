//! The command `manycore`: shows what the running programs of this user do that are made with the library, and ends them.
//!
//! | command | what it does |
//! |---|---|
//! | `ps` | lists the workers of all runs |
//! | `top` | the same again and again, who uses most of the processors first |
//! | `objects` | lists the named objects of all runs, and who waits at them |
//! | `log` | prints what has happened in a run, and what happens |
//! | `stop` | has a worker end, or a run, in a grace time |
//! | `kill` | kills a worker, or all of a run |
//! | `clean` | removes what dead runs have left |
//!
//! Runs are found by their directories, if they are where runs put them by themselves; else `--directory` says which one, or
//! `--place` where to look.
//! Without it, `ps`, `top` and `objects` show all runs; the others need one, and say which there are if there are several. `clean`
//! cleans up after all that are dead.
//!
//! With `--json` there is one JSON document on the standard output; with `top` and `log --follow` one a line, as long as it
//! goes on. Times in it are nanoseconds since 1970.
//!
//! | exit code | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | failed; the standard error says why |
//! | 2 | the arguments are wrong |
//! | 3 | no master runs, or none in the directory |
//! | 4 | there are several runs, and none was chosen |
//! | 5 | no such worker |
//!
//! This program asks the master for what it knows, and the system for what processes use: it measures nothing in a worker.

mod commands;
mod objects;
mod output;
mod processes;
mod top;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use manycore::Level;
use manycore::admin::{self, AdminError, Run, Visitor};

use output::Output;

/// What `--help` says at its end.
const EXIT_CODES: &str = "\
Exit codes: 0 done; 1 failed; 2 the arguments are wrong; 3 no master runs; 4 there are several runs, and none was chosen
by --directory; 5 no such worker.";

/// Shows what running programs of this user do that are made of worker processes, and ends them.
#[derive(Parser)]
#[command(name = "manycore", version, after_help = EXIT_CODES)]
struct Arguments {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
struct Common {
    /// The directory of the run; without it, runs are looked for where they put their directories by themselves.
    #[arg(long, global = true, value_name = "DIRECTORY")]
    directory: Option<PathBuf>,
    /// Look for runs in this directory, which has theirs in it, and nowhere else.
    #[arg(long, global = true, value_name = "DIRECTORY", conflicts_with = "directory")]
    place: Option<PathBuf>,
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
    /// How many seconds a master has to answer.
    #[arg(long, global = true, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    timeout: Duration,
}

#[derive(Subcommand)]
enum Command {
    /// Lists the workers of all runs.
    Ps,
    /// Lists the workers again and again, who uses most of the processors first.
    Top {
        /// How many seconds are between two times.
        #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
        interval: Duration,
        /// How many times; without it, until there are no runs.
        #[arg(long, value_name = "TIMES")]
        count: Option<u64>,
    },
    /// Lists the named objects of all runs: variables, mutexes, semaphores, mailboxes.
    Objects,
    /// Prints what has happened in a run, as far as the master keeps it: 1024 lines.
    Log {
        /// The last lines only, so many at most.
        #[arg(long, short = 'n', value_name = "LINES", default_value_t = u64::MAX, hide_default_value = true)]
        lines: u64,
        /// Go on with what happens, until the run ends.
        #[arg(long, short)]
        follow: bool,
        /// Lines that are at least so important.
        #[arg(long, value_name = "LEVEL", default_value = "debug")]
        level: LevelName,
    },
    /// Has a worker end, or the run: tells all workers to, and kills those that are left after the grace time.
    Stop {
        /// The number of a worker, or `all` for the run.
        #[arg(value_name = "WORKER|all", value_parser = whom)]
        whom: Whom,
        /// The grace time in seconds; without it, that of the run.
        #[arg(long, value_name = "SECONDS", value_parser = seconds)]
        grace: Option<Duration>,
    },
    /// Kills a worker, or all of the run, which ends it.
    Kill {
        /// The number of a worker, or `all` for the run.
        #[arg(value_name = "WORKER|all", value_parser = whom)]
        whom: Whom,
    },
    /// Removes what dead runs have left: what they had registered, and their directories.
    Clean {
        /// Only say what that is.
        #[arg(long)]
        dry_run: bool,
    },
}

/// Who is to end.
#[derive(Clone, Copy)]
enum Whom {
    Worker(u64),
    All,
}

#[derive(Clone, Copy, ValueEnum)]
enum LevelName {
    Error,
    Warn,
    Info,
    Debug,
}

impl From<LevelName> for Level {
    fn from(name: LevelName) -> Level {
        match name {
            LevelName::Error => Level::Error,
            LevelName::Warn => Level::Warn,
            LevelName::Info => Level::Info,
            LevelName::Debug => Level::Debug,
        }
    }
}

fn whom(text: &str) -> Result<Whom, String> {
    match text {
        "all" => Ok(Whom::All),
        number => number.parse().map(Whom::Worker).map_err(|_| "neither a number nor `all`".to_owned()),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "no number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

/// Why a command was not done.
#[derive(Debug)]
enum Failure {
    Admin(AdminError),
    /// What was printed already says what has failed.
    Told(u8),
    NoRun,
    Several(Vec<Run>),
    /// Nobody reads the standard output any more: no failure.
    Unread,
    Output(std::io::Error),
}

impl From<AdminError> for Failure {
    fn from(error: AdminError) -> Failure {
        Failure::Admin(error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Failure::Unread,
            _ => Failure::Output(error),
        }
    }
}

impl Failure {
    fn exit_code(&self) -> u8 {
        match self {
            Failure::Unread => 0,
            Failure::Told(code) => *code,
            Failure::Admin(error) => code_of(error),
            Failure::NoRun => 3,
            Failure::Several(_) => 4,
            Failure::Output(_) => 1,
        }
    }

    fn message(&self) -> Option<String> {
        match self {
            Failure::Unread | Failure::Told(_) => None,
            Failure::Admin(error) => Some(error.to_string()),
            Failure::NoRun => {
                Some("no run of this user has a directory where runs are looked for".to_owned())
            }
            Failure::Several(runs) => {
                let mut message = "there are several runs: choose one by --directory".to_owned();
                for run in runs {
                    message.push_str("\n  ");
                    message.push_str(&output::plain(&run.directory().to_string_lossy()));
                }
                Some(message)
            }
            Failure::Output(error) => Some(format!("cannot write: {error}")),
        }
    }
}

/// The exit code that says of an error what a program can do about it.
fn code_of(error: &AdminError) -> u8 {
    match error {
        AdminError::NotRunning { .. } => 3,
        AdminError::NoSuchWorker { .. } => 5,
        _ => 1,
    }
}

impl Common {
    /// The runs that are meant: the chosen one, or all.
    fn runs(&self) -> Vec<Run> {
        match (&self.directory, &self.place) {
            (Some(directory), _) => vec![Run::at(directory)],
            (None, Some(place)) => admin::runs_in(place),
            (None, None) => admin::runs(),
        }
    }

    /// A conversation with the one run that is meant.
    fn only_run(&self) -> Result<Visitor, Failure> {
        let runs = self.runs();
        match &runs[..] {
            [] => Err(Failure::NoRun),
            [run] => Ok(run.connect_within(self.timeout)?),
            _ => Err(Failure::Several(runs)),
        }
    }
}

fn main() -> ExitCode {
    let Arguments { common, command } = Arguments::parse();
    let mut output = Output::new(common.json);
    let result = match command {
        Command::Ps => commands::ps(&common, &mut output),
        Command::Top { interval, count } => top::top(&common, interval, count, &mut output),
        Command::Objects => objects::objects(&common, &mut output),
        Command::Log { lines, follow, level } => {
            commands::log(&common, lines, follow, level.into(), &mut output)
        }
        Command::Stop { whom, grace } => commands::stop(&common, whom, grace, &mut output),
        Command::Kill { whom } => commands::stop(&common, whom, Some(Duration::ZERO), &mut output),
        Command::Clean { dry_run } => commands::clean(&common, dry_run, &mut output),
    };
    let result = result.and_then(|()| output.flush());
    let Err(failure) = result else { return ExitCode::SUCCESS };
    if let Some(message) = failure.message() {
        eprintln!("manycore: {message}");
    }
    ExitCode::from(failure.exit_code())
}
