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
//! Must never build an entity or a request without the schema: Cedar skips a forbid that fails to evaluate, so an
//! entity that misses an attribute would turn a no into a yes.

use std::collections::{HashMap, HashSet};

use cedar_policy::{
    Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, Request, RestrictedExpression, Schema,
};
use ringfence_core::{Principal, PrincipalId, PrincipalKind, Resource, Role, TenantId};

use crate::Standing;

/// The parts of a principal that decide. Neither session nor time: the same question has the same answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Who {
    pub(crate) id: PrincipalId,
    pub(crate) kind: PrincipalKind,
    pub(crate) role: Option<Role>,
    pub(crate) tenant: Option<TenantId>,
}

impl Who {
    pub(crate) fn of(principal: &Principal) -> Self {
        Self {
            id: principal.id().clone(),
            kind: principal.kind(),
            role: principal.role(),
            tenant: principal.tenant().cloned(),
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
    pub(crate) fn translate(
        &self,
        schema: &Schema,
        standing: impl Fn(&TenantId) -> Standing,
    ) -> Result<(Request, Entities), String> {
        let principal_type = self.who.cedar_type().ok_or("the principal has a role its kind cannot have")?;
        let principal = uid(principal_type, self.who.id.as_str())?;
        let action = uid("Action", self.action)?;
        let (resource_type, resource_id) = resource_parts(&self.resource);
        let resource = uid(resource_type, &resource_id)?;

        let mut entities = Vec::with_capacity(4);
        let mut tenants: Vec<&TenantId> = self.who.tenant.iter().chain(self.resource.tenant()).collect();
        tenants.dedup();
        for tenant in tenants {
            entities.push(tenant_entity(tenant, standing(tenant))?);
        }
        entities.push(principal_entity(&principal, &self.who)?);
        match &self.resource {
            Resource::Host => entities.push(Entity::new_no_attrs(resource.clone(), HashSet::new())),
            // The tenant's own entity is there already.
            Resource::Tenant { .. } => {}
            Resource::Plugin { tenant, .. } | Resource::Secret { tenant, .. } | Resource::Field { tenant, .. } => {
                let owner = uid("Tenant", tenant.as_str())?;
                let attributes =
                    HashMap::from([("tenant".to_owned(), RestrictedExpression::new_entity_uid(owner.clone()))]);
                entities.push(Entity::new(resource.clone(), attributes, HashSet::from([owner])).map_err(text)?);
            }
        }
        let entities = Entities::from_entities(entities, Some(schema)).map_err(text)?;
        let request = Request::new(principal, action, resource, Context::empty(), Some(schema)).map_err(text)?;
        Ok((request, entities))
    }
}

fn principal_entity(uid_of: &EntityUid, who: &Who) -> Result<Entity, String> {
    let mut attributes = HashMap::new();
    if let Some(role) = who.role {
        attributes.insert("role".to_owned(), RestrictedExpression::new_entity_uid(uid("Role", role.as_str())?));
    }
    if let Some(tenant) = &who.tenant {
        attributes.insert("tenant".to_owned(), RestrictedExpression::new_entity_uid(uid("Tenant", tenant.as_str())?));
    }
    Entity::new(uid_of.clone(), attributes, HashSet::new()).map_err(text)
}

fn tenant_entity(tenant: &TenantId, standing: Standing) -> Result<Entity, String> {
    let own = uid("Tenant", tenant.as_str())?;
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

fn uid(kind: &str, id: &str) -> Result<EntityUid, String> {
    let kind: EntityTypeName = format!("Ringfence::{kind}").parse().map_err(text)?;
    Ok(EntityUid::from_type_name_and_id(kind, EntityId::new(id)))
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
