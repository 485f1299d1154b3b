//! Looking through a whole store: whether everything in it that the root key opens is what it was when it was sealed.
//!
//! The database is copied and the copy is opened, because opening may mend what should be looked at first. Must never
//! change what it checks, and never name a key or show a value: damage is told by tenant and by number.
//! LIMIT: needs as much free space as the database takes.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use cap_std::fs::Dir;
use ringfence_core::Entropy;
use ringfence_keys::RootKey;
use serde::Serialize;

use crate::blobs::{self, Blobs};
use crate::directory::{self, Format};
use crate::engine::OpenFailure;
use crate::error::StoreError;
use crate::files::Files;
use crate::key::{AREA_FILES, AREA_RECORDS, AREA_TALLY, Key, UID_BYTES, Uid};
use crate::record::{Content, Stored, revision_of};
use crate::store::{Found, LESS, Store, state};
use crate::tally::Tally;
use crate::tenant_keys::{PLATFORM_UID, read_key};
use crate::tenant_store::{Tenant, TenantStore, value_path};
use crate::tenants::{PLATFORM, Phase, StoredTenant, TenantState, parse_uid};
use crate::transfer::walk;

/// The copy's name in the data directory.
const COPY: &str = "check.part";

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// Tenants looked at, the platform's own area with them.
    pub tenants_count: u64,
    /// Records opened.
    pub records_count: u64,
    /// Files opened: large values and blobs.
    pub files_count: u64,
    /// What is not as it should be; nothing when all is well.
    pub damage: Vec<Damage>,
    /// Tenants whose tally was counted anew afterwards ([`crate::recount`]); none where nobody asked for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recounted_count: Option<u64>,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// Whose it is; none when it concerns all.
    pub tenant: Option<String>,
    /// What is wrong.
    pub what: String,
    /// How often.
    pub count: u64,
}

/// What is open while checking.
struct Check {
    store: Store,
    entropy: Arc<dyn Entropy>,
    views: BTreeMap<Uid, TenantStore>,
    /// Tenants whose deletion was begun: what is left of them has no key any more.
    leaving: Vec<Uid>,
    /// What there is of each tenant, and what there should be.
    tallies: BTreeMap<Uid, (Tally, Kept)>,
    /// Whether there is a tally of every tenant that has records; else those that there are may be wrong.
    are_tallied: bool,
    checked: Checked,
}

/// What lies where a tenant's tally should.
#[derive(Clone, Copy, Default)]
enum Kept {
    #[default]
    Nothing,
    Damaged,
    Whole(Tally),
}

/// Checks the store in `dir` with `cache_bytes` of memory for pages. Fails only when it cannot look: the store is
/// open elsewhere, made by a later version, or its root key is another.
pub async fn check(
    dir: &Path,
    root: &RootKey,
    entropy: Arc<dyn Entropy>,
    cache_bytes: u64,
) -> Result<Checked, StoreError> {
    check_with(dir, root, entropy, cache_bytes, async |_: &TenantStore| None).await
}

/// The same, and asks somebody else what is wrong with each tenant whose key is here: in words that may be shown to anybody.
pub async fn check_with(
    dir: &Path,
    root: &RootKey,
    entropy: Arc<dyn Entropy>,
    cache_bytes: u64,
    look: impl AsyncFn(&TenantStore) -> Option<String>,
) -> Result<Checked, StoreError> {
    let Some(Format { version, backend }) = directory::read_format(dir)? else {
        return Err(StoreError::unavailable(format!("there is no store in `{}`", dir.display())));
    };
    let _lock = directory::lock(dir)?;
    let marked = directory::read_mark(dir).map_err(StoreError::unavailable)?;
    let copy = dir.join(COPY);
    remove(&copy)?;
    let copied = copy_files(&dir.join(backend.directory()), &copy).map_err(StoreError::unavailable);
    let opened = copied.map(|()| backend.open(&copy, cache_bytes));
    let engine = match opened {
        Ok(Ok(engine)) => engine,
        Ok(Err(OpenFailure::Corrupt(reason))) => {
            remove(&copy)?;
            let damage = vec![Damage { tenant: None, what: format!("the database is damaged: {reason}"), count: 1 }];
            return Ok(Checked { damage, ..Checked::default() });
        }
        Ok(Err(OpenFailure::Io(error))) => {
            remove(&copy)?;
            return Err(StoreError::unavailable(error));
        }
        Err(error) => {
            remove(&copy)?;
            return Err(error);
        }
    };
    let files = Dir::open_ambient_dir(dir, cap_std::ambient_authority()).map_err(StoreError::unavailable)?;
    let found = state(&*engine, marked)?;
    let store = Store::for_reading(engine, Files::Disk(Arc::new(files)));
    let mut check = Check {
        store,
        entropy,
        views: BTreeMap::new(),
        leaving: Vec::new(),
        tallies: BTreeMap::new(),
        are_tallied: version >= directory::VERSION_TALLIED,
        checked: Checked::default(),
    };
    if matches!(found, Found::Less) {
        check.tell(None, LESS);
    }
    let result = check.all(root).await;
    if result.is_ok() {
        check.tenants_by(look).await;
    }
    check.store.close().await?;
    remove(&copy)?;
    result.map(|()| check.checked)
}

// === impl Check ===

impl Check {
    async fn all(&mut self, root: &RootKey) -> Result<(), StoreError> {
        if !self.unlock(root, PLATFORM_UID, PLATFORM)? {
            return Ok(());
        }
        self.tenants(root)?;
        let engine = Arc::clone(&self.store.0.engine);
        walk(&*engine, |rows| {
            rows.iter().for_each(|(key, value)| self.row(key, value));
            Ok(())
        })?;
        for view in self.views.values().cloned().collect::<Vec<_>>() {
            self.tally(&view);
            self.blobs(&view).await?;
        }
        self.checked.tenants_count = self.views.len() as u64;
        Ok(())
    }

    /// Tells what somebody else finds.
    async fn tenants_by(&mut self, look: impl AsyncFn(&TenantStore) -> Option<String>) {
        for view in self.views.values().cloned().collect::<Vec<_>>() {
            if view.tenant().is_some()
                && let Some(what) = look(&view).await
            {
                self.tell(Some(view.label()), &what);
            }
        }
    }

    /// Unwraps the key of a tenant; says whether there is one. Another root key is an error: it would make all of it
    /// look damaged.
    fn unlock(&mut self, root: &RootKey, uid: Uid, label: &str) -> Result<bool, StoreError> {
        let wrapped = match read_key(&self.store, &uid) {
            Ok(Some(wrapped)) => wrapped,
            Ok(None) => {
                self.tell(Some(label), "the wrapped key is missing");
                return Ok(false);
            }
            Err(StoreError::Damaged) => {
                self.tell(Some(label), "the wrapped key is damaged");
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        let keys = match root.unwrap_tenant_key(label, &wrapped) {
            Ok(keys) => keys,
            Err(error @ ringfence_keys::KeysError::OtherRootKey { .. }) => return Err(error.into()),
            Err(_) => {
                self.tell(Some(label), "the wrapped key is damaged");
                return Ok(false);
            }
        };
        let id = label.parse().ok();
        let tenant = Tenant::new(id, uid, keys, Arc::clone(&self.entropy), TenantState::Active);
        self.views.insert(uid, TenantStore::new(self.store.clone(), tenant));
        Ok(true)
    }

    /// Finds the tenants in the platform's area. A record that does not open is told later, with all the others.
    fn tenants(&mut self, root: &RootKey) -> Result<(), StoreError> {
        let Some(platform) = self.views.get(&PLATFORM_UID).cloned() else { return Ok(()) };
        let prefix = Key::new(["tenant"]).seal(platform.keys(), &PLATFORM_UID)?;
        let mut found = Vec::new();
        walk(platform.engine(), |rows| {
            for (key, value) in rows.iter().filter(|(key, _)| key.starts_with(&prefix)) {
                let opened = Stored::parse(value).and_then(|stored| stored.open(platform.keys(), key));
                if let Ok(Content::Inside(json)) = opened
                    && let Ok(stored) = serde_json::from_slice::<StoredTenant>(&json)
                {
                    found.push(stored);
                }
            }
            Ok(())
        })?;
        for stored in found {
            let uid = parse_uid(&stored.record.uid)?;
            match stored.phase {
                Phase::Deleting => self.leaving.push(uid),
                Phase::Live => {
                    self.unlock(root, uid, stored.record.id.as_str())?;
                }
            }
        }
        Ok(())
    }

    fn row(&mut self, key: &[u8], value: &[u8]) {
        let Some((area, rest)) = key.split_first() else { return };
        let Some(uid) = rest.first_chunk::<UID_BYTES>() else { return };
        if self.leaving.contains(uid) || !matches!(*area, AREA_RECORDS | AREA_FILES | AREA_TALLY) {
            return;
        }
        let (there, kept) = self.tallies.entry(*uid).or_default();
        match *area {
            AREA_RECORDS => there.add(revision_of(value)),
            AREA_TALLY => {
                *kept = Tally::parse(value).map_or(Kept::Damaged, Kept::Whole);
                return;
            }
            _ => {}
        }
        let Some(view) = self.views.get(uid).cloned() else {
            self.tell(None, "records of no tenant whose key is here");
            return;
        };
        if *area == AREA_FILES {
            let id = rest.get(UID_BYTES..).and_then(|id| id.try_into().ok());
            if id.is_none_or(|id| self.store.0.files.open(&value_path(uid, &id)).is_err()) {
                self.tell(Some(view.label()), "files of large values are missing");
            }
            return;
        }
        match Stored::parse(value).and_then(|stored| stored.open(view.keys(), key)) {
            Ok(Content::Inside(_)) => self.checked.records_count += 1,
            Ok(Content::InFile(file)) => match view.read_file(file) {
                Ok(Some(_)) => {
                    self.checked.records_count += 1;
                    self.checked.files_count += 1;
                }
                // Told by its index entry.
                Ok(None) => {}
                Err(_) => self.tell(Some(view.label()), "files of large values do not open"),
            },
            Err(_) => self.tell(Some(view.label()), "records do not open"),
        }
    }

    /// LIMIT: of a directory that was not opened since there are tallies nothing is told.
    fn tally(&mut self, view: &TenantStore) {
        if !self.are_tallied {
            return;
        }
        let (there, kept) = self.tallies.get(&view.shared().uid).copied().unwrap_or_default();
        match kept {
            Kept::Whole(kept) => {
                let (missing_count, is_older) = there.against(&kept);
                self.tell_many(Some(view.label()), "records are missing", missing_count);
                self.tell_many(Some(view.label()), "records are older than they were", u64::from(is_older));
            }
            Kept::Damaged => self.tell(Some(view.label()), "the tally of its records is damaged"),
            Kept::Nothing if there != Tally::default() => {
                self.tell(Some(view.label()), "the tally of its records is missing");
            }
            Kept::Nothing => {}
        }
    }

    async fn blobs(&mut self, view: &TenantStore) -> Result<(), StoreError> {
        let uid = &view.shared().uid;
        let names = self.store.0.files.list(&blobs::directory(uid)).map_err(StoreError::unavailable)?;
        for name in names {
            match reads_to_the_end(&view.blobs(), &name).await {
                Ok(()) => self.checked.files_count += 1,
                Err(_) => self.tell(Some(view.label()), "files do not open"),
            }
        }
        Ok(())
    }

    fn tell(&mut self, tenant: Option<&str>, what: &str) {
        self.tell_many(tenant, what, 1);
    }

    fn tell_many(&mut self, tenant: Option<&str>, what: &str, count: u64) {
        if count == 0 {
            return;
        }
        let damage = &mut self.checked.damage;
        match damage.iter_mut().find(|known| known.tenant.as_deref() == tenant && known.what == what) {
            Some(known) => known.count = known.count.saturating_add(count),
            None => damage.push(Damage { tenant: tenant.map(str::to_owned), what: what.to_owned(), count }),
        }
    }
}

async fn reads_to_the_end(blobs: &Blobs, name: &str) -> Result<(), StoreError> {
    let mut reader = blobs.read_stream(&name.parse()?).await?;
    while reader.next().await?.is_some() {}
    Ok(())
}

// === the copy ===

pub(crate) fn copy_files(from: &Path, to: &Path) -> io::Result<()> {
    directory::make(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_files(&entry.path(), &to)?;
        } else {
            std::fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

fn remove(copy: &Path) -> Result<(), StoreError> {
    match std::fs::remove_dir_all(copy) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::unavailable(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU8;

    use ringfence_keys::RootKeyUri;

    use super::*;
    use crate::engine::{Backend, Write};
    use crate::key::area;
    use crate::store::DiskOptions;
    use crate::tally::recount;
    use crate::tenant_store::tests::Counting;
    use crate::tenants::Tenants;

    const CACHE_BYTES: u64 = 4 << 20;

    struct Still;
    impl ringfence_core::Clock for Still {
        fn now(&self) -> jiff::Timestamp {
            jiff::Timestamp::UNIX_EPOCH
        }
        fn monotonic(&self) -> std::time::Duration {
            std::time::Duration::ZERO
        }
    }

    #[tokio::test]
    async fn a_tally_that_is_damaged_lost_or_too_high_is_named_until_it_is_counted_anew() {
        let directory = tempfile::tempdir().unwrap();
        let dir = directory.path().join("data");
        let entropy: Arc<dyn Entropy> = Arc::new(Counting(AtomicU8::new(1)));
        let uri = RootKeyUri::File(directory.path().join("root.key"));
        let root = Arc::new(RootKey::open_or_create(&uri, &*entropy).unwrap());
        let options = DiskOptions { backend: Backend::Sled, cache_bytes: CACHE_BYTES, free_bytes_min: 0 };
        let found = async || check(&dir, &root, Arc::clone(&entropy), CACHE_BYTES).await.unwrap().damage;
        let mut row = None;
        for (value, what, count) in [
            (Some(vec![1; 15]), "the tally of its records is damaged", 1),
            (None, "the tally of its records is missing", 1),
            (Some([[0; 7], [3; 7]].concat()), "the tally of its records is damaged", 1),
            (Some([3_u64.to_be_bytes(), [0; 8]].concat()), "records are missing", 2),
        ] {
            let store = Store::open(&dir, options).unwrap();
            let tenants = Tenants::open(store.clone(), Arc::clone(&root), Arc::clone(&entropy), Arc::new(Still));
            let tenants = tenants.await.unwrap();
            if row.is_none() {
                tenants.create(&"acme".parse().unwrap(), "Acme").await.unwrap();
                let view = tenants.open_tenant(&"acme".parse().unwrap()).unwrap();
                view.put(&Key::new(["kv", "one"]), vec![1]).await.unwrap();
                row = Some(area(AREA_TALLY, &view.shared().uid));
            }
            let key = row.clone().unwrap();
            store.0.engine.commit(vec![Write { key, value }]).unwrap();
            store.close().await.unwrap();
            let damage = vec![Damage { tenant: Some("acme".to_owned()), what: what.to_owned(), count }];
            assert_eq!(found().await, damage);
            // The platform's own area is counted with the tenants.
            assert_eq!(recount(&dir, CACHE_BYTES).unwrap(), 2);
            assert_eq!(found().await, []);
        }
    }
}
