//! Which requests a rule about fields is for: by method, and by a pattern of paths. Pure.
//!
//! Must never guess: what a plugin could read in another way than it is read here is [`Ambiguous`], and nobody runs on it. So a
//! field that is sealed at a path is sealed however that path is spelt. (`matchit`, which routes the control plane, finds the one
//! best route and compares bytes; here all that fit count, in whatever spelling.)

use std::collections::BTreeSet;

use data_encoding::HEXLOWER_PERMISSIVE;

use crate::fields::FieldRule;

/// Headers by which some frameworks take a request for one of another method.
const OTHER_METHOD: [&str; 3] = ["x-http-method-override", "x-http-method", "x-method-override"];
/// Headers by which some frameworks take a request for one of another path.
const OTHER_PATH: [&str; 2] = ["x-original-url", "x-rewrite-url"];
/// The pattern of all paths.
const EVERYWHERE: &str = "/*";
/// LIMIT: most methods of one rule.
const METHODS_COUNT_MAX: usize = 16;
/// LIMIT: most bytes of a method.
const METHOD_BYTES_MAX: usize = 32;
/// LIMIT: most bytes of a pattern.
const PATTERN_BYTES_MAX: usize = 256;

/// Could be read in more than one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ambiguous;

/// Method and path of a request, each in the one way that it can be read.
#[derive(Debug, Clone)]
pub struct RequestLine {
    /// In capitals.
    method: Result<String, Ambiguous>,
    /// The segments of the path, escapes undone, without difference between capitals and small letters.
    path: Result<Vec<String>, Ambiguous>,
}

impl RequestLine {
    /// Reads them as the plugin will get them; `path` is without its query.
    pub fn read(method: &str, path: &str, has_header: impl Fn(&str) -> bool) -> Self {
        let is_other = |names: &[&str]| names.iter().any(|name| has_header(name));
        Self {
            method: if is_other(&OTHER_METHOD) { Err(Ambiguous) } else { Ok(method.to_ascii_uppercase()) },
            path: if is_other(&OTHER_PATH) { Err(Ambiguous) } else { segments(path) },
        }
    }
}

impl FieldRule {
    /// Whether the rule is for some requests only.
    pub fn has_route(&self) -> bool {
        !self.methods.is_empty() || self.path.is_some()
    }

    /// Whether the rule is for this request and its answer. What is not is known from one of method and path, too.
    pub fn is_for(&self, line: &RequestLine) -> Result<bool, Ambiguous> {
        let by_method = match &line.method {
            _ if self.methods.is_empty() => Ok(true),
            // Whoever answers GET answers HEAD as well.
            Ok(method) => Ok(self.methods.iter().any(|own| own == method || (own == "GET" && method == "HEAD"))),
            Err(ambiguous) => Err(*ambiguous),
        };
        let by_path = match (&self.path, &line.path) {
            (None, _) => Ok(true),
            // However it is read.
            (Some(pattern), _) if pattern == EVERYWHERE => Ok(true),
            (Some(pattern), Ok(segments)) => Ok(fits(pattern, segments)),
            (Some(_), Err(ambiguous)) => Err(*ambiguous),
        };
        match (by_method, by_path) {
            (Ok(false), _) | (_, Ok(false)) => Ok(false),
            (Ok(true), Ok(true)) => Ok(true),
            (Err(ambiguous), _) | (_, Err(ambiguous)) => Err(ambiguous),
        }
    }

    /// The requests that the rule is for, in a form in which two rules can be compared.
    pub(crate) fn route(&self) -> (BTreeSet<&str>, Option<String>) {
        let path = self.path.as_ref().filter(|path| *path != EVERYWHERE).map(|path| path.to_ascii_lowercase());
        (self.methods.iter().map(String::as_str).collect(), path)
    }
}

/// Checks methods and pattern of a rule.
pub(crate) fn check_route(rule: &FieldRule) -> Result<(), String> {
    let is_method = |method: &String| {
        let is_word = method.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-');
        is_word && !method.is_empty() && method.len() <= METHOD_BYTES_MAX
    };
    if rule.methods.len() > METHODS_COUNT_MAX || !rule.methods.iter().all(is_method) {
        return Err(format!("methods are at most {METHODS_COUNT_MAX} words in capitals, such as `POST`"));
    }
    let Some(pattern) = &rule.path else { return Ok(()) };
    if pattern.len() > PATTERN_BYTES_MAX {
        return Err(format!("a path is at most {PATTERN_BYTES_MAX} bytes"));
    }
    let rest = pattern.strip_prefix('/').ok_or("a path starts with `/`, such as `/people/*`")?;
    if !rest.is_empty() && !rest.split('/').all(is_part) {
        return Err("between two `/` a path has a `*` alone, or letters, digits and any of `-._~!$&'(),=:@`, and it \
             does not end with `/`"
            .to_owned());
    }
    Ok(())
}

/// No `%`, `+` or `;`: what is spelt with them is read in different ways.
fn is_part(part: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'(),=:@".contains(&byte);
    part == "*" || (!matches!(part, "" | "." | "..") && part.bytes().all(is_plain))
}

/// Whether a pattern, which was checked, fits: a `*` is any one segment, and at the end whatever is below, and nothing.
fn fits(pattern: &str, segments: &[String]) -> bool {
    let (above, below) = match pattern.strip_suffix("/*") {
        Some(above) => (above, true),
        None => (pattern, false),
    };
    let parts: Vec<&str> = above.split('/').filter(|part| !part.is_empty()).collect();
    let is_long_enough = if below { segments.len() >= parts.len() } else { segments.len() == parts.len() };
    let is_one = |(part, segment): (&&str, &String)| *part == "*" || part.eq_ignore_ascii_case(segment);
    is_long_enough && parts.iter().zip(segments).all(is_one)
}

/// The segments of a path in which nothing can be taken for something else. One slash at the end makes no difference.
fn segments(path: &str) -> Result<Vec<String>, Ambiguous> {
    let rest = path.strip_prefix('/').ok_or(Ambiguous)?;
    if rest.is_empty() {
        return Ok(Vec::new());
    }
    rest.strip_suffix('/').unwrap_or(rest).split('/').map(segment).collect()
}

/// One segment, escapes undone once: nothing that would be cut off, resolved, split at or undone once more.
fn segment(raw: &str) -> Result<String, Ambiguous> {
    let text = decoded(raw)?;
    let is_odd = |c: char| c.is_control() || matches!(c, '/' | '\\' | '%' | ';' | '?' | '#');
    if matches!(&*text, "" | "." | "..") || text.trim() != text || text.chars().any(is_odd) {
        return Err(Ambiguous);
    }
    // Both ways, since a plugin may compare either: `ſ` is an `s` in capitals alone, the sign for kelvin a `k` in small letters.
    Ok(text.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect())
}

fn decoded(raw: &str) -> Result<String, Ambiguous> {
    let mut parts = raw.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2).ok_or(Ambiguous)?;
        bytes.extend(HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).map_err(|_| Ambiguous)?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).map_err(|_| Ambiguous)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fields::{Direction, Otherwise};

    fn rule(methods: &[&str], path: Option<&str>) -> FieldRule {
        FieldRule {
            methods: methods.iter().map(|&method| method.to_owned()).collect(),
            path: path.map(ToOwned::to_owned),
            pointer: "/email".into(),
            field: "email".into(),
            subject: None,
            direction: Direction::Response,
            otherwise: Otherwise::Sealed,
        }
    }

    fn line(method: &str, path: &str) -> RequestLine {
        RequestLine::read(method, path, |_| false)
    }

    fn at(pattern: &str, path: &str) -> Result<bool, Ambiguous> {
        rule(&[], Some(pattern)).is_for(&line("POST", path))
    }

    #[test]
    fn a_pattern_is_for_what_it_says_and_for_nothing_else() {
        for (pattern, path) in [
            ("/", "/"),
            ("/*", "/"),
            ("/*", "/a/b"),
            ("/people", "/people"),
            ("/people", "/people/"),
            ("/people", "/PEOPLE"),
            ("/People", "/people"),
            ("/people", "/p%65ople"),
            ("/people", "/%50eople"),
            ("/sky", "/\u{17f}\u{212a}y"),
            ("/people/*", "/people"),
            ("/people/*", "/people/"),
            ("/people/*", "/people/7"),
            ("/people/*", "/people/Zo%C3%AB/notes"),
            ("/people/*", "/people/a%20b%40c"),
            ("/people/*/notes", "/people/7/notes"),
            ("/*/*", "/a"),
            ("/Patient/$everything", "/patient/%24everything"),
        ] {
            assert_eq!(at(pattern, path), Ok(true), "{pattern} {path}");
        }
        for (pattern, path) in [
            ("/", "/a"),
            ("/people", "/"),
            ("/people", "/peoples"),
            ("/people", "/people/7"),
            ("/people/*", "/peoples/7"),
            ("/people/*", "/other"),
            ("/people/*/notes", "/people/7"),
            ("/people/*/notes", "/people/7/notes/1"),
            ("/*/*", "/"),
        ] {
            assert_eq!(at(pattern, path), Ok(false), "{pattern} {path}");
        }
    }

    #[test]
    fn a_path_that_can_be_read_in_two_ways_is_for_no_rule_and_against_none() {
        for path in [
            "",
            "*",
            "a",
            "//",
            "//people",
            "/people//",
            "/x//people",
            "/./people",
            "/x/../people",
            "/%2e/people",
            "/x/%2E%2e/people",
            "/people%2F",
            "/x%2f..%2fpeople",
            "/x\\people",
            "/x%5Cpeople",
            "/people;v=1",
            "/people%3b",
            "/people%00",
            "/people%0a",
            "/people%20",
            "/%C2%A0people",
            "/people%3Fx",
            "/people%23x",
            "/peopl%2565",
            "/people%",
            "/people%6",
            "/people%6g",
            "/people%+6",
            "/people%ff",
            "/people%c0%af",
            "/ /people",
        ] {
            assert_eq!(at("/people", path), Err(Ambiguous), "{path:?}");
            assert_eq!(rule(&[], None).is_for(&line("POST", path)), Ok(true), "{path:?}");
            assert_eq!(at("/*", path), Ok(true), "{path:?}");
            // It is for no other method, however its path is read.
            assert_eq!(rule(&["PUT"], Some("/people")).is_for(&line("POST", path)), Ok(false), "{path:?}");
        }
    }

    #[test]
    fn a_method_is_one_in_whatever_letters_and_get_is_head_too() {
        let by = |methods: &[&str], method: &str| rule(methods, None).is_for(&line(method, "/"));
        assert_eq!(by(&[], "BREW"), Ok(true));
        assert_eq!(
            (by(&["PUT", "POST"], "POST"), by(&["POST"], "post"), by(&["POST"], "PUT")),
            (Ok(true), Ok(true), Ok(false))
        );
        assert_eq!((by(&["GET"], "HEAD"), by(&["HEAD"], "GET")), (Ok(true), Ok(false)));
    }

    #[test]
    fn headers_that_say_another_method_or_path_make_those_ambiguous_and_nothing_else() {
        let told =
            |name: &'static str, rule: &FieldRule| rule.is_for(&RequestLine::read("POST", "/a", |asked| asked == name));
        for name in OTHER_METHOD {
            assert_eq!(told(name, &rule(&["PUT"], None)), Err(Ambiguous), "{name}");
            assert_eq!(told(name, &rule(&["PUT"], Some("/b"))), Ok(false), "{name}");
            assert_eq!(told(name, &rule(&[], Some("/a"))), Ok(true), "{name}");
        }
        for name in OTHER_PATH {
            assert_eq!(told(name, &rule(&[], Some("/b"))), Err(Ambiguous), "{name}");
            assert_eq!(told(name, &rule(&["PUT"], Some("/b"))), Ok(false), "{name}");
            assert_eq!(told(name, &rule(&["POST"], None)), Ok(true), "{name}");
        }
    }

    #[test]
    fn methods_and_paths_that_say_nothing_clear_are_refused() {
        for good in ["/", "/*", "/a", "/a/*", "/*/b", "/a/*/b.c/*", "/Patient/$everything", "/v1/a:b"] {
            assert_eq!(check_route(&rule(&["POST", "M-SEARCH"], Some(good))), Ok(()), "{good}");
        }
        let long = format!("/{}", "a".repeat(PATTERN_BYTES_MAX));
        for bad in [
            "", "a", "a/*", "/a/", "//", "/a//b", "/a*", "/*a", "/**", "/./a", "/a/..", "/a%20b", "/a b", "/a?b",
            "/a;b", "/a+b", "/\u{e9}", "/a\\b", "/{a}", &long,
        ] {
            assert!(check_route(&rule(&[], Some(bad))).is_err(), "{bad}");
        }
        for bad in ["", "post", "PO ST", "*", &"A".repeat(33)] {
            assert!(check_route(&rule(&[bad], None)).is_err(), "{bad}");
        }
        assert!(check_route(&rule(&["A"; 17], None)).is_err());
    }

    /// What a plugin might make of a path before it looks where it leads: each of these, in this order, or not.
    const READERS: [fn(&str) -> String; 7] = [
        undone,
        undone,
        |path| path.replace('\\', "/"),
        |path| {
            path.split('/')
                .map(|part| part.split([';', '\0', '?', '#']).next().unwrap_or_default().trim())
                .collect::<Vec<_>>()
                .join("/")
        },
        |path| path.split('/').filter(|part| !part.is_empty()).fold(String::new(), |all, part| format!("{all}/{part}")),
        |path| {
            let mut kept: Vec<&str> = Vec::new();
            for part in path.split('/') {
                match part {
                    "." => {}
                    ".." => {
                        kept.pop();
                    }
                    part => kept.push(part),
                }
            }
            kept.join("/")
        },
        |path| path.strip_suffix('/').unwrap_or(path).to_lowercase(),
    ];

    /// Escapes undone as careless readers do: what is no escape stays.
    fn undone(path: &str) -> String {
        let (bytes, mut out, mut at) = (path.as_bytes(), Vec::new(), 0);
        while at < bytes.len() {
            let escape = bytes.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
            match escape.and_then(|digits| HEXLOWER_PERMISSIVE.decode(digits).ok()) {
                Some(byte) => {
                    out.extend(byte);
                    at += 3;
                }
                None => {
                    out.push(bytes[at]);
                    at += 1;
                }
            }
        }
        String::from_utf8_lossy(&out).into_owned()
    }

    /// Whether a path, as some reader has it, is one of a pattern's, to the byte.
    fn leads(pattern: &str, path: &str) -> bool {
        let (parts, segments): (Vec<_>, Vec<_>) = (pattern.split('/').collect(), path.split('/').collect());
        match parts.split_last() {
            Some((&"*", above)) => {
                segments.len() > above.len() && above.iter().zip(&segments).all(|(a, b)| *a == "*" || a == b)
            }
            _ => parts.len() == segments.len() && parts.iter().zip(&segments).all(|(a, b)| *a == "*" || a == b),
        }
    }

    /// What paths are made of that are meant to be read in two ways.
    const PIECES: &[&str] = &[
        "a", "A", "b", "B", "s", "k", "/", "/", "//", "/.", "/..", "/x/../", "%61", "%2561", "%2F", "%252f", "%2e",
        "\\", "%5c", ";v=1", "%3B", "%00", "%3f", "%23", "%20", "%",
    ];
    const PATTERNS: [&str; 6] = ["/a", "/a/b", "/a/*", "/*/b", "/sk/*", "/*"];

    fn holds(path: &str) -> Result<(), TestCaseError> {
        for which in 0_u32..1 << READERS.len() {
            let chosen = READERS.iter().enumerate().filter(|(index, _)| which & (1 << index) != 0);
            let read = chosen.fold(path.to_owned(), |path, (_, reader)| reader(&path));
            for pattern in PATTERNS.into_iter().filter(|pattern| leads(pattern, &read)) {
                prop_assert_ne!(
                    at(pattern, path),
                    Ok(false),
                    "{} is read as {} and {} is not for it",
                    path,
                    read,
                    pattern
                );
            }
        }
        Ok(())
    }

    proptest! {
        /// Whatever a plugin makes of a path: where the path that it comes to is under a rule, so is the request, or it is refused.
        #[test]
        fn no_reading_of_a_path_leaves_a_field_unsealed(
            pieces in proptest::collection::vec(proptest::sample::select(PIECES), 0..8),
        ) {
            holds(&format!("/{}", pieces.concat()))?;
        }

        /// The spellings that make no difference: such a request is not refused.
        #[test]
        fn a_plain_path_is_under_its_rule_however_it_is_spelt(
            parts in proptest::collection::vec("[a-zA-Z0-9_~-]{1,6}", 1..4),
            spelt in proptest::collection::vec(0_u8..4, 24),
            ends_with_slash in any::<bool>(),
        ) {
            let pattern = format!("/{}", parts.join("/"));
            let spell = |(c, how): (char, &u8)| match how {
                _ if c == '/' => "/".to_owned(),
                0 => c.to_string(),
                1 => c.to_ascii_uppercase().to_string(),
                2 => format!("%{:02x}", u32::from(c)),
                _ => format!("%{:02X}", u32::from(c.to_ascii_lowercase())),
            };
            let mut path: String = pattern.chars().zip(&spelt).map(spell).collect();
            if ends_with_slash {
                path.push('/');
            }
            prop_assert_eq!(at(&pattern, &path), Ok(true), "{}", path);
            prop_assert_eq!(at(&format!("{pattern}/*"), &path), Ok(true), "{}", path);
            prop_assert_eq!(at(&format!("{pattern}-not"), &path), Ok(false), "{}", path);
        }
    }
}
