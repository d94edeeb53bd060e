//! Workers that die at each step of an operation, or break the rules of the link.

use super::*;

/// Has a worker that does these steps die at each of its checkpoints, one after the other, until it lives to the end; and
/// looks each time at what is left.
pub(super) fn die_at_every_step(
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

pub(super) fn a_receiver_dies_at_every_step<P: Platform>() {
    play::<P>(receivers_deaths);
}

pub(super) fn receivers_deaths(context: &mut Context) -> Result<(), Failure> {
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

pub(super) fn a_sender_dies_at_every_step<P: Platform>() {
    play::<P>(senders_deaths);
}

pub(super) fn senders_deaths(context: &mut Context) -> Result<(), Failure> {
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

pub(super) fn a_holder_dies_at_every_step<P: Platform>() {
    play::<P>(holders_deaths);
}

pub(super) fn holders_deaths(context: &mut Context) -> Result<(), Failure> {
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

pub(super) fn a_taker_dies_at_every_step<P: Platform>() {
    play::<P>(takers_deaths);
}

pub(super) fn takers_deaths(context: &mut Context) -> Result<(), Failure> {
    UNITS.create_with(context, SemaphoreOptions::new(4).protected())?;
    let steps = [Step::Decrement(2), Step::Acquire(1), Step::Increment(3), Step::Decrement(1)];
    die_at_every_step(context, &steps, |context, _| {
        assert_eq!(UNITS.get(context), Ok(4));
        Ok(())
    })
}

pub(super) fn a_setter_dies_at_every_step<P: Platform>() {
    play::<P>(setters_deaths);
}

pub(super) fn setters_deaths(context: &mut Context) -> Result<(), Failure> {
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

/// What is no message, of another version, or longer than may be, ends the link of who says it, and nothing else.
pub(super) fn who_talks_nonsense_harms_nobody<P: Platform>() {
    play::<P>(nonsense);
}

pub(super) fn nonsense(context: &mut Context) -> Result<(), Failure> {
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
pub(super) fn a_stopped_worker_stalls_nobody<P: Platform>() {
    play::<P>(stopped);
}

pub(super) fn stopped(context: &mut Context) -> Result<(), Failure> {
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
