//! The harness: starts the real `ringfence` binary on free ports with a data directory of its own, and speaks to it as
//! an operator, a tenant and a caller do, over HTTP.
//!
//! Must never reach around the two ports: what a test knows, a user can know.
#![forbid(unsafe_code)]

pub mod far_end;
pub mod holder;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use data_encoding::BASE64;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Longest wait for the host to come up.
const START_SECONDS_MAX: u64 = 60;

/// The password of people that [`Host::person`] makes.
pub const PASSWORD: &str = "correct horse battery";

/// The root of the checkout.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default()
}

/// The directory of built programs that this test or benchmark was built into.
pub fn programs() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    // Tests lie in `deps` under it, benchmarks in it.
    let dirs = own.ancestors().skip(1).take(2);
    let found = dirs.map(Path::to_owned).find(|dir| dir.join("ringfence").is_file());
    found.context("`ringfence` is not built; run: cargo xtask test")
}

/// The `ringfence` binary under test.
pub fn ringfence() -> Result<PathBuf> {
    Ok(programs()?.join("ringfence"))
}

/// The bytes of a built guest.
pub fn guest(name: &str) -> Result<Vec<u8>> {
    let path = root().join("target/guests").join(format!("{name}.wasm"));
    std::fs::read(&path).with_context(|| format!("`{}` is not built; run: cargo xtask guests", path.display()))
}

/// Where a host lives: a directory that outlives restarts of the host in it.
pub struct Place {
    dir: TempDir,
}

impl Place {
    /// A new, empty one.
    pub fn new() -> Result<Self> {
        Ok(Self { dir: tempfile::tempdir()? })
    }
    /// One inside a given directory, for file systems of the test's own.
    pub fn inside(parent: &Path) -> Result<Self> {
        Ok(Self { dir: tempfile::tempdir_in(parent)? })
    }
    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }
    /// Writes `ringfence.toml`; give it to [`Host::start_with`].
    pub fn config(&self, text: &str) -> Result<PathBuf> {
        let path = self.dir.path().join("ringfence.toml");
        std::fs::write(&path, text)?;
        Ok(path)
    }
}

/// A running host.
pub struct Host {
    child: Child,
    /// `http://127.0.0.1:...`.
    pub control: String,
    /// `http://127.0.0.1:...`.
    pub plugins: String,
    /// The data directory.
    pub data: PathBuf,
    http: reqwest::Client,
    stderr: std::sync::Arc<Mutex<String>>,
}

impl Host {
    /// Starts a host in `place`.
    pub fn start(place: &Place) -> Result<Self> {
        Self::start_with(place, &[], &[])
    }

    /// Starts a host with further arguments and environment.
    pub fn start_with(place: &Place, arguments: &[&str], environment: &[(&str, &str)]) -> Result<Self> {
        Self::launch(place, &["serve", "--dev"], arguments, environment)
    }

    /// Starts a host as one is deployed: without `--dev`, and with its root key beside the data directory.
    pub fn start_deployed(place: &Place) -> Result<Self> {
        Self::start_with_root(place, &format!("file:{}", place.data().with_extension("key").display()))
    }

    /// The same, with the root key at an address of the test's own.
    pub fn start_with_root(place: &Place, root: &str) -> Result<Self> {
        Self::launch(place, &["serve"], &[], &[("RINGFENCE_KEYS_ROOT", root)])
    }

    fn launch(place: &Place, verb: &[&str], arguments: &[&str], environment: &[(&str, &str)]) -> Result<Self> {
        let data = place.data();
        let mut command = Command::new(ringfence()?);
        command
            .args(verb)
            .args(["--json", "--plugins", "127.0.0.1:0", "--control", "127.0.0.1:0", "--data"])
            .arg(&data)
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let stderr = std::sync::Arc::new(Mutex::new(String::new()));
        let reader = child.stderr.take().map(|pipe| {
            let keep = stderr.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                    if let Ok(mut keep) = keep.lock() {
                        keep.push_str(&line);
                        keep.push('\n');
                    }
                }
            })
        });
        let out = child.stdout.take().context("stdout is piped")?;
        let (send, ready) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut lines = BufReader::new(out).lines().map_while(Result::ok);
            let _ = send.send(lines.next());
            // The pipe is read on, so that the host never blocks on it.
            lines.for_each(drop);
        });
        let line = ready.recv_timeout(Duration::from_secs(START_SECONDS_MAX)).ok().flatten();
        let Some(line) = line else {
            let _ = child.kill();
            let _ = child.wait();
            // What it said last may not be read yet.
            let until = std::time::Instant::now() + Duration::from_secs(5);
            while reader.as_ref().is_some_and(|reader| !reader.is_finished()) && std::time::Instant::now() < until {
                std::thread::sleep(Duration::from_millis(5));
            }
            let text = stderr.lock().map(|text| text.clone()).unwrap_or_default();
            bail!("the host did not start: {text}");
        };
        let ready: Value = serde_json::from_str(&line)?;
        let text = |key: &str| ready.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        // The host closes a silent connection after 10 s: one that lay longer is not used again.
        let http =
            reqwest::Client::builder().timeout(Duration::from_secs(120)).pool_idle_timeout(Duration::from_secs(5));
        let http = http.no_proxy().build()?;
        Ok(Self { child, control: text("control"), plugins: text("plugins"), data, http, stderr })
    }

    /// Speaks to the host with another client: one that trusts its certificate, or shows one.
    #[must_use]
    pub fn with_client(mut self, http: reqwest::Client) -> Self {
        self.http = http;
        self
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What the host wrote to standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.lock().map(|text| text.clone()).unwrap_or_default()
    }

    /// Signs in with the enrolment token and makes an operator key, as `ringfence login` does.
    pub async fn operator(&self) -> Result<Session> {
        let token = std::fs::read_to_string(self.data.join("operator.token")).context("the enrolment token")?;
        let body = json!({ "method": "bootstrap", "token": token.trim(), "name": "ada" });
        let first = self.anonymous().post("/zero-trust/authenticate").json(&body).send().await?;
        let first = answer(first).await?;
        let session = self.session(string(&first, "access_token")?);
        let key = session.post("/tokens").json(&json!({ "name": "ada", "role": "operator" })).send().await?;
        self.sign_in(&string(&answer(key).await?, "key")?).await
    }

    /// Signs in with an API key.
    pub async fn sign_in(&self, key: &str) -> Result<Session> {
        let body = json!({ "method": "api_key", "key": key });
        let issued = answer(self.anonymous().post("/zero-trust/authenticate").json(&body).send().await?).await?;
        let mut session = self.session(string(&issued, "access_token")?);
        session.key = key.to_owned();
        Ok(session)
    }

    /// A session with a token as it is, valid or not.
    pub fn session(&self, token: String) -> Session {
        Session {
            control: self.control.clone(),
            plugins: self.plugins.clone(),
            token: Some(token),
            key: String::new(),
            http: self.http.clone(),
        }
    }

    /// No credential at all.
    pub fn anonymous(&self) -> Session {
        Session {
            control: self.control.clone(),
            plugins: self.plugins.clone(),
            token: None,
            key: String::new(),
            http: self.http.clone(),
        }
    }

    /// Makes a tenant and signs in as its first admin.
    pub async fn tenant(&self, operator: &Session, name: &str) -> Result<Tenant> {
        answer(operator.post("/tenants").json(&json!({ "name": name })).send().await?).await?;
        let body = json!({ "name": "admin", "role": "tenant-admin" });
        let key = answer(operator.post(&format!("/tenants/{name}/tokens")).json(&body).send().await?).await?;
        Ok(Tenant { name: name.to_owned(), admin: self.sign_in(&string(&key, "key")?).await? })
    }

    /// Invites somebody at `/people` or `/tenants/{t}/people`, and signs in as him: with the password [`PASSWORD`], in the
    /// session of his enrolment.
    pub async fn person(&self, by: &Session, people: &str, name: &str, role: &str) -> Result<Session> {
        let asked = by.post(people).json(&json!({ "name": name, "role": role })).send().await?;
        let invitation = string(&answer(asked).await?, "invitation")?;
        let body = json!({ "method": "invitation", "token": invitation, "password": PASSWORD });
        let issued = answer(self.anonymous().post("/zero-trust/authenticate").json(&body).send().await?).await?;
        Ok(self.session(string(&issued, "access_token")?))
    }

    /// Sends SIGTERM and waits for the end; gives the time it took.
    pub fn stop(mut self) -> Result<Duration> {
        let start = Instant::now();
        self.signal(rustix::process::Signal::TERM)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "the host ended with {status}: {}", self.stderr());
        Ok(start.elapsed())
    }

    /// Sends SIGKILL and waits for the end.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Sends a signal.
    pub fn signal(&self, signal: rustix::process::Signal) -> Result<()> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal)?;
        Ok(())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Someone who calls, with or without a token.
#[derive(Clone)]
pub struct Session {
    control: String,
    plugins: String,
    /// The access token sent with every request.
    pub token: Option<String>,
    /// The API key behind it.
    pub key: String,
    http: reqwest::Client,
}

impl Session {
    /// A request to the control plane.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.bearing(self.http.request(method, format!("{}/api/v1{path}", self.control)))
    }
    /// `GET` on the control plane.
    pub fn get(&self, path: &str) -> RequestBuilder {
        self.request(Method::GET, path)
    }
    /// `POST` on the control plane.
    pub fn post(&self, path: &str) -> RequestBuilder {
        self.request(Method::POST, path)
    }
    /// `PUT` on the control plane.
    pub fn put(&self, path: &str) -> RequestBuilder {
        self.request(Method::PUT, path)
    }
    /// `DELETE` on the control plane.
    pub fn delete(&self, path: &str) -> RequestBuilder {
        self.request(Method::DELETE, path)
    }
    /// A call on the data plane.
    pub fn call(&self, method: Method, path: &str) -> RequestBuilder {
        self.bearing(self.http.request(method, format!("{}{path}", self.plugins)))
    }
    /// A `GET` call on the data plane: status and text.
    pub async fn fetch(&self, path: &str) -> Result<(StatusCode, String)> {
        let response = self.call(Method::GET, path).send().await?;
        Ok((response.status(), response.text().await?))
    }
    /// The host's metrics, as an operator's monitoring reads them.
    pub async fn metrics(&self) -> Result<String> {
        let request = self.http.get(format!("{}/metrics", self.control));
        Ok(self.bearing(request).send().await?.error_for_status()?.text().await?)
    }
    fn bearing(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }
}

/// A tenant and its first admin.
pub struct Tenant {
    /// Its name.
    pub name: String,
    /// Its admin's session.
    pub admin: Session,
}

impl Tenant {
    /// `/tenants/{name}{path}`.
    pub fn path(&self, path: &str) -> String {
        format!("/tenants/{}{path}", self.name)
    }

    /// Signs in with a new key of a role.
    pub async fn member(&self, host: &Host, name: &str, role: &str) -> Result<Session> {
        let body = json!({ "name": name, "role": role });
        let key = answer(self.admin.post(&self.path("/tokens")).json(&body).send().await?).await?;
        host.sign_in(&string(&key, "key")?).await
    }

    /// Uploads bytes as a version; gives the raw answer.
    pub async fn push_raw(&self, manifest: &str, plugin: &str, version: &str, bytes: Vec<u8>) -> Result<Response> {
        Ok(self
            .admin
            .put(&self.path(&format!("/plugins/{plugin}/versions/{version}")))
            .header("content-type", "application/wasm")
            .header("ringfence-manifest", BASE64.encode(manifest.as_bytes()))
            .body(bytes)
            .send()
            .await?)
    }

    /// Uploads a built guest under a name, with `[needs]` and `[budget]` text for its manifest.
    pub async fn push(&self, guest_name: &str, plugin: &str, version: &str, sections: &str) -> Result<Value> {
        let manifest = format!("[plugin]\nname = \"{plugin}\"\nversion = \"{version}\"\n{sections}");
        answer(self.push_raw(&manifest, plugin, version, guest(guest_name)?).await?).await
    }

    /// Grants a capability.
    pub async fn grant(&self, plugin: &str, capability: &str, scope: &[&str]) -> Result<Value> {
        let path = self.path(&format!("/plugins/{plugin}/grants/{capability}"));
        answer(self.admin.put(&path).json(&json!({ "scope": scope })).send().await?).await
    }

    /// Moves the route to a version.
    pub async fn deploy(&self, plugin: &str, version: &str) -> Result<Value> {
        let path = self.path(&format!("/plugins/{plugin}/deploy"));
        answer(self.admin.post(&path).json(&json!({ "version": version })).send().await?).await
    }

    /// Uploads, grants and deploys version 0.1.0 of a guest.
    pub async fn ship(&self, guest_name: &str, plugin: &str, sections: &str, grants: &[(&str, &[&str])]) -> Result<()> {
        self.push(guest_name, plugin, "0.1.0", sections).await?;
        for (capability, scope) in grants {
            self.grant(plugin, capability, scope).await?;
        }
        self.deploy(plugin, "0.1.0").await?;
        Ok(())
    }

    /// Calls a plugin as the admin.
    pub async fn fetch(&self, plugin: &str, rest: &str) -> Result<(StatusCode, String)> {
        self.admin.fetch(&format!("/{}/{plugin}{rest}", self.name)).await
    }
}

/// The JSON of an answer that must have succeeded; an error quotes the problem.
pub async fn answer(response: Response) -> Result<Value> {
    let (status, url) = (response.status(), response.url().path().to_owned());
    let text = response.text().await?;
    ensure!(status.is_success(), "{url}: {status}: {text}");
    if text.is_empty() { Ok(Value::Null) } else { Ok(serde_json::from_str(&text)?) }
}

/// Status and JSON of an answer, whatever it is.
pub async fn problem(response: Response) -> Result<(u16, Value)> {
    let status = response.status().as_u16();
    let text = response.text().await?;
    let value = serde_json::from_str(&text).with_context(|| format!("{status}: not JSON: {text}"))?;
    Ok((status, value))
}

/// A text field.
pub fn string(value: &Value, key: &str) -> Result<String> {
    let found = value.get(key).and_then(Value::as_str);
    Ok(found.with_context(|| format!("no text `{key}` in {value}"))?.to_owned())
}

/// Every file under a directory with its bytes.
pub fn files_under(dir: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                open.push(entry.path());
            } else if entry.file_type()?.is_file() {
                found.push((entry.path(), std::fs::read(entry.path())?));
            }
        }
    }
    Ok(found)
}

/// Waits until `check` says yes; for what happens beside the request, such as records written once a second.
pub async fn eventually<F: AsyncFnMut() -> Result<bool>>(what: &str, mut check: F) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(20) {
        if check().await? {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    bail!("did not happen within 20 s: {what}")
}
