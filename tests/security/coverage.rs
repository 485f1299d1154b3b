//! What the list of audited endpoints says, the log has: every endpoint that does something leaves an entry of its codes.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use ringfence_tests::{Session, answer, root, string};

use crate::boundary::{is_apart, operations, send};
use crate::started;

/// The codes of each audited endpoint, from the published list.
fn audited() -> Result<BTreeMap<String, Vec<String>>> {
    let text = std::fs::read_to_string(root().join("docs/reference/audit-coverage.md"))?;
    let section = text.split("## Audited endpoints").nth(1).and_then(|rest| rest.split("\n## ").next());
    let rows = section.context("the list")?.lines().filter_map(|line| line.strip_prefix("| ")?.split_once(" | "));
    Ok(rows
        .map(|(endpoint, cell)| {
            let codes = cell.trim_end_matches(" |").split("; ").filter_map(|part| part.split(' ').next());
            (endpoint.to_owned(), codes.map(str::to_owned).collect())
        })
        .collect())
}

async fn size(who: &Session, path: &str) -> Result<u64> {
    answer(who.get(&format!("{path}/checkpoint")).send().await?).await?["size"].as_u64().context("a size")
}

/// The envelopes of a log from a place on.
async fn envelopes(who: &Session, path: &str, from: u64) -> Result<Vec<String>> {
    let page = answer(who.get(&format!("{path}?from={from}&limit=1000")).send().await?).await?;
    page["items"].as_array().context("items")?.iter().map(|item| string(item, "envelope")).collect()
}

#[tokio::test]
async fn every_endpoint_that_does_something_leaves_an_entry_of_the_codes_that_the_list_says() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("hello", "hello", "", &[]).await?;
    let (listed, mut seen_count) = (audited()?, 0);
    for (method, path, label) in operations("acme")? {
        let Some(codes) = listed.get(&label).filter(|_| !is_apart(&label)) else { continue };
        // Counted, not listed one by one: within about a second.
        if codes.iter().all(|code| code == "INV-001") {
            continue;
        }
        for who in [&operator, &acme.admin] {
            let (own, hosts) = (size(&acme.admin, "/tenants/acme/audit").await?, size(&operator, "/audit").await?);
            let (status, _) = send(who, &method, &path).await?;
            if !(200..300).contains(&status) {
                continue;
            }
            let mut entries = envelopes(&operator, "/audit", hosts).await?;
            entries.extend(envelopes(&acme.admin, "/tenants/acme/audit", own).await?);
            let told = entries.iter().any(|entry| codes.iter().any(|code| entry.contains(&format!("\"{code} "))));
            assert!(told, "{label} was answered with {status} and left none of {codes:?}: {entries:#?}");
            seen_count += 1;
        }
    }
    assert!(seen_count >= 20, "only {seen_count} endpoints did something");
    Ok(())
}
