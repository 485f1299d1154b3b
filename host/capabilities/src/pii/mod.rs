//! `ringfence:plugin/pii`: personal data in fields, sealed for the person it is about, opened only where that is granted.
//!
//! Must never open a value before the opening is on the audit log, nor put a value or a subject's name in a log, an error
//! or the audit log: there a subject is its pseudonym. Keys and sealed values are the business of the store's subjects.

mod detect;
mod rules;

use std::sync::Arc;

use futures::future::BoxFuture;
use ringfence_core::capability::is_field_name;
use ringfence_core::{Capability, Clock, HostAct, On};
use ringfence_engine::Guest;
use ringfence_keys::SealedField;
use ringfence_store::{StoreError, Subjects};
use wasmtime::component::Linker;

use crate::bind::{Bindings, Bound, View};
use crate::bindings::pii::ringfence::plugin::pii::{self, Error};

pub(crate) use detect::is_nhs_number;
pub use rules::FieldRules;

use detect::{DETECT_BYTES_MAX, Finding, Kind, detect};

/// LIMIT: openings, granted or refused, of one invocation: each is an entry on the audit log before it happens.
pub const OPENINGS_COUNT_MAX: u32 = 100;

/// What is put on the audit log about an opening.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    /// Which field.
    pub field: String,
    /// The pseudonym of whose value it is; none when the value does not say.
    pub subject: Option<String>,
    /// Whether it is granted.
    pub verdict: Verdict,
}

/// Whether an opening is granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is, and will be tried.
    Granted,
    /// It is not.
    Refused,
}

/// Who swears to openings.
pub trait Witness: Send + Sync {
    /// Resolves once the opening is durably on record; with `false` when it could not be written, and then nothing is opened.
    fn opening(&self, opening: Opening) -> BoxFuture<'static, bool>;

    /// Hears what a guest tried. Never waits; puts it on record when it can.
    fn tried(&self, tried: crate::Tried);

    /// Puts an event of the plugin's application on the tenant's audit log; resolves with its place once it is durable.
    fn event(&self, event: crate::PluginEvent) -> BoxFuture<'static, Result<u64, crate::EventRefused>>;
}

/// What the capability needs of one invocation.
pub(crate) struct Personal {
    pub(crate) witness: Arc<dyn Witness>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) openings_count: u32,
}

type Answer<T> = wasmtime::Result<Result<T, Error>>;

/// Offers `ringfence:plugin/pii@0.1.0`.
pub(crate) fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    pii::add_to_linker::<_, Bindings>(linker, |guest| View::of(guest))
}

impl pii::Host for View<'_> {
    async fn seal(&mut self, field: String, subject: String, plaintext: Vec<u8>) -> Answer<String> {
        let bound = self.bound()?;
        let subjects = match bound.enter(&field, HostAct::SealField)? {
            Ok(subjects) => subjects,
            Err(error) => return Ok(Err(error)),
        };
        let now = bound.personal.clock.now();
        Ok(subjects.seal(&field, &subject, &plaintext, now).await.map_err(told))
    }

    async fn open(&mut self, field: String, subject: Option<String>, sealed: String) -> Answer<Vec<u8>> {
        let bound = self.bound()?;
        let whose = SealedField::parse(&sealed).ok().map(|sealed| sealed.subject.to_string());
        let subjects = match bound.enter_open(&field, whose).await? {
            Ok(subjects) => subjects,
            Err(error) => return Ok(Err(error)),
        };
        let opened = subjects.open(&field, subject.as_deref(), &sealed).await;
        Ok(opened.map(|(_, value)| value.to_vec()).map_err(told))
    }

    async fn tokenise(&mut self, field: String, subject: Option<String>, value: Vec<u8>) -> Answer<String> {
        let bound = self.bound()?;
        let subjects = match bound.enter(&field, HostAct::TokeniseField)? {
            Ok(subjects) => subjects,
            Err(error) => return Ok(Err(error)),
        };
        let now = bound.personal.clock.now();
        Ok(subjects.tokenise(&field, subject.as_deref(), &value, now).await.map_err(told))
    }

    async fn detokenise(&mut self, field: String, token: String) -> Answer<Option<Vec<u8>>> {
        let bound = self.bound()?;
        let subjects = match bound.enter_open(&field, None).await? {
            Ok(subjects) => subjects,
            Err(error) => return Ok(Err(error)),
        };
        let found = subjects.detokenise(&field, &token).await;
        Ok(found.map(|found| found.map(|(_, value)| value.to_vec())).map_err(told))
    }

    async fn detect(&mut self, text: String) -> Answer<Vec<pii::Finding>> {
        let bound = self.bound()?;
        bound.call()?;
        if !bound.grants.has(Capability::Pii) {
            return Ok(Err(Error::Denied("personal data is not granted".to_owned())));
        }
        if text.len() > DETECT_BYTES_MAX {
            return Ok(Err(Error::Invalid(format!("a text is at most {DETECT_BYTES_MAX} bytes"))));
        }
        // Off the worker thread, so that a long text holds up no other guest.
        let found = tokio::task::spawn_blocking(move || detect(&text)).await;
        let Ok(Some(found)) = found else {
            return Ok(Err(Error::Other("the text could not be searched".to_owned())));
        };
        Ok(Ok(found.into_iter().map(wire).collect()))
    }
}

// === impl Bound ===

impl Bound {
    /// The subjects, after the call is counted, the grant and policy are asked and the store's rate is charged.
    fn enter(&mut self, field: &str, host_act: HostAct) -> Answer<Subjects> {
        self.call()?;
        // Who may seal may tokenise, as far as grants go.
        let act = if host_act == HostAct::OpenField { "open" } else { "seal" };
        // SECURITY: the grant comes before any word about the field, the subject or the value.
        if !is_field_name(field) || !self.may(Capability::Pii, &format!("{field}:{act}")) {
            return Ok(Err(Error::Denied(format!("`{act}` on this field is not granted"))));
        }
        if !self.leave.has(host_act, On::Field(field)) {
            return Ok(Err(Error::Denied(format!("policy forbids `{}` here", host_act.as_str()))));
        }
        if let Err(over) = self.ledger.storage_ops(1) {
            return Ok(Err(Error::Other(over.to_string())));
        }
        Ok(Ok(self.store.subjects()))
    }

    /// As [`Bound::enter`], for opening: granted or not, it is on the audit log before anything else happens.
    async fn enter_open(&mut self, field: &str, subject: Option<String>) -> Answer<Subjects> {
        let entered = self.enter(field, HostAct::OpenField)?;
        if self.personal.openings_count >= OPENINGS_COUNT_MAX {
            return Ok(Err(Error::Other(format!("an invocation opens at most {OPENINGS_COUNT_MAX} values"))));
        }
        let verdict = match &entered {
            Ok(_) => Verdict::Granted,
            Err(Error::Denied(_)) => Verdict::Refused,
            Err(_) => return Ok(entered),
        };
        self.personal.openings_count += 1;
        // What is no field's name is the guest's own text, and no part of the tenant's log.
        let field = if is_field_name(field) { field.to_owned() } else { "(no field)".to_owned() };
        if !self.personal.witness.opening(Opening { field, subject, verdict }).await {
            return Ok(Err(Error::Other("the audit log cannot be written, so nothing is opened".to_owned())));
        }
        Ok(entered)
    }
}

/// What the guest is told: enough to act on, nothing about keys.
fn told(error: StoreError) -> Error {
    match error {
        StoreError::Erased => Error::Erased,
        StoreError::Keys(_) => Error::NotSealedHere,
        StoreError::NoSubject | StoreError::TooLarge { .. } => Error::Invalid(error.to_string()),
        StoreError::Quota { .. } | StoreError::ReadOnly => Error::Other(error.to_string()),
        other => {
            tracing::debug!(error = %other, "a call about personal data failed");
            Error::Other("the store is unavailable".to_owned())
        }
    }
}

fn wire(finding: Finding) -> pii::Finding {
    let at = |place: usize| u32::try_from(place).unwrap_or(u32::MAX);
    let kind = match finding.kind {
        Kind::Email => pii::Kind::Email,
        Kind::Phone => pii::Kind::Phone,
        Kind::NhsNumber => pii::Kind::NhsNumber,
        Kind::PaymentCard => pii::Kind::PaymentCard,
    };
    pii::Finding { kind, start: at(finding.start), end: at(finding.end) }
}

#[cfg(test)]
mod tests {
    use ringfence_core::Budget;

    use super::*;
    use crate::testing::Rig;

    const ALL: &[(Capability, &[&str])] = &[(Capability::Pii, &["email:seal", "email:open", "phone:seal"])];

    async fn seal(guest: &mut crate::testing::TestGuest, field: &str, value: &str) -> Result<String, Error> {
        pii::Host::seal(&mut guest.view(), field.into(), "ann".into(), value.into()).await.unwrap()
    }

    async fn open(guest: &mut crate::testing::TestGuest, field: &str, sealed: &str) -> Result<Vec<u8>, Error> {
        pii::Host::open(&mut guest.view(), field.into(), None, sealed.into()).await.unwrap()
    }

    #[tokio::test]
    async fn what_was_sealed_opens_where_opening_is_granted_and_both_are_sworn_to() {
        let rig = Rig::new(ALL).await;
        let mut guest = rig.guest(Budget::DEFAULT);
        let email = seal(&mut guest, "email", "ann@example.com").await.unwrap();
        assert_eq!(open(&mut guest, "email", &email).await.unwrap(), b"ann@example.com");
        let phone = seal(&mut guest, "phone", "020 7946 0958").await.unwrap();
        assert!(matches!(open(&mut guest, "phone", &phone).await, Err(Error::Denied(_))));
        let subject = Some(rig.store.subjects().pseudonym("ann").await.unwrap().to_string());
        let sworn = |field: &str, verdict| Opening { field: field.into(), subject: subject.clone(), verdict };
        assert_eq!(rig.sworn.all(), [sworn("email", Verdict::Granted), sworn("phone", Verdict::Refused)]);
    }

    #[tokio::test]
    async fn nothing_is_opened_when_the_audit_log_cannot_be_written() {
        let rig = Rig::new(ALL).await;
        let mut guest = rig.guest(Budget::DEFAULT);
        let sealed = seal(&mut guest, "email", "ann@example.com").await.unwrap();
        rig.sworn.fail();
        assert!(matches!(open(&mut guest, "email", &sealed).await, Err(Error::Other(_))));
    }

    #[tokio::test]
    async fn a_revoked_grant_stops_the_next_call_and_an_erasure_the_next_opening() {
        let rig = Rig::new(ALL).await;
        let mut guest = rig.guest(Budget::DEFAULT);
        let sealed = seal(&mut guest, "email", "ann@example.com").await.unwrap();
        rig.store.subjects().erase("ann", "acme/admin", rig.now()).await.unwrap();
        assert!(matches!(open(&mut guest, "email", &sealed).await, Err(Error::Erased)));
        rig.grant(&[]);
        assert!(matches!(seal(&mut guest, "email", "x").await, Err(Error::Denied(_))));
        assert!(matches!(open(&mut guest, "email", &sealed).await, Err(Error::Denied(_))));
    }

    #[tokio::test]
    async fn a_field_that_was_not_granted_is_refused_whatever_it_is_called() {
        let rig = Rig::new(&[(Capability::Pii, &["*:seal", "email:open"])]).await;
        let mut guest = rig.guest(Budget::DEFAULT);
        for field in ["", "*", "email:open", "E-Mail", "../x", &"f".repeat(65)] {
            assert!(matches!(seal(&mut guest, field, "x").await, Err(Error::Denied(_))), "{field}");
            assert!(matches!(open(&mut guest, field, "rfp1.x").await, Err(Error::Denied(_))), "{field}");
        }
        assert!(rig.sworn.all().iter().all(|opening| opening.field == "(no field)" && opening.subject.is_none()));
    }

    #[tokio::test]
    async fn an_invocation_opens_a_bounded_number_of_values() {
        let rig = Rig::new(ALL).await;
        let mut guest = rig.guest(Budget::DEFAULT);
        for _ in 0..OPENINGS_COUNT_MAX + 5 {
            let _ = open(&mut guest, "phone", "rfp1.x").await;
        }
        assert_eq!(rig.sworn.all().len(), OPENINGS_COUNT_MAX as usize, "a guest cannot flood the audit log");
    }

    #[tokio::test]
    async fn tokens_lead_back_only_with_the_grant_to_open() {
        let rig = Rig::new(ALL).await;
        let mut guest = rig.guest(Budget::DEFAULT);
        let mut view = guest.view();
        let token = pii::Host::tokenise(&mut view, "phone".into(), Some("ann".into()), b"1".to_vec()).await.unwrap();
        let denied = pii::Host::detokenise(&mut view, "phone".into(), token.unwrap()).await.unwrap();
        assert!(matches!(denied, Err(Error::Denied(_))));
        let token = pii::Host::tokenise(&mut view, "email".into(), Some("ann".into()), b"1".to_vec()).await.unwrap();
        let found = pii::Host::detokenise(&mut view, "email".into(), token.unwrap()).await.unwrap().unwrap();
        assert_eq!(found, Some(b"1".to_vec()));
    }

    #[tokio::test]
    async fn a_text_is_searched_up_to_its_limit() {
        let rig = Rig::new(ALL).await;
        let mut guest = rig.guest(Budget::DEFAULT);
        let mut view = guest.view();
        let found = pii::Host::detect(&mut view, "to a@b.example".into()).await.unwrap().unwrap();
        assert_eq!(found.len(), 1);
        let refused = pii::Host::detect(&mut view, "x".repeat(DETECT_BYTES_MAX + 1)).await.unwrap();
        assert!(matches!(refused, Err(Error::Invalid(_))));
        rig.grant(&[]);
        assert!(matches!(pii::Host::detect(&mut guest.view(), "x".into()).await.unwrap(), Err(Error::Denied(_))));
    }

    #[tokio::test]
    async fn policy_is_asked_for_each_act_on_a_granted_field_and_a_refused_opening_is_sworn_to() {
        let rig = Rig::new(ALL).await;
        let mut guest = rig.guest(Budget::DEFAULT);
        let sealed = seal(&mut guest, "email", "ann@example.com").await.unwrap();
        rig.strict.asked();
        rig.strict.forbid(&[HostAct::SealField, HostAct::OpenField, HostAct::TokeniseField]);
        assert!(matches!(seal(&mut guest, "email", "x").await, Err(Error::Denied(_))));
        assert!(matches!(open(&mut guest, "email", &sealed).await, Err(Error::Denied(_))));
        let token = pii::Host::tokenise(&mut guest.view(), "phone".into(), None, b"1".to_vec()).await.unwrap();
        assert!(matches!(token, Err(Error::Denied(_))));
        let acts = [HostAct::SealField, HostAct::OpenField, HostAct::TokeniseField];
        let asked: Vec<(HostAct, String)> =
            acts.into_iter().zip(["email", "email", "phone"]).map(|(act, on)| (act, on.to_owned())).collect();
        assert_eq!(rig.strict.asked(), asked);
        assert_eq!(rig.sworn.all().last().unwrap().verdict, Verdict::Refused);
    }
}
