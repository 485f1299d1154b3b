//! Certificates of plugins over time: whose they are, who can verify them, and what a rotation changes.

use data_encoding::BASE64;
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use super::*;

const DAY: u64 = 86_400;

async fn workloads(host: &Host) -> Workloads {
    open(host, "host.example").await.unwrap()
}

async fn open(host: &Host, trust_domain: &str) -> Result<Workloads, IdentityError> {
    Workloads::open(host.tenants.platform().clone(), host.clock.clone(), trust_domain.to_owned()).await
}

fn svid(workloads: &Workloads, of: &str, plugin: &str) -> ringfence_keys::Svid {
    workloads.certificate(&tenant(of), &plugin.parse().unwrap()).unwrap()
}

/// Whether someone who reads the bundle takes the certificate now.
fn holds(host: &Host, bundle: &Value, svid: &ringfence_keys::Svid) -> bool {
    let keys = bundle["keys"].as_array().unwrap();
    let roots: Vec<CertificateDer<'static>> =
        keys.iter().map(|key| BASE64.decode(key["x5c"][0].as_str().unwrap().as_bytes()).unwrap().into()).collect();
    let anchors: Vec<_> = roots.iter().map(|root| anchor_from_trusted_cert(root).unwrap()).collect();
    let now = UnixTime::since_unix_epoch(Duration::from_secs(host.clock.now().as_second().unsigned_abs()));
    let leaf = svid.certified.end_entity_cert().unwrap();
    let leaf = EndEntityCert::try_from(leaf).unwrap();
    let names: Vec<&str> = leaf.valid_uri_names().collect();
    assert_eq!(names, [svid.id.as_str()]);
    let algorithms = webpki::ALL_VERIFICATION_ALGS;
    leaf.verify_for_usage(algorithms, &anchors, &[], now, KeyUsage::client_auth(), None, None).is_ok()
}

#[tokio::test]
async fn each_plugin_has_a_certificate_of_its_own_for_an_hour() {
    let host = Host::new().await;
    let workloads = workloads(&host).await;
    let first = svid(&workloads, "acme", "webhook");
    assert_eq!(first.id, "spiffe://host.example/tenant/acme/plugin/webhook");
    assert!(holds(&host, &workloads.bundle(), &first));
    let other = svid(&workloads, "beta", "webhook");
    assert_eq!(other.id, "spiffe://host.example/tenant/beta/plugin/webhook");
    assert_ne!(first.certified.cert, other.certified.cert);
    assert_eq!(svid(&workloads, "acme", "webhook").certified.cert, first.certified.cert, "as long as half is left");
    host.clock.pass(1_801);
    let second = svid(&workloads, "acme", "webhook");
    assert_ne!(second.certified.cert, first.certified.cert);
    assert!(holds(&host, &workloads.bundle(), &first), "for whoever holds it, to its end");
    host.clock.pass(1_800);
    assert!(!holds(&host, &workloads.bundle(), &first));
    assert!(holds(&host, &workloads.bundle(), &second));
}

#[tokio::test]
async fn a_rotation_is_published_before_it_is_used_and_nothing_that_was_signed_breaks() {
    let mut host = Host::new().await;
    let before = workloads(&host).await;
    let old = before.bundle();
    assert_eq!((old["keys"].as_array().unwrap().len(), old["spiffe_sequence"].as_u64()), (1, Some(1)));
    host.clock.pass(15 * DAY);
    before.turn().await.unwrap();
    let both = before.bundle();
    assert_eq!((both["keys"].as_array().unwrap().len(), both["spiffe_sequence"].as_u64()), (2, Some(2)));
    assert!(holds(&host, &old, &svid(&before, "acme", "webhook")), "whoever has the old bundle still verifies");
    host.clock.pass(DAY);
    let new = svid(&before, "acme", "webhook");
    assert!(holds(&host, &both, &new) && !holds(&host, &old, &new));
    host.restart().await;
    let after = workloads(&host).await;
    assert_eq!(after.bundle(), both, "durable");
    assert!(holds(&host, &after.bundle(), &new));
    host.clock.pass(15 * DAY);
    after.turn().await.unwrap();
    let last = after.bundle();
    // The first is over and gone, the third is made.
    assert_eq!((last["keys"].as_array().unwrap().len(), last["spiffe_sequence"].as_u64()), (2, Some(4)));
    assert!(holds(&host, &last, &svid(&after, "acme", "webhook")));
}

#[tokio::test]
async fn after_a_long_sleep_there_is_a_new_authority_at_once() {
    let host = Host::new().await;
    let first = workloads(&host).await;
    host.clock.pass(100 * DAY);
    assert!(first.certificate(&tenant("acme"), &"webhook".parse().unwrap()).is_err(), "never with one that is over");
    first.turn().await.unwrap();
    assert!(holds(&host, &first.bundle(), &svid(&first, "acme", "webhook")));
}

#[tokio::test]
async fn another_trust_domain_has_other_authorities() {
    let host = Host::new().await;
    let first = workloads(&host).await;
    let other = open(&host, "other.example").await.unwrap();
    let svid = svid(&other, "acme", "webhook");
    assert!(svid.id.starts_with("spiffe://other.example/"));
    assert!(holds(&host, &other.bundle(), &svid) && !holds(&host, &first.bundle(), &svid));
    assert_eq!(other.bundle()["keys"].as_array().unwrap().len(), 1);
    assert!(open(&host, "Not A Name").await.is_err());
}

#[tokio::test]
async fn the_bundle_shows_public_keys_in_both_forms_and_no_private_one() {
    let host = Host::new().await;
    let workloads = workloads(&host).await;
    let bundle = workloads.bundle();
    let key = bundle["keys"][0].as_object().unwrap();
    let names: Vec<&str> = key.keys().map(String::as_str).collect();
    assert_eq!(names.len(), 6, "{names:?}");
    assert!(!key.contains_key("d"));
    assert_eq!(BASE64URL_NOPAD.decode(key["x"].as_str().unwrap().as_bytes()).unwrap().len(), 32);
    let pem = workloads.bundle_pem();
    assert!(pem.starts_with("-----BEGIN CERTIFICATE-----") && !pem.contains("PRIVATE"), "{pem}");
}
