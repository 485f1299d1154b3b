//! Findings as a STIX 2.1 bundle, for others' tools.
//!
//! Pure. Each finding is a note (what it says and where the log has it), the observed data (who acted, from where), and sightings
//! of what it is a sign of: techniques of ATT&CK, or the indicator that was matched. Ids are made of what they name, so that a
//! finding that is taken twice is one: the first 128 bits of a SHA-256, in the form of a random UUID. Must never leave an object
//! without its marking, nor mark it for less than it may be: findings are TLP:AMBER+STRICT, and what comes of intelligence, whose
//! own marking is the source's to give, is TLP:RED.

use std::collections::BTreeMap;

use data_encoding::HEXLOWER;
use ringfence_threat::Finding;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::host::word;

/// Of the answer that is a bundle.
pub(crate) const MEDIA_TYPE: &str = "application/stix+json;version=2.1";
/// LIMIT: most that `number_observed` and `count` may say.
const COUNT_MAX: u64 = 999_999_999;
/// When what is the same in all bundles was made.
const ALWAYS: &str = "2026-01-01T00:00:00.000Z";
/// The OASIS extension for TLP 2.0, and two of its markings (cti-stix-common-objects).
const TLP_2: &str = "extension-definition--60a3c5c5-0d10-413e-aab3-9e08dde9e88d";
const STRICT: (&str, &str) = ("marking-definition--939a9414-2ddd-4d32-a0cd-375ea402b003", "amber+strict");
const RED: (&str, &str) = ("marking-definition--e828b379-4e03-4974-9ac4-e53a884c97c1", "red");
/// When those were made.
const TLP_2_MADE: &str = "2022-10-01T00:00:00.000Z";

/// A bundle of findings of one owner.
pub(crate) fn bundle(findings: &[Finding]) -> Value {
    let mut objects = Objects::default();
    objects.put(definition(STRICT));
    let host = objects.put(json!({
        "type": "identity", "spec_version": "2.1", "id": id("identity", &["Ringfence"]), "created": ALWAYS,
        "modified": ALWAYS, "name": "Ringfence", "identity_class": "system", "object_marking_refs": [STRICT.0],
    }));
    for finding in findings {
        objects.add(finding, &host);
    }
    let ids: Vec<&str> = findings.iter().map(|finding| finding.id.as_str()).collect();
    json!({ "type": "bundle", "id": id("bundle", &ids), "objects": objects.into_list() })
}

/// The objects of a bundle, each once, by their ids.
#[derive(Default)]
struct Objects(BTreeMap<String, Value>);

// === impl Objects ===

impl Objects {
    /// Puts an object in, and gives its id. Of two that are one but for their markings the stricter stays.
    fn put(&mut self, object: Value) -> String {
        let id = object.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
        let is_red = object.pointer("/object_marking_refs/0").and_then(Value::as_str) == Some(RED.0);
        if is_red || !self.0.contains_key(&id) {
            self.0.insert(id.clone(), object);
        }
        id
    }

    fn add(&mut self, finding: &Finding, host: &str) {
        let is_matched = finding.rule_owner == "intelligence";
        let mark = if is_matched { RED } else { STRICT };
        let (found, last) = (at(finding.found_ms), at(finding.found_ms.max(finding.last_ms)));
        let common = json!({
            "spec_version": "2.1", "created": found, "modified": last, "created_by_ref": host,
            "object_marking_refs": [mark.0],
        });
        let made = |kind: &str, of: &[&str], more: Value| {
            let mut object = common.clone();
            if let (Some(members), Value::Object(more)) = (object.as_object_mut(), more) {
                members.insert("type".to_owned(), kind.into());
                members.insert("id".to_owned(), id(kind, of).into());
                members.extend(more);
            }
            object
        };
        let count = finding.count.clamp(1, COUNT_MAX);
        let seen = self.observables(finding, mark.0);
        let mut about = seen.clone();
        let mut data = Vec::new();
        if !seen.is_empty() {
            let observed = json!({
                "first_observed": at(finding.first_ms), "last_observed": at(finding.last_ms), "number_observed": count,
                "object_refs": seen,
            });
            data.push(self.put(made("observed-data", &[&finding.id], observed)));
        }
        for sign in self.signs(finding) {
            let mut sighting = json!({
                "sighting_of_ref": sign, "first_seen": at(finding.first_ms), "last_seen": at(finding.last_ms),
                "count": count, "where_sighted_refs": [host],
            });
            if let Some(members) = sighting.as_object_mut().filter(|_| !data.is_empty()) {
                members.insert("observed_data_refs".to_owned(), json!(data));
            }
            about.push(self.put(made("sighting", &[&finding.id, &sign], sighting)));
        }
        about.extend(data);
        about.push(host.to_owned());
        let note = json!({ "abstract": finding.title, "content": content(finding), "object_refs": about });
        self.put(made("note", &[&finding.id], note));
        self.put(definition(mark));
    }

    /// Who acted, and from where.
    fn observables(&mut self, finding: &Finding, mark: &str) -> Vec<String> {
        let mut seen = Vec::new();
        if let Some(actor) = &finding.actor {
            let account = json!({
                "type": "user-account", "spec_version": "2.1", "id": id("user-account", &[actor]), "user_id": actor,
                "object_marking_refs": [mark],
            });
            seen.push(self.put(account));
        }
        if let Some(source) = finding.source.as_deref().filter(|source| source.parse::<std::net::IpAddr>().is_ok()) {
            let kind = if source.contains(':') { "ipv6-addr" } else { "ipv4-addr" };
            let address = json!({
                "type": kind, "spec_version": "2.1", "id": id(kind, &[source]), "value": source,
                "object_marking_refs": [mark],
            });
            seen.push(self.put(address));
        }
        seen
    }

    /// What a finding is a sign of: the ids of the indicators that were matched, as their source gave them, or techniques.
    fn signs(&mut self, finding: &Finding) -> Vec<String> {
        if finding.rule_owner == "intelligence" {
            let matched = finding.group.iter().filter(|(field, _)| field == "indicator").map(|(_, id)| id);
            return matched.filter(|id| is_id("indicator", id)).cloned().collect();
        }
        let technique = |name: &String| {
            json!({
                "type": "attack-pattern", "spec_version": "2.1", "id": id("attack-pattern", &[name]), "created": ALWAYS,
                "modified": ALWAYS, "name": name, "object_marking_refs": [STRICT.0],
                "external_references": [{ "source_name": "mitre-attack", "external_id": name }],
            })
        };
        finding.attack.iter().map(|name| self.put(technique(name))).collect()
    }

    fn into_list(self) -> Vec<Value> {
        self.0.into_values().collect()
    }
}

/// A time of the log as the standard wants that of making and changing: to the millisecond, also where that is none.
fn at(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map(|at| format!("{at:.3}")).unwrap_or_default()
}

/// A marking, for readers who do not know it by its id.
fn definition((id, level): (&str, &str)) -> Value {
    json!({
        "type": "marking-definition", "spec_version": "2.1", "id": id, "created": TLP_2_MADE,
        "name": format!("TLP:{}", level.to_uppercase()),
        "extensions": { (TLP_2): { "extension_type": "property-extension", "tlp_2_0": level } },
    })
}

/// What the standard has no member for, as text for people.
fn content(finding: &Finding) -> String {
    let of = |name: &str, value: &str| if value.is_empty() { String::new() } else { format!("{name}: {value}\n") };
    let places: Vec<String> = finding.evidence.iter().map(u64::to_string).collect();
    let version = finding.edition.map(|text| format!(", version {}", text.version)).unwrap_or_default();
    let attack = if finding.attack.is_empty() { "" } else { finding.attack_version.as_str() };
    [
        of("finding", &finding.id),
        of("level", &word(&finding.level)),
        of("rule", &format!("{}/{}{version}", finding.rule_owner, finding.rule)),
        of("ATT&CK version", attack),
        of("risk points", &finding.risk.points.to_string()),
        of("on", finding.resource.as_deref().unwrap_or_default()),
        of("audit log", &format!("{}, entries {}", finding.log, places.join(", "))),
        of("held from", &at(finding.first_ms)),
        of("until", &at(finding.last_ms)),
        of("as of", &at(finding.found_ms.max(finding.last_ms))),
    ]
    .concat()
}

/// The id of an object of a kind, made of what it is.
fn id(kind: &str, of: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in [kind].iter().chain(of) {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    let text = HEXLOWER.encode(&hash.finalize());
    let part = |from: usize, to: usize| text.get(from..to).unwrap_or_default();
    format!("{kind}--{}-{}-4{}-a{}-{}", part(0, 8), part(8, 12), part(12, 15), part(15, 18), part(18, 30))
}

/// Whether a text is an id of a kind as the standard has them.
fn is_id(kind: &str, text: &str) -> bool {
    let Some(uuid) = text.strip_prefix(kind).and_then(|rest| rest.strip_prefix("--")) else { return false };
    let lengths: Vec<usize> = uuid.split('-').map(str::len).collect();
    lengths == [8, 4, 4, 4, 12] && uuid.bytes().all(|b| b == b'-' || matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether a finding stands for something that happened: those of drills do not.
pub(crate) fn is_real(finding: &Finding) -> bool {
    finding.drill.is_none()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test is a panic with a place")]

    use super::*;

    fn finding(id: &str, owner: &str, group: Value) -> Finding {
        serde_json::from_value(json!({
            "id": id, "log": "acme", "rule_owner": owner, "rule": "brute-force", "title": "Many refused sign-ins",
            "level": "high", "attack": ["T1110", "T1110.001"], "attack_version": "19.1", "group": group,
            "actor": "anonymous", "resource": "host", "source": "2001:db8::1", "evidence": [4, 7], "count": 5,
            "first_ms": 1_790_000_000_000_i64, "last_ms": 1_790_000_100_000_i64, "found_ms": 1_790_000_000_500_i64,
            "risk": { "points": 4, "contributions": [] }, "drill": null, "response": null,
        }))
        .unwrap()
    }

    fn is_time(text: &str) -> bool {
        text.parse::<jiff::Timestamp>().is_ok() && text.len() == "2026-01-01T00:00:00.000Z".len() && text.ends_with('Z')
    }

    fn objects(bundle: &Value) -> Vec<Value> {
        bundle["objects"].as_array().unwrap().clone()
    }

    /// What STIX 2.1 requires of each kind used here, beside `type`, `spec_version` and `id` of all.
    fn required(kind: &str) -> &'static [&'static str] {
        match kind {
            "identity" | "attack-pattern" => &["created", "modified", "name"],
            "observed-data" => {
                &["created", "modified", "first_observed", "last_observed", "number_observed", "object_refs"]
            }
            "sighting" => &["created", "modified", "sighting_of_ref"],
            "note" => &["created", "modified", "content", "object_refs"],
            "marking-definition" => &["created", "extensions"],
            "user-account" => &["user_id"],
            "ipv4-addr" | "ipv6-addr" => &["value"],
            other => panic!("`{other}` is not made here"),
        }
    }

    #[test]
    fn every_object_has_what_the_standard_requires_a_marking_and_nothing_that_is_not_there() {
        let indicator = "indicator--0c7b5b88-8ff7-4a4d-aa9d-feb398cd0061";
        let matched = finding("f_b", "intelligence", json!([["indicator", indicator]]));
        let bundle = bundle(&[finding("f_a", "ringfence", json!([])), matched]);
        assert!(is_id("bundle", bundle["id"].as_str().unwrap()));
        let all = objects(&bundle);
        let ids: Vec<&str> = all.iter().map(|one| one["id"].as_str().unwrap()).collect();
        for object in &all {
            let kind = object["type"].as_str().unwrap();
            assert!(is_id(kind, object["id"].as_str().unwrap()) && object["spec_version"] == "2.1", "{object}");
            for name in required(kind) {
                assert!(!object[*name].is_null(), "{name} of {object}");
            }
            for name in ["created", "modified", "first_observed", "last_observed", "first_seen", "last_seen"] {
                assert!(object.get(name).is_none_or(|time| is_time(time.as_str().unwrap())), "{object}");
            }
            assert!(kind == "marking-definition" || object["object_marking_refs"].as_array().unwrap().len() == 1);
            for list in ["object_refs", "object_marking_refs", "observed_data_refs", "where_sighted_refs"] {
                for named in object.get(list).and_then(Value::as_array).into_iter().flatten() {
                    assert!(ids.contains(&named.as_str().unwrap()), "{named} of {object}");
                }
            }
        }
        let of = |kind: &str| all.iter().filter(|one| one["type"] == kind).collect::<Vec<_>>();
        let sighted: Vec<&str> = of("sighting").iter().map(|one| one["sighting_of_ref"].as_str().unwrap()).collect();
        assert_eq!((sighted.len(), sighted.contains(&indicator)), (3, true), "{sighted:?}");
        assert_eq!((of("note").len(), of("identity").len(), of("marking-definition").len()), (2, 1, 2));
    }

    #[test]
    fn what_comes_of_intelligence_is_red_and_the_rest_stays_inside() {
        let mark = |owner: &str| {
            let all = objects(&bundle(&[finding("f_a", owner, json!([]))]));
            let note = all.iter().find(|one| one["type"] == "note").unwrap();
            note["object_marking_refs"][0].clone()
        };
        assert_eq!(
            (mark("intelligence"), mark("ringfence"), mark("acme")),
            (json!(RED.0), json!(STRICT.0), json!(STRICT.0))
        );
    }

    #[test]
    fn the_same_finding_has_the_same_ids_and_another_has_others() {
        let ids = |id: &str| -> Vec<String> {
            let all = objects(&bundle(&[finding(id, "ringfence", json!([]))]));
            let own =
                all.iter().filter(|one| ["note", "sighting", "observed-data"].contains(&one["type"].as_str().unwrap()));
            own.map(|one| one["id"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(ids("f_a"), ids("f_a"));
        assert!(ids("f_a").iter().all(|one| !ids("f_b").contains(one)));
    }

    #[test]
    fn an_id_that_is_none_is_not_named_and_without_anybody_nothing_is_observed() {
        for wrong in [
            "indicator--1",
            "malware--0c7b5b88-8ff7-4a4d-aa9d-feb398cd0061",
            "indicator--0C7B5B88-8ff7-4a4d-aa9d-feb398cd0061",
        ] {
            let all = objects(&bundle(&[finding("f_a", "intelligence", json!([["indicator", wrong]]))]));
            assert!(all.iter().all(|one| one["type"] != "sighting"), "{wrong}");
        }
        let nobody = Finding { actor: None, source: None, ..finding("f_a", "ringfence", json!([])) };
        let all = objects(&bundle(&[nobody]));
        assert!(all.iter().all(|one| one["type"] != "observed-data" && one.get("observed_data_refs").is_none()));
        assert_eq!(all.iter().filter(|one| one["type"] == "sighting").count(), 2);
    }
}
