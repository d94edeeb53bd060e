//! Groups that end in every way, beside a model: what a group did counts if, and only if, it succeeded.

use std::error::Error;
use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// How a group ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum End {
    Success,
    Failure,
    Panic,
}

/// Why a group failed.
#[derive(Debug)]
pub(crate) enum Failed<E> {
    OnPurpose,
    Otherwise(E),
}

impl<E: Error> From<E> for Failed<E> {
    fn from(error: E) -> Failed<E> {
        Failed::Otherwise(error)
    }
}

impl End {
    /// What the body of the group ends with.
    pub(crate) fn reach<E>(self) -> Result<(), Failed<E>> {
        match self {
            End::Success => Ok(()),
            End::Failure => Err(Failed::OnPurpose),
            End::Panic => resume_unwind(Box::new(End::Panic)),
        }
    }
}

/// Does a group, which is to end so, to the model that `run` is given; and expects that end.
pub(crate) fn expect<M: Clone, E: Error>(
    end: End,
    model: &mut M,
    run: impl FnOnce(&mut M) -> Result<(), Failed<E>>,
) {
    let mut changed = model.clone();
    let outcome = catch_unwind(AssertUnwindSafe(|| run(&mut changed)));
    match (end, outcome) {
        (End::Success, Ok(Ok(()))) => *model = changed,
        (End::Failure, Ok(Err(Failed::OnPurpose))) => {}
        (End::Panic, Err(payload)) if payload.downcast_ref() == Some(&End::Panic) => {}
        (_, Err(payload)) => resume_unwind(payload),
        (_, Ok(Err(Failed::Otherwise(error)))) => panic!("{error}"),
        (end, Ok(outcome)) => panic!("{end:?}: {outcome:?}"),
    }
}
