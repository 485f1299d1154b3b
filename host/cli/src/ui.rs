//! What a person or script sees and is asked: results on standard output, progress and errors on standard error.
//!
//! Must never let text from a host or a guest steer the terminal: control characters are shown, not sent.

use std::cell::RefCell;
use std::io::{BufRead, IsTerminal, Read, Write};
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::Format;
use crate::args::Global;
use crate::environment::Secret;
use crate::error::{CliError, Detail};

/// Longest answer to a question, in bytes.
const ANSWER_BYTES_MAX: u64 = 4096;

/// Moves to the top left and clears what is below (ECMA-48 CUP and ED), which every terminal understands.
const HOME_AND_CLEAR: &[u8] = b"\x1b[H\x1b[J";

/// Where input comes from and output goes; the process's own, or a test's buffers.
pub struct Io {
    /// Standard input.
    pub input: Box<dyn Read>,
    /// Standard output.
    pub out: Box<dyn Write>,
    /// Standard error.
    pub err: Box<dyn Write>,
    /// Which of them are terminals.
    pub terminal: Terminal,
}

/// Which streams are terminals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terminal {
    /// Standard input: a question can be asked.
    pub input: bool,
    /// Standard output: `logs` follows.
    pub out: bool,
    /// Standard error: a bar can be drawn.
    pub err: bool,
}

impl Io {
    /// The process's own.
    pub fn standard() -> Self {
        let terminal = Terminal {
            input: std::io::stdin().is_terminal(),
            out: std::io::stdout().is_terminal(),
            err: std::io::stderr().is_terminal(),
        };
        Self {
            input: Box::new(std::io::stdin()),
            out: Box::new(std::io::stdout()),
            err: Box::new(std::io::stderr()),
            terminal,
        }
    }
}

/// Prints, and asks.
pub struct Ui {
    input: Box<dyn Read>,
    out: Box<dyn Write>,
    err: Trace,
    /// Which streams are terminals.
    pub terminal: Terminal,
    /// Text or JSON.
    pub format: Format,
    flags: Global,
}

/// Standard error, shared with the client that reports its requests under `--verbose`.
#[derive(Clone)]
pub struct Trace {
    err: Rc<RefCell<Box<dyn Write>>>,
    verbose: bool,
}

impl Trace {
    /// A line under `--verbose`, nothing otherwise.
    pub fn line(&self, text: &str) {
        if self.verbose {
            self.always(text);
        }
    }

    fn always(&self, text: &str) {
        // Nobody is left to tell when standard error is gone.
        let _ = writeln!(self.err.borrow_mut(), "{}", harmless(text));
    }
}

impl Ui {
    /// Over `io`, as the flags say.
    pub fn new(io: Io, flags: &Global) -> Self {
        Self {
            input: io.input,
            out: io.out,
            err: Trace { err: Rc::new(RefCell::new(io.err)), verbose: flags.verbose },
            terminal: io.terminal,
            format: if flags.json { Format::Json } else { Format::Text },
            flags: flags.clone(),
        }
    }

    /// Standard error for the client.
    pub fn trace(&self) -> Trace {
        self.err.clone()
    }

    /// Whether a bar may be drawn.
    pub fn may_animate(&self) -> bool {
        self.terminal.err && self.format == Format::Text && !self.flags.quiet
    }

    /// Text of a result, as it is but for control characters. Ends with a newline.
    pub fn text(&mut self, text: &str) -> Result<(), CliError> {
        let text = harmless(text);
        self.raw(text.trim_end_matches('\n').as_bytes())?;
        self.raw(b"\n")
    }

    /// Text of a result in place of the one shown before: on a terminal at its top, elsewhere below with a line between.
    pub fn redraw(&mut self, text: &str) -> Result<(), CliError> {
        if self.terminal.out {
            self.raw(HOME_AND_CLEAR)?;
            return self.text(text);
        }
        self.text(text)?;
        self.raw(b"\n")
    }

    /// Bytes of a result, untouched: bodies of plugins and policies, which may be piped on.
    pub fn raw(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        self.out.write_all(bytes).and_then(|()| self.out.flush()).map_err(|error| match error.kind() {
            std::io::ErrorKind::BrokenPipe => CliError::OutputClosed,
            _ => {
                CliError::failed("output", format!("cannot write the output: {}", crate::error::io_words(&error)), None)
            }
        })
    }

    /// A value as one line of JSON.
    pub fn json(&mut self, value: &impl Serialize) -> Result<(), CliError> {
        let text = serde_json::to_string(value)
            .map_err(|error| CliError::failed("output", format!("cannot write the output: {error}"), None))?;
        self.raw(text.as_bytes())?;
        self.raw(b"\n")
    }

    /// A finished phase and how long it took, on standard error; a person's line, so not with `--json` or `--quiet`.
    pub fn phase(&self, verb: &str, what: &str, took: Duration) {
        if self.format == Format::Text && !self.flags.quiet {
            self.err.always(&format!("  {verb:<9} {what:<38} {:>6.1} s", took.as_secs_f64()));
        }
    }

    /// A remark on standard error; not with `--json` or `--quiet`.
    pub fn note(&self, text: &str) {
        if self.format == Format::Text && !self.flags.quiet {
            self.err.always(text);
        }
    }

    /// What a person has to know to go on, on standard error, whatever the flags say.
    pub fn tell(&self, text: &str) {
        self.err.always(text);
    }

    /// A failure, on standard error: for people, or with `--json` the API's problem.
    pub fn error(&self, error: &CliError) {
        if matches!(error, CliError::OutputClosed) {
            return;
        }
        match self.format {
            Format::Text => {
                let detail = if self.flags.verbose { Detail::Verbose } else { Detail::Normal };
                self.err.always(error.to_text(detail).trim_end_matches('\n'));
            }
            Format::Json => {
                let problem = serde_json::to_string(&error.to_problem()).unwrap_or_default();
                self.err.always(&problem);
            }
        }
    }

    /// Asks before something that cannot be taken back; `--yes` answers.
    pub fn confirm(&mut self, verb: &str, question: &str) -> Result<(), CliError> {
        if self.flags.yes {
            return Ok(());
        }
        let answer = self.ask(verb, &format!("{question} [y/N] "))?;
        match answer.as_str() {
            "y" | "Y" | "yes" => Ok(()),
            _ => {
                Err(CliError::failed("not-confirmed", format!("`{verb}` was not confirmed; nothing was changed"), None))
            }
        }
    }

    /// Asks to type a name before it is destroyed; `--yes` answers.
    pub fn confirm_typed(&mut self, verb: &str, warning: &str, name: &str) -> Result<(), CliError> {
        if self.flags.yes {
            return Ok(());
        }
        let answer = self.ask(verb, &format!("{warning}\nType `{name}` to go on: "))?;
        if answer == name {
            return Ok(());
        }
        Err(CliError::failed("not-confirmed", "the name does not match; nothing was changed".to_owned(), None))
    }

    fn ask(&mut self, verb: &str, question: &str) -> Result<String, CliError> {
        if self.flags.no_input || !self.terminal.input {
            return Err(CliError::Usage {
                code: "needs-yes",
                detail: format!("`{verb}` asks before it acts, and there is no terminal to ask on"),
                help: Some(format!("add `--yes`:  ringfence {verb} --yes")),
            });
        }
        let _ = write!(self.err.err.borrow_mut(), "{}", harmless(question));
        let _ = self.err.err.borrow_mut().flush();
        let mut line = String::new();
        let mut limited = std::io::BufReader::new(self.input.as_mut().take(ANSWER_BYTES_MAX));
        limited
            .read_line(&mut line)
            .map_err(|_| CliError::failed("input", "cannot read the answer".to_owned(), None))?;
        Ok(line.trim().to_owned())
    }

    /// Asks for a secret without showing it; without a terminal, names the flags that bring it otherwise.
    pub fn ask_secret(&mut self, prompt: &str, flags: &str) -> Result<Secret, CliError> {
        if self.flags.no_input || !self.terminal.input {
            return Err(CliError::Usage {
                code: "needs-input",
                detail: format!("there is no terminal to ask for the {prompt} on"),
                help: Some(format!("add {flags}")),
            });
        }
        rpassword::prompt_password(format!("{prompt}: "))
            .map(Secret::new)
            .map_err(|_| CliError::failed("input", format!("cannot read the {prompt}"), None))
    }

    /// All of standard input, at most `bytes_max`.
    pub fn read_input(&mut self, bytes_max: usize) -> Result<Vec<u8>, CliError> {
        read_capped(self.input.as_mut(), bytes_max, "standard input")
    }
}

/// A stopwatch for phases.
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts.
    pub fn start() -> Self {
        Self(Instant::now())
    }
    /// Time since the start.
    pub fn took(&self) -> Duration {
        self.0.elapsed()
    }
}

/// Reads all, and refuses more than `bytes_max`.
pub fn read_capped(from: &mut dyn Read, bytes_max: usize, what: &str) -> Result<Vec<u8>, CliError> {
    let mut bytes = Vec::new();
    from.take(bytes_max as u64 + 1).read_to_end(&mut bytes).map_err(|error| {
        CliError::failed("input", format!("cannot read {what}: {}", crate::error::io_words(&error)), None)
    })?;
    if bytes.len() > bytes_max {
        return Err(CliError::failed("too-large", format!("{what} holds more than {bytes_max} bytes"), None));
    }
    Ok(bytes)
}

/// Text with control characters shown instead of sent; line ends and tabs stay.
/// SECURITY: guest logs and names could otherwise rewrite the screen or the window title.
pub fn harmless(text: &str) -> String {
    let harmful = |c: char| {
        (c.is_control() && c != '\n' && c != '\t')
            || ('\u{202a}'..='\u{202e}').contains(&c)
            || ('\u{2066}'..='\u{2069}').contains(&c)
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{61c}' | '\u{2028}' | '\u{2029}')
    };
    if !text.contains(harmful) {
        return text.to_owned();
    }
    text.chars().flat_map(|c| if harmful(c) { c.escape_unicode().collect::<Vec<_>>() } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_outside_cannot_steer_the_terminal() {
        assert_eq!(harmless("a\x1b[2Jb\r\u{202e}c\n\td"), "a\\u{1b}[2Jb\\u{d}\\u{202e}c\n\td");
        assert_eq!(harmless("a\u{200f}b\u{61c}\u{2028}"), "a\\u{200f}b\\u{61c}\\u{2028}");
        assert_eq!(harmless("plain é"), "plain é");
    }

    #[test]
    fn input_is_capped() {
        assert_eq!(read_capped(&mut &b"abc"[..], 3, "it").unwrap(), b"abc");
        assert_eq!(read_capped(&mut &b"abcd"[..], 3, "it").unwrap_err().code(), "too-large");
    }
}
