//! What an API key is good for, narrower than the role of its holder.
//!
//! Must never give anything: a scope only takes away. That nothing is done beyond it is what policy decides.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{ActClass, PluginName};

/// What a key is good for. Of what it does not speak it takes nothing away.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KeyScope {
    /// The classes of acts it can do; none for those of every class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<BTreeSet<ActClass>>,
    /// The plugins it can act on, and on nothing else; none for whatever its role allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugins: Option<BTreeSet<PluginName>>,
}

impl fmt::Display for KeyScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let classes = self.classes.as_ref().map(|all| all.iter().map(|class| class.as_str()).collect::<Vec<_>>());
        let plugins = self.plugins.as_ref().map(|all| all.iter().map(PluginName::as_str).collect::<Vec<_>>());
        match (classes, plugins) {
            (None, None) => f.write_str("everything"),
            (Some(classes), None) => f.write_str(&classes.join(", ")),
            (None, Some(plugins)) => write!(f, "plugin {}", plugins.join(", ")),
            (Some(classes), Some(plugins)) => write!(f, "{} on plugin {}", classes.join(", "), plugins.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_is_said_in_few_words_and_read_as_it_was_written() {
        let classes = Some(BTreeSet::from([ActClass::Read, ActClass::Invoke]));
        let plugins: Option<BTreeSet<PluginName>> = Some(BTreeSet::from(["hello".parse().unwrap()]));
        for (scope, words) in [
            (KeyScope { classes: classes.clone(), plugins: None }, "invoke, read"),
            (KeyScope { classes: None, plugins: plugins.clone() }, "plugin hello"),
            (KeyScope { classes, plugins }, "invoke, read on plugin hello"),
        ] {
            assert_eq!(scope.to_string(), words);
            let text = serde_json::to_string(&scope).unwrap();
            assert_eq!(serde_json::from_str::<KeyScope>(&text).unwrap(), scope, "{text}");
        }
    }
}
