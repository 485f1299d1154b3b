//! The tenant's own policy and everything around it: versions, candidates, the shadow, labels, the operator's ceiling,
//! approvals by a second pair of eyes, roles held for a while.
//!
//! Must never take a text that the policy room has not checked, nor overwrite a change the caller has not seen.
//! Open `text.rs` first.

pub mod approvals;
pub mod ceiling;
pub mod elevations;
pub mod labels;
pub mod proof;
mod review;
pub mod shadow;
pub mod text;

use ringfence_core::TenantId;
use ringfence_policy::{Elevation, Policy, PolicyError, Standing, TenantFacts};
use ringfence_store::{StoreError, TenantStore};

use crate::problem::ApiError;

/// Longest note or reason, in characters.
const NOTE_CHARS_MAX: usize = 500;

/// What is stored of a tenant for its decisions.
#[derive(Debug, Clone, Default)]
pub struct StoredPolicy {
    /// Its own policy; none when it never set one.
    pub text: Option<String>,
    /// The operator's ceiling over it.
    pub ceiling: Option<String>,
    /// Its labels, as JSON.
    pub labels: Option<String>,
    /// The candidate in the shadow.
    pub shadow: Option<String>,
    /// Who acts in another role, and until when.
    pub elevations: Vec<Elevation>,
}

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

/// Puts what is stored of a tenant into force.
pub fn put_into_force(
    policy: &Policy,
    tenant: &TenantId,
    standing: Standing,
    stored: StoredPolicy,
) -> Result<(), PolicyError> {
    policy.upsert_tenant(tenant, TenantFacts { suspended: standing }, stored.text.as_deref())?;
    policy.set_ceiling(tenant, stored.ceiling.as_deref().unwrap_or_default())?;
    policy.set_labels(tenant, stored.labels.as_deref().unwrap_or("{}"))?;
    if let Some(candidate) = &stored.shadow {
        policy.set_shadow(tenant, candidate)?;
    }
    policy.set_elevations(tenant, stored.elevations)?;
    Ok(())
}

/// Some words for people: not empty, on a few lines, not a book.
pub(crate) fn checked_words(words: String, what: &str) -> Result<String, ApiError> {
    let odd = words.chars().any(|c| c.is_control() && c != '\n');
    if odd || words.trim().is_empty() || words.chars().count() > NOTE_CHARS_MAX {
        return Err(ApiError::new("bad-word", format!("`{what}` is 1 to {NOTE_CHARS_MAX} characters of text")));
    }
    Ok(words)
}
