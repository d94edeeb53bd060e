//! A bounded queue without locks, for any number of threads at both ends, that can be closed to writers.
//!
//! | word | bits | holds |
//! |---|---|---|
//! | `head` | below `mark` | the slot to be read next |
//! | | from `lap` on | which round through the slots this is |
//! | `tail` | as `head` | the slot to be written next |
//! | | `mark` | nothing is written any more |
//! | stamp of a slot | as `head` | equal to `tail`: may be written; equal to `head` + 1: may be read |
//!
//! Who wants to write takes a slot by moving `tail` on, puts the message there, and then raises the stamp; reading is the
//! same with `head`. The mark is a bit of the word that writers change, so that no message comes behind it: a queue that
//! is empty and marked is at its end. Moving `head` and `tail` are the moments at which messages are counted, and they are
//! in one total order with what the ends do when they go to sleep.
//!
//! This module does not wait, but for a thread that has taken a slot and is on the way to raising its stamp.
//!
//! Source: D. Vyukov's bounded queue, and the mark in `tail` of crossbeam's array channel.
//!
//! # Safety
//!
//! A slot's value is touched only between moving `head` or `tail` over it, which one thread succeeds in, and raising its
//! stamp, which lets the next one in: the stamp is released by who was there and acquired by who comes. A value is there
//! from the raise by its writer to that by its reader.

#![allow(unsafe_code)]

use std::mem::{self, MaybeUninit};

use crate::sync::{AtomicUsize, Ordering, UnsafeCell, spin_loop, thread};

/// A word alone in its cache lines, of which processors fetch two.
#[repr(align(128))]
struct Alone<T>(T);

struct Slot<T> {
    stamp: AtomicUsize,
    value: UnsafeCell<MaybeUninit<T>>,
}

pub(super) struct Ring<T> {
    head: Alone<AtomicUsize>,
    tail: Alone<AtomicUsize>,
    slots: Box<[Slot<T>]>,
    /// The lowest bit of the round.
    lap: usize,
    mark: usize,
}

// SAFETY: values go from thread to thread, one at a time has each, as argued in the module's head.
unsafe impl<T: Send> Send for Ring<T> {}
// SAFETY: as above; no reference to a value is given out.
unsafe impl<T: Send> Sync for Ring<T> {}

/// Why a message was not taken.
pub(super) enum Refused {
    Full,
    Marked,
}

/// Why there is no message.
pub(super) enum Nothing {
    /// None yet.
    Empty,
    /// None any more.
    End,
}

/// Waits a little longer each time for another thread.
struct Backoff(u32);

impl Backoff {
    const MOST: u32 = 6;

    /// Somebody else was faster: try again soon.
    #[inline]
    fn spin(&mut self) {
        for _ in 0..1_u32 << self.0.min(Backoff::MOST) {
            spin_loop();
        }
        self.0 += 1;
    }

    /// Somebody else is on the way, and may not be running: let it.
    #[inline]
    fn give_way(&mut self) {
        if self.0 <= Backoff::MOST && !cfg!(loom) {
            self.spin();
        } else {
            thread::yield_now();
        }
    }
}

impl<T> Ring<T> {
    /// A queue for `capacity` messages: at least 1, at most a quarter of `usize`, and not more than there is memory for.
    pub(super) fn new(capacity: usize) -> Option<Ring<T>> {
        if !(1..=usize::MAX / 4).contains(&capacity) {
            return None;
        }
        let mark = (capacity + 1).next_power_of_two();
        let mut slots = Vec::new();
        slots.try_reserve_exact(capacity).ok()?;
        slots.extend((0..capacity).map(|index| Slot {
            stamp: AtomicUsize::new(index),
            value: UnsafeCell::new(MaybeUninit::uninit()),
        }));
        Some(Ring {
            head: Alone(AtomicUsize::new(0)),
            tail: Alone(AtomicUsize::new(0)),
            slots: slots.into_boxed_slice(),
            lap: mark * 2,
            mark,
        })
    }

    pub(super) fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// The word after this one, which has no mark.
    #[inline]
    fn next(&self, word: usize) -> usize {
        let index = word & (self.mark - 1);
        if index + 1 < self.slots.len() { word + 1 } else { (word & !(self.lap - 1)).wrapping_add(self.lap) }
    }

    #[inline]
    pub(super) fn push(&self, message: T) -> Result<(), (T, Refused)> {
        let mut backoff = Backoff(0);
        let mut tail = self.tail.0.load(Ordering::Relaxed);
        loop {
            if tail & self.mark != 0 {
                return Err((message, Refused::Marked));
            }
            let slot = &self.slots[tail & (self.mark - 1)];
            let stamp = slot.stamp.load(Ordering::Acquire);
            if stamp == tail {
                match self.tail.0.compare_exchange_weak(
                    tail,
                    self.next(tail),
                    Ordering::SeqCst,
                    Ordering::Relaxed,
                ) {
                    Ok(_) => {
                        // SAFETY: this thread has moved `tail` over the slot, and nobody else is let in before the
                        // stamp below.
                        slot.value.with_mut(|value| unsafe { value.write(MaybeUninit::new(message)) });
                        slot.stamp.store(tail + 1, Ordering::Release);
                        return Ok(());
                    }
                    Err(now) => {
                        tail = now;
                        backoff.spin();
                    }
                }
            } else if stamp.wrapping_add(self.lap) == tail + 1 {
                // It has the message of the round before: full, if nobody has taken that meanwhile.
                crate::sync::fence(Ordering::SeqCst);
                if self.head.0.load(Ordering::Relaxed).wrapping_add(self.lap) == tail {
                    return Err((message, Refused::Full));
                }
                backoff.give_way();
                tail = self.tail.0.load(Ordering::Relaxed);
            } else {
                backoff.give_way();
                tail = self.tail.0.load(Ordering::Relaxed);
            }
        }
    }

    #[inline]
    pub(super) fn pop(&self) -> Result<T, Nothing> {
        let mut backoff = Backoff(0);
        let mut head = self.head.0.load(Ordering::Relaxed);
        loop {
            let slot = &self.slots[head & (self.mark - 1)];
            let stamp = slot.stamp.load(Ordering::Acquire);
            if stamp == head + 1 {
                match self.head.0.compare_exchange_weak(
                    head,
                    self.next(head),
                    Ordering::SeqCst,
                    Ordering::Relaxed,
                ) {
                    Ok(_) => {
                        // SAFETY: this thread has moved `head` over the slot, in which the stamp says that there is a
                        // message, and nobody else is let in before the stamp below.
                        let message = slot.value.with_mut(|value| unsafe { value.read() });
                        slot.stamp.store(head.wrapping_add(self.lap), Ordering::Release);
                        // SAFETY: it was written in this round, as the stamp has said.
                        return Ok(unsafe { message.assume_init() });
                    }
                    Err(now) => {
                        head = now;
                        backoff.spin();
                    }
                }
            } else if stamp == head {
                // It was not written in this round: empty, if nobody is just about to.
                crate::sync::fence(Ordering::SeqCst);
                let tail = self.tail.0.load(Ordering::Relaxed);
                if tail & !self.mark == head {
                    return Err(if tail & self.mark == 0 { Nothing::Empty } else { Nothing::End });
                }
                backoff.give_way();
                head = self.head.0.load(Ordering::Relaxed);
            } else {
                backoff.give_way();
                head = self.head.0.load(Ordering::Relaxed);
            }
        }
    }

    /// Lets no more messages in. False if that was so before.
    pub(super) fn mark(&self) -> bool {
        self.tail.0.fetch_or(self.mark, Ordering::SeqCst) & self.mark == 0
    }

    pub(super) fn is_marked(&self) -> bool {
        self.tail.0.load(Ordering::SeqCst) & self.mark != 0
    }

    /// Whether a read would find a message or the end. A message that is counted may be on its way still.
    #[inline]
    pub(super) fn is_readable(&self) -> bool {
        let head = self.head.0.load(Ordering::SeqCst);
        // With the mark it is never equal.
        self.tail.0.load(Ordering::SeqCst) != head
    }

    /// Whether a write would find room or the mark. The room that is counted may have to be left still.
    #[inline]
    pub(super) fn is_writable(&self) -> bool {
        let tail = self.tail.0.load(Ordering::SeqCst);
        self.head.0.load(Ordering::SeqCst).wrapping_add(self.lap) != tail
    }

    /// Whether there is certainly a message to be read, at the price of looking at the slot that is read next; the word
    /// that writers change is left alone.
    #[inline]
    pub(super) fn has_next(&self) -> bool {
        let head = self.head.0.load(Ordering::Relaxed);
        self.slots[head & (self.mark - 1)].stamp.load(Ordering::Relaxed) == head + 1
    }

    /// Whether there is certainly room, at the price of looking at the slot that is written next.
    #[inline]
    pub(super) fn has_room(&self) -> bool {
        let tail = self.tail.0.load(Ordering::Relaxed);
        tail & self.mark == 0 && self.slots[tail & (self.mark - 1)].stamp.load(Ordering::Relaxed) == tail
    }

    /// How many messages are left behind the one that was just read, without looking at the word that writers change if it
    /// is none.
    pub(super) fn left(&self) -> usize {
        if self.has_next() { self.len() } else { 0 }
    }

    /// How much room is left behind the place that was just written, likewise.
    pub(super) fn room(&self) -> usize {
        if self.has_room() { self.capacity() - self.len() } else { 0 }
    }

    /// How many messages there are.
    pub(super) fn len(&self) -> usize {
        loop {
            let tail = self.tail.0.load(Ordering::SeqCst);
            let head = self.head.0.load(Ordering::SeqCst);
            if self.tail.0.load(Ordering::SeqCst) == tail {
                let (to, from) = (tail & (self.mark - 1), head & (self.mark - 1));
                return match to.cmp(&from) {
                    std::cmp::Ordering::Greater => to - from,
                    std::cmp::Ordering::Less => self.slots.len() - from + to,
                    std::cmp::Ordering::Equal if tail & !self.mark == head => 0,
                    std::cmp::Ordering::Equal => self.slots.len(),
                };
            }
        }
    }
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        drop(Clearing(self));
    }
}

/// Drops the messages when it is dropped; also the rest of them, if dropping one of them panics.
pub(super) struct Clearing<'ring, T>(pub(super) &'ring Ring<T>);

impl<T> Drop for Clearing<'_, T> {
    fn drop(&mut self) {
        while let Ok(message) = self.0.pop() {
            let rest = Clearing(self.0);
            drop(message);
            mem::forget(rest);
        }
    }
}
