//! The unit that a run begins ahead of the next worker: it is used, it is nobody before, and nothing depends on it.

use std::collections::BTreeSet;
use std::io;

use manycore::{Context, Execed, Failure, Forked, Platform, Runtime, StartError, Worker, Workers};
use manycore_backends::testing::{TestCase, run_tests};
use rustix::process::{Pid, Signal, getppid, kill_process};

#[path = "census/mod.rs"]
mod census;
use census::leaving_nothing;

macro_rules! on_processes {
    ($($test:ident)*) => {
        vec![$(
            (concat!("forked::", stringify!($test)), $test::<Forked> as fn()),
            (concat!("execed::", stringify!($test)), $test::<Execed> as fn()),
        )*]
    };
}

fn main() {
    workers().enter::<Execed>();
    let tests: Vec<TestCase> = on_processes! {
        the_next_worker_is_the_unit_that_was_spare
        a_spare_unit_that_dies_is_missed_by_nobody
        a_spare_unit_counts_towards_no_limit
        a_spare_unit_is_not_kept_for_ever
        who_starts_nothing_has_no_spare_unit
    };
    run_tests(&tests);
}

fn workers() -> Workers {
    Workers::new()
        .with(&WHO)
        .with(&USES)
        .with(&LOSES)
        .with(&CROWDS)
        .with(&IDLES)
        .with(&STARTS_NOTHING)
        .with(&CROWDS_OUT)
}

fn runtime<P: Platform>() -> Runtime<P> {
    Runtime::default().with_all(&workers())
}

const WHO: Worker<(), u32> = Worker::new("who", |_, ()| std::process::id());

fn start_and_join(context: &mut Context) -> Result<u32, Failure> {
    let worker = context.start(&WHO, ())?;
    Ok(context.join(worker)?)
}

/// The children of the master but for this one: those that were not reaped, and of them those that live.
fn others() -> io::Result<(BTreeSet<u32>, BTreeSet<u32>)> {
    let master = getppid().expect("the master is in the same namespace");
    let list = std::fs::read_to_string(format!("/proc/{master}/task/{master}/children"))?;
    let children = list.split_whitespace().map(|child| child.parse().expect("it is a number"));
    let all: BTreeSet<u32> = children.filter(|child| *child != std::process::id()).collect();
    let lives = |child: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
    };
    let alive = all.iter().copied().filter(lives).collect();
    Ok((all, alive))
}

/// Waits until there is one other child, and it lives.
fn spare() -> io::Result<u32> {
    loop {
        let (all, alive) = others()?;
        if let (1, Some(one)) = (all.len(), alive.first()) {
            return Ok(*one);
        }
        std::thread::yield_now();
    }
}

const USES: Worker<(), ()> = Worker::fallible("uses", |context, ()| {
    start_and_join(context)?;
    let mut used = 0;
    for _ in 0..10 {
        let spare = spare()?;
        used += usize::from(start_and_join(context)? == spare);
    }
    // Where others have the cores, it may have been given up before.
    assert!(used > 0);
    Ok(())
});

fn the_next_worker_is_the_unit_that_was_spare<P: Platform>() {
    leaving_nothing(|| runtime::<P>().run(&USES, ())).unwrap();
}

const LOSES: Worker<(), ()> = Worker::fallible("loses", |context, ()| {
    start_and_join(context)?;
    for _ in 0..5 {
        let spare = spare()?;
        let pid = i32::try_from(spare).ok().and_then(Pid::from_raw).expect("it is the number of a process");
        kill_process(pid, Signal::KILL)?;
        while others()?.1.contains(&spare) {
            std::thread::yield_now();
        }
        assert_ne!(start_and_join(context)?, spare);
    }
    Ok(())
});

fn a_spare_unit_that_dies_is_missed_by_nobody<P: Platform>() {
    leaving_nothing(|| runtime::<P>().run(&LOSES, ())).unwrap();
}

const CROWDS: Worker<(), ()> = Worker::fallible("crowds", |context, ()| {
    for _ in 0..3 {
        // This one, and another: there is room for two.
        start_and_join(context)?;
        spare()?;
        let first = context.start(&CROWDS_OUT, ())?;
        let refused = context.start(&WHO, ());
        assert!(matches!(refused, Err(StartError::TooMany { limit: 2, .. })), "{refused:?}");
        context.terminate(first, std::time::Duration::ZERO)?;
        assert!(context.join(first).is_err());
    }
    Ok(())
});

const CROWDS_OUT: Worker<(), ()> = Worker::new("crowds out", |context, ()| {
    while !context.should_stop() {
        std::thread::yield_now();
    }
});

fn a_spare_unit_counts_towards_no_limit<P: Platform>() {
    leaving_nothing(|| runtime::<P>().worker_limit(2).run(&CROWDS, ())).unwrap();
}

const IDLES: Worker<(), ()> = Worker::fallible("idles", |context, ()| {
    for _ in 0..2 {
        start_and_join(context)?;
        spare()?;
        while !others()?.0.is_empty() {
            std::thread::yield_now();
        }
    }
    Ok(())
});

fn a_spare_unit_is_not_kept_for_ever<P: Platform>() {
    leaving_nothing(|| runtime::<P>().run(&IDLES, ())).unwrap();
}

const STARTS_NOTHING: Worker<(), bool> = Worker::fallible("starts nothing", |context, ()| {
    // The master has had its turn when it has answered.
    let before = others()?.0.is_empty();
    let refused = context.start(&Worker::<(), ()>::new("unknown", |_, ()| ()), ());
    assert!(matches!(refused, Err(StartError::Undefined { .. })), "{refused:?}");
    Ok(before && others()?.0.is_empty())
});

fn who_starts_nothing_has_no_spare_unit<P: Platform>() {
    assert!(leaving_nothing(|| runtime::<P>().run(&STARTS_NOTHING, ())).unwrap());
}
