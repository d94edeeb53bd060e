//! The crash recorder: a backend that remembers every store, so that a test can look at the object as it
//! is after any prefix of them.
//!
//! A process that is killed stops between two instructions; what survives is the shared memory of that
//! moment. Stores become visible in program order (on x86; elsewhere releasing stores are never overtaken
//! by earlier ones, and all stores of this library release). So the images after 0, 1, 2, ... stores are
//! all that a survivor can find: [`images`] gives them one by one, runs of words cut after each word.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::time::Duration;

use crate::shm::{Memory, Open, OutOfBounds, ShmBackend, ShmError, Trust, Waited, Window};

thread_local! {
    static LOG: RefCell<Option<Vec<Store>>> = const { RefCell::new(None) };
}

/// One store of one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Store {
    /// The word.
    pub at: usize,
    /// What was stored.
    pub value: u32,
}

/// Runs `body` and returns the stores that the calling thread made in it through recorders.
pub fn record<T>(body: impl FnOnce() -> T) -> (T, Vec<Store>) {
    LOG.with(|log| *log.borrow_mut() = Some(Vec::new()));
    let value = body();
    let stores = LOG.with(|log| log.borrow_mut().take()).unwrap_or_default();
    (value, stores)
}

/// The words that the object `name` of the backend `B` has now.
///
/// # Errors
/// As [`ShmBackend::open`].
pub fn snapshot<B: ShmBackend>(name: &OsStr) -> Result<Vec<u32>, ShmError> {
    let object = B::open(name, Open::Existing)?;
    let words = (object.size()? / 4) as usize;
    let mut image = vec![0; words];
    object.memory().read(0, &mut image).expect("the size was asked just now");
    Ok(image)
}

/// The images after 0, 1, ... all of `stores`, made on top of `before`, of an object that has `words` words in the
/// end. Growing is not recorded; what was grown reads as zeros, so every image is as long as the last.
pub fn images<'a>(
    before: &'a [u32],
    stores: &'a [Store],
    words: usize,
) -> impl Iterator<Item = Vec<u32>> + 'a {
    let end = stores.iter().map(|store| store.at + 1).max().unwrap_or(0);
    let mut image = before.to_vec();
    image.resize(end.max(before.len()).max(words), 0);
    (0..=stores.len()).map(move |count| {
        if let Some(last) = count.checked_sub(1) {
            image[stores[last].at] = stores[last].value;
        }
        image.clone()
    })
}

/// Makes the object `name` of the backend `B`, which must not exist, with the words of `image`.
///
/// # Errors
/// As [`ShmBackend::open`] and [`ShmBackend::grow`].
pub fn restore<B: ShmBackend>(name: &OsStr, image: &[u32]) -> Result<(), ShmError> {
    let object = B::open(name, Open::CreateNew { mode: 0o600 })?;
    object.grow(image.len() as u64 * 4)?;
    object.memory().write(0, image).expect("the object was grown just now");
    Ok(())
}

/// `B`, recording stores.
#[derive(Debug)]
pub struct Recorder<B: ShmBackend>(Recording<B>);

/// The memory of a [`Recorder`].
#[derive(Debug)]
pub struct Recording<B: ShmBackend>(B);

/// The window of a [`Recorder`]'s memory.
#[derive(Clone, Copy, Debug)]
pub struct RecordingWindow<W>(W);

impl<B: ShmBackend> ShmBackend for Recorder<B> {
    type Memory = Recording<B>;

    fn open_trusting(name: &OsStr, how: Open, trust: Trust) -> Result<Self, ShmError> {
        Ok(Recorder(Recording(B::open_trusting(name, how, trust)?)))
    }

    fn unlink(name: &OsStr) -> Result<(), ShmError> {
        B::unlink(name)
    }

    fn try_clone(&self) -> Result<Self, ShmError> {
        Ok(Recorder(Recording(self.0.0.try_clone()?)))
    }

    fn name(&self) -> &OsStr {
        self.0.0.name()
    }

    fn size(&self) -> Result<u64, ShmError> {
        self.0.0.size()
    }

    fn grow(&self, bytes: u64) -> Result<(), ShmError> {
        self.0.0.grow(bytes)
    }

    fn intact(&self) -> Result<(), ShmError> {
        self.0.0.intact()
    }

    fn memory(&self) -> &Recording<B> {
        &self.0
    }

    fn chmod(&self, mode: u32) -> Result<(), ShmError> {
        self.0.0.chmod(mode)
    }

    fn chown(&self, user: Option<u32>, group: Option<u32>) -> Result<(), ShmError> {
        self.0.0.chown(user, group)
    }
}

impl<B: ShmBackend> Memory for Recording<B> {
    type Window<'a> = RecordingWindow<<B::Memory as Memory>::Window<'a>>;

    fn window(&self) -> Self::Window<'_> {
        RecordingWindow(self.0.memory().window())
    }
}

impl<W: Window> Window for RecordingWindow<W> {
    fn words(&self) -> usize {
        self.0.words()
    }

    fn load(&self, at: usize) -> Result<u32, OutOfBounds> {
        self.0.load(at)
    }

    fn store(&self, at: usize, value: u32) -> Result<(), OutOfBounds> {
        self.0.store(at, value)?;
        note(at, &[value]);
        Ok(())
    }

    fn read(&self, at: usize, into: &mut [u32]) -> Result<(), OutOfBounds> {
        self.0.read(at, into)
    }

    fn write(&self, at: usize, from: &[u32]) -> Result<(), OutOfBounds> {
        self.0.write(at, from)?;
        note(at, from);
        Ok(())
    }

    fn compare_exchange(&self, at: usize, current: u32, new: u32) -> Result<Result<u32, u32>, OutOfBounds> {
        let exchanged = self.0.compare_exchange(at, current, new)?;
        if exchanged.is_ok() {
            note(at, &[new]);
        }
        Ok(exchanged)
    }

    fn wait(&self, at: usize, expected: u32, limit: Duration, mask: u32) -> Result<Waited, OutOfBounds> {
        self.0.wait(at, expected, limit, mask)
    }

    fn wake(&self, at: usize, count: u32, mask: u32) -> Result<(), OutOfBounds> {
        self.0.wake(at, count, mask)
    }
}

fn note(at: usize, values: &[u32]) {
    LOG.with(|log| {
        if let Some(stores) = log.borrow_mut().as_mut() {
            stores.extend(
                values.iter().enumerate().map(|(index, value)| Store { at: at + index, value: *value }),
            );
        }
    });
}
