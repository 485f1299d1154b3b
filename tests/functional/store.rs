//! `ringfence store` on the data directory of a host: moved to the other backend while it is stopped, checked there, and
//! salvaged once it is damaged.

use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Result, bail, ensure};
use reqwest::{Method, StatusCode};
use ringfence_tests::{Host, Place, answer, files_under, problem, ringfence, string};
use serde_json::json;

use crate::backups::{admin_of, job};
use crate::started;

fn store(place: &Place, words: &[&str]) -> Result<Output> {
    Ok(Command::new(ringfence()?).arg("store").args(words).args(["--dev", "--data"]).arg(place.data()).output()?)
}

/// All that it said.
fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text)).concat()
}

#[tokio::test]
async fn a_store_that_is_moved_serves_what_it_served_and_the_backend_it_was_on_is_refused_by_name() -> Result<()> {
    let (place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("visits", "visits", "[budget]\ntime_ms = 20000\n", &[("keyvalue", &["default"])]).await?;
    let first = acme.fetch("visits", "/n").await?.1;
    assert!(first.starts_with("1 "), "{first}");
    let key = acme.admin.key.clone();
    let too_early = store(&place, &["migrate", "sled", "redb"])?;
    assert!(!too_early.status.success() && said(&too_early).contains("in use by another process"), "{too_early:?}");
    host.stop()?;

    let moved = store(&place, &["migrate", "sled", "redb"])?;
    assert!(moved.status.success() && said(&moved).contains("backend = \"redb\""), "{moved:?}");
    let checked = store(&place, &["check"])?;
    assert!(checked.status.success() && said(&checked).contains("nothing is damaged"), "{checked:?}");
    let Err(error) = Host::start(&place).map(drop) else { bail!("it came up on the backend it was moved from") };
    assert!(format!("{error:#}").contains("ringfence store migrate redb sled"), "{error:#}");
    let host = Host::start_with(&place, &[], &[("RINGFENCE_STORE_BACKEND", "redb")])?;
    let second = host.sign_in(&key).await?.fetch("/acme/visits/n").await?.1;
    assert!(second.starts_with("2 "), "{second}");
    Ok(())
}

#[tokio::test]
async fn what_opens_of_a_damaged_store_is_served_again_and_what_is_lost_is_named() -> Result<()> {
    const ALBUM: &str = "[needs]\nblob = [\"default\"]\n[budget]\ntime_ms = 20000\ncpu_ms = 5000\nmemory_mib = 32\n";
    let (place, host, operator) = started().await?;
    let (acme, bolt) = (host.tenant(&operator, "acme").await?, host.tenant(&operator, "bolt").await?);
    acme.ship("album", "album", ALBUM, &[("blob", &["default"])]).await?;
    for (name, length) in [("large", 1_000_000), ("small", 1_000)] {
        let put = acme.admin.call(Method::PUT, &format!("/acme/album/{name}")).body(vec![b'x'; length]).send().await?;
        assert_eq!(put.status(), StatusCode::CREATED);
    }
    bolt.ship("visits", "visits", "[budget]\ntime_ms = 20000\n", &[("keyvalue", &["default"])]).await?;
    assert!(bolt.fetch("visits", "/n").await?.1.starts_with("1 "));
    host.stop()?;

    // A file of one tenant is cut, and the database is not as new as what was durable.
    let dir = place.data().join("store");
    let mut files = files_under(&dir.join("blobs"))?;
    let is_value = |path: &Path| path.parent().is_some_and(|above| above.ends_with("values"));
    files.retain(|(path, bytes)| is_value(path) && bytes.len() >= 1_000_000);
    let [(large, bytes)] = &files[..] else { bail!("{} large values", files.len()) };
    std::fs::write(large, &bytes[..bytes.len() / 2])?;
    std::fs::write(dir.join("mark"), "ringfence store 1\nrevision 00000000009999999999\n")?;
    for told in ["quarantine-1", "ringfence store salvage"] {
        let Err(error) = Host::start(&place).map(drop) else { bail!("a host came up on a damaged store") };
        assert!(format!("{error:#}").contains(told), "{error:#}");
    }

    let salvaged = store(&place, &["salvage"])?;
    let told = said(&salvaged);
    assert!(!salvaged.status.success(), "not everything is there again: {told}");
    let line = |tenant: &str| told.lines().find(|line| line.contains(&format!("`{tenant}`"))).unwrap_or_default();
    assert!(line("acme").starts_with('×') && line("acme").ends_with(", 1 lost"), "{told}");
    assert!(line("bolt").starts_with('√') && line("bolt").ends_with(", 0 lost"), "{told}");
    assert!(told.contains("and 9999999999 was durable"), "{told}");

    let host = Host::start(&place)?;
    let second = host.sign_in(&bolt.admin.key).await?.fetch("/bolt/visits/n").await?.1;
    assert!(second.starts_with("2 "), "{second}");
    let admin = host.sign_in(&acme.admin.key).await?;
    assert_eq!(admin.fetch("/acme/album/small").await?, (StatusCode::OK, "x".repeat(1_000)));
    assert_ne!(admin.fetch("/acme/album/large").await?.0, StatusCode::OK);
    Ok(())
}

#[tokio::test]
async fn a_tenant_whose_policy_rotted_starts_locked_is_named_and_is_mended_while_the_others_are_served() -> Result<()> {
    let (place, host, operator) = started().await?;
    let (acme, bolt) = (host.tenant(&operator, "acme").await?, host.tenant(&operator, "bolt").await?);
    for tenant in [&acme, &bolt] {
        tenant.ship("visits", "visits", "[budget]\ntime_ms = 20000\n", &[("keyvalue", &["default"])]).await?;
        assert!(tenant.fetch("visits", "/n").await?.1.starts_with("1 "));
    }
    // Too long for its record: it lies in a file of its own.
    let text = format!(
        "{}@id(\"no-auditors\") forbid (principal, action == Ringfence::Action::\"create-token\", resource) \
         when {{ context has asked_role && context.asked_role == Ringfence::Role::\"auditor\" }};",
        "// words\n".repeat(10_000)
    );
    answer(acme.admin.put(&acme.path("/policy")).json(&json!({ "text": text })).send().await?).await?;
    let made = job(&acme.admin, &acme.path("/backups"), json!({})).await?;
    let backup = string(&made["result"], "id")?;
    host.stop()?;
    let mut files = files_under(&place.data().join("store").join("blobs"))?;
    files.retain(|(path, _)| path.parent().is_some_and(|above| above.ends_with("values")));
    ensure!(!files.is_empty(), "the policy lies elsewhere");
    for (path, mut bytes) in files {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(path, bytes)?;
    }

    let host = Host::start(&place)?;
    let operator = host.sign_in(&operator.key).await?;
    let second = host.sign_in(&bolt.admin.key).await?.fetch("/bolt/visits/n").await?.1;
    assert!(second.starts_with("2 "), "{second}");
    let told = host.stderr();
    assert!(told.lines().any(|line| line.contains("a tenant starts locked") && line.contains("acme")), "{told}");
    assert!(!told.lines().any(|line| line.contains("a tenant starts locked") && line.contains("bolt")), "{told}");
    let refused = problem(operator.get(&acme.path("/backups")).send().await?).await?;
    assert_eq!((refused.0, refused.1["code"].as_str()), (423, Some("key-disabled")), "{refused:?}");
    assert!(host.sign_in(&acme.admin.key).await.is_err());

    // Its keys are opened for whoever mends it, and for nobody whom its own rules could hold back.
    answer(operator.post(&acme.path("/keys/enable")).send().await?).await?;
    let admin = host.sign_in(&acme.admin.key).await?;
    let refused = problem(admin.get(&acme.path("/policy")).send().await?).await?;
    assert_eq!((refused.0, refused.1["code"].as_str()), (423, Some("key-disabled")), "{refused:?}");
    assert_ne!(admin.fetch("/acme/visits/n").await?.0, StatusCode::OK);
    let restore = acme.path(&format!("/backups/{backup}/restore"));
    let restored = job(&operator, &restore, json!({ "replace": "acme" })).await?;
    assert_eq!(restored["state"], "succeeded", "{restored}");
    let admin = host.sign_in(&acme.admin.key).await?;
    let policy = answer(admin.get(&acme.path("/policy")).send().await?).await?;
    assert_eq!(string(&policy, "text")?, text);
    let second = admin.fetch("/acme/visits/n").await?.1;
    assert!(second.starts_with("2 "), "{second}");
    Ok(())
}

#[tokio::test]
async fn a_tenant_whose_policy_does_not_fit_is_locked_alone_is_named_and_is_mended_or_deleted() -> Result<()> {
    let (place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("visits", "visits", "[budget]\ntime_ms = 20000\n", &[("keyvalue", &["default"])]).await?;
    assert!(acme.fetch("visits", "/n").await?.1.starts_with("1 "));
    // As long as a policy may be, and it names its tenant: under a longer name it is too long.
    let rule = "forbid (principal == Ringfence::Service::\"acme/nobody\", \
                action == Ringfence::Action::\"create-token\", resource);";
    let text = format!("//{}\n{rule}", "x".repeat((2 << 20) - rule.len() - 3));
    answer(acme.admin.put(&acme.path("/policy")).json(&json!({ "text": text })).send().await?).await?;
    let made = job(&acme.admin, &acme.path("/backups"), json!({})).await?;
    let restore = acme.path(&format!("/backups/{}/restore", string(&made["result"], "id")?));
    for name in ["acme-copy", "acme-again"] {
        let restored = job(&operator, &restore, json!({ "into": name })).await?;
        let locked = restored["result"]["locked"].as_str().unwrap_or_default();
        assert!(locked.starts_with("its policy cannot be put into force"), "{restored}");
        let refused = problem(operator.get(&format!("/tenants/{name}/backups")).send().await?).await?;
        assert_eq!((refused.0, refused.1["code"].as_str()), (423, Some("key-disabled")), "{refused:?}");
    }
    let key = acme.admin.key.clone();
    host.stop()?;
    let checked = store(&place, &["check"])?;
    let told = said(&checked);
    assert!(!checked.status.success(), "{told}");
    for name in ["acme-copy", "acme-again"] {
        assert!(told.contains(&format!("tenant `{name}`: its policy cannot be put into force")), "{told}");
    }
    assert!(!told.contains("tenant `acme`"), "{told}");

    let host = Host::start(&place)?;
    let operator = host.sign_in(&operator.key).await?;
    let admin = host.sign_in(&key).await?;
    assert!(admin.fetch("/acme/visits/n").await?.1.starts_with("2 "));
    let told = host.stderr();
    for name in ["acme-copy", "acme-again"] {
        assert!(told.lines().any(|line| line.contains("a tenant is locked") && line.contains(name)), "{told}");
    }
    answer(operator.delete("/tenants/acme-again").send().await?).await?;
    // What kept it locked is written anew by an operator, and nothing else is; nor anything of a tenant that is served.
    answer(operator.post("/tenants/acme-copy/keys/enable").send().await?).await?;
    let labels = problem(operator.put("/tenants/acme-copy/policy/labels").json(&json!({})).send().await?).await?;
    assert_eq!((labels.0, labels.1["code"].as_str()), (409, Some("conflict")), "{labels:?}");
    let others = problem(operator.put("/tenants/acme/policy").json(&json!({ "text": "" })).send().await?).await?;
    assert_eq!(others.0, 403, "{others:?}");
    let made = job(&operator, "/tenants/acme-copy/backups", json!({})).await?;
    let unfit = string(&made["result"], "id")?;
    answer(operator.put("/tenants/acme-copy/policy").json(&json!({ "text": "" })).send().await?).await?;
    let copy = admin_of(&host, &operator, "acme-copy").await?;
    assert!(copy.fetch("visits", "/n").await?.1.starts_with("2 "));
    // Put back to it while it is served, it is locked as by a start, and mended it serves again.
    let restore = format!("/tenants/acme-copy/backups/{unfit}/restore");
    let restored = job(&operator, &restore, json!({ "replace": "acme-copy" })).await?;
    assert_eq!(
        (&restored["state"], &restored["error"]["code"]),
        (&json!("failed"), &json!("bad-policy")),
        "{restored}"
    );
    answer(operator.post("/tenants/acme-copy/keys/enable").send().await?).await?;
    let admin = host.sign_in(&copy.admin.key).await?;
    assert_ne!(admin.fetch("/acme-copy/visits/n").await?.0, StatusCode::OK, "its own rules are not in force");
    answer(operator.put("/tenants/acme-copy/policy").json(&json!({ "text": "" })).send().await?).await?;
    let second = host.sign_in(&copy.admin.key).await?.fetch("/acme-copy/visits/n").await?.1;
    assert!(second.starts_with("2 "), "{second}");
    let others = problem(operator.put("/tenants/acme-copy/policy").json(&json!({ "text": "" })).send().await?).await?;
    assert_eq!(others.0, 403, "what it says is its own again: {others:?}");
    Ok(())
}
