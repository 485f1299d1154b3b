//! Plugins that the product runs without an HTTP request: hooks, schedules, messages.
//!
//! A function's error says what becomes of the occasion: [`refuse`] is a veto or a message that will never do, [`retry`] asks
//! for another attempt, any other error is a failure. Must never lose which of the three it was.

use std::fmt;

use anyhow::anyhow;

use crate::rt::EventContext;
use crate::{Call, Error, FromHost, Result};

/// What a plugin is run for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Occasion {
    /// The extension point, schedule or queue.
    pub name: String,
    /// Names the occasion; the same when it is handed over again, so that what was done under it need not be done twice.
    pub id: String,
    /// 1 the first time.
    pub attempt: u32,
    /// When it was due, RFC 3339 in UTC.
    pub at: String,
    /// What else there is to know.
    pub attributes: Vec<(String, String)>,
    /// What was handed over, as it came.
    pub payload: Vec<u8>,
}

impl Occasion {
    pub(crate) fn of(context: EventContext, payload: &[u8]) -> Self {
        let EventContext { name, id, attempt, at, attributes } = context;
        Self { name, id, attempt, at, attributes, payload: payload.to_vec() }
    }

    /// An attribute by its name.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

impl FromHost for Occasion {
    fn from_host(call: &mut Call) -> Result<Self> {
        call.occasion.clone().ok_or_else(|| anyhow!("an HTTP request is no occasion"))
    }
}

/// What an error asks for.
#[derive(Debug)]
pub(crate) enum Wish {
    Refuse(String),
    Retry(String),
}

impl fmt::Display for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refuse(why) | Self::Retry(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Wish {}

/// Says no: a validator's veto, or a message that will never do. Not tried again.
pub fn refuse(why: impl fmt::Display) -> Error {
    Error::new(Wish::Refuse(why.to_string()))
}

/// It cannot be done now, and may be tried again.
pub fn retry(why: impl fmt::Display) -> Error {
    Error::new(Wish::Retry(why.to_string()))
}
