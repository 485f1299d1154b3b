//! The handlers of a component beside HTTP: `ringfence:plugin/hook`, `schedule`, `message` and `workflow`.
//!
//! All have one shape: bytes and a context in, bytes or a failure out. Must never hand a guest's text on uncut.

use ringfence_core::Usage;
use wasmtime::Store;
use wasmtime::component::{Component, ComponentExportIndex, ComponentType, Instance, Lift, Lower};

use crate::error::bounded;
use crate::guest::Guest;

/// A handler that a component may export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Export {
    /// Bound to an extension point of the product.
    Hook,
    /// Run on time.
    Schedule,
    /// Takes messages from a queue.
    Message,
    /// A durable workflow.
    Workflow,
}

impl Export {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Hook, Self::Schedule, Self::Message, Self::Workflow];

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hook => "hook",
            Self::Schedule => "schedule",
            Self::Message => "message",
            Self::Workflow => "workflow",
        }
    }

    /// The full name of the interface.
    pub const fn interface(self) -> &'static str {
        match self {
            Self::Hook => "ringfence:plugin/hook@0.1.0",
            Self::Schedule => "ringfence:plugin/schedule@0.1.0",
            Self::Message => "ringfence:plugin/message@0.1.0",
            Self::Workflow => "ringfence:plugin/workflow@0.1.0",
        }
    }
}

/// What the guest is told about the occasion (`ringfence:plugin/event`, record `context`).
#[derive(Debug, Clone, Default, PartialEq, Eq, ComponentType, Lower)]
#[component(record)]
pub struct EventContext {
    /// The extension point, schedule, queue or workflow.
    pub name: String,
    /// Names the occasion; the same when it is handed over again.
    pub id: String,
    /// 1 the first time.
    pub attempt: u32,
    /// When it was due, RFC 3339.
    pub at: String,
    /// More, by name.
    pub attributes: Vec<(String, String)>,
}

/// Why the guest says that it did not do its work; texts are cut.
#[derive(Debug, Clone, PartialEq, Eq, ComponentType, Lift)]
#[component(variant)]
pub enum EventFailure {
    /// It says no; not to be tried again.
    #[component(name = "refused")]
    Refused(String),
    /// Not now; may be tried again.
    #[component(name = "retry")]
    Retry(String),
    /// Something is wrong.
    #[component(name = "failed")]
    Failed(String),
}

/// What the guest says.
pub type EventAnswer = Result<Vec<u8>, EventFailure>;

/// One call of a handler.
#[derive(Debug, Clone)]
pub struct EventCall {
    /// Which handler.
    pub export: Export,
    /// What it is given.
    pub payload: Vec<u8>,
    /// About the occasion.
    pub context: EventContext,
}

/// A handler that ran to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    /// What it says.
    pub answer: EventAnswer,
    /// What it spent.
    pub usage: Usage,
}

/// The handlers that a component exports.
pub(crate) struct Handlers(Vec<(Export, Handler)>);

#[derive(Clone, Copy)]
pub(crate) struct Handler(ComponentExportIndex);

type Parameters<'a> = (&'a [u8], &'a EventContext);

// === impl Handlers ===

impl Handlers {
    pub(crate) fn of(component: &Component) -> Self {
        let find = |export: Export| {
            let interface = component.get_export_index(None, export.interface())?;
            Some((export, Handler(component.get_export_index(Some(&interface), "handle")?)))
        };
        Self(Export::ALL.into_iter().filter_map(find).collect())
    }

    pub(crate) fn get(&self, export: Export) -> Option<Handler> {
        self.0.iter().find(|(own, _)| *own == export).map(|(_, handler)| *handler)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Handler {
    pub(crate) async fn call(
        self,
        store: &mut Store<Guest>,
        instance: &Instance,
        call: EventCall,
    ) -> wasmtime::Result<EventAnswer> {
        let function = instance.get_typed_func::<Parameters<'_>, (EventAnswer,)>(&mut *store, self.0)?;
        let (answer,) = function.call_async(&mut *store, (&call.payload, &call.context)).await?;
        Ok(answer.map_err(EventFailure::cut))
    }
}

impl EventFailure {
    fn cut(self) -> Self {
        match self {
            Self::Refused(text) => Self::Refused(bounded(&text)),
            Self::Retry(text) => Self::Retry(bounded(&text)),
            Self::Failed(text) => Self::Failed(bounded(&text)),
        }
    }

    /// What it says.
    pub fn text(&self) -> &str {
        match self {
            Self::Refused(text) | Self::Retry(text) | Self::Failed(text) => text,
        }
    }
}
