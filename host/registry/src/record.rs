//! What the registry keeps about plugins, versions and routes, and what it answers with. Plain values.
//!
//! INVARIANT: a version's record never changes once written; only routes and grants move. Keys in the tenant's store:
//! `plugin/<name>`, `version/<name>/<label>`, `route/<name>`, `grants/<name>`, `quarantine/<blob>`.

use jiff::Timestamp;
use ringfence_core::{Budget, Digest, Grants, Need, Needs, PluginName, PrincipalId};
use ringfence_store::{BlobId, Key};
use semver::Version;
use serde::{Deserialize, Serialize};

use crate::inspect::Import;
use crate::interfaces::World;

/// One published version. Immutable.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VersionRecord {
    /// The label its author gave it.
    pub label: Version,
    /// SHA-256 of the component.
    pub digest: Digest,
    /// Size of the component.
    pub bytes: u64,
    /// What it imports that has to be granted, with the scope its manifest asks for.
    pub needs: Needs,
    /// All imports.
    pub imports: Vec<Import>,
    /// All exports.
    pub exports: Vec<String>,
    /// Names of all its workflows; empty when it does not say, as in records from before they were kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub workflows: Vec<String>,
    /// What one invocation may spend.
    pub budget: Budget,
    /// Invocations one instance may serve; 1 in records from before there was a choice.
    #[serde(default = "one")]
    pub instance_invocations_max: u32,
    /// Which generation of `wasi:http` it speaks.
    pub world: World,
    /// When it was published.
    pub pushed_at: Timestamp,
    /// Who published it.
    pub pushed_by: PrincipalId,
    /// One line for people.
    pub description: Option<String>,
    /// What made it, as far as it says.
    pub producers: Vec<String>,
}

fn one() -> u32 {
    1
}

/// Where a plugin's calls go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteState {
    /// The version that answers.
    pub stable: Version,
    /// Another version that answers a share of the calls.
    pub canary: Option<Canary>,
    /// The version that answered before; what a roll back goes to.
    pub previous: Option<Version>,
    /// The versions before that one, newest last.
    pub history: Vec<Version>,
    /// When the route last moved.
    pub moved_at: Timestamp,
    /// Who moved it.
    pub moved_by: PrincipalId,
}

/// A version that is being tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Canary {
    /// Which.
    pub label: Version,
    /// Its share of the calls, 1 to 99.
    pub percent: u8,
}

/// A plugin in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginSummary {
    /// Its name.
    pub name: PluginName,
    /// When its first version was published.
    pub created_at: Timestamp,
    /// The version published last.
    pub latest: Version,
    /// How many versions are published.
    pub versions_count: usize,
    /// The version that answers; none before the first deploy.
    pub live: Option<Version>,
    /// The version that is being tried.
    pub canary: Option<Canary>,
}

/// A plugin with everything about it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PluginDetail {
    /// Its name.
    pub name: PluginName,
    /// Its versions, highest label first.
    pub versions: Vec<VersionRecord>,
    /// Where its calls go; none before the first deploy.
    pub route: Option<RouteState>,
    /// What the tenant granted it.
    pub grants: Grants,
    /// What the version that answers needs; before the first deploy, what the version published last needs.
    pub needs: Needs,
    /// Of these, what is not granted.
    pub missing: Vec<Need>,
}

/// The answer to an upload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Published {
    /// False when exactly this version was there already.
    pub created: bool,
    /// The plugin.
    pub plugin: PluginName,
    /// The version's label.
    pub version: Version,
    /// SHA-256 of the component.
    pub digest: Digest,
    /// Size of the component.
    pub bytes: u64,
    /// What it needs.
    pub needs: Needs,
    /// Of these, what is not granted.
    pub missing: Vec<Need>,
    /// Of these, what `previous` did not need.
    pub added: Vec<Need>,
    /// The version published before.
    pub previous: Option<Version>,
    /// Which generation of `wasi:http` it speaks.
    pub world: World,
    /// How long compiling took, milliseconds; 0 when the code was known.
    pub compile_ms: u64,
}

/// One need in the comparison of two versions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeedChange {
    /// What is needed.
    #[serde(flatten)]
    pub need: Need,
    /// Whether the newer version brought it, dropped it, or both have it.
    pub change: Change,
    /// Whether the tenant's grants cover it now.
    pub granted: bool,
}

/// How something differs between two versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// Only in the second.
    Added,
    /// Only in the first.
    Removed,
    /// In both.
    Same,
}

/// Two versions side by side.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VersionDiff {
    /// The plugin.
    pub plugin: PluginName,
    /// The first version.
    pub from: Version,
    /// The second version.
    pub to: Version,
    /// All needs of both.
    pub needs: Vec<NeedChange>,
    /// Sizes of the components.
    pub bytes: (u64, u64),
    /// Their budgets.
    pub budget: (Budget, Budget),
    /// Exports with how they differ.
    pub exports: Vec<(String, Change)>,
    /// Imports with how they differ.
    pub imports: Vec<(String, Change)>,
}

/// A plugin as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PluginRecord {
    pub(crate) name: PluginName,
    pub(crate) created_at: Timestamp,
    pub(crate) latest: Version,
    pub(crate) versions_count: usize,
}

/// A version as stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct StoredVersion {
    pub(crate) record: VersionRecord,
    pub(crate) blob: BlobId,
}

pub(crate) fn plugins_key() -> Key {
    Key::new(["plugin"])
}
pub(crate) fn plugin_key(plugin: &PluginName) -> Key {
    Key::new(["plugin", plugin.as_str()])
}
pub(crate) fn versions_key(plugin: &PluginName) -> Key {
    Key::new(["version", plugin.as_str()])
}
pub(crate) fn version_key(plugin: &PluginName, label: &Version) -> Key {
    Key::new(["version", plugin.as_str(), &label.to_string()])
}
pub(crate) fn route_key(plugin: &PluginName) -> Key {
    Key::new(["route", plugin.as_str()])
}
pub(crate) fn grants_key(plugin: &PluginName) -> Key {
    Key::new(["grants", plugin.as_str()])
}
pub(crate) fn quarantines_key() -> Key {
    Key::new(["quarantine"])
}
pub(crate) fn quarantine_key(blob: &BlobId) -> Key {
    Key::new(["quarantine", &blob.to_string()])
}
