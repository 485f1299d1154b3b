//! Where a log stands, and how that is kept: the head beside its entries.
//!
//! Must never be read as a state when it does not fit its own size.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::envelope::hex;
use crate::note::SignedHead;
use crate::ring::FIRST_GENERATION;
use crate::times::Order;
use crate::tree::{Frontier, Hash};

/// Where a log stands.
#[derive(Debug, Clone)]
pub(crate) struct State {
    pub(crate) frontier: Frontier,
    pub(crate) chain_head: Hash,
    /// The latest time of an entry.
    pub(crate) time: i64,
    /// Where the clock went back.
    pub(crate) order: Order,
    pub(crate) open: BTreeSet<u64>,
    /// Revision of the stored head; none before the first entry.
    pub(crate) revision: Option<u64>,
    /// Generation of the signing key that the log named last.
    pub(crate) generation: u32,
    /// The first entry that is there.
    pub(crate) first: u64,
    /// Entries before this place have no body any more.
    pub(crate) bodies_to: u64,
}

/// The head as it is stored beside the entries.
#[derive(Serialize, Deserialize)]
pub(crate) struct StoredHead {
    v: u8,
    pub(crate) size: u64,
    chain_head: String,
    peaks: Vec<String>,
    time: i64,
    /// None in heads of before this was noted.
    #[serde(default)]
    order: Option<Order>,
    open: BTreeSet<u64>,
    #[serde(default = "first_generation")]
    pub(crate) key: u32,
}

fn first_generation() -> u32 {
    FIRST_GENERATION
}

impl State {
    pub(crate) fn stored(&self) -> StoredHead {
        StoredHead {
            v: 1,
            size: self.frontier.size(),
            chain_head: hex(&self.chain_head),
            peaks: self.frontier.peaks().iter().map(|peak| hex(peak)).collect(),
            time: self.time,
            order: Some(self.order.clone()),
            open: self.open.clone(),
            key: self.generation,
        }
    }

    /// The head to sign.
    pub(crate) fn head(&self, origin: &str) -> SignedHead {
        SignedHead { origin: origin.to_owned(), size: self.frontier.size(), root: self.frontier.root() }
    }

    pub(crate) fn from_stored(stored: StoredHead, revision: u64) -> Option<Self> {
        let hash =
            |text: &str| -> Option<Hash> { data_encoding::HEXLOWER.decode(text.as_bytes()).ok()?.try_into().ok() };
        let peaks: Option<Vec<Hash>> = stored.peaks.iter().map(|peak| hash(peak)).collect();
        Some(Self {
            frontier: Frontier::from_parts(stored.size, peaks?)?,
            chain_head: hash(&stored.chain_head)?,
            time: stored.time,
            order: stored.order.unwrap_or_else(|| Order::unknown(stored.size)),
            open: stored.open,
            revision: Some(revision),
            generation: stored.key,
            first: 0,
            bodies_to: 0,
        })
    }
}
