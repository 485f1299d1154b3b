//! Rulings that are remembered, each tenant's apart.
//!
//! Must never let one tenant's questions cost another its answers: each is emptied alone when it holds all it may, and when
//! all together hold too many, those that hold most lose theirs.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use ringfence_core::TenantId;
use ringfence_core::limits::{POLICY_CACHED_COUNT_MAX, POLICY_CACHED_PER_TENANT_COUNT_MAX};

use crate::decision::Ruling;
use crate::question::Question;

type Rulings = HashMap<Question, Arc<Ruling>>;

/// INVARIANT: an answer depends on the question and on the state of the resource's tenant alone; what time changes (a role
/// held for a while) is part of the question. Whoever reads one checks that the state's version is still the same.
#[derive(Default)]
pub(crate) struct Answers(RwLock<Remembered>);

#[derive(Default)]
struct Remembered {
    tenants: HashMap<TenantId, Rulings>,
    /// Of questions of operators about the host.
    host: Rulings,
    /// In all.
    count: usize,
}

impl Answers {
    /// What was answered before.
    pub(crate) fn get(&self, question: &Question) -> Option<Arc<Ruling>> {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let own = match payer(question) {
            Some(tenant) => all.tenants.get(tenant)?,
            None => &all.host,
        };
        own.get(question).cloned()
    }

    /// Remembers an answer.
    pub(crate) fn put(&self, question: &Question, ruling: &Arc<Ruling>) {
        // Dropped when nobody waits for the lock.
        let _emptied = self.0.write().unwrap_or_else(PoisonError::into_inner).put(question.clone(), ruling.clone());
    }

    /// Forgets a tenant's.
    pub(crate) fn forget(&self, tenant: &TenantId) {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        all.count -= all.tenants.remove(tenant).map_or(0, |own| own.len());
    }
}

impl Remembered {
    /// Gives what had to go.
    fn put(&mut self, question: Question, ruling: Arc<Ruling>) -> Vec<Rulings> {
        let mut emptied = Vec::new();
        // LIMIT: emptied when full; the answers are cheap enough to be found again.
        if self.count >= POLICY_CACHED_COUNT_MAX {
            self.make_room(&mut emptied);
        }
        let own = match payer(&question) {
            Some(tenant) => self.tenants.entry(tenant.clone()).or_default(),
            None => &mut self.host,
        };
        if own.len() >= POLICY_CACHED_PER_TENANT_COUNT_MAX {
            self.count -= own.len();
            emptied.push(std::mem::take(own));
        }
        if own.insert(question, ruling).is_none() {
            self.count += 1;
        }
        emptied
    }

    /// Empties those that hold most, until one more tenant could hold all it may: seldom enough to look at all of them.
    fn make_room(&mut self, emptied: &mut Vec<Rulings>) {
        let mut sizes: Vec<(usize, TenantId)> =
            self.tenants.iter().map(|(tenant, own)| (own.len(), tenant.clone())).collect();
        sizes.sort_unstable_by(|a, b| b.cmp(a));
        for (size, tenant) in sizes {
            if self.count + POLICY_CACHED_PER_TENANT_COUNT_MAX <= POLICY_CACHED_COUNT_MAX {
                return;
            }
            emptied.extend(self.tenants.remove(&tenant));
            self.count -= size;
        }
    }
}

/// Whose room an answer takes: who asks, or else whom the question is about; none for operators about the host.
fn payer(question: &Question) -> Option<&TenantId> {
    question.who.tenant.as_ref().or_else(|| question.resource.tenant())
}

#[cfg(test)]
impl Answers {
    /// Answers of a tenant.
    pub(crate) fn count_of(&self, tenant: &TenantId) -> usize {
        self.0.read().unwrap_or_else(PoisonError::into_inner).tenants.get(tenant).map_or(0, HashMap::len)
    }
}

#[cfg(test)]
mod tests {
    use ringfence_core::{PrincipalKind, Resource, Role};

    use super::*;
    use crate::question::Who;
    use crate::tests::{active, plugin, tenant};

    fn question(of: &str, number: usize) -> Question {
        let who = Who {
            id: format!("{of}/p{number}").parse().unwrap(),
            kind: PrincipalKind::Service,
            role: Some(Role::Caller),
            tenant: Some(tenant(of)),
            elevated_from: None,
            device: None,
            trust: None,
            scope: None,
        };
        Question::plain(who, "invoke", plugin(of, "hello"))
    }

    fn ruling() -> Arc<Ruling> {
        active().shared.rule(&question("acme", 0))
    }

    fn counted(all: &Remembered) -> usize {
        all.host.len() + all.tenants.values().map(HashMap::len).sum::<usize>()
    }

    #[test]
    fn a_tenant_with_too_many_questions_loses_its_own_answers() {
        let (answers, ruling) = (Answers::default(), ruling());
        answers.put(&question("neighbour", 0), &ruling);
        for number in 0..2 * POLICY_CACHED_COUNT_MAX {
            answers.put(&question("flood", number), &ruling);
            assert!(answers.count_of(&tenant("flood")) <= POLICY_CACHED_PER_TENANT_COUNT_MAX);
        }
        assert!(answers.get(&question("neighbour", 0)).is_some(), "the neighbour's answer went");
        assert!(answers.get(&question("flood", 2 * POLICY_CACHED_COUNT_MAX - 1)).is_some());
        assert!(answers.get(&question("flood", 0)).is_none());
    }

    #[test]
    fn many_tenants_with_many_questions_cost_a_small_one_nothing() {
        let (mut all, ruling) = (Remembered::default(), ruling());
        all.put(question("neighbour", 0), ruling.clone());
        let tenants = 2 * POLICY_CACHED_COUNT_MAX / POLICY_CACHED_PER_TENANT_COUNT_MAX;
        for number in 0..POLICY_CACHED_PER_TENANT_COUNT_MAX {
            for of in 0..tenants {
                all.put(question(&format!("flood-{of}"), number), ruling.clone());
            }
            assert!(all.count <= POLICY_CACHED_COUNT_MAX);
        }
        assert_eq!(all.count, counted(&all));
        assert!(all.tenants.contains_key(&tenant("neighbour")));
    }

    #[test]
    fn tenants_of_one_question_each_are_bounded_together() {
        let (mut all, ruling) = (Remembered::default(), ruling());
        for of in 0..POLICY_CACHED_COUNT_MAX + 10 {
            all.put(question(&format!("t{of}"), 0), ruling.clone());
        }
        assert!(all.count <= POLICY_CACHED_COUNT_MAX);
        assert!(all.count > POLICY_CACHED_COUNT_MAX / 2, "far more went than had to: {} are left", all.count);
        assert_eq!(all.count, counted(&all));
    }

    #[test]
    fn who_asks_pays_and_a_forgotten_tenant_leaves_its_room() {
        let (answers, ruling) = (Answers::default(), ruling());
        let about_host = Question { resource: Resource::Host, ..question("acme", 1) };
        answers.put(&about_host, &ruling);
        answers.put(&question("acme", 0), &ruling);
        assert_eq!(answers.count_of(&tenant("acme")), 2);
        answers.forget(&tenant("acme"));
        assert!(answers.get(&about_host).is_none());
        assert_eq!(answers.0.read().unwrap().count, 0);
    }
}
