//! What `#[plugin]` may be put on. Each error shows the right use, and all errors
//! of an item are reported together.

use proc_macro2::TokenStream;
use syn::spanned::Spanned;
use syn::{Error, ImplItem, Item, ItemImpl, Path, Result, Signature};

/// The methods of the trait, in its order.
const METHODS: [&str; 5] = ["start", "on_message", "on_timer", "on_event", "stop"];

const RIGHT_USE: &str = "\
write

    #[plugin]
    impl Plugin for MyPlugin {
        fn start(start: Start) -> Result<Self> { … }
    }
";

/// The item as the plugin's `impl`, or everything that is wrong with it.
pub(crate) fn plugin_impl<'a>(arguments: &TokenStream, item: &'a Item) -> Result<&'a ItemImpl> {
    let block = impl_of_plugin(item)?;
    let mut errors = Vec::new();
    if !arguments.is_empty() {
        let words = "`#[plugin]` takes no arguments: write it alone";
        errors.push(Error::new_spanned(arguments, words));
    }
    if !block.generics.params.is_empty() {
        let words = "a plugin is one concrete type: the host makes the instance and can choose no parameters";
        errors.push(Error::new_spanned(&block.generics, words));
    }
    errors.extend(method_errors(block));

    let all = errors.into_iter().reduce(|mut all, error| {
        all.combine(error);
        all
    });
    match all {
        Some(all) => Err(all),
        None => Ok(block),
    }
}

fn impl_of_plugin(item: &Item) -> Result<&ItemImpl> {
    let (span, found) = match item {
        Item::Impl(block) => match &block.trait_ {
            Some((_, path, _)) if names_plugin(path) => return Ok(block),
            Some((_, path, _)) => (path.span(), "the `impl` of another trait"),
            None => (block.self_ty.span(), "an `impl` without a trait"),
        },
        Item::Struct(item) => (item.ident.span(), "a struct"),
        Item::Enum(item) => (item.ident.span(), "an enum"),
        Item::Fn(item) => (item.sig.ident.span(), "a function"),
        other => (other.span(), "this"),
    };
    let words = format!("`#[plugin]` goes on the `impl` of `Plugin`, not on {found}; {RIGHT_USE}");
    Err(Error::new(span, words))
}

/// `Plugin`, by whatever path.
pub(crate) fn names_plugin(path: &Path) -> bool {
    path.segments.last().is_some_and(|last| last.ident == "Plugin")
}

fn method_errors(block: &ItemImpl) -> Vec<Error> {
    let signatures = || {
        block.items.iter().filter_map(|item| match item {
            ImplItem::Fn(method) => Some(&method.sig),
            _ => None,
        })
    };
    let mut errors: Vec<_> = signatures().filter_map(method_error).collect();
    if !signatures().any(|signature| signature.ident == "start") {
        let words = "the plugin has no `start`; add\n\n    fn start(start: Start) -> Result<Self> { … }\n";
        errors.push(Error::new_spanned(&block.self_ty, words));
    }
    errors
}

fn method_error(signature: &Signature) -> Option<Error> {
    let name = signature.ident.to_string();
    if !METHODS.contains(&name.as_str()) {
        return Some(Error::new_spanned(&signature.ident, unknown_method(&name)));
    }
    let r#async = signature.asyncness?;
    let words = format!(
        "`{name}` can't be async: the host makes one call at a time, and none of what a plugin may ask for waits for the network; remove `async`"
    );
    Some(Error::new_spanned(r#async, words))
}

fn unknown_method(name: &str) -> String {
    let nearest = METHODS
        .map(|method| (strsim::normalized_damerau_levenshtein(name, method), method))
        .into_iter()
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .filter(|(similarity, _)| *similarity > 0.5);
    let hint = match nearest {
        Some((_, method)) => format!("; did you mean `{method}`?"),
        None => String::new(),
    };
    format!(
        "`Plugin` has no method `{name}`{hint}

It has {}; other methods go into an `impl` of their own
",
        METHODS.map(|method| format!("`{method}`")).join(", "),
    )
}
