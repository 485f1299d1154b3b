//! The peers, each a process of its own: `wasmtime serve` in three settings, workerd, and a plain hyper server that
//! shows what the load generator itself can do.
//!
//! Must never give a peer worse settings than its makers document: what was chosen for it is in the figures.

use std::convert::Infallible;
use std::io::BufReader;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use ringfence_tests::root;
use tempfile::TempDir;

use crate::open_loop::{command_of_self, receive, send};

/// Longest wait for a peer to listen.
const START_SECONDS_MAX: u64 = 60;

/// The pool settings that were found best for these components: no page is given back that the next request wants.
const TUNED: [&str; 2] = [
    "-Opooling-allocator=y,pooling-memory-keep-resident=2097152,pooling-table-keep-resident=65536",
    "-Opooling-pagemap-scan=auto,pooling-max-unused-warm-slots=200",
];

/// How `wasmtime serve` is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Serve {
    /// As it comes.
    Default,
    /// With a tuned pool.
    Tuned,
    /// With a tuned pool and instances that serve again and again.
    Reuse,
    /// With a tuned pool and a deadline, which makes guests yield every 50 ms: its only way to share a core.
    Yielding,
}

impl Serve {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Default, Self::Tuned, Self::Reuse, Self::Yielding];

    /// What its figures beside a noisy neighbour begin with.
    pub fn key(self) -> &'static str {
        match self {
            Self::Default => "serve_default",
            Self::Tuned => "serve",
            Self::Reuse => "serve_reuse",
            Self::Yielding => "serve_yielding",
        }
    }

    /// Its options.
    pub fn options(self) -> Vec<&'static str> {
        // Rust's standard library imports the environment, which `serve` gives only when it is asked to.
        let mut options = vec!["-Scli"];
        match self {
            Self::Default => {}
            Self::Tuned | Self::Reuse | Self::Yielding => options.extend(TUNED),
        }
        match self {
            Self::Default | Self::Tuned => {}
            Self::Reuse => options.push("--max-instance-reuse-count=1000000"),
            Self::Yielding => options.push("-Wtimeout=30s"),
        }
        options
    }
}

/// A running peer. Killed when dropped.
pub struct Peer {
    child: Child,
    /// Where it listens: one address, or one a worker.
    pub addresses: Vec<SocketAddr>,
    _dir: Option<TempDir>,
}

impl Peer {
    /// `wasmtime serve` of a built guest.
    pub fn serve(program: &Path, guest: &str, serve: Serve) -> Result<Self> {
        let address = free_address()?;
        let mut command = Command::new(program);
        command.args(["serve", "--addr", &address.to_string()]).args(serve.options());
        command.arg(root().join("target/guests").join(format!("{guest}.wasm")));
        Self::start(command, vec![address], None)
    }

    /// workerd with two workers of the same script in one process, each on an address of its own.
    pub fn workerd(program: &Path) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let addresses = vec![free_address()?, free_address()?];
        std::fs::write(dir.path().join("worker.js"), include_str!("worker.js"))?;
        let config = dir.path().join("config.capnp");
        std::fs::write(&config, workerd_config(&addresses))?;
        let mut command = Command::new(program);
        command.arg("serve").arg(config);
        Self::start(command, addresses, Some(dir))
    }

    /// A hyper server that answers hello and does nothing else, in this program's own `plain` verb.
    pub fn plain() -> Result<Self> {
        let mut child = command_of_self(&[], "plain")?;
        let mut out = BufReader::new(child.stdout.take().context("stdout is piped")?);
        Ok(Self { addresses: vec![receive(&mut out)?], child, _dir: None })
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its first address.
    pub fn address(&self) -> Result<SocketAddr> {
        self.addresses.first().copied().context("a peer without an address")
    }

    fn start(mut command: Command, addresses: Vec<SocketAddr>, dir: Option<TempDir>) -> Result<Self> {
        let shown = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().with_context(|| format!("`{shown}` does not start"))?;
        let mut peer = Self { child, addresses, _dir: dir };
        let start = Instant::now();
        while !peer.addresses.iter().all(|address| TcpStream::connect(address).is_ok()) {
            if let Some(status) = peer.child.try_wait()? {
                bail!("`{shown}` ended with {status}");
            }
            if start.elapsed() > Duration::from_secs(START_SECONDS_MAX) {
                bail!("`{shown}` does not listen");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(peer)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The main of `plain`: prints its address and serves until it is killed.
pub async fn plain_main() -> Result<()> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    send(&mut std::io::stdout().lock(), &listener.local_addr()?).context("nobody listens")?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            let hello = service_fn(|_: Request<hyper::body::Incoming>| async {
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"hello from ringfence\n"))))
            });
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), hello).await;
        });
    }
}

/// An address that was free a moment ago.
fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

fn workerd_config(addresses: &[SocketAddr]) -> String {
    let list = |line: &dyn Fn(usize, &SocketAddr) -> String| {
        let lines: Vec<String> = addresses.iter().enumerate().map(|(number, address)| line(number, address)).collect();
        lines.join(", ")
    };
    let services = list(&|number, _| format!("(name = \"w{number}\", worker = .w{number})"));
    let sockets = list(&|number, address| {
        format!("(name = \"s{number}\", address = \"{address}\", http = (), service = \"w{number}\")")
    });
    let worker =
        "(modules = [(name = \"worker.js\", esModule = embed \"worker.js\")], compatibilityDate = \"2026-01-01\")";
    let workers: String =
        (0..addresses.len()).map(|number| format!("const w{number} :Workerd.Worker = {worker};\n")).collect();
    format!(
        "using Workerd = import \"/workerd/workerd.capnp\";\n\
         const config :Workerd.Config = (services = [{services}], sockets = [{sockets}]);\n{workers}"
    )
}
