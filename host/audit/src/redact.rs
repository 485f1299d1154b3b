//! What of an entry a reader may see.
//!
//! Pure. Must never show a reader more than his role allows: what is taken out is named, and its salt goes with it, so that
//! what is left cannot be used to guess.

use ringfence_core::Role;
use serde_json::Value;

use crate::Entry;

/// What of a body only an admin of the tenant (or an operator, of the host's log) sees: where requests come from and with what,
/// and which address a response blocks.
const FOR_ADMINS: [&[&str]; 3] =
    [&["src_endpoint"], &["http_request", "user_agent"], &["unmapped", "details", "target", "source"]];

/// Whether nothing is taken out for a role.
pub fn sees_all(role: Option<Role>) -> bool {
    matches!(role, Some(Role::TenantAdmin | Role::Operator))
}

/// Whether a member of a body, named as rules name it (`src_endpoint.ip`), is one that [`redact`] takes out, or within one.
pub fn is_for_admins(field: &str) -> bool {
    FOR_ADMINS.iter().any(|path| {
        let mut steps = field.split('.');
        path.iter().all(|step| steps.next() == Some(*step))
    })
}

/// Takes out of a body what `role` may not see, with the salt, and says what it took.
pub fn redact(role: Option<Role>, entry: &mut Entry) -> Vec<String> {
    if sees_all(role) {
        return Vec::new();
    }
    let Some(body) = &mut entry.body else { return Vec::new() };
    // That a request came from within the host is nobody's address.
    let within = body.get("src_endpoint").is_some_and(|endpoint| endpoint.get("ip").is_none());
    let paths = FOR_ADMINS.into_iter().filter(|path| !(within && path.first() == Some(&"src_endpoint")));
    let taken: Vec<String> = paths.filter(|path| take_out(body, path)).map(|path| path.join(".")).collect();
    if !taken.is_empty() {
        entry.salt.clear();
    }
    taken
}

/// Takes the member at a path out; whether there was one.
fn take_out(body: &mut Value, path: &[&str]) -> bool {
    let Some((name, way)) = path.split_last() else { return false };
    let holder = way.iter().try_fold(body, |value, step| value.get_mut(*step));
    holder.and_then(Value::as_object_mut).is_some_and(|members| members.remove(*name).is_some())
}
