//! `call`: one invocation of a deployed plugin through the data plane.
//!
//! Must never call another plugin than the one named, whatever the path says, and never send the token elsewhere than to
//! the host's own data plane.

use std::collections::BTreeMap;
use std::io::Read;
use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use reqwest::{Method, Response, Url};
use ringfence_control::wire::HostStatus;
use ringfence_core::TenantId;
use ringfence_core::limits::REQUEST_BODY_BYTES_MAX;
use serde_json::json;

use crate::Format;
use crate::address::Address;
use crate::args::CallArgs;
use crate::client::{Api, Request, http_client, read_body, refusal, unreachable_host};
use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::ui::read_capped;

/// LIMIT: longest wait for an answer; above the longest budget of a plugin and its queue.
const CALL_MAX: Duration = Duration::from_secs(90);
/// LIMIT: largest answer, in bytes; the host's own limit is the same.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Header with the invocation's id.
const INVOCATION: &str = "x-ringfence-invocation";
/// Port of the data plane beside a control plane on its usual port.
const USUAL_PORTS: (&str, &str) = (":7000", ":7001");

/// `ringfence call`.
pub async fn call(cx: &mut Context<'_>, args: &CallArgs) -> Result<Exit, CliError> {
    let headers = args.header.iter().map(|text| parse_header(text)).collect::<Result<Vec<_>, _>>()?;
    let body = read_data(cx, args)?;
    let method = parse_method(args, body.is_some())?;
    let (api, tenant) = cx.tenant().await?;
    let plugins = plugins_address(cx, &api, args).await?;
    let url = plugin_url(&plugins, &tenant, args)?;
    let http = http_client()?;
    let make = async || {
        let mut request = http.request(method.clone(), url.clone()).timeout(CALL_MAX);
        for (name, value) in &headers {
            request = request.header(name, value);
        }
        Ok(match &body {
            Some(body) => request.body(body.clone()),
            None => request,
        })
    };
    let response = if args.anonymous {
        make().await?.send().await.map_err(|error| unreachable_host(&plugins, &error))?
    } else {
        api.send_signed(&plugins, &method, &url, &make).await?
    };
    answer(cx, &plugins, response).await
}

async fn answer(cx: &mut Context<'_>, plugins: &Address, response: Response) -> Result<Exit, CliError> {
    let status = response.status();
    // Every answer that is not the plugin's own is a problem.
    if response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/problem+json"))
    {
        return Err(refusal(response).await);
    }
    let headers = header_map(&response);
    let invocation = headers.get(INVOCATION).cloned();
    let body = read_body(response, ANSWER_BYTES_MAX)
        .await
        .ok_or_else(|| CliError::Unreachable { host: plugins.to_string(), why: "the answer broke off".to_owned() })?;
    match cx.ui.format {
        Format::Json => {
            let text = String::from_utf8_lossy(&body);
            cx.ui.json(&json!({
                "status": status.as_u16(), "headers": headers, "invocation": invocation, "body": text,
            }))?;
        }
        Format::Text => cx.ui.raw(&body)?,
    }
    // The call went through, whatever the plugin made of it; as with curl, its status is not ours.
    if status.as_u16() >= 400 {
        let id = invocation.map(|id| format!(" ({id})")).unwrap_or_default();
        cx.ui.note(&format!("the plugin answered {status}{id}"));
    }
    Ok(Exit::Ok)
}

async fn plugins_address(cx: &Context<'_>, api: &Api, args: &CallArgs) -> Result<Address, CliError> {
    if let Some(text) = &args.plugins_host {
        return Address::parse(text, cx.plain_http());
    }
    match api.send::<HostStatus>(&Request::get("/host")).await {
        Ok(host) => api.host.plugins(&host.value.plugins_address, cx.plain_http()),
        // Who may not see the host's status still knows its usual ports.
        // What else refuses, such as a suspension, would refuse the call too and says so better.
        Err(error) if matches!(error.code(), "denied" | "not-found") => {
            let control = api.host.to_string();
            match control.strip_suffix(USUAL_PORTS.0) {
                Some(machine) => Address::parse(&format!("{machine}{}", USUAL_PORTS.1), cx.plain_http()),
                None => Err(CliError::Usage {
                    code: "no-plugins-host",
                    detail: "the host does not tell this key where its data plane is".to_owned(),
                    help: Some(format!("name it:  ringfence call {} --plugins-host URL", args.plugin)),
                }),
            }
        }
        Err(error) => Err(error),
    }
}

fn plugin_url(plugins: &Address, tenant: &TenantId, args: &CallArgs) -> Result<Url, CliError> {
    let root = format!("/{tenant}/{}", args.plugin);
    let slash = if args.path.starts_with('/') { "" } else { "/" };
    let wrong = || CliError::Usage {
        code: "bad-path",
        detail: format!("`{}` is not a path inside the plugin", args.path.chars().take(120).collect::<String>()),
        help: Some(format!("ringfence call {} /path?query", args.plugin)),
    };
    let url = Url::parse(&plugins.with(&format!("{root}{slash}{}", args.path))).map_err(|_| wrong())?;
    // SECURITY: `/../other` would leave the plugin that was named.
    if url.fragment().is_some() || !url.path().starts_with(&format!("{root}/")) {
        return Err(wrong());
    }
    Ok(url)
}

fn parse_method(args: &CallArgs, has_body: bool) -> Result<Method, CliError> {
    let usual = if has_body { "POST" } else { "GET" };
    let word = args.method.as_deref().unwrap_or(usual).to_ascii_uppercase();
    Method::from_bytes(word.as_bytes()).map_err(|_| CliError::Usage {
        code: "bad-method",
        detail: format!("`{word}` is not an HTTP method"),
        help: None,
    })
}

fn parse_header(text: &str) -> Result<(HeaderName, HeaderValue), CliError> {
    let parsed = text.split_once(':').and_then(|(name, value)| {
        Some((HeaderName::from_bytes(name.trim().as_bytes()).ok()?, HeaderValue::from_str(value.trim()).ok()?))
    });
    // The text itself is not repeated: it may be a credential.
    parsed.ok_or_else(|| CliError::Usage {
        code: "bad-header",
        detail: "a header must be written `name: value`".to_owned(),
        help: Some("--header 'content-type: text/plain'".to_owned()),
    })
}

fn read_data(cx: &mut Context<'_>, args: &CallArgs) -> Result<Option<Vec<u8>>, CliError> {
    let bytes_max = usize::try_from(REQUEST_BODY_BYTES_MAX).unwrap_or(usize::MAX);
    let Some(data) = &args.data else {
        return Ok(None);
    };
    if data == "-" {
        return cx.ui.read_input(bytes_max).map(Some);
    }
    let Some(path) = data.strip_prefix('@').map(std::path::Path::new) else {
        return Ok(Some(data.clone().into_bytes()));
    };
    let mut file = std::fs::File::open(path).map_err(|error| CliError::file("read", path, &error))?;
    read_capped(&mut file as &mut dyn Read, bytes_max, "the body").map(Some)
}

fn header_map(response: &Response) -> BTreeMap<String, String> {
    let mut map: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in response.headers() {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        map.entry(name.to_string()).and_modify(|old| *old = format!("{old}, {value}")).or_insert(value);
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::PlainHttp;

    fn args(path: &str) -> CallArgs {
        CallArgs {
            plugin: "visits".parse().unwrap(),
            path: path.into(),
            method: None,
            data: None,
            header: Vec::new(),
            plugins_host: None,
            anonymous: false,
        }
    }

    #[test]
    fn a_path_never_leaves_its_plugin() {
        let plugins = Address::parse("127.0.0.1:7001", PlainHttp::Loopback).unwrap();
        let tenant: TenantId = "acme".parse().unwrap();
        let url = |path: &str| plugin_url(&plugins, &tenant, &args(path)).map(|url| url.to_string());
        assert_eq!(url("/ada?x=1").unwrap(), "http://127.0.0.1:7001/acme/visits/ada?x=1");
        assert_eq!(url("ada").unwrap(), "http://127.0.0.1:7001/acme/visits/ada");
        assert_eq!(url("/a/../b").unwrap(), "http://127.0.0.1:7001/acme/visits/b");
        for bad in ["/../other/", "/..", "/%2e%2e/other", "../../globex/x/", "/x#y", "\\..\\..\\other\\"] {
            assert_eq!(url(bad).unwrap_err().code(), "bad-path", "{bad}");
        }
    }

    #[test]
    fn a_broken_header_is_not_repeated() {
        let error = parse_header("authorization rfk_canary").unwrap_err();
        assert!(!format!("{error} {:?}", error.help()).contains("canary"));
        assert!(parse_header("x-a: b: c").is_ok());
    }
}
