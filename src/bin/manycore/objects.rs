//! `objects`: the named objects of all runs, and who waits at them.
//!
//! This module only looks: it changes no object, and takes nothing out of a mailbox.

use manycore::admin::{AdminError, ObjectInfo};
use serde::Serialize;

use crate::output::{Output, Table, bytes, plain};
use crate::{Common, Failure, code_of};

#[derive(Serialize)]
struct Runs {
    runs: Vec<Run>,
}

#[derive(Serialize)]
struct Run {
    directory: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    objects: Option<Vec<View>>,
}

/// An object, with its kind beside what there is to say of it.
#[derive(Serialize)]
struct View {
    kind: &'static str,
    #[serde(flatten)]
    object: serde_json::Value,
    #[serde(skip)]
    cells: [String; 4],
}

pub(crate) fn objects(common: &Common, output: &mut Output) -> Result<(), Failure> {
    let mut runs = Vec::new();
    let mut code = 0;
    for run in common.runs() {
        let directory = run.directory().to_string_lossy().into_owned();
        match run.connect_within(common.timeout).and_then(|mut visitor| visitor.objects()) {
            Ok(objects) => {
                let objects = Some(objects.iter().filter_map(view).collect());
                runs.push(Run { directory, error: None, objects });
            }
            // It has ended since it was found.
            Err(AdminError::NotRunning { .. } | AdminError::Closed { .. }) if common.directory.is_none() => {}
            Err(error) => {
                eprintln!("manycore: {error}");
                code = code_of(&error);
                runs.push(Run { directory, error: Some(error.to_string()), objects: None });
            }
        }
    }
    let is_empty = runs.is_empty();
    if output.is_json() {
        output.json(&Runs { runs: std::mem::take(&mut runs) })?;
    }
    for (index, Run { directory, objects, .. }) in runs.into_iter().enumerate() {
        let Some(objects) = objects else { continue };
        let gap = if index > 0 { "\n" } else { "" };
        output.text(&format!("{gap}objects of the run in {}\n", plain(&directory)))?;
        let mut table = Table::new(["KIND", "NAME", "STATE", "HELD BY", "WAITING"]);
        for View { kind, cells: [name, state, holder, waiting], .. } in objects {
            table.row([kind.to_owned(), name, state, holder, waiting]);
        }
        output.text(&table.finish())?;
    }
    match code {
        0 if is_empty => Err(Failure::NoRun),
        0 => Ok(()),
        code => Err(Failure::Told(code)),
    }
}

/// What is shown of an object; `None` of a kind that this program does not know.
fn view(object: &ObjectInfo) -> Option<View> {
    let nobody = || "-".to_owned();
    let worker = |number: &Option<u64>| number.map_or_else(nobody, |number| format!("worker {number}"));
    let (kind, cells) = match object {
        ObjectInfo::Variable { name, type_name, version, bytes: size, owner, constant, waiters, .. } => {
            let value = if size.is_some() { bytes(*size) } else { "no value".to_owned() };
            let constant = if *constant { ", constant" } else { "" };
            let state = format!("{type_name}, {value}, version {version}{constant}");
            ("variable", [name.clone(), state, worker(owner), list(waiters)])
        }
        ObjectInfo::Mutex { name, holder, waiters, .. } => {
            let state = if holder.is_some() { "locked" } else { "free" };
            ("mutex", [name.clone(), state.to_owned(), worker(holder), list(waiters)])
        }
        ObjectInfo::Semaphore { name, units, maximum, protected, waiters, .. } => {
            let maximum = maximum.map_or_else(String::new, |maximum| format!(" of {maximum}"));
            let protected = if *protected { ", protected" } else { "" };
            let state = format!("{units}{maximum} units{protected}");
            ("semaphore", [name.clone(), state, nobody(), list(waiters)])
        }
        ObjectInfo::Mailbox {
            name,
            type_name,
            messages,
            capacity,
            bytes: size,
            closed,
            senders,
            receivers,
            ..
        } => {
            let closed = if *closed { ", closed" } else { "" };
            let state =
                format!("{type_name}, {messages} of {capacity} messages, {}{closed}", bytes(Some(*size)));
            let waiting = match (&senders[..], &receivers[..]) {
                ([], []) => nobody(),
                (_, []) => format!("to send: {}", list(senders)),
                ([], _) => format!("to receive: {}", list(receivers)),
                _ => format!("to send: {}; to receive: {}", list(senders), list(receivers)),
            };
            ("mailbox", [name.clone(), state, nobody(), waiting])
        }
        _ => return None,
    };
    // serde names the kind around what there is to say.
    let object = serde_json::to_value(object).ok()?.as_object()?.values().next()?.clone();
    Some(View { kind, object, cells })
}

/// The numbers of workers.
fn list(workers: &[u64]) -> String {
    match workers {
        [] => "-".to_owned(),
        some => some.iter().map(ToString::to_string).collect::<Vec<String>>().join(" "),
    }
}
