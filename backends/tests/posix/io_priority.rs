//! Priorities are what they were set to, also none.

use manycore_backends::posix::PosixError;
use manycore_backends::posix::io_priority::{IoLevel, IoPriority, Target, get, set};
use manycore_backends::posix::process::{set_real_and_effective_user, start_process_group, user};
use manycore_backends::spawn::Child;

use crate::{NOBODY, ORDINARY, am_root, held, in_a_unit, refused, well};

crate::tests! {
    every_priority_is_what_it_was_set_to
    none_is_really_none
    priority_of_another_process_is_set
    priority_of_a_group_is_the_most_urgent
    priority_of_a_user_can_be_asked
    nobody_has_none
    levels_are_checked_before
    priority_without_the_right_is_refused
}

fn level(number: u8) -> IoLevel {
    IoLevel::new(number).unwrap()
}

fn every_priority_is_what_it_was_set_to() {
    in_a_unit(|| {
        for number in 0..=7 {
            set(Target::OWN, IoPriority::BestEffort(level(number))).unwrap();
            assert_eq!(get(Target::OWN).unwrap(), IoPriority::BestEffort(level(number)));
            if am_root() {
                set(Target::OWN, IoPriority::RealTime(level(number))).unwrap();
                assert_eq!(get(Target::OWN).unwrap(), IoPriority::RealTime(level(number)));
            }
        }
        set(Target::OWN, IoPriority::Idle).unwrap();
        assert_eq!(get(Target::OWN).unwrap(), IoPriority::Idle);
        assert_eq!(get(Target::Process(Some(std::process::id()))).unwrap(), IoPriority::Idle);
        // Children begin with that of their parent.
        in_a_unit(|| assert_eq!(get(Target::OWN).unwrap(), IoPriority::Idle));
    });
}

fn none_is_really_none() {
    in_a_unit(|| {
        set(Target::OWN, IoPriority::BestEffort(level(3))).unwrap();
        set(Target::OWN, IoPriority::None).unwrap();
        assert_eq!(get(Target::OWN).unwrap(), IoPriority::None);
    });
}

fn priority_of_another_process_is_set() {
    let (child, hold) = held();
    let before = get(Target::OWN).unwrap();
    set(Target::Process(Some(child.id())), IoPriority::BestEffort(level(6))).unwrap();
    assert_eq!(get(Target::Process(Some(child.id()))).unwrap(), IoPriority::BestEffort(level(6)));
    assert_eq!(get(Target::OWN).unwrap(), before);
    drop(hold);
    well(&child);
}

fn priority_of_a_group_is_the_most_urgent() {
    in_a_unit(|| {
        start_process_group().unwrap();
        let (child, _hold) = held();
        set(Target::ProcessGroup(None), IoPriority::BestEffort(level(6))).unwrap();
        assert_eq!(get(Target::Process(Some(child.id()))).unwrap(), IoPriority::BestEffort(level(6)));
        set(Target::Process(Some(child.id())), IoPriority::BestEffort(level(2))).unwrap();
        assert_eq!(
            get(Target::ProcessGroup(Some(std::process::id()))).unwrap(),
            IoPriority::BestEffort(level(2))
        );
        assert_eq!(get(Target::OWN).unwrap(), IoPriority::BestEffort(level(6)));
    });
}

fn priority_of_a_user_can_be_asked() {
    get(Target::User(None)).unwrap();
    get(Target::User(Some(user()))).unwrap();
    in_a_unit(|| {
        if am_root() {
            set_real_and_effective_user(Some(ORDINARY), Some(ORDINARY)).unwrap();
        }
        // It would be answered with the caller's own.
        let error = refused(get(Target::User(Some(0))), libc::EINVAL);
        assert!(matches!(error, PosixError::Invalid { .. }), "{error:?}");
    });
}

fn nobody_has_none() {
    for target in [
        Target::Process(Some(NOBODY)),
        Target::Process(Some(0)),
        Target::Process(Some(u32::MAX)),
        Target::ProcessGroup(Some(NOBODY)),
        Target::User(Some(987_654_321)),
    ] {
        for result in [get(target).map(drop), set(target, IoPriority::Idle)] {
            let error = refused(result, libc::ESRCH);
            assert!(matches!(error, PosixError::NoSuchProcess { .. }), "{error:?}");
        }
    }
}

fn levels_are_checked_before() {
    assert_eq!(IoLevel::new(8), None);
    assert_eq!(IoLevel::new(9), None);
    assert_eq!(IoLevel::try_from(7).unwrap(), IoLevel::LOWEST);
    assert_eq!(IoLevel::HIGHEST.get(), 0);
    let error = refused(IoLevel::try_from(8), libc::EINVAL);
    assert_eq!(error.to_string(), "ioprio_set: levels are 0 to 7");
}

fn priority_without_the_right_is_refused() {
    let (child, _hold) = held();
    let other = child.id();
    in_a_unit(move || {
        if am_root() {
            set_real_and_effective_user(Some(ORDINARY), Some(ORDINARY)).unwrap();
            // A process of somebody else's.
            refused(set(Target::Process(Some(other)), IoPriority::Idle), libc::EPERM);
        }
        let error = refused(set(Target::OWN, IoPriority::RealTime(IoLevel::LOWEST)), libc::EPERM);
        assert!(matches!(error, PosixError::NotPermitted { .. }), "{error:?}");
    });
}
