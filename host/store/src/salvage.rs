//! Recovering what opens of a store that was set aside as damaged, into a new store in its place. Offline.
//!
//! Every record is opened under its tenant's key before it is taken over: what was altered is left behind and counted, by
//! tenant. Must never change or delete what was set aside, except for its name: the operator deletes it. Key files and the
//! files of values are linked, not copied: what a tenant's deletion destroys later is destroyed in both places.
//!
//! LIMIT: a tenant whose own record is lost cannot be brought back, because its key opens for its name alone; it is counted
//! by its unique id. What is missing without a trace is told by two revisions, which say how far the database goes, and by
//! each tenant's tally of its records.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cap_std::fs::Dir;
use data_encoding::HEXLOWER;
use ringfence_core::Entropy;
use ringfence_keys::RootKey;
use serde::Serialize;

use crate::check::copy_files;
use crate::directory::{self, Format};
use crate::engine::{Backend, Damaged, Engine, MemoryEngine, OpenFailure, Write};
use crate::error::StoreError;
use crate::files::Files;
use crate::key::{AREA_RECORDS, AREA_TALLY, Key, UID_BYTES, Uid, area, index_key};
use crate::record::{Content, Stored, revision_of};
use crate::store::{MARK, MARK_KEY, REVISION_KEY, Store};
use crate::tally::Tally;
use crate::tenant_keys::{PLATFORM_UID, read_key};
use crate::tenant_store::{Tenant, TenantStore};
use crate::tenants::{PLATFORM, Phase, StoredTenant, TenantState, parse_uid};

/// The copy of the damaged database, and the new store until it is whole.
const COPY: &str = "salvage-copy.part";
const NEW: &str = "salvage.part";

/// What was recovered and what was not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Salvaged {
    /// Where the damaged store lies now.
    pub kept: PathBuf,
    /// What came of each tenant, the platform's own area with them.
    pub tenants: Vec<SalvagedTenant>,
    /// Unique ids of which there are records and no tenant: theirs was lost.
    pub nameless: BTreeMap<String, u64>,
    /// Places of the database that could not be read; nobody knows what was there.
    pub gaps_count: u64,
    /// The newest revision that was durable for certain, as the mark beside the database has it.
    pub durable_revision: u64,
    /// The newest that was found.
    pub found_revision: u64,
}

/// What came of a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SalvagedTenant {
    /// Its name.
    pub tenant: String,
    /// Records recovered.
    pub recovered_count: u64,
    /// Records that did not open, or whose file of a large value did not.
    pub lost_count: u64,
    /// Records that there were by the tenant's tally, and of which there is no trace; none when the tally is lost too, so
    /// that nobody can say.
    pub missing_count: Option<u64>,
    /// Whether records came back older than they were.
    pub is_older: bool,
}

impl Salvaged {
    /// Whether everything that is known to have been there is there again.
    pub fn is_whole(&self) -> bool {
        self.gaps_count == 0
            && self.nameless.is_empty()
            && self.tenants.iter().all(SalvagedTenant::is_whole)
            && self.found_revision >= self.durable_revision
    }
}

impl SalvagedTenant {
    /// Whether everything that is known to have been the tenant's is there again, as new as it was.
    pub fn is_whole(&self) -> bool {
        self.lost_count == 0 && self.missing_count == Some(0) && !self.is_older
    }
}

struct Work {
    source: Damaged,
    seeds: BTreeSet<Vec<u8>>,
    /// The files that were set aside, under no database at all.
    aside: Store,
    entropy: Arc<dyn Entropy>,
    views: BTreeMap<Uid, TenantStore>,
    counts: BTreeMap<Uid, SalvagedTenant>,
    /// Tenants whose deletion was begun: what is left of them is not brought back.
    leaving: BTreeSet<Uid>,
    /// Whether the tallies that there are can be relied on.
    are_tallied: bool,
    done: Salvaged,
}

/// Recovers the store that was set aside last in `dir` into a new one in its place, with `cache_bytes` of memory for pages.
/// Fails, with everything as it was, when nothing was set aside, a store lies there already, or its platform key does not
/// open.
pub fn salvage(
    dir: &Path,
    root: &RootKey,
    entropy: Arc<dyn Entropy>,
    cache_bytes: u64,
) -> Result<Salvaged, StoreError> {
    let aside = newest_aside(dir)?;
    let _lock = directory::lock(dir)?;
    if dir.join("FORMAT").exists() {
        return Err(StoreError::unavailable(format!(
            "a store lies in `{}` already: move it away first",
            dir.display()
        )));
    }
    let format = directory::read_format(&aside)?
        .ok_or_else(|| StoreError::unavailable(format!("there is no store in `{}`", aside.display())))?;
    let backend = format.backend;
    let (copy, new) = (dir.join(COPY), dir.join(NEW));
    clear(&copy)?;
    clear(&new)?;
    copy_files(&aside.join(backend.directory()), &copy).map_err(StoreError::unavailable)?;
    let result = recover(&aside, format, (&copy, &new), root, entropy, cache_bytes);
    clear(&copy)?;
    let mut done = match result {
        Ok(done) => done,
        Err(error) => {
            clear(&new)?;
            return Err(error);
        }
    };
    put_in_place(dir, backend, &new).map_err(StoreError::unavailable)?;
    done.kept = rename_aside(dir, &aside).map_err(StoreError::unavailable)?;
    Ok(done)
}

fn recover(
    aside: &Path,
    Format { version, backend }: Format,
    (copy, new): (&Path, &Path),
    root: &RootKey,
    entropy: Arc<dyn Entropy>,
    cache_bytes: u64,
) -> Result<Salvaged, StoreError> {
    let source = Damaged::open(backend, copy, cache_bytes).map_err(|failure| match failure {
        OpenFailure::Corrupt(reason) => StoreError::unavailable(format!("nothing of the database opens ({reason})")),
        OpenFailure::Io(error) => StoreError::unavailable(error),
    })?;
    let files = Dir::open_ambient_dir(aside, cap_std::ambient_authority()).map_err(StoreError::unavailable)?;
    let store = Store::for_reading(Arc::new(MemoryEngine::default()), Files::Disk(Arc::new(files)));
    let mut work = Work {
        source,
        seeds: seeds(aside).map_err(StoreError::unavailable)?,
        aside: store,
        entropy,
        views: BTreeMap::new(),
        counts: BTreeMap::new(),
        leaving: BTreeSet::new(),
        are_tallied: version >= directory::VERSION_TALLIED,
        done: Salvaged::default(),
    };
    work.done.durable_revision = directory::read_mark(aside).map_err(StoreError::unavailable)?.unwrap_or(0);
    if !work.unlock(root, PLATFORM_UID, PLATFORM)? {
        return Err(StoreError::KeyMissing { what: "the platform" });
    }
    work.tenants(root)?;
    let database = new.join(backend.directory());
    directory::make(&database).map_err(StoreError::unavailable)?;
    let target = backend.open(&database, cache_bytes).map_err(StoreError::unavailable)?;
    work.rows(&*target)?;
    target.close();
    drop(target);
    if work.counts.get(&PLATFORM_UID).is_none_or(|platform| platform.recovered_count == 0) {
        return Err(StoreError::unavailable("nothing of the database opens"));
    }
    for part in ["keys", "blobs"] {
        link_files(&aside.join(part), &new.join(part)).map_err(StoreError::unavailable)?;
    }
    work.done.tenants = work.counts.into_values().collect();
    Ok(work.done)
}

// === impl Work ===

impl Work {
    /// Unwraps a tenant's key; says whether it opens. Another root key than the store's is an error.
    fn unlock(&mut self, root: &RootKey, uid: Uid, label: &str) -> Result<bool, StoreError> {
        let keys = match read_key(&self.aside, &uid) {
            Ok(Some(wrapped)) => root.unwrap_tenant_key(label, &wrapped),
            Ok(None) | Err(StoreError::Damaged) => return Ok(false),
            Err(error) => return Err(error),
        };
        let keys = match keys {
            Ok(keys) => keys,
            Err(error @ ringfence_keys::KeysError::OtherRootKey { .. }) => return Err(error.into()),
            Err(error) if error.is_transient() || error.is_own() => return Err(error.into()),
            Err(_) => return Ok(false),
        };
        let tenant = Tenant::new(label.parse().ok(), uid, keys, Arc::clone(&self.entropy), TenantState::Active);
        self.views.insert(uid, TenantStore::new(self.aside.clone(), tenant));
        let tenant = label.to_owned();
        let none = SalvagedTenant { tenant, recovered_count: 0, lost_count: 0, missing_count: None, is_older: false };
        self.counts.insert(uid, none);
        Ok(true)
    }

    fn tenants(&mut self, root: &RootKey) -> Result<(), StoreError> {
        let Some(platform) = self.views.get(&PLATFORM_UID).cloned() else { return Ok(()) };
        let prefix = Key::new(["tenant"]).seal(platform.keys(), &PLATFORM_UID)?;
        let mut found = Vec::new();
        self.source.walk(&self.seeds, |rows| {
            for (key, value) in rows.iter().filter(|(key, _)| key.starts_with(&prefix)) {
                if let Ok(Content::Inside(json)) = Stored::parse(value).and_then(|s| s.open(platform.keys(), key))
                    && let Ok(stored) = serde_json::from_slice::<StoredTenant>(&json)
                {
                    found.push(stored);
                }
            }
            Ok::<_, StoreError>(())
        })?;
        for stored in found {
            let uid = parse_uid(&stored.record.uid)?;
            if stored.phase == Phase::Deleting {
                self.leaving.insert(uid);
            } else {
                self.unlock(root, uid, stored.record.id.as_str())?;
            }
        }
        Ok(())
    }

    fn rows(&mut self, target: &dyn Engine) -> Result<(), StoreError> {
        let Self { source, seeds, views, counts, leaving, are_tallied, done, .. } = self;
        let mut newest = 0;
        let (mut kept, mut seen) = (BTreeMap::new(), BTreeMap::<Uid, Tally>::new());
        let mut recovered = BTreeMap::<Uid, Tally>::new();
        let gaps_count = source.walk(seeds, |rows| {
            let mut writes = Vec::new();
            for (key, value) in rows {
                if let Some(uid) = uid_in(AREA_TALLY, &key).filter(|_| *are_tallied) {
                    kept.extend(Tally::parse(&value).map(|tally| (uid, tally)));
                }
                let Some(uid) = uid_in(AREA_RECORDS, &key) else { continue };
                seen.entry(uid).or_default().add(revision_of(&value));
                let Some(view) = views.get(&uid) else {
                    if !leaving.contains(&uid) {
                        *done.nameless.entry(HEXLOWER.encode(&uid)).or_default() += 1;
                    }
                    continue;
                };
                let Some(count) = counts.get_mut(&uid) else { continue };
                match taken_over(view, key, value) {
                    Some((revision, some)) => {
                        newest = newest.max(revision);
                        recovered.entry(uid).or_default().add(revision);
                        writes.extend(some);
                        count.recovered_count += 1;
                    }
                    None => count.lost_count += 1,
                }
            }
            target.apply(writes)?;
            Ok::<_, StoreError>(target.sync()?)
        })?;
        (done.gaps_count, done.found_revision) = (gaps_count, newest);
        for (uid, count) in counts {
            let found = seen.remove(uid).unwrap_or_default();
            let compared = kept.get(uid).map(|kept| found.against(kept));
            (count.missing_count, count.is_older) = (compared.map(|it| it.0), compared.is_some_and(|it| it.1));
        }
        target.apply(recovered.iter().map(|(uid, tally)| tally.write(uid)).collect())?;
        // Never less than was seen: a revision is never given twice.
        let revision = newest.max(done.durable_revision);
        target.apply(vec![
            Write { key: MARK_KEY.to_vec(), value: Some(MARK.to_vec()) },
            Write { key: REVISION_KEY.to_vec(), value: Some(revision.to_be_bytes().to_vec()) },
        ])?;
        Ok(target.sync()?)
    }
}

/// The tenant of a row, when it lies in this area.
fn uid_in(area: u8, key: &[u8]) -> Option<Uid> {
    let (first, rest) = key.split_first()?;
    (*first == area).then(|| rest.first_chunk::<UID_BYTES>().copied()).flatten()
}

/// What is written for a record that opens: itself, and that its file is referred to.
fn taken_over(view: &TenantStore, key: Vec<u8>, value: Vec<u8>) -> Option<(u64, Vec<Write>)> {
    let (revision, file) = {
        let stored = Stored::parse(&value).ok()?;
        match stored.open(view.keys(), &key).ok()? {
            Content::Inside(_) => (stored.revision, None),
            Content::InFile(file) => {
                let id = file.id;
                view.read_file(file).ok()??;
                (stored.revision, Some(index_key(&view.shared().uid, &id)))
            }
        }
    };
    let index = file.map(|key| Write { key, value: Some(Vec::new()) });
    Some((revision, std::iter::once(Write { key, value: Some(value) }).chain(index).collect()))
}

// === the directory ===

/// The newest store that was set aside.
fn newest_aside(dir: &Path) -> Result<PathBuf, StoreError> {
    let nothing = || StoreError::unavailable(format!("nothing damaged was set aside in `{}`", dir.display()));
    let entries = std::fs::read_dir(dir).map_err(StoreError::unavailable)?;
    let number = |path: &Path| path.file_name()?.to_str()?.strip_prefix("quarantine-")?.parse::<u32>().ok();
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    paths.filter(|path| number(path).is_some()).max_by_key(|path| number(path)).ok_or_else(nothing)
}

/// Behind what there may be something: the records of every key file.
fn seeds(aside: &Path) -> io::Result<BTreeSet<Vec<u8>>> {
    let mut seeds = BTreeSet::new();
    for entry in std::fs::read_dir(aside.join("keys"))? {
        if let Ok(uid) = parse_uid(&entry?.file_name().to_string_lossy()) {
            seeds.insert(area(AREA_RECORDS, &uid));
        }
    }
    Ok(seeds)
}

/// The one step that counts is the last: before `FORMAT` says so there is no store, and what lies there is begun anew.
fn put_in_place(dir: &Path, backend: Backend, new: &Path) -> io::Result<()> {
    let parts = [backend.directory(), "keys", "blobs"];
    if parts.iter().any(|part| dir.join(part).exists()) {
        directory::move_aside(dir, "aside", &parts)?;
    }
    for part in parts {
        std::fs::rename(new.join(part), dir.join(part))?;
    }
    std::fs::remove_dir(new)?;
    directory::sync(dir)?;
    directory::write_format(dir, Format { version: directory::VERSION, backend })
}

/// Gives what was set aside another name: a start refuses while something damaged waits.
fn rename_aside(dir: &Path, aside: &Path) -> io::Result<PathBuf> {
    let name = aside.file_name().map(|name| name.to_string_lossy().replacen("quarantine", "salvaged", 1));
    let kept = dir.join(name.unwrap_or_else(|| "salvaged".to_owned()));
    std::fs::rename(aside, &kept)?;
    directory::sync(dir)?;
    Ok(kept)
}

fn link_files(from: &Path, to: &Path) -> io::Result<()> {
    directory::make(to)?;
    let entries = match std::fs::read_dir(from) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    for entry in entries {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            link_files(&entry.path(), &to)?;
        } else {
            std::fs::hard_link(entry.path(), to)?;
        }
    }
    directory::sync(to)
}

fn clear(directory: &Path) -> Result<(), StoreError> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::unavailable(error)),
        _ => Ok(()),
    }
}
