//! Words of the command line that are not words of the host: `visits@0.1.0`, `30d`.
//!
//! Pure parsing; errors say what to write instead.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use ringfence_core::PluginName;
use semver::Version;

/// A plugin at a version, `visits@0.1.0`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginVersion {
    /// The plugin.
    pub plugin: PluginName,
    /// The label.
    pub version: Version,
}

/// The second version of a comparison: with its plugin or without, `visits@0.2.0`, `@0.2.0`, `0.2.0`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionRef {
    /// The plugin, when it was named.
    pub plugin: Option<PluginName>,
    /// The label.
    pub version: Version,
}

/// How long a key lives, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime(pub u32);

/// A role for whoever has a claim, `groups=devs:developer`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimToRole {
    /// The claim.
    pub claim: String,
    /// Its value.
    pub value: String,
    /// The role; the host says whether there is such a one.
    pub role: String,
}

/// A word that does not parse; says what to write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct WordsError(String);

impl FromStr for PluginVersion {
    type Err = WordsError;
    fn from_str(text: &str) -> Result<Self, WordsError> {
        let Some((plugin, version)) = text.split_once('@') else {
            return Err(WordsError("name the version too, as in `visits@0.1.0`".to_owned()));
        };
        Ok(Self { plugin: parse_plugin(plugin)?, version: parse_version(version)? })
    }
}

impl fmt::Display for PluginVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.plugin, self.version)
    }
}

impl FromStr for VersionRef {
    type Err = WordsError;
    fn from_str(text: &str) -> Result<Self, WordsError> {
        match text.split_once('@') {
            None => Ok(Self { plugin: None, version: parse_version(text)? }),
            Some(("", version)) => Ok(Self { plugin: None, version: parse_version(version)? }),
            Some((plugin, version)) => {
                Ok(Self { plugin: Some(parse_plugin(plugin)?), version: parse_version(version)? })
            }
        }
    }
}

impl FromStr for ClaimToRole {
    type Err = WordsError;
    fn from_str(text: &str) -> Result<Self, WordsError> {
        let wrong = || WordsError("write claim, value and role, as in `groups=devs:developer`".to_owned());
        let (claim, rest) = text.split_once('=').ok_or_else(wrong)?;
        let (value, role) = rest.rsplit_once(':').ok_or_else(wrong)?;
        if claim.is_empty() || value.is_empty() || role.is_empty() {
            return Err(wrong());
        }
        Ok(Self { claim: claim.to_owned(), value: value.to_owned(), role: role.to_owned() })
    }
}

impl FromStr for Lifetime {
    type Err = WordsError;
    fn from_str(text: &str) -> Result<Self, WordsError> {
        let wrong = || WordsError("write a number and `d`, `h`, `m` or `s`, as in `30d`".to_owned());
        let unit = text.chars().next_back().ok_or_else(wrong)?;
        let seconds: u32 = match unit {
            'd' => 86_400,
            'h' => 3_600,
            'm' => 60,
            's' => 1,
            _ => return Err(wrong()),
        };
        let number: u32 = text.strip_suffix(unit).unwrap_or_default().parse().map_err(|_| wrong())?;
        match number.checked_mul(seconds) {
            Some(total) if total > 0 => Ok(Self(total)),
            _ => Err(wrong()),
        }
    }
}

/// A moment in time, `2026-11-20T08:00:00Z`.
pub fn moment(text: &str) -> Result<Timestamp, WordsError> {
    text.parse().map_err(|_| WordsError("that is no time; one is `2026-11-20T08:00:00Z`".to_owned()))
}

fn parse_plugin(text: &str) -> Result<PluginName, WordsError> {
    text.parse().map_err(|error| WordsError(format!("{error}")))
}

fn parse_version(text: &str) -> Result<Version, WordsError> {
    text.parse().map_err(|_| WordsError(format!("`{text}` is not a version: write it like `0.1.0`")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_named_with_its_plugin() {
        let parsed: PluginVersion = "visits@0.1.0-rc.1".parse().unwrap();
        assert_eq!(parsed.to_string(), "visits@0.1.0-rc.1");
        for bad in ["visits", "visits@", "@0.1.0", "Visits@0.1.0", "visits@1", "visits@0.1.0@2"] {
            assert!(bad.parse::<PluginVersion>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_second_version_may_leave_the_plugin_out() {
        for text in ["0.2.0", "@0.2.0"] {
            assert_eq!(text.parse::<VersionRef>().unwrap().plugin, None, "{text}");
        }
        assert!("visits@0.2.0".parse::<VersionRef>().unwrap().plugin.is_some());
    }

    #[test]
    fn a_claim_stands_for_a_role_and_its_value_may_have_colons() {
        let parsed: ClaimToRole = "groups=urn:a:devs:developer".parse().unwrap();
        assert_eq!(
            (parsed.claim.as_str(), parsed.value.as_str(), parsed.role.as_str()),
            ("groups", "urn:a:devs", "developer")
        );
        for bad in ["", "groups", "groups=devs", "=devs:developer", "groups=:developer", "groups=devs:"] {
            assert!(bad.parse::<ClaimToRole>().is_err(), "{bad}");
        }
    }

    #[test]
    fn lifetimes_have_a_unit_and_are_positive() {
        assert_eq!("30d".parse::<Lifetime>().unwrap().0, 2_592_000);
        assert_eq!("90m".parse::<Lifetime>().unwrap().0, 5_400);
        for bad in ["", "d", "30", "-1d", "0h", "1w", "99999999999999999d", "1é"] {
            assert!(bad.parse::<Lifetime>().is_err(), "{bad}");
        }
    }
}
