//! What `#[plugin]` expands to; not for plugins to call.
//!
//! Must never trap because a caller went away: an answer that cannot be delivered is only reported.

#[doc(hidden)]
pub use wasip2;
#[doc(hidden)]
pub use wasip2::exports::http::incoming_handler::Guest;
#[doc(hidden)]
pub use wasip2::http::types::{IncomingRequest, ResponseOutparam};

use wstd::http::request::try_from_incoming;
use wstd::http::server::Responder;

#[cfg(feature = "json")]
use crate::event::Wish;
use crate::{Call, IntoResponse, Response, Result};

/// Answers one request with `handler`, and returns when the answer's last byte was handed to the host.
#[doc(hidden)]
pub fn serve(incoming: IncomingRequest, out: ResponseOutparam, handler: impl AsyncFnOnce(Call) -> Result<Response>) {
    let responder = Responder::new(out);
    wstd::runtime::block_on(async move {
        let response = match try_from_incoming(incoming) {
            Ok(request) => handler(Call::new(request)).await.unwrap_or_else(Response::failure),
            Err(_) => (400, "the request cannot be read\n").into_response(),
        };
        if let Err(error) = responder.respond(response.finish()).await {
            eprintln!("answer not delivered: {error:#}");
        }
    });
}

/// Bindings to the handler of workflows, for what `#[workflow]` expands to.
#[cfg(feature = "json")]
#[allow(missing_docs, unsafe_code, clippy::all, reason = "generated")]
#[doc(hidden)]
pub mod workflow {
    wit_bindgen::generate!({
        path: "../wit",
        world: "workflow-plugin",
        pub_export_macro: true,
        export_macro_name: "export_workflow",
        default_bindings_module: "ringfence_sdk::rt::workflow",
        generate_all,
    });
    pub use exports::ringfence::plugin::workflow::{Context, Failure, Guest};
}

/// Runs a workflow's code once over its history, and takes back what it did when it fails.
#[cfg(feature = "json")]
#[doc(hidden)]
pub fn run_workflow(
    payload: Vec<u8>,
    context: workflow::Context,
    code: impl AsyncFnOnce(&str, &mut Call) -> Result<Vec<u8>>,
) -> Result<Vec<u8>, workflow::Failure> {
    use crate::steps::{Stopped, undo};
    let mut call = Call::of_event(payload);
    let told = call.undo.clone();
    wstd::runtime::block_on(async move {
        let error = match code(&context.name, &mut call).await {
            Ok(output) => return Ok(output),
            Err(error) => error,
        };
        let is_over =
            |error: &crate::Error| !matches!(error.downcast_ref(), Some(Stopped::Suspended | Stopped::Refused(_)));
        if is_over(&error)
            && let Err(undoing) = undo(&told).await
        {
            let why = if is_over(&undoing) {
                format!("{error:#}; and taking back: {undoing:#}")
            } else {
                "it waits".to_owned()
            };
            return Err(workflow::Failure::Failed(why));
        }
        Err(workflow::Failure::Failed(format!("{error:#}")))
    })
}

/// What a workflow gives, as JSON.
#[cfg(feature = "json")]
#[doc(hidden)]
pub fn to_json(value: &impl serde::Serialize) -> Result<Vec<u8>> {
    Ok(serde_json::to_vec(value)?)
}

/// There is no workflow of that name in this plugin.
#[doc(hidden)]
pub fn no_workflow(name: &str) -> crate::Error {
    crate::anyhow!("this plugin has no workflow `{name}`")
}
/// Handlers beside HTTP, made from `wit/`; what is not exported costs a component nothing.
#[doc(hidden)]
#[allow(missing_docs, unsafe_code, clippy::all, reason = "generated")]
pub mod hook {
    wit_bindgen::generate!({
        path: "../wit", world: "hook-plugin", pub_export_macro: true, export_macro_name: "export_hook", generate_all,
    });
}
#[doc(hidden)]
#[allow(missing_docs, unsafe_code, clippy::all, reason = "generated")]
pub mod schedule {
    wit_bindgen::generate!({
        path: "../wit", world: "schedule-plugin", pub_export_macro: true, export_macro_name: "export_schedule",
        with: { "ringfence:plugin/event@0.1.0": crate::rt::hook::ringfence::plugin::event },
    });
}
#[doc(hidden)]
#[allow(missing_docs, unsafe_code, clippy::all, reason = "generated")]
pub mod message {
    wit_bindgen::generate!({
        path: "../wit", world: "message-plugin", pub_export_macro: true, export_macro_name: "export_message",
        with: { "ringfence:plugin/event@0.1.0": crate::rt::hook::ringfence::plugin::event },
    });
}

#[cfg(feature = "definition")]
#[doc(hidden)]
pub use crate::definition::{NoNeed, run_definition};

#[doc(hidden)]
pub use hook::ringfence::plugin::event::{Context as EventContext, Failure as EventFailure};

/// A payload that nobody looks at.
#[doc(hidden)]
#[cfg(feature = "json")]
pub type Anything = serde::de::IgnoredAny;

/// Runs `handler` for one occasion. `expected` is the only name it is meant for; `*` is any.
#[doc(hidden)]
#[cfg(feature = "json")]
pub fn event<T: serde::de::DeserializeOwned, R: serde::Serialize>(
    expected: &str,
    payload: &[u8],
    context: EventContext,
    handler: impl AsyncFnOnce(T, Call) -> Result<R>,
) -> Result<Vec<u8>, EventFailure> {
    if expected != "*" && context.name != expected {
        return Err(EventFailure::Failed(format!("this plugin is for `{expected}`, not for `{}`", context.name)));
    }
    let call = Call::on(crate::Occasion::of(context, payload));
    let answer = wstd::runtime::block_on(async {
        let payload = serde_json::from_slice(payload)?;
        let answer = handler(payload, call).await?;
        Ok(serde_json::to_vec(&answer)?)
    });
    answer.map_err(|error: crate::Error| match error.downcast_ref::<Wish>() {
        Some(Wish::Refuse(why)) => EventFailure::Refused(why.clone()),
        Some(Wish::Retry(why)) => EventFailure::Retry(why.clone()),
        None => EventFailure::Failed(format!("{error:#}")),
    })
}
