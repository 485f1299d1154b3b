//! Messages a second from the sender to the plugin's answer, durable at both ends; and how long another tenant's next message
//! takes beside a queue that is full and being worked off.
//!
//! Messages are sent as plugins send them. Must never count a message that was not handed over: what is left in a queue, and
//! what died, is looked at.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use futures::future::try_join_all;
use futures::{StreamExt, TryStreamExt, stream};
use ringfence_automation::Automation;
use ringfence_automation::queue::message::messages_key;
use ringfence_automation::queue::{QueueSpec, QueueState, Rules};
use ringfence_capabilities::{Letter, Trail};
use ringfence_core::QueueName;
use ringfence_store::{Change, Event, Key, Watch};

use super::Plan;
use super::world::{Tenant, World};
use crate::report::Report;
use crate::stats::quantile;

/// The queue of each tenant.
const QUEUE: &str = "work";
/// Those who send to one queue at once.
const SENDERS_COUNT: usize = 64;
/// Messages handed over at once where throughput is measured.
const CONCURRENCY_COUNT: u32 = 32;
const DEPTH_COUNT_MAX: u64 = 200_000;
/// Messages of the victim, one after another, in each part of a round.
const VICTIM_COUNT: usize = 100;
/// Longest wait for one message, or for a queue to come to rest.
const WAIT_MAX: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Whether a queue hands over.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hands {
    Over,
    Nothing,
}

/// Measures both.
pub async fn measure(report: &mut Report, plan: &Plan, world: &World) -> Result<()> {
    eprintln!("queues");
    throughput(report, plan, world).await?;
    flood(report, plan, world).await
}

async fn throughput(report: &mut Report, plan: &Plan, world: &World) -> Result<()> {
    let automation = &world.automation;
    for tenant in &world.tenants {
        set(automation, tenant, CONCURRENCY_COUNT, Hands::Over).await?;
    }
    let mut rates = Vec::new();
    // The first round warms up.
    for round in 0..=plan.rounds {
        let messages = if round == 0 { plan.messages.min(500) } else { plan.messages };
        let started = Instant::now();
        try_join_all(world.tenants.iter().map(|tenant| send_all(automation, tenant, messages))).await?;
        for tenant in &world.tenants {
            until(automation, tenant, |state| state.depth_count == 0).await?;
        }
        if round > 0 {
            rates.push((messages * world.tenants.len()) as f64 / started.elapsed().as_secs_f64());
        }
    }
    for tenant in &world.tenants {
        let (dead, _) = automation.dead_letters(&tenant.store, &queue()?, None, None, 1).await?;
        ensure!(dead.is_empty(), "a message died: {:?}", dead.first());
    }
    report.put("queue_count", world.tenants.len())?;
    report.median("queue_msgs_per_s", &rates)
}

/// The median of another tenant's messages, one after another: alone, beside the flood, alone again.
async fn flood(report: &mut Report, plan: &Plan, world: &World) -> Result<()> {
    let [hostile, victim, ..] = world.tenants.as_slice() else { bail!("a flood takes two tenants") };
    let automation = &world.automation;
    let usual = Rules::USUAL.concurrency_count;
    set(automation, victim, usual, Hands::Over).await?;
    set(automation, hostile, usual, Hands::Nothing).await?;
    send_all(automation, hostile, plan.flood).await?;
    let now = victim.store.put(&Key::new(["bench"]), Vec::new()).await?.revision;
    let mut watch = victim.store.watch(&messages_key(QUEUE), now)?;
    let (mut ratios, mut controls, mut alone, mut beside) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut worked_off = Vec::new();
    for _ in 0..plan.rounds {
        let before = victims(automation, victim, &mut watch).await?;
        let full = set(automation, hostile, usual, Hands::Over).await?;
        let started = Instant::now();
        let meanwhile = victims(automation, victim, &mut watch).await?;
        let seconds = started.elapsed().as_secs_f64();
        let left = set(automation, hostile, usual, Hands::Nothing).await?;
        ensure!(left.depth_count > 0, "the flood was over too soon: begin with more messages");
        until(automation, hostile, |state| state.running_count == 0).await?;
        let after = victims(automation, victim, &mut watch).await?;
        worked_off.push((full.depth_count - left.depth_count) as f64 / seconds);
        ratios.push(meanwhile / before.midpoint(after));
        controls.push(after / before);
        alone.push(before);
        beside.push(meanwhile);
    }
    report.put("queue_flood_messages", plan.flood)?;
    report.median_with_interval("queue_flood_delay_ratio", &ratios)?;
    report.median("queue_flood_control_ratio", &controls)?;
    report.median("queue_alone_ms", &alone)?;
    report.median("queue_beside_flood_ms", &beside)?;
    report.median("queue_flood_msgs_per_s", &worked_off)
}

/// The median time of the victim's messages, milliseconds: from sending to the plugin's answer being durable.
async fn victims(automation: &Automation, tenant: &Tenant, watch: &mut Watch) -> Result<f64> {
    let mut times_us = Vec::with_capacity(VICTIM_COUNT);
    for _ in 0..VICTIM_COUNT {
        let began = Instant::now();
        automation.send(&tenant.store, "bench", letter()?).await?;
        loop {
            let event = tokio::time::timeout(WAIT_MAX, watch.next()).await.context("a message was not handed over")?;
            match event? {
                Event::Changed { change: Change::Deleted, .. } => break,
                Event::Changed { .. } => {}
                Event::Lagged => bail!("the watch did not keep up"),
            }
        }
        times_us.push(u64::try_from(began.elapsed().as_micros())?);
    }
    Ok(quantile(&times_us, 0.5).context("no message")? as f64 / 1e3)
}

async fn set(automation: &Automation, tenant: &Tenant, concurrency_count: u32, hands: Hands) -> Result<QueueState> {
    let rules = Rules { concurrency_count, depth_count_max: DEPTH_COUNT_MAX, ..Rules::USUAL };
    let spec = QueueSpec { plugin: Some("events".parse()?), rules, paused: hands == Hands::Nothing };
    Ok(automation.set_queue(&tenant.id, &tenant.store, QUEUE, spec, &tenant.by).await?)
}

async fn send_all(automation: &Automation, tenant: &Tenant, messages: usize) -> Result<()> {
    let sending = stream::iter(0..messages).map(Ok).try_for_each_concurrent(SENDERS_COUNT, |_: usize| async move {
        automation.send(&tenant.store, "bench", letter()?).await?;
        anyhow::Ok(())
    });
    sending.await
}

/// Waits until a queue stands so.
async fn until(automation: &Automation, tenant: &Tenant, holds: impl Fn(&QueueState) -> bool) -> Result<()> {
    let end = Instant::now() + WAIT_MAX;
    while !holds(&automation.queue(&tenant.store, &queue()?).await?) {
        ensure!(Instant::now() < end, "a queue does not come to rest");
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

fn queue() -> Result<QueueName> {
    Ok(QUEUE.parse()?)
}

fn letter() -> Result<Letter> {
    Ok(Letter {
        queue: QUEUE.parse()?,
        payload: br#"{"do":"nothing"}"#.to_vec(),
        idempotency_key: None,
        delay_ms: 0,
        priority: 4,
        group: None,
        trail: Trail::default(),
    })
}
