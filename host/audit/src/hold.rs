//! Legal holds: while there is one, nothing of a log is deleted, whatever its retention says.
//!
//! Must never be lifted by one person alone. Holds lie in the host's own store, so that they are known while the tenant's keys
//! are disabled; whoever deletes asks for them under the same lock that setting one takes, so that after the answer to
//! "hold" nothing more goes.

use jiff::{SignedDuration, Timestamp};
use ringfence_core::PrincipalId;
use ringfence_store::{Key, TenantStore};
use serde::{Deserialize, Serialize};

use crate::envelope::hex;
use crate::writer::unavailable;
use crate::{Audit, AuditError, Log};

/// LIMIT: holds on one log.
pub const HOLDS_COUNT_MAX: usize = 16;
/// LIMIT: longest reason, in bytes.
pub const REASON_BYTES_MAX: usize = 1_024;
/// How long one person's word waits for another's.
const WAITING: SignedDuration = SignedDuration::from_hours(24);

/// Whose people set a hold, and so whose people lift it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HoldSide {
    /// The host's operators.
    Operator,
    /// The tenant.
    Tenant,
}

/// What one person asked for and another must agree to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// Who asked.
    pub by: PrincipalId,
    /// When.
    pub at: Timestamp,
}

/// A hold on a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Its name.
    pub id: String,
    /// Why.
    pub reason: String,
    /// Who set it.
    pub by: PrincipalId,
    /// Whose people.
    pub side: HoldSide,
    /// When.
    pub at: Timestamp,
    /// Who wants it lifted, when somebody does.
    pub lift: Option<Asked>,
}

/// What came of the word of one person.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Agreed {
    /// It waits for another person.
    Asked,
    /// Two people wanted it, and it is done.
    Done,
}

/// Whether two principals can be two people.
pub type SecondPerson<'a> = dyn Fn(&PrincipalId, &PrincipalId) -> bool + Send + Sync + 'a;

impl Asked {
    /// Whether this word still waits for another person's, and not for `by`'s.
    pub fn waits_for(&self, by: &PrincipalId, now: Timestamp) -> bool {
        now.duration_since(self.at) < WAITING && self.by != *by
    }
}

/// What comes of `by`'s word when `asked` waits.
pub(crate) fn agree(
    asked: Option<&Asked>,
    by: &PrincipalId,
    now: Timestamp,
    are_two: &SecondPerson<'_>,
) -> Result<Agreed, AuditError> {
    let waiting = asked.filter(|asked| asked.waits_for(by, now));
    match waiting {
        None => Ok(Agreed::Asked),
        Some(asked) if are_two(&asked.by, by) => Ok(Agreed::Done),
        Some(_) => Err(AuditError::OnePerson),
    }
}

impl Audit {
    /// The holds on a log, the oldest first.
    pub async fn holds(&self, log: &Log) -> Result<Vec<Hold>, AuditError> {
        self.holds_of(&self.store(log)).await
    }

    /// The holds on the log of a tenant whose keys may be disabled.
    pub async fn holds_of(&self, store: &TenantStore) -> Result<Vec<Hold>, AuditError> {
        let found = self.store(&Log::Host).get_json(&key(store)).await;
        Ok(found.map_err(|error| unavailable("holds", &error))?.unwrap_or_default())
    }

    /// Sets a hold. Nothing is deleted after this returned.
    pub async fn hold(&self, log: &Log, reason: &str, by: PrincipalId, side: HoldSide) -> Result<Hold, AuditError> {
        let _turn = self.keeping().lock().await;
        let mut holds = self.holds(log).await?;
        if holds.len() >= HOLDS_COUNT_MAX {
            return Err(AuditError::TooMany { what: "holds on this log" });
        }
        let dice = self.dice();
        let id = format!("h_{}", hex(dice.first_chunk::<8>().unwrap_or(&[0; 8])));
        let hold = Hold { id, reason: reason.to_owned(), by, side, at: self.clock().now(), lift: None };
        holds.push(hold.clone());
        self.write_holds(log, &holds).await?;
        Ok(hold)
    }

    /// Says that `by` wants a hold lifted. It is lifted when another person of the same side wanted it within a day.
    pub async fn lift(
        &self,
        log: &Log,
        id: &str,
        by: &PrincipalId,
        side: HoldSide,
        are_two: &SecondPerson<'_>,
    ) -> Result<Agreed, AuditError> {
        let _turn = self.keeping().lock().await;
        let (mut holds, now) = (self.holds(log).await?, self.clock().now());
        let hold = holds.iter_mut().find(|hold| hold.id == id).ok_or(AuditError::NoSuch)?;
        if hold.side != side {
            return Err(AuditError::OtherSide);
        }
        let agreed = agree(hold.lift.as_ref(), by, now, are_two)?;
        match agreed {
            Agreed::Asked => hold.lift = Some(Asked { by: by.clone(), at: now }),
            Agreed::Done => holds.retain(|hold| hold.id != id),
        }
        self.write_holds(log, &holds).await?;
        Ok(agreed)
    }

    /// Fails while there is a hold on a log. SECURITY: only under the lock of [`Audit::hold`] does the answer last.
    pub async fn check_not_held(&self, store: &TenantStore) -> Result<(), AuditError> {
        match self.holds_of(store).await?.first() {
            None => Ok(()),
            Some(hold) => Err(AuditError::Held { hold: hold.id.clone() }),
        }
    }

    async fn write_holds(&self, log: &Log, holds: &[Hold]) -> Result<(), AuditError> {
        let (platform, key) = (self.store(&Log::Host), key(&self.store(log)));
        let written = if holds.is_empty() { platform.delete(&key).await } else { platform.put_json(&key, holds).await };
        written.map(drop).map_err(|error| unavailable("holds", &error))
    }
}

fn key(store: &TenantStore) -> Key {
    Key::new(["audit-hold".to_owned(), store.uid()])
}
