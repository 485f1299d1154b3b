//! Fields of personal data on their way through: sealed before the guest sees a request, opened in its answer for those
//! whose tenant's policy says so.
//!
//! Must never pass on a body that a rule is about without having followed the rule: what cannot be read is refused. Such
//! bodies are gathered whole, so nothing streams on a plugin with rules. Must never put a value into a log.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, Limited};
use ringfence_audit::application::{ApplicationError, ApplicationEvent, PLUGIN_EVENT_BYTES_MAX};
use ringfence_audit::{Log, codes};
use ringfence_capabilities::{EventRefused, Opening, PluginEvent, Tried, Verdict, Witness};
use ringfence_core::field_routes::RequestLine;
use ringfence_core::fields::{Direction, FieldRule, FieldSubject, Otherwise, Step, steps};
use ringfence_core::proof::act;
use ringfence_core::{Action, Resource, Usage, limits};
use ringfence_engine::{Body, Reply, RunError, RunFailure};
use ringfence_keys::SEALED_PREFIX;
use ringfence_registry::Route;
use ringfence_store::{StoreError, Subjects};
use serde_json::json;

use crate::invoke::Gateway;
use crate::record::Seen;
use crate::refuse::Refusal;
use crate::splice;

/// LIMIT: most bytes of a body that a rule is about.
const BODY_BYTES_MAX: usize = 1 << 20;
/// LIMIT: most fields of one body that are sealed or opened.
const FIELDS_COUNT_MAX: usize = 1_000;
/// LIMIT: most pseudonyms in one entry of the audit log.
const SUBJECTS_TOLD_MAX: usize = 100;
/// LIMIT: most bytes that following all rules on one body may read, each rule reading it once a step of its pointers.
const WALK_BYTES_MAX: usize = 64 << 20;
/// What stands for a value that may not be seen.
const MASK: &str = "\"***\"";
/// LIMIT: how long a refused answer's guest is waited for, to know what it spent.
const ENDING: Duration = Duration::from_millis(1_000);

/// The rules of one plugin, or those of them that are for one request.
pub(crate) type Rules = Arc<[FieldRule]>;

type Change = (std::ops::Range<usize>, String);

/// The rules that are for a request and its answer, read as its guest will get it.
pub(crate) fn rules_for(rules: Rules, request: &Request<Body>) -> Result<Rules, Refusal> {
    if !rules.iter().any(FieldRule::has_route) {
        return Ok(rules);
    }
    let has_header = |name: &str| request.headers().contains_key(name);
    let line = RequestLine::read(request.method().as_str(), request.uri().path(), has_header);
    let mut fitting = Vec::new();
    for rule in rules.iter() {
        // SECURITY: one that may or may not be for it is no reason to go on without it, nor to seal a field under another's name.
        if rule.is_for(&line).map_err(|_| Refusal::FieldsPath)? {
            fitting.push(rule.clone());
        }
    }
    Ok(fitting.into())
}

/// A value of an answer that rules name.
struct Named<'a> {
    place: std::ops::Range<usize>,
    /// Whose it is, as the first rule says.
    subject: Option<String>,
    /// In their order.
    rules: Vec<&'a FieldRule>,
}

/// Whose fields, and for whom.
struct Sight<'a> {
    gateway: &'a Gateway,
    route: &'a Route,
    seen: &'a Seen,
    subjects: Subjects,
    may: BTreeMap<String, Option<()>>,
    opened: BTreeMap<String, u64>,
    whose: BTreeSet<String>,
}

impl Gateway {
    /// The rules about the fields of a route's plugin.
    pub(crate) async fn field_rules(&self, route: &Route) -> Result<Rules, Refusal> {
        self.parts.fields.of(&route.store, &route.plugin).await.map_err(|error| {
            tracing::error!(%error, "the rules about fields cannot be read");
            Refusal::Host
        })
    }

    /// The request with its fields sealed. Without a rule for requests, the request as it is.
    pub(crate) async fn seal_fields(
        &self,
        seen: &Seen,
        route: &Route,
        rules: &Rules,
        request: Request<Body>,
    ) -> Result<Request<Body>, Refusal> {
        if !rules.iter().any(|rule| rule.direction == Direction::Request) {
            return Ok(request);
        }
        let (mut head, body) = request.into_parts();
        let deadline = Duration::from_millis(limits::REQUEST_GATHER_MS_MAX);
        let bytes = match tokio::time::timeout(deadline, Limited::new(body, BODY_BYTES_MAX).collect()).await {
            Err(_) => return Err(Refusal::BodyTimeout),
            Ok(Ok(whole)) => whole.to_bytes(),
            Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => return Err(Refusal::BodyTooLarge),
            Ok(Err(_)) => return Err(seen.body.refusal().unwrap_or(Refusal::BadRequest("the body broke off"))),
        };
        if bytes.is_empty() {
            return Ok(Request::from_parts(head, ringfence_engine::full(bytes)));
        }
        if !is_json(&head.headers) {
            return Err(Refusal::FieldsNotJson);
        }
        let unreadable = |_| Refusal::BadRequest("the body is not JSON that can be read in one way only");
        let text = splice::checked(&bytes).map_err(unreadable)?;
        if walk_bytes(rules, Direction::Request, text) > WALK_BYTES_MAX {
            return Err(Refusal::BodyTooLarge);
        }
        let (mut changes, mut done) = (Vec::<Change>::new(), BTreeSet::new());
        let now = self.parts.clock.now();
        for rule in rules.iter().filter(|rule| rule.direction == Direction::Request) {
            let whose = Whose::of(text, rule)?.ok_or(unreadable(splice::NotJson))?;
            for hit in splice::find(text, &pointer(&rule.pointer)?).map_err(unreadable)? {
                // The first rule that names a value seals it, or finds it sealed.
                if !done.insert(hit.place.start) {
                    continue;
                }
                if changes.len() >= FIELDS_COUNT_MAX {
                    return Err(Refusal::BodyTooLarge);
                }
                let raw = text.get(hit.place.clone()).unwrap_or_default();
                if raw == "null" {
                    continue;
                }
                let value = splice::as_string(raw)
                    .ok_or(Refusal::BadRequest("a field under protection must be a string or null"))?;
                let subject = whose
                    .subject(&hit.stars)
                    .ok_or(Refusal::BadRequest("the body does not say whose a field under protection is"))?;
                let subjects = route.store.subjects();
                if is_sealed_for(&subjects, rule, subject, &value).await {
                    continue;
                }
                let sealed = subjects.seal(&rule.field, subject, value.as_bytes(), now).await.map_err(not_sealed)?;
                changes.push((hit.place, format!("\"{sealed}\"")));
            }
        }
        let body = splice::replace(text, changes).map_err(unreadable)?;
        retold(&mut head.headers, body.len());
        Ok(Request::from_parts(head, ringfence_engine::full(body)))
    }

    /// What came of a run, with the fields of its answer opened or hidden. On a refusal, with what was spent.
    pub(crate) async fn seen_by_caller(
        &self,
        seen: &Seen,
        route: &Route,
        rules: &Rules,
        result: Result<Reply, RunFailure>,
    ) -> Result<Reply, (Refusal, Usage)> {
        let Reply { response, finished } = match result {
            Ok(reply) => reply,
            Err(failure) => {
                let refusal = seen.body.refusal().unwrap_or_else(|| Refusal::of_run(failure.error));
                return Err((refusal, failure.usage));
            }
        };
        if !rules.iter().any(|rule| rule.direction == Direction::Response) {
            return Ok(Reply { response, finished });
        }
        match self.open_fields(seen, route, rules, response).await {
            Ok(response) => Ok(Reply { response, finished }),
            Err(refusal) => {
                // The guest's own failure, if that is why the answer could not be read, is the better word.
                let Ok(outcome) = tokio::time::timeout(ENDING, finished.outcome()).await else {
                    return Err((refusal, Usage::default()));
                };
                let own = outcome.result.err().filter(|error| *error != RunError::Killed).map(Refusal::of_run);
                Err((own.unwrap_or(refusal), outcome.usage))
            }
        }
    }

    /// The answer with its fields opened for those who may see them. Its guest's own budget of time bounds the wait.
    async fn open_fields(
        &self,
        seen: &Seen,
        route: &Route,
        rules: &Rules,
        response: Response<Body>,
    ) -> Result<Response<Body>, Refusal> {
        let (mut head, body) = response.into_parts();
        let bytes = Limited::new(body, BODY_BYTES_MAX).collect().await.map_err(|_| Refusal::FieldsAnswer)?.to_bytes();
        if bytes.is_empty() {
            return Ok(Response::from_parts(head, ringfence_engine::full(bytes)));
        }
        let text = splice::checked(&bytes).ok().filter(|_| is_json(&head.headers)).ok_or(Refusal::FieldsAnswer)?;
        if walk_bytes(rules, Direction::Response, text) > WALK_BYTES_MAX {
            return Err(Refusal::FieldsAnswer);
        }
        let mut sight = Sight {
            gateway: self,
            route,
            seen,
            subjects: route.store.subjects(),
            may: BTreeMap::new(),
            opened: BTreeMap::new(),
            whose: BTreeSet::new(),
        };
        let mut changes: Vec<Change> = Vec::new();
        for value in named(text, rules)? {
            let raw = text.get(value.place.clone()).unwrap_or_default();
            let shown = sight.shown(&value, raw).await?;
            changes.push((value.place, shown));
        }
        sight.swear().await?;
        let body = splice::replace(text, changes).map_err(|_| Refusal::FieldsAnswer)?;
        retold(&mut head.headers, body.len());
        head.headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Ok(Response::from_parts(head, ringfence_engine::full(body)))
    }

    /// Who swears to what the guest of this call opens.
    pub(crate) fn witness(&self, seen: &Arc<Seen>, route: &Route) -> Arc<dyn Witness> {
        Arc::new(Sworn { gateway: self.clone(), seen: Arc::clone(seen), log: Log::Tenant(route.store.clone()) })
    }
}

impl Sight<'_> {
    /// What the caller sees where this value stands: what the first rule says. Where one of several is for some requests only,
    /// each must leave it to him.
    async fn shown(&mut self, value: &Named<'_>, raw: &str) -> Result<String, Refusal> {
        let (rule, others) = value.rules.split_first().ok_or(Refusal::Host)?;
        let all_count = value.rules.iter().any(|rule| rule.has_route());
        let may = self.may_open(&rule.field) && (!all_count || others.iter().all(|other| self.may_open(&other.field)));
        let sealed = splice::as_string(raw).filter(|value| value.starts_with(SEALED_PREFIX));
        let Some(sealed) = sealed else {
            return Ok(if may || raw == "null" { raw.to_owned() } else { MASK.to_owned() });
        };
        let hidden = match rule.otherwise {
            Otherwise::Sealed => raw.to_owned(),
            Otherwise::Mask => MASK.to_owned(),
        };
        if !may {
            return Ok(hidden);
        }
        match self.subjects.open(&rule.field, value.subject.as_deref(), &sealed).await {
            Ok((whose, value)) => {
                let value = std::str::from_utf8(&value).ok().and_then(|value| serde_json::to_string(value).ok());
                let Some(value) = value else { return Ok(hidden) };
                *self.opened.entry(rule.field.clone()).or_default() += 1;
                self.whose.insert(whose.to_string());
                Ok(value)
            }
            // Erased, or sealed elsewhere: nobody sees it.
            Err(StoreError::Erased | StoreError::Keys(_) | StoreError::NoSubject | StoreError::TooLarge { .. }) => {
                Ok(hidden)
            }
            Err(error) => {
                tracing::error!(%error, "a field cannot be opened");
                Err(Refusal::Host)
            }
        }
    }

    fn may_open(&mut self, field: &str) -> bool {
        let (gateway, route, seen) = (self.gateway, self.route, self.seen);
        let ask = || {
            let resource = Resource::Field { tenant: route.tenant.clone(), field: field.parse().ok()? };
            let principal = seen.principal.as_ref()?;
            let policy = &gateway.parts.policy;
            let permit = policy.permit_from::<act::OpenPersonalField>(principal, seen.peer, &resource).ok()?;
            // What was seen in clear cannot be unseen: it needs a session that stands as high as for what cannot be undone.
            let class = act::OpenPersonalField::CLASS;
            gateway.parts.identity.check_trust(principal, seen.peer, class).ok().map(|()| drop(permit))
        };
        self.may.entry(field.to_owned()).or_insert_with(ask).is_some()
    }

    /// Puts on the audit log what is about to be shown; nothing is shown when that fails.
    async fn swear(&self) -> Result<(), Refusal> {
        if self.opened.is_empty() {
            return Ok(());
        }
        let subjects: Vec<&String> = self.whose.iter().take(SUBJECTS_TOLD_MAX).collect();
        let details = json!({
            "invocation": self.seen.invocation.as_str(), "for": "caller", "fields": self.opened, "subjects": subjects,
            "subjects_count": self.whose.len(),
        });
        let event = self.seen.event(self.gateway, codes::PERSONAL_OPENED, details);
        let log = Log::Tenant(self.route.store.clone());
        self.gateway.parts.audit.record(&log, event).await.map(|_| ()).map_err(|_| Refusal::AuditUnavailable)
    }
}

/// The values of an answer that rules name, each once.
fn named<'a>(text: &str, rules: &'a Rules) -> Result<Vec<Named<'a>>, Refusal> {
    let mut found: BTreeMap<usize, Named<'a>> = BTreeMap::new();
    for rule in rules.iter().filter(|rule| rule.direction == Direction::Response) {
        let whose = Whose::of(text, rule)?.ok_or(Refusal::FieldsAnswer)?;
        for hit in splice::find(text, &pointer(&rule.pointer)?).map_err(|_| Refusal::FieldsAnswer)? {
            let subject = whose.subject(&hit.stars).map(str::to_owned);
            let start = hit.place.start;
            let value = found.entry(start).or_insert_with(|| Named { place: hit.place, subject, rules: Vec::new() });
            value.rules.push(rule);
            if found.len() > FIELDS_COUNT_MAX {
                return Err(Refusal::FieldsAnswer);
            }
        }
    }
    Ok(found.into_values().collect())
}

/// Puts a guest's openings on its tenant's audit log.
struct Sworn {
    gateway: Gateway,
    seen: Arc<Seen>,
    log: Log,
}

impl Witness for Sworn {
    fn opening(&self, opening: Opening) -> futures::future::BoxFuture<'static, bool> {
        let code = match opening.verdict {
            Verdict::Granted => codes::PERSONAL_OPENED,
            Verdict::Refused => codes::PERSONAL_OPEN_REFUSED,
        };
        let details = json!({
            "invocation": self.seen.invocation.as_str(), "for": "plugin", "field": opening.field,
            "subject": opening.subject,
        });
        let (gateway, log) = (self.gateway.clone(), self.log.clone());
        let event = self.seen.event(&gateway, code, details);
        Box::pin(async move { gateway.parts.audit.record(&log, event).await.is_ok() })
    }

    fn tried(&self, tried: Tried) {
        let (code, details) = match tried {
            Tried::Egress { origin, why } => (codes::EGRESS_REFUSED, json!({ "origin": origin, "code": why })),
            Tried::Canary { kind, name } => (codes::CANARY_TOUCHED, json!({ "kind": kind, "name": name })),
        };
        let (gateway, log) = (self.gateway.clone(), self.log.clone());
        // LIMIT: the audit log's own queue; a guest makes no more of these than it may make host calls.
        let Ok(place) = Arc::clone(&gateway.telling).try_acquire_owned() else {
            tracing::warn!(code, "too much of what guests try waits to be put on record; this is not");
            return;
        };
        let event = self.seen.event(&gateway, code, details);
        gateway.io.clone().spawn(async move {
            if let Err(error) = gateway.parts.audit.record(&log, event).await {
                tracing::warn!(%error, "what a guest tried could not be put on record");
            }
            drop(place);
        });
    }

    fn event(&self, event: PluginEvent) -> futures::future::BoxFuture<'static, Result<u64, EventRefused>> {
        let PluginEvent { code, message, resource, data } = event;
        let read = ApplicationEvent::read(&code, &message, resource.as_deref(), data, PLUGIN_EVENT_BYTES_MAX);
        let read = match read {
            Ok(read) => read,
            Err(ApplicationError::Reserved(_)) => {
                let why = format!("`{code}` looks like a code of the host");
                return Box::pin(std::future::ready(Err(EventRefused::Reserved(why))));
            }
            Err(ApplicationError::Invalid(why)) => {
                return Box::pin(std::future::ready(Err(EventRefused::Invalid(why))));
            }
        };
        let (gateway, log) = (self.gateway.clone(), self.log.clone());
        let details = json!({ "invocation": self.seen.invocation.as_str(), "for": "plugin" });
        let mut entry = self.seen.event(&gateway, codes::PLUGIN_EVENT, details);
        read.tell(&mut entry);
        Box::pin(async move {
            let put = gateway.parts.audit.record(&log, entry).await;
            put.map(|receipt| receipt.seq).map_err(|_| EventRefused::Unavailable)
        })
    }
}

/// Whose the fields of a rule are in one body: read in one walk, however many fields there are.
enum Whose {
    Unsaid,
    Constant(String),
    /// By what the `*` of the subject's pointer stand for.
    Found(BTreeMap<Vec<String>, String>, usize),
}

impl Whose {
    /// `None` for a body that could be read in two ways.
    fn of(text: &str, rule: &FieldRule) -> Result<Option<Self>, Refusal> {
        let steps = match &rule.subject {
            None => return Ok(Some(Self::Unsaid)),
            Some(FieldSubject::Constant(subject)) => return Ok(Some(Self::Constant(subject.clone()))),
            Some(FieldSubject::Pointer(text)) => pointer(text)?,
        };
        let Ok(hits) = splice::find(text, &steps) else { return Ok(None) };
        let named = hits.into_iter().filter_map(|hit| {
            let raw = text.get(hit.place)?;
            // A number names someone as its digits do.
            let is_number = !raw.is_empty() && raw.bytes().all(|b| b.is_ascii_digit());
            let subject = if is_number { Some(raw.to_owned()) } else { splice::as_string(raw) };
            let fits = |subject: &String| !subject.is_empty() && subject.len() <= ringfence_store::SUBJECT_BYTES_MAX;
            Some((hit.stars, subject.filter(fits)?))
        });
        let stars_count = steps.iter().filter(|step| **step == Step::Every).count();
        Ok(Some(Self::Found(named.collect(), stars_count)))
    }

    fn subject(&self, stars: &[String]) -> Option<&str> {
        match self {
            Self::Unsaid => None,
            Self::Constant(subject) => Some(subject),
            Self::Found(named, count) => named.get(stars.get(..*count)?).map(String::as_str),
        }
    }
}

/// What following the rules costs at most on this body, in bytes read.
fn walk_bytes(rules: &Rules, direction: Direction, text: &str) -> usize {
    let slashes = |pointer: &str| pointer.matches('/').count();
    let steps = rules.iter().filter(|rule| rule.direction == direction).map(|rule| {
        let subject = match &rule.subject {
            Some(FieldSubject::Pointer(pointer)) => slashes(pointer),
            _ => 0,
        };
        slashes(&rule.pointer) + subject
    });
    steps.sum::<usize>().saturating_mul(text.len())
}

/// Whether a caller sends back what was sealed for this very field and subject; then it stays as it is.
async fn is_sealed_for(subjects: &Subjects, rule: &FieldRule, subject: &str, value: &str) -> bool {
    value.starts_with(SEALED_PREFIX) && subjects.open(&rule.field, Some(subject), value).await.is_ok()
}

fn pointer(text: &str) -> Result<Vec<Step>, Refusal> {
    // Checked when the rules were set.
    steps(text).map_err(|error| {
        tracing::error!(%error, "a stored rule about a field cannot be read");
        Refusal::Host
    })
}

fn not_sealed(error: StoreError) -> Refusal {
    match error {
        StoreError::TooLarge { .. } => Refusal::BodyTooLarge,
        StoreError::Quota { .. } => Refusal::FieldsNotSealed,
        error => {
            tracing::error!(%error, "a field cannot be sealed");
            Refusal::FieldsNotSealed
        }
    }
}

/// Whether the head says JSON (`application/json` or a `+json` type), not compressed.
fn is_json(headers: &HeaderMap) -> bool {
    let word = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let kind = word(header::CONTENT_TYPE).unwrap_or_default().split(';').next().unwrap_or_default().trim();
    let kind = kind.to_ascii_lowercase();
    let plain = !headers.contains_key(header::CONTENT_ENCODING) || word(header::CONTENT_ENCODING) == Some("identity");
    plain && (kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json")))
}

/// The head of a body that is another now: its length is told anew, and what was said about the old bytes is dropped.
fn retold(headers: &mut HeaderMap, bytes_count: usize) {
    for name in ["content-digest", "repr-digest", "digest", "content-md5", "etag"] {
        headers.remove(name);
    }
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes_count));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect::<HeaderMap>()
    }

    #[test]
    fn only_plain_json_counts_as_json() {
        for kind in ["application/json", "Application/JSON; charset=utf-8", "application/fhir+json"] {
            assert!(is_json(&headers(&[("content-type", kind)])), "{kind}");
        }
        for kind in ["", "text/plain", "text/json", "application/x-www-form-urlencoded", "application/jsonx"] {
            assert!(!is_json(&headers(&[("content-type", kind)])), "{kind}");
        }
        assert!(!is_json(&headers(&[])));
        assert!(!is_json(&headers(&[("content-type", "application/json"), ("content-encoding", "gzip")])));
    }

    #[test]
    fn a_changed_body_is_told_with_its_own_length_and_no_digest_of_the_old_one() {
        let mut head = headers(&[("content-length", "3"), ("content-digest", "sha-256=:x:"), ("etag", "\"x\"")]);
        retold(&mut head, 1_234);
        assert_eq!(head.len(), 1);
        assert_eq!(head.get("content-length").unwrap(), "1234");
    }

    fn rule(path: Option<&str>, pointer: &str, field: &str, direction: Direction) -> FieldRule {
        FieldRule {
            methods: Vec::new(),
            path: path.map(str::to_owned),
            pointer: pointer.into(),
            field: field.into(),
            subject: Some(FieldSubject::Pointer(pointer.replace(field, "id"))),
            direction,
            otherwise: Otherwise::Sealed,
        }
    }

    #[test]
    fn a_subject_is_found_beside_its_field() {
        let text = r#"{"people":[{"id":7,"email":"a"},{"id":"bob","email":"b"},{"email":"c"},{"id":{}}]}"#;
        let rule = rule(None, "/people/*/email", "email", Direction::Request);
        let whose = Whose::of(text, &rule).unwrap().unwrap();
        let of = |index: &str| whose.subject(&[index.to_owned()]);
        assert_eq!((of("0"), of("1")), (Some("7"), Some("bob")));
        assert_eq!((of("2"), of("3"), of("4")), (None, None, None));
    }

    #[test]
    fn rules_are_for_the_path_that_the_guest_gets_and_its_query_says_nothing() {
        let below = rule(Some("/people/*"), "/email", "email", Direction::Request);
        let all: Rules = [below, rule(None, "/phone", "phone", Direction::Response)].into();
        let fields = |uri: &str| {
            let mut request = Request::new(ringfence_engine::full(""));
            *request.uri_mut() = uri.parse().unwrap();
            let rules = rules_for(Rules::clone(&all), &request).ok()?;
            Some(rules.iter().map(|rule| rule.field.clone()).collect::<Vec<_>>().join(" "))
        };
        for uri in ["/people/7", "http://h/%70eople/7?to=/other", "/PEOPLE/?a=%2F&b=//&c=/../"] {
            assert_eq!(fields(uri).as_deref(), Some("email phone"), "{uri}");
        }
        for uri in ["/", "http://h", "/other?/people/7"] {
            assert_eq!(fields(uri).as_deref(), Some("phone"), "{uri}");
        }
        for uri in ["//people/7", "/people%2F7", "/people;v=1", "/x/../people", "/people/%2e%2e/x"] {
            assert_eq!(fields(uri), None, "{uri}");
        }
    }

    #[test]
    fn a_value_of_an_answer_is_under_all_rules_that_name_it_in_their_order() {
        let of = |path, pointer, field| rule(path, pointer, field, Direction::Response);
        let rules: Rules = [of(Some("/a"), "/email", "email"), of(None, "/*", "any")].into();
        let named = named(r#"{"id":"7","email":"x"}"#, &rules).unwrap();
        let fields: Vec<Vec<&str>> =
            named.iter().map(|value| value.rules.iter().map(|rule| rule.field.as_str()).collect()).collect();
        assert_eq!(fields, [vec!["any"], vec!["email", "any"]]);
        assert_eq!(named[1].subject.as_deref(), Some("7"));
    }
}
