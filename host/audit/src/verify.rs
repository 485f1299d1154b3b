//! Checking a log from the outside: pure, offline, with nothing but the entries, the signed checkpoint and the public key.
//!
//! Must never ask the host anything: the host is what is being checked. The command line and the tests call [`verify`].
//! What it proves: the entries are exactly those the key's holder signed for, in that order, none missing, none changed.
//! What it cannot prove alone: that the holder of the key did not write and sign another history from the start. For that
//! keep a checkpoint and pass it as `previous` next time, or have one held by someone else.

use std::thread;

use crate::beginning::Beginning;
use crate::cosign::Cosigner;
use crate::envelope::{genesis, hex};
use crate::key_change::{KeyChange, Trust};
use crate::look::{Body, Marks, Says, Seen, Shown, Subject, in_order};
use crate::note::{SignedHead, claimed_head};
use crate::tree::{Frontier, Hash, leaf_hash};

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
    /// LIMIT: threads that look at entries, the caller's among them; never more than there are cores. One in a host, which
    /// has guests.
    pub threads_count_max: usize,
    /// Whether bodies may be shown without their salt, as they are to whom not all is shown. They are counted and never taken
    /// for checked; where this is false such a body is a fault.
    pub may_lack_salts: bool,
}

impl<'a> Claim<'a> {
    /// A whole log under one key.
    pub fn new(origin: &'a str, vkey: &'a str, checkpoint: &'a str) -> Self {
        let (previous, beginning, cosigner) = (None, None, None);
        let (threads_count_max, may_lack_salts) = (usize::MAX, false);
        Self {
            origin,
            vkey,
            checkpoint,
            previous,
            beginning,
            changes: &[],
            cosigner,
            threads_count_max,
            may_lack_salts,
        }
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
    /// Of these, entries whose body was not shown, or without its salt, so that only its commitment is covered.
    pub bodies_withheld: u64,
    /// Of those in turn, the ones that are shown without their salt: nothing proves what they say.
    pub bodies_bare: u64,
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
    /// A line that was shown for an entry is none.
    #[error("entry {seq} cannot be read")]
    Unreadable {
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
/// Memory: a few thousand entries at a time and a few hashes. Blocks: it takes as many threads as there are cores; with
/// [`Claim::threads_count_max`], [`verify_claim`] takes fewer. The verdict is the same.
pub fn verify<'e>(
    origin: &str,
    vkey: &str,
    entries: impl IntoIterator<Item: Into<Shown<'e>>>,
    checkpoint: &str,
    previous: Option<&str>,
) -> Result<Verified, Fault> {
    verify_claim(&Claim { previous, ..Claim::new(origin, vkey, checkpoint) }, entries)
}

/// Checks a log against a [`Claim`]: from its beginning, or from where its deleted part ends.
pub fn verify_claim<'e>(
    claim: &Claim<'_>,
    entries: impl IntoIterator<Item: Into<Shown<'e>>>,
) -> Result<Verified, Fault> {
    let trust = Trust::follow(claim.origin, claim.vkey, claim.changes).ok_or(Fault::BadSignature)?;
    let head = trust.open(claim.checkpoint).ok_or(Fault::BadSignature)?;
    if let Some(cosigner) = claim.cosigner {
        let cosigner = Cosigner::parse(cosigner).ok_or(Fault::BadCosignature)?;
        if !cosigner.has_signed(claim.checkpoint) {
            return Err(Fault::BadCosignature);
        }
    }
    let walk = Walk::begin(claim, &trust, head)?;
    walk.check_previous()?;
    let shown = entries.into_iter().map(Into::<Shown<'e>>::into);
    let cores_count = thread::available_parallelism().map_or(1, usize::from);
    in_order(walk.tenant, cores_count.min(claim.threads_count_max), shown, |entries| walk.through(entries))
}

/// The log's owner as its entries name it, from the log's name.
fn tenant_of(origin: &str) -> &str {
    match origin.rsplit_once("/audit/tenant/") {
        Some((_, tenant)) => tenant,
        None => PLATFORM,
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
    may_lack_salts: bool,
    bodies_withheld: u64,
    bodies_bare: u64,
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
            may_lack_salts: claim.may_lack_salts,
            bodies_withheld: 0,
            bodies_bare: 0,
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

    fn through(mut self, entries: &mut dyn Iterator<Item = Seen>) -> Result<Verified, Fault> {
        let mut entries = entries.peekable();
        while let Some(seen) = entries.next() {
            match self.step(seen, entries.peek()) {
                Ok(()) => {}
                Err(Broken::Fault(fault)) => return Err(fault),
                Err(Broken::Gap) => {
                    let (seq, wanted) = (self.frontier.size(), self.chain_head);
                    let follows = |seen: Seen| seen.says.is_some_and(|says| says.prev == wanted);
                    let later = wanted.is_some() && entries.any(follows);
                    return Err(if later { Fault::Reordered { seq } } else { Fault::Missing { seq } });
                }
            }
        }
        self.finish()
    }

    fn step(&mut self, seen: Seen, next: Option<&Seen>) -> Result<(), Broken> {
        let seq = self.frontier.size();
        if seq >= self.head.size {
            return Err(Fault::Unsigned { seq }.into());
        }
        let envelope = seen.envelope.as_deref().ok_or(Fault::Unreadable { seq })?;
        let says = seen.says.as_ref().ok_or(Fault::Altered { seq })?;
        self.check_place(says, envelope, &seen, next)?;
        if !seen.is_itself {
            return Err(Fault::Altered { seq }.into());
        }
        self.check_body(&seen, next)?;
        self.check_declared(says, seen.about.as_ref())?;
        self.chain_head = Some(seen.link);
        self.frontier.push(seen.leaf);
        Ok(self.check_previous()?)
    }

    fn check_place(&self, says: &Says, envelope: &str, seen: &Seen, next: Option<&Seen>) -> Result<(), Broken> {
        let seq = self.frontier.size();
        // Of a log whose beginning is deleted, what the first entry points back to is covered by its own hash.
        let chained = self.chain_head.is_none() || says.prev == self.chain_head;
        let fault = match (chained, says.is_ours, says.seq.cmp(&seq)) {
            (true, true, std::cmp::Ordering::Equal) => return Ok(()),
            (true, true, std::cmp::Ordering::Greater) if self.chain_head.is_none() => return Err(Broken::Gap),
            // It points back to the right entry and yet says something else about itself.
            (true, _, _) => Fault::Altered { seq },
            (false, false, _) => Fault::Spliced { seq },
            (false, true, std::cmp::Ordering::Greater) => return Err(Broken::Gap),
            (false, true, std::cmp::Ordering::Less) => Fault::Reordered { seq },
            (false, true, std::cmp::Ordering::Equal) => {
                Fault::Altered { seq: self.altered_of_two(envelope, seen, next) }
            }
        };
        Err(fault.into())
    }

    /// The link between this entry and the one before does not hold: which of the two was altered.
    fn altered_of_two(&self, envelope: &str, seen: &Seen, next: Option<&Seen>) -> u64 {
        let seq = self.frontier.size();
        let this = match (next, Marks::read(envelope), self.chain_head) {
            (None, Some(marks), Some(wanted)) => {
                self.is_signed(leaf_hash(envelope.replacen(marks.prev, &hex(&wanted), 1).as_bytes()))
            }
            _ => !self.is_vouched(seen, next),
        };
        if this { seq } else { seq.saturating_sub(1) }
    }

    /// Whether what follows vouches for this envelope's text: the next entry's link, or the signed root at the end.
    fn is_vouched(&self, seen: &Seen, next: Option<&Seen>) -> bool {
        match next {
            Some(next) => next.says.as_ref().is_some_and(|says| says.prev == Some(seen.link)),
            None => self.is_signed(seen.leaf),
        }
    }

    /// Whether this leaf is the last of the tree that was signed.
    fn is_signed(&self, leaf: Hash) -> bool {
        let mut frontier = self.frontier.clone();
        frontier.push(leaf);
        frontier.size() == self.head.size && frontier.root() == self.head.root
    }

    fn check_body(&mut self, seen: &Seen, next: Option<&Seen>) -> Result<(), Fault> {
        let seq = self.frontier.size();
        match seen.body {
            Body::Committed => {}
            Body::Withheld => self.bodies_withheld += 1,
            Body::Bare if self.may_lack_salts => {
                self.bodies_withheld += 1;
                self.bodies_bare += 1;
            }
            Body::Bare | Body::Other if self.is_vouched(seen, next) => return Err(Fault::BodyAltered { seq }),
            Body::Bare | Body::Other => return Err(Fault::Altered { seq }),
        }
        Ok(())
    }

    /// Whether an entry speaks of what it must: that the key changed, or that what is missing was deleted.
    fn check_declared(&mut self, says: &Says, about: Option<&serde_json::Value>) -> Result<(), Fault> {
        let seq = self.frontier.size();
        let word = |name: &str| about.and_then(|body| body.pointer(&format!("/unmapped/details/{name}")));
        if let Some(change) = self.changes.iter().find(|change| change.seq == seq) {
            let other = word("new").is_some_and(|new| new.as_str() != Some(&change.new_vkey));
            if other || says.subject != Subject::KeyChange {
                return Err(Fault::KeyUndeclared { seq });
            }
        }
        if says.subject == Subject::Deletion
            && let Some(last) = &self.undeclared
        {
            let root = word("root").is_none_or(|root| root.as_str() == Some(&hex(&last.root)));
            let to = word("to").is_none_or(|to| to.as_u64() == Some(last.size));
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
            bodies_bare: self.bodies_bare,
            head: self.head,
            chain_head: self.chain_head.unwrap_or_default(),
        })
    }
}
