//! Errors that say what was attempted, in one line of code.

use crate::ports::RuntimeError;
use std::error::Error;

/// A result whose error says what was attempted.
pub(super) type Attempt<T> = Result<T, RuntimeError>;

/// Makes a [`RuntimeError`] of what the layer below said.
pub(super) fn attempt<E>(attempted: impl Into<String>) -> impl FnOnce(E) -> RuntimeError
where
    E: Into<Box<dyn Error + Send + Sync>>,
{
    let attempted = attempted.into();
    move |source| RuntimeError { attempted, source: source.into() }
}
