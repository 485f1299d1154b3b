//! Components written by hand, an engine to run them, and what a caller would do.

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use http_body_util::BodyExt;
use ringfence_core::{Budget, Entropy, TenantId};
use ringfence_engine::{
    Body, Code, CompileConfig, CompileLimits, Engine, EngineConfig, GuestSetup, NativeCode, Outcome, Reply, RunFailure,
    TenantShare, full,
};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// What every hand-written guest can do: open an answer, write to it, finish it, sleep.
const PRELUDE: &str = r#"
  (import "wasi:http/types@0.2.12" "[constructor]fields" (func $fields (result i32)))
  (import "wasi:http/types@0.2.12" "[constructor]outgoing-response" (func $response (param i32) (result i32)))
  (import "wasi:http/types@0.2.12" "[method]outgoing-response.body" (func $body (param i32 i32)))
  (import "wasi:http/types@0.2.12" "[method]outgoing-body.write" (func $write (param i32 i32)))
  (import "wasi:http/types@0.2.12" "[static]outgoing-body.finish" (func $finish (param i32 i32 i32 i32)))
  (import "wasi:http/types@0.2.12" "[static]response-outparam.set"
    (func $set (param i32 i32 i32 i32 i64 i32 i32 i32 i32)))
  (import "wasi:http/types@0.2.12" "[resource-drop]incoming-request" (func $drop_request (param i32)))
  (import "wasi:io/streams@0.2.12" "[method]output-stream.blocking-write-and-flush" (func $print (param i32 i32 i32 i32)))
  (import "wasi:io/streams@0.2.12" "[resource-drop]output-stream" (func $drop_stream (param i32)))
  (import "wasi:clocks/monotonic-clock@0.2.12" "subscribe-duration" (func $after (param i64) (result i32)))
  (import "wasi:io/poll@0.2.12" "[method]pollable.block" (func $block (param i32)))
  (import "wasi:io/poll@0.2.12" "[resource-drop]pollable" (func $drop_pollable (param i32)))
  (memory (export "memory") 2)
  (data (i32.const 4096) "hello from a guest\n")
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 65536))
  (func $head (param $out i32) (result i32)
    (local $answer i32)
    (local.set $answer (call $response (call $fields)))
    (call $body (local.get $answer) (i32.const 1024))
    (call $set (local.get $out) (i32.const 0) (local.get $answer)
      (i32.const 0) (i64.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))
    (i32.load (i32.const 1028)))
  (func $open (param $body i32) (result i32)
    (call $write (local.get $body) (i32.const 1024))
    (i32.load (i32.const 1028)))
  (func $hello (param $out i32)
    (local $to i32) (local $stream i32)
    (local.set $to (call $head (local.get $out)))
    (local.set $stream (call $open (local.get $to)))
    (call $print (local.get $stream) (i32.const 4096) (i32.const 19) (i32.const 1024))
    (call $drop_stream (local.get $stream))
    (call $finish (local.get $to) (i32.const 0) (i32.const 0) (i32.const 1024)))
  (func $sleep (param $ns i64)
    (local $timer i32)
    (local.set $timer (call $after (local.get $ns)))
    (call $block (local.get $timer))
    (call $drop_pollable (local.get $timer)))
"#;

/// The plugin world with all handlers that keep instances.
const EVENTS: &str = "
  package test:events;
  world events {
    include ringfence:plugin/plugin@0.1.0;
    export ringfence:plugin/hook@0.1.0;
    export ringfence:plugin/schedule@0.1.0;
    export ringfence:plugin/message@0.1.0;
  }
";

/// The runtime that does I/O for guests.
pub static IO: LazyLock<tokio::runtime::Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap());

/// One engine for all tests of a file.
pub static ENGINE: LazyLock<Engine> = LazyLock::new(|| engine(&tempdir(), CompileLimits::HOST));

/// Random bytes from the kernel.
pub struct Dice;

impl Entropy for Dice {
    fn fill(&self, into: &mut [u8]) {
        let mut filled = 0;
        while filled < into.len() {
            filled += rustix::rand::getrandom(&mut into[filled..], rustix::rand::GetRandomFlags::empty()).unwrap();
        }
    }
}

/// A directory that lives as long as the tests.
pub fn tempdir() -> PathBuf {
    tempfile::tempdir().unwrap().keep()
}

/// An engine with its cache in `dir`.
pub fn engine(dir: &Path, limits: CompileLimits) -> Engine {
    engine_of(dir, limits, 2, 8)
}

/// An engine with so many worker threads and slots, and memory for all of them.
pub fn engine_of(dir: &Path, limits: CompileLimits, worker_threads: usize, slots: u32) -> Engine {
    engine_with(dir, limits, worker_threads, slots, u64::from(slots) * (256 << 20))
}

/// The same with so many bytes of memory for all guests together.
pub fn engine_with(
    dir: &Path,
    limits: CompileLimits,
    worker_threads: usize,
    slots: u32,
    guests_bytes_max: u64,
) -> Engine {
    let cache = cap_std::fs::Dir::open_ambient_dir(dir, cap_std::ambient_authority()).unwrap();
    let compile = CompileConfig { program: env!("CARGO_BIN_EXE_compile-child").into(), args: Vec::new(), limits };
    let config = EngineConfig {
        worker_threads,
        slots,
        memory_bytes_max: 256 << 20,
        guests_bytes_max,
        compile,
        cache,
        io_class: ringfence_engine::IoClass::Usual,
        io: IO.handle().clone(),
        entropy: Arc::new(Dice),
    };
    Engine::new(config, |_| Ok(())).unwrap()
}

/// A component of the plugin world from the body of its handler (`$out` is where the answer goes) and more items.
pub fn component(handler: &str, items: &str) -> Vec<u8> {
    component_of(&format!(
        "(module {PRELUDE} {items} (func (export \"wasi:http/incoming-handler@0.2.12#handle\") (param $request i32) (param $out i32) {handler}))"
    ))
}

/// A component of the plugin world from a core module.
pub fn component_of(module: &str) -> Vec<u8> {
    component_in(module, None)
}

/// A component with handlers for HTTP, hooks, schedules and messages. Each of them does this first, and answers with what
/// then begins at 4096: over HTTP the line, else its first byte.
pub fn component_with_events(act: &str) -> Vec<u8> {
    let module = format!(
        r#"(module {PRELUDE}
          (func $act {act})
          (func (export "wasi:http/incoming-handler@0.2.12#handle") (param $request i32) (param $out i32)
            (call $act)
            (call $drop_request (local.get $request))
            (call $hello (local.get $out)))
          (func $answer (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)
            (call $act)
            (i32.store8 (i32.const 2048) (i32.const 0))
            (i32.store (i32.const 2052) (i32.const 4096))
            (i32.store (i32.const 2056) (i32.const 1))
            (i32.const 2048))
          (export "ringfence:plugin/hook@0.1.0#handle" (func $answer))
          (export "ringfence:plugin/schedule@0.1.0#handle" (func $answer))
          (export "ringfence:plugin/message@0.1.0#handle" (func $answer)))"#
    );
    component_in(&module, Some(EVENTS))
}

/// A component of the plugin world, or of the one world that a text beside it has.
fn component_in(module: &str, world: Option<&str>) -> Vec<u8> {
    let mut module = wat::parse_str(module).unwrap();
    let mut resolve = Resolve::default();
    let (plugin, _) = resolve.push_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit")).unwrap();
    let world = match world {
        None => resolve.select_world(&[plugin], Some("plugin")).unwrap(),
        Some(text) => {
            let package = resolve.push_str("test.wit", text).unwrap();
            resolve.select_world(&[package], None).unwrap()
        }
    };
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    ComponentEncoder::default().module(&module).unwrap().encode().unwrap()
}

pub async fn compile(component: Vec<u8>) -> NativeCode {
    ENGINE.compile(component).await.unwrap()
}

pub async fn code(handler: &str, items: &str) -> Code {
    let code = ENGINE.code(&compile(component(handler, items)).await).unwrap();
    ENGINE.check_linkable(&code).unwrap();
    code
}

pub fn tenant(name: &str) -> TenantId {
    name.parse().unwrap()
}

/// A tenant that may run, with the usual share.
pub fn let_in(engine: &Engine, name: &str) -> TenantId {
    let tenant = tenant(name);
    engine.scheduler().set_share(&tenant, TenantShare::USUAL);
    tenant
}

pub fn request() -> http::Request<Body> {
    http::Request::get("http://plugin.test/").body(full(Bytes::new())).unwrap()
}

/// Runs the guest for a tenant of its own.
pub async fn start(name: &str, code: &Code, budget: Budget) -> Result<Reply, RunFailure> {
    let slot = ENGINE.scheduler().admit(&let_in(&ENGINE, name), budget).await.unwrap();
    ENGINE.run(slot, code, GuestSetup::bare(budget), request()).await
}

/// Runs the guest, reads its whole answer, and waits for its outcome.
pub async fn call(
    name: &str,
    code: &Code,
    budget: Budget,
) -> Result<(Result<Bytes, ringfence_engine::BodyError>, Outcome), RunFailure> {
    let reply = start(name, code, budget).await?;
    let body = reply.response.into_body().collect().await.map(|collected| collected.to_bytes());
    Ok((body, reply.finished.outcome().await))
}
