//! The attribute macro of `alphorn-guest`, which re-exports and documents it.

mod check;
mod expand;

use proc_macro::TokenStream;
use syn::{Item, parse_macro_input};

// Its documentation is at the re-export, where the examples compile.
#[proc_macro_attribute]
pub fn plugin(arguments: TokenStream, item: TokenStream) -> TokenStream {
    let item = parse_macro_input!(item as Item);
    match check::plugin_impl(&arguments.into(), &item) {
        Ok(plugin) => expand::glue(plugin).into(),
        Err(errors) => expand::errors(&errors, item).into(),
    }
}
