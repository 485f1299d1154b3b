//! HTTP calls: a request made of a definition and its data, and what an answer comes to.
//!
//! Must never put what was sent into an error: a body may hold what nobody may read.

use serde_json::{Map, Value, json};

use super::{Failure, Fault};
use crate::limits::ANSWER_BYTES_MAX;

/// The header that tells a far end that this is the same call again.
const KEY_HEADER: &str = "idempotency-key";

/// A request to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Upper case.
    pub method: String,
    /// With its query.
    pub url: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// None when there is no body.
    pub body: Option<Vec<u8>>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Those that are text.
    pub headers: Vec<(String, String)>,
    /// All of it.
    pub body: Vec<u8>,
}

/// The request that evaluated data asks for.
pub(super) fn request(
    method: &str,
    endpoint: &Value,
    input: &Value,
    [headers, query]: [Option<Value>; 2],
    body: Option<Value>,
) -> Result<Request, Fault> {
    let Value::String(endpoint) = endpoint else { return Err(wrong("the endpoint is no text")) };
    let mut url = filled(endpoint, input)?;
    for (name, value) in fields(query, "query")? {
        url.push(if url.contains('?') { '&' } else { '?' });
        url.push_str(&format!("{}={}", encoded(&name), encoded(&value)));
    }
    let mut headers: Vec<(String, String)> =
        fields(headers, "headers")?.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect();
    let (kind, body) = match body {
        None => (None, None),
        Some(Value::String(text)) => (Some("text/plain; charset=utf-8"), Some(text.into_bytes())),
        Some(other) => (Some("application/json"), Some(other.to_string().into_bytes())),
    };
    if let Some(kind) = kind
        && !headers.iter().any(|(name, _)| name == "content-type")
    {
        headers.push(("content-type".to_owned(), kind.to_owned()));
    }
    Ok(Request { method: method.to_owned(), url, headers, body })
}

impl Request {
    /// The same with the key that names it, unless the definition has set one.
    pub(super) fn keyed(mut self, key: String) -> Self {
        if !self.headers.iter().any(|(name, _)| name == KEY_HEADER) {
            self.headers.push((KEY_HEADER.to_owned(), key));
        }
        self
    }
}

/// What an answer comes to: its content, or with `wants_response` all of it. Whatever is not 200 to 299 is an error; those
/// that may pass by themselves are tried again.
pub(super) fn outcome(response: Response, wants_response: bool) -> Result<Value, Failure> {
    let Response { status, headers, body } = response;
    if !(200..300).contains(&status) {
        let again = matches!(status, 408 | 425 | 429 | 500..=599);
        let fault = Fault::standard("communication", status, format!("the far end answered {status}"));
        return Err(Failure { fault, again });
    }
    if body.len() > ANSWER_BYTES_MAX {
        let fault = wrong(&format!("the answer is longer than {ANSWER_BYTES_MAX} bytes"));
        return Err(Failure { fault, again: false });
    }
    let is_json = headers.iter().any(|(name, value)| name == "content-type" && value.contains("json"));
    let content = content(&body, is_json).map_err(|fault| Failure { fault, again: false })?;
    if !wants_response {
        return Ok(content);
    }
    let headers: Map<String, Value> = headers.into_iter().map(|(name, value)| (name, Value::String(value))).collect();
    Ok(json!({ "statusCode": status, "headers": headers, "content": content }))
}

/// No answer came.
pub(super) fn no_answer(why: String) -> Failure {
    Failure { fault: Fault::standard("communication", 503, why), again: true }
}

fn content(body: &[u8], is_json: bool) -> Result<Value, Fault> {
    if body.is_empty() {
        return Ok(Value::Null);
    }
    if is_json {
        return serde_json::from_slice(body).map_err(|error| wrong(&format!("the answer is no JSON: {error}")));
    }
    match std::str::from_utf8(body) {
        Ok(text) => Ok(Value::String(text.to_owned())),
        Err(_) => Err(wrong("the answer is not text")),
    }
}

/// Names and values as text; one that is null is left out.
fn fields(of: Option<Value>, what: &str) -> Result<Vec<(String, String)>, Fault> {
    let map = match of {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Object(map)) => map,
        Some(_) => return Err(wrong(&format!("`{what}` is no object"))),
    };
    let mut fields = Vec::new();
    for (name, value) in map {
        match value {
            Value::Null => {}
            Value::String(text) => fields.push((name, text)),
            Value::Bool(_) | Value::Number(_) => fields.push((name, value.to_string())),
            _ => return Err(wrong(&format!("`{name}` of `{what}` is neither text nor a number"))),
        }
    }
    Ok(fields)
}

/// A URL with each `{name}` replaced by that member of the input.
fn filled(endpoint: &str, input: &Value) -> Result<String, Fault> {
    let mut url = String::new();
    for piece in endpoint.split('{') {
        let Some((name, rest)) = piece.split_once('}') else {
            url.push_str(piece);
            continue;
        };
        let value = match input.get(name) {
            Some(Value::String(text)) => text.clone(),
            Some(number @ Value::Number(_)) => number.to_string(),
            _ => return Err(wrong(&format!("the input has no text or number `{name}` for the endpoint"))),
        };
        url.push_str(&encoded(&value));
        url.push_str(rest);
    }
    Ok(url)
}

/// Percent-encoded but for RFC 3986's unreserved characters.
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn wrong(why: &str) -> Fault {
    Fault::standard("communication", 400, why)
}
