//! What an act is about, beside who does it and to what: the capability that is granted, who pushed what is deployed, the role
//! of a new key. Rules read it of the context.
//!
//! Must never say less than the act then does: whoever asks has it checked before, and does that and nothing else.

use std::collections::BTreeSet;

use cedar_policy::RestrictedExpression;
use ringfence_core::{Capability, Role};
use serde::{Deserialize, Serialize};

use crate::question::Words;

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
    /// Of `deploy-version`: whose version it is. Moving a route back has none.
    Deploy {
        /// Whether it was pushed by who deploys it, or by somebody of one owner with him.
        pushed_by_caller: bool,
    },
    /// Of `create-token`, for keys and people: what the new one is to be.
    Token {
        /// In which role.
        role: Role,
    },
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
            Self::Deploy { pushed_by_caller } => {
                vec![pair("pushed_by_caller", RestrictedExpression::new_bool(*pushed_by_caller))]
            }
            Self::Token { role } => vec![pair("asked_role", named("Role", role.as_str())?)],
        })
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
            Self::Deploy { pushed_by_caller: true } => {
                "context has pushed_by_caller && context.pushed_by_caller".to_owned()
            }
            Self::Deploy { pushed_by_caller: false } => {
                "context has pushed_by_caller && !context.pushed_by_caller".to_owned()
            }
            Self::Token { role } => {
                format!("context has asked_role && context.asked_role == Ringfence::Role::\"{role}\"")
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
            Self::Deploy { pushed_by_caller: true } => f.write_str("pushed by who deploys it"),
            Self::Deploy { pushed_by_caller: false } => f.write_str("pushed by another"),
            Self::Token { role } => write!(f, "role {role}"),
        }
    }
}
