//! The root key in the Transit engine of a Vault: it encrypts for us, and keeps every version of its keys.
//!
//! Must never keep the token (its file is read for each call) or show it. Every request carries the context, both as the
//! derivation context and as associated data, so that a key of either kind (`derived` or not) is bound to it.
//! Requests and answers follow the HTTP API of the Transit secrets engine. A tenant's wrapping key is the key
//! `NAME-<32 hex digits>`, made with `derived` and deletable by us.

use std::sync::{Mutex, MutexGuard, PoisonError};

use data_encoding::BASE64;
use http::Method;
use ringfence_core::Entropy;
use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::file::MissingRootKey;
use super::http::{Answer, Client, read_small};
use super::provider::{Assurance, Bound, Encrypted, RootKeyProvider, Shredding, With};
use super::uri::VaultUri;
use crate::context::Context;
use crate::error::KeysError;
use crate::secret::Secret;

const PROVIDER: &str = "vault";

pub(super) struct VaultProvider {
    uri: VaultUri,
    client: Client,
    newest: Mutex<u64>,
    was_made: bool,
}

#[derive(Deserialize)]
struct Envelope<T> {
    data: T,
}

#[derive(Deserialize)]
struct Ciphertext {
    ciphertext: String,
}

#[derive(Deserialize)]
struct Plaintext {
    plaintext: Secret<String>,
}

#[derive(Deserialize)]
struct KeyFacts {
    latest_version: u64,
}

// === impl VaultProvider ===

impl VaultProvider {
    pub(super) fn open(uri: &VaultUri, missing: MissingRootKey) -> Result<Self, KeysError> {
        let client = Client::new(PROVIDER, uri.ca_file.as_deref())?;
        let mut this = Self { uri: uri.clone(), client, newest: Mutex::new(0), was_made: false };
        let found = this.newest_of(&uri.key)?;
        match (found, missing) {
            (Some(newest), _) => *this.newest() = newest,
            (None, MissingRootKey::Create) => {
                this.make(&uri.key)?;
                *this.newest() =
                    this.newest_of(&uri.key)?.ok_or_else(|| refused("the key that was made is not there"))?;
                this.was_made = true;
            }
            (None, MissingRootKey::Refuse) => return Err(refused("there is no key of that name")),
        }
        Ok(this)
    }

    fn newest(&self) -> MutexGuard<'_, u64> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest version of a key; none when there is no such key.
    fn newest_of(&self, key: &str) -> Result<Option<u64>, KeysError> {
        let answer = self.call(&Method::GET, &format!("keys/{key}"), None)?;
        if answer.status == 404 {
            return Ok(None);
        }
        Ok(Some(read::<KeyFacts>(&answer)?.latest_version))
    }

    fn make(&self, key: &str) -> Result<(), KeysError> {
        let body = json!({ "type": "aes256-gcm96", "derived": true, "exportable": false });
        done(&self.call(&Method::POST, &format!("keys/{key}"), Some(&body))?)
    }

    fn call(&self, method: &Method, path: &str, body: Option<&Value>) -> Result<Answer, KeysError> {
        let token = read_small(&self.uri.token_file)?;
        let token = std::str::from_utf8(&token).map_err(|_| refused("its token is not text"))?.trim();
        let url = format!("{}/v1/{}/{path}", self.uri.origin, self.uri.mount);
        let body = Zeroizing::new(body.map(Value::to_string).unwrap_or_default());
        let headers = [("X-Vault-Token", token), ("X-Vault-Request", "true"), ("Content-Type", "application/json")];
        self.client.send(method, &url, &headers, body.as_bytes())
    }

    fn key(&self, with: With<'_>) -> String {
        match with {
            With::Root => self.uri.key.clone(),
            With::Shard(shard) => format!("{}-{shard}", self.uri.key),
        }
    }
}

impl RootKeyProvider for VaultProvider {
    fn id(&self) -> String {
        format!("{}#{}", self.uri.key, *self.newest())
    }
    fn assurance(&self) -> Assurance {
        Assurance::Service
    }
    fn shredding(&self) -> Shredding {
        Shredding::OldCopiesToo
    }
    fn was_made(&self) -> bool {
        self.was_made
    }

    fn encrypt(
        &self,
        with: With<'_>,
        bound: &Bound<'_>,
        plain: &[u8],
        _entropy: &dyn Entropy,
    ) -> Result<Encrypted, KeysError> {
        let context = BASE64.encode(&context(with, bound, &self.uri.key));
        let body = json!({ "plaintext": BASE64.encode(plain), "context": context, "associated_data": context });
        let key = self.key(with);
        let answer = self.call(&Method::POST, &format!("encrypt/{key}"), Some(&body))?;
        let gone = match (with, answer.status) {
            (With::Shard(_), 404) => true,
            // To encrypt with a key that is not there takes the right to make one: the key itself tells which it is.
            (With::Shard(_), 403) => self.newest_of(&key)?.is_none(),
            _ => false,
        };
        if gone {
            return Err(KeysError::ShardGone);
        }
        let sealed = read::<Ciphertext>(&answer)?.ciphertext;
        let version = sealed.strip_prefix("vault:v").and_then(|rest| rest.split(':').next()?.parse::<u64>().ok());
        let version = version.ok_or_else(|| refused("its answer has no key version"))?;
        Ok(Encrypted { by: format!("{}#{version}", self.uri.key), bytes: sealed.into_bytes() })
    }

    fn decrypt(
        &self,
        with: With<'_>,
        bound: &Bound<'_>,
        by: &str,
        bytes: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, KeysError> {
        if by.rsplit_once('#').is_none_or(|(name, _)| name != self.uri.key) {
            return Err(KeysError::OtherRootKey { wrapped_by: by.chars().take(64).collect(), at_hand: self.id() });
        }
        let context = BASE64.encode(&context(with, bound, &self.uri.key));
        let sealed = std::str::from_utf8(bytes).map_err(|_| KeysError::NotAuthentic)?;
        let body = json!({ "ciphertext": sealed, "context": context, "associated_data": context });
        let answer = self.call(&Method::POST, &format!("decrypt/{}", self.key(with)), Some(&body))?;
        let missing = answer.status == 404 || contains(&answer, b"key not found");
        match (with, answer.status) {
            (With::Shard(_), _) if missing => return Err(KeysError::ShardGone),
            (_, 400) if !missing => return Err(KeysError::NotAuthentic),
            _ => {}
        }
        let plain = read::<Plaintext>(&answer)?.plaintext;
        BASE64.decode(plain.expose().as_bytes()).map(Zeroizing::new).map_err(|_| refused("its answer is not base64"))
    }

    fn make_shard(&self, shard: &str, _entropy: &dyn Entropy) -> Result<(), KeysError> {
        self.make(&self.key(With::Shard(shard)))
    }

    fn destroy_shard(&self, shard: &str) -> Result<(), KeysError> {
        let path = format!("keys/{}", self.key(With::Shard(shard)));
        let allow = self.call(&Method::POST, &format!("{path}/config"), Some(&json!({ "deletion_allowed": true })))?;
        if allow.status == 404 || contains(&allow, b"no existing key") {
            return Ok(());
        }
        done(&allow)?;
        done(&self.call(&Method::DELETE, &path, None)?)
    }

    fn rotate(&self, _entropy: &dyn Entropy) -> Result<(), KeysError> {
        done(&self.call(&Method::POST, &format!("keys/{}/rotate", self.uri.key), Some(&json!({})))?)?;
        *self.newest() = self.newest_of(&self.uri.key)?.ok_or_else(|| refused("there is no key of that name"))?;
        Ok(())
    }

    fn retire(&self) -> Result<(), KeysError> {
        let body = json!({ "min_decryption_version": *self.newest() });
        done(&self.call(&Method::POST, &format!("keys/{}/config", self.uri.key), Some(&body))?)
    }
}

/// What the encrypted bytes belong to, as Vault is told it.
fn context(with: With<'_>, bound: &Bound<'_>, root: &str) -> Vec<u8> {
    let (store, key) = match with {
        With::Root => ("tenant-key", root),
        With::Shard(shard) => ("tenant-shard", shard),
    };
    Context { tenant: bound.tenant, store, key: key.as_bytes(), revision: bound.version.into() }.encode()
}

fn contains(answer: &Answer, words: &[u8]) -> bool {
    answer.status == 400 && answer.body.windows(words.len()).any(|window| window == words)
}

fn done(answer: &Answer) -> Result<(), KeysError> {
    match answer.status {
        200..=299 => Ok(()),
        // Rate limits, standby and sealed nodes, proxies without a backend: all of them pass.
        412 | 429 | 472 | 473 | 500..=599 => Err(KeysError::Unreachable {
            provider: PROVIDER,
            reason: format!("it answered with status {}", answer.status),
        }),
        status => Err(refused(&format!("it answered with status {status}"))),
    }
}

fn read<T: for<'a> Deserialize<'a>>(answer: &Answer) -> Result<T, KeysError> {
    done(answer)?;
    serde_json::from_slice::<Envelope<T>>(&answer.body)
        .map(|envelope| envelope.data)
        .map_err(|_| refused("its answer has another form than Transit's"))
}

fn refused(reason: &str) -> KeysError {
    KeysError::Refused { provider: PROVIDER, reason: reason.to_owned() }
}
