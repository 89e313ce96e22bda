//! `alphorn new`: a plugin to begin with.

use alphorn::builder::template::Template;
use anyhow::Context;

use super::print;
use crate::{
    cli::{LanguageArg, NewArgs},
    exit::{self, Failure},
};

pub(crate) fn new(args: &NewArgs) -> Result<(), Failure> {
    let template = match args.lang {
        LanguageArg::Rust => Template::Rust,
        LanguageArg::C => Template::C,
        LanguageArg::Cpp => Template::Cpp,
        LanguageArg::Javascript => Template::JavaScript,
        LanguageArg::Typescript => Template::TypeScript,
        LanguageArg::Python => Template::Python,
        LanguageArg::Go => Template::Go,
        LanguageArg::Zig => Template::Zig,
    };
    template.create(&args.folder).map_err(|error| Failure::new(exit::USAGE, error))?;
    let folder = args.folder.display();
    print::line(&format!("{folder} is a plugin now; run it with: alphorn dev {folder}")).context("stdout is closed")?;
    Ok(())
}
