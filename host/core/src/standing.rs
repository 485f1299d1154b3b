//! Standing: what is held against a source, a principal, a version or a tenant now. Read at admission on both planes, and again
//! by answers that stay open.
//!
//! Pure but for a pointer that is swapped: who answers threats publishes a table, and every request asks it. Must never
//! wait, and never hold anything longer than it says: each hold has its end, which is looked at on every question.
//! A blocked source holds back only who has not signed in: an address that many share locks nobody out who works there.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use jiff::Timestamp;

use crate::loss::Losses;
use crate::volume::{Volume, Volumes};
use crate::{Digest, Loss, LossActions, LossRules, PluginName, Principal, PrincipalId, Source, TenantId};

/// LIMIT: callers whose pace is measured at once; when there are more, the quietest are forgotten.
const PACES_COUNT_MAX: usize = 16_384;
/// LIMIT: bursts that wait to be recorded; further ones are not told.
const BURSTS_COUNT_MAX: usize = 256;
/// The window of a pace.
const PACE_WINDOW: Duration = Duration::from_secs(60);
/// How many times its tenant's usual pace a caller must reach before it is called a burst.
const USUAL_FACTOR: u32 = 4;
/// How many windows what is usual is the mean of: of quiet ones, and, so that a burst that goes on is told for long before it is
/// usual, of those that were bursts.
const QUIET_WINDOWS: u64 = 8;
const BURST_WINDOWS: u64 = 64;
/// Requests a minute below which nothing is a burst.
pub const BURST_COUNT_MIN: u32 = 100;
/// Names that no plugin needs and that those try who look for credentials: asking for one that was not granted or is not
/// there says something.
pub const CANARY_NAMES: [&str; 6] =
    ["admin-credentials", "root-password", "aws-secret-access-key", "private-key.pem", "id_rsa", ".env"];

/// Until when something is held, and by which response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// The response's id.
    pub id: String,
    /// When it ends.
    pub until: Timestamp,
}

/// A pace that a principal is held to.
#[derive(Debug)]
pub struct Pace {
    /// Until when.
    pub hold: Hold,
    /// Requests a minute.
    pub per_minute: u32,
    /// Tokens left, in thousandths, and when they were counted.
    bucket: Mutex<(u64, Duration)>,
}

/// Everything that is held now.
#[derive(Debug, Default)]
pub struct Table {
    /// Sources whose requests without a session are refused, by whose decision: a tenant's, or the host's for all.
    pub sources: HashMap<(Option<TenantId>, Source), Hold>,
    /// Principals that may do nothing.
    pub suspended: HashMap<PrincipalId, Hold>,
    /// Principals whose sessions of before are over.
    pub ended: HashMap<PrincipalId, (Timestamp, Hold)>,
    /// Principals held to a pace.
    pub paces: HashMap<PrincipalId, Arc<Pace>>,
    /// Versions that are not run, by the digest of the component: for one tenant, or for all.
    pub quarantined: HashMap<(Option<TenantId>, Digest), Hold>,
    /// Plugins that send nothing out; with no name all of the tenant's.
    pub frozen: HashMap<(TenantId, Option<PluginName>), Hold>,
    /// Tenants in which nothing is changed.
    pub read_only: HashMap<TenantId, Hold>,
    /// Names that tenants themselves chose as canaries.
    pub canaries: HashMap<TenantId, Arc<BTreeSet<String>>>,
    /// What is done about personal data on its way out, where a tenant chose; else what is usual.
    pub losses: HashMap<TenantId, Arc<LossRules>>,
}

/// Why a request is held back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    /// Requests without a session are not taken from this source.
    SourceBlocked,
    /// The session is over.
    SessionEnded,
    /// The principal is suspended.
    Suspended,
    /// The principal has used up its pace.
    Paced {
        /// When to try again.
        retry_after_ms: u64,
    },
    /// The version is under quarantine.
    Quarantined,
}

/// Something that is tried while something may be held, to see whether it is.
#[derive(Debug, Clone, Copy)]
pub enum Attempt<'a> {
    /// A request of a principal, in a session that was opened then.
    InSession(&'a PrincipalId, Timestamp),
    /// A request without a session, from a source to a tenant; to none to sign in.
    Nameless(Option<&'a TenantId>, IpAddr),
    /// A call of a version.
    Version(&'a TenantId, &'a Digest),
    /// A request that a plugin sends out.
    Egress(&'a TenantId, &'a PluginName),
}

/// A caller that is faster than callers of its tenant are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Burst {
    /// Who.
    pub principal: PrincipalId,
    /// Whose tenant; none for operators.
    pub tenant: Option<TenantId>,
    /// Requests in the minute so far.
    pub count: u32,
    /// What is usual in the tenant, a minute; none while that is not known.
    pub usual: Option<u32>,
}

/// The table in force, the paces of callers, how much plugins send out, and what was found in it.
#[derive(Debug, Default)]
pub struct Standing {
    table: ArcSwap<Table>,
    seen: Mutex<Seen>,
    sent: Mutex<Volumes>,
    lost: Mutex<Losses>,
}

#[derive(Debug, Default)]
struct Seen {
    callers: HashMap<PrincipalId, Counted>,
    /// The usual pace of a tenant's callers, a minute, as a running mean.
    usual: HashMap<Option<TenantId>, u32>,
    bursts: Vec<Burst>,
}

#[derive(Debug, Clone, Copy)]
struct Counted {
    since: Duration,
    count: u32,
    told: bool,
    /// Whether any request of the window was held back: such a window says nothing of what is usual.
    is_held: bool,
}

// === impl Pace ===

impl Pace {
    /// A pace with a minute's worth of requests at hand.
    pub fn new(hold: Hold, per_minute: u32) -> Self {
        Self { hold, per_minute, bucket: Mutex::new((u64::from(per_minute) * 1_000, Duration::ZERO)) }
    }

    fn take(&self, now: Duration) -> Result<(), u64> {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let full = u64::from(self.per_minute) * 1_000;
        let passed_ms = u64::try_from(now.saturating_sub(bucket.1).as_millis()).unwrap_or(u64::MAX);
        let grown = passed_ms.saturating_mul(u64::from(self.per_minute)) / 60;
        *bucket = (bucket.0.saturating_add(grown).min(full), now);
        match bucket.0.checked_sub(1_000) {
            Some(left) => {
                bucket.0 = left;
                Ok(())
            }
            None => Err((1_000 - bucket.0).saturating_mul(60) / u64::from(self.per_minute.max(1)) + 1),
        }
    }
}

// === impl Standing ===

impl Standing {
    /// Puts a table into force: the next question is answered from it. Paces that go on keep what was used of them.
    pub fn publish(&self, mut table: Table) {
        let before = self.table.load();
        for (principal, pace) in &mut table.paces {
            if let Some(known) = before.paces.get(principal)
                && known.hold == pace.hold
            {
                *pace = Arc::clone(known);
            }
        }
        self.table.store(Arc::new(table));
    }

    /// Whether a request may go on, by who sends it and from where. Counts it.
    pub fn admit(
        &self,
        principal: &Principal,
        tenant: Option<&TenantId>,
        source: Option<IpAddr>,
        now: Timestamp,
        monotonic: Duration,
    ) -> Result<(), Held> {
        let table = self.table.load();
        if principal.session().is_none() {
            return match source {
                Some(source) if blocked(&table, tenant, source, now) => Err(Held::SourceBlocked),
                _ => Ok(()),
            };
        }
        let answer = in_session(&table, principal.id(), principal.authenticated_at(), (now, monotonic));
        self.count(principal.id(), principal.tenant(), monotonic, answer.is_err());
        answer
    }

    /// Whether an attempt would be refused, by the table and the checks that requests are admitted by. It draws on a pace as
    /// a request does; nobody is counted.
    pub fn refuses(&self, attempt: Attempt<'_>, now: Timestamp, monotonic: Duration) -> bool {
        match attempt {
            Attempt::InSession(principal, since) => {
                in_session(&self.table.load(), principal, since, (now, monotonic)).is_err()
            }
            Attempt::Nameless(tenant, source) => blocked(&self.table.load(), tenant, source, now),
            Attempt::Version(tenant, digest) => self.admit_version(tenant, digest, now).is_err(),
            Attempt::Egress(tenant, plugin) => self.is_frozen(tenant, plugin, now),
        }
    }

    /// Whether what was begun for a principal may go on: nothing is counted, and no pace is asked.
    pub fn may_go_on(&self, principal: &Principal, now: Timestamp) -> Result<(), Held> {
        stands(&self.table.load(), principal.id(), principal.authenticated_at(), now)
    }

    /// Whether somebody may try to sign in from this source at all: the host's own blocks, which are said to whoever asks.
    pub fn admit_sign_in(&self, source: IpAddr, now: Timestamp) -> Result<(), Held> {
        if blocked(&self.table.load(), None, source, now) { Err(Held::SourceBlocked) } else { Ok(()) }
    }

    /// Whether a tenant takes no sign-in from this source. Not to be said: that somebody is of that tenant is its own.
    pub fn bars_sign_in(&self, tenant: &TenantId, source: IpAddr, now: Timestamp) -> bool {
        blocked(&self.table.load(), Some(tenant), source, now)
    }

    /// Whether a version may run.
    pub fn admit_version(&self, tenant: &TenantId, digest: &Digest, now: Timestamp) -> Result<(), Held> {
        let table = self.table.load();
        if table.quarantined.is_empty() {
            return Ok(());
        }
        let held =
            |whose: Option<TenantId>| table.quarantined.get(&(whose, *digest)).is_some_and(|hold| now < hold.until);
        if held(None) || held(Some(tenant.clone())) { Err(Held::Quarantined) } else { Ok(()) }
    }

    /// Whether a plugin sends nothing out now.
    pub fn is_frozen(&self, tenant: &TenantId, plugin: &PluginName, now: Timestamp) -> bool {
        let table = self.table.load();
        let held = |plugin: Option<PluginName>| {
            table.frozen.get(&(tenant.clone(), plugin)).is_some_and(|hold| now < hold.until)
        };
        !table.frozen.is_empty() && (held(None) || held(Some(plugin.clone())))
    }

    /// Whether nothing of a tenant is changed now.
    pub fn is_read_only(&self, tenant: &TenantId, now: Timestamp) -> bool {
        self.table.load().read_only.get(tenant).is_some_and(|hold| now < hold.until)
    }

    /// Whether asking for this name says something although it was not granted or is not there.
    pub fn is_canary(&self, tenant: &TenantId, name: &str) -> bool {
        CANARY_NAMES.contains(&name) || self.is_chosen_canary(tenant, name)
    }

    /// Whether the tenant itself chose this name, so that asking for it says something in any case.
    pub fn is_chosen_canary(&self, tenant: &TenantId, name: &str) -> bool {
        self.table.load().canaries.get(tenant).is_some_and(|names| names.contains(name))
    }

    /// The bursts since the last call.
    pub fn take_bursts(&self) -> Vec<Burst> {
        std::mem::take(&mut self.seen().bursts)
    }

    /// Counts as many requests of a principal that nobody is as make a burst in its tenant now; for drills. Nobody else's pace,
    /// nor what is usual, is touched by it.
    pub fn play_burst(&self, principal: &PrincipalId, tenant: Option<&TenantId>, now: Duration) {
        let usual = self.seen().usual.get(&tenant.cloned()).copied();
        for _ in 0..=border(usual) {
            self.count(principal, tenant, now, true);
        }
    }

    /// Counts bytes that a plugin sends out of the host. Its tenant comes by name and by unique id.
    pub fn sent(&self, (tenant, uid): (&TenantId, &str), plugin: &PluginName, bytes: u64, now: Duration) {
        self.volumes().count((Some(tenant.clone()), Some(uid.to_owned()), plugin.clone()), bytes, now);
    }

    /// The plugins that sent far more than they usually do, since the last call.
    pub fn take_volumes(&self) -> Vec<Volume> {
        self.volumes().take()
    }

    /// Counts as much for a plugin that nobody has as is told of any; for drills. Nothing that is usual is touched by it.
    pub fn play_volume(&self, tenant: Option<&TenantId>, plugin: &PluginName, now: Duration) {
        self.volumes().play((tenant.cloned(), None, plugin.clone()), now);
    }

    /// Lets go of how fast the callers of a deleted tenant were: another may have its name.
    pub fn forget(&self, tenant: &TenantId) {
        let mut seen = self.seen();
        let is_of = |who: &PrincipalId| who.as_str().split_once('/').is_some_and(|(home, _)| home == tenant.as_str());
        seen.usual.remove(&Some(tenant.clone()));
        seen.callers.retain(|who, _| !is_of(who));
        seen.bursts.retain(|burst| burst.tenant.as_ref() != Some(tenant));
    }

    /// What is done about personal data that a plugin of the tenant sends to a host; without one, that it logs.
    pub fn loss_actions(&self, tenant: &TenantId, host: Option<&str>) -> LossActions {
        let table = self.table.load();
        let Some(rules) = table.losses.get(tenant) else { return LossActions::default() };
        host.map_or(rules.detectors, |host| rules.toward(host))
    }

    /// Counts what was found on its way out.
    pub fn lost(&self, loss: Loss) {
        self.losses().count(loss);
    }

    /// What was found and is to be told now; all of it without a time.
    pub fn take_losses(&self, now: Option<Duration>) -> Vec<Loss> {
        self.losses().take(now)
    }

    /// Has a loss told that nobody had; for drills.
    pub fn play_loss(&self, loss: Loss) {
        self.losses().play(loss);
    }

    fn count(&self, principal: &PrincipalId, tenant: Option<&TenantId>, now: Duration, is_held: bool) {
        let mut seen = self.seen();
        let seen = &mut *seen;
        let tenant = tenant.cloned();
        if seen.callers.len() >= PACES_COUNT_MAX && !seen.callers.contains_key(principal) {
            seen.callers.retain(|_, counted| counted.count > 1 && now.saturating_sub(counted.since) < PACE_WINDOW);
            if seen.callers.len() >= PACES_COUNT_MAX {
                return;
            }
        }
        let fresh = Counted { since: now, count: 0, told: false, is_held: false };
        let counted = seen.callers.entry(principal.clone()).or_insert(fresh);
        if now.saturating_sub(counted.since) >= PACE_WINDOW {
            if !counted.is_held {
                let usual = learned(seen.usual.get(&tenant).copied(), counted);
                seen.usual.insert(tenant.clone(), usual);
            }
            *counted = fresh;
        }
        counted.count = counted.count.saturating_add(1);
        counted.is_held |= is_held;
        let usual = seen.usual.get(&tenant).copied();
        if counted.count > border(usual) && !counted.told && seen.bursts.len() < BURSTS_COUNT_MAX {
            counted.told = true;
            seen.bursts.push(Burst { principal: principal.clone(), tenant, count: counted.count, usual });
        }
    }

    fn volumes(&self) -> std::sync::MutexGuard<'_, Volumes> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn losses(&self) -> std::sync::MutexGuard<'_, Losses> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many requests of one caller in a minute are no burst yet.
fn border(usual: Option<u32>) -> u32 {
    usual.map_or(BURST_COUNT_MIN, |usual| BURST_COUNT_MIN.max(usual.saturating_mul(USUAL_FACTOR)))
}

/// What is usual after a window. A burst counts for as much as is no burst yet, and for little of that: or one minute of a
/// flood would make the next of it usual, and hide every other caller of the tenant.
fn learned(usual: Option<u32>, window: &Counted) -> u32 {
    let border = border(usual);
    if !window.told && window.count <= border {
        return usual.map_or(window.count, |usual| mean(usual, window.count, QUIET_WINDOWS));
    }
    mean(usual.unwrap_or(BURST_COUNT_MIN / USUAL_FACTOR), window.count.min(border), BURST_WINDOWS)
}

/// A running mean over so many windows, with the next.
fn mean(usual: u32, next: u32, windows: u64) -> u32 {
    let sum = u64::from(usual) * (windows - 1) + u64::from(next);
    u32::try_from(sum / windows).unwrap_or(u32::MAX)
}

fn in_session(
    table: &Table,
    id: &PrincipalId,
    since: Timestamp,
    (now, monotonic): (Timestamp, Duration),
) -> Result<(), Held> {
    stands(table, id, since, now)?;
    match table.paces.get(id).filter(|pace| now < pace.hold.until) {
        Some(pace) => pace.take(monotonic).map_err(|retry_after_ms| Held::Paced { retry_after_ms }),
        None => Ok(()),
    }
}

fn stands(table: &Table, id: &PrincipalId, since: Timestamp, now: Timestamp) -> Result<(), Held> {
    if table.suspended.get(id).is_some_and(|hold| now < hold.until) {
        return Err(Held::Suspended);
    }
    match table.ended.get(id) {
        Some((before, hold)) if now < hold.until && since <= *before => Err(Held::SessionEnded),
        _ => Ok(()),
    }
}

fn blocked(table: &Table, tenant: Option<&TenantId>, source: IpAddr, now: Timestamp) -> bool {
    let source = Source::of(source);
    let held = |whose: Option<TenantId>| table.sources.get(&(whose, source)).is_some_and(|hold| now < hold.until);
    !table.sources.is_empty() && (held(None) || tenant.is_some_and(|tenant| held(Some(tenant.clone()))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PrincipalKind, Role, SessionId, Strength};

    struct Zero;
    impl crate::Entropy for Zero {
        fn fill(&self, into: &mut [u8]) {
            into.fill(0);
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[expect(clippy::disallowed_methods, reason = "a test needs somebody")]
    fn principal(name: &str, signed_in: bool) -> Principal {
        let session = signed_in.then(|| SessionId::random(&Zero));
        let tenant = Some("acme".parse().unwrap());
        Principal::mint(
            name.parse().unwrap(),
            PrincipalKind::Service,
            Some(Role::Caller),
            tenant,
            Strength::Secret,
            session,
            at(100),
        )
    }

    fn digest(number: u8) -> Digest {
        format!("sha256:{}", format!("{number:02x}").repeat(32)).parse().unwrap()
    }

    fn hold(until: i64) -> Hold {
        Hold { id: "r".to_owned(), until: at(until) }
    }

    fn ask(standing: &Standing, who: &Principal, now: i64) -> Result<(), Held> {
        let now_s = u64::try_from(now).unwrap();
        standing.admit(who, who.tenant(), "10.0.0.1".parse().ok(), at(now), Duration::from_secs(now_s))
    }

    #[test]
    fn a_burst_that_is_played_is_told_as_any_and_changes_nothing_that_is_usual() {
        let standing = Standing::default();
        let (who, tenant) = ("acme/drill-1".parse().unwrap(), "acme".parse().unwrap());
        standing.play_burst(&who, Some(&tenant), Duration::from_secs(10));
        let bursts = standing.take_bursts();
        assert_eq!((bursts.len(), &bursts[0].principal, bursts[0].usual), (1, &who, None));
        assert_eq!(bursts[0].count, BURST_COUNT_MIN + 1);
        standing.play_burst(&"acme/drill-2".parse().unwrap(), Some(&tenant), Duration::from_secs(90));
        assert_eq!(standing.take_bursts()[0].usual, None);
    }

    #[test]
    fn what_was_usual_in_a_tenant_that_is_gone_is_not_in_a_namesake() {
        let standing = Standing::default();
        let who = principal("acme/a", true);
        // A burst, which nobody was told of yet; with the next window something is usual.
        (0..=BURST_COUNT_MIN).for_each(|_| ask(&standing, &who, 1_000).unwrap());
        ask(&standing, &who, 1_061).unwrap();
        let (usual_count, bursts_count) = {
            let seen = standing.seen();
            (seen.usual.len(), seen.bursts.len())
        };
        assert_eq!((usual_count, bursts_count), (1, 1));
        standing.forget(who.tenant().unwrap());
        assert!(standing.take_bursts().is_empty(), "nor is the namesake told of it");
        let seen = standing.seen();
        assert!(seen.usual.is_empty() && seen.callers.is_empty());
    }

    #[test]
    fn a_hold_ends_by_itself_and_touches_nobody_else() {
        let standing = Standing::default();
        let table = Table { suspended: [("acme/a".parse().unwrap(), hold(200))].into(), ..Table::default() };
        standing.publish(table);
        assert_eq!(ask(&standing, &principal("acme/a", true), 150), Err(Held::Suspended));
        assert_eq!(ask(&standing, &principal("acme/b", true), 150), Ok(()));
        assert_eq!(ask(&standing, &principal("acme/a", true), 200), Ok(()));
    }

    #[test]
    fn sessions_of_before_are_over_and_a_new_one_is_not() {
        let standing = Standing::default();
        let ended = |before| [("acme/a".parse().unwrap(), (at(before), hold(500)))].into();
        standing.publish(Table { ended: ended(100), ..Table::default() });
        assert_eq!(ask(&standing, &principal("acme/a", true), 150), Err(Held::SessionEnded));
        standing.publish(Table { ended: ended(99), ..Table::default() });
        assert_eq!(ask(&standing, &principal("acme/a", true), 150), Ok(()));
    }

    #[test]
    fn a_blocked_source_holds_back_only_who_has_not_signed_in() {
        let standing = Standing::default();
        let key = (Some("acme".parse().unwrap()), Source::of("10.0.0.1".parse().unwrap()));
        standing.publish(Table { sources: [(key, hold(200))].into(), ..Table::default() });
        assert_eq!(ask(&standing, &principal("anonymous", false), 150), Err(Held::SourceBlocked));
        assert_eq!(ask(&standing, &principal("acme/a", true), 150), Ok(()));
        assert_eq!(
            standing.admit_sign_in("10.0.0.1".parse().unwrap(), at(150)),
            Ok(()),
            "a tenant blocks for itself only"
        );
        let bars = |tenant: &str, source: &str, now| {
            standing.bars_sign_in(&tenant.parse().unwrap(), source.parse().unwrap(), at(now))
        };
        assert!(bars("acme", "10.0.0.1", 150) && bars("acme", "::ffff:10.0.0.1", 150));
        assert!(!bars("globex", "10.0.0.1", 150) && !bars("acme", "10.0.0.2", 150) && !bars("acme", "10.0.0.1", 200));
    }

    #[test]
    fn a_pace_lets_as_many_through_as_it_says_and_survives_another_table() {
        let standing = Standing::default();
        let table = || Table {
            paces: [("acme/a".parse().unwrap(), Arc::new(Pace::new(hold(900), 60)))].into(),
            ..Table::default()
        };
        standing.publish(table());
        let who = principal("acme/a", true);
        let through = (0..100).filter(|_| ask(&standing, &who, 150).is_ok()).count();
        assert_eq!(through, 60);
        standing.publish(table());
        assert!(matches!(ask(&standing, &who, 150), Err(Held::Paced { retry_after_ms: 1..=1_001 })));
        assert_eq!(ask(&standing, &who, 152), Ok(()));
    }

    #[test]
    fn an_attempt_is_refused_as_long_as_a_request_is_and_no_longer() {
        let (standing, acme) = (Standing::default(), "acme".parse().unwrap());
        let (ann, bob): (PrincipalId, PrincipalId) = ("acme/a".parse().unwrap(), "acme/b".parse().unwrap());
        let (source, visits) = ("10.0.0.1".parse::<IpAddr>().unwrap(), "visits".parse().unwrap());
        standing.publish(Table {
            suspended: [(ann.clone(), hold(200))].into(),
            paces: [(bob.clone(), Arc::new(Pace::new(hold(200), 3)))].into(),
            sources: [((Some("acme".parse().unwrap()), Source::of(source)), hold(200))].into(),
            frozen: [(("acme".parse().unwrap(), None), hold(200))].into(),
            ..Table::default()
        });
        let version = digest(1);
        let refused = |attempt, now| standing.refuses(attempt, at(now), Duration::from_secs(150));
        for now in [150, 200] {
            assert_eq!(refused(Attempt::InSession(&ann, at(100)), now), now < 200);
            assert_eq!(refused(Attempt::Nameless(Some(&acme), source), now), now < 200);
            assert_eq!(refused(Attempt::Egress(&acme, &visits), now), now < 200);
            assert!(!refused(Attempt::Nameless(None, source), now), "a tenant blocks for itself only");
            assert!(!refused(Attempt::Version(&acme, &version), now));
        }
        let through = (0..10).filter(|_| !refused(Attempt::InSession(&bob, at(100)), 150)).count();
        assert_eq!(through, 3, "a pace refuses only who has used it up");
    }

    #[test]
    fn a_version_is_held_for_one_tenant_or_for_all() {
        let (standing, acme, other) = (Standing::default(), "acme".parse().unwrap(), "globex".parse().unwrap());
        standing.publish(Table {
            quarantined: [((Some("acme".parse().unwrap()), digest(1)), hold(200)), ((None, digest(2)), hold(200))]
                .into(),
            ..Table::default()
        });
        assert_eq!(standing.admit_version(&acme, &digest(1), at(100)), Err(Held::Quarantined));
        assert_eq!(standing.admit_version(&other, &digest(1), at(100)), Ok(()));
        assert_eq!(standing.admit_version(&other, &digest(2), at(100)), Err(Held::Quarantined));
        assert_eq!(standing.admit_version(&other, &digest(2), at(200)), Ok(()));
    }

    #[test]
    fn a_burst_is_told_once_a_minute_and_not_where_it_is_usual() {
        let standing = Standing::default();
        let (who, minute) = (principal("acme/a", true), |number: i64| number * 61);
        let told = |count: u32, number: i64| {
            (0..count).for_each(|_| drop(ask(&standing, &who, minute(number))));
            standing.take_bursts()
        };
        let bursts = told(300, 0);
        assert_eq!((bursts.len(), bursts[0].count, bursts[0].usual), (1, 101, None));
        // It takes more than a few minutes of it, and less than an hour, until 300 is what is usual.
        let is_told: Vec<bool> = (1..=60).map(|number| !told(300, number).is_empty()).collect();
        assert!(is_told[..10].iter().all(|told| *told) && !is_told[59], "{is_told:?}");
        assert_eq!(told(1_300, 61).len(), 1);
    }

    #[test]
    fn a_flood_that_goes_on_is_told_every_minute_and_hides_no_other_callers() {
        let standing = Standing::default();
        let (quiet, flooding, other) =
            (principal("acme/q", true), principal("acme/f", true), principal("acme/o", true));
        for number in 0..3 {
            (0..10).for_each(|_| drop(ask(&standing, &quiet, number * 61)));
        }
        for number in 3..6 {
            (0..10_000).for_each(|_| drop(ask(&standing, &flooding, number * 61)));
            let bursts = standing.take_bursts();
            assert_eq!(bursts.len(), 1, "minute {number}");
            assert!(bursts[0].usual.is_some_and(|usual| usual < 100), "{bursts:?}");
        }
        (0..101).for_each(|_| drop(ask(&standing, &other, 6 * 61)));
        assert_eq!(standing.take_bursts().len(), 1, "another caller's is told as ever");
    }

    #[test]
    fn what_is_held_back_says_nothing_of_what_is_usual() {
        let standing = Standing::default();
        let pace = Arc::new(Pace::new(hold(10_000), 1));
        standing.publish(Table { paces: [("acme/a".parse().unwrap(), pace)].into(), ..Table::default() });
        let who = principal("acme/a", true);
        for number in 0..30 {
            (0..300).for_each(|_| drop(ask(&standing, &who, number * 61)));
            let bursts = standing.take_bursts();
            assert_eq!((bursts.len(), bursts[0].usual), (1, None), "minute {number}");
        }
    }
}
