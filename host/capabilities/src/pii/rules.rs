//! The rules about fields of every plugin, as the gateway follows them: read once from the tenant's store, then remembered.
//!
//! Must never follow rules that were replaced: whoever writes them says so here, after the write.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ringfence_core::PluginName;
use ringfence_core::fields::FieldRule;
use ringfence_store::{Key, StoreError, TenantStore};

/// LIMIT: plugins whose rules are remembered; all are forgotten when there are more.
const KNOWN_COUNT_MAX: usize = 16_384;

/// The rules of all plugins. Cheap to clone; all clones are one.
#[derive(Clone, Default)]
pub struct FieldRules(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// By the tenant's unique id and the plugin.
    known: HashMap<(String, PluginName), Arc<[FieldRule]>>,
    /// Counts changes, so that what was read before one is not remembered after it.
    changes_count: u64,
}

impl FieldRules {
    /// The rules of a plugin; none for most.
    pub async fn of(&self, store: &TenantStore, plugin: &PluginName) -> Result<Arc<[FieldRule]>, StoreError> {
        let name = (store.uid(), plugin.clone());
        let changes_count = {
            let state = self.state();
            if let Some(rules) = state.known.get(&name) {
                return Ok(Arc::clone(rules));
            }
            state.changes_count
        };
        let stored: Vec<FieldRule> = store.get_json(&Self::key(plugin)).await?.unwrap_or_default();
        let rules: Arc<[FieldRule]> = stored.into();
        let mut state = self.state();
        if state.changes_count == changes_count {
            if state.known.len() >= KNOWN_COUNT_MAX {
                state.known.clear();
            }
            state.known.insert(name, Arc::clone(&rules));
        }
        Ok(rules)
    }

    /// To be called after every attempt to write a plugin's rules, whether it succeeded or not.
    pub fn changed(&self, store: &TenantStore, plugin: &PluginName) {
        let mut state = self.state();
        state.changes_count += 1;
        state.known.remove(&(store.uid(), plugin.clone()));
    }

    /// Where a plugin's rules lie.
    pub fn key(plugin: &PluginName) -> Key {
        Key::new(["fields", plugin.as_str()])
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Rig;
    use ringfence_core::fields::{Direction, Otherwise};

    #[tokio::test]
    async fn rules_are_remembered_until_they_change() {
        let rig = Rig::new(&[]).await;
        let (rules, plugin) = (FieldRules::default(), "visits".parse().unwrap());
        assert!(rules.of(&rig.store, &plugin).await.unwrap().is_empty());
        let rule = FieldRule {
            methods: vec!["PUT".into()],
            path: Some("/people/*".into()),
            pointer: "/email".into(),
            field: "email".into(),
            subject: None,
            direction: Direction::Response,
            otherwise: Otherwise::Mask,
        };
        rig.store.put_json(&FieldRules::key(&plugin), std::slice::from_ref(&rule)).await.unwrap();
        assert!(rules.of(&rig.store, &plugin).await.unwrap().is_empty(), "remembered");
        rules.changed(&rig.store, &plugin);
        assert_eq!(*rules.of(&rig.store, &plugin).await.unwrap(), [rule]);
    }
}
