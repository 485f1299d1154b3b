//! Finding what looks like personal data in a stream of bytes, and the same wherever the stream is cut into pieces.
//!
//! Must never keep more than one candidate of each sort, nor work longer on a byte than a bound. Each sort is an automaton that
//! sees every byte once; only what it took for a candidate has its check digit worked out. A hit is a place and a kind, never the
//! value. What is encoded or encrypted it does not see, but for the escapes of forms and addresses.

use card_validate::Validate;
use ringfence_core::{LossAction, LossActions, LossKind};

use crate::pii::is_nhs_number;

/// LIMIT: bytes at the end of what was fed that may still become part of a value.
pub(crate) const OPEN_BYTES_MAX: usize = 1_024;
/// LIMIT: digits of a group; a card has no more.
const GROUP_DIGITS_MAX: usize = 19;
/// Digits of a card that is written without spaces. Shorter ones (13 were Visa's, 12 and 13 Maestro's) are out of use, and
/// article numbers and times in milliseconds are as long.
const CARD_DIGITS: std::ops::RangeInclusive<usize> = 14..=GROUP_DIGITS_MAX;
/// Digits of an NHS number.
const NHS_DIGITS: usize = 10;
/// LIMIT: groups of digits that are one number.
const GROUPS_COUNT_MAX: usize = 5;
/// How numbers are written in groups.
const SHAPES: [(&[usize], LossKind); 5] = [
    (&[4, 4, 4, 4, 3], LossKind::Card),
    (&[4, 4, 4, 4], LossKind::Card),
    (&[4, 6, 5], LossKind::Card),
    (&[4, 6, 4], LossKind::Card),
    (&[3, 3, 4], LossKind::NhsNumber),
];
/// Below this NHS numbers are Scotland's, which begin with a day and a month of birth.
const NHS_DATED_BELOW: u64 = 3_200_000_000;
/// LIMIT: bytes of an address of e-mail before the `@`, of a name of a host, and of one label of it (RFC 5321, RFC 1035).
const LOCAL_BYTES_MAX: usize = 64;
const DOMAIN_BYTES_MAX: usize = 253;
const LABEL_BYTES_MAX: usize = 63;
/// LIMIT: digits of a phone number (ITU-T E.164), and signs between two of them.
const PHONE_DIGITS_MAX: usize = 15;
const PHONE_GAP_MAX: usize = 2;

/// What was found where, in bytes of what was fed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hit {
    pub(crate) kind: LossKind,
    pub(crate) start: u64,
    pub(crate) end: u64,
}

/// Where a byte stands in what was fed: an escape is three bytes and stands for one.
#[derive(Debug, Clone, Copy)]
struct Span {
    start: u64,
    end: u64,
}

/// Looks through one stream.
pub(crate) struct Scanner {
    actions: LossActions,
    escapes: Escapes,
    at: u64,
    is_after_backslash: bool,
    numbers: Numbers,
    email: Email,
    phone: Phone,
    hits: Vec<Hit>,
}

/// Escapes of forms and addresses: `%40`, and `+` for a space.
#[derive(Debug, Clone, Copy)]
enum Escapes {
    /// There are none.
    Plain,
    /// None is begun.
    Closed,
    /// `%` was seen.
    Open,
    /// `%` and the first digit: its value, and as it was written.
    Half(u8, u8),
}

// === impl Scanner ===

impl Scanner {
    /// For any stream.
    pub(crate) fn new(actions: LossActions) -> Self {
        let (numbers, email, phone) = (Numbers::default(), Email::default(), Phone::default());
        let (escapes, hits) = (Escapes::Plain, Vec::new());
        Self { actions, escapes, at: 0, is_after_backslash: false, numbers, email, phone, hits }
    }

    /// For an address, or a body that is a form.
    pub(crate) fn of_form(actions: LossActions) -> Self {
        Self { escapes: Escapes::Closed, ..Self::new(actions) }
    }

    /// Bytes fed so far.
    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    /// The next bytes; what is known to be found by then.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Vec<Hit> {
        for byte in bytes {
            self.take(*byte);
        }
        std::mem::take(&mut self.hits)
    }

    /// What the end of the stream makes a value of.
    pub(crate) fn end(&mut self) -> Vec<Hit> {
        let at = self.at;
        match std::mem::replace(&mut self.escapes, Escapes::Plain) {
            Escapes::Plain | Escapes::Closed => {}
            Escapes::Open => self.step(b'%', Span { start: at.saturating_sub(1), end: at }),
            Escapes::Half(_, first) => self.broken(first, at),
        }
        self.hits.extend(self.numbers.end(self.actions));
        if self.actions.email != LossAction::Off {
            self.hits.extend(self.email.end(at));
        }
        if self.actions.phone != LossAction::Off {
            self.hits.extend(self.phone.end());
        }
        std::mem::take(&mut self.hits)
    }

    /// How many of the last bytes may be part of a value that is refused, once more of it is known.
    pub(crate) fn open(&self) -> usize {
        let refuses = |kind| self.actions.of(kind) == LossAction::Refuse;
        let numbers = refuses(LossKind::Card) || refuses(LossKind::NhsNumber);
        let escape = match self.escapes {
            Escapes::Plain | Escapes::Closed => None,
            Escapes::Open => Some(self.at.saturating_sub(1)),
            Escapes::Half(..) => Some(self.at.saturating_sub(2)),
        };
        let starts = [
            numbers.then(|| self.numbers.open()).flatten(),
            refuses(LossKind::Email).then(|| self.email.open()).flatten(),
            refuses(LossKind::Phone).then(|| self.phone.open()).flatten(),
            escape.filter(|_| numbers || refuses(LossKind::Email) || refuses(LossKind::Phone)),
        ];
        let first = starts.into_iter().flatten().min();
        first.map_or(0, |first| usize::try_from(self.at.saturating_sub(first)).unwrap_or(usize::MAX))
    }

    fn take(&mut self, byte: u8) {
        let start = self.at;
        self.at = start.saturating_add(1);
        let here = Span { start, end: self.at };
        if matches!(self.escapes, Escapes::Plain) {
            return self.step(byte, here);
        }
        match (self.escapes, hex(byte)) {
            (Escapes::Plain, _) => {}
            (Escapes::Closed, _) => self.begin(byte, here),
            (Escapes::Open, Some(high)) => self.escapes = Escapes::Half(high, byte),
            (Escapes::Open, None) => {
                self.escapes = Escapes::Closed;
                self.step(b'%', Span { start: start.saturating_sub(1), end: start });
                self.begin(byte, here);
            }
            (Escapes::Half(high, _), Some(low)) => {
                self.escapes = Escapes::Closed;
                self.step((high << 4) | low, Span { start: start.saturating_sub(2), end: self.at });
            }
            (Escapes::Half(_, first), None) => {
                self.escapes = Escapes::Closed;
                self.broken(first, start);
                self.begin(byte, here);
            }
        }
    }

    /// A byte that is within no escape.
    fn begin(&mut self, byte: u8, here: Span) {
        match byte {
            b'%' => self.escapes = Escapes::Open,
            b'+' => self.step(b' ', here),
            other => self.step(other, here),
        }
    }

    /// What looked like an escape and was none, up to `end`.
    fn broken(&mut self, first: u8, end: u64) {
        let middle = end.saturating_sub(1);
        self.step(b'%', Span { start: end.saturating_sub(2), end: middle });
        self.step(first, Span { start: middle, end });
    }

    fn step(&mut self, byte: u8, here: Span) {
        let is_escaped = std::mem::replace(&mut self.is_after_backslash, byte == b'\\');
        // As JSON writes ends of lines: the letter is none of the word that follows.
        let byte = if is_escaped && matches!(byte, b'n' | b'r' | b't' | b'b' | b'f') { b'\n' } else { byte };
        self.hits.extend(self.numbers.step(byte, here, self.actions));
        if self.actions.email != LossAction::Off {
            self.hits.extend(self.email.step(byte, here));
        }
        if self.actions.phone != LossAction::Off {
            self.hits.extend(self.phone.step(byte, here));
        }
    }
}

/// Cards and NHS numbers: groups of digits with one space or `-` between them.
#[derive(Default)]
struct Numbers {
    reading: Reading,
    /// The digits of the groups.
    digits: Vec<u8>,
    groups: Vec<Group>,
    /// The end of the last of them.
    end: u64,
}

struct Group {
    len: usize,
    start: u64,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Reading {
    #[default]
    Out,
    /// Letters, or digits with letters before them, or too many.
    Word,
    /// Digits behind digits and a dot.
    Decimal,
    /// `+`
    Plus,
    /// Digits behind a `+`: a phone number.
    International,
    /// A group of digits.
    Group,
    /// One space or `-` behind a group.
    Between,
    /// A dot behind a group: the end of a sentence, or a decimal.
    Dot,
}

// === impl Numbers ===

impl Numbers {
    fn step(&mut self, byte: u8, here: Span, actions: LossActions) -> Option<Hit> {
        let was = self.reading;
        self.reading = was.after(byte);
        match (was, self.reading) {
            (Reading::Group, Reading::Group) => {
                self.more(byte, here);
                None
            }
            (_, Reading::Group) => {
                if was != Reading::Between {
                    self.clear();
                }
                self.another(byte, here);
                None
            }
            (Reading::Group, Reading::Between) => {
                let hit = self.judged(actions);
                // Or the next group would make another of the same digits.
                if hit.is_some() {
                    self.clear();
                }
                hit
            }
            (Reading::Group, Reading::Dot) => None,
            // A letter behind it, or a decimal: none of ours.
            (Reading::Group, Reading::Word) | (Reading::Dot, Reading::Decimal) => {
                self.clear();
                None
            }
            (Reading::Group | Reading::Dot, _) => {
                let hit = self.judged(actions);
                self.clear();
                hit
            }
            (Reading::Between, _) => {
                self.clear();
                None
            }
            _ => None,
        }
    }

    fn end(&mut self, actions: LossActions) -> Option<Hit> {
        let was = std::mem::take(&mut self.reading);
        let hit = if matches!(was, Reading::Group | Reading::Dot) { self.judged(actions) } else { None };
        self.clear();
        hit
    }

    fn open(&self) -> Option<u64> {
        self.groups.first().map(|group| group.start)
    }

    fn clear(&mut self) {
        self.digits.clear();
        self.groups.clear();
    }

    /// One more digit of a group.
    fn more(&mut self, byte: u8, here: Span) {
        let Some(group) = self.groups.last_mut().filter(|group| group.len < GROUP_DIGITS_MAX) else {
            self.clear();
            self.reading = Reading::Word;
            return;
        };
        group.len += 1;
        self.digits.push(byte);
        self.end = here.end;
    }

    /// The first digit of a group.
    fn another(&mut self, byte: u8, here: Span) {
        if self.groups.len() >= GROUPS_COUNT_MAX {
            let first = self.groups.remove(0);
            self.digits.drain(..first.len);
        }
        self.groups.push(Group { len: 1, start: here.start });
        self.digits.push(byte);
        self.end = here.end;
    }

    /// What the last groups are.
    fn judged(&self, actions: LossActions) -> Option<Hit> {
        let alone = [self.groups.last()?.len];
        let kind = match alone {
            [NHS_DIGITS] => Some(LossKind::NhsNumber),
            [len] if CARD_DIGITS.contains(&len) => Some(LossKind::Card),
            _ => None,
        };
        let shapes = SHAPES.into_iter().chain(kind.map(|kind| (alone.as_slice(), kind)));
        let mut shapes = shapes.filter(|(_, kind)| actions.of(*kind) != LossAction::Off);
        shapes.find_map(|(shape, kind)| {
            let (start, digits) = self.last(shape)?;
            let fits = if kind == LossKind::Card { is_card(digits) } else { is_issued_nhs_number(digits) };
            fits.then_some(Hit { kind, start, end: self.end })
        })
    }

    /// The last groups, when they have these lengths: where they begin, and their digits.
    fn last(&self, shape: &[usize]) -> Option<(u64, &str)> {
        let groups = self.groups.get(self.groups.len().checked_sub(shape.len())?..)?;
        if !groups.iter().map(|group| group.len).eq(shape.iter().copied()) {
            return None;
        }
        let count: usize = shape.iter().sum();
        let digits = self.digits.get(self.digits.len().checked_sub(count)?..)?;
        Some((groups.first()?.start, std::str::from_utf8(digits).ok()?))
    }
}

// === impl Reading ===

impl Reading {
    fn after(self, byte: u8) -> Self {
        let is_digit = byte.is_ascii_digit();
        let is_letter = byte.is_ascii_alphabetic() || byte == b'_';
        match self {
            Self::Word if is_digit || is_letter => Self::Word,
            Self::Decimal if is_digit || byte == b'.' => Self::Decimal,
            Self::Dot if is_digit => Self::Decimal,
            Self::Plus if is_digit || byte == b'(' => Self::International,
            Self::International if is_digit || matches!(byte, b' ' | b'-' | b'(' | b')') => Self::International,
            Self::Group if byte == b'.' => Self::Dot,
            Self::Group if matches!(byte, b' ' | b'-') => Self::Between,
            _ if is_digit => Self::Group,
            _ if is_letter => Self::Word,
            _ if byte == b'+' => Self::Plus,
            _ => Self::Out,
        }
    }
}

/// Luhn's check digit first: it is quick, and rules nine of ten out. Then issuer and length.
fn is_card(digits: &str) -> bool {
    Validate::is_luhn_valid(digits) && Validate::from(digits).is_ok()
}

/// The check digit alone fits every eleventh number of ten digits, times in seconds among them.
fn is_issued_nhs_number(digits: &str) -> bool {
    let Ok(number) = digits.parse::<u64>() else { return false };
    let (day, month) = (number / 100_000_000, number / 1_000_000 % 100);
    let is_dated = (1..=31).contains(&day) && (1..=12).contains(&month);
    let is_filler = digits.bytes().all(|digit| digits.bytes().next() == Some(digit));
    (number >= NHS_DATED_BELOW || is_dated) && !is_filler && is_nhs_number(digits)
}

/// Addresses of e-mail, as people write them.
#[derive(Default)]
enum Email {
    #[default]
    Out,
    Local {
        start: u64,
        len: usize,
    },
    /// Longer than an address is before its `@`.
    Long,
    Domain(Domain),
}

struct Domain {
    start: u64,
    len: usize,
    labels_count: usize,
    label_len: usize,
    is_letters: bool,
    is_after_hyphen: bool,
    /// Where the address ends, if it ends there.
    good_end: Option<u64>,
}

// === impl Email ===

impl Email {
    fn step(&mut self, byte: u8, here: Span) -> Option<Hit> {
        let is_local = byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'%' | b'+' | b'-' | b'\'');
        let (next, hit) = match std::mem::take(self) {
            Self::Out if byte.is_ascii_alphanumeric() => (Self::Local { start: here.start, len: 1 }, None),
            Self::Local { len, .. } if is_local && len >= LOCAL_BYTES_MAX => (Self::Long, None),
            Self::Local { start, len } if is_local => (Self::Local { start, len: len + 1 }, None),
            Self::Local { start, .. } if byte == b'@' => (Self::Domain(Domain::new(start)), None),
            Self::Long if is_local => (Self::Long, None),
            Self::Domain(mut domain) => match domain.takes(byte, here) {
                true => (Self::Domain(domain), None),
                false if byte.is_ascii_alphanumeric() => (Self::Long, domain.end(here.start)),
                false => (Self::Out, domain.end(here.start)),
            },
            Self::Out | Self::Local { .. } | Self::Long => (Self::Out, None),
        };
        *self = next;
        hit
    }

    fn end(&mut self, at: u64) -> Option<Hit> {
        match std::mem::take(self) {
            Self::Domain(mut domain) => domain.end(at),
            Self::Out | Self::Local { .. } | Self::Long => None,
        }
    }

    fn open(&self) -> Option<u64> {
        match self {
            Self::Local { start, .. } | Self::Domain(Domain { start, .. }) => Some(*start),
            Self::Out | Self::Long => None,
        }
    }
}

// === impl Domain ===

impl Domain {
    fn new(start: u64) -> Self {
        let (len, labels_count, label_len) = (0, 0, 0);
        Self { start, len, labels_count, label_len, is_letters: true, is_after_hyphen: false, good_end: None }
    }

    fn takes(&mut self, byte: u8, here: Span) -> bool {
        match byte {
            _ if self.len >= DOMAIN_BYTES_MAX => return false,
            b'.' if self.label_len > 0 && !self.is_after_hyphen => {
                self.close(here.start);
                self.labels_count += 1;
                (self.label_len, self.is_letters) = (0, true);
            }
            b'-' if self.label_len > 0 && self.label_len < LABEL_BYTES_MAX => {
                self.label_len += 1;
                (self.is_letters, self.is_after_hyphen) = (false, true);
            }
            _ if byte.is_ascii_alphanumeric() && self.label_len < LABEL_BYTES_MAX => {
                self.label_len += 1;
                self.is_letters &= byte.is_ascii_alphabetic();
                self.is_after_hyphen = false;
            }
            _ => return false,
        }
        self.len += 1;
        true
    }

    /// The last label of a name is of letters, and not the only one.
    fn close(&mut self, at: u64) {
        if self.labels_count > 0 && self.label_len >= 2 && self.is_letters {
            self.good_end = Some(at);
        }
    }

    fn end(&mut self, at: u64) -> Option<Hit> {
        self.close(at);
        self.good_end.map(|end| Hit { kind: LossKind::Email, start: self.start, end })
    }
}

/// Phone numbers, by the rules of `pii/detect.rs`: with a country code, or with the trunk prefix and a range of the United
/// Kingdom's plan.
#[derive(Default)]
enum Phone {
    #[default]
    Out,
    /// Letters, or digits that no phone number begins with.
    Word,
    /// More digits than a phone number has.
    Long,
    Run(Run),
}

struct Run {
    start: u64,
    end: u64,
    has_plus: bool,
    /// The value of the first two digits.
    first: usize,
    count: usize,
    /// Signs since the last digit.
    gap: usize,
    is_after_dot: bool,
    has_dot: bool,
}

// === impl Phone ===

impl Phone {
    fn step(&mut self, byte: u8, here: Span) -> Option<Hit> {
        let is_word = byte.is_ascii_alphanumeric() || byte == b'_';
        let is_sign = matches!(byte, b' ' | b'-' | b'.' | b'/' | b'(' | b')');
        let (next, hit) = match std::mem::take(self) {
            Self::Word if is_word => (Self::Word, None),
            Self::Long if is_sign || byte.is_ascii_digit() => (Self::Long, None),
            Self::Run(mut run) => match run.takes(byte, here) {
                true if run.count > PHONE_DIGITS_MAX => (Self::Long, None),
                true => (Self::Run(run), None),
                // A letter right behind it: it does not stand alone.
                false if is_word && run.gap == 0 => (Self::Word, None),
                false => (Self::begun(byte, here), run.judged()),
            },
            Self::Out | Self::Word | Self::Long => (Self::begun(byte, here), None),
        };
        *self = next;
        hit
    }

    fn begun(byte: u8, here: Span) -> Self {
        let run = |has_plus, count| {
            let (first, gap, is_after_dot, has_dot) = (0, 0, false, false);
            Self::Run(Run { start: here.start, end: here.end, has_plus, first, count, gap, is_after_dot, has_dot })
        };
        match byte {
            b'+' => run(true, 0),
            b'(' => run(false, 0),
            b'0' => run(false, 1),
            _ if byte.is_ascii_alphanumeric() || byte == b'_' => Self::Word,
            _ => Self::Out,
        }
    }

    fn end(&mut self) -> Option<Hit> {
        match std::mem::take(self) {
            Self::Run(run) => run.judged(),
            Self::Out | Self::Word | Self::Long => None,
        }
    }

    fn open(&self) -> Option<u64> {
        match self {
            Self::Run(run) => Some(run.start),
            Self::Out | Self::Word | Self::Long => None,
        }
    }
}

// === impl Run ===

impl Run {
    fn takes(&mut self, byte: u8, here: Span) -> bool {
        match byte {
            b'0'..=b'9' => {
                if self.count < 2 {
                    self.first = self.first * 10 + usize::from(byte - b'0');
                }
                self.has_dot |= std::mem::take(&mut self.is_after_dot);
                self.count += 1;
                (self.gap, self.end) = (0, here.end);
                true
            }
            b'+' if self.count == 0 && !self.has_plus => {
                self.has_plus = true;
                true
            }
            b'(' if self.count == 0 && self.has_plus && self.gap == 0 => {
                self.gap = 1;
                true
            }
            b' ' | b'-' | b'.' | b'/' | b'(' | b')' if self.count > 0 && self.gap < PHONE_GAP_MAX => {
                self.gap += 1;
                self.is_after_dot |= matches!(byte, b'.' | b'/');
                true
            }
            _ => false,
        }
    }

    fn judged(&self) -> Option<Hit> {
        let leading = self.first / 10;
        let is_phone = if self.has_plus {
            (8..=PHONE_DIGITS_MAX).contains(&self.count) && leading != 0
        } else {
            (10..=11).contains(&self.count) && matches!(self.first, 1..=3 | 7..=9) && !self.has_dot
        };
        is_phone.then_some(Hit { kind: LossKind::Phone, start: self.start, end: self.end })
    }
}

fn hex(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

/// A text of at most so many bytes of what was given, with a word in the place of whatever is found in it; and what was.
pub(crate) fn masked(text: &str, bytes_max: usize, actions: LossActions) -> (String, Vec<Hit>) {
    let mut hits = Vec::new();
    if actions.looks() {
        // What begins before the cut is found whole, so that no part of it is shown.
        let looked_at = cut_at(text, bytes_max.saturating_add(OPEN_BYTES_MAX));
        let mut scanner = Scanner::new(actions);
        hits = scanner.feed(looked_at.as_bytes());
        hits.extend(scanner.end());
    }
    let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
    hits.retain(|hit| place(hit.start) < bytes_max);
    hits.sort_by_key(|hit| hit.start);
    let kept = cut_at(text, bytes_max);
    let (mut shown, mut from) = (String::with_capacity(kept.len()), 0);
    for hit in &hits {
        // Two kinds may be found in the same digits.
        if place(hit.start) >= from {
            shown.push_str(kept.get(from..place(hit.start)).unwrap_or_default());
            shown.extend(["[", hit.kind.as_str(), "]"]);
        }
        from = from.max(place(hit.end));
    }
    shown.push_str(kept.get(from..).unwrap_or_default());
    if text.len() > bytes_max || shown.len() > bytes_max {
        shown.truncate(cut_at(&shown, bytes_max).len());
        shown.push_str(" (cut)");
    }
    (shown, hits)
}

/// At most so many bytes of a text, up to the end of a character.
fn cut_at(text: &str, bytes_max: usize) -> &str {
    let mut end = bytes_max.min(text.len());
    while !text.is_char_boundary(end) {
        end = end.saturating_sub(1);
    }
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests;
