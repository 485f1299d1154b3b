//! One question to the policies, and its translation into Cedar's entities.
//!
//! Entity ids, as tenants write them in their policies:
//!
//! | entity | id | example |
//! |---|---|---|
//! | `Ringfence::Person`, `Ringfence::Service` | `<tenant>/<name>` | `Ringfence::Service::"acme/ci"` |
//! | `Ringfence::Operator` | `operator/<name>` | `Ringfence::Operator::"operator/ada"` |
//! | `Ringfence::Anonymous` | `anonymous` | `Ringfence::Anonymous::"anonymous"` |
//! | `Ringfence::Role` | the role's word | `Ringfence::Role::"developer"` |
//! | `Ringfence::Host` | `host` | `Ringfence::Host::"host"` |
//! | `Ringfence::Tenant` | `<tenant>` | `Ringfence::Tenant::"acme"` |
//! | `Ringfence::Plugin`, `Ringfence::Secret`, `Ringfence::Field` | `<tenant>/<name>` | `Ringfence::Plugin::"acme/hello"` |
//! | `Ringfence::Bucket`, `Ringfence::Container` | `<tenant>/<plugin>/<name>` | `Ringfence::Bucket::"acme/hello/default"` |
//! | `Ringfence::Directory` | `<tenant>/<plugin>` | `Ringfence::Directory::"acme/hello"` |
//! | `Ringfence::Origin` | `<tenant>/<origin>` | `Ringfence::Origin::"acme/https://api.example.com"` |
//! | `Ringfence::Queue` | `<tenant>/<name>` | `Ringfence::Queue::"acme/mails"` |
//! | `Ringfence::Action` | the action's word | `Ringfence::Action::"invoke"` |
//!
//! A plugin is a resource to those who call it, a `Service` with the id `<tenant>/plugin/<name>` where it calls another, and
//! itself the principal, as `Ringfence::Plugin`, of its calls to the host.
//!
//! Must never build an entity or a request that does not fit the schema: Cedar skips a forbid that fails to evaluate, so an
//! entity that misses an attribute would turn a no into a yes. Requests are held to it at each question. Entities have few
//! forms, made here alone, and holding them to it costs more than the answer: one of each form is, when the room opens, and
//! the tests ask every question both ways. The schema groups no actions, so questions need no entities of actions.
//! For the same reason they are made of the core's values: Cedar's own door takes expressions, which it evaluates, and works
//! out what each is in, which took a third of a decision. INVARIANT: an entity names all that it is in, not its parents alone;
//! whoever holds the forms to the schema holds them to that too.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use cedar_policy::{Context, Entities, EntityId, EntityTypeName, EntityUid, Request, RestrictedExpression, Schema};
use cedar_policy_core::ast::{Entity, EntityUID, PartialValue, Value};
use cedar_policy_core::entities::{Entities as CoreEntities, NoEntitiesSchema, TCComputation};
use cedar_policy_core::extensions::Extensions;
use ringfence_core::proof::origin_text;
use ringfence_core::{
    ActClass, Capability, Device, HostAct, KeyScope, PluginName, Principal, PrincipalId, PrincipalKind, Resource, Role,
    TenantId, device,
};

use crate::Standing;
use crate::index::Place;
use crate::labels::{Labels, NO_LABELS, OfThing};
use crate::occasion::Occasion;
use crate::particulars::{Approval, Particulars};

/// Labels of everything that the forms of entities name, to try the schema with.
const SOME_LABELS: &str = r#"{
    "principals": {
        "acme/p": { "training": ["gdpr"], "certifications": ["nurse"], "purposes": ["care"], "roles": ["release-manager"] },
        "acme/s": { "training": ["gdpr", "first-aid"] }
    },
    "plugins": { "p": { "classification": "restricted", "purposes": ["care", "billing"] } },
    "buckets": { "p/n": { "classification": "restricted", "purposes": ["care"] } },
    "containers": { "p/n": { "purposes": ["care"] } },
    "secrets": { "n": { "classification": "public" } },
    "fields": { "f": { "classification": "confidential", "purposes": ["care"] } }
}"#;

/// The parts of a principal that decide. Neither session nor time: the same question has the same answer. What a session
/// adds and time changes, such as the state of its device, is read when the question is made.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Who {
    pub(crate) id: PrincipalId,
    pub(crate) kind: PrincipalKind,
    pub(crate) role: Option<Role>,
    pub(crate) tenant: Option<TenantId>,
    /// Its own role, while it acts in another one for a time.
    pub(crate) elevated_from: Option<Role>,
    /// What its session's key was shown to be on, as that is at this moment.
    pub(crate) device: Option<Device>,
    /// The trust score of its session at this moment, where a statement reads it.
    pub(crate) trust: Option<u8>,
    /// What the key that it came with is good for; none where that is whatever its role allows.
    pub(crate) scope: Option<Arc<KeyScope>>,
}

impl Who {
    pub(crate) fn of(principal: &Principal) -> Self {
        Self {
            id: principal.id().clone(),
            kind: principal.kind(),
            role: principal.role(),
            tenant: principal.tenant().cloned(),
            elevated_from: None,
            device: None,
            trust: None,
            scope: principal.scope().cloned(),
        }
    }

    /// The Cedar type that fits; none for a combination that identity never makes, which is then denied.
    fn cedar_type(&self) -> Option<&'static str> {
        match (self.kind, self.role, &self.tenant) {
            (PrincipalKind::Anonymous, None, None) => Some("Anonymous"),
            (PrincipalKind::Person | PrincipalKind::Service, Some(Role::Operator), None) => Some("Operator"),
            (PrincipalKind::Person | PrincipalKind::Service, Some(Role::Operator), Some(_)) => None,
            // SECURITY: people have no keys, so no statement holds one to a scope.
            (PrincipalKind::Person, Some(_), Some(_)) if self.scope.is_some() => None,
            (PrincipalKind::Person, Some(_), Some(_)) => Some("Person"),
            (PrincipalKind::Service, Some(_), Some(_)) => Some("Service"),
            (PrincipalKind::Plugin, None, Some(_)) => Some("Plugin"),
            _ => None,
        }
    }

    /// Its id in policies.
    pub(crate) fn cedar_id(&self) -> Cow<'_, str> {
        match self.kind {
            PrincipalKind::Plugin => Cow::Owned(self.id.as_str().replacen("/plugin/", "/", 1)),
            _ => Cow::Borrowed(self.id.as_str()),
        }
    }

    /// A plugin's own name; empty for what is none.
    pub(crate) fn plugin_name(&self) -> &str {
        self.id.as_str().split_once("/plugin/").map_or("", |(_, name)| name)
    }
}

/// Who wants to do what to which thing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Question {
    pub(crate) who: Who,
    pub(crate) action: &'static str,
    pub(crate) resource: Resource,
    /// Of a host call, and of nothing else: what it is about.
    pub(crate) occasion: Option<Occasion>,
    /// What another act is about, where it was asked for with that.
    pub(crate) particulars: Option<Particulars>,
}

impl Question {
    /// A question that is no host call.
    pub(crate) fn plain(who: Who, action: &'static str, resource: Resource) -> Self {
        Self { who, action, resource, occasion: None, particulars: None }
    }

    /// Whether it is short enough to be kept, so that nobody fills the host's memory or its disk with what he is denied.
    pub(crate) fn is_short(&self) -> bool {
        self.particulars.as_ref().is_none_or(Particulars::is_short)
    }

    /// What a run asks for, where that is what is to be decided.
    pub(crate) fn approval(&self) -> Option<&Approval> {
        match &self.particulars {
            Some(Particulars::Approval(approval)) => Some(approval),
            _ => None,
        }
    }

    /// What it is asked with, in Cedar's words, when it is no host call.
    fn context(&self, words: &Words) -> Result<Context, String> {
        // Nobody else is held to classes, so that most questions carry nothing.
        let class = self.who.scope.as_ref().and_then(|_| ActClass::of(self.action));
        if self.who.trust.is_none() && class.is_none() && self.particulars.is_none() {
            return Ok(Context::empty());
        }
        let class =
            class.map(|class| ("class".to_owned(), RestrictedExpression::new_string(class.as_str().to_owned())));
        let trust = self.who.trust.map(|trust| ("trust".to_owned(), RestrictedExpression::new_long(trust.into())));
        let about = self.particulars.as_ref().map(|about| about.pairs(words)).transpose()?.unwrap_or_default();
        Context::from_pairs(class.into_iter().chain(trust).chain(about)).map_err(text)
    }

    /// Whether principal and resource belong to two different tenants.
    pub(crate) fn crosses_tenants(&self) -> bool {
        matches!((&self.who.tenant, self.resource.tenant()), (Some(own), Some(other)) if own != other)
    }

    /// The request and everything it speaks of, checked against the schema; `standing` and `labels` are of the resource's
    /// tenant. The error is for the decision's record.
    pub(crate) fn translate(&self, words: &Words, standing: Standing, labels: &Labels) -> Result<Translated, String> {
        let principal_type = self.who.cedar_type().ok_or("the principal has a role its kind cannot have")?;
        let principal = words.uid(principal_type, &self.who.cedar_id())?;
        let (resource_type, resource_id) = resource_parts(&self.resource);
        let resource = words.uid(resource_type, &resource_id)?;

        let mut entities = Vec::with_capacity(5);
        // Only the resource's tenant is looked at; nobody of another tenant gets past the boundary, whatever it is.
        if let Some(own) = self.who.tenant.as_ref().filter(|own| Some(*own) != self.resource.tenant()) {
            entities.push(tenant_entity(words, own, standing)?);
        }
        let mut principals = vec![principal.clone()];
        match (&self.who.tenant, self.who.kind) {
            (Some(own), PrincipalKind::Plugin) => {
                principals.push(words.uid("Tenant", own.as_str())?);
                // SECURITY: by names alone a plugin of another tenant would have the labels of this one's.
                let labels = if Some(own) == self.resource.tenant() { labels } else { &NO_LABELS };
                let own_labels = labels.plugin(self.who.plugin_name());
                entities.push(owned_entity(words, &principal, (own, None), Some(own_labels))?);
            }
            _ => entities.push(principal_entity(words, &principal, &self.who, labels)?),
        }
        let mut resources = vec![resource.clone()];
        match self.resource.tenant() {
            Some(tenant) => {
                entities.push(tenant_entity(words, tenant, standing)?);
                let owner = owner(&self.resource);
                let plugin = owner.map(|name| words.uid("Plugin", &format!("{tenant}/{name}"))).transpose()?;
                if let Some((name, plugin)) = owner.zip(plugin.as_ref()).filter(|(_, plugin)| **plugin != principal) {
                    entities.push(owned_entity(words, plugin, (tenant, None), Some(labels.plugin(name.as_str())))?);
                }
                if !matches!(self.resource, Resource::Tenant { .. }) {
                    if resource != principal {
                        let owners = (tenant, plugin.as_ref());
                        entities.push(resource_entity(words, &resource, &self.resource, owners, labels)?);
                    }
                    resources.extend(plugin);
                    resources.push(words.uid("Tenant", tenant.as_str())?);
                }
            }
            None => entities.push(entity(&resource, Vec::new(), HashSet::new())),
        }
        let context = match &self.occasion {
            None => self.context(words)?,
            Some(occasion) => occasion.context(words, HostAct::of_word(self.action))?,
        };
        words.translated(Place { action: words.action(self.action)?, principals, resources }, entities, context)
    }
}

/// A question in Cedar's words.
pub(crate) struct Translated {
    pub(crate) request: Request,
    pub(crate) entities: Entities,
    pub(crate) place: Place,
}

/// The schema and its names, parsed once: a name costs more to parse than a question to answer.
pub(crate) struct Words {
    pub(crate) schema: Schema,
    types: HashMap<String, EntityTypeName>,
    actions: HashMap<String, EntityUid>,
}

impl Words {
    pub(crate) fn of(schema: Schema) -> Self {
        let types = schema.entity_types().map(|name| (name.basename().to_owned(), name.clone())).collect();
        let actions = schema.actions().map(|uid| (uid.id().unescaped().to_owned(), uid.clone())).collect();
        Self { schema, types, actions }
    }

    pub(crate) fn uid(&self, kind: &str, id: &str) -> Result<EntityUid, String> {
        let name = self.types.get(kind).ok_or_else(|| format!("the schema has no `{kind}`"))?;
        Ok(EntityUid::from_type_name_and_id(name.clone(), EntityId::new(id)))
    }

    pub(crate) fn action(&self, word: &str) -> Result<EntityUid, String> {
        self.actions.get(word).cloned().ok_or_else(|| format!("the schema has no action `{word}`"))
    }

    /// The same question with its entities held to the schema, and what each is in worked out anew.
    pub(crate) fn held(&self, asked: &Translated) -> Result<Entities, String> {
        let held = Entities::from_entities(asked.entities.iter().cloned(), Some(&self.schema)).map_err(text)?;
        for one in asked.entities.iter() {
            let of = |entities: &Entities| -> HashSet<EntityUid> {
                entities.ancestors(&one.uid()).into_iter().flatten().cloned().collect()
            };
            if of(&held) != of(&asked.entities) {
                return Err(format!("`{}` does not name all that it is in", one.uid()));
            }
        }
        Ok(held)
    }

    /// Holds one question of each form to the schema: whoever asks, in a role that is his own or not, for each sort of thing.
    pub(crate) fn check_forms(&self) -> Result<(), String> {
        if self.schema.action_groups().next().is_some() {
            return Err("the schema groups actions, and questions name none of the groups".to_owned());
        }
        let tenant: TenantId = "acme".parse().map_err(text)?;
        let plugin: PluginName = "p".parse().map_err(text)?;
        let resources = [
            ("read-host", Resource::Host),
            ("read-tenant", Resource::Tenant { tenant: tenant.clone() }),
            ("invoke", Resource::Plugin { tenant: tenant.clone(), plugin: plugin.clone() }),
            ("write-secret", Resource::Secret { tenant: tenant.clone(), name: "n".parse().map_err(text)? }),
            ("open-personal-field", Resource::Field { tenant: tenant.clone(), field: "f".parse().map_err(text)? }),
        ];
        let id = |text: &str| text.parse::<PrincipalId>().map_err(|error| error.to_string());
        let who = |id, kind, role, tenant, elevated_from| {
            let (device, trust, scope) = (None, None, None);
            Who { id, kind, role, tenant, elevated_from, device, trust, scope }
        };
        let invoking = Some(BTreeSet::from([ActClass::Invoke]));
        let classes = Some(Arc::new(KeyScope { classes: invoking.clone(), plugins: None }));
        let scope = Some(Arc::new(KeyScope { classes: invoking, plugins: Some([plugin.clone()].into()) }));
        let on_a_device = Some(Device {
            name: "laptop".parse().map_err(text)?,
            verified: true,
            evidence: device::POSTURE.to_owned(),
            posture: ["disk_encrypted".to_owned()].into(),
        });
        let of_tenant = Some(tenant.clone());
        let people = [
            who(id("operator/o")?, PrincipalKind::Person, Some(Role::Operator), None, None),
            Who { scope: classes, ..who(id("operator/s")?, PrincipalKind::Service, Some(Role::Operator), None, None) },
            who(id("acme/p")?, PrincipalKind::Person, Some(Role::Developer), of_tenant.clone(), None),
            Who {
                trust: Some(80),
                scope,
                ..who(id("acme/s")?, PrincipalKind::Service, Some(Role::Caller), of_tenant.clone(), None)
            },
            Who {
                device: on_a_device,
                trust: Some(80),
                ..who(id("acme/p")?, PrincipalKind::Person, Some(Role::Developer), of_tenant.clone(), None)
            },
            who(id("acme/s")?, PrincipalKind::Service, Some(Role::Caller), of_tenant.clone(), Some(Role::Auditor)),
            who(id("other/s")?, PrincipalKind::Service, Some(Role::Caller), Some("other".parse().map_err(text)?), None),
            who(id("anonymous")?, PrincipalKind::Anonymous, None, None, None),
        ];
        let plugins = [
            who(id("acme/plugin/p")?, PrincipalKind::Plugin, None, of_tenant.clone(), None),
            who(id("acme/plugin/q")?, PrincipalKind::Plugin, None, of_tenant, None),
        ];
        let some = Labels::parse(&tenant, SOME_LABELS).map_err(text)?;
        self.check_particulars(&people, &tenant)?;
        let (active, suspended) = (Standing::Active, Standing::Suspended);
        for (standing, labels) in [(active, &NO_LABELS), (suspended, &NO_LABELS), (active, &some), (suspended, &some)] {
            for (action, resource) in &resources {
                for who in &people {
                    let question = Question::plain(who.clone(), action, resource.clone());
                    self.held(&question.translate(self, standing, labels)?)?;
                }
            }
            for act in HostAct::ALL {
                for (who, role) in plugins.iter().zip([None, Some(Role::Caller)]) {
                    let occasion = Some(Occasion::some(role).map_err(text)?);
                    let resource = thing(act, &tenant, &plugin).map_err(text)?;
                    let question = Question { occasion, ..Question::plain(who.clone(), act.as_str(), resource) };
                    self.held(&question.translate(self, standing, labels)?)?;
                }
            }
        }
        Ok(())
    }

    /// The same of what acts are about.
    fn check_particulars(&self, people: &[Who], tenant: &TenantId) -> Result<(), String> {
        let grant =
            |capability| ("grant-capability", Particulars::Grant { capability, scope: ["n".to_owned()].into() });
        let began_by = "acme/p".parse().map_err(text)?;
        let approval = Approval { name: "payment".to_owned(), began_by, is_own: true, waited_s: 60 };
        let deploy = Particulars::Deploy { pushed_by_caller: true, version: "1.0.0".to_owned(), percent: 100 };
        let others = [
            ("deploy-version", deploy),
            ("create-token", Particulars::Token { role: Role::Developer }),
            ("approve-run", Particulars::Approval(approval)),
        ];
        for (action, about) in Capability::ALL.into_iter().map(grant).chain(others) {
            for who in people {
                let question = Question::plain(who.clone(), action, Resource::Tenant { tenant: tenant.clone() });
                let question = Question { particulars: Some(about.clone()), ..question };
                self.held(&question.translate(self, Standing::Active, &NO_LABELS)?)?;
            }
        }
        Ok(())
    }

    /// Request and entities; the request is checked against the schema.
    pub(crate) fn translated(
        &self,
        place: Place,
        entities: Vec<Entity>,
        context: Context,
    ) -> Result<Translated, String> {
        let (complete, extensions) = (TCComputation::AssumeAlreadyComputed, Extensions::all_available());
        let entities = CoreEntities::from_entities(entities, None::<&NoEntitiesSchema>, complete, extensions);
        let entities = Entities::from(entities.map_err(text)?);
        let (Some(principal), Some(resource)) = (place.principals.first(), place.resources.first()) else {
            return Err("the question names nobody or nothing".to_owned());
        };
        let request =
            Request::new(principal.clone(), place.action.clone(), resource.clone(), context, Some(&self.schema))
                .map_err(text)?;
        Ok(Translated { request, entities, place })
    }
}

/// An entity with all that it is in.
fn entity(uid: &EntityUid, attributes: Vec<(&'static str, Value)>, within: HashSet<EntityUID>) -> Entity {
    let attributes = attributes.into_iter().map(|(name, value)| (name.into(), PartialValue::from(value)));
    Entity::new_with_attr_partial_value(uid.as_ref().clone(), attributes, HashSet::new(), within, [])
}

/// An entity as the value of an attribute.
fn reference(uid: EntityUid) -> Value {
    Value::from(EntityUID::from(uid))
}

fn principal_entity(words: &Words, uid: &EntityUid, who: &Who, labels: &Labels) -> Result<Entity, String> {
    let mut attributes = Vec::with_capacity(6);
    if let Some(role) = who.role {
        attributes.push(("role", reference(words.uid("Role", role.as_str())?)));
    }
    if let Some(scope) = &who.scope {
        attributes.push(("scope", scope_record(words, scope, who.tenant.as_ref())?));
    }
    if let Some(tenant) = &who.tenant {
        attributes.push(("elevated", Value::from(who.elevated_from.is_some())));
        attributes.push(("tenant", reference(words.uid("Tenant", tenant.as_str())?)));
        attributes.extend(labels.principal(who.id.as_str()).attributes());
        if let Some(device) = &who.device {
            attributes.push(("device", device_record(device)));
        }
    }
    Ok(entity(uid, attributes, HashSet::new()))
}

/// A scope in Cedar's words. Plugins are those of one's own tenant; who has none has no plugins either.
fn scope_record(words: &Words, scope: &KeyScope, tenant: Option<&TenantId>) -> Result<Value, String> {
    let mut fields = Vec::with_capacity(2);
    if let Some(classes) = &scope.classes {
        fields.push(("classes", Value::set(classes.iter().map(|class| Value::from(class.as_str())), None)));
    }
    if let Some(plugins) = &scope.plugins {
        let mut named = Vec::with_capacity(plugins.len());
        for (plugin, tenant) in plugins.iter().filter_map(|plugin| Some(plugin).zip(tenant)) {
            named.push(reference(words.uid("Plugin", &format!("{tenant}/{plugin}"))?));
        }
        fields.push(("plugins", Value::set(named, None)));
    }
    Ok(Value::record(fields, None))
}

pub(crate) fn device_record(device: &Device) -> Value {
    let fields = [
        ("name", Value::from(device.name.as_str())),
        ("verified", Value::from(device.verified)),
        ("evidence", Value::from(device.evidence.as_str())),
        ("posture", Value::set(device.posture.iter().map(|word| Value::from(word.as_str())), None)),
    ];
    Value::record(fields, None)
}

/// Something of a tenant without words of its own but labels, perhaps of one plugin.
fn owned_entity(
    words: &Words,
    uid: &EntityUid,
    (tenant, plugin): (&TenantId, Option<&EntityUid>),
    labels: Option<&OfThing>,
) -> Result<Entity, String> {
    let tenant = words.uid("Tenant", tenant.as_str())?;
    let mut within: HashSet<EntityUID> = plugin.map(|plugin| plugin.as_ref().clone()).into_iter().collect();
    within.insert(tenant.as_ref().clone());
    let mut attributes = vec![("tenant", reference(tenant))];
    attributes.extend(labels.into_iter().flat_map(OfThing::attributes));
    Ok(entity(uid, attributes, within))
}

fn resource_entity(
    words: &Words,
    uid: &EntityUid,
    resource: &Resource,
    (tenant, plugin): (&TenantId, Option<&EntityUid>),
    labels: &Labels,
) -> Result<Entity, String> {
    let Resource::Origin { scheme, host, port, .. } = resource else {
        return owned_entity(words, uid, (tenant, plugin), labels_of(labels, resource));
    };
    let tenant = words.uid("Tenant", tenant.as_str())?;
    let within = HashSet::from([tenant.as_ref().clone()]);
    let attributes = vec![
        ("tenant", reference(tenant)),
        ("scheme", Value::from(scheme.as_str())),
        ("host", Value::from(host.as_str())),
        ("port", Value::from(i64::from(*port))),
    ];
    Ok(entity(uid, attributes, within))
}

/// The labels of a thing of a kind that has them.
fn labels_of<'a>(labels: &'a Labels, resource: &Resource) -> Option<&'a OfThing> {
    match resource {
        Resource::Plugin { plugin, .. } => Some(labels.plugin(plugin.as_str())),
        Resource::Secret { name, .. } => Some(labels.secret(name.as_str())),
        Resource::Field { field, .. } => Some(labels.field(field.as_str())),
        Resource::Bucket { plugin, name, .. } => Some(labels.bucket(plugin.as_str(), name.as_str())),
        Resource::Container { plugin, name, .. } => Some(labels.container(plugin.as_str(), name.as_str())),
        _ => None,
    }
}

/// The plugin that a thing belongs to.
fn owner(resource: &Resource) -> Option<&PluginName> {
    match resource {
        Resource::Bucket { plugin, .. } | Resource::Container { plugin, .. } | Resource::Directory { plugin, .. } => {
            Some(plugin)
        }
        _ => None,
    }
}

/// Some thing that an act is done to.
fn thing(act: HostAct, tenant: &TenantId, plugin: &PluginName) -> Result<Resource, ringfence_core::WordError> {
    let (tenant, plugin) = (tenant.clone(), plugin.clone());
    Ok(match act {
        HostAct::ReadValue | HostAct::WriteValue | HostAct::DeleteValue | HostAct::ListValues => {
            Resource::Bucket { tenant, plugin, name: "n".parse()? }
        }
        HostAct::ReadObject | HostAct::WriteObject | HostAct::DeleteObject | HostAct::ListObjects => {
            Resource::Container { tenant, plugin, name: "n".parse()? }
        }
        HostAct::ReadFile | HostAct::WriteFile => Resource::Directory { tenant, plugin },
        HostAct::UseSecret => Resource::Secret { tenant, name: "n".parse()? },
        HostAct::SendRequest => {
            Resource::Origin { tenant, scheme: "https".to_owned(), host: "a.example".to_owned(), port: 443 }
        }
        HostAct::CallPlugin | HostAct::BeginRun | HostAct::SignalRun | HostAct::CancelRun | HostAct::InspectRun => {
            Resource::Plugin { tenant, plugin }
        }
        HostAct::PostMessage => Resource::Queue { tenant, name: "n".parse()? },
        HostAct::SealField | HostAct::TokeniseField | HostAct::OpenField => {
            Resource::Field { tenant, field: "f".parse()? }
        }
    })
}

fn tenant_entity(words: &Words, tenant: &TenantId, standing: Standing) -> Result<Entity, String> {
    let own = words.uid("Tenant", tenant.as_str())?;
    let suspended = Value::from(standing == Standing::Suspended);
    Ok(entity(&own, vec![("tenant", reference(own.clone())), ("suspended", suspended)], HashSet::new()))
}

fn resource_parts(resource: &Resource) -> (&'static str, String) {
    match resource {
        Resource::Host => ("Host", "host".to_owned()),
        Resource::Tenant { tenant } => ("Tenant", tenant.to_string()),
        Resource::Plugin { tenant, plugin } => ("Plugin", format!("{tenant}/{plugin}")),
        Resource::Secret { tenant, name } => ("Secret", format!("{tenant}/{name}")),
        Resource::Field { tenant, field } => ("Field", format!("{tenant}/{field}")),
        Resource::Bucket { tenant, plugin, name } => ("Bucket", format!("{tenant}/{plugin}/{name}")),
        Resource::Container { tenant, plugin, name } => ("Container", format!("{tenant}/{plugin}/{name}")),
        Resource::Directory { tenant, plugin } => ("Directory", format!("{tenant}/{plugin}")),
        Resource::Origin { tenant, scheme, host, port } => {
            ("Origin", format!("{tenant}/{}", origin_text(scheme, host, *port)))
        }
        Resource::Queue { tenant, name } => ("Queue", format!("{tenant}/{name}")),
    }
}

/// How a tenant would name this resource in its policy.
pub(crate) fn in_cedar(resource: &Resource) -> String {
    let (kind, id) = resource_parts(resource);
    format!("Ringfence::{kind}::\"{id}\"")
}

pub(crate) fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
