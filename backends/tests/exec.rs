//! `Exec` in tests of the standard harness: a unit is the test program run anew with this test alone, enters in it, and
//! prints nothing of the harness's.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use manycore_backends::Spawner;
use manycore_backends::spawn::{Child, ChildProcess, Command, Entry, Exec, Exit};
use rustix::pipe::{PipeFlags, pipe_with};

/// Writes the bytes back in reverse; their number is the exit code.
fn reverse(given: OwnedFd) -> i32 {
    let mut link = UnixStream::from(given);
    let mut bytes = Vec::new();
    link.read_to_end(&mut bytes).unwrap();
    bytes.reverse();
    link.write_all(&bytes).unwrap();
    bytes.len() as i32
}

fn begin(run: fn(OwnedFd) -> i32) -> (ChildProcess, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (Exec.spawn(theirs.into(), run).unwrap(), ours)
}

fn say(link: &mut UnixStream, bytes: &[u8]) {
    link.write_all(bytes).unwrap();
    link.shutdown(std::net::Shutdown::Write).unwrap();
}

fn answer(mut link: UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    link.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn unit_enters_in_its_test() {
    Exec::enter(Entry::Test("unit_enters_in_its_test"), reverse);
    let (child, mut link) = begin(reverse);
    say(&mut link, b"abc");
    assert_eq!(answer(link), b"cba");
    assert_eq!(child.wait().unwrap(), Exit::Code(3));
}

mod inside {
    use super::*;

    fn double(given: OwnedFd) -> i32 {
        2 * reverse(given)
    }

    #[test]
    fn each_test_has_an_entry_of_its_own() {
        Exec::enter(Entry::Test("inside::each_test_has_an_entry_of_its_own"), double);
        let units: Vec<_> = (0..5).map(|_| begin(double)).collect();
        for (child, mut link) in units {
            say(&mut link, b"abc");
            assert_eq!(answer(link), b"cba");
            assert_eq!(child.wait().unwrap(), Exit::Code(6));
        }
    }
}

#[test]
#[ignore = "units run ignored tests, too"]
fn unit_enters_in_an_ignored_test() {
    Exec::enter(Entry::Test("unit_enters_in_an_ignored_test"), reverse);
    let (child, mut link) = begin(reverse);
    say(&mut link, b"abc");
    assert_eq!(child.wait().unwrap(), Exit::Code(3));
}

/// Prints to the standard output of the program, not to what the harness collects, as units do.
fn print(_: OwnedFd) -> i32 {
    println!("of the unit");
    0
}

/// Prints between two marks only what the unit prints.
#[test]
#[ignore = "run by the next one, which looks at what it prints"]
fn unit_prints() {
    Exec::enter(Entry::Test("unit_prints"), print);
    println!("\n(");
    let (child, _link) = begin(print);
    assert_eq!(child.wait().unwrap(), Exit::Code(0));
    println!(")");
}

#[test]
fn nothing_of_the_harness_is_printed_by_units() {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let mut command = Command::new("/proc/self/exe");
    command.args(["unit_prints", "--exact", "--nocapture", "--ignored"]);
    let child = command.duplicate(writer.as_fd(), 1).start().unwrap();
    drop(command);
    drop(writer);
    let mut text = String::new();
    File::from(reader).read_to_string(&mut text).unwrap();
    assert_eq!(child.wait().unwrap(), Exit::Code(0), "{text}");
    let (_, printed) = text.split_once("(\n").unwrap();
    let (printed, _) = printed.split_once(")\n").unwrap();
    assert_eq!(printed, "of the unit\n");
}

#[test]
fn unit_that_never_enters_ends() {
    // The harness finds no such test.
    Exec::enter(Entry::Test("no_such_test"), reverse);
    let (child, link) = begin(reverse);
    assert_eq!(answer(link), b"");
    assert_eq!(child.wait().unwrap(), Exit::Code(0));
}
