//! What many sleeping runs cost: memory of the process in which they fell asleep, all of it and what the last quarter of them
//! added, when the store's cache was full already; memory of a host that was started above them; and how long such a host takes, from the start of the program, until a run whose time came while it was down has ended.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use ringfence_automation::workflow::journal::{due_prefix, ready_prefix};
use ringfence_store::DiskOptions;
use ringfence_tests::{Host, Session, answer, string};
use serde_json::{Value, json};

use super::steps::begin;
use super::world::{Tenant, World};
use super::{Plan, RUN_BUDGET, RUN_GRANTS, in_rooms};
use crate::machine::rss_kib;
use crate::report::Report;
use crate::stage::Stage;

/// How long the runs sleep: a year, milliseconds.
const YEAR_MS: u64 = 365 * 24 * 3_600 * 1_000;
/// How long the one sleeps that a restart is measured with, milliseconds.
const NAP_MS: u64 = 1_500;
/// Runs that fell asleep before memory is looked at, so that what the first ones need is there.
const WARM_COUNT: usize = 2_000;
/// Runs begun at once.
const BEGUN_COUNT: usize = 128;
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Longest wait for a run, or for all of them to sleep.
const WAIT_MAX: Duration = Duration::from_secs(1_200);
/// What is still at work when the last one sleeps has ended after this.
const SETTLE: Duration = Duration::from_secs(3);

/// What the process that puts runs to sleep is told.
#[derive(clap::Args)]
pub struct Sleepers {
    /// The data directory, which no host has open
    #[arg(long)]
    pub data: PathBuf,
    /// How many
    #[arg(long)]
    pub runs: usize,
    /// Bytes of pages that the store keeps in memory
    #[arg(long)]
    pub cache_bytes: u64,
}

/// What a restart came to.
struct Resumed {
    /// Until the host said that it was ready.
    ready_s: f64,
    /// Until the run that was due had ended.
    resumed_s: f64,
    /// Memory of the host then.
    rss_kib: u64,
}

/// Measures a host with hardly any runs, then with all of them.
pub async fn measure(report: &mut Report, plan: &Plan) -> Result<()> {
    eprintln!("sleeping runs");
    let mut stage = Stage::new().await?;
    let mut key = String::new();
    for number in 0..plan.tenants {
        let guest = stage.guest(&format!("t{number}"), "runs", RUN_BUDGET, RUN_GRANTS).await?;
        key.clone_from(&guest.tenant.admin.key);
    }
    let tenant = format!("t{}", plan.tenants - 1);
    let (mut empty, mut full) = (Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        stage = restarted(stage, &tenant, &key, &mut empty).await?;
    }
    let Stage { place, host, operator } = stage;
    host.stop()?;
    let slept = sleep_elsewhere(&place.data(), plan)?;
    let operator_key = operator.key;
    let host = Host::start(&place)?;
    let operator = host.sign_in(&operator_key).await?;
    let mut stage = Stage { place, host, operator };
    for _ in 0..plan.rounds {
        stage = restarted(stage, &tenant, &key, &mut full).await?;
    }
    write(report, plan, &slept, (empty.as_slice(), full.as_slice()))
}

fn write(report: &mut Report, plan: &Plan, slept: &Value, (empty, full): (&[Resumed], &[Resumed])) -> Result<()> {
    let number = |key: &str| slept.get(key).and_then(Value::as_f64).with_context(|| format!("no `{key}` in {slept}"));
    let each = |kib: f64| kib / plan.sleeping as f64;
    let grown_kib = number("rss_after_kib")? - number("rss_before_kib")?;
    report.put("sleeping_runs", plan.sleeping)?;
    report.put("sleeping_runs_rss_kib", each(grown_kib))?;
    report.put("sleeping_runs_cache_mib", plan.cache_mib)?;
    let last = last_quarter(plan.sleeping);
    report.put(
        "sleeping_runs_last_quarter_rss_kib",
        (number("rss_after_kib")? - number("rss_then_kib")?) / last as f64,
    )?;
    report.put("fall_asleep_per_s", plan.sleeping as f64 / number("seconds")?)?;
    let figures = |of: &[Resumed], figure: fn(&Resumed) -> f64| -> Vec<f64> { of.iter().map(figure).collect() };
    let rss: fn(&Resumed) -> f64 = |resumed| resumed.rss_kib as f64;
    let more: Vec<f64> = figures(full, rss).iter().zip(figures(empty, rss)).map(|(full, empty)| full - empty).collect();
    report.median("sleeping_runs_restarted_rss_kib", &more.into_iter().map(each).collect::<Vec<_>>())?;
    // Under its name only when so many slept.
    let resumed = figures(full, |resumed| resumed.resumed_s);
    report.median("resume_s", &resumed)?;
    if plan.sleeping == 100_000 {
        report.median("resume_100k_s", &resumed)?;
    } else {
        report.missing("resume_100k_s", "another number of runs slept")?;
    }
    report.median("start_s", &figures(full, |resumed| resumed.ready_s))?;
    report.median("resume_empty_s", &figures(empty, |resumed| resumed.resumed_s))?;
    report.median("start_empty_s", &figures(empty, |resumed| resumed.ready_s))
}

/// Begins a run that sleeps for a moment, kills the host, starts it once the moment is over, and waits for the run's end.
async fn restarted(stage: Stage, tenant: &str, key: &str, into: &mut Vec<Resumed>) -> Result<Stage> {
    let Stage { place, host, operator } = stage;
    let runs = format!("/tenants/{tenant}/runs");
    let session = host.sign_in(key).await?;
    let begun = Instant::now();
    let body = json!({ "plugin": "runs", "workflow": "napper", "input": NAP_MS });
    let run = string(&answer(session.post(&runs).json(&body).send().await?).await?, "id")?;
    until(&session, &format!("{runs}/{run}"), "waiting").await?;
    // SIGKILL, as the worst of ends.
    host.kill()?;
    tokio::time::sleep(Duration::from_millis(NAP_MS * 2).saturating_sub(begun.elapsed())).await;
    let started = Instant::now();
    let host = Host::start(&place)?;
    let ready_s = started.elapsed().as_secs_f64();
    let session = host.sign_in(key).await?;
    until(&session, &format!("{runs}/{run}"), "completed").await?;
    let resumed_s = started.elapsed().as_secs_f64();
    tokio::time::sleep(SETTLE).await;
    into.push(Resumed { ready_s, resumed_s, rss_kib: rss_kib(host.pid())? });
    let operator = host.sign_in(&operator.key).await?;
    Ok(Stage { place, host, operator })
}

async fn until(session: &Session, run: &str, status: &str) -> Result<()> {
    let end = Instant::now() + WAIT_MAX;
    loop {
        let shown = answer(session.get(run).send().await?).await?;
        if shown.get("status").and_then(Value::as_str) == Some(status) {
            return Ok(());
        }
        ensure!(Instant::now() < end, "a run is not {status}: {shown}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Puts runs to sleep in a process that does nothing else, so that its memory is theirs.
fn sleep_elsewhere(data: &std::path::Path, plan: &Plan) -> Result<Value> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("sleepers").arg("--data").arg(data).arg("--runs").arg(plan.sleeping.to_string());
    command.arg("--cache-bytes").arg((plan.cache_mib << 20).to_string());
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "the process that puts runs to sleep failed with {}", output.status);
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// That process.
pub async fn put_to_sleep(asked: Sleepers) -> Result<Value> {
    let work = move || {
        in_rooms(async move |io| {
            let options = DiskOptions { cache_bytes: asked.cache_bytes, ..DiskOptions::RECOMMENDED };
            let world = World::open_with(&asked.data, &io, options).await?;
            sleep(&world, WARM_COUNT).await?;
            let before_kib = settled_kib().await?;
            let (started, last) = (Instant::now(), last_quarter(asked.runs));
            sleep(&world, asked.runs - last).await?;
            let mut seconds = started.elapsed().as_secs_f64();
            let then_kib = settled_kib().await?;
            let started = Instant::now();
            sleep(&world, last).await?;
            seconds += started.elapsed().as_secs_f64();
            let after_kib = settled_kib().await?;
            let asleep = asleep(&world).await?;
            ensure!(asleep >= asked.runs + WARM_COUNT, "{asleep} runs sleep, of {}", asked.runs + WARM_COUNT);
            world.close().await?;
            Ok(json!({
                "rss_before_kib": before_kib, "rss_then_kib": then_kib, "rss_after_kib": after_kib, "seconds": seconds,
            }))
        })
    };
    tokio::task::spawn_blocking(work).await?
}

/// The runs that fall asleep when the store's cache is full of those before.
fn last_quarter(runs: usize) -> usize {
    (runs / 4).max(1)
}

/// Begins runs in all tenants and waits until each has fallen asleep.
async fn sleep(world: &World, runs: usize) -> Result<()> {
    let begun = stream::iter(0..runs).zip(stream::iter(world.tenants.iter().cycle())).map(Ok);
    begun
        .try_for_each_concurrent(BEGUN_COUNT, |(_, tenant): (usize, &Tenant)| async move {
            begin(&world.workflows, tenant, "napper", YEAR_MS.to_string()).await.map(drop)
        })
        .await?;
    let end = Instant::now() + WAIT_MAX;
    for tenant in &world.tenants {
        while !tenant.store.scan(&ready_prefix(), None, 1).await?.records.is_empty() {
            ensure!(Instant::now() < end, "not all runs fall asleep");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
    Ok(())
}

/// How many runs wait for a time.
async fn asleep(world: &World) -> Result<usize> {
    let mut count = 0;
    for tenant in &world.tenants {
        let mut after = None;
        loop {
            let page = tenant.store.scan(&due_prefix(), after.as_ref(), 1_000).await?;
            count += page.records.len();
            after = page.next;
            if after.is_none() {
                break;
            }
        }
    }
    Ok(count)
}

async fn settled_kib() -> Result<u64> {
    tokio::time::sleep(SETTLE).await;
    rss_kib(std::process::id())
}
