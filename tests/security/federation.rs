//! Signing in at an identity provider, over real HTTP: what it takes, and where the host does not go.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use data_encoding::BASE64URL_NOPAD;
use reqwest::StatusCode;
use ring::signature::{Ed25519KeyPair, KeyPair};
use ringfence_tests::{Host, Place, Session, answer, problem, string};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const BACK: &str = "https://app.example/back";

/// A provider of one user on a port of this machine.
struct Provider {
    issuer: String,
    key: Ed25519KeyPair,
    groups: Mutex<Value>,
    asked: Mutex<Vec<String>>,
}

impl Provider {
    async fn start() -> Result<Arc<Self>> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&ring::rand::SystemRandom::new()).unwrap();
        let this = Arc::new(Self {
            issuer: format!("http://{}", listener.local_addr()?),
            key: Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap(),
            groups: Mutex::new(json!(["devs"])),
            asked: Mutex::default(),
        });
        let serving = Arc::clone(&this);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let provider = Arc::clone(&serving);
                tokio::spawn(async move {
                    let mut bytes = Vec::new();
                    let (path, body) = loop {
                        let mut chunk = [0_u8; 4_096];
                        let count = stream.read(&mut chunk).await.unwrap();
                        bytes.extend_from_slice(&chunk[..count]);
                        let text = String::from_utf8_lossy(&bytes).into_owned();
                        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                        let length = head.to_lowercase();
                        let length = length.lines().find_map(|line| line.strip_prefix("content-length: "));
                        if body.len() >= length.map_or(0, |length| length.trim().parse().unwrap()) {
                            break (head.split(' ').nth(1).unwrap().to_owned(), body.to_owned());
                        }
                    };
                    let said = provider.say(&path, &body).to_string();
                    let head =
                        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", said.len());
                    stream.write_all([head.as_bytes(), said.as_bytes()].concat().as_slice()).await.unwrap();
                });
            }
        });
        Ok(this)
    }

    fn say(&self, path: &str, body: &str) -> Value {
        self.asked.lock().unwrap().push(path.to_owned());
        let issuer = &self.issuer;
        match path {
            "/.well-known/openid-configuration" => json!({
                "issuer": issuer, "authorization_endpoint": format!("{issuer}/authorize"),
                "token_endpoint": format!("{issuer}/token"), "jwks_uri": format!("{issuer}/keys"),
            }),
            "/keys" => {
                let x = BASE64URL_NOPAD.encode(self.key.public_key().as_ref());
                json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "x": x, "kid": "k", "alg": "EdDSA" }] })
            }
            _ => {
                let form: HashMap<String, String> = url::form_urlencoded::parse(body.as_bytes()).into_owned().collect();
                json!({ "id_token": self.token(&form["code"]) })
            }
        }
    }

    /// The code is the nonce of the sign-in: all that this provider has to remember.
    #[expect(clippy::disallowed_methods, reason = "a provider has a clock of its own")]
    fn token(&self, nonce: &str) -> String {
        let now = jiff::Timestamp::now().as_second();
        let claims = json!({
            "iss": self.issuer, "aud": "ringfence", "sub": "u-1", "nonce": nonce, "iat": now, "exp": now + 300,
            "groups": *self.groups.lock().unwrap(),
        });
        let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
        let signed = format!("{}.{}", part(&json!({ "alg": "EdDSA", "kid": "k" })), part(&claims));
        format!("{signed}.{}", BASE64URL_NOPAD.encode(self.key.sign(signed.as_bytes()).as_ref()))
    }
}

async fn trusting(host: &Host, provider: &Provider) -> Result<Session> {
    let operator = host.operator().await?;
    let admin = host.tenant(&operator, "acme").await?.admin;
    let roles = json!([{ "claim": "groups", "value": "devs", "role": "developer" }]);
    let trust = json!({
        "name": "corp", "issuer": provider.issuer, "client_id": "ringfence", "client_secret": "canary-s3cret",
        "redirect_uris": [BACK], "roles": roles,
    });
    let body = json!({ "unbound_tokens": "allowed", "identity_providers": [trust] });
    let said = answer(admin.put("/tenants/acme/sign-in").json(&body).send().await?).await?;
    assert_eq!(said["identity_providers"][0]["has_secret"], true);
    assert!(!said.to_string().contains("canary-s3cret"));
    Ok(admin)
}

async fn begin(host: &Host) -> Result<reqwest::Response> {
    let body = json!({ "tenant": "acme", "provider": "corp", "redirect_uri": BACK });
    Ok(host.anonymous().post("/zero-trust/federation/sign-in").json(&body).send().await?)
}

/// Walks through the provider; what the host says to the code.
async fn walk(host: &Host) -> Result<reqwest::Response> {
    let begun = answer(begin(host).await?).await?;
    let url = url::Url::parse(&string(&begun, "authorization_url")?)?;
    let asked: HashMap<_, _> = url.query_pairs().into_owned().collect();
    let nonce = asked.get("nonce").context("a nonce")?;
    let body = json!({ "method": "federated", "ceremony": asked["state"], "code": nonce });
    Ok(host.anonymous().post("/zero-trust/authenticate").json(&body).send().await?)
}

/// A host whose tenant `acme` trusts a provider.
async fn trusted() -> Result<(Place, Host, Arc<Provider>, Session)> {
    let provider = Provider::start().await?;
    let address = provider.issuer.trim_start_matches("http://");
    let place = Place::new()?;
    let config = place.config(&format!("[egress]\nallow_private = [\"{address}\"]\n"))?.display().to_string();
    let host = Host::start_with(&place, &["--config", &config], &[])?;
    let admin = trusting(&host, &provider).await?;
    Ok((place, host, provider, admin))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_of_a_trusted_provider_signs_in_and_is_held_to_his_role() -> Result<()> {
    let (_place, host, provider, admin) = trusted().await?;
    let issued = answer(walk(&host).await?).await?;
    let person = host.session(string(&issued, "access_token")?);
    let who = answer(person.get("/whoami").send().await?).await?;
    assert_eq!((who["kind"].as_str(), who["role"].as_str()), (Some("person"), Some("developer")), "{who}");
    answer(person.get("/tenants/acme/plugins").send().await?).await?;
    assert_eq!(person.get("/tenants/acme/tokens").send().await?.status(), StatusCode::FORBIDDEN);
    // A provider that says somebody else may come here does not make it so.
    *provider.groups.lock().unwrap() = json!(["guests"]);
    let (status, refused) = problem(walk(&host).await?).await?;
    assert_eq!((status, refused["code"].as_str()), (401, Some("bad-federation")), "{refused}");
    // The trust ends, and with it the session.
    let body = json!({ "unbound_tokens": "allowed" });
    answer(admin.put("/tenants/acme/sign-in").json(&body).send().await?).await?;
    assert_eq!(person.get("/whoami").send().await?.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(problem(begin(&host).await?).await?.0, 401);
    Ok(())
}

/// Signs the provider's person in and has a role lent to him.
async fn lent(host: &Host, admin: &Session) -> Result<Session> {
    let issued = answer(walk(host).await?).await?;
    let person = host.session(string(&issued, "access_token")?);
    let wanted = json!({ "role": "tenant-admin", "minutes": 60, "reason": "a test" });
    let asked = answer(person.post("/tenants/acme/elevations").json(&wanted).send().await?).await?;
    let approve = format!("/tenants/acme/approvals/{}/approve", string(&asked, "id")?);
    answer(admin.post(&approve).send().await?).await?;
    assert_eq!(person.get("/tenants/acme/tokens").send().await?.status(), StatusCode::OK);
    Ok(person)
}

/// How many roles are lent, and how many requests wait.
async fn lent_and_asked(admin: &Session) -> Result<(usize, usize)> {
    let count = async |path: &str| -> Result<usize> {
        let all = answer(admin.get(path).send().await?).await?;
        Ok(all["items"].as_array().context("items")?.len())
    };
    Ok((count("/tenants/acme/elevations").await?, count("/tenants/acme/approvals").await?))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_from_a_provider_is_lent_ends_with_his_session_and_with_the_provider() -> Result<()> {
    let (_place, host, _provider, admin) = trusted().await?;
    let person = lent(&host, &admin).await?;
    // Settings that are refused end nothing.
    let now = answer(admin.get("/tenants/acme/sign-in").send().await?).await?;
    let mut twice = now["identity_providers"][0].clone();
    twice.as_object_mut().context("a provider")?.remove("has_secret");
    twice["issuer"] = json!("https://elsewhere.example");
    let body = json!({ "unbound_tokens": "allowed", "identity_providers": [twice.clone(), twice] });
    let refused = admin.put("/tenants/acme/sign-in").json(&body).send().await?;
    assert!(refused.status().is_client_error(), "{}", refused.status());
    assert_eq!(lent_and_asked(&admin).await?, (1, 0));
    assert_eq!(person.get("/tenants/acme/tokens").send().await?.status(), StatusCode::OK);
    // An admin ends his session: he signs in again as what the provider says, and waits for nothing.
    let wanted = json!({ "role": "auditor", "minutes": 60, "reason": "a test" });
    answer(person.post("/tenants/acme/elevations").json(&wanted).send().await?).await?;
    assert_eq!(lent_and_asked(&admin).await?, (1, 1));
    let sessions = answer(admin.get("/tenants/acme/sessions").send().await?).await?;
    let his = sessions["items"].as_array().into_iter().flatten().find(|one| one["method"] == "federated");
    let end = format!("/tenants/acme/sessions/{}", string(his.context("his session")?, "id")?);
    assert_eq!(admin.delete(&end).send().await?.status(), StatusCode::NO_CONTENT);
    assert_eq!(lent_and_asked(&admin).await?, (0, 0));
    let issued = answer(walk(&host).await?).await?;
    let person = host.session(string(&issued, "access_token")?);
    assert_eq!(person.get("/tenants/acme/tokens").send().await?.status(), StatusCode::FORBIDDEN);
    // The provider goes, and with it what its people are lent.
    let _person = lent(&host, &admin).await?;
    let gone = admin.delete("/tenants/acme/sign-in/providers/corp").send().await?;
    assert_eq!(gone.status(), StatusCode::NO_CONTENT);
    assert_eq!(lent_and_asked(&admin).await?, (0, 0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_provider_leads_the_host_to_no_address_of_its_own_network() -> Result<()> {
    let provider = Provider::start().await?;
    let place = Place::new()?;
    let host = Host::start(&place)?;
    trusting(&host, &provider).await?;
    let (status, refused) = problem(begin(&host).await?).await?;
    assert_eq!((status, refused["code"].as_str()), (502, Some("provider-unavailable")), "{refused}");
    assert!(provider.asked.lock().unwrap().is_empty());
    Ok(())
}

#[tokio::test]
async fn who_decides_how_one_signs_in_is_not_undone_by_who_changes_one_provider_meanwhile() -> Result<()> {
    let (_place, host, operator) = crate::started().await?;
    let admin = host.tenant(&operator, "acme").await?.admin;
    let trust = |name: &str| {
        json!({
            "name": name, "issuer": format!("https://{name}.example"), "client_id": "ringfence", "redirect_uris": [BACK],
            "roles": [{ "claim": "groups", "value": "devs", "role": "developer" }],
        })
    };
    for round in 0..20 {
        let name = format!("decided-{round}");
        let all = json!({ "unbound_tokens": "allowed", "identity_providers": [trust(&name)] });
        let decides = admin.put("/tenants/acme/sign-in").json(&all).send();
        let changes = admin.put("/tenants/acme/sign-in/providers/one").json(&trust("one")).send();
        let (decided, changed) = futures::future::try_join(decides, changes).await?;
        answer(decided).await?;
        answer(changed).await?;
        // Whichever came first: what was decided stands, with the one provider beside it or without.
        let now = answer(admin.get("/tenants/acme/sign-in").send().await?).await?;
        let names: Vec<&str> =
            now["identity_providers"].as_array().into_iter().flatten().filter_map(|one| one["name"].as_str()).collect();
        assert!(names.contains(&name.as_str()), "round {round}: {names:?}");
    }
    Ok(())
}
