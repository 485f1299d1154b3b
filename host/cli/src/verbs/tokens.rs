//! `token`: API keys of a tenant, or of the host's operators.
//!
//! Must never show a key twice: it is printed once or written to a file of its own.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use clap::ValueEnum;
use ringfence_control::wire::{CreatedToken, NewToken, TokenScope, TokenView};

use crate::Format;
use crate::args::{OperatorArgs, RoleArg, TokenCreateArgs, TokenRevokeArgs};
use crate::client::{Answer, Api, Request, segment};
use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::table::table;

/// `ringfence token create`.
pub async fn create(cx: &mut Context<'_>, args: &TokenCreateArgs) -> Result<Exit, CliError> {
    let (api, path) = place(cx, args.role == RoleArg::Operator).await?;
    if let Some(out) = args.key_file.as_deref().filter(|out| out.exists()) {
        return Err(CliError::failed("file", format!("`{}` exists already", out.display()), None));
    }
    let expires_in = args.expires.map(|lifetime| lifetime.0);
    let new = NewToken { name: args.name.to_string(), role: word(args.role), expires_in, scope: scope(args) };
    let request = Request::post(path, serde_json::to_value(&new).unwrap_or_default());
    let answer = api.send::<CreatedToken>(&request).await?;
    let written = args.key_file.as_deref().map(|out| write_key(out, &answer.value.key)).transpose();
    if let Err(error) = written {
        // The key exists and cannot be shown by the host again: better on the terminal than lost.
        print(cx, &answer, None)?;
        return Err(error);
    }
    print(cx, &answer, args.key_file.as_deref())?;
    Ok(Exit::Ok)
}

/// What the key is to be good for; none for whatever its role allows.
fn scope(args: &TokenCreateArgs) -> Option<TokenScope> {
    let classes = args.acts.iter().copied().map(word).collect::<Vec<_>>();
    let plugins = args.plugins.iter().map(ToString::to_string).collect::<Vec<_>>();
    let scope = TokenScope {
        classes: Some(classes).filter(|all| !all.is_empty()),
        plugins: Some(plugins).filter(|all| !all.is_empty()),
    };
    (scope.classes.is_some() || scope.plugins.is_some()).then_some(scope)
}

/// A choice as the API writes it.
fn word(choice: impl ValueEnum) -> String {
    choice.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// A scope in a few words.
pub(super) fn scope_text(scope: &TokenScope) -> String {
    let joined = |words: &Option<Vec<String>>| words.as_ref().map(|words| words.join(", "));
    match (joined(&scope.classes), joined(&scope.plugins)) {
        (Some(classes), Some(plugins)) => format!("{classes} on {plugins}"),
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => "all".to_owned(),
    }
}

/// `ringfence token list`.
pub async fn list(cx: &mut Context<'_>, args: &OperatorArgs) -> Result<Exit, CliError> {
    let (api, path) = place(cx, args.operator).await?;
    let answer = api.list::<TokenView>(&Request::get(path), "cursor").await?;
    cx.print_list(&answer, "no API keys", |tokens| {
        let rows: Vec<[String; 6]> = tokens
            .iter()
            .map(|t| {
                let expires = t.expires_at.clone().unwrap_or_else(|| "never".to_owned());
                let scope = t.scope.as_ref().map_or_else(|| "all".to_owned(), scope_text);
                [t.id.clone(), t.name.clone(), t.role.clone(), scope, t.created_at.clone(), expires]
            })
            .collect();
        table(["id", "name", "role", "scope", "created", "expires"], &rows)
    })?;
    Ok(Exit::Ok)
}

/// `ringfence token revoke`.
pub async fn revoke(cx: &mut Context<'_>, args: &TokenRevokeArgs) -> Result<Exit, CliError> {
    let id = segment(&args.id)?;
    cx.ui.confirm(&format!("token revoke {id}"), &format!("Revoke key `{id}`? Whoever uses it is cut off at once."))?;
    let (api, path) = place(cx, args.operator).await?;
    api.act(&Request::delete(format!("{path}/{id}"))).await?;
    cx.done(&format!("revoked {id}"))?;
    Ok(Exit::Ok)
}

async fn place(cx: &Context<'_>, operator: bool) -> Result<(Api, String), CliError> {
    if operator {
        return Ok((cx.operator()?, "/tokens".to_owned()));
    }
    let (api, tenant) = cx.tenant().await?;
    Ok((api, format!("/tenants/{tenant}/tokens")))
}

fn print(cx: &mut Context<'_>, answer: &Answer<CreatedToken>, out: Option<&Path>) -> Result<(), CliError> {
    let CreatedToken { token, key } = &answer.value;
    match (cx.ui.format, out) {
        (Format::Json, None) => cx.print(answer, |_| String::new()),
        (Format::Json, Some(_)) => cx.ui.json(token),
        (Format::Text, None) => {
            cx.ui.note(&format!("key {} for {} ({}); it cannot be shown again", token.id, token.principal, token.role));
            note_end(cx, token);
            cx.ui.text(key)
        }
        (Format::Text, Some(out)) => {
            note_end(cx, token);
            cx.ui.text(&format!("wrote key {} for {} ({}) to {}", token.id, token.principal, token.role, out.display()))
        }
    }
}

/// Says until when a key is good.
fn note_end(cx: &Context<'_>, token: &TokenView) {
    match &token.expires_at {
        Some(at) => cx.ui.note(&format!("it expires at {at}")),
        None => cx.ui.note("it does not expire: it is good until it is revoked; `--expires 30d` makes one that ends"),
    }
}

/// Writes something that is shown once into a new file of this account alone.
pub fn write_key(out: &Path, key: &str) -> Result<(), CliError> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(out)
        .and_then(|mut file| writeln!(file, "{key}").and_then(|()| file.sync_all()))
        .map_err(|error| CliError::file("write", out, &error))
}
