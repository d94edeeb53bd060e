//! Semaphores: units, their queue, and what comes back.

use super::*;

pub(super) fn units_are_taken_and_given<P: Platform>() {
    play::<P>(semaphores);
}

pub(super) fn semaphores(context: &mut Context) -> Result<(), Failure> {
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

pub(super) fn the_queue_for_units_is_served_in_order<P: Platform>() {
    play::<P>(queueing);
}

pub(super) fn queueing(context: &mut Context) -> Result<(), Failure> {
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

pub(super) fn protected_units_come_back<P: Platform>() {
    play::<P>(protected);
}

pub(super) fn protected(context: &mut Context) -> Result<(), Failure> {
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

pub(super) fn a_destroyed_semaphore_wakes_everyone<P: Platform>() {
    play::<P>(destroying);
}

pub(super) fn destroying(context: &mut Context) -> Result<(), Failure> {
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

pub(super) fn an_old_permit_does_not_fill_a_new_semaphore<P: Platform>() {
    play::<P>(old_permits);
}

pub(super) fn old_permits(context: &mut Context) -> Result<(), Failure> {
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

pub(super) fn units_can_be_given_back_below_none<P: Platform>() {
    play::<P>(below_none);
}

pub(super) fn below_none(context: &mut Context) -> Result<(), Failure> {
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

/// A thread that is killed unwinds, and gives nothing back by that either.
pub(super) fn units_are_gone_with_who_is_killed<P: Platform>() {
    play::<P>(killed_with_units);
}

pub(super) fn killed_with_units(context: &mut Context) -> Result<(), Failure> {
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
