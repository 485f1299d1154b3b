//! What an act is about, beside who does it and to what: the capability that is granted, which version is deployed and who
//! pushed it, the role of a new key, what a run asks people for. Rules read it of the context.
//!
//! Must never say less than the act then does: whoever asks has it checked before, and does that and nothing else. Must never be
//! left out where a run asks: a statement that forbids by it would let the word through.

use std::collections::BTreeSet;

use cedar_policy::RestrictedExpression;
use ringfence_core::{Capability, PrincipalId, Role};
use serde::{Deserialize, Serialize};

use crate::question::{Words, text};

/// LIMIT: most bytes of the names of a grant, or of a version's label, that is kept to be asked again.
const KEPT_BYTES_MAX: usize = 2_048;

/// What an act is about. An act that is asked for without it has none of these in its context.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Particulars {
    /// Of `grant-capability`: what is granted. Taking away has none.
    Grant {
        /// Which capability.
        capability: Capability,
        /// The named things that it is to cover, as they are kept.
        scope: BTreeSet<String>,
    },
    /// Of `deploy-version`: which version, whose, and for how many. Moving a route back has none.
    Deploy {
        /// Whether it was pushed by who deploys it, or by somebody who is no second person beside him.
        pushed_by_caller: bool,
        /// Its label.
        #[serde(default)]
        version: String,
        /// Its share of the invocations, 1 to 100.
        #[serde(default)]
        percent: u8,
    },
    /// Of `create-token`, for keys and people: what the new one is to be.
    Token {
        /// In which role.
        role: Role,
    },
    /// Of `approve-run`: what the run asks for. A word to nothing that a run asks has none.
    Approval(Approval),
}

/// What a run asks people for, and what it is to who decides.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Approval {
    /// Under which name it asks.
    pub name: String,
    /// Who began the run.
    pub began_by: PrincipalId,
    /// Whether that is who decides, be it by another key of one owner.
    pub is_own: bool,
    /// For how many seconds it has been asked.
    pub waited_s: u64,
}

impl Approval {
    fn in_cedar(&self) -> Result<RestrictedExpression, String> {
        let string = |value: &str| RestrictedExpression::new_string(value.to_owned());
        let fields = [
            ("name", string(&self.name)),
            ("began_by", string(self.began_by.as_str())),
            ("is_own", RestrictedExpression::new_bool(self.is_own)),
            ("waited_s", RestrictedExpression::new_long(i64::try_from(self.waited_s).unwrap_or(i64::MAX))),
        ];
        RestrictedExpression::new_record(fields.map(|(name, value)| (name.to_owned(), value))).map_err(text)
    }
}

impl Particulars {
    /// In Cedar's words.
    pub(crate) fn pairs(&self, words: &Words) -> Result<Vec<(String, RestrictedExpression)>, String> {
        let named = |kind: &str, id: &str| words.uid(kind, id).map(RestrictedExpression::new_entity_uid);
        let pair = |name: &str, value: RestrictedExpression| (name.to_owned(), value);
        Ok(match self {
            Self::Grant { capability, scope } => {
                let scope = scope.iter().cloned().map(RestrictedExpression::new_string);
                vec![
                    pair("capability", named("Capability", capability.as_str())?),
                    pair("scope", RestrictedExpression::new_set(scope)),
                ]
            }
            Self::Deploy { pushed_by_caller, version, percent } => vec![
                pair("pushed_by_caller", RestrictedExpression::new_bool(*pushed_by_caller)),
                pair("version", RestrictedExpression::new_string(version.clone())),
                pair("percent", RestrictedExpression::new_long(i64::from(*percent))),
            ],
            Self::Token { role } => vec![pair("asked_role", named("Role", role.as_str())?)],
            Self::Approval(approval) => vec![pair("approval", approval.in_cedar()?)],
        })
    }

    /// Whether it is short enough to be kept.
    pub(crate) fn is_short(&self) -> bool {
        match self {
            Self::Grant { scope, .. } => scope.iter().map(String::len).sum::<usize>() <= KEPT_BYTES_MAX,
            Self::Deploy { version, .. } => version.len() <= KEPT_BYTES_MAX,
            Self::Token { .. } | Self::Approval(_) => true,
        }
    }

    /// The same but for what is another at each asking: for how long a run has asked.
    pub(crate) fn without_time(&self) -> Self {
        match self {
            Self::Approval(approval) => Self::Approval(Approval { waited_s: 0, ..approval.clone() }),
            Self::Grant { .. } | Self::Deploy { .. } | Self::Token { .. } => self.clone(),
        }
    }

    /// The condition of a statement that holds for just this.
    pub(crate) fn condition(&self) -> String {
        match self {
            Self::Grant { capability, scope } => {
                let scope = match scope.is_empty() {
                    true => "context.scope.isEmpty()".to_owned(),
                    // As Rust writes a list of strings, Cedar does.
                    false => format!("context.scope == {:?}", scope.iter().collect::<Vec<_>>()),
                };
                format!(
                    "context has capability && context.capability == Ringfence::Capability::\"{capability}\" && \
                     context has scope && {scope}"
                )
            }
            Self::Deploy { pushed_by_caller, version, percent } => {
                let not = if *pushed_by_caller { "" } else { "!" };
                format!(
                    "context has pushed_by_caller && {not}context.pushed_by_caller && \
                     context has version && context.version == {version:?} && \
                     context has percent && context.percent == {percent}"
                )
            }
            Self::Token { role } => {
                format!("context has asked_role && context.asked_role == Ringfence::Role::\"{role}\"")
            }
            Self::Approval(Approval { name, is_own, .. }) => {
                let not = if *is_own { "" } else { "!" };
                format!("context has approval && context.approval.name == {name:?} && {not}context.approval.is_own")
            }
        }
    }
}

impl std::fmt::Display for Particulars {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Grant { capability, scope } => {
                write!(f, "{capability}")?;
                scope.iter().try_for_each(|name| write!(f, " {name}"))
            }
            Self::Deploy { pushed_by_caller, version, percent } => {
                let by = if *pushed_by_caller { "who deploys it" } else { "another" };
                write!(f, "{version} at {percent} %, pushed by {by}")
            }
            Self::Token { role } => write!(f, "role {role}"),
            Self::Approval(approval) => f.write_str(&approval.name),
        }
    }
}
