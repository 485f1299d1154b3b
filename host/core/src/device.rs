//! The device that a session is on, in the words that rules read.
//!
//! Must never be made of what a caller says of himself: identity makes one of evidence that it checked, anew for each decision.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::ResourceName;

/// The word for a claim that somebody whom the tenant trusts signed.
pub const POSTURE: &str = "posture";
/// The word for a quote of a TPM.
pub const TPM_QUOTE: &str = "tpm-quote";
/// The word for a device that nothing verifies now.
pub const NO_EVIDENCE: &str = "none";

/// A device that holds the key of a session's token, as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Device {
    /// What its holder calls it.
    pub name: ResourceName,
    /// Whether evidence that counts now says of it all that the tenant requires.
    pub verified: bool,
    /// What sort of evidence it is verified by: [`POSTURE`], [`TPM_QUOTE`], or [`NO_EVIDENCE`] when it is not verified.
    pub evidence: String,
    /// What evidence that counts now says is so, by the words of the tenant's trust: `disk_encrypted`.
    pub posture: BTreeSet<String>,
}
