//! Named objects mean the same on processes and on threads: what each operation does and refuses, who is served first, what
//! goes back when a worker dies, at whatever step; and nothing is left of it.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use manycore::named::{Mutex, ObjectInfo, Semaphore, SemaphoreOptions, VarOptions, Version};
use manycore::poll::{Interest, poll_single};
use manycore::{
    Context, Execed, Failure, Finished, JoinError, Mailbox, NamedError, Platform, Runtime, SharedVar, Worker,
    WorkerId, Workers,
};
use manycore_backends::testing::spawn::die_at_checkpoint;
use manycore_backends::testing::{TestCase, run_tests};
use nix::unistd::ForkResult;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

#[path = "census/mod.rs"]
mod census;
#[path = "platforms/mod.rs"]
mod platforms;
use census::leaving_nothing;
use platforms::on_all_platforms;

fn main() {
    workers().enter::<Execed>();
    let mut tests: Vec<TestCase> = on_all_platforms! {
        a_variable_is_created_set_got_and_deleted
        types_are_told_apart
        values_that_cannot_travel_are_refused
        names_are_checked
        there_are_no_more_objects_than_may_be
        an_owned_variable_goes_with_its_owner
        a_read_only_variable_keeps_its_first_value
        an_unused_variable_expires
        a_value_is_waited_for
        a_set_is_seen_by_who_keeps_a_value_at_hand
        updates_are_not_lost
        a_value_is_computed_once
        who_fails_to_compute_is_replaced
        who_would_wait_for_itself_is_told
        a_mutex_is_locked_by_one
        an_abandoned_mutex_is_told_of
        a_dead_waiter_harms_nobody
        circles_of_waiting_workers_are_broken
        who_should_stop_waits_no_more
        units_are_taken_and_given
        the_queue_for_units_is_served_in_order
        protected_units_come_back
        a_destroyed_semaphore_wakes_everyone
        messages_come_in_order_and_once
        a_mailbox_is_opened_before_anything_was_sent
        a_closed_mailbox_is_emptied
        a_deleted_mailbox_wakes_everyone
        a_receiver_dies_at_every_step
        a_sender_dies_at_every_step
        a_holder_dies_at_every_step
        a_taker_dies_at_every_step
        a_setter_dies_at_every_step
        several_objects_are_waited_for_at_once
        readiness_comes_by_a_descriptor
        everything_can_be_used_at_the_end
        a_guard_may_be_dropped_anywhere
        pools_have_named_objects
        what_is_ready_is_seen_without_waiting
        an_old_permit_does_not_fill_a_new_semaphore
        nobody_is_told_for_a_value_that_was_kept_at_hand
        a_computed_value_keeps_its_idle_limit
        a_read_only_variable_without_a_creator_is_not_waited_for
        who_has_heard_that_it_should_stop_may_be_in_a_circle
        who_dies_by_a_signal_is_in_no_circle
        who_asks_for_another_type_need_not_wait
        units_can_be_given_back_below_none
        a_guard_in_a_panic_is_not_abandoned
        units_are_gone_with_who_is_killed
        who_is_killed_in_a_queue_and_joins_holds_nobody_up
        guards_are_heard_of_at_the_end
    };
    tests.extend(on_all_platforms! { killed_workers_hammer_on_everything });
    tests.extend([
        (
            "forked::a_stopped_worker_stalls_nobody",
            a_stopped_worker_stalls_nobody::<manycore::Forked> as fn(),
        ),
        ("execed::a_stopped_worker_stalls_nobody", a_stopped_worker_stalls_nobody::<manycore::Execed>),
        ("forked::who_talks_nonsense_harms_nobody", who_talks_nonsense_harms_nobody::<manycore::Forked>),
        ("execed::who_talks_nonsense_harms_nobody", who_talks_nonsense_harms_nobody::<manycore::Execed>),
        (
            "forked::who_is_killed_from_outside_is_in_no_circle",
            who_is_killed_from_outside_is_in_no_circle::<manycore::Forked>,
        ),
        (
            "execed::who_is_killed_from_outside_is_in_no_circle",
            who_is_killed_from_outside_is_in_no_circle::<manycore::Execed>,
        ),
        (
            "forked::a_process_of_a_worker_unlocks_nothing",
            a_process_of_a_worker_unlocks_nothing::<manycore::Forked>,
        ),
        (
            "execed::a_process_of_a_worker_unlocks_nothing",
            a_process_of_a_worker_unlocks_nothing::<manycore::Execed>,
        ),
    ]);
    run_tests(&tests);
}

fn workers() -> Workers {
    Workers::new().with(&PLAY).with(&BODY).with(&STOPPED).with(&HAMMER)
}

fn runtime<P: Platform>() -> Runtime<P> {
    Runtime::<P>::default().with_all(&workers())
}

/// The first worker's part of a test. Only its number travels.
type Body = fn(&mut Context) -> Result<(), Failure>;

/// All of them, so that a program run anew finds them.
const BODIES: &[Body] = &[
    variables,
    types,
    untransportable,
    names,
    many_objects,
    owned,
    read_only,
    expiring,
    waiting,
    cached,
    updating,
    computing,
    failing_to_compute,
    computing_oneself,
    mutexes,
    abandoned,
    dead_waiters,
    circles,
    stopping,
    semaphores,
    queueing,
    protected,
    destroying,
    messages,
    opening,
    closing,
    deleting,
    receivers_deaths,
    senders_deaths,
    holders_deaths,
    takers_deaths,
    setters_deaths,
    several,
    by_descriptor,
    guards,
    stopped,
    nonsense,
    ready_already,
    old_permits,
    dropped_cached,
    computing_idly,
    orphaned,
    heard_stop,
    dying,
    killed_outside,
    forking,
    other_types,
    below_none,
    guards_in_panics,
    killed_with_units,
    killed_in_a_queue,
    joins_in_its_end,
    joins_who_locks,
    hammering,
];

const BODY: Worker<usize, ()> = Worker::fallible("body", |context, index| BODIES[index](context));

fn index_of(body: Body) -> usize {
    BODIES.iter().position(|other| std::ptr::fn_addr_eq(*other, body)).unwrap()
}

/// Runs the first worker's part, and looks that nothing is left.
fn play<P: Platform>(body: Body) {
    leaving_nothing(|| runtime::<P>().run(&BODY, index_of(body)).unwrap());
}

/// What another worker does, step by step.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Step {
    /// Sets a variable that others wait for.
    Tell(u64),
    /// Waits for it.
    Await(u64),
    Create,
    CreateOwned(u64),
    CreateReadOnly,
    Get,
    Set(u64),
    Delete,
    Add(u64),
    Compute(u64),
    FailToCompute,
    PanicInCompute,
    /// Says that it computes, and locks a mutex for that.
    ComputeLocking(u64),
    Lock(String),
    TryLock,
    Unlock,
    Leak,
    UnlockUnguarded,
    Increment(u64),
    Decrement(u64),
    Acquire(u64),
    Send(u64),
    Receive,
    ReceiveAll,
    Panic,
    /// May be asked to stop from now on, tells the step, and waits until it is.
    AwaitStop(u64),
    /// Creates a variable with the number of its process.
    TellProcess,
    /// Dies at that checkpoint of what follows.
    Die(u64),
    /// Writes these bytes where the master listens to it.
    Say(Vec<u8>),
    /// Does nothing until it is killed.
    Stay,
}

/// Does the steps one after the other, and tells how each ended.
const PLAY: Worker<Vec<Step>, Vec<String>> = Worker::fallible("play", |context, steps| {
    let (mut guards, mut permits, mut told) = (Vec::new(), Vec::new(), Vec::new());
    for step in steps {
        told.push(match step {
            Step::Tell(number) => text(tell(context, number)),
            Step::Await(number) => text(await_told(context, number)),
            Step::Create => text(NUMBER.create(context)),
            Step::CreateOwned(value) => {
                text(NUMBER.create_with(context, VarOptions::new().owned().value(&value)))
            }
            Step::CreateReadOnly => text(NUMBER.create_with(context, VarOptions::new().read_only())),
            Step::Get => text(NUMBER.get(context)),
            Step::Set(value) => text(NUMBER.set(context, &value).map(drop)),
            Step::Delete => text(NUMBER.delete(context)),
            Step::Add(value) => text(NUMBER.update(context, |number| number + value)),
            Step::Compute(value) => text(NUMBER.get_or_compute(context, |context| {
                COMPUTED.increment(context, 1)?;
                Ok::<u64, NamedError>(value)
            })),
            Step::FailToCompute => {
                let result = NUMBER.get_or_compute(context, |_| Err::<u64, Failure>(Failure::new("no idea")));
                result.map_or_else(|failure| failure.to_string(), |value| value.to_string())
            }
            Step::PanicInCompute => text(NUMBER.get_or_compute::<NamedError>(context, |_| panic!("no idea"))),
            Step::ComputeLocking(number) => text(NUMBER.get_or_compute(context, |context| {
                tell(context, number)?;
                LOCK.lock(context).map(|guard| guard.fence())
            })),
            Step::Lock(name) => match Mutex::named(name).lock(context) {
                Ok(guard) => {
                    let told = format!("abandoned: {}", guard.was_abandoned());
                    guards.push(guard);
                    told
                }
                Err(error) => error.to_string(),
            },
            Step::TryLock => match LOCK.try_lock(context) {
                Ok(Some(guard)) => {
                    guards.push(guard);
                    "locked".to_owned()
                }
                other => text(other.map(|_| "not locked")),
            },
            Step::Unlock => text(Ok::<_, NamedError>(guards.pop().is_some())),
            Step::Leak => text(Ok::<_, NamedError>(guards.pop().map(|guard| guard.leak()).is_some())),
            Step::UnlockUnguarded => text(LOCK.unlock(context)),
            Step::Increment(by) => text(UNITS.increment(context, by)),
            Step::Decrement(by) => text(UNITS.decrement(context, by)),
            Step::Acquire(units) => {
                permits.push(UNITS.acquire(context, units)?);
                units.to_string()
            }
            Step::Send(message) => text(BOX.send(context, &message)),
            Step::Receive => text(BOX.receive(context)),
            Step::ReceiveAll => {
                let mut messages = Vec::new();
                while let Some(message) = BOX.next(context)? {
                    messages.push(message);
                }
                format!("{messages:?}")
            }
            Step::Panic => panic!("as told"),
            Step::AwaitStop(number) => {
                context.should_stop();
                tell(context, number)?;
                while !context.should_stop() {
                    std::thread::yield_now();
                }
                String::new()
            }
            Step::TellProcess => {
                let process = u64::from(std::process::id());
                text(NUMBER.create_with(context, VarOptions::new().value(&process)))
            }
            Step::Die(checkpoints) => {
                die_at_checkpoint(checkpoints);
                String::new()
            }
            Step::Say(bytes) => format!("{:?}", rustix::io::write(context.as_fd(), &bytes)),
            Step::Stay => loop {
                context.next_ended()?;
                std::thread::yield_now();
            },
        });
    }
    die_at_checkpoint(0);
    Ok(told)
});

const NUMBER: SharedVar<u64> = SharedVar::new("number");
const COMPUTED: Semaphore = Semaphore::new("computed");
const LOCK: Mutex = Mutex::new("lock");
const OTHER: Mutex = Mutex::new("other");
const UNITS: Semaphore = Semaphore::new("units");
const BOX: Mailbox<u64> = Mailbox::new("box");

fn text<T: std::fmt::Debug>(result: Result<T, NamedError>) -> String {
    match result {
        Ok(value) => format!("{value:?}"),
        Err(error) => error.to_string(),
    }
}

/// Says that it has come to a step.
fn tell(context: &mut Context, number: u64) -> Result<(), NamedError> {
    let told = SharedVar::<bool>::named(format!("told {number}"));
    told.create(context)?;
    told.set(context, &true).map(drop)
}

/// Waits until another worker has come to a step.
fn await_told(context: &mut Context, number: u64) -> Result<bool, NamedError> {
    let told = SharedVar::<bool>::named(format!("told {number}"));
    told.create(context)?;
    told.wait(context)
}

fn lock(name: &str) -> Step {
    Step::Lock(name.to_owned())
}

/// A time that is never over in a test.
const LONG: Duration = Duration::from_secs(1000);
/// One that is soon.
const SHORT: Duration = Duration::from_millis(2);

fn missing(object: &str) -> NamedError {
    NamedError::Missing { object: object.to_owned() }
}

/// The steps of a worker, and what it tells of them.
fn played(context: &mut Context, steps: Vec<Step>) -> Result<Vec<String>, Failure> {
    let worker = context.start(&PLAY, steps)?;
    Ok(context.join(worker)?)
}

fn killed(result: Result<Vec<String>, JoinError>) {
    assert!(matches!(result, Err(JoinError::Killed { signal: 9, .. })), "{result:?}");
}

fn a_variable_is_created_set_got_and_deleted<P: Platform>() {
    play::<P>(variables);
}

fn variables(context: &mut Context) -> Result<(), Failure> {
    let none = Err(missing("variable `number`"));
    assert_eq!(NUMBER.get(context), none);
    assert_eq!(NUMBER.set(context, &1).map(|_| 0), none);
    assert_eq!(NUMBER.version(context).map(|_| 0), none);
    assert_eq!(NUMBER.get_newer(context, Version::UNSET).map(|_| 0), none);
    assert_eq!(NUMBER.delete(context), Ok(false));

    assert_eq!(NUMBER.create(context), Ok(true));
    assert_eq!(NUMBER.create(context), Ok(false));
    let unset = NamedError::Unset { object: "variable `number`".to_owned() };
    assert_eq!(NUMBER.get(context), Err(unset.clone()));
    assert_eq!(NUMBER.get_newer(context, Version::UNSET), Err(unset));
    assert_eq!(NUMBER.version(context), Ok(Version::UNSET));

    let one = NUMBER.set(context, &1)?;
    assert!(one > Version::UNSET);
    assert_eq!(NUMBER.get_versioned(context), Ok((1, one)));
    assert_eq!(NUMBER.version(context), Ok(one));
    assert_eq!(NUMBER.get_newer(context, one), Ok(None));
    assert_eq!(NUMBER.get_newer(context, Version::UNSET), Ok(Some((1, one))));
    let two = NUMBER.set(context, &2)?;
    assert!(two > one);
    assert_eq!(NUMBER.get_newer(context, one), Ok(Some((2, two))));

    let changed = NamedError::Changed { object: "variable `number`".to_owned(), version: two };
    assert_eq!(NUMBER.compare_and_set(context, one, &3), Err(changed.clone()));
    assert_eq!(NUMBER.compare_and_set(context, Version::UNSET, &3), Err(changed));
    assert_eq!(NUMBER.get(context), Ok(2));
    let three = NUMBER.compare_and_set(context, two, &3)?;
    assert_eq!(NUMBER.get_versioned(context), Ok((3, three)));

    assert_eq!(NUMBER.delete(context), Ok(true));
    assert_eq!(NUMBER.get(context), none);
    assert_eq!(NUMBER.create_with(context, VarOptions::new().value(&4)), Ok(true));
    let (four, anew) = NUMBER.get_versioned(context)?;
    assert!(four == 4 && anew > three, "one made anew has no old version");
    assert_eq!(NUMBER.create_with(context, VarOptions::new().value(&5)), Ok(false));
    assert_eq!(NUMBER.get(context), Ok(4), "the one that was there stays as it is");

    // Other kinds of objects have their own names.
    assert_eq!(Semaphore::new("number").create(context, 7), Ok(true));
    assert!(Mutex::new("number").try_lock(context)?.is_some());
    assert_eq!(Mailbox::<u64>::new("number").open(context), Ok(true));
    assert_eq!(NUMBER.get(context), Ok(4));
    assert_eq!(
        played(context, vec![Step::Get, Step::Set(9), Step::Delete, Step::Get])?,
        ["4", "()", "true", "there is no variable `number`, or not any more: it is to be created first"]
    );
    Ok(())
}

/// Two types of one name.
mod one {
    #[derive(Debug, serde::Serialize, serde::Deserialize)]
    pub(crate) struct Thing(pub(crate) u64);
}
mod two {
    #[derive(Debug, serde::Serialize, serde::Deserialize)]
    pub(crate) struct Thing(pub(crate) u64);
}

fn types_are_told_apart<P: Platform>() {
    play::<P>(types);
}

fn types(context: &mut Context) -> Result<(), Failure> {
    NUMBER.create(context)?;
    let version = NUMBER.set(context, &1)?;
    let other = SharedVar::<String>::new("number");
    let wrong = NamedError::WrongType {
        object: "variable `number`".to_owned(),
        stored: "u64".to_owned(),
        asked: "alloc::string::String".to_owned(),
    };
    assert_eq!(wrong.to_string(), "variable `number` is one of `u64`, not of `alloc::string::String`");
    let text = String::from("one");
    assert_eq!(other.create(context), Err(wrong.clone()));
    assert_eq!(other.get(context), Err(wrong.clone()));
    assert_eq!(other.set(context, &text), Err(wrong.clone()));
    assert_eq!(other.compare_and_set(context, version, &text), Err(wrong.clone()));
    assert_eq!(other.version(context), Err(wrong.clone()));
    assert_eq!(other.wait(context), Err(wrong.clone()));
    assert_eq!(other.get_or_compute(context, |_| Ok::<_, NamedError>(text.clone())), Err(wrong.clone()));
    assert_eq!(other.clone().cached().get(context), Err(wrong.clone()));
    assert_eq!(other.delete(context), Err(wrong));
    // Also one that is written in the same way.
    let signed = SharedVar::<i64>::new("number");
    assert!(matches!(signed.get(context), Err(NamedError::WrongType { .. })));
    assert_eq!(NUMBER.get(context), Ok(1));

    let things = Mailbox::<one::Thing>::new("things");
    assert_eq!(things.try_send(context, &one::Thing(5)), Ok(true));
    let others = Mailbox::<two::Thing>::new("things");
    for refused in [
        others.open(context).map(drop),
        others.try_send(context, &two::Thing(5)).map(drop),
        others.send(context, &two::Thing(5)),
        others.try_receive(context).map(drop),
        others.receive(context).map(drop),
        others.length(context).map(drop),
        others.close(context),
        others.delete(context).map(drop),
    ] {
        match refused {
            Err(NamedError::WrongType { object, stored, asked }) => {
                assert_eq!(object, "mailbox `things`");
                assert!(stored.ends_with("one::Thing") && asked.ends_with("two::Thing"), "{stored} {asked}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(things.receive(context)?.0, 5);
    Ok(())
}

/// Serialises to an error, and is never read.
#[derive(Debug, PartialEq)]
struct Stubborn(bool);

impl Serialize for Stubborn {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0 { Err(serde::ser::Error::custom("no way")) } else { serializer.serialize_unit() }
    }
}

impl<'de> Deserialize<'de> for Stubborn {
    fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Stubborn, D::Error> {
        Err(serde::de::Error::custom("never"))
    }
}

fn values_that_cannot_travel_are_refused<P: Platform>() {
    leaving_nothing(|| runtime::<P>().message_limit(1000).run(&BODY, index_of(untransportable)).unwrap());
}

fn untransportable(context: &mut Context) -> Result<(), Failure> {
    let stubborn = SharedVar::<Stubborn>::new("stubborn");
    stubborn.create(context)?;
    let unserializable =
        |object: &str| NamedError::Unserializable { object: object.to_owned(), message: "no way".to_owned() };
    assert_eq!(stubborn.set(context, &Stubborn(true)), Err(unserializable("variable `stubborn`")));
    stubborn.set(context, &Stubborn(false))?;
    let unreadable =
        NamedError::Unreadable { object: "variable `stubborn`".to_owned(), message: "never".to_owned() };
    assert_eq!(stubborn.get(context), Err(unreadable.clone()));
    assert_eq!(stubborn.get_or_compute(context, |_| Ok::<_, NamedError>(Stubborn(false))), Err(unreadable));
    let letters = Mailbox::<Stubborn>::new("letters");
    assert_eq!(letters.send(context, &Stubborn(true)), Err(unserializable("mailbox `letters`")));
    assert_eq!(letters.try_send(context, &Stubborn(true)), Err(unserializable("mailbox `letters`")));
    assert_eq!(letters.length(context), Ok(0));

    let long = SharedVar::<String>::new("long");
    long.create(context)?;
    long.set(context, &"x".repeat(997))?;
    let too_big = NamedError::TooBig { object: "variable `long`".to_owned(), size: 1001, limit: 1000 };
    assert_eq!(long.set(context, &"x".repeat(998)), Err(too_big.clone()));
    assert_eq!(long.compare_and_set(context, Version::UNSET, &"x".repeat(998)), Err(too_big.clone()));
    let value = "x".repeat(998);
    assert_eq!(long.create_with(context, VarOptions::new().value(&value)), Err(too_big));
    assert_eq!(long.get(context)?.len(), 997);
    // What cannot be stored is not computed either, and the next one is asked to.
    long.delete(context)?;
    let computed = long.get_or_compute(context, |_| Ok::<_, NamedError>(value.clone()));
    assert!(matches!(computed, Err(NamedError::TooBig { .. })), "{computed:?}");
    assert_eq!(
        long.get_or_compute(context, |_| Ok::<_, NamedError>("short".to_owned())),
        Ok("short".to_owned())
    );
    let box_of_texts = Mailbox::<String>::new("texts");
    assert!(matches!(box_of_texts.send(context, &value), Err(NamedError::TooBig { size: 1001, .. })));
    Ok(())
}

fn names_are_checked<P: Platform>() {
    play::<P>(names);
}

fn names(context: &mut Context) -> Result<(), Failure> {
    let bad = |kind, length| NamedError::BadName { kind, length, limit: 255 };
    assert_eq!(bad("mutex", 0).to_string(), "the name of a mutex must have 1 to 255 bytes, not 0");
    for length in [0, 256, 10_000] {
        let name = "x".repeat(length);
        let variable = SharedVar::<u64>::named(&name);
        assert_eq!(variable.create(context), Err(bad("variable", length)));
        assert_eq!(variable.wait(context), Err(bad("variable", length)));
        assert_eq!(Mutex::named(&name).lock(context).map(drop), Err(bad("mutex", length)));
        assert_eq!(Semaphore::named(&name).create(context, 1), Err(bad("semaphore", length)));
        assert_eq!(Mailbox::<u64>::named(&name, 1).send(context, &1), Err(bad("mailbox", length)));
    }
    // Any text will do.
    for name in ["x".repeat(255), "\0\n\"` ".to_owned(), "päätös 🐫".to_owned()] {
        let variable = SharedVar::named(name.as_str());
        assert_eq!(variable.name(), name);
        variable.create(context)?;
        variable.set(context, &name)?;
        assert_eq!(variable.get(context).as_deref(), Ok(name.as_str()));
        Mutex::named(&name).lock(context)?.leak();
        let again = Mutex::named(&name).lock(context).unwrap_err();
        assert_eq!(again.to_string(), format!("mutex `{name}` is locked by this worker already"));
    }
    Ok(())
}

fn there_are_no_more_objects_than_may_be<P: Platform>() {
    leaving_nothing(|| runtime::<P>().object_limit(4).run(&BODY, index_of(many_objects)).unwrap());
}

fn many_objects(context: &mut Context) -> Result<(), Failure> {
    type Create = fn(&mut Context, &str) -> Result<(), NamedError>;
    let all: [Create; 4] = [
        |context, name| SharedVar::<u64>::named(name).create(context).map(drop),
        |context, name| Mutex::named(name).lock(context).map(drop),
        |context, name| Semaphore::named(name).create(context, 1).map(drop),
        |context, name| Mailbox::<u64>::named(name, 1).send(context, &1),
    ];
    for create in all {
        create(context, "first")?;
    }
    for create in all {
        assert_eq!(create(context, "second"), Err(NamedError::TooMany { limit: 4 }));
    }
    // Those that are there can be used, and make room.
    assert!(Mutex::new("first").try_lock(context)?.is_some());
    Semaphore::new("first").destroy(context)?;
    for create in all {
        create(context, "second")?;
        SharedVar::<u64>::new("second").delete(context)?;
        Semaphore::new("second").destroy(context)?;
        Mailbox::<u64>::new("second").delete(context)?;
        Mutex::new("second").delete(context)?;
    }
    Ok(())
}

fn an_owned_variable_goes_with_its_owner<P: Platform>() {
    play::<P>(owned);
}

fn owned(context: &mut Context) -> Result<(), Failure> {
    let owner = context.start(
        &PLAY,
        vec![
            Step::CreateOwned(1),
            Step::Tell(1),
            Step::Await(2),
            Step::Set(5),
            Step::Tell(3),
            Step::Await(4),
        ],
    )?;
    await_told(context, 1)?;
    assert_eq!(NUMBER.get(context), Ok(1));
    let refused =
        NamedError::NoPermission { object: "variable `number`".to_owned(), owner: Some(owner.number()) };
    assert_eq!(refused.to_string(), "variable `number` cannot be changed here: worker 1 owns it");
    let version = NUMBER.version(context)?;
    assert_eq!(NUMBER.set(context, &2), Err(refused.clone()));
    assert_eq!(NUMBER.compare_and_set(context, version, &2), Err(refused.clone()));
    assert_eq!(NUMBER.update(context, |number| number + 1), Err(refused.clone()));
    assert_eq!(NUMBER.delete(context), Err(refused));
    assert_eq!(NUMBER.get_or_compute(context, |_| Ok::<_, NamedError>(9)), Ok(1));
    tell(context, 2)?;
    await_told(context, 3)?;
    assert_eq!(NUMBER.get(context), Ok(5));
    // Who waits for a newer value is told of the end.
    let waits = NUMBER.version(context)?;
    tell(context, 4)?;
    assert_eq!(NUMBER.wait_newer(context, waits).map(|_| 0), Err(missing("variable `number`")));
    context.join(owner)?;
    assert_eq!(NUMBER.get(context), Err(missing("variable `number`")));
    assert_eq!(NUMBER.create(context), Ok(true), "it is anybody's now");
    Ok(())
}

fn a_read_only_variable_keeps_its_first_value<P: Platform>() {
    play::<P>(read_only);
}

fn read_only(context: &mut Context) -> Result<(), Failure> {
    let refused = NamedError::NoPermission { object: "variable `number`".to_owned(), owner: None };
    assert_eq!(refused.to_string(), "variable `number` cannot be changed here: it is read-only");
    NUMBER.create_with(context, VarOptions::new().read_only().value(&7))?;
    assert_eq!(NUMBER.set(context, &8), Err(refused.clone()));
    let refusal = refused.to_string();
    let told = played(context, vec![Step::Set(9), Step::Delete, Step::Get])?;
    assert_eq!(told, [refusal.as_str(), refusal.as_str(), "7"]);
    assert_eq!(NUMBER.delete(context), Ok(true));

    // One without a value gets its first from its creator.
    NUMBER.create_with(context, VarOptions::new().read_only())?;
    assert_eq!(played(context, vec![Step::Set(9)])?, [refusal.as_str()]);
    NUMBER.set(context, &1)?;
    assert_eq!(NUMBER.set(context, &2), Err(refused));
    assert_eq!(NUMBER.get(context), Ok(1));
    Ok(())
}

fn an_unused_variable_expires<P: Platform>() {
    play::<P>(expiring);
}

fn expiring(context: &mut Context) -> Result<(), Failure> {
    let options = || VarOptions::new().idle_limit(SHORT);
    NUMBER.create_with(context, options())?;
    assert_eq!(NUMBER.wait(context), Err(missing("variable `number`")), "waiting is no use");
    assert_eq!(NUMBER.create_with(context, options().value(&1)), Ok(true));
    // Who watches it hears of its end, if that has not come already.
    if let Ok(version) = NUMBER.version(context) {
        assert_eq!(context.wait_any(&[NUMBER.newer_than(version)])?, 0);
    }
    assert_eq!(NUMBER.get(context), Err(missing("variable `number`")));
    NUMBER.create_with(context, VarOptions::new().idle_limit(LONG).value(&1))?;
    NUMBER.delete(context)?;
    NUMBER.create_with(context, VarOptions::new().idle_limit(Duration::MAX).value(&1))?;
    assert_eq!(NUMBER.get(context), Ok(1));
    Ok(())
}

fn a_value_is_waited_for<P: Platform>() {
    play::<P>(waiting);
}

fn waiting(context: &mut Context) -> Result<(), Failure> {
    assert_eq!(NUMBER.wait(context), Err(missing("variable `number`")));
    NUMBER.create(context)?;
    assert_eq!(NUMBER.wait_timeout(context, SHORT), Ok(None));
    assert_eq!(NUMBER.wait_timeout(context, Duration::ZERO), Ok(None));
    let waits = vec![Step::Tell(1), Step::Await(7), Step::Get];
    let waiting = context.start_all(&PLAY, [waits.clone(), waits.clone(), waits])?;
    await_told(context, 1)?;
    NUMBER.set(context, &3)?;
    assert_eq!(NUMBER.wait(context), Ok(3));
    assert_eq!(NUMBER.wait_timeout(context, LONG), Ok(Some(3)));
    tell(context, 7)?;
    for told in context.join_all(waiting)? {
        assert_eq!(told, ["()", "true", "3"]);
    }
    let (value, version) = NUMBER.wait_newer(context, Version::UNSET)?;
    assert_eq!(value, 3);
    assert_eq!(NUMBER.wait_newer_timeout(context, version, SHORT), Ok(None));
    let sets = context.start(&PLAY, vec![Step::Set(4)])?;
    let (value, newer) = NUMBER.wait_newer(context, version)?;
    assert!(value == 4 && newer > version);
    assert_eq!(NUMBER.wait_newer_timeout(context, version, LONG), Ok(Some((4, newer))));
    context.join(sets)?;
    // Deleted while it is waited for.
    let deletes = context.start(&PLAY, vec![Step::Delete])?;
    assert_eq!(NUMBER.wait_newer(context, newer).map(|_| 0), Err(missing("variable `number`")));
    context.join(deletes)?;
    Ok(())
}

fn a_set_is_seen_by_who_keeps_a_value_at_hand<P: Platform>() {
    play::<P>(cached);
}

fn cached(context: &mut Context) -> Result<(), Failure> {
    let mut cached = NUMBER.cached();
    assert_eq!(cached.get(context), Err(missing("variable `number`")));
    NUMBER.create(context)?;
    assert!(matches!(cached.get(context), Err(NamedError::Unset { .. })));
    NUMBER.set(context, &1)?;
    assert_eq!(cached.get(context), Ok(&1));
    let first = cached.version();
    // What any `set` that has returned has set is seen, whoever called it.
    for value in 2..50 {
        if value % 2 == 0 {
            NUMBER.set(context, &value)?;
        } else {
            assert_eq!(played(context, vec![Step::Set(value)])?, ["()"]);
        }
        assert_eq!(cached.get(context), Ok(&value));
        assert_eq!(cached.get(context), Ok(&value));
    }
    assert!(cached.version() > first);
    NUMBER.delete(context)?;
    assert_eq!(cached.get(context), Err(missing("variable `number`")));
    NUMBER.create_with(context, VarOptions::new().value(&99))?;
    assert_eq!(cached.get(context), Ok(&99));
    Ok(())
}

fn updates_are_not_lost<P: Platform>() {
    play::<P>(updating);
}

fn updating(context: &mut Context) -> Result<(), Failure> {
    NUMBER.create_with(context, VarOptions::new().value(&0))?;
    let adding = vec![vec![Step::Add(1); 25]; 4];
    let workers = context.start_all(&PLAY, adding)?;
    let told = context.join_all(workers)?;
    assert_eq!(NUMBER.get(context), Ok(100));
    let mut all: Vec<u64> = told.concat().iter().map(|number| number.parse().unwrap()).collect();
    all.sort_unstable();
    assert_eq!(all, (1..=100).collect::<Vec<u64>>(), "each has its own result");
    Ok(())
}

fn a_value_is_computed_once<P: Platform>() {
    play::<P>(computing);
}

fn computing(context: &mut Context) -> Result<(), Failure> {
    COMPUTED.create(context, 0)?;
    let workers = context.start_all(&PLAY, (10..18).map(|value| vec![Step::Compute(value)]))?;
    let told = context.join_all(workers)?;
    assert_eq!(COMPUTED.get(context), Ok(1), "{told:?}");
    assert!(told.iter().all(|values| *values == told[0]), "{told:?}");
    // Who sets it while another computes is first.
    NUMBER.delete(context)?;
    let value = NUMBER.get_or_compute(context, |context| {
        assert_eq!(played(context, vec![Step::Set(3)]).unwrap(), ["()"]);
        Ok::<_, NamedError>(4)
    });
    assert_eq!(value, Ok(3));
    assert_eq!(NUMBER.get(context), Ok(3));
    // Or deletes it.
    NUMBER.delete(context)?;
    let value = NUMBER.get_or_compute(context, |context| {
        assert_eq!(played(context, vec![Step::Delete]).unwrap(), ["true"]);
        Ok::<_, NamedError>(4)
    });
    assert_eq!(value, Err(missing("variable `number`")));
    let value = NUMBER.get_or_compute(context, |context| {
        assert_eq!(played(context, vec![Step::Delete, Step::Create]).unwrap(), ["true", "true"]);
        Ok::<_, NamedError>(4)
    });
    assert_eq!(value, Err(NamedError::NotComputing { object: "variable `number`".to_owned() }));
    Ok(())
}

fn who_fails_to_compute_is_replaced<P: Platform>() {
    play::<P>(failing_to_compute);
}

fn failing_to_compute(context: &mut Context) -> Result<(), Failure> {
    COMPUTED.create(context, 0)?;
    // Alone, and with another one that may wait.
    assert_eq!(played(context, vec![Step::FailToCompute])?, ["no idea"]);
    assert!(matches!(NUMBER.get(context), Err(NamedError::Unset { .. })));
    let panics = context.start(&PLAY, vec![Step::PanicInCompute])?;
    assert!(matches!(context.join(panics), Err(JoinError::Panicked { .. })));
    assert!(matches!(NUMBER.get(context), Err(NamedError::Unset { .. })));
    for first in [Step::FailToCompute, Step::PanicInCompute] {
        let fails = context.start(&PLAY, vec![first])?;
        let computes = context.start_all(&PLAY, [vec![Step::Compute(5)], vec![Step::Compute(5)]])?;
        for told in context.join_all(computes)? {
            assert_eq!(told, ["5"]);
        }
        // It may have been late.
        let _ = context.join(fails);
        NUMBER.delete(context)?;
    }
    Ok(())
}

fn who_would_wait_for_itself_is_told<P: Platform>() {
    play::<P>(computing_oneself);
}

fn computing_oneself(context: &mut Context) -> Result<(), Failure> {
    let own = context.number();
    let deadlock = |object: &str| NamedError::Deadlock { object: object.to_owned(), holder: own };
    let value = NUMBER.get_or_compute(context, |context| {
        let inner = NUMBER.get_or_compute(context, |_| Ok::<_, NamedError>(1));
        assert_eq!(inner, Err(deadlock("variable `number`")));
        Ok::<_, NamedError>(2)
    });
    assert_eq!(value, Ok(2));
    Ok(())
}

fn a_mutex_is_locked_by_one<P: Platform>() {
    play::<P>(mutexes);
}

fn mutexes(context: &mut Context) -> Result<(), Failure> {
    let not_holder = |holder| NamedError::NotHolder { object: "mutex `lock`".to_owned(), holder };
    assert_eq!(LOCK.unlock(context), Err(not_holder(None)));
    let guard = LOCK.lock(context)?;
    assert!(!guard.was_abandoned());
    let fence = guard.fence();
    assert_eq!(
        LOCK.lock(context).map(drop),
        Err(NamedError::LockedAlready { object: "mutex `lock`".into() })
    );
    assert_eq!(
        LOCK.try_lock(context).map(drop),
        Err(NamedError::LockedAlready { object: "mutex `lock`".into() })
    );
    assert_eq!(
        LOCK.delete(context),
        Err(NamedError::InUse { object: "mutex `lock`".to_owned(), holder: context.number() })
    );
    let stranger = not_holder(Some(context.number())).to_string();
    let told = played(context, vec![Step::TryLock, Step::UnlockUnguarded])?;
    assert_eq!(told, ["\"not locked\"", stranger.as_str()]);
    // Whoever waits gets it, and its fence is higher.
    let waits = context.start(&PLAY, vec![Step::Tell(1), lock("lock"), Step::Leak, Step::UnlockUnguarded])?;
    await_told(context, 1)?;
    drop(guard);
    assert_eq!(context.join(waits)?, ["()", "abandoned: false", "true", "()"]);
    let guard = LOCK.try_lock(context)?.expect("it is free");
    assert!(guard.fence() > fence && !guard.was_abandoned());
    let fence = guard.leak();
    LOCK.unlock(context)?;
    assert_eq!(LOCK.unlock(context), Err(not_holder(None)));
    // Time limits.
    let holds = context.start(&PLAY, vec![lock("lock"), Step::Tell(2), Step::Await(3)])?;
    await_told(context, 2)?;
    assert!(LOCK.lock_timeout(context, SHORT)?.is_none());
    assert!(LOCK.lock_timeout(context, Duration::ZERO)?.is_none());
    tell(context, 3)?;
    let guard = LOCK.lock_timeout(context, LONG)?.expect("it comes");
    assert!(guard.fence() > fence);
    context.join(holds)?;
    drop(guard);
    assert_eq!(LOCK.delete(context), Ok(true));
    assert_eq!(LOCK.delete(context), Ok(false));
    assert!(LOCK.lock(context)?.fence() > fence, "fences go on rising");
    Ok(())
}

fn an_abandoned_mutex_is_told_of<P: Platform>() {
    play::<P>(abandoned);
}

fn abandoned(context: &mut Context) -> Result<(), Failure> {
    // Leaked by who ends; held by who panics; held by who is killed.
    let leaves = context.start(&PLAY, vec![lock("lock"), Step::Leak])?;
    context.join(leaves)?;
    let guard = LOCK.lock(context)?;
    assert!(guard.was_abandoned());
    drop(guard);
    assert!(!LOCK.lock(context)?.was_abandoned(), "it is told once");

    let panics = context.start(&PLAY, vec![lock("lock"), Step::Panic])?;
    assert!(matches!(context.join(panics), Err(JoinError::Panicked { .. })));
    assert!(LOCK.lock(context)?.was_abandoned());

    let stays = context.start(&PLAY, vec![lock("lock"), Step::Tell(1), Step::Stay])?;
    await_told(context, 1)?;
    // Two wait while it dies: the first is told.
    let waits = vec![Step::Tell(2), lock("lock"), Step::Unlock];
    let waiting = context.start_all(&PLAY, [waits.clone(), waits])?;
    await_told(context, 2)?;
    context.signal(stays, 9)?;
    killed(context.join(stays));
    let told = context.join_all(waiting)?.concat();
    assert_eq!(told.iter().filter(|text| *text == "abandoned: true").count(), 1, "{told:?}");
    assert_eq!(told.iter().filter(|text| *text == "abandoned: false").count(), 1, "{told:?}");

    let unlocks = context.start(&PLAY, vec![lock("lock"), Step::Unlock, Step::Panic])?;
    assert!(context.join(unlocks).is_err());
    assert!(!LOCK.lock(context)?.was_abandoned(), "it was unlocked in order");
    Ok(())
}

fn a_dead_waiter_harms_nobody<P: Platform>() {
    play::<P>(dead_waiters);
}

fn dead_waiters(context: &mut Context) -> Result<(), Failure> {
    UNITS.create(context, 0)?;
    for round in 0..10 {
        let guard = LOCK.lock(context)?;
        assert!(!guard.was_abandoned(), "round {round}");
        let waits: Vec<WorkerId<_>> = context.start_all(
            &PLAY,
            [
                vec![Step::Tell(100 + round), lock("lock"), Step::Stay],
                vec![Step::Tell(200 + round), Step::Decrement(1), Step::Stay],
                vec![Step::Tell(300 + round), Step::Receive, Step::Stay],
            ],
        )?;
        for number in [100, 200, 300] {
            await_told(context, number + round)?;
        }
        for worker in &waits {
            context.signal(*worker, 9)?;
        }
        if round % 2 == 0 {
            drop(guard);
        }
        for worker in waits {
            killed(context.join(worker));
        }
        // All of it is still to be had.
        UNITS.increment(context, 1)?;
        assert_eq!(UNITS.try_decrement(context, 1), Ok(Some(0)), "round {round}");
        BOX.send(context, &round)?;
        assert_eq!(BOX.try_receive(context), Ok(Some(round)), "round {round}");
    }
    let guard = LOCK.lock(context)?;
    assert!(!guard.was_abandoned(), "who was given it and did not know has left nothing");
    Ok(())
}

fn circles_of_waiting_workers_are_broken<P: Platform>() {
    play::<P>(circles);
}

fn circles(context: &mut Context) -> Result<(), Failure> {
    // Two mutexes.
    let one = vec![lock("a"), Step::Tell(1), Step::Await(2), lock("b")];
    let other = vec![lock("b"), Step::Tell(2), Step::Await(1), lock("a")];
    let workers = context.start_all(&PLAY, [one, other])?;
    let told = context.join_all(workers)?.concat();
    let refused = told.iter().filter(|text| text.contains("would never end: worker")).count();
    assert_eq!(refused, 1, "{told:?}");

    // A mutex and a join.
    let guard = LOCK.lock(context)?;
    let waits = context.start(&PLAY, vec![Step::Tell(3), lock("lock")])?;
    await_told(context, 3)?;
    match context.join(waits) {
        // Whoever came last.
        Err(JoinError::Deadlock { .. }) => {
            drop(guard);
            assert_eq!(context.join(waits)?, ["()", "abandoned: false"]);
        }
        Ok(told) => {
            assert!(told[1].contains("would never end: worker 0"), "{told:?}");
            drop(guard);
        }
        other => panic!("{other:?}"),
    }

    // A value that is computed, and a mutex.
    let guard = LOCK.lock(context)?;
    let computes = context.start(&PLAY, vec![Step::ComputeLocking(4)])?;
    await_told(context, 4)?;
    match NUMBER.get_or_compute(context, |_| Ok::<_, NamedError>(1)) {
        Err(NamedError::Deadlock { object, holder }) => {
            assert_eq!((object.as_str(), holder), ("variable `number`", computes.number()));
            drop(guard);
            context.join(computes)?;
            assert!(NUMBER.get(context)? > 0, "a fence");
        }
        // The other one was refused, and left it to this one.
        other => {
            assert_eq!(other, Ok(1));
            let told = context.join(computes)?;
            assert!(told[0].contains("mutex `lock` would never end: worker 0"), "{told:?}");
            drop(guard);
        }
    }

    // Who waits with a time limit is no part of a circle.
    let guard = LOCK.lock(context)?;
    let holds = context.start(&PLAY, vec![lock("other"), Step::Tell(5), lock("lock")])?;
    await_told(context, 5)?;
    assert!(OTHER.lock_timeout(context, SHORT)?.is_none());
    drop(guard);
    context.join(holds)?;
    Ok(())
}

fn who_should_stop_waits_no_more<P: Platform>() {
    play::<P>(stopping);
}

/// A worker that waits for what does not come until it is asked to stop, and tells what it was told.
fn wait_until_stopped(context: &mut Context, step: u64) -> Result<String, Failure> {
    context.should_stop();
    tell(context, step)?;
    let result = match step {
        0 => LOCK.lock(context).map(drop),
        1 => UNITS.decrement(context, 1).map(drop),
        2 => BOX.receive(context).map(drop),
        3 => NUMBER.wait(context).map(drop),
        4 => context.wait_any(&[BOX.receivable()]).map(drop),
        _ => LOCK.lock_timeout(context, LONG).map(drop),
    };
    assert!(context.should_stop());
    // It is told once.
    assert!(LOCK.lock_timeout(context, SHORT)?.is_none());
    Ok(text(result))
}

const STOPPED: Worker<u64, String> = Worker::fallible("until stopped", wait_until_stopped);

fn stopping(context: &mut Context) -> Result<(), Failure> {
    let guard = LOCK.lock(context)?;
    UNITS.create(context, 0)?;
    NUMBER.create(context)?;
    BOX.open(context)?;
    let workers = context.start_all(&STOPPED, 0..6)?;
    for (step, worker) in (0..).zip(&workers) {
        await_told(context, step)?;
        context.terminate(*worker, LONG)?;
    }
    for told in context.join_all(workers)? {
        assert_eq!(told, "this worker should stop");
    }
    drop(guard);
    // Nobody waits there any more.
    assert!(LOCK.try_lock(context)?.is_some_and(|guard| !guard.was_abandoned()));
    UNITS.increment(context, 1)?;
    assert_eq!(UNITS.get(context), Ok(1));
    BOX.send(context, &1)?;
    assert_eq!(BOX.length(context), Ok(1));
    Ok(())
}

fn units_are_taken_and_given<P: Platform>() {
    play::<P>(semaphores);
}

fn semaphores(context: &mut Context) -> Result<(), Failure> {
    let none = missing("semaphore `units`");
    assert_eq!(UNITS.get(context), Err(none.clone()), "asking does not create");
    assert_eq!(UNITS.increment(context, 1), Err(none.clone()));
    assert_eq!(UNITS.decrement(context, 1), Err(none.clone()));
    assert_eq!(UNITS.try_decrement(context, 1), Err(none.clone()));
    assert_eq!(UNITS.acquire(context, 1).map(drop), Err(none));
    assert_eq!(UNITS.destroy(context), Ok(false));
    assert_eq!(UNITS.create(context, 2), Ok(true));
    assert_eq!(UNITS.create(context, 9), Ok(false));
    assert_eq!(UNITS.get(context), Ok(2));
    assert_eq!(UNITS.increment(context, 3), Ok(5));
    assert_eq!(UNITS.increment(context, 0), Ok(5));
    assert_eq!(UNITS.decrement(context, 4), Ok(1));
    assert_eq!(UNITS.decrement(context, 0), Ok(1));
    assert_eq!(UNITS.try_decrement(context, 2), Ok(None));
    assert_eq!(UNITS.try_decrement(context, 1), Ok(Some(0)));
    assert_eq!(UNITS.decrement_timeout(context, 1, SHORT), Ok(None));
    assert_eq!(UNITS.get(context), Ok(0));
    // Permits.
    UNITS.increment(context, 3)?;
    let permit = UNITS.acquire(context, 2)?;
    assert_eq!((permit.units(), UNITS.get(context)?), (2, 1));
    assert!(UNITS.try_acquire(context, 2)?.is_none());
    assert!(UNITS.acquire_timeout(context, 2, SHORT)?.is_none());
    drop(permit);
    assert_eq!(UNITS.get(context), Ok(3));
    UNITS.try_acquire(context, 1)?.expect("there are").leak();
    assert_eq!(UNITS.get(context), Ok(2));
    // Limits.
    let over =
        |object: &str, units, maximum| NamedError::OverMaximum { object: object.into(), units, maximum };
    let bounded = Semaphore::new("bounded");
    let options = |units| SemaphoreOptions::new(units).maximum(4);
    assert_eq!(bounded.create_with(context, options(5)), Err(over("semaphore `bounded`", 5, 4)));
    bounded.create_with(context, options(3))?;
    assert_eq!(bounded.increment(context, 2), Err(over("semaphore `bounded`", 5, 4)));
    assert_eq!(bounded.get(context), Ok(3), "none was added");
    assert_eq!(bounded.increment(context, 1), Ok(4));
    assert_eq!(bounded.decrement(context, 5), Err(over("semaphore `bounded`", 5, 4)), "never so many");
    assert_eq!(bounded.try_decrement(context, 5), Err(over("semaphore `bounded`", 5, 4)));
    let most = i64::MAX as u64;
    assert_eq!(UNITS.increment(context, u64::MAX), Err(over("semaphore `units`", u64::MAX, most)));
    assert_eq!(UNITS.decrement(context, u64::MAX), Err(over("semaphore `units`", u64::MAX, most)));
    let huge = Semaphore::new("huge");
    assert_eq!(huge.create(context, u64::MAX), Err(over("semaphore `huge`", u64::MAX, most)));
    assert_eq!(huge.create(context, most), Ok(true));
    assert_eq!(huge.increment(context, 1), Err(over("semaphore `huge`", most + 1, most)));
    assert_eq!(huge.decrement(context, most), Ok(0));
    assert_eq!(UNITS.destroy(context), Ok(true));
    assert_eq!(UNITS.get(context), Err(missing("semaphore `units`")), "it is really gone");
    Ok(())
}

fn the_queue_for_units_is_served_in_order<P: Platform>() {
    play::<P>(queueing);
}

fn queueing(context: &mut Context) -> Result<(), Failure> {
    UNITS.create(context, 1)?;
    let many = context.start(&PLAY, vec![Step::Tell(1), Step::Decrement(3)])?;
    await_told(context, 1)?;
    // It may not be in the queue yet: who wants few is served until it is.
    while UNITS.try_decrement(context, 1)?.is_some() {
        UNITS.increment(context, 1)?;
    }
    let few = context.start(&PLAY, vec![Step::Decrement(1)])?;
    assert_eq!(UNITS.increment(context, 1), Ok(2));
    assert_eq!(context.try_join(few)?, None);
    assert_eq!(UNITS.increment(context, 1), Ok(3), "before those who wait take theirs");
    assert_eq!(context.join(many)?, ["()", "0"]);
    UNITS.increment(context, 1)?;
    assert_eq!(context.join(few)?, ["0"]);

    // Who gives up lets those behind it pass.
    UNITS.increment(context, 1)?;
    let many = context.start(&PLAY, vec![Step::Tell(2), Step::Decrement(3)])?;
    await_told(context, 2)?;
    while UNITS.try_decrement(context, 1)?.is_some() {
        UNITS.increment(context, 1)?;
    }
    let few = context.start(&PLAY, vec![Step::Decrement(1)])?;
    context.signal(many, 9)?;
    killed(context.join(many));
    assert_eq!(context.join(few)?, ["0"]);
    Ok(())
}

fn protected_units_come_back<P: Platform>() {
    play::<P>(protected);
}

fn protected(context: &mut Context) -> Result<(), Failure> {
    UNITS.create_with(context, SemaphoreOptions::new(5).maximum(6).protected())?;
    assert_eq!(played(context, vec![Step::Decrement(2), Step::Decrement(1), Step::Increment(1)])?.len(), 3);
    assert_eq!(UNITS.get(context), Ok(5), "what it took came back");
    assert_eq!(played(context, vec![Step::Increment(1)])?, ["6"]);
    assert_eq!(UNITS.get(context), Ok(5), "what it gave went away");
    let stays = context.start(&PLAY, vec![Step::Decrement(5), Step::Tell(1), Step::Stay])?;
    await_told(context, 1)?;
    let waits = context.start(&PLAY, vec![Step::Acquire(4), Step::Get])?;
    context.signal(stays, 9)?;
    killed(context.join(stays));
    assert_eq!(context.join(waits)?[0], "4");
    assert_eq!(UNITS.get(context), Ok(5));
    // One gives for another: in whatever order they end, none is made or lost.
    for giver_first in [false, true] {
        let taker = context.start(&PLAY, vec![Step::Decrement(5), Step::Tell(2), Step::Await(4)])?;
        await_told(context, 2)?;
        let giver = context.start(&PLAY, vec![Step::Increment(5), Step::Tell(3), Step::Await(5)])?;
        await_told(context, 3)?;
        assert_eq!(UNITS.decrement(context, 4), Ok(1));
        let (first, second) = if giver_first { (5, 4) } else { (4, 5) };
        for number in [first, second] {
            tell(context, number)?;
            if number == 5 {
                context.join(giver)?;
            } else {
                context.join(taker)?;
            }
        }
        assert_eq!(UNITS.increment(context, 4), Ok(5));
        for number in 2..6 {
            SharedVar::<bool>::named(format!("told {number}")).delete(context)?;
        }
    }
    // Of one that is not protected nothing comes back.
    let plain = Semaphore::new("computed");
    plain.create(context, 0)?;
    NUMBER.get_or_compute(context, |_| Ok::<_, NamedError>(0))?;
    NUMBER.delete(context)?;
    played(context, vec![Step::Compute(1)])?;
    assert_eq!(plain.get(context), Ok(1));
    Ok(())
}

fn a_destroyed_semaphore_wakes_everyone<P: Platform>() {
    play::<P>(destroying);
}

fn destroying(context: &mut Context) -> Result<(), Failure> {
    for protected in [false, true] {
        let options = SemaphoreOptions::new(0);
        UNITS.create_with(context, if protected { options.protected() } else { options })?;
        let waiting = context.start_all(&PLAY, (1..4).map(|by| vec![Step::Tell(by), Step::Decrement(by)]))?;
        for by in 1..4 {
            await_told(context, by)?;
        }
        UNITS.destroy(context)?;
        for told in context.join_all(waiting)? {
            // It may have come late.
            let known = [
                "semaphore `units` was removed by another worker while this one waited",
                "there is no semaphore `units`, or not any more: it is to be created first",
            ];
            assert!(known.contains(&told[1].as_str()), "{told:?}");
        }
        assert_eq!(UNITS.create(context, 1), Ok(true));
        UNITS.destroy(context)?;
    }
    Ok(())
}

fn messages_come_in_order_and_once<P: Platform>() {
    play::<P>(messages);
}

fn messages(context: &mut Context) -> Result<(), Failure> {
    let box_of_three = Mailbox::<u64>::with_capacity("three", 3);
    assert_eq!(box_of_three.capacity(), 3);
    assert_eq!(box_of_three.length(context), Ok(0));
    for message in 1..=3 {
        assert_eq!(box_of_three.try_send(context, &message), Ok(true));
    }
    assert_eq!(box_of_three.try_send(context, &4), Ok(false));
    assert_eq!(box_of_three.send_timeout(context, &4, SHORT), Ok(false));
    assert_eq!(box_of_three.length(context), Ok(3));
    for message in 1..=3 {
        assert_eq!(box_of_three.receive(context), Ok(message));
    }
    assert_eq!(box_of_three.try_receive(context), Ok(None));
    assert_eq!(box_of_three.receive_timeout(context, SHORT), Ok(None));
    // Another capacity is another definition.
    let other = Mailbox::<u64>::with_capacity("three", 2);
    let refused = NamedError::OtherCapacity { object: "mailbox `three`".to_owned(), stored: 3, asked: 2 };
    assert_eq!(refused.to_string(), "mailbox `three` has room for 3 messages, not for 2");
    assert_eq!(other.open(context), Err(refused.clone()));
    assert_eq!(other.try_send(context, &1), Err(refused.clone()));
    assert_eq!(other.receive(context), Err(refused));
    assert_eq!(Mailbox::<u64>::with_capacity("none", 0).capacity(), 1);

    // Several senders and receivers; from each sender in order.
    BOX.open(context)?;
    let receivers = context.start_all(&PLAY, vec![vec![Step::ReceiveAll]; 3])?;
    let sends = |from: u64| (0..20).map(|number| Step::Send(from * 100 + number)).collect::<Vec<_>>();
    let senders = context.start_all(&PLAY, (0..3).map(sends))?;
    context.join_all(senders)?;
    BOX.close(context)?;
    let mut counts = BTreeMap::new();
    for told in context.join_all(receivers)? {
        let list = told[0].trim_matches(['[', ']']);
        let list: Vec<u64> =
            list.split(", ").filter(|text| !text.is_empty()).map(|text| text.parse().unwrap()).collect();
        for from in 0..3 {
            assert!(list.iter().filter(|message| *message / 100 == from).is_sorted(), "{list:?}");
        }
        for message in list {
            *counts.entry(message).or_insert(0) += 1;
        }
    }
    assert_eq!(counts.len(), 60);
    assert!(counts.values().all(|count| *count == 1), "{counts:?}");
    Ok(())
}

fn a_mailbox_is_opened_before_anything_was_sent<P: Platform>() {
    play::<P>(opening);
}

fn opening(context: &mut Context) -> Result<(), Failure> {
    assert_eq!(BOX.open(context), Ok(true));
    assert_eq!(BOX.open(context), Ok(false));
    let receives = context.start(&PLAY, vec![Step::Receive])?;
    BOX.send(context, &8)?;
    assert_eq!(context.join(receives)?, ["8"]);
    Ok(())
}

fn a_closed_mailbox_is_emptied<P: Platform>() {
    play::<P>(closing);
}

fn closing(context: &mut Context) -> Result<(), Failure> {
    BOX.send(context, &1)?;
    let sends = context.start(&PLAY, vec![Step::Tell(1), Step::Send(2)])?;
    await_told(context, 1)?;
    BOX.close(context)?;
    BOX.close(context)?;
    let closed = "mailbox `box` is closed";
    assert_eq!(context.join(sends)?[1], closed);
    assert_eq!(text(BOX.send(context, &3)), closed);
    assert_eq!(text(BOX.try_send(context, &3)), closed);
    assert_eq!(BOX.receive(context), Ok(1));
    assert_eq!(text(BOX.receive(context)), closed);
    assert_eq!(text(BOX.try_receive(context)), closed);
    assert_eq!(text(BOX.receive_timeout(context, LONG)), closed);
    assert_eq!(BOX.next(context), Ok(None));
    assert_eq!(BOX.delete(context), Ok(true));
    // Who waits for a message hears of the end.
    let receives = context.start(&PLAY, vec![Step::Tell(2), Step::Receive])?;
    await_told(context, 2)?;
    BOX.close(context)?;
    assert_eq!(context.join(receives)?[1], closed);
    Ok(())
}

fn a_deleted_mailbox_wakes_everyone<P: Platform>() {
    play::<P>(deleting);
}

fn deleting(context: &mut Context) -> Result<(), Failure> {
    assert_eq!(BOX.delete(context), Ok(false));
    BOX.send(context, &1)?;
    let sends = context.start(&PLAY, vec![Step::Tell(1), Step::Send(2)])?;
    await_told(context, 1)?;
    // It may not wait yet: then it sends to one that is made anew.
    assert_eq!(BOX.delete(context), Ok(true));
    let told = context.join(sends)?;
    if told[1] == "()" {
        assert_eq!(BOX.receive(context), Ok(2));
    } else {
        assert_eq!(told[1], "mailbox `box` was removed by another worker while this one waited");
        assert_eq!(BOX.try_receive(context), Ok(None), "what was in it is gone");
    }
    Ok(())
}

/// Has a worker that does these steps die at each of its checkpoints, one after the other, until it lives to the end; and
/// looks each time at what is left.
fn die_at_every_step(
    context: &mut Context,
    steps: &[Step],
    mut look: impl FnMut(&mut Context, Option<Vec<String>>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    for checkpoint in 1.. {
        assert!(checkpoint < 200, "it never lives");
        let steps = [vec![Step::Die(checkpoint)], steps.to_vec()].concat();
        let worker = context.start(&PLAY, steps)?;
        let told = match context.join(worker) {
            Ok(told) => Some(told),
            other => {
                killed(other);
                None
            }
        };
        let lives = told.is_some();
        look(context, told).map_err(|failure| Failure::new(format!("checkpoint {checkpoint}: {failure}")))?;
        if lives {
            assert!(checkpoint > 2, "it has died at some");
            return Ok(());
        }
    }
    Ok(())
}

fn a_receiver_dies_at_every_step<P: Platform>() {
    play::<P>(receivers_deaths);
}

fn receivers_deaths(context: &mut Context) -> Result<(), Failure> {
    let mut next = 0;
    BOX.send(context, &0)?;
    let (mut there, mut gone) = (0, 0);
    die_at_every_step(context, &[Step::Receive], |context, told| {
        match BOX.try_receive(context)? {
            Some(message) => {
                assert_eq!(message, next, "it is in its place");
                assert_eq!(told, None);
                there += 1;
            }
            // It was received, and who did may have died after that.
            None => gone += 1,
        }
        next += 1;
        BOX.send(context, &next)?;
        Ok(())
    })?;
    assert!(there > 0 && gone > 0, "{there} {gone}");
    // The same for who has waited before there was a message, and with others behind.
    BOX.delete(context)?;
    let two = Mailbox::<u64>::with_capacity("box", 1);
    for checkpoint in 1..12 {
        let worker =
            context.start(&PLAY, vec![Step::Tell(checkpoint), Step::Die(checkpoint), Step::Receive])?;
        await_told(context, checkpoint)?;
        two.send(context, &7)?;
        let other = context.start(&PLAY, vec![Step::Receive])?;
        // One of them has the first by then, or has died with it.
        two.send(context, &8)?;
        let first = context.join(worker).ok().map(|told| told[2].clone());
        let second = context.join(other)?[0].clone();
        let left = two.try_receive(context)?.map(|left| left.to_string());
        let mut all: Vec<String> = first.into_iter().chain([second]).chain(left).collect();
        all.sort_unstable();
        let known = [vec!["7", "8"], vec!["7"], vec!["8"]];
        assert!(known.iter().any(|known| all == *known), "checkpoint {checkpoint}: {all:?}");
    }
    Ok(())
}

fn a_sender_dies_at_every_step<P: Platform>() {
    play::<P>(senders_deaths);
}

fn senders_deaths(context: &mut Context) -> Result<(), Failure> {
    BOX.open(context)?;
    let (mut sent, mut unsent) = (0, 0);
    die_at_every_step(context, &[Step::Send(5)], |context, told| {
        match BOX.try_receive(context)? {
            Some(message) => {
                assert_eq!(message, 5);
                sent += 1;
            }
            None => {
                assert_eq!(told, None, "what was sent is there");
                unsent += 1;
            }
        }
        assert_eq!(BOX.try_receive(context)?, None, "once");
        assert!(BOX.try_send(context, &6)?, "there is room");
        assert_eq!(BOX.try_receive(context)?, Some(6));
        Ok(())
    })?;
    assert!(sent > 0 && unsent > 0, "{sent} {unsent}");
    Ok(())
}

fn a_holder_dies_at_every_step<P: Platform>() {
    play::<P>(holders_deaths);
}

fn holders_deaths(context: &mut Context) -> Result<(), Failure> {
    drop(LOCK.lock(context)?);
    let (mut abandoned, mut clean, mut fence) = (0, 0, 0);
    let steps = [lock("lock"), Step::Set(1), Step::Unlock, Step::Set(2)];
    die_at_every_step(context, &steps, |context, told| {
        let guard = LOCK.try_lock(context)?.expect("it is free");
        assert!(guard.fence() > fence);
        fence = guard.fence();
        if guard.was_abandoned() {
            assert_eq!(told, None);
            abandoned += 1;
        } else {
            clean += 1;
        }
        Ok(())
    })?;
    assert!(abandoned > 0 && clean > 0, "{abandoned} {clean}");
    // The same for who has waited.
    for checkpoint in 1..14 {
        let guard = LOCK.lock(context)?;
        let worker = context
            .start(&PLAY, vec![Step::Tell(checkpoint), Step::Die(checkpoint), lock("lock"), Step::Unlock])?;
        await_told(context, checkpoint)?;
        drop(guard);
        let _ = context.join(worker);
        assert!(LOCK.try_lock(context)?.is_some(), "checkpoint {checkpoint}");
    }
    Ok(())
}

fn a_taker_dies_at_every_step<P: Platform>() {
    play::<P>(takers_deaths);
}

fn takers_deaths(context: &mut Context) -> Result<(), Failure> {
    UNITS.create_with(context, SemaphoreOptions::new(4).protected())?;
    let steps = [Step::Decrement(2), Step::Acquire(1), Step::Increment(3), Step::Decrement(1)];
    die_at_every_step(context, &steps, |context, _| {
        assert_eq!(UNITS.get(context), Ok(4));
        Ok(())
    })
}

fn a_setter_dies_at_every_step<P: Platform>() {
    play::<P>(setters_deaths);
}

fn setters_deaths(context: &mut Context) -> Result<(), Failure> {
    COMPUTED.create(context, 0)?;
    die_at_every_step(context, &[Step::CreateOwned(3), Step::Set(4)], |context, _| {
        assert_eq!(NUMBER.get(context), Err(missing("variable `number`")), "it goes with its owner");
        Ok(())
    })?;
    die_at_every_step(context, &[Step::Create, Step::Set(5), Step::Add(1)], |context, told| {
        match NUMBER.get(context) {
            Ok(value) => assert!(value == 6 || (value == 5 && told.is_none()), "{value} {told:?}"),
            Err(NamedError::Unset { .. } | NamedError::Missing { .. }) => assert_eq!(told, None),
            Err(error) => return Err(error.into()),
        }
        NUMBER.delete(context)?;
        Ok(())
    })?;
    die_at_every_step(context, &[Step::Compute(5)], |context, told| {
        // Who comes next computes it, if it was not.
        let value = NUMBER.get_or_compute(context, |_| Ok::<_, NamedError>(6))?;
        assert!(value == 5 || (value == 6 && told.is_none()), "{value} {told:?}");
        NUMBER.delete(context)?;
        Ok(())
    })
}

fn several_objects_are_waited_for_at_once<P: Platform>() {
    play::<P>(several);
}

fn several(context: &mut Context) -> Result<(), Failure> {
    UNITS.create(context, 0)?;
    NUMBER.create(context)?;
    BOX.open(context)?;
    let full = Mailbox::<u64>::new("full");
    full.send(context, &1)?;
    let holds = context.start(&PLAY, vec![lock("lock"), Step::Tell(1), Step::Await(2)])?;
    await_told(context, 1)?;
    let list = [
        NUMBER.newer_than(Version::UNSET),
        LOCK.unlocked(),
        UNITS.available(2),
        BOX.receivable(),
        full.sendable(),
    ];
    assert_eq!(context.wait_any_timeout(&list, SHORT)?, None);
    assert_eq!(context.wait_any_timeout(&[], SHORT)?, None);
    assert_eq!(context.wait_any_timeout(&list, Duration::ZERO)?, None);
    UNITS.increment(context, 1)?;
    assert_eq!(context.wait_any_timeout(&list, SHORT)?, None, "not enough");
    for (step, index) in [(Step::Set(1), 0), (Step::Increment(1), 2), (Step::Send(1), 3)] {
        let does = context.start(&PLAY, vec![step])?;
        assert_eq!(context.wait_any(&list)?, index);
        // It takes nothing, and so is ready again.
        assert_eq!(context.wait_any(&list)?, index);
        context.join(does)?;
        match index {
            0 => drop(NUMBER.delete(context)?),
            2 => drop(UNITS.decrement(context, 2)?),
            _ => drop(BOX.receive(context)?),
        }
        if index == 0 {
            assert_eq!(context.wait_any(&list)?, 0, "what is missing need not be waited for");
            NUMBER.create(context)?;
        }
    }
    tell(context, 2)?;
    assert_eq!(context.wait_any(&list)?, 1);
    context.join(holds)?;
    let guard = LOCK.lock(context)?;
    assert_eq!(context.wait_any(&list)?, 1, "its holder need not wait to be told that it is");
    drop(guard);
    assert_eq!(context.wait_any(&[full.sendable(), LOCK.unlocked()])?, 1);
    let takes = context.start(&PLAY, vec![lock("lock"), Step::Tell(3), Step::Stay])?;
    await_told(context, 3)?;
    full.receive(context)?;
    assert_eq!(context.wait_any(&list)?, 4);
    // Ends of workers.
    let ends = [BOX.receivable(), takes.ended()];
    assert_eq!(context.wait_any_timeout(&ends, SHORT)?, None);
    let watch = context.watch_for(&takes.ended())?;
    let other = context.watch_for(&takes.ended())?;
    context.unwatch(other)?;
    assert_eq!(context.next_ready()?, None);
    assert_eq!(context.wait_any(&[holds.ended()])?, 0, "it has ended before");
    // Ends of objects, and of those who have them.
    full.send(context, &1)?;
    full.close(context)?;
    assert_eq!(context.wait_any(&list)?, 4);
    context.signal(takes, 9)?;
    assert_eq!(context.wait_any(&list[..3])?, 1);
    assert_eq!(context.wait_any(&ends)?, 1);
    killed(context.join(takes));
    assert_eq!(context.next_ready()?, Some(watch));
    assert_eq!(context.next_ready()?, None);
    assert_eq!(context.wait_any(&[ends[1].clone()])?, 0);
    assert!(LOCK.lock(context)?.was_abandoned());
    Ok(())
}

fn readiness_comes_by_a_descriptor<P: Platform>() {
    play::<P>(by_descriptor);
}

fn by_descriptor(context: &mut Context) -> Result<(), Failure> {
    BOX.open(context)?;
    NUMBER.create(context)?;
    let letter = context.watch_for(&BOX.receivable())?;
    let value = context.watch_for(&NUMBER.newer_than(Version::UNSET))?;
    assert_ne!(letter, value);
    assert_eq!(context.next_ready()?, None);
    let sends = context.start(&PLAY, vec![Step::Send(4)])?;
    context.watch(sends)?;
    let (mut ended, mut ready) = (None, None);
    while ended.is_none() || ready.is_none() {
        ended = ended.or(context.next_ended()?);
        ready = ready.or(context.next_ready()?);
        if ended.is_none() || ready.is_none() {
            poll_single(context.as_fd(), Interest::READ, None)?;
        }
    }
    assert_eq!((ended, ready), (Some(sends.number()), Some(letter)));
    assert_eq!(context.next_ready()?, None, "once");
    assert_eq!(BOX.try_receive(context)?, Some(4));
    // One that is ready at once; one that is not watched any more.
    context.unwatch(value)?;
    NUMBER.set(context, &1)?;
    assert_eq!(context.next_ready()?, None);
    let again = context.watch_for(&NUMBER.newer_than(Version::UNSET))?;
    poll_single(context.as_fd(), Interest::READ, None)?;
    assert_eq!(context.next_ready()?, Some(again));
    // Others' waits do not swallow it.
    let letter = context.watch_for(&BOX.receivable())?;
    BOX.send(context, &1)?;
    assert_eq!(context.wait_any(&[BOX.receivable()])?, 0);
    assert_eq!(NUMBER.cached().get(context)?, &1);
    assert_eq!(context.next_ready()?, Some(letter));
    Ok(())
}

/// What a guard that is dropped in another thread, or after another one, or in a panic, does.
fn a_guard_may_be_dropped_anywhere<P: Platform>() {
    play::<P>(guards);
}

fn guards(context: &mut Context) -> Result<(), Failure> {
    UNITS.create(context, 300)?;
    let (one, two) = (LOCK.lock(context)?, OTHER.lock(context)?);
    std::thread::spawn(move || drop(one)).join().unwrap();
    assert!(LOCK.try_lock(context)?.is_some());
    assert_eq!(
        played(context, vec![lock("lock"), lock("nobody's")])?,
        ["abandoned: false", "abandoned: false"]
    );
    drop(two);
    // More than a link holds.
    let permits: Vec<_> = (0..300).map(|_| UNITS.acquire(context, 1)).collect::<Result<_, _>>()?;
    assert_eq!(UNITS.get(context), Ok(0));
    drop(permits);
    assert_eq!(UNITS.get(context), Ok(300));
    // Caught.
    let guard = LOCK.lock(context)?;
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let _held = guard;
        panic!("as told");
    }));
    assert!(caught.is_err());
    assert!(LOCK.lock(context)?.was_abandoned());
    Ok(())
}

fn everything_can_be_used_at_the_end<P: Platform>() {
    let leaves = vec![Step::Create, Step::Set(1), lock("lock"), Step::Leak, Step::Send(2)];
    leaving_nothing(|| {
        let finish = |finished: &mut Finished<'_>, told: Result<Vec<String>, JoinError>| {
            assert_eq!(told.unwrap().len(), 5);
            let names: Vec<String> = finished.objects().iter().map(name_of).collect();
            assert_eq!(names, ["variable number", "mutex lock", "mailbox box"]);
            assert_eq!(NUMBER.get(finished), Ok(1));
            let two = NUMBER.set(finished, &2).unwrap();
            assert_eq!(NUMBER.update(finished, |number| number + 1), Ok(3));
            assert!(NUMBER.version(finished).unwrap() > two);
            assert_eq!(NUMBER.delete(finished), Ok(true));
            assert_eq!(NUMBER.get(finished), Err(missing("variable `number`")));
            assert_eq!(NUMBER.create_with(finished, VarOptions::new().owned().value(&5)), Ok(true));
            assert_eq!(NUMBER.set(finished, &6).map(drop), Ok(()));

            let guard = LOCK.try_lock(finished).unwrap().expect("nobody is left");
            assert!(guard.was_abandoned());
            assert!(matches!(LOCK.try_lock(finished), Err(NamedError::LockedAlready { .. })));
            drop(guard);
            LOCK.try_lock(finished).unwrap().expect("it was unlocked").leak();
            LOCK.unlock(finished).unwrap();

            assert_eq!(UNITS.create(finished, 2), Ok(true));
            let permit = UNITS.try_acquire(finished, 2).unwrap().expect("there are");
            assert_eq!(UNITS.try_decrement(finished, 1), Ok(None));
            drop(permit);
            assert_eq!(UNITS.increment(finished, 1), Ok(3));
            assert_eq!(UNITS.destroy(finished), Ok(true));

            assert_eq!(BOX.try_send(finished, &3), Ok(false));
            assert_eq!(BOX.try_receive(finished), Ok(Some(2)));
            assert_eq!(BOX.try_receive(finished), Ok(None));
            assert_eq!(BOX.try_send(finished, &3), Ok(true));
            assert_eq!(BOX.length(finished), Ok(1));
            BOX.close(finished).unwrap();
            7
        };
        assert_eq!(runtime::<P>().run_then(&PLAY, leaves, finish).unwrap(), 7);
    });
}

fn name_of(object: &ObjectInfo) -> String {
    match object {
        ObjectInfo::Variable { name, .. } => format!("variable {name}"),
        ObjectInfo::Mutex { name, .. } => format!("mutex {name}"),
        ObjectInfo::Semaphore { name, .. } => format!("semaphore {name}"),
        ObjectInfo::Mailbox { name, .. } => format!("mailbox {name}"),
        other => panic!("{other:?}"),
    }
}

fn pools_have_named_objects<P: Platform>() {
    leaving_nothing(|| {
        let mut pool = Runtime::<P>::default().with_all(&workers()).pool(&PLAY).workers(2);
        pool.map([vec![Step::Create, Step::Set(0)]]).unwrap();
        let told = pool.map(vec![vec![Step::Add(1)]; 20]).unwrap();
        let mut sums: Vec<u64> = told.concat().iter().map(|number| number.parse().unwrap()).collect();
        sums.sort_unstable();
        assert_eq!(sums, (1..=20).collect::<Vec<u64>>());
    });
}

/// What is no message, of another version, or longer than may be, ends the link of who says it, and nothing else.
fn who_talks_nonsense_harms_nobody<P: Platform>() {
    play::<P>(nonsense);
}

fn nonsense(context: &mut Context) -> Result<(), Failure> {
    UNITS.create_with(context, SemaphoreOptions::new(1).protected())?;
    let all: [&[u8]; 4] =
        [b"\x03\0\0\0\x01\xFF\xFF", b"\x02\0\0\0\x09\x00", b"\0\0\0\0", b"\xFF\xFF\xFF\xFFnothing of that"];
    for bytes in all {
        let steps = vec![lock("lock"), Step::Decrement(1), Step::Say(bytes.to_vec()), Step::Get];
        let talks = context.start(&PLAY, steps)?;
        // It cannot even tell how it ended.
        match context.join(talks) {
            Err(JoinError::Exited { .. }) => {}
            other => panic!("{bytes:?}: {other:?}"),
        }
        assert!(LOCK.lock(context)?.was_abandoned(), "{bytes:?}");
        assert_eq!(UNITS.get(context), Ok(1), "{bytes:?}");
    }
    Ok(())
}

/// A worker that is stopped keeps what it has, and is given what it waits for; all others go on.
fn a_stopped_worker_stalls_nobody<P: Platform>() {
    play::<P>(stopped);
}

fn stopped(context: &mut Context) -> Result<(), Failure> {
    const STOP: i32 = 19;
    NUMBER.create(context)?;
    let waits = context.start(&PLAY, vec![lock("other"), Step::Tell(1), Step::Receive, Step::Receive])?;
    await_told(context, 1)?;
    context.signal(waits, STOP)?;
    // It may have been in the middle of asking.
    for round in 0..200 {
        NUMBER.set(context, &round)?;
        drop(LOCK.lock(context)?);
    }
    BOX.send(context, &1)?;
    BOX.send_timeout(context, &2, SHORT)?;
    assert!(OTHER.lock_timeout(context, SHORT)?.is_none());
    context.signal(waits, 9)?;
    killed(context.join(waits));
    assert!(OTHER.lock(context)?.was_abandoned());
    let mut left = Vec::new();
    while let Some(message) = BOX.try_receive(context)? {
        left.push(message);
    }
    assert!(left == [1] || left == [1, 2], "{left:?}");
    Ok(())
}

/// Lets the others go on: what they asked before is likely to be with the master after this.
fn dally(context: &mut Context) -> Result<(), NamedError> {
    for _ in 0..50 {
        SharedVar::<u64>::new("nobody's").delete(context)?;
    }
    Ok(())
}

fn what_is_ready_is_seen_without_waiting<P: Platform>() {
    play::<P>(ready_already);
}

fn ready_already(context: &mut Context) -> Result<(), Failure> {
    NUMBER.create_with(context, VarOptions::new().value(&1))?;
    for _ in 0..100 {
        let list = [BOX.receivable(), NUMBER.newer_than(Version::UNSET)];
        BOX.open(context)?;
        assert_eq!(context.wait_any_timeout(&list, Duration::ZERO)?, Some(1));
    }
    Ok(())
}

fn an_old_permit_does_not_fill_a_new_semaphore<P: Platform>() {
    play::<P>(old_permits);
}

fn old_permits(context: &mut Context) -> Result<(), Failure> {
    let protected = SemaphoreOptions::new(2).protected();
    for options in [protected, SemaphoreOptions::new(2), protected.maximum(2)] {
        UNITS.create_with(context, options)?;
        let permit = UNITS.acquire(context, 2)?;
        UNITS.destroy(context)?;
        UNITS.create_with(context, options)?;
        let newer = UNITS.acquire(context, 1)?;
        drop(permit);
        assert_eq!(UNITS.get(context), Ok(1));
        drop(newer);
        assert_eq!(UNITS.get(context), Ok(2));
        UNITS.destroy(context)?;
    }
    Ok(())
}

fn nobody_is_told_for_a_value_that_was_kept_at_hand<P: Platform>() {
    play::<P>(dropped_cached);
}

fn dropped_cached(context: &mut Context) -> Result<(), Failure> {
    const ROUNDS: u64 = 10;
    NUMBER.create_with(context, VarOptions::new().value(&0))?;
    BOX.open(context)?;
    let mut woken = 0;
    for round in 1..=ROUNDS {
        let mut steps = vec![Step::Await(round), Step::Set(round)];
        steps.extend(vec![Step::Get; 10]);
        steps.push(Step::Send(round));
        let sets = context.start(&PLAY, steps)?;
        assert_eq!(NUMBER.cached().get(context), Ok(&(round - 1)));
        let letter = context.watch_for(&BOX.receivable())?;
        tell(context, round)?;
        // The first that the master tells is of the letter, which comes after the value.
        let mut ready = None;
        for times in 0.. {
            ready = context.next_ready()?;
            if ready.is_some() {
                woken += u64::from(times > 1);
                break;
            }
            poll_single(context.as_fd(), Interest::READ, None)?;
        }
        assert_eq!(ready, Some(letter));
        assert_eq!(BOX.receive(context), Ok(round));
        context.join(sets)?;
    }
    assert!(woken < ROUNDS / 2, "{woken} times for nothing");
    Ok(())
}

fn a_computed_value_keeps_its_idle_limit<P: Platform>() {
    play::<P>(computing_idly);
}

fn computing_idly(context: &mut Context) -> Result<(), Failure> {
    let options = VarOptions::new().idle_limit(SHORT);
    for round in 0..2 {
        // It takes longer than the limit, and does not expire meanwhile.
        let value = NUMBER.get_or_compute_with(context, options, |context| {
            context.wait_any_timeout(&[], 3 * SHORT)?;
            Ok::<_, NamedError>(round)
        });
        assert_eq!(value, Ok(round));
        // It does after that, and so is made anew in the next round.
        while let Ok(version) = NUMBER.version(context) {
            context.wait_any(&[NUMBER.newer_than(version)])?;
        }
        assert_eq!(NUMBER.get(context), Err(missing("variable `number`")));
    }
    Ok(())
}

fn a_read_only_variable_without_a_creator_is_not_waited_for<P: Platform>() {
    play::<P>(orphaned);
}

fn orphaned(context: &mut Context) -> Result<(), Failure> {
    let none = missing("variable `number`");
    assert_eq!(played(context, vec![Step::CreateReadOnly])?, ["true"]);
    assert_eq!(NUMBER.get(context), Err(none.clone()), "nobody could set it");
    // Who waits for its value hears that there will be none.
    let makes = context.start(&PLAY, vec![Step::CreateReadOnly, Step::Tell(1), Step::Await(2)])?;
    await_told(context, 1)?;
    tell(context, 2)?;
    assert_eq!(NUMBER.wait(context), Err(none));
    context.join(makes)?;
    // With a value it stays.
    assert_eq!(played(context, vec![Step::CreateReadOnly, Step::Set(5)])?, ["true", "()"]);
    assert_eq!(NUMBER.get(context), Ok(5));
    assert!(matches!(NUMBER.delete(context), Err(NamedError::NoPermission { owner: None, .. })));
    Ok(())
}

fn who_has_heard_that_it_should_stop_may_be_in_a_circle<P: Platform>() {
    play::<P>(heard_stop);
}

fn heard_stop(context: &mut Context) -> Result<(), Failure> {
    let guard = OTHER.lock(context)?;
    let steps = vec![lock("lock"), Step::AwaitStop(1), Step::Tell(2), lock("other")];
    let stops = context.start(&PLAY, steps)?;
    await_told(context, 1)?;
    // It will not be killed in time to end this.
    context.terminate(stops, LONG)?;
    await_told(context, 2)?;
    let refused = match LOCK.lock(context) {
        Err(NamedError::Deadlock { holder, .. }) => {
            assert_eq!(holder, stops.number());
            true
        }
        other => {
            drop(other?);
            false
        }
    };
    drop(guard);
    let told = context.join(stops)?;
    assert_eq!(told[3].contains("mutex `other` would never end: worker 0"), !refused, "{told:?}");
    Ok(())
}

/// A worker that holds one mutex and waits for another is ended; who holds that gets the one, and is not told of a circle.
fn die_in_circles(
    context: &mut Context,
    mut end: impl FnMut(&mut Context, WorkerId<Vec<String>>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    const ROUNDS: u64 = 6;
    let mut refused = 0;
    for round in 0..ROUNDS {
        let guard = OTHER.lock(context)?;
        let steps = vec![lock("lock"), Step::TellProcess, Step::Tell(round), lock("other")];
        let dies = context.start(&PLAY, steps)?;
        await_told(context, round)?;
        dally(context)?;
        end(context, dies)?;
        let mut result = LOCK.lock(context);
        if matches!(result, Err(NamedError::Deadlock { .. })) {
            refused += 1;
        }
        while matches!(result, Err(NamedError::Deadlock { .. })) {
            result = LOCK.lock(context);
        }
        assert!(result?.was_abandoned(), "round {round}");
        drop(guard);
        let ended = context.join(dies);
        assert!(matches!(ended, Err(JoinError::Killed { .. })), "{ended:?}");
        NUMBER.delete(context)?;
    }
    // One that takes very long to die, on a machine that has no time for it, is taken for one that does not.
    assert!(refused < ROUNDS / 2, "{refused} times");
    Ok(())
}

fn who_dies_by_a_signal_is_in_no_circle<P: Platform>() {
    play::<P>(dying);
}

fn dying(context: &mut Context) -> Result<(), Failure> {
    die_in_circles(context, |context, worker| {
        assert!(context.signal(worker, 15)?);
        Ok(())
    })
}

fn who_is_killed_from_outside_is_in_no_circle<P: Platform>() {
    play::<P>(killed_outside);
}

fn killed_outside(context: &mut Context) -> Result<(), Failure> {
    die_in_circles(context, |context, _| {
        let process = Pid::from_raw(NUMBER.get(context)? as i32).unwrap();
        Ok(kill_process(process, Signal::KILL)?)
    })
}

/// A process that a worker forks by itself is no worker, though it has all that the worker had.
fn a_process_of_a_worker_unlocks_nothing<P: Platform>() {
    play::<P>(forking);
}

fn forking(context: &mut Context) -> Result<(), Failure> {
    UNITS.create(context, 3)?;
    let (guard, permit) = (LOCK.lock(context)?, UNITS.acquire(context, 2)?);
    // SAFETY: this process has one thread.
    #[allow(unsafe_code)]
    let forked = unsafe { nix::unistd::fork() }?;
    match forked {
        ForkResult::Child => {
            drop((guard, permit));
            // SAFETY: what is left of this process needs no end in order: all of it is its parent's.
            #[allow(unsafe_code)]
            unsafe {
                nix::libc::_exit(0)
            }
        }
        ForkResult::Parent { child } => {
            nix::sys::wait::waitpid(child, None)?;
        }
    }
    assert!(matches!(LOCK.try_lock(context), Err(NamedError::LockedAlready { .. })));
    assert_eq!(UNITS.get(context), Ok(1));
    drop((guard, permit));
    assert!(LOCK.try_lock(context)?.is_some_and(|guard| !guard.was_abandoned()));
    assert_eq!(UNITS.get(context), Ok(3));
    Ok(())
}

/// What would fail at once is ready.
fn who_asks_for_another_type_need_not_wait<P: Platform>() {
    play::<P>(other_types);
}

fn other_types(context: &mut Context) -> Result<(), Failure> {
    NUMBER.create(context)?;
    let empty = Mailbox::<u64>::with_capacity("empty", 1);
    let full = Mailbox::<u64>::with_capacity("full", 1);
    empty.open(context)?;
    full.send(context, &1)?;
    let own = [NUMBER.newer_than(Version::UNSET), empty.receivable(), full.sendable()];
    assert_eq!(context.wait_any_timeout(&own, Duration::ZERO)?, None);
    for other in [
        SharedVar::<String>::new("number").newer_than(Version::UNSET),
        Mailbox::<String>::with_capacity("empty", 1).receivable(),
        Mailbox::<u64>::with_capacity("empty", 2).receivable(),
        Mailbox::<String>::with_capacity("full", 1).sendable(),
        Mailbox::<u64>::with_capacity("full", 2).sendable(),
    ] {
        let list = [own[0].clone(), other.clone()];
        assert_eq!(context.wait_any_timeout(&list, Duration::ZERO)?, Some(1), "{other:?}");
        let watch = context.watch_for(&other)?;
        poll_single(context.as_fd(), Interest::READ, None)?;
        assert_eq!(context.next_ready()?, Some(watch));
    }
    Ok(())
}

fn units_can_be_given_back_below_none<P: Platform>() {
    play::<P>(below_none);
}

fn below_none(context: &mut Context) -> Result<(), Failure> {
    UNITS.create_with(context, SemaphoreOptions::new(2).maximum(2).protected())?;
    UNITS.decrement(context, 2)?;
    let gives = context.start(&PLAY, vec![Step::Increment(2), Step::Tell(1), Step::Await(2)])?;
    await_told(context, 1)?;
    UNITS.decrement(context, 2)?;
    tell(context, 2)?;
    context.join(gives)?;
    // This worker has taken 4, of which 2 are no more.
    assert_eq!(UNITS.get(context), Ok(0));
    assert!(matches!(UNITS.increment(context, 5), Err(NamedError::OverMaximum { units: 3, maximum: 2, .. })));
    assert_eq!(UNITS.increment(context, 1), Ok(0), "it is one less below");
    assert_eq!(UNITS.increment(context, 3), Ok(2));
    assert_eq!(UNITS.get(context), Ok(2));
    Ok(())
}

/// Who cleans up in a destructor, and locks a mutex for that, has not been disturbed there.
fn a_guard_in_a_panic_is_not_abandoned<P: Platform>() {
    play::<P>(guards_in_panics);
}

struct LocksInTheEnd<'c>(&'c mut Context);

impl Drop for LocksInTheEnd<'_> {
    fn drop(&mut self) {
        drop(LOCK.lock(self.0).unwrap());
    }
}

fn guards_in_panics(context: &mut Context) -> Result<(), Failure> {
    let other = OTHER.lock(context)?;
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _cleans = LocksInTheEnd(context);
        let _disturbed = other;
        panic!("as told");
    }));
    assert!(caught.is_err());
    assert!(!LOCK.lock(context)?.was_abandoned());
    assert!(OTHER.lock(context)?.was_abandoned(), "this one was locked before");
    Ok(())
}

/// A thread that is killed unwinds, and gives nothing back by that either.
fn units_are_gone_with_who_is_killed<P: Platform>() {
    play::<P>(killed_with_units);
}

fn killed_with_units(context: &mut Context) -> Result<(), Failure> {
    for (round, signal) in [(1, 9), (2, 15)] {
        UNITS.create(context, 3)?;
        let dies = context.start(&PLAY, vec![Step::Acquire(2), Step::Tell(round), Step::Stay])?;
        await_told(context, round)?;
        context.signal(dies, signal)?;
        let ended = context.join(dies);
        assert!(matches!(ended, Err(JoinError::Killed { .. })), "{ended:?}");
        assert_eq!(UNITS.get(context), Ok(1), "signal {signal}");
        UNITS.destroy(context)?;
    }
    // Who fails by itself gives them back.
    UNITS.create(context, 3)?;
    let panics = context.start(&PLAY, vec![Step::Acquire(2), Step::Panic])?;
    assert!(matches!(context.join(panics), Err(JoinError::Panicked { .. })));
    assert_eq!(UNITS.get(context), Ok(3));
    Ok(())
}

/// A thread that is killed while it waits at an object can leave its place, and wait for another worker's end while it
/// unwinds. It is given nothing then, and the master is not confused by who seems to wait for whom.
fn who_is_killed_in_a_queue_and_joins_holds_nobody_up<P: Platform>() {
    play::<P>(killed_in_a_queue);
}

const WHO_LOCKS: SharedVar<WorkerId<Vec<String>>> = SharedVar::new("who locks");
const WHO_JOINS: SharedVar<WorkerId<()>> = SharedVar::new("who joins");

struct JoinsInTheEnd<'c>(&'c mut Context, WorkerId<()>);

impl Drop for JoinsInTheEnd<'_> {
    fn drop(&mut self) {
        // Where it is a process it does not come to this.
        let _ = self.0.join(self.1);
    }
}

fn joins_in_its_end(context: &mut Context) -> Result<(), Failure> {
    let other = WHO_JOINS.wait(context)?;
    tell(context, 1)?;
    let joins = JoinsInTheEnd(context, other);
    drop(LOCK.lock(joins.0)?);
    Ok(())
}

fn joins_who_locks(context: &mut Context) -> Result<(), Failure> {
    let other = WHO_LOCKS.wait(context)?;
    context.join(other)?;
    Ok(())
}

fn killed_in_a_queue(context: &mut Context) -> Result<(), Failure> {
    WHO_LOCKS.create(context)?;
    WHO_JOINS.create(context)?;
    let guard = LOCK.lock(context)?;
    let locks = context.start(&PLAY, vec![Step::Await(2), Step::Tell(3), lock("lock"), Step::Unlock])?;
    let joins = context.start(&BODY, index_of(joins_who_locks))?;
    let dies = context.start(&BODY, index_of(joins_in_its_end))?;
    WHO_LOCKS.set(context, &locks)?;
    WHO_JOINS.set(context, &joins)?;
    await_told(context, 1)?;
    dally(context)?;
    context.signal(dies, 15)?;
    dally(context)?;
    tell(context, 2)?;
    await_told(context, 3)?;
    dally(context)?;
    drop(guard);
    // All of them end. Whether one was told of a circle depends on who was faster.
    let _ = context.join(joins);
    assert!(matches!(context.join(dies), Err(JoinError::Killed { .. })));
    context.join(locks)?;
    assert!(LOCK.try_lock(context)?.is_some());
    Ok(())
}

fn guards_are_heard_of_at_the_end<P: Platform>() {
    let finish = |finished: &mut Finished<'_>, _: Result<Vec<String>, JoinError>| {
        UNITS.create(finished, 3).unwrap();
        let guard = LOCK.try_lock(finished).unwrap();
        let permit = UNITS.try_acquire(finished, 2).unwrap();
        let mut found = || match &finished.objects()[..] {
            [ObjectInfo::Mutex { holder, .. }, ObjectInfo::Semaphore { units, .. }] => (*holder, *units),
            other => panic!("{other:?}"),
        };
        assert_eq!(found(), (Some(u64::MAX), 1));
        drop(guard);
        drop(permit);
        assert_eq!(found(), (None, 3));
    };
    leaving_nothing(|| runtime::<P>().run_then(&PLAY, vec![], finish).unwrap());
}

/// Numbers that look random.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    fn moment(&mut self) -> Duration {
        Duration::from_micros(self.below(3000))
    }
}

/// From which worker, and the how manieth.
type Letter = (u64, u64);

const LETTERS: Mailbox<Letter> = Mailbox::with_capacity("letters", 3);
const REPORTS: Mailbox<Letter> = Mailbox::with_capacity("reports", 1_000_000);
const OVER: SharedVar<bool> = SharedVar::new("over");
/// Who is in the section that the mutex protects, and the last fence.
const INSIDE: SharedVar<(u64, u64)> = SharedVar::new("inside");
const HAMMERS: u64 = 8;
const SEATS: u64 = 4;

/// Does everything at random until it is over. Tells how many letters it has sent.
const HAMMER: Worker<u64, u64> = Worker::fallible("hammer", |context, seed| {
    let mut random = Random(seed);
    let mut over = OVER.cached();
    let own = context.number();
    let mut sent = 0;
    while !*over.get(context)? {
        match random.below(5) {
            0 => {
                let guard = match random.below(3) {
                    0 => LOCK.try_lock(context)?,
                    1 => LOCK.lock_timeout(context, random.moment())?,
                    _ => Some(LOCK.lock(context)?),
                };
                if let Some(guard) = guard {
                    let (inside, fence) = INSIDE.get(context)?;
                    assert!(inside == 0 || guard.was_abandoned(), "worker {inside} is inside");
                    assert!(guard.fence() > fence);
                    INSIDE.set(context, &(own, guard.fence()))?;
                    assert_eq!(INSIDE.get(context)?, (own, guard.fence()));
                    INSIDE.set(context, &(0, guard.fence()))?;
                }
            }
            1 => {
                let units = 1 + random.below(3);
                let permit = match random.below(3) {
                    0 => UNITS.try_acquire(context, units)?,
                    1 => UNITS.acquire_timeout(context, units, random.moment())?,
                    _ => Some(UNITS.acquire(context, units)?),
                };
                assert!(UNITS.get(context)? <= SEATS - permit.map_or(0, |permit| permit.units()));
            }
            2 | 3 if seed % 2 == 0 => {
                let letter = (own, sent);
                let accepted = match random.below(2) {
                    0 => LETTERS.try_send(context, &letter)?,
                    _ => LETTERS.send_timeout(context, &letter, random.moment())?,
                };
                sent += u64::from(accepted);
            }
            2 | 3 => {
                let letter = match random.below(2) {
                    0 => LETTERS.try_receive(context)?,
                    _ => LETTERS.receive_timeout(context, random.moment())?,
                };
                if let Some(letter) = letter {
                    REPORTS.send(context, &letter)?;
                }
            }
            _ => {
                let list = [LETTERS.receivable(), UNITS.available(2), LOCK.unlocked()];
                context.wait_any_timeout(&list, random.moment())?;
            }
        }
    }
    Ok(sent)
});

/// Workers that do everything with everything, and are killed at random moments: one is inside at most, units are neither
/// made nor lost, letters come in order and once, and are lost only with who has received them.
fn killed_workers_hammer_on_everything<P: Platform>() {
    play::<P>(hammering);
}

fn hammering(context: &mut Context) -> Result<(), Failure> {
    let seconds = std::env::var("MANYCORE_TORTURE_SECONDS").ok().and_then(|text| text.parse().ok());
    let end = Instant::now() + Duration::from_secs_f64(seconds.unwrap_or(10.0) / 3.0);
    let seed = RandomState::new().build_hasher().finish();
    eprintln!("seed {seed}");
    let mut random = Random(seed);
    UNITS.create_with(context, SemaphoreOptions::new(SEATS).maximum(SEATS).protected())?;
    INSIDE.create_with(context, VarOptions::new().value(&(0, 0)))?;
    OVER.create_with(context, VarOptions::new().value(&false))?;
    LETTERS.open(context)?;
    REPORTS.open(context)?;
    let mut workers =
        context.start_all(&HAMMER, (0..HAMMERS).map(|number| number + 8 * random.below(1000)))?;
    let mut letters = Vec::new();
    let mut killed_receivers = 0;
    while Instant::now() < end {
        while let Some(letter) = REPORTS.receive_timeout(context, random.moment())? {
            letters.push(letter);
            if random.below(50) == 0 {
                break;
            }
        }
        let index = random.below(HAMMERS);
        let worker = &mut workers[index as usize];
        context.signal(*worker, 9)?;
        match context.join(*worker) {
            Err(JoinError::Killed { .. }) => killed_receivers += usize::from(index % 2 == 1),
            other => panic!("{other:?}"),
        }
        *worker = context.start(&HAMMER, index + 8 * random.below(1000))?;
    }
    OVER.set(context, &true)?;
    let sent: BTreeMap<u64, u64> = workers
        .iter()
        .map(|worker| Ok((worker.number(), context.join(*worker)?)))
        .collect::<Result<_, JoinError>>()?;
    while let Some(letter) = REPORTS.try_receive(context)? {
        letters.push(letter);
    }
    while let Some(letter) = LETTERS.try_receive(context)? {
        letters.push(letter);
    }
    assert_eq!(UNITS.get(context)?, SEATS);
    assert!(LOCK.try_lock(context)?.is_some());
    let mut from: BTreeMap<u64, Vec<u64>> = sent.keys().map(|sender| (*sender, Vec::new())).collect();
    for (sender, number) in &letters {
        from.entry(*sender).or_default().push(*number);
    }
    let mut lost = 0;
    for (sender, mut numbers) in from {
        let count = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), count, "a letter of worker {sender} came twice");
        // The last of one that was killed may have been sent, or not.
        let all = sent.get(&sender).copied().unwrap_or(numbers.last().map_or(0, |last| last + 1));
        assert!(numbers.iter().all(|number| *number < all), "what was not sent came");
        lost += all as usize - count;
    }
    assert!(lost <= killed_receivers, "{lost} lost by {killed_receivers} that were killed");
    assert!(letters.len() > 10, "{}", letters.len());
    Ok(())
}
