//! Closing days: when a UTC day is over, each tenant that used something gets its signed receipt, chained to the one
//! before.
//!
//! Made once and never again: a day is closed for good before its receipts are made, what comes late counts for the day
//! after, and the head of the chain moves in the same write. A day in which nothing was used has no receipt, and the chain
//! shows that none is missing. A host that was down makes up for it at its start.

use std::collections::BTreeMap;

use ringfence_core::PluginName;
use ringfence_store::{Key, Op, PageToken, Precondition, StoreError, TenantStore};
use serde::{Deserialize, Serialize};

use crate::audit::Audit;
use crate::metering::{Metering, closed_key, days};
use crate::receipt::{UsageReceipt, When, Whose, hash};
use crate::usage_sum::{Day, UsageSum};
use crate::{AuditError, Log, writer};

/// LIMIT: receipts made for a tenant in one go; the rest come with the next look.
const RECEIPTS_AT_ONCE_MAX: usize = 400;

/// A receipt in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptRef {
    /// The UTC day.
    pub day: Day,
    /// SHA-256 of its signed text, hex.
    pub hash: String,
}

#[derive(Serialize, Deserialize)]
struct StoredReceipt {
    #[serde(flatten)]
    this: ReceiptRef,
    note: String,
}

impl Metering {
    /// Closes the days that are over and makes their receipts. What fails is tried again at the next call.
    pub async fn close(&self) {
        let mut made = self.0.receipts_made.lock().await;
        let yesterday = Day::of(self.0.clock.now()).before();
        if made.is_some_and(|made| made >= yesterday) {
            return;
        }
        // What was held until midnight belongs to the day that ends.
        self.sample().await;
        let closed = {
            let mut collected = self.0.collected();
            collected.closed = collected.closed.max(yesterday);
            collected.closed
        };
        self.flush().await;
        match self.make_receipts(closed).await {
            Ok(Unmade(0)) => *made = Some(closed),
            Ok(Unmade(count)) => {
                tracing::warn!(count, day = %closed, "usage receipts of some tenants are not made yet")
            }
            Err(error) => tracing::warn!(%error, day = %closed, "a day cannot be closed now"),
        }
    }

    /// The receipt of a day as a signed note; of today, one over what was used so far. None when nothing was used.
    pub async fn receipt(&self, store: &TenantStore, day: Day) -> Result<Option<String>, AuditError> {
        self.close().await;
        let now = self.0.clock.now();
        let open = self.0.collected().closed.next().max(Day::of(now));
        let failed = |error: StoreError| writer::unavailable("usage receipts", &error);
        if day != open {
            let stored = store.get_json::<StoredReceipt>(&receipt_key(day)).await.map_err(failed)?;
            return Ok(stored.map(|stored| stored.note));
        }
        self.flush().await;
        let sums = days(store, day..=day).await.map_err(failed)?.remove(&day);
        let Some(sums) = sums else { return Ok(None) };
        let head = store.get_json::<ReceiptRef>(&head_key()).await.map_err(failed)?;
        let receipt = new(&self.0.audit, store, When::SoFar(day, now), head, &sums);
        Ok(Some(self.0.audit.sign_note(&Log::Tenant(store.clone()), &receipt.text()?)))
    }

    /// The receipts there are, oldest first, after the token of the page before.
    pub async fn receipts(
        &self,
        store: &TenantStore,
        after: Option<&PageToken>,
        limit: usize,
    ) -> Result<(Vec<ReceiptRef>, Option<PageToken>), StoreError> {
        self.close().await;
        let page = store.scan(&Key::new(["receipt"]), after, limit).await?;
        let receipts = page.records.iter().map(|(_, record)| record.json::<StoredReceipt>().map(|stored| stored.this));
        Ok((receipts.collect::<Result<_, _>>()?, page.next))
    }

    async fn make_receipts(&self, closed: Day) -> Result<Unmade, StoreError> {
        // Before the first receipt: after a crash, nothing may be added to a day that has one.
        self.0.tenants.platform().put_json(&closed_key(), &closed.number()).await?;
        let mut unmade = 0;
        for record in self.0.tenants.list().await? {
            let Some(store) = self.0.tenants.open_tenant(&record.id) else { continue };
            if self.0.collected().is_unwritten(&store, closed) {
                unmade += 1;
                continue;
            }
            match make_for(&self.0.audit, &store, closed).await {
                Ok(Made::All) | Err(AuditError::Gone) => {}
                Ok(Made::Some) => unmade += 1,
                Err(error) => {
                    tracing::warn!(tenant = store.label(), %error, "a usage receipt cannot be made now");
                    unmade += 1;
                }
            }
        }
        Ok(Unmade(unmade))
    }
}

/// Tenants whose receipts are to be tried again.
struct Unmade(usize);

#[derive(PartialEq, Eq)]
enum Made {
    All,
    Some,
}

/// Makes what a tenant lacks up to the closed day.
async fn make_for(audit: &Audit, store: &TenantStore, closed: Day) -> Result<Made, AuditError> {
    let failed = |error: StoreError| writer::unavailable("usage receipts", &error);
    let stored = store.get(&head_key()).await.map_err(failed)?;
    let mut expected = match &stored {
        Some(record) => Precondition::Revision(head_key(), record.revision),
        None => Precondition::Absent(head_key()),
    };
    let mut head: Option<ReceiptRef> = stored.map(|record| record.json()).transpose().map_err(failed)?;
    let first = head.as_ref().map_or(Day::from_number(i64::MIN), |head| head.day.next());
    if first > closed {
        return Ok(Made::All);
    }
    let missing = days(store, first..=closed).await.map_err(failed)?;
    for (day, sums) in missing.iter().take(RECEIPTS_AT_ONCE_MAX) {
        let text = new(audit, store, When::Over(*day), head, sums).text()?;
        let this = ReceiptRef { day: *day, hash: hash(&text) };
        let note = audit.sign_note(&Log::Tenant(store.clone()), &text);
        let key = receipt_key(*day);
        let ops = vec![
            Op::put_json(key.clone(), &StoredReceipt { this: this.clone(), note }).map_err(failed)?,
            Op::put_json(head_key(), &this).map_err(failed)?,
        ];
        let commit = store.batch(ops, vec![Precondition::Absent(key), expected]).await.map_err(failed)?;
        expected = Precondition::Revision(head_key(), commit.revision);
        head = Some(this);
    }
    Ok(if missing.len() > RECEIPTS_AT_ONCE_MAX { Made::Some } else { Made::All })
}

fn new(
    audit: &Audit,
    store: &TenantStore,
    when: When,
    head: Option<ReceiptRef>,
    sums: &BTreeMap<PluginName, UsageSum>,
) -> UsageReceipt {
    let whose = Whose { host: audit.host_name().to_owned(), tenant: store.label().to_owned(), tenant_uid: store.uid() };
    UsageReceipt::new(whose, when, head.map(|head| head.hash), sums)
}

fn receipt_key(day: Day) -> Key {
    Key::new(["receipt"]).number(u64::try_from(day.number()).unwrap_or(0))
}

fn head_key() -> Key {
    Key::new(["receipt-head"])
}
