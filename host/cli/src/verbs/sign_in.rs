//! `login` as a person: with a password and a one-time code, with an invitation, or at an identity provider by the browser.
//!
//! Must never take a password, a code or an invitation from the command line, show one, or keep one: what is kept is the
//! session, for as long as it lives.

use std::fs::File;
use std::time::Duration;

use reqwest::Url;
use ringfence_control::wire::{Authenticate, FederatedStartView, StartFederated, TokenResponse};
use ringfence_core::{ResourceName, TenantId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::address::Address;
use crate::args::LoginArgs;
use crate::client::Request;
use crate::context::Context;
use crate::environment::Secret;
use crate::error::CliError;
use crate::profiles::CachedToken;
use crate::ui::read_capped;

/// LIMIT: longest password, code or invitation that is read, in bytes.
const SECRET_BYTES_MAX: usize = 4_096;
/// LIMIT: how long the browser may take; the host forgets the sign-in then.
const BROWSER_MAX: Duration = Duration::from_secs(180);
/// LIMIT: how long one connection of the browser may take to say what it wants, and how much it may say.
const HEAD_MAX: Duration = Duration::from_secs(5);
const HEAD_BYTES_MAX: usize = 16 << 10;
const HEADERS_COUNT_MAX: usize = 100;
/// What this program listens at for the browser, on a port that is free (RFC 8252, section 7.3).
const BACK: &str = "/callback";

/// How a person signs in.
pub enum Way {
    /// With a password.
    Password(String),
    /// With an invitation, which sets one.
    Invitation,
    /// At the tenant's identity provider.
    Provider(ResourceName),
}

/// What the browser came back with.
#[derive(Debug, PartialEq, Eq)]
enum Came {
    /// For this sign-in.
    Back(Back),
    /// The provider refused, in its own word.
    Refused(String),
    /// With something else; it may still come.
    Elsewhere,
}

/// What a provider sent.
#[derive(Debug, PartialEq, Eq)]
struct Back {
    code: String,
    issuer: Option<String>,
}

/// How the flags say that a person signs in; none for a key.
pub fn way(args: &LoginArgs) -> Option<Way> {
    if args.invited || args.invitation_file.is_some() {
        return Some(Way::Invitation);
    }
    if let Some(who) = &args.person {
        return Some(Way::Password(who.clone()));
    }
    args.provider.clone().map(Way::Provider)
}

/// What may be wrong where the host refuses, which does not say what it was.
pub fn help(way: &Way) -> &'static str {
    match way {
        Way::Password(_) => {
            "check the name in full (`acme/ann`), the password and the one-time code; who lost one is invited anew:\n\
             ringfence person reset NAME"
        }
        Way::Invitation => {
            "an invitation is good once, and not for long; an admin makes another:\nringfence person reset NAME"
        }
        Way::Provider(_) => "an admin says who gets which role there:\nringfence provider list",
    }
}

/// Signs a person in.
pub async fn as_person(
    cx: &mut Context<'_>,
    host: Address,
    args: &LoginArgs,
    way: Way,
) -> Result<(TokenResponse, CachedToken), CliError> {
    let proof = match way {
        Way::Password(who) => password(cx, args, who)?,
        Way::Invitation => invitation(cx, args)?,
        Way::Provider(provider) => federated(cx, &host, args, &provider).await?,
    };
    let (answer, signed) = cx.anonymous(host)?.authenticate(&proof).await?;
    Ok((answer, signed.to_keep()))
}

fn password(cx: &mut Context<'_>, args: &LoginArgs, who: String) -> Result<Authenticate, CliError> {
    let principal = match (who.contains('/'), &cx.flags.tenant) {
        (true, _) => who,
        (false, Some(tenant)) => format!("{tenant}/{who}"),
        (false, None) => {
            return Err(CliError::Usage {
                code: "no-tenant",
                detail: format!("`{who}` is a name in a tenant, and no tenant is chosen"),
                help: Some(format!("write it in full, as in  --as acme/{who}  or  --as operator/{who}")),
            });
        }
    };
    let (password, code) = if args.password_stdin {
        let text = cx.ui.read_input(SECRET_BYTES_MAX)?;
        let text = Secret::new(String::from_utf8(text).map_err(|_| not_text())?);
        let mut lines = text.reveal().lines();
        (
            Secret::new(lines.next().unwrap_or_default().to_owned()),
            Secret::new(lines.next().unwrap_or_default().to_owned()),
        )
    } else {
        let password = cx.ui.ask_secret("password", "`--password-stdin`")?;
        // Asked whether or not there is one: the host does not say which of the two was wrong.
        (password, cx.ui.ask_secret("one-time or recovery code (empty for none)", "`--password-stdin`")?)
    };
    let code = Some(code.reveal().trim().to_owned()).filter(|code| !code.is_empty());
    Ok(Authenticate::Password { principal, password: password.reveal().to_owned(), code })
}

fn invitation(cx: &mut Context<'_>, args: &LoginArgs) -> Result<Authenticate, CliError> {
    let token = match &args.invitation_file {
        Some(path) => {
            let mut file = File::open(path).map_err(|error| CliError::file("read", path, &error))?;
            let text = read_capped(&mut file, SECRET_BYTES_MAX, "the file of the invitation")?;
            Secret::new(String::from_utf8(text).map_err(|_| not_text())?)
        }
        None => cx.ui.ask_secret("invitation", "`--invitation-file FILE`")?,
    };
    let password = if args.password_stdin {
        let text = cx.ui.read_input(SECRET_BYTES_MAX)?;
        let text = Secret::new(String::from_utf8(text).map_err(|_| not_text())?);
        Secret::new(text.reveal().lines().next().unwrap_or_default().to_owned())
    } else {
        let first = cx.ui.ask_secret("new password (12 characters or more)", "`--password-stdin`")?;
        if cx.ui.ask_secret("the same again", "`--password-stdin`")? != first {
            return Err(CliError::failed("bad-password", "the two passwords differ; nothing was sent", None));
        }
        first
    };
    let password = Some(password.reveal().to_owned()).filter(|password| !password.is_empty());
    Ok(Authenticate::Invitation { token: token.reveal().trim().to_owned(), password })
}

/// Authorization code flow by the person's browser: to a port of this machine, or with the address that he brings back.
async fn federated(
    cx: &mut Context<'_>,
    host: &Address,
    args: &LoginArgs,
    provider: &ResourceName,
) -> Result<Authenticate, CliError> {
    let Some(tenant) = cx.flags.tenant.clone() else {
        return Err(CliError::Usage {
            code: "no-tenant",
            detail: "an identity provider is a tenant's, and no tenant is named".to_owned(),
            help: Some(format!("ringfence login --tenant TENANT --provider {provider}")),
        });
    };
    if let Some(redirect) = &args.redirect {
        let begun = begin(cx, host, (&tenant, provider), redirect).await?;
        cx.ui.tell(&format!("open this in a browser:\n{}", begun.authorization_url));
        let asked = cx.ui.ask_secret("address that the browser ended at", "`--redirect` only with a terminal")?;
        let back = match came_back(asked.reveal().trim(), &begun.ceremony) {
            Came::Back(back) => back,
            Came::Refused(word) => return Err(refused(&word)),
            Came::Elsewhere => {
                return Err(CliError::failed("bad-redirect", "that address has no code for this sign-in", None));
            }
        };
        return Ok(proof(begun.ceremony, back));
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(|error| cannot_listen(&error))?;
    let address = listener.local_addr().map_err(|error| cannot_listen(&error))?;
    let begun = begin(cx, host, (&tenant, provider), &format!("http://{address}{BACK}")).await?;
    cx.ui.tell(&format!("open this in a browser:\n{}", begun.authorization_url));
    let waiting = tokio::time::timeout(BROWSER_MAX, wait_for_browser(&listener, &begun.ceremony));
    let came = waiting
        .await
        .map_err(|_| CliError::failed("browser-timeout", "the browser did not come back in three minutes", None))?;
    Ok(proof(begun.ceremony, came?))
}

async fn begin(
    cx: &Context<'_>,
    host: &Address,
    (tenant, provider): (&TenantId, &ResourceName),
    redirect_uri: &str,
) -> Result<FederatedStartView, CliError> {
    let asked = StartFederated {
        tenant: tenant.to_string(),
        provider: provider.to_string(),
        redirect_uri: redirect_uri.to_owned(),
    };
    let body = serde_json::to_value(asked).unwrap_or_default();
    let begun = cx.anonymous(host.clone())?.ask(&Request::post("/zero-trust/federation/sign-in", body)).await;
    match begun {
        Ok(begun) => Ok(begun.value),
        Err(CliError::Refused(mut refusal)) if refusal.problem.code == "sign-in-refused" => {
            // The host does not say which it was, or it would say who its tenants are.
            refusal.problem.help = Some(format!(
                "check tenant and provider; its admin names where browsers come back to:\n\
                 ringfence provider add {provider} ... --redirect http://127.0.0.1{BACK}"
            ));
            Err(CliError::Refused(refusal))
        }
        Err(other) => Err(other),
    }
}

/// Answers browsers until one comes back for this sign-in.
async fn wait_for_browser(listener: &TcpListener, ceremony: &str) -> Result<Back, CliError> {
    loop {
        let (mut stream, _) = listener.accept().await.map_err(|error| cannot_listen(&error))?;
        let asked = tokio::time::timeout(HEAD_MAX, target(&mut stream)).await.ok().flatten();
        let came = asked.map_or(Came::Elsewhere, |target| came_back(&format!("http://127.0.0.1{target}"), ceremony));
        let (status, words) = match &came {
            Came::Back(_) => ("200 OK", "You can close this window and go back to the terminal."),
            Came::Refused(_) => ("200 OK", "The identity provider refused. The terminal says more."),
            Came::Elsewhere => ("404 Not Found", "There is nothing here."),
        };
        let length = words.len();
        let answer = format!(
            "HTTP/1.1 {status}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {length}\r\n\
             cache-control: no-store\r\nreferrer-policy: no-referrer\r\nconnection: close\r\n\r\n{words}"
        );
        let _ = tokio::time::timeout(HEAD_MAX, stream.write_all(answer.as_bytes())).await;
        match came {
            Came::Back(back) => return Ok(back),
            Came::Refused(word) => return Err(refused(&word)),
            Came::Elsewhere => {}
        }
    }
}

/// What a request is for: the target of a GET.
async fn target(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_COUNT_MAX];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(&bytes) {
            Ok(httparse::Status::Complete(_)) => {
                return request.path.filter(|_| request.method == Some("GET")).map(str::to_owned);
            }
            Ok(httparse::Status::Partial) if bytes.len() < HEAD_BYTES_MAX => {}
            _ => return None,
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}

/// Reads the address that a browser came back to. SECURITY: one without the state of this sign-in is somebody else's.
fn came_back(address: &str, ceremony: &str) -> Came {
    let Ok(url) = Url::parse(address) else { return Came::Elsewhere };
    let value = |name: &str| {
        let mut all = url.query_pairs().filter(|(key, _)| key == name);
        // Twice could be read in two ways.
        all.next().filter(|_| all.next().is_none()).map(|(_, value)| value.into_owned())
    };
    if value("state").as_deref() != Some(ceremony) {
        return Came::Elsewhere;
    }
    match (value("code").filter(|code| !code.is_empty()), value("error")) {
        (Some(code), None) => Came::Back(Back { code, issuer: value("iss") }),
        (_, Some(word)) => Came::Refused(word),
        (None, None) => Came::Elsewhere,
    }
}

fn proof(ceremony: String, back: Back) -> Authenticate {
    Authenticate::Federated { ceremony, code: back.code, issuer: back.issuer }
}

fn refused(word: &str) -> CliError {
    let word: String = word.chars().take(80).collect();
    CliError::failed("provider-refused", format!("the identity provider refused: `{word}`"), None)
}

fn cannot_listen(error: &std::io::Error) -> CliError {
    let words = crate::error::io_words(error);
    CliError::failed(
        "listen",
        format!("cannot listen on this machine for the browser: {words}"),
        "add `--redirect URI`",
    )
}

fn not_text() -> CliError {
    CliError::failed("input", "what was given is not text", None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_address_of_this_sign_in_brings_a_code() {
        let back = |query: &str| came_back(&format!("http://127.0.0.1/callback?{query}"), "st");
        let code = Back { code: "c/1".to_owned(), issuer: Some("https://id.example".to_owned()) };
        assert_eq!(back("code=c%2F1&state=st&iss=https%3A%2F%2Fid.example"), Came::Back(code));
        assert_eq!(back("error=access_denied&state=st"), Came::Refused("access_denied".to_owned()));
        for other in ["", "code=c", "code=c&state=x", "code=c&state=st&state=x", "code=&state=st", "state=st"] {
            assert_eq!(back(other), Came::Elsewhere, "{other}");
        }
        assert_eq!(came_back("no address", "st"), Came::Elsewhere);
    }

    #[tokio::test]
    async fn a_browser_that_asks_for_something_else_first_does_not_end_the_wait() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let visit = async |head: &str| {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut said = String::new();
            stream.read_to_string(&mut said).await.unwrap();
            said
        };
        let browsing = async {
            assert!(visit("GET /favicon.ico HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 404"));
            assert!(visit("GET /callback?code=x&state=forged HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 404"));
            assert!(visit("POST /callback?code=x&state=st HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 404"));
            assert!(
                visit("GET /callback?code=x&state=st HTTP/1.1\r\nhost: h\r\n\r\n").await.starts_with("HTTP/1.1 200")
            );
        };
        let (back, ()) = tokio::join!(wait_for_browser(&listener, "st"), browsing);
        assert_eq!(back.unwrap(), Back { code: "x".to_owned(), issuer: None });
    }
}
