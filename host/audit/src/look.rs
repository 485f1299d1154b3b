//! What an entry shows by itself, without those around it: its hashes, what it says about its place, whether its body is the
//! one that it commits to.
//!
//! Pure, and the same on every thread, so that as many look at a long log as there are cores; this is nearly all of the work
//! of a check. Must never say anything about an entry's place in the log: `verify` goes through what was seen in order.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::iter::Fuse;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use data_encoding::HEXLOWER;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::envelope::{canonical_body, commitment, link};
use crate::tree::{Hash, leaf_hash};
use crate::{Entry, codes};

/// LIMIT: entries of a log that are in memory at once.
const AHEAD_COUNT: usize = 2_048;
/// Entries that a thread takes at a time.
const PART_COUNT: usize = 64;

/// An entry as somebody shows it.
#[derive(Debug, Clone)]
pub enum Shown<'a> {
    /// As a log lists it.
    Entry(Entry),
    /// As a line of an export has it: a JSON object with `envelope`, `body`, `salt` and, when it likes, `seq` and `leaf_hash`.
    /// Cheaper, since a body is hashed as it is written.
    Line(&'a str),
}

impl From<Entry> for Shown<'_> {
    fn from(entry: Entry) -> Self {
        Self::Entry(entry)
    }
}

/// A line of an export. SECURITY: of two members of one name it is no line; others than these are not looked at.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    envelope: Cow<'a, str>,
    #[serde(borrow, default)]
    body: Option<&'a RawValue>,
    #[serde(default)]
    salt: &'a str,
    #[serde(default)]
    leaf_hash: &'a str,
    #[serde(default)]
    seq: Option<u64>,
}

/// What is read of an envelope; everything else is covered by the hashes. None of these is ever written with escapes.
#[derive(Deserialize)]
pub(crate) struct Marks<'a> {
    pub(crate) seq: u64,
    pub(crate) prev: &'a str,
    pub(crate) tenant_uid: &'a str,
    #[serde(default)]
    pub(crate) body_sha256: Option<&'a str>,
    #[serde(default)]
    pub(crate) code: &'a str,
}

impl<'a> Marks<'a> {
    pub(crate) fn read(envelope: &'a str) -> Option<Self> {
        serde_json::from_str(envelope).ok()
    }
}

/// What an entry showed.
pub(crate) struct Seen {
    /// None for a line that is no entry.
    pub(crate) envelope: Option<String>,
    /// None for an envelope that cannot be read.
    pub(crate) says: Option<Says>,
    pub(crate) leaf: Hash,
    /// What its successor must point back to.
    pub(crate) link: Hash,
    /// Whether the leaf hash and the place shown beside it are its own, when they are shown.
    pub(crate) is_itself: bool,
    pub(crate) body: Body,
    /// The body of an entry about the log itself, which has to say certain things; none when nothing proves it.
    pub(crate) about: Option<Value>,
}

/// What an envelope says.
pub(crate) struct Says {
    pub(crate) seq: u64,
    /// None for what is no hash, which nothing has.
    pub(crate) prev: Option<Hash>,
    /// Whether it is of the log's tenant.
    pub(crate) is_ours: bool,
    pub(crate) subject: Subject,
}

/// Whether an entry is about the log itself.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subject {
    KeyChange,
    Deletion,
    Other,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Body {
    /// Not shown.
    Withheld,
    /// Shown, and nothing proves it: without its salt, as after something was taken out, no body can be told from another.
    /// SECURITY: never counts as checked.
    Bare,
    Committed,
    /// Not the one that the envelope commits to.
    Other,
}

/// Entries that stand together, and which of such parts they are.
type Part<'e> = (u64, Vec<Shown<'e>>);

/// What is to be looked at and what was seen, shared by the threads of one check.
#[derive(Default)]
struct Queue<'e> {
    parts: Mutex<Parts<'e>>,
    /// There is something to look at, or nothing any more.
    asked: Condvar,
    /// Something was seen, or a thread fell.
    answered: Condvar,
}

#[derive(Default)]
struct Parts<'e> {
    waiting: VecDeque<Part<'e>>,
    seen: BTreeMap<u64, Vec<Seen>>,
    /// Nobody asks any more, or a thread fell and what it had is never seen.
    is_over: bool,
}

/// Ends a queue, however whoever holds this comes to an end.
struct Over<'a, 'e>(&'a Queue<'e>);

/// The entries of a log as they are seen, in their order: looked at by other threads while what is before them is gone
/// through, and by the one that asks when none of it is ready.
struct Looking<'a, 'e, I> {
    entries: Fuse<I>,
    tenant: &'a str,
    queue: &'a Queue<'e>,
    /// Starts one more thread.
    start: &'a dyn Fn(),
    /// Threads, the one that asks among them, and those that there may be.
    threads_count: usize,
    threads_count_max: usize,
    /// Parts that were put into the queue and that were taken out.
    asked_count: u64,
    taken_count: u64,
    seen: std::vec::IntoIter<Seen>,
}

/// Shows `walk` what entries show, in their order; at most `threads_count_max` threads look at them, this one among them.
/// None is started for a few entries.
pub(crate) fn in_order<'e, I: Iterator<Item = Shown<'e>>, T>(
    tenant: &str,
    threads_count_max: usize,
    entries: I,
    walk: impl FnOnce(&mut dyn Iterator<Item = Seen>) -> T,
) -> T {
    let queue = &Queue::default();
    thread::scope(|scope| {
        let _over = Over(queue);
        let start = || {
            let helper = thread::Builder::new().name("audit-verify".to_owned());
            // One that cannot be started is one fewer.
            let _ = helper.spawn_scoped(scope, move || queue.help(tenant));
        };
        let mut looking = Looking {
            entries: entries.fuse(),
            tenant,
            queue,
            start: &start,
            threads_count: 1,
            threads_count_max,
            asked_count: 0,
            taken_count: 0,
            seen: Vec::new().into_iter(),
        };
        walk(&mut looking)
    })
}

// === impl Queue ===

impl<'e> Queue<'e> {
    /// Looks at what waits until it is over.
    fn help(&self, tenant: &str) {
        let _over = Over(self);
        loop {
            let idle = |parts: &mut Parts<'e>| parts.waiting.is_empty() && !parts.is_over;
            let mut parts = self.asked.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner);
            let part = if parts.is_over { None } else { parts.waiting.pop_front() };
            drop(parts);
            let Some((place, shown)) = part else { return };
            let seen = look_at_all(shown, tenant);
            self.lock().seen.insert(place, seen);
            self.answered.notify_one();
        }
    }

    fn ask(&self, part: Part<'e>) {
        self.lock().waiting.push_back(part);
        self.asked.notify_one();
    }

    /// What part `place` showed, which was asked for. None only when a thread fell.
    fn take(&self, place: u64, tenant: &str) -> Option<Vec<Seen>> {
        loop {
            let mut parts = self.lock();
            if let Some(seen) = parts.seen.remove(&place) {
                return Some(seen);
            }
            if let Some((other, shown)) = parts.waiting.pop_front() {
                drop(parts);
                let seen = look_at_all(shown, tenant);
                if other == place {
                    return Some(seen);
                }
                self.lock().seen.insert(other, seen);
                continue;
            }
            let missing = |parts: &mut Parts<'e>| !parts.seen.contains_key(&place) && !parts.is_over;
            let mut parts = self.answered.wait_while(parts, missing).unwrap_or_else(PoisonError::into_inner);
            return parts.seen.remove(&place);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Parts<'e>> {
        // Whole between any two statements that hold it.
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Over<'_, '_> {
    fn drop(&mut self) {
        self.0.lock().is_over = true;
        self.0.asked.notify_all();
        self.0.answered.notify_all();
    }
}

// === impl Looking ===

impl<'e, I: Iterator<Item = Shown<'e>>> Looking<'_, 'e, I> {
    /// Puts as much into the queue as may be in memory; of one thread, what it looks at next.
    fn fill(&mut self) {
        let ahead_count = if self.threads_count_max > 1 { AHEAD_COUNT / PART_COUNT } else { 1 };
        while self.asked_count - self.taken_count < ahead_count as u64 {
            let shown: Vec<_> = self.entries.by_ref().take(PART_COUNT).collect();
            if shown.is_empty() {
                return;
            }
            self.queue.ask((self.asked_count, shown));
            self.asked_count += 1;
            if self.asked_count > self.threads_count as u64 && self.threads_count < self.threads_count_max {
                self.threads_count += 1;
                (self.start)();
            }
        }
    }
}

impl<'e, I: Iterator<Item = Shown<'e>>> Iterator for Looking<'_, 'e, I> {
    type Item = Seen;

    fn next(&mut self) -> Option<Seen> {
        if self.seen.len() == 0 {
            self.fill();
            if self.taken_count == self.asked_count {
                return None;
            }
            // INVARIANT: every part is seen; were one not, the check would end there, and name what is missing.
            self.seen = self.queue.take(self.taken_count, self.tenant)?.into_iter();
            self.taken_count += 1;
        }
        self.seen.next()
    }
}

fn look_at_all(shown: Vec<Shown<'_>>, tenant: &str) -> Vec<Seen> {
    shown.into_iter().map(|shown| look(shown, tenant)).collect()
}

pub(crate) fn look(shown: Shown<'_>, tenant: &str) -> Seen {
    match shown {
        Shown::Entry(Entry { envelope, leaf_hash, body, salt }) => {
            look_at(envelope, &leaf_hash, body.map(Cited::Read), &salt, tenant)
        }
        Shown::Line(line) => match serde_json::from_str::<Line<'_>>(line) {
            Ok(Line { envelope, body, salt, leaf_hash, seq }) => {
                let body = body.map(|body| Cited::Text(body.get()));
                let mut seen = look_at(envelope.into_owned(), leaf_hash, body, salt, tenant);
                let own = seen.says.as_ref().map(|says| says.seq);
                seen.is_itself &= seq.is_none() || own.is_none() || seq == own;
                seen
            }
            Err(_) => Seen {
                envelope: None,
                says: None,
                leaf: Hash::default(),
                link: Hash::default(),
                is_itself: false,
                body: Body::Other,
                about: None,
            },
        },
    }
}

/// A body as it is at hand.
enum Cited<'a> {
    Read(Value),
    Text(&'a str),
}

fn look_at(envelope: String, leaf_text: &str, body: Option<Cited<'_>>, salt: &str, tenant: &str) -> Seen {
    let leaf = leaf_hash(envelope.as_bytes());
    let is_itself = leaf_text.is_empty() || hash(leaf_text) == Some(leaf);
    let (mut says, mut seen_body, mut about) = (None, Body::Withheld, None);
    if let Some(marks) = Marks::read(&envelope) {
        let subject = match marks.code {
            codes::AUDIT_KEY_CHANGED => Subject::KeyChange,
            codes::SHARD_DELETING => Subject::Deletion,
            _ => Subject::Other,
        };
        seen_body = match (&body, marks.body_sha256) {
            (None, _) => Body::Withheld,
            (Some(body), Some(committed)) if !salt.is_empty() => {
                if is_committed(body, salt, committed) {
                    Body::Committed
                } else {
                    Body::Other
                }
            }
            (Some(_), _) => Body::Bare,
        };
        let (is_ours, prev) = (marks.tenant_uid == tenant, hash(marks.prev));
        says = Some(Says { seq: marks.seq, prev, is_ours, subject });
        if subject != Subject::Other && seen_body == Body::Committed {
            about = body.and_then(Cited::read);
        }
    }
    Seen { link: link(&envelope), envelope: Some(envelope), says, leaf, is_itself, body: seen_body, about }
}

/// Whether a body is the one that `committed` commits to. The commitment is over the canonical form, in which most are written:
/// no other text than the committed one has its hash, so that only for one that has not the form is made.
fn is_committed(body: &Cited<'_>, salt: &str, committed: &str) -> bool {
    let (Ok(salt), Some(committed)) = (HEXLOWER.decode(salt.as_bytes()), hash(committed)) else { return false };
    let fits = |text: &str| commitment(&salt, text) == committed;
    match body {
        Cited::Text(text) if text.starts_with('{') && fits(text) => true,
        Cited::Text(text) => strict(text).and_then(|body| canonical_body(&body).ok()).is_some_and(|text| fits(&text)),
        Cited::Read(body) => canonical_body(body).is_ok_and(|text| fits(&text)),
    }
}

impl Cited<'_> {
    fn read(self) -> Option<Value> {
        match self {
            Self::Read(body) => Some(body),
            Self::Text(text) => strict(text),
        }
    }
}

/// Reads a text as what it shows to whoever reads it: none when an object has two members of one name, of which readers show
/// one or the other. (The library's own [`Value`] takes the last, and reads the text inside a member of a name of its own.)
fn strict(text: &str) -> Option<Value> {
    serde_json::from_str::<Strict>(text).ok().map(|Strict(value)| value)
}

struct Strict(Value);

struct StrictVisitor;

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Self)
    }
}

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON without repeated names")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Value, A::Error> {
        let mut all = Vec::new();
        while let Some(Strict(part)) = parts.next_element()? {
            all.push(part);
        }
        Ok(Value::Array(all))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut all = serde_json::Map::new();
        while let Some((name, Strict(value))) = members.next_entry::<String, Strict>()? {
            if all.insert(name, value).is_some() {
                return Err(serde::de::Error::custom("a name comes twice"));
            }
        }
        Ok(Value::Object(all))
    }
}

fn hash(text: &str) -> Option<Hash> {
    let mut hash = Hash::default();
    let whole = HEXLOWER.decode_len(text.len()) == Ok(hash.len());
    (whole && HEXLOWER.decode_mut(text.as_bytes(), &mut hash).is_ok()).then_some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::hex;
    use serde_json::json;

    fn seen(line: &str) -> Seen {
        look(Shown::Line(line), "acme")
    }

    fn line(body: &str, committed: &str) -> String {
        let envelope = json!({
            "seq": 7, "prev": hex(&[9; 32]), "tenant_uid": "acme", "body_sha256": committed, "code": codes::AUDIT_KEY_CHANGED,
        });
        format!("{{\"seq\":7,\"envelope\":{},\"body\":{body},\"salt\":\"ab\"}}", json!(envelope.to_string()))
    }

    #[test]
    fn a_body_is_the_committed_one_in_whatever_form_it_is_written() {
        let committed = hex(&commitment(&[0xab], r#"{"a":1,"b":[true]}"#));
        for written in [r#"{"a":1,"b":[true]}"#, r#"{ "b" : [true], "a":1.0 }"#, r#"{"b":[true],"\u0061":1}"#] {
            let seen = seen(&line(written, &committed));
            assert!(seen.body == Body::Committed, "{written}");
            assert_eq!(seen.about.unwrap()["a"].as_f64(), Some(1.0));
            let says = seen.says.unwrap();
            assert_eq!((says.seq, says.prev, says.is_ours), (7, Some([9; 32]), true));
        }
        for shown_twice in [
            r#"{"a":2,"b":[true],"a":1}"#,
            r#"{"b":[true],"a":{"$serde_json::private::RawValue":"1"}}"#,
            r#"{"a":1,"b":{"$serde_json::private::RawValue":"[true]"}}"#,
        ] {
            assert!(seen(&line(shown_twice, &committed)).body == Body::Other, "{shown_twice}");
        }
        let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(strict(&deep).is_none(), "and no depth ends the process");
        for other in [r#"{"a":2,"b":[true]}"#, r#"{"a":1,"b":[true],"c":0}"#, r#"{"a":1}"#, "[]", "7"] {
            assert!(seen(&line(other, &committed)).body == Body::Other, "{other}");
        }
        assert!(seen(&line("null", &committed)).body == Body::Withheld);
        assert!(seen(&line(r#"{"a":1,"b":[true]}"#, &committed.to_uppercase())).body == Body::Other);
    }

    #[test]
    fn a_body_that_nothing_proves_is_no_committed_one_and_says_nothing_of_the_log() {
        let body = r#"{"a":1}"#;
        let whole = line(body, &hex(&commitment(&[0xab], body)));
        let without = [whole.replace(r#""salt":"ab""#, r#""salt":"""#), whole.replace(r#","salt":"ab""#, "")];
        let of_no_salt = line(body, &hex(&commitment(&[], body))).replace(r#""salt":"ab""#, r#""salt":"""#);
        let uncommitted = whole.replace("body_sha256", "body_sha255");
        for bare in without.into_iter().chain([of_no_salt, uncommitted]) {
            let seen = seen(&bare);
            assert!(seen.body == Body::Bare && seen.about.is_none(), "{bare}");
        }
        assert!(seen(&whole.replace(r#""salt":"ab""#, r#""salt":"zz""#)).body == Body::Other);
    }

    #[test]
    fn an_entry_shown_at_another_place_or_beside_another_leaf_is_not_itself() {
        let whole = line("null", &hex(&[1; 32]));
        assert!(seen(&whole).is_itself);
        assert!(seen(&whole.replace(r#"{"seq":7,"#, "{")).is_itself, "neither need be shown");
        for other in [r#"{"seq":8,"#, r#"{"leaf_hash":"ab","#] {
            assert!(!seen(&whole.replace(r#"{"seq":7,"#, other)).is_itself, "{other}");
        }
        assert!(seen(&whole.replace(r#"{"seq":7,"#, r#"{"seq":7,"seq":8,"#)).envelope.is_none());
    }

    #[test]
    fn what_is_no_entry_says_nothing() {
        for line in ["", "{}", "[]", r#"{"envelope":7}"#, r#"{"envelope":"{}","envelope":"{}"}"#] {
            assert!(seen(line).envelope.is_none(), "{line}");
        }
        assert!(seen(r#"{"envelope":"{}"}"#).says.is_none());
    }

    #[test]
    fn who_stops_early_leaves_no_thread_waiting() {
        let shown = std::iter::repeat_with(|| Shown::Line("{}"));
        let seen = in_order("acme", 3, shown, |seen| seen.nth(AHEAD_COUNT).map(|seen| seen.envelope));
        assert_eq!(seen, Some(None));
    }

    #[test]
    fn however_many_look_the_order_is_the_same() {
        let lines: Vec<String> = (0..AHEAD_COUNT * 2 + 7)
            .map(|seq| {
                let envelope = json!({ "seq": seq, "prev": "", "tenant_uid": "acme" }).to_string();
                json!({ "envelope": envelope }).to_string()
            })
            .collect();
        for threads_count in [1, 2, 5] {
            let shown = lines.iter().map(|line| Shown::Line(line));
            let seqs: Vec<u64> =
                in_order("acme", threads_count, shown, |seen| seen.map(|seen| seen.says.unwrap().seq).collect());
            assert!(seqs.into_iter().eq(0..lines.len() as u64));
        }
    }
}
