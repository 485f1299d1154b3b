//! Components that know nothing of Ringfence run unmodified: p2 and p3, other SDKs.

use anyhow::Result;
use reqwest::{Method, StatusCode};
use ringfence_tests::{answer, eventually};
use serde_json::json;

use crate::started;

#[tokio::test]
async fn a_p3_component_runs() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let pushed = acme.push("hello-p3", "p3", "0.1.0", "").await?;
    assert_eq!(pushed["needs"], serde_json::json!([]));
    acme.deploy("p3", "0.1.0").await?;
    assert_eq!(acme.fetch("p3", "/").await?.0, StatusCode::OK);
    Ok(())
}

#[tokio::test]
async fn a_component_of_another_sdk_runs() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("wstd-http-server", "wstd", "", &[]).await?;
    let response = acme.admin.call(Method::GET, "/acme/wstd/").send().await?;
    assert_eq!(response.status(), StatusCode::OK);
    Ok(())
}

#[tokio::test]
async fn a_component_made_with_spins_sdk_counts_in_standard_key_value() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("spin-visits", "spin", "", &[("keyvalue", &["default"])]).await?;
    for count in 1..=2 {
        let (status, text) = acme.fetch("spin", "/a").await?;
        assert_eq!((status, text), (StatusCode::OK, format!("{count} visits, says Spin's SDK\n")));
    }
    Ok(())
}

#[tokio::test]
async fn a_component_made_with_wasmclouds_library_counts_reads_its_config_and_logs() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let grants: [(&str, &[&str]); 3] = [("keyvalue", &["default"]), ("config", &[]), ("logging", &[])];
    acme.ship("wasmcloud-visits", "wasmcloud", "", &grants).await?;
    let path = acme.path("/plugins/wasmcloud/config/greeting");
    answer(acme.admin.put(&path).json(&json!({ "value": "visit" })).send().await?).await?;
    for count in 1..=2 {
        let (status, text) = acme.fetch("wasmcloud", "/a").await?;
        assert_eq!((status, text), (StatusCode::OK, format!("visit {count}, says wasmCloud's library\n")));
    }
    eventually("the log has both lines", async || {
        let log = answer(acme.admin.get(&acme.path("/plugins/wasmcloud/logs")).send().await?).await?.to_string();
        Ok(log.contains("visit 1 of /a") && log.contains("visit 2 of /a"))
    })
    .await
}
