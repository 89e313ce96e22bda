//! One file a command.

pub(crate) mod build;
pub(crate) mod check;
mod client;
pub(crate) mod dev;
mod print;
pub(crate) mod publish;
pub(crate) mod run;
pub(crate) mod sub;
