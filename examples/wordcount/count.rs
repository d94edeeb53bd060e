//! The counting core of the example: generic over the platform, so that a test runs it on files instead of
//! shared memory by changing one type.
//!
//! The files are tasks. Each counter process takes the next one, by a group on a small shared map; it counts
//! into a map of its own, and merges that into the shared one, in groups, whenever it has become large and at
//! the end. The first worker starts the counters, shows how far they are, and joins them.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use manycore::{
    Context, Failure, LockMethod, MapError, Platform, Runtime, ShmBackend, ShmMap, ShmTable, TableOptions,
    Worker,
};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

/// How often each word occurs, in shared memory.
pub(crate) type Counts<P> = ShmMap<String, u64, <P as Platform>::Shm, <P as Platform>::Lock>;

/// How far the counters are, in shared memory, under the keys below.
type Progress<P> = ShmMap<u32, u64, <P as Platform>::Shm, <P as Platform>::Lock>;

/// The number of the next file to take.
const NEXT: u32 = 0;
/// Files that are done.
const FILES: u32 = 1;
/// Bytes of them.
const BYTES: u32 = 2;
/// Counters that have opened the shared maps.
const READY: u32 = 3;

/// Different words that a counter holds before it merges them, in one group.
const HELD_MAX: usize = 32_000;

/// How many bytes of text bring one word that was not there before, roughly.
const BYTES_PER_NEW_WORD: usize = 256;

/// How many of the files left out each counter names.
const EXAMPLES: usize = 5;

/// How often the first worker looks.
const LOOK: Duration = Duration::from_millis(50);

/// What is to be counted.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) files: Paths,
    /// Bytes of them all.
    pub(crate) bytes: u64,
    pub(crate) workers: usize,
    /// How many of the most frequent words are wanted.
    pub(crate) top: usize,
    /// How long the program ran before the run.
    pub(crate) before: Duration,
    /// Names of the shared maps, filled in by [`count`].
    pub(crate) shared: Shared,
}

/// Paths in one piece, each closed by a NUL: they travel as bytes, whatever they are, and fast.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Paths(ByteBuf);

impl Paths {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Path> {
        self.0
            .split_inclusive(|byte| *byte == 0)
            .map(|path| Path::new(OsStr::from_bytes(&path[..path.len() - 1])))
    }
}

impl FromIterator<PathBuf> for Paths {
    fn from_iter<I: IntoIterator<Item = PathBuf>>(paths: I) -> Paths {
        let mut bytes = Vec::new();
        for path in paths {
            bytes.extend_from_slice(path.as_os_str().as_bytes());
            bytes.push(0);
        }
        Paths(ByteBuf::from(bytes))
    }
}

/// Names of the shared maps.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Shared {
    counts: OsString,
    progress: OsString,
}

/// What one counter did.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Share {
    pub(crate) process: u32,
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    pub(crate) words: u64,
    /// Files that could not be read, or are not UTF-8. They are left out.
    pub(crate) skipped: u64,
    /// Some of them, and why.
    pub(crate) such_as: Vec<String>,
}

/// What all did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) shares: Vec<Share>,
    pub(crate) different_words: u64,
    /// The most frequent words, most frequent first, then in alphabetical order.
    pub(crate) top: Vec<(String, u64)>,
}

/// Counts as planned, on the platform `P`, with `first` as the first worker. The shared maps get names from
/// `template`; on return nothing of them is left but the returned handle of the counts.
pub(crate) fn count<P: Platform>(
    mut plan: Plan,
    template: &Path,
    first: fn(&mut Context, Plan) -> Result<Report, Failure>,
) -> Result<(Report, Counts<P>), manycore::Error> {
    let counts: Counts<P> = TableOptions::new()
        .expected(plan.bytes as usize / BYTES_PER_NEW_WORD)
        .create_unique(template)?
        .into();
    let counts_name = Unlink(counts.table());
    let progress: Progress<P> = TableOptions::new().create_unique(template)?.into();
    let progress_name = Unlink(progress.table());
    plan.shared.counts = counts.table().name().to_owned();
    plan.shared.progress = progress.table().name().to_owned();
    let report =
        Runtime::<P>::default().with(&counter::<P>()).run(&Worker::fallible("wordcount", first), plan);
    drop((counts_name, progress_name));
    Ok((report?, counts))
}

/// Removes a table's name when it is dropped, if nobody has before.
struct Unlink<'a, B: ShmBackend, L: LockMethod<B>>(&'a ShmTable<B, L>);

impl<B: ShmBackend, L: LockMethod<B>> Drop for Unlink<'_, B, L> {
    fn drop(&mut self) {
        // The first worker has usually removed it already.
        let _ = self.0.unlink();
    }
}

/// Starts the counters, joins them, and sums up; what a first worker does. `observe` is told now and then how
/// many files and bytes are done.
pub(crate) fn lead<P: Platform>(
    context: &mut Context,
    plan: Plan,
    observe: &mut dyn FnMut(u64, u64),
) -> Result<Report, Failure> {
    let progress: Progress<P> = TableOptions::new().open(&plan.shared.progress)?.into();
    let counts: Counts<P> = TableOptions::new().open(&plan.shared.counts)?.into();
    let shares = gather::<P>(context, &progress, &counts, &plan, observe);
    if shares.is_err() {
        // Let the others stop early: there is nothing left to take. The first error is the one to tell.
        let _ = progress.replace(&NEXT, &(plan.files.iter().count() as u64));
    }
    let shares = shares?;
    let (different_words, top) = most_frequent::<P>(&counts, plan.top)?;
    Ok(Report { shares, different_words, top })
}

fn gather<P: Platform>(
    context: &mut Context,
    progress: &Progress<P>,
    counts: &Counts<P>,
    plan: &Plan,
    observe: &mut dyn FnMut(u64, u64),
) -> Result<Vec<Share>, Failure> {
    let workers = (0..plan.workers)
        .map(|_| context.start(&counter::<P>(), plan.clone()))
        .collect::<Result<Vec<_>, _>>()?;
    let mut shares: Vec<Option<Share>> = workers.iter().map(|_| None).collect();
    let mut named = true;
    while let Some(waited_for) = shares.iter().position(Option::is_none) {
        shares[waited_for] = context.join_timeout(workers[waited_for], LOOK)?;
        for (share, worker) in shares.iter_mut().zip(&workers).filter(|(share, _)| share.is_none()) {
            *share = context.join_timeout(*worker, Duration::ZERO)?;
        }
        let [files, bytes, ready] = [FILES, BYTES, READY].map(|key| progress.find(&key));
        observe(files?.unwrap_or(0), bytes?.unwrap_or(0));
        if named && ready?.unwrap_or(0) == plan.workers as u64 {
            // All have them open: from here on nothing can be left behind, even if the whole program is killed.
            progress.table().unlink()?;
            counts.table().unlink()?;
            named = false;
        }
    }
    Ok(shares.into_iter().flatten().collect())
}

fn counter<P: Platform>() -> Worker<Plan, Share> {
    Worker::fallible("count", count_files::<P>)
}

/// The body of a counter.
fn count_files<P: Platform>(context: &mut Context, plan: Plan) -> Result<Share, Failure> {
    let progress: Progress<P> = TableOptions::new().open(&plan.shared.progress)?.into();
    let counts: Counts<P> = TableOptions::new().open(&plan.shared.counts)?.into();
    progress.update(&READY, |ready| ready.unwrap_or(0) + 1)?;
    let files: Vec<&Path> = plan.files.iter().collect();
    let mut share = Share { process: std::process::id(), ..Share::default() };
    let mut held = Tally::default();
    // The first merges at different times, so that the counters do not all wait for each other's.
    let mut limit = HELD_MAX * context.number() as usize / plan.workers;
    let mut done = None;
    while let Some(path) = take::<P>(&progress, done, &files)? {
        let mut bytes = 0;
        match read_text(path) {
            Ok(text) => {
                bytes = text.len() as u64;
                share.words += held.add(&text);
            }
            Err(reason) => {
                share.skipped += 1;
                if share.such_as.len() < EXAMPLES {
                    share.such_as.push(format!("{}: {reason}", path.display()));
                }
            }
        }
        share.files += 1;
        share.bytes += bytes;
        done = Some(bytes);
        if held.words.len() >= limit {
            held.merge::<P>(&counts)?;
            limit = HELD_MAX;
        }
    }
    held.merge::<P>(&counts)?;
    Ok(share)
}

/// Takes the next file, if there is one, and notes that the one before is done, which had so many bytes.
fn take<'a, P: Platform>(
    progress: &Progress<P>,
    done: Option<u64>,
    files: &[&'a Path],
) -> Result<Option<&'a Path>, MapError> {
    progress.group(|group| {
        if let Some(bytes) = done {
            group.update(&FILES, |files| files.unwrap_or(0) + 1)?;
            group.update(&BYTES, |sum| sum.unwrap_or(0) + bytes)?;
        }
        let mut taken = 0;
        group.update(&NEXT, |next| {
            taken = next.unwrap_or(0);
            taken + 1
        })?;
        Ok(usize::try_from(taken).ok().and_then(|taken| files.get(taken).copied()))
    })
}

/// Counts of words in the memory of one process.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) words: HashMap<String, u64>,
    lower: String,
}

impl Tally {
    /// Counts the words of `text`: runs of letters, digits and `_`, in lower case. Returns how many.
    pub(crate) fn add(&mut self, text: &str) -> u64 {
        let mut sum = 0;
        for word in text.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|word| !word.is_empty()) {
            self.lower.clear();
            if word.is_ascii() {
                self.lower.push_str(word);
                self.lower.make_ascii_lowercase();
            } else {
                self.lower.extend(word.chars().flat_map(char::to_lowercase));
            }
            match self.words.get_mut(self.lower.as_str()) {
                Some(count) => *count += 1,
                None => {
                    self.words.insert(self.lower.clone(), 1);
                }
            }
            sum += 1;
        }
        sum
    }

    /// Adds all counts to the shared ones, as one group, and forgets them.
    fn merge<P: Platform>(&mut self, counts: &Counts<P>) -> Result<(), MapError> {
        counts.group(|group| {
            self.words
                .drain()
                .try_for_each(|(word, count)| group.update(word.as_str(), |sum| sum.unwrap_or(0) + count))
        })
    }
}

/// The text of a file, or why it has none.
pub(crate) fn read_text(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => "not UTF-8".to_owned(),
        _ => error.to_string(),
    })
}

fn most_frequent<P: Platform>(counts: &Counts<P>, top: usize) -> Result<(u64, Vec<(String, u64)>), MapError> {
    let mut best: Vec<(String, u64)> = Vec::new();
    let mut different = 0;
    // A count that is surely among the best.
    let mut enough = 0;
    let order = |a: &(String, u64), b: &(String, u64)| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0));
    for entry in counts.iter()? {
        let entry = entry?;
        different += 1;
        if entry.1 >= enough {
            best.push(entry);
        }
        if best.len() >= top.max(64).saturating_mul(16) {
            best.sort_unstable_by(order);
            best.truncate(top);
            enough = best.last().map_or(0, |(_, count)| *count);
        }
    }
    best.sort_unstable_by(order);
    best.truncate(top);
    Ok((different, best))
}

/// What lies below some directories.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Regular files, the largest first, so that no worker is left alone with a large one at the end.
    pub(crate) files: Paths,
    /// Bytes of them all.
    pub(crate) bytes: u64,
    /// What could not be looked at, and why.
    pub(crate) unreadable: Vec<(PathBuf, String)>,
}

/// Finds the files below `roots`. Symbolic links in directories are not followed.
pub(crate) fn find_files(roots: &[PathBuf]) -> Found {
    let mut files = Vec::new();
    let mut unreadable = Vec::new();
    let mut visit =
        |path: PathBuf, metadata: io::Result<Metadata>, directories: &mut Vec<PathBuf>| match metadata {
            Ok(metadata) if metadata.is_dir() => directories.push(path),
            Ok(metadata) if metadata.is_file() => files.push((metadata.len(), path)),
            Ok(_) => {}
            Err(error) => unreadable.push((path, error.to_string())),
        };
    let mut directories = Vec::new();
    for root in roots {
        // Who names a link means what it leads to.
        visit(root.clone(), fs::metadata(root), &mut directories);
    }
    while let Some(directory) = directories.pop() {
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) => {
                visit(directory, Err(error), &mut directories);
                continue;
            }
        };
        for entry in entries {
            match entry {
                Ok(entry) => visit(entry.path(), entry.metadata(), &mut directories),
                Err(error) => visit(directory.clone(), Err(error), &mut directories),
            }
        }
    }
    files.sort_unstable_by(|a, b| b.cmp(a));
    let bytes = files.iter().map(|(size, _)| size).sum();
    Found { files: files.into_iter().map(|(_, path)| path).collect(), bytes, unreadable }
}

/// Counts in one thread of one process, without anything shared: what the result is compared with.
pub(crate) fn recount(files: &Paths) -> HashMap<String, u64> {
    let mut tally = Tally::default();
    for path in files.iter() {
        if let Ok(text) = read_text(path) {
            tally.add(&text);
        }
    }
    tally.words
}

/// The first difference between the shared counts and the expected ones, if there is one.
pub(crate) fn difference<P: Platform>(
    counts: &Counts<P>,
    mut expected: HashMap<String, u64>,
) -> Result<Option<String>, MapError> {
    for entry in counts.iter()? {
        let (word, count) = entry?;
        match expected.remove(&word) {
            Some(right) if right == count => {}
            Some(right) => return Ok(Some(format!("{word:?} was counted {count} times instead of {right}"))),
            None => {
                return Ok(Some(format!(
                    "{word:?} was counted {count} times, and does not occur or came twice"
                )));
            }
        }
    }
    Ok(expected
        .into_iter()
        .next()
        .map(|(word, count)| format!("{word:?} was lost, which occurs {count} times")))
}
