//! `ringfence:plugin/secrets`: values a tenant stored for its plugins, each by a name that was granted.
//!
//! Must never say whether a secret exists to a guest that may not read it, and never put a value in a log or an error.
//! Kept in the tenant's store under `secret/<name>`; written through the control plane alone.

use ringfence_core::{Capability, HostAct, On, ResourceName};
use ringfence_engine::Guest;
use ringfence_store::Key;
use wasmtime::component::Linker;

use crate::bind::{Bindings, View};
use crate::bindings::secrets::ringfence::plugin::secrets;
use crate::guarded::Got;

/// Offers `ringfence:plugin/secrets@0.1.0`.
pub(crate) fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    secrets::add_to_linker::<_, Bindings>(linker, |guest| View::of(guest))
}

impl secrets::Host for View<'_> {
    async fn get(&mut self, name: String) -> wasmtime::Result<Result<Option<Vec<u8>>, secrets::Error>> {
        let bound = self.bound()?;
        bound.call()?;
        // SECURITY: the grant is asked before the store, so that a refusal takes the same path for any name.
        let granted = name.parse::<ResourceName>().ok().filter(|_| bound.may(Capability::Secrets, &name));
        let why = match &granted {
            None => Some("this secret is not granted"),
            Some(name) if bound.leave.has(HostAct::UseSecret, On::Secret(name)) => None,
            Some(_) => Some("policy forbids this secret"),
        };
        if let Some(why) = why {
            bound.guarded.asked("secret", &name, Got::Nothing);
            return Ok(Err(secrets::Error::Denied(why.to_owned())));
        }
        Ok(match bound.store.get(&Key::new(["secret", name.as_str()])).await {
            Ok(record) => {
                let got = if record.is_some() { Got::Something } else { Got::Nothing };
                bound.guarded.asked("secret", &name, got);
                Ok(record.map(|record| record.value.to_vec()))
            }
            Err(_) => Err(secrets::Error::Other("the secret is unavailable".to_owned())),
        })
    }
}

#[cfg(test)]
mod tests {
    use ringfence_core::Budget;

    use super::*;
    use crate::testing::Rig;

    #[tokio::test]
    async fn a_granted_secret_is_given_and_any_other_is_denied_alike() {
        let rig = Rig::new(&[(Capability::Secrets, &["webhook-key", "unset"])]).await;
        for name in ["webhook-key", "other"] {
            rig.store.put(&Key::new(["secret", name]), b"value".to_vec()).await.unwrap();
        }
        let mut guest = rig.guest(Budget::DEFAULT);
        let mut view = guest.view();
        assert_eq!(
            secrets::Host::get(&mut view, "webhook-key".into()).await.unwrap().unwrap(),
            Some(b"value".to_vec())
        );
        assert_eq!(secrets::Host::get(&mut view, "unset".into()).await.unwrap().unwrap(), None);
        let existing = format!("{:?}", secrets::Host::get(&mut view, "other".into()).await.unwrap());
        let missing = format!("{:?}", secrets::Host::get(&mut view, "nothing".into()).await.unwrap());
        let odd = format!("{:?}", secrets::Host::get(&mut view, "../x".into()).await.unwrap());
        assert!(existing.contains("Denied") && existing == missing && missing == odd);
        rig.grant(&[]);
        assert!(secrets::Host::get(&mut guest.view(), "webhook-key".into()).await.unwrap().is_err());
    }

    #[tokio::test]
    async fn policy_is_asked_for_a_granted_secret_and_for_no_other() {
        let rig = Rig::new(&[(Capability::Secrets, &["webhook-key"])]).await;
        rig.store.put(&Key::new(["secret", "webhook-key"]), b"value".to_vec()).await.unwrap();
        let mut guest = rig.guest(Budget::DEFAULT);
        rig.strict.forbid(&[HostAct::UseSecret]);
        for name in ["webhook-key", "other"] {
            let denied = secrets::Host::get(&mut guest.view(), name.into()).await.unwrap();
            assert!(matches!(denied, Err(secrets::Error::Denied(_))));
        }
        assert_eq!(rig.strict.asked(), [(HostAct::UseSecret, "webhook-key".to_owned())]);
        rig.strict.forbid(&[]);
        assert!(secrets::Host::get(&mut guest.view(), "webhook-key".into()).await.unwrap().is_ok());
    }
}
