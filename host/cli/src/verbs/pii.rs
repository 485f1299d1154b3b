//! `pii`: rules about fields of personal data, and the people it is about.
//!
//! Must never erase without being told to: there is no way back.

use reqwest::Method;
use ringfence_control::wire::{FieldRulesBody, SubjectView};

use crate::args::{PiiFieldsSetArgs, PluginArgs, SubjectArgs};
use crate::client::{Body, Request};
use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::table::table;
use crate::ui::read_capped;

/// LIMIT: largest file of rules, in bytes; the host takes fewer.
const RULES_BYTES_MAX: usize = 256 << 10;

/// `ringfence pii fields show`.
pub async fn fields_show(cx: &mut Context<'_>, args: &PluginArgs) -> Result<Exit, CliError> {
    let (api, tenant) = cx.tenant().await?;
    let path = format!("/tenants/{tenant}/plugins/{}/fields", args.plugin);
    let answer = api.send::<FieldRulesBody>(&Request::get(path)).await?;
    cx.print(&answer, rules_text)?;
    Ok(Exit::Ok)
}

/// `ringfence pii fields set`.
pub async fn fields_set(cx: &mut Context<'_>, args: &PiiFieldsSetArgs) -> Result<Exit, CliError> {
    let bytes = if args.file.as_os_str() == "-" {
        cx.ui.read_input(RULES_BYTES_MAX)?
    } else {
        let mut file = std::fs::File::open(&args.file).map_err(|error| CliError::file("read", &args.file, &error))?;
        read_capped(&mut file, RULES_BYTES_MAX, "the rules")?
    };
    let rules: serde_json::Value = serde_json::from_slice(&bytes)
        .map_err(|error| CliError::failed("bad-field-rule", format!("the rules are not JSON: {error}"), None))?;
    let (api, tenant) = cx.tenant().await?;
    let path = format!("/tenants/{tenant}/plugins/{}/fields", args.plugin);
    let answer = api.send::<FieldRulesBody>(&Request::new(Method::PUT, path).body(Body::Json(rules))).await?;
    cx.print(&answer, |body| format!("set the rules about fields of {}\n{}", args.plugin, rules_text(body)))?;
    Ok(Exit::Ok)
}

/// `ringfence pii show`.
pub async fn show(cx: &mut Context<'_>, args: &SubjectArgs) -> Result<Exit, CliError> {
    let (api, tenant) = cx.tenant().await?;
    let path = format!("/tenants/{tenant}/subjects/{}", in_path(&args.subject));
    let answer = api.send::<SubjectView>(&Request::get(path)).await?;
    cx.print(&answer, subject_text)?;
    Ok(Exit::Ok)
}

/// `ringfence pii erase`.
pub async fn erase(cx: &mut Context<'_>, args: &SubjectArgs) -> Result<Exit, CliError> {
    let warning =
        "This destroys the key of one person. Nothing that was sealed for them opens again.\nNobody can bring it back.";
    cx.ui.confirm_typed(&format!("pii erase {}", args.subject), warning, &args.subject)?;
    let (api, tenant) = cx.tenant().await?;
    let path = format!("/tenants/{tenant}/subjects/{}/erase", in_path(&args.subject));
    let answer = api.send::<SubjectView>(&Request::new(Method::POST, path)).await?;
    cx.print(&answer, |subject| format!("erased {}\n{}", args.subject, subject_text(subject)))?;
    Ok(Exit::Ok)
}

fn rules_text(body: &FieldRulesBody) -> String {
    let word = |value: serde_json::Value| value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
    let rows: Vec<[String; 6]> = body
        .rules
        .iter()
        .map(|rule| {
            let subject = rule.subject.as_ref().map(|subject| word(serde_json::json!(subject))).unwrap_or_default();
            let (direction, otherwise) = (serde_json::json!(rule.direction), serde_json::json!(rule.otherwise));
            let methods = if rule.methods.is_empty() { "any".to_owned() } else { rule.methods.join(",") };
            let requests = format!("{methods} {}", rule.path.as_deref().unwrap_or("/*"));
            [requests, rule.pointer.clone(), rule.field.clone(), word(direction), subject, word(otherwise)]
        })
        .collect();
    table(["requests", "pointer", "field", "direction", "subject", "otherwise"], &rows)
}

fn subject_text(subject: &SubjectView) -> String {
    let key = match (subject.key_version, &subject.created_at) {
        (Some(version), Some(at)) => format!("version {version}, made {at}"),
        _ => "none".to_owned(),
    };
    let mut text = format!("subject  {}\nkey      {key}\ntokens   {}\n", subject.subject, subject.tokens_count);
    for erasure in &subject.erasures {
        text.push_str(&format!(
            "erased   version {} at {} by {}\n",
            erasure.key_version, erasure.erased_at, erasure.erased_by
        ));
    }
    text
}

/// A name as one segment of a path: everything but the unreserved characters of RFC 3986 is escaped.
fn in_path(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_~".contains(&byte);
    name.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_say_which_requests_they_are_for() {
        let body: FieldRulesBody = serde_json::from_str(
            r#"{"rules": [{"pointer": "/a", "field": "a", "direction": "response"},
                {"methods": ["PUT", "POST"], "path": "/b/*", "pointer": "/c", "field": "c", "direction": "response"}]}"#,
        )
        .unwrap();
        let text = rules_text(&body);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["any", "/*", "/a", "a", "response", "sealed"], "{text}");
        assert_eq!(lines[2], ["PUT,POST", "/b/*", "/c", "c", "response", "sealed"], "{text}");
    }

    #[test]
    fn a_subject_cannot_lead_out_of_its_segment() {
        assert_eq!(in_path("ann-1"), "ann-1");
        assert_eq!(in_path("../a b?x#%é"), "%2E%2E%2Fa%20b%3Fx%23%25%C3%A9");
    }
}
