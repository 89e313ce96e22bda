//! Compiling ahead of time, for this machine or another.

use std::str::FromStr;

use target_lexicon::{Architecture, Endianness, PointerWidth, Triple};
use wasmtime::Engine;

/// Why there is no compiled form.
#[derive(Debug, thiserror::Error)]
pub enum AheadError {
    /// Not what rustc calls a target.
    #[error("`{target}` is no target triple ({cause}): it has to be one like aarch64-unknown-linux-gnu")]
    Triple {
        /// What was asked for.
        target: String,
        /// Why not.
        cause: target_lexicon::ParseError,
    },
    /// The compiler is not made for that.
    #[error(
        "this alphorn can't compile for {target} ({cause}): build it with `cargo build --release --features cross`, \
         which adds aarch64, riscv64, s390x and x86_64 and, for other processors, wasmtime's interpreter; \
         or compile on a machine of that kind"
    )]
    Target {
        /// What was asked for.
        target: String,
        /// What the compiler says.
        cause: String,
    },
    /// The component is at fault.
    #[error("it does not compile: {0}")]
    Component(String),
}

/// Compiles a component for a target. What comes out asks for no more of a processor than all of
/// its kind have, so it runs on any of them.
pub fn compile(component: &[u8], target: &str) -> Result<Vec<u8>, AheadError> {
    let triple = Triple::from_str(target).map_err(|cause| AheadError::Triple { target: target.to_owned(), cause })?;
    let mut config = super::engine::config();
    // Once a target is named, this machine's processor is not asked what it can do.
    let engine = config.target(&code_for(&triple)).and_then(|config| Engine::new(config));
    let engine =
        engine.map_err(|cause| AheadError::Target { target: target.to_owned(), cause: format!("{cause:#}") })?;
    engine.precompile_component(component).map_err(|cause| AheadError::Component(format!("{cause:#}")))
}

/// What a host on such a machine runs: native code where Cranelift makes some, else what
/// wasmtime's interpreter takes.
fn code_for(triple: &Triple) -> String {
    let pulley = match triple.architecture {
        Architecture::X86_64 | Architecture::Aarch64(_) | Architecture::Riscv64(_) | Architecture::S390x => {
            return triple.to_string();
        }
        _ => match triple.pointer_width() {
            Ok(PointerWidth::U64) => "pulley64",
            _ => "pulley32",
        },
    };
    let end = if triple.endianness() == Ok(Endianness::Big) { "be" } else { "" };
    format!("{pulley}{end}")
}

#[cfg(test)]
mod tests {
    use super::{
        super::{compile::TARGET, native::Heading},
        *,
    };

    #[test]
    fn code_is_for_what_a_host_there_runs() {
        for (target, code) in [
            ("x86_64-unknown-linux-musl", "x86_64-unknown-linux-musl"),
            ("aarch64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"),
            ("riscv64gc-unknown-linux-gnu", "riscv64gc-unknown-linux-gnu"),
            ("armv7-unknown-linux-gnueabihf", "pulley32"),
            ("powerpc64-unknown-linux-gnu", "pulley64be"),
        ] {
            assert_eq!(code_for(&target.parse().unwrap()), code);
        }
    }

    #[test]
    fn what_was_compiled_says_for_what() {
        let component = wat::parse_str("(component)").unwrap();
        let heading = Heading::read(&compile(&component, TARGET).unwrap()).unwrap();
        assert_eq!(heading.target, TARGET);
        assert!(matches!(compile(b"nonsense", TARGET), Err(AheadError::Component(_))));
        assert!(matches!(compile(&component, "my machine"), Err(AheadError::Triple { .. })));
    }

    #[test]
    fn each_target_compiles_or_the_remedy_is_said() {
        let component = wat::parse_str("(component)").unwrap();
        for target in ["aarch64-unknown-linux-gnu", "x86_64-unknown-linux-gnu", "armv7-unknown-linux-gnueabihf"] {
            match compile(&component, target) {
                Ok(code) => assert!(Heading::read(&code).is_some()),
                Err(error) => {
                    let is_own = TARGET.split('-').next() == target.split('-').next();
                    assert!(!cfg!(feature = "cross") && !is_own, "{error}");
                    assert!(error.to_string().contains("--features cross"), "{error}");
                }
            }
        }
    }
}
