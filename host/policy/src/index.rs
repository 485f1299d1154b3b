//! Which policies can apply to a question at all: those whose scope names it. Found by lookup, not by asking them all.
//!
//! Must never leave out a policy whose scope fits: a forbid that is not asked is a yes. INVARIANT: a policy lies in
//! every bucket under which a question that fits its scope looks, and Cedar, which short-circuits the scope, decides a
//! policy whose scope does not fit without evaluating its conditions; so the slice answers and errs as the whole set does
//! (`tests_changes.rs` asks both). In the bucket of one action a policy of the platform names that action alone: Cedar makes
//! a set of a list each time it looks at one, which cost more than everything else.
//!
//! What lies in a bucket is evaluated by Cedar's evaluator. Its authorizer takes sets: for each it puts every condition
//! together anew, copies the request, and lists what did not apply, which took a third of a decision.

use std::collections::{HashMap, HashSet};

use cedar_policy::{
    ActionConstraint, EntityTypeName, EntityUid, Policy as CedarPolicy, PolicySet, PrincipalConstraint,
    ResourceConstraint,
};
use cedar_policy_core::ast::{Expr, Literal, SlotEnv, ValueKind};
use cedar_policy_core::evaluator::Evaluator;

/// Longest list of actions in a tenant's policy that is spread over the buckets of each; a longer one lies with those
/// for every action. LIMIT: bounds the memory of an index to this many copies of each policy.
pub(crate) const ACTIONS_SPREAD_COUNT_MAX: usize = 2;

/// What a scope says of one side.
enum Side {
    Any,
    Type(EntityTypeName),
    Entity(EntityUid),
}

/// What a question names, in Cedar's words.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) action: EntityUid,
    /// The principal, then what it is in.
    pub(crate) principals: Vec<EntityUid>,
    /// The resource, then what it is in.
    pub(crate) resources: Vec<EntityUid>,
}

/// A policy, and when it applies.
#[derive(Debug, Clone)]
pub(crate) struct Statement {
    pub(crate) policy: CedarPolicy,
    pub(crate) condition: Condition,
}

/// Scope, `when` and `unless` of a policy as the one expression that is evaluated.
#[derive(Debug, Clone)]
pub(crate) struct Condition(Expr);

/// Policies by scope: by action, then by what it says of the principal, then of the resource. Most questions find little on
/// the way, so little of a question is hashed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Index {
    every_action: BySide<BySide<Vec<Statement>>>,
    actions: HashMap<EntityUid, BySide<BySide<Vec<Statement>>>>,
}

/// Things by what a scope says of one side.
#[derive(Debug, Clone, Default)]
struct BySide<T> {
    any: T,
    types: HashMap<EntityTypeName, T>,
    entities: HashMap<EntityUid, T>,
}

/// What sort of side it is, and for an entity its height: [`height`].
type Sort = (u8, u8);

// === impl BySide ===

impl<T: Default> BySide<T> {
    fn of(&mut self, side: Side) -> &mut T {
        match side {
            Side::Any => &mut self.any,
            Side::Type(name) => self.types.entry(name).or_default(),
            Side::Entity(uid) => self.entities.entry(uid).or_default(),
        }
    }

    /// All that fits a thing: `named` is the thing itself and then what it is in.
    fn fitting<'a>(&'a self, named: &'a [EntityUid]) -> impl Iterator<Item = &'a T> {
        let of_type = named.first().and_then(|uid| self.types.get(uid.type_name()));
        let entities = named.iter().filter_map(|uid| self.entities.get(uid));
        std::iter::once(&self.any).chain(of_type).chain(entities)
    }

    fn all(&self) -> impl Iterator<Item = (Sort, &T)> {
        let types = self.types.values().map(|below| ((1, 0), below));
        let entities = self.entities.iter().map(|(uid, below)| ((2, height(uid)), below));
        std::iter::once(((0, 0), &self.any)).chain(types).chain(entities)
    }
}

// === impl Condition ===

impl Condition {
    /// Fails for what Cedar takes into no set, which is nothing that was parsed as a policy.
    fn of(policy: &CedarPolicy) -> Result<Self, String> {
        let set = PolicySet::from_policies([policy.clone()]).map_err(|error| error.to_string())?;
        let condition = set.as_ref().policies().next().map(|policy| policy.condition());
        Ok(Self(condition.ok_or("a policy is lost in a set of its own")?))
    }

    /// Whether it holds for the evaluator's question. The error is in Cedar's words.
    pub(crate) fn holds(&self, evaluator: &Evaluator<'_>) -> Result<bool, String> {
        let value = evaluator.interpret(&self.0, &SlotEnv::new()).map_err(|error| error.to_string())?;
        match value.value_kind() {
            ValueKind::Lit(Literal::Bool(holds)) => Ok(*holds),
            _ => Err("its condition is neither true nor false".to_owned()),
        }
    }
}

// === impl Index ===

impl Index {
    /// Sorts policies into buckets, lists of at most `actions_spread_count_max` actions into the bucket of each. Fails
    /// when two have one id, for a reason would then name either.
    pub(crate) fn build<'a>(
        policies: impl IntoIterator<Item = &'a CedarPolicy>,
        actions_spread_count_max: usize,
    ) -> Result<Self, String> {
        let mut index = Self::default();
        let mut ids = HashSet::new();
        for policy in policies {
            if !ids.insert(policy.id()) {
                return Err(format!("two policies have the id `{}`", policy.id()));
            }
            for action in actions(policy.action_constraint(), actions_spread_count_max) {
                let lies = match &action {
                    Some(action) if actions_spread_count_max == usize::MAX => for_action(policy, action),
                    _ => policy.clone(),
                };
                let principals = match action {
                    Some(action) => index.actions.entry(action).or_default(),
                    None => &mut index.every_action,
                };
                let resources = principals.of(principal_side(policy.principal_constraint()));
                resources
                    .of(resource_side(policy.resource_constraint()))
                    .push(Statement { condition: Condition::of(&lies)?, policy: lies });
            }
        }
        Ok(index)
    }

    /// The policies that can apply, none twice.
    pub(crate) fn slice<'a>(&'a self, place: &'a Place) -> impl Iterator<Item = &'a Statement> {
        let principals = std::iter::once(&self.every_action).chain(self.actions.get(&place.action));
        principals
            .flat_map(|principals| principals.fitting(&place.principals))
            .flat_map(|resources| resources.fitting(&place.resources))
            .flatten()
    }

    /// The most policies that can apply to one question.
    pub(crate) fn applicable_count_max(&self) -> usize {
        let every = std::iter::once((false, &self.every_action));
        let mut largest: HashMap<(bool, Sort, Sort), usize> = HashMap::new();
        for (of_one_action, principals) in every.chain(self.actions.values().map(|principals| (true, principals))) {
            for (principal, resources) in principals.all() {
                for (resource, all) in resources.all() {
                    // A question looks under a thing, under the plugin it belongs to and under its tenant: all count.
                    let most = largest.entry((of_one_action, principal, resource)).or_default();
                    *most = all.len().max(*most);
                }
            }
        }
        largest.values().sum()
    }
}

/// How many sorts of things can be below one.
fn height(uid: &EntityUid) -> u8 {
    match uid.type_name().basename() {
        "Bucket" | "Container" | "Directory" => 0,
        "Tenant" => 2,
        _ => 1,
    }
}

/// The same policy for requests of one of its actions; as it is when it cannot be told so.
fn for_action(policy: &CedarPolicy, action: &EntityUid) -> CedarPolicy {
    let narrow = || {
        let mut json = policy.to_json().ok()?;
        let scope = json.get_mut("action")?;
        let (kind, id) = (action.type_name().to_string(), action.id().unescaped());
        *scope = serde_json::json!({ "op": "==", "entity": { "type": kind, "id": id } });
        CedarPolicy::from_json(Some(policy.id().clone()), json).ok()
    };
    narrow().unwrap_or_else(|| policy.clone())
}

fn actions(constraint: ActionConstraint, spread_count_max: usize) -> Vec<Option<EntityUid>> {
    match constraint {
        ActionConstraint::Any => vec![None],
        ActionConstraint::Eq(action) => vec![Some(action)],
        ActionConstraint::In(mut list) => {
            list.sort();
            list.dedup();
            if list.len() > spread_count_max { vec![None] } else { list.into_iter().map(Some).collect() }
        }
    }
}

fn principal_side(constraint: PrincipalConstraint) -> Side {
    match constraint {
        PrincipalConstraint::Any => Side::Any,
        PrincipalConstraint::Is(name) => Side::Type(name),
        PrincipalConstraint::In(uid) | PrincipalConstraint::Eq(uid) | PrincipalConstraint::IsIn(_, uid) => {
            Side::Entity(uid)
        }
    }
}

fn resource_side(constraint: ResourceConstraint) -> Side {
    match constraint {
        ResourceConstraint::Any => Side::Any,
        ResourceConstraint::Is(name) => Side::Type(name),
        ResourceConstraint::In(uid) | ResourceConstraint::Eq(uid) | ResourceConstraint::IsIn(_, uid) => {
            Side::Entity(uid)
        }
    }
}
