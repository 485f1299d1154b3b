//! Who counts as a second person: whether two principals can be two people.
//!
//! Must never count one person twice. A key is its owner's: the person, or the first principal of its place, that the
//! chain of makers leads to; that is settled when the key is made. What cannot be traced (a certificate's holder) is
//! nobody.

use std::collections::BTreeSet;

use jiff::Timestamp;
use ringfence_core::proof::act;
use ringfence_core::{Permit, PrincipalId, Role, TenantId};

use crate::manage::covers;
use crate::tables::Tables;
use crate::{Identity, IdentityError};

impl Identity {
    /// Whether `other` can be the second person beside `one` now: neither is of the other, and neither came here by the
    /// other's word, or both by the word of one and the same third, within the hours that the operator set.
    pub fn is_second_person(&self, one: &PrincipalId, other: &PrincipalId) -> bool {
        let tables = self.shared.read();
        are_two(&tables, one, other, self.shared.clock.now(), self.shared.second_person_seconds)
    }
}

impl Identity {
    /// Whether both are of one owner: one person, as far as can be told.
    pub fn is_one_owner(&self, one: &PrincipalId, other: &PrincipalId) -> bool {
        let tables = self.shared.read();
        let (ones, others) = (named_or_owners(&tables, one), named_or_owners(&tables, other));
        !ones.is_disjoint(&others)
    }

    /// Whether a tenant has a tenant-admin who is another person than this one, so that his word can be asked for. Unlike
    /// for [`Identity::is_second_person`], one who came just now counts: who is needed need not be able to allow it yet.
    pub fn has_another_admin(
        &self,
        permit: Permit<act::ListTokens>,
        tenant: &TenantId,
        one: &PrincipalId,
    ) -> Result<bool, IdentityError> {
        covers(permit.resource(), Some(tenant))?;
        Ok(has_another(&self.shared.read(), Some(tenant), &[one], self.shared.clock.now()))
    }

    /// The same of operators.
    pub(crate) fn has_another_operator(&self, one: &PrincipalId) -> bool {
        has_another(&self.shared.read(), None, &[one], self.shared.clock.now())
    }

    /// The same of either place, for a word about somebody: neither is he one who could be asked.
    pub(crate) fn has_another_to_ask(&self, tenant: Option<&TenantId>, about: &PrincipalId, one: &PrincipalId) -> bool {
        has_another(&self.shared.read(), tenant, &[one, about], self.shared.clock.now())
    }
}

/// Whether a tenant has a tenant-admin, or the host an operator, who is another person than these.
fn has_another(tables: &Tables, tenant: Option<&TenantId>, these: &[&PrincipalId], now: Timestamp) -> bool {
    let role = if tenant.is_some() { Role::TenantAdmin } else { Role::Operator };
    let these: BTreeSet<PrincipalId> = these.iter().flat_map(|one| owners(tables, one)).collect();
    let keys = tables.keys_of(tenant).filter(|key| key.role == role && key.is_live(now)).map(|key| &key.principal);
    let people = tables.people_of(tenant).map(|person| &person.record);
    let people = people.filter(|person| person.role == role).map(|person| &person.principal);
    keys.chain(people).any(|other| {
        let others = owners(tables, other);
        !others.is_empty() && others.is_disjoint(&these)
    })
}

/// Whose a key is that `maker` makes for `principal`.
pub(crate) fn owners_of_new(tables: &Tables, maker: &PrincipalId, principal: &PrincipalId) -> Vec<PrincipalId> {
    if place(maker) != place(principal) {
        // The first key of a tenant, made by an operator for somebody there.
        return vec![principal.clone()];
    }
    named_or_owners(tables, maker).into_iter().collect()
}

fn are_two(tables: &Tables, one: &PrincipalId, other: &PrincipalId, now: Timestamp, settled_seconds: i64) -> bool {
    let (ones, others) = (owners(tables, one), owners(tables, other));
    if ones.is_empty() || others.is_empty() || !ones.is_disjoint(&others) {
        return false;
    }
    let introduced = |of: &BTreeSet<PrincipalId>| -> BTreeSet<PrincipalId> {
        let new = of.iter().filter_map(|owner| tables.person(owner)).map(|person| &person.record);
        let new = new.filter(|record| now.as_second().saturating_sub(record.invited_at.as_second()) < settled_seconds);
        new.flat_map(|record| named_or_owners(tables, &record.invited_by)).collect()
    };
    let (by_one, by_other) = (introduced(&ones), introduced(&others));
    by_one.is_disjoint(&others) && by_other.is_disjoint(&ones) && by_one.is_disjoint(&by_other)
}

/// Whose a principal is; nobody when that cannot be said. More than one when several made keys of one name.
fn owners(tables: &Tables, of: &PrincipalId) -> BTreeSet<PrincipalId> {
    match tables.person(of) {
        Some(person) if person.record.enrolled_at.is_some() => BTreeSet::from([of.clone()]),
        Some(_) => BTreeSet::new(),
        None => tables.owners_of_keys(of).cloned().collect(),
    }
}

/// The same, and the principal himself when nothing is known of him: an operator who enrolled at the first start.
fn named_or_owners(tables: &Tables, of: &PrincipalId) -> BTreeSet<PrincipalId> {
    let found = owners(tables, of);
    if found.is_empty() { BTreeSet::from([of.clone()]) } else { found }
}

fn place(principal: &PrincipalId) -> &str {
    principal.as_str().split_once('/').map_or("", |(place, _)| place)
}
