//! The list of what is on the audit log is the code: every endpoint and every interface of plugins has its place in it, every
//! code in it exists, has the class it says and is written by something.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result};
use ringfence_audit::codes::class_of;
use ringfence_tests::root;
use serde_json::Value;

/// LIMIT: endpoints that change something and are not audited; a longer list needs a reason that a reviewer reads.
const UNAUDITED_CHANGES_COUNT_MAX: usize = 8;

/// The rows of one of the document's tables: first and second cell.
fn table(heading: &str) -> Result<BTreeMap<String, String>> {
    let text = std::fs::read_to_string(root().join("docs/reference/audit-coverage.md"))?;
    let section = text.split("\n## ").find(|section| section.starts_with(heading)).context(heading.to_owned())?;
    let mut rows = BTreeMap::new();
    for line in section.lines().filter(|line| line.starts_with("| ")).skip(1) {
        let mut cells = line.trim_matches('|').split(" | ").map(str::trim);
        let (first, second) = (cells.next().context("a cell")?, cells.next().context("a second cell")?);
        assert!(rows.insert(first.to_owned(), second.to_owned()).is_none(), "`{first}` stands twice in the list");
    }
    Ok(rows)
}

/// Every operation of the description, as `POST /api/v1/tenants`.
fn operations() -> Result<BTreeSet<String>> {
    let text: Value = serde_json::from_str(&ringfence_control::openapi())?;
    let mut found = BTreeSet::new();
    for (path, methods) in text["paths"].as_object().context("paths")? {
        for method in ["get", "post", "put", "delete", "patch"] {
            if methods.get(method).is_some() {
                found.insert(format!("{} {path}", method.to_uppercase()));
            }
        }
    }
    Ok(found)
}

/// The codes of the log by their short form: constant's name and full text.
fn codes() -> Result<BTreeMap<String, (String, String)>> {
    let text = std::fs::read_to_string(root().join("host/audit/src/codes.rs"))?;
    let mut found = BTreeMap::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("pub const ")) {
        let Some((name, full)) = line.split_once(": &str = \"") else { continue };
        let full = full.trim_end_matches("\";");
        if let Some((short, _)) = full.split_once(' ') {
            found.insert(short.to_owned(), (name.to_owned(), full.to_owned()));
        }
    }
    Ok(found)
}

fn sources(dir: &Path, into: &mut String) -> Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            sources(&path, into)?;
        } else if path.extension().is_some_and(|ending| ending == "rs") && !path.ends_with("audit/src/codes.rs") {
            into.push_str(&std::fs::read_to_string(&path)?);
        }
    }
    Ok(())
}

/// Every `AUD-027 6003` of a cell is a code of ours with its class.
fn check_codes(row: &str, cell: &str, codes: &BTreeMap<String, (String, String)>) {
    for part in cell.split("; ") {
        let (short, class) = part.split_once(' ').unwrap_or_else(|| panic!("`{row}`: `{part}` is no code and class"));
        let (_, full) = codes.get(short).unwrap_or_else(|| panic!("`{row}`: there is no code `{short}`"));
        assert_eq!(class_of(full).to_string(), class, "`{row}`: the class of `{short}`");
    }
}

#[test]
fn every_endpoint_is_audited_with_a_class_or_listed_as_not() -> Result<()> {
    let (audited, unaudited, known) = (table("Audited endpoints")?, table("Unaudited endpoints")?, codes()?);
    let listed: BTreeSet<String> = audited.keys().chain(unaudited.keys()).cloned().collect();
    assert_eq!(listed.len(), audited.len() + unaudited.len(), "an endpoint stands in both lists");
    let there = operations()?;
    let missing: Vec<&String> = there.difference(&listed).collect();
    assert!(missing.is_empty(), "docs/reference/audit-coverage.md says nothing of these endpoints: {missing:#?}");
    let gone: Vec<&String> = listed.difference(&there).collect();
    assert!(gone.is_empty(), "docs/reference/audit-coverage.md speaks of endpoints that are not there: {gone:#?}");
    audited.iter().for_each(|(row, cell)| check_codes(row, cell, &known));
    let changes: Vec<&String> = unaudited.keys().filter(|row| !row.starts_with("GET ")).collect();
    assert!(changes.len() <= UNAUDITED_CHANGES_COUNT_MAX, "too many changes are not audited: {changes:#?}");
    assert!(unaudited.values().all(|why| why.len() > 8), "every endpoint that is not audited says why");
    Ok(())
}

#[test]
fn every_interface_of_plugins_has_its_place_in_the_list() -> Result<()> {
    let (rows, known) = (table("Interfaces of plugins")?, codes()?);
    let text = std::fs::read_to_string(root().join("host/registry/src/interfaces.rs"))?;
    let list = text.split("const INTERFACES").nth(1).and_then(|rest| rest.split("];").next()).context("the list")?;
    let there: BTreeSet<String> = list
        .split('"')
        .filter(|word| word.starts_with("wasi:") || word.starts_with("ringfence:"))
        .map(str::to_owned)
        .collect();
    assert!(there.len() > 30, "{there:?}");
    let listed: BTreeSet<String> = rows.keys().cloned().collect();
    assert_eq!(there, listed, "docs/reference/audit-coverage.md and the interfaces that plugins may import differ");
    for (row, cell) in rows.iter().filter(|(_, cell)| !cell.starts_with("none: ")) {
        check_codes(row, cell, &known);
    }
    Ok(())
}

#[test]
fn every_code_of_the_log_is_written_by_something() -> Result<()> {
    let mut text = String::new();
    for room in std::fs::read_dir(root().join("host"))? {
        let src = room?.path().join("src");
        if src.is_dir() {
            sources(&src, &mut text)?;
        }
    }
    let words: BTreeSet<&str> = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).collect();
    for (short, (name, _)) in codes()? {
        assert!(words.contains(name.as_str()), "nothing writes `{short}` ({name})");
    }
    Ok(())
}
