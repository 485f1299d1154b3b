//! Runs cargo for a guest crate, or a workspace of them, and says which components came out.
//!
//! Must never leak the calling cargo's settings into the child: a guest is built the same from `cargo xtask`, from
//! `ringfence build` and by hand.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::toolchain::{DebianParts, Install, Route, TARGET, Toolchain, ensure_toolchain};

/// Settings of the calling cargo that are the machine's, not the caller's, and so are kept for the child.
const KEPT_PREFIXES: [&str; 6] =
    ["CARGO_HOME", "CARGO_NET_", "CARGO_HTTP_", "CARGO_REGISTR", "CARGO_SOURCE_", "CARGO_TERM_"];
const DROPPED: [&str; 6] =
    ["RUSTFLAGS", "RUSTC", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTC_BOOTSTRAP", "CARGO"];

/// How well the compiler optimises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Small and fast, slow to build; what is uploaded.
    Release,
    /// Quick to build.
    Dev,
}

/// Whether Cargo.lock may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lock {
    /// A build that would change Cargo.lock fails.
    Locked,
    /// Cargo.lock follows Cargo.toml.
    Free,
}

/// One component that came out of a build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// The crate's target name with `-` for `_`, which is the plugin's name by custom.
    pub name: String,
    /// The component's file.
    pub file: PathBuf,
}

/// Builds the one guest crate in `dir` and returns its component. Finds the toolchain itself and installs nothing.
/// Cargo's progress goes to standard error.
pub fn build(dir: &Path, target_dir: &Path, profile: Profile) -> Result<PathBuf> {
    let toolchain = ensure_toolchain(dir, Install::Forbidden)?;
    let mut artifacts = build_all(&toolchain, dir, target_dir, profile, Lock::Free)?;
    match (artifacts.pop(), artifacts.is_empty()) {
        (Some(artifact), true) => Ok(artifact.file),
        (None, _) => bail!("`{}` makes no component: its library needs crate-type = [\"cdylib\"]", dir.display()),
        (Some(_), false) => bail!("`{}` makes more than one component: name one crate's directory", dir.display()),
    }
}

/// Builds every guest of the crate or workspace in `dir` with `toolchain`, all output under `target_dir`.
pub fn build_all(
    toolchain: &Toolchain,
    dir: &Path,
    target_dir: &Path,
    profile: Profile,
    lock: Lock,
) -> Result<Vec<Artifact>> {
    std::fs::create_dir_all(target_dir).with_context(|| format!("cannot create {}", target_dir.display()))?;
    let target_dir = target_dir.canonicalize()?;
    let mut command = command(toolchain, &target_dir)?;
    command.current_dir(dir).args(["build", "--target", TARGET, "--message-format", "json-render-diagnostics"]);
    command.arg("--target-dir").arg(&target_dir);
    if profile == Profile::Release {
        command.arg("--release");
    }
    if lock == Lock::Locked {
        command.arg("--locked");
    }
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot start cargo")?;
    let mut artifacts = Vec::new();
    if let Some(messages) = child.stdout.take() {
        for line in BufReader::new(messages).lines() {
            artifacts.extend(artifact(&line?));
        }
    }
    // The build has no deadline of its own: it is the person's, who sees cargo's progress and may interrupt it.
    if !child.wait()?.success() {
        bail!("cargo could not build the guests in `{}`", dir.display());
    }
    Ok(artifacts)
}

fn command(toolchain: &Toolchain, target_dir: &Path) -> Result<Command> {
    let mut command = match &toolchain.route {
        Route::Rustup => Command::new("cargo"),
        Route::Debian(parts) => Command::new(&parts.cargo),
    };
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let foreign = text.starts_with("CARGO_") && !KEPT_PREFIXES.iter().any(|kept| text.starts_with(kept));
        if foreign || DROPPED.contains(&text.as_ref()) {
            command.env_remove(&name);
        }
    }
    if let Route::Debian(parts) = &toolchain.route {
        configure_debian(&mut command, parts, target_dir)?;
    }
    Ok(command)
}

fn configure_debian(command: &mut Command, parts: &DebianParts, target_dir: &Path) -> Result<()> {
    let mut library_flag = OsString::from("-Lnative=");
    library_flag.push(&parts.libc);
    command
        .env("RUSTC", &parts.rustc)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", library_flag)
        .env("PATH", path_with_linker(parts, target_dir)?)
        .env_remove("RUSTUP_TOOLCHAIN")
        .arg("-Zbuild-std=std,panic_abort");
    Ok(())
}

/// PATH with a directory first in which the linker carries the name that the component linker looks for.
fn path_with_linker(parts: &DebianParts, target_dir: &Path) -> Result<OsString> {
    let bin = target_dir.join("bin");
    std::fs::create_dir_all(&bin)?;
    let link = bin.join("wasm-ld");
    if std::fs::read_link(&link).ok().as_ref() != Some(&parts.linker) {
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(&parts.linker, &link).context("cannot link the linker")?;
    }
    let inherited = std::env::var_os("PATH").unwrap_or_default();
    let system = PathBuf::from("/usr/bin");
    Ok(std::env::join_paths([bin, system].into_iter().chain(std::env::split_paths(&inherited)))?)
}

/// The component a line of cargo's message stream announces, if it does.
/// Format: <https://doc.rust-lang.org/cargo/reference/external-tools.html#json-messages>.
fn artifact(line: &str) -> Option<Artifact> {
    let message: Value = serde_json::from_str(line).ok()?;
    if message.get("reason")?.as_str()? != "compiler-artifact" {
        return None;
    }
    let kinds = message.pointer("/target/kind")?.as_array()?;
    if !kinds.iter().any(|kind| kind == "cdylib" || kind == "bin") {
        return None;
    }
    let files = message.get("filenames")?.as_array()?;
    let file = files.iter().filter_map(Value::as_str).find(|file| file.ends_with(".wasm"))?;
    let name = message.pointer("/target/name")?.as_str()?.replace('_', "-");
    Some(Artifact { name, file: PathBuf::from(file) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_is_found_in_the_message_stream() {
        let line = r#"{"reason":"compiler-artifact","target":{"kind":["cdylib"],"name":"hello_p3"},
            "filenames":["/t/wasm32-wasip2/release/hello_p3.wasm"]}"#;
        let found = artifact(line).unwrap();
        assert_eq!(
            (found.name.as_str(), found.file.to_str().unwrap()),
            ("hello-p3", "/t/wasm32-wasip2/release/hello_p3.wasm")
        );
    }

    #[test]
    fn libraries_and_other_messages_are_no_components() {
        let library =
            r#"{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"a"},"filenames":["/t/liba.rlib"]}"#;
        for line in [library, r#"{"reason":"build-finished","success":true}"#, "not json", ""] {
            assert_eq!(artifact(line), None, "{line}");
        }
    }
}
