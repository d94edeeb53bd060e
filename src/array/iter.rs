//! Walking over the elements that are set.
//!
//! This module does not take locks: whoever walks keeps the array locked.

use std::iter::FusedIterator;
use std::marker::PhantomData;

use manycore_backends::ShmBackend;

use super::{ArrayError, Result};
use crate::codec::{Decode, decode_all};
use crate::table;

/// All elements that are set; see [`ShmArray::iter`](super::ShmArray::iter). `G` is what keeps the array locked.
#[must_use = "iterators are lazy"]
pub struct Iter<'a, T, B: ShmBackend, G> {
    entries: table::Iter<'a, B, G>,
    length: u32,
    /// The words of an element, kept for the next one.
    buffer: Vec<u32>,
    element: PhantomData<fn() -> T>,
}

impl<'a, T, B: ShmBackend, G> Iter<'a, T, B, G> {
    pub(super) fn new(entries: table::Iter<'a, B, G>, length: u32) -> Self {
        Iter { entries, length, buffer: Vec::new(), element: PhantomData }
    }
}

impl<T, B: ShmBackend, G> std::fmt::Debug for Iter<'_, T, B, G> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Iter").finish_non_exhaustive()
    }
}

impl<T: Decode, B: ShmBackend, G> Iterator for Iter<'_, T, B, G> {
    type Item = Result<(u32, T)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let index = match self.entries.next_words(&mut self.buffer)? {
                Ok(key) => key as u32,
                Err(error) => return Some(Err(error.into())),
            };
            // The length itself is a binding, too.
            if index < self.length {
                let element = decode_all(&self.buffer).map_err(ArrayError::from);
                return Some(element.map(|element| (index, element)));
            }
        }
    }
}

impl<T: Decode, B: ShmBackend, G> FusedIterator for Iter<'_, T, B, G> {}
