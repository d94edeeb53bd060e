use super::Tests;
pub(crate) fn all() -> Tests {
    Vec::new()
}
