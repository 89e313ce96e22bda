//! One file a command.

use std::io::IsTerminal;

pub(crate) mod build;
pub(crate) mod check;
mod client;
pub(crate) mod dev;
pub(crate) mod doctor;
mod files;
mod print;
pub(crate) mod publish;
pub(crate) mod run;
pub(crate) mod sub;

/// Whether what goes there may be coloured: a terminal, and nobody asked for none.
pub(crate) fn colour(to: &impl IsTerminal) -> bool {
    to.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
