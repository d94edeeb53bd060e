//! Variables: values, who may set them, who computes one, and who waits for one.
//!
//! This module does not look into values, and computes none.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::parties::{Kind, Parties, Watchers};
use super::{Asker, Said};
use crate::wire::named::{Answer, Bytes, ObjectInfo, OfVariable, VariableOptions};

#[derive(Debug, Default)]
pub(super) struct Variables {
    /// Boxed, as a hash table has room for more than there are.
    all: HashMap<String, Box<Variable>>,
    /// The last version that was given out, of any variable: so that one that is deleted and made anew has no old one.
    version: u64,
    /// Variables that expire, and when they do if they were not used since that was written.
    expiries: BTreeSet<(Instant, String)>,
}

#[derive(Debug)]
struct Variable {
    type_name: String,
    kind: u64,
    value: Option<Bytes>,
    /// 0 if it was never set.
    version: u64,
    creator: u64,
    owned: bool,
    constant: bool,
    idle: Option<Idle>,
    /// Who computes the first value.
    computing: Option<u64>,
    queue: VecDeque<(u64, Wanted)>,
    watchers: Watchers<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Idle {
    limit: Duration,
    /// When it is over, if there is a time so far away.
    until: Option<Instant>,
    /// When that is looked at.
    noted: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    NewerThan(u64),
    /// Whatever value, or the order to compute it.
    Lazily,
}

impl Variables {
    pub(super) fn ask(
        &mut self,
        parties: &mut Parties,
        asker: Asker,
        name: &str,
        kind: u64,
        action: OfVariable,
        room: bool,
    ) -> Said {
        let party = asker.party;
        let Some(variable) = self.all.get_mut(name) else {
            return match action {
                OfVariable::Create { .. } if !room => Said::Full,
                OfVariable::Create { options, type_name, value } => {
                    self.create(parties, party, name, (kind, type_name), options, value).into()
                }
                OfVariable::Delete => Answer::Removed(false).into(),
                _ => Answer::Missing.into(),
            };
        };
        if variable.kind != kind {
            return Answer::WrongType { stored: variable.type_name.clone() }.into();
        }
        variable.use_now();
        match action {
            OfVariable::Create { .. } => Answer::Created(false).into(),
            OfVariable::Version => Answer::Version(variable.version).into(),
            OfVariable::Get { newer_than } => match &variable.value {
                Some(value) if variable.version > newer_than => {
                    Answer::Value { version: variable.version, value: value.clone() }.into()
                }
                _ if asker.waits => variable.wait(party, Wanted::NewerThan(newer_than)),
                Some(_) => Answer::WouldWait.into(),
                None => Answer::Unset.into(),
            },
            OfVariable::Set { value, expected } => {
                if let Some(refusal) = variable.refuses(party) {
                    return refusal.into();
                }
                if expected.is_some_and(|expected| expected != variable.version) {
                    return Answer::Changed { version: variable.version }.into();
                }
                self.version += 1;
                variable.set(parties, value, self.version);
                Answer::Version(self.version).into()
            }
            OfVariable::Delete => {
                let may = if variable.owned || variable.constant { variable.creator == party } else { true };
                if !may {
                    return variable.no_permission().into();
                }
                self.remove(parties, name);
                Answer::Removed(true).into()
            }
            OfVariable::GetLazily => match (&variable.value, variable.computing) {
                (Some(value), _) => Answer::Value { version: variable.version, value: value.clone() }.into(),
                // It would wait for itself.
                (None, Some(computing)) if computing == party => Answer::Deadlock { holder: party }.into(),
                (None, None) if variable.refuses(party).is_none() => {
                    variable.computing = Some(party);
                    parties.get(party).computing.insert(name.to_owned());
                    Answer::Compute.into()
                }
                (None, _) if asker.waits => variable.wait(party, Wanted::Lazily),
                (None, _) => Answer::WouldWait.into(),
            },
            OfVariable::Computed { value } => {
                if variable.computing != Some(party) {
                    return Answer::NotComputing.into();
                }
                variable.computing = None;
                parties.get(party).computing.remove(name);
                // Who set it meanwhile was first.
                if variable.value.is_none() {
                    self.version += 1;
                    variable.set(parties, value, self.version);
                }
                match &variable.value {
                    Some(value) => Answer::Value { version: variable.version, value: value.clone() }.into(),
                    None => Answer::Unset.into(),
                }
            }
        }
    }

    fn create(
        &mut self,
        parties: &mut Parties,
        party: u64,
        name: &str,
        (kind, type_name): (u64, String),
        options: VariableOptions,
        value: Option<Bytes>,
    ) -> Answer {
        let version = if value.is_some() {
            self.version += 1;
            self.version
        } else {
            0
        };
        let mut variable = Variable {
            kind,
            type_name,
            value,
            version,
            creator: party,
            owned: options.owned,
            constant: options.constant,
            idle: options.idle.map(|limit| Idle { limit, until: None, noted: None }),
            computing: None,
            queue: VecDeque::new(),
            watchers: Watchers::default(),
        };
        variable.use_now();
        if let Some(idle) = &mut variable.idle {
            idle.noted = idle.until;
            self.expiries.extend(idle.noted.map(|at| (at, name.to_owned())));
        }
        if options.owned || options.constant {
            parties.get(party).created.insert(name.to_owned());
        }
        self.all.insert(name.to_owned(), Box::new(variable));
        Answer::Created(true)
    }

    fn remove(&mut self, parties: &mut Parties, name: &str) {
        let Some(mut variable) = self.all.remove(name) else { return };
        if let Some(noted) = variable.idle.and_then(|idle| idle.noted) {
            self.expiries.remove(&(noted, name.to_owned()));
        }
        if variable.owned || variable.constant {
            parties.get(variable.creator).created.remove(name);
        }
        if let Some(computing) = variable.computing {
            parties.get(computing).computing.remove(name);
        }
        for (party, _) in variable.queue {
            parties.finish(party, Answer::Missing);
        }
        variable.watchers.notify(parties, |_| true);
    }

    /// A party does not compute the variable that it was to.
    pub(super) fn uncomputed(&mut self, parties: &mut Parties, party: u64, name: &str) {
        let Some(variable) = self.all.get_mut(name) else { return };
        if variable.computing != Some(party) {
            return;
        }
        parties.get(party).computing.remove(name);
        variable.computing = None;
        if variable.value.is_some() {
            return;
        }
        let mut waiting = variable.queue.iter();
        let next = waiting
            .position(|(party, wanted)| *wanted == Wanted::Lazily && variable.refuses(*party).is_none());
        if let Some((next, _)) = next.and_then(|next| variable.queue.remove(next)) {
            variable.computing = Some(next);
            parties.get(next).computing.insert(name.to_owned());
            parties.finish(next, Answer::Compute);
        }
    }

    /// A party has ended that created and computed these.
    pub(super) fn end(
        &mut self,
        parties: &mut Parties,
        party: u64,
        created: BTreeSet<String>,
        computing: BTreeSet<String>,
    ) {
        for name in created {
            // A constant without a value will never have one.
            if self.all.get(&name).is_some_and(|variable| variable.owned || variable.value.is_none()) {
                self.remove(parties, &name);
            }
        }
        for name in computing {
            self.uncomputed(parties, party, &name);
        }
    }

    pub(super) fn leave(&mut self, party: u64, name: &str) {
        if let Some(variable) = self.all.get_mut(name) {
            variable.queue.retain(|(waiting, _)| *waiting != party);
        }
    }

    /// Who computes what the party waits for.
    pub(super) fn computing(&self, name: &str, party: u64) -> Option<u64> {
        let variable = self.all.get(name)?;
        let lazily = variable.queue.iter().any(|waiting| *waiting == (party, Wanted::Lazily));
        variable.computing.filter(|_| lazily)
    }

    /// Tells when there is a newer value; returns where, if there is none now.
    pub(super) fn watch(
        &mut self,
        name: &str,
        at: (u64, u64),
        kind: u64,
        than: u64,
    ) -> Option<(Kind, String)> {
        let variable = self.all.get_mut(name)?;
        if variable.version > than || variable.kind != kind {
            return None;
        }
        variable.watchers.add(at, than);
        Some((Kind::Variable, name.to_owned()))
    }

    pub(super) fn unwatch(&mut self, name: &str, at: (u64, u64)) {
        if let Some(variable) = self.all.get_mut(name) {
            variable.watchers.remove(at);
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.expiries.first().map(|(at, _)| *at)
    }

    pub(super) fn expire(&mut self, parties: &mut Parties, now: Instant) {
        while let Some((at, name)) = self.expiries.pop_first() {
            if at > now {
                self.expiries.insert((at, name));
                return;
            }
            let Some(variable) = self.all.get_mut(&name) else { continue };
            // Who computes its value uses it.
            if variable.computing.is_some() {
                variable.use_now();
            }
            let Some(idle) = &mut variable.idle else { continue };
            match idle.until {
                // It was used since that was noted.
                Some(until) if until > now => {
                    idle.noted = Some(until);
                    self.expiries.insert((until, name));
                }
                Some(_) => self.remove(parties, &name),
                None => idle.noted = None,
            }
        }
    }

    pub(super) fn count(&self) -> usize {
        self.all.len()
    }

    pub(super) fn objects(&self) -> Vec<ObjectInfo> {
        let mut all: Vec<_> = self.all.iter().map(|(name, variable)| (name, &**variable)).collect();
        all.sort_unstable_by_key(|(name, _)| *name);
        let object = |(name, variable): (&String, &Variable)| ObjectInfo::Variable {
            name: name.clone(),
            type_name: variable.type_name.clone(),
            version: variable.version,
            bytes: variable.value.as_ref().map(|value| value.len() as u64),
            owner: variable.owned.then_some(variable.creator),
            constant: variable.constant,
            waiters: variable.queue.iter().map(|(party, _)| *party).collect(),
        };
        all.into_iter().map(object).collect()
    }
}

impl Variable {
    fn use_now(&mut self) {
        if let Some(idle) = &mut self.idle {
            idle.until = Instant::now().checked_add(idle.limit);
        }
    }

    fn wait(&mut self, party: u64, wanted: Wanted) -> Said {
        self.queue.push_back((party, wanted));
        Said::Later
    }

    /// That the party may not set it, if it may not.
    fn refuses(&self, party: u64) -> Option<Answer> {
        let stranger = (self.owned || self.constant) && self.creator != party;
        let again = self.constant && self.value.is_some();
        (stranger || again).then(|| self.no_permission())
    }

    fn no_permission(&self) -> Answer {
        Answer::NoPermission { owner: self.owned.then_some(self.creator) }
    }

    fn set(&mut self, parties: &mut Parties, value: Bytes, version: u64) {
        self.version = version;
        self.value = Some(value.clone());
        // A new version is newer than all that anybody knows.
        for (party, _) in std::mem::take(&mut self.queue) {
            parties.finish(party, Answer::Value { version, value: value.clone() });
        }
        self.watchers.notify(parties, |than| version > *than);
    }
}
