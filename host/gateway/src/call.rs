//! Walk 1 for a call from one plugin to another of the same tenant. Who calls is the calling plugin, on behalf of whoever
//! began the invocation at the root; from the permit on it is the walk of a request from outside.
//!
//! Must never reach a plugin of another tenant: the tenant is the caller's own, and a name says no other. Must never run
//! for someone whose session is over. The egress gate has asked the caller's grant before anything comes here.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderValue, Request, Response, header};
use http_body_util::BodyExt;
use ringfence_audit::Called;
use ringfence_capabilities::{Chain, Exchange, PluginCall};
use ringfence_core::{CausedBy, Held, InvocationId};
use ringfence_engine::{Body, Calling};
use tokio_util::sync::CancellationToken;

use crate::cut::cut_with;
use crate::invoke::{Asked, Gateway, Within, told};
use crate::record::Seen;
use crate::refuse::Refusal;
use crate::request::checked_host;

impl Exchange for Gateway {
    fn call(&self, call: PluginCall) -> BoxFuture<'static, Response<Body>> {
        let gateway = self.clone();
        Box::pin(async move { gateway.answer_call(call).await })
    }
}

impl Gateway {
    async fn answer_call(&self, call: PluginCall) -> Response<Body> {
        let mut seen = Seen::new(InvocationId::random(&*self.parts.entropy), None);
        let by = CausedBy { root: call.chain.first_id().clone(), parent: call.invocation.clone() };
        let on_behalf_of = Some(call.chain.on_behalf_of().id().clone());
        seen.called = Some((format!("call/{}", call.from), Called { by, on_behalf_of }));
        let mut response = match self.invoke_called(&mut seen, call).await {
            Ok(response) => response,
            Err(refusal) => told(&self.record_refusal(&seen, refusal).await),
        };
        if let Ok(id) = HeaderValue::from_str(seen.invocation.as_str()) {
            response.headers_mut().insert("x-ringfence-invocation", id);
        }
        response
    }

    async fn invoke_called(&self, seen: &mut Seen, call: PluginCall) -> Result<Response<Body>, Refusal> {
        let parts = &self.parts;
        let tenant = call.store.tenant().cloned().ok_or(Refusal::NoRoute)?;
        let found = parts.registry.route(&tenant, &call.to);
        seen.route = found.clone().map(Arc::new);
        let principal = parts.identity.workload(&tenant, &call.from).map_err(|_| Refusal::Host)?;
        seen.principal = Some(principal.clone());
        let mut route = found.ok_or(Refusal::NoRoute)?;
        parts.standing.may_go_on(&principal, parts.clock.now())?;
        let ended = self.check_root(&call.chain)?;
        let may_go_on = self.may_go_on(call.chain.on_behalf_of().clone());
        let chain = call.chain.further()?;
        let request = handed_over(call.request, call.chain.traceparent(&call.invocation))?;
        let host = checked_host(&request)?;
        request.uri().path_and_query().map_or("/", http::uri::PathAndQuery::as_str).clone_into(&mut route.rest);
        let calling = parts.engine.scheduler().calling(&tenant, &call.invocation, call.chain.root_id());
        let within = Some(Within { time_ms: call.time_left_ms, calling: &calling });
        let response = self.walk(seen, Arc::new(route), &principal, Asked { request, host, chain, within }).await?;
        Ok(response.map(|body| {
            let body = waited_for(body, calling);
            match ended {
                Some(ended) => cut_with(body, ended, may_go_on),
                None => body,
            }
        }))
    }

    /// Whether who began all of this may still have things done; what tells when his session ends.
    fn check_root(&self, chain: &Chain) -> Result<Option<CancellationToken>, Refusal> {
        let (parts, root) = (&self.parts, chain.on_behalf_of());
        parts.standing.may_go_on(root, parts.clock.now())?;
        let ended = root.session().map(|session| parts.identity.session_cut(session));
        match &ended {
            Some(ended) if ended.is_cancelled() => Err(Refusal::Held(Held::SessionEnded)),
            _ => Ok(ended),
        }
    }
}

/// The request as one from outside would come: naming one host, in a trace.
fn handed_over(mut request: Request<Body>, traceparent: Option<String>) -> Result<Request<Body>, Refusal> {
    let host = request.uri().authority().ok_or(Refusal::BadRequest("the request names no host"))?;
    let host = HeaderValue::from_str(host.as_str()).map_err(|_| Refusal::BadRequest("the host is not ASCII"))?;
    let headers = request.headers_mut();
    headers.insert(header::HOST, host);
    if !headers.contains_key("traceparent")
        && let Some(value) = traceparent.and_then(|text| HeaderValue::try_from(text).ok())
    {
        headers.insert("traceparent", value);
    }
    Ok(request)
}

/// The answer's body; while it is there its caller counts as waiting, since it may wait for the rest of it.
fn waited_for(body: Body, calling: Calling) -> Body {
    body.map_frame(move |frame: http_body::Frame<Bytes>| {
        let _held = &calling;
        frame
    })
    .boxed_unsync()
}

#[cfg(test)]
mod tests {
    use ringfence_core::limits::{PLUGIN_CALL_DEPTH_MAX, PLUGIN_CALLS_COUNT_MAX};

    use super::*;

    fn request(headers: &[(&'static str, &'static str)]) -> Request<Body> {
        let mut request = Request::new(ringfence_engine::full(""));
        *request.uri_mut() = "http://visits.plugin.internal/a?b".parse().unwrap();
        for (name, value) in headers {
            request.headers_mut().append(*name, HeaderValue::from_static(value));
        }
        request
    }

    #[test]
    fn refusals_name_the_limits_that_are_in_force() {
        let says = |refusal: Refusal, max: u32| refusal.describe().2.contains(&format!(": {max} "));
        assert!(says(Refusal::CallDepth, PLUGIN_CALL_DEPTH_MAX));
        assert!(says(Refusal::CallFanOut { again: false }, PLUGIN_CALLS_COUNT_MAX));
    }

    #[test]
    fn a_call_names_its_host_once_and_goes_on_in_the_callers_trace_or_in_the_trees() {
        let over = handed_over(request(&[("host", "evil"), ("host", "twice")]), Some("00-a".to_owned())).unwrap();
        assert_eq!(checked_host(&over).unwrap().as_deref(), Some("visits.plugin.internal"));
        assert_eq!(over.headers()["traceparent"], "00-a");
        let own = handed_over(request(&[("traceparent", "00-own")]), Some("00-a".to_owned())).unwrap();
        assert_eq!(own.headers()["traceparent"], "00-own");
        assert!(handed_over(Request::new(ringfence_engine::full("")), None).is_err());
    }
}
