//! One direction of a link: a ring of words in shared memory, with one writing side and one reading side.
//!
//! | words | hold | written by |
//! |---|---|---|
//! | 0 | how many words were written, ever: the position where the next entry begins | the writer |
//! | 1 | how many messages went over the socket since the ring was offered: only a hint | the writer |
//! | 32 | how many words were read, ever | the reader |
//! | 64 | the reader's state, see below | the reader, and the writer from 2 to 1 |
//! | 96.. | the entries, in a ring of [`CAPACITY`] words | the writer |
//!
//! What is written by different sides is on different lines of the cache. Positions are counted in 32 bits and wrap; they
//! begin a little before that, so that every link does it.
//!
//! | words of an entry | hold |
//! |---|---|
//! | 0 | the length of the message in bytes, at most [`MESSAGE_MAX`] |
//! | 1 | how many messages went over the socket before it since the ring was offered, modulo 2^32 |
//! | 2.. | the message, the first byte the lowest of a word |
//!
//! | state | the reader | who writes an entry |
//! |---|---|---|
//! | 0 | does not know the ring yet | must not: nobody may ever read it |
//! | 1 | is looking, or does not wait | need not tell |
//! | 2 | is going to sleep on its descriptor | makes it 1 and rings the bell |
//! | 3 | has given its descriptor away, and is no more | must not |
//! | 4 | is gone | must not |
//!
//! A reader that goes to sleep makes the state 2 and *then* looks at the ring once more; a writer writes its entry and *then*
//! looks at the state. With a fence between the two steps on each side, at least one sees what the other has done.
//!
//! Each side believes its own position only. What it reads of the other's is checked, and copied before it is checked:
//! [`Nonsense`] is the end of the link. This module makes no system call and does not know sockets.

use std::ops::Range;

use crate::shm::{Memory, OutOfBounds, Window};
use crate::sync::fence;
use crate::sync::global::Ordering;

/// The largest message of an entry, in bytes.
pub(super) const MESSAGE_MAX: usize = 4 << 10;

/// Words of entries that fit.
pub(super) const CAPACITY: u32 = 16 << 10;

/// Bytes of the memory.
pub(super) const BYTES: u64 = (ENTRIES as u64 + CAPACITY as u64) * crate::shm::WORD;

/// Where things are, in words.
const WRITTEN: usize = 0;
const BY_SOCKET: usize = 1;
const READ: usize = 32;
const STATE: usize = 64;
const ENTRIES: usize = 96;

/// Words in front of the message in an entry.
const HEAD: u32 = 2;

/// Where positions begin.
const START: u32 = 0_u32.wrapping_sub(1000);

const UNKNOWN: u32 = 0;
const AWAKE: u32 = 1;
const ARMED: u32 = 2;
const LEFT: u32 = 3;
const GONE: u32 = 4;

/// The other side has written what it never would.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Nonsense;

impl From<OutOfBounds> for Nonsense {
    fn from(_: OutOfBounds) -> Nonsense {
        Nonsense
    }
}

/// What has become of an entry, or what is to be done first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// It is there.
    There,
    /// It is there, and the reader has to be told.
    Ring,
    /// There is no room, or the reader does not know the ring yet.
    Not,
    /// The reader is no more, but the link is.
    Left,
    /// The reader is gone, and the link with it.
    Gone,
}

/// The writing side.
#[derive(Debug)]
pub(super) struct Writer<M> {
    memory: M,
    written: u32,
    /// How far the reader was when that was last asked.
    read: u32,
    entry: Vec<u32>,
}

impl<M: Memory> Writer<M> {
    /// Begins to write to memory that is zero and of which nobody else knows yet.
    pub(super) fn new(memory: M) -> Result<Writer<M>, Nonsense> {
        let window = memory.window();
        window.store(WRITTEN, START)?;
        window.store(READ, START)?;
        Ok(Writer { memory, written: START, read: START, entry: Vec::new() })
    }

    /// Writes a message, before which so many went over the socket.
    pub(super) fn write(&mut self, message: &[u8], after: u32) -> Result<Written, Nonsense> {
        let window = self.memory.window();
        match window.load(STATE)? {
            UNKNOWN => return Ok(Written::Not),
            AWAKE | ARMED => {}
            LEFT => return Ok(Written::Left),
            GONE => return Ok(Written::Gone),
            _ => return Err(Nonsense),
        }
        let words = message.len().div_ceil(4) as u32 + HEAD;
        if self.written.wrapping_sub(self.read) + words > CAPACITY {
            let read = window.load(READ)?;
            let under_way = self.written.wrapping_sub(read);
            if under_way > self.written.wrapping_sub(self.read) {
                return Err(Nonsense);
            }
            self.read = read;
            if under_way + words > CAPACITY {
                return Ok(Written::Not);
            }
        }
        self.entry.clear();
        self.entry.extend([message.len() as u32, after]);
        let (whole, rest) = message.split_at(message.len() / 4 * 4);
        self.entry.extend(whole.chunks_exact(4).map(word));
        self.entry.extend(rest.chunks(4).map(word));
        let (first, second) = places(self.written, words);
        let (before, behind) = self.entry.split_at(first.len());
        window.write(first.start, before)?;
        window.write(second.start, behind)?;
        self.written = self.written.wrapping_add(words);
        window.store(WRITTEN, self.written)?;
        // Before the state is read: see the module's head.
        fence(Ordering::SeqCst);
        match window.load(STATE)? {
            ARMED => Ok(match window.compare_exchange(STATE, ARMED, AWAKE)? {
                Ok(_) => Written::Ring,
                Err(_) => Written::There,
            }),
            GONE => Ok(Written::Gone),
            // One that has left just now has left this behind, as all that it held.
            _ => Ok(Written::There),
        }
    }

    /// Tells how many messages went over the socket.
    pub(super) fn set_by_socket(&self, count: u32) -> Result<(), Nonsense> {
        Ok(self.memory.window().store(BY_SOCKET, count)?)
    }
}

/// An entry that was found; not yet what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// The length of the message.
    pub(super) length: usize,
    /// How many messages go before it over the socket.
    pub(super) after: u32,
}

/// The reading side.
#[derive(Debug)]
pub(super) struct Reader<M: Memory> {
    memory: M,
    /// How far the writer was when that was last asked.
    written: u32,
    read: u32,
    words: Vec<u32>,
    armed: bool,
}

impl<M: Memory> Reader<M> {
    /// Begins to read, and says so.
    pub(super) fn new(memory: M) -> Result<Reader<M>, Nonsense> {
        // Whatever it is: what the writer has written is measured against it.
        let read = memory.load(READ)?;
        memory.store(STATE, AWAKE)?;
        Ok(Reader { memory, written: read, read, words: Vec::new(), armed: false })
    }

    /// Whether an entry is there.
    pub(super) fn is_empty(&mut self) -> Result<bool, Nonsense> {
        if self.read == self.written {
            let written = self.memory.load(WRITTEN)?;
            if written.wrapping_sub(self.read) > CAPACITY {
                return Err(Nonsense);
            }
            self.written = written;
        }
        Ok(self.read == self.written)
    }

    /// The oldest entry.
    pub(super) fn first(&mut self) -> Result<Option<Entry>, Nonsense> {
        if self.is_empty()? {
            return Ok(None);
        }
        let window = self.memory.window();
        let length = window.load(place(self.read))? as usize;
        let after = window.load(place(self.read.wrapping_add(1)))?;
        let there = self.written.wrapping_sub(self.read);
        if length > MESSAGE_MAX || words_of(length) > there {
            return Err(Nonsense);
        }
        Ok(Some(Entry { length, after }))
    }

    /// Takes the oldest entry, which is this, and puts its message into `message`.
    pub(super) fn take(&mut self, entry: Entry, message: &mut Vec<u8>) -> Result<(), Nonsense> {
        let window = self.memory.window();
        let (first, second) = places(self.read.wrapping_add(HEAD), words_of(entry.length) - HEAD);
        self.words.clear();
        window.append(first.start, first.len(), &mut self.words)?;
        window.append(second.start, second.len(), &mut self.words)?;
        message.clear();
        message.resize(self.words.len() * 4, 0);
        for (bytes, word) in message.chunks_exact_mut(4).zip(&self.words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        message.truncate(entry.length);
        self.read = self.read.wrapping_add(words_of(entry.length));
        window.store(READ, self.read)?;
        Ok(())
    }

    /// How many messages have gone over the socket, if one believes it.
    pub(super) fn by_socket(&self) -> Result<u32, Nonsense> {
        Ok(self.memory.load(BY_SOCKET)?)
    }

    /// Says that the next entry is to be told. What was written before may not be: look once more.
    pub(super) fn arm(&mut self) -> Result<(), Nonsense> {
        self.memory.store(STATE, ARMED)?;
        self.armed = true;
        // Before the ring is looked at: see the module's head.
        fence(Ordering::SeqCst);
        Ok(())
    }

    /// Says that entries need not be told. The bell may be ringing already.
    pub(super) fn disarm(&mut self) -> Result<(), Nonsense> {
        if self.armed {
            self.memory.store(STATE, AWAKE)?;
            self.armed = false;
        }
        Ok(())
    }

    /// Says that nobody reads any more, though the link is there.
    pub(super) fn leave(&self) {
        let _ = self.memory.store(STATE, LEFT);
    }

    /// Says that the link is gone.
    pub(super) fn close(&self) {
        let _ = self.memory.store(STATE, GONE);
    }
}

/// Words of an entry with a message of so many bytes, at most [`MESSAGE_MAX`].
fn words_of(length: usize) -> u32 {
    length.div_ceil(4) as u32 + HEAD
}

/// The word at a position.
fn place(position: u32) -> usize {
    ENTRIES + (position % CAPACITY) as usize
}

/// The places of so many words, at most [`CAPACITY`]: behind each other, or at the end and from the beginning on.
fn places(position: u32, words: u32) -> (Range<usize>, Range<usize>) {
    let start = place(position);
    let end = ENTRIES + CAPACITY as usize;
    let first = (words as usize).min(end - start);
    (start..start + first, ENTRIES..ENTRIES + words as usize - first)
}

/// At most four bytes as a word.
fn word(bytes: &[u8]) -> u32 {
    match bytes.first_chunk() {
        Some(bytes) => u32::from_le_bytes(*bytes),
        None => bytes.iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte)),
    }
}
