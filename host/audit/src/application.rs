//! Events of a tenant's own application, from its people's programs or from its plugins: what one may say.
//!
//! Pure. Must never let through what could be taken for the host's own: its code stands in the details of a code of ours, what
//! looks like one of ours is refused, and signs that steer a terminal, a log viewer or the direction of text are replaced.

use serde_json::{Value, json};

use crate::{Event, codes};

/// LIMIT: longest code, in bytes.
pub const CODE_BYTES_MAX: usize = 64;
/// LIMIT: longest message, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 4 << 10;
/// LIMIT: longest resource in the application's words, in bytes.
pub const RESOURCE_BYTES_MAX: usize = 256;
/// LIMIT: most data of an event of a plugin, in bytes of JSON.
pub const PLUGIN_EVENT_BYTES_MAX: usize = 16 << 10;
/// LIMIT: levels of the data; what is deeper is left out.
const DEPTH_COUNT_MAX: usize = 16;
/// What stands for a sign that is not printed.
const REPLACED: char = '\u{FFFD}';

/// An event that fits.
#[derive(Debug, Clone, PartialEq)]
pub struct ApplicationEvent {
    code: String,
    message: String,
    resource: Option<String>,
    data: Value,
}

/// Why one does not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplicationError {
    /// Its code looks like one of the host's own.
    #[error("`{0}` looks like a code of the host")]
    Reserved(String),
    /// A part is empty, malformed or over its limit.
    #[error("{0}")]
    Invalid(String),
}

impl ApplicationEvent {
    /// Reads an event whose data is at most `data_bytes_max` bytes of JSON.
    pub fn read(
        code: &str,
        message: &str,
        resource: Option<&str>,
        data: Value,
        data_bytes_max: usize,
    ) -> Result<Self, ApplicationError> {
        let bad = |text: String| Err(ApplicationError::Invalid(text));
        let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if code.is_empty() || code.len() > CODE_BYTES_MAX || !code.chars().all(word) {
            return bad(format!("`code` is letters, digits, `.`, `_` and `-`, at most {CODE_BYTES_MAX}"));
        }
        let area = code.split_once('-').map_or("", |(area, _)| area).to_ascii_uppercase();
        if codes::AREAS.contains(&area.as_str()) {
            return Err(ApplicationError::Reserved(code.to_owned()));
        }
        if message.len() > MESSAGE_BYTES_MAX {
            return bad(format!("`message` is over {MESSAGE_BYTES_MAX} bytes"));
        }
        if resource.is_some_and(|resource| resource.len() > RESOURCE_BYTES_MAX) {
            return bad(format!("`resource` is over {RESOURCE_BYTES_MAX} bytes"));
        }
        if serde_json::to_string(&data).map_or(true, |text| text.len() > data_bytes_max) {
            return bad(format!("`data` is over {data_bytes_max} bytes"));
        }
        Ok(Self {
            code: code.to_owned(),
            message: plain(message),
            resource: resource.map(plain),
            data: plain_all(data, 0),
        })
    }

    /// What it is on, below what it comes from.
    pub fn resource(&self, base: &str) -> String {
        self.resource.as_ref().map_or_else(|| base.to_owned(), |resource| format!("{base}/application/{resource}"))
    }

    /// Puts what it says into the entry that the host made for it.
    pub fn tell(&self, entry: &mut Event) {
        entry.resource = self.resource(&entry.resource);
        if let (Some(all), Value::Object(said)) = (entry.details.as_object_mut(), self.details()) {
            all.extend(said);
        }
    }

    /// The details of its entry.
    pub fn details(&self) -> Value {
        json!({ "code": self.code, "message": self.message, "data": self.data })
    }
}

/// The text with a sign in place of each that steers what shows it: controls, line and paragraph separators, marks that turn
/// the direction of text (Unicode TR 9).
fn plain(text: &str) -> String {
    let steers = |c: char| {
        c.is_control()
            || matches!(c, '\u{2028}' | '\u{2029}' | '\u{061C}' | '\u{200E}' | '\u{200F}' | '\u{FEFF}')
            || ('\u{202A}'..='\u{202E}').contains(&c)
            || ('\u{2066}'..='\u{2069}').contains(&c)
    };
    text.chars().map(|c| if steers(c) { REPLACED } else { c }).collect()
}

fn plain_all(value: Value, depth: usize) -> Value {
    match value {
        Value::String(text) => Value::String(plain(&text)),
        Value::Array(_) | Value::Object(_) if depth >= DEPTH_COUNT_MAX => Value::Null,
        Value::Array(items) => items.into_iter().map(|item| plain_all(item, depth + 1)).collect(),
        Value::Object(members) => {
            members.into_iter().map(|(name, item)| (plain(&name), plain_all(item, depth + 1))).collect()
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(code: &str, message: &str, data: Value) -> Result<ApplicationEvent, ApplicationError> {
        ApplicationEvent::read(code, message, Some("order/7"), data, 1_000)
    }

    #[test]
    fn what_looks_like_the_hosts_own_is_refused() {
        for code in ["TEN-001", "ten-900", "AUD-9", "Pol-1.x", "chk-003"] {
            assert!(matches!(read(code, "m", json!({})), Err(ApplicationError::Reserved(_))), "{code}");
        }
        for code in ["order-placed", "ORDER-1", "tender.opened", "TENDER-1", "TEN"] {
            assert!(read(code, "m", json!({})).is_ok(), "{code}");
        }
    }

    #[test]
    fn what_is_too_long_or_malformed_is_refused() {
        for code in ["", "a b", "a\nb", "ü", &"a".repeat(65)] {
            assert!(matches!(read(code, "m", json!({})), Err(ApplicationError::Invalid(_))), "{code}");
        }
        assert!(read("a", &"m".repeat(1 << 20), json!({})).is_err());
        assert!(read("a", "m", json!("d".repeat(1_000))).is_err());
        assert!(ApplicationEvent::read("a", "m", Some(&"r".repeat(257)), Value::Null, 10).is_err());
    }

    #[test]
    fn what_steers_a_terminal_or_forges_a_line_is_replaced() {
        let forged = "paid\r\n2026-01-01 TEN-001 tenant-created\u{1b}[2J\u{202e}\u{2028}";
        let event = read("order", forged, json!({ "a\nb": ["x\u{0}y", { "deep": "\u{9b}31m" }] })).unwrap();
        let text = event.details().to_string();
        assert!(
            text.contains("paid") && !text.contains("\\n") && !text.contains("\\u001b") && !text.contains("\\u0000")
        );
        assert!(!text.contains(['\u{202e}', '\u{2028}', '\u{9b}']));
        assert_eq!(event.resource("tenant/acme"), "tenant/acme/application/order/7");
    }

    #[test]
    fn data_that_is_deep_is_cut_and_overflows_nothing() {
        let mut data = json!("end");
        for _ in 0..400 {
            data = json!([data]);
        }
        assert!(!read("a", "m", data).unwrap().details().to_string().contains("end"));
    }
}
