//! The audit log as its owner uses it: proofs, tiles, trails, his own events, what went wrong, evidence to take away.

use anyhow::{Context, Result};
use reqwest::StatusCode;
use ringfence_audit::cosign::Cosigner;
use ringfence_audit::export::check;
use ringfence_audit::heads::{Cover, verify_cover};
use ringfence_audit::note::Verifier;
use ringfence_audit::proof::InclusionProof;
use ringfence_tests::{answer, problem, string};
use serde_json::{Value, json};

use crate::started;

#[tokio::test]
async fn an_entry_is_proven_against_the_key_and_the_tiles_give_the_same_root() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("hello", "hello", "", &[]).await?;
    let head = answer(acme.admin.get(&acme.path("/audit/checkpoint")).send().await?).await?;
    let verifier = Verifier::parse(&string(&head, "vkey")?).context("a key")?;
    let page = answer(acme.admin.get(&acme.path("/audit?from=1&limit=1")).send().await?).await?;
    let envelope = string(&page["items"][0], "envelope")?;
    let text = acme.admin.get("/audit/proofs/1").send().await?.text().await?;
    let proof = InclusionProof::parse(&text).context("a proof")?;
    assert!(proof.verify(&verifier, envelope.as_bytes()).is_some());
    assert!(proof.verify(&verifier, envelope.replace("Success", "Failure").as_bytes()).is_none());
    let size = head["size"].as_u64().context("a size")?;
    let tile = acme.admin.get(&acme.path(&format!("/audit/tlog/tile/0/000.p/{size}"))).send().await?.bytes().await?;
    let leaves: Vec<[u8; 32]> = tile.chunks(32).map(|hash| hash.try_into().unwrap()).collect();
    let signed = verifier.open(&string(&head, "checkpoint")?).context("a head")?;
    assert_eq!(ringfence_audit::tree::root(&leaves), signed.root);
    for absent in ["/audit/tlog/tile/0/999", "/audit/tlog/tile/../0", "/audit/tlog/x"] {
        assert_eq!(problem(acme.admin.get(&acme.path(absent)).send().await?).await?.0, 404, "{absent}");
    }
    let (status, refused) = problem(acme.admin.get("/audit/proofs/100000").send().await?).await?;
    assert_eq!((status, refused["code"].as_str()), (404, Some("no-entry")));
    Ok(())
}

#[tokio::test]
async fn a_trail_is_filtered_redacted_by_role_and_itself_on_the_record() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("hello", "hello", "", &[]).await?;
    let auditor = acme.member(&host, "eve", "auditor").await?;
    let path = "/audit/trails/acme?code=PLG-002&outcome=success";
    let full = answer(acme.admin.get(path).send().await?).await?;
    let events = full["events"].as_array().context("events")?;
    assert_eq!(events.len(), 1, "{full}");
    assert!(events[0]["body"]["src_endpoint"]["ip"].is_string());
    let less = answer(auditor.get(path).header("user-agent", "probe/1").send().await?).await?;
    assert!(less["events"][0]["body"].get("src_endpoint").is_none());
    assert_eq!(less["events"][0]["redacted"], json!(["src_endpoint"]));
    assert!(less["events"][0].get("salt").is_none());
    let reads = answer(acme.admin.get("/audit/trails/acme?code=HST-003&actor=acme/eve").send().await?).await?;
    assert_eq!(reads["events"].as_array().map(Vec::len), Some(1), "{reads}");
    assert_eq!(reads["events"][0]["body"]["http_request"]["user_agent"], "probe/1");
    let own = answer(auditor.get("/audit/trails/acme?code=HST-003&actor=acme/eve").send().await?).await?;
    let mut redacted = own["events"].as_array().context("events")?.iter().map(|event| &event["redacted"]);
    assert!(redacted.any(|paths| *paths == json!(["src_endpoint", "http_request.user_agent"])), "{own}");
    let globex = host.tenant(&operator, "globex").await?;
    assert_eq!(globex.admin.get("/audit/trails/acme").send().await?.status(), StatusCode::NOT_FOUND);
    let (status, _) = problem(acme.admin.get("/audit/trails/acme?outcome=maybe").send().await?).await?;
    assert_eq!(status, 422);
    Ok(())
}

#[tokio::test]
async fn reading_entries_is_on_the_record_and_a_reader_of_small_pages_comes_to_an_end() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let auditor = acme.member(&host, "eve", "auditor").await?;
    let (mut cursor, mut pages_count) = ("0".to_owned(), 0);
    loop {
        let page = answer(auditor.get(&acme.path(&format!("/audit?from={cursor}&limit=2"))).send().await?).await?;
        pages_count += 1;
        match page["cursor"].as_str() {
            Some(next) if pages_count < 100 => cursor = next.to_owned(),
            _ => break,
        }
    }
    assert!(pages_count < 100, "its own readings kept it going");
    let reads = answer(acme.admin.get("/audit/trails/acme?code=HST-003&actor=acme/eve").send().await?).await?;
    let events = reads["events"].as_array().context("events")?;
    assert_eq!(events.len(), pages_count, "{reads}");
    assert_eq!(events[0]["body"]["unmapped"]["details"]["view"], "entries");
    answer(operator.get("/audit?limit=10").send().await?).await?;
    let page = answer(operator.get("/audit?limit=1000").send().await?).await?.to_string();
    assert!(page.contains("HST-003"), "the host's own log is no other");
    Ok(())
}

#[tokio::test]
async fn an_application_records_its_own_events_and_cannot_pass_for_the_host() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let caller = acme.member(&host, "cal", "caller").await?;
    let event =
        json!({ "code": "order-placed", "message": "order 17", "resource": "order/17", "data": { "total": 5 } });
    let recorded = caller.post("/audit/log-event?wait=published").json(&event).send().await?;
    assert_eq!(recorded.status(), StatusCode::CREATED);
    let recorded: Value = recorded.json().await?;
    let found = answer(acme.admin.get("/audit/trails/acme?code=APP-001").send().await?).await?;
    let event = &found["events"][0];
    assert_eq!(event["seq"], recorded["seq"]);
    assert_eq!(event["body"]["actor"]["user"]["uid"], "acme/cal");
    assert_eq!(event["body"]["unmapped"]["details"]["code"], "order-placed");
    let verifier = Verifier::parse(&string(&found, "vkey")?).context("a key")?;
    let proof = InclusionProof::parse(&string(&recorded, "proof")?).context("a proof")?;
    assert!(proof.verify(&verifier, string(event, "envelope")?.as_bytes()).is_some());
    for forged in
        [json!({ "code": "TEN-003", "message": "m" }), json!({ "code": "x", "message": "m", "class_uid": 3002 })]
    {
        let (status, refused) = problem(caller.post("/audit/log-event").json(&forged).send().await?).await?;
        assert_eq!((status, refused["code"].as_str()), (422, Some("reserved-event")));
    }
    Ok(())
}

#[tokio::test]
async fn the_same_denial_twice_is_one_violation_and_counts_agree_with_the_trail() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let caller = acme.member(&host, "cal", "caller").await?;
    for _ in 0..2 {
        assert_eq!(caller.get(&acme.path("/secrets")).send().await?.status(), StatusCode::FORBIDDEN);
    }
    let found = answer(acme.admin.get("/audit/violations").send().await?).await?;
    let rows: Vec<&Value> =
        found["items"].as_array().into_iter().flatten().filter(|row| row["actor"] == "acme/cal").collect();
    assert_eq!((rows.len(), rows[0]["count"].as_u64(), rows[0]["kind"].as_str()), (1, Some(2), Some("denied")));
    let counts = answer(acme.admin.get("/audit/analytics?metric=denials&group=actor&window=1h").send().await?).await?;
    assert_eq!(counts["series"], json!([{ "key": "acme/cal", "count": 2 }]));
    Ok(())
}

#[tokio::test]
async fn evidence_is_checked_elsewhere_and_one_changed_byte_is_found() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("hello", "hello", "", &[]).await?;
    let vkey = string(&answer(acme.admin.get(&acme.path("/audit/checkpoint")).send().await?).await?, "vkey")?;
    for (number, (asked, complete)) in [
        (json!({ "formats": ["csv"] }), true),
        (json!({ "query": { "code": "PLG" } }), false),
        (json!({ "sample_count": 3 }), false),
    ]
    .into_iter()
    .enumerate()
    {
        let made = acme.admin.post("/audit/evidence-package").json(&asked).send().await?;
        assert_eq!(made.status(), StatusCode::CREATED, "{asked}");
        let made: Value = made.json().await?;
        assert_eq!(made["complete"], json!(complete), "{made}");
        let url = string(&made, "url")?;
        let path = url.strip_prefix("/api/v1").context("a path")?;
        let bytes = acme.admin.get(path).send().await?.bytes().await?.to_vec();
        let checked = check(bytes.as_slice(), Some(&vkey), None)?;
        assert_eq!(checked.manifest.entries_count, made["entries_count"].as_u64().context("a count")?);
        let at = bytes.windows(8).position(|window| window == b"envelope").context("an entry")? + 40;
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        assert!(check(changed.as_slice(), Some(&vkey), None).is_err());
        let globex = host.tenant(&operator, &format!("globex-{number}")).await?;
        assert_eq!(globex.admin.get(path).send().await?.status(), StatusCode::NOT_FOUND);
    }
    Ok(())
}

#[tokio::test]
async fn a_package_is_given_to_nobody_who_may_see_less_than_who_made_it_and_each_fetch_is_on_the_log() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let auditor = acme.member(&host, "aud", "auditor").await?;
    let vkey = string(&answer(acme.admin.get(&acme.path("/audit/checkpoint")).send().await?).await?, "vkey")?;
    let make = async |who: &ringfence_tests::Session| -> Result<String> {
        let asked = json!({ "formats": ["csv", "parquet"] });
        let made = answer(who.post("/audit/evidence-package").json(&asked).send().await?).await?;
        Ok(string(&made, "url")?.strip_prefix("/api/v1").context("a path")?.to_owned())
    };
    let (of_admin, of_auditor) = (make(&acme.admin).await?, make(&auditor).await?);
    let (status, refused) = problem(auditor.get(&of_admin).send().await?).await?;
    assert_eq!((status, refused["code"].as_str()), (403, Some("package-withheld")), "{refused}");
    let whole = acme.admin.get(&of_admin).send().await?.bytes().await?;
    let addresses = |bytes: &[u8]| bytes.windows(20).any(|window| window == b"\"src_endpoint\":{\"ip\"");
    assert!(addresses(&whole), "an admin's holds where requests came from");
    let checked = check(&whole[..], Some(&vkey), None)?;
    assert_eq!((checked.bodies_withheld, checked.bodies_bare), (0, 0), "and all of it is proven");
    for who in [&acme.admin, &auditor] {
        let fetched = who.get(&of_auditor).send().await?;
        assert_eq!(fetched.status(), StatusCode::OK);
        let fetched = fetched.bytes().await?;
        assert!(!addresses(&fetched));
        let checked = check(&fetched[..], Some(&vkey), None)?;
        assert!(checked.bodies_bare > 0, "an auditor's verifies too, and says of what it proves nothing");
        assert_eq!((checked.bodies_bare, checked.manifest.redacted.is_empty()), (checked.bodies_withheld, false));
    }
    let trail = answer(acme.admin.get("/audit/trails/acme?code=AUD-002&limit=1000").send().await?).await?;
    let events = trail["events"].as_array().context("events")?;
    let of = |path: &str, outcome: &str| {
        let id = path.rsplit('/').next().unwrap_or_default();
        let about = |event: &&Value| {
            event["body"]["unmapped"]["details"]["package"] == id && event["body"]["status"] == outcome
        };
        events.iter().filter(about).count()
    };
    assert_eq!((of(&of_admin, "Success"), of(&of_admin, "Failure"), of(&of_auditor, "Success")), (1, 1, 2), "{trail}");
    Ok(())
}

#[tokio::test]
async fn the_host_commits_to_every_log_and_its_owner_can_check_it() -> Result<()> {
    let place = ringfence_tests::Place::new()?;
    let host = ringfence_tests::Host::start_with(&place, &[], &[("RINGFENCE_AUDIT_ANCHOR_EVERY", "1s")])?;
    let operator = host.operator().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let key = string(&answer(acme.admin.get(&acme.path("/audit/checkpoint")).send().await?).await?, "vkey")?;
    let mut view = Value::Null;
    ringfence_tests::eventually("a commitment to the log", async || {
        view = answer(acme.admin.get("/audit/anchor").send().await?).await?;
        Ok(view["proof"].is_string())
    })
    .await?;
    assert_eq!(view["level"], "L0", "nobody outside keeps or signs anything here");
    let proof = InclusionProof::parse(&string(&view, "proof")?).context("a proof")?;
    let cover = Cover { checkpoint: string(&view, "checkpoint")?, salt: string(&view, "salt")?, index: proof.index };
    let (log, heads) = (Verifier::parse(&key), Verifier::parse(&string(&view, "heads_vkey")?));
    let head = verify_cover(&cover, &log.context("a key")?, &heads.context("a key")?, &proof);
    assert!(head.context("a covered head")?.size > 0);
    Ok(())
}

#[tokio::test]
async fn a_hold_keeps_a_tenant_and_an_erased_person_leaves_a_log_that_verifies() -> Result<()> {
    let place = ringfence_tests::Place::new()?;
    let settings = [("RINGFENCE_KEYS_DESTROY_DELAY_HOURS", "24"), ("RINGFENCE_IDENTITY_SECOND_PERSON_HOURS", "0")];
    let host = ringfence_tests::Host::start_with(&place, &[], &settings)?;
    let operator = host.operator().await?;
    let (acme, globex) = (host.tenant(&operator, "acme").await?, host.tenant(&operator, "globex").await?);
    let order = json!({ "reason": "case 17" });
    let hold = answer(acme.admin.post("/audit/holds").json(&order).send().await?).await?;
    let (status, refused) = problem(operator.delete("/tenants/acme").send().await?).await?;
    assert_eq!((status, refused["code"].as_str()), (409, Some("legal-hold")));
    let (status, refused) = problem(operator.post("/tenants/acme/keys/destroy").json(&json!({})).send().await?).await?;
    assert_eq!((status, refused["code"].as_str()), (409, Some("legal-hold")));
    let life = answer(acme.admin.get("/audit/retention").send().await?).await?;
    assert_eq!((life["retention_days"].as_u64(), life["holds"][0]["id"].clone()), (Some(2_557), hold["id"].clone()));
    assert_eq!(life["shards"][0]["state"], "open");
    let path = format!("/audit/holds/{}", string(&hold, "id")?);
    assert_eq!(answer(acme.admin.delete(&path).send().await?).await?["state"], "asked");
    let other_key = acme.member(&host, "eve", "tenant-admin").await?;
    let (status, refused) = problem(other_key.delete(&path).send().await?).await?;
    assert_eq!((status, refused["code"].as_str()), (409, Some("second-person-needed")), "a key is not a person");
    let (status, refused) = problem(operator.delete(&format!("/tenants/acme{path}")).send().await?).await?;
    assert_eq!((status, refused["code"].as_str()), (409, Some("hold-of-others")));
    let bob = host.person(&acme.admin, "/tenants/acme/people", "bob", "tenant-admin").await?;
    assert_eq!(answer(bob.delete(&path).send().await?).await?["state"], "done");
    assert_eq!(operator.delete("/tenants/acme").send().await?.status(), StatusCode::ACCEPTED);

    // Its keys are shut while its deletion waits: a hold that comes then is in time.
    let later = host.tenant(&operator, "initech").await?;
    assert_eq!(operator.delete("/tenants/initech").send().await?.status(), StatusCode::ACCEPTED);
    assert_eq!(later.admin.post("/audit/holds").json(&order).send().await?.status(), StatusCode::LOCKED);
    answer(operator.post("/tenants/initech/audit/holds").json(&order).send().await?).await?;
    let (status, refused) = problem(operator.delete("/tenants/initech").send().await?).await?;
    assert_eq!((status, refused["code"].as_str()), (409, Some("legal-hold")));

    let key = string(&answer(globex.admin.get("/audit/keys").send().await?).await?, "vkey")?;
    let event = json!({ "code": "order-placed", "message": "canary-ann", "subject": "ann", "data": { "n": 1 } });
    let seq = answer(globex.admin.post("/audit/log-event").json(&event).send().await?).await?["seq"].clone();
    let trail = "/audit/trails/globex?code=APP-001";
    let seen = answer(globex.admin.get(trail).send().await?).await?;
    assert_eq!(seen["events"][0]["personal"]["message"], "canary-ann", "{seen}");
    assert!(!seen["events"][0]["body"].to_string().contains("canary-ann"));
    let erased = globex.admin.post(&globex.path("/subjects/ann/erase")).json(&json!({})).send().await?;
    assert_eq!(erased.status(), StatusCode::OK);
    let seen = answer(globex.admin.get(trail).send().await?).await?;
    assert!(seen["events"][0].get("personal").is_none() && seen["events"][0]["salt"].is_string(), "{seen}");
    let proof = globex.admin.get(&format!("/audit/proofs/{seq}")).send().await?.text().await?;
    let envelope = string(&seen["events"][0], "envelope")?;
    let held = InclusionProof::parse(&proof).context("a proof")?;
    assert!(held.verify(&Verifier::parse(&key).context("a key")?, envelope.as_bytes()).is_some());
    Ok(())
}

#[tokio::test]
async fn a_new_key_of_the_logs_can_be_followed_from_the_old_one() -> Result<()> {
    let place = ringfence_tests::Place::new()?;
    let host = ringfence_tests::Host::start_with(&place, &[], &[("RINGFENCE_AUDIT_POST_QUANTUM", "on")])?;
    let operator = host.operator().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let old = string(&answer(acme.admin.get("/audit/keys").send().await?).await?, "vkey")?;
    let (status, _) = problem(acme.admin.post("/audit/keys/rotate").json(&json!({})).send().await?).await?;
    assert_eq!(status, 403, "the key is the host's");
    answer(operator.post("/audit/keys/rotate").json(&json!({})).send().await?).await?;
    let keys = answer(acme.admin.get("/audit/keys").send().await?).await?;
    assert_eq!(keys["changes"][0]["old_vkey"].as_str(), Some(old.as_str()), "{keys}");
    let head = answer(acme.admin.get(&acme.path("/audit/checkpoint")).send().await?).await?;
    let checkpoint = string(&head, "checkpoint")?;
    for key in [&old, &string(&keys, "vkey")?] {
        assert!(Verifier::parse(key).context("a key")?.open(&checkpoint).is_some(), "{key}");
    }
    let cosigner = Cosigner::parse(&string(&keys, "cosigner_vkey")?).context("a key")?;
    assert!(cosigner.has_signed(&checkpoint));
    let seq = keys["changes"][0]["seq"].as_u64().context("a place")?;
    let page = answer(acme.admin.get(&acme.path(&format!("/audit?from={seq}&limit=1"))).send().await?).await?;
    assert!(string(&page["items"][0], "envelope")?.contains("AUD-021 audit-key-changed"));
    Ok(())
}
