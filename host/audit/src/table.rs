//! Entries as a table for spreadsheets (RFC 4180): fixed columns, one row an entry.
//!
//! SECURITY: what a tenant's people typed goes into cells, and a spreadsheet runs a cell that begins like a formula. Such
//! cells get a `'` in front (CWE-1236). Must never write a column that depends on what an event holds.

use serde_json::Value;

use crate::export::Row;

/// The columns, in order.
pub const COLUMNS: [&str; 14] = [
    "seq",
    "time_ms",
    "code",
    "class_uid",
    "activity_id",
    "status",
    "action_id",
    "actor",
    "operation",
    "resource",
    "source_ip",
    "request",
    "decision",
    "leaf_hash",
];
/// Where the body has them.
pub(crate) const OF_BODY: [&str; 6] = [
    "/actor/user/uid",
    "/api/operation",
    "/resources/0/uid",
    "/src_endpoint/ip",
    "/metadata/correlation_uid",
    "/unmapped/decision",
];

/// The table; the same entries give the same bytes.
pub fn to_csv(rows: &[Row]) -> Result<Vec<u8>, String> {
    let mut writer = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new());
    writer.write_record(COLUMNS).map_err(|error| error.to_string())?;
    for row in rows {
        let envelope: Value = serde_json::from_str(&row.entry.envelope).map_err(|error| error.to_string())?;
        let body = row.entry.body.as_ref().unwrap_or(&Value::Null);
        let mut cells = vec![row.seq.to_string()];
        for name in ["time", "code", "class_uid", "activity_id", "status", "action_id"] {
            cells.push(cell(envelope.get(name)));
        }
        cells.extend(OF_BODY.iter().map(|pointer| cell(body.pointer(pointer))));
        cells.push(cell(Some(&Value::String(row.entry.leaf_hash.clone()))));
        writer.write_record(&cells).map_err(|error| error.to_string())?;
    }
    writer.into_inner().map_err(|error| error.to_string())
}

fn cell(value: Option<&Value>) -> String {
    let text = match value {
        None | Some(Value::Null) => return String::new(),
        Some(Value::String(text)) => text.clone(),
        // A negative number is a number, not a formula.
        Some(Value::Number(number)) => return number.to_string(),
        Some(other) => other.to_string(),
    };
    if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Entry;
    use serde_json::json;

    #[test]
    fn a_cell_that_begins_like_a_formula_is_text() {
        for text in ["=1+1", "+1", "-1", "@x", "\tx", "\rx"] {
            assert_eq!(cell(Some(&json!(text))), format!("'{text}"));
        }
        assert_eq!(
            (cell(Some(&json!("a=b"))), cell(Some(&json!(-5))), cell(None)),
            ("a=b".into(), "-5".into(), String::new())
        );
    }

    #[test]
    fn commas_quotes_and_line_ends_stay_inside_their_cell() {
        let entry = Entry {
            envelope: r#"{"code":"X-1","seq":0,"time":5}"#.to_owned(),
            leaf_hash: "ab".to_owned(),
            body: Some(json!({"actor": {"user": {"uid": "a,\"b\"\r\nc"}}})),
            salt: String::new(),
        };
        let table = String::from_utf8(to_csv(&[Row { seq: 0, entry, path: Vec::new() }]).unwrap()).unwrap();
        assert_eq!(table.lines().next().unwrap().split(',').count(), COLUMNS.len());
        assert!(table.contains("0,5,X-1,,,,,\"a,\"\"b\"\"\r\nc\",,,,,,ab\r\n"), "{table}");
    }
}
