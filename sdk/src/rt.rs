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
