//! A STIX 2.1 bundle, read: indicators with who says so and how they are marked.
//!
//! Pure. Ids are kept as they came. Must never take an indicator without what the standard requires of it; what is wrong
//! with one object is told and does not spoil the others.

use std::collections::HashMap;

use jiff::Timestamp;
use serde_json::Value;

use super::{Indicator, Use};

/// LIMIT: objects of one bundle.
pub const OBJECTS_COUNT_MAX: usize = 20_000;
/// LIMIT: longest name, id or type kept, in bytes.
const WORDS_BYTES_MAX: usize = 256;

/// What a bundle held.
#[derive(Debug, Clone, PartialEq)]
pub struct Bundle {
    /// Its indicators, each judged.
    pub indicators: Vec<Indicator>,
    /// Objects that are not indicators: kept by nobody, counted here.
    pub others_count: usize,
    /// Objects that cannot be read, and why; the first hundred.
    pub refused: Vec<String>,
}

/// Reads a bundle.
pub fn read(bundle: &Value, feed: &str, now: Timestamp) -> Result<Bundle, String> {
    if bundle.get("type").and_then(Value::as_str) != Some("bundle") {
        return Err("its `type` is not `bundle`".to_owned());
    }
    let objects = bundle.get("objects").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if objects.len() > OBJECTS_COUNT_MAX {
        return Err(format!("it has over {OBJECTS_COUNT_MAX} objects"));
    }
    let named: HashMap<&str, String> =
        objects.iter().filter_map(|object| Some((text(object, "id")?, text(object, "name")?.to_owned()))).collect();
    let marks: HashMap<&str, String> =
        objects.iter().filter_map(|object| Some((text(object, "id")?, tlp(object)?))).collect();
    let mut read = Bundle { indicators: Vec::new(), others_count: 0, refused: Vec::new() };
    for object in objects {
        if text(object, "type") != Some("indicator") {
            read.others_count += 1;
            continue;
        }
        match indicator(object, feed, now, &named, &marks) {
            Ok(indicator) => read.indicators.push(indicator),
            Err(why) if read.refused.len() < 100 => {
                read.refused.push(format!("{}: {why}", cut(text(object, "id").unwrap_or("an indicator without id"))));
            }
            Err(_) => {}
        }
    }
    Ok(read)
}

fn indicator(
    object: &Value,
    feed: &str,
    now: Timestamp,
    named: &HashMap<&str, String>,
    marks: &HashMap<&str, String>,
) -> Result<Indicator, String> {
    let need = |key: &str| text(object, key).ok_or_else(|| format!("`{key}` is missing"));
    let time = |key: &str| match text(object, key) {
        None => Ok(None),
        Some(text) => text.parse::<Timestamp>().map(Some).map_err(|_| format!("`{key}` is no time")),
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
    let tlp = object.get("object_marking_refs").and_then(Value::as_array).into_iter().flatten();
    let tlp = tlp.filter_map(Value::as_str).find_map(|id| marks.get(id).cloned().or_else(|| known_tlp(id)));
    let types = object.get("indicator_types").and_then(Value::as_array).into_iter().flatten();
    let source = text(object, "created_by_ref").map(|id| named.get(id).cloned().unwrap_or_else(|| id.to_owned()));
    let mut indicator = Indicator {
        id: id.to_owned(),
        name: cut(text(object, "name").unwrap_or_default()),
        types: types.filter_map(Value::as_str).take(16).map(cut).collect(),
        pattern: ringfence_audit::envelope::cut(need("pattern")?, 8_192),
        confidence,
        valid_from: time("valid_from")?.ok_or("`valid_from` is missing")?,
        valid_until: time("valid_until")?,
        revoked: object.get("revoked").and_then(Value::as_bool).unwrap_or(false),
        tlp,
        source: source.map(|source| cut(&source)),
        feed: feed.to_owned(),
        modified: time("modified")?.ok_or("`modified` is missing")?,
        loaded_at: now,
        used: Use::Matched,
        sightings_count: 0,
        seen_ms: None,
        past_asked: false,
    };
    if indicator.valid_until.is_some_and(|until| until <= indicator.valid_from) {
        return Err("it ends before it begins".to_owned());
    }
    indicator.used = indicator.judge(now);
    Ok(indicator)
}

/// What a marking says, in either form of the standard.
fn tlp(object: &Value) -> Option<String> {
    if text(object, "type")? != "marking-definition" {
        return None;
    }
    let old = object.pointer("/definition/tlp").and_then(Value::as_str);
    let new = object
        .get("extensions")
        .and_then(Value::as_object)
        .into_iter()
        .flat_map(|all| all.values())
        .find_map(|one| one.get("tlp_2_0")?.as_str());
    let word = old.or(new)?;
    Some(if word == "white" { "clear" } else { word }.to_owned())
}

/// The markings that the standard itself defines, which bundles name without carrying them.
fn known_tlp(id: &str) -> Option<String> {
    let word = match id {
        "marking-definition--613f2e26-407d-48c7-9eca-b8e91df99dc9" => "clear",
        "marking-definition--34098fce-860f-48ae-8e50-ebd3cc5e41da" => "green",
        "marking-definition--f88d31f6-486f-44da-b317-01333bde0b82" => "amber",
        "marking-definition--5e57c739-391a-4eb3-b6be-7d15ca92d5ed" => "red",
        _ => return None,
    };
    Some(word.to_owned())
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
        read(&one(extra), "file", "2026-06-01T00:00:00Z".parse().unwrap()).unwrap()
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
    fn what_is_wrong_with_one_object_is_told_and_does_not_spoil_the_bundle() {
        for (extra, says) in [
            (json!({"spec_version": "2.0"}), "spec_version"),
            (json!({"valid_until": "2025-01-01T00:00:00Z"}), "ends before"),
            (json!({"confidence": 300}), "confidence"),
            (json!({"pattern_type": "yara"}), "pattern_type"),
            (json!({"valid_from": "yesterday"}), "valid_from"),
            (json!({"id": "malware--1"}), "`id`"),
        ] {
            let bundle = read_one(extra);
            assert!(bundle.indicators.is_empty() && bundle.refused[0].contains(says), "{:?}", bundle.refused);
        }
        for bad in [json!({}), json!([]), json!({"type": "bundle", "objects": vec![json!({}); OBJECTS_COUNT_MAX + 1]})]
        {
            assert!(read(&bad, "file", Timestamp::UNIX_EPOCH).is_err());
        }
    }
}
