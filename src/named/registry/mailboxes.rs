//! Mailboxes: messages, and who waits to send and to receive.
//!
//! This module does not look into messages, and puts nobody to sleep.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::parties::{Kind, Parties, Received, Watchers};
use super::{Asker, Said};
use crate::wire::named::{Answer, Bytes, ObjectInfo, OfMailbox};

#[derive(Debug, Default)]
pub(super) struct Mailboxes {
    /// Boxed, as a hash table has room for more than there are.
    all: HashMap<String, Box<Mailbox>>,
    /// How many messages were accepted and mailboxes made: the next of either has this number.
    sequence: u64,
}

#[derive(Debug)]
struct Mailbox {
    type_name: String,
    kind: u64,
    capacity: u64,
    /// Its number: messages of one that had its name before have smaller ones.
    since: u64,
    /// By their numbers, in order.
    messages: VecDeque<(u64, Bytes)>,
    closed: bool,
    senders: VecDeque<(u64, Bytes)>,
    receivers: VecDeque<u64>,
    /// Who wants to be told that it can send (or else receive).
    watchers: Watchers<bool>,
}

impl Mailboxes {
    pub(super) fn ask(
        &mut self,
        parties: &mut Parties,
        asker: Asker,
        name: &str,
        (kind, capacity): (u64, u64),
        action: OfMailbox,
        room: bool,
    ) -> Said {
        let Some(mailbox) = self.all.get_mut(name) else {
            return match action {
                OfMailbox::Open { .. } if !room => Said::Full,
                OfMailbox::Open { type_name } => {
                    let since = self.next();
                    let mailbox = Mailbox::new(kind, type_name, capacity, since);
                    self.all.insert(name.to_owned(), Box::new(mailbox));
                    Answer::Created(true).into()
                }
                OfMailbox::Delete => Answer::Removed(false).into(),
                _ => Answer::Missing.into(),
            };
        };
        if mailbox.kind != kind {
            return Answer::WrongType { stored: mailbox.type_name.clone() }.into();
        }
        if mailbox.capacity != capacity {
            return Answer::OtherCapacity { stored: mailbox.capacity }.into();
        }
        match action {
            OfMailbox::Open { .. } => Answer::Created(false).into(),
            OfMailbox::Length => Answer::Fill { messages: mailbox.messages.len() as u64 }.into(),
            OfMailbox::Send { .. } if mailbox.closed => Answer::Closed.into(),
            OfMailbox::Send { message } => {
                if !mailbox.has_room() && asker.waits {
                    mailbox.senders.push_back((asker.party, message));
                    return Said::Later;
                } else if !mailbox.has_room() {
                    return Answer::WouldWait.into();
                }
                mailbox.accept(parties, name, &mut self.sequence, message);
                mailbox.notify(parties);
                Answer::Done.into()
            }
            OfMailbox::Receive => match mailbox.messages.pop_front() {
                Some((sequence, message)) => {
                    mailbox.refill(parties, name, &mut self.sequence);
                    mailbox.notify(parties);
                    let received = Received { mailbox: name.to_owned(), sequence, message: message.clone() };
                    parties.get(asker.party).received.insert(asker.call, received);
                    Answer::Message(message).into()
                }
                None if mailbox.closed => Answer::Closed.into(),
                None if asker.waits => {
                    mailbox.receivers.push_back(asker.party);
                    Said::Later
                }
                None => Answer::WouldWait.into(),
            },
            OfMailbox::Close => {
                mailbox.closed = true;
                mailbox.dismiss(parties, &Answer::Closed);
                Answer::Done.into()
            }
            OfMailbox::Delete => {
                mailbox.dismiss(parties, &Answer::Destroyed);
                self.all.remove(name);
                Answer::Removed(true).into()
            }
        }
    }

    fn next(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    /// Messages that a party has not confirmed before its end are there again, in their old places.
    pub(super) fn take_back(&mut self, parties: &mut Parties, received: BTreeMap<u64, Received>) {
        for received in received.into_values() {
            let Some(mailbox) = self.all.get_mut(&received.mailbox) else { continue };
            if mailbox.since > received.sequence {
                continue;
            }
            let name = received.mailbox.clone();
            mailbox.put(parties, &name, received.sequence, received.message);
            mailbox.notify(parties);
        }
    }

    pub(super) fn leave(&mut self, parties: &mut Parties, party: u64, name: &str) {
        if let Some(mailbox) = self.all.get_mut(name) {
            mailbox.senders.retain(|(waiting, _)| *waiting != party);
            mailbox.receivers.retain(|waiting| *waiting != party);
            mailbox.notify(parties);
        }
    }

    /// Tells when sending (or else receiving) would not wait; returns where, if it would now.
    pub(super) fn watch(
        &mut self,
        name: &str,
        at: (u64, u64),
        (kind, capacity): (u64, u64),
        send: bool,
    ) -> Option<(Kind, String)> {
        let mailbox = self.all.get_mut(name)?;
        if mailbox.is_ready(send) || mailbox.kind != kind || mailbox.capacity != capacity {
            return None;
        }
        mailbox.watchers.add(at, send);
        Some((Kind::Mailbox, name.to_owned()))
    }

    pub(super) fn unwatch(&mut self, name: &str, at: (u64, u64)) {
        if let Some(mailbox) = self.all.get_mut(name) {
            mailbox.watchers.remove(at);
        }
    }

    pub(super) fn count(&self) -> usize {
        self.all.len()
    }

    pub(super) fn objects(&self) -> Vec<ObjectInfo> {
        let mut all: Vec<_> = self.all.iter().map(|(name, mailbox)| (name, &**mailbox)).collect();
        all.sort_unstable_by_key(|(name, _)| *name);
        let object = |(name, mailbox): (&String, &Mailbox)| ObjectInfo::Mailbox {
            name: name.clone(),
            type_name: mailbox.type_name.clone(),
            messages: mailbox.messages.len() as u64,
            capacity: mailbox.capacity,
            bytes: mailbox.messages.iter().map(|(_, message)| message.len() as u64).sum(),
            closed: mailbox.closed,
            senders: mailbox.senders.iter().map(|(party, _)| *party).collect(),
            receivers: mailbox.receivers.iter().copied().collect(),
        };
        all.into_iter().map(object).collect()
    }
}

impl Mailbox {
    fn new(kind: u64, type_name: String, capacity: u64, since: u64) -> Mailbox {
        Mailbox {
            type_name,
            kind,
            capacity,
            since,
            messages: VecDeque::new(),
            closed: false,
            senders: VecDeque::new(),
            receivers: VecDeque::new(),
            watchers: Watchers::default(),
        }
    }

    /// Whether who does not wait yet can send. Those who wait to receive wait because there is no message.
    fn has_room(&self) -> bool {
        self.senders.is_empty() && (self.messages.len() as u64) < self.capacity
    }

    fn is_ready(&self, send: bool) -> bool {
        self.closed || if send { self.has_room() } else { !self.messages.is_empty() }
    }

    fn notify(&mut self, parties: &mut Parties) {
        let ready = [self.is_ready(false), self.is_ready(true)];
        self.watchers.notify(parties, |send| ready[usize::from(*send)]);
    }

    fn accept(&mut self, parties: &mut Parties, name: &str, sequence: &mut u64, message: Bytes) {
        *sequence += 1;
        self.put(parties, name, *sequence, message);
    }

    /// A message is there: for who waits for one, or in its place.
    fn put(&mut self, parties: &mut Parties, name: &str, sequence: u64, message: Bytes) {
        match self.receivers.pop_front() {
            Some(party) => {
                parties.deliver(party, Received { mailbox: name.to_owned(), sequence, message });
            }
            None => {
                let place = self.messages.partition_point(|(other, _)| *other < sequence);
                self.messages.insert(place, (sequence, message));
            }
        }
    }

    /// There is room: who waits to send has sent.
    fn refill(&mut self, parties: &mut Parties, name: &str, sequence: &mut u64) {
        while (self.messages.len() as u64) < self.capacity {
            let Some((party, message)) = self.senders.pop_front() else { return };
            self.accept(parties, name, sequence, message);
            parties.finish(party, Answer::Done);
        }
    }

    /// Nobody waits any more.
    fn dismiss(&mut self, parties: &mut Parties, answer: &Answer) {
        let senders = std::mem::take(&mut self.senders).into_iter().map(|(party, _)| party);
        for party in senders.chain(std::mem::take(&mut self.receivers)) {
            parties.finish(party, answer.clone());
        }
        self.watchers.notify(parties, |_| true);
    }
}
