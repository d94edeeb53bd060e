//! Mailboxes: order, room, and their ends.

use super::*;

pub(super) fn messages_come_in_order_and_once<P: Platform>() {
    play::<P>(messages);
}

pub(super) fn messages(context: &mut Context) -> Result<(), Failure> {
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

pub(super) fn a_mailbox_is_opened_before_anything_was_sent<P: Platform>() {
    play::<P>(opening);
}

pub(super) fn opening(context: &mut Context) -> Result<(), Failure> {
    assert_eq!(BOX.open(context), Ok(true));
    assert_eq!(BOX.open(context), Ok(false));
    let receives = context.start(&PLAY, vec![Step::Receive])?;
    BOX.send(context, &8)?;
    assert_eq!(context.join(receives)?, ["8"]);
    Ok(())
}

pub(super) fn a_closed_mailbox_is_emptied<P: Platform>() {
    play::<P>(closing);
}

pub(super) fn closing(context: &mut Context) -> Result<(), Failure> {
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

pub(super) fn a_deleted_mailbox_wakes_everyone<P: Platform>() {
    play::<P>(deleting);
}

pub(super) fn deleting(context: &mut Context) -> Result<(), Failure> {
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
