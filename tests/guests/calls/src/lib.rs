//! Calls other plugins of its tenant, as its path, a hook's payload or a message says, and is called by them.
//!
//! Must never hide how a call ended: every answer says the status that came back, or the host's refusal.

use std::time::Duration;

use ringfence_sdk::{Http, HttpRequest, IntoResponse, Log, Request, Response, Result, hook, plugin, time};
use serde_json::{Value, json};

#[plugin]
async fn calls(mut request: Request, http: Http, log: Log) -> Result<Response> {
    let path = request.path().to_owned();
    let url = request.query("url").unwrap_or_default();
    log.info(&format!("asked for {path}"));
    if let Some(milliseconds) = number(&request, "ms") {
        time::sleep(Duration::from_millis(milliseconds)).await;
    }
    Ok(match path.as_str() {
        "/" => "here\n".into_response(),
        "/trace" => request.header("traceparent").unwrap_or("no trace").to_owned().into_response(),
        "/echo" => Response::new(request.body()),
        // One call of `url`, with a trace of its own if it is told one.
        "/get" => {
            let mut asked = HttpRequest::get(&url);
            if let Some(trace) = request.query("trace") {
                asked = asked.header("traceparent", &trace);
            }
            said(&http, asked).await.into_response()
        }
        // So many bytes to `url`; how many came back.
        "/post" => {
            let bytes = vec![b'x'; number(&request, "bytes").unwrap_or(0) as usize];
            let answer = http.post(&url, bytes).await?;
            format!("{} {}", answer.status(), answer.bytes().await?.len()).into_response()
        }
        // `n` calls of `url`, one after another.
        "/fan" => {
            let mut told = Vec::new();
            for _ in 0..number(&request, "n").unwrap_or(0) {
                told.push(said(&http, HttpRequest::get(&url)).await);
            }
            told.join("; ").into_response()
        }
        // `left=b.c` calls b, which calls c.
        "/chain" => match request.query("left").filter(|left| !left.is_empty()) {
            None => "end".into_response(),
            Some(left) => {
                let (next, rest) = left.split_once('.').unwrap_or((left.as_str(), ""));
                let url = format!("http://{next}.plugin.internal/chain?left={rest}");
                said(&http, HttpRequest::get(&url)).await.into_response()
            }
        },
        _ => (404, "nothing to do\n").into_response(),
    })
}

#[hook("*")]
async fn in_a_hook(payload: Value, http: Http) -> Result<Value> {
    let url = payload["url"].as_str().unwrap_or_default();
    Ok(json!({ "said": said(&http, HttpRequest::get(url)).await }))
}

#[plugin(queue = "*")]
async fn with_a_message(message: Value, http: Http, log: Log) -> Result<()> {
    let url = message["url"].as_str().unwrap_or_default();
    log.info(&format!("a message heard {}", said(&http, HttpRequest::get(url)).await));
    Ok(())
}

/// Status and text of what came back, or the host's refusal.
async fn said(http: &Http, request: HttpRequest) -> String {
    let answer = match http.send(request).await {
        Ok(answer) => answer,
        Err(error) => return format!("refused: {error:#}"),
    };
    let status = answer.status();
    match answer.text().await {
        Ok(text) => format!("{status} {text}"),
        Err(error) => format!("{status} broken: {error:#}"),
    }
}

fn number(request: &Request, name: &str) -> Option<u64> {
    request.query(name).and_then(|text| text.parse().ok())
}
