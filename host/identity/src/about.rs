//! What tables know about principals beside their sessions: risk, findings, networks, devices; and what tenants ask.
//!
//! Must never count what is over. Pure: time is passed in, the store is elsewhere.

use std::sync::Arc;

use jiff::Timestamp;
use ringfence_core::limits::ABOUT_COUNT_MAX;
use ringfence_core::{Device, PrincipalId, SessionId, Source, TenantId};

use crate::devices::{DeviceRecord, posture_of};
use crate::on_device::device_holding;
use crate::record::Binding;
use crate::risk::{About, Adjustment};
use crate::standing::{TrustSettings, age};
use crate::tables::Tables;
use crate::trust::{Found, Posture, Seen};
use crate::{IdentityError, OPERATOR};

impl Tables {
    /// What a place asks of sessions, if it decided: a tenant, or the operators under none.
    pub(crate) fn trust_of(&self, tenant: Option<&TenantId>) -> Option<&Arc<TrustSettings>> {
        match tenant {
            None => self.operators_trust.as_ref(),
            // The map is empty on most hosts, and this is asked on every call.
            Some(_) if self.trust.is_empty() => None,
            Some(tenant) => self.trust.get(tenant),
        }
    }

    /// Decides what a place asks.
    pub(crate) fn set_trust(&mut self, tenant: Option<TenantId>, settings: TrustSettings) {
        let settings = Arc::new(settings);
        match tenant {
            None => self.operators_trust = Some(settings),
            Some(tenant) => {
                self.trust.insert(tenant, settings);
            }
        }
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

    /// What was said of the risk of a subject and is in force: the sum of the deltas, and the highest floor.
    pub(crate) fn risk_of(&self, subject: &PrincipalId, now: Timestamp) -> (i32, u8) {
        let all = self.about.get(subject).map_or(&[] as &[Adjustment], |about| &about.adjustments);
        let in_force = || all.iter().filter(move |adjustment| adjustment.is_in_force(now));
        let floor = in_force().filter_map(|adjustment| adjustment.floor).max();
        (in_force().map(|adjustment| adjustment.delta).sum(), floor.unwrap_or(0))
    }

    /// What is held against a plugin or a whole place, for the sessions that have to do with it: never in their favour.
    pub(crate) fn risk_against(&self, subject: &PrincipalId, now: Timestamp) -> (i32, u8) {
        let (delta, floor) = self.risk_of(subject, now);
        (delta.min(0), floor)
    }

    /// An adjustment of a place.
    pub(crate) fn adjustment(&self, tenant: Option<&TenantId>, id: &str) -> Option<&Adjustment> {
        self.of_place(tenant).flat_map(|about| &about.adjustments).find(|adjustment| adjustment.id == id)
    }

    /// All adjustments of a place.
    pub(crate) fn adjustments_of(&self, tenant: Option<&TenantId>) -> Vec<Adjustment> {
        self.of_place(tenant).flat_map(|about| about.adjustments.clone()).collect()
    }

    /// What detection says of a principal: the worst open finding about him.
    pub(crate) fn found_about(&self, principal: &PrincipalId, now: Timestamp) -> Found {
        let findings = self.about.get(principal).into_iter().flat_map(|about| &about.findings);
        let open = findings.filter(|finding| now < finding.until);
        match open.max_by_key(|finding| finding.severity) {
            Some(worst) => Found::Open(Seen { value: worst.severity, age_seconds: age(now, worst.at) }),
            None if self.is_unwatched => Found::Unknown,
            None => Found::Nothing,
        }
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

    /// What verified claims say about the devices of a principal, under this trust, and since when.
    pub(crate) fn posture_of(
        &self,
        principal: &PrincipalId,
        trust: &TrustSettings,
        now: Timestamp,
    ) -> Option<(Posture, Timestamp)> {
        posture_of(&self.about.get(principal)?.devices, trust, now)
    }

    /// The device that holds what a session's token is bound to, as it is now.
    pub(crate) fn device_of(&self, session: &SessionId, now: Timestamp) -> Option<Device> {
        let stored = self.session(session)?;
        let devices = &self.about.get(&stored.principal)?.devices;
        let unset = TrustSettings::unset();
        let trust = self.trust_of(stored.tenant.as_ref()).map_or(&unset, |settings| settings);
        device_holding(devices, &stored.binding, trust, now)
    }

    /// The devices of everybody of a place.
    pub(crate) fn devices_of(&self, tenant: Option<&TenantId>) -> Vec<(PrincipalId, DeviceRecord)> {
        let all = self.of_place(tenant).filter_map(|about| Some((about.principal.clone()?, &about.devices)));
        all.flat_map(|(principal, devices)| devices.iter().map(move |device| (principal.clone(), device.clone())))
            .collect()
    }

    /// Whether a TPM, or a key, is that of a device of the place that was revoked.
    pub(crate) fn is_of_revoked(&self, tenant: Option<&TenantId>, tpm: Option<&str>, key: Option<&Binding>) -> bool {
        let mut revoked = self.of_place(tenant).flat_map(|about| &about.devices).filter(|one| one.revoked_at.is_some());
        revoked.any(|device| {
            let held = device.found.as_ref().and_then(|found| found.key.as_ref());
            (tpm.is_some() && device.tpm.as_deref() == tpm) || (key.is_some() && held == key)
        })
    }

    fn of_place(&self, tenant: Option<&TenantId>) -> impl Iterator<Item = &About> {
        let wanted = tenant.map_or(OPERATOR, TenantId::as_str).to_owned();
        self.about.iter().filter(move |(principal, _)| place(principal) == wanted).map(|(_, about)| about)
    }
}

/// The place of a subject; a place as a whole is a subject too, under its own name.
pub(crate) fn place(subject: &PrincipalId) -> &str {
    subject.as_str().split_once('/').map_or(subject.as_str(), |(place, _)| place)
}

/// Whether a subject is a place as a whole.
pub(crate) fn is_place(subject: &PrincipalId) -> bool {
    place(subject) == subject.as_str()
}

/// A place as a whole, as a subject.
pub(crate) fn place_of(tenant: Option<&TenantId>) -> Option<PrincipalId> {
    tenant.map_or(OPERATOR, TenantId::as_str).parse().ok()
}
