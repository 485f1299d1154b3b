//! Identity as a whole: what proves an identity, what does not, and when it stops doing so.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use ringfence_core::{ActClass, Action, DecisionId, Permit, Resource};
use ringfence_keys::{RootKey, RootKeyUri, SigningKey};
use ringfence_store::{Backend, DiskOptions, Store};
use serde_json::{Value, json};

use super::*;

const ISSUER: &str = "https://ringfence.test";
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// Bytes that never repeat: SHA-256 in counter mode.
pub(crate) struct Dice(AtomicU64);

impl Dice {
    pub(crate) fn new() -> Self {
        Self(AtomicU64::new(0))
    }
}

impl Entropy for Dice {
    fn fill(&self, into: &mut [u8]) {
        for chunk in into.chunks_mut(32) {
            let block = Sha256::digest(self.0.fetch_add(1, Ordering::Relaxed).to_be_bytes());
            chunk.copy_from_slice(&block[..chunk.len()]);
        }
    }
}

/// A clock that stands still until it is told.
struct Hands {
    wall: AtomicI64,
    monotonic: AtomicU64,
}

impl Hands {
    fn pass(&self, seconds: u64) {
        self.wall.fetch_add(i64::try_from(seconds).unwrap(), Ordering::SeqCst);
        self.monotonic.fetch_add(seconds, Ordering::SeqCst);
    }
    fn set_back(&self, seconds: i64) {
        self.wall.fetch_sub(seconds, Ordering::SeqCst);
    }
}

impl Clock for Hands {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(self.wall.load(Ordering::SeqCst)).unwrap()
    }
    fn monotonic(&self) -> Duration {
        Duration::from_secs(self.monotonic.load(Ordering::SeqCst))
    }
}

/// A host with tenants acme and beta, that can be restarted.
struct Host {
    directory: tempfile::TempDir,
    store: Store,
    tenants: Tenants,
    clock: Arc<Hands>,
    dice: Arc<Dice>,
    identity: Identity,
    provider: Arc<oidc::Provider>,
}

impl Host {
    async fn start(open: impl FnOnce(&Path) -> Store) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path());
        let clock = Arc::new(Hands { wall: AtomicI64::new(1_800_000_000), monotonic: AtomicU64::new(5_000) });
        let dice = Arc::new(Dice::new());
        let provider = Arc::new(oidc::Provider::new());
        let (tenants, identity) = Self::up(&directory, &store, &clock, &dice, &provider).await;
        for name in ["acme", "beta"] {
            tenants.create(&tenant(name), name).await.unwrap();
        }
        Self { directory, store, tenants, clock, dice, identity, provider }
    }

    async fn new() -> Self {
        Self::start(|_| Store::memory()).await
    }

    async fn up(
        directory: &tempfile::TempDir,
        store: &Store,
        clock: &Arc<Hands>,
        dice: &Arc<Dice>,
        provider: &Arc<oidc::Provider>,
    ) -> (Tenants, Identity) {
        let uri = RootKeyUri::File(directory.path().join("root.key"));
        let root = Arc::new(RootKey::open_or_create(&uri, dice.as_ref()).unwrap());
        let tenants = Tenants::open(store.clone(), root, dice.clone(), clock.clone()).await.unwrap();
        let platform = tenants.platform().clone();
        let identity =
            Identity::open(platform, tenants.clone(), clock.clone(), dice.clone(), config(ISSUER, provider.clone()))
                .await
                .unwrap();
        (tenants, identity)
    }

    async fn restart(&mut self) {
        (self.tenants, self.identity) =
            Self::up(&self.directory, &self.store, &self.clock, &self.dice, &self.provider).await;
    }

    async fn key(&self, of: Option<&str>, name: &str, role: Role) -> (KeyRecord, SecretString) {
        let new =
            NewKey { tenant: of.map(tenant), name: name.parse().unwrap(), role, expires_in_seconds: None, scope: None };
        self.identity.create_key(permit(of), new).await.unwrap()
    }

    async fn sign_in(&self, key: &SecretString) -> Result<Issued, IdentityError> {
        self.identity.authenticate(Proof::ApiKey { key: key.clone() }, HERE, &Shown::nothing()).await
    }

    /// A developer of acme who is signed in.
    async fn developer(&self) -> (KeyRecord, Issued) {
        let (record, key) = self.key(Some("acme"), "ci", Role::Developer).await;
        (record, self.sign_in(&key).await.unwrap())
    }

    fn verify(&self, issued: &Issued) -> Result<Principal, IdentityError> {
        self.identity.verify(&Shown::bearer(issued.access_token.expose()))
    }
}

fn config(issuer: &str, fetch: Arc<dyn Fetch>) -> IdentityConfig {
    IdentityConfig {
        issuer: issuer.to_owned(),
        origin: Some("https://ringfence.test".to_owned()),
        second_person_hours: 24,
        verifiers: Vec::new(),
        fetch,
    }
}

fn tenant(name: &str) -> TenantId {
    name.parse().unwrap()
}

fn place(of: Option<&str>) -> Resource {
    of.map_or(Resource::Host, |of| Resource::Tenant { tenant: tenant(of) })
}

#[expect(clippy::disallowed_methods, reason = "tests play policy")]
fn permit_by<A: Action>(by: &str, resource: Resource) -> Permit<A> {
    Permit::mint(DecisionId::random(&Dice::new()), by.parse().unwrap(), resource)
}

fn permit<A: Action>(of: Option<&str>) -> Permit<A> {
    permit_by(&of.map_or("operator/ada".to_owned(), |of| format!("{of}/ada")), place(of))
}

fn unauthenticated<T>(result: Result<T, IdentityError>) {
    match result {
        Err(IdentityError::Unauthenticated) => {}
        Err(other) => panic!("refused otherwise: {other}"),
        Ok(_) => panic!("it was taken"),
    }
}

// === API keys and their sessions ===

#[tokio::test]
async fn a_key_signs_its_principal_in() {
    let host = Host::new().await;
    let (record, issued) = host.developer().await;
    assert_eq!((issued.token_type, issued.expires_in, issued.strength), ("Bearer", 300, Strength::Secret));
    let principal = host.verify(&issued).unwrap();
    assert_eq!(principal, issued.principal);
    assert_eq!(principal.id().as_str(), "acme/ci");
    assert_eq!(
        (principal.kind(), principal.role(), principal.tenant()),
        (PrincipalKind::Service, Some(Role::Developer), Some(&tenant("acme")))
    );
    assert_eq!(principal.session(), Some(&issued.session_id));
    assert_eq!(principal.id(), &record.principal);
}

#[tokio::test]
async fn wrong_unknown_and_malformed_keys_get_the_same_answer() {
    let host = Host::new().await;
    let (record, key) = host.key(Some("acme"), "ci", Role::Developer).await;
    let secret = key.expose().rsplit_once('_').unwrap().1;
    let wrong = if secret.starts_with('a') { secret.replacen('a', "b", 1) } else { format!("a{}", &secret[1..]) };
    for text in [
        format!("rfk_{}_{wrong}", record.id),
        format!("rfk_aaaaaaaaaaaaaaaa_{secret}"),
        "rfk_x_y".to_owned(),
        String::new(),
    ] {
        let error = host.sign_in(&SecretString::new(text)).await.unwrap_err();
        assert_eq!(error.to_string(), "the credentials are not valid");
    }
    assert!(host.sign_in(&key).await.is_ok());
}

#[tokio::test]
async fn a_revoked_key_stops_the_next_call_and_the_next_sign_in() {
    let host = Host::new().await;
    let (record, key) = host.key(Some("acme"), "ci", Role::Developer).await;
    let (one, two) = (host.sign_in(&key).await.unwrap(), host.sign_in(&key).await.unwrap());
    assert!(host.verify(&one).is_ok() && host.verify(&two).is_ok());
    host.identity.revoke_key(permit(Some("acme")), Some(&tenant("acme")), &record.id).await.unwrap();
    unauthenticated(host.verify(&one));
    unauthenticated(host.verify(&two));
    unauthenticated(host.sign_in(&key).await);
    host.identity.revoke_key(permit(Some("acme")), Some(&tenant("acme")), &record.id).await.unwrap();
}

#[tokio::test]
async fn a_revoked_session_ends_alone() {
    let host = Host::new().await;
    let (_, key) = host.key(Some("acme"), "ci", Role::Developer).await;
    let (one, two) = (host.sign_in(&key).await.unwrap(), host.sign_in(&key).await.unwrap());
    let missing = host.identity.revoke_session(permit(Some("beta")), Some(&tenant("beta")), &one.session_id).await;
    assert!(matches!(missing, Err(IdentityError::NotFound { .. })));
    host.identity.revoke_session(permit(Some("acme")), Some(&tenant("acme")), &one.session_id).await.unwrap();
    unauthenticated(host.verify(&one));
    assert!(host.verify(&two).is_ok());
    assert!(!host.identity.is_alive(&one.session_id) && host.identity.is_alive(&two.session_id));
    host.clock.pass(305);
    assert!(!host.identity.is_alive(&two.session_id));
}

#[tokio::test]
async fn an_expired_key_ends_its_sessions_too() {
    let host = Host::new().await;
    let new = NewKey {
        tenant: Some(tenant("acme")),
        name: "brief".parse().unwrap(),
        role: Role::Caller,
        expires_in_seconds: Some(60),
        scope: None,
    };
    let (_, key) = host.identity.create_key(permit(Some("acme")), new).await.unwrap();
    let issued = host.sign_in(&key).await.unwrap();
    host.clock.pass(59);
    assert!(host.verify(&issued).is_ok());
    host.clock.pass(1);
    unauthenticated(host.verify(&issued));
    unauthenticated(host.sign_in(&key).await);
}

#[tokio::test]
async fn keys_revocations_and_sessions_survive_a_restart() {
    let mut host = Host::new().await;
    let (_, good) = host.key(Some("acme"), "good", Role::Caller).await;
    let (bad_record, bad) = host.key(Some("acme"), "bad", Role::Caller).await;
    let (open, ended) = (host.sign_in(&good).await.unwrap(), host.sign_in(&bad).await.unwrap());
    let (closed, other) = (host.sign_in(&good).await.unwrap(), host.sign_in(&good).await.unwrap());
    host.identity.revoke_key(permit(Some("acme")), Some(&tenant("acme")), &bad_record.id).await.unwrap();
    host.identity.revoke_session(permit(Some("acme")), Some(&tenant("acme")), &closed.session_id).await.unwrap();
    host.restart().await;
    assert_eq!(host.verify(&open).unwrap(), open.principal);
    assert!(host.verify(&other).is_ok());
    unauthenticated(host.verify(&ended));
    unauthenticated(host.verify(&closed));
    unauthenticated(host.sign_in(&bad).await);
    assert!(host.sign_in(&good).await.is_ok());
    let listed = host.identity.list_keys(permit(Some("acme")), Some(&tenant("acme"))).await.unwrap();
    let mut listed: Vec<(&str, bool)> =
        listed.iter().map(|key| (key.name.as_str(), key.revoked_at.is_some())).collect();
    listed.sort_unstable();
    assert_eq!(listed, [("bad", true), ("good", false)]);
}

#[tokio::test]
async fn a_deleted_tenants_tokens_and_keys_prove_nothing() {
    let host = Host::new().await;
    let (_, key) = host.key(Some("acme"), "ci", Role::Developer).await;
    let (_, other) = host.key(Some("beta"), "ci", Role::Developer).await;
    let (issued, others) = (host.sign_in(&key).await.unwrap(), host.sign_in(&other).await.unwrap());
    host.tenants.delete(&tenant("acme")).await.unwrap();
    unauthenticated(host.verify(&issued));
    unauthenticated(host.sign_in(&key).await);
    host.identity.forget_tenant(&tenant("acme")).await;
    unauthenticated(host.verify(&issued));
    unauthenticated(host.sign_in(&key).await);
    // A new tenant of the old name does not inherit them.
    host.tenants.create(&tenant("acme"), "acme").await.unwrap();
    unauthenticated(host.verify(&issued));
    unauthenticated(host.sign_in(&key).await);
    assert!(host.verify(&others).is_ok());
}

#[tokio::test]
async fn sessions_of_a_key_are_bounded_and_those_over_are_swept() {
    let host = Host::new().await;
    let (_, key) = host.key(Some("acme"), "ci", Role::Developer).await;
    let holder = || {
        let record = host.identity.shared.read().keys.values().next().unwrap().record.clone();
        Holder {
            id: record.principal,
            kind: PrincipalKind::Service,
            role: record.role,
            tenant: record.tenant,
            key: Some(record.id),
            method: Method::ApiKey,
            strength: Strength::Secret,
            scope: None,
            proved_by: ProvedBy::Itself,
        }
    };
    let here = || Arrival { binding: Binding::Unbound, source: HERE };
    let first = host.sign_in(&key).await.unwrap();
    host.clock.pass(1);
    for _ in 0..ringfence_core::limits::SESSIONS_PER_KEY_COUNT_MAX {
        host.identity.open_session(holder(), here()).await.unwrap();
    }
    unauthenticated(host.verify(&first));
    assert_eq!(host.identity.shared.read().session_count(), ringfence_core::limits::SESSIONS_PER_KEY_COUNT_MAX);
    host.clock.pass(400);
    host.identity.open_session(holder(), here()).await.unwrap();
    assert_eq!(host.identity.shared.read().session_count(), 1);
    let left = host.tenants.open_tenant(&tenant("acme")).unwrap();
    let page = left.scan(&ringfence_store::Key::new(["identity", "session"]), None, 10).await.unwrap();
    assert_eq!(page.records.len(), 1);
}

// === making keys ===

#[tokio::test]
async fn a_permit_for_one_place_makes_revokes_and_lists_nothing_elsewhere() {
    let host = Host::new().await;
    let (record, key) = host.key(Some("acme"), "ci", Role::Developer).await;
    let new = |of: Option<&str>, role| NewKey {
        tenant: of.map(tenant),
        name: "x".parse().unwrap(),
        role,
        expires_in_seconds: None,
        scope: None,
    };
    for (permitted, asked, role) in [
        (Some("acme"), Some("beta"), Role::Caller),
        (None, Some("acme"), Role::Caller),
        (Some("acme"), None, Role::Operator),
    ] {
        assert!(matches!(
            host.identity.create_key(permit(permitted), new(asked, role)).await,
            Err(IdentityError::WrongPermit)
        ));
        let asked = asked.map(tenant);
        assert!(matches!(
            host.identity.list_keys(permit(permitted), asked.as_ref()).await,
            Err(IdentityError::WrongPermit)
        ));
        assert!(matches!(
            host.identity.revoke_key(permit(permitted), asked.as_ref(), &record.id).await,
            Err(IdentityError::WrongPermit)
        ));
    }
    // A key of another tenant does not exist.
    let elsewhere = host.identity.revoke_key(permit(Some("beta")), Some(&tenant("beta")), &record.id).await;
    assert!(matches!(elsewhere, Err(IdentityError::NotFound { .. })));
    assert!(host.sign_in(&key).await.is_ok());
}

#[tokio::test]
async fn roles_stay_in_their_place() {
    let host = Host::new().await;
    let make = async |of: Option<&str>, role| {
        let new =
            NewKey { tenant: of.map(tenant), name: "x".parse().unwrap(), role, expires_in_seconds: None, scope: None };
        host.identity.create_key(permit(of), new).await
    };
    assert!(matches!(make(Some("acme"), Role::Operator).await, Err(IdentityError::RoleMisplaced { .. })));
    for role in [Role::TenantAdmin, Role::Developer, Role::Auditor, Role::Caller] {
        assert!(matches!(make(None, role).await, Err(IdentityError::RoleMisplaced { .. })));
    }
    assert!(matches!(make(Some("nobody"), Role::Caller).await, Err(IdentityError::NotFound { .. })));
}

#[tokio::test]
async fn an_operator_makes_a_tenants_first_admin_key_and_no_other() {
    let host = Host::new().await;
    let make = async |role, name: &str| {
        let new = NewKey {
            tenant: Some(tenant("acme")),
            name: name.parse().unwrap(),
            role,
            expires_in_seconds: None,
            scope: None,
        };
        host.identity.create_key(permit_by("operator/ada", place(Some("acme"))), new).await
    };
    assert!(matches!(make(Role::Developer, "dev").await, Err(IdentityError::OperatorLimited { .. })));
    assert!(make(Role::TenantAdmin, "admin").await.is_ok());
    assert!(matches!(make(Role::TenantAdmin, "spy").await, Err(IdentityError::OperatorLimited { .. })));
}

#[tokio::test]
async fn a_name_means_one_role_while_a_key_of_it_lives() {
    let host = Host::new().await;
    let make = async |role| {
        let new = NewKey {
            tenant: Some(tenant("acme")),
            name: "ci".parse().unwrap(),
            role,
            expires_in_seconds: None,
            scope: None,
        };
        host.identity.create_key(permit(Some("acme")), new).await
    };
    let (first, _) = make(Role::Developer).await.unwrap();
    let (second, _) = make(Role::Developer).await.unwrap();
    assert!(matches!(make(Role::Auditor).await, Err(IdentityError::NameTaken { role: "developer", .. })));
    for id in [first.id, second.id] {
        host.identity.revoke_key(permit(Some("acme")), Some(&tenant("acme")), &id).await.unwrap();
    }
    assert!(make(Role::Auditor).await.is_ok());
}

#[tokio::test]
async fn a_lifetime_of_nothing_is_refused() {
    let host = Host::new().await;
    let new = NewKey {
        tenant: Some(tenant("acme")),
        name: "x".parse().unwrap(),
        role: Role::Caller,
        expires_in_seconds: Some(0),
        scope: None,
    };
    assert!(matches!(host.identity.create_key(permit(Some("acme")), new).await, Err(IdentityError::Lifetime { .. })));
}

// === bootstrap ===

#[tokio::test]
async fn the_enrolment_token_works_once() {
    let host = Host::new().await;
    let token = host.identity.bootstrap_token().await.unwrap().unwrap();
    let proof = || Proof::Bootstrap { token: token.clone(), name: "ada".parse().unwrap() };
    let issued = host.identity.authenticate(proof(), HERE, &Shown::nothing()).await.unwrap();
    let principal = host.verify(&issued).unwrap();
    assert_eq!(
        (principal.id().as_str(), principal.role(), principal.tenant()),
        ("operator/ada", Some(Role::Operator), None)
    );
    unauthenticated(host.identity.authenticate(proof(), HERE, &Shown::nothing()).await);
    assert!(host.identity.bootstrap_token().await.unwrap().is_none());
}

#[tokio::test]
async fn a_wrong_enrolment_token_does_not_use_up_the_right_one() {
    let host = Host::new().await;
    let wrong = Proof::Bootstrap { token: SecretString::new("rfb_x".to_owned()), name: "eve".parse().unwrap() };
    unauthenticated(host.identity.authenticate(wrong, HERE, &Shown::nothing()).await);
    assert!(host.identity.bootstrap_token().await.unwrap().is_some());
}

#[tokio::test]
async fn enrolment_is_over_with_the_first_operator_key_and_open_again_without_any() {
    let mut host = Host::new().await;
    let old = host.identity.bootstrap_token().await.unwrap().unwrap();
    let (record, key) = host.key(None, "ada", Role::Operator).await;
    assert!(host.identity.bootstrap_token().await.unwrap().is_none());
    unauthenticated(
        host.identity
            .authenticate(
                Proof::Bootstrap { token: old.clone(), name: "eve".parse().unwrap() },
                HERE,
                &Shown::nothing(),
            )
            .await,
    );
    assert_eq!(host.sign_in(&key).await.unwrap().principal.id().as_str(), "operator/ada");
    host.restart().await;
    assert!(host.identity.bootstrap_token().await.unwrap().is_none());
    host.identity.revoke_key(permit(None), None, &record.id).await.unwrap();
    host.restart().await;
    let new = host.identity.bootstrap_token().await.unwrap().unwrap();
    assert_ne!(new, old);
    unauthenticated(
        host.identity
            .authenticate(Proof::Bootstrap { token: old, name: "eve".parse().unwrap() }, HERE, &Shown::nothing())
            .await,
    );
}

// === tokens ===

#[tokio::test]
async fn a_token_ends_after_five_minutes() {
    let host = Host::new().await;
    let (_, issued) = host.developer().await;
    host.clock.pass(300);
    assert!(host.verify(&issued).is_ok(), "the leeway is 5 s");
    host.clock.pass(5);
    assert!(matches!(host.verify(&issued), Err(IdentityError::Expired)));
}

#[tokio::test]
async fn setting_the_clock_back_revives_nothing() {
    let mut host = Host::new().await;
    let (_, issued) = host.developer().await;
    host.clock.pass(400);
    assert!(host.verify(&issued).is_err());
    host.clock.set_back(390);
    assert!(matches!(host.verify(&issued), Err(IdentityError::Expired)), "ten seconds old on the wall, 400 in truth");
    host.clock.set_back(200);
    unauthenticated(host.verify(&issued));
    host.restart().await;
    unauthenticated(host.verify(&issued));
}

#[tokio::test]
async fn no_part_of_a_token_can_be_altered() {
    let host = Host::new().await;
    let (_, issued) = host.developer().await;
    let token = issued.access_token.expose();
    assert!(host.verify(&issued).is_ok());
    for at in 0..token.len() {
        let mut altered = token.as_bytes().to_vec();
        altered[at] = if altered[at] == b'A' { b'B' } else { b'A' };
        unauthenticated(host.identity.verify(&Shown::bearer(std::str::from_utf8(&altered).unwrap())));
    }
    for text in [
        "",
        ".",
        "..",
        "a.b.c",
        &token[..token.len() - 1],
        &format!("{token}A"),
        &format!("{token}="),
        &format!("{token}.x"),
        &format!(" {token}"),
        &"a".repeat(1 << 20),
    ] {
        unauthenticated(host.identity.verify(&Shown::bearer(text)));
    }
}

fn parts(token: &str) -> (Value, Value) {
    let mut parts = token.split('.').map(|part| BASE64URL_NOPAD.decode(part.as_bytes()).unwrap());
    let mut json = || serde_json::from_slice(&parts.next().unwrap()).unwrap();
    (json(), json())
}

#[tokio::test]
async fn the_token_is_an_at_jwt_with_the_agreed_claims() {
    let host = Host::new().await;
    let (_, issued) = host.developer().await;
    let (header, claims) = parts(issued.access_token.expose());
    assert_eq!((&header["typ"], &header["alg"]), (&json!("at+jwt"), &json!("EdDSA")));
    let now = host.clock.now().as_second();
    assert_eq!(
        claims,
        json!({"iss": ISSUER, "aud": "ringfence", "sub": "acme/ci", "iat": now, "exp": now + 300, "sid": issued.session_id, "role": "developer", "tenant": "acme"})
    );
}

/// The token with another header and claims, signed by `key` with `algorithm`.
fn forged(
    issued: &Issued,
    key: &EncodingKey,
    algorithm: Algorithm,
    change: impl FnOnce(&mut Header, &mut Value),
) -> String {
    let (old, mut claims) = parts(issued.access_token.expose());
    let mut header = Header::new(algorithm);
    header.typ = old["typ"].as_str().map(str::to_owned);
    header.kid = old["kid"].as_str().map(str::to_owned);
    change(&mut header, &mut claims);
    jsonwebtoken::encode(&header, &claims, key).unwrap()
}

#[tokio::test]
async fn no_other_algorithm_or_key_signs_a_token() {
    let host = Host::new().await;
    let (_, issued) = host.developer().await;
    let (header, claims) = parts(issued.access_token.expose());
    for alg in ["none", "None", "NONE", ""] {
        let mut header = header.clone();
        header["alg"] = json!(alg);
        let encode = |part: &Value| BASE64URL_NOPAD.encode(&serde_json::to_vec(part).unwrap());
        let (message, signature) = (
            format!("{}.{}", encode(&header), encode(&claims)),
            issued.access_token.expose().rsplit_once('.').unwrap().1,
        );
        unauthenticated(host.identity.verify(&Shown::bearer(&format!("{message}."))));
        unauthenticated(host.identity.verify(&Shown::bearer(&message)));
        unauthenticated(host.identity.verify(&Shown::bearer(&format!("{message}.{signature}"))));
    }
    // HMAC with the public key, which anybody may know.
    let ours = host.identity.shared.shelf.token_key(&Dice::new()).await.unwrap();
    let public = EncodingKey::from_secret(&ours.public_key());
    unauthenticated(host.identity.verify(&Shown::bearer(&forged(&issued, &public, Algorithm::HS256, |_, _| ()))));
    let another = EncodingKey::from_ed_der(&SigningKey::generate(&Dice::new()).unwrap().to_pkcs8());
    unauthenticated(host.identity.verify(&Shown::bearer(&forged(&issued, &another, Algorithm::EdDSA, |_, _| ()))));
}

#[tokio::test]
async fn even_our_own_key_signs_nothing_but_our_own_tokens() {
    let host = Host::new().await;
    let (_, issued) = host.developer().await;
    let ours = EncodingKey::from_ed_der(&host.identity.shared.shelf.token_key(&Dice::new()).await.unwrap().to_pkcs8());
    type Change = fn(&mut Header, &mut Value);
    let changes: [(&str, Change); 14] = [
        ("issuer", |_, claims| claims["iss"] = json!("https://elsewhere.test")),
        ("no issuer", |_, claims| drop(claims.as_object_mut().unwrap().remove("iss"))),
        ("audience", |_, claims| claims["aud"] = json!("another")),
        ("audiences", |_, claims| claims["aud"] = json!(["another", "ringfence"])),
        ("no audience", |_, claims| drop(claims.as_object_mut().unwrap().remove("aud"))),
        ("no end", |_, claims| drop(claims.as_object_mut().unwrap().remove("exp"))),
        ("endless", |_, claims| claims["iat"] = json!(claims["iat"].as_i64().unwrap() + 1)),
        ("future", |_, claims| claims["iat"] = json!(claims["iat"].as_i64().unwrap() + 61)),
        ("subject", |_, claims| claims["sub"] = json!("acme/root")),
        ("session", |_, claims| claims["sid"] = json!("s_aaaaaaaaaaaaaaaaaaaaaaaaaa")),
        ("more", |_, claims| claims["scope"] = json!("everything")),
        ("type", |header, _| header.typ = Some("JWT".to_owned())),
        ("no type", |header, _| header.typ = None),
        ("critical", |header, _| header.crit = Some(vec!["exp".to_owned()])),
    ];
    for (what, change) in changes {
        let token = forged(&issued, &ours, Algorithm::EdDSA, change);
        assert!(host.identity.verify(&Shown::bearer(&token)).is_err(), "{what}");
    }
}

#[tokio::test]
async fn another_issuers_tokens_are_refused() {
    let mut host = Host::new().await;
    let (_, issued) = host.developer().await;
    let elsewhere = Identity::open(
        host.tenants.platform().clone(),
        host.tenants.clone(),
        host.clock.clone(),
        host.dice.clone(),
        config("https://elsewhere.test", host.provider.clone()),
    );
    unauthenticated(elsewhere.await.unwrap().verify(&Shown::bearer(issued.access_token.expose())));
    host.restart().await;
    assert!(host.verify(&issued).is_ok());
}

// === what a guesser sees ===

#[tokio::test]
async fn unknown_and_known_ids_cost_one_hash_each() {
    let host = Host::new().await;
    let (record, key) = host.key(Some("acme"), "ci", Role::Developer).await;
    let (revoked, _) = host.key(Some("acme"), "old", Role::Developer).await;
    host.identity.revoke_key(permit(Some("acme")), Some(&tenant("acme")), &revoked.id).await.unwrap();
    let secret = "b".repeat(52);
    let before = host.identity.shared.hasher.count();
    for (number, id) in [record.id.as_str(), revoked.id.as_str(), "aaaaaaaaaaaaaaaa"].into_iter().enumerate() {
        unauthenticated(host.sign_in(&SecretString::new(format!("rfk_{id}_{secret}"))).await);
        assert_eq!(host.identity.shared.hasher.count() - before, number + 1, "{id}");
    }
    assert!(host.sign_in(&key).await.is_ok());
    assert_eq!(host.identity.shared.hasher.count() - before, 4);
}

#[tokio::test]
async fn a_guessing_source_is_slowed_and_others_are_not() {
    let host = Host::new().await;
    let (record, key) = host.key(Some("acme"), "ci", Role::Developer).await;
    let guess = || Proof::ApiKey { key: SecretString::new(format!("rfk_{}_{}", record.id, "b".repeat(52))) };
    for _ in 0..ringfence_core::limits::SIGN_IN_FAILURES_COUNT_MAX {
        unauthenticated(host.identity.authenticate(guess(), HERE, &Shown::nothing()).await);
    }
    let before = host.identity.shared.hasher.count();
    let IdentityError::Throttled { retry_after_seconds } =
        host.identity.authenticate(guess(), HERE, &Shown::nothing()).await.unwrap_err()
    else {
        panic!("not slowed")
    };
    assert!(matches!(host.sign_in(&key).await, Err(IdentityError::Throttled { .. })));
    assert_eq!(host.identity.shared.hasher.count(), before, "a refused try costs nothing");
    // The holder of the very key that is guessed at, from elsewhere.
    let elsewhere = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7));
    assert!(host.identity.authenticate(Proof::ApiKey { key: key.clone() }, elsewhere, &Shown::nothing()).await.is_ok());
    host.clock.pass(retry_after_seconds);
    assert!(host.sign_in(&key).await.is_ok());
}

#[tokio::test]
async fn an_anonymous_caller_has_no_authority() {
    let host = Host::new().await;
    let nobody = host.identity.anonymous();
    assert_eq!(
        (nobody.id().as_str(), nobody.kind(), nobody.role(), nobody.tenant()),
        ("anonymous", PrincipalKind::Anonymous, None, None)
    );
    assert_eq!((nobody.strength(), nobody.session()), (Strength::None, None));
}

// === secrets at rest ===

fn files_below(directory: &Path) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { all.extend(files_below(&path)) } else { all.push(std::fs::read(path).unwrap()) }
    }
    all
}

#[tokio::test]
async fn no_secret_reaches_the_disk_or_a_debug_text() {
    let host = Host::start(|directory| {
        Store::open(
            &directory.join("data"),
            DiskOptions { backend: Backend::Sled, cache_bytes: 1 << 20, free_bytes_min: 0 },
        )
        .unwrap()
    })
    .await;
    let (record, key) = host.key(Some("acme"), "canary-name", Role::Developer).await;
    let bootstrap = host.identity.bootstrap_token().await.unwrap().unwrap();
    let issued = host.sign_in(&key).await.unwrap();
    let secret = key.expose().rsplit_once('_').unwrap().1;
    let canaries = [
        secret,
        key.expose(),
        bootstrap.expose(),
        issued.access_token.expose(),
        issued.session_id.as_str(),
        "canary-name",
        record.id.as_str(),
    ];
    let files = files_below(&host.directory.path().join("data"));
    assert!(files.iter().map(Vec::len).sum::<usize>() > 500, "nothing was written");
    for canary in canaries {
        assert!(
            !files.iter().any(|file| file.windows(canary.len()).any(|window| window == canary.as_bytes())),
            "{canary}"
        );
    }
    let shown = format!("{issued:?} {:?}", Proof::ApiKey { key: key.clone() });
    assert!(!shown.contains(secret) && !shown.contains(issued.access_token.expose()), "{shown}");
}

mod attestation;
mod devices;
mod names;
mod oidc;
mod on_device;
mod people;
mod refused;
mod scopes;
mod svid;
mod tpm;
mod trust;
mod used;
