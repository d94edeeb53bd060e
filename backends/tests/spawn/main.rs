//! `Fork`, `Exec` and `Thread` keep the laws of `Spawner`, and what each of them promises besides.
//!
//! A program without the test harness: the harness runs tests in threads, and `Fork` refuses those.

mod closures;
mod exec;
mod fork;
mod thread;

use std::process::ExitCode;

use manycore_backends::spawn::{Entry, Exec, Fork, Spawner, Thread};
use manycore_backends::testing::spawn::{all, unit};
use manycore_backends::testing::{TestCase, run_tests};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some(fork::PRINT) => return fork::print_around_a_spawn(),
        Some(exec::EARLY) => return exec::spawn_before_enter(),
        Some(exec::HOST) => return exec::host(),
        _ => {}
    }
    Exec::enter(Entry::Main, unit::<Exec>);

    let mut tests = Vec::new();
    let mut group = |name: &str, group: Vec<TestCase>| {
        tests.extend(group.into_iter().map(|(test, run)| (&*format!("{name}::{test}").leak(), run)));
    };
    group("fork", all::<Fork>());
    group("closures", closures::all());
    group("fork", fork::all());
    group("exec", all::<Exec>());
    group("exec", exec::all());
    group("thread", all::<Thread>());
    group("thread", thread::all());
    run_tests(&tests);
    ExitCode::SUCCESS
}
