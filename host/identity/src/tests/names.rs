//! Names: whoever is vouched for from elsewhere never goes by the name of somebody whom the tenant made.

use rcgen::ExtendedKeyUsagePurpose;

use super::*;
use crate::certificate::tests::{SUBJECT, ca, certificate};

#[tokio::test]
async fn a_certificate_stands_for_no_name_that_a_key_or_a_person_has() {
    let mut host = Host::new().await;
    // The certificates of the tests end with the year 2026.
    host.clock.set_back(60 * 86_400);
    let ca = ca();
    let holder =
        CertificateHolder { subject: SUBJECT.to_owned(), name: "ci".parse().unwrap(), role: Role::TenantAdmin };
    let trust = CertificateTrust::new(&ca.pem, "", vec![holder]).unwrap();
    let settings = SignInSettings { certificates: Some(trust), ..SignInSettings::unset() };
    let acme = tenant("acme");
    host.identity.set_sign_in_settings(permit(Some("acme")), Some(&acme), settings).await.unwrap();
    let shown = certificate(&ca, SUBJECT, ExtendedKeyUsagePurpose::ClientAuth, 7);
    let channel = Channel::Tls { certificate: Some(Arc::new(shown)) };
    let by_certificate = async |host: &Host| {
        let shown = Shown { channel: &channel, ..Shown::nothing() };
        host.identity.authenticate(Proof::ClientCertificate { tenant: tenant("acme") }, HERE, &shown).await
    };
    let held = |host: &Host, issued: &Issued| {
        host.identity.verify(&Shown { channel: &channel, ..Shown::bearer(issued.access_token.expose()) })
    };
    let issued = by_certificate(&host).await.unwrap();
    assert_eq!(held(&host, &issued).unwrap().id().as_str(), "acme/ci");
    // Another admin's key, whose word counts as his.
    let (record, _) = host.key(Some("acme"), "ci", Role::TenantAdmin).await;
    unauthenticated(held(&host, &issued));
    unauthenticated(by_certificate(&host).await);
    host.identity.revoke_key(permit(Some("acme")), Some(&acme), &record.id).await.unwrap();
    unauthenticated(by_certificate(&host).await);
    host.restart().await;
    unauthenticated(held(&host, &issued));
    unauthenticated(by_certificate(&host).await);
}

#[tokio::test]
async fn a_session_by_certificate_ends_when_somebody_is_invited_under_its_name() {
    let host = Host::new().await;
    host.clock.set_back(60 * 86_400);
    let ca = ca();
    let holder = CertificateHolder { subject: SUBJECT.to_owned(), name: "ann".parse().unwrap(), role: Role::Developer };
    let trust = CertificateTrust::new(&ca.pem, "", vec![holder]).unwrap();
    let settings = SignInSettings { certificates: Some(trust), ..SignInSettings::unset() };
    let acme = tenant("acme");
    host.identity.set_sign_in_settings(permit(Some("acme")), Some(&acme), settings).await.unwrap();
    let shown = certificate(&ca, SUBJECT, ExtendedKeyUsagePurpose::ClientAuth, 7);
    let channel = Channel::Tls { certificate: Some(Arc::new(shown)) };
    let proof = Proof::ClientCertificate { tenant: tenant("acme") };
    let issued =
        host.identity.authenticate(proof, HERE, &Shown { channel: &channel, ..Shown::nothing() }).await.unwrap();
    let shown = Shown { channel: &channel, ..Shown::bearer(issued.access_token.expose()) };
    assert!(host.identity.verify(&shown).is_ok());
    let new = NewPerson { tenant: Some(acme), name: "ann".parse().unwrap(), role: Role::Developer };
    host.identity.invite(permit(Some("acme")), new).await.unwrap();
    unauthenticated(host.identity.verify(&shown));
}
