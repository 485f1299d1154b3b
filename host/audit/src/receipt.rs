//! Usage receipts: what a tenant used on a UTC day, signed by the host so that neither can say otherwise later.
//!
//! A receipt is a text of `signed.rs` under the tenant's audit key. It holds the hash of the receipt before, so that one
//! that is left out is missed. Text in, text out: must never touch the store or a clock, and never say what was not in the
//! sums it was given.

use std::collections::BTreeMap;

use jiff::Timestamp;
use ringfence_core::PluginName;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::AuditError;
use crate::envelope::hex;
use crate::note::Verifier;
use crate::signed::{self, Unread};
use crate::usage_sum::{Day, PEAK, UsageSum};

/// First line of every receipt.
const TITLE: &str = "ringfence usage receipt v1";
/// LIMIT: longest receipt, in bytes; room for some ten thousand plugins.
pub const RECEIPT_BYTES_MAX: usize = 8 << 20;

/// Figures by name. Decimal text, since readers of JSON may hold numbers as doubles.
pub type Figures = BTreeMap<String, String>;

/// What a receipt says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UsageReceipt {
    /// The host, by its name in audit logs.
    pub host: String,
    /// The tenant's name.
    pub tenant: String,
    /// Its unique id: another one when a deleted name is used again.
    pub tenant_uid: String,
    /// The UTC day.
    pub day: Day,
    /// Whether the day was still going on; such a receipt is not part of the chain.
    pub partial: bool,
    /// What was used before this moment is in it: the day's end, or when a partial one was made.
    pub until: Timestamp,
    /// SHA-256 of the signed text of the receipt before, hex; none in the first.
    pub previous: Option<String>,
    /// What each plugin used.
    pub plugins: BTreeMap<String, Figures>,
    /// All of them together: sums, but for the peak.
    pub total: Figures,
}

/// A receipt that verifies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedReceipt {
    /// What it says.
    pub receipt: UsageReceipt,
    /// SHA-256 of its signed text, hex: what the next one calls `previous`.
    pub hash: String,
}

/// Why a receipt does not verify.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptFault {
    /// The key is not one.
    #[error("the key is not a verifier key")]
    BadKey,
    /// Changed, cut, or signed by somebody else.
    #[error("the signature does not fit the receipt and the key")]
    BadSignature,
    /// It does not begin as receipts do.
    #[error("this is no usage receipt: its first line is not `ringfence usage receipt v1`")]
    Untitled,
    /// Signed, and not a receipt in canonical form.
    #[error("the text is not a usage receipt")]
    Malformed,
    /// Signed for another tenant or host than the key's.
    #[error("the receipt is not one of the key's tenant")]
    AnotherTenant,
    /// The total is not the sum.
    #[error("the total of `{figure}` is not the sum over the plugins")]
    WrongTotal {
        /// Which figure.
        figure: String,
    },
    /// The receipt before is another one, or missing.
    #[error("the receipt of {day} does not follow the one before it: one is missing, or not from this chain")]
    Unchained {
        /// The day whose receipt does not follow.
        day: Day,
    },
}

impl UsageReceipt {
    /// The receipt over a day's sums.
    pub(crate) fn new(
        whose: Whose,
        when: When,
        previous: Option<String>,
        sums: &BTreeMap<PluginName, UsageSum>,
    ) -> Self {
        let (day, partial, until) = match when {
            When::Over(day) => (day, false, day.next().start()),
            When::SoFar(day, now) => (day, true, now),
        };
        Self {
            host: whose.host,
            tenant: whose.tenant,
            tenant_uid: whose.tenant_uid,
            day,
            partial,
            until,
            previous,
            plugins: sums.iter().map(|(plugin, sum)| (plugin.to_string(), figures(sum))).collect(),
            total: figures(&UsageSum::total(sums.values())),
        }
    }

    /// The text that gets signed.
    pub(crate) fn text(&self) -> Result<String, AuditError> {
        signed::text(TITLE, self, RECEIPT_BYTES_MAX)
    }
}

impl From<Unread> for ReceiptFault {
    fn from(unread: Unread) -> Self {
        match unread {
            Unread::Signature => Self::BadSignature,
            Unread::Form => Self::Malformed,
        }
    }
}

/// Whose receipt.
pub(crate) struct Whose {
    pub(crate) host: String,
    pub(crate) tenant: String,
    pub(crate) tenant_uid: String,
}

/// Which part of a day a receipt is about.
pub(crate) enum When {
    Over(Day),
    SoFar(Day, Timestamp),
}

/// SHA-256 of a signed text, hex.
pub(crate) fn hash(text: &str) -> String {
    hex(&Sha256::digest(text.as_bytes()))
}

/// Checks one receipt against a verifier key (`name+hash+key`), offline: signature, form, whose it is, sums.
pub fn verify(note: &str, vkey: &str) -> Result<VerifiedReceipt, ReceiptFault> {
    let verifier = Verifier::parse(vkey).ok_or(ReceiptFault::BadKey)?;
    let opened = signed::open(TITLE, note, &verifier, RECEIPT_BYTES_MAX);
    let (receipt, text): (UsageReceipt, String) = opened.map_err(|unread| match unread {
        // What a terminal or a mail put in front of it is no forgery.
        Unread::Signature if note.lines().next() != Some(TITLE) => ReceiptFault::Untitled,
        unread => unread.into(),
    })?;
    if verifier.name() != format!("{}/audit/tenant/{}", receipt.host, receipt.tenant) {
        return Err(ReceiptFault::AnotherTenant);
    }
    check_total(&receipt)?;
    Ok(VerifiedReceipt { hash: hash(&text), receipt })
}

/// Checks receipts and that each follows the one before it: the same tenant, a later day, its hash.
pub fn verify_chain<'a>(
    notes: impl IntoIterator<Item = &'a str>,
    vkey: &str,
) -> Result<Vec<VerifiedReceipt>, ReceiptFault> {
    let mut chain: Vec<VerifiedReceipt> = Vec::new();
    for note in notes {
        let next = verify(note, vkey)?;
        if let Some(last) = chain.last() {
            let follows = next.receipt.previous.as_ref() == Some(&last.hash)
                && next.receipt.day > last.receipt.day
                && next.receipt.tenant_uid == last.receipt.tenant_uid
                && !last.receipt.partial;
            if !follows {
                return Err(ReceiptFault::Unchained { day: next.receipt.day });
            }
        }
        chain.push(next);
    }
    Ok(chain)
}

fn check_total(receipt: &UsageReceipt) -> Result<(), ReceiptFault> {
    let names = receipt.plugins.values().flat_map(BTreeMap::keys).chain(receipt.total.keys());
    for name in names {
        let wrong = || ReceiptFault::WrongTotal { figure: name.clone() };
        let read = |figures: &Figures| -> Result<u128, ReceiptFault> {
            figures.get(name).ok_or_else(wrong)?.parse().map_err(|_| wrong())
        };
        let mut sum = 0_u128;
        for figures in receipt.plugins.values() {
            let figure = read(figures)?;
            sum = if name == PEAK { sum.max(figure) } else { sum.saturating_add(figure) };
        }
        if read(&receipt.total)? != sum {
            return Err(wrong());
        }
    }
    Ok(())
}

fn figures(sum: &UsageSum) -> Figures {
    sum.figures().into_iter().map(|(name, figure)| (name.to_owned(), figure.to_string())).collect()
}
