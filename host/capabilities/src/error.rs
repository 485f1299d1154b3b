//! What can go wrong while the capabilities are set up or their logs are read; guests see WIT errors instead.

use ringfence_core::{Blame, QuotaError};
use ringfence_store::StoreError;

/// The capabilities cannot do what they were asked.
#[derive(Debug, thiserror::Error)]
pub enum CapabilitiesError {
    /// TLS for outgoing requests cannot be set up.
    #[error("outgoing TLS cannot be set up: {0}")]
    Tls(String),
    /// An address range of the configuration is not one.
    #[error("`{0}` is not an address range such as `10.0.0.0/8` or `127.0.0.1:8080`")]
    AddressRange(String),
    /// A tenant's quota cannot be put into force.
    #[error(transparent)]
    Quota(#[from] QuotaError),
    /// What a tenant used today cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The guest log cannot be read.
    #[error("the guest log is unavailable: {0}")]
    Log(String),
}

impl CapabilitiesError {
    /// Who can mend it.
    pub fn blame(&self) -> Blame {
        Blame::Host
    }
}
