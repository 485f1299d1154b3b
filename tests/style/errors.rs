//! Every code that a caller can meet has its line in docs/reference/errors.md, and every line there is a code that exists.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use ringfence_tests::root;

/// Where codes are named, and the words that stand before one.
const SOURCES: [(&str, &[&str]); 13] = [
    ("host/control/src", &["ApiError::new(", "Self::new("]),
    ("host/control/src/access", &["ApiError::new(", "Self::new("]),
    ("host/control/src/audit", &["ApiError::new(", "Self::new("]),
    ("host/control/src/audit/checks", &["ApiError::new(", "Self::new("]),
    ("host/control/src/audit/remediation", &["ApiError::new(", "Self::new("]),
    ("host/control/src/policies", &["ApiError::new(", "Self::new("]),
    ("host/control/src/workflows", &["ApiError::new(", "Self::new("]),
    ("host/control/src/zero_trust", &["ApiError::new(", "Self::new("]),
    ("host/control/src/threat", &["ApiError::new(", "Self::new("]),
    ("host/gateway/src/refuse.rs", &["StatusCode::"]),
    ("host/registry/src/error.rs", &["=> "]),
    ("host/registry/src/inspect.rs", &["} => ", "Module => "]),
    ("host/engine/src/error.rs", &["=> "]),
];

fn is_code(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')
}

/// The quoted code nearest after `before`, if only blanks and a name stand between.
fn codes_after(text: &str, before: &str, into: &mut BTreeSet<String>) {
    for piece in text.split(before).skip(1) {
        let Some((gap, rest)) = piece.split_once('"') else { continue };
        let plain =
            |byte: u8| byte.is_ascii_whitespace() || byte.is_ascii_uppercase() || matches!(byte, b'_' | b',' | b'(');
        if gap.bytes().all(plain)
            && let Some((word, _)) = rest.split_once('"')
            && is_code(word)
        {
            into.insert(word.to_owned());
        }
    }
}

fn named() -> Result<BTreeSet<String>> {
    let mut codes = BTreeSet::new();
    for (place, words) in SOURCES {
        let path = root().join(place);
        let files = if path.is_dir() {
            std::fs::read_dir(&path)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?
        } else {
            vec![path]
        };
        for file in files.iter().filter(|file| file.is_file()) {
            let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
            let text = text.split("#[cfg(test)]").next().unwrap_or_default();
            for before in words {
                codes_after(text, before, &mut codes);
            }
        }
    }
    Ok(codes)
}

#[test]
fn every_code_is_explained_and_every_explained_code_exists() -> Result<()> {
    let page = std::fs::read_to_string(root().join("docs/reference/errors.md"))?;
    let first_cells = page.lines().filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
    let explained: BTreeSet<String> = first_cells
        .flat_map(|cell| cell.split(['`', ',', ' ']))
        .filter(|word| is_code(word))
        .map(str::to_owned)
        .collect();
    let named = named()?;
    assert!(named.len() > 50, "only {} codes were found in the sources", named.len());
    let missing: Vec<_> = named.difference(&explained).collect();
    assert!(missing.is_empty(), "not in docs/reference/errors.md: {missing:?}");
    let without_page: Vec<_> = named.iter().filter(|code| ringfence_control::error_page(code).is_none()).collect();
    assert!(without_page.is_empty(), "the host has no page of {without_page:?}");
    let gone: Vec<_> = explained.difference(&named).collect();
    assert!(gone.is_empty(), "in docs/reference/errors.md but in no source: {gone:?}");
    Ok(())
}
