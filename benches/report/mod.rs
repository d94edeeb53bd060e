//! What the benches with targets print: a line per measurement, and how many targets were met.

// Each bench uses a part of it.
#![allow(dead_code)]

use std::fmt;

/// How far a judged figure may go.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Limit {
    AtMost(f64),
    AtLeast(f64),
}

impl Limit {
    fn is_kept(self, figure: f64) -> bool {
        match self {
            Limit::AtMost(limit) => figure <= limit,
            Limit::AtLeast(limit) => figure >= limit,
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Limit::AtMost(limit) => write!(f, "<= {}", figure(*limit)),
            Limit::AtLeast(limit) => write!(f, ">= {}", figure(*limit)),
        }
    }
}

/// One measurement.
#[derive(Debug)]
pub(crate) struct Row {
    what: String,
    who: &'static str,
    /// What ours is compared with, if with anything.
    against: Option<f64>,
    ours: f64,
    /// Round by round, rising.
    ratios: Vec<f64>,
    judged: Judged,
}

impl Row {
    /// Two parties, round by round. What is printed are medians; that of the ratios is not quite the ratio of the
    /// medians.
    pub(crate) fn compared(
        what: impl Into<String>,
        who: &'static str,
        ours: &[f64],
        against: &[f64],
        judged: Judged,
    ) -> Row {
        let mut ratios: Vec<f64> = ours.iter().zip(against).map(|(ours, against)| ours / against).collect();
        ratios.sort_by(f64::total_cmp);
        Row { what: what.into(), who, against: Some(median(against)), ours: median(ours), ratios, judged }
    }

    /// A figure that nothing is compared with.
    pub(crate) fn alone(what: impl Into<String>, who: &'static str, ours: f64, judged: Judged) -> Row {
        Row { what: what.into(), who, against: None, ours, ratios: Vec::new(), judged }
    }
}

/// Which figure the target is about.
#[derive(Debug)]
pub(crate) enum Judged {
    Nothing,
    Ratio(Limit),
    Ours(Limit),
}

/// Prints rows, and counts.
#[derive(Debug, Default)]
pub(crate) struct Report {
    section: String,
    kept: usize,
    missed: Vec<String>,
}

impl Report {
    pub(crate) fn section(&mut self, title: &str, against: &str, ours: &str) {
        self.section = title.to_owned();
        println!("\n{title}");
        println!("{:<34} {:<17} {against:>11} {ours:>11} {:>7} {:>13}  target", "", "", "ratio", "of rounds");
    }

    pub(crate) fn row(&mut self, row: &Row) {
        let verdict = match row.judged {
            Judged::Nothing => String::new(),
            Judged::Ratio(limit) => self.judge(row, limit, median(&row.ratios)),
            Judged::Ours(limit) => self.judge(row, limit, row.ours),
        };
        let (ratio, rounds) = match row.ratios.as_slice() {
            [] => ("-".to_owned(), String::new()),
            [ratio] => (figure(*ratio), String::new()),
            [first, .., last] => {
                (figure(median(&row.ratios)), format!("{}..{}", figure(*first), figure(*last)))
            }
        };
        let line = format!(
            "{:<34} {:<17} {:>11} {:>11} {ratio:>7} {rounds:>13}  {verdict}",
            row.what,
            row.who,
            row.against.map_or_else(|| "-".to_owned(), figure),
            figure(row.ours),
        );
        println!("{}", line.trim_end());
    }

    /// Measures two parties in turns, round by round, and prints the row.
    pub(crate) fn compare(
        &mut self,
        what: &str,
        who: &'static str,
        judged: Judged,
        against: impl Fn() -> f64,
        ours: impl Fn() -> f64,
    ) {
        let (mut of_against, mut of_ours) = (Vec::new(), Vec::new());
        for _ in 0..rounds() {
            of_against.push(against());
            of_ours.push(ours());
        }
        self.row(&Row::compared(what, who, &of_ours, &of_against, judged));
    }

    fn judge(&mut self, row: &Row, limit: Limit, judged: f64) -> String {
        let target = limit.to_string();
        if limit.is_kept(judged) {
            self.kept += 1;
            format!("{target:<9} ok")
        } else {
            let Row { what, who, .. } = row;
            self.missed.push(format!("{}: {what} ({who}): {}, {target}", self.section, figure(judged)));
            format!("{target:<9} MISSED")
        }
    }

    /// Says which targets were missed.
    pub(crate) fn end(&self) {
        println!("\n{} targets kept, {} missed", self.kept, self.missed.len());
        self.missed.iter().for_each(|missed| println!("  {missed}"));
    }
}

/// A number with about three digits.
fn figure(value: f64) -> String {
    match value.abs() {
        size if size < 10.0 => format!("{value:.2}"),
        size if size < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// The middle one.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}

/// How many rounds to measure: `MANYCORE_BENCH_ROUNDS`, else 5, or 1 without cargo's `--bench`.
pub(crate) fn rounds() -> usize {
    let rounds = match std::env::var("MANYCORE_BENCH_ROUNDS") {
        Ok(rounds) => rounds.parse().expect("MANYCORE_BENCH_ROUNDS is a number"),
        Err(_) if is_measuring() => 5,
        Err(_) => 1,
    };
    assert!(rounds > 0, "at least one round must be measured");
    rounds
}

/// Whether this is more than a trial of whether everything can be measured.
pub(crate) fn is_measuring() -> bool {
    std::env::args().any(|argument| argument == "--bench")
}

/// Whether the section is asked for: all are, unless the command line names parts of titles.
pub(crate) fn is_wanted(title: &str) -> bool {
    let mut filters = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).peekable();
    filters.peek().is_none() || filters.any(|filter| title.contains(&filter))
}
