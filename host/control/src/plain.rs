//! What a JSON text lacks, in words that are not the parser's own.
//!
//! Must never repeat more of the text than the parser does.

/// Why a JSON text is not what was asked for.
pub fn json_words(error: &serde_json::Error) -> String {
    let said = error.to_string();
    if let Some((word, may)) = said.strip_prefix("unknown variant `").and_then(|rest| rest.split_once("`, expected ")) {
        return format!("`{word}` is not known here; it is {may}");
    }
    let kinds = [
        ("u8", "a whole number from 0 to 255"),
        ("u16", "a whole number from 0 to 65535"),
        ("u32", "a whole number from 0 to 4294967295"),
        ("u64", "a whole number, 0 or more"),
        ("usize", "a whole number, 0 or more"),
        ("i32", "a whole number"),
        ("i64", "a whole number"),
        ("f64", "a number"),
    ];
    let found = kinds.iter().find_map(|(kind, words)| {
        let (before, place) = said.rsplit_once(&format!(", expected {kind}"))?;
        // The end of it, and not a word of the text that was sent.
        (place.is_empty() || place.starts_with(" at line ")).then(|| format!("{before}, expected {words}{place}"))
    });
    found.unwrap_or(said)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    enum Side {
        Open,
        Closed,
    }

    #[derive(Debug, Deserialize)]
    struct Asked {
        #[serde(default)]
        _seconds: Option<u32>,
        #[serde(default)]
        _side: Option<Side>,
    }

    fn words(text: &str) -> String {
        json_words(&serde_json::from_str::<Asked>(text).unwrap_err())
    }

    #[test]
    fn a_reader_who_knows_no_parser_learns_what_may_stand_there() {
        let number = words(r#"{"_seconds":-4}"#);
        assert!(number.contains("`-4`, expected a whole number from 0 to 4294967295 at line 1"), "{number}");
        let side = words(r#"{"_side":"sideways"}"#);
        assert!(side.starts_with("`sideways` is not known here; it is `open` or `closed` at line 1"), "{side}");
        assert!(!words(r#"{"_seconds":"x, expected u32"}"#).contains("whole number from 0 to 4294967295\""));
        assert!(words("{").starts_with("EOF while parsing"));
    }
}
