//! Calls from one plugin to another of the same tenant: where an invocation stands in the tree of such calls, and what
//! is handed to whoever runs the one that is called. A message carries the same from who sends it to who is handed it.
//!
//! Depth, count and trace are carried by the host, beside request and message: no header of a guest can say them. Must never
//! carry a tenant's name: who is called belongs to the tenant whose store is in the call.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use futures::future::BoxFuture;
use ringfence_core::limits::{MESSAGE_DEPTH_MAX, PLUGIN_CALL_DEPTH_MAX, PLUGIN_CALLS_COUNT_MAX};
use ringfence_core::{CausedBy, InvocationId, PluginName, Principal, PrincipalId, RunId, calls};
use ringfence_engine::Body;
use ringfence_store::TenantStore;
use serde::{Deserialize, Serialize};

/// Where an invocation stands below the one that no plugin called. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Chain {
    tree: Arc<Tree>,
    depth: u32,
}

#[derive(Debug)]
struct Tree {
    root: InvocationId,
    /// The root's own, or of the invocation that led to it by messages.
    first: InvocationId,
    /// Messages that led to it.
    messages_count: u32,
    on_behalf_of: Principal,
    /// Who stands at the beginning of it, messages that led to it included.
    began_by: PrincipalId,
    /// The run below which all of it is.
    family: Option<Family>,
    traceparent: Option<String>,
    calls_count: AtomicU32,
}

/// A run below which something is done: what that begins is a descendant of the family's first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Family {
    /// The first run of the family.
    pub root: RunId,
    /// How deep below it the run is.
    pub depth: u32,
}

/// What led to something that nobody waits for: a message, or an invocation that was started beside a request. One that
/// nothing is known of is the default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trail {
    /// The invocation that sent it, and the first of all; none when no plugin did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<CausedBy>,
    /// The trace it is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// Messages in a row from the first to this one.
    #[serde(default)]
    pub messages_count: u32,
    /// Who stands at the beginning of it all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub began_by: Option<PrincipalId>,
    /// The run below which it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family: Option<Family>,
}

/// Why a call goes no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainEnd {
    /// It would be deeper than [`PLUGIN_CALL_DEPTH_MAX`].
    TooDeep,
    /// It would be one more than [`PLUGIN_CALLS_COUNT_MAX`]; the first such of its tree.
    TooMany,
    /// And another.
    TooManyAgain,
}

/// A call on its way. The calling plugin was granted the origin that it named.
pub struct PluginCall {
    /// The tenant of both.
    pub store: TenantStore,
    /// Who calls.
    pub from: PluginName,
    /// In which of its invocations.
    pub invocation: InvocationId,
    /// Where that stands.
    pub chain: Chain,
    /// Who is called.
    pub to: PluginName,
    /// Wall time that the caller has left, milliseconds.
    pub time_left_ms: u64,
    /// What is asked.
    pub request: http::Request<Body>,
}

/// Who runs plugins that plugins call.
pub trait Exchange: Send + Sync {
    /// Answers with what the callee says, or with why it was not run. Dropping the future or the answer's body ends the call.
    fn call(&self, call: PluginCall) -> BoxFuture<'static, http::Response<Body>>;
}

// === impl Trail ===

impl Trail {
    /// Of what a request from outside starts, or a run: the trace alone, when there is one.
    pub fn of_trace(traceparent: Option<String>) -> Self {
        Self { traceparent: traceparent.filter(|text| calls::is_traceparent(text)), ..Self::default() }
    }

    /// The same, where nothing is known of who began it: begun by him.
    #[must_use]
    pub fn begun_by(mut self, who: Option<PrincipalId>) -> Self {
        self.began_by = self.began_by.or(who);
        self
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

// === impl Chain ===

impl Chain {
    /// An invocation that no plugin called: on whose behalf, and the `traceparent` of what started it.
    pub fn root(root: InvocationId, on_behalf_of: Principal, traceparent: Option<String>) -> Self {
        Self::resumed(root, on_behalf_of, &Trail { traceparent, ..Trail::default() })
    }

    /// An invocation that no plugin waits for, and what led to it. Its calls are counted anew, its messages go on.
    pub fn resumed(root: InvocationId, on_behalf_of: Principal, trail: &Trail) -> Self {
        let first = trail.by.as_ref().map_or_else(|| root.clone(), |by| by.root.clone());
        let began_by = trail.began_by.clone().unwrap_or_else(|| on_behalf_of.id().clone());
        let (traceparent, messages_count, family) =
            (trail.traceparent.clone(), trail.messages_count, trail.family.clone());
        let calls_count = AtomicU32::new(0);
        let tree = Tree { root, first, messages_count, on_behalf_of, began_by, family, traceparent, calls_count };
        Self { tree: Arc::new(tree), depth: 0 }
    }

    /// What a message or a run carries that `sender` sends or begins from here; none when [`MESSAGE_DEPTH_MAX`] led to it already.
    pub fn sent(&self, sender: &InvocationId) -> Option<Trail> {
        let messages_count = self.tree.messages_count.saturating_add(1);
        (messages_count <= MESSAGE_DEPTH_MAX).then(|| Trail {
            by: Some(CausedBy { root: self.first_id().clone(), parent: sender.clone() }),
            traceparent: self.traceparent(sender),
            messages_count,
            began_by: Some(self.tree.began_by.clone()),
            family: self.tree.family.clone(),
        })
    }

    /// The place of one more call from here. Every attempt counts, also one that is refused.
    pub fn further(&self) -> Result<Self, ChainEnd> {
        let before = self.tree.calls_count.fetch_add(1, Ordering::Relaxed);
        if before == PLUGIN_CALLS_COUNT_MAX {
            return Err(ChainEnd::TooMany);
        }
        if before > PLUGIN_CALLS_COUNT_MAX {
            return Err(ChainEnd::TooManyAgain);
        }
        if self.depth >= PLUGIN_CALL_DEPTH_MAX {
            return Err(ChainEnd::TooDeep);
        }
        Ok(Self { tree: Arc::clone(&self.tree), depth: self.depth.saturating_add(1) })
    }

    /// The invocation at the root, which waits for all of these calls.
    pub fn root_id(&self) -> &InvocationId {
        &self.tree.root
    }

    /// The first of all, messages that led to the root included. It may be over long since.
    pub fn first_id(&self) -> &InvocationId {
        &self.tree.first
    }

    /// On whose behalf all of it is done.
    pub fn on_behalf_of(&self) -> &Principal {
        &self.tree.on_behalf_of
    }

    /// The `traceparent` for a call that `parent` makes.
    pub fn traceparent(&self, parent: &InvocationId) -> Option<String> {
        calls::traceparent(self.tree.traceparent.as_deref(), &self.tree.first, parent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Same, root_chain};

    #[test]
    fn a_chain_ends_at_its_depth() {
        let mut chain = root_chain();
        for _ in 0..PLUGIN_CALL_DEPTH_MAX {
            chain = chain.further().unwrap();
        }
        assert_eq!(chain.further().unwrap_err(), ChainEnd::TooDeep);
    }

    #[test]
    fn calls_are_counted_over_the_whole_tree_and_refused_ones_too() {
        let root = root_chain();
        let (left, right) = (root.further().unwrap(), root.further().unwrap());
        for at in 2..PLUGIN_CALLS_COUNT_MAX {
            let from = if at % 2 == 0 { &left } else { &right };
            assert!(from.further().is_ok(), "{at}");
        }
        assert_eq!(left.further().unwrap_err(), ChainEnd::TooMany);
        assert_eq!(root.further().unwrap_err(), ChainEnd::TooManyAgain);
        assert!(root_chain().further().is_ok(), "another tree is another count");
    }

    #[test]
    fn a_row_of_messages_ends_at_its_depth_whatever_calls_lie_between_and_stays_in_one_trace() {
        let first = root_chain();
        let trace = first.traceparent(first.root_id()).unwrap()[..35].to_owned();
        let (mut chain, mut sender) = (first.clone(), first.root_id().clone());
        for number in 1..=MESSAGE_DEPTH_MAX {
            // Each is sent by a plugin that the one who was handed the last message called.
            let trail = chain.further().unwrap().sent(&sender).unwrap();
            assert_eq!(trail.messages_count, number);
            assert_eq!(trail.by, Some(CausedBy { root: first.root_id().clone(), parent: sender }));
            assert!(trail.traceparent.as_ref().unwrap().starts_with(&trace), "{trail:?}");
            // As it lies in the store.
            let trail: Trail = serde_json::from_slice(&serde_json::to_vec(&trail).unwrap()).unwrap();
            sender = InvocationId::random(&Same(u8::try_from(number).unwrap()));
            chain = Chain::resumed(sender.clone(), first.on_behalf_of().clone(), &trail);
            assert_eq!((chain.root_id(), chain.first_id()), (&sender, first.root_id()));
            for _ in 0..PLUGIN_CALLS_COUNT_MAX - 1 {
                assert!(chain.further().is_ok(), "calls are counted anew for each message");
            }
        }
        assert_eq!(chain.sent(&sender), None);
        assert_eq!(chain.further().unwrap().sent(&sender), None, "nor through a call");
        assert!(first.sent(first.root_id()).is_some());
    }

    #[test]
    fn who_began_it_and_the_run_below_which_it_is_are_the_same_however_long_the_row() {
        let (first, family) = (root_chain(), Family { root: RunId::random(&Same(9)), depth: 2 });
        let ann: PrincipalId = "acme/ann".parse().unwrap();
        let trail = Trail { family: Some(family.clone()), ..Trail::default() }.begun_by(Some(ann.clone()));
        let mut chain = Chain::resumed(first.root_id().clone(), first.on_behalf_of().clone(), &trail);
        for _ in 0..3 {
            let trail = chain.further().unwrap().sent(first.root_id()).unwrap();
            assert_eq!((trail.began_by.as_ref(), trail.family.as_ref()), (Some(&ann), Some(&family)));
            // A plugin that is handed a message acts on its own behalf: who began it stays.
            let trail = trail.begun_by(Some("acme/plugin/shop".parse().unwrap()));
            chain = Chain::resumed(first.root_id().clone(), first.on_behalf_of().clone(), &trail);
        }
        let own = first.sent(first.root_id()).unwrap();
        assert_eq!((own.began_by.unwrap().as_str(), own.family), ("anonymous", None));
    }

    #[test]
    fn only_a_trace_is_taken_for_one() {
        let given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(Trail::of_trace(Some(given.to_owned())).traceparent.as_deref(), Some(given));
        assert!(Trail::of_trace(Some("x".repeat(8_000))).is_empty() && Trail::of_trace(None).is_empty());
    }
}
