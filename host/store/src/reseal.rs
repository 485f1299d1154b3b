//! After a rotation, what a tenant stored before is sealed anew in the background, a small step at a time.
//!
//! A record keeps its name, its value and its revision; only the seal over it changes, and the kind with it where its area has
//! a purpose of its own by now. How far it has come is a durable record, so that a crash costs one step. Must never write a
//! value that somebody changed in the meantime (the commit thread reads and writes each record in one go), and never crowd out
//! the tenants' own writes.

use std::io::Read;
use std::ops::Bound;

use data_encoding::HEXLOWER;
use ringfence_core::TenantId;
use ringfence_keys::{Context, Purpose, TenantKeys, sealed_version};
use tokio::task::spawn_blocking;

use crate::blobs::{self, READ_BYTES};
use crate::engine::{Order, Span};
use crate::error::StoreError;
use crate::key::{AREA_RECORDS, Uid, area, successor};
use crate::record::{Content, Stored};
use crate::store::Store;
use crate::tenant_keys::Reseal;
use crate::tenant_store::{TenantStore, value_context, value_path};
use crate::tenants::Tenants;

/// Records of one step.
const STEP_COUNT: usize = 200;
/// LIMIT: bytes of records read in one step.
const STEP_BYTES_MAX: usize = 4 << 20;
/// A step is put off while more writes than this wait.
const WAITING_COUNT_MAX: usize = 64;

/// What came of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResealStep {
    /// Nothing is left to do.
    Done,
    /// A step was done, and there are more.
    More,
    /// The store has enough to do; nothing was done now.
    PutOff,
}

impl Tenants {
    /// Does one step of sealing a tenant's data anew, of 200 records at most, if there is anything to do.
    pub async fn reseal_step(&self, id: &TenantId) -> Result<ResealStep, StoreError> {
        let Some(progress) = self.key_state(id).await?.reseal else { return Ok(ResealStep::Done) };
        let view = self.open_tenant(id).ok_or(StoreError::UnknownTenant)?;
        view.check_keys()?;
        if view.store().0.committer.waiting() > WAITING_COUNT_MAX {
            return Ok(ResealStep::PutOff);
        }
        let after = HEXLOWER.decode(progress.after.as_bytes()).map_err(|_| StoreError::Damaged)?;
        let (found, last) = {
            let view = view.clone();
            spawn_blocking(move || find(&view, after)).await.map_err(StoreError::unavailable)??
        };
        let resealed_count = found.old.len() as u64;
        if !found.old.is_empty() {
            view.store().0.committer.reseal(view.shared().clone(), found.old).await?;
        }
        if last.is_none() {
            // Last, as there are few: contents that only the registry and the guests' blobs refer to.
            let view = view.clone();
            spawn_blocking(move || reseal_blobs(&view)).await.map_err(StoreError::unavailable)??;
        }
        let next = last.as_ref().map(|last| Reseal {
            after: HEXLOWER.encode(last),
            seen_count: progress.seen_count.saturating_add(found.seen_count),
            resealed_count: progress.resealed_count.saturating_add(resealed_count),
        });
        let _one = self.0.changing.lock().await;
        self.change_key_state(id, |state| {
            // A rotation in the meantime began anew, from the first record.
            if state.reseal.as_ref() == Some(&progress) {
                state.reseal = next;
            }
        })
        .await?;
        Ok(if last.is_some() { ResealStep::More } else { ResealStep::Done })
    }
}

/// Records of one step.
struct Found {
    /// Stored keys of those under an older version, or under another purpose.
    old: Vec<Vec<u8>>,
    seen_count: u64,
}

/// Looks at the next records, and seals the files of large values anew on the way; the last stored key when there are more.
fn find(view: &TenantStore, after: Vec<u8>) -> Result<(Found, Option<Vec<u8>>), StoreError> {
    let (keys, uid) = (view.keys(), &view.shared().uid);
    let prefix = area(AREA_RECORDS, uid);
    let span = Span {
        from: if after.is_empty() { Bound::Included(prefix.clone()) } else { Bound::Excluded(after) },
        to: successor(&prefix).map_or(Bound::Unbounded, Bound::Excluded),
        order: Order::Forward,
        count_max: STEP_COUNT,
        bytes_max: STEP_BYTES_MAX,
    };
    let rows = view.engine().range(&span)?;
    let mut found = Found { old: Vec::new(), seen_count: rows.pairs.len() as u64 };
    let last = rows.pairs.last().map(|(key, _)| key.clone()).filter(|_| rows.more);
    for (key, value) in rows.pairs {
        let stored = Stored::parse(&value)?;
        if stored.is_in_file()
            && let Content::InFile(file) = stored.open(keys, &key)?
        {
            reseal_file(view.store(), keys, &value_path(uid, &file.id), &value_context(keys, &file.id), view)?;
        }
        if !stored.is_newest(view.shared(), &key)? {
            found.old.push(key);
        }
    }
    Ok((found, last))
}

fn reseal_blobs(view: &TenantStore) -> Result<(), StoreError> {
    let (keys, uid) = (view.keys(), &view.shared().uid);
    for name in view.store().0.files.list(&blobs::directory(uid)).map_err(StoreError::unavailable)? {
        if let Ok(id) = name.parse() {
            reseal_file(view.store(), keys, &blob_path(uid, &name), &blobs::context(keys, &id), view)?;
        }
    }
    Ok(())
}

fn blob_path(uid: &Uid, name: &str) -> String {
    format!("{}/{name}", blobs::directory(uid))
}

/// Seals one file anew beside itself and puts it in its own place. One that is gone, or new already, is left alone; a file
/// deleted in that moment comes back without anything that refers to it, and the next start sweeps it.
fn reseal_file(
    store: &Store,
    keys: &TenantKeys,
    path: &str,
    context: &Context<'_>,
    view: &TenantStore,
) -> Result<(), StoreError> {
    let mut reader = match store.0.files.open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        opened => opened.map_err(StoreError::unavailable)?,
    };
    let mut buffer = vec![0_u8; READ_BYTES];
    let mut count = reader.read(&mut buffer).map_err(StoreError::unavailable)?;
    let newest = keys.newest_version(Purpose::Blob)?;
    if sealed_version(buffer.get(..count).unwrap_or_default()) == Some(newest) {
        return Ok(());
    }
    store.0.check_free()?;
    let mut opener = keys.stream_opener(Purpose::Blob, context);
    let mut sealer = keys.stream_sealer(Purpose::Blob, context, view.shared().entropy.as_ref())?;
    let mut to = store.0.files.create(path).map_err(StoreError::unavailable)?;
    let (mut plain, mut sealed) = (ringfence_keys::Zeroizing::new(Vec::new()), Vec::new());
    while count > 0 {
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
    to.replace().map_err(StoreError::unavailable)
}
