//! What is made and asked with Python: the guest `tests/guests/python/hello.py`, made into a component by PyPI's componentize-py and
//! kept in `target/python`, and the environments that packages are installed in.
//!
//! Must never have the guest be part of the ordinary build: it carries a whole interpreter (18 MB).

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

const PACKAGE: &str = "componentize-py==0.25.1";
const VENDORED: [&str; 7] = ["cli", "clocks", "filesystem", "http", "io", "random", "sockets"];
const WORLD: &str = "package ringfence:python;\n\nworld handler {\n    include wasi:http/proxy@0.2.12;\n}\n";

/// Whether the package has still to be installed.
pub fn is_missing(home: &Path) -> bool {
    !tool(home).exists()
}

/// Installs the package into a virtual environment under `home`. About 70 MB.
pub fn install(home: &Path) -> Result<()> {
    environment(home, &[PACKAGE.as_ref()])
}

/// Makes a virtual environment, `venv` under `home`, and has pip install there what is named.
pub fn environment(home: &Path, named: &[&OsStr]) -> Result<()> {
    let environment = home.join("venv");
    succeed(Command::new("python3").args(["-m", "venv"]).arg(&environment))
        .context("packages of PyPI need python3 (3.10 or newer) with venv")?;
    succeed(Command::new(environment.join("bin/pip")).args(["install", "--quiet"]).args(named))
}

/// Builds the component and says where it lies. Takes about 15 s of CPU: the interpreter is started once and its memory
/// kept.
pub fn build(root: &Path, home: &Path) -> Result<PathBuf> {
    let (wit, out) = (home.join("wit"), home.join("hello-python.wasm"));
    fs::create_dir_all(wit.join("deps"))?;
    for name in VENDORED {
        let file = format!("{name}.wit");
        fs::copy(root.join("wit/deps").join(&file), wit.join("deps").join(&file)).with_context(|| file)?;
    }
    fs::write(wit.join("world.wit"), WORLD).context("cannot write the world of the Python guest")?;
    let mut command = Command::new(tool(home));
    command.current_dir(root.join("tests/guests/python")).env("PYTHONDONTWRITEBYTECODE", "1");
    command.arg("--wit-path").arg(&wit).args(["--world", "handler", "componentize", "hello", "-o"]).arg(&out);
    succeed(&mut command)?;
    Ok(out)
}

fn tool(home: &Path) -> PathBuf {
    home.join("venv/bin/componentize-py")
}

fn succeed(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("cannot start `{program}`"))?;
    if !status.success() {
        bail!("`{program}` failed with {status}");
    }
    Ok(())
}
