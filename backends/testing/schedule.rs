//! The umpire: threads that use shared memory by turns, in every order in which the turn changes few times.
//!
//! Exactly one of the *players* runs, and before each of its accesses to memory the umpire decides whether it goes on, another
//! has the turn, or it dies. The decisions are made differently in each game, until all have been made: so what
//! can happen between any two accesses does happen, without luck, and happens again when it is tried again. Few changes
//! of turn are enough: nearly all mistakes that are known need two.
//!
//! Sleeps on a word are the umpire's, too. If all players sleep, time passes: the one with the nearest limit has waited for
//! so long. Where nobody has died that is a wake that was lost, and the game is lost with it.
//!
//! A player dies by never making another access: its handles are closed, and those of files give back what the
//! kernel gives back of a process. It must not have begun anything outside of this memory that others wait for.
//!
//! What it does not do: accesses happen as a whole, in an order that all see alike; what processors do beyond that is
//! for loom. It does not find out who waits for anything but memory: a mutex of the standard library that is held during an
//! access stops the game.

use std::cell::RefCell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::thread;
use std::time::{Duration, Instant};

use super::observed::{Access, Observed, Observer};
use crate::patience;
use crate::shm::{OutOfBounds, Waited, Window};
use crate::sync::global::{Arc, Condvar, Mutex, lock};

/// `B`, whose users take turns when they play.
pub type Umpired<B> = Observed<B, Umpire>;

/// Decides.
#[derive(Debug)]
pub struct Umpire;

/// How far it goes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How often at most the turn is taken from somebody who could go on.
    pub changes: u32,
    /// How many players at most die.
    pub deaths: u32,
    /// How many games at most are played.
    pub games: u64,
}

/// One game: who plays, and what must be true in the end.
pub struct Game {
    players: Vec<Player>,
    judge: Judge,
}

type Judge = Box<dyn FnOnce(&[Fate])>;

struct Player {
    act: Box<dyn FnOnce() + Send>,
    may_die: bool,
}

impl fmt::Debug for Game {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Game").field("players", &self.players.len()).finish_non_exhaustive()
    }
}

/// How a player ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It came to its end.
    Finished,
    /// It died.
    Died,
}

/// What was played.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Played {
    /// Games.
    pub games: u64,
    /// Games in which somebody died.
    pub deaths: u64,
    /// Whether they were all that there are.
    pub all: bool,
}

impl Game {
    /// A game that is judged so, after all have ended: by how each of them has, in the order in which they were added.
    pub fn new(judge: impl FnOnce(&[Fate]) + 'static) -> Game {
        Game { players: Vec::new(), judge: Box::new(judge) }
    }

    /// With this player, who has opened what it uses before, and does not die.
    #[must_use]
    pub fn player(mut self, act: impl FnOnce() + Send + 'static) -> Game {
        self.players.push(Player { act: Box::new(act), may_die: false });
        self
    }

    /// The same with one who may die.
    #[must_use]
    pub fn mortal(mut self, act: impl FnOnce() + Send + 'static) -> Game {
        self.players.push(Player { act: Box::new(act), may_die: true });
        self
    }
}

/// Plays again and again, differently each time, with a new game that `prepare` sets up. What was played.
///
/// # Panics
/// If a player or a judge panics, or all players sleep where nobody has died; after printing what was done.
pub fn explore(limits: Limits, mut prepare: impl FnMut() -> Game) -> Played {
    let mut played = Played::default();
    let mut path = Vec::new();
    while played.games < limits.games {
        let Game { players, judge } = prepare();
        let table = Arc::new(Table::new(limits, &players, std::mem::take(&mut path)));
        thread::scope(|scope| {
            for (number, player) in players.into_iter().enumerate() {
                let seat = Seat { table: Arc::clone(&table), number };
                scope.spawn(move || seat.play(player.act));
            }
            lock(&table.state).begin();
            table.changed.notify_all();
        });
        let mut state = std::mem::take(&mut *lock(&table.state));
        played.games += 1;
        played.deaths += u64::from(state.deaths > 0);
        let fates: Vec<Fate> = state.players.iter().map(|player| player.fate()).collect();
        let judged = match state.failure.take() {
            Some(failure) => Err(failure),
            None => catch_unwind(AssertUnwindSafe(|| judge(&fates))),
        };
        if let Err(failure) = judged {
            eprintln!("game {}: {fates:?}", played.games);
            for (player, access, at) in state.log {
                eprintln!("  player {player}: {access:?} {at}");
            }
            resume_unwind(failure);
        }
        path = state.path;
        // The last decision that can be another one is.
        loop {
            match path.last_mut() {
                None => return Played { all: true, ..played },
                Some(choice) if choice.taken + 1 < choice.options.len() => {
                    choice.taken += 1;
                    break;
                }
                Some(_) => drop(path.pop()),
            }
        }
    }
    played
}

/// What can be decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    GoOn,
    /// This one has the turn.
    Turn(usize),
    Die,
}

struct Choice {
    taken: usize,
    options: Vec<Decision>,
}

#[derive(Clone, Copy, Debug)]
enum Status {
    Ready,
    Asleep { object: u64, at: usize, mask: u32, until: Option<Instant> },
    Ended(Fate),
}

struct Sitting {
    status: Status,
    may_die: bool,
    is_dead: bool,
    /// How its last sleep ended.
    waited: Waited,
}

impl Sitting {
    fn fate(&self) -> Fate {
        match self.status {
            Status::Ended(fate) => fate,
            Status::Ready | Status::Asleep { .. } => Fate::Died,
        }
    }

    fn is_ready(&self) -> bool {
        matches!(self.status, Status::Ready)
    }
}

#[derive(Default)]
struct State {
    limits: Option<Limits>,
    players: Vec<Sitting>,
    /// Who runs.
    turn: Option<usize>,
    path: Vec<Choice>,
    /// How many decisions were made in this game.
    made: usize,
    changes: u32,
    deaths: u32,
    failure: Option<Box<dyn std::any::Any + Send>>,
    /// What was done, and by whom.
    log: Vec<(usize, Access, usize)>,
}

struct Table {
    state: Mutex<State>,
    changed: Condvar,
}

impl Table {
    fn new(limits: Limits, players: &[Player], path: Vec<Choice>) -> Table {
        let players = players.iter().map(|player| Sitting {
            status: Status::Ready,
            may_die: player.may_die,
            is_dead: false,
            waited: Waited::Woken,
        });
        let state = State { limits: Some(limits), players: players.collect(), path, ..State::default() };
        Table { state: Mutex::new(state), changed: Condvar::new() }
    }
}

impl State {
    fn begin(&mut self) {
        self.pass_on();
    }

    /// Makes the next decision: as in the game before, or the first that there is.
    fn decide(&mut self, options: Vec<Decision>) -> Decision {
        if options.len() == 1 {
            return options[0];
        }
        let made = self.made;
        self.made += 1;
        match self.path.get_mut(made) {
            Some(choice) if choice.options == options => choice.options[choice.taken],
            known => {
                // What is known of another game, which time has made, is of no use here.
                if known.is_some() {
                    self.path.truncate(made);
                }
                self.path.push(Choice { taken: 0, options });
                self.path[made].options[0]
            }
        }
    }

    fn others(&self, player: usize) -> impl Iterator<Item = Decision> + '_ {
        let ready = (0..self.players.len()).filter(move |other| *other != player);
        ready.filter(|other| self.players[*other].is_ready()).map(Decision::Turn)
    }

    /// Gives the turn to somebody: the one who has it cannot go on. If all sleep time passes.
    fn pass_on(&mut self) {
        let nobody = self.players.len();
        let options: Vec<Decision> = self.others(nobody).collect();
        if !options.is_empty() {
            let Decision::Turn(player) = self.decide(options) else {
                unreachable!("only turns were offered")
            };
            self.turn = Some(player);
            return;
        }
        let sleeps = self.players.iter().enumerate().filter_map(|(player, sitting)| match sitting.status {
            Status::Asleep { until, .. } => Some((until, player)),
            _ => None,
        });
        let nearest = sleeps.min_by_key(|(until, player)| (until.is_none(), *until, *player));
        let Some((until, player)) = nearest else {
            self.turn = None;
            return;
        };
        let until = until.filter(|_| self.deaths > 0 || self.failure.is_some());
        let Some(until) = until else {
            // The first to be woken ends the game for all.
            self.failure.get_or_insert_with(|| Box::new("all players sleep"));
            self.players[player].is_dead = true;
            self.awake(player, Waited::Elapsed);
            self.turn = Some(player);
            return;
        };
        // The players look at clocks, too: the time has to have passed for them.
        #[allow(clippy::disallowed_methods, reason = "nothing is waited for but the time")]
        thread::sleep(until.saturating_duration_since(Instant::now()));
        self.awake(player, Waited::Elapsed);
        self.turn = Some(player);
    }

    fn awake(&mut self, player: usize, waited: Waited) {
        self.players[player].status = Status::Ready;
        self.players[player].waited = waited;
    }
}

/// A place at the table.
struct Seat {
    table: Arc<Table>,
    number: usize,
}

thread_local! {
    static SEAT: RefCell<Option<Arc<Seat>>> = const { RefCell::new(None) };
}

/// What a player that dies is unwound by.
struct Killed;

impl Seat {
    fn play(self, act: impl FnOnce()) {
        let seat = Arc::new(self);
        SEAT.set(Some(Arc::clone(&seat)));
        patience::forbid();
        seat.await_turn();
        let ended = catch_unwind(AssertUnwindSafe(act));
        let mut state = lock(&seat.table.state);
        let fate = match ended {
            Ok(()) => Fate::Finished,
            Err(payload) if payload.is::<Killed>() => Fate::Died,
            Err(payload) => {
                state.failure.get_or_insert(payload);
                Fate::Finished
            }
        };
        state.players[seat.number].status = Status::Ended(fate);
        state.pass_on();
        drop(state);
        seat.table.changed.notify_all();
    }

    fn await_turn(&self) {
        let mut state = lock(&self.table.state);
        while state.turn != Some(self.number) {
            state = self.table.changed.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
    }

    /// Before an access. Whether it may be made: the dead make none.
    fn step(&self, access: Access, at: usize) -> bool {
        let mut state = lock(&self.table.state);
        if state.players[self.number].is_dead || state.failure.is_some() {
            let is_new = !state.players[self.number].is_dead;
            state.players[self.number].is_dead = true;
            drop(state);
            if is_new {
                unwind();
            }
            return false;
        }
        let limits = state.limits.expect("a game has limits");
        let mut options = vec![Decision::GoOn];
        if state.changes < limits.changes {
            options.extend(state.others(self.number));
        }
        if state.deaths < limits.deaths && state.players[self.number].may_die {
            options.push(Decision::Die);
        }
        match state.decide(options) {
            Decision::GoOn => {
                state.log.push((self.number, access, at));
                return true;
            }
            Decision::Turn(other) => {
                state.changes += 1;
                state.turn = Some(other);
            }
            Decision::Die => {
                state.deaths += 1;
                state.players[self.number].is_dead = true;
                drop(state);
                unwind();
                return false;
            }
        }
        drop(state);
        self.table.changed.notify_all();
        self.await_turn();
        let mut state = lock(&self.table.state);
        if state.failure.is_none() {
            state.log.push((self.number, access, at));
            return true;
        }
        // Others have lost the game meanwhile.
        drop(state);
        self.step(access, at)
    }

    /// Sleeps; the word is what was expected.
    fn sleep(&self, object: u64, at: usize, mask: u32, limit: Duration) -> Waited {
        let mut state = lock(&self.table.state);
        let until = Instant::now().checked_add(limit);
        state.players[self.number].status = Status::Asleep { object, at, mask, until };
        state.pass_on();
        drop(state);
        self.table.changed.notify_all();
        self.await_turn();
        let state = lock(&self.table.state);
        let (waited, is_over) = (state.players[self.number].waited, state.failure.is_some());
        drop(state);
        if is_over && !thread::panicking() {
            lock(&self.table.state).players[self.number].is_dead = true;
            unwind();
        }
        waited
    }

    fn wake(&self, object: u64, at: usize, count: u32, mask: u32) {
        let mut state = lock(&self.table.state);
        let mut left = count;
        for player in 0..state.players.len() {
            match state.players[player].status {
                Status::Asleep { object: other, at: place, mask: bits, .. }
                    if left > 0 && (other, place) == (object, at) && bits & mask != 0 =>
                {
                    state.awake(player, Waited::Woken);
                    left -= 1;
                }
                _ => {}
            }
        }
    }
}

/// The player goes no further; but one that is unwound already, and is told at each access that it makes on the way.
fn unwind() {
    if !thread::panicking() {
        resume_unwind(Box::new(Killed));
    }
}

fn seat() -> Option<Arc<Seat>> {
    SEAT.with_borrow(Clone::clone)
}

impl Observer for Umpire {
    fn access(access: Access, at: usize) -> Result<(), OutOfBounds> {
        match seat() {
            Some(seat) if !seat.step(access, at) => Err(OutOfBounds { at, count: 1, words: 0 }),
            _ => Ok(()),
        }
    }

    fn wait<W: Window>(
        object: u64,
        window: W,
        at: usize,
        expected: u32,
        limit: Duration,
        mask: u32,
    ) -> Result<Waited, OutOfBounds> {
        let Some(seat) = seat() else { return window.wait(at, expected, limit, mask) };
        if window.load(at)? == expected { Ok(seat.sleep(object, at, mask, limit)) } else { Ok(Waited::Woken) }
    }

    fn wake<W: Window>(object: u64, window: W, at: usize, count: u32, mask: u32) -> Result<(), OutOfBounds> {
        match seat() {
            Some(seat) => seat.wake(object, at, count, mask),
            None => window.wake(at, count, mask)?,
        }
        Ok(())
    }
}
