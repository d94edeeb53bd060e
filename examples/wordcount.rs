//! Counts the words of a tree of files with worker processes, and prints the most frequent ones.
//!
//! ```sh
//! cargo run --release --example wordcount                       # the sources of the crates this was built with
//! cargo run --release --example wordcount -- --check /usr/share/doc
//! ```

#[path = "wordcount/count.rs"]
mod count;

use std::env;
use std::ffi::OsString;
use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use count::{Plan, Report};
use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use manycore::{Context, Failure, Fcntl, File, Fork, Forked, Platform, Poll, Socket, With};

/// The same as `Forked`, with the shared maps in files.
type OnFiles = With<File, Fcntl, Poll, Socket, Fork>;

const USAGE: &str = "\
usage: wordcount [--workers N] [--check] [--top N] [--backend posix|file] [FILE|DIRECTORY]...

Counts the words of the files, and of all files in the directories. Without any, reads the sources of the
crates that cargo downloaded to build this program.

  --workers N             worker processes (default: the number of cores)
  --check                 count again in one thread, compare; exit with 1 on any difference
  --top N                 how many words to print (default: 20)
  --backend posix|file    where the shared counts live (default: posix)";

struct Options {
    workers: usize,
    check: bool,
    top: usize,
    on_files: bool,
    roots: Vec<PathBuf>,
}

fn main() -> ExitCode {
    let began = Instant::now();
    let options = match parse(env::args_os().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            return match say(USAGE) {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::from(2),
            };
        }
        Err(message) => {
            eprintln!("wordcount: {message}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let template = format!("wordcount-{}-XXXXXX", std::process::id());
    let result = if options.on_files {
        wordcount::<OnFiles>(&options, began, &env::temp_dir().join(template))
    } else {
        wordcount::<Forked>(&options, began, Path::new(&template))
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("wordcount: {error}");
            ExitCode::from(2)
        }
    }
}

fn parse(mut arguments: impl Iterator<Item = OsString>) -> Result<Option<Options>, String> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut options = Options { workers: cores, check: false, top: 20, on_files: false, roots: Vec::new() };
    while let Some(argument) = arguments.next() {
        let text = argument.to_string_lossy().into_owned();
        let mut value = || {
            let value = arguments.next().ok_or_else(|| format!("{text} needs a value"))?;
            value.into_string().map_err(|value| format!("{text} cannot be {value:?}"))
        };
        match text.as_str() {
            "--workers" => options.workers = positive(&value()?)?,
            "--top" => options.top = positive(&value()?)?,
            "--check" => options.check = true,
            "--backend" => {
                options.on_files = match value()?.as_str() {
                    "file" => true,
                    "posix" => false,
                    other => return Err(format!("no backend {other:?}: choose posix or file")),
                }
            }
            "--help" | "-h" => return Ok(None),
            option if option.starts_with('-') => return Err(format!("unknown option {option}")),
            _ => options.roots.push(PathBuf::from(argument)),
        }
    }
    if options.roots.is_empty() {
        options.roots = downloaded_sources();
    }
    Ok(Some(options))
}

fn positive(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|number| *number > 0).ok_or_else(|| format!("{text:?} is no positive number"))
}

/// The sources of the crates in this project's lock file, where cargo has put them; if there are none, this
/// repository.
fn downloaded_sources() -> Vec<PathBuf> {
    let cargo_home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));
    let registries =
        cargo_home.map(|home| home.join("registry").join("src")).and_then(|path| path.read_dir().ok());
    let registries: Vec<PathBuf> =
        registries.into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    let lines: Vec<&str> = include_str!("../Cargo.lock").lines().collect();
    let quoted = |line: &str, key: &str| {
        line.strip_prefix(key)
            .and_then(|rest| rest.strip_prefix(" = \"")?.strip_suffix('"'))
            .map(str::to_owned)
    };
    let sources: Vec<PathBuf> = lines
        .windows(2)
        .filter_map(|pair| Some(format!("{}-{}", quoted(pair[0], "name")?, quoted(pair[1], "version")?)))
        .flat_map(|package| registries.iter().map(move |registry| registry.join(&package)))
        .filter(|path| path.is_dir())
        .collect();
    if sources.is_empty() { vec![PathBuf::from(env!("CARGO_MANIFEST_DIR"))] } else { sources }
}

fn wordcount<P: Platform>(
    options: &Options,
    began: Instant,
    template: &Path,
) -> Result<bool, Box<dyn std::error::Error>> {
    let found = count::find_files(&options.roots);
    for (path, error) in &found.unreadable {
        eprintln!("wordcount: {}: {error}", path.display());
    }
    let plan = Plan {
        files: found.files.clone(),
        bytes: found.bytes,
        workers: options.workers,
        top: options.top,
        before: began.elapsed(),
        ..Plan::default()
    };
    let (_, counts) = count::count::<P>(plan, template, first::<P>)?;
    if !options.check {
        return Ok(true);
    }
    let difference = count::difference::<P>(&counts, count::recount(&found.files))?;
    let agrees = difference.is_none();
    say(&match difference {
        None => "check: the counts agree with those of a single thread".to_owned(),
        Some(difference) => format!("check: {difference}"),
    })?;
    Ok(agrees)
}

/// The first worker: leads the others, shows progress on a terminal, and prints the result.
fn first<P: Platform>(context: &mut Context, plan: Plan) -> Result<Report, Failure> {
    let (began, before, workers) = (Instant::now(), plan.before, plan.workers);
    let target =
        if io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} files, {msg}, {elapsed}")?;
    let progress =
        ProgressBar::with_draw_target(Some(plan.files.iter().count() as u64), target).with_style(style);
    let report = count::lead::<P>(context, plan, &mut |files, bytes| {
        progress.set_message(HumanBytes(bytes).to_string());
        progress.set_position(files);
    });
    progress.finish_and_clear();
    let report = report?;
    say(&describe(&report, workers, before + began.elapsed())?)?;
    Ok(report)
}

/// Prints a text. That nobody reads any more, as after `| head`, is no error.
fn say(text: &str) -> io::Result<()> {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// The most frequent words and who did what.
fn describe(report: &Report, workers: usize, time: Duration) -> Result<String, fmt::Error> {
    let mut text = String::new();
    let most = report.top.first().map_or(1, |(_, count)| *count);
    let width = report.top.iter().map(|(word, _)| word.chars().count()).max().unwrap_or(0);
    for (word, count) in &report.top {
        writeln!(text, "{word:width$} {count:>9} {}", bar(*count, most, 40))?;
    }
    let sum = |field: fn(&count::Share) -> u64| report.shares.iter().map(field).sum::<u64>();
    let (files, bytes, words) =
        (sum(|share| share.files), sum(|share| share.bytes), sum(|share| share.words));
    writeln!(
        text,
        "\n{words} words, {} different, in {files} files of {} in {:.2} s with {workers} workers",
        report.different_words,
        HumanBytes(bytes),
        time.as_secs_f64(),
    )?;
    for (number, share) in report.shares.iter().enumerate() {
        writeln!(
            text,
            "  worker {:>2} (process {}): {:>6} files, {:>10}, {:>9} words {}",
            number + 1,
            share.process,
            share.files,
            HumanBytes(share.bytes).to_string(),
            share.words,
            bar(share.bytes, bytes, 20),
        )?;
    }
    let skipped = sum(|share| share.skipped);
    if skipped > 0 {
        writeln!(text, "{skipped} files were left out, such as")?;
        for example in report.shares.iter().flat_map(|share| &share.such_as).take(5) {
            writeln!(text, "  {example}")?;
        }
    }
    Ok(text.trim_end().to_owned())
}

fn bar(part: u64, whole: u64, width: u64) -> String {
    "█".repeat((part * width).div_ceil(whole.max(1)) as usize)
}
