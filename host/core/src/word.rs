//! The text of a name or an id: a short one lies in the value itself, a long one is shared by its copies. An invocation hands
//! its names and ids on some hundred times, and an allocation each would be a good part of what the host does for it.
//!
//! Must never be larger than a pointer and a length, for errors carry several; and never hold what `ids.rs` has not checked.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// Longest text that lies in the value.
const SHORT_BYTES_MAX: usize = 14;

const _: () = assert!(size_of::<Word>() == size_of::<Box<str>>());

/// A text that does not change.
#[derive(Clone)]
pub(crate) enum Word {
    /// What is behind `length` is zeros.
    Short { length: u8, bytes: [u8; SHORT_BYTES_MAX] },
    /// A pointer alone: one to a `str` has its length beside it.
    Long(Arc<String>),
}

impl Word {
    pub(crate) fn as_str(&self) -> &str {
        match self {
            // INVARIANT: these bytes are those of a whole text, so the default is never taken.
            Self::Short { .. } => std::str::from_utf8(self.as_bytes()).unwrap_or_default(),
            Self::Long(text) => text.as_str(),
        }
    }

    fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Short { length, bytes } => bytes.get(..usize::from(*length)).unwrap_or_default(),
            Self::Long(text) => text.as_bytes(),
        }
    }

    fn short(text: &str) -> Option<Self> {
        let mut bytes = [0; SHORT_BYTES_MAX];
        bytes.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
        Some(Self::Short { length: u8::try_from(text.len()).ok()?, bytes })
    }
}

impl From<&str> for Word {
    fn from(text: &str) -> Self {
        Self::short(text).unwrap_or_else(|| Self::Long(Arc::new(text.to_owned())))
    }
}

impl From<String> for Word {
    fn from(text: String) -> Self {
        Self::short(&text).unwrap_or_else(|| Self::Long(Arc::new(text)))
    }
}

impl From<Word> for String {
    fn from(word: Word) -> Self {
        match word {
            Word::Short { .. } => word.as_str().to_owned(),
            Word::Long(text) => Arc::unwrap_or_clone(text),
        }
    }
}

impl PartialEq for Word {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Word {}

impl PartialOrd for Word {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Word {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl Hash for Word {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasher, RandomState};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_fits_lies_in_the_value_and_what_does_not_is_shared() {
        for length in 0..=2 * SHORT_BYTES_MAX {
            let text = "x".repeat(length);
            let word = Word::from(text.as_str());
            assert_eq!(matches!(word, Word::Short { .. }), length <= SHORT_BYTES_MAX, "{length}");
            assert_eq!((word.as_str(), word.clone().as_str()), (text.as_str(), text.as_str()));
        }
        let long = Word::from("x".repeat(SHORT_BYTES_MAX + 1));
        assert_eq!(long.as_str().as_ptr(), long.clone().as_str().as_ptr());
    }

    proptest! {
        #[test]
        fn a_word_is_its_text_in_every_way(one in ".{0,12}", other in ".{0,12}") {
            let random = RandomState::new();
            let words = [Word::from(one.as_str()), Word::from(other.clone())];
            prop_assert_eq!(words[0].as_str(), &one);
            prop_assert_eq!(words[0].cmp(&words[1]), one.cmp(&other));
            prop_assert_eq!(words[0] == words[1], one == other);
            prop_assert_eq!(random.hash_one(&words[0]), random.hash_one(Word::from(one.clone())));
            prop_assert_eq!(String::from(words[1].clone()), other);
        }
    }
}
