//! Trust as a tenant meets it: thresholds, steps up, floors that end sessions, also while an answer streams.

use anyhow::Result;
use data_encoding::BASE32_NOPAD;
use futures::StreamExt;
use ringfence_tests::holder::{Holder, jwt, public_key, signing_key};
use ringfence_tests::{Host, Place, Session, answer, eventually, problem, string};
use serde_json::{Value, json};

use crate::started;

fn thresholds(floor: u8, administer: u8) -> Value {
    json!({ "thresholds": { "floor": floor, "invoke": 0, "read": 0, "change": 0, "administer": administer } })
}

/// A host on which who was invited just now counts as a second person.
async fn started_with_second_people() -> Result<(Place, Host, Session)> {
    let place = Place::new()?;
    let host = Host::start_with(&place, &[], &[("RINGFENCE_IDENTITY_SECOND_PERSON_HOURS", "0")])?;
    let operator = host.operator().await?;
    Ok((place, host, operator))
}

#[tokio::test]
async fn an_act_that_needs_more_says_which_factor_and_goes_through_after_it() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let ann = host.person(&acme.admin, "/tenants/acme/people", "ann", "tenant-admin").await?;
    answer(acme.admin.put("/tenants/acme/trust").json(&thresholds(0, 55)).send().await?).await?;
    let token = json!({ "name": "ci", "role": "caller" });
    let (status, refused) = problem(ann.post("/tenants/acme/tokens").json(&token).send().await?).await?;
    assert_eq!((status, refused["code"].as_str()), (401, Some("step-up-required")), "{refused}");
    assert!(string(&refused, "detail")?.contains("one-time code or a passkey"), "{refused}");
    assert_eq!(refused["factor"], "code", "{refused}");
    assert!(ann.get("/tenants/acme/plugins").send().await?.status().is_success(), "looking asks for less");
    let offer = answer(ann.post("/zero-trust/factors/codes").send().await?).await?;
    let secret = string(&offer, "secret")?;
    let confirm = json!({ "code": code(&secret)? });
    answer(ann.post("/zero-trust/factors/codes/confirm").json(&confirm).send().await?).await?;
    answer(ann.post("/tenants/acme/tokens").json(&token).send().await?).await?;
    let raised = answer(ann.get("/zero-trust/trust-score").send().await?).await?["score"].as_i64();
    let lowered = answer(ann.delete("/zero-trust/step-up").send().await?).await?;
    assert_eq!(lowered["strength"], "secret", "{lowered}");
    let token = json!({ "name": "cd", "role": "caller" });
    assert_eq!(problem(ann.post("/tenants/acme/tokens").json(&token).send().await?).await?.0, 401, "laid down");
    let again = ann.delete("/zero-trust/step-up").send().await?;
    assert_eq!(problem(again).await?.1["code"], "factor-state");
    let score = answer(ann.get("/zero-trust/trust-score").send().await?).await?;
    assert!(score["score"].as_i64() < raised, "{score}");
    let sum: i64 = score["signals"].as_array().into_iter().flatten().filter_map(|s| s["effect"].as_i64()).sum();
    assert_eq!(score["score"].as_i64(), Some(100 + sum), "{score}");
    assert!(score["signals"].as_array().into_iter().flatten().any(|s| s["value"] == "unknown"), "{score}");
    Ok(())
}

#[tokio::test]
async fn a_call_that_needs_more_says_which_factor_in_the_scheme_of_its_token() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("hello", "hello", "", &[]).await?;
    let ann = host.person(&acme.admin, "/tenants/acme/people", "ann", "caller").await?;
    let ci = acme.member(&host, "ci", "developer").await?;
    let bound = Holder::sign_in(&host, &ci.key).await?;
    let asks = json!({ "thresholds": { "floor": 0, "invoke": 55, "read": 0, "change": 0, "administer": 0 } });
    answer(acme.admin.put("/tenants/acme/trust").json(&asks).send().await?).await?;
    let get = |who: &Session| who.call(reqwest::Method::GET, "/acme/hello/");
    let unmet = "error=\"insufficient_user_authentication\", acr_values=";
    for (call, factor, challenge) in [
        (get(&ann), "code", format!("Bearer {unmet}\"code passkey\"")),
        (get(&ci), "certificate", format!("Bearer {unmet}\"certificate\"")),
        (
            bound.call(&host, "/acme/hello/"),
            "certificate",
            format!("DPoP {unmet}\"certificate\", algs=\"EdDSA ES256\""),
        ),
    ] {
        let refused = call.send().await?;
        let said = refused.headers().get("www-authenticate").and_then(|value| value.to_str().ok()).map(str::to_owned);
        let (status, refused) = problem(refused).await?;
        assert_eq!((status, refused["code"].as_str()), (401, Some("step-up-required")), "{refused}");
        assert_eq!((refused["factor"].as_str(), said), (Some(factor), Some(challenge)), "{refused}");
    }
    // The control plane says it in the same way, and who signs in is told before he is refused.
    let asks = json!({ "thresholds": { "floor": 0, "invoke": 55, "read": 55, "change": 0, "administer": 0 } });
    answer(acme.admin.put("/tenants/acme/trust").json(&asks).send().await?).await?;
    let refused = bound.ask(&host, &reqwest::Method::GET, "/tenants/acme/plugins").send().await?;
    let said = refused.headers().get("www-authenticate").and_then(|value| value.to_str().ok()).map(str::to_owned);
    let (status, refused) = problem(refused).await?;
    assert_eq!((status, refused["factor"].as_str()), (401, Some("certificate")), "{refused}");
    assert_eq!(said, Some(format!("DPoP {unmet}\"certificate\", algs=\"EdDSA ES256\"")));
    let key = json!({ "method": "api_key", "key": ci.key });
    let issued = answer(host.anonymous().post("/zero-trust/authenticate").json(&key).send().await?).await?;
    let score = answer(ci.get("/zero-trust/trust-score").send().await?).await?;
    assert_eq!(issued["trust"]["score"], score["score"], "{issued}");
    assert_eq!(issued["trust"]["required_step_up"], "certificate", "{issued}");
    let first = answer(
        host.anonymous()
            .post("/zero-trust/authenticate")
            .json(&json!({
                "method": "api_key", "key": operator.key,
            }))
            .send()
            .await?,
    )
    .await?;
    assert!(first["trust"]["required_step_up"].is_null(), "nothing is asked of operators: {first}");
    Ok(())
}

#[tokio::test]
async fn a_session_below_the_floor_ends_also_while_its_answer_streams() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    crate::ship_hostile(&acme, "time_ms = 30000").await?;
    let caller = acme.member(&host, "ci", "caller").await?;
    let streaming = caller.call(reqwest::Method::GET, "/acme/hostile/drip").send().await?;
    assert_eq!(streaming.status(), 200);
    let mut body = streaming.bytes_stream();
    assert!(body.next().await.is_some_and(|piece| piece.is_ok()), "the answer has begun");
    answer(acme.admin.put("/tenants/acme/trust").json(&thresholds(10, 0)).send().await?).await?;
    let risk =
        json!({ "subject": "acme/ci", "delta": -25, "reason": "odd calls", "expires_at": "2099-01-01T00:00:00Z" });
    let (status, refused) = problem(acme.admin.put("/zero-trust/risk-adjustment").json(&risk).send().await?).await?;
    assert_eq!((status, refused["code"].as_str()), (422, Some("bad-adjustment")), "it must end: {refused}");
    let soon = jiff::Timestamp::from_second(now()? + 3_600)?;
    let risk = json!({ "subject": "acme/ci", "delta": -25, "reason": "odd calls", "expires_at": soon.to_string() });
    let made = answer(acme.admin.put("/zero-trust/risk-adjustment").json(&risk).send().await?).await?;
    assert_eq!(made["state"], "in-force");
    let told = fallen(&acme.admin).await?;
    assert_eq!(told.len(), 1, "it is on the log when that is answered: {told:#?}");
    assert_eq!((told[0]["resources"][0]["uid"].as_str(), by_host(&told[0])), (Some("acme/ci"), true), "{told:#?}");
    let mut broke_off = false;
    while let Some(piece) = body.next().await {
        broke_off = piece.is_err();
    }
    assert!(broke_off, "the answer was cut, not ended");
    assert_eq!(caller.fetch("/acme/hostile/ok").await?.0, 401);
    assert_eq!(caller.get("/whoami").send().await?.status(), 401);
    Ok(())
}

#[tokio::test]
async fn a_plugin_asked_through_a_hook_or_a_schedule_asks_as_much_of_a_session_as_a_call() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let point = json!({
        "mode": "validate", "payload": { "type": "object" }, "deadline_ms": 10_000, "on_failure": "open",
        "result_bytes_max": 10_000, "binders": "several",
    });
    answer(operator.put("/hooks/t.validate").json(&point).send().await?).await?;
    for plugin in ["events", "sound"] {
        acme.ship("events", plugin, "", &[("keyvalue", &["default"]), ("queue", &["work"])]).await?;
        let binding = acme.path(&format!("/hooks/t.validate/bindings/{plugin}"));
        answer(acme.admin.put(&binding).json(&json!({})).send().await?).await?;
    }
    let schedule = acme.path("/schedules/yearly");
    let yearly = json!({ "plugin": "events", "cron": "0 3 1 1 *", "zone": "Europe/London" });
    answer(acme.admin.put(&schedule).json(&yearly).send().await?).await?;
    let score = answer(acme.admin.get("/zero-trust/trust-score").send().await?).await?["score"].as_i64().unwrap_or(0);
    let mut asks = thresholds(0, 0);
    asks["thresholds"]["invoke"] = json!(score - 5);
    answer(acme.admin.put("/tenants/acme/trust").json(&asks).send().await?).await?;
    let asked = json!({ "payload": {} });
    let hook = acme.path("/hooks/t.validate");
    let passed = answer(acme.admin.post(&hook).json(&asked).send().await?).await?;
    assert_eq!(passed["outcome"], "passed", "{passed}");
    // What is held against one plugin is that plugin's failure, and no other act of this session is asked for more.
    let soon = jiff::Timestamp::from_second(now()? + 3_600)?;
    let risk = json!({
        "subject": "acme/plugin/events", "delta": -10, "reason": "odd calls", "expires_at": soon.to_string(),
    });
    answer(acme.admin.put("/zero-trust/risk-adjustment").json(&risk).send().await?).await?;
    for path in [hook.clone(), format!("{hook}/dry-run")] {
        let passed = answer(acme.admin.post(&path).json(&asked).send().await?).await?;
        assert_eq!(passed["outcome"], "passed", "{path}: {passed}");
        let step = |at: usize| (passed["steps"][at]["plugin"].as_str(), passed["steps"][at]["outcome"].as_str());
        assert_eq!(step(0), (Some("events"), Some("failed")), "{path}: {passed}");
        assert_eq!(passed["steps"][0]["code"], "step-up-required", "{path}: {passed}");
        assert_eq!(step(1), (Some("sound"), Some("answered")), "{path}: {passed}");
    }
    // Who runs a schedule calls its one plugin, and is refused as at its address.
    let run = format!("{schedule}/run");
    for at_risk in [acme.admin.post(&run), acme.admin.call(reqwest::Method::GET, "/acme/events/")] {
        let (status, refused) = problem(at_risk.send().await?).await?;
        assert_eq!((status, refused["code"].as_str()), (401, Some("step-up-required")), "{refused}");
    }
    // A session that stands too low for any plugin is told so, whatever the point says of failures.
    asks["thresholds"]["invoke"] = json!(score + 5);
    answer(acme.admin.put("/tenants/acme/trust").json(&asks).send().await?).await?;
    for path in [hook.clone(), format!("{hook}/dry-run"), run] {
        let (status, refused) = problem(acme.admin.post(&path).json(&asked).send().await?).await?;
        assert_eq!((status, refused["code"].as_str()), (401, Some("step-up-required")), "{path}: {refused}");
    }
    let kept = answer(acme.admin.get(&schedule).send().await?).await?;
    assert!(kept["last"].is_null(), "what was refused is no run: {kept}");
    let page = answer(acme.admin.get("/tenants/acme/audit?limit=1000").send().await?).await?;
    let told = page["items"].as_array().into_iter().flatten().map(|item| &item["body"]);
    let of_runs = told.filter(|body| body["unmapped"]["code"].as_str().is_some_and(|code| code.starts_with("EVT-007")));
    let ends: Vec<&str> = of_runs.filter_map(|body| body["status"].as_str()).filter(|end| *end != "Intended").collect();
    assert_eq!(ends, ["Failure", "Failure"], "{page}");
    Ok(())
}

/// What the log of acme says of sessions that fell below the floor.
async fn fallen(who: &Session) -> Result<Vec<Value>> {
    let page = answer(who.get("/tenants/acme/audit?limit=1000").send().await?).await?;
    let bodies = page["items"].as_array().into_iter().flatten().map(|item| item["body"].clone());
    Ok(bodies
        .filter(|body| body["unmapped"]["code"].as_str().is_some_and(|code| code.starts_with("AUT-016")))
        .collect())
}

/// Whether nobody of a tenant did it.
fn by_host(body: &Value) -> bool {
    body["actor"]["user"]["uid"].as_str().is_some_and(|who| !who.starts_with("acme/"))
}

async fn own_session(who: &Session) -> Result<String> {
    let all = answer(who.get("/zero-trust/sessions").send().await?).await?;
    let own = all["items"].as_array().into_iter().flatten().find(|one| one["current"] == true).cloned();
    string(&own.unwrap_or_default(), "id")
}

#[tokio::test]
async fn sessions_that_fall_while_nobody_asks_end_and_are_on_the_log_once_about_their_holder() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("hello", "hello", "", &[]).await?;
    let looking = acme.member(&host, "ci", "developer").await?;
    let calling = host.sign_in(&looking.key).await?;
    let (of_looking, of_calling) = (own_session(&looking).await?, own_session(&calling).await?);
    answer(acme.admin.put("/tenants/acme/trust").json(&thresholds(28, 0)).send().await?).await?;
    assert_eq!(calling.fetch("/acme/hello/").await?.0, 200);
    assert!(fallen(&acme.admin).await?.is_empty());
    // Guesses at the key lower what its sessions stand at. Nothing is asked with these, and no settings change.
    let wrong = format!("{}aaaa", &looking.key[..looking.key.len() - 4]);
    for _ in 0..10 {
        assert!(host.sign_in(&wrong).await.is_err());
    }
    for id in [of_looking, of_calling] {
        eventually("the session's end is on the log", async || {
            let told = fallen(&acme.admin).await?;
            let of_it = told.iter().filter(|body| body["unmapped"]["details"]["session"] == id.as_str());
            let of_it: Vec<&Value> = of_it.collect();
            let is_his = |body: &Value| body["resources"][0]["uid"] == "acme/ci" && by_host(body);
            assert!(of_it.len() <= 1 && of_it.iter().all(|body| is_his(body)), "{told:#?}");
            Ok(of_it.len() == 1)
        })
        .await?;
    }
    assert_eq!(looking.get("/tenants/acme/plugins").send().await?.status(), 401);
    assert_eq!(calling.fetch("/acme/hello/").await?.0, 401);
    assert_eq!(fallen(&acme.admin).await?.len(), 2, "the admin's own stands as before");
    Ok(())
}

#[tokio::test]
async fn an_answer_that_streams_is_cut_when_what_is_known_of_the_device_ends() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    crate::ship_hostile(&acme, "time_ms = 60000").await?;
    // Whoever says what is asked of sessions is a finding, which costs him 20 points: he stands at the floor, and not below it.
    let keeper = acme.member(&host, "keeper", "tenant-admin").await?;
    let ci = acme.member(&host, "ci", "caller").await?;
    let mdm = signing_key()?;
    let mut asks = thresholds(0, 0);
    let issuer = json!({ "name": "mdm", "key": public_key(&mdm) });
    asks["device_posture"] = json!({ "issuers": [issuer], "required": ["disk_encrypted"] });
    answer(keeper.put("/tenants/acme/trust").json(&asks).send().await?).await?;
    answer(ci.post("/zero-trust/devices").json(&json!({ "name": "laptop" })).send().await?).await?;
    let nonce = answer(ci.post("/zero-trust/devices/laptop/challenge").json(&json!({})).send().await?).await?;
    let (nonce, at) = (string(&nonce, "nonce")?, now()?);
    // What is claimed holds for so long that the stream begins before its end, also on a machine that is busy.
    let claims = json!({
        "iss": "mdm", "sub": "laptop", "nonce": nonce, "iat": at, "exp": at + 12, "posture": { "disk_encrypted": true },
    });
    let evidence = jwt(&mdm, &json!({ "alg": "EdDSA" }), &claims);
    let shown = json!({ "device_id": "laptop", "nonce": nonce, "format": "posture", "evidence": evidence });
    answer(ci.post("/zero-trust/device-verification").json(&shown).send().await?).await?;
    // So he stands on what is known of his device: above the floor with it, and below without.
    let soon = jiff::Timestamp::from_second(at + 3_600)?;
    let risk = json!({ "subject": "acme/ci", "delta": -25, "reason": "odd calls", "expires_at": soon.to_string() });
    answer(keeper.put("/zero-trust/risk-adjustment").json(&risk).send().await?).await?;
    let standing = answer(keeper.get("/zero-trust/trust-score").send().await?).await?;
    assert!(standing["score"].as_i64() >= Some(10), "the keeper must not fall: {standing}");
    asks["thresholds"]["floor"] = json!(10);
    answer(keeper.put("/tenants/acme/trust").json(&asks).send().await?).await?;
    let streaming = ci.call(reqwest::Method::GET, "/acme/hostile/drip").send().await?;
    assert_eq!(streaming.status(), 200);
    let mut body = streaming.bytes_stream();
    assert!(body.next().await.is_some_and(|piece| piece.is_ok()), "the answer has begun");
    assert!(fallen(&keeper).await?.is_empty(), "nothing fell yet");
    let mut broke_off = false;
    while let Some(piece) = body.next().await {
        broke_off = piece.is_err();
    }
    assert!(broke_off, "the answer was cut, not ended");
    assert!(now()? < at + 45, "it was cut for the session's end, and not for its own time");
    eventually("the session's end is on the log", async || Ok(fallen(&keeper).await?.len() == 1)).await?;
    assert_eq!(ci.get("/whoami").send().await?.status(), 401);
    Ok(())
}

#[tokio::test]
async fn risk_is_lowered_by_two_people_and_not_by_two_keys_of_one() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let spare = acme.member(&host, "spare", "tenant-admin").await?;
    let soon = jiff::Timestamp::from_second(now()? + 3_600)?;
    acme.member(&host, "ci", "caller").await?;
    let risk = |subject: &str| json!({ "subject": subject, "delta": 40, "reason": "on leave", "expires_at": soon.to_string() });
    let own = acme.admin.put("/zero-trust/risk-adjustment").json(&risk("acme/ci")).send().await?;
    assert_eq!(problem(own).await?.1["code"], "self-lowering", "the key is the admin's own");
    let ann = host.person(&acme.admin, "/tenants/acme/people", "ann", "developer").await?;
    let asked = acme.admin.put("/zero-trust/risk-adjustment").json(&risk("acme/ann")).send().await?;
    assert_eq!(asked.status(), 202);
    let id = string(&answer(asked).await?, "id")?;
    let path = format!("/zero-trust/risk-adjustments/{id}/approve");
    for who in [&acme.admin, &spare] {
        assert_eq!(problem(who.post(&path).send().await?).await?.1["code"], "second-person-needed");
    }
    assert_eq!(ann.post(&path).send().await?.status(), 403);
    Ok(())
}

#[tokio::test]
async fn nobody_shuts_a_place_out_alone_and_two_people_take_back_what_is_held_against_it() -> Result<()> {
    let (_place, host, operator) = started_with_second_people().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let second = host.person(&acme.admin, "/tenants/acme/people", "second", "tenant-admin").await?;
    answer(operator.put("/trust").json(&of_operators(5, 0, 0)).send().await?).await?;
    answer(acme.admin.put("/tenants/acme/trust").json(&thresholds(5, 0)).send().await?).await?;
    let soon = jiff::Timestamp::from_second(now()? + 3_600)?.to_string();
    let put = async |who: &Session, subject: &str, floor: u8| {
        let risk = json!({ "subject": subject, "floor": floor, "reason": "odd", "expires_at": soon });
        problem(who.put("/zero-trust/risk-adjustment").json(&risk).send().await?).await
    };
    let (ada, admin) = (&operator, &acme.admin);
    for (who, subject) in [(ada, "operator"), (ada, "operator/ada"), (admin, "acme"), (admin, "acme/admin")] {
        let (status, refused) = put(who, subject, 100).await?;
        assert_eq!((status, refused["code"].as_str()), (422, Some("bad-adjustment")), "{subject}: {refused}");
        assert!(who.get("/whoami").send().await?.status().is_success(), "{subject}");
    }
    let (status, waits) = put(ada, "operator", 90).await?;
    assert_eq!((status, waits["state"].as_str()), (202, Some("waiting")), "{waits}");
    let (status, waits) = put(admin, "acme", 90).await?;
    assert_eq!((status, waits["state"].as_str()), (202, Some("waiting")), "{waits}");
    let stands = async || {
        Ok::<_, anyhow::Error>(answer(admin.get("/zero-trust/trust-score").send().await?).await?["score"].as_u64())
    };
    assert!(stands().await? > Some(10), "nothing is held against it yet");
    let path = format!("/zero-trust/risk-adjustments/{}", string(&waits, "id")?);
    let agreed = answer(second.post(&format!("{path}/approve")).send().await?).await?;
    assert_eq!((agreed["state"].as_str(), stands().await?), (Some("in-force"), Some(10)), "{agreed}");
    for _ in 0..2 {
        let asked = admin.delete(&path).send().await?;
        assert_eq!(asked.status(), 202, "he is one person, however often he asks");
        assert_eq!(answer(asked).await?["withdrawn_by"], "acme/admin");
    }
    assert_eq!(stands().await?, Some(10));
    assert_eq!(second.delete(&path).send().await?.status(), 204);
    assert!(stands().await? > Some(10));
    assert_eq!(second.delete(&path).send().await?.status(), 404);
    Ok(())
}

#[tokio::test]
async fn who_may_list_sessions_sees_how_others_of_his_place_stand_and_nobody_elses() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let globex = host.tenant(&operator, "globex").await?;
    acme.ship("hello", "hello", "", &[]).await?;
    let caller = acme.member(&host, "ci", "caller").await?;
    let ask = async |who: &Session, subject: &str| {
        problem(who.get(&format!("/zero-trust/trust-score?subject={subject}")).send().await?).await
    };
    let (status, score) = ask(&acme.admin, "acme/ci").await?;
    assert_eq!((status, score["principal"].as_str()), (200, Some("acme/ci")), "{score}");
    assert!(score["session_id"].is_string(), "{score}");
    let (status, plugin) = ask(&acme.admin, "acme/plugin/hello").await?;
    assert_eq!((status, plugin["score"].as_u64(), plugin["session_id"].is_null()), (200, Some(100), true), "{plugin}");
    assert_eq!(ask(&caller, "acme/admin").await?.0, 403, "without a role for it");
    assert_eq!(ask(&caller, "acme/ci").await?.0, 200, "his own");
    let nobody = ask(&globex.admin, "nobody/ci").await?;
    for subject in ["acme/ci", "acme", "acme/plugin/hello", "operator/ada"] {
        let (status, mut refused) = ask(&globex.admin, subject).await?;
        refused["request_id"] = nobody.1["request_id"].clone();
        assert_eq!((status, &refused), (404, &nobody.1), "{subject}");
    }
    assert_eq!(ask(&operator, "acme/ci").await?.0, 403, "operators know the tenant, and see nobody of it");
    let soon = jiff::Timestamp::from_second(now()? + 3_600)?;
    let risk = json!({ "subject": "acme/plugin/hello", "floor": 100, "reason": "odd", "expires_at": soon.to_string() });
    let made = answer(acme.admin.put("/zero-trust/risk-adjustment").json(&risk).send().await?).await?;
    assert_eq!((made["state"].as_str(), made["effective_score"].as_u64()), (Some("in-force"), Some(0)), "{made}");
    let asks = json!({ "thresholds": { "floor": 0, "invoke": 5, "read": 0, "change": 0, "administer": 0 } });
    answer(acme.admin.put("/tenants/acme/trust").json(&asks).send().await?).await?;
    assert_eq!(caller.fetch("/acme/hello/").await?.0, 401, "a call of that plugin needs more than there is");
    Ok(())
}

#[tokio::test]
async fn a_session_is_judged_by_who_may_end_it_and_takes_no_unsigned_signal() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let globex = host.tenant(&operator, "globex").await?;
    let caller = acme.member(&host, "ci", "caller").await?;
    let own = answer(caller.get("/zero-trust/sessions").send().await?).await?;
    let id = string(&own["items"][0], "id")?;
    let verify = async |who: &Session, body: serde_json::Value| {
        problem(who.put("/zero-trust/verify-continuous").json(&body).send().await?).await
    };
    let (status, judged) = verify(&acme.admin, json!({ "session_id": id })).await?;
    assert_eq!((status, judged["decision"].as_str()), (200, Some("keep")), "{judged}");
    assert_eq!(judged["trust"]["principal"], "acme/ci", "{judged}");
    assert_eq!(verify(&globex.admin, json!({ "session_id": id })).await?.0, 404);
    let unsigned = json!({ "device_id": "laptop", "nonce": "none", "format": "posture", "evidence": "{}" });
    let (status, refused) = verify(&acme.admin, json!({ "session_id": id, "signals": [unsigned] })).await?;
    assert_eq!((status, refused["code"].as_str()), (422, Some("bad-evidence")), "{refused}");
    answer(caller.post("/zero-trust/devices").json(&json!({ "name": "laptop" })).send().await?).await?;
    let challenge = answer(caller.post("/zero-trust/devices/laptop/challenge").json(&json!({})).send().await?).await?;
    for format in ["posture", "a-word"] {
        let mut shown = json!({ "device_id": "laptop", "format": format, "evidence": "{}" });
        shown["nonce"] = challenge["nonce"].clone();
        let (status, refused) = verify(&caller, json!({ "signals": [shown] })).await?;
        // The nonce is spent with the first.
        assert!(matches!(status, 409 | 422), "{format}: {refused}");
    }
    let asks =
        |floor: u8| json!({ "thresholds": { "floor": floor, "invoke": 0, "read": 0, "change": 0, "administer": 0 } });
    assert_eq!(verify(&caller, json!({})).await?.1["decision"], "keep");
    answer(acme.admin.put("/tenants/acme/trust").json(&asks(1)).send().await?).await?;
    assert_eq!(verify(&acme.admin, json!({ "session_id": id })).await?.1["decision"], "keep");
    assert!(caller.delete(&format!("/zero-trust/sessions/{id}")).send().await?.status().is_success());
    assert_eq!(verify(&acme.admin, json!({ "session_id": id })).await?.0, 404);
    Ok(())
}

#[tokio::test]
async fn less_is_asked_of_sessions_by_two_people_and_more_by_one() -> Result<()> {
    let (_place, host, operator) = started_with_second_people().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let spare = acme.member(&host, "spare", "tenant-admin").await?;
    let second = host.person(&acme.admin, "/tenants/acme/people", "second", "tenant-admin").await?;
    let path = acme.path("/trust");
    let now = async || answer(acme.admin.get(&path).send().await?).await;
    for more in [thresholds(5, 10), thresholds(6, 10)] {
        answer(acme.admin.put(&path).json(&more).send().await?).await?;
    }
    let asked = acme.admin.put(&path).json(&thresholds(0, 0)).send().await?;
    assert_eq!(asked.status(), 202);
    let asked = answer(asked).await?;
    assert_eq!((asked["kind"].as_str(), now().await?["thresholds"]["floor"].as_u64()), (Some("trust"), Some(6)));
    assert!(string(&asked, "wants")?.contains("floor from 6 to 0"), "{asked}");
    let approve = acme.path(&format!("/approvals/{}/approve", string(&asked, "id")?));
    for (same, code) in [(&acme.admin, "own-request"), (&spare, "second-person-needed")] {
        assert_eq!(problem(same.post(&approve).send().await?).await?.1["code"], code);
    }
    answer(second.post(&approve).send().await?).await?;
    let after = now().await?;
    assert_eq!((after["thresholds"]["floor"].as_u64(), after["changed_by"].as_str()), (Some(0), Some("acme/admin")));
    assert_eq!(after["approved_by"], "acme/second");

    // Who agreed had seen what was asked for beside what was there then.
    answer(acme.admin.put(&path).json(&thresholds(5, 0)).send().await?).await?;
    let stale = answer(acme.admin.put(&path).json(&thresholds(1, 0)).send().await?).await?;
    answer(acme.admin.put(&path).json(&thresholds(7, 0)).send().await?).await?;
    let approve = acme.path(&format!("/approvals/{}/approve", string(&stale, "id")?));
    let (status, refused) = problem(second.post(&approve).send().await?).await?;
    assert_eq!((status, refused["code"].as_str()), (412, Some("precondition-failed")), "{refused}");
    assert_eq!(now().await?["thresholds"]["floor"], 7);
    Ok(())
}

#[tokio::test]
async fn the_policy_of_ones_own_tenant_is_written_at_either_path() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let text = json!({ "text": "forbid (principal, action == Ringfence::Action::\"read-logs\", resource);" });
    let made = answer(acme.admin.put("/zero-trust/access-policy").json(&text).send().await?).await?;
    assert_eq!((made["state"].as_str(), made["version"].as_u64()), (Some("active"), Some(1)), "{made}");
    let read = answer(acme.admin.get("/tenants/acme/policy").send().await?).await?;
    assert_eq!(read["text"], text["text"]);
    assert_eq!(operator.put("/zero-trust/access-policy").json(&text).send().await?.status(), 404);
    Ok(())
}

#[tokio::test]
async fn a_rule_reads_where_a_session_stands_at_any_act_and_its_no_is_no_step_up() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("hello", "hello", "", &[]).await?;
    let dev = acme.member(&host, "dev", "developer").await?;
    let score = answer(dev.get("/zero-trust/trust-score").send().await?).await?["score"].as_u64().unwrap_or(0);
    // Enough for a session that nothing is held against.
    let least = score.saturating_sub(4);
    let text = format!(
        "@id(\"sure\") forbid (principal, action in [Ringfence::Action::\"invoke\", Ringfence::Action::\"read-plugin\"], \
         resource == Ringfence::Plugin::\"acme/hello\") \
         unless {{ context has trust && context.trust >= {least} }};"
    );
    let policy = json!({ "text": text });
    answer(acme.admin.put("/tenants/acme/policy").json(&policy).send().await?).await?;
    let read = async || problem(dev.get("/tenants/acme/plugins/hello").send().await?).await;
    assert_eq!(dev.fetch("/acme/hello/").await?.0, 200);
    assert_eq!(read().await?.0, 200);
    // What was answered before is not given to a session that has fallen since.
    let soon = jiff::Timestamp::from_second(now()? + 3_600)?;
    let risk = json!({ "subject": "acme/dev", "delta": -10, "reason": "odd calls", "expires_at": soon.to_string() });
    answer(acme.admin.put("/zero-trust/risk-adjustment").json(&risk).send().await?).await?;
    assert_eq!(dev.fetch("/acme/hello/").await?.0, 403);
    let (status, refused) = read().await?;
    assert_eq!((status, refused["code"].as_str()), (403, Some("denied")), "{refused}");
    let decision = string(&refused, "decision_id")?;
    let why = answer(dev.get(&format!("/decisions/{decision}")).send().await?).await?;
    assert_eq!(
        (why["reasons"][0]["policy"].as_str(), why["changes"][0]["kind"].as_str()),
        (Some("tenant/sure"), Some("trust"))
    );
    assert!(why["trust"].as_u64().is_some_and(|then| then < score), "{why}");
    assert!(string(&why, "help")?.contains("trust score"), "{why}");
    // Acts that no rule reads it for go on; where the class of an act asks for more, the answer is still which factor helps.
    assert_eq!(dev.get("/tenants/acme/plugins").send().await?.status(), 200);
    let asks = json!({ "thresholds": { "floor": 0, "invoke": 0, "read": least, "change": 0, "administer": 0 } });
    answer(acme.admin.put("/tenants/acme/trust").json(&asks).send().await?).await?;
    let (status, refused) = problem(dev.get("/tenants/acme/plugins").send().await?).await?;
    assert_eq!((status, refused["code"].as_str()), (401, Some("step-up-required")), "{refused}");
    Ok(())
}

#[tokio::test]
async fn an_admin_who_is_alone_weakens_alone_and_that_is_found() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    for set in [thresholds(5, 5), thresholds(0, 0)] {
        answer(acme.admin.put("/tenants/acme/trust").json(&set).send().await?).await?;
    }
    eventually("a finding", async || {
        let page = answer(acme.admin.get("/security/findings").send().await?).await?;
        Ok(page["items"].as_array().into_iter().flatten().any(|one| one["rule"] == "detection-weakened"))
    })
    .await
}

#[tokio::test]
async fn whose_word_about_devices_counts_takes_two_admins_also_where_no_score_is_asked_for() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    host.person(&acme.admin, "/tenants/acme/people", "second", "tenant-admin").await?;
    let mut set = thresholds(0, 0);
    let issuer = json!({ "name": "mine", "key": "A".repeat(43) });
    set["device_posture"] = json!({ "issuers": [issuer], "required": ["disk_encrypted"] });
    let asked = acme.admin.put("/tenants/acme/trust").json(&set).send().await?;
    assert_eq!(asked.status(), 202);
    let asked = answer(asked).await?;
    assert!(string(&asked, "wants")?.contains("claims about devices"), "{asked}");
    let now = answer(acme.admin.get("/tenants/acme/trust").send().await?).await?;
    assert_eq!(now["device_posture"]["issuers"], json!([]), "{now}");
    Ok(())
}

fn of_operators(floor: u8, read: u8, administer: u8) -> Value {
    let thresholds = json!({ "floor": floor, "invoke": 0, "read": read, "change": 0, "administer": administer });
    json!({ "sessions": { "thresholds": thresholds }, "unbound_tokens": "allowed" })
}

#[tokio::test]
async fn an_operator_asks_for_no_more_than_lets_him_take_it_back() -> Result<()> {
    let (_place, _host, operator) = started().await?;
    for beyond in [of_operators(100, 0, 0), of_operators(0, 100, 0), of_operators(0, 0, 100)] {
        let (status, refused) = problem(operator.put("/trust").json(&beyond).send().await?).await?;
        assert_eq!((status, refused["code"].as_str()), (422, Some("bad-trust")), "{beyond}: {refused}");
    }
    let now = answer(operator.get("/trust").send().await?).await?;
    assert_eq!(now["sessions"]["thresholds"], of_operators(0, 0, 0)["sessions"]["thresholds"]);
    Ok(())
}

#[tokio::test]
async fn an_operator_who_is_alone_weakens_alone_and_that_is_found() -> Result<()> {
    let (_place, _host, operator) = started().await?;
    for set in [of_operators(5, 5, 5), of_operators(0, 0, 0)] {
        answer(operator.put("/trust").json(&set).send().await?).await?;
    }
    eventually("a finding", async || {
        let page = answer(operator.get("/security/findings").send().await?).await?;
        Ok(page["items"].as_array().into_iter().flatten().any(|one| one["rule"] == "detection-weakened"))
    })
    .await
}

#[tokio::test]
async fn what_one_operator_asks_for_is_on_the_log_as_asked_and_as_changed_when_another_agreed() -> Result<()> {
    let (_place, host, operator) = started_with_second_people().await?;
    let grace = host.person(&operator, "/people", "grace", "operator").await?;
    let told = async |code: &str| {
        let page = answer(operator.get("/audit?from=0&limit=1000").send().await?).await?;
        let entries = page["items"].as_array().into_iter().flatten().filter_map(|one| one["envelope"].as_str());
        Ok::<_, anyhow::Error>(entries.filter(|envelope| envelope.contains(&format!("\"{code} "))).count())
    };
    answer(operator.put("/trust").json(&of_operators(5, 5, 5)).send().await?).await?;
    let (changed, asked) = (told("AUT-013").await?, told("POL-005").await?);
    let waiting = operator.put("/trust").json(&of_operators(0, 0, 0)).send().await?;
    assert_eq!(waiting.status(), 202);
    assert_eq!(told("AUT-013").await?, changed, "nothing was changed");
    assert!(told("POL-005").await? > asked, "that it was asked for is on the log");
    let agreed = answer(grace.put("/trust").json(&of_operators(0, 0, 0)).send().await?).await?;
    assert!(told("AUT-013").await? > changed);
    assert_eq!(agreed["sessions"]["thresholds"]["floor"], 0, "{agreed}");
    assert_eq!(agreed["sessions"]["changed_by"], "operator/ada", "{agreed}");
    assert_eq!(agreed["sessions"]["approved_by"], "operator/grace", "{agreed}");
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "a caller has a clock of its own")]
fn now() -> Result<i64> {
    Ok(i64::try_from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs())?)
}

fn code(secret: &str) -> Result<String> {
    let bytes: [u8; 20] = BASE32_NOPAD.decode(secret.as_bytes())?.try_into().map_err(|_| anyhow::anyhow!("key"))?;
    let totp = totp_rs::Builder::new().with_secret(bytes).build().map_err(|error| anyhow::anyhow!("{error:?}"))?;
    Ok(totp.generate(u64::try_from(now()?)?).to_string())
}
