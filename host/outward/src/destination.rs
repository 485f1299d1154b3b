//! A destination: what is carried where, with whose eyes, and how far it has come.
//!
//! Must never be made of words that were not checked, nor show a secret: secrets lie in records of their own and are in no
//! type here that can be written out.

use jiff::Timestamp;
use lettre::Address;
use ringfence_core::{PrincipalId, ResourceName, Role};
use ringfence_keys::{Secret, SecretBytes};
use ringfence_store::Key;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};

use crate::mail::Mailer;
use crate::reach::Reach;
use crate::{OutwardError, ReachError};

/// LIMIT: destinations of one owner, of both sorts together.
pub const DESTINATIONS_COUNT_MAX: usize = 8;
/// LIMIT: recipients of one destination.
const RECIPIENTS_COUNT_MAX: usize = 8;
/// LIMIT: longest mail address, in bytes (RFC 5321, 4.5.3.1).
const RECIPIENT_BYTES_MAX: usize = 254;
/// LIMIT: roots that a destination trusts, and their text.
const ROOTS_COUNT_MAX: usize = 8;
const ROOTS_BYTES_MAX: usize = 32 << 10;
/// LIMIT: longest value of an `Authorization` header.
const AUTHORIZATION_BYTES_MAX: usize = 4 << 10;
/// The first segment of the names of destinations and feeds.
pub(crate) const AREA: &str = "outward";
/// The port of syslog over TLS (RFC 5425).
const SYSLOG_PORT: u16 = 6514;

/// What is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Carries {
    /// Every entry of the owner's audit log.
    Audit,
    /// The owner's findings, and what its people alert to.
    Alerts,
}

impl Carries {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Audit, Self::Alerts];

    /// Its word, in names of records and in what is sent.
    pub fn word(self) -> &'static str {
        match self {
            Self::Audit => "audit",
            Self::Alerts => "alerts",
        }
    }
}

/// Where to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum To {
    /// Signed JSON over HTTP (Standard Webhooks).
    Webhook {
        /// Where.
        url: String,
    },
    /// OpenTelemetry logs as JSON over HTTP.
    Otlp {
        /// Where, `/v1/logs` included.
        url: String,
    },
    /// RFC 5424 over TLS (RFC 5425).
    Syslog {
        /// Name or address.
        host: String,
        /// Port.
        port: u16,
        /// PEM of the roots to trust; the machine's when absent.
        roots: Option<String>,
    },
    /// Mail through the operator's server.
    Email {
        /// To whom.
        recipients: Vec<String>,
    },
}

impl To {
    /// Its word.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Webhook { .. } => "webhook",
            Self::Otlp { .. } => "otlp",
            Self::Syslog { .. } => "syslog",
            Self::Email { .. } => "email",
        }
    }
}

/// Whether its owner lets it be carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Switch {
    /// It is.
    On,
    /// Not now; what comes meanwhile is carried later.
    Off,
}

/// Why the host stopped by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paused {
    /// When.
    pub at: Timestamp,
    /// Why.
    pub why: String,
}

/// A destination as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Destination {
    /// `out_` and 26 letters; another one when a deleted name is used again.
    pub id: String,
    /// Its name, one among those that carry the same.
    pub name: ResourceName,
    /// What is carried.
    pub carries: Carries,
    /// Where to.
    pub to: To,
    /// Entries are carried as this role sees them.
    pub sees: Role,
    /// Whether its owner lets it be carried.
    pub switch: Switch,
    /// Why the host stopped by itself.
    pub paused: Option<Paused>,
    /// The unique id of the owner that it was made for. A copy of a tenant must not speak as the tenant.
    pub of: String,
    /// Who made it.
    pub made_by: PrincipalId,
    /// When.
    pub made_at: Timestamp,
}

/// How far a destination has come; written after every batch that arrived.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The next entry to carry.
    pub next_seq: u64,
    /// Entries or findings that arrived.
    pub delivered_count: u64,
    /// Entries that the receiver took and then said it does not keep.
    pub rejected_count: u64,
    /// When something arrived last.
    pub delivered_at: Option<Timestamp>,
    /// Failures in a row.
    pub failures: u32,
    /// What the last of them was.
    pub last_error: Option<String>,
    /// When it is tried again.
    pub next_try_at: Option<Timestamp>,
}

/// A destination as its owner sees it.
#[derive(Debug, Clone)]
pub struct View {
    /// It.
    pub destination: Destination,
    /// How far it has come.
    pub progress: Progress,
    /// Entries of the log that are not carried yet; none when the log cannot be asked.
    pub behind_count: Option<u64>,
}

/// What is asked for when one is made.
#[derive(Default)]
pub struct Wanted {
    /// `webhook`, `otlp`, `syslog` or `email`.
    pub kind: String,
    /// For the first two.
    pub url: Option<String>,
    /// For syslog.
    pub host: Option<String>,
    /// For syslog; 6514 when absent.
    pub port: Option<u16>,
    /// For syslog, PEM.
    pub roots: Option<String>,
    /// For email.
    pub recipients: Vec<String>,
    /// An `Authorization` header, for the first two.
    pub authorization: Option<Secret<String>>,
    /// `auditor` or, for all, `tenant-admin` (of the host's log `operator`); auditor when absent.
    pub sees: Option<String>,
    /// The first entry to carry; the one that comes next when absent.
    pub from_seq: Option<u64>,
}

/// What is asked for when one is changed.
#[derive(Default)]
pub struct WantedChange {
    /// Another place, of the same kind.
    pub to: Option<Wanted>,
    /// Whether it is carried.
    pub switch: Option<Switch>,
}

/// What a destination proves itself with. In a type of its own, without a way out.
#[derive(Debug, Clone, Default)]
pub(crate) struct Secrets {
    pub signing: Option<SecretBytes>,
    pub authorization: Option<Secret<String>>,
}

impl Destination {
    /// Whether anything is carried.
    pub(crate) fn is_carried(&self) -> bool {
        self.switch == Switch::On && self.paused.is_none()
    }
}

impl Wanted {
    /// Where to, if it can be gone to from here.
    pub(crate) fn to(&self, carries: Carries, reach: &Reach, mailer: Option<&Mailer>) -> Result<To, OutwardError> {
        let bad = |what: String| OutwardError::BadDestination { what };
        let url = || {
            let url = self.url.as_deref().ok_or_else(|| bad("it needs a `url`".to_owned()))?;
            reach.check(url).map_err(|error| bad(error.to_string()))?;
            Ok::<_, OutwardError>(url.to_owned())
        };
        match (self.kind.as_str(), carries) {
            ("webhook", _) => Ok(To::Webhook { url: url()? }),
            ("otlp", Carries::Audit) => Ok(To::Otlp { url: url()? }),
            ("syslog", Carries::Audit) => {
                let host = self.host.clone().ok_or_else(|| bad("it needs a `host`".to_owned()))?;
                let port = self.port.unwrap_or(SYSLOG_PORT);
                reach.check_host(&host, port).map_err(|error| bad(host_error(&error)))?;
                if let Some(pem) = &self.roots {
                    roots_of(pem)?;
                }
                Ok(To::Syslog { host, port, roots: self.roots.clone() })
            }
            ("email", Carries::Alerts) => {
                let mailer = mailer.ok_or_else(|| {
                    bad("this host sends no mail; its operator names a server under `[mail]`".to_owned())
                })?;
                Ok(To::Email { recipients: self.recipients(mailer)? })
            }
            (other, Carries::Audit) => Err(bad(format!("`{}` is none of webhook, syslog, otlp", short(other)))),
            (other, Carries::Alerts) => Err(bad(format!("`{}` is none of webhook, email", short(other)))),
        }
    }

    /// With whose eyes; never with more than the owner's own.
    pub(crate) fn sees(&self, most: Role) -> Result<Role, OutwardError> {
        match self.sees.as_deref() {
            None | Some("auditor") => Ok(Role::Auditor),
            Some(word) if word == most.as_str() => Ok(most),
            Some(other) => Err(OutwardError::BadDestination {
                what: format!("`sees` is `auditor` or `{most}`, not `{}`", short(other)),
            }),
        }
    }

    /// The header, if it can be one and somebody gets it.
    pub(crate) fn authorization(&self, to: &To) -> Result<Option<Secret<String>>, OutwardError> {
        let Some(value) = &self.authorization else { return Ok(None) };
        let bad = |what: &str| Err(OutwardError::BadDestination { what: what.to_owned() });
        if !matches!(to, To::Webhook { .. } | To::Otlp { .. }) {
            return bad("`authorization` is for webhook and otlp");
        }
        let is_text = value.expose().bytes().all(|byte| (0x20..0x7f).contains(&byte));
        if value.expose().is_empty() || value.expose().len() > AUTHORIZATION_BYTES_MAX || !is_text {
            return bad("`authorization` is one line of printable ASCII, at most 4 KiB");
        }
        Ok(Some(value.clone()))
    }

    fn recipients(&self, mailer: &Mailer) -> Result<Vec<String>, OutwardError> {
        let bad = |what: String| OutwardError::BadDestination { what };
        if self.recipients.is_empty() || self.recipients.len() > RECIPIENTS_COUNT_MAX {
            return Err(bad(format!("`recipients` are 1 to {RECIPIENTS_COUNT_MAX}")));
        }
        let one = |text: &String| {
            let is_short = text.len() <= RECIPIENT_BYTES_MAX;
            let address = text.parse::<Address>().ok().filter(|_| is_short);
            let address = address.ok_or_else(|| bad(format!("`{}` is no mail address", short(text))))?;
            if !mailer.may(&address) {
                return Err(bad(format!("this host sends no mail to `{}`", short(address.domain()))));
            }
            Ok(address.to_string())
        };
        self.recipients.iter().map(one).collect()
    }
}

/// The roots in a PEM.
pub(crate) fn roots_of(pem: &str) -> Result<Vec<CertificateDer<'static>>, OutwardError> {
    let bad = || OutwardError::BadDestination {
        what: format!("`roots` are 1 to {ROOTS_COUNT_MAX} certificates in PEM, at most 32 KiB"),
    };
    if pem.len() > ROOTS_BYTES_MAX {
        return Err(bad());
    }
    let roots: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().map_err(|_| bad())?;
    // PEM says nothing of what is inside.
    let mut store = RootCertStore::empty();
    let is_each_one = roots.iter().all(|root: &CertificateDer<'static>| store.add(root.clone()).is_ok());
    if roots.is_empty() || roots.len() > ROOTS_COUNT_MAX || !is_each_one { Err(bad()) } else { Ok(roots) }
}

pub(crate) fn prefix(carries: Carries) -> Key {
    Key::new([AREA, carries.word()])
}

pub(crate) fn key(carries: Carries, name: &str) -> Key {
    prefix(carries).push(name)
}

pub(crate) fn progress_key(id: &str) -> Key {
    Key::new(["outward-progress", id])
}

pub(crate) fn signing_key(id: &str) -> Key {
    Key::new(["outward-signing", id])
}

pub(crate) fn authorization_key(id: &str) -> Key {
    Key::new(["outward-authorization", id])
}

fn host_error(error: &ReachError) -> String {
    match error {
        ReachError::BadAddress => "`host` is no name and no address".to_owned(),
        other => other.to_string(),
    }
}

/// LIMIT: an error must not carry a caller's megabyte back to him.
pub(crate) fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(80).collect()
}
