//! The configured components: whether each is there and can run here. Nothing is compiled for that.

use std::path::Path;

use super::report::{Check, Fault};
use crate::{
    config::{Config, PluginConfig},
    link::WhenFull,
    plugin::{
        compile::{CompileError, Compiler, is_kept},
        component::{self, ComponentError},
        engine::Engine,
    },
    regular_file::{self, COMPONENT},
};

/// The name of the check.
pub(super) const NAME: &str = "components";

/// One that runs, and how it comes to that.
type Outcome = Result<&'static str, ComponentError>;

/// Looks at each as the host does when it starts, up to the point where it would be compiled.
pub(super) async fn check(config: &Config) -> Check {
    if config.plugins.is_empty() {
        return Check::ok(NAME, "no plugins are configured");
    }
    // It keeps nothing and compiles nothing, so it does not touch what a running host has.
    let engine = match Engine::new(Compiler::Nobody, None, WhenFull::DropNewest) {
        Ok(engine) => engine.trusting(config.trusted_keys.clone()),
        Err(error) => {
            let cause = format!("the WebAssembly engine does not start: {error:#}");
            return Check::fail(NAME, Fault::Configuration, "not looked at", cause, "see what the processor offers");
        }
    };
    let kept = config.disk.as_ref().map(|disk| disk.folder.as_path());
    let mut outcomes = Vec::new();
    for (name, plugin) in &config.plugins {
        outcomes.push((name.as_str(), look(&engine, plugin, kept).await));
    }
    judge(&outcomes)
}

async fn look(engine: &Engine, plugin: &PluginConfig, data_dir: Option<&Path>) -> Outcome {
    match component::load(engine, &plugin.component, (&plugin.limits).into()).await {
        Ok(loaded) => loaded.fits(plugin).map(|()| "compiled elsewhere"),
        Err(ComponentError::Compile { cause: CompileError::NoCompiler, .. }) if cfg!(feature = "compiler") => {
            let digest = regular_file::read(&plugin.component, COMPONENT).ok().map(|bytes| component::digest(&bytes));
            let is_kept = data_dir.zip(digest).is_some_and(|(folder, digest)| is_kept(folder, &digest));
            Ok(if is_kept { "compiled" } else { "to be compiled at the start" })
        }
        Err(error) => Err(error),
    }
}

fn judge(outcomes: &[(&str, Outcome)]) -> Check {
    let shown = outcomes.iter().map(|(name, outcome)| match outcome {
        Ok(how) => format!("{name} ({how})"),
        Err(_) => format!("{name} (can't run)"),
    });
    let found = shown.collect::<Vec<_>>().join(", ");
    let causes = outcomes.iter().filter_map(|(name, outcome)| Some(format!("{name}: {}", outcome.as_ref().err()?)));
    let causes: Vec<_> = causes.collect();
    if causes.is_empty() {
        return Check::ok(NAME, found);
    }
    let remedy = "mend what is named there; `alphorn check FILE` looks at one alone";
    Check::fail(NAME, Fault::Configuration, found, causes.join("; "), remedy)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{config::Overrides, doctor::report::Status};

    async fn check_of(folder: &Path, plugins: &str) -> Check {
        let text =
            format!("[host]\ndata_dir = \"data\"\n[link]\nurl = \"mqtt://localhost\"\nclient_id = \"x\"\n{plugins}");
        check(&Config::parse(&text, folder, std::iter::empty(), &Overrides::default()).unwrap()).await
    }

    #[tokio::test]
    async fn each_is_there_or_the_reason_is_told() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(check_of(folder.path(), "").await.status, Status::Ok);
        fs::write(folder.path().join("core.wasm"), wat::parse_str("(module)").unwrap()).unwrap();
        fs::write(folder.path().join("text.wasm"), "no wasm").unwrap();
        let plugins = ["core", "text", "gone"].map(|name| format!("[plugins.{name}]\ncomponent = \"{name}.wasm\"\n"));
        let check = check_of(folder.path(), &plugins.concat()).await;
        assert_eq!(check.status, Status::Fail(Fault::Configuration));
        let cause = check.cause.unwrap();
        for part in ["core: ", "core WebAssembly module", "text: ", "is not WebAssembly", "gone: ", "can't read"] {
            assert!(cause.contains(part), "{cause}");
        }
    }

    #[tokio::test]
    async fn what_begins_with_more_memory_than_it_may_have_is_told_with_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let program = r#"(component
            (core module $run (memory 320) (func (export "run") (result i32) (i32.const 0)))
            (core instance $run (instantiate $run))
            (func $run (result (result)) (canon lift (core func $run "run")))
            (instance $run (export "run" (func $run)))
            (export "wasi:cli/run@0.2.0" (instance $run)))"#;
        fs::write(folder.path().join("hungry.wasm"), wat::parse_str(program).unwrap()).unwrap();
        let check = check_of(folder.path(), "[plugins.hungry]\ncomponent = \"hungry.wasm\"\n").await;
        assert_eq!(check.status, Status::Fail(Fault::Configuration));
        let cause = check.cause.unwrap();
        for part in ["hungry: ", "hungry.wasm", "16777216", "`limits.memory`", "at least \"21MiB\""] {
            assert!(cause.contains(part), "{cause}");
        }
    }

    #[cfg(feature = "compiler")]
    #[tokio::test]
    async fn what_was_compiled_is_told_from_what_was_not_and_nothing_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = include_bytes!("../../../tests/fixtures/contract-0.1.0.wasm");
        fs::write(folder.path().join("a.wasm"), bytes).unwrap();
        let plugin = "[plugins.a]\ncomponent = \"a.wasm\"\n";
        let check = check_of(folder.path(), plugin).await;
        assert_eq!((check.status, check.found.as_str()), (Status::Ok, "a (to be compiled at the start)"));
        assert!(!folder.path().join("data").exists());
        fs::create_dir_all(folder.path().join("data/compiled")).unwrap();
        fs::write(folder.path().join(format!("data/compiled/{}-0.cwasm", component::digest(bytes))), "").unwrap();
        assert_eq!(check_of(folder.path(), plugin).await.found, "a (compiled)");
    }
}
