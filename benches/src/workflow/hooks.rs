//! One call of an extension point against one HTTP hello of the same host, in turn: time and the host's processor time. The
//! same call of a point that nothing is bound to shows what of it is the endpoint's own; and the same in another tenant whose
//! plugin lets an instance serve many, what of it is making one. The hello always has a fresh instance.

use std::time::Duration;

use anyhow::{Result, ensure};
use ringfence_tests::{Tenant, answer};
use serde_json::{Value, json};

use super::Plan;
use crate::load::{Target, any_round_of, head};
use crate::machine::process_cpu_us;
use crate::report::Report;
use crate::stage::Stage;

/// What the example plugin `care-visit` is bound to, and what nothing is.
const POINTS: [&str; 2] = ["visit.validate", "visit.nobody"];

/// What the example needs; the call that is measured uses none of it.
const GRANTS: &[(&str, &[&str])] = &[
    ("pii", &["name:seal", "note:seal"]),
    ("queue", &["visit-notices"]),
    ("runs", &["care-visit/care-visit"]),
    ("config", &[]),
    ("http", &["https://office.example"]),
];

/// Of the plugin whose instances serve many.
const WARM: &str = "[instance]\ninvocations_max = 100000\n";

/// What is called.
#[derive(Clone, Copy)]
enum Side {
    Hello,
    /// One plugin is bound.
    Hook,
    /// None is.
    Nobody,
    /// One whose instances serve many.
    Warm,
}

const SIDES: [(&str, Side); 4] =
    [("hello", Side::Hello), ("hook", Side::Hook), ("hook_unbound", Side::Nobody), ("hook_warm", Side::Warm)];

/// The medians of a side, one a round.
#[derive(Default)]
struct Figures {
    p50_us: Vec<f64>,
    cpu_us: Vec<f64>,
    rate: Vec<f64>,
}

/// Measures all in turn.
pub async fn measure(report: &mut Report, plan: &Plan) -> Result<()> {
    eprintln!("hooks");
    let stage = Stage::new().await?;
    let guest = stage.guest("acme", "hello", "", &[]).await?;
    guest.tenant.ship("care-visit", "care-visit", "", GRANTS).await?;
    let warm = stage.guest("globex", "care-visit", WARM, GRANTS).await?;
    declare(&stage).await?;
    for guest in [&guest, &warm] {
        bind(&guest.tenant).await?;
    }
    let mut all: [Figures; 4] = Default::default();
    // The first round warms up.
    for round in 0..=plan.rounds {
        for ((_, side), figures) in SIDES.iter().zip(&mut all) {
            let caller = if matches!(side, Side::Warm) { &warm } else { &guest };
            let token = caller.target(&stage, "/").await?.token;
            let time = Duration::from_secs(plan.seconds);
            let measured = one(&stage, *side, token, plan.connections, time).await?;
            if round > 0 {
                figures.p50_us.push(measured[0]);
                figures.cpu_us.push(measured[1]);
                figures.rate.push(measured[2]);
            }
        }
    }
    write(report, &all)?;
    report.put("hook_connections", plan.connections)
}

async fn declare(stage: &Stage) -> Result<()> {
    let declaration = json!({
        "mode": "validate", "deadline_ms": 2_000, "on_failure": "closed", "result_bytes_max": 10_000, "binders": "several",
        "payload": { "type": "object", "required": ["note"], "properties": { "note": { "type": "string" } } },
    });
    for point in POINTS {
        answer(stage.operator.put(&format!("/hooks/{point}")).json(&declaration).send().await?).await?;
    }
    Ok(())
}

async fn bind(tenant: &Tenant) -> Result<()> {
    let bind = tenant.path(&format!("/hooks/{}/bindings/care-visit", POINTS[0]));
    answer(tenant.admin.put(&bind).json(&json!({})).send().await?).await?;
    let call = tenant.path(&format!("/hooks/{}", POINTS[0]));
    let passed = answer(tenant.admin.post(&call).json(&body()).send().await?).await?;
    let said = |pointer: &str| passed.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    ensure!(said("/outcome") == "passed" && said("/steps/0/plugin") == "care-visit", "{passed}");
    Ok(())
}

fn body() -> Value {
    let note = "washed, dressed, medicine given";
    json!({ "payload": { "id": "v-1", "person": "p-1", "name": "Ann", "note": note, "acknowledge_within_s": 900 } })
}

/// Median time, processor time of the host, and calls a second.
async fn one(stage: &Stage, side: Side, token: Option<String>, connections: usize, time: Duration) -> Result<[f64; 3]> {
    let (address, request) = match side {
        Side::Hello => {
            let target = Target { address: stage.plugins()?, path: "/acme/hello/".to_owned(), token };
            (target.address, target.request())
        }
        Side::Hook => post(stage, "acme", POINTS[0], token)?,
        Side::Nobody => post(stage, "acme", POINTS[1], token)?,
        Side::Warm => post(stage, "globex", POINTS[0], token)?,
    };
    let pid = stage.host.pid().to_string();
    let before_us = process_cpu_us(&pid)?;
    let round = any_round_of(address, request, connections, time).await?;
    let spent_us = (process_cpu_us(&pid)? - before_us) as f64;
    ensure!(round.statuses.keys().all(|status| *status == 200), "answered {:?}", round.statuses);
    Ok([round.quantile_us(0.5), spent_us / round.latencies_us.len() as f64, round.rate])
}

fn post(stage: &Stage, tenant: &str, point: &str, token: Option<String>) -> Result<(std::net::SocketAddr, Vec<u8>)> {
    let path = format!("/api/v1/tenants/{tenant}/hooks/{point}");
    let (target, body) = (Target { address: stage.control()?, path, token }, body().to_string());
    let fields = format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len());
    Ok((target.address, [head("POST", &target, &fields), body].concat().into_bytes()))
}

fn write(report: &mut Report, all: &[Figures; 4]) -> Result<()> {
    for ((key, _), figures) in SIDES.iter().zip(all) {
        report.median(&format!("{key}_p50_us"), &figures.p50_us)?;
        report.median(&format!("{key}_cpu_us"), &figures.cpu_us)?;
        report.median(&format!("{key}_per_s"), &figures.rate)?;
    }
    let [hello, hook, unbound, warm] = all;
    let ratio =
        |one: &[f64], other: &[f64]| -> Vec<f64> { one.iter().zip(other).map(|(one, other)| one / other).collect() };
    let less =
        |one: &[f64], other: &[f64]| -> Vec<f64> { one.iter().zip(other).map(|(one, other)| one - other).collect() };
    report.median_with_interval("hook_overhead_ratio", &ratio(&hook.p50_us, &hello.p50_us))?;
    report.median_with_interval("hook_cpu_ratio", &ratio(&hook.cpu_us, &hello.cpu_us))?;
    // What each bound plugin adds to the product's one request.
    let added = (less(&hook.p50_us, &unbound.p50_us), less(&hook.cpu_us, &unbound.cpu_us));
    report.median_with_interval("hook_added_ratio", &ratio(&added.0, &hello.p50_us))?;
    report.median_with_interval("hook_added_cpu_ratio", &ratio(&added.1, &hello.cpu_us))?;
    let added = (less(&warm.p50_us, &unbound.p50_us), less(&warm.cpu_us, &unbound.cpu_us));
    report.median_with_interval("hook_warm_added_ratio", &ratio(&added.0, &hello.p50_us))?;
    report.median_with_interval("hook_warm_added_cpu_ratio", &ratio(&added.1, &hello.cpu_us))
}
