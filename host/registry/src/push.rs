//! Walk 2, one upload: quarantine, inspect, verify, compile, commit. Each step takes the last one's proof and gives the next.
//!
//! Must never leave anything behind when a step fails, and never run or compile bytes that an earlier step refused. The
//! permit was checked before the first byte was read. Signatures of uploads are not checked yet: their place is in
//! [`Inspected::verify`].

use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use ringfence_core::limits::{BODY_IDLE_MS_MAX, COMPONENT_BYTES_MAX};
use ringfence_core::{Budget, Clock, Digest, Exhausted, Manifest, Need, Needs, PluginName, PrincipalId, QuotaKind};
use ringfence_engine::{Code, Engine, GuestSetup};
use ringfence_store::{BlobId, Op, Precondition, StoreError, TenantStore};
use semver::Version;
use sha2::{Digest as _, Sha256};

use crate::RegistryError;
use crate::inspect::{InspectError, Inspection, inspect};
use crate::loader::{Loader, blocking, compile, keep_native};
use crate::record::{PluginRecord, StoredVersion, VersionRecord, plugin_key, plugins_key, quarantine_key, version_key};
use crate::start::count_below;

/// LIMIT: longest time that an upload may take to arrive, however steadily it trickles.
const ARRIVAL_TIME_MAX: Duration = Duration::from_secs(15 * 60);
/// LIMIT: most bytes of a version's description.
const DESCRIPTION_BYTES_MAX: usize = 512;

/// Who publishes what.
pub(crate) struct Upload<'a> {
    pub(crate) store: &'a TenantStore,
    pub(crate) plugin: &'a PluginName,
    pub(crate) label: &'a Version,
    pub(crate) manifest: &'a Manifest,
    pub(crate) by: &'a PrincipalId,
    pub(crate) room: &'a Room,
}

/// How much room the tenant has for what it uploads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Most plugins.
    pub plugins_count: u64,
    /// Most bytes of one component.
    pub component_bytes: u64,
}

/// What is known of an upload before its first byte.
pub struct Announced {
    /// What it says it is.
    pub manifest: Manifest,
    /// How long it says it is; none when it does not say.
    pub bytes: Option<u64>,
    /// How much room there is for it.
    pub room: Room,
}

impl From<Manifest> for Announced {
    /// Of unknown length, with as much room as the host has.
    fn from(manifest: Manifest) -> Self {
        Self { manifest, bytes: None, room: Room::HOST }
    }
}

/// Bytes at rest in a sealed file of their own, hashed, not looked at. Removes the file unless it is committed.
pub(crate) struct Quarantined {
    file: Held,
    pub(crate) digest: Digest,
}

/// Bytes that are a component for this host, with what they import.
pub(crate) struct Inspected {
    component: Vec<u8>,
    digest: Digest,
    inspection: Inspection,
}

/// A component that is what its manifest says, with its needs and budget.
pub(crate) struct Verified {
    component: Vec<u8>,
    digest: Digest,
    inspection: Inspection,
    pub(crate) needs: Needs,
    budget: Budget,
}

/// A component that compiles, links and starts.
pub(crate) struct Compiled {
    digest: Digest,
    inspection: Inspection,
    needs: Needs,
    budget: Budget,
    code: Code,
    pub(crate) compile_ms: u64,
}

impl Room {
    /// As much as the host takes.
    pub const HOST: Self = Self { plugins_count: u64::MAX, component_bytes: COMPONENT_BYTES_MAX };

    fn check_component(&self, bytes: u64) -> Result<(), RegistryError> {
        if bytes > COMPONENT_BYTES_MAX {
            return Err(InspectError::TooLarge { max_bytes: COMPONENT_BYTES_MAX }.into());
        }
        if bytes > self.component_bytes {
            return Err(exhausted(QuotaKind::ComponentBytes, "bytes for one component", self.component_bytes));
        }
        Ok(())
    }

    /// What can be refused before the first byte is read: a component too long by its own word, one that the storage has
    /// no room for, and one plugin too many. `arriving_count` are new plugins on their way, this one included.
    pub(crate) async fn check(
        &self,
        store: &TenantStore,
        bytes: Option<u64>,
        arriving_count: Option<u64>,
    ) -> Result<(), RegistryError> {
        let bytes = bytes.unwrap_or(1);
        self.check_component(bytes)?;
        store.check_held(bytes)?;
        let Some(arriving_count) = arriving_count else { return Ok(()) };
        let there = count_below(store, &plugins_key()).await?;
        if there.saturating_add(arriving_count) > self.plugins_count {
            return Err(exhausted(QuotaKind::Plugins, "plugins", self.plugins_count));
        }
        Ok(())
    }
}

impl Upload<'_> {
    /// Whether the manifest is of this plugin and version.
    pub(crate) fn check_manifest(&self) -> Result<(), RegistryError> {
        let section = &self.manifest.plugin;
        if section.name != *self.plugin {
            let (manifest, path) = (section.name.to_string(), self.plugin.to_string());
            return Err(RegistryError::NameMismatch { what: "name", manifest, path });
        }
        if section.version != *self.label {
            let (manifest, path) = (section.version.to_string(), self.label.to_string());
            return Err(RegistryError::NameMismatch { what: "version", manifest, path });
        }
        if self.label.to_string().len() > ringfence_core::ids::NAME_BYTES_MAX {
            return Err(RegistryError::BadManifest(format!(
                "version is longer than {} bytes",
                ringfence_core::ids::NAME_BYTES_MAX
            )));
        }
        Ok(())
    }

    /// Takes the body in: sealed on its way to disk, hashed, and stopped at the limit. Memory: one chunk.
    pub(crate) async fn quarantine<E>(
        &self,
        mut body: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<Quarantined, RegistryError> {
        let mut writer = self.store.blobs().create().await?;
        let (mut hasher, mut bytes) = (Sha256::new(), 0_u64);
        let idle = Duration::from_millis(BODY_IDLE_MS_MAX);
        let end = tokio::time::Instant::now() + ARRIVAL_TIME_MAX;
        // Dropping the unfinished writer on any of these errors removes its file.
        loop {
            let wait = end.min(tokio::time::Instant::now() + idle);
            let chunk = match tokio::time::timeout_at(wait, body.next()).await {
                Ok(None) => break,
                Ok(Some(Ok(chunk))) => chunk,
                Ok(Some(Err(_))) => return Err(RegistryError::Truncated { why: "the connection broke".to_owned() }),
                Err(_) if wait == end => {
                    return Err(RegistryError::Truncated {
                        why: format!("it took more than {} s", ARRIVAL_TIME_MAX.as_secs()),
                    });
                }
                Err(_) => {
                    return Err(RegistryError::Truncated { why: format!("nothing arrived for {} s", idle.as_secs()) });
                }
            };
            bytes = bytes.saturating_add(chunk.len() as u64);
            self.room.check_component(bytes)?;
            hasher.update(&chunk);
            writer.write(chunk).await?;
        }
        let digest = Digest::from_sha256(hasher.finalize().into());
        let blob = writer.id();
        // Noted before it is whole: after a crash, this record is how the next start finds a file that nothing names.
        self.store.put(&quarantine_key(&blob), Vec::new()).await?;
        let file = Held { store: self.store.clone(), blob: Some(blob) };
        if let Err(error) = writer.finish().await {
            file.discard().await;
            return Err(error.into());
        }
        Ok(Quarantined { file, digest })
    }
}

// === impl Quarantined ===

impl Quarantined {
    /// Reads the bytes back and looks at them without executing anything.
    pub(crate) async fn inspect(&self) -> Result<Inspected, RegistryError> {
        let Some(blob) = &self.file.blob else { return Err(RegistryError::Host("the upload is gone".to_owned())) };
        let component = self.file.store.blobs().read_all(blob, COMPONENT_BYTES_MAX).await?;
        let (component, inspection) = blocking(move || {
            let inspection = inspect(&component);
            (component, inspection)
        })
        .await?;
        Ok(Inspected { component, digest: self.digest, inspection: inspection? })
    }

    /// Removes the bytes and the note about them.
    pub(crate) async fn discard(self) {
        self.file.discard().await;
    }

    /// Writes the version for good. The bytes become its component; everything or nothing is written.
    pub(crate) async fn commit(
        mut self,
        upload: &Upload<'_>,
        compiled: &Compiled,
        before: Option<PluginRecord>,
        clock: &dyn Clock,
    ) -> Result<StoredVersion, RegistryError> {
        let Some(blob) = self.file.blob else { return Err(RegistryError::Host("the upload is gone".to_owned())) };
        let now = clock.now();
        let record = compiled.record(upload, now);
        let stored = StoredVersion { record, blob };
        let plugin = PluginRecord {
            name: upload.plugin.clone(),
            created_at: before.as_ref().map_or(now, |before| before.created_at),
            latest: upload.label.clone(),
            versions_count: before.map_or(0, |before| before.versions_count).saturating_add(1),
        };
        let key = version_key(upload.plugin, upload.label);
        let ops = vec![
            Op::Put { key: key.clone(), value: json(&stored)? },
            Op::Put { key: plugin_key(upload.plugin), value: json(&plugin)? },
            Op::Delete { key: quarantine_key(&blob) },
            Op::Hold { bytes: compiled.inspection.bytes },
        ];
        match upload.store.batch(ops, vec![Precondition::Absent(key)]).await {
            Ok(_) => {
                self.file.blob = None;
                Ok(stored)
            }
            Err(error) => {
                // An error after the fact could mean that it was written: bytes that a version names must stay.
                if matches!(
                    error,
                    StoreError::Conflict { .. } | StoreError::Full { .. } | StoreError::Busy | StoreError::Quota { .. }
                ) {
                    self.file.discard().await;
                } else {
                    self.file.blob = None;
                }
                Err(error.into())
            }
        }
    }
}

// === impl Inspected ===

impl Inspected {
    /// Joins what the bytes import with what the manifest asks.
    pub(crate) fn verify(self, upload: &Upload<'_>) -> Verified {
        let needs = upload.manifest.needs(self.inspection.capabilities.iter().copied());
        let budget = Budget::from_ask(&upload.manifest.budget, &Budget::CEILING);
        Verified { component: self.component, digest: self.digest, inspection: self.inspection, needs, budget }
    }
}

// === impl Verified ===

impl Verified {
    /// Compiles in the child, links and starts the component once, with no grants.
    pub(crate) async fn compile(
        self,
        upload: &Upload<'_>,
        engine: &Engine,
        loader: &Loader,
        rehearsal: GuestSetup,
        clock: &dyn Clock,
    ) -> Result<Compiled, RegistryError> {
        let started = clock.monotonic();
        let (code, native, compile_ms) = match loader.cached(upload.store, self.digest).await {
            Some(code) => (code, None, 0),
            None => {
                let (code, native) = compile(engine, self.component).await?;
                let took_ms = clock.monotonic().saturating_sub(started).as_millis();
                (code, Some(native), u64::try_from(took_ms).unwrap_or(u64::MAX).max(1))
            }
        };
        engine.check_linkable(&code)?;
        engine.rehearse(&code, rehearsal).await?;
        if let Some(native) = native {
            keep_native(engine, upload.store, self.digest, native).await?;
        }
        Ok(Compiled {
            digest: self.digest,
            inspection: self.inspection,
            needs: self.needs,
            budget: self.budget,
            code,
            compile_ms,
        })
    }
}

// === impl Compiled ===

impl Compiled {
    /// The code, ready for the first call.
    pub(crate) fn code(&self) -> Code {
        self.code.clone()
    }

    fn record(&self, upload: &Upload<'_>, now: jiff::Timestamp) -> VersionRecord {
        let description = upload.manifest.plugin.description.as_deref();
        VersionRecord {
            label: upload.label.clone(),
            digest: self.digest,
            bytes: self.inspection.bytes,
            needs: self.needs.clone(),
            imports: self.inspection.imports.clone(),
            exports: self.inspection.exports.clone(),
            workflows: self.inspection.workflows.clone(),
            budget: self.budget,
            instance_invocations_max: upload.manifest.instance.invocations_max.unwrap_or(1),
            world: self.inspection.world,
            pushed_at: now,
            pushed_by: upload.by.clone(),
            description: description.map(|text| text.chars().take(DESCRIPTION_BYTES_MAX).collect()),
            producers: self.inspection.producers.clone(),
        }
    }
}

fn exhausted(kind: QuotaKind, what: &'static str, max: u64) -> RegistryError {
    RegistryError::Quota(Exhausted { kind, what, max, retry_after_ms: None })
}

/// What of `needs` another version did not need; all of it when there is no other.
pub(crate) fn added(needs: &Needs, before: Option<&Needs>) -> Vec<Need> {
    needs.added_since(before.unwrap_or(&Needs::default()))
}

pub(crate) fn json<T: serde::Serialize>(value: &T) -> Result<Vec<u8>, RegistryError> {
    serde_json::to_vec(value).map_err(|_| RegistryError::Host("a record has no JSON form".to_owned()))
}

/// A finished file that nothing names yet. Dropped without a word, as when a request is cut off, it is removed in the
/// background.
struct Held {
    store: TenantStore,
    blob: Option<BlobId>,
}

impl Held {
    async fn discard(mut self) {
        if let Some(blob) = self.blob.take() {
            remove(&self.store, &blob).await;
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let (Some(blob), Ok(runtime)) = (self.blob.take(), tokio::runtime::Handle::try_current()) else { return };
        let store = self.store.clone();
        runtime.spawn(async move { remove(&store, &blob).await });
    }
}

/// Removes a quarantined file, then the note about it; when that fails the next start tries again.
pub(crate) async fn remove(store: &TenantStore, blob: &BlobId) {
    let removed = match store.blobs().delete(blob).await {
        Ok(()) => store.delete(&quarantine_key(blob)).await.map(drop),
        Err(error) => Err(error),
    };
    if let Err(error) = removed {
        tracing::warn!(reason = %error, "an upload that was not committed is still in quarantine");
    }
}
