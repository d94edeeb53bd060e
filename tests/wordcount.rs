//! The example's counting core counts right on any platform, and the program itself keeps its promises: it
//! agrees with a single thread, reports what it cannot read, and leaves nothing behind when a worker is killed.

#[allow(dead_code)]
#[path = "../examples/wordcount/count.rs"]
mod count;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use count::{Plan, Report};
use manycore::{Context, Failure, Fcntl, File, Fork, Forked, Platform, Poll, Socket, With};
use manycore_backends::testing::{TestCase, run_tests};

/// The same as `Forked`, with tables in files: the one word that changes.
type OnFiles = With<File, Fcntl, Poll, Socket, Fork>;

fn main() {
    let tests: Vec<TestCase> = vec![
        ("shared_memory_counts_right", || {
            counts_right::<Forked>(Path::new("/manycore-test-XXXXXX"));
        }),
        ("files_count_right", || {
            let directory = tempfile::tempdir().unwrap();
            counts_right::<OnFiles>(&directory.path().join("counts-XXXXXX"));
            assert_eq!(directory.path().read_dir().unwrap().count(), 0, "nothing is left");
        }),
        ("words_are_runs_of_letters_digits_and_underscores", words_are_runs),
        ("the_program_checks_itself_and_reports_unreadable_files", the_program_checks_itself),
        ("a_killed_worker_is_named_and_nothing_is_left", a_killed_worker_is_named_and_nothing_is_left),
        ("wrong_arguments_are_explained", wrong_arguments_are_explained),
    ];
    run_tests(&tests);
}

fn sources() -> Vec<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    ["src", "backends", "examples"].map(|directory| here.join(directory)).to_vec()
}

fn first<P: Platform>(context: &mut Context, plan: Plan) -> Result<Report, Failure> {
    count::lead::<P>(context, plan, &mut |_, _| ())
}

fn counts_right<P: Platform>(template: &Path) {
    let found = count::find_files(&sources());
    let expected = count::recount(&found.files);
    for workers in [1, 3] {
        let plan =
            Plan { files: found.files.clone(), bytes: found.bytes, workers, top: 3, ..Plan::default() };
        let (report, counts) = count::count::<P>(plan, template, first::<P>).unwrap();
        assert_eq!(count::difference::<P>(&counts, expected.clone()).unwrap(), None);
        assert_eq!(report.different_words, expected.len() as u64);
        assert_eq!(report.top.len(), 3);
        assert!(report.top.windows(2).all(|pair| pair[0].1 >= pair[1].1));
        assert_eq!(expected.values().max(), Some(&report.top[0].1));
        assert_eq!(report.shares.len(), workers);
        assert_eq!(
            report.shares.iter().map(|share| share.files).sum::<u64>(),
            found.files.iter().count() as u64
        );
        assert_eq!(report.shares.iter().map(|share| share.words).sum::<u64>(), expected.values().sum());
        // The checker itself notices a wrong, a missing and a surplus word.
        counts.replace("manycore", &1_000_000).unwrap();
        assert!(count::difference::<P>(&counts, expected.clone()).unwrap().unwrap().contains("instead of"));
        counts.remove("manycore").unwrap();
        assert!(count::difference::<P>(&counts, expected.clone()).unwrap().unwrap().contains("was lost"));
        let mut fewer = expected.clone();
        counts.add("manycore", &fewer.remove("manycore").unwrap()).unwrap();
        assert!(count::difference::<P>(&counts, fewer).unwrap().unwrap().contains("does not occur"));
    }
}

fn words_are_runs() {
    let mut tally = count::Tally::default();
    assert_eq!(tally.add("The cat, the_cat and THE 2 Äpfel. ÄPFEL!"), 8);
    let mut words: Vec<_> = tally.words.into_iter().collect();
    words.sort();
    let expected = [("2", 1), ("and", 1), ("cat", 1), ("the", 2), ("the_cat", 1), ("äpfel", 2)];
    assert_eq!(words, expected.map(|(word, count)| (word.to_owned(), count)));
}

/// The example, as cargo has built it beside this test.
fn program() -> Command {
    let test = std::env::current_exe().unwrap();
    let target = test.parent().and_then(Path::parent).unwrap();
    let program = target.join("examples").join("wordcount");
    assert!(
        program.exists(),
        "`cargo test` builds the examples; with `--test`, say `--example wordcount` before"
    );
    #[allow(clippy::disallowed_methods, reason = "the program is looked at from outside")]
    Command::new(program)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn run(command: &mut Command) -> (Output, String, String) {
    let output = command.output().unwrap();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    (output, out, err)
}

fn the_program_checks_itself() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("a.txt"), "one two two").unwrap();
    std::fs::write(directory.path().join("b.txt"), "two three").unwrap();
    std::fs::write(directory.path().join("c.bin"), [0xFF, 0xFE, b'x']).unwrap();
    std::os::unix::fs::symlink("/", directory.path().join("link")).unwrap();
    let missing = directory.path().join("missing");
    for backend in ["file", "posix"] {
        let mut command = program();
        command.args(["--workers", "2", "--check", "--top", "1", "--backend", backend]);
        let (output, out, err) = run(command.arg(directory.path()).arg(&missing));
        assert_eq!(output.status.code(), Some(0), "{out}{err}");
        assert!(out.starts_with("two         3 ████"), "{out}");
        assert!(out.contains("5 words, 3 different, in 3 files"), "{out}");
        assert!(out.contains("1 files were left out") && out.contains("c.bin: not UTF-8"), "{out}");
        assert!(out.contains("agree with those of a single thread"), "{out}");
        assert!(err.contains("missing: No such file"), "{err}");
    }
}

fn a_killed_worker_is_named_and_nothing_is_left() {
    let directory = tempfile::tempdir().unwrap();
    for number in 0..200 {
        std::fs::write(directory.path().join(format!("{number}.txt")), "some words ".repeat(20_000)).unwrap();
    }
    let mut child = program()
        .args(["--workers", "2", "--check"])
        .arg(directory.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let master = child.id();
    // The second child of the master is a counter; the third may not know yet what it will be.
    let victim = loop {
        let list = std::fs::read_to_string(format!("/proc/{master}/task/{master}/children")).unwrap();
        let workers: Vec<i32> = list.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
        if let [_, victim, _, ..] = workers[..] {
            break victim;
        }
        assert!(child.try_wait().unwrap().is_none(), "it ended before a worker could be killed");
        std::thread::yield_now();
    };
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(victim).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    let mut err = String::new();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(2), "{err}");
    let named = format!("`count` (process {victim}) was killed by signal 9 (SIGKILL)");
    assert!(err.contains(&named), "{err}");
    assert_eq!(shared_objects(master), Vec::<String>::new());
    assert!(!Path::new(&format!("/proc/{victim}")).exists());
}

/// What a process of the program has in shared memory.
fn shared_objects(process: u32) -> Vec<String> {
    let prefix = format!("wordcount-{process}-");
    let names = std::fs::read_dir("/dev/shm").unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = names.map(|name| name.to_string_lossy().into_owned()).collect();
    names.retain(|name| name.starts_with(&prefix));
    names
}

fn wrong_arguments_are_explained() {
    for arguments in [vec!["--workers"], vec!["--workers", "0"], vec!["--backend", "x"], vec!["--no-such"]] {
        let (output, _, err) = run(program().args(&arguments));
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(err.contains("usage: wordcount"), "{err}");
    }
    let (output, out, _) = run(program().arg("--help"));
    assert_eq!(output.status.code(), Some(0));
    assert!(out.contains("--backend posix|file"), "{out}");
}
