//! The root key in AWS KMS: it encrypts for us under an encryption context, and keeps every version of its key itself.
//!
//! Must never keep credentials of a file (it is read for each call). KMS gives no cheap key of its own to each tenant, so
//! deleting a tenant does not reach copies of the data directory that were made before; posture and doctor say so.
//! Requests follow the KMS API Reference (`Encrypt`, `Decrypt`, `RotateKeyOnDemand`, `GetKeyRotationStatus`: a rotation takes
//! the rights to the last two).
//!
//! LIMIT: KMS caps how often a key is rotated on demand in its life; after that a rotation is refused, and nothing is changed.

use std::time::Duration;

use data_encoding::BASE64;
use http::Method;
use ringfence_core::Entropy;
use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::http::{Answer, Client, read_small};
use super::provider::{Assurance, AwsCredentials, Bound, Encrypted, Outside, RootKeyProvider, Shredding, With};
use super::sigv4::{Signed, authorization};
use super::uri::AwsKmsUri;
use crate::error::KeysError;
use crate::secret::Secret;

const PROVIDER: &str = "awskms";
const CONTENT_TYPE: &str = "application/x-amz-json-1.1";
/// Between two looks whether a rotation is over.
const ROTATION_PAUSE: Duration = Duration::from_millis(250);
/// LIMIT: as many looks; a rotation that takes longer than a minute is gone on with once [`RootKeyProvider::check_rotated`] says
/// that it is over, or when it is asked for again.
const ROTATION_LOOKS_COUNT_MAX: u32 = 240;

pub(super) struct AwsKmsProvider {
    uri: AwsKmsUri,
    client: Client,
    outside: Outside,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct EncryptAnswer {
    ciphertext_blob: String,
    /// The ARN of the key, whatever it was asked for by.
    key_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RotationStatus {
    /// Only there while a rotation on demand is in progress.
    on_demand_rotation_start_date: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DecryptAnswer {
    plaintext: Secret<String>,
}

/// What `aws configure export-credentials` prints.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ExportedCredentials {
    access_key_id: String,
    secret_access_key: Secret<String>,
    session_token: Option<Secret<String>>,
}

// === impl AwsKmsProvider ===

impl AwsKmsProvider {
    /// Opens the provider and asks it to encrypt something, so that a wrong key or right is found at the start.
    pub(super) fn open(uri: &AwsKmsUri, outside: &Outside) -> Result<Self, KeysError> {
        let client = Client::new(PROVIDER, None)?;
        let this = Self { uri: uri.clone(), client, outside: outside.clone() };
        this.arn()?;
        Ok(this)
    }

    /// The ARN of the key, which may be known to us by an alias alone: told by what encrypts.
    fn arn(&self) -> Result<String, KeysError> {
        Ok(self.seal(&Bound { tenant: "_probe", version: 0 }, b"probe")?.key_id)
    }

    fn seal(&self, bound: &Bound<'_>, plain: &[u8]) -> Result<EncryptAnswer, KeysError> {
        let body = json!({
            "KeyId": self.uri.key,
            "Plaintext": BASE64.encode(plain),
            "EncryptionContext": context(bound),
        });
        read(&self.call("Encrypt", &body)?)
    }

    fn is_rotating(&self, key: &Value) -> Result<bool, KeysError> {
        let status: RotationStatus = read(&self.call("GetKeyRotationStatus", key)?)?;
        Ok(status.on_demand_rotation_start_date.is_some())
    }

    fn credentials(&self) -> Result<AwsCredentials, KeysError> {
        let Some(path) = &self.uri.credentials_file else {
            return self.outside.aws.clone().ok_or_else(|| refused("there are no credentials in the environment"));
        };
        let exported: ExportedCredentials = serde_json::from_slice(&read_small(path)?)
            .map_err(|_| refused("its credentials file is not what `aws configure export-credentials` prints"))?;
        Ok(AwsCredentials {
            access_key: exported.access_key_id,
            secret_key: exported.secret_access_key,
            session_token: exported.session_token,
        })
    }

    fn call(&self, act: &str, body: &Value) -> Result<Answer, KeysError> {
        let credentials = self.credentials()?;
        let body = Zeroizing::new(body.to_string());
        let date = self.outside.clock.now().strftime("%Y%m%dT%H%M%SZ").to_string();
        let target = format!("TrentService.{act}");
        let host = self.uri.endpoint.split_once("://").map(|(_, host)| host).unwrap_or_default();
        let mut headers = vec![("content-type", CONTENT_TYPE), ("host", host), ("x-amz-date", date.as_str())];
        headers
            .extend(credentials.session_token.as_ref().map(|token| ("x-amz-security-token", token.expose().as_str())));
        headers.push(("x-amz-target", target.as_str()));
        let signed = Signed {
            method: "POST",
            region: &self.uri.region,
            service: "kms",
            date: &date,
            headers: &headers,
            body: body.as_bytes(),
        };
        let authorization = authorization(&signed, &credentials);
        headers.push(("authorization", &authorization));
        let answer = self.client.send(&Method::POST, &format!("{}/", self.uri.endpoint), &headers, body.as_bytes())?;
        judged(answer)
    }

    fn root_only(&self, with: With<'_>) -> Result<(), KeysError> {
        match with {
            With::Root => Ok(()),
            With::Shard(_) => Err(KeysError::ShardGone),
        }
    }
}

impl RootKeyProvider for AwsKmsProvider {
    fn id(&self) -> String {
        self.uri.key.clone()
    }
    fn assurance(&self) -> Assurance {
        Assurance::Service
    }
    fn shredding(&self) -> Shredding {
        Shredding::ThisCopyOnly
    }

    fn encrypt(
        &self,
        with: With<'_>,
        bound: &Bound<'_>,
        plain: &[u8],
        _entropy: &dyn Entropy,
    ) -> Result<Encrypted, KeysError> {
        self.root_only(with)?;
        let sealed = self.seal(bound, plain)?;
        let bytes =
            BASE64.decode(sealed.ciphertext_blob.as_bytes()).map_err(|_| refused("its answer is not base64"))?;
        Ok(Encrypted { by: self.id(), bytes })
    }

    fn decrypt(
        &self,
        with: With<'_>,
        bound: &Bound<'_>,
        _by: &str,
        bytes: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, KeysError> {
        self.root_only(with)?;
        let body = json!({
            "KeyId": self.uri.key,
            "CiphertextBlob": BASE64.encode(bytes),
            "EncryptionContext": context(bound),
        });
        let answer = self.call("Decrypt", &body)?;
        let plain = read::<DecryptAnswer>(&answer)?.plaintext;
        BASE64.decode(plain.expose().as_bytes()).map(Zeroizing::new).map_err(|_| refused("its answer is not base64"))
    }

    fn make_shard(&self, _shard: &str, _entropy: &dyn Entropy) -> Result<(), KeysError> {
        Err(refused("it has no key of its own for each tenant"))
    }

    fn destroy_shard(&self, _shard: &str) -> Result<(), KeysError> {
        Ok(())
    }

    /// Returns once KMS says that the rotation is over: what is encrypted before that may be under the older material.
    fn rotate(&self, _entropy: &dyn Entropy) -> Result<(), KeysError> {
        // Rotations take no alias.
        let key = json!({ "KeyId": self.arn()? });
        // One that an attempt before this one began is as good, and they are capped.
        if !self.is_rotating(&key)? {
            self.call("RotateKeyOnDemand", &key)?;
        }
        for _ in 0..ROTATION_LOOKS_COUNT_MAX {
            if !self.is_rotating(&key)? {
                return Ok(());
            }
            std::thread::sleep(ROTATION_PAUSE);
        }
        Err(not_over())
    }

    fn check_rotated(&self) -> Result<(), KeysError> {
        if self.is_rotating(&json!({ "KeyId": self.arn()? }))? { Err(not_over()) } else { Ok(()) }
    }

    /// KMS keeps older versions for as long as the key lives.
    fn retire(&self) -> Result<(), KeysError> {
        Ok(())
    }
}

/// What the encrypted bytes belong to, as KMS is told it, and as CloudTrail shows it.
fn context(bound: &Bound<'_>) -> Value {
    json!({ "ringfence:tenant": bound.tenant, "ringfence:key-version": bound.version.to_string() })
}

/// What an answer means: KMS names its errors in `__type`.
fn judged(answer: Answer) -> Result<Answer, KeysError> {
    if answer.status == 200 {
        return Ok(answer);
    }
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let kind = body.get("__type").and_then(Value::as_str).unwrap_or_default();
    // Only letters: whatever else stands there is not ours to repeat.
    let kind: String =
        kind.rsplit('#').next().unwrap_or_default().chars().filter(char::is_ascii_alphabetic).take(64).collect();
    match kind.as_str() {
        "InvalidCiphertextException" | "IncorrectKeyException" => Err(KeysError::NotAuthentic),
        "ThrottlingException" | "KMSInternalException" | "DependencyTimeoutException" | "KeyUnavailableException" => {
            Err(KeysError::Unreachable { provider: PROVIDER, reason: kind })
        }
        _ if answer.status >= 500 => Err(KeysError::Unreachable {
            provider: PROVIDER,
            reason: format!("it answered with status {}", answer.status),
        }),
        _ => Err(refused(&format!("it answered with status {} {kind}", answer.status))),
    }
}

fn read<T: for<'a> Deserialize<'a>>(answer: &Answer) -> Result<T, KeysError> {
    serde_json::from_slice(&answer.body).map_err(|_| refused("its answer has another form than that of KMS"))
}

fn not_over() -> KeysError {
    KeysError::Unreachable { provider: PROVIDER, reason: "its rotation is not over yet".to_owned() }
}

fn refused(reason: &str) -> KeysError {
    KeysError::Refused { provider: PROVIDER, reason: reason.to_owned() }
}
