//! A POST with an `Idempotency-Key`: once done, for ever answered.

use anyhow::Result;
use reqwest::Response;
use ringfence_tests::{Host, Place, Session, answer, eventually, problem};
use serde_json::{Value, json};

use crate::automation::{bind, declare, point, tenant_with};
use crate::workflows::{begin, until};

async fn post(session: &Session, path: &str, key: &str, body: &Value) -> Result<Response> {
    Ok(session.post(path).header("idempotency-key", key).json(body).send().await?)
}

async fn code(response: Response) -> Result<(u16, String)> {
    let (status, problem) = problem(response).await?;
    Ok((status, problem["code"].as_str().unwrap_or_default().to_owned()))
}

async fn count(operator: &Session, path: &str) -> Result<usize> {
    Ok(answer(operator.get(path).send().await?).await?["items"].as_array().map_or(0, Vec::len))
}

#[tokio::test]
async fn the_same_key_is_answered_again_across_restarts_and_another_body_is_refused() -> Result<()> {
    let place = Place::new()?;
    let host = Host::start(&place)?;
    let operator = host.operator().await?;
    let body = json!({ "name": "acme" });
    let first = post(&operator, "/tenants", "k-1", &body).await?;
    assert!(first.headers().get("idempotency-replayed").is_none());
    let first = (first.status(), first.text().await?);
    let again = post(&operator, "/tenants", "\"k-1\"", &body).await?;
    assert_eq!(again.headers()["idempotency-replayed"], "true");
    assert_eq!(again.headers()["content-type"], "application/json");
    assert_eq!((again.status(), again.text().await?), first);
    let other = post(&operator, "/tenants", "k-1", &json!({ "name": "globex" })).await?;
    assert_eq!(code(other).await?, (422, "idempotency-key-reused".to_owned()));
    let elsewhere = post(&operator, "/tenants/acme/suspend", "k-2", &json!({})).await?;
    assert_eq!(elsewhere.status(), 200);
    assert_eq!(code(post(&operator, "/tenants", "two words", &body).await?).await?, (400, "bad-request".to_owned()));
    // A refusal is an answer too, with the id of the request that hears it.
    let refused = problem(post(&operator, "/tenants", "k-3", &body).await?).await?;
    let refused_again = problem(post(&operator, "/tenants", "k-3", &body).await?).await?;
    assert_eq!(
        (refused.0, &refused.1["code"], &refused.1["detail"]),
        (409, &json!("exists"), &refused_again.1["detail"])
    );
    assert_ne!(refused.1["request_id"], refused_again.1["request_id"]);
    host.kill()?;
    let host = Host::start(&place)?;
    let operator = host.sign_in(&operator.key).await?;
    let again = post(&operator, "/tenants", "k-1", &body).await?;
    assert_eq!((again.status(), again.text().await?), first, "kept over a kill");
    assert_eq!(count(&operator, "/tenants").await?, 1);
    Ok(())
}

#[tokio::test]
async fn a_key_belongs_to_who_sent_it_and_a_secret_is_not_kept() -> Result<()> {
    let place = Place::new()?;
    let host = Host::start(&place)?;
    let operator = host.operator().await?;
    let (acme, globex) = (host.tenant(&operator, "acme").await?, host.tenant(&operator, "globex").await?);
    let body = json!({ "name": "ci", "role": "developer" });
    let made = answer(post(&acme.admin, "/tenants/acme/tokens", "one", &body).await?).await?;
    let key = made["key"].as_str().unwrap_or_default();
    let again = problem(post(&acme.admin, "/tenants/acme/tokens", "one", &body).await?).await?;
    assert_eq!((again.0, again.1["code"].as_str()), (409, Some("idempotency-not-kept")));
    assert!(!key.is_empty() && !again.1.to_string().contains(key), "the secret is shown once");
    assert_eq!(count(&acme.admin, "/tenants/acme/tokens").await?, 2, "the admin's own and the one made once");
    // The same word of another member, and of another tenant's, is another key; a stranger hears what he always hears.
    let other = acme.member(&host, "other", "tenant-admin").await?;
    assert_eq!(
        post(&other, "/tenants/acme/tokens", "one", &json!({ "name": "b", "role": "caller" })).await?.status(),
        201
    );
    assert_eq!(post(&globex.admin, "/tenants/globex/tokens", "one", &body).await?.status(), 201);
    for key in ["one", "two"] {
        let plain =
            globex.admin.post("/tenants/nobody/tokens").header("idempotency-key", format!("n-{key}")).json(&body);
        let nothing = problem(plain.send().await?).await?;
        let strange = post(&globex.admin, "/tenants/acme/tokens", &format!("s-{key}"), &body).await?;
        let strange = problem(strange).await?;
        assert_eq!((nothing.0, &nothing.1["detail"]), (strange.0, &strange.1["detail"]));
        assert_eq!(nothing.0, 404);
    }
    assert_eq!(code(post(&host.anonymous(), "/tenants", "one", &body).await?).await?.0, 401);
    Ok(())
}

#[tokio::test]
async fn of_many_at_once_one_is_done_and_the_others_wait_or_hear_its_answer() -> Result<()> {
    let place = Place::new()?;
    let host = Host::start(&place)?;
    let operator = host.operator().await?;
    let body = json!({ "name": "acme" });
    let all = (0..12).map(|_| {
        let (operator, body) = (operator.clone(), body.clone());
        tokio::spawn(async move { post(&operator, "/tenants", "same", &body).await })
    });
    let mut first_hand = 0;
    for answered in futures::future::join_all(all).await {
        let answered = answered??;
        if answered.status() == 409 {
            assert!(answered.headers().contains_key("retry-after"));
            assert_eq!(code(answered).await?.1, "idempotency-in-progress");
        } else {
            assert_eq!(answered.status(), 201);
            first_hand += usize::from(!answered.headers().contains_key("idempotency-replayed"));
        }
    }
    assert_eq!(first_hand, 1);
    eventually("those who waited hear the answer", async || {
        let again = post(&operator, "/tenants", "same", &body).await?;
        Ok(again.status() == 201 && again.headers().contains_key("idempotency-replayed"))
    })
    .await
}

#[tokio::test]
async fn a_kept_answer_is_told_only_to_who_may_still_ask() -> Result<()> {
    let place = Place::new()?;
    let host = Host::start(&place)?;
    let operator = host.operator().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let ann = host.person(&acme.admin, "/tenants/acme/people", "ann", "tenant-admin").await?;
    let (path, body) = ("/audit/holds", json!({ "reason": "a case" }));
    let first = answer(post(&ann, path, "k", &body).await?).await?;
    let again = post(&ann, path, "k", &body).await?;
    assert_eq!(again.headers()["idempotency-replayed"], "true");
    assert_eq!(answer(again).await?, first);
    let forbid = "@id(\"no-ann\") forbid (principal == Ringfence::Person::\"acme/ann\", \
        action == Ringfence::Action::\"hold-audit\", resource);";
    answer(acme.admin.put(&acme.path("/policy")).json(&json!({ "text": forbid })).send().await?).await?;
    let refused = post(&ann, path, "k", &body).await?;
    assert!(!refused.headers().contains_key("idempotency-replayed"));
    let (status, said) = problem(refused).await?;
    assert_eq!((status, said["code"].as_str()), (403, Some("denied")), "{said}");
    assert!(said["decision_id"].is_string(), "it is on the record: {said}");
    let life = answer(acme.admin.get("/audit/retention").send().await?).await?;
    assert_eq!(life["holds"].as_array().map(Vec::len), Some(1), "done once: {life}");
    Ok(())
}

#[tokio::test]
async fn who_is_invited_under_a_name_is_told_nothing_of_who_had_it_before() -> Result<()> {
    let place = Place::new()?;
    let host = Host::start(&place)?;
    let operator = host.operator().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let (people, tokens) = ("/tenants/acme/people", "/tenants/acme/tokens");
    let body = json!({ "name": "ci", "role": "developer" });
    let before = host.person(&acme.admin, people, "ann", "tenant-admin").await?;
    assert_eq!(post(&before, tokens, "k", &body).await?.status(), 201);
    assert_eq!(code(post(&before, tokens, "k", &body).await?).await?, (409, "idempotency-not-kept".to_owned()));
    let after = host.person(&acme.admin, people, "ann", "tenant-admin").await?;
    assert_eq!(code(post(&before, tokens, "k", &body).await?).await?.0, 401);
    assert_eq!(post(&after, tokens, "k", &body).await?.status(), 201, "his own first one");
    Ok(())
}

#[tokio::test]
async fn who_may_not_invoke_a_plugin_any_more_is_not_told_what_it_said_to_a_hook() -> Result<()> {
    let place = Place::new()?;
    let host = Host::start(&place)?;
    let operator = host.operator().await?;
    let acme = tenant_with(&host, &operator, "acme", &["first"]).await?;
    declare(&operator, "t.validate", &point("validate", "closed")).await?;
    bind(&acme, "t.validate", "first", json!({ "order": 1 })).await?;
    let dev = acme.member(&host, "dev", "developer").await?;
    let (path, body) = (acme.path("/hooks/t.validate"), json!({ "payload": { "do": "veto", "count": 1 } }));
    let first = answer(post(&dev, &path, "k", &body).await?).await?;
    assert_eq!(first["outcome"], "vetoed", "{first}");
    let again = post(&dev, &path, "k", &body).await?;
    assert_eq!(again.headers()["idempotency-replayed"], "true");
    let forbid = "@id(\"no-dev\") forbid (principal == Ringfence::Service::\"acme/dev\", \
        action == Ringfence::Action::\"invoke\", resource);";
    answer(acme.admin.put(&acme.path("/policy")).json(&json!({ "text": forbid })).send().await?).await?;
    let refused = post(&dev, &path, "k", &body).await?;
    assert!(!refused.headers().contains_key("idempotency-replayed"));
    let (status, said) = problem(refused).await?;
    assert_eq!((status, said["code"].as_str()), (403, Some("denied")), "{said}");
    assert!(said["decision_id"].is_string(), "it is on the record: {said}");
    Ok(())
}

#[tokio::test]
async fn what_somebody_does_with_his_own_is_done_once_too() -> Result<()> {
    let place = Place::new()?;
    let host = Host::start(&place)?;
    let operator = host.operator().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let ann = host.person(&acme.admin, "/tenants/acme/people", "ann", "developer").await?;
    let (path, body) = ("/zero-trust/devices", json!({ "name": "laptop" }));
    let first = answer(post(&ann, path, "k", &body).await?).await?;
    let again = post(&ann, path, "k", &body).await?;
    assert_eq!(again.headers()["idempotency-replayed"], "true");
    assert_eq!(answer(again).await?, first);
    assert_eq!(count(&ann, path).await?, 1);
    // What holds a secret is not kept, and not done again.
    let (path, body) = ("/zero-trust/factors/codes", json!({}));
    answer(post(&ann, path, "c", &body).await?).await?;
    assert_eq!(code(post(&ann, path, "c", &body).await?).await?, (409, "idempotency-not-kept".to_owned()));
    Ok(())
}

#[tokio::test]
async fn who_may_not_decide_any_more_is_not_told_how_he_decided() -> Result<()> {
    let place = Place::new()?;
    let host = Host::start(&place)?;
    let operator = host.operator().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("approval", "approval", "", &[]).await?;
    let ann = host.person(&acme.admin, "/tenants/acme/people", "ann", "tenant-admin").await?;
    let run = begin(&acme, &json!({ "plugin": "approval", "input": { "to": "bob", "pounds": 5 } })).await?;
    until(&acme, &run, "waiting").await?;
    let (path, yes) = (acme.path(&format!("/runs/{run}/approve")), json!({ "name": "payment", "approved": true }));
    let write = async |text: &str| {
        answer(acme.admin.put(&acme.path("/policy")).json(&json!({ "text": text })).send().await?).await
    };
    let first = answer(post(&ann, &path, "k", &yes).await?).await?;
    until(&acme, &run, "completed").await?;
    // The run asks no more, and a rule about what it asked is asked all the same.
    let ann_alone = "@id(\"ann-alone\") forbid (principal, action == Ringfence::Action::\"approve-run\", resource) \
        unless { context has approval && context.approval.name == \"payment\" && !context.approval.is_own };";
    write(ann_alone).await?;
    let again = post(&ann, &path, "k", &yes).await?;
    assert_eq!(again.headers().get("idempotency-replayed").and_then(|value| value.to_str().ok()), Some("true"));
    assert_eq!(answer(again).await?, first);
    let no_payments = "@id(\"no-payments\") forbid (principal, action == Ringfence::Action::\"approve-run\", resource) \
        when { context has approval && context.approval.name == \"payment\" };";
    write(&format!("{ann_alone}\n{no_payments}")).await?;
    assert_eq!(code(post(&ann, &path, "k", &yes).await?).await?, (403, "denied".to_owned()));
    Ok(())
}
