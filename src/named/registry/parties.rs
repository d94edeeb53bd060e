//! What each party has and waits for, and what is to be said to it.
//!
//! This module knows no objects but by their names.

use std::collections::{BTreeMap, BTreeSet};

use crate::wire::Reply;
use crate::wire::named::{Answer, Bytes};

/// The kinds of objects. Each has its own names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Variable,
    Mutex,
    Semaphore,
    Mailbox,
}

impl Kind {
    pub(super) fn text(self) -> &'static str {
        match self {
            Kind::Variable => "variable",
            Kind::Mutex => "mutex",
            Kind::Semaphore => "semaphore",
            Kind::Mailbox => "mailbox",
        }
    }
}

/// A call that is answered later.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) call: u64,
    pub(super) for_ever: bool,
    pub(super) kind: Kind,
    pub(super) name: String,
}

/// A message that was given to a party and is not confirmed.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) mailbox: String,
    pub(super) sequence: u64,
    pub(super) message: Bytes,
}

/// What a party has.
#[derive(Debug, Default)]
pub(super) struct Party {
    waiting: Option<Waiting>,
    /// What it watches, by its own numbers.
    watches: BTreeMap<u64, (Kind, String)>,
    /// The mutex that it was given when it had waited for it, until it confirms that: by which call, and the name.
    pub(super) granted: Option<(u64, String)>,
    /// Mutexes that it holds.
    pub(super) mutexes: BTreeSet<String>,
    /// Protected semaphores of which it has taken, or to which it has given.
    pub(super) semaphores: BTreeSet<String>,
    /// Variables that it created, and that may be deleted with it.
    pub(super) created: BTreeSet<String>,
    /// Variables that it computes.
    pub(super) computing: BTreeSet<String>,
    /// By the calls that they answered.
    pub(super) received: BTreeMap<u64, Received>,
}

#[derive(Debug, Default)]
pub(super) struct Parties {
    all: BTreeMap<u64, Party>,
    replies: Vec<(u64, Reply)>,
}

impl Parties {
    /// The party, which is there from now on.
    pub(super) fn get(&mut self, party: u64) -> &mut Party {
        self.all.entry(party).or_default()
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn reply(&mut self, party: u64, number: u64, answer: Answer) {
        self.replies.push((party, Reply::Named { number, answer }));
    }

    /// A watch of the party is ready.
    pub(super) fn ready(&mut self, (party, watch): (u64, u64)) {
        if let Some(party) = self.all.get_mut(&party) {
            party.watches.remove(&watch);
        }
        self.replies.push((party, Reply::Ready { watch }));
    }

    pub(super) fn take_replies(&mut self) -> Vec<(u64, Reply)> {
        std::mem::take(&mut self.replies)
    }

    pub(super) fn wait(&mut self, party: u64, waiting: Waiting) {
        self.get(party).waiting = Some(waiting);
    }

    pub(super) fn waiting(&self, party: u64) -> Option<&Waiting> {
        self.all.get(&party)?.waiting.as_ref()
    }

    /// Answers the call that the party waits with, and returns it.
    pub(super) fn finish(&mut self, party: u64, answer: Answer) -> Option<Waiting> {
        let waiting = self.all.get_mut(&party)?.waiting.take()?;
        self.reply(party, waiting.call, answer);
        Some(waiting)
    }

    /// Gives a message to a party that waits for one.
    pub(super) fn deliver(&mut self, party: u64, received: Received) {
        let Some(waiting) = self.waiting(party) else { return };
        let (call, message) = (waiting.call, received.message.clone());
        self.get(party).received.insert(call, received);
        self.finish(party, Answer::Message(message));
    }

    /// The mutex that answered the call, which the party has confirmed.
    pub(super) fn take_granted(&mut self, party: u64, call: u64) -> Option<String> {
        let granted = &mut self.all.get_mut(&party)?.granted;
        granted.take_if(|(answered, _)| *answered == call).map(|(_, name)| name)
    }

    /// The message that answered the call, which the party has confirmed.
    pub(super) fn take_received(&mut self, party: u64, call: u64) -> Option<Received> {
        self.all.get_mut(&party)?.received.remove(&call)
    }

    pub(super) fn watch(&mut self, (party, watch): (u64, u64), place: (Kind, String)) {
        self.get(party).watches.insert(watch, place);
    }

    pub(super) fn unwatch(&mut self, (party, watch): (u64, u64)) -> Option<(Kind, String)> {
        self.all.get_mut(&party)?.watches.remove(&watch)
    }

    pub(super) fn watches_of(&mut self, party: u64) -> BTreeMap<u64, (Kind, String)> {
        self.all.get_mut(&party).map(|party| std::mem::take(&mut party.watches)).unwrap_or_default()
    }

    /// The party is no more; here is what it had.
    pub(super) fn end(&mut self, party: u64) -> Option<Party> {
        self.all.remove(&party)
    }
}

/// Who wants to be told of a change at an object, once, and what of it.
#[derive(Debug)]
pub(super) struct Watchers<C>(BTreeMap<(u64, u64), C>);

impl<C> Default for Watchers<C> {
    fn default() -> Self {
        Watchers(BTreeMap::new())
    }
}

impl<C> Watchers<C> {
    pub(super) fn add(&mut self, at: (u64, u64), condition: C) {
        self.0.insert(at, condition);
    }

    pub(super) fn remove(&mut self, at: (u64, u64)) {
        self.0.remove(&at);
    }

    /// Tells those for whom `is_ready` holds.
    pub(super) fn notify(&mut self, parties: &mut Parties, is_ready: impl Fn(&C) -> bool) {
        self.0.retain(|at, condition| {
            let ready = is_ready(condition);
            if ready {
                parties.ready(*at);
            }
            !ready
        });
    }
}
