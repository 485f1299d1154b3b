//! `policy` and `why`: what is allowed in a tenant, and why something was not.

use std::time::Duration;

use reqwest::Method;
use ringfence_control::plain::json_words;
use ringfence_control::wire::{
    CeilingText, DecisionView, DifferencesView, FindingView, FoundView, Labels, LabelsOutcome, LabelsVersionView,
    LabelsView, PolicyMode, PolicyOutcome, PolicyProof, PolicyRollback, PolicyText, PolicyVersionView, PolicyView,
    ProofVerdict, ProofView, ProofsView, ReviewView, ShadowView,
};

use crate::Format;
use crate::args::{
    PolicyApplyArgs, PolicyCeilingArgs, PolicyCommand, PolicyFileArgs, PolicyLabelsArgs, PolicyProveArgs,
    PolicyRollbackArgs, PolicyShadowArgs, PolicyShowArgs, WhyArgs,
};
use crate::client::{Answer, Body, Request};
use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::table::{counted, table};
use crate::ui::read_capped;

/// LIMIT: largest policy text, in bytes; as the host's own.
const POLICY_BYTES_MAX: usize = 2 << 20;
/// Longest wait for proofs: three, each for a minute at most.
const PROOFS_MAX: Duration = Duration::from_secs(200);
/// Longest wait for a review, which has three shorter ones beside it.
const REVIEW_MAX: Duration = Duration::from_secs(60);

/// `ringfence policy ...`.
pub async fn run(cx: &mut Context<'_>, command: &PolicyCommand) -> Result<Exit, CliError> {
    match command {
        PolicyCommand::Show(args) => show(cx, args).await,
        PolicyCommand::Versions => versions(cx).await,
        PolicyCommand::Test(args) => test(cx, args).await,
        PolicyCommand::Diff(args) => diff(cx, args).await,
        PolicyCommand::Apply(args) => apply(cx, args).await,
        PolicyCommand::Shadow(args) => shadow(cx, args).await,
        PolicyCommand::Rollback(args) => rollback(cx, args).await,
        PolicyCommand::Prove(args) => prove(cx, args).await,
        PolicyCommand::Labels(args) => labels(cx, args).await,
        PolicyCommand::Ceiling(args) => ceiling(cx, args).await,
    }
}

async fn show(cx: &mut Context<'_>, args: &PolicyShowArgs) -> Result<Exit, CliError> {
    let (api, tenant) = cx.tenant().await?;
    if let Some(version) = args.version {
        let path = format!("/tenants/{tenant}/policy/versions/{version}");
        let answer = api.send::<PolicyVersionView>(&Request::get(path)).await?;
        return print_text(cx, &answer, |one| (one.text.as_deref().unwrap_or_default(), one.version));
    }
    let answer = api.send::<PolicyView>(&Request::get(format!("/tenants/{tenant}/policy"))).await?;
    print_text(cx, &answer, |policy| (&policy.text, policy.version))
}

/// The text alone on standard output, so that it can go into a file.
fn print_text<T>(
    cx: &mut Context<'_>,
    answer: &Answer<T>,
    parts: impl FnOnce(&T) -> (&str, u64),
) -> Result<Exit, CliError> {
    if cx.ui.format == Format::Text {
        let (text, version) = parts(&answer.value);
        cx.ui.note(&format!("version {version}"));
        cx.ui.raw(text.as_bytes())?;
    } else {
        cx.print(answer, |_| String::new())?;
    }
    Ok(Exit::Ok)
}

async fn versions(cx: &mut Context<'_>) -> Result<Exit, CliError> {
    let (api, tenant) = cx.tenant().await?;
    let request = Request::get(format!("/tenants/{tenant}/policy/versions"));
    let answer = api.list::<PolicyVersionView>(&request, "cursor").await?;
    cx.print_list(&answer, "no policy was ever set", |versions| {
        let rows: Vec<[String; 5]> = versions
            .iter()
            .map(|one| {
                let back = one.rolled_back_to.map(|to| format!("back to {to}"));
                let note = [back, one.note.clone()].into_iter().flatten().collect::<Vec<_>>().join("; ");
                let allowed = one.approved_by.clone().unwrap_or_default();
                [one.version.to_string(), one.at.clone(), one.by.clone(), allowed, note]
            })
            .collect();
        table(["version", "at", "by", "allowed by", "note"], &rows)
    })?;
    Ok(Exit::Ok)
}

async fn test(cx: &mut Context<'_>, args: &PolicyFileArgs) -> Result<Exit, CliError> {
    let answer = send(cx, &args.file, PolicyMode::Draft, None, None).await?;
    cx.print(&answer, |outcome| review_text(&outcome.review))?;
    Ok(Exit::Ok)
}

async fn diff(cx: &mut Context<'_>, args: &PolicyFileArgs) -> Result<Exit, CliError> {
    let answer = send(cx, &args.file, PolicyMode::Draft, None, None).await?;
    cx.print(&answer, |outcome| {
        let review = &outcome.review;
        let mut text = changes_text(&review.newly_allowed, &review.newly_denied);
        if text.is_empty() {
            text = format!("no difference in {} of late\n", counted(review.questions_count, "question"));
        }
        text
    })?;
    Ok(Exit::Ok)
}

/// `ringfence policy apply`: replaces the policy, unless somebody else did in between.
async fn apply(cx: &mut Context<'_>, args: &PolicyApplyArgs) -> Result<Exit, CliError> {
    let version = match args.if_version {
        Some(version) => version,
        None => {
            let (api, tenant) = cx.tenant().await?;
            api.send::<PolicyView>(&Request::get(format!("/tenants/{tenant}/policy"))).await?.value.version
        }
    };
    let answer = send(cx, &args.file, PolicyMode::Active, args.note.clone(), Some(version)).await?;
    cx.print(&answer, outcome_text)?;
    Ok(Exit::Ok)
}

async fn rollback(cx: &mut Context<'_>, args: &PolicyRollbackArgs) -> Result<Exit, CliError> {
    let (api, tenant) = cx.tenant().await?;
    let body = serde_json::to_value(PolicyRollback { version: args.version }).unwrap_or_default();
    let request = Request::post(format!("/tenants/{tenant}/policy/rollback"), body).time(Some(REVIEW_MAX));
    let answer = api.send::<PolicyOutcome>(&request).await?;
    cx.print(&answer, outcome_text)?;
    Ok(Exit::Ok)
}

async fn shadow(cx: &mut Context<'_>, args: &PolicyShadowArgs) -> Result<Exit, CliError> {
    if let Some(file) = &args.file {
        let answer = send(cx, file, PolicyMode::Shadow, None, None).await?;
        cx.print(&answer, |outcome| format!("asked in the shadow from now on\n{}", review_text(&outcome.review)))?;
        return Ok(Exit::Ok);
    }
    let (api, tenant) = cx.tenant().await?;
    let path = format!("/tenants/{tenant}/policy/shadow");
    if args.off {
        api.act(&Request::new(Method::DELETE, &path)).await?;
        cx.done("asked in the shadow no longer")?;
        return Ok(Exit::Ok);
    }
    let answer = api.send::<ShadowView>(&Request::get(path)).await?;
    cx.print(&answer, |shadow| {
        let changes = changes_text(&shadow.newly_allowed, &shadow.newly_denied);
        format!("{} decisions taken beside it\n{changes}", shadow.askings_count)
    })?;
    Ok(Exit::Ok)
}

async fn prove(cx: &mut Context<'_>, args: &PolicyProveArgs) -> Result<Exit, CliError> {
    let text = match &args.file {
        Some(file) => Some(read_text(cx, file)?),
        None => None,
    };
    let (api, tenant) = cx.tenant().await?;
    let body = serde_json::to_value(PolicyProof { text }).unwrap_or_default();
    let request = Request::post(format!("/tenants/{tenant}/policy/proof"), body).time(Some(PROOFS_MAX));
    let answer = api.send::<ProofsView>(&request).await?;
    let disproved = answer.value.proofs.iter().any(|proof| proof.verdict == ProofVerdict::Disproved);
    cx.print(&answer, |proofs| proofs.proofs.iter().map(proof_text).collect::<String>())?;
    Ok(if disproved { Exit::Failed } else { Exit::Ok })
}

fn proof_text(proof: &ProofView) -> String {
    let verdict = match proof.verdict {
        ProofVerdict::Proved if proof.kinds_count == 0 => {
            "proved, as none of these statements allows anything that it could fail for".to_owned()
        }
        ProofVerdict::Proved => {
            format!("proved for {} kinds of request in {} ms", proof.kinds_count, proof.took_us / 1_000)
        }
        ProofVerdict::Disproved => "disproved".to_owned(),
        ProofVerdict::NotRun => "not run".to_owned(),
    };
    let mut text = format!("{}: {verdict}\n", proof.statement);
    for more in [&proof.reason, &proof.counterexample].into_iter().flatten() {
        text.push_str(&format!("  {}\n", more.trim_end().replace('\n', "\n  ")));
    }
    text
}

/// `ringfence policy labels`: shows them as they can be set, or replaces them unless somebody else did in between.
async fn labels(cx: &mut Context<'_>, args: &PolicyLabelsArgs) -> Result<Exit, CliError> {
    if args.versions {
        return label_versions(cx).await;
    }
    if let Some(version) = args.version {
        let (api, tenant) = cx.tenant().await?;
        let request = Request::get(format!("/tenants/{tenant}/policy/labels/versions/{version}"));
        let one = api.send::<LabelsVersionView>(&request).await?;
        let labels = one.value.labels.clone().unwrap_or_default();
        return print_labels(cx, &one, &labels, one.value.version);
    }
    let text = match &args.set {
        Some(file) => Some(read_text(cx, file)?),
        None => None,
    };
    let (api, tenant) = cx.tenant().await?;
    let path = format!("/tenants/{tenant}/policy/labels");
    let now = api.send::<LabelsView>(&Request::get(path.clone())).await?;
    let Some(text) = text else {
        return print_labels(cx, &now, &now.value.labels, now.value.version);
    };
    let wanted: Labels = serde_json::from_str(&text)
        .map_err(|error| CliError::failed("bad-json", format!("these are no labels: {}", json_words(&error)), None))?;
    let request = Request::put(path, serde_json::to_value(wanted).unwrap_or_default())
        .header("if-match", format!("\"{}\"", now.value.version));
    let answer = api.send::<LabelsOutcome>(&request).await?;
    cx.print(&answer, labels_text)?;
    Ok(Exit::Ok)
}

/// The labels alone on standard output, as they can be set.
fn print_labels<T>(cx: &mut Context<'_>, answer: &Answer<T>, labels: &Labels, version: u64) -> Result<Exit, CliError> {
    if cx.ui.format == Format::Text {
        let text = serde_json::to_string_pretty(labels).unwrap_or_default();
        cx.ui.note(&format!("version {version}"));
        cx.ui.raw(format!("{text}\n").as_bytes())?;
    } else {
        cx.print(answer, |_| String::new())?;
    }
    Ok(Exit::Ok)
}

async fn label_versions(cx: &mut Context<'_>) -> Result<Exit, CliError> {
    let (api, tenant) = cx.tenant().await?;
    let request = Request::get(format!("/tenants/{tenant}/policy/labels/versions"));
    let answer = api.list::<LabelsVersionView>(&request, "cursor").await?;
    cx.print_list(&answer, "no labels were ever set", |versions| {
        let rows: Vec<[String; 4]> = versions
            .iter()
            .map(|one| {
                [one.version.to_string(), one.at.clone(), one.by.clone(), one.approved_by.clone().unwrap_or_default()]
            })
            .collect();
        table(["version", "at", "by", "allowed by"], &rows)
    })?;
    Ok(Exit::Ok)
}

async fn ceiling(cx: &mut Context<'_>, args: &PolicyCeilingArgs) -> Result<Exit, CliError> {
    let path = format!("/tenants/{}/ceiling", args.tenant.name);
    let Some(file) = &args.set else {
        let answer = cx.of_tenant(&args.tenant.name)?.send::<PolicyView>(&Request::get(path)).await?;
        return print_text(cx, &answer, |ceiling| (&ceiling.text, ceiling.version));
    };
    let text = read_text(cx, file)?;
    let api = cx.operator()?;
    let version = api.send::<PolicyView>(&Request::get(path.clone())).await?.value.version;
    let request = Request::put(path, serde_json::to_value(CeilingText { text }).unwrap_or_default())
        .header("if-match", format!("\"{version}\""));
    let answer = api.send::<PolicyView>(&request).await?;
    cx.print(&answer, |ceiling| {
        format!("set the ceiling of tenant {}, now version {}", args.tenant.name, ceiling.version)
    })?;
    Ok(Exit::Ok)
}

async fn send(
    cx: &mut Context<'_>,
    file: &std::path::Path,
    mode: PolicyMode,
    note: Option<String>,
    version: Option<u64>,
) -> Result<Answer<PolicyOutcome>, CliError> {
    let text = read_text(cx, file)?;
    let (api, tenant) = cx.tenant().await?;
    let path = format!("/tenants/{tenant}/policy");
    let body = serde_json::to_value(PolicyText { text, mode, note }).unwrap_or_default();
    let mut request = Request::new(Method::PUT, &path).body(Body::Json(body)).time(Some(REVIEW_MAX));
    if let Some(version) = version {
        request = request.header("if-match", format!("\"{version}\""));
    }
    api.send::<PolicyOutcome>(&request).await
}

fn read_text(cx: &mut Context<'_>, path: &std::path::Path) -> Result<String, CliError> {
    let bytes = if path.as_os_str() == "-" {
        cx.ui.read_input(POLICY_BYTES_MAX)?
    } else {
        let mut file = std::fs::File::open(path).map_err(|error| CliError::file("read", path, &error))?;
        read_capped(&mut file, POLICY_BYTES_MAX, "the policy")?
    };
    String::from_utf8(bytes)
        .map_err(|_| CliError::failed("bad-policy", "the policy is not UTF-8 text".to_owned(), None))
}

fn outcome_text(outcome: &PolicyOutcome) -> String {
    let head = match (&outcome.approval, &outcome.four_eyes) {
        (Some(approval), Some(why)) => {
            format!("waits for another tenant-admin: {why}\n  help: ringfence approval approve {}\n", approval.id)
        }
        _ => format!("in force, version {}\n", outcome.version),
    };
    format!("{head}{}", review_text(&outcome.review))
}

fn labels_text(outcome: &LabelsOutcome) -> String {
    let head = match (&outcome.approval, &outcome.four_eyes) {
        (Some(approval), Some(why)) => {
            format!("wait for another tenant-admin: {why}\n  help: ringfence approval approve {}\n", approval.id)
        }
        _ => format!("in force, version {}\n", outcome.version),
    };
    format!("{head}{}", changes_text(&outcome.newly_allowed, &outcome.newly_denied))
}

fn review_text(review: &ReviewView) -> String {
    let statements = counted(review.policies_count as u64, "statement");
    let mut text = format!("{statements}, tried on {} of late", counted(review.questions_count, "question"));
    if review.left_out_count > 0 {
        text.push_str(&format!(" ({} more found no room)", review.left_out_count));
    }
    text.push('\n');
    text.push_str(&findings_text(&review.findings));
    if review.only_narrows {
        text.push_str("  allows nothing new\n");
    }
    text.push_str(&proofs_text(&review.proofs));
    text + &changes_text(&review.newly_allowed, &review.newly_denied)
}

/// What was found of something that waits, for who is to allow it.
pub(super) fn found_text(found: &FoundView) -> String {
    let (findings, proofs) = (findings_text(&found.findings), proofs_text(&found.proofs));
    let changes = changes_text(&found.newly_allowed, &found.newly_denied);
    format!("{}\n{findings}{proofs}{changes}", found.four_eyes)
}

fn findings_text(findings: &[FindingView]) -> String {
    findings.iter().map(|finding| format!("  {}: {}\n", finding.kind, finding.text)).collect()
}

fn proofs_text(proofs: &[ProofView]) -> String {
    let all: String = proofs.iter().map(proof_text).collect();
    all.lines().map(|line| format!("  {line}\n")).collect()
}

fn changes_text(allowed: &DifferencesView, denied: &DifferencesView) -> String {
    let mut text = String::new();
    for (sign, word, side) in [('+', "newly allowed", allowed), ('-', "newly denied", denied)] {
        if side.askings_count + side.questions_count > 0 {
            let (questions, times) = (counted(side.questions_count, "question"), counted(side.askings_count, "time"));
            text.push_str(&format!("  {word}: {questions}, asked {times}\n"));
        }
        for one in &side.examples {
            let role = one.role.as_deref().map(|role| format!(" ({role})")).unwrap_or_default();
            text.push_str(&format!("    {sign} {}{role} {} {}\n", one.principal, one.action, one.resource));
        }
    }
    text
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
    if let Some(device) = &decision.device {
        text.push_str(&format!("  on    {device}\n"));
    }
    if let Some(trust) = decision.trust {
        text.push_str(&format!("  trust {trust} of 100\n"));
    }
    for reason in &decision.reasons {
        text.push_str(&format!("  by    {} ({}): {}\n", reason.policy, reason.effect, reason.text));
    }
    if decision.reasons.is_empty() {
        text.push_str("  by    no policy allows it\n");
    }
    if let Some(closest) = &decision.closest {
        text.push_str(&format!("  near  {closest}\n"));
    }
    for one in &decision.changes {
        text.push_str(&format!("  allow {}: {}\n", one.kind, one.change));
    }
    text.push_str(&format!("  help: {}\n", decision.help));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringfence_control::wire::{ChangeView, ReasonView};

    #[test]
    fn a_denial_says_who_what_by_which_policy_and_what_to_do() {
        let decision = DecisionView {
            id: "d_x".into(),
            at: "2026-11-21T00:00:00Z".into(),
            outcome: "deny".into(),
            principal: "acme/ada".into(),
            role: Some("auditor".into()),
            device: Some("laptop, not verified".into()),
            trust: Some(40),
            action: "deploy".into(),
            resource: "acme/visits".into(),
            reasons: vec![ReasonView { policy: "freeze".into(), effect: "forbid".into(), text: "no deploys".into() }],
            closest: Some("developers may deploy".into()),
            changes: vec![ChangeView { kind: "removal".into(), change: "the policy without `freeze`".into() }],
            help: "ask an acme admin".into(),
        };
        assert_eq!(
            decision_text(&decision),
            "deny at 2026-11-21T00:00:00Z\n  who   acme/ada  (auditor)\n  what  deploy\n  to    acme/visits\n  on    laptop, not verified\n  trust 40 of 100\n  by    freeze (forbid): no deploys\n  near  developers may deploy\n  allow removal: the policy without `freeze`\n  help: ask an acme admin\n"
        );
    }
}
