//! The JavaScript guest: `tests/guests/js/hello.js` made into a component by npm's componentize-js, kept in `target/npm`.
//!
//! Must never be part of the ordinary build: it needs node, and carries a whole JavaScript engine.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

const PACKAGE: &str = "@bytecodealliance/componentize-js@0.23.0";
/// The version of `wasi:http` that the engine in [`PACKAGE`] was compiled against.
const ENGINE_WASI: &str = "0.2.10";
/// The version of the files in `wit/deps`.
const VENDORED_WASI: &str = "0.2.12";
const VENDORED: [&str; 7] = ["cli", "clocks", "filesystem", "http", "io", "random", "sockets"];

/// Whether the packages have still to be installed.
pub fn is_missing(npm: &Path) -> bool {
    !tool(npm).exists()
}

/// Installs the packages under `npm`. About 110 MB.
pub fn install(npm: &Path) -> Result<()> {
    fs::create_dir_all(npm)?;
    let mut command = Command::new("npm");
    command.args(["install", "--no-audit", "--no-fund", "--loglevel=error", "--prefix"]).arg(npm).arg(PACKAGE);
    succeed(&mut command).context("the JavaScript guest needs npm and node 20 or newer")
}

/// Builds `source` into the component `out`. Takes 15 to 40 s: the script is run once and the engine's memory kept.
pub fn build(root: &Path, npm: &Path, source: &Path, out: &Path) -> Result<()> {
    let wit = npm.join("wit");
    write_wit(&root.join("wit/deps"), &wit)?;
    let mut command = Command::new(tool(npm));
    // Without `http` there is no fetch in the script, and so no outgoing HTTP among the component's needs.
    command.arg(source).arg("--wit").arg(&wit).args(["--world-name", "handler", "--disable", "http", "--out"]).arg(out);
    succeed(&mut command)
}

/// The engine insists on its own patch version of WASI. Patch versions only add to one another, so the vendored files
/// are given that number.
fn write_wit(vendored: &Path, wit: &Path) -> Result<()> {
    fs::create_dir_all(wit.join("deps"))?;
    for name in VENDORED {
        let text = fs::read_to_string(vendored.join(format!("{name}.wit")))?.replace(VENDORED_WASI, ENGINE_WASI);
        fs::write(wit.join("deps").join(format!("{name}.wit")), text)?;
    }
    let world = format!("package ringfence:js;\n\nworld handler {{\n    include wasi:http/proxy@{ENGINE_WASI};\n}}\n");
    fs::write(wit.join("world.wit"), world).context("cannot write the world of the JavaScript guest")
}

fn tool(npm: &Path) -> std::path::PathBuf {
    npm.join("node_modules/.bin/componentize-js")
}

fn succeed(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("cannot start `{program}`"))?;
    if !status.success() {
        bail!("`{program}` failed with {status}");
    }
    Ok(())
}
