//! Which device a session is on, for rules to read: the one that evidence showed to hold the key of the session's token. And
//! the devices of a place, as its admins see and revoke them.
//!
//! Must never believe who asks: not the name that he gives a device, nor that a nonce which he carried to a good device was
//! answered there. A token that is bound to nothing can be anywhere, so its session is on no device. Nothing is remembered here:
//! session and device have their records, both sealed, and what holds is worked out of them each time.

use jiff::Timestamp;
use ringfence_core::device::{NO_EVIDENCE, POSTURE, TPM_QUOTE};
use ringfence_core::limits::DEVICES_PER_PRINCIPAL_COUNT_MAX;
use ringfence_core::proof::act;
use ringfence_core::{Device, Permit, Principal, PrincipalId, TenantId};

use crate::devices::{DeviceFound, DeviceRecord, DeviceVerdict};
use crate::manage::{covers, not_found};
use crate::record::Binding;
use crate::risk::About;
use crate::standing::TrustSettings;
use crate::{Identity, IdentityError};

impl Identity {
    /// The device that a principal's session is on, as it is now. None where evidence never showed one to hold its key.
    pub fn device_of(&self, principal: &Principal) -> Option<Device> {
        self.shared.read().device_of(principal.session()?, self.shared.clock.now())
    }

    /// The devices of everybody of a tenant, by their holders.
    pub fn list_devices(
        &self,
        permit: Permit<act::ListTokens>,
        tenant: &TenantId,
    ) -> Result<Vec<(PrincipalId, DeviceRecord)>, IdentityError> {
        covers(permit.resource(), Some(tenant))?;
        let mut all = self.shared.read().devices_of(Some(tenant));
        all.sort_by(|a, b| (&a.0, &a.1.name).cmp(&(&b.0, &b.1.name)));
        Ok(all)
    }

    /// Revokes a device of a principal of a tenant, given by his name in it. From the next decision on it is not verified; its
    /// nonces, its TPM and its key verify nothing in this tenant any more. Revoking twice is no error.
    pub async fn revoke_device(
        &self,
        permit: Permit<act::RevokeToken>,
        tenant: &TenantId,
        holder: &str,
        name: &str,
    ) -> Result<(), IdentityError> {
        covers(permit.resource(), Some(tenant))?;
        let holder: PrincipalId = format!("{tenant}/{holder}").parse().map_err(|_| not_found(holder))?;
        let now = self.shared.clock.now();
        self.change_about(Some(tenant), &holder, |about| {
            let device = about.devices.iter_mut().find(|device| device.name.as_str() == name);
            device.ok_or_else(|| not_found(name))?.revoked_at.get_or_insert(now);
            forget_oldest(about);
            Ok(())
        })
        .await?;
        self.end_fallen(Some(tenant), Some(&holder));
        Ok(())
    }

    /// What the token of a principal's session is bound to.
    pub(crate) fn key_of(&self, principal: &Principal) -> Binding {
        let tables = self.shared.read();
        let stored = principal.session().and_then(|session| tables.session(session));
        stored.map(|stored| stored.binding.clone()).unwrap_or_default()
    }
}

/// LIMIT: as many revoked devices are remembered as may be in use; of more, those revoked first are forgotten.
fn forget_oldest(about: &mut About) {
    let mut revoked: Vec<Timestamp> = about.devices.iter().filter_map(|device| device.revoked_at).collect();
    revoked.sort_unstable();
    let beyond = revoked.len().checked_sub(DEVICES_PER_PRINCIPAL_COUNT_MAX + 1);
    if let Some(last) = beyond.and_then(|at| revoked.get(at)) {
        about.devices.retain(|device| device.revoked_at.is_none_or(|at| at > *last));
    }
}

/// The device that holds a key, as it is now. Where several were shown to, the worst counts, then the last.
pub(crate) fn device_holding(
    devices: &[DeviceRecord],
    key: &Binding,
    trust: &TrustSettings,
    now: Timestamp,
) -> Option<Device> {
    if *key == Binding::Unbound {
        return None;
    }
    let all = devices.iter().filter_map(|device| Some((device, device.found.as_ref()?)));
    let holding = all.filter(|(_, found)| found.key.as_ref() == Some(key));
    let (device, found) = holding.max_by_key(|(device, found)| {
        let failing = found.verdict == DeviceVerdict::Failed && now < found.expires_at;
        (device.revoked_at.is_some(), failing, found.at)
    })?;
    let counts = device.revoked_at.is_none() && now < found.expires_at && is_trusted(found, trust);
    let verified = counts && found.verdict == DeviceVerdict::Verified && is_believed(found, trust);
    let evidence = if verified { found.format.as_str() } else { NO_EVIDENCE };
    let said = found.claims.iter().filter(|(_, holds)| counts && **holds);
    let posture = said.map(|(word, _)| word.clone()).collect();
    Some(Device { name: device.name.clone(), verified, evidence: evidence.to_owned(), posture })
}

/// Whether the tenant would take a good word as one now.
pub(crate) fn is_believed(found: &DeviceFound, trust: &TrustSettings) -> bool {
    is_trusted(found, trust) && says_what_is_required(found, trust)
}

/// Whether the tenant still trusts whoever said what was found, by the key that said it. Of a record that does not tell, no.
fn is_trusted(found: &DeviceFound, trust: &TrustSettings) -> bool {
    let trusted = found.trusted.as_deref();
    match found.format.as_str() {
        POSTURE => {
            let mut issuers = trust.posture.issuers.iter();
            issuers.any(|issuer| issuer.name == found.issuer && trusted == Some(issuer.key.as_str()))
        }
        TPM_QUOTE => trust.tpm.roots_count() > 0 && trusted == Some(trust.tpm.digest()),
        _ => true,
    }
}

/// Whether what a claim said is all that the tenant requires by now.
fn says_what_is_required(found: &DeviceFound, trust: &TrustSettings) -> bool {
    found.format != POSTURE || trust.posture.required.iter().all(|word| found.claims.get(word) == Some(&true))
}
