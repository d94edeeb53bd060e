//! The registry by itself: whatever parties ask, tell, cancel and die of, in whatever order, nothing is made or lost, who can
//! be served is, and nothing is left of who has ended.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::wire::named::{Bytes, OfMailbox, OfMutex, OfSemaphore, OfVariable, VariableOptions};

const PARTIES: u64 = 4;
const UNITS: u64 = 3;
const CAPACITY: u64 = 2;

#[derive(Clone, Debug)]
enum Act {
    Lock { wait: bool },
    Unlock,
    Take { units: u64, wait: bool },
    Give,
    Send { wait: bool },
    Receive { wait: bool, confirm: bool },
    Get { wait: bool },
    Set,
    Compute,
    DoNotCompute,
    Cancel,
    Watch(u8),
    End,
}

fn acts() -> impl Strategy<Value = Vec<(u64, Act)>> {
    let act = prop_oneof![
        any::<bool>().prop_map(|wait| Act::Lock { wait }),
        Just(Act::Unlock),
        (0..=UNITS, any::<bool>()).prop_map(|(units, wait)| Act::Take { units, wait }),
        Just(Act::Give),
        any::<bool>().prop_map(|wait| Act::Send { wait }),
        (any::<bool>(), any::<bool>()).prop_map(|(wait, confirm)| Act::Receive { wait, confirm }),
        any::<bool>().prop_map(|wait| Act::Get { wait }),
        Just(Act::Set),
        Just(Act::Compute),
        Just(Act::DoNotCompute),
        Just(Act::Cancel),
        (0..5_u8).prop_map(Act::Watch),
        Just(Act::End),
    ];
    prop::collection::vec((0..PARTIES, act), 1..80)
}

/// What a party knows of itself.
#[derive(Debug, Default)]
struct Known {
    fence: Option<u64>,
    taken: u64,
    computes: bool,
    /// The call that is not answered yet, and what was asked.
    waits: Option<(u64, Act)>,
    watches: BTreeSet<u64>,
}

struct Play {
    registry: Registry,
    parties: BTreeMap<u64, Known>,
    calls: u64,
    /// Messages that were accepted, and those that were received and confirmed, which may be said first.
    sent: BTreeSet<u64>,
    received: BTreeSet<u64>,
    /// Whether the last holder of the mutex has ended.
    abandoned: bool,
    last_fence: u64,
    last_version: u64,
}

fn bytes(number: u64) -> Bytes {
    Bytes::from(number.to_le_bytes().to_vec())
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().unwrap())
}

fn name() -> String {
    "x".to_owned()
}

fn mailbox(action: OfMailbox) -> Operation {
    Operation::Mailbox { name: name(), kind: 1, capacity: CAPACITY, action }
}

impl Play {
    fn new() -> Play {
        let mut play = Play {
            registry: Registry::new(100),
            parties: (0..PARTIES).map(|party| (party, Known::default())).collect(),
            calls: 0,
            sent: BTreeSet::new(),
            received: BTreeSet::new(),
            abandoned: false,
            last_fence: 0,
            last_version: 0,
        };
        let creations = [
            Operation::Semaphore {
                name: name(),
                action: OfSemaphore::Create { units: UNITS, maximum: Some(UNITS), protected: true },
            },
            mailbox(OfMailbox::Open { type_name: name() }),
            Operation::Variable {
                name: name(),
                kind: 1,
                action: OfVariable::Create {
                    options: VariableOptions::default(),
                    type_name: name(),
                    value: None,
                },
            },
        ];
        for operation in creations {
            play.registry.ask(MASTER, Call { number: 0, wait: Wait::No, operation });
        }
        assert_eq!(play.registry.take_replies().len(), 3);
        play
    }

    fn act(&mut self, party: u64, act: Act) {
        let known = self.parties.get_mut(&party).unwrap();
        // Who waits does nothing else, but for ending and coming back.
        if known.waits.is_some() && !matches!(act, Act::Cancel | Act::End) {
            return;
        }
        let variable = |action| Operation::Variable { name: name(), kind: 1, action };
        let (operation, wait) = match &act {
            Act::Lock { wait } => (Operation::Mutex { name: name(), action: OfMutex::Lock }, *wait),
            Act::Take { units, wait } => {
                let action = OfSemaphore::Decrement { by: *units };
                (Operation::Semaphore { name: name(), action }, *wait)
            }
            Act::Give => {
                let by = std::mem::take(&mut known.taken);
                let action = OfSemaphore::Increment { by };
                (Operation::Semaphore { name: name(), action }, false)
            }
            Act::Send { wait } => {
                // A message is the number of the call that sends it.
                let message = bytes(self.calls + 1);
                (mailbox(OfMailbox::Send { message }), *wait)
            }
            Act::Receive { wait, .. } => (mailbox(OfMailbox::Receive), *wait),
            Act::Get { wait } => (variable(OfVariable::Get { newer_than: self.last_version }), *wait),
            Act::Set if known.computes => {
                known.computes = false;
                (variable(OfVariable::Computed { value: bytes(1) }), false)
            }
            Act::Set => (variable(OfVariable::Set { value: bytes(2), expected: None }), false),
            Act::Compute if known.computes => return,
            Act::Compute => (variable(OfVariable::GetLazily), true),
            Act::Unlock => {
                let Some(fence) = known.fence.take() else { return };
                self.registry.tell(party, Told::Unlock { name: name(), fence, abandoned: false });
                return self.hear();
            }
            Act::DoNotCompute => {
                known.computes = false;
                self.registry.tell(party, Told::Uncomputed { name: name() });
                return self.hear();
            }
            Act::Cancel => {
                let Some((call, _)) = &known.waits else { return };
                self.registry.tell(party, Told::Cancel { call: *call });
                return self.hear();
            }
            Act::Watch(condition) => {
                self.calls += 1;
                known.watches.insert(self.calls);
                let condition = match condition {
                    0 => Condition::Newer { name: name(), kind: 1, than: self.last_version },
                    1 => Condition::Lockable { name: name() },
                    2 => Condition::Available { name: name(), units: 2 },
                    3 => Condition::Receivable { name: name(), kind: 1, capacity: CAPACITY },
                    _ => Condition::Sendable { name: name(), kind: 1, capacity: CAPACITY },
                };
                self.registry.tell(party, Told::Watch { watch: self.calls, condition });
                return self.hear();
            }
            Act::End => {
                self.abandoned |= known.fence.is_some();
                *known = Known::default();
                self.registry.end(party);
                return self.hear();
            }
        };
        self.calls += 1;
        let number = self.calls;
        known.waits = Some((number, act));
        let wait = if wait { Wait::ForEver } else { Wait::No };
        self.registry.ask(party, Call { number, wait, operation });
        self.hear();
        if wait == Wait::No {
            assert!(self.parties[&party].waits.is_none(), "it is answered at once");
        }
    }

    /// Takes what is said, each to who asked for it.
    fn hear(&mut self) {
        let mut confirmations = Vec::new();
        for (party, reply) in self.registry.take_replies() {
            let known = self.parties.get_mut(&party).unwrap();
            let (call, answer) = match reply {
                Reply::Ready { watch } => {
                    assert!(known.watches.remove(&watch), "it is told once, of what is watched");
                    continue;
                }
                Reply::Named { number, answer } => (number, answer),
                other => panic!("{other:?}"),
            };
            let Some((asked, act)) = known.waits.take() else {
                assert_eq!(answer, Answer::Cancelled, "it has ended and hears nothing");
                continue;
            };
            assert_eq!(asked, call);
            match (act, answer) {
                (_, Answer::WouldWait | Answer::Cancelled) => {}
                (Act::Lock { .. }, Answer::Locked { fence, abandoned, confirm }) => {
                    assert!(fence > self.last_fence);
                    self.last_fence = fence;
                    known.fence = Some(fence);
                    assert_eq!(abandoned, self.abandoned);
                    self.abandoned = false;
                    if confirm {
                        confirmations.push((party, Told::Confirmed { call }));
                    }
                }
                (Act::Lock { .. }, Answer::LockedAlready) => assert!(known.fence.is_some()),
                (Act::Take { units, .. }, Answer::Units { .. }) => known.taken += units,
                (Act::Give, Answer::Units { units, .. }) => assert!(units <= UNITS),
                (Act::Send { .. }, Answer::Done) => assert!(self.sent.insert(call)),
                (Act::Receive { confirm, .. }, Answer::Message(message)) => {
                    if confirm {
                        confirmations.push((party, Told::Confirmed { call }));
                        assert!(self.received.insert(number(&message)), "once");
                    }
                }
                (Act::Get { .. } | Act::Compute, Answer::Value { version, .. }) => {
                    self.last_version = self.last_version.max(version);
                }
                (Act::Get { .. }, Answer::Unset) => assert_eq!(self.last_version, 0),
                (Act::Compute, Answer::Compute) => known.computes = true,
                (Act::Set, Answer::Version(version)) => {
                    // Who has waited for it has heard of it before.
                    assert!(version >= self.last_version);
                    self.last_version = version;
                }
                (Act::Set, Answer::Value { version, .. }) => {
                    self.last_version = self.last_version.max(version);
                }
                (act, answer) => panic!("{answer:?} is no answer to {act:?}"),
            }
        }
        for (party, told) in confirmations {
            self.registry.tell(party, told);
        }
        self.look();
    }

    /// What must be so at any time.
    fn look(&self) {
        assert!(self.parties.values().filter(|known| known.fence.is_some()).count() <= 1);
        let taken: u64 = self.parties.values().map(|known| known.taken).sum();
        assert!(self.parties.values().filter(|known| known.computes).count() <= 1);
        for object in self.registry.objects() {
            match object {
                ObjectInfo::Mutex { holder, waiters, .. } => {
                    let holds = self.parties.iter().find(|(_, known)| known.fence.is_some());
                    assert_eq!(holder, holds.map(|(party, _)| *party));
                    assert!(holder.is_some() || waiters.is_empty(), "nobody waits for nothing");
                }
                ObjectInfo::Semaphore { units, waiters, .. } => {
                    assert_eq!(units + taken, UNITS, "none is made or lost");
                    if let Some(first) = waiters.first() {
                        match self.parties[first].waits {
                            Some((_, Act::Take { units: wanted, .. })) => assert!(wanted > units),
                            ref other => panic!("{other:?}"),
                        }
                    }
                }
                ObjectInfo::Mailbox { messages, senders, receivers, .. } => {
                    assert!(messages == 0 || receivers.is_empty());
                    assert!(messages >= CAPACITY || senders.is_empty());
                    assert!(messages <= CAPACITY + PARTIES);
                }
                ObjectInfo::Variable { .. } => {}
            }
        }
    }

    /// All end: then what was sent and not confirmed is there, in order, and nothing else.
    fn finish(mut self) {
        for party in 0..PARTIES {
            self.act(party, Act::End);
        }
        let mut left = Vec::new();
        loop {
            let operation = mailbox(OfMailbox::Receive);
            self.registry.ask(MASTER, Call { number: 0, wait: Wait::No, operation });
            match self.registry.take_replies().pop() {
                Some((MASTER, Reply::Named { answer: Answer::Message(message), .. })) => {
                    left.push(number(&message));
                }
                Some((MASTER, Reply::Named { answer: Answer::WouldWait, .. })) => break,
                other => panic!("{other:?}"),
            }
        }
        let there: Vec<u64> = self.sent.difference(&self.received).copied().collect();
        left.sort_unstable();
        assert_eq!(left, there, "what was sent and not received, each once");
        self.registry.end(MASTER);
        assert!(self.registry.parties.is_empty(), "{:?}", self.registry.parties);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_made_or_lost(acts in acts()) {
        let mut play = Play::new();
        for (party, act) in acts {
            play.act(party, act);
        }
        play.finish();
    }
}

fn create(registry: &mut Registry, name: &str, idle: Duration) {
    let options = VariableOptions { idle: Some(idle), ..VariableOptions::default() };
    let action = OfVariable::Create { options, type_name: String::new(), value: None };
    let operation = Operation::Variable { name: name.to_owned(), kind: 1, action };
    registry.ask(0, Call { number: 1, wait: Wait::No, operation });
}

fn is_there(registry: &Registry, name: &str) -> bool {
    let is =
        |object: &ObjectInfo| matches!(object, ObjectInfo::Variable { name: other, .. } if other == name);
    registry.objects().iter().any(is)
}

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn what_is_used_does_not_expire() {
    let mut registry = Registry::new(10);
    create(&mut registry, "used", HOUR);
    create(&mut registry, "unused", HOUR);
    let due = registry.deadline().unwrap();
    registry.expire(due - Duration::from_secs(1));
    assert!(is_there(&registry, "used") && is_there(&registry, "unused"));
    // Its time begins anew, a moment later than before.
    let used = Operation::Variable { name: "used".to_owned(), kind: 1, action: OfVariable::Version };
    registry.ask(0, Call { number: 2, wait: Wait::No, operation: used });
    assert_eq!(registry.deadline(), Some(due), "that is written down when it is looked at");
    registry.expire(due);
    assert!(is_there(&registry, "used"));
    registry.expire(due + HOUR);
    assert!(!is_there(&registry, "used") && !is_there(&registry, "unused"));
    assert_eq!(registry.deadline(), None, "nothing is waited for any more");
}

fn variable(action: OfVariable) -> Operation {
    Operation::Variable { name: name(), kind: 1, action }
}

/// Asks something that is answered at once, and nothing else is said to anybody.
fn ask(registry: &mut Registry, party: u64, operation: Operation) -> Answer {
    registry.take_replies();
    registry.ask(party, Call { number: 7, wait: Wait::ForEver, operation });
    match &registry.take_replies()[..] {
        [(answered, Reply::Named { number: 7, answer })] if *answered == party => answer.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_deleted_leaves_no_expiry() {
    let mut registry = Registry::new(10);
    for round in 0..10 {
        create(&mut registry, "x", HOUR);
        if round % 2 == 0 {
            // It was used since its expiry was noted, and that was looked at.
            ask(&mut registry, 0, variable(OfVariable::Version));
            let due = registry.deadline().unwrap();
            registry.expire(due);
            assert!(registry.deadline().is_some_and(|later| later > due));
        }
        assert_eq!(ask(&mut registry, 0, variable(OfVariable::Delete)), Answer::Removed(true));
        assert_eq!(registry.deadline(), None, "round {round}");
    }
}

#[test]
fn what_is_computed_does_not_expire() {
    let mut registry = Registry::new(10);
    create(&mut registry, "x", HOUR);
    assert_eq!(ask(&mut registry, 1, variable(OfVariable::GetLazily)), Answer::Compute);
    // The first of these is due to what was asked, and the others to nothing else than that it is computed.
    for _ in 0..3 {
        let due = registry.deadline().unwrap();
        registry.expire(due);
        assert!(is_there(&registry, "x"));
    }
    registry.tell(1, Told::Uncomputed { name: name() });
    let due = registry.deadline().unwrap();
    registry.expire(due + HOUR);
    assert!(!is_there(&registry, "x"), "it is nobody's");
}

#[test]
fn nobody_is_told_of_what_it_does_not_watch_any_more() {
    let mut registry = Registry::new(10);
    create(&mut registry, "x", HOUR);
    registry.take_replies();
    for watch in 1..100 {
        let condition = Condition::Newer { name: name(), kind: 1, than: 0 };
        registry.tell(1, Told::Watch { watch, condition });
        registry.tell(1, Told::Unwatch { watch });
    }
    assert!(registry.take_replies().is_empty());
    let set = OfVariable::Set { value: bytes(1), expected: None };
    assert_eq!(ask(&mut registry, 0, variable(set)), Answer::Version(1), "and nothing else is said");
}
