//! The table against its targets: one run prints a line per target, its figure, and whether it is kept.
//!
//! The anchor is what a program of threads would use, `hashbrown` behind `parking_lot::RwLock`. Absolute figures
//! drift and differ between machines; only ratios within one run count. So the anchor and ours are measured in
//! turn, round by round, each in a fresh process on the same core, and what is judged is the median of the rounds'
//! ratios. Where nobody waits, the time that counts is that of the core, not of the clock, so that other programs
//! disturb little; single insertions and two parties at once want a quiet machine.
//!
//! | section | what is measured |
//! |---|---|
//! | one process | every operation; keys are a random permutation, looked up in another order than they came |
//! | single insertions | each timed by itself, while the table grows |
//! | sizes | of the object, with the default size of pages |
//! | locks | pairs of locking and unlocking, by one process and by two, against a robust mutex of the C library and bare
//! system calls; the time until a dead holder is followed |
//! | two at once | two processes with a table, on different cores, against two threads with the anchor |
//!
//! A lookup that allocates (`find`) is compared with the anchor's clone, one into a buffer (`find_into`) with the
//! anchor's copy into one. Targets of groups and of `get_many` are about the anchor's single operations, lookups
//! that clone; beside them stands what the anchor does under one lock for all keys, which for `get_many` means
//! without copying the values.
//!
//! What the targets were taken from stands beside ours: a [`sketch`] of such a table, which can do next to nothing, but costs
//! what no table of its kind can do without. Where its ratio misses a target, it is one of another machine.
//!
//! ```sh
//! cargo bench --bench table_targets                      # all of it, in less than three minutes
//! cargo bench --bench table_targets -- "two at once"     # the sections whose title contains this
//! MANYCORE_BENCH_LARGE=1 cargo bench --bench table_targets   # ten million keys, too: five minutes more
//! MANYCORE_BENCH_ROUNDS=1 cargo bench --bench table_targets  # instead of 5, and 3 of what takes long
//! ```
//!
//! Without cargo's `--bench` it only tries, quickly, whether everything can be measured.

mod growth;
mod locks;
#[allow(dead_code, reason = "the bench `messages` uses the rest")]
mod machine;
#[path = "../report/mod.rs"]
mod report;
mod single;
mod sketch;
#[allow(dead_code, reason = "the bench `table` uses the rest")]
mod store;
mod together;

use std::env;

use machine::cores;
use report::{Report, is_measuring, is_wanted};

fn main() {
    let (measuring, wanted) = (is_measuring(), is_wanted);
    let large = env::var("MANYCORE_BENCH_LARGE").is_ok_and(|value| value == "1");
    let rounds = report::rounds();
    // Of what takes long.
    let few = rounds.div_ceil(2);

    let (usual, mut singles) = if measuring {
        (
            1_000_000,
            vec![(1_000, 1), (1_000, 64), (100_000, 1), (100_000, 64), (1_000_000, 1), (1_000_000, 64)],
        )
    } else {
        (1_000, vec![(1_000, 1), (1_000, 64)])
    };
    let mut insertions = vec![usual];
    if measuring && large {
        singles.push((10_000_000, 1));
        insertions.push(10_000_000);
    }

    println!("{rounds} rounds, {} cores", cores().len());
    let mut report = Report::default();
    for (size, words) in singles {
        let title =
            format!("one process: {size} keys, {words} {}", if words == 1 { "word" } else { "words" });
        if wanted(&title) {
            report.section(&title, "anchor ns", "ours ns");
            let rounds = if size * words > 10_000_000 || size > 1_000_000 { few } else { rounds };
            single::measure(&mut report, size, words, rounds);
        }
    }
    for size in insertions {
        let title = format!("single insertions, up to {size} keys");
        if wanted(&title) {
            report.section(&title, "anchor us", "ours us");
            growth::measure_times(&mut report, size, few);
        }
    }
    let title = format!("sizes, with {usual} keys");
    if wanted(&title) {
        report.section(&title, "", "bytes");
        growth::measure_bytes(&mut report, usual);
    }
    let title = format!("two at once, {usual} keys");
    if wanted(&title) {
        report.section(&title, "against M/s", "M/s");
        together::measure(&mut report, usual, few);
    }
    if wanted("locks") {
        report.section("locks", "against ns", "ours");
        locks::measure(&mut report, rounds);
    }
    report.end();
}
