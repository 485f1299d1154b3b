//! Rules about grants: what can be granted, how much of it, and what is said when something is missing. Pure.

use ringfence_core::capability::{check_field_scope, check_workflow_scope};
use ringfence_core::manifest::{check_origin, check_secure_origin};
use ringfence_core::{Capability, Grant, Grants, Need, Needs, PluginName, ResourceName};
use ringfence_store::TenantStore;

use crate::RegistryError;
use crate::record::VersionRecord;

/// LIMIT: most names that the grants of one plugin hold together.
const SCOPE_COUNT_MAX: usize = 256;
/// The bucket and the container that a grant without a name covers.
const DEFAULT_BUCKET: &str = "default";

/// Checks a grant as asked for. A grant of key-value or objects that names nothing means `default`.
pub(crate) fn check(mut grant: Grant) -> Result<Grant, RegistryError> {
    let capability = grant.capability;
    let bad = |why: String| RegistryError::BadGrant { capability, why };
    if grant.scope.len() > SCOPE_COUNT_MAX {
        return Err(bad(format!("it names more than {SCOPE_COUNT_MAX} things")));
    }
    if !capability.is_scoped() {
        return if grant.scope.is_empty() {
            Ok(grant)
        } else {
            Err(bad("it is granted whole and takes no names".to_owned()))
        };
    }
    match (capability, grant.scope.is_empty()) {
        (Capability::Keyvalue | Capability::Blob, true) => grant.scope.push(DEFAULT_BUCKET.to_owned()),
        (Capability::Http | Capability::Identity, true) => {
            return Err(bad("name the origins it covers, such as `https://api.example.com`".to_owned()));
        }
        (Capability::Pii, true) => {
            return Err(bad("name the fields it covers, such as `email:seal` or `email:open`".to_owned()));
        }
        (Capability::Queue, true) => {
            return Err(bad("name the queues it covers".to_owned()));
        }
        (Capability::Runs, true) => {
            return Err(bad("name the plugins or workflows it covers, such as `shop` or `shop/charge`".to_owned()));
        }
        (_, true) => return Err(bad("name what it covers".to_owned())),
        (_, false) => {}
    }
    for name in &grant.scope {
        match capability {
            Capability::Http => check_origin(name).map_err(bad)?,
            Capability::Identity => check_secure_origin(name).map_err(bad)?,
            Capability::Pii => check_field_scope(name).map_err(bad)?,
            _ if name == "*" => {}
            Capability::Runs => check_workflow_scope(name).map_err(bad)?,
            _ => drop(name.parse::<ResourceName>().map_err(|error| bad(error.to_string()))?),
        }
    }
    Ok(grant)
}

/// Whether the grants of a plugin stay within their limit.
pub(crate) fn check_size(grants: &Grants) -> Result<(), RegistryError> {
    for grant in grants.iter() {
        if grant.scope.len() > SCOPE_COUNT_MAX {
            return Err(RegistryError::BadGrant {
                capability: grant.capability,
                why: format!("it would cover more than {SCOPE_COUNT_MAX} names"),
            });
        }
    }
    Ok(())
}

/// The refusal of a deploy, with all that is needed to print the table. `answering` is what the version needs that answers
/// now: with none, everything is the first of its kind and nothing is called new.
pub(crate) fn not_granted(
    store: &TenantStore,
    plugin: &PluginName,
    record: VersionRecord,
    missing: Vec<Need>,
    answering: Option<Needs>,
) -> RegistryError {
    let Some(tenant) = store.tenant().cloned() else {
        return RegistryError::Host("the platform has no plugins".to_owned());
    };
    RegistryError::NeedNotGranted {
        tenant,
        plugin: plugin.clone(),
        version: Box::new(record.label),
        added: answering.map(|before| record.needs.added_since(&before)).unwrap_or_default(),
        needs: record.needs,
        missing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(capability: Capability, scope: &[&str]) -> Grant {
        Grant { capability, scope: scope.iter().map(ToString::to_string).collect() }
    }

    #[test]
    fn a_keyvalue_grant_without_a_name_means_the_default_bucket() {
        assert_eq!(check(grant(Capability::Keyvalue, &[])).unwrap().scope, ["default"]);
    }

    #[test]
    fn grants_that_say_too_little_or_too_much_are_refused() {
        for bad in [
            grant(Capability::Http, &[]),
            grant(Capability::Http, &["*"]),
            grant(Capability::Http, &["api.example.com"]),
            grant(Capability::Identity, &[]),
            grant(Capability::Identity, &["*"]),
            grant(Capability::Identity, &["http://api.example.com"]),
            grant(Capability::Secrets, &[]),
            grant(Capability::Secrets, &["a b"]),
            grant(Capability::Logging, &["x"]),
            grant(Capability::Config, &["*"]),
            grant(Capability::Runs, &[]),
            grant(Capability::Runs, &["shop/*"]),
            grant(Capability::Runs, &["a b"]),
        ] {
            let error = check(bad.clone()).unwrap_err();
            assert_eq!(error.code(), "bad-scope", "{bad:?}");
        }
        for good in [
            grant(Capability::Http, &["https://api.example.com"]),
            grant(Capability::Identity, &["https://api.example.com"]),
            grant(Capability::Secrets, &["*"]),
            grant(Capability::Secrets, &["stripe-key"]),
            grant(Capability::Logging, &[]),
            grant(Capability::Runs, &["shop", "shop/charge"]),
            grant(Capability::Runs, &["*"]),
        ] {
            assert!(check(good.clone()).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn grants_have_a_limit() {
        let mut grants = Grants::default();
        for n in 0..=SCOPE_COUNT_MAX {
            assert!(check_size(&grants).is_ok());
            grants.insert(grant(Capability::Secrets, &[&format!("s{n}")]));
        }
        assert!(check_size(&grants).is_err());
    }
}
