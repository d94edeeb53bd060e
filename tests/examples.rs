//! The short example programs print what is known to be right, the same on all platforms, leave nothing behind, and say
//! what is wrong with their arguments.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

const PLATFORMS: [&str; 3] = ["forked", "execed", "threaded"];

#[test]
fn ten_workers_square_and_the_first_adds_up() {
    assert_eq!(output("create_join", &[]), "385\n");
    for platform in PLATFORMS {
        assert_eq!(output("create_join", &["--platform", platform]), "385\n", "{platform}");
    }
}

#[test]
fn queens_are_counted_by_every_variant_on_every_platform() {
    for variant in ["sequential", "joined", "table", "two-tables", "pool"] {
        for platform in PLATFORMS {
            let arguments = ["--variant", variant, "--platform", platform];
            assert_eq!(output("nqueens", &[&["8"][..], &arguments].concat()), "12\n", "{arguments:?}");
        }
    }
    assert_eq!(output("nqueens", &["10"]), "92\n");
}

/// One row, all rows for one worker, more workers than rows; boards that have no solution, or one.
#[test]
fn queens_are_counted_whatever_the_numbers() {
    for variant in ["sequential", "joined", "table", "pool"] {
        for (size, solutions) in [("1", "1\n"), ("2", "0\n"), ("3", "0\n"), ("4", "1\n"), ("6", "1\n")] {
            for workers in ["1", "3", "20"] {
                let arguments = [size, "--variant", variant, "--workers", workers, "--platform", "threaded"];
                assert_eq!(output("nqueens", &arguments), solutions, "{arguments:?}");
            }
        }
    }
}

#[test]
fn wrong_arguments_are_explained() {
    let wrong: [(&str, &[&str], &str); 11] = [
        ("create_join", &["--platform"], "usage: create_join"),
        ("create_join", &["--platform", "none"], "usage: create_join"),
        ("create_join", &["10"], "usage: create_join"),
        ("nqueens", &[], "nqueens: how many queens?\n\nusage: nqueens N"),
        ("nqueens", &["0"], "\"0\" is no number from 1 to 16"),
        ("nqueens", &["17"], "\"17\" is no number from 1 to 16"),
        ("nqueens", &["8", "8"], "one argument too many"),
        ("nqueens", &["8", "--workers", "many"], "\"many\" is no number from 1 to 1000"),
        ("nqueens", &["8", "--variant", "fast"], "no variant \"fast\""),
        ("nqueens", &["8", "--platform"], "--platform needs a value"),
        ("nqueens", &["8", "--fast"], "unknown option --fast"),
    ];
    for (name, arguments, message) in wrong {
        let (code, out, err) = run(name, arguments);
        assert_eq!((code, out.as_str()), (Some(2), ""), "{arguments:?}: {err}");
        assert!(err.contains(message) && err.contains("usage: "), "{arguments:?}: {err}");
    }
}

/// What the program prints when all goes well.
fn output(name: &str, arguments: &[&str]) -> String {
    let (code, out, err) = run(name, arguments);
    assert_eq!(code, Some(0), "{name} {arguments:?}: {out}{err}");
    out
}

/// Runs an example with a directory for runs of its own, and looks that it leaves nothing.
fn run(name: &str, arguments: &[&str]) -> (Option<i32>, String, String) {
    let directory = tempfile::tempdir().unwrap();
    let before = shared_objects();
    let mut command = program(name);
    command.args(arguments).env("XDG_RUNTIME_DIR", directory.path()).process_group(0);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let group = rustix::process::Pid::from_child(&child);
    let output = child.wait_with_output().unwrap();

    let gone = rustix::process::test_kill_process_group(group);
    assert_eq!(gone, Err(rustix::io::Errno::SRCH), "{name} {arguments:?}: a process is left");
    let place = directory.path().join("manycore");
    let runs = place.read_dir().map_or(0, Iterator::count);
    assert_eq!(runs, 0, "{name} {arguments:?}: the directory of a run is left");
    // Others who run the examples at the same time have theirs removed, too; what is left stays.
    let mut left = shared_objects();
    left.retain(|object| !before.contains(object));
    for _ in 0..5_000_000 {
        left.retain(|object| Path::new("/dev/shm").join(object).exists());
        if left.is_empty() {
            break;
        }
        std::thread::yield_now();
    }
    assert_eq!(left, Vec::<String>::new(), "{name} {arguments:?}");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// What examples have in shared memory now.
fn shared_objects() -> Vec<String> {
    let names = std::fs::read_dir("/dev/shm").unwrap().map(|entry| entry.unwrap().file_name());
    let names = names.map(|name| name.to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("nqueens-")).collect()
}

/// The example, as cargo has built it beside this test.
fn program(name: &str) -> Command {
    let test = std::env::current_exe().unwrap();
    let target = test.parent().and_then(Path::parent).unwrap();
    let program = target.join("examples").join(name);
    assert!(program.exists(), "`cargo test` builds the examples; with `--test`, say `--examples` before");
    #[allow(clippy::disallowed_methods, reason = "the program is looked at from outside")]
    Command::new(program)
}
