//! Forged, altered and misplaced credentials.

use anyhow::Result;
use data_encoding::BASE64URL_NOPAD;
use reqwest::StatusCode;
use ringfence_tests::{answer, problem, string};
use serde_json::{Value, json};

use crate::started;

#[tokio::test]
async fn an_altered_token_is_refused_wherever_it_was_altered() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("hello", "hello", "", &[]).await?;
    let token = acme.admin.token.clone().unwrap_or_default();
    let parts: Vec<&str> = token.split('.').collect();
    assert_eq!(parts.len(), 3);
    let mut forged = Vec::new();
    for part in 0..3 {
        for at in [0, parts[part].len() / 2, parts[part].len() - 2] {
            let mut pieces: Vec<String> = parts.iter().map(ToString::to_string).collect();
            let old = pieces[part].as_bytes()[at];
            let new = if old == b'A' { 'B' } else { 'A' };
            pieces[part].replace_range(at..=at, &new.to_string());
            forged.push(pieces.join("."));
        }
    }
    let none = BASE64URL_NOPAD.encode(br#"{"typ":"at+jwt","alg":"none"}"#);
    forged.push(format!("{none}.{}.", parts[1]));
    forged.push(format!("{none}.{}.{}", parts[1], parts[2]));
    let symmetric = BASE64URL_NOPAD.encode(br#"{"typ":"at+jwt","alg":"HS256"}"#);
    forged.push(format!("{symmetric}.{}.{}", parts[1], parts[2]));
    let mut claims: Value = serde_json::from_slice(&BASE64URL_NOPAD.decode(parts[1].as_bytes())?)?;
    claims["exp"] = json!(4_000_000_000_u64);
    forged.push(format!("{}.{}.{}", parts[0], BASE64URL_NOPAD.encode(claims.to_string().as_bytes()), parts[2]));
    forged.push(String::new());
    forged.push("a".repeat(20_000));
    for token in forged {
        let who = host.session(token.clone());
        for response in [who.get("/whoami").send().await?, who.call(reqwest::Method::GET, "/acme/hello/").send().await?]
        {
            let status = response.status();
            assert!(
                matches!(status, StatusCode::UNAUTHORIZED | StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
                "{status} for {token:.80}"
            );
        }
    }
    assert_eq!(acme.admin.get("/whoami").send().await?.status(), StatusCode::OK);
    Ok(())
}

#[tokio::test]
async fn a_token_of_another_host_or_tenant_opens_nothing_here() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let (_other_place, other, other_operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let same_name = other.tenant(&other_operator, "acme").await?;
    let foreign = host.session(same_name.admin.token.clone().unwrap_or_default());
    assert_eq!(foreign.get(&acme.path("/plugins")).send().await?.status(), StatusCode::UNAUTHORIZED);
    let body = json!({ "method": "api_key", "key": same_name.admin.key });
    assert_eq!(
        host.anonymous().post("/zero-trust/authenticate").json(&body).send().await?.status(),
        StatusCode::UNAUTHORIZED
    );
    Ok(())
}

#[tokio::test]
async fn unknown_and_known_keys_get_the_same_answer() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let mut wrong = acme.admin.key.clone();
    let last = wrong.pop();
    wrong.push(if last == Some('a') { 'b' } else { 'a' });
    let mut answers = Vec::new();
    for key in
        [wrong, "rfk_aaaaaaaaaaaaaaaa_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa".to_owned(), "x".to_owned()]
    {
        let body = json!({ "method": "api_key", "key": key });
        let response = host.anonymous().post("/zero-trust/authenticate").json(&body).send().await?;
        let status = response.status();
        let mut answer: Value = response.json().await?;
        answer.as_object_mut().map(|fields| fields.remove("request_id"));
        answers.push((status, answer));
    }
    assert_eq!(answers[0].0, StatusCode::UNAUTHORIZED);
    assert_eq!(answers[0], answers[1]);
    assert_eq!(answers[1], answers[2]);
    Ok(())
}

#[tokio::test]
async fn a_member_cannot_make_himself_more() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let developer = acme.member(&host, "dev", "developer").await?;
    let asked = json!({ "name": "me", "role": "tenant-admin" });
    assert_eq!(developer.post(&acme.path("/tokens")).json(&asked).send().await?.status(), StatusCode::FORBIDDEN);
    let operator_role = json!({ "name": "me", "role": "operator" });
    assert_eq!(
        acme.admin.post(&acme.path("/tokens")).json(&operator_role).send().await?.status(),
        StatusCode::UNPROCESSABLE_ENTITY
    );
    assert_ne!(acme.admin.post("/tokens").json(&operator_role).send().await?.status(), StatusCode::CREATED);
    let grant = developer.put(&acme.path("/plugins/p/grants/keyvalue")).json(&json!({})).send().await?;
    assert_eq!(grant.status(), StatusCode::FORBIDDEN);
    let denied: Value = grant.json().await?;
    let why = answer(developer.get(&format!("/decisions/{}", string(&denied, "decision_id")?)).send().await?).await?;
    assert!(string(&why, "closest")?.contains("tenant-admin"), "{why}");
    Ok(())
}

#[tokio::test]
async fn a_scoped_key_does_what_it_is_good_for_and_nothing_else() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("hello", "hello", "", &[]).await?;
    acme.ship("hello", "other", "", &[]).await?;
    let scope = json!({ "classes": ["invoke"], "plugins": ["hello"] });
    let asked = json!({ "name": "door", "role": "tenant-admin", "scope": scope });
    let made = answer(acme.admin.post(&acme.path("/tokens")).json(&asked).send().await?).await?;
    assert_eq!(made["scope"], scope, "{made}");
    let door = host.sign_in(&string(&made, "key")?).await?;
    assert_eq!(answer(door.get("/whoami").send().await?).await?["scope"], scope);
    assert_eq!(answer(acme.admin.get("/whoami").send().await?).await?["scope"], Value::Null);
    assert_eq!(door.call(reqwest::Method::GET, "/acme/hello/").send().await?.status(), StatusCode::OK);
    // Said as what it is: an admin would else change the policy, which does not help.
    let refused = door.call(reqwest::Method::GET, "/acme/other/").send().await?;
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    let refused: Value = refused.json().await?;
    assert!(refused["code"] == "denied" && string(&refused, "detail")?.contains("has a scope"), "{refused}");
    for path in ["/plugins", "/plugins/hello", "/tokens"] {
        assert_eq!(door.get(&acme.path(path)).send().await?.status(), StatusCode::FORBIDDEN, "{path}");
    }
    let denied: Value = door.get(&acme.path("/plugins/hello")).send().await?.json().await?;
    assert!(string(&denied, "detail")?.ends_with("outside the scope of the key of this session"), "{denied}");
    let why = format!("/decisions/{}", string(&denied, "decision_id")?);
    let why = answer(acme.admin.get(&why).send().await?).await?;
    assert!(why.to_string().contains("boundary.scope"), "{why}");
    assert!(why.to_string().contains("invoke on plugin hello"), "{why}");
    // Nobody gets out of a scope by what it leaves him.
    let asked = json!({ "name": "keeper", "role": "tenant-admin", "scope": { "classes": ["administer", "read"] } });
    let made = answer(acme.admin.post(&acme.path("/tokens")).json(&asked).send().await?).await?;
    let keeper = host.sign_in(&string(&made, "key")?).await?;
    let listed = answer(keeper.get(&acme.path("/tokens")).send().await?).await?;
    let scoped = listed["items"].as_array().into_iter().flatten().filter(|key| key["scope"].is_object()).count();
    assert_eq!(scoped, 2, "{listed}");
    let free = json!({ "name": "free", "role": "tenant-admin" });
    for path in ["/tokens", "/people", "/approvals/nothing/approve"] {
        assert_eq!(keeper.post(&acme.path(path)).json(&free).send().await?.status(), StatusCode::FORBIDDEN, "{path}");
    }
    let restore = keeper.post(&acme.path("/backups/before/restore")).json(&json!({ "replace": "acme" })).send().await?;
    assert_eq!(restore.status(), StatusCode::FORBIDDEN, "a backup may hold a key of before");
    let sign_in = keeper.put(&acme.path("/sign-in")).json(&json!({ "unbound_tokens": "allowed" })).send().await?;
    assert_eq!(sign_in.status(), StatusCode::FORBIDDEN);
    // A key without a scope goes on as ever.
    assert_eq!(acme.admin.get(&acme.path("/plugins")).send().await?.status(), StatusCode::OK);
    Ok(())
}

#[tokio::test]
async fn an_operators_scoped_key_makes_no_operators_and_asks_for_nothing_less_of_them() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let classes = json!({ "classes": ["read", "administer"] });
    let asked = json!({ "name": "warden", "role": "operator", "scope": classes });
    let made = answer(operator.post("/tokens").json(&asked).send().await?).await?;
    let warden = host.sign_in(&string(&made, "key")?).await?;
    let tenant = warden.post("/tenants").json(&json!({ "name": "acme" })).send().await?;
    assert!(tenant.status().is_success(), "it administers: {}", tenant.status());
    let nothing = json!({ "floor": 0, "invoke": 0, "read": 0, "change": 0, "administer": 0 });
    let trust = json!({ "sessions": { "thresholds": nothing }, "unbound_tokens": "allowed" });
    assert_eq!(warden.get("/trust").send().await?.status(), StatusCode::OK);
    assert_eq!(warden.put("/trust").json(&trust).send().await?.status(), StatusCode::FORBIDDEN);
    for (path, role) in [("/tokens", "operator"), ("/people", "operator"), ("/tenants/acme/tokens", "tenant-admin")] {
        let free = json!({ "name": "free", "role": role });
        assert_eq!(warden.post(path).json(&free).send().await?.status(), StatusCode::FORBIDDEN, "{path}");
    }
    Ok(())
}

#[tokio::test]
async fn a_scope_that_names_nothing_or_what_is_not_there_is_refused() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    for scope in [
        json!({ "classes": [] }),
        json!({ "plugins": [] }),
        json!({ "classes": ["everything"] }),
        json!({ "plugins": ["No Name"] }),
        json!({ "routes": ["/"] }),
        json!({ "plugins": (0..65).map(|number| format!("p{number}")).collect::<Vec<_>>() }),
    ] {
        let asked = json!({ "name": "door", "role": "caller", "scope": scope });
        let refused = acme.admin.post(&acme.path("/tokens")).json(&asked).send().await?.status();
        assert!(matches!(refused.as_u16(), 400 | 422), "{scope}: {refused}");
    }
    let asked = json!({ "name": "bob", "role": "operator", "scope": { "plugins": ["hello"] } });
    assert!(operator.post("/tokens").json(&asked).send().await?.status().is_client_error());
    Ok(())
}

#[tokio::test]
async fn a_tenant_says_how_long_its_keys_live_at_most() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let sign_in = |days: u32| json!({ "unbound_tokens": "allowed", "keys_days_max": days });
    for days in [0, 3_651] {
        let refused = acme.admin.put(&acme.path("/sign-in")).json(&sign_in(days)).send().await?;
        assert_eq!(refused.status(), StatusCode::UNPROCESSABLE_ENTITY, "{days}");
    }
    let set = answer(acme.admin.put(&acme.path("/sign-in")).json(&sign_in(30)).send().await?).await?;
    assert_eq!(set["keys_days_max"], 30, "{set}");
    let made = json!({ "name": "ci", "role": "caller" });
    let made = answer(acme.admin.post(&acme.path("/tokens")).json(&made).send().await?).await?;
    assert!(made["expires_at"].is_string(), "{made}");
    let longer = json!({ "name": "ci", "role": "caller", "expires_in": 31 * 86_400 });
    let (status, refused) = problem(acme.admin.post(&acme.path("/tokens")).json(&longer).send().await?).await?;
    assert_eq!((status, refused["code"].as_str()), (422, Some("bad-lifetime")), "{refused}");
    Ok(())
}
