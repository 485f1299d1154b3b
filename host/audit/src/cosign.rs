//! Post-quantum cosignatures of checkpoints: ML-DSA-44 over a tree head (c2sp.org/tlog-cosignature, algorithm byte 0x06).
//!
//! Pure but for the signature, which is handed in; must never take a checkpoint's word for what was signed: the message is made
//! from the parsed head. The log cosigns its own heads under its own name, and the time in it is 0, which by the
//! specification says nothing about when this was the largest tree. It stands beside the Ed25519 signature, never instead.

use data_encoding::{BASE64, HEXLOWER};
use ringfence_keys::{ML_DSA_44_PUBLIC_BYTES, ML_DSA_44_SIGNATURE_BYTES, verify_ml_dsa_44};
use sha2::{Digest as _, Sha256};

use crate::note::{SignedHead, claimed_head};
use crate::tree::Hash;

/// Signature type byte of timestamped ML-DSA-44 cosignatures.
const COSIGNATURE: u8 = 0x06;
/// What every signed message begins with.
const LABEL: &[u8; 12] = b"subtree/v1\n\0";
/// What the cosignature says of time: nothing.
const NO_TIME: u64 = 0;
/// LIMIT: signature lines of a checkpoint that are looked at.
const LINES_COUNT_MAX: usize = 32;

/// Who cosigns: the parsed form of a `name+hash+key` text of a post-quantum key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cosigner {
    name: String,
    id: [u8; 4],
    public: Vec<u8>,
}

impl Cosigner {
    /// The cosigner of `public` under `name`; none when the key has another length.
    pub fn new(name: &str, public: &[u8]) -> Option<Self> {
        let plain = !name.is_empty() && !name.contains(char::is_whitespace) && !name.contains('+');
        (plain && public.len() == ML_DSA_44_PUBLIC_BYTES).then(|| Self {
            name: name.to_owned(),
            id: key_id(name, public),
            public: public.to_vec(),
        })
    }

    /// Parses a verifier key; none for any other shape, another algorithm, or a hash that does not fit.
    pub fn parse(vkey: &str) -> Option<Self> {
        let (name, rest) = vkey.trim().split_once('+')?;
        let (id, key) = rest.split_once('+')?;
        let key = BASE64.decode(key.as_bytes()).ok()?;
        let (algorithm, public) = key.split_first()?;
        let cosigner = Self::new(name, public)?;
        (*algorithm == COSIGNATURE && HEXLOWER.encode(&cosigner.id) == id).then_some(cosigner)
    }

    /// The text form, safe to publish.
    pub fn vkey(&self) -> String {
        let mut key = vec![COSIGNATURE];
        key.extend_from_slice(&self.public);
        format!("{}+{}+{}", self.name, HEXLOWER.encode(&self.id), BASE64.encode(&key))
    }

    /// The message to sign for a head; none for a name or an origin that is over 255 bytes.
    pub fn message(&self, head: &SignedHead) -> Option<Vec<u8>> {
        message(&self.name, NO_TIME, head)
    }

    /// The line to add to a checkpoint, ended by a newline.
    pub fn line(&self, signature: &[u8]) -> String {
        let mut bytes = self.id.to_vec();
        bytes.extend_from_slice(&NO_TIME.to_be_bytes());
        bytes.extend_from_slice(signature);
        format!("\u{2014} {} {}\n", self.name, BASE64.encode(&bytes))
    }

    /// Whether a checkpoint carries a cosignature of this key over what it says.
    pub fn has_signed(&self, checkpoint: &str) -> bool {
        let Some((_, lines)) = checkpoint.rsplit_once("\n\n") else { return false };
        let Some(head) = claimed_head(checkpoint) else { return false };
        lines.lines().take(LINES_COUNT_MAX).any(|line| self.signs(line, &head).is_some())
    }

    fn signs(&self, line: &str, head: &SignedHead) -> Option<()> {
        let (name, signature) = line.strip_prefix("\u{2014} ")?.split_once(' ')?;
        let bytes = BASE64.decode(signature.as_bytes()).ok()?;
        let (id, rest) = bytes.split_first_chunk::<4>()?;
        let (time, signature) = rest.split_first_chunk::<8>()?;
        let ours = name == self.name && *id == self.id && signature.len() == ML_DSA_44_SIGNATURE_BYTES;
        let message = message(&self.name, u64::from_be_bytes(*time), head).filter(|_| ours)?;
        verify_ml_dsa_44(&self.public, &message, signature).ok()
    }
}

/// The `cosigned_message` of the specification, in the encoding of RFC 8446, section 3.
fn message(name: &str, time: u64, head: &SignedHead) -> Option<Vec<u8>> {
    let short = |text: &str| u8::try_from(text.len()).ok().filter(|length| *length > 0);
    let mut message = LABEL.to_vec();
    message.push(short(name)?);
    message.extend_from_slice(name.as_bytes());
    message.extend_from_slice(&time.to_be_bytes());
    message.push(short(&head.origin)?);
    message.extend_from_slice(head.origin.as_bytes());
    message.extend_from_slice(&0_u64.to_be_bytes());
    message.extend_from_slice(&head.size.to_be_bytes());
    message.extend_from_slice(&head.root);
    Some(message)
}

/// First 4 bytes of `SHA-256(name || 0x0A || 0x06 || public key)`.
fn key_id(name: &str, public: &[u8]) -> [u8; 4] {
    let hash: Hash =
        Sha256::new().chain_update(name).chain_update([b'\n', COSIGNATURE]).chain_update(public).finalize().into();
    let [a, b, c, d, ..] = hash;
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::note::{CHECKPOINT_BYTES_MAX, checkpoint_text};
    use ringfence_core::Entropy;
    use ringfence_keys::PostQuantumKey;

    struct Fixed(u8);
    impl Entropy for Fixed {
        fn fill(&self, into: &mut [u8]) {
            into.fill(self.0);
        }
    }

    fn head(size: u64) -> SignedHead {
        SignedHead { origin: "host.example/audit/tenant/acme".to_owned(), size, root: [7; 32] }
    }

    fn signed(key: &PostQuantumKey, cosigner: &Cosigner, head: &SignedHead) -> String {
        let line = cosigner.line(&key.sign(&cosigner.message(head).unwrap()).unwrap());
        format!("{}\n\u{2014} other AAAAAA==\n{line}", checkpoint_text(head))
    }

    #[test]
    fn the_message_is_laid_out_as_the_specification_says() {
        let message = message("c", 5, &SignedHead { origin: "o1".to_owned(), size: 258, root: [9; 32] }).unwrap();
        let wanted = [
            b"subtree/v1\n\0".as_slice(),
            b"\x01c",
            &[0, 0, 0, 0, 0, 0, 0, 5],
            b"\x02o1",
            &[0; 8],
            &[0, 0, 0, 0, 0, 0, 1, 2],
            &[9; 32],
        ];
        assert_eq!(message, wanted.concat());
        let long = SignedHead { origin: "o".repeat(256), size: 1, root: [0; 32] };
        assert!(super::message("c", 0, &long).is_none());
    }

    #[test]
    fn a_cosignature_holds_for_its_head_and_key_only() {
        let (key, other) = (PostQuantumKey::generate(&Fixed(1)).unwrap(), PostQuantumKey::generate(&Fixed(2)).unwrap());
        let cosigner = Cosigner::new("host.example/audit/tenant/acme", key.public_key()).unwrap();
        let checkpoint = signed(&key, &cosigner, &head(40));
        assert!(checkpoint.len() < CHECKPOINT_BYTES_MAX / 4);
        assert!(cosigner.has_signed(&checkpoint));
        assert!(!cosigner.has_signed(&checkpoint.replacen("\n40\n", "\n41\n", 1)));
        let stranger = Cosigner::new("host.example/audit/tenant/acme", other.public_key()).unwrap();
        assert!(!stranger.has_signed(&checkpoint));
        assert!(!cosigner.has_signed(&signed(&other, &cosigner, &head(40))));
        for broken in ["", "\n\n", "a\nb\nc\n\n\u{2014} x y\n", &"x".repeat(CHECKPOINT_BYTES_MAX + 1)] {
            assert!(!cosigner.has_signed(broken));
        }
    }

    #[test]
    fn a_verifier_key_is_read_in_one_form_only() {
        let key = PostQuantumKey::generate(&Fixed(1)).unwrap();
        let cosigner = Cosigner::new("host.example/audit/heads", key.public_key()).unwrap();
        let vkey = cosigner.vkey();
        assert_eq!(Cosigner::parse(&vkey), Some(cosigner));
        assert_eq!(Cosigner::parse(&vkey.replacen("host.example", "host.exampl3", 1)), None);
        assert_eq!(Cosigner::parse(vkey.get(..vkey.len() - 8).unwrap()), None);
        assert!(Cosigner::new("a b", key.public_key()).is_none() && Cosigner::new("a", &[1; 32]).is_none());
    }
}
