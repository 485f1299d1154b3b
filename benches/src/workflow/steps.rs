//! Durable steps a second of many runs at once, and the commits a second of the store that they are written to, in turn.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::future::try_join_all;
use ringfence_automation::workflow::{Begin, Status, Workflows, limits};
use ringfence_core::{Entropy, RunId};
use ringfence_store::Key;
use serde_json::json;

use super::Plan;
use super::world::{Tenant, World};
use crate::ambient::SystemEntropy;
use crate::report::Report;

/// Commits of the store alone for each step, so that they too take about a second.
const COMMITS_A_STEP: u32 = 2;
/// Bytes of a value that is committed alone: those of the benchmark `store`.
const VALUE_BYTES: usize = 200;
/// Pause between two looks at a run.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Longest wait for a run.
const WAIT_MAX: Duration = Duration::from_secs(300);
/// Runs of one tenant at once: as many as are driven.
const RUNS_COUNT: usize = limits::DRIVEN_PER_TENANT_COUNT_MAX;

/// Measures both, in turn.
pub async fn measure(report: &mut Report, plan: &Plan, world: &World) -> Result<()> {
    eprintln!("steps");
    // So that code is loaded and every thread was awake before the first round.
    run_all(&world.workflows, &world.tenants, 10).await?;
    let (mut steps, mut commits, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..plan.rounds {
        let count = (world.tenants.len() * RUNS_COUNT) as f64 * f64::from(plan.steps);
        let started = Instant::now();
        run_all(&world.workflows, &world.tenants, plan.steps).await?;
        let ours = count / started.elapsed().as_secs_f64();
        let started = Instant::now();
        commit_all(&world.tenants, plan.steps * COMMITS_A_STEP, round).await?;
        let alone = count * f64::from(COMMITS_A_STEP) / started.elapsed().as_secs_f64();
        steps.push(ours);
        commits.push(alone);
        ratios.push(ours / alone);
    }
    report.put("steps_runs_at_once", world.tenants.len() * RUNS_COUNT)?;
    report.median("steps_per_s", &steps)?;
    report.median("store_commits_per_s", &commits)?;
    report.median_with_interval("steps_ratio_vs_store_commit", &ratios)
}

/// Runs sixteen runs of so many steps for each tenant, to their ends.
pub async fn run_all(workflows: &Workflows, tenants: &[Tenant], steps: u32) -> Result<()> {
    let input = json!({ "url": null, "steps": steps, "every": 0 }).to_string();
    let beginning = tenants.iter().flat_map(|tenant| (0..RUNS_COUNT).map(move |_| tenant)).map(|tenant| {
        let input = input.clone();
        async move { anyhow::Ok((tenant, begin(workflows, tenant, "runs", input).await?)) }
    });
    for (tenant, run) in try_join_all(beginning).await? {
        let end = Instant::now() + WAIT_MAX;
        loop {
            let head = workflows.head(&tenant.store, &run).await?;
            if head.status.is_ended() {
                ensure!(head.status == Status::Completed, "a run ended as {:?}: {:?}", head.status, head.ending);
                break;
            }
            ensure!(head.status != Status::Stuck, "a run is stuck: {:?}", head.stuck);
            ensure!(Instant::now() < end, "a run does not end");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
    Ok(())
}

/// Begins a run of the guest `runs`.
pub async fn begin(workflows: &Workflows, tenant: &Tenant, workflow: &str, input: String) -> Result<RunId> {
    let begin = Begin {
        plugin: "runs".parse()?,
        version: "0.1.0".parse()?,
        workflow: workflow.to_owned(),
        input,
        by: tenant.by.clone(),
        attributes: BTreeMap::new(),
        key: None,
        led_by: None,
    };
    let (head, is_new) = workflows.begin(&tenant.store, begin).await?;
    is_new.then_some(head.run).context("a run was begun before")
}

/// As many writers as there were runs, each so many durable writes, one after another.
async fn commit_all(tenants: &[Tenant], writes: u32, round: usize) -> Result<()> {
    let mut value = vec![0; VALUE_BYTES];
    SystemEntropy.fill(&mut value);
    let writers = tenants.iter().flat_map(|tenant| (0..RUNS_COUNT).map(move |writer| (tenant, writer)));
    let writing = writers.map(|(tenant, writer)| {
        let (store, value) = (tenant.store.clone(), value.clone());
        tokio::spawn(async move {
            let place = Key::new(["bench"]).number(round as u64).number(writer as u64);
            for write in 0..writes {
                store.put(&place.clone().number(u64::from(write)), value.clone()).await?;
            }
            anyhow::Ok(())
        })
    });
    for written in try_join_all(writing.collect::<Vec<_>>()).await? {
        written?;
    }
    Ok(())
}
