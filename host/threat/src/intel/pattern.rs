//! The part of STIX patterns that this host can match: one observation, `=`, `ISSUBSET` and `IN`, `AND` and `OR`, brackets.
//!
//! Pure. Addresses, domain names, origins of URLs, SHA-256 of files, accounts. Must never take a pattern in part, nor one that
//! no event can show: sequences of observations, qualifiers, negation, other comparisons, certificates and paths of URLs are
//! errors that say so.

use std::net::IpAddr;

use ipnet::IpNet;

/// LIMIT: longest pattern, in bytes.
const PATTERN_BYTES_MAX: usize = 4_096;
/// LIMIT: comparisons of one pattern.
const COMPARISONS_COUNT_MAX: usize = 64;
/// LIMIT: deepest nesting of brackets.
const DEPTH_MAX: usize = 8;

/// What can be observed here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Observable {
    /// An address, or a network.
    Address,
    /// A domain name.
    Domain,
    /// An address of the web: scheme, host and port, which is what the log has.
    Url,
    /// SHA-256 of a file: a component, an object.
    Sha256,
    /// Who acts.
    Account,
}

/// Something that must be seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    /// What.
    pub observable: Observable,
    /// As which value, in lower case.
    pub value: String,
    /// The same as a network, read once: one event may be asked of as many as an owner can have.
    network: Option<IpNet>,
}

/// Something that an event shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// What, and as which value.
    pub key: (Observable, String),
    /// The same as an address.
    pub address: Option<IpAddr>,
}

/// A pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pattern {
    /// This is seen.
    Is(Comparison),
    /// All of these are.
    And(Vec<Pattern>),
    /// One of these is.
    Or(Vec<Pattern>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    Text(String),
    Sign(char),
}

// === impl Comparison ===

impl Comparison {
    fn new(observable: Observable, value: String) -> Self {
        let network = (observable == Observable::Address).then(|| value.parse().ok()).flatten();
        Self { observable, value, network }
    }

    /// The network of an address, when it is more than one.
    pub fn network(&self) -> Option<IpNet> {
        self.network
    }

    fn holds(&self, seen: &[Seen]) -> bool {
        seen.iter().any(|one| {
            one.key.0 == self.observable
                && match self.network {
                    Some(network) => one.address.is_some_and(|address| network.contains(&address)),
                    None => one.key.1 == self.value,
                }
        })
    }
}

// === impl Seen ===

impl Seen {
    pub(crate) fn new(observable: Observable, value: String) -> Self {
        let address = (observable == Observable::Address).then(|| value.parse().ok()).flatten();
        Self { key: (observable, value), address }
    }
}

// === impl Pattern ===

impl Pattern {
    /// Reads a pattern; the error says what of it cannot be matched here.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > PATTERN_BYTES_MAX {
            return Err(format!("it is over {PATTERN_BYTES_MAX} bytes"));
        }
        let mut parser = Parser { tokens: tokens(text)?, at: 0, count: 0 };
        parser.sign('[')?;
        let pattern = parser.either(0)?;
        parser.sign(']')?;
        match parser.tokens.get(parser.at) {
            None => Ok(pattern),
            Some(_) => Err("several observations, or a qualifier of one, are not matched here".to_owned()),
        }
    }

    /// Everything it compares.
    pub fn comparisons(&self) -> Box<dyn Iterator<Item = &Comparison> + '_> {
        match self {
            Self::Is(comparison) => Box::new(std::iter::once(comparison)),
            Self::And(all) | Self::Or(all) => Box::new(all.iter().flat_map(Self::comparisons)),
        }
    }

    /// Whether it holds of what is seen.
    pub fn holds(&self, seen: &[Seen]) -> bool {
        match self {
            Self::Is(comparison) => comparison.holds(seen),
            Self::And(all) => all.iter().all(|one| one.holds(seen)),
            Self::Or(all) => all.iter().any(|one| one.holds(seen)),
        }
    }
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    count: usize,
}

impl Parser {
    fn next(&mut self) -> Result<Token, String> {
        let token = self.tokens.get(self.at).cloned().ok_or("it ends too early")?;
        self.at += 1;
        Ok(token)
    }

    fn takes(&mut self, wanted: &Token) -> bool {
        let found = self.tokens.get(self.at) == Some(wanted);
        self.at += usize::from(found);
        found
    }

    fn word(&mut self, wanted: &str) -> bool {
        self.takes(&Token::Word(wanted.to_owned()))
    }

    fn sign(&mut self, wanted: char) -> Result<(), String> {
        if self.takes(&Token::Sign(wanted)) {
            Ok(())
        } else {
            Err(format!("`{wanted}` is missing, or what stands there is not matched here"))
        }
    }

    fn either(&mut self, depth: usize) -> Result<Pattern, String> {
        let mut all = vec![self.both(depth)?];
        while self.word("OR") {
            all.push(self.both(depth)?);
        }
        Ok(if all.len() == 1 { all.remove(0) } else { Pattern::Or(all) })
    }

    fn both(&mut self, depth: usize) -> Result<Pattern, String> {
        let mut all = vec![self.one(depth)?];
        while self.word("AND") {
            all.push(self.one(depth)?);
        }
        Ok(if all.len() == 1 { all.remove(0) } else { Pattern::And(all) })
    }

    fn one(&mut self, depth: usize) -> Result<Pattern, String> {
        if depth > DEPTH_MAX {
            return Err(format!("it is nested more than {DEPTH_MAX} deep"));
        }
        if self.takes(&Token::Sign('(')) {
            let inner = self.either(depth + 1)?;
            self.sign(')')?;
            return Ok(inner);
        }
        let Token::Word(path) = self.next()? else { return Err("a comparison does not begin with a path".to_owned()) };
        // A step of a path may be quoted: file:hashes.'SHA-256'.
        let path = match self.tokens.get(self.at) {
            Some(Token::Text(step)) if path.ends_with('.') => {
                let path = format!("{path}{step}");
                self.at += 1;
                path
            }
            _ => path,
        };
        let observable = observable(&path).ok_or_else(|| format!("`{}` is not observed here", cut(&path)))?;
        let values = self.values(observable)?;
        self.count += values.len();
        if self.count > COMPARISONS_COUNT_MAX {
            return Err(format!("it has over {COMPARISONS_COUNT_MAX} comparisons"));
        }
        let mut all: Vec<Pattern> =
            values.into_iter().map(|value| Pattern::Is(Comparison::new(observable, value))).collect();
        Ok(if all.len() == 1 { all.remove(0) } else { Pattern::Or(all) })
    }

    fn values(&mut self, observable: Observable) -> Result<Vec<String>, String> {
        match self.next()? {
            Token::Sign('=') => Ok(vec![self.value(observable)?]),
            Token::Word(word) if word == "ISSUBSET" && observable == Observable::Address => {
                Ok(vec![self.value(observable)?])
            }
            Token::Word(word) if word == "IN" => {
                self.sign('(')?;
                let mut values = vec![self.value(observable)?];
                while self.takes(&Token::Sign(',')) {
                    values.push(self.value(observable)?);
                }
                self.sign(')')?;
                Ok(values)
            }
            Token::Word(word) => Err(format!("`{}` is not matched here", cut(&word))),
            Token::Sign(sign) => Err(format!("`{sign}` is not matched here")),
            Token::Text(_) => Err("a comparison says nothing".to_owned()),
        }
    }

    fn value(&mut self, observable: Observable) -> Result<String, String> {
        let Token::Text(text) = self.next()? else { return Err("a value is not text".to_owned()) };
        let text = text.trim().to_lowercase();
        if observable == Observable::Url {
            return origin(&text).ok_or_else(|| "a URL is matched here by scheme, host and port alone".to_owned());
        }
        let fits = match observable {
            Observable::Address => text.parse::<IpAddr>().is_ok() || text.parse::<IpNet>().is_ok(),
            Observable::Sha256 => text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()),
            _ => !text.is_empty(),
        };
        if fits { Ok(text) } else { Err(format!("`{}` is not such a value", cut(&text))) }
    }
}

fn observable(path: &str) -> Option<Observable> {
    match path {
        "ipv4-addr:value" | "ipv6-addr:value" => Some(Observable::Address),
        "domain-name:value" => Some(Observable::Domain),
        "url:value" => Some(Observable::Url),
        "file:hashes.SHA-256" => Some(Observable::Sha256),
        "user-account:account_login" | "user-account:user_id" => Some(Observable::Account),
        _ => None,
    }
}

/// The URL of an origin, without a slash behind it; none for one that says more.
fn origin(text: &str) -> Option<String> {
    let (scheme, rest) = text.split_once("://")?;
    let host = rest.strip_suffix('/').unwrap_or(rest);
    let is_origin = !scheme.is_empty() && !host.is_empty() && !host.contains(['/', '?', '#', '@', '\\']);
    is_origin.then(|| format!("{scheme}://{host}"))
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let (mut tokens, mut letters) = (Vec::new(), text.chars().peekable());
    while let Some(letter) = letters.next() {
        match letter {
            ' ' | '\t' | '\r' | '\n' => {}
            '\'' => {
                let mut value = String::new();
                loop {
                    match letters.next() {
                        Some('\\') => value.extend(letters.next()),
                        Some('\'') => break,
                        Some(other) => value.push(other),
                        None => return Err("a text is not closed".to_owned()),
                    }
                }
                tokens.push(Token::Text(value));
            }
            '[' | ']' | '(' | ')' | '=' | ',' => tokens.push(Token::Sign(letter)),
            other if other.is_ascii_alphanumeric() => {
                let mut word = String::from(other);
                while let Some(next) =
                    letters.peek().copied().filter(|next| next.is_ascii_alphanumeric() || "-_.:".contains(*next))
                {
                    word.push(next);
                    letters.next();
                }
                tokens.push(Token::Word(word));
            }
            other => return Err(format!("`{other}` is not matched here")),
        }
    }
    Ok(tokens)
}

fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_cannot_be_matched_is_refused_whole_and_by_name() {
        for (text, says) in [
            ("[process:name = 'x']", "process:name"),
            ("[ipv4-addr:value = '203.0.113.9'] FOLLOWEDBY [domain-name:value = 'x.example']", "several observations"),
            ("[ipv4-addr:value = '203.0.113.9'] WITHIN 5 SECONDS", "several observations"),
            ("[ipv4-addr:value != '203.0.113.9']", "`!`"),
            ("[NOT ipv4-addr:value = '203.0.113.9']", "NOT"),
            ("[domain-name:value LIKE '%.example']", "LIKE"),
            ("[domain-name:value MATCHES '.*']", "MATCHES"),
            ("[ipv4-addr:value = 'not an address']", "not such a value"),
            ("[file:hashes.MD5 = 'aa']", "file:hashes.MD5"),
            ("[x509-certificate:serial_number = '1f']", "x509-certificate:serial_number"),
            ("[x509-certificate:hashes.'SHA-256' = 'aa']", "x509-certificate:hashes.SHA-256"),
            ("[url:value = 'https://evil.example/drop.exe']", "scheme, host and port"),
            ("[url:value = 'https://evil.example?x']", "scheme, host and port"),
            ("[url:value = 'https://someone@evil.example']", "scheme, host and port"),
            ("[url:value = 'evil.example']", "scheme, host and port"),
            ("[domain-name:value ISSUBSET 'x']", "ISSUBSET"),
            ("ipv4-addr:value = '203.0.113.9'", "`[`"),
            ("[ipv4-addr:value = '203.0.113.9", "not closed"),
            ("[]", "path"),
        ] {
            let error = Pattern::parse(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
        assert!(Pattern::parse(&format!("[{}ipv4-addr:value = '1.1.1.1'", "(".repeat(400))).is_err());
    }

    #[test]
    fn in_and_or_and_brackets_are_read() {
        let pattern = Pattern::parse("[domain-name:value IN ('a.example', 'b.example') OR (ipv4-addr:value = '203.0.113.9' AND user-account:account_login = 'acme/a')]").unwrap();
        assert_eq!(pattern.comparisons().count(), 4);
        let seen =
            |list: &[(Observable, &str)]| list.iter().map(|(o, v)| Seen::new(*o, (*v).to_owned())).collect::<Vec<_>>();
        assert!(pattern.holds(&seen(&[(Observable::Domain, "b.example")])));
        assert!(!pattern.holds(&seen(&[(Observable::Address, "203.0.113.9")])));
        assert!(pattern.holds(&seen(&[(Observable::Address, "203.0.113.9"), (Observable::Account, "acme/a")])));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,200}") {
            let _ = Pattern::parse(&text);
        }
    }
}
