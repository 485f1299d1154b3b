//! Receipts of destruction: that a deleted tenant's keys are gone, signed, for whoever asks for it later.
//!
//! A receipt is a text of `signed.rs` under the key of the host's own log: what was destroyed, who wanted it and when, and
//! the entry of that log about it with its proof of inclusion and what it commits to, so that the receipt and the log stand
//! for each other. Text in, text out: must never touch the store or a clock, and never hold anything of a key but what names
//! it.

use data_encoding::HEXLOWER;
use ringfence_store::Destroyed;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::envelope::{Envelope, canonical_body, commitment, hex};
use crate::note::{SignedHead, Verifier};
use crate::proof::InclusionProof;
use crate::signed::{self, Unread};
use crate::{AuditError, codes};

/// First line of every receipt.
const TITLE: &str = "ringfence destruction receipt v1";
/// LIMIT: longest receipt, in bytes; room for what its entry may say ([`crate::envelope`]), twice, and as much again.
pub const DESTRUCTION_BYTES_MAX: usize = 512 << 10;
/// What salts of commitments have.
const SALT_BYTES: usize = 32;

/// What a receipt says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DestructionReceipt {
    /// The host, by its name in audit logs.
    pub host: String,
    /// What was destroyed.
    pub destroyed: Destroyed,
    /// The envelope of the entry about it in the host's log, byte for byte.
    pub entry: String,
    /// That the entry is in the log: its place, a path, and the signed head that it leads to (c2sp.org/tlog-proof@v1).
    pub proof: String,
    /// What the envelope commits to; none in receipts of the first form, whose entry can be about any destruction, and where the
    /// names of keys are too long to stand in the log whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opening: Option<Opening>,
}

/// What the envelope of an entry commits to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Opening {
    /// The body of the entry, which has what was destroyed as its details.
    pub body: Value,
    /// The salt of the commitment, hex.
    pub salt: String,
}

/// A receipt that verifies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedDestruction {
    /// What it says.
    pub receipt: DestructionReceipt,
    /// Place of the entry in the host's log.
    pub seq: u64,
    /// The head of the log that covers it.
    pub head: SignedHead,
}

/// Why a receipt does not verify.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DestructionFault {
    /// The key is not one.
    #[error("the key is not a verifier key")]
    BadKey,
    /// Changed, cut, or signed by somebody else.
    #[error("the signature does not fit the receipt and the key")]
    BadSignature,
    /// Signed, and not a receipt in canonical form.
    #[error("the text is not a receipt of destruction")]
    Malformed,
    /// Signed for another log than the host's own, or another host.
    #[error("the receipt is not one of the key's host")]
    AnotherHost,
    /// The entry is not in the log whose head is signed, or about something else.
    #[error("the entry of the log that the receipt names is not in it, or is about something else")]
    NotLogged,
}

impl DestructionReceipt {
    /// The text that gets signed.
    pub(crate) fn text(&self) -> Result<String, AuditError> {
        signed::text(TITLE, self, DESTRUCTION_BYTES_MAX)
    }
}

impl Opening {
    /// Whether this is about what was destroyed.
    pub(crate) fn is_about(&self, destroyed: &Destroyed) -> bool {
        let details = self.body.pointer("/unmapped/details");
        serde_json::to_value(destroyed).is_ok_and(|said| details == Some(&said))
    }

    /// Whether an entry commits to this.
    fn is_of(&self, entry: &Envelope) -> bool {
        match (HEXLOWER.decode(self.salt.as_bytes()), canonical_body(&self.body)) {
            (Ok(salt), Ok(body)) => salt.len() == SALT_BYTES && hex(&commitment(&salt, &body)) == entry.body_sha256,
            _ => false,
        }
    }
}

impl From<Unread> for DestructionFault {
    fn from(unread: Unread) -> Self {
        match unread {
            Unread::Signature => Self::BadSignature,
            Unread::Form => Self::Malformed,
        }
    }
}

/// Checks a receipt against the verifier key (`name+hash+key`) of the host's own log, offline: signature, form, whose it is, that
/// the log has the entry, and, where the receipt has its opening, that the entry says the same.
pub fn verify(note: &str, vkey: &str) -> Result<VerifiedDestruction, DestructionFault> {
    let verifier = Verifier::parse(vkey).ok_or(DestructionFault::BadKey)?;
    let (receipt, _): (DestructionReceipt, String) = signed::open(TITLE, note, &verifier, DESTRUCTION_BYTES_MAX)?;
    if verifier.name() != format!("{}/audit/host", receipt.host) {
        return Err(DestructionFault::AnotherHost);
    }
    let proof = InclusionProof::parse(&receipt.proof).ok_or(DestructionFault::NotLogged)?;
    let head = proof.verify(&verifier, receipt.entry.as_bytes()).ok_or(DestructionFault::NotLogged)?;
    let entry: Envelope = serde_json::from_str(&receipt.entry).map_err(|_| DestructionFault::NotLogged)?;
    if entry.seq != proof.index || entry.code != codes::KEY_DESTROYED {
        return Err(DestructionFault::NotLogged);
    }
    let says_another = |opening: &Opening| !opening.is_of(&entry) || !opening.is_about(&receipt.destroyed);
    if receipt.opening.as_ref().is_some_and(says_another) {
        return Err(DestructionFault::NotLogged);
    }
    Ok(VerifiedDestruction { seq: proof.index, head, receipt })
}
