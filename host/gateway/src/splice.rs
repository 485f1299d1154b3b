//! Finding the values that a pointer names in a JSON text, and putting others in their place. Pure.
//!
//! Must never change a byte outside the values it was asked to replace: numbers, spaces and unknown members stay as they
//! came. Texts are cut with the JSON library's own reader; of an object that is walked, no two members may have one name,
//! since two readers could take it in two ways.

use std::ops::Range;

use ringfence_core::fields::Step;
use serde::de::IgnoredAny;

/// A value that a pointer names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    /// Where it lies in the text.
    pub place: Range<usize>,
    /// What each `*` of the pointer stands for.
    pub stars: Vec<String>,
}

/// The text is not JSON, or could be read in two ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotJson;

/// LIMIT: most values that one pointer may name in one text.
pub const HITS_COUNT_MAX: usize = 10_000;

/// Whether the bytes are one JSON text.
pub fn checked(bytes: &[u8]) -> Result<&str, NotJson> {
    let text = std::str::from_utf8(bytes).map_err(|_| NotJson)?;
    serde_json::from_str::<IgnoredAny>(text).map_err(|_| NotJson)?;
    Ok(text)
}

/// The values that the steps name, in order. A step that leads nowhere names nothing.
pub fn find(text: &str, steps: &[Step]) -> Result<Vec<Hit>, NotJson> {
    let mut hits = Vec::new();
    let start = skip_space(text, 0);
    let end = value_end(text, start)?;
    walk(text, start..end, steps, &mut Vec::new(), &mut hits)?;
    Ok(hits)
}

/// The text with other values at these places, which must not overlap.
pub fn replace(text: &str, mut changes: Vec<(Range<usize>, String)>) -> Result<String, NotJson> {
    changes.sort_by_key(|(place, _)| place.start);
    let mut out = String::with_capacity(text.len() + changes.iter().map(|(_, value)| value.len()).sum::<usize>());
    let mut at = 0;
    for (place, value) in changes {
        out.push_str(text.get(at..place.start).ok_or(NotJson)?);
        out.push_str(&value);
        at = place.end;
    }
    out.push_str(text.get(at..).ok_or(NotJson)?);
    Ok(out)
}

/// The text of a JSON string; `None` for another kind of value.
pub fn as_string(value: &str) -> Option<String> {
    serde_json::from_str(value).ok()
}

fn walk(
    text: &str,
    place: Range<usize>,
    steps: &[Step],
    stars: &mut Vec<String>,
    hits: &mut Vec<Hit>,
) -> Result<(), NotJson> {
    let Some((step, rest)) = steps.split_first() else {
        hits.push(Hit { place, stars: stars.clone() });
        return if hits.len() > HITS_COUNT_MAX { Err(NotJson) } else { Ok(()) };
    };
    for (name, child) in children(text, place)? {
        match step {
            Step::Every => {
                stars.push(name);
                walk(text, child, rest, stars, hits)?;
                stars.pop();
            }
            Step::Name(wanted) if *wanted == name => walk(text, child, rest, stars, hits)?,
            Step::Name(_) => {}
        }
    }
    Ok(())
}

/// The members or elements of a value, by name or index; none for a plain value.
fn children(text: &str, place: Range<usize>) -> Result<Vec<(String, Range<usize>)>, NotJson> {
    let is_object = match text.as_bytes().get(place.start) {
        Some(b'{') => true,
        Some(b'[') => false,
        _ => return Ok(Vec::new()),
    };
    let mut found = Vec::new();
    let mut at = skip_space(text, place.start + 1);
    // The end of the container is its last byte.
    while at + 1 < place.end {
        let name = if is_object {
            let end = value_end(text, at)?;
            let name = text.get(at..end).and_then(as_string).ok_or(NotJson)?;
            at = skip_space(text, skip_space(text, end) + 1);
            name
        } else {
            found.len().to_string()
        };
        let end = value_end(text, at)?;
        found.push((name, at..end));
        at = skip_space(text, skip_space(text, end) + 1);
    }
    if is_object {
        let mut names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        if names.windows(2).any(|pair| matches!(pair, [a, b] if a == b)) {
            return Err(NotJson);
        }
    }
    Ok(found)
}

/// Where the value that starts here ends.
fn value_end(text: &str, start: usize) -> Result<usize, NotJson> {
    let rest = text.get(start..).ok_or(NotJson)?;
    let mut values = serde_json::Deserializer::from_str(rest).into_iter::<IgnoredAny>();
    match values.next() {
        Some(Ok(_)) => Ok(start + values.byte_offset()),
        _ => Err(NotJson),
    }
}

fn skip_space(text: &str, from: usize) -> usize {
    let rest = text.get(from..).unwrap_or_default();
    from + rest.bytes().take_while(|b| matches!(b, b' ' | b'\n' | b'\r' | b'\t')).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use ringfence_core::fields::steps;
    use serde_json::json;

    fn hits(text: &str, pointer: &str) -> Result<Vec<(String, Vec<String>)>, NotJson> {
        let text = checked(text.as_bytes())?;
        let found = find(text, &steps(pointer).unwrap())?;
        Ok(found.into_iter().map(|hit| (text[hit.place].to_owned(), hit.stars)).collect())
    }

    fn plain(text: &str, pointer: &str) -> Vec<String> {
        hits(text, pointer).unwrap().into_iter().map(|(value, _)| value).collect()
    }

    #[test]
    fn pointers_find_values_wherever_they_lie() {
        let text = " { \"a\" : [ {\"b\": \"x\"} , {\"b\":\"y\", \"c\": 1e400 } ], \"d/~\":{} ,\"e\":[] } ";
        assert_eq!(plain(text, "/a/*/b"), ["\"x\"", "\"y\""]);
        assert_eq!(plain(text, "/a/1/c"), ["1e400"]);
        assert_eq!(plain(text, "/d~1~0"), ["{}"]);
        assert_eq!(plain(text, "/e/*"), [""; 0]);
        assert_eq!(plain(text, "/a/2/b"), [""; 0]);
        assert_eq!(plain(text, "/a/b"), [""; 0]);
        assert_eq!(hits(text, "/a/*/b").unwrap()[1].1, ["1"]);
        assert_eq!(hits("{\"k\":{\"v\":1}}", "/*/v").unwrap()[0].1, ["k"]);
        assert_eq!(plain("{\"\\u0061\":1}", "/a"), ["1"], "an escaped name is the same name");
        assert_eq!(plain("{\"\":{\"\":2}}", "//"), ["2"]);
    }

    #[test]
    fn only_the_values_change_and_every_other_byte_stays() {
        let text = "{\"n\": 12345678901234567890123.450, \"s\":\"old\" ,\"t\":\"\u{e9}\\u00e9\"}";
        let hit = find(text, &steps("/s").unwrap()).unwrap().remove(0);
        let changed = replace(text, vec![(hit.place, "\"new\"".into())]).unwrap();
        assert_eq!(changed, text.replace("old", "new"));
    }

    #[test]
    fn a_text_that_two_readers_could_take_in_two_ways_is_refused() {
        assert_eq!(hits("{\"a\":1,\"a\":2}", "/a"), Err(NotJson));
        assert_eq!(hits("{\"a\":1,\"\\u0061\":2}", "/a"), Err(NotJson));
        assert_eq!(hits("{\"p\":{\"a\":1,\"a\":2}}", "/*/a"), Err(NotJson));
    }

    #[test]
    fn what_is_no_json_is_refused_without_a_panic() {
        for bad in
            [&b""[..], b"{", b"{\"a\":}", b"[1,]", b"{}{}", b"\xff\xfe", b"\"\xc3\"", b"nul", b"{\"a\" 1}", b"01"]
        {
            assert_eq!(checked(bad), Err(NotJson), "{bad:?}");
        }
    }

    #[test]
    fn deep_nesting_is_not_walked_deeper_than_the_pointer() {
        let deep = format!("{{\"a\":\"x\",\"z\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        match hits(&deep, "/a") {
            Ok(found) => assert_eq!(found[0].0, "\"x\""),
            Err(NotJson) => assert!(checked(deep.as_bytes()).is_err(), "refused whole, not overflowed"),
        }
    }

    #[test]
    fn a_text_with_too_many_hits_is_refused() {
        let many = format!("[{}1]", "1,".repeat(HITS_COUNT_MAX + 1));
        assert_eq!(hits(&many, "/*"), Err(NotJson));
    }

    proptest! {
        /// Bodies come here from callers whom nobody knows, where a tenant's policy lets those call.
        #[test]
        fn any_text_is_refused_or_its_values_are_values_at_their_places(
            any_text in "[ab0-9{}\\[\\]:,\"\\\\ .é-]{0,60}",
            members in proptest::collection::vec(("[a-c]", "[0-9a-zé\\\\\" ]{0,6}"), 0..6),
        ) {
            let members: Vec<String> =
                members.iter().map(|(name, value)| format!("\"{name}\" : {}", json!([value, { "b": value }]))).collect();
            for whole in [any_text, format!("{{{}}}", members.join(" ,"))] {
                crate::doors::splice(format!("/a/0\n{whole}").as_bytes());
            }
        }
    }
}
