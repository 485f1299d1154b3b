//! Findings as mail, through the operator's server.
//!
//! Must never let a word of a tenant's rule or log into a header unfiltered, or anybody's name into the envelope but the
//! recipients that were checked. Composing is pure; `lettre` writes the message and speaks SMTP.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use lettre::message::Mailbox;
use lettre::message::header::ContentType;
use lettre::transport::smtp::authentication::Credentials;
use lettre::{Address, Message, SmtpTransport, Transport};
use ringfence_keys::Secret;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use crate::OutwardError;
use crate::batch::Batch;
use crate::decide::Failure;

/// LIMIT: one word of the server, and the connection before it.
const WAIT: Duration = Duration::from_secs(20);
/// LIMIT: mails under way at once, each on a thread: one that is sent cannot be called back.
const MAILS_COUNT_MAX: usize = 4;
/// LIMIT: one mail, its turn included; when the server is slower it may still take it, and gets it once more.
const MAIL_WAIT: Duration = Duration::from_secs(60);
/// LIMIT: findings listed in one mail; the rest is counted.
const LISTED_COUNT_MAX: usize = 50;
/// LIMIT: characters of a line that somebody else's words are in.
const WORDS_COUNT_MAX: usize = 160;

/// How the server is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MailSecurity {
    /// TLS from the first byte.
    Tls,
    /// TLS after a word in clear, without which nothing is sent.
    StartTls,
    /// None; for a server on this machine.
    Plain,
}

/// What the operator says of its server.
#[derive(Debug)]
pub struct MailConfig {
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// How it is spoken to.
    pub security: MailSecurity,
    /// Name and password; none for a server that takes mail of this host without.
    pub login: Option<(String, Secret<String>)>,
    /// Who writes.
    pub from: String,
    /// Domains that mail may go to; empty for all.
    pub domains: Vec<String>,
}

/// Sends mail. Cheap to clone.
#[derive(Clone)]
pub struct Mailer {
    transport: SmtpTransport,
    places: Arc<Semaphore>,
    from: Mailbox,
    domains: Vec<String>,
}

/// A mail that can be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Letter {
    pub subject: String,
    pub text: String,
}

impl Mailer {
    /// Does not connect yet.
    pub fn new(config: MailConfig) -> Result<Self, OutwardError> {
        let bad = |what: String| OutwardError::BadMail { what };
        let from: Address = config.from.parse().map_err(|_| bad("`from` is no mail address".to_owned()))?;
        let builder = match config.security {
            MailSecurity::Tls => SmtpTransport::relay(&config.host),
            MailSecurity::StartTls => SmtpTransport::starttls_relay(&config.host),
            MailSecurity::Plain => Ok(SmtpTransport::builder_dangerous(&config.host)),
        };
        let mut builder = builder.map_err(|error| bad(error.to_string()))?.port(config.port).timeout(Some(WAIT));
        if let Some((name, password)) = config.login {
            builder = builder.credentials(Credentials::new(name, password.expose().clone()));
        }
        let domains = config.domains.iter().map(|domain| domain.to_ascii_lowercase()).collect();
        let places = Arc::new(Semaphore::new(MAILS_COUNT_MAX));
        Ok(Self { transport: builder.build(), places, from: Mailbox::new(Some("Ringfence".to_owned()), from), domains })
    }

    /// Whether mail may go to this address.
    pub(crate) fn may(&self, address: &Address) -> bool {
        let domain = address.domain().to_ascii_lowercase();
        self.domains.is_empty() || self.domains.contains(&domain)
    }

    /// Sends a mail to all recipients at once. `id` is the same when it is sent again.
    pub(crate) async fn send(
        &self,
        recipients: &[String],
        letter: Letter,
        id: &str,
        now: Timestamp,
    ) -> Result<(), Failure> {
        let message = self.message(recipients, letter, id, now).map_err(Failure::new)?;
        let (places, transport) = (Arc::clone(&self.places), self.transport.clone());
        let sending = async move {
            let place = places.acquire_owned().await.ok()?;
            let send = move || {
                let _place = place;
                transport.send(&message)
            };
            spawn_blocking(send).await.ok()
        };
        match tokio::time::timeout(MAIL_WAIT, sending).await {
            Err(_) => Err(Failure::new("the mail server does not answer in time")),
            Ok(None) => Err(Failure::new("mail cannot be sent now")),
            Ok(Some(Ok(_))) => Ok(()),
            // What the server said is the operator's to read.
            Ok(Some(Err(error))) => {
                tracing::warn!(%error, "mail is not taken");
                let why = if error.is_permanent() { "refuses the mail" } else { "does not take the mail now" };
                Err(Failure::new(format!("the mail server {why}")))
            }
        }
    }

    fn message(&self, recipients: &[String], letter: Letter, id: &str, now: Timestamp) -> Result<Message, String> {
        let mut builder = Message::builder()
            .from(self.from.clone())
            .subject(letter.subject)
            .date(now.into())
            .message_id(Some(format!("<{id}@{}>", self.from.email.domain())))
            .header(ContentType::TEXT_PLAIN);
        for recipient in recipients {
            // The operator may have taken a domain away since this was asked for.
            let address: Address = recipient.parse().map_err(|_| "a recipient is no mail address".to_owned())?;
            if !self.may(&address) {
                return Err("this host sends no mail to a recipient's domain any more".to_owned());
            }
            builder = builder.to(Mailbox::new(None, address));
        }
        builder.body(letter.text).map_err(|_| "the mail cannot be written".to_owned())
    }
}

/// What is said of some findings. Drills say that they are, first of all.
pub(crate) fn compose(batch: &Batch) -> Letter {
    let is_drill = |event: &Value| event.get("drill").is_some_and(|drill| !drill.is_null());
    let drills = batch.items.iter().filter(|item| is_drill(&item.event)).count();
    let count = batch.items.len();
    let mark = match drills {
        0 => "",
        some if some == count => "[DRILL] ",
        _ => "[with drills] ",
    };
    let what = match batch.items.first() {
        Some(only) if count == 1 => title(&only.event),
        _ => format!("{count} findings"),
    };
    let mut text = format!("Log: {}\n\n", plain(&batch.log));
    for item in batch.items.iter().take(LISTED_COUNT_MAX) {
        let of = |name: &str| item.event.get(name).and_then(Value::as_str).map(plain).unwrap_or_default();
        let time = Timestamp::from_millisecond(item.time_ms).map(|at| at.to_string()).unwrap_or_default();
        let mark = if is_drill(&item.event) { "[DRILL] " } else { "" };
        text.push_str(&format!("{mark}{} ({})\n  {time}", title(&item.event), of("level")));
        for (word, name) in
            [("rule", "rule"), ("who", "actor"), ("on", "resource"), ("from", "source"), ("finding", "finding")]
        {
            if !of(name).is_empty() {
                text.push_str(&format!("\n  {word} {}", of(name)));
            }
        }
        text.push_str("\n\n");
    }
    if count > LISTED_COUNT_MAX {
        text.push_str(&format!("and {} more\n\n", count - LISTED_COUNT_MAX));
    }
    text.push_str("ringfence threat list\n");
    Letter { subject: format!("{mark}Ringfence: {what}"), text }
}

fn title(event: &Value) -> String {
    let title = event.get("title").or_else(|| event.get("rule")).and_then(Value::as_str).map(plain);
    title.filter(|title| !title.is_empty()).unwrap_or_else(|| "a finding".to_owned())
}

/// Somebody else's words on one line: no control characters, no marks that turn text around, so long at most.
fn plain(text: &str) -> String {
    let turns = |c: &char| matches!(*c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).filter(|c| !turns(c)).take(WORDS_COUNT_MAX).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::batch::Item;

    fn batch(events: Vec<Value>) -> Batch {
        let item = |(seq, event): (u64, Value)| Item {
            seq,
            time_ms: 1_790_000_000_000,
            code: "THR-001 threat-found".into(),
            severity: 4,
            event,
        };
        Batch { log: "h/audit/tenant/acme".into(), next: 9, items: (0..).zip(events).map(item).collect() }
    }

    fn mailer(domains: &[&str]) -> Mailer {
        Mailer::new(MailConfig {
            host: "127.0.0.1".into(),
            port: 25,
            security: MailSecurity::Plain,
            login: None,
            from: "ringfence@host.example".into(),
            domains: domains.iter().map(ToString::to_string).collect(),
        })
        .unwrap()
    }

    #[tokio::test]
    async fn no_word_of_a_rule_becomes_a_header() {
        let letter = compose(&batch(vec![
            json!({ "title": "Fire\r\nBcc: eve@evil.example\r\n\r\nHello", "finding": "f_a\nX: y", "level": "high" }),
        ]));
        assert!(!letter.subject.contains(['\r', '\n']), "{}", letter.subject);
        let message =
            mailer(&[]).message(&["ada@acme.example".into()], letter, "out_1", Timestamp::UNIX_EPOCH).unwrap();
        let raw = String::from_utf8(message.formatted()).unwrap();
        let (head, _) = raw.split_once("\r\n\r\n").unwrap();
        assert!(!head.lines().any(|line| line.starts_with("Bcc") || line.starts_with("X:")), "{head}");
        let to: Vec<String> = message.envelope().to().iter().map(ToString::to_string).collect();
        assert_eq!(to, ["ada@acme.example"]);
    }

    #[test]
    fn drills_say_so_and_many_findings_are_one_mail() {
        let drill = compose(&batch(vec![json!({ "title": "T", "drill": "dr_1" })]));
        assert_eq!(drill.subject, "[DRILL] Ringfence: T");
        let mixed =
            compose(&batch(vec![json!({ "title": "T", "drill": "dr_1" }), json!({ "title": "U", "drill": null })]));
        assert_eq!(mixed.subject, "[with drills] Ringfence: 2 findings");
        let many = compose(&batch((0..80).map(|n| json!({ "title": format!("T{n}") })).collect()));
        assert!(many.subject.contains("80 findings") && many.text.contains("and 30 more"));
        assert_eq!(compose(&batch(vec![json!({})])).subject, "Ringfence: a finding");
    }

    #[tokio::test]
    async fn mail_goes_to_the_operators_domains_only() {
        let mailer = mailer(&["Acme.Example"]);
        assert!(mailer.may(&"ada@ACME.example".parse().unwrap()));
        assert!(!mailer.may(&"ada@evil.example".parse().unwrap()));
        assert!(!mailer.may(&"ada@sub.acme.example".parse().unwrap()));
        let letter = Letter { subject: "s".into(), text: "t".into() };
        assert!(mailer.message(&["ada@evil.example".into()], letter, "i", Timestamp::UNIX_EPOCH).is_err());
    }
}
