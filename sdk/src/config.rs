//! The plugin's configuration (`wasi:config`): names and texts its tenant sets.
//!
//! Must never hold secrets: those are [`crate::Secrets`], which are write-only from outside.

use crate::bindings::wasi::config0_2_0_rc_1::store;
use crate::{Call, FromHost, HostError, Result};

/// Reads configuration.
#[derive(Debug)]
pub struct Config(());

impl FromHost for Config {
    fn from_host(_: &mut Call) -> Result<Self> {
        Ok(Self(()))
    }
}

impl Config {
    /// The value of a name, if it is set.
    pub fn get(&self, name: &str) -> Result<Option<String>, HostError> {
        Ok(store::get(name)?)
    }

    /// The value of a name that has to be set.
    pub fn require(&self, name: &str) -> Result<String, HostError> {
        self.get(name)?.ok_or_else(|| HostError::Missing(format!("config `{name}`")))
    }

    /// All names and values.
    pub fn all(&self) -> Result<Vec<(String, String)>, HostError> {
        Ok(store::get_all()?)
    }
}

impl From<store::Error> for HostError {
    fn from(error: store::Error) -> Self {
        match error {
            store::Error::Upstream(message) | store::Error::Io(message) => Self::Failed(format!("config: {message}")),
        }
    }
}
