//! `device`: the devices that people of a tenant are on. Registering and verifying one is done on the device itself.
//!
//! Must never revoke a device without asking: that cannot be taken back.

use ringfence_control::wire::{DeviceView, TenantDeviceView};

use crate::Format;
use crate::args::{DeviceArgs, DeviceCommand};
use crate::client::{Request, segment};
use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::table::table;

/// `ringfence device ...`.
pub async fn run(cx: &mut Context<'_>, command: &DeviceCommand) -> Result<Exit, CliError> {
    match command {
        DeviceCommand::List(args) if args.own => own(cx).await,
        DeviceCommand::List(_) => list(cx).await,
        DeviceCommand::Show(args) => show(cx, args).await,
        DeviceCommand::Revoke(args) => revoke(cx, args).await,
    }
}

async fn own(cx: &mut Context<'_>) -> Result<Exit, CliError> {
    let (api, _) = cx.tenant().await?;
    let answer = api.list::<DeviceView>(&Request::get("/zero-trust/devices"), "cursor").await?;
    cx.print_list(&answer, "no devices", |devices| {
        let row = |one: &DeviceView| {
            let current = if one.current { "this session" } else { "" };
            let [name, state, by, until] = cells(one);
            [name, state, by, until, current.to_owned()]
        };
        table(["device", "state", "by", "until", ""], &devices.iter().map(row).collect::<Vec<_>>())
    })?;
    Ok(Exit::Ok)
}

async fn list(cx: &mut Context<'_>) -> Result<Exit, CliError> {
    let (api, tenant) = cx.tenant().await?;
    let request = Request::get(format!("/tenants/{tenant}/devices"));
    let answer = api.list::<TenantDeviceView>(&request, "cursor").await?;
    cx.print_list(&answer, "no devices", |devices| {
        let row = |one: &TenantDeviceView| {
            let [name, state, by, until] = cells(&one.device);
            [one.principal.clone(), name, state, by, until]
        };
        table(["whose", "device", "state", "by", "until"], &devices.iter().map(row).collect::<Vec<_>>())
    })?;
    Ok(Exit::Ok)
}

async fn show(cx: &mut Context<'_>, args: &DeviceArgs) -> Result<Exit, CliError> {
    let (api, tenant) = cx.tenant().await?;
    let whose = format!("{tenant}/{}", holder(&args.holder, tenant.as_str())?);
    let request = Request::get(format!("/tenants/{tenant}/devices"));
    let all = api.list::<TenantDeviceView>(&request, "cursor").await?.value;
    let found = all.into_iter().find(|one| one.principal == whose && one.device.name == args.device);
    let found = found.ok_or_else(|| CliError::NoSuch { what: format!("`{whose}` has no device `{}`", args.device) })?;
    match cx.ui.format {
        Format::Json => cx.ui.json(&found)?,
        Format::Text => cx.ui.text(&device_text(&found))?,
    }
    Ok(Exit::Ok)
}

async fn revoke(cx: &mut Context<'_>, args: &DeviceArgs) -> Result<Exit, CliError> {
    let (name, device) = (segment(named(&args.holder))?, segment(&args.device)?);
    let question = format!("Revoke device `{device}` of `{name}`? Nothing verifies it any more.");
    cx.ui.confirm(&format!("device revoke {name} {device}"), &question)?;
    let (api, tenant) = cx.tenant().await?;
    let holder = holder(&args.holder, tenant.as_str())?;
    api.act(&Request::delete(format!("/tenants/{tenant}/devices/{holder}/{device}"))).await?;
    cx.done(&format!("revoked {device} of {tenant}/{holder}"))?;
    Ok(Exit::Ok)
}

/// The name in `ann` and in `acme/ann`.
fn named(holder: &str) -> &str {
    holder.split_once('/').map_or(holder, |(_, name)| name)
}

/// Somebody's name in the tenant, given so or with the tenant's before it, as everywhere else.
fn holder<'a>(whose: &'a str, tenant: &str) -> Result<&'a str, CliError> {
    match whose.split_once('/') {
        Some((home, _)) if home != tenant => {
            Err(CliError::NoSuch { what: format!("`{whose}` is nobody of tenant `{tenant}`") })
        }
        _ => Ok(named(whose)),
    }
}

/// Its name, how it stands, by whose word, and until when.
fn cells(device: &DeviceView) -> [String; 4] {
    let found = device.found.as_ref();
    let state = match (&device.revoked_at, found) {
        (Some(_), _) => "revoked".to_owned(),
        (None, Some(found)) => found.verdict.clone(),
        (None, None) => "unknown".to_owned(),
    };
    let by = found.map_or_else(|| "-".to_owned(), |found| found.issuer.clone());
    let until = found.map_or_else(|| "-".to_owned(), |found| found.expires_at.clone());
    [device.name.clone(), state, by, until]
}

fn device_text(one: &TenantDeviceView) -> String {
    let device = &one.device;
    let [name, state, by, until] = cells(device);
    let mut text = format!("device      {name}\nwhose       {}\nstate       {state}\n", one.principal);
    text.push_str(&format!("registered  {}\n", device.registered_at));
    if let Some(at) = &device.revoked_at {
        text.push_str(&format!("revoked     {at}\n"));
    }
    if let Some(found) = &device.found {
        text.push_str(&format!("found       {} by {by}, until {until}\n", found.at));
        let key = if found.holds_key { "it holds a session's key" } else { "it was not shown to hold a session's key" };
        text.push_str(&format!("key         {key}\n"));
        for (claim, is_so) in &found.claims {
            text.push_str(&format!("claim       {claim}: {}\n", if *is_so { "yes" } else { "no" }));
        }
    }
    text
}
