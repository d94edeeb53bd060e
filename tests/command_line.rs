//! The command `manycore` against programs that run, that have died, and that are not there: what it prints in each form, and
//! its exit codes.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use manycore::admin::{AdminError, Run, Visitor};
use manycore::named::{Mutex, Semaphore, VarOptions};
use manycore::poll::{Interest, poll_single};
use manycore::{
    Context, Failure, Forked, Level, Mailbox, Platform, Resource, RunError, Runtime, SharedVar, ShmTable,
    TableOptions, Threaded, Worker,
};
use manycore_backends::testing::{TestCase, run_tests};
use serde_json::Value;
use std::os::fd::AsFd;

fn main() {
    // The programs that are looked at are this one.
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some(PROGRAM) {
        let (kind, argument) = (arguments.next().unwrap(), arguments.next().unwrap());
        std::process::exit(program(&kind, argument));
    }
    let tests: [TestCase; 12] = [
        ("ps_lists_workers_in_columns", ps_lists_workers_in_columns),
        ("ps_lists_workers_as_json", ps_lists_workers_as_json),
        ("threads_have_no_numbers_of_their_own", threads_have_no_numbers_of_their_own),
        ("top_shows_shares_as_often_as_asked", top_shows_shares_as_often_as_asked),
        ("objects_are_listed_with_who_waits", objects_are_listed_with_who_waits),
        ("log_prints_lines_and_follows", log_prints_lines_and_follows),
        ("stop_and_kill_end_workers_and_runs", stop_and_kill_end_workers_and_runs),
        ("clean_removes_what_a_dead_run_has_left", clean_removes_what_a_dead_run_has_left),
        ("exit_codes_say_what_is_wrong", exit_codes_say_what_is_wrong),
        ("of_several_runs_one_is_chosen", of_several_runs_one_is_chosen),
        ("a_run_that_does_not_answer_is_told", a_run_that_does_not_answer_is_told),
        ("nobody_has_to_read_all", nobody_has_to_read_all),
    ];
    run_tests(&tests);
}

const PROGRAM: &str = "--program";

const LEADS: Worker<String, ()> = Worker::fallible("leads", |context, object| {
    context.register(Resource::PosixShm(object.clone().into()))?;
    let _: ShmTable = TableOptions::new().create(&object)?;
    context.start_in("the\x1b[31m group", &WAITS, ())?;
    let spins = context.start(&SPINS, ())?;
    NUMBER.create_with(context, VarOptions::new().value(&7))?;
    UNITS.create(context, 3)?;
    POST.send(context, &"a".to_owned())?;
    let _guard = LOCK.lock(context)?;
    context.log(Level::Warn, "two\nlines");
    context.log(Level::Info, "ready");
    Ok(context.join(spins)?)
});

const NUMBER: SharedVar<u64> = SharedVar::new("number\n");
const LOCK: Mutex = Mutex::new("lock");
const UNITS: Semaphore = Semaphore::new("units");
const POST: Mailbox<String> = Mailbox::with_capacity("post", 4);

const WAITS: Worker<(), ()> = Worker::fallible("waits", |context, ()| wait(context));

fn wait(context: &mut Context) -> Result<(), Failure> {
    loop {
        poll_single(context.as_fd(), Interest::READ, None)?;
        context.next_ended()?;
    }
}

/// Uses as much of a processor as it gets.
const SPINS: Worker<(), ()> = Worker::fallible("spins", |context, ()| {
    loop {
        context.next_ended()?;
    }
});

/// A run, in a process that runs nothing else.
fn program(kind: &str, object: String) -> i32 {
    fn run<P: Platform>(object: String) -> i32 {
        match Runtime::<P>::default().with(&WAITS).with(&SPINS).run(&LEADS, object) {
            Ok(()) => 0,
            Err(RunError::Stopped) => STOPPED,
            Err(error) => {
                eprintln!("{error}");
                99
            }
        }
    }
    match kind {
        "forked" => run::<Forked>(object),
        _ => run::<Threaded>(object),
    }
}

/// What programs exit with when their run was stopped from outside.
const STOPPED: i32 = 70;

/// A place where runs put their directories, for one test.
struct Place {
    directory: tempfile::TempDir,
}

/// A program that runs there. It is killed with this value.
struct Program {
    child: Child,
    object: String,
    run: Run,
}

/// What the command has said.
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Place {
    fn new() -> Place {
        Place { directory: tempfile::tempdir().unwrap() }
    }

    /// Starts a program, and waits until its workers are there.
    fn start(&self, kind: &str) -> Program {
        use std::sync::atomic::{AtomicU32, Ordering};
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let object =
            format!("/command-line-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let before = self.runs();
        let mut command = command(&std::env::current_exe().unwrap(), self.directory.path());
        let child = command.args([PROGRAM, kind, &object]).spawn().unwrap();
        let run = loop {
            let mut new = self.runs();
            new.retain(|run| !before.contains(run));
            match new.first().map(|directory| Run::at(directory).connect()) {
                Some(Ok(visitor)) => break visitor.run().clone(),
                _ => std::thread::yield_now(),
            }
        };
        let program = Program { child, object, run };
        let mut visitor = program.visit();
        while visitor.log(u64::MAX).unwrap().iter().all(|line| line.text != "ready") {
            std::thread::yield_now();
        }
        program
    }

    fn runs(&self) -> Vec<PathBuf> {
        let entries = self.directory.path().join("manycore").read_dir();
        entries.into_iter().flatten().map(|entry| entry.unwrap().path()).collect()
    }

    fn manycore(&self, arguments: &[&str]) -> Said {
        let output = self.command(arguments).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = command(Path::new(env!("CARGO_BIN_EXE_manycore")), self.directory.path());
        // Others run programs on this machine, too.
        if !arguments.contains(&"--directory") {
            command.arg("--place").arg(self.directory.path().join("manycore"));
        }
        command.args(arguments);
        command
    }

    /// What the command prints when all goes well.
    fn out(&self, arguments: &[&str]) -> String {
        let Said { code, out, err } = self.manycore(arguments);
        assert_eq!((code, err.as_str()), (Some(0), ""), "{arguments:?}: {out}");
        out
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let out = self.out(&[arguments, &["--json"]].concat());
        assert_eq!(out.lines().count(), 1, "{out}");
        serde_json::from_str(&out).unwrap()
    }
}

fn command(program: &Path, place: &Path) -> Command {
    #[allow(clippy::disallowed_methods, reason = "the command is looked at from outside")]
    let mut command = Command::new(program);
    command.env("XDG_RUNTIME_DIR", place);
    command
}

impl Program {
    fn visit(&self) -> Visitor {
        self.run.connect().unwrap()
    }

    fn directory(&self) -> &str {
        self.run.directory().to_str().unwrap()
    }

    fn ended(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }

    fn exists(&self) -> bool {
        ShmTable::<manycore::PosixShm>::open(&self.object).is_ok()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = manycore::admin::clean(self.run.directory());
    }
}

/// The words of each line.
fn words(text: &str) -> Vec<Vec<&str>> {
    text.lines().map(|line| line.split_whitespace().collect()).collect()
}

fn ps_lists_workers_in_columns() {
    let place = Place::new();
    let program = place.start("forked");
    let out = place.out(&["ps"]);
    let lines = words(&out);
    assert_eq!(lines.len(), 6, "{out}");
    assert!(out.starts_with("run ") && lines[0].contains(&program.directory()), "{out}");
    assert!(lines[1].starts_with(&["master", &format!("{},", program.child.id())]), "{out}");
    assert!(out.contains("workers: 3 running, 0 ended"), "{out}");
    let headings = ["WORKER", "NAME", "GROUP", "PROCESS", "STATE", "WAITS", "FOR", "CPU", "MEMORY", "SINCE"];
    assert_eq!(lines[2], headings);
    let workers = program.visit().workers().unwrap();
    let processes: Vec<String> = workers.iter().map(|worker| worker.process.to_string()).collect();
    assert_eq!(lines[3][..7], ["0", "leads", "-", &processes[0], "running", "worker", "2"]);
    assert_eq!(lines[4][..7], ["1", "waits", "the\\u{1b}[31m", "group", &processes[1], "running", "-"]);
    assert_eq!(lines[5][..6], ["2", "spins", "-", &processes[2], "running", "-"]);
    assert!(!out.contains('\x1b'));
    for line in &lines[3..] {
        let since = line.last().unwrap();
        assert!(since.len() == 20 && since.starts_with("20") && since.ends_with('Z'), "{out}");
        assert!(line.contains(&"s") && line.iter().any(|word| word.ends_with("iB")), "{out}");
    }
    assert_eq!(place.out(&["ps", "--directory", program.directory()]).lines().count(), 6);
}

fn ps_lists_workers_as_json() {
    let place = Place::new();
    let program = place.start("forked");
    let json = place.json(&["ps"]);
    let run = &json["runs"][0];
    assert_eq!(run["directory"], program.directory());
    assert_eq!(run["master"], program.child.id());
    assert_eq!((&run["running"], &run["ended"]), (&Value::from(3), &Value::from(0)));
    assert_eq!((&run["processes"], &run["ending"]), (&Value::from(true), &Value::from(false)));
    assert!(run["memory_bytes"].as_u64().unwrap() > 100_000);
    let workers = run["workers"].as_array().unwrap();
    let expected = program.visit().workers().unwrap();
    assert_eq!(workers.len(), 3);
    for (worker, expected) in workers.iter().zip(&expected) {
        assert_eq!(worker["number"], expected.number);
        assert_eq!(worker["name"], expected.name);
        assert_eq!(worker["process"], expected.process);
        assert_eq!((&worker["thread"], &worker["member"]), (&Value::from(false), &Value::from(false)));
        assert_eq!(worker["state"], "running");
        let started =
            std::time::UNIX_EPOCH + std::time::Duration::from_nanos(worker["started"].as_u64().unwrap());
        assert_eq!(started, expected.started);
        assert!(worker["cpu_seconds"].as_f64().unwrap() >= 0.0);
        assert!(worker["memory_bytes"].as_u64().unwrap() > 100_000);
        assert!(worker.get("cpu_percent").is_none());
    }
    assert_eq!(workers[0]["waits_for"]["worker"], 2);
    assert_eq!(workers[1]["waits_for"], Value::Null);
    assert_eq!(workers[1]["group"], "the\x1b[31m group");
}

fn threads_have_no_numbers_of_their_own() {
    let place = Place::new();
    let program = place.start("threaded");
    let lines = place.out(&["ps"]);
    let lines = words(&lines);
    assert_eq!(lines[5][..9], ["2", "spins", "-", "thread", "running", "-", "-", "-", lines[5][8]]);
    let json = place.json(&["ps"]);
    let run = &json["runs"][0];
    assert_eq!((&run["processes"], &run["workers"][2]["thread"]), (&Value::from(false), &Value::from(true)));
    assert_eq!(run["workers"][2]["process"], program.child.id());
    assert_eq!(run["workers"][2]["cpu_seconds"], Value::Null);
    assert!(run["cpu_seconds"].is_f64());
}

fn top_shows_shares_as_often_as_asked() {
    let place = Place::new();
    let program = place.start("forked");
    let out = place.out(&["top", "--count", "2", "--interval", "0.2"]);
    let tables: Vec<&str> = out.split("\n\n").collect();
    assert_eq!(tables.len(), 2, "{out}");
    let lines = words(tables[1]);
    assert_eq!(lines[3][1], "spins", "who uses most comes first: {out}");
    assert!(lines[3].contains(&"%") && !out.contains('\x1b'), "{out}");

    let out = place.out(&["top", "--json", "--count", "3", "--interval", "0.1"]);
    let frames: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(frames.len(), 3);
    for frame in &frames {
        let workers = frame["runs"][0]["workers"].as_array().unwrap();
        let percent: Vec<f64> =
            workers.iter().map(|worker| worker["cpu_percent"].as_f64().unwrap()).collect();
        assert!(percent.iter().all(|percent| *percent >= 0.0), "{percent:?}");
    }
    let spins = |frame: &Value| frame["runs"][0]["workers"][2]["cpu_seconds"].as_f64().unwrap();
    assert!(spins(&frames[2]) > 0.0);
    // It ends with the run.
    let mut top = place.command(&["top", "--interval", "0.01"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(top.stdout.take().unwrap());
    lines.read_line(&mut String::new()).unwrap();
    program.visit().kill_all().unwrap();
    lines.read_to_string(&mut String::new()).unwrap();
    assert_eq!(top.wait().unwrap().code(), Some(0));
}

fn objects_are_listed_with_who_waits() {
    let place = Place::new();
    let program = place.start("forked");
    let out = place.out(&["objects"]);
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.len(), 6, "{out}");
    assert!(lines[0].ends_with(program.directory()), "{out}");
    assert_eq!(words(&out)[1], ["KIND", "NAME", "STATE", "HELD", "BY", "WAITING"]);
    assert!(lines[2].starts_with("variable   number\\n  u64, 1 B, version 1"), "{out}");
    assert_eq!(words(&out)[3], ["mutex", "lock", "locked", "worker", "0", "-"]);
    assert_eq!(words(&out)[4], ["semaphore", "units", "3", "units", "-", "-"]);
    assert!(lines[5].contains("1 of 4 messages"), "{out}");

    let json = place.json(&["objects"]);
    assert_eq!(json["runs"][0]["directory"], program.directory());
    let objects = json["runs"][0]["objects"].as_array().unwrap();
    let kinds: Vec<&str> = objects.iter().map(|object| object["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["variable", "mutex", "semaphore", "mailbox"]);
    assert_eq!((&objects[0]["name"], &objects[0]["bytes"]), (&Value::from("number\n"), &Value::from(1)));
    assert_eq!((&objects[1]["holder"], &objects[1]["waiters"]), (&Value::from(0), &serde_json::json!([])));
    assert_eq!(objects[2]["units"], 3);
    assert_eq!(objects[3]["messages"], 1);
}

fn log_prints_lines_and_follows() {
    let place = Place::new();
    let mut program = place.start("forked");
    let out = place.out(&["log"]);
    let lines = words(&out);
    assert_eq!(lines.len(), 5, "{out}");
    let own = program.child.id();
    assert_eq!(lines[0][1..6], ["debug", "worker", "0:", "`leads`", "started"], "{out}");
    assert!(lines[0][0].len() == 24 && lines[0][0].ends_with('Z'));
    assert_eq!(lines[3][1..], ["warn", "worker", "0:", "two\\nlines"]);
    assert_eq!(lines[4][1..], ["info", "worker", "0:", "ready"]);
    assert_eq!(words(&place.out(&["log", "--lines", "1"])), lines[4..]);
    assert_eq!(words(&place.out(&["log", "--level", "warn"])), lines[3..4]);
    let json = place.json(&["log", "-n", "2"]);
    let told = json["lines"].as_array().unwrap();
    assert_eq!(told.len(), 2);
    assert_eq!((&told[0]["text"], &told[0]["level"]), (&Value::from("two\nlines"), &Value::from("warn")));
    assert_eq!((&told[0]["worker"], &told[0]["number"]), (&Value::from(0), &Value::from(3)));
    assert!(told[0]["time"].as_u64() <= told[1]["time"].as_u64());

    let follow = |json: &[&str]| {
        let arguments = [&["log", "--follow", "--lines", "1"], json].concat();
        let mut child = place.command(&arguments).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        (child, lines)
    };
    let (mut plain, mut plain_lines) = follow(&[]);
    let (mut json, mut json_lines) = follow(&["--json"]);
    // They are there before something happens.
    assert!(plain_lines.next().unwrap().ends_with("info  worker 0: ready"));
    assert!(json_lines.next().unwrap().contains("\"ready\""));
    program.visit().kill_all().unwrap();
    let rest: Vec<String> = plain_lines.collect();
    assert!(rest[0].ends_with("has the run end"), "{rest:?}");
    assert!(rest.iter().any(|line| line.contains("is terminated by a command from outside")), "{rest:?}");
    let rest: Vec<Value> = json_lines.map(|line| serde_json::from_str(&line).unwrap()).collect();
    assert!(rest[0]["text"].as_str().unwrap().ends_with("has the run end"), "{rest:?}");
    assert_eq!(rest[0]["worker"], Value::Null);
    assert_eq!(plain.wait().unwrap().code(), Some(0));
    assert_eq!(json.wait().unwrap().code(), Some(0));
    assert_eq!(program.ended(), Some(STOPPED));
    assert_ne!(own, 0);
}

/// Waits until a worker is not there any more.
fn wait_for_end(visitor: &mut Visitor, number: u64) {
    while visitor.workers().unwrap().iter().any(|worker| worker.number == number) {
        std::thread::yield_now();
    }
}

fn stop_and_kill_end_workers_and_runs() {
    let place = Place::new();
    let mut program = place.start("forked");
    let mut visitor = program.visit();
    for arguments in [["stop", "7"], ["kill", "7"]] {
        let Said { code, out, err } = place.manycore(&arguments);
        assert_eq!((code, out.as_str(), err.as_str()), (Some(5), "", "manycore: no worker 7 runs\n"));
    }
    assert_eq!(place.out(&["kill", "1"]), "");
    wait_for_end(&mut visitor, 1);
    let json = place.json(&["stop", "all", "--grace", "3600"]);
    assert_eq!((&json["workers"], &json["directory"]), (&Value::from(2), &Value::from(program.directory())));
    assert_eq!(program.ended(), Some(STOPPED));
    assert!(!program.exists(), "it was registered");

    let mut program = place.start("forked");
    assert_eq!(place.json(&["kill", "all"])["workers"], 3);
    assert_eq!(program.ended(), Some(STOPPED));
    let mut program = place.start("threaded");
    assert_eq!(place.out(&["stop", "2", "--grace", "1.5"]), "");
    // Who joined it failed with that.
    wait_for_end(&mut program.visit(), 2);
    let _ = place.manycore(&["kill", "all"]);
    assert!(matches!(program.ended(), Some(STOPPED | 99)));
    assert_eq!(place.runs(), Vec::<PathBuf>::new());
}

fn clean_removes_what_a_dead_run_has_left() {
    let place = Place::new();
    assert_eq!(place.out(&["clean"]), "", "there is nothing");
    assert_eq!(place.json(&["clean"]), serde_json::json!([]));
    for json in [false, true] {
        let mut dead = place.start("forked");
        let alive = place.start("forked");
        assert_eq!(place.out(&["clean"]), "", "all are alive");
        let Said { code, err, .. } = place.manycore(&["clean", "--directory", alive.directory()]);
        assert_eq!(code, Some(1));
        assert!(err.contains("only what dead ones have left"), "{err}");
        dead.child.kill().unwrap();
        assert_eq!(dead.ended(), None);
        assert!(dead.exists());
        let object = format!("shared memory {}", dead.object);
        if json {
            let left = place.json(&["clean", "--dry-run"]);
            assert_eq!(
                (&left[0]["left"][0], &left[0]["removed"]),
                (&object.as_str().into(), &serde_json::json!([]))
            );
            assert!(dead.exists());
            let removed = place.json(&["clean"]);
            assert_eq!(removed[0]["directory"], dead.directory());
            assert_eq!(
                (&removed[0]["removed"][0], &removed[0]["left"]),
                (&object.as_str().into(), &serde_json::json!([]))
            );
        } else {
            let out = place.out(&["clean", "--dry-run"]);
            assert!(out.contains(&object) && !out.contains("removed"), "{out}");
            assert!(dead.exists());
            let out = place.out(&["clean"]);
            let line = out.lines().find(|line| line.contains(&object)).unwrap();
            assert!(line.contains(dead.directory()) && line.ends_with("removed"), "{out}");
        }
        assert!(!dead.exists() && !dead.run.directory().exists());
        assert!(alive.exists());
        assert_eq!(place.out(&["clean", "--directory", dead.directory()]), "", "there is nothing");
    }
}

fn exit_codes_say_what_is_wrong() {
    let place = Place::new();
    for arguments in [
        &["ps"][..],
        &["top"],
        &["objects"],
        &["log"],
        &["stop", "all"],
        &["kill", "0"],
        &["ps", "--json"],
        &["top", "--json"],
    ] {
        let Said { code, err, .. } = place.manycore(arguments);
        assert_eq!(code, Some(3), "{arguments:?}");
        assert!(err.starts_with("manycore: no run"), "{err}");
    }
    assert_eq!(place.manycore(&["ps", "--json"]).out, "{\"runs\":[]}\n");
    let nowhere = place.directory.path().join("nowhere");
    for command in [&["ps"][..], &["top"], &["objects"], &["log"], &["stop", "0"]] {
        let arguments = [command, &["--directory", nowhere.to_str().unwrap()]].concat();
        let Said { code, out, err } = place.manycore(&arguments);
        assert_eq!((code, out.as_str()), (Some(3), ""), "{arguments:?}");
        assert!(err.starts_with("manycore: no master runs in "), "{err}");
    }
    for wrong in [
        &[][..],
        &["nothing"],
        &["stop"],
        &["stop", "every"],
        &["kill", "-1"],
        &["stop", "1", "--grace", "-1"],
        &["ps", "--timeout", "soon"],
        &["log", "--level", "loud"],
    ] {
        assert_eq!(place.manycore(wrong).code, Some(2), "{wrong:?}");
    }
    let help = place.out(&["--help"]);
    assert!(help.contains("Exit codes: 0 done") && help.contains("clean"), "{help}");
}

fn of_several_runs_one_is_chosen() {
    let place = Place::new();
    let one = place.start("forked");
    let other = place.start("threaded");
    let out = place.out(&["ps"]);
    for run in [&one, &other] {
        assert!(out.contains(&format!("master {}", run.child.id())), "{out}");
    }
    assert_eq!(place.json(&["ps"])["runs"].as_array().unwrap().len(), 2);
    for arguments in [&["log"][..], &["stop", "all"], &["kill", "0"]] {
        let Said { code, out, err } = place.manycore(arguments);
        assert_eq!((code, out.as_str()), (Some(4), ""), "{arguments:?}");
        assert!(err.contains(one.directory()) && err.contains(other.directory()), "{err}");
    }
    assert!(place.out(&["log", "--directory", one.directory()]).contains("ready"));
    assert_eq!(place.json(&["kill", "all", "--directory", one.directory()])["workers"], 3);
    assert_eq!(place.json(&["ps", "--directory", other.directory()])["runs"][0]["master"], other.child.id());
}

fn a_run_that_does_not_answer_is_told() {
    let place = Place::new();
    let program = place.start("forked");
    let other = place.start("forked");
    let pid = rustix::process::Pid::from_child(&program.child);
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    // It may be under way still.
    while !matches!(program.run.connect_within(MOMENT), Err(AdminError::TimedOut { .. })) {}
    let Said { code, out, err } = place.manycore(&["ps", "--json", "--timeout", "0.02"]);
    assert_eq!(code, Some(1));
    assert!(err.contains("has not answered within 20ms"), "{err}");
    let json: Value = serde_json::from_str(&out).unwrap();
    let told: Vec<bool> =
        json["runs"].as_array().unwrap().iter().map(|run| run.get("error").is_some()).collect();
    assert_eq!(told.iter().filter(|failed| **failed).count(), 1, "{out}");
    assert!(out.contains(other.directory()));
    let Said { code, .. } =
        place.manycore(&["stop", "all", "--timeout", "0.02", "--directory", program.directory()]);
    assert_eq!(code, Some(1));
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    let mut visitor = program.visit();
    visitor.refresh().unwrap();
    assert!(!visitor.refresh().unwrap().ending, "who has left is not obeyed");
}

const MOMENT: std::time::Duration = std::time::Duration::from_millis(20);

fn nobody_has_to_read_all() {
    let place = Place::new();
    let program = place.start("forked");
    for arguments in [&["top", "--interval", "0"][..], &["top", "--interval", "0", "--json"]] {
        let mut child = place.command(arguments);
        let mut child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdout.take().unwrap().read_exact(&mut [0; 10]).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
    }
    drop(program);
}
