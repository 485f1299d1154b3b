//! What is stored of a tenant for its decisions, put into force as one: all of it, or nothing.
//!
//! Must never leave a part of it in force, nor say a word of the tenant's when it does not fit: who runs the host reads that.

use std::fmt;
use std::sync::{Arc, PoisonError};

use ringfence_core::TenantId;

use crate::decide::TenantState;
use crate::labels::Labels;
use crate::shadow::Shadow;
use crate::tenant::{Author, Rules};
use crate::{Elevation, Policy, PolicyError, PolicyVersion, RESERVED_TENANTS, Standing, TenantFacts, moved};

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

/// One of the texts that are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// The tenant's own policy.
    Policy,
    /// The operator's ceiling.
    Ceiling,
    /// The labels.
    Labels,
    /// The candidate in the shadow.
    Shadow,
}

/// What is stored of a tenant and cannot be put into force: the first piece that does not fit, and why. Displayed, it says
/// which and where, and no word of the tenant's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfit {
    /// Which.
    pub piece: Piece,
    /// Why, in words that may be the tenant's.
    pub error: PolicyError,
}

/// The texts, read.
struct Read {
    rules: Rules,
    ceiling: Rules,
    labels: Labels,
    shadow: Option<Rules>,
}

impl StoredPolicy {
    /// The same with its own tenant called `to` in every text, where it was called `from`.
    #[must_use]
    pub fn moved(&self, from: &TenantId, to: &TenantId) -> Self {
        let text = |text: &String| moved::text(text, from, to);
        Self {
            text: self.text.as_ref().map(text),
            ceiling: self.ceiling.as_ref().map(text),
            // What is no labels is not made any.
            labels: self
                .labels
                .as_ref()
                .map(|old| moved::labels(old, from, to).map_or_else(|| old.clone(), |new| new.0)),
            shadow: self.shadow.as_ref().map(text),
            elevations: self.elevations.clone(),
        }
    }
}

impl Policy {
    /// Says what [`Policy::put_into_force`] would say, and changes nothing. The tenant need not be known. Works for as long as
    /// the texts are: not for threads that must not wait.
    pub fn check_stored(&self, tenant: &TenantId, stored: &StoredPolicy) -> Result<(), Unfit> {
        self.read(tenant, stored).map(drop)
    }

    /// Makes a tenant known with everything that is stored of it, in the place of what was known. When something does not fit,
    /// nothing changes. Whether a text locks out was judged when it was set ([`Policy::set_tenant_policy`]): one that was in
    /// force is put into force again.
    pub fn put_into_force(
        &self,
        tenant: &TenantId,
        standing: Standing,
        stored: StoredPolicy,
    ) -> Result<PolicyVersion, Unfit> {
        let Read { rules, ceiling, labels, shadow } = self.read(tenant, &stored)?;
        let StoredPolicy { text, ceiling: ceiling_text, shadow: shadow_text, elevations, .. } = stored;
        let facts = TenantFacts { suspended: standing };
        let mut tenants = self.shared.tenants.write().unwrap_or_else(PoisonError::into_inner);
        let mut state = tenants.get(tenant).map_or_else(|| self.newcomer(facts), |before| TenantState::clone(before));
        state.facts = facts;
        (state.text, state.rules) = (Arc::from(text.unwrap_or_default()), Arc::new(rules));
        (state.ceiling_text, state.ceiling) = (Arc::from(ceiling_text.unwrap_or_default()), Arc::new(ceiling));
        state.labels = Arc::new(labels);
        state.shadow =
            shadow_text.zip(shadow).map(|(text, rules)| Arc::new(Shadow::new(Arc::from(text), Arc::new(rules))));
        state.elevations = Arc::from(elevations);
        let version = self.next_version();
        state.settle(version);
        tenants.insert(tenant.clone(), Arc::new(state));
        Ok(version)
    }

    /// Refuses a name that no tenant can have.
    pub fn check_name(tenant: &TenantId) -> Result<(), PolicyError> {
        if RESERVED_TENANTS.contains(&tenant.as_str()) {
            return Err(PolicyError::Reserved { tenant: tenant.to_string() });
        }
        Ok(())
    }

    fn read(&self, tenant: &TenantId, stored: &StoredPolicy) -> Result<Read, Unfit> {
        let checker = &self.shared.checker;
        let unfit = |piece: Piece| move |error: PolicyError| Unfit { piece, error };
        Self::check_name(tenant).map_err(unfit(Piece::Policy))?;
        let rules = |text: Option<&str>, author: Author, piece: Piece| match text {
            None | Some("") => Ok(Rules::default()),
            Some(text) => checker.check(tenant, text, author).map(|checked| checked.rules).map_err(unfit(piece)),
        };
        Ok(Read {
            rules: rules(stored.text.as_deref(), Author::Tenant, Piece::Policy)?,
            ceiling: rules(stored.ceiling.as_deref(), Author::Operator, Piece::Ceiling)?,
            labels: Labels::parse(tenant, stored.labels.as_deref().unwrap_or("{}")).map_err(unfit(Piece::Labels))?,
            shadow: match stored.shadow.as_deref() {
                Some(text) => Some(rules(Some(text), Author::Tenant, Piece::Shadow)?),
                None => None,
            },
        })
    }
}

impl fmt::Display for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Policy => "its policy",
            Self::Ceiling => "the ceiling over it",
            Self::Labels => "its labels",
            Self::Shadow => "the candidate in its shadow",
        })
    }
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let piece = self.piece;
        match &self.error {
            PolicyError::Invalid { line, column, .. } => {
                write!(f, "{piece} cannot be put into force: line {line}, column {column} does not fit")
            }
            PolicyError::Labels { .. } => {
                write!(f, "{piece} cannot be put into force: they are none, or speak of principals of another tenant")
            }
            error => write!(f, "{piece} cannot be put into force: {error}"),
        }
    }
}

impl std::error::Error for Unfit {}
