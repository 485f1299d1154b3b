//! Compile children and the sealed cache: what is believed and what is not.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Dice, ENGINE, component, component_of, engine, tempdir};
use ringfence_core::Digest;
use ringfence_engine::{CompileError, CompileLimit, CompileLimits, EngineError};
use ringfence_keys::{RootKey, RootKeyUri, TenantKeys};

const HELLO: &str = "(call $hello (local.get $out))";

fn keys(tenant: &str) -> TenantKeys {
    let uri = RootKeyUri::File(tempdir().join("root.key"));
    let root = RootKey::open_or_create(&uri, &Dice).unwrap();
    root.new_tenant_key(tenant, &Dice).unwrap().0
}

fn digest(byte: u8) -> Digest {
    Digest::from_sha256([byte; 32])
}

#[tokio::test]
async fn garbage_is_not_a_component() {
    for garbage in [&b""[..], b"garbage", b"\0asm\x0d\0\x01\0 and more"] {
        let error = ENGINE.compile(garbage.to_vec()).await.err().unwrap();
        assert!(matches!(error, CompileError::Invalid(_)), "{error}");
    }
}

#[tokio::test]
async fn a_core_module_is_not_a_component() {
    let module = wat::parse_str("(module)").unwrap();
    let error = ENGINE.compile(module).await.err().unwrap();
    assert!(matches!(error, CompileError::Invalid(_)), "{error}");
}

#[tokio::test]
async fn a_child_over_its_deadline_is_killed() {
    let dir = tempdir();
    let engine = engine(&dir, CompileLimits { time_ms: 1, ..CompileLimits::HOST });
    let began = Instant::now();
    let error = engine.compile(component(HELLO, "")).await.err().unwrap();
    assert!(matches!(error, CompileError::Limit(CompileLimit::Time)), "{error}");
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_child_over_its_memory_is_told_apart_from_a_broken_one() {
    let dir = tempdir();
    let engine = engine(&dir, CompileLimits { memory_bytes: 96 << 20, ..CompileLimits::HOST });
    let error = engine.compile(heavy()).await.err().unwrap();
    assert!(matches!(error, CompileError::Limit(CompileLimit::Memory)), "{error}");
}

#[test]
fn a_child_is_the_first_to_go_when_memory_runs_out_and_the_host_is_not() {
    let score = |of: &str| fs::read_to_string(format!("/proc/{of}/oom_score_adj")).unwrap().trim().to_owned();
    let before = score("self");
    let program = env!("CARGO_BIN_EXE_compile-child");
    // It waits for its order.
    let mut child = Command::new(program).stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let (of, began) = (child.id().to_string(), Instant::now());
    while score(&of) != "1000" && began.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(1));
    }
    let (own, its) = (score("self"), score(&of));
    drop(child.stdin.take());
    child.wait().unwrap();
    assert_eq!((its.as_str(), own), ("1000", before));
}

#[tokio::test]
async fn a_child_over_its_cpu_time_is_ended_by_the_kernel() {
    let dir = tempdir();
    let engine = engine(&dir, CompileLimits { cpu_seconds: 1, ..CompileLimits::HOST });
    let error = engine.compile(heavy()).await.err().unwrap();
    assert!(matches!(error, CompileError::Limit(CompileLimit::Cpu)), "{error}");
}

#[tokio::test]
async fn native_code_over_its_size_is_refused() {
    let dir = tempdir();
    let engine = engine(&dir, CompileLimits { native_bytes: 1_000, ..CompileLimits::HOST });
    let error = engine.compile(component(HELLO, "")).await.err().unwrap();
    assert!(matches!(error, CompileError::Limit(CompileLimit::NativeBytes)), "{error}");
}

/// Many functions, each slow to compile.
fn heavy() -> Vec<u8> {
    let mut items = String::new();
    for number in 0..1_500 {
        items.push_str(&format!("(func $f{number} (param i32) (result i32) (local i32 i32 i32 i32)"));
        for step in 0..150 {
            let (a, b) = (step % 4 + 1, (step + 1) % 4 + 1);
            items.push_str(&format!(
                "(if (i32.and (local.get {a}) (i32.const {step})) (then (local.set {b} (i32.mul (local.get {a}) (local.get 0)))))"
            ));
        }
        items.push_str("(local.get 1))");
    }
    component(HELLO, &items)
}

#[tokio::test]
async fn kept_code_is_loaded_again_for_the_same_tenant_and_digest_only() {
    let (acme, other) = (keys("acme"), keys("other"));
    let dir = tempdir();
    let engine = engine(&dir, CompileLimits::HOST);
    let native = engine.compile(component(HELLO, "")).await.unwrap();
    assert!(engine.load(&acme, &digest(1)).unwrap().is_none());
    engine.store_native(&acme, &digest(1), &native).unwrap();
    let code = engine.load(&acme, &digest(1)).unwrap().unwrap();
    engine.check_linkable(&code).unwrap();
    assert!(engine.load(&acme, &digest(2)).unwrap().is_none());
    assert!(engine.load(&other, &digest(1)).unwrap().is_none());
    assert!(engine.load(&acme, &digest(1)).unwrap().is_some());
}

#[tokio::test]
async fn an_entry_put_in_anothers_place_is_deleted_and_not_loaded() {
    let acme = keys("acme");
    let dir = tempdir();
    let engine = engine(&dir, CompileLimits::HOST);
    let native = engine.compile(component(HELLO, "")).await.unwrap();
    engine.store_native(&acme, &digest(1), &native).unwrap();
    let first = only_entry(&dir);
    engine.store_native(&acme, &digest(2), &native).unwrap();
    let second = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).find(|path| *path != first).unwrap();
    fs::copy(&first, &second).unwrap();
    assert!(engine.load(&acme, &digest(2)).unwrap().is_none());
    assert!(!second.exists());
    assert!(engine.load(&acme, &digest(1)).unwrap().is_some());
}

#[tokio::test]
async fn a_tampered_or_torn_entry_is_never_loaded() {
    let acme = keys("acme");
    let dir = tempdir();
    let engine = engine(&dir, CompileLimits::HOST);
    let native = engine.compile(component(HELLO, "")).await.unwrap();
    engine.store_native(&acme, &digest(1), &native).unwrap();
    let path = only_entry(&dir);
    let sealed = fs::read(&path).unwrap();
    let step = sealed.len() / 40;
    for at in (0..sealed.len()).step_by(step.max(1)).chain([0, 1, sealed.len() - 1]) {
        let mut bad = sealed.clone();
        bad[at] ^= 0x40;
        fs::write(&path, &bad).unwrap();
        assert!(engine.load(&acme, &digest(1)).unwrap().is_none(), "byte {at}");
        assert!(!path.exists(), "byte {at}");
    }
    for torn in [0, 1, 49, sealed.len() / 2, sealed.len() - 1] {
        fs::write(&path, &sealed[..torn]).unwrap();
        assert!(engine.load(&acme, &digest(1)).unwrap().is_none(), "{torn} bytes");
    }
    engine.store_native(&acme, &digest(1), &native).unwrap();
    assert!(engine.load(&acme, &digest(1)).unwrap().is_some());
}

fn only_entry(dir: &std::path::Path) -> std::path::PathBuf {
    let entries: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(entries.len(), 1, "{entries:?}");
    entries.into_iter().next().unwrap()
}

#[tokio::test]
async fn unknown_imports_are_named() {
    let component = wat::parse_str(
        r#"(component
            (import "evil:corp/backdoor@1.2.3" (instance (export "open" (func))))
            (import "wasi:cli/environment@0.9.0" (instance (export "open" (func))))
            (import "wasi:http/types@0.2.0" (instance)))"#,
    )
    .unwrap();
    let code = ENGINE.code(&ENGINE.compile(component).await.unwrap()).unwrap();
    let names = ENGINE.unknown_imports(&code);
    assert!(names.contains(&"evil:corp/backdoor@1.2.3".to_owned()), "{names:?}");
    let error = ENGINE.check_linkable(&code).unwrap_err();
    assert!(matches!(error, EngineError::UnknownImports { .. }));
    assert!(error.to_string().contains("`evil:corp/backdoor@1.2.3`"), "{error}");
    assert_eq!(code.imports().len(), 3);
}

#[tokio::test]
async fn a_component_without_a_handler_does_not_fit() {
    let component = wat::parse_str("(component)").unwrap();
    let code = ENGINE.code(&ENGINE.compile(component).await.unwrap()).unwrap();
    let error = ENGINE.check_linkable(&code).unwrap_err();
    assert!(error.to_string().contains("wasi:http"), "{error}");
}

#[tokio::test]
async fn threads_and_shared_memory_are_off() {
    let module = "(module (memory (export \"memory\") 1 2 shared)
        (func (export \"cabi_realloc\") (param i32 i32 i32 i32) (result i32) (i32.const 0))
        (func (export \"wasi:http/incoming-handler@0.2.12#handle\") (param i32 i32)))";
    let component = std::panic::catch_unwind(|| component_of(module));
    // The tool that makes components may refuse first; if it does not, the compile child does.
    if let Ok(component) = component {
        let error = ENGINE.compile(component).await.err().unwrap();
        assert!(matches!(error, CompileError::Invalid(_)), "{error}");
    }
}
