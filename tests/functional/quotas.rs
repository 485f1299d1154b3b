//! What a tenant may have: each quota bites, is seen to bite, and raising it takes effect at once.

use anyhow::{Context, Result};
use reqwest::{Method, StatusCode};
use ringfence_tests::{Host, Place, Session, Tenant, answer, eventually, guest, problem, string};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::invocations::{ship_hostile, ship_hostile_as};
use crate::started;

async fn set(operator: &Session, tenant: &str, overrides: Value) -> Result<Value> {
    let body = json!({ "overrides": overrides });
    answer(operator.put(&format!("/tenants/{tenant}/quota")).json(&body).send().await?).await
}

async fn quota(who: &Session, tenant: &str) -> Result<Value> {
    answer(who.get(&format!("/tenants/{tenant}/quota")).send().await?).await
}

fn number(value: &Value, section: &str, figure: &str) -> Result<u64> {
    value[section][figure].as_u64().with_context(|| format!("no number `{section}.{figure}` in {value}"))
}

#[tokio::test]
async fn a_plan_of_the_configuration_is_chosen_when_a_tenant_is_made_and_changed_later() -> Result<()> {
    let place = Place::new()?;
    let text = "[plans.free]\nweight = 10\nplugins_count = 1\n[plans.gold]\nplugins_count = 50\n";
    let config = place.config(text)?.display().to_string();
    let host = Host::start_with(&place, &["--config", &config], &[])?;
    let operator = host.operator().await?;
    let made = answer(operator.post("/tenants").json(&json!({ "name": "acme", "plan": "free" })).send().await?).await?;
    assert_eq!(made["plan"], "free");
    let (status, none) =
        problem(operator.post("/tenants").json(&json!({ "name": "beta", "plan": "silver" })).send().await?).await?;
    assert_eq!((status, string(&none, "code")?.as_str()), (422, "unknown-plan"), "{none}");
    assert!(string(&none, "detail")?.contains("`free`, `gold`, `standard`"), "{none}");
    let now = quota(&operator, "acme").await?;
    assert_eq!((now["effective"]["weight"].as_u64(), number(&now, "effective", "plugins_count")?), (Some(10), 1));
    let wrong = json!({ "plan": "gold", "overrides": { "weight": 0 } });
    let (status, refused) = problem(operator.put("/tenants/acme/quota").json(&wrong).send().await?).await?;
    assert_eq!((status, string(&refused, "code")?.as_str()), (422, "bad-quota"));
    assert_eq!(string(&refused, "detail")?, "`weight` = 0 is not possible: 1 to 1000");
    let body = json!({ "plan": "gold", "overrides": { "weight": 200 } });
    let late = operator.put("/tenants/acme/quota").header("if-match", "\"7\"").json(&body).send().await?;
    assert_eq!(late.status(), StatusCode::PRECONDITION_FAILED);
    let changed = operator.put("/tenants/acme/quota").header("if-match", "\"0\"").json(&body).send().await?;
    assert_eq!(changed.headers().get("etag").and_then(|tag| tag.to_str().ok()), Some("\"1\""));
    drop(host);
    // What was chosen is there after a kill; a plan that is gone from the configuration is not replaced in silence.
    let host = Host::start_with(&place, &["--config", &config], &[])?;
    let operator = host.sign_in(&operator.key).await?;
    let now = quota(&operator, "acme").await?;
    assert_eq!((now["plan"].as_str(), now["effective"]["weight"].as_u64()), (Some("gold"), Some(200)));
    assert_eq!(number(&now, "effective", "plugins_count")?, 50);
    host.stop()?;
    place.config("")?;
    let error = Host::start_with(&place, &["--config", &config], &[]).err().context("it started")?.to_string();
    assert!(error.contains("there is no plan `gold`"), "{error}");
    place.config("[plans.free]\nplugin_count = 1\n")?;
    let error = Host::start_with(&place, &["--config", &config], &[]).err().context("it started")?.to_string();
    assert!(error.contains("plugin_count"), "{error}");
    Ok(())
}

#[tokio::test]
async fn choosing_a_quota_is_for_operators_and_on_the_tenants_log() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    set(&operator, "acme", json!({ "plugins_count": 3 })).await?;
    let own = json!({ "overrides": { "plugins_count": 1000 } });
    let (status, denied) = problem(acme.admin.put(&acme.path("/quota")).json(&own).send().await?).await?;
    assert_eq!((status, denied["code"].as_str()), (403, Some("denied")));
    for role in ["developer", "auditor"] {
        let member = acme.member(&host, role, role).await?;
        assert_eq!(number(&quota(&member, "acme").await?, "effective", "plugins_count")?, 3);
    }
    let log = answer(acme.admin.get(&acme.path("/audit?limit=1000")).send().await?).await?;
    assert!(log.to_string().contains("tenant-quota-set"), "{log}");
    Ok(())
}

#[tokio::test]
async fn calls_over_the_rate_are_a_429_that_strangers_do_not_see() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let globex = host.tenant(&operator, "globex").await?;
    acme.ship("hello", "hello", "", &[]).await?;
    set(&operator, "acme", json!({ "requests_per_second": 1 })).await?;
    let calls = (0..30).map(|_| acme.admin.call(Method::GET, "/acme/hello/").send());
    let mut refused = 0;
    for response in futures::future::try_join_all(calls).await? {
        if response.status() == StatusCode::TOO_MANY_REQUESTS {
            assert!(response.headers().contains_key("retry-after"));
            assert_eq!(string(&problem(response).await?.1, "code")?, "quota-exhausted");
            refused += 1;
        }
    }
    assert!(refused > 0);
    assert_eq!(number(&quota(&acme.admin, "acme").await?, "throttled", "requests_count")?, refused);
    assert_eq!(host.anonymous().fetch("/acme/hello/").await?.0, StatusCode::UNAUTHORIZED);
    assert_eq!(globex.admin.fetch("/acme/hello/").await?.0, StatusCode::NOT_FOUND);
    set(&operator, "acme", json!({ "requests_per_second": 10_000 })).await?;
    assert_eq!(acme.fetch("hello", "/").await?.0, StatusCode::OK);
    Ok(())
}

/// The one thing a guest says when the host refuses a key-value call.
async fn write(acme: &Tenant, key: &str, bytes: usize) -> Result<String> {
    Ok(acme.fetch("hostile", &format!("/kv?key={key}&value={}", "x".repeat(bytes))).await?.1)
}

#[tokio::test]
async fn storage_is_counted_refused_in_words_and_survives_a_kill_to_the_byte() -> Result<()> {
    let (place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    ship_hostile(&acme).await?;
    let component_bytes = guest("hostile")?.len() as u64;
    let empty = number(&quota(&acme.admin, "acme").await?, "use", "storage_bytes")?;
    assert_eq!(empty, component_bytes, "the component counts, and nothing else does yet");
    set(&operator, "acme", json!({ "storage_bytes": empty + 3_000 })).await?;
    assert_eq!(write(&acme, "a", 2_000).await?, "written\n");
    let refused = write(&acme, "b", 2_000).await?;
    assert!(refused.contains("bytes of storage is used up"), "{refused}");
    let full = quota(&acme.admin, "acme").await?;
    assert_eq!(number(&full, "throttled", "storage_count")?, 1);
    let response = acme.push_raw("[plugin]\nname = \"more\"\nversion = \"0.1.0\"\n", "more", "0.1.0", guest("hello")?);
    let (status, more) = problem(response.await?).await?;
    assert_eq!((status, string(&more, "code")?.as_str()), (429, "quota-exhausted"), "{more}");
    host.kill()?;
    let host = Host::start(&place)?;
    let operator = host.sign_in(&operator.key).await?;
    let acme = Tenant { name: "acme".to_owned(), admin: host.sign_in(&acme.admin.key).await? };
    let after = quota(&acme.admin, "acme").await?;
    assert_eq!(number(&after, "use", "storage_bytes")?, number(&full, "use", "storage_bytes")?);
    assert!(write(&acme, "b", 2_000).await?.contains("used up"));
    assert_eq!(write(&acme, "a", 1_000).await?, "written\n", "less than before always fits");
    set(&operator, "acme", json!({})).await?;
    assert_eq!(write(&acme, "b", 2_000).await?, "written\n");
    assert!(acme.push("hello", "more", "0.1.0", "").await.is_ok());
    Ok(())
}

#[tokio::test]
async fn key_value_operations_over_the_rate_are_refused_in_words() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    ship_hostile(&acme).await?;
    set(&operator, "acme", json!({ "storage_ops_per_second": 1 })).await?;
    let writes = (0..30).map(|_| write(&acme, "k", 1));
    let told = futures::future::try_join_all(writes).await?;
    assert!(told.iter().any(|text| text.contains("1 storage operations a second is used up")), "{told:?}");
    assert!(number(&quota(&acme.admin, "acme").await?, "throttled", "storage_ops_count")? > 0);
    set(&operator, "acme", json!({})).await?;
    assert_eq!(write(&acme, "k", 1).await?, "written\n");
    Ok(())
}

#[tokio::test]
async fn one_plugin_too_many_and_a_component_too_large_are_refused_before_they_are_read() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    set(&operator, "acme", json!({ "plugins_count": 1 })).await?;
    acme.push("hello", "one", "0.1.0", "").await?;
    acme.push("hello", "one", "0.2.0", "").await?;
    let push = async |plugin: &str| {
        let manifest = format!("[plugin]\nname = \"{plugin}\"\nversion = \"0.3.0\"\n");
        problem(acme.push_raw(&manifest, plugin, "0.3.0", guest("hello")?).await?).await
    };
    let (status, refused) = push("two").await?;
    assert_eq!((status, string(&refused, "detail")?.as_str()), (429, "the tenant's quota of 1 plugins is used up"));
    set(&operator, "acme", json!({ "plugins_count": 2, "component_bytes": 1_000 })).await?;
    let (status, refused) = push("two").await?;
    assert_eq!((status, string(&refused, "code")?.as_str()), (429, "quota-exhausted"));
    assert!(string(&refused, "detail")?.contains("1000 bytes for one component"), "{refused}");
    set(&operator, "acme", json!({ "plugins_count": 2 })).await?;
    assert_eq!(push("two").await?.0, 201);
    let now = quota(&acme.admin, "acme").await?;
    assert_eq!(number(&now, "use", "plugins_count")?, 2);
    let refused = |figure| number(&now, "throttled", figure);
    assert_eq!((refused("plugins_count")?, refused("component_bytes_count")?, refused("storage_count")?), (1, 1, 0));
    refusals_are_told(&acme, &["component-bytes", "plugins"]).await?;
    Ok(())
}

#[tokio::test]
async fn memory_is_one_pool_for_all_that_runs() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    ship_hostile(&acme).await?;
    set(&operator, "acme", json!({ "memory_bytes": 12 << 20 })).await?;
    let told = acme.fetch("hostile", "/memory-polite?mib=20").await?.1;
    assert!(told.starts_with("refused after"), "{told}");
    let now = quota(&acme.admin, "acme").await?;
    assert!(number(&now, "throttled", "memory_count")? > 0);
    set(&operator, "acme", json!({})).await?;
    assert_eq!(acme.fetch("hostile", "/memory-polite?mib=20").await?.1, "took 20 MiB\n");
    eventually("the memory is back", async || {
        Ok(number(&quota(&acme.admin, "acme").await?, "use", "memory_bytes")? == 0)
    })
    .await
}

#[tokio::test]
async fn what_the_host_has_no_memory_for_is_a_503_and_not_the_tenants_quota() -> Result<()> {
    let place = Place::new()?;
    // An eighth of it is kept for tenants that hold next to none: room for one of the largest guests, and not for two.
    let sizes = [("RINGFENCE_ENGINE_MEMORY_MIB", "19"), ("RINGFENCE_ENGINE_MEMORY_MIB_MAX", "16")];
    let host = Host::start_with(&place, &[], &sizes)?;
    let operator = host.operator().await?;
    let acme = host.tenant(&operator, "acme").await?;
    ship_hostile(&acme).await?;
    let held = "[budget]\ncpu_ms = 2000\ntime_ms = 60000\nmemory_mib = 64\n";
    ship_hostile_as(&acme, "keeper", held).await?;
    let keeps = tokio::spawn(acme.admin.call(Method::GET, "/acme/keeper/memory-hold?mib=6").send());
    eventually("a third of it is held", async || {
        Ok(number(&quota(&acme.admin, "acme").await?, "use", "memory_bytes")? >= 6 << 20)
    })
    .await?;
    let refused = acme.admin.call(Method::GET, "/acme/hostile/memory?mib=40").send().await?;
    assert_eq!(refused.headers().get("retry-after").and_then(|wait| wait.to_str().ok()), Some("1"));
    let (status, told) = problem(refused).await?;
    assert_eq!((status, string(&told, "code")?.as_str()), (503, "overloaded"), "{told}");
    let told = acme.fetch("hostile", "/memory-polite?mib=40").await?.1;
    assert!(told.starts_with("refused after"), "{told}");
    assert_eq!(number(&quota(&acme.admin, "acme").await?, "throttled", "memory_count")?, 0);
    assert_eq!(acme.fetch("hostile", "/memory-polite?mib=4").await?.1, "took 4 MiB\n");
    // It is the host's: counted with the calls, and no entry each on the log of whom it meets.
    let log = answer(acme.admin.get(&acme.path("/audit?limit=1000")).send().await?).await?.to_string();
    assert!(!log.contains("INV-002") && !log.contains("INV-003"), "{log}");
    assert!(!keeps.is_finished(), "who holds it goes on");
    keeps.abort();
    Ok(())
}

#[tokio::test]
async fn a_tenant_that_holds_most_of_the_hosts_memory_gives_some_back_and_is_told_that_it_was_its_own() -> Result<()> {
    let place = Place::new()?;
    let sizes = [("RINGFENCE_ENGINE_MEMORY_MIB", "19"), ("RINGFENCE_ENGINE_MEMORY_MIB_MAX", "16")];
    let host = Host::start_with(&place, &[], &sizes)?;
    let operator = host.operator().await?;
    let (acme, globex) = (host.tenant(&operator, "acme").await?, host.tenant(&operator, "globex").await?);
    let held = "[budget]\ncpu_ms = 2000\ntime_ms = 60000\nmemory_mib = 64\n";
    ship_hostile_as(&acme, "keeper", held).await?;
    ship_hostile(&globex).await?;
    let keeps = tokio::spawn(acme.admin.call(Method::GET, "/acme/keeper/memory-hold?mib=12").send());
    eventually("most of it is held", async || {
        Ok(number(&quota(&acme.admin, "acme").await?, "use", "memory_bytes")? >= 12 << 20)
    })
    .await?;
    assert_eq!(globex.fetch("hostile", "/memory-polite?mib=4").await?.1, "took 4 MiB\n");
    let refused = keeps.await??;
    assert_eq!(refused.headers().get("retry-after").and_then(|wait| wait.to_str().ok()), Some("1"));
    let (status, told) = problem(refused).await?;
    assert_eq!((status, string(&told, "code")?.as_str()), (429, "memory-share"), "{told}");
    let log = answer(acme.admin.get(&acme.path("/audit?limit=1000")).send().await?).await?.to_string();
    assert!(log.contains("memory-share"), "{log}");
    let figures = operator.metrics().await?;
    assert!(figures.contains("ringfence_memory_share_ended_total 1"), "{figures}");
    // No quota was in the way.
    assert_eq!(number(&quota(&acme.admin, "acme").await?, "throttled", "memory_count")?, 0);
    assert_eq!(number(&quota(&globex.admin, "globex").await?, "throttled", "memory_count")?, 0);
    Ok(())
}

#[tokio::test]
async fn a_cap_on_processor_time_is_below_the_cores_that_guests_have() -> Result<()> {
    let place = Place::new()?;
    let host = Host::start_with(&place, &[], &[("RINGFENCE_ENGINE_WORKERS", "1")])?;
    let operator = host.operator().await?;
    host.tenant(&operator, "acme").await?;
    let too_much = json!({ "overrides": { "cpu_permille": 1_001 } });
    let (status, refused) = problem(operator.put("/tenants/acme/quota").json(&too_much).send().await?).await?;
    assert_eq!((status, string(&refused, "code")?.as_str()), (422, "bad-quota"));
    assert!(string(&refused, "detail")?.contains("1 to 1000, all the cores of this host"), "{refused}");
    set(&operator, "acme", json!({ "cpu_permille": 1_000 })).await?;
    Ok(())
}

#[tokio::test]
async fn memory_for_less_than_one_of_the_largest_guests_is_refused_at_the_start() -> Result<()> {
    let place = Place::new()?;
    let sizes = [("RINGFENCE_ENGINE_MEMORY_MIB", "18"), ("RINGFENCE_ENGINE_MEMORY_MIB_MAX", "16")];
    assert!(Host::start_with(&place, &[], &sizes).is_err());
    Ok(())
}

#[tokio::test]
async fn more_workers_than_there_can_be_are_refused_at_the_start() -> Result<()> {
    let place = Place::new()?;
    assert!(Host::start_with(&place, &[], &[("RINGFENCE_ENGINE_WORKERS", "97")]).is_err());
    Ok(())
}

#[tokio::test]
async fn concurrency_is_capped_and_more_is_let_in_at_once_when_it_is_raised() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    ship_hostile(&acme).await?;
    set(&operator, "acme", json!({ "concurrency_count": 1 })).await?;
    let call = |_| tokio::spawn(acme.admin.call(Method::GET, "/acme/hostile/sleep?ms=3000").send());
    let calls: Vec<_> = (0..3).map(call).collect();
    let at = async |running: u64, waiting: u64| {
        let now = quota(&acme.admin, "acme").await?;
        Ok(number(&now, "use", "running_count")? == running && number(&now, "use", "waiting_count")? == waiting)
    };
    eventually("one runs and two wait", async || at(1, 2).await).await?;
    set(&operator, "acme", json!({ "concurrency_count": 3 })).await?;
    eventually("all three run", async || at(3, 0).await).await?;
    for call in calls {
        assert_eq!(call.await??.status(), StatusCode::OK);
    }
    Ok(())
}

#[tokio::test]
async fn calls_that_find_as_many_as_may_be_are_counted_told_and_in_the_metrics() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    ship_hostile(&acme).await?;
    set(&operator, "acme", json!({ "concurrency_count": 1 })).await?;
    // One holds the slot, and more than may wait want to: 64.
    let calls = (0..100).map(|_| acme.admin.call(Method::GET, "/acme/hostile/sleep?ms=300").send());
    let mut busy_count = 0;
    for response in futures::future::try_join_all(calls).await? {
        if response.status() == StatusCode::TOO_MANY_REQUESTS {
            assert_eq!(string(&problem(response).await?.1, "code")?, "tenant-busy");
            busy_count += 1;
        }
    }
    assert!(busy_count > 0, "nobody was refused");
    assert_eq!(number(&quota(&acme.admin, "acme").await?, "throttled", "concurrency_count")?, busy_count);
    refusals_are_told(&acme, &["concurrency"]).await?;
    let text = acme.admin.get(&acme.path("/metrics")).send().await?.text().await?;
    let allowed = number(&quota(&acme.admin, "acme").await?, "effective", "storage_bytes")?;
    for series in [
        format!("ringfence_tenant_quota_refused_total{{tenant=\"acme\",quota=\"concurrency\"}} {busy_count}.0\n"),
        "ringfence_tenant_quota_refused_total{tenant=\"acme\",quota=\"requests\"} 0.0\n".to_owned(),
        format!("ringfence_tenant_storage_allowed_bytes{{tenant=\"acme\"}} {allowed}\n"),
    ] {
        assert!(text.contains(&series), "{series}: {text}");
    }
    let stored = text.lines().find_map(|line| line.strip_prefix("ringfence_tenant_storage_bytes{tenant=\"acme\"} "));
    assert!(stored.context("what is stored")?.parse::<u64>()? > 0, "{text}");
    Ok(())
}

/// Waits until refusals of these quotas, by name in order, and of no others are on the tenant's log.
async fn refusals_are_told(acme: &Tenant, quotas: &[&str]) -> Result<()> {
    eventually("the refusals are on the log", async || {
        let page = answer(acme.admin.get(&acme.path("/audit?limit=1000")).send().await?).await?;
        let items = page["items"].as_array().context("items")?.iter().map(|item| &item["body"]);
        let told = items.filter(|body| body["unmapped"]["code"] == "TEN-006 quota-refused");
        let mut told: Vec<String> =
            told.map(|body| string(&body["unmapped"]["details"], "quota")).collect::<Result<_>>()?;
        told.sort();
        Ok(told == quotas)
    })
    .await
}

#[tokio::test]
async fn a_cap_on_processor_time_holds_a_tenant_back_and_says_for_how_long() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    ship_hostile(&acme).await?;
    set(&operator, "acme", json!({ "cpu_permille": 100, "cpu_burst_us": 5_000 })).await?;
    // 300 ms of processor time take 3 s under the cap, and the call has 4.
    acme.fetch("hostile", "/spin").await?;
    let now = quota(&acme.admin, "acme").await?;
    assert!(number(&now, "throttled", "cpu_us")? > 1_000_000, "{now}");
    Ok(())
}

#[tokio::test]
async fn a_days_log_and_outgoing_traffic_are_counted_capped_and_survive_a_restart() -> Result<()> {
    let upstream = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = upstream.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = upstream.accept().await {
            tokio::spawn(async move {
                let (mut head, mut buffer) = (Vec::new(), [0_u8; 4096]);
                // The whole request, which has no body, before the answer.
                while !head.ends_with(b"\r\n\r\n") {
                    match stream.read(&mut buffer).await {
                        Ok(count) if count > 0 => head.extend_from_slice(buffer.get(..count).unwrap_or_default()),
                        _ => return,
                    }
                }
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
                // To the caller's end: closing with something unread would reset the connection under the answer.
                while stream.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
            });
        }
    });
    let place = Place::new()?;
    let config = place.config(&format!("[egress]\nallow_private = [\"{address}\"]\n"))?.display().to_string();
    let host = Host::start_with(&place, &["--config", &config], &[])?;
    let operator = host.operator().await?;
    let acme = host.tenant(&operator, "acme").await?;
    ship_hostile(&acme).await?;
    acme.grant("hostile", "http", &[&format!("http://{address}")]).await?;
    set(&operator, "acme", json!({ "egress_requests_per_day": 1, "log_bytes_per_day": 2_500 })).await?;
    let egress = format!("/egress?url=http://{address}/");
    assert_eq!(acme.fetch("hostile", &egress).await?.1, "status 200\n");
    assert_eq!(acme.fetch("hostile", &egress).await?.0, StatusCode::BAD_GATEWAY);
    eventually("the plugin's owner is told why", async || {
        let log = answer(acme.admin.get(&acme.path("/plugins/hostile/logs")).send().await?).await?;
        Ok(log.to_string().contains("quota of 1 outgoing requests a day is used up"))
    })
    .await?;
    acme.fetch("hostile", "/log-flood?n=5").await?;
    let before = quota(&acme.admin, "acme").await?;
    assert_eq!(number(&before, "use", "egress_requests_today")?, 1);
    assert!((1_000..=2_500).contains(&number(&before, "use", "log_bytes_today")?), "{before}");
    assert!(number(&before, "throttled", "log_count")? > 0 && number(&before, "throttled", "egress_count")? > 0);
    host.stop()?;
    let host = Host::start_with(&place, &["--config", &config], &[])?;
    let operator = host.sign_in(&operator.key).await?;
    let acme = Tenant { name: "acme".to_owned(), admin: host.sign_in(&acme.admin.key).await? };
    let after = quota(&acme.admin, "acme").await?;
    // At midnight a new day would begin in between.
    if number(&after, "use", "egress_requests_today")? == 1 {
        assert_eq!(after["use"]["log_bytes_today"], before["use"]["log_bytes_today"]);
        assert_eq!(acme.fetch("hostile", &egress).await?.0, StatusCode::BAD_GATEWAY);
    }
    set(&operator, "acme", json!({})).await?;
    assert_eq!(acme.fetch("hostile", &egress).await?.1, "status 200\n");
    Ok(())
}

#[tokio::test]
async fn suspending_ends_what_runs_and_is_a_423_to_members_and_nothing_new_to_others() -> Result<()> {
    let (place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    let globex = host.tenant(&operator, "globex").await?;
    ship_hostile(&acme).await?;
    let call = |_| tokio::spawn(acme.admin.call(Method::GET, "/acme/hostile/sleep?ms=3500").send());
    let calls: Vec<_> = (0..3).map(call).collect();
    eventually("all three run", async || Ok(number(&quota(&operator, "acme").await?, "use", "running_count")? == 3))
        .await?;
    answer(operator.post("/tenants/acme/suspend").send().await?).await?;
    for call in calls {
        assert_eq!(call.await??.status(), StatusCode::SERVICE_UNAVAILABLE);
    }
    let refused = problem(acme.admin.call(Method::GET, "/acme/hostile/ok").send().await?).await?;
    assert_eq!((refused.0, refused.1["code"].as_str()), (423, Some("tenant-suspended")));
    assert_eq!(globex.admin.fetch("/acme/hostile/ok").await?.0, StatusCode::NOT_FOUND);
    assert_eq!(host.anonymous().fetch("/acme/hostile/ok").await?.0, StatusCode::UNAUTHORIZED);
    drop(host);
    let host = Host::start(&place)?;
    let (operator, admin) = (host.sign_in(&operator.key).await?, host.sign_in(&acme.admin.key).await?);
    assert_eq!(admin.fetch("/acme/hostile/ok").await?.0, StatusCode::LOCKED);
    answer(operator.post("/tenants/acme/resume").send().await?).await?;
    assert_eq!(admin.fetch("/acme/hostile/ok").await?.0, StatusCode::OK);
    Ok(())
}

#[tokio::test]
async fn what_a_quota_refuses_is_on_the_tenants_log_once_a_minute_with_how_often() -> Result<()> {
    let (_place, host, operator) = started().await?;
    let acme = host.tenant(&operator, "acme").await?;
    acme.ship("hello", "hello", "", &[]).await?;
    set(&operator, "acme", json!({ "requests_per_second": 1 })).await?;
    let mut refused_count = 0;
    for _ in 0..20 {
        refused_count += u64::from(acme.fetch("hello", "/").await?.0 == StatusCode::TOO_MANY_REQUESTS);
    }
    assert!(refused_count > 0, "nothing was refused");
    let mut told = Vec::new();
    eventually("the refusals are on the log", async || {
        let page = answer(acme.admin.get(&acme.path("/audit?limit=1000")).send().await?).await?;
        let items = page["items"].as_array().context("items")?.iter().map(|item| &item["body"]);
        told = items.filter(|body| body["unmapped"]["code"] == "TEN-006 quota-refused").cloned().collect();
        Ok(!told.is_empty())
    })
    .await?;
    assert_eq!(told.len(), 1, "{told:#?}");
    assert_eq!(told[0]["resources"][0]["uid"], "tenant/acme/quota/requests");
    let counted = told[0]["unmapped"]["details"]["refused_count"].as_u64().context("a count")?;
    assert!((1..=refused_count).contains(&counted), "{counted} of {refused_count}");
    Ok(())
}
