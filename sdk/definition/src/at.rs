//! A value of the document with the JSON pointer to it, so that every refusal names its place.
//!
//! Must never take a key that its caller did not name.

use serde_json::{Map, Value};

use crate::Refusal;
use crate::limits::{NAME_BYTES_MAX, TEXT_BYTES_MAX, WAIT_MS_MAX};

/// A value and where it is.
#[derive(Debug, Clone)]
pub(crate) struct At<'a> {
    pub(crate) value: &'a Value,
    pub(crate) path: String,
}

impl<'a> At<'a> {
    pub(crate) fn root(value: &'a Value) -> Self {
        Self { value, path: String::new() }
    }

    /// The pointer to a member.
    pub(crate) fn path_of(&self, key: &str) -> String {
        format!("{}/{}", self.path, key.replace('~', "~0").replace('/', "~1"))
    }

    pub(crate) fn refuse<T>(&self, why: impl Into<String>) -> Result<T, Refusal> {
        Err(Refusal::new(&self.path, why))
    }

    pub(crate) fn map(&self) -> Result<&'a Map<String, Value>, Refusal> {
        match self.value {
            Value::Object(map) => Ok(map),
            _ => self.refuse("must be an object"),
        }
    }

    /// Refuses every key but these.
    pub(crate) fn only(&self, known: &[&str]) -> Result<(), Refusal> {
        match self.map()?.keys().find(|key| !known.contains(&key.as_str())) {
            Some(key) => Err(Refusal::new(self.path_of(key), "not supported")),
            None => Ok(()),
        }
    }

    /// A member, if it is there.
    pub(crate) fn get(&self, key: &str) -> Option<Self> {
        let value = self.value.as_object()?.get(key)?;
        Some(Self { value, path: self.path_of(key) })
    }

    /// A member that has to be there.
    pub(crate) fn need(&self, key: &str) -> Result<Self, Refusal> {
        self.map()?;
        self.get(key).ok_or_else(|| Refusal::new(self.path_of(key), "is missing"))
    }

    /// The members.
    pub(crate) fn members(&self) -> Result<Vec<(&'a str, Self)>, Refusal> {
        let members = self.map()?.iter();
        Ok(members.map(|(key, value)| (key.as_str(), Self { value, path: self.path_of(key) })).collect())
    }

    /// The items of a list that is not empty.
    pub(crate) fn items(&self) -> Result<Vec<Self>, Refusal> {
        match self.value {
            Value::Array(items) if items.is_empty() => self.refuse("is empty"),
            Value::Array(items) => {
                let item = |(index, value)| Self { value, path: format!("{}/{index}", self.path) };
                Ok(items.iter().enumerate().map(item).collect())
            }
            _ => self.refuse("must be a list"),
        }
    }

    /// An object with one member: how the DSL names the things of a list.
    pub(crate) fn named(&self) -> Result<(&'a str, Self), Refusal> {
        match self.members()?.pop() {
            Some(member) if self.map()?.len() == 1 => Ok(member),
            _ => self.refuse("must have one key, the name"),
        }
    }

    pub(crate) fn text(&self) -> Result<&'a str, Refusal> {
        match self.value {
            Value::String(text) if text.len() <= TEXT_BYTES_MAX => Ok(text),
            Value::String(_) => self.refuse(format!("is longer than {TEXT_BYTES_MAX} bytes")),
            _ => self.refuse("must be text"),
        }
    }

    /// A short word of letters, digits, `-`, `_` and `.`.
    pub(crate) fn name(&self) -> Result<&'a str, Refusal> {
        let text = self.text()?;
        self.check_name(text)?;
        Ok(text)
    }

    pub(crate) fn check_name(&self, name: &str) -> Result<(), Refusal> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(plain) {
            return self.refuse(format!("a name is 1 to {NAME_BYTES_MAX} letters, digits, `-`, `_` or `.`"));
        }
        Ok(())
    }

    pub(crate) fn flag(&self) -> Result<bool, Refusal> {
        self.value.as_bool().map_or_else(|| self.refuse("must be true or false"), Ok)
    }

    pub(crate) fn number(&self, min: u64, max: u64) -> Result<u64, Refusal> {
        match self.value.as_u64() {
            Some(number) if (min..=max).contains(&number) => Ok(number),
            _ => self.refuse(format!("must be a whole number from {min} to {max}")),
        }
    }

    /// A duration in milliseconds: `PT5S`, or an object of days, hours, minutes, seconds, milliseconds.
    pub(crate) fn duration_ms(&self) -> Result<u64, Refusal> {
        let ms = match self.value {
            Value::String(text) => iso_ms(text),
            Value::Object(_) => {
                self.only(&["days", "hours", "minutes", "seconds", "milliseconds"])?;
                let mut sum = Some(0_u64);
                for (unit, at) in self.members()? {
                    let part = at.number(0, WAIT_MS_MAX)?.checked_mul(unit_ms(unit));
                    sum = sum.zip(part).and_then(|(sum, part)| sum.checked_add(part));
                }
                sum
            }
            _ => None,
        };
        match ms {
            Some(ms) if ms <= WAIT_MS_MAX => Ok(ms),
            Some(_) => self.refuse("is longer than ten years"),
            None => {
                self.refuse("must be a duration: `PT5S`, or an object of days, hours, minutes, seconds, milliseconds")
            }
        }
    }
}

fn unit_ms(unit: &str) -> u64 {
    match unit {
        "days" => 86_400_000,
        "hours" => 3_600_000,
        "minutes" => 60_000,
        "seconds" => 1_000,
        _ => 1,
    }
}

/// An ISO 8601 duration of weeks, days, hours, minutes and seconds; months and years have no fixed length.
fn iso_ms(text: &str) -> Option<u64> {
    let rest = text.strip_prefix('P')?;
    let (days, time) = rest.split_once('T').map_or((rest, None), |(days, time)| (days, Some(time)));
    if rest.is_empty() || time == Some("") {
        return None;
    }
    let days = parts_ms(days, &[('W', 7 * 86_400_000), ('D', 86_400_000)])?;
    let time = parts_ms(time.unwrap_or_default(), &[('H', 3_600_000), ('M', 60_000), ('S', 1_000)])?;
    days.checked_add(time)
}

/// `1H30M`: numbers before these letters, in this order, each at most once.
fn parts_ms(mut text: &str, units: &[(char, u64)]) -> Option<u64> {
    let mut sum = 0_u64;
    for (letter, ms) in units {
        if let Some((number, rest)) = text.split_once(*letter) {
            sum = sum.checked_add(number.parse::<u64>().ok()?.checked_mul(*ms)?)?;
            text = rest;
        }
    }
    text.is_empty().then_some(sum)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn durations_are_read_and_odd_ones_are_not() {
        let ms = |value: Value| At::root(&value).duration_ms().ok();
        assert_eq!(ms(json!("PT5S")), Some(5_000));
        assert_eq!(ms(json!("P1W2DT3H4M5S")), Some(788_645_000));
        assert_eq!(ms(json!({ "minutes": 1, "milliseconds": 5 })), Some(60_005));
        assert_eq!(ms(json!({})), Some(0));
        for odd in
            ["", "P", "PT", "P1M", "P1Y", "PT1S1H", "5s", "PT-1S", "PT1.5S", "P99999D", "PT18446744073709551615H"]
        {
            assert_eq!(ms(json!(odd)), None, "{odd}");
        }
        assert_eq!(ms(json!({ "fortnights": 1 })), None);
        assert_eq!(ms(json!(5)), None);
    }
}
