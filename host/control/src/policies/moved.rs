//! What is stored for a tenant's decisions, when it goes on under another name: its own name in it becomes the new one, in the
//! versions too, so that each can be brought back.
//!
//! Must never be done to a tenant that somebody can reach: only to one that is not published yet.

use ringfence_core::TenantId;
use ringfence_policy::moved;
use ringfence_store::{Key, Record, StoreError, TenantStore};
use serde_json::Value;

use super::{ceiling, labels, review, shadow, text};

/// Records read at a time.
const PAGE_COUNT: usize = 50;

/// How a text is moved.
type Move = fn(&str, &TenantId, &TenantId) -> String;

/// Moves everything that a restore into a tenant of another name brought. Gives how many texts were changed.
pub(crate) async fn policies(store: &TenantStore, from: &TenantId, to: &TenantId) -> Result<u64, StoreError> {
    if from == to {
        return Ok(0);
    }
    let mut moved_count = 0;
    for (key, how) in [(text::key(), moved::text as Move), (ceiling::key(), moved::text), (labels::key(), labels_text)]
    {
        if let Some(record) = store.get(&key).await? {
            moved_count += one(store, key, &record, |text| how(text, from, to)).await?;
        }
    }
    if let Some(candidate) = shadow::stored(store).await? {
        let new = moved::text(&candidate, from, to);
        if new != candidate {
            store.put_json(&shadow::key(), &new).await?;
            moved_count += 1;
        }
    }
    for (prefix, how) in [("policy-version", moved::text as Move), ("policy-labels-version", labels_text)] {
        let (prefix, mut after) = (Key::new([prefix]), None);
        loop {
            let page = store.scan(&prefix, after.as_ref(), PAGE_COUNT).await?;
            for (key, record) in page.records {
                moved_count += one(store, key, &record, |text| how(text, from, to)).await?;
            }
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
    }
    // What was asked under the old name is asked by nobody any more.
    store.delete(&review::key()).await?;
    Ok(moved_count)
}

/// Moves the text of one record, where there is one.
async fn one(
    store: &TenantStore,
    key: Key,
    record: &Record,
    how: impl FnOnce(&str) -> String,
) -> Result<u64, StoreError> {
    let mut stored: Value = record.json()?;
    let Some(Value::String(text)) = stored.get_mut("text") else { return Ok(0) };
    let new = how(text);
    if new == *text {
        return Ok(0);
    }
    *text = new;
    store.put_json(&key, &stored).await?;
    Ok(1)
}

fn labels_text(text: &str, from: &TenantId, to: &TenantId) -> String {
    match moved::labels(text, from, to) {
        Some((new, moved_count)) if moved_count > 0 => new,
        // Nobody is named in them, or they are no labels, which is found when they come into force.
        _ => text.to_owned(),
    }
}
