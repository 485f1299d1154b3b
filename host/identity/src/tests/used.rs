//! Last use: kept to the hour, durable with the sign-in, forgotten with its tenant.

use super::*;

impl Host {
    fn uses(&self) -> Vec<LastUse> {
        let mut all = self.identity.last_uses(permit(Some("acme")), Some(&tenant("acme"))).unwrap();
        all.sort_by(|a, b| a.principal.cmp(&b.principal));
        all
    }
}

#[tokio::test]
async fn a_sign_in_is_kept_to_the_hour_for_the_principal_and_its_key_and_survives_a_restart() {
    let mut host = Host::new().await;
    assert!(host.uses().is_empty());
    let (record, key) = host.key(Some("acme"), "ci", Role::Developer).await;
    host.sign_in(&key).await.unwrap();
    let hour = Timestamp::from_second(1_800_000_000 / LAST_USE_SECONDS * LAST_USE_SECONDS).unwrap();
    let kept = host.uses();
    assert_eq!((kept.len(), kept[0].at, kept[0].keys.get(&record.id)), (1, hour, Some(&hour)));
    host.clock.pass(1);
    host.sign_in(&key).await.unwrap();
    assert_eq!(host.uses(), kept, "nothing new within the hour");
    host.clock.pass(7_200);
    let (other, second) = host.key(Some("acme"), "ci", Role::Developer).await;
    host.sign_in(&second).await.unwrap();
    let later = host.uses();
    assert!(later[0].at > hour && later[0].keys[&record.id] == hour && later[0].keys[&other.id] == later[0].at);
    host.restart().await;
    assert_eq!(host.uses(), later);
    assert!(host.identity.last_uses(permit(Some("beta")), Some(&tenant("acme"))).is_err());
    host.identity.forget_tenant(&tenant("acme")).await;
    assert!(host.uses().is_empty());
}

#[tokio::test]
async fn who_is_invited_under_a_name_later_is_told_from_who_had_it_before() {
    let host = Host::new().await;
    let acme = tenant("acme");
    let mut invited_at = Vec::new();
    for _ in 0..2 {
        let new = NewPerson { tenant: Some(acme.clone()), name: "ann".parse().unwrap(), role: Role::Developer };
        let (record, token) = host.identity.invite(permit(Some("acme")), new).await.unwrap();
        assert!(host.identity.absent(&acme, &record.principal).is_none(), "nobody came yet");
        let proof = Proof::Invitation { token, password: None };
        host.identity.authenticate(proof, HERE, &Shown::nothing()).await.unwrap();
        let ann = host.identity.absent(&acme, &record.principal).unwrap();
        invited_at.push(host.identity.invited_at(&ann).unwrap());
        host.clock.pass(60);
    }
    assert_eq!(invited_at[1].as_second() - invited_at[0].as_second(), 60);
}

#[tokio::test]
async fn who_is_away_is_known_by_his_key_or_record_until_it_ends() {
    let host = Host::new().await;
    let (record, _) = host.key(Some("acme"), "ci", Role::Developer).await;
    let found = host.identity.absent(&tenant("acme"), &record.principal).unwrap();
    assert_eq!((found.role(), found.session(), found.strength()), (Some(Role::Developer), None, Strength::None));
    assert!(host.identity.absent(&tenant("beta"), &record.principal).is_none());
    assert!(host.identity.absent(&tenant("acme"), &"acme/nobody".parse().unwrap()).is_none());
    host.identity.revoke_key(permit(Some("acme")), Some(&tenant("acme")), &record.id).await.unwrap();
    assert!(host.identity.absent(&tenant("acme"), &record.principal).is_none());
}
