//! `grant`, `revoke`, `grants`: what a plugin may use is the tenant's decision.

use reqwest::Method;
use ringfence_control::wire::{GrantScope, GrantView};
use ringfence_core::Capability;
use ringfence_core::manifest::check_origin;

use crate::args::{GrantArgs, PluginArgs, RevokeArgs};
use crate::client::{Answer, Request};
use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::table::table;

/// `ringfence grant`.
pub async fn grant(cx: &mut Context<'_>, args: &GrantArgs) -> Result<Exit, CliError> {
    check_scope(args)?;
    let (api, tenant) = cx.tenant().await?;
    let body = serde_json::to_value(GrantScope { scope: args.scope.clone() }).unwrap_or_default();
    let path = format!("/tenants/{tenant}/plugins/{}/grants/{}", args.plugin, args.capability);
    let answer = api.list::<GrantView>(&Request::put(path, body), "cursor").await?;
    print(cx, args.plugin.as_str(), &answer)
}

/// `ringfence revoke`.
pub async fn revoke(cx: &mut Context<'_>, args: &RevokeArgs) -> Result<Exit, CliError> {
    let (api, tenant) = cx.tenant().await?;
    let path = format!("/tenants/{tenant}/plugins/{}/grants/{}", args.plugin, args.capability);
    let answer = api.list::<GrantView>(&Request::new(Method::DELETE, path), "cursor").await?;
    print(cx, args.plugin.as_str(), &answer)
}

/// `ringfence grants`.
pub async fn grants(cx: &mut Context<'_>, args: &PluginArgs) -> Result<Exit, CliError> {
    let (api, tenant) = cx.tenant().await?;
    let request = Request::get(format!("/tenants/{tenant}/plugins/{}/grants", args.plugin));
    let answer = api.list::<GrantView>(&request, "cursor").await?;
    print(cx, args.plugin.as_str(), &answer)
}

fn print(cx: &mut Context<'_>, plugin: &str, answer: &Answer<Vec<GrantView>>) -> Result<Exit, CliError> {
    cx.print_list(answer, &format!("nothing is granted to {plugin}"), |grants| {
        let rows: Vec<[String; 2]> =
            grants.iter().map(|grant| [grant.capability.clone(), grant.scope.join("  ")]).collect();
        table(["granted", "scope"], &rows)
    })?;
    Ok(Exit::Ok)
}

/// Says before asking the host what a scope must be like.
fn check_scope(args: &GrantArgs) -> Result<(), CliError> {
    let GrantArgs { plugin, capability, scope } = args;
    let usage = |detail: String, help: String| CliError::Usage { code: "bad-scope", detail, help: Some(help) };
    if !capability.is_scoped() && !scope.is_empty() {
        return Err(usage(
            format!("`{capability}` is granted whole"),
            format!("ringfence grant {plugin} {capability}"),
        ));
    }
    if *capability == Capability::Http {
        if scope.is_empty() {
            return Err(usage(
                "`http` is granted for named origins only".to_owned(),
                format!("ringfence grant {plugin} http https://api.example.com"),
            ));
        }
        for origin in scope {
            check_origin(origin)
                .map_err(|detail| usage(detail, format!("ringfence grant {plugin} http https://api.example.com")))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(capability: Capability, scope: &[&str]) -> GrantArgs {
        GrantArgs {
            plugin: "visits".parse().unwrap(),
            capability,
            scope: scope.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn a_scope_is_checked_before_the_host_is_asked() {
        assert!(check_scope(&args(Capability::Http, &["https://api.example.com"])).is_ok());
        assert!(check_scope(&args(Capability::Keyvalue, &[])).is_ok());
        assert!(check_scope(&args(Capability::Config, &[])).is_ok());
        for bad in [args(Capability::Http, &[]), args(Capability::Http, &["*"]), args(Capability::Config, &["x"])] {
            assert_eq!(check_scope(&bad).unwrap_err().code(), "bad-scope");
        }
    }
}
