//! Second opinions: what others' readers make of the rules that the host ships and of the bundles that it takes and writes.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use ringfence_tests::{answer, eventually, root};
use serde_json::{Value, json};

use crate::started;

/// Whether a reader finds no fault, and what it says.
fn asked(what: &str, of: &Path) -> Result<(bool, String)> {
    let python = root().join("target/opinions/venv/bin/python");
    // A reader that is missing finds no fault either, so there is no way around.
    ensure!(python.is_file(), "`cargo xtask test` installs the readers into target/opinions, which are missing");
    let output = Command::new(python).arg(root().join("tests/opinions/read.py")).arg(what).arg(of).output()?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
}

fn bundle(objects: &Value) -> Value {
    json!({ "type": "bundle", "id": "bundle--5a0f3c1e-7d2b-4e8a-9c6d-1b2a3c4d5e6f", "objects": objects })
}

#[tokio::test]
async fn pysigma_reads_every_rule_that_the_host_ships() -> Result<()> {
    let (_place, _host, operator) = started().await?;
    let shipped = answer(operator.get("/security/rules").send().await?).await?;
    let folder = tempfile::tempdir()?;
    for text in shipped["items"].as_array().context("rules")? {
        let (name, text) = (text["name"].as_str().context("a name")?, text["text"].as_str().context("a text")?);
        fs::write(folder.path().join(format!("{name}.yml")), text)?;
    }
    let mut count = 0;
    for file in fs::read_dir(root().join("docs/reference/rules"))? {
        let file = file?;
        let is_same = fs::read(folder.path().join(file.file_name()))? == fs::read(file.path())?;
        assert!(is_same, "{:?} is not the rule that is shipped", file.file_name());
        count += 1;
    }
    let (is_good, said) = asked("sigma", folder.path())?;
    assert!(is_good && said.contains(&format!("in {count} files")) && count > 20, "{said}");
    // And it would tell.
    let broken = "title: T\nname: b\nlogsource: {product: ringfence}\ndetection: {s: {status: x}, condition: other}\n";
    fs::write(folder.path().join("broken.yml"), broken)?;
    let (is_good, said) = asked("sigma", folder.path())?;
    assert!(!is_good && said.contains("broken.yml: SigmaConditionError"), "{said}");
    Ok(())
}

#[tokio::test]
async fn stix2_and_the_schemas_read_the_bundle_that_is_fed_the_findings_that_go_out_and_the_indicators_that_are_shown()
-> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let partner = root().join("tests/opinions/partner.json");
    let (is_good, said) = asked("stix", &partner)?;
    assert!(is_good && said.contains("21 objects"), "{said}");
    // What they can read the host can, and what it matches is what it says it does.
    answer(acme.admin.put(&acme.path("/secrets/a")).body("value").send().await?).await?;
    let fed: Value = serde_json::from_str(&fs::read_to_string(&partner)?)?;
    let loaded = answer(acme.admin.post("/security/threat-intelligence?feed=partner").json(&fed).send().await?).await?;
    let counts = ["matched_count", "unmatched_pattern_count", "not_used_count", "others_count", "refused_count"];
    assert_eq!(counts.map(|name| loaded[name].as_u64().unwrap_or(99)), [7, 5, 4, 5, 0], "{loaded}");
    let developer = acme.member(&host, "dev", "developer").await?;
    for _ in 0..3 {
        let refused = developer.put("/tenants/acme/plugins/x/grants/keyvalue").json(&json!({})).send().await?;
        assert_eq!(refused.status(), 403);
    }
    let findings = async || answer(acme.admin.get("/security/findings?format=stix").send().await?).await;
    eventually("both kinds of findings", async || {
        let kinds = findings().await?.to_string();
        Ok(["attack-pattern--", "indicator--", "observed-data--"].iter().all(|kind| kinds.contains(kind)))
    })
    .await?;
    let folder = tempfile::tempdir()?;
    let written = |name: &str, bundle: &Value| -> Result<_> {
        let path = folder.path().join(name);
        fs::write(&path, bundle.to_string())?;
        Ok(path)
    };
    let mut given = findings().await?;
    let (is_good, said) = asked("stix", &written("findings.json", &given)?)?;
    assert!(is_good, "{said}\n{given}");
    let shown = answer(acme.admin.get("/security/threat-intelligence").send().await?).await?;
    let shown = bundle(&shown["objects"]);
    let (is_good, said) = asked("stix-own", &written("shown.json", &shown)?)?;
    assert!(is_good && said.contains("16 objects"), "{said}\n{shown}");
    // And they would tell.
    let note = given["objects"].as_array_mut().context("objects")?.iter_mut().find(|one| one["type"] == "note");
    note.and_then(Value::as_object_mut).context("a note")?.remove("modified");
    let (is_good, said) = asked("stix", &written("broken.json", &given)?)?;
    assert!(!is_good && said.contains("'modified' is a required property"), "{said}");
    Ok(())
}
