//! Runs the command line in this process with streams of its own, against a stand-in that speaks the control API's words.
//!
//! The stand-in answers what a test tells it to: it shows how the command line behaves, not what the host does.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use jiff::Timestamp;
use ringfence_cli::{
    AuditRepairArgs, ConfigShowArgs, DoctorArgs, Environment, Format, Hosted, Io, Secret, ServeArgs, StoreCommand,
    Terminal, run_with,
};
use ringfence_core::{Clock, Entropy};
use serde_json::{Value, json};

/// A clock that a test moves.
#[derive(Clone, Default)]
pub struct SteppedClock(Arc<AtomicI64>);

impl SteppedClock {
    pub fn advance(&self, seconds: i64) {
        self.0.fetch_add(seconds, Ordering::SeqCst);
    }
}

impl Clock for SteppedClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + self.0.load(Ordering::SeqCst)).unwrap()
    }
    fn monotonic(&self) -> Duration {
        Duration::from_secs(self.0.load(Ordering::SeqCst).unsigned_abs())
    }
}

/// Dice that a test needs no luck with.
struct Dice;

impl Entropy for Dice {
    fn fill(&self, into: &mut [u8]) {
        into.fill(7);
    }
}

/// The host's side, which says that it was called.
struct Side {
    clock: SteppedClock,
    called: Arc<Mutex<Vec<String>>>,
}

impl Hosted for Side {
    fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(self.clock.clone())
    }
    fn entropy(&self) -> Arc<dyn Entropy> {
        Arc::new(Dice)
    }
    fn serve(&self, args: &ServeArgs, format: Format) -> ExitCode {
        self.called.lock().unwrap().push(format!("serve {args:?} {format:?}"));
        ExitCode::SUCCESS
    }
    fn store(&self, _: &StoreCommand, format: Format) -> ExitCode {
        self.called.lock().unwrap().push(format!("store {format:?}"));
        ExitCode::SUCCESS
    }
    fn audit_repair(&self, _: &AuditRepairArgs, format: Format) -> ExitCode {
        self.called.lock().unwrap().push(format!("audit repair {format:?}"));
        ExitCode::SUCCESS
    }
    fn doctor(&self, _: &DoctorArgs, format: Format) -> ExitCode {
        self.called.lock().unwrap().push(format!("doctor {format:?}"));
        ExitCode::SUCCESS
    }
    fn config_show(&self, args: &ConfigShowArgs, format: Format) -> ExitCode {
        self.called.lock().unwrap().push(format!("config show origin={} {format:?}", args.origin));
        ExitCode::SUCCESS
    }
    fn compile_child(&self) -> ExitCode {
        self.called.lock().unwrap().push("compile-child".to_owned());
        ExitCode::SUCCESS
    }
}

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Sink {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

/// A person at a shell.
pub struct Person {
    pub home: tempfile::TempDir,
    pub clock: SteppedClock,
    pub api_key: Option<&'static str>,
    pub terminal: Terminal,
    pub called: Arc<Mutex<Vec<String>>>,
}

/// What a command did.
#[derive(Debug)]
pub struct Outcome {
    pub exit: ExitCode,
    pub out: String,
    pub err: String,
}

impl Person {
    pub fn new() -> Self {
        Self {
            home: tempfile::tempdir().unwrap(),
            clock: SteppedClock::default(),
            api_key: None,
            terminal: Terminal { input: false, out: false, err: false },
            called: Arc::default(),
        }
    }

    /// A person whose key is in the environment.
    pub fn with_key() -> Self {
        Self { api_key: Some("rfk_test_key"), ..Self::new() }
    }

    pub fn run(&self, args: &[&str]) -> Outcome {
        self.run_with_input(args, "")
    }

    pub fn run_with_input(&self, args: &[&str], input: &'static str) -> Outcome {
        let (out, err) = (Sink::default(), Sink::default());
        let io = Io {
            input: Box::new(input.as_bytes()),
            out: Box::new(out.clone()),
            err: Box::new(err.clone()),
            terminal: self.terminal,
        };
        let environment = Environment {
            home: Some(self.home.path().to_owned()),
            api_key: self.api_key.map(|key| Secret::new(key.to_owned())),
            sdk: None,
        };
        let side = Side { clock: self.clock.clone(), called: Arc::clone(&self.called) };
        let args = std::iter::once("ringfence").chain(args.iter().copied()).map(OsString::from);
        let exit = run_with(args, &side, &environment, io);
        Outcome { exit, out: out.text(), err: err.text() }
    }

    /// Everything under the person's folder, as text.
    pub fn files(&self) -> String {
        fn collect(dir: &Path, into: &mut String) {
            for entry in std::fs::read_dir(dir).unwrap().flatten() {
                if entry.path().is_dir() {
                    collect(&entry.path(), into);
                } else {
                    into.push_str(&std::fs::read_to_string(entry.path()).unwrap_or_default());
                }
            }
        }
        let mut text = String::new();
        collect(self.home.path(), &mut text);
        text
    }
}

/// One request as the stand-in saw it.
#[derive(Debug, Clone)]
pub struct Seen {
    /// `GET /api/v1/whoami?x=1`.
    pub line: String,
    pub authorization: Option<String>,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// One answer of the stand-in.
pub struct Reply {
    pub status: u16,
    pub kind: &'static str,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn json(status: u16, body: Value) -> Self {
        let kind = if status < 400 { "application/json" } else { "application/problem+json" };
        Self { status, kind, headers: Vec::new(), body: body.to_string().into_bytes() }
    }
    pub fn text(status: u16, kind: &'static str, body: &str) -> Self {
        Self { status, kind, headers: Vec::new(), body: body.as_bytes().to_vec() }
    }
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }
    /// A problem as the host writes it.
    pub fn problem(status: u16, code: &str, detail: &str, help: Option<&str>) -> Self {
        Self::json(
            status,
            json!({ "type": format!("/docs/errors/{code}"), "title": "x", "status": status, "code": code,
                "detail": detail, "help": help, "request_id": "r_test" }),
        )
    }
}

type Answers = Arc<Mutex<VecDeque<(String, Reply)>>>;

/// A stand-in for a host: answers each request with the first reply told for it; `authenticate` always works.
pub struct StandIn {
    pub address: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    answers: Answers,
    _stop: tokio::sync::oneshot::Sender<()>,
}

#[derive(Clone)]
struct Shared {
    seen: Arc<Mutex<Vec<Seen>>>,
    answers: Answers,
}

impl StandIn {
    pub fn start() -> Self {
        let (seen, answers): (Arc<Mutex<Vec<Seen>>>, Answers) = Default::default();
        let shared = Shared { seen: Arc::clone(&seen), answers: Arc::clone(&answers) };
        let (told, address) = std::sync::mpsc::channel();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                told.send(listener.local_addr().unwrap()).unwrap();
                let router = axum::Router::new().fallback(answer).with_state(shared);
                tokio::select! {
                    result = async { axum::serve(listener, router).await } => result.unwrap(),
                    _ = stopped => {}
                }
            });
        });
        let address = format!("http://{}", address.recv().unwrap());
        Self { address, seen, answers, _stop: stop }
    }

    /// Tells it to answer the next `line` (`GET /whoami`, under `/api/v1` unless it starts with `//`) so.
    pub fn tell(&self, line: &str, reply: Reply) -> &Self {
        let (method, path) = line.split_once(' ').unwrap();
        let path = path
            .strip_prefix('/')
            .filter(|rest| rest.starts_with('/'))
            .map_or_else(|| format!("/api/v1{path}"), str::to_owned);
        self.answers.lock().unwrap().push_back((format!("{method} {path}"), reply));
        self
    }

    /// The requests so far, but for `authenticate`.
    pub fn seen(&self) -> Vec<Seen> {
        let seen = self.seen.lock().unwrap();
        seen.iter().filter(|seen| !seen.line.contains("zero-trust")).cloned().collect()
    }

    /// The last request that was not a sign-in, and its body.
    pub fn last(&self) -> (String, Value) {
        let seen = self.seen.lock().unwrap();
        let last = seen.iter().rev().find(|seen| !seen.line.ends_with("/authenticate")).unwrap();
        (last.line.clone(), serde_json::from_slice(&last.body).unwrap_or_default())
    }

    /// What was sent to sign in with, so far.
    pub fn sign_in_bodies(&self) -> Vec<Vec<u8>> {
        let seen = self.seen.lock().unwrap();
        seen.iter().filter(|seen| seen.line.ends_with("/authenticate")).map(|seen| seen.body.clone()).collect()
    }

    pub fn sign_ins(&self) -> usize {
        self.seen.lock().unwrap().iter().filter(|seen| seen.line.contains("zero-trust")).count()
    }
}

async fn answer(State(shared): State<Shared>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 26).await.unwrap_or_default().to_vec();
    let line = format!("{} {}", head.method, head.uri);
    let authorization = head.headers.get("authorization").map(|value| value.to_str().unwrap().to_owned());
    let headers = head.headers.iter().map(|(n, v)| (n.to_string(), String::from_utf8_lossy(v.as_bytes()).into_owned()));
    let headers = headers.collect();
    let count = {
        let mut seen = shared.seen.lock().unwrap();
        seen.push(Seen { line: line.clone(), authorization, headers, body });
        seen.iter().filter(|seen| seen.line.contains("zero-trust")).count()
    };
    let told = {
        let mut answers = shared.answers.lock().unwrap();
        let found = answers.iter().position(|(told, _)| *told == line || *told == line.split('?').next().unwrap_or(""));
        found.and_then(|index| answers.remove(index)).map(|(_, reply)| reply)
    };
    let reply = told.unwrap_or_else(|| {
        if line.contains("zero-trust") {
            return Reply::json(
                200,
                json!({ "access_token": format!("token-{count}"), "token_type": "Bearer", "expires_in": 300,
                    "session_id": "s_test", "trust": { "strength": "secret", "score": 30 },
                    "principal": { "id": "acme/ci", "kind": "service", "role": "tenant-admin", "tenant": "acme" } }),
            );
        }
        Reply::problem(500, "untold", &format!("the test told nothing for `{line}`"), None)
    });
    let mut response = Response::builder().status(reply.status).header("content-type", reply.kind);
    for (name, value) in reply.headers {
        response = response.header(name, value);
    }
    response.body(Body::from(reply.body)).unwrap()
}
