//! What runs in a worker's process around its function: it fetches what to do, does it, and tells the master
//! how that ended, also if it panicked.
//!
//! This module does not exit the process; it returns the exit code to the spawner.

use std::any::Any;
use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

use manycore_backends::transport::Endpoint;

use super::{Context, Outcome, Registry};
use crate::wire::{Reply, Request, ToMaster, ToWorker};

/// The exit code of a worker that panicked; the same as that of a Rust program.
const PANICKED: i32 = 101;

/// The exit code of a worker that could not even be told what to do.
const NO_ORDERS: i32 = 102;

/// The life of a worker, at the other end of `link`.
pub(crate) fn live<E: Endpoint<ToMaster, ToWorker>>(link: E, registry: &Registry) -> i32 {
    let Ok(ToWorker(Reply::Begin { id, name, argument, message_limit })) = link.receive(None) else {
        return NO_ORDERS;
    };
    let Some(erased) = registry.get(&name) else { return NO_ORDERS };
    let mut context = Context::new(id, name, message_limit, Box::new(link));
    let mut outcome = catch(|| erased(&mut context, &argument));
    let code = if matches!(outcome, Outcome::Panicked { .. }) { PANICKED } else { 0 };
    outcome.limit(message_limit);
    // Nobody is left to be told if the master is gone.
    if context.link().send(Request::Finished { outcome }).is_ok() { code } else { NO_ORDERS }
}

thread_local! {
    /// Where this thread panicked last.
    static LOCATION: RefCell<Option<String>> = const { RefCell::new(None) };
}

fn catch(body: impl FnOnce() -> Outcome) -> Outcome {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let location = info.location().map(ToString::to_string);
            LOCATION.with(|last| *last.borrow_mut() = location);
            previous(info);
        }));
    });
    LOCATION.with(|last| last.borrow_mut().take());
    // What the function has changed is thrown away with the process, or belongs to others who must be
    // prepared for its death anyhow.
    match panic::catch_unwind(AssertUnwindSafe(body)) {
        Ok(outcome) => outcome,
        Err(payload) => {
            let message = message(&*payload);
            // Dropping it could panic again.
            std::mem::forget(payload);
            Outcome::Panicked { message, location: LOCATION.with(|last| last.borrow_mut().take()) }
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
