//! Checking a log from the outside: pure, offline, with nothing but the entries, the signed checkpoint and the public key.
//!
//! Must never ask the host anything: the host is what is being checked. The command line and the tests call [`verify`].
//! What it proves: the entries are exactly those the key's holder signed for, in that order, none missing, none changed.
//! What it cannot prove alone: that the holder of the key did not write and sign another history from the start. For that
//! keep a checkpoint and pass it as `previous` next time, or have one held by someone else.

use crate::beginning::Beginning;
use crate::cosign::Cosigner;
use crate::envelope::{canonical_body, commitment, genesis, hex, link};
use crate::key_change::{KeyChange, Trust};
use crate::note::{SignedHead, claimed_head};
use crate::tree::{Frontier, Hash, leaf_hash};
use crate::{Entry, codes};

/// The tenant part of the host's own log.
const PLATFORM: &str = "_platform";

/// What is to be checked, with what its checker knows.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    /// The log's name.
    pub origin: &'a str,
    /// Its verifier key as once learnt, not as shown beside the entries.
    pub vkey: &'a str,
    /// Its signed head.
    pub checkpoint: &'a str,
    /// An older head that was kept.
    pub previous: Option<&'a str>,
    /// What stands for entries that were deleted after their retention.
    pub beginning: Option<&'a Beginning>,
    /// Changes of the key, to follow from the known one.
    pub changes: &'a [KeyChange],
    /// A post-quantum key that must have signed the head too.
    pub cosigner: Option<&'a str>,
}

impl<'a> Claim<'a> {
    /// A whole log under one key.
    pub fn new(origin: &'a str, vkey: &'a str, checkpoint: &'a str) -> Self {
        Self { origin, vkey, checkpoint, previous: None, beginning: None, changes: &[], cosigner: None }
    }
}

/// A log that stood every check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Entries checked, all that the checkpoint covers and that were not deleted after their retention.
    pub entries: u64,
    /// The first of them: 0, or where the deleted part ends.
    pub from: u64,
    /// Size of the older checkpoint when it lies in the deleted part, so that nothing shows any more that the log continues it.
    pub unreached: Option<u64>,
    /// The newest key that follows from the known one.
    pub vkey: String,
    /// Of these, entries whose body was not shown, so that only its commitment is covered.
    pub bodies_withheld: u64,
    /// What the checkpoint says.
    pub head: SignedHead,
    /// Hash that the next entry will point back to.
    pub chain_head: Hash,
}

/// What is wrong with a log. The first thing found, in the order of the entries.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// An entry is not what was signed for. When a whole tail was recomputed to fit, this names its last entry.
    #[error("entry {seq} was altered")]
    Altered {
        /// Which.
        seq: u64,
    },
    /// An entry is not there.
    #[error("entry {seq} is missing")]
    Missing {
        /// Which.
        seq: u64,
    },
    /// An entry is there, but not in its place, or twice.
    #[error("entry {seq} is out of order")]
    Reordered {
        /// The place where the order breaks.
        seq: u64,
    },
    /// An entry belongs to another log.
    #[error("entry {seq} comes from another log")]
    Spliced {
        /// The place where it stands.
        seq: u64,
    },
    /// Entries at the end are not there.
    #[error("the log ends after {have} entries, but {signed} were signed for")]
    Truncated {
        /// Entries shown.
        have: u64,
        /// Entries signed for.
        signed: u64,
    },
    /// An entry follows that the checkpoint does not cover.
    #[error("entry {seq} is not covered by the checkpoint")]
    Unsigned {
        /// Which.
        seq: u64,
    },
    /// The checkpoint, or the older one, is not signed by this log's key.
    #[error("the checkpoint is not signed by this log's key")]
    BadSignature,
    /// The log is not a continuation of the one the older checkpoint was made of.
    #[error("the log was rolled back or rewritten since the older checkpoint")]
    RolledBack,
    /// Entries before this one are missing, and the log does not say that they were deleted, or says it otherwise.
    #[error(
        "the entries before {seq} are missing, and the log does not say that they were deleted after their retention"
    )]
    Undeclared {
        /// The first entry shown.
        seq: u64,
    },
    /// The log does not say at this place that its key changed.
    #[error("entry {seq} should say that the log's key changed")]
    KeyUndeclared {
        /// Which.
        seq: u64,
    },
    /// The post-quantum key that was asked for did not sign the checkpoint.
    #[error("the checkpoint has no cosignature of the post-quantum key")]
    BadCosignature,
    /// A body is not the one its entry commits to.
    #[error("the body of entry {seq} was altered")]
    BodyAltered {
        /// Which.
        seq: u64,
    },
}

/// Checks a whole log from entry 0 against `checkpoint`, and against `previous`, an older checkpoint that was kept.
///
/// `origin` is the log's name and `vkey` its verifier key as once learnt, not as shown beside the entries.
/// Memory: one entry at a time and a few hashes.
pub fn verify(
    origin: &str,
    vkey: &str,
    entries: impl IntoIterator<Item = Entry>,
    checkpoint: &str,
    previous: Option<&str>,
) -> Result<Verified, Fault> {
    verify_claim(&Claim { previous, ..Claim::new(origin, vkey, checkpoint) }, entries)
}

/// Checks a log against a [`Claim`]: from its beginning, or from where its deleted part ends.
pub fn verify_claim(claim: &Claim<'_>, entries: impl IntoIterator<Item = Entry>) -> Result<Verified, Fault> {
    let trust = Trust::follow(claim.origin, claim.vkey, claim.changes).ok_or(Fault::BadSignature)?;
    let head = trust.open(claim.checkpoint).ok_or(Fault::BadSignature)?;
    if let Some(cosigner) = claim.cosigner {
        let cosigner = Cosigner::parse(cosigner).ok_or(Fault::BadCosignature)?;
        if !cosigner.has_signed(claim.checkpoint) {
            return Err(Fault::BadCosignature);
        }
    }
    let mut walk = Walk::begin(claim, &trust, head)?;
    walk.check_previous()?;
    let mut entries = entries.into_iter().peekable();
    while let Some(entry) = entries.next() {
        match walk.step(&entry, entries.peek()) {
            Ok(()) => {}
            Err(Broken::Fault(fault)) => return Err(fault),
            Err(Broken::Gap) => {
                let (seq, wanted) = (walk.frontier.size(), walk.wanted());
                let later = entries.any(|entry| Marks::read(&entry).is_some_and(|marks| Some(marks.prev) == wanted));
                return Err(if later { Fault::Reordered { seq } } else { Fault::Missing { seq } });
            }
        }
    }
    walk.finish()
}

/// The log's owner as its entries name it, from the log's name.
fn tenant_of(origin: &str) -> &str {
    match origin.rsplit_once("/audit/tenant/") {
        Some((_, tenant)) => tenant,
        None => PLATFORM,
    }
}

/// What the walk reads from an envelope; everything else is covered by the hashes.
#[derive(serde::Deserialize)]
struct Marks {
    seq: u64,
    prev: String,
    tenant_uid: String,
    #[serde(default)]
    body_sha256: Option<String>,
    #[serde(default)]
    code: String,
}

impl Marks {
    fn read(entry: &Entry) -> Option<Self> {
        serde_json::from_str(&entry.envelope).ok()
    }
}

enum Broken {
    Fault(Fault),
    /// The entry stands too early: the one before it is missing or comes later.
    Gap,
}

impl From<Fault> for Broken {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// Where the check stands: everything before `frontier.size()` holds.
struct Walk<'a> {
    tenant: &'a str,
    vkey: String,
    /// None before the first entry of a log whose beginning is deleted: what it points back to is covered by its own hash.
    chain_head: Option<Hash>,
    from: u64,
    frontier: Frontier,
    bodies_withheld: u64,
    head: SignedHead,
    /// Older heads that the walk must come by.
    older: Vec<SignedHead>,
    unreached: Option<u64>,
    /// Changes of key that the log must speak of.
    changes: Vec<KeyChange>,
    /// The final head of what is deleted; taken away once the log has spoken of it.
    undeclared: Option<SignedHead>,
}

impl<'a> Walk<'a> {
    /// Where the walk begins, when all signatures on what it goes by hold.
    fn begin(claim: &Claim<'a>, trust: &Trust, head: SignedHead) -> Result<Self, Fault> {
        let mut walk = Self {
            tenant: tenant_of(claim.origin),
            vkey: trust.vkey(),
            chain_head: Some(genesis(claim.origin)),
            from: 0,
            frontier: Frontier::new(),
            bodies_withheld: 0,
            head,
            older: Vec::new(),
            unreached: None,
            changes: Vec::new(),
            undeclared: None,
        };
        if let Some(beginning) = claim.beginning {
            let seq = beginning.size;
            // Signed when the shard was closed, maybe by a key from before the known one. The walk shows what it says: its root
            // must lie on the way to the head, which is signed by a key that is known.
            let last = claimed_head(&beginning.final_checkpoint).ok_or(Fault::Undeclared { seq })?;
            let fits = last.origin == claim.origin && seq > 0 && seq <= last.size && last.size < walk.head.size;
            let frontier = beginning.frontier().filter(|_| fits).ok_or(Fault::Undeclared { seq })?;
            (walk.from, walk.frontier, walk.chain_head) = (seq, frontier, None);
            walk.older.push(last.clone());
            walk.undeclared = Some(last);
        }
        if let Some(previous) = claim.previous {
            let previous = trust.open(previous).ok_or(Fault::BadSignature)?;
            if previous.size < walk.from {
                walk.unreached = Some(previous.size);
            } else {
                walk.older.push(previous);
            }
        }
        for (change, head) in &trust.changes {
            if change.seq >= walk.from {
                walk.changes.push(change.clone());
                walk.older.push(head.clone());
            }
        }
        let head = &walk.head;
        if walk.older.iter().any(|old| old.size > head.size || (old.size == head.size && old.root != head.root)) {
            return Err(Fault::RolledBack);
        }
        Ok(walk)
    }

    /// What the next entry must point back to; none when only its own hash says it.
    fn wanted(&self) -> Option<String> {
        self.chain_head.map(|head| hex(&head))
    }

    fn step(&mut self, entry: &Entry, next: Option<&Entry>) -> Result<(), Broken> {
        let seq = self.frontier.size();
        if seq >= self.head.size {
            return Err(Fault::Unsigned { seq }.into());
        }
        let marks = Marks::read(entry).ok_or(Fault::Altered { seq })?;
        self.check_place(&marks, entry, next)?;
        let leaf = leaf_hash(entry.envelope.as_bytes());
        if !entry.leaf_hash.is_empty() && entry.leaf_hash != hex(&leaf) {
            return Err(Fault::Altered { seq }.into());
        }
        self.check_body(&marks, entry, next)?;
        self.check_declared(&marks, entry)?;
        self.chain_head = Some(link(&entry.envelope));
        self.frontier.push(leaf);
        Ok(self.check_previous()?)
    }

    fn check_place(&self, marks: &Marks, entry: &Entry, next: Option<&Entry>) -> Result<(), Broken> {
        let seq = self.frontier.size();
        let chained = self.wanted().is_none_or(|wanted| marks.prev == wanted);
        let ours = marks.tenant_uid == self.tenant;
        let fault = match (chained, ours, marks.seq.cmp(&seq)) {
            (true, true, std::cmp::Ordering::Equal) => return Ok(()),
            (true, true, std::cmp::Ordering::Greater) if self.chain_head.is_none() => return Err(Broken::Gap),
            // It points back to the right entry and yet says something else about itself.
            (true, _, _) => Fault::Altered { seq },
            (false, false, _) => Fault::Spliced { seq },
            (false, true, std::cmp::Ordering::Greater) => return Err(Broken::Gap),
            (false, true, std::cmp::Ordering::Less) => Fault::Reordered { seq },
            (false, true, std::cmp::Ordering::Equal) => Fault::Altered { seq: self.altered_of_two(marks, entry, next) },
        };
        Err(fault.into())
    }

    /// The link between this entry and the one before does not hold: which of the two was altered.
    fn altered_of_two(&self, marks: &Marks, entry: &Entry, next: Option<&Entry>) -> u64 {
        let seq = self.frontier.size();
        let this = match next {
            Some(_) => !self.vouched(&entry.envelope, next),
            None => {
                let wanted = self.wanted().unwrap_or_else(|| marks.prev.clone());
                self.vouched(&entry.envelope.replacen(&marks.prev, &wanted, 1), None)
            }
        };
        if this { seq } else { seq.saturating_sub(1) }
    }

    /// Whether what follows vouches for this envelope's text: the next entry's link, or the signed root at the end.
    fn vouched(&self, envelope: &str, next: Option<&Entry>) -> bool {
        match next {
            Some(next) => Marks::read(next).is_some_and(|marks| marks.prev == hex(&link(envelope))),
            None => {
                let mut frontier = self.frontier.clone();
                frontier.push(leaf_hash(envelope.as_bytes()));
                frontier.size() == self.head.size && frontier.root() == self.head.root
            }
        }
    }

    fn check_body(&mut self, marks: &Marks, entry: &Entry, next: Option<&Entry>) -> Result<(), Fault> {
        let seq = self.frontier.size();
        let (Some(body), Some(committed)) = (&entry.body, &marks.body_sha256) else {
            self.bodies_withheld += 1;
            return Ok(());
        };
        let holds = data_encoding::HEXLOWER.decode(entry.salt.as_bytes()).is_ok_and(|salt| {
            let is_committed = |text: &str| hex(&commitment(&salt, text)) == *committed;
            // Written plainly most bodies are canonical already, and no text but the committed one has its hash.
            body.is_object() && is_committed(&body.to_string())
                || canonical_body(body).is_ok_and(|text| is_committed(&text))
        });
        match holds {
            true => Ok(()),
            false if self.vouched(&entry.envelope, next) => Err(Fault::BodyAltered { seq }),
            false => Err(Fault::Altered { seq }),
        }
    }

    /// Whether an entry speaks of what it must: that the key changed, or that what is missing was deleted.
    fn check_declared(&mut self, marks: &Marks, entry: &Entry) -> Result<(), Fault> {
        let seq = self.frontier.size();
        let says = |name: &str| entry.body.as_ref().and_then(|body| body.pointer(&format!("/unmapped/details/{name}")));
        if let Some(change) = self.changes.iter().find(|change| change.seq == seq) {
            let other = says("new").is_some_and(|new| new.as_str() != Some(&change.new_vkey));
            if other || marks.code != codes::AUDIT_KEY_CHANGED {
                return Err(Fault::KeyUndeclared { seq });
            }
        }
        if marks.code == codes::SHARD_DELETING
            && let Some(last) = &self.undeclared
        {
            let root = says("root").is_none_or(|root| root.as_str() == Some(&hex(&last.root)));
            let to = says("to").is_none_or(|to| to.as_u64() == Some(last.size));
            self.undeclared.take_if(|_| root && to);
        }
        Ok(())
    }

    /// Compares with the older checkpoints when the walk is at the size of one.
    fn check_previous(&self) -> Result<(), Fault> {
        let size = self.frontier.size();
        match self.older.iter().find(|old| old.size == size && old.root != self.frontier.root()) {
            Some(_) => Err(Fault::RolledBack),
            None => Ok(()),
        }
    }

    fn finish(self) -> Result<Verified, Fault> {
        let have = self.frontier.size();
        if have < self.head.size {
            return Err(Fault::Truncated { have, signed: self.head.size });
        }
        if self.frontier.root() != self.head.root {
            return Err(Fault::Altered { seq: have.saturating_sub(1) });
        }
        if self.undeclared.is_some() {
            return Err(Fault::Undeclared { seq: self.from });
        }
        Ok(Verified {
            entries: have - self.from,
            from: self.from,
            unreached: self.unreached,
            vkey: self.vkey,
            bodies_withheld: self.bodies_withheld,
            head: self.head,
            chain_head: self.chain_head.unwrap_or_default(),
        })
    }
}
