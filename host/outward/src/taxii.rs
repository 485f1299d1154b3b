//! A TAXII 2.1 collection, asked for what was added (OASIS TAXII 2.1, sections 3.4, 3.5 and 5.4).
//!
//! Must never believe a server more than its bytes: pages, bytes and time are bounded, a page that points to where one was
//! already is an error, and so is anything that is not TAXII: what broke must not look like a page with nothing on it. One page
//! is held at a time.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use jiff::Timestamp;
use ringfence_keys::Secret;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use url::Url;

use crate::feed::Feed;
use crate::reach::{Answer, Ask, Reach};

/// The media type, as it is asked for and as it must come.
const MEDIA_TYPE: &str = "application/taxii+json";
/// LIMIT: objects asked for at once, which a server may undercut and does not exceed by much.
const OBJECTS_ASKED: &str = "1000";
/// LIMIT: bytes of one page.
const PAGE_BYTES_MAX: usize = 4 << 20;
/// LIMIT: pages of one poll; the rest comes with the next.
const PAGES_COUNT_MAX: usize = 64;
/// LIMIT: bytes of all pages of one poll.
const POLL_BYTES_MAX: usize = 32 << 20;
/// LIMIT: longest `next`, in bytes.
const NEXT_BYTES_MAX: usize = 1_024;

/// One page.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Page {
    pub objects: Vec<Value>,
    /// When the last of its objects was added; where the next poll begins.
    pub added_last: Option<Timestamp>,
}

/// Where a poll is.
pub(crate) struct Poll<'a> {
    reach: &'a Reach,
    feed: &'a Feed,
    authorization: Option<&'a Secret<String>>,
    added_after: Option<Timestamp>,
    wait: Duration,
    next: Option<String>,
    seen: HashSet<String>,
    pages_count: usize,
    bytes: usize,
    is_over: bool,
}

/// The envelope resource.
#[derive(Deserialize)]
struct Envelope {
    #[serde(default)]
    more: bool,
    next: Option<String>,
    /// None on a page with nothing on it.
    #[serde(default, deserialize_with = "objects")]
    objects: Option<Vec<Value>>,
    /// What TAXII knows nothing of.
    #[serde(flatten)]
    others: Map<String, Value>,
}

/// The objects, when they are named at all: `null` is no list.
fn objects<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<Value>>, D::Error> {
    Vec::deserialize(from).map(Some)
}

impl Envelope {
    /// What is on the page. One that names no objects is a page with nothing on it if it has nothing else to say either, but for what
    /// a server may add: an error page in JSON is none.
    fn objects(objects: Option<Vec<Value>>, others: &Map<String, Value>) -> Result<Vec<Value>, String> {
        match objects {
            Some(objects) => Ok(objects),
            None if others.keys().all(|name| name.starts_with("x_")) => Ok(Vec::new()),
            None => Err("what the server answers is no TAXII envelope: it has no `objects`".to_owned()),
        }
    }
}

impl<'a> Poll<'a> {
    pub(crate) fn new(
        reach: &'a Reach,
        feed: &'a Feed,
        authorization: Option<&'a Secret<String>>,
        added_after: Option<Timestamp>,
        wait: Duration,
    ) -> Self {
        let seen = HashSet::new();
        Self {
            reach,
            feed,
            authorization,
            added_after,
            wait,
            next: None,
            seen,
            pages_count: 0,
            bytes: 0,
            is_over: false,
        }
    }

    /// The next page; none at the end, or when a poll has had enough.
    pub(crate) async fn page(&mut self, now: Timestamp) -> Result<Option<Page>, String> {
        if self.is_over || self.pages_count >= PAGES_COUNT_MAX || self.bytes >= POLL_BYTES_MAX {
            return Ok(None);
        }
        let answer = self.reach.send(self.ask()?).await.map_err(|error| error.to_string())?;
        self.pages_count += 1;
        self.bytes = self.bytes.saturating_add(answer.body.len());
        self.take(&answer, now).map(Some)
    }

    fn ask(&self) -> Result<Ask, String> {
        let Feed { url, collection, .. } = self.feed;
        let mut url: Url = format!("{url}/collections/{collection}/objects/")
            .parse()
            .map_err(|_| "the feed's address cannot be asked".to_owned())?;
        {
            let mut query = url.query_pairs_mut();
            query
                .append_pair("limit", OBJECTS_ASKED)
                .append_pair("match[type]", "indicator,identity,marking-definition");
            if let Some(after) = self.added_after {
                query.append_pair("added_after", &after.to_string());
            }
            if let Some(next) = &self.next {
                query.append_pair("next", next);
            }
        }
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/taxii+json;version=2.1"));
        if let Some(Ok(mut value)) = self.authorization.map(|value| HeaderValue::from_str(value.expose())) {
            value.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, value);
        }
        let answer_bytes_max = PAGE_BYTES_MAX.min(POLL_BYTES_MAX.saturating_sub(self.bytes));
        Ok(Ask { method: Method::GET, url, headers, body: Bytes::new(), answer_bytes_max, wait: self.wait })
    }

    /// Reads a page and decides where to go on.
    fn take(&mut self, answer: &Answer, now: Timestamp) -> Result<Page, String> {
        if answer.status != StatusCode::OK {
            return Err(format!("the server answers {}", answer.status.as_u16()));
        }
        let kind = answer.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(MEDIA_TYPE) {
            return Err(format!("the server does not answer with `{MEDIA_TYPE}`"));
        }
        ringfence_threat::intel::shape::check(&answer.body)
            .map_err(|why| format!("the server's answer is refused: {why}"))?;
        let envelope: Envelope = serde_json::from_slice(&answer.body)
            .map_err(|_| "what the server answers is no TAXII envelope".to_owned())?;
        let added_last = added(&answer.headers, "x-taxii-date-added-last")?;
        // A server whose clock is ahead must not make us miss what it adds until then.
        let added_last = added_last.map(|at| at.min(now));
        let objects = Envelope::objects(envelope.objects, &envelope.others)?;
        self.is_over = !envelope.more;
        if envelope.more {
            if objects.is_empty() {
                return Err("the server says that there is more, and sends nothing".to_owned());
            }
            self.go_on(envelope.next, added_last)?;
        }
        Ok(Page { objects, added_last })
    }

    fn go_on(&mut self, next: Option<String>, added_last: Option<Timestamp>) -> Result<(), String> {
        let place = match (&next, added_last) {
            (Some(next), _) if next.len() > NEXT_BYTES_MAX => return Err("the server's `next` is too long".to_owned()),
            (Some(next), _) => format!("next {next}"),
            (None, Some(at)) => format!("after {at}"),
            (None, None) => return Err("the server says that there is more, and not where".to_owned()),
        };
        if !self.seen.insert(place) {
            return Err("the server leads back to where it was".to_owned());
        }
        if next.is_none() {
            self.added_after = added_last;
        }
        self.next = next;
        Ok(())
    }
}

fn added(headers: &HeaderMap, name: &'static str) -> Result<Option<Timestamp>, String> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let time = value.to_str().ok().and_then(|text| text.parse().ok());
    time.map(Some).ok_or_else(|| format!("the server's `{name}` is no time"))
}
