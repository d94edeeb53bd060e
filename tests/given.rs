//! Workers are given descriptors, on all platforms in the same way: they get those, in their order, and no others; and
//! nothing of them is left, whatever goes wrong.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use manycore::posix::process::set_open_files_max;
use manycore::{
    Context, Execed, Failure, Fork, Futex, Platform, Poll, PosixShm, Ring, RunError, Runtime, StartError,
    With, Worker, WorkerId, Workers,
};
use manycore_backends::testing::spawn::open_descriptors;
use manycore_backends::testing::{TestCase, run_tests};

#[path = "census/mod.rs"]
mod census;
#[path = "platforms/mod.rs"]
mod platforms;
use census::leaving_nothing;
use platforms::on_all_platforms;

fn main() {
    workers().enter::<Execed>();
    let mut tests: Vec<TestCase> = on_all_platforms! {
        a_worker_takes_what_it_is_given_in_its_order
        the_first_worker_is_given_some_too
        what_is_given_can_be_given_on
        what_nobody_takes_is_closed
        what_is_given_to_who_is_not_started_is_closed
        as_many_as_may_are_given_and_no_more
        a_worker_that_was_killed_leaves_nothing_open
    };
    tests.push(("rings::what_is_given_can_be_given_on", what_is_given_can_be_given_on::<OnRings>));
    tests.push(("rings::a_worker_has_no_others", a_worker_has_no_others::<OnRings>));
    tests.push(("forked::a_worker_has_no_others", a_worker_has_no_others::<manycore::Forked>));
    tests.push(("execed::a_worker_has_no_others", a_worker_has_no_others::<Execed>));
    tests.push(("forked::a_master_without_room_says_so", a_master_without_room_says_so::<manycore::Forked>));
    tests.push(("execed::a_master_without_room_says_so", a_master_without_room_says_so::<Execed>));
    run_tests(&tests);
}

/// Forked processes whose small messages go through shared memory.
type OnRings = With<PosixShm, Futex, Poll, Ring, Fork>;

fn workers() -> Workers {
    Workers::new()
        .with(&SIGNS)
        .with(&GIVES)
        .with(&GIVES_ON)
        .with(&TAKES_NONE)
        .with(&LEAVES)
        .with(&REFUSED)
        .with(&MANY)
        .with(&COUNTS)
        .with(&COUNTED)
        .with(&CROWDED)
        .with(&WAITS)
        .with(&KILLS)
}

fn runtime<P: Platform>() -> Runtime<P> {
    Runtime::<P>::default().with_all(&workers())
}

/// Two ends: what is written into the second comes out of the first, and its end when all copies are closed.
fn pipe() -> Result<(File, OwnedFd), Failure> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    Ok((reader.into(), writer))
}

/// What comes out until all writers are closed.
fn rest(mut reader: File) -> Result<String, Failure> {
    let mut text = String::new();
    reader.read_to_string(&mut text)?;
    Ok(text)
}

/// Writes its text, and the number of each, into all that it was given, and tells how many it could take a second time.
const SIGNS: Worker<String, (usize, usize)> = Worker::fallible("signs", |context, text| {
    let given = context.take_descriptors();
    let count = given.len();
    for (number, descriptor) in given.into_iter().enumerate() {
        write!(File::from(descriptor), "{text}{number}")?;
    }
    Ok((count, context.take_descriptors().len()))
});

/// Gives a file, a socket and a pipe.
const GIVES: Worker<(), Vec<String>> = Worker::fallible("gives", |context, ()| {
    let mut file = File::from(rustix::fs::memfd_create("given", rustix::fs::MemfdFlags::CLOEXEC)?);
    file.write_all(b"before ")?;
    let (mut near, far) = UnixStream::pair()?;
    let (reader, writer) = pipe()?;
    let given = vec![file.try_clone()?.into(), far.into(), writer];
    let signs = context.start_with(&SIGNS, "n".to_owned(), given)?;
    assert_eq!(context.join(signs)?, (3, 0));
    // The position in the file is shared, as the file is.
    assert_eq!(file.stream_position()?, 9);
    file.seek(SeekFrom::Start(0))?;
    let mut from_socket = String::new();
    near.read_to_string(&mut from_socket)?;
    Ok(vec![rest(file)?, from_socket, rest(reader)?])
});

fn a_worker_takes_what_it_is_given_in_its_order<P: Platform>() {
    leaving_nothing(|| {
        assert_eq!(runtime::<P>().run(&GIVES, ()).unwrap(), ["before n0", "n1", "n2"]);
    });
}

fn the_first_worker_is_given_some_too<P: Platform>() {
    leaving_nothing(|| {
        let ((reader, writer), (other, second)) = (pipe().unwrap(), pipe().unwrap());
        let runtime = runtime::<P>().give([writer]).give([second]);
        assert_eq!(runtime.run(&SIGNS, "first".to_owned()).unwrap(), (2, 0));
        assert_eq!((rest(reader).unwrap(), rest(other).unwrap()), ("first0".into(), "first1".into()));
        // A run that does not begin closes them.
        let (reader, writer) = pipe().unwrap();
        let begun = Runtime::<P>::default().with(&OTHER_SIGNS).give([writer]).run(&SIGNS, String::new());
        assert!(matches!(begun, Err(RunError::Duplicate { name: "signs" })), "{begun:?}");
        assert_eq!(rest(reader).unwrap(), "");
    });
}

const OTHER_SIGNS: Worker<(), ()> = Worker::new("signs", |_, ()| ());

/// Gives what it was given to another one, or signs it if it is the last.
const GIVES_ON: Worker<u32, (usize, usize)> = Worker::fallible("gives on", |context, left| {
    let given = context.take_descriptors();
    if left == 0 {
        let signs = context.start_with(&SIGNS, "last".to_owned(), given)?;
        return Ok(context.join(signs)?);
    }
    let next = context.start_with(&GIVES_ON, left - 1, given)?;
    Ok(context.join(next)?)
});

fn what_is_given_can_be_given_on<P: Platform>() {
    leaving_nothing(|| {
        let (reader, writer) = pipe().unwrap();
        assert_eq!(runtime::<P>().give([writer]).run(&GIVES_ON, 3).unwrap(), (1, 0));
        assert_eq!(rest(reader).unwrap(), "last0");
    });
}

const TAKES_NONE: Worker<(), ()> = Worker::new("takes none", |_, ()| ());

/// Gives to one that does not take it; the end of the pipe tells that it is closed everywhere, before the run is over.
const LEAVES: Worker<(), String> = Worker::fallible("leaves", |context, ()| {
    let (reader, writer) = pipe()?;
    let worker = context.start_with(&TAKES_NONE, (), vec![writer])?;
    context.join(worker)?;
    rest(reader)
});

fn what_nobody_takes_is_closed<P: Platform>() {
    leaving_nothing(|| assert_eq!(runtime::<P>().run(&LEAVES, ()).unwrap(), ""));
}

const UNDEFINED: Worker<(), ()> = Worker::new("undefined", |_, ()| ());

const REFUSED: Worker<(), String> = Worker::fallible("refused", |context, ()| {
    let (reader, writer) = pipe()?;
    let error = context.start_with(&UNDEFINED, (), vec![writer]).unwrap_err();
    assert!(matches!(error, StartError::Undefined { .. }), "{error}");
    let text = rest(reader)?;
    // The link goes on with the next one.
    let (reader, writer) = pipe()?;
    let signs = context.start_with(&SIGNS, text, vec![writer])?;
    context.join(signs)?;
    rest(reader)
});

fn what_is_given_to_who_is_not_started_is_closed<P: Platform>() {
    leaving_nothing(|| assert_eq!(runtime::<P>().run(&REFUSED, ()).unwrap(), "0"));
}

fn copies(of: &impl AsFd, count: usize) -> Result<Vec<OwnedFd>, Failure> {
    Ok((0..count).map(|_| of.as_fd().try_clone_to_owned()).collect::<Result<_, _>>()?)
}

const MANY: Worker<(), String> = Worker::fallible("many", |context, ()| {
    let (reader, writer) = pipe()?;
    let given = copies(&writer, 254)?;
    let error = context.start_with(&SIGNS, String::new(), given).unwrap_err();
    assert!(matches!(error, StartError::TooManyDescriptors { count: 254, limit: 253, .. }), "{error}");
    let given = copies(&writer, 253)?;
    let signs = context.start_with(&SIGNS, String::new(), given)?;
    assert_eq!(context.join(signs)?, (253, 0));
    drop(writer);
    rest(reader)
});

fn as_many_as_may_are_given_and_no_more<P: Platform>() {
    leaving_nothing(|| {
        let all: String = (0..253).map(|number| number.to_string()).collect();
        assert_eq!(runtime::<P>().run(&MANY, ()).unwrap(), all);
        let (_reader, writer) = pipe().unwrap();
        let result = runtime::<P>().give(copies(&writer, 254).unwrap()).run(&TAKES_NONE, ());
        let Err(RunError::Start(StartError::TooManyDescriptors { count: 254, .. })) = result else {
            panic!("{result:?}")
        };
    });
}

/// Counts its descriptors, before it has taken what it was given.
const COUNTS: Worker<(), usize> = Worker::new("counts", |_, ()| open_descriptors().len());

const COUNTED: Worker<(), (usize, usize)> = Worker::fallible("counted", |context, ()| {
    let (_reader, writer) = pipe()?;
    let plain = context.start(&COUNTS, ())?;
    let plain = context.join(plain)?;
    let worker = context.start_with(&COUNTS, (), copies(&writer, 2)?)?;
    Ok((plain, context.join(worker)?))
});

fn a_worker_has_no_others<P: Platform>() {
    let (plain, given) = leaving_nothing(|| runtime::<P>().run(&COUNTED, ()).unwrap());
    // The standard ones and the link; what a program run anew opens for itself comes on top.
    assert!(plain >= 4);
    assert_eq!(given, plain + 2);
}

/// Gives more than its master has room for.
const CROWDED: Worker<u64, String> = Worker::fallible("crowded", |context, room| {
    // The limit is that of the master, from which it is inherited.
    set_open_files_max(Some(room + 100))?;
    let (reader, writer) = pipe()?;
    let error = context.start_with(&SIGNS, String::new(), copies(&writer, 60)?).unwrap_err();
    let StartError::Spawn { errno, .. } = &error else { return Err(Failure::new(error.to_string())) };
    assert_eq!(*errno, Some(libc::EMFILE), "{error}");
    drop(writer);
    assert_eq!(rest(reader)?, "", "they are closed");
    // The master serves on.
    let (reader, writer) = pipe()?;
    let signs = context.start_with(&SIGNS, "room".to_owned(), vec![writer])?;
    context.join(signs)?;
    rest(reader)
});

fn a_master_without_room_says_so<P: Platform>() {
    leaving_nothing(|| {
        let room = open_descriptors().len() as u64 + 40;
        set_open_files_max(Some(room)).unwrap();
        let result = runtime::<P>().run(&CROWDED, room);
        set_open_files_max(None).unwrap();
        assert_eq!(result.unwrap(), "room0");
    });
}

/// Keeps what it was given, and waits for its end.
const WAITS: Worker<(), ()> = Worker::fallible("waits", |context, ()| {
    let given = context.take_descriptors();
    for descriptor in &given {
        rustix::io::write(descriptor, b"here")?;
    }
    waits_for_ever(context)
});

fn waits_for_ever(context: &mut Context) -> Result<(), Failure> {
    loop {
        context.next_ended()?;
        std::thread::yield_now();
    }
}

const KILLS: Worker<(), String> = Worker::fallible("kills", |context, ()| {
    let (mut reader, writer) = pipe()?;
    let worker: WorkerId<()> = context.start_with(&WAITS, (), vec![writer])?;
    let mut text = [0; 4];
    reader.read_exact(&mut text)?;
    assert_eq!(&text, b"here");
    context.signal(worker, libc::SIGKILL)?;
    rest(reader)
});

fn a_worker_that_was_killed_leaves_nothing_open<P: Platform>() {
    leaving_nothing(|| assert_eq!(runtime::<P>().run(&KILLS, ()).unwrap(), ""));
}
