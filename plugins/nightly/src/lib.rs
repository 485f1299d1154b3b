//! Runs on the schedule `nightly` and counts its nights, each once: a night that is handed over again has the same id.

use ringfence_sdk::{Kv, Log, Occasion, Result, plugin};

#[plugin(schedule = "nightly")]
fn nightly(occasion: Occasion, kv: Kv, log: Log) -> Result<()> {
    if kv.text("last")?.as_deref() == Some(occasion.id.as_str()) {
        log.info(format!("{} was counted before", occasion.at));
        return Ok(());
    }
    let nights = kv.add("nights", 1)?;
    kv.set("last", &occasion.id)?;
    log.info(format!("night {nights}, due at {}", occasion.at));
    Ok(())
}
