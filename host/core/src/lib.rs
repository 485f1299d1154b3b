//! The words of Ringfence and its pure rules: ids, capabilities, grants, budgets, proofs, blame, the plugin manifest.
//!
//! Must never do I/O, read a clock, or roll dice: time and entropy come in through [`Clock`] and [`Entropy`].
//! Every other room depends on this one, and this one on none of them.
#![forbid(unsafe_code)]

pub mod ambient;
pub mod blame;
pub mod budget;
pub mod calls;
pub mod capability;
pub mod device;
pub mod field_routes;
pub mod fields;
pub mod host_call;
pub mod ids;
pub mod limits;
pub mod loss;
pub mod manifest;
pub mod proof;
pub mod quota;
pub mod scope;
pub mod source;
pub mod standing;
pub mod used;
pub mod volume;
mod word;
pub mod workflow;

pub use ambient::{Clock, Entropy};
pub use blame::Blame;
pub use budget::{Budget, Usage};
pub use calls::CausedBy;
pub use capability::{Capability, Grant, Grants, Need, Needs};
pub use device::Device;
pub use host_call::{HostAct, HostCall, On};
pub use ids::{
    ApprovalId, BackupId, DecisionId, Digest, InvocationId, JobId, PlanName, PluginName, PrincipalId, QueueName,
    RequestId, ResourceName, ReviewId, RunId, SessionId, TenantId, WordError,
};
pub use loss::{Loss, LossAction, LossActions, LossKind, LossPlace, LossRules, LossTaken};
pub use manifest::{Manifest, ManifestError};
pub use proof::{ActClass, Action, Permit, Principal, PrincipalKind, Resource, Role, Strength};
pub use quota::{Ceiling, Exhausted, Plans, Quota, QuotaChoice, QuotaError, QuotaKind, QuotaOverrides};
pub use scope::KeyScope;
pub use source::Source;
pub use standing::{Held, Standing};
pub use used::CapabilityUse;
