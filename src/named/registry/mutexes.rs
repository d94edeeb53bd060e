//! Mutexes: who holds which, and who is next.
//!
//! This module does not see circles of those who wait for each other: the master does.

use std::collections::{BTreeSet, HashMap, VecDeque};

use super::parties::{Kind, Parties, Watchers};
use super::{Asker, Said};
use crate::wire::named::{Answer, ObjectInfo, OfMutex};

#[derive(Debug, Default)]
pub(super) struct Mutexes {
    all: HashMap<String, Mutex>,
    /// The last fence that was given out, of any mutex.
    fence: u64,
}

#[derive(Debug, Default)]
struct Mutex {
    /// Who holds it, and its fence.
    holder: Option<(u64, u64)>,
    /// Whether the holder may know that it is. If it ends before, it has left nothing in the middle of something.
    known: bool,
    /// Whether the last holder has left what it protects in the middle of something.
    abandoned: bool,
    queue: VecDeque<u64>,
    watchers: Watchers<()>,
}

impl Mutexes {
    pub(super) fn ask(
        &mut self,
        parties: &mut Parties,
        asker: Asker,
        name: &str,
        action: &OfMutex,
        room: bool,
    ) -> Said {
        let answer = match action {
            OfMutex::Lock => {
                if !self.all.contains_key(name) {
                    if !room {
                        return Said::Full;
                    }
                    self.all.insert(name.to_owned(), Mutex::default());
                }
                let Some(mutex) = self.all.get_mut(name) else { return Answer::Missing.into() };
                match mutex.holder {
                    None => mutex.grant(parties, asker.party, name, &mut self.fence, true),
                    Some((holder, _)) if holder == asker.party => Answer::LockedAlready,
                    Some(_) if !asker.waits => Answer::WouldWait,
                    Some(_) => {
                        mutex.queue.push_back(asker.party);
                        return Said::Later;
                    }
                }
            }
            OfMutex::Unlock => match self.all.get(name).and_then(|mutex| mutex.holder) {
                Some((holder, _)) if holder == asker.party => {
                    self.release(parties, name, false);
                    Answer::Done
                }
                holder => Answer::LockedBy { holder: holder.map(|(holder, _)| holder) },
            },
            OfMutex::Delete => match self.all.get_mut(name) {
                None => Answer::Removed(false),
                // Who waits, waits for a holder.
                Some(Mutex { holder: Some((holder, _)), .. }) => Answer::LockedBy { holder: Some(*holder) },
                Some(mutex) => {
                    mutex.watchers.notify(parties, |()| true);
                    self.all.remove(name);
                    Answer::Removed(true)
                }
            },
        };
        answer.into()
    }

    /// Gives up what was got with this fence, if it is held still.
    pub(super) fn unlock(
        &mut self,
        parties: &mut Parties,
        party: u64,
        name: &str,
        fence: u64,
        abandoned: bool,
    ) {
        if self.all.get(name).is_some_and(|mutex| mutex.holder == Some((party, fence))) {
            self.release(parties, name, abandoned);
        }
    }

    /// The holder knows that it is.
    pub(super) fn confirmed(&mut self, party: u64, name: &str) {
        let mutex = self.all.get_mut(name);
        if let Some(mutex) = mutex.filter(|mutex| mutex.holder.is_some_and(|(holder, _)| holder == party)) {
            mutex.known = true;
        }
    }

    /// The holder of these has ended.
    pub(super) fn abandon(&mut self, parties: &mut Parties, names: BTreeSet<String>) {
        for name in names {
            self.release(parties, &name, true);
        }
    }

    fn release(&mut self, parties: &mut Parties, name: &str, abandoned: bool) {
        let Some(mutex) = self.all.get_mut(name) else { return };
        if let Some((holder, _)) = mutex.holder.take() {
            parties.get(holder).mutexes.remove(name);
        }
        // Who did not know of it could not mend what the one before had left.
        if mutex.known {
            mutex.abandoned = abandoned;
        }
        match mutex.queue.pop_front() {
            Some(next) => {
                let answer = mutex.grant(parties, next, name, &mut self.fence, false);
                let waiting = parties.finish(next, answer);
                parties.get(next).granted = waiting.map(|waiting| (waiting.call, waiting.name));
            }
            None => mutex.watchers.notify(parties, |()| true),
        }
    }

    pub(super) fn leave(&mut self, party: u64, name: &str) {
        if let Some(mutex) = self.all.get_mut(name) {
            mutex.queue.retain(|waiting| *waiting != party);
        }
    }

    pub(super) fn holder(&self, name: &str) -> Option<u64> {
        self.all.get(name)?.holder.map(|(holder, _)| holder)
    }

    /// Tells when locking would not wait; returns where, if it would now.
    pub(super) fn watch(&mut self, name: &str, at: (u64, u64)) -> Option<(Kind, String)> {
        let mutex = self.all.get_mut(name)?;
        // Nor would its holder wait, but be told so.
        if mutex.holder.is_none_or(|(holder, _)| holder == at.0) {
            return None;
        }
        mutex.watchers.add(at, ());
        Some((Kind::Mutex, name.to_owned()))
    }

    pub(super) fn unwatch(&mut self, name: &str, at: (u64, u64)) {
        if let Some(mutex) = self.all.get_mut(name) {
            mutex.watchers.remove(at);
        }
    }

    pub(super) fn count(&self) -> usize {
        self.all.len()
    }

    pub(super) fn objects(&self) -> Vec<ObjectInfo> {
        let mut all: Vec<_> = self.all.iter().collect();
        all.sort_unstable_by_key(|(name, _)| *name);
        let object = |(name, mutex): (&String, &Mutex)| ObjectInfo::Mutex {
            name: name.clone(),
            holder: mutex.holder.map(|(holder, _)| holder),
            waiters: mutex.queue.iter().copied().collect(),
        };
        all.into_iter().map(object).collect()
    }
}

impl Mutex {
    /// Gives it to a party, which knows that as soon as it hears of it, or only when it has said so.
    fn grant(
        &mut self,
        parties: &mut Parties,
        party: u64,
        name: &str,
        fence: &mut u64,
        known: bool,
    ) -> Answer {
        *fence += 1;
        self.holder = Some((party, *fence));
        self.known = known;
        parties.get(party).mutexes.insert(name.to_owned());
        Answer::Locked { fence: *fence, abandoned: self.abandoned, confirm: !known }
    }
}
