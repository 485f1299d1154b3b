//! People from outside: invitations, passwords, one-time codes, passkeys, and who counts as a second person.

use anyhow::Result;
use data_encoding::BASE32_NOPAD;
use passkey::authenticator::{Authenticator, UiHint, UserCheck, UserValidationMethod};
use passkey::client::{Client, DefaultClientData};
use passkey::crypto::rust_crypto::RustCryptoBackend;
use passkey::types::Passkey;
use passkey::types::ctap2::{Aaguid, Ctap2Error};
use passkey::types::webauthn::{CredentialCreationOptions, CredentialRequestOptions};
use reqwest::StatusCode;
use ringfence_tests::{Host, PASSWORD, Place, Session, answer, problem, string};
use serde_json::{Value, json};

use crate::started;

const ORIGIN: &str = "https://ringfence.example.com";

/// A person at a software authenticator, who does or does not show a finger.
struct Finger(bool);

#[async_trait::async_trait]
impl UserValidationMethod for Finger {
    type PasskeyItem = Passkey;

    async fn check_user<'a>(
        &self,
        _hint: UiHint<'a, Passkey>,
        _presence: bool,
        _verification: bool,
    ) -> Result<UserCheck, Ctap2Error> {
        Ok(UserCheck { presence: true, verification: self.0 })
    }
    fn is_verification_enabled(&self) -> Option<bool> {
        Some(true)
    }
    fn is_presence_enabled(&self) -> bool {
        true
    }
}

type Device = Client<Option<Passkey>, Finger, RustCryptoBackend, public_suffix::PublicSuffixList, ()>;

fn device(verifies: bool, holds: Option<Passkey>) -> Device {
    Client::new(Authenticator::new(Aaguid::new_empty(), holds, Finger(verifies), RustCryptoBackend))
}

fn origin(text: &str) -> url::Url {
    url::Url::parse(text).unwrap()
}

async fn with_passkeys() -> Result<(Place, Host, Session)> {
    let place = Place::new()?;
    let host = Host::start_with(&place, &[], &[("RINGFENCE_IDENTITY_ORIGIN", ORIGIN)])?;
    let operator = host.operator().await?;
    Ok((place, host, operator))
}

/// Registers a passkey for a session.
async fn register(who: &Session, device: &mut Device) -> Result<reqwest::Response> {
    let asked = who.post("/zero-trust/passkeys/challenge").json(&json!({ "purpose": "register" })).send().await?;
    let asked = answer(asked).await?;
    let options: CredentialCreationOptions = serde_json::from_value(asked["options"].clone())?;
    let made = device.register(&origin(ORIGIN), options, DefaultClientData).await;
    let made = serde_json::to_value(made.map_err(|error| anyhow::anyhow!("{error:?}"))?)?;
    let body = json!({ "ceremony": asked["ceremony"], "name": "phone", "answer": made });
    Ok(who.post("/zero-trust/passkeys").json(&body).send().await?)
}

/// What an authenticator answers to a sign-in.
async fn assertion(host: &Host, device: &mut Device) -> Result<Value> {
    let asked = answer(host.anonymous().post("/zero-trust/passkeys/sign-in").json(&json!({})).send().await?).await?;
    let options: CredentialRequestOptions = serde_json::from_value(asked["options"].clone())?;
    let made = device.authenticate(&origin(ORIGIN), options, DefaultClientData).await;
    let made = serde_json::to_value(made.map_err(|error| anyhow::anyhow!("{error:?}"))?)?;
    Ok(json!({ "method": "passkey", "ceremony": asked["ceremony"], "answer": made }))
}

async fn sign_in(host: &Host, body: &Value) -> Result<(u16, Value)> {
    let (status, mut said) =
        problem(host.anonymous().post("/zero-trust/authenticate").json(body).send().await?).await?;
    said.as_object_mut().map(|fields| fields.remove("request_id"));
    Ok((status, said))
}

/// The code of now, or of a step after it.
#[expect(clippy::disallowed_methods, reason = "an app for one-time codes has a clock of its own")]
fn code(secret: &str, steps_ahead: u64) -> Result<String> {
    let bytes: [u8; 20] = BASE32_NOPAD.decode(secret.as_bytes())?.try_into().map_err(|_| anyhow::anyhow!("key"))?;
    let totp = totp_rs::Builder::new().with_secret(bytes).build().map_err(|error| anyhow::anyhow!("{error:?}"))?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    Ok(totp.generate(now + 30 * steps_ahead).to_string())
}

#[tokio::test]
async fn a_person_with_codes_signs_in_with_both_and_every_refusal_is_the_same() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let ann = host.person(&acme.admin, "/tenants/acme/people", "ann", "developer").await?;
    let offer = answer(ann.post("/zero-trust/factors/codes").send().await?).await?;
    let secret = string(&offer, "secret")?;
    let confirmed = ann.post("/zero-trust/factors/codes/confirm").json(&json!({ "code": code(&secret, 0)? })).send();
    let recovery = answer(confirmed.await?).await?;
    let body = |password: &str, code: Option<String>| match code {
        None => json!({ "method": "password", "principal": "acme/ann", "password": password }),
        Some(code) => json!({ "method": "password", "principal": "acme/ann", "password": password, "code": code }),
    };
    // The next step's code: the one of now is used up.
    let next = code(&secret, 1)?;
    let (status, issued) = sign_in(&host, &body(PASSWORD, Some(next.clone()))).await?;
    assert_eq!((status, issued["trust"]["strength"].as_str()), (200, Some("two-factors")), "{issued}");
    let spare = recovery["recovery_codes"][0].as_str().unwrap_or_default().to_owned();
    assert_eq!(sign_in(&host, &body(PASSWORD, Some(spare.clone()))).await?.0, 200);
    let mut refusals = Vec::new();
    for wrong in [
        body(PASSWORD, None),
        body(PASSWORD, Some(next)),
        body(PASSWORD, Some(spare)),
        body("another password", Some("123456".to_owned())),
        json!({ "method": "password", "principal": "acme/nobody", "password": PASSWORD }),
        json!({ "method": "password", "principal": "nowhere/ann", "password": PASSWORD }),
        json!({ "method": "invitation", "token": "rfi_guess", "password": PASSWORD }),
    ] {
        refusals.push(sign_in(&host, &wrong).await?);
    }
    assert!(refusals.iter().all(|refusal| *refusal == refusals[0] && refusal.0 == 401), "{refusals:?}");
    Ok(())
}

#[tokio::test]
async fn a_passkey_signs_in_once_a_ceremony_and_only_with_its_holder_verified() -> Result<()> {
    let (_place, host, operator) = with_passkeys().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let ann = host.person(&acme.admin, "/tenants/acme/people", "ann", "tenant-admin").await?;
    let mut phone = device(true, None);
    answer(register(&ann, &mut phone).await?).await?;
    let proof = assertion(&host, &mut phone).await?;
    let (status, issued) = sign_in(&host, &proof).await?;
    assert_eq!((status, issued["trust"]["strength"].as_str()), (200, Some("passkey")), "{issued}");
    assert_eq!(issued["principal"]["id"], "acme/ann");
    assert_eq!(sign_in(&host, &proof).await?.0, 401, "a ceremony ends once");
    // The answer of one ceremony to another, an altered one, one for another host's passkey.
    let mut crossed = assertion(&host, &mut phone).await?;
    crossed["ceremony"] = assertion(&host, &mut phone).await?["ceremony"].clone();
    assert_eq!(sign_in(&host, &crossed).await?.0, 401);
    let mut altered = assertion(&host, &mut phone).await?;
    let signature = altered["answer"]["response"]["signature"].as_str().unwrap_or_default().replace('A', "B");
    altered["answer"]["response"]["signature"] = json!(signature + "AA");
    assert_eq!(sign_in(&host, &altered).await?.0, 401);
    // A session by passkey steps up by passkey; removing it ends its use.
    let me = host.session(string(&issued, "access_token")?);
    let factors = answer(me.get("/zero-trust/factors").send().await?).await?;
    let id = string(&factors["passkeys"][0], "id")?;
    let last = assertion(&host, &mut phone).await?;
    assert!(me.delete(&format!("/zero-trust/passkeys/{id}")).send().await?.status().is_success());
    assert_eq!(sign_in(&host, &last).await?.0, 401);
    Ok(())
}

#[tokio::test]
async fn an_authenticator_that_does_not_verify_its_holder_is_not_taken() -> Result<()> {
    let (_place, host, operator) = with_passkeys().await?;
    let bob = host.person(&operator, "/people", "bob", "operator").await?;
    let asked = bob.post("/zero-trust/passkeys/challenge").json(&json!({ "purpose": "register" })).send().await?;
    let mut asked = answer(asked).await?;
    assert_eq!(asked["options"]["publicKey"]["authenticatorSelection"]["userVerification"], "required");
    // A client that lets the device off: the host must notice.
    asked["options"]["publicKey"]["authenticatorSelection"]["userVerification"] = json!("discouraged");
    let options: CredentialCreationOptions = serde_json::from_value(asked["options"].clone())?;
    let made = device(false, None).register(&origin(ORIGIN), options, DefaultClientData).await;
    let made = serde_json::to_value(made.map_err(|error| anyhow::anyhow!("{error:?}"))?)?;
    let body = json!({ "ceremony": asked["ceremony"], "name": "phone", "answer": made });
    let (status, refused) = problem(bob.post("/zero-trust/passkeys").json(&body).send().await?).await?;
    assert_eq!((status, refused["code"].as_str()), (422, Some("bad-passkey")), "{refused}");
    Ok(())
}

#[tokio::test]
async fn without_an_origin_there_are_no_passkeys() -> Result<()> {
    let (_place, host, _operator) = started().await?;
    let asked = host.anonymous().post("/zero-trust/passkeys/sign-in").json(&json!({})).send().await?;
    assert_eq!(problem(asked).await?.1["code"], "passkeys-off");
    Ok(())
}

#[tokio::test]
async fn two_keys_of_one_operator_are_one_person_and_a_newcomer_is_none_yet() -> Result<()> {
    let (_place, host, operator) = started().await?;
    host.tenant(&operator, "acme").await?;
    let key = operator.post("/tokens").json(&json!({ "name": "second", "role": "operator" })).send().await?;
    let second = host.sign_in(&string(&answer(key).await?, "key")?).await?;
    let newcomer = host.person(&operator, "/people", "bob", "operator").await?;
    answer(operator.post("/tenants/acme/keys/destroy").send().await?).await?;
    for who in [&operator, &second, &newcomer] {
        let (status, refused) = problem(who.post("/tenants/acme/keys/destroy/approve").send().await?).await?;
        assert_eq!((status, refused["code"].as_str()), (409, Some("second-person-needed")), "{refused}");
    }
    assert_eq!(operator.get("/tenants/acme/keys").send().await?.status(), StatusCode::OK);
    Ok(())
}
