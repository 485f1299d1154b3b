//! Masks e-mail addresses and runs of four or more digits in a text: a pure transform of the body, with no needs.

use ringfence_sdk::{Request, Result, plugin};

const DIGITS_KEPT_MAX: usize = 3;

#[plugin]
async fn redact(mut request: Request) -> Result<String> {
    Ok(mask(&request.body().text().await?))
}

/// One pass, word by word; what lies between words is kept as it is.
fn mask(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for piece in text.split_inclusive(|c: char| !is_word(c)) {
        let word = piece.trim_end_matches(|c| !is_word(c));
        if is_address(word.trim_matches('.')) {
            out.push_str("[e-mail]");
        } else {
            mask_digits(word, &mut out);
        }
        out.push_str(&piece[word.len()..]);
    }
    out
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || "@._+-".contains(c)
}

fn is_address(word: &str) -> bool {
    word.split_once('@').is_some_and(|(name, host)| !name.is_empty() && host.contains('.') && !host.contains('@'))
}

/// Replaces the digits of runs longer than [`DIGITS_KEPT_MAX`]; `-` does not end a run, so card numbers are one.
fn mask_digits(word: &str, out: &mut String) {
    let mut rest = word;
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        let (before, run) = rest.split_at(start);
        let end = run.find(|c: char| !c.is_ascii_digit() && c != '-').unwrap_or(run.len());
        let (run, after) = run.split_at(end);
        let masked = run.chars().filter(char::is_ascii_digit).count() > DIGITS_KEPT_MAX;
        out.push_str(before);
        out.extend(run.chars().map(|c| if masked && c != '-' { '#' } else { c }));
        rest = after;
    }
    out.push_str(rest);
}
