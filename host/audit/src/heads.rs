//! The log of logs: one tree whose leaves commit to the signed heads of all logs of this host.
//!
//! Its own head goes to witnesses and to a mirror, so that one outside anchor covers every tenant. Must never show one
//! tenant anything of another: a leaf is `SHA-256("host-audit/v1 head\n" || salt || checkpoint)`, and the salt lies with the
//! tenant. What a tenant gets is its own salt, its own checkpoint and the path of its own leaf ([`Cover`]).

use ringfence_store::{Key, Op, Precondition, TenantStore};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::envelope::hex;
use crate::note::{SignedHead, Verifier};
use crate::proof::InclusionProof;
use crate::shelf::{Leaves, Reader, Shelf, ShelfError, untiled};
use crate::tiles::Edge;
use crate::tree::{Frontier, Hash, consistency_spans, inclusion_spans, leaf_hash};
use crate::writer::unavailable;
use crate::{Audit, AuditError, Log};

/// LIMIT: heads written in one batch; of more logs that grew, the others have their turn in the next round.
const HEADS_COUNT_MAX: usize = 512;
const TILES: &str = "heads-tile";

/// What shows a log's owner that the host committed to the log's head where others can see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cover {
    /// The log's own checkpoint that was committed to.
    pub checkpoint: String,
    /// Salt of the commitment, hex.
    pub salt: String,
    /// Place of the leaf in the log of logs.
    pub index: u64,
}

/// What became of the log of logs in a round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Round {
    /// Leaves before.
    pub from: u64,
    /// Leaves after.
    pub to: u64,
    /// Root after.
    pub root: Hash,
    /// The signed head after.
    pub checkpoint: String,
    /// The commitments that were added, in order.
    pub added: Vec<Hash>,
}

#[derive(Serialize, Deserialize)]
struct StoredHeads {
    v: u8,
    size: u64,
    peaks: Vec<String>,
}

/// A log's cover as it lies with the log.
#[derive(Serialize, Deserialize)]
struct StoredCover {
    #[serde(flatten)]
    cover: Cover,
    size: u64,
}

/// The tree as it stands.
pub(crate) struct Heads {
    pub(crate) frontier: Frontier,
    revision: Option<u64>,
}

struct HeadLeaves<'a>(&'a TenantStore);

impl Leaves for HeadLeaves<'_> {
    async fn leaf(&self, index: u64) -> Result<Hash, ShelfError> {
        commitment_at(self.0, index).await.map(|commitment| leaf_hash(&commitment))
    }
}

/// What stands in the log of logs for a log's checkpoint.
pub fn head_commitment(salt: &[u8], checkpoint: &str) -> Hash {
    Sha256::new().chain_update("host-audit/v1 head\n").chain_update(salt).chain_update(checkpoint).finalize().into()
}

/// Checks that `cover` is in the tree that `heads` signed for, and that it is about a checkpoint of `log`. Gives the log's
/// head that is covered.
pub fn verify_cover(cover: &Cover, log: &Verifier, heads: &Verifier, proof: &InclusionProof) -> Option<SignedHead> {
    let salt = data_encoding::HEXLOWER.decode(cover.salt.as_bytes()).ok()?;
    let head = log.open(&cover.checkpoint)?;
    let commitment = head_commitment(&salt, &cover.checkpoint);
    (proof.index == cover.index).then_some(())?;
    proof.verify(heads, &commitment).map(|_| head)
}

impl Audit {
    /// The name of the log of logs.
    pub fn heads_origin(&self) -> String {
        format!("{}/audit/heads", self.host_name())
    }

    /// Its verifier key.
    pub fn heads_vkey(&self) -> String {
        self.heads_verifier().vkey()
    }

    /// Commits to the heads of all logs that grew since the last round; what the tree is now. One round at a time.
    pub async fn cover(&self) -> Result<Round, AuditError> {
        let _turn = self.covering().lock().await;
        let (platform, origin) = (self.store(&Log::Host), self.heads_origin());
        let heads = self.heads().await?;
        let shelf = Shelf::new(platform.clone(), TILES);
        let from = heads.frontier.size();
        let tiled = |error: ShelfError| untiled(&origin, &error);
        let mut edge = shelf.edge(from, &HeadLeaves(&platform)).await.map_err(tiled)?;
        let (mut frontier, mut ops, mut covers, mut added) = (heads.frontier, Vec::new(), Vec::new(), Vec::new());
        for log in self.grown().await.into_iter().take(HEADS_COUNT_MAX) {
            self.turned(&log, from);
            // A log that cannot be read now is covered in a later round, and holds nobody else up.
            let Ok(checkpoint) = self.checkpoint(&log).await else { continue };
            let stored: Option<StoredCover> = self.store(&log).get_json(&cover_key()).await.ok().flatten();
            if stored.is_some_and(|stored| stored.size == checkpoint.size && stored.cover.index < from) {
                self.covered(&log, checkpoint.size);
                continue;
            }
            let (salt, index) = (self.dice(), frontier.size());
            let commitment = head_commitment(&salt, &checkpoint.text);
            ops.push(Op::put(leaf_key(index), commitment));
            ops.extend(shelf.ops(edge.push(leaf_hash(&commitment))));
            frontier.push(leaf_hash(&commitment));
            let cover = Cover { checkpoint: checkpoint.text, salt: hex(&salt), index };
            covers.push((log, StoredCover { cover, size: checkpoint.size }));
            added.push(commitment);
        }
        if !ops.is_empty() {
            let peaks = frontier.peaks().iter().map(|peak| hex(peak)).collect();
            let stored = StoredHeads { v: 1, size: frontier.size(), peaks };
            ops.push(Op::put_json(heads_key(), &stored).map_err(|_| AuditError::Unrepresentable)?);
            let expected = match heads.revision {
                Some(revision) => Precondition::Revision(heads_key(), revision),
                None => Precondition::Absent(heads_key()),
            };
            platform.batch(ops, vec![expected]).await.map_err(|error| unavailable(&origin, &error))?;
        }
        for (log, cover) in covers {
            // Without its cover a log is only covered again in the next round.
            if self.store(&log).put_json(&cover_key(), &cover).await.is_ok() {
                self.covered(&log, cover.size);
            }
        }
        let checkpoint = self.sign_heads(frontier.size(), &frontier.root());
        Ok(Round { from, to: frontier.size(), root: frontier.root(), checkpoint, added })
    }

    /// What was committed to last of a log; none before the first round.
    pub async fn cover_of(&self, log: &Log) -> Result<Option<Cover>, AuditError> {
        let stored: Option<StoredCover> =
            self.store(log).get_json(&cover_key()).await.map_err(|error| unavailable(&self.origin(log), &error))?;
        Ok(stored.map(|stored| stored.cover))
    }

    /// Proof that commitment `index` is in the log of logs, against `checkpoint` of its size `size`, or the present head.
    pub async fn heads_proof(
        &self,
        index: u64,
        cosigned: Option<(u64, String)>,
    ) -> Result<Option<InclusionProof>, AuditError> {
        let heads = self.heads().await?;
        let (size, checkpoint) = match cosigned.filter(|(size, _)| *size > index) {
            Some(cosigned) => cosigned,
            None => (heads.frontier.size(), self.sign_heads(heads.frontier.size(), &heads.frontier.root())),
        };
        let Some(spans) = inclusion_spans(index, size) else { return Ok(None) };
        let path = self.heads_roots(heads.frontier.size(), spans).await?;
        Ok(Some(InclusionProof { index, path, checkpoint }))
    }

    /// Proof that the log of logs at `old` leaves is a prefix of it at `new` leaves; empty from 0.
    pub async fn heads_consistency(&self, old: u64, new: u64) -> Result<Vec<Hash>, AuditError> {
        match consistency_spans(old, new) {
            Some(spans) => self.heads_roots(self.heads().await?.frontier.size(), spans).await,
            None => Ok(Vec::new()),
        }
    }

    /// Root of the log of logs at an earlier size.
    pub(crate) async fn heads_root(&self, size: u64) -> Result<Hash, AuditError> {
        let whole = crate::tree::Span { from: 0, to: size };
        let roots = self.heads_roots(self.heads().await?.frontier.size(), vec![whole]).await?;
        Ok(roots.first().copied().unwrap_or_else(crate::tree::empty_root))
    }

    /// The commitments from place `from` to before `to`.
    pub(crate) async fn commitments(&self, from: u64, to: u64) -> Result<Vec<Hash>, AuditError> {
        let (platform, origin, mut found) = (self.store(&Log::Host), self.heads_origin(), Vec::new());
        for index in from..to {
            found.push(commitment_at(&platform, index).await.map_err(|error| untiled(&origin, &error))?);
        }
        Ok(found)
    }

    /// The tree as it is stored.
    pub(crate) async fn heads(&self) -> Result<Heads, AuditError> {
        let origin = self.heads_origin();
        let record = self.store(&Log::Host).get(&heads_key()).await.map_err(|error| unavailable(&origin, &error))?;
        let Some(record) = record else { return Ok(Heads { frontier: Frontier::new(), revision: None }) };
        let broken = || AuditError::Broken { log: origin.clone(), seq: 0, what: "its head cannot be read" };
        let stored: StoredHeads = record.json().map_err(|_| broken())?;
        let hash = |text: &String| data_encoding::HEXLOWER.decode(text.as_bytes()).ok()?.try_into().ok();
        let peaks: Option<Vec<Hash>> = stored.peaks.iter().map(hash).collect();
        let frontier = peaks.and_then(|peaks| Frontier::from_parts(stored.size, peaks)).ok_or_else(broken)?;
        Ok(Heads { frontier, revision: Some(record.revision) })
    }

    async fn heads_roots(&self, size: u64, spans: Vec<crate::tree::Span>) -> Result<Vec<Hash>, AuditError> {
        let (platform, origin) = (self.store(&Log::Host), self.heads_origin());
        let shelf = Shelf::new(platform.clone(), TILES);
        let tiled = |error: ShelfError| untiled(&origin, &error);
        let edge: Edge = shelf.edge(size, &HeadLeaves(&platform)).await.map_err(tiled)?;
        Reader::new(&shelf, &edge).roots(spans).await.map_err(tiled)
    }

    fn heads_verifier(&self) -> Verifier {
        self.shared().ring().verifier(&self.heads_origin())
    }

    /// Signs what the log of logs was at a size.
    pub(crate) fn sign_heads(&self, size: u64, root: &Hash) -> String {
        self.sign_head(&SignedHead { origin: self.heads_origin(), size, root: *root })
    }
}

async fn commitment_at(platform: &TenantStore, index: u64) -> Result<Hash, ShelfError> {
    let record = platform.get(&leaf_key(index)).await?.ok_or(ShelfError::Missing)?;
    record.value.as_slice().try_into().map_err(|_| ShelfError::Missing)
}

fn heads_key() -> Key {
    Key::new(["heads-head"])
}

fn leaf_key(index: u64) -> Key {
    Key::new(["heads-leaf"]).number(index)
}

fn cover_key() -> Key {
    Key::new(["audit-cover"])
}
