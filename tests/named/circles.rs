//! Workers that wait for each other, or should not wait any more.

use super::*;

pub(super) fn circles_of_waiting_workers_are_broken<P: Platform>() {
    play::<P>(circles);
}

pub(super) fn circles(context: &mut Context) -> Result<(), Failure> {
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

pub(super) fn who_should_stop_waits_no_more<P: Platform>() {
    play::<P>(stopping);
}

/// A worker that waits for what does not come until it is asked to stop, and tells what it was told.
pub(super) fn wait_until_stopped(context: &mut Context, step: u64) -> Result<String, Failure> {
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

pub(super) const STOPPED: Worker<u64, String> = Worker::fallible("until stopped", wait_until_stopped);

pub(super) fn stopping(context: &mut Context) -> Result<(), Failure> {
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

/// Lets the others go on: what they asked before is likely to be with the master after this.
pub(super) fn dally(context: &mut Context) -> Result<(), NamedError> {
    for _ in 0..50 {
        SharedVar::<u64>::new("nobody's").delete(context)?;
    }
    Ok(())
}

pub(super) fn who_has_heard_that_it_should_stop_may_be_in_a_circle<P: Platform>() {
    play::<P>(heard_stop);
}

pub(super) fn heard_stop(context: &mut Context) -> Result<(), Failure> {
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
pub(super) fn die_in_circles(
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

pub(super) fn who_dies_by_a_signal_is_in_no_circle<P: Platform>() {
    play::<P>(dying);
}

pub(super) fn dying(context: &mut Context) -> Result<(), Failure> {
    die_in_circles(context, |context, worker| {
        assert!(context.signal(worker, 15)?);
        Ok(())
    })
}

pub(super) fn who_is_killed_from_outside_is_in_no_circle<P: Platform>() {
    play::<P>(killed_outside);
}

pub(super) fn killed_outside(context: &mut Context) -> Result<(), Failure> {
    die_in_circles(context, |context, _| {
        let process = Pid::from_raw(NUMBER.get(context)? as i32).unwrap();
        Ok(kill_process(process, Signal::KILL)?)
    })
}

/// A thread that is killed while it waits at an object can leave its place, and wait for another worker's end while it
/// unwinds. It is given nothing then, and the master is not confused by who seems to wait for whom.
pub(super) fn who_is_killed_in_a_queue_and_joins_holds_nobody_up<P: Platform>() {
    play::<P>(killed_in_a_queue);
}

pub(super) const WHO_LOCKS: SharedVar<WorkerId<Vec<String>>> = SharedVar::new("who locks");
pub(super) const WHO_JOINS: SharedVar<WorkerId<()>> = SharedVar::new("who joins");

pub(super) struct JoinsInTheEnd<'c>(&'c mut Context, WorkerId<()>);

impl Drop for JoinsInTheEnd<'_> {
    fn drop(&mut self) {
        // Where it is a process it does not come to this.
        let _ = self.0.join(self.1);
    }
}

pub(super) fn joins_in_its_end(context: &mut Context) -> Result<(), Failure> {
    let other = WHO_JOINS.wait(context)?;
    tell(context, 1)?;
    let joins = JoinsInTheEnd(context, other);
    drop(LOCK.lock(joins.0)?);
    Ok(())
}

pub(super) fn joins_who_locks(context: &mut Context) -> Result<(), Failure> {
    let other = WHO_LOCKS.wait(context)?;
    context.join(other)?;
    Ok(())
}

pub(super) fn killed_in_a_queue(context: &mut Context) -> Result<(), Failure> {
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
