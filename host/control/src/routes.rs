//! The table of endpoints. A handler's path is written once, at the handler, and read here for routing and OpenAPI alike.

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};
use ringfence_automation::ToItsEnd;
use ringfence_core::RequestId;
use ringfence_identity::{Factor, Shown};
use utoipa::OpenApi;
use utoipa::openapi::path::{ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{Object, Type};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::problem::ApiError;
use crate::wire::Problem;
use crate::{
    Control, access, audit, automation, backups, config, damage, decisions, destructions, errors, host, idempotency,
    jobs, keys, logs, metrics, outward, people, pii, plugins, policies, quota, secrets, sign_in, tenants, threat,
    tokens, usage, workflows, workloads, zero_trust,
};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Ringfence control plane",
        description = "Tenants upload WebAssembly components; Ringfence runs them, each able to do only what it was granted."
    ),
    tags(
        (name = "zero-trust", description = "Who calls, and why a call was denied"),
        (name = "tenants", description = "Tenants and what they use"),
        (name = "plugins", description = "Plugins: versions, grants, routes, logs, configuration"),
        (name = "secrets", description = "Secrets, write-only"),
        (name = "tokens", description = "API keys"),
        (name = "people", description = "People: invited, enrolled, removed"),
        (name = "access", description = "Who holds what access and uses it, and reviews of that"),
        (name = "keys", description = "Keys: their versions and states, never their bytes"),
        (name = "policy", description = "The tenant's own policy"),
        (name = "backups", description = "Backups of a tenant, restores and drills"),
        (name = "workflows", description = "Durable workflows: their runs, and what is done to them"),
        (name = "jobs", description = "Long work and what came of it"),
        (name = "personal-data", description = "Fields of personal data, and the people they are about"),
        (name = "automation", description = "Extension points and what is bound to them, queues, schedules"),
        (name = "audit", description = "Audit logs and their signed heads"),
        (name = "security", description = "Detection, findings, responses, intelligence, incidents"),
        (name = "host", description = "The host about itself")
    )
)]
struct Api;

/// The service of the control plane's port.
pub fn router(control: Control) -> Router {
    let (api, document) = table().split_for_parts();
    let text = with_keys(document).to_pretty_json().unwrap_or_default();
    let open = axum::routing::get(move || async move { ([(header::CONTENT_TYPE, "application/json")], text) });
    api.route("/api/v1/openapi.json", open.clone())
        .route("/openapi.json", open)
        .fallback(no_endpoint)
        .method_not_allowed_fallback(no_method)
        // Each extractor has its own cap; uploads are capped by the registry as they stream.
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(control.clone(), idempotency::once))
        .layer(middleware::from_fn_with_state(control.clone(), around))
        .with_state(control)
}

/// The OpenAPI document, as committed in docs/reference/openapi.json.
pub fn openapi() -> String {
    with_keys(table().to_openapi()).to_pretty_json().unwrap_or_default()
}

/// Says once for every POST that takes a key that it does.
fn with_keys(mut document: utoipa::openapi::OpenApi) -> utoipa::openapi::OpenApi {
    let taking = document.paths.paths.iter_mut().filter(|(path, _)| idempotency::takes_key(path));
    for post in taking.filter_map(|(_, item)| item.post.as_mut()) {
        let key = ParameterBuilder::new()
            .name("Idempotency-Key")
            .parameter_in(ParameterIn::Header)
            .description(Some("One word, such as a UUID: the same request sent again with it within 24 hours is answered again, not done again."))
            .schema(Some(Object::with_type(Type::String)))
            .build();
        post.parameters.get_or_insert_default().push(key.into());
    }
    // The router's word for "the rest of the path" is not one of the description's.
    let paths = std::mem::take(&mut document.paths.paths);
    document.paths.paths = paths.into_iter().map(|(path, item)| (path.replace("{*path}", "{path}"), item)).collect();
    document
}

fn table() -> OpenApiRouter<Control> {
    let api = callers()
        .merge(governed())
        .merge(tenants_and_host())
        .merge(plugins_and_data())
        .merge(automated())
        .merge(recorded());
    let probes = OpenApiRouter::new()
        .routes(routes!(host::healthz))
        .routes(routes!(host::readyz))
        .routes(routes!(errors::explain))
        .routes(routes!(workloads::bundle))
        .routes(routes!(workloads::bundle_pem))
        .routes(routes!(metrics::host));
    OpenApiRouter::with_openapi(Api::openapi()).nest("/api/v1", api).merge(probes)
}

/// Who calls, what is held of it, and what it may do.
fn callers() -> OpenApiRouter<Control> {
    OpenApiRouter::new()
        .routes(routes!(sign_in::authenticate))
        .routes(routes!(sign_in::whoami))
        .routes(routes!(zero_trust::sessions::list_own))
        .routes(routes!(zero_trust::sessions::end_own))
        .routes(routes!(zero_trust::sessions::list))
        .routes(routes!(zero_trust::sessions::end))
        .routes(routes!(zero_trust::sessions::list_host))
        .routes(routes!(zero_trust::sessions::end_host))
        .routes(routes!(zero_trust::factors::read))
        .routes(routes!(zero_trust::factors::offer_codes, zero_trust::factors::remove_codes))
        .routes(routes!(zero_trust::factors::confirm_codes))
        .routes(routes!(zero_trust::factors::set_password))
        .routes(routes!(zero_trust::factors::start_sign_in))
        .routes(routes!(zero_trust::factors::start_federated))
        .routes(routes!(zero_trust::factors::start))
        .routes(routes!(zero_trust::factors::add_passkey))
        .routes(routes!(zero_trust::factors::remove_passkey))
        .routes(routes!(zero_trust::factors::step_up, zero_trust::factors::step_down))
        .routes(routes!(zero_trust::trust::score))
        .routes(routes!(zero_trust::trust::verify))
        .routes(routes!(zero_trust::trust::read, zero_trust::trust::write))
        .routes(routes!(zero_trust::operators::read, zero_trust::operators::write))
        .routes(routes!(zero_trust::posture::read))
        .routes(routes!(zero_trust::devices::list, zero_trust::devices::register))
        .routes(routes!(zero_trust::devices::remove))
        .routes(routes!(zero_trust::devices::challenge))
        .routes(routes!(zero_trust::devices::verify))
        .routes(routes!(zero_trust::devices::list_tenant))
        .routes(routes!(zero_trust::devices::revoke))
        .routes(routes!(zero_trust::assessment::assess))
        .routes(routes!(zero_trust::assessment::read))
        .routes(routes!(zero_trust::risk::adjust))
        .routes(routes!(zero_trust::risk::approve))
        .routes(routes!(zero_trust::risk::withdraw))
        .routes(routes!(zero_trust::risk::list))
        .routes(routes!(people::list, people::invite))
        .routes(routes!(people::remove))
        .routes(routes!(people::list_host, people::invite_host))
        .routes(routes!(people::remove_host))
        .routes(routes!(zero_trust::settings::read, zero_trust::settings::write))
        .routes(routes!(zero_trust::settings::put_provider, zero_trust::settings::delete_provider))
        .routes(routes!(decisions::read))
        .routes(routes!(tokens::list, tokens::create))
        .routes(routes!(tokens::revoke))
        .routes(routes!(tokens::list_host, tokens::create_host))
        .routes(routes!(tokens::revoke_host))
        .routes(routes!(policies::text::read, policies::text::write))
        .routes(routes!(policies::text::write_own))
        .routes(routes!(policies::text::rollback))
        .routes(routes!(policies::text::versions))
        .routes(routes!(policies::text::version))
        .routes(routes!(policies::shadow::read, policies::shadow::delete))
        .routes(routes!(policies::labels::read, policies::labels::write))
        .routes(routes!(policies::labels::versions))
        .routes(routes!(policies::labels::version))
        .routes(routes!(policies::proof::prove))
        .routes(routes!(policies::ceiling::read, policies::ceiling::write))
        .routes(routes!(policies::approvals::list))
        .routes(routes!(policies::approvals::refuse))
        .routes(routes!(policies::approvals::approve))
        .routes(routes!(policies::elevations::list, policies::elevations::request))
        .routes(routes!(policies::elevations::end))
}

/// Who holds what, and whether he still should.
fn governed() -> OpenApiRouter<Control> {
    OpenApiRouter::new()
        .routes(routes!(access::report::read))
        .routes(routes!(access::report::read_host))
        .routes(routes!(access::reviews::list, access::reviews::open))
        .routes(routes!(access::reviews::read))
        .routes(routes!(access::reviews::export))
        .routes(routes!(access::reviews::decide))
        .routes(routes!(access::reviews::close))
}

/// Tenants, what they have, and the host about itself.
fn tenants_and_host() -> OpenApiRouter<Control> {
    OpenApiRouter::new()
        .routes(routes!(host::read))
        .routes(routes!(tenants::list, tenants::create))
        .routes(routes!(tenants::read, tenants::delete))
        .routes(routes!(tenants::suspend))
        .routes(routes!(tenants::resume))
        .routes(routes!(usage::read))
        .routes(routes!(quota::read, quota::write))
        .routes(routes!(usage::receipts))
        .routes(routes!(usage::receipt))
        .routes(routes!(metrics::tenant))
        .routes(routes!(metrics::loads))
        .routes(routes!(keys::list))
        .routes(routes!(keys::rotate_root))
        .routes(routes!(destructions::list))
        .routes(routes!(destructions::read))
        .routes(routes!(keys::read))
        .routes(routes!(keys::rotate))
        .routes(routes!(keys::disable))
        .routes(routes!(keys::enable))
        .routes(routes!(keys::take_own, keys::give_up_own))
        .routes(routes!(keys::destroy))
        .routes(routes!(keys::approve))
        .routes(routes!(backups::list, backups::create))
        .routes(routes!(backups::recovery_key))
        .routes(routes!(backups::read, backups::delete))
        .routes(routes!(backups::restore))
        .routes(routes!(backups::drill))
        .routes(routes!(backups::restore_archive))
        .routes(routes!(damage::list))
        .routes(routes!(damage::remove))
        .routes(routes!(jobs::read))
}

/// Plugins, what they are given and what they said.
fn plugins_and_data() -> OpenApiRouter<Control> {
    OpenApiRouter::new()
        .routes(routes!(plugins::list))
        .routes(routes!(plugins::read))
        .routes(routes!(plugins::push))
        .routes(routes!(plugins::diff))
        .routes(routes!(plugins::grants))
        .routes(routes!(plugins::grant, plugins::revoke))
        .routes(routes!(plugins::deploy))
        .routes(routes!(plugins::rollback))
        .routes(routes!(logs::read))
        .routes(routes!(logs::invocations))
        .routes(routes!(logs::invocation))
        .routes(routes!(config::list))
        .routes(routes!(config::put, config::delete))
        .routes(routes!(secrets::list))
        .routes(routes!(secrets::put, secrets::delete))
        .routes(routes!(pii::rules, pii::set_rules))
        .routes(routes!(pii::subject))
        .routes(routes!(pii::erase))
}

/// What is started without a caller.
fn automated() -> OpenApiRouter<Control> {
    OpenApiRouter::new()
        .routes(routes!(workflows::list_workflows))
        .routes(routes!(workflows::list, workflows::start))
        .routes(routes!(workflows::read))
        .routes(routes!(workflows::query))
        .routes(routes!(workflows::signal))
        .routes(routes!(workflows::cancel))
        .routes(routes!(workflows::terminate))
        .routes(routes!(workflows::pause))
        .routes(routes!(workflows::resume))
        .routes(routes!(workflows::retry))
        .routes(routes!(workflows::migrate))
        .routes(routes!(workflows::decide))
        .routes(routes!(automation::hooks::points))
        .routes(routes!(automation::hooks::declare, automation::hooks::withdraw))
        .routes(routes!(automation::hooks::earlier))
        .routes(routes!(automation::hooks::list))
        .routes(routes!(automation::hooks::bind, automation::hooks::unbind))
        .routes(routes!(automation::hooks::call))
        .routes(routes!(automation::hooks::dry_run))
        .routes(routes!(automation::queues::list))
        .routes(routes!(automation::queues::read, automation::queues::write, automation::queues::delete))
        .routes(routes!(automation::queues::send))
        .routes(routes!(automation::queues::dead))
        .routes(routes!(automation::queues::redrive))
        .routes(routes!(automation::queues::discard))
        .routes(routes!(automation::schedules::list))
        .routes(routes!(automation::schedules::read, automation::schedules::write, automation::schedules::delete))
        .routes(routes!(automation::schedules::pause))
        .routes(routes!(automation::schedules::resume))
        .routes(routes!(automation::schedules::run))
}

/// The audit log and what is read from it.
fn recorded() -> OpenApiRouter<Control> {
    OpenApiRouter::new()
        .routes(routes!(threat::findings::list))
        .routes(routes!(threat::findings::read))
        .routes(routes!(threat::findings::drill))
        .routes(routes!(threat::rules::list))
        .routes(routes!(threat::rules::try_out))
        .routes(routes!(threat::rules::put, threat::rules::delete))
        .routes(routes!(threat::rules::versions))
        .routes(routes!(threat::rules::settings, threat::rules::put_settings))
        .routes(routes!(threat::responses::list, threat::responses::make))
        .routes(routes!(threat::responses::undo))
        .routes(routes!(threat::responses::approve))
        .routes(routes!(threat::intelligence::read, threat::intelligence::load))
        .routes(routes!(outward::channels::list, outward::channels::make))
        .routes(routes!(outward::channels::read, outward::channels::change, outward::channels::delete))
        .routes(routes!(outward::channels::test))
        .routes(routes!(outward::channels::secret))
        .routes(routes!(outward::feeds::list))
        .routes(routes!(outward::feeds::put, outward::feeds::delete))
        .routes(routes!(outward::feeds::poll))
        .routes(routes!(outward::streams::list, outward::streams::make))
        .routes(routes!(outward::streams::read, outward::streams::change, outward::streams::delete))
        .routes(routes!(outward::streams::test))
        .routes(routes!(outward::streams::secret))
        .routes(routes!(threat::incidents::list))
        .routes(routes!(threat::incidents::read))
        .routes(routes!(threat::incidents::step))
        .routes(routes!(audit::list))
        .routes(routes!(audit::checkpoint))
        .routes(routes!(audit::list_host))
        .routes(routes!(audit::checkpoint_host))
        .routes(routes!(audit::tlog::read))
        .routes(routes!(audit::tlog::read_own))
        .routes(routes!(audit::tlog::proof))
        .routes(routes!(audit::tlog::consistency))
        .routes(routes!(audit::tlog::anchor))
        .routes(routes!(audit::trails::read))
        .routes(routes!(audit::events::record))
        .routes(routes!(audit::violations::list))
        .routes(routes!(audit::checks::put))
        .routes(routes!(audit::checks::list))
        .routes(routes!(audit::checks::read, audit::checks::delete))
        .routes(routes!(audit::checks::run))
        .routes(routes!(audit::remediation::put))
        .routes(routes!(audit::host_calls::read, audit::host_calls::write))
        .routes(routes!(audit::analytics::read))
        .routes(routes!(audit::evidence::create))
        .routes(routes!(audit::evidence::read))
        .routes(routes!(audit::keeping::life, audit::keeping::set_days))
        .routes(routes!(audit::keeping::hold))
        .routes(routes!(audit::keeping::lift))
        .routes(routes!(audit::keeping::hold_tenant))
        .routes(routes!(audit::keeping::lift_tenant))
        .routes(routes!(audit::keeping::erase))
        .routes(routes!(audit::keys::read))
        .routes(routes!(audit::keys::rotate))
}

async fn no_endpoint() -> ApiError {
    ApiError::new("no-endpoint", "there is no such endpoint; see /openapi.json")
}

async fn no_method() -> ApiError {
    ApiError::new("method-not-allowed", "this endpoint does not take that method; see /openapi.json")
}

/// Around every request: its id, checks of the head, and the id put into the answer and the problem.
async fn around(State(control): State<Control>, mut request: Request, next: Next) -> Response {
    let id = RequestId::random(&*control.parts.entropy);
    request.extensions_mut().insert(id.clone());
    let headers = request.headers();
    let ambiguous =
        headers.get_all(header::CONTENT_LENGTH).iter().count() > 1 || headers.get_all(header::HOST).iter().count() > 1;
    let with_proof = Shown::speaks_dpop(headers);
    let mut response = if ambiguous {
        ApiError::new("bad-request", "the head can be read in two ways").into_response()
    } else {
        // A caller who hangs up must not cut an effect in half, and a fault must not cut a connection.
        let fault = || ApiError::host(&"it stopped in the middle").into_response();
        ToItsEnd::new(next.run(request)).await.unwrap_or_else(fault)
    };
    let factor = response.extensions_mut().remove::<Factor>().filter(|_| with_proof);
    if let Some(mut problem) = response.extensions_mut().remove::<Problem>() {
        // The body was made before the id was at hand; it is small, so it is made again with it.
        problem.request_id = Some(id.to_string());
        let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut headers = std::mem::take(response.headers_mut());
        headers.remove(header::CONTENT_LENGTH);
        response = (status, serde_json::to_vec(&problem).unwrap_or_default()).into_response();
        *response.headers_mut() = headers;
    }
    let headers = response.headers_mut();
    if let Some(factor) = factor {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(factor.challenge(true)));
    }
    if let Ok(value) = HeaderValue::from_str(id.as_str()) {
        headers.insert(HeaderName::from_static("ringfence-request-id"), value);
    }
    if with_proof && let Ok(nonce) = HeaderValue::try_from(control.parts.identity.dpop_nonce()) {
        headers.insert("dpop-nonce", nonce);
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if !headers.contains_key(header::CACHE_CONTROL) {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    response
}
