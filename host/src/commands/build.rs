//! `alphorn build`: a plugin's folder to a component.

use alphorn::{
    builder,
    link::WhenFull,
    plugin::{
        component::{self, LoadLimits},
        engine::Engine,
    },
};
use anyhow::Context;

use super::{ahead, check};
use crate::{
    cli::BuildArgs,
    exit::{self, Failure},
};

pub(crate) async fn build(args: BuildArgs) -> Result<(), Failure> {
    if args.ahead.aot {
        return ahead::build(args).await;
    }
    let built = builder::build(&args.folder).await.map_err(|error| Failure::new(exit::DATA, error))?;
    let engine =
        Engine::new(super::compiler(), None, WhenFull::DropNewest).context("the WebAssembly engine does not start")?;
    let loaded = component::load(&engine, &built.component, LoadLimits::default())
        .await
        .map_err(|error| Failure::new(exit::DATA, error))?;
    check::report(&loaded.about, args.json)
}
