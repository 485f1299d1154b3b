//! The tenant's own policy and everything around it: versions, candidates, the shadow, labels, the operator's ceiling,
//! approvals by a second pair of eyes, roles held for a while.
//!
//! Must never take a text that the policy room has not checked, nor overwrite a change the caller has not seen.
//! Open `text.rs` first.

pub mod approvals;
pub mod ceiling;
pub mod elevations;
pub mod labels;
pub(crate) mod moved;
pub mod proof;
mod review;
pub mod shadow;
pub mod text;

use ringfence_audit::Log;
use ringfence_core::TenantId;
use ringfence_core::proof::act;
use ringfence_policy::{Piece, Policy, PolicyError, StoredPolicy};
use ringfence_store::{StoreError, TenantStore};
use serde_json::json;

use crate::Control;
use crate::call::{Call, Reached};
use crate::problem::ApiError;

/// Longest note or reason, in characters.
const NOTE_CHARS_MAX: usize = 500;

/// Reads what is stored of a tenant, for the start of the host.
pub async fn stored(store: &TenantStore) -> Result<StoredPolicy, StoreError> {
    Ok(StoredPolicy {
        text: text::stored(store).await?.map(|stored| stored.text),
        ceiling: ceiling::stored(store).await?.map(|stored| stored.text),
        labels: labels::stored(store).await?.map(|stored| stored.text),
        shadow: shadow::stored(store).await?,
        elevations: elevations::stored(store).await?.iter().map(elevations::in_force).collect(),
    })
}

impl Control {
    /// Has the policy room read texts, which takes a while where they are long: the listeners' threads must not.
    pub(super) async fn aside<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Policy) -> Result<T, PolicyError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let policy = self.parts.policy.clone();
        let done = tokio::task::spawn_blocking(move || work(&policy)).await;
        Ok(done.map_err(|error| ApiError::host(&error))??)
    }

    /// For an operator who mends a tenant that is locked because a text of it cannot be put into force: who may set the ceiling
    /// over a tenant may write that one text anew, unread. None for everybody else, and for a tenant whose rules are in force.
    /// Refuses a text that fits: it is the tenant's own.
    pub(crate) async fn reach_mending(
        &self,
        call: &Call,
        tenant: &str,
        piece: Piece,
    ) -> Result<Option<Reached<act::SetCeiling>>, ApiError> {
        let is_unread = tenant.parse().is_ok_and(|id: TenantId| self.parts.tenants.is_unread(&id));
        if call.principal.tenant().is_some() || !is_unread {
            return Ok(None);
        }
        let reached = self.reach_tenant::<act::SetCeiling>(call, tenant).await?;
        self.check_mending(&reached.tenant, &reached.store, piece).await?;
        Ok(Some(reached))
    }

    /// Whether a tenant is locked for the sake of this text and no other. SECURITY: who writes it asks once more in his turn to change
    /// the tenant: by then another may have mended it, and the text be the tenant's own again.
    async fn check_mending(&self, tenant: &TenantId, store: &TenantStore, piece: Piece) -> Result<(), ApiError> {
        // Of what is put back to a backup now, half is what it was.
        if self.restoring.has(&store.uid()) {
            return Err(ApiError::restore_unfinished());
        }
        let (policy, id, stored) = (self.parts.policy.clone(), tenant.clone(), stored(store).await?);
        let checked = tokio::task::spawn_blocking(move || policy.check_stored(&id, &stored));
        match checked.await.map_err(|error| ApiError::host(&error))? {
            Err(unfit) if unfit.piece == piece => Ok(()),
            // First things first: this one is not looked at before that one fits.
            Err(unfit) => Err(ApiError::new("conflict", unfit.to_string()).help("write that one anew first")),
            Ok(()) => {
                let why = "everything that is stored for the tenant's decisions fits, and only the tenant writes it";
                Err(ApiError::new("conflict", why).help("enable its keys once more, and it is read"))
            }
        }
    }

    /// Writes one text of a locked tenant anew, as the version after this one: when `check` finds that it fits, and while it is still
    /// the one that keeps the tenant locked. `written` runs in one's turn to change the tenant.
    async fn mend<T: Send + 'static>(
        &self,
        call: &Call,
        reached: Reached<act::SetCeiling>,
        (piece, code, base_version): (Piece, &'static str, u64),
        check: impl FnOnce(&Policy, &TenantId) -> Result<T, PolicyError> + Send + 'static,
        written: impl Future<Output = Result<u64, ApiError>>,
    ) -> Result<(T, u64), ApiError> {
        let Reached { tenant, store, permit } = reached;
        let id = tenant.clone();
        let checked = self.aside(move |policy| check(policy, &id)).await?;
        let (log, details) = (Log::Tenant(store.clone()), json!({ "version": base_version + 1 }));
        let version = self
            .bracket(call, &log, permit, code, details, async |_permit| {
                let _one = self.changing.of(tenant.clone()).await;
                self.check_mending(&tenant, &store, piece).await?;
                written.await
            })
            .await?;
        self.mended(&tenant).await;
        Ok((checked, version))
    }

    /// Something of a tenant was written anew: one that a start could not read is read now, if nothing else is in the way.
    pub(crate) async fn mended(&self, tenant: &TenantId) {
        if self.parts.tenants.is_unread(tenant) {
            self.tenant_unlocked(tenant).await;
        }
    }
}

/// Some words for people: not empty, on a few lines, not a book.
pub(crate) fn checked_words(words: String, what: &str) -> Result<String, ApiError> {
    let odd = words.chars().any(|c| c.is_control() && c != '\n');
    if odd || words.trim().is_empty() || words.chars().count() > NOTE_CHARS_MAX {
        return Err(ApiError::new("bad-word", format!("`{what}` is 1 to {NOTE_CHARS_MAX} characters of text")));
    }
    Ok(words)
}
