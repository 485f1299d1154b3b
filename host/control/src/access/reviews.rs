//! Access reviews: `/tenants/{t}/access/reviews`. Opened by a tenant-admin over what there is at that moment, decided item by
//! item, closed, taken away as a document.
//!
//! Must never revoke in another way than the endpoint that is made for it: with its own permit, its own entry on the audit
//! log, and in force for the next request.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::{Path, State};
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use ringfence_audit::{Log, codes};
use ringfence_core::proof::act;
use ringfence_core::{Permit, PrincipalId, Resource, ReviewId, Role, TenantId};
use ringfence_identity::Identity;
use ringfence_store::{Op, TenantStore};
use serde_json::json;

use super::campaign::{
    About, Campaign, Choice, Conflict, DAYS_MAX, Decision, ITEMS_COUNT_MAX, Item, Overdue, Persons,
    REVIEWERS_COUNT_MAX, REVIEWS_COUNT_MAX, Turn, head_key, heads_key, item_key, items_key,
};
use super::facts::scan;
use super::report::{DAYS_DEFAULT, Survey, Use, days};
use crate::Control;
use crate::call::Call;
use crate::extract::JsonBody;
use crate::policies::checked_words;
use crate::problem::ApiError;
use crate::tokens::parse_role;
use crate::wire::{
    AccessReviewView, DecideItem, NewReview, Page, Problem, ReviewDecision, ReviewDetail, ReviewExport, ReviewItemView,
};

/// Changes written together.
const OPS_COUNT: usize = 200;

/// What is asked for, checked.
struct Plan {
    title: String,
    reviewers: Vec<PrincipalId>,
    due_at: Timestamp,
    overdue: Overdue,
    of: BTreeSet<Kind>,
    roles: Vec<Role>,
    /// Only what was not seen used for so many days.
    unused_days: Option<u32>,
}

/// What can be reviewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    People,
    Keys,
    Grants,
    Elevations,
    Labels,
}

const KINDS: [(&str, Kind); 5] = [
    ("people", Kind::People),
    ("keys", Kind::Keys),
    ("grants", Kind::Grants),
    ("elevations", Kind::Elevations),
    ("labels", Kind::Labels),
];

impl Persons for Identity {
    fn are_one(&self, one: &PrincipalId, other: &PrincipalId) -> bool {
        self.is_one_owner(one, other)
    }
    fn are_two(&self, one: &PrincipalId, other: &PrincipalId) -> bool {
        self.is_second_person(one, other)
    }
}

/// Opens an access review over what people, keys and plugins hold now, roles by label among it.
#[utoipa::path(post, path = "/tenants/{tenant}/access/reviews", tag = "access", request_body = NewReview,
    responses((status = 201, body = AccessReviewView), (status = "default", body = Problem)))]
pub async fn open(
    State(control): State<Control>,
    call: Call,
    Path(tenant): Path<String>,
    JsonBody(new): JsonBody<NewReview>,
) -> Result<(StatusCode, Json<AccessReviewView>), ApiError> {
    let reached = control.reach_tenant::<act::ApproveChange>(&call, &tenant).await?;
    let (tenant, store) = (reached.tenant, reached.store);
    let now = control.parts.clock.now();
    let plan = plan(&tenant, new, now)?;
    control.check_reviewers(&tenant, &plan.reviewers)?;
    if plan.overdue == Overdue::Revoke {
        control.may_revoke_later(&call, &tenant, &plan).await?;
    }
    let survey = control.survey(&call, Some(&tenant), &store, plan.unused_days.unwrap_or(DAYS_DEFAULT)).await?;
    let items = items(&plan, survey);
    if items.is_empty() || items.len() > ITEMS_COUNT_MAX {
        let count = items.len();
        let text = format!("a review has 1 to {ITEMS_COUNT_MAX} items, and this one would have {count}");
        return Err(ApiError::new("bad-review", text));
    }
    let warnings = control.undecidable(&plan, &items)?;
    let campaign = Campaign {
        id: ReviewId::random(&*control.parts.entropy),
        title: plan.title,
        opened_by: call.principal.id().clone(),
        opened_at: now,
        due_at: plan.due_at,
        overdue: plan.overdue,
        reviewers: plan.reviewers,
        items_count: items.len(),
        closed_at: None,
        closed_by: None,
        due_done: false,
    };
    let details = json!({
        "review": campaign.id, "items": campaign.items_count, "due_at": campaign.due_at.to_string(),
        "overdue": campaign.overdue, "reviewers": campaign.reviewers,
    });
    let log = Log::Tenant(store.clone());
    control
        .bracket(&call, &log, reached.permit, codes::REVIEW_OPENED, details, async |_permit| {
            let _one = control.access.0.deciding.of(tenant.clone()).await;
            make_room(&store).await?;
            keep(&store, &campaign, &items).await
        })
        .await?;
    control.access.0.opened.notify_one();
    Ok((StatusCode::CREATED, Json(AccessReviewView { warnings, ..view(&campaign, &items, now) })))
}

/// Lists access reviews, newest first: all of them to who may list keys, else those that the caller reviews.
#[utoipa::path(get, path = "/tenants/{tenant}/access/reviews", tag = "access",
    responses((status = 200, body = Page<AccessReviewView>), (status = "default", body = Problem)))]
pub async fn list(
    State(control): State<Control>,
    call: Call,
    Path(tenant): Path<String>,
) -> Result<Json<Page<AccessReviewView>>, ApiError> {
    let reached = control.reach_tenant::<act::ReviewAccess>(&call, &tenant).await?;
    let now = control.parts.clock.now();
    let mut all = heads(&reached.store).await?;
    all.retain(|campaign| control.may_see(&call, &reached.tenant, campaign));
    all.sort_by(|a, b| (b.opened_at, b.id.as_str()).cmp(&(a.opened_at, a.id.as_str())));
    let mut found = Vec::new();
    for campaign in all {
        let items = items_of(&reached.store, &campaign.id).await?;
        found.push(view(&campaign, &items, now));
    }
    Ok(Json(Page { items: found, cursor: None }))
}

/// Reads an access review with its items.
#[utoipa::path(get, path = "/tenants/{tenant}/access/reviews/{review}", tag = "access",
    responses((status = 200, body = ReviewDetail), (status = "default", body = Problem)))]
pub async fn read(
    State(control): State<Control>,
    call: Call,
    Path((tenant, review)): Path<(String, String)>,
) -> Result<Json<ReviewDetail>, ApiError> {
    let reached = control.reach_tenant::<act::ReviewAccess>(&call, &tenant).await?;
    let campaign = control.seen(&call, &reached.tenant, &reached.store, &review).await?;
    let items = items_of(&reached.store, &campaign.id).await?;
    let review = view(&campaign, &items, control.parts.clock.now());
    Ok(Json(ReviewDetail { review, items: items.into_iter().map(item_view).collect() }))
}

/// The result of an access review as one document, with the head of the audit log that has its decisions.
#[utoipa::path(get, path = "/tenants/{tenant}/access/reviews/{review}/export", tag = "access",
    responses((status = 200, body = ReviewExport), (status = "default", body = Problem)))]
pub async fn export(
    State(control): State<Control>,
    call: Call,
    Path((tenant, review)): Path<(String, String)>,
) -> Result<Json<ReviewExport>, ApiError> {
    let reached = control.reach_tenant::<act::ReviewAccess>(&call, &tenant).await?;
    let campaign = control.seen(&call, &reached.tenant, &reached.store, &review).await?;
    let items = items_of(&reached.store, &campaign.id).await?;
    let now = control.parts.clock.now();
    let head = control.parts.audit.checkpoint(&Log::Tenant(reached.store)).await?;
    Ok(Json(ReviewExport {
        exported_at: now.to_string(),
        tenant: reached.tenant.to_string(),
        review: view(&campaign, &items, now),
        items: items.into_iter().map(item_view).collect(),
        log: head.origin,
        checkpoint: head.text,
    }))
}

/// Decides an item: it stays, it goes now, or a tenant-admin is to decide. Nobody decides about himself.
#[utoipa::path(put, path = "/tenants/{tenant}/access/reviews/{review}/items/{item}", tag = "access",
    request_body = DecideItem, responses((status = 200, body = ReviewItemView), (status = "default", body = Problem)))]
pub async fn decide(
    State(control): State<Control>,
    call: Call,
    Path((tenant, review, item)): Path<(String, String, String)>,
    JsonBody(asked): JsonBody<DecideItem>,
) -> Result<Json<ReviewItemView>, ApiError> {
    let reached = control.reach_tenant::<act::ReviewAccess>(&call, &tenant).await?;
    let (tenant, store) = (reached.tenant, reached.store);
    let choice = match asked.choice.as_str() {
        "keep" => Choice::Keep,
        "revoke" => Choice::Revoke,
        "escalate" => Choice::Escalate,
        _ => return Err(ApiError::new("bad-review", "`choice` is keep, revoke or escalate")),
    };
    let reason = checked_words(asked.reason, "reason")?;
    let number: u64 = item.parse().map_err(|_| ApiError::not_found())?;
    // The review is read in one's turn: it may be closed while others have theirs.
    let _one = control.access.0.deciding.of(tenant.clone()).await;
    let campaign = control.seen(&call, &tenant, &store, &review).await?;
    let item: Item = store.get_json(&item_key(&campaign.id, number)).await?.ok_or_else(ApiError::not_found)?;
    control.may_decide(&call, &tenant, &campaign, &item).await?;
    match item.conflict(call.principal.id(), choice, &control.parts.identity) {
        None => {}
        Some(Conflict::NoSecondPerson) => return Err(ApiError::second_person_needed()),
        Some(Conflict::Own) => {
            return Err(ApiError::new(
                "own-review",
                "nobody decides about himself, what he gave, or what he escalated",
            )
            .help("another reviewer of the same review, or a tenant-admin once it is escalated"));
        }
    }
    let decided = control.decide_item(&call, (&tenant, &store), reached.permit, &campaign, item, (choice, reason));
    Ok(Json(item_view(decided.await?)))
}

/// Closes an access review; what was not decided stays so.
#[utoipa::path(post, path = "/tenants/{tenant}/access/reviews/{review}/close", tag = "access",
    responses((status = 200, body = AccessReviewView), (status = "default", body = Problem)))]
pub async fn close(
    State(control): State<Control>,
    call: Call,
    Path((tenant, review)): Path<(String, String)>,
) -> Result<Json<AccessReviewView>, ApiError> {
    let reached = control.reach_tenant::<act::ApproveChange>(&call, &tenant).await?;
    let (tenant, store) = (reached.tenant, reached.store);
    let campaign = head(&store, &review).await?;
    if campaign.closed_at.is_some() {
        return Err(closed());
    }
    let items = items_of(&store, &campaign.id).await?;
    let open = items.iter().filter(|item| item.turn() != Turn::Nobody).count();
    let details = json!({ "review": campaign.id, "open": open });
    let log = Log::Tenant(store.clone());
    let campaign = control
        .bracket(&call, &log, reached.permit, codes::REVIEW_CLOSED, details, async |permit| {
            let _one = control.access.0.deciding.of(tenant.clone()).await;
            let mut campaign = head(&store, &review).await?;
            campaign.closed_at.get_or_insert(control.parts.clock.now());
            campaign.closed_by.get_or_insert(permit.principal().clone());
            store.put_json(&head_key(&campaign.id), &campaign).await?;
            Ok(campaign)
        })
        .await?;
    Ok(Json(view(&campaign, &items, control.parts.clock.now())))
}

impl Control {
    /// Writes a decision down, carries it out when it takes something away, and says what became of the item. The caller has
    /// checked that it may be decided, and holds the turn to decide.
    pub(super) async fn decide_item(
        &self,
        call: &Call,
        (tenant, store): (&TenantId, &TenantStore),
        permit: Permit<act::ReviewAccess>,
        campaign: &Campaign,
        mut item: Item,
        (choice, reason): (Choice, String),
    ) -> Result<Item, ApiError> {
        let details = json!({
            "review": campaign.id, "item": item.number, "choice": choice, "what": item.about,
            "holder": item.holder, "reason": reason,
        });
        let key = item_key(&campaign.id, item.number);
        let at_once = matches!(item.about, About::Label { .. });
        self.bracket(call, &Log::Tenant(store.clone()), permit, codes::REVIEW_DECIDED, details, async |permit| {
            item.decisions.push(Decision {
                choice,
                reason,
                by: permit.principal().clone(),
                at: self.parts.clock.now(),
                request: Some(call.request.clone()),
                done: choice != Choice::Revoke || at_once,
            });
            if let (Choice::Revoke, About::Label { principal, role }) = (choice, &item.about) {
                // The decision is written with the labels that it leaves: neither is there without the other.
                let decided = vec![Op::put_json(key, &item)?];
                self.take_role(call, (tenant, store), (principal, role), decided).await?;
                return Ok(item);
            }
            store.put_json(&key, &item).await?;
            if choice == Choice::Revoke {
                if let Err(error) = self.take_away(call, tenant, store, &item.about).await {
                    item.decisions.pop();
                    store.put_json(&key, &item).await?;
                    return Err(error);
                }
                // If this is not written any more, the next start finds that it is gone and says so.
                item.decisions.iter_mut().for_each(|decision| decision.done = true);
                store.put_json(&key, &item).await?;
            }
            Ok(item)
        })
        .await
    }

    /// Takes away what an item is about, as the endpoint made for it does. What is gone already is fine.
    pub(super) async fn take_away(
        &self,
        call: &Call,
        tenant: &TenantId,
        store: &TenantStore,
        about: &About,
    ) -> Result<(), ApiError> {
        let (log, resource) = (Log::Tenant(store.clone()), Resource::Tenant { tenant: tenant.clone() });
        let gone = match about {
            About::Person { name, .. } => {
                let permit = self.reach::<act::RevokeToken>(call, resource).await?.permit;
                self.remove_person(call, permit, log, Some(tenant), name.as_str()).await.map(drop)
            }
            About::ApiKey { id, .. } => {
                let permit = self.reach::<act::RevokeToken>(call, resource).await?.permit;
                self.revoke_token(call, permit, log, Some(tenant), id).await.map(drop)
            }
            About::Grant { plugin, capability, .. } => {
                let resource = Resource::Plugin { tenant: tenant.clone(), plugin: plugin.clone() };
                let permit = self.reach::<act::GrantCapability>(call, resource).await?.permit;
                self.revoke_grant(call, permit, store, plugin, *capability).await.map(drop)
            }
            About::Elevation { id, .. } => {
                let permit = self.reach::<act::ApproveChange>(call, resource).await?.permit;
                self.end_elevation(call, permit, (tenant, store), id).await
            }
            About::Label { principal, role } => {
                self.take_role(call, (tenant, store), (principal, role), Vec::new()).await
            }
        };
        match gone {
            Err(error) if matches!(error.code, "not-found" | "plugin-not-found") => Ok(()),
            other => other,
        }
    }

    /// Whether somebody may see a review at all; to others it does not exist.
    fn may_see(&self, call: &Call, tenant: &TenantId, campaign: &Campaign) -> bool {
        let resource = Resource::Tenant { tenant: tenant.clone() };
        campaign.reviewers.contains(call.principal.id())
            || self.parts.policy.permit_from::<act::ListTokens>(&call.principal, call.peer, &resource).is_ok()
    }

    async fn seen(&self, call: &Call, tenant: &TenantId, store: &TenantStore, id: &str) -> Result<Campaign, ApiError> {
        let none = || ApiError::not_found().help("those that you review or may see:  ringfence access review list");
        match head(store, id).await {
            Ok(campaign) if self.may_see(call, tenant, &campaign) => Ok(campaign),
            Ok(_) => Err(none()),
            Err(error) if error.code == "not-found" => Err(none()),
            Err(error) => Err(error),
        }
    }

    /// Whether it is the caller's turn with an item.
    async fn may_decide(
        &self,
        call: &Call,
        tenant: &TenantId,
        campaign: &Campaign,
        item: &Item,
    ) -> Result<(), ApiError> {
        if campaign.closed_at.is_some() {
            return Err(closed());
        }
        match item.turn() {
            Turn::Nobody => Err(ApiError::new("conflict", "this item is decided")),
            Turn::Admin => {
                let resource = Resource::Tenant { tenant: tenant.clone() };
                self.reach::<act::ApproveChange>(call, resource).await.map(drop)
            }
            Turn::Reviewer if campaign.reviewers.contains(call.principal.id()) => Ok(()),
            Turn::Reviewer => {
                Err(ApiError::new("not-reviewer", format!("`{}` is no reviewer of this", call.principal.id())))
            }
        }
    }

    /// Refuses reviewers who are nobody here: what a slip of the pen is to decide, nobody decides.
    fn check_reviewers(&self, tenant: &TenantId, reviewers: &[PrincipalId]) -> Result<(), ApiError> {
        match reviewers.iter().find(|reviewer| !self.parts.identity.is_anybody(Some(tenant), reviewer)) {
            None => Ok(()),
            Some(nobody) => {
                let text = format!("reviewer `{nobody}` is nobody here: no person, no live key, and never signed in");
                Err(ApiError::new("bad-review", text).help("ringfence person list"))
            }
        }
    }

    /// What is to be said of items that are all their reviewers' own. Refuses to have such revoked because nobody may decide them.
    fn undecidable(&self, plan: &Plan, items: &[Item]) -> Result<Vec<String>, ApiError> {
        let identity = &self.parts.identity;
        let mut own = items.iter().filter(|item| !item.is_for_any(&plan.reviewers, identity)).peekable();
        let Some(first) = own.peek().map(|item| item_view((*item).clone())) else { return Ok(Vec::new()) };
        let text = format!(
            "{} of the items can be decided by none of the reviewers, for nobody decides about himself; the first is {} ({})",
            own.count(),
            first.number,
            first.what
        );
        if plan.overdue == Overdue::Revoke {
            let text = format!("{text}; it would be revoked on the last day");
            return Err(ApiError::new("bad-review", text).help("name another reviewer as well"));
        }
        Ok(vec![format!("{text}; name another reviewer as well")])
    }

    /// Whether who opens a review may have its rest revoked: he can be asked for later, and may do each of it now.
    async fn may_revoke_later(&self, call: &Call, tenant: &TenantId, plan: &Plan) -> Result<(), ApiError> {
        if self.parts.identity.absent(tenant, call.principal.id()).is_none() {
            let text =
                "what is left is revoked in the name of who opens the review, who must have a key or be a person here";
            return Err(ApiError::new("bad-review", text));
        }
        let resource = || Resource::Tenant { tenant: tenant.clone() };
        if plan.of.contains(&Kind::People) || plan.of.contains(&Kind::Keys) {
            let _may = self.reach::<act::RevokeToken>(call, resource()).await?.permit;
        }
        if plan.of.contains(&Kind::Grants) {
            let _may = self.reach::<act::GrantCapability>(call, resource()).await?.permit;
        }
        if plan.of.contains(&Kind::Labels) {
            let _may = self.reach::<act::WritePolicy>(call, resource()).await?.permit;
        }
        Ok(())
    }
}

fn plan(tenant: &TenantId, new: NewReview, now: Timestamp) -> Result<Plan, ApiError> {
    let bad = |text: String| ApiError::new("bad-review", text);
    let due_at: Timestamp = new.due_at.parse().map_err(|_| bad("`due_at` is a time of RFC 3339".to_owned()))?;
    let latest = now.checked_add(SignedDuration::from_hours(DAYS_MAX * 24)).unwrap_or(Timestamp::MAX);
    if due_at <= now || due_at > latest {
        return Err(bad(format!("`due_at` is within the next {DAYS_MAX} days")));
    }
    let overdue = match new.overdue.as_deref() {
        None | Some("report") => Overdue::Report,
        Some("revoke") => Overdue::Revoke,
        Some(_) => return Err(bad("`overdue` is report or revoke".to_owned())),
    };
    let mut reviewers = new.reviewers.iter().map(|name| name.parse()).collect::<Result<Vec<PrincipalId>, _>>()?;
    reviewers.sort();
    reviewers.dedup();
    let here = format!("{tenant}/");
    if reviewers.is_empty()
        || reviewers.len() > REVIEWERS_COUNT_MAX
        || !reviewers.iter().all(|reviewer| reviewer.as_str().starts_with(&here))
    {
        return Err(bad(format!("`reviewers` are 1 to {REVIEWERS_COUNT_MAX} principals such as `{tenant}/ann`")));
    }
    let kind = |word: &String| KINDS.iter().find(|(known, _)| known == word).map(|(_, kind)| *kind);
    let of: Option<BTreeSet<Kind>> = match new.of.is_empty() {
        true => Some(KINDS.into_iter().map(|(_, kind)| kind).collect()),
        false => new.of.iter().map(kind).collect(),
    };
    Ok(Plan {
        title: checked_words(new.title, "title")?,
        reviewers,
        due_at,
        overdue,
        of: of.ok_or_else(|| bad("`of` has people, keys, grants, elevations or labels".to_owned()))?,
        roles: new.roles.iter().map(|role| parse_role(role, true)).collect::<Result<_, _>>()?,
        unused_days: new.unused_days.map(|asked| days(Some(asked))).transpose()?,
    })
}

/// What there is to decide, in the order of the report.
fn items(plan: &Plan, survey: Survey) -> Vec<Item> {
    let fits = |state: Use| plan.unused_days.is_none() || matches!(state, Use::Unused | Use::Unknown);
    let role_fits = |role: Role| plan.roles.is_empty() || plan.roles.contains(&role);
    let mut found = Vec::new();
    let mut add = |about, holder, given_by, used_at, state: &str| {
        let number = u64::try_from(found.len()).unwrap_or(u64::MAX);
        found.push(Item { number, about, holder, given_by, used_at, state: state.to_owned(), decisions: Vec::new() });
    };
    for holder in survey.holders {
        let about = match (holder.kind, holder.name, holder.key) {
            ("person", Some(name), _) if plan.of.contains(&Kind::People) => About::Person { name, role: holder.role },
            ("api-key", Some(name), Some(id)) if plan.of.contains(&Kind::Keys) => {
                About::ApiKey { id, name, role: holder.role }
            }
            // Who is known from elsewhere has nothing here that could be taken away one by one.
            _ => continue,
        };
        if fits(holder.state) && role_fits(holder.role) {
            add(about, Some(holder.principal), holder.given_by, holder.used_at, holder.state.as_str());
        }
    }
    for grant in survey.grants {
        if plan.of.contains(&Kind::Grants) && fits(grant.state) {
            let about = About::Grant { plugin: grant.plugin, capability: grant.capability, scope: grant.scope };
            add(about, None, grant.fact.granted_by, grant.fact.used_at, grant.state.as_str());
        }
    }
    for held in survey.elevations {
        if plan.of.contains(&Kind::Elevations) && role_fits(held.role) {
            let about = About::Elevation { id: held.id.to_string(), role: held.role, until: held.until };
            add(about, Some(held.principal), Some(held.approved_by), None, Use::Used.as_str());
        }
    }
    for one in survey.labelled {
        if plan.of.contains(&Kind::Labels) && plan.roles.is_empty() && fits(one.state) {
            let holder = (!one.is_a_plugins()).then(|| one.principal.clone());
            let about = About::Label { principal: one.principal, role: one.role };
            add(about, holder, one.given.map(|given| given.by), one.used_at, one.state.as_str());
        }
    }
    found
}

/// The oldest closed review gives way to a new one.
async fn make_room(store: &TenantStore) -> Result<(), ApiError> {
    let all = heads(store).await?;
    if all.len() < REVIEWS_COUNT_MAX {
        return Ok(());
    }
    let closed = all.into_iter().filter(|campaign| campaign.closed_at.is_some());
    let Some(oldest) = closed.min_by_key(|campaign| campaign.closed_at) else {
        return Err(ApiError::new("conflict", format!("{REVIEWS_COUNT_MAX} reviews are open; close some first")));
    };
    store.delete(&head_key(&oldest.id)).await?;
    let items: Vec<(_, Item)> = scan(store, &items_key(&oldest.id)).await?;
    for some in items.chunks(OPS_COUNT) {
        store.batch(some.iter().map(|(key, _)| Op::delete(key.clone())).collect(), Vec::new()).await?;
    }
    Ok(())
}

/// Writes a review: its head last, so that half of it is none.
async fn keep(store: &TenantStore, campaign: &Campaign, items: &[Item]) -> Result<(), ApiError> {
    for some in items.chunks(OPS_COUNT) {
        let ops = some.iter().map(|item| Op::put_json(item_key(&campaign.id, item.number), item));
        store.batch(ops.collect::<Result<_, _>>()?, Vec::new()).await?;
    }
    store.put_json(&head_key(&campaign.id), campaign).await?;
    Ok(())
}

pub(super) async fn heads(store: &TenantStore) -> Result<Vec<Campaign>, ApiError> {
    Ok(scan(store, &heads_key()).await?.into_iter().map(|(_, campaign)| campaign).collect())
}

pub(super) async fn head(store: &TenantStore, id: &str) -> Result<Campaign, ApiError> {
    let id: ReviewId = id.parse().map_err(|_| ApiError::not_found())?;
    store.get_json(&head_key(&id)).await?.ok_or_else(ApiError::not_found)
}

pub(super) async fn items_of(store: &TenantStore, id: &ReviewId) -> Result<Vec<Item>, ApiError> {
    let mut items: Vec<Item> = scan(store, &items_key(id)).await?.into_iter().map(|(_, item)| item).collect();
    items.sort_by_key(|item| item.number);
    Ok(items)
}

fn closed() -> ApiError {
    ApiError::new("review-closed", "this review is closed")
}

fn view(campaign: &Campaign, items: &[Item], now: Timestamp) -> AccessReviewView {
    let last = |choice: Choice| {
        items.iter().filter(|item| item.decisions.last().is_some_and(|last| last.choice == choice)).count()
    };
    let open_count = items.iter().filter(|item| item.turn() == Turn::Reviewer).count();
    let (kept_count, revoked_count, escalated_count) =
        (last(Choice::Keep), last(Choice::Revoke), last(Choice::Escalate));
    AccessReviewView {
        id: campaign.id.to_string(),
        title: campaign.title.clone(),
        state: campaign.state(open_count + escalated_count, now).to_owned(),
        opened_by: campaign.opened_by.to_string(),
        opened_at: campaign.opened_at.to_string(),
        due_at: campaign.due_at.to_string(),
        overdue: crate::host::word(&campaign.overdue),
        reviewers: campaign.reviewers.iter().map(ToString::to_string).collect(),
        items_count: campaign.items_count,
        kept_count,
        revoked_count,
        escalated_count,
        open_count,
        closed_at: campaign.closed_at.map(|at| at.to_string()),
        closed_by: campaign.closed_by.as_ref().map(ToString::to_string),
        warnings: Vec::new(),
    }
}

fn item_view(item: Item) -> ReviewItemView {
    let holder = item.holder.as_ref().map(ToString::to_string);
    let who = holder.clone().unwrap_or_default();
    let (kind, what) = match &item.about {
        About::Person { role, .. } => ("person", format!("{who} as {role}")),
        About::ApiKey { id, role, .. } => ("api-key", format!("key {id} of {who} as {role}")),
        About::Grant { plugin, capability, scope } => {
            ("grant", format!("{plugin} may use {capability} {}", scope.join(" ")).trim_end().to_owned())
        }
        About::Elevation { role, until, .. } => ("elevation", format!("{who} acts as {role} until {until}")),
        About::Label { principal, role } => ("label", format!("{principal} has the role {role} by label")),
    };
    ReviewItemView {
        number: item.number,
        kind: kind.to_owned(),
        what,
        holder,
        given_by: item.given_by.map(|by| by.to_string()),
        last_used_at: item.used_at.map(|at| at.to_string()),
        state: item.state,
        decisions: item
            .decisions
            .into_iter()
            .map(|decision| ReviewDecision {
                choice: crate::host::word(&decision.choice),
                reason: decision.reason,
                by: decision.by.to_string(),
                at: decision.at.to_string(),
                request: decision.request.map(|request| request.to_string()),
                done: decision.done,
            })
            .collect(),
    }
}
