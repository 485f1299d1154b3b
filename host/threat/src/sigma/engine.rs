//! Rules at work: which of them an event makes hold, with what they remember of the events before.
//!
//! Pure: no clock but the events' own times. Must never remember more than the limits here: groups of one log are capped
//! together and those longest without an event go first, so one log's flood costs no other log its memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::correlation::{Kind, Window};
use super::{LooksFor, Rule};
use crate::event::{Event, Path};
use crate::response::Kind as Answer;
use crate::rules::Edition;

/// LIMIT: groups that are remembered for one log, of all rules together.
pub const GROUPS_COUNT_MAX: usize = 2_048;
/// LIMIT: logs that are remembered; the one longest without an event goes first.
pub const LOGS_COUNT_MAX: usize = 16_384;
/// LIMIT: longest value that a group is named by, in bytes.
const GROUP_BYTES_MAX: usize = 256;

/// Rules that are in force together.
#[derive(Debug, Clone)]
pub struct Pack {
    /// Whose: `ringfence` for those that come with the host, `operator`, or a tenant's name.
    pub owner: String,
    /// The name of the text they stand in.
    pub name: String,
    /// Which text of that name.
    pub edition: Edition,
    /// They.
    pub rules: Vec<Rule>,
}

/// A rule that holds at an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    /// The pack's owner.
    pub owner: String,
    /// The pack's name.
    pub pack: String,
    /// Number of the rule in it.
    pub rule: usize,
    /// What the event's group is named by; empty for a correlation that does not group, and for an event that does not say
    /// whom it is about.
    pub group: Vec<(String, String)>,
}

/// What is remembered between events.
#[derive(Debug, Default)]
pub struct Memory {
    logs: HashMap<String, Groups>,
    turn: u64,
}

#[derive(Debug, Default)]
struct Groups {
    used: u64,
    windows: HashMap<GroupKey, (u64, Window)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct GroupKey {
    pack: (String, String),
    rule: usize,
    values: Vec<String>,
}

// === impl Memory ===

impl Memory {
    /// Takes an event and says which rules hold at it.
    pub fn take(&mut self, packs: &[Arc<Pack>], event: &Event) -> Vec<Hit> {
        self.turn += 1;
        let mut hits = Vec::new();
        for pack in packs {
            let matched: Vec<bool> = pack
                .rules
                .iter()
                .map(|rule| matches!(&rule.looks_for, LooksFor::Event(detection) if detection.matches(event)))
                .collect();
            if !matched.contains(&true) {
                continue;
            }
            for (at, rule) in pack.rules.iter().enumerate() {
                let holds = match &rule.looks_for {
                    LooksFor::Event(_) => {
                        (matched.get(at) == Some(&true) && is_alone(pack, &rule.name)).then(|| whom(rule, event))
                    }
                    LooksFor::Several(_) => self.several(pack, at, &matched, event),
                };
                if let Some(group) = holds {
                    hits.push(Hit { owner: pack.owner.clone(), pack: pack.name.clone(), rule: at, group });
                }
            }
        }
        hits
    }

    /// Groups remembered now, of all logs.
    pub fn groups_count(&self) -> usize {
        self.logs.values().map(|groups| groups.windows.len()).sum()
    }

    /// Lets go of what was remembered for a pack that is not in force any more, or has changed.
    pub fn forget(&mut self, owner: &str, name: &str) {
        for groups in self.logs.values_mut() {
            groups.windows.retain(|key, _| key.pack.0 != owner || key.pack.1 != name);
        }
    }

    fn several(&mut self, pack: &Pack, at: usize, matched: &[bool], event: &Event) -> Option<Vec<(String, String)>> {
        let LooksFor::Several(correlation) = &pack.rules.get(at)?.looks_for else { return None };
        let of_these = |wanted: &String| {
            let place = pack.rules.iter().position(|rule| rule.name == *wanted);
            place.is_some_and(|place| matched.get(place) == Some(&true))
        };
        let reached: Vec<usize> =
            correlation.rules.iter().enumerate().filter(|(_, name)| of_these(name)).map(|(place, _)| place).collect();
        if reached.is_empty() {
            return None;
        }
        // An event without a field to group by belongs to no group.
        let mut group = Vec::new();
        for path in &correlation.group_by {
            let value = ringfence_audit::envelope::cut(&event.group(path)?, GROUP_BYTES_MAX);
            group.push((path.to_string(), value));
        }
        let value = match &correlation.kind {
            Kind::ValueCount(path, _) => {
                event.text(path).map(|text| ringfence_audit::envelope::cut(&text, GROUP_BYTES_MAX))
            }
            _ => None,
        };
        let key = GroupKey {
            pack: (pack.owner.clone(), pack.name.clone()),
            rule: at,
            values: group.iter().map(|(_, value)| value.clone()).collect(),
        };
        let window = self.window(&event.log, key);
        let mut holds = false;
        if matches!(correlation.kind, Kind::EventCount(_) | Kind::ValueCount(..)) {
            holds = correlation.take(window, 0, event.time_ms, value, event.stands_for());
        } else {
            // From the last to the first, so that one event is not two steps of a chain.
            for place in reached.into_iter().rev() {
                holds |= correlation.take(window, place, event.time_ms, None, 1);
            }
        }
        holds.then_some(group)
    }

    fn window(&mut self, log: &str, key: GroupKey) -> &mut Window {
        let turn = self.turn;
        if self.logs.len() >= LOGS_COUNT_MAX && !self.logs.contains_key(log) {
            let oldest = self.logs.iter().min_by_key(|(_, groups)| groups.used).map(|(log, _)| log.clone());
            oldest.and_then(|log| self.logs.remove(&log));
        }
        let groups = self.logs.entry(log.to_owned()).or_default();
        groups.used = turn;
        if groups.windows.len() >= GROUPS_COUNT_MAX && !groups.windows.contains_key(&key) {
            groups.make_room();
        }
        let (used, window) = groups.windows.entry(key).or_default();
        *used = turn;
        window
    }
}

// === impl Groups ===

impl Groups {
    /// Lets the eighth go that was longest without an event, so that the search is paid for once in many.
    fn make_room(&mut self) {
        let mut used: Vec<u64> = self.windows.values().map(|(used, _)| *used).collect();
        let place = used.len() / 8;
        if place < used.len() {
            let (_, border, _) = used.select_nth_unstable(place);
            let border = *border;
            self.windows.retain(|_, (used, _)| *used > border);
        }
    }
}

/// Whom or what a single event is about: what the rule's answer is against, or else who acted. Without it the first one who
/// is found would hide whoever comes after him.
fn whom(rule: &Rule, event: &Event) -> Vec<(String, String)> {
    let field = match rule.response.map(|suggested| suggested.kind) {
        Some(Answer::BlockSource) => "src_endpoint.ip",
        Some(Answer::FreezeEgress) => "resources.uid",
        Some(Answer::QuarantineVersion) => "unmapped.details.digest",
        _ => "actor.user.uid",
    };
    let value = Path::parse(field).and_then(|path| event.group(&path));
    let named = value.map(|value| (field.to_owned(), ringfence_audit::envelope::cut(&value, GROUP_BYTES_MAX)));
    named.into_iter().collect()
}

/// Whether a single-event rule makes findings of its own: no correlation of its pack is about it, or one says so.
fn is_alone(pack: &Pack, name: &str) -> bool {
    let mut about = pack.rules.iter().filter_map(|rule| match &rule.looks_for {
        LooksFor::Several(correlation) if correlation.rules.iter().any(|wanted| wanted == name) => {
            Some(correlation.generate)
        }
        _ => None,
    });
    about.next().is_none_or(|first| first || about.any(|generate| generate))
}

/// Packs by owner and name, as they are in force for one log.
#[derive(Debug, Default, Clone)]
pub struct InForce {
    /// Those for every log.
    pub everywhere: BTreeMap<(String, String), Arc<Pack>>,
    /// Those for one log alone, by its label.
    pub own: HashMap<String, BTreeMap<String, Arc<Pack>>>,
}

impl InForce {
    /// The packs for a log.
    pub fn of(&self, log: &str) -> Vec<Arc<Pack>> {
        let own = self.own.get(log).into_iter().flat_map(BTreeMap::values);
        self.everywhere.values().chain(own).cloned().collect()
    }

    /// The rule of a hit.
    pub fn rule(&self, log: &str, hit: &Hit) -> Option<(Arc<Pack>, Rule)> {
        let pack = match self.own.get(log).and_then(|own| own.get(&hit.pack)).filter(|pack| pack.owner == hit.owner) {
            Some(pack) => Arc::clone(pack),
            None => Arc::clone(self.everywhere.get(&(hit.owner.clone(), hit.pack.clone()))?),
        };
        let rule = pack.rules.get(hit.rule)?.clone();
        Some((pack, rule))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pack(correlation: &str) -> Vec<Arc<Pack>> {
        let text = format!(
            "title: base\nname: base\nlogsource: {{product: ringfence, service: audit}}\n\
             detection: {{s: {{unmapped.code: X}}, condition: s}}\n---\ntitle: many\nname: many\ncorrelation: {correlation}\n"
        );
        let rules = crate::sigma::parse(&text).unwrap();
        vec![Arc::new(Pack { owner: "ringfence".into(), name: "p".into(), edition: Edition::of(0, &text), rules })]
    }

    fn event(log: &str, actor: &str, time_ms: i64) -> Event {
        let body = json!({"unmapped": {"code": "X"}, "actor": {"user": {"uid": actor}}});
        Event { log: log.into(), seq: 0, time_ms, body }
    }

    #[test]
    fn groups_and_logs_do_not_add_up_with_each_other() {
        let packs =
            pack("{type: event_count, rules: base, group-by: actor.user.uid, timespan: 10s, condition: {gte: 3}}");
        let mut memory = Memory::default();
        for (log, actor, at) in [("a", "x", 0), ("a", "y", 1), ("b", "x", 2), ("a", "x", 3), ("b", "x", 4)] {
            assert!(memory.take(&packs, &event(log, actor, at)).is_empty());
        }
        let hits = memory.take(&packs, &event("a", "x", 5));
        assert_eq!(hits[0].group, [("actor.user.uid".to_owned(), "x".to_owned())]);
        assert!(memory.take(&packs, &event("b", "x", 50_000)).is_empty(), "the window is over");
    }

    #[test]
    fn a_flood_of_groups_costs_no_more_than_the_limit_and_no_other_log_anything() {
        let packs =
            pack("{type: event_count, rules: base, group-by: actor.user.uid, timespan: 1h, condition: {gte: 2}}");
        let mut memory = Memory::default();
        memory.take(&packs, &event("quiet", "x", 0));
        for at in 0..(3 * GROUPS_COUNT_MAX) {
            memory.take(&packs, &event("loud", &format!("p{at}"), 1));
        }
        assert!(memory.groups_count() <= GROUPS_COUNT_MAX + 1);
        assert_eq!(memory.take(&packs, &event("quiet", "x", 2)).len(), 1, "what a quiet log remembers is still there");
    }

    #[test]
    fn a_rule_that_a_correlation_is_about_is_silent_by_itself_unless_it_is_asked_not_to_be() {
        let silent = pack("{type: event_count, rules: base, timespan: 1h, condition: {gte: 9}}");
        assert!(Memory::default().take(&silent, &event("a", "x", 0)).is_empty());
        let loud = pack("{type: event_count, rules: base, timespan: 1h, condition: {gte: 9}, generate: true}");
        assert_eq!(Memory::default().take(&loud, &event("a", "x", 0)).len(), 1);
    }

    #[test]
    fn a_single_event_is_about_what_its_answer_is_against_or_else_about_who_acted() {
        let group = |answer: &str| {
            let text = format!(
                "title: one\nname: one\nlogsource: {{product: ringfence, service: audit}}\n\
                 detection: {{s: {{unmapped.code: X}}, condition: s}}\nlevel: low\n{answer}"
            );
            let rules = crate::sigma::parse(&text).unwrap();
            let pack = Pack { owner: "acme".into(), name: "one".into(), edition: Edition::of(1, &text), rules };
            let mut event = event("a", "x", 0);
            event.body["resources"] = json!([{"uid": "tenant/acme/plugin/p"}]);
            event.body["src_endpoint"] = json!({"ip": "192.0.2.1"});
            let hits = Memory::default().take(&[Arc::new(pack)], &event);
            hits[0].group.iter().map(|(field, value)| format!("{field}={value}")).collect::<Vec<_>>().join(" ")
        };
        let answer = |kind: &str| group(&format!("ringfence: {{response: {{kind: {kind}, minutes: 5}}}}\n"));
        assert_eq!(group(""), "actor.user.uid=x");
        assert_eq!(answer("suspend-principal"), "actor.user.uid=x");
        assert_eq!(answer("freeze-egress"), "resources.uid=tenant/acme/plugin/p");
        assert_eq!(answer("block-source"), "src_endpoint.ip=192.0.2.1");
        assert_eq!(answer("quarantine-version"), "", "the event names no component");
    }

    #[test]
    fn addresses_of_one_ipv6_network_are_one_source() {
        let packs =
            pack("{type: event_count, rules: base, group-by: src_endpoint.ip, timespan: 1h, condition: {gte: 2}}");
        let from = |memory: &mut Memory, ip: &str| {
            let mut event = event("a", "x", 0);
            event.body["src_endpoint"] = json!({ "ip": ip });
            memory.take(&packs, &event)
        };
        let mut memory = Memory::default();
        assert!(from(&mut memory, "2001:db8:0:1::1").is_empty() && from(&mut memory, "2001:db8:0:2::1").is_empty());
        let hits = from(&mut memory, "2001:db8:0:1::2");
        assert_eq!(hits[0].group, [("src_endpoint.ip".to_owned(), "2001:db8:0:1::/64".to_owned())]);
    }

    #[test]
    fn an_event_without_the_field_to_group_by_counts_for_nobody() {
        let packs =
            pack("{type: event_count, rules: base, group-by: src_endpoint.ip, timespan: 1h, condition: {gte: 1}}");
        assert!(Memory::default().take(&packs, &event("a", "x", 0)).is_empty());
    }
}
