//! The README is followed word for word, from an empty directory, with the binary that was just built.

use std::io::Read as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ringfence_tests::{programs, ringfence, root};

struct Fence {
    language: String,
    text: String,
}

fn fences(text: &str) -> Vec<Fence> {
    let mut found = Vec::new();
    let mut open: Option<Fence> = None;
    for line in text.lines() {
        match (line.strip_prefix("```"), open.take()) {
            (Some(_), Some(fence)) => found.push(fence),
            (Some(language), None) => open = Some(Fence { language: language.to_owned(), text: String::new() }),
            (None, Some(mut fence)) => {
                fence.text.push_str(line);
                fence.text.push('\n');
                open = Some(fence);
            }
            (None, None) => {}
        }
    }
    found
}

fn commands(fences: &[Fence]) -> Vec<String> {
    fences
        .iter()
        .filter(|fence| fence.language == "console")
        .flat_map(|fence| fence.text.lines())
        .filter_map(|line| line.strip_prefix("$ ").map(str::to_owned))
        .collect()
}

/// What a user's shell is: a directory, the binary on the path, a home of its own.
struct Shell {
    dir: tempfile::TempDir,
    background: Vec<Child>,
}

impl Shell {
    fn command(&self, line: &str) -> Result<Command> {
        let path = std::env::var_os("PATH").context("PATH")?;
        let mut paths = vec![programs()?];
        paths.extend(std::env::split_paths(&path));
        let mut command = Command::new("sh");
        command
            .args(["-c", line])
            .current_dir(self.dir.path())
            .env("PATH", std::env::join_paths(paths)?)
            .env("RINGFENCE_HOME", self.dir.path().join("home"))
            .env("RINGFENCE_SDK", root().join("sdk"))
            .stdin(Stdio::null());
        Ok(command)
    }

    fn run(&mut self, line: &str) -> Result<()> {
        if let Some(line) = line.strip_suffix(" &") {
            let mut child = self.command(&format!("exec {line}"))?.stdout(Stdio::piped()).spawn()?;
            let mut out = child.stdout.take().context("stdout is piped")?;
            self.background.push(child);
            let mut said = String::new();
            let start = Instant::now();
            while !said.contains("sign in") {
                ensure!(start.elapsed() < Duration::from_secs(60), "`{line}` said only: {said}");
                let mut buffer = [0_u8; 512];
                let count = out.read(&mut buffer)?;
                ensure!(count > 0, "`{line}` ended: {said}");
                said.push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
            std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
            return Ok(());
        }
        let output = self.command(line)?.output()?;
        ensure!(
            output.status.success(),
            "`{line}` ended with {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        for child in &mut self.background {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn the_readme_runs_as_written() -> Result<()> {
    let text = std::fs::read_to_string(root().join("README.md"))?;
    let mut shell = Shell { dir: tempfile::tempdir()?, background: Vec::new() };
    let commands = commands(&fences(&text));
    assert!(commands.len() >= 10, "{commands:?}");
    for line in commands {
        if line.starts_with("cargo xtask") {
            run_in(&root(), &line)?;
        } else {
            shell.run(&line)?;
        }
    }
    Ok(())
}

fn run_in(dir: &Path, line: &str) -> Result<()> {
    let mut command = Command::new("sh");
    // The demo shows the binary that these tests test, instead of building another.
    command.args(["-c", line]).current_dir(dir).env("RINGFENCE_BINARY", ringfence()?).stdin(Stdio::null());
    // Whoever reads the README has no lints' compiler in front of his own.
    command.env_remove("RUSTC_WORKSPACE_WRAPPER").env_remove("CLIPPY_ARGS");
    let output = command.output()?;
    ensure!(
        output.status.success(),
        "`{line}`\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

#[test]
fn the_readmes_other_fences_are_what_they_say() -> Result<()> {
    let text = std::fs::read_to_string(root().join("README.md"))?;
    let ci = std::fs::read_to_string(root().join(".ci/run"))?;
    for fence in fences(&text) {
        match fence.language.as_str() {
            "console" => {}
            // The test command is this very run; what can be checked is that CI calls the same.
            "sh" => assert!(ci.contains(fence.text.trim()), "{} is not what .ci/run calls", fence.text),
            "rust" => assert_eq!(
                plain(&fence.text),
                plain(&std::fs::read_to_string(root().join("plugins/visits/src/lib.rs"))?)
            ),
            other => panic!("a fence in `{other}` that nothing checks"),
        }
    }
    Ok(())
}

/// Code without comments and blank lines.
fn plain(code: &str) -> String {
    code.lines()
        .filter(|line| !line.starts_with("//!") && !line.trim().is_empty())
        .map(|line| format!("{line}\n"))
        .collect()
}
