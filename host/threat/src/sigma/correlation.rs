//! Correlations of Sigma: so many events, so many distinct values, several rules together, several in order.
//!
//! Pure. A correlation holds at an event when it holds over the window that ends there. Must never keep more than what
//! decides that: for `n` events the last `n` times, for `n` values the last `n` distinct ones, for rules in order the
//! latest start of a chain that reaches each of them. An entry that stands for several events counts as often as it says.
//! Times are taken as a distance, so a clock that steps back lengthens no window.

use std::collections::VecDeque;

use serde_norway::Value as Yaml;

use crate::event::Path;

/// LIMIT: largest count that a correlation may ask for.
const THRESHOLD_COUNT_MAX: usize = 1_000;
/// LIMIT: rules of one correlation.
const RULES_COUNT_MAX: usize = 8;
/// LIMIT: fields to group by.
const GROUP_BY_COUNT_MAX: usize = 4;
/// LIMIT: longest window, in milliseconds: a day.
pub const TIMESPAN_MS_MAX: i64 = 86_400_000;

/// What is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// At least so many events.
    EventCount(usize),
    /// At least so many distinct values of a field.
    ValueCount(Path, usize),
    /// All rules, in any order.
    Temporal,
    /// All rules, in this order.
    TemporalOrdered,
}

/// A correlation over other rules.
#[derive(Debug, Clone)]
pub struct Correlation {
    /// What is looked for.
    pub kind: Kind,
    /// The names of the rules it is about.
    pub rules: Vec<String>,
    /// Events are told apart by these.
    pub group_by: Vec<Path>,
    /// The window, in milliseconds.
    pub timespan_ms: i64,
    /// Whether the rules it is about make findings of their own as well.
    pub generate: bool,
}

/// What is remembered of one group.
#[derive(Debug, Clone, Default)]
pub struct Window {
    /// Times of events, oldest first.
    times: VecDeque<i64>,
    /// Distinct values with the last time of each, in the order of that.
    values: VecDeque<(i64, String)>,
    /// For each rule: when it was last seen (in any order), or the latest start of a chain that reaches it (in order).
    reached: Vec<Option<i64>>,
}

// === impl Correlation ===

impl Correlation {
    /// Reads the `correlation` of a rule.
    pub fn parse(yaml: &Yaml) -> Result<Self, String> {
        let map = yaml.as_mapping().ok_or("`correlation` is not a mapping")?;
        for key in map.keys() {
            let name = key.as_str().unwrap_or_default();
            if !["type", "rules", "group-by", "timespan", "condition", "generate"].contains(&name) {
                return Err(format!("`correlation.{name}` is not supported"));
            }
        }
        let rules = texts(map.get("rules"), "correlation.rules", RULES_COUNT_MAX)?;
        if rules.is_empty() {
            return Err("`correlation.rules` names no rule".to_owned());
        }
        let group_by = texts(map.get("group-by"), "correlation.group-by", GROUP_BY_COUNT_MAX)?;
        let group_by = group_by
            .iter()
            .map(|text| Path::parse(text).ok_or_else(|| format!("`correlation.group-by`: `{text}` is no field")));
        let span = map.get("timespan").and_then(Yaml::as_str).ok_or("`correlation.timespan` is missing")?;
        let generate = match map.get("generate") {
            None => false,
            Some(value) => value.as_bool().ok_or("`correlation.generate` is neither true nor false")?,
        };
        let kind = kind(map.get("type").and_then(Yaml::as_str).unwrap_or_default(), map.get("condition"))?;
        if matches!(kind, Kind::Temporal | Kind::TemporalOrdered) && rules.len() < 2 {
            return Err("`correlation.rules` names one rule, which cannot come together with another".to_owned());
        }
        Ok(Self { kind, rules, group_by: group_by.collect::<Result<_, _>>()?, timespan_ms: timespan(span)?, generate })
    }

    /// Takes an event that rule number `rule` of this correlation matched, and that stands for `events_count` of them, and says
    /// whether the correlation holds now.
    pub fn take(
        &self,
        window: &mut Window,
        rule: usize,
        time_ms: i64,
        value: Option<String>,
        events_count: u64,
    ) -> bool {
        let within = |then: i64| time_ms.saturating_sub(then).saturating_abs() <= self.timespan_ms;
        match &self.kind {
            Kind::EventCount(count) => {
                let events_count = usize::try_from(events_count).unwrap_or(usize::MAX).min(*count);
                window.times.extend(std::iter::repeat_n(time_ms, events_count));
                while window.times.len() > *count {
                    window.times.pop_front();
                }
                window.times.len() == *count && window.times.iter().all(|then| within(*then))
            }
            Kind::ValueCount(_, count) => {
                let Some(value) = value else { return false };
                window.values.retain(|(_, known)| *known != value);
                window.values.push_back((time_ms, value));
                while window.values.len() > *count {
                    window.values.pop_front();
                }
                window.values.len() == *count && window.values.iter().all(|(then, _)| within(*then))
            }
            Kind::Temporal => {
                window.reached.resize(self.rules.len(), None);
                if let Some(seen) = window.reached.get_mut(rule) {
                    *seen = Some(time_ms);
                }
                window.reached.iter().all(|seen| seen.is_some_and(within))
            }
            Kind::TemporalOrdered => {
                window.reached.resize(self.rules.len(), None);
                let start = match rule.checked_sub(1) {
                    None => Some(time_ms),
                    Some(before) => window.reached.get(before).copied().flatten(),
                };
                if let (Some(start), Some(reached)) = (start, window.reached.get_mut(rule)) {
                    *reached = Some(start);
                }
                rule + 1 == self.rules.len() && start.is_some_and(within)
            }
        }
    }
}

fn kind(word: &str, condition: Option<&Yaml>) -> Result<Kind, String> {
    match word {
        "event_count" => {
            let (count, field) = threshold(condition)?;
            match field {
                None => Ok(Kind::EventCount(count)),
                Some(_) => Err("`correlation.condition.field` belongs to a `value_count`".to_owned()),
            }
        }
        "value_count" => {
            let (count, field) = threshold(condition)?;
            let field = field.ok_or("`correlation.condition.field` is missing")?;
            let path =
                Path::parse(&field).ok_or_else(|| format!("`correlation.condition.field`: `{field}` is no field"))?;
            Ok(Kind::ValueCount(path, count))
        }
        "temporal" | "temporal_ordered" if condition.is_some() => {
            Err("`correlation.condition` is not supported with this type: all its rules must be seen".to_owned())
        }
        "temporal" => Ok(Kind::Temporal),
        "temporal_ordered" => Ok(Kind::TemporalOrdered),
        other => Err(format!("`correlation.type`: `{other}` is not supported")),
    }
}

/// Only what a stream can decide as it comes: at least, or more than.
fn threshold(condition: Option<&Yaml>) -> Result<(usize, Option<String>), String> {
    let map = condition.and_then(Yaml::as_mapping).ok_or("`correlation.condition` is missing")?;
    let (mut count, mut field) = (None, None);
    for (key, value) in map {
        let number = || value.as_u64().and_then(|number| usize::try_from(number).ok());
        match key.as_str().unwrap_or_default() {
            "gte" => count = number(),
            "gt" => count = number().map(|number| number.saturating_add(1)),
            "field" => field = value.as_str().map(ToOwned::to_owned),
            other => {
                return Err(format!(
                    "`correlation.condition.{other}` is not supported: a stream can decide `gte` and `gt`"
                ));
            }
        }
    }
    match count {
        Some(count) if (1..=THRESHOLD_COUNT_MAX).contains(&count) => Ok((count, field)),
        _ => Err(format!("`correlation.condition` needs `gte` or `gt` with a number of 1 to {THRESHOLD_COUNT_MAX}")),
    }
}

/// A window such as `5m`: a number and one of s, m, h, d.
fn timespan(text: &str) -> Result<i64, String> {
    let wrong = || format!("`correlation.timespan`: `{text}` is not a number with s, m, h or d, of at most a day");
    let mut letters = text.chars();
    let unit = match letters.next_back() {
        Some('s') => 1_000,
        Some('m') => 60_000,
        Some('h') => 3_600_000,
        Some('d') => 86_400_000,
        _ => return Err(wrong()),
    };
    let number: i64 = letters.as_str().parse().map_err(|_| wrong())?;
    let ms = number.checked_mul(unit).filter(|ms| (1..=TIMESPAN_MS_MAX).contains(ms));
    ms.ok_or_else(wrong)
}

fn texts(yaml: Option<&Yaml>, place: &str, count_max: usize) -> Result<Vec<String>, String> {
    let items = match yaml {
        None => return Ok(Vec::new()),
        Some(Yaml::Sequence(items)) => items.iter().collect(),
        Some(one) => vec![one],
    };
    if items.len() > count_max {
        return Err(format!("`{place}` has over {count_max} entries"));
    }
    let text =
        |item: &Yaml| item.as_str().map(ToOwned::to_owned).ok_or_else(|| format!("`{place}` holds what is no text"));
    items.into_iter().map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn correlation(kind: Kind, rules: usize, timespan_ms: i64) -> Correlation {
        let rules = (0..rules).map(|at| at.to_string()).collect();
        Correlation { kind, rules, group_by: Vec::new(), timespan_ms, generate: false }
    }

    /// One event that matched: which rule, when, with which value.
    type Match = (usize, i64, u8);

    /// What the words say, over the whole history, without any cleverness.
    fn reference(correlation: &Correlation, history: &[Match]) -> bool {
        let Some((_, now, _)) = history.last() else { return false };
        let inside: Vec<&Match> = history.iter().filter(|(_, at, _)| now - at <= correlation.timespan_ms).collect();
        match &correlation.kind {
            Kind::EventCount(count) => inside.len() >= *count,
            Kind::ValueCount(_, count) => {
                let mut values: Vec<u8> = inside.iter().map(|(_, _, value)| *value).collect();
                values.sort_unstable();
                values.dedup();
                values.len() >= *count
            }
            Kind::Temporal => (0..correlation.rules.len()).all(|rule| inside.iter().any(|(seen, _, _)| *seen == rule)),
            Kind::TemporalOrdered => {
                // The last event is the end of the chain, and each rule before it comes before the next.
                let mut wanted = correlation.rules.len();
                for (place, (seen, _, _)) in inside.iter().rev().enumerate() {
                    if wanted > 0 && *seen == wanted - 1 {
                        wanted -= 1;
                    } else if place == 0 {
                        return false;
                    }
                }
                wanted == 0
            }
        }
    }

    proptest! {
        #[test]
        fn every_kind_agrees_with_the_naive_reference(
            steps in prop::collection::vec((0_usize..3, 0_i64..40, 0_u8..5, 1_u64..4), 1..80),
            count in 1_usize..6, timespan_ms in 1_i64..120, kind in 0..4,
        ) {
            let field = Path::parse("f").unwrap();
            let kind = match kind {
                0 => Kind::EventCount(count),
                1 => Kind::ValueCount(field, count),
                2 => Kind::Temporal,
                _ => Kind::TemporalOrdered,
            };
            let correlation = correlation(kind, 3, timespan_ms);
            let (mut window, mut history, mut now) = (Window::default(), Vec::new(), 0);
            for (rule, pause, value, events_count) in steps {
                now += pause;
                (0..events_count).for_each(|_| history.push((rule, now, value)));
                let got = correlation.take(&mut window, rule, now, Some(value.to_string()), events_count);
                prop_assert_eq!(got, reference(&correlation, &history), "after {:?}", history);
                prop_assert!(window.times.len() <= count && window.values.len() <= count && window.reached.len() <= 3);
            }
        }
    }

    #[test]
    fn what_a_stream_cannot_decide_is_refused_by_name() {
        let parse = |text: &str| Correlation::parse(&serde_norway::from_str(text).unwrap());
        let good = "{type: event_count, rules: a, group-by: [x.y], timespan: 5m, condition: {gte: 5}}";
        let parsed = parse(good).unwrap();
        assert_eq!((parsed.timespan_ms, parsed.kind), (300_000, Kind::EventCount(5)));
        for (text, place) in [
            (good.replace("gte", "lt"), "correlation.condition.lt"),
            (good.replace("gte: 5", "gte: 0"), "1 to 1000"),
            (good.replace("gte: 5", "gte: 2000"), "1 to 1000"),
            (good.replace("5m", "5 minutes"), "correlation.timespan"),
            (good.replace("5m", "2d"), "correlation.timespan"),
            (good.replace("5m", "-5m"), "correlation.timespan"),
            (good.replace("event_count", "value_count"), "correlation.condition.field"),
            (good.replace("event_count", "value_avg"), "value_avg"),
            (good.replace("event_count", "temporal"), "correlation.condition"),
            (good.replace("rules: a, ", ""), "correlation.rules"),
            (good.replace("rules: a", "rules: a, aliases: {}"), "correlation.aliases"),
            ("{type: temporal, rules: [a], timespan: 5m}".to_owned(), "one rule"),
        ] {
            let error = parse(&text).unwrap_err();
            assert!(error.contains(place), "{text}: {error}");
        }
    }
}
