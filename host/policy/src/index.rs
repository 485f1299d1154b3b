//! Which policies can apply to a question at all: those whose scope names it. Found by lookup, not by asking them all.
//!
//! Must never leave out a policy whose scope fits: a forbid that is not asked is a yes. INVARIANT: a policy lies in
//! every bucket under which a question that fits its scope looks, and Cedar, which short-circuits the scope, decides a
//! policy whose scope does not fit without evaluating its conditions; so the slice answers and errs as the whole set does
//! (`tests_changes.rs` asks both). In the bucket of one action a policy of the platform names that action alone: Cedar makes
//! a set of a list each time it looks at one, which cost more than everything else.

use std::collections::{BTreeSet, HashMap};

use cedar_policy::{
    ActionConstraint, EntityTypeName, EntityUid, Policy as CedarPolicy, PolicySet, PolicySetError, PrincipalConstraint,
    ResourceConstraint,
};

/// Longest list of actions in a tenant's policy that is spread over the buckets of each; a longer one lies with those
/// for every action. LIMIT: bounds the memory of an index to this many copies of each policy.
pub(crate) const ACTIONS_SPREAD_COUNT_MAX: usize = 2;

/// What a scope says of one side.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Side {
    Any,
    Type(EntityTypeName),
    Entity(EntityUid),
}

/// Where policies with one and the same scope lie.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Bucket {
    action: Option<EntityUid>,
    principal: Side,
    resource: Side,
}

/// Which sides a bucket names; only shapes that occur are looked under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Shape {
    action: bool,
    principal: u8,
    resource: u8,
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

/// Policies by scope.
#[derive(Debug, Clone, Default)]
pub(crate) struct Index {
    buckets: HashMap<Bucket, PolicySet>,
    shapes: BTreeSet<Shape>,
}

impl Index {
    /// Sorts policies into buckets, lists of at most `actions_spread_count_max` actions into the bucket of each. Fails
    /// when two have one id.
    pub(crate) fn build<'a>(
        policies: impl IntoIterator<Item = &'a CedarPolicy>,
        actions_spread_count_max: usize,
    ) -> Result<Self, Box<PolicySetError>> {
        let mut index = Self::default();
        for policy in policies {
            let principal = principal_side(policy.principal_constraint());
            let resource = resource_side(policy.resource_constraint());
            for action in actions(policy.action_constraint(), actions_spread_count_max) {
                let bucket = Bucket { action, principal: principal.clone(), resource: resource.clone() };
                let lies = match &bucket.action {
                    Some(action) if actions_spread_count_max == usize::MAX => for_action(policy, action),
                    _ => policy.clone(),
                };
                index.shapes.insert(shape(&bucket));
                index.buckets.entry(bucket).or_default().add(lies)?;
            }
        }
        Ok(index)
    }

    /// The policies that can apply, in disjoint sets.
    pub(crate) fn slices<'a>(&'a self, place: &'a Place) -> impl Iterator<Item = &'a PolicySet> {
        self.shapes.iter().flat_map(move |shape| {
            let action = shape.action.then(|| place.action.clone());
            sides(shape.principal, &place.principals).flat_map(move |principal| {
                let action = action.clone();
                sides(shape.resource, &place.resources).filter_map(move |resource| {
                    let bucket = Bucket { action: action.clone(), principal: principal.clone(), resource };
                    self.buckets.get(&bucket)
                })
            })
        })
    }

    /// The most policies that can apply to one question.
    pub(crate) fn applicable_count_max(&self) -> usize {
        let mut largest: HashMap<(Shape, u8, u8), usize> = HashMap::new();
        for (bucket, set) in &self.buckets {
            // A question looks under a thing, under the plugin it belongs to and under its tenant: all count.
            let family = (shape(bucket), height(&bucket.principal), height(&bucket.resource));
            let most = largest.entry(family).or_default();
            *most = set.num_of_policies().max(*most);
        }
        largest.values().sum()
    }
}

const ANY: u8 = 0;
const TYPE: u8 = 1;
const ENTITY: u8 = 2;

fn side_shape(side: &Side) -> u8 {
    match side {
        Side::Any => ANY,
        Side::Type(_) => TYPE,
        Side::Entity(_) => ENTITY,
    }
}

/// How many sorts of things can be below one.
fn height(side: &Side) -> u8 {
    match side {
        Side::Entity(uid) => match uid.type_name().basename() {
            "Bucket" | "Container" | "Directory" => 0,
            "Tenant" => 2,
            _ => 1,
        },
        Side::Any | Side::Type(_) => 0,
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

fn shape(bucket: &Bucket) -> Shape {
    Shape {
        action: bucket.action.is_some(),
        principal: side_shape(&bucket.principal),
        resource: side_shape(&bucket.resource),
    }
}

/// Under what a question looks for policies of a shape, on one side.
fn sides(shape: u8, named: &[EntityUid]) -> impl Iterator<Item = Side> {
    let count = if shape == ENTITY { named.len() } else { 1 };
    named.iter().take(count).map(move |uid| match shape {
        ANY => Side::Any,
        TYPE => Side::Type(uid.type_name().clone()),
        _ => Side::Entity(uid.clone()),
    })
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
