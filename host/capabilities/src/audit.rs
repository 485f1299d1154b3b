//! `ringfence:plugin/audit`: events of a plugin's application, on its tenant's audit log.
//!
//! Must never let a guest say who, when or for whom: it gives words, and whoever is the [`Witness`](crate::Witness) puts the
//! host's own beside them. What is over its limit is refused before it is looked at.

use ringfence_core::Capability;
use ringfence_engine::Guest;
use serde_json::Value;
use wasmtime::component::Linker;

use crate::bind::{Bindings, View};
use crate::bindings::audit::ringfence::plugin::audit::{self, Entry, Error};
use crate::pii::Verdict;

/// LIMIT: events, taken or refused, of one invocation.
pub const EVENTS_COUNT_MAX: u32 = 100;
/// LIMIT: most bytes of an event's data; what is longer would be cut by the log.
pub const DATA_BYTES_MAX: usize = 16 << 10;
/// LIMIT: most bytes of all parts of an event together.
const EVENT_BYTES_MAX: usize = 24 << 10;

/// An event on its way to the log. Its parts are not checked yet, but none is large.
#[derive(Debug, Clone, PartialEq)]
pub struct PluginEvent {
    /// Its code.
    pub code: String,
    /// What happened.
    pub message: String,
    /// On what.
    pub resource: Option<String>,
    /// The rest.
    pub data: Value,
}

/// Why an event is not on the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventRefused {
    /// Its code looks like one of the host's own.
    #[error("{0}")]
    Reserved(String),
    /// Something about it is wrong.
    #[error("{0}")]
    Invalid(String),
    /// The log cannot be written.
    #[error("the audit log cannot be written now")]
    Unavailable,
}

/// Offers `ringfence:plugin/audit@0.1.0`.
pub(crate) fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    audit::add_to_linker::<_, Bindings>(linker, |guest| View::of(guest))
}

impl audit::Host for View<'_> {
    async fn put(&mut self, entry: Entry) -> wasmtime::Result<Result<u64, Error>> {
        let bound = self.bound()?;
        bound.call()?;
        if !bound.grants.has(Capability::Audit) {
            return Ok(Err(Error::Denied("the audit log is not granted".to_owned())));
        }
        if bound.events_count >= EVENTS_COUNT_MAX {
            return Ok(Err(Error::Limited(0)));
        }
        bound.events_count += 1;
        let event = match read(entry) {
            Ok(event) => event,
            Err(why) => return Ok(Err(Error::Invalid(why))),
        };
        if let Err(exhausted) = bound.ledger.audit_event() {
            return Ok(Err(Error::Limited(exhausted.retry_after_ms.unwrap_or(0))));
        }
        bound.leave.notes.note(Capability::Audit, "put-event", &event.code, Verdict::Granted);
        let put = bound.personal.witness.event(event).await;
        Ok(put.map_err(|refused| match refused {
            EventRefused::Reserved(why) => Error::Reserved(why),
            EventRefused::Invalid(why) => Error::Invalid(why),
            EventRefused::Unavailable => Error::Other(refused.to_string()),
        }))
    }
}

fn read(entry: Entry) -> Result<PluginEvent, String> {
    let Entry { code, message, resource, data } = entry;
    let lengths = [code.len(), message.len(), resource.as_ref().map_or(0, String::len)];
    let data_bytes = data.as_ref().map_or(0, String::len);
    if lengths.iter().sum::<usize>() + data_bytes > EVENT_BYTES_MAX || data_bytes > DATA_BYTES_MAX {
        return Err(format!("an event is at most {EVENT_BYTES_MAX} bytes, its data {DATA_BYTES_MAX}"));
    }
    let data = match data {
        None => Value::Null,
        Some(text) => serde_json::from_str(&text).map_err(|_| "`data` is not JSON".to_owned())?,
    };
    Ok(PluginEvent { code, message, resource, data })
}

#[cfg(test)]
mod tests {
    use ringfence_core::{Budget, Quota};

    use super::*;
    use crate::testing::Rig;

    const AUDIT: &[(Capability, &[&str])] = &[(Capability::Audit, &[])];

    fn entry(message: &str, data: Option<&str>) -> Entry {
        let (code, resource) = ("order-placed".to_owned(), Some("order/7".to_owned()));
        Entry { code, message: message.to_owned(), resource, data: data.map(str::to_owned) }
    }

    #[tokio::test]
    async fn a_granted_event_is_put_on_the_log_and_no_other() {
        let rig = Rig::new(AUDIT).await;
        let mut guest = rig.guest(Budget::DEFAULT);
        let put = audit::Host::put(&mut guest.view(), entry("placed", Some(r#"{"total":7}"#))).await.unwrap();
        assert_eq!(put.unwrap(), 1);
        assert_eq!(
            (rig.sworn.events()[0].message.as_str(), &rig.sworn.events()[0].data["total"]),
            ("placed", &7.into())
        );
        rig.grant(&[]);
        let refused = audit::Host::put(&mut guest.view(), entry("placed", None)).await.unwrap();
        assert!(matches!(refused, Err(Error::Denied(_))));
        assert_eq!(rig.sworn.events().len(), 1);
    }

    #[tokio::test]
    async fn what_is_huge_or_no_json_is_refused_before_anybody_looks() {
        let rig = Rig::new(AUDIT).await;
        let mut guest = rig.guest(Budget::DEFAULT);
        let huge = "m".repeat(1 << 20);
        let number = "9".repeat(15 << 10);
        for wrong in [entry(&huge, None), entry("m", Some(&huge)), entry("m", Some("{")), entry("m", Some(""))] {
            let refused = audit::Host::put(&mut guest.view(), wrong).await.unwrap();
            assert!(matches!(refused, Err(Error::Invalid(_))));
        }
        let deep = "[".repeat(8_000) + &"]".repeat(8_000);
        let refused = audit::Host::put(&mut guest.view(), entry("m", Some(&deep))).await.unwrap();
        assert!(matches!(refused, Err(Error::Invalid(_))), "deep JSON is refused, and overflows nothing");
        let _ = audit::Host::put(&mut guest.view(), entry("m", Some(&number))).await.unwrap();
        assert!(rig.sworn.events().len() <= 1);
    }

    #[tokio::test]
    async fn a_flood_ends_at_the_invocations_limit_and_at_the_tenants_day() {
        let rig = Rig::new(AUDIT).await;
        rig.ledger.set(Quota { audit_events_per_day: 130, ..Quota::STANDARD });
        let mut taken = 0;
        for _ in 0..2 {
            let mut guest = rig.guest(Budget::DEFAULT);
            for _ in 0..200 {
                taken += u32::from(audit::Host::put(&mut guest.view(), entry("m", None)).await.unwrap().is_ok());
            }
        }
        assert_eq!((taken, rig.sworn.events().len()), (130, 130));
        assert_eq!(rig.ledger.usage().unwrap().audit_events_refused_count, 70);
    }

    #[tokio::test]
    async fn a_log_that_cannot_be_written_is_an_error_for_the_guest() {
        let rig = Rig::new(AUDIT).await;
        rig.sworn.fail();
        let refused = audit::Host::put(&mut rig.guest(Budget::DEFAULT).view(), entry("m", None)).await.unwrap();
        assert!(matches!(refused, Err(Error::Other(_))));
    }
}
