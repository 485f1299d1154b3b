//! Finding what looks like personal data in a text: e-mail addresses, phone numbers, NHS numbers, payment cards.
//!
//! Must never take more than linear time in the text: candidates come from regular expressions without back references,
//! each candidate is short, and only candidates are parsed. A finding is a hint, not a proof that there is nothing else.

use std::sync::OnceLock;

use card_validate::Validate;
use regex::Regex;

/// LIMIT: most bytes of a text that is searched.
pub const DETECT_BYTES_MAX: usize = 64 << 10;
/// LIMIT: most findings of one text; the rest is not looked at.
pub const FINDINGS_COUNT_MAX: usize = 1_000;

/// What a piece of text looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// An e-mail address.
    Email,
    /// A phone number: with its country code (8 to 15 digits, ITU-T E.164), or as the United Kingdom writes its own.
    Phone,
    /// A ten-digit NHS number whose check digit fits.
    NhsNumber,
    /// The number of a payment card, by issuer's pattern and Luhn's check digit.
    PaymentCard,
}

/// Where something was found, in bytes of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub kind: Kind,
    /// First byte.
    pub start: usize,
    /// First byte after it.
    pub end: usize,
}

struct Patterns {
    email: Regex,
    digits: Regex,
}

/// Finds personal data in a text, in order and without overlaps. `None` when the patterns cannot be built, which a test rules out.
pub fn detect(text: &str) -> Option<Vec<Finding>> {
    let patterns = patterns()?;
    let mut found: Vec<Finding> = patterns
        .email
        .find_iter(text)
        .take(FINDINGS_COUNT_MAX)
        .map(|hit| Finding { kind: Kind::Email, start: hit.start(), end: hit.end() })
        .collect();
    for hit in patterns.digits.find_iter(text).take(FINDINGS_COUNT_MAX) {
        let stands_alone = !text.get(..hit.start()).is_some_and(|before| before.ends_with(is_word))
            && !text.get(hit.end()..).is_some_and(|after| after.starts_with(is_word));
        if let Some(kind) = stands_alone.then(|| judge(hit.as_str())).flatten() {
            found.push(Finding { kind, start: hit.start(), end: hit.end() });
        }
    }
    found.sort_by_key(|finding| (finding.start, finding.kind));
    let mut end = 0;
    found.retain(|finding| {
        let free = finding.start >= end;
        end = if free { finding.end } else { end };
        free
    });
    found.truncate(FINDINGS_COUNT_MAX);
    Some(found)
}

/// What a run of digits with separators is. The surest first: a card has an issuer and a check digit, an NHS number a
/// check digit, a phone number only a plan.
fn judge(run: &str) -> Option<Kind> {
    let digits: String = run.chars().filter(char::is_ascii_digit).collect();
    let plain = !run.contains(['+', '(', ')', '.', '/']);
    if plain && Validate::from(&digits).is_ok() {
        return Some(Kind::PaymentCard);
    }
    if plain && is_nhs_number(&digits) {
        return Some(Kind::NhsNumber);
    }
    is_phone(run, &digits).then_some(Kind::Phone)
}

/// With `+`: a country code, which never starts with 0, and 8 to 15 digits in all. Without: the trunk prefix 0 and the first
/// digit of a number range of the United Kingdom's numbering plan, 10 or 11 digits in all.
fn is_phone(run: &str, digits: &str) -> bool {
    if run.trim_start_matches('(').starts_with('+') {
        return (8..=15).contains(&digits.len()) && !digits.starts_with('0');
    }
    let in_plan = ["01", "02", "03", "07", "08", "09"].iter().any(|range| digits.starts_with(range));
    in_plan && (10..=11).contains(&digits.len()) && !run.contains(['.', '/'])
}

/// Whether ten digits are an NHS number: weights 10 to 2 over the first nine, modulus 11, 11 counted as 0 and 10 never
/// issued (NHS Data Dictionary, "NHS NUMBER").
pub fn is_nhs_number(digits: &str) -> bool {
    let values: Vec<u32> = digits.chars().filter_map(|c| c.to_digit(10)).collect();
    let Some((check, first)) = values.split_last() else { return false };
    if first.len() != 9 || digits.len() != 10 || values.iter().all(|value| *value == 0) {
        return false;
    }
    let sum: u32 = first.iter().zip((2..=10).rev()).map(|(value, weight)| value * weight).sum();
    let expected = match 11 - sum % 11 {
        11 => 0,
        other => other,
    };
    expected == *check
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn patterns() -> Option<&'static Patterns> {
    static PATTERNS: OnceLock<Option<Patterns>> = OnceLock::new();
    PATTERNS
        .get_or_init(|| {
            // Local part and host as people write them (the dot-atoms of RFC 5322, section 3.2.3, with the lengths of RFC 5321);
            // quoted local parts and address literals are left out on purpose.
            let email = r"(?i)[a-z0-9][a-z0-9.!#$%&'*+/=?^_`{|}~-]{0,63}@(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.){1,8}[a-z]{2,63}";
            // Seven to nineteen digits with at most one separator between two of them, and the signs of phone numbers.
            let digits = r"(?:\+\d|\(\+?\d|\d)(?:[ \-./()]?[ (]?\d){6,18}";
            Some(Patterns { email: Regex::new(email).ok()?, digits: Regex::new(digits).ok()? })
        })
        .as_ref()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn found(text: &str) -> Vec<(Kind, &str)> {
        detect(text).unwrap().iter().map(|f| (f.kind, text.get(f.start..f.end).unwrap())).collect()
    }

    #[test]
    fn what_it_knows_is_found_with_its_place() {
        let text = "Ann <ann.o'hara+x@mail.example.co.uk>, 020 7946 0958 or +44 20 7946 0958, NHS 943 476 5919, card 4111 1111 1111 1111.";
        assert_eq!(
            found(text),
            [
                (Kind::Email, "ann.o'hara+x@mail.example.co.uk"),
                (Kind::Phone, "020 7946 0958"),
                (Kind::Phone, "+44 20 7946 0958"),
                (Kind::NhsNumber, "943 476 5919"),
                (Kind::PaymentCard, "4111 1111 1111 1111"),
            ]
        );
    }

    #[test]
    fn a_number_that_fails_its_check_is_not_found() {
        assert_eq!(found("943 476 5918"), []);
        assert_eq!(found("4111 1111 1111 1112"), []);
        assert_eq!(found("order 20260102030405 of v1.2.3.4, ab4111111111111111cd"), []);
        assert_eq!(found("a@b, @example.com, x@y."), []);
    }

    #[test]
    fn a_phone_number_has_a_country_code_or_a_range_of_the_plan() {
        for good in ["+442079460958", "+1 (202) 555-0143", "(020) 7946 0958", "07700 900123", "020-7946-0958"] {
            assert_eq!(found(good).first().map(|hit| hit.0), Some(Kind::Phone), "{good}");
        }
        for bad in ["+0 20 7946 0958", "+4420794", "04 07 946 0958", "0.2079460958", "2026-11-22 04:10"] {
            assert_eq!(found(bad), [], "{bad}");
        }
    }

    #[test]
    fn the_check_digit_of_an_nhs_number_is_modulus_11() {
        for good in ["9434765919", "4505577104", "9876543210"] {
            assert!(is_nhs_number(good), "{good}");
        }
        for bad in ["9434765918", "943476591", "94347659190", "0000000000", "943476591a", ""] {
            assert!(!is_nhs_number(bad), "{bad}");
        }
        for last in 0..10 {
            let number = format!("943476591{last}");
            assert_eq!(is_nhs_number(&number), last == 9, "{number}");
        }
    }

    #[test]
    fn findings_have_a_limit() {
        assert_eq!(detect(&"a@b.example ".repeat(5_000)).unwrap().len(), FINDINGS_COUNT_MAX);
    }

    proptest! {
        #[test]
        fn any_text_is_searched_without_a_panic_and_findings_are_in_order(text in ".{0,300}") {
            let found = detect(&text).unwrap();
            prop_assert!(found.windows(2).all(|pair| pair[0].end <= pair[1].start));
            prop_assert!(found.iter().all(|f| text.get(f.start..f.end).is_some()));
        }
        #[test]
        fn runs_of_digits_and_signs_are_searched_without_a_panic(text in "[0-9+(). /-]{0,300}") {
            prop_assert!(detect(&text).is_some());
        }
    }
}
