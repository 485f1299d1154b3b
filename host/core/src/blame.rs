//! Whose fault a failure is. Inner errors carry it; the gateway and the control plane choose a status from it, once.

use serde::{Deserialize, Serialize};

/// Who can mend a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Blame {
    /// The one who made the request.
    Caller,
    /// The tenant's component.
    Plugin,
    /// Ringfence or the machine under it.
    Host,
    /// A server that a component called.
    Upstream,
}
