//! `auth`: what knowing and allowing a caller adds to a warm call, and what a storm of sign-ins does to calls beside it: by API
//! keys, and by people's passwords.
//!
//! The first in turn, in many short slices: the same plugin called by nobody, by a signed-in caller, and by nobody again as
//! the control; CPU time of the server a request. A machine's speed moves over seconds, so what is compared lies close. The
//! others in an open loop: alone, storm, alone, storm, ..., alone; a round's ratio is the storm over the mean of the two alones
//! around it, and the control one alone over the other. More passwords come than the host hashes, so that its throttles and
//! places are what they are: how many sign-ins were let in, refused as busy and not even sent is in the figures.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ringfence_tests::{PASSWORD, answer};
use serde_json::{Value, json};

use crate::answer::Then;
use crate::load::{Connection, Target, head, round};
use crate::machine::process_cpu_us;
use crate::open_loop::{Caller, Order, Outcome};
use crate::report::Report;
use crate::stage::{Guest, Stage};
use crate::stats::{Arrivals, quantile};

/// Instances that serve many requests, so that what is added is not lost beside making one.
const WARM: &str = "[instance]\ninvocations_max = 100000\n";
/// Lets nobody in particular call the plugins of the tenant.
const OPEN: &str = "permit (principal is Ringfence::Anonymous, action == Ringfence::Action::\"invoke\", resource);";
/// Rounds with one token, well within its time.
const TOKEN_ROUNDS_COUNT: usize = 40;
/// Requests a second beside the storm.
const RATE: f64 = 100.0;
/// Connections of the storm: fewer than the host lets one address have under way.
const STORM_CONNECTIONS_COUNT: usize = 32;
/// The same of the storm by passwords: more than it lets one address have under way, so that some are refused.
const PASSWORD_CONNECTIONS_COUNT: usize = 128;
/// People who sign in by password.
const PEOPLE_COUNT: usize = 8;
/// What a sign-in is answered that finds no place or no turn.
const BUSY: [u16; 2] = [429, 503];
/// Time before a phase is counted.
const WARM_UP: Duration = Duration::from_millis(500);

/// How much to measure.
#[derive(clap::Args)]
pub struct Plan {
    /// Rounds of each side
    #[arg(long, default_value_t = 80)]
    pub rounds: usize,
    /// Milliseconds a round of one side
    #[arg(long, default_value_t = 400)]
    pub slice_ms: u64,
    /// Open connections of the first part
    #[arg(long, default_value_t = 8)]
    pub connections: usize,
    /// Storms
    #[arg(long, default_value_t = 3)]
    pub storms: usize,
    /// Seconds a storm, and a phase alone
    #[arg(long, default_value_t = 60)]
    pub storm_seconds: u64,
    /// Sign-ins a minute
    #[arg(long, default_value_t = 10_000.0)]
    pub sign_ins: f64,
}

/// What the sign-ins of a storm are.
struct Kind {
    /// Stands in the names of its figures.
    of: &'static str,
    /// Bodies of the requests; each connection sends one of them.
    bodies: Vec<String>,
    connections_count: usize,
    /// Whether what could not be sent by the end of the storm is left out and counted. Else it is sent late.
    ends: bool,
}

/// What a storm came to.
#[derive(Default)]
struct Storm {
    /// Answers by status.
    statuses: BTreeMap<u16, u64>,
    /// Of those who were let in, from due to answered, microseconds.
    latencies_us: Vec<u64>,
    /// Not sent: every connection waited for an answer until the end.
    unsent_count: u64,
}

impl Storm {
    fn let_in_count(&self) -> u64 {
        self.statuses.get(&200).copied().unwrap_or(0)
    }

    fn refused_count(&self) -> u64 {
        BUSY.iter().filter_map(|status| self.statuses.get(status)).sum()
    }
}

/// Runs the benchmark and gives its figures.
pub async fn run(plan: &Plan) -> Result<Value> {
    let mut report = Report::start("auth")?;
    report.fact("rounds", plan.rounds)?;
    report.fact("milliseconds_a_round", plan.slice_ms)?;
    report.fact("connections", plan.connections)?;
    let stage = Stage::new().await?;
    let guest = stage.guest("acme", "hello", WARM, &[]).await?;
    let body = json!({ "text": OPEN });
    answer(guest.tenant.admin.put(&guest.tenant.path("/policy")).json(&body).send().await?).await?;
    added(&mut report, plan, &stage, &guest).await?;
    report.fact("seconds_a_storm", plan.storm_seconds)?;
    report.put("victim_rps", RATE)?;
    for kind in [by_key(&stage).await?, by_password(&stage).await?] {
        storms(&mut report, plan, &stage, &guest, &kind).await?;
    }
    report.fact(
        "note",
        "a sign-in is an API key's (a cheap hash) or, in figures of passwords, a person's (argon2id, 19 MiB); then a session made \
         durable and an entry on the log",
    )?;
    report.finish()
}

/// Sign-ins of a tenant of their own: a key's oldest sessions end when it opens many.
async fn by_key(stage: &Stage) -> Result<Kind> {
    let stormy = stage.host.tenant(&stage.operator, "stormy").await?;
    let body = json!({ "method": "api_key", "key": stormy.admin.key }).to_string();
    Ok(Kind { of: "", bodies: vec![body], connections_count: STORM_CONNECTIONS_COUNT, ends: false })
}

/// The same of people, who have signed in from here before.
async fn by_password(stage: &Stage) -> Result<Kind> {
    // Longer ago than a session of the operator lives.
    let operator = stage.host.sign_in(&stage.operator.key).await?;
    let peopled = stage.host.tenant(&operator, "peopled").await?;
    let mut bodies = Vec::new();
    for number in 0..PEOPLE_COUNT {
        let name = format!("person-{number}");
        stage.host.person(&peopled.admin, &peopled.path("/people"), &name, "developer").await?;
        let principal = format!("{}/{name}", peopled.name);
        bodies.push(json!({ "method": "password", "principal": principal, "password": PASSWORD }).to_string());
    }
    Ok(Kind { of: "_passwords", bodies, connections_count: PASSWORD_CONNECTIONS_COUNT, ends: true })
}

/// CPU time that a caller's proof and permit add to a call.
async fn added(report: &mut Report, plan: &Plan, stage: &Stage, guest: &Guest) -> Result<()> {
    let time = Duration::from_millis(plan.slice_ms);
    let nobody = Target { token: None, ..guest.target(stage, "/").await? };
    round(&nobody, plan.connections, Duration::from_secs(1)).await?;
    let (mut before, mut known, mut after) = (Vec::new(), Vec::new(), Vec::new());
    let mut somebody = guest.target(stage, "/").await?;
    for number in 0..plan.rounds {
        if number % TOKEN_ROUNDS_COUNT == TOKEN_ROUNDS_COUNT - 1 {
            somebody = guest.target(stage, "/").await?;
        }
        before.push(cpu_us(stage, &nobody, plan.connections, time).await?);
        known.push(cpu_us(stage, &somebody, plan.connections, time).await?);
        after.push(cpu_us(stage, &nobody, plan.connections, time).await?);
    }
    let anonymous: Vec<f64> = before.iter().zip(&after).map(|(before, after)| f64::midpoint(*before, *after)).collect();
    let added: Vec<f64> = known.iter().zip(&anonymous).map(|(known, anonymous)| known - anonymous).collect();
    let control: Vec<f64> = after.iter().zip(&before).map(|(after, before)| after - before).collect();
    report.median_with_interval("added_cpu_us", &added)?;
    report.median_with_interval("added_cpu_control_us", &control)?;
    report.median("anonymous_cpu_us", &anonymous)?;
    report.median("authenticated_cpu_us", &known)
}

/// CPU time of the server a request.
async fn cpu_us(stage: &Stage, target: &Target, connections: usize, time: Duration) -> Result<f64> {
    let pid = stage.host.pid().to_string();
    let before = process_cpu_us(&pid)?;
    let round = round(target, connections, time).await?;
    Ok((process_cpu_us(&pid)? - before) as f64 / round.latencies_us.len() as f64)
}

/// What storms of such sign-ins do to another tenant's calls.
async fn storms(report: &mut Report, plan: &Plan, stage: &Stage, guest: &Guest, kind: &Kind) -> Result<()> {
    let time = Duration::from_secs(plan.storm_seconds);
    let mut caller = Caller::start()?;
    report.put("victim_scheduling", caller.class)?;
    let pid = stage.host.pid().to_string();
    let (mut alone, mut beside, mut stormed) = (Vec::new(), Vec::new(), Vec::new());
    let (mut alone_cpu_us, mut storm_cpu_us) = (Vec::new(), Vec::new());
    for number in 0..=plan.storms {
        let from = process_cpu_us(&pid)?;
        let outcome;
        (caller, outcome) = phase(caller, guest.target(stage, "/").await?, time, number).await?;
        alone_cpu_us.push((process_cpu_us(&pid)? - from) as f64);
        alone.push(outcome);
        if number == plan.storms {
            break;
        }
        let target = guest.target(stage, "/").await?;
        let from = process_cpu_us(&pid)?;
        let storm = storm(stage, kind, plan.sign_ins / 60.0, time, number);
        let (outcome, storm) = tokio::join!(phase(caller, target, time, number), storm);
        let outcome_of;
        (caller, outcome_of) = outcome?;
        storm_cpu_us.push((process_cpu_us(&pid)? - from) as f64);
        beside.push(outcome_of);
        stormed.push(storm?);
    }
    write(report, kind.of, &alone, &beside, &stormed)?;
    let own = |index: usize| alone_cpu_us.get(index).copied().unwrap_or_default();
    let each: Vec<f64> = storm_cpu_us
        .iter()
        .enumerate()
        .zip(&stormed)
        .map(|((index, cpu), storm)| {
            (cpu - f64::midpoint(own(index), own(index + 1))) / storm.let_in_count().max(1) as f64
        })
        .collect();
    report.median(&format!("sign_in{}_cpu_us", kind.of), &each)
}

fn write(report: &mut Report, of: &str, alone: &[Outcome], beside: &[Outcome], storms: &[Storm]) -> Result<()> {
    let p = |outcome: &Outcome, share: f64| quantile(&outcome.latencies_us, share).unwrap_or_default() as f64;
    for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
        let quiet: Vec<f64> = alone.iter().map(|outcome| p(outcome, share)).collect();
        let loud: Vec<f64> = beside.iter().map(|outcome| p(outcome, share)).collect();
        let around: Vec<f64> =
            quiet.iter().zip(quiet.iter().skip(1)).map(|(before, after)| f64::midpoint(*before, *after)).collect();
        let ratio: Vec<f64> = loud.iter().zip(&around).map(|(loud, quiet)| loud / quiet).collect();
        let control: Vec<f64> = quiet.iter().zip(quiet.iter().skip(1)).map(|(one, other)| other / one).collect();
        report.median(&format!("alone{of}_{name}_us"), &quiet)?;
        report.median(&format!("storm{of}_{name}_us"), &loud)?;
        report.median_with_interval(&format!("storm{of}_{name}_ratio"), &ratio)?;
        report.median_with_interval(&format!("storm{of}_{name}_control_ratio"), &control)?;
    }
    let errors: u64 = alone.iter().chain(beside).map(|outcome| outcome.errors_count).sum();
    report.put(&format!("victim_errors{of}_count"), errors)?;
    let counts = |which: fn(&Storm) -> u64| storms.iter().map(|storm| which(storm) as f64).collect::<Vec<_>>();
    report.median(&format!("sign_ins{of}_count"), &counts(Storm::let_in_count))?;
    report.median(&format!("sign_ins{of}_refused_count"), &counts(Storm::refused_count))?;
    report.median(&format!("sign_ins{of}_unsent_count"), &counts(|storm| storm.unsent_count))?;
    let late = |storm: &Storm| quantile(&storm.latencies_us, 0.99).unwrap_or_default() as f64;
    report.median(&format!("sign_in{of}_p99_us"), &storms.iter().map(late).collect::<Vec<_>>())?;
    report
        .put(&format!("sign_ins{of}_by_status"), storms.iter().map(|storm| storm.statuses.clone()).collect::<Vec<_>>())
}

/// One phase of the victim, whose caller waits in a thread of its own.
async fn phase(mut caller: Caller, target: Target, time: Duration, number: usize) -> Result<(Caller, Outcome)> {
    let order = Order { targets: vec![target], rate: RATE, warm_up: WARM_UP, time, seed: u64::try_from(number)? };
    tokio::task::spawn_blocking(move || caller.run(&order).map(|outcome| (caller, outcome))).await?
}

/// Signs in so often for so long, whether or not earlier ones were answered, as far as its connections reach.
async fn storm(stage: &Stage, kind: &Kind, rate: f64, time: Duration, number: usize) -> Result<Storm> {
    let target = Target { address: stage.control()?, path: "/api/v1/zero-trust/authenticate".to_owned(), token: None };
    let requests: Vec<Arc<[u8]>> = kind
        .bodies
        .iter()
        .map(|body| {
            let fields = format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len());
            [head("POST", &target, &fields).as_bytes(), body.as_bytes()].concat().into()
        })
        .collect();
    let due = Arc::new(Mutex::new(Arrivals::new(rate, time, u64::try_from(number)?)));
    let start = Instant::now() + WARM_UP;
    let end = kind.ends.then(|| start + time);
    let tasks: Vec<_> = requests
        .iter()
        .cycle()
        .take(kind.connections_count)
        .map(|request| {
            let (due, request) = (Arc::clone(&due), Arc::clone(request));
            tokio::spawn(async move { sign_in_as_due(&due, &request, target.address, (start, end)).await })
        })
        .collect();
    let mut all = Storm::default();
    for task in tasks {
        let own = task.await.context("a sign-in ended badly")??;
        all.latencies_us.extend(own.latencies_us);
        all.unsent_count += own.unsent_count;
        own.statuses.into_iter().for_each(|(status, count)| *all.statuses.entry(status).or_default() += count);
    }
    ensure!(all.statuses.contains_key(&200), "nobody could sign in: {:?}", all.statuses);
    let is_known = |status: &u16| *status == 200 || BUSY.contains(status);
    ensure!(all.statuses.keys().all(is_known), "sign-ins were answered with {:?}", all.statuses);
    Ok(all)
}

async fn sign_in_as_due(
    due: &Mutex<Arrivals>,
    request: &[u8],
    address: std::net::SocketAddr,
    (start, end): (Instant, Option<Instant>),
) -> Result<Storm> {
    let mut own = Storm::default();
    let mut connection = Connection::open(address).await?;
    loop {
        let next = due.lock().unwrap_or_else(PoisonError::into_inner).next();
        let Some(next) = next else { return Ok(own) };
        tokio::time::sleep_until((start + next).into()).await;
        if end.is_some_and(|end| Instant::now() >= end) {
            own.unsent_count += 1;
            continue;
        }
        let answer = connection.ask(request).await?;
        if answer.status == 200 {
            own.latencies_us.push(u64::try_from((start + next).elapsed().as_micros())?);
        }
        *own.statuses.entry(answer.status).or_default() += 1;
        if answer.then == Then::Close {
            connection = Connection::open(address).await?;
        }
    }
}
