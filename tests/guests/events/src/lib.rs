//! Does in a hook, or with a message, what the payload's `do` says, and counts what it was handed. On time it does nothing.
//! Over HTTP it answers with a counter.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ringfence_sdk::{Kv, Occasion, Queues, Request, Result, bail, hook, plugin, refuse, retry};
use serde_json::{Value, json};

/// Occasions of this instance that asked how many there were.
static SERVED: AtomicU32 = AtomicU32::new(0);

fn served() -> u32 {
    SERVED.fetch_add(1, Ordering::Relaxed) + 1
}

#[plugin]
fn over_http(request: Request, kv: Kv) -> Result<String> {
    Ok(kv.text(request.path().trim_start_matches('/'))?.unwrap_or_else(|| "nothing".to_owned()))
}

#[hook("*")]
fn in_a_hook(payload: Value, occasion: Occasion, kv: Kv, queues: Queues) -> Result<Value> {
    match payload["do"].as_str() {
        Some("veto") => Err(refuse("the payload says so")),
        Some("break") => panic!("the payload says so"),
        Some("hang") => loop {
            std::hint::black_box(0);
        },
        Some("note") => {
            kv.add("noted", 1)?;
            Ok(Value::Null)
        }
        Some("send") => {
            queues.send("work", &json!({ "do": "note" }), ringfence_sdk::Delivery::usual())?;
            Ok(Value::Null)
        }
        Some("grow") => Ok(json!("x".repeat(100_000))),
        Some("served") => Ok(json!(served())),
        Some("version") => {
            let version = occasion.attribute("point-version").unwrap_or("none").to_owned();
            kv.set("version", version.clone())?;
            Ok(json!(version))
        }
        Some("add") => {
            let mut made = payload.clone();
            made["count"] = json!(payload["count"].as_i64().unwrap_or(0) + 1);
            Ok(made)
        }
        _ => Ok(payload),
    }
}

#[plugin(schedule = "*")]
fn on_time() -> Result<()> {
    Ok(())
}

#[plugin(queue = "*")]
fn with_a_message(message: Value, occasion: Occasion, kv: Kv, queues: Queues) -> Result<()> {
    match message["do"].as_str() {
        Some("nothing") => return Ok(()),
        Some("served") => return Ok(kv.set("served", served().to_string())?),
        _ => {}
    }
    kv.add(&format!("attempts-{}", message["name"].as_str().unwrap_or("x")), 1)?;
    match message["do"].as_str() {
        Some("fail") => bail!("the message says so"),
        Some("retry") if occasion.attempt < 3 => return Err(retry("not yet")),
        Some("refuse") => return Err(refuse("the message says so")),
        Some("hang") => loop {
            std::hint::black_box(0);
        },
        Some("slow") => std::thread::sleep(Duration::from_secs(2)),
        Some("take") => drop(std::hint::black_box(vec![1_u8; (message["mib"].as_u64().unwrap_or(0) as usize) << 20])),
        // The same message again, for ever.
        Some("send-on") => {
            queues.send("work", &message, ringfence_sdk::Delivery::usual())?;
        }
        Some("line-up") => line_up(&message, &kv)?,
        Some("meet") => meet(&message, &kv)?,
        Some("mend") if kv.text("mended")?.is_none() => bail!("not mended yet"),
        _ => {}
    }
    kv.add("noted", 1)?;
    Ok(())
}

/// Puts its name behind those that came before it; not before the one that it comes `after`.
fn line_up(message: &Value, kv: &Kv) -> Result<()> {
    let line = kv.text("line")?.unwrap_or_default();
    if message["after"].as_str().is_some_and(|after| !line.split(' ').any(|one| one == after)) {
        return Err(retry("not its turn yet"));
    }
    let name = message["name"].as_str().unwrap_or("x");
    Ok(kv.update("line", |line| [line.unwrap_or_default(), format!("{name} ").into_bytes()].concat())?)
}

/// Stays until `count` of its kind are there together, and keeps the most that ever were.
fn meet(message: &Value, kv: &Kv) -> Result<()> {
    let most =
        |text: Option<Vec<u8>>| text.and_then(|text| String::from_utf8(text).ok()?.parse::<i64>().ok()).unwrap_or(0);
    let here = kv.add("here", 1)?;
    kv.update("most", |before| most(before).max(here).to_string().into_bytes())?;
    loop {
        // Those that are one too many have the time to come in.
        std::thread::sleep(Duration::from_millis(100));
        if Some(most(kv.get("most")?)) >= message["count"].as_i64() {
            break;
        }
    }
    kv.add("here", -1)?;
    Ok(())
}
