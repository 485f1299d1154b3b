//! Witnesses: others who see that the log of logs only grows, and sign for it (c2sp.org/tlog-witness, tlog-cosignature).
//!
//! A cosignature counts only when it verifies under the key that the operator configured. Must never follow a redirect or a
//! proxy, or read more than a small answer: the address is the operator's, never a tenant's.

use std::sync::Arc;
use std::time::Duration;

use data_encoding::{BASE64, HEXLOWER};
use ringfence_keys::verify_ed25519;
use sha2::{Digest as _, Sha256};
use ureq::tls::{RootCerts, TlsConfig};

use crate::note::CHECKPOINT_BYTES_MAX;
use crate::tree::Hash;

/// Signature type byte of timestamped Ed25519 cosignatures.
const COSIGNATURE: u8 = 0x04;
/// LIMIT: longest wait for a witness, connecting included.
const ANSWER_WAIT: Duration = Duration::from_secs(10);
/// LIMIT: longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: u64 = 16 << 10;
/// LIMIT: cosignature lines looked at in an answer.
const LINES_COUNT_MAX: usize = 16;

/// Why a witness did not sign.
#[derive(Debug, thiserror::Error)]
pub enum WitnessError {
    /// The key is not a verifier key of a witness.
    #[error("`{0}` is not the verifier key of a witness")]
    BadKey(String),
    /// No answer came.
    #[error("the witness cannot be reached: {0}")]
    Unreachable(String),
    /// It answered something else than a cosignature.
    #[error("the witness answered with status {0}")]
    Refused(u16),
    /// Its signature does not verify.
    #[error("the witness's cosignature does not verify")]
    BadSignature,
    /// It has seen more of the log than there is, or another one.
    #[error("the witness saw {seen} heads signed for, and there are {size}")]
    RolledBack {
        /// What it saw.
        seen: u64,
        /// What there is.
        size: u64,
    },
}

/// A witness as the operator configured it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Witness {
    url: String,
    name: String,
    id: [u8; 4],
    public: [u8; 32],
}

/// What a witness answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Signature lines for the note, each ended by a newline.
    Cosigned(String),
    /// It knows the log at this size; the proof must begin there.
    Conflict(u64),
}

impl Witness {
    /// A witness at `url` (the part before `/add-checkpoint`) that signs with the key `vkey`.
    pub fn new(url: &str, vkey: &str) -> Result<Self, WitnessError> {
        let parsed = (|| {
            let (name, rest) = vkey.trim().split_once('+')?;
            let (id, key) = rest.split_once('+')?;
            let key = BASE64.decode(key.as_bytes()).ok()?;
            let (kind, public) = key.split_first()?;
            let public: [u8; 32] = public.try_into().ok()?;
            let ours = key_id(name, &public);
            let fits = *kind == COSIGNATURE && HEXLOWER.encode(&ours) == id && !name.is_empty();
            fits.then(|| Self { url: url.trim_end_matches('/').to_owned(), name: name.to_owned(), id: ours, public })
        })();
        parsed.ok_or_else(|| WitnessError::BadKey(vkey.to_owned()))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The lines of `lines` that are this witness's cosignatures of `checkpoint` and verify; none when there is no such.
    pub fn check(&self, checkpoint: &str, lines: &str) -> Option<String> {
        let (text, _) = checkpoint.split_once("\n\n")?;
        let held: String = lines
            .lines()
            .take(LINES_COUNT_MAX)
            .filter(|line| self.signed(&format!("{text}\n"), line).is_some())
            .map(|line| format!("{line}\n"))
            .collect();
        (!held.is_empty()).then_some(held)
    }

    /// Shows the witness a checkpoint. Blocks up to about 10 seconds.
    pub fn add_checkpoint(&self, old: u64, path: &[Hash], checkpoint: &str) -> Result<Answer, WitnessError> {
        let unreachable = |error: &dyn std::fmt::Display| WitnessError::Unreachable(error.to_string());
        let body = request_text(old, path, checkpoint);
        let mut response = agent()
            .post(format!("{}/add-checkpoint", self.url))
            .send(body.as_bytes())
            .map_err(|error| unreachable(&error))?;
        let status = response.status().as_u16();
        let bytes = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
        let bytes = bytes.map_err(|error| unreachable(&error))?;
        let text = String::from_utf8_lossy(&bytes);
        match status {
            200 => self.check(checkpoint, &text).map(Answer::Cosigned).ok_or(WitnessError::BadSignature),
            409 => text.trim().parse().map(Answer::Conflict).map_err(|_| WitnessError::Refused(409)),
            other => Err(WitnessError::Refused(other)),
        }
    }

    /// The time (seconds since 1970) of a line's cosignature of `text`, when it verifies.
    fn signed(&self, text: &str, line: &str) -> Option<u64> {
        let (name, signature) = line.strip_prefix("\u{2014} ")?.split_once(' ')?;
        let bytes = BASE64.decode(signature.as_bytes()).ok()?;
        let (id, rest) = bytes.split_first_chunk::<4>()?;
        let (time, signature) = rest.split_first_chunk::<8>()?;
        let time = u64::from_be_bytes(*time);
        let message = format!("cosignature/v1\ntime {time}\n{text}");
        let ours = name == self.name && *id == self.id;
        (ours && verify_ed25519(&self.public, message.as_bytes(), signature).is_ok()).then_some(time)
    }
}

/// A checkpoint with cosignatures added after its own signature; none when it would be too long.
pub fn with_cosignatures(checkpoint: &str, lines: &str) -> Option<String> {
    let text = format!("{checkpoint}{lines}");
    (text.len() <= CHECKPOINT_BYTES_MAX).then_some(text)
}

/// What is sent to a witness: the size it knows, the proof from there, the checkpoint.
fn request_text(old: u64, path: &[Hash], checkpoint: &str) -> String {
    let lines: String = path.iter().map(|hash| format!("{}\n", BASE64.encode(hash))).collect();
    format!("old {old}\n{lines}\n{checkpoint}")
}

/// First 4 bytes of `SHA-256(name || 0x0A || 0x04 || public key)`.
fn key_id(name: &str, public: &[u8; 32]) -> [u8; 4] {
    let hash: Hash =
        Sha256::new().chain_update(name).chain_update([b'\n', COSIGNATURE]).chain_update(public).finalize().into();
    let [a, b, c, d, ..] = hash;
    [a, b, c, d]
}

fn agent() -> ureq::Agent {
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::WebPki)
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .build();
    ureq::Agent::config_builder()
        .timeout_global(Some(ANSWER_WAIT))
        .max_redirects(0)
        .http_status_as_error(false)
        .proxy(None)
        .tls_config(tls)
        .build()
        .into()
}
