//! Whatever bytes a queue, a mutex, a semaphore or a set of permits consists of, and whatever a stranger writes to it between
//! operations, every operation ends, does not panic, and gives values no larger than the object.
//!
//! What waits for ever is left out: a stranger can keep others waiting, as a member of the program can.

#![no_main]

use std::ffi::OsStr;
use std::time::Duration;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use manycore::lock::Wait;
use manycore::shared::{
    Capacity, MutexGuard, Permit, Shared, SharedError, SharedOptions, ShmMutex, ShmPermits, ShmQueue,
    ShmSemaphore, Taken,
};
use manycore::shm::{Memory, Open};
use manycore::{Heap, ShmBackend};
use manycore_backends::testing::recorder::{restore, snapshot};

type Queue = ShmQueue<Vec<u32>, Heap>;
type Mutex = ShmMutex<Vec<u32>, Heap>;
type Semaphore = ShmSemaphore<Heap>;
type Permits = ShmPermits<Heap>;

const CAPACITY: Capacity = Capacity { messages: 4, words: 6 };

#[derive(Arbitrary, Debug)]
struct Input {
    kind: Kind,
    object: Object,
    acts: Vec<Act>,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Kind {
    Queue,
    Mutex,
    Semaphore,
    Permits,
}

#[derive(Arbitrary, Debug)]
enum Object {
    /// A sound one, with these words changed, and cut off here.
    Damaged(Vec<(u16, Word)>, Option<u16>),
    /// Any bytes.
    Bytes(Vec<u8>),
}

/// What a stranger writes.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Word {
    Any(u32),
    /// Likely to be a place, or a length.
    Place(u16),
    /// Another word of the object.
    CopyOf(u16),
    Flip(u8),
}

/// What it does depends on what the object is.
#[derive(Arbitrary, Debug)]
enum Act {
    Overwrite(u16, Word),
    /// Sends, sets, posts; acquires and keeps.
    Put(u8),
    /// Receives, gets, waits; gives back.
    Get,
    /// Takes and keeps; locks and keeps.
    Take,
    /// Finishes what was taken; unlocks.
    Finish,
    /// In place; by a condition.
    Otherwise(u8),
    Look,
    Close,
    Open,
}

const NAME: &str = "shared_bytes";

/// A stranger can keep others waiting.
fn options() -> SharedOptions {
    SharedOptions::new().waiting(Wait::Try)
}

fn overwrite(object: &Heap, at: u16, word: Word) {
    let memory = object.memory();
    let words = memory.words().max(1);
    let at = usize::from(at) % words;
    let word = match word {
        Word::Any(word) => word,
        Word::Place(place) => u32::from(place),
        Word::CopyOf(other) => memory.load(usize::from(other) % words).unwrap_or(0),
        Word::Flip(bit) => memory.load(at).unwrap_or(0) ^ 1 << (bit % 32),
    };
    let _ = memory.store(at, word);
}

/// Sound objects that something has happened to.
fn sound(kind: Kind) {
    match kind {
        Kind::Queue => {
            let queue: Queue = options().create(NAME, &CAPACITY).unwrap();
            (0..3).for_each(|number| queue.send(&vec![number; number as usize]).unwrap());
            queue.receive().unwrap();
            drop(queue.take().unwrap());
        }
        Kind::Mutex => {
            let mutex: Mutex = options().create(NAME, &vec![1, 2]).unwrap();
            mutex.set(vec![3; 40]).unwrap();
            mutex.set(vec![4; 4]).unwrap();
        }
        Kind::Semaphore => drop(options().create::<Semaphore>(NAME, &3).unwrap()),
        Kind::Permits => {
            let permits: Permits = options().create(NAME, &3).unwrap();
            drop(permits.acquire().unwrap());
        }
    }
}

fn prepare(input: &Input) {
    let name = OsStr::new(NAME);
    let _ = Heap::unlink(name);
    match &input.object {
        Object::Damaged(changes, end) => {
            sound(input.kind);
            let object = Heap::open(name, Open::Existing).unwrap();
            changes.iter().for_each(|(at, word)| overwrite(&object, *at, *word));
            if let Some(end) = end {
                let mut image = snapshot::<Heap>(name).unwrap();
                image.truncate(usize::from(*end));
                drop(object);
                Heap::unlink(name).unwrap();
                restore::<Heap>(name, &image).unwrap();
            }
        }
        Object::Bytes(bytes) => {
            let words = bytes.chunks_exact(4).map(|word| u32::from_ne_bytes(word.try_into().unwrap()));
            restore::<Heap>(name, &words.collect::<Vec<_>>()).unwrap();
        }
    }
}

/// Opens it; or creates it, if it can be taken for one whose creator has died.
fn open<S: Shared<Backend = Heap>>(asked: &S::Asked) -> Option<S> {
    options().open(NAME).or_else(|_| options().open_or_create(NAME, asked)).ok()
}

/// Does the acts with a handle, and whatever is kept between them.
fn run<'h, S, K>(handle: &'h S, object: &Heap, acts: &[Act], act: impl Fn(&'h S, &mut Vec<K>, &Act, usize)) {
    let mut kept = Vec::new();
    for each in acts {
        // The limit keeps the object itself from growing to what memory holds.
        let words = object.size().unwrap() as usize / 4;
        match each {
            _ if words > 1 << 24 => return,
            Act::Overwrite(at, word) => overwrite(object, *at, *word),
            each => act(handle, &mut kept, each, words),
        }
    }
}

fn on_queue<'h>(queue: &'h Queue, kept: &mut Vec<Taken<'h, Vec<u32>, Heap>>, act: &Act, words: usize) {
    match act {
        Act::Put(length) => drop(queue.try_send(&vec![7; usize::from(*length)])),
        Act::Get => {
            if let Ok(message) = queue.try_receive() {
                assert!(message.len() <= words);
            }
        }
        Act::Take => kept.extend(queue.try_take().ok().filter(|taken| taken.len() <= words)),
        Act::Finish => drop(kept.pop().map(Taken::finish)),
        Act::Otherwise(length) => {
            if let Ok(mut draft) = queue.draft(Wait::Try) {
                let _ = draft.write(1, &[1, 2]);
                let _ = draft.send(usize::from(*length));
            }
            if let Ok(message) = queue.borrow(Wait::Try) {
                assert!(message.words() <= words);
                let mut into = vec![0; usize::from(*length)];
                let _ = message.read(1, &mut into);
            }
        }
        Act::Look => {
            let capacity = queue.capacity();
            assert!(capacity.messages <= words && capacity.words <= words);
            assert!(queue.length().is_ok_and(|length| length <= capacity.messages));
            let _ = queue.is_closed();
        }
        Act::Close => drop(queue.close()),
        Act::Open => drop(open::<Queue>(&CAPACITY)),
        Act::Overwrite(..) => {}
    }
}

fn on_mutex<'h>(mutex: &'h Mutex, kept: &mut Vec<MutexGuard<'h, Vec<u32>, Heap>>, act: &Act, words: usize) {
    match act {
        Act::Put(length) => {
            // One that is locked here already is not waited for.
            let locked = if kept.is_empty() { mutex.try_lock().ok() } else { kept.pop() };
            if let Some(mut locked) = locked {
                let _ = locked.update(|value| value.resize(usize::from(*length), 8));
            }
        }
        Act::Get if kept.is_empty() => {
            if let Ok(value) = mutex.get() {
                assert!(value.len() <= words);
            }
        }
        Act::Get | Act::Take => kept.extend(mutex.try_lock().ok().filter(|value| value.len() <= words)),
        Act::Finish => drop(kept.pop()),
        Act::Otherwise(number) => {
            let condition = mutex.condvar(usize::from(*number % 8));
            let _ = condition.notify_all();
            if let Some(locked) = kept.pop() {
                let _ = condition.wait_timeout_while(locked, Duration::from_micros(1), |_| true);
            }
        }
        Act::Look | Act::Close => drop(format!("{mutex:?}")),
        Act::Open => drop(open::<Mutex>(&vec![1])),
        Act::Overwrite(..) => {}
    }
}

fn on_semaphore(semaphore: &Semaphore, _: &mut Vec<()>, act: &Act, _: usize) {
    match act {
        Act::Put(_) => drop(semaphore.post()),
        Act::Get | Act::Take => drop(semaphore.try_wait()),
        Act::Look => drop(semaphore.value()),
        Act::Otherwise(_) => drop(semaphore.wait_timeout(Duration::from_micros(1))),
        Act::Open => drop(open::<Semaphore>(&1)),
        Act::Finish | Act::Close | Act::Overwrite(..) => {}
    }
}

fn on_permits<'h>(permits: &'h Permits, kept: &mut Vec<Permit<'h, Heap>>, act: &Act, words: usize) {
    match act {
        Act::Put(_) | Act::Take => kept.extend(permits.try_acquire()),
        Act::Get | Act::Finish => drop(kept.pop()),
        Act::Look => {
            assert!(permits.available().is_ok_and(|available| available as usize <= words));
        }
        Act::Otherwise(_) => drop(permits.acquire_timeout(Duration::from_micros(1))),
        Act::Close => kept.clear(),
        Act::Open => drop(open::<Permits>(&2)),
        Act::Overwrite(..) => {}
    }
}

fuzz_target!(|input: Input| {
    prepare(&input);
    let object = Heap::open(OsStr::new(NAME), Open::Existing).unwrap();
    let acts = &input.acts[..input.acts.len().min(60)];
    // Another kind is told, whatever else is wrong.
    match input.kind {
        Kind::Queue => {
            drop(options().open::<Mutex>(NAME).inspect_err(|error: &SharedError| drop(error.to_string())))
        }
        _ => drop(options().open::<Queue>(NAME).inspect_err(|error: &SharedError| drop(error.to_string()))),
    }
    match input.kind {
        Kind::Queue => drop(open(&CAPACITY).map(|queue| run(&queue, &object, acts, on_queue))),
        Kind::Mutex => drop(open(&vec![5]).map(|mutex| run(&mutex, &object, acts, on_mutex))),
        Kind::Semaphore => drop(open(&3).map(|semaphore| run(&semaphore, &object, acts, on_semaphore))),
        Kind::Permits => drop(open(&3).map(|permits| run(&permits, &object, acts, on_permits))),
    }
});
