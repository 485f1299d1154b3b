//! `cargo xtask mutants`: takes one rule of isolation after another out of the host's Rust, in a copy of the tree under
//! target/mutants, and holds that the test which is named for it fails. What Cedar says has mutants in the ordinary run.
//!
//! Must never change the tree itself, nor count a mutant that does not compile for one that was found.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::run::{root, target};

/// The rules. `tests/style/mutants.rs` holds that each is still there.
const TABLE: &str = include_str!("../mutants.json");

/// Arguments of `cargo xtask mutants`.
#[derive(clap::Args)]
pub struct MutantsArgs {
    /// Only rules in files whose path contains this
    filter: Option<String>,
}

/// One rule, and what shows that it is missed.
#[derive(Deserialize)]
struct Mutant {
    /// The rule, in words.
    rule: String,
    /// Where it stands, from the root.
    file: String,
    /// What says it there, once.
    line: String,
    /// What is put in its place.
    with: String,
    /// The package of the test, its target (`lib`, or the name of a file under tests/) and its whole name.
    package: String,
    target: String,
    test: String,
}

/// Tries each mutant. Fails when one lives, naming all that do.
pub fn run(arguments: &MutantsArgs) -> Result<()> {
    let all: Vec<Mutant> = serde_json::from_str(TABLE).context("xtask/mutants.json")?;
    let tree = target()?.join("mutants/tree");
    copy_tree(&root()?, &tree)?;
    let mut alive = Vec::new();
    let wanted = |mutant: &&Mutant| arguments.filter.as_ref().is_none_or(|part| mutant.file.contains(part));
    for mutant in all.iter().filter(wanted) {
        let path = tree.join(&mutant.file);
        let text = fs::read_to_string(&path)?;
        ensure!(
            text.matches(&mutant.line).count() == 1,
            "{}: `{}` does not stand there once",
            mutant.file,
            mutant.line
        );
        fs::write(&path, text.replacen(&mutant.line, &mutant.with, 1))?;
        let is_found = is_found(&tree, mutant);
        fs::write(&path, text)?;
        let is_found = is_found?;
        println!("{} {}: {}", if is_found { "found" } else { "ALIVE" }, mutant.file, mutant.rule);
        if !is_found {
            alive.push(mutant.rule.as_str());
        }
    }
    ensure!(alive.is_empty(), "no test fails without: {}", alive.join("; "));
    Ok(())
}

/// Whether the test fails where the mutant is. Fails itself where the mutant does not compile, or there is no such test.
fn is_found(tree: &Path, mutant: &Mutant) -> Result<bool> {
    let built = cargo(tree, mutant, &["--no-run"])?;
    if !built.status.success() {
        bail!("{}: the mutant does not compile:\n{}", mutant.file, String::from_utf8_lossy(&built.stderr));
    }
    let ran = cargo(tree, mutant, &["--", "--exact", &mutant.test])?;
    let told = String::from_utf8_lossy(&ran.stdout);
    ensure!(told.contains("running 1 test"), "{}: there is no test `{}`", mutant.package, mutant.test);
    Ok(!ran.status.success())
}

fn cargo(tree: &Path, mutant: &Mutant, words: &[&str]) -> Result<Output> {
    let mut command = Command::new(option_env!("CARGO").unwrap_or("cargo"));
    command.args(["test", "--locked", "--package", &mutant.package]);
    match mutant.target.as_str() {
        "lib" => command.arg("--lib"),
        name => command.args(["--test", name]),
    };
    command.args(words).current_dir(tree).env("CARGO_TARGET_DIR", target()?.join("mutants/target"));
    command.output().context("cargo does not start")
}

/// Copies what git knows. What is the same stays as it is, so that cargo builds no more than it must.
fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(from).output().context("git")?;
    ensure!(listed.status.success(), "git does not list the tree");
    for name in String::from_utf8(listed.stdout)?.split('\0').filter(|name| !name.is_empty()) {
        let (source, place) = (from.join(name), to.join(name));
        // A file that was deleted and not committed yet is listed.
        let Ok(bytes) = fs::read(&source) else { continue };
        if fs::read(&place).is_ok_and(|there| there == bytes) {
            continue;
        }
        fs::create_dir_all(place.parent().context("a file has a directory")?)?;
        fs::write(&place, bytes)?;
    }
    Ok(())
}
