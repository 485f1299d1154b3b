//! Where answers to requests with an idempotency key lie: sealed in one tenant's store, newest [`ANSWERS_KEPT_MAX`] only,
//! for [`KEPT_HOURS`].
//!
//! Must never say that a request is new when an earlier one of its name may have had an effect: the name is taken, durably,
//! before anything is done, and given back only by whoever knows that nothing was.

use jiff::{SignedDuration, Timestamp};
use ringfence_store::{Key, Op, Precondition, StoreError, TenantStore};
use serde::{Deserialize, Serialize};

/// LIMIT: answers kept for one tenant; the oldest go first.
pub(super) const ANSWERS_KEPT_MAX: u64 = 2_000;
/// How long an answer is kept, hours.
pub(super) const KEPT_HOURS: i64 = 24;
/// LIMIT: attempts when several names are taken at the same moment.
const TRIES_COUNT_MAX: usize = 16;
/// Records read at once while sweeping.
const SWEEP_PAGE_COUNT: usize = 200;

/// A request that carries a key.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    /// Digest of the caller and the key.
    pub(super) name: String,
    /// Digest of method, path, query and body.
    pub(super) fingerprint: String,
    /// The request's id, as the audit log has it.
    pub(super) request: String,
}

/// How far a request came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Phase {
    /// Taken on; for ever, when the host ended before it was answered.
    Begun,
    /// Answered, with this.
    Answered(Answer),
    /// Answered, with what is not kept.
    AnsweredUnkept {
        /// Why not, to end a sentence with.
        why: String,
    },
}

/// An answer as it was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Answer {
    /// HTTP status.
    pub(super) status: u16,
    /// Headers that say what the body is.
    pub(super) headers: Vec<(String, String)>,
    /// The body.
    pub(super) body: String,
}

/// What is known of a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    /// What was asked.
    pub(super) fingerprint: String,
    /// By which request.
    pub(super) request: String,
    /// When.
    pub(super) at: Timestamp,
    /// How far it came.
    pub(super) phase: Phase,
}

/// What taking a name found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// Nothing: the request is to be done.
    New,
    /// An earlier request.
    Earlier(Box<Kept>),
}

/// Takes a request's name, or gives the request that has it.
pub(super) async fn take(store: &TenantStore, asked: &Asked, now: Timestamp) -> Result<Taken, StoreError> {
    let (named, next_key) = (by_name(&asked.name), Key::new(["idempotency", "next"]));
    let kept =
        Kept { fingerprint: asked.fingerprint.clone(), request: asked.request.clone(), at: now, phase: Phase::Begun };
    let mut result = Ok(Taken::New);
    for _ in 0..TRIES_COUNT_MAX {
        let free = match store.get(&named).await? {
            None => Precondition::Absent(named.clone()),
            Some(record) => {
                let earlier: Kept = record.json()?;
                if !is_over(&earlier, now) {
                    return Ok(Taken::Earlier(Box::new(earlier)));
                }
                Precondition::Revision(named.clone(), record.revision)
            }
        };
        let next = store.get(&next_key).await?;
        let (number, unmoved) = match &next {
            None => (0, Precondition::Absent(next_key.clone())),
            Some(record) => (record.json::<u64>()?, Precondition::Revision(next_key.clone(), record.revision)),
        };
        let slot = slots().number(number % ANSWERS_KEPT_MAX);
        let mut ops = vec![
            Op::put_json(named.clone(), &kept)?,
            Op::put(slot.clone(), asked.name.clone()),
            Op::put_json(next_key.clone(), &number.wrapping_add(1))?,
        ];
        if let Some(oldest) = name_in(store, &slot).await?.filter(|oldest| *oldest != asked.name) {
            ops.push(Op::delete(by_name(&oldest)));
        }
        result = store.batch(ops, vec![free, unmoved]).await.map(|_| Taken::New);
        if !matches!(result, Err(StoreError::Conflict { .. })) {
            return result;
        }
    }
    result
}

/// Keeps how a request ended.
pub(super) async fn end(store: &TenantStore, asked: &Asked, at: Timestamp, phase: Phase) -> Result<(), StoreError> {
    let (fingerprint, request) = (asked.fingerprint.clone(), asked.request.clone());
    let kept = Kept { fingerprint, request, at, phase };
    let named = by_name(&asked.name);
    // Not when so many others came meanwhile that its place was given away: nothing would ever remove it.
    match store.batch(vec![Op::put_json(named.clone(), &kept)?], vec![Precondition::Present(named)]).await {
        Ok(_) | Err(StoreError::Conflict { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Gives a name back: what was asked was not done.
pub(super) async fn give_back(store: &TenantStore, asked: &Asked) -> Result<(), StoreError> {
    store.delete(&by_name(&asked.name)).await.map(drop)
}

/// Removes what is over; gives how many.
pub(super) async fn sweep(store: &TenantStore, now: Timestamp) -> Result<usize, StoreError> {
    let (mut after, mut swept) = (None, 0);
    loop {
        let page = store.scan(&slots(), after.as_ref(), SWEEP_PAGE_COUNT).await?;
        for (slot, record) in page.records {
            let Ok(name) = std::str::from_utf8(&record.value) else { continue };
            let named = by_name(name);
            let mut conditions = vec![Precondition::Revision(slot.clone(), record.revision)];
            let mut ops = vec![Op::delete(slot)];
            if let Some(record) = store.get(&named).await? {
                if !is_over(&record.json()?, now) {
                    continue;
                }
                conditions.push(Precondition::Revision(named.clone(), record.revision));
                ops.push(Op::delete(named));
            }
            match store.batch(ops, conditions).await {
                Ok(_) => swept += 1,
                // Taken anew in this moment.
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(swept),
        }
    }
}

/// Whether an answer was kept for as long as was promised. A clock that was set back keeps it longer, never shorter.
fn is_over(kept: &Kept, now: Timestamp) -> bool {
    now.duration_since(kept.at) >= SignedDuration::from_hours(KEPT_HOURS)
}

async fn name_in(store: &TenantStore, slot: &Key) -> Result<Option<String>, StoreError> {
    let record = store.get(slot).await?;
    Ok(record.and_then(|record| String::from_utf8(record.value.to_vec()).ok()))
}

fn by_name(name: &str) -> Key {
    Key::new(["idempotency", "name", name])
}

fn slots() -> Key {
    Key::new(["idempotency", "slot"])
}

#[cfg(test)]
mod tests {
    use jiff::ToSpan;

    use super::*;
    use crate::test_store::store;

    fn asked(name: &str) -> Asked {
        Asked { name: name.to_owned(), fingerprint: format!("asked {name}"), request: format!("req_{name}") }
    }

    fn at(hours: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + hours.hours()
    }

    fn answered() -> Phase {
        Phase::Answered(Answer { status: 201, headers: Vec::new(), body: "{}".to_owned() })
    }

    async fn phase(store: &TenantStore, name: &str, now: Timestamp) -> Option<Phase> {
        match take(store, &asked(name), now).await.unwrap() {
            Taken::New => None,
            Taken::Earlier(kept) => Some(kept.phase),
        }
    }

    #[tokio::test]
    async fn a_name_is_taken_once_and_then_tells_how_it_ended() {
        let (store, _dir) = store().await;
        assert_eq!(phase(&store, "a", at(0)).await, None);
        assert_eq!(phase(&store, "a", at(0)).await, Some(Phase::Begun), "not answered: perhaps never");
        end(&store, &asked("a"), at(0), answered()).await.unwrap();
        assert_eq!(phase(&store, "a", at(23)).await, Some(answered()));
        assert_eq!(phase(&store, "b", at(0)).await, None);
        give_back(&store, &asked("b")).await.unwrap();
        assert_eq!(phase(&store, "b", at(0)).await, None, "what was not done is new again");
    }

    #[tokio::test]
    async fn of_many_at_one_moment_one_is_new() {
        let (store, _dir) = store().await;
        let all = (0..12).map(|_| {
            let store = store.clone();
            tokio::spawn(async move { take(&store, &asked("a"), at(0)).await.unwrap() == Taken::New })
        });
        let new = futures::future::join_all(all).await.into_iter().filter(|new| *new.as_ref().unwrap()).count();
        assert_eq!(new, 1);
    }

    #[tokio::test]
    async fn after_a_day_a_name_is_new_and_swept() {
        let (store, _dir) = store().await;
        assert_eq!(phase(&store, "a", at(0)).await, None);
        assert_eq!(phase(&store, "b", at(2)).await, None);
        assert_eq!(phase(&store, "a", at(-5)).await, Some(Phase::Begun), "a clock set back forgets nothing");
        assert_eq!(sweep(&store, at(23)).await.unwrap(), 0);
        assert_eq!(sweep(&store, at(24)).await.unwrap(), 1);
        assert!(store.get(&by_name("a")).await.unwrap().is_none());
        assert_eq!(phase(&store, "b", at(26)).await, None);
        end(&store, &asked("b"), at(26), answered()).await.unwrap();
        // The place it had first and the one it has now are both its own; it is not over.
        assert_eq!(sweep(&store, at(27)).await.unwrap(), 0);
        assert_eq!(phase(&store, "b", at(27)).await, Some(answered()));
        sweep(&store, at(60)).await.unwrap();
        let left = store.scan(&Key::new(["idempotency"]), None, 10).await.unwrap().records;
        assert_eq!(left.len(), 1, "only the counter is left");
    }

    #[tokio::test]
    async fn more_than_are_kept_drop_the_oldest() {
        let (store, _dir) = store().await;
        // As if all but the last place had been given.
        store.put_json(&Key::new(["idempotency", "next"]), &(ANSWERS_KEPT_MAX - 1)).await.unwrap();
        for name in ["first", "second", "third"] {
            assert_eq!(phase(&store, name, at(0)).await, None);
        }
        store.put_json(&Key::new(["idempotency", "next"]), &(2 * ANSWERS_KEPT_MAX - 1)).await.unwrap();
        assert_eq!(phase(&store, "new", at(0)).await, None);
        end(&store, &asked("first"), at(0), answered()).await.unwrap();
        assert!(store.get(&by_name("first")).await.unwrap().is_none(), "its place is another's");
        assert_eq!(phase(&store, "second", at(0)).await, Some(Phase::Begun));
    }
}
