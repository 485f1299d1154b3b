//! The plugin's log (`wasi:logging`), which its tenant reads with `ringfence logs`.
//!
//! Must never be used by the SDK itself: only a plugin that names it as a parameter imports it.

use std::fmt::Display;

use crate::bindings::wasi::logging::logging::{Level, log};
use crate::{Call, FromHost, Result};

/// Writes messages with a level. The host caps their number and size.
#[derive(Debug, Clone)]
pub struct Log {
    context: String,
}

impl FromHost for Log {
    fn from_host(_: &mut Call) -> Result<Self> {
        Ok(Self { context: String::new() })
    }
}

impl Log {
    /// The same log with a word that groups messages.
    pub fn context(&self, context: &str) -> Self {
        Self { context: context.to_owned() }
    }

    /// For someone debugging the plugin.
    pub fn debug(&self, message: impl Display) {
        self.write(Level::Debug, &message);
    }

    /// For someone watching the plugin.
    pub fn info(&self, message: impl Display) {
        self.write(Level::Info, &message);
    }

    /// Something looks wrong.
    pub fn warn(&self, message: impl Display) {
        self.write(Level::Warn, &message);
    }

    /// Something is wrong.
    pub fn error(&self, message: impl Display) {
        self.write(Level::Error, &message);
    }

    fn write(&self, level: Level, message: &dyn Display) {
        log(level, &self.context, &message.to_string());
    }
}
