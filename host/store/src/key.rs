//! Names of records: paths of segments, sealed segment by segment.
//!
//! Stored form: 1 byte 0x01, the tenant's uid (16 bytes), then for a name segment 0x01, its sealed length (2 bytes
//! big-endian) and AES-SIV of the name with everything before it as associated data; for a number segment 0x02 and 8 bytes
//! big-endian, in clear, so that numbers keep their order on disk. Every segment says where it ends, so a stored path that
//! starts with another is always below it.
//!
//! Must never let two paths share a stored form, nor a name reach the disk in clear.

use std::collections::HashMap;
use std::fmt;
use std::sync::{PoisonError, RwLock};

use ringfence_keys::{NameSealer, TenantKeys};

use crate::error::StoreError;

/// LIMIT: most bytes of a name segment.
pub const KEY_NAME_BYTES_MAX: usize = 2_048;
/// LIMIT: most segments of a key.
pub const KEY_SEGMENTS_COUNT_MAX: usize = 16;

/// First byte of every tenant's record on disk.
pub(crate) const AREA_RECORDS: u8 = 1;
/// First byte of the index of value files on disk.
pub(crate) const AREA_FILES: u8 = 2;
/// First byte of the counts of bytes held, one a tenant.
pub(crate) const AREA_HELD: u8 = 3;
/// First byte of the tallies of records, one a tenant.
pub(crate) const AREA_TALLY: u8 = 4;
/// First segments of the names whose records count as what a tenant keeps: what its guests and its people put there.
pub(crate) const COUNTED: [&str; 11] = [
    "kv",
    "config",
    "secret",
    "blob",
    "file",
    "subject",
    "subject-token",
    "subject-token-of",
    "queue-message",
    "queue-dead",
    "run",
];
/// Length of a tenant's uid.
pub(crate) const UID_BYTES: usize = 16;

const NAME: u8 = 1;
const NUMBER: u8 = 2;

/// A tenant's unique id, which names its area on disk and says nothing about its name.
pub(crate) type Uid = [u8; UID_BYTES];

/// One segment of a key.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Segment {
    /// A name, sealed on disk. Names below one parent have a stable but arbitrary order.
    Name(String),
    /// A number, in clear on disk and in numeric order.
    Number(u64),
}

/// The name of a record: a path of segments, such as `Key::new(["kv", plugin, bucket, key])`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Key(Vec<Segment>);

/// LIMIT: beginnings of keys that are remembered for one tenant; when there are more all are forgotten, and sealed again.
const BEGINNINGS_COUNT_MAX: usize = 32;
/// LIMIT: longest beginning that is remembered, sealed.
const BEGINNING_BYTES_MAX: usize = 256;

/// What keys of one tenant begin with, all but the last segment, with its stored form: most keys are one of many in a bucket,
/// and to seal the names above it costs more than the rest of a read. A stored form never changes (names stay under the
/// first version of a tenant's keys). In memory only.
#[derive(Default)]
pub(crate) struct Beginnings(RwLock<HashMap<Vec<Segment>, Box<[u8]>>>);

// === impl Beginnings ===

impl Beginnings {
    fn get(&self, beginning: &[Segment]) -> Option<Vec<u8>> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.get(beginning).map(|sealed| sealed.to_vec())
    }

    fn forget(&self) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn keep(&self, beginning: &[Segment], sealed: &[u8]) {
        if sealed.len() > BEGINNING_BYTES_MAX {
            return;
        }
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= BEGINNINGS_COUNT_MAX {
            known.clear();
        }
        known.insert(beginning.to_vec(), sealed.into());
    }
}

// === impl Segment ===

impl From<&str> for Segment {
    fn from(name: &str) -> Self {
        Self::Name(name.to_owned())
    }
}
impl From<String> for Segment {
    fn from(name: String) -> Self {
        Self::Name(name)
    }
}
impl From<&String> for Segment {
    fn from(name: &String) -> Self {
        Self::Name(name.clone())
    }
}
impl From<u64> for Segment {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

/// SECURITY: names are tenant data; Debug shows the shape only.
impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(f, "<name of {} bytes>", name.len()),
            Self::Number(number) => write!(f, "{number}"),
        }
    }
}

// === impl Key ===

impl Key {
    /// A key of these segments. An empty one is the root: not a record's name, but a prefix of all.
    pub fn new<I>(segments: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<Segment>,
    {
        Self(segments.into_iter().map(Into::into).collect())
    }
    /// This key with one more segment.
    #[must_use]
    pub fn push(mut self, segment: impl Into<Segment>) -> Self {
        self.0.push(segment.into());
        self
    }
    /// This key with one more number.
    #[must_use]
    pub fn number(self, number: u64) -> Self {
        self.push(number)
    }
    /// Whether the record counts as bytes that the tenant holds.
    pub(crate) fn is_counted(&self) -> bool {
        matches!(self.0.first(), Some(Segment::Name(first)) if COUNTED.contains(&first.as_str()))
    }
    /// Its segments.
    pub fn segments(&self) -> &[Segment] {
        &self.0
    }
    /// The last segment, when it is a name.
    pub fn last_name(&self) -> Option<&str> {
        match self.0.last() {
            Some(Segment::Name(name)) => Some(name),
            _ => None,
        }
    }
    /// The last segment, when it is a number.
    pub fn last_number(&self) -> Option<u64> {
        match self.0.last() {
            Some(Segment::Number(number)) => Some(*number),
            _ => None,
        }
    }
    /// The stored form.
    pub(crate) fn seal(&self, keys: &TenantKeys, uid: &Uid) -> Result<Vec<u8>, StoreError> {
        self.check_count()?;
        seal_onto(area(AREA_RECORDS, uid), &self.0, &mut keys.names()?)
    }
    /// The stored form, with what was sealed before it.
    pub(crate) fn seal_with(
        &self,
        keys: &TenantKeys,
        uid: &Uid,
        beginnings: &Beginnings,
    ) -> Result<Vec<u8>, StoreError> {
        self.check_count()?;
        // Before anything is looked up: keys that are closed seal no name, known or not, and what is known is forgotten.
        let mut names = keys.names().inspect_err(|_| beginnings.forget())?;
        let Some((last, beginning)) = self.0.split_last().filter(|(_, beginning)| !beginning.is_empty()) else {
            return seal_onto(area(AREA_RECORDS, uid), &self.0, &mut names);
        };
        let sealed = match beginnings.get(beginning) {
            Some(sealed) => sealed,
            None => {
                let sealed = seal_onto(area(AREA_RECORDS, uid), beginning, &mut names)?;
                beginnings.keep(beginning, &sealed);
                sealed
            }
        };
        seal_onto(sealed, std::slice::from_ref(last), &mut names)
    }
    fn check_count(&self) -> Result<(), StoreError> {
        let (what, max) = ("the number of segments of a key", KEY_SEGMENTS_COUNT_MAX as u64);
        if self.0.len() > KEY_SEGMENTS_COUNT_MAX { Err(StoreError::TooLarge { what, max }) } else { Ok(()) }
    }

    /// Reads a stored form below a prefix that is known in both forms.
    pub(crate) fn open_below(
        keys: &TenantKeys,
        prefix: &Self,
        stored_prefix: &[u8],
        stored: &[u8],
    ) -> Result<Self, StoreError> {
        let mut key = prefix.clone();
        key.open_onto(keys, stored, stored.strip_prefix(stored_prefix).ok_or(StoreError::Damaged)?)?;
        Ok(key)
    }

    /// As much of the name of a tenant's record as opens, from its beginning, and whether that is all of it.
    pub(crate) fn open_beginning(keys: &TenantKeys, uid: &Uid, stored: &[u8]) -> Result<(Self, bool), StoreError> {
        let mut key = Self::default();
        let rest = stored.strip_prefix(area(AREA_RECORDS, uid).as_slice()).ok_or(StoreError::Damaged)?;
        match key.open_onto(keys, stored, rest) {
            Err(StoreError::Damaged) => Ok((key, false)),
            opened => opened.map(|()| (key, true)),
        }
    }

    /// Reads the last bytes of a stored form, segment by segment.
    fn open_onto(&mut self, keys: &TenantKeys, stored: &[u8], mut rest: &[u8]) -> Result<(), StoreError> {
        while let Some((kind, after)) = rest.split_first() {
            let parent = stored.get(..stored.len() - rest.len()).ok_or(StoreError::Damaged)?;
            match *kind {
                NAME => {
                    let (length, after) = after.split_first_chunk().ok_or(StoreError::Damaged)?;
                    let (sealed, after) =
                        after.split_at_checked(u16::from_be_bytes(*length).into()).ok_or(StoreError::Damaged)?;
                    let name = keys.open_name(parent, sealed).map_err(StoreError::opening)?;
                    self.0.push(Segment::Name(String::from_utf8(name).map_err(|_| StoreError::Damaged)?));
                    rest = after;
                }
                NUMBER => {
                    let (number, after) = after.split_first_chunk().ok_or(StoreError::Damaged)?;
                    self.0.push(Segment::Number(u64::from_be_bytes(*number)));
                    rest = after;
                }
                _ => return Err(StoreError::Damaged),
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.0).finish()
    }
}

/// The stored form of `segments` below what is in `out` already.
fn seal_onto(mut out: Vec<u8>, segments: &[Segment], names: &mut NameSealer) -> Result<Vec<u8>, StoreError> {
    for segment in segments {
        match segment {
            Segment::Name(name) if name.len() > KEY_NAME_BYTES_MAX => {
                return Err(StoreError::TooLarge { what: "a name", max: KEY_NAME_BYTES_MAX as u64 });
            }
            Segment::Name(name) => {
                let sealed = names.seal(&out, name.as_bytes())?;
                out.push(NAME);
                // The check above keeps the sealed length far below 2^16.
                out.extend_from_slice(&u16::try_from(sealed.len()).unwrap_or(u16::MAX).to_be_bytes());
                out.extend_from_slice(&sealed);
            }
            Segment::Number(number) => {
                out.push(NUMBER);
                out.extend_from_slice(&number.to_be_bytes());
            }
        }
    }
    Ok(out)
}

/// The stored form of everything of one kind that a tenant has.
pub(crate) fn area(kind: u8, uid: &Uid) -> Vec<u8> {
    let mut out = Vec::with_capacity(96);
    out.push(kind);
    out.extend_from_slice(uid);
    out
}

/// Where the index says that a value file is referred to.
pub(crate) fn index_key(uid: &Uid, id: &[u8; 16]) -> Vec<u8> {
    let mut key = area(AREA_FILES, uid);
    key.extend_from_slice(id);
    key
}

/// The first stored form after all that start with `prefix`; none when there is no such.
pub(crate) fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut out = prefix.to_vec();
    while let Some(last) = out.pop() {
        if let Some(next) = last.checked_add(1) {
            out.push(next);
            return Some(out);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tenant_store::tests::test_keys;
    use proptest::prelude::*;

    fn segment() -> impl Strategy<Value = Segment> {
        prop_oneof![
            "[ab]{0,3}".prop_map(Segment::Name),
            (0_u64..4).prop_map(Segment::Number),
            any::<u64>().prop_map(Segment::Number)
        ]
    }
    fn key() -> impl Strategy<Value = Key> {
        prop::collection::vec(segment(), 0..5).prop_map(Key)
    }

    #[test]
    fn debug_shows_the_shape_and_no_name() {
        assert_eq!(format!("{:?}", Key::new(["kv", "canary"]).number(7)), "[<name of 2 bytes>, <name of 6 bytes>, 7]");
    }

    #[test]
    fn limits_are_refused_with_their_number() {
        let keys = test_keys(1);
        assert!(Key::new(["x".repeat(KEY_NAME_BYTES_MAX)]).seal(&keys, &[0; 16]).is_ok());
        let error = Key::new(["x".repeat(KEY_NAME_BYTES_MAX + 1)]).seal(&keys, &[0; 16]).unwrap_err();
        assert_eq!(error.to_string(), "a name is over its limit of 2048");
        assert!(Key::new(vec!["x"; KEY_SEGMENTS_COUNT_MAX + 1]).seal(&keys, &[0; 16]).is_err());
    }

    #[test]
    fn the_successor_follows_all_that_start_with_the_prefix() {
        assert_eq!(successor(&[1, 2]), Some(vec![1, 3]));
        assert_eq!(successor(&[1, 255]), Some(vec![2]));
        assert_eq!(successor(&[255, 255]), None);
    }

    #[test]
    fn closed_keys_seal_no_name_however_well_it_is_known() {
        let (keys, beginnings) = (test_keys(1), Beginnings::default());
        let key = Key::new(["kv", "plugin", "default", "a"]);
        assert!(key.seal_with(&keys, &[7; 16], &beginnings).is_ok());
        keys.close(ringfence_keys::Closed::Destroyed);
        assert!(key.seal_with(&keys, &[7; 16], &beginnings).is_err());
        assert!(beginnings.0.read().unwrap().is_empty());
    }

    #[test]
    fn so_many_beginnings_are_remembered_and_no_long_ones() {
        let (keys, beginnings) = (test_keys(1), Beginnings::default());
        for number in 0..3 * BEGINNINGS_COUNT_MAX as u64 {
            Key::new(["run"]).number(number).push("a").seal_with(&keys, &[7; 16], &beginnings).unwrap();
            assert!(beginnings.0.read().unwrap().len() <= BEGINNINGS_COUNT_MAX);
        }
        let (count, long) = (beginnings.0.read().unwrap().len(), "x".repeat(BEGINNING_BYTES_MAX));
        Key::new([long.as_str(), "a"]).seal_with(&keys, &[7; 16], &beginnings).unwrap();
        assert_eq!(beginnings.0.read().unwrap().len(), count);
    }

    proptest! {
        #[test]
        fn what_is_remembered_changes_no_stored_form(all in prop::collection::vec(key(), 1..40)) {
            let (keys, uid, beginnings) = (test_keys(1), [7; 16], Beginnings::default());
            for key in all {
                let stored = key.seal_with(&keys, &uid, &beginnings).unwrap();
                prop_assert_eq!(stored, key.seal(&keys, &uid).unwrap());
            }
        }
        #[test]
        fn a_key_survives_its_stored_form(prefix in key(), below in key()) {
            let (keys, uid) = (test_keys(1), [7; 16]);
            let whole = Key(prefix.0.iter().chain(&below.0).cloned().collect());
            let (stored_prefix, stored) = (prefix.seal(&keys, &uid).unwrap(), whole.seal(&keys, &uid).unwrap());
            prop_assert!(stored.starts_with(&stored_prefix));
            prop_assert_eq!(Key::open_below(&keys, &prefix, &stored_prefix, &stored).unwrap(), whole);
        }
        #[test]
        fn only_what_is_below_starts_with_a_stored_prefix(a in key(), b in key()) {
            let (keys, uid) = (test_keys(1), [7; 16]);
            let (stored_a, stored_b) = (a.seal(&keys, &uid).unwrap(), b.seal(&keys, &uid).unwrap());
            prop_assert_eq!(b.0.starts_with(&a.0), stored_b.starts_with(&stored_a));
        }
        #[test]
        fn numbers_keep_their_order(a in any::<u64>(), b in any::<u64>()) {
            let (keys, uid) = (test_keys(1), [7; 16]);
            let seal = |n| Key::new(["log"]).number(n).seal(&keys, &uid).unwrap();
            prop_assert_eq!(a.cmp(&b), seal(a).cmp(&seal(b)));
        }
        #[test]
        fn garbage_is_refused_without_a_panic(garbage in prop::collection::vec(any::<u8>(), 0..80)) {
            let keys = test_keys(1);
            let stored = [area(AREA_RECORDS, &[7; 16]), garbage].concat();
            let _ = Key::open_below(&keys, &Key::default(), &area(AREA_RECORDS, &[7; 16]), &stored);
        }
    }
}
