//! An object that somebody cuts off under an open table is an error of every operation, not the death of the
//! process; and a SIGBUS that is not ours still kills.

use manycore::shm::ShmError;
use manycore::spawn::{Child, Exit, Fork};
use manycore::table::{Announced, Answer, Step};
use manycore::{Fcntl, File, ShmTable, TableError, TableOptions};
use manycore_backends::testing::shm::Fresh;
use manycore_backends::testing::{TestCase, run_tests};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

type Table = ShmTable<File, Fcntl>;

/// Words of the header: where the journal is, and how many entries it has.
const JOURNAL: usize = 35;
const JOURNAL_LENGTH: usize = 33;

fn main() {
    let tests: Vec<TestCase> = vec![
        ("every_operation_says_that_the_object_was_cut_off", every_operation_says_so),
        ("other_tables_go_on", other_tables_go_on),
        ("a_group_that_meets_the_end_fails_as_a_whole", a_group_that_meets_the_end_fails_as_a_whole),
        ("a_journal_that_was_cut_off_is_not_believed", a_journal_that_was_cut_off_is_not_believed),
        ("iterating_ends_with_the_error", iterating_ends_with_the_error),
        ("a_table_cut_off_again_and_again_is_survived", again_and_again),
        ("a_table_too_large_for_this_process_says_so", too_large_for_this_process),
        ("a_sigbus_that_was_sent_still_kills", a_sigbus_that_was_sent_still_kills),
    ];
    run_tests(&tests);
}

fn filled(name: &Fresh<File>) -> Table {
    let table: Table = TableOptions::new().create(name).unwrap();
    for key in 0..2000 {
        table.add(key, &[key; 10]).unwrap();
    }
    table
}

fn cut(name: &Fresh<File>, bytes: u64) {
    std::fs::OpenOptions::new().write(true).open(&**name).unwrap().set_len(bytes).unwrap();
}

/// One word of the object.
fn word(name: &Fresh<File>, at: usize) -> u32 {
    let bytes = std::fs::read(&**name).unwrap();
    u32::from_ne_bytes(bytes[4 * at..4 * at + 4].try_into().expect("four bytes"))
}

fn truncated<T: std::fmt::Debug>(result: Result<T, TableError>) {
    assert!(matches!(result, Err(TableError::Shm(ShmError::Truncated { .. }))), "{result:?}");
}

fn every_operation_says_so() {
    // To nothing, in the header, at a page, in the middle of one, and near the end.
    let sizes = [0, 20, 4096, 10_000, 100_000];
    let operations: [fn(&Table); 17] = [
        |table| truncated(all(table, |table, key| table.find(key).map(drop))),
        |table| truncated(all(table, |table, key| table.find_all(key).map(drop))),
        |table| truncated(all(table, |table, key| table.mem(key).map(drop))),
        |table| truncated(all(table, |table, key| table.add(key, &[1; 50]))),
        |table| truncated(all(table, |table, key| table.replace(key, &[2; 50]))),
        |table| truncated(all(table, |table, key| table.remove(key).map(drop))),
        |table| truncated(table.fold(0, |sum, _, value| sum + value.len())),
        |table| truncated(table.iter_keys().and_then(|mut keys| keys.try_for_each(|key| key.map(drop)))),
        |table| truncated(all(table, |table, key| table.find_into(key, &mut Vec::new()).map(drop))),
        |table| truncated(all(table, |table, key| table.get_many(&[key, key + 1], |_, _| ()))),
        |table| truncated(all(table, |table, key| table.update(key, |_| Some([3; 50])))),
        |table| truncated(all(table, |table, key| table.read_blocks(key, |_| Step::Continue))),
        |table| {
            truncated(all(table, |table, key| {
                table.write_blocks(key, Announced::Removal, |_| Answer::remove(Step::Continue))
            }));
        },
        |table| truncated(table.read_group(|group| (0..2000).try_for_each(|key| group.find(key).map(drop)))),
        |table| truncated(table.retain(|_, _| false)),
        |table| truncated(table.check()),
        |table| truncated(table.stat()),
    ];
    for size in sizes {
        for operation in operations {
            let name = Fresh::<File>::name();
            let table = filled(&name);
            cut(&name, size);
            operation(&table);
            // From then on all of them, also those that would meet nothing of it.
            operation(&table);
            truncated(table.group(|group| group.add(1, &[])));
        }
    }
}

/// One operation for each key, until one fails: one alone need not meet what is missing.
fn all(table: &Table, operation: fn(&Table, i32) -> Result<(), TableError>) -> Result<(), TableError> {
    (0..2000).try_for_each(|key| operation(table, key))
}

fn other_tables_go_on() {
    let (broken, sound) = (Fresh::<File>::name(), Fresh::<File>::name());
    let (broken_table, sound_table) = (filled(&broken), filled(&sound));
    cut(&broken, 4096);
    truncated(all(&broken_table, |table, key| table.find(key).map(drop)));
    drop(broken_table);
    assert_eq!(sound_table.length().unwrap(), 2000);
    assert_eq!(sound_table.fold(0, |count, _, _| count + 1).unwrap(), 2000);
    sound_table.add(5000, &[1]).unwrap();
    // A new table in the place of the broken one is not taken for it.
    std::fs::remove_file(&*broken).unwrap();
    assert_eq!(filled(&broken).length().unwrap(), 2000);
}

fn a_group_that_meets_the_end_fails_as_a_whole() {
    let name = Fresh::<File>::name();
    let table = filled(&name);
    truncated(table.group(|group| {
        group.add(1, &[7])?;
        cut(&name, 8192);
        for key in 0..2000 {
            // What it sees now may be anything; what counts is that the group does not happen.
            let _ = group.find(key);
        }
        Ok(())
    }));
}

/// Undoing from a journal that reads as zeros must not touch what is left of the object: others still look at it.
fn a_journal_that_was_cut_off_is_not_believed() {
    let name = Fresh::<File>::name();
    let table = filled(&name);
    // The journal moves to the end of the object, and then most of it is gone, but for its beginning.
    let mut header = Vec::new();
    truncated(table.group(|group| {
        for key in 0..2000 {
            group.replace(key, &[-key; 10])?;
        }
        header = std::fs::read(&*name).unwrap()[..32].to_vec();
        let cut_at = u64::from(word(&name, JOURNAL)) * 4 / 4096 * 4096 + 4096;
        cut(&name, cut_at);
        Err::<(), _>(TableError::FormatFull)
    }));
    assert_eq!(std::fs::read(&*name).unwrap()[..32], header, "the words that never change");
    assert_ne!(word(&name, JOURNAL_LENGTH), 0, "the journal is not taken for empty");
}

fn iterating_ends_with_the_error() {
    let name = Fresh::<File>::name();
    let table = filled(&name);
    let mut entries = table.iter().unwrap();
    for _ in 0..10 {
        entries.next().unwrap().unwrap();
    }
    cut(&name, 4096);
    let rest: Result<Vec<_>, _> = entries.by_ref().collect();
    truncated(rest.map(drop));
    assert!(entries.next().is_none());
}

fn again_and_again() {
    // More often than there is room for ranges at a time.
    for round in 0..1500u64 {
        let name = Fresh::<File>::name();
        let table: Table = TableOptions::new().create(&name).unwrap();
        table.add(1, &[1]).unwrap();
        cut(&name, round % 3 * 100);
        truncated(table.length().and_then(|_| table.find(1)).and_then(|_| table.add(2, &[2])));
    }
}

fn a_sigbus_that_was_sent_still_kills() {
    let child = Fork
        .fork(&[], || {
            let name = Fresh::<File>::name();
            let table = filled(&name);
            cut(&name, 4096);
            truncated(all(&table, |table, key| table.find(key).map(drop)));
            drop((table, name));
            let me = rustix::process::getpid();
            // The first may only take the handler of std away, which is there for stack overflows.
            for _ in 0..2 {
                rustix::process::kill_process(me, rustix::process::Signal::BUS).unwrap();
            }
            0
        })
        .unwrap();
    assert!(matches!(child.wait().unwrap(), Exit::Signal { signal: 7, .. }));
}

/// Another process may have more address space, and make the table larger than can be seen here. That is no damage.
fn too_large_for_this_process() {
    let name = Fresh::<File>::name();
    let table: Table = TableOptions::new().create(&name).unwrap();
    let small = std::fs::read(&*name).unwrap();
    (0..10).for_each(|key| table.add(key, &vec![key; 1 << 20]).unwrap());
    drop(table);
    let large = std::fs::read(&*name).unwrap();

    let name = Fresh::<File>::name();
    std::fs::write(&*name, small).unwrap();
    let sizes = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = sizes.split(' ').next().unwrap().parse().unwrap();
    let limits = getrlimit(Resource::As);
    let little = pages * rustix::param::page_size() as u64 + (10 << 20);
    setrlimit(Resource::As, Rlimit { current: Some(little), maximum: limits.maximum }).unwrap();
    let table: Table = TableOptions::new().mode(0o666).open(&name).unwrap();
    setrlimit(Resource::As, limits).unwrap();
    std::fs::write(&*name, large).unwrap();
    for result in
        [table.find(9).map(drop), table.add(9, &[1]), table.length().map(drop).and(table.check().map(drop))]
    {
        assert!(matches!(result, Err(TableError::Shm(ShmError::TooLarge { .. }))), "{result:?}");
    }
}
