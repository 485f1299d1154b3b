//! `[mail]` of the configuration: the server that mail to people goes through.
//!
//! Must never take the password from the configuration itself, nor speak plainly to a server on another machine.

use std::net::IpAddr;

use anyhow::{Context, Result, bail};
use ringfence_keys::Secret;
use ringfence_outward::{MailConfig, MailSecurity, Mailer};

use crate::config::{MailSection, MailSecurityWord};

/// The mailer as configured; none when no server is.
pub fn mailer(section: &MailSection) -> Result<Option<Mailer>> {
    if section.server.is_empty() {
        return Ok(None);
    }
    let (security, usual) = match section.security {
        MailSecurityWord::Tls => (MailSecurity::Tls, 465),
        MailSecurityWord::StartTls => (MailSecurity::StartTls, 587),
        MailSecurityWord::Plain => (MailSecurity::Plain, 25),
    };
    let is_here = section.server == "localhost" || section.server.parse().is_ok_and(|at: IpAddr| at.is_loopback());
    if security == MailSecurity::Plain && !is_here {
        bail!("`mail.security` = `plain` is for a server on this machine, not for `{}`", section.server);
    }
    let login = match section.login.is_empty() {
        true => None,
        false => {
            let path = &section.password_file;
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("`mail.password_file` = `{}` cannot be read", path.display()))?;
            Some((section.login.clone(), Secret::new(text.trim_end_matches(['\r', '\n']).to_owned())))
        }
    };
    let mailer = Mailer::new(MailConfig {
        host: section.server.clone(),
        port: if section.port == 0 { usual } else { section.port },
        security,
        login,
        from: section.from.clone(),
        domains: section.domains.clone(),
    });
    Ok(Some(mailer.context("`mail`")?))
}
