//! Workload identity: which authority of this host signs the certificates of plugins, which others are published, and the
//! certificates themselves, each for one plugin of one tenant and for an hour.
//!
//! Must never hand one plugin's certificate to another, nor sign with an authority before those who verify could have read
//! of it, unless there is no other.
//!
//! An authority is good for 30 days. After 15 the next one is made and published; a day later it signs. The private keys lie
//! in the platform's store, sealed; those of certificates are in memory only.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use data_encoding::{BASE64, BASE64URL_NOPAD};
use ringfence_core::limits::{SVID_SECONDS, SVIDS_KEPT_COUNT_MAX};
use ringfence_core::{Clock, PluginName, TenantId};
use ringfence_keys::{Svid, SvidAuthority, is_trust_domain};
use ringfence_store::{Key, Op, Precondition, TenantStore};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::IdentityError;
use crate::shelf::scan;

/// How long an authority is good.
const AUTHORITY_SECONDS: i64 = 30 * 86_400;
/// How old the newest authority is when the next one is made.
const NEXT_AFTER_SECONDS: i64 = 15 * 86_400;
/// How long a new authority is published before it signs.
const PUBLISHED_SECONDS: i64 = 86_400;
/// Clocks of those who verify may be that far behind.
const SKEW_SECONDS: i64 = 300;
/// How often those who verify should read the bundle, in seconds.
const REFRESH_SECONDS: i64 = 3_600;
/// How often the host looks whether an authority is due.
const LOOK: Duration = Duration::from_secs(600);

/// The certificates of plugins. Cheap to clone; all clones share one state.
#[derive(Clone)]
pub struct Workloads(Arc<Inner>);

struct Inner {
    platform: TenantStore,
    clock: Arc<dyn Clock>,
    trust_domain: String,
    /// By number, ascending.
    authorities: RwLock<Vec<SvidAuthority>>,
    issued: Mutex<HashMap<(TenantId, PluginName), Svid>>,
    /// Held while authorities change.
    turning: tokio::sync::Mutex<()>,
}

// === impl Workloads ===

impl Workloads {
    /// Loads the authorities of a trust domain; makes the first, and whatever else is due.
    pub async fn open(
        platform: TenantStore,
        clock: Arc<dyn Clock>,
        trust_domain: String,
    ) -> Result<Self, IdentityError> {
        if !is_trust_domain(&trust_domain) {
            return Err(IdentityError::Host("`identity.trust_domain` is 1 to 255 of a-z, 0-9, `.`, `-` and `_`"));
        }
        let records = scan(&platform, &Key::new(["identity", "svid-authority"])).await?;
        let mut authorities =
            records.iter().map(|record| SvidAuthority::from_stored(&record.value)).collect::<Result<Vec<_>, _>>()?;
        authorities.sort_by_key(SvidAuthority::number);
        let workloads = Self(Arc::new(Inner {
            platform,
            clock,
            trust_domain,
            authorities: RwLock::new(authorities),
            issued: Mutex::default(),
            turning: tokio::sync::Mutex::new(()),
        }));
        workloads.turn().await?;
        Ok(workloads)
    }

    /// Makes the next authority when it is due, and forgets those that are over or of another trust domain.
    pub async fn turn(&self) -> Result<(), IdentityError> {
        let _turn = self.0.turning.lock().await;
        let now = self.now();
        let all = self.authorities().clone();
        let (mut kept, gone): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|it| now < it.until_second() && it.trust_domain() == self.0.trust_domain);
        let mut ops: Vec<Op> = gone.iter().map(|it| Op::delete(at(it.number()))).collect();
        let mut absent = Vec::new();
        if kept.last().is_none_or(|newest| now >= newest.from_second() + NEXT_AFTER_SECONDS) {
            let number = kept.iter().chain(&gone).map(SvidAuthority::number).max().unwrap_or_default() + 1;
            let from = now - SKEW_SECONDS;
            let next = SvidAuthority::create(&self.0.trust_domain, number, from, now + AUTHORITY_SECONDS)?;
            ops.push(Op::put(at(number), next.to_stored()?.as_slice()));
            absent.push(Precondition::Absent(at(number)));
            kept.push(next);
        }
        if ops.is_empty() {
            return Ok(());
        }
        // Durable before it is published: what was signed must be verifiable after a restart.
        self.0.platform.batch(ops, absent).await?;
        *self.0.authorities.write().unwrap_or_else(PoisonError::into_inner) = kept;
        Ok(())
    }

    /// Keeps the authorities turning until `stop` turns true; whoever calls is told of what fails.
    pub async fn run(self, mut stop: watch::Receiver<bool>, failed: impl Fn(&IdentityError)) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                _ = stop.wait_for(|stopping| *stopping) => return,
            }
            if let Err(error) = self.turn().await {
                failed(&error);
            }
        }
    }

    /// The certificate of a plugin: the one that was made before while half of its time is left, else a new one.
    pub fn certificate(&self, tenant: &TenantId, plugin: &PluginName) -> Result<Svid, IdentityError> {
        let now = self.now();
        let whose = (tenant.clone(), plugin.clone());
        if let Some(svid) = self.issued().get(&whose).filter(|svid| is_fresh(svid, now)) {
            return Ok(svid.clone());
        }
        let signer = signer(&self.authorities(), now).cloned();
        let signer = signer.ok_or(IdentityError::Host("there is no authority for workload certificates"))?;
        let until = now + SVID_SECONDS;
        let svid = signer.issue(tenant.as_str(), plugin.as_str(), now - SKEW_SECONDS, until)?;
        let mut issued = self.issued();
        if issued.len() >= SVIDS_KEPT_COUNT_MAX {
            issued.retain(|_, svid| is_fresh(svid, now));
        }
        // LIMIT: over it nothing is remembered, and every request of such a plugin has a certificate made.
        if issued.len() < SVIDS_KEPT_COUNT_MAX {
            issued.insert(whose, svid.clone());
        }
        Ok(svid)
    }

    /// The authorities whose certificates are to be trusted: a JWK set as SPIFFE wants it ("SPIFFE Trust Domain and Bundle",
    /// section 4).
    pub fn bundle(&self) -> Value {
        let authorities = self.authorities();
        let keys: Vec<Value> = authorities
            .iter()
            .filter_map(|authority| {
                let (x, y) = authority.coordinates()?;
                Some(json!({
                    "use": "x509-svid",
                    "kty": "EC",
                    "crv": "P-256",
                    "x": BASE64URL_NOPAD.encode(x),
                    "y": BASE64URL_NOPAD.encode(y),
                    "x5c": [BASE64.encode(authority.certificate())],
                }))
            })
            .collect();
        // One more for each authority that was made, and for each that went: it grows with every change.
        let made = authorities.last().map_or(0, SvidAuthority::number);
        let sequence = (2 * made).saturating_sub(authorities.len() as u64);
        json!({ "keys": keys, "spiffe_sequence": sequence, "spiffe_refresh_hint": REFRESH_SECONDS })
    }

    /// The same certificates in PEM, one after the other.
    pub fn bundle_pem(&self) -> String {
        self.authorities().iter().map(|authority| authority.certificate_pem().trim_end().to_owned() + "\n").collect()
    }

    /// The trust domain of this host's workloads.
    pub fn trust_domain(&self) -> &str {
        &self.0.trust_domain
    }

    fn now(&self) -> i64 {
        self.0.clock.now().as_second()
    }

    fn authorities(&self) -> RwLockReadGuard<'_, Vec<SvidAuthority>> {
        self.0.authorities.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn issued(&self) -> MutexGuard<'_, HashMap<(TenantId, PluginName), Svid>> {
        self.0.issued.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn at(number: u64) -> Key {
    Key::new(["identity", "svid-authority"]).number(number)
}

/// Which authority signs now: the newest of those that were published for a day, or else the oldest there is.
fn signer(authorities: &[SvidAuthority], now: i64) -> Option<&SvidAuthority> {
    let valid = || authorities.iter().filter(|it| it.from_second() <= now && now < it.until_second());
    let published = |it: &&SvidAuthority| now >= it.from_second() + SKEW_SECONDS + PUBLISHED_SECONDS;
    valid().filter(published).max_by_key(|it| it.number()).or_else(|| valid().min_by_key(|it| it.number()))
}

/// Whether half of its time, or more, is left. A clock that was set back makes a new one.
fn is_fresh(svid: &Svid, now: i64) -> bool {
    svid.from_second <= now && now < svid.until_second - SVID_SECONDS / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: i64 = 1_800_000_000;
    const DAY: i64 = 86_400;

    fn made(number: u64, at: i64) -> SvidAuthority {
        SvidAuthority::create("host.example", number, at - SKEW_SECONDS, at + AUTHORITY_SECONDS).unwrap()
    }

    #[test]
    fn the_newest_authority_that_was_published_for_a_day_signs_or_else_the_oldest() {
        let all = [made(1, START), made(2, START + 15 * DAY)];
        let signs = |now: i64| signer(&all, now).map(SvidAuthority::number);
        assert_eq!(signs(START), Some(1), "the first has no other before it");
        assert_eq!(signs(START + 15 * DAY), Some(1));
        assert_eq!(signs(START + 16 * DAY - 1), Some(1));
        assert_eq!(signs(START + 16 * DAY), Some(2));
        assert_eq!(signs(START + 44 * DAY), Some(2));
        assert_eq!(signs(START + 45 * DAY), None, "all over");
        assert_eq!(signs(START - SKEW_SECONDS - 1), None, "not yet");
        let late = [made(1, START), made(2, START + 30 * DAY)];
        assert_eq!(signer(&late, START + 30 * DAY).map(SvidAuthority::number), Some(2), "no other is left");
    }
}
