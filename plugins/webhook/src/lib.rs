//! Takes a webhook signed with a shared secret (`X-Signature: sha256=<hex HMAC of the body>`), and passes the body on to
//! the address in the configuration. A body that the secret does not vouch for is answered with 401 and goes nowhere.

use data_encoding::HEXLOWER_PERMISSIVE;
use hmac::{Hmac, KeyInit, Mac};
use ringfence_sdk::{Config, Context, Http, HttpRequest, Request, Result, Secrets, plugin};
use sha2::Sha256;

#[plugin]
async fn webhook(mut request: Request, config: Config, secrets: Secrets, http: Http) -> Result<(u16, String)> {
    let signature = request.header("x-signature").unwrap_or_default().to_owned();
    let body = request.body().bytes().await?;
    if !is_signed(&secrets.require("webhook-key")?, &body, &signature)? {
        return Ok((401, "bad signature\n".to_owned()));
    }
    let target = config.require("forward-url")?;
    let forward = HttpRequest::post(&target).header("content-type", "application/json").body(body);
    let answer = http.send(forward).await.context("forwarding failed")?;
    Ok((if answer.is_success() { 200 } else { 502 }, format!("forwarded, answered {}\n", answer.status())))
}

fn is_signed(key: &[u8], body: &[u8], signature: &str) -> Result<bool> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key)?;
    mac.update(body);
    let given = signature.strip_prefix("sha256=").and_then(|hex| HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).ok());
    // SECURITY: `verify_slice` compares in constant time.
    Ok(given.is_some_and(|given| mac.verify_slice(&given).is_ok()))
}
