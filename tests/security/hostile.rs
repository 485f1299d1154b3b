//! Hostile guests: each ends at its budget with its code, while another tenant keeps answering.

use anyhow::Result;
use reqwest::{Method, StatusCode};
use ringfence_tests::{answer, problem, string};

use crate::{ship_hostile, started};

const BUDGET: &str = "cpu_ms = 2000\ntime_ms = 8000\nmemory_mib = 64";

#[tokio::test]
async fn every_misbehaviour_ends_at_its_budget_and_the_host_goes_on() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let bad = host.tenant(&operator, "bad").await?;
    let good = host.tenant(&operator, "good").await?;
    good.ship("hello", "hello", "", &[]).await?;
    ship_hostile(&bad, BUDGET).await?;
    for (path, status, codes) in [
        ("/spin", 504, &["budget-cpu"][..]),
        ("/memory", 507, &["budget-memory"]),
        ("/allocations", 507, &["budget-memory"]),
        ("/recurse", 502, &["trap"]),
        ("/trap", 502, &["trap"]),
        ("/panic", 502, &["trap"]),
        ("/sleep?ms=60000", 504, &["budget-time"]),
    ] {
        let (got, answer) = problem(bad.admin.call(Method::GET, &format!("/bad/hostile{path}")).send().await?).await?;
        let code = string(&answer, "code")?;
        assert!(got == status && codes.contains(&code.as_str()), "{path}: {got} {answer}");
        assert!(!answer.to_string().contains("wasm"), "a caller learns nothing of the inside: {answer}");
        assert_eq!(good.fetch("hello", "/").await?.0, StatusCode::OK, "after {path}");
    }
    // A storm of host calls ends at whichever budget it reaches first.
    let (status, answer) = problem(bad.admin.call(Method::GET, "/bad/hostile/hostcalls").send().await?).await?;
    assert!(matches!(status, 502 | 504), "{answer}");
    Ok(())
}

#[tokio::test]
async fn a_table_that_grows_without_end_is_refused_growth() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let bad = host.tenant(&operator, "bad").await?;
    bad.push("table-growth", "table", "0.1.0", "[budget]\ncpu_ms = 2000\n").await?;
    bad.deploy("table", "0.1.0").await?;
    let (status, _) = bad.fetch("table", "/").await?;
    assert!(status.is_server_error(), "{status}");
    Ok(())
}

#[tokio::test]
async fn an_endless_answer_is_cut_and_not_silently() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let bad = host.tenant(&operator, "bad").await?;
    ship_hostile(&bad, "cpu_ms = 4000\ntime_ms = 20000").await?;
    let response = bad.admin.call(Method::GET, "/bad/hostile/huge-response").send().await?;
    assert!(response.bytes().await.is_err(), "a cut answer must not look complete");
    let response =
        bad.admin.call(Method::GET, "/bad/hostile/drip").timeout(std::time::Duration::from_secs(60)).send().await?;
    assert!(response.bytes().await.is_err(), "a drip is cut by the clock");
    Ok(())
}

#[tokio::test]
async fn loops_of_one_tenant_do_not_stop_another() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let bad = host.tenant(&operator, "bad").await?;
    let good = host.tenant(&operator, "good").await?;
    good.ship("hello", "hello", "", &[]).await?;
    ship_hostile(&bad, "cpu_ms = 500\ntime_ms = 60000").await?;
    let loops: Vec<_> = (0..6).map(|_| tokio::spawn(bad.admin.call(Method::GET, "/bad/hostile/spin").send())).collect();
    let mut answered = 0;
    while loops.iter().any(|spinning| !spinning.is_finished()) {
        assert_eq!(good.fetch("hello", "/").await?.0, StatusCode::OK);
        answered += 1;
    }
    assert!(answered >= 10, "{answered} answers beside six loops");
    for spinning in loops {
        let (status, answer) = problem(spinning.await??).await?;
        assert_eq!((status, answer["code"].as_str()), (504, Some("budget-cpu")));
    }
    Ok(())
}

#[tokio::test]
async fn floods_are_bounded() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let bad = host.tenant(&operator, "bad").await?;
    ship_hostile(&bad, BUDGET).await?;
    for path in ["/log-flood", "/stderr-flood", "/kv-flood"] {
        let _ = bad.admin.call(Method::GET, &format!("/bad/hostile{path}")).send().await?.bytes().await;
    }
    let page = answer(bad.admin.get(&bad.path("/plugins/hostile/logs?limit=1000")).send().await?).await?;
    let bytes: usize = page["items"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|line| line["message"].as_str().unwrap_or_default().len())
        .sum();
    assert!(bytes <= 4 * (64 << 10), "{bytes} bytes of guest log kept after two floods");
    assert_eq!(bad.fetch("hostile", "/ok").await?.0, StatusCode::OK);
    Ok(())
}

#[tokio::test]
async fn a_tenants_own_excess_is_a_429() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let bad = host.tenant(&operator, "bad").await?;
    ship_hostile(&bad, "time_ms = 3000").await?;
    let calls = (0..140).map(|_| bad.admin.call(Method::GET, "/bad/hostile/sleep?ms=1500").send());
    let mut busy = 0;
    for response in futures::future::try_join_all(calls).await? {
        if response.status() == StatusCode::TOO_MANY_REQUESTS {
            assert!(response.headers().contains_key("retry-after"));
            let answer: serde_json::Value = response.json().await?;
            assert_eq!(answer["code"], "tenant-busy");
            busy += 1;
        }
    }
    assert!(busy > 0);
    Ok(())
}
