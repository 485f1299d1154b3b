//! Policies as their admins meet them: reviewed, in the shadow, allowed by a second pair of eyes, rolled back; labels that
//! they read; and roles held for a while.

use anyhow::{Context, Result};
use reqwest::Method;
use ringfence_tests::{Host, Place, Session, answer, problem, string};
use serde_json::{Value, json};

use crate::started;

const OPEN: &str = "permit (principal is Ringfence::Anonymous, action == Ringfence::Action::\"invoke\", resource);";

const TRAINED: &str = "@id(\"trained\") forbid (principal, action == Ringfence::Action::\"invoke\", resource) \
    when { resource.classification == \"restricted\" } \
    unless { principal has training && principal.training.contains(\"gdpr\") };";

/// Whether the hosts of these tests find a solver. `cargo xtask test` installs it.
fn has_solver() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there = std::env::split_paths(&path).any(|directory| directory.join("cvc5").is_file());
    assert!(is_there || std::env::var_os("RINGFENCE_TEST_SETUP").is_none(), "the setup left out `cvc5`");
    is_there
}

/// `hello` is restricted, and the key `cal` trained in this.
fn labels(training: &[&str]) -> Value {
    json!({
        "principals": { "acme/cal": { "training": training } },
        "plugins": { "hello": { "classification": "restricted", "purposes": ["care"] } },
    })
}

#[tokio::test]
async fn a_policy_that_allows_more_needs_another_admin_where_there_is_one() -> Result<()> {
    let place = Place::new()?;
    let host = Host::start_with(&place, &[], &[("RINGFENCE_IDENTITY_SECOND_PERSON_HOURS", "0")])?;
    let operator = host.operator().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("hello", "hello", "", &[]).await?;
    assert_eq!(host.anonymous().fetch("/acme/hello/").await?.0, 401);
    let draft = json!({ "text": OPEN, "mode": "draft" });
    let draft = answer(acme.admin.put(&acme.path("/policy")).json(&draft).send().await?).await?;
    assert_eq!((draft["state"].as_str(), draft["version"].as_u64()), (Some("draft"), Some(0)), "{draft}");
    assert_eq!(draft["review"]["newly_allowed"]["questions_count"], 1, "{draft}");

    // What a solver says of it is part of the answer, and what it was not asked is not taken for proved.
    let proofs = [("border", "proved"), ("narrows", "disproved"), ("permits-apply", "proved")];
    for (name, with_a_solver) in proofs {
        let said = draft["review"]["proofs"].as_array().into_iter().flatten().find(|proof| proof["name"] == name);
        let said = said.with_context(|| format!("no proof `{name}`: {draft}"))?;
        let there = if has_solver() { with_a_solver } else { "not-run" };
        assert_eq!(said["verdict"], there, "{said}");
        assert_eq!(said["reason"].is_string(), there == "not-run", "{said}");
        assert_eq!(said["counterexample"].is_string(), there == "disproved", "{said}");
    }

    let second = host.person(&acme.admin, "/tenants/acme/people", "second", "tenant-admin").await?;
    let key_of_same = acme.member(&host, "spare", "tenant-admin").await?;
    let asked = acme.admin.put(&acme.path("/policy")).json(&json!({ "text": OPEN })).send().await?;
    assert_eq!(asked.status(), 202);
    let asked = answer(asked).await?;
    let approve = acme.path(&format!("/approvals/{}/approve", string(&asked["approval"], "id")?));
    // Who is to allow it is shown what was found.
    let waiting = answer(second.get(&acme.path("/approvals")).send().await?).await?;
    let found = &waiting["items"][0]["found"];
    assert_eq!((&found["four_eyes"], &found["proofs"]), (&asked["four_eyes"], &asked["review"]["proofs"]), "{waiting}");
    assert_eq!(found["newly_allowed"]["examples"][0]["action"], "invoke", "{waiting}");
    assert_eq!(found["findings"], asked["review"]["findings"], "{waiting}");
    let (status, own) = problem(acme.admin.post(&approve).send().await?).await?;
    assert_eq!((status, own["code"].as_str()), (422, Some("own-request")), "{own}");
    assert_eq!(host.anonymous().fetch("/acme/hello/").await?.0, 401);
    let (status, own) = problem(key_of_same.post(&approve).send().await?).await?;
    assert_eq!((status, own["code"].as_str()), (409, Some("second-person-needed")), "{own}");
    answer(second.post(&approve).send().await?).await?;
    assert_eq!(host.anonymous().fetch("/acme/hello/").await?.0, 200);
    assert_eq!(problem(second.post(&approve).send().await?).await?.0, 404, "it is allowed once");

    // What only narrows waits for nobody, and every version is kept.
    answer(acme.admin.post(&acme.path("/policy/rollback")).json(&json!({})).send().await?).await?;
    assert_eq!(host.anonymous().fetch("/acme/hello/").await?.0, 401);
    let versions = answer(acme.admin.get(&acme.path("/policy/versions")).send().await?).await?;
    assert_eq!(
        (&versions["items"][0]["rolled_back_to"], &versions["items"][1]["approved_by"]),
        (&json!(0), &json!("acme/second"))
    );

    // What the operator's ceiling forbids today is wider all the same: he lifts it without them.
    let ceiling = json!({ "text": "forbid (principal is Ringfence::Anonymous, action, resource);" });
    answer(operator.put(&acme.path("/ceiling")).json(&ceiling).send().await?).await?;
    let hidden = answer(acme.admin.put(&acme.path("/policy")).json(&json!({ "text": OPEN })).send().await?).await?;
    assert_eq!(hidden["state"], "pending", "{hidden}");
    assert_eq!(hidden["review"]["newly_allowed"]["questions_count"], 0, "{hidden}");
    assert!(string(&hidden, "four_eyes")?.contains("ceiling"), "{hidden}");
    Ok(())
}

#[tokio::test]
async fn a_developer_acts_as_admin_for_a_while_when_an_admin_allows_it() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let developer = acme.member(&host, "dev", "developer").await?;
    let (status, denied) =
        problem(developer.put(&acme.path("/secrets/k")).json(&json!({ "value": "v" })).send().await?).await?;
    assert_eq!(status, 403, "{denied}");
    let why = answer(developer.get(&format!("/decisions/{}", string(&denied, "decision_id")?)).send().await?).await?;
    assert_eq!(why["changes"][0]["kind"], "elevation", "{why}");

    let wanted = json!({ "role": "tenant-admin", "minutes": 5, "reason": "mend the hook" });
    let asked = answer(developer.post(&acme.path("/elevations")).json(&wanted).send().await?).await?;
    let id = string(&asked, "id")?;
    answer(acme.admin.post(&acme.path(&format!("/approvals/{id}/approve"))).send().await?).await?;
    answer(developer.put(&acme.path("/secrets/k")).json(&json!({ "value": "v" })).send().await?).await?;
    // Separation of duties: who acts in a role that is not its own allows nobody anything.
    let auditor = acme.member(&host, "aud", "auditor").await?;
    let other = answer(auditor.post(&acme.path("/elevations")).json(&wanted).send().await?).await?;
    let approve = acme.path(&format!("/approvals/{}/approve", string(&other, "id")?));
    assert_eq!(developer.post(&approve).send().await?.status(), 403);
    // Nor makes what outlasts that role, of any way to it.
    let key = json!({ "name": "mine", "role": "tenant-admin" });
    for made in ["/tokens", "/people"] {
        assert_eq!(developer.post(&acme.path(made)).json(&key).send().await?.status(), 403, "{made}");
    }
    let text = json!({ "text": OPEN });
    assert_eq!(developer.put(&acme.path("/policy")).json(&text).send().await?.status(), 403);
    assert!(developer.delete(&acme.path(&format!("/elevations/{id}"))).send().await?.status().is_success());
    assert_eq!(developer.put(&acme.path("/secrets/k")).json(&json!({ "value": "v" })).send().await?.status(), 403);
    Ok(())
}

#[tokio::test]
async fn everybody_sees_his_own_requests_for_roles_and_the_role_that_he_is_lent() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let developer = acme.member(&host, "dev", "developer").await?;
    let auditor = acme.member(&host, "aud", "auditor").await?;
    let (requests, roles) = (acme.path("/approvals"), acme.path("/elevations"));
    let read = async |who: &Session, path: &str| answer(who.get(path).send().await?).await;
    let names = |page: &Value| page["items"].as_array().map_or(0, Vec::len);

    let wanted = json!({ "role": "tenant-admin", "minutes": 5, "reason": "mend the hook" });
    let mine = string(&answer(developer.post(&roles).json(&wanted).send().await?).await?, "id")?;
    let theirs = string(&answer(auditor.post(&roles).json(&wanted).send().await?).await?, "id")?;
    let seen = read(&developer, &requests).await?;
    assert_eq!((names(&seen), &seen["items"][0]["id"]), (1, &json!(mine)), "{seen}");
    assert_eq!(names(&read(&acme.admin, &requests).await?), 2);
    assert_eq!(names(&read(&developer, &roles).await?), 0);
    assert_eq!(read(&developer, "/whoami").await?.get("lent"), None);

    for id in [&mine, &theirs] {
        answer(acme.admin.post(&acme.path(&format!("/approvals/{id}/approve"))).send().await?).await?;
    }
    let who = read(&developer, "/whoami").await?;
    assert_eq!((&who["role"], &who["lent"]["role"]), (&json!("developer"), &json!("tenant-admin")), "{who}");
    assert_eq!(names(&read(&developer, &roles).await?), 2, "as tenant-admin he reads all");
    assert!(developer.delete(&format!("{roles}/{mine}")).send().await?.status().is_success());
    assert_eq!(names(&read(&developer, &roles).await?), 0, "another's is another's");
    assert_eq!(read(&developer, "/whoami").await?.get("lent"), None);

    // What a role gives that one has already is nothing to ask an admin for.
    for (who, role) in [(&acme.admin, "caller"), (&acme.admin, "tenant-admin"), (&developer, "caller")] {
        let wanted = json!({ "role": role, "minutes": 5, "reason": "a look" });
        let (status, refused) = problem(who.post(&roles).json(&wanted).send().await?).await?;
        assert_eq!((status, refused["code"].as_str()), (422, Some("bad-role")), "{refused}");
    }
    Ok(())
}

#[tokio::test]
async fn a_role_that_is_held_for_a_while_ends_with_its_holder_and_not_with_his_name() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let people = acme.path("/people");
    let before = host.person(&acme.admin, &people, "ann", "developer").await?;
    let wanted = json!({ "role": "tenant-admin", "minutes": 5, "reason": "mend the hook" });
    let asked = answer(before.post(&acme.path("/elevations")).json(&wanted).send().await?).await?;
    let approve = acme.path(&format!("/approvals/{}/approve", string(&asked, "id")?));
    answer(acme.admin.post(&approve).send().await?).await?;
    answer(before.post(&acme.path("/elevations")).json(&wanted).send().await?).await?;
    let (path, body) = (acme.path("/secrets/k"), json!({ "value": "v" }));
    answer(before.put(&path).json(&body).send().await?).await?;
    assert!(acme.admin.delete(&acme.path("/people/ann")).send().await?.status().is_success());
    for what in ["/elevations", "/approvals"] {
        let left = answer(acme.admin.get(&acme.path(what)).send().await?).await?;
        assert_eq!(left["items"], json!([]), "{what}");
    }
    let after = host.person(&acme.admin, &people, "ann", "developer").await?;
    assert_eq!(after.put(&path).json(&body).send().await?.status(), 403);
    Ok(())
}

#[tokio::test]
async fn a_restricted_plugin_is_left_to_who_was_trained_from_the_next_call_on_and_after_a_restart() -> Result<()> {
    let (place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("hello", "hello", "", &[]).await?;
    let cal = acme.member(&host, "cal", "caller").await?;
    answer(acme.admin.put(&acme.path("/policy")).json(&json!({ "text": TRAINED })).send().await?).await?;
    assert_eq!(cal.fetch("/acme/hello/").await?.0, 200, "what is not named is internal");
    let path = acme.path("/policy/labels");
    let none = answer(acme.admin.get(&path).send().await?).await?;
    assert_eq!((&none["labels"], &none["version"]), (&json!({}), &json!(0)));

    let restricted = answer(acme.admin.put(&path).json(&labels(&[])).send().await?).await?;
    assert_eq!((restricted["state"].as_str(), restricted["version"].as_u64()), (Some("active"), Some(1)));
    assert_eq!(restricted["newly_denied"]["questions_count"], 1, "{restricted}");
    let (status, denied) = problem(cal.call(Method::GET, "/acme/hello/").send().await?).await?;
    assert_eq!((status, denied["code"].as_str()), (403, Some("denied")), "{denied}");
    let why = acme.admin.get(&format!("/decisions/{}", string(&denied, "decision_id")?)).send().await?;
    assert_eq!(answer(why).await?["reasons"][0]["policy"], "tenant/trained");

    let stale = acme.admin.put(&path).header("if-match", "\"0\"").json(&labels(&["gdpr"])).send().await?;
    assert_eq!(stale.status(), 412);
    let foreign = json!({ "principals": { "globex/cal": { "training": ["gdpr"] } } });
    let (status, refused) = problem(acme.admin.put(&path).json(&foreign).send().await?).await?;
    assert_eq!((status, refused["code"].as_str()), (422, Some("bad-policy")), "{refused}");
    assert!(refused["detail"].as_str().is_some_and(|text| text.contains("globex/cal")), "{refused}");
    assert_eq!(cal.fetch("/acme/hello/").await?.0, 403);

    let trained = acme.admin.put(&path).header("if-match", "\"1\"").json(&labels(&["gdpr"])).send().await?;
    assert_eq!(answer(trained).await?["newly_allowed"]["questions_count"], 1);
    assert_eq!(cal.fetch("/acme/hello/").await?.0, 200);

    let (key, admins_key) = (cal.key.clone(), acme.admin.key.clone());
    host.stop()?;
    let host = Host::start(&place)?;
    assert_eq!(host.sign_in(&key).await?.fetch("/acme/hello/").await?.0, 200);
    let admin = host.sign_in(&admins_key).await?;
    assert_eq!(admin.fetch("/acme/hello/").await?.0, 403, "who was not trained is still kept out");
    let kept = admin.get(&path).send().await?;
    assert_eq!(kept.headers()["etag"], "\"2\"");
    assert_eq!(answer(kept).await?["labels"], labels(&["gdpr"]));
    Ok(())
}

#[tokio::test]
async fn labels_that_a_policy_reads_need_another_admin_where_there_is_one() -> Result<()> {
    let place = Place::new()?;
    let host = Host::start_with(&place, &[], &[("RINGFENCE_IDENTITY_SECOND_PERSON_HOURS", "0")])?;
    let operator = host.operator().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("hello", "hello", "", &[]).await?;
    let cal = acme.member(&host, "cal", "caller").await?;
    let path = acme.path("/policy/labels");
    let second = host.person(&acme.admin, "/tenants/acme/people", "second", "tenant-admin").await?;
    let unread = answer(acme.admin.put(&path).json(&labels(&[])).send().await?).await?;
    assert_eq!(
        (unread["state"].as_str(), &unread["only_narrows"]),
        (Some("active"), &json!(true)),
        "nothing reads them"
    );
    let asked = answer(acme.admin.put(&acme.path("/policy")).json(&json!({ "text": TRAINED })).send().await?).await?;
    assert_eq!(asked["state"], "active", "a forbid alone only narrows: {asked}");
    assert_eq!(cal.fetch("/acme/hello/").await?.0, 403);

    let asked = acme.admin.put(&path).json(&labels(&["gdpr"])).send().await?;
    assert_eq!(asked.status(), 202);
    let asked = answer(asked).await?;
    assert_eq!((&asked["approval"]["kind"], &asked["version"]), (&json!("labels"), &json!(1)), "{asked}");
    assert_eq!(cal.fetch("/acme/hello/").await?.0, 403);
    let waiting = answer(second.get(&acme.path("/approvals")).send().await?).await?;
    let found = &waiting["items"][0]["found"];
    assert_eq!(
        (&found["four_eyes"], &found["newly_allowed"]),
        (&asked["four_eyes"], &asked["newly_allowed"]),
        "{waiting}"
    );
    assert_eq!(found["newly_allowed"]["questions_count"], 1, "{waiting}");
    let approve = acme.path(&format!("/approvals/{}/approve", string(&asked["approval"], "id")?));
    assert_eq!(problem(acme.admin.post(&approve).send().await?).await?.0, 422, "not by who asked");
    answer(second.post(&approve).send().await?).await?;
    assert_eq!(cal.fetch("/acme/hello/").await?.0, 200);

    let versions = acme.path("/policy/labels/versions");
    let all = answer(acme.admin.get(&versions).send().await?).await?;
    let (last, first) = (&all["items"][0], &all["items"][1]);
    assert_eq!(
        (&last["version"], &last["by"], &last["approved_by"], &last["labels"]),
        (&json!(2), &json!("acme/admin"), &json!("acme/second"), &Value::Null)
    );
    assert_eq!((&first["version"], &first["approved_by"]), (&json!(1), &Value::Null));
    let one = answer(acme.admin.get(&format!("{versions}/2")).send().await?).await?;
    assert_eq!(one["labels"], labels(&["gdpr"]));
    assert_eq!(problem(acme.admin.get(&format!("{versions}/3")).send().await?).await?.0, 404);
    assert_eq!(problem(cal.get(&versions).send().await?).await?.0, 403);
    Ok(())
}

#[tokio::test]
async fn a_role_of_a_tenants_own_gives_its_acts_to_whom_the_labels_name() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let cal = acme.member(&host, "cal", "caller").await?;
    let text = "@id(\"readers\") permit (principal, action == Ringfence::Action::\"read-policy\", resource) \
        when { principal has roles && principal.roles.contains(\"policy-reader\") };";
    answer(acme.admin.put(&acme.path("/policy")).json(&json!({ "text": text })).send().await?).await?;
    assert_eq!(problem(cal.get(&acme.path("/policy")).send().await?).await?.0, 403);
    let (path, named) =
        (acme.path("/policy/labels"), |role: &str| json!({ "principals": { "acme/cal": { "roles": [role] } } }));
    let (status, refused) = problem(acme.admin.put(&path).json(&named("tenant-admin")).send().await?).await?;
    assert_eq!((status, refused["code"].as_str()), (422, Some("bad-policy")), "{refused}");
    answer(acme.admin.put(&path).json(&named("policy-reader")).send().await?).await?;
    let read = answer(cal.get(&acme.path("/policy")).send().await?).await?;
    assert_eq!(read["text"], text);
    assert_eq!(problem(cal.put(&acme.path("/policy")).json(&json!({ "text": "" })).send().await?).await?.0, 403);
    assert_eq!(answer(acme.admin.get(&path).send().await?).await?["labels"], named("policy-reader"));
    Ok(())
}

#[tokio::test]
async fn a_text_is_proved_before_it_is_in_force_and_its_idle_permits_are_named() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let text = "@id(\"idle\") permit (principal is Ringfence::Person, action == Ringfence::Action::\"read-logs\", resource) \
        when { principal.elevated && !principal.elevated };";
    let draft = json!({ "text": text, "mode": "draft" });
    let draft = answer(acme.admin.put(&acme.path("/policy")).json(&draft).send().await?).await?;
    let findings = draft["review"]["findings"].as_array().context("findings")?;
    let idle = findings.iter().filter(|finding| finding["kind"] == "unreachable");
    let idle: Vec<&str> = idle.filter_map(|finding| finding["text"].as_str()).collect();
    assert_eq!(idle.iter().any(|text| text.starts_with("`tenant/idle`")), has_solver(), "{draft}");

    let proof =
        acme.admin.post(&acme.path("/policy/proof")).json(&json!({ "text": "permit (principal" })).send().await?;
    let (status, refused) = problem(proof).await?;
    assert_eq!((status, refused["code"].as_str()), (422, Some("bad-policy")), "{refused}");
    Ok(())
}

#[tokio::test]
async fn rules_read_what_is_granted_who_pushed_and_the_role_of_a_new_key() -> Result<()> {
    let place = Place::new()?;
    let host = Host::start_with(&place, &[], &[("RINGFENCE_IDENTITY_SECOND_PERSON_HOURS", "0")])?;
    let operator = host.operator().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("hello", "hello", "", &[]).await?;
    let developer = acme.member(&host, "dev", "developer").await?;
    let second = host.person(&acme.admin, "/tenants/acme/people", "second", "developer").await?;
    let text = "@id(\"buckets\") permit (principal, action == Ringfence::Action::\"grant-capability\", resource) \
          when { principal has role && principal.role == Ringfence::Role::\"developer\" } \
          when { context has capability && context.capability == Ringfence::Capability::\"keyvalue\" }; \
        @id(\"four-eyes\") forbid (principal, action == Ringfence::Action::\"deploy-version\", resource) \
          when { context has pushed_by_caller && context.pushed_by_caller }; \
        @id(\"no-auditors\") forbid (principal, action == Ringfence::Action::\"create-token\", resource) \
          when { context has asked_role && context.asked_role == Ringfence::Role::\"auditor\" };";
    answer(acme.admin.put(&acme.path("/policy")).json(&json!({ "text": text })).send().await?).await?;

    let grants = |capability: &str| acme.path(&format!("/plugins/hello/grants/{capability}"));
    answer(developer.put(&grants("keyvalue")).json(&json!({ "scope": ["default"] })).send().await?).await?;
    let place = json!({ "scope": ["https://api.example.com"] });
    let (status, denied) = problem(developer.put(&grants("http")).json(&place).send().await?).await?;
    assert_eq!(status, 403, "{denied}");
    let why = answer(developer.get(&format!("/decisions/{}", string(&denied, "decision_id")?)).send().await?).await?;
    assert!(string(&why, "resource")?.ends_with("(http https://api.example.com)"), "{why}");
    assert_eq!(developer.delete(&grants("keyvalue")).send().await?.status(), 403, "taking away is not granting");

    let (deploy, version) = (acme.path("/plugins/hello/deploy"), json!({ "version": "0.1.0" }));
    let (status, denied) = problem(acme.admin.post(&deploy).json(&version).send().await?).await?;
    assert_eq!(status, 403, "{denied}");
    let why = answer(acme.admin.get(&format!("/decisions/{}", string(&denied, "decision_id")?)).send().await?).await?;
    assert_eq!(why["reasons"][0]["policy"], "tenant/four-eyes", "{why}");
    let (status, _) = problem(developer.post(&deploy).json(&version).send().await?).await?;
    assert_eq!(status, 403, "a key that the same one made is no second pair of eyes");
    answer(second.post(&deploy).json(&version).send().await?).await?;
    let (status, gone) = problem(second.post(&deploy).json(&json!({ "version": "9.9.9" })).send().await?).await?;
    assert_eq!((status, gone["code"].as_str()), (404, Some("version-not-found")), "{gone}");

    let key = |role: &str| acme.admin.post(&acme.path("/tokens")).json(&json!({ "name": "k", "role": role }));
    assert_eq!(key("auditor").send().await?.status(), 403);
    assert_eq!(key("caller").send().await?.status(), 201);
    Ok(())
}

#[tokio::test]
async fn rules_read_which_version_goes_to_how_many_and_who_came_of_late_is_not_another() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("hello", "hello", "", &[]).await?;
    let text = "@id(\"a-tenth\") forbid (principal, action == Ringfence::Action::\"deploy-version\", resource) \
          when { context has percent && context.percent > 10 } \
          unless { context has pushed_by_caller && !context.pushed_by_caller }; \
        @id(\"first-line\") forbid (principal, action == Ringfence::Action::\"deploy-version\", resource) \
          when { context has version && context.version like \"9.*\" };";
    answer(acme.admin.put(&acme.path("/policy")).json(&json!({ "text": text })).send().await?).await?;
    let deploy = acme.path("/plugins/hello/deploy");
    let share = |percent: u8| json!({ "version": "0.1.0", "percent": percent });
    let (status, denied) = problem(acme.admin.post(&deploy).json(&share(11)).send().await?).await?;
    assert_eq!(status, 403, "{denied}");
    let why = answer(acme.admin.get(&format!("/decisions/{}", string(&denied, "decision_id")?)).send().await?).await?;
    assert!(string(&why, "resource")?.ends_with("(0.1.0 at 11 %, pushed by who deploys it)"), "{why}");
    let few = problem(acme.admin.post(&deploy).json(&share(10)).send().await?).await?.1;
    assert_eq!(
        few["code"], "bad-percent",
        "no rule is against a tenth, but that version answers the rest already: {few}"
    );
    // He whom the pusher invited a minute ago is no second pair of eyes, here as everywhere.
    let second = host.person(&acme.admin, "/tenants/acme/people", "second", "developer").await?;
    assert_eq!(second.post(&deploy).json(&share(11)).send().await?.status(), 403);
    Ok(())
}
