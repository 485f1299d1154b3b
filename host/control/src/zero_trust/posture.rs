//! `GET /zero-trust/security-posture`: how the caller's place stands now, line by line, from what the rooms know.
//!
//! Must never show a line whose value nobody asked a room for: what cannot be told is `unknown`, and no line stands for
//! another place. Which lines there are and when each passes is in docs/reference/security-posture.md.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use jiff::Timestamp;
use ringfence_audit::{Copied, Log};
use ringfence_core::TenantId;
use ringfence_core::proof::act;
use ringfence_identity::{AccessFigures, TrustSettings, UnboundTokens};
use ringfence_keys::Assurance;
use ringfence_store::TenantStore;
use ringfence_threat::Scope;

use crate::Control;
use crate::audit::checks::last_results;
use crate::call::Call;
use crate::host::word;
use crate::policies::text;
use crate::problem::ApiError;
use crate::wire::{PostureCounts, PostureLine, PostureState, Problem, SecurityPosture};

/// How long a finding counts as one of now, in seconds.
const FINDING_SECONDS: u64 = 24 * 3_600;

/// Says how the caller's tenant stands, or the host to operators: every line with its value, source and age.
#[utoipa::path(get, path = "/zero-trust/security-posture", tag = "zero-trust",
    responses((status = 200, body = SecurityPosture), (status = "default", body = Problem)))]
pub async fn read(State(control): State<Control>, call: Call) -> Result<Json<SecurityPosture>, ApiError> {
    let owner = control.owner::<act::ReadThreat>(&call).await?;
    let identity = &control.parts.identity;
    let mut lines = Lines { now: control.parts.clock.now(), all: Vec::new() };
    control.log_lines(&owner.log, &mut lines).await;
    let findings = control.finding_lines(&owner.scope, &mut lines).await;
    let scores = identity.scores_there(control.reach_own_list(&call).await?, call.principal.tenant())?;
    session_line(&scores, &mut lines);
    match (&owner.log, call.principal.tenant()) {
        (Log::Tenant(store), Some(tenant)) => {
            let trust = control.reach_tenant::<act::ReadPolicy>(&call, tenant.as_str()).await?.permit;
            let sign_in = control.reach_tenant::<act::ReadPolicy>(&call, tenant.as_str()).await?.permit;
            asked_line(&identity.trust_settings(trust, tenant)?, &mut lines);
            let sign_in = identity.sign_in_settings(sign_in, Some(tenant))?;
            unbound_line(sign_in.unbound_tokens, sign_in.changed_at, &mut lines);
            access_lines(&identity.survey(tenant), &mut lines);
            control.tenant_lines(tenant, store, &mut lines).await;
        }
        _ => {
            let (asked, _) = identity.operators_trust(control.reach_own_list(&call).await?).await?;
            asked_line(&asked.sessions, &mut lines);
            unbound_line(asked.unbound_tokens, asked.sessions.changed_at, &mut lines);
            access_lines(&identity.survey_operators(), &mut lines);
            control.host_lines(&mut lines);
        }
    }
    Ok(Json(SecurityPosture {
        place: call.principal.tenant().map_or("host", TenantId::as_str).to_owned(),
        as_of: lines.now.to_string(),
        counts: lines.counts(),
        checks: lines.all,
        findings,
        blind_spots: control.parts.threat.blind_spots_now(&owner.scope),
    }))
}

/// The lines so far.
struct Lines {
    now: Timestamp,
    all: Vec<PostureLine>,
}

impl Lines {
    fn add(&mut self, check: &str, state: PostureState, value: impl Into<String>, source: &str, age: Option<u64>) {
        let (check, source) = (check.to_owned(), source.to_owned());
        self.all.push(PostureLine { check, state, value: value.into(), source, age_seconds: age });
    }

    /// A line that is read as it is asked for.
    fn now(&mut self, check: &str, is_so: bool, value: impl Into<String>, source: &str) {
        let state = if is_so { PostureState::Pass } else { PostureState::Fail };
        self.add(check, state, value, source, Some(0));
    }

    fn unknown(&mut self, check: &str, why: &str, source: &str) {
        self.add(check, PostureState::Unknown, why, source, None);
    }

    fn age(&self, at: Timestamp) -> u64 {
        u64::try_from(self.now.as_second().saturating_sub(at.as_second())).unwrap_or(0)
    }

    fn counts(&self) -> PostureCounts {
        let of = |state| self.all.iter().filter(|line| line.state == state).count();
        PostureCounts {
            pass: of(PostureState::Pass),
            fail: of(PostureState::Fail),
            unknown: of(PostureState::Unknown),
            shown: of(PostureState::Shown),
        }
    }
}

fn session_line(scores: &[u8], lines: &mut Lines) {
    match scores.iter().min() {
        None => lines.unknown("lowest-session-score", "no session is open", "sessions"),
        Some(lowest) => {
            let value = format!("{lowest} of {} open sessions", scores.len());
            lines.add("lowest-session-score", PostureState::Shown, value, "sessions", Some(0));
        }
    }
}

fn asked_line(asked: &TrustSettings, lines: &mut Lines) {
    let TrustSettings { floor, invoke, read, change, administer, .. } = asked;
    let value = format!("floor {floor}, invoke {invoke}, read {read}, change {change}, administer {administer}");
    let is_asked = [floor, invoke, read, change, administer].into_iter().any(|least| *least > 0);
    let state = if is_asked { PostureState::Pass } else { PostureState::Fail };
    let age = asked.changed_at.map(|at| lines.age(at));
    lines.add("trust-thresholds", state, value, "trust settings", age);
}

fn unbound_line(unbound: UnboundTokens, changed_at: Option<Timestamp>, lines: &mut Lines) {
    let state = if unbound == UnboundTokens::Refused { PostureState::Pass } else { PostureState::Fail };
    let age = changed_at.map(|at| lines.age(at));
    lines.add("unbound-tokens", state, word(&unbound), "sign-in settings", age);
}

fn access_lines(figures: &AccessFigures, lines: &mut Lines) {
    let AccessFigures { people_count, people_with_password_alone_count: alone, keys_count, .. } = *figures;
    if people_count == 0 {
        lines.unknown("second-factors", "there are no people, so nobody has one", "people");
    } else {
        let value = format!("{alone} of {people_count} people have a password alone");
        lines.now("second-factors", alone == 0, value, "people");
    }
    let endless = figures.endless_keys_count;
    lines.now("keys-end", endless == 0, format!("{endless} of {keys_count} keys never end"), "API keys");
}

impl Control {
    async fn log_lines(&self, log: &Log, lines: &mut Lines) {
        let is_writable = self.parts.audit.can_record(log);
        lines.now("audit-writable", is_writable, if is_writable { "yes" } else { "no" }, "audit log");
        match self.parts.audit.anchored(log).await {
            Ok(anchored) if anchored.cover.is_none() => {
                lines.unknown("audit-anchored", "no head was committed to yet", "audit log");
            }
            Ok(anchored) => {
                let is_outside = anchored.proof.is_some() && anchored.level > ringfence_audit::anchor::Level::L1;
                lines.now("audit-anchored", is_outside, format!("{:?}", anchored.level), "audit log");
            }
            Err(_) => lines.unknown("audit-anchored", "it cannot be read now", "audit log"),
        }
        match self.parts.audit.copied(log).await {
            Ok(Copied::Nowhere) => {
                let value = "no second place is configured";
                lines.add("audit-entries-copied", PostureState::Shown, value, "audit log", Some(0));
            }
            Ok(copied) => {
                let is_complete = copied == Copied::Complete;
                lines.now("audit-entries-copied", is_complete, if is_complete { "yes" } else { "behind" }, "audit log");
            }
            Err(_) => lines.unknown("audit-entries-copied", "it cannot be read now", "audit log"),
        }
    }

    /// Adds what detection says, and counts what it found and keeps, by level, without drills.
    async fn finding_lines(&self, scope: &Scope, lines: &mut Lines) -> BTreeMap<String, u64> {
        let health = self.parts.threat.health();
        let (is_current, behind) = (health.keeps_up(), health.backlog_age_ms);
        lines.now("detection-current", is_current, format!("{behind} ms behind"), "detection");
        let mut by_level: BTreeMap<String, u64> = BTreeMap::new();
        let Ok(found) = self.parts.threat.findings(scope).await else {
            lines.unknown("recent-findings", "they cannot be read now", "findings");
            return by_level;
        };
        let mut recent = Vec::new();
        for finding in found.into_iter().filter(|finding| finding.drill.is_none()) {
            let level = word(&finding.level);
            let age = Timestamp::from_millisecond(finding.found_ms).map_or(u64::MAX, |at| lines.age(at));
            if age < FINDING_SECONDS && matches!(level.as_str(), "high" | "critical") {
                recent.push(age);
            }
            *by_level.entry(level).or_default() += 1;
        }
        let value = format!("{} high or critical within a day", recent.len());
        match (recent.iter().min(), is_current) {
            (Some(newest), _) => lines.add("recent-findings", PostureState::Fail, value, "findings", Some(*newest)),
            (None, true) => lines.now("recent-findings", true, value, "findings"),
            // Nothing was found, and nobody looked.
            (None, false) => lines.unknown("recent-findings", "detection is behind", "findings"),
        }
        by_level
    }

    async fn tenant_lines(&self, tenant: &TenantId, store: &TenantStore, lines: &mut Lines) {
        match text::stored(store).await {
            Ok(stored) => {
                let version = stored.map_or(0, |stored| stored.version);
                lines.add("policy-version", PostureState::Shown, version.to_string(), "policy", Some(0));
            }
            Err(_) => lines.unknown("policy-version", "it cannot be read now", "policy"),
        }
        self.backup_lines(store, lines).await;
        match last_results(store).await {
            Ok(results) => {
                for (check, last) in results {
                    let name = format!("check:{check}");
                    let Some(last) = last else {
                        lines.unknown(&name, "it was never run", "checks");
                        continue;
                    };
                    let state = match last.state.as_str() {
                        "pass" => PostureState::Pass,
                        "fail" => PostureState::Fail,
                        _ => PostureState::Unknown,
                    };
                    let age = last.at.parse::<Timestamp>().ok().map(|at| lines.age(at));
                    lines.add(&name, state, if last.why.is_empty() { last.state } else { last.why }, "checks", age);
                }
            }
            Err(_) => lines.unknown("checks", "they cannot be read now", "checks"),
        }
        let standing = self.parts.threat.standing().is_read_only(tenant, lines.now);
        let value = if standing { "read-only, in answer to a threat" } else { "not held" };
        lines.add("held", PostureState::Shown, value, "responses", Some(0));
    }

    async fn backup_lines(&self, store: &TenantStore, lines: &mut Lines) {
        let Ok(backups) = self.parts.archives.list(store).await else {
            lines.unknown("newest-backup", "they cannot be read now", "backups");
            return;
        };
        let every = self.parts.backup_plan.every.map(|every| every.as_secs());
        match backups.iter().max_by_key(|backup| backup.created_at) {
            None => lines.now("newest-backup", false, "there is none", "backups"),
            Some(newest) => {
                let (at, damaged, lost) = (newest.created_at, newest.damaged_count, newest.lost_count);
                let age = lines.age(at);
                // Without a schedule nobody said how old the newest may be.
                let state = match every {
                    _ if damaged > 0 => PostureState::Fail,
                    Some(every) if age <= every.saturating_mul(2) => PostureState::Pass,
                    Some(_) => PostureState::Fail,
                    None => PostureState::Shown,
                };
                let value = match damaged {
                    0 => at.to_string(),
                    _ => format!(
                        "{at}; {damaged} records or blobs of the tenant are damaged, and {lost} of them not in it"
                    ),
                };
                lines.add("newest-backup", state, value, "backups", Some(age));
            }
        }
        let drills = backups.iter().filter_map(|backup| backup.drill.as_ref().map(|drill| drill.at));
        let failed = backups.iter().filter(|backup| backup.drill_failed.is_some()).count();
        // Beside a backup that does not restore, those that did are no comfort.
        let (state, value) = match (failed, drills.clone().count()) {
            (0, drilled) => {
                let state = if drilled > 0 { PostureState::Pass } else { PostureState::Fail };
                (state, format!("{drilled} of {} backups were restored to try them", backups.len()))
            }
            _ => (PostureState::Fail, format!("the last drill of {failed} of {} backups failed", backups.len())),
        };
        let age = drills.max().map_or(0, |at| lines.age(at));
        lines.add("backups-drilled", state, value, "backups", Some(age));
    }

    fn host_lines(&self, lines: &mut Lines) {
        let facts = &self.parts.facts;
        let state = match facts.root_key_assurance {
            Assurance::Development => PostureState::Fail,
            Assurance::Service | Assurance::Hardware => PostureState::Pass,
        };
        lines.add("root-key", state, facts.root_key.clone(), "root key provider", None);
        match (facts.certificate.until(), facts.certificate.failures_count()) {
            (None, 0) => lines.unknown("certificate", "the listeners have none of their own", "listeners"),
            (until, failures) => {
                let is_good = failures == 0 && until.is_some_and(|until| until > lines.now);
                let until = until.map_or_else(|| "none".to_owned(), |until| format!("until {until}"));
                lines.now("certificate", is_good, format!("{until}, {failures} tries failed since"), "listeners");
            }
        }
        if self.parts.backup_plan.every.is_some() {
            let failing = self.backup_health.failing_count();
            lines.now("backups", failing == 0, format!("{failing} tenants' last backup failed"), "backups");
        } else {
            lines.now("backups", false, "none are made by themselves", "backups");
        }
        let prover = if facts.cvc5.is_some() { "a solver is installed" } else { "no solver is installed" };
        lines.now("border-can-be-proved", facts.cvc5.is_some(), prover, "policy");
    }
}
