//! A log's shards: one for each year (UTC), each a stated range of the log's one tree, closed by a signed final head.
//!
//! A shard is no tree of its own: then every proof and every head that somebody kept stays valid when the year turns, and what
//! was deleted is a prefix, which c2sp.org/tlog-tiles calls pruning. Must never begin a shard because a clock stepped back:
//! the year is that of the latest time the log has seen. Records: `audit-shard/<first entry>` where each begins and how the
//! one before ended, `audit-stump` what stands for the deleted part.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use ringfence_store::{Key, Op, StoreError, TenantStore};
use serde::{Deserialize, Serialize};

use crate::AuditError;
use crate::beginning::{Beginning, peaks_text};
use crate::envelope::{Envelope, genesis, hex};
use crate::note::SignedHead;
use crate::state::State;
use crate::tiles::{Edge, TILE_COUNT, levels_of};
use crate::tree::Hash;
use crate::writer::{self, Writer, unavailable};

/// LIMIT: shards read of one log.
const SHARDS_COUNT_MAX: usize = 1_000;

/// The entries of one year, or of several when nothing happened at the turn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shard {
    /// The year it began in.
    pub year: i16,
    /// The last year that an entry of it is of.
    pub last_year: i16,
    /// Its first entry.
    pub from: u64,
    /// The entry after its last; none while it is open.
    pub to: Option<u64>,
    /// Its signed final head, over all entries up to its end; none while it is open.
    pub checkpoint: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct StoredShard {
    v: u8,
    year: i16,
    before: Option<Closed>,
}

/// How the shard before ended.
#[derive(Serialize, Deserialize)]
struct Closed {
    year: i16,
    checkpoint: String,
}

/// What stands for the deleted part of a log.
pub(crate) struct Stump {
    /// The tree over the entries that are gone, as far as appending to it needs it.
    pub(crate) edge: Edge,
    /// What the first entry that is there points back to.
    pub(crate) chain_head: Hash,
    /// Entries before this place have no body any more.
    pub(crate) bodies_to: u64,
    /// Revision of its record; none before the first deletion.
    pub(crate) revision: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct StoredStump {
    v: u8,
    size: u64,
    levels: Vec<String>,
    chain_head: String,
    bodies_to: u64,
}

impl Shard {
    /// When retention of so many days is over, counted from the end of its last year.
    pub(crate) fn due_at(&self, days: u32) -> Option<Timestamp> {
        let end = Date::new(self.last_year.checked_add(1)?, 1, 1).ok()?.to_zoned(TimeZone::UTC).ok()?.timestamp();
        end.checked_add(jiff::SignedDuration::from_hours(24 * i64::from(days))).ok()
    }
}

/// The year of a time (UTC); the least there is for a time that no calendar has.
pub(crate) fn year_of(time_ms: i64) -> i16 {
    Timestamp::from_millisecond(time_ms).map_or(i16::MIN, |time| TimeZone::UTC.to_datetime(time).year())
}

impl Writer {
    /// What must be written with the next entry when it is the first of a shard.
    pub(crate) fn shard_op(&self, state: &State, now_ms: i64) -> Result<Option<Op>, AuditError> {
        let (seq, year) = (state.frontier.size(), year_of(now_ms));
        let before = match seq {
            0 => None,
            _ if year <= year_of(state.time) => return Ok(None),
            _ => Some(Closed {
                year: year_of(state.time),
                checkpoint: self.shared.checkpoint(&state.head(&self.origin)),
            }),
        };
        let stored = StoredShard { v: 1, year, before };
        Op::put_json(shard_key().number(seq), &stored).map(Some).map_err(|_| AuditError::Unrepresentable)
    }
}

/// The shards of a log, the oldest first.
pub(crate) async fn shards(store: &TenantStore, origin: &str, state: &State) -> Result<Vec<Shard>, AuditError> {
    let failed = |error: StoreError| unavailable(origin, &error);
    if state.frontier.size() == 0 {
        return Ok(Vec::new());
    }
    let (mut records, mut after) = (Vec::new(), None);
    loop {
        let page = store.scan(&shard_key(), after.as_ref(), SHARDS_COUNT_MAX).await.map_err(failed)?;
        for (key, record) in page.records {
            records.extend(key.last_number().zip(record.json::<StoredShard>().ok()));
        }
        after = page.next.filter(|_| records.len() < SHARDS_COUNT_MAX);
        if after.is_none() {
            break;
        }
    }
    let now_year = year_of(state.time);
    if records.first().is_none_or(|(from, _)| *from > 0) {
        // A log from before there were shards: it begins with its first entry.
        let next = records.first().and_then(|(_, stored)| stored.before.as_ref()).map_or(now_year, |last| last.year);
        let year = first_year(store, origin).await?.unwrap_or(next);
        records.insert(0, (0, StoredShard { v: 1, year, before: None }));
    }
    let mut found: Vec<Shard> = Vec::with_capacity(records.len());
    for (from, stored) in records {
        if let (Some(last), Some(before)) = (found.last_mut(), stored.before) {
            (last.to, last.last_year, last.checkpoint) = (Some(from), before.year, Some(before.checkpoint));
        }
        found.push(Shard { year: stored.year, last_year: now_year, from, to: None, checkpoint: None });
    }
    Ok(found)
}

async fn first_year(store: &TenantStore, origin: &str) -> Result<Option<i16>, AuditError> {
    let first = writer::read(store, origin, 0).await?;
    let envelope = first.and_then(|stored| serde_json::from_str::<Envelope>(&stored.envelope).ok());
    Ok(envelope.map(|envelope| year_of(envelope.time)))
}

/// The final head of the youngest shard of which something is deleted, in the words of the log's beginning.
pub(crate) fn beginning(stump: &Stump, shards: &[Shard]) -> Option<Beginning> {
    let size = stump.edge.size();
    let touched = shards.iter().find(|shard| size > 0 && shard.to.is_some_and(|to| to >= size))?;
    let final_checkpoint = touched.checkpoint.clone()?;
    Some(Beginning { size, peaks: peaks_text(&stump.edge), final_checkpoint })
}

// === impl Stump ===

impl Stump {
    /// What stands for the deleted part; of a whole log, nothing.
    pub(crate) async fn load(store: &TenantStore, origin: &str) -> Result<Self, AuditError> {
        let record = store.get(&stump_key()).await.map_err(|error| unavailable(origin, &error))?;
        let Some(record) = record else {
            return Ok(Self { edge: Edge::default(), chain_head: genesis(origin), bodies_to: 0, revision: None });
        };
        let broken = || AuditError::Broken { log: origin.to_owned(), seq: 0, what: "its stump cannot be read" };
        let stored: StoredStump = record.json().map_err(|_| broken())?;
        Self::read(stored, record.revision).ok_or_else(broken)
    }

    /// The same from the bytes of its record, such as a restored backup has it.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Self::read(serde_json::from_slice(bytes).ok()?, 0)
    }

    fn read(stored: StoredStump, revision: u64) -> Option<Self> {
        let bytes = |text: &str| data_encoding::HEXLOWER.decode(text.as_bytes()).ok();
        let level = |text: &String| -> Option<Vec<Hash>> {
            let bytes = bytes(text)?;
            let (hashes, rest) = bytes.as_chunks::<32>();
            rest.is_empty().then(|| hashes.to_vec())
        };
        let levels: Option<Vec<Vec<Hash>>> = stored.levels.iter().map(level).collect();
        Some(Self {
            edge: Edge::from_parts(stored.size, levels?)?,
            chain_head: bytes(&stored.chain_head)?.try_into().ok()?,
            bodies_to: stored.bodies_to,
            revision: Some(revision),
        })
    }

    /// The write that keeps it.
    pub(crate) fn op(&self) -> Result<Op, AuditError> {
        let size = self.edge.size();
        let stored = StoredStump {
            v: 1,
            size,
            levels: (0..levels_of(size)).map(|level| hex(&self.edge.hashes(level).concat())).collect(),
            chain_head: hex(&self.chain_head),
            bodies_to: self.bodies_to,
        };
        Op::put_json(stump_key(), &stored).map_err(|_| AuditError::Unrepresentable)
    }
}

/// The beginning of a log as a restored backup has it, from the bytes of its stump and of the records of its shards, each
/// with the first entry of its shard, in order.
pub fn stored_beginning<'a>(stump: &[u8], shards: impl IntoIterator<Item = (u64, &'a [u8])>) -> Option<Beginning> {
    let stump = Stump::from_bytes(stump)?;
    let (size, peaks) = (stump.edge.size(), peaks_text(&stump.edge));
    let (_, next) = shards.into_iter().find(|(from, _)| size > 0 && *from >= size)?;
    let closed = serde_json::from_slice::<StoredShard>(next).ok()?.before?;
    Some(Beginning { size, peaks, final_checkpoint: closed.checkpoint })
}

/// Where the tiles may be cut at or before a place.
pub(crate) fn border(place: u64) -> u64 {
    place / TILE_COUNT * TILE_COUNT
}

/// Key of the stump.
pub(crate) fn stump_key() -> Key {
    Key::new(["audit-stump"])
}

fn shard_key() -> Key {
    Key::new(["audit-shard"])
}

/// A head as text says it, for those who compare it.
pub(crate) fn root_text(head: &SignedHead) -> String {
    hex(&head.root)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_is_due_so_many_days_after_the_end_of_its_last_year() {
        let shard = Shard { year: 2026, last_year: 2027, from: 0, to: Some(9), checkpoint: None };
        assert_eq!(shard.due_at(2_557).unwrap().to_string(), "2035-01-01T00:00:00Z");
        assert_eq!(shard.due_at(1).unwrap().to_string(), "2028-01-02T00:00:00Z");
        assert_eq!(Shard { last_year: 9_999, ..shard }.due_at(1), None);
    }

    #[test]
    fn a_time_that_no_calendar_has_is_of_no_year() {
        assert_eq!(year_of(i64::MIN), i16::MIN);
        assert_eq!((year_of(1_798_761_599_999), year_of(1_798_761_600_000)), (2026, 2027));
    }
}
