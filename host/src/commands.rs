//! One file a command.

use std::io::IsTerminal;

use alphorn::plugin::compile::Compiler;

pub(crate) mod act;
mod ask;
#[cfg(feature = "tooling")]
pub(crate) mod build;
pub(crate) mod check;
mod client;
pub(crate) mod compile_component;
pub(crate) mod dead_letters;
#[cfg(feature = "tooling")]
pub(crate) mod dev;
pub(crate) mod doctor;
pub(crate) mod explain;
mod files;
pub(crate) mod logs;
#[cfg(feature = "tooling")]
pub(crate) mod new;
mod print;
pub(crate) mod ps;
pub(crate) mod publish;
pub(crate) mod quarantine;
pub(crate) mod run;
pub(crate) mod sub;

/// Components are compiled by a child of this program, whatever has become of its file.
fn compiler() -> Compiler {
    Compiler::Child("/proc/self/exe".into())
}

/// Whether what goes there may be coloured: a terminal, and nobody asked for none.
pub(crate) fn colour(to: &impl IsTerminal) -> bool {
    to.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
