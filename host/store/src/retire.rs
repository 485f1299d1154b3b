//! Old versions of a tenant's key, forgotten once nothing is sealed under them: everything is looked at, and counted.
//!
//! Must never forget a version that something needs. New things are sealed under newer versions alone, so what is counted can
//! only grow less, but for a stream that was begun before the rotation: hence the wait before the count that decides.
//! Version 1 stays, as names are under it; archives need none of them, as they have keys of their own. Native code is not counted: what does not open is compiled anew.

use std::collections::BTreeMap;
use std::io::Read;
use std::ops::Bound;

use jiff::{SignedDuration, Timestamp};
use ringfence_core::TenantId;
use ringfence_keys::sealed_version;
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

use crate::blobs;
use crate::engine::{Order, Span};
use crate::error::StoreError;
use crate::key::{AREA_RECORDS, area, successor};
use crate::record::Stored;
use crate::tenant_store::{TenantStore, value_directory};
use crate::tenants::Tenants;

/// LIMIT: no stream is being written for longer.
const WAIT: SignedDuration = SignedDuration::from_hours(24);
/// Records looked at a time, and bytes of them.
const SPAN_COUNT: usize = 1_000;
const SPAN_BYTES: usize = 4 << 20;
/// As much of a file as says its version.
const HEAD_BYTES: usize = 2;

/// Versions that newer ones stand in for, and since when that is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Superseded {
    versions: Vec<u8>,
    since: Timestamp,
}

/// What came of looking for versions to forget.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retired {
    /// Forgotten now.
    pub versions: Vec<u8>,
    /// Not forgotten, and how many things are sealed under each; those of which nobody can read the version count under all.
    pub kept: BTreeMap<u8, u64>,
}

impl Tenants {
    /// Forgets the versions of a tenant's key under which nothing is sealed any more. None while there is nothing to decide: no
    /// old version, sealing anew under way, or the wait not over. Reads the head of everything the tenant stored, once a wait.
    /// Fails with [`StoreError::Conflict`] when the key was changed meanwhile.
    pub async fn retire_key_versions(&self, id: &TenantId) -> Result<Option<Retired>, StoreError> {
        let basis = self.basis(id).await?;
        let view = self.open_readable(id).ok_or(StoreError::KeyDisabled)?;
        let superseded = basis.wrapped.superseded();
        {
            let _one = self.settle(id, &basis).await?;
            self.begin_owed_reseal(id, view.keys()).await?;
        }
        let state = self.key_state(id).await?;
        if state.reseal.is_some_and(|reseal| !reseal.is_over()) || superseded.is_empty() {
            return Ok(None);
        }
        let now = self.0.clock.now();
        match state.superseded {
            Some(known) if known.versions == superseded && now.duration_since(known.since) >= WAIT => {}
            Some(known) if known.versions == superseded => return Ok(None),
            _ => {
                let noted = Superseded { versions: superseded, since: now };
                let _one = self.settle(id, &basis).await?;
                self.change_key_state(id, |state| state.superseded = Some(noted)).await?;
                return Ok(None);
            }
        }
        let counts = spawn_blocking(move || count(&view)).await.map_err(StoreError::unavailable)??;
        let mut retired = Retired::default();
        for version in superseded {
            let count = counts.of(version);
            if count > 0 {
                retired.kept.insert(version, count);
            } else {
                retired.versions.push(version);
            }
        }
        // A rotation meanwhile makes it a conflict: what was counted is no longer what there is.
        let _one = if retired.versions.is_empty() {
            self.settle(id, &basis).await?
        } else {
            let forgotten = retired.versions.clone();
            self.rewrap(id, basis, move |_, _, wrapped| Ok(wrapped.without(&forgotten))).await?
        };
        // Looked at again after another wait.
        self.change_key_state(id, |state| state.superseded = None).await?;
        Ok(Some(retired))
    }
}

/// How many records and files there are under each version.
#[derive(Default)]
struct Counts {
    known: BTreeMap<u8, u64>,
    /// Those of which nobody can read the version.
    damaged_count: u64,
}

impl Counts {
    fn add(&mut self, sealed: Option<&[u8]>) {
        match sealed.and_then(sealed_version) {
            Some(version) => *self.known.entry(version).or_default() += 1,
            None => self.damaged_count += 1,
        }
    }

    /// What may need a version.
    fn of(&self, version: u8) -> u64 {
        self.known.get(&version).copied().unwrap_or(0).saturating_add(self.damaged_count)
    }
}

fn count(view: &TenantStore) -> Result<Counts, StoreError> {
    let mut counts = Counts::default();
    let uid = &view.shared().uid;
    let prefix = area(AREA_RECORDS, uid);
    let to = successor(&prefix).map_or(Bound::Unbounded, Bound::Excluded);
    let mut from = Bound::Included(prefix);
    loop {
        view.shared().check_alive()?;
        let to = to.clone();
        let span = Span { from, to, order: Order::Forward, count_max: SPAN_COUNT, bytes_max: SPAN_BYTES };
        let rows = view.engine().range(&span)?;
        for (_, value) in &rows.pairs {
            match Stored::parse(value) {
                Ok(stored) => counts.add(Some(stored.sealed_bytes())),
                Err(StoreError::Damaged) => counts.add(None),
                Err(error) => return Err(error),
            }
        }
        match rows.pairs.into_iter().next_back() {
            Some((last, _)) if rows.more => from = Bound::Excluded(last),
            _ => break,
        }
    }
    let files = &view.store().0.files;
    for directory in [value_directory(uid), blobs::directory(uid)] {
        // Those that are being written count too.
        for name in files.list(&directory).map_err(StoreError::unavailable)? {
            let mut head = Vec::with_capacity(HEAD_BYTES);
            match files.open(&format!("{directory}/{name}")) {
                // Deleted meanwhile.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                opened => opened
                    .and_then(|reader| reader.take(HEAD_BYTES as u64).read_to_end(&mut head))
                    .map_err(StoreError::unavailable)?,
            };
            if !head.is_empty() {
                counts.add(Some(&head));
            }
        }
    }
    Ok(counts)
}
