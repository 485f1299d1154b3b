//! `ringfence doctor`: can this machine and this configuration run a host, and what is only good enough for trying out.
//!
//! Must never change anything but this very process: it looks, and names the command that mends what it finds.

use std::net::TcpListener;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use ringfence_cli::{DoctorArgs, Format};
use ringfence_engine::scheduler::class;
use ringfence_engine::{Engine, IoClass, Recycling};
use ringfence_keys::{Assurance, KeysError, MemoryDumps, MissingRootKey, Outside, RootKey, RootKeyUri, Shredding};
use serde::Serialize;

use crate::ambient::{SystemClock, SystemEntropy};
use crate::config;

/// An empty component (component-model `Binary.md`: magic, version 13, layer 1).
const SMALLEST_COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";
/// Least free bytes where data lies.
const FREE_BYTES_MIN: u64 = 1 << 30;
/// What the keys of a tenant take of locked memory, once they were rotated.
const KEYS_BYTES: u64 = 8 << 10;
/// Least tenants whose keys are kept out of the swap without a word.
const TENANTS_LOCKED_COUNT_MIN: u64 = 1_000;
/// Least open files a busy host needs.
const FILES_COUNT_MIN: u64 = 8_192;
/// Least mappings: each loaded component takes a few.
const MAPPINGS_COUNT_MIN: u64 = 65_530;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Verdict {
    Ok,
    Warn,
    Fail,
}

#[derive(Debug, Serialize)]
struct Check {
    check: &'static str,
    verdict: Verdict,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    help: Option<String>,
}

/// Runs the checks; fails when one does.
pub fn doctor(args: &DoctorArgs, format: Format) -> ExitCode {
    // Before dumps are forbidden, as `serve` asks.
    let slots = emptied_slots(Recycling::of_this_process());
    // Before everything else: the root key is opened below.
    let dumps = memory_dumps(args.serve.dev);
    let checks = match config::load(&args.serve, None) {
        Ok(config) => {
            let mut checks = vec![check("configuration", Verdict::Ok, "valid", None), dumps];
            checks.push(root_key(&config.keys.root, &config.store.path));
            checks.push(data_directory(&config.store.path));
            checks.push(audit_entries(&config.audit.entries, &config.store.path));
            checks.push(store(&config.store));
            checks.push(port("plugins port", config.listen.plugins, &config.store.path));
            checks.push(port("control port", config.listen.control, &config.store.path));
            checks.push(tls(&config));
            checks.push(io_threads(config.engine.io_class));
            checks.push(guest_memory(&config.engine));
            checks.push(out_of_memory());
            checks.extend([slots, files(), mappings(), locked_memory(), compiler()]);
            checks
        }
        Err(error) => vec![check("configuration", Verdict::Fail, &format!("{error:#}"), None)],
    };
    let failed = checks.iter().any(|check| check.verdict == Verdict::Fail);
    if format == Format::Json {
        println!("{}", serde_json::to_string(&checks).unwrap_or_default());
    } else {
        for check in &checks {
            let mark = match check.verdict {
                Verdict::Ok => "√",
                Verdict::Warn => "!",
                Verdict::Fail => "×",
            };
            println!("{mark} {:<16} {}", check.check, check.detail);
            if let Some(help) = &check.help {
                println!("  help: {help}");
            }
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn check(name: &'static str, verdict: Verdict, detail: &str, help: Option<&str>) -> Check {
    Check { check: name, verdict, detail: detail.to_owned(), help: help.map(str::to_owned) }
}

/// Whether the root key opens, or will be made. What a store holds already opens with no other than its own.
fn root_key(uri: &str, data: &Path) -> Check {
    let name = "root key";
    let outside = Outside {
        entropy: Arc::new(SystemEntropy),
        clock: Arc::new(SystemClock::new()),
        aws: crate::unlock::aws_from_environment(),
    };
    let opened = uri.parse::<RootKeyUri>().and_then(|uri| RootKey::connect(&uri, MissingRootKey::Refuse, &outside));
    match opened {
        Ok(root) => {
            let said = format!("{} is {}", root.id(), crate::wiring::assurance(&root));
            let help = match (root.assurance(), root.shredding()) {
                (Assurance::Development, _) => {
                    Some("good for trying out; whoever reads the file can open every tenant's key")
                }
                (_, Shredding::ThisCopyOnly) => Some(
                    "this provider has no key for each tenant: older copies of a deleted tenant can still be opened",
                ),
                _ => None,
            };
            check(name, if help.is_some() { Verdict::Warn } else { Verdict::Ok }, &said, help)
        }
        Err(error @ KeysError::Missing { .. }) if ringfence_store::has_keys(&data.join("store")) => {
            let help = "put back the one that was made with this data: nothing else opens it";
            check(name, Verdict::Fail, &error.to_string(), Some(help))
        }
        Err(KeysError::Missing { path }) => {
            let said =
                format!("there is none yet at `{}`; the first start makes one, which has to be kept", path.display());
            check(name, Verdict::Warn, &said, None)
        }
        Err(error) => check(name, Verdict::Fail, &error.to_string(), None),
    }
}

fn data_directory(path: &Path) -> Check {
    let name = "data directory";
    let shown = path.display();
    let place = path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"));
    if path.exists() {
        use std::os::unix::fs::MetadataExt;
        match std::fs::metadata(path) {
            Ok(data) if data.mode() & 0o077 != 0 => {
                return check(
                    name,
                    Verdict::Fail,
                    &format!("`{shown}` can be entered by others"),
                    Some(&format!("chmod 700 {shown}")),
                );
            }
            Ok(_) => {}
            Err(error) => return check(name, Verdict::Fail, &format!("`{shown}`: {error}"), None),
        }
    }
    match rustix::fs::statvfs(place) {
        Ok(stat) if stat.f_bavail.saturating_mul(stat.f_frsize) < FREE_BYTES_MIN => check(
            name,
            Verdict::Fail,
            &format!("`{shown}` has {} MiB free", (stat.f_bavail * stat.f_frsize) >> 20),
            Some("free at least 1 GiB"),
        ),
        Ok(stat) => {
            check(name, Verdict::Ok, &format!("`{shown}`, {} GiB free", (stat.f_bavail * stat.f_frsize) >> 30), None)
        }
        Err(error) => check(name, Verdict::Fail, &format!("`{shown}`: {error}"), None),
    }
}

/// Whether the second place of the audit entries can be one, when there is to be one.
fn audit_entries(path: &Path, data: &Path) -> Check {
    let name = "audit entries";
    if path.as_os_str().is_empty() {
        return check(name, Verdict::Ok, "in the store alone; `audit.entries` gives them a second place", None);
    }
    if let Err(error) = crate::anchors::check_entries(path, data) {
        return check(name, Verdict::Fail, &format!("{error:#}"), None);
    }
    let shown = path.display();
    match (rustix::fs::access(path, rustix::fs::Access::WRITE_OK), rustix::fs::statvfs(path)) {
        (Err(error), _) | (_, Err(error)) => {
            check(name, Verdict::Fail, &format!("`{shown}` cannot be written: {error}"), None)
        }
        (Ok(()), Ok(stat)) => {
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            let said = format!("`{shown}`, {} MiB free", free >> 20);
            let help = (free < FREE_BYTES_MIN).then_some("when it is full nothing is done any more: give it room");
            check(name, if help.is_some() { Verdict::Warn } else { Verdict::Ok }, &said, help)
        }
    }
}

/// Whether the store that is there is of the backend and version that will be asked for.
fn store(section: &config::StoreSection) -> Check {
    let name = "store";
    let asked = section.backend;
    match ringfence_store::backend_of(&section.path.join("store")) {
        Ok(None) => check(name, Verdict::Ok, &format!("none yet; the first start makes one on {asked}"), None),
        Ok(Some(found)) if found == asked => {
            let said = format!("made by {found}; `ringfence store check` looks at what is in it");
            check(name, Verdict::Ok, &said, None)
        }
        Ok(Some(found)) => check(
            name,
            Verdict::Fail,
            &format!("made by {found}, and the configuration asks for {asked}"),
            Some(&format!("ringfence store migrate {found} {asked} --data {}", section.path.display())),
        ),
        Err(error) => check(name, Verdict::Fail, &error.to_string(), None),
    }
}

/// Whether `serve` could listen there. A host that runs on the same data has the port in use as it should.
fn port(name: &'static str, address: std::net::SocketAddr, data: &Path) -> Check {
    let Err(error) = TcpListener::bind(address) else {
        return check(name, Verdict::Ok, &format!("{address} is free"), None);
    };
    let said = format!("{address}: {error}");
    if error.kind() == std::io::ErrorKind::AddrInUse && ringfence_store::is_held(&data.join("store")) {
        let said = format!("{said}, by the host that runs on `{}`, it seems", data.display());
        return check(name, Verdict::Warn, &said, Some("`ringfence status` says how it is"));
    }
    let help =
        "no host of this account runs on this data, so `serve` would fail: choose another with --plugins or --control";
    check(name, Verdict::Fail, &said, Some(help))
}

fn tls(config: &config::Config) -> Check {
    if config.tls.acme.is_on() {
        let from = format!("TLS, the certificate from `{}`", config.tls.acme.directory);
        return check("transport", Verdict::Ok, &from, None);
    }
    if !config.tls.certificate.as_os_str().is_empty() {
        return match crate::tls::Tls::open(&config.tls) {
            Ok(_) => check("transport", Verdict::Ok, "TLS, the certificate from files", None),
            Err(error) => check("transport", Verdict::Fail, &format!("{error:#}"), None),
        };
    }
    let open = [config.listen.plugins, config.listen.control].iter().any(|address| !address.ip().is_loopback());
    if open {
        check(
            "transport",
            Verdict::Warn,
            "plain HTTP on an address that is not loopback",
            Some("keep a TLS proxy in front of both ports"),
        )
    } else {
        check("transport", Verdict::Ok, "plain HTTP on loopback only", None)
    }
}

/// Who gets the memory of a host here: done to this process as `serve` does it, and read back from the kernel. A host that runs
/// says the same of itself in `ringfence status`.
fn memory_dumps(dev: bool) -> Check {
    let name = "memory dumps";
    let read = crate::serve::forbid_dumps(dev).and_then(|()| Ok(ringfence_keys::memory_dumps()?));
    match read {
        Ok(MemoryDumps::Off) => {
            check(name, Verdict::Ok, "off: no core file, and no debugger of this account, gets the keys", None)
        }
        Ok(MemoryDumps::Debuggers) => {
            let help = dev.then_some("without --dev a host cannot be read by processes of its own account");
            check(name, Verdict::Warn, "no core files; a debugger of this account can read the keys", help)
        }
        Ok(MemoryDumps::CrashHandler) => {
            let help =
                dev.then_some("without --dev no crash is handed to it, and no process of this account reads a host");
            let detail = "no core files, but the program that gets crashes here (`kernel.core_pattern`) can read the keys, \
                          and so can a debugger of this account";
            check(name, Verdict::Warn, detail, help)
        }
        Ok(MemoryDumps::CoreFiles) => check(name, Verdict::Fail, "a core file of a crash would hold the keys", None),
        Err(error) => check(name, Verdict::Fail, &format!("{error:#}"), None),
    }
}

/// Whether keys can be kept out of the swap.
fn locked_memory() -> Check {
    let name = "locked memory";
    let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock);
    let help =
        "raise this account's limit of locked memory (`LimitMEMLOCK=` of a systemd service), or turn the swap off";
    if !ringfence_keys::can_lock_memory() {
        return check(name, Verdict::Warn, "none: keys may be written to the swap", Some(help));
    }
    match limit.maximum.or(limit.current) {
        None => check(name, Verdict::Ok, "without a limit: keys stay out of the swap", None),
        Some(bytes) => {
            let tenants_count = bytes / KEYS_BYTES;
            let said = format!("{} KiB, for the keys of about {tenants_count} tenants", bytes >> 10);
            let enough = tenants_count >= TENANTS_LOCKED_COUNT_MIN;
            check(name, if enough { Verdict::Ok } else { Verdict::Warn }, &said, (!enough).then_some(help))
        }
    }
}

fn files() -> Check {
    let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.unwrap_or(u64::MAX);
    if most < FILES_COUNT_MIN {
        check("open files", Verdict::Warn, &format!("at most {most}"), Some("raise the hard limit: ulimit -Hn 65536"))
    } else {
        check("open files", Verdict::Ok, &format!("at most {most}"), None)
    }
}

fn mappings() -> Check {
    let count =
        std::fs::read_to_string("/proc/sys/vm/max_map_count").ok().and_then(|text| text.trim().parse::<u64>().ok());
    match count {
        Some(count) if count < MAPPINGS_COUNT_MIN => {
            check("memory maps", Verdict::Warn, &format!("at most {count}"), Some("sysctl vm.max_map_count=262144"))
        }
        Some(count) => check("memory maps", Verdict::Ok, &format!("at most {count}"), None),
        None => check("memory maps", Verdict::Warn, "cannot be read", None),
    }
}

/// What the kernel grants the I/O threads, tried on a thread of its own.
fn io_threads(best: IoClass) -> Check {
    let name = "I/O scheduling";
    let got = std::thread::spawn(move || class::raise_thread(best)).join().unwrap_or(IoClass::Usual);
    let cost = match got {
        IoClass::Fifo => "they run before every guest; a flood of requests takes the processors from the guests",
        IoClass::ShortSlice => {
            "a slice of 100 us: a request is picked up soon after it came, and guests keep their part"
        }
        IoClass::Nice => "a better nice value: a request may wait a few milliseconds behind guests",
        IoClass::Usual => "as everything else: a request may wait some milliseconds behind guests",
    };
    let verdict = if got == best || got >= IoClass::ShortSlice { Verdict::Ok } else { Verdict::Warn };
    let help = "Linux 6.12 gives every thread a short slice; before that, CAP_SYS_NICE gives a better nice value";
    check(name, verdict, &format!("{}: {cost}", got.word()), Some(help).filter(|_| verdict != Verdict::Ok))
}

/// Whether the memory of all guests leaves some for the host.
fn guest_memory(section: &config::EngineSection) -> Check {
    let name = "guest memory";
    let guests = crate::machine::guests_bytes(section);
    let Some(all) = crate::machine::memory_bytes() else {
        let said = format!("{} MiB; how much this process may have cannot be read", guests >> 20);
        return check(name, Verdict::Warn, &said, Some("set `engine.memory_mib`"));
    };
    let said = format!("{} MiB for all that run, of {} MiB", guests >> 20, all >> 20);
    let help = (guests > all / 4 * 3).then_some(
        "the host itself needs some: with all of it in use the kernel may end the host, and everybody with it",
    );
    check(name, if help.is_some() { Verdict::Warn } else { Verdict::Ok }, &said, help)
}

/// Whether a compile child is ended alone when memory runs out. What systemd then does with the service cannot be read here.
fn out_of_memory() -> Check {
    let name = "out of memory";
    match crate::machine::ends_together() {
        None => check(name, Verdict::Ok, "the kernel ends a compile child alone, before the host", None),
        Some(file) => check(
            name,
            Verdict::Warn,
            &format!("{} is 1: the kernel ends the host with its compile child", file.display()),
            Some("set it to 0, and `OOMPolicy=continue` in a systemd unit"),
        ),
    }
}

/// How the memory of a slot is emptied between two invocations.
fn emptied_slots(how: Recycling) -> Check {
    let name = "emptied slots";
    match how {
        Recycling::WrittenPages => check(name, Verdict::Ok, "the pages that a guest wrote, and no others", None),
        Recycling::GiveBack => check(
            name,
            Verdict::Warn,
            "all of their memory goes back to the kernel: a fresh instance faults its pages in again",
            Some("Linux 6.7 says which pages were written, where `/proc/self/pagemap` can be read"),
        ),
    }
}

/// Starts the compile child on the smallest component there is.
fn compiler() -> Check {
    let name = "compiler";
    let help = "the compile child must be able to start; look at limits of memory and processes";
    match compile_smallest() {
        Ok(bytes) => {
            check(name, Verdict::Ok, &format!("the compile child answers, {bytes} bytes of native code"), None)
        }
        Err(error) => check(name, Verdict::Fail, &format!("the compile child failed: {error:#}"), Some(help)),
    }
}

fn compile_smallest() -> anyhow::Result<usize> {
    let config = crate::wiring::compile_config()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let native = runtime.block_on(Engine::compile_once(config, SMALLEST_COMPONENT.to_vec()))?;
    Ok(native.len())
}
