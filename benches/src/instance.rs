//! `instance`: what the engine alone takes for an invocation of `hello`, in this process and without the rooms around it:
//! in a fresh instance, and in one that served before. The difference is what making and dropping an instance costs.
//!
//! Fresh and warm take turns, so that what the machine does meanwhile meets both. Must never count an invocation that failed.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, ensure};
use bytes::Bytes;
use http_body_util::BodyExt;
use ringfence_core::{Budget, TenantId};
use ringfence_engine::{
    Code, CompileConfig, CompileLimits, Engine, EngineConfig, GuestSetup, InstanceKey, IoClass, MemoryPool, Meter,
    Reuse, TenantShare, full,
};
use serde_json::Value;

use crate::ambient::SystemEntropy;
use crate::report::Report;
use crate::stats::quantile;

/// Memory of the pool, and what one tenant's invocations hold together.
const MEMORY_BYTES_MAX: u64 = 256 << 20;
/// Invocations before any is counted.
const WARM_UP_COUNT: usize = 200;

/// How much to measure.
#[derive(clap::Args)]
pub struct Plan {
    /// Rounds
    #[arg(long, default_value_t = 9)]
    pub rounds: usize,
    /// Invocations of each kind a round
    #[arg(long, default_value_t = 2_000)]
    pub invocations: usize,
}

/// Runs the benchmark and gives its figures.
pub async fn run(plan: &Plan) -> Result<Value> {
    let mut report = Report::start("instance")?;
    report.fact("rounds", plan.rounds)?;
    report.fact("invocations_a_round", plan.invocations)?;
    let place = tempfile::tempdir()?;
    let cache = cap_std::fs::Dir::open_ambient_dir(place.path(), cap_std::ambient_authority())?;
    let config = EngineConfig {
        worker_threads: std::thread::available_parallelism().map_or(1, usize::from),
        slots: 8,
        memory_bytes_max: MEMORY_BYTES_MAX,
        guests_bytes_max: 8 * MEMORY_BYTES_MAX,
        compile: CompileConfig {
            program: ringfence_tests::ringfence()?,
            args: vec!["compile-child".to_owned()],
            limits: CompileLimits::HOST,
        },
        cache,
        io: tokio::runtime::Handle::current(),
        io_class: IoClass::Usual,
        entropy: Arc::new(SystemEntropy),
    };
    let engine = Engine::new(config, ringfence_capabilities::link)?;
    let code = engine.code(&engine.compile(ringfence_tests::guest("hello")?).await?)?;
    let tenant: TenantId = "acme".parse()?;
    let key = InstanceKey {
        tenant: tenant.clone(),
        tenant_uid: "acme".to_owned(),
        plugin: "hello".parse()?,
        version: "1.0.0".to_owned(),
    };
    engine.scheduler().set_share(&tenant, TenantShare::USUAL);
    let pool = engine.memory().pool(MEMORY_BYTES_MAX);
    let bench = Bench { engine, code, tenant, pool, key };
    for _ in 0..WARM_UP_COUNT {
        bench.invoke(false).await?;
        bench.invoke(true).await?;
    }
    let (mut fresh_us, mut warm_us, mut added_us) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        let (mut fresh, mut warm) = (Vec::new(), Vec::new());
        for _ in 0..plan.invocations {
            fresh.push(bench.invoke(false).await?);
            warm.push(bench.invoke(true).await?);
        }
        let p50 = |ns: &[u64]| quantile(ns, 0.5).unwrap_or_default() as f64 / 1e3;
        fresh_us.push(p50(&fresh));
        warm_us.push(p50(&warm));
        added_us.push(p50(&fresh) - p50(&warm));
    }
    report.median_with_interval("fresh_us", &fresh_us)?;
    report.median_with_interval("warm_us", &warm_us)?;
    report.median_with_interval("instantiate_us", &added_us)?;
    report.fact("note", "medians of rounds' medians; from asking for a slot to the guest's end, the answer read")?;
    report.finish()
}

struct Bench {
    engine: Engine,
    code: Code,
    tenant: TenantId,
    pool: Arc<MemoryPool>,
    key: InstanceKey,
}

impl Bench {
    /// One invocation from asking for a slot to its outcome, nanoseconds. A warm one takes the instance that the last warm
    /// one left.
    async fn invoke(&self, is_warm: bool) -> Result<u64> {
        let budget = Budget::DEFAULT;
        let request = http_request()?;
        let began = Instant::now();
        let mut setup = GuestSetup::bare(budget);
        setup.meter = Meter::in_pool(budget, Arc::clone(&self.pool));
        setup.reuse = is_warm.then(|| Reuse { key: self.key.clone(), invocations_max: u32::MAX });
        let slot = self.engine.scheduler().admit(&self.tenant, budget).await?;
        let reply = self.engine.run(slot, &self.code, setup, request).await?;
        ensure!(reply.response.status() == 200, "hello answered {}", reply.response.status());
        reply.response.into_body().collect().await?;
        reply.finished.outcome().await.result?;
        let took = began.elapsed();
        if is_warm {
            // Were there more, each warm invocation would have made one of its own.
            ensure!(self.engine.idle_count() == 1, "{} instances are kept instead of one", self.engine.idle_count());
        }
        Ok(u64::try_from(took.as_nanos())?)
    }
}

fn http_request() -> Result<hyper::Request<ringfence_engine::Body>> {
    Ok(hyper::Request::get("http://hello.test/").body(full(Bytes::new()))?)
}
