//! What the system says that processes use.
//!
//! This module does not wait for anything.

use std::time::Duration;

use procfs::process::Process;

/// What a process has used.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// Time of processors, in all.
    pub(crate) cpu: Option<Duration>,
    /// Memory that is there now, in bytes; what is shared counts.
    pub(crate) memory: Option<u64>,
}

impl Usage {
    /// That of a process: nothing, if it has ended.
    pub(crate) fn of(process: u32) -> Usage {
        let stat = i32::try_from(process).ok().and_then(|process| Process::new(process).ok()?.stat().ok());
        let Some(stat) = stat else { return Usage::default() };
        let ticks = (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64;
        Usage { cpu: Duration::try_from_secs_f64(ticks).ok(), memory: Some(stat.rss * procfs::page_size()) }
    }
}
