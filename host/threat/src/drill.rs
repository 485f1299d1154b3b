//! Drills: synthetic attacks on the shipped rules, through the real log, the real reader and the real responses.
//!
//! Every event of a drill carries its label, and is about principals, plugins and addresses that do not exist (addresses of
//! documentation, names `drill-...`). A burst is counted where requests are, what is sent out where bytes and hits are, and bait
//! is asked for where the table of names is; the other attacks begin with their entries in the log. Must never count a miss as
//! nothing: a rule that found nothing in time is a miss, and times are told with their number. A response holds when what it
//! is against is refused where requests are admitted, not when it was decided. What a drill holds is let go at its end.

use std::time::Duration;

use jiff::Timestamp;
use ringfence_audit::{Event as AuditEvent, Log, Outcome, codes};
use ringfence_core::standing::{Attempt, CANARY_NAMES};
use ringfence_core::{Loss, LossKind, LossPlace, LossTaken, PluginName, PrincipalId};
use serde_json::{Value, json};

use crate::finding::Finding;
use crate::response::{Kind, Response, Scope};
use crate::sigma::Rule;
use crate::threat::Threat;
use crate::{ThreatError, shipped};

/// Longest wait for a rule to find its attack.
const WINDOW: Duration = Duration::from_secs(10);
/// Time between two attempts at what a response is against: as exactly as its beginning is told.
const TRY_EVERY: Duration = Duration::from_millis(1);
/// Longest wait for an attempt to be refused, once the finding with its response is there.
const REFUSED_WITHIN: Duration = Duration::from_secs(2);
/// LIMIT: rounds of one drill.
pub const ROUNDS_COUNT_MAX: usize = 50;

/// An attack.
#[derive(Debug, Clone)]
pub enum Attack {
    /// Entries of the log.
    Entries(Vec<Made>),
    /// Requests of one principal, faster than its tenant's are.
    Burst,
    /// A plugin that sends out far more than it usually does.
    Volume,
    /// A plugin that sends out what looks like the number of a payment card.
    Loss,
    /// A plugin asks for a name that is bait.
    Bait,
}

/// One event of an attack.
#[derive(Debug, Clone)]
pub struct Made {
    /// From [`codes`].
    pub code: &'static str,
    /// The action's word.
    pub action: &'static str,
    /// On what, below the drill's own name; none for the drill's plugin.
    pub resource: Option<String>,
    /// Whether it comes from an address of its own.
    pub source: Option<u16>,
    /// With which code it failed; none where it went as its code says.
    pub failure: Option<&'static str>,
    /// The rest.
    pub details: Value,
}

/// What a drill of one rule came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drilled {
    /// The rule.
    pub rule: String,
    /// From the first event being durable to the finding, microseconds; none for a miss.
    pub detected_us: Option<u64>,
    /// From the finding to the first attempt that the response had refused, microseconds; none when none was.
    pub responded_us: Option<u64>,
    /// The response that was made.
    pub response: Option<String>,
}

/// What a drill came to.
#[derive(Debug, Clone)]
pub struct DrillReport {
    /// Its label.
    pub label: String,
    /// Each rule of each round.
    pub drilled: Vec<Drilled>,
    /// Rules without an attack that can be played: no drill moves the host's clock.
    pub not_played: Vec<String>,
}

fn made(code: &'static str, action: &'static str) -> Made {
    Made { code, action, resource: None, source: None, failure: None, details: json!({}) }
}

fn many(count: u16, one: impl Fn(u16) -> Made) -> Vec<Made> {
    (0..count).map(one).collect()
}

/// The attack that a shipped rule is there for, by the rule's own name; none for a rule that is not known here.
pub fn attack(rule: &str) -> Option<Attack> {
    match rule {
        "request-burst" => Some(Attack::Burst),
        "egress-volume" => Some(Attack::Volume),
        "dlp-hit" => Some(Attack::Loss),
        "canary" => Some(Attack::Bait),
        _ => entries(rule).map(Attack::Entries),
    }
}

fn entries(rule: &str) -> Option<Vec<Made>> {
    let with = |one: Made, details: Value| Made { details, ..one };
    let on = |one: Made, resource: String| Made { resource: Some(resource), ..one };
    let from = |one: Made, source: u16| Made { source: Some(source), ..one };
    let failing = |one: Made, code: &'static str| Made { failure: Some(code), ..one };
    Some(match rule {
        "brute-force" => many(5, |_| from(made(codes::SIGN_IN_REFUSED, "authenticate"), 1)),
        "account-guessed" => {
            many(10, |at| with(from(made(codes::SIGN_IN_REFUSED, "authenticate"), at + 2), json!({"known": true})))
        }
        "accounts-sprayed" => many(5, |at| {
            let refused = from(made(codes::SIGN_IN_REFUSED, "authenticate"), 1);
            on(with(refused, json!({"known": true})), format!("p{at}"))
        }),
        "password-spray" => many(10, |at| from(made(codes::SIGN_IN_REFUSED, "authenticate"), at + 2)),
        "token-theft" => vec![with(made(codes::TOKEN_REFUSED, "show-token"), json!({"wrong": "other-key"}))],
        "proofs-replayed" => many(3, |_| with(made(codes::TOKEN_REFUSED, "show-token"), json!({"wrong": "replayed"}))),
        "factor-refused" => many(3, |_| failing(made(codes::STEPPED_UP, "step-up"), "sign-in-refused")),
        "self-grant" => vec![failing(made(codes::APPROVAL_GIVEN, "approve-change"), "own-request")],
        "upload-refused" => many(3, |_| failing(made(codes::VERSION_PUSHED, "push-version"), "version-exists")),
        "uploads-refused" => {
            many(3, |at| on(failing(made(codes::VERSION_PUSHED, "push-version"), "not-a-component"), format!("p{at}")))
        }
        "isolation-violation" => vec![made(codes::TENANT_ISOLATION, "read-plugin")],
        "tenant-probing" => many(5, |at| on(made(codes::TENANT_ISOLATION, "read-tenant"), format!("t{at}"))),
        "privilege-escalation" => many(3, |_| made(codes::ACTION_DENIED, "grant-capability")),
        "trap-burst" => many(5, |_| with(made(codes::INVOCATION_FAILED, "invoke"), json!({"code": "trap"}))),
        "resource-exhaustion" => {
            many(10, |_| with(made(codes::INVOCATION_FAILED, "invoke"), json!({"code": "budget-cpu"})))
        }
        "egress-denied" => {
            many(3, |_| with(made(codes::EGRESS_REFUSED, "invoke"), json!({"origin": "https://a.example"})))
        }
        "egress-scan" => many(5, |at| {
            with(made(codes::EGRESS_REFUSED, "invoke"), json!({"origin": format!("https://d{at}.example")}))
        }),
        "personal-data-refused" => many(3, |_| made(codes::PERSONAL_OPEN_REFUSED, "invoke")),
        "mass-open" => many(200, |_| made(codes::PERSONAL_OPENED, "invoke")),
        "mass-read" => {
            many(50, |at| with(made(codes::DATA_READ, "read-run"), json!({"view": "run", "of": format!("run-{at}")})))
        }
        "log-read" => {
            many(100, |at| with(made(codes::DATA_READ, "read-audit"), json!({"view": "entries", "from": at})))
        }
        "log-exported" => many(5, |_| made(codes::AUDIT_EXPORTED, "read-audit")),
        "mass-delete" => many(5, |at| on(made(codes::SECRET_DELETED, "write-secret"), format!("s{at}"))),
        "tenant-purge" => many(2, |at| on(made(codes::TENANT_DELETED, "delete-tenant"), format!("t{at}"))),
        "backup-deletion" => many(2, |at| on(made(codes::BACKUP_DELETED, "write-backup"), format!("b{at}"))),
        "key-destruction" => vec![made(codes::KEY_DESTROY_ASKED, "destroy-keys")],
        "recovery-key-taken" => vec![made(codes::RECOVERY_KEY_TAKEN, "take-recovery-key")],
        "policy-then-grant" => {
            vec![made(codes::POLICY_WRITTEN, "write-policy"), made(codes::CAPABILITY_GRANTED, "grant-capability")]
        }
        "door-and-key" => {
            vec![made(codes::TOKEN_CREATED, "create-token"), made(codes::SIGN_IN_CHANGED, "write-policy")]
        }
        "audit-gap" => many(3, |_| made(codes::OUTCOME_UNKNOWN, "outcome-unknown")),
        "entries-skipped" => vec![made(codes::ENTRIES_SKIPPED, "skip-entries")],
        "detection-weakened" => vec![made(codes::RULES_DELETED, "write-threat")],
        _ => return None,
    })
}

impl Threat {
    /// Plays the attacks of the shipped rules in an owner's log, `rounds` times over.
    pub async fn drill(&self, scope: &Scope, rounds: usize) -> Result<DrillReport, ThreatError> {
        let log = match scope {
            Scope::Host => Log::Host,
            Scope::Tenant(_) => Log::Tenant(self.store(scope)?),
        };
        let label = self.new_id("dr_");
        let mut report = DrillReport { label: label.clone(), drilled: Vec::new(), not_played: Vec::new() };
        for round in 0..rounds.clamp(1, ROUNDS_COUNT_MAX) {
            for rule in shipped::rules()? {
                let Some(attack) = attack(&rule.name) else {
                    report.not_played.push(rule.name);
                    continue;
                };
                // A label for each attack, so that one is not the window of another.
                let own = format!("{label}.{round}.{}", rule.name);
                self.set_drill(&own);
                let played = self.play(scope, &log, &own, &rule, attack).await;
                self.clear_drill(&own);
                report.drilled.push(played?);
            }
        }
        Ok(report)
    }

    async fn play(
        &self,
        scope: &Scope,
        log: &Log,
        label: &str,
        rule: &Rule,
        attack: Attack,
    ) -> Result<Drilled, ThreatError> {
        let mut alerts = self.alerts();
        let opened_at = self.inner.clock.now();
        let began = self.attack_with(scope, log, label, attack).await?;
        let found = tokio::time::timeout(WINDOW, async {
            loop {
                match alerts.recv().await {
                    // By its title: other rules of its text may hold at the same events.
                    Ok(finding) if finding.drill.as_deref() == Some(label) && finding.title == rule.title => {
                        return Some(finding);
                    }
                    Ok(_) | Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {}
                    Err(tokio::sync::broadcast::error::RecvError::Closed) => return None,
                }
            }
        });
        // From the start: the finding is told some time after its response holds.
        let refused = self.first_refused(label, opened_at);
        tokio::pin!(found, refused);
        let mut refused_at = None;
        let finding = loop {
            tokio::select! {
                finding = &mut found => break finding.ok().flatten(),
                at = &mut refused, if refused_at.is_none() => refused_at = Some(at),
            }
        };
        if refused_at.is_none() && finding.as_ref().is_some_and(|finding| finding.response.is_some()) {
            refused_at = tokio::time::timeout(REFUSED_WITHIN, &mut refused).await.ok();
        }
        let drilled = match finding {
            None => Drilled { rule: rule.name.clone(), detected_us: None, responded_us: None, response: None },
            Some(finding) => times(&rule.name, &finding, began, refused_at),
        };
        self.let_go(label).await;
        Ok(drilled)
    }

    /// Begins an attack; since when it can be found, by the steady clock.
    async fn attack_with(
        &self,
        scope: &Scope,
        log: &Log,
        label: &str,
        attack: Attack,
    ) -> Result<Duration, ThreatError> {
        let (name, mut began) = (name_of(label), None);
        let made = match attack {
            Attack::Entries(made) => made,
            Attack::Bait => self.bait(scope).into_iter().collect(),
            Attack::Burst => {
                if let Some(who) = principal(scope, &name) {
                    self.inner.standing.play_burst(&who, scope.tenant(), self.inner.clock.monotonic());
                }
                Vec::new()
            }
            Attack::Loss => {
                if let Ok(plugin) = name.parse() {
                    self.inner.standing.play_loss(loss(scope, plugin));
                }
                Vec::new()
            }
            Attack::Volume => {
                if let Ok(plugin) = name.parse() {
                    self.inner.standing.play_volume(scope.tenant(), &plugin, self.inner.clock.monotonic());
                }
                Vec::new()
            }
        };
        for made in made {
            let failure = made.failure;
            let Some(event) = event(scope, label, &name, made) else { continue };
            let audit = &self.inner.audit;
            match failure {
                None => audit.record(log, event).await?,
                Some(code) => audit.record_outcome(log, event, Outcome::Failure(code.to_owned())).await?,
            };
            began.get_or_insert(self.inner.clock.monotonic());
        }
        Ok(began.unwrap_or_else(|| self.inner.clock.monotonic()))
    }

    /// What is put on record when a plugin asks for bait: for a name that the owner laid out, or else one of the host's. None
    /// when the table in force does not take it for bait.
    fn bait(&self, scope: &Scope) -> Option<Made> {
        // The host has no plugins of its own: its drills ask as a tenant would that laid out nothing.
        let settings = scope.tenant().map(|_| self.settings(scope));
        let chosen = settings.and_then(|settings| settings.canaries.first().map(ToString::to_string));
        let name = chosen.or_else(|| CANARY_NAMES.first().map(ToString::to_string))?;
        let tenant = scope.tenant().cloned().or_else(|| "drill".parse().ok())?;
        let is_bait = self.inner.standing.is_canary(&tenant, &name);
        let made = made(codes::CANARY_TOUCHED, "invoke");
        is_bait.then(|| Made { details: json!({"kind": "secret", "name": name}), ..made })
    }

    /// The label of the drill under way that a principal belongs to.
    pub(crate) fn drill_of(&self, who: &PrincipalId) -> Option<String> {
        self.drill_named(who.as_str().rsplit_once('/')?.1)
    }

    /// The label of the drill under way whose principal and plugin have a name.
    pub(crate) fn drill_named(&self, name: &str) -> Option<String> {
        self.drills().into_iter().find(|label| name_of(label) == name)
    }

    /// Tries what the responses of a drill are against until it is refused; when that was, by the steady clock. Never comes
    /// back when nothing is held.
    async fn first_refused(&self, label: &str, opened_at: Timestamp) -> Duration {
        loop {
            if self.of_drill(label).iter().any(|response| self.is_refused(response, opened_at)) {
                return self.inner.clock.monotonic();
            }
            tokio::time::sleep(TRY_EVERY).await;
        }
    }

    fn is_refused(&self, response: &Response, opened_at: Timestamp) -> bool {
        let Some(attempt) = attempt(response, opened_at) else { return false };
        // A pace lets as many through as it says.
        let through = if response.kind == Kind::RateLimit { response.per_minute.unwrap_or(0) } else { 0 };
        let (now, steady) = (self.inner.clock.now(), self.inner.clock.monotonic());
        (0..=through).any(|_| self.inner.standing.refuses(attempt, now, steady))
    }

    /// Takes back whatever was held for a drill.
    async fn let_go(&self, label: &str) {
        let by = self.inner.audit.actor();
        for response in self.of_drill(label) {
            if let Err(error) = self.undo(&response.scope, &by, &response.id).await {
                tracing::warn!(response = %response.id, %error, "a drill's response is still held");
            }
        }
    }
}

/// The times of a finding, by the host's steady clock.
fn times(rule: &str, finding: &Finding, began: Duration, refused_at: Option<Duration>) -> Drilled {
    let us = |span: Duration| u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
    let detected = Duration::from_micros(finding.found_us);
    Drilled {
        rule: rule.to_owned(),
        detected_us: Some(us(detected.saturating_sub(began))),
        responded_us: refused_at.map(|at| us(at.saturating_sub(detected))),
        response: finding.response.clone(),
    }
}

/// What a response is against, as the planes would ask about it; none for what no request is refused by.
fn attempt(response: &Response, opened_at: Timestamp) -> Option<Attempt<'_>> {
    let target = &response.target;
    match response.kind {
        Kind::RateLimit | Kind::EndSessions | Kind::SuspendPrincipal => {
            Some(Attempt::InSession(target.principal.as_ref()?, opened_at))
        }
        Kind::BlockSource => Some(Attempt::Nameless(target.tenant.as_ref(), target.source?)),
        Kind::QuarantineVersion => Some(Attempt::Version(target.tenant.as_ref()?, target.digest.as_ref()?)),
        Kind::FreezeEgress => Some(Attempt::Egress(target.tenant.as_ref()?, target.plugin.as_ref()?)),
        Kind::ReadOnly | Kind::DisableKey | Kind::Alert => None,
    }
}

/// What the principal and the plugin of a drill are called.
fn name_of(label: &str) -> String {
    format!("drill-{}", label.chars().filter(char::is_ascii_alphanumeric).take(40).collect::<String>())
}

/// What a drill's plugin sends to nobody.
fn loss(scope: &Scope, plugin: PluginName) -> Loss {
    Loss {
        tenant: scope.tenant().cloned(),
        tenant_uid: None,
        plugin,
        invocation: None,
        kind: LossKind::Card,
        place: LossPlace::Body,
        host: Some("drill.example".to_owned()),
        taken: LossTaken::Sent,
        count: 1,
        others_count: 0,
    }
}

fn home(scope: &Scope) -> &str {
    scope.tenant().map_or("operator", ringfence_core::TenantId::as_str)
}

fn principal(scope: &Scope, name: &str) -> Option<PrincipalId> {
    format!("{}/{name}", home(scope)).parse().ok()
}

fn event(scope: &Scope, label: &str, name: &str, made: Made) -> Option<AuditEvent> {
    let (home, actor) = (home(scope), principal(scope, name)?);
    let resource = match made.resource {
        Some(resource) => format!("drill/{name}/{resource}"),
        None => format!("tenant/{home}/plugin/{name}"),
    };
    let mut event = AuditEvent::new(made.code, made.action, actor, resource);
    // 2001:db8::/32 is for documentation (RFC 3849): nobody is there.
    event.source_ip = made
        .source
        .map(|number| std::net::Ipv6Addr::new(0x2001, 0xdb8, hash(label), hash(name), 0, 0, 0, number).into());
    event.details = made.details;
    if let Some(details) = event.details.as_object_mut() {
        details.insert("drill".to_owned(), Value::String(label.to_owned()));
    }
    Some(event)
}

/// Sixteen bits of a label, so that drills do not share addresses.
fn hash(text: &str) -> u16 {
    text.bytes().fold(0_u16, |sum, byte| sum.rotate_left(5) ^ u16::from(byte).wrapping_mul(0x9e37))
}
