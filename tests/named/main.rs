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

#[path = "../census/mod.rs"]
mod census;
#[path = "../platforms/mod.rs"]
mod platforms;

mod circles;
mod deaths;
mod ends;
mod hammer;
mod mailboxes;
mod mutexes;
mod semaphores;
mod variables;
mod waiting;

use census::leaving_nothing;
use circles::*;
use deaths::*;
use ends::*;
use hammer::*;
use mailboxes::*;
use mutexes::*;
use platforms::on_all_platforms;
use semaphores::*;
use variables::*;
use waiting::*;

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
