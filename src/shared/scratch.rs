//! Room for the words of a value on its way into an object or out of it: each thread keeps some for the next one.
//!
//! This module does not know what the words are.

use std::cell::Cell;

use super::error::Result;

/// Words of room that a thread keeps at most.
const KEPT: usize = 1 << 14;

thread_local! {
    static WORDS: Cell<Vec<u32>> = const { Cell::new(Vec::new()) };
}

/// Does it with an empty vector, which may have room already. May be called within itself.
#[inline(always)]
pub(super) fn with_words<R>(body: impl FnOnce(&mut Vec<u32>) -> Result<R>) -> Result<R> {
    // A thread that is ending, or that is within this already, finds none.
    let mut words = WORDS.try_with(Cell::take).unwrap_or_default();
    words.clear();
    let outcome = body(&mut words);
    if words.capacity() <= KEPT {
        let _ = WORDS.try_with(|place| place.set(words));
    }
    outcome
}
