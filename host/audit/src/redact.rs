//! What of an entry a reader may see.
//!
//! Pure. Must never show a reader more than his role allows: what is taken out is named, and its salt goes with it, so that
//! what is left cannot be used to guess.

use ringfence_core::Role;
use serde_json::Value;

use crate::Entry;

/// What of a body only an admin of the tenant (or an operator, of the host's log) sees.
const FOR_ADMINS: [&str; 2] = ["src_endpoint", "http_request"];

/// Whether nothing is taken out for a role.
pub fn sees_all(role: Option<Role>) -> bool {
    matches!(role, Some(Role::TenantAdmin | Role::Operator))
}

/// Takes out of a body what `role` may not see, with the salt, and says what it took.
pub fn redact(role: Option<Role>, entry: &mut Entry) -> Vec<String> {
    if sees_all(role) {
        return Vec::new();
    }
    let Some(members) = entry.body.as_mut().and_then(Value::as_object_mut) else { return Vec::new() };
    let taken: Vec<String> =
        FOR_ADMINS.into_iter().filter(|name| members.remove(*name).is_some()).map(str::to_owned).collect();
    if !taken.is_empty() {
        entry.salt.clear();
    }
    taken
}
