//! `Command` starts a program that has exactly what it was given, tells which step of a start failed, and leaves nothing
//! of one that did.
//!
//! A program without the test harness: it looks for children and descriptors of the whole process. What it starts is
//! mostly itself, with one of the arguments of [`Role`].

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;

use manycore_backends::posix::process::{own_process_group, session, start_process_group, start_session};
use manycore_backends::posix::terminal;
use manycore_backends::spawn::{
    Child, ChildProcess, Children, Command, Directory, Exit, Group, Member, SpawnError, Step, WatchBy,
};
use manycore_backends::testing::run_tests;
use manycore_backends::testing::spawn::{in_a_unit, open_descriptors};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Resource, Rlimit, WaitId, WaitIdOptions, setrlimit};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use tempfile::TempDir;

/// The number of no process: the system has fewer.
const NOBODY: u32 = i32::MAX as u32;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let first = arguments.next().unwrap_or_default();
    match (Role::of(&first), arguments.next()) {
        (Some(role), operand) => role.play(&operand.unwrap_or_default()),
        (None, _) => run_all(),
    }
}

fn run_all() -> ExitCode {
    macro_rules! tests {
        ($($name:ident)*) => { vec![$((stringify!($name), $name as fn()),)*] };
    }
    run_tests(&tests! {
        program_gets_its_arguments
        name_is_what_the_program_finds_as_its_own
        environment_is_inherited_and_changed
        cleared_environment_has_what_is_set_after
        program_is_looked_for_in_the_path_that_it_gets
        refused_programs_of_the_path_are_remembered
        empty_element_of_the_path_is_the_working_directory
        name_with_a_slash_is_not_looked_for
        relative_program_is_that_of_the_new_directory
        texts_that_cannot_be_said_are_refused
        what_cannot_be_run_is_told
        ends_of_programs_are_told
        command_can_be_started_again
        directory_is_kept_or_changed
        directories_that_are_none_are_refused
        group_is_kept_or_new_or_joined
        unknown_groups_are_refused
        session_is_new
        foreground_without_a_terminal_is_refused
        new_foreground_group_has_the_terminal_and_gives_it_back
        background_can_start_a_foreground_group
        failed_start_gives_the_foreground_back
        signal_actions_are_inherited_but_for_handlers
        broken_pipes_end_programs
        signal_actions_are_set_in_their_order
        actions_at_the_unchangeable_signals_are_refused
        mask_is_inherited_and_not_changed
        mask_is_set
        signals_that_do_not_exist_are_refused
        pending_signals_stay_with_the_caller
        signals_during_starts_run_no_handler_in_the_child
        program_that_dies_before_it_runs_has_ended_by_the_signal
        without_actions_all_but_close_on_exec_stay_open
        exactly_the_given_descriptors_are_open
        standard_descriptors_are_closed_unless_excepted
        exceptions_that_are_not_open_are_no_matter
        many_exceptions_fit
        descriptors_are_closed
        closing_what_is_not_open_is_refused
        order_of_closing_and_duplicating_counts
        close_all_counts_where_it_stands
        own_number_stays_open
        borrowed_descriptors_are_swapped
        borrowed_descriptors_go_round
        source_may_be_closed_before
        source_may_be_replaced_before
        number_is_what_earlier_actions_have_put_there
        sources_that_are_not_open_are_refused
        targets_may_be_as_high_as_the_limit
        targets_beyond_the_limit_are_refused
        what_the_child_keeps_is_under_no_named_number
        close_all_works_without_the_call_for_it
        caller_without_free_descriptors_is_refused
        system_without_free_processes_is_refused
        ends_that_are_ignored_are_refused
        ends_are_told_where_descriptors_cannot_be_waited_for
        three_hundred_starts_leave_nothing
        memory_mappings_do_not_grow
        large_process_can_start_programs
        threads_start_programs_at_once
        somebody_else_who_reaps_is_no_harm
        group_of_strangers_is_not_signalled
        child_is_listed_once
        copy_of_a_handle_gives_nothing_back
    });
    ExitCode::SUCCESS
}

// What the started program does.

/// What this program is when it is started by a test.
#[derive(Clone, Copy)]
enum Role {
    /// Writes what it sees into the file with the name in the next argument.
    Report,
    /// Exits with the code in the next argument.
    Exit,
    /// Gets the signal in the next argument.
    Raise,
    /// Writes into its standard output, which nobody reads.
    Write,
    /// Reads its standard input to the end.
    Wait,
}

impl Role {
    const ALL: [(Role, &'static str); 5] = [
        (Role::Report, "--report"),
        (Role::Exit, "--exit-with"),
        (Role::Raise, "--raise"),
        (Role::Write, "--write"),
        (Role::Wait, "--wait"),
    ];

    fn of(argument: &OsStr) -> Option<Role> {
        Role::ALL.iter().find(|(_, text)| *text == argument).map(|(role, _)| *role)
    }

    fn text(self) -> &'static str {
        Role::ALL[self as usize].1
    }

    fn play(self, operand: &OsStr) -> ExitCode {
        let number = || operand.to_str().and_then(|text| text.parse::<u8>().ok()).expect("a small number");
        match self {
            Role::Report => report(Path::new(operand)),
            Role::Exit => return ExitCode::from(number()),
            Role::Raise => {
                let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
                raise(i32::from(number()));
            }
            Role::Write => {
                // Rust's startup has it ignored.
                if !PIPE_IGNORED.load(Ordering::Relaxed) {
                    set_action(libc::SIGPIPE, libc::SIG_DFL);
                }
                let _ = rustix::io::write(std::io::stdout(), b"x");
            }
            Role::Wait => {
                let _ = std::io::stdin().read_to_end(&mut Vec::new());
            }
        }
        ExitCode::SUCCESS
    }
}

/// Which of the standard descriptors this program was given: Rust's startup opens the others.
static STANDARD: AtomicU32 = AtomicU32::new(0);
/// Whether this program was given `SIGPIPE` ignored: Rust's startup has it ignored.
static PIPE_IGNORED: AtomicBool = AtomicBool::new(false);

// SAFETY: the section is a list of functions of this type, which the C library calls before `main`; this one makes
// system calls only.
#[used]
#[unsafe(link_section = ".init_array")]
static LOOK_EARLY: extern "C" fn() = look_early;

extern "C" fn look_early() {
    for fd in 0..3 {
        // SAFETY: takes integers and changes nothing.
        if unsafe { libc::fcntl(fd, libc::F_GETFD) } != -1 {
            STANDARD.fetch_or(1 << fd, Ordering::Relaxed);
        }
    }
    PIPE_IGNORED.store(action_of(libc::SIGPIPE) == libc::SIG_IGN, Ordering::Relaxed);
}

fn report(file: &Path) {
    let mut lines = Vec::new();
    for fd in open_descriptors() {
        if fd > 2 || STANDARD.load(Ordering::Relaxed) & (1 << fd) != 0 {
            lines.push(format!("fd {fd} {}", link(fd)));
        }
    }
    for (index, argument) in std::env::args_os().enumerate() {
        lines.push(format!("arg{index} {argument:?}"));
    }
    for (name, value) in std::env::vars_os() {
        lines.push(format!("env {name:?} {value:?}"));
    }
    let status = fs::read_to_string("/proc/self/status").expect("a process can read its status");
    for line in status.lines().filter(|line| line.starts_with("Sig") || line.starts_with("ShdPnd")) {
        lines.push(line.replace(":\t", " "));
    }
    lines.push(format!("pipe_ignored {}", PIPE_IGNORED.load(Ordering::Relaxed)));
    lines.push(format!("process {}", std::process::id()));
    lines.push(format!("group {}", own_process_group()));
    lines.push(format!("session {}", session(None).expect("it has one")));
    lines.push(format!("directory {:?}", std::env::current_dir().expect("it has one")));
    if let Ok(controlling) = File::open(terminal::CONTROLLING) {
        let group = terminal::foreground_group(&controlling).expect("it is a terminal");
        lines.push(format!("foreground {}", group.unwrap_or(0)));
    }
    fs::write(file, lines.join("\n")).expect("the directory is there");
}

/// What is open under the number: the file, and for what it was opened, which tells the ends of a pipe apart.
fn link(fd: RawFd) -> String {
    let target = fs::read_link(format!("/proc/self/fd/{fd}")).expect("the descriptor is open");
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).expect("the descriptor is open");
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).expect("there is such a line");
    // Octal: the last digit has the access mode.
    format!("{} for {}", target.to_string_lossy(), flags.chars().last().expect("it has digits"))
}

/// What a program has seen.
struct Report(String);

impl Report {
    fn values(&self, key: &str) -> Vec<&str> {
        self.0.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix(' ')).collect()
    }

    #[track_caller]
    fn value(&self, key: &str) -> &str {
        let values = self.values(key);
        assert_eq!(values.len(), 1, "{key}: {}", self.0);
        values[0]
    }

    #[track_caller]
    fn number(&self, key: &str) -> u32 {
        self.value(key).parse().expect("it is a number")
    }

    /// Whether the signal is in the set.
    #[track_caller]
    fn has(&self, set: &str, signal: i32) -> bool {
        u64::from_str_radix(self.value(set), 16).expect("it is a number") & (1 << (signal - 1)) != 0
    }

    /// The open descriptors, and what each is.
    fn descriptors(&self) -> BTreeMap<RawFd, String> {
        let pairs = self.values("fd").into_iter().map(|line| line.split_once(' ').expect("two words"));
        pairs.map(|(fd, target)| (fd.parse().expect("a number"), target.to_owned())).collect()
    }

    fn variable(&self, name: &str) -> Option<&str> {
        let name = format!("{name:?} ");
        self.values("env").into_iter().find_map(|line| line.strip_prefix(&name))
    }
}

/// Where a program puts its report.
struct Desk {
    directory: TempDir,
}

impl Desk {
    fn new() -> Desk {
        Desk { directory: TempDir::new().expect("a directory can be made") }
    }

    fn path(&self, name: &str) -> PathBuf {
        let directory = self.directory.path().canonicalize().expect("it is there");
        directory.join(name)
    }

    /// Makes `program` report: its first arguments.
    fn reporter<'fd>(&self, program: impl AsRef<OsStr>) -> Command<'fd> {
        let mut command = Command::new(program);
        command.arg(Role::Report.text()).arg(self.path("report"));
        command
    }

    /// This program, reporting.
    fn command<'fd>(&self) -> Command<'fd> {
        self.reporter(own_program())
    }

    /// Runs the program, and reads its report.
    #[track_caller]
    fn report(&self, command: &Command<'_>) -> Report {
        let _ = fs::remove_file(self.path("report"));
        assert_eq!(command.status().expect("it can be started"), Exit::Code(0));
        Report(fs::read_to_string(self.path("report")).expect("it has written"))
    }

    /// A link to this program, under another name.
    fn link(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("it is in a directory")).expect("it can be made");
        symlink(own_program(), &path).expect("the name is free");
        path
    }

    /// A file that is no program.
    fn file(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("it is in a directory")).expect("it can be made");
        fs::write(&path, "").expect("it can be made");
        path
    }
}

fn own_program() -> PathBuf {
    std::env::current_exe().expect("the program has a path")
}

fn in_role<'fd>(role: Role, operand: impl ToString) -> Command<'fd> {
    let mut command = Command::new(own_program());
    command.arg(role.text()).arg(operand.to_string());
    command
}

// What the tests need.

fn pipe() -> (Arc<OwnedFd>, Arc<OwnedFd>) {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe can be made");
    (Arc::new(reader), Arc::new(writer))
}

/// Runs a test in a unit that leads a session, on a terminal of its own that controls it.
#[track_caller]
fn in_a_session(test: impl FnOnce(Arc<OwnedFd>) + Send + 'static) {
    in_a_unit(|| {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC);
        let master = master.expect("there are terminals");
        grantpt(&master).expect("it is ours");
        unlockpt(&master).expect("it is ours");
        let path = ptsname(&master, Vec::new()).expect("it has a name");
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let terminal = rustix::fs::open(path, flags, Mode::empty()).expect("it is unlocked");
        start_session().expect("a unit leads no group");
        rustix::process::ioctl_tiocsctty(&terminal).expect("it is free");
        test(Arc::new(terminal));
        // Closing it would be a hang-up, which ends the session's leader before it has returned.
        std::mem::forget(master);
    });
}

/// This process has no child, running or ended.
#[track_caller]
fn assert_childless() {
    let any = rustix::process::waitid(
        WaitId::All,
        WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT,
    );
    assert_eq!(any.map(|_| ()), Err(Errno::CHILD));
}

/// The start fails as told, and leaves neither a child nor a descriptor. The caller has no children.
#[track_caller]
fn refused(command: &Command<'_>, program: impl AsRef<OsStr>, step: Step, call: &str, errno: i32) {
    let before = open_descriptors();
    let error = command.start().expect_err("a step fails");
    assert_childless();
    assert_eq!(open_descriptors(), before);
    let text = error.to_string();
    let SpawnError::Command { program: its_program, step: its_step, call: its_call, source } = error else {
        panic!("{error:?}");
    };
    assert_eq!((its_step, its_call, source.raw_os_error()), (step, call, Some(errno)), "{text}");
    let program = program.as_ref().to_string_lossy().into_owned();
    assert_eq!(its_program, program);
    for part in [format!("{program:?}"), step.to_string(), call.to_owned(), source.to_string()] {
        assert!(text.contains(&part), "{part} in {text}");
    }
}

/// The descriptor action with this place in the list fails.
#[track_caller]
fn refused_at(command: &Command<'_>, index: usize, call: &str, errno: i32) {
    refused(command, own_program(), Step::Descriptor(index), call, errno);
}

extern "C" fn nothing(_: libc::c_int) {}

fn set_action(signal: libc::c_int, action: libc::sighandler_t) {
    // SAFETY: the action is the default, to ignore, or a function that does what signal handlers may.
    let before = unsafe { libc::signal(signal, action) };
    assert_ne!(before, libc::SIG_ERR);
}

fn handle(signal: libc::c_int, handler: extern "C" fn(libc::c_int)) {
    set_action(signal, handler as libc::sighandler_t);
}

fn action_of(signal: libc::c_int) -> libc::sighandler_t {
    // SAFETY: all zeroes is a value of this plain C structure.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: a null pointer means that nothing is set; the other is to a local.
    unsafe { libc::sigaction(signal, std::ptr::null(), &mut action) };
    action.sa_sigaction
}

fn raise(signal: libc::c_int) {
    // SAFETY: takes an integer.
    assert_eq!(unsafe { libc::raise(signal) }, 0);
}

fn block(signals: &[libc::c_int]) {
    // SAFETY: all zeroes is a value of this plain C structure.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    for &signal in signals {
        // SAFETY: the pointer is to a local.
        unsafe { libc::sigaddset(&mut set, signal) };
    }
    // SAFETY: the pointer is to a local; null means that the old mask is not wanted.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &set, std::ptr::null_mut()) };
}

/// A line of the status of this thread, as the kernel prints it.
fn status(key: &str) -> String {
    let status = fs::read_to_string("/proc/thread-self/status").expect("a thread can read its status");
    status.lines().find(|line| line.starts_with(key)).expect("the status has the line").to_owned()
}

fn limit_descriptors(limit: u64) {
    setrlimit(Resource::Nofile, Rlimit { current: Some(limit), maximum: Some(limit) })
        .expect("the limit can be lowered");
}

/// From now on the system call, with this first argument if one is given, has this result in this process and its
/// children: one of the `SECCOMP_RET_*`.
fn filter(call: libc::c_long, first: Option<u32>, result: u32) {
    let step = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter {
        code: u16::try_from(code).expect("the codes are small"),
        jt,
        jf,
        k,
    };
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let number = u32::try_from(call).expect("system calls have small numbers");
    // Offset 0 is the number of the call, 16 the low half of its first argument (on little-endian machines).
    let offset = if cfg!(target_endian = "little") { 16 } else { 20 };
    let mut program = vec![step(load, 0, 0, 0)];
    match first {
        None => program.push(step(equal, 0, 1, number)),
        Some(first) => {
            program.extend([step(equal, 0, 3, number), step(load, 0, 0, offset), step(equal, 0, 1, first)])
        }
    }
    program.push(step(libc::BPF_RET | libc::BPF_K, 0, 0, result));
    program.push(step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW));
    let length = u16::try_from(program.len()).expect("it is short");
    let program = libc::sock_fprog { len: length, filter: program.as_mut_ptr() };
    // SAFETY: takes integers.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    // SAFETY: the pointer is to a program that outlives the call.
    let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

fn fails_with(errno: libc::c_int) -> u32 {
    libc::SECCOMP_RET_ERRNO | errno.unsigned_abs()
}

/// Tells other threads that the test is done, also if it has failed.
struct SetAtEnd<'a>(&'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

// Arguments and environment.

fn program_gets_its_arguments() {
    let desk = Desk::new();
    let mut command = desk.command();
    command.arg("").arg("two words").args(["-x", "ä"]).arg(OsStr::from_bytes(b"\xff\n"));
    let report = desk.report(&command);
    assert_eq!(report.value("arg0"), format!("{:?}", own_program()));
    let its: Vec<_> = (3..8).map(|index| report.value(&format!("arg{index}"))).collect();
    assert_eq!(its, ["\"\"", "\"two words\"", "\"-x\"", "\"ä\"", "\"\\xFF\\n\""]);
    assert_eq!(report.values("arg8"), [""; 0]);
}

fn name_is_what_the_program_finds_as_its_own() {
    let desk = Desk::new();
    let report = desk.report(desk.command().name("another name"));
    assert_eq!(report.value("arg0"), "\"another name\"");
    assert_eq!(report.value("arg1"), format!("{:?}", Role::Report.text()));
    assert_eq!(desk.report(desk.command().name("")).value("arg0"), "\"\"");
}

fn environment_is_inherited_and_changed() {
    in_a_unit(|| {
        for name in ["KEPT", "CHANGED", "REMOVED"] {
            // SAFETY: a unit has one thread.
            unsafe { std::env::set_var(name, "old") };
        }
        let desk = Desk::new();
        let mut command = desk.command();
        command.env("CHANGED", "new").env_remove("REMOVED").env("ADDED", "a=b").env_remove("NEVER_THERE");
        command.env("TWICE", "1").env("TWICE", "2").env("SET_AND_REMOVED", "").env_remove("SET_AND_REMOVED");
        command.env_remove("REMOVED_AND_SET").env("REMOVED_AND_SET", "");
        let report = desk.report(&command);
        for (name, value) in [
            ("KEPT", Some("\"old\"")),
            ("CHANGED", Some("\"new\"")),
            ("REMOVED", None),
            ("ADDED", Some("\"a=b\"")),
            ("TWICE", Some("\"2\"")),
            ("SET_AND_REMOVED", None),
            ("REMOVED_AND_SET", Some("\"\"")),
        ] {
            assert_eq!(report.variable(name), value, "{name}");
        }
        assert_eq!(std::env::var("CHANGED").as_deref(), Ok("old"));
    });
}

fn cleared_environment_has_what_is_set_after() {
    let desk = Desk::new();
    assert_eq!(desk.report(desk.command().env("BEFORE", "1").env_clear()).values("env"), [""; 0]);
    let report = desk.report(desk.command().env("BEFORE", "1").env_clear().env("AFTER", "2"));
    assert_eq!(report.values("env"), ["\"AFTER\" \"2\""]);
}

/// A `PATH` of these directories of the desk.
fn path_of(desk: &Desk, directories: &[&str]) -> OsString {
    std::env::join_paths(directories.iter().map(|name| desk.path(name))).expect("there are no colons")
}

fn program_is_looked_for_in_the_path_that_it_gets() {
    in_a_unit(|| {
        // SAFETY: a unit has one thread.
        unsafe { std::env::set_var("PATH", "/usr/bin:/bin") };
        let desk = Desk::new();
        desk.link("first/only-first");
        desk.link("first/both");
        desk.link("second/both");
        desk.link("second/only-second");
        let path = path_of(&desk, &["missing", "first", "second"]);
        for name in ["only-first", "only-second", "both"] {
            let report = desk.report(desk.reporter(name).env("PATH", &path));
            assert_eq!(report.value("arg0"), format!("{name:?}"));
            // Not in that of this process.
            refused(&desk.reporter(name), name, Step::Execute, "execve", libc::ENOENT);
        }
        // The first one counts.
        fs::remove_file(desk.path("first/both")).expect("it is there");
        symlink("/bin/false", desk.path("first/both")).expect("the name is free");
        assert_eq!(Command::new("both").env("PATH", &path).status().unwrap(), Exit::Code(1));
        // Without a PATH, where the C library looks.
        assert_eq!(Command::new("true").env_clear().status().unwrap(), Exit::Code(0));
        assert_eq!(Command::new("true").env_remove("PATH").status().unwrap(), Exit::Code(0));
        let empty = desk.path("missing");
        refused(Command::new("true").env("PATH", empty), "true", Step::Execute, "execve", libc::ENOENT);
    });
}

fn refused_programs_of_the_path_are_remembered() {
    let desk = Desk::new();
    desk.file("first/program");
    fs::create_dir_all(desk.path("second/program")).unwrap();
    desk.link("third/program");
    let path = path_of(&desk, &["first", "second", "missing", "third"]);
    desk.report(desk.reporter("program").env("PATH", path));
    for directories in [&["first", "missing"][..], &["missing", "second"], &["second", "first/program"]] {
        let mut command = desk.reporter("program");
        command.env("PATH", path_of(&desk, directories));
        refused(&command, "program", Step::Execute, "execve", libc::EACCES);
    }
}

fn empty_element_of_the_path_is_the_working_directory() {
    let desk = Desk::new();
    desk.link("program");
    for path in [":/missing", "/missing:", "/missing::/missing", ""] {
        desk.report(desk.reporter("program").env("PATH", path).current_dir(desk.path("")));
        refused(desk.reporter("program").env("PATH", path), "program", Step::Execute, "execve", libc::ENOENT);
    }
}

fn name_with_a_slash_is_not_looked_for() {
    let desk = Desk::new();
    desk.link("directory/program");
    for name in ["./program", "directory/program"] {
        let path = path_of(&desk, &["directory", ""]);
        refused(desk.reporter(name).env("PATH", path), name, Step::Execute, "execve", libc::ENOENT);
    }
}

fn relative_program_is_that_of_the_new_directory() {
    let desk = Desk::new();
    desk.link("directory/program");
    desk.report(desk.reporter("./program").current_dir(desk.path("directory")));
    desk.report(desk.reporter("directory/program").current_dir(desk.path("")));
    desk.report(desk.reporter("program").env("PATH", "directory").current_dir(desk.path("")));
}

fn texts_that_cannot_be_said_are_refused() {
    let desk = Desk::new();
    let before = open_descriptors();
    for command in [
        &desk.reporter("a\0b"),
        &desk.reporter("/a\0b"),
        desk.command().name("a\0b"),
        desk.command().arg("a\0b"),
        desk.command().current_dir("a\0b"),
        desk.command().env("a\0b", ""),
        desk.command().env("a", "\0"),
        desk.command().env("a=b", ""),
        desk.command().env("", "x"),
    ] {
        assert!(matches!(command.start(), Err(SpawnError::Nul { .. })), "{command:?}");
    }
    assert_childless();
    assert_eq!(open_descriptors(), before);
}

fn what_cannot_be_run_is_told() {
    let desk = Desk::new();
    let no_access = desk.file("file");
    let garbage = desk.file("garbage");
    fs::write(&garbage, [0; 100]).unwrap();
    fs::set_permissions(&garbage, fs::Permissions::from_mode(0o755)).unwrap();
    let script = desk.file("script");
    fs::write(&script, "#!/missing/interpreter\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    for (program, errno) in [
        (PathBuf::new(), libc::ENOENT),
        (desk.path("missing"), libc::ENOENT),
        (no_access.clone(), libc::EACCES),
        (no_access.join("below"), libc::ENOTDIR),
        (desk.path(""), libc::EACCES),
        (garbage, libc::ENOEXEC),
        (script, libc::ENOENT),
    ] {
        refused(&Command::new(&program), &program, Step::Execute, "execve", errno);
    }
    let mut command = desk.command();
    command.arg("x".repeat(200_000));
    refused(&command, own_program(), Step::Execute, "execve", libc::E2BIG);
}

fn ends_of_programs_are_told() {
    for code in [0, 1, 127, 255] {
        assert_eq!(in_role(Role::Exit, code).status().unwrap(), Exit::Code(code));
    }
    for signal in [libc::SIGTERM, libc::SIGKILL, libc::SIGUSR1, libc::SIGABRT] {
        let exit = in_role(Role::Raise, signal).status().unwrap();
        assert!(matches!(exit, Exit::Signal { signal: its, .. } if its == signal), "{exit}");
    }
    let (reader, writer) = pipe();
    let child = in_role(Role::Wait, "").duplicate(reader.as_fd(), 0).start().unwrap();
    assert_eq!(child.try_wait().unwrap(), None);
    child.kill(libc::SIGHUP).unwrap();
    assert_eq!(child.wait().unwrap(), Exit::Signal { signal: libc::SIGHUP, core: false });
    let child = in_role(Role::Wait, "").duplicate(reader.as_fd(), 0).start().unwrap();
    drop(writer);
    assert_eq!(child.wait().unwrap(), Exit::Code(0));
}

fn command_can_be_started_again() {
    let desk = Desk::new();
    let (a, b) = pipe();
    let mut command = desk.command();
    command.duplicate(a.as_fd(), b.as_raw_fd()).duplicate(b.as_fd(), a.as_raw_fd());
    let first = desk.report(&command).descriptors();
    assert_eq!(desk.report(&command).descriptors(), first);
    assert_eq!(desk.report(&command.clone()).descriptors(), first);
    assert!(format!("{command:?}").contains("Duplicate"));
}

// Directory.

fn directory_is_kept_or_changed() {
    in_a_unit(|| {
        let desk = Desk::new();
        fs::create_dir_all(desk.path("one/two")).unwrap();
        std::env::set_current_dir(desk.path("one")).unwrap();
        let seen = |command: &Command<'_>| desk.report(command).value("directory").to_owned();
        let expected = |name| format!("{:?}", desk.path(name));
        assert_eq!(seen(&desk.command()), expected("one"));
        assert_eq!(seen(desk.command().directory(Directory::Keep)), expected("one"));
        assert_eq!(seen(desk.command().current_dir("two")), expected("one/two"));
        assert_eq!(seen(desk.command().current_dir(desk.path("one/two"))), expected("one/two"));
        assert_eq!(seen(desk.command().directory(Directory::Path("two".into()))), expected("one/two"));
        let directory = File::open("two").unwrap();
        assert_eq!(
            seen(desk.command().directory(Directory::Descriptor(directory.as_fd()))),
            expected("one/two")
        );
        // It is close-on-exec, and what is done with descriptors is done later.
        let mut command = desk.command();
        command.close_all_except(&[]).directory(Directory::Descriptor(directory.as_fd()));
        assert_eq!(seen(&command), expected("one/two"));
        assert_eq!(std::env::current_dir().unwrap(), desk.path("one"));
    });
}

fn directories_that_are_none_are_refused() {
    let desk = Desk::new();
    let path = desk.file("file");
    let file = File::open(&path).unwrap();
    let program = own_program();
    let refused = |command: &Command<'_>, call, errno| {
        refused(command, &program, Step::Directory, call, errno);
    };
    refused(desk.command().current_dir(desk.path("missing")), "chdir", libc::ENOENT);
    refused(desk.command().current_dir(""), "chdir", libc::ENOENT);
    refused(desk.command().current_dir(&path), "chdir", libc::ENOTDIR);
    refused(desk.command().directory(Directory::Descriptor(file.as_fd())), "fchdir", libc::ENOTDIR);
}

// Groups, sessions, terminals.

fn group_is_kept_or_new_or_joined() {
    let desk = Desk::new();
    for command in [&desk.command(), desk.command().group(Group::Keep)] {
        assert_eq!(desk.report(command).number("group"), own_process_group());
    }
    let report = desk.report(desk.command().group(Group::NewBackground));
    assert_eq!(report.number("group"), report.number("process"));
    assert_eq!(report.number("session"), session(None).unwrap());

    let (reader, writer) = pipe();
    let mut leader = in_role(Role::Wait, "");
    let leader = leader.duplicate(reader.as_fd(), 0).group(Group::NewBackground).start().unwrap();
    let report = desk.report(desk.command().group(Group::Join(leader.id())));
    assert_eq!(report.number("group"), leader.id());
    assert_ne!(report.number("process"), leader.id());
    let report = desk.report(desk.command().group(Group::Join(own_process_group())));
    assert_eq!(report.number("group"), own_process_group());
    drop(writer);
    assert_eq!(leader.wait().unwrap(), Exit::Code(0));
}

fn unknown_groups_are_refused() {
    let desk = Desk::new();
    for group in [NOBODY, 0, u32::MAX] {
        let mut command = desk.command();
        refused(command.group(Group::Join(group)), own_program(), Step::Group, "setpgid", libc::EPERM);
    }
}

fn session_is_new() {
    let desk = Desk::new();
    let report = desk.report(desk.command().group(Group::NewSession));
    assert_eq!(report.number("session"), report.number("process"));
    assert_eq!(report.number("group"), report.number("process"));
    in_a_session(|_| {
        let desk = Desk::new();
        assert_eq!(desk.report(&desk.command()).number("foreground"), own_process_group());
        let report = desk.report(desk.command().group(Group::NewSession));
        assert_eq!(report.values("foreground"), [""; 0], "it has no terminal");
        // A group of another session.
        let mut command = desk.command();
        let (reader, _writer) = pipe();
        let mut other = in_role(Role::Wait, "");
        let other = other.duplicate(reader.as_fd(), 0).group(Group::NewSession).start().unwrap();
        let error = command.group(Group::Join(other.id())).start().expect_err("it is in another session");
        assert!(matches!(error, SpawnError::Command { step: Step::Group, call: "setpgid", .. }), "{error}");
        other.kill(libc::SIGKILL).unwrap();
        other.wait().unwrap();
    });
}

fn foreground_without_a_terminal_is_refused() {
    in_a_unit(|| {
        start_session().unwrap();
        let desk = Desk::new();
        let mut command = desk.command();
        refused(command.group(Group::NewForeground), own_program(), Step::Terminal, "open", libc::ENXIO);
    });
}

fn new_foreground_group_has_the_terminal_and_gives_it_back() {
    in_a_session(|terminal| {
        let desk = Desk::new();
        let report = desk.report(desk.command().group(Group::NewForeground));
        assert_eq!(report.number("group"), report.number("process"));
        assert_eq!(report.number("foreground"), report.number("process"));
        assert_eq!(report.number("session"), session(None).unwrap());
        assert!(report.descriptors().values().all(|target| !target.starts_with("/dev/tty ")));
        // The terminal is with a group that is no more; whoever was in the foreground takes it back.
        terminal::set_foreground_group_unstopped(&terminal, own_process_group()).unwrap();
        let report = desk.report(desk.command().group(Group::NewBackground));
        assert_eq!(report.number("group"), report.number("process"));
        assert_eq!(report.number("foreground"), own_process_group());
    });
}

fn background_can_start_a_foreground_group() {
    in_a_session(|terminal| {
        in_a_unit(|| {
            start_process_group().unwrap();
            let desk = Desk::new();
            let report = desk.report(&desk.command());
            assert_ne!(report.number("foreground"), own_process_group());
            let report = desk.report(desk.command().group(Group::NewForeground));
            assert_eq!(report.number("foreground"), report.number("process"));
        });
        terminal::set_foreground_group_unstopped(&terminal, own_process_group()).unwrap();
    });
}

fn failed_start_gives_the_foreground_back() {
    in_a_session(|terminal| {
        let desk = Desk::new();
        let mut command = desk.command();
        command.group(Group::NewForeground).close(999);
        refused_at(&command, 0, "close", libc::EBADF);
        assert_eq!(terminal::foreground_group(&terminal).unwrap(), Some(own_process_group()));
        let mut command = desk.command();
        command.group(Group::NewForeground).ignore_signal(libc::SIGKILL);
        refused(&command, own_program(), Step::Signal(libc::SIGKILL), "sigaction", libc::EINVAL);
        assert_eq!(terminal::foreground_group(&terminal).unwrap(), Some(own_process_group()));
        let program = desk.path("missing");
        let mut command = Command::new(&program);
        refused(command.group(Group::NewForeground), &program, Step::Execute, "execve", libc::ENOENT);
        assert_eq!(terminal::foreground_group(&terminal).unwrap(), Some(own_process_group()));
        // Who is in the background stays there.
        in_a_unit(|| {
            start_process_group().unwrap();
            let desk = Desk::new();
            let program = desk.path("missing");
            let mut command = Command::new(&program);
            let before = desk.report(&desk.command()).number("foreground");
            refused(command.group(Group::NewForeground), &program, Step::Execute, "execve", libc::ENOENT);
            assert_eq!(desk.report(&desk.command()).number("foreground"), before);
            assert_ne!(before, own_process_group());
        });
    });
}

// Signals.

fn signal_actions_are_inherited_but_for_handlers() {
    in_a_unit(|| {
        let realtime = libc::SIGRTMIN() + 1;
        for signal in [libc::SIGUSR1, realtime] {
            handle(signal, nothing);
        }
        for signal in [libc::SIGUSR2, libc::SIGINT, libc::SIGRTMAX()] {
            set_action(signal, libc::SIG_IGN);
        }
        let desk = Desk::new();
        let report = desk.report(&desk.command());
        for signal in [libc::SIGUSR2, libc::SIGINT, libc::SIGRTMAX()] {
            assert!(report.has("SigIgn", signal), "{signal}");
        }
        for signal in [libc::SIGUSR1, realtime, libc::SIGTERM] {
            assert!(!report.has("SigIgn", signal), "{signal}");
            assert!(!report.has("SigCgt", signal), "{signal}");
        }
        // The caller still has its own.
        assert_eq!(action_of(libc::SIGUSR1), nothing as extern "C" fn(libc::c_int) as libc::sighandler_t);
        assert_eq!(action_of(libc::SIGUSR2), libc::SIG_IGN);
        assert_eq!(action_of(libc::SIGPIPE), libc::SIG_IGN);
    });
}

fn broken_pipes_end_programs() {
    assert_eq!(action_of(libc::SIGPIPE), libc::SIG_IGN, "Rust's startup does this");
    let (_, writer) = pipe();
    let mut command = in_role(Role::Write, "");
    command.duplicate(writer.as_fd(), 1);
    assert_eq!(command.status().unwrap(), Exit::Signal { signal: libc::SIGPIPE, core: false });
    assert_eq!(command.ignore_signal(libc::SIGPIPE).status().unwrap(), Exit::Code(0));
    let desk = Desk::new();
    assert_eq!(desk.report(&desk.command()).value("pipe_ignored"), "false");
    assert_eq!(desk.report(desk.command().ignore_signal(libc::SIGPIPE)).value("pipe_ignored"), "true");
}

fn signal_actions_are_set_in_their_order() {
    in_a_unit(|| {
        set_action(libc::SIGHUP, libc::SIG_IGN);
        handle(libc::SIGALRM, nothing);
        let desk = Desk::new();
        let mut command = desk.command();
        command.default_signal(libc::SIGHUP).ignore_signal(libc::SIGALRM).ignore_signal(libc::SIGRTMIN());
        command.ignore_signal(libc::SIGUSR1).default_signal(libc::SIGUSR1);
        command.default_signal(libc::SIGUSR2).ignore_signal(libc::SIGUSR2);
        let report = desk.report(&command);
        for (signal, ignored) in [
            (libc::SIGHUP, false),
            (libc::SIGALRM, true),
            (libc::SIGRTMIN(), true),
            (libc::SIGUSR1, false),
            (libc::SIGUSR2, true),
        ] {
            assert_eq!(report.has("SigIgn", signal), ignored, "{signal}");
        }
        assert_eq!(action_of(libc::SIGHUP), libc::SIG_IGN);
    });
}

fn actions_at_the_unchangeable_signals_are_refused() {
    let desk = Desk::new();
    for signal in [libc::SIGKILL, libc::SIGSTOP, 0, -1, 65, 12_345] {
        for command in [desk.command().ignore_signal(signal), desk.command().default_signal(signal)] {
            refused(command, own_program(), Step::Signal(signal), "sigaction", libc::EINVAL);
        }
    }
    // The one that fails is named.
    let mut command = desk.command();
    command.ignore_signal(libc::SIGUSR1).ignore_signal(libc::SIGKILL).ignore_signal(libc::SIGSTOP);
    refused(&command, own_program(), Step::Signal(9), "sigaction", libc::EINVAL);
}

fn mask_is_inherited_and_not_changed() {
    in_a_unit(|| {
        block(&[libc::SIGUSR2, libc::SIGCHLD, libc::SIGRTMAX()]);
        let before = status("SigBlk");
        let desk = Desk::new();
        let report = desk.report(&desk.command());
        assert_eq!(report.value("SigBlk"), before.split_whitespace().last().unwrap());
        assert_eq!(status("SigBlk"), before);
        refused(&Command::new("/missing"), "/missing", Step::Execute, "execve", libc::ENOENT);
        assert_eq!(status("SigBlk"), before);
        let report = desk.report(desk.command().signal_mask(&[]));
        assert_eq!(report.value("SigBlk"), "0000000000000000");
        assert_eq!(status("SigBlk"), before);
    });
}

fn mask_is_set() {
    let desk = Desk::new();
    let before = status("SigBlk");
    let mut command = desk.command();
    command.signal_mask(&[libc::SIGTERM]).signal_mask(&[libc::SIGUSR1, libc::SIGINT, libc::SIGRTMAX()]);
    let report = desk.report(&command);
    let expected = [libc::SIGUSR1, libc::SIGINT, libc::SIGRTMAX()].map(|signal| 1_u64 << (signal - 1));
    assert_eq!(report.value("SigBlk"), format!("{:016x}", expected.iter().sum::<u64>()));
    assert_eq!(status("SigBlk"), before);
    // These cannot be blocked, and nobody minds.
    let report = desk.report(desk.command().signal_mask(&[libc::SIGKILL, libc::SIGSTOP]));
    assert_eq!(report.value("SigBlk"), "0000000000000000");
}

fn signals_that_do_not_exist_are_refused() {
    let desk = Desk::new();
    for signal in [0, -1, 65, 12_345] {
        let mut command = desk.command();
        command.signal_mask(&[libc::SIGTERM, signal]);
        refused(&command, own_program(), Step::Signal(signal), "sigaddset", libc::EINVAL);
    }
}

fn pending_signals_stay_with_the_caller() {
    in_a_unit(|| {
        block(&[libc::SIGTERM, libc::SIGUSR1]);
        raise(libc::SIGTERM);
        let own = i32::try_from(std::process::id()).unwrap();
        // SAFETY: takes integers.
        assert_eq!(unsafe { libc::kill(own, libc::SIGUSR1) }, 0);
        let before = (status("SigPnd"), status("ShdPnd"));
        let desk = Desk::new();
        let report = desk.report(&desk.command());
        for set in ["SigPnd", "ShdPnd"] {
            assert_eq!(report.value(set), "0000000000000000");
        }
        assert!(report.has("SigBlk", libc::SIGTERM));
        // Nor does unblocking bring them.
        desk.report(desk.command().signal_mask(&[]));
        assert_eq!((status("SigPnd"), status("ShdPnd")), before);
    });
}

/// The process whose handler counts, and how often it ran elsewhere.
static HERE: AtomicI32 = AtomicI32::new(0);
static ELSEWHERE: AtomicU32 = AtomicU32::new(0);

extern "C" fn count_elsewhere(_: libc::c_int) {
    // SAFETY: takes nothing, and cannot fail.
    if unsafe { libc::getpid() } != HERE.load(Ordering::Relaxed) {
        ELSEWHERE.fetch_add(1, Ordering::Relaxed);
    }
}

fn signals_during_starts_run_no_handler_in_the_child() {
    in_a_unit(|| {
        start_process_group().unwrap();
        HERE.store(i32::try_from(std::process::id()).unwrap(), Ordering::Relaxed);
        handle(libc::SIGUSR1, count_elsewhere);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let _done = SetAtEnd(&done);
            scope.spawn(|| {
                block(&[libc::SIGUSR1]);
                while !done.load(Ordering::Relaxed) {
                    // SAFETY: takes integers: all of this group.
                    unsafe { libc::kill(0, libc::SIGUSR1) };
                }
            });
            for _ in 0..100 {
                // In the group, and so mostly hit before it runs; never an error, never silence.
                let exit = in_role(Role::Exit, 5).status().unwrap();
                let hit = Exit::Signal { signal: libc::SIGUSR1, core: false };
                assert!(exit == hit || exit == Exit::Code(5), "{exit}");
                match Command::new("/missing").status() {
                    Ok(exit) => assert_eq!(exit, hit),
                    Err(SpawnError::Command { step: Step::Execute, .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        });
        assert_eq!(ELSEWHERE.load(Ordering::Relaxed), 0);
        assert_childless();
    });
}

fn program_that_dies_before_it_runs_has_ended_by_the_signal() {
    in_a_unit(|| {
        setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).unwrap();
        filter(libc::SYS_execve, None, libc::SECCOMP_RET_TRAP);
        let before = open_descriptors();
        let child = in_role(Role::Exit, 0).start().expect("no step has failed");
        let exit = child.wait().unwrap();
        assert!(matches!(exit, Exit::Signal { signal: libc::SIGSYS, .. }), "{exit}");
        drop(child);
        assert_childless();
        assert_eq!(open_descriptors(), before);
    });
}

// Descriptors.

fn without_actions_all_but_close_on_exec_stay_open() {
    let desk = Desk::new();
    let (reader, writer) = pipe();
    rustix::io::fcntl_setfd(&writer, rustix::io::FdFlags::empty()).unwrap();
    let seen = desk.report(&desk.command()).descriptors();
    assert_eq!(seen.get(&writer.as_raw_fd()), Some(&link(writer.as_raw_fd())));
    assert_eq!(seen.get(&reader.as_raw_fd()), None);
    for fd in 0..3 {
        assert_eq!(seen.get(&fd), Some(&link(fd)));
    }
}

/// What the program with these actions has open.
#[track_caller]
fn open_with<'fd>(actions: impl FnOnce(&mut Command<'fd>)) -> BTreeMap<RawFd, String> {
    let desk = Desk::new();
    let mut command = desk.command();
    actions(&mut command);
    desk.report(&command).descriptors()
}

/// These numbers are open in the program, each as what the descriptor is here.
fn these<const N: usize>(list: [(RawFd, &OwnedFd); N]) -> BTreeMap<RawFd, String> {
    list.into_iter().map(|(number, fd)| (number, link(fd.as_raw_fd()))).collect()
}

fn exactly_the_given_descriptors_are_open() {
    let (a, b) = pipe();
    let (c, d) = pipe();
    // Open in the program if nobody closes it.
    rustix::io::fcntl_setfd(&d, rustix::io::FdFlags::empty()).unwrap();
    let seen = open_with(|command| {
        command.duplicate(a.as_fd(), 0).duplicate(b.as_fd(), 1).duplicate(b.as_fd(), 2);
        command.duplicate(c.as_fd(), 100).close_all_except(&[100, 2, 0, 1, 2]);
    });
    assert_eq!(seen, these([(0, &a), (1, &b), (2, &b), (100, &c)]));
}

fn standard_descriptors_are_closed_unless_excepted() {
    let (a, b) = pipe();
    assert_eq!(open_with(|command| _ = command.close_all_except(&[])), BTreeMap::new());
    let standard: BTreeMap<RawFd, String> = (0..3).map(|fd| (fd, link(fd))).collect();
    assert_eq!(open_with(|command| _ = command.close_all_except(&[2, 1, 0])), standard);
    let seen = open_with(|command| {
        command.close_all_except(&[]).duplicate(a.as_fd(), 1).duplicate(b.as_fd(), 7);
    });
    assert_eq!(seen, these([(1, &a), (7, &b)]));
    let seen = open_with(|command| {
        command.duplicate(a.as_fd(), 1).close_all_except(&[1]).duplicate(b.as_fd(), 0);
    });
    assert_eq!(seen, these([(0, &b), (1, &a)]));
}

fn exceptions_that_are_not_open_are_no_matter() {
    let (a, _) = pipe();
    let seen = open_with(|command| {
        command.duplicate(a.as_fd(), 8).close_all_except(&[8, -1, 8, 900, RawFd::MAX, RawFd::MIN]);
    });
    assert_eq!(seen, these([(8, &a)]));
}

fn many_exceptions_fit() {
    let (a, b) = pipe();
    let mut numbers: Vec<RawFd> = (1_000..100_000).rev().filter(|fd| fd % 3 != 0).collect();
    numbers.extend([50, 51]);
    let seen = open_with(|command| {
        command.duplicate(a.as_fd(), 50).duplicate(a.as_fd(), 51).close_all_except(&numbers);
        // Kept from before, in the midst of those.
        command.duplicate(b.as_fd(), 51).duplicate(a.as_fd(), 54);
    });
    assert_eq!(seen, these([(50, &a), (51, &b), (54, &a)]));
}

fn descriptors_are_closed() {
    let (a, _) = pipe();
    let seen = open_with(|command| {
        command
            .close_all_except(&[0, 1])
            .duplicate(a.as_fd(), 5)
            .duplicate(a.as_fd(), 6)
            .duplicate(a.as_fd(), 7);
        command
            .close(5)
            .close_if_open(6)
            .close_if_open(6)
            .close_if_open(999)
            .close_if_open(-1)
            .close(0)
            .close(1);
    });
    assert_eq!(seen, these([(7, &a)]));
}

fn closing_what_is_not_open_is_refused() {
    let desk = Desk::new();
    let (a, b) = pipe();
    refused_at(desk.command().close(999), 0, "close", libc::EBADF);
    refused_at(desk.command().close(-1), 0, "close", libc::EBADF);
    refused_at(desk.command().close_if_open(0).close(0), 1, "close", libc::EBADF);
    refused_at(desk.command().close(0).close(1).close(0), 2, "close", libc::EBADF);
    // The child keeps something for a later action; that is not open to the list.
    for number in 3..50 {
        let mut command = desk.command();
        command.close_all_except(&[]).close(number).duplicate(a.as_fd(), 60).duplicate(b.as_fd(), 61);
        refused_at(&command, 1, "close", libc::EBADF);
    }
    assert_eq!(rustix::io::write(&b, b"x"), Ok(1), "in this process all is open");
}

fn order_of_closing_and_duplicating_counts() {
    let (a, b) = pipe();
    let seen = open_with(|command| {
        command.close_all_except(&[1]).close(1).duplicate(a.as_fd(), 1).duplicate(b.as_fd(), 9).close(9);
    });
    assert_eq!(seen, these([(1, &a)]));
    let seen = open_with(|command| {
        command.close_all_except(&[1]).duplicate(a.as_fd(), 1).duplicate(b.as_fd(), 1);
    });
    assert_eq!(seen, these([(1, &b)]));
}

fn close_all_counts_where_it_stands() {
    let (a, b) = pipe();
    let seen = open_with(|command| {
        command.duplicate(a.as_fd(), 20).duplicate(a.as_fd(), 21).close_all_except(&[21]);
        command.duplicate(b.as_fd(), 22).duplicate_number(21, 23).close_all_except(&[22, 23]);
        command.duplicate(a.as_fd(), 24);
    });
    assert_eq!(seen, these([(22, &b), (23, &a), (24, &a)]));
}

fn own_number_stays_open() {
    let (a, b) = pipe();
    let (own, other) = (a.as_raw_fd(), b.as_raw_fd());
    let seen = open_with(|command| _ = command.duplicate(a.as_fd(), own));
    assert_eq!(seen.get(&own), Some(&link(own)));
    assert_eq!(seen.get(&other), None);
    let seen = open_with(|command| _ = command.duplicate_number(other, other).duplicate_number(other, other));
    assert_eq!(seen.get(&other), Some(&link(other)));
    // Also if it was closed, or was another's, before.
    let seen = open_with(|command| _ = command.close_all_except(&[]).duplicate(a.as_fd(), own));
    assert_eq!(seen, these([(own, &a)]));
    let seen = open_with(|command| {
        command.close_all_except(&[]).duplicate(b.as_fd(), own).duplicate(a.as_fd(), own);
    });
    assert_eq!(seen, these([(own, &a)]));
    // Here nothing has changed.
    for fd in [&a, &b] {
        assert_eq!(rustix::io::fcntl_getfd(fd), Ok(rustix::io::FdFlags::CLOEXEC));
    }
}

fn borrowed_descriptors_are_swapped() {
    let (a, _x) = pipe();
    let (b, _y) = pipe();
    let seen = open_with(|command| {
        command.duplicate(a.as_fd(), b.as_raw_fd()).duplicate(b.as_fd(), a.as_raw_fd());
        command.close_all_except(&[a.as_raw_fd(), b.as_raw_fd()]);
    });
    assert_eq!(seen, these([(a.as_raw_fd(), &b), (b.as_raw_fd(), &a)]));
}

fn borrowed_descriptors_go_round() {
    let pipes: Vec<_> = (0..20).map(|_| pipe()).collect();
    let all: Vec<&OwnedFd> = pipes.iter().map(|(reader, _)| &**reader).collect();
    let numbers: Vec<RawFd> = all.iter().map(|fd| fd.as_raw_fd()).collect();
    for step in [1, 7, 19] {
        let seen = open_with(|command| {
            for (index, fd) in all.iter().enumerate() {
                command.duplicate(fd.as_fd(), numbers[(index + step) % numbers.len()]);
            }
            command.close_all_except(&numbers);
        });
        let expected = (0..20).map(|index| (numbers[(index + step) % 20], link(numbers[index])));
        assert_eq!(seen, expected.collect());
    }
}

fn source_may_be_closed_before() {
    let (a, b) = pipe();
    let seen = open_with(|command| {
        command.close_all_except(&[a.as_raw_fd()]).close(a.as_raw_fd());
        command.duplicate(a.as_fd(), 30).duplicate(b.as_fd(), 31).duplicate(a.as_fd(), 32);
    });
    assert_eq!(seen, these([(30, &a), (31, &b), (32, &a)]));
}

fn source_may_be_replaced_before() {
    let (a, b) = pipe();
    let seen = open_with(|command| {
        command.duplicate(b.as_fd(), a.as_raw_fd()).duplicate(a.as_fd(), 40);
        command.close_all_except(&[a.as_raw_fd(), 40]);
    });
    assert_eq!(seen, these([(a.as_raw_fd(), &b), (40, &a)]));
}

fn number_is_what_earlier_actions_have_put_there() {
    let (a, b) = pipe();
    let own = a.as_raw_fd();
    let seen = open_with(|command| {
        command.duplicate(b.as_fd(), own).duplicate_number(own, 60).duplicate(a.as_fd(), 61);
        command.duplicate_number(61, 62).close_all_except(&[60, 61, 62]);
    });
    assert_eq!(seen, these([(60, &b), (61, &a), (62, &a)]));
    let seen = open_with(|command| {
        command.duplicate_number(own, 60).close_all_except(&[60]).duplicate_number(60, 0).close(60);
    });
    assert_eq!(seen, these([(0, &a)]));
}

fn sources_that_are_not_open_are_refused() {
    let desk = Desk::new();
    let (a, b) = pipe();
    let own = a.as_raw_fd();
    refused_at(desk.command().duplicate_number(999, 5), 0, "dup2", libc::EBADF);
    refused_at(desk.command().duplicate_number(-1, 5), 0, "dup2", libc::EBADF);
    refused_at(desk.command().duplicate_number(999, 999), 0, "fcntl(F_SETFD)", libc::EBADF);
    refused_at(desk.command().close(own).duplicate_number(own, 5), 1, "dup2", libc::EBADF);
    let mut command = desk.command();
    // The second has the source kept, under a number that is open to no other action.
    command.close_all_except(&[]).duplicate(b.as_fd(), 70).duplicate_number(own, 71);
    refused_at(&command, 2, "dup2", libc::EBADF);
}

fn targets_may_be_as_high_as_the_limit() {
    in_a_unit(|| {
        limit_descriptors(200);
        let (a, b) = pipe();
        let seen = open_with(|command| {
            command.duplicate(a.as_fd(), 199).duplicate(b.as_fd(), 150).close_all_except(&[199, 150]);
        });
        assert_eq!(seen, these([(150, &b), (199, &a)]));
    });
}

fn targets_beyond_the_limit_are_refused() {
    in_a_unit(|| {
        limit_descriptors(200);
        let desk = Desk::new();
        let (a, _b) = pipe();
        for number in [200, RawFd::MAX, -1, RawFd::MIN] {
            refused_at(desk.command().duplicate(a.as_fd(), number), 0, "dup2", libc::EBADF);
            refused_at(desk.command().close(0).duplicate_number(1, number), 1, "dup2", libc::EBADF);
            let mut command = desk.command();
            command.close_all_except(&[]).duplicate(a.as_fd(), 0).duplicate(a.as_fd(), number);
            refused_at(&command, 2, "dup2", libc::EBADF);
        }
    });
}

fn what_the_child_keeps_is_under_no_named_number() {
    in_a_unit(|| {
        let (a, b) = pipe();
        // All low numbers are named, so that what is kept goes higher.
        let seen = open_with(|command| {
            command.close_all_except(&[]);
            for number in 3..120 {
                command.close_if_open(number);
            }
            command.duplicate(a.as_fd(), 3).duplicate(b.as_fd(), 4).duplicate(a.as_fd(), 5);
        });
        assert_eq!(seen, these([(3, &a), (4, &b), (5, &a)]));
        // And if there is no other, that is told.
        limit_descriptors(64);
        let desk = Desk::new();
        let mut command = desk.command();
        command.close_all_except(&(0..64).collect::<Vec<_>>()).close(a.as_raw_fd()).duplicate(a.as_fd(), 3);
        refused_at(&command, 2, "fcntl(F_DUPFD)", libc::EINVAL);
    });
}

fn close_all_works_without_the_call_for_it() {
    in_a_unit(|| {
        filter(libc::SYS_close_range, None, fails_with(libc::ENOSYS));
        exactly_the_given_descriptors_are_open();
        standard_descriptors_are_closed_unless_excepted();
        exceptions_that_are_not_open_are_no_matter();
        many_exceptions_fit();
        close_all_counts_where_it_stands();
        borrowed_descriptors_go_round();
        // More than fit into one look at the directory.
        let many: Vec<_> =
            (0..500).map(|_| rustix::io::fcntl_dupfd_cloexec(std::io::stdin(), 300).unwrap()).collect();
        assert_eq!(open_with(|command| _ = command.close_all_except(&[])), BTreeMap::new());
        drop(many);
    });
}

// What the system refuses.

fn caller_without_free_descriptors_is_refused() {
    in_a_unit(|| {
        let command = in_role(Role::Exit, 3);
        // 0, 1 and 2 are open: no number is left.
        setrlimit(Resource::Nofile, Rlimit { current: Some(3), maximum: Some(100) }).unwrap();
        let error = command.start().expect_err("no descriptor is free");
        setrlimit(Resource::Nofile, Rlimit { current: Some(100), maximum: Some(100) }).unwrap();
        let SpawnError::Command { step: Step::Process, call: "clone", source, .. } = &error else {
            panic!("{error:?}");
        };
        assert_eq!(source.raw_os_error(), Some(libc::EMFILE));
        assert_childless();
        assert_eq!(command.status().unwrap(), Exit::Code(3));
    });
}

fn system_without_free_processes_is_refused() {
    in_a_unit(|| {
        filter(libc::SYS_clone, None, fails_with(libc::EAGAIN));
        let before = status("SigBlk");
        refused(&in_role(Role::Exit, 0), own_program(), Step::Process, "clone", libc::EAGAIN);
        assert_eq!(status("SigBlk"), before);
    });
}

fn ends_that_are_ignored_are_refused() {
    in_a_unit(|| {
        set_action(libc::SIGCHLD, libc::SIG_IGN);
        let result = in_role(Role::Exit, 0).start();
        assert!(matches!(result, Err(SpawnError::EndsIgnored)), "{result:?}");
        assert_childless();
        set_action(libc::SIGCHLD, libc::SIG_DFL);
        assert_eq!(in_role(Role::Exit, 4).status().unwrap(), Exit::Code(4));
        // The program may ignore its own.
        assert_eq!(in_role(Role::Exit, 4).ignore_signal(libc::SIGCHLD).status().unwrap(), Exit::Code(4));
    });
}

/// Linux 5.2 and 5.3 have pidfds, which cannot be waited for.
fn ends_are_told_where_descriptors_cannot_be_waited_for() {
    in_a_unit(|| {
        filter(libc::SYS_waitid, Some(3), fails_with(libc::EINVAL)); // P_PIDFD
        let before = open_descriptors();
        let (reader, writer) = pipe();
        let child = in_role(Role::Wait, "").duplicate(reader.as_fd(), 0).start().unwrap();
        assert_eq!(child.try_wait().unwrap(), None);
        let result = ChildProcess::watch(child.id(), WatchBy::Descriptor);
        assert!(matches!(result, Err(SpawnError::Io { .. })), "{result:?}");
        drop((reader, writer));
        let mut fds = [rustix::event::PollFd::new(&child, rustix::event::PollFlags::IN)];
        let polled = rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, None));
        assert_eq!(polled, Ok(1));
        assert_eq!(child.wait().unwrap(), Exit::Code(0));
        drop(child);
        assert_eq!(open_descriptors(), before);
        assert_childless();
    });
}

// Many.

fn three_hundred_starts_leave_nothing() {
    let before = open_descriptors();
    for code in 0..150 {
        assert_eq!(in_role(Role::Exit, code).status().unwrap(), Exit::Code(code));
        Command::new("/missing").start().expect_err("there is no such program");
    }
    assert_eq!(open_descriptors(), before);
    assert_childless();
}

fn mappings() -> usize {
    fs::read_to_string("/proc/self/maps").expect("a process can read its mappings").lines().count()
}

fn memory_mappings_do_not_grow() {
    in_a_unit(|| {
        let attempt = || {
            assert_eq!(in_role(Role::Exit, 0).status().unwrap(), Exit::Code(0));
            Command::new("/missing").start().expect_err("there is no such program");
            in_role(Role::Exit, 0).close(999).start().expect_err("it is not open");
            // What is not started, and what runs on.
            in_role(Role::Exit, "\0").start().expect_err("it cannot be said");
        };
        attempt();
        let before = mappings();
        for _ in 0..20 {
            attempt();
        }
        assert_eq!(mappings(), before);
        let (reader, writer) = pipe();
        let child = in_role(Role::Wait, "").duplicate(reader.as_fd(), 0).start().unwrap();
        assert_eq!(mappings(), before, "the stack is gone while the program runs");
        drop(writer);
        assert_eq!(child.wait().unwrap(), Exit::Code(0));
    });
}

fn large_process_can_start_programs() {
    in_a_unit(|| {
        let memory = vec![1_u8; 256 << 20];
        assert_eq!(in_role(Role::Exit, 6).status().unwrap(), Exit::Code(6));
        refused(&Command::new("/missing"), "/missing", Step::Execute, "execve", libc::ENOENT);
        assert!(memory.iter().step_by(4096).all(|byte| *byte == 1));
    });
}

fn threads_start_programs_at_once() {
    in_a_unit(|| {
        let before = open_descriptors();
        let done = AtomicBool::new(false);
        let shared = Mutex::new(Vec::new());
        thread::scope(|scope| {
            let _done = SetAtEnd(&done);
            for number in 0..2_usize {
                let (done, shared) = (&done, &shared);
                scope.spawn(move || {
                    while !done.load(Ordering::Relaxed) {
                        let mut shared = shared.lock().unwrap();
                        let length = 1000 + shared.len() * 100;
                        shared.push(vec![number; length]);
                        if shared.len() > 100 {
                            shared.clear();
                        }
                        drop(shared);
                        let _ = std::env::var_os("PATH");
                    }
                });
            }
            let starters: Vec<_> = (0..4_u8)
                .map(|thread| {
                    scope.spawn(move || {
                        let (a, b) = pipe();
                        for round in 0..60 {
                            let code = i32::from(thread) * 60 + round;
                            let mut command = in_role(Role::Exit, code);
                            command.duplicate(a.as_fd(), b.as_raw_fd()).duplicate(b.as_fd(), a.as_raw_fd());
                            assert_eq!(command.status().unwrap(), Exit::Code(code));
                            let failed = Command::new("missing").close_all_except(&[]).start();
                            let failed = failed.expect_err("there is no such program");
                            assert!(
                                matches!(failed, SpawnError::Command { step: Step::Execute, .. }),
                                "{failed}"
                            );
                        }
                    })
                })
                .collect();
            for starter in starters {
                starter.join().expect("it does not panic");
            }
        });
        assert_childless();
        assert_eq!(open_descriptors(), before);
    });
}

fn somebody_else_who_reaps_is_no_harm() {
    in_a_unit(|| {
        let before = open_descriptors();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let _done = SetAtEnd(&done);
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let _ = rustix::process::wait(rustix::process::WaitOptions::NOHANG);
                }
            });
            for _ in 0..100 {
                let lost = |error: &SpawnError| matches!(error, SpawnError::Io { source, .. } if source.raw_os_error() == Some(libc::ECHILD));
                match in_role(Role::Exit, 5).status() {
                    Ok(exit) => assert_eq!(exit, Exit::Code(5)),
                    Err(error) => assert!(lost(&error), "{error}"),
                }
                let failed = Command::new("/missing").start().expect_err("there is no such program");
                assert!(matches!(failed, SpawnError::Command { step: Step::Execute, .. }), "{failed}");
            }
        });
        assert_childless();
        assert_eq!(open_descriptors(), before);
    });
}

/// In a PID namespace a process may be in a group that has no number there.
fn group_of_strangers_is_not_signalled() {
    in_a_unit(|| {
        // SAFETY: takes an integer.
        if unsafe { libc::unshare(libc::CLONE_NEWPID) } != 0 {
            return; // For that one has to be root.
        }
        in_a_unit(|| {
            assert_eq!(own_process_group(), 0);
            let (reader, writer) = pipe();
            let child = in_role(Role::Wait, "").duplicate(reader.as_fd(), 0).start().unwrap();
            for group in [0, 1, child.id()] {
                assert!(!child.kill_group(group, libc::SIGKILL).unwrap());
            }
            drop(writer);
            assert_eq!(child.wait().unwrap(), Exit::Code(0));
        });
    });
}

/// Also if several threads want to list it.
fn child_is_listed_once() {
    in_a_unit(|| {
        for _ in 0..50 {
            let children = Children::new();
            let (reader, writer) = pipe();
            let child = in_role(Role::Wait, "").duplicate(reader.as_fd(), 0).start().unwrap();
            let id = child.forget().expect("it was not reaped");
            let together = Barrier::new(4);
            let results: Vec<_> = thread::scope(|scope| {
                let watch = || {
                    together.wait();
                    children.watch(id, WatchBy::Best, Member::default())
                };
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(watch)).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            let listed = children.listed();
            drop(writer);
            let mut watched = Vec::new();
            for result in results {
                match result {
                    Ok(child) => watched.push(child),
                    Err(error) => assert!(matches!(error, SpawnError::AlreadyWatched(_)), "{error}"),
                }
            }
            assert_eq!((watched.len(), listed.len()), (1, 1));
            assert_eq!(watched[0].wait().unwrap(), Exit::Code(0));
        }
        assert_childless();
    });
}

fn copy_of_a_handle_gives_nothing_back() {
    let (reader, writer) = pipe();
    let child = in_role(Role::Wait, "").duplicate(reader.as_fd(), 0).start().unwrap();
    let (id, watched) = (child.id(), child.as_fd().try_clone_to_owned().unwrap());
    in_a_unit(move || assert_eq!(child.forget(), None));
    drop(writer);
    let mut fds = [rustix::event::PollFd::new(&watched, rustix::event::PollFlags::IN)];
    assert_eq!(rustix::event::poll(&mut fds, None), Ok(1));
    // The handle was dropped here, and its child is reaped by the next start.
    assert_eq!(in_role(Role::Exit, 0).status().unwrap(), Exit::Code(0));
    assert_childless();
    let result = ChildProcess::watch(id, WatchBy::Best);
    assert!(matches!(result, Err(SpawnError::Io { .. })), "{result:?}");
}
