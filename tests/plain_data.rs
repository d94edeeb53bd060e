//! Handles of named objects are the same by what they say, workers' identifiers print as their numbers, and plain data comes
//! back from where serde has written it.

use std::collections::HashSet;
use std::hash::Hash;

use manycore::named::{Mutex, Semaphore, SemaphoreOptions};
use manycore::table::{Problem, Salvaged, Stat};
use manycore::{Heap, Mailbox, NoLock, Progress, SharedVar, ShmTable, TableOptions, WorkerId};
use serde::Serialize;
use serde::de::DeserializeOwned;

fn come_back<T: Serialize + DeserializeOwned>(value: &T) -> T {
    serde_json::from_str(&serde_json::to_string(value).unwrap()).unwrap()
}

/// The first two are the same, and no other is.
fn same<T: Eq + Hash + Clone + std::fmt::Debug>(handles: Vec<T>) {
    assert_eq!(handles[0], handles[1]);
    let all: HashSet<T> = handles.iter().cloned().collect();
    assert_eq!(all.len(), handles.len() - 1, "{handles:?}");
}

/// No value of it can be compared.
#[derive(Debug)]
struct Incomparable;

#[test]
fn handles_with_one_name_are_the_same() {
    same(vec![SharedVar::<Incomparable>::new("a"), SharedVar::named("a".to_owned()), SharedVar::new("b")]);
    same(vec![Mutex::new("a"), Mutex::named("a"), Mutex::new("b")]);
    same(vec![Semaphore::new("a"), Semaphore::named("a"), Semaphore::new("b")]);
    let with_room = |capacity| Mailbox::<Incomparable>::with_capacity("a", capacity);
    same(vec![with_room(1), with_room(0), with_room(2), Mailbox::with_capacity("b", 1)]);
    let options = SemaphoreOptions::new(1);
    same(vec![options, SemaphoreOptions::new(1), options.maximum(1), options.protected()]);
}

#[test]
fn the_identifier_of_a_worker_prints_as_its_number() {
    let worker: WorkerId<Incomparable> = serde_json::from_str("12").unwrap();
    assert_eq!(format!("{worker}|{worker:>4}|{worker:?}"), "12|  12|WorkerId(12)");
}

#[test]
fn figures_of_tables_and_pools_come_back() {
    let table: ShmTable<Heap, NoLock> = TableOptions::new().create_unique("plain-XXXXXX").unwrap();
    table.add(7, &[1, 2, 3]).unwrap();
    let stat: Stat = table.stat().unwrap();
    assert_eq!((stat.bindings, come_back(&stat)), (1, stat));
    let problem = Problem { at: 7, what: "odd".to_owned() };
    assert_eq!(come_back(&problem), problem);
    let saved: Salvaged = serde_json::from_value(serde_json::json!({
        "bindings": 1, "problems": [{ "at": 7, "what": "odd" }]
    }))
    .unwrap();
    assert_eq!(come_back(&saved), saved);
    assert_eq!((saved.bindings, &saved.problems[..]), (1, &[problem][..]));
    let progress: Progress =
        serde_json::from_str(r#"{ "done": 1, "failed": 2, "retried": 3, "replaced": 4, "total": 5 }"#)
            .unwrap();
    assert_eq!((come_back(&progress), progress.done, progress.total), (progress, 1, Some(5)));
}
