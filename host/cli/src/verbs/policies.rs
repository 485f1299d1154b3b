//! `policy` and `why`: what is allowed in a tenant, and why something was not.

use reqwest::Method;
use ringfence_control::wire::{DecisionView, PolicyText, PolicyView};

use crate::Format;
use crate::args::{PolicyApplyArgs, WhyArgs};
use crate::client::{Body, Request};
use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::ui::read_capped;

/// LIMIT: largest policy text, in bytes; the host's own limit is lower.
const POLICY_BYTES_MAX: usize = 256 << 10;

/// `ringfence policy show`.
pub async fn show(cx: &mut Context<'_>) -> Result<Exit, CliError> {
    let (api, tenant) = cx.tenant().await?;
    let answer = api.send::<PolicyView>(&Request::get(format!("/tenants/{tenant}/policy"))).await?;
    if cx.ui.format == Format::Text {
        cx.ui.note(&format!("policy of tenant {tenant}, version {}", answer.value.version));
        cx.ui.raw(answer.value.text.as_bytes())?;
    } else {
        cx.print(&answer, |_| String::new())?;
    }
    Ok(Exit::Ok)
}

/// `ringfence policy apply`: replaces the policy, unless somebody else did in between.
pub async fn apply(cx: &mut Context<'_>, args: &PolicyApplyArgs) -> Result<Exit, CliError> {
    let bytes = if args.file.as_os_str() == "-" {
        cx.ui.read_input(POLICY_BYTES_MAX)?
    } else {
        let mut file = std::fs::File::open(&args.file).map_err(|error| CliError::file("read", &args.file, &error))?;
        read_capped(&mut file, POLICY_BYTES_MAX, "the policy")?
    };
    let text = String::from_utf8(bytes)
        .map_err(|_| CliError::failed("bad-policy", "the policy is not UTF-8 text".to_owned(), None))?;
    let (api, tenant) = cx.tenant().await?;
    let path = format!("/tenants/{tenant}/policy");
    let version = match args.if_version {
        Some(version) => version,
        None => api.send::<PolicyView>(&Request::get(&path)).await?.value.version,
    };
    let request = Request::new(Method::PUT, &path)
        .header("if-match", format!("\"{version}\""))
        .body(Body::Json(serde_json::to_value(PolicyText { text }).unwrap_or_default()));
    let answer = api.send::<PolicyView>(&request).await?;
    cx.print(&answer, |policy| format!("applied policy of tenant {tenant}, now version {}", policy.version))?;
    Ok(Exit::Ok)
}

/// `ringfence why`.
pub async fn why(cx: &mut Context<'_>, args: &WhyArgs) -> Result<Exit, CliError> {
    let api = cx.current()?;
    let answer = api.send::<DecisionView>(&Request::get(format!("/decisions/{}", args.decision))).await?;
    cx.print(&answer, decision_text)?;
    Ok(Exit::Ok)
}

fn decision_text(decision: &DecisionView) -> String {
    let role = decision.role.as_deref().map(|role| format!("  ({role})")).unwrap_or_default();
    let mut text = format!(
        "{} at {}\n  who   {}{role}\n  what  {}\n  to    {}\n",
        decision.outcome, decision.at, decision.principal, decision.action, decision.resource
    );
    for reason in &decision.reasons {
        text.push_str(&format!("  by    {} ({}): {}\n", reason.policy, reason.effect, reason.text));
    }
    if decision.reasons.is_empty() {
        text.push_str("  by    no policy allows it\n");
    }
    if let Some(closest) = &decision.closest {
        text.push_str(&format!("  near  {closest}\n"));
    }
    text.push_str(&format!("  help: {}\n", decision.help));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringfence_control::wire::ReasonView;

    #[test]
    fn a_denial_says_who_what_by_which_policy_and_what_to_do() {
        let decision = DecisionView {
            id: "d_x".into(),
            at: "2026-11-21T00:00:00Z".into(),
            outcome: "deny".into(),
            principal: "acme/ada".into(),
            role: Some("auditor".into()),
            action: "deploy".into(),
            resource: "acme/visits".into(),
            reasons: vec![ReasonView { policy: "freeze".into(), effect: "forbid".into(), text: "no deploys".into() }],
            closest: Some("developers may deploy".into()),
            help: "ask an acme admin".into(),
        };
        assert_eq!(
            decision_text(&decision),
            "deny at 2026-11-21T00:00:00Z\n  who   acme/ada  (auditor)\n  what  deploy\n  to    acme/visits\n  by    freeze (forbid): no deploys\n  near  developers may deploy\n  help: ask an acme admin\n"
        );
    }
}
