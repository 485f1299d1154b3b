//! `threat`: drills of the shipped rules while a stream of other events goes on: how long from the first event being durable
//! to the finding, from the finding to the first refused attempt, and how many were missed. Then ordinary days of one tenant
//! (`host/threat/src/shipped/ordinary.rs`), an hour in a moment: how often a rule cries without cause.
//!
//! Must never take the stream for ordinary days: no rule fires on what it is made of, and days that fast would be none.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ringfence_audit::{Audit, Event, Log, codes};
use ringfence_core::{Clock, Entropy, PrincipalId, Standing, TenantId};
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
    /// Other events a second meanwhile
    #[arg(long, default_value_t = 5_000)]
    pub events: u64,
    /// Ordinary days afterwards
    #[arg(long, default_value_t = 30)]
    pub days: u64,
    /// Seed of these
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
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

/// Time of the ordinary days, milliseconds since 1970.
struct Moved(AtomicI64);
impl Clock for Moved {
    fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::from_millisecond(self.0.load(Ordering::Relaxed)).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
    }
    fn monotonic(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.load(Ordering::Relaxed)).unwrap_or(0))
    }
}

// The tests of the rules have the same days.
#[path = "../../host/threat/src/shipped/ordinary.rs"]
mod ordinary;

/// When drills and days begin, seconds since 1970.
const START_S: i64 = 1_790_000_000;
/// Time of an ordinary day after which the reader is waited for.
const STEP_S: u64 = 600;
/// Longest wait for it.
const READ_WITHIN: Duration = Duration::from_secs(60);
/// What the stream is made of, in turn; each by one of many people. No shipped rule fires on it.
const STREAM: [(&str, &str); 8] = [
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
    let (drills, events, days, seed) = (plan.drills, plan.events, plan.days, plan.seed);
    let measured = runtime.spawn(async move {
        let mut report = Report::start("threat")?;
        play(&mut report, drills, events).await?;
        live(&mut report, days, seed).await?;
        report.finish()
    });
    let figures = measured.await?;
    runtime.shutdown_background();
    figures
}

/// Drills beside the stream.
async fn play(report: &mut Report, drills: usize, events: u64) -> Result<()> {
    let place = tempfile::tempdir()?;
    let root = RootKey::open_or_create(&RootKeyUri::File(place.path().join("root.key")), &SystemEntropy)?;
    let store = Store::open(&place.path().join("data"), DiskOptions::RECOMMENDED)?;
    let start = jiff::Timestamp::from_second(START_S)?;
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
        .map(|at| tokio::spawn(stream(audit.clone(), log.clone(), at, events, written.clone(), over.clone())))
        .collect();
    let began = Instant::now();
    let mut drilled = Vec::new();
    while drilled.len() < drills {
        let rounds = (drills - drilled.len()).div_ceil(shipped::rules()?.len()).min(ROUNDS_COUNT_MAX);
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
    report.put("findings_of_the_stream", found.iter().filter(|finding| finding.drill.is_none()).count())?;
    report.put("detect_p50_ms", ms(&detected, 0.5))?;
    report.put("detect_p95_ms", ms(&detected, 0.95))?;
    report.put("respond_p50_ms", ms(&responded, 0.5))?;
    report.put("respond_p95_ms", ms(&responded, 0.95))?;
    report.put("responses", responded.len())?;
    report.put("events_per_s", (written.load(Ordering::Relaxed) as f64 / seconds).round())?;
    report.fact("events_per_s_asked", events)?;
    Ok(store.close().await?)
}

/// Ordinary days of one tenant, through the log and the reader, with what nobody did wrong being found wrong.
async fn live(report: &mut Report, days: u64, seed: u64) -> Result<()> {
    let place = tempfile::tempdir()?;
    let root = RootKey::open_or_create(&RootKeyUri::File(place.path().join("root.key")), &SystemEntropy)?;
    let store = Store::memory();
    let moved = Arc::new(Moved(AtomicI64::new(START_S * 1_000)));
    let (clock, dice): (Arc<dyn Clock>, Arc<dyn Entropy>) = (moved.clone(), Arc::new(SystemEntropy));
    let tenants = Tenants::open(store.clone(), Arc::new(root), dice.clone(), clock.clone()).await?;
    let tenant: TenantId = "busy".parse()?;
    tenants.create(&tenant, "busy").await?;
    let audit = Audit::open(tenants.clone(), clock.clone(), dice.clone(), "bench".to_owned()).await?;
    let standing = Arc::new(Standing::default());
    let (threat, reader) = Threat::open(tenants.clone(), audit.clone(), clock, dice, standing).await?;
    let (stop, stopping) = watch::channel(false);
    let reader = tokio::spawn(reader.run(stopping));
    let log = Log::Tenant(tenants.open_tenant(&tenant).context("a tenant")?);
    let (mut written, mut read_s) = (0, 0);
    for day in 0..days {
        for entry in ordinary::day(seed, day) {
            if entry.at_s >= read_s + STEP_S {
                read_up_to(&threat, written).await?;
                read_s = entry.at_s;
            }
            moved.0.store((START_S + i64::try_from(entry.at_s)?) * 1_000, Ordering::Relaxed);
            audit.record(&log, ordinary_event(entry)?).await?;
            written += 1;
        }
    }
    read_up_to(&threat, written).await?;
    let found = threat.findings(&Scope::Tenant(tenant)).await?;
    stop.send_replace(true);
    reader.await?;
    let mut by_rule = BTreeMap::<String, u64>::new();
    found.iter().for_each(|finding| *by_rule.entry(finding.rule.clone()).or_default() += 1);
    report.put("ordinary_days", days)?;
    report.put("ordinary_entries", written)?;
    report.fact("ordinary_seed", seed)?;
    report.put("false_alarms", found.len())?;
    report.put("false_alarms_a_day", found.len() as f64 / days.max(1) as f64)?;
    report.put("false_alarms_by_rule", by_rule)?;
    Ok(store.close().await?)
}

/// Waits until detection has looked at so many entries.
async fn read_up_to(threat: &Threat, entries_count: u64) -> Result<()> {
    let asked = Instant::now();
    while threat.health().evaluated_count < entries_count {
        ensure!(asked.elapsed() < READ_WITHIN, "detection does not get on: {:?}", threat.health());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

fn ordinary_event(entry: ordinary::Entry) -> Result<Event> {
    let own = ["anonymous", "ringfence"].contains(&entry.who.as_str());
    let who: PrincipalId = if own { entry.who } else { format!("busy/{}", entry.who) }.parse()?;
    let mut event = Event::new(entry.code, entry.action, who, format!("tenant/busy{}", entry.on));
    event.source_ip = entry.source.map(|source| std::net::Ipv4Addr::from(source).into());
    event.details = entry.details;
    Ok(event)
}

/// Writes its share of the stream, each durable before the next, never faster than asked.
async fn stream(
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
        let (code, action) = STREAM.get(turn % STREAM.len()).copied().context("an entry")?;
        let who: PrincipalId = format!("busy/p{}", (turn * 7 + writer as usize) % 500).parse()?;
        let mut event = Event::new(code, action, who, "tenant/busy/plugin/visits");
        event.source_ip = Some(std::net::Ipv4Addr::new(203, 0, 113, (turn % 200) as u8).into());
        event.details = json!({ "turn": turn });
        audit.record(&log, event).await?;
        written.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}
