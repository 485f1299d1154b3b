//! A tenant assures itself: checks of its own, what is done about violations, events of its plugins and their host calls on
//! its log, evidence as tables.

use anyhow::{Context, Result};
use reqwest::StatusCode;
use ringfence_audit::export::check;
use ringfence_tests::{Host, Place, answer, eventually, problem, string};
use serde_json::{Value, json};

use crate::started;

#[expect(clippy::disallowed_methods, reason = "whoever sets a due date has a calendar of his own")]
fn tomorrow() -> String {
    (jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24)).to_string()
}

const NEEDS: &str = "[needs]\nkeyvalue = [\"default\"]\naudit = []\n";

#[tokio::test]
async fn a_check_of_a_tenants_own_is_tried_kept_run_and_found_and_never_passes_by_default() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let put = async |body: Value| answer(acme.admin.put("/audit/compliance-check").json(&body).send().await?).await;
    let rule = json!({
        "id": "few-plugins", "title": "no plugin is deployed", "rule": "facts.plugins.all(p, p.live == '')",
        "controls": ["iso27001-a.8.19"], "severity": "high",
    });
    let mut tried = rule.clone();
    tried["dry_run"] = json!(true);
    let tried = put(tried).await?;
    assert_eq!((&tried["version"], tried["dry_run_result"]["state"].as_str()), (&Value::Null, Some("pass")), "{tried}");
    assert_eq!(answer(acme.admin.get("/audit/compliance-checks").send().await?).await?["items"], json!([]));
    assert_eq!(put(rule.clone()).await?["version"], 1);
    let run = async || answer(acme.admin.post("/audit/compliance-checks/few-plugins/run").send().await?).await;
    assert_eq!(run().await?["state"], "pass");
    acme.ship("hello", "hello", "", &[]).await?;
    let failed = run().await?;
    assert_eq!(failed["state"], "fail", "{failed}");

    let found = answer(acme.admin.get("/audit/trails/acme?class=2003&outcome=failure").send().await?).await?;
    let event = &found["events"][0];
    assert_eq!(
        (&event["seq"], &event["body"]["compliance"]["status"]),
        (&failed["finding_seq"], &json!("Fail")),
        "{found}"
    );
    assert_eq!(event["body"]["compliance"]["control"], "iso27001-a.8.19");
    let rows = answer(acme.admin.get("/audit/violations").send().await?).await?;
    let row = rows["items"].as_array().context("rows")?.iter().find(|row| row["kind"] == "check").context("a row")?;
    assert_eq!((&row["severity"], &row["count"], &row["over"]), (&json!("high"), &json!(1), &json!(false)));

    // Over entries: each is judged; nothing to judge, and what cannot be judged, is no pass.
    let over = json!({ "id": "own-deploys", "over": "entries", "select": { "code": "PLG-002", "outcome": "success" },
        "rule": "entry.actor == 'acme/admin'" });
    assert_eq!(put(over.clone()).await?["dry_run_result"]["state"], "pass");
    let mut none = over.clone();
    none["select"] = json!({ "code": "BAK" });
    assert_eq!(put(none).await?["dry_run_result"]["state"], "unknown");
    let mut torn = over.clone();
    torn["rule"] = json!("entry.details.nothing == 1");
    assert_eq!(put(torn).await?["dry_run_result"]["state"], "unknown");
    let mut wrong = over;
    wrong["rule"] = json!("entry.actor == 'somebody'");
    let wrong = put(wrong).await?;
    assert_eq!((&wrong["version"], &wrong["dry_run_result"]["failing_count"]), (&json!(4), &json!(1)), "{wrong}");
    let versions = answer(acme.admin.get("/audit/compliance-checks/own-deploys").send().await?).await?;
    assert_eq!((&versions["version"], versions["versions"].as_array().map(Vec::len)), (&json!(4), Some(3)));

    for bomb in ["entry.a.all(x, entry.a.all(y, x == y))", "tenants.size() == 1", "facts.x.matches('(a+)+$')"] {
        let body = json!({ "id": "bomb", "over": "entries", "rule": bomb });
        let (status, refused) = problem(acme.admin.put("/audit/compliance-check").json(&body).send().await?).await?;
        assert_eq!((status, refused["code"].as_str()), (422, Some("bad-check")), "{bomb}");
    }
    for (over, never) in
        [("facts", "facts.nope > 1"), ("facts", "1"), ("facts", "facts.plugins_count"), ("entries", "entry.nope == 1")]
    {
        for dry_run in [true, false] {
            let body = json!({ "id": "never", "over": over, "rule": never, "dry_run": dry_run });
            let (status, refused) =
                problem(acme.admin.put("/audit/compliance-check").json(&body).send().await?).await?;
            assert_eq!((status, refused["code"].as_str()), (422, Some("bad-check")), "{never}: it can never be judged");
        }
    }
    let auditor = acme.member(&host, "eve", "auditor").await?;
    assert_eq!(auditor.put("/audit/compliance-check").json(&rule).send().await?.status(), StatusCode::FORBIDDEN);
    let globex = host.tenant(&operator, "globex").await?;
    let path = "/audit/compliance-checks/few-plugins";
    assert_eq!(globex.admin.get(path).send().await?.status(), StatusCode::NOT_FOUND);
    assert_eq!(acme.admin.delete(path).send().await?.status(), StatusCode::NO_CONTENT);
    assert_eq!(acme.admin.get(path).send().await?.status(), StatusCode::NOT_FOUND);
    Ok(())
}

#[tokio::test]
async fn a_violation_is_over_when_its_check_passes_or_two_people_say_so() -> Result<()> {
    let place = Place::new()?;
    let host = Host::start_with(&place, &[], &[("RINGFENCE_IDENTITY_SECOND_PERSON_HOURS", "0")])?;
    let operator = host.operator().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let second = host.person(&acme.admin, "/tenants/acme/people", "second", "tenant-admin").await?;
    let act =
        |session: &ringfence_tests::Session, body: Value| session.put("/audit/remediation-action").json(&body).send();
    let rule = json!({ "id": "plugins", "rule": "facts.plugins_count > 0" });
    answer(acme.admin.put("/audit/compliance-check").json(&rule).send().await?).await?;
    answer(acme.admin.post("/audit/compliance-checks/plugins/run").send().await?).await?;
    let caller = acme.member(&host, "cal", "caller").await?;
    assert_eq!(caller.get(&acme.path("/secrets")).send().await?.status(), StatusCode::FORBIDDEN);
    let id_of = async |kind: &str| -> Result<String> {
        let rows = answer(acme.admin.get("/audit/violations").send().await?).await?;
        let row = rows["items"].as_array().context("rows")?.iter().find(|row| row["kind"] == kind).cloned();
        string(&row.with_context(|| format!("no {kind} in {rows}"))?, "id")
    };

    let failing = id_of("check").await?;
    let start = json!({ "violation_id": failing, "action": "start" });
    assert_eq!(problem(act(&acme.admin, start).await?).await?.0, 409, "nobody is to see to it yet");
    let assign = json!({ "violation_id": failing, "action": "assign",
        "params": { "owner": "acme/second", "due_at": "2126-01-01T00:00:00Z" } });
    let (status, refused) = problem(act(&acme.admin, assign).await?).await?;
    assert_eq!((status, refused["code"].as_str()), (422, Some("bad-remediation")), "a century is no due date");
    let due = tomorrow();
    let assign = |id: &str, dry_run: bool| {
        json!({ "violation_id": id, "action": "assign", "dry_run": dry_run,
            "params": { "owner": "acme/second", "due_at": due } })
    };
    answer(act(&acme.admin, assign(&failing, true)).await?).await?;
    let resolve = json!({ "violation_id": failing, "action": "resolve", "params": { "note": "deployed" } });
    assert_eq!(problem(act(&acme.admin, resolve.clone()).await?).await?.0, 409, "a dry run keeps nothing");
    answer(act(&acme.admin, assign(&failing, false)).await?).await?;
    let (status, refused) = problem(act(&acme.admin, resolve.clone()).await?).await?;
    assert_eq!((status, refused["code"].as_str()), (409, Some("check-still-failing")), "{refused}");
    acme.ship("hello", "hello", "", &[]).await?;
    assert_eq!(answer(act(&acme.admin, resolve).await?).await?["state"], "resolved");

    let denied = id_of("denied").await?;
    answer(act(&acme.admin, assign(&denied, false)).await?).await?;
    let resolve = json!({ "violation_id": denied, "action": "resolve",
        "params": { "note": "spoke with cal", "evidence": ["https://example.com/ticket/7"] } });
    assert_eq!(answer(act(&acme.admin, resolve).await?).await?["state"], "waiting-resolved");
    let approve = json!({ "violation_id": denied, "action": "approve" });
    let (status, own) = problem(act(&acme.admin, approve.clone()).await?).await?;
    assert_eq!((status, own["code"].as_str()), (422, Some("own-request")));
    assert_eq!(answer(act(&second, approve).await?).await?["state"], "resolved");
    let again = answer(acme.admin.get("/audit/violations").send().await?).await?;
    let row = again["items"].as_array().context("rows")?.iter().find(|row| row["id"] == denied.as_str());
    assert_eq!(row.context("a row")?["remediation"]["state"], "resolved");
    // What comes again is open again.
    assert_eq!(caller.get(&acme.path("/secrets")).send().await?.status(), StatusCode::FORBIDDEN);
    let again = answer(acme.admin.get("/audit/violations").send().await?).await?;
    let row = again["items"].as_array().context("rows")?.iter().find(|row| row["id"] == denied.as_str());
    assert_eq!(row.context("a row")?["remediation"]["state"], "open");

    // The host does something about it, after it said whom it would touch.
    let respond = |dry_run: bool| {
        json!({ "violation_id": denied, "action": "respond", "dry_run": dry_run, "params": { "response":
            { "kind": "suspend-principal", "target": { "tenant": "acme", "principal": "acme/cal" }, "minutes": 5 } } })
    };
    let tried = answer(act(&acme.admin, respond(true)).await?).await?;
    assert!(string(&tried, "effect")?.contains("would be in force") && tried.get("reversible_until").is_none());
    let done = answer(act(&acme.admin, respond(false)).await?).await?;
    assert!(done["reversible_until"].is_string(), "{done}");
    assert_eq!(problem(caller.get("/whoami").send().await?).await?.1["code"], "principal-suspended");
    let acts = answer(acme.admin.get("/audit/trails/acme?code=CHK-004&outcome=success").send().await?).await?;
    assert_eq!(acts["events"].as_array().map(Vec::len), Some(6), "{acts}");
    Ok(())
}

#[tokio::test]
async fn an_event_of_a_plugin_is_on_the_log_in_the_hosts_words_and_cannot_forge_a_line() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let pushed = acme.push("consent", "consent", "0.1.0", NEEDS).await?;
    assert!(pushed["needs"].to_string().contains("audit"), "{pushed}");
    acme.grant("consent", "keyvalue", &["default"]).await?;
    let deploy = acme.path("/plugins/consent/deploy");
    let (status, refused) =
        problem(acme.admin.post(&deploy).json(&json!({ "version": "0.1.0" })).send().await?).await?;
    assert_eq!((status, refused["code"].as_str()), (409, Some("need-not-granted")));
    acme.grant("consent", "audit", &[]).await?;
    acme.deploy("consent", "0.1.0").await?;
    let give = async |body: Vec<u8>| {
        let sent = acme.admin.call(reqwest::Method::PUT, "/acme/consent/ann").body(body).send().await?;
        anyhow::Ok(sent.status())
    };
    let forged = "by phone\r\n2026-01-01T00:00:00Z TEN-001 tenant-created\u{1b}[2J";
    assert_eq!(give(forged.as_bytes().to_vec()).await?, StatusCode::OK);
    assert_eq!(give(vec![b'm'; 1 << 20]).await?, StatusCode::INTERNAL_SERVER_ERROR);
    let found = answer(acme.admin.get("/audit/trails/acme?code=APP-002").send().await?).await?;
    let events = found["events"].as_array().context("events")?;
    assert_eq!(events.len(), 1, "{found}");
    let (body, details) = (&events[0]["body"], &events[0]["body"]["unmapped"]["details"]);
    assert_eq!(body["resources"][0]["uid"], "tenant/acme/plugin/consent/application/person/ann");
    assert_eq!((&body["actor"]["user"]["uid"], &details["code"]), (&json!("acme/admin"), &json!("consent-given")));
    assert!(details["invocation"].is_string() && !string(details, "message")?.contains(['\n', '\r', '\u{1b}']));
    // The tenant's day, and the grant, end it at once.
    let quota = json!({ "overrides": { "audit_events_per_day": 1 } });
    answer(operator.put("/tenants/acme/quota").json(&quota).send().await?).await?;
    assert_eq!(give(b"again".to_vec()).await?, StatusCode::INTERNAL_SERVER_ERROR);
    let used = answer(operator.get("/tenants/acme/quota").send().await?).await?;
    assert_eq!((&used["use"]["audit_events_today"], &used["throttled"]["audit_events_count"]), (&json!(1), &json!(1)));
    Ok(())
}

#[tokio::test]
async fn host_calls_are_on_the_log_as_their_tenant_chose() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("visits", "visits", "[needs]\nkeyvalue = [\"default\"]\n", &[("keyvalue", &["default"])]).await?;
    acme.fetch("visits", "/before").await?;
    let chosen = json!({ "host_calls": { "keyvalue": "all", "http": "1/100" } });
    answer(acme.admin.put("/audit/host-calls").json(&chosen).send().await?).await?;
    let (status, refused) = problem(
        acme.admin.put("/audit/host-calls").json(&json!({ "host_calls": { "keyvalue": "some" } })).send().await?,
    )
    .await?;
    assert_eq!((status, refused["code"].as_str()), (422, Some("bad-host-calls")));
    acme.fetch("visits", "/after").await?;
    let mut calls = Vec::new();
    eventually("the calls on the log", async || {
        let found = answer(acme.admin.get("/audit/trails/acme?class=6005").send().await?).await?;
        let events = found["events"].as_array().context("events")?;
        calls = events
            .iter()
            .flat_map(|event| event["body"]["unmapped"]["details"]["calls"].as_array().cloned().unwrap_or_default())
            .collect();
        Ok(!calls.is_empty())
    })
    .await?;
    assert!(calls.iter().all(|call| call["plugin"] == "visits" && call["capability"] == "keyvalue"), "{calls:?}");
    let text = json!(calls).to_string();
    assert!(text.contains("default") && !text.contains("/before"), "{text}");
    assert_eq!(answer(acme.admin.get("/audit/host-calls").send().await?).await?["host_calls"]["keyvalue"], "all");
    Ok(())
}

#[tokio::test]
async fn evidence_as_parquet_holds_the_entries_and_is_checked_with_them() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("hello", "hello", "", &[]).await?;
    let vkey = string(&answer(acme.admin.get(&acme.path("/audit/checkpoint")).send().await?).await?, "vkey")?;
    let asked = json!({ "formats": ["parquet", "csv"] });
    let made: Value = acme.admin.post("/audit/evidence-package").json(&asked).send().await?.json().await?;
    let path = string(&made, "url")?.replace("/api/v1", "");
    let bytes = acme.admin.get(&path).send().await?.bytes().await?.to_vec();
    let checked = check(bytes.as_slice(), Some(&vkey), None)?;
    assert!(checked.manifest.files.contains_key("entries.parquet") && checked.manifest.first_time_ms.is_some());
    assert!(bytes.windows(4).any(|window| window == b"PAR1"));
    Ok(())
}
