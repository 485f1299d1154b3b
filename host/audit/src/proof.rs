//! Proofs that one entry is in a log, as text that other people's tools read (c2sp.org/tlog-proof@v1).
//!
//! Pure. Must never say that a proof holds without having checked the signature of the checkpoint inside it.

use data_encoding::BASE64;

use crate::note::{CHECKPOINT_BYTES_MAX, SignedHead, Verifier};
use crate::tree::{Hash, leaf_hash, verify_inclusion};

const HEADER: &str = "c2sp.org/tlog-proof@v1";
/// LIMIT: longest proof read, in bytes.
pub const PROOF_BYTES_MAX: usize = CHECKPOINT_BYTES_MAX + (8 << 10);
/// LIMIT: hashes of a proof; a tree of 2^63 entries needs no more.
const PATH_COUNT_MAX: usize = 63;

/// That an entry is in a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InclusionProof {
    /// The entry's place.
    pub index: u64,
    /// RFC 6962 audit path.
    pub path: Vec<Hash>,
    /// The signed head that it leads to.
    pub checkpoint: String,
}

impl InclusionProof {
    /// Reads a proof; none when it has another form.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > PROOF_BYTES_MAX {
            return None;
        }
        let (head, checkpoint) = text.split_once("\n\n")?;
        let mut lines = head.lines();
        let known = lines.next()? == HEADER;
        let mut line = lines.next()?;
        if line.starts_with("extra ") {
            line = lines.next()?;
        }
        let index = line.strip_prefix("index ")?;
        let canonical = index == "0" || !index.starts_with(['0', '+']);
        let path: Option<Vec<Hash>> = lines.map(|line| BASE64.decode(line.as_bytes()).ok()?.try_into().ok()).collect();
        let path = path.filter(|path| path.len() <= PATH_COUNT_MAX)?;
        (known && canonical).then_some(Self { index: index.parse().ok()?, path, checkpoint: checkpoint.to_owned() })
    }

    /// Checks that the log of `verifier` signed for a tree that holds `entry` at this place, and gives the head.
    pub fn verify(&self, verifier: &Verifier, entry: &[u8]) -> Option<SignedHead> {
        let head = verifier.open(&self.checkpoint)?;
        verify_inclusion(self.index, head.size, &leaf_hash(entry), &self.path, &head.root).then_some(head)
    }
}

impl std::fmt::Display for InclusionProof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{HEADER}\nindex {}", self.index)?;
        self.path.iter().try_for_each(|hash| writeln!(f, "{}", BASE64.encode(hash)))?;
        write!(f, "\n{}", self.checkpoint)
    }
}
