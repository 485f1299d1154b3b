//! `ringfence:plugin/queue`: messages that a plugin puts into its tenant's queues, each granted by name.
//!
//! Must never say whether a queue exists to a guest that was not granted it. Keeping and handing over messages is the
//! business of whoever is the [`Postbox`].

use futures::future::BoxFuture;
use ringfence_core::limits::MESSAGE_DEPTH_MAX;
use ringfence_core::{Capability, HostAct, On, PluginName, ResourceName};
use ringfence_engine::Guest;
use ringfence_store::TenantStore;
use wasmtime::component::Linker;

use crate::bind::{Bindings, View};
use crate::bindings::queue::ringfence::plugin::queue::{self, Error, Options};
use crate::calls::Trail;

/// A message on its way into a queue. Its parts are not checked yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// Which queue.
    pub queue: ResourceName,
    /// What is to be handed over.
    pub payload: Vec<u8>,
    /// Under which it is taken once.
    pub idempotency_key: Option<String>,
    /// Not before so many milliseconds from now.
    pub delay_ms: u64,
    /// Higher goes first.
    pub priority: u8,
    /// Messages of one group go one after another.
    pub group: Option<String>,
    /// What led to it.
    pub trail: Trail,
}

/// Why a message was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PostError {
    /// There is no such queue.
    #[error("there is no such queue")]
    NoQueue,
    /// It is full.
    #[error("the queue is full")]
    Full {
        /// When to try again.
        retry_after_ms: u64,
    },
    /// Something about the message is wrong.
    #[error("{0}")]
    Invalid(String),
    /// It could not be kept just now.
    #[error("the message cannot be kept now")]
    Unavailable,
}

/// Who takes messages.
pub trait Postbox: Send + Sync {
    /// Resolves with the message's id once it is durable.
    fn send(
        &self,
        store: &TenantStore,
        from: &PluginName,
        letter: Letter,
    ) -> BoxFuture<'static, Result<String, PostError>>;
}

/// Offers `ringfence:plugin/queue@0.1.0`.
pub(crate) fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    queue::add_to_linker::<_, Bindings>(linker, |guest| View::of(guest))
}

impl queue::Host for View<'_> {
    async fn send(
        &mut self,
        queue: String,
        payload: Vec<u8>,
        options: Options,
    ) -> wasmtime::Result<Result<String, Error>> {
        let bound = self.bound()?;
        bound.call()?;
        bound.meter.storage_op();
        let denied = || Ok(Err(Error::Denied("this queue is not granted".to_owned())));
        let Ok(name) = queue.parse::<ResourceName>() else { return denied() };
        if !bound.may(Capability::Queue, &queue) {
            return denied();
        }
        if !bound.leave.has(HostAct::PostMessage, On::Queue(&name)) {
            return Ok(Err(Error::Denied("policy forbids messages to this queue".to_owned())));
        }
        let Some(trail) = bound.chain.sent(&bound.invocation) else {
            let why =
                format!("{MESSAGE_DEPTH_MAX} messages led to this one, each sent while the one before was handled");
            return Ok(Err(Error::Invalid(why)));
        };
        if let Err(exhausted) = bound.ledger.storage_ops(1) {
            return Ok(Err(Error::Other(exhausted.to_string())));
        }
        let Some(postbox) = bound.postbox.clone() else { return denied() };
        let letter = Letter {
            queue: name,
            payload,
            idempotency_key: options.idempotency_key,
            delay_ms: options.delay_ms,
            priority: options.priority,
            group: options.group,
            trail,
        };
        let sent = postbox.send(&bound.store, &bound.plugin, letter).await;
        Ok(sent.map_err(|error| match error {
            PostError::NoQueue => Error::Denied("this queue is not granted".to_owned()),
            PostError::Full { retry_after_ms } => Error::Full(retry_after_ms),
            PostError::Invalid(why) => Error::Invalid(why),
            PostError::Unavailable => Error::Other(error.to_string()),
        }))
    }
}
