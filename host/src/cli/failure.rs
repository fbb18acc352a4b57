//! How a sub-command says that it failed. Owns the form of the message; must not know the causes.

use std::error::Error;

/// Anything that ends a sub-command.
pub(super) type Failure = Box<dyn Error + Send + Sync>;

/// Prints `failure` and what caused it, down to the root, in one line on the standard error.
pub(super) fn complain(failure: &dyn Error) {
    eprintln!("sluicegate: {}", in_full(failure));
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
