//! What a process has: children and descriptors, before and after.

/// Runs `body` and looks that nothing is left of it: no process, no descriptor, no thread.
pub(crate) fn leaving_nothing<T>(body: impl FnOnce() -> T) -> T {
    let before = descriptors();
    let value = body();
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
