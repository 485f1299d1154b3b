//! A STIX 2.1 bundle, read: indicators with who says so and how they are marked.
//!
//! Pure. Ids are kept as they came. Must never take an indicator without what the standard requires of it, nor take a marking
//! for less than it may say, nor one that is broken for one that says nothing; what is wrong with one object is told and does
//! not spoil the others.

use std::collections::HashMap;

use jiff::Timestamp;
use serde_json::Value;

use super::{Indicator, Trust, Use};

/// LIMIT: objects of one bundle.
pub const OBJECTS_COUNT_MAX: usize = 20_000;
/// LIMIT: longest name, id or type kept, in bytes.
const WORDS_BYTES_MAX: usize = 256;
/// LIMIT: longest pattern, in bytes.
const PATTERN_BYTES_MAX: usize = 8_192;
/// LIMIT: markings of one object.
const MARKINGS_COUNT_MAX: usize = 32;
/// LIMIT: types kept of one indicator.
const TYPES_COUNT_MAX: usize = 16;
/// LIMIT: objects that cannot be read of which it is said why.
const REFUSED_COUNT_MAX: usize = 100;
/// What TLP says, from the least strict to the strictest. `amber+strict` is of TLP 2.0, which says `clear` for `white`.
const LEVELS: [&str; 5] = ["clear", "green", "amber", "amber+strict", RED];
const RED: &str = "red";

/// What a bundle held.
#[derive(Debug, Clone, PartialEq)]
pub struct Bundle {
    /// Its indicators, each judged.
    pub indicators: Vec<Indicator>,
    /// Objects that are not indicators: kept by nobody, counted here.
    pub others_count: usize,
    /// Objects that cannot be read, and why; the first hundred.
    pub refused: Vec<String>,
    /// How many they are.
    pub refused_count: usize,
}

/// The markings that a bundle carries, by id: what each says of TLP, if it says anything of it.
type Marks<'a> = HashMap<&'a str, Option<&'static str>>;

/// Reads a bundle.
pub fn read(bundle: &Value, from: (&str, Trust), now: Timestamp) -> Result<Bundle, String> {
    if bundle.get("type").and_then(Value::as_str) != Some("bundle") {
        return Err("its `type` is not `bundle`".to_owned());
    }
    // The standard lets a bundle leave them out when it has none.
    let objects: &[Value] = match bundle.get("objects") {
        None => &[],
        Some(objects) => objects.as_array().map(Vec::as_slice).ok_or("its `objects` is no list")?,
    };
    if objects.len() > OBJECTS_COUNT_MAX {
        return Err(format!("it has over {OBJECTS_COUNT_MAX} objects"));
    }
    let named: HashMap<&str, String> =
        objects.iter().filter_map(|object| Some((text(object, "id")?, text(object, "name")?.to_owned()))).collect();
    let marks: Marks = objects
        .iter()
        .filter(|object| text(object, "type") == Some("marking-definition"))
        .filter_map(|object| Some((text(object, "id")?, tlp(object))))
        .collect();
    let mut read = Bundle { indicators: Vec::new(), others_count: 0, refused: Vec::new(), refused_count: 0 };
    for object in objects {
        match text(object, "type") {
            None => read.refuse(object, "it has no `type`"),
            Some("indicator") => match indicator(object, from, now, &named, &marks) {
                Ok(indicator) => read.indicators.push(indicator),
                Err(why) => read.refuse(object, &why),
            },
            Some(_) => read.others_count += 1,
        }
    }
    Ok(read)
}

impl Bundle {
    fn refuse(&mut self, object: &Value, why: &str) {
        self.refused_count += 1;
        if self.refused.len() < REFUSED_COUNT_MAX {
            self.refused.push(format!("{}: {why}", cut(text(object, "id").unwrap_or("an object without id"))));
        }
    }
}

fn indicator(
    object: &Value,
    (feed, trust): (&str, Trust),
    now: Timestamp,
    named: &HashMap<&str, String>,
    marks: &Marks<'_>,
) -> Result<Indicator, String> {
    let may = |key: &str| match object.get(key) {
        None => Ok(None),
        Some(value) => value.as_str().map(Some).ok_or_else(|| format!("`{key}` is no text")),
    };
    let need = |key: &str| may(key)?.ok_or_else(|| format!("`{key}` is missing"));
    let time = |key: &str| match object.get(key) {
        None => Ok(None),
        Some(value) => {
            let time = value.as_str().and_then(|text| text.parse::<Timestamp>().ok());
            time.map(Some).ok_or_else(|| format!("`{key}` is no time"))
        }
    };
    if need("spec_version")? != "2.1" {
        return Err("its `spec_version` is not 2.1".to_owned());
    }
    let id = need("id")?;
    if !id.starts_with("indicator--") || id.len() > WORDS_BYTES_MAX {
        return Err("its `id` is not that of an indicator".to_owned());
    }
    if need("pattern_type")? != "stix" {
        return Err("its `pattern_type` is not `stix`".to_owned());
    }
    let confidence = match object.get("confidence") {
        None => None,
        Some(value) => {
            let number = value.as_u64().and_then(|number| u8::try_from(number).ok()).filter(|number| *number <= 100);
            Some(number.ok_or("its `confidence` is not 0 to 100")?)
        }
    };
    let pattern = need("pattern")?;
    if pattern.len() > PATTERN_BYTES_MAX {
        return Err(format!("its `pattern` is over {PATTERN_BYTES_MAX} bytes"));
    }
    let marking_refs = marking_refs(object)?;
    let source = may("created_by_ref")?.map(|id| named.get(id).cloned().unwrap_or_else(|| id.to_owned()));
    let mut indicator = Indicator {
        id: id.to_owned(),
        name: cut(may("name")?.unwrap_or_default()),
        types: types(object)?,
        pattern: pattern.to_owned(),
        confidence,
        valid_from: time("valid_from")?.ok_or("`valid_from` is missing")?,
        valid_until: time("valid_until")?,
        revoked: match object.get("revoked") {
            None => false,
            Some(value) => value.as_bool().ok_or("`revoked` is neither true nor false")?,
        },
        tlp: strictest(&marking_refs, marks).map(ToOwned::to_owned),
        marking_refs,
        source: source.map(|source| cut(&source)),
        feed: feed.to_owned(),
        trust,
        created: time("created")?,
        modified: time("modified")?.ok_or("`modified` is missing")?,
        loaded_at: now,
        used: Use::Matched,
        sightings_count: 0,
        seen_ms: None,
        past_asked: false,
        counted: std::collections::BTreeMap::new(),
    };
    if indicator.valid_until.is_some_and(|until| until <= indicator.valid_from) {
        return Err("it ends before it begins".to_owned());
    }
    indicator.used = indicator.judge(now);
    Ok(indicator)
}

/// What an indicator says of its kind; the first of them.
fn types(object: &Value) -> Result<Vec<String>, String> {
    let Some(types) = object.get("indicator_types") else { return Ok(Vec::new()) };
    let words = types.as_array().and_then(|types| types.iter().map(Value::as_str).collect::<Option<Vec<_>>>());
    let words = words.ok_or("`indicator_types` is no list of words")?;
    Ok(words.into_iter().take(TYPES_COUNT_MAX).map(cut).collect())
}

/// How an object is marked: as a whole, and in parts, which count for the whole here.
fn marking_refs(object: &Value) -> Result<Vec<String>, String> {
    let list = |key: &str| match object.get(key) {
        None => Ok(&[] as &[Value]),
        Some(value) => value.as_array().map(Vec::as_slice).ok_or_else(|| format!("`{key}` is no list")),
    };
    let mut refs: Vec<&Value> = list("object_marking_refs")?.iter().collect();
    for part in list("granular_markings")? {
        match (part.get("marking_ref"), part.get("lang")) {
            (Some(id), _) => refs.push(id),
            // It says in what language a part is.
            (None, Some(_)) => {}
            (None, None) => return Err("a part of `granular_markings` marks with nothing".to_owned()),
        }
    }
    if refs.len() > MARKINGS_COUNT_MAX {
        return Err(format!("it has over {MARKINGS_COUNT_MAX} markings"));
    }
    let id = |one: &Value| one.as_str().filter(|id| id.len() <= WORDS_BYTES_MAX).map(ToOwned::to_owned);
    refs.into_iter().map(|one| id(one).ok_or_else(|| "a marking is named by what is no id".to_owned())).collect()
}

/// The strictest of what markings say of TLP; none when none of them says anything of it.
fn strictest(refs: &[String], marks: &Marks<'_>) -> Option<&'static str> {
    let level = |id: &String| match (known_tlp(id), marks.get(id.as_str())) {
        (Some(level), _) => Some(level),
        (None, Some(said)) => *said,
        // SECURITY: one that did not come along may say anything.
        (None, None) => Some(RED),
    };
    refs.iter().filter_map(level).max_by_key(|level| LEVELS.iter().position(|known| known == level))
}

/// What a marking says of TLP, in either form of the standard; the strictest for a word that is none.
fn tlp(object: &Value) -> Option<&'static str> {
    let old = object.pointer("/definition/tlp");
    let new = object
        .get("extensions")
        .and_then(Value::as_object)
        .into_iter()
        .flat_map(|all| all.values())
        .find_map(|one| one.get("tlp_2_0"));
    // SECURITY: what is no word may be meant as any.
    let Some(word) = old.or(new)?.as_str().map(str::to_ascii_lowercase) else { return Some(RED) };
    let known = |word: &str| LEVELS.into_iter().find(|known| *known == word);
    Some(if word == "white" { "clear" } else { known(&word).unwrap_or(RED) })
}

/// The markings that bundles name without carrying them: those that STIX 2.1 itself defines (7.2.1.4), and those of the OASIS
/// extension for TLP 2.0 (`extension-definition--60a3c5c5-0d10-413e-aab3-9e08dde9e88d`, cti-stix-common-objects).
fn known_tlp(id: &str) -> Option<&'static str> {
    Some(match id {
        "marking-definition--613f2e26-407d-48c7-9eca-b8e91df99dc9"
        | "marking-definition--94868c89-83c2-464b-929b-a1a8aa3c8487" => "clear",
        "marking-definition--34098fce-860f-48ae-8e50-ebd3cc5e41da"
        | "marking-definition--bab4a63c-aed9-4cf5-a766-dfca5abac2bb" => "green",
        "marking-definition--f88d31f6-486f-44da-b317-01333bde0b82"
        | "marking-definition--55d920b0-5e8b-4f79-9ee9-91f868d9b421" => "amber",
        "marking-definition--939a9414-2ddd-4d32-a0cd-375ea402b003" => "amber+strict",
        "marking-definition--5e57c739-391a-4eb3-b6be-7d15ca92d5ed"
        | "marking-definition--e828b379-4e03-4974-9ac4-e53a884c97c1" => RED,
        _ => return None,
    })
}

fn text<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.get(key).and_then(Value::as_str)
}

fn cut(text: &str) -> String {
    ringfence_audit::envelope::cut(text, WORDS_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn one(extra: Value) -> Value {
        let mut object = json!({
            "type": "indicator", "spec_version": "2.1", "id": "indicator--8e2e2d2b-17d4-4cbf-938f-98ee46b3cd3f",
            "created_by_ref": "identity--1", "created": "2026-01-01T00:00:00Z", "modified": "2026-01-01T00:00:00Z",
            "name": "bad address", "pattern": "[ipv4-addr:value = '203.0.113.9']", "pattern_type": "stix",
            "valid_from": "2026-01-01T00:00:00Z", "confidence": 80,
        });
        for (key, value) in extra.as_object().into_iter().flatten() {
            object[key] = value.clone();
        }
        json!({"type": "bundle", "id": "bundle--1", "objects": [
            {"type": "identity", "id": "identity--1", "name": "A source"}, object]})
    }

    fn read_one(extra: Value) -> Bundle {
        read(&one(extra), ("file", Trust::default()), "2026-06-01T00:00:00Z".parse().unwrap()).unwrap()
    }

    #[test]
    fn an_indicator_keeps_its_id_its_source_and_its_marking() {
        let red = json!({"object_marking_refs": ["marking-definition--5e57c739-391a-4eb3-b6be-7d15ca92d5ed"]});
        let bundle = read_one(red);
        let indicator = bundle.indicators.first().unwrap();
        assert_eq!(indicator.id, "indicator--8e2e2d2b-17d4-4cbf-938f-98ee46b3cd3f");
        assert_eq!((indicator.source.as_deref(), indicator.tlp.as_deref()), (Some("A source"), Some("red")));
        assert_eq!((&indicator.used, bundle.others_count), (&Use::Matched, 1));
    }

    #[test]
    fn the_strictest_marking_counts_and_one_that_did_not_come_along_is_red() {
        let (clear, green) = ("94868c89-83c2-464b-929b-a1a8aa3c8487", "bab4a63c-aed9-4cf5-a766-dfca5abac2bb");
        let (amber, strict) = ("55d920b0-5e8b-4f79-9ee9-91f868d9b421", "939a9414-2ddd-4d32-a0cd-375ea402b003");
        let (red, red_of_1) = ("e828b379-4e03-4974-9ac4-e53a884c97c1", "5e57c739-391a-4eb3-b6be-7d15ca92d5ed");
        let carried = [
            json!({"type": "marking-definition", "id": "marking-definition--words", "definition": {"statement": "(c)"}}),
            json!({"type": "marking-definition", "id": "marking-definition--own", "extensions": {
                "extension-definition--60a3c5c5-0d10-413e-aab3-9e08dde9e88d": {"tlp_2_0": "amber"}}}),
            json!({"type": "marking-definition", "id": "marking-definition--odd", "definition": {"tlp": "mauve"}}),
            json!({"type": "marking-definition", "id": "marking-definition--number", "definition": {"tlp": 3}}),
            // Who carries a published id may not make less of it.
            json!({"type": "marking-definition", "id": format!("marking-definition--{red}"), "definition": {"tlp": "clear"}}),
        ];
        for (ids, says) in [
            (vec![], None),
            (vec![clear], Some("clear")),
            (vec![green, amber], Some("amber")),
            (vec![strict, amber], Some("amber+strict")),
            (vec![green, red], Some("red")),
            (vec![red_of_1, clear], Some("red")),
            (vec!["words"], None),
            (vec!["own", "words"], Some("amber")),
            (vec!["odd"], Some("red")),
            (vec!["number"], Some("red")),
            (vec![clear, "elsewhere"], Some("red")),
        ] {
            let refs: Vec<String> = ids.iter().map(|id| format!("marking-definition--{id}")).collect();
            let parts: Vec<Value> = refs.iter().map(|id| json!({"marking_ref": id, "selectors": ["name"]})).collect();
            for extra in [json!({"object_marking_refs": refs}), json!({"granular_markings": parts})] {
                let mut bundle = one(extra);
                bundle["objects"].as_array_mut().unwrap().extend(carried.clone());
                let now = "2026-06-01T00:00:00Z".parse().unwrap();
                let bundle = read(&bundle, ("file", Trust::default()), now).unwrap();
                let indicator = bundle.indicators.first().unwrap();
                assert_eq!((indicator.tlp.as_deref(), &indicator.marking_refs), (says, &refs));
            }
        }
    }

    #[test]
    fn what_is_wrong_with_one_object_is_told_and_does_not_spoil_the_bundle() {
        for (extra, says) in [
            (json!({"spec_version": "2.0"}), "spec_version"),
            (json!({"valid_until": "2025-01-01T00:00:00Z"}), "ends before"),
            (json!({"confidence": 300}), "confidence"),
            (json!({"pattern_type": "yara"}), "pattern_type"),
            (json!({"valid_from": "yesterday"}), "valid_from"),
            (json!({"id": "malware--1"}), "`id`"),
            (json!({"object_marking_refs": "marking-definition--1"}), "object_marking_refs"),
            (json!({"object_marking_refs": [1]}), "no id"),
            (json!({"granular_markings": ["marking-definition--1"]}), "marks with nothing"),
            (json!({"granular_markings": [{"selectors": ["name"]}]}), "marks with nothing"),
            // What cannot be read must not be taken for what is not said: it would hold for ever, or be no longer taken back.
            (json!({"valid_until": 1_790_000_000}), "`valid_until` is no time"),
            (json!({"valid_until": null}), "`valid_until` is no time"),
            (json!({"created": 7}), "`created` is no time"),
            (json!({"revoked": "true"}), "`revoked`"),
            (json!({"name": ["bad address"]}), "`name`"),
            (json!({"created_by_ref": {}}), "`created_by_ref`"),
            (json!({"indicator_types": "malicious-activity"}), "`indicator_types`"),
            (json!({"indicator_types": ["malicious-activity", 7]}), "`indicator_types`"),
            (json!({"pattern": 7}), "`pattern` is no text"),
            (
                json!({"pattern": format!("[ipv4-addr:value = '{}']", "1".repeat(PATTERN_BYTES_MAX))}),
                "`pattern` is over",
            ),
            (json!({"object_marking_refs": vec!["marking-definition--1"; MARKINGS_COUNT_MAX + 1]}), "markings"),
        ] {
            let bundle = read_one(extra);
            assert!(bundle.indicators.is_empty() && bundle.refused[0].contains(says), "{:?}", bundle.refused);
            assert_eq!((bundle.refused_count, bundle.others_count), (1, 1));
        }
        let language = json!([{"lang": "fr", "selectors": ["name"]}]);
        assert_eq!(read_one(json!({"granular_markings": language})).indicators.len(), 1);
    }

    #[test]
    fn a_bundle_that_broke_is_refused_and_does_not_look_like_an_empty_one() {
        let read = |bundle: &Value| read(bundle, ("file", Trust::default()), Timestamp::UNIX_EPOCH);
        for bad in [json!({}), json!([]), json!({"type": "bundle", "objects": vec![json!({}); OBJECTS_COUNT_MAX + 1]})]
        {
            assert!(read(&bad).is_err());
        }
        for objects in [json!("x"), json!(null), json!({}), json!(7)] {
            let refused = read(&json!({"type": "bundle", "objects": objects})).unwrap_err();
            assert_eq!(refused, "its `objects` is no list");
        }
        for empty in [json!({"type": "bundle"}), json!({"type": "bundle", "objects": []})] {
            let empty = read(&empty).unwrap();
            assert_eq!((empty.indicators.len(), empty.others_count, empty.refused_count), (0, 0, 0));
        }
        let rubbish = vec![json!("x"), json!(null), json!({"id": "indicator--1"}), json!({"type": 7})];
        let told = read(&json!({"type": "bundle", "objects": rubbish})).unwrap();
        assert_eq!((told.others_count, told.refused_count), (0, 4));
        assert_eq!(told.refused[2], "indicator--1: it has no `type`");
        let many = read(&json!({"type": "bundle", "objects": vec![json!(7); REFUSED_COUNT_MAX + 5]})).unwrap();
        assert_eq!((many.refused.len(), many.refused_count), (REFUSED_COUNT_MAX, REFUSED_COUNT_MAX + 5));
    }
}
