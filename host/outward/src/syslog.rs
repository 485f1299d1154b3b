//! A batch as syslog messages: RFC 5424, over TLS with octet counting (RFC 5425).
//!
//! The format is written out here because the published crates for it write to a local daemon or stamp messages with the
//! system's clock and process; what is needed is these forty lines, pure. Must never let a value end a field early.
//! Syslog has no acknowledgement: what the receiver's machine took and lost is not sent again. To know as much as one can,
//! the host says the end of what it sends and waits for the receiver to say the same.

use std::time::Duration;

use jiff::Timestamp;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::batch::{Batch, Item};
use crate::reach::{Reach, ReachError};

/// Facility `log audit` of RFC 5424, table 1.
const FACILITY: u8 = 13;
/// The number that IANA keeps for examples (RFC 5612): this product has none of its own.
const STRUCTURE: &str = "audit@32473";

/// Where a batch goes.
pub(crate) struct Target<'a> {
    pub host: &'a str,
    pub port: u16,
    pub roots: Option<Vec<rustls::pki_types::CertificateDer<'static>>>,
}

/// Sends a batch on a connection of its own, and hears its end within `wait`.
pub(crate) async fn send(reach: &Reach, target: Target<'_>, batch: &Batch, wait: Duration) -> Result<(), ReachError> {
    let mut stream = reach.connect(target.host, target.port, target.roots).await?;
    let frames: Vec<u8> = batch.items.iter().flat_map(|item| frame(item, &batch.log)).collect();
    let sent = async {
        stream.write_all(&frames).await?;
        stream.shutdown().await?;
        // Whatever it says is let go; what counts is that it ends the connection in order.
        let mut end = [0_u8; 256];
        while stream.read(&mut end).await? > 0 {}
        Ok::<_, std::io::Error>(())
    };
    match tokio::time::timeout(wait, sent).await {
        Err(_) => Err(ReachError::TimedOut),
        // A receiver that closes without TLS's own farewell has read to the end all the same.
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(()),
        Ok(result) => result.map_err(|_| ReachError::BrokenOff),
    }
}

/// One message with its length before it.
fn frame(item: &Item, log: &str) -> Vec<u8> {
    let message = message(item, log);
    [message.len().to_string().as_bytes(), b" ", message.as_bytes()].concat()
}

fn message(item: &Item, log: &str) -> String {
    let severity = match item.severity {
        0 | 1 => 6,
        2 => 5,
        3 => 4,
        4 => 3,
        _ => 2,
    };
    let time = Timestamp::from_millisecond(item.time_ms).unwrap_or(Timestamp::UNIX_EPOCH);
    let host = header(log.split('/').next().unwrap_or_default(), 255);
    let code = header(item.code.split(' ').next().unwrap_or_default(), 32);
    format!(
        "<{}>1 {time} {host} ringfence - {code} [{STRUCTURE} seq=\"{}\" log=\"{}\"] \u{feff}{}",
        FACILITY * 8 + severity,
        item.seq,
        parameter(log),
        item.event
    )
}

/// A header field: printable ASCII, so long at most, `-` for nothing.
fn header(text: &str, bytes_max: usize) -> String {
    let kept: String = text.chars().filter(char::is_ascii_graphic).take(bytes_max).collect();
    if kept.is_empty() { "-".to_owned() } else { kept }
}

/// A parameter's value: `"`, `\` and `]` are escaped (RFC 5424, 6.3.3); control characters, which it lets pass, are not.
fn parameter(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars().filter(|c| !c.is_control()) {
        if matches!(c, '"' | '\\' | ']') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn item(code: &str, event: serde_json::Value) -> Item {
        Item { seq: 9, time_ms: 1_790_000_000_123, code: code.into(), severity: 3, event }
    }

    #[test]
    fn a_message_has_the_fields_of_rfc_5424_and_its_length_before_it() {
        let text = message(&item("TEN-001 tenant-created", json!({ "a": 1 })), "host.example/audit/tenant/acme");
        let time = Timestamp::from_millisecond(1_790_000_000_123).unwrap();
        assert_eq!(
            text,
            format!(
                "<108>1 {time} host.example ringfence - TEN-001 [audit@32473 seq=\"9\" \
                 log=\"host.example/audit/tenant/acme\"] \u{feff}{{\"a\":1}}"
            )
        );
        let framed = frame(&item("TEN-001", json!({})), "h/x");
        let at = framed.iter().position(|byte| *byte == b' ').unwrap();
        let length: usize = std::str::from_utf8(&framed[..at]).unwrap().parse().unwrap();
        assert_eq!(length, framed.len() - at - 1);
    }

    #[test]
    fn no_value_ends_its_field_or_the_message() {
        let hostile = "h\"]\\ x\n<13>1 - - - - -";
        let text = message(&item("A B\n<1>", json!({ "m": "line\nbreak\u{0}" })), hostile);
        assert!(text.contains("log=\"h\\\"\\]\\\\ x<13>1 - - - - -\""), "{text}");
        assert_eq!(text.lines().count(), 1);
        assert!(!text.contains('\u{0}'));
        assert_eq!(header("", 5), "-");
        assert_eq!(header("a b\u{7}ü", 9), "ab");
        assert_eq!(header(&"x".repeat(99), 32).len(), 32);
    }
}
