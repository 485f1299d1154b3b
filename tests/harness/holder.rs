//! Somebody who holds a key, and the token that is bound to it: DPoP (RFC 9449) as a client does it.
//!
//! Must never send one proof twice by itself; a test that wants to sends it on its own.

use std::cell::Cell;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, ensure};
use data_encoding::BASE64URL_NOPAD;
use reqwest::{Method, RequestBuilder, Response};
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{Host, answer, problem, string};

/// A key, and what was got with it.
pub struct Holder {
    key: Ed25519KeyPair,
    /// The access token; empty before the first sign-in.
    pub token: String,
    /// The nonce that the host gave last.
    pub nonce: String,
    count: Cell<u64>,
}

impl Holder {
    /// A new key, and nothing else.
    pub fn new() -> Result<Self> {
        Ok(Self { key: signing_key()?, token: String::new(), nonce: String::new(), count: Cell::new(0) })
    }

    /// Signs in with an API key, as a client does that has no nonce yet.
    pub async fn sign_in(host: &Host, key: &str) -> Result<Self> {
        let mut holder = Self::new()?;
        let url = format!("{}/api/v1/zero-trust/authenticate", host.control);
        let body = json!({ "method": "api_key", "key": key });
        let ask = |holder: &Self| {
            host.anonymous()
                .post("/zero-trust/authenticate")
                .header("dpop", holder.proof("POST", &url, |_| ()))
                .json(&body)
        };
        let first = ask(&holder).send().await?;
        holder.nonce = nonce(&first)?;
        let (status, refused) = problem(first).await?;
        ensure!(status == 401 && string(&refused, "code")? == "use-dpop-nonce", "{status}: {refused}");
        let issued = answer(ask(&holder).send().await?).await?;
        ensure!(string(&issued, "token_type")? == "DPoP", "{issued}");
        holder.token = string(&issued, "access_token")?;
        Ok(holder)
    }

    /// Takes the nonce of a host that does not know the one that is here.
    pub async fn greet(&mut self, host: &Host) -> Result<()> {
        self.nonce = nonce(&self.ask(host, &Method::GET, "/whoami").send().await?)?;
        Ok(())
    }

    /// The thumbprint of its key (RFC 7638).
    pub fn thumbprint(&self) -> String {
        let jwk = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, self.x());
        BASE64URL_NOPAD.encode(&Sha256::digest(jwk.as_bytes()))
    }

    /// A proof for a request, with changes to its claims.
    pub fn proof(&self, method: &str, url: &str, change: impl FnOnce(&mut Value)) -> String {
        self.count.set(self.count.get() + 1);
        let (id, now) = (self.count.get().to_string(), now_seconds());
        let mut claims = json!({ "jti": id, "htm": method, "htu": url, "iat": now, "nonce": self.nonce });
        if let Some(fields) = claims.as_object_mut().filter(|_| !self.token.is_empty()) {
            let hash = BASE64URL_NOPAD.encode(&Sha256::digest(self.token.as_bytes()));
            fields.insert("ath".to_owned(), json!(hash));
        }
        change(&mut claims);
        let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "x": self.x() });
        jwt(&self.key, &json!({ "typ": "dpop+jwt", "alg": "EdDSA", "jwk": jwk }), &claims)
    }

    /// Puts the token and a proof to a request.
    pub fn with(&self, request: RequestBuilder, proof: &str) -> RequestBuilder {
        request.header("authorization", format!("DPoP {}", self.token)).header("dpop", proof)
    }

    /// A request to the control plane.
    pub fn ask(&self, host: &Host, method: &Method, path: &str) -> RequestBuilder {
        let proof = self.proof(method.as_str(), &format!("{}/api/v1{path}", host.control), |_| ());
        self.with(host.anonymous().request(method.clone(), path), &proof)
    }

    /// A `GET` call on the data plane.
    pub fn call(&self, host: &Host, path: &str) -> RequestBuilder {
        let proof = self.proof("GET", &format!("{}{path}", host.plugins), |_| ());
        self.with(host.anonymous().call(Method::GET, path), &proof)
    }

    fn x(&self) -> String {
        public_key(&self.key)
    }
}

/// The nonce that came with an answer.
pub fn nonce(response: &Response) -> Result<String> {
    Ok(response.headers().get("dpop-nonce").context("no nonce")?.to_str()?.to_owned())
}

/// A new key that signs with Ed25519.
pub fn signing_key() -> Result<Ed25519KeyPair> {
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| anyhow!("no key could be made"))?;
    Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).map_err(|_| anyhow!("the key that was made cannot be read"))
}

/// The public half of a key, in base64url.
pub fn public_key(key: &Ed25519KeyPair) -> String {
    BASE64URL_NOPAD.encode(key.public_key().as_ref())
}

/// Claims, signed (RFC 7519).
pub fn jwt(key: &Ed25519KeyPair, header: &Value, claims: &Value) -> String {
    let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let message = format!("{}.{}", part(header), part(claims));
    let signature = BASE64URL_NOPAD.encode(key.sign(message.as_bytes()).as_ref());
    format!("{message}.{signature}")
}

/// The time, as clients put it into what they sign.
#[expect(clippy::disallowed_methods, reason = "the clock of a client is his machine's")]
pub fn now_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
