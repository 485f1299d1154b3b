//! What an access review promised for its last day: what nobody decided is reported, or revoked in the name of who opened it.
//!
//! Must never revoke what the opener may not revoke himself at that moment, nor a tenant's last admin: policy is asked
//! again, through the same doors, and what it refuses stays and is reported.

use jiff::Timestamp;
use ringfence_audit::{Event, Log, codes};
use ringfence_core::proof::act;
use ringfence_core::{Action, PrincipalId, RequestId, Resource, Role, TenantId};
use ringfence_store::TenantStore;
use serde_json::json;

use super::campaign::{About, Campaign, Choice, Item, Overdue, Turn, head_key, item_key};
use super::reviews::{head, heads, items_of};
use crate::Control;
use crate::call::Call;
use crate::problem::ApiError;

/// What stands for the reason of a decision that nobody took.
const REASON: &str = "nobody decided it by its last day, and the review says that it is revoked then";

impl Control {
    /// Looks after every review; when the next one is due.
    pub(super) async fn tend_reviews(&self) -> Option<Timestamp> {
        let mut next: Option<Timestamp> = None;
        for record in self.parts.tenants.list().await.unwrap_or_default() {
            let Some(store) = self.parts.tenants.open_tenant(&record.id) else { continue };
            if store.check_keys().is_err() {
                continue;
            }
            match self.tend_reviews_of(&record.id, &store).await {
                Ok(due) => next = next.into_iter().chain(due).min(),
                Err(error) => {
                    tracing::warn!(tenant = %record.id, code = error.code, "access reviews could not be looked after");
                }
            }
        }
        next
    }

    async fn tend_reviews_of(&self, tenant: &TenantId, store: &TenantStore) -> Result<Option<Timestamp>, ApiError> {
        let now = self.parts.clock.now();
        let mut next: Option<Timestamp> = None;
        for campaign in heads(store).await? {
            // One that fails keeps no other from its turn; the next round tries again.
            let failed = |error: ApiError| {
                tracing::warn!(%tenant, review = %campaign.id, code = error.code, "a review could not be looked after");
            };
            // Also of one that was closed since: what was decided before is carried out.
            self.carry_on(tenant, store, &campaign).await.unwrap_or_else(failed);
            if campaign.closed_at.is_some() || campaign.due_done {
                continue;
            }
            if campaign.due_at > now {
                next = next.into_iter().chain([campaign.due_at]).min();
            } else {
                self.come_due(tenant, store, &campaign).await.unwrap_or_else(failed);
            }
        }
        Ok(next)
    }

    /// Finishes revocations that the end of the host cut: they were decided and are on the record.
    async fn carry_on(&self, tenant: &TenantId, store: &TenantStore, campaign: &Campaign) -> Result<(), ApiError> {
        let _one = self.access.0.deciding.of(tenant.clone()).await;
        for mut item in items_of(store, &campaign.id).await?.into_iter().filter(Item::is_cut) {
            let Some((by, at)) = item.decisions.last().map(|last| (last.by.clone(), last.at)) else { continue };
            let Some(call) = self.in_the_name_of(tenant, &by, at) else { continue };
            match self.take_away(&call, tenant, store, &item.about).await {
                Ok(()) => item.decisions.iter_mut().for_each(|decision| decision.done = true),
                // He may not any more: the item is open again, for somebody who may.
                Err(error) if error.code == "denied" => drop(item.decisions.pop()),
                Err(error) => {
                    tracing::warn!(%tenant, review = %campaign.id, code = error.code, "a revocation was not carried on");
                    continue;
                }
            }
            store.put_json(&item_key(&campaign.id, item.number), &item).await?;
        }
        Ok(())
    }

    async fn come_due(&self, tenant: &TenantId, store: &TenantStore, found: &Campaign) -> Result<(), ApiError> {
        let _one = self.access.0.deciding.of(tenant.clone()).await;
        // As it is by now: somebody may have closed it while this waited for its turn.
        let mut campaign = head(store, found.id.as_str()).await?;
        if campaign.closed_at.is_some() || campaign.due_done {
            return Ok(());
        }
        let mut failed = None;
        let items = items_of(store, &campaign.id).await?;
        let mut open: Vec<Item> = items.into_iter().filter(|item| item.turn() != Turn::Nobody).collect();
        let open_count = open.len();
        let mut revoked_count = 0_usize;
        if campaign.overdue == Overdue::Revoke {
            // His own last: after that nothing can be done in his name any more.
            let identity = &self.parts.identity;
            let own = |item: &Item| {
                item.holder.as_ref().is_some_and(|holder| identity.is_one_owner(holder, &campaign.opened_by))
            };
            open.sort_by_key(own);
            for item in open {
                match self.revoke_overdue(tenant, store, &campaign, item).await {
                    Ok(Left::Revoked) => revoked_count += 1,
                    Ok(Left::Stays) => {}
                    Err(error) if matches!(error.code, "denied" | "not-found" | "second-person-needed") => {}
                    // Something that passes: the others have their turn, and the next round tries this one again.
                    Err(error) => failed = Some(error),
                }
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        let mut event = Event::new(
            codes::REVIEW_OVERDUE,
            act::ReviewAccess::NAME,
            self.parts.audit.actor(),
            Resource::Tenant { tenant: tenant.clone() }.to_string(),
        );
        let left_count = open_count.saturating_sub(revoked_count);
        event.details = json!({ "review": campaign.id, "revoked": revoked_count, "left": left_count });
        self.parts.audit.record(&Log::Tenant(store.clone()), event).await?;
        campaign.due_done = true;
        store.put_json(&head_key(&campaign.id), &campaign).await?;
        Ok(())
    }

    async fn revoke_overdue(
        &self,
        tenant: &TenantId,
        store: &TenantStore,
        campaign: &Campaign,
        item: Item,
    ) -> Result<Left, ApiError> {
        let Some(call) = self.in_the_name_of(tenant, &campaign.opened_by, campaign.opened_at) else {
            return Ok(Left::Stays);
        };
        let resource = Resource::Tenant { tenant: tenant.clone() };
        if let (Some(holder), About::Person { role, .. } | About::ApiKey { role, .. }) = (&item.holder, &item.about)
            && *role == Role::TenantAdmin
        {
            let permit = self.reach::<act::ListTokens>(&call, resource.clone()).await?.permit;
            if !self.parts.identity.has_another_admin(permit, tenant, holder)? {
                return Ok(Left::Stays);
            }
        }
        let permit = self.reach::<act::ReviewAccess>(&call, resource).await?.permit;
        let decision = (Choice::Revoke, REASON.to_owned());
        self.decide_item(&call, (tenant, store), permit, campaign, item, decision).await?;
        Ok(Left::Revoked)
    }

    /// A request of somebody who asked for this earlier, when he is still known here. SECURITY: who was invited under the name since
    /// then is another, who asked for nothing.
    fn in_the_name_of(&self, tenant: &TenantId, who: &PrincipalId, asked_at: Timestamp) -> Option<Call> {
        let principal = self.parts.identity.absent(tenant, who)?;
        if self.parts.identity.invited_at(&principal).is_some_and(|invited_at| invited_at > asked_at) {
            return None;
        }
        Some(Call {
            principal,
            request: RequestId::random(&*self.parts.entropy),
            peer: None,
            user_agent: None,
            traceparent: None,
            again: None,
        })
    }
}

/// What became of an item on its last day.
enum Left {
    Revoked,
    Stays,
}
