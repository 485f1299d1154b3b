//! `cargo xtask demo`: the main job on a fresh machine, shown with the real binary and real plugins. Every step is a
//! check: it says what happened, and the run fails when one did not.
//!
//! Must never reach around the product: it types `ringfence` commands and sends HTTP, like anybody.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::guests::{self, GuestsArgs};
use crate::run::{quiet_cargo, root, target};

/// A word that must not be found on disk.
const CANARY: &str = "canary-4f1d-the-quick-brown-plugin";

/// Arguments of `cargo xtask demo`.
#[derive(clap::Args)]
pub struct DemoArgs {
    /// Leave after the checks; non-zero when one failed
    #[arg(long)]
    once: bool,
    /// One JSON object a step
    #[arg(long)]
    json: bool,
}

/// Shows the main job.
pub fn run(arguments: &DemoArgs) -> Result<()> {
    let mut show = Show { json: arguments.json, failed: Vec::new() };
    let dir = std::env::temp_dir().join(format!("ringfence-demo-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let cleanup = Cleanup(dir.clone());
    let mut stage = None;
    show.step("build guests", || {
        // Its progress would break the one-object-a-line output, so it goes through a process of its own.
        if arguments.json {
            quiet_cargo(&["xtask", "guests"])?;
        } else {
            guests::run(&GuestsArgs { js: false, python: false, force: false })?;
        }
        Ok("plugins are components now".to_owned())
    })?;
    show.step("build host", || {
        if binary_given().is_none() {
            quiet_cargo(&["build", "--locked", "-p", "ringfence-server"])?;
        }
        Ok("the `ringfence` binary".to_owned())
    })?;
    show.step("start host", || {
        let started = Stage::start(&dir)?;
        let text = format!("control {}, plugins {}", started.control, started.plugins);
        stage = Some(started);
        Ok(text)
    })?;
    let mut stage = stage.context("the host is up")?;
    walk(&mut show, &stage)?;
    if !show.failed.is_empty() {
        bail!("failed: {}", show.failed.join(", "));
    }
    if !arguments.once {
        println!(
            "\nserving until Ctrl-C\n  control  {}\n  plugins  {}\n  try      curl {}/acme/hello/",
            stage.control, stage.plugins, stage.plugins
        );
        println!(
            "  act as   RINGFENCE_HOME={} target/debug/ringfence --tenant acme status",
            stage.home("acme").display()
        );
        stage.child.wait()?;
    }
    drop(cleanup);
    Ok(())
}

/// The checks, in the order a newcomer would want to see them.
fn walk(show: &mut Show, stage: &Stage) -> Result<()> {
    let plugins = root()?.join("plugins");
    let folder = |name: &str| plugins.join(name).display().to_string();
    show.step("operator signs in", || {
        let file = stage.dir.join("data/operator.token").display().to_string();
        stage.ok("operator", &["login", "--host", &stage.control, "--token-file", &file])?;
        Ok(text(&stage.ok("operator", &["whoami"])?, "id"))
    })?;
    show.step("two tenants", || {
        for tenant in ["acme", "globex"] {
            stage.ok("operator", &["tenant", "create", tenant])?;
            let key =
                stage.ok("operator", &["--tenant", tenant, "token", "create", "admin", "--role", "tenant-admin"])?;
            let file = stage.dir.join(format!("{tenant}.key"));
            std::fs::write(&file, text(&key, "key"))?;
            let file = file.display().to_string();
            stage.ok(tenant, &["login", "--host", &stage.control, "--tenant", tenant, "--token-file", &file])?;
        }
        Ok("acme and globex, each with a key of its own".to_owned())
    })?;
    show.step("upload", || {
        for plugin in ["hello", "visits"] {
            stage.ok("acme", &["push", &folder(plugin)])?;
        }
        stage.ok("globex", &["push", &folder("hello")])?;
        Ok("hello and visits are published".to_owned())
    })?;
    show.step("nothing is allowed until it is granted", || {
        let refused = stage.refused("acme", &["deploy", "visits@0.1.0"])?;
        ensure!(text(&refused, "code") == "need-not-granted", "{refused}");
        Ok(text(&refused, "detail"))
    })?;
    show.step("grant, deploy, call", || {
        stage.ok("acme", &["grant", "visits", "keyvalue"])?;
        stage.ok("acme", &["deploy", "visits@0.1.0"])?;
        stage.ok("acme", &["deploy", "hello@0.1.0"])?;
        stage.ok("globex", &["deploy", "hello@0.1.0"])?;
        let answer = stage.ok("acme", &["call", "visits", &format!("/{CANARY}")])?;
        ensure!(text(&answer, "body").starts_with("1 visit"), "{answer}");
        Ok(text(&answer, "body").trim().to_owned())
    })?;
    show.step("a caller without a token is refused", || {
        let (status, body) = stage.get("/acme/visits/", None)?;
        ensure!(status == 401 && body.contains("unauthenticated"), "{status} {body}");
        Ok("401 unauthenticated".to_owned())
    })?;
    show.step("another tenant is refused", || {
        let token = stage.token("globex")?;
        let (status, theirs) = stage.get("/acme/visits/", Some(&token))?;
        let (_, nobodys) = stage.get("/acme/no-such-plugin/", Some(&token))?;
        ensure!(status == 404 && theirs == nobodys, "{status} {theirs} {nobodys}");
        Ok("globex gets the same 404 for acme's plugin as for none".to_owned())
    })?;
    show.step("a runaway plugin is stopped, its neighbour answers", || runaway(stage, &folder("hello")))?;
    show.step("what is stored is encrypted", || {
        let secret = stage.dir.join("secret.txt");
        std::fs::write(&secret, format!("{CANARY}-secret"))?;
        let file = secret.display().to_string();
        stage.ok("acme", &["secret", "set", "api-key", "--file", &file])?;
        let found = find(&stage.dir.join("data"), CANARY.as_bytes())?;
        ensure!(found.is_empty(), "found in {found:?}");
        Ok("neither the counter's key nor the secret is found in the data directory".to_owned())
    })?;
    show.step("revoking works at once", || {
        stage.ok("acme", &["revoke", "visits", "keyvalue"])?;
        let answer = stage.ok("acme", &["call", "visits", "/"])?;
        ensure!(answer.get("status").and_then(Value::as_u64) != Some(200), "{answer}");
        stage.ok("acme", &["grant", "visits", "keyvalue"])?;
        Ok("the next host call of the running version was refused".to_owned())
    })?;
    show.step("the audit log verifies", || {
        let verified = stage.ok("acme", &["audit", "verify"])?;
        Ok(verified.to_string())
    })?;
    show.step("deleting a tenant destroys its key", || {
        stage.ok("operator", &["tenant", "delete", "globex", "--yes"])?;
        let (status, _) = stage.get("/globex/hello/", None)?;
        ensure!(status == 404, "{status}");
        Ok("globex is gone, and what it left cannot be opened".to_owned())
    })
}

/// One tenant's infinite loop, while the other tenant is called again and again.
fn runaway(stage: &Stage, hello: &str) -> Result<String> {
    let _ = hello;
    let folder = stage.dir.join("hostile");
    std::fs::create_dir_all(&folder)?;
    let component = root()?.join("target/guests/hostile.wasm");
    std::fs::write(
        folder.join("plugin.toml"),
        format!(
            "[plugin]\nname = \"hostile\"\nversion = \"0.1.0\"\ncomponent = \"{}\"\n[budget]\ncpu_ms = 1000\ntime_ms = 10000\n",
            component.display()
        ),
    )?;
    stage.ok("globex", &["push", &folder.display().to_string()])?;
    for capability in ["keyvalue", "logging", "config"] {
        stage.ok("globex", &["grant", "hostile", capability])?;
    }
    stage.ok("globex", &["grant", "hostile", "http", "https://example.com"])?;
    stage.ok("globex", &["grant", "hostile", "secrets", "*"])?;
    stage.ok("globex", &["deploy", "hostile@0.1.0"])?;
    let (bad, good) = (stage.token("globex")?, stage.token("acme")?);
    std::thread::scope(|scope| {
        let loops: Vec<_> = (0..4).map(|_| scope.spawn(|| stage.get("/globex/hostile/spin", Some(&bad)))).collect();
        let mut slowest = Duration::ZERO;
        let mut count = 0_u32;
        while loops.iter().any(|spinning| !spinning.is_finished()) {
            let start = Instant::now();
            let (status, _) = stage.get("/acme/hello/", Some(&good))?;
            ensure!(status == 200, "the neighbour got {status}");
            slowest = slowest.max(start.elapsed());
            count += 1;
        }
        for spinning in loops {
            let (status, body) = spinning.join().map_err(|_| anyhow::anyhow!("a caller broke"))??;
            ensure!(status == 504 && body.contains("budget-cpu"), "{status} {body}");
        }
        ensure!(count > 0, "the loops ended before the neighbour was called");
        Ok(format!(
            "4 loops ended with 504 budget-cpu; meanwhile the neighbour answered {count} calls, the slowest in {} ms",
            slowest.as_millis()
        ))
    })
}

/// `RINGFENCE_BINARY`: shows this binary instead of building one; the tests show the one that they test.
fn binary_given() -> Option<PathBuf> {
    std::env::var_os("RINGFENCE_BINARY").map(PathBuf::from)
}

/// Prints steps and remembers which failed.
struct Show {
    json: bool,
    failed: Vec<&'static str>,
}

impl Show {
    /// Runs a step. A failed one is shown; the run goes on only where later steps can still tell something.
    fn step(&mut self, name: &'static str, act: impl FnOnce() -> Result<String>) -> Result<()> {
        let start = Instant::now();
        let result = act();
        let ms = start.elapsed().as_millis();
        let (ok, detail) = match &result {
            Ok(detail) => (true, detail.clone()),
            Err(error) => (false, format!("{error:#}")),
        };
        if self.json {
            println!(
                "{}",
                json!({ "step": name, "ok": ok, "ms": u64::try_from(ms).unwrap_or(u64::MAX), "detail": detail })
            );
        } else {
            let mut line = String::new();
            let _ =
                write!(line, "  {} {name:<52} {:>7.1} s", if ok { "√" } else { "×" }, start.elapsed().as_secs_f64());
            println!("{line}\n      {detail}");
        }
        if !ok {
            self.failed.push(name);
            if self.failed.len() == 1
                && matches!(name, "build guests" | "build host" | "start host" | "operator signs in" | "two tenants")
            {
                bail!("{name}: {detail}");
            }
        }
        Ok(())
    }
}

/// The running host and the people at it.
struct Stage {
    dir: PathBuf,
    child: Child,
    control: String,
    plugins: String,
    binary: PathBuf,
    agent: ureq::Agent,
}

impl Stage {
    fn start(dir: &Path) -> Result<Self> {
        let binary = match binary_given() {
            Some(given) => given,
            None => target()?.join("debug/ringfence"),
        };
        let mut child = Command::new(&binary)
            .args(["serve", "--dev", "--json", "--plugins", "127.0.0.1:0", "--control", "127.0.0.1:0", "--data"])
            .arg(dir.join("data"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(dir.join("host.log"))?)
            .spawn()
            .with_context(|| format!("`{}` does not start", binary.display()))?;
        let out = child.stdout.take().context("stdout is piped")?;
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line)?;
        let ready: Value = serde_json::from_str(&line).with_context(|| {
            format!("the host did not come up: {}", std::fs::read_to_string(dir.join("host.log")).unwrap_or_default())
        })?;
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(60)))
            .build()
            .into();
        Ok(Self {
            dir: dir.to_owned(),
            child,
            control: text(&ready, "control"),
            plugins: text(&ready, "plugins"),
            binary,
            agent,
        })
    }

    fn home(&self, who: &str) -> PathBuf {
        self.dir.join("home").join(who)
    }

    /// A `ringfence` command as someone; `tenant` is chosen by the profile.
    fn command(&self, who: &str, arguments: &[&str]) -> Result<std::process::Output> {
        let mut command = Command::new(&self.binary);
        command
            .env("RINGFENCE_HOME", self.home(who))
            .stdin(Stdio::null())
            .args(["--json", "--no-input"])
            .args(arguments);
        command.output().context("`ringfence` does not start")
    }

    /// A command that must succeed; its JSON.
    fn ok(&self, who: &str, arguments: &[&str]) -> Result<Value> {
        let output = self.command(who, arguments)?;
        let out = String::from_utf8_lossy(&output.stdout);
        ensure!(
            output.status.success(),
            "ringfence {} ended with {}: {} {}",
            arguments.join(" "),
            output.status,
            out,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(serde_json::from_str(&out).unwrap_or(Value::Null))
    }

    /// A command that must be refused; its problem.
    fn refused(&self, who: &str, arguments: &[&str]) -> Result<Value> {
        let output = self.command(who, arguments)?;
        ensure!(!output.status.success(), "ringfence {} was not refused", arguments.join(" "));
        serde_json::from_slice(&output.stderr)
            .with_context(|| format!("not a problem: {}", String::from_utf8_lossy(&output.stderr)))
    }

    /// An access token, got as any HTTP client gets one.
    fn token(&self, who: &str) -> Result<String> {
        let key = std::fs::read_to_string(self.dir.join(format!("{who}.key")))?;
        let mut answer = self
            .agent
            .post(format!("{}/api/v1/zero-trust/authenticate", self.control))
            .send_json(json!({ "method": "api_key", "key": key.trim() }))?;
        Ok(text(&answer.body_mut().read_json::<Value>()?, "access_token"))
    }

    /// A call on the data plane: status and body.
    fn get(&self, path: &str, token: Option<&str>) -> Result<(u16, String)> {
        let mut request = self.agent.get(format!("{}{path}", self.plugins));
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let mut answer = request.call()?;
        Ok((answer.status().as_u16(), answer.body_mut().read_to_string()?))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Cleanup(PathBuf);

impl Drop for Cleanup {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn text(value: &Value, key: &str) -> String {
    value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// Files under `dir` that hold `needle`.
fn find(dir: &Path, needle: &[u8]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir)? {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
            } else if std::fs::read(&path)?.windows(needle.len()).any(|window| window == needle) {
                found.push(path);
            }
        }
    }
    Ok(found)
}
