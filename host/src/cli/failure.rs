//! How a sub-command says what is wrong. Owns the form of the message; must not know the causes.

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;

/// The exit code of a command line that says too little, as clap has it.
pub(super) const ASKED_WRONGLY: u8 = 2;

/// Anything that ends a sub-command.
pub(super) type Failure = Box<dyn Error + Send + Sync>;

/// The exit code of a sub-command that has `done` what it was asked to; says why if it has not.
pub(super) fn exit_code(done: Result<(), Failure>) -> ExitCode {
    done.map_or_else(|failure| exit_code_of(failure.as_ref(), 1), |()| ExitCode::SUCCESS)
}

/// The exit code of a sub-command that ended by `failure`, which is said: `code`. One whose output
/// nobody reads to its end, as before `head`, has nothing to complain about.
pub(super) fn exit_code_of(failure: &(dyn Error + 'static), code: u8) -> ExitCode {
    if is_unwanted(failure) {
        return ExitCode::SUCCESS;
    }
    complain(failure);
    ExitCode::from(code)
}

/// Whether whoever reads our output has gone.
fn is_unwanted(failure: &(dyn Error + 'static)) -> bool {
    let error = failure.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

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
