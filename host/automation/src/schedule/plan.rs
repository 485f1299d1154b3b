//! When a schedule is due: cron over a time zone's own calendar, what was missed, jitter. Pure.
//!
//! A clock that is set forward skips no fixed time: what falls into the gap runs as it ends; a clock that is set back runs a
//! fixed time once, and what runs every so many minutes in both (Vixie cron's rules, which `croner` follows). Must never
//! look at the system's clock.

use std::hash::{DefaultHasher, Hash, Hasher};

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// LIMIT: longest jitter, milliseconds.
pub const JITTER_MS_MAX: u64 = 3_600_000;
/// LIMIT: most missed runs made up for under `all`; of more, the latest.
pub const MISSED_COUNT_MAX: usize = 100;
/// LIMIT: most ticks looked at in one go; of more, the latest run and so many are counted.
const TICKS_COUNT_MAX: usize = 10_000;
/// LIMIT: most ticks looked at to find the latest of more.
const LATEST_COUNT_MAX: usize = 10 * MISSED_COUNT_MAX;
/// LIMIT: longest cron expression.
const CRON_BYTES_MAX: usize = 200;
/// A tick that is later than this was missed, not late.
const GRACE: SignedDuration = SignedDuration::from_secs(30);

/// What to do about runs that the host slept through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Missed {
    /// Nothing.
    Skip,
    /// Run once.
    Once,
    /// Run each.
    All,
}

/// When something is to run, parsed.
#[derive(Debug, Clone)]
pub struct Times {
    cron: Cron,
    zone: TimeZone,
}

/// What is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// The times to run for, oldest first.
    pub run: Vec<Timestamp>,
    /// Times that are not made up for.
    pub skipped_count: u64,
    /// Up to here everything is decided.
    pub until: Timestamp,
}

// === impl Times ===

impl Times {
    /// Reads a cron expression of five fields, or six with seconds first, and the name of an IANA time zone.
    pub fn parse(cron: &str, zone: &str) -> Result<Self, String> {
        if cron.len() > CRON_BYTES_MAX {
            return Err(format!("a cron expression is at most {CRON_BYTES_MAX} bytes"));
        }
        let parser = CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build();
        let parsed = parser.parse(cron).map_err(|error| {
            format!("`{cron}` is not a cron expression: {}", error.to_string().trim_end_matches('.').to_lowercase())
        })?;
        let zone = TimeZone::get(zone).map_err(|_| format!("`{}` is not an IANA time zone", cut(zone)))?;
        Ok(Self { cron: parsed, zone })
    }

    /// The first time after `after`; none when there is none in the next years.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let from = after.to_zoned(self.zone.clone());
        let next = self.cron.find_next_occurrence(&from, false).ok()?.timestamp();
        // Whatever the calendar does, time goes forward here.
        (next > after).then_some(next)
    }

    /// The next `count` times.
    pub fn upcoming(&self, after: Timestamp, count: usize) -> Vec<Timestamp> {
        std::iter::successors(self.next(after), |last| self.next(*last)).take(count).collect()
    }

    /// What is due at `now`, when everything up to `decided` is decided. Each time runs so much later as `late` says: before
    /// that it is not due, and what comes after it waits with it; nor is it missed for that.
    pub fn due(
        &self,
        decided: Timestamp,
        now: Timestamp,
        missed: Missed,
        late: impl Fn(Timestamp) -> SignedDuration,
    ) -> Due {
        // A clock that was set back decides nothing anew.
        if now <= decided {
            return Due { run: Vec::new(), skipped_count: 0, until: decided };
        }
        let mut ticks = self.between(decided, now, TICKS_COUNT_MAX);
        let mut whole = ticks.len();
        if whole == TICKS_COUNT_MAX {
            ticks = self.latest(decided, now);
        }
        // How long ago it was to run.
        let waited = |tick: &Timestamp| now.duration_since(*tick) - late(*tick);
        let mut until = now;
        if let Some(early) = ticks.iter().position(|tick| waited(tick) < SignedDuration::ZERO) {
            let rest = ticks.split_off(early);
            whole = whole.saturating_sub(rest.len());
            until = rest.first().map_or(now, |tick| *tick - SignedDuration::from_nanos(1));
        }
        let in_time: Vec<Timestamp> = ticks.iter().copied().filter(|tick| waited(tick) <= GRACE).collect();
        let mut run: Vec<Timestamp> = match missed {
            Missed::All => ticks,
            // Once means once, also when one in time and the missed ones fall together.
            Missed::Once if in_time.is_empty() => ticks.pop().into_iter().collect(),
            Missed::Once | Missed::Skip => in_time,
        };
        let too_many = run.len().saturating_sub(MISSED_COUNT_MAX);
        run.drain(..too_many);
        Due { skipped_count: whole.saturating_sub(run.len()) as u64, run, until }
    }

    /// The first so many times after `from` and not after `to`.
    fn between(&self, from: Timestamp, to: Timestamp, count_max: usize) -> Vec<Timestamp> {
        let ticks = std::iter::successors(self.next(from), |last| self.next(*last));
        ticks.take_while(|tick| *tick <= to).take(count_max).collect()
    }

    /// The latest times up to `now`, at least as many as are made up for, of more after `decided` than are looked at. Where to
    /// look from is found by halving: how dense the times are there says nothing about how dense they are elsewhere.
    fn latest(&self, decided: Timestamp, now: Timestamp) -> Vec<Timestamp> {
        let (mut too_early, mut too_late) = (decided.as_second(), now.as_second());
        while too_late - too_early > 1 {
            let half = too_early + (too_late - too_early) / 2;
            let ticks = self.between(Timestamp::from_second(half).unwrap_or(now), now, LATEST_COUNT_MAX);
            match ticks.len() {
                LATEST_COUNT_MAX => too_early = half,
                0..MISSED_COUNT_MAX => too_late = half,
                _ => return ticks,
            }
        }
        // Not reached while two times are a second apart.
        self.between(Timestamp::from_second(too_late).unwrap_or(now), now, LATEST_COUNT_MAX)
    }
}

/// How much later than its time a tick runs: drawn from its name, so that it is the same whenever it is asked.
pub fn jitter_ms(uid: &str, name: &str, tick: Timestamp, most_ms: u64) -> u64 {
    let mut hasher = DefaultHasher::new();
    (uid, name, tick.as_millisecond()).hash(&mut hasher);
    if most_ms == 0 { 0 } else { hasher.finish() % (most_ms + 1) }
}

fn cut(text: &str) -> String {
    text.chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn no_jitter(_: Timestamp) -> SignedDuration {
        SignedDuration::ZERO
    }

    fn upcoming(cron: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
        let times = Times::parse(cron, zone).unwrap();
        times.upcoming(at(after), count).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn seconds_are_optional() {
        assert_eq!(
            upcoming("*/15 * * * *", "UTC", "2026-01-01T00:07:30Z", 2),
            ["2026-01-01T00:15:00Z", "2026-01-01T00:30:00Z"]
        );
        assert_eq!(
            upcoming("*/20 * * * * *", "UTC", "2026-01-01T00:00:05Z", 2),
            ["2026-01-01T00:00:20Z", "2026-01-01T00:00:40Z"]
        );
    }

    #[test]
    fn a_fixed_time_in_the_hour_that_is_skipped_runs_once_on_that_day() {
        // Berlin goes from 02:00 to 03:00 on 29 March 2026.
        let days = upcoming("30 2 * * *", "Europe/Berlin", "2026-03-28T02:00:00Z", 3);
        assert_eq!(days.len(), 3);
        assert!(days[0].starts_with("2026-03-29T01:") && days[1] == "2026-03-30T00:30:00Z", "{days:?}");
    }

    #[test]
    fn a_fixed_time_in_the_hour_that_comes_twice_runs_once() {
        // Berlin goes from 03:00 back to 02:00 on 25 October 2026.
        let days = upcoming("30 2 * * *", "Europe/Berlin", "2026-10-24T02:00:00Z", 3);
        assert!(days[0].starts_with("2026-10-25T0") && days[1] == "2026-10-26T01:30:00Z", "{days:?}");
    }

    #[test]
    fn what_runs_every_half_hour_runs_every_half_hour_whatever_the_clock_does() {
        for start in ["2026-10-24T23:00:00Z", "2026-03-28T23:00:00Z"] {
            let times = Times::parse("*/30 * * * *", "Europe/Berlin").unwrap().upcoming(at(start), 12);
            for pair in times.windows(2) {
                assert_eq!(pair[1].duration_since(pair[0]), SignedDuration::from_mins(30), "{times:?}");
            }
        }
    }

    #[test]
    fn missed_runs_follow_the_policy() {
        let times = Times::parse("0 * * * *", "UTC").unwrap();
        let (decided, now) = (at("2026-01-01T00:00:00Z"), at("2026-01-01T05:00:01Z"));
        let hour = |n: u8| at(&format!("2026-01-01T0{n}:00:00Z"));
        let due = |missed| times.due(decided, now, missed, no_jitter);
        assert_eq!((due(Missed::Skip).run, due(Missed::Skip).skipped_count), (vec![hour(5)], 4));
        assert_eq!((due(Missed::Once).run, due(Missed::Once).skipped_count), (vec![hour(5)], 4));
        assert_eq!(due(Missed::All).run, (1..=5).map(hour).collect::<Vec<_>>());
        let late = at("2026-01-01T05:10:00Z");
        assert!(times.due(decided, late, Missed::Skip, no_jitter).run.is_empty());
        assert_eq!(times.due(decided, late, Missed::Once, no_jitter).run, [hour(5)]);
    }

    #[test]
    fn a_clock_that_steps_back_runs_nothing_twice() {
        let times = Times::parse("* * * * *", "UTC").unwrap();
        let first = times.due(at("2026-01-01T00:00:30Z"), at("2026-01-01T00:01:00Z"), Missed::All, no_jitter);
        assert_eq!(first.run.len(), 1);
        let back = times.due(first.until, at("2026-01-01T00:00:10Z"), Missed::All, no_jitter);
        assert!(back.run.is_empty() && back.until == first.until);
        assert!(times.due(back.until, at("2026-01-01T00:01:30Z"), Missed::All, no_jitter).run.is_empty());
    }

    #[test]
    fn a_year_of_seconds_is_bounded_and_the_latest_of_it_run() {
        let hundred = SignedDuration::from_secs(i64::try_from(MISSED_COUNT_MAX).unwrap() - 1);
        let now = at("2026-01-01T00:00:00Z");
        // All the time; in one hour of each day; on the first day of some months, the last of which is long ago.
        for (cron, last) in [
            ("* * * * * *", now),
            ("* * 3 * * *", at("2025-12-31T03:59:59Z")),
            ("* * * 1 2-11 *", at("2025-11-01T23:59:59Z")),
        ] {
            let times = Times::parse(cron, "UTC").unwrap();
            let due = |missed| times.due(at("2025-01-01T00:00:00Z"), now, missed, no_jitter);
            let all = due(Missed::All);
            assert_eq!((all.run.len(), all.until), (MISSED_COUNT_MAX, now), "{cron}");
            assert_eq!((all.run.first(), all.run.last()), (Some(&(last - hundred)), Some(&last)), "{cron}");
            assert_eq!(due(Missed::Once).run.last(), Some(&last), "{cron}");
            assert_eq!(due(Missed::Skip).run.last().copied(), (last == now).then_some(now), "{cron}");
        }
    }

    #[test]
    fn what_is_no_cron_and_no_zone_is_refused_and_what_never_comes_has_no_next() {
        for bad in ["", "* * *", "61 * * * *", "* * * * * * *", "0 0 * * MON-", "@never"] {
            assert!(Times::parse(bad, "UTC").is_err(), "{bad}");
        }
        assert!(Times::parse("* * * * *", "Europe/Atlantis").is_err());
        assert!(Times::parse(&format!("{} * * * *", "1,".repeat(100)), "UTC").is_err());
        assert_eq!(
            Times::parse("0 0 30 2 *", "UTC").ok().and_then(|times| times.next(at("2026-01-01T00:00:00Z"))),
            None
        );
    }

    #[test]
    fn a_time_that_runs_later_is_neither_due_before_nor_missed_for_it() {
        let times = Times::parse("0 * * * *", "UTC").unwrap();
        let (one, two) = (at("2026-01-01T01:00:00Z"), at("2026-01-01T02:00:00Z"));
        let late = |tick: Timestamp| SignedDuration::from_mins(if tick == one { 50 } else { 5 });
        let decided = at("2026-01-01T00:30:00Z");
        for missed in [Missed::Skip, Missed::Once, Missed::All] {
            let early = times.due(decided, at("2026-01-01T01:10:00Z"), missed, late);
            assert_eq!((early.run.len(), early.skipped_count), (0, 0), "{missed:?}");
            assert!(early.until < one && early.until > decided);
            let due = times.due(early.until, at("2026-01-01T01:50:00Z"), missed, late);
            assert_eq!((due.run.as_slice(), due.skipped_count), ([one].as_slice(), 0), "{missed:?}");
            let over = times.due(early.until, at("2026-01-01T02:01:00Z"), missed, late);
            assert_eq!((over.run.len(), over.skipped_count), if missed == Missed::Skip { (0, 1) } else { (1, 0) });
            assert!(over.until < two && over.until >= one, "what is not due yet is not decided");
        }
    }

    proptest! {
        #[test]
        fn there_is_a_next_time_wherever_in_a_change_of_the_clock_it_is_asked_and_later_is_never_earlier(
            which in 0_usize..6, cron in 0_usize..5, nanos in 0_i64..14_400_000_000_000, later in 0_i64..14_400_000_000_000,
        ) {
            // Two hours before a change that skips or repeats an hour, half an hour, or midnight.
            let (zone, before) = [
                ("Europe/Berlin", "2026-03-28T23:00:00Z"),
                ("Europe/Berlin", "2026-10-24T23:00:00Z"),
                ("America/New_York", "2026-11-01T04:00:00Z"),
                ("Australia/Lord_Howe", "2026-04-04T13:00:00Z"),
                ("America/Santiago", "2026-09-06T02:00:00Z"),
                ("America/Santiago", "2026-04-05T01:00:00Z"),
            ][which];
            let cron = ["30 2 * * *", "0,30 1-3 * * *", "0 0 * * *", "*/15 * * * *", "30 */10 * * * *"][cron];
            let times = Times::parse(cron, zone).unwrap();
            let asked = at(before) + SignedDuration::from_nanos(nanos);
            let next = times.next(asked);
            prop_assert!(next.is_some_and(|next| next > asked), "{cron} {zone} {asked}");
            prop_assert!(times.next(asked + SignedDuration::from_nanos(later)) >= next, "{cron} {zone} {asked}");
        }

        #[test]
        fn ticks_ascend_and_none_is_decided_twice(start in 0_i64..4_000_000_000, steps in proptest::collection::vec(0_i64..100_000, 1..20)) {
            let times = Times::parse("*/7 3-22 * * *", "America/New_York").unwrap();
            let mut decided = Timestamp::from_second(start).unwrap();
            let (mut now, mut last) = (decided, None);
            for step in steps {
                now += SignedDuration::from_secs(step);
                let due = times.due(decided, now, Missed::All, no_jitter);
                for tick in &due.run {
                    prop_assert!(last.is_none_or(|last| *tick > last) && *tick <= now);
                    last = Some(*tick);
                }
                decided = due.until;
            }
        }

        #[test]
        fn jitter_stays_within_and_is_the_same_again(most in 0_u64..JITTER_MS_MAX, second in 0_i64..4_000_000_000) {
            let tick = Timestamp::from_second(second).unwrap();
            let drawn = jitter_ms("uid", "nightly", tick, most);
            prop_assert!(drawn <= most);
            prop_assert_eq!(drawn, jitter_ms("uid", "nightly", tick, most));
        }
    }
}
