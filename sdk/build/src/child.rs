//! Runs one child process with a deadline and a bounded memory of what it said.
//!
//! Must never wait without a deadline. Used for the installers; cargo itself is run by `build`.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

/// LIMIT: bytes of output kept of a child, the last ones win.
const OUTPUT_BYTES_MAX: usize = 64 * 1024;
/// Lines of output shown when a child fails.
const LINES_SHOWN_MAX: usize = 15;
const POLL_INTERVAL: Duration = Duration::from_millis(25);

/// Runs to the end and returns standard output as text. A non-zero exit or a passed deadline is an error that carries
/// the last lines of what the child said.
pub fn run(command: &mut Command, deadline: Duration) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{name}`"))?;
    let output = collect(child.stdout.take());
    let errors = collect(child.stderr.take());
    // After a passed deadline a grandchild may hold the pipes open: the readers are left behind, not waited for.
    let succeeded = wait(&mut child, deadline).with_context(|| format!("`{name}` was stopped"))?;
    let output = output.join().map_err(|_| anyhow!("lost the output of `{name}`"))?;
    let errors = errors.join().map_err(|_| anyhow!("lost the output of `{name}`"))?;
    if succeeded {
        return Ok(output);
    }
    bail!("`{name}` failed: {}", last_lines(&format!("{output}\n{errors}")))
}

/// Waits until the child ends, at most `deadline`; kills it after that. Says whether it succeeded.
fn wait(child: &mut Child, deadline: Duration) -> Result<bool> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status.success());
        }
        if started.elapsed() > deadline {
            child.kill().context("cannot stop a child that passed its deadline")?;
            child.wait()?;
            bail!("no end after {} s", deadline.as_secs());
        }
        thread::sleep(POLL_INTERVAL);
    }
}

fn collect(stream: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut kept = Vec::new();
        let Some(mut stream) = stream else { return String::new() };
        let mut chunk = [0_u8; 8192];
        while let Ok(count) = stream.read(&mut chunk) {
            if count == 0 {
                break;
            }
            kept.extend_from_slice(chunk.get(..count).unwrap_or_default());
            let excess = kept.len().saturating_sub(OUTPUT_BYTES_MAX);
            kept.drain(..excess);
        }
        String::from_utf8_lossy(&kept).into_owned()
    })
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    let skip = lines.len().saturating_sub(LINES_SHOWN_MAX);
    lines.into_iter().skip(skip).collect::<Vec<_>>().join("\n    ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_that_does_not_end_is_stopped_at_its_deadline() {
        let started = Instant::now();
        let error = run(Command::new("sleep").arg("60"), Duration::from_millis(100)).unwrap_err();
        assert!(format!("{error:#}").contains("no end after"), "{error:#}");
        assert!(started.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn a_failure_shows_what_the_child_said() {
        let error = run(Command::new("sh").args(["-c", "echo no such package >&2; exit 3"]), Duration::from_secs(30));
        assert!(format!("{:#}", error.unwrap_err()).contains("no such package"));
    }

    #[test]
    fn success_returns_the_output() {
        assert_eq!(run(Command::new("echo").arg("yes"), Duration::from_secs(30)).unwrap().trim(), "yes");
    }
}
