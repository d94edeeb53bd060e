//! The laws of [`ShmBackend`], as tests.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use super::TestCase;
use crate::name::{self, NameError};
use crate::random;
use crate::shm::{Memory, Open, OutOfBounds, Owners, ShmBackend, ShmError, Trust, Window, create_unique};
use crate::spawn::{Child, Exit, Fork};

/// What a suite needs to know of a backend.
pub trait Subject: ShmBackend {
    /// A template for names of this backend, ending in `XXXXXX`.
    fn template() -> OsString;
}

impl Subject for crate::PosixShm {
    fn template() -> OsString {
        "/manycore-test-XXXXXX".into()
    }
}

impl Subject for crate::File {
    fn template() -> OsString {
        std::env::temp_dir().join("manycore-test-XXXXXX").into()
    }
}

impl Subject for crate::Heap {
    fn template() -> OsString {
        "/manycore-test-XXXXXX".into()
    }
}

/// A name that nobody has, of an object that is unlinked when the value is dropped.
#[derive(Debug)]
pub struct Fresh<B: Subject> {
    name: OsString,
    backend: std::marker::PhantomData<fn(B)>,
}

impl<B: Subject> Fresh<B> {
    /// Chooses a name.
    pub fn name() -> Fresh<B> {
        let random = random::bits().expect("random bits");
        let name = name::instantiate(&B::template(), random).expect("a template");
        Fresh { name, backend: std::marker::PhantomData }
    }
}

impl<B: Subject> std::ops::Deref for Fresh<B> {
    type Target = OsStr;
    fn deref(&self) -> &OsStr {
        &self.name
    }
}

impl<B: Subject> AsRef<OsStr> for Fresh<B> {
    fn as_ref(&self) -> &OsStr {
        &self.name
    }
}

impl<B: Subject> Drop for Fresh<B> {
    fn drop(&mut self) {
        let _ = B::unlink(&self.name);
    }
}

const NEW: Open = Open::CreateNew { mode: 0o600 };
const EITHER: Open = Open::Create { mode: 0o600 };

/// All laws. The caller runs them one after the other in a single-threaded program: some of them fork.
pub fn all<B: Subject>() -> Vec<TestCase> {
    vec![
        ("opening_says_what_is_there", opening_says_what_is_there::<B>),
        ("creators_at_once_share_one_object", creators_at_once_share_one_object::<B>),
        ("a_new_object_is_empty_and_grows_with_zeros", a_new_object_is_empty_and_grows_with_zeros::<B>),
        ("handles_share_words_and_growth", handles_share_words_and_growth::<B>),
        ("accesses_beyond_the_end_are_refused", accesses_beyond_the_end_are_refused::<B>),
        ("impossible_sizes_are_refused", impossible_sizes_are_refused::<B>),
        ("threads_grow_and_ask_at_once", threads_grow_and_ask_at_once::<B>),
        ("bad_names_are_refused", bad_names_are_refused::<B>),
        ("an_unlinked_object_lives_on_without_a_name", an_unlinked_object_lives_on_without_a_name::<B>),
        ("unique_names_are_fresh", unique_names_are_fresh::<B>),
        ("a_handle_for_reading_only_reads_only", a_handle_for_reading_only_reads_only::<B>),
        ("a_window_stays_as_it_is", a_window_stays_as_it_is::<B>),
        ("permissions_and_owner_can_be_set", permissions_and_owner_can_be_set::<B>),
        ("what_is_ones_own_is_opened", what_is_ones_own_is_opened::<B>),
        (
            "what_others_may_write_to_is_opened_if_that_is_said",
            what_others_may_write_to_is_opened_if_that_is_said::<B>,
        ),
        ("a_handle_is_refused_after_a_fork", a_handle_is_refused_after_a_fork::<B>),
    ]
}

/// Law 1.
pub fn opening_says_what_is_there<B: Subject>() {
    let name = Fresh::<B>::name();
    assert!(matches!(B::open(&name, Open::Existing), Err(ShmError::NotFound { .. })));
    let first = B::open(&name, NEW).unwrap();
    assert_eq!(first.name(), &*name);
    assert!(matches!(B::open(&name, NEW), Err(ShmError::AlreadyExists { .. })));
    B::open(&name, Open::Existing).unwrap();
    B::open(&name, EITHER).unwrap();
    B::unlink(&name).unwrap();
    assert!(matches!(B::unlink(&name), Err(ShmError::NotFound { .. })));
    assert!(matches!(B::open(&name, Open::Existing), Err(ShmError::NotFound { .. })));
}

/// Law 1.
pub fn creators_at_once_share_one_object<B: Subject>() {
    let name = Fresh::<B>::name();
    let made = std::thread::scope(|scope| {
        let exclusive: Vec<_> =
            (0..4).map(|_| scope.spawn(|| B::open(&name, NEW).is_ok() as usize)).collect();
        exclusive.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
    });
    assert_eq!(made, 1);
    B::unlink(&name).unwrap();
    let objects: Vec<B> = std::thread::scope(|scope| {
        let either: Vec<_> = (0..4).map(|_| scope.spawn(|| B::open(&name, EITHER).unwrap())).collect();
        either.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    objects[0].grow(4).unwrap();
    objects[0].memory().store(0, 77).unwrap();
    for object in &objects {
        object.size().unwrap();
        assert_eq!(object.memory().load(0), Ok(77));
    }
}

/// Law 2.
pub fn a_new_object_is_empty_and_grows_with_zeros<B: Subject>() {
    let name = Fresh::<B>::name();
    let object = B::open(&name, NEW).unwrap();
    assert_eq!(object.size().unwrap(), 0);
    assert_eq!(object.memory().words(), 0);
    object.grow(10).unwrap();
    assert!(object.size().unwrap() >= 12);
    object.memory().write(0, &[1, 2, 3]).unwrap();
    object.grow(1 << 20).unwrap();
    assert!(object.size().unwrap() >= 1 << 20);
    let mut words = vec![9; 1 << 18];
    object.memory().read(0, &mut words).unwrap();
    assert_eq!(words[..3], [1, 2, 3]);
    assert!(words[3..].iter().all(|word| *word == 0));
    object.grow(1).unwrap();
    assert!(object.size().unwrap() >= 1 << 20, "objects do not shrink");
}

/// Laws 3 and 4.
pub fn handles_share_words_and_growth<B: Subject>() {
    let name = Fresh::<B>::name();
    let first = B::open(&name, NEW).unwrap();
    let second = B::open(&name, Open::Existing).unwrap();
    first.grow(4096).unwrap();
    assert!(second.size().unwrap() >= 4096);
    first.memory().store(5, 55).unwrap();
    assert_eq!(second.memory().load(5), Ok(55));
    drop(first);
    std::thread::scope(|scope| {
        // Joined, so that it is really gone when a later test forks.
        scope.spawn(|| second.memory().store(6, 66).unwrap()).join().unwrap();
    });
    let third = B::open(&name, Open::Existing).unwrap();
    assert_eq!(third.memory().load(6), Ok(66));
}

/// Law 4.
pub fn accesses_beyond_the_end_are_refused<B: Subject>() {
    let name = Fresh::<B>::name();
    let object = B::open(&name, NEW).unwrap();
    object.grow(64).unwrap();
    let memory = object.memory();
    let words = memory.words();
    assert!(words >= 16);
    assert!(memory.load(words - 1).is_ok());
    assert!(memory.load(words).is_err());
    assert!(memory.store(words, 1).is_err());
    assert!(memory.load(usize::MAX).is_err());
    assert!(memory.read(words - 1, &mut [0; 2]).is_err());
    assert!(memory.read(usize::MAX, &mut [0; 2]).is_err());
    assert!(memory.write(words - 1, &[7, 7]).is_err());
    assert_eq!(memory.load(words - 1), Ok(0), "a refused write writes nothing");
    assert!(memory.read(words, &mut []).is_ok());
}

/// Law 2: a failure changes nothing.
pub fn impossible_sizes_are_refused<B: Subject>() {
    let name = Fresh::<B>::name();
    let object = B::open(&name, NEW).unwrap();
    object.grow(4096).unwrap();
    let size = object.size().unwrap();
    for bytes in [1 << 62, u64::MAX - 8, u64::MAX] {
        let error = object.grow(bytes).unwrap_err();
        assert!(matches!(error, ShmError::TooLarge { .. } | ShmError::Full { .. }), "{error}");
    }
    assert_eq!(object.size().unwrap(), size);
}

/// Laws 2 and 4: asking for the size while another thread grows the object is not taken for a truncation.
pub fn threads_grow_and_ask_at_once<B: Subject>() {
    let name = Fresh::<B>::name();
    let object = B::open(&name, NEW).unwrap();
    std::thread::scope(|scope| {
        let threads = [0, 1].map(|_| {
            scope.spawn(|| {
                for pages in 1..500 {
                    object.grow(4096 * pages).unwrap();
                    assert!(object.size().unwrap() >= 4096 * pages);
                }
            })
        });
        let _ = threads.map(|thread| thread.join().unwrap());
    });
}

/// Law 5.
pub fn bad_names_are_refused<B: Subject>() {
    let long = format!("/{}", "n".repeat(300)).leak().as_bytes();
    type Case = (&'static [u8], fn(&NameError) -> bool);
    let cases: [Case; 5] = [
        (b"", |error| *error == NameError::Empty),
        (b"/", |error| *error == NameError::Empty),
        (b"/a\0b", |error| matches!(error, NameError::Nul(_))),
        (b"/..", |error| matches!(error, NameError::Directory(_))),
        (long, |error| matches!(error, NameError::TooLong { length: 300, max: 255 })),
    ];
    for (name, expected) in cases {
        let name = OsStr::from_bytes(name);
        for how in [Open::Existing, NEW, EITHER] {
            match B::open(name, how) {
                Err(ShmError::Name(error)) => assert!(expected(&error), "{name:?}: {error}"),
                other => panic!("{name:?}: {other:?}"),
            }
        }
        assert!(matches!(B::unlink(name), Err(ShmError::Name(_))));
    }
}

/// Law 6.
pub fn an_unlinked_object_lives_on_without_a_name<B: Subject>() {
    let name = Fresh::<B>::name();
    let old = B::open(&name, NEW).unwrap();
    old.grow(4).unwrap();
    old.memory().store(0, 1).unwrap();
    B::unlink(&name).unwrap();
    let new = B::open(&name, NEW).unwrap();
    new.grow(4).unwrap();
    assert_eq!(new.memory().load(0), Ok(0));
    assert_eq!(old.memory().load(0), Ok(1));
    old.grow(4096).unwrap();
}

/// [`create_unique`] over this backend.
pub fn unique_names_are_fresh<B: Subject>() {
    let first: B = create_unique(&B::template(), 0o600).unwrap();
    let second: B = create_unique(&B::template(), 0o600).unwrap();
    assert_ne!(first.name(), second.name());
    assert_eq!(first.name().len(), B::template().len());
    B::unlink(first.name()).unwrap();
    B::unlink(second.name()).unwrap();
    assert!(matches!(
        create_unique::<B>(OsStr::new("/no-template"), 0o600),
        Err(ShmError::Name(NameError::NoTemplate(_)))
    ));
}

/// Law 10.
pub fn a_handle_for_reading_only_reads_only<B: Subject>() {
    let name = Fresh::<B>::name();
    assert!(matches!(B::open(&name, Open::ReadOnly), Err(ShmError::NotFound { .. })));
    let writer = B::open(&name, NEW).unwrap();
    writer.grow(64).unwrap();
    writer.memory().store(3, 7).unwrap();
    let reader = B::open(&name, Open::ReadOnly).unwrap();
    assert_eq!(reader.memory().load(3), Ok(7));
    let nothing = |at, count| Err(OutOfBounds { at, count, words: 0 });
    assert_eq!(reader.memory().store(3, 8), nothing(3, 1));
    assert_eq!(reader.memory().write(0, &[1, 2]), nothing(0, 2));
    assert!(matches!(reader.grow(128), Err(ShmError::ReadOnly { .. })));
    // The other one is not bound by that, whichever was there first, and is seen.
    writer.grow(128).unwrap();
    writer.memory().store(31, 9).unwrap();
    assert_eq!((reader.size().unwrap(), reader.memory().load(31)), (128, Ok(9)));
    drop(writer);
    let writer = B::open(&name, Open::Existing).unwrap();
    writer.memory().store(3, 10).unwrap();
    assert_eq!(reader.memory().load(3), Ok(10));
}

/// Law 4: a window knows what was known when it was made, and goes on showing it.
pub fn a_window_stays_as_it_is<B: Subject>() {
    let name = Fresh::<B>::name();
    let object = B::open(&name, NEW).unwrap();
    object.grow(64).unwrap();
    let window = object.memory().window();
    object.grow(1 << 20).unwrap();
    object.memory().store(1, 5).unwrap();
    assert_eq!((window.words(), window.load(1)), (16, Ok(5)));
    assert_eq!(window.load(16), Err(OutOfBounds { at: 16, count: 1, words: 16 }));
    assert_eq!(object.memory().window().words(), 1 << 18);
    object.memory().write(0, &[1, 2, 3, 4]).unwrap();
    assert_eq!(window.read_array(1), Ok([2, 3, 4]));
    assert_eq!(window.read_array::<4>(13), Err(OutOfBounds { at: 13, count: 4, words: 16 }));
    for at in 0..=9 {
        let words: [u32; 7] = window.read_array(at).unwrap();
        for value in [0, 1, 2, 3, 4, 5] {
            let bits = words.iter().enumerate().map(|(index, word)| u32::from(*word == value) << index);
            assert_eq!(window.matches::<7>(at, value), Ok(bits.sum()), "{value} in {words:?}");
        }
    }
    assert_eq!(window.matches::<4>(0, 4), Ok(0b1000));
    assert_eq!(window.matches::<8>(8, 0), Ok(0xFF));
    assert_eq!(window.matches::<7>(10, 0), Err(OutOfBounds { at: 10, count: 7, words: 16 }));
    assert!(window.matches::<7>(usize::MAX, 0).is_err());
    // Only hints, wherever they lead.
    window.prefetch(1);
    window.prefetch(usize::MAX);
}

/// Changing permissions and owner keeps the object usable. What they mean to others is for the backend's own tests.
pub fn permissions_and_owner_can_be_set<B: Subject>() {
    let name = Fresh::<B>::name();
    let object = B::open(&name, NEW).unwrap();
    assert!(B::supported());
    object.chmod(0o640).unwrap();
    object.chown(None, None).unwrap();
    object.grow(64).unwrap();
    object.chmod(0o600).unwrap();
    assert_eq!(object.size().unwrap(), 64);
}

/// Law 12: whatever others may be trusted beside.
pub fn what_is_ones_own_is_opened<B: Subject>() {
    let own = Trust::new();
    let everybody = Trust::new().owners(Owners::Anybody).writers(0o777);
    for mode in [0o600, 0o644, 0o666] {
        let name = Fresh::<B>::name();
        let first = B::open_trusting(&name, Open::CreateNew { mode }, own).unwrap();
        first.grow(64).unwrap();
        first.memory().store(1, 7).unwrap();
        // The permissions of those who would make it are the ones it has.
        let how = Open::Create { mode };
        for again in [own, own.owners(Owners::User(12_345)), everybody] {
            assert_eq!(B::open_trusting(&name, how, again).unwrap().memory().load(1), Ok(7));
        }
        // Reading is not asked for.
        first.chmod(0o644).unwrap();
        for how in [Open::Existing, Open::ReadOnly] {
            assert_eq!(B::open(&name, how).unwrap().memory().load(1), Ok(7));
        }
    }
}

/// Law 12. (A backend whose objects nobody else can reach need not refuse.)
pub fn what_others_may_write_to_is_opened_if_that_is_said<B: Subject>() {
    let name = Fresh::<B>::name();
    let first = B::open(&name, NEW).unwrap();
    first.grow(64).unwrap();
    for (mode, less) in [(0o620, 0o602), (0o602, 0o620), (0o666, 0o644)] {
        first.chmod(mode).unwrap();
        for how in [Open::Existing, Open::ReadOnly, EITHER] {
            for trust in [Trust::new(), Trust::new().writers(less), Trust::new().owners(Owners::Anybody)] {
                match B::open_trusting(&name, how, trust) {
                    Err(ShmError::WritableByOthers { mode: found, .. }) => assert_eq!(found, mode),
                    other => drop(other.unwrap()),
                }
            }
            B::open_trusting(&name, how, Trust::new().writers(mode)).unwrap();
        }
        B::open(&name, Open::Create { mode }).unwrap();
        assert!(matches!(B::open(&name, Open::CreateNew { mode }), Err(ShmError::AlreadyExists { .. })));
        // Whoever was refused has changed nothing.
        first.memory().store(2, mode).unwrap();
        assert_eq!((first.size().unwrap(), first.memory().load(2)), (64, Ok(mode)));
    }
}

/// Law 8.
pub fn a_handle_is_refused_after_a_fork<B: Subject>() {
    let name = Fresh::<B>::name();
    let object = B::open(&name, NEW).unwrap();
    object.grow(64).unwrap();
    let child = Fork
        .fork(&[], move || {
            let refused = matches!(object.size(), Err(ShmError::Forked { .. }))
                && matches!(object.grow(128), Err(ShmError::Forked { .. }))
                && matches!(object.chmod(0o600), Err(ShmError::Forked { .. }))
                && matches!(object.chown(None, None), Err(ShmError::Forked { .. }));
            drop(object);
            refused as i32
        })
        .unwrap();
    assert_eq!(child.wait().unwrap(), Exit::Code(1));
}
