//! Why an identity was not proved or a key not made, in words that tell a guesser nothing.
//!
//! Must never say whether a key id exists, nor carry any part of a secret.

use ringfence_core::Blame;
use ringfence_keys::KeysError;
use ringfence_store::StoreError;

/// What can go wrong in this room.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Nothing that proves an identity: unknown, wrong, revoked, altered or no longer valid. The same for all of them.
    #[error("the credentials are not valid")]
    Unauthenticated,
    /// A token that was good until its time ran out.
    #[error("the access token has expired")]
    Expired,
    /// A proof of possession that does not fit its request, its token or the time, or that was used before.
    #[error("the proof of possession is not valid: {0}")]
    BadProof(&'static str),
    /// A proof of possession without a nonce that this host gave out lately.
    #[error("the proof of possession needs the nonce of this answer's `DPoP-Nonce` header")]
    NonceNeeded,
    /// More proofs than are remembered.
    #[error("too many proofs of possession, try again in {retry_after_seconds} s")]
    TooManyProofs {
        /// When to try again, in seconds.
        retry_after_seconds: u64,
    },
    /// The place takes only tokens that are bound to a key or a certificate.
    #[error("tokens must be bound to a key here (DPoP, RFC 9449) or to a client certificate")]
    Unbound,
    /// Trust in client certificates that could not be checked or could let nobody in.
    #[error("the trust in client certificates cannot be used: {why}")]
    BadTrust {
        /// What is wrong.
        why: &'static str,
    },
    /// Too many wrong tries from this source.
    #[error("too many failed sign-ins, try again in {retry_after_seconds} s")]
    Throttled {
        /// When to try again, in seconds.
        retry_after_seconds: u64,
    },
    /// Too many sign-ins at this moment, from anyone.
    #[error("too many sign-ins at once, try again in {retry_after_seconds} s")]
    Busy {
        /// When to try again, in seconds.
        retry_after_seconds: u64,
    },
    /// No such key or session there.
    #[error("`{what}` does not exist")]
    NotFound {
        /// What was asked for.
        what: String,
    },
    /// A role that its place does not have.
    #[error("role `{role}` {rule}")]
    RoleMisplaced {
        /// Which role.
        role: &'static str,
        /// Why not there.
        rule: &'static str,
    },
    /// An operator may make a tenant's first admin key, and no other key of it.
    #[error("an operator can only make the first tenant-admin key of `{tenant}`; its own admins make the others")]
    OperatorLimited {
        /// Which tenant.
        tenant: String,
    },
    /// A live key of the same name has another role.
    #[error("a key named `{name}` exists with role `{role}`; revoke it or choose another name")]
    NameTaken {
        /// The name.
        name: String,
        /// The role of the key that has it.
        role: &'static str,
    },
    /// The tenant has as many live keys as it may.
    #[error("there are {count_max} live keys already; revoke one first")]
    TooManyKeys {
        /// How many there may be.
        count_max: usize,
    },
    /// A lifetime of nothing, or beyond the calendar.
    #[error("a key must expire after 1 to {seconds_max} seconds, or never")]
    Lifetime {
        /// The longest lifetime, in seconds.
        seconds_max: u32,
    },
    /// The name is used by the platform's own principals.
    #[error("`{tenant}` is reserved and cannot hold keys")]
    Reserved {
        /// Which.
        tenant: String,
    },
    /// The permit is for something else than what was asked; a fault of the host.
    #[error("the permit does not cover this")]
    WrongPermit,
    /// The host's clock, dice or key material failed.
    #[error("the host cannot prove identities: {0}")]
    Host(&'static str),
    /// The store failed.
    #[error("identity records cannot be reached: {0}")]
    Store(#[from] StoreError),
    /// A key operation failed.
    #[error("identity keys cannot be used: {0}")]
    Keys(#[from] KeysError),
}

impl IdentityError {
    /// Who has to mend it.
    pub fn blame(&self) -> Blame {
        match self {
            Self::Busy { .. } | Self::WrongPermit | Self::Host(_) | Self::Store(_) | Self::Keys(_) => Blame::Host,
            _ => Blame::Caller,
        }
    }
}
