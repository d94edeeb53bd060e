//! Opening and creating the objects of this room: what they have in common.
//!
//! | word | content |
//! |---|---|
//! | 0 | magic: `4D434F52` (`MCOR`) |
//! | 1 | what it is: `51554531` (`QUE1`), `4D545831` (`MTX1`), `53454D31` (`SEM1`), `50524D31` (`PRM1`) |
//! | 2 | format: 1 |
//! | 3 | byte order: `01020304` |
//! | 4 | state: 0: creation not finished, `52454459` (`REDY`): ready |
//! | 5 | protocol of the lock method; 0 but for mutexes |
//! | 8 .. 15 | what was asked for at creation |
//! | 256 .. 383 | words of [`Futex`](manycore_backends::lock::futex), under which it is created |
//! | 512 .. | the body |
//! | others | 0 |
//!
//! Creation happens under the futex lock (that of a mutex by record locks under these, which closing the file would
//! take away), and the state is stored last: of several creators one makes the object, and what a
//! creator that died left is made anew by the next.
//!
//! This module does not know what bodies mean.

use std::ffi::OsStr;

use manycore_backends::lock::futex::AREA as FUTEX_AREA;
use manycore_backends::lock::{Futex, FutexLockable, Guard, LockError, Mode, Protocol, Wait};
use manycore_backends::shm::{Memory, Open, Owners, ShmError, Trust, Window, create_unique};
use manycore_backends::{LockMethod, ShmBackend};

use super::error::{Result, SharedError};

const MAGIC: u32 = 0x4D43_4F52;
const FORMAT: u32 = 1;
const BYTE_ORDER: u32 = 0x0102_0304;
const READY: u32 = 0x5245_4459;

const AT_KIND: usize = 1;
const AT_STATE: usize = 4;
const AT_PROTOCOL: usize = 5;
const AT_ASKED: usize = 8;
/// Words of what is asked for at creation.
pub(super) const ASKED: usize = 8;
/// Where the body begins.
pub(super) const BODY: usize = 512;

/// What an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Queue,
    Mutex,
    Semaphore,
    Permits,
}

impl Kind {
    const ALL: [Kind; 4] = [Kind::Queue, Kind::Mutex, Kind::Semaphore, Kind::Permits];

    const fn tag(self) -> u32 {
        match self {
            Kind::Queue => u32::from_be_bytes(*b"QUE1"),
            Kind::Mutex => u32::from_be_bytes(*b"MTX1"),
            Kind::Semaphore => u32::from_be_bytes(*b"SEM1"),
            Kind::Permits => u32::from_be_bytes(*b"PRM1"),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Kind::Queue => "queue",
            Kind::Mutex => "mutex",
            Kind::Semaphore => "semaphore",
            Kind::Permits => "set of permits",
        }
    }
}

/// What a new object is to be.
pub(super) struct Plan {
    /// Written into the header.
    pub(super) asked: [u32; ASKED],
    /// Words of the whole object.
    pub(super) words: u64,
    /// What the body begins with; the rest of it is 0.
    pub(super) body: Vec<u32>,
}

/// Who may open or create an object, and how long to wait for somebody who is creating it just now.
///
/// ```
/// use manycore::shared::{SharedOptions, ShmSemaphore};
/// # let name = format!("/manycore-doc-options-{}", std::process::id());
///
/// // Users of the group, too, may wait and post.
/// let semaphore: ShmSemaphore = SharedOptions::new().mode(0o660).open_or_create(&name, &3)?;
/// # semaphore.unlink()?;
/// # Ok::<(), manycore::shared::SharedError>(())
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use = "nothing happens before `open` or `create`"]
pub struct SharedOptions {
    mode: u32,
    owners: Owners,
    wait: Wait,
}

impl Default for SharedOptions {
    fn default() -> SharedOptions {
        SharedOptions::new()
    }
}

impl SharedOptions {
    /// The defaults: an object of this user (or of root) to which nobody else may write, and waiting for ever.
    pub fn new() -> SharedOptions {
        SharedOptions { mode: 0o600, owners: Owners::Own, wait: Wait::Forever }
    }

    /// Permission bits of a new object; the umask applies. One that exists may let nobody write but those who are in this
    /// mode ([`ShmError::WritableByOthers`]): whoever shares objects with other users says it when opening, too.
    pub fn mode(mut self, mode: u32) -> SharedOptions {
        self.mode = mode;
        self
    }

    /// Whom an object that exists may belong to; else it is [`ShmError::Foreign`]. If nothing is said, to this user and to
    /// root.
    pub fn owners(mut self, owners: Owners) -> SharedOptions {
        self.owners = owners;
        self
    }

    /// How long to wait, while opening, for who is creating the object just now: else a process that is stopped in the
    /// middle of that holds up all others.
    pub fn waiting(mut self, wait: Wait) -> SharedOptions {
        self.wait = wait;
        self
    }

    /// Opens the object `name`.
    ///
    /// # Errors
    /// [`SharedError::Shm`] if there is none, it cannot be opened, or is not to be trusted; [`SharedError::NotThis`],
    /// [`Format`](SharedError::Format), [`Protocol`](SharedError::Protocol), [`Unfinished`](SharedError::Unfinished),
    /// [`Corrupt`](SharedError::Corrupt) if it is not such an object; [`SharedError::Lock`] if it has too many users, or
    /// somebody was creating it all the time.
    pub fn open<S: Shared>(&self, name: impl AsRef<OsStr>) -> Result<S> {
        let object = S::Backend::open_trusting(name.as_ref(), Open::Existing, self.trust())?;
        self.attach::<S>(object, None).map(|(shared, _)| shared)
    }

    /// Creates the object `name`, which must not exist, for what `asked` says.
    ///
    /// # Errors
    /// [`SharedError::Shm`] if it exists or cannot be created; [`SharedError::Impossible`] if there cannot be such an
    /// object; [`SharedError::Codec`]; [`SharedError::Lock`].
    pub fn create<S: Shared>(&self, name: impl AsRef<OsStr>, asked: &S::Asked) -> Result<S> {
        let plan = S::plan(asked)?;
        self.attach_new(S::Backend::open(name.as_ref(), Open::CreateNew { mode: self.mode })?, plan)
    }

    /// Opens the object `name`, or creates it. Of several processes that do so at once, one creates it, and all get the
    /// same. What `asked` says of values matters only to a new one.
    ///
    /// # Errors
    /// As [`open`](SharedOptions::open) and [`create`](SharedOptions::create); [`SharedError::Capacity`].
    pub fn open_or_create<S: Shared>(&self, name: impl AsRef<OsStr>, asked: &S::Asked) -> Result<S> {
        let plan = S::plan(asked)?;
        let how = Open::Create { mode: self.mode };
        let object = S::Backend::open_trusting(name.as_ref(), how, self.trust())?;
        let (shared, _) = self.attach::<S>(object, Some(plan))?;
        shared.check(asked)?;
        Ok(shared)
    }

    /// Creates an object under a name that nobody has: `template` with its last run of six or more `X` replaced.
    ///
    /// # Errors
    /// As [`create`](SharedOptions::create).
    pub fn create_unique<S: Shared>(&self, template: impl AsRef<OsStr>, asked: &S::Asked) -> Result<S> {
        let plan = S::plan(asked)?;
        self.attach_new(create_unique(template.as_ref(), self.mode)?, plan)
    }

    fn trust(&self) -> Trust {
        Trust::new().owners(self.owners).writers(self.mode)
    }

    /// Makes the new object what was asked for, or removes it again. Somebody else may have been faster.
    fn attach_new<S: Shared>(&self, object: S::Backend, plan: Plan) -> Result<S> {
        let name = object.name().to_owned();
        match self.attach::<S>(object, Some(plan)) {
            Ok((shared, true)) => Ok(shared),
            Ok((_, false)) => Err(ShmError::AlreadyExists { name }.into()),
            Err(error @ SharedError::Lock(LockError::Busy | LockError::TimedOut)) => Err(error),
            Err(error) => {
                let is_ready = S::Backend::open_trusting(&name, Open::Existing, self.trust())
                    .is_ok_and(|object| object.memory().load(AT_STATE) == Ok(READY));
                if !is_ready {
                    // The first error is the one to report.
                    let _ = S::Backend::unlink(&name);
                }
                Err(error)
            }
        }
    }

    /// Takes an open object for what it should be; makes it that if there is a plan and it is nothing yet. Whether it was
    /// made.
    fn attach<S: Shared>(&self, object: S::Backend, plan: Option<Plan>) -> Result<(S, bool)> {
        let made = prepare::<S>(&object, plan, self.wait)?;
        object.size()?;
        object.intact()?;
        let mut asked = [0; ASKED];
        object.memory().read(AT_ASKED, &mut asked)?;
        Ok((S::attach(object, asked)?, made))
    }
}

/// Something in shared memory that can be opened and created: [`ShmQueue`](super::ShmQueue),
/// [`ShmMutex`](super::ShmMutex), [`ShmSemaphore`](super::ShmSemaphore), [`ShmPermits`](super::ShmPermits). It cannot be
/// implemented elsewhere.
#[allow(private_interfaces, private_bounds, reason = "sealed")]
pub trait Shared: Sealed<Self::Backend, Self::Asked> {
    /// Where it lives.
    type Backend: ShmBackend + FutexLockable;
    /// What must be said to create one.
    type Asked: ?Sized;
}

/// What only this room does with it.
pub(super) trait Sealed<B, A: ?Sized>: Sized {
    const KIND: Kind;
    const PROTOCOL: Protocol;

    fn plan(asked: &A) -> Result<Plan>;

    /// Does it under the lock under which objects are created.
    fn locked(object: &B, wait: Wait, body: impl FnOnce() -> Result<bool>) -> Result<bool>
    where
        B: ShmBackend + FutexLockable,
    {
        locked_by::<B, Futex>(object, wait, body)
    }

    /// Takes an object in order for one, with what was asked for when it was created.
    fn attach(object: B, asked: [u32; ASKED]) -> Result<Self>;

    /// Whether one that was there already is as asked for.
    fn check(&self, asked: &A) -> Result<()>;
}

/// Does it under this lock.
pub(super) fn locked_by<B, L: LockMethod<B>>(
    object: &B,
    wait: Wait,
    body: impl FnOnce() -> Result<bool>,
) -> Result<bool> {
    let method = L::attach(object)?;
    let _guard = Guard::lock(&method, object, Mode::Write, wait)?;
    body()
}

/// Makes sure that the object is what it should be. Whether it was made so just now.
fn prepare<S: Shared>(object: &S::Backend, plan: Option<Plan>, wait: Wait) -> Result<bool> {
    let (kind, protocol) = (S::KIND, S::PROTOCOL);
    const BYTES: u64 = 4 * BODY as u64;
    let size = object.size()?;
    if size < BYTES {
        let name = object.name().to_owned();
        if size != 0 {
            return Err(SharedError::NotThis { name, wanted: kind.name(), found: "it is too short" });
        }
        if plan.is_none() {
            return Err(SharedError::Unfinished { name });
        }
        object.grow(BYTES)?;
    }
    // What a header says of a finished object does not change: no lock is needed to read it.
    if verify(object, kind, protocol)? {
        return Ok(false);
    }
    // Somebody may be creating it.
    S::locked(object, wait, || create::<S>(object, plan))
}

/// Creates it, if nobody was faster. It is locked.
fn create<S: Shared>(object: &S::Backend, plan: Option<Plan>) -> Result<bool> {
    let (kind, protocol) = (S::KIND, S::PROTOCOL);
    object.size()?;
    if verify(object, kind, protocol)? {
        return Ok(false);
    }
    let Some(plan) = plan else { return Err(SharedError::Unfinished { name: object.name().to_owned() }) };
    let memory = object.memory();
    let is_new = memory.load(AT_KIND)? == 0;
    memory.write(0, &[MAGIC, kind.tag(), FORMAT, BYTE_ORDER])?;
    object.grow(plan.words.saturating_mul(4))?;
    memory.store(AT_PROTOCOL, protocol.number())?;
    memory.write(AT_ASKED, &plan.asked)?;
    // What was grown is 0. A creator that died may have written something else.
    let begun = if is_new { 0..0 } else { BODY..memory.words() };
    for at in begun.step_by(BODY) {
        memory.write(at, &[0; BODY][..BODY.min(memory.words() - at)])?;
    }
    memory.write(BODY, &plan.body)?;
    object.intact()?;
    memory.store(AT_STATE, READY)?;
    Ok(true)
}

/// Whether the object is finished; `false` if it is all new, or its creator died.
fn verify<B: ShmBackend>(object: &B, kind: Kind, protocol: Protocol) -> Result<bool> {
    let [magic, tag, format, order, state, locked] = header(object)?;
    let name = || object.name().to_owned();
    let not = |found| Err(SharedError::NotThis { name: name(), wanted: kind.name(), found });
    if magic == 0 {
        let is_empty = [tag, format, order, state, locked] == [0; 5] && is_empty(object)?;
        // Somebody may have begun to create it meanwhile.
        return match object.memory().load(0)? {
            0 if is_empty => Ok(false),
            0 => not("it does not begin with the magic words"),
            _ => verify(object, kind, protocol),
        };
    }
    if magic == MAGIC.swap_bytes() {
        return not("it was written on a machine of the other byte order");
    }
    if magic != MAGIC {
        return not("it does not begin with the magic words");
    }
    if tag != kind.tag() && tag != 0 {
        let other = Kind::ALL.into_iter().find(|other| other.tag() == tag);
        return not(other.map_or("it is something else of this library", Kind::name));
    }
    if ![0, FORMAT].contains(&format) {
        return Err(SharedError::Format { name: name(), expected: FORMAT, found: format });
    }
    if state == 0 {
        return Ok(false);
    }
    if state != READY || order != BYTE_ORDER || format != FORMAT || tag != kind.tag() {
        return Err(SharedError::Corrupt { at: 1, what: "a damaged header" });
    }
    let found = Protocol::from_number(locked);
    if protocol != found && protocol != Protocol::NONE {
        return Err(SharedError::Protocol { name: name(), expected: protocol, found });
    }
    Ok(true)
}

/// The first words, as they were at one moment: each of them changes once, while the object is created.
fn header<B: ShmBackend>(object: &B) -> Result<[u32; 6]> {
    let window = object.memory().window();
    let mut before = window.read_array(0)?;
    // Those that change more often are not of this library.
    for _ in 0..100 {
        let after = window.read_array(0)?;
        if after == before {
            break;
        }
        before = after;
    }
    Ok(before)
}

/// Whether nothing is in the object, which has just been made. (Where no room can be reserved, each of several who make it
/// adds what it needs.)
fn is_empty<B: ShmBackend>(object: &B) -> Result<bool> {
    const AT_ONCE: usize = 64;
    let words = object.memory().words();
    if words > AT_ONCE * BODY {
        return Ok(false);
    }
    let mut all = vec![0; words];
    object.memory().read(0, &mut all)?;
    // The lock under which it is created is in use.
    all[FUTEX_AREA].fill(0);
    Ok(all.iter().all(|word| *word == 0))
}

/// What belongs to the parent of this process is refused.
#[cold]
pub(super) fn forked<B: ShmBackend>(object: &B) -> SharedError {
    ShmError::Forked { name: object.name().to_owned() }.into()
}

/// The ways to open and create, under the names that users look for.
macro_rules! opening {
    ($asked:ty, $what:literal, $name:ident) => {
        #[doc = concat!("Opens the ", $what, " `name`.")]
        ///
        /// # Errors
        /// As [`SharedOptions::open`](super::SharedOptions::open).
        pub fn open(name: impl AsRef<std::ffi::OsStr>) -> super::error::Result<Self> {
            super::SharedOptions::new().open(name)
        }

        #[doc = concat!("Creates the ", $what, " `name`, which must not exist, for this user alone.")]
        ///
        /// # Errors
        /// As [`SharedOptions::create`](super::SharedOptions::create).
        pub fn create(name: impl AsRef<std::ffi::OsStr>, $name: $asked) -> super::error::Result<Self> {
            super::SharedOptions::new().create(name, $name)
        }

        #[doc = concat!("Opens the ", $what, " `name`, or creates it. Of several processes that do so at once, one creates it, and all get the same.")]
        ///
        /// # Errors
        /// As [`SharedOptions::open_or_create`](super::SharedOptions::open_or_create).
        pub fn open_or_create(name: impl AsRef<std::ffi::OsStr>, $name: $asked) -> super::error::Result<Self> {
            super::SharedOptions::new().open_or_create(name, $name)
        }

        #[doc = concat!("Creates a ", $what, " under a name that nobody has: `template` with its last run of six or more `X` replaced.")]
        ///
        /// # Errors
        /// As [`SharedOptions::create_unique`](super::SharedOptions::create_unique).
        pub fn create_unique(template: impl AsRef<std::ffi::OsStr>, $name: $asked) -> super::error::Result<Self> {
            super::SharedOptions::new().create_unique(template, $name)
        }

        /// The name of the object.
        pub fn name(&self) -> &std::ffi::OsStr {
            self.object.name()
        }

        /// Removes the name at once. Those who have the object open go on using it.
        ///
        /// # Errors
        /// [`SharedError::Shm`](super::SharedError::Shm) if there is no such name.
        pub fn unlink(&self) -> super::error::Result<()> {
            Ok(B::unlink(self.object.name())?)
        }
    };
}
pub(super) use opening;
