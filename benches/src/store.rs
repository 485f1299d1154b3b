//! `store`: durable writes of many writers, reads, sealing, making and shredding tenants, opening; against the databases
//! alone, driven by a commit thread of the same kind. Everything that is compared takes turns within a round. At the end an
//! object through a guest, as `blob` measures it.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use futures::future::try_join_all;
use redb::ReadableDatabase;
use ringfence_core::Entropy;
use ringfence_keys::{Context, Purpose, RootKey, RootKeyUri};
use ringfence_store::{Backend, DiskOptions, Key, Op, Store, TenantStore, Tenants};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use crate::ambient::{StoppedClock, SystemEntropy};
use crate::blob;
use crate::report::Report;
use crate::stage::Stage;
use crate::stats::{median, quantile};

/// Bytes of a value.
const VALUE_BYTES: usize = 200;
/// Records read from.
const RECORDS_COUNT: u64 = 20_000;
/// Most writes that the raw databases' commit thread makes durable at once, as the store does.
const GROUP_COUNT_MAX: usize = 256;
/// Bytes of a value when a store is filled to be opened.
const FILL_VALUE_BYTES: usize = 32 << 10;
const CACHE_BYTES: u64 = 64 << 20;
/// LIMIT: longest wait for the key of a deleted tenant to be gone.
const SHRED_WAIT: Duration = Duration::from_secs(60);
const TABLE: redb::TableDefinition<'_, &[u8], &[u8]> = redb::TableDefinition::new("rows");

/// How much to measure.
#[derive(clap::Args)]
pub struct Plan {
    /// Rounds; the median of them is the figure
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// The store's own backend
    #[arg(long, default_value = "sled")]
    pub backend: String,
    /// Writers at once
    #[arg(long, default_value_t = 32)]
    pub writers: u64,
    /// Durable writes of each, twice in a round
    #[arg(long, default_value_t = 200)]
    pub puts: u64,
    /// Reads in a round
    #[arg(long, default_value_t = 20_000)]
    pub gets: u64,
    /// Tenants made in a round
    #[arg(long, default_value_t = 20)]
    pub tenants: usize,
    /// Records of the tenant that is shredded
    #[arg(long, default_value_t = 20_000)]
    pub shred_records: u64,
    /// MiB of the store that is opened
    #[arg(long, default_value_t = 1_024)]
    pub fill_mib: u64,
    /// MiB of the object that goes through a guest
    #[arg(long, default_value_t = 1_024)]
    pub blob_mib: u64,
    /// Rounds of it; 0 leaves it out
    #[arg(long, default_value_t = 3)]
    pub blob_rounds: usize,
}

/// Runs the benchmark and gives its figures.
pub async fn run(plan: &Plan) -> Result<Value> {
    let backend = Backend::from_name(&plan.backend).with_context(|| format!("`{}` is no backend", plan.backend))?;
    let mut report = Report::start("store")?;
    report.fact("rounds", plan.rounds)?;
    report.put("backend", backend.name())?;
    let place = tempfile::tempdir()?;
    let dir = place.path();
    let (store, tenants) = open(dir, backend).await?;
    let ours = tenant(&tenants, "bench").await?;
    let raws = [raw(Sled::open(&dir.join("raw-sled"))?)?, raw(Redb::open(&dir.join("raw.redb"))?)?];
    fill(&ours, &raws).await?;
    puts(&mut report, plan, &ours, &raws).await?;
    gets(&mut report, plan, &ours, &raws).await?;
    seal(&mut report, plan, &ours)?;
    create_and_shred(&mut report, plan, dir, &tenants).await?;
    drop((ours, tenants, raws));
    store.close().await?;
    opening(&mut report, plan, &dir.join("large"), backend).await?;
    // The stage lays its data somewhere else; what was filled is not needed any more.
    drop(place);
    objects(&mut report, plan).await?;
    report.finish()
}

async fn open(dir: &Path, backend: Backend) -> Result<(Store, Tenants)> {
    std::fs::create_dir_all(dir)?;
    let root = RootKey::open_or_create(&RootKeyUri::File(dir.join("root.key")), &SystemEntropy)?;
    let options = DiskOptions { backend, cache_bytes: CACHE_BYTES, ..DiskOptions::RECOMMENDED };
    let store = Store::open(&dir.join("data"), options)?;
    let tenants = Tenants::open(store.clone(), Arc::new(root), Arc::new(SystemEntropy), Arc::new(StoppedClock)).await?;
    Ok((store, tenants))
}

async fn tenant(tenants: &Tenants, name: &str) -> Result<TenantStore> {
    let id = name.parse()?;
    tenants.create(&id, name).await?;
    tenants.open_tenant(&id).with_context(|| format!("tenant `{name}`"))
}

fn key(number: u64) -> Key {
    // Spread, as hashed names are.
    Key::new(["kv", "plugin", "default"]).push(format!("{:016x}", number.wrapping_mul(0x9E37_79B9_7F4A_7C15)))
}

fn raw_key(number: u64) -> Vec<u8> {
    // As long as a sealed name is, so that the trees are of the same size.
    format!("{:0>120}", format!("{:016x}", number.wrapping_mul(0x9E37_79B9_7F4A_7C15))).into_bytes()
}

fn value(bytes: usize) -> Vec<u8> {
    let mut value = vec![0; bytes];
    SystemEntropy.fill(&mut value);
    value
}

// === the databases alone ===

type Pair = (Vec<u8>, Vec<u8>);

trait Database: Send + Sync + 'static {
    /// Writes all, durably.
    fn write(&self, pairs: &[Pair]) -> Result<()>;
    fn get(&self, key: &[u8]) -> Result<bool>;
}

struct Sled(sled::Db, File);
struct Redb(redb::Database);

impl Sled {
    fn open(dir: &Path) -> Result<Self> {
        let db = sled::Config::new().path(dir).cache_capacity(CACHE_BYTES).flush_every_ms(None).open()?;
        Ok(Self(db, File::open(dir.join("db"))?))
    }
}

impl Database for Sled {
    fn write(&self, pairs: &[Pair]) -> Result<()> {
        let mut batch = sled::Batch::default();
        pairs.iter().for_each(|(key, value)| batch.insert(key.as_slice(), value.as_slice()));
        self.0.apply_batch(batch)?;
        self.0.flush()?;
        Ok(self.1.sync_data()?)
    }
    fn get(&self, key: &[u8]) -> Result<bool> {
        Ok(self.0.get(key)?.is_some())
    }
}

impl Redb {
    fn open(file: &Path) -> Result<Self> {
        let cache_bytes = usize::try_from(CACHE_BYTES)?;
        Ok(Self(redb::Builder::new().set_cache_size(cache_bytes).create(file)?))
    }
}

impl Database for Redb {
    fn write(&self, pairs: &[Pair]) -> Result<()> {
        let transaction = self.0.begin_write()?;
        {
            let mut table = transaction.open_table(TABLE)?;
            for (key, value) in pairs {
                table.insert(key.as_slice(), value.as_slice())?;
            }
        }
        Ok(transaction.commit()?)
    }
    fn get(&self, key: &[u8]) -> Result<bool> {
        Ok(self.0.begin_read()?.open_table(TABLE)?.get(key)?.is_some())
    }
}

/// A database behind a commit thread.
struct Raw {
    database: Arc<dyn Database>,
    queue: mpsc::Sender<(Pair, oneshot::Sender<()>)>,
}

fn raw(database: impl Database) -> Result<Raw> {
    let database: Arc<dyn Database> = Arc::new(database);
    let (queue, mut jobs) = mpsc::channel::<(Pair, oneshot::Sender<()>)>(1_024);
    let writer = Arc::clone(&database);
    std::thread::Builder::new().name("raw-commit".to_owned()).spawn(move || {
        while let Some((pair, reply)) = jobs.blocking_recv() {
            let (mut pairs, mut replies) = (vec![pair], vec![reply]);
            while pairs.len() < GROUP_COUNT_MAX
                && let Ok((pair, reply)) = jobs.try_recv()
            {
                pairs.push(pair);
                replies.push(reply);
            }
            // Without an answer the writers fail, and with them the benchmark.
            if writer.write(&pairs).is_err() {
                return;
            }
            for reply in replies {
                // Whoever asked may have stopped waiting.
                let _ = reply.send(());
            }
        }
    })?;
    Ok(Raw { database, queue })
}

impl Raw {
    async fn put(&self, pair: Pair) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        self.queue.send((pair, reply)).await.map_err(|_| anyhow!("the commit thread ended"))?;
        Ok(answer.await?)
    }
}

// === what is measured ===

async fn fill(ours: &TenantStore, raws: &[Raw]) -> Result<()> {
    for first in (0..RECORDS_COUNT).step_by(500) {
        let numbers = first..(first + 500).min(RECORDS_COUNT);
        let ops = numbers.clone().map(|number| Op::put(key(number), value(VALUE_BYTES))).collect();
        ours.batch(ops, Vec::new()).await?;
        let pairs: Vec<Pair> = numbers.map(|number| (raw_key(number), value(VALUE_BYTES))).collect();
        for raw in raws {
            raw.database.write(&pairs)?;
        }
    }
    Ok(())
}

/// There and back within a round, ours, sled, redb, redb, sled, ours, so that neither the order nor a machine that grows slower
/// favours anybody; ours over ours is the control. The first round warms up.
async fn puts(report: &mut Report, plan: &Plan, ours: &TenantStore, raws: &[Raw; 2]) -> Result<()> {
    let (mut rates, mut ratios, mut controls) = ([const { Vec::new() }; 3], [const { Vec::new() }; 2], Vec::new());
    let [sled, redb] = raws;
    let (plain, count) = (value(VALUE_BYTES), plan.writers * plan.puts);
    for round in 0..=plan.rounds as u64 {
        let there = RECORDS_COUNT + 2 * round * count;
        let back = there + count;
        let mine = ours_per_second(plan, there, ours, &plain).await?;
        let sleds = raw_per_second(plan, there, sled, &plain).await?;
        let redbs = raw_per_second(plan, there, redb, &plain).await?;
        let redbs = f64::midpoint(redbs, raw_per_second(plan, back, redb, &plain).await?);
        let sleds = f64::midpoint(sleds, raw_per_second(plan, back, sled, &plain).await?);
        let again = ours_per_second(plan, back, ours, &plain).await?;
        if round == 0 {
            continue;
        }
        controls.push(again / mine);
        let mine = f64::midpoint(mine, again);
        rates.iter_mut().zip([mine, sleds, redbs]).for_each(|(rates, rate)| rates.push(rate));
        ratios.iter_mut().zip([sleds, redbs]).for_each(|(ratios, rate)| ratios.push(mine / rate));
    }
    for (name, rates) in ["puts_per_second", "raw_sled_puts_per_second", "raw_redb_puts_per_second"].iter().zip(&rates)
    {
        report.median(name, rates)?;
    }
    report.median_with_interval("put_ratio_vs_raw", &ratios[0])?;
    report.median_with_interval("put_ratio_vs_redb", &ratios[1])?;
    report.median("put_control_ratio", &controls)
}

/// One record of ours, then the same row of raw sled, again and again.
async fn gets(report: &mut Report, plan: &Plan, ours: &TenantStore, raws: &[Raw; 2]) -> Result<()> {
    let (mut gets_us, mut ratios) = (Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        let (mut mine_ns, mut theirs_ns) = (Vec::new(), Vec::new());
        for turn in 0..plan.gets {
            let number = turn.wrapping_mul(7_919) % RECORDS_COUNT;
            let (key, raw_key) = (key(number), raw_key(number));
            let started = Instant::now();
            ensure!(ours.get(&key).await?.is_some(), "a record is missing");
            mine_ns.push(nanos(started));
            let started = Instant::now();
            ensure!(raws[0].database.get(&raw_key)?, "a row is missing");
            theirs_ns.push(nanos(started));
        }
        let [mine, theirs] = [mine_ns, theirs_ns].map(|ns| quantile(&ns, 0.5).unwrap_or(0) as f64 / 1e3);
        gets_us.push(mine);
        ratios.push(mine / theirs);
    }
    report.median("get_us", &gets_us)?;
    report.median_with_interval("get_ratio_vs_raw", &ratios)
}

async fn ours_per_second(plan: &Plan, first: u64, ours: &TenantStore, plain: &[u8]) -> Result<f64> {
    per_second(plan, first, async |number| Ok(ours.put(&key(number), plain.to_vec()).await.map(drop)?)).await
}

async fn raw_per_second(plan: &Plan, first: u64, raw: &Raw, plain: &[u8]) -> Result<f64> {
    per_second(plan, first, async |number| raw.put((raw_key(number), plain.to_vec())).await).await
}

/// Durable writes a second of all writers together.
async fn per_second(plan: &Plan, first: u64, put: impl AsyncFn(u64) -> Result<()>) -> Result<f64> {
    let started = Instant::now();
    let writer = async |writer: u64| -> Result<()> {
        for number in 0..plan.puts {
            put(first + writer * plan.puts + number).await?;
        }
        Ok(())
    };
    try_join_all((0..plan.writers).map(writer)).await?;
    Ok((plan.writers * plan.puts) as f64 / started.elapsed().as_secs_f64())
}

fn seal(report: &mut Report, plan: &Plan, ours: &TenantStore) -> Result<()> {
    const SEALS_COUNT: u32 = 100_000;
    let plain = value(1 << 10);
    let mut each_us = Vec::new();
    for _ in 0..plan.rounds {
        let started = Instant::now();
        for revision in 0..SEALS_COUNT {
            let context = Context { tenant: ours.label(), store: "record", key: b"bench", revision: revision.into() };
            std::hint::black_box(ours.keys().seal(Purpose::Record, &context, &plain, &SystemEntropy)?);
        }
        each_us.push(started.elapsed().as_secs_f64() * 1e6 / f64::from(SEALS_COUNT));
    }
    report.median("seal_1kib_us", &each_us)
}

async fn create_and_shred(report: &mut Report, plan: &Plan, dir: &Path, tenants: &Tenants) -> Result<()> {
    let (mut creates_ms, mut shreds_ms, mut deletes_ms) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..plan.rounds {
        let mut each_ms = Vec::new();
        for number in 0..plan.tenants {
            let started = Instant::now();
            tenant(tenants, &format!("small-{round}-{number}")).await?;
            each_ms.push(nanos(started) as f64 / 1e6);
        }
        creates_ms.push(median(&each_ms).context("no tenant was made")?);
        let large = tenant(tenants, &format!("large-{round}")).await?;
        for first in (0..plan.shred_records).step_by(500) {
            let numbers = first..(first + 500).min(plan.shred_records);
            large.batch(numbers.map(|number| Op::put(key(number), value(VALUE_BYTES))).collect(), Vec::new()).await?;
        }
        // Shredded is the tenant when its key is gone; what nobody can open any more is swept after that.
        let key_file = dir.join("data").join("keys").join(large.uid());
        // Or its absence would say nothing.
        ensure!(key_file.exists(), "the key of a tenant is not where it is looked for");
        let started = Instant::now();
        let gone = std::thread::spawn(move || {
            while key_file.exists() {
                if started.elapsed() > SHRED_WAIT {
                    return None;
                }
                std::thread::sleep(Duration::from_micros(50));
            }
            Some(nanos(started))
        });
        tenants.delete(&format!("large-{round}").parse()?).await?;
        deletes_ms.push(nanos(started) as f64 / 1e6);
        let gone_ns = gone.join().map_err(|_| anyhow!("the watcher stopped"))?;
        shreds_ms.push(gone_ns.context("the key of a deleted tenant is still there")? as f64 / 1e6);
    }
    report.median("tenant_create_ms", &creates_ms)?;
    report.put("shred_records_count", plan.shred_records)?;
    report.median("shred_ms", &shreds_ms)?;
    report.median("delete_ms", &deletes_ms)
}

async fn opening(report: &mut Report, plan: &Plan, dir: &Path, backend: Backend) -> Result<()> {
    let (store, tenants) = open(dir, backend).await?;
    let ours = tenant(&tenants, "bench").await?;
    let records_count = (plan.fill_mib << 20) / FILL_VALUE_BYTES as u64;
    for first in (0..records_count).step_by(100) {
        let numbers = first..(first + 100).min(records_count);
        ours.batch(numbers.map(|number| Op::put(key(number), value(FILL_VALUE_BYTES))).collect(), Vec::new()).await?;
    }
    drop((ours, tenants));
    store.close().await?;
    let mut opens_s = Vec::new();
    for _ in 0..plan.rounds {
        let started = Instant::now();
        let (store, tenants) = open(dir, backend).await?;
        opens_s.push(started.elapsed().as_secs_f64());
        drop(tenants);
        store.close().await?;
    }
    report
        .fact("note", "a store is opened after it was closed in order, with its files still in the kernel's memory")?;
    report.put("open_mib", plan.fill_mib)?;
    report.median("open_s", &opens_s)?;
    if plan.fill_mib == 1_024 {
        report.median("open_1gib_s", &opens_s)
    } else {
        report.missing("open_1gib_s", "the store was filled with less")
    }
}

/// A host of its own on its own backend, whatever the plan's is: `[store] backend` as it is shipped.
async fn objects(report: &mut Report, plan: &Plan) -> Result<()> {
    if plan.blob_rounds == 0 {
        for key in ["blob_ratio", "blob_rss_mib"] {
            report.missing(key, "left out by --blob-rounds 0")?;
        }
        return Ok(());
    }
    let figures =
        blob::measure(&Stage::new().await?, &blob::Plan { mib: plan.blob_mib, rounds: plan.blob_rounds }).await?;
    report.put("blob_mib", plan.blob_mib)?;
    report.median("blob_ratio", &figures.ratio)?;
    report.median("blob_rss_mib", &figures.rss_mib)
}

fn nanos(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}
