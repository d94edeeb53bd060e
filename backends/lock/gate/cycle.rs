//! Threads of this process that wait for each other at the gates of several objects.
//!
//! Each that waits, and holds something, is in a table. Whoever enters it last closes the cycle, if there is one, and
//! finds it. The table is locked before the gates.
//!
//! This module does not see other processes: circles through them are not its concern.

use super::Gate;
use crate::lock::{LockError, Mode};
use crate::sync::global::{self, Arc};
use crate::sync::lock;
use crate::sync::thread::ThreadId;

/// Who waits, where, and what for (`None` to upgrade).
struct Waiter {
    thread: ThreadId,
    gate: Arc<Gate>,
    mode: Option<Mode>,
}

static WAITING: global::Mutex<Vec<Waiter>> = global::Mutex::new(Vec::new());

/// Notes that `me` waits at `gate`, if that is not `known` yet, and looks whether that closes a cycle.
pub(super) fn look(me: ThreadId, gate: &Arc<Gate>, mode: Option<Mode>, known: bool) -> Result<(), LockError> {
    let mut waiting = global::lock(&WAITING);
    if !known {
        waiting.push(Waiter { thread: me, gate: Arc::clone(gate), mode });
    }
    let mut known = vec![me];
    let mut next = 0;
    while let Some(thread) = known.get(next).copied() {
        next += 1;
        let Some(waiter) = waiting.iter().find(|waiter| waiter.thread == thread) else { continue };
        let state = lock(&waiter.gate.state);
        if state.holders().any(|holder| holder == thread) && state.upgrading != Some(thread) {
            // It got in, and has not said so yet.
            continue;
        }
        if waiter.mode.is_some_and(|mode| state.lets_in(thread, mode)) {
            continue;
        }
        for holder in state.holders().filter(|holder| *holder != thread) {
            if holder == me {
                return Err(LockError::Deadlock);
            }
            if !known.contains(&holder) {
                known.push(holder);
            }
        }
    }
    Ok(())
}

pub(super) fn end(me: ThreadId) {
    global::lock(&WAITING).retain(|waiter| waiter.thread != me);
}
