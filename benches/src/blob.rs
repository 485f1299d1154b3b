//! `blob`: an object of 1 GiB through a guest, against what one core can encrypt and what the disk takes.
//!
//! The guest makes the bytes itself, so that no listener and no body limit stands between it and the store; it reads them
//! back and checks every one. `store` calls [`measure`] too, and prints the figures with its own.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ringfence_tests::answer;
use serde_json::{Value, json};

use crate::machine::rss_kib;
use crate::report::Report;
use crate::stage::Stage;

const BUDGET: &str = "[budget]\ncpu_ms = 20000\ntime_ms = 60000\nmemory_mib = 16\n";
const MIB: f64 = (1 << 20) as f64;
/// What is encrypted, and written to the disk, at a time.
const CHUNK_BYTES: usize = 64 << 10;
/// How often the host's memory is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// How much to measure.
#[derive(clap::Args)]
pub struct Plan {
    /// MiB of the object
    #[arg(long, default_value_t = 1024)]
    pub mib: u64,
    /// Rounds
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
}

/// The figures of some rounds.
#[derive(Debug, Default)]
pub struct Figures {
    /// Written through the guest, MiB/s.
    pub put_mib_s: Vec<f64>,
    /// Read through the guest, MiB/s.
    pub get_mib_s: Vec<f64>,
    /// AES-256-GCM on one core, MiB/s.
    pub cipher_mib_s: Vec<f64>,
    /// A plain file with one fsync at its end, MiB/s.
    pub disk_mib_s: Vec<f64>,
    /// Writing against the lower of cipher and disk, of the same round.
    pub ratio: Vec<f64>,
    /// Reading against the cipher.
    pub get_ratio: Vec<f64>,
    /// Growth of the host's memory while it was written and read, MiB.
    pub rss_mib: Vec<f64>,
}

/// Runs the benchmark and gives its figures.
pub async fn run(plan: &Plan) -> Result<Value> {
    let mut report = Report::start("blob")?;
    report.fact("rounds", plan.rounds)?;
    report.fact("mib", plan.mib)?;
    let stage = Stage::new().await?;
    let figures = measure(&stage, plan).await?;
    report.median("blob_ratio", &figures.ratio)?;
    report.median("blob_get_ratio", &figures.get_ratio)?;
    report.median("blob_rss_mib", &figures.rss_mib)?;
    report.median("put_mib_s", &figures.put_mib_s)?;
    report.median("get_mib_s", &figures.get_mib_s)?;
    report.median("cipher_mib_s", &figures.cipher_mib_s)?;
    report.median("disk_mib_s", &figures.disk_mib_s)?;
    report.finish()
}

/// Measures in turns: cipher, disk, writing, reading.
pub async fn measure(stage: &Stage, plan: &Plan) -> Result<Figures> {
    let guest = stage.guest("bulk", "bulk", BUDGET, &[("blob", &["default"])]).await?;
    let room = json!({ "overrides": { "storage_bytes": (plan.mib << 20) * 4 } });
    answer(stage.operator.put("/tenants/bulk/quota").json(&room).send().await?).await?;
    // One small object before, so that what the first call of all needs is there already.
    call(stage, &guest.tenant.admin.key, "/put?mib=1&name=first").await?;
    let mut figures = Figures::default();
    for _ in 0..plan.rounds {
        let (cipher, disk) = (cipher_mib_s()?, disk_mib_s(&stage.place.data(), plan.mib)?);
        let watch = Watch::start(stage.host.pid())?;
        let put = plan.mib as f64 / call(stage, &guest.tenant.admin.key, &format!("/put?mib={}", plan.mib)).await?;
        let get = plan.mib as f64 / call(stage, &guest.tenant.admin.key, "/get").await?;
        figures.rss_mib.push(watch.stop());
        figures.ratio.push(put / cipher.min(disk));
        figures.get_ratio.push(get / cipher);
        figures.put_mib_s.push(put);
        figures.get_mib_s.push(get);
        figures.cipher_mib_s.push(cipher);
        figures.disk_mib_s.push(disk);
    }
    Ok(figures)
}

/// Calls the guest; gives the seconds that it took by its own clock.
async fn call(stage: &Stage, key: &str, rest: &str) -> Result<f64> {
    let session = stage.host.sign_in(key).await?;
    let (status, text) = session.fetch(&format!("/bulk/bulk{rest}")).await?;
    ensure!(status.is_success(), "`{rest}` was answered with {status}: {text}");
    let micros = text.split_whitespace().nth(1).and_then(|text| text.parse::<f64>().ok()).context("no time")?;
    Ok(micros / 1e6)
}

/// 512 MiB in chunks as the store seals them.
fn cipher_mib_s() -> Result<f64> {
    let key = UnboundKey::new(&AES_256_GCM, &[7; 32]).map_err(|_| anyhow::anyhow!("no key"))?;
    let (key, mut chunk) = (LessSafeKey::new(key), vec![7_u8; CHUNK_BYTES]);
    let count = (512 << 20) / CHUNK_BYTES as u64;
    let started = Instant::now();
    for number in 0..count {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&number.to_be_bytes());
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = key.seal_in_place_separate_tag(nonce, Aad::empty(), &mut chunk);
        let _ = std::hint::black_box(tag.map_err(|_| anyhow::anyhow!("not sealed"))?);
    }
    Ok(count as f64 * CHUNK_BYTES as f64 / MIB / started.elapsed().as_secs_f64())
}

fn disk_mib_s(data: &Path, mib: u64) -> Result<f64> {
    let path = data.join("disk-speed");
    let mut file = File::create(&path)?;
    let piece = vec![7; 4 * CHUNK_BYTES];
    let started = Instant::now();
    for _ in 0..(mib << 20) / piece.len() as u64 {
        file.write_all(&piece)?;
    }
    file.sync_all()?;
    let speed = mib as f64 / started.elapsed().as_secs_f64();
    std::fs::remove_file(path)?;
    Ok(speed)
}

/// Looks at how much memory a process holds.
struct Watch {
    before_kib: u64,
    most_kib: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
}

impl Watch {
    fn start(pid: u32) -> Result<Self> {
        let before_kib = rss_kib(pid)?;
        let (most_kib, over) = (Arc::new(AtomicU64::new(before_kib)), Arc::new(AtomicBool::new(false)));
        let (most, stop) = (Arc::clone(&most_kib), Arc::clone(&over));
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                if let Ok(now) = rss_kib(pid) {
                    most.fetch_max(now, Ordering::Relaxed);
                }
                std::thread::sleep(LOOK_EVERY);
            }
        });
        Ok(Self { before_kib, most_kib, over })
    }

    /// The most it grew by, MiB.
    fn stop(self) -> f64 {
        self.over.store(true, Ordering::Relaxed);
        self.most_kib.load(Ordering::Relaxed).saturating_sub(self.before_kib) as f64 / 1_024.0
    }
}
