//! Personal data in fields (`ringfence:plugin/pii`): sealed for the person it is about, granted field by field.
//!
//! Must never put a value or a subject into a message: errors say what failed, not on what.

use crate::bindings::ringfence::plugin::pii;
use crate::{Call, FromHost, HostError, Result};

pub use pii::{Finding, Kind};

/// Seals, opens and finds personal data.
#[derive(Debug)]
pub struct Pii(());

impl FromHost for Pii {
    fn from_host(_: &mut Call) -> Result<Self> {
        Ok(Self(()))
    }
}

impl Pii {
    /// Seals a value of a field for a subject: text that can be stored and sent anywhere. Needs `FIELD:seal`.
    pub fn seal(&self, field: &str, subject: &str, value: impl AsRef<[u8]>) -> Result<String, HostError> {
        Ok(pii::seal(field, subject, value.as_ref())?)
    }

    /// Opens a sealed value of a field; with a subject, only when it is that subject's. Needs `FIELD:open`.
    pub fn open(&self, field: &str, subject: Option<&str>, sealed: &str) -> Result<Vec<u8>, HostError> {
        Ok(pii::open(field, subject, sealed)?)
    }

    /// A token for a value, equal for equal values of a field. With a subject there is a way back until it is erased.
    /// Needs `FIELD:seal`.
    pub fn tokenise(&self, field: &str, subject: Option<&str>, value: impl AsRef<[u8]>) -> Result<String, HostError> {
        Ok(pii::tokenise(field, subject, value.as_ref())?)
    }

    /// The value behind a token, if one is kept. Needs `FIELD:open`.
    pub fn detokenise(&self, field: &str, token: &str) -> Result<Option<Vec<u8>>, HostError> {
        Ok(pii::detokenise(field, token)?)
    }

    /// What looks like personal data in a text, with its place in bytes. A hint: what it misses is no proof.
    pub fn detect(&self, text: &str) -> Result<Vec<Finding>, HostError> {
        Ok(pii::detect(text)?)
    }
}

impl From<pii::Error> for HostError {
    fn from(error: pii::Error) -> Self {
        match error {
            pii::Error::Denied(what) => Self::Denied(format!("personal data: {what}")),
            pii::Error::Erased => Self::Missing("the subject was erased".to_owned()),
            pii::Error::NotSealedHere => {
                Self::Failed("personal data: not a sealed value of this field and subject".to_owned())
            }
            pii::Error::Invalid(what) | pii::Error::Other(what) => Self::Failed(format!("personal data: {what}")),
        }
    }
}
