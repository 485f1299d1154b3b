//! Rewrites `[needs]` of a `plugin.toml` to match the bytes, keeping comments, order and scopes as they are.
//!
//! Pure text. Must never widen a scope the author wrote: a new need starts with the narrowest usual one.

use ringfence_core::{Capability, Manifest, ManifestError};
use toml_edit::{Array, DocumentMut, Item, Table, value};

/// The manifest's text with `[needs]` naming exactly `imported`, and those that the author alone can ask for, and the component's path when there was none.
/// `None` when nothing changes.
pub fn write_needs(
    text: &str,
    manifest: &Manifest,
    imported: &[Capability],
    component: &str,
) -> Result<Option<String>, ManifestError> {
    let unreadable =
        |_| ManifestError { message: "cannot be edited".to_owned(), line: 0, column: 0, source_line: String::new() };
    let mut document: DocumentMut = text.parse().map_err(unreadable)?;
    if manifest.plugin.component.is_none()
        && let Some(plugin) = document.get_mut("plugin").and_then(Item::as_table_like_mut)
    {
        plugin.insert("component", value(component));
    }
    let stated = |capability: Capability| is_stated(&document, capability);
    let missing: Vec<Capability> = imported.iter().copied().filter(|capability| !stated(*capability)).collect();
    let surplus: Vec<Capability> = Capability::ALL
        .into_iter()
        // Some are the author's to ask for: the bytes cannot say it.
        .filter(|capability| !capability.is_asked_for() && stated(*capability) && !imported.contains(capability))
        .collect();
    if !missing.is_empty() && document.get("needs").is_none() {
        document.insert("needs", Item::Table(Table::new()));
    }
    if let Some(needs) = document.get_mut("needs").and_then(Item::as_table_like_mut) {
        for capability in surplus {
            needs.remove(capability.as_str());
        }
        for capability in missing {
            needs.insert(capability.as_str(), value(first_scope(capability)));
        }
    }
    let changed = document.to_string();
    Ok((changed != text).then_some(changed))
}

fn is_stated(document: &DocumentMut, capability: Capability) -> bool {
    document.get("needs").and_then(Item::as_table_like).is_some_and(|needs| needs.contains_key(capability.as_str()))
}

/// What a need is scoped to until the author says more.
fn first_scope(capability: Capability) -> Array {
    match capability {
        Capability::Keyvalue | Capability::Blob => Array::from_iter(["default"]),
        _ => Array::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# mine\n[plugin]\nname = \"visits\"\nversion = \"0.1.0\" # first\n\n[needs] # from the bytes\nhttp = [\"https://a.example\"] # partner\nconfig = []\n";

    fn edit(text: &str, imported: &[Capability]) -> Option<String> {
        write_needs(text, &Manifest::parse(text).unwrap(), imported, "target/visits.wasm").unwrap()
    }

    #[test]
    fn needs_follow_the_bytes_and_comments_and_scopes_stay() {
        let changed = edit(TEXT, &[Capability::Keyvalue, Capability::Http]).unwrap();
        let manifest = Manifest::parse(&changed).unwrap();
        assert_eq!(manifest.asked_scope(Capability::Keyvalue), ["default"]);
        assert_eq!(manifest.asked_scope(Capability::Http), ["https://a.example"]);
        assert!(manifest.needs.config.is_none());
        assert_eq!(manifest.plugin.component.as_deref(), Some("target/visits.wasm"));
        for comment in ["# mine", "# first", "# from the bytes", "# partner"] {
            assert!(changed.contains(comment), "{comment} in {changed}");
        }
    }

    #[test]
    fn a_manifest_that_is_right_is_not_touched() {
        let once = edit(TEXT, &[Capability::Config, Capability::Http]).unwrap();
        assert_eq!(edit(&once, &[Capability::Config, Capability::Http]), None);
    }

    #[test]
    fn files_stay_though_no_byte_says_so() {
        let text = "[plugin]\nname = \"a\"\nversion = \"0.1.0\"\ncomponent = \"a.wasm\"\n\n[needs]\nfiles = []\n";
        assert_eq!(edit(text, &[]), None);
        assert!(edit(text, &[Capability::Http]).unwrap().contains("files = []"));
    }

    #[test]
    fn a_missing_section_is_made_only_when_it_has_something_to_say() {
        let bare = "[plugin]\nname = \"a\"\nversion = \"0.1.0\"\ncomponent = \"a.wasm\"\n";
        assert_eq!(edit(bare, &[]), None);
        let changed = edit(bare, &[Capability::Logging]).unwrap();
        assert!(changed.contains("[needs]\nlogging = []"), "{changed}");
    }
}
