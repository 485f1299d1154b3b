//! Areas of tenants to be that nobody works on any more, because a restore or a drill was over, failed or was cut: thrown away,
//! their keys first.
//!
//! Must never throw away what somebody works on, nor keep a start from ending because the root key provider refuses to destroy a
//! key, or does not answer. A rotation of the root key waits for all of them (`root_rotation.rs`).

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use data_encoding::HEXLOWER;

use crate::error::StoreError;
use crate::key::Uid;
use crate::tenants::{Tenants, parse_uid, staged_key, staged_prefix};

/// Those that are not thrown away yet and that this process knows to be nobody's.
#[derive(Default)]
pub(crate) struct Abandoned(Mutex<BTreeSet<Uid>>);

// === impl Abandoned ===

impl Abandoned {
    pub(crate) fn insert(&self, uid: Uid) {
        self.lock().insert(uid);
    }

    fn remove(&self, uid: &Uid) {
        self.lock().remove(uid);
    }

    fn all(&self) -> BTreeSet<Uid> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<Uid>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Tenants ===

impl Tenants {
    /// Throws away what could not be thrown away before: the root key provider may have refused to destroy the key, or the disk
    /// failed. What fails again is logged and stays for the next call. Reaches nothing that somebody works on.
    pub async fn discard_abandoned(&self) {
        for uid in self.0.abandoned.all() {
            match self.discard_area(uid).await {
                Ok(()) => tracing::info!("threw away what a restore left"),
                Err(error) => tracing::warn!(%error, "what a restore left is not thrown away yet"),
            }
        }
    }

    /// Throws away what an earlier run left. For a start, when nobody works on any.
    pub(crate) async fn sweep_staged(&self) -> Result<(), StoreError> {
        let mut after = None;
        loop {
            let page = self.0.platform.scan(&staged_prefix(), after.as_ref(), usize::MAX).await?;
            for (key, _) in &page.records {
                self.0.abandoned.insert(parse_uid(key.last_name().unwrap_or_default())?);
            }
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        self.discard_abandoned().await;
        Ok(())
    }

    /// Destroys the keys of an area, and then all of it. What fails is gone on with by [`Tenants::discard_abandoned`].
    pub(crate) async fn discard_area(&self, uid: Uid) -> Result<(), StoreError> {
        let discarded = self.try_discard_area(uid).await;
        match discarded {
            Ok(()) => self.0.abandoned.remove(&uid),
            Err(_) => self.0.abandoned.insert(uid),
        }
        discarded
    }

    async fn try_discard_area(&self, uid: Uid) -> Result<(), StoreError> {
        self.erase_area(uid).await?;
        self.0.platform.delete(&staged_key(&HEXLOWER.encode(&uid))).await?;
        Ok(())
    }
}
