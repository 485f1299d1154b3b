//! What can go wrong in the sandbox, in the words of those who asked: the upload (`CompileError`, `EngineError`), the
//! invocation (`RunError`), the queue (`AdmitError`), the streams (`BodyError`).
//!
//! Must never carry guest data beyond a bounded trap message, nor a machine path.

use ringfence_core::{Blame, Usage};

/// LIMIT: most bytes of a message that came from a guest or from the compiler.
pub const MESSAGE_BYTES_MAX: usize = 2_000;

/// The host could not set up, load or keep code.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The sandbox itself could not start.
    #[error("the sandbox cannot start: {0}")]
    Start(String),
    /// The component imports something this host does not offer.
    #[error("the component imports `{}`, which this host does not offer", imports.join("`, `"))]
    UnknownImports {
        /// The imports, by name with version.
        imports: Vec<String>,
    },
    /// The component imports an offered interface in a shape that does not fit, or exports no HTTP handler.
    #[error("the component does not fit this host: {0}")]
    Unfit(String),
    /// The native-code cache cannot be read or written.
    #[error("the native-code cache is unavailable: {0}")]
    Cache(String),
    /// The native code could not be loaded.
    #[error("the native code cannot be loaded: {0}")]
    Load(String),
}

impl EngineError {
    /// Who can mend it.
    pub fn blame(&self) -> Blame {
        match self {
            Self::UnknownImports { .. } | Self::Unfit(_) => Blame::Plugin,
            Self::Start(_) | Self::Cache(_) | Self::Load(_) => Blame::Host,
        }
    }
}

/// Which limit ended a compilation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CompileLimit {
    /// Address space of the child.
    #[error("memory")]
    Memory,
    /// CPU time of the child.
    #[error("CPU time")]
    Cpu,
    /// The deadline.
    #[error("time")]
    Time,
    /// Size of the native code.
    #[error("size of the native code")]
    NativeBytes,
}

/// A component could not be compiled.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The bytes are not a valid component; the message says where.
    #[error("not a valid component: {0}")]
    Invalid(String),
    /// Compilation took more than it may.
    #[error("compilation reached its limit of {0}")]
    Limit(CompileLimit),
    /// The compile child failed for reasons of its own.
    #[error("the compiler failed: {0}")]
    Failed(String),
}

impl CompileError {
    /// Who can mend it.
    pub fn blame(&self) -> Blame {
        match self {
            Self::Invalid(_) | Self::Limit(_) => Blame::Plugin,
            Self::Failed(_) => Blame::Host,
        }
    }
}

/// Why an invocation ended without doing its work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// The guest used up its CPU time.
    #[error("the plugin reached its CPU budget")]
    CpuBudget,
    /// The guest used up its wall time.
    #[error("the plugin reached its time budget")]
    TimeBudget,
    /// The guest wanted more memory than it may have.
    #[error("the plugin reached its memory budget")]
    MemoryBudget,
    /// The guest answered with more bytes than it may.
    #[error("the plugin's answer is larger than its budget")]
    ResponseTooLarge,
    /// The guest called the host more often than it may.
    #[error("the plugin reached its budget of host calls")]
    HostCallBudget,
    /// The guest trapped.
    #[error("the plugin trapped: {message}")]
    Trap {
        /// What the sandbox says about it, bounded; for the plugin's owner, never for its callers.
        message: String,
    },
    /// The component does not export the handler that was asked for.
    #[error("the plugin has no handler for this")]
    NoHandler,
    /// The guest ended without an answer.
    #[error("the plugin ended without an answer")]
    NoResponse,
    /// The invocation was stopped: the caller went away or the host asked for it.
    #[error("the invocation was stopped")]
    Killed,
    /// It waited for its client's bytes while others waited for its slot.
    #[error("the invocation waited too long for its client while others waited for its place")]
    SlowClient,
    /// The guest wanted memory, an instance or a stack that it may have and the host had not.
    #[error("the host has no room left for the plugin")]
    Overloaded,
    /// Its tenant held or wanted more of the host's memory than its share, and another waited for its own.
    #[error("its tenant is above its share of the host's memory, and others waited for theirs")]
    MemoryShare,
    /// The host could not run it.
    #[error("the host could not run the plugin: {0}")]
    Host(String),
}

impl RunError {
    /// Who can mend it.
    pub fn blame(&self) -> Blame {
        match self {
            Self::Killed | Self::SlowClient | Self::MemoryShare => Blame::Caller,
            Self::Overloaded | Self::Host(_) => Blame::Host,
            _ => Blame::Plugin,
        }
    }

    /// The stable word for it in records and problem documents.
    pub fn code(&self) -> &'static str {
        match self {
            Self::CpuBudget => "budget-cpu",
            Self::TimeBudget => "budget-time",
            Self::MemoryBudget => "budget-memory",
            Self::ResponseTooLarge => "budget-response",
            Self::HostCallBudget => "budget-host-calls",
            Self::Trap { .. } => "trap",
            Self::NoHandler => "no-handler",
            Self::NoResponse => "no-response",
            Self::Killed => "killed",
            Self::SlowClient => "slow-client",
            Self::Overloaded => "overloaded",
            Self::MemoryShare => "memory-share",
            Self::Host(_) => "host",
        }
    }
}

/// An invocation that failed before its answer's head, with what it spent until then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct RunFailure {
    /// Why.
    pub error: RunError,
    /// What it spent.
    pub usage: Usage,
}

impl From<RunFailure> for RunError {
    fn from(failure: RunFailure) -> Self {
        failure.error
    }
}

/// No slot was to be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AdmitError {
    /// The tenant has as much running and waiting as it may.
    #[error("the tenant has as many invocations running and waiting as it may")]
    TenantBusy {
        /// When it is worth trying again, milliseconds.
        retry_after_ms: u64,
    },
    /// The whole host is full.
    #[error("the host is full")]
    Overloaded,
    /// The tenant is suspended.
    #[error("the tenant is suspended")]
    Suspended,
    /// Everything that the tenant may have running waits for plugins that it called, and so would this.
    #[error("every invocation that the tenant may have running waits for one that it called")]
    CallersWait,
}

impl AdmitError {
    /// Who can mend it.
    pub fn blame(&self) -> Blame {
        match self {
            Self::TenantBusy { .. } | Self::Suspended | Self::CallersWait => Blame::Caller,
            Self::Overloaded => Blame::Host,
        }
    }
}

/// Why a body broke off. Requests: made by the gateway, shown to the guest. Answers: made here, cuts the connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The peer went away.
    #[error("the connection ended before the body did")]
    Closed,
    /// More bytes than allowed.
    #[error("the body is too large")]
    TooLarge,
    /// Nothing arrived for too long.
    #[error("the body stalled")]
    TimedOut,
    /// The invocation that was writing it failed.
    #[error("the invocation failed: {0}")]
    Run(RunError),
    /// Anything else, bounded.
    #[error("{0}")]
    Other(String),
}

/// A message from a guest or from the compiler, cut to a bounded length.
pub(crate) fn bounded(message: &str) -> String {
    if message.len() <= MESSAGE_BYTES_MAX {
        return message.to_owned();
    }
    let mut end = MESSAGE_BYTES_MAX;
    while !message.is_char_boundary(end) {
        end = end.saturating_sub(1);
    }
    let mut cut = message.get(..end).unwrap_or_default().to_owned();
    cut.push_str(" (cut)");
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_message_is_cut_at_a_character() {
        let cut = bounded(&"ä".repeat(MESSAGE_BYTES_MAX));
        assert!(cut.len() <= MESSAGE_BYTES_MAX + 8);
        assert!(cut.ends_with("(cut)"));
    }
}
