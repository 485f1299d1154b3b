//! Keys that tenants keep themselves: the innermost layer around the versions of a tenant's key, at a provider that the tenant
//! rules. When that provider stops opening it, the tenant is locked, and nobody else.
//!
//! Must never ask a provider that the operator did not allow for this very tenant: an address is where this host connects to.
//! A provider is reached when it is first needed, so that one that is away keeps no other tenant from opening.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::awskms::AwsKmsProvider;
use super::file::{FileProvider, MissingRootKey};
use super::pkcs11::Pkcs11Provider;
use super::provider::{Outside, RootKeyProvider};
use super::uri::RootKeyUri;
use super::vault::VaultProvider;
use crate::error::KeysError;

/// The providers that tenants may use for a key of their own.
pub(super) struct OwnKeys {
    allowed: BTreeMap<String, Allowed>,
    outside: Outside,
}

struct Allowed {
    uri: RootKeyUri,
    reached: Mutex<Option<Arc<dyn RootKeyProvider>>>,
}

// === impl OwnKeys ===

impl OwnKeys {
    pub(super) fn new(allowed: BTreeMap<String, RootKeyUri>, outside: Outside) -> Self {
        let allowed = allowed.into_iter().map(|(tenant, uri)| (tenant, Allowed { uri, reached: Mutex::default() }));
        Self { allowed: allowed.collect(), outside }
    }

    /// The scheme of the provider that a tenant may use; none when it may use none.
    pub(super) fn scheme(&self, tenant: &str) -> Option<&'static str> {
        self.allowed.get(tenant).map(|allowed| allowed.uri.scheme())
    }

    /// The provider of a tenant's own key. Blocks when it is first reached.
    pub(super) fn provider(&self, tenant: &str) -> Result<Arc<dyn RootKeyProvider>, KeysError> {
        let allowed = self.allowed.get(tenant).ok_or(KeysError::OwnNotAllowed)?;
        let mut reached = allowed.reached.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(provider) = &*reached {
            return Ok(Arc::clone(provider));
        }
        let provider = connect(&allowed.uri, MissingRootKey::Refuse, &self.outside).map_err(own)?;
        Ok(Arc::clone(reached.insert(Arc::from(provider))))
    }
}

/// Reaches a provider.
pub(super) fn connect(
    uri: &RootKeyUri,
    missing: MissingRootKey,
    outside: &Outside,
) -> Result<Box<dyn RootKeyProvider>, KeysError> {
    Ok(match uri {
        RootKeyUri::File(path) => Box::new(FileProvider::open(path, missing, &*outside.entropy)?),
        RootKeyUri::Pkcs11(uri) => Box::new(Pkcs11Provider::open(uri, missing)?),
        RootKeyUri::Vault(uri) => Box::new(VaultProvider::open(uri, missing)?),
        RootKeyUri::AwsKms(uri) => Box::new(AwsKmsProvider::open(uri, outside)?),
    })
}

/// What the provider of a tenant's own key says is never taken for a word of the root key's.
pub(super) fn own(error: KeysError) -> KeysError {
    KeysError::Own(Box::new(error))
}
