//! What the typed views of a table share.
//!
//! This module knows no types of keys and values: maps and arrays do.

use super::error::TableError;

/// How a group of a typed view fails: by its body's error, which may be of any type, or by the table's. The table's
/// becomes one of the view, `R`, before it becomes the body's.
pub(crate) enum Failure<E> {
    Body(E),
    Table(TableError),
}

impl<E> Failure<E> {
    pub(crate) fn lift<T, R>(result: Result<T, Failure<E>>) -> Result<T, E>
    where
        R: From<TableError>,
        E: From<R>,
    {
        result.map_err(|failure| match failure {
            Failure::Body(error) => error,
            Failure::Table(error) => R::from(error).into(),
        })
    }
}

impl<E> From<TableError> for Failure<E> {
    fn from(error: TableError) -> Failure<E> {
        Failure::Table(error)
    }
}
