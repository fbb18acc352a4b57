//! The guest's end of the link: a script that makes each segment itself, a TCP of a few lines, and
//! a whole stack.

mod plain;
mod script;
mod stack;

pub use plain::Plain;
pub use script::Script;
pub use stack::{Guest, Port};
