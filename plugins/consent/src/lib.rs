//! Consent of people: `PUT /person` takes the reason in the body, `GET /person` says whether it was given. Each giving is an
//! event on the tenant's audit log before it is kept: no entry, no consent.

use ringfence_sdk::{AuditLog, Happening, IntoResponse, Kv, Method, Request, Response, Result, StatusCode, plugin};

#[plugin]
async fn consent(mut request: Request, kv: Kv, audit: AuditLog) -> Result<Response> {
    let person = request.path().trim_start_matches('/').to_owned();
    if *request.method() != Method::PUT {
        let Some(at) = kv.text(&person)? else { return Ok(StatusCode::NOT_FOUND.into_response()) };
        return Ok(at.into_response());
    }
    let reason = request.body().text().await?;
    let seq = audit.put(Happening::new("consent-given", reason).on(format!("person/{person}")))?;
    kv.set(&person, format!("entry {seq}"))?;
    Ok(format!("entry {seq}\n").into_response())
}
