//! The Debian route: a toolchain for guests from Debian's own packages, for machines where rustup cannot download.
//!
//! Must never name a package server: the source entry for the backports suite is the machine's own entry with only the
//! suite replaced. Idempotent; writes one file under `/etc/apt/sources.list.d`.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use crate::child;

/// What the route needs besides the C library; rustc 1.96 with its library sources, and the linker of LLVM 22.
const PACKAGES: [&str; 5] = ["rustc-web", "cargo-web", "rust-web-src", "rust-web-llvm", "lld-22"];
/// The release the recipe was tried on.
const CODENAME: &str = "bookworm";
const SUITE: &str = "bookworm-backports";
const LIBC_PACKAGE: &str = "wasi-libc";
const SOURCES_DIR: &str = "/etc/apt/sources.list.d";
const SOURCES_OLD: &str = "/etc/apt/sources.list";

const UPDATE_DEADLINE: Duration = Duration::from_secs(180);
const INSTALL_DEADLINE: Duration = Duration::from_secs(900);

/// The parts of the route on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parts {
    /// Debian's compiler, by full path so that a rustup proxy on PATH is not taken for it.
    pub rustc: PathBuf,
    /// Debian's cargo.
    pub cargo: PathBuf,
    /// A `wasm-ld` new enough for rustc's own libraries.
    pub linker: PathBuf,
    /// The directory with the C library for the target.
    pub libc: PathBuf,
}

/// What the route lacks on this machine, in the words of its packages; or the parts when nothing does.
pub fn find() -> std::result::Result<Parts, Vec<&'static str>> {
    let parts = Parts {
        rustc: PathBuf::from("/usr/bin/rustc"),
        cargo: PathBuf::from("/usr/bin/cargo"),
        linker: PathBuf::from("/usr/bin/wasm-ld-22"),
        libc: PathBuf::from("/usr/lib/wasm32-wasip2"),
    };
    let checks = [
        ("rustc-web", parts.rustc.clone()),
        ("cargo-web", parts.cargo.clone()),
        ("rust-web-src", PathBuf::from("/usr/lib/rustlib/src/rust/library/std/Cargo.toml")),
        ("rust-web-llvm", host_tools().join("wasm-component-ld")),
        ("lld-22", parts.linker.clone()),
        (LIBC_PACKAGE, parts.libc.join("libc.a")),
    ];
    let missing: Vec<&'static str> =
        checks.into_iter().filter(|(_, file)| !file.exists()).map(|(package, _)| package).collect();
    if missing.is_empty() { Ok(parts) } else { Err(missing) }
}

/// Installs what is missing; needs root on Debian bookworm.
pub fn install() -> Result<Parts> {
    let missing = match find() {
        Ok(parts) => return Ok(parts),
        Err(missing) => missing,
    };
    if !is_root() {
        bail!("not root, so the Debian packages cannot be installed");
    }
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    if !release.lines().any(|line| line == format!("VERSION_CODENAME={CODENAME}")) {
        bail!("not Debian {CODENAME}, for which the package recipe is written");
    }
    if missing.contains(&LIBC_PACKAGE) {
        add_backports()?;
    }
    apt(&["update"], UPDATE_DEADLINE).context("cannot refresh the package lists")?;
    let plain: Vec<&str> = PACKAGES.into_iter().filter(|package| missing.contains(package)).collect();
    if !plain.is_empty() {
        apt_install(&plain, &[])?;
    }
    if missing.contains(&LIBC_PACKAGE) {
        apt_install(&[LIBC_PACKAGE], &["-t", SUITE])?;
    }
    find().map_err(|left| anyhow!("installed, and yet the files of {} are missing", left.join(", ")))
}

/// The commands a person would type, for the error that names what to install.
pub fn advice() -> String {
    format!(
        "apt-get install {} and, from the suite `{SUITE}`, apt-get install -t {SUITE} {LIBC_PACKAGE}",
        PACKAGES.join(" ")
    )
}

/// Where Debian's rustc keeps the helpers of its own architecture.
fn host_tools() -> PathBuf {
    Path::new("/usr/lib/rustlib").join(format!("{}-unknown-linux-gnu", std::env::consts::ARCH)).join("bin")
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

fn apt_install(packages: &[&str], options: &[&str]) -> Result<()> {
    let mut arguments = vec!["install", "-y", "--no-install-recommends"];
    arguments.extend_from_slice(options);
    arguments.extend_from_slice(packages);
    apt(&arguments, INSTALL_DEADLINE).with_context(|| format!("cannot install {}", packages.join(" ")))
}

fn apt(arguments: &[&str], deadline: Duration) -> Result<()> {
    let mut command = Command::new("apt-get");
    command
        .args(["-o", "DPkg::Lock::Timeout=120", "-o", "Acquire::Retries=3"])
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive");
    child::run(&mut command, deadline).map(drop)
}

/// Adds a source entry for the backports suite, derived from the entry for the release itself.
fn add_backports() -> Result<()> {
    let mut texts = Vec::new();
    if let Ok(text) = fs::read_to_string(SOURCES_OLD) {
        texts.push(text);
    }
    for file in fs::read_dir(SOURCES_DIR).into_iter().flatten().flatten() {
        let path = file.path();
        if path.extension().is_some_and(|extension| extension == "sources" || extension == "list") {
            texts.extend(fs::read_to_string(path).ok());
        }
    }
    if texts.iter().any(|text| names_suite(text, SUITE)) {
        return Ok(());
    }
    let entry = texts.iter().find_map(|text| backports_entry(text));
    let Some((extension, entry)) = entry else {
        bail!("found no package source for `{CODENAME}` to derive `{SUITE}` from");
    };
    let path = Path::new(SOURCES_DIR).join(format!("ringfence-backports.{extension}"));
    fs::write(&path, entry).with_context(|| format!("cannot write {}", path.display()))
}

fn names_suite(text: &str, suite: &str) -> bool {
    text.lines().map(str::trim).filter(|line| !line.starts_with('#')).any(|line| {
        let is_entry = line.starts_with("Suites:") || line.starts_with("deb ");
        is_entry && line.split_whitespace().any(|word| word == suite)
    })
}

/// The entry for [`SUITE`] made from the first one for [`CODENAME`], with the extension of the file it belongs in.
/// Both forms of sources.list(5) are read.
fn backports_entry(text: &str) -> Option<(&'static str, String)> {
    let live = |line: &&str| !line.trim_start().starts_with('#');
    for stanza in text.split("\n\n") {
        if names_suite(stanza, CODENAME) && stanza.lines().any(|line| line.starts_with("Suites:")) {
            let lines = stanza
                .lines()
                .filter(live)
                .map(|line| if line.starts_with("Suites:") { format!("Suites: {SUITE}") } else { line.to_owned() });
            return Some(("sources", lines.collect::<Vec<_>>().join("\n") + "\n"));
        }
    }
    let line = text.lines().filter(live).find(|line| line.starts_with("deb ") && names_suite(line, CODENAME))?;
    let words = line.split_whitespace().map(|word| if word == CODENAME { SUITE } else { word });
    Some(("list", words.collect::<Vec<_>>().join(" ") + "\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STANZAS: &str = "Types: deb\nURIs: http://one.invalid/debian-security\nSuites: bookworm-security\n\n\
        Types: deb\n# a note\nURIs: http://two.invalid/debian\nSuites: bookworm bookworm-updates\nComponents: main\n";

    #[test]
    fn the_entry_keeps_everything_but_the_suite() {
        let (extension, entry) = backports_entry(STANZAS).unwrap();
        assert_eq!(extension, "sources");
        let expected = "Types: deb\nURIs: http://two.invalid/debian\nSuites: bookworm-backports\nComponents: main\n";
        assert_eq!(entry, expected);
    }

    #[test]
    fn one_line_sources_work_too() {
        let text =
            "# deb http://x.invalid/debian bookworm main\ndeb [arch=amd64] http://x.invalid/debian bookworm main\n";
        let (extension, entry) = backports_entry(text).unwrap();
        assert_eq!(extension, "list");
        assert_eq!(entry, "deb [arch=amd64] http://x.invalid/debian bookworm-backports main\n");
    }

    #[test]
    fn other_suites_give_no_entry() {
        assert_eq!(backports_entry("Types: deb\nSuites: bookworm-security\n"), None);
        assert!(!names_suite("# Suites: bookworm-backports", SUITE));
        assert!(names_suite("Suites: a bookworm-backports", SUITE));
    }
}
