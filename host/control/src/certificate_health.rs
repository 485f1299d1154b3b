//! How the certificate of this host's listeners stands: set by whoever keeps it, shown by `/readyz` and the metrics.
//!
//! Must never hold the certificate or anything of its key.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use jiff::Timestamp;

/// As it changes. Without TLS of its own, or before the first certificate, there is no end.
#[derive(Debug, Default)]
pub struct CertificateHealth {
    until_second: AtomicI64,
    failures_count: AtomicU64,
}

impl CertificateHealth {
    /// A certificate is in use now that ends at this time, in seconds since 1970.
    pub fn took(&self, until_second: i64) {
        self.until_second.store(until_second, Ordering::Relaxed);
        self.failures_count.store(0, Ordering::Relaxed);
    }

    /// One more try for a certificate failed; says how many did since the last that went well.
    pub fn failed(&self) -> u64 {
        self.failures_count.fetch_add(1, Ordering::Relaxed).saturating_add(1)
    }

    /// When the one in use ends.
    pub fn until(&self) -> Option<Timestamp> {
        let second = self.until_second.load(Ordering::Relaxed);
        (second > 0).then(|| Timestamp::from_second(second).ok()).flatten()
    }

    /// How many tries failed since the last that went well.
    pub fn failures_count(&self) -> u64 {
        self.failures_count.load(Ordering::Relaxed)
    }

    /// A line for whoever asks whether the host is ready; none while all is well.
    pub(crate) fn line(&self) -> Option<String> {
        let count = self.failures_count();
        let until = self.until().map_or_else(|| "there is none".to_owned(), |until| format!("in use until {until}"));
        (count > 0).then(|| format!("certificate: {count} tries failed, {until}\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_said_while_all_is_well_and_the_end_is_said_when_it_is_not() {
        let health = CertificateHealth::default();
        assert_eq!((health.line(), health.until()), (None, None));
        assert_eq!(health.failed(), 1);
        assert_eq!(health.line().unwrap(), "certificate: 1 tries failed, there is none\n");
        health.took(1_800_000_000);
        assert_eq!(health.line(), None);
        assert_eq!((health.failed(), health.failed()), (1, 2));
        assert_eq!(health.line().unwrap(), "certificate: 2 tries failed, in use until 2027-01-15T08:00:00Z\n");
    }
}
