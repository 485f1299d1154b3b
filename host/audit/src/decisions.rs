//! Denials kept so that `ringfence why` can explain them: sealed in the store of the tenant they concern, newest
//! [`DECISIONS_KEPT_MAX`] only, so that a flood of denials cannot fill a disk.
//!
//! Must never be asked with an id of another tenant: callers hold one tenant's store, and that is all there is to find.

use ringfence_core::DecisionId;
use ringfence_store::{Key, Op, Precondition, StoreError, TenantStore};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Denials kept for one tenant; older ones go first.
pub const DECISIONS_KEPT_MAX: u64 = 2_000;
/// Attempts when two denials are kept at the same moment.
const TRIES_COUNT_MAX: usize = 8;

/// Keeps a denial.
pub async fn keep<T: Serialize>(store: &TenantStore, id: &DecisionId, record: &T) -> Result<(), StoreError> {
    let value = serde_json::to_vec(record).map_err(StoreError::Form)?;
    let next_key = Key::new(["decision", "next"]);
    let mut result = Ok(());
    for _ in 0..TRIES_COUNT_MAX {
        let next = store.get(&next_key).await?;
        let (number, condition) = match &next {
            None => (0, Precondition::Absent(next_key.clone())),
            Some(record) => (
                serde_json::from_slice::<u64>(&record.value).unwrap_or(0),
                Precondition::Revision(next_key.clone(), record.revision),
            ),
        };
        let slot = Key::new(["decision", "slot"]).number(number % DECISIONS_KEPT_MAX);
        let mut ops = vec![
            Op::Put { key: by_id(id), value: value.clone() },
            Op::Put { key: slot.clone(), value: id.as_str().as_bytes().to_vec() },
            Op::Put { key: next_key.clone(), value: (number + 1).to_string().into_bytes() },
        ];
        if let Some(old) = store.get(&slot).await?
            && let Ok(old) = std::str::from_utf8(&old.value)
            && let Ok(old) = old.parse::<DecisionId>()
        {
            ops.push(Op::Delete { key: by_id(&old) });
        }
        result = store.batch(ops, vec![condition]).await.map(|_| ());
        if !matches!(result, Err(StoreError::Conflict { .. })) {
            return result;
        }
    }
    result
}

/// Finds a kept denial.
pub async fn find<T: DeserializeOwned>(store: &TenantStore, id: &DecisionId) -> Result<Option<T>, StoreError> {
    store.get_json(&by_id(id)).await
}

fn by_id(id: &DecisionId) -> Key {
    Key::new(["decision", "id", id.as_str()])
}
