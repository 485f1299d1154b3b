//! A batch as a signed request (Standard Webhooks, https://www.standardwebhooks.com).
//!
//! The signature is `v1,` and base64 of HMAC-SHA-256 over `id.timestamp.body`; the id is the same when a batch is sent
//! again, so that a receiver can let what it has go. Must never follow a redirect or believe what an answer says but for
//! its status and `Retry-After`.

use std::time::Duration;

use bytes::Bytes;
use data_encoding::BASE64;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use jiff::Timestamp;
use ringfence_keys::{SecretBytes, sign_shared};
use serde_json::{Value, json};
use url::Url;

use crate::batch::Batch;
use crate::decide::Failure;
use crate::deliver::Means;
use crate::destination::{Destination, Secrets};
use crate::reach::{Answer, Ask};

/// How a secret is shown, once (Standard Webhooks).
pub(crate) const SECRET_PREFIX: &str = "whsec_";
/// LIMIT: bytes of an answer, of which nothing is kept.
pub(crate) const ANSWER_BYTES_MAX: usize = 16 << 10;

/// The request that carries a batch.
pub(crate) fn ask(destination: &Destination, url: Url, secrets: &Secrets, batch: &Batch, means: &Means<'_>) -> Ask {
    let body = Bytes::from(body(destination, batch).to_string());
    let id = message_id(destination, batch);
    let mut headers = plain_headers(secrets);
    let mut put = |name: &'static str, value: String| {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    let at = means.now.as_second();
    if let Some(secret) = &secrets.signing {
        put("webhook-signature", signature(secret, &id, at, &body));
    }
    put("webhook-timestamp", at.to_string());
    put("webhook-id", id);
    Ask { method: Method::POST, url, headers, body, answer_bytes_max: ANSWER_BYTES_MAX, wait: means.wait }
}

/// What a receiver computes to know that it was this host, and when.
pub(crate) fn signature(secret: &SecretBytes, id: &str, at: i64, body: &[u8]) -> String {
    let signed = [format!("{id}.{at}.").as_bytes(), body].concat();
    format!("v1,{}", BASE64.encode(&sign_shared(secret, &signed)))
}

/// JSON, and the owner's own `Authorization` if there is one.
pub(crate) fn plain_headers(secrets: &Secrets) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let given = secrets.authorization.as_ref().map(|value| HeaderValue::from_str(value.expose()));
    if let Some(Ok(mut value)) = given {
        value.set_sensitive(true);
        headers.insert(header::AUTHORIZATION, value);
    }
    headers
}

/// Whether a batch arrived.
pub(crate) fn judge(answer: &Answer, now: Timestamp) -> Result<(), Failure> {
    let status = answer.status;
    if status.is_success() {
        return Ok(());
    }
    let why = match status {
        StatusCode::GONE => "the receiver says that it is gone (410)".to_owned(),
        status if status.is_redirection() => {
            format!("the receiver redirects ({}), which is not followed", status.as_u16())
        }
        status => format!("the receiver answers {}", status.as_u16()),
    };
    Err(Failure { why, is_final: status == StatusCode::GONE, told: retry_after(&answer.headers, now) })
}

/// `Retry-After` in either form (RFC 9110, 10.2.3).
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let at = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    Duration::try_from(at.duration_since(now)).ok()
}

fn body(destination: &Destination, batch: &Batch) -> Value {
    let kind = format!("ringfence.{}", destination.carries.word());
    let events: Vec<&Value> = batch.items.iter().map(|item| &item.event).collect();
    let mut body = json!({ "type": kind, "log": batch.log, "destination": destination.name, "events": events });
    if let (Some(members), Some(first), Some(last)) = (body.as_object_mut(), batch.items.first(), batch.items.last()) {
        members.insert("first_seq".to_owned(), json!(first.seq));
        members.insert("last_seq".to_owned(), json!(last.seq));
    }
    body
}

/// The same for the same entries, and never with a `.` in it, which would make what is signed ambiguous.
fn message_id(destination: &Destination, batch: &Batch) -> String {
    let first = batch.items.first().map_or(0, |item| item.seq);
    let last = batch.items.last().map_or(0, |item| item.seq);
    format!("{}_{first}-{last}", destination.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, retry_after: Option<&str>) -> Answer {
        let mut headers = HeaderMap::new();
        if let Some(text) = retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_str(text).unwrap());
        }
        Answer { status: StatusCode::from_u16(status).unwrap(), headers, body: Bytes::new() }
    }

    #[test]
    fn only_2xx_is_arrival_redirects_are_not_followed_and_gone_is_final() {
        let now = Timestamp::UNIX_EPOCH;
        assert!(judge(&answer(200, None), now).is_ok() && judge(&answer(204, None), now).is_ok());
        for status in [301, 302, 307, 308, 400, 401, 404, 413, 429, 500, 503] {
            assert!(!judge(&answer(status, None), now).unwrap_err().is_final, "{status}");
        }
        assert!(judge(&answer(302, None), now).unwrap_err().why.contains("not followed"));
        assert!(judge(&answer(410, None), now).unwrap_err().is_final);
    }

    #[test]
    fn a_receiver_says_how_long_to_wait_in_seconds_or_as_a_date() {
        let now: Timestamp = "2026-11-22T12:00:00Z".parse().unwrap();
        let told = |text: &str| judge(&answer(429, Some(text)), now).unwrap_err().told;
        assert_eq!(told("7"), Some(Duration::from_secs(7)));
        assert_eq!(told("Sun, 22 Nov 2026 12:00:30 GMT"), Some(Duration::from_secs(30)));
        for nothing in ["Sun, 22 Nov 2026 11:00:00 GMT", "soon", "-3", ""] {
            assert_eq!(told(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn the_signature_is_that_of_standard_webhooks() {
        let secret = SecretBytes::new(BASE64.decode(b"MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap());
        let made = signature(&secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, b"{\"test\": 2432232314}");
        assert_eq!(made, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }
}
