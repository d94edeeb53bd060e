//! Mutexes: holders, fences, and what is told of holders that died.

use super::*;

pub(super) fn a_mutex_is_locked_by_one<P: Platform>() {
    play::<P>(mutexes);
}

pub(super) fn mutexes(context: &mut Context) -> Result<(), Failure> {
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

pub(super) fn an_abandoned_mutex_is_told_of<P: Platform>() {
    play::<P>(abandoned);
}

pub(super) fn abandoned(context: &mut Context) -> Result<(), Failure> {
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

pub(super) fn a_dead_waiter_harms_nobody<P: Platform>() {
    play::<P>(dead_waiters);
}

pub(super) fn dead_waiters(context: &mut Context) -> Result<(), Failure> {
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
