//! What a process has: children and descriptors, before and after.

/// Runs `body` and looks that nothing is left of it: no process, no descriptor, no thread.
pub(crate) fn leaving_nothing<T>(body: impl FnOnce() -> T) -> T {
    let before = descriptors();
    let value = body();
    // A thread that has told of its end is there for a moment still, with what it told that by.
    for _ in 0..100_000 {
        if descriptors() == before {
            break;
        }
        std::thread::yield_now();
    }
    assert_eq!(descriptors(), before, "descriptors");
    assert_eq!(children(), "", "processes");
    value
}

fn children() -> String {
    let pid = std::process::id();
    std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap()
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}
