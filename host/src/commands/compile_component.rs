//! `alphorn compile-component`: the child that compiles for the host.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use alphorn::plugin::compile::compile_file;

use crate::{cli::CompileComponentArgs, exit};

pub(crate) fn compile(args: &CompileComponentArgs) -> ExitCode {
    match compile_file(&args.input, &args.output, args.memory, args.seconds) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The host reads it.
            let _ = writeln!(io::stderr(), "{error:#}");
            exit::DATA.into()
        }
    }
}
