//! What is printed: JSON, or text in columns.
//!
//! This module does not know what it prints.

use std::fmt::Write as _;
use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};
use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::Failure;

/// The standard output.
pub(crate) struct Output {
    json: bool,
    stdout: BufWriter<StdoutLock<'static>>,
}

impl Output {
    pub(crate) fn new(json: bool) -> Output {
        Output { json, stdout: BufWriter::new(io::stdout().lock()) }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    pub(crate) fn is_terminal(&self) -> bool {
        self.stdout.get_ref().is_terminal()
    }

    /// One JSON document in a line.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        serde_json::to_writer(&mut self.stdout, value).map_err(io::Error::from)?;
        Ok(self.stdout.write_all(b"\n")?)
    }

    pub(crate) fn text(&mut self, text: &str) -> Result<(), Failure> {
        Ok(self.stdout.write_all(text.as_bytes())?)
    }

    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        Ok(self.stdout.flush()?)
    }
}

/// Columns of text, each as wide as its widest cell; numbers are at the right.
pub(crate) struct Table<const COLUMNS: usize> {
    rows: Vec<[String; COLUMNS]>,
    right: [bool; COLUMNS],
}

impl<const COLUMNS: usize> Table<COLUMNS> {
    /// A table with these headings; those that begin with `>` are of columns with numbers.
    pub(crate) fn new(headings: [&str; COLUMNS]) -> Table<COLUMNS> {
        let right = headings.map(|heading| heading.starts_with('>'));
        Table { rows: vec![headings.map(|heading| heading.trim_start_matches('>').to_owned())], right }
    }

    pub(crate) fn row(&mut self, cells: [String; COLUMNS]) {
        self.rows.push(cells.map(|cell| plain(&cell)));
    }

    pub(crate) fn finish(self) -> String {
        let mut widths = [0; COLUMNS];
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, width), right) in row.iter().zip(widths).zip(self.right) {
                let _ =
                    if right { write!(line, "{cell:>width$}  ") } else { write!(line, "{cell:<width$}  ") };
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// A text with what a terminal would obey escaped.
pub(crate) fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            plain.extend(character.escape_default());
        } else {
            plain.push(character);
        }
    }
    plain
}

/// A number of bytes, for people.
pub(crate) fn bytes(bytes: Option<u64>) -> String {
    match bytes {
        None => "-".to_owned(),
        Some(bytes @ ..1024) => format!("{bytes} B"),
        Some(bytes) => {
            let mut size = bytes as f64 / 1024.0;
            let mut units = ["KiB", "MiB", "GiB"].into_iter();
            let mut unit = units.next().unwrap_or_default();
            for larger in units {
                if size < 1024.0 {
                    break;
                }
                (size, unit) = (size / 1024.0, larger);
            }
            format!("{size:.1} {unit}")
        }
    }
}

/// A time that was spent, in seconds.
pub(crate) fn seconds(time: Option<Duration>) -> String {
    time.map_or_else(|| "-".to_owned(), |time| format!("{:.2} s", time.as_secs_f64()))
}

/// A time of day in UTC, to the second, or to the millisecond.
pub(crate) fn utc(time: SystemTime, milliseconds: bool) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // Years begin in March here, so that the day that is sometimes there is the last one: there are 400 years of 146 097 days.
    let day = days + 719_468;
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, later) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = era * 400 + year + later;
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let fraction = if milliseconds { format!(".{:03}", since.subsec_millis()) } else { String::new() };
    format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (second, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_767_225_599, "2025-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(utc(SystemTime::UNIX_EPOCH + Duration::from_secs(second), false), text);
        }
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_042);
        assert_eq!(utc(time, true), "1970-01-01T00:00:01.042Z");
    }

    #[test]
    fn columns_are_as_wide_as_their_cells_and_show_no_control_characters() {
        let mut table = Table::new([">NUMBER", "NAME", "END"]);
        table.row(["7".into(), "ä\x1b[2J\n".into(), "x".into()]);
        table.row(["12345678".into(), "b".into(), String::new()]);
        let expected = "  NUMBER  NAME          END\n       7  ä\\u{1b}[2J\\n  x\n12345678  b\n";
        assert_eq!(table.finish(), expected);
    }

    #[test]
    fn bytes_have_the_unit_that_fits() {
        for (number, text) in
            [(1023, "1023 B"), (1024, "1.0 KiB"), (5 << 20, "5.0 MiB"), (3 << 40, "3072.0 GiB")]
        {
            assert_eq!(bytes(Some(number)), text);
        }
    }
}
