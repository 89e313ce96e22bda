//! What `wit-bindgen` makes of the WIT package: the only place where it runs.
//!
//! The crate re-exports from here one name at a time. Types that should read
//! differently in Rust (the errors need words and `From`, the arguments of
//! `start` a shorter name) are declared by hand and put in place by `with`, so
//! that nothing is converted on the way in or out.

wit_bindgen::generate!({
    path: "../wit",
    world: "plugin",
    pub_export_macro: true,
    export_macro_name: "export",
    additional_derives: [PartialEq],
    additional_type_attributes: {
        "alphorn:plugin/types@0.1.0/properties": [#[derive(Default)]],
    },
    with: {
        "alphorn:plugin/mqtt@0.1.0/publish-error": crate::PublishError,
        "alphorn:plugin/mqtt@0.1.0/subscribe-error": crate::SubscribeError,
        "alphorn:plugin/state@0.1.0/state-error": crate::state::StateError,
        "alphorn:plugin/guest@0.1.0/failure": crate::Failure,
        "alphorn:plugin/guest@0.1.0/start-info": crate::Start,
    },
});
