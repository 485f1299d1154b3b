//! An hour's churn in a minute, through the real binary: afterwards the process holds what it held before.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use reqwest::{Method, StatusCode};
use ringfence_tests::{Host, Place, Session, Tenant, answer};
use rustix::thread::{CpuSet, sched_setaffinity};
use serde_json::json;

/// Rounds before the baseline is taken, and after it.
const ROUNDS: [usize; 2] = [2, 6];
/// Calls of one round.
const CALLS_COUNT: usize = 400;
/// Bound on what is kept from growing: allocators keep pages, and loaded code and the store's cache fill up.
const RSS_GROWTH_KIB_MAX: u64 = 96 << 10;
/// Threads and descriptors that may be about: one connection of ours, one batch being written.
const SPARE_COUNT_MAX: u64 = 6;
/// Longest wait for idle threads and connections to be let go of.
const SETTLE: Duration = Duration::from_secs(60);

/// What the process holds.
#[derive(Debug, Clone, Copy)]
struct Held {
    threads: u64,
    descriptors: u64,
    rss_kib: u64,
}

fn held(host: &Host) -> Result<Held> {
    let count =
        |what: &str| -> Result<u64> { Ok(std::fs::read_dir(format!("/proc/{}/{what}", host.pid()))?.count() as u64) };
    let status = std::fs::read_to_string(format!("/proc/{}/status", host.pid()))?;
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let rss_kib = rss.trim().trim_end_matches(" kB").parse()?;
    Ok(Held { threads: count("task")?, descriptors: count("fd")?, rss_kib })
}

/// Waits until nothing runs or waits and `fits` holds of what is held; what was held at the end.
async fn settled(host: &Host, operator: &Session, fits: impl Fn(Held) -> bool) -> Result<Held> {
    let began = Instant::now();
    loop {
        let loads = answer(operator.get("/host/loads").send().await?).await?;
        let tenants = loads["tenants"].as_array().cloned().unwrap_or_default();
        let busy = tenants.iter().any(|load| load["running_count"] != 0 || load["waiting_count"] != 0);
        let held = held(host)?;
        if !busy && fits(held) {
            return Ok(held);
        }
        ensure!(began.elapsed() < SETTLE, "busy: {busy}, {held:?}: {loads}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn ship_hostile(tenant: &Tenant) -> Result<()> {
    let grants: [(&str, &[&str]); 3] = [("keyvalue", &["*"]), ("logging", &[]), ("http", &["https://example.com"])];
    tenant.ship("hostile", "hostile", "[budget]\ncpu_ms = 50\ntime_ms = 10000\n", &grants).await
}

/// A tenant comes, ships, is called and goes; beside it every kind of end there is.
async fn round(host: &Host, operator: &Session, stay: &Tenant, number: usize) -> Result<()> {
    let passing = host.tenant(operator, &format!("passing-{number}")).await?;
    passing.ship("visits", "visits", "", &[("keyvalue", &["default"])]).await?;
    for batch in 0..CALLS_COUNT / 20 {
        let calls = (0..20).map(|call| {
            let (tenant, path) = match call % 4 {
                0 => (&passing, format!("/{}/visits/{batch}", passing.name)),
                1 => (stay, "/stay/hostile/trap".to_owned()),
                2 => (stay, "/stay/hostile/kv".to_owned()),
                _ => (stay, "/stay/hostile/ok".to_owned()),
            };
            let request = tenant.admin.call(Method::GET, &path).send();
            async move { Ok::<_, anyhow::Error>((call, request.await?.status())) }
        });
        for answered in futures::future::join_all(calls).await {
            let (call, status) = answered?;
            let expected = if call % 4 == 1 { StatusCode::BAD_GATEWAY } else { StatusCode::OK };
            ensure!(status == expected || status == StatusCode::TOO_MANY_REQUESTS, "call {call}: {status}");
        }
        // Gone in the middle of an answer, and before its head.
        drop(stay.admin.call(Method::GET, "/stay/hostile/drip").send().await?);
        let sleeping = tokio::spawn(stay.admin.call(Method::GET, "/stay/hostile/sleep?ms=9000").send());
        tokio::task::yield_now().await;
        sleeping.abort();
    }
    // Out of its CPU time, and an upload that is refused.
    let spun = stay.admin.call(Method::GET, "/stay/hostile/spin").send().await?;
    ensure!(spun.status() == StatusCode::GATEWAY_TIMEOUT, "{}", spun.status());
    let manifest = "[plugin]\nname = \"x\"\nversion = \"0.1.0\"\n";
    let refused = passing.push_raw(manifest, "x", "0.1.0", b"no component".to_vec()).await?;
    ensure!(refused.status() == StatusCode::UNPROCESSABLE_ENTITY, "{}", refused.status());
    let gone = operator.delete(&format!("/tenants/{}", passing.name)).send().await?;
    ensure!(gone.status().is_success(), "{}", gone.status());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_thousands_of_calls_uploads_tenants_and_broken_clients_the_process_holds_what_it_held() -> Result<()> {
    let place = Place::new()?;
    let host = Host::start(&place)?;
    let mut operator = host.operator().await?;
    let mut stay = host.tenant(&operator, "stay").await?;
    ship_hostile(&stay).await?;
    let mut baseline = None;
    for number in 0..ROUNDS.iter().sum() {
        if number == ROUNDS[0] {
            baseline = Some(settled(&host, &operator, |_| true).await?);
        }
        // A token lives for five minutes, which a busy machine may need.
        operator = host.sign_in(&operator.key).await?;
        stay = Tenant { name: stay.name, admin: host.sign_in(&stay.admin.key).await? };
        round(&host, &operator, &stay, number).await?;
    }
    let baseline = baseline.context("a baseline")?;
    let operator = host.sign_in(&operator.key).await?;
    let fits = |held: Held| {
        held.threads <= baseline.threads + SPARE_COUNT_MAX
            && held.descriptors <= baseline.descriptors + SPARE_COUNT_MAX
            && held.rss_kib <= baseline.rss_kib + RSS_GROWTH_KIB_MAX
    };
    settled(&host, &operator, fits).await.with_context(|| format!("the baseline was {baseline:?}"))?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_one_core_a_neighbour_of_endless_loops_is_answered() -> Result<()> {
    let place = Place::new()?;
    let host = Host::start_with(&place, &[], &[("RINGFENCE_ENGINE_WORKERS", "4")])?;
    let operator = host.operator().await?;
    let (acme, evil) = (host.tenant(&operator, "acme").await?, host.tenant(&operator, "evil").await?);
    acme.ship("hello", "hello", "", &[]).await?;
    ship_hostile(&evil).await?;
    let mut one = CpuSet::new();
    one.set(0);
    for task in std::fs::read_dir(format!("/proc/{}/task", host.pid()))? {
        let thread = task?.file_name().to_string_lossy().parse()?;
        // A thread that ended meanwhile needs no core.
        let _ = sched_setaffinity(rustix::thread::Pid::from_raw(thread), &one);
    }
    let loops: Vec<_> =
        (0..8).map(|_| tokio::spawn(evil.admin.call(Method::GET, "/evil/hostile/spin").send())).collect();
    for _ in 0..30 {
        assert_eq!(acme.fetch("hello", "/").await?.0, StatusCode::OK);
    }
    for looping in loops {
        let status = looping.await??.status();
        assert!(matches!(status.as_u16(), 429 | 504), "{status}");
    }
    let body = json!({ "name": "after", "role": "caller" });
    answer(acme.admin.post(&acme.path("/tokens")).json(&body).send().await?).await?;
    Ok(())
}
