//! A feed of threat intelligence: where it is, how often it is asked, what came of it.
//!
//! Must never call a feed fresh that has not answered: without an answer its freshness is unknown.

use jiff::{SignedDuration, Timestamp};
use ringfence_core::{PrincipalId, ResourceName};
use ringfence_keys::Secret;
use ringfence_store::Key;
use ringfence_threat::intel::Trust;
use serde::{Deserialize, Serialize};

use crate::OutwardError;
use crate::destination::{AREA, short};
use crate::reach::Reach;

/// LIMIT: feeds of one owner.
pub const FEEDS_COUNT_MAX: usize = 8;
/// LIMIT: how often a feed is asked, in seconds: once a minute to once a day.
const EVERY_SECONDS_MIN: u32 = 60;
const EVERY_SECONDS_MAX: u32 = 86_400;
/// How often when nothing is said.
const EVERY_SECONDS: u32 = 300;
/// LIMIT: longest id of a collection, in bytes.
const COLLECTION_BYTES_MAX: usize = 128;
/// LIMIT: longest value of an `Authorization` header.
const AUTHORIZATION_BYTES_MAX: usize = 4 << 10;
/// A feed is stale when it has not answered for so many of its own intervals.
const STALE_AFTER_COUNT: i64 = 3;

/// A feed as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Feed {
    /// Its name; that of its indicators' feed too.
    pub name: ResourceName,
    /// The API root of the server.
    pub url: String,
    /// The collection's id or alias.
    pub collection: String,
    /// How often it is asked.
    pub every_seconds: u32,
    /// How far it is believed.
    #[serde(default)]
    pub trust: Trust,
    /// Who wrote it.
    pub made_by: PrincipalId,
    /// When.
    pub made_at: Timestamp,
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeedState {
    /// Objects added until then were taken in.
    pub added_after: Option<Timestamp>,
    /// When it answered in order last.
    pub answered_at: Option<Timestamp>,
    /// When objects came last.
    pub loaded_at: Option<Timestamp>,
    /// Objects that came so far.
    pub objects_count: u64,
    /// How many of them could not be read.
    #[serde(default)]
    pub refused_count: u64,
    /// The first of these on the last page that had any, and why.
    #[serde(default)]
    pub last_refused: Option<String>,
    /// Of the last page with indicators: from its receipt to their being in force, microseconds.
    pub active_after_us: Option<u64>,
    /// Failures in a row.
    pub failures: u32,
    /// What the last of them was.
    pub last_error: Option<String>,
}

/// A feed as its owner sees it.
#[derive(Debug, Clone)]
pub struct FeedView {
    /// It.
    pub feed: Feed,
    /// What came of it.
    pub state: FeedState,
    /// `fresh`, `stale` or `unknown`.
    pub freshness: &'static str,
}

/// What is asked for when one is written.
pub struct WantedFeed {
    /// The API root.
    pub url: String,
    /// The collection's id or alias.
    pub collection: String,
    /// An `Authorization` header.
    pub authorization: Option<Secret<String>>,
    /// How often it is asked; 300 when absent.
    pub every_seconds: Option<u32>,
    /// How far it is believed.
    pub trust: Trust,
}

impl WantedFeed {
    /// The feed, if it can be asked from here.
    pub(crate) fn feed(
        &self,
        name: ResourceName,
        by: PrincipalId,
        now: Timestamp,
        reach: &Reach,
    ) -> Result<Feed, OutwardError> {
        let bad = |what: String| OutwardError::BadFeed { what };
        let url = reach.check(&self.url).map_err(|error| bad(error.to_string()))?;
        if url.query().is_some() || url.fragment().is_some() {
            return Err(bad("`url` is the API root, without a query".to_owned()));
        }
        let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let collection = &self.collection;
        let is_name = !collection.is_empty() && collection.len() <= COLLECTION_BYTES_MAX;
        if !is_name || !collection.chars().all(is_word) || collection.chars().all(|c| c == '.') {
            return Err(bad(format!("`{}` is no id of a collection", short(collection))));
        }
        let every_seconds = self.every_seconds.unwrap_or(EVERY_SECONDS);
        if !(EVERY_SECONDS_MIN..=EVERY_SECONDS_MAX).contains(&every_seconds) {
            return Err(bad(format!("`every_seconds` is {EVERY_SECONDS_MIN} to {EVERY_SECONDS_MAX}")));
        }
        if let Some(value) = &self.authorization {
            let is_text = value.expose().bytes().all(|byte| (0x20..0x7f).contains(&byte));
            if value.expose().is_empty() || value.expose().len() > AUTHORIZATION_BYTES_MAX || !is_text {
                return Err(bad("`authorization` is one line of printable ASCII, at most 4 KiB".to_owned()));
            }
        }
        let (url, collection) = (self.url.trim_end_matches('/').to_owned(), collection.clone());
        Ok(Feed { name, url, collection, every_seconds, trust: self.trust, made_by: by, made_at: now })
    }
}

impl FeedState {
    /// Whether it answers as often as it is asked.
    pub(crate) fn freshness(&self, every_seconds: u32, now: Timestamp) -> &'static str {
        let most = SignedDuration::from_secs(i64::from(every_seconds) * STALE_AFTER_COUNT + 60);
        match self.answered_at {
            None => "unknown",
            Some(at) if now.duration_since(at) <= most => "fresh",
            Some(_) => "stale",
        }
    }
}

pub(crate) fn prefix() -> Key {
    Key::new([AREA, "feed"])
}

pub(crate) fn key(name: &str) -> Key {
    prefix().push(name)
}

pub(crate) fn state_key(name: &str) -> Key {
    Key::new(["outward-feed-state", name])
}

pub(crate) fn authorization_key(name: &str) -> Key {
    Key::new(["outward-feed-authorization", name])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_feed_without_an_answer_is_unknown_and_one_that_fell_silent_is_stale() {
        let now: Timestamp = "2026-11-22T12:00:00Z".parse().unwrap();
        let ago =
            |seconds| FeedState { answered_at: Some(now - SignedDuration::from_secs(seconds)), ..FeedState::default() };
        assert_eq!(FeedState::default().freshness(300, now), "unknown");
        assert_eq!(ago(900).freshness(300, now), "fresh");
        assert_eq!(ago(1_000).freshness(300, now), "stale");
    }
}
