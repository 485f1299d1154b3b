//! Every way a verb can fail, the exit code it ends with, and the text or JSON a person or script gets.
//!
//! Must never carry a secret, nor a word of the libraries underneath where a word of the user's exists.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use ringfence_control::wire::{NeedState, Problem};
use ringfence_core::ManifestError;

use crate::table::needs_table;

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Ok,
    /// Failed in a way that has no code of its own.
    Failed,
    /// The command line is wrong, or a needed answer could not be asked for.
    Usage,
    /// Not signed in, or no longer.
    SignIn,
    /// Signed in, and not allowed.
    Denied,
    /// No such thing, or another tenant's.
    NotFound,
    /// Something else stands in the way: a version that exists, a need not granted, a newer policy.
    Conflict,
    /// Too large, too many, or too much.
    Limited,
    /// No host answers.
    Unreachable,
    /// Ctrl-C.
    Interrupted,
}

impl Exit {
    /// The number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::SignIn => 3,
            Self::Denied => 4,
            Self::NotFound => 5,
            Self::Conflict => 6,
            Self::Limited => 7,
            Self::Unreachable => 8,
            Self::Interrupted => 130,
        }
    }

    /// The exit code that stands for an HTTP status of either port.
    pub const fn of_status(status: u16) -> Self {
        match status {
            200..=399 => Self::Ok,
            401 => Self::SignIn,
            403 => Self::Denied,
            404 => Self::NotFound,
            409 | 412 | 428 => Self::Conflict,
            413 | 429 | 507 => Self::Limited,
            _ => Self::Failed,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.number())
    }
}

/// A failure of a verb.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The host refused.
    #[error("{}", .0.problem.detail)]
    Refused(Box<Refusal>),
    /// No host there.
    #[error("no host answers at `{host}`: {why}")]
    Unreachable {
        /// The address tried.
        host: String,
        /// What happened, in a few words.
        why: String,
    },
    /// No key for the host.
    #[error("not signed in to `{host}`{}", tenant.as_deref().map(|tenant| format!(" for tenant `{tenant}`")).unwrap_or_default())]
    NotSignedIn {
        /// The host.
        host: String,
        /// The tenant wanted.
        tenant: Option<String>,
    },
    /// A person's session has ended, and only he can open another.
    #[error("the session of `{principal}` at `{host}` is over")]
    SessionOver {
        /// The host.
        host: String,
        /// Who was signed in.
        principal: String,
    },
    /// Nothing there is called so.
    #[error("{what}")]
    NoSuch {
        /// What was looked for.
        what: String,
    },
    /// The command line does not suffice.
    #[error("{detail}")]
    Usage {
        /// Stable slug.
        code: &'static str,
        /// What is wrong.
        detail: String,
        /// What to run instead.
        help: Option<String>,
    },
    /// Something on this side failed.
    #[error("{detail}")]
    Failed {
        /// Stable slug.
        code: &'static str,
        /// What is wrong.
        detail: String,
        /// What to run instead.
        help: Option<String>,
    },
    /// `plugin.toml` is wrong.
    #[error("{error}")]
    Manifest {
        /// The file as the user names it.
        path: PathBuf,
        /// What and where.
        error: ManifestError,
    },
    /// The reader of our output went away; not worth a word.
    #[error("output closed")]
    OutputClosed,
}

/// A refusal by the host, with what the verb knows about it.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// What the host said.
    pub problem: Problem,
    /// Seconds to wait, when the host said so.
    pub retry_after: Option<u64>,
    /// The version that needs what is not granted, to say "new in".
    pub version: Option<String>,
}

impl CliError {
    /// A failure on this side.
    pub fn failed(code: &'static str, detail: impl Into<String>, help: impl Into<Option<&'static str>>) -> Self {
        Self::Failed { code, detail: detail.into(), help: help.into().map(str::to_owned) }
    }

    /// A file that could not be read or written.
    pub fn file(act: &str, path: &std::path::Path, error: &std::io::Error) -> Self {
        Self::Failed {
            code: "file",
            detail: format!("cannot {act} `{}`: {}", path.display(), io_words(error)),
            help: None,
        }
    }

    /// Stable slug, also the name of its page in the error reference.
    pub fn code(&self) -> &str {
        match self {
            Self::Refused(refusal) => &refusal.problem.code,
            Self::Unreachable { .. } => "unreachable",
            Self::NotSignedIn { .. } => "not-signed-in",
            Self::SessionOver { .. } => "session-over",
            Self::NoSuch { .. } => "not-found",
            Self::Usage { code, .. } | Self::Failed { code, .. } => code,
            Self::Manifest { .. } => "bad-manifest",
            Self::OutputClosed => "output-closed",
        }
    }

    /// How the program ends.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Refused(refusal) => match Exit::of_status(refusal.problem.status) {
                Exit::Ok => Exit::Failed,
                exit => exit,
            },
            Self::Unreachable { .. } => Exit::Unreachable,
            Self::NotSignedIn { .. } | Self::SessionOver { .. } => Exit::SignIn,
            Self::NoSuch { .. } => Exit::NotFound,
            Self::Usage { .. } => Exit::Usage,
            Self::Failed { .. } | Self::Manifest { .. } => Exit::Failed,
            Self::OutputClosed => Exit::Ok,
        }
    }

    /// Names the version in "new in", when the host refused for a need.
    #[must_use]
    pub fn about_version(mut self, version: &str) -> Self {
        if let Self::Refused(refusal) = &mut self {
            refusal.version = Some(version.to_owned());
        }
        self
    }

    /// A command that mends it.
    pub fn help(&self) -> Option<String> {
        match self {
            Self::Refused(refusal) => refusal_help(refusal),
            Self::Unreachable { .. } => {
                Some("start one with  ringfence serve --dev\nor name another with  --host URL".to_owned())
            }
            Self::NotSignedIn { host, tenant } => {
                let tenant = tenant.as_deref().map(|tenant| format!(" --tenant {tenant}")).unwrap_or_default();
                Some(format!("ringfence login --host {host}{tenant}"))
            }
            Self::SessionOver { host, principal } => Some(format!("ringfence login --host {host} --as {principal}")),
            Self::Usage { help, .. } | Self::Failed { help, .. } => help.clone(),
            Self::Manifest { .. } | Self::OutputClosed | Self::NoSuch { .. } => None,
        }
    }

    /// As the API says it, for `--json`. Failures of this side have status 0.
    pub fn to_problem(&self) -> Problem {
        if let Self::Refused(refusal) = self {
            return refusal.problem.clone();
        }
        let code = self.code().to_owned();
        let mut detail = self.to_string();
        if let Self::Manifest { path, error } = self {
            let _ = write!(detail, " ({}:{}:{})", path.display(), error.line, error.column);
        }
        Problem {
            kind: format!("urn:ringfence:error:{code}"),
            title: "Not sent".to_owned(),
            status: 0,
            code,
            detail,
            help: self.help(),
            request_id: None,
            decision_id: None,
            needs: Vec::new(),
            factor: None,
        }
    }

    /// As a person reads it: what, the evidence, the fix last.
    pub fn to_text(&self, verbose: Detail) -> String {
        let mut text = match self {
            Self::Manifest { path, error } => manifest_text(path, error),
            _ => format!("error[{}]: {self}\n", self.code()),
        };
        if let Self::Refused(refusal) = self {
            text.push_str(&needs_table(&refusal.problem.needs, refusal.version.as_deref()));
            if let Some(seconds) = refusal.retry_after {
                let _ = writeln!(text, "  note: try again in {seconds} s");
            }
        }
        if let Some(help) = self.help() {
            for (index, line) in help.lines().enumerate() {
                let _ = writeln!(text, "{}{}", if index == 0 { "  help: " } else { "        " }, line.trim_start());
            }
        }
        if let (Self::Refused(refusal), Detail::Verbose) = (self, verbose)
            && let Some(id) = &refusal.problem.request_id
        {
            let _ = writeln!(text, "  request: {id}");
        }
        text
    }
}

/// How much an error says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// What is needed to mend it.
    Normal,
    /// And the ids to ask about.
    Verbose,
}

/// An operating system's error without its number.
pub fn io_words(error: &std::io::Error) -> String {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::NotFound => "it does not exist".to_owned(),
        ErrorKind::PermissionDenied => "permission denied".to_owned(),
        ErrorKind::AlreadyExists => "it exists already".to_owned(),
        ErrorKind::IsADirectory => "it is a directory".to_owned(),
        ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        ErrorKind::TimedOut => "no answer in time".to_owned(),
        _ => {
            let text = error.to_string();
            text.split(" (os error").next().unwrap_or(&text).to_lowercase()
        }
    }
}

fn refusal_help(refusal: &Refusal) -> Option<String> {
    let problem = &refusal.problem;
    let why = problem.decision_id.as_ref().map(|id| format!("ringfence why {id}"));
    match (&problem.help, why) {
        (Some(help), Some(why)) if !help.contains(&why) => Some(format!("{help}\n{why}")),
        (Some(help), _) => Some(help.clone()),
        (None, why) => why,
    }
}

/// The manifest's error with its line and a caret, "did you mean" beside the caret.
fn manifest_text(path: &std::path::Path, error: &ManifestError) -> String {
    let (message, hint) = match error.message.split_once(", did you mean ") {
        Some((message, near)) => (message, format!(" did you mean {near}")),
        None => (error.message.as_str(), String::new()),
    };
    let mut text = format!("error[bad-manifest]: {}\n", message.trim_end());
    if error.line == 0 {
        let _ = writeln!(text, "   --> {}", path.display());
        return text;
    }
    let gutter = error.line.to_string().len().max(2);
    let before = error.column.saturating_sub(1);
    let word = error.source_line.chars().skip(before).take_while(|c| c.is_alphanumeric() || matches!(c, '_' | '-'));
    let carets = "^".repeat(word.count().max(1));
    let _ = writeln!(text, "{:gutter$} --> {}:{}:{}", "", path.display(), error.line, error.column);
    let _ = writeln!(text, "  {:>gutter$} | {}", error.line, error.source_line);
    let _ = writeln!(text, "  {:gutter$} | {:before$}{carets}{hint}", "", "");
    text
}

/// A need as `http  https://api.example.com`.
pub fn need_words(need: &NeedState) -> String {
    match &need.scope {
        Some(scope) => format!("{}  {scope}", need.capability),
        None => need.capability.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_the_contract() {
        let expected = [
            (200, 0),
            (401, 3),
            (403, 4),
            (404, 5),
            (409, 6),
            (412, 6),
            (428, 6),
            (413, 7),
            (429, 7),
            (507, 7),
            (422, 1),
            (503, 1),
        ];
        for (status, exit) in expected {
            assert_eq!(Exit::of_status(status).number(), exit, "{status}");
        }
    }

    #[test]
    fn the_system_is_quoted_without_its_number() {
        let error = std::io::Error::from_raw_os_error(28);
        assert_eq!(io_words(&error), "no space left on device");
    }
}
