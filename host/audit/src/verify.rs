//! Checking a log from the outside: pure, offline, with nothing but the entries, the signed checkpoint and the public key.
//!
//! Must never ask the host anything: the host is what is being checked. The command line and the tests call [`verify`].
//! What it proves: the entries are exactly those the key's holder signed for, in that order, none missing, none changed.
//! What it cannot prove alone: that the holder of the key did not write and sign another history from the start. For that
//! keep a checkpoint and pass it as `previous` next time, or have one held by someone else.

use crate::Entry;
use crate::envelope::{canonical_body, commitment, genesis, hex, link};
use crate::note::{SignedHead, Verifier};
use crate::tree::{Frontier, Hash, leaf_hash};

/// The tenant part of the host's own log.
const PLATFORM: &str = "_platform";

/// A log that stood every check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Entries checked, all that the checkpoint covers.
    pub entries: u64,
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
    let verifier = Verifier::parse(vkey).filter(|verifier| verifier.name() == origin).ok_or(Fault::BadSignature)?;
    let head = verifier.open(checkpoint).ok_or(Fault::BadSignature)?;
    let previous = match previous {
        Some(text) => Some(verifier.open(text).ok_or(Fault::BadSignature)?),
        None => None,
    };
    if previous.as_ref().is_some_and(|old| old.size > head.size || (old.size == head.size && old.root != head.root)) {
        return Err(Fault::RolledBack);
    }
    let mut walk = Walk {
        tenant: tenant_of(origin),
        chain_head: genesis(origin),
        frontier: Frontier::new(),
        bodies_withheld: 0,
        head,
        previous,
    };
    walk.check_previous()?;
    let mut entries = entries.into_iter().peekable();
    while let Some(entry) = entries.next() {
        match walk.step(&entry, entries.peek()) {
            Ok(()) => {}
            Err(Broken::Fault(fault)) => return Err(fault),
            Err(Broken::Gap) => {
                let seq = walk.frontier.size();
                let wanted = hex(&walk.chain_head);
                let later = entries.any(|entry| Marks::read(&entry).is_some_and(|marks| marks.prev == wanted));
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
    chain_head: Hash,
    frontier: Frontier,
    bodies_withheld: u64,
    head: SignedHead,
    previous: Option<SignedHead>,
}

impl Walk<'_> {
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
        self.chain_head = link(&entry.envelope);
        self.frontier.push(leaf);
        Ok(self.check_previous()?)
    }

    fn check_place(&self, marks: &Marks, entry: &Entry, next: Option<&Entry>) -> Result<(), Broken> {
        let seq = self.frontier.size();
        let chained = marks.prev == hex(&self.chain_head);
        let ours = marks.tenant_uid == self.tenant;
        let fault = match (chained, ours, marks.seq.cmp(&seq)) {
            (true, true, std::cmp::Ordering::Equal) => return Ok(()),
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
            None => self.vouched(&entry.envelope.replacen(&marks.prev, &hex(&self.chain_head), 1), None),
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

    /// Compares with the older checkpoint when the walk is at its size.
    fn check_previous(&self) -> Result<(), Fault> {
        match &self.previous {
            Some(old) if old.size == self.frontier.size() && old.root != self.frontier.root() => Err(Fault::RolledBack),
            _ => Ok(()),
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
        Ok(Verified {
            entries: have,
            bodies_withheld: self.bodies_withheld,
            head: self.head,
            chain_head: self.chain_head,
        })
    }
}
