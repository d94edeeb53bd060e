//! Figures and pictures of a table: for people, tests and debugging.
//!
//! This module changes nothing, and does not say whether what it shows is in order: `check` does.

use std::io::Write;

use manycore_backends::shm::{Memory, Window};
use manycore_backends::{LockMethod, ShmBackend};
use serde::{Deserialize, Serialize};

use super::ShmTable;
use super::error::{Result, TableError};
use super::iter::visit_all;
use super::layout::*;
use super::view::View;

/// How large a table is, and what its room is used for. All are of one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Stat {
    /// Bindings, hidden ones included.
    pub bindings: usize,
    /// Different keys.
    pub keys: usize,
    /// Buckets in use.
    pub buckets: usize,
    /// The page size, in bytes.
    pub page_size: usize,
    /// Pages in the object.
    pub pages: usize,
    /// Bytes in the object. What follows adds up to it.
    pub bytes: usize,
    /// Bytes of the header.
    pub header_bytes: usize,
    /// Bytes of the buckets and of what leads to them.
    pub directory_bytes: usize,
    /// Bytes of what hangs behind full buckets.
    pub overflow_bytes: usize,
    /// Bytes of the values that do not fit into buckets.
    pub record_bytes: usize,
    /// Bytes of the journal.
    pub journal_bytes: usize,
    /// Bytes that were given back, and will be used again.
    pub free_bytes: usize,
    /// Bytes at the end that were never used, or were given back.
    pub unused_bytes: usize,
}

impl Stat {
    /// Keys per bucket, which has room for seven.
    pub fn load(&self) -> f64 {
        self.keys as f64 / self.buckets as f64
    }
}

/// The words of a table's object, as they are: for debugging. No lock is taken, so they may change meanwhile.
#[derive(Debug)]
#[doc(alias = "memory")]
pub struct Raw<'a, B: ShmBackend> {
    object: &'a B,
}

impl<B: ShmBackend> Raw<'_, B> {
    /// Words known to this process.
    pub fn len(&self) -> usize {
        self.object.memory().words()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The word at this place, if there is one.
    pub fn get(&self, at: usize) -> Option<u32> {
        self.object.memory().load(at).ok()
    }
}

impl<B: ShmBackend, L: LockMethod<B>> ShmTable<B, L> {
    /// How large the table is, and what its room is used for; under the read lock, in time proportional to the number
    /// of blocks.
    ///
    /// # Errors
    /// [`TableError::Lock`], [`TableError::Corrupt`].
    pub fn stat(&self) -> Result<Stat> {
        self.read(|view| {
            let page_size = view.page_size()?;
            let bytes = view.memory().words() * 4;
            let top = view.load(AT_TOP)?;
            let mut stat = Stat {
                bindings: view.load(AT_BINDINGS)? as usize,
                keys: view.load(AT_KEYS)? as usize,
                buckets: view.buckets()? as usize,
                page_size,
                pages: bytes / page_size,
                bytes,
                header_bytes: HEADER_WORDS as usize * 4,
                unused_bytes: bytes.saturating_sub(top as usize * 4),
                ..Stat::default()
            };
            let mut at = HEADER_WORDS;
            while at < top {
                let head = view.block(at)?;
                let sum = match head.kind {
                    Kind::Free => &mut stat.free_bytes,
                    Kind::Record => &mut stat.record_bytes,
                    Kind::Overflow => &mut stat.overflow_bytes,
                    Kind::Segment | Kind::Leaf => &mut stat.directory_bytes,
                    Kind::Journal => &mut stat.journal_bytes,
                };
                *sum += (head.granules * GRANULE) as usize * 4;
                at = at.saturating_add(head.granules * GRANULE);
            }
            for index in 0..view.deferred()? {
                let bytes = (view.deferred_record(index)?.1.granules * GRANULE) as usize * 4;
                stat.record_bytes = stat.record_bytes.saturating_sub(bytes);
                stat.free_bytes += bytes;
            }
            Ok(stat)
        })
    }

    /// Writes all bindings, one to a line, as `key: [word, ...]`, and before them a line that says how many there
    /// are; for people.
    ///
    /// # Errors
    /// [`TableError::Dump`] if `out` does not take it; [`TableError::Lock`], [`TableError::Corrupt`].
    pub fn dump(&self, out: &mut impl Write) -> Result<()> {
        self.read(|view| {
            let mut line = |text: std::fmt::Arguments<'_>| writeln!(out, "{text}").map_err(TableError::Dump);
            line(format_args!("{} bindings of {} keys", view.load(AT_BINDINGS)?, view.load(AT_KEYS)?))?;
            visit_all(*view, |key, value| line(format_args!("{key}: {value:?}")))
        })
    }

    /// The words of the object, for debugging.
    pub fn raw(&self) -> Raw<'_, B> {
        // What others have added becomes reachable; if that fails, what is known is shown.
        let _ = View::new(&self.shared.object);
        Raw { object: &self.shared.object }
    }
}
