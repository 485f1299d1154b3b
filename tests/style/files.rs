//! Every Rust file opens with what it is, none is too long, and nothing in the repository names a machine.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use ringfence_tests::root;

/// LIMIT: lines of a Rust file.
const LINES_COUNT_MAX: usize = 800;

fn tracked(ending: &str) -> Result<Vec<PathBuf>> {
    let output = Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output().context("git")?;
    let names = String::from_utf8(output.stdout)?;
    Ok(names
        .split('\0')
        .filter(|name| name.ends_with(ending))
        .map(|name| root().join(name))
        .filter(|path| path.is_file())
        .collect())
}

#[test]
fn every_rust_file_opens_with_what_it_is() -> Result<()> {
    let files = tracked(".rs")?;
    assert!(files.len() > 50, "{} files", files.len());
    for path in files {
        let text = std::fs::read_to_string(&path)?;
        let head: Vec<&str> = text.lines().take(3).collect();
        assert!(head.iter().any(|line| line.starts_with("//!")), "{} has no header", path.display());
        assert!(text.lines().count() <= LINES_COUNT_MAX, "{} is too long", path.display());
    }
    Ok(())
}

#[test]
fn the_readme_is_short() -> Result<()> {
    assert!(std::fs::read_to_string(root().join("README.md"))?.lines().count() <= 150);
    Ok(())
}

#[test]
fn every_example_plugin_is_short() -> Result<()> {
    let mut count = 0;
    for path in tracked("src/lib.rs")?.into_iter().filter(|path| path.starts_with(root().join("plugins"))) {
        assert!(std::fs::read_to_string(&path)?.lines().count() <= 60, "{}", path.display());
        count += 1;
    }
    assert!(count >= 4, "{count} example plugins");
    Ok(())
}

#[test]
fn nothing_names_a_machine_or_a_registry_host() -> Result<()> {
    // Written in two parts, so that this file is not a hit itself.
    let words = [
        concat!("/work/", "main"),
        concat!("/root/", "."),
        concat!("deb.", "debian.org"),
        concat!("static.", "crates.io"),
    ];
    for path in tracked("")? {
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        for word in words {
            assert!(!text.contains(word), "{} names `{word}`", path.display());
        }
    }
    Ok(())
}
