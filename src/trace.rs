//! What the library tells while it works: events of the crate `tracing`, with the feature of this name; without it,
//! nothing.
//!
//! This module installs no subscriber, and nothing is both told and returned as an error to the same caller.

/// Tells an event: the level, fields, and a text.
macro_rules! event {
    ($level:ident, $($field:tt)*) => {
        #[cfg(feature = "tracing")]
        tracing::$level!(target: "manycore", $($field)*);
    };
}

pub(crate) use event;
