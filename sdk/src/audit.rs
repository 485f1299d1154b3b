//! The tenant's audit log (`ringfence:plugin/audit`): events of the plugin's own application.
//!
//! Must never say who or when: the host does.

use crate::bindings::ringfence::plugin::audit;
use crate::{Call, FromHost, HostError, Result};

/// Puts events on the tenant's audit log.
#[derive(Debug)]
pub struct AuditLog(());

/// Something that happened; [`Happening::new`] with what it has beside a code and words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Happening {
    code: String,
    message: String,
    resource: Option<String>,
    data: Option<String>,
}

impl Happening {
    /// A code (letters, digits, `.`, `_`, `-`; not one of the host's own, such as `TEN-001`) and what happened, in words.
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into(), resource: None, data: None }
    }

    /// On what, in the application's words.
    pub fn on(mut self, resource: impl Into<String>) -> Self {
        self.resource = Some(resource.into());
        self
    }

    /// The rest, as JSON; at most 16 KiB.
    #[cfg(feature = "json")]
    pub fn with(mut self, data: &impl serde::Serialize) -> Result<Self> {
        self.data = Some(serde_json::to_string(data)?);
        Ok(self)
    }
}

impl FromHost for AuditLog {
    fn from_host(_: &mut Call) -> Result<Self> {
        Ok(Self(()))
    }
}

impl AuditLog {
    /// Puts an event on the log and gives its place there, once it is durable.
    pub fn put(&self, happening: Happening) -> Result<u64, HostError> {
        let Happening { code, message, resource, data } = happening;
        audit::put(&audit::Entry { code, message, resource, data }).map_err(|error| match error {
            audit::Error::Denied(_) => HostError::Denied("the audit log".to_owned()),
            audit::Error::Reserved(why) | audit::Error::Invalid(why) => HostError::Failed(format!("audit: {why}")),
            audit::Error::Limited(wait_ms) => HostError::Failed(format!("audit: no more events for {wait_ms} ms")),
            audit::Error::Other(why) => HostError::Failed(format!("audit: {why}")),
        })
    }
}
