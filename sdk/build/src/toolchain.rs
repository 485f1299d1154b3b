//! Which compiler builds guests on this machine: what is here is taken first, and only then is anything installed.
//!
//! Must never install without leave, and must end with a toolchain or with words that say exactly what to install.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::{child, debian};

/// The target every guest is built for.
pub const TARGET: &str = "wasm32-wasip2";

const ASK_DEADLINE: Duration = Duration::from_secs(20);
/// Where rustup cannot download it fails at once or hangs; longer than a slow download of 20 MB should take.
const RUSTUP_DEADLINE: Duration = Duration::from_secs(90);

/// Whether missing parts may be installed on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Install {
    /// Install through rustup, or as root through apt-get.
    Allowed,
    /// Take what is here or fail with advice.
    Forbidden,
}

/// Where the compiler came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// The rustup target, through the `cargo` on PATH.
    Rustup,
    /// Debian's packages; the library is compiled from its sources on the first build.
    Debian(DebianParts),
}

/// The files of the Debian route.
pub type DebianParts = debian::Parts;

/// A compiler for guests, ready to be used by [`crate::build`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toolchain {
    /// Where it came from.
    pub route: Route,
}

impl Toolchain {
    /// One line for people: which compiler this is.
    pub fn describe(&self) -> String {
        match &self.route {
            Route::Rustup => format!("rustup target {TARGET}"),
            Route::Debian(parts) => format!("Debian's {} with the library from source", parts.rustc.display()),
        }
    }
}

/// The toolchain that is here already: the rustup target first, then Debian's parts. Looks from `dir`, because
/// `rust-toolchain.toml` files there choose the rustup toolchain.
pub fn find_toolchain(dir: &Path) -> Option<Toolchain> {
    if rustup_target_is_here(dir) {
        return Some(Toolchain { route: Route::Rustup });
    }
    debian::find().ok().map(|parts| Toolchain { route: Route::Debian(parts) })
}

/// A toolchain for crates in `dir`: found, or installed when `install` allows it.
///
/// # Errors
/// When there is none: the text says what was tried and what to install.
pub fn ensure_toolchain(dir: &Path, install: Install) -> Result<Toolchain> {
    if let Some(toolchain) = find_toolchain(dir) {
        return Ok(toolchain);
    }
    if install == Install::Forbidden {
        bail!("no toolchain for {TARGET} here\n  help: {}", advice());
    }
    // Said on standard error, because an installer may be silent for minutes.
    eprintln!("no toolchain for {TARGET} yet: asking rustup for it");
    let rustup = match add_rustup_target(dir) {
        Ok(()) if rustup_target_is_here(dir) => return Ok(Toolchain { route: Route::Rustup }),
        Ok(()) => "rustup target add: ended well and yet the target is not here".to_owned(),
        Err(error) => format!("rustup target add: {error:#}"),
    };
    eprintln!("rustup has none: trying Debian's packages");
    match debian::install() {
        Ok(parts) => Ok(Toolchain { route: Route::Debian(parts) }),
        Err(error) => bail!(
            "no toolchain for {TARGET} here and none could be installed\n  {rustup}\n  Debian packages: {error:#}\n  \
             help: {}",
            advice()
        ),
    }
}

fn advice() -> String {
    format!("rustup target add {TARGET}\n     or, on Debian bookworm as root: {}", debian::advice())
}

fn rustup_target_is_here(dir: &Path) -> bool {
    let mut command = Command::new("rustc");
    command.args(["--print", "target-libdir", "--target", TARGET]).current_dir(dir);
    child::run(&mut command, ASK_DEADLINE).is_ok_and(|libdir| has_library(Path::new(libdir.trim())))
}

fn has_library(libdir: &Path) -> bool {
    let files = std::fs::read_dir(libdir).into_iter().flatten().flatten();
    files.map(|file| PathBuf::from(file.file_name())).any(|name| name.to_string_lossy().starts_with("libstd-"))
}

fn add_rustup_target(dir: &Path) -> Result<()> {
    let mut command = Command::new("rustup");
    command.args(["target", "add", TARGET]).current_dir(dir);
    child::run(&mut command, RUSTUP_DEADLINE).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_without_the_library_is_no_target() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!has_library(dir.path()));
        assert!(!has_library(&dir.path().join("absent")));
        std::fs::write(dir.path().join("libstd-0123.rlib"), b"").unwrap();
        assert!(has_library(dir.path()));
    }

    #[test]
    fn the_advice_names_both_ways_and_no_server() {
        let advice = advice();
        assert!(advice.contains("rustup target add wasm32-wasip2") && advice.contains("wasi-libc"));
        assert!(!advice.contains("://"));
    }
}
