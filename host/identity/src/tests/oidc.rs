//! Identity providers: a small one that plays by the rules, and everything that can be wrong with its answers.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use data_encoding::BASE64URL_NOPAD;
use futures::future::BoxFuture;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};
use url::Url;

use super::*;

const PROVIDER: &str = "https://idp.example";
const BACK: &str = "https://app.example/back";

/// A provider of one user, in memory.
pub(super) struct Provider {
    key: Mutex<(String, Vec<u8>)>,
    /// What it puts into tokens, over what is usual.
    claims: Mutex<Value>,
    issuer: Mutex<String>,
    down: AtomicBool,
    /// Held by a test while codes are not to be answered.
    turn: Arc<tokio::sync::Mutex<()>>,
    asked_count: AtomicUsize,
}

impl Provider {
    pub(super) fn new() -> Self {
        Self {
            key: Mutex::new(("one".to_owned(), new_key())),
            claims: Mutex::new(json!({ "groups": ["staff", "devs"] })),
            issuer: Mutex::new(PROVIDER.to_owned()),
            down: AtomicBool::new(false),
            turn: Arc::default(),
            asked_count: AtomicUsize::new(0),
        }
    }

    fn says(&self, claims: Value) {
        *self.claims.lock().unwrap() = claims;
    }

    fn rotate(&self, kid: &str) {
        *self.key.lock().unwrap() = (kid.to_owned(), new_key());
    }

    /// The code of a user who came with this URL: here, all that the provider has to know.
    fn code(url: &str, now: i64) -> SecretString {
        let url = Url::parse(url).unwrap();
        let asked: HashMap<_, _> = url.query_pairs().into_owned().collect();
        assert_eq!((asked["response_type"].as_str(), asked["code_challenge_method"].as_str()), ("code", "S256"));
        assert!(asked["scope"].split(' ').any(|scope| scope == "openid"));
        let code = json!({ "nonce": asked["nonce"], "challenge": asked["code_challenge"], "back": asked["redirect_uri"], "now": now });
        SecretString::new(BASE64URL_NOPAD.encode(code.to_string().as_bytes()))
    }

    fn token(&self, nonce: &Value, now: &Value) -> String {
        let (kid, pkcs8) = self.key.lock().unwrap().clone();
        let mut claims = json!({
            "iss": PROVIDER, "aud": "ringfence-client", "sub": "u-1", "nonce": nonce, "iat": now,
            "exp": now.as_i64().unwrap() + 300,
        });
        for (name, value) in self.claims.lock().unwrap().as_object().unwrap() {
            claims[name] = value.clone();
        }
        let header = Header { kid: Some(kid), ..Header::new(Algorithm::EdDSA) };
        jsonwebtoken::encode(&header, &claims, &EncodingKey::from_ed_der(&pkcs8)).unwrap()
    }

    fn answer(&self, ask: &Ask) -> Option<Value> {
        self.asked_count.fetch_add(1, Ordering::SeqCst);
        if self.down.load(Ordering::SeqCst) {
            return None;
        }
        Some(match ask.url.path() {
            "/.well-known/openid-configuration" => json!({
                "issuer": *self.issuer.lock().unwrap(), "authorization_endpoint": format!("{PROVIDER}/authorize"),
                "token_endpoint": format!("{PROVIDER}/token"), "jwks_uri": format!("{PROVIDER}/keys"),
            }),
            "/keys" => {
                let (kid, pkcs8) = self.key.lock().unwrap().clone();
                let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&pkcs8).unwrap();
                let x = BASE64URL_NOPAD.encode(pair.public_key().as_ref());
                let ours = json!({ "kty": "OKP", "crv": "Ed25519", "x": x, "kid": kid, "use": "sig", "alg": "EdDSA" });
                json!({ "keys": [{ "kty": "something-new" }, ours] })
            }
            "/token" => {
                let authorization = ask.authorization.as_ref().unwrap().expose();
                let expected = data_encoding::BASE64.encode(b"ringfence-client:s%26cret");
                assert_eq!(*authorization, format!("Basic {expected}"));
                let form: HashMap<String, String> =
                    url::form_urlencoded::parse(ask.form.as_ref()?.expose().as_bytes()).into_owned().collect();
                let code: Value =
                    serde_json::from_slice(&BASE64URL_NOPAD.decode(form["code"].as_bytes()).ok()?).ok()?;
                let challenge = BASE64URL_NOPAD.encode(&Sha256::digest(form["code_verifier"].as_bytes()));
                assert_eq!((code["challenge"].as_str(), code["back"].as_str()), (Some(&*challenge), Some(BACK)));
                assert_eq!(form["redirect_uri"], BACK);
                json!({ "id_token": self.token(&code["nonce"], &code["now"]), "access_token": "unused" })
            }
            _ => return None,
        })
    }
}

impl Fetch for Provider {
    fn fetch(&self, ask: Ask) -> BoxFuture<'static, Option<Vec<u8>>> {
        if ask.url.host_str() == Some("hangs.example") {
            return Box::pin(std::future::pending());
        }
        let answer = self.answer(&ask).map(|answer| answer.to_string().into_bytes());
        if ask.url.path() != "/token" {
            return Box::pin(std::future::ready(answer));
        }
        let turn = Arc::clone(&self.turn);
        Box::pin(async move {
            let _turn = turn.lock().await;
            answer
        })
    }
}

fn new_key() -> Vec<u8> {
    Ed25519KeyPair::generate_pkcs8(&ring::rand::SystemRandom::new()).unwrap().as_ref().to_vec()
}

fn trust() -> ProviderTrust {
    let role = |value: &str, role| ClaimRole { claim: "groups".to_owned(), value: value.to_owned(), role };
    ProviderTrust {
        name: "corp".parse().unwrap(),
        issuer: PROVIDER.to_owned(),
        client_id: "ringfence-client".to_owned(),
        client_secret: Some(ClientSecret(SecretString::new("s&cret".to_owned()))),
        redirect_uris: vec![BACK.to_owned()],
        roles: vec![role("admins", Role::TenantAdmin), role("devs", Role::Developer)],
    }
}

impl Host {
    async fn trusts(&self, providers: Vec<ProviderTrust>) -> Result<SignInSettings, IdentityError> {
        let settings = SignInSettings { providers, ..SignInSettings::unset() };
        self.identity.set_sign_in_settings(permit(Some("acme")), Some(&tenant("acme")), settings).await
    }

    async fn begin(&self, of: &str, provider: &str, back: &str) -> Result<FederatedStart, IdentityError> {
        self.identity.start_federated(&tenant(of), provider, back, HERE).await
    }

    async fn end(&self, started: &FederatedStart, code: SecretString) -> Result<Issued, IdentityError> {
        let proof = Proof::Federated { ceremony: started.ceremony.clone(), code, issuer: Some(PROVIDER.to_owned()) };
        self.identity.authenticate(proof, HERE, &Shown::nothing()).await
    }

    async fn through_the_provider(&self) -> Result<Issued, IdentityError> {
        let started = self.begin("acme", "corp", BACK).await?;
        self.end(&started, Provider::code(&started.authorization_url, self.clock.now().as_second())).await
    }
}

async fn host() -> Host {
    let host = Host::new().await;
    host.trusts(vec![trust()]).await.unwrap();
    host
}

#[tokio::test]
async fn a_code_of_a_trusted_provider_signs_somebody_in_with_the_role_of_his_claim() {
    let mut host = host().await;
    let issued = host.through_the_provider().await.unwrap();
    let principal = host.verify(&issued).unwrap();
    assert_eq!((principal.kind(), principal.role()), (PrincipalKind::Person, Some(Role::Developer)));
    assert_eq!((principal.tenant(), principal.strength()), (Some(&tenant("acme")), Strength::Secret));
    assert!(principal.id().as_str().starts_with("acme/corp-"), "{}", principal.id());
    host.provider.says(json!({ "groups": ["admins"], "amr": ["pwd", "mfa"] }));
    let again = host.through_the_provider().await.unwrap().principal;
    assert_eq!(
        (again.id(), again.role()),
        (principal.id(), Some(Role::TenantAdmin)),
        "he is the same, whatever he may"
    );
    assert_eq!(again.strength(), Strength::TwoFactors);
    host.provider.says(json!({ "groups": ["devs"], "sub": "u-2" }));
    assert_ne!(host.through_the_provider().await.unwrap().principal.id(), principal.id());
    assert_eq!(host.provider.asked_count.load(Ordering::SeqCst), 2 + 3, "discovery and keys are remembered");
    host.restart().await;
    assert!(host.verify(&issued).is_ok(), "the session outlives a restart");
}

#[tokio::test]
async fn what_the_provider_says_must_be_for_this_sign_in_and_of_now() {
    let host = host().await;
    let now = host.clock.now().as_second();
    for (claims, why) in [
        (json!({ "nonce": "another", "groups": ["devs"] }), "another sign-in"),
        (json!({ "aud": "another", "groups": ["devs"] }), "not for this client"),
        (json!({ "iss": "https://evil.example", "groups": ["devs"] }), "not by this provider"),
        (json!({ "aud": ["ringfence-client", "another"], "groups": ["devs"] }), "several clients"),
        (json!({ "azp": "another", "groups": ["devs"] }), "another client"),
        (json!({ "exp": now - 61, "groups": ["devs"] }), "not of now"),
        (json!({ "iat": now + 61, "groups": ["devs"] }), "not of now"),
        (json!({ "iat": now - 601, "groups": ["devs"] }), "not of now"),
        (json!({ "sub": "", "groups": ["devs"] }), "nothing of whom"),
        (json!({ "groups": ["staff"] }), "no claim"),
        (json!({ "groups": "developers" }), "no claim"),
        (json!({}), "no claim"),
    ] {
        host.provider.says(claims.clone());
        let error = host.through_the_provider().await.unwrap_err().to_string();
        assert!(error.contains(why), "{claims}: {error}");
    }
    host.provider.says(json!({ "aud": ["ringfence-client", "another"], "azp": "ringfence-client", "groups": "devs" }));
    host.through_the_provider().await.unwrap();
}

#[tokio::test]
async fn a_sign_in_is_ended_once_in_its_time_and_with_its_own_code() {
    let host = host().await;
    let started = host.begin("acme", "corp", BACK).await.unwrap();
    let code = Provider::code(&started.authorization_url, host.clock.now().as_second());
    host.end(&started, code.clone()).await.unwrap();
    unauthenticated(host.end(&started, code).await);
    let late = host.begin("acme", "corp", BACK).await.unwrap();
    host.clock.pass(181);
    let code = Provider::code(&late.authorization_url, host.clock.now().as_second());
    unauthenticated(host.end(&late, code).await);
    let started = host.begin("acme", "corp", BACK).await.unwrap();
    let proof = Proof::Federated {
        ceremony: started.ceremony,
        code: SecretString::new("x".to_owned()),
        issuer: Some("https://evil.example".to_owned()),
    };
    let mixed = host.identity.authenticate(proof, HERE, &Shown::nothing()).await;
    assert!(matches!(mixed, Err(IdentityError::BadFederation(_))), "{mixed:?}");
}

#[tokio::test]
async fn nobody_learns_which_tenants_and_providers_there_are() {
    let host = host().await;
    for (of, provider, back) in [
        ("nobody", "corp", BACK),
        ("beta", "corp", BACK),
        ("acme", "other", BACK),
        ("acme", "corp", "https://evil.example"),
    ] {
        unauthenticated(host.begin(of, provider, back).await);
    }
    assert_eq!(host.provider.asked_count.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn keys_that_the_provider_rotated_are_asked_for_again_but_not_at_every_sign_in() {
    let host = host().await;
    host.through_the_provider().await.unwrap();
    host.provider.rotate("two");
    // Asked a moment ago: left alone for a while.
    assert!(matches!(host.through_the_provider().await, Err(IdentityError::BadFederation(_))));
    host.clock.pass(11);
    host.through_the_provider().await.unwrap();
    // A key of a known id that does not fit is no reason to ask again.
    host.clock.pass(11);
    host.provider.rotate("two");
    let asked = host.provider.asked_count.load(Ordering::SeqCst);
    assert!(matches!(host.through_the_provider().await, Err(IdentityError::BadFederation(_))));
    assert_eq!(host.provider.asked_count.load(Ordering::SeqCst), asked + 1);
}

#[tokio::test]
async fn a_provider_that_is_down_or_lies_is_left_alone_for_a_while() {
    let host = host().await;
    host.provider.down.store(true, Ordering::SeqCst);
    for _ in 0..5 {
        assert!(matches!(host.begin("acme", "corp", BACK).await, Err(IdentityError::ProviderAway(_))));
    }
    assert_eq!(host.provider.asked_count.load(Ordering::SeqCst), 1);
    host.provider.down.store(false, Ordering::SeqCst);
    host.clock.pass(11);
    *host.provider.issuer.lock().unwrap() = format!("{PROVIDER}/");
    assert!(matches!(host.begin("acme", "corp", BACK).await, Err(IdentityError::ProviderAway(_))));
    host.clock.pass(11);
    *host.provider.issuer.lock().unwrap() = PROVIDER.to_owned();
    host.through_the_provider().await.unwrap();
}

#[tokio::test]
async fn a_tenant_whose_provider_hangs_waits_for_it_alone() {
    let host = host().await;
    let hanging = ProviderTrust { issuer: "https://hangs.example".to_owned(), ..trust() };
    let settings = SignInSettings { providers: vec![hanging], ..SignInSettings::unset() };
    let (beta, identity) = (tenant("beta"), &host.identity);
    identity.set_sign_in_settings(permit(Some("beta")), Some(&beta), settings).await.unwrap();
    let mut waiting = Vec::new();
    for last in 0..8 {
        let from = IpAddr::V4(Ipv4Addr::new(198, 51, 100, last));
        let mut start = Box::pin(identity.start_federated(&beta, "corp", BACK, from));
        assert!(futures::poll!(&mut start).is_pending());
        waiting.push(start);
    }
    let from = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 99));
    let ninth = identity.start_federated(&beta, "corp", BACK, from).await;
    assert!(matches!(ninth, Err(IdentityError::Busy { .. })), "{ninth:?}");
    host.through_the_provider().await.unwrap();
    drop(waiting);
    let mut again = Box::pin(identity.start_federated(&beta, "corp", BACK, from));
    assert!(futures::poll!(&mut again).is_pending(), "those who hung up left their places");
}

#[tokio::test]
async fn sessions_end_with_the_trust_in_their_provider() {
    let host = host().await;
    let issued = host.through_the_provider().await.unwrap();
    host.trusts(vec![trust()]).await.unwrap();
    assert!(host.verify(&issued).is_ok(), "nothing was changed");
    let started = host.begin("acme", "corp", BACK).await.unwrap();
    host.trusts(Vec::new()).await.unwrap();
    unauthenticated(host.verify(&issued));
    let code = Provider::code(&started.authorization_url, host.clock.now().as_second());
    unauthenticated(host.end(&started, code).await);
}

#[tokio::test]
async fn who_came_from_a_provider_goes_when_his_name_is_given_to_somebody_here() {
    for by_key in [true, false] {
        let host = host().await;
        let issued = host.through_the_provider().await.unwrap();
        let name = issued.principal.id().as_str().strip_prefix("acme/").unwrap().to_owned();
        if by_key {
            host.key(Some("acme"), &name, Role::Caller).await;
        } else {
            let new = NewPerson { tenant: Some(tenant("acme")), name: name.parse().unwrap(), role: Role::Caller };
            host.identity.invite(permit(Some("acme")), new).await.unwrap();
        }
        unauthenticated(host.verify(&issued));
        unauthenticated(host.through_the_provider().await);
    }
}

#[tokio::test]
async fn a_sign_in_whose_provider_takes_its_time_ends_with_the_trust_in_it() {
    let host = host().await;
    let changed = ProviderTrust { roles: trust().roles.split_off(1), ..trust() };
    for (providers, is_let_in) in [(vec![trust()], true), (vec![changed], false), (Vec::new(), false)] {
        host.trusts(vec![trust()]).await.unwrap();
        let started = host.begin("acme", "corp", BACK).await.unwrap();
        let code = Provider::code(&started.authorization_url, host.clock.now().as_second());
        let turn = host.provider.turn.lock().await;
        let mut under_way = Box::pin(host.end(&started, code));
        assert!(futures::poll!(&mut under_way).is_pending(), "the provider has the code");
        host.trusts(providers.clone()).await.unwrap();
        drop(turn);
        let ended = under_way.await;
        if is_let_in {
            assert!(host.verify(&ended.unwrap()).is_ok(), "nothing was changed");
        } else {
            unauthenticated(ended);
            let open = host.identity.list_sessions(permit(Some("acme")), Some(&tenant("acme"))).unwrap();
            assert!(open.is_empty(), "{providers:?}: {open:?}");
        }
    }
}

#[tokio::test]
async fn who_signs_in_while_the_trust_in_his_provider_ends_is_out_after_a_restart_too() {
    let mut host = host().await;
    let mut change = Box::pin(host.trusts(Vec::new()));
    assert!(futures::poll!(&mut change).is_pending(), "it is being written");
    let late = host.through_the_provider().await.unwrap();
    change.await.unwrap();
    unauthenticated(host.verify(&late));
    host.restart().await;
    unauthenticated(host.verify(&late));
}

#[tokio::test]
async fn trust_that_could_harm_or_let_nobody_in_is_refused() {
    let host = Host::new().await;
    let bad: [fn(&mut ProviderTrust); 8] = [
        |trust| trust.issuer = "http://idp.example".to_owned(),
        |trust| trust.issuer = "https://idp.example?x=1".to_owned(),
        |trust| trust.client_id = String::new(),
        |trust| trust.redirect_uris.clear(),
        |trust| trust.redirect_uris.push("http://app.example".to_owned()),
        |trust| trust.roles.clear(),
        |trust| trust.roles[0].role = Role::Operator,
        |trust| trust.roles[0].value = String::new(),
    ];
    for (number, spoil) in bad.iter().enumerate() {
        let mut spoiled = trust();
        spoil(&mut spoiled);
        let refused = host.trusts(vec![spoiled]).await;
        assert!(matches!(refused, Err(IdentityError::BadTrust { .. })), "{number}");
    }
    assert!(matches!(host.trusts(vec![trust(), trust()]).await, Err(IdentityError::BadTrust { .. })));
    assert!(!format!("{:?}", trust()).contains("s&cret"));
}
