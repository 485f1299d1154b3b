//! An assessment: the rules and indicators of today, asked of a stretch of the log as it was.
//!
//! Must never act, count a sighting, or be taken for what was found at the time: it has a memory of its own, which begins
//! with the stretch, and is kept apart from findings. Says what it did not look at.

use std::collections::BTreeMap;
use std::sync::Arc;

use ringfence_audit::Log;
use ringfence_core::{LossAction, LossKind};
use ringfence_store::Op;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ThreatError;
use crate::event::Event;
use crate::finding::{Finding, Held, Open, Taken};
use crate::history::History;
use crate::intel::{Indicator, Use};
use crate::response::Scope;
use crate::risk::{self, Known};
use crate::sigma::engine::Memory;
use crate::threat::{Threat, all};

/// What happens outside of every log that a host can write, so that nothing found there means nothing.
const NEVER_SEEN: [&str; 8] = [
    "programs on people's own devices",
    "a lure itself, before somebody signs in with what it took",
    "hands on the machine",
    "a kernel or hypervisor that was taken over",
    "side channels, of time or of what a processor runs ahead",
    "an operator who has the keys",
    "people who are talked into something",
    "acts that look right by somebody who may do them",
];
/// LIMIT: entries of one assessment; the newest of the stretch.
pub const ASSESSED_COUNT_MAX: u64 = 50_000;
/// LIMIT: findings that one assessment shows; the rest is counted.
const SHOWN_COUNT_MAX: usize = 500;
/// LIMIT: assessments of one owner that are kept; the oldest go first.
const KEPT_COUNT_MAX: usize = 8;
/// Entries read at once, and looked at before others get their turn.
const PAGE_COUNT: u64 = 500;
const TURN_COUNT: u64 = 50;
/// The rule's name of a high score.
const RISK_RULE: &str = "risk";
/// And of an indicator.
const INDICATOR_RULE: &str = "indicator";

/// What an assessment came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Assessment {
    /// `as_` and 26 letters.
    pub id: String,
    /// When it was made, milliseconds since 1970 UTC.
    pub made_ms: i64,
    /// What held, the worst first.
    pub findings: Vec<Finding>,
    /// Findings that are only counted.
    pub more_count: u64,
    /// Rules that were asked, by text and name.
    pub rules_run: Vec<String>,
    /// Indicators that were asked.
    pub indicators_count: u64,
    /// First entry that was looked at.
    pub from_seq: u64,
    /// The entry after the last.
    pub to_seq: u64,
    /// Whether every entry of the stretch was looked at.
    pub is_complete: bool,
    /// What could not be seen, and what in the settings leaves a gap.
    pub blind_spots: Vec<String>,
}

/// What is remembered while one is made.
#[derive(Default)]
struct Look {
    memory: Memory,
    open: Open,
    history: History,
    found: BTreeMap<String, Finding>,
    counted: u64,
}

impl Threat {
    /// Assesses the log of an owner from a moment on, by rules of these names, or by all that apply when there are none.
    pub async fn assess(&self, scope: &Scope, since_ms: i64, only: &[String]) -> Result<Assessment, ThreatError> {
        let log = match scope {
            Scope::Host => Log::Host,
            Scope::Tenant(_) => Log::Tenant(self.store(scope)?),
        };
        let rules_run = self.rules_run(scope, only)?;
        let to_seq = self.inner.audit.size(&log).await?;
        let places = self.inner.audit.places(&log, (Some(since_ms), None), to_seq).await?;
        let begins = places.first().map_or(to_seq, |first| first.start);
        let from_seq = begins.max(to_seq.saturating_sub(ASSESSED_COUNT_MAX));
        let mut look = Look::default();
        let mut seq = from_seq;
        while seq < to_seq {
            let page = usize::try_from((to_seq - seq).min(PAGE_COUNT)).unwrap_or(1);
            let entries = self.inner.audit.list(&log, seq, page).await?;
            if entries.is_empty() {
                break;
            }
            for entry in entries {
                let body = entry.body.unwrap_or_default();
                let time_ms = body.get("time").and_then(Value::as_i64).unwrap_or(0);
                // Where the clock was set back, some are of an earlier time.
                if time_ms >= since_ms {
                    self.look_at(&mut look, Event { log: scope.log().to_owned(), seq, time_ms, body }, only);
                }
                seq += 1;
                if seq.is_multiple_of(TURN_COUNT) {
                    tokio::task::yield_now().await;
                }
            }
        }
        let (findings, more_count) = look.worst_first();
        let is_complete = from_seq == begins;
        Ok(Assessment {
            id: self.new_id("as_"),
            made_ms: self.inner.clock.now().as_millisecond(),
            findings,
            more_count,
            rules_run,
            indicators_count: self.indicators(scope).len() as u64,
            from_seq,
            to_seq,
            is_complete,
            blind_spots: self.blind_spots(scope, is_complete, from_seq),
        })
    }

    /// Keeps an assessment for its owner.
    pub async fn keep_assessment(&self, scope: &Scope, assessment: &Assessment) -> Result<(), ThreatError> {
        let store = self.store(scope)?;
        let mut kept: Vec<Assessment> = all(&store, &prefix(), 2 * KEPT_COUNT_MAX).await?;
        kept.sort_by_key(|one| one.made_ms);
        let beyond = (kept.len() + 1).saturating_sub(KEPT_COUNT_MAX);
        let mut ops: Vec<Op> = kept.iter().take(beyond).map(|one| Op::delete(prefix().push(&one.id))).collect();
        ops.push(Op::put_json(prefix().push(&assessment.id), assessment)?);
        store.batch(ops, Vec::new()).await?;
        Ok(())
    }

    /// An assessment that is kept.
    pub async fn assessment(&self, scope: &Scope, id: &str) -> Result<Assessment, ThreatError> {
        self.store(scope)?.get_json(&prefix().push(id)).await?.ok_or(ThreatError::NotFound)
    }

    fn look_at(&self, look: &mut Look, event: Event, only: &[String]) {
        if crate::watch::is_own(event.code()) {
            return;
        }
        let wanted = |rule: &str| only.is_empty() || only.iter().any(|name| name == rule);
        let drill = event.detail("drill").and_then(Value::as_str).map(ToOwned::to_owned);
        let before = look.history.take(&event);
        let settings = self.settings(&crate::watch::scope_of(&event.log));
        let hours = settings.working_hours.as_ref();
        let known = Known { new_network: before.new_network, tenants_count: before.logs_count, hours };
        let risk = risk::points(&event, &known);
        let rules = self.in_force();
        let packs = rules.of(&event.log);
        let hits = match &drill {
            None => look.memory.take(&packs, &event),
            // A drill that is over is told apart from what was real, by its own label.
            Some(label) => look.memory.take(&packs, &Event { log: format!("{} {label}", event.log), ..event.clone() }),
        };
        let mut held = Vec::new();
        for mut hit in hits {
            let Some((pack, rule)) = rules.rule(&event.log, &hit) else { continue };
            hit.group.extend(drill.clone().map(|label| ("drill".to_owned(), label)));
            held.push(Held {
                rule_owner: pack.owner.clone(),
                rule: pack.name.clone(),
                name: rule.name,
                edition: Some(pack.edition),
                title: rule.title,
                level: rule.level,
                attack: rule.attack,
                group: hit.group,
            });
        }
        held.extend(self.matched(&event).into_iter().map(|(_, held)| held));
        if risk.points >= risk::ALERT_AT {
            held.push(crate::watch::much_concern(&event));
        }
        for held in held.into_iter().filter(|held| wanted(&held.rule)) {
            match look.open.take(&event, held, &risk, event.time_ms) {
                Taken::New(finding) => drop(look.found.insert(finding.id.clone(), *finding)),
                Taken::GoesOn(_) => {}
                Taken::Counted => look.counted += 1,
            }
        }
    }

    /// The names of the rules that are asked; a name that no rule has is an error, or nothing found would mean nothing.
    fn rules_run(&self, scope: &Scope, only: &[String]) -> Result<Vec<String>, ThreatError> {
        let mut names: Vec<String> = self.rules(scope).into_iter().map(|text| text.name).collect();
        names.extend([RISK_RULE.to_owned(), INDICATOR_RULE.to_owned()]);
        if let Some(unknown) = only.iter().find(|name| !names.contains(name)) {
            let what = format!("no rule is called `{}`", unknown.chars().take(80).collect::<String>());
            return Err(ThreatError::BadRule { what });
        }
        names.retain(|name| only.is_empty() || only.contains(name));
        Ok(names)
    }

    fn blind_spots(&self, scope: &Scope, is_complete: bool, from_seq: u64) -> Vec<String> {
        let mut spots = vec![
            "calls of plugins that went well are counted in the log, not named".to_owned(),
            "which networks are new for somebody is known from this stretch alone".to_owned(),
        ];
        if !is_complete {
            spots.push(format!(
                "there are over {ASSESSED_COUNT_MAX} entries: those before {from_seq} were not looked at"
            ));
        }
        spots.extend(NEVER_SEEN.iter().map(|what| format!("no host can see: {what}")));
        spots.extend(self.blind_spots_now(scope));
        spots
    }

    /// What detection does not look for, as its owner's settings are now.
    pub fn blind_spots_now(&self, scope: &Scope) -> Vec<String> {
        let settings = self.settings(scope);
        let indicators = self.indicators(scope);
        let mut spots = Vec::new();
        let mut note = |is_so: bool, words: String| {
            if is_so {
                spots.push(words);
            }
        };
        let now = self.inner.clock.now();
        let is_unmatched = |one: &&Arc<Indicator>| one.used != Use::Matched || one.not_now(now).is_some();
        let unmatched = indicators.iter().filter(is_unmatched).count();
        note(indicators.is_empty(), "no indicators are loaded, so nothing known from outside is looked for".to_owned());
        note(unmatched > 0, format!("{unmatched} indicators cannot be matched here, or are not used"));
        note(settings.canaries.is_empty(), "no names of secrets are laid out as bait".to_owned());
        note(settings.working_hours.is_none(), "working hours are not set, so no act is out of them".to_owned());
        for kind in LossKind::ALL.into_iter().filter(|kind| settings.data_loss.detectors.of(*kind) == LossAction::Off) {
            let what = format!("`{}` is off: it is not looked for in what plugins send out and log", kind.as_str());
            note(*scope != Scope::Host, what);
        }
        note(settings.automatic.is_empty(), "no rule may answer by itself".to_owned());
        note(*scope != Scope::Host, "what happens to the host as a whole is in its own log".to_owned());
        spots
    }
}

// === impl Look ===

impl Look {
    fn worst_first(mut self) -> (Vec<Finding>, u64) {
        for finding in self.open.take_changed() {
            self.found.insert(finding.id.clone(), finding);
        }
        let mut findings: Vec<Finding> = self.found.into_values().collect();
        findings.sort_by(|a, b| (b.level, b.last_ms, &b.id).cmp(&(a.level, a.last_ms, &a.id)));
        let beyond = findings.len().saturating_sub(SHOWN_COUNT_MAX) as u64;
        findings.truncate(SHOWN_COUNT_MAX);
        (findings, beyond + self.counted)
    }
}

fn prefix() -> ringfence_store::Key {
    ringfence_store::Key::new(["threat-assessment"])
}
