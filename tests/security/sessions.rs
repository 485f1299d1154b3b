//! Sessions: seen by whoever may, ended from the next request on, on both ports.

use anyhow::{Context, Result};
use reqwest::{Method, StatusCode};
use ringfence_tests::{Session, answer, string};
use serde_json::Value;

use crate::started;

async fn sessions(who: &Session, path: &str) -> Result<Vec<Value>> {
    let page = answer(who.get(path).send().await?).await?;
    Ok(page["items"].as_array().context("items")?.clone())
}

#[tokio::test]
async fn an_ended_session_is_refused_on_the_next_request_of_either_port() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("hello", "hello", "", &[]).await?;
    let developer = acme.member(&host, "dev", "developer").await?;
    // Used first, so that whatever is cached is cached.
    assert_eq!(developer.fetch("/acme/hello/").await?.0, StatusCode::OK);
    let all = sessions(&acme.admin, &acme.path("/sessions")).await?;
    let theirs = all.iter().find(|session| session["principal"] == "acme/dev").context("the developer's session")?;
    assert_eq!((theirs["method"].as_str(), theirs["bound_to"].as_str()), (Some("api_key"), Some("none")));
    let path = acme.path(&format!("/sessions/{}", string(theirs, "id")?));
    assert_eq!(acme.admin.delete(&path).send().await?.status(), StatusCode::NO_CONTENT);
    assert_eq!(developer.get("/whoami").send().await?.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(developer.fetch("/acme/hello/").await?.0, StatusCode::UNAUTHORIZED);
    assert_eq!(acme.admin.delete(&path).send().await?.status(), StatusCode::NOT_FOUND);
    Ok(())
}

#[tokio::test]
async fn one_sees_and_ends_his_own_sessions_and_nobody_elses() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let caller = acme.member(&host, "dev", "caller").await?;
    let again = host.sign_in(&caller.key).await?;
    let own = sessions(&caller, "/zero-trust/sessions").await?;
    assert_eq!(own.len(), 2);
    assert!(own.iter().all(|session| session["principal"] == "acme/dev"));
    let other = own.iter().find(|session| session["current"] == false).context("the other session")?;
    let path = format!("/zero-trust/sessions/{}", string(other, "id")?);
    assert_eq!(acme.admin.delete(&path).send().await?.status(), StatusCode::NOT_FOUND);
    assert_eq!(again.get("/whoami").send().await?.status(), StatusCode::OK);
    assert_eq!(caller.delete(&path).send().await?.status(), StatusCode::NO_CONTENT);
    assert_eq!(again.get("/whoami").send().await?.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(caller.get("/whoami").send().await?.status(), StatusCode::OK);
    Ok(())
}

#[tokio::test]
async fn a_suspended_tenants_sessions_do_nothing_from_the_next_request_on() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("hello", "hello", "", &[]).await?;
    let developer = acme.member(&host, "dev", "developer").await?;
    assert_eq!(developer.fetch("/acme/hello/").await?.0, StatusCode::OK);
    answer(operator.post("/tenants/acme/suspend").send().await?).await?;
    assert_eq!(developer.fetch("/acme/hello/").await?.0, StatusCode::LOCKED);
    let status = developer.request(Method::GET, &acme.path("/plugins")).send().await?.status();
    assert_eq!(status, StatusCode::FORBIDDEN);
    Ok(())
}
