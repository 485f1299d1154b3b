//! The first look at a tenant's policy text: where each statement starts, and whether it is small enough to be parsed.
//!
//! Must never accept what could exhaust the stack of the parser or the validator, which recurse over the text's
//! structure: nesting and operators are counted here, without recursion, before Cedar sees a byte.

use ringfence_core::limits::{
    POLICY_BYTES_MAX, POLICY_DEPTH_MAX, POLICY_OPERATORS_COUNT_MAX, POLICY_STATEMENTS_COUNT_MAX,
};

use crate::PolicyError;
use crate::occasion::Reads;

/// Words that make an expression deeper.
const OPERATOR_WORDS: [&str; 7] = ["in", "has", "like", "is", "if", "then", "else"];

/// Types whose names are a tenant's own: not the enumerated roles, nor the actions, of which each has a type of its own.
pub(crate) const NAMED_TYPES: [&str; 11] =
    ["Person", "Service", "Tenant", "Plugin", "Secret", "Field", "Bucket", "Container", "Directory", "Origin", "Queue"];

/// Where each statement starts, in bytes, in order. Fails when the text breaks a cap.
pub(crate) fn statements(text: &str) -> Result<Vec<usize>, PolicyError> {
    if text.len() > POLICY_BYTES_MAX {
        return Err(PolicyError::TooLong { bytes: text.len(), bytes_max: POLICY_BYTES_MAX });
    }
    let mut scan = Scan { text, starts: Vec::new(), open: None, depth: 0, operators: 0 };
    let mut rest = text.char_indices().peekable();
    while let Some((at, c)) = rest.next() {
        match c {
            '"' => {
                scan.begin(at);
                let mut escaped = false;
                for (_, inner) in rest.by_ref() {
                    match inner {
                        '"' if !escaped => break,
                        _ => escaped = inner == '\\' && !escaped,
                    }
                }
            }
            '/' if rest.peek().is_some_and(|(_, next)| *next == '/') => {
                for (_, inner) in rest.by_ref() {
                    if inner == '\n' {
                        break;
                    }
                }
            }
            _ if c.is_whitespace() => {}
            _ if c.is_ascii_alphanumeric() || c == '_' => {
                scan.begin(at);
                let mut end = at + c.len_utf8();
                while let Some((next_at, next)) = rest.next_if(|(_, next)| next.is_ascii_alphanumeric() || *next == '_')
                {
                    end = next_at + next.len_utf8();
                }
                if text.get(at..end).is_some_and(|word| OPERATOR_WORDS.contains(&word)) {
                    scan.operator(at)?;
                }
            }
            _ => scan.sign(at, c)?,
        }
    }
    if scan.starts.len() > POLICY_STATEMENTS_COUNT_MAX {
        return Err(PolicyError::TooMany { count: scan.starts.len(), count_max: POLICY_STATEMENTS_COUNT_MAX });
    }
    Ok(scan.starts)
}

/// One statement in two forms that say when two statements are the same, but for space and comments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Form {
    /// Without its annotations.
    pub(crate) bare: String,
    /// And with the names of things numbered by their first appearance: statements of one shape have one type, because
    /// whether a statement fits the schema depends on the types of things and on which of them are the same. Names that
    /// could be written in two ways, or look like another, keep their own.
    pub(crate) shape: String,
    /// What it reads of a host call's occasion, should it apply to one.
    pub(crate) reads: Reads,
}

/// The forms of statements that start at these places.
pub(crate) fn forms(text: &str, starts: &[usize]) -> Vec<Form> {
    let ends = starts.iter().skip(1).copied().chain(std::iter::once(text.len()));
    starts.iter().zip(ends).map(|(start, end)| form(text.get(*start..end).unwrap_or_default())).collect()
}

fn form(statement: &str) -> Form {
    let tokens = without_annotations(tokens(statement));
    let mut named: Vec<(&str, &str)> = Vec::new();
    let mut form = Form { bare: String::new(), shape: String::new(), reads: Reads::of(&tokens) };
    for (place, token) in tokens.iter().enumerate() {
        form.bare.push_str(token);
        form.bare.push(' ');
        let kind = tokens.get(..place).and_then(|before| match before {
            [.., kind, ":", ":"] if token.starts_with('"') => Some(*kind),
            _ => None,
        });
        match kind {
            Some(kind) if NAMED_TYPES.contains(&kind) && token.is_ascii() && !token.contains('\\') => {
                let number = named.iter().position(|known| *known == (kind, token)).unwrap_or_else(|| {
                    named.push((kind, token));
                    named.len() - 1
                });
                form.shape.push_str(&format!("#{number} "));
            }
            _ => {
                form.shape.push_str(token);
                form.shape.push(' ');
            }
        }
    }
    form
}

/// Words, strings and signs, without space and comments.
pub(crate) fn tokens(statement: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = statement.char_indices().peekable();
    while let Some((at, c)) = rest.next() {
        let mut end = at + c.len_utf8();
        match c {
            '"' => {
                let mut escaped = false;
                for (inner_at, inner) in rest.by_ref() {
                    end = inner_at + inner.len_utf8();
                    match inner {
                        '"' if !escaped => break,
                        _ => escaped = inner == '\\' && !escaped,
                    }
                }
            }
            '/' if rest.peek().is_some_and(|(_, next)| *next == '/') => {
                for (_, inner) in rest.by_ref() {
                    if inner == '\n' {
                        break;
                    }
                }
                continue;
            }
            _ if c.is_whitespace() => continue,
            _ if is_of_a_word(c) => {
                while let Some((next_at, next)) = rest.next_if(|(_, next)| is_of_a_word(*next)) {
                    end = next_at + next.len_utf8();
                }
            }
            _ => {}
        }
        tokens.extend(statement.get(at..end));
    }
    tokens
}

fn without_annotations(mut tokens: Vec<&str>) -> Vec<&str> {
    let mut from = 0;
    loop {
        match tokens.get(from..).unwrap_or_default() {
            ["@", _, "(", _, ")", ..] => from += 5,
            ["@", _, ..] => from += 2,
            _ => break,
        }
    }
    tokens.drain(..from);
    tokens
}

fn is_of_a_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Line and column of a byte offset, both counted from 1, the column in characters.
pub(crate) fn position(text: &str, offset: usize) -> (usize, usize) {
    let mut before = text.len().min(offset);
    while !text.is_char_boundary(before) {
        before = before.saturating_sub(1);
    }
    let before = text.get(..before).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, |last| last.chars().count()) + 1;
    (line, column)
}

/// An error at a place of the text.
pub(crate) fn invalid(text: &str, offset: usize, message: impl Into<String>, help: Option<String>) -> PolicyError {
    let (line, column) = position(text, offset);
    PolicyError::Invalid { line, column, message: message.into(), help }
}

struct Scan<'a> {
    text: &'a str,
    starts: Vec<usize>,
    open: Option<usize>,
    depth: usize,
    operators: usize,
}

impl Scan<'_> {
    fn begin(&mut self, at: usize) {
        if self.open.is_none() {
            self.open = Some(at);
            self.starts.push(at);
            self.depth = 0;
            self.operators = 0;
        }
    }

    fn sign(&mut self, at: usize, sign: char) -> Result<(), PolicyError> {
        self.begin(at);
        match sign {
            // One inside brackets is a mistake that Cedar will name; it must not start the counts anew.
            ';' if self.depth == 0 => self.open = None,
            '(' | '[' | '{' => {
                self.depth += 1;
                if self.depth > POLICY_DEPTH_MAX {
                    return Err(invalid(
                        self.text,
                        at,
                        format!("brackets are nested deeper than {POLICY_DEPTH_MAX}"),
                        None,
                    ));
                }
                self.operator(at)?;
            }
            ')' | ']' | '}' => self.depth = self.depth.saturating_sub(1),
            '&' | '|' | '=' | '!' | '<' | '>' | '+' | '-' | '*' | '.' => self.operator(at)?,
            _ => {}
        }
        Ok(())
    }

    fn operator(&mut self, at: usize) -> Result<(), PolicyError> {
        self.operators += 1;
        if self.operators > POLICY_OPERATORS_COUNT_MAX {
            let help =
                Some("split the statement, or list things in `[...]` instead of joining them with `||`".to_owned());
            return Err(invalid(
                self.text,
                at,
                format!("the statement has more than {POLICY_OPERATORS_COUNT_MAX} operators"),
                help,
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn statements_are_found_past_strings_and_comments() {
        let text = "// permit;\npermit(a \"x;\\\";\" );\n@id(\"y\") forbid;  ";
        assert_eq!(statements(text).unwrap(), vec![11, 31]);
    }

    #[test]
    fn deep_nesting_and_long_chains_are_refused_with_their_place() {
        let deep = format!("permit(principal, action, resource) when {{ {} }};", "(".repeat(POLICY_DEPTH_MAX));
        assert!(statements(&deep).unwrap_err().to_string().contains("line 1, column"));
        let long = format!(
            "permit(principal, action, resource) when {{ true {} }};",
            "&& true ".repeat(POLICY_OPERATORS_COUNT_MAX)
        );
        assert!(statements(&long).unwrap_err().to_string().contains("operators"));
    }

    #[test]
    fn counts_start_anew_with_each_statement() {
        let one = format!(
            "permit(principal, action, resource) when {{ {} true }};\n",
            "!".repeat(POLICY_OPERATORS_COUNT_MAX - 10)
        );
        assert_eq!(statements(&one.repeat(5)).unwrap().len(), 5);
    }

    #[test]
    fn positions_count_characters_from_one() {
        assert_eq!(position("ab\nä§c", 7), (2, 3));
        assert_eq!(position("ab\nä§c", 4), (2, 1));
        assert_eq!(position("", 9), (1, 1));
    }

    #[test]
    fn statements_of_one_shape_differ_in_names_alone() {
        let of = |text: &str| form(text);
        let one = of(
            "@id(\"x\") permit (principal == R::Service::\"acme/a\", action, resource == R::Secret::\"acme/x\"); // a",
        );
        let two = of("permit(principal==R::Service::\"acme/b\",action,\nresource == R::Secret::\"acme/y\");");
        assert_eq!(one.shape, two.shape);
        assert_ne!(one.bare, two.bare);
        assert_eq!(
            of("@a permit(principal, action, resource);").bare,
            of("permit ( principal,action,resource ) ;").bare
        );
        // Which names are the same, what sort of thing they are, and any other string, are part of the shape.
        let base = of("when { R::Secret::\"a\" == R::Secret::\"b\" }").shape;
        for other in [
            "when { R::Secret::\"a\" == R::Secret::\"a\" }",
            "when { R::Secret::\"a\" == R::Plugin::\"b\" }",
            "when { R::Secret::\"a\" == R::Secret::\"\\u{62}\" }",
            "when { R::Secret::\"a\" == R::Secret::\"\u{431}\" }",
        ] {
            assert_ne!(of(other).shape, base, "{other}");
        }
        assert_ne!(of("action == R::Action::\"a\"").shape, of("action == R::Action::\"b\"").shape);
        assert_ne!(of("x == R::Role::\"a\"").shape, of("x == R::Role::\"b\"").shape);
        assert_ne!(of("x like \"a\"").shape, of("x like \"b\"").shape);
    }

    proptest! {
        #[test]
        fn scanning_never_panics(text in ".{0,200}") {
            let _ = statements(&text);
            let _ = position(&text, text.len() / 2);
            let _ = forms(&text, &[0]);
        }
    }
}
