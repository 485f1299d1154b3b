//! Figures about who can sign in to a place, for the host's own look at it, such as a tenant's checks.
//!
//! Must never hold a name or anything that a person proves himself with: counts alone.

use ringfence_core::{Role, TenantId};
use serde::Serialize;

use crate::Identity;

/// Who can sign in to a place, counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct AccessFigures {
    /// People.
    pub people_count: u64,
    /// Of these, its admins.
    pub admins_count: u64,
    /// Of these, those who sign in with no more than a password.
    pub people_with_password_alone_count: u64,
    /// Invitations that wait.
    pub invitations_count: u64,
    /// API keys that can sign in.
    pub keys_count: u64,
    /// Of these, an admin's.
    pub admin_keys_count: u64,
    /// Of these, those that never end by themselves.
    pub endless_keys_count: u64,
    /// Age of the oldest of these, in days.
    pub oldest_key_days: u64,
}

impl Identity {
    /// Counts who can sign in to a tenant.
    pub fn survey(&self, tenant: &TenantId) -> AccessFigures {
        self.counted(Some(tenant), Role::TenantAdmin)
    }

    /// Counts who can sign in as an operator; all of them are admins.
    pub fn survey_operators(&self) -> AccessFigures {
        self.counted(None, Role::Operator)
    }

    fn counted(&self, place: Option<&TenantId>, admin: Role) -> AccessFigures {
        let now = self.shared.clock.now();
        let tables = self.shared.read();
        let mut figures = AccessFigures::default();
        for person in tables.people_of(place) {
            figures.people_count += 1;
            figures.admins_count += u64::from(person.record.role == admin);
            figures.invitations_count += u64::from(person.record.enrolled_at.is_none());
            let second = person.codes.is_some() || !person.passkeys.is_empty();
            figures.people_with_password_alone_count += u64::from(person.password.is_some() && !second);
        }
        for key in tables.keys_of(place).filter(|key| key.is_live(now)) {
            figures.keys_count += 1;
            figures.admin_keys_count += u64::from(key.role == admin);
            figures.endless_keys_count += u64::from(key.expires_at.is_none());
            let seconds = now.as_second().saturating_sub(key.created_at.as_second());
            let days = u64::try_from(seconds / 86_400).unwrap_or(0);
            figures.oldest_key_days = figures.oldest_key_days.max(days);
        }
        figures
    }
}
