//! Calls from one plugin to another of the same tenant: where an invocation stands in the tree of such calls, and what
//! is handed to whoever runs the one that is called.
//!
//! Depth, count and trace are carried by the host, beside the request: no header of a guest can say them. Must never carry a
//! tenant's name: who is called belongs to the tenant whose store is in the call.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use futures::future::BoxFuture;
use ringfence_core::limits::{PLUGIN_CALL_DEPTH_MAX, PLUGIN_CALLS_COUNT_MAX};
use ringfence_core::{InvocationId, PluginName, Principal, calls};
use ringfence_engine::Body;
use ringfence_store::TenantStore;

/// Where an invocation stands below the one that no plugin called. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Chain {
    tree: Arc<Tree>,
    depth: u32,
}

#[derive(Debug)]
struct Tree {
    root: InvocationId,
    on_behalf_of: Principal,
    traceparent: Option<String>,
    calls_count: AtomicU32,
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

// === impl Chain ===

impl Chain {
    /// An invocation that no plugin called: on whose behalf, and the `traceparent` of what started it.
    pub fn root(root: InvocationId, on_behalf_of: Principal, traceparent: Option<String>) -> Self {
        Self { tree: Arc::new(Tree { root, on_behalf_of, traceparent, calls_count: AtomicU32::new(0) }), depth: 0 }
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

    /// The invocation at the root.
    pub fn root_id(&self) -> &InvocationId {
        &self.tree.root
    }

    /// On whose behalf all of it is done.
    pub fn on_behalf_of(&self) -> &Principal {
        &self.tree.on_behalf_of
    }

    /// The `traceparent` for a call that `parent` makes.
    pub fn traceparent(&self, parent: &InvocationId) -> Option<String> {
        calls::traceparent(self.tree.traceparent.as_deref(), &self.tree.root, parent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::root_chain;

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
}
