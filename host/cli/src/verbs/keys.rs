//! `key`: what keys there are, rotating them, taking them out of use, destroying them, and the receipts of that.
//!
//! Must never ask for the destruction of keys without the tenant's name typed out, nor ask a host whether a receipt is right:
//! what verifies it is the key alone.

use std::cmp::Ordering;

use data_encoding::HEXLOWER;
use reqwest::Method;
use ringfence_audit::destruction::{
    DESTRUCTION_BYTES_MAX, DestructionFault, VerifiedDestruction, verify as verify_note,
};
use ringfence_control::wire::{DestructionView, ResealView, RootKeyView, RootRotated, RotateKey, TenantKeyView};
use serde_json::json;

use super::audit::{key_text as vkey_text, read_text};
use crate::Format;
use crate::args::{KeyCommand, KeyReceiptArgs, KeyRotateArgs, KeyVerifyArgs, TenantNameArgs};
use crate::client::{Request, read_body};
use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::table::table;

/// `ringfence key ...`.
pub async fn run(cx: &mut Context<'_>, command: &KeyCommand) -> Result<Exit, CliError> {
    match command {
        KeyCommand::List => list(cx).await,
        KeyCommand::Status(args) => status(cx, args).await,
        KeyCommand::Rotate(args) => rotate(cx, args).await,
        KeyCommand::Disable(args) => disable(cx, args).await,
        KeyCommand::Enable(args) => act(cx, args, "enable", "enabled the keys of").await,
        KeyCommand::Own(args) => own(cx, args, Method::PUT, "put its own key around the key of").await,
        KeyCommand::Disown(args) => own(cx, args, Method::DELETE, "took its own key away from the key of").await,
        KeyCommand::Destroy(args) => destroy(cx, args).await,
        KeyCommand::Approve(args) => approve(cx, args).await,
        KeyCommand::Receipts => receipts(cx).await,
        KeyCommand::Receipt(args) => receipt(cx, args).await,
        KeyCommand::Verify(args) => verify(cx, args),
    }
}

async fn list(cx: &mut Context<'_>) -> Result<Exit, CliError> {
    let api = cx.operator()?;
    let answer = api.send::<RootKeyView>(&Request::get("/keys")).await?;
    cx.print(&answer, |root| {
        let rows: Vec<[String; 4]> = root.tenants.iter().map(row).collect();
        let rotating = if root.rotating { "a rotation is not over: the older root key is still needed\n" } else { "" };
        let head = format!("root key  {}:{}  ({})\n{rotating}", root.provider, root.id, root.assurance);
        format!("{head}{}", table(["tenant", "state", "versions", "deleting reaches"], &rows))
    })?;
    Ok(Exit::Ok)
}

async fn status(cx: &mut Context<'_>, args: &TenantNameArgs) -> Result<Exit, CliError> {
    let api = cx.of_tenant(&args.name)?;
    let answer = api.send::<TenantKeyView>(&Request::get(format!("/tenants/{}/keys", args.name))).await?;
    cx.print(&answer, key_text)?;
    Ok(Exit::Ok)
}

async fn rotate(cx: &mut Context<'_>, args: &KeyRotateArgs) -> Result<Exit, CliError> {
    let Some(name) = &args.name else {
        let api = cx.operator()?;
        let answer = api.send::<RootRotated>(&Request::new(Method::POST, "/keys/rotate")).await?;
        cx.print(&answer, root_rotated_text)?;
        return Ok(Exit::Ok);
    };
    let api = cx.of_tenant(name)?;
    let body = serde_json::to_value(RotateKey { purpose: args.purpose.clone() }).unwrap_or_default();
    let answer = api.send::<TenantKeyView>(&Request::post(format!("/tenants/{name}/keys/rotate"), body)).await?;
    cx.print(&answer, |key| format!("rotated the key of {}\n{}", key.tenant, key_text(key)))?;
    Ok(Exit::Ok)
}

fn root_rotated_text(done: &RootRotated) -> String {
    let head = format!("root key is now {}; {} keys wrapped anew", done.id, done.rewrapped_count);
    match (done.over, done.failed.as_slice()) {
        (true, _) => head,
        (false, []) => {
            format!("{head}\nthe older one is kept while a tenant is being restored, and goes within the hour after")
        }
        (false, failed) => format!(
            "{head}\nthe older one is kept, because these keys are damaged or missing: {}\n\
             bring them back from a backup or delete these tenants: it goes within the hour after",
            failed.join(", ")
        ),
    }
}

async fn disable(cx: &mut Context<'_>, args: &TenantNameArgs) -> Result<Exit, CliError> {
    let question = format!("Disable the keys of tenant `{}`? Nothing of it can be read or run until then.", args.name);
    cx.ui.confirm(&format!("key disable {}", args.name), &question)?;
    act(cx, args, "disable", "disabled the keys of").await
}

async fn destroy(cx: &mut Context<'_>, args: &TenantNameArgs) -> Result<Exit, CliError> {
    let warning = format!(
        "This asks for the keys of tenant `{}` to be destroyed, and with them everything it stored.\n\
         Once another operator agrees and the delay is over, nobody can bring it back.",
        args.name
    );
    cx.ui.confirm_typed(&format!("key destroy {}", args.name), &warning, args.name.as_str())?;
    act(cx, args, "destroy", "asked for the destruction of the keys of").await
}

async fn approve(cx: &mut Context<'_>, args: &TenantNameArgs) -> Result<Exit, CliError> {
    let warning = format!("This agrees to the destruction of everything that tenant `{}` stored.", args.name);
    cx.ui.confirm_typed(&format!("key approve {}", args.name), &warning, args.name.as_str())?;
    act(cx, args, "destroy/approve", "agreed to the destruction of the keys of").await
}

async fn own(cx: &mut Context<'_>, args: &TenantNameArgs, method: Method, done: &str) -> Result<Exit, CliError> {
    let api = cx.of_tenant(&args.name)?;
    let request = Request::new(method, format!("/tenants/{}/keys/own", args.name));
    let answer = api.send::<TenantKeyView>(&request).await?;
    cx.print(&answer, |key| format!("{done} {}\n{}", key.tenant, key_text(key)))?;
    Ok(Exit::Ok)
}

async fn act(cx: &mut Context<'_>, args: &TenantNameArgs, act: &str, done: &str) -> Result<Exit, CliError> {
    let api = cx.of_tenant(&args.name)?;
    let request = Request::new(Method::POST, format!("/tenants/{}/keys/{act}", args.name));
    let answer = api.send::<TenantKeyView>(&request).await?;
    cx.print(&answer, |key| format!("{done} {}\n{}", key.tenant, key_text(key)))?;
    Ok(Exit::Ok)
}

fn row(key: &TenantKeyView) -> [String; 4] {
    [key.tenant.clone(), state_words(key), key.versions.len().to_string(), key.shredding.clone()]
}

fn state_words(key: &TenantKeyView) -> String {
    match &key.destroy {
        Some(request) => match &request.due_at {
            Some(at) => format!("{}, destroyed at {at}", key.state),
            None => format!("{}, destruction asked for", key.state),
        },
        None => key.state.clone(),
    }
}

async fn receipts(cx: &mut Context<'_>) -> Result<Exit, CliError> {
    let api = cx.operator()?;
    let answer = api.list::<DestructionView>(&Request::get("/keys/receipts"), "cursor").await?;
    cx.print_list(&answer, "no keys of a tenant were destroyed yet", |receipts| {
        let row = |one: &DestructionView| {
            [one.seq.to_string(), one.tenant.clone(), one.tenant_uid.clone(), one.destroyed_at.clone()]
        };
        table(["entry", "tenant", "unique id", "destroyed"], &receipts.iter().map(row).collect::<Vec<_>>())
    })?;
    Ok(Exit::Ok)
}

/// The note, byte for byte, in either format.
async fn receipt(cx: &mut Context<'_>, args: &KeyReceiptArgs) -> Result<Exit, CliError> {
    let api = cx.operator()?;
    let response = api.open(&Request::get(format!("/keys/receipts/{}", args.entry))).await?;
    let broken = || CliError::failed("unexpected-answer", "the receipt broke off or is too long".to_owned(), None);
    let note = read_body(response, DESTRUCTION_BYTES_MAX).await.ok_or_else(broken)?;
    cx.ui.raw(&note)?;
    Ok(Exit::Ok)
}

fn verify(cx: &mut Context<'_>, args: &KeyVerifyArgs) -> Result<Exit, CliError> {
    let vkey = vkey_text(&args.vkey)?;
    let note = read_text(&args.file, DESTRUCTION_BYTES_MAX)?;
    let verified = verify_note(&note, &vkey).map_err(fault_error)?;
    match cx.ui.format {
        Format::Json => {
            let (size, root) = (verified.head.size, HEXLOWER.encode(&verified.head.root));
            cx.ui.json(&json!({
                "verified": true, "seq": verified.seq, "size": size, "root": root, "receipt": verified.receipt,
            }))?;
        }
        Format::Text => cx.ui.text(&verified_text(&verified))?,
    }
    Ok(Exit::Ok)
}

fn verified_text(verified: &VerifiedDestruction) -> String {
    let said = &verified.receipt.destroyed;
    let wanted = match &said.approved_by {
        Some(other) => format!("{} and {other}", said.asked_by),
        None => said.asked_by.clone(),
    };
    let root = HEXLOWER.encode(&verified.head.root);
    let head = format!(
        "verified: the keys of tenant {} ({}) on {} are destroyed\n  at {}, wanted by {wanted} since {}\n",
        said.tenant, said.tenant_uid, verified.receipt.host, said.destroyed_at, said.asked_at
    );
    let wrapping = said.wrapping_key.as_ref().map_or_else(
        || format!("  {} kept no wrapping key for it: older copies of the data still open\n", said.provider),
        |name| format!("  wrapping key {name} at {}\n", said.provider),
    );
    let row = |key: &ringfence_keys::KeyVersion| {
        let purpose = key.purpose.map_or_else(|| "all".to_owned(), |purpose| purpose.to_string());
        [key.version.to_string(), purpose, key.root.clone()]
    };
    let keys = table(["version", "purpose", "wrapped by"], &said.versions.iter().map(row).collect::<Vec<_>>());
    let (seq, size) = (verified.seq, verified.head.size);
    let says = match verified.receipt.opening {
        Some(_) => "  and the entry says the same\n",
        None => "  the receipt does not show what the entry says: it is about some destruction of keys\n",
    };
    format!("{head}{wrapping}  entry {seq} of the host's log, below its head of {size} entries {root}\n{says}{keys}")
}

fn fault_error(fault: DestructionFault) -> CliError {
    let code = match fault {
        DestructionFault::BadKey => "receipt-bad-key",
        DestructionFault::BadSignature => "receipt-bad-signature",
        DestructionFault::Malformed => "receipt-malformed",
        DestructionFault::AnotherHost => "receipt-another-host",
        DestructionFault::NotLogged => "receipt-not-logged",
    };
    let help = match fault {
        DestructionFault::BadKey => "the key is the first line of  ringfence audit keys --operator",
        _ => "keep this receipt, and ask the operator",
    };
    CliError::Failed { code, detail: fault.to_string(), help: Some(help.to_owned()) }
}

fn reseal_text(reseal: &ResealView) -> String {
    let progress = match (reseal.over, reseal.seen_count.cmp(&reseal.records_count)) {
        (true, _) => "over".to_owned(),
        (false, Ordering::Less) => format!("{} of {} records seen", reseal.seen_count, reseal.records_count),
        (false, _) => format!("{} records seen, contents follow", reseal.seen_count),
    };
    let damaged = match reseal.damaged_count {
        0 => String::new(),
        count => format!("damaged  {count} records or contents do not open, and stay under their version of the key\n"),
    };
    format!("sealing anew  {progress}\n{damaged}")
}

fn key_text(key: &TenantKeyView) -> String {
    let rows: Vec<[String; 3]> =
        key.versions.iter().map(|v| [v.version.to_string(), v.purpose.clone(), v.root.clone()]).collect();
    let reseal = key.reseal.as_ref().map_or_else(String::new, reseal_text);
    let own = key.own.as_ref().map_or_else(String::new, |own| {
        format!("own key  {} ({})\n", own.id, if own.opens { "opens" } else { "refused: the tenant is locked" })
    });
    let by = key.disabled.as_ref().map_or_else(String::new, |disabled| format!("disabled by  {}\n", disabled.by));
    let head = format!("tenant  {}\nstate   {}\ndeleting reaches  {}\n", key.tenant, state_words(key), key.shredding);
    format!("{head}{by}{own}{reseal}{}", table(["version", "purpose", "wrapped by"], &rows))
}
