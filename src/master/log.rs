//! [`Log`]: the last lines of what happens in a run, for visitors.
//!
//! This module writes nowhere: what nobody has asked for is forgotten.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::time::SystemTime;

use super::jobs::Jobs;
use crate::platform::Platform;
use crate::trace::event;
use crate::wire::Ended;
use crate::wire::facts::LogLine;
use crate::wire::visit::LogFrom;
use crate::worker::level::{TEXT_MAX, cut};
use crate::worker::{EndedWorker, Level, Outcome};

/// How many lines are kept.
const LINES_MAX: usize = 1024;

/// Bytes of lines that go into one answer: with one line more, and what is around the texts, it has still room.
const PAGE: usize = 32 << 10;

/// What a line takes beside its text, at most.
const LINE: usize = 96;

#[derive(Debug, Default)]
pub(super) struct Log {
    lines: VecDeque<Line>,
    /// The number of the next line.
    end: u64,
}

#[derive(Debug)]
struct Line {
    time: SystemTime,
    level: Level,
    worker: Option<u64>,
    text: Text,
}

/// What a line says. What is written for each worker becomes a text only when somebody reads it.
#[derive(Debug)]
pub(super) enum Text {
    Said(String),
    /// The worker has begun, in this process if it is one.
    Started {
        name: &'static str,
        process: Option<u32>,
    },
    /// It has ended, with a result.
    Ended {
        name: Cow<'static, str>,
    },
}

impl From<String> for Text {
    fn from(mut text: String) -> Text {
        cut(&mut text, TEXT_MAX);
        Text::Said(text)
    }
}

impl Line {
    fn text(&self) -> String {
        let mut text = match &self.text {
            Text::Said(text) => return text.clone(),
            Text::Started { name, process: Some(process) } => {
                format!("`{name}` started as process {process}")
            }
            Text::Started { name, process: None } => format!("`{name}` started"),
            Text::Ended { name } => format!("`{name}` ended"),
        };
        cut(&mut text, TEXT_MAX);
        text
    }
}

impl Log {
    pub(super) fn write(&mut self, level: Level, worker: Option<u64>, text: impl Into<Text>) {
        if self.lines.len() == LINES_MAX {
            self.lines.pop_front();
        }
        self.lines.push_back(Line { time: SystemTime::now(), level, worker, text: text.into() });
        self.end += 1;
    }

    /// The number of the next line.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// The number of the first line that is meant.
    pub(super) fn number(&self, from: LogFrom) -> u64 {
        let first = self.end - self.lines.len() as u64;
        match from {
            LogFrom::Line(number) => number.clamp(first, self.end),
            LogFrom::Last(lines) => self.end.saturating_sub(lines).max(first),
        }
    }

    /// As many lines from the one of this number on as go into one answer.
    pub(super) fn page(&self, from: u64) -> Vec<LogLine> {
        let from = self.number(LogFrom::Line(from));
        let skipped = (from + self.lines.len() as u64).saturating_sub(self.end);
        let mut size = 0;
        let fits = |line: &LogLine| {
            let fits = size < PAGE;
            size += line.text.len() + LINE;
            fits
        };
        let told = |(number, line): (u64, &Line)| {
            let Line { time, level, worker, .. } = *line;
            LogLine { number, time, level, worker, text: line.text() }
        };
        // There are no more than `LINES_MAX`.
        (from..).zip(self.lines.iter().skip(skipped as usize)).map(told).take_while(fits).collect()
    }
}

impl<P: Platform> Jobs<P> {
    /// A worker has something to say.
    pub(super) fn hear_log(&mut self, id: u64, level: Level, text: String) {
        match level {
            Level::Error => {
                event!(error, worker = id, text);
            }
            Level::Warn => {
                event!(warn, worker = id, text);
            }
            Level::Info => {
                event!(info, worker = id, text);
            }
            Level::Debug => {
                event!(debug, worker = id, text);
            }
        }
        self.log.write(level, Some(id), text);
    }

    /// A worker has ended.
    pub(super) fn write_ended(&mut self, ended: &Ended) {
        let (level, text) = match &ended.outcome {
            Outcome::Returned(_) => (Level::Debug, Text::Ended { name: ended.name.clone() }),
            outcome => {
                let Ended { id: number, name, process, .. } = ended.clone();
                let worker = EndedWorker { name: name.into_owned(), number, process };
                (Level::Warn, outcome.clone().into_error(worker).to_string().into())
            }
        };
        self.log.write(level, Some(ended.id), text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept_and_found_by_their_numbers() {
        let mut log = Log::default();
        for number in 0..LINES_MAX + 10 {
            log.write(Level::Info, None, number.to_string());
        }
        assert_eq!((log.number(LogFrom::Line(0)), log.number(LogFrom::Last(3))), (10, 1031));
        assert_eq!((log.number(LogFrom::Last(u64::MAX)), log.number(LogFrom::Line(u64::MAX))), (10, 1034));
        let lines = log.page(1030);
        let lines: Vec<(u64, &str)> = lines.iter().map(|line| (line.number, line.text.as_str())).collect();
        assert_eq!(lines, [(1030, "1030"), (1031, "1031"), (1032, "1032"), (1033, "1033")]);
        assert_eq!(log.page(0)[0].number, 10);
        assert_eq!((log.page(1034), log.page(u64::MAX)), (vec![], vec![]));
    }

    #[test]
    fn a_page_is_never_too_long_and_never_empty() {
        let mut log = Log::default();
        for size in [10, TEXT_MAX, 100 * TEXT_MAX].into_iter().cycle().take(100) {
            log.write(Level::Debug, Some(u64::MAX), "x".repeat(size));
        }
        let (mut next, mut pages) = (0, 0);
        while next < log.end() {
            let lines = log.page(next);
            assert!(lines.iter().map(|line| line.text.len()).sum::<usize>() <= PAGE + TEXT_MAX);
            next = lines.last().unwrap().number + 1;
            pages += 1;
        }
        assert!(pages > 5, "{pages}");
    }
}
