//! The short example programs print what is known to be right, the same on all platforms, leave nothing behind, and say
//! what is wrong with their arguments.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal};

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
    for variant in ["sequential", "joined", "table", "two-tables", "mailboxes", "pool"] {
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
    for variant in ["sequential", "joined", "table", "mailboxes", "pool"] {
        for (size, solutions) in [("1", "1\n"), ("2", "0\n"), ("3", "0\n"), ("4", "1\n"), ("6", "1\n")] {
            for workers in ["1", "3", "20"] {
                let arguments = [size, "--variant", variant, "--workers", workers, "--platform", "threaded"];
                assert_eq!(output("nqueens", &arguments), solutions, "{arguments:?}");
            }
        }
    }
}

#[test]
fn tasks_are_each_done_once_on_every_platform() {
    assert_eq!(output("task_queue", &[]), "1000\n");
    for platform in PLATFORMS {
        let arguments = ["--platform", platform, "--tasks", "300", "--workers", "3"];
        assert_eq!(output("task_queue", &arguments), "300\n", "{platform}");
    }
}

/// No tasks; one worker; more workers than tasks.
#[test]
fn tasks_are_done_whatever_the_numbers() {
    for (tasks, workers) in [("0", "1"), ("0", "4"), ("1", "1"), ("1", "4"), ("50", "1"), ("3", "20")] {
        for platform in PLATFORMS {
            let arguments = ["--tasks", tasks, "--workers", workers, "--platform", platform];
            assert_eq!(output("task_queue", &arguments), format!("{tasks}\n"), "{arguments:?}");
        }
    }
}

#[test]
fn tasks_survive_those_who_do_them() {
    assert_eq!(output("survivors", &[]), "1000\n");
    for platform in PLATFORMS {
        for (tasks, workers, kills) in [("0", "2", "0"), ("1", "1", "1"), ("200", "3", "40")] {
            let arguments =
                ["--tasks", tasks, "--workers", workers, "--kills", kills, "--platform", platform];
            assert_eq!(output("survivors", &arguments), format!("{tasks}\n"), "{arguments:?}");
        }
    }
}

const COMPLEMENTS: &str = "\
blue + blue -> blue
blue + red -> yellow
blue + yellow -> red
red + blue -> yellow
red + red -> red
red + yellow -> blue
yellow + blue -> red
yellow + red -> blue
yellow + yellow -> yellow
";

#[test]
fn chameneos_meet_on_every_platform() {
    let numbers = [("0", " zero", 0), ("1", " two", 2), ("2", " four", 4), ("105", " two one zero", 210)];
    for (meetings, spelled, sum) in numbers {
        for platform in PLATFORMS {
            let out = output("chameneos", &[meetings, "--platform", platform]);
            let games = out.strip_prefix(COMPLEMENTS).and_then(|rest| rest.strip_prefix('\n'));
            let parts: Vec<&str> = games.unwrap_or_else(|| panic!("{out}")).split("\n\n").collect();
            assert_eq!(parts.len(), 3, "{out}");
            let colours = [" blue red yellow", " blue red yellow red yellow blue red yellow red blue"];
            for (part, colours) in parts.iter().zip(colours) {
                let lines: Vec<&str> = part.lines().collect();
                assert_eq!((lines[0], lines[lines.len() - 1]), (colours, spelled), "{out}");
                // Nobody meets itself.
                let counts = lines[1..lines.len() - 1].iter().map(|line| line.strip_suffix(" zero"));
                let counts: Vec<u64> = counts.map(|count| count.unwrap().parse().unwrap()).collect();
                assert_eq!(counts.len(), colours.split_whitespace().count(), "{out}");
                assert_eq!(counts.iter().sum::<u64>(), sum, "{out}");
            }
            assert_eq!(parts[2], format!("{sum}\n"));
        }
    }
}

/// Whoever it is: the first worker, the supervisor, a worker, or a creature. The others would wait for ever.
///
/// Not the newest child: that may be one that does not know yet what it will be, and that nobody misses.
#[test]
fn a_worker_that_is_killed_ends_the_program_with_a_message() {
    let queue: &[&str] = &["--workers", "2", "--tasks", "10000000", "--platform"];
    let chameneos: &[&str] = &["1000000000", "--platform"];
    for platform in ["forked", "execed"] {
        for (name, arguments, workers, killed) in [
            ("task_queue", queue, 4, 0),
            ("task_queue", queue, 4, 1),
            ("task_queue", queue, 4, 2),
            ("chameneos", chameneos, 4, 2),
        ] {
            let arguments = [arguments, &[platform]].concat();
            let (code, out, err) = run_and_meanwhile(name, &arguments, |program| {
                let children = loop {
                    assert_eq!(program.try_wait().unwrap(), None, "{name} has ended by itself");
                    let children = children(program);
                    if children.len() == workers {
                        break children;
                    }
                    std::thread::yield_now();
                };
                rustix::process::kill_process(children[killed], Signal::KILL).unwrap();
            });
            assert_eq!((code, out.as_str()), (Some(1), ""), "{name} {killed}: {err}");
            assert!(err.contains("was killed by signal 9"), "{name} {killed}: {err}");
        }
    }
}

/// In the order in which they were started.
fn children(program: &Child) -> Vec<Pid> {
    let program = program.id();
    let children = std::fs::read_to_string(format!("/proc/{program}/task/{program}/children")).unwrap();
    children.split_whitespace().map(|child| Pid::from_raw(child.parse().unwrap()).unwrap()).collect()
}

#[test]
fn wrong_arguments_are_explained() {
    let wrong: [(&str, &[&str], &str); 24] = [
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
        ("task_queue", &["10"], "\"10\" is one argument too many\n\nusage: task_queue [--tasks N]"),
        ("task_queue", &["--tasks"], "--tasks needs a value"),
        ("task_queue", &["--tasks", "-1"], "\"-1\" is no number from 0 to 100000000"),
        ("task_queue", &["--workers", "0"], "\"0\" is no number from 1 to 1000"),
        ("task_queue", &["--platform", "none"], "no platform \"none\""),
        ("task_queue", &["--fast"], "unknown option --fast"),
        ("survivors", &["--kills", "-1"], "no number from 0"),
        ("chameneos", &[], "chameneos: how many meetings?\n\nusage: chameneos N"),
        ("chameneos", &["many"], "\"many\" is no number from 0 to 1000000000"),
        ("chameneos", &["6", "6"], "\"6\" is one argument too many"),
        ("chameneos", &["6", "--platform"], "--platform needs a value"),
        ("chameneos", &["6", "--platform", "none"], "no platform \"none\""),
        ("chameneos", &["-6"], "unknown option -6"),
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
    run_and_meanwhile(name, arguments, |_| ())
}

/// The same, and does something while it runs.
fn run_and_meanwhile(
    name: &str,
    arguments: &[&str],
    meanwhile: impl FnOnce(&mut Child),
) -> (Option<i32>, String, String) {
    let directory = tempfile::tempdir().unwrap();
    let before = shared_objects();
    let mut command = program(name);
    command.args(arguments).env("XDG_RUNTIME_DIR", directory.path()).process_group(0);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let group = Pid::from_child(&child);
    meanwhile(&mut child);
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
    names.filter(|name| ["nqueens-", "survivors-"].iter().any(|prefix| name.starts_with(prefix))).collect()
}

/// The example, as cargo has built it beside this test.
fn program(name: &str) -> Command {
    let test = std::env::current_exe().unwrap();
    let target = test.parent().and_then(Path::parent).unwrap();
    let program = target.join("examples").join(name);
    assert!(
        program.exists(),
        "`cargo test` builds the examples; before `cargo test --test`, `cargo build --examples` does"
    );
    #[allow(clippy::disallowed_methods, reason = "the program is looked at from outside")]
    Command::new(program)
}
