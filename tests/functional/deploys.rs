//! Grants, deploys, canaries, roll backs.

use anyhow::Result;
use ringfence_tests::{answer, problem, string};
use serde_json::json;

use crate::started;

#[tokio::test]
async fn a_need_that_is_not_granted_stops_a_deploy_and_the_help_mends_it() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.push("visits", "visits", "0.1.0", "[needs]\nkeyvalue = [\"default\"]\n").await?;
    let deploy = acme.path("/plugins/visits/deploy");
    let (status, refused) =
        problem(acme.admin.post(&deploy).json(&json!({ "version": "0.1.0" })).send().await?).await?;
    assert_eq!((status, refused["code"].as_str()), (409, Some("need-not-granted")));
    assert_eq!(refused["detail"], "`visits@0.1.0` needs `keyvalue`, which tenant `acme` has not granted");
    assert_eq!(refused["help"], "ringfence grant visits keyvalue default");
    assert_eq!(acme.fetch("visits", "/").await?.0, 404);
    acme.grant("visits", "keyvalue", &["default"]).await?;
    acme.deploy("visits", "0.1.0").await?;
    assert_eq!(acme.fetch("visits", "/ada").await?, (reqwest::StatusCode::OK, "1 visit from /ada\n".to_owned()));
    Ok(())
}

#[tokio::test]
async fn a_route_moves_and_moves_back() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.push("hello", "p", "1.0.0", "").await?;
    acme.push("redact", "p", "2.0.0", "").await?;
    acme.deploy("p", "1.0.0").await?;
    let rollback = acme.path("/plugins/p/rollback");
    let (status, nothing) = problem(acme.admin.post(&rollback).send().await?).await?;
    assert_eq!((status, nothing["code"].as_str()), (409, Some("nothing-to-roll-back")));
    let moved = acme.deploy("p", "2.0.0").await?;
    assert_eq!((moved["version"].as_str(), moved["previous"].as_str()), (Some("2.0.0"), Some("1.0.0")));
    let back = answer(acme.admin.post(&rollback).send().await?).await?;
    assert_eq!(back["version"], "1.0.0");
    assert!(acme.fetch("p", "/").await?.1.starts_with("hello"));
    Ok(())
}

#[tokio::test]
async fn a_canary_takes_its_share() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.push("hello", "p", "1.0.0", "").await?;
    acme.push("redact", "p", "2.0.0", "").await?;
    acme.deploy("p", "1.0.0").await?;
    let path = acme.path("/plugins/p/deploy");
    let canary =
        answer(acme.admin.post(&path).json(&json!({ "version": "2.0.0", "percent": 40 })).send().await?).await?;
    assert_eq!(canary["version"], "1.0.0");
    assert_eq!(canary["canary"], json!({ "version": "2.0.0", "percent": 40 }));
    let mut old = 0;
    for _ in 0..200 {
        old += u32::from(acme.fetch("p", "/").await?.1.starts_with("hello"));
    }
    // Six standard deviations of 200 draws at 60 percent.
    assert!((80..=160).contains(&old), "{old} of 200 went to the stable version");
    for percent in [0, 101] {
        let refused = acme.admin.post(&path).json(&json!({ "version": "2.0.0", "percent": percent })).send().await?;
        assert_eq!(refused.status(), 422);
    }
    Ok(())
}

#[tokio::test]
async fn two_versions_can_be_compared() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.push("hello", "p", "1.0.0", "").await?;
    acme.push("visits", "p", "2.0.0", "").await?;
    let diff = answer(acme.admin.get(&acme.path("/plugins/p/diff?from=1.0.0&to=2.0.0")).send().await?).await?;
    assert_eq!(diff["added"][0]["capability"], "keyvalue");
    assert_eq!(diff["same_digest"], false);
    let (status, missing) =
        problem(acme.admin.get(&acme.path("/plugins/p/diff?from=1.0.0&to=9.0.0")).send().await?).await?;
    assert_eq!((status, string(&missing, "code")?.as_str()), (404, "version-not-found"));
    Ok(())
}

#[tokio::test]
async fn routes_grants_and_data_survive_a_restart() -> Result<()> {
    let (place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("visits", "visits", "", &[("keyvalue", &["default"])]).await?;
    assert_eq!(acme.fetch("visits", "/a").await?.1, "1 visit from /a\n");
    let key = acme.admin.key.clone();
    host.stop()?;
    let host = ringfence_tests::Host::start(&place)?;
    let admin = host.sign_in(&key).await?;
    assert_eq!(admin.fetch("/acme/visits/a").await?.1, "2 visits from /a\n");
    Ok(())
}
