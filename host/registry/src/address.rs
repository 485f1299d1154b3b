//! From a request's host and path to a tenant, a plugin and the rest. Pure and strict.
//!
//! SECURITY: tenant and plugin are decided here once, from bytes as they came: nothing is decoded, folded or tidied, so
//! that two spellings can never be two routes to one parser and one route to the next. What does not fit matches nothing.

use ringfence_core::{PluginName, TenantId};

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) tenant: TenantId,
    pub(crate) plugin: PluginName,
    /// Path and query for the guest; starts with `/`.
    pub(crate) rest: String,
}

/// Reads `/{tenant}/{plugin}/{rest}`, or with a `domain` also a host `{plugin}.{tenant}.{domain}` and the whole path.
/// A host below the domain is never read by its path.
pub(crate) fn parse(domain: Option<&str>, host: Option<&str>, path: &str) -> Option<Address> {
    if !path.starts_with('/') || !is_plain(path) {
        return None;
    }
    if let Some(labels) = domain.zip(host).and_then(|(domain, host)| below(domain, host)) {
        let (plugin, tenant) = labels.split_once('.')?;
        return Some(Address { tenant: tenant.parse().ok()?, plugin: plugin.parse().ok()?, rest: path.to_owned() });
    }
    let (tenant, after) = path.strip_prefix('/')?.split_once('/')?;
    let end = after.find(['/', '?']).unwrap_or(after.len());
    let (plugin, rest) = after.split_at_checked(end)?;
    let rest = if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") };
    Some(Address { tenant: tenant.parse().ok()?, plugin: plugin.parse().ok()?, rest })
}

/// The labels of `host` in front of `domain`, lower-cased and without a port; `None` when it is not below it.
fn below(domain: &str, host: &str) -> Option<String> {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let labels = name.strip_suffix(&domain.to_ascii_lowercase())?.strip_suffix('.')?;
    Some(labels.to_owned())
}

/// No control characters, no backslash, no fragment, and no dot segment in any spelling: a path that a tidying proxy would
/// have turned into another one is nobody's.
fn is_plain(path: &str) -> bool {
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    path.bytes().all(|b| b.is_ascii_graphic() && b != b'\\' && b != b'#') && !path.split('/').any(is_dots)
}

fn is_dots(segment: &str) -> bool {
    // Nearly every segment, without a copy of it.
    if !segment.starts_with(['.', '%']) {
        return false;
    }
    // Parameters after `;` are cut off by some servers before they resolve dots.
    let segment = segment.split(';').next().unwrap_or_default().to_ascii_lowercase();
    matches!(segment.replace("%2e", ".").as_str(), "." | "..")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn by_path(path: &str) -> Option<(String, String, String)> {
        parse(None, None, path).map(|a| (a.tenant.to_string(), a.plugin.to_string(), a.rest))
    }

    fn found(tenant: &str, plugin: &str, rest: &str) -> Option<(String, String, String)> {
        Some((tenant.into(), plugin.into(), rest.into()))
    }

    #[test]
    fn a_path_names_tenant_plugin_and_rest() {
        assert_eq!(by_path("/acme/visits"), found("acme", "visits", "/"));
        assert_eq!(by_path("/acme/visits/"), found("acme", "visits", "/"));
        assert_eq!(by_path("/acme/visits?x=1"), found("acme", "visits", "/?x=1"));
        assert_eq!(by_path("/acme/visits/a/b?c=/../d"), found("acme", "visits", "/a/b?c=/../d"));
        assert_eq!(by_path("/acme/visits//a"), found("acme", "visits", "//a"));
        assert_eq!(by_path("/acme/visits/a%2Fb"), found("acme", "visits", "/a%2Fb"));
    }

    #[test]
    fn tricks_match_nothing() {
        for path in [
            "",
            "/",
            "//",
            "/acme",
            "/acme/",
            "//acme/visits",
            "/acme//visits",
            "acme/visits",
            "/acme%2Fvisits",
            "/acme/visits%2F..",
            "/acme/vis%69ts",
            "/%61cme/visits",
            "/ACME/visits",
            "/acme/Visits",
            "/./acme/visits",
            "/acme/../evil/visits",
            "/acme/visits/../other",
            "/acme/visits/%2e%2E/other",
            "/acme/visits/.%2e",
            "/acme/visits/..;x=1/other",
            "/acme/visits/.",
            "/acme\\visits",
            "/acme/visits\\..\\x",
            "/acme/visits/\0",
            "/acme/visits/ x",
            "/acme/visits#a/b",
            "/acme/visits/\u{fe0f}",
            "/acme;x/visits",
            "/acme/visits;x",
            "/_platform/visits",
            "http://h/acme/visits",
            "*",
            "/acme?/visits",
            "/acme./visits",
        ] {
            assert_eq!(by_path(path), None, "{path:?}");
        }
    }

    #[test]
    fn a_host_below_the_domain_names_plugin_and_tenant_and_nothing_else_does() {
        let at = |host, path| {
            parse(Some("ringfence.example"), Some(host), path)
                .map(|a| (a.tenant.to_string(), a.plugin.to_string(), a.rest))
        };
        assert_eq!(at("visits.acme.ringfence.example", "/a?b"), found("acme", "visits", "/a?b"));
        assert_eq!(at("Visits.ACME.Ringfence.Example:7001", "/"), found("acme", "visits", "/"));
        assert_eq!(at("visits.acme.ringfence.example.", "/"), found("acme", "visits", "/"));
        // Below the domain, a path never decides.
        assert_eq!(at("visits.ringfence.example", "/acme/visits"), None);
        assert_eq!(at("a.visits.acme.ringfence.example", "/acme/visits"), None);
        assert_eq!(at(".ringfence.example", "/acme/visits"), None);
        // Elsewhere it does.
        assert_eq!(at("ringfence.example", "/acme/visits"), found("acme", "visits", "/"));
        assert_eq!(at("visits.acme.evilringfence.example", "/acme/hello"), found("acme", "hello", "/"));
    }

    proptest! {
        #[test]
        fn whatever_is_found_is_spelt_in_the_path(path in "/[a-z%./;?A-Z0-9\\\\-]{0,40}") {
            if let Some(address) = parse(None, None, &path) {
                let prefix = format!("/{}/{}", address.tenant, address.plugin);
                prop_assert!(path.starts_with(&prefix));
                let after = &path[prefix.len()..];
                prop_assert!(after.is_empty() || after.starts_with(['/', '?']));
                let slashed = format!("/{after}");
                prop_assert!(address.rest == after || address.rest == slashed);
            }
        }
    }
}
