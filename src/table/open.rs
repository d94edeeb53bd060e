//! Opening and creating tables: what a new object must become, and what an existing one must be.
//!
//! Creation happens under the write lock, and the object says when it is finished: of several creators one makes
//! the table, and what a creator that died left is recognised and made anew.
//!
//! This module does not look at bindings.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Instant;

use manycore_backends::generation::Generation;
use manycore_backends::lock::{LockError, Mode, Protocol, Wait};
use manycore_backends::shm::{Memory, Open, Owners, ShmError, Trust, create_unique};
use manycore_backends::{LockMethod, ShmBackend, random};

use super::error::{Result, TableError};
use super::journal::{Scope, Transaction};
use super::layout::*;
use super::view::View;
use super::{Shared, ShmTable};

/// How to open or create a table; the generic way, for any backend and lock method.
///
/// ```
/// use manycore::{Fcntl, File, ShmTable, TableOptions};
/// # let directory = std::env::temp_dir();
///
/// let table: ShmTable<File, Fcntl> =
///     TableOptions::new().page_size(4096).expected(10_000).create_unique(directory.join("counts-XXXXXX"))?;
/// assert!(table.length()? == 0);
/// # table.unlink()?;
/// # Ok::<(), manycore::TableError>(())
/// ```
#[derive(Clone, Debug)]
#[doc(alias = "manage")]
#[must_use = "nothing happens before `open` or `create`"]
pub struct TableOptions {
    page_size: Option<usize>,
    expected: usize,
    mode: u32,
    owners: Owners,
    read_only: bool,
    wait: Wait,
    seed: Option<u32>,
}

impl Default for TableOptions {
    fn default() -> TableOptions {
        TableOptions::new()
    }
}

impl TableOptions {
    /// The defaults: pages of 256 bytes, 32 bindings expected, a table of this user (or of root) to which nobody else
    /// may write, for reading and writing, waiting for ever.
    pub fn new() -> TableOptions {
        TableOptions {
            page_size: None,
            expected: 32,
            mode: 0o600,
            owners: Owners::Own,
            read_only: false,
            wait: Wait::Forever,
            seed: None,
        }
    }

    /// The unit in which the object grows, in bytes: from [`PAGE_SIZE_MIN`] to [`PAGE_SIZE_MAX`], divisible by
    /// 4. A table that exists must have this page size, if it is said at all.
    pub fn page_size(mut self, bytes: usize) -> TableOptions {
        self.page_size = Some(bytes);
        self
    }

    /// How many bindings a new table should have room for at first. It grows by itself.
    #[doc(alias = "init")]
    pub fn expected(mut self, bindings: usize) -> TableOptions {
        self.expected = bindings;
        self
    }

    /// Permission bits of a new object; the umask applies. A table that exists may let nobody write but those who are
    /// in this mode ([`ShmError::WritableByOthers`]): whoever shares tables with other users says it when opening, too.
    pub fn mode(mut self, mode: u32) -> TableOptions {
        self.mode = mode;
        self
    }

    /// Whom a table that exists may belong to; else it is [`ShmError::Foreign`], because whoever comes first can put an
    /// object under the name. If nothing is said, to this user and to root.
    ///
    /// ```no_run
    /// # use manycore::{ShmTable, TableError, TableOptions};
    /// use manycore::shm::Owners;
    ///
    /// // The table of user 1000, to which its group may write.
    /// let table: ShmTable = TableOptions::new().owners(Owners::User(1000)).mode(0o660).open("/counts")?;
    /// # Ok::<(), TableError>(())
    /// ```
    pub fn owners(mut self, owners: Owners) -> TableOptions {
        self.owners = owners;
        self
    }

    /// Whether to open for reading only: permission to read is enough then, and all changes are
    /// [`TableError::ReadOnly`]. It matters to [`open`](TableOptions::open) only.
    ///
    /// Such a handle cannot undo what a writer left that died: until somebody opens the table for writing,
    /// everything that concerns it is [`TableError::Interrupted`]. Nor can it take a lock that is taken by writing, as
    /// [`Futex`](crate::Futex) is: lookups of single keys are as ever, but what must be of one state (iterating, groups
    /// of lookups) is [`TableError::Changed`] if somebody writes meanwhile. In place (`read_blocks`) a visitor may see
    /// words change before that is told.
    pub fn read_only(mut self, read_only: bool) -> TableOptions {
        self.read_only = read_only;
        self
    }

    /// The seed of the hash of a new table, for objects that are to be the same, word by word, in every run. If nothing
    /// is said it is random, so that whoever chooses the keys, but does not see the table, cannot choose them to fall
    /// into one bucket. A table that exists keeps the seed it has.
    pub fn seed(mut self, seed: u32) -> TableOptions {
        self.seed = Some(seed);
        self
    }

    /// How long to wait for the table's lock: while opening or creating, all in all, and each time that the handle takes
    /// it later ([`ShmTable::waiting`] makes another one that waits in another way). If nothing is said, for ever.
    ///
    /// Opening a table that is finished takes no lock. One that somebody else is creating just now, and one that
    /// [`reinitialize`](TableOptions::reinitialize) makes empty, must be locked: a process that is stopped meanwhile holds
    /// up all who wait for ever. Else they get [`LockError::Busy`] or [`LockError::TimedOut`], and nothing has changed.
    ///
    /// ```
    /// use std::time::Duration;
    /// use manycore::lock::{LockError, Wait};
    /// use manycore::{ShmTable, TableError, TableOptions};
    /// # let name = format!("/manycore-doc-impatient-{}", std::process::id());
    ///
    /// let patient = TableOptions::new().waiting(Wait::AtMost(Duration::from_secs(5)));
    /// let table: ShmTable = match patient.open_or_create(&name) {
    ///     Err(TableError::Lock(LockError::TimedOut)) => panic!("somebody has been creating it for five seconds"),
    ///     table => table?,
    /// };
    /// # table.unlink()?;
    /// # Ok::<(), TableError>(())
    /// ```
    #[doc(alias("try_lock", "timeout"))]
    pub fn waiting(mut self, wait: Wait) -> TableOptions {
        self.wait = wait;
        self
    }

    /// Opens the table `name`.
    ///
    /// # Errors
    /// [`TableError::Shm`] if there is no such object, it cannot be opened, or is not to be trusted
    /// ([`owners`](TableOptions::owners), [`mode`](TableOptions::mode)); [`TableError::NotATable`],
    /// [`Format`](TableError::Format), [`Unfinished`](TableError::Unfinished), [`PageSize`](TableError::PageSize),
    /// [`Protocol`](TableError::Protocol) if it is not a table such as this one; [`TableError::Lock`].
    pub fn open<B, L>(&self, name: impl AsRef<OsStr>) -> Result<ShmTable<B, L>>
    where
        B: ShmBackend,
        L: LockMethod<B>,
    {
        self.check()?;
        let how = if self.read_only { Open::ReadOnly } else { Open::Existing };
        let (table, _) = ShmTable::attach(B::open_trusting(name.as_ref(), how, self.trust())?, self, false)?;
        Ok(table)
    }

    /// Creates the table `name`, which must not exist.
    ///
    /// # Errors
    /// [`TableError::Shm`] if the object exists or cannot be created, [`TableError::BadPageSize`],
    /// [`TableError::Lock`]. ([`LockError::Busy`] and [`LockError::TimedOut`] mean that somebody else opened the new
    /// object for creation at once, and is at it.)
    pub fn create<B, L>(&self, name: impl AsRef<OsStr>) -> Result<ShmTable<B, L>>
    where
        B: ShmBackend,
        L: LockMethod<B>,
    {
        self.check()?;
        let object = B::open(name.as_ref(), Open::CreateNew { mode: self.mode })?;
        self.attach_new(object)
    }

    /// Opens the table `name`, or creates it. Of several processes that do so at once, one creates it, and all
    /// get the same.
    ///
    /// # Errors
    /// As [`open`](TableOptions::open) and [`create`](TableOptions::create).
    pub fn open_or_create<B, L>(&self, name: impl AsRef<OsStr>) -> Result<ShmTable<B, L>>
    where
        B: ShmBackend,
        L: LockMethod<B>,
    {
        self.check()?;
        let how = Open::Create { mode: self.mode };
        let (table, _) = ShmTable::attach(B::open_trusting(name.as_ref(), how, self.trust())?, self, true)?;
        Ok(table)
    }

    /// Opens the table `name` and makes it empty, or creates it. Whoever has it open sees it become empty at once. If
    /// a page size is said, it has that from then on, whatever it had before.
    ///
    /// # Errors
    /// As [`open`](TableOptions::open) and [`create`](TableOptions::create), but for the page size.
    #[doc(alias("manage", "init"))]
    pub fn reinitialize<B, L>(&self, name: impl AsRef<OsStr>) -> Result<ShmTable<B, L>>
    where
        B: ShmBackend,
        L: LockMethod<B>,
    {
        let start = Start::new(self.wait);
        let writing = TableOptions { read_only: false, ..self.clone() };
        let mut table: ShmTable<B, L> = match writing.open_or_create(name.as_ref()) {
            Err(TableError::PageSize { .. }) => {
                TableOptions { page_size: None, wait: start.left(), ..writing }.open_or_create(name)?
            }
            opened => opened?,
        };
        table.wait = start.left();
        let guard = table.lock_for_writing()?;
        Transaction::new(&table.shared.object, table.shared.generation, Scope::Table)
            .run(Transaction::reset)?;
        if let Some(bytes) = self.page_size {
            // A single store; nothing but the next growth depends on it.
            table.shared.object.memory().store(AT_PAGE_SIZE as usize, bytes as u32)?;
        }
        table.grow_to(buckets_for(self.expected))?;
        drop(guard);
        table.wait = self.wait;
        Ok(table)
    }

    /// Creates a table under a name that nobody has: `template` with its last run of six or more `X` replaced.
    /// [`ShmTable::name`] tells the name.
    ///
    /// # Errors
    /// As [`create`](TableOptions::create).
    #[doc(alias = "create_unique_shm")]
    pub fn create_unique<B, L>(&self, template: impl AsRef<OsStr>) -> Result<ShmTable<B, L>>
    where
        B: ShmBackend,
        L: LockMethod<B>,
    {
        self.check()?;
        self.attach_new(create_unique(template.as_ref(), self.mode)?)
    }

    fn trust(&self) -> Trust {
        Trust::new().owners(self.owners).writers(self.mode)
    }

    fn check(&self) -> Result<()> {
        match self.page_size {
            Some(bytes) if !is_page_size(bytes) => Err(TableError::BadPageSize(bytes)),
            _ => Ok(()),
        }
    }

    /// Makes the new object a table, or removes it again. Somebody else may have been faster, by
    /// `open_or_create`; then the table is theirs.
    fn attach_new<B: ShmBackend, L: LockMethod<B>>(&self, object: B) -> Result<ShmTable<B, L>> {
        let name = object.name().to_owned();
        match ShmTable::attach(object, self, true) {
            Ok((table, Attached::Formatted)) => Ok(table),
            Ok((_, Attached::Found))
            | Err(TableError::PageSize { .. } | TableError::Protocol { .. } | TableError::Format { .. }) => {
                Err(ShmError::AlreadyExists { name }.into())
            }
            // Whoever holds the lock is making it a table.
            Err(error @ TableError::Lock(LockError::Busy | LockError::TimedOut)) => Err(error),
            Err(error) => {
                // The first error is the one to report. Somebody else may have made it a table meanwhile, and have it
                // open.
                let is_table = B::open_trusting(&name, Open::Existing, self.trust())
                    .is_ok_and(|object| object.memory().load(AT_STATE as usize) == Ok(STATE_READY));
                if !is_table {
                    let _ = B::unlink(&name);
                }
                Err(error)
            }
        }
    }
}

/// When a limit began to run, for what is locked several times.
struct Start {
    wait: Wait,
    at: Option<Instant>,
}

impl Start {
    fn new(wait: Wait) -> Start {
        let at = if matches!(wait, Wait::AtMost(_)) { Some(Instant::now()) } else { None };
        Start { wait, at }
    }

    /// What is left of it.
    fn left(&self) -> Wait {
        match (self.wait, self.at) {
            (Wait::AtMost(limit), Some(start)) => Wait::AtMost(limit.saturating_sub(start.elapsed())),
            (wait, _) => wait,
        }
    }
}

/// Who made an object a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attached {
    Found,
    Formatted,
}

impl<B: ShmBackend, L: LockMethod<B>> ShmTable<B, L> {
    /// Takes an open object for a table; makes it one if that is allowed and it is none yet.
    fn attach(object: B, options: &TableOptions, may_create: bool) -> Result<(ShmTable<B, L>, Attached)> {
        let size = object.size()?;
        if size < u64::from(HEADER_WORDS) * 4 {
            if size != 0 {
                let name = object.name().to_owned();
                return Err(TableError::NotATable { name, why: "it is too short to have a table's header" });
            }
            if !may_create {
                return Err(TableError::Unfinished { name: object.name().to_owned() });
            }
            object.grow(u64::from(HEADER_WORDS) * 4)?;
        }
        // What a header says of a finished table does not change: no lock is needed to read it.
        let is_finished = object.memory().load(AT_STATE as usize)? == STATE_READY;
        let found = (is_finished || is_other(&object, size, <L as LockMethod<B>>::PROTOCOL)?)
            && verify::<B, L>(&object, options)?;
        object.intact()?;
        let method = L::attach(&object)?;
        let read_only = options.read_only && !may_create;
        let (generation, trust) = (Generation::current(), options.trust());
        let shared = Shared { object, method, generation, read_only, trust };
        let start = Start::new(options.wait);
        let mut table = ShmTable { shared: Arc::new(shared), wait: options.wait };
        if found {
            return Ok((table, Attached::Found));
        }
        // Somebody may be creating it.
        let reading = match table.lock(Mode::Read) {
            Err(TableError::Lock(LockError::ReadOnly)) if read_only => None,
            guard => Some(guard?),
        };
        let found = verify::<B, L>(&table.shared.object, options);
        table.shared.object.intact()?;
        let found = found?;
        drop(reading);
        if found {
            return Ok((table, Attached::Found));
        }
        if !may_create {
            return Err(TableError::Unfinished { name: table.name().to_owned() });
        }
        table.wait = start.left();
        let writing = table.lock(Mode::Write)?;
        // Another creator may have come in between.
        let attached = if verify::<B, L>(&table.shared.object, options)? {
            Attached::Found
        } else {
            table.format(options)?;
            table.shared.object.intact()?;
            Attached::Formatted
        };
        drop(writing);
        table.wait = options.wait;
        Ok((table, attached))
    }

    /// Writes an empty table: first the magic words, last the state, so that a creator who dies leaves an
    /// object that is recognised as unfinished; the next one begins again.
    fn format(&self, options: &TableOptions) -> Result<()> {
        let page_size = options.page_size.unwrap_or(PAGE_SIZE_DEFAULT) as u32;
        let seed = match options.seed {
            Some(seed) => seed,
            None => random::bits().map_err(|source| ShmError::Io {
                op: "getrandom",
                name: self.name().to_owned(),
                source,
            })? as u32,
        };
        let memory = self.shared.object.memory();
        memory.store(AT_MAGIC as usize + 1, MAGIC[1])?;
        memory.store(AT_MAGIC as usize, MAGIC[0])?;
        let bytes = u64::from(FIRST_TOP) * 4;
        self.shared.object.grow(bytes.div_ceil(u64::from(page_size)) * u64::from(page_size))?;
        let mut header = [0; HEADER_WORDS as usize];
        for (at, word) in [
            (AT_FORMAT, FORMAT),
            (AT_BYTE_ORDER, BYTE_ORDER),
            (AT_PAGE_SIZE, page_size),
            (AT_PROTOCOL, <L as LockMethod<B>>::PROTOCOL.number()),
            (AT_SEED, seed),
            (AT_BUCKETS, 1),
            (AT_JOURNAL, HEADER_WORDS),
            (AT_TOP, FIRST_TOP),
            (AT_LEAVES, FIRST_LEAF),
        ] {
            header[at as usize] = word;
        }
        // All but the words by which it is locked, just now.
        for words in [AT_FORMAT as usize..AT_LOCKS as usize, AT_LOCKS_END as usize..header.len()] {
            memory.write(words.start, &header[words])?;
        }
        memory.write(HEADER_WORDS as usize, &[BlockHead::new(Kind::Journal, FIRST_JOURNAL).word(), 0])?;
        let mut leaf = [0; LEAF_WORDS as usize];
        leaf[0] = BlockHead::new(Kind::Leaf, LEAF_WORDS / GRANULE).word();
        leaf[4] = first_bucket(FIRST_SEGMENT);
        memory.write(FIRST_LEAF as usize, &leaf)?;
        let segment = BlockHead::new(Kind::Segment, segment_granules(0));
        memory.store(FIRST_SEGMENT as usize, segment.word())?;
        memory.write(first_bucket(FIRST_SEGMENT) as usize, &[0; BUCKET_WORDS as usize])?;
        self.grow_to(buckets_for(options.expected))?;
        Ok(memory.store(AT_STATE as usize, STATE_READY)?)
    }

    /// Takes buckets into use until there are so many; the write lock is held.
    fn grow_to(&self, buckets: u32) -> Result<()> {
        loop {
            let view = View::new(&self.shared.object)?;
            let before = view.buckets()?;
            if before >= buckets {
                return Ok(());
            }
            // In steps, so that the journal stays small.
            let mut transaction = Transaction::new(&self.shared.object, self.shared.generation, Scope::Table);
            let step = buckets.min(before.saturating_add(1000));
            transaction.run(|transaction| transaction.grow_to(step))?;
            if transaction.view().buckets()? < step {
                return Ok(());
            }
        }
    }
}

/// Whether the object of `size` bytes is none that may be locked, because locking it could change what it contains, or
/// take away locks of another kind. It is asked before the lock: whoever creates a table writes the words that are
/// looked at once, and the first before the object becomes longer than the header.
fn is_other<B: ShmBackend>(object: &B, size: u64, protocol: Protocol) -> Result<bool> {
    let word = |at: u32| object.memory().load(at as usize);
    Ok(match word(AT_MAGIC)? {
        0 => size > u64::from(HEADER_WORDS) * 4,
        magic if magic != MAGIC[0] => true,
        _ if ![0, FORMAT].contains(&word(AT_FORMAT)?) => true,
        _ if word(AT_STATE)? != STATE_READY => false,
        _ => ![Protocol::NONE.number(), word(AT_PROTOCOL)?].contains(&protocol.number()),
    })
}

/// Checks the header; `false` if the object is all new, or its creator died.
fn verify<B: ShmBackend, L: LockMethod<B>>(object: &B, options: &TableOptions) -> Result<bool> {
    let mut header = [0; HEADER_WORDS as usize];
    let memory = object.memory();
    memory.read(0, &mut header)?;
    // Whoever creates the table has locked it.
    header[AT_LOCKS as usize..AT_LOCKS_END as usize].fill(0);
    let word = |at: u32| header[at as usize];
    let name = || object.name().to_owned();
    if header[..2] != MAGIC {
        let begun =
            header[0] == 0 && [0, MAGIC[1]].contains(&header[1]) && header[2..].iter().all(|word| *word == 0);
        if begun && memory.words() == HEADER_WORDS as usize {
            return Ok(false);
        }
        let why = if header[..2] == MAGIC.map(u32::swap_bytes) {
            "it was written on a machine of the other byte order"
        } else {
            "it does not begin with a table's magic words"
        };
        return Err(TableError::NotATable { name: name(), why });
    }
    // The format is written first, and looked at first: another format's state may be elsewhere.
    if header[AT_FORMAT as usize..].iter().all(|word| *word == 0) {
        return Ok(false);
    }
    if word(AT_FORMAT) != FORMAT {
        return Err(TableError::Format { name: name(), expected: FORMAT, found: word(AT_FORMAT) });
    }
    if word(AT_STATE) == 0 {
        return Ok(false);
    }
    if word(AT_BYTE_ORDER) != BYTE_ORDER {
        return Err(TableError::NotATable { name: name(), why: "its byte order mark is damaged" });
    }
    if word(AT_STATE) != STATE_READY {
        return Err(TableError::NotATable { name: name(), why: "its state word is damaged" });
    }
    let found = word(AT_PAGE_SIZE) as usize;
    if !is_page_size(found) {
        return Err(TableError::Corrupt { at: AT_PAGE_SIZE as usize, what: "impossible page size" });
    }
    if let Some(expected) = options.page_size.filter(|expected| *expected != found) {
        return Err(TableError::PageSize { name: name(), expected, found });
    }
    let found = Protocol::from_number(word(AT_PROTOCOL));
    if L::PROTOCOL != found && L::PROTOCOL != Protocol::NONE {
        return Err(TableError::Protocol { name: name(), expected: L::PROTOCOL, found });
    }
    Ok(true)
}

/// Buckets for so many bindings.
fn buckets_for(bindings: usize) -> u32 {
    bindings.div_ceil(LOAD as usize).clamp(1, 1 << 26) as u32
}
