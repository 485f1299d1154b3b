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
//! | `Ringfence::Action` | the action's word | `Ringfence::Action::"invoke"` |
//!
//! Must never build an entity or a request that does not fit the schema: Cedar skips a forbid that fails to evaluate, so an
//! entity that misses an attribute would turn a no into a yes. Requests are held to it at each question. Entities have few
//! forms, made here alone, and holding them to it costs more than the answer: one of each form is, when the room opens, and
//! the tests ask every question both ways. The schema groups no actions, so questions need no entities of actions.

use std::collections::{HashMap, HashSet};

use cedar_policy::{
    Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, Request, RestrictedExpression, Schema,
};
use ringfence_core::{Principal, PrincipalId, PrincipalKind, Resource, ResourceName, Role, TenantId};

use crate::Standing;
use crate::index::Place;

/// The parts of a principal that decide. Neither session nor time: the same question has the same answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Who {
    pub(crate) id: PrincipalId,
    pub(crate) kind: PrincipalKind,
    pub(crate) role: Option<Role>,
    pub(crate) tenant: Option<TenantId>,
    /// Its own role, while it acts in another one for a time.
    pub(crate) elevated_from: Option<Role>,
}

impl Who {
    pub(crate) fn of(principal: &Principal) -> Self {
        Self {
            id: principal.id().clone(),
            kind: principal.kind(),
            role: principal.role(),
            tenant: principal.tenant().cloned(),
            elevated_from: None,
        }
    }

    /// The Cedar type that fits; none for a combination that identity never makes, which is then denied.
    fn cedar_type(&self) -> Option<&'static str> {
        match (self.kind, self.role, &self.tenant) {
            (PrincipalKind::Anonymous, None, None) => Some("Anonymous"),
            (PrincipalKind::Person | PrincipalKind::Service, Some(Role::Operator), None) => Some("Operator"),
            (PrincipalKind::Person | PrincipalKind::Service, Some(Role::Operator), Some(_)) => None,
            (PrincipalKind::Person, Some(_), Some(_)) => Some("Person"),
            (PrincipalKind::Service, Some(_), Some(_)) => Some("Service"),
            _ => None,
        }
    }
}

/// Who wants to do what to which thing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Question {
    pub(crate) who: Who,
    pub(crate) action: &'static str,
    pub(crate) resource: Resource,
}

impl Question {
    /// Whether principal and resource belong to two different tenants.
    pub(crate) fn crosses_tenants(&self) -> bool {
        matches!((&self.who.tenant, self.resource.tenant()), (Some(own), Some(other)) if own != other)
    }

    /// The request and everything it speaks of, checked against the schema. The error is for the decision's record.
    pub(crate) fn translate(&self, words: &Words, standing: Standing) -> Result<Translated, String> {
        let principal_type = self.who.cedar_type().ok_or("the principal has a role its kind cannot have")?;
        let principal = words.uid(principal_type, self.who.id.as_str())?;
        let (resource_type, resource_id) = resource_parts(&self.resource);
        let resource = words.uid(resource_type, &resource_id)?;

        let mut entities = Vec::with_capacity(4);
        // Only the resource's tenant is looked at; nobody of another tenant gets past the boundary, whatever it is.
        if let Some(own) = self.who.tenant.as_ref().filter(|own| Some(*own) != self.resource.tenant()) {
            entities.push(tenant_entity(words, own, standing)?);
        }
        entities.push(principal_entity(words, &principal, &self.who)?);
        let mut resources = vec![resource.clone()];
        if let Some(tenant) = self.resource.tenant() {
            entities.push(tenant_entity(words, tenant, standing)?);
            if !matches!(self.resource, Resource::Tenant { .. }) {
                let owner = words.uid("Tenant", tenant.as_str())?;
                let attributes =
                    HashMap::from([("tenant".to_owned(), RestrictedExpression::new_entity_uid(owner.clone()))]);
                resources.push(owner.clone());
                entities.push(Entity::new(resource.clone(), attributes, HashSet::from([owner])).map_err(text)?);
            }
        } else {
            entities.push(Entity::new_no_attrs(resource.clone(), HashSet::new()));
        }
        let place = Place { action: words.action(self.action)?, principals: vec![principal], resources };
        words.translated(place, entities, Context::empty())
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

    /// The same question with its entities held to the schema.
    pub(crate) fn held(&self, asked: &Translated) -> Result<Entities, String> {
        Entities::from_entities(asked.entities.iter().cloned(), Some(&self.schema)).map_err(text)
    }

    /// Holds one question of each form to the schema: whoever asks, in a role that is his own or not, for each sort of thing.
    pub(crate) fn check_forms(&self) -> Result<(), String> {
        if self.schema.action_groups().next().is_some() {
            return Err("the schema groups actions, and questions name none of the groups".to_owned());
        }
        let tenant: TenantId = "acme".parse().map_err(text)?;
        let plugin = "p".parse().map_err(text)?;
        let name: ResourceName = "n".parse().map_err(text)?;
        let resources = [
            ("read-host", Resource::Host),
            ("read-tenant", Resource::Tenant { tenant: tenant.clone() }),
            ("invoke", Resource::Plugin { tenant: tenant.clone(), plugin }),
            ("write-secret", Resource::Secret { tenant: tenant.clone(), name: name.clone() }),
            ("open-personal-field", Resource::Field { tenant: tenant.clone(), field: "f".parse().map_err(text)? }),
        ];
        let id = |text: &str| text.parse::<PrincipalId>().map_err(|error| error.to_string());
        let who = |id, kind, role, tenant, elevated_from| Who { id, kind, role, tenant, elevated_from };
        let of_tenant = Some(tenant.clone());
        let people = [
            who(id("operator/o")?, PrincipalKind::Person, Some(Role::Operator), None, None),
            who(id("acme/p")?, PrincipalKind::Person, Some(Role::Developer), of_tenant.clone(), None),
            who(id("acme/s")?, PrincipalKind::Service, Some(Role::Caller), of_tenant, Some(Role::Auditor)),
            who(id("other/s")?, PrincipalKind::Service, Some(Role::Caller), Some("other".parse().map_err(text)?), None),
            who(id("anonymous")?, PrincipalKind::Anonymous, None, None, None),
        ];
        for (action, resource) in &resources {
            for who in &people {
                for standing in [Standing::Active, Standing::Suspended] {
                    let question = Question { who: who.clone(), action, resource: resource.clone() };
                    self.held(&question.translate(self, standing)?)?;
                }
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
        let entities = Entities::from_entities(entities, None).map_err(text)?;
        let (Some(principal), Some(resource)) = (place.principals.first(), place.resources.first()) else {
            return Err("the question names nobody or nothing".to_owned());
        };
        let request =
            Request::new(principal.clone(), place.action.clone(), resource.clone(), context, Some(&self.schema))
                .map_err(text)?;
        Ok(Translated { request, entities, place })
    }
}

fn principal_entity(words: &Words, uid: &EntityUid, who: &Who) -> Result<Entity, String> {
    let mut attributes = HashMap::new();
    if let Some(role) = who.role {
        attributes.insert("role".to_owned(), RestrictedExpression::new_entity_uid(words.uid("Role", role.as_str())?));
    }
    if let Some(tenant) = &who.tenant {
        attributes.insert("elevated".to_owned(), RestrictedExpression::new_bool(who.elevated_from.is_some()));
        let tenant = words.uid("Tenant", tenant.as_str())?;
        attributes.insert("tenant".to_owned(), RestrictedExpression::new_entity_uid(tenant));
    }
    Entity::new(uid.clone(), attributes, HashSet::new()).map_err(text)
}

fn tenant_entity(words: &Words, tenant: &TenantId, standing: Standing) -> Result<Entity, String> {
    let own = words.uid("Tenant", tenant.as_str())?;
    let attributes = HashMap::from([
        ("tenant".to_owned(), RestrictedExpression::new_entity_uid(own.clone())),
        ("suspended".to_owned(), RestrictedExpression::new_bool(standing == Standing::Suspended)),
    ]);
    Entity::new(own, attributes, HashSet::new()).map_err(text)
}

fn resource_parts(resource: &Resource) -> (&'static str, String) {
    match resource {
        Resource::Host => ("Host", "host".to_owned()),
        Resource::Tenant { tenant } => ("Tenant", tenant.to_string()),
        Resource::Plugin { tenant, plugin } => ("Plugin", format!("{tenant}/{plugin}")),
        Resource::Secret { tenant, name } => ("Secret", format!("{tenant}/{name}")),
        Resource::Field { tenant, field } => ("Field", format!("{tenant}/{field}")),
    }
}

/// How a tenant would name this resource in its policy.
pub(crate) fn in_cedar(resource: &Resource) -> String {
    let (kind, id) = resource_parts(resource);
    format!("Ringfence::{kind}::\"{id}\"")
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
