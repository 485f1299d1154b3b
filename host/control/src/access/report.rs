//! `GET /tenants/{t}/access/report`, `GET /access/report`: who holds what access, what of it is used, what to look at.
//!
//! Must never call unused what was not watched for as long as the period is.

use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use axum::extract::{Path, State};
use jiff::{SignedDuration, Timestamp};
use ringfence_core::proof::act;
use ringfence_core::{Capability, PluginName, PrincipalId, Resource, ResourceName, Role, TenantId};
use ringfence_identity::{LAST_USE_SECONDS, LastUse};
use ringfence_policy::roles::actions_of;
use ringfence_store::TenantStore;
use serde::Deserialize;

use super::facts::{GrantFact, KeptActs};
use super::labelled::{self, Labelled, Seen};
use crate::Control;
use crate::call::Call;
use crate::extract::Asked;
use crate::policies::{elevations, labels};
use crate::problem::ApiError;
use crate::wire::{AccessFinding, AccessReport, ElevationUseView, GrantUseView, HolderView, Problem};

/// Days without use after which something counts as unused, when nobody says otherwise.
pub(super) const DAYS_DEFAULT: u32 = 90;
/// Longest period.
const DAYS_MAX: u32 = 3_650;

/// Which period.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Period {
    /// After how many days without use something counts as unused; 90 when absent.
    unused_days: Option<u32>,
}

/// Whether something is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// Within the period.
    Used,
    /// Not within the period, for all of which it was watched.
    Unused,
    /// It was given within the period, and not used yet.
    New,
    /// It was not watched for long enough.
    Unknown,
}

/// One way in.
#[derive(Debug, Clone)]
pub(super) struct Holder {
    pub(super) kind: &'static str,
    pub(super) key: Option<String>,
    pub(super) name: Option<ResourceName>,
    pub(super) principal: PrincipalId,
    pub(super) role: Role,
    pub(super) given_by: Option<PrincipalId>,
    pub(super) given_at: Option<Timestamp>,
    pub(super) used_at: Option<Timestamp>,
    pub(super) state: Use,
    would_do: Option<Role>,
    has_second_person: Option<bool>,
}

/// One capability of a plugin.
#[derive(Debug, Clone)]
pub(super) struct Granted {
    pub(super) plugin: PluginName,
    pub(super) capability: Capability,
    pub(super) scope: Vec<String>,
    pub(super) fact: GrantFact,
    pub(super) state: Use,
    pushed_by: Option<PrincipalId>,
}

/// Everything at one moment.
pub(super) struct Survey {
    pub(super) now: Timestamp,
    pub(super) days: u32,
    pub(super) since: Option<Timestamp>,
    pub(super) holders: Vec<Holder>,
    pub(super) grants: Vec<Granted>,
    pub(super) elevations: Vec<elevations::Held>,
    pub(super) labelled: Vec<Labelled>,
}

/// Reports who holds what access in a tenant, what of it is used, and what somebody should look at.
#[utoipa::path(get, path = "/tenants/{tenant}/access/report", tag = "access", params(Period),
    responses((status = 200, body = AccessReport), (status = "default", body = Problem)))]
pub async fn read(
    State(control): State<Control>,
    call: Call,
    Path(tenant): Path<String>,
    period: Result<Asked<Period>, ApiError>,
) -> Result<Json<AccessReport>, ApiError> {
    let reached = control.reach_tenant::<act::ListTokens>(&call, &tenant).await?;
    // The boundary comes before any word about the query.
    let days = days(period?.0.unused_days)?;
    let survey = control.survey(&call, Some(&reached.tenant), &reached.store, days).await?;
    Ok(Json(control.report(survey)))
}

/// The same of the host: who its operators are.
#[utoipa::path(get, path = "/access/report", tag = "access", params(Period),
    responses((status = 200, body = AccessReport), (status = "default", body = Problem)))]
pub async fn read_host(
    State(control): State<Control>,
    call: Call,
    period: Result<Asked<Period>, ApiError>,
) -> Result<Json<AccessReport>, ApiError> {
    let _permit = control.reach_host::<act::ListTokens>(&call).await?;
    let days = days(period?.0.unused_days)?;
    let survey = control.survey(&call, None, control.parts.tenants.platform(), days).await?;
    Ok(Json(control.report(survey)))
}

/// A period that can be asked about.
pub(super) fn days(asked: Option<u32>) -> Result<u32, ApiError> {
    let days = asked.unwrap_or(DAYS_DEFAULT);
    if days == 0 || days > DAYS_MAX {
        return Err(ApiError::new("bad-request", format!("`unused_days` is 1 to {DAYS_MAX}")));
    }
    Ok(days)
}

impl Use {
    /// The word of the API.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Used => "used",
            Self::Unused => "unused",
            Self::New => "new",
            Self::Unknown => "unknown",
        }
    }

    /// Judges by the hour of the last use, the time it was given, and since when there is watching; `from` is where the
    /// period begins.
    pub(super) fn of(
        last: Option<Timestamp>,
        given: Option<Timestamp>,
        since: Option<Timestamp>,
        from: Timestamp,
    ) -> Self {
        // A kept time is the beginning of its hour: the use was up to an hour later.
        let within = |at: Timestamp| at.as_second().saturating_add(LAST_USE_SECONDS) > from.as_second();
        if last.is_some_and(within) {
            Self::Used
        } else if given.is_some_and(|at| at > from) {
            Self::New
        } else if last.is_some() || since.is_some_and(|at| at <= from) {
            Self::Unused
        } else {
            Self::Unknown
        }
    }
}

impl Control {
    /// Gathers everything, each part with a permit of its own.
    pub(super) async fn survey(
        &self,
        call: &Call,
        tenant: Option<&TenantId>,
        store: &TenantStore,
        days: u32,
    ) -> Result<Survey, ApiError> {
        let now = self.parts.clock.now();
        let from = now.checked_sub(SignedDuration::from_hours(i64::from(days) * 24)).unwrap_or(Timestamp::MIN);
        let since = self.watched_since(store).await?;
        let acts = self.kept_acts(store).await?;
        let mut holders = self.holders(call, tenant, (since, from)).await?;
        self.judge_roles(&mut holders, &acts, (since, from))?;
        let (mut grants, mut held, mut labelled) = (Vec::new(), Vec::new(), Vec::new());
        if let Some(tenant) = tenant {
            let resource = Resource::Tenant { tenant: tenant.clone() };
            let _may_read = self.reach::<act::ReadPolicy>(call, resource.clone()).await?.permit;
            held = elevations::stored(store).await?;
            held.retain(|held| now < held.until);
            let permit = self.reach::<act::ReadPlugin>(call, resource).await?.permit;
            let plugins = self.parts.registry.plugins(permit, store).await?;
            let names = plugins.iter().map(|plugin| plugin.name.clone()).collect();
            let seen = Seen { holders: &holders, acts: &acts, plugins: &names, since, from };
            labelled = labelled::judge(labels::roles_given(store).await?, &seen)?;
            for plugin in plugins {
                let facts = self.grant_facts(store, &plugin.name).await?;
                let pushed_by = self.parts.registry.publisher(store, &plugin.name, &plugin.latest).await?;
                for grant in self.parts.registry.grants(store, &plugin.name).await?.iter() {
                    let fact = facts.get(&grant.capability).cloned().unwrap_or_default();
                    grants.push(Granted {
                        plugin: plugin.name.clone(),
                        capability: grant.capability,
                        scope: grant.scope.clone(),
                        state: Use::of(fact.used_at, fact.granted_at, since, from),
                        fact,
                        pushed_by: pushed_by.clone(),
                    });
                }
            }
        }
        Ok(Survey { now, days, since, holders, grants, elevations: held, labelled })
    }

    async fn permit_to_list(
        &self,
        call: &Call,
        tenant: Option<&TenantId>,
    ) -> Result<ringfence_core::Permit<act::ListTokens>, ApiError> {
        match tenant {
            None => self.reach_host(call).await,
            Some(tenant) => Ok(self.reach(call, Resource::Tenant { tenant: tenant.clone() }).await?.permit),
        }
    }

    async fn holders(
        &self,
        call: &Call,
        tenant: Option<&TenantId>,
        (since, from): (Option<Timestamp>, Timestamp),
    ) -> Result<Vec<Holder>, ApiError> {
        let identity = &self.parts.identity;
        let now = self.parts.clock.now();
        let keys = identity.list_keys(self.permit_to_list(call, tenant).await?, tenant).await?;
        let people = identity.list_people(self.permit_to_list(call, tenant).await?, tenant)?;
        let uses = identity.last_uses(self.permit_to_list(call, tenant).await?, tenant)?;
        let used: BTreeMap<PrincipalId, LastUse> =
            uses.into_iter().map(|used| (used.principal.clone(), used)).collect();
        let mut holders = Vec::new();
        for person in people {
            let used_at = used.get(&person.principal).map(|used| used.at);
            holders.push(Holder {
                kind: "person",
                key: None,
                name: Some(person.name),
                role: person.role,
                given_by: Some(person.invited_by),
                given_at: Some(person.invited_at),
                used_at,
                state: Use::of(used_at, Some(person.invited_at), since, from),
                would_do: None,
                has_second_person: None,
                principal: person.principal,
            });
        }
        for key in keys.into_iter().filter(|key| key.is_live(now)) {
            let used_at = used.get(&key.principal).and_then(|used| used.keys.get(&key.id)).copied();
            holders.push(Holder {
                kind: "api-key",
                key: Some(key.id),
                name: Some(key.name),
                role: key.role,
                given_by: Some(key.created_by),
                given_at: Some(key.created_at),
                used_at,
                state: Use::of(used_at, Some(key.created_at), since, from),
                would_do: None,
                has_second_person: None,
                principal: key.principal,
            });
        }
        let known: BTreeSet<PrincipalId> = holders.iter().map(|holder| holder.principal.clone()).collect();
        for (principal, used) in used {
            use ringfence_identity::Method;
            let from_elsewhere = matches!(used.method, Method::Federated | Method::ClientCertificate);
            if from_elsewhere && !known.contains(&principal) {
                holders.push(Holder {
                    kind: used.method.as_str(),
                    key: None,
                    name: None,
                    role: used.role,
                    given_by: None,
                    given_at: None,
                    used_at: Some(used.at),
                    state: Use::of(Some(used.at), None, since, from),
                    would_do: None,
                    has_second_person: None,
                    principal,
                });
            }
        }
        holders.sort_by(|a, b| (&a.principal, &a.key).cmp(&(&b.principal, &b.key)));
        Ok(holders)
    }

    /// Says of each holder whether a smaller role would do, and of each who decides whether there is another.
    fn judge_roles(
        &self,
        holders: &mut [Holder],
        acts: &[KeptActs],
        (since, from): (Option<Timestamp>, Timestamp),
    ) -> Result<(), ApiError> {
        let watched = since.is_some_and(|at| at <= from);
        let smaller = smaller_roles()?;
        let deciders: Vec<(PrincipalId, Role)> = holders
            .iter()
            .filter(|holder| matches!(holder.role, Role::TenantAdmin | Role::Operator))
            .map(|holder| (holder.principal.clone(), holder.role))
            .collect();
        for holder in holders {
            if watched && holder.state == Use::Used {
                let done = acts.iter().find(|acts| acts.principal == holder.principal);
                let done = done.into_iter().flat_map(|acts| &acts.acts);
                let within = |at: &Timestamp| at.as_second().saturating_add(LAST_USE_SECONDS) > from.as_second();
                let done: BTreeSet<&str> = done.filter(|(_, at)| within(at)).map(|(act, _)| act.as_str()).collect();
                holder.would_do = would_do(holder.role, &done, &smaller);
            }
            if matches!(holder.role, Role::TenantAdmin | Role::Operator) {
                let mut others =
                    deciders.iter().filter(|(other, role)| *role == holder.role && *other != holder.principal);
                let identity = &self.parts.identity;
                holder.has_second_person =
                    Some(others.any(|(other, _)| identity.is_second_person(&holder.principal, other)));
            }
        }
        Ok(())
    }

    fn report(&self, survey: Survey) -> AccessReport {
        let identity = &self.parts.identity;
        let findings = findings(&survey, |one, other| identity.is_one_owner(one, other));
        let text = |at: Option<Timestamp>| at.map(|at| at.to_string());
        AccessReport {
            as_of: survey.now.to_string(),
            unused_days: survey.days,
            watched_since: text(survey.since),
            resolution_seconds: LAST_USE_SECONDS,
            holders: survey
                .holders
                .into_iter()
                .map(|holder| HolderView {
                    kind: holder.kind.to_owned(),
                    key: holder.key,
                    principal: holder.principal.to_string(),
                    role: holder.role.to_string(),
                    given_by: holder.given_by.map(|by| by.to_string()),
                    given_at: text(holder.given_at),
                    last_used_at: text(holder.used_at),
                    state: holder.state.as_str().to_owned(),
                    would_do: holder.would_do.map(|role| role.to_string()),
                    has_second_person: holder.has_second_person,
                })
                .collect(),
            grants: survey
                .grants
                .into_iter()
                .map(|grant| GrantUseView {
                    plugin: grant.plugin.to_string(),
                    capability: grant.capability.to_string(),
                    scope: grant.scope,
                    granted_by: grant.fact.granted_by.map(|by| by.to_string()),
                    granted_at: text(grant.fact.granted_at),
                    last_used_at: text(grant.fact.used_at),
                    state: grant.state.as_str().to_owned(),
                })
                .collect(),
            elevations: survey
                .elevations
                .into_iter()
                .map(|held| ElevationUseView {
                    by_another: !identity.is_one_owner(&held.principal, &held.approved_by),
                    id: held.id.to_string(),
                    principal: held.principal.to_string(),
                    role: held.role.to_string(),
                    until: held.until.to_string(),
                    approved_by: held.approved_by.to_string(),
                })
                .collect(),
            labels: survey.labelled.into_iter().map(labelled::view).collect(),
            findings,
        }
    }
}

/// The roles of a tenant with what each may do, smallest first.
pub(super) fn smaller_roles() -> Result<Vec<(Role, BTreeSet<String>)>, ApiError> {
    let roles = [Role::Caller, Role::Auditor, Role::Developer, Role::TenantAdmin];
    let all = roles.into_iter().map(|role| Ok::<_, ApiError>((role, actions_of(role)?)));
    let mut all = all.collect::<Result<Vec<_>, _>>()?;
    all.sort_by_key(|(_, actions)| actions.len());
    Ok(all)
}

/// The smallest role that allows all of this, when it is smaller than the one that is held.
fn would_do(held: Role, done: &BTreeSet<&str>, roles: &[(Role, BTreeSet<String>)]) -> Option<Role> {
    let fits = |actions: &BTreeSet<String>| done.iter().all(|act| actions.contains(*act));
    let smaller = roles.iter().take_while(|(role, _)| *role != held);
    if held == Role::Operator { None } else { smaller.into_iter().find(|(_, all)| fits(all)).map(|(role, _)| *role) }
}

/// What somebody should look at. Pure.
fn findings(survey: &Survey, is_one_owner: impl Fn(&PrincipalId, &PrincipalId) -> bool) -> Vec<AccessFinding> {
    let mut all = Vec::new();
    let mut add = |kind: &str, subject: String, detail: String| {
        all.push(AccessFinding { kind: kind.to_owned(), subject, detail });
    };
    let role_of = |who: &PrincipalId| survey.holders.iter().find(|holder| holder.principal == *who).map(|h| h.role);
    for holder in &survey.holders {
        let subject =
            holder.key.as_ref().map_or(holder.principal.to_string(), |key| format!("{} {key}", holder.principal));
        if holder.state == Use::Unused {
            add("dormant", subject.clone(), format!("{} for {} days without a sign-in", holder.role, survey.days));
        }
        if let Some(less) = holder.would_do {
            let detail =
                format!("holds {}; what it did in {} days takes no more than {less}", holder.role, survey.days);
            add("role-unused", subject.clone(), detail);
        }
        if let Some(giver) = &holder.given_by
            && is_one_owner(giver, &holder.principal)
            && role_of(giver).is_some_and(|own| own > holder.role && own != holder.role)
        {
            add("self-given", subject.clone(), format!("{giver} gave it to himself: {}", holder.role));
        }
        if holder.has_second_person == Some(false) {
            let detail = format!("no other {} counts as a second person beside it", holder.role);
            add("no-second-person", subject, detail);
        }
    }
    for grant in &survey.grants {
        let subject = format!("{} {}", grant.plugin, grant.capability);
        if grant.state == Use::Unused {
            add("grant-unused", subject.clone(), format!("not used for {} days", survey.days));
        }
        if let (Some(by), Some(pusher)) = (&grant.fact.granted_by, &grant.pushed_by)
            && is_one_owner(by, pusher)
        {
            add("one-hand", subject, format!("pushed by {pusher} and granted by {by}, who are one person"));
        }
    }
    for held in &survey.elevations {
        let detail = format!("acts as {} until {}, allowed by {}", held.role, held.until, held.approved_by);
        add("elevation-open", held.principal.to_string(), detail);
        if is_one_owner(&held.principal, &held.approved_by) {
            let detail = format!("{} allowed it to himself: {}", held.approved_by, held.role);
            add("self-given", held.principal.to_string(), detail);
        }
    }
    all.extend(labelled::findings(&survey.labelled, survey.days, is_one_owner));
    all
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const DAY: i64 = 86_400;

    pub(in crate::access) fn at(day: i64) -> Option<Timestamp> {
        Some(Timestamp::from_second(day * DAY).unwrap())
    }

    fn judged(last: Option<Timestamp>, given: Option<Timestamp>, since: Option<Timestamp>) -> Use {
        Use::of(last, given, since, at(100).unwrap())
    }

    #[test]
    fn what_was_not_watched_for_the_whole_period_is_unknown_and_never_unused() {
        assert_eq!(judged(None, None, None), Use::Unknown);
        assert_eq!(judged(None, at(1), at(101)), Use::Unknown);
        assert_eq!(judged(None, at(1), at(99)), Use::Unused);
        assert_eq!(judged(None, None, at(99)), Use::Unused);
    }

    #[test]
    fn a_use_within_the_period_counts_up_to_the_end_of_its_hour() {
        assert_eq!(judged(at(150), at(1), None), Use::Used);
        assert_eq!(judged(at(50), at(1), at(1)), Use::Unused);
        let hour = Timestamp::from_second(100 * DAY - LAST_USE_SECONDS + 1).ok();
        assert_eq!(judged(hour, at(1), at(1)), Use::Used);
    }

    #[test]
    fn what_was_given_within_the_period_is_new() {
        assert_eq!(judged(None, at(120), at(1)), Use::New);
        assert_eq!(judged(at(130), at(120), at(1)), Use::Used);
    }

    #[test]
    fn a_smaller_role_is_named_when_it_allows_all_that_was_done() {
        let roles = smaller_roles().unwrap();
        let done = |words: &[&'static str]| words.iter().copied().collect::<BTreeSet<&str>>();
        assert_eq!(would_do(Role::TenantAdmin, &done(&["push-version", "read-logs"]), &roles), Some(Role::Developer));
        assert_eq!(would_do(Role::TenantAdmin, &done(&["read-audit"]), &roles), Some(Role::Auditor));
        assert_eq!(would_do(Role::TenantAdmin, &done(&["create-token"]), &roles), None);
        assert_eq!(would_do(Role::Developer, &done(&["send-message"]), &roles), Some(Role::Caller));
        assert_eq!(would_do(Role::Caller, &done(&[]), &roles), None);
        assert_eq!(would_do(Role::Operator, &done(&[]), &roles), None);
    }

    pub(in crate::access) fn holder(principal: &str, role: Role, given_by: &str) -> Holder {
        Holder {
            kind: "api-key",
            key: Some("k".to_owned()),
            name: None,
            principal: principal.parse().unwrap(),
            role,
            given_by: Some(given_by.parse().unwrap()),
            given_at: at(1),
            used_at: None,
            state: Use::Unknown,
            would_do: None,
            has_second_person: None,
        }
    }

    #[test]
    fn a_wider_role_that_somebody_gave_himself_is_found_and_an_equal_one_is_not() {
        let mut survey = Survey {
            now: at(200).unwrap(),
            days: 90,
            since: None,
            holders: vec![
                holder("acme/dev", Role::Developer, "acme/admin"),
                holder("acme/dev2", Role::TenantAdmin, "acme/dev"),
            ],
            grants: Vec::new(),
            elevations: Vec::new(),
            labelled: Vec::new(),
        };
        let one = |one: &PrincipalId, other: &PrincipalId| {
            one.as_str().starts_with("acme/dev") == other.as_str().starts_with("acme/dev")
        };
        let found = findings(&survey, one);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].kind.as_str(), found[0].subject.as_str()), ("self-given", "acme/dev2 k"));
        survey.holders[1].role = Role::Developer;
        assert!(findings(&survey, one).is_empty());
    }
}
