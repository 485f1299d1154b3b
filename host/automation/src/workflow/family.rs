//! How many runs below one first run go on: a record that changes in the batch of the run that begins or ends.
//!
//! INVARIANT: who counts at the same moment counts again, so that no two begin in one place. Must never keep a run from ending.

use ringfence_core::RunId;
use ringfence_store::{Key, Op, Precondition, Record, StoreError, TenantStore};

use crate::workflow::error::WorkflowError;
use crate::workflow::journal::family_key;
use crate::workflow::limits::FAMILY_COUNT_MAX;

/// Attempts to count a run of a family while others of it begin and end.
const FAMILY_ATTEMPTS_MAX: usize = 256;

/// What a batch does to how many runs of a family go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FamilyStep {
    /// Descendants that begin.
    pub(super) children_count: u64,
    /// Beside them: 1 more, 1 fewer, or none.
    pub(super) more_count: i64,
}

impl FamilyStep {
    /// None begins or ends.
    pub(super) const NONE: Self = Self { children_count: 0, more_count: 0 };
    /// A descendant begins whose parent is no run.
    pub(super) const ONE_MORE: Self = Self { children_count: 1, more_count: 0 };
    /// A descendant of the first run ended.
    pub(super) const ONE_FEWER: Self = Self { children_count: 0, more_count: -1 };

    /// Writes a batch of one run with the count of the family of this first run, while `own` says what the run is and `while_so`
    /// holds; gives its revision. A count that rotted begins anew: no run may be kept from ending by it, and at worst there are
    /// once as many more than there may be.
    pub(super) async fn write(
        self,
        store: &TenantStore,
        root: &RunId,
        ops: Vec<Op>,
        own: Precondition,
        while_so: Vec<Precondition>,
    ) -> Result<u64, WorkflowError> {
        if self == Self::NONE {
            let preconditions = [own].into_iter().chain(while_so).collect();
            return Ok(store.batch(ops, preconditions).await?.revision);
        }
        let key = family_key(root);
        for _ in 0..FAMILY_ATTEMPTS_MAX {
            let (count, unchanged) = match store.get(&key).await {
                Ok(record) => {
                    let count: Result<u64, StoreError> = record.as_ref().map_or(Ok(0), |record| record.json());
                    (count.unwrap_or(0), unchanged(&key, record.as_ref()))
                }
                Err(StoreError::Damaged) => (0, Precondition::Present(key.clone())),
                Err(error) => return Err(error.into()),
            };
            let op = self.op(&key, count)?;
            let ops = ops.iter().cloned().chain([op]).collect();
            let preconditions = [own.clone(), unchanged].into_iter().chain(while_so.iter().cloned()).collect();
            match store.batch(ops, preconditions).await {
                Ok(commit) => return Ok(commit.revision),
                Err(StoreError::Conflict { precondition: 1 }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(StoreError::Busy.into())
    }

    /// The write that makes it so; `Limit` when there would be too many. Only children are refused: what is there already
    /// may go on and end.
    fn op(self, key: &Key, count: u64) -> Result<Op, WorkflowError> {
        let after = count.saturating_add(self.children_count).saturating_add_signed(self.more_count);
        if self.children_count > 0 && after > FAMILY_COUNT_MAX {
            let what = "the number of runs that descend from one and have not ended";
            return Err(WorkflowError::Limit { what, max: FAMILY_COUNT_MAX });
        }
        Ok(if after == 0 { Op::delete(key.clone()) } else { Op::put_json(key.clone(), &after)? })
    }
}

fn unchanged(key: &Key, record: Option<&Record>) -> Precondition {
    match record {
        Some(record) => Precondition::Revision(key.clone(), record.revision),
        None => Precondition::Absent(key.clone()),
    }
}
