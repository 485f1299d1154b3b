//! Components that know nothing of Ringfence run unmodified: p2 and p3, other SDKs.

use anyhow::Result;
use reqwest::{Method, StatusCode};

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
