//! What callers say to the audit log and what they get back: events, outcomes, receipts, entries.
//!
//! Plain values. An event must never carry a secret; its personal parts go into the sealed body only.

use std::net::IpAddr;

use ringfence_core::{DecisionId, InvocationId, PluginName, PrincipalId, RequestId, SessionId, Usage};
use ringfence_store::TenantStore;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Which log.
#[derive(Clone)]
pub enum Log {
    /// The host's own: tenants made and deleted, operators, the host's life.
    Host,
    /// A tenant's.
    Tenant(TenantStore),
}

/// Something that happened or is about to.
#[derive(Debug, Clone)]
pub struct Event {
    /// From [`crate::codes`]; the OCSF class and activity follow from it.
    pub code: &'static str,
    /// Who.
    pub actor: PrincipalId,
    /// On what, such as `tenant/acme/plugin/visits`.
    pub resource: String,
    /// The action's word, such as `push-version`.
    pub action: &'static str,
    /// The control-plane request it belongs to.
    pub request: Option<RequestId>,
    /// The policy decision behind it.
    pub decision: Option<DecisionId>,
    /// The session in which he acts.
    pub session: Option<SessionId>,
    /// Where the request came from.
    pub source_ip: Option<IpAddr>,
    /// The rest, a JSON object. LIMIT: [`crate::envelope::DETAILS_BYTES_MAX`], and four times that for destroyed keys;
    /// trimmed with a flag above it.
    pub details: Value,
    /// Members that the event's OCSF class has beside those of every event, a JSON object such as `{"compliance": ...}`.
    /// Never one that every event has. Trimmed like the details.
    pub members: Value,
}

impl Event {
    /// An event with nothing optional.
    pub fn new(code: &'static str, action: &'static str, actor: PrincipalId, resource: impl Into<String>) -> Self {
        Self {
            code,
            actor,
            resource: resource.into(),
            action,
            request: None,
            decision: None,
            session: None,
            source_ip: None,
            details: Value::Null,
            members: Value::Null,
        }
    }
}

/// How something ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was done.
    Success,
    /// It was allowed, and failed with this stable code.
    Failure(String),
    /// It was refused.
    Denied,
}

/// Proof that an entry is durable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Receipt {
    /// The log's name.
    pub log: String,
    /// The entry's place in it.
    pub seq: u64,
}

/// One finished invocation that needs no entry of its own.
#[derive(Debug, Clone)]
pub struct InvocationSummary {
    /// The plugin.
    pub plugin: PluginName,
    /// The label of the version that ran.
    pub version: String,
    /// Which invocation.
    pub invocation: InvocationId,
    /// HTTP status of the answer.
    pub status: u16,
    /// Stable code when the answer was not the guest's own.
    pub code: Option<String>,
    /// The plugin that called it, when one did.
    pub called_by: Option<PrincipalId>,
    /// What it spent.
    pub usage: Usage,
}

/// One entry as it is listed, exported and verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The envelope's canonical text, byte for byte.
    pub envelope: String,
    /// RFC 6962 leaf hash of it, hex; may be left empty for [`crate::verify`].
    #[serde(default)]
    pub leaf_hash: String,
    /// The full event; none when withheld.
    #[serde(default)]
    pub body: Option<Value>,
    /// Salt of the commitment to the body, hex; empty when the body is withheld.
    #[serde(default)]
    pub salt: String,
}

/// The signed head of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The log's name.
    pub origin: String,
    /// C2SP signed note.
    pub text: String,
    /// Entries covered.
    pub size: u64,
    /// Root over them, hex.
    pub root: String,
    /// Hash the next entry will point back to, hex.
    pub chain_head: String,
}
