//! Names and ids as types that cannot be wrong: parsed once at the edge, compared and printed everywhere else.
//!
//! Must never be built from unparsed text; every constructor checks.

use std::fmt;
use std::str::FromStr;

use data_encoding::{BASE32_NOPAD, HEXLOWER};
use serde::{Deserialize, Serialize};

use crate::Entropy;
use crate::word::Word;

/// Longest name of a tenant, plugin or other named thing, in bytes.
pub const NAME_BYTES_MAX: usize = 63;

/// A word that does not fit the rules of its kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is not a {kind}: {rule}")]
pub struct WordError {
    given: String,
    kind: &'static str,
    rule: &'static str,
}

impl WordError {
    fn new(given: &str, kind: &'static str, rule: &'static str) -> Self {
        // LIMIT: an error must not carry a caller's megabyte back to him.
        Self { given: given.chars().take(80).collect(), kind, rule }
    }
}

impl WordError {
    pub(crate) fn place(given: &str) -> Self {
        Self::new(given, "place in a workflow", "numbers with dots between, such as `3` or `2.1.0`")
    }
    pub(crate) fn capability(given: &str) -> Self {
        Self::new(
            given,
            "capability",
            "one of keyvalue, config, logging, secrets, http, blob, files, pii, queue, identity, audit, runs",
        )
    }
}

const NAME_RULE: &str = "1 to 63 of a-z, 0-9 and `-`, starting with a letter and not ending with `-`";

fn is_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    !bytes.is_empty()
        && bytes.len() <= NAME_BYTES_MAX
        && bytes.first().is_some_and(u8::is_ascii_lowercase)
        && bytes.last() != Some(&b'-')
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
}

macro_rules! word {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $rule:expr, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Word);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                self.0.as_str()
            }
        }
        impl FromStr for $name {
            type Err = WordError;
            fn from_str(text: &str) -> Result<Self, WordError> {
                let check: fn(&str) -> bool = $check;
                if check(text) { Ok(Self(text.into())) } else { Err(WordError::new(text, $kind, $rule)) }
            }
        }
        impl TryFrom<String> for $name {
            type Error = WordError;
            fn try_from(text: String) -> Result<Self, WordError> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(word: $name) -> String {
                word.0.into()
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "`{}`", self.as_str())
            }
        }
        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                self.as_str()
            }
        }
    };
}

word!(
    /// The isolation and billing boundary, by name.
    TenantId, "tenant name", NAME_RULE, is_name
);
word!(
    /// The named thing a tenant owns and that is invoked.
    PluginName, "plugin name", NAME_RULE, is_name
);
word!(
    /// The name of a plan: a quota that tenants share.
    PlanName, "plan name", NAME_RULE, is_name
);
impl PlanName {
    /// The plan of a tenant for which nobody chose one.
    pub fn standard() -> Self {
        Self("standard".into())
    }
}
word!(
    /// The name of a secret, a configuration key or a key-value bucket.
    ResourceName,
    "resource name",
    "1 to 63 of a-z, A-Z, 0-9, `-`, `_` and `.`, starting with a letter or digit",
    |text| {
        let bytes = text.as_bytes();
        !bytes.is_empty()
            && bytes.len() <= NAME_BYTES_MAX
            && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
            && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    }
);
word!(
    /// The name of a queue: one of a tenant's own, or [`QueueName::HOOKS`].
    QueueName,
    "queue name",
    "`_hooks`, or 1 to 63 of a-z, A-Z, 0-9, `-`, `_` and `.`, starting with a letter or digit",
    |text| text == QueueName::HOOKS || text.parse::<ResourceName>().is_ok()
);
impl QueueName {
    /// The host's own queue of a tenant, with what extension points tell plugins; no queue that a tenant makes is called so.
    pub const HOOKS: &'static str = "_hooks";
}
word!(
    /// Who a principal is: `operator/ada`, `acme/ci`, `acme/plugin/visits`, `anonymous`.
    PrincipalId,
    "principal",
    "1 to 200 printable characters without spaces",
    |text| !text.is_empty() && text.len() <= 200 && text.chars().all(|c| c.is_ascii_graphic())
);

macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $kind:literal) => {
        word!($(#[$doc])* $name, $kind, concat!("`", $prefix, "` and 26 of a-z and 2-7"), |text| {
            text.strip_prefix($prefix).is_some_and(|rest| {
                rest.len() == 26 && rest.bytes().all(|b| b.is_ascii_lowercase() || (b'2'..=b'7').contains(&b))
            })
        });
        impl $name {
            /// A new one from 16 random bytes.
            pub fn random(entropy: &dyn Entropy) -> Self {
                let mut bytes = [0_u8; 16];
                entropy.fill(&mut bytes);
                let mut text = String::with_capacity($prefix.len().saturating_add(26));
                text.push_str($prefix);
                BASE32_NOPAD.encode_append(&bytes, &mut text);
                text.make_ascii_lowercase();
                Self(text.into())
            }
        }
    };
}

random_id!(
    /// One call of an export.
    InvocationId, "i_", "invocation id"
);
random_id!(
    /// One answer of the policy.
    DecisionId, "d_", "decision id"
);
random_id!(
    /// One HTTP request to the control plane.
    RequestId, "r_", "request id"
);
random_id!(
    /// One backup archive.
    BackupId, "b_", "backup id"
);
random_id!(
    /// One long piece of work of the control plane.
    JobId, "j_", "job id"
);
random_id!(
    /// One signed-in session.
    SessionId, "s_", "session id"
);

random_id!(
    /// Something that one principal asked for and another must allow.
    ApprovalId, "ap_", "approval id"
);

random_id!(
    /// One access review.
    ReviewId, "rv_", "review id"
);

random_id!(
    /// One execution of a durable workflow.
    RunId, "run_", "run id"
);

/// SHA-256 of a component's bytes; names a version for good. Written `sha256:<64 hex digits>`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// Wraps the 32 bytes of a finished SHA-256.
    pub const fn from_sha256(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", HEXLOWER.encode(&self.0))
    }
}
impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
impl FromStr for Digest {
    type Err = WordError;
    fn from_str(text: &str) -> Result<Self, WordError> {
        text.strip_prefix("sha256:")
            .and_then(|hex| HEXLOWER.decode(hex.as_bytes()).ok())
            .and_then(|bytes| bytes.try_into().ok())
            .map(Self)
            .ok_or_else(|| WordError::new(text, "digest", "`sha256:` and 64 of 0-9 and a-f"))
    }
}
impl TryFrom<String> for Digest {
    type Error = WordError;
    fn try_from(text: String) -> Result<Self, WordError> {
        text.parse()
    }
}
impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_queue_is_called_like_any_resource_or_is_the_hosts() {
        for good in ["mail", "9.a_b", QueueName::HOOKS] {
            assert!(good.parse::<QueueName>().is_ok(), "{good}");
        }
        for bad in ["", "_", "_hook", "_hooks2", "a/b"] {
            assert!(bad.parse::<QueueName>().is_err(), "{bad}");
        }
        assert!(QueueName::HOOKS.parse::<ResourceName>().is_err());
    }

    #[test]
    fn names_are_strict() {
        for good in ["a", "acme", "acme-2", "x".repeat(63).as_str()] {
            assert!(good.parse::<TenantId>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "1a", "a/b", "a.b", "a b", "ä", "x".repeat(64).as_str(), "_platform", "a\0"] {
            assert!(bad.parse::<TenantId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_error_quotes_the_word_and_the_rule() {
        let error = "Acme".parse::<TenantId>().unwrap_err().to_string();
        assert_eq!(
            error,
            "`Acme` is not a tenant name: 1 to 63 of a-z, 0-9 and `-`, starting with a letter and not ending with `-`"
        );
    }

    proptest! {
        #[test]
        fn a_digest_survives_its_text(bytes in any::<[u8; 32]>()) {
            let digest = Digest::from_sha256(bytes);
            prop_assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
        }
        #[test]
        fn parsing_never_panics(text in ".{0,100}") {
            let _ = text.parse::<TenantId>();
            let _ = text.parse::<Digest>();
            let _ = text.parse::<InvocationId>();
            let _ = text.parse::<ResourceName>();
        }
    }
}
