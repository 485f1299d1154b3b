//! Why an identity was not proved or a key not made, in words that tell a guesser nothing.
//!
//! Must never say whether a key id exists, nor carry any part of a secret.

use std::fmt;

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
    /// Trust in certificates, devices or authenticators that could not be checked or could let nobody in.
    #[error("what is to be trusted cannot be used: {why}")]
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
    /// A live key of the same name has another role or scope, or one of a key and a person has the other's name.
    #[error("`{name}` is taken, with role `{role}` or another scope; revoke it or choose another name")]
    NameTaken {
        /// The name.
        name: String,
        /// The role of the key that has it.
        role: &'static str,
    },
    /// A password that is too short to be one, or too long to be hashed.
    #[error("a password has at least {chars_min} characters and at most {bytes_max} bytes")]
    BadPassword {
        /// The fewest characters.
        chars_min: usize,
        /// The most bytes.
        bytes_max: usize,
    },
    /// The place has as many people as it may.
    #[error("there are {count_max} people already; remove one first")]
    TooManyPeople {
        /// How many there may be.
        count_max: usize,
    },
    /// A service asked for what only people have.
    #[error("only people have passwords, one-time codes and passkeys; this is a service")]
    NoPerson,
    /// The session was not proved strongly enough for what was asked.
    #[error("this needs {0}")]
    StepUp(Needed),
    /// The session fell below the floor of its tenant, and was ended.
    #[error("the trust score of this session is {score}, below the floor of {floor}, so it was ended")]
    Fallen {
        /// The floor.
        floor: u8,
        /// The score.
        score: u8,
    },
    /// A nonce that was not given out for this device, is over, or was used.
    #[error("this nonce is not good for this device, or not any more")]
    NonceSpent,
    /// Evidence about a device that cannot be believed.
    #[error("the evidence is not good: {0}")]
    BadEvidence(&'static str),
    /// A risk adjustment that cannot be.
    #[error("{0}")]
    BadAdjustment(&'static str),
    /// What came back from an identity provider proves nobody here.
    #[error("the identity provider's answer was not taken: {0}")]
    BadFederation(&'static str),
    /// An identity provider that does not do its part.
    #[error("the identity provider cannot be used now: {0}")]
    ProviderAway(&'static str),
    /// Somebody wanted to look better by his own word.
    #[error("nobody lowers his own risk")]
    SelfLowering,
    /// What needs two people was said by one.
    #[error("another person must agree")]
    SecondPerson,
    /// What was asked does not fit what the person has.
    #[error("{0}")]
    FactorState(&'static str),
    /// A ceremony of a passkey that is unknown, over, used, or failed.
    #[error("the passkey was not taken: {0}")]
    BadPasskey(&'static str),
    /// The operator named no origin that passkeys could be bound to.
    #[error("passkeys need `identity.origin` in the host's configuration")]
    PasskeysOff,
    /// The tenant has as many live keys as it may.
    #[error("there are {count_max} live keys already; revoke one first")]
    TooManyKeys {
        /// How many there may be.
        count_max: usize,
    },
    /// A lifetime of nothing, beyond what its place lets keys live, or beyond the calendar.
    #[error("a key must expire after {}", lifetime_words(*.seconds_max))]
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

/// What a session lacks for what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needed {
    /// What would help.
    pub factor: Factor,
    /// The score that is asked for and the one that there is, where it is about scores.
    pub scores: Option<(u8, u8)>,
}

/// What would help a session that is not proved strongly enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Factor {
    /// A one-time code; a passkey does as well.
    Code,
    /// A passkey.
    Passkey,
    /// A sign-in with a client certificate.
    Certificate,
    /// Nothing that could be proved: what is known of the session must become better.
    LessRisk,
}

// === impl Needed ===

impl fmt::Display for Needed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.factor.text())?;
        match self.scores {
            Some((least, score)) => write!(f, ": a trust score of {least}, and there is {score} now"),
            None => Ok(()),
        }
    }
}

// === impl Factor ===

impl Factor {
    /// The word of the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Code => "code",
            Self::Passkey => "passkey",
            Self::Certificate => "certificate",
            Self::LessRisk => "less-risk",
        }
    }

    /// For people.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Code => "a one-time code or a passkey",
            Self::Passkey => "a passkey",
            Self::Certificate => "a sign-in with a client certificate, or as a person",
            Self::LessRisk => "less risk than this session shows",
        }
    }

    /// The `WWW-Authenticate` that says so (RFC 9470, section 3), in the scheme of the token: with one that is bound to a key
    /// (RFC 9449), or not. It names no `acr_values` where nothing that could be proved helps.
    pub const fn challenge(self, with_proof: bool) -> &'static str {
        match (self, with_proof) {
            (Self::Code, false) => "Bearer error=\"insufficient_user_authentication\", acr_values=\"code passkey\"",
            (Self::Passkey, false) => "Bearer error=\"insufficient_user_authentication\", acr_values=\"passkey\"",
            (Self::Certificate, false) => {
                "Bearer error=\"insufficient_user_authentication\", acr_values=\"certificate\""
            }
            (Self::LessRisk, false) => "Bearer error=\"insufficient_user_authentication\"",
            (Self::Code, true) => {
                "DPoP error=\"insufficient_user_authentication\", acr_values=\"code passkey\", algs=\"EdDSA ES256\""
            }
            (Self::Passkey, true) => {
                "DPoP error=\"insufficient_user_authentication\", acr_values=\"passkey\", algs=\"EdDSA ES256\""
            }
            (Self::Certificate, true) => {
                "DPoP error=\"insufficient_user_authentication\", acr_values=\"certificate\", algs=\"EdDSA ES256\""
            }
            (Self::LessRisk, true) => "DPoP error=\"insufficient_user_authentication\", algs=\"EdDSA ES256\"",
        }
    }
}

// === impl IdentityError ===

impl IdentityError {
    /// Who has to mend it.
    pub fn blame(&self) -> Blame {
        match self {
            Self::Busy { .. } | Self::WrongPermit | Self::Host(_) | Self::Store(_) | Self::Keys(_) => Blame::Host,
            _ => Blame::Caller,
        }
    }
}

/// A lifetime that a key may have, for people.
fn lifetime_words(seconds_max: u32) -> String {
    const DAY_SECONDS: u32 = 86_400;
    match seconds_max {
        u32::MAX => "1 second or more; without a lifetime it does not expire".to_owned(),
        max if max % DAY_SECONDS == 0 => format!("1 second to {} days, {max} seconds", max / DAY_SECONDS),
        max => format!("1 to {max} seconds"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lifetime_is_told_in_days_and_none_as_none() {
        let said = |seconds_max| IdentityError::Lifetime { seconds_max }.to_string();
        assert_eq!(said(2_592_000), "a key must expire after 1 second to 30 days, 2592000 seconds");
        assert_eq!(said(u32::MAX), "a key must expire after 1 second or more; without a lifetime it does not expire");
    }
}
