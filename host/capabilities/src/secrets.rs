//! `ringfence:plugin/secrets`: values a tenant stored for its plugins, each by a name that was granted.
//!
//! Must never say whether a secret exists to a guest that may not read it, and never put a value in a log or an error.
//! Kept in the tenant's store under `secret/<name>`; written through the control plane alone.

use ringfence_core::{Capability, ResourceName};
use ringfence_engine::Guest;
use ringfence_store::Key;
use wasmtime::component::Linker;

use crate::bind::{Bindings, View};
use crate::bindings::secrets::ringfence::plugin::secrets;

/// Offers `ringfence:plugin/secrets@0.1.0`.
pub(crate) fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    secrets::add_to_linker::<_, Bindings>(linker, |guest| View::of(guest))
}

impl secrets::Host for View<'_> {
    async fn get(&mut self, name: String) -> wasmtime::Result<Result<Option<Vec<u8>>, secrets::Error>> {
        let bound = self.bound()?;
        bound.call()?;
        // SECURITY: the grant is asked before the store, so that a refusal takes the same path for any name.
        let granted = name.parse::<ResourceName>().is_ok() && bound.may(Capability::Secrets, &name);
        if !granted {
            return Ok(Err(secrets::Error::Denied("this secret is not granted".to_owned())));
        }
        Ok(match bound.store.get(&Key::new(["secret", name.as_str()])).await {
            Ok(record) => Ok(record.map(|record| record.value.to_vec())),
            Err(_) => Err(secrets::Error::Other("the secret is unavailable".to_owned())),
        })
    }
}
