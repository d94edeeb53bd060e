//! What runs in a worker around its function: it fetches what to do, does it, and tells the master how that ended, also
//! if it panicked.
//!
//! A member of a pool does many tasks, one after the other; the first that panics is its last, since what it has left
//! half done goes away with the process.
//!
//! This module does not exit the process; it returns the exit code to the spawner.

use std::any::Any;
use std::cell::RefCell;
use std::convert::Infallible;
use std::mem::{self, ManuallyDrop};
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Once};
use std::time::Instant;

use manycore_backends::spawn::{self, Spawner};
use manycore_backends::transport::Endpoint;
use serde_bytes::ByteBuf;

use super::workers::Erased;
use super::{Context, Outcome, Workers};
use crate::platform::{Platform, WorkerEnd};
use crate::wire::{self, Done, Given, Identity, Reply, Request, ToWorker};

/// The exit code of a worker that panicked; the same as that of a Rust program.
const PANICKED: i32 = 101;

/// The exit code of a worker that could not even be told what to do, or could not tell what it had done.
const NO_MASTER: i32 = 102;

/// Results of tasks that are sent together, in bytes: what is more goes in several messages.
const RESULTS_MAX: usize = 1 << 20;

/// The life of a worker, at the other end of `link`, from where its orders come if it has none yet.
pub(crate) fn live<P: Platform>(link: WorkerEnd<P>, workers: Arc<Workers>, orders: Option<Reply>) -> i32 {
    let is_process = <P::Spawn as Spawner<WorkerEnd<P>>>::PROCESSES;
    let orders = match orders {
        Some(orders) => Ok(orders),
        None => link.receive(None).map(|ToWorker(reply)| reply),
    };
    let (worker, argument, given) = match orders {
        Ok(Reply::Begin { worker, argument, given: Given(given) }) => (worker, Some(argument), given),
        Ok(Reply::Serve { worker }) => (worker, None, Ok(Vec::new())),
        _ => return NO_MASTER,
    };
    let (descriptors, lost) = match given {
        Ok(descriptors) => (descriptors, None),
        Err(error) => (Vec::new(), Some(error)),
    };
    let mut context = Context::new(worker, is_process, Box::new(link), descriptors);
    if let Some(error) = lost {
        let message = "there was no room for the descriptors that it was given".to_owned();
        return tell(&mut context, Outcome::Failed { message, causes: vec![error.to_string()] }, 0);
    }
    let code = match &argument {
        Some(argument) => work(&mut context, argument, &workers),
        None => serve(&mut context, &workers),
    };
    if is_process {
        // The system takes all of it back at once; and the master learns of the link's end and that of the process
        // together.
        mem::forget((context, argument, workers));
    }
    code
}

/// Does one thing.
fn work(context: &mut Context, argument: &[u8], workers: &Workers) -> i32 {
    let Identity { name, message_limit, .. } = context.identity();
    let (definition, message_limit) = (workers.get(name), *message_limit);
    let mut result = Vec::new();
    let mut outcome = match run(context, definition, workers, argument, &mut result) {
        Ok(()) => Outcome::Returned(ByteBuf::from(result)),
        Err(outcome) => outcome,
    };
    let code = if matches!(outcome, Outcome::Panicked { .. }) { PANICKED } else { 0 };
    outcome.limit(message_limit);
    tell(context, outcome, code)
}

/// Tells how it went, and returns the exit code.
fn tell(context: &mut Context, outcome: Outcome, code: i32) -> i32 {
    // Nobody is left to be told if the master is gone.
    if context.tell(Request::Finished { outcome }).is_ok() { code } else { NO_MASTER }
}

/// Does what comes, until the master says by the end of file that nothing more comes.
fn serve(context: &mut Context, workers: &Workers) -> i32 {
    let Identity { name, message_limit, .. } = context.identity();
    let (definition, message_limit) = (workers.get(name), *message_limit);
    while let Some((batch, count, arguments)) = context.next_tasks() {
        let mut failure = None;
        let began = Instant::now();
        let mut rest = &arguments[..];
        // A small result fits.
        let mut results = Vec::with_capacity(32);
        let mut done = 0;
        let mut told = 0;
        while done < count {
            let before = results.len();
            let mut outcome = Ok(());
            let argument = wire::take_part(&mut rest).unwrap_or_default();
            let size = wire::push_part(&mut results, message_limit, |results| {
                outcome = run(context, definition, workers, argument, results);
                Ok::<(), Infallible>(())
            });
            let Ok(size) = size;
            if outcome.is_ok() && size > message_limit {
                outcome = Err(Outcome::TooBig { size, limit: message_limit });
            }
            if let Err(mut outcome) = outcome {
                results.truncate(before);
                outcome.limit(message_limit);
                failure = Some(outcome);
                break;
            }
            // No message is larger than the largest result: what was before it goes first.
            if before > 0 && results.len() > RESULTS_MAX.min(message_limit) {
                let results = ByteBuf::from(results.drain(..before).collect::<Vec<u8>>());
                let piece = Done { batch, count: done - told, results, failure: None, last: false, busy: 0 };
                told = done;
                if context.tell(Request::Done(piece)).is_err() {
                    return NO_MASTER;
                }
            }
            done += 1;
        }
        let panicked = matches!(failure, Some(Outcome::Panicked { .. }));
        let piece = Done {
            batch,
            count: done - told,
            results: ByteBuf::from(results),
            failure,
            last: true,
            busy: u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX),
        };
        if context.tell(Request::Done(piece)).is_err() {
            return NO_MASTER;
        }
        if panicked {
            return PANICKED;
        }
    }
    0
}

/// Runs a definition, if there is one, and appends the result.
fn run(
    context: &mut Context,
    definition: Option<&Erased>,
    workers: &Workers,
    argument: &[u8],
    result: &mut Vec<u8>,
) -> Result<(), Outcome> {
    let outcome = match definition {
        None => Err(Outcome::Undefined { known: workers.names() }),
        Some(definition) => catch(|| definition(context, argument, result)),
    };
    // Who swallowed its own end has come to it now.
    spawn::checkpoint();
    outcome
}

thread_local! {
    /// As long as this thread runs a worker's function: where it panicked last, if it did. It has no destructor, since that
    /// would have to be announced for each worker; whoever puts something in takes it out.
    static LOCATION: RefCell<ManuallyDrop<Option<Option<String>>>> = const { RefCell::new(ManuallyDrop::new(None)) };
}

/// Runs a worker's function; a panic is its outcome. Only the end of the worker itself passes through.
fn catch(body: impl FnOnce() -> Result<(), Outcome>) -> Result<(), Outcome> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            LOCATION.with(|last| {
                if let Some(last) = &mut **last.borrow_mut() {
                    *last = info.location().map(ToString::to_string);
                }
            });
            previous(info);
        }));
    });
    LOCATION.with(|last| **last.borrow_mut() = Some(None));
    // What the function has changed is thrown away with the worker, or belongs to others who must be
    // prepared for its death anyhow.
    let result = panic::catch_unwind(AssertUnwindSafe(body));
    let location = LOCATION.with(|last| last.borrow_mut().take().flatten());
    match result {
        Ok(result) => result,
        Err(payload) if spawn::is_ending(&*payload) => panic::resume_unwind(payload),
        Err(payload) => {
            let message = message(&*payload);
            // Dropping it could panic again.
            mem::forget(payload);
            Err(Outcome::Panicked { message, location })
        }
    }
}

fn message(payload: &(dyn Any + Send)) -> String {
    if let Some(message) = payload.downcast_ref::<&str>() {
        (*message).to_owned()
    } else if let Some(message) = payload.downcast_ref::<String>() {
        message.clone()
    } else {
        "a value that is no text".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_kept() -> bool {
        LOCATION.with(|last| last.borrow().is_some())
    }

    #[test]
    fn a_panic_is_placed_and_nothing_of_it_is_kept() {
        let outcome = catch(|| panic!("over"));
        let Err(Outcome::Panicked { message, location: Some(location) }) = outcome else {
            panic!("{outcome:?}")
        };
        assert_eq!(message, "over");
        assert!(location.contains("child.rs"), "{location}");
        assert!(!is_kept());
        // One that the function catches itself is nobody else's concern.
        let caught = catch(|| {
            assert!(panic::catch_unwind(|| panic!("caught")).is_err());
            Ok(())
        });
        assert!(caught.is_ok());
        assert!(!is_kept());
    }

    #[test]
    fn a_panic_in_a_thread_without_a_worker_leaves_nothing() {
        assert!(catch(|| Ok(())).is_ok(), "the hook is there");
        assert!(panic::catch_unwind(|| panic!("elsewhere")).is_err());
        assert!(!is_kept());
    }
}
