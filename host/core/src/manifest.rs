//! `plugin.toml`: what the author says about a plugin and asks for. Parsed strictly, errors point at a line.
//!
//! Must never be trusted for what a component imports: needs come from the bytes, the manifest only adds their scope.

use semver::Version;
use serde::{Deserialize, Serialize};

use crate::calls;
use crate::capability::{check_field_scope, check_workflow_scope};
use crate::limits::{INSTANCE_INVOCATIONS_COUNT_MAX, MANIFEST_BYTES_MAX};
use crate::{Capability, Need, Needs, PluginName};

/// A parsed `plugin.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// `[plugin]`.
    pub plugin: PluginSection,
    /// `[needs]`: capability to scope.
    #[serde(default)]
    pub needs: NeedsSection,
    /// `[budget]`.
    #[serde(default)]
    pub budget: BudgetAsk,
    /// `[instance]`.
    #[serde(default)]
    pub instance: InstanceSection,
}

/// `[plugin]` of the manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PluginSection {
    /// The plugin's name.
    pub name: PluginName,
    /// The version's label; a published version never changes.
    pub version: Version,
    /// Where `ringfence build` leaves the component, relative to the manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component: Option<String>,
    /// One line for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// `[needs]` of the manifest: one list a capability.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NeedsSection {
    /// Bucket names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keyvalue: Option<Vec<String>>,
    /// Always an empty list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Vec<String>>,
    /// Always an empty list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logging: Option<Vec<String>>,
    /// Secret names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secrets: Option<Vec<String>>,
    /// Origins, `https://api.example.com`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<Vec<String>>,
    /// Container names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blob: Option<Vec<String>>,
    /// Always an empty list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<Vec<String>>,
    /// Fields of personal data with an act, `email:seal`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pii: Option<Vec<String>>,
    /// Queues that it puts messages into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<Vec<String>>,
    /// Origins that the plugin's own certificate is shown to, `https://api.example.com`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Vec<String>>,
    /// Always an empty list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<Vec<String>>,
    /// Plugins or workflows of them, `care-visit/escalation`, of which it begins, signals, cancels and looks at runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runs: Option<Vec<String>>,
}

/// `[budget]` of the manifest: what one invocation asks to spend; cut to the host's ceilings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BudgetAsk {
    /// CPU time, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_ms: Option<u64>,
    /// Wall time, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_ms: Option<u64>,
    /// Memory, MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u64>,
}

/// `[instance]` of the manifest: how long an instance lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstanceSection {
    /// Invocations one instance may serve, one after another, of any callers; 1 unless said. What the plugin keeps in its
    /// memory is then there in the next, as long as the instance lives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invocations_max: Option<u32>,
}

/// What is wrong with a `plugin.toml`, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ManifestError {
    /// What is wrong, with "did you mean" where a word is near.
    pub message: String,
    /// Line, from 1; 0 when the whole text is meant.
    pub line: usize,
    /// Column, from 1; 0 when the whole text is meant.
    pub column: usize,
    /// The line itself, for the message with a caret.
    pub source_line: String,
}

impl Manifest {
    /// Parses a `plugin.toml`. LIMIT: at most [`MANIFEST_BYTES_MAX`] bytes.
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        if text.len() > MANIFEST_BYTES_MAX {
            return Err(ManifestError::whole(format!("manifest is longer than {MANIFEST_BYTES_MAX} bytes")));
        }
        let manifest: Self = toml::from_str(text).map_err(|error| ManifestError::from_toml(text, &error))?;
        manifest.check_scopes()?;
        manifest.check_instance()?;
        Ok(manifest)
    }

    /// The scope the manifest asks for one capability.
    pub fn asked_scope(&self, capability: Capability) -> &[String] {
        let list = match capability {
            Capability::Keyvalue => &self.needs.keyvalue,
            Capability::Config => &self.needs.config,
            Capability::Logging => &self.needs.logging,
            Capability::Secrets => &self.needs.secrets,
            Capability::Http => &self.needs.http,
            Capability::Blob => &self.needs.blob,
            Capability::Files => &self.needs.files,
            Capability::Pii => &self.needs.pii,
            Capability::Queue => &self.needs.queue,
            Capability::Identity => &self.needs.identity,
            Capability::Audit => &self.needs.audit,
            Capability::Runs => &self.needs.runs,
        };
        list.as_deref().unwrap_or_default()
    }

    /// Joins what the bytes import with the scopes the manifest asks for, and with `files` and `identity`, which bytes
    /// cannot say.
    pub fn needs(&self, imported: impl IntoIterator<Item = Capability>) -> Needs {
        let mut capabilities: Vec<Capability> = imported.into_iter().collect();
        capabilities.extend(self.needs.files.is_some().then_some(Capability::Files));
        capabilities.extend(self.needs.identity.is_some().then_some(Capability::Identity));
        capabilities.sort_unstable();
        capabilities.dedup();
        Needs(
            capabilities
                .into_iter()
                .map(|capability| Need { capability, scope: self.asked_scope(capability).to_vec() })
                .collect(),
        )
    }

    fn check_instance(&self) -> Result<(), ManifestError> {
        match self.instance.invocations_max {
            Some(count) if !(1..=INSTANCE_INVOCATIONS_COUNT_MAX).contains(&count) => Err(ManifestError::whole(
                format!("`invocations_max` must be 1 to {INSTANCE_INVOCATIONS_COUNT_MAX}, not {count}"),
            )),
            _ => Ok(()),
        }
    }

    fn check_scopes(&self) -> Result<(), ManifestError> {
        for origin in self.asked_scope(Capability::Http) {
            check_origin(origin).map_err(ManifestError::whole)?;
        }
        for origin in self.asked_scope(Capability::Identity) {
            check_secure_origin(origin).map_err(ManifestError::whole)?;
        }
        for word in self.asked_scope(Capability::Pii) {
            check_field_scope(word).map_err(ManifestError::whole)?;
        }
        for word in self.asked_scope(Capability::Runs) {
            check_workflow_scope(word).map_err(ManifestError::whole)?;
        }
        for capability in [Capability::Config, Capability::Logging, Capability::Files, Capability::Audit] {
            if !self.asked_scope(capability).is_empty() {
                return Err(ManifestError::whole(format!("`{capability}` takes no scope; write `{capability} = []`")));
            }
        }
        Ok(())
    }
}

/// Checks an origin as grants and manifests write it: `http` or `https`, a lower-case host, an optional port that is
/// not the scheme's own, nothing else. Below `plugin.internal` only plugins of the same tenant: `http://NAME.plugin.internal`.
pub fn check_origin(origin: &str) -> Result<(), String> {
    let wrong = |why: &str| Err(format!("`{}` is not an origin: {why}", origin.chars().take(120).collect::<String>()));
    let Some((scheme, rest)) = origin.split_once("://") else {
        return wrong("write `https://host` or `https://host:port`");
    };
    if scheme != "http" && scheme != "https" {
        return wrong("its scheme must be `http` or `https`");
    }
    if rest.is_empty() || rest.contains(['/', '?', '#', '@', '*', ' ', '\\']) {
        return wrong("name one host, without path, user, or `*`");
    }
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => (host, Some(port)),
        Some((_, _)) if !rest.ends_with(']') => return wrong("its port must be a number"),
        _ => (rest, None),
    };
    let bracketed = host.starts_with('[') && host.ends_with(']');
    let named = !host.is_empty()
        && host.len() <= 253
        && host.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_'));
    if !(named || bracketed) {
        return wrong("its host must be lower-case ASCII (use the `xn--` form) or a bracketed IPv6 address");
    }
    if calls::is_inside(host) && calls::callee(origin).is_none() {
        return wrong("another plugin of the tenant is `http://NAME.plugin.internal`, without a port");
    }
    match port.map(str::parse::<u16>) {
        Some(Err(_) | Ok(0)) => wrong("its port must be 1 to 65535"),
        Some(Ok(80)) if scheme == "http" => wrong("leave out port 80"),
        Some(Ok(443)) if scheme == "https" => wrong("leave out port 443"),
        _ => Ok(()),
    }
}

/// Checks an origin that a certificate is shown to: as [`check_origin`], and `https`.
pub fn check_secure_origin(origin: &str) -> Result<(), String> {
    check_origin(origin)?;
    if origin.starts_with("https://") {
        Ok(())
    } else {
        Err(format!("`{origin}` is not `https`, and a certificate can be shown nowhere else"))
    }
}

/// The nearest of `known` to a mistyped word, if one is near enough to be meant.
pub fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len() / 3).max(1))
        .min()
        .map(|(_, candidate)| candidate)
}

impl ManifestError {
    fn whole(message: String) -> Self {
        Self { message, line: 0, column: 0, source_line: String::new() }
    }

    /// Turns an error of the TOML library into line, column and a hint. Also used for `ringfence.toml`.
    pub fn from_toml(text: &str, error: &toml::de::Error) -> Self {
        let start = error.span().map_or(0, |span| span.start).min(text.len());
        let before = text.get(..start).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        let source_line = text.lines().nth(line - 1).unwrap_or_default().chars().take(200).collect();
        Self { message: with_hint(error.message()), line, column, source_line }
    }
}

/// Adds "did you mean" to the library's "unknown field" message, whose words are quoted in backticks.
fn with_hint(message: &str) -> String {
    let Some(rest) = message.strip_prefix("unknown field `") else {
        return message.to_owned();
    };
    let mut words = rest.split('`');
    let unknown = words.next().unwrap_or_default();
    let known: Vec<&str> = words.skip(1).step_by(2).collect();
    match did_you_mean(unknown, known.iter().copied()) {
        Some(near) => format!("unknown key `{unknown}`, did you mean `{near}`?"),
        None => format!("unknown key `{unknown}`, expected one of {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const VISITS: &str = r#"
[plugin]
name = "visits"
version = "0.1.0"
[needs]
keyvalue = ["default"]
http = ["https://api.example.com"]
[budget]
cpu_ms = 50
"#;

    #[test]
    fn a_manifest_gives_scopes_to_the_needs_of_the_bytes() {
        let manifest = Manifest::parse(VISITS).unwrap();
        let needs = manifest.needs([Capability::Logging, Capability::Keyvalue, Capability::Keyvalue]);
        assert_eq!(needs.0.len(), 2);
        assert_eq!(needs.0.first().unwrap().scope, vec!["default".to_owned()]);
    }

    #[test]
    fn files_are_needed_by_whoever_asks_for_them_and_take_no_names() {
        let text = |needs: &str| format!("[plugin]\nname = \"a\"\nversion = \"0.1.0\"\n[needs]\n{needs}\n");
        let manifest = Manifest::parse(&text("files = []")).unwrap();
        assert_eq!(manifest.needs([]).0, [Need { capability: Capability::Files, scope: Vec::new() }]);
        assert!(Manifest::parse(&text("")).unwrap().needs([]).0.is_empty());
        assert!(Manifest::parse(&text("files = [\"/etc\"]")).is_err());
    }

    #[test]
    fn an_identity_is_needed_by_whoever_asks_for_it_and_names_where_it_is_shown() {
        let text = |needs: &str| format!("[plugin]\nname = \"a\"\nversion = \"0.1.0\"\n[needs]\n{needs}\n");
        let needs = Manifest::parse(&text("identity = [\"https://api.example.com\"]")).unwrap().needs([]);
        let scope = vec!["https://api.example.com".to_owned()];
        assert_eq!(needs.0, [Need { capability: Capability::Identity, scope }]);
        for bad in ["http://api.example.com", "*", "api.example.com", "http://visits.plugin.internal"] {
            assert!(Manifest::parse(&text(&format!("identity = [\"{bad}\"]"))).is_err(), "{bad}");
        }
    }

    #[test]
    fn runs_name_plugins_or_workflows_of_them() {
        let text = |word: &str| format!("[plugin]\nname = \"a\"\nversion = \"0.1.0\"\n[needs]\nruns = [\"{word}\"]\n");
        for good in ["shop", "shop/charge"] {
            let needs = Manifest::parse(&text(good)).unwrap().needs([Capability::Runs]);
            assert_eq!(needs.0, [Need { capability: Capability::Runs, scope: vec![good.to_owned()] }]);
        }
        for bad in ["Shop", "shop/", "*"] {
            assert!(Manifest::parse(&text(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_mistyped_key_is_pointed_at_and_mended() {
        let error = Manifest::parse(&VISITS.replace("cpu_ms", "cpu_mss")).unwrap_err();
        assert_eq!(error.message, "unknown key `cpu_mss`, did you mean `cpu_ms`?");
        assert_eq!((error.line, error.column), (9, 1));
        assert_eq!(error.source_line, "cpu_mss = 50");
    }

    #[test]
    fn a_missing_section_is_named() {
        assert!(Manifest::parse("").unwrap_err().message.contains("plugin"));
    }

    #[test]
    fn origins_are_strict() {
        for good in [
            "https://api.example.com",
            "http://127.0.0.1:8080",
            "https://[2001:db8::1]:8443",
            "http://localhost:1",
            "http://visits.plugin.internal",
        ] {
            assert!(check_origin(good).is_ok(), "{good}: {:?}", check_origin(good));
        }
        for bad in [
            "api.example.com",
            "ftp://x",
            "https://",
            "https://a/b",
            "https://u@h",
            "https://*",
            "https://A.example",
            "https://h:443",
            "http://h:80",
            "https://h:0",
            "https://h:99999",
            "https://h:x",
            "https://bücher.example",
            "https://visits.plugin.internal",
            "http://visits.plugin.internal:8080",
            "http://visits.plugin.internal.",
            "http://visits.globex.plugin.internal",
            "http://plugin.internal",
        ] {
            assert!(check_origin(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in ".{0,400}") {
            let _ = Manifest::parse(&text);
            let _ = check_origin(&text);
        }
    }
}
