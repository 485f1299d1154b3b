//! The condition of a Sigma rule: `selection and not filter`, `1 of sel*`, `all of them`, with brackets.
//!
//! Pure. Must never accept a name that no selection has, a pattern that fits none, or text after the end; and never
//! recurse deeper than the limit, whatever the text.

/// LIMIT: longest condition, in bytes.
const CONDITION_BYTES_MAX: usize = 1_024;
/// LIMIT: deepest nesting of brackets and negations.
const DEPTH_MAX: usize = 24;

/// A condition over selections, by their number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// That selection.
    Is(usize),
    /// At least one of these.
    OneOf(Vec<usize>),
    /// Every one of these.
    AllOf(Vec<usize>),
    /// Not that.
    Not(Box<Condition>),
    /// All of them.
    And(Vec<Condition>),
    /// Any of them.
    Or(Vec<Condition>),
}

impl Condition {
    /// Reads a condition over selections with these names; says what is wrong otherwise.
    pub fn parse(text: &str, names: &[String]) -> Result<Self, String> {
        if text.len() > CONDITION_BYTES_MAX {
            return Err(format!("it is over {CONDITION_BYTES_MAX} bytes"));
        }
        let mut parser = Parser { words: words(text), at: 0, names };
        let condition = parser.either(0)?;
        match parser.next() {
            None => Ok(condition),
            Some(word) => Err(format!("`{word}` stands after its end")),
        }
    }

    /// Whether it holds; `holds` says whether a selection does.
    pub fn holds(&self, selection: &mut impl FnMut(usize) -> bool) -> bool {
        match self {
            Self::Is(at) => selection(*at),
            Self::OneOf(all) => all.iter().any(|at| selection(*at)),
            Self::AllOf(all) => all.iter().all(|at| selection(*at)),
            Self::Not(inner) => !inner.holds(selection),
            Self::And(all) => all.iter().all(|one| one.holds(selection)),
            Self::Or(all) => all.iter().any(|one| one.holds(selection)),
        }
    }
}

struct Parser<'a> {
    words: Vec<String>,
    at: usize,
    names: &'a [String],
}

impl Parser<'_> {
    fn next(&mut self) -> Option<String> {
        let word = self.words.get(self.at).cloned();
        self.at += 1;
        word
    }

    fn take(&mut self, wanted: &str) -> bool {
        let found = self.words.get(self.at).is_some_and(|word| word.eq_ignore_ascii_case(wanted));
        self.at += usize::from(found);
        found
    }

    fn either(&mut self, depth: usize) -> Result<Condition, String> {
        let mut all = vec![self.both(depth)?];
        while self.take("or") {
            all.push(self.both(depth)?);
        }
        Ok(if all.len() == 1 { all.remove(0) } else { Condition::Or(all) })
    }

    fn both(&mut self, depth: usize) -> Result<Condition, String> {
        let mut all = vec![self.one(depth)?];
        while self.take("and") {
            all.push(self.one(depth)?);
        }
        Ok(if all.len() == 1 { all.remove(0) } else { Condition::And(all) })
    }

    fn one(&mut self, depth: usize) -> Result<Condition, String> {
        if depth > DEPTH_MAX {
            return Err(format!("it is nested more than {DEPTH_MAX} deep"));
        }
        let word = self.next().ok_or("it ends too early")?;
        match word.to_ascii_lowercase().as_str() {
            "not" => Ok(Condition::Not(Box::new(self.one(depth + 1)?))),
            "(" => {
                let inner = self.either(depth + 1)?;
                if self.take(")") { Ok(inner) } else { Err("a bracket is not closed".to_owned()) }
            }
            "1" if self.take("of") => Ok(Condition::OneOf(self.several()?)),
            "all" if self.take("of") => Ok(Condition::AllOf(self.several()?)),
            ")" | "and" | "or" | "of" => Err(format!("`{word}` stands where a selection belongs")),
            _ => {
                let found = self.names.iter().position(|name| *name == word);
                found.map(Condition::Is).ok_or_else(|| format!("there is no selection `{word}`"))
            }
        }
    }

    /// What `them` or a pattern such as `selection_*` names.
    fn several(&mut self) -> Result<Vec<usize>, String> {
        let pattern = self.next().ok_or("it ends too early")?;
        let (head, open) = match pattern.strip_suffix('*') {
            _ if pattern.eq_ignore_ascii_case("them") => ("", true),
            Some(head) => (head, true),
            None => (pattern.as_str(), false),
        };
        let fits = |name: &&String| if open { name.starts_with(head) } else { *name == head };
        let found: Vec<usize> =
            self.names.iter().enumerate().filter(|(_, name)| fits(name)).map(|(at, _)| at).collect();
        if found.is_empty() { Err(format!("no selection fits `{pattern}`")) } else { Ok(found) }
    }
}

fn words(text: &str) -> Vec<String> {
    text.replace('(', " ( ").replace(')', " ) ").split_whitespace().map(ToOwned::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names() -> Vec<String> {
        ["sel_a", "sel_b", "filter"].map(String::from).to_vec()
    }

    fn holds(text: &str, true_ones: &[usize]) -> bool {
        Condition::parse(text, &names()).unwrap().holds(&mut |at| true_ones.contains(&at))
    }

    #[test]
    fn and_binds_closer_than_or_and_not_closest() {
        assert!(holds("sel_a or sel_b and filter", &[0]));
        assert!(!holds("(sel_a or sel_b) and filter", &[0]));
        assert!(holds("not filter and sel_a", &[0]));
        assert!(!holds("not (filter or sel_a)", &[0]));
        assert!(holds("1 of sel_* and not filter", &[1]));
        assert!(!holds("all of sel_*", &[1]) && holds("all of them", &[0, 1, 2]) && holds("1 of them", &[2]));
    }

    #[test]
    fn what_cannot_be_meant_is_an_error_that_says_so() {
        for (text, says) in [
            ("", "too early"),
            ("nothing", "no selection `nothing`"),
            ("sel_a sel_b", "after its end"),
            ("sel_a )", "after its end"),
            ("(sel_a", "not closed"),
            ("1 of x*", "no selection fits"),
            ("sel_a | count() > 5", "after its end"),
            ("sel_a and", "too early"),
            ("near sel_a", "no selection `near`"),
        ] {
            let error = Condition::parse(text, &names()).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
        assert!(Condition::parse(&"(".repeat(500), &names()).is_err());
        assert!(Condition::parse(&"not ".repeat(200), &names()).is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,200}") {
            let _ = Condition::parse(&text, &names());
        }

        #[test]
        fn no_words_make_the_parser_panic(words in prop::collection::vec("(not|and|or|all|1|of|them|sel_a|sel_\\*|\\(|\\)| )", 0..60)) {
            let _ = Condition::parse(&words.join(" "), &names());
        }
    }
}
