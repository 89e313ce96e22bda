//! What a component imports and exports, read off it: one that can't run here is refused before it
//! is compiled, which may take half a minute. Pure.

use wasmparser::{ComponentTypeRef, Parser, Payload};

/// The names a component shows to the outside.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Surface {
    /// What it asks for, but for types, which ask for nothing.
    pub(super) imports: Vec<String>,
    /// What it has to offer.
    pub(super) exports: Vec<String>,
}

impl Surface {
    /// Of a component. None: it can't be read, and what is wrong is the compiler's to say.
    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        let mut surface = Self::default();
        // Modules and components in it are shown one after the other, each with an end.
        let mut depth = 0_usize;
        for payload in Parser::new(0).parse_all(bytes) {
            match payload.ok()? {
                Payload::Version { .. } => depth += 1,
                Payload::End(_) => {
                    depth = depth.checked_sub(1)?;
                    if depth == 0 {
                        return Some(surface);
                    }
                }
                Payload::ComponentImportSection(section) if depth == 1 => {
                    for import in section {
                        let import = import.ok()?;
                        if !matches!(import.ty, ComponentTypeRef::Type(_)) {
                            surface.imports.push(import.name.name.to_owned());
                        }
                    }
                }
                Payload::ComponentExportSection(section) if depth == 1 => {
                    for export in section {
                        surface.exports.push(export.ok()?.name.name.to_owned());
                    }
                }
                _ => {}
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_outermost_is_seen() {
        let component = wat::parse_str(
            r#"(component
                (import "a:b/types@0.1.0" (instance $types (export "t" (type (sub resource)))))
                (import "some-type" (type (sub resource)))
                (import "a:b/call" (func))
                (core module (import "inner" "f" (func)) (export "g" (func 0)))
                (component (import "deep" (func)) (export "deeper" (func 0)))
                (export "again" (instance $types))
            )"#,
        )
        .unwrap();
        let surface = Surface::of(&component).unwrap();
        assert_eq!(surface.imports, ["a:b/types@0.1.0", "a:b/call"]);
        assert_eq!(surface.exports, ["again"]);
    }

    #[test]
    fn what_can_t_be_read_has_none_and_nothing_panics() {
        let whole = wat::parse_str(r#"(component (import "a" (func)) (component (import "c" (func))))"#).unwrap();
        assert!(Surface::of(&whole).is_some());
        for end in 0..whole.len() {
            let _ = Surface::of(&whole[..end]);
        }
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut bent = whole.clone();
                bent[at] ^= 1 << bit;
                let _ = Surface::of(&bent);
            }
        }
    }
}
