//! An hour's churn in a minute, through the real binary: afterwards the process holds what it held before, and the memory that
//! is left behind by a third of it is bounded by the call and by the tenant.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use reqwest::{Method, StatusCode};
use ringfence_tests::{Host, Place, Session, Tenant, answer};
use rustix::thread::{CpuSet, sched_setaffinity};
use serde_json::json;

/// Rounds before anything is compared: caches fill, pools open, threads start.
const WARM_UP_COUNT: usize = 2;
/// Rounds of each of the three equal thirds that follow.
const ROUNDS_COUNT: usize = 2;
/// Calls of one round, and of those at the same time.
const CALLS_COUNT: usize = 800;
const AT_ONCE_COUNT: usize = 40;
/// Most memory that a call may leave behind, and that a tenant may that came and was deleted. Above what the process's own
/// allocator moves about, far below what a forgotten buffer, body or instance would be.
const PER_CALL_BYTES_MAX: u64 = 2 << 10;
const PER_TENANT_BYTES_MAX: u64 = 100 << 10;
/// What the store's cache holds at most (`DiskOptions::RECOMMENDED`): so much of what was written can be in memory, in all.
const STORE_CACHE_BYTES: u64 = 64 << 20;
/// Looks at the memory, of which the lowest counts: what is being freed is not held.
const LOOKS_COUNT: usize = 10;
/// Threads and descriptors that may be about: one connection of ours, one batch being written.
const SPARE_COUNT_MAX: u64 = 6;
/// Longest wait for idle threads and connections to be let go of.
const SETTLE: Duration = Duration::from_secs(60);

/// What the process holds.
#[derive(Debug, Clone, Copy)]
struct Held {
    threads: u64,
    descriptors: u64,
    /// Memory of no file.
    bytes: u64,
}

fn held(host: &Host) -> Result<Held> {
    let count =
        |what: &str| -> Result<u64> { Ok(std::fs::read_dir(format!("/proc/{}/{what}", host.pid()))?.count() as u64) };
    let status = std::fs::read_to_string(format!("/proc/{}/status", host.pid()))?;
    let rss = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("no RssAnon")?;
    let kib: u64 = rss.trim().trim_end_matches(" kB").parse()?;
    Ok(Held { threads: count("task")?, descriptors: count("fd")?, bytes: kib << 10 })
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

/// What is in memory, and what the store has on the disk: its cache may keep what was written.
async fn memory(host: &Host, operator: &Session) -> Result<(u64, u64)> {
    let mut bytes = settled(host, operator, |_| true).await?.bytes;
    for _ in 0..LOOKS_COUNT {
        tokio::time::sleep(Duration::from_millis(100)).await;
        bytes = bytes.min(held(host)?.bytes);
    }
    let metrics = operator.metrics().await?;
    let stored = metrics.lines().find_map(|line| line.strip_prefix("ringfence_store_bytes ")).context("no metric")?;
    Ok((bytes, stored.trim().parse()?))
}

async fn ship_hostile(tenant: &Tenant) -> Result<()> {
    let grants: [(&str, &[&str]); 3] = [("keyvalue", &["*"]), ("logging", &[]), ("http", &["https://example.com"])];
    tenant.ship("hostile", "hostile", "[budget]\ncpu_ms = 50\ntime_ms = 10000\n", &grants).await
}

/// A tenant comes, ships, is called and goes; beside it every kind of end there is.
async fn round(host: &Host, operator: &Session, stay: &Tenant, number: usize) -> Result<()> {
    let passing = host.tenant(operator, &format!("passing-{number}")).await?;
    passing.ship("visits", "visits", "", &[("keyvalue", &["default"])]).await?;
    for batch in 0..CALLS_COUNT / AT_ONCE_COUNT {
        let calls = (0..AT_ONCE_COUNT).map(|call| {
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
    // What was freed goes back to the kernel at once, or it would look as if it were held.
    let host = Host::start_with(&place, &[], &[("MIMALLOC_PURGE_DELAY", "0")])?;
    let mut operator = host.operator().await?;
    let mut stay = host.tenant(&operator, "stay").await?;
    ship_hostile(&stay).await?;
    let (mut baseline, mut memories) = (None, Vec::new());
    for number in 0..WARM_UP_COUNT + 3 * ROUNDS_COUNT {
        // A token lives for five minutes, which a busy machine may need.
        operator = host.sign_in(&operator.key).await?;
        stay = Tenant { name: stay.name, admin: host.sign_in(&stay.admin.key).await? };
        if number == WARM_UP_COUNT {
            baseline = Some(settled(&host, &operator, |_| true).await?);
        }
        if number >= WARM_UP_COUNT && (number - WARM_UP_COUNT).is_multiple_of(ROUNDS_COUNT) {
            memories.push(memory(&host, &operator).await?);
        }
        round(&host, &operator, &stay, number).await?;
    }
    let operator = host.sign_in(&operator.key).await?;
    memories.push(memory(&host, &operator).await?);
    let baseline = baseline.context("a baseline")?;
    let fits = |held: Held| {
        held.threads <= baseline.threads + SPARE_COUNT_MAX && held.descriptors <= baseline.descriptors + SPARE_COUNT_MAX
    };
    settled(&host, &operator, fits).await.with_context(|| format!("the baseline was {baseline:?}"))?;
    // By third: what memory grew by beyond what the store's cache can have taken up. What leaks grows by as much in every third;
    // what fills up stops, and what an allocator does by chance it does not do twice. So the smaller growth of the later two counts.
    let grown = memories.windows(2).map(|pair| {
        let ((before, stored_before), (after, stored_after)) = (pair[0], pair[1]);
        let cached = |stored: u64| stored.min(STORE_CACHE_BYTES);
        after.saturating_sub(before).saturating_sub(cached(stored_after).saturating_sub(cached(stored_before)))
    });
    let grown: Vec<u64> = grown.collect();
    let left = grown.iter().skip(1).min().copied().context("later thirds")?;
    let left_max = ROUNDS_COUNT as u64 * (CALLS_COUNT as u64 * PER_CALL_BYTES_MAX + PER_TENANT_BYTES_MAX);
    ensure!(left <= left_max, "{left} bytes of {left_max} are left of a third; thirds {grown:?}, memory {memories:?}");
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
