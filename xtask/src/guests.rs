//! `cargo xtask guests`: builds the example plugins and every guest of the tests into `target/guests/NAME.wasm`.
//!
//! Must never leave a half-written component there: others read them while this runs. A second run with nothing changed
//! only looks at file times.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::{Instant, UNIX_EPOCH};

use anyhow::{Context, Result};
use ringfence_guest_build::{Install, Lock, Profile, build_all, ensure_toolchain};

use crate::{hostile, inspect, js, python};

/// Everything the guests are made from.
const SOURCES: [&str; 8] = [
    "plugins",
    "sdk/Cargo.toml",
    "sdk/definition",
    "sdk/macros",
    "sdk/src",
    "tests/guests",
    "wit",
    "xtask/src/hostile.rs",
];
const NOT_SOURCES: [&str; 3] = ["target", "node_modules", ".git"];

/// Arguments of `cargo xtask guests`.
#[derive(clap::Args)]
pub struct GuestsArgs {
    /// Build the JavaScript guest too, with npm packages kept in target/npm
    #[arg(long)]
    pub js: bool,
    /// Build the Python guest too, with PyPI packages kept in target/python
    #[arg(long)]
    pub python: bool,
    /// Build even when nothing changed
    #[arg(long)]
    pub force: bool,
}

/// Where things lie in the repository.
struct Places {
    root: PathBuf,
    out: PathBuf,
}

/// Builds the guests, unless they are newer than their sources. One line a finished phase on standard output.
pub fn run(arguments: &GuestsArgs) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no repository around xtask")?.to_path_buf();
    let places = Places { out: root.join("target/guests"), root };
    fs::create_dir_all(&places.out)?;
    let lock = File::create(places.out.join(".lock"))?;
    lock.lock().context("cannot wait for another build of the guests")?;

    let started = Instant::now();
    let stamp = places.out.join(".stamp");
    let fingerprint = fingerprint(&places.root)?;
    if !arguments.force && fs::read_to_string(&stamp).is_ok_and(|built| is_current(&built, &fingerprint, &places.out)) {
        phase("guests are up to date", started);
    } else {
        let names = build(&places)?;
        fs::write(&stamp, format!("{fingerprint}\n{}", names.join("\n")))?;
    }
    if arguments.js {
        build_js(&places, arguments)?;
    }
    if arguments.python {
        build_python(&places)?;
    }
    Ok(())
}

fn build(places: &Places) -> Result<Vec<String>> {
    let started = Instant::now();
    let workspace = places.root.join("plugins");
    let toolchain = ensure_toolchain(&workspace, Install::Allowed)?;
    phase(&format!("toolchain: {}", toolchain.describe()), started);

    let started = Instant::now();
    let target_dir = places.root.join("target/guests-build");
    let artifacts = build_all(&toolchain, &workspace, &target_dir, Profile::Release, Lock::Locked)?;
    phase(&format!("built {} components", artifacts.len()), started);

    let started = Instant::now();
    let mut names = Vec::new();
    for artifact in artifacts {
        let bytes = fs::read(&artifact.file)?;
        println!("{}", inspect::describe(&artifact.name, &bytes)?);
        publish(places, &artifact.name, &bytes)?;
        names.push(artifact.name);
    }
    for (name, bytes) in written_by_hand(places)?.into_iter().chain(hostile::all()?.into_iter().map(owned)) {
        println!("  {name:<18} {:>12}  hostile", inspect::size(bytes.len()));
        publish(places, &name, &bytes)?;
        names.push(name);
    }
    phase(&format!("{} guests in {}", names.len(), places.out.display()), started);
    Ok(names)
}

/// The guests written as text, in `tests/guests/wat`.
fn written_by_hand(places: &Places) -> Result<Vec<(String, Vec<u8>)>> {
    let mut found = Vec::new();
    for path in files_under(&places.root.join("tests/guests/wat"))? {
        if path.extension().is_some_and(|extension| extension == "wat") {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            found.push((name, wat::parse_file(&path)?));
        }
    }
    Ok(found)
}

/// Builds the JavaScript guest, unless it is newer than its source.
fn build_js(places: &Places, arguments: &GuestsArgs) -> Result<()> {
    let source = places.root.join("tests/guests/js/hello.js");
    let out = places.out.join("hello-js.wasm");
    let npm = places.root.join("target/npm");
    let started = Instant::now();
    let is_newer = modified(&out).ok().zip(modified(&source).ok()).is_some_and(|(out, source)| out > source);
    if is_newer && !arguments.force {
        phase("hello-js is up to date", started);
        return Ok(());
    }
    if js::is_missing(&npm) {
        js::install(&npm)?;
        phase("npm packages", started);
    }
    let started = Instant::now();
    let unfinished = npm.join("hello-js.wasm");
    js::build(&places.root, &npm, &source, &unfinished)?;
    let bytes = fs::read(&unfinished)?;
    println!("{}", inspect::describe("hello-js", &bytes)?);
    publish(places, "hello-js", &bytes)?;
    phase("built the JavaScript guest", started);
    Ok(())
}

/// Builds the Python guest.
fn build_python(places: &Places) -> Result<()> {
    let home = places.root.join("target/python");
    let started = Instant::now();
    if python::is_missing(&home) {
        python::install(&home)?;
        phase("PyPI packages", started);
    }
    let started = Instant::now();
    let component = python::build(&places.root, &home)?;
    let bytes = fs::read(component)?;
    println!("{}", inspect::describe("hello-python", &bytes)?);
    publish(places, "hello-python", &bytes)?;
    phase("built the Python guest", started);
    Ok(())
}

/// Puts a component in its place in one step.
fn publish(places: &Places, name: &str, bytes: &[u8]) -> Result<()> {
    let unfinished = places.out.join(format!(".{name}.new"));
    fs::write(&unfinished, bytes)?;
    fs::rename(&unfinished, places.out.join(format!("{name}.wasm"))).with_context(|| format!("cannot publish `{name}`"))
}

/// Whether a stamp was written for these sources and all it lists is still there.
fn is_current(stamp: &str, fingerprint: &str, out: &Path) -> bool {
    let mut lines = stamp.lines();
    lines.next() == Some(fingerprint) && lines.all(|name| out.join(format!("{name}.wasm")).exists())
}

/// One word for the state of all sources: their paths, sizes and times.
fn fingerprint(root: &Path) -> Result<String> {
    let mut hasher = DefaultHasher::new();
    for source in SOURCES {
        for file in files_under(&root.join(source))? {
            file.strip_prefix(root)?.hash(&mut hasher);
            fs::metadata(&file)?.len().hash(&mut hasher);
            modified(&file)?.hash(&mut hasher);
        }
    }
    Ok(format!("{:016x}", hasher.finish()))
}

/// All files below a directory in a fixed order, or the file itself.
fn files_under(path: &Path) -> Result<Vec<PathBuf>> {
    if path.is_file() {
        return Ok(vec![path.to_path_buf()]);
    }
    let entries = fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut children: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    children.sort();
    let mut files = Vec::new();
    for child in children {
        let is_source = child.file_name().is_some_and(|name| !NOT_SOURCES.iter().any(|skipped| name == *skipped));
        if is_source {
            files.extend(files_under(&child)?);
        }
    }
    Ok(files)
}

fn modified(path: &Path) -> Result<u128> {
    Ok(fs::metadata(path)?.modified()?.duration_since(UNIX_EPOCH)?.as_nanos())
}

fn owned((name, bytes): (&str, Vec<u8>)) -> (String, Vec<u8>) {
    (name.to_owned(), bytes)
}

fn phase(what: &str, started: Instant) {
    println!("{what} ({:.1} s)", started.elapsed().as_secs_f64());
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use ringfence_core::Capability;

    use super::*;
    use crate::inspect::{imports, interface, needs};

    fn built(name: &str) -> Vec<u8> {
        run(&GuestsArgs { js: false, python: false, force: false }).unwrap();
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(format!("target/guests/{name}.wasm"));
        fs::read(path).unwrap()
    }

    #[test]
    fn a_plugin_needs_exactly_what_its_function_names() {
        use Capability::{Audit, Blob, Config, Http, Keyvalue, Logging, Pii, Queue, Runs, Secrets};
        let expected: [(&str, &[Capability]); 18] = [
            ("album", &[Blob]),
            ("bulk", &[Blob]),
            ("calls", &[Logging, Http]),
            ("care-note", &[Keyvalue, Pii]),
            ("care-visit", &[Config, Http, Pii, Queue, Runs]),
            ("consent", &[Keyvalue, Audit]),
            ("files", &[]),
            ("hello", &[]),
            ("order", &[Http]),
            ("redact", &[]),
            ("visits", &[Keyvalue]),
            ("webhook", &[Config, Secrets, Http]),
            ("hostile", &[Keyvalue, Logging, Http]),
            ("wstd-http-server", &[]),
            ("spin-visits", &[Keyvalue]),
            ("wasmcloud-visits", &[Keyvalue, Config, Logging]),
            ("hello-p3", &[]),
            ("work", &[]),
        ];
        for (name, capabilities) in expected {
            let found = needs(&built(name)).unwrap();
            assert_eq!(found, capabilities.iter().copied().collect(), "{name}");
        }
    }

    #[test]
    fn a_manifest_asks_for_what_its_component_imports() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let names =
            ["album", "care-note", "care-visit", "consent", "hello", "nightly", "order", "redact", "visits", "webhook"];
        for name in names {
            let text = fs::read_to_string(root.join("plugins").join(name).join("plugin.toml")).unwrap();
            let manifest = ringfence_core::Manifest::parse(&text).unwrap();
            let asked = [
                (Capability::Keyvalue, manifest.needs.keyvalue.is_some()),
                (Capability::Config, manifest.needs.config.is_some()),
                (Capability::Logging, manifest.needs.logging.is_some()),
                (Capability::Secrets, manifest.needs.secrets.is_some()),
                (Capability::Http, manifest.needs.http.is_some()),
                (Capability::Blob, manifest.needs.blob.is_some()),
                (Capability::Pii, manifest.needs.pii.is_some()),
                (Capability::Queue, manifest.needs.queue.is_some()),
                (Capability::Audit, manifest.needs.audit.is_some()),
                (Capability::Runs, manifest.needs.runs.is_some()),
            ];
            let asked: BTreeSet<Capability> = asked.into_iter().filter(|(_, is)| *is).map(|(which, _)| which).collect();
            assert_eq!(asked, needs(&built(name)).unwrap(), "{name}");
        }
    }

    #[test]
    fn guests_import_nothing_that_reaches_outside_but_their_needs() {
        let inert = ["wasi:cli/", "wasi:clocks/", "wasi:filesystem/", "wasi:http/types", "wasi:io/", "wasi:random/"];
        let own = ["care-note", "consent", "hello", "redact", "visits", "webhook", "hostile", "hello-p3", "work"];
        for name in own.into_iter().chain(["wstd-http-server", "spin-visits", "wasmcloud-visits"]) {
            for import in imports(&built(name)).unwrap() {
                let interface = interface(&import);
                let known =
                    Capability::of_import(interface).is_some() || inert.iter().any(|it| interface.starts_with(it));
                assert!(known, "{name} imports {import}");
            }
        }
    }

    #[test]
    fn example_plugins_stay_short() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        for (name, lines_max) in [
            ("album", 60),
            ("care-note", 60),
            ("care-visit", 60),
            ("consent", 60),
            ("hello", 5),
            ("redact", 60),
            ("visits", 60),
            ("webhook", 60),
        ] {
            let text = fs::read_to_string(root.join("plugins").join(name).join("src/lib.rs")).unwrap();
            assert!(text.lines().count() <= lines_max, "{name} has {} lines", text.lines().count());
        }
    }

    #[test]
    fn a_stamp_is_current_only_for_its_sources_and_files() {
        let out = Path::new(env!("CARGO_MANIFEST_DIR"));
        assert!(is_current("abc", "abc", out));
        assert!(!is_current("abc", "abd", out));
        assert!(!is_current("abc\nno-such-guest", "abc", out));
    }
}
