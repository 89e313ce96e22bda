//! What `#[plugin]` becomes.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Error, Item, ItemImpl};

use crate::check::names_plugin;

/// The `impl` unchanged, a place for the instance, and the component's exports.
///
/// The exports are for wasm only: their names (`alphorn:plugin/guest@0.1.0#start`)
/// are no symbols that native linkers take, and natively there is no host to call them.
pub(crate) fn glue(block: &ItemImpl) -> TokenStream {
    let plugin = &block.self_ty;
    quote! {
        #block

        const _: () = {
            ::std::thread_local! {
                static SLOT: ::core::cell::RefCell<::core::option::Option<#plugin>> =
                    const { ::core::cell::RefCell::new(::core::option::Option::None) };
            }

            impl ::alphorn_guest::export::Instance for #plugin {
                fn with_slot<R>(
                    f: impl ::core::ops::FnOnce(&mut ::core::option::Option<Self>) -> R,
                ) -> R {
                    SLOT.with_borrow_mut(f)
                }
            }

            type Exported = #plugin;
            // Whatever the target, the plugin is not dead code.
            const _: () = ::alphorn_guest::export::used::<Exported>();
            #[cfg(target_family = "wasm")]
            ::alphorn_guest::bindings::export!(
                Exported with_types_in ::alphorn_guest::bindings
            );
        };
    }
}

/// The errors, and the item in a form of which the compiler doesn't say the same
/// again in its own words: the methods of a faulty plugin become its type's own.
/// So nothing they name counts as missing or unused, and editors still know them.
pub(crate) fn errors(errors: &Error, item: Item) -> TokenStream {
    let errors = errors.to_compile_error();
    match item {
        Item::Impl(ItemImpl { trait_: Some((_, path, _)), attrs, generics, self_ty, items, .. })
            if names_plugin(&path) =>
        {
            let (parameters, _, bounds) = generics.split_for_impl();
            quote! {
                #errors
                #(#attrs)*
                impl #parameters #self_ty #bounds { #(#items)* }
                const _: () = { fn names_the_trait<P: #path>() {} };
            }
        }
        item => quote! { #errors #item },
    }
}
