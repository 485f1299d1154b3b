//! Runs of which records rotted: they hold up no other run, can be ended, and can be taken away.
//!
//! Must never go on with a run whose history is not whole, nor take away one that may be mended without being told to: what does
//! not open stays where it is until a person terminates the run, removes it, or restores a backup.

use ringfence_audit::{Event as Record, Log, codes};
use ringfence_core::{PrincipalId, RunId};
use ringfence_store::{Key, Op, Precondition, StoreError, TenantStore};
use serde_json::json;

use crate::workflow::command::Refusal;
use crate::workflow::error::WorkflowError;
use crate::workflow::event::{Ending, Entry, Event};
use crate::workflow::family::FamilyStep;
use crate::workflow::journal::{
    self, Head, RunNames, due_key, due_prefix, head_key, last_key, list_prefix, log_key, log_prefix, ready_key,
    unsworn_key,
};
use crate::workflow::limits::CONTINUATIONS_COUNT_MAX;
use crate::workflow::purge::{PURGE, purge};
use crate::workflow::runs::Workflows;
use crate::workflow::session::unix_ms;

/// Records looked at together.
const PAGE_COUNT: usize = 500;

/// Whether there is such a record, whatever became of its value.
pub async fn is_there(store: &TenantStore, key: &Key) -> Result<bool, WorkflowError> {
    match store.get(key).await {
        Err(StoreError::Damaged) => Ok(true),
        found => Ok(found?.is_some()),
    }
}

/// What the mark says that not all of a run is on the audit log: how much is. One that rotted says that nothing is, since rather
/// twice than never.
pub async fn marked(store: &TenantStore, run: &RunId) -> Result<Option<u64>, WorkflowError> {
    match store.get_json::<u64>(&unsworn_key(run)).await {
        Err(StoreError::Damaged | StoreError::Form(_)) => Ok(Some(0)),
        marked => Ok(marked?),
    }
}

/// The first that is kept of those that a run which is kept no more went on as: the name of each follows from the one before.
/// Unknown where none is, of so many.
pub async fn beyond(store: &TenantStore, gone: &RunId) -> Result<Head, WorkflowError> {
    let mut run = gone.clone();
    for _ in 0..CONTINUATIONS_COUNT_MAX {
        run = RunNames(&run).next();
        match journal::head(store, &run).await {
            Err(WorkflowError::UnknownRun) => {}
            found => return found,
        }
    }
    Err(WorkflowError::UnknownRun)
}

/// The first marks below a prefix, and whether there are more; without what they say where that rotted.
pub async fn marks(
    store: &TenantStore,
    prefix: &Key,
    limit: usize,
) -> Result<(Vec<(Key, Option<ringfence_store::Record>)>, bool), WorkflowError> {
    match store.scan(prefix, None, limit).await {
        Err(StoreError::Damaged) => {}
        page => {
            let page = page?;
            let marks = page.records.into_iter().map(|(key, record)| (key, Some(record)));
            return Ok((marks.collect(), page.next.is_some()));
        }
    }
    // One by one; what has no name that opens is passed over, and so is a page of nothing else.
    let (mut marks, mut after) = (Vec::new(), None);
    loop {
        let (names, next) = store.scan_names(prefix, after.as_ref(), limit).await?;
        for key in names {
            match store.get(&key).await {
                Err(StoreError::Damaged) => marks.push((key, None)),
                found => marks.extend(found?.map(|record| (key, Some(record)))),
            }
        }
        if !marks.is_empty() || next.is_none() {
            return Ok((marks, next.is_some()));
        }
        after = next;
    }
}

/// As [`purge`]; one whose head does not open stays, and is named.
pub async fn purged(store: &TenantStore, run: &RunId, now_ms: u64, retention_ms: u64) -> Result<(), WorkflowError> {
    match purge(store, run, now_ms, retention_ms).await {
        Err(error) if error.is_damage() => {
            tracing::error!(%error, run = %run, "a run that ended long ago is damaged and stays until it is removed");
            Ok(())
        }
        purged => purged,
    }
}

/// What of a run's history opens, oldest first.
async fn readable(store: &TenantStore, run: &RunId) -> Result<Vec<Entry>, WorkflowError> {
    let (mut entries, mut after) = (Vec::new(), None);
    loop {
        let (names, next) = store.scan_names(&log_prefix(run), after.as_ref(), PAGE_COUNT).await?;
        for name in names {
            match store.get_json::<Vec<Entry>>(&name).await {
                Err(StoreError::Damaged | StoreError::Form(_)) => {}
                found => entries.extend(found?.into_iter().flatten()),
            }
        }
        after = next;
        if after.is_none() {
            return Ok(entries);
        }
    }
}

impl Workflows {
    /// Ends a run whose history does not open, by its head alone; of its children those are cancelled that are known of.
    /// LIMIT: where the record that the run began with is lost, its family counts it for as long as the family is there.
    pub(crate) async fn end_unread(
        &self,
        store: &TenantStore,
        run: &RunId,
        by: &PrincipalId,
        reason: &str,
    ) -> Result<Head, WorkflowError> {
        let record = store.get(&head_key(run)).await?.ok_or(WorkflowError::UnknownRun)?;
        let mut head: Head = record.json()?;
        if head.status.is_ended() {
            return Err(Refusal::Ended.into());
        }
        let known = readable(store, run).await?;
        for entry in &known {
            let Event::ChildBegun { run: child, .. } = &entry.event else { continue };
            match self.cancel_child(store, child, &head.by).await {
                Err(error) if error.is_damage() => {
                    tracing::warn!(%error, run = %child, "a run could not be cancelled with its parent");
                }
                other => other?,
            }
        }
        let (at_ms, number) = (unix_ms(&*self.parts().clock), head.events_count);
        let event = Event::Ended(Ending::Terminated { by: by.clone(), reason: reason.to_owned() });
        head.apply(&event, at_ms);
        let log = serde_json::to_vec(&[Entry { at_ms, event }]).map_err(StoreError::Form)?;
        head.events_bytes = head.events_bytes.saturating_add(log.len() as u64);
        let due_ms = at_ms.saturating_add(self.retention_ms(store));
        let mut ops = vec![
            Op::put(log_key(run, number), log),
            Op::put(due_key(due_ms, run), PURGE),
            Op::delete(ready_key(run)),
            Op::delete(unsworn_key(run)),
            Op::put_json(head_key(run), &head)?,
        ];
        ops.extend(head.parent.as_ref().map(|parent| Op::put(ready_key(parent), Vec::new())));
        let root = known.iter().find_map(|entry| match &entry.event {
            Event::Started(started) => started.root.clone(),
            _ => None,
        });
        let step = if root.is_some() { FamilyStep::ONE_FEWER } else { FamilyStep::NONE };
        let unchanged = Precondition::Revision(head_key(run), record.revision);
        step.write(&store.with_reserve(), root.as_ref().unwrap_or(run), ops, unchanged, Vec::new()).await?;
        self.swear_unread(store, &head, number, known.len()).await;
        self.forget(store, run);
        self.wake(store);
        Ok(head)
    }

    /// Puts on the audit log that a run was ended unread; that somebody asked for it is there already.
    async fn swear_unread(&self, store: &TenantStore, head: &Head, number: u64, known_count: usize) {
        let resource = format!("tenant/{}/plugin/{}", store.label(), head.plugin);
        let mut record = Record::new(codes::RUN_ADVANCED, "run-workflow", head.by.clone(), resource);
        record.details = json!({
            "run": head.run, "workflow": head.workflow, "version": head.version.to_string(),
            "first": number, "transitions": ["ended"],
            "lost_count": number.saturating_sub(known_count as u64),
        });
        if let Err(error) = self.parts().audit.record(&Log::Tenant(store.clone()), record).await {
            tracing::error!(%error, run = %head.run, "that a damaged run was ended is on the audit log as asked for alone");
        }
    }

    /// Takes away all that is there of a run of which nobody knows any more what it was: its head does not open, or is gone. Whether
    /// it was taken away: one whose head opens is left alone.
    pub async fn take_away(&self, store: &TenantStore, run: &RunId) -> Result<bool, WorkflowError> {
        match journal::head(store, run).await {
            Ok(_) => return Ok(false),
            Err(WorkflowError::UnknownRun) => {}
            Err(error) if error.is_damage() => {}
            Err(error) => return Err(error),
        }
        for prefix in [log_prefix(run), list_prefix(), due_prefix()] {
            let mut after = None;
            loop {
                let (names, next) = store.scan_names(&prefix, after.as_ref(), PAGE_COUNT).await?;
                let is_its = |name: &Key| prefix == log_prefix(run) || name.last_name() == Some(run.as_str());
                let ops: Vec<Op> = names.into_iter().filter(is_its).map(Op::delete).collect();
                if !ops.is_empty() {
                    store.batch(ops, Vec::new()).await?;
                }
                after = next;
                if after.is_none() {
                    break;
                }
            }
        }
        // The head last: a kill between leaves something that can be found and taken away again.
        let rest = [ready_key(run), unsworn_key(run), last_key(run), head_key(run)].map(Op::delete);
        store.batch(rest.to_vec(), Vec::new()).await?;
        self.forget(store, run);
        Ok(true)
    }
}
