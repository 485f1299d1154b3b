//! The client of the control API: one request in, the answer or the host's problem out. Fetches and keeps access tokens.
//!
//! Must never follow a redirect or use a proxy (either would hand the key to someone else), and never wait or read without
//! an end.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use reqwest::header::{AUTHORIZATION, HeaderName, HeaderValue};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use ringfence_control::wire::{Authenticate, Page, Problem, TokenResponse};
use ringfence_core::{Clock, Entropy};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::address::Address;
use crate::environment::Secret;
use crate::error::{CliError, Refusal, io_words};
use crate::possession::{self, Possession};
use crate::profiles::{CachedToken, Home, Profile};
use crate::ui::{Stopwatch, Trace};

/// LIMIT: longest wait for a connection.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// LIMIT: longest wait for an answer to a request without a long body.
pub const ANSWER_MAX: Duration = Duration::from_secs(30);
/// LIMIT: largest answer that is read whole, in bytes.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// LIMIT: most pages of one list.
const PAGES_COUNT_MAX: usize = 10_000;
/// A token this close to its end is not used any more.
const TOKEN_MARGIN: jiff::SignedDuration = jiff::SignedDuration::from_secs(30);

/// The control API of one host, spoken with one key.
pub struct Api {
    http: reqwest::Client,
    /// The host's address.
    pub host: Address,
    credential: Credential,
    session: RefCell<Option<Rc<Signed>>>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    trace: Trace,
}

/// A token, and the key it is bound to.
#[derive(Debug)]
pub struct Signed {
    token: CachedToken,
    possession: Option<Possession>,
}

/// What one request shows.
#[derive(Clone, Copy)]
struct Showing<'a> {
    token: Option<&'a CachedToken>,
    possession: Option<&'a Possession>,
}

/// What requests are signed in with.
#[derive(Debug, Clone)]
pub enum Credential {
    /// Nothing: `authenticate` itself, and anonymous calls.
    Anonymous,
    /// A key whose tokens are kept for this command only.
    Key(Secret),
    /// A key of the profiles, whose tokens are kept there; or a person's session alone.
    Profile {
        /// Who it speaks for.
        principal: String,
        /// The key; none for a person, who has to sign in again by himself.
        key: Option<Secret>,
        /// Where its tokens are kept.
        home: Home,
        /// The token kept last.
        token: Option<CachedToken>,
    },
}

/// One request to the control API.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    method: Method,
    path: String,
    query: Vec<(&'static str, String)>,
    headers: Vec<(&'static str, String)>,
    body: Body<'a>,
    /// LIMIT: longest wait for the whole answer; `None` for streams, which are watched by their reader.
    time: Option<Duration>,
}

/// What a request carries.
#[derive(Clone)]
pub enum Body<'a> {
    /// Nothing.
    None,
    /// JSON.
    Json(Value),
    /// Bytes as they are: a secret.
    Bytes(&'a [u8]),
    /// A file, streamed.
    File {
        /// Its path.
        path: &'a Path,
        /// Told about every piece sent.
        progress: indicatif::ProgressBar,
    },
}

impl std::fmt::Debug for Body<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Body(..)")
    }
}

/// An answer: the value, and the text it was, for `--json`.
#[derive(Debug, Clone)]
pub struct Answer<T> {
    /// Parsed.
    pub value: T,
    /// As it came.
    pub text: String,
    /// Its status.
    pub status: u16,
}

/// Whether a kept token may be used.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Freshness {
    Kept,
    New,
}

impl Credential {
    /// What a profile signs in with.
    pub fn of(profile: &Profile, home: Home) -> Self {
        let (principal, key, token) = (profile.principal.clone(), profile.key.clone(), profile.token.clone());
        Self::Profile { principal, key, home, token }
    }
}

// === impl Request ===

impl<'a> Request<'a> {
    /// A request for `path` under `/api/v1`.
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        Self {
            method,
            path: format!("/api/v1{}", path.into()),
            query: Vec::new(),
            headers: Vec::new(),
            body: Body::None,
            time: Some(ANSWER_MAX),
        }
    }
    /// `GET`.
    pub fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }
    /// `POST` with JSON.
    pub fn post(path: impl Into<String>, body: Value) -> Self {
        Self { body: Body::Json(body), ..Self::new(Method::POST, path) }
    }
    /// `PUT` with JSON.
    pub fn put(path: impl Into<String>, body: Value) -> Self {
        Self { body: Body::Json(body), ..Self::new(Method::PUT, path) }
    }
    /// `DELETE`.
    pub fn delete(path: impl Into<String>) -> Self {
        Self::new(Method::DELETE, path)
    }
    /// Adds a query parameter, when there is a value.
    #[must_use]
    pub fn query(mut self, name: &'static str, value: Option<impl ToString>) -> Self {
        self.query.extend(value.map(|value| (name, value.to_string())));
        self
    }
    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
    /// Carries this body.
    #[must_use]
    pub fn body(mut self, body: Body<'a>) -> Self {
        self.body = body;
        self
    }
    /// Waits this long; `None` for a stream.
    #[must_use]
    pub fn time(mut self, time: Option<Duration>) -> Self {
        self.time = time;
        self
    }
}

// === impl Api ===

impl Api {
    /// Speaks to `host` with `credential`.
    pub fn new(
        host: Address,
        credential: Credential,
        (clock, entropy): (Arc<dyn Clock>, Arc<dyn Entropy>),
        trace: Trace,
    ) -> Result<Self, CliError> {
        let http = http_client()?;
        let session = match &credential {
            Credential::Profile { token, .. } => token.clone().and_then(Signed::from_kept).map(Rc::new),
            Credential::Anonymous | Credential::Key(_) => None,
        };
        Ok(Self { http, host, credential, session: RefCell::new(session), clock, entropy, trace })
    }

    /// Proves an identity and answers with who it is and the token, bound to a key of this session's own where the host
    /// does that.
    pub async fn authenticate(&self, proof: &Authenticate) -> Result<(TokenResponse, Signed), CliError> {
        let body = serde_json::to_value(proof).unwrap_or_default();
        let request = Request::post("/zero-trust/authenticate", body);
        let possession = Possession::generate(self.entropy.as_ref())?;
        let response = self.attempt(&request, Showing { token: None, possession: Some(&possession) }).await?;
        let answer: Answer<TokenResponse> = read_answer(&self.host, response).await?;
        let bound = answer.value.token_type.eq_ignore_ascii_case("dpop").then_some(possession);
        let signed = Signed { token: cached(&answer.value, self.clock.as_ref()), possession: bound };
        Ok((answer.value, signed))
    }

    /// Who the credential speaks for, as a fresh sign-in says; and the token to keep.
    pub async fn sign_in(&self) -> Result<(TokenResponse, CachedToken), CliError> {
        let key = match &self.credential {
            Credential::Key(key) | Credential::Profile { key: Some(key), .. } => key,
            Credential::Profile { key: None, principal, .. } => {
                return Err(CliError::SessionOver { host: self.host.to_string(), principal: principal.clone() });
            }
            Credential::Anonymous => {
                return Err(CliError::NotSignedIn { host: self.host.to_string(), tenant: None });
            }
        };
        let (answer, signed) = self.authenticate(&Authenticate::ApiKey { key: key.reveal().to_owned() }).await?;
        let token = signed.to_keep();
        self.session.replace(Some(Rc::new(signed)));
        self.keep(&token);
        Ok((answer, token))
    }

    /// Sends a request of another port with this session's token. `url` is the one that `make` makes requests for.
    pub async fn send_signed(
        &self,
        plugins: &Address,
        method: &Method,
        url: &Url,
        make: impl AsyncFn() -> Result<RequestBuilder, CliError>,
    ) -> Result<Response, CliError> {
        let signed = self.bearer(Freshness::Kept).await?;
        let mut bare = url.clone();
        bare.set_query(None);
        self.exchange(plugins, signed.showing(), method, bare.as_str(), make).await
    }

    /// Sends a request and reads its JSON answer.
    pub async fn send<T: DeserializeOwned>(&self, request: &Request<'_>) -> Result<Answer<T>, CliError> {
        read_answer(&self.host, self.open(request).await?).await
    }

    /// Sends a request that needs no session, such as the beginning of a sign-in.
    pub async fn ask<T: DeserializeOwned>(&self, request: &Request<'_>) -> Result<Answer<T>, CliError> {
        read_answer(&self.host, self.attempt(request, Showing { token: None, possession: None }).await?).await
    }

    /// Sends a request with a token given, for the one moment of enrolment when no key exists yet.
    pub async fn send_as<T: DeserializeOwned>(
        &self,
        request: &Request<'_>,
        signed: &Signed,
    ) -> Result<Answer<T>, CliError> {
        read_answer(&self.host, self.attempt(request, signed.showing()).await?).await
    }

    /// Sends a request whose answer is empty.
    pub async fn act(&self, request: &Request<'_>) -> Result<(), CliError> {
        self.open(request).await.map(drop)
    }

    /// Sends a request that is done at once, with an empty answer, or later, with one that says when.
    pub async fn act_or_later<T: DeserializeOwned>(
        &self,
        request: &Request<'_>,
    ) -> Result<Option<Answer<T>>, CliError> {
        let response = self.open(request).await?;
        match response.status() {
            StatusCode::NO_CONTENT => Ok(None),
            _ => read_answer(&self.host, response).await.map(Some),
        }
    }

    /// All items of a list. `from` names the parameter that takes the cursor.
    pub async fn list<T: DeserializeOwned>(
        &self,
        request: &Request<'_>,
        from: &'static str,
    ) -> Result<Answer<Vec<T>>, CliError> {
        let mut first: Option<String> = None;
        let mut values: Vec<Value> = Vec::new();
        let mut cursor: Option<String> = None;
        for _ in 0..PAGES_COUNT_MAX {
            let mut request = request.clone();
            if cursor.is_some() {
                request.query.retain(|(name, _)| *name != from);
            }
            let page: Answer<Page<Value>> = self.send(&request.query(from, cursor.as_deref())).await?;
            values.extend(page.value.items);
            let next = page.value.cursor.filter(|next| Some(next) != cursor.as_ref());
            let Some(next) = next else {
                let text = match first {
                    None => page.text,
                    Some(_) => json!({ "items": values }).to_string(),
                };
                let items: Result<Vec<T>, _> = values.into_iter().map(serde_json::from_value).collect();
                let value = items.map_err(|_| unexpected(&self.host))?;
                return Ok(Answer { value, text, status: page.status });
            };
            first.get_or_insert(page.text);
            cursor = Some(next);
        }
        Err(CliError::failed("too-many-pages", format!("the list has more than {PAGES_COUNT_MAX} pages"), None))
    }

    /// Sends a request and answers with the response once it is known to be no refusal. A token that is no longer
    /// taken is replaced once.
    pub async fn open(&self, request: &Request<'_>) -> Result<Response, CliError> {
        let kept = self.session.borrow().is_some();
        let signed = self.bearer(Freshness::Kept).await?;
        if kept && signed.possession.is_some() && matches!(request.body, Body::File { .. }) {
            // A nonce that is too old is found out with a small request, not with a long upload that is cut.
            let _ = self.attempt(&Request::get("/whoami"), signed.showing()).await?;
        }
        let response = self.attempt(request, signed.showing()).await?;
        let response = if response.status() == StatusCode::UNAUTHORIZED && kept {
            let signed = self.bearer(Freshness::New).await?;
            self.attempt(request, signed.showing()).await?
        } else {
            response
        };
        if response.status().is_success() { Ok(response) } else { Err(refusal(response).await) }
    }

    async fn bearer(&self, freshness: Freshness) -> Result<Rc<Signed>, CliError> {
        if freshness == Freshness::Kept {
            let now = self.clock.now();
            let live = |signed: &Rc<Signed>| now < signed.token.expires_at.saturating_sub(TOKEN_MARGIN).unwrap_or(now);
            if let Some(signed) = self.session.borrow().as_ref().filter(|signed| live(signed)) {
                return Ok(Rc::clone(signed));
            }
        }
        self.sign_in().await?;
        let signed = self.session.borrow().clone();
        signed.ok_or_else(|| CliError::NotSignedIn { host: self.host.to_string(), tenant: None })
    }

    /// Keeps a token where the profile has it. It works without being kept: a folder that cannot be written is no reason
    /// to stop.
    fn keep(&self, token: &CachedToken) {
        if let Credential::Profile { home, key, principal, .. } = &self.credential {
            let host = self.host.to_string();
            let _ = home.update(|profiles| profiles.put_token(&host, principal, key.as_ref(), token.clone()));
        }
    }

    async fn attempt(&self, request: &Request<'_>, showing: Showing<'_>) -> Result<Response, CliError> {
        let url = self.host.with(&request.path);
        let make = async || {
            let mut builder = self.http.request(request.method.clone(), &url);
            for (name, value) in &request.headers {
                builder = builder.header(*name, value);
            }
            if let Some(time) = request.time {
                builder = builder.timeout(time);
            }
            if !request.query.is_empty() {
                builder = builder.query(&request.query);
            }
            attach(builder, &request.body).await
        };
        let watch = Stopwatch::start();
        self.trace.line(&format!("> {} {}", request.method, request.path));
        let response = self.exchange(&self.host, showing, &request.method, &url, make).await?;
        self.trace.line(&format!("< {} {:.0} ms", response.status().as_u16(), watch.took().as_secs_f64() * 1e3));
        Ok(response)
    }

    /// Sends what `make` makes, with what is shown beside it; and once more when the host wants its own nonce in the proof.
    async fn exchange(
        &self,
        host: &Address,
        showing: Showing<'_>,
        method: &Method,
        url: &str,
        make: impl AsyncFn() -> Result<RequestBuilder, CliError>,
    ) -> Result<Response, CliError> {
        let send = async || {
            let builder = self.show(make().await?, showing, method, url);
            builder.send().await.map_err(|error| unreachable_host(host, &error))
        };
        let response = send().await?;
        let Some(possession) = showing.possession.filter(|possession| possession.learn(&response)) else {
            return Ok(response);
        };
        if let Some(token) = showing.token {
            self.keep(&CachedToken { nonce: possession.nonce(), ..token.clone() });
        }
        send().await
    }

    fn show(&self, builder: RequestBuilder, showing: Showing<'_>, method: &Method, url: &str) -> RequestBuilder {
        let token = showing.token.map(|token| &token.access_token);
        let scheme = if showing.possession.is_some() { "DPoP" } else { "Bearer" };
        let builder = match token {
            Some(token) => {
                let value = HeaderValue::try_from(format!("{scheme} {}", token.reveal()));
                builder.headers(value.into_iter().map(sensitive).collect())
            }
            None => builder,
        };
        match showing.possession {
            Some(possession) => {
                let proof = possession.proof(method.as_str(), url, token, self.clock.now(), self.entropy.as_ref());
                builder.header(possession::PROOF, proof)
            }
            None => builder,
        }
    }
}

// === impl Signed ===

impl Signed {
    /// A token that was kept; none when its key cannot be read.
    fn from_kept(token: CachedToken) -> Option<Self> {
        let possession = match &token.proof_key {
            Some(key) => Some(Possession::from_kept(key, token.nonce.clone()).ok()?),
            None => None,
        };
        Some(Self { token, possession })
    }

    /// The token with its key, for the file of profiles.
    pub fn to_keep(&self) -> CachedToken {
        let possession = self.possession.as_ref();
        CachedToken {
            proof_key: possession.map(Possession::to_keep),
            nonce: possession.and_then(Possession::nonce),
            ..self.token.clone()
        }
    }

    fn showing(&self) -> Showing<'_> {
        Showing { token: Some(&self.token), possession: self.possession.as_ref() }
    }
}

fn sensitive(mut value: HeaderValue) -> (HeaderName, HeaderValue) {
    value.set_sensitive(true);
    (AUTHORIZATION, value)
}

/// The HTTP client of both ports.
pub fn http_client() -> Result<reqwest::Client, CliError> {
    // SECURITY: a redirect or a proxy of the environment would receive the key.
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .connect_timeout(CONNECT_MAX)
        .user_agent(concat!("ringfence/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|_| CliError::failed("client", "cannot set up the HTTP client".to_owned(), None))
}

/// A token with the time it ends, by our clock.
fn cached(answer: &TokenResponse, clock: &dyn Clock) -> CachedToken {
    let now = clock.now();
    let lifetime = jiff::SignedDuration::from_secs(answer.expires_in.clamp(0, 86_400));
    CachedToken {
        access_token: Secret::new(answer.access_token.clone()),
        expires_at: now.checked_add(lifetime).unwrap_or(now),
        proof_key: None,
        nonce: None,
    }
}

/// What a failed request means to a person.
pub fn unreachable_host(host: &Address, error: &reqwest::Error) -> CliError {
    let why = if error.is_timeout() {
        "no answer in time".to_owned()
    } else {
        root_io(error).map_or_else(|| "the connection was closed".to_owned(), io_words)
    };
    CliError::Unreachable { host: host.to_string(), why }
}

/// The host's refusal, as it said it or as its status says.
pub async fn refusal(response: Response) -> CliError {
    let status = response.status();
    let retry_after = response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
    let bytes = read_body(response, ANSWER_BYTES_MAX).await.unwrap_or_default();
    let problem = serde_json::from_slice::<Problem>(&bytes).unwrap_or_else(|_| Problem {
        kind: "urn:ringfence:error:unexpected-answer".to_owned(),
        title: status.canonical_reason().unwrap_or_default().to_owned(),
        status: status.as_u16(),
        code: "unexpected-answer".to_owned(),
        detail: format!("the host answered {} without saying why", status.as_u16()),
        help: Some("check that `--host` names a Ringfence control plane".to_owned()),
        request_id: None,
        decision_id: None,
        needs: Vec::new(),
        factor: None,
    });
    CliError::Refused(Box::new(Refusal { problem, retry_after, version: None }))
}

/// Reads a body whole, up to a limit. `None` when it breaks off or is longer.
pub async fn read_body(response: Response, bytes_max: usize) -> Option<Bytes> {
    let mut stream = response.bytes_stream();
    let mut bytes = bytes::BytesMut::new();
    while let Some(piece) = stream.next().await {
        bytes.extend_from_slice(&piece.ok()?);
        if bytes.len() > bytes_max {
            return None;
        }
    }
    Some(bytes.freeze())
}

/// Checks a word that becomes a path segment but has no type of its own.
pub fn segment(text: &str) -> Result<&str, CliError> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !text.is_empty() && text.len() <= 200 && text.chars().all(fits) {
        return Ok(text);
    }
    Err(CliError::Usage {
        code: "bad-id",
        detail: format!("`{}` is not an id", text.chars().take(80).collect::<String>()),
        help: None,
    })
}

async fn attach(builder: RequestBuilder, body: &Body<'_>) -> Result<RequestBuilder, CliError> {
    Ok(match body {
        Body::None => builder,
        Body::Json(value) => builder.json(value),
        Body::Bytes(bytes) => {
            builder.header("content-type", "application/octet-stream").body(Bytes::copy_from_slice(bytes))
        }
        Body::File { path, progress } => {
            let failed = |error: std::io::Error| CliError::file("read", path, &error);
            let file = tokio::fs::File::open(path).await.map_err(failed)?;
            let length = file.metadata().await.map_err(failed)?.len();
            progress.set_length(length);
            progress.set_position(0);
            let progress = progress.clone();
            let stream = tokio_util::io::ReaderStream::with_capacity(file, 64 << 10)
                .inspect(move |piece| progress.inc(piece.as_ref().map_or(0, |piece| piece.len() as u64)));
            builder
                .header("content-type", "application/wasm")
                .header("content-length", length)
                .body(reqwest::Body::wrap_stream(stream))
        }
    })
}

async fn read_answer<T: DeserializeOwned>(host: &Address, response: Response) -> Result<Answer<T>, CliError> {
    if !response.status().is_success() {
        return Err(refusal(response).await);
    }
    let status = response.status().as_u16();
    let bytes = read_body(response, ANSWER_BYTES_MAX).await.ok_or_else(|| unexpected(host))?;
    let text = String::from_utf8(bytes.into()).map_err(|_| unexpected(host))?;
    let value = serde_json::from_str(&text).map_err(|_| unexpected(host))?;
    Ok(Answer { value, text, status })
}

fn unexpected(host: &Address) -> CliError {
    CliError::failed(
        "unexpected-answer",
        format!("`{host}` answered something that this version does not understand"),
        "check that `--host` names a Ringfence control plane, and compare  ringfence version",
    )
}

fn root_io(error: &reqwest::Error) -> Option<&std::io::Error> {
    let mut source = std::error::Error::source(error);
    let mut found = None;
    while let Some(error) = source {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            found = Some(io);
        }
        source = error.source();
    }
    found
}
