//! Risk points of one event, 1 to 10, with what each contribution is for.
//!
//! Pure and explained. What is not known adds nothing and says so. A score is one input beside rules: at
//! [`ALERT_AT`] it makes a finding by itself, below it says how bad a rule's finding is.

use jiff::tz::TimeZone;
use jiff::{Timestamp, civil::Weekday};
use serde::{Deserialize, Serialize};

use crate::event::Event;

/// Points at which an event is a finding by itself.
pub const ALERT_AT: u8 = 7;
/// Most points.
const POINTS_MAX: u8 = 10;

/// When a tenant works, in its own time zone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkingHours {
    /// An IANA name, such as `Europe/London`.
    pub time_zone: String,
    /// First hour of the day, 0 to 23.
    pub from_hour: i8,
    /// First hour that is not of it any more, 1 to 24.
    pub to_hour: i8,
    /// Days of the week, Monday is 1.
    pub days: Vec<i8>,
}

/// What is known besides the event itself.
#[derive(Debug, Clone, Default)]
pub struct Known<'a> {
    /// Whether the source's network is new for this principal; none while nothing was seen of it.
    pub new_network: Option<bool>,
    /// How many tenants the principal was active in, in the window.
    pub tenants_count: usize,
    /// When the tenant works; none when it has not said.
    pub hours: Option<&'a WorkingHours>,
}

/// One reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contribution {
    /// Its name.
    pub name: String,
    /// What it adds.
    pub points: u8,
    /// Why, or why it adds nothing.
    pub why: String,
}

/// A score with its reasons.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Risk {
    /// 1 to 10.
    pub points: u8,
    /// What it is made of.
    pub contributions: Vec<Contribution>,
}

/// The score of an event.
pub fn points(event: &Event, known: &Known<'_>) -> Risk {
    let mut contributions = vec![because("base", 1, "every event")];
    let code = event.code();
    if code.starts_with("AUT-003") {
        contributions.push(because("login-failed", 3, "a sign-in was refused"));
    }
    if is_administrative(event) {
        contributions.push(because("administrative", 2, "it changes who may do what, or deletes something"));
    }
    contributions.push(match known.new_network {
        Some(true) => because("new-network", 4, "the principal was never seen in this network"),
        Some(false) => because("new-network", 0, "the principal was seen in this network before"),
        None => because("new-network", 0, "unknown: nothing was seen of the principal before"),
    });
    contributions.push(match known.hours.map(|hours| hours.covers(event.time_ms)) {
        Some(Some(false)) => because("off-hours", 1, "outside the tenant's working hours"),
        Some(Some(true)) => because("off-hours", 0, "within the tenant's working hours"),
        Some(None) => because("off-hours", 0, "unknown: the time zone is not one that is known here"),
        None => because("off-hours", 0, "unknown: the tenant has no working hours set"),
    });
    if known.tenants_count > 1 {
        let why = format!("the principal was active in {} tenants", known.tenants_count);
        contributions.push(because("several-tenants", 3, &why));
    }
    let sum: u8 = contributions.iter().map(|one| one.points).fold(0, u8::saturating_add);
    Risk { points: sum.clamp(1, POINTS_MAX), contributions }
}

fn because(name: &str, points: u8, why: &str) -> Contribution {
    Contribution { name: name.to_owned(), points, why: why.to_owned() }
}

/// By what is done, not by a word in a path: whatever decides who may do what, and whatever deletes.
fn is_administrative(event: &Event) -> bool {
    let deletes = ["delete", "revoke", "destroy", "erase"];
    let decides = [
        "create-token",
        "grant-capability",
        "write-policy",
        "set-ceiling",
        "approve-change",
        "set-quota",
        "suspend-tenant",
        "disable-keys",
        "rotate-keys",
        "create-tenant",
        "take-recovery-key",
        "respond-threat",
    ];
    let action = event.action();
    deletes.iter().any(|word| action.starts_with(word)) || decides.contains(&action)
}

// === impl WorkingHours ===

impl WorkingHours {
    /// Whether these are hours that can be followed.
    pub fn check(&self) -> Result<(), &'static str> {
        if TimeZone::get(&self.time_zone).is_err() {
            return Err("the time zone is not one that is known here");
        }
        if !(0..=23).contains(&self.from_hour) || !(1..=24).contains(&self.to_hour) || self.from_hour >= self.to_hour {
            return Err("the hours are not a span of one day");
        }
        if self.days.is_empty() || self.days.len() > 7 || self.days.iter().any(|day| !(1..=7).contains(day)) {
            return Err("the days are not 1 to 7 of 1 (Monday) to 7");
        }
        Ok(())
    }

    fn covers(&self, time_ms: i64) -> Option<bool> {
        let zone = TimeZone::get(&self.time_zone).ok()?;
        let local = Timestamp::from_millisecond(time_ms).ok()?.to_zoned(zone);
        let day: Weekday = local.weekday();
        let at_work = self.days.contains(&day.to_monday_one_offset());
        Some(at_work && (self.from_hour..self.to_hour).contains(&local.hour()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn event(code: &str, action: &str, time_ms: i64) -> Event {
        let body = json!({"unmapped": {"code": code}, "api": {"operation": action}});
        Event { log: "acme".into(), seq: 0, time_ms, body }
    }

    fn london() -> WorkingHours {
        WorkingHours { time_zone: "Europe/London".into(), from_hour: 9, to_hour: 17, days: vec![1, 2, 3, 4, 5] }
    }

    #[test]
    fn each_reason_adds_what_it_says_and_the_sum_is_capped() {
        assert_eq!(points(&event("PLG-001", "push-version", 0), &Known::default()).points, 1);
        assert_eq!(points(&event("AUT-003 sign-in-refused", "authenticate", 0), &Known::default()).points, 4);
        assert_eq!(points(&event("SEC-002", "delete-secret", 0), &Known::default()).points, 3);
        let all = Known { new_network: Some(true), tenants_count: 2, hours: None };
        let risk = points(&event("AUT-003", "revoke-token", 0), &all);
        assert_eq!(risk.points, 10);
        assert_eq!(risk.contributions.iter().map(|one| u32::from(one.points)).sum::<u32>(), 13);
    }

    #[test]
    fn what_is_not_known_adds_nothing_and_says_so() {
        let risk = points(&event("x", "read-audit", 0), &Known::default());
        let unknown = risk.contributions.iter().filter(|one| one.why.starts_with("unknown")).count();
        assert_eq!((risk.points, unknown), (1, 2));
    }

    #[test]
    fn working_hours_are_those_of_the_tenants_own_clock_summer_time_included() {
        // Wednesday 1 July 2026, 08:30 UTC is 09:30 in London; 1 December is 08:30.
        let ms = |text: &str| text.parse::<Timestamp>().unwrap().as_millisecond();
        let hours = london();
        assert_eq!(hours.covers(ms("2026-07-01T08:30:00Z")), Some(true));
        assert_eq!(hours.covers(ms("2026-12-01T08:30:00Z")), Some(false));
        assert_eq!(hours.covers(ms("2026-07-04T10:00:00Z")), Some(false), "a Saturday");
        assert!(WorkingHours { time_zone: "Mars/Olympus".into(), ..london() }.check().is_err());
        assert!(WorkingHours { to_hour: 9, ..london() }.check().is_err());
        assert!(london().check().is_ok());
    }

    proptest! {
        #[test]
        fn the_score_is_within_its_bounds_and_more_reasons_never_lower_it(
            code in "(AUT-003|PLG-001|)", action in "(delete-x|read|write-policy)", count in 0_usize..5, new in any::<bool>(),
        ) {
            let event = event(&code, &action, 0);
            let few = points(&event, &Known { new_network: Some(false), tenants_count: 0, hours: None });
            let more = points(&event, &Known { new_network: Some(new), tenants_count: count, hours: None });
            prop_assert!((1..=10).contains(&more.points));
            prop_assert!(more.points >= few.points);
        }
    }
}
