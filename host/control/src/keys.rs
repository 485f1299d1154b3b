//! Keys: list, rotate, disable, enable, destroy. And the keeper, which seals anew after rotations, destroys what is due and
//! carries on deletions that are not over.
//!
//! Must never destroy a key that one person alone wants gone without a delay in which it can be undone, and never show anything of a key but its number, its state and
//! who wraps it. Acts on keys are on the operator's log: the tenant's own cannot be written while its keys are disabled.

use std::collections::BTreeMap;
use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use futures::FutureExt;
use jiff::{SignedDuration, Timestamp};
use ringfence_audit::{Event, Log, Outcome, codes};
use ringfence_core::proof::act;
use ringfence_core::{Action, PrincipalId, Resource, TenantId};
use ringfence_keys::{KeyVersion, Purpose};
use ringfence_store::{DeleteAsked, KeyStatus, OwnChange, ResealStep, Side, StoreError, TenantStore, Tenants, Watch};
use ringfence_threat::Scope;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};
use tokio::task::{AbortHandle, JoinSet};

use crate::Control;
use crate::call::{Call, Reached};
use crate::extract::JsonBody;
use crate::host::word;
use crate::problem::ApiError;
use crate::wire::{
    DestroyView, DisabledView, KeyVersionView, OwnKeyView, Problem, ResealView, RootKeyView, RootRotated, RotateKey,
    TenantKeyView,
};

/// Between two looks for something to do while nothing is told: the wall clock may have been set.
const REST: Duration = Duration::from_secs(10);
/// Between two looks while there is something that could not be done.
const RETRY: Duration = Duration::from_secs(1);
/// Between two questions to the providers of keys that tenants keep themselves.
const OWN_REST: Duration = Duration::from_secs(10);
/// LIMIT: providers of such keys asked at the same time; each call of one gives up after its own deadline.
const OWN_ASKED_COUNT_MAX: usize = 32;
/// Between two attempts to carry on deletions that are not over.
const DELETION_REST: Duration = Duration::from_secs(5);
/// Between two looks for versions of keys that nothing is sealed under any more.
const RETIRE_REST: Duration = Duration::from_secs(3_600);
/// Between two steps of sealing anew: at most 50 steps of 200 records a second, behind everything else that is written.
const STEP_REST: Duration = Duration::from_millis(20);

/// The root key and the keys of all tenants.
#[utoipa::path(get, path = "/keys", tag = "keys",
    responses((status = 200, body = RootKeyView), (status = "default", body = Problem)))]
pub async fn list(State(control): State<Control>, call: Call) -> Result<Json<RootKeyView>, ApiError> {
    let _permit = control.reach_host::<act::ReadKeys>(&call).await?;
    let root = control.parts.tenants.root();
    let mut tenants = Vec::new();
    for record in control.parts.tenants.list().await? {
        match control.parts.tenants.key_status(&record.id).await {
            Ok(status) => tenants.push(view(&record.id, status)),
            // Deleted in this moment, or its key file is lost: the others are worth listing.
            Err(error) => tracing::warn!(tenant = %record.id, %error, "the key of a tenant cannot be listed"),
        }
    }
    Ok(Json(RootKeyView {
        provider: root.scheme().to_owned(),
        id: root.id(),
        rotating: control.parts.tenants.is_root_rotating().await?,
        assurance: word(&root.assurance()),
        shredding: word(&root.shredding()),
        tenants,
    }))
}

/// Gives the root key a new version and wraps every key anew with it. Nothing stops meanwhile.
#[utoipa::path(post, path = "/keys/rotate", tag = "keys",
    responses((status = 200, body = RootRotated), (status = "default", body = Problem)))]
pub async fn rotate_root(State(control): State<Control>, call: Call) -> Result<Json<RootRotated>, ApiError> {
    let permit = control.reach_host::<act::RotateKeys>(&call).await?;
    let before = json!({ "before": control.parts.tenants.root().id() });
    let done = control
        .bracket(&call, &Log::Host, permit, codes::ROOT_KEY_ROTATED, before, async |_permit| {
            Ok(control.parts.tenants.rotate_root().await?)
        })
        .await?;
    Ok(Json(RootRotated {
        id: control.parts.tenants.root().id(),
        rewrapped_count: done.rewrapped_count as u64,
        failed: done.failed,
        over: done.is_over,
    }))
}

/// Reads the state of a tenant's key.
#[utoipa::path(get, path = "/tenants/{tenant}/keys", tag = "keys",
    responses((status = 200, body = TenantKeyView), (status = "default", body = Problem)))]
pub async fn read(
    State(control): State<Control>,
    call: Call,
    Path(tenant): Path<String>,
) -> Result<Json<TenantKeyView>, ApiError> {
    let reached = control.reach_keys::<act::ReadKeys>(&call, &tenant).await?;
    let status = control.parts.tenants.key_status(&reached.tenant).await?;
    Ok(Json(view(&reached.tenant, status)))
}

/// Gives a tenant's key a new version, for one purpose or all; what was stored is sealed anew in the background.
#[utoipa::path(post, path = "/tenants/{tenant}/keys/rotate", tag = "keys", request_body = RotateKey,
    responses((status = 200, body = TenantKeyView), (status = "default", body = Problem)))]
pub async fn rotate(
    State(control): State<Control>,
    call: Call,
    Path(tenant): Path<String>,
    JsonBody(asked): JsonBody<RotateKey>,
) -> Result<Json<TenantKeyView>, ApiError> {
    let reached = control.reach_tenant::<act::RotateKeys>(&call, &tenant).await?;
    let purpose = asked.purpose.as_deref().map(purpose).transpose()?;
    let tenants = &control.parts.tenants;
    let details = json!({ "tenant": reached.tenant.as_str(), "purpose": asked.purpose });
    let id = reached.tenant;
    let status = control
        .bracket(&call, &Log::Host, reached.permit, codes::KEY_ROTATED, details, async |_permit| {
            Ok(tenants.rotate_key(&id, purpose).await?)
        })
        .await?;
    Ok(Json(view(&id, status)))
}

/// Disables a tenant's keys: everything that needs them is refused from the next request on. Nothing is lost.
#[utoipa::path(post, path = "/tenants/{tenant}/keys/disable", tag = "keys",
    responses((status = 200, body = TenantKeyView), (status = "default", body = Problem)))]
pub async fn disable(
    State(control): State<Control>,
    call: Call,
    Path(tenant): Path<String>,
) -> Result<Json<TenantKeyView>, ApiError> {
    let reached = control.reach_keys::<act::DisableKeys>(&call, &tenant).await?;
    let (who, side) = (call.principal.id().to_string(), side(&call));
    let disabled = async |id: &TenantId| {
        let disabled = control.parts.tenants.disable_key(id, &who, side).await;
        control.parts.engine.forget_idle(id);
        disabled
    };
    control.change(&call, reached, codes::KEY_DISABLED, disabled).await
}

/// Enables a tenant's keys again, and withdraws a request to destroy them or to delete the tenant. What an operator disabled,
/// an operator enables.
#[utoipa::path(post, path = "/tenants/{tenant}/keys/enable", tag = "keys",
    responses((status = 200, body = TenantKeyView), (status = "default", body = Problem)))]
pub async fn enable(
    State(control): State<Control>,
    call: Call,
    Path(tenant): Path<String>,
) -> Result<Json<TenantKeyView>, ApiError> {
    let reached = control.reach_keys::<act::DisableKeys>(&call, &tenant).await?;
    let act = async |id: &TenantId| {
        let enabled = control.parts.tenants.enable_key(id, side(&call)).await?;
        control.tenant_unlocked(id).await;
        Ok::<_, StoreError>(enabled)
    };
    control.change(&call, reached, codes::KEY_ENABLED, act).await
}

/// Puts the key that the tenant keeps itself around its key: from then on nothing of it opens without its provider, whose
/// address the operator allowed. Again is fine, and takes the provider's newest version.
#[utoipa::path(put, path = "/tenants/{tenant}/keys/own", tag = "keys",
    responses((status = 200, body = TenantKeyView), (status = "default", body = Problem)))]
pub async fn take_own(
    State(control): State<Control>,
    call: Call,
    Path(tenant): Path<String>,
) -> Result<Json<TenantKeyView>, ApiError> {
    let reached = control.reach_keys::<act::RotateKeys>(&call, &tenant).await?;
    let act = async |id: &TenantId| control.parts.tenants.take_own_key(id).await;
    control.change(&call, reached, codes::OWN_KEY_TAKEN, act).await
}

/// Takes it away again. Its provider must open the key once more.
#[utoipa::path(delete, path = "/tenants/{tenant}/keys/own", tag = "keys",
    responses((status = 200, body = TenantKeyView), (status = "default", body = Problem)))]
pub async fn give_up_own(
    State(control): State<Control>,
    call: Call,
    Path(tenant): Path<String>,
) -> Result<Json<TenantKeyView>, ApiError> {
    let reached = control.reach_keys::<act::RotateKeys>(&call, &tenant).await?;
    let act = async |id: &TenantId| control.parts.tenants.give_up_own_key(id).await;
    control.change(&call, reached, codes::OWN_KEY_GIVEN_UP, act).await
}

/// Asks for a tenant's keys, and with them everything it stored, to be destroyed. Another operator must agree.
#[utoipa::path(post, path = "/tenants/{tenant}/keys/destroy", tag = "keys",
    responses((status = 200, body = TenantKeyView), (status = "default", body = Problem)))]
pub async fn destroy(
    State(control): State<Control>,
    call: Call,
    Path(tenant): Path<String>,
) -> Result<Json<TenantKeyView>, ApiError> {
    let reached = control.reach_keys::<act::DestroyKeys>(&call, &tenant).await?;
    control.parts.audit.check_not_held(&reached.store).await?;
    let who = call.principal.id().to_string();
    let asked = async |id: &TenantId| control.parts.tenants.ask_destroy(id, &who).await;
    control.change(&call, reached, codes::KEY_DESTROY_ASKED, asked).await.map_err(|error| match error.code {
        "exists" => ApiError::new("conflict", "somebody has asked for that already; another operator can agree"),
        _ => error,
    })
}

/// Agrees to the destruction that somebody else asked for: the keys are disabled now, and destroyed after the delay.
#[utoipa::path(post, path = "/tenants/{tenant}/keys/destroy/approve", tag = "keys",
    responses((status = 200, body = TenantKeyView), (status = "default", body = Problem)))]
pub async fn approve(
    State(control): State<Control>,
    call: Call,
    Path(tenant): Path<String>,
) -> Result<Json<TenantKeyView>, ApiError> {
    let reached = control.reach_keys::<act::DestroyKeys>(&call, &tenant).await?;
    control.parts.audit.check_not_held(&reached.store).await?;
    let who = call.principal.id().to_string();
    let due_at = control.destroy_due_at()?;
    let agreed = async |id: &TenantId| {
        let is_another = control.is_another(call.principal.id());
        let status = control.parts.tenants.approve_destroy(id, &who, due_at, &is_another).await?;
        control.parts.engine.forget_idle(id);
        status.ok_or(StoreError::Missing)
    };
    control.change(&call, reached, codes::KEY_DESTROY_APPROVED, agreed).await.map_err(|error| match error.code {
        "not-found" => ApiError::new("nothing-to-approve", "nobody has asked for the destruction of these keys")
            .help(format!("ringfence key destroy {tenant}")),
        "conflict" => ApiError::second_person_needed(),
        _ => error,
    })
}

impl Control {
    async fn reach_keys<A: Action>(&self, call: &Call, tenant: &str) -> Result<Reached<A>, ApiError> {
        let tenant: TenantId = tenant.parse().map_err(|_| ApiError::not_found())?;
        self.reach_closed(call, Resource::Tenant { tenant }).await
    }

    async fn change<A: Action>(
        &self,
        call: &Call,
        reached: Reached<A>,
        code: &'static str,
        effect: impl AsyncFnOnce(&TenantId) -> Result<KeyStatus, StoreError>,
    ) -> Result<Json<TenantKeyView>, ApiError> {
        let id = reached.tenant;
        let details = json!({ "tenant": id.as_str() });
        let act = async |_permit| Ok(effect(&id).await?);
        let status = self.bracket(call, &Log::Host, reached.permit, code, details, act).await?;
        Ok(Json(view(&id, status)))
    }

    /// When what is decided now about a tenant's destruction is done.
    fn destroy_due_at(&self) -> Result<Timestamp, ApiError> {
        let delay = SignedDuration::from_secs(self.parts.facts.destroy_delay_seconds.into());
        self.parts.clock.now().checked_add(delay).map_err(|error| ApiError::host(&error))
    }

    /// Whether the principal of a stored name can be another person beside this one now.
    fn is_another<'a>(&'a self, who: &'a PrincipalId) -> impl Fn(&str) -> bool + Send + Sync + 'a {
        move |name: &str| {
            name.parse::<PrincipalId>().is_ok_and(|other| self.parts.identity.is_second_person(&other, who))
        }
    }

    /// Deletes a tenant at once where two people among the operators want it or the host's delay is none; else writes down when
    /// it will be done, and says so.
    pub(crate) async fn delete_tenant(
        &self,
        actor: &PrincipalId,
        id: &TenantId,
        store: &TenantStore,
    ) -> Result<Option<TenantKeyView>, ApiError> {
        self.parts.audit.check_not_held(store).await?;
        if self.parts.facts.destroy_delay_seconds > 0 {
            let (due_at, is_another) = (self.destroy_due_at()?, self.is_another(actor));
            let asked = self.parts.tenants.ask_delete(id, actor.as_str(), due_at, &is_another).await?;
            if let DeleteAsked::Later(status) = asked {
                self.parts.engine.forget_idle(id);
                return Ok(Some(view(id, status)));
            }
        }
        self.destroy_tenant(actor, id, store).await?;
        Ok(None)
    }

    /// Destroys a tenant: its keys first, then everything that any room keeps of it. An entry of the operator's log and a signed
    /// receipt say so.
    pub(crate) async fn destroy_tenant(
        &self,
        actor: &PrincipalId,
        id: &TenantId,
        store: &TenantStore,
    ) -> Result<(), ApiError> {
        {
            let _one = self.changing.of(id.clone()).await;
            // Setting a hold takes the same lock.
            self.parts.audit.check_not_held(store).await?;
            // When it fails the tenant is whole, or somebody else was faster.
            self.parts.tenants.begin_destroy(id, actor.as_str(), &self.is_another(actor)).await?;
            // There is no way back: nobody reaches the tenant, and nothing of it may go on.
            self.forget_tenant(id, store).await;
        }
        // Not under the lock: a provider that does not answer takes its time. The name stays taken until it is over.
        self.parts.tenants.carry_on_deletion(id).await.map_err(|error| {
            tracing::error!(%error, tenant = %id, "the deletion of a tenant is not over yet; it is carried on");
            let detail =
                "nobody reaches the tenant any more, but not all of it is destroyed yet: that is tried until it is";
            ApiError { detail: detail.to_owned(), ..ApiError::from(error) }
        })?;
        if let Err(error) = self.write_owed_receipts().await {
            tracing::error!(%error, tenant = %id, "keys were destroyed, and the receipt is not written yet; it is tried again");
        }
        Ok(())
    }

    /// Lets go of what every room keeps of a tenant whose deletion was begun. Fine to call again.
    pub(crate) async fn forget_tenant(&self, id: &TenantId, store: &TenantStore) {
        self.parts.automation.close_tenant(store).await;
        self.parts.policy.remove_tenant(id);
        self.forget_quota(id);
        self.parts.registry.forget(id).await;
        self.parts.identity.forget_tenant(id).await;
        self.parts.threat.forget(id).await;
        self.parts.outward.forget(&Scope::Tenant(id.clone()));
        self.parts.logs.forget(id);
        self.parts.audit.forget(store).await;
    }
}

fn purpose(text: &str) -> Result<Purpose, ApiError> {
    match text.parse() {
        // Names are looked up by their bytes, so their key stays.
        Ok(Purpose::Name) | Err(()) => {
            let all: Vec<String> =
                Purpose::ALL.iter().filter(|known| **known != Purpose::Name).map(ToString::to_string).collect();
            Err(ApiError::new("bad-purpose", format!("`purpose` is one of {}", all.join(", "))))
        }
        Ok(purpose) => Ok(purpose),
    }
}

fn purpose_word(key: &KeyVersion) -> String {
    key.purpose.map_or_else(|| "all".to_owned(), |purpose| purpose.to_string())
}

fn side(call: &Call) -> Side {
    if call.principal.tenant().is_none() { Side::Operator } else { Side::Tenant }
}

fn view(id: &TenantId, status: KeyStatus) -> TenantKeyView {
    TenantKeyView {
        tenant: id.to_string(),
        state: word(&status.state),
        disabled: status.disabled.map(|disabled| DisabledView {
            by: disabled.by,
            side: word(&disabled.side),
            at: disabled.at.to_string(),
        }),
        versions: status
            .versions
            .iter()
            .map(|key| KeyVersionView { version: key.version, purpose: purpose_word(key), root: key.root.clone() })
            .collect(),
        shredding: word(&status.shredding),
        own: status.own.map(|own| OwnKeyView { id: own.id, opens: own.opens.is_ok() }),
        destroy: status.destroy.map(|request| DestroyView {
            asked_by: request.asked_by,
            asked_at: request.asked_at.to_string(),
            approved_by: request.approved_by,
            due_at: request.due_at.map(|at| at.to_string()),
        }),
        reseal: status.reseal.map(|reseal| ResealView {
            seen_count: reseal.seen_count,
            records_count: status.records_count,
            resealed_count: reseal.resealed_count,
            damaged_count: reseal.damaged_count,
            over: reseal.is_over(),
        }),
    }
}

// === the keeper ===

/// Asks the provider of a tenant's own key once there is a place, and closes or opens the tenant's keys as it answers.
async fn ask_own(tenants: Tenants, places: Arc<Semaphore>, id: TenantId) -> (TenantId, Option<OwnChange>) {
    let Ok(_place) = places.acquire().await else { return (id, None) };
    let change = tenants.tend_own_key(&id).await.unwrap_or_else(|error| {
        tracing::warn!(tenant = %id, %error, "the key that a tenant keeps itself could not be tended");
        None
    });
    (id, change)
}

/// Waits until something is wanted of keys, or a receipt is owed; for good where that is not told.
async fn until_told(told: &mut Result<[Watch; 2], StoreError>) {
    let Ok([wanted, owed]) = told else { return pending().await };
    let first = tokio::select! { event = wanted.next() => event, event = owed.next() => event };
    if first.is_err() {
        // The store is closed, and the host ends.
        return pending().await;
    }
    // One look is enough for all that waits.
    for watch in [wanted, owed] {
        while let Some(Ok(_)) = watch.next().now_or_never() {}
    }
}

/// Does what keys need done in the background.
pub struct KeyKeeper(Control);

impl KeyKeeper {
    /// A keeper over the control plane's rooms.
    pub fn new(control: Control) -> Self {
        Self(control)
    }

    /// Runs until told to stop.
    pub async fn run(self, stop: watch::Receiver<bool>) {
        tokio::join!(
            self.tend(stop.clone()),
            self.tend_own(stop.clone()),
            self.follow_lifted(stop.clone()),
            self.carry_on_deletions(stop.clone()),
            self.retire(stop)
        );
    }

    /// Goes on with deletions that failed half way or whose caller went away, until nothing is left of the tenants. Their
    /// receipts are made up for with the others that are owed.
    async fn carry_on_deletions(&self, mut stop: watch::Receiver<bool>) {
        let control = &self.0;
        loop {
            tokio::select! {
                () = tokio::time::sleep(DELETION_REST) => {}
                _ = stop.wait_for(|stopping| *stopping) => return,
            }
            for (id, _) in control.parts.tenants.deleting() {
                {
                    // Whoever begins one holds it, and is not waited for.
                    let Some(_one) = control.changing.try_of(id.clone()) else { continue };
                    // Asked again: it may be over by now, and the name another tenant's, which nobody makes under this lock.
                    let deleting = control.parts.tenants.deleting();
                    let Some((_, store)) = deleting.into_iter().find(|(other, _)| *other == id) else { continue };
                    if let Some(store) = store {
                        control.forget_tenant(&id, &store).await;
                    }
                }
                // Not under the lock: a provider that does not answer takes its time.
                match control.parts.tenants.carry_on_deletion(&id).await {
                    Ok(()) => tracing::info!(tenant = %id, "the deletion of a tenant was carried on and is over"),
                    Err(error) => tracing::warn!(tenant = %id, %error, "the deletion of a tenant is not over yet"),
                }
            }
        }
    }

    /// Lets go of versions of keys that nothing is sealed under any more, of the root key too.
    async fn retire(&self, mut stop: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(RETIRE_REST) => {}
                _ = stop.wait_for(|stopping| *stopping) => return,
            }
            // First: what is left of a restore keeps a rotation of the root key from ending.
            self.0.parts.tenants.discard_abandoned().await;
            if let Err(error) = self.0.parts.tenants.resume_root_rotation().await {
                tracing::warn!(%error, "a rotation of the root key is not over yet");
            }
            for record in self.0.parts.tenants.list().await.unwrap_or_default() {
                if let Err(error) = self.retire_of(&record.id).await {
                    tracing::warn!(tenant = %record.id, code = error.code, "old versions of a key are not forgotten yet");
                }
            }
        }
    }

    async fn retire_of(&self, id: &TenantId) -> Result<(), ApiError> {
        let control = &self.0;
        if control.parts.tenants.open_readable(id).is_none() {
            return Ok(());
        }
        let Some(retired) = control.parts.tenants.retire_key_versions(id).await? else { return Ok(()) };
        let mut event = Event::new(
            codes::KEY_VERSIONS_RETIRED,
            act::RotateKeys::NAME,
            control.parts.audit.actor(),
            format!("tenant/{id}"),
        );
        event.details = json!({ "tenant": id.as_str(), "versions": retired.versions, "kept": retired.kept });
        control.parts.audit.record(&Log::Host, event).await?;
        Ok(())
    }

    /// Looks after the keys that tenants keep themselves until told to stop. Each provider is asked by a task of its own and not
    /// again before it has answered: one that takes its time keeps nobody else waiting.
    async fn tend_own(&self, mut stop: watch::Receiver<bool>) {
        let places = Arc::new(Semaphore::new(OWN_ASKED_COUNT_MAX));
        let mut answers = JoinSet::<(TenantId, Option<OwnChange>)>::new();
        let mut asked = BTreeMap::<TenantId, AbortHandle>::new();
        loop {
            let mut rest = pin!(tokio::time::sleep(OWN_REST));
            loop {
                let answer = tokio::select! {
                    () = &mut rest => None,
                    Some(answer) = answers.join_next() => Some(answer),
                    _ = stop.wait_for(|stopping| *stopping) => return,
                };
                match answer {
                    None => break,
                    Some(Ok((id, Some(change)))) => self.own_changed(&id, change).await,
                    Some(_) => {}
                }
            }
            asked.retain(|_, task| !task.is_finished());
            let keepers = self.0.parts.tenants.own_keepers().await.unwrap_or_else(|error| {
                tracing::warn!(%error, "the keys that tenants keep themselves could not be tended");
                Vec::new()
            });
            for id in keepers {
                let task = ask_own(self.0.parts.tenants.clone(), Arc::clone(&places), id.clone());
                asked.entry(id).or_insert_with(|| answers.spawn(task));
            }
        }
    }

    /// Follows the ends of responses that disabled keys: nobody's call says that their tenants can work again.
    async fn follow_lifted(&self, mut stop: watch::Receiver<bool>) {
        loop {
            let lifted = tokio::select! {
                lifted = self.0.parts.threat.lifted() => lifted,
                _ = stop.wait_for(|stopping| *stopping) => return,
            };
            for id in &lifted {
                self.0.tenant_unlocked(id).await;
            }
        }
    }

    async fn own_changed(&self, id: &TenantId, change: OwnChange) {
        let control = &self.0;
        if change == OwnChange::Locked {
            control.parts.engine.forget_idle(id);
        } else if !control.tenant_unlocked(id).await {
            // The next turn tries again, and the entry is for the one that reads it.
            return;
        }
        let code = if change == OwnChange::Locked { codes::OWN_KEY_LOCKED } else { codes::OWN_KEY_OPENED };
        let mut event = Event::new(code, act::ReadKeys::NAME, control.parts.audit.actor(), format!("tenant/{id}"));
        event.details = json!({ "tenant": id.as_str() });
        if let Err(error) = control.parts.audit.record(&Log::Host, event).await {
            tracing::warn!(%error, tenant = %id, "what a tenant's own key provider says could not be written to the log");
        }
    }

    async fn tend(&self, mut stop: watch::Receiver<bool>) {
        // From before the first look: nothing falls between the two.
        let mut told = self.0.parts.tenants.watch_tended();
        if let Err(error) = &told {
            tracing::warn!(%error, "what is wanted of keys is not told, and is looked for every ten seconds");
        }
        loop {
            let rest = match self.turn().await {
                Ok(rest) => rest,
                Err(error) => {
                    tracing::warn!(%error, "keys could not be tended; trying again");
                    RETRY
                }
            };
            tokio::select! {
                () = tokio::time::sleep(rest) => {}
                // Steps of sealing anew tell of themselves, and keep their distance.
                () = until_told(&mut told), if rest > STEP_REST => {}
                _ = stop.wait_for(|stopping| *stopping) => return,
            }
        }
    }

    /// One look at everything; says how long to rest after it.
    async fn turn(&self) -> Result<Duration, StoreError> {
        let tenants = &self.0.parts.tenants;
        let tended = tenants.tended_keys().await?;
        let mut rest = tended.next_due_at.map_or(REST, |at| REST.min(self.0.until(at)));
        if !tended.due.is_empty() {
            rest = RETRY;
        }
        for (id, wanted_by) in tended.due {
            self.destroy(&id, &wanted_by).await;
        }
        for id in tended.resealing {
            match tenants.reseal_step(&id).await {
                Ok(ResealStep::More | ResealStep::PutOff) => rest = STEP_REST,
                Ok(ResealStep::Done) => tracing::info!(tenant = %id, "sealing anew is over"),
                Err(StoreError::KeyDisabled | StoreError::UnknownTenant | StoreError::Gone) => {}
                Err(error) => {
                    rest = rest.min(RETRY);
                    tracing::warn!(tenant = %id, %error, "a tenant's data is not sealed anew yet");
                }
            }
        }
        if !self.0.write_owed_receipts().await? {
            rest = rest.min(RETRY);
        }
        Ok(rest)
    }

    /// It was wanted, and the delay is over.
    async fn destroy(&self, id: &TenantId, wanted_by: &str) {
        let control = &self.0;
        let Some(store) = control.parts.tenants.open_tenant(id) else { return };
        let Ok(actor) = wanted_by.parse::<PrincipalId>() else { return };
        // While there is a legal hold it waits.
        if control.parts.audit.check_not_held(&store).await.is_err() {
            return;
        }
        let mut event =
            Event::new(codes::TENANT_DELETED, act::DestroyKeys::NAME, actor.clone(), format!("tenant/{id}"));
        event.details = json!({ "tenant": id.as_str() });
        let Ok(intent) = control.parts.audit.intent(&Log::Host, event).await else {
            // No entry, no effect; the next turn tries again.
            return;
        };
        let outcome = match control.destroy_tenant(&actor, id, &store).await {
            Ok(()) => Outcome::Success,
            Err(error) => Outcome::Failure(error.code.to_owned()),
        };
        if let Err(error) = intent.outcome(outcome, Value::Null).await {
            tracing::error!(%error, tenant = %id, "an outcome could not be written to the audit log");
        }
    }
}
