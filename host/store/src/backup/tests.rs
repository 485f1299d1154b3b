//! Backups against hostile archives, writers that do not wait, and cuts in the middle.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ringfence_core::{QuotaChoice, TenantId};
use ringfence_keys::{RootKey, RootKeyUri};
use sha2::{Digest as _, Sha256};

use super::pin::Snapshot;
use super::*;
use crate::engine::Faults;
use crate::record::{INLINE_BYTES_MAX, Precondition};
use crate::store::Store;
use crate::tenant_store::tests::tenant_in;
use crate::tenants::{TenantState, Tenants};

/// Every draw another, and every run the same.
struct Numbered(AtomicU64);
impl Entropy for Numbered {
    fn fill(&self, into: &mut [u8]) {
        let mut number = self.0.fetch_add(1, Ordering::Relaxed);
        for chunk in into.chunks_mut(32) {
            let digest: [u8; 32] = Sha256::digest(number.to_be_bytes()).into();
            chunk.copy_from_slice(&digest[..chunk.len()]);
            number ^= 1 << 40;
        }
    }
}

struct Stopped;
impl Clock for Stopped {
    fn now(&self) -> Timestamp {
        "2026-11-20T12:00:00Z".parse().unwrap()
    }
    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }
}

pub(super) struct Rig {
    pub(super) tenants: Tenants,
    pub(super) archives: Archives,
    pub(super) store: Store,
    root: Arc<RootKey>,
    entropy: Arc<Numbered>,
    _directory: tempfile::TempDir,
}

impl Rig {
    pub(super) async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let entropy = Arc::new(Numbered(AtomicU64::new(1)));
        let uri = RootKeyUri::File(directory.path().join("root.key"));
        let root = Arc::new(RootKey::open_or_create(&uri, &*entropy).unwrap());
        let store = Store::memory();
        let tenants = Tenants::open(store.clone(), root.clone(), entropy.clone(), Arc::new(Stopped)).await.unwrap();
        let archives = Archives::in_memory(entropy.clone(), Arc::new(Stopped));
        Self { tenants, archives, store, root, entropy, _directory: directory }
    }

    pub(super) async fn tenant(&self, name: &str) -> TenantStore {
        self.tenants.create(&id(name), name).await.unwrap();
        self.tenants.open_tenant(&id(name)).unwrap()
    }

    /// As after a start.
    pub(super) async fn reopened(&self) -> Tenants {
        Tenants::open(self.store.clone(), self.root.clone(), self.entropy.clone(), Arc::new(Stopped)).await.unwrap()
    }

    pub(super) async fn back_up(&self, store: &TenantStore, parent: Option<&Stored>) -> Stored {
        self.archives.create(store, &order(parent)).await.unwrap()
    }

    pub(super) async fn source(&self, store: &TenantStore, stored: &Stored) -> Source {
        let keyring = Keyring::of(store).await.unwrap();
        Source { tenant_uid: store.uid(), backup: stored.backup.clone(), keyring }
    }

    pub(super) async fn in_place(&self, store: &TenantStore, source: &Source) -> Result<Restored, BackupError> {
        self.archives.prepare_restore(store, source).await?;
        self.archives.announce_restore(&self.tenants, store, source).await?;
        assert!(self.archives.is_restoring(store).await.unwrap());
        let restored = self.archives.restore_in_place(store, source).await?;
        self.archives.finish_restore(store).await.map(|()| restored)
    }

    fn file(&self, source: &Source) -> Vec<u8> {
        let path = Archives::path(&source.tenant_uid, &source.backup);
        self.archives.0.files.read(&path, u64::MAX).unwrap().unwrap()
    }

    fn put_file(&self, source: &Source, content: &[u8]) {
        let path = Archives::path(&source.tenant_uid, &source.backup);
        self.archives.0.files.write(&path, content).unwrap();
    }

    pub(super) async fn staged_count(&self) -> usize {
        let page = self.tenants.platform().scan(&Key::new(["staged"]), None, 100).await.unwrap();
        page.records.len()
    }
}

pub(super) fn id(name: &str) -> TenantId {
    name.parse().unwrap()
}

pub(super) fn order(parent: Option<&Stored>) -> Order {
    Order {
        tenant: id("acme"),
        display_name: "Acme".to_owned(),
        host: "here".to_owned(),
        parent: parent.map(|parent| parent.backup.clone()),
        reason: Reason::Asked,
        guest_logs: GuestLogs::With,
        audit_checkpoint: "signed".to_owned(),
        audit_vkey: "key".to_owned(),
    }
}

pub(super) fn kv(name: &str) -> Key {
    Key::new(["kv", "visits", "default", name])
}

pub(super) async fn blob(store: &TenantStore, content: &[u8]) -> BlobId {
    let mut writer = store.blobs().create().await.unwrap();
    writer.write(Bytes::copy_from_slice(content)).await.unwrap();
    writer.finish().await.unwrap()
}

/// Everything under these first segments, by key, as a comparable text.
async fn content(store: &TenantStore, prefix: &Key) -> BTreeSet<(Vec<u8>, Vec<u8>)> {
    let (mut all, mut after) = (BTreeSet::new(), None);
    loop {
        let page = store.scan(prefix, after.as_ref(), 1_000).await.unwrap();
        for (key, record) in page.records {
            all.insert((format::encode_key(&key, 0).unwrap(), record.value.to_vec()));
        }
        match page.next {
            Some(next) => after = Some(next),
            None => return all,
        }
    }
}

pub(super) async fn furnished(rig: &Rig, name: &str) -> (TenantStore, BlobId) {
    let store = rig.tenant(name).await;
    for number in 0..30 {
        store.put(&kv(&format!("n{number}")), vec![number; 40]).await.unwrap();
    }
    store.put(&kv("large"), vec![9; INLINE_BYTES_MAX * 3]).await.unwrap();
    store.put(&Key::new(["secret", "token"]), b"canary".to_vec()).await.unwrap();
    store.put(&Key::new(["audit"]).number(0), b"entry".to_vec()).await.unwrap();
    store.put(&Key::new(["identity", "key", "k1"]), b"hash".to_vec()).await.unwrap();
    let blob = blob(&store, &[5; 300_000]).await;
    (store, blob)
}

#[tokio::test]
async fn a_root_key_that_is_rotated_during_a_restore_keeps_what_the_restored_tenant_needs() {
    let rig = Rig::new().await;
    let (acme, _) = furnished(&rig, "acme").await;
    let made = rig.back_up(&acme, None).await;
    let source = rig.source(&acme, &made).await;
    let staged = rig.archives.restore_new(&rig.tenants, &source, &id("acme-2"), u64::MAX).await.unwrap();
    assert!(!rig.tenants.rotate_root().await.unwrap().is_over);
    rig.tenants.resume_root_rotation().await.unwrap();
    assert!(rig.tenants.is_root_rotating().await.unwrap(), "it is not restored yet");
    staged.publish("Two", QuotaChoice::default()).await.unwrap();
    rig.tenants.resume_root_rotation().await.unwrap();
    assert!(!rig.tenants.is_root_rotating().await.unwrap());
    let tenants = rig.reopened().await;
    let versions = tenants.key_status(&id("acme-2")).await.unwrap().versions;
    assert!(versions.iter().all(|version| version.root == rig.root.id()));
}

#[tokio::test]
async fn a_backup_restores_into_a_new_tenant_with_history_apart_and_no_credentials() {
    let rig = Rig::new().await;
    let (acme, blob) = furnished(&rig, "acme").await;
    let made = rig.back_up(&acme, None).await;
    let source = rig.source(&acme, &made).await;
    let staged = rig.archives.restore_new(&rig.tenants, &source, &id("acme-2"), u64::MAX).await.unwrap();
    assert!(rig.tenants.open_tenant(&id("acme-2")).is_none(), "nobody sees it before it is whole");
    assert_eq!((staged.manifest.tenant.as_str(), staged.manifest.audit_checkpoint.as_str()), ("acme", "signed"));
    staged.publish("Two", QuotaChoice::default()).await.unwrap();
    let tenants = rig.reopened().await;
    let two = tenants.open_tenant(&id("acme-2")).unwrap();
    assert_eq!(two.state(), TenantState::Active);
    for first in ["kv", "secret"] {
        assert_eq!(content(&two, &Key::new([first])).await, content(&acme, &Key::new([first])).await);
    }
    assert_eq!(two.blobs().read_all(&blob, 1 << 20).await.unwrap(), vec![5; 300_000]);
    assert!(two.get(&Key::new(["identity", "key", "k1"])).await.unwrap().is_none());
    assert!(two.get(&Key::new(["audit"]).number(0)).await.unwrap().is_none());
    let old = Key::new(["history", acme.uid().as_str(), "audit"]).number(0);
    assert_eq!(two.get(&old).await.unwrap().unwrap().value.as_slice(), b"entry");
    let [own, old] =
        [&Key::new(["audit"]).number(1), &old].map(|key| two.shared().sealing(&two.seal(key).unwrap()).unwrap());
    assert_eq!((old.purpose, old.inside), (own.purpose, own.inside), "a log is sealed as one, wherever it lies");
    assert_eq!(
        two.held().unwrap().bytes,
        acme.held().unwrap().bytes + 300_000,
        "what it holds is counted, its blob too"
    );
    assert_eq!(rig.staged_count().await, 0);
}

#[tokio::test]
async fn a_drill_finds_what_differs_and_a_failure_stands_until_one_succeeds() {
    let rig = Rig::new().await;
    let (acme, blob) = furnished(&rig, "acme").await;
    let made = rig.back_up(&acme, None).await;
    let source = rig.source(&acme, &made).await;
    let (staged, result) = rig.archives.rehearse(&rig.tenants, &source).await.unwrap();
    let restored = staged.store().clone();
    let differs = async || match rig.archives.compare(&restored, &source).await {
        Err(BackupError::Differs { what }) => Some(what),
        Ok(_) => None,
        Err(error) => panic!("{error}"),
    };
    assert_eq!(differs().await, None);
    restored.put(&kv("n7"), vec![0_u8; 40]).await.unwrap();
    assert_eq!(differs().await, Some("a record"));
    restored.put(&kv("n7"), vec![7_u8; 40]).await.unwrap();
    restored.put(&kv("another"), b"more".to_vec()).await.unwrap();
    assert_eq!(differs().await, Some("the number of records or blobs"));
    restored.delete(&kv("another")).await.unwrap();
    assert_eq!(differs().await, None);
    restored.blobs().delete(&blob).await.unwrap();
    assert!(rig.archives.compare(&restored, &source).await.is_err(), "a blob is gone");
    staged.discard().await.unwrap();
    let good = rig.archives.drilled(&acme, &made.backup, result.clone()).await.unwrap();
    let failed = DrillFailed { at: result.at, what: "a record".to_owned() };
    rig.archives.drill_failed(&acme, &made.backup, failed.clone()).await.unwrap();
    let stored = rig.archives.stored(&acme, &made.backup).await.unwrap().unwrap();
    assert_eq!((stored.drill.as_ref(), stored.drill_failed), (Some(&result), Some(failed)));
    assert_eq!(rig.archives.drilled(&acme, &made.backup, result).await.unwrap(), good);
    assert_eq!(rig.archives.list(&acme).await.unwrap(), [good]);
}

#[tokio::test]
async fn a_snapshot_shows_one_revision_while_everything_under_it_changes() {
    let rig = Rig::new().await;
    let acme = rig.tenant("acme").await;
    for number in 0..2_500_u32 {
        acme.put(&kv(&format!("n{number}")), number.to_be_bytes().to_vec()).await.unwrap();
    }
    acme.put(&kv("large"), vec![1; INLINE_BYTES_MAX + 1]).await.unwrap();
    let gone = blob(&acme, b"contents").await;
    let before = content(&acme, &Key::default()).await;
    let mut snapshot = Snapshot::pin(&acme).await.unwrap();
    assert!(matches!(Snapshot::pin(&acme).await, Err(StoreError::Busy)), "one at a time");
    let mut seen = BTreeSet::new();
    for round in 0_u8.. {
        let Some((records, _)) = snapshot.next().await.unwrap() else { break };
        seen.extend(
            records.into_iter().map(|(key, record)| (format::encode_key(&key, 0).unwrap(), record.value.to_vec())),
        );
        // Everything changes, over and over, at both ends of where the reader is.
        for number in (0..2_500_u32).step_by(7) {
            let key = kv(&format!("n{number}"));
            match number % 3 {
                0 => acme.delete(&key).await.unwrap(),
                _ => acme.put(&key, vec![round; 9]).await.unwrap(),
            };
        }
        acme.put(&kv("large"), vec![round; INLINE_BYTES_MAX + 1]).await.unwrap();
        acme.put(&kv(&format!("new{round}")), b"new".to_vec()).await.unwrap();
        acme.blobs().delete(&gone).await.unwrap();
    }
    assert_eq!(seen, before);
    assert!(snapshot.blobs().contains(&gone));
    assert_eq!(acme.blobs().read_all(&gone, 100).await.unwrap(), b"contents", "kept for the reader");
    let files = || rig.store.0.files.list(&crate::tenant_store::value_directory(&acme.shared().uid)).unwrap().len();
    assert!(files() > 1, "the replaced value too");
    drop(snapshot);
    assert_eq!(files(), 1, "and let go of with it");
    assert!(acme.blobs().read_all(&gone, 100).await.is_err());
}

#[tokio::test]
async fn a_chain_of_incremental_backups_restores_each_of_its_states() {
    let rig = Rig::new().await;
    let (acme, first_blob) = furnished(&rig, "acme").await;
    let mut states = Vec::new();
    let mut parent: Option<Stored> = None;
    for round in 0..4_u8 {
        acme.put(&kv(&format!("n{round}")), vec![round; 3]).await.unwrap();
        acme.delete(&kv(&format!("n{}", 20 + round))).await.unwrap();
        blob(&acme, &[round; 1_000]).await;
        let made = rig.back_up(&acme, parent.as_ref()).await;
        if parent.is_some() {
            assert!(made.records_count < 5 && made.blobs_count == 1, "{made:?}");
        }
        states.push((made.clone(), content(&acme, &Key::new(["kv"])).await, acme.blobs().list().await.unwrap().len()));
        parent = Some(made);
    }
    acme.blobs().delete(&first_blob).await.unwrap();
    let last = rig.back_up(&acme, parent.as_ref()).await;
    states.push((last, content(&acme, &Key::new(["kv"])).await, acme.blobs().list().await.unwrap().len()));
    for (made, expected, blobs) in &states {
        let source = rig.source(&acme, made).await;
        let staged = rig.archives.restore_new(&rig.tenants, &source, &id("copy"), u64::MAX).await.unwrap();
        assert_eq!(content(staged.store(), &Key::new(["kv"])).await, *expected);
        assert_eq!(staged.store().blobs().list().await.unwrap().len(), *blobs);
        staged.discard().await.unwrap();
    }
    let refused = rig.archives.delete(&acme, &states[1].0.backup).await.unwrap_err();
    assert!(matches!(refused, BackupError::HasChild { .. }), "{refused}");
    // A hole in the chain is named, and nothing is begun.
    rig.archives.remove_file(&acme.uid(), &states[1].0.backup).await.unwrap();
    let source = rig.source(&acme, &states[3].0).await;
    let error = rig.archives.restore_new(&rig.tenants, &source, &id("copy"), u64::MAX).await.unwrap_err();
    assert!(matches!(error, BackupError::ParentMissing { .. }), "{error}");
    assert_eq!(rig.staged_count().await, 0);
}

#[tokio::test]
async fn a_restore_in_place_brings_back_the_state_and_nothing_of_what_is_sworn_or_secret() {
    let rig = Rig::new().await;
    let (acme, blob_id) = furnished(&rig, "acme").await;
    let (expected, held) = (content(&acme, &Key::new(["kv"])).await, acme.held().unwrap().bytes);
    let lent = [Key::new(["elevations"]), Key::new(["approval", "a1"])];
    for one in &lent {
        acme.put(one, b"lent".to_vec()).await.unwrap();
    }
    let made = rig.back_up(&acme, None).await;
    acme.put(&kv("n1"), b"later".to_vec()).await.unwrap();
    acme.put(&kv("later"), b"later".to_vec()).await.unwrap();
    acme.put(&Key::new(["audit"]).number(1), b"later".to_vec()).await.unwrap();
    acme.delete(&Key::new(["identity", "key", "k1"])).await.unwrap();
    acme.blobs().delete(&blob_id).await.unwrap();
    acme.delete(&lent[0]).await.unwrap();
    blob(&acme, b"later").await;
    let source = rig.source(&acme, &made).await;
    let restored = rig.in_place(&acme, &source).await.unwrap();
    assert_eq!((restored.removed_count, restored.blobs_count), (1, 1));
    assert!(acme.get(&lent[0]).await.unwrap().is_none(), "a role that was ended did not come back");
    assert!(acme.get(&lent[1]).await.unwrap().is_some(), "what waits goes on waiting");
    acme.delete(&lent[1]).await.unwrap();
    assert_eq!(content(&acme, &Key::new(["kv"])).await, expected);
    assert_eq!(acme.blobs().list().await.unwrap(), [blob_id]);
    assert_eq!(acme.held().unwrap().bytes, held + 300_000);
    assert!(acme.get(&Key::new(["audit"]).number(1)).await.unwrap().is_some(), "the log was not rolled back");
    assert!(acme.get(&Key::new(["identity", "key", "k1"])).await.unwrap().is_none(), "a revoked key did not come back");
    assert!(!rig.archives.is_restoring(&acme).await.unwrap());
    assert!(!rig.archives.is_empty(&acme).await.unwrap());
}

#[tokio::test]
async fn a_restore_in_place_that_was_cut_goes_on_at_the_next_start() {
    let rig = Rig::new().await;
    let (acme, _) = furnished(&rig, "acme").await;
    let expected = content(&acme, &Key::new(["kv"])).await;
    let made = rig.back_up(&acme, None).await;
    // What lies there when the host dies after the journal and some of the records.
    rig.in_place(&acme, &rig.source(&acme, &made).await).await.unwrap();
    acme.put(&kv("half"), b"old".to_vec()).await.unwrap();
    acme.delete(&kv("n3")).await.unwrap();
    let journal = serde_json::json!({ "tenant_uid": acme.uid(), "backup": made.backup, "state": "active" });
    acme.put_json(&Key::new(["backup", "restoring"]), &journal).await.unwrap();
    rig.tenants.set_state(&id("acme"), TenantState::Suspended).await.unwrap();
    let tenants = rig.reopened().await;
    rig.archives.resume(&tenants).await.unwrap();
    let acme = tenants.open_tenant(&id("acme")).unwrap();
    assert_eq!(content(&acme, &Key::new(["kv"])).await, expected);
    assert_eq!(acme.state(), TenantState::Active);
    // When the archive is gone meanwhile, the tenant stays shut rather than half.
    acme.put_json(&Key::new(["backup", "restoring"]), &journal).await.unwrap();
    rig.archives.remove_file(&acme.uid(), &made.backup).await.unwrap();
    rig.archives.resume(&tenants).await.unwrap();
    assert_eq!(acme.state(), TenantState::Suspended);
}

#[tokio::test]
async fn what_was_staged_and_never_published_is_thrown_away_at_the_next_start() {
    let rig = Rig::new().await;
    let (acme, _) = furnished(&rig, "acme").await;
    let made = rig.back_up(&acme, None).await;
    let source = rig.source(&acme, &made).await;
    let staged = rig.archives.restore_new(&rig.tenants, &source, &id("copy"), u64::MAX).await.unwrap();
    let uid = staged.store().shared().uid;
    let tenants = rig.reopened().await;
    assert_eq!(rig.staged_count().await, 0);
    assert!(tenants.open_tenant(&id("copy")).is_none());
    assert!(rig.store.0.files.list(&crate::blobs::directory(&uid)).unwrap().is_empty());
    assert!(rig.store.0.files.read(&format!("keys/{}", staged.store().uid()), 9).unwrap().is_none());
}

#[tokio::test]
async fn another_tenants_archive_does_not_open_and_leaves_nothing() {
    let rig = Rig::new().await;
    let (acme, _) = furnished(&rig, "acme").await;
    let globex = rig.tenant("globex").await;
    let made = rig.back_up(&acme, None).await;
    rig.back_up(&globex, None).await;
    let stolen = Source { keyring: Keyring::of(&globex).await.unwrap(), ..rig.source(&acme, &made).await };
    let before = content(&globex, &Key::default()).await;
    let error = rig.in_place(&globex, &stolen).await.unwrap_err();
    assert!(matches!(error, BackupError::NoKey), "{error}");
    assert!(rig.archives.restore_new(&rig.tenants, &stolen, &id("copy"), u64::MAX).await.is_err());
    // Nor when the file is laid among the thief's own, under his unique id.
    let moved = Source { tenant_uid: globex.uid(), ..stolen.clone() };
    rig.put_file(&moved, &rig.file(&stolen));
    for keyring in [stolen.keyring.clone(), Keyring::of(&acme).await.unwrap()] {
        let moved = Source { keyring, ..moved.clone() };
        assert!(rig.archives.verify(&moved).await.is_err());
    }
    assert_eq!(content(&globex, &Key::default()).await, before);
    assert_eq!(rig.staged_count().await, 0);
}

#[tokio::test]
async fn after_a_tenant_is_deleted_only_its_recovery_key_opens_its_archives() {
    let rig = Rig::new().await;
    let (acme, _) = furnished(&rig, "acme").await;
    let key = rig.archives.recovery_key(&acme).await.unwrap().to_text();
    let made = rig.back_up(&acme, None).await;
    let source = rig.source(&acme, &made).await;
    rig.tenants.delete(&id("acme")).await.unwrap();
    assert!(Keyring::of(&acme).await.is_err());
    let shut = Source { keyring: Keyring::default(), ..source };
    assert!(matches!(rig.archives.verify(&shut).await, Err(BackupError::NoKey)));
    let mut keyring = Keyring::default();
    keyring.add(key.expose().parse().unwrap());
    let opened = Source { keyring, ..shut };
    let staged = rig.archives.restore_new(&rig.tenants, &opened, &id("acme"), u64::MAX).await.unwrap();
    staged.publish("again", QuotaChoice::default()).await.unwrap();
    let again = rig.tenants.open_tenant(&id("acme")).unwrap();
    assert_eq!(again.get(&Key::new(["secret", "token"])).await.unwrap().unwrap().value.as_slice(), b"canary");
    assert_ne!(again.uid(), opened.tenant_uid);
}

#[tokio::test]
async fn more_than_the_quota_is_refused_and_leaves_nothing() {
    let rig = Rig::new().await;
    let (acme, _) = furnished(&rig, "acme").await;
    let made = rig.back_up(&acme, None).await;
    let source = rig.source(&acme, &made).await;
    // Below what the records hold, and below what they hold together with the blob.
    for bytes_max in [1_000, acme.held().unwrap().bytes + 1_000] {
        let error = rig.archives.restore_new(&rig.tenants, &source, &id("copy"), bytes_max).await.unwrap_err();
        assert!(matches!(error, BackupError::Store(StoreError::Quota { .. })), "{error}");
    }
    assert_eq!(rig.staged_count().await, 0);
}

// === hostile archives ===

/// A small archive, and all that is needed to try another in its place.
async fn small(rig: &Rig) -> (TenantStore, Source, Vec<u8>) {
    let acme = rig.tenant("acme").await;
    acme.put(&kv("n"), b"value".to_vec()).await.unwrap();
    blob(&acme, b"contents").await;
    let made = rig.back_up(&acme, None).await;
    let source = rig.source(&acme, &made).await;
    let file = rig.file(&source);
    (acme, source, file)
}

#[tokio::test]
async fn every_flipped_bit_and_every_cut_is_found_before_anything_is_written() {
    let rig = Rig::new().await;
    let (acme, source, file) = small(&rig).await;
    let before = content(&acme, &Key::default()).await;
    for at in 0..file.len() {
        let mut altered = file.clone();
        altered[at] ^= 1 << (at % 8);
        rig.put_file(&source, &altered);
        assert!(rig.in_place(&acme, &source).await.is_err(), "byte {at}");
        if at % 16 == 0 {
            rig.put_file(&source, &file[..at]);
            assert!(rig.in_place(&acme, &source).await.is_err(), "cut at {at}");
        }
    }
    rig.put_file(&source, &[file.as_slice(), b"x"].concat());
    assert!(rig.archives.verify(&source).await.is_err());
    rig.put_file(&source, &file);
    assert_eq!(content(&acme, &Key::default()).await, before);
    rig.archives.verify(&source).await.unwrap();
}

#[tokio::test]
async fn reordered_repeated_and_missing_chunks_are_found() {
    const CHUNK: usize = (64 << 10) + 16;
    let rig = Rig::new().await;
    let (acme, _) = furnished(&rig, "acme").await;
    let made = rig.back_up(&acme, None).await;
    let source = rig.source(&acme, &made).await;
    let file = rig.file(&source);
    let start = file.len() - (file.len() - head_bytes(&file)) + 34;
    let chunks: Vec<&[u8]> = file[start..].chunks(CHUNK).collect();
    assert!(chunks.len() > 5);
    let with = |order: &[usize]| {
        let body: Vec<u8> = order.iter().flat_map(|at| chunks[*at].iter().copied()).collect();
        [&file[..start], &body].concat()
    };
    let all: Vec<usize> = (0..chunks.len()).collect();
    rig.put_file(&source, &with(&all));
    rig.archives.verify(&source).await.unwrap();
    let mut swapped = all.clone();
    swapped.swap(1, 2);
    for wrong in [swapped, all[1..].to_vec(), [&all[..2], &all[1..]].concat(), all[..all.len() - 1].to_vec()] {
        rig.put_file(&source, &with(&wrong));
        assert!(rig.archives.verify(&source).await.is_err());
    }
}

fn head_bytes(file: &[u8]) -> usize {
    format::PREFIX_BYTES + format::head_bytes(&file[..format::PREFIX_BYTES]).unwrap()
}

/// An archive as someone makes it who holds the key and does not keep to the format.
struct Forged {
    frames: Vec<u8>,
    manifest: Manifest,
}

impl Forged {
    fn new() -> Self {
        let manifest = Manifest {
            tenant: id("acme"),
            display_name: "Acme".to_owned(),
            since_revision: 0,
            revision: 7,
            records_count: 0,
            value_bytes: 0,
            blobs_count: 0,
            blob_bytes: 0,
            kept_count: 0,
            held_bytes: 0,
            damaged_count: 0,
            lost_count: 0,
            sha256: String::new(),
            audit_checkpoint: String::new(),
            audit_vkey: String::new(),
        };
        Self { frames: Vec::new(), manifest }
    }
    fn frame(mut self, kind: u8, body: &[u8]) -> Self {
        self.frames.extend_from_slice(&format::frame_head(kind, body.len()).unwrap());
        self.frames.extend_from_slice(body);
        self
    }
    fn record(mut self, key: &Key, value: &[u8]) -> Self {
        self.manifest.records_count += 1;
        self.manifest.value_bytes += value.len() as u64;
        let body = [format::encode_key(key, 3).unwrap(), value.to_vec()].concat();
        self.frame(format::RECORD, &body)
    }
    fn raw(mut self, bytes: &[u8]) -> Self {
        self.frames.extend_from_slice(bytes);
        self
    }
    fn sealed(mut self, head: &Head, key: &BackupKey, lie: impl FnOnce(&mut Manifest)) -> Vec<u8> {
        self.manifest.sha256 = data_encoding::HEXLOWER.encode(&Sha256::digest(&self.frames));
        lie(&mut self.manifest);
        let json = serde_json::to_vec(&self.manifest).unwrap();
        let this = self.frame(format::MANIFEST, &json);
        this.cut(head, key)
    }
    fn cut(self, head: &Head, key: &BackupKey) -> Vec<u8> {
        let mut out = format::encode_head(head).unwrap();
        let mut sealer = key.sealer(&out, &Numbered(AtomicU64::new(7))).unwrap();
        sealer.push(&self.frames, &mut out).unwrap();
        sealer.finish(&mut out).unwrap();
        out
    }
}

#[tokio::test]
async fn an_archive_made_by_a_holder_of_the_key_can_do_no_more_than_its_tenant() {
    let rig = Rig::new().await;
    let (acme, source, file) = small(&rig).await;
    let key = rig.archives.recovery_key(&acme).await.unwrap();
    let head = format::decode_head(&file[format::PREFIX_BYTES..head_bytes(&file)]).unwrap();
    let honest = |forged: Forged| forged.sealed(&head, &key, |_| ());
    let lying = |lie: fn(&mut Manifest)| Forged::new().record(&kv("n"), b"v").sealed(&head, &key, lie);
    rig.put_file(&source, &honest(Forged::new().record(&kv("n"), b"v")));
    rig.archives.verify(&source).await.unwrap();
    // Earlier hosts wrote it, and it is left where it lies.
    rig.put_file(&source, &honest(Forged::new().record(&kv("n"), b"v").record(&Key::new(["elevations"]), b"[]")));
    rig.archives.verify(&source).await.unwrap();
    let long_name = [&3_u64.to_be_bytes()[..], &[1, 1, 0xff, 0xff], &[b'x'; 0xffff]].concat();
    let blob = [&[1; 16][..]].concat();
    let wrongs = [
        // A manifest that lies, in each of its numbers.
        lying(|m| m.records_count += 1),
        lying(|m| m.value_bytes -= 1),
        lying(|m| m.blobs_count = 1),
        lying(|m| m.blob_bytes = 1),
        lying(|m| m.kept_count = 1),
        lying(|m| m.since_revision = 1),
        lying(|m| m.sha256 = "00".repeat(32)),
        // Credentials, and the host's own books.
        honest(Forged::new().record(&Key::new(["identity", "key", "k"]), b"mine")),
        honest(Forged::new().record(&Key::new(["backup", "key", "k"]), b"mine")),
        honest(Forged::new().record(&Key::new(["quota", "day"]), b"{}")),
        honest(Forged::new().record(&Key::new(["x"]).number(1), b"").frame(format::RECORD, &[0; 9])),
        // Names that are none, or too long.
        honest(Forged::new().frame(format::RECORD, &long_name)),
        honest(Forged::new().frame(format::RECORD, &[&[0; 8][..], &[17], &[2; 200]].concat())),
        honest(Forged::new().frame(format::RECORD, &[&[0; 8][..], &[1, 1, 0, 1, 0xff]].concat())),
        honest(Forged::new().frame(format::RECORD, &[&[0; 8][..], &[0, 1]].concat())),
        // Lengths and counts that are bombs, kinds that are none, an order that is another.
        Forged::new().raw(&[format::RECORD, 0xff, 0xff, 0xff, 0xff]).cut(&head, &key),
        Forged::new().raw(&[format::PART, 0x00, 0x04, 0x00, 0x01]).cut(&head, &key),
        Forged::new().raw(&[format::MANIFEST, 0x7f, 0, 0, 0]).cut(&head, &key),
        honest(Forged::new().frame(9, b"?").record(&kv("n"), b"v")),
        honest(Forged::new().frame(format::KEPT, &[0; 16])),
        honest(Forged::new().frame(format::PART, b"x")),
        honest(Forged::new().frame(format::BLOB, &blob)),
        honest(Forged::new().frame(format::BLOB, &blob).frame(format::BLOB, &blob)),
        honest(Forged::new().frame(format::BLOB, &blob).frame(format::BLOB_END, &9_u64.to_be_bytes())),
        Forged::new().cut(&head, &key),
        // Its own name is another's, a path, or longer than any head.
        Forged::new().sealed(&Head { tenant_uid: "0".repeat(32), ..head.clone() }, &key, |_| ()),
        Forged::new().sealed(&Head { tenant_uid: "../../../etc/passwd".to_owned(), ..head.clone() }, &key, |_| ()),
        Forged::new().sealed(&Head { host: "x".repeat(9_000), ..head.clone() }, &key, |_| ()),
        // It builds on itself.
        Forged::new()
            .sealed(&Head { parent: Some(head.backup.clone()), ..head.clone() }, &key, |m| m.since_revision = 7),
    ];
    let before = content(&acme, &Key::default()).await;
    for (number, wrong) in wrongs.iter().enumerate() {
        rig.put_file(&source, wrong);
        let error = rig.in_place(&acme, &source).await.expect_err(&number.to_string());
        assert!(matches!(error, BackupError::Damaged { .. } | BackupError::NotAnArchive), "{number}: {error}");
    }
    assert_eq!(content(&acme, &Key::default()).await, before);
    let outside = Source { tenant_uid: "../keys".to_owned(), ..source };
    assert!(matches!(rig.archives.verify(&outside).await, Err(BackupError::Unknown)));
}

#[tokio::test]
async fn a_restore_in_place_does_not_bring_back_a_person_who_was_erased_since() {
    let rig = Rig::new().await;
    let acme = rig.tenant("acme").await;
    let (people, now) = (acme.subjects(), Timestamp::UNIX_EPOCH);
    let ann = people.seal("email", "ann", b"a", now).await.unwrap();
    let bob = people.seal("email", "bob", b"b", now).await.unwrap();
    let token = people.tokenise("email", Some("ann"), b"a", now).await.unwrap();
    let full = rig.back_up(&acme, None).await;
    let part = rig.back_up(&acme, Some(&full)).await;
    people.erase("ann", "acme/admin", now).await.unwrap().unwrap();
    for stored in [&full, &part, &full] {
        let source = rig.source(&acme, stored).await;
        rig.in_place(&acme, &source).await.unwrap();
        assert!(matches!(people.open("email", None, &ann).await, Err(StoreError::Erased)));
        assert_eq!(people.open("email", None, &bob).await.unwrap().1.as_slice(), b"b");
        assert!(people.detokenise("email", &token).await.unwrap().is_none());
        let about = people.about("ann").await.unwrap();
        assert_eq!((about.key, about.tokens_count, about.erasures.len()), (None, 0, 1));
    }
    // Who comes back later has a key of a later version, which an archive from before does not replace.
    people.seal("email", "ann", b"again", now).await.unwrap();
    let after = rig.back_up(&acme, None).await;
    people.erase("ann", "acme/admin", now).await.unwrap().unwrap();
    let source = rig.source(&acme, &after).await;
    rig.in_place(&acme, &source).await.unwrap();
    assert_eq!(people.about("ann").await.unwrap().key, None);
}

#[tokio::test]
async fn personal_data_opens_in_the_new_tenant_but_that_of_people_who_were_erased_since() {
    let rig = Rig::new().await;
    let acme = rig.tenant("acme").await;
    let (people, now) = (acme.subjects(), Timestamp::UNIX_EPOCH);
    let ann = people.seal("email", "ann", b"a", now).await.unwrap();
    let bob = people.seal("email", "bob", b"b", now).await.unwrap();
    let token = people.tokenise("email", Some("bob"), b"b", now).await.unwrap();
    let full = rig.back_up(&acme, None).await;
    people.erase("ann", "acme/admin", now).await.unwrap().unwrap();
    let source = rig.source(&acme, &full).await;
    let staged = rig.archives.restore_new(&rig.tenants, &source, &id("copy"), u64::MAX).await.unwrap();
    staged.publish("Copy", QuotaChoice::default()).await.unwrap();
    let copy = rig.tenants.open_tenant(&id("copy")).unwrap().subjects();
    assert_eq!(copy.open("email", Some("bob"), &bob).await.unwrap().1.as_slice(), b"b");
    assert_eq!(copy.detokenise("email", &token).await.unwrap().unwrap().1.as_slice(), b"b");
    assert_eq!(copy.tokenise("email", None, b"b", now).await.unwrap(), token);
    assert!(matches!(copy.open("email", None, &ann).await, Err(StoreError::Erased)));
    // From here on the two have nothing to do with each other.
    copy.erase("bob", "copy/admin", now).await.unwrap().unwrap();
    assert!(matches!(copy.open("email", None, &bob).await, Err(StoreError::Erased)));
    assert_eq!(people.open("email", None, &bob).await.unwrap().1.as_slice(), b"b");
    let stranger = rig.tenant("globex").await.subjects();
    assert!(stranger.open("email", None, &bob).await.is_err());
}

#[tokio::test]
async fn a_newer_version_is_named_as_such() {
    let rig = Rig::new().await;
    let (_, source, mut file) = small(&rig).await;
    file[9] = 2;
    rig.put_file(&source, &file);
    let error = rig.archives.verify(&source).await.unwrap_err().to_string();
    assert_eq!(error, "this archive has format version 2, which is newer than this host reads");
    rig.put_file(&source, b"PK\x03\x04 and no archive");
    assert!(matches!(rig.archives.verify(&source).await, Err(BackupError::NotAnArchive)));
}

#[test]
fn the_format_is_golden() {
    let key = BackupKey::generate(&Numbered(AtomicU64::new(1))).unwrap();
    let head = Head {
        backup: "b_aaaaaaaaaaaaaaaaaaaaaaaaaa".parse().unwrap(),
        parent: None,
        tenant_uid: "07".repeat(16),
        key: key.id(),
        host: "here".to_owned(),
        created_at: "2026-11-20T12:00:00Z".parse().unwrap(),
    };
    let forged = Forged::new().record(&kv("n").number(4), b"value");
    let plain = data_encoding::HEXLOWER.encode(&forged.frames);
    assert_eq!(
        plain,
        "01000000330000000000000003050100026b7601000676697369747301000764656661756c740100016e020000000000000004\
         76616c7565"
    );
    let archive = forged.sealed(&head, &key, |_| ());
    assert_eq!(&archive[..14], b"RFBACKUP\x00\x01\x00\x00\x00\xb2");
    assert_eq!(data_encoding::HEXLOWER.encode(&Sha256::digest(&archive)), GOLDEN);
}
/// SHA-256 of what another implementation (HKDF and AES-GCM of the Python package `cryptography`) made from the words of the
/// headers.
const GOLDEN: &str = "77b75ea43d2bb6f4b08bf85cb7de9bf2e7f23d4dfc6c9c66068160512f97c615";

#[tokio::test]
async fn a_tenant_that_changes_too_much_costs_its_backup_and_not_its_writes() {
    let rig = Rig::new().await;
    let acme = rig.tenant("acme").await;
    for number in 0..1_200_u32 {
        acme.put(&kv(&format!("n{number}")), vec![1; INLINE_BYTES_MAX - 100]).await.unwrap();
    }
    let mut snapshot = Snapshot::pin(&acme).await.unwrap();
    for number in 0..1_200_u32 {
        acme.put(&kv(&format!("n{number}")), b"2".to_vec()).await.unwrap();
    }
    let error = loop {
        match snapshot.next().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the limit was not kept"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StoreError::Overrun), "{error}");
    drop(snapshot);
    Snapshot::pin(&acme).await.unwrap();
    let absent = acme.batch(Vec::new(), vec![Precondition::Absent(kv("n1"))]).await;
    assert!(absent.is_err(), "the writes stand");
}

#[tokio::test]
async fn a_backup_that_begins_during_a_flush_keeps_no_thread_waiting_and_shows_what_had_begun() {
    let faults = Faults::default();
    let acme = tenant_in(&Store::memory_with_faults(faults.clone()));
    let committer = &acme.store().0.committer;
    acme.put(&kv("n"), b"before".to_vec()).await.unwrap();
    let spawn_put = |value: &'static str| {
        let acme = acme.clone();
        tokio::spawn(async move { acme.put(&kv("n"), value).await })
    };
    let pause = || tokio::time::sleep(Duration::from_millis(1));
    faults.hold_flushes();
    let begun = spawn_put("begun");
    while faults.held_count() == 0 {
        pause().await;
    }
    // Were this one thread to wait for the flush, nobody but this other would ever end it.
    let end = faults.clone();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(10));
        end.let_all_through();
    });
    let pinned = acme.clone();
    let pinned = tokio::spawn(async move { Snapshot::pin(&pinned).await });
    while committer.waiting() == 0 && faults.held_count() == 1 {
        pause().await;
    }
    assert_eq!(faults.held_count(), 1, "it is still being flushed");
    assert!(!pinned.is_finished(), "a backup shows only what is durable");
    let later = spawn_put("later");
    while committer.waiting() == 1 {
        pause().await;
    }
    faults.let_all_through();
    let mut snapshot = pinned.await.unwrap().unwrap();
    let begun = begun.await.unwrap().unwrap();
    assert!(later.await.unwrap().unwrap().revision > snapshot.revision());
    let (records, _) = snapshot.next().await.unwrap().unwrap();
    let seen: Vec<_> = records.iter().map(|(_, record)| (record.value.as_slice(), record.revision)).collect();
    assert_eq!(seen, [(&b"begun"[..], begun.revision)]);
}
