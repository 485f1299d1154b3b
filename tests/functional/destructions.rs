//! What is left of a deleted tenant: a signed receipt that anybody checks without the host, and nothing that opens.

use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use ringfence_audit::destruction::verify;
use ringfence_tests::{Host, Place, Session, answer, eventually, problem, ringfence, string};
use serde_json::Value;

use crate::started;

fn text_of(output: &Output) -> Result<String> {
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout.clone())?)
}

/// `ringfence` as an operator runs it.
fn command(host: &Host, who: &Session, args: &[&str]) -> Result<String> {
    let home = tempfile::tempdir()?;
    let mut command = Command::new(ringfence()?);
    command.args(["--host", &host.control]).args(args);
    text_of(&command.env("RINGFENCE_HOME", home.path()).env("RINGFENCE_API_KEY", &who.key).output()?)
}

/// The same by somebody who has no host.
fn check(file: &Path, vkey: &str, format: &[&str]) -> Result<Output> {
    Ok(Command::new(ringfence()?).args(format).args(["key", "verify", "--vkey", vkey]).arg(file).output()?)
}

async fn vkey(operator: &Session) -> Result<String> {
    string(&answer(operator.get("/audit/keys").send().await?).await?, "vkey")
}

#[tokio::test]
async fn a_deleted_tenant_leaves_a_receipt_that_verifies_without_the_host_and_not_when_it_was_altered() -> Result<()> {
    let (place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("hello", "hello", "", &[]).await?;
    answer(acme.admin.post("/tenants/acme/keys/rotate").send().await?).await?;
    let none = answer(operator.get("/keys/receipts").send().await?).await?;
    assert_eq!(none["items"].as_array().map(Vec::len), Some(0));
    assert_eq!(operator.delete("/tenants/acme").send().await?.status(), 204);

    let list = answer(operator.get("/keys/receipts").send().await?).await?;
    let (item, uid) = (&list["items"][0], string(&list["items"][0], "tenant_uid")?);
    assert_eq!((item["tenant"].as_str(), uid.len()), (Some("acme"), 32), "{list}");
    let seq = item["seq"].as_u64().context("a place")?.to_string();
    assert!(command(&host, &operator, &["key", "receipts"])?.contains(&uid));
    let note = command(&host, &operator, &["key", "receipt", &seq])?;
    assert!(note.starts_with("ringfence destruction receipt v1\n"), "{note}");
    let (status, missing) = problem(operator.get("/keys/receipts/999999").send().await?).await?;
    assert_eq!((status, missing["code"].as_str()), (404, Some("not-found")));
    let globex = host.tenant(&operator, "globex").await?;
    for path in ["/keys/receipts".to_owned(), format!("/keys/receipts/{seq}")] {
        assert_eq!(globex.admin.get(&path).send().await?.status(), 403, "{path}");
    }
    let key = vkey(&operator).await?;
    host.stop()?;

    let verified = verify(&note, &key)?;
    let said = &verified.receipt.destroyed;
    assert_eq!((said.tenant_uid.as_str(), said.asked_by.as_str()), (uid.as_str(), "operator/ada"));
    assert_eq!((&said.approved_by, said.versions.len()), (&None, 2), "one alone may, without a delay");
    let file = place.data().with_extension("receipt");
    std::fs::write(&file, &note)?;
    let text = text_of(&check(&file, &key, &[])?)?;
    assert!(text.contains("the keys of tenant acme") && text.contains(&uid), "{text}");
    let told: Value = serde_json::from_str(&text_of(&check(&file, &key, &["--json"])?)?)?;
    assert_eq!((told["verified"].as_bool(), told["seq"].to_string()), (Some(true), seq));
    for (from, to) in [("\"acme\"", "\"acne\""), ("operator/ada", "operator/eve"), ("old-copies-too", "this-copy-only")]
    {
        let altered = note.replacen(from, to, 1);
        assert_ne!(altered, note, "{from}");
        std::fs::write(&file, altered)?;
        let refused = check(&file, &key, &[])?;
        assert_eq!(refused.status.code(), Some(1), "{from}");
        assert!(String::from_utf8_lossy(&refused.stderr).contains("receipt-bad-signature"), "{from}");
    }
    Ok(())
}

#[tokio::test]
async fn the_receipt_of_two_peoples_destruction_names_both() -> Result<()> {
    let place = Place::new()?;
    let host = Host::start_with(
        &place,
        &[],
        // Who was invited this minute is no second person otherwise.
        &[("RINGFENCE_KEYS_DESTROY_DELAY_HOURS", "0"), ("RINGFENCE_IDENTITY_SECOND_PERSON_HOURS", "0")],
    )?;
    let operator = host.operator().await?;
    let other = host.person(&operator, "/people", "grace", "operator").await?;
    host.tenant(&operator, "acme").await?;
    answer(operator.post("/tenants/acme/keys/destroy").send().await?).await?;
    answer(other.post("/tenants/acme/keys/destroy/approve").send().await?).await?;
    let mut list = Value::Null;
    eventually("there is a receipt", async || {
        list = answer(operator.get("/keys/receipts").send().await?).await?;
        Ok(list["items"].as_array().is_some_and(|items| !items.is_empty()))
    })
    .await?;
    let seq = list["items"][0]["seq"].as_u64().context("a place")?;
    let note = operator.get(&format!("/keys/receipts/{seq}")).send().await?.text().await?;
    let said = verify(&note, &vkey(&operator).await?)?.receipt.destroyed;
    assert_eq!(said.asked_by, "operator/ada");
    assert!(said.approved_by.as_deref().is_some_and(|who| who.contains("grace")), "{said:?}");
    assert!(said.asked_at <= said.destroyed_at);
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let done = Command::new("cp").arg("-a").args([from, to]).status()?;
    ensure!(done.success(), "cp: {done}");
    Ok(())
}

#[tokio::test]
async fn an_old_copy_of_the_data_directory_opens_nothing_of_a_tenant_that_was_deleted_since() -> Result<()> {
    let keys = tempfile::tempdir()?;
    // Elsewhere than the data, as it has to be: what is copied with the data cannot be destroyed.
    let root = format!("file:{}", keys.path().join("root.key").display());
    let start = |place: &Place| Host::start_with(place, &[], &[("RINGFENCE_KEYS_ROOT", &root)]);
    let place = Place::new()?;
    let host = start(&place)?;
    let operator = host.operator().await?;
    let (acme, globex) = (host.tenant(&operator, "acme").await?, host.tenant(&operator, "globex").await?);
    for tenant in [&acme, &globex] {
        tenant.ship("visits", "visits", "[needs]\nkeyvalue = [\"default\"]\n", &[("keyvalue", &["default"])]).await?;
        assert_eq!(tenant.fetch("visits", "/ada").await?.0, 200);
    }
    let (operator_key, acme_key, globex_key) = (operator.key, acme.admin.key, globex.admin.key);
    host.stop()?;
    let old = Place::new()?;
    copy(&place.data(), &old.data())?;

    let host = start(&place)?;
    let operator = host.sign_in(&operator_key).await?;
    assert_eq!(operator.delete("/tenants/acme").send().await?.status(), 204);
    host.stop()?;

    let host = start(&old)?;
    let operator = host.sign_in(&operator_key).await?;
    let known = answer(operator.get("/tenants").send().await?).await?.to_string();
    assert!(known.contains("\"acme\""), "the copy knows that there was one: {known}");
    assert!(host.sign_in(&acme_key).await.is_err(), "and whom it had, it does not know");
    for path in ["/tenants/acme", "/tenants/acme/usage", "/tenants/acme/keys"] {
        assert_eq!(operator.get(path).send().await?.status(), 404, "{path}");
    }
    assert_eq!(operator.fetch("/acme/visits/ada").await?.0, 404);
    let globex = host.sign_in(&globex_key).await?;
    let (status, text) = globex.fetch("/globex/visits/ada").await?;
    assert!(status == 200 && text.starts_with("2 visit"), "another tenant of the copy is whole: {status} {text}");
    Ok(())
}
