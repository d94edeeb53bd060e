//! Handlers are called in every child of `Fork`, in their order, once, and never in the parent.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use manycore_backends::posix::post_fork::{Registration, register, run};
use manycore_backends::testing::spawn::open_descriptors;

use crate::{blocked, in_a_unit, pipe, read_all, standard_error_of, unit, well, write_all};

crate::tests! {
    handlers_are_called_in_order_once_and_before_run
    removed_handler_is_not_called
    handlers_are_not_called_in_the_parent
    unit_of_a_unit_calls_them_too
    kept_handler_stays
    panicking_handler_is_reported_and_survived
    handler_may_register_and_remove
    owner_of_a_registration_may_be_a_handler
    descriptors_are_closed_and_signals_reset_before
    registration_says_its_name
}

/// What happened in this process, and before the fork in its parents.
static SEEN: Mutex<Vec<&str>> = Mutex::new(Vec::new());

fn note(what: &'static str) {
    SEEN.lock().unwrap().push(what);
}

fn seen() -> Vec<&'static str> {
    std::mem::take(&mut SEEN.lock().unwrap())
}

fn handlers_are_called_in_order_once_and_before_run() {
    let (reader, writer) = pipe();
    let registrations: Vec<Registration> = ["c", "a", "b"]
        .into_iter()
        .map(|name| {
            let writer = writer.clone();
            register(name, move || write_all(&writer, name))
        })
        .collect();
    let given = writer.clone();
    let child = unit(&[&writer], move || write_all(&given, ", run"));
    drop((registrations, writer));
    assert_eq!(read_all(&reader), "cab, run");
    well(&child);
}

fn removed_handler_is_not_called() {
    let _first = register("first", || note("first"));
    let second = register("second", || note("second"));
    let _third = register("third", || note("third"));
    drop(second);
    in_a_unit(|| assert_eq!(seen(), ["first", "third"]));
}

fn handlers_are_not_called_in_the_parent() {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    let registration = register("count", || {
        CALLS.fetch_add(1, Ordering::Relaxed);
    });
    in_a_unit(|| assert_eq!(CALLS.load(Ordering::Relaxed), 1));
    assert_eq!(CALLS.load(Ordering::Relaxed), 0);
    drop(registration);
    in_a_unit(|| assert_eq!(CALLS.load(Ordering::Relaxed), 0));
}

fn unit_of_a_unit_calls_them_too() {
    let _registration = register("outer", || note("outer"));
    in_a_unit(|| {
        let _registration = register("inner", || note("inner"));
        assert_eq!(seen(), ["outer"]);
        in_a_unit(|| assert_eq!(seen(), ["outer", "inner"]));
        assert!(seen().is_empty());
    });
    // What a child registers is the child's.
    in_a_unit(|| assert_eq!(seen(), ["outer"]));
}

fn kept_handler_stays() {
    in_a_unit(|| {
        register("kept", || note("kept")).keep();
        in_a_unit(|| assert_eq!(seen(), ["kept"]));
    });
}

fn panicking_handler_is_reported_and_survived() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("dropped");
        }
    }
    let text = standard_error_of(|| {
        std::panic::set_hook(Box::new(|_| ()));
        let _literal = register("literal", || panic!("out of cheese"));
        let number = 3;
        let _formatted = register("formatted", move || panic!("out of {number} cheeses"));
        let _bomb = register("bomb", || std::panic::panic_any(Bomb));
        let _last = register("last", || note("last"));
        in_a_unit(|| assert_eq!(seen(), ["last"]));
    });
    let expected = "post-fork handler \"literal\" panicked: out of cheese\n\
                    post-fork handler \"formatted\" panicked: out of 3 cheeses\n\
                    post-fork handler \"bomb\" panicked: no message\n";
    assert_eq!(text, expected);
}

fn handler_may_register_and_remove() {
    static OTHER: Mutex<Option<Registration>> = Mutex::new(None);
    in_a_unit(|| {
        let _first = register("first", || {
            note("first");
            drop(OTHER.lock().unwrap().take());
            register("late", || note("late")).keep();
        });
        *OTHER.lock().unwrap() = Some(register("other", || note("other")));
        let _last = register("last", || note("last"));
        in_a_unit(|| {
            // Not the removed one, and not the new one yet.
            assert_eq!(seen(), ["first", "last"]);
            run();
            assert_eq!(seen(), ["first", "last", "late"]);
        });
    });
}

fn owner_of_a_registration_may_be_a_handler() {
    in_a_unit(|| {
        let inner = register("inner", || note("inner"));
        let outer =
            register("outer", move || note(if format!("{inner:?}").is_empty() { "" } else { "outer" }));
        run();
        assert_eq!(seen(), ["inner", "outer"]);
        // Dropping the outer one drops the inner one, without the list being locked.
        drop(outer);
        run();
        assert!(seen().is_empty());
    });
}

fn descriptors_are_closed_and_signals_reset_before() {
    static STATE: Mutex<Option<(BTreeSet<i32>, String)>> = Mutex::new(None);
    let _other = pipe();
    let _look = register("look", || *STATE.lock().unwrap() = Some((open_descriptors(), blocked())));
    in_a_unit(|| {
        let (descriptors, blocked) = STATE.lock().unwrap().take().expect("the handler was called");
        assert_eq!(descriptors, BTreeSet::from([0, 1, 2]));
        assert_eq!(blocked, "SigBlk:\t0000000000000000");
    });
}

fn registration_says_its_name() {
    assert_eq!(format!("{:?}", register("who", || ())), "Registration(\"who\")");
}
