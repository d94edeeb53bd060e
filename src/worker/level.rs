//! [`Level`]: how important a line of the run's log is.
//!
//! This module filters nothing: the master keeps lines of every level, and whoever reads them chooses.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How important a line of the run's log is, the most important first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Something is wrong.
    Error,
    /// Something may be wrong.
    Warn,
    /// Something that the user of the program may want to know.
    Info,
    /// Something that its author may want to know.
    Debug,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
        })
    }
}

/// The longest text of a line, in bytes.
pub(crate) const TEXT_MAX: usize = 4 << 10;

/// Cuts a text to at most `limit` bytes, and says so in the last ones.
pub(crate) fn cut(text: &mut String, limit: usize) {
    const MARK: &str = " [...]";
    if text.len() > limit {
        let most = limit.saturating_sub(MARK.len());
        let end = (0..=most).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push_str(MARK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_characters() {
        for (before, after) in [("äää", "äää"), ("ääääää", "ä [...]"), ("abcdefghi", "ab [...]")]
        {
            let mut text = before.to_owned();
            cut(&mut text, 8);
            assert_eq!(text, after);
        }
    }
}
