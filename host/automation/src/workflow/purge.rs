//! Runs that ended long ago are taken away.
//!
//! Must never take one away that somebody may still ask how it ended.

use ringfence_core::RunId;
use ringfence_store::{Op, StoreError, TenantStore};

use crate::workflow::error::WorkflowError;
use crate::workflow::event::{Entry, Event};
use crate::workflow::journal::{
    Head, PAGE_COUNT, Status, due_key, head_key, last_key, list_key, log_key, log_prefix, unsworn_key,
};
use crate::workflow::mending::is_there;

/// What a mark in `run-due` is for when it is not to wake the run.
pub(super) const PURGE: &[u8] = b"purge";
/// Before it is looked again whether the parent of a run that ended long ago is still there, milliseconds (a day).
pub(crate) const PARENT_LOOK_MS: u64 = 24 * 3_600 * 1_000;

/// Whether a mark of a time is there to take an old run away.
pub fn is_purge(value: &[u8]) -> bool {
    value == PURGE
}

/// What takes a run away whole that ended so long ago: a part at a time, the head last. Not while the run is there whose child
/// it is, which may still ask how it ended, or as what it went on.
pub async fn purge(store: &TenantStore, run: &RunId, now_ms: u64, retention_ms: u64) -> Result<(), WorkflowError> {
    let Some(head) = store.get_json::<Head>(&head_key(run)).await? else { return Ok(()) };
    let Some(ended_ms) = head.ended_ms.filter(|_| head.status.is_ended()) else { return Ok(()) };
    let due_ms = ended_ms.saturating_add(retention_ms);
    if due_ms > now_ms {
        // It was rewound and ended again, or runs are kept for longer than when it ended.
        store.batch(vec![Op::put(due_key(due_ms, run), PURGE)], Vec::new()).await?;
        return Ok(());
    }
    if let Some(parent) = &head.parent
        && is_there(store, &head_key(parent)).await?
        && !is_passed_over(store, &head).await?
    {
        let again_ms = now_ms.saturating_add(PARENT_LOOK_MS);
        store.batch(vec![Op::put(due_key(again_ms, run), PURGE)], Vec::new()).await?;
        return Ok(());
    }
    loop {
        // The names alone: what of the history rotted goes with the rest.
        let (names, _) = store.scan_names(&log_prefix(run), None, PAGE_COUNT / 2).await?;
        if names.is_empty() {
            break;
        }
        store.batch(names.into_iter().map(Op::delete).collect(), Vec::new()).await?;
    }
    let marks = [list_key(head.started_ms, run), unsworn_key(run), last_key(run)];
    let ops = marks.into_iter().chain([head_key(run)]).map(Op::delete).collect();
    store.batch(ops, Vec::new()).await?;
    Ok(())
}

/// Whether nobody comes by a run to find the newest of its chain: it went on as another, and the first knows the newest.
async fn is_passed_over(store: &TenantStore, head: &Head) -> Result<bool, WorkflowError> {
    if head.status != Status::Continued {
        return Ok(false);
    }
    // Its history is taken away before its head: it was passed over when that was begun.
    let begin = match store.get_json::<Vec<Entry>>(&log_key(&head.run, 0)).await {
        // Of which chain it is nobody knows: it stays for as long as the run whose child it is.
        Err(StoreError::Damaged | StoreError::Form(_)) => return Ok(false),
        begin => begin?,
    };
    let Some(begin) = begin else { return Ok(true) };
    let Some(Event::Started(started)) = begin.first().map(|entry| &entry.event) else { return Ok(false) };
    let Some(first) = &started.first else { return Ok(false) };
    match store.get(&last_key(first)).await {
        // The first does not know the newest any more.
        Err(StoreError::Damaged) => Ok(false),
        told => Ok(told?.is_some()),
    }
}
