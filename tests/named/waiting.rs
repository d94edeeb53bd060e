//! Several objects that are waited for at once.

use super::*;

pub(super) fn several_objects_are_waited_for_at_once<P: Platform>() {
    play::<P>(several);
}

pub(super) fn several(context: &mut Context) -> Result<(), Failure> {
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

pub(super) fn readiness_comes_by_a_descriptor<P: Platform>() {
    play::<P>(by_descriptor);
}

pub(super) fn by_descriptor(context: &mut Context) -> Result<(), Failure> {
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

pub(super) fn what_is_ready_is_seen_without_waiting<P: Platform>() {
    play::<P>(ready_already);
}

pub(super) fn ready_already(context: &mut Context) -> Result<(), Failure> {
    NUMBER.create_with(context, VarOptions::new().value(&1))?;
    for _ in 0..100 {
        let list = [BOX.receivable(), NUMBER.newer_than(Version::UNSET)];
        BOX.open(context)?;
        assert_eq!(context.wait_any_timeout(&list, Duration::ZERO)?, Some(1));
    }
    Ok(())
}

/// What would fail at once is ready.
pub(super) fn who_asks_for_another_type_need_not_wait<P: Platform>() {
    play::<P>(other_types);
}

pub(super) fn other_types(context: &mut Context) -> Result<(), Failure> {
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
