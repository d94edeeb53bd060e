//! Variables: values, versions, types, owners, limits, and values that are computed.

use super::*;

pub(super) fn a_variable_is_created_set_got_and_deleted<P: Platform>() {
    play::<P>(variables);
}

pub(super) fn variables(context: &mut Context) -> Result<(), Failure> {
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

pub(super) fn types_are_told_apart<P: Platform>() {
    play::<P>(types);
}

pub(super) fn types(context: &mut Context) -> Result<(), Failure> {
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
pub(super) struct Stubborn(bool);

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

pub(super) fn values_that_cannot_travel_are_refused<P: Platform>() {
    leaving_nothing(|| runtime::<P>().message_limit(1000).run(&BODY, index_of(untransportable)).unwrap());
}

pub(super) fn untransportable(context: &mut Context) -> Result<(), Failure> {
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

pub(super) fn names_are_checked<P: Platform>() {
    play::<P>(names);
}

pub(super) fn names(context: &mut Context) -> Result<(), Failure> {
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

pub(super) fn there_are_no_more_objects_than_may_be<P: Platform>() {
    leaving_nothing(|| runtime::<P>().object_limit(4).run(&BODY, index_of(many_objects)).unwrap());
}

pub(super) fn many_objects(context: &mut Context) -> Result<(), Failure> {
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

pub(super) fn an_owned_variable_goes_with_its_owner<P: Platform>() {
    play::<P>(owned);
}

pub(super) fn owned(context: &mut Context) -> Result<(), Failure> {
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

pub(super) fn a_read_only_variable_keeps_its_first_value<P: Platform>() {
    play::<P>(read_only);
}

pub(super) fn read_only(context: &mut Context) -> Result<(), Failure> {
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

pub(super) fn an_unused_variable_expires<P: Platform>() {
    play::<P>(expiring);
}

pub(super) fn expiring(context: &mut Context) -> Result<(), Failure> {
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

pub(super) fn a_value_is_waited_for<P: Platform>() {
    play::<P>(waiting);
}

pub(super) fn waiting(context: &mut Context) -> Result<(), Failure> {
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

pub(super) fn a_set_is_seen_by_who_keeps_a_value_at_hand<P: Platform>() {
    play::<P>(cached);
}

pub(super) fn cached(context: &mut Context) -> Result<(), Failure> {
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

pub(super) fn updates_are_not_lost<P: Platform>() {
    play::<P>(updating);
}

pub(super) fn updating(context: &mut Context) -> Result<(), Failure> {
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

pub(super) fn a_value_is_computed_once<P: Platform>() {
    play::<P>(computing);
}

pub(super) fn computing(context: &mut Context) -> Result<(), Failure> {
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

pub(super) fn who_fails_to_compute_is_replaced<P: Platform>() {
    play::<P>(failing_to_compute);
}

pub(super) fn failing_to_compute(context: &mut Context) -> Result<(), Failure> {
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

pub(super) fn who_would_wait_for_itself_is_told<P: Platform>() {
    play::<P>(computing_oneself);
}

pub(super) fn computing_oneself(context: &mut Context) -> Result<(), Failure> {
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

pub(super) fn nobody_is_told_for_a_value_that_was_kept_at_hand<P: Platform>() {
    play::<P>(dropped_cached);
}

pub(super) fn dropped_cached(context: &mut Context) -> Result<(), Failure> {
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

pub(super) fn a_computed_value_keeps_its_idle_limit<P: Platform>() {
    play::<P>(computing_idly);
}

pub(super) fn computing_idly(context: &mut Context) -> Result<(), Failure> {
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

pub(super) fn a_read_only_variable_without_a_creator_is_not_waited_for<P: Platform>() {
    play::<P>(orphaned);
}

pub(super) fn orphaned(context: &mut Context) -> Result<(), Failure> {
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
