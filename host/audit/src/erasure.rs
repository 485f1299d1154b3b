//! Erasing what an application wrote into the log: the body goes, the entry stays, and every proof of it holds.
//!
//! The envelope commits to a body by `SHA-256(salt || body)`; body and salt are deleted together, so that nothing is left to
//! guess. Must never erase an entry of the host's own: those stay until their retention is over. It takes two people, and a
//! hold refuses it. People in an event that names its subject need none of this: that part is sealed under the subject's key
//! and goes with it.

use ringfence_core::PrincipalId;
use ringfence_store::{Key, Op, Precondition, StoreError};

use crate::envelope::Envelope;
use crate::hold::{Agreed, Asked, SecondPerson, agree};
use crate::state::State;
use crate::tiles::{TILE_COUNT, Tile};
use crate::writer::{StoredEntry, entry_key, unavailable};
use crate::{Audit, AuditError, Log, codes};

impl Audit {
    /// Says that `by` wants the body of entry `seq` erased. It is erased when another person wanted it within a day. Again is
    /// fine.
    pub async fn erase(
        &self,
        log: &Log,
        seq: u64,
        by: &PrincipalId,
        are_two: &SecondPerson<'_>,
    ) -> Result<Agreed, AuditError> {
        let _turn = self.keeping().lock().await;
        let (store, origin) = (self.store(log), self.origin(log));
        let failed = |error: StoreError| unavailable(&origin, &error);
        self.check_there(log, seq).await?;
        self.check_not_held(&store).await?;
        let record = store.get(&entry_key(seq)).await.map_err(failed)?.ok_or(AuditError::NoSuch)?;
        let broken = || AuditError::Broken { log: origin.clone(), seq, what: "it cannot be read" };
        let stored: StoredEntry = record.json().map_err(|_| broken())?;
        let envelope: Envelope = serde_json::from_str(&stored.envelope).map_err(|_| broken())?;
        if envelope.code != codes::APPLICATION_EVENT {
            return Err(AuditError::NotErasable { seq });
        }
        let (waiting_key, waiting) = (waiting_key(seq), self.asked_to_erase(log, seq).await?);
        let now = self.clock().now();
        let agreed = if stored.is_bare() { Agreed::Done } else { agree(waiting.as_ref(), by, now, are_two)? };
        let ops = match agreed {
            Agreed::Asked => vec![Op::put_json(waiting_key, &Asked { by: by.clone(), at: now })],
            Agreed::Done => vec![Op::put_json(entry_key(seq), &stored.bare()), Ok(Op::delete(waiting_key))],
        };
        let ops: Result<Vec<Op>, StoreError> = ops.into_iter().collect();
        let unchanged = Precondition::Revision(entry_key(seq), record.revision);
        store.batch(ops.map_err(failed)?, vec![unchanged]).await.map_err(failed)?;
        Ok(agreed)
    }

    /// Who wants the body of an entry erased, when somebody does.
    pub async fn asked_to_erase(&self, log: &Log, seq: u64) -> Result<Option<Asked>, AuditError> {
        let found = self.store(log).get_json(&waiting_key(seq)).await;
        found.map_err(|error| unavailable(&self.origin(log), &error))
    }

    /// Fails for an entry that was deleted after its retention, and for one that there is not yet.
    pub(crate) async fn check_there(&self, log: &Log, seq: u64) -> Result<(), AuditError> {
        let state = self.state(log).await?;
        state.check_kept(&self.origin(log), seq)?;
        if seq < state.frontier.size() { Ok(()) } else { Err(AuditError::NoSuch) }
    }
}

impl StoredEntry {
    /// Whether its body is gone.
    pub(crate) fn is_bare(&self) -> bool {
        self.body.is_empty() && self.salt.is_empty()
    }

    /// Its body; none when it is gone.
    pub(crate) fn read_body(&self) -> Result<Option<serde_json::Value>, serde_json::Error> {
        if self.is_bare() { Ok(None) } else { serde_json::from_str(&self.body).map(Some) }
    }

    /// The same without body and salt.
    pub(crate) fn bare(self) -> Self {
        Self { envelope: self.envelope, body: String::new(), salt: String::new() }
    }
}

impl State {
    /// Fails for a place before the first entry that is kept.
    pub(crate) fn check_kept(&self, origin: &str, seq: u64) -> Result<(), AuditError> {
        if seq >= self.first { Ok(()) } else { Err(AuditError::Deleted { log: origin.to_owned(), before: self.first }) }
    }

    /// Fails for a tile of which nothing is kept: one that ends at or before the first entry that is.
    pub(crate) fn check_tile(&self, origin: &str, tile: Tile) -> Result<(), AuditError> {
        let span = TILE_COUNT.saturating_pow(u32::from(tile.level) + 1);
        let end = tile.index.saturating_add(1).saturating_mul(span);
        if end > self.first { Ok(()) } else { Err(AuditError::Deleted { log: origin.to_owned(), before: self.first }) }
    }
}

fn waiting_key(seq: u64) -> Key {
    Key::new(["audit-erasure"]).number(seq)
}
