//! Types that are proofs: who someone is ([`Principal`]) and that one action was allowed ([`Permit`]).
//!
//! They live here so that every room can ask for them; only one room may make each. `clippy.toml` bans
//! [`Principal::mint`] outside `identity` and [`Permit::mint`] outside `policy`.

use std::marker::PhantomData;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{DecisionId, KeyScope, PluginName, PrincipalId, ResourceName, SessionId, TenantId};

/// What a principal may do by default, before the tenant's own policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Runs the host for all tenants; sees no tenant data.
    Operator,
    /// Decides everything inside one tenant.
    TenantAdmin,
    /// Uploads, deploys and reads logs inside one tenant; grants nothing.
    Developer,
    /// Reads state and the audit log of one tenant.
    Auditor,
    /// Invokes plugins of one tenant.
    Caller,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Operator, Self::TenantAdmin, Self::Developer, Self::Auditor, Self::Caller];
    /// The word used in the API, policies and errors.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::TenantAdmin => "tenant-admin",
            Self::Developer => "developer",
            Self::Auditor => "auditor",
            Self::Caller => "caller",
        }
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What sort of thing a principal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PrincipalKind {
    /// A person.
    Person,
    /// A machine with an API key.
    Service,
    /// A caller who showed nothing.
    Anonymous,
    /// A plugin, at its calls to the host. To other plugins it is a service.
    Plugin,
}

/// How an identity was proved, weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strength {
    /// Not at all.
    None,
    /// By a secret that was sent.
    Secret,
    /// By a certificate whose key the caller holds.
    Certificate,
    /// By a password and a one-time code.
    TwoFactors,
    /// By a passkey, whose holder the device verified: two factors, bound to this host.
    Passkey,
}

/// An authenticated caller. Made only by `identity`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    id: PrincipalId,
    kind: PrincipalKind,
    role: Option<Role>,
    tenant: Option<TenantId>,
    strength: Strength,
    session: Option<SessionId>,
    authenticated_at: Timestamp,
    scope: Option<Arc<KeyScope>>,
}

impl Principal {
    /// Makes a principal. SECURITY: for `identity` alone, after it has proved who calls.
    pub fn mint(
        id: PrincipalId,
        kind: PrincipalKind,
        role: Option<Role>,
        tenant: Option<TenantId>,
        strength: Strength,
        session: Option<SessionId>,
        authenticated_at: Timestamp,
    ) -> Self {
        Self { id, kind, role, tenant, strength, session, authenticated_at, scope: None }
    }
    /// The same, held to the scope of the key it came with. SECURITY: a scope that it is held to already stays, so nothing
    /// is ever widened by this.
    #[must_use]
    pub fn within(mut self, scope: Option<Arc<KeyScope>>) -> Self {
        self.scope = self.scope.or(scope);
        self
    }
    /// Who.
    pub fn id(&self) -> &PrincipalId {
        &self.id
    }
    /// What sort.
    pub fn kind(&self) -> PrincipalKind {
        self.kind
    }
    /// Its role; none for anonymous.
    pub fn role(&self) -> Option<Role> {
        self.role
    }
    /// The tenant it belongs to; none for operators and anonymous callers.
    pub fn tenant(&self) -> Option<&TenantId> {
        self.tenant.as_ref()
    }
    /// How it was proved.
    pub fn strength(&self) -> Strength {
        self.strength
    }
    /// The session it acts in; none for anonymous.
    pub fn session(&self) -> Option<&SessionId> {
        self.session.as_ref()
    }
    /// What the key it came with is good for; none where that is whatever its role allows.
    pub fn scope(&self) -> Option<&Arc<KeyScope>> {
        self.scope.as_ref()
    }
    /// When it was proved.
    pub fn authenticated_at(&self) -> Timestamp {
        self.authenticated_at
    }
}

/// What an action is done to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Resource {
    /// The host as a whole.
    Host,
    /// A tenant.
    Tenant {
        /// Which.
        tenant: TenantId,
    },
    /// A plugin of a tenant.
    Plugin {
        /// Whose.
        tenant: TenantId,
        /// Which.
        plugin: PluginName,
    },
    /// A secret of a tenant.
    Secret {
        /// Whose.
        tenant: TenantId,
        /// Which.
        name: ResourceName,
    },
    /// A field of personal data of a tenant.
    Field {
        /// Whose.
        tenant: TenantId,
        /// Which.
        field: ResourceName,
    },
    /// A bucket of values of a plugin.
    Bucket {
        /// Whose.
        tenant: TenantId,
        /// Of which plugin.
        plugin: PluginName,
        /// Which.
        name: ResourceName,
    },
    /// A container of objects of a plugin.
    Container {
        /// Whose.
        tenant: TenantId,
        /// Of which plugin.
        plugin: PluginName,
        /// Which.
        name: ResourceName,
    },
    /// The directory of a plugin.
    Directory {
        /// Whose.
        tenant: TenantId,
        /// Of which plugin.
        plugin: PluginName,
    },
    /// A host outside, as a tenant's plugins reach it.
    Origin {
        /// Whose plugins.
        tenant: TenantId,
        /// `https` or `http`.
        scheme: String,
        /// Name or address, in small letters, without brackets.
        host: String,
        /// Its port.
        port: u16,
    },
    /// A queue of a tenant.
    Queue {
        /// Whose.
        tenant: TenantId,
        /// Which.
        name: ResourceName,
    },
}

impl Resource {
    /// The tenant it belongs to; none for the host.
    pub fn tenant(&self) -> Option<&TenantId> {
        match self {
            Self::Host => None,
            Self::Tenant { tenant }
            | Self::Plugin { tenant, .. }
            | Self::Secret { tenant, .. }
            | Self::Field { tenant, .. }
            | Self::Bucket { tenant, .. }
            | Self::Container { tenant, .. }
            | Self::Directory { tenant, .. }
            | Self::Origin { tenant, .. }
            | Self::Queue { tenant, .. } => Some(tenant),
        }
    }
}

impl std::fmt::Display for Resource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::Tenant { tenant } => write!(f, "tenant/{tenant}"),
            Self::Plugin { tenant, plugin } => write!(f, "tenant/{tenant}/plugin/{plugin}"),
            Self::Secret { tenant, name } => write!(f, "tenant/{tenant}/secret/{name}"),
            Self::Field { tenant, field } => write!(f, "tenant/{tenant}/field/{field}"),
            Self::Bucket { tenant, plugin, name } => write!(f, "tenant/{tenant}/plugin/{plugin}/bucket/{name}"),
            Self::Container { tenant, plugin, name } => write!(f, "tenant/{tenant}/plugin/{plugin}/container/{name}"),
            Self::Directory { tenant, plugin } => write!(f, "tenant/{tenant}/plugin/{plugin}/directory"),
            Self::Origin { tenant, scheme, host, port } => {
                write!(f, "tenant/{tenant}/origin/{}", origin_text(scheme, host, *port))
            }
            Self::Queue { tenant, name } => write!(f, "tenant/{tenant}/queue/{name}"),
        }
    }
}

/// The words of a grant for an origin: scheme, host, and the port when it is not the usual one.
pub fn origin_text(scheme: &str, host: &str, port: u16) -> String {
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    match (scheme, port) {
        ("https", 443) | ("http", 80) => format!("{scheme}://{host}"),
        _ => format!("{scheme}://{host}:{port}"),
    }
}

/// A kind of act that policy decides about. The implementors are the unit types below.
pub trait Action: Send + Sync + 'static {
    /// The word in policies, decisions and the audit log.
    const NAME: &'static str;
    /// Whether it changes state, and so is bracketed by an intent and an outcome in the audit log.
    const MUTATES: bool;
    /// What sort of act it is, for the least trust score that is asked for it.
    const CLASS: ActClass;
}

/// What sort of act a trust score is asked for. Every action names its own, where it is defined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ActClass {
    /// Calling a plugin.
    Invoke,
    /// Looking.
    Read,
    /// Changing what runs.
    Change,
    /// Changing who may do what, what is watched and written down, or what cannot be undone.
    Administer,
}

impl ActClass {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Invoke, Self::Read, Self::Change, Self::Administer];
    /// The class of an action, by its word; none for what is no action.
    pub fn of(action: &str) -> Option<Self> {
        act::CLASSES.iter().find(|(word, _)| *word == action).map(|(_, class)| *class)
    }
    /// The word of the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Invoke => "invoke",
            Self::Read => "read",
            Self::Change => "change",
            Self::Administer => "administer",
        }
    }
}

macro_rules! actions {
    ($($(#[$doc:meta])* $name:ident = $word:literal $mutates:literal $class:ident;)*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, Copy)]
            pub struct $name;
            impl Action for $name {
                const NAME: &'static str = $word;
                const MUTATES: bool = $mutates;
                const CLASS: ActClass = ActClass::$class;
            }
        )*
        /// Every action's word, for the policy schema and the role matrix.
        pub const ACTIONS: &[&str] = &[$($word),*];
        /// Every action's word with its class, for those who list them.
        pub const CLASSES: &[(&str, ActClass)] = &[$(($word, ActClass::$class)),*];
    };
}

/// The actions, one type each, so that a permit for one cannot be spent on another.
pub mod act {
    use super::{ActClass, Action};
    actions! {
        /// Call a plugin over HTTP.
        Invoke = "invoke" true Invoke;
        /// List all tenants.
        ListTenants = "list-tenants" false Read;
        /// Make a tenant.
        CreateTenant = "create-tenant" true Administer;
        /// Read a tenant's description.
        ReadTenant = "read-tenant" false Read;
        /// Suspend or resume a tenant.
        SuspendTenant = "suspend-tenant" true Administer;
        /// Choose a tenant's plan and quotas.
        SetQuota = "set-quota" true Administer;
        /// Delete a tenant and destroy its key.
        DeleteTenant = "delete-tenant" true Administer;
        /// Read which keys there are and in which state.
        ReadKeys = "read-keys" false Read;
        /// Rotate a tenant's key, or the root key.
        RotateKeys = "rotate-keys" true Administer;
        /// Disable or enable a tenant's keys.
        DisableKeys = "disable-keys" true Administer;
        /// Ask for, or agree to, the destruction of a tenant's keys.
        DestroyKeys = "destroy-keys" true Administer;
        /// Read plugins, versions, routes, needs and grants.
        ReadPlugin = "read-plugin" false Read;
        /// Upload a version.
        PushVersion = "push-version" true Change;
        /// Move a route, or move it back.
        DeployVersion = "deploy-version" true Change;
        /// Grant or revoke a capability.
        GrantCapability = "grant-capability" true Administer;
        /// Read guest logs and invocation records.
        ReadLogs = "read-logs" false Read;
        /// Read a plugin's configuration.
        ReadConfig = "read-config" false Read;
        /// Change a plugin's configuration.
        WriteConfig = "write-config" true Change;
        /// List the names of secrets.
        ListSecrets = "list-secrets" false Read;
        /// Set or delete a secret.
        WriteSecret = "write-secret" true Change;
        /// List API keys (never their secrets).
        ListTokens = "list-tokens" false Read;
        /// Make an API key.
        CreateToken = "create-token" true Administer;
        /// Revoke an API key and its sessions.
        RevokeToken = "revoke-token" true Administer;
        /// Read the tenant's policy.
        ReadPolicy = "read-policy" false Read;
        /// Change the tenant's policy.
        WritePolicy = "write-policy" true Administer;
        /// Choose what a tenant may at most allow itself.
        SetCeiling = "set-ceiling" true Administer;
        /// Allow or refuse what another principal asked for.
        ApproveChange = "approve-change" true Administer;
        /// Ask to act for a time in another role.
        RequestElevation = "request-elevation" true Administer;
        /// Read the audit log and its proofs.
        ReadAudit = "read-audit" false Read;
        /// Choose where the audit log is streamed to, outside the host.
        StreamAudit = "stream-audit" true Administer;
        /// Put an event of one's own application into the audit log.
        RecordEvent = "record-event" true Change;
        /// Define, delete and run a tenant's own checks over its log and its facts.
        WriteCheck = "write-check" true Change;
        /// Say what is done about a violation, and have the host do it.
        Remediate = "remediate" true Administer;
        /// Choose which host calls of a tenant's plugins are on its log.
        ChooseHostCalls = "choose-host-calls" true Administer;
        /// Set how long an audit log is kept, erase the body of an application's event in it, change its key.
        ManageAudit = "manage-audit" true Administer;
        /// Set a legal hold on an audit log, or agree to lift one.
        HoldAudit = "hold-audit" true Administer;
        /// Read why a decision was taken.
        ReadDecision = "read-decision" false Read;
        /// Read metering.
        ReadUsage = "read-usage" false Read;
        /// List backups and read what came of them.
        ReadBackup = "read-backup" false Read;
        /// Make, rehearse or delete a backup.
        WriteBackup = "write-backup" true Administer;
        /// Restore a backup.
        RestoreBackup = "restore-backup" true Administer;
        /// Take the key that opens the tenant's backups.
        TakeRecoveryKey = "take-recovery-key" true Administer;
        /// Read findings, rules, responses, intelligence and incidents.
        ReadThreat = "read-threat" false Read;
        /// Write rules and settings of detection, load intelligence, step incidents on.
        WriteThreat = "write-threat" true Administer;
        /// Hold something against a principal, a source, a version or a tenant, and take it back.
        RespondThreat = "respond-threat" true Administer;
        /// Read the host's state and metrics.
        ReadHost = "read-host" false Read;
        /// See a field of personal data in clear in a plugin's answer.
        OpenPersonalField = "open-personal-field" false Administer;
        /// Read whether there is a key for a subject, and its erasures.
        ReadSubject = "read-subject" false Read;
        /// Destroy a subject's key, so that nothing sealed for it opens again.
        EraseSubject = "erase-subject" true Administer;
        /// Begin a run of a workflow, or send one a signal.
        StartRun = "start-run" true Change;
        /// Read runs with what they were given and what they did.
        ReadRun = "read-run" false Read;
        /// Cancel, terminate, pause, resume, retry or migrate a run.
        ManageRun = "manage-run" true Change;
        /// Decide what a run asks people for.
        ApproveRun = "approve-run" true Change;
        /// Declare, change or withdraw an extension point of the product.
        DeclareHook = "declare-hook" true Change;
        /// Read what is bound to extension points, and queues and schedules.
        ReadAutomation = "read-automation" false Read;
        /// Bind plugins to extension points; make, change and delete queues and schedules.
        WriteAutomation = "write-automation" true Change;
        /// Ask the plugins that are bound to an extension point.
        CallHook = "call-hook" true Change;
        /// Put a message into a queue.
        SendMessage = "send-message" true Change;
        /// Decide what an access review asks, and read the review.
        ReviewAccess = "review-access" true Administer;
    }
}

/// Proof that policy allowed action `A` on a resource for a principal, once. Made only by `policy`; consumed by value.
#[derive(Debug)]
#[must_use = "a permit that is not spent means that nothing was done with the decision"]
pub struct Permit<A> {
    decision: DecisionId,
    principal: PrincipalId,
    resource: Resource,
    action: PhantomData<A>,
}

impl<A: Action> Permit<A> {
    /// Makes a permit. SECURITY: for `policy` alone, after its authoriser said yes without an error.
    pub fn mint(decision: DecisionId, principal: PrincipalId, resource: Resource) -> Self {
        Self { decision, principal, resource, action: PhantomData }
    }
    /// The decision behind it.
    pub fn decision(&self) -> &DecisionId {
        &self.decision
    }
    /// Who may act.
    pub fn principal(&self) -> &PrincipalId {
        &self.principal
    }
    /// On what.
    pub fn resource(&self) -> &Resource {
        &self.resource
    }
    /// The action's word.
    pub fn action(&self) -> &'static str {
        A::NAME
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class_of(word: &str) -> ActClass {
        ActClass::of(word).unwrap_or_else(|| panic!("there is no action `{word}`"))
    }

    /// A scope that could be lifted again would hold nobody.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test needs somebody")]
    fn a_scope_that_somebody_is_held_to_stays() {
        let scope = |class| Some(Arc::new(KeyScope { classes: Some([class].into()), plugins: None }));
        let (id, kind, at) = ("acme/ci".parse().unwrap(), PrincipalKind::Service, Timestamp::UNIX_EPOCH);
        let ci = Principal::mint(id, kind, Some(Role::Caller), None, Strength::Secret, None, at);
        assert_eq!(ci.scope(), None);
        let held = ci.within(None).within(scope(ActClass::Invoke)).within(scope(ActClass::Administer)).within(None);
        assert_eq!(held.scope(), scope(ActClass::Invoke).as_ref());
    }

    /// Whoever does these decides who may do what, what is watched, or what nobody brings back.
    #[test]
    fn what_decides_about_access_or_cannot_be_undone_is_administering() {
        for word in [
            "create-tenant",
            "delete-tenant",
            "suspend-tenant",
            "set-quota",
            "grant-capability",
            "create-token",
            "revoke-token",
            "write-policy",
            "set-ceiling",
            "approve-change",
            "review-access",
            "stream-audit",
            "choose-host-calls",
            "manage-audit",
            "hold-audit",
            "write-threat",
            "respond-threat",
            "remediate",
            "rotate-keys",
            "disable-keys",
            "destroy-keys",
            "restore-backup",
            "write-backup",
            "take-recovery-key",
            "erase-subject",
            "open-personal-field",
        ] {
            assert_eq!(class_of(word), ActClass::Administer, "{word}");
        }
        assert_eq!(class_of("push-version"), ActClass::Change);
        assert_eq!(class_of("read-audit"), ActClass::Read);
    }

    #[test]
    fn every_action_has_a_class_and_what_changes_something_is_never_looking() {
        fn is_sound<A: Action>() -> bool {
            match A::CLASS {
                ActClass::Read => !A::MUTATES,
                ActClass::Invoke | ActClass::Change => A::MUTATES,
                ActClass::Administer => true,
            }
        }
        assert_eq!(act::CLASSES.len(), act::ACTIONS.len());
        assert!(is_sound::<act::Invoke>() && is_sound::<act::StartRun>() && is_sound::<act::ReadHost>());
        let reading = act::CLASSES.iter().filter(|(_, class)| *class == ActClass::Read);
        for (word, _) in reading {
            assert!(word.starts_with("read-") || word.starts_with("list-"), "{word} is more than looking");
        }
    }
}
