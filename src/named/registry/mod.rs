//! [`Registry`]: all named objects of a run, as the master keeps them.
//!
//! | file | concern |
//! |---|---|
//! | `mod` | who asks what of which object; ends of parties |
//! | `parties` | what each party has, and waits for; what it is told |
//! | `variables` `mutexes` `semaphores` `mailboxes` | the objects of each kind |
//!
//! A party is a worker, or the master itself when all workers have ended. The rules:
//!
//! 1. A party waits for at most one thing. Who waits longest is served first, and who asks for much is not passed by
//!    those who ask for little.
//! 2. What happens at an object is told to all others whom it concerns before it is told to the party that did it: who
//!    hears that a variable is set can rely on it that those who watch it have been told.
//! 3. When a party ends, it waits no more, and whatever it had goes back: mutexes, units of protected semaphores,
//!    messages that it has not confirmed, variables that it owned or had begun to compute.
//!
//! This module knows no links, sends nothing and never sleeps: it is told what was asked and who has ended, and says what
//! is to be said to whom. It does not see circles of parties that wait for each other; the master does, which knows who
//! [waits for](Registry::waits_for) whom.

mod mailboxes;
mod mutexes;
mod parties;
mod semaphores;
mod variables;

#[cfg(test)]
mod tests;

use std::time::Instant;

use self::mailboxes::Mailboxes;
use self::mutexes::Mutexes;
use self::parties::{Kind, Parties, Waiting};
use self::semaphores::Semaphores;
use self::variables::Variables;
use crate::wire::Reply;
use crate::wire::named::{Answer, Call, Condition, ObjectInfo, Operation, Told, Wait};

/// The party that is the master itself.
pub(crate) const MASTER: u64 = u64::MAX;

#[derive(Debug)]
pub(crate) struct Registry {
    parties: Parties,
    variables: Variables,
    mutexes: Mutexes,
    semaphores: Semaphores,
    mailboxes: Mailboxes,
    /// How many objects there may be.
    limit: usize,
}

/// What an object says to a call.
enum Said {
    /// This.
    Now(Answer),
    /// Nothing yet: the party is in its queue.
    Later,
    /// That it cannot be made, as there are as many as may be.
    Full,
}

impl From<Answer> for Said {
    fn from(answer: Answer) -> Said {
        Said::Now(answer)
    }
}

/// Who asks, and whether it waits.
#[derive(Clone, Copy)]
struct Asker {
    party: u64,
    call: u64,
    waits: bool,
}

impl Registry {
    pub(crate) fn new(limit: usize) -> Registry {
        Registry {
            parties: Parties::default(),
            variables: Variables::default(),
            mutexes: Mutexes::default(),
            semaphores: Semaphores::default(),
            mailboxes: Mailboxes::default(),
            limit,
        }
    }

    /// A party asks something. What it waited for before it waits for no more.
    pub(crate) fn ask(&mut self, party: u64, call: Call) {
        self.leave(party);
        let Call { number, wait, operation } = call;
        let asker = Asker { party, call: number, waits: wait != Wait::No };
        let room = self.count() < self.limit;
        let parties = &mut self.parties;
        let (kind, name, said) = match operation {
            Operation::Variable { name, kind, action } => {
                let said = self.variables.ask(parties, asker, &name, kind, action, room);
                (Kind::Variable, name, said)
            }
            Operation::Mutex { name, action } => {
                let said = self.mutexes.ask(parties, asker, &name, &action, room);
                (Kind::Mutex, name, said)
            }
            Operation::Semaphore { name, action } => {
                let said = self.semaphores.ask(parties, asker, &name, &action, room);
                (Kind::Semaphore, name, said)
            }
            Operation::Mailbox { name, kind, capacity, action } => {
                let said = self.mailboxes.ask(parties, asker, &name, (kind, capacity), action, room);
                (Kind::Mailbox, name, said)
            }
        };
        match said {
            Said::Now(answer) => parties.reply(party, number, answer),
            Said::Full => parties.reply(party, number, Answer::TooMany { limit: self.limit }),
            Said::Later => {
                let waiting = Waiting { call: number, for_ever: wait == Wait::ForEver, kind, name };
                parties.wait(party, waiting);
            }
        }
    }

    /// A party tells something.
    pub(crate) fn tell(&mut self, party: u64, told: Told) {
        let parties = &mut self.parties;
        match told {
            Told::Cancel { call } => {
                if parties.waiting(party).is_some_and(|waiting| waiting.call == call) {
                    self.leave(party);
                }
            }
            Told::Confirmed { call } => match parties.take_granted(party, call) {
                Some(name) => self.mutexes.confirmed(party, &name),
                None => drop(parties.take_received(party, call)),
            },
            Told::Unlock { name, fence, abandoned } => {
                self.mutexes.unlock(parties, party, &name, fence, abandoned);
            }
            Told::Increment { name, by, since } => {
                self.semaphores.give_back(parties, party, &name, by, since);
            }
            Told::Uncomputed { name } => self.variables.uncomputed(parties, party, &name),
            Told::Watch { watch, condition } => {
                let at = (party, watch);
                let place = match condition {
                    Condition::Newer { name, kind, than } => self.variables.watch(&name, at, kind, than),
                    Condition::Lockable { name } => self.mutexes.watch(&name, at),
                    Condition::Available { name, units } => self.semaphores.watch(&name, at, units),
                    Condition::Receivable { name, kind, capacity } => {
                        self.mailboxes.watch(&name, at, (kind, capacity), false)
                    }
                    Condition::Sendable { name, kind, capacity } => {
                        self.mailboxes.watch(&name, at, (kind, capacity), true)
                    }
                    // The master knows that better.
                    Condition::Ended { .. } => None,
                };
                match place {
                    Some(place) => parties.watch(at, place),
                    None => parties.ready(at),
                }
            }
            Told::Unwatch { watch } => {
                if let Some(place) = parties.unwatch((party, watch)) {
                    self.unwatch((party, watch), &place);
                }
            }
        }
    }

    /// A party has ended.
    pub(crate) fn end(&mut self, party: u64) {
        // First of all, as leaving may make what it watches ready.
        for (watch, place) in self.parties.watches_of(party) {
            self.unwatch((party, watch), &place);
        }
        self.leave(party);
        let parties = &mut self.parties;
        let Some(left) = parties.end(party) else { return };
        self.mutexes.abandon(parties, left.mutexes);
        self.semaphores.undo(parties, party, left.semaphores);
        self.mailboxes.take_back(parties, left.received);
        self.variables.end(parties, party, left.created, left.computing);
        // Taking things from it has made it a party again.
        parties.end(party);
    }

    /// Whom a party waits for that waits for nothing else.
    pub(crate) fn waits_for(&self, party: u64) -> Option<u64> {
        let waiting = self.parties.waiting(party).filter(|waiting| waiting.for_ever)?;
        match waiting.kind {
            Kind::Mutex => self.mutexes.holder(&waiting.name),
            Kind::Variable => self.variables.computing(&waiting.name, party),
            Kind::Semaphore | Kind::Mailbox => None,
        }
    }

    /// What a party waits for: the kind of the object, and its name.
    pub(crate) fn waits_at(&self, party: u64) -> Option<(&'static str, &str)> {
        self.parties.waiting(party).map(|waiting| (waiting.kind.text(), waiting.name.as_str()))
    }

    /// Breaks a circle: the party waits no more, and is told so.
    pub(crate) fn refuse(&mut self, party: u64, holder: u64) {
        self.leave_with(party, Answer::Deadlock { holder });
    }

    /// When something expires next.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.variables.deadline()
    }

    /// Removes what nobody has used for too long.
    pub(crate) fn expire(&mut self, now: Instant) {
        self.variables.expire(&mut self.parties, now);
    }

    /// What is to be said, in order.
    pub(crate) fn take_replies(&mut self) -> Vec<(u64, Reply)> {
        self.parties.take_replies()
    }

    /// All objects, by kind and name.
    pub(crate) fn objects(&self) -> Vec<ObjectInfo> {
        let mut objects = self.variables.objects();
        objects.extend(self.mutexes.objects());
        objects.extend(self.semaphores.objects());
        objects.extend(self.mailboxes.objects());
        objects
    }

    fn count(&self) -> usize {
        self.variables.count() + self.mutexes.count() + self.semaphores.count() + self.mailboxes.count()
    }

    /// A party waits no more.
    pub(crate) fn leave(&mut self, party: u64) {
        self.leave_with(party, Answer::Cancelled);
    }

    fn leave_with(&mut self, party: u64, answer: Answer) {
        let parties = &mut self.parties;
        let Some(Waiting { kind, name, .. }) = parties.finish(party, answer) else { return };
        match kind {
            Kind::Variable => self.variables.leave(party, &name),
            Kind::Mutex => self.mutexes.leave(party, &name),
            Kind::Semaphore => self.semaphores.leave(parties, party, &name),
            Kind::Mailbox => self.mailboxes.leave(parties, party, &name),
        }
    }

    fn unwatch(&mut self, at: (u64, u64), place: &(Kind, String)) {
        let (kind, name) = place;
        match kind {
            Kind::Variable => self.variables.unwatch(name, at),
            Kind::Mutex => self.mutexes.unwatch(name, at),
            Kind::Semaphore => self.semaphores.unwatch(name, at),
            Kind::Mailbox => self.mailboxes.unwatch(name, at),
        }
    }
}
