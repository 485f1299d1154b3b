//! What a built component is and asks for: valid or not, its size, its needs. For the table that `guests` prints.
//!
//! Must never be what the host decides by: the registry reads the bytes itself, this only tells a developer beforehand.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use ringfence_core::Capability;
use wasmparser::{Parser, Payload, Validator, WasmFeatures};

/// One line about a component; one that does not validate is an error.
pub fn describe(name: &str, bytes: &[u8]) -> Result<String> {
    let needs = needs(bytes).with_context(|| format!("`{name}`"))?;
    let needs: Vec<&str> = needs.into_iter().map(Capability::as_str).collect();
    let needs = if needs.is_empty() { "none".to_owned() } else { needs.join(", ") };
    Ok(format!("  {name:<18} {:>12}  needs: {needs}", size(bytes.len())))
}

/// What a valid component needs to be granted.
pub fn needs(bytes: &[u8]) -> Result<BTreeSet<Capability>> {
    Validator::new_with_features(WasmFeatures::all()).validate_all(bytes).context("is no valid component")?;
    let interfaces = imports(bytes)?;
    Ok(interfaces.iter().filter_map(|name| Capability::of_import(interface(name))).collect())
}

/// The interfaces a component imports itself, those of components inside it left out.
pub fn imports(bytes: &[u8]) -> Result<Vec<String>> {
    let (mut depth, mut names) = (0_u32, Vec::new());
    for payload in Parser::new(0).parse_all(bytes) {
        match payload? {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    names.push(import?.name.name.to_owned());
                }
            }
            _ => {}
        }
    }
    Ok(names)
}

/// An import's name without its version.
pub fn interface(import: &str) -> &str {
    import.split_once('@').map_or(import, |(interface, _)| interface)
}

/// A size for people.
pub fn size(bytes: usize) -> String {
    if bytes < 1024 { format!("{bytes} B") } else { format!("{:.1} KiB", bytes as f64 / 1024.0) }
}
