//! `secret` and `config`: what a tenant hands to its plugins. Secrets go in and never come out.
//!
//! Must never take a secret from the command line, or print one.

use std::fs::File;

use reqwest::Method;
use ringfence_control::wire::{ConfigValue, ConfigView, SecretView};
use ringfence_core::limits::SECRET_BYTES_MAX;
use zeroize::Zeroizing;

use crate::args::{ConfigNameArgs, ConfigSetArgs, PluginArgs, SecretNameArgs, SecretSetArgs};
use crate::client::{Body, Request};
use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::table::table;
use crate::ui::read_capped;

/// `ringfence secret set`.
pub async fn secret_set(cx: &mut Context<'_>, args: &SecretSetArgs) -> Result<Exit, CliError> {
    let value = read_value(cx, args)?;
    if value.is_empty() {
        return Err(CliError::Usage {
            code: "empty-secret",
            detail: "the secret is empty".to_owned(),
            help: Some(format!("ringfence secret set {}", args.name)),
        });
    }
    let (api, tenant) = cx.tenant().await?;
    let request =
        Request::new(Method::PUT, format!("/tenants/{tenant}/secrets/{}", args.name)).body(Body::Bytes(&value));
    let answer = api.send::<SecretView>(&request).await?;
    cx.print(&answer, |secret| format!("set secret {} of tenant {tenant}", secret.name))?;
    Ok(Exit::Ok)
}

/// `ringfence secret list`.
pub async fn secret_list(cx: &mut Context<'_>) -> Result<Exit, CliError> {
    let (api, tenant) = cx.tenant().await?;
    let answer = api.list::<SecretView>(&Request::get(format!("/tenants/{tenant}/secrets")), "cursor").await?;
    let nothing = format!("tenant {tenant} has no secrets; set one with  ringfence secret set NAME");
    cx.print_list(&answer, &nothing, |secrets| {
        let rows: Vec<[String; 2]> = secrets.iter().map(|s| [s.name.clone(), s.set_at.clone()]).collect();
        table(["secret", "set"], &rows)
    })?;
    Ok(Exit::Ok)
}

/// `ringfence secret delete`.
pub async fn secret_delete(cx: &mut Context<'_>, args: &SecretNameArgs) -> Result<Exit, CliError> {
    let question = format!("Delete secret `{}`? Plugins that read it will fail.", args.name);
    cx.ui.confirm(&format!("secret delete {}", args.name), &question)?;
    let (api, tenant) = cx.tenant().await?;
    api.act(&Request::delete(format!("/tenants/{tenant}/secrets/{}", args.name))).await?;
    cx.done(&format!("deleted secret {} of tenant {tenant}", args.name))?;
    Ok(Exit::Ok)
}

/// `ringfence config set`.
pub async fn config_set(cx: &mut Context<'_>, args: &ConfigSetArgs) -> Result<Exit, CliError> {
    let (api, tenant) = cx.tenant().await?;
    let body = serde_json::to_value(ConfigValue { value: args.value.clone() }).unwrap_or_default();
    let path = format!("/tenants/{tenant}/plugins/{}/config/{}", args.plugin, args.name);
    let answer = api.send::<ConfigView>(&Request::put(path, body)).await?;
    cx.print(&answer, |config| format!("set {} of {} to {}", config.name, args.plugin, config.value))?;
    Ok(Exit::Ok)
}

/// `ringfence config list`.
pub async fn config_list(cx: &mut Context<'_>, args: &PluginArgs) -> Result<Exit, CliError> {
    let (api, tenant) = cx.tenant().await?;
    let request = Request::get(format!("/tenants/{tenant}/plugins/{}/config", args.plugin));
    let answer = api.list::<ConfigView>(&request, "cursor").await?;
    let nothing = format!("{0} has no configuration; set some with  ringfence config set {0} NAME VALUE", args.plugin);
    cx.print_list(&answer, &nothing, |values| {
        let rows: Vec<[String; 2]> = values.iter().map(|c| [c.name.clone(), c.value.clone()]).collect();
        table(["name", "value"], &rows)
    })?;
    Ok(Exit::Ok)
}

/// `ringfence config delete`.
pub async fn config_delete(cx: &mut Context<'_>, args: &ConfigNameArgs) -> Result<Exit, CliError> {
    let question = format!("Delete `{}` from the configuration of `{}`?", args.name, args.plugin);
    cx.ui.confirm(&format!("config delete {} {}", args.plugin, args.name), &question)?;
    let (api, tenant) = cx.tenant().await?;
    api.act(&Request::delete(format!("/tenants/{tenant}/plugins/{}/config/{}", args.plugin, args.name))).await?;
    cx.done(&format!("deleted {} of {}", args.name, args.plugin))?;
    Ok(Exit::Ok)
}

fn read_value(cx: &mut Context<'_>, args: &SecretSetArgs) -> Result<Zeroizing<Vec<u8>>, CliError> {
    if let Some(path) = &args.file {
        let mut file = File::open(path).map_err(|error| CliError::file("read", path, &error))?;
        return read_capped(&mut file, SECRET_BYTES_MAX, "the secret").map(Zeroizing::new);
    }
    if args.stdin {
        let mut bytes = cx.ui.read_input(SECRET_BYTES_MAX)?;
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
        }
        return Ok(Zeroizing::new(bytes));
    }
    let secret = cx.ui.ask_secret(&format!("value of secret {}", args.name), "`--stdin` or `--file FILE`")?;
    Ok(Zeroizing::new(secret.reveal().as_bytes().to_vec()))
}
