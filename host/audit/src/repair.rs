//! Mending damaged logs of a host that is stopped: what still holds is kept, what does not is put aside, and the log says so.
//!
//! Must never hide that something was lost: nothing is deleted, a repaired log begins again after its last sound entry with
//! an entry about the repair, and whoever kept a later head finds that the log went back. A sound log is not touched.

use std::collections::BTreeSet;
use std::sync::Arc;

use ringfence_core::limits::PAGE_COUNT_MAX;
use ringfence_core::{Clock, Entropy};
use ringfence_store::{Key, Op, Segment, StoreError, TenantStore, Tenants};
use serde::Serialize;
use serde_json::{Value, json};

use crate::beginning::peaks;
use crate::envelope::{Envelope, canonical_body, commitment, hex, link};
use crate::key_change::KeyChange;
use crate::ring::FIRST_GENERATION;
use crate::shards::Stump;
use crate::shelf::Shelf;
use crate::state::State;
use crate::tiles::{Changed, TILE_COUNT, levels_of, nodes};
use crate::times::Order;
use crate::tree::{Frontier, Hash, leaf_hash};
use crate::writer::{self, StoredEntry, TILES, entry_key, head_key, unavailable};
use crate::{Audit, AuditError, Event, Log, Outcome, codes};

/// LIMIT: records moved in one batch.
const MOVE_COUNT: usize = 200;

/// What was done to a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Repaired {
    /// The log.
    pub origin: String,
    /// Entries that still hold.
    pub kept_count: u64,
    /// Entries that the log's head said there were; none when the head cannot be read.
    pub head_size: Option<u64>,
    /// Entries after the last sound one that are there and were put aside.
    pub aside_count: u64,
    /// What was wrong.
    pub reason: String,
}

/// Mends every log that does not open, the host's first. `origin_host` as in [`Audit::open`], which must not be running.
/// Must be called inside a runtime.
pub async fn repair(
    tenants: Tenants,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    origin_host: String,
) -> Result<Vec<Repaired>, AuditError> {
    let mut logs = vec![(format!("{origin_host}/audit/host"), Log::Host, tenants.platform().clone())];
    for record in tenants.list().await.map_err(|error| unavailable("tenants", &error))? {
        let Some(store) = tenants.open_tenant(&record.id) else { continue };
        let origin = format!("{origin_host}/audit/tenant/{}", store.label());
        logs.push((origin, Log::Tenant(store.clone()), store));
    }
    let mut repaired = Vec::new();
    for (origin, log, store) in logs {
        // A tenant whose keys are disabled, or that is being deleted, is not this verb's matter.
        if let Err(AuditError::Broken { what, seq, .. }) = writer::load(&store, &origin).await {
            let reason = format!("entry {seq}: {what}");
            repaired.push((log, mend(&store, origin.clone(), reason, clock.now().as_millisecond()).await?));
        }
    }
    if repaired.is_empty() {
        return Ok(Vec::new());
    }
    let audit = Audit::open(tenants, clock, entropy, origin_host).await?;
    for (log, report) in &repaired {
        let mut event = Event::new(codes::AUDIT_REPAIRED, "repair-audit", audit.actor(), report.origin.clone());
        event.details = serde_json::to_value(report).unwrap_or(Value::Null);
        audit.record_outcome(log, event, Outcome::Success).await?;
    }
    audit.flush().await?;
    Ok(repaired.into_iter().map(|(_, report)| report).collect())
}

/// The part of a log that holds.
struct Sound {
    frontier: Frontier,
    chain_head: Hash,
    time: i64,
    order: Order,
    open: BTreeSet<u64>,
    stump: Stump,
}

async fn mend(store: &TenantStore, origin: String, reason: String, now_ms: i64) -> Result<Repaired, AuditError> {
    let failed = |error: StoreError| unavailable(&origin, &error);
    let head = store.get(&head_key()).await.ok().flatten();
    let parsed: Option<Value> = head.as_ref().and_then(|record| serde_json::from_slice(&record.value).ok());
    let head_size = parsed.as_ref().and_then(|head| head.get("size")?.as_u64());
    let generation = parsed.as_ref().and_then(|head| head.get("key")?.as_u64()).and_then(|key| u32::try_from(key).ok());
    // A stump that cannot be read is no beginning to go on from: better no repair than a log that forgets what it was.
    let stump = Stump::load(store, &origin).await?;
    let sound = sound(store, stump).await;
    let size = sound.frontier.size();
    let aside = Key::new(["audit-aside"]).number(u64::try_from(now_ms).unwrap_or(0));
    let mut ops: Vec<Op> =
        head.map(|record| Op::put(aside.clone().push("head"), record.value.to_vec())).into_iter().collect();
    let (mut after, mut aside_count) = (None, 0_u64);
    loop {
        let page = store.scan(&Key::new(["audit"]), after.as_ref(), MOVE_COUNT).await.map_err(failed)?;
        for (key, record) in &page.records {
            let Some(seq) = key.last_number().filter(|seq| *seq >= size) else { continue };
            ops.push(Op::put(aside.clone().push("entry").number(seq), record.value.to_vec()));
            ops.push(Op::delete(key.clone()));
            aside_count += 1;
        }
        let next = page.next;
        if ops.len() >= MOVE_COUNT {
            store.batch(std::mem::take(&mut ops), Vec::new()).await.map_err(failed)?;
        }
        match next {
            Some(token) => after = Some(token),
            None => break,
        }
    }
    // The tree of the part that holds is made anew from its entries when it is next asked for.
    for tile in tiles(store, &sound.stump).await.map_err(failed)? {
        ops.push(Op::delete(tile));
        if ops.len() >= MOVE_COUNT {
            store.batch(std::mem::take(&mut ops), Vec::new()).await.map_err(failed)?;
        }
    }
    let Sound { frontier, chain_head, time, order, open, stump } = sound;
    ops.extend(edge_ops(store, &stump));
    let (first, bodies_to) = (stump.edge.size(), stump.bodies_to);
    let (stale, announced) = stale(store, size).await.map_err(failed)?;
    ops.extend(stale);
    // A change of key whose entry is lost is said again.
    let generation = generation.unwrap_or(FIRST_GENERATION).min(announced.unwrap_or(u32::MAX));
    let head = State { frontier, chain_head, time, order, open, revision: None, generation, first, bodies_to };
    let stored = Op::put_json(head_key(), &head.stored()).map_err(|_| AuditError::Unrepresentable)?;
    ops.push(if size == 0 { Op::delete(head_key()) } else { stored });
    store.batch(ops, Vec::new()).await.map_err(failed)?;
    Ok(Repaired { origin, kept_count: size, head_size, aside_count, reason })
}

/// Walks a log from its beginning as far as it holds.
async fn sound(store: &TenantStore, stump: Stump) -> Sound {
    let frontier = Frontier::from_parts(stump.edge.size(), peaks(&stump.edge)).unwrap_or_default();
    let (chain_head, order) = (stump.chain_head, Order::unknown(frontier.size()));
    let mut sound = Sound { frontier, chain_head, time: i64::MIN, order, open: BTreeSet::new(), stump };
    loop {
        let seq = sound.frontier.size();
        let Ok(Some(record)) = store.get(&entry_key(seq)).await else { return sound };
        let Ok(entry) = record.json::<StoredEntry>() else { return sound };
        let Ok(envelope) = serde_json::from_str::<Envelope>(&entry.envelope) else { return sound };
        if envelope.seq != seq || envelope.prev != hex(&sound.chain_head) {
            return sound;
        }
        let body: Value = serde_json::from_str(&entry.body).unwrap_or_else(|_| json!({}));
        // What was erased, or deleted after its retention, has nothing left to compare.
        let bare = entry.is_bare();
        if !bare && !is_committed(&envelope, &entry.salt, &body) {
            return sound;
        }
        if let Some(intent) = body.pointer("/unmapped/intent").and_then(Value::as_u64) {
            sound.open.remove(&intent);
        }
        if envelope.status == "Intended" && !bare {
            sound.open.insert(seq);
        }
        sound.time = sound.time.max(envelope.time);
        sound.order.note(seq, envelope.time);
        sound.chain_head = link(&entry.envelope);
        sound.frontier.push(leaf_hash(entry.envelope.as_bytes()));
    }
}

/// Whether a body is the one its envelope commits to.
fn is_committed(envelope: &Envelope, salt: &str, body: &Value) -> bool {
    match (data_encoding::HEXLOWER.decode(salt.as_bytes()), canonical_body(body)) {
        (Ok(salt), Ok(text)) => hex(&commitment(&salt, &text)) == envelope.body_sha256,
        _ => false,
    }
}

/// The tiles that are to be made anew: all but those over what is deleted, which nothing else holds any more.
async fn tiles(store: &TenantStore, stump: &Stump) -> Result<Vec<Key>, StoreError> {
    let (mut keys, mut after) = (Vec::new(), None);
    loop {
        let page = store.scan(&Key::new([TILES]), after.as_ref(), MOVE_COUNT).await?;
        keys.extend(page.records.into_iter().map(|(key, _)| key).filter(|key| !is_over_stump(key, stump)));
        match page.next {
            Some(token) => after = Some(token),
            None => return Ok(keys),
        }
    }
}

/// The deletions of what was kept about entries that are lost: borders of shards, and changes of key, with the generation of the
/// key before the first of these.
async fn stale(store: &TenantStore, size: u64) -> Result<(Vec<Op>, Option<u32>), StoreError> {
    let (mut ops, mut announced) = (Vec::new(), None);
    let shards = store.scan(&Key::new(["audit-shard"]), None, PAGE_COUNT_MAX).await?;
    let lost = shards.records.into_iter().map(|(key, _)| key);
    ops.extend(lost.filter(|key| key.last_number().is_some_and(|from| from >= size)).map(Op::delete));
    let changes = store.scan(&Key::new(["audit-key"]), None, PAGE_COUNT_MAX).await?;
    for (key, record) in changes.records {
        if record.json::<KeyChange>().is_ok_and(|change| change.seq < size) {
            continue;
        }
        let before = key.last_number().and_then(|generation| u32::try_from(generation.saturating_sub(1)).ok());
        announced = announced.or(before);
        ops.push(Op::delete(key));
    }
    Ok((ops, announced))
}

/// Whether a tile is a full one of the tree over the deleted entries.
fn is_over_stump(key: &Key, stump: &Stump) -> bool {
    let [_, Segment::Number(level), Segment::Number(index)] = key.segments() else { return false };
    u8::try_from(*level).is_ok_and(|level| *index < nodes(stump.edge.size(), level) / TILE_COUNT)
}

/// The unfinished tiles of the tree over the deleted entries, as they were when the stump was cut.
fn edge_ops<'a>(store: &'a TenantStore, stump: &'a Stump) -> impl Iterator<Item = Op> + 'a {
    let (shelf, size) = (Shelf::new(store.clone(), TILES), stump.edge.size());
    let level = |level: u8| Changed {
        level,
        index: nodes(size, level) / TILE_COUNT,
        hashes: stump.edge.hashes(level).to_vec(),
    };
    let open = (1..levels_of(size)).map(level).filter(|tile| !tile.hashes.is_empty()).collect();
    shelf.ops(open).collect::<Vec<_>>().into_iter()
}
