//! What a host call is about, beside who makes it and on what: on whose behalf, why, and with which key or path.
//!
//! Must never leave out a word that a statement reads: see [`Reads`], which errs to the side of "all of them".

use std::collections::BTreeSet;
use std::ops::BitOr;

use cedar_policy::{Context, RestrictedExpression};
use cedar_policy_core::ast::RestrictedExpr;
use ringfence_core::{Device, HostAct, PrincipalId, Role, WordError, device};
use serde::{Deserialize, Serialize};

use crate::question::{Words, device_record, text};

/// LIMIT: bytes of a name, and of a method, that are kept of a call; a longer one is answered and not remembered.
pub(crate) const KEPT_BYTES_MAX: usize = 1_024;
/// LIMIT: bytes of what stands for all names that begin so.
const SLICE_BYTES_MAX: usize = 256;

/// What a host call is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Occasion {
    /// On whose behalf all of it is done.
    pub caller: PrincipalId,
    /// In which role; none for callers who show nothing.
    pub role: Option<Role>,
    /// The trust score of its session, 0 to 100, where there is one and a policy reads it.
    pub trust: Option<u8>,
    /// What its session's key was shown to be on, as that is then, where a policy reads it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<Device>,
    /// What began the invocation: `http`, `call`, `hook`, `queue`, `schedule`, `run`.
    pub cause: String,
    /// The key of a value, the name of an object, the path of a request.
    pub name: String,
    /// The method of a request; the workflow of a run.
    pub method: String,
}

/// Which words of an occasion statements read, and whether there are such statements at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Reads(u8);

impl Reads {
    /// No statement applies.
    pub(crate) const NOTHING: Self = Self(0);
    const APPLIES: Self = Self(1);
    const CALLER: Self = Self(1 << 1);
    const ROLE: Self = Self(1 << 2);
    pub(crate) const TRUST: Self = Self(1 << 3);
    const CAUSE: Self = Self(1 << 4);
    const NAME: Self = Self(1 << 5);
    const METHOD: Self = Self(1 << 6);
    pub(crate) const DEVICE: Self = Self(1 << 7);
    const ALL: Self = Self(0xff);

    /// What a statement reads, from its tokens. INVARIANT: a `context` that is not plainly followed by one word reads all.
    pub(crate) fn of(tokens: &[&str]) -> Self {
        let mut reads = Self::APPLIES;
        for (at, token) in tokens.iter().enumerate() {
            // A string that spells the word cannot be told from a use here, and need not be.
            if !token.contains("context") {
                continue;
            }
            let word = match tokens.get(at..).unwrap_or_default() {
                ["context", "." | "has", word, ..] => *word,
                _ => "",
            };
            reads = reads
                | match word {
                    "caller" => Self::CALLER,
                    "role" => Self::ROLE,
                    "trust" => Self::TRUST,
                    "device" => Self::DEVICE,
                    "cause" => Self::CAUSE,
                    "key" | "name" | "path" => Self::NAME,
                    "method" | "workflow" => Self::METHOD,
                    // No host call has these.
                    "approval" | "capability" | "scope" | "pushed_by_caller" | "version" | "percent" | "asked_role" => {
                        Self::NOTHING
                    }
                    _ => Self::ALL,
                };
        }
        reads
    }

    /// Whether all of `other` is read.
    pub(crate) fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The occasion with nothing in it that is not read: questions that differ in the rest have one answer.
    pub(crate) fn project(self, occasion: &Occasion) -> Occasion {
        let text = |is: Self, word: &str| if self.has(is) { word.to_owned() } else { String::new() };
        Occasion {
            caller: if self.has(Self::CALLER) { occasion.caller.clone() } else { anybody(&occasion.caller) },
            role: occasion.role.filter(|_| self.has(Self::ROLE)),
            trust: occasion.trust.filter(|_| self.has(Self::TRUST)),
            device: occasion.device.clone().filter(|_| self.has(Self::DEVICE)),
            cause: text(Self::CAUSE, &occasion.cause),
            name: text(Self::NAME, &occasion.name),
            method: text(Self::METHOD, &occasion.method),
        }
    }
}

impl BitOr for Reads {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl Occasion {
    /// One to try the schema with.
    pub(crate) fn some(role: Option<Role>) -> Result<Self, WordError> {
        let (cause, name, method) = ("http".to_owned(), String::new(), "GET".to_owned());
        let device = match role {
            Some(_) => Some(Device {
                name: "laptop".parse()?,
                verified: false,
                evidence: device::NO_EVIDENCE.to_owned(),
                posture: BTreeSet::new(),
            }),
            None => None,
        };
        Ok(Self { caller: "anonymous".parse()?, role, trust: role.map(|_| 80), device, cause, name, method })
    }

    /// In Cedar's words.
    pub(crate) fn context(&self, words: &Words, act: Option<HostAct>) -> Result<Context, String> {
        let string = |value: &str| RestrictedExpression::new_string(value.to_owned());
        let mut pairs =
            vec![("caller".to_owned(), string(self.caller.as_str())), ("cause".to_owned(), string(&self.cause))];
        if let Some(role) = self.role {
            pairs.push(("role".to_owned(), RestrictedExpression::new_entity_uid(words.uid("Role", role.as_str())?)));
        }
        if let Some(trust) = self.trust {
            pairs.push(("trust".to_owned(), RestrictedExpression::new_long(trust.into())));
        }
        if let Some(device) = &self.device {
            pairs.push(("device".to_owned(), RestrictedExpr::from(device_record(device)).into()));
        }
        match act {
            Some(HostAct::ReadValue | HostAct::WriteValue | HostAct::DeleteValue | HostAct::ListValues) => {
                pairs.push(("key".to_owned(), string(&self.name)));
            }
            Some(HostAct::ReadObject | HostAct::WriteObject | HostAct::DeleteObject | HostAct::ListObjects) => {
                pairs.push(("name".to_owned(), string(&self.name)));
            }
            Some(HostAct::SendRequest | HostAct::CallPlugin) => {
                pairs.push(("method".to_owned(), string(&self.method)));
                pairs.push(("path".to_owned(), string(&self.name)));
            }
            Some(HostAct::BeginRun | HostAct::SignalRun | HostAct::CancelRun | HostAct::InspectRun) => {
                pairs.push(("workflow".to_owned(), string(&self.method)));
            }
            _ => {}
        }
        Context::from_pairs(pairs).map_err(text)
    }

    /// What stands for all names like this one.
    pub(crate) fn slice(&self) -> &str {
        Self::slice_of(&self.name)
    }

    /// A name up to the first `/` that parts anything; nothing for names without one.
    pub(crate) fn slice_of(name: &str) -> &str {
        // A path begins with one.
        let from = usize::from(name.starts_with('/'));
        let end = name.get(from..).and_then(|rest| rest.find('/'));
        let slice = end.and_then(|end| name.get(..=from.saturating_add(end)));
        slice.filter(|slice| slice.len() <= SLICE_BYTES_MAX).unwrap_or_default()
    }

    /// Whether it is short enough to be remembered.
    pub(crate) fn is_short(&self) -> bool {
        self.name.len().max(self.method.len()) <= KEPT_BYTES_MAX
    }

    /// As it is kept: cut where it is longer than anybody needs.
    pub(crate) fn kept(&self) -> Self {
        let cut = |text: &str| text.get(..text.floor_char_boundary(KEPT_BYTES_MAX)).unwrap_or(text).to_owned();
        Self { name: cut(&self.name), method: cut(&self.method), ..self.clone() }
    }
}

/// The same for every caller.
fn anybody(caller: &PrincipalId) -> PrincipalId {
    "anonymous".parse().unwrap_or_else(|_| caller.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::tokens;

    #[test]
    fn a_statement_reads_the_words_it_names_and_all_of_them_when_that_is_not_plain() {
        let of = |text: &str| Reads::of(&tokens(text));
        assert_eq!(of("forbid (principal, action, resource);"), Reads::APPLIES);
        assert_eq!(of("when { context.key like \"a*\" }"), Reads::APPLIES | Reads::NAME);
        assert_eq!(of("when { context.workflow == \"charge\" }"), Reads::APPLIES | Reads::METHOD);
        assert_eq!(of("when { context has trust && context.trust < 50 }"), Reads::APPLIES | Reads::TRUST);
        assert_eq!(of("unless { context has device && context.device.verified }"), Reads::APPLIES | Reads::DEVICE);
        assert_eq!(of("when { context has approval && context.approval.is_own }"), Reads::APPLIES);
        assert_eq!(of("when { context . // x\n method == \"GET\" }"), Reads::APPLIES | Reads::METHOD);
        for all in
            ["context[\"key\"]", "context == context", "context has \"role\"", "\"the context\"", "context has x"]
        {
            assert_eq!(of(all), Reads::ALL, "{all}");
        }
    }

    #[test]
    fn a_slice_is_what_comes_before_the_first_slash_that_parts_anything() {
        let slice = Occasion::slice_of;
        assert_eq!(slice("invoices/2026/1"), "invoices/");
        assert_eq!(slice("/v1/pay/7"), "/v1/");
        let long = format!("{}/", "x".repeat(SLICE_BYTES_MAX));
        for whole in ["", "visits", "/", "/health", &long] {
            assert_eq!(slice(whole), "", "{whole}");
        }
    }

    #[test]
    fn what_is_kept_is_cut_between_characters() {
        let long = Occasion { name: "\u{e9}".repeat(KEPT_BYTES_MAX), ..Occasion::some(None).unwrap() };
        assert!(!long.is_short() && long.kept().is_short());
        let odd = Occasion { name: format!("x{}", long.name), ..long };
        assert_eq!(odd.kept().name.len(), KEPT_BYTES_MAX - 1);
    }
}
