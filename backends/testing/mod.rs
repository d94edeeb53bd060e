//! For the tests of backends, ours and yours (feature `testing`): a conformance suite per contract,
//! the fault injector, the crash recorder, the executioner, and the umpire, who decides when threads take turns.
//!
//! Each suite is a list of functions, generic over the implementation, that panic when a law is broken;
//! the function's comment cites the law.
//!
//! | suite | how to run it |
//! |---|---|
//! | [`poll`], [`transport`] | [`poll_conformance!`](crate::poll_conformance) and [`transport_conformance!`](crate::transport_conformance) make a `#[test]` of each function |
//! | [`shm`], [`lock`], [`spawn`] | they fork, or count descriptors of the whole process: `all` is a list for [`run_tests`], in a test with `harness = false` |
//!
//! ```ignore
//! manycore_backends::poll_conformance!(my_poller, my_crate::MyPoller);
//! ```
//!
//! Nothing in here is needed, or used, outside tests.

// A suite fails by panicking, as tests do.
#![allow(clippy::missing_panics_doc)]

pub mod anchor;
pub mod faulty;
pub mod lock;
pub mod mortal;
pub mod observed;
pub mod poll;
pub mod recorder;
pub mod schedule;
pub mod shm;
pub mod spawn;
pub mod transport;

/// A joined thread, or one of a scope, may be there for a moment still, as far as the system counts; the next test may
/// fork. One that was left behind for good is that test's to complain about.
fn wait_for_threads_to_end() {
    let threads = || std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    for _ in 0..100_000 {
        if threads() <= 1 {
            return;
        }
        std::thread::yield_now();
    }
}

/// A test: its name and what it does.
pub type TestCase = (&'static str, fn());

/// Runs tests one after the other in the calling thread, which is what tests that fork need: the standard
/// harness has threads. Prints and understands as much of its conventions as `cargo test` uses (a filter,
/// `--exact`, `--list`), and exits with 101 if a test panicked.
pub fn run_tests(tests: &[TestCase]) {
    let mut filter = None;
    let (mut exact, mut list) = (false, false);
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--exact" => exact = true,
            "--list" => list = true,
            option if option.starts_with('-') => {}
            name => filter = Some(name.to_owned()),
        }
    }
    let chosen: Vec<&TestCase> = tests
        .iter()
        .filter(|(name, _)| match &filter {
            None => true,
            Some(filter) if exact => name == filter,
            Some(filter) => name.contains(filter.as_str()),
        })
        .collect();
    if list {
        for (name, _) in chosen {
            println!("{name}: test");
        }
        return;
    }
    println!("\nrunning {} tests", chosen.len());
    let mut failed = Vec::new();
    for (name, test) in &chosen {
        wait_for_threads_to_end();
        let passed = std::panic::catch_unwind(test).is_ok();
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        if !passed {
            failed.push(*name);
        }
    }
    let verdict = if failed.is_empty() { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {verdict}. {} passed; {} failed; 0 ignored; 0 measured; {} filtered out\n",
        chosen.len() - failed.len(),
        failed.len(),
        tests.len() - chosen.len()
    );
    if !failed.is_empty() {
        println!("failed: {}", failed.join(", "));
        std::process::exit(101);
    }
}
