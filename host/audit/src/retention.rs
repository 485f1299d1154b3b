//! Retention: how long a log's entries are kept, and the sweep that deletes a closed shard when its time is over.
//!
//! Must never delete what is not due, is held, or has not been said in the log before. Slow on purpose: a due shard is first
//! announced and then left for [`GRACE_DAYS`], so that a clock that runs ahead for an hour deletes nothing; then it goes one
//! tile (256 entries) at a time, each in one batch of the store together with the stump that stands for it. A kill between
//! two batches leaves a log that is whole from the stump on, and the next sweep goes on there. The entries between the last
//! tile border and the shard's end lose their bodies and keep their envelopes until the next shard goes.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use ringfence_store::{Key, Op, Precondition, StoreError, TenantStore};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::audit::ask;
use crate::beginning::Beginning;
use crate::envelope::link;
use crate::note::claimed_head;
use crate::shards::{Shard, Stump, beginning, border, root_text, shards, stump_key};
use crate::terms::RETENTION_DAYS_MAX;
use crate::tiles::{TILE_COUNT, levels_of};
use crate::tree::leaf_hash;
use crate::writer::{self, Command, StoredEntry, TILES, WRITE_TIME_MAX, Writer, entry_key, unavailable};
use crate::{Audit, AuditError, Event, Log, Outcome, codes};

/// How long a deletion is announced before it begins, in days.
pub const GRACE_DAYS: i64 = 7;
/// LIMIT: tiles that one sweep deletes of one log.
const STEPS_COUNT_MAX: usize = 256;
/// LIMIT: records looked through for entries that should not be there, in one step.
const STRAYS_COUNT_MAX: usize = 256;
/// Rest between two steps, so that nobody waits for a sweep.
const STEP_REST: Duration = Duration::from_millis(2);

/// What a sweep of one log did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swept {
    /// Nothing is due.
    Nothing,
    /// A shard is due and was announced.
    Announced,
    /// An announced shard waits for its time.
    Waiting,
    /// An announcement was taken back: the clock went back, the retention grew, or there is a hold.
    Withdrawn,
    /// A hold keeps what is due.
    Held,
    /// A part of a shard was deleted; there is more.
    Deleting,
    /// A shard is deleted.
    Deleted,
}

/// The life of a log: what is kept, for how long, and what is not there any more.
#[derive(Debug, Clone)]
pub struct Life {
    /// Days that closed shards are kept.
    pub days: u32,
    /// The least that may be set.
    pub days_min: u32,
    /// The first entry that is there.
    pub first: u64,
    /// Entries before this place have no body any more.
    pub bodies_from: u64,
    /// The shards, the oldest first.
    pub shards: Vec<Shard>,
    /// What stands for the deleted part; none of a whole log.
    pub beginning: Option<Beginning>,
    /// When the next announced deletion begins.
    pub deletes_at: Option<Timestamp>,
}

/// What a step of a deletion left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pruned {
    /// There is more.
    More,
    /// Nothing.
    Done,
}

#[derive(Serialize, Deserialize)]
struct StoredDays {
    v: u8,
    days: u32,
}

/// The announcement of a deletion.
#[derive(Serialize, Deserialize)]
struct Due {
    v: u8,
    from: u64,
    announced_at: Timestamp,
    deletes_at: Timestamp,
    /// Whether the log says that it began.
    begun: bool,
}

impl Audit {
    /// Sweeps all logs until `stopping` says so. A log that cannot be swept keeps nobody else waiting.
    pub async fn run_retention(self, mut stopping: watch::Receiver<bool>) {
        let mut rounds = tokio::time::interval(self.shared().terms().sweep_every);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let stopped = async { drop(stopping.wait_for(|stop| *stop).await) };
            tokio::select! {
                () = stopped => return,
                _ = rounds.tick() => self.sweep_all().await,
            }
        }
    }

    /// One sweep of every log.
    pub async fn sweep_all(&self) {
        if let Err(error) = self.retire_keys().await {
            tracing::warn!(%error, "the audit log's keys could not be tended");
        }
        for log in self.all_logs().await {
            match self.sweep(&log).await {
                Ok(_) | Err(AuditError::Gone | AuditError::KeyDisabled) => {}
                Err(error) => tracing::warn!(log = %self.origin(&log), %error, "an audit log could not be swept"),
            }
        }
    }

    /// One sweep of one log: at most so much work that nobody notices.
    pub async fn sweep(&self, log: &Log) -> Result<Swept, AuditError> {
        let (store, origin) = (self.store(log), self.origin(log));
        let state = self.state(log).await?;
        self.clear_strays(log, &store, state.first).await?;
        let all = shards(&store, &origin, &state).await?;
        let Some(shard) = all.iter().find(|shard| shard.to.is_none_or(|to| to > state.bodies_to)) else {
            return Ok(Swept::Nothing);
        };
        let (days, now) = (self.retention_days(log).await?, self.clock().now());
        let announced = self.due(&store).await?;
        let is_due = shard.due_at(days).is_some_and(|due| due <= now);
        let held = !self.holds(log).await?.is_empty();
        match announced {
            None if !is_due => Ok(Swept::Nothing),
            None if held => Ok(Swept::Held),
            None => self.announce_shard(log, shard, now).await,
            Some(due) if due.begun && held => Ok(Swept::Held),
            Some(due) if !is_due || held || due.from != shard.from || now < due.announced_at => {
                self.withdraw(log, shard, &due).await
            }
            Some(due) if now < due.deletes_at => Ok(Swept::Waiting),
            Some(due) => self.delete_shard(log, shard, due).await,
        }
    }

    /// The life of a log.
    pub async fn life(&self, log: &Log) -> Result<Life, AuditError> {
        let (store, origin) = (self.store(log), self.origin(log));
        let state = self.state(log).await?;
        let shards = shards(&store, &origin, &state).await?;
        let stump = Stump::load(&store, &origin).await?;
        Ok(Life {
            days: self.retention_days(log).await?,
            days_min: self.shared().terms().retention_days_min,
            first: stump.edge.size(),
            bodies_from: stump.bodies_to,
            beginning: beginning(&stump, &shards),
            deletes_at: self.due(&store).await?.map(|due| due.deletes_at),
            shards,
        })
    }

    /// The first entry that is there.
    pub async fn first(&self, log: &Log) -> Result<u64, AuditError> {
        Ok(self.state(log).await?.first)
    }

    /// What stands for the deleted part of a log; none of a whole one.
    pub async fn beginning(&self, log: &Log) -> Result<Option<Beginning>, AuditError> {
        Ok(self.life(log).await?.beginning)
    }

    /// Days that a log's closed shards are kept: what its owner set, never less than the operator's minimum.
    pub async fn retention_days(&self, log: &Log) -> Result<u32, AuditError> {
        let stored: Option<StoredDays> =
            self.store(log).get_json(&days_key()).await.map_err(|error| unavailable(&self.origin(log), &error))?;
        let terms = self.shared().terms();
        Ok(stored.map_or(terms.retention_days, |stored| stored.days).max(terms.retention_days_min))
    }

    /// Fails for days that nobody may set.
    pub fn check_retention_days(&self, days: u32) -> Result<(), AuditError> {
        let min = self.shared().terms().retention_days_min;
        if (min..=RETENTION_DAYS_MAX).contains(&days) {
            Ok(())
        } else {
            Err(AuditError::Days { min, max: RETENTION_DAYS_MAX })
        }
    }

    /// Sets how many days a log's closed shards are kept.
    pub async fn set_retention_days(&self, log: &Log, days: u32) -> Result<(), AuditError> {
        self.check_retention_days(days)?;
        let written = self.store(log).put_json(&days_key(), &StoredDays { v: 1, days }).await;
        written.map(drop).map_err(|error| unavailable(&self.origin(log), &error))
    }

    async fn announce_shard(&self, log: &Log, shard: &Shard, now: Timestamp) -> Result<Swept, AuditError> {
        let grace = SignedDuration::from_hours(24 * GRACE_DAYS);
        let deletes_at = now.checked_add(grace).map_err(|_| AuditError::Unrepresentable)?;
        // First the log, then the plan: a plan that nobody was told of is never carried out.
        self.say(log, codes::SHARD_DUE, shard, json!({ "deletes_at": deletes_at })).await?;
        let due = Due { v: 1, from: shard.from, announced_at: now, deletes_at, begun: false };
        self.put_due(log, Some(&due)).await?;
        Ok(Swept::Announced)
    }

    async fn withdraw(&self, log: &Log, shard: &Shard, due: &Due) -> Result<Swept, AuditError> {
        self.say(log, codes::SHARD_SPARED, shard, json!({ "was_to_begin_at": due.deletes_at })).await?;
        self.put_due(log, None).await?;
        Ok(Swept::Withdrawn)
    }

    async fn delete_shard(&self, log: &Log, shard: &Shard, mut due: Due) -> Result<Swept, AuditError> {
        // The announcement was the first entry after the shard's years, so that it is closed.
        let Some(to) = shard.to else { return Ok(Swept::Waiting) };
        if !due.begun {
            self.say(log, codes::SHARD_DELETING, shard, json!({})).await?;
            due.begun = true;
            self.put_due(log, Some(&due)).await?;
        }
        for _ in 0..STEPS_COUNT_MAX {
            match self.prune_step(log, to).await {
                Ok(Pruned::More) => tokio::time::sleep(STEP_REST).await,
                Ok(Pruned::Done) => {
                    self.say(log, codes::SHARD_DELETED, shard, json!({})).await?;
                    self.put_due(log, None).await?;
                    return Ok(Swept::Deleted);
                }
                Err(AuditError::Held { .. }) => return Ok(Swept::Held),
                Err(error) => return Err(error),
            }
        }
        Ok(Swept::Deleting)
    }

    /// Deletes one tile, unless there is a hold. Nobody sets one meanwhile.
    async fn prune_step(&self, log: &Log, to: u64) -> Result<Pruned, AuditError> {
        let _turn = self.keeping().lock().await;
        self.check_not_held(&self.store(log)).await?;
        ask(&self.handle(log), |answer| Command::Prune(to, answer)).await
    }

    /// Removes entries that were put back behind the log's back after their deletion.
    async fn clear_strays(&self, log: &Log, store: &TenantStore, first: u64) -> Result<(), AuditError> {
        let page = store.scan(&Key::new(["audit"]), None, 1).await;
        let page = page.map_err(|error| unavailable(&self.origin(log), &error))?;
        let lowest = page.records.first().and_then(|(key, _)| key.last_number());
        if lowest.is_some_and(|lowest| lowest < first) {
            tracing::warn!(log = %self.origin(log), "entries that were deleted after their retention are back; removing them");
            match self.prune_step(log, first).await {
                Ok(_) | Err(AuditError::Held { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn say(
        &self,
        log: &Log,
        code: &'static str,
        shard: &Shard,
        more: serde_json::Value,
    ) -> Result<(), AuditError> {
        let head = shard.checkpoint.as_deref().and_then(claimed_head);
        let mut event = Event::new(code, "sweep-audit", self.actor(), self.origin(log));
        event.details = json!({
            "year": shard.year, "last_year": shard.last_year, "from": shard.from, "to": shard.to,
            "root": head.as_ref().map(root_text), "plan": more,
        });
        self.record_outcome(log, event, Outcome::Success).await.map(drop)
    }

    async fn due(&self, store: &TenantStore) -> Result<Option<Due>, AuditError> {
        store.get_json(&due_key()).await.map_err(|error| unavailable("retention", &error))
    }

    async fn put_due(&self, log: &Log, due: Option<&Due>) -> Result<(), AuditError> {
        let store = self.store(log);
        let written = match due {
            Some(due) => store.put_json(&due_key(), due).await,
            None => store.delete(&due_key()).await,
        };
        written.map(drop).map_err(|error| unavailable(&self.origin(log), &error))
    }
}

impl Writer {
    /// One step of deleting the entries before `to`: a tile with everything below it, or at the end the bodies of what is left
    /// over. One batch, so that it happened or not.
    pub(crate) async fn prune(&mut self, to: u64) -> Result<Pruned, AuditError> {
        let state = self.state().await?.clone();
        // Nothing is deleted that is not in the second place yet.
        self.copy_to(state.first, state.frontier.size()).await?;
        // A log from before tiles were kept gets them now, while its entries are there.
        self.edge(&state).await?;
        let mut stump = Stump::load(&self.store, &self.origin).await?;
        let to = to.min(state.frontier.size());
        let mut ops = self.strays(stump.edge.size()).await?;
        if ops.is_empty() {
            if stump.edge.size() < border(to) {
                ops = self.cut_tile(&mut stump).await?;
            } else if stump.bodies_to < to {
                ops = self.cut_bodies(&stump, to).await?;
                stump.bodies_to = to;
            } else {
                return Ok(Pruned::Done);
            }
            ops.push(stump.op()?);
        }
        let expected = match stump.revision {
            Some(revision) => Precondition::Revision(stump_key(), revision),
            None => Precondition::Absent(stump_key()),
        };
        // As with any write: until the store has said yes, what it holds is read back.
        self.forget_state();
        match tokio::time::timeout(WRITE_TIME_MAX, self.store.batch(ops, vec![expected])).await {
            Ok(Ok(_)) => Ok(Pruned::More),
            Ok(Err(error)) => Err(unavailable(&self.origin, &error)),
            Err(_) => Err(AuditError::Unavailable),
        }
    }

    /// Moves the stump over the next tile, and the deletions that this allows.
    async fn cut_tile(&self, stump: &mut Stump) -> Result<Vec<Op>, AuditError> {
        let from = stump.edge.size();
        let (end, mut ops) = (from + TILE_COUNT, Vec::new());
        for seq in from..end {
            let missing = || AuditError::Broken { log: self.origin.clone(), seq, what: "it is missing" };
            let entry = writer::read(&self.store, &self.origin, seq).await?.ok_or_else(missing)?;
            stump.edge.push(leaf_hash(entry.envelope.as_bytes()));
            stump.chain_head = link(&entry.envelope);
            ops.push(Op::delete(entry_key(seq)));
        }
        stump.bodies_to = stump.bodies_to.max(end);
        ops.extend(tiles_below(end).map(Op::delete));
        Ok(ops)
    }

    /// Takes the bodies of the entries between the stump and `to`: fewer than a tile's.
    async fn cut_bodies(&self, stump: &Stump, to: u64) -> Result<Vec<Op>, AuditError> {
        let mut ops = Vec::new();
        for seq in stump.edge.size().max(stump.bodies_to)..to {
            let missing = || AuditError::Broken { log: self.origin.clone(), seq, what: "it is missing" };
            let entry: StoredEntry = writer::read(&self.store, &self.origin, seq).await?.ok_or_else(missing)?;
            ops.push(Op::put_json(entry_key(seq), &entry.bare()).map_err(|_| AuditError::Unrepresentable)?);
        }
        Ok(ops)
    }

    /// The deletions of entries before the stump, which should not be there.
    async fn strays(&self, size: u64) -> Result<Vec<Op>, AuditError> {
        let failed = |error: StoreError| unavailable(&self.origin, &error);
        let page = self.store.scan(&Key::new(["audit"]), None, STRAYS_COUNT_MAX).await.map_err(failed)?;
        let keys = page.records.into_iter().map(|(key, _)| key);
        Ok(keys.filter(|key| key.last_number().is_some_and(|seq| seq < size)).map(Op::delete).collect())
    }
}

/// The tiles that nothing needs any more once the entries before `end`, a border of tiles, are gone. The last full tile of
/// level 0 stays: a log that opens finds by it where its tiles end.
fn tiles_below(end: u64) -> impl Iterator<Item = Key> {
    let key = |level: u8, index: u64| Key::new([TILES]).number(level.into()).number(index);
    let last = (end / TILE_COUNT).checked_sub(2).map(|index| key(0, index));
    let full = (1..levels_of(end)).filter_map(move |level| {
        let span = TILE_COUNT.checked_pow(u32::from(level) + 1)?;
        (end.is_multiple_of(span)).then(|| key(level, end / span - 1))
    });
    last.into_iter().chain(full)
}

fn days_key() -> Key {
    Key::new(["audit-retention"])
}

fn due_key() -> Key {
    Key::new(["audit-due"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tiles_that_lie_wholly_before_the_border_go() {
        let named = |end: u64| -> Vec<String> { tiles_below(end).map(|key| format!("{key:?}")).collect() };
        assert_eq!(named(256), Vec::<String>::new());
        assert_eq!(named(512).len(), 1);
        // At 65536 the first tile of level 1 is full and below; level 2's is not.
        assert_eq!(named(65_536).len(), 2);
        assert_eq!(named(65_792).len(), 1);
    }
}
