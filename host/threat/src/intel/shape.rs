//! What JSON unfolds to, before it is unfolded: a few bytes of it can ask for hundreds in memory.
//!
//! Pure. Must never count what stands inside of a text, nor take JSON for right: that is for whoever reads it.

/// LIMIT: values of one bundle or page, and lists and objects among them. The largest bundle has 20,000 objects.
const VALUES_COUNT_MAX: usize = 1_000_000;
const NESTED_COUNT_MAX: usize = 200_000;

/// Whether JSON is of no more values than are taken in at once; the error says of how many that is.
pub fn check(json: &[u8]) -> Result<(), String> {
    let (mut values, mut nested) = (0_usize, 0_usize);
    let (mut is_text, mut is_escaped) = (false, false);
    for byte in json {
        match (is_text, byte) {
            (true, _) if is_escaped => is_escaped = false,
            (true, b'\\') => is_escaped = true,
            (true, b'"') => is_text = false,
            (false, b'"') => is_text = true,
            (false, b'{' | b'[') => (values, nested) = (values + 1, nested + 1),
            (false, b',') => values += 1,
            _ => {}
        }
    }
    if values > VALUES_COUNT_MAX || nested > NESTED_COUNT_MAX {
        return Err(format!(
            "it has over {VALUES_COUNT_MAX} values, or over {NESTED_COUNT_MAX} lists and objects, in all that it holds"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_unfold_is_refused_and_what_stands_in_a_text_is_none_of_it() {
        let of = |part: &str, count: usize| format!("[{}0]", part.repeat(count));
        for (part, count) in [("{\"\":0},", NESTED_COUNT_MAX), ("[],", NESTED_COUNT_MAX), ("0,", VALUES_COUNT_MAX)] {
            assert!(check(of(part, count).as_bytes()).is_err(), "{part}");
            assert!(check(of(part, count / 2 - 1).as_bytes()).is_ok(), "{part}");
        }
        let text = "{[,\\\"\\\\".repeat(VALUES_COUNT_MAX);
        assert!(check(format!("[\"{text}\",\"\\\\\",{{}}]").as_bytes()).is_ok());
        let hidden = format!("[\"\\\\\",{}0]", "{},".repeat(NESTED_COUNT_MAX));
        assert!(check(hidden.as_bytes()).is_err(), "a text that ends in a backslash ends");
        assert!(check(b"\"").is_ok() && check(b"").is_ok(), "whoever reads it says what is wrong with it");
    }
}
