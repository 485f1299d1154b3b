//! Looking through what leaves the host: address, headers and body of a request, for what its tenant wants told or refused.
//!
//! Must never let a byte of a value out that is refused and found; never put a value into an error, a log or the record; and
//! never pass off as clean what could not be looked through. Of a body no more is kept than may be part of one value.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use ringfence_core::{InvocationId, LossAction, LossActions, LossKind, LossPlace, LossTaken};
use wasmtime_wasi_http::{Error as HttpError, WasiBody};

use super::egress::Gate;
use crate::guarded::{Guarded, Lost};
use crate::logging::Notebook;
use crate::logs::LogLevel;
use crate::loss::{Hit, Scanner};

/// LIMIT: bytes of a body that are looked through; what is behind them counts as not looked through.
const BODY_BYTES_MAX: u64 = 64 << 20;

/// Looks through one request.
pub(super) struct Inspection {
    guarded: Guarded,
    notebook: Arc<Notebook>,
    invocation: InvocationId,
    host: String,
    /// For people: with scheme and port.
    origin: String,
    actions: LossActions,
    /// Bytes of a body that are looked through.
    pub(super) bytes_max: u64,
    refused: OnceLock<String>,
}

// === impl Inspection ===

impl Inspection {
    /// None where nothing is looked for.
    pub(super) fn of(gate: &Gate, host: &str, origin: String) -> Option<Arc<Self>> {
        let actions = gate.guarded.loss_actions(Some(host));
        actions.looks().then(|| {
            Arc::new(Self {
                guarded: gate.guarded.clone(),
                notebook: Arc::clone(&gate.notebook),
                invocation: gate.caller.invocation.clone(),
                host: host.to_owned(),
                origin,
                actions,
                bytes_max: BODY_BYTES_MAX,
                refused: OnceLock::new(),
            })
        })
    }

    /// Looks through the head of a request; its body is as it passes.
    pub(super) fn look(self: &Arc<Self>, request: &mut http::Request<WasiBody>) -> Result<(), HttpError> {
        let address = request.uri().path_and_query().map_or("", |address| address.as_str());
        self.through(LossPlace::Address, Scanner::of_form(self.actions), address.as_bytes())?;
        self.headers(request.headers())?;
        if request.body().is_end_stream() || request.body().size_hint().exact() == Some(0) {
            return Ok(());
        }
        if is_encoded(request.headers()) {
            return self.found(LossPlace::Body, [LossKind::Uninspected], 0);
        }
        let is_form = request.headers().get(CONTENT_TYPE).is_some_and(is_form);
        let scanner = if is_form { Scanner::of_form(self.actions) } else { Scanner::new(self.actions) };
        let body = std::mem::take(request.body_mut());
        *request.body_mut() = Inspected::new(body, Arc::clone(self), scanner).boxed_unsync();
        Ok(())
    }

    /// Why the request was refused, once it was: what a connection says of a body that breaks off is not why it does.
    pub(super) fn refusal(&self) -> Option<HttpError> {
        self.refused.get().map(|why| HttpError::InternalError(Some(why.clone())))
    }

    fn headers(&self, headers: &HeaderMap) -> Result<(), HttpError> {
        let names = headers.keys().map(|name| name.as_str().as_bytes());
        let mut texts = names.chain(headers.values().map(HeaderValue::as_bytes));
        texts.try_for_each(|text| self.through(LossPlace::Header, Scanner::new(self.actions), text))
    }

    fn through(&self, place: LossPlace, mut scanner: Scanner, text: &[u8]) -> Result<(), HttpError> {
        let mut hits = scanner.feed(text);
        hits.extend(scanner.end());
        self.found(place, hits.iter().map(|hit| hit.kind), 0)
    }

    /// Tells what was found; an error where any of it is refused. So much of the body had gone out before.
    fn found(&self, place: LossPlace, kinds: impl IntoIterator<Item = LossKind>, sent: u64) -> Result<(), HttpError> {
        let looked_for = |kind: &LossKind| self.actions.of(*kind) != LossAction::Off;
        let kinds: Vec<LossKind> = kinds.into_iter().filter(looked_for).collect();
        let refused = kinds.iter().copied().find(|kind| self.actions.of(*kind) == LossAction::Refuse);
        let taken = if refused.is_some() { LossTaken::Refused } else { LossTaken::Sent };
        let lost = Lost { invocation: &self.invocation, place, host: Some(&self.host), taken };
        self.guarded.lost(&lost, kinds);
        let Some(kind) = refused else { return Ok(()) };
        let what = match kind {
            LossKind::Uninspected => "its body cannot be looked through".to_owned(),
            kind => format!("its {} holds what looks like {}", place.as_str(), kind.in_words()),
        };
        let went = match place {
            LossPlace::Body => format!("; of the body {sent} bytes went before"),
            LossPlace::Address | LossPlace::Header | LossPlace::Log => String::new(),
        };
        let why = format!("{what}, which the tenant's settings against data loss refuse{went}");
        self.notebook.own(LogLevel::Warn, &format!("outgoing request to `{}` was refused: {why}", self.origin));
        let _ = self.refused.set(why.clone());
        Err(HttpError::InternalError(Some(why)))
    }
}

/// Whether what a body says is not what it holds.
fn is_encoded(headers: &HeaderMap) -> bool {
    let plain = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
    !headers.get_all(CONTENT_ENCODING).iter().all(plain)
}

fn is_form(content_type: &HeaderValue) -> bool {
    let essence = content_type.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
    essence.trim_ascii().eq_ignore_ascii_case(b"application/x-www-form-urlencoded")
}

/// A body that is looked through as it passes.
struct Inspected {
    body: WasiBody,
    inspection: Arc<Inspection>,
    scanner: Scanner,
    /// What may yet be part of a value that is refused.
    held: Bytes,
    /// Trailers, while they wait for what was held.
    trailers: Option<Frame<Bytes>>,
    sent: u64,
    /// So much has passed that the rest is not looked through.
    is_blind: bool,
    is_over: bool,
}

// === impl Inspected ===

impl Inspected {
    fn new(body: WasiBody, inspection: Arc<Inspection>, scanner: Scanner) -> Self {
        let (held, trailers, sent) = (Bytes::new(), None, 0);
        Self { body, inspection, scanner, held, trailers, sent, is_blind: false, is_over: false }
    }

    /// What goes out for the next frame, or for the end; none when that has to be seen first.
    fn next(&mut self, frame: Option<Frame<Bytes>>) -> Result<Option<Frame<Bytes>>, HttpError> {
        let data = match frame.map(Frame::into_data) {
            Some(Ok(data)) => self.passed(data)?,
            Some(Err(trailers)) => {
                if let Some(headers) = trailers.trailers_ref() {
                    self.inspection.headers(headers)?;
                }
                let rest = self.rest()?;
                if rest.is_empty() {
                    return Ok(Some(trailers));
                }
                self.trailers = Some(trailers);
                rest
            }
            None => {
                self.is_over = true;
                self.rest()?
            }
        };
        Ok((!data.is_empty()).then(|| Frame::data(data)))
    }

    fn passed(&mut self, data: Bytes) -> Result<Bytes, HttpError> {
        let mut all = if self.is_blind {
            data
        } else if self.scanner.at() >= self.inspection.bytes_max {
            self.inspection.found(LossPlace::Body, [LossKind::Uninspected], self.sent)?;
            let hits = self.scanner.end();
            self.tell(&hits)?;
            self.is_blind = true;
            joined(std::mem::take(&mut self.held), data)
        } else {
            let hits = self.scanner.feed(&data);
            self.tell(&hits)?;
            joined(std::mem::take(&mut self.held), data)
        };
        if !self.is_blind {
            let open = self.scanner.open().min(all.len());
            self.held = all.split_off(all.len().saturating_sub(open));
        }
        self.sent = self.sent.saturating_add(all.len() as u64);
        Ok(all)
    }

    /// What was held, once nothing comes that could make a value of it.
    fn rest(&mut self) -> Result<Bytes, HttpError> {
        let hits = self.scanner.end();
        self.tell(&hits)?;
        Ok(std::mem::take(&mut self.held))
    }

    fn tell(&self, hits: &[Hit]) -> Result<(), HttpError> {
        self.inspection.found(LossPlace::Body, hits.iter().map(|hit| hit.kind), self.sent)
    }
}

impl Body for Inspected {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let this = &mut *self;
        loop {
            if let Some(trailers) = this.trailers.take() {
                return Poll::Ready(Some(Ok(trailers)));
            }
            if this.is_over {
                return Poll::Ready(None);
            }
            let frame = ready!(Pin::new(&mut this.body).poll_frame(cx)).transpose();
            match frame.and_then(|frame| this.next(frame)) {
                Ok(Some(frame)) => return Poll::Ready(Some(Ok(frame))),
                Ok(None) => {}
                Err(error) => {
                    (this.is_over, this.held) = (true, Bytes::new());
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.is_over || (self.held.is_empty() && self.trailers.is_none() && self.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let (inner, held) = (self.body.size_hint(), self.held.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower().saturating_add(held));
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper.saturating_add(held));
        }
        hint
    }
}

impl Drop for Inspected {
    /// Who knows the length of a body does not ask for its end.
    fn drop(&mut self) {
        if self.is_over || self.is_blind {
            return;
        }
        let mut hits = self.scanner.end();
        // What is refused was held, and did not go.
        hits.retain(|hit| self.inspection.actions.of(hit.kind) != LossAction::Refuse);
        let _ = self.tell(&hits);
    }
}

fn joined(first: Bytes, second: Bytes) -> Bytes {
    if first.is_empty() {
        return second;
    }
    let mut all = Vec::with_capacity(first.len().saturating_add(second.len()));
    all.extend_from_slice(&first);
    all.extend_from_slice(&second);
    Bytes::from(all)
}
