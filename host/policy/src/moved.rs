//! Texts of a tenant that goes on under another name: where they name the tenant itself, they name it anew.
//!
//! Must never touch the name of anything else, nor a word that only looks like a name: comments, annotations and what
//! conditions compare stay as they are.

use ringfence_core::TenantId;
use serde_json::{Map, Value};

use crate::text::{NAMED_TYPES, tokens};

/// A policy or a ceiling, with its own tenant and everything in it called by the new name. What is no policy stays none.
pub fn text(text: &str, from: &TenantId, to: &TenantId) -> String {
    let (mut out, mut done) = (String::with_capacity(text.len()), 0_usize);
    let tokens = tokens(text);
    for (place, token) in tokens.iter().enumerate() {
        let Some([.., kind, ":", ":"]) = tokens.get(..place) else { continue };
        let Some(named) = renamed(kind, token, from, to) else { continue };
        // Tokens are pieces of the text.
        let at = token.as_ptr().addr().saturating_sub(text.as_ptr().addr());
        out.push_str(text.get(done..at).unwrap_or_default());
        out.push_str(&named);
        done = at + token.len();
    }
    out.push_str(text.get(done..).unwrap_or_default());
    out
}

/// Labels, with the tenant's own principals called by their new names, and how many were; those of anybody else are left out.
/// None for what is no JSON of labels.
pub fn labels(text: &str, from: &TenantId, to: &TenantId) -> Option<(String, u64)> {
    let mut all: Map<String, Value> = serde_json::from_str(text).ok()?;
    let mut moved_count = 0;
    if let Some(principals) = all.get_mut("principals") {
        let mut named = Map::new();
        for (id, labels) in std::mem::take(principals.as_object_mut()?) {
            if let Some(name) = id.strip_prefix(from.as_str()).and_then(|rest| rest.strip_prefix('/')) {
                named.insert(format!("{to}/{name}"), labels);
                moved_count += 1;
            }
        }
        *principals = Value::Object(named);
    }
    Some((serde_json::to_string(&all).ok()?, moved_count))
}

/// The new form of a name of this type, where it names the tenant or something of it.
fn renamed(kind: &str, token: &str, from: &TenantId, to: &TenantId) -> Option<String> {
    let rest = token.strip_prefix('"')?.strip_prefix(from.as_str())?;
    let is_ours = match kind {
        "Tenant" => rest == "\"",
        kind => NAMED_TYPES.contains(&kind) && rest.starts_with('/'),
    };
    is_ours.then(|| format!("\"{to}{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved_text(old: &str) -> String {
        text(old, &"acme".parse().unwrap(), &"copy".parse().unwrap())
    }

    #[test]
    fn names_of_the_tenant_are_moved_and_nothing_else_is_touched() {
        let old = "// Ringfence::Person::\"acme/ann\" é\n@id(\"acme/ann\") forbid (principal == Ringfence::Person::\"acme/ann\", \
                   action == Ringfence::Action::\"invoke\", resource in Ringfence::Tenant :: \"acme\") \
                   when { \"acme/x\" == \"acme/x\" || principal == Ringfence::Service::\"acmes/ann\" } \
                   unless { resource == Ringfence::Plugin::\"acme/v\" };\n";
        let new = "// Ringfence::Person::\"acme/ann\" é\n@id(\"acme/ann\") forbid (principal == Ringfence::Person::\"copy/ann\", \
                   action == Ringfence::Action::\"invoke\", resource in Ringfence::Tenant :: \"copy\") \
                   when { \"acme/x\" == \"acme/x\" || principal == Ringfence::Service::\"acmes/ann\" } \
                   unless { resource == Ringfence::Plugin::\"copy/v\" };\n";
        assert_eq!(moved_text(old), new);
        for same in ["", "permit", "\"acme", "Ringfence::Person::\"acm", "Ringfence::Tenant::\"acme/ann\""] {
            assert_eq!(moved_text(same), same);
        }
    }

    #[test]
    fn labels_of_principals_follow_their_tenant() {
        let (from, to): (TenantId, TenantId) = ("acme".parse().unwrap(), "copy".parse().unwrap());
        let old = "{\"plugins\":{\"hello\":{}},\"principals\":{\"acme/dev\":{\"training\":[\"gdpr\"]},\"bolt/x\":{}}}";
        let (new, moved_count) = labels(old, &from, &to).unwrap();
        let new: Value = serde_json::from_str(&new).unwrap();
        let wanted =
            serde_json::json!({ "plugins": { "hello": {} }, "principals": { "copy/dev": { "training": ["gdpr"] } } });
        assert_eq!((new, moved_count), (wanted, 1));
        assert_eq!(labels("{}", &from, &to), Some(("{}".to_owned(), 0)));
        assert_eq!(labels("[", &from, &to), None);
    }
}
