//! What tables know about principals beside their sessions: risk, findings, networks, devices; and what tenants ask.
//!
//! Must never count what is over. Pure: time is passed in, the store is elsewhere.

use std::sync::Arc;

use jiff::Timestamp;
use ringfence_core::limits::ABOUT_COUNT_MAX;
use ringfence_core::{PrincipalId, Source, TenantId};

use crate::devices::posture_of;
use crate::risk::{About, Adjustment};
use crate::standing::TrustSettings;
use crate::tables::Tables;
use crate::trust::{Finding, Posture};
use crate::{IdentityError, OPERATOR};

impl Tables {
    /// What a tenant asks of sessions, if it decided.
    pub(crate) fn trust_of(&self, tenant: Option<&TenantId>) -> Option<&Arc<TrustSettings>> {
        if self.trust.is_empty() { None } else { self.trust.get(tenant?) }
    }

    /// Decides what a tenant asks.
    pub(crate) fn set_trust(&mut self, tenant: TenantId, settings: TrustSettings) {
        self.trust.insert(tenant, Arc::new(settings));
    }

    /// Who gives way when something is to be remembered about one more principal of a place: none while there is room. Fails
    /// when about everybody there is something that still counts.
    pub(crate) fn making_room(
        &self,
        tenant: Option<&TenantId>,
        principal: &PrincipalId,
        now: Timestamp,
    ) -> Result<Option<PrincipalId>, IdentityError> {
        if self.about.contains_key(principal) || self.of_place(tenant).count() < ABOUT_COUNT_MAX {
            return Ok(None);
        }
        let idle = self.of_place(tenant).filter(|about| !about.counts(now));
        let oldest = idle.min_by_key(|about| about.networks.iter().map(|network| network.last).max());
        let full =
            IdentityError::FactorState("too much is remembered about principals here; wait until some of it is over");
        oldest.and_then(|about| about.principal.clone()).map(Some).ok_or(full)
    }

    /// Forgets what is known about a principal.
    pub(crate) fn drop_about(&mut self, principal: &PrincipalId) {
        self.about.remove(principal);
    }

    /// What is known about a principal.
    pub(crate) fn about(&self, principal: &PrincipalId) -> Option<&About> {
        self.about.get(principal)
    }

    /// Puts what is known about a principal in the place of what was.
    pub(crate) fn put_about(&mut self, about: About) {
        if let Some(principal) = about.principal.clone() {
            self.about.insert(principal, about);
        }
    }

    /// Forgets what is known about everybody of a tenant.
    pub(crate) fn forget_about(&mut self, tenant: &TenantId) {
        self.trust.remove(tenant);
        self.about.retain(|principal, _| place(principal) != tenant.as_str());
    }

    /// The sum of a principal's adjustments in force.
    pub(crate) fn adjustment_of(&self, principal: &PrincipalId, now: Timestamp) -> i32 {
        let all = self.about.get(principal).map_or(&[] as &[Adjustment], |about| &about.adjustments);
        all.iter().filter(|adjustment| adjustment.is_in_force(now)).map(|adjustment| adjustment.delta).sum()
    }

    /// An adjustment of a place.
    pub(crate) fn adjustment(&self, tenant: Option<&TenantId>, id: &str) -> Option<&Adjustment> {
        self.of_place(tenant).flat_map(|about| &about.adjustments).find(|adjustment| adjustment.id == id)
    }

    /// All adjustments of a place.
    pub(crate) fn adjustments_of(&self, tenant: Option<&TenantId>) -> Vec<Adjustment> {
        self.of_place(tenant).flat_map(|about| about.adjustments.clone()).collect()
    }

    /// The worst open finding about a principal, and since when.
    pub(crate) fn finding_about(&self, principal: &PrincipalId, now: Timestamp) -> Option<(Finding, Timestamp)> {
        let open = self.about.get(principal)?.findings.iter().filter(|finding| now < finding.until);
        open.max_by_key(|finding| finding.severity).map(|finding| (finding.severity, finding.at))
    }

    /// Since when a principal signs in from a network.
    pub(crate) fn network_since(&self, principal: &PrincipalId, source: Source) -> Option<Timestamp> {
        let networks = &self.about.get(principal)?.networks;
        networks.iter().find(|network| network.source == source).map(|network| network.since)
    }

    /// When a principal last signed in from a network, as far as that was noted.
    pub(crate) fn network_last(&self, principal: &PrincipalId, source: Source) -> Option<Timestamp> {
        let networks = &self.about.get(principal)?.networks;
        networks.iter().find(|network| network.source == source).map(|network| network.last)
    }

    /// What verified claims say about the devices of a principal, and since when.
    pub(crate) fn posture_of(&self, principal: &PrincipalId, now: Timestamp) -> Option<(Posture, Timestamp)> {
        posture_of(&self.about.get(principal)?.devices, now)
    }

    fn of_place(&self, tenant: Option<&TenantId>) -> impl Iterator<Item = &About> {
        let wanted = tenant.map_or(OPERATOR, TenantId::as_str).to_owned();
        self.about.iter().filter(move |(principal, _)| place(principal) == wanted).map(|(_, about)| about)
    }
}

fn place(principal: &PrincipalId) -> &str {
    principal.as_str().split_once('/').map_or("", |(place, _)| place)
}
