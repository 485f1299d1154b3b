//! A batch as OpenTelemetry logs: OTLP/HTTP 1.x in its JSON form, without a line of protobuf.
//!
//! Source: opentelemetry-proto `logs/v1/logs.proto` and the OTLP specification (64-bit numbers are text in JSON). Must
//! never repeat a batch that the collector took in part: the specification says so, and the rest is counted as rejected.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};
use url::Url;

use crate::batch::{Batch, Item};
use crate::destination::Secrets;
use crate::reach::{Answer, Ask};
use crate::webhook::{ANSWER_BYTES_MAX, plain_headers};

/// The request that carries a batch.
pub(crate) fn ask(url: Url, secrets: &Secrets, batch: &Batch, wait: Duration) -> Ask {
    let body = Bytes::from(logs(batch).to_string());
    let headers = plain_headers(secrets);
    Ask { method: Method::POST, url, headers, body, answer_bytes_max: ANSWER_BYTES_MAX, wait }
}

/// Entries of a batch that the collector took and does not keep.
pub(crate) fn rejected_count(answer: &Answer) -> u64 {
    let said: Option<Value> = serde_json::from_slice(&answer.body).ok();
    let rejected = said.as_ref().and_then(|said| said.pointer("/partialSuccess/rejectedLogRecords"));
    match rejected {
        Some(Value::String(text)) => text.parse().unwrap_or(0),
        Some(number) => number.as_u64().unwrap_or(0),
        None => 0,
    }
}

fn logs(batch: &Batch) -> Value {
    let records: Vec<Value> = batch.items.iter().map(record).collect();
    json!({ "resourceLogs": [{
        "resource": { "attributes": [text("service.name", "ringfence"), text("ringfence.log", &batch.log)] },
        "scopeLogs": [{ "scope": { "name": "ringfence.audit" }, "logRecords": records }],
    }] })
}

fn record(item: &Item) -> Value {
    let (number, word) = match item.severity {
        0 | 1 => (9, "INFO"),
        2 | 3 => (13, "WARN"),
        _ => (17, "ERROR"),
    };
    let nanos = i128::from(item.time_ms).saturating_mul(1_000_000).max(0).to_string();
    json!({
        "timeUnixNano": nanos, "observedTimeUnixNano": nanos, "severityNumber": number, "severityText": word,
        "body": { "stringValue": item.event.to_string() },
        "attributes": [
            text("event.name", item.code.split(' ').next().unwrap_or_default()),
            json!({ "key": "ringfence.seq", "value": { "intValue": item.seq.to_string() } }),
        ],
    })
}

fn text(key: &str, value: &str) -> Value {
    json!({ "key": key, "value": { "stringValue": value } })
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, StatusCode};

    use super::*;

    #[test]
    fn an_entry_is_a_log_record_with_its_place_and_numbers_as_text() {
        let item = Item {
            seq: 7,
            time_ms: 1_790_000_000_123,
            code: "TEN-001 tenant-created".into(),
            severity: 3,
            event: json!({ "seq": 7 }),
        };
        let logs = logs(&Batch { log: "h/audit/tenant/acme".into(), next: 8, items: vec![item] });
        let record = logs.pointer("/resourceLogs/0/scopeLogs/0/logRecords/0").unwrap();
        assert_eq!(record["timeUnixNano"], "1790000000123000000");
        assert_eq!(record["severityText"], "WARN");
        assert_eq!(record["attributes"][1]["value"]["intValue"], "7");
        assert_eq!(record["body"]["stringValue"], "{\"seq\":7}");
        assert_eq!(
            logs.pointer("/resourceLogs/0/resource/attributes/1/value/stringValue").unwrap(),
            "h/audit/tenant/acme"
        );
    }

    #[test]
    fn what_a_collector_rejects_is_counted_and_rubbish_is_nothing() {
        let count = |body: &'static str| {
            rejected_count(&Answer {
                status: StatusCode::OK,
                headers: HeaderMap::new(),
                body: Bytes::from_static(body.as_bytes()),
            })
        };
        assert_eq!(count(r#"{"partialSuccess":{"rejectedLogRecords":"3","errorMessage":"old"}}"#), 3);
        assert_eq!(count(r#"{"partialSuccess":{"rejectedLogRecords":2}}"#), 2);
        for nothing in ["", "{}", "<html>", r#"{"partialSuccess":{"rejectedLogRecords":"many"}}"#] {
            assert_eq!(count(nothing), 0, "{nothing}");
        }
    }
}
