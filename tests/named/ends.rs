//! Objects at the end of a run and in pools; guards that are dropped anywhere.

use super::*;

/// What a guard that is dropped in another thread, or after another one, or in a panic, does.
pub(super) fn a_guard_may_be_dropped_anywhere<P: Platform>() {
    play::<P>(guards);
}

pub(super) fn guards(context: &mut Context) -> Result<(), Failure> {
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

pub(super) fn everything_can_be_used_at_the_end<P: Platform>() {
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

pub(super) fn name_of(object: &ObjectInfo) -> String {
    match object {
        ObjectInfo::Variable { name, .. } => format!("variable {name}"),
        ObjectInfo::Mutex { name, .. } => format!("mutex {name}"),
        ObjectInfo::Semaphore { name, .. } => format!("semaphore {name}"),
        ObjectInfo::Mailbox { name, .. } => format!("mailbox {name}"),
        other => panic!("{other:?}"),
    }
}

pub(super) fn pools_have_named_objects<P: Platform>() {
    leaving_nothing(|| {
        let mut pool = Runtime::<P>::default().with_all(&workers()).pool(&PLAY).workers(2);
        pool.map([vec![Step::Create, Step::Set(0)]]).unwrap();
        let told = pool.map(vec![vec![Step::Add(1)]; 20]).unwrap();
        let mut sums: Vec<u64> = told.concat().iter().map(|number| number.parse().unwrap()).collect();
        sums.sort_unstable();
        assert_eq!(sums, (1..=20).collect::<Vec<u64>>());
    });
}

/// A process that a worker forks by itself is no worker, though it has all that the worker had.
pub(super) fn a_process_of_a_worker_unlocks_nothing<P: Platform>() {
    play::<P>(forking);
}

pub(super) fn forking(context: &mut Context) -> Result<(), Failure> {
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

/// Who cleans up in a destructor, and locks a mutex for that, has not been disturbed there.
pub(super) fn a_guard_in_a_panic_is_not_abandoned<P: Platform>() {
    play::<P>(guards_in_panics);
}

pub(super) struct LocksInTheEnd<'c>(&'c mut Context);

impl Drop for LocksInTheEnd<'_> {
    fn drop(&mut self) {
        drop(LOCK.lock(self.0).unwrap());
    }
}

pub(super) fn guards_in_panics(context: &mut Context) -> Result<(), Failure> {
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

pub(super) fn guards_are_heard_of_at_the_end<P: Platform>() {
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
