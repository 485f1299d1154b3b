//! Rules as their owners write them: each text has a version and a digest, and earlier texts are kept, so that a finding can be
//! tied to the text that made it.
//!
//! Must never overwrite a text that its writer has not seen, nor begin to count anew while a text of the name is kept, nor keep
//! texts without a bound: the oldest that are not in force go first.

use std::sync::Arc;

use jiff::Timestamp;
use ringfence_core::{Digest, PrincipalId};
use ringfence_store::{Key, Op};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::response::Scope;
use crate::sigma::engine::Pack;
use crate::threat::{RuleText, TEXTS_COUNT_MAX, Threat, owner_of};
use crate::{ThreatError, sigma};

/// LIMIT: texts kept of one name, the one in force among them.
const KEPT_PER_NAME_COUNT_MAX: usize = 16;
/// LIMIT: texts kept of one owner, those of deleted names among them.
const KEPT_COUNT_MAX: usize = 4 * TEXTS_COUNT_MAX;

/// Which text of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Edition {
    /// Its number, from 1; 0 for a text that comes with the host.
    pub version: u64,
    /// SHA-256 of the text.
    pub digest: Digest,
}

/// A text that was written once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// Under which name.
    pub name: String,
    /// Which one of it.
    pub edition: Edition,
    /// By whom.
    pub by: PrincipalId,
    /// When.
    pub at: Timestamp,
}

impl Edition {
    /// The edition of a text under a number.
    pub fn of(version: u64, text: &str) -> Self {
        Self { version, digest: Digest::from_sha256(Sha256::digest(text.as_bytes()).into()) }
    }
}

impl Threat {
    /// The edition in force of a name of an owner's own.
    pub fn edition(&self, scope: &Scope, name: &str) -> Option<Edition> {
        self.state().pack(scope, name).map(|pack| pack.edition)
    }

    /// The newest version of a name of an owner's own, deleted or not; 0 when there is none.
    pub fn rules_version(&self, scope: &Scope, name: &str) -> u64 {
        let state = self.state();
        let in_force = state.pack(scope, name).map(|pack| pack.edition.version);
        let written = state.written.get(scope).into_iter().flatten().filter(|written| written.name == name);
        written.map(|written| written.edition.version).chain(in_force).max().unwrap_or(0)
    }

    /// Writes a text of rules in the place of version `base` of its name; in force for the next event.
    pub async fn put_rules(
        &self,
        scope: &Scope,
        by: &PrincipalId,
        name: &str,
        text: &str,
        base: u64,
    ) -> Result<RuleText, ThreatError> {
        let _one = self.inner.changing.lock().await;
        let rules = sigma::parse(text).map_err(|what| ThreatError::BadRule { what })?;
        if self.rules_version(scope, name) != base {
            return Err(ThreatError::Changed);
        }
        let (mut live, mut written): (Vec<String>, Vec<Written>) = {
            let state = self.state();
            let live = state.texts.get(scope).into_iter().flat_map(|texts| texts.keys().cloned());
            (live.collect(), state.written.get(scope).cloned().unwrap_or_default())
        };
        if !live.iter().any(|known| known == name) {
            live.push(name.to_owned());
        }
        if live.len() > TEXTS_COUNT_MAX {
            return Err(ThreatError::TooMany { what: "texts of rules", count_max: TEXTS_COUNT_MAX });
        }
        let edition = Edition::of(base.saturating_add(1), text);
        written.push(Written { name: name.to_owned(), edition, by: by.clone(), at: self.inner.clock.now() });
        let dropped = make_room(&mut written, name, &live);
        let mut ops = vec![
            Op::put_json(rule_key(name), text)?,
            Op::put_json(text_key(name, edition.version), text)?,
            Op::put_json(written_key(), &written)?,
        ];
        ops.extend(dropped.iter().map(|old| Op::delete(text_key(&old.name, old.edition.version))));
        self.store(scope)?.batch(ops, Vec::new()).await?;
        let pack = Arc::new(Pack { owner: owner_of(scope), name: name.to_owned(), edition, rules });
        let mut state = self.state_mut();
        state.put(scope, name, text, Arc::clone(&pack));
        state.written.insert(scope.clone(), written);
        drop(state);
        self.forget_pack(&pack.owner, name);
        Ok(RuleText { owner: pack.owner.clone(), name: name.to_owned(), text: text.to_owned(), pack })
    }

    /// Deletes a text of rules of an owner's own; what was written of it stays to be read.
    pub async fn delete_rules(&self, scope: &Scope, name: &str) -> Result<(), ThreatError> {
        let _one = self.inner.changing.lock().await;
        if !self.state().texts.get(scope).is_some_and(|texts| texts.contains_key(name)) {
            return Err(ThreatError::NotFound);
        }
        self.store(scope)?.delete(&rule_key(name)).await?;
        self.state_mut().remove(scope, name);
        self.forget_pack(&owner_of(scope), name);
        Ok(())
    }

    /// The texts that are kept of a name of an owner's own, newest first, of a deleted one too.
    pub async fn rules_written(&self, scope: &Scope, name: &str) -> Result<Vec<(Written, String)>, ThreatError> {
        let mut written: Vec<Written> = self.state().written.get(scope).cloned().unwrap_or_default();
        written.retain(|one| one.name == name);
        let store = self.store(scope)?;
        let mut found = Vec::with_capacity(written.len());
        for one in written.into_iter().rev() {
            if let Some(text) = store.get_json::<String>(&text_key(name, one.edition.version)).await? {
                found.push((one, text));
            }
        }
        if found.is_empty() { Err(ThreatError::NotFound) } else { Ok(found) }
    }
}

/// Takes out what is too much: the oldest of the name, then the oldest of all that are not in force.
fn make_room(written: &mut Vec<Written>, name: &str, live: &[String]) -> Vec<Written> {
    let mut dropped = Vec::new();
    let of_name = |written: &[Written]| written.iter().filter(|one| one.name == name).count();
    while of_name(written.as_slice()) > KEPT_PER_NAME_COUNT_MAX
        && let Some(oldest) = written.iter().position(|one| one.name == name)
    {
        dropped.push(written.remove(oldest));
    }
    while written.len() > KEPT_COUNT_MAX {
        let in_force = |at: usize, one: &Written| {
            live.contains(&one.name) && !written.iter().skip(at + 1).any(|later| later.name == one.name)
        };
        let Some(oldest) = written.iter().enumerate().position(|(at, one)| !in_force(at, one)) else { break };
        dropped.push(written.remove(oldest));
    }
    dropped
}

pub(crate) fn rule_key(name: &str) -> Key {
    Key::new(["threat-rule", name])
}

pub(crate) fn written_key() -> Key {
    Key::new(["threat-rules-written"])
}

fn text_key(name: &str, version: u64) -> Key {
    Key::new(["threat-rule-text", name]).number(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str, version: u64) -> Written {
        let (edition, by) = (Edition::of(version, "x"), "acme/admin".parse().unwrap());
        Written { name: name.to_owned(), edition, by, at: Timestamp::UNIX_EPOCH }
    }

    #[test]
    fn a_name_keeps_its_newest_texts_and_what_is_in_force_is_never_dropped() {
        let mut written: Vec<Written> = (1..=17).map(|version| one("a", version)).collect();
        assert_eq!(make_room(&mut written, "a", &["a".to_owned()]), [one("a", 1)]);
        let mut many: Vec<Written> = (0..KEPT_COUNT_MAX).map(|at| one(&format!("n{at}"), 1)).collect();
        many.push(one("a", 1));
        let live = ["n0".to_owned(), "a".to_owned()];
        assert_eq!(make_room(&mut many, "a", &live), [one("n1", 1)]);
        assert_eq!((many.len(), many.first()), (KEPT_COUNT_MAX, Some(&one("n0", 1))));
    }

    #[test]
    fn a_digest_is_of_the_text_alone() {
        assert_eq!(Edition::of(1, "x").digest, Edition::of(2, "x").digest);
        assert_ne!(Edition::of(1, "x").digest, Edition::of(1, "y").digest);
    }
}
