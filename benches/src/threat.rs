//! `threat`: drills of the shipped rules while a stream of ordinary events goes on: how long from the first event being
//! durable to the finding, from the finding to the response holding, how many were missed, and how often a rule cried
//! without cause.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use ringfence_audit::{Audit, Event, Log, codes};
use ringfence_core::{Clock, Entropy, PrincipalId, Standing};
use ringfence_keys::{RootKey, RootKeyUri};
use ringfence_store::{DiskOptions, Store, Tenants};
use ringfence_threat::drill::ROUNDS_COUNT_MAX;
use ringfence_threat::settings::SourceBlocks;
use ringfence_threat::{Scope, Settings, Threat, shipped};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::ambient::SystemEntropy;
use crate::report::Report;
use crate::stats::quantile;

/// How much to measure.
#[derive(clap::Args)]
pub struct Plan {
    /// Attacks to play, at least
    #[arg(long, default_value_t = 1_000)]
    pub drills: usize,
    /// Ordinary events a second meanwhile
    #[arg(long, default_value_t = 5_000)]
    pub events: u64,
}

struct Running(Instant, jiff::Timestamp);
impl Clock for Running {
    fn now(&self) -> jiff::Timestamp {
        self.1.checked_add(self.0.elapsed()).unwrap_or(self.1)
    }
    fn monotonic(&self) -> Duration {
        self.0.elapsed()
    }
}

/// An ordinary day's entries, in turn; each by one of many people.
const ORDINARY: [(&str, &str); 8] = [
    (codes::SIGNED_IN, "authenticate"),
    (codes::VERSION_PUSHED, "push-version"),
    (codes::VERSION_DEPLOYED, "deploy-version"),
    (codes::SECRET_WRITTEN, "write-secret"),
    (codes::CONFIG_WRITTEN, "write-config"),
    (codes::DATA_READ, "read-audit"),
    (codes::INVOCATIONS, "invoke"),
    (codes::CAPABILITY_GRANTED, "grant-capability"),
];
/// Tasks that write them.
const WRITERS_COUNT: u64 = 64;

/// Runs the benchmark and gives its figures.
pub async fn run(plan: &Plan) -> Result<Value> {
    // The log, the reader and the writers share threads as they do in the host.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let (drills, events) = (plan.drills, plan.events);
    let figures = runtime.spawn(measure(drills, events)).await?;
    runtime.shutdown_background();
    figures
}

async fn measure(drills: usize, events: u64) -> Result<Value> {
    let mut report = Report::start("threat")?;
    let place = tempfile::tempdir()?;
    let root = RootKey::open_or_create(&RootKeyUri::File(place.path().join("root.key")), &SystemEntropy)?;
    let store = Store::open(&place.path().join("data"), DiskOptions::RECOMMENDED)?;
    let start = jiff::Timestamp::from_second(1_790_000_000)?;
    let (clock, dice): (Arc<dyn Clock>, Arc<dyn Entropy>) =
        (Arc::new(Running(Instant::now(), start)), Arc::new(SystemEntropy));
    let tenants = Tenants::open(store.clone(), Arc::new(root), dice.clone(), clock.clone()).await?;
    let (quiet, busy) = ("quiet".parse()?, "busy".parse()?);
    for tenant in [&quiet, &busy] {
        tenants.create(tenant, tenant.as_str()).await?;
    }
    let audit = Audit::open(tenants.clone(), clock.clone(), dice.clone(), "bench".to_owned()).await?;
    let standing = Arc::new(Standing::default());
    let (threat, reader) = Threat::open(tenants.clone(), audit.clone(), clock, dice, standing).await?;
    let scope = Scope::Tenant(quiet);
    threat.put_settings(&scope, Settings { block_source: SourceBlocks::Allowed, ..Settings::unset() }).await?;
    let (stop, stopping) = watch::channel(false);
    let reader = tokio::spawn(reader.run(stopping));
    let log = Log::Tenant(tenants.open_tenant(&busy).context("a tenant")?);
    let (written, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let writers: Vec<_> = (0..WRITERS_COUNT)
        .map(|at| tokio::spawn(ordinary(audit.clone(), log.clone(), at, events, written.clone(), over.clone())))
        .collect();
    let began = Instant::now();
    let mut drilled = Vec::new();
    while drilled.len() < drills {
        let rounds = (drills - drilled.len()).div_ceil(shipped::TEXTS.len()).min(ROUNDS_COUNT_MAX);
        drilled.extend(threat.drill(&scope, rounds).await?.drilled);
    }
    let seconds = began.elapsed().as_secs_f64();
    over.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await??;
    }
    let found = threat.findings(&Scope::Tenant(busy)).await?;
    stop.send_replace(true);
    reader.await?;
    let detected: Vec<u64> = drilled.iter().filter_map(|one| one.detected_us).collect();
    let responded: Vec<u64> = drilled.iter().filter_map(|one| one.responded_us).collect();
    let ms = |all: &[u64], share: f64| quantile(all, share).map(|us| us as f64 / 1_000.0);
    report.put("drills", drilled.len())?;
    report.put("misses", drilled.len() - detected.len())?;
    report.put("false_alarms", found.iter().filter(|finding| finding.drill.is_none()).count())?;
    report.put("detect_p50_ms", ms(&detected, 0.5))?;
    report.put("detect_p95_ms", ms(&detected, 0.95))?;
    report.put("respond_p50_ms", ms(&responded, 0.5))?;
    report.put("respond_p95_ms", ms(&responded, 0.95))?;
    report.put("responses", responded.len())?;
    report.put("ordinary_events_per_s", (written.load(Ordering::Relaxed) as f64 / seconds).round())?;
    report.fact("ordinary_events_per_s_asked", events)?;
    store.close().await?;
    report.finish()
}

/// Writes its share of ordinary events, each durable before the next, never faster than asked.
async fn ordinary(
    audit: Audit,
    log: Log,
    writer: u64,
    events: u64,
    written: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
) -> Result<()> {
    let mut pace = tokio::time::interval(Duration::from_secs_f64(WRITERS_COUNT as f64 / events.max(1) as f64));
    let mut turn = writer as usize;
    while !over.load(Ordering::Relaxed) {
        pace.tick().await;
        turn += 1;
        let (code, action) = ORDINARY.get(turn % ORDINARY.len()).copied().context("an entry")?;
        let who: PrincipalId = format!("busy/p{}", (turn * 7 + writer as usize) % 500).parse()?;
        let mut event = Event::new(code, action, who, "tenant/busy/plugin/visits");
        event.source_ip = Some(std::net::Ipv4Addr::new(203, 0, 113, (turn % 200) as u8).into());
        event.details = json!({ "turn": turn });
        audit.record(&log, event).await?;
        written.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}
