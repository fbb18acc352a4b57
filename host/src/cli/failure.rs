//! How a sub-command says what is wrong. Owns the form of the message; must not know the causes.

use std::error::Error;
use std::io::Write;

/// Anything that ends a sub-command.
pub(super) type Failure = Box<dyn Error + Send + Sync>;

/// Prints `failure` and what caused it, down to the root, in one line on the standard error.
pub(super) fn complain(failure: &dyn Error) {
    warn(&in_full(failure));
}

/// Prints `text` on the standard error. If that is closed, nobody wants to know.
pub(super) fn warn(text: &str) {
    let _ = writeln!(std::io::stderr(), "sluicegate: {text}");
}

/// `failure` and its causes in one line.
pub(super) fn in_full(failure: &dyn Error) -> String {
    let mut text = failure.to_string();
    let mut cause = failure.source();
    while let Some(error) = cause {
        let said = error.to_string();
        // Some errors say their cause themselves.
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}
