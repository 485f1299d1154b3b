//! `tenant`: make, list, stop and delete the tenants of a host.

use reqwest::Method;
use ringfence_control::wire::{NewTenant, TenantKeyView, TenantView};

use crate::args::{TenantCreateArgs, TenantNameArgs, TenantOptionalArgs};
use crate::client::Request;
use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::table::table;

/// `ringfence tenant create`.
pub async fn create(cx: &mut Context<'_>, args: &TenantCreateArgs) -> Result<Exit, CliError> {
    let api = cx.operator()?;
    let new = NewTenant {
        name: args.name.to_string(),
        display_name: args.display_name.clone(),
        plan: args.plan.as_ref().map(ToString::to_string),
    };
    let request = Request::post("/tenants", serde_json::to_value(&new).unwrap_or_default());
    let answer = api.send::<TenantView>(&request).await?;
    cx.print(&answer, |tenant| {
        format!(
            "created tenant {0}\n  next: ringfence token create admin --tenant {0} --role tenant-admin --key-file {0}.key\n",
            tenant.name
        )
    })?;
    Ok(Exit::Ok)
}

/// `ringfence tenant list`.
pub async fn list(cx: &mut Context<'_>) -> Result<Exit, CliError> {
    let api = cx.operator()?;
    let answer = api.list::<TenantView>(&Request::get("/tenants"), "cursor").await?;
    cx.print_list(&answer, "no tenants yet; make one with  ringfence tenant create NAME", |tenants| {
        let rows: Vec<[String; 4]> = tenants
            .iter()
            .map(|t| [t.name.clone(), t.state.clone(), t.created_at.clone(), t.display_name.clone()])
            .collect();
        table(["tenant", "state", "created", "display name"], &rows)
    })?;
    Ok(Exit::Ok)
}

/// `ringfence tenant show`.
pub async fn show(cx: &mut Context<'_>, args: &TenantOptionalArgs) -> Result<Exit, CliError> {
    let (api, name) = match &args.name {
        Some(name) => (cx.of_tenant(name)?, name.clone()),
        None => cx.tenant().await?,
    };
    let answer = api.send::<TenantView>(&Request::get(format!("/tenants/{name}"))).await?;
    cx.print(&answer, tenant_text)?;
    Ok(Exit::Ok)
}

/// `ringfence tenant suspend`.
pub async fn suspend(cx: &mut Context<'_>, args: &TenantNameArgs) -> Result<Exit, CliError> {
    let question = format!("Suspend tenant `{}`? All its plugins stop answering.", args.name);
    cx.ui.confirm(&format!("tenant suspend {}", args.name), &question)?;
    change(cx, args, "suspend", "suspended").await
}

/// `ringfence tenant resume`.
pub async fn resume(cx: &mut Context<'_>, args: &TenantNameArgs) -> Result<Exit, CliError> {
    change(cx, args, "resume", "resumed").await
}

/// `ringfence tenant delete`.
pub async fn delete(cx: &mut Context<'_>, args: &TenantNameArgs) -> Result<Exit, CliError> {
    let warning = format!(
        "This deletes tenant `{0}` with all its plugins and data, and destroys its keys.\n\
         Until the host's delay is over, `ringfence key enable {0}` undoes it; after that nobody can bring it back.",
        args.name
    );
    cx.ui.confirm_typed(&format!("tenant delete {}", args.name), &warning, args.name.as_str())?;
    let api = cx.operator()?;
    match api.act_or_later::<TenantKeyView>(&Request::delete(format!("/tenants/{}", args.name))).await? {
        None => cx.done(&format!("deleted tenant {}; its keys are destroyed", args.name))?,
        Some(later) => cx.print(&later, |key| {
            let at = key.destroy.as_ref().and_then(|asked| asked.due_at.as_deref()).unwrap_or_default();
            format!(
                "tenant {0} is shut, and deleted at {at}\n  undo: ringfence key enable {0}\n  \
                 at once: another operator runs  ringfence tenant delete {0}\n",
                key.tenant
            )
        })?,
    }
    Ok(Exit::Ok)
}

async fn change(cx: &mut Context<'_>, args: &TenantNameArgs, act: &str, done: &str) -> Result<Exit, CliError> {
    let api = cx.operator()?;
    let request = Request::new(Method::POST, format!("/tenants/{}/{act}", args.name));
    let answer = api.send::<TenantView>(&request).await?;
    cx.print(&answer, |tenant| format!("{done} tenant {} (now {})", tenant.name, tenant.state))?;
    Ok(Exit::Ok)
}

fn tenant_text(tenant: &TenantView) -> String {
    format!(
        "tenant     {}\nname       {}\nstate      {}\nplan       {}\ncreated    {}\naudit key  {}\n",
        tenant.name, tenant.display_name, tenant.state, tenant.plan, tenant.created_at, tenant.audit_vkey
    )
}
