//! Semaphores: units, who has taken how many, and who waits for more.
//!
//! This module knows no time: who waits only for so long says by itself that it leaves.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use super::parties::{Kind, Parties, Watchers};
use super::{Asker, Said};
use crate::wire::named::{Answer, ObjectInfo, OfSemaphore};

#[derive(Debug, Default)]
pub(super) struct Semaphores {
    all: HashMap<String, Semaphore>,
    /// How many were made.
    made: u64,
}

#[derive(Debug)]
struct Semaphore {
    /// May be less than 0: when a party has ended whose units others have taken. May be more than the maximum: when one has
    /// ended that had taken units for which others have put in new ones, who have not ended yet.
    units: i64,
    maximum: Option<u64>,
    /// The how manieth it was to be made.
    since: u64,
    /// What each party has taken more than it has given, if it is undone when it ends. None has 0.
    balances: Option<BTreeMap<u64, i64>>,
    /// Who waits for how many.
    queue: VecDeque<(u64, u64)>,
    watchers: Watchers<u64>,
}

/// More than this cannot be counted.
const UNITS_MAX: u64 = i64::MAX as u64;

impl Semaphores {
    pub(super) fn ask(
        &mut self,
        parties: &mut Parties,
        asker: Asker,
        name: &str,
        action: &OfSemaphore,
        room: bool,
    ) -> Said {
        if let OfSemaphore::Create { units, maximum, protected } = *action {
            return self.create(name, units, maximum, protected, room);
        }
        let Some(semaphore) = self.all.get_mut(name) else {
            return match action {
                OfSemaphore::Destroy => Answer::Removed(false).into(),
                _ => Answer::Missing.into(),
            };
        };
        let answer = match *action {
            OfSemaphore::Create { .. } | OfSemaphore::Get => semaphore.answer(),
            OfSemaphore::Increment { by } => match semaphore.over(semaphore.units_with(by)) {
                Some(over) => over,
                None => {
                    semaphore.change(parties, asker.party, name, by as i64);
                    let answer = semaphore.answer();
                    semaphore.serve(parties, name);
                    answer
                }
            },
            OfSemaphore::Decrement { by } => match semaphore.over(by) {
                // So many there will never be.
                Some(over) => over,
                None if semaphore.queue.is_empty() && semaphore.available() >= by => {
                    semaphore.change(parties, asker.party, name, -(by as i64));
                    semaphore.answer()
                }
                None if !asker.waits => Answer::WouldWait,
                None => {
                    semaphore.queue.push_back((asker.party, by));
                    return Said::Later;
                }
            },
            OfSemaphore::Destroy => {
                for (party, _) in std::mem::take(&mut semaphore.queue) {
                    parties.finish(party, Answer::Destroyed);
                }
                for party in semaphore.balances.iter().flat_map(BTreeMap::keys) {
                    parties.get(*party).semaphores.remove(name);
                }
                semaphore.watchers.notify(parties, |_| true);
                self.all.remove(name);
                Answer::Removed(true)
            }
        };
        answer.into()
    }

    fn create(&mut self, name: &str, units: u64, maximum: Option<u64>, protected: bool, room: bool) -> Said {
        if self.all.contains_key(name) {
            return Answer::Created(false).into();
        }
        let most = maximum.unwrap_or(UNITS_MAX).min(UNITS_MAX);
        if units > most {
            return Answer::OverMaximum { units, maximum: most }.into();
        }
        if !room {
            return Said::Full;
        }
        self.made += 1;
        let semaphore = Semaphore {
            units: units as i64,
            maximum,
            since: self.made,
            balances: protected.then(BTreeMap::new),
            queue: VecDeque::new(),
            watchers: Watchers::default(),
        };
        self.all.insert(name.to_owned(), semaphore);
        Answer::Created(true).into()
    }

    /// A party gives back what it had taken.
    pub(super) fn give_back(&mut self, parties: &mut Parties, party: u64, name: &str, by: u64, since: u64) {
        let Some(semaphore) = self.all.get_mut(name) else { return };
        if semaphore.since != since || by > UNITS_MAX {
            return;
        }
        semaphore.change(parties, party, name, by as i64);
        semaphore.serve(parties, name);
    }

    /// A party has ended that had taken of these, or given to them.
    pub(super) fn undo(&mut self, parties: &mut Parties, party: u64, names: BTreeSet<String>) {
        for name in names {
            let Some(semaphore) = self.all.get_mut(&name) else { continue };
            let taken = semaphore.balances.as_mut().and_then(|balances| balances.remove(&party)).unwrap_or(0);
            semaphore.units = semaphore.units.saturating_add(taken);
            semaphore.serve(parties, &name);
        }
    }

    pub(super) fn leave(&mut self, parties: &mut Parties, party: u64, name: &str) {
        if let Some(semaphore) = self.all.get_mut(name) {
            semaphore.queue.retain(|(waiting, _)| *waiting != party);
            // Those behind it may want less.
            semaphore.serve(parties, name);
        }
    }

    /// Tells when so many units could be taken; returns where, if they cannot now.
    pub(super) fn watch(&mut self, name: &str, at: (u64, u64), units: u64) -> Option<(Kind, String)> {
        let semaphore = self.all.get_mut(name)?;
        if semaphore.over(units).is_some() || semaphore.has(units) {
            return None;
        }
        semaphore.watchers.add(at, units);
        Some((Kind::Semaphore, name.to_owned()))
    }

    pub(super) fn unwatch(&mut self, name: &str, at: (u64, u64)) {
        if let Some(semaphore) = self.all.get_mut(name) {
            semaphore.watchers.remove(at);
        }
    }

    pub(super) fn count(&self) -> usize {
        self.all.len()
    }

    pub(super) fn objects(&self) -> Vec<ObjectInfo> {
        let mut all: Vec<_> = self.all.iter().collect();
        all.sort_unstable_by_key(|(name, _)| *name);
        let object = |(name, semaphore): (&String, &Semaphore)| ObjectInfo::Semaphore {
            name: name.clone(),
            units: semaphore.available(),
            maximum: semaphore.maximum,
            protected: semaphore.balances.is_some(),
            waiters: semaphore.queue.iter().map(|(party, _)| *party).collect(),
        };
        all.into_iter().map(object).collect()
    }
}

impl Semaphore {
    fn most(&self) -> u64 {
        self.maximum.unwrap_or(UNITS_MAX).min(UNITS_MAX)
    }

    fn answer(&self) -> Answer {
        Answer::Units { units: self.available(), since: self.since }
    }

    /// How many it would have with so many more.
    fn units_with(&self, by: u64) -> u64 {
        match i64::try_from(by) {
            Ok(by) if self.units < 0 => u64::try_from(self.units.saturating_add(by)).unwrap_or(0),
            _ => self.available().saturating_add(by),
        }
    }

    fn available(&self) -> u64 {
        u64::try_from(self.units).unwrap_or(0).min(self.most())
    }

    /// That so many units are more than it may have, if they are.
    fn over(&self, units: u64) -> Option<Answer> {
        let maximum = self.most();
        (units > maximum).then_some(Answer::OverMaximum { units, maximum })
    }

    /// Whether so many can be taken by who does not wait yet.
    fn has(&self, units: u64) -> bool {
        self.queue.is_empty() && self.available() >= units
    }

    /// A party gives units, or takes them if less than 0.
    fn change(&mut self, parties: &mut Parties, party: u64, name: &str, given: i64) {
        self.units = self.units.saturating_add(given);
        let Some(balances) = &mut self.balances else {
            // Nobody will take them away again.
            self.units = self.units.min(self.most() as i64);
            return;
        };
        let taken = balances.entry(party).or_insert(0);
        *taken = taken.saturating_sub(given);
        if *taken == 0 {
            balances.remove(&party);
            parties.get(party).semaphores.remove(name);
        } else {
            parties.get(party).semaphores.insert(name.to_owned());
        }
    }

    /// Gives those who wait what there is.
    fn serve(&mut self, parties: &mut Parties, name: &str) {
        while let Some((party, by)) = self.queue.front().copied().filter(|(_, by)| self.available() >= *by) {
            self.queue.pop_front();
            self.change(parties, party, name, -(by as i64));
            parties.finish(party, self.answer());
        }
        if self.queue.is_empty() {
            let available = self.available();
            self.watchers.notify(parties, |units| *units <= available);
        }
    }
}
