//! The cells of a queue: how messages get in and out, and what is left of those who died meanwhile.
//!
//! Messages have *positions*, counted from 0 modulo 2^32. With 2^k cells, position p is in cell `p mod 2^k`, in *lap*
//! `p / 2^k`, of which as many bits are kept as there are, up to 20.
//!
//! | word of a cell | content |
//! |---|---|
//! | 0 | state |
//! | 1 | length of the message in words |
//! | 2 | how often it was taken out |
//! | 3 .., or 16 .. if messages may be longer than 60 words | the message |
//!
//! | bits of the state | content |
//! |---|---|
//! | 1, 0 | phase: 0 empty, 1 being written, 2 full, 3 being read |
//! | 11 .. 2 | number of who writes or reads, else 0 |
//! | 31 .. 12 | lap: of the message; of an empty cell, of the message that comes next |
//!
//! The state is the only word that decides anything, and each change of it is one compare-and-exchange:
//!
//! | from | to | who |
//! |---|---|---|
//! | empty, lap l | being written by n, l | user n, who then writes the message |
//! | being written by n, l | full, l | user n: the message is sent |
//! | | empty, l + 1 | user n, who finds that the queue is closed; or whoever has found that n is dead: there was no message |
//! | full, l | being read by n, l | user n, who then reads the message |
//! | being read by n, l | empty, l + 1 | user n: the message is received |
//! | | full, l | user n, who gives it back; or whoever has found that n is dead: it is there for another |
//!
//! Two words help to find the cells, one line of memory each:
//!
//! * `tail`: all positions before it were taken by somebody who writes. Who writes begins there and takes the first that is
//!   empty, in its lap. Whoever finds that `tail` is taken raises it by one.
//! * `head`: all positions before it were received. Who reads begins there, passes those that others are reading, and
//!   takes the first that is full. Whoever finds that `head` was received raises it: by one, or, if its cell is laps ahead,
//!   as far as that says, for a position can be taken only when the one before it in its cell was received.
//!
//! So a user that dies, wherever it is, holds up nobody but for the one position that has its mark; and a message that was
//! taken and not received comes before all others when its reader dies. Two messages that one user sends are received in
//! this order. A writer that is stopped (`SIGSTOP`) in the middle of a message holds up all that come after it.
//!
//! A user that is held up during 2^20 laps between two instructions could take a position of a later lap, whose message
//! would come too late by so much; it would be lost for nobody.
//!
//! **Closing** is one word. Who writes looks at it once more after it has taken a position, and gives that up if it is set;
//! who reads looks at it before it looks for messages, and says that there will be none only after it has exchanged the
//! state of the empty cell for itself. So who takes this cell later knows what the reader knew, and gives it up.
//!
//! This module does not wait, and does not know what messages mean.

use manycore_backends::lock::{Presence, USERS};
use manycore_backends::shm::Window;

use super::super::error::{Result, SharedError};
use super::super::object::BODY;

/// All positions before this were taken by who writes.
const TAIL: usize = BODY;
/// All positions before this were received.
const HEAD: usize = BODY + 16;
/// Who waits for a message.
pub(super) const RECEIVERS: usize = BODY + 32;
/// Who waits for room.
pub(super) const SENDERS: usize = BODY + 48;
/// 1 if nothing can be sent any more.
const CLOSED: usize = BODY + 64;
/// The first cell.
pub(super) const FIRST: usize = BODY + 80;

/// Words of a cell before the message, if messages are short.
const CELL_HEAD: usize = 3;
/// What a long one begins with is at the beginning of a line of memory: it is copied faster.
const LINE: usize = 16;
const LENGTH: usize = 1;
const DELIVERIES: usize = 2;

const LAP_SHIFT: u32 = 12;
const LAP_BITS: u32 = 32 - LAP_SHIFT;
const USER_SHIFT: u32 = 2;
const USER_MASK: u32 = (1 << 10) - 1;
const _: () = assert!(USERS <= USER_MASK + 1);

/// The most cells there can be, as a power of two.
pub(super) const LOG_MAX: u32 = 24;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Empty = 0,
    Writing = 1,
    Full = 2,
    Reading = 3,
}

/// The first word of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State(u32);

impl State {
    fn new(phase: Phase, user: u32, lap: u32) -> State {
        State(phase as u32 | user << USER_SHIFT | lap << LAP_SHIFT)
    }

    fn phase(self) -> Phase {
        match self.0 & 3 {
            0 => Phase::Empty,
            1 => Phase::Writing,
            2 => Phase::Full,
            _ => Phase::Reading,
        }
    }

    fn user(self) -> u32 {
        self.0 >> USER_SHIFT & USER_MASK
    }

    fn lap(self) -> u32 {
        self.0 >> LAP_SHIFT
    }
}

/// How many cells there are, and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// As a power of two.
    pub(super) log: u32,
    /// Words in the longest message.
    pub(super) words: usize,
}

impl Shape {
    pub(super) fn cells(self) -> usize {
        1 << self.log
    }

    /// Words from one cell to the next: so that short ones do not cross lines of memory.
    fn stride(self) -> usize {
        let words = self.head() + self.words;
        if words <= 8 { words.next_power_of_two() } else { words.next_multiple_of(LINE) }
    }

    /// Words of a cell before the message.
    fn head(self) -> usize {
        if self.words <= 60 { CELL_HEAD } else { LINE }
    }

    /// Words of the whole object.
    pub(super) fn object_words(self) -> Option<u64> {
        let words = (self.stride() as u64).checked_mul(self.cells() as u64)?.checked_add(FIRST as u64)?;
        (words <= u64::from(u32::MAX)).then_some(words)
    }
}

/// What came of trying.
#[derive(Debug)]
pub(super) enum Tried<T> {
    Done(T),
    /// It cannot be done now.
    NotNow,
    /// The queue is closed, and nothing is in it.
    Closed,
}

/// There is no room.
struct Full;

/// A message that is being written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Writing {
    place: usize,
    state: State,
}

/// A message that is being read: by its position.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    position: u32,
    state: State,
}

/// The cells, as one user sees them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cells<W> {
    pub(super) window: W,
    pub(super) shape: Shape,
    /// Of this user.
    pub(super) number: u32,
}

impl<W: Window> Cells<W> {
    fn place_of(&self, position: u32) -> usize {
        FIRST + (position as usize & (self.shape.cells() - 1)) * self.shape.stride()
    }

    fn lap_mask(&self) -> u32 {
        u32::MAX >> (32 - LAP_BITS.min(32 - self.shape.log))
    }

    fn lap_of(&self, position: u32) -> u32 {
        position >> self.shape.log & self.lap_mask()
    }

    fn next_lap(&self, lap: u32) -> u32 {
        lap.wrapping_add(1) & self.lap_mask()
    }

    /// The lap of the state, counted from that of the position.
    fn laps_ahead(&self, state: State, position: u32) -> u32 {
        state.lap().wrapping_sub(self.lap_of(position)) & self.lap_mask()
    }

    /// If the position was received, and its cell is so many laps ahead: the next that may not have been.
    #[inline(always)]
    fn after_received(&self, position: u32, laps: u32) -> Option<u32> {
        if !(1..=self.lap_mask() / 2).contains(&laps) {
            return None;
        }
        // The position of the lap before that of the cell was received, or it would be the cell's; so it was taken, and all
        // before it; so all of the lap before that were received.
        let received = position.wrapping_add((laps.max(2) - 2) << self.shape.log);
        Some(received.wrapping_add(1))
    }

    /// How often to look at most, where others go on all the time, or somebody has written what cannot be.
    fn looks(&self) -> usize {
        4 * self.shape.cells() + 64
    }

    /// Raises `head` as far as positions were received one after the other; where it is then.
    fn first(&self) -> Result<u32> {
        let mut position = self.window.load(HEAD)?;
        for _ in 0..self.looks() {
            let laps = self.laps_ahead(self.state_at(self.place_of(position))?, position);
            let Some(next) = self.after_received(position, laps) else { break };
            self.pass(HEAD, position, next)?;
            position = next;
        }
        Ok(position)
    }

    fn state_at(&self, place: usize) -> Result<State> {
        Ok(State(self.window.load(place)?))
    }

    #[inline(always)]
    fn change(&self, place: usize, from: State, to: State) -> Result<bool> {
        Ok(self.window.compare_exchange(place, from.0, to.0)?.is_ok())
    }

    /// Raises `tail` or `head`, if it is still at this position.
    #[inline(always)]
    fn pass(&self, at: usize, position: u32, next: u32) -> Result<()> {
        self.window.compare_exchange(at, position, next)?.map(drop).or(Ok(()))
    }

    pub(super) fn is_closed(&self) -> Result<bool> {
        Ok(self.window.load(CLOSED)? != 0)
    }

    pub(super) fn close(&self) -> Result<()> {
        self.window.compare_exchange(CLOSED, 0, 1)?.map(drop).or(Ok(()))
    }

    /// Messages that were sent, or are being sent, and were not received.
    pub(super) fn length(&self) -> Result<usize> {
        let mut length = 0;
        self.each_taken(|state| {
            length += usize::from(state.phase() != Phase::Empty);
            false
        })?;
        Ok(length)
    }

    /// Whether there is a message for who looks for one.
    pub(super) fn has_message(&self) -> Result<bool> {
        let mut next = None;
        self.each_taken(|state| match state.phase() {
            Phase::Reading | Phase::Empty => false,
            phase => next.replace(phase).is_none(),
        })?;
        Ok(next == Some(Phase::Full))
    }

    /// Calls `body` with the states of the positions that were taken by who writes, and are not known to have been received,
    /// until it says that it is enough; of one that was received meanwhile the state is that of an empty cell.
    fn each_taken(&self, mut body: impl FnMut(State) -> bool) -> Result<()> {
        let first = self.first()?;
        for index in 0..self.shape.cells() as u32 {
            let position = first.wrapping_add(index);
            let state = self.state_at(self.place_of(position))?;
            let state = match self.laps_ahead(state, position) {
                0 if state.phase() == Phase::Empty => break,
                0 => state,
                laps if self.after_received(position, laps).is_some() => State::new(Phase::Empty, 0, 0),
                _ => break,
            };
            if body(state) {
                break;
            }
        }
        Ok(())
    }

    /// Whether there is room for who wants to send.
    pub(super) fn has_room(&self) -> Result<bool> {
        let position = self.window.load(TAIL)?;
        let state = self.state_at(self.place_of(position))?;
        Ok(self.laps_ahead(state, position) <= 1)
    }

    /// Takes room for a message.
    #[inline(always)]
    pub(super) fn begin(&self) -> Result<Tried<Writing>> {
        if self.is_closed()? {
            return Ok(Tried::Closed);
        }
        let writing = match self.take_room()? {
            Ok(taken) => taken,
            Err(Full) if self.is_closed()? => return Ok(Tried::Closed),
            Err(Full) => return Ok(Tried::NotNow),
        };
        // After the position was taken: see above.
        if self.is_closed()? {
            self.abandon(&writing)?;
            return Ok(Tried::Closed);
        }
        Ok(Tried::Done(writing))
    }

    /// Writes a part of a message, which must fit.
    #[inline(always)]
    pub(super) fn write(&self, writing: &Writing, at: usize, words: &[u32]) -> Result<()> {
        Ok(self.window.write(writing.place + self.shape.head() + at, words)?)
    }

    /// The message is there, so long.
    #[inline(always)]
    pub(super) fn send(&self, writing: &Writing, length: u32) -> Result<()> {
        self.window.write(writing.place + LENGTH, &[length, 0])?;
        self.change_own(writing.place, writing.state, State::new(Phase::Full, 0, writing.state.lap()))
    }

    /// There is no message.
    pub(super) fn abandon(&self, writing: &Writing) -> Result<()> {
        let next = State::new(Phase::Empty, 0, self.next_lap(writing.state.lap()));
        self.change_own(writing.place, writing.state, next)?;
        self.first().map(drop)
    }

    /// The cell of the first position that nobody has taken.
    #[inline(always)]
    fn take_room(&self) -> Result<Result<Writing, Full>> {
        let mut position = self.window.load(TAIL)?;
        let mut met = None;
        loop {
            let place = self.place_of(position);
            let state = self.state_at(place)?;
            match (self.laps_ahead(state, position), state.phase()) {
                (0, Phase::Empty) => {
                    let writing = State::new(Phase::Writing, self.number, state.lap());
                    if self.change(place, state, writing)? {
                        self.pass(TAIL, position, position.wrapping_add(1))?;
                        return Ok(Ok(Writing { place, state: writing }));
                    }
                }
                // It was taken, in this lap, or so long ago that the next has begun.
                (0 | 1, _) => {
                    let next = position.wrapping_add(1);
                    self.pass(TAIL, position, next)?;
                    position = next;
                }
                (behind, _) if behind == self.lap_mask() && state.phase() != Phase::Empty => {
                    // Of the lap before: the queue is full.
                    return Ok(Err(Full));
                }
                _ => {
                    // Others have gone on by laps meanwhile, and `tail` with them; or it is nothing that can be.
                    if met.replace((position, state)) == Some((position, state)) {
                        return Err(SharedError::Corrupt { at: place, what: "a cell of an impossible lap" });
                    }
                    position = self.window.load(TAIL)?;
                }
            }
        }
    }

    /// Changes the state of a cell that has this user's mark, as nobody else does while it lives.
    #[inline(always)]
    fn change_own(&self, place: usize, from: State, to: State) -> Result<()> {
        if self.change(place, from, to)? {
            Ok(())
        } else {
            Err(SharedError::Corrupt {
                at: place,
                what: "a cell that this user was using was changed by another",
            })
        }
    }

    /// Takes the first message that nobody is reading.
    #[inline(always)]
    pub(super) fn take(&self) -> Result<Tried<Taken>> {
        // Before looking for messages: see above.
        let is_closed = self.is_closed()?;
        let mut position = self.window.load(HEAD)?;
        let (mut met, mut is_reading) = (None, false);
        for _ in 0..self.looks() {
            let place = self.place_of(position);
            let state = self.state_at(place)?;
            let laps = self.laps_ahead(state, position);
            match (laps, state.phase()) {
                (0, Phase::Full) => {
                    let reading = State::new(Phase::Reading, self.number, state.lap());
                    if self.change(place, state, reading)? {
                        return Ok(Tried::Done(Taken { position, state: reading }));
                    }
                }
                (0, Phase::Reading) => {
                    is_reading = true;
                    position = position.wrapping_add(1);
                }
                // What is being read may come back.
                (0, Phase::Empty) if is_closed && !is_reading => {
                    if self.change(place, state, state)? {
                        return Ok(Tried::Closed);
                    }
                }
                (0, Phase::Writing | Phase::Empty) => return Ok(Tried::NotNow),
                (behind, phase) if behind == self.lap_mask() && phase != Phase::Empty => {
                    // Once around, back at the one that others are reading.
                    return Ok(Tried::NotNow);
                }
                _ => match self.after_received(position, laps) {
                    // Perhaps so long ago that there are other messages.
                    Some(next) => {
                        self.pass(HEAD, position, next)?;
                        position = next;
                    }
                    None => {
                        if met.replace((position, state)) == Some((position, state)) {
                            return Err(SharedError::Corrupt {
                                at: place,
                                what: "a cell of an impossible lap",
                            });
                        }
                        (position, is_reading) = (self.window.load(HEAD)?, false);
                    }
                },
            }
        }
        // All that it has looked at went to others.
        Ok(Tried::NotNow)
    }

    /// The owners of marks that may keep somebody from sending, or from receiving, each once: who is writing or reading a
    /// message that was not received.
    pub(super) fn owners(&self) -> Result<impl Iterator<Item = u32> + use<W>> {
        let mut found = [0u32; (USER_MASK as usize + 1) / 32];
        self.each_taken(|state| {
            if let Some(owner) = owner(state) {
                found[owner as usize / 32] |= 1 << (owner % 32);
            }
            false
        })?;
        Ok((0..=USER_MASK).filter(move |user| found[*user as usize / 32] & 1 << (user % 32) != 0))
    }

    /// The length of a message that was taken, and how often it was taken before this time.
    #[inline(always)]
    pub(super) fn about(&self, taken: &Taken) -> Result<(usize, u32)> {
        let place = self.place_of(taken.position);
        let [length, deliveries] = self.window.read_array(place + LENGTH)?;
        if length as usize > self.shape.words {
            return Err(SharedError::Corrupt { at: place + LENGTH, what: "a message longer than its cell" });
        }
        self.window.store(place + DELIVERIES, deliveries.saturating_add(1))?;
        Ok((length as usize, deliveries))
    }

    /// Copies a part of a message that was taken.
    #[inline(always)]
    pub(super) fn read(&self, taken: &Taken, at: usize, into: &mut [u32]) -> Result<()> {
        Ok(self.window.read(self.place_of(taken.position) + self.shape.head() + at, into)?)
    }

    /// Copies a message that was taken, which is so long, behind others.
    #[inline(always)]
    pub(super) fn append(&self, taken: &Taken, length: usize, message: &mut Vec<u32>) -> Result<()> {
        Ok(self.window.append(self.place_of(taken.position) + self.shape.head(), length, message)?)
    }

    /// The message was received: there is room for another.
    #[inline(always)]
    pub(super) fn finish(&self, taken: &Taken) -> Result<()> {
        let lap = self.next_lap(taken.state.lap());
        self.change_own(self.place_of(taken.position), taken.state, State::new(Phase::Empty, 0, lap))?;
        self.pass(HEAD, taken.position, taken.position.wrapping_add(1))
    }

    /// The message was not received: it is there for another.
    pub(super) fn give_back(&self, taken: &Taken) -> Result<()> {
        let full = State::new(Phase::Full, 0, taken.state.lap());
        self.change_own(self.place_of(taken.position), taken.state, full)
    }

    /// Takes away all marks of a user who is dead, and whose number nobody can get meanwhile.
    pub(super) fn forget(&self, number: u32) -> Result<()> {
        for position in 0..self.shape.cells() {
            let place = FIRST + position * self.shape.stride();
            let state = self.state_at(place)?;
            if owner(state) != Some(number) {
                continue;
            }
            let after = match state.phase() {
                Phase::Writing => State::new(Phase::Empty, 0, self.next_lap(state.lap())),
                _ => State::new(Phase::Full, 0, state.lap()),
            };
            self.change(place, state, after)?;
        }
        self.first().map(drop)
    }

    /// Whether a user is dead; if so, its marks are gone.
    pub(super) fn bury(&self, presence: &Presence, number: u32) -> Result<bool> {
        let mut forgotten = Ok(());
        let is_dead = presence.is_dead(number, || forgotten = self.forget(number))?;
        forgotten?;
        Ok(is_dead)
    }
}

/// Whose mark is in a cell.
fn owner(state: State) -> Option<u32> {
    matches!(state.phase(), Phase::Writing | Phase::Reading).then(|| state.user())
}
