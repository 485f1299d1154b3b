//! A principal's right to act for a time in a stronger role of its tenant.
//!
//! Must never outlast its end, nor reach over the tenant: the role is one of the tenant's, and the end is asked at each
//! decision.

use jiff::Timestamp;
use ringfence_core::{PrincipalId, Role};
use serde::{Deserialize, Serialize};

/// One principal, one role, until a moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Elevation {
    /// Who.
    pub principal: PrincipalId,
    /// The role it acts in; one of a tenant's.
    pub role: Role,
    /// From this moment on it does not hold.
    pub until: Timestamp,
}

impl Elevation {
    /// The role `principal` acts in now, if one of `all` holds.
    pub(crate) fn role_now(all: &[Self], principal: &PrincipalId, now: Timestamp) -> Option<Role> {
        all.iter()
            .filter(|one| one.principal == *principal && now < one.until && one.role != Role::Operator)
            .map(|one| one.role)
            .min_by_key(|role| strength(*role))
    }
}

/// Strongest first.
fn strength(role: Role) -> usize {
    Role::ALL.iter().position(|one| *one == role).unwrap_or(usize::MAX)
}
