//! [`Failure`]: the error of a worker's function, and how other errors become one.
//!
//! This module does not keep errors themselves: they stay where they happened, and what they say travels.

use std::error::Error;
use std::fmt;
use std::ops::Deref;

/// So many causes are kept; nothing says that an error is not its own cause.
const CAUSES_MAX: usize = 64;

/// The error of a [fallible](crate::Worker::fallible) worker: the message of any error and of its causes, or one of your own.
/// Whoever joins the worker gets them in [`JoinError::Failed`](crate::JoinError::Failed).
///
/// Any [`Error`] becomes one by `?`. A boxed error, `anyhow::Error` or `eyre::Report` is not an `Error` itself; it becomes one
/// by [`from_boxed`](Failure::from_boxed):
///
/// ```
/// use std::error::Error;
/// use manycore::{Failure, JoinError, Pool, PoolError, Worker};
///
/// fn ratio(text: &str) -> Result<f64, Box<dyn Error + Send + Sync>> {
///     let (part, whole) = text.split_once('/').ok_or("no slash")?;
///     Ok(part.parse::<f64>()? / whole.parse::<f64>()?)
/// }
///
/// const RATIO: Worker<Vec<u8>, f64> = Worker::fallible("ratio", |_, bytes| {
///     if bytes.is_empty() {
///         return Err(Failure::new("nothing to read")); // one of your own
///     }
///     let text = String::from_utf8(bytes)?; // any error
///     ratio(&text).map_err(Failure::from_boxed) // one in a box
/// });
///
/// let error = Pool::new(&RATIO).map([b"1/8".to_vec(), b"1-8".to_vec()]).unwrap_err();
/// let PoolError::Task { index: 1, error: JoinError::Failed { message, .. } } = error else { panic!("{error}") };
/// assert_eq!(message, "no slash");
/// ```
///
/// It is not itself an `Error`, as otherwise not every error could become one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    message: String,
    causes: Vec<String>,
}

impl Failure {
    /// A failure with a message, and no cause.
    pub fn new(message: impl Into<String>) -> Failure {
        Failure { message: message.into(), causes: Vec::new() }
    }

    /// A failure with the message and the causes of an error that is held by something: `Box<dyn Error>`, also of errors
    /// that are `Send` and `Sync`, `anyhow::Error`, `eyre::Report`.
    #[doc(alias("anyhow", "eyre"))]
    pub fn from_boxed<E>(error: E) -> Failure
    where
        E: Deref,
        E::Target: Error,
    {
        Failure::of(&*error)
    }

    /// What the error said, without what its causes are.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What the causes of the error said, the nearest first: what [`source`](Error::source) is, the source of that, and so on,
    /// 64 of them at most.
    #[doc(alias("source", "chain"))]
    pub fn causes(&self) -> &[String] {
        &self.causes
    }

    fn of<E: Error + ?Sized>(error: &E) -> Failure {
        let causes = std::iter::successors(error.source(), |&cause| cause.source());
        Failure {
            message: error.to_string(),
            causes: causes.take(CAUSES_MAX).map(ToString::to_string).collect(),
        }
    }

    pub(super) fn into_parts(self) -> (String, Vec<String>) {
        (self.message, self.causes)
    }
}

impl<E: Error> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure::of(&error)
    }
}

/// The message and then the causes, each behind a colon; a cause that the text before it tells already is left out.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&with_causes(&self.message, &self.causes))
    }
}

/// A message and its causes as one text. Many errors tell their cause in their own message.
pub(super) fn with_causes(message: &str, causes: &[String]) -> String {
    let mut text = message.to_owned();
    for cause in causes {
        if !text.contains(cause.as_str()) {
            text.push_str(": ");
            text.push_str(cause);
        }
    }
    text
}
