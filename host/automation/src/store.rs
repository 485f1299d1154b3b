//! What the parts of this room do alike with a tenant's records.

use ringfence_store::{Key, Op, StoreError, TenantStore};

/// Records deleted in one batch.
const BATCH_COUNT: usize = 500;

/// Deletes everything below a prefix.
pub(crate) async fn delete_below(store: &TenantStore, prefix: &Key) -> Result<(), StoreError> {
    loop {
        let page = store.scan(prefix, None, BATCH_COUNT).await?;
        if page.records.is_empty() {
            return Ok(());
        }
        store.batch(page.records.into_iter().map(|(key, _)| Op::delete(key)).collect(), Vec::new()).await?;
    }
}
