//! Secrets (`ringfence:plugin/secrets`): bytes its tenant stored, granted name by name.
//!
//! Must never print a value: there is no Debug or Display that shows one.

use crate::bindings::ringfence::plugin::secrets;
use crate::{Call, FromHost, HostError, Result};

/// Reads secrets.
#[derive(Debug)]
pub struct Secrets(());

impl FromHost for Secrets {
    fn from_host(_: &mut Call) -> Result<Self> {
        Ok(Self(()))
    }
}

impl Secrets {
    /// The bytes stored under a name, if there are any.
    pub fn get(&self, name: &str) -> Result<Option<Vec<u8>>, HostError> {
        Ok(secrets::get(name)?)
    }

    /// The bytes stored under a name that has to be set.
    pub fn require(&self, name: &str) -> Result<Vec<u8>, HostError> {
        self.get(name)?.ok_or_else(|| HostError::Missing(format!("secret `{name}`")))
    }

    /// The secret as text.
    pub fn text(&self, name: &str) -> Result<Option<String>, HostError> {
        let decoded = self.get(name)?.map(String::from_utf8).transpose();
        decoded.map_err(|_| HostError::Failed(format!("secret `{name}` is no text")))
    }
}

impl From<secrets::Error> for HostError {
    fn from(error: secrets::Error) -> Self {
        match error {
            secrets::Error::Denied(name) => Self::Denied(format!("secret `{name}`")),
            secrets::Error::Other(message) => Self::Failed(format!("secrets: {message}")),
        }
    }
}
