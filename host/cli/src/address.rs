//! Addresses of hosts as people type them, made into one form; and the rule that keys travel in clear on this machine only.
//!
//! Pure.

use std::fmt;
use std::net::IpAddr;

use reqwest::Url;

use crate::error::CliError;

/// Where a host listens unless it is told otherwise.
pub const DEFAULT_HOST: &str = "http://127.0.0.1:7000";

/// A control plane's or data plane's address: scheme, host and port, nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address(Url);

/// Whether plain HTTP may leave this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlainHttp {
    /// To loopback addresses.
    Loopback,
    /// To any address: the user said `--plain-http`.
    Anywhere,
}

impl Address {
    /// Parses `127.0.0.1:7000`, `http://host:7000` or `http://host:7000/`.
    pub fn parse(text: &str, plain: PlainHttp) -> Result<Self, CliError> {
        let wrong = |why: &str| CliError::Usage {
            code: "bad-host",
            detail: format!("`{}` is not a host's address: {why}", text.chars().take(120).collect::<String>()),
            help: Some(format!("write it like  --host {DEFAULT_HOST}")),
        };
        let full = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let url = Url::parse(&full).map_err(|_| wrong("write `http://host:port`"))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
            return Err(wrong("write `https://host:port`"));
        }
        if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
            return Err(wrong("leave out everything after the port"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(wrong("leave out the user"));
        }
        // SECURITY: keys and tokens are in every request; in clear they stay on this machine unless the user insists.
        if url.scheme() == "http" && plain == PlainHttp::Loopback && !is_loopback(&url) {
            return Err(CliError::Usage {
                code: "plain-http",
                detail: format!("`{}` is not this machine, and plain HTTP would show your key on the way", root(&url)),
                help: Some(
                    "write `https://`, use a tunnel to a loopback address, or insist with  --plain-http".to_owned(),
                ),
            });
        }
        Ok(Self(url))
    }

    /// The address with a path and query of its own.
    pub fn with(&self, path_and_query: &str) -> String {
        format!("{}{path_and_query}", root(&self.0))
    }

    /// The data plane's address as the host tells it: an unspecified address means the control plane's machine.
    pub fn plugins(&self, told: &str, plain: PlainHttp) -> Result<Self, CliError> {
        let with_scheme = format!("{}://{told}", self.0.scheme());
        let mut address = Self::parse(&with_scheme, PlainHttp::Anywhere)?;
        if self.0.scheme() == "https" {
            // The certificate is for a name; the port is what the host tells, the name is the one that was typed.
            let _ = address.0.set_host(self.0.host_str());
        }
        if address.0.host_str().is_some_and(|host| matches!(host, "0.0.0.0" | "[::]")) {
            let _ = address.0.set_host(self.0.host_str());
        }
        Self::parse(&root(&address.0), plain)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&root(&self.0))
    }
}

fn root(url: &Url) -> String {
    url.as_str().trim_end_matches('/').to_owned()
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.ends_with(".localhost") || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loopback(text: &str) -> Result<String, String> {
        Address::parse(text, PlainHttp::Loopback).map(|a| a.to_string()).map_err(|e| e.code().to_owned())
    }

    #[test]
    fn an_address_has_one_form() {
        for text in ["127.0.0.1:7000", "http://127.0.0.1:7000", "http://127.0.0.1:7000/"] {
            assert_eq!(loopback(text).unwrap(), "http://127.0.0.1:7000", "{text}");
        }
        assert_eq!(loopback("[::1]:7000").unwrap(), "http://[::1]:7000");
    }

    #[test]
    fn keys_do_not_leave_the_machine_in_clear() {
        for text in
            ["http://10.0.0.1:7000", "http://example.com", "http://127.0.0.1.example.com:7000", "http://0.0.0.0:7000"]
        {
            assert_eq!(loopback(text).unwrap_err(), "plain-http", "{text}");
        }
        assert!(Address::parse("http://10.0.0.1:7000", PlainHttp::Anywhere).is_ok());
    }

    #[test]
    fn over_tls_keys_go_anywhere_and_the_data_plane_has_the_same_name() {
        assert_eq!(loopback("https://ringfence.example:7000").unwrap(), "https://ringfence.example:7000");
        let control = Address::parse("https://ringfence.example:7000", PlainHttp::Loopback).unwrap();
        let plugins = control.plugins("10.0.0.1:7001", PlainHttp::Loopback).unwrap();
        assert_eq!(plugins.to_string(), "https://ringfence.example:7001");
    }

    #[test]
    fn an_address_is_an_address_and_nothing_more() {
        for text in ["", "ftp://127.0.0.1", "http://a:b@127.0.0.1", "http://127.0.0.1/x", "http://127.0.0.1?x"] {
            assert_eq!(loopback(text).unwrap_err(), "bad-host", "{text}");
        }
    }

    #[test]
    fn an_unspecified_data_plane_is_on_the_same_machine() {
        let control = Address::parse("http://127.0.0.1:7000", PlainHttp::Loopback).unwrap();
        let plugins = control.plugins("0.0.0.0:7001", PlainHttp::Loopback).unwrap();
        assert_eq!(plugins.to_string(), "http://127.0.0.1:7001");
    }
}
