//! Commands that are done once: `ps`, `log`, `stop`, `kill`, `clean`.
//!
//! This module does not find out what processes use (`processes` does), or how tables and JSON are written (`output`
//! does).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use manycore::admin::{self, AdminError, Leftover, LogLine, Run, RunInfo, Visitor, WorkerInfo};
use manycore::{Level, Resource};
use serde::Serialize;

use crate::output::{Output, Table, bytes, plain, seconds, utc};
use crate::processes::Usage;
use crate::{Common, Failure, Whom, code_of};

/// All runs, as they are in one moment.
#[derive(Serialize)]
pub(crate) struct Runs {
    pub(crate) runs: Vec<RunView>,
}

/// A run, or why nothing is known of it.
#[derive(Serialize)]
pub(crate) struct RunView {
    directory: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(flatten)]
    known: Option<Known>,
}

#[derive(Serialize)]
struct Known {
    #[serde(flatten)]
    info: RunInfo,
    /// Of the master.
    #[serde(flatten)]
    usage: UsageView,
    workers: Vec<WorkerView>,
}

#[derive(Serialize)]
struct WorkerView {
    #[serde(flatten)]
    info: WorkerInfo,
    #[serde(flatten)]
    usage: UsageView,
}

#[derive(Serialize)]
struct UsageView {
    cpu_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_percent: Option<f64>,
    memory_bytes: Option<u64>,
}

/// How much of a processor a process used, from what it has used in all.
pub(crate) type Share<'share> = dyn FnMut(u32, Duration, std::time::SystemTime) -> f64 + 'share;

impl Runs {
    /// Asks all masters, and writes the errors of those that do not answer. Returns the exit code as well.
    pub(crate) fn ask(
        common: &Common,
        visitors: &mut BTreeMap<PathBuf, Visitor>,
        mut share: Option<&mut Share<'_>>,
    ) -> (Runs, u8) {
        let mut runs = Vec::new();
        let mut code = 0;
        for run in common.runs() {
            let directory = run.directory().to_string_lossy().into_owned();
            match ask_run(common, &run, visitors) {
                Ok((info, workers)) => {
                    let usage = UsageView::new(info.master, info.started, share.as_deref_mut());
                    let workers = workers
                        .into_iter()
                        .map(|info| WorkerView {
                            usage: match info.thread {
                                true => {
                                    UsageView { cpu_seconds: None, cpu_percent: None, memory_bytes: None }
                                }
                                false => UsageView::new(info.process, info.started, share.as_deref_mut()),
                            },
                            info,
                        })
                        .collect();
                    let known = Some(Known { info, usage, workers });
                    runs.push(RunView { directory, error: None, known });
                }
                // It has ended since it was found.
                Err(AdminError::NotRunning { .. } | AdminError::Closed { .. })
                    if common.directory.is_none() => {}
                Err(error) => {
                    eprintln!("manycore: {error}");
                    code = code_of(&error);
                    runs.push(RunView { directory, error: Some(error.to_string()), known: None });
                }
            }
        }
        (Runs { runs }, code)
    }

    pub(crate) fn sort_by_share(&mut self) {
        for known in self.runs.iter_mut().filter_map(|run| run.known.as_mut()) {
            let share = |worker: &WorkerView| worker.usage.cpu_percent.unwrap_or(0.0);
            known.workers.sort_by(|one, other| share(other).total_cmp(&share(one)));
        }
    }

    pub(crate) fn print(&self, output: &mut Output) -> Result<(), Failure> {
        for (index, run) in self.runs.iter().enumerate() {
            let Some(known) = &run.known else { continue };
            if index > 0 {
                output.text("\n")?;
            }
            output.text(&known.to_text(&run.directory))?;
        }
        Ok(())
    }
}

fn ask_run(
    common: &Common,
    run: &Run,
    visitors: &mut BTreeMap<PathBuf, Visitor>,
) -> Result<(RunInfo, Vec<WorkerInfo>), AdminError> {
    let mut visitor = match visitors.remove(run.directory()) {
        Some(visitor) => visitor,
        None => run.connect_within(common.timeout)?,
    };
    let info = visitor.refresh()?.clone();
    let workers = visitor.workers()?;
    visitors.insert(run.directory().to_owned(), visitor);
    Ok((info, workers))
}

impl UsageView {
    fn new(process: u32, started: std::time::SystemTime, share: Option<&mut Share<'_>>) -> UsageView {
        let Usage { cpu, memory } = Usage::of(process);
        UsageView {
            cpu_seconds: cpu.map(|cpu| cpu.as_secs_f64()),
            cpu_percent: share.zip(cpu).map(|(share, cpu)| 100.0 * share(process, cpu, started)),
            memory_bytes: memory,
        }
    }

    fn cpu(&self) -> String {
        match self.cpu_percent {
            Some(percent) => format!("{percent:.1} %"),
            None => seconds(self.cpu_seconds.and_then(|cpu| Duration::try_from_secs_f64(cpu).ok())),
        }
    }
}

impl Known {
    fn to_text(&self, directory: &str) -> String {
        let RunInfo { name, master, started, running, ended, ending, .. } = &self.info;
        let mut text = format!(
            "run {} in {}\nmaster {master}, CPU {}, memory {}, since {}; workers: {running} running, {ended} ended{}\n",
            plain(name),
            plain(directory),
            self.usage.cpu(),
            bytes(self.usage.memory_bytes),
            utc(*started, false),
            if *ending { "; no more are started" } else { "" },
        );
        let mut table = Table::new([
            ">WORKER",
            "NAME",
            "GROUP",
            ">PROCESS",
            "STATE",
            "WAITS FOR",
            ">CPU",
            ">MEMORY",
            "SINCE",
        ]);
        for WorkerView { info, usage } in &self.workers {
            let mut name = info.name.clone();
            if info.member {
                name.push_str(" (pool)");
            }
            table.row([
                info.number.to_string(),
                name,
                info.group.clone().unwrap_or_else(|| "-".to_owned()),
                if info.thread { "thread".to_owned() } else { info.process.to_string() },
                info.state.to_string(),
                info.waits_for.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
                usage.cpu(),
                bytes(usage.memory_bytes),
                utc(info.started, false),
            ]);
        }
        text.push_str(&table.finish());
        text
    }
}

pub(crate) fn ps(common: &Common, output: &mut Output) -> Result<(), Failure> {
    let (runs, code) = Runs::ask(common, &mut BTreeMap::new(), None);
    if output.is_json() {
        output.json(&runs)?;
    } else {
        runs.print(output)?;
    }
    match code {
        0 if runs.runs.is_empty() => Err(Failure::NoRun),
        0 => Ok(()),
        code => Err(Failure::Told(code)),
    }
}

pub(crate) fn log(
    common: &Common,
    lines: u64,
    follow: bool,
    level: Level,
    output: &mut Output,
) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Lines {
        lines: Vec<LogLine>,
    }

    let mut visitor = common.only_run()?;
    if !follow {
        let mut lines = visitor.log(lines)?;
        lines.retain(|line| line.level <= level);
        if output.is_json() {
            return output.json(&Lines { lines });
        }
        return lines.iter().try_for_each(|line| output.text(&line_text(line)));
    }
    for line in visitor.follow(lines)? {
        let line = line?;
        if line.level > level {
            continue;
        }
        if output.is_json() {
            output.json(&line)?;
        } else {
            output.text(&line_text(&line))?;
        }
        output.flush()?;
    }
    Ok(())
}

fn line_text(line: &LogLine) -> String {
    let LogLine { time, level, worker, text, .. } = line;
    let worker = worker.map_or_else(String::new, |number| format!("worker {number}: "));
    format!("{} {level:<5} {worker}{}\n", utc(*time, true), plain(text))
}

pub(crate) fn stop(
    common: &Common,
    whom: Whom,
    grace: Option<Duration>,
    output: &mut Output,
) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Told {
        directory: String,
        /// How many workers.
        workers: u64,
    }

    let mut visitor = common.only_run()?;
    let workers = match whom {
        Whom::Worker(number) => visitor.stop_worker(number, grace).map(|()| 1)?,
        Whom::All => visitor.stop_all(grace)?,
    };
    let directory = visitor.run().directory().to_string_lossy().into_owned();
    if output.is_json() { output.json(&Told { directory, workers }) } else { Ok(()) }
}

pub(crate) fn clean(common: &Common, dry_run: bool, output: &mut Output) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Cleaned {
        directory: String,
        removed: Vec<String>,
        left: Vec<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    }

    let leftovers = match (&common.directory, &common.place) {
        (Some(directory), _) => match admin::leftover(directory) {
            Ok(leftover) => vec![leftover],
            Err(AdminError::NothingThere { .. }) => Vec::new(),
            Err(error) => return Err(error.into()),
        },
        (None, Some(place)) => admin::leftovers_in(place),
        (None, None) => admin::leftovers(),
    };
    let mut all_is_well = true;
    let mut cleaned = Vec::new();
    for Leftover { directory, resources, .. } in leftovers {
        let result = if dry_run { Ok(resources.clone()) } else { admin::clean(&directory) };
        let (left, error) = match result {
            Ok(left) => (left, None),
            // Somebody else was faster.
            Err(AdminError::NothingThere { .. } | AdminError::Running { .. }) => continue,
            Err(error) => (resources.clone(), Some(error)),
        };
        all_is_well &= dry_run || left.is_empty() && error.is_none();
        if let Some(error) = &error {
            eprintln!("manycore: {error}");
        }
        let (left, removed): (Vec<Resource>, Vec<Resource>) =
            resources.into_iter().partition(|resource| left.contains(resource));
        let names = |resources: &[Resource]| resources.iter().map(ToString::to_string).collect();
        cleaned.push(Cleaned {
            directory: directory.to_string_lossy().into_owned(),
            removed: names(&removed),
            left: names(&left),
            error: error.map(|error| error.to_string()),
        });
    }
    if output.is_json() {
        output.json(&cleaned)?;
    } else {
        let mut table = Table::new(["RUN", "OBJECT", ""]);
        let is_empty = cleaned.is_empty();
        for Cleaned { directory, removed, left, error } in cleaned {
            let done = if error.is_some() || dry_run { "left" } else { "cleaned up" };
            table.row([directory.clone(), "-".to_owned(), done.to_owned()]);
            for object in removed {
                table.row([directory.clone(), object, "removed".to_owned()]);
            }
            for object in left {
                table.row([directory.clone(), object, "left".to_owned()]);
            }
        }
        if !is_empty {
            output.text(&table.finish())?;
        }
    }
    if all_is_well { Ok(()) } else { Err(Failure::Told(1)) }
}
