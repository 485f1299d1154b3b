//! `status`: how the host and its plugins are doing.

use ringfence_control::wire::{HostStatus, PluginDetail, PluginView};

use crate::Format;
use crate::args::StatusArgs;
use crate::client::Request;
use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::table::{bytes_words, micros_words, needs_table, table};

/// `ringfence status`.
pub async fn status(cx: &mut Context<'_>, args: &StatusArgs) -> Result<Exit, CliError> {
    let Some(plugin) = &args.plugin else {
        return host_status(cx).await;
    };
    let (api, tenant) = cx.tenant().await?;
    let answer = api.send::<PluginDetail>(&Request::get(format!("/tenants/{tenant}/plugins/{plugin}"))).await?;
    cx.print(&answer, plugin_text)?;
    Ok(Exit::Ok)
}

async fn host_status(cx: &mut Context<'_>) -> Result<Exit, CliError> {
    let api = cx.current()?;
    let answer = api.send::<HostStatus>(&Request::get("/host")).await?;
    let plugins = match shows_figures(&answer.value) {
        true => String::new(),
        false => tenant_plugins(cx).await?,
    };
    cx.print(&answer, |host| format!("{}{plugins}", host_text(host)))?;
    Ok(Exit::Ok)
}

/// Whoever may not see figures that span tenants gets zeros; a host without slots does not exist.
fn shows_figures(host: &HostStatus) -> bool {
    host.slots_count > 0
}

/// The tenant's plugins, for whoever may not see the host's figures. Nothing when no tenant is chosen.
async fn tenant_plugins(cx: &Context<'_>) -> Result<String, CliError> {
    if cx.ui.format == Format::Json {
        return Ok(String::new());
    }
    let Ok((api, tenant)) = cx.tenant().await else {
        return Ok(String::new());
    };
    let answer = api.list::<PluginView>(&Request::get(format!("/tenants/{tenant}/plugins")), "cursor").await?;
    if answer.value.is_empty() {
        return Ok(format!("\ntenant {tenant} has no plugins yet; make one with  ringfence new NAME\n"));
    }
    let rows: Vec<[String; 4]> = answer
        .value
        .iter()
        .map(|p| {
            let live = p.live.clone().unwrap_or_else(|| "-".to_owned());
            [p.name.clone(), live, p.path.clone().unwrap_or_default(), p.versions_count.to_string()]
        })
        .collect();
    Ok(format!("\n{}", table(["plugin", "live", "path", "versions"], &rows)))
}

fn host_text(host: &HostStatus) -> String {
    let up = micros_words(host.uptime_seconds.saturating_mul(1_000_000));
    let mut text = format!("ringfence  {}\nup         {up}\nplugins    {}\n", host.version, host.plugins_address);
    if shows_figures(host) {
        text.push_str(&format!(
            "store      {}, {}\nroot key   {}\ndumps      {}\nI/O        {}\ntenants    {}\nroutes     {}\nrunning    {} of {} slots, {} waiting\n",
            host.store,
            bytes_words(host.store_bytes),
            host.root_key,
            dumps_words(&host.memory_dumps),
            io_words(&host.io_class),
            host.tenants_count,
            host.routes_count,
            host.running_count,
            host.slots_count,
            host.waiting_count,
        ));
    }
    text
}

/// Who gets the host's memory.
fn dumps_words(dumps: &str) -> &str {
    match dumps {
        "off" => "off: nobody but root reads the keys out of its memory",
        "debuggers" => "no core files; debuggers of its account can read the keys",
        "crash-handler" => {
            "no core files; the program that gets crashes, and debuggers of its account, can read the keys"
        }
        "core-files" => "core files, which would hold the keys",
        _ => "unknown",
    }
}

/// What the threads that do the I/O of calls got of the kernel.
fn io_words(class: &str) -> &str {
    match class {
        "fifo" => "fifo: before every guest",
        "short-slice" => "short-slice: picked up soon, beside guests",
        "nice" => "nice: may wait a few milliseconds behind guests",
        "usual" => "usual: waits its turn behind guests; see `ringfence doctor`",
        _ => "unknown",
    }
}

fn plugin_text(plugin: &PluginDetail) -> String {
    let mut text = match &plugin.route {
        Some(route) => {
            let canary = route.canary.as_ref().map(|canary| format!(", {} % to {}", canary.percent, canary.version));
            format!("{}  live {}{}  at {}\n", plugin.name, route.version, canary.unwrap_or_default(), route.path)
        }
        None => format!("{}  not deployed\n", plugin.name),
    };
    text.push_str(&needs_table(&plugin.needs, None));
    let rows: Vec<[String; 4]> = plugin
        .versions
        .iter()
        .map(|v| [v.version.clone(), bytes_words(v.bytes), v.pushed_at.clone(), v.pushed_by.clone()])
        .collect();
    for line in table(["version", "size", "pushed", "by"], &rows).lines() {
        text.push_str(&format!("    {line}\n"));
    }
    text
}
