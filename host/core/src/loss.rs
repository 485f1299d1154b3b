//! What a tenant wants done where its plugins send out or log what looks like personal data, and how often that was.
//!
//! Pure: hits and times are given. Must never hold a value that was found, nor count one hit away: what there is no room to
//! tell apart is told as a number. Nor grow without bound.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{InvocationId, PluginName, TenantId, calls, manifest};

/// LIMIT: hosts that one tenant exempts, of all kinds together.
const HOSTS_COUNT_MAX: usize = 32;
/// What goes on is told once, and then as a number once in so long.
pub const LOSS_WINDOW: Duration = Duration::from_secs(300);
/// LIMIT: losses of one tenant that are told apart at once, by plugin, kind, place, host and what was done.
const APART_COUNT_MAX: usize = 128;
/// LIMIT: losses told at once; the rest is told with the next.
const TOLD_COUNT_MAX: usize = 256;

/// What is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LossKind {
    /// The number of a payment card.
    Card,
    /// An NHS number.
    NhsNumber,
    /// An e-mail address.
    Email,
    /// A phone number.
    Phone,
    /// A body that cannot be looked through: it is encoded, or too long.
    Uninspected,
}

/// What is done about it, the least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LossAction {
    /// It is not looked for.
    Off,
    /// It goes, and is told.
    Report,
    /// It does not go, and is told.
    Refuse,
}

/// What is done about each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub struct LossActions {
    /// About numbers of payment cards.
    pub card: LossAction,
    /// About NHS numbers.
    pub nhs_number: LossAction,
    /// About e-mail addresses.
    pub email: LossAction,
    /// About phone numbers.
    pub phone: LossAction,
    /// About bodies that cannot be looked through; only where anything is looked for.
    pub uninspected: LossAction,
}

/// One tenant's choice.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LossRules {
    /// What is done.
    pub detectors: LossActions,
    /// Hosts that may be sent what is found, by kind: names as grants write them, without a port.
    pub exempt: BTreeMap<LossKind, BTreeSet<String>>,
}

/// Where something was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LossPlace {
    /// In path and query of an outgoing request.
    Address,
    /// In a header of one.
    Header,
    /// In its body.
    Body,
    /// In a line of the guest's log.
    Log,
}

/// What was done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LossTaken {
    /// It went.
    Sent,
    /// It did not go.
    Refused,
    /// The log has a word in its place.
    Masked,
}

/// Something that was found, so many times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// Whose plugin; none for a drill of the operators.
    pub tenant: Option<TenantId>,
    /// The tenant by its unique id, for another may have the name by now; none for a drill.
    pub tenant_uid: Option<String>,
    /// Which.
    pub plugin: PluginName,
    /// In which invocation the first of them was; none for a drill.
    pub invocation: Option<InvocationId>,
    /// What.
    pub kind: LossKind,
    /// Where.
    pub place: LossPlace,
    /// On its way to which host; none for a log.
    pub host: Option<String>,
    /// What was done.
    pub taken: LossTaken,
    /// How often; none where it is told of others alone.
    pub count: u64,
    /// Further ones of the tenant that there was no room to tell apart.
    pub others_count: u64,
}

// === impl LossKind ===

impl LossKind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Card, Self::NhsNumber, Self::Email, Self::Phone, Self::Uninspected];

    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Card => "card",
            Self::NhsNumber => "nhs-number",
            Self::Email => "email",
            Self::Phone => "phone",
            Self::Uninspected => "uninspected",
        }
    }

    /// What people call it.
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Card => "the number of a payment card",
            Self::NhsNumber => "an NHS number",
            Self::Email => "an e-mail address",
            Self::Phone => "a phone number",
            Self::Uninspected => "what cannot be looked through",
        }
    }
}

// === impl LossAction ===

impl LossAction {
    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Report => "report",
            Self::Refuse => "refuse",
        }
    }
}

// === impl LossActions ===

impl Default for LossActions {
    /// What has a check digit is told of. Nothing is refused until its owner says so, or a plugin that works would stop; and
    /// what nearly every plugin sends, and no check digit tells from other words and numbers, is not looked for.
    fn default() -> Self {
        let (told, off) = (LossAction::Report, LossAction::Off);
        Self { card: told, nhs_number: told, email: off, phone: off, uninspected: told }
    }
}

impl LossActions {
    /// What is done about a kind.
    pub fn of(self, kind: LossKind) -> LossAction {
        match kind {
            LossKind::Card => self.card,
            LossKind::NhsNumber => self.nhs_number,
            LossKind::Email => self.email,
            LossKind::Phone => self.phone,
            LossKind::Uninspected => self.uninspected,
        }
    }

    /// Whether anything is looked for.
    pub fn looks(self) -> bool {
        [self.card, self.nhs_number, self.email, self.phone].iter().any(|action| *action != LossAction::Off)
    }

    fn let_go(&mut self, kind: LossKind) {
        let action = match kind {
            LossKind::Card => &mut self.card,
            LossKind::NhsNumber => &mut self.nhs_number,
            LossKind::Email => &mut self.email,
            LossKind::Phone => &mut self.phone,
            LossKind::Uninspected => &mut self.uninspected,
        };
        *action = LossAction::Off;
    }
}

// === impl LossRules ===

impl LossRules {
    /// Whether they can be followed.
    pub fn check(&self) -> Result<(), String> {
        let hosts: Vec<&String> = self.exempt.values().flatten().collect();
        if hosts.len() > HOSTS_COUNT_MAX {
            return Err(format!("`data_loss.exempt` holds over {HOSTS_COUNT_MAX} hosts"));
        }
        let is_host = |host: &str| {
            !host.contains(':') && !calls::is_inside(host) && manifest::check_origin(&format!("https://{host}")).is_ok()
        };
        match hosts.iter().find(|host| !is_host(host)) {
            Some(wrong) => {
                let wrong: String = wrong.chars().take(80).collect();
                Err(format!("`data_loss.exempt`: `{wrong}` is no lower-case name of a host outside, without a port"))
            }
            None => Ok(()),
        }
    }

    /// What is done about what is on its way to a host.
    pub fn toward(&self, host: &str) -> LossActions {
        let mut actions = self.detectors;
        for (kind, hosts) in &self.exempt {
            if hosts.contains(host) {
                actions.let_go(*kind);
            }
        }
        actions
    }

    /// What would be seen or refused less under the next ones than under these, in words.
    pub fn weakened(&self, next: &Self) -> Vec<String> {
        let mut weakened = Vec::new();
        for kind in LossKind::ALL {
            let (word, before, after) = (kind.as_str(), self.detectors.of(kind), next.detectors.of(kind));
            if after < before {
                weakened.push(format!("`{word}` is `{}` and was `{}`", after.as_str(), before.as_str()));
            }
            let known = self.exempt.get(&kind);
            let new = next.exempt.get(&kind).into_iter().flatten();
            let new = new.filter(|host| before != LossAction::Off && !known.is_some_and(|known| known.contains(*host)));
            weakened.extend(new.map(|host| format!("`{word}` may go to `{host}`")));
        }
        weakened
    }
}

// === impl LossPlace ===

impl LossPlace {
    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Header => "header",
            Self::Body => "body",
            Self::Log => "log",
        }
    }
}

// === impl LossTaken ===

impl LossTaken {
    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Refused => "refused",
            Self::Masked => "masked",
        }
    }
}

/// A tenant by name and by unique id, so that what one lost is not told to a namesake.
type Owner = (Option<TenantId>, Option<String>);

type Key = (PluginName, LossKind, LossPlace, Option<String>, LossTaken);

/// The losses of all tenants that wait to be told.
#[derive(Debug, Default)]
pub(crate) struct Losses {
    tenants: HashMap<Owner, OfTenant>,
    played: Vec<Loss>,
}

#[derive(Debug, Default)]
struct OfTenant {
    apart: HashMap<Key, Counted>,
    others_count: u64,
}

#[derive(Debug, Default)]
struct Counted {
    untold: u64,
    told_at: Option<Duration>,
    invocation: Option<InvocationId>,
}

// === impl Losses ===

impl Losses {
    /// Counts what was found.
    pub(crate) fn count(&mut self, loss: Loss) {
        let Loss { tenant, tenant_uid, plugin, invocation, kind, place, host, taken, count, others_count } = loss;
        let of = self.tenants.entry((tenant, tenant_uid)).or_default();
        of.others_count = of.others_count.saturating_add(others_count);
        let key = (plugin, kind, place, host, taken);
        if of.apart.len() >= APART_COUNT_MAX && !of.apart.contains_key(&key) {
            of.others_count = of.others_count.saturating_add(count);
            return;
        }
        let counted = of.apart.entry(key).or_default();
        if counted.untold == 0 {
            counted.invocation = invocation;
        }
        counted.untold = counted.untold.saturating_add(count);
    }

    /// Has a loss told that nobody had; for drills.
    pub(crate) fn play(&mut self, loss: Loss) {
        if self.played.len() < TOLD_COUNT_MAX {
            self.played.push(loss);
        }
    }

    /// What is to be told now: what is new, and what went on for a window. Everything without a time.
    pub(crate) fn take(&mut self, now: Option<Duration>) -> Vec<Loss> {
        let mut told = std::mem::take(&mut self.played);
        for ((tenant, tenant_uid), of) in &mut self.tenants {
            for ((plugin, kind, place, host, taken), counted) in &mut of.apart {
                // Others are told with whatever is due, also where that did not happen again: else nobody would tell them.
                let is_news = counted.untold > 0 || of.others_count > 0;
                if !is_news || !counted.is_due(now) || (told.len() >= TOLD_COUNT_MAX && now.is_some()) {
                    continue;
                }
                counted.told_at = now;
                told.push(Loss {
                    tenant: tenant.clone(),
                    tenant_uid: tenant_uid.clone(),
                    plugin: plugin.clone(),
                    invocation: counted.invocation.take(),
                    kind: *kind,
                    place: *place,
                    host: host.clone(),
                    taken: *taken,
                    count: std::mem::take(&mut counted.untold),
                    others_count: std::mem::take(&mut of.others_count),
                });
            }
            let has_others = of.others_count > 0;
            of.apart.retain(|_, counted| has_others || counted.untold > 0 || !counted.is_due(now));
        }
        self.tenants.retain(|_, of| !of.apart.is_empty());
        told
    }
}

// === impl Counted ===

impl Counted {
    fn is_due(&self, now: Option<Duration>) -> bool {
        let Some((told_at, now)) = self.told_at.zip(now) else { return true };
        now.saturating_sub(told_at) >= LOSS_WINDOW
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loss(plugin: &str, host: &str, count: u64) -> Loss {
        Loss {
            tenant: Some("acme".parse().unwrap()),
            tenant_uid: Some("first".to_owned()),
            plugin: plugin.parse().unwrap(),
            invocation: None,
            kind: LossKind::Card,
            place: LossPlace::Body,
            host: Some(host.to_owned()),
            taken: LossTaken::Sent,
            count,
            others_count: 0,
        }
    }

    fn at(seconds: u64) -> Option<Duration> {
        Some(Duration::from_secs(seconds))
    }

    #[test]
    fn what_goes_on_is_told_at_once_and_then_as_a_number_once_a_window() {
        let mut losses = Losses::default();
        losses.count(loss("p", "a.example", 2));
        assert_eq!(losses.take(at(10)), [loss("p", "a.example", 2)]);
        for second in 11..309 {
            losses.count(loss("p", "a.example", 1));
            assert!(losses.take(at(second)).is_empty(), "{second}");
        }
        losses.count(loss("p", "b.example", 1));
        assert_eq!(losses.take(at(309)), [loss("p", "b.example", 1)], "another host is told by itself");
        assert_eq!(losses.take(at(310)), [loss("p", "a.example", 298)]);
        losses.count(loss("p", "a.example", 5));
        assert_eq!(losses.take(None), [loss("p", "a.example", 5)], "at the end everything is told");
        assert!(losses.take(None).is_empty());
        assert!(losses.tenants.is_empty(), "and nothing is kept of who is silent");
    }

    #[test]
    fn hosts_without_end_cost_a_bound_and_no_hit_is_lost() {
        let mut losses = Losses::default();
        (0..1_000).for_each(|number| losses.count(loss("p", &format!("h{number}.example"), 1)));
        let told = losses.take(at(1));
        assert_eq!(told.len(), APART_COUNT_MAX);
        assert_eq!(told.iter().map(|loss| loss.count + loss.others_count).sum::<u64>(), 1_000);
        (0..1_000).for_each(|number| losses.count(loss("p", &format!("h{number}.example"), 1)));
        let told = [losses.take(at(2)), losses.take(None)].concat();
        assert_eq!(told.iter().map(|loss| loss.count + loss.others_count).sum::<u64>(), 1_000);
    }

    #[test]
    fn others_are_told_also_where_none_of_those_apart_happens_again() {
        for ends in [false, true] {
            let mut losses = Losses::default();
            (0..APART_COUNT_MAX).for_each(|number| losses.count(loss("p", &format!("h{number}.example"), 1)));
            assert_eq!(losses.take(at(1)).len(), APART_COUNT_MAX);
            losses.count(loss("p", "evil.example", 7));
            assert!(losses.take(at(2)).is_empty(), "there is no room to tell it apart");
            let told = losses.take(if ends { None } else { at(301) });
            let counts: Vec<_> = told.iter().map(|loss| (loss.count, loss.others_count)).collect();
            assert_eq!(counts, [(0, 7)], "{ends}");
            assert!(losses.take(at(601)).is_empty());
            assert!(losses.tenants.is_empty());
        }
    }

    #[test]
    fn what_one_tenant_lost_is_none_of_a_namesakes() {
        let mut losses = Losses::default();
        losses.count(loss("p", "a.example", 1));
        let namesake = Loss { tenant_uid: Some("second".to_owned()), ..loss("p", "a.example", 2) };
        losses.count(namesake.clone());
        let mut told = losses.take(at(1));
        told.sort_by_key(|loss| loss.count);
        assert_eq!(told, [loss("p", "a.example", 1), namesake]);
    }

    #[test]
    fn many_tenants_are_told_bit_by_bit() {
        let mut losses = Losses::default();
        for number in 0..2 * TOLD_COUNT_MAX {
            let tenant = Some(format!("t{number}").parse().unwrap());
            losses.count(Loss { tenant, ..loss("p", "a.example", 1) });
        }
        assert_eq!(losses.take(at(1)).len(), TOLD_COUNT_MAX);
        assert_eq!(losses.take(at(1)).len(), TOLD_COUNT_MAX);
        assert!(losses.take(at(1)).is_empty());
    }

    #[test]
    fn a_drills_loss_is_told_and_forgotten() {
        let mut losses = Losses::default();
        losses.play(loss("drill-1", "drill.example", 1));
        assert_eq!((losses.take(at(1)).len(), losses.tenants.len()), (1, 0));
    }

    fn rules(text: &str) -> LossRules {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_host_is_exempt_from_what_it_is_named_for_alone() {
        let rules = rules(r#"{"detectors": {"card": "refuse"}, "exempt": {"card": ["pay.example"]}}"#);
        assert_eq!(rules.toward("evil.example").card, LossAction::Refuse);
        let there = rules.toward("pay.example");
        assert_eq!((there.card, there.nhs_number, there.email), (LossAction::Off, LossAction::Report, LossAction::Off));
        assert!(there.looks() && !LossActions { nhs_number: LossAction::Off, ..there }.looks());
    }

    #[test]
    fn rules_that_mean_nothing_are_refused() {
        assert!(LossRules::default().check().is_ok());
        assert!(rules(r#"{"exempt": {"card": ["pay.example", "10.0.0.1"]}}"#).check().is_ok());
        for host in ["", "PAY.example", "pay.example:8443", "*.example", "https://pay.example", "a.plugin.internal"] {
            let exempt = [(LossKind::Card, [host.to_owned()].into())].into();
            assert!(LossRules { exempt, ..LossRules::default() }.check().is_err(), "{host}");
        }
        let many = (0..=HOSTS_COUNT_MAX).map(|number| format!("h{number}.example")).collect();
        assert!(LossRules { exempt: [(LossKind::Card, many)].into(), ..LossRules::default() }.check().is_err());
        for text in [r#"{"detectors": {"card": "some"}}"#, r#"{"detectors": {"dna": "off"}}"#, r#"{"off": true}"#] {
            assert!(serde_json::from_str::<LossRules>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_seen_or_refused_less_is_named() {
        let strict = rules(r#"{"detectors": {"card": "refuse", "email": "report"}}"#);
        assert!(LossRules::default().weakened(&strict).is_empty());
        let weakened = strict.weakened(&LossRules::default());
        assert_eq!(weakened, ["`card` is `report` and was `refuse`", "`email` is `off` and was `report`"]);
        let exempting = rules(
            r#"{"detectors": {"card": "refuse", "email": "report"}, "exempt": {"card": ["a.example"], "phone": ["b"]}}"#,
        );
        assert_eq!(strict.weakened(&exempting), ["`card` may go to `a.example`"]);
        assert!(exempting.weakened(&strict).is_empty());
    }
}
