//! What a call used, as its tenant, its operator and their tools see it: usage, receipts, metrics, `ringfence top`.

use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use reqwest::{Method, StatusCode};
use ringfence_audit::receipt::verify;
use ringfence_tests::{Host, Place, Session, Tenant, answer, eventually, ringfence, string};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::invocations::ship_hostile;
use crate::started;

/// `ringfence` as its user runs it, with a key in the environment and a home of its own.
pub fn command(host: &Host, who: &Session, args: &[&str]) -> Result<Output> {
    let home = tempfile::tempdir()?;
    let mut command = Command::new(ringfence()?);
    command.args(["--host", &host.control]).args(args);
    Ok(command.env("RINGFENCE_HOME", home.path()).env("RINGFENCE_API_KEY", &who.key).output()?)
}

pub fn text_of(output: &Output) -> Result<String> {
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout.clone())?)
}

async fn usage(tenant: &Tenant, query: &str) -> Result<Value> {
    answer(tenant.admin.get(&tenant.path(&format!("/usage{query}"))).send().await?).await
}

async fn metered(tenant: &Tenant, calls: u64) -> Result<()> {
    eventually("the calls are metered", async || {
        Ok(usage(tenant, "").await?["total"]["invocations_count"].as_u64() >= Some(calls))
    })
    .await
}

#[tokio::test]
async fn everything_that_calls_used_is_metered() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    ship_hostile(&acme).await?;
    let body = vec![b'x'; 10_000];
    let swallowed = acme.admin.call(Method::POST, "/acme/hostile/swallow").body(body).send().await?;
    assert_eq!(swallowed.status(), StatusCode::OK);
    for rest in ["/memory?mib=8", "/kv?key=a&value=b", "/kv?key=a", "/log-flood?n=3&bytes=100"] {
        assert_eq!(acme.fetch("hostile", rest).await?.0, StatusCode::OK, "{rest}");
    }
    assert_eq!(acme.fetch("hostile", "/trap").await?.0, StatusCode::BAD_GATEWAY);
    metered(&acme, 6).await?;
    let seen = usage(&acme, "?by=day").await?;
    let total = &seen["total"];
    assert_eq!(total["request_bytes"], 10_000);
    assert!(total["response_bytes"].as_u64() > Some(0), "{total}");
    assert_eq!(total["storage_ops_count"], 2);
    assert!(total["log_bytes"].as_u64() >= Some(300), "{total}");
    assert!(total["memory_bytes_peak"].as_u64() > Some(8 << 20), "{total}");
    assert!(string(total, "memory_byte_us")?.parse::<u128>()? > 8 << 20, "{total}");
    assert_eq!((&total["failures_count"], &total["failures_by_plugin_count"]), (&1.into(), &1.into()));
    // Usually one day; two when midnight came in between.
    let days = seen["days"].as_array().context("days")?;
    let calls: u64 = days.iter().filter_map(|day| day["total"]["invocations_count"].as_u64()).sum();
    assert_eq!(calls, 6);
    let wrong = acme.admin.get(&acme.path("/usage?by=week")).send().await?;
    assert_eq!(wrong.status(), StatusCode::BAD_REQUEST);
    Ok(())
}

#[tokio::test]
async fn a_receipt_adds_up_and_verifies_without_the_host() -> Result<()> {
    let (place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("hello", "hello", "", &[]).await?;
    for _ in 0..3 {
        acme.fetch("hello", "/").await?;
    }
    metered(&acme, 3).await?;
    let days = usage(&acme, "?by=day").await?["days"].clone();
    let day = string(days.as_array().and_then(|days| days.last()).context("a day")?, "day")?;
    let note = text_of(&command(&host, &acme.admin, &["usage", "receipt", &day])?)?;
    let vkey = string(&answer(acme.admin.get(&acme.path("")).send().await?).await?, "audit_vkey")?;
    let receipt = verify(&note, &vkey)?.receipt;
    let total = usage(&acme, &format!("?from={day}T00:00:00Z")).await?["total"].clone();
    for (name, figure) in &receipt.total {
        let shown = total[name].as_str().map_or_else(|| total[name].to_string(), str::to_owned);
        assert_eq!(&shown, figure, "{name}");
    }
    assert!(receipt.partial);
    receipts_are_what_metrics_say(&acme, &days, &vkey).await?;
    host.stop()?;

    let file = place.data().with_extension("receipt");
    std::fs::write(&file, &note)?;
    let check = |key: &str| -> Result<Output> {
        Ok(Command::new(ringfence()?).args(["usage", "verify", "--vkey", key]).arg(&file).output()?)
    };
    assert!(text_of(&check(&vkey)?)?.contains("acme"));
    std::fs::write(&file, note.replacen("\"3\"", "\"2\"", 1))?;
    let changed = check(&vkey)?;
    assert_eq!(changed.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&changed.stderr).contains("receipt-bad-signature"));
    Ok(())
}

/// The figures of signed receipts and the counters that are made of the same, with how many of a figure one of a counter is.
const COUNTED: [(&str, &str, f64); 15] = [
    ("invocations_count", "invocations_total{tenant=\"acme\"}", 1.0),
    ("failures_by_caller_count", "failures_total{tenant=\"acme\",blame=\"caller\"}", 1.0),
    ("failures_by_plugin_count", "failures_total{tenant=\"acme\",blame=\"plugin\"}", 1.0),
    ("failures_by_host_count", "failures_total{tenant=\"acme\",blame=\"host\"}", 1.0),
    ("cpu_us", "cpu_seconds_total{tenant=\"acme\"}", 1e6),
    ("wall_us", "wall_seconds_total{tenant=\"acme\"}", 1e6),
    ("memory_byte_us", "memory_byte_seconds_total{tenant=\"acme\"}", 1e6),
    ("request_bytes", "request_bytes_total{tenant=\"acme\"}", 1.0),
    ("response_bytes", "response_bytes_total{tenant=\"acme\"}", 1.0),
    ("log_bytes", "log_bytes_total{tenant=\"acme\"}", 1.0),
    ("host_calls_count", "host_calls_total{tenant=\"acme\"}", 1.0),
    ("outgoing_count", "outgoing_requests_total{tenant=\"acme\"}", 1.0),
    ("egress_out_bytes", "egress_out_bytes_total{tenant=\"acme\"}", 1.0),
    ("egress_in_bytes", "egress_in_bytes_total{tenant=\"acme\"}", 1.0),
    ("storage_ops_count", "storage_operations_total{tenant=\"acme\"}", 1.0),
];

/// The receipts of all days since the start, added up, are what the metrics count since the start. Stored bytes over time, which
/// grow between two questions, and the peak, which is no sum, are not among them.
async fn receipts_are_what_metrics_say(acme: &Tenant, days: &Value, vkey: &str) -> Result<()> {
    let text = acme.admin.get(&acme.path("/metrics")).send().await?.text().await?;
    let mut receipts = Vec::new();
    for day in days.as_array().context("days")? {
        let path = acme.path(&format!("/receipts/{}", string(day, "day")?));
        receipts.push(verify(&acme.admin.get(&path).send().await?.text().await?, vkey)?.receipt);
    }
    for (figure, series, scale) in COUNTED {
        let mut signed = 0.0;
        for receipt in &receipts {
            signed += receipt.total.get(figure).with_context(|| format!("no {figure}"))?.parse::<f64>()?;
        }
        let prefix = format!("ringfence_tenant_{series} ");
        let counted = text.lines().find_map(|line| line.strip_prefix(&prefix)).with_context(|| prefix.clone())?;
        let counted = counted.parse::<f64>()? * scale;
        // Equal but for how floating point rounds.
        assert!((counted - signed).abs() <= signed * 1e-9, "{figure}: {counted} counted, {signed} signed");
    }
    Ok(())
}

#[tokio::test]
async fn receipts_are_their_tenants_own() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let globex = host.tenant(&operator, "globex").await?;
    let list = answer(acme.admin.get(&acme.path("/receipts")).send().await?).await?;
    assert_eq!(list["items"].as_array().map(Vec::len), Some(0));
    for path in ["/receipts", "/receipts/2026-11-20", "/receipts/yesterday", "/metrics"] {
        assert_eq!(globex.admin.get(&acme.path(path)).send().await?.status(), StatusCode::NOT_FOUND, "{path}");
    }
    let wrong = acme.admin.get(&acme.path("/receipts/20261120")).send().await?;
    assert_eq!(wrong.status(), StatusCode::BAD_REQUEST);
    assert_eq!(acme.admin.get(&acme.path("/receipts/2001-01-01")).send().await?.status(), StatusCode::NOT_FOUND);
    Ok(())
}

#[tokio::test]
async fn metrics_are_for_operators_and_name_tenants_only() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let globex = host.tenant(&operator, "globex").await?;
    for tenant in [&acme, &globex] {
        tenant.ship("visits", "zanzibar", "", &[("keyvalue", &["default"])]).await?;
        tenant.fetch("zanzibar", "/timbuktu?q=quito").await?;
        metered(tenant, 1).await?;
    }
    let read = |who: &Session| {
        let request = reqwest::Client::new().get(format!("{}/metrics", host.control));
        who.token.iter().fold(request, |request, token| request.bearer_auth(token)).send()
    };
    assert_eq!(read(&host.anonymous()).await?.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(read(&acme.admin).await?.status(), StatusCode::FORBIDDEN);
    let response = read(&operator).await?;
    let kind = response.headers()["content-type"].to_str()?.to_owned();
    assert!(kind.starts_with("application/openmetrics-text; version=1.0.0"), "{kind}");
    let text = response.text().await?;
    assert!(text.ends_with("# EOF\n"), "{text}");
    for series in ["ringfence_slots ", "ringfence_tenant_invocations_total{tenant=\"acme\"} 1.0"] {
        assert!(text.contains(series), "{series}: {text}");
    }
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let labels = line.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map_or("", |(labels, _)| labels);
        for label in labels.split(',').filter(|label| !label.is_empty()) {
            let key = label.split('=').next().unwrap_or_default();
            assert!(["tenant", "blame", "quota", "plane"].contains(&key), "{line}");
        }
    }
    for word in ["zanzibar", "timbuktu", "quito", "visits"] {
        assert!(!text.contains(word), "{word}: {text}");
    }
    let own = acme.admin.get(&acme.path("/metrics")).send().await?.text().await?;
    assert!(own.contains("tenant=\"acme\"") && !own.contains("globex"), "{own}");
    Ok(())
}

#[tokio::test]
async fn top_shows_an_operator_all_and_a_tenant_its_own() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let globex = host.tenant(&operator, "globex").await?;
    for tenant in [&acme, &globex] {
        tenant.ship("hello", "hello", "", &[]).await?;
        tenant.fetch("hello", "/").await?;
        metered(tenant, 1).await?;
    }
    let names = |who: &Session| -> Result<Vec<String>> {
        let out = text_of(&command(&host, who, &["top", "--once", "--json", "--interval", "1"])?)?;
        let rows: Value = serde_json::from_str(&out)?;
        let rows = rows["tenants"].as_array().context("tenants")?;
        assert!(rows.iter().all(|row| row["cpu_percent"].is_f64() && row["requests_per_second"].is_f64()), "{out}");
        let mut names: Vec<String> = rows.iter().map(|row| string(row, "tenant")).collect::<Result<_>>()?;
        names.sort();
        Ok(names)
    };
    assert_eq!(names(&operator)?, ["acme", "globex"]);
    assert_eq!(names(&acme.admin)?, ["acme"]);
    let caller = acme.member(&host, "cal", "caller").await?;
    assert_eq!(command(&host, &caller, &["top", "--once"])?.status.code(), Some(4));
    let table = text_of(&command(&host, &operator, &["top", "--once", "--interval", "1"])?)?;
    assert!(table.starts_with("tenant") && table.contains("calls/s"), "{table}");
    for interval in ["0", "3601", "-1", "soon"] {
        let wrong = command(&host, &operator, &["top", "--once", &format!("--interval={interval}")])?;
        assert_eq!(wrong.status.code(), Some(2), "{interval}");
    }
    Ok(())
}

#[tokio::test]
async fn the_host_says_what_the_kernel_granted_its_io_and_the_doctor_what_it_would() -> Result<()> {
    for (wanted, verdict) in [(Some("usual"), Some("ok")), (None, None)] {
        let settings: Vec<_> = wanted.map(|class| ("RINGFENCE_ENGINE_IO_CLASS", class)).into_iter().collect();
        let place = Place::new()?;
        let host = Host::start_with(&place, &[], &settings)?;
        let operator = host.operator().await?;
        let mut got = String::new();
        eventually("the I/O threads stand somewhere", async || {
            got = string(&answer(operator.get("/host").send().await?).await?, "io_class")?;
            Ok(got != "unknown")
        })
        .await?;
        assert!(wanted.is_none_or(|class| class == got), "{got}");
        let shown = text_of(&command(&host, &operator, &["status"])?)?;
        assert!(shown.contains(&format!("I/O        {got}: ")), "{shown}");
        // The doctor tries the same on this machine, in a process that has the limits of the host's.
        let mut doctor = Command::new(ringfence()?);
        doctor.args(["doctor", "--json", "--dev", "--plugins", "127.0.0.1:0", "--control", "127.0.0.1:0"]);
        doctor.envs(settings).arg("--data").arg(place.data());
        let checks: Vec<Value> = serde_json::from_slice(&doctor.output()?.stdout)?;
        let check = checks.iter().find(|check| check["check"] == "I/O scheduling").context("no such check")?;
        assert!(string(check, "detail")?.starts_with(&format!("{got}: ")), "{got}: {check}");
        assert!(verdict.is_none_or(|verdict| check["verdict"] == verdict), "{check}");
    }
    Ok(())
}

#[tokio::test]
async fn a_caller_who_hangs_up_before_the_answer_is_metered_once() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    ship_hostile(&acme).await?;
    let address = host.plugins.trim_start_matches("http://").to_owned();
    let mut stream = tokio::net::TcpStream::connect(&address).await?;
    let token = acme.admin.token.clone().unwrap_or_default();
    let head =
        format!("GET /acme/hostile/sleep?ms=3000 HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {token}\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    eventually("the call runs", async || Ok(answer(operator.get("/host").send().await?).await?["running_count"] == 1))
        .await?;
    // Nothing of an answer has come.
    let early = tokio::time::timeout(std::time::Duration::from_millis(20), stream.read(&mut [0])).await;
    assert!(early.is_err());
    drop(stream);
    metered(&acme, 1).await?;
    eventually("the slot is free", async || {
        Ok(answer(operator.get("/host").send().await?).await?["running_count"] == 0)
    })
    .await?;
    assert_eq!(acme.fetch("hostile", "/ok").await?.0, StatusCode::OK);
    metered(&acme, 2).await?;
    let total = usage(&acme, "").await?["total"].clone();
    assert_eq!((&total["invocations_count"], &total["failures_by_caller_count"]), (&2.into(), &1.into()));
    let list = answer(acme.admin.get(&acme.path("/plugins/hostile/invocations")).send().await?).await?;
    let codes: Vec<_> = list["items"].as_array().into_iter().flatten().map(|one| &one["status"]).collect();
    assert_eq!(codes, [200, 499]);
    Ok(())
}
