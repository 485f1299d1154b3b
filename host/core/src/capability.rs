//! What the host can provide, what a component needs, and what a tenant granted; pure comparison of the three.
//!
//! Must never decide from anything but its arguments. The registry reads needs from the component's bytes, the tenant
//! changes grants through the control plane, and the capabilities room asks here on every host call.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{PluginName, WordError};

/// An interface the host can provide to a guest, in the words of grants, manifests and errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Capability {
    /// Key-value buckets of the plugin (`wasi:keyvalue`). Scope: bucket names.
    Keyvalue,
    /// Configuration of the plugin (`wasi:config`). No scope.
    Config,
    /// Guest log (`wasi:logging`, and what the guest prints). No scope.
    Logging,
    /// Secrets of the tenant (`ringfence:plugin/secrets`). Scope: secret names.
    Secrets,
    /// Outgoing HTTP (`wasi:http/outgoing-handler` and `client`). Scope: origins such as `https://api.example.com`.
    Http,
    /// Large objects of the plugin (`wasi:blobstore`). Scope: container names.
    Blob,
    /// A directory of the plugin's own (`wasi:filesystem`). No scope. Every component that uses a standard library imports
    /// the interface, so it is the manifest that asks for it; without a grant the directory is not there.
    Files,
    /// Personal data in fields (`ringfence:plugin/pii`). Scope: a field and an act, such as `email:seal` or `*:open`.
    Pii,
    /// Putting messages into the tenant's queues (`ringfence:plugin/queue`). Scope: queue names.
    Queue,
    /// Showing the plugin's own certificate (an X.509-SVID of SPIFFE) where it connects to. Scope: `https` origins. No
    /// import stands for it, so it is the manifest that asks for it; without a grant no certificate is shown.
    Identity,
    /// Putting events of the application on the tenant's audit log (`ringfence:plugin/audit`). No scope.
    Audit,
    /// Beginning, signalling, cancelling and looking at runs of the tenant's workflows (`ringfence:plugin/runs`). Scope: plugins,
    /// or single workflows of them, such as `care-visit/escalation`.
    Runs,
}

/// LIMIT: longest name of a workflow in a grant and a call, in bytes.
pub const WORKFLOW_NAME_BYTES_MAX: usize = 128;

/// What a `pii` scope word can say about a field, in the words of grants.
const PII_ACTS: [&str; 2] = ["seal", "open"];

impl Capability {
    /// All of them, in the order they are printed.
    pub const ALL: [Self; 12] = [
        Self::Keyvalue,
        Self::Config,
        Self::Logging,
        Self::Secrets,
        Self::Http,
        Self::Blob,
        Self::Files,
        Self::Pii,
        Self::Queue,
        Self::Identity,
        Self::Audit,
        Self::Runs,
    ];

    /// The word used in grants, manifests, the API and errors.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Keyvalue => "keyvalue",
            Self::Config => "config",
            Self::Logging => "logging",
            Self::Secrets => "secrets",
            Self::Http => "http",
            Self::Blob => "blob",
            Self::Files => "files",
            Self::Pii => "pii",
            Self::Queue => "queue",
            Self::Identity => "identity",
            Self::Audit => "audit",
            Self::Runs => "runs",
        }
    }

    /// Whether the manifest asks for it, because no import of a component can.
    pub const fn is_asked_for(self) -> bool {
        matches!(self, Self::Files | Self::Identity)
    }

    /// Whether a grant of it names what it covers. An unscoped capability is granted whole.
    pub const fn is_scoped(self) -> bool {
        matches!(
            self,
            Self::Keyvalue
                | Self::Secrets
                | Self::Http
                | Self::Blob
                | Self::Pii
                | Self::Queue
                | Self::Identity
                | Self::Runs
        )
    }

    /// What stands for the names in a command that grants it, where a need names none and the reader has to; none where it can be
    /// granted without names.
    pub const fn name_to_say(self) -> Option<&'static str> {
        match self {
            Self::Http | Self::Identity => Some("ORIGIN"),
            Self::Pii => Some("FIELD:ACT"),
            Self::Queue => Some("QUEUE"),
            Self::Runs => Some("PLUGIN/WORKFLOW"),
            Self::Secrets => Some("SECRET"),
            Self::Keyvalue | Self::Blob | Self::Config | Self::Logging | Self::Files | Self::Audit => None,
        }
    }

    /// The capability an import of the component model stands for, by interface name without its version
    /// (`wasi:keyvalue/store`). `None` for what every guest may have (clocks, random, io, inert cli) or nobody offers.
    pub fn of_import(interface: &str) -> Option<Self> {
        let (package, _) = interface.split_once('/').unwrap_or((interface, ""));
        match (package, interface) {
            ("wasi:keyvalue", _) => Some(Self::Keyvalue),
            ("wasi:blobstore", _) => Some(Self::Blob),
            ("wasi:config", _) => Some(Self::Config),
            ("wasi:logging", _) => Some(Self::Logging),
            (_, "ringfence:plugin/secrets") => Some(Self::Secrets),
            (_, "ringfence:plugin/pii") => Some(Self::Pii),
            (_, "ringfence:plugin/queue") => Some(Self::Queue),
            (_, "ringfence:plugin/audit") => Some(Self::Audit),
            (_, "ringfence:plugin/runs") => Some(Self::Runs),
            (_, "wasi:http/outgoing-handler" | "wasi:http/client") => Some(Self::Http),
            _ => None,
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Capability {
    type Err = WordError;
    /// Accepts the words people type as well, such as `kv` and `log`, beside the full ones.
    fn from_str(text: &str) -> Result<Self, WordError> {
        let word = match text {
            "kv" => "keyvalue",
            "log" => "logging",
            "secret" => "secrets",
            "blobs" | "blobstore" => "blob",
            "file" | "filesystem" => "files",
            "run" => "runs",
            other => other,
        };
        Self::ALL.into_iter().find(|c| c.as_str() == word).ok_or_else(|| WordError::capability(text))
    }
}

/// One capability a component imports, with the scope its manifest asks for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Need {
    /// What is needed.
    pub capability: Capability,
    /// The named things asked for; empty for an unscoped capability or a manifest that does not say.
    #[serde(default)]
    pub scope: Vec<String>,
}

/// All needs of one version, one entry a capability.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Needs(pub Vec<Need>);

/// A tenant's decision that a plugin may use a capability, so scoped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// What is granted.
    pub capability: Capability,
    /// The named things covered; `*` covers all of a scoped capability except for `http` and `identity`, which always name
    /// origins, and `pii`, where the act is always named: `*:seal`.
    #[serde(default)]
    pub scope: Vec<String>,
}

/// All grants of one plugin.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Grants(BTreeMap<Capability, Vec<String>>);

impl Grants {
    /// Adds a grant; a scope is joined to what was granted before.
    pub fn insert(&mut self, grant: Grant) {
        let scope = self.0.entry(grant.capability).or_default();
        for item in grant.scope {
            if !scope.contains(&item) {
                scope.push(item);
            }
        }
    }
    /// Takes a capability away whole; says whether it was there.
    pub fn remove(&mut self, capability: Capability) -> Option<Grant> {
        self.0.remove(&capability).map(|scope| Grant { capability, scope })
    }
    /// The grant of a capability, if there is one.
    pub fn get(&self, capability: Capability) -> Option<&[String]> {
        self.0.get(&capability).map(Vec::as_slice)
    }
    /// Whether `name` of `capability` is covered. For `http` and `identity` use origins in their ASCII form, port only when not the
    /// default; for `runs` a plugin and a workflow, `care-visit/escalation`.
    pub fn covers(&self, capability: Capability, name: &str) -> bool {
        self.get(capability).is_some_and(|scope| {
            !capability.is_scoped()
                || scope.iter().any(|item| match capability {
                    Capability::Http | Capability::Identity => item == name,
                    Capability::Pii => item == name || item.strip_prefix('*').is_some_and(|act| covers_act(act, name)),
                    Capability::Runs => {
                        item == name || item == "*" || name.split_once('/').is_some_and(|(plugin, _)| item == plugin)
                    }
                    _ => item == name || item == "*",
                })
        })
    }
    /// The grants in order.
    pub fn iter(&self) -> impl Iterator<Item = Grant> + '_ {
        self.0.iter().map(|(capability, scope)| Grant { capability: *capability, scope: scope.clone() })
    }
    /// The needs that these grants do not cover; empty when a version may be deployed.
    pub fn missing(&self, needs: &Needs) -> Vec<Need> {
        needs
            .0
            .iter()
            .filter_map(|need| match self.get(need.capability) {
                None => Some(need.clone()),
                Some(_) => {
                    let scope: Vec<String> =
                        need.scope.iter().filter(|name| !self.covers(need.capability, name)).cloned().collect();
                    (!scope.is_empty()).then_some(Need { capability: need.capability, scope })
                }
            })
            .collect()
    }
}

impl Needs {
    /// What `self` needs that `before` did not; the capability diff shown at every upload.
    pub fn added_since(&self, before: &Self) -> Vec<Need> {
        let mut known = Grants::default();
        for need in &before.0 {
            known.insert(Grant { capability: need.capability, scope: need.scope.clone() });
        }
        known.missing(self)
    }
}

/// Checks a scope word of `pii`: a field's name (a small letter, then small letters, digits, `-`, `_`; 64 at most) or `*`,
/// a colon, and `seal` or `open`.
pub fn check_field_scope(word: &str) -> Result<(), String> {
    let wrong = |why: &str| Err(format!("`{}` {why}", word.chars().take(80).collect::<String>()));
    let Some((field, act)) = word.split_once(':') else {
        return wrong("must name a field and an act, such as `email:seal`");
    };
    if field != "*" && !is_field_name(field) {
        return wrong("does not start with the name of a field: small letters, digits, `-` and `_`, a letter first");
    }
    if PII_ACTS.contains(&act) { Ok(()) } else { wrong("must end in `:seal` or `:open`") }
}

/// Checks a scope word of `runs`: the name of a plugin, for all of its workflows, or that, a slash and the name of one.
pub fn check_workflow_scope(word: &str) -> Result<(), String> {
    let wrong = |why: &str| Err(format!("`{}` {why}", word.chars().take(80).collect::<String>()));
    let (plugin, workflow) = word.split_once('/').map_or((word, None), |(plugin, workflow)| (plugin, Some(workflow)));
    if plugin.parse::<PluginName>().is_err() {
        return wrong("must name a plugin, or a plugin and a workflow, such as `care-visit/escalation`");
    }
    match workflow {
        Some(name) if !is_workflow_name(name) => {
            wrong("does not end in the name of a workflow: 1 to 128 bytes, without signs that steer what shows it")
        }
        _ => Ok(()),
    }
}

/// Whether a text can be the name of a workflow.
pub fn is_workflow_name(name: &str) -> bool {
    (1..=WORKFLOW_NAME_BYTES_MAX).contains(&name.len()) && name != "*" && !name.chars().any(char::is_control)
}

/// Whether a text can be the name of a field of personal data.
pub fn is_field_name(name: &str) -> bool {
    name.len() <= 64
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
}

/// Whether `:act`, the rest of a word that starts with `*`, covers `field:act`.
fn covers_act(act: &str, name: &str) -> bool {
    act.starts_with(':')
        && name.split_once(':').is_some_and(|(field, asked)| is_field_name(field) && act.get(1..) == Some(asked))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn need(capability: Capability, scope: &[&str]) -> Need {
        Need { capability, scope: scope.iter().map(ToString::to_string).collect() }
    }

    #[test]
    fn nothing_is_covered_without_a_grant() {
        let grants = Grants::default();
        for capability in Capability::ALL {
            assert!(!grants.covers(capability, "default"));
            assert!(!grants.covers(capability, "*"));
        }
    }

    #[test]
    fn a_star_never_opens_all_hosts() {
        let mut grants = Grants::default();
        for capability in [Capability::Http, Capability::Identity] {
            grants.insert(Grant { capability, scope: vec!["*".into()] });
            assert!(!grants.covers(capability, "https://api.example.com"));
        }
    }

    #[test]
    fn a_field_may_be_opened_only_where_opening_is_granted() {
        let mut grants = Grants::default();
        grants.insert(Grant { capability: Capability::Pii, scope: vec!["*:seal".into(), "email:open".into()] });
        for yes in ["email:seal", "phone:seal", "email:open"] {
            assert!(grants.covers(Capability::Pii, yes), "{yes}");
        }
        for no in ["phone:open", "*:open", "email", "email:", ":seal", "email:seal:open", "a:b:seal", "*"] {
            assert!(!grants.covers(Capability::Pii, no), "{no}");
        }
        grants.insert(Grant { capability: Capability::Pii, scope: vec!["*".into()] });
        assert!(!grants.covers(Capability::Pii, "phone:open"));
    }

    #[test]
    fn a_field_scope_names_a_field_and_an_act() {
        for good in ["email:seal", "*:open", "nhs-number:open", "a_1:seal"] {
            assert_eq!(check_field_scope(good), Ok(()));
        }
        for bad in [
            "",
            "*",
            "email",
            "email:",
            ":seal",
            "email:read",
            "Email:seal",
            "e mail:seal",
            "email:seal:open",
            "**:seal",
        ] {
            assert!(check_field_scope(bad).is_err(), "{bad}");
        }
        assert!(check_field_scope(&format!("{}:seal", "f".repeat(65))).is_err());
    }

    #[test]
    fn runs_are_covered_of_a_whole_plugin_or_of_one_of_its_workflows() {
        let mut grants = Grants::default();
        grants.insert(Grant { capability: Capability::Runs, scope: vec!["shop/charge".into(), "nightly".into()] });
        for yes in ["shop/charge", "nightly/nightly", "nightly/sweep"] {
            assert!(grants.covers(Capability::Runs, yes), "{yes}");
        }
        for no in ["shop/ship", "shop", "shop/charge/x", "shopper/charge", "other/nightly", "/charge", "*"] {
            assert!(!grants.covers(Capability::Runs, no), "{no}");
        }
        let needs = Needs(vec![need(Capability::Runs, &["shop", "nightly/sweep"])]);
        assert_eq!(grants.missing(&needs), vec![need(Capability::Runs, &["shop"])]);
        grants.insert(Grant { capability: Capability::Runs, scope: vec!["*".into()] });
        assert!(grants.covers(Capability::Runs, "other/nightly"));
    }

    #[test]
    fn a_workflow_scope_names_a_plugin_and_perhaps_a_workflow() {
        for good in ["shop", "shop/charge", "care-visit/Escalation of a visit"] {
            assert_eq!(check_workflow_scope(good), Ok(()));
        }
        for bad in ["", "/", "shop/", "/charge", "Shop", "*/charge", "shop/*", "shop/a\nb", "a b"] {
            assert!(check_workflow_scope(bad).is_err(), "{bad}");
        }
        assert!(check_workflow_scope(&format!("shop/{}", "w".repeat(WORKFLOW_NAME_BYTES_MAX + 1))).is_err());
    }

    #[test]
    fn missing_names_exactly_what_is_not_covered() {
        let mut grants = Grants::default();
        grants.insert(Grant { capability: Capability::Http, scope: vec!["https://a.example".into()] });
        let needs = Needs(vec![
            need(Capability::Keyvalue, &["default"]),
            need(Capability::Http, &["https://a.example", "https://b.example"]),
        ]);
        let missing = grants.missing(&needs);
        assert_eq!(
            missing,
            vec![need(Capability::Keyvalue, &["default"]), need(Capability::Http, &["https://b.example"])]
        );
        assert_eq!(needs.added_since(&Needs(vec![need(Capability::Keyvalue, &["default"])])).len(), 1);
    }

    #[test]
    fn every_capability_survives_its_word() {
        for capability in Capability::ALL {
            assert_eq!(capability.as_str().parse::<Capability>().unwrap(), capability);
        }
        assert_eq!("kv".parse::<Capability>().unwrap(), Capability::Keyvalue);
    }
}
