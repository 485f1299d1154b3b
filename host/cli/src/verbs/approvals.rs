//! `approval` and `elevation`: what one asks for and another allows.

use clap::ValueEnum;
use reqwest::Method;
use ringfence_control::wire::{ApprovalView, ElevationView, NewElevation};

use crate::args::{ApprovalCommand, ElevationCommand, ElevationRequestArgs};
use crate::client::{Request, segment};
use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::table::table;
use crate::verbs::policies::found_text;

/// `ringfence approval ...`.
pub async fn approval(cx: &mut Context<'_>, command: &ApprovalCommand) -> Result<Exit, CliError> {
    let (api, tenant) = cx.tenant().await?;
    let path = format!("/tenants/{tenant}/approvals");
    match command {
        ApprovalCommand::List => {
            let answer = api.list::<ApprovalView>(&Request::get(path), "cursor").await?;
            cx.print_list(&answer, "nothing waits", |waiting| {
                let rows: Vec<[String; 4]> = waiting
                    .iter()
                    .map(|one| [one.id.clone(), one.asked_by.clone(), one.expires_at.clone(), one.wants.clone()])
                    .collect();
                let mut text = table(["id", "asked by", "until", "wants"], &rows);
                for (one, found) in waiting.iter().filter_map(|one| Some((one, one.found.as_ref()?))) {
                    text.push_str(&format!("{}: {}", one.id, found_text(found)));
                }
                text
            })?;
        }
        ApprovalCommand::Approve(args) => {
            let request = Request::post(format!("{path}/{}/approve", segment(&args.id)?), serde_json::json!({}));
            let answer = api.send::<ApprovalView>(&request).await?;
            cx.print(&answer, |one| format!("allowed {} what it asked for: {}", one.asked_by, one.wants))?;
        }
        ApprovalCommand::Refuse(args) => {
            api.act(&Request::new(Method::DELETE, format!("{path}/{}", segment(&args.id)?))).await?;
            cx.done(&format!("refused {}", args.id))?;
        }
    }
    Ok(Exit::Ok)
}

/// `ringfence elevation ...`.
pub async fn elevation(cx: &mut Context<'_>, command: &ElevationCommand) -> Result<Exit, CliError> {
    let (api, tenant) = cx.tenant().await?;
    let path = format!("/tenants/{tenant}/elevations");
    match command {
        ElevationCommand::Request(args) => {
            let answer = api.send::<ApprovalView>(&Request::post(path, wanted(args))).await?;
            cx.print(&answer, |one| {
                format!("waits for a tenant-admin\n  help: ringfence approval approve {}", one.id)
            })?;
        }
        ElevationCommand::List => {
            let answer = api.list::<ElevationView>(&Request::get(path), "cursor").await?;
            cx.print_list(&answer, "nobody acts in another role", |held| {
                let rows: Vec<[String; 5]> = held
                    .iter()
                    .map(|one| {
                        let (who, role, by) = (one.principal.clone(), one.role.clone(), one.approved_by.clone());
                        [one.id.clone(), who, role, one.until.clone(), by]
                    })
                    .collect();
                table(["id", "who", "role", "until", "allowed by"], &rows)
            })?;
        }
        ElevationCommand::End(args) => {
            api.act(&Request::new(Method::DELETE, format!("{path}/{}", segment(&args.id)?))).await?;
            cx.done(&format!("ended {}", args.id))?;
        }
    }
    Ok(Exit::Ok)
}

fn wanted(args: &ElevationRequestArgs) -> serde_json::Value {
    let role = args.role.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    serde_json::to_value(NewElevation { role, minutes: args.minutes, reason: args.reason.clone() }).unwrap_or_default()
}
