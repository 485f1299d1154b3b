//! After a rotation, what a tenant stored before is sealed anew in the background, a small step at a time.
//!
//! A record keeps its name, its value and its revision; only the seal over it changes, and the kind with it where its area has
//! a purpose of its own by now. How far it has come is a durable record, so that a crash costs one step. Must never write a
//! value that somebody changed in the meantime (the commit thread reads and writes each record in one go), never crowd out the
//! tenants' own writes, and never stop at what does not open: that stays where it is, under its version, and is counted.

use std::io::Read;
use std::ops::Bound;

use data_encoding::HEXLOWER;
use ringfence_core::TenantId;
use ringfence_keys::{Context, Purpose, sealed_version};
use tokio::task::spawn_blocking;

use crate::blobs::{self, READ_BYTES};
use crate::engine::{Order, Span};
use crate::error::StoreError;
use crate::key::{AREA_RECORDS, Uid, area, successor};
use crate::record::{Content, Stored};
use crate::tenant_keys::{KeyState, Reseal, ResealPhase};
use crate::tenant_store::{TenantStore, value_context, value_path};
use crate::tenants::Tenants;

/// Records of one step.
const STEP_COUNT: usize = 200;
/// LIMIT: bytes of records read in one step.
const STEP_BYTES_MAX: usize = 4 << 20;
/// LIMIT: bytes of contents sealed anew in one step, reached by the file that goes over.
const STEP_CONTENT_BYTES: u64 = 16 << 20;
/// A step is put off while more of the tenant's own writes than this wait; other tenants' put nothing off, as lanes take turns.
const WAITING_COUNT_MAX: usize = 64;

/// What came of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResealStep {
    /// Nothing is left to do.
    Done,
    /// A step was done, and there are more.
    More,
    /// The tenant's own writes have enough to do; nothing was done now.
    PutOff,
}

impl Reseal {
    /// Whether nothing is left to do: kept to tell what could not be done.
    pub fn is_over(&self) -> bool {
        self.phase == ResealPhase::Over
    }

    /// After a step; none when nothing is left to do and nothing to tell.
    fn after_step(&self, step: Step) -> Option<Self> {
        let (phase, after) = match (self.phase, step.last) {
            (phase, Some(last)) => (phase, last),
            (ResealPhase::Records, None) => (ResealPhase::Contents, String::new()),
            (ResealPhase::Contents | ResealPhase::Over, None) => (ResealPhase::Over, String::new()),
        };
        let next = Self {
            after,
            phase,
            seen_count: self.seen_count.saturating_add(step.seen_count),
            resealed_count: self.resealed_count.saturating_add(step.resealed_count),
            damaged_count: self.damaged_count.saturating_add(step.damaged_count),
        };
        (!next.is_over() || next.damaged_count > 0).then_some(next)
    }
}

impl Tenants {
    /// Does one step of sealing a tenant's data anew, if there is anything to do: 200 records or files at most, and no more after
    /// 16 MiB of contents. What does not open is counted and left as it lies; it holds up nothing else.
    pub async fn reseal_step(&self, id: &TenantId) -> Result<ResealStep, StoreError> {
        let KeyState { reseal, reseal_version, .. } = self.key_state(id).await?;
        let Some(progress) = reseal.filter(|reseal| !reseal.is_over()) else { return Ok(ResealStep::Done) };
        let view = self.open_tenant(id).ok_or(StoreError::UnknownTenant)?;
        view.check_keys()?;
        if view.store().0.committer.waiting_of(&view.shared().uid) > WAITING_COUNT_MAX {
            return Ok(ResealStep::PutOff);
        }
        let (looked, before) = (view.clone(), progress.clone());
        let mut step = spawn_blocking(move || match before.phase {
            ResealPhase::Records => records(&looked, &before.after),
            ResealPhase::Contents | ResealPhase::Over => contents(&looked, &before.after),
        })
        .await
        .map_err(StoreError::unavailable)??;
        let old = std::mem::take(&mut step.old);
        if !old.is_empty() {
            step.resealed_count = old.len() as u64;
            let damaged_count = view.store().0.committer.reseal(view.shared().clone(), old).await?;
            step.resealed_count = step.resealed_count.saturating_sub(damaged_count);
            step.damaged_count = step.damaged_count.saturating_add(damaged_count);
        }
        let next = progress.after_step(step);
        let _one = self.0.changing.lock().await;
        let mut done = ResealStep::More;
        self.change_key_state(id, |state| {
            // A rotation in the meantime began anew, from the first record: from where the first step began, but for the version.
            if state.reseal.as_ref() != Some(&progress) || state.reseal_version != reseal_version {
                return;
            }
            if let Some(Reseal { damaged_count, .. }) = next.as_ref().filter(|next| next.is_over()) {
                tracing::error!(tenant = %id, damaged_count, "records or contents do not open, and were not sealed anew");
            }
            if next.as_ref().is_none_or(Reseal::is_over) {
                done = ResealStep::Done;
            }
            state.reseal = next;
        })
        .await?;
        Ok(done)
    }
}

/// What one step found and did.
#[derive(Default)]
struct Step {
    /// The last thing that was looked at, as [`Reseal`] keeps it; none when it was the last there is.
    last: Option<String>,
    /// Stored keys of records under an older version, or under another purpose.
    old: Vec<Vec<u8>>,
    seen_count: u64,
    resealed_count: u64,
    damaged_count: u64,
    content_bytes: u64,
}

impl Step {
    /// Notes what became of a file.
    fn file(&mut self, resealed: Result<u64, StoreError>) -> Result<(), StoreError> {
        match resealed {
            Ok(bytes) => self.content_bytes = self.content_bytes.saturating_add(bytes),
            Err(StoreError::Damaged) => self.damaged_count = self.damaged_count.saturating_add(1),
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// Looks at the next records, and seals the files of large values anew on the way.
fn records(view: &TenantStore, after: &str) -> Result<Step, StoreError> {
    let after = HEXLOWER.decode(after.as_bytes()).map_err(|_| StoreError::Damaged)?;
    let prefix = area(AREA_RECORDS, &view.shared().uid);
    let span = Span {
        from: if after.is_empty() { Bound::Included(prefix.clone()) } else { Bound::Excluded(after) },
        to: successor(&prefix).map_or(Bound::Unbounded, Bound::Excluded),
        order: Order::Forward,
        count_max: STEP_COUNT,
        bytes_max: STEP_BYTES_MAX,
    };
    let rows = view.engine().range(&span)?;
    let mut step = Step::default();
    for (key, value) in rows.pairs {
        if step.content_bytes >= STEP_CONTENT_BYTES {
            return Ok(step);
        }
        step.last = Some(HEXLOWER.encode(&key));
        step.seen_count = step.seen_count.saturating_add(1);
        match record(view, key, &value, &mut step) {
            Err(StoreError::Damaged) => step.damaged_count = step.damaged_count.saturating_add(1),
            looked => looked?,
        }
    }
    if !rows.more {
        step.last = None;
    }
    Ok(step)
}

/// Looks at one record. [`StoreError::Damaged`] is about the record itself, and not about its file.
fn record(view: &TenantStore, key: Vec<u8>, value: &[u8], step: &mut Step) -> Result<(), StoreError> {
    let (keys, uid) = (view.keys(), &view.shared().uid);
    let stored = Stored::parse(value)?;
    if stored.is_in_file()
        && let Content::InFile(file) = stored.open(keys, &key)?
    {
        let (path, context) = (value_path(uid, &file.id), value_context(keys, &file.id));
        step.file(reseal_file(view, &path, &context))?;
    }
    if !stored.is_newest(view.shared(), &key)? {
        step.old.push(key);
    }
    Ok(())
}

/// Seals the next contents anew that only the registry and the guests' blobs refer to.
fn contents(view: &TenantStore, after: &str) -> Result<Step, StoreError> {
    let (keys, uid) = (view.keys(), &view.shared().uid);
    let mut names = view.store().0.files.list(&blobs::directory(uid)).map_err(StoreError::unavailable)?;
    names.retain(|name| name.as_str() > after);
    names.sort_unstable();
    let mut step = Step::default();
    for (count, name) in names.into_iter().enumerate() {
        if count == STEP_COUNT || step.content_bytes >= STEP_CONTENT_BYTES {
            return Ok(step);
        }
        if let Ok(id) = name.parse() {
            step.file(reseal_file(view, &blob_path(uid, &name), &blobs::context(keys, &id)))?;
        }
        step.last = Some(name);
    }
    step.last = None;
    Ok(step)
}

fn blob_path(uid: &Uid, name: &str) -> String {
    format!("{}/{name}", blobs::directory(uid))
}

/// Seals one file anew beside itself and puts it in its own place. One that is gone, or new already, is left alone; a file
/// deleted in that moment comes back without anything that refers to it, and the next start sweeps it. Gives its bytes on the
/// disk; none of one that was left alone.
fn reseal_file(view: &TenantStore, path: &str, context: &Context<'_>) -> Result<u64, StoreError> {
    let (store, keys) = (view.store(), view.keys());
    let mut reader = match store.0.files.open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        opened => opened.map_err(StoreError::unavailable)?,
    };
    let mut buffer = vec![0_u8; READ_BYTES];
    let mut count = reader.read(&mut buffer).map_err(StoreError::unavailable)?;
    let newest = keys.newest_version(Purpose::Blob)?;
    if sealed_version(buffer.get(..count).unwrap_or_default()) == Some(newest) {
        return Ok(0);
    }
    store.0.check_free()?;
    let mut opener = keys.stream_opener(Purpose::Blob, context);
    let mut sealer = keys.stream_sealer(Purpose::Blob, context, view.shared().entropy.as_ref())?;
    let mut to = store.0.files.create(path).map_err(StoreError::unavailable)?;
    let (mut plain, mut sealed) = (ringfence_keys::Zeroizing::new(Vec::new()), Vec::new());
    let mut bytes = 0_u64;
    while count > 0 {
        bytes = bytes.saturating_add(count as u64);
        opener.push(buffer.get(..count).unwrap_or_default(), &mut plain).map_err(StoreError::opening)?;
        sealer.push(&plain, &mut sealed)?;
        to.write(&sealed).map_err(StoreError::unavailable)?;
        plain.clear();
        sealed.clear();
        count = reader.read(&mut buffer).map_err(StoreError::unavailable)?;
    }
    opener.finish(&mut plain).map_err(StoreError::opening)?;
    sealer.push(&plain, &mut sealed)?;
    sealer.finish(&mut sealed)?;
    to.write(&sealed).map_err(StoreError::unavailable)?;
    // INVARIANT: the name is given only after the old file opened to its end: nothing damaged is ever put in its place.
    to.replace().map_err(StoreError::unavailable)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;
    use std::sync::atomic::AtomicU8;
    use std::time::Duration;

    use ringfence_core::{Clock, Entropy};
    use ringfence_keys::{RootKey, RootKeyUri};

    use super::*;
    use crate::engine::{Fault, Faults};
    use crate::key::Key;
    use crate::store::Store;
    use crate::tenant_store::tests::Counting;

    struct Still;
    impl Clock for Still {
        fn now(&self) -> jiff::Timestamp {
            jiff::Timestamp::UNIX_EPOCH
        }
        fn monotonic(&self) -> Duration {
            Duration::ZERO
        }
    }

    struct Rig {
        store: Store,
        faults: Faults,
        root: Arc<RootKey>,
        entropy: Arc<dyn Entropy>,
        _directory: tempfile::TempDir,
    }

    impl Rig {
        fn new() -> Self {
            let (directory, faults) = (tempfile::tempdir().unwrap(), Faults::default());
            let entropy: Arc<dyn Entropy> = Arc::new(Counting(AtomicU8::new(1)));
            let uri = RootKeyUri::File(directory.path().join("root.key"));
            let root = Arc::new(RootKey::open_or_create(&uri, &*entropy).unwrap());
            Self { store: Store::memory_with_faults(faults.clone()), faults, root, entropy, _directory: directory }
        }

        /// As after a start.
        async fn open(&self) -> Tenants {
            let (root, entropy) = (Arc::clone(&self.root), Arc::clone(&self.entropy));
            Tenants::open(self.store.clone(), root, entropy, Arc::new(Still)).await.unwrap()
        }
    }

    fn acme() -> TenantId {
        "acme".parse().unwrap()
    }

    /// A tenant with some records.
    async fn furnished(tenants: &Tenants) -> TenantStore {
        tenants.create(&acme(), "Acme").await.unwrap();
        let view = tenants.open_tenant(&acme()).unwrap();
        for number in 0..5 {
            view.put(&Key::new(["kv"]).number(number), "value").await.unwrap();
        }
        view
    }

    /// The versions of the key that a tenant's records are under.
    fn versions(view: &TenantStore) -> BTreeSet<u8> {
        let prefix = area(AREA_RECORDS, &view.shared().uid);
        let to = successor(&prefix).map_or(Bound::Unbounded, Bound::Excluded);
        let (from, order) = (Bound::Included(prefix), Order::Forward);
        let rows = view.engine().range(&Span { from, to, order, count_max: 1_000, bytes_max: usize::MAX }).unwrap();
        let sealed = rows.pairs.iter().map(|(_, value)| Stored::parse(value).unwrap().sealed_bytes());
        sealed.map(|sealed| sealed_version(sealed).unwrap()).collect()
    }

    async fn to_the_end(tenants: &Tenants) {
        while tenants.reseal_step(&acme()).await.unwrap() != ResealStep::Done {}
    }

    #[tokio::test]
    async fn a_rotation_that_is_cut_before_it_said_so_is_made_up_for_at_a_start_and_while_the_host_runs() {
        let rig = Rig::new();
        let tenants = rig.open().await;
        let view = furnished(&tenants).await;
        let resealing = async |tenants: &Tenants| tenants.tended_keys().await.unwrap().resealing;
        rig.faults.plan([Some(Fault::Lost)]);
        assert!(tenants.rotate_key(&acme(), None).await.is_err());
        assert_eq!(view.keys().newest_version(Purpose::Record).unwrap(), 2, "it is in force");
        assert!(resealing(&tenants).await.is_empty());
        let tenants = rig.open().await;
        assert_eq!(resealing(&tenants).await, [acme()]);
        to_the_end(&tenants).await;
        assert_eq!(versions(&view), BTreeSet::from([2]));
        let tenants = rig.open().await;
        assert!(resealing(&tenants).await.is_empty(), "what was done is not done again");

        rig.faults.plan([Some(Fault::Lost)]);
        assert!(tenants.rotate_key(&acme(), Some(Purpose::Record)).await.is_err());
        assert!(resealing(&tenants).await.is_empty());
        assert_eq!(tenants.retire_key_versions(&acme()).await.unwrap(), None);
        assert_eq!(resealing(&tenants).await, [acme()]);
        // Disabling in between forgets none of it.
        tenants.disable_key(&acme(), "u_one", crate::Side::Operator).await.unwrap();
        tenants.enable_key(&acme(), crate::Side::Operator).await.unwrap();
        to_the_end(&tenants).await;
        assert_eq!(tenants.retire_key_versions(&acme()).await.unwrap(), None);
        assert!(resealing(&tenants).await.is_empty());
    }

    /// One write of a tenant that is being flushed, and a hundred that wait behind it.
    async fn crowd(rig: &Rig, view: &TenantStore) -> Vec<tokio::task::JoinHandle<Result<(), StoreError>>> {
        let put = |number: u64| {
            let view = view.clone();
            tokio::spawn(async move { view.put(&Key::new(["crowd"]).number(number), "value").await.map(drop) })
        };
        rig.faults.hold_flushes();
        let mut puts = vec![put(0)];
        while rig.faults.held_count() == 0 {
            tokio::task::yield_now().await;
        }
        puts.extend((1..=100).map(put));
        while rig.store.0.committer.waiting() < 100 {
            tokio::task::yield_now().await;
        }
        puts
    }

    #[tokio::test]
    async fn only_the_tenants_own_writes_put_a_step_off() {
        let rig = Rig::new();
        let tenants = rig.open().await;
        let own = furnished(&tenants).await;
        let other: TenantId = "other".parse().unwrap();
        tenants.create(&other, "Other").await.unwrap();
        let others = tenants.open_tenant(&other).unwrap();
        tenants.rotate_key(&acme(), None).await.unwrap();
        let puts = crowd(&rig, &own).await;
        assert_eq!(tenants.reseal_step(&acme()).await.unwrap(), ResealStep::PutOff);
        rig.faults.let_all_through();
        for put in puts {
            put.await.unwrap().unwrap();
        }
        let puts = crowd(&rig, &others).await;
        let of = tenants.clone();
        let step = tokio::spawn(async move { of.reseal_step(&acme()).await });
        while rig.store.0.committer.waiting() < 101 && !step.is_finished() {
            tokio::task::yield_now().await;
        }
        assert!(!step.is_finished(), "others' writes put it off");
        rig.faults.let_all_through();
        assert_eq!(step.await.unwrap().unwrap(), ResealStep::More);
        for put in puts {
            put.await.unwrap().unwrap();
        }
        to_the_end(&tenants).await;
        assert_eq!(versions(&own), BTreeSet::from([2]));
    }

    #[tokio::test]
    async fn a_rotation_while_the_first_step_of_another_is_written_leaves_nothing_under_the_older_version() {
        let rig = Rig::new();
        let tenants = rig.open().await;
        let view = furnished(&tenants).await;
        tenants.rotate_key(&acme(), None).await.unwrap();
        rig.faults.hold_flushes();
        let of = tenants.clone();
        let step = tokio::spawn(async move { of.reseal_step(&acme()).await });
        while rig.faults.held_count() == 0 {
            tokio::task::yield_now().await;
        }
        let of = tenants.clone();
        let rotated = tokio::spawn(async move { of.rotate_key(&acme(), None).await });
        // From here on it has the lock of all tenants, and the step waits for it.
        while view.keys().newest_version(Purpose::Record).unwrap() < 3 {
            tokio::task::yield_now().await;
        }
        rig.faults.let_all_through();
        assert_eq!(step.await.unwrap().unwrap(), ResealStep::More);
        rotated.await.unwrap().unwrap();
        to_the_end(&tenants).await;
        assert_eq!(versions(&view), BTreeSet::from([3]));
    }
}
