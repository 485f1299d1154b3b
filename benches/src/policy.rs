//! `policy`: what one decision costs under ten thousand policies of a tenant, first asked and asked again, and how long
//! the proof of the border takes under a hundred; and what one host call of a guest costs.
//!
//! Of decisions the thread's processor time is told beside the wall time: on a machine with other work every hundredth decision
//! or so is one in whose midst somebody else was given the processor.
//!
//! In one process and on one thread: the policy room does no I/O, so there is nothing to wait for but itself.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use jiff::Timestamp;
use ringfence_core::proof::act;
use ringfence_core::{HostAct, HostCall, On, Principal, PrincipalKind, Resource, Role, Strength, TenantId};
use ringfence_policy::prove::{Kinds, LocalSolver, Verdict};
use ringfence_policy::{Policy, Standing, TenantFacts};
use serde_json::Value;

use crate::ambient::{StoppedClock, SystemEntropy};
use crate::report::Report;

/// Every tenth question is one that is denied, and explained.
const DENIED_EVERY: usize = 10;

/// Questions that are asked again in turn: several, since one alone would never leave the processor's nearest cache, and fewer
/// than are remembered.
const REMEMBERED_COUNT: usize = 500;
/// How often in all.
const AGAIN_COUNT: usize = 100_000;

/// How much to measure.
#[derive(clap::Args)]
pub struct Plan {
    /// Policies of the tenant
    #[arg(long, default_value_t = 10_000)]
    pub policies: usize,
    /// Rounds of as many different questions as there are policies
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// Policies under which the border is proved
    #[arg(long, default_value_t = 100)]
    pub proved: usize,
    /// The solver; looked for on the path when absent
    #[arg(long, value_name = "FILE")]
    pub cvc5: Option<PathBuf>,
}

/// Runs the benchmark and gives its figures.
pub async fn run(plan: &Plan) -> Result<Value> {
    let mut report = Report::start("policy")?;
    report.fact("rounds", plan.rounds)?;
    let tenant: TenantId = "acme".parse()?;
    let policy = Policy::new(Arc::new(SystemEntropy), Arc::new(StoppedClock))?;
    policy.upsert_tenant(&tenant, TenantFacts { suspended: Standing::Active }, None)?;
    let begun = Instant::now();
    policy.set_tenant_policy(&tenant, &text(plan.policies))?;
    report.put("policies_count", plan.policies)?;
    report.put("load_s", begun.elapsed().as_secs_f64())?;

    let questions: Vec<(Principal, Resource)> =
        (0..plan.policies).map(|n| question(&tenant, n)).collect::<Result<_>>()?;
    let (mut p50, mut p99, mut denied, mut cached) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut cpu_p50, mut cpu_p99) = (Vec::new(), Vec::new());
    for round in 0..plan.rounds {
        // A new version of the tenant's policy: nothing that was answered before holds.
        policy.set_standing(&tenant, Standing::Active)?;
        let (mut all, mut no) = (Vec::with_capacity(questions.len()), Vec::new());
        let mut all_cpu = Vec::with_capacity(questions.len());
        for (number, (principal, resource)) in questions.iter().enumerate() {
            let cpu = cpu_us();
            let (us, allowed) = ask(&policy, principal, resource);
            all_cpu.push(cpu_us() - cpu);
            anyhow::ensure!(
                allowed != (number.is_multiple_of(DENIED_EVERY)),
                "question {number} of round {round} is answered wrong"
            );
            all.push(us);
            if !allowed {
                no.push(us);
            }
        }
        p50.push(percentile(&mut all, 50)?);
        p99.push(percentile(&mut all, 99)?);
        denied.push(percentile(&mut no, 50)?);
        cpu_p50.push(percentile(&mut all_cpu, 50)?);
        cpu_p99.push(percentile(&mut all_cpu, 99)?);
        cached.push(again(&policy, &questions)?);
    }
    report.median_with_interval("p50_us", &p50)?;
    report.median_with_interval("p99_us", &p99)?;
    report.median("denied_p50_us", &denied)?;
    report.median_with_interval("cached_us", &cached)?;
    report.median("cpu_p50_us", &cpu_p50)?;
    report.median("cpu_p99_us", &cpu_p99)?;
    host_calls(&policy, &tenant, &mut report)?;
    policy.set_tenant_policy(&tenant, &text(plan.proved))?;
    prove(&policy, &tenant, plan, &mut report).await?;
    report.finish()
}

/// The median of questions that were answered before, asked in turn.
fn again(policy: &Policy, questions: &[(Principal, Resource)]) -> Result<f64> {
    let allowed = questions.iter().enumerate().filter(|(number, _)| !number.is_multiple_of(DENIED_EVERY));
    let some: Vec<&(Principal, Resource)> = allowed.map(|(_, question)| question).take(REMEMBERED_COUNT).collect();
    let mut times_us = Vec::with_capacity(AGAIN_COUNT);
    for (turn, (principal, resource)) in some.iter().copied().cycle().take(some.len() + AGAIN_COUNT).enumerate() {
        let (us, allowed) = ask(policy, principal, resource);
        anyhow::ensure!(allowed, "a remembered question is answered wrong");
        // In the first turn they are answered, and remembered.
        if turn >= some.len() {
            times_us.push(us);
        }
    }
    percentile(&mut times_us, 50)
}

/// What policy adds to a host call: under statements of which none is about such calls, and under one that reads the key.
fn host_calls(policy: &Policy, tenant: &TenantId, report: &mut Report) -> Result<()> {
    let (bucket, plugin) = ("default".parse()?, "visits".parse()?);
    let (by, _) = question(tenant, 1)?;
    let named = "permit (principal is Ringfence::Person, action, resource);".repeat(100);
    let reads = "forbid (principal, action == Ringfence::Action::\"read-value\", resource) when { context.key like \"secret/*\" };";
    for (figure, text) in [("host_call_skipped_us", named.as_str()), ("host_call_cached_us", reads)] {
        policy.set_tenant_policy(tenant, text)?;
        let caller = policy.host_caller(tenant, &plugin, &by, "http", Box::new(|| None))?;
        let mut all = Vec::with_capacity(100_000);
        for number in 0..100_000_usize {
            let key = if number.is_multiple_of(2) { "invoices/1" } else { "visits" };
            let call = HostCall { act: HostAct::ReadValue, on: On::Value { bucket: &bucket, key } };
            let begun = Instant::now();
            let left = std::hint::black_box(caller.ask(&call)).is_ok();
            all.push(begun.elapsed().as_nanos() as f64 / 1e3);
            anyhow::ensure!(left, "a host call is answered wrong");
        }
        report.put(figure, percentile(&mut all, 50)?)?;
    }
    Ok(())
}

/// Processor time of this thread.
fn cpu_us() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    now.tv_sec as f64 * 1e6 + now.tv_nsec as f64 / 1e3
}

async fn prove(policy: &Policy, tenant: &TenantId, plan: &Plan, report: &mut Report) -> Result<()> {
    report.put("proved_policies_count", plan.proved)?;
    let Some(program) = plan.cvc5.clone().or_else(|| on_path("cvc5")) else {
        return report.missing("prove_s", "cvc5 is not installed");
    };
    let begun = Instant::now();
    let mut command = tokio::process::Command::new(program);
    let solver = LocalSolver::from_command(command.args(["--lang", "smt"]).kill_on_drop(true))?;
    match policy.prove_border(tenant, None, Kinds::All, solver).await? {
        Verdict::Proved { kinds_count } => {
            report.put("prove_s", begun.elapsed().as_secs_f64())?;
            report.put("proved_kinds_count", kinds_count)
        }
        other => report.missing("prove_s", &format!("{other:?}")),
    }
}

fn ask(policy: &Policy, principal: &Principal, resource: &Resource) -> (f64, bool) {
    let begun = Instant::now();
    let allowed = std::hint::black_box(policy.permit::<act::WriteSecret>(principal, resource)).is_ok();
    (begun.elapsed().as_nanos() as f64 / 1e3, allowed)
}

/// Statements of four kinds, each about things of its own, as a tenant's own tools would write them.
fn text(count: usize) -> String {
    let one = |n: usize| match n % 4 {
        0 => format!(
            "permit (principal == Ringfence::Service::\"acme/s{n}\", action == Ringfence::Action::\"write-secret\", resource == Ringfence::Secret::\"acme/x{n}\") when {{ principal.role == Ringfence::Role::\"caller\" }};\n"
        ),
        1 => format!(
            "permit (principal, action in [Ringfence::Action::\"write-secret\", Ringfence::Action::\"list-secrets\"], resource == Ringfence::Secret::\"acme/x{n}\");\n"
        ),
        2 => format!(
            "permit (principal == Ringfence::Service::\"acme/s{n}\", action, resource in Ringfence::Tenant::\"acme\") when {{ !principal.elevated }};\n"
        ),
        _ => format!(
            "permit (principal == Ringfence::Service::\"acme/s{n}\", action == Ringfence::Action::\"write-secret\", resource);\nforbid (principal == Ringfence::Service::\"acme/t{n}\", action == Ringfence::Action::\"write-secret\", resource) when {{ principal.elevated }};\n"
        ),
    };
    // The fourth kind is two statements.
    (0..count * 4 / 5).map(one).collect()
}

fn question(tenant: &TenantId, number: usize) -> Result<(Principal, Resource)> {
    let n = number % 7_900;
    let name = if number.is_multiple_of(DENIED_EVERY) { format!("nobody{number}") } else { format!("s{n}") };
    #[expect(clippy::disallowed_methods, reason = "the benchmark plays identity")]
    let principal = Principal::mint(
        format!("acme/{name}").parse()?,
        PrincipalKind::Service,
        Some(Role::Caller),
        Some(tenant.clone()),
        Strength::Secret,
        None,
        Timestamp::UNIX_EPOCH,
    );
    let thing = if number.is_multiple_of(DENIED_EVERY) { format!("y{number}") } else { format!("x{n}") };
    Ok((principal, Resource::Secret { tenant: tenant.clone(), name: thing.parse()? }))
}

fn percentile(figures: &mut [f64], percent: usize) -> Result<f64> {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() * percent / 100).copied().context("there is a figure")
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|program| program.is_file())
}
