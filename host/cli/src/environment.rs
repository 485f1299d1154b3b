//! The one place of the command line that reads the process's environment, beside the two flags that clap reads
//! (`RINGFENCE_HOST`, `RINGFENCE_TENANT`). Everything else gets what is found here as a value.
//!
//! Must never print a value: one of them is a key.

use std::fmt;
use std::path::PathBuf;

use zeroize::Zeroizing;

/// A text that must not be seen: no Display, a redacted Debug, overwritten when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Wraps a text.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
    /// The text, for the one place that sends or stores it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// What the environment says.
#[derive(Debug, Clone)]
pub struct Environment {
    /// Folder of profiles and kept checkpoints: `RINGFENCE_HOME`, or `ringfence` in the user's configuration folder.
    pub home: Option<PathBuf>,
    /// `RINGFENCE_API_KEY`: used instead of any profile.
    pub api_key: Option<Secret>,
    /// `RINGFENCE_SDK`: folder of the SDK that `new` writes into Cargo.toml.
    pub sdk: Option<PathBuf>,
}

impl Environment {
    /// Reads it.
    pub fn read() -> Self {
        let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let home = folder("RINGFENCE_HOME")
            .or_else(|| folder("XDG_CONFIG_HOME").map(|config| config.join("ringfence")))
            .or_else(|| std::env::home_dir().map(|home| home.join(".config").join("ringfence")));
        let api_key = std::env::var_os("RINGFENCE_API_KEY")
            .and_then(|value| value.into_string().ok())
            .filter(|value| !value.trim().is_empty())
            .map(|value| Secret::new(value.trim().to_owned()));
        Self { home, api_key, sdk: folder("RINGFENCE_SDK") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_show_in_debug() {
        let environment = Environment { home: None, api_key: Some(Secret::new("rfk_canary_canary".into())), sdk: None };
        assert!(!format!("{environment:?}").contains("canary"));
    }
}
