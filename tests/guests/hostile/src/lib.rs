//! Misbehaves in the way its path names, so that tests can watch the host hold. Each arm runs into one budget.
//!
//! Must never be granted anything real: `/egress` fetches whatever it is told to.

use std::hint::black_box;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ringfence_sdk::{Body, Bytes, Http, IntoResponse, Kv, Log, Request, Response, Result, plugin, time};

const PAGE: usize = 64 * 1024;
const MEBIBYTE: usize = 1024 * 1024;
const DRIP_INTERVAL: Duration = Duration::from_millis(100);

static COUNT: AtomicU64 = AtomicU64::new(0);

#[plugin]
async fn hostile(mut request: Request, http: Http, log: Log) -> Result<Response> {
    let path = request.path().to_owned();
    Ok(match path.as_str() {
        "/" | "/ok" => "still well-behaved\n".into_response(),
        // what is left in memory by earlier calls
        "/count" => format!("{}\n", COUNT.fetch_add(1, Ordering::Relaxed) + 1).into_response(),
        // CPU time
        "/spin" => spin(),
        "/recurse" => format!("{}\n", recurse(number(&request, "depth", u64::MAX))).into_response(),
        "/hostcalls" => host_calls(number(&request, "n", u64::MAX)),
        "/early" => early(),
        // memory
        "/memory" => memory(number(&request, "mib", u64::MAX)),
        "/memory-polite" => memory_polite(number(&request, "mib", u64::MAX)),
        "/memory-hold" => {
            let held = vec![1_u8; number::<usize>(&request, "mib", 1) * MEBIBYTE];
            time::sleep(Duration::from_millis(number(&request, "ms", 3_600_000))).await;
            format!("held {} bytes\n", black_box(held).len()).into_response()
        }
        "/allocations" => allocations(number(&request, "n", u64::MAX)),
        // ends
        "/trap" => core::arch::wasm32::unreachable(),
        "/panic" => panic!("a plugin that panics"),
        "/error" => return Err(ringfence_sdk::anyhow!("a plugin that fails")),
        // the answer
        "/huge-response" => huge(number(&request, "bytes", 1 << 30)),
        "/drip" => Response::new(drip()),
        "/echo" => Response::new(request.body()),
        "/swallow" => format!("{} bytes\n", request.body().bytes().await?.len()).into_response(),
        "/forbidden-header" => Response::new("x").header("connection", "keep-alive"),
        // wall time
        "/sleep" => {
            let milliseconds = number(&request, "ms", 3_600_000);
            time::sleep(Duration::from_millis(milliseconds)).await;
            format!("slept {milliseconds} ms\n").into_response()
        }
        // what the host keeps for it
        "/log-flood" => log_flood(&log, &request),
        "/stderr-flood" => stderr_flood(&request),
        "/kv-flood" => kv_flood(&request)?,
        "/kv" => kv(&request),
        // where it may not go
        "/egress" => egress(&http, &request).await,
        "/egress-flood" => egress_flood(&http, &request).await,
        _ => (404, format!("no such misbehaviour: {path}\n")).into_response(),
    })
}

fn number<T: FromStr>(request: &Request, name: &str, default: T) -> T {
    request.query(name).and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn spin() -> ! {
    let mut turns = 0_u64;
    loop {
        turns = black_box(turns.wrapping_add(1));
    }
}

/// Deep enough for the stack to end; the argument keeps the compiler from turning it into a loop.
fn recurse(depth: u64) -> u64 {
    let frame = black_box([depth; 32]);
    if depth == 0 { frame[0] } else { recurse(black_box(depth - 1)) + frame[31] % 2 }
}

/// Calls the host as fast as it can; each call is cheap for the guest.
fn host_calls(count: u64) -> Response {
    for _ in 0..count {
        black_box(Instant::now());
    }
    format!("{count} host calls\n").into_response()
}

/// Answers at once, and goes on computing when the caller has the answer.
fn early() -> Response {
    wstd::runtime::spawn(async {
        time::sleep(Duration::from_millis(20)).await;
        spin()
    })
    .detach();
    "answered early\n".into_response()
}

/// Takes memory a MiB at a time and touches every page; aborts when it is refused, as programs do.
fn memory(mebibytes: u64) -> Response {
    // Pushed one by one: collecting would ask for all of it at once, and panic instead of taking.
    let mut held = Vec::new();
    for _ in 0..mebibytes {
        held.push(black_box(vec![1_u8; MEBIBYTE]));
    }
    format!("took {} MiB\n", held.len()).into_response()
}

/// The same, and says how far it got.
fn memory_polite(mebibytes: u64) -> Response {
    let mut held: Vec<Vec<u8>> = Vec::new();
    for taken in 0..mebibytes {
        let mut block = Vec::new();
        if block.try_reserve_exact(MEBIBYTE).is_err() {
            return format!("refused after {taken} MiB\n").into_response();
        }
        block.resize(MEBIBYTE, 1_u8);
        held.push(black_box(block));
    }
    format!("took {mebibytes} MiB\n").into_response()
}

/// Many small allocations that never end; the allocator aborts when it is refused.
fn allocations(count: u64) -> Response {
    let mut held = Vec::new();
    for number in 0..count {
        held.push(black_box(Box::new(number)));
    }
    format!("{} allocations\n", black_box(held).len()).into_response()
}

fn huge(bytes: u64) -> Response {
    let chunk = Bytes::from(vec![b'x'; PAGE]);
    Response::new(Body::unfold(bytes, move |left| {
        let size = left.min(PAGE as u64);
        let piece = chunk.slice(..size as usize);
        async move { (size > 0).then_some((piece, left - size)) }
    }))
}

fn drip() -> Body {
    Body::unfold((), |()| async {
        time::sleep(DRIP_INTERVAL).await;
        Some((Bytes::from_static(b"."), ()))
    })
}

fn log_flood(log: &Log, request: &Request) -> Response {
    let (count, line) = (number(request, "n", u64::MAX), "x".repeat(number(request, "bytes", 1000)));
    for _ in 0..count {
        log.info(&line);
    }
    format!("{count} lines\n").into_response()
}

fn stderr_flood(request: &Request) -> Response {
    let (count, line) = (number(request, "n", u64::MAX), "x".repeat(number(request, "bytes", 1000)));
    for _ in 0..count {
        eprintln!("{line}");
    }
    format!("{count} lines\n").into_response()
}

fn kv_flood(request: &Request) -> Result<Response> {
    let kv = Kv::bucket("default")?;
    let (count, value) = (number(request, "n", u64::MAX), vec![b'x'; number(request, "bytes", PAGE)]);
    for index in 0..count {
        kv.set(&format!("flood/{index}"), &value)?;
    }
    Ok(format!("{count} values\n").into_response())
}

/// `?key=K&value=V` writes, `?key=K` reads, neither lists; in bucket `?bucket=`, `default` otherwise. What the host
/// refuses is answered with 403 and its words.
fn kv(request: &Request) -> Response {
    let bucket = request.query("bucket").unwrap_or_else(|| "default".to_owned());
    let outcome = Kv::bucket(&bucket).and_then(|kv| match (request.query("key"), request.query("value")) {
        (Some(key), Some(value)) => kv.set(&key, value).map(|()| "written".to_owned()),
        (Some(key), None) => kv.text(&key).map(|value| value.unwrap_or_else(|| "nothing there".to_owned())),
        (None, _) => kv.list_keys().map(|keys| keys.join(",")),
    });
    match outcome {
        Ok(text) => format!("{text}\n").into_response(),
        Err(error) => (403, format!("{error}\n")).into_response(),
    }
}

/// Fetches `?url=` and answers with the status it got, or 502 and the error.
async fn egress(http: &Http, request: &Request) -> Response {
    let url = request.query("url").unwrap_or_default();
    match http.get(&url).await {
        Ok(answer) => format!("status {}\n", answer.status()).into_response(),
        Err(error) => (502, format!("refused: {error:#}\n")).into_response(),
    }
}

async fn egress_flood(http: &Http, request: &Request) -> Response {
    let (url, count) = (request.query("url").unwrap_or_default(), number(request, "n", 1000_u64));
    for done in 0..count {
        if let Err(error) = http.get(&url).await {
            return (502, format!("refused after {done}: {error:#}\n")).into_response();
        }
    }
    format!("{count} requests\n").into_response()
}
