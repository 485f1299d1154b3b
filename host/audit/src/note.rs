//! Signed notes (c2sp.org/signed-note), and checkpoints, which are the signed head of a log as such a note
//! (c2sp.org/tlog-checkpoint).
//!
//! Text in, text out; must never touch the store or hold a private key: [`seal_note`] is given the signature. The form is
//! the one that `signed_note`, Go's `sumdb/note` and witnesses read, so that a tenant needs none of our code to check it.

use data_encoding::{BASE64, HEXLOWER};
use ringfence_keys::verify_ed25519;
use sha2::{Digest as _, Sha256};

use crate::tree::Hash;

/// Signature type byte of Ed25519 in key ids and verifier keys.
const ED25519: u8 = 0x01;
/// LIMIT: longest checkpoint read, in bytes; room for some witnesses' cosignatures.
pub const CHECKPOINT_BYTES_MAX: usize = 16 << 10;

/// What a checkpoint says: the log, how many entries, the root over them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedHead {
    /// The log's name.
    pub origin: String,
    /// Entries covered.
    pub size: u64,
    /// RFC 6962 root over them.
    pub root: Hash,
}

/// Who may sign for a log: the parsed form of a `name+hash+key` text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verifier {
    name: String,
    id: [u8; 4],
    public: [u8; 32],
}

impl Verifier {
    /// The verifier of `public` under `name`.
    pub fn new(name: &str, public: [u8; 32]) -> Self {
        Self { name: name.to_owned(), id: key_id(name, &public), public }
    }
    /// Parses `name+hash+key` (C2SP vkey); `None` for any other shape, another algorithm, or a hash that does not fit.
    pub fn parse(vkey: &str) -> Option<Self> {
        let (name, rest) = vkey.trim().split_once('+')?;
        let (id, key) = rest.split_once('+')?;
        let key = BASE64.decode(key.as_bytes()).ok()?;
        let (algorithm, public) = key.split_first()?;
        let verifier = Self::new(name, public.try_into().ok()?);
        let plain = !name.is_empty() && !name.contains(char::is_whitespace);
        (plain && *algorithm == ED25519 && HEXLOWER.encode(&verifier.id) == id).then_some(verifier)
    }
    /// The text form, safe to publish.
    pub fn vkey(&self) -> String {
        let mut key = vec![ED25519];
        key.extend_from_slice(&self.public);
        format!("{}+{}+{}", self.name, HEXLOWER.encode(&self.id), BASE64.encode(&key))
    }
    /// The log's name, which is also the signer's.
    pub fn name(&self) -> &str {
        &self.name
    }
    /// Checks a checkpoint and gives what it says; `None` when it is not one of this log or not signed by its key.
    pub fn open(&self, checkpoint: &str) -> Option<SignedHead> {
        let head = parse_checkpoint(&self.open_text(checkpoint, CHECKPOINT_BYTES_MAX)?)?;
        (head.origin == self.name).then_some(head)
    }
    /// The text of a note, when it is signed by this key and not longer than `bytes_max`.
    pub fn open_text(&self, note: &str, bytes_max: usize) -> Option<String> {
        if note.len() > bytes_max {
            return None;
        }
        let (text, signatures) = note.rsplit_once("\n\n")?;
        let text = format!("{text}\n");
        signatures.lines().any(|line| self.signs(line, &text)).then_some(text)
    }

    fn signs(&self, line: &str, text: &str) -> bool {
        let Some((name, signature)) = line.strip_prefix("\u{2014} ").and_then(|rest| rest.split_once(' ')) else {
            return false;
        };
        let Ok(bytes) = BASE64.decode(signature.as_bytes()) else { return false };
        match bytes.split_first_chunk::<4>() {
            Some((id, signature)) if name == self.name && *id == self.id => {
                verify_ed25519(&self.public, text.as_bytes(), signature).is_ok()
            }
            _ => false,
        }
    }
}

/// The text of a checkpoint that gets signed.
pub fn checkpoint_text(head: &SignedHead) -> String {
    format!("{}\n{}\n{}\n", head.origin, head.size, BASE64.encode(&head.root))
}

/// The whole note: a text with its Ed25519 signature by `verifier`'s key.
pub fn seal_note(text: &str, verifier: &Verifier, signature: &[u8; 64]) -> String {
    format!("{text}\n{}", signature_line(verifier, signature))
}

/// One signature of a note, ended by a newline.
pub(crate) fn signature_line(verifier: &Verifier, signature: &[u8; 64]) -> String {
    let mut bytes = verifier.id.to_vec();
    bytes.extend_from_slice(signature);
    format!("\u{2014} {} {}\n", verifier.name, BASE64.encode(&bytes))
}

/// First 4 bytes of `SHA-256(name || 0x0A || 0x01 || public key)`.
fn key_id(name: &str, public: &[u8; 32]) -> [u8; 4] {
    let hash: Hash =
        Sha256::new().chain_update(name).chain_update([b'\n', ED25519]).chain_update(public).finalize().into();
    let [a, b, c, d, ..] = hash;
    [a, b, c, d]
}

/// What a checkpoint says; who signed it is not looked at.
pub(crate) fn claimed_head(checkpoint: &str) -> Option<SignedHead> {
    let (text, _) = checkpoint.rsplit_once("\n\n").filter(|_| checkpoint.len() <= CHECKPOINT_BYTES_MAX)?;
    parse_checkpoint(&format!("{text}\n"))
}

/// What the text of a checkpoint says; who signed it is not looked at.
pub(crate) fn parse_checkpoint(text: &str) -> Option<SignedHead> {
    let mut lines = text.lines();
    let (origin, size, root) = (lines.next()?, lines.next()?, lines.next()?);
    let canonical = size == "0" || (!size.starts_with('0') && size.bytes().all(|b| b.is_ascii_digit()));
    let root = BASE64.decode(root.as_bytes()).ok()?.try_into().ok()?;
    (canonical && !origin.is_empty()).then_some(SignedHead {
        origin: origin.to_owned(),
        size: size.parse().ok()?,
        root,
    })
}
