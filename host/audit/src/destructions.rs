//! Making and keeping receipts of destruction: the entry on the host's log first, then the signed receipt that names it.
//!
//! Must never let go of a destruction before its receipt is durable: both are one write. A stop between the entry and the receipt
//! has the next call put a second entry on the log, which the receipt then names.

use jiff::Timestamp;
use ringfence_store::{Destroyed, Key, Op, PageToken, Precondition, StoreError};
use serde::{Deserialize, Serialize};

use crate::destruction::{DestructionReceipt, Opening};
use crate::{Audit, AuditError, Event, Log, writer};

/// A receipt of destruction in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DestructionRef {
    /// Place of the entry about it in the host's log; the receipt is kept under it.
    pub seq: u64,
    /// The tenant's name.
    pub tenant: String,
    /// Its unique id.
    pub tenant_uid: String,
    /// When it was destroyed.
    pub destroyed_at: Timestamp,
}

#[derive(Serialize, Deserialize)]
struct StoredDestruction {
    #[serde(flatten)]
    this: DestructionRef,
    note: String,
}

impl Audit {
    /// Puts a destruction on the host's log, as the details of `event`, and keeps a signed receipt of it; gives the place of the
    /// entry. Both are durable when this returns, and the receipt is not owed any more.
    pub async fn destroyed(&self, destroyed: &Destroyed, mut event: Event) -> Result<u64, AuditError> {
        let log = Log::Host;
        event.details = serde_json::to_value(destroyed).map_err(|_| AuditError::Unrepresentable)?;
        let seq = self.record(&log, event).await?.seq;
        let entry = self.list(&log, seq, 1).await?.into_iter().next().ok_or(AuditError::NoSuch)?;
        let proof = self.proof(&log, seq).await?.ok_or(AuditError::NoSuch)?;
        let opening = entry.body.map(|body| Opening { body, salt: entry.salt });
        let receipt = DestructionReceipt {
            host: self.host_name().to_owned(),
            destroyed: destroyed.clone(),
            entry: entry.envelope,
            proof: proof.to_string(),
            // One that was cut says less than the receipt.
            opening: opening.filter(|opening| opening.is_about(destroyed)),
        };
        let this = DestructionRef {
            seq,
            tenant: destroyed.tenant.to_string(),
            tenant_uid: destroyed.tenant_uid.clone(),
            destroyed_at: destroyed.destroyed_at,
        };
        let stored = StoredDestruction { this, note: self.sign_note(&log, &receipt.text()?) };
        let key = destruction_key().number(seq);
        let kept = Op::put_json(key.clone(), &stored).map_err(unavailable)?;
        let written = self.store(&log).batch(vec![kept, destroyed.receipted()], vec![Precondition::Absent(key)]).await;
        written.map(|_| seq).map_err(unavailable)
    }

    /// The receipts of destruction, the oldest first, after the token of the page before.
    pub async fn destructions(
        &self,
        after: Option<&PageToken>,
        limit: usize,
    ) -> Result<(Vec<DestructionRef>, Option<PageToken>), AuditError> {
        let page = self.store(&Log::Host).scan(&destruction_key(), after, limit).await.map_err(unavailable)?;
        let found = page.records.iter().map(|(_, record)| record.json::<StoredDestruction>().map(|stored| stored.this));
        Ok((found.collect::<Result<_, _>>().map_err(unavailable)?, page.next))
    }

    /// A receipt of destruction as a signed note, by the place of its entry; none when that entry has none.
    pub async fn destruction(&self, seq: u64) -> Result<Option<String>, AuditError> {
        let stored = self.store(&Log::Host).get_json::<StoredDestruction>(&destruction_key().number(seq)).await;
        Ok(stored.map_err(unavailable)?.map(|stored| stored.note))
    }
}

fn unavailable(error: StoreError) -> AuditError {
    writer::unavailable("receipts of destruction", &error)
}

fn destruction_key() -> Key {
    Key::new(["destruction-receipt"])
}
