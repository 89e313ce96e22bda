//! One file a command.

use std::io::IsTerminal;

use alphorn::plugin::compile::Compiler;

pub(crate) mod act;
#[cfg(feature = "compiler")]
mod ahead;
mod ask;
#[cfg(feature = "compiler")]
pub(crate) mod build;
pub(crate) mod check;
mod client;
#[cfg(feature = "compiler")]
pub(crate) mod compile_component;
pub(crate) mod dead_letters;
#[cfg(feature = "compiler")]
pub(crate) mod dev;
pub(crate) mod doctor;
pub(crate) mod explain;
mod files;
#[cfg(feature = "compiler")]
pub(crate) mod keygen;
pub(crate) mod logs;
mod print;
pub(crate) mod ps;
pub(crate) mod publish;
pub(crate) mod quarantine;
pub(crate) mod run;
pub(crate) mod sub;

/// Components are compiled by a child of this program, whatever has become of its file.
#[cfg(feature = "compiler")]
fn compiler() -> Compiler {
    Compiler::Child("/proc/self/exe".into())
}

#[cfg(not(feature = "compiler"))]
fn compiler() -> Compiler {
    Compiler::Nobody
}

/// Whether what goes there may be coloured: a terminal, and nobody asked for none.
pub(crate) fn colour(to: &impl IsTerminal) -> bool {
    to.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
