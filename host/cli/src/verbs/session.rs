//! `login`, `whoami`, `use`: who speaks, to which host, in which tenant.
//!
//! Must never take a key from the command line, print one, or keep an enrolment token.

use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;

use ringfence_control::wire::{Authenticate, CreatedToken, NewToken, PrincipalView, TenantView, TokenResponse};
use ringfence_core::TenantId;
use serde_json::json;

use crate::Format;
use crate::address::Address;
use crate::args::{LoginArgs, UseArgs};
use crate::client::{Api, Credential, Request, Signed};
use crate::context::Context;
use crate::environment::Secret;
use crate::error::{CliError, Exit};
use crate::profiles::{CachedToken, Current, Profile};
use crate::ui::read_capped;
use crate::verbs::sign_in;
use crate::verbs::tokens::scope_text;

/// What API keys start with; anything else is an enrolment token.
const KEY_PREFIX: &str = "rfk_";
/// What may be wrong with a key that is refused, and what mends it.
const KEY_HELP: &str = "the key is wrong, has expired or was revoked; an admin makes another:\n\
                        ringfence token create NAME --role ROLE";
/// The same of an enrolment token.
const TOKEN_HELP: &str = "an API key starts with `rfk_`; an enrolment token signs in the first operator, once";
/// LIMIT: longest key or enrolment token, in bytes.
const KEY_BYTES_MAX: usize = 1024;

/// `ringfence login`.
pub async fn login(cx: &mut Context<'_>, args: &LoginArgs) -> Result<Exit, CliError> {
    let host = cx.address(&cx.home()?.load()?)?;
    if let Some(way) = sign_in::way(args) {
        let help = sign_in::help(&way);
        let answer = sign_in::as_person(cx, host.clone(), args, way).await.map_err(|error| helped(error, help))?;
        let signed_in = &answer.0.principal.id;
        if let Some(named) = &args.person
            && signed_in != named
            && !signed_in.ends_with(&format!("/{named}"))
        {
            cx.ui.note(&format!("the invitation was for `{signed_in}`, not for `{named}`"));
        }
        return keep(cx, &host, None, answer);
    }
    let given = read_key(cx, args)?;
    let (key, signed) = if given.reveal().starts_with(KEY_PREFIX) {
        let api = cx.with_key(host.clone(), Credential::Key(given.clone()))?;
        let answer = api.sign_in().await.map_err(|error| helped(error, KEY_HELP))?;
        (given, answer)
    } else {
        enrol(cx, host.clone(), &given, args).await.map_err(|error| helped(error, TOKEN_HELP))?
    };
    keep(cx, &host, Some(key), signed)
}

/// Who is signing in is not helped by being told to sign in.
fn helped(error: CliError, help: &str) -> CliError {
    match error {
        CliError::Refused(mut refusal)
            if refusal.problem.code == "sign-in-refused"
                && refusal.problem.help.as_deref().is_none_or(|said| said == "ringfence login") =>
        {
            refusal.problem.help = Some(help.to_owned());
            CliError::Refused(refusal)
        }
        other => other,
    }
}

/// Keeps what a sign-in gave, under its host and tenant, and chooses both.
fn keep(
    cx: &mut Context<'_>,
    host: &Address,
    key: Option<Secret>,
    (answer, token): (TokenResponse, CachedToken),
) -> Result<Exit, CliError> {
    let home = cx.home()?;
    let tenant = tenant_of(&answer.principal)?;
    if let (Some(wanted), Some(tenant)) = (&cx.flags.tenant, &tenant)
        && wanted != tenant
    {
        return Err(CliError::Usage {
            code: "other-tenant",
            detail: format!("this sign-in belongs to tenant `{tenant}`, not to `{wanted}`"),
            help: Some(format!("ringfence login --host {host} --tenant {tenant}")),
        });
    }
    let there = home.load()?;
    let loses = there.find(&host.to_string(), tenant.as_ref()).filter(|old| key.is_none() && old.key.is_some());
    if let Some(old) = loses {
        // A key was shown once; a session lasts five minutes.
        let question = format!("This takes the place of the key kept for `{}`. Go on?", old.principal);
        cx.ui.confirm("login", &question)?;
    }
    let chosen = tenant.clone().or_else(|| cx.flags.tenant.clone());
    let profile =
        Profile { host: host.to_string(), tenant, principal: answer.principal.id.clone(), key, token: Some(token) };
    home.update(|profiles| {
        let same_host = profiles.current.as_ref().filter(|current| current.host == profile.host);
        let kept = same_host.and_then(|current| current.tenant.clone());
        profiles.current = Some(Current { host: profile.host.clone(), tenant: chosen.or(kept) });
        profiles.put(profile);
    })?;
    print_principal(cx, host, &answer.principal, "signed in")?;
    Ok(Exit::Ok)
}

/// `ringfence whoami`.
pub async fn whoami(cx: &mut Context<'_>) -> Result<Exit, CliError> {
    let api = cx.current()?;
    let answer = api.send::<PrincipalView>(&Request::get("/whoami")).await?;
    let host = api.host.to_string();
    cx.print(&answer, |principal| format!("{}\nat {host}", principal_words(principal)))?;
    Ok(Exit::Ok)
}

/// `ringfence use`.
pub async fn choose(cx: &mut Context<'_>, args: &UseArgs) -> Result<Exit, CliError> {
    let home = cx.home()?;
    let profiles = home.load()?;
    let host = cx.address(&profiles)?;
    let name = host.to_string();
    let profile = profiles.find(&name, Some(&args.name)).or_else(|| profiles.find(&name, None));
    let Some(profile) = profile else {
        return Err(CliError::NotSignedIn { host: name, tenant: Some(args.name.to_string()) });
    };
    let credential = Credential::of(profile, home.clone());
    let api = cx.with_key(host, credential)?;
    let tenant = api.send::<TenantView>(&Request::get(format!("/tenants/{}", args.name))).await?;
    home.update(|profiles| {
        profiles.current = Some(Current { host: name.clone(), tenant: Some(args.name.clone()) });
    })?;
    cx.print(&tenant, |tenant| format!("verbs now act in tenant {} ({})", tenant.name, tenant.state))?;
    Ok(Exit::Ok)
}

/// Trades the one-time enrolment token for an operator's key.
async fn enrol(
    cx: &Context<'_>,
    host: Address,
    token: &Secret,
    args: &LoginArgs,
) -> Result<(Secret, (TokenResponse, CachedToken)), CliError> {
    let anonymous = cx.anonymous(host.clone())?;
    let proof = Authenticate::Bootstrap { token: token.reveal().to_owned(), name: Some(args.name.to_string()) };
    let (_, first) = anonymous.authenticate(&proof).await?;
    let key = create_key(&anonymous, &first, args).await?;
    let api = cx.with_key(host, Credential::Key(key.clone()))?;
    let answer = api.sign_in().await?;
    Ok((key, answer))
}

async fn create_key(api: &Api, first: &Signed, args: &LoginArgs) -> Result<Secret, CliError> {
    let new = NewToken { name: args.name.to_string(), role: "operator".to_owned(), expires_in: None, scope: None };
    let body = serde_json::to_value(&new).unwrap_or_default();
    let request = Request::post("/tokens", body);
    let created = api.send_as::<CreatedToken>(&request, first).await?;
    Ok(Secret::new(created.value.key))
}

fn read_key(cx: &mut Context<'_>, args: &LoginArgs) -> Result<Secret, CliError> {
    let text = if let Some(path) = &args.token_file {
        let mut file = File::open(path).map_err(|error| unread(path, &error))?;
        String::from_utf8(read_capped(&mut file, KEY_BYTES_MAX, "the file of the key")?).ok()
    } else if args.token_stdin {
        String::from_utf8(cx.ui.read_input(KEY_BYTES_MAX)?).ok()
    } else {
        let secret = cx.ui.ask_secret("API key or enrolment token", "`--token-file FILE` or `--token-stdin`")?;
        Some(secret.reveal().to_owned())
    };
    let key = text.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
    key.map(Secret::new).ok_or_else(|| CliError::Usage {
        code: "bad-key",
        detail: "what was given is neither an API key nor an enrolment token".to_owned(),
        help: Some("the host writes the first one to  operator.token  in its data folder".to_owned()),
    })
}

/// A key's file that is not there was most often an enrolment token's, which goes once it was used.
fn unread(path: &Path, error: &std::io::Error) -> CliError {
    if error.kind() != ErrorKind::NotFound {
        return CliError::file("read", path, error);
    }
    CliError::Failed {
        code: "file",
        detail: format!("`{}` does not exist", path.display()),
        help: Some(
            "an enrolment token signs in once, and the host removes its file then: who signed in with it has a key, \
             and makes the others with  ringfence token create"
                .to_owned(),
        ),
    }
}

fn tenant_of(principal: &PrincipalView) -> Result<Option<TenantId>, CliError> {
    principal.tenant.as_deref().map(str::parse).transpose().map_err(|error| {
        CliError::failed("unexpected-answer", format!("the host named a tenant wrongly: {error}"), None)
    })
}

fn print_principal(cx: &mut Context<'_>, host: &Address, principal: &PrincipalView, act: &str) -> Result<(), CliError> {
    match cx.ui.format {
        Format::Json => cx.ui.json(&json!({ "host": host.to_string(), "principal": principal })),
        Format::Text => cx.ui.text(&format!("{act} at {host} as {}", principal_words(principal))),
    }
}

fn principal_words(principal: &PrincipalView) -> String {
    let role = principal.role.as_deref().unwrap_or(&principal.kind);
    let scope = principal.scope.as_ref().map(|scope| format!(", good for {}", scope_text(scope))).unwrap_or_default();
    let lent = principal.lent.as_ref().map(|lent| format!(", {} until {}", lent.role, lent.until)).unwrap_or_default();
    match &principal.tenant {
        Some(tenant) => format!("{} ({role} of tenant {tenant}){lent}{scope}", principal.id),
        None => format!("{} ({role}){scope}", principal.id),
    }
}
