//! `session` and `factor`: open sessions, one's own or a place's, and what one proves oneself with.
//!
//! Must never take a password or a code from the command line, nor keep what is shown once.

use ringfence_control::wire::{CodesOfferView, FactorsView, RecoveryCodes, SessionView};
use serde_json::json;

use crate::args::{
    FactorCommand, FactorConfirmArgs, FactorPasswordArgs, SessionCommand, SessionEndArgs, SessionPlaceArgs,
};
use crate::client::{Api, Request, segment};
use crate::context::Context;
use crate::environment::Secret;
use crate::error::{CliError, Exit};
use crate::table::table;

/// LIMIT: longest password or code that is read, in bytes.
const SECRET_BYTES_MAX: usize = 4_096;

/// `ringfence session ...`.
pub async fn session(cx: &mut Context<'_>, command: &SessionCommand) -> Result<Exit, CliError> {
    match command {
        SessionCommand::List(args) => list(cx, args).await,
        SessionCommand::End(args) => end(cx, args).await,
    }
}

/// `ringfence factor ...`.
pub async fn factor(cx: &mut Context<'_>, command: &FactorCommand) -> Result<Exit, CliError> {
    match command {
        FactorCommand::Show => show(cx).await,
        FactorCommand::Codes => codes(cx).await,
        FactorCommand::Confirm(args) => confirm(cx, args).await,
        FactorCommand::RemoveCodes => remove_codes(cx).await,
        FactorCommand::Password(args) => password(cx, args).await,
    }
}

async fn place(cx: &Context<'_>, args: &SessionPlaceArgs) -> Result<(Api, String), CliError> {
    if args.own {
        return Ok((cx.current()?, "/zero-trust/sessions".to_owned()));
    }
    if args.operator {
        return Ok((cx.operator()?, "/sessions".to_owned()));
    }
    let (api, tenant) = cx.tenant().await?;
    Ok((api, format!("/tenants/{tenant}/sessions")))
}

async fn list(cx: &mut Context<'_>, args: &SessionPlaceArgs) -> Result<Exit, CliError> {
    let (api, path) = place(cx, args).await?;
    let answer = api.list::<SessionView>(&Request::get(path), "cursor").await?;
    cx.print_list(&answer, "no open sessions", |sessions| {
        let row = |one: &SessionView| {
            let from = one.source.clone().unwrap_or_else(|| "-".to_owned());
            let current = if one.current { "this session" } else { "" };
            let (opened, until) = (one.opened_at.clone(), one.expires_at.clone());
            [one.id.clone(), one.principal.clone(), one.method.clone(), from, opened, until, current.to_owned()]
        };
        table(["id", "whose", "by", "from", "opened", "until", ""], &sessions.iter().map(row).collect::<Vec<_>>())
    })?;
    Ok(Exit::Ok)
}

async fn end(cx: &mut Context<'_>, args: &SessionEndArgs) -> Result<Exit, CliError> {
    let id = segment(&args.id)?;
    let (api, path) = place(cx, &args.place).await?;
    api.act(&Request::delete(format!("{path}/{id}"))).await?;
    cx.done(&format!("ended {id}"))?;
    Ok(Exit::Ok)
}

async fn show(cx: &mut Context<'_>) -> Result<Exit, CliError> {
    let answer = cx.current()?.send::<FactorsView>(&Request::get("/zero-trust/factors")).await?;
    cx.print(&answer, |factors| {
        let since = |at: &Option<String>| at.as_ref().map_or_else(|| "none".to_owned(), |at| format!("since {at}"));
        let left = factors.recovery_codes_count;
        let mut text = format!("password        {}\n", since(&factors.password_since));
        text.push_str(&format!("one-time codes  {}\n", since(&factors.codes_since)));
        text.push_str(&format!("recovery codes  {left} left\n"));
        for one in &factors.passkeys {
            text.push_str(&format!("passkey         {}, since {}\n", one.name, one.added_at));
        }
        text
    })?;
    Ok(Exit::Ok)
}

async fn codes(cx: &mut Context<'_>) -> Result<Exit, CliError> {
    let api = cx.current()?;
    let answer = api.send::<CodesOfferView>(&Request::post("/zero-trust/factors/codes", json!({}))).await?;
    cx.print(&answer, |offer| format!("key  {}\nuri  {}\n", offer.secret, offer.uri))?;
    cx.ui.note("give it to an app that makes codes, then:  ringfence factor confirm");
    Ok(Exit::Ok)
}

async fn confirm(cx: &mut Context<'_>, args: &FactorConfirmArgs) -> Result<Exit, CliError> {
    let code = if args.code_stdin {
        let [code] = read_lines(cx)?;
        code
    } else {
        cx.ui.ask_secret("one-time code", "`--code-stdin`")?
    };
    let body = json!({ "code": code.reveal().trim() });
    let request = Request::post("/zero-trust/factors/codes/confirm", body);
    let answer = cx.current()?.send::<RecoveryCodes>(&request).await?;
    cx.print(&answer, |all| all.recovery_codes.join("\n"))?;
    cx.ui.note("each is good once in the place of a one-time code; they cannot be shown again");
    Ok(Exit::Ok)
}

async fn remove_codes(cx: &mut Context<'_>) -> Result<Exit, CliError> {
    cx.ui.confirm("factor remove-codes", "Remove your one-time codes? A password alone signs you in then.")?;
    cx.current()?.act(&Request::delete("/zero-trust/factors/codes")).await?;
    cx.done("removed the one-time codes and the recovery codes")?;
    Ok(Exit::Ok)
}

async fn password(cx: &mut Context<'_>, args: &FactorPasswordArgs) -> Result<Exit, CliError> {
    let [old, new] = if args.password_stdin {
        read_lines(cx)?
    } else {
        let flag = "`--password-stdin`";
        let old = cx.ui.ask_secret("password of now (empty for none)", flag)?;
        let new = cx.ui.ask_secret("new password (12 characters or more)", flag)?;
        if cx.ui.ask_secret("the same again", flag)? != new {
            return Err(CliError::failed("bad-password", "the two passwords differ; nothing was sent", None));
        }
        [old, new]
    };
    let old = Some(old.reveal()).filter(|old| !old.is_empty());
    let request = Request::put("/zero-trust/factors/password", json!({ "old": old, "new": new.reveal() }));
    cx.current()?.act(&request).await?;
    cx.done("set the password; your other sessions have ended")?;
    Ok(Exit::Ok)
}

/// The first lines of standard input; empty ones where there are fewer.
fn read_lines<const N: usize>(cx: &mut Context<'_>) -> Result<[Secret; N], CliError> {
    let text = String::from_utf8(cx.ui.read_input(SECRET_BYTES_MAX)?)
        .map_err(|_| CliError::failed("input", "what was given is not text", None))?;
    let text = Secret::new(text);
    let mut lines = text.reveal().lines();
    Ok(std::array::from_fn(|_| Secret::new(lines.next().unwrap_or_default().to_owned())))
}
