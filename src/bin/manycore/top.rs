//! `top`: what `ps` shows, again and again, with what processes used of a processor since the last time.
//!
//! This module stops when there is no run any more.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use manycore::poll::PollArray;

use crate::commands::Runs;
use crate::output::Output;
use crate::{Common, Failure};

/// What clears a terminal, and goes to its upper left corner.
const CLEAR: &str = "\x1b[H\x1b[2J\x1b[3J";

/// What processes had used, and when.
type Usages = BTreeMap<u32, (Duration, Instant)>;

pub(crate) fn top(
    common: &Common,
    interval: Duration,
    count: Option<u64>,
    output: &mut Output,
) -> Result<(), Failure> {
    let mut visitors = BTreeMap::new();
    let mut before = Usages::new();
    let mut times = 0;
    loop {
        let mut now = Usages::new();
        let mut share = |process: u32, cpu: Duration, started: SystemTime| {
            let moment = Instant::now();
            now.insert(process, (cpu, moment));
            let (used, time) = match before.get(&process) {
                Some((used, then)) => (cpu.saturating_sub(*used), moment.duration_since(*then)),
                // The first time, since it began.
                None => (cpu, started.elapsed().unwrap_or_default()),
            };
            if time.is_zero() { 0.0 } else { used.as_secs_f64() / time.as_secs_f64() }
        };
        let (mut runs, code) = Runs::ask(common, &mut visitors, Some(&mut share));
        before = now;
        if output.is_json() {
            output.json(&runs)?;
        } else {
            runs.sort_by_share();
            if output.is_terminal() {
                output.text(CLEAR)?;
            } else if times > 0 {
                output.text("\n")?;
            }
            runs.print(output)?;
        }
        output.flush()?;
        times += 1;
        let is_over = runs.runs.is_empty() || code == 3;
        if is_over && times == 1 {
            return Err(if code == 3 { Failure::Told(3) } else { Failure::NoRun });
        }
        if is_over || count.is_some_and(|count| times >= count) {
            return if matches!(code, 0 | 3) { Ok(()) } else { Err(Failure::Told(code)) };
        }
        // Nothing to wait for but the time; a signal ends this program.
        let _ = PollArray::new(0).restarting_wait(0, Some(interval));
    }
}
