//! How late schedules run: many that are due in the same second, every second, in half of the tenants, while the other half
//! runs workflows as fast as it can.
//!
//! The figure is when a run ended less when it was due, so that it holds the decision's commit and the plugin's run. Must
//! never leave out a time that was not seen to run: it counts as a whole second late.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::future::try_join_all;
use jiff::Timestamp;
use ringfence_automation::schedule::{Missed, Overlap, SCHEDULES_COUNT_MAX, ScheduleSpec};
use ringfence_core::{Clock, ResourceName};
use serde_json::Value;

use super::world::World;
use super::{Plan, steps};
use crate::ambient::SystemClock;
use crate::report::Report;
use crate::stats::quantile;

/// A few looks a second, so that the next run of a schedule does not hide the last.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Before the first look that counts.
const WARM_UP: Duration = Duration::from_secs(3);
/// Between two times of a schedule, and how late one counts that was not seen.
const PERIOD_US: u64 = 1_000_000;

/// Times that one schedule was seen to run for, and how late, microseconds.
type Seen = HashMap<Timestamp, u64>;

/// Measures it.
pub async fn measure(report: &mut Report, plan: &Plan, world: &World) -> Result<()> {
    eprintln!("schedules");
    let (quiet, busy) = world.tenants.split_at(world.tenants.len() / 2);
    ensure!(plan.schedules <= SCHEDULES_COUNT_MAX * quiet.len(), "so many schedules are not possible");
    let names = (0..plan.schedules).map(|number| Ok(format!("every-second-{number}").parse::<ResourceName>()?));
    let names = names.collect::<Result<Vec<_>>>()?;
    let of = |number: usize| quiet.get(number % quiet.len()).context("a tenant");
    let spec = ScheduleSpec {
        plugin: "events".parse()?,
        cron: "* * * * * *".to_owned(),
        zone: "Europe/London".to_owned(),
        missed: Missed::Skip,
        overlap: Overlap::Skip,
        jitter_ms: 0,
        payload: Value::Null,
        paused: false,
    };
    for (number, name) in names.iter().enumerate() {
        let tenant = of(number)?;
        world.automation.set_schedule(&tenant.id, &tenant.store, name, spec.clone(), &tenant.by).await?;
    }
    let over = Arc::new(AtomicBool::new(false));
    let (workflows, loaded, until) = (world.workflows.clone(), busy.to_vec(), Arc::clone(&over));
    let load = tokio::spawn(async move {
        let mut runs = 0_usize;
        while !until.load(Ordering::Relaxed) {
            steps::run_all(&workflows, &loaded, 100).await?;
            runs += 1;
        }
        anyhow::Ok(runs)
    });
    tokio::time::sleep(WARM_UP).await;
    let watched = watch(plan, world).await?;
    over.store(true, Ordering::Relaxed);
    let rounds = load.await??;
    ensure!(rounds > 0, "there was no load");
    let deleting = names.iter().enumerate().map(|(number, name)| async move {
        let tenant = of(number)?;
        anyhow::Ok(world.automation.delete_schedule(&tenant.store, name).await?)
    });
    try_join_all(deleting).await?;
    write(report, plan, &watched)
}

/// What was seen of all schedules, by tenant and name.
struct Watched {
    seen: HashMap<(usize, String), Seen>,
    /// The seconds whose runs had to be seen, since the Unix epoch: the first and the last.
    seconds: RangeInclusive<i64>,
}

/// Looks at every schedule again and again, for as long as is asked.
async fn watch(plan: &Plan, world: &World) -> Result<Watched> {
    let mut seen: HashMap<(usize, String), Seen> = HashMap::new();
    let clock = SystemClock::new();
    let first = clock.now().as_second() + 1;
    let (mut pace, mut looked) = (tokio::time::interval(LOOK_EVERY), first);
    for _ in 0..plan.schedule_seconds * (PERIOD_US / u64::try_from(LOOK_EVERY.as_micros())?) {
        pace.tick().await;
        looked = clock.now().as_second();
        for (number, tenant) in world.tenants.iter().enumerate() {
            for schedule in world.automation.schedules(&tenant.store).await? {
                let Some(last) = schedule.last else { continue };
                ensure!(last.outcome == "done", "a schedule's run ended as {}: {:?}", last.outcome, last.detail);
                let late_us = last.ended_at.duration_since(last.due_at).as_micros().max(0);
                let name = (number, schedule.name.to_string());
                seen.entry(name).or_default().insert(last.due_at, u64::try_from(late_us)?);
            }
        }
    }
    // What was due in the second before the last look had a second to end.
    Ok(Watched { seen, seconds: first..=looked - 1 })
}

fn write(report: &mut Report, plan: &Plan, watched: &Watched) -> Result<()> {
    let Watched { seen, seconds } = watched;
    ensure!(seen.len() == plan.schedules, "{} of {} schedules ran", seen.len(), plan.schedules);
    let due_count = usize::try_from(seconds.end() - seconds.start() + 1)?;
    let (mut late_us, mut unseen) = (Vec::new(), 0);
    for times in seen.values() {
        let before = late_us.len();
        late_us.extend(times.iter().filter(|(due_at, _)| seconds.contains(&due_at.as_second())).map(|(_, us)| *us));
        // Also of a schedule that stopped, until the end.
        let missing = due_count.saturating_sub(late_us.len() - before);
        late_us.extend(std::iter::repeat_n(PERIOD_US, missing));
        unseen += missing;
    }
    let ms = |share: f64| quantile(&late_us, share).map(|us| us as f64 / 1e3);
    report.put("schedules_count", plan.schedules)?;
    report.put("schedule_times_count", late_us.len())?;
    report.put("schedule_times_unseen_count", unseen)?;
    report.put("schedule_drift_p50_ms", ms(0.5))?;
    report.put("schedule_drift_p99_ms", ms(0.99))?;
    report.put("schedule_drift_max_ms", ms(1.0))
}
