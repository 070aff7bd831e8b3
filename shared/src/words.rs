//! Errors in words, for a status, an event or an answer; a log keeps the error itself.

use std::error::Error;

/// An error with its causes, outermost first.
#[must_use]
pub fn in_words(error: &(dyn Error + 'static)) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        words.push_str(": ");
        words.push_str(&error.to_string());
        cause = error.source();
    }
    words
}
