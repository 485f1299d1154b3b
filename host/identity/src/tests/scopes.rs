//! Scopes of keys: held by every session of the key, also after a restart; one name, one scope. How long a place lets keys live.

use ringfence_core::KeyScope;

use super::*;

fn invoking() -> Option<Arc<KeyScope>> {
    let hello: PluginName = "hello".parse().unwrap();
    Some(Arc::new(KeyScope { classes: Some([ActClass::Invoke].into()), plugins: Some([hello].into()) }))
}

impl Host {
    async fn scoped(
        &self,
        of: Option<&str>,
        name: &str,
        scope: Option<Arc<KeyScope>>,
    ) -> Result<(KeyRecord, SecretString), IdentityError> {
        let role = if of.is_some() { Role::Caller } else { Role::Operator };
        let (tenant, name) = (of.map(tenant), name.parse().unwrap());
        let new = NewKey { tenant, name, role, expires_in_seconds: None, scope };
        self.identity.create_key(permit(of), new).await
    }

    async fn lasting(&self, seconds: Option<u32>) -> Result<Option<Timestamp>, IdentityError> {
        let (tenant, name) = (Some(tenant("acme")), "ci".parse().unwrap());
        let new = NewKey { tenant, name, role: Role::Caller, expires_in_seconds: seconds, scope: None };
        self.identity.create_key(permit(Some("acme")), new).await.map(|(record, _)| record.expires_at)
    }
}

#[tokio::test]
async fn a_session_is_held_to_the_scope_of_its_key_also_after_a_restart() {
    let mut host = Host::new().await;
    let (record, key) = host.scoped(Some("acme"), "door", invoking()).await.unwrap();
    assert_eq!(record.scope, invoking());
    let issued = host.sign_in(&key).await.unwrap();
    assert_eq!(issued.principal.scope(), invoking().as_ref());
    assert_eq!(host.verify(&issued).unwrap().scope(), invoking().as_ref());
    host.restart().await;
    assert_eq!(host.verify(&issued).unwrap().scope(), invoking().as_ref());
    assert_eq!(host.sign_in(&key).await.unwrap().principal.scope(), invoking().as_ref());
    // What is done for him while he is away is no more than he could do.
    assert_eq!(host.identity.absent(&tenant("acme"), &record.principal).unwrap().scope(), invoking().as_ref());
    let (_, other) = host.key(Some("acme"), "ci", Role::Caller).await;
    assert_eq!(host.sign_in(&other).await.unwrap().principal.scope(), None);
}

#[tokio::test]
async fn a_key_and_a_session_of_before_there_were_scopes_are_read_and_held_to_none() {
    let host = Host::new().await;
    let (record, issued) = host.developer().await;
    let text = serde_json::to_value(&record).unwrap();
    assert!(text.get("scope").is_none(), "{text}");
    assert_eq!(serde_json::from_value::<KeyRecord>(text).unwrap(), record);
    let stored = host.identity.shared.read().session(&issued.session_id).cloned().unwrap();
    let text = serde_json::to_value(&stored).unwrap();
    assert!(text.get("scope").is_none(), "{text}");
    assert_eq!(
        serde_json::from_value::<crate::record::StoredSession>(text)
            .unwrap()
            .principal(ringfence_core::Strength::Secret)
            .scope(),
        None
    );
}

#[tokio::test]
async fn a_name_means_one_scope_while_a_key_of_it_lives() {
    let host = Host::new().await;
    let (first, _) = host.scoped(Some("acme"), "door", invoking()).await.unwrap();
    host.scoped(Some("acme"), "door", invoking()).await.unwrap();
    assert!(matches!(host.scoped(Some("acme"), "door", None).await, Err(IdentityError::NameTaken { .. })));
    let second = host.identity.list_keys(permit(Some("acme")), Some(&tenant("acme"))).await.unwrap();
    for record in second.iter().filter(|record| record.principal == first.principal) {
        host.identity.revoke_key(permit(Some("acme")), Some(&tenant("acme")), &record.id).await.unwrap();
    }
    assert!(host.scoped(Some("acme"), "door", None).await.is_ok());
}

#[tokio::test]
async fn an_operators_key_is_for_classes_of_acts_and_names_no_plugins() {
    let host = Host::new().await;
    assert!(matches!(host.scoped(None, "bob", invoking()).await, Err(IdentityError::RoleMisplaced { .. })));
    let reading = Some(Arc::new(KeyScope { classes: Some([ActClass::Read].into()), plugins: None }));
    let (_, key) = host.scoped(None, "bob", reading.clone()).await.unwrap();
    assert_eq!(host.sign_in(&key).await.unwrap().principal.scope(), reading.as_ref());
}

#[tokio::test]
async fn keys_live_as_long_as_their_tenant_lets_them() {
    let host = Host::new().await;
    assert_eq!(host.lasting(None).await.unwrap(), None);
    let settings = SignInSettings { keys_days_max: Some(30), ..SignInSettings::unset() };
    let acme = tenant("acme");
    host.identity.set_sign_in_settings(permit(Some("acme")), Some(&acme), settings).await.unwrap();
    let now = host.identity.shared.clock.now();
    let after = |days: i64| Some(now + jiff::SignedDuration::from_hours(24 * days));
    assert_eq!(host.lasting(None).await.unwrap(), after(30));
    assert_eq!(host.lasting(Some(86_400)).await.unwrap(), after(1));
    assert_eq!(host.lasting(Some(30 * 86_400)).await.unwrap(), after(30));
    let longer = host.lasting(Some(30 * 86_400 + 1)).await;
    assert!(matches!(longer, Err(IdentityError::Lifetime { seconds_max: 2_592_000 })));
}
