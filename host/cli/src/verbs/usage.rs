//! `usage`: what the tenant's plugins used, the signed receipts of days that are over, and their check without a host.
//!
//! Must never ask a host whether a receipt is right: what verifies it is the key alone.

use ringfence_audit::receipt::{RECEIPT_BYTES_MAX, ReceiptFault, VerifiedReceipt, verify_chain};
use ringfence_control::wire::{ReceiptView, UsageRow, UsageView};
use serde_json::json;

use super::audit::{key_text, read_text};
use crate::Format;
use crate::args::{UsageArgs, UsageReceiptArgs, UsageVerifyArgs};
use crate::client::{Request, read_body};
use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::table::{bytes_words, micros_words, table};

/// `ringfence usage`.
pub async fn usage(cx: &mut Context<'_>, args: &UsageArgs) -> Result<Exit, CliError> {
    let (api, tenant) = cx.tenant().await?;
    let request = Request::get(format!("/tenants/{tenant}/usage"))
        .query("from", args.from)
        .query("to", args.to)
        .query("by", args.by_day.then_some("day"));
    let answer = api.send::<UsageView>(&request).await?;
    cx.print(&answer, usage_text)?;
    Ok(Exit::Ok)
}

/// `ringfence usage receipts`.
pub async fn receipts(cx: &mut Context<'_>) -> Result<Exit, CliError> {
    let (api, tenant) = cx.tenant().await?;
    let answer = api.list::<ReceiptView>(&Request::get(format!("/tenants/{tenant}/receipts")), "cursor").await?;
    let nothing = format!("tenant {tenant} has no receipts yet; the first comes when a day with use is over");
    cx.print_list(&answer, &nothing, |receipts| {
        let rows: Vec<[String; 2]> = receipts.iter().map(|one| [one.day.clone(), one.hash.clone()]).collect();
        table(["day", "hash"], &rows)
    })?;
    Ok(Exit::Ok)
}

/// `ringfence usage receipt`: the note, byte for byte, in either format.
pub async fn receipt(cx: &mut Context<'_>, args: &UsageReceiptArgs) -> Result<Exit, CliError> {
    let (api, tenant) = cx.tenant().await?;
    let response = api.open(&Request::get(format!("/tenants/{tenant}/receipts/{}", args.day))).await?;
    let broken = || CliError::failed("unexpected-answer", "the receipt broke off or is too long".to_owned(), None);
    let note = read_body(response, RECEIPT_BYTES_MAX).await.ok_or_else(broken)?;
    cx.ui.raw(&note)?;
    Ok(Exit::Ok)
}

/// `ringfence usage verify`.
pub fn verify(cx: &mut Context<'_>, args: &UsageVerifyArgs) -> Result<Exit, CliError> {
    let vkey = key_text(&args.vkey)?;
    let notes: Vec<String> =
        args.file.iter().map(|file| read_text(file, RECEIPT_BYTES_MAX)).collect::<Result<_, _>>()?;
    let verified = verify_chain(notes.iter().map(String::as_str), &vkey).map_err(|fault| fault_error(&fault))?;
    match cx.ui.format {
        Format::Json => {
            cx.ui.json(&json!({ "verified": true, "receipts": verified.iter().map(view).collect::<Vec<_>>() }))?
        }
        Format::Text => {
            let rows: Vec<[String; 5]> = verified.iter().map(row).collect();
            cx.ui.text(&table(["day", "tenant", "calls", "cpu us", "hash"], &rows))?;
            cx.ui.note(&format!(
                "verified {} receipts, signed by the key and each following the one before",
                rows.len()
            ));
        }
    }
    Ok(Exit::Ok)
}

fn view(verified: &VerifiedReceipt) -> serde_json::Value {
    json!({ "hash": verified.hash, "receipt": verified.receipt })
}

fn row(verified: &VerifiedReceipt) -> [String; 5] {
    let receipt = &verified.receipt;
    let figure = |name: &str| receipt.total.get(name).cloned().unwrap_or_default();
    let day = if receipt.partial { format!("{} so far", receipt.day) } else { receipt.day.to_string() };
    [day, receipt.tenant.clone(), figure("invocations_count"), figure("cpu_us"), verified.hash.clone()]
}

fn fault_error(fault: &ReceiptFault) -> CliError {
    let code = match fault {
        ReceiptFault::BadKey => "receipt-bad-key",
        ReceiptFault::BadSignature => "receipt-bad-signature",
        ReceiptFault::Malformed | ReceiptFault::Untitled => "receipt-malformed",
        ReceiptFault::AnotherTenant => "receipt-another-tenant",
        ReceiptFault::WrongTotal { .. } => "receipt-wrong-total",
        ReceiptFault::Unchained { .. } => "receipt-unchained",
    };
    let help = match fault {
        ReceiptFault::BadKey => "the key is `audit_vkey` of  ringfence --json tenant show",
        ReceiptFault::Untitled => {
            "take away what stands before its first line, or fetch it anew:\nringfence usage receipt DAY"
        }
        _ => "keep these receipts, and ask the operator",
    };
    CliError::Failed { code, detail: fault.to_string(), help: Some(help.to_owned()) }
}

fn usage_text(usage: &UsageView) -> String {
    let mut text = format!("from {} to {}\n", usage.from, usage.to);
    match &usage.days {
        None => text.push_str(&rows_text(&usage.plugins, &usage.total)),
        Some(days) => {
            for day in days {
                text.push_str(&format!("\n{}\n{}", day.day, rows_text(&day.plugins, &day.total)));
            }
            text.push_str(&format!("\nall days\n{}", rows_text(&usage.plugins, &usage.total)));
        }
    }
    text
}

fn rows_text(plugins: &[UsageRow], total: &UsageRow) -> String {
    let row = |row: &UsageRow| {
        [
            row.plugin.clone(),
            row.invocations_count.to_string(),
            row.failures_count.to_string(),
            micros_words(row.cpu_us),
            micros_words(row.wall_us),
            format!("{:.3} GiB s", row.memory_gib_seconds),
            bytes_words(row.memory_bytes_peak),
            bytes_words(row.request_bytes),
            bytes_words(row.response_bytes),
            row.outgoing_count.to_string(),
            bytes_words(row.egress_out_bytes.saturating_add(row.egress_in_bytes)),
            row.storage_ops_count.to_string(),
            bytes_words(row.log_bytes),
        ]
    };
    let rows: Vec<[String; 13]> = plugins.iter().chain([total]).map(row).collect();
    let header = [
        "plugin",
        "calls",
        "failed",
        "cpu",
        "wall",
        "memory",
        "peak",
        "asked",
        "answered",
        "outgoing",
        "egress",
        "storage ops",
        "log",
    ];
    table(header, &rows)
}
