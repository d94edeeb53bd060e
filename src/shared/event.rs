//! [`Event`]: a word on which users sleep until something has happened, and how a wait goes.
//!
//! | bits | contents |
//! |---|---|
//! | 0 | somebody may sleep |
//! | 31 .. 1 | how often those who sleep were woken, modulo 2^31 |
//!
//! Who is about to sleep sets bit 0, *then* looks once more whether it must, and sleeps while the word is what it was. Who
//! makes something happen does so by a compare-and-exchange, *then* looks at bit 0. Of the two at least one sees the other.
//! Mostly nobody sleeps, and then it is one load.
//!
//! One is woken at a time, and bit 0 is cleared with it, although others may sleep on: whoever has slept and goes away sets
//! it again, and wakes the next one if there is something for it, too.
//!
//! **No wake is relied on.** A sleeper looks again after 10, 20, then every 40 ms, whether or not it was woken, and asks then
//! whether those whom it waits for are alive. So a death anywhere between the change and the wake costs time, not more.
//!
//! This module does not know what is waited for.

use std::hint::spin_loop;
use std::time::{Duration, Instant};

use manycore_backends::ShmBackend;
use manycore_backends::lock::Wait;
use manycore_backends::patience::{CommonPatience, Patience};
use manycore_backends::shm::{Memory, Window, after_exchange};

use super::error::Result;

/// Bit 0.
const SLEEPERS: u32 = 1;

/// How long a sleep lasts at most, in milliseconds, and how long the first one.
const STEPS: (u64, u64) = (10, 40);

/// The word at this place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Event(pub(super) usize);

impl Event {
    /// Sets bit 0; what the word is then. What is looked at after that is looked at after that.
    fn arm(self, window: impl Window) -> Result<u32> {
        let mut word = window.load(self.0)?;
        while word & SLEEPERS == 0 {
            match window.compare_exchange(self.0, word, word | SLEEPERS)? {
                Ok(_) => word |= SLEEPERS,
                Err(now) => word = now,
            }
        }
        after_exchange();
        Ok(word)
    }

    /// Wakes one sleeper, or as many as there are. What they wait for was made so by a compare-and-exchange.
    #[inline(always)]
    fn wake(self, window: impl Window, count: u32) -> Result<()> {
        after_exchange();
        if window.load(self.0)? & SLEEPERS != 0 { self.wake_some(window, count) } else { Ok(()) }
    }

    #[cold]
    fn wake_some(self, window: impl Window, count: u32) -> Result<()> {
        let mut word = window.load(self.0)?;
        while word & SLEEPERS != 0 {
            match window.compare_exchange(self.0, word, word.wrapping_add(2) & !SLEEPERS)? {
                Ok(_) => {
                    window.wake(self.0, count, u32::MAX)?;
                    break;
                }
                Err(now) => word = now,
            }
        }
        Ok(())
    }

    #[inline(always)]
    pub(super) fn wake_one(self, window: impl Window) -> Result<()> {
        self.wake(window, 1)
    }

    pub(super) fn wake_all(self, window: impl Window) -> Result<()> {
        self.wake(window, u32::MAX)
    }
}

/// How a wait ended without what was waited for.
pub(super) enum Ended {
    /// Waiting was not allowed.
    AtOnce,
    /// The time was over.
    TimedOut,
}

/// What is waited for.
pub(super) trait Awaited {
    type Output;

    /// Does it, if it can be done now.
    fn attempt(&mut self) -> Result<Option<Self::Output>>;

    /// After an attempt failed: whether somebody who kept it from being done is dead. Then it is worth another one.
    fn bury(&mut self) -> Result<bool>;

    /// Whether somebody else who waits could do it now, or would find that it will never be done.
    fn is_more(&self) -> Result<bool>;
}

/// Waits until the attempt succeeds.
#[inline(always)]
pub(super) fn wait_for<B: ShmBackend, A: Awaited>(
    object: &B,
    event: Event,
    patience: &CommonPatience,
    wait: Wait,
    mut awaited: A,
) -> Result<Result<A::Output, Ended>> {
    match awaited.attempt()? {
        Some(output) => Ok(Ok(output)),
        None => wait_long(object, event, patience, wait, awaited),
    }
}

#[cold]
#[inline(never)]
fn wait_long<B: ShmBackend, A: Awaited>(
    object: &B,
    event: Event,
    patience: &CommonPatience,
    wait: Wait,
    mut awaited: A,
) -> Result<Result<A::Output, Ended>> {
    if wait == Wait::Try {
        // Also those who never wait get what the dead have left.
        return Ok(bury_and_attempt(object, &mut awaited)?.ok_or(Ended::AtOnce));
    }
    let start = Instant::now();
    if patience.is_there() {
        let mut came = None;
        while came.is_none() && start.elapsed() < Patience::LIMIT {
            (0..Patience::PAUSES).for_each(|_| spin_loop());
            came = awaited.attempt()?;
        }
        // What came later came because others had the core meanwhile.
        patience.learn(came.is_some() && start.elapsed() < Patience::LIMIT);
        if let Some(output) = came {
            return Ok(Ok(output));
        }
    }
    let outcome = sleep_until(object, event, wait, start, &mut awaited);
    // Who has slept may have been woken in another's place. Whatever goes wrong here, the outcome is not lost.
    let window = object.memory().window();
    if event.arm(window).is_ok() && awaited.is_more().unwrap_or(false) {
        let _ = event.wake_one(window);
    }
    outcome
}

/// Attempts it again as long as somebody who was in the way is dead.
fn bury_and_attempt<B: ShmBackend, A: Awaited>(object: &B, awaited: &mut A) -> Result<Option<A::Output>> {
    while awaited.bury()? {
        if let Some(output) = awaited.attempt()? {
            return Ok(Some(output));
        }
    }
    object.intact()?;
    Ok(None)
}

fn sleep_until<B: ShmBackend, A: Awaited>(
    object: &B,
    event: Event,
    wait: Wait,
    start: Instant,
    awaited: &mut A,
) -> Result<Result<A::Output, Ended>> {
    let window = object.memory().window();
    let mut step = Duration::from_millis(STEPS.0);
    // What the clock said last: to ask it is not free.
    let mut now = start;
    // Wakes do not put it off: one may be woken again and again by those who come and go.
    let mut due = start + step;
    loop {
        let word = event.arm(window)?;
        if let Some(output) = awaited.attempt()? {
            return Ok(Ok(output));
        }
        let remaining = match wait {
            Wait::AtMost(limit) => limit.saturating_sub(now - start),
            _ => Duration::MAX,
        };
        if remaining.is_zero() {
            return Ok(bury_and_attempt(object, awaited)?.ok_or(Ended::TimedOut));
        }
        let limit = due.saturating_duration_since(now).min(remaining);
        window.wait(event.0, word, limit, u32::MAX)?;
        object.intact()?;
        now = Instant::now();
        if due <= now {
            // An object that was cut off may look as if nothing ever happened there.
            object.size()?;
            if let Some(output) = bury_and_attempt(object, awaited)? {
                return Ok(Ok(output));
            }
            step = (step * 2).min(Duration::from_millis(STEPS.1));
            due = now + step;
        }
    }
}
