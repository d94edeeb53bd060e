//! Every interleaving of a writer and of a reader of one track that goes to sleep.
//!
//! Not in the models: a reader that looks before it sleeps, and several readers, who take turns by a lock of their end.
//!
//! Nobody looks again by himself in the models: a bell that is not rung hangs, which loom reports.

use loom::sync::atomic::AtomicU32;
use loom::sync::{Arc, Condvar, Mutex};

use super::track::{BYTES, Nonsense, Reader, Writer, Written};
use crate::shm::{Memory, OutOfBounds, WORD, Waited, Window};
use crate::sync::global::Ordering;
use crate::sync::thread;

/// The words in front of the entries, and of the entries those that come first.
const HEAD: usize = 96;
const FIRST: usize = 96 + (0_u32.wrapping_sub(1000) % (16 << 10)) as usize;
const ENTRIES: usize = 9;

/// Memory of which only these words exist, in the order that shared memory has.
struct Words {
    head: [AtomicU32; 4],
    entries: [AtomicU32; ENTRIES],
}

#[derive(Clone)]
struct Sparse(Arc<Words>);

impl Sparse {
    fn new() -> Sparse {
        Sparse(Arc::new(Words {
            head: std::array::from_fn(|_| AtomicU32::new(0)),
            entries: std::array::from_fn(|_| AtomicU32::new(0)),
        }))
    }
}

impl Memory for Sparse {
    type Window<'a> = &'a Words;

    fn window(&self) -> &Words {
        &self.0
    }
}

impl Words {
    fn word(&self, at: usize) -> Result<&AtomicU32, OutOfBounds> {
        let word = match at {
            0 | 1 => self.head.get(at),
            32 => self.head.get(2),
            64 => self.head.get(3),
            0..HEAD => None,
            _ => at.checked_sub(FIRST).and_then(|at| self.entries.get(at)),
        };
        word.ok_or(OutOfBounds { at, count: 1, words: self.words() })
    }
}

impl Window for &Words {
    fn words(&self) -> usize {
        (BYTES / WORD) as usize
    }

    fn load(&self, at: usize) -> Result<u32, OutOfBounds> {
        Ok(self.word(at)?.load(Ordering::Acquire))
    }

    fn store(&self, at: usize, value: u32) -> Result<(), OutOfBounds> {
        self.word(at)?.store(value, Ordering::Release);
        Ok(())
    }

    fn read(&self, at: usize, into: &mut [u32]) -> Result<(), OutOfBounds> {
        into.iter_mut().enumerate().try_for_each(|(index, word)| {
            *word = self.load(at + index)?;
            Ok(())
        })
    }

    fn write(&self, at: usize, from: &[u32]) -> Result<(), OutOfBounds> {
        from.iter().enumerate().try_for_each(|(index, word)| self.store(at + index, *word))
    }

    fn compare_exchange(&self, at: usize, current: u32, new: u32) -> Result<Result<u32, u32>, OutOfBounds> {
        Ok(self.word(at)?.compare_exchange(current, new, Ordering::SeqCst, Ordering::SeqCst))
    }

    fn wait(&self, _: usize, _: u32, _: std::time::Duration, _: u32) -> Result<Waited, OutOfBounds> {
        unreachable!("a track sleeps on no word")
    }

    fn wake(&self, _: usize, _: u32, _: u32) -> Result<(), OutOfBounds> {
        unreachable!("a track sleeps on no word")
    }
}

/// What the socket is to a track: bells, counted.
#[derive(Default)]
struct Bell {
    rung: Mutex<u32>,
    changed: Condvar,
    /// How often it was asked for, less how often it was rung.
    asked: AtomicU32,
}

impl Bell {
    fn ring(&self) {
        assert_ne!(self.asked.fetch_sub(1, Ordering::AcqRel), 0, "nobody has asked for it");
        *self.rung.lock().unwrap() += 1;
        self.changed.notify_one();
    }

    fn wait(&self) {
        let mut rung = self.rung.lock().unwrap();
        while *rung == 0 {
            rung = self.changed.wait(rung).unwrap();
        }
        *rung -= 1;
    }
}

/// Takes the next message, as a receive that does not look does it.
fn receive(reader: &mut Reader<Sparse>, bell: &Bell) -> Result<Vec<u8>, Nonsense> {
    let mut message = Vec::new();
    loop {
        if let Some(entry) = reader.first()? {
            reader.take(entry, &mut message)?;
            reader.disarm()?;
            return Ok(message);
        }
        bell.asked.fetch_add(1, Ordering::AcqRel);
        reader.arm()?;
        if reader.is_empty()? {
            bell.wait();
        }
    }
}

fn model(body: impl Fn() + Send + Sync + 'static) {
    loom::model::Builder::new().check(body);
}

/// Messages that come one by one, and a bell for each time that it was asked for, at most.
#[test]
fn a_reader_that_goes_to_sleep_is_told_of_each_message() {
    model(|| {
        let memory = Sparse::new();
        let bell = Arc::new(Bell::default());
        let mut writer = Writer::new(memory.clone()).unwrap();
        let mut reader = Reader::new(memory).unwrap();
        let rings = Arc::clone(&bell);
        let writing = thread::spawn(move || {
            for message in [b"one", b"two"] {
                match writer.write(message, 0).unwrap() {
                    Written::Ring => rings.ring(),
                    Written::There => {}
                    other => panic!("{other:?}"),
                }
            }
        });
        for message in [b"one", b"two"] {
            assert_eq!(receive(&mut reader, &bell).unwrap(), message);
        }
        writing.join().unwrap();
    });
}
