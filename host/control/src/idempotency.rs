//! `Idempotency-Key`: a POST that is sent again is answered again, not done again.
//!
//! One place for every POST but sign-ins and challenges, around the endpoints (draft-ietf-httpapi-idempotency-key-header-07). A key belongs to who
//! sends it and to the tenant it is about. The order is: name taken durably, effect with its intent and outcome, answer
//! kept durably, answer given; so a host that is killed anywhere in between answers the next attempt truly. What was answered before
//! goes to the endpoint again, to be asked whether the caller may do it now, and no further. Must never keep a secret that is shown
//! once, never answer one caller with what another was told, and never tell a kept answer to who may not ask for it any more.

mod shelf;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use axum::extract::{FromRequestParts, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use data_encoding::HEXLOWER;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use http_body::Body as _;
use jiff::Timestamp;
use ringfence_core::{Principal, TenantId, limits};
use ringfence_store::TenantStore;
use sha2::{Digest as _, Sha256};

use self::shelf::{Answer, Asked, Kept, Phase, Taken};
use crate::Control;
use crate::call::Call;
use crate::extract::read_body;
use crate::problem::ApiError;
use crate::wire::Problem;

/// The header.
pub(crate) const HEADER: &str = "idempotency-key";
/// Set on an answer that was given before.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// LIMIT: characters of a key.
const KEY_CHARS_MAX: usize = 255;
/// LIMIT: bytes of an answer that is kept.
const ANSWER_BYTES_MAX: u64 = 32 << 10;
/// Seconds after which to ask again for what is under way.
const IN_PROGRESS_SECONDS: u64 = 1;
/// Headers kept with an answer; the others are of the moment.
const HEADERS_KEPT: [HeaderName; 3] = [header::CONTENT_TYPE, header::LOCATION, header::ETAG];

/// Put into an answer's extensions by a handler whose answer holds a secret: it is not kept.
#[derive(Debug, Clone, Copy)]
pub struct ShownOnce;

/// Whether a request that was answered before would be allowed now. Its call carries this, and nothing is done for it.
#[derive(Debug, Clone, Default)]
pub(crate) struct AskedAgain(Arc<AtomicBool>);

impl AskedAgain {
    /// Notes that it would be; what ends the endpoint's work, and is told nobody.
    pub(crate) fn allow(&self) -> ApiError {
        self.0.store(true, Ordering::SeqCst);
        in_progress()
    }

    fn is_allowed(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// Names that this process works on; what is taken and not here was cut off by an end of the host.
#[derive(Debug, Clone, Default)]
pub(crate) struct UnderWay(Arc<Mutex<HashSet<String>>>);

/// A name under way until it is dropped.
struct Working {
    all: UnderWay,
    name: String,
}

impl UnderWay {
    /// None when the name is already worked on. Bounded by the connections there are.
    fn enter(&self, store: &TenantStore, asked: &Asked) -> Option<Working> {
        let name = format!("{}/{}", store.uid(), asked.name);
        let new = self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone());
        new.then(|| Working { all: self.clone(), name })
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.all.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
    }
}

/// Whether a POST to this path, or to paths of this form, is done once for a key. A sign-in and a challenge change nothing but give
/// what is good once, and whoever signs in is not known yet.
pub(crate) fn takes_key(path: &str) -> bool {
    match path.strip_prefix("/api/v1/zero-trust/") {
        Some("authenticate" | "passkeys/sign-in" | "passkeys/challenge" | "federation/sign-in") => false,
        Some(other) => !(other.starts_with("devices/") && other.ends_with("/challenge")),
        None => true,
    }
}

/// Around every endpoint: answers a POST with a key that was answered before, and keeps the answer of a new one.
pub(crate) async fn once(State(control): State<Control>, request: Request, next: Next) -> Response {
    let concerned =
        request.method() == Method::POST && request.headers().contains_key(HEADER) && takes_key(request.uri().path());
    if !concerned {
        return next.run(request).await;
    }
    match control.answer_once(request, next).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    }
}

impl Control {
    /// Removes kept answers whose time is over, of all tenants.
    pub(crate) async fn sweep_answers(&self) {
        let now = self.parts.clock.now();
        let tenants = self.parts.tenants.list().await.unwrap_or_default();
        let stores = tenants.iter().filter_map(|tenant| self.parts.tenants.open_tenant(&tenant.id));
        for store in stores.chain([self.parts.tenants.platform().clone()]) {
            if let Err(error) = shelf::sweep(&store, now).await {
                tracing::warn!(tenant = store.label(), %error, "kept answers cannot be swept now");
            }
        }
    }

    async fn answer_once(&self, request: Request, next: Next) -> Result<Response, ApiError> {
        let (mut parts, body) = request.into_parts();
        let key = key_of(&parts.headers)?;
        let call = Call::from_request_parts(&mut parts, self).await?;
        let store = self.home_of(&call, parts.uri.path());
        // Before the body is waited for: by its end the name may be another's.
        let name = name_of(&call.principal, self.parts.identity.invited_at(&call.principal), &key);
        let body = read_body(Request::new(body), limits::CONTROL_BODY_BYTES_MAX).await?;
        let asked = Asked { name, fingerprint: fingerprint(&parts, &body), request: call.request.to_string() };
        let Some(_working) = self.under_way.enter(&store, &asked) else { return Err(in_progress()) };
        if let Taken::Earlier(kept) = shelf::take(&store, &asked, self.parts.clock.now()).await? {
            check_same(&kept, &asked)?;
            let asked_again = AskedAgain::default();
            parts.extensions.insert(Call { again: Some(asked_again.clone()), ..call });
            let answered = next.run(Request::from_parts(parts, Body::from(body))).await;
            return if asked_again.is_allowed() { again(*kept) } else { Ok(answered) };
        }
        // So that its endpoint does not verify it anew: a proof of possession is good once.
        parts.extensions.insert(call.clone());
        let response = next.run(Request::from_parts(parts, Body::from(body))).await;
        let (response, phase) = phase_of(response).await;
        let kept = match phase {
            None => shelf::give_back(&store, &asked).await,
            Some(phase) => shelf::end(&store, &asked, self.parts.clock.now(), phase).await,
        };
        // The effect stands and its answer is true; only the next attempt will hear that the first was cut off.
        if let Err(error) = kept {
            tracing::warn!(%error, request = %call.request, "an answer could not be kept for its idempotency key");
        }
        Ok(response)
    }

    /// Where a caller's answers lie: at home; an operator's with the tenant that they are about, to go with it.
    fn home_of(&self, call: &Call, path: &str) -> TenantStore {
        let tenants = &self.parts.tenants;
        home_named(call.principal.tenant(), path)
            .and_then(|home| tenants.open_tenant(&home))
            .unwrap_or_else(|| tenants.platform().clone())
    }
}

/// Whose shelf the answers to a caller of this tenant lie on. SECURITY: his own, whatever tenant the path names; an operator's with
/// the one that it names.
fn home_named(own: Option<&TenantId>, path: &str) -> Option<TenantId> {
    let named = || path.strip_prefix("/api/v1/tenants/")?.split('/').next()?.parse::<TenantId>().ok();
    own.cloned().or_else(named)
}

/// How a request ended, by its answer: none when nothing was done and the next attempt is to be a new one.
async fn phase_of(response: Response) -> (Response, Option<Phase>) {
    let status = response.status();
    // Who calls and whether he may is asked anew each time, and what had no room is tried anew.
    let undone = status.is_server_error()
        || matches!(
            status,
            StatusCode::UNAUTHORIZED
                | StatusCode::FORBIDDEN
                | StatusCode::REQUEST_TIMEOUT
                | StatusCode::TOO_MANY_REQUESTS
        );
    if undone {
        return (response, None);
    }
    let unkept = |why: &str| Some(Phase::AnsweredUnkept { why: why.to_owned() });
    if response.extensions().get::<ShownOnce>().is_some() {
        return (response, unkept("it held a secret, which is shown once"));
    }
    if response.body().size_hint().exact().is_none_or(|bytes| bytes > ANSWER_BYTES_MAX) {
        return (response, unkept("it was too long"));
    }
    let (parts, body) = response.into_parts();
    let Ok(bytes) = axum::body::to_bytes(body, ANSWER_BYTES_MAX as usize).await else {
        let error = ApiError::host(&"an answer of known length could not be read");
        return (error.into_response(), unkept("it broke off"));
    };
    let text = String::from_utf8(bytes.to_vec());
    let headers = HEADERS_KEPT
        .iter()
        .filter_map(|name| Some((name.as_str().to_owned(), parts.headers.get(name)?.to_str().ok()?.to_owned())));
    let phase = match text {
        Ok(body) => Some(Phase::Answered(Answer { status: status.as_u16(), headers: headers.collect(), body })),
        Err(_) => unkept("it was no text"),
    };
    (Response::from_parts(parts, Body::from(bytes)), phase)
}

/// What a caller's request is kept under. SECURITY: a key that may do less is told nothing of what another of the same name did, nor
/// who was invited under a name of what the one before him did.
fn name_of(principal: &Principal, invited_at: Option<Timestamp>, key: &str) -> String {
    let scope = principal.scope().map(ToString::to_string);
    let invited = invited_at.map(|at| format!("invited at {at}"));
    let who = [principal.id().as_str().as_bytes(), key.as_bytes()];
    let more = [scope.as_deref(), invited.as_deref()].into_iter().flatten().map(str::as_bytes);
    let parts: Vec<&[u8]> = who.into_iter().chain(more).collect();
    digest(&parts)
}

/// Whether a key comes with the request that it came with before.
fn check_same(kept: &Kept, asked: &Asked) -> Result<(), ApiError> {
    if kept.fingerprint == asked.fingerprint {
        return Ok(());
    }
    Err(ApiError::new(
        "idempotency-key-reused",
        "this `Idempotency-Key` was sent before, with another request; take a new one",
    ))
}

/// The answer to a request that was asked before.
fn again(kept: Kept) -> Result<Response, ApiError> {
    match kept.phase {
        Phase::Begun => Err(ApiError::new(
            "idempotency-interrupted",
            format!(
                "the host ended while it worked on this, so it may or may not be done: the audit log has it as request \
                 `{}`, with an outcome if it was; look, then use a new key",
                kept.request
            ),
        )),
        Phase::AnsweredUnkept { why } => Err(ApiError::new(
            "idempotency-not-kept",
            format!(
                "this was done, as request `{}`, and is not done again; its answer is not kept: {why}",
                kept.request
            ),
        )),
        Phase::Answered(answer) => replay(answer),
    }
}

fn replay(answer: Answer) -> Result<Response, ApiError> {
    let status = StatusCode::from_u16(answer.status).map_err(|error| ApiError::host(&error))?;
    let problem = serde_json::from_str::<Problem>(&answer.body).ok().filter(|_| !status.is_success());
    let mut response = (status, answer.body).into_response();
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_TYPE);
    for (name, value) in answer.headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            headers.insert(name, value);
        }
    }
    headers.insert(REPLAYED, HeaderValue::from_static("true"));
    // So that the problem gets the id of the request that it answers now.
    if let Some(problem) = problem {
        response.extensions_mut().insert(problem);
    }
    Ok(response)
}

fn in_progress() -> ApiError {
    let error = ApiError::new("idempotency-in-progress", "a request with this `Idempotency-Key` is still under way");
    ApiError { retry_after_seconds: Some(IN_PROGRESS_SECONDS), ..error }
}

/// The key: a quoted string, as the draft has it, or the bare word that most clients send.
fn key_of(headers: &HeaderMap) -> Result<String, ApiError> {
    let mut values = headers.get_all(HEADER).iter();
    let text = match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    };
    let key = text.map(|text| text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text));
    let is_fine = |key: &&str| {
        (1..=KEY_CHARS_MAX).contains(&key.len())
            && key.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\'))
    };
    key.filter(is_fine).map(str::to_owned).ok_or_else(|| {
        let text = format!("`Idempotency-Key` is one word of 1 to {KEY_CHARS_MAX} visible characters, such as a UUID");
        ApiError::new("bad-request", text)
    })
}

fn fingerprint(parts: &Parts, body: &[u8]) -> String {
    let target = parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    digest(&[parts.method.as_str().as_bytes(), target.as_bytes(), body])
}

/// SHA-256 over pieces, each with its length so that no two lists read the same.
fn digest(pieces: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for piece in pieces {
        hash.update((piece.len() as u64).to_be_bytes());
        hash.update(piece);
    }
    HEXLOWER.encode(&hash.finalize())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use ringfence_core::{ActClass, KeyScope, PrincipalKind, Strength};

    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "nobody calls here")]
    fn a_scoped_key_is_told_nothing_that_another_of_its_name_was_told() {
        let now = jiff::Timestamp::UNIX_EPOCH;
        let whole = Principal::mint(
            "acme/ci".parse().unwrap(),
            PrincipalKind::Service,
            None,
            None,
            Strength::Secret,
            None,
            now,
        );
        let scope = KeyScope { classes: Some(BTreeSet::from([ActClass::Read])), plugins: None };
        let scoped = whole.clone().within(Some(Arc::new(scope)));
        assert_eq!(name_of(&scoped, None, "k"), name_of(&scoped.clone(), None, "k"));
        assert_ne!(name_of(&scoped, None, "k"), name_of(&whole, None, "k"));
        assert_ne!(name_of(&scoped, None, "k"), name_of(&scoped, None, "l"));
        // Nor anybody else by using the same key.
        let other = "acme/cd".parse().unwrap();
        let other = Principal::mint(other, PrincipalKind::Service, None, None, Strength::Secret, None, now);
        assert_ne!(name_of(&other, None, "k"), name_of(&whole, None, "k"));
        // Nor who is invited under a name that another had.
        let later = Timestamp::from_second(1).unwrap();
        assert_ne!(name_of(&whole, Some(now), "k"), name_of(&whole, Some(later), "k"));
    }

    #[test]
    fn a_tenants_answers_lie_at_home_whatever_tenant_the_path_names() {
        let (acme, beta): (TenantId, TenantId) = ("acme".parse().unwrap(), "beta".parse().unwrap());
        let path = "/api/v1/tenants/beta/tokens";
        assert_eq!(home_named(Some(&acme), path), Some(acme));
        assert_eq!(home_named(None, path), Some(beta), "an operator's go with the tenant that they are about");
        assert_eq!(home_named(None, "/api/v1/tokens"), None);
    }

    #[test]
    fn a_key_is_good_for_the_request_that_it_came_with_alone() {
        let asked = Asked { name: "n".to_owned(), fingerprint: "f".to_owned(), request: "r".to_owned() };
        let kept = |fingerprint: &str| Kept {
            fingerprint: fingerprint.to_owned(),
            request: "r".to_owned(),
            at: Timestamp::UNIX_EPOCH,
            phase: Phase::Begun,
        };
        assert!(check_same(&kept("f"), &asked).is_ok());
        assert_eq!(check_same(&kept("g"), &asked).unwrap_err().code, "idempotency-key-reused");
    }

    #[tokio::test]
    async fn a_refusal_of_this_moment_and_a_secret_are_not_kept() {
        let answered = async |response: Response| phase_of(response).await.1;
        for status in [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::SERVICE_UNAVAILABLE] {
            assert_eq!(answered(status.into_response()).await, None, "{status}");
        }
        assert!(matches!(answered("done".into_response()).await, Some(Phase::Answered(_))));
        let mut secret = "the key".into_response();
        secret.extensions_mut().insert(ShownOnce);
        assert!(matches!(answered(secret).await, Some(Phase::AnsweredUnkept { .. })));
    }

    #[test]
    fn a_post_says_that_it_takes_a_key_if_and_only_if_it_does() {
        let document: serde_json::Value = serde_json::from_str(&crate::routes::openapi()).unwrap();
        let mut without = Vec::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            let Some(post) = item.get("post") else { continue };
            let parameters = post["parameters"].as_array();
            let says = parameters.is_some_and(|all| all.iter().any(|one| one["name"] == "Idempotency-Key"));
            assert_eq!(says, takes_key(path), "{path}");
            if !says {
                without.push(path.strip_prefix("/api/v1/zero-trust/").unwrap());
            }
        }
        without.sort_unstable();
        let meant =
            ["authenticate", "devices/{id}/challenge", "federation/sign-in", "passkeys/challenge", "passkeys/sign-in"];
        assert_eq!(without, meant);
    }

    fn read(values: &[&str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(HEADER, HeaderValue::from_str(value).unwrap());
        }
        key_of(&headers).ok()
    }

    #[test]
    fn a_key_is_one_word_quoted_or_bare() {
        assert_eq!(read(&["8e03978e-40d5-43dd-bc93-6894a57f9324"]).unwrap().len(), 36);
        assert_eq!(read(&["\"abc\""]).as_deref(), Some("abc"));
        for bad in [&[][..], &[""], &["\"\""], &["a b"], &["\"a"], &["a\\b"], &["a", "a"], &[&"x".repeat(256)]] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn pieces_cannot_be_shifted_into_each_other() {
        assert_ne!(digest(&[b"ab", b"c"]), digest(&[b"a", b"bc"]));
        assert_ne!(digest(&[b"ab"]), digest(&[b"ab", b""]));
    }
}
