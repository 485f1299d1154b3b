//! An album of large objects: PUT stores an upload, GET serves it or the range that is asked for, GET of `/` lists,
//! DELETE removes. Nothing is ever held whole.

use ringfence_sdk::{Blobs, Context, IntoResponse, Request, Response, Result, plugin};

#[plugin]
async fn album(mut request: Request, blobs: Blobs) -> Result<Response> {
    let name = request.path().trim_start_matches('/').to_owned();
    Ok(match (request.method().as_str(), name.as_str()) {
        ("GET", "") => {
            let mut names = blobs.names()?;
            names.sort();
            names.iter().map(|name| format!("{name}\n")).collect::<String>().into_response()
        }
        (_, "") => (405, "name a picture\n").into_response(),
        ("PUT", name) => {
            let bytes = blobs.put(name, request.body()).await.context("not stored")?;
            (201, format!("{bytes} bytes\n")).into_response()
        }
        ("GET", name) => serve(&blobs, name, request.header("range"))?,
        ("DELETE", name) => blobs.delete(name)?.into_response(),
        _ => (405, "GET, PUT or DELETE\n").into_response(),
    })
}

fn serve(blobs: &Blobs, name: &str, range: Option<&str>) -> Result<Response> {
    let Some(info) = blobs.info(name)? else { return Ok((404, "no such picture\n").into_response()) };
    let Some((first, last)) = range.and_then(|range| parse(range, info.bytes)) else {
        let body = blobs.get(name)?.context("gone")?;
        return Ok(Response::new(body).header("content-length", &info.bytes.to_string()));
    };
    if first > last {
        let whole = format!("bytes */{}", info.bytes);
        return Ok((416, "no such range\n").into_response().header("content-range", &whole));
    }
    let body = blobs.range(name, first, last)?.context("gone")?;
    Ok(Response::new(body)
        .status(206)
        .header("content-length", &(last - first + 1).to_string())
        .header("content-range", &format!("bytes {first}-{last}/{}", info.bytes)))
}

/// The first and last byte of one range (RFC 9110, 14.1.2); the first after the last when there is no such byte.
fn parse(range: &str, bytes: u64) -> Option<(u64, u64)> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let end = bytes.checked_sub(1)?;
    match (first, last) {
        ("", count) => Some((bytes - count.parse::<u64>().ok()?.min(bytes), end)),
        (first, "") => Some((first.parse().ok()?, end)),
        (first, last) => Some((first.parse().ok()?, last.parse::<u64>().ok()?.min(end))),
    }
}
