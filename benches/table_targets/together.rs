//! Two parties at once, on different cores: processes with a table, threads with the anchor.

use std::thread;
use std::time::{Duration, Instant};

use manycore::{Context, Failure, Futex, PosixShm, Runtime, Worker};
use serde::{Deserialize, Serialize};

use crate::machine::{Meeting, cores, pin};
use crate::report::{Judged, Limit, Report, Row};
use crate::store::{Anchor, Random, Store, Subject, Table, keys, shuffled};

/// How long the parties work.
const TIME: Duration = Duration::from_millis(300);
/// Counters that two writers increment.
const COUNTERS: usize = 1000;
/// Operations between two looks at the clock.
const STRETCH: usize = 64;

/// What a party does all the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Role {
    Reader,
    Writer,
    Counter,
}

/// Who works at once, scene by scene. In every scene of a list the same table is used.
const BINDINGS: [&[Role]; 4] =
    [&[Role::Reader], &[Role::Reader, Role::Reader], &[Role::Writer], &[Role::Writer, Role::Reader]];
const INCREMENTS: [&[Role]; 2] = [&[Role::Counter], &[Role::Counter, Role::Counter]];

/// What a party has done.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Work {
    operations: usize,
    time: Duration,
}

impl Work {
    /// Million operations per second.
    fn speed(&self) -> f64 {
        self.operations as f64 / self.time.as_secs_f64() / 1e6
    }
}

/// The speeds of all parties, scene by scene.
type Speeds = Vec<Vec<f64>>;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Invitation {
    table: String,
    meeting: String,
    party: usize,
    role: Role,
    size: usize,
}

/// One of the processes.
const PARTY: Worker<Invitation, Work> = Worker::new("party", |_, invitation| {
    let Invitation { table, meeting, party, role, size } = invitation;
    pin(party, &cores());
    let table = Table::<PosixShm, Futex>::open(&table);
    work(&table, role, party, size, || Meeting::attend(&meeting, party))
});

/// All scenes with one party: threads for the anchor, processes otherwise.
const SCENES: Worker<(Subject, usize, bool), Speeds> =
    Worker::fallible("scenes", |context, (subject, size, counting)| {
        let scenes: &[&[Role]] = if counting { &INCREMENTS } else { &BINDINGS };
        match subject {
            Subject::Anchor => {
                let anchor = Anchor::empty();
                act(&anchor, scenes, size, |roles| Ok(threads(&anchor, roles, size)))
            }
            Subject::SharedFutex => {
                let table = Table::<PosixShm, Futex>::empty();
                act(&table, scenes, size, |roles| processes(context, &table.name(), roles, size))
            }
            _ => Err(Failure::new("several processes need a lock")),
        }
    });

fn act<S: Store>(
    store: &S,
    scenes: &[&[Role]],
    size: usize,
    mut perform: impl FnMut(&[Role]) -> Result<Vec<Work>, Failure>,
) -> Result<Speeds, Failure> {
    let keys = keys(size);
    let counting = scenes[0] == [Role::Counter];
    if counting {
        keys.iter().for_each(|key| store.add(*key, &[0]));
    } else {
        keys.chunks(1000).for_each(|keys| store.add_group(keys, &mut [0]));
    }
    let mut speeds = Speeds::new();
    let mut operations = 0;
    for roles in scenes {
        let works = perform(roles)?;
        operations += works.iter().map(|work| work.operations).sum::<usize>();
        speeds.push(works.iter().map(Work::speed).collect());
    }
    if counting {
        let counted: usize = keys.iter().map(|key| store.find(*key).unwrap()[0] as usize).sum();
        assert_eq!(counted, operations, "increments were lost");
    }
    Ok(speeds)
}

fn processes(context: &mut Context, table: &str, roles: &[Role], size: usize) -> Result<Vec<Work>, Failure> {
    let meeting = Meeting::of(roles.len());
    let mut workers = Vec::new();
    for (party, role) in roles.iter().enumerate() {
        let invitation =
            Invitation { table: table.to_owned(), meeting: meeting.name(), party, role: *role, size };
        workers.push(context.start(&PARTY, invitation)?);
    }
    workers.into_iter().map(|worker| Ok(context.join(worker)?)).collect()
}

fn threads(anchor: &Anchor, roles: &[Role], size: usize) -> Vec<Work> {
    let meeting = Meeting::of(roles.len());
    let name = meeting.name();
    let cores = cores();
    let (name, cores) = (&name, &cores);
    thread::scope(|scope| {
        let start = |(party, role): (usize, &Role)| {
            let role = *role;
            scope.spawn(move || {
                pin(party, cores);
                work(anchor, role, party, size, || Meeting::attend(name, party))
            })
        };
        let running: Vec<_> = roles.iter().enumerate().map(start).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Plays a role for the given time.
fn work<S: Store>(store: &S, role: Role, party: usize, size: usize, meet: impl FnOnce()) -> Work {
    let keys = shuffled(&keys(size));
    let mut next = keys.iter().cycle().skip(party * size / 2);
    let mut random = Random(party as u64);
    let mut buffer = Vec::with_capacity(1);
    let mut operate = || match role {
        Role::Reader => assert!(store.find_into(*next.next().unwrap(), &mut buffer)),
        Role::Writer => {
            let key = *next.next().unwrap();
            store.replace(key, &[!key]);
        }
        Role::Counter => store.increment(keys[random.below(size)]),
    };
    (0..STRETCH).for_each(|_| {
        if role != Role::Counter {
            operate()
        }
    });
    meet();
    let start = Instant::now();
    let mut operations = 0;
    loop {
        (0..STRETCH).for_each(|_| operate());
        operations += STRETCH;
        let time = start.elapsed();
        if time >= TIME {
            return Work { operations, time };
        }
    }
}

/// Measures the anchor and the tables `rounds` times, each after the others.
pub(crate) fn measure(report: &mut Report, size: usize, rounds: usize) {
    let subject = Subject::SharedFutex;
    let (mut anchor, mut ours) = (Vec::new(), Vec::new());
    let (mut anchor_counting, mut ours_counting) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let run =
            |subject, size, counting| Runtime::new().with(&PARTY).run(&SCENES, (subject, size, counting));
        anchor.push(run(Subject::Anchor, size, false).unwrap());
        ours.push(run(subject, size, false).unwrap());
        anchor_counting.push(run(Subject::Anchor, COUNTERS, true).unwrap());
        ours_counting.push(run(subject, COUNTERS, true).unwrap());
    }
    let at_least = |limit| Judged::Ratio(Limit::AtLeast(limit));
    let mut row = |what: &str, who, together: Vec<f64>, alone: Vec<f64>, judged| {
        report.row(&Row::compared(what, who, &together, &alone, judged));
    };
    let anchor_name = Subject::Anchor.name();
    let sum = |rounds: &[Speeds], scene: usize| -> Vec<f64> {
        rounds.iter().map(|scenes| scenes[scene].iter().sum()).collect()
    };
    let party = |rounds: &[Speeds], scene: usize, party: usize| -> Vec<f64> {
        rounds.iter().map(|scenes| scenes[scene][party]).collect()
    };
    let ours_name = subject.name();
    row("two readers / one", ours_name, sum(&ours, 1), sum(&ours, 0), at_least(1.8));
    row("two readers / one", anchor_name, sum(&anchor, 1), sum(&anchor, 0), Judged::Nothing);
    row("writer beside a reader / alone", ours_name, party(&ours, 3, 0), sum(&ours, 2), at_least(0.6));
    row(
        "writer beside a reader / alone",
        anchor_name,
        party(&anchor, 3, 0),
        sum(&anchor, 2),
        Judged::Nothing,
    );
    row("reader beside a writer / alone", ours_name, party(&ours, 3, 1), sum(&ours, 0), at_least(0.6));
    row(
        "reader beside a writer / alone",
        anchor_name,
        party(&anchor, 3, 1),
        sum(&anchor, 0),
        Judged::Nothing,
    );
    let both = (sum(&ours_counting, 1), sum(&anchor_counting, 1));
    // All writers of a table wait for one lock.
    row("two counting / two of the anchor", ours_name, both.0.clone(), both.1.clone(), at_least(0.5));
    row("two counting / one", ours_name, both.0, sum(&ours_counting, 0), Judged::Nothing);
    row("two counting / one", anchor_name, both.1, sum(&anchor_counting, 0), Judged::Nothing);
}
